"""Tables whose values are defined on a grid, with every correction as further versions of the instants it changes.

Two kinds of rows come out of one set of events:

* the value at a grid instant as it was known then: an event counts from its own instant or from the creation of its
  version, whichever is later, and until the version is replaced;
* for each correction, the value *at earlier instants* as it is known since: at every instant of the old and of the new
  events between the first that differs and the end of the last window that it reaches. An instant at which only the
  old version had an event needs its row too, or the stale one would go on answering.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta

from contrail.windows import NEVER, Grid, Total, running_totals_sql
from features.corrections import CREATED_BY_THEN, REPLACED_BY_THEN, Corrections, VersionedTable
from features.facts import Days, flights_sql


@dataclass(frozen=True)
class Event:
    """What happens to a flight at an instant, as amounts that are added up.

    Attributes:
        at: SQL of the instant, over the columns of `features.facts.flights_sql`.
        where: SQL condition under which it happens.
        amounts: amount → SQL; those left out are 0.
    """

    at: str
    where: str
    amounts: Mapping[str, str]


@dataclass(frozen=True)
class GridTable:
    """A table of totals over windows.

    Attributes:
        keys: the key columns.
        grid: the instants.
        longest: the longest window.
        amounts: all amounts, in order.
        events: what is added up.
        totals: the windows.
        values: column → SQL over the totals.
    """

    keys: tuple[str, ...]
    grid: Grid
    longest: timedelta
    amounts: tuple[str, ...]
    events: tuple[Event, ...]
    totals: tuple[Total, ...]
    values: Mapping[str, str]

    @property
    def reach(self) -> timedelta:
        """How long after an event a value still depends on it."""
        return self.longest + self.grid.step

    def versioned(self) -> VersionedTable:
        """The table with its corrections."""
        return VersionedTable(
            self.keys, tuple(self.values), self.reach, self._as_known_then, self._as_known_since
        )

    def _as_known_then(self, days: Days, lo: datetime, hi: datetime, corrected: bool) -> str:
        limited = f"(SELECT {self._key_list}, n, from_n, until_n, {self._amount_list} FROM limited)"
        totals = running_totals_sql("regular", self.keys, self.totals, limited=limited if corrected else None)
        instant = self.grid.instant_sql("n")
        return f"""
WITH {self._events_sql(days, corrected=corrected)},
totals AS ({totals})
SELECT {self._key_list}, {instant} AS known_at, {instant} AS created_at, {self._value_list}
FROM totals WHERE n >= {self.grid.number(lo)} AND n < {self.grid.number(hi)}"""

    def _as_known_since(self, group: Corrections, lo: datetime, hi: datetime) -> str:
        steps = self.grid.steps(self.longest)
        shifts = sorted({total.steps for total in self.totals if total.steps is not None})
        left = ", ".join(f"e.n + {shift}" for shift in shifts)
        keys = [f"e.{key}" for key in self.keys]
        amounts = ", ".join(f"e.{name}" for name in self.amounts)
        differ = " OR ".join(f"sum(sign * {name}) <> 0" for name in self.amounts)
        same_keys = " AND ".join(f"e.{key} = s.{key}" for key in self.keys)
        here = f"e JOIN spans s ON {same_keys} WHERE e.n <= s.last_n"
        known = f"{here} AND {CREATED_BY_THEN}"
        same_change = " AND ".join(f"t.{key} = c.{key}" for key in self.keys)
        instant = self.grid.instant_sql("t.n")
        # Between two changes a level differs for as long as the changes up to there do not cancel out.
        levelled = sorted({total.source for total in self.totals if total.steps is None})
        levels = ", ".join(f"sum(sign * {name}) AS {name}" for name in levelled) or "0 AS nothing"
        is_open = " OR ".join(f"sum(sum({name})) OVER until_here <> 0" for name in levelled) or "false"
        return f"""
