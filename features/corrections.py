"""Tables made of departures, every correction included as further versions of the rows that it changes.

A table says two things in SQL: its rows as they were known then, and, for some corrections, its rows at earlier
instants as they are known since. `build` puts them together.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import TYPE_CHECKING

from contrail.windows import utc_literal
from features.declarations import published
from features.facts import FACTS_KNOWN_BEFORE, FACTS_KNOWN_WITHIN, IRREGULAR, Days, days_known_in

if TYPE_CHECKING:
    from duckdb import DuckDBPyConnection, DuckDBPyRelation

CORRECTIONS_AT_ONCE = 16
_CORRECTED = "corrected_"
# What is true of a version `e` of a departure at `corrected_at` of `s`: it was there, and it was replaced by then.
CREATED_BY_THEN = "e.version_at <= s.corrected_at"
REPLACED_BY_THEN = "coalesce(e.valid_to <= s.corrected_at, false)"

_table_numbers = itertools.count()


@dataclass(frozen=True)
class Corrections:
    """Some instants at which versions were created that change what was known, and what they need to be computed.

    Attributes:
        instants: the `created_at` of those versions.
        days: the service dates whose departures can matter to the values that they change.
    """

    instants: tuple[datetime, ...]
    days: Days

    @property
    def sql(self) -> str:
        """SQL over ``flights`` (`features.facts.flights_sql`): `departure_id`, `corrected_at`, and `earlier_at`, the
        version before it (null where there was none)."""
        instants = ", ".join(utc_literal(at) for at in self.instants)
        return f"""SELECT departure_id, version_at AS corrected_at, earlier_at FROM (
    SELECT departure_id, version_at, valid_from,
      lag(version_at) OVER (PARTITION BY departure_id ORDER BY version_at) AS earlier_at
    FROM flights WHERE is_limited)
  WHERE valid_from IN ({instants})"""


@dataclass(frozen=True)
class VersionedTable:
    """A table in SQL.

    Attributes:
        keys: the key columns.
        values: the feature columns.
        reach: how long after a fact a row still depends on it.
        as_known_then: (days, lo, hi, whether some departure has several versions) → SELECT of keys, `known_at`,
            `created_at` and values for lo <= known_at < hi, over the view ``departures``.
        as_known_since: (corrections, lo, hi) → the same for the instants before each correction that it changes.
    """

    keys: Sequence[str]
    values: Sequence[str]
    reach: timedelta
    as_known_then: Callable[[Days, datetime, datetime, bool], str]
    as_known_since: Callable[[Corrections, datetime, datetime], str]

    def build(
        self, con: DuckDBPyConnection, lo: datetime, hi: datetime, created_from: datetime | None = None
    ) -> DuckDBPyRelation:
        """The rows with lo <= known_at < hi, of versions created at `created_from` or later.

        Raises:
            WindowError: an instant has no zone.
        """
        days = days_known_in(lo - self.reach, hi)
        groups = corrections(con, days, self.reach)
        rows = self.as_known_then(days, lo, hi, bool(groups))
        if groups:
            corrected = f"{_CORRECTED}{next(_table_numbers)}"
            for number, group in enumerate(groups):
                begin = f"INSERT INTO {corrected}" if number else f"CREATE TEMP TABLE {corrected} AS"
                con.execute(f"{begin} {self.as_known_since(group, lo, hi)}")
            only_later = created_from is not None and created_from >= hi
            rows = f"FROM {corrected}" if only_later else f"({rows}) UNION ALL (FROM {corrected})"
        return con.sql(published(self.keys, self.values, f"({rows})", lo, hi, created_from))


def let_go(con: DuckDBPyConnection) -> None:
    """Drop what builds have left in a session that goes on; what they returned has to be read before."""
    left = con.sql(
        f"SELECT table_name FROM duckdb_tables() WHERE temporary AND starts_with(table_name, '{_CORRECTED}')"
    ).fetchall()
    for (name,) in left:
        con.execute(f"DROP TABLE {name}")


def corrections(con: DuckDBPyConnection, days: Days, reach: timedelta) -> tuple[Corrections, ...]:
    """The corrections among some service dates, a few at a time, in the order of the dates that they change.

    Args:
        con: a session with the view ``departures``.
        reach: how long after a fact a row still depends on it.
    """
    found = con.sql(
        f"SELECT created_at, min(service_date), max(service_date) FROM departures WHERE {days.condition} "
        f"AND {IRREGULAR} GROUP BY 1 ORDER BY 2, 1"
    ).fetchall()
    # What a departure changes lies within `reach` after its facts, and depends on facts within `reach` before that.
    around = reach + FACTS_KNOWN_BEFORE + FACTS_KNOWN_WITHIN + timedelta(days=1)
    groups: list[Corrections] = []
    for start in range(0, len(found), CORRECTIONS_AT_ONCE):
        part = found[start : start + CORRECTIONS_AT_ONCE]
        touched = Days(min(row[1] for row in part) - around, max(row[2] for row in part) + around)
        groups.append(Corrections(tuple(row[0] for row in part), touched.within(days)))
    return tuple(groups)