WITH {self._events_sql(group.days, corrected=True)},
corrections AS ({group.sql}),
versions AS (
  SELECT c.departure_id, c.corrected_at, 1 AS sign, e.* EXCLUDE (departure_id) FROM corrections c
  JOIN limited e ON e.departure_id = c.departure_id AND e.version_at = c.corrected_at
  UNION ALL
  SELECT c.departure_id, c.corrected_at, -1 AS sign, e.* EXCLUDE (departure_id) FROM corrections c
  JOIN limited e ON e.departure_id = c.departure_id AND e.version_at = c.earlier_at),
differing AS (
  SELECT corrected_at, {self._key_list}, n, {levels} FROM versions
  GROUP BY departure_id, corrected_at, {self._key_list}, n HAVING {differ}),
reached AS (
  SELECT corrected_at, {self._key_list}, n, {is_open} AS is_open FROM differing
  GROUP BY corrected_at, {self._key_list}, n
  WINDOW until_here AS (PARTITION BY corrected_at, {self._key_list} ORDER BY n)),
spans AS (
  SELECT corrected_at, {self._key_list}, max(n) + {steps} AS last_n
  FROM differing GROUP BY corrected_at, {self._key_list}),
known AS (
  SELECT s.corrected_at, {", ".join(keys)}, e.n, {amounts} FROM regular {here}
  UNION ALL
  SELECT s.corrected_at, {", ".join(keys)}, e.n, {amounts} FROM limited {known} AND NOT {REPLACED_BY_THEN}
  UNION ALL
  SELECT s.corrected_at, {", ".join(keys)}, unnest(list_filter(CASE WHEN {REPLACED_BY_THEN}
    THEN [e.n, e.from_n, e.until_n, {left}] ELSE [e.from_n] END, lambda x: x <= e.n + {steps})),
    {", ".join("0" for _ in self.amounts)} FROM limited {known}),
totals AS ({running_totals_sql("known", ("corrected_at", *self.keys), self.totals)})
SELECT {", ".join(f"t.{key}" for key in self.keys)}, {instant} AS known_at, t.corrected_at AS created_at,
  {self._value_list}
FROM totals t ASOF JOIN reached c ON t.corrected_at = c.corrected_at AND {same_change} AND t.n >= c.n
WHERE (t.n <= c.n + {steps} OR c.is_open) AND {instant} < t.corrected_at
  AND t.n >= {self.grid.number(lo)} AND t.n < {self.grid.number(hi)}"""

    def _events_sql(self, days: Days, *, corrected: bool) -> str:
        number = self.grid.number_sql
        versions = f"""departure_id, version_at, valid_to,
    CASE WHEN valid_from IS NULL THEN 0 ELSE {number("valid_from")} END AS from_n,
    CASE WHEN valid_to IS NULL THEN {NEVER} ELSE {number("valid_to")} END AS until_n, """
        regular = self._union("", "NOT is_retracted AND NOT is_limited" if corrected else "NOT is_retracted")
        sql = f"flights AS ({flights_sql(days, corrected=corrected)}),\nregular AS ({regular})"
        if corrected:
            sql += f",\nlimited AS ({self._union(versions, 'NOT is_retracted AND is_limited')})"
        return sql

    def _union(self, more: str, where: str) -> str:
        return " UNION ALL ".join(
            f"SELECT {more}{self._key_list}, {self.grid.number_sql(event.at)} AS n, "
            + ", ".join(f"{event.amounts.get(name, '0')} AS {name}" for name in self.amounts)
            + f" FROM flights WHERE {where} AND {event.where}"
            for event in self.events
        )

    @property
    def _key_list(self) -> str:
        return ", ".join(self.keys)

    @property
    def _amount_list(self) -> str:
        return ", ".join(self.amounts)

    @property
    def _value_list(self) -> str:
        return ", ".join(f"{sql} AS {name}" for name, sql in self.values.items())
