"""What is known of each departure, version by version, and when each version counts.

A clean row is one version of a departure: everything that is known of it once files up to `created_at` have come. The
first version of a regular file counts from the beginning; a late file, a replacement or a correction adds a version
that counts from its own `created_at` on and ends the one before it. So a question at an instant has two answers to
keep apart: what had *happened* by then (each fact's own known-at time), and what had been *delivered* by then (the
version that is valid). Feature tables hold both: the value at an instant as it was known then (`created_at` =
`known_at`), and, for every later delivery that changes it, the value as it is known since (`created_at` = delivery).
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta
from typing import TYPE_CHECKING

from contrail.windows import Revision, utc_literal

if TYPE_CHECKING:
    from duckdb import DuckDBPyConnection

# Every fact of a departure is known before this after its service date (00:00 UTC): the clean stage reads the feeds up
# to 07:00 UTC three days later. It bounds what a build reads; how late a *correction* comes is not bounded.
FACTS_KNOWN_WITHIN = timedelta(days=4)
# The schedule and the first assignments are known from the evening before the service date on.
FACTS_KNOWN_BEFORE = timedelta(days=1)
# A flight that neither departed nor was cancelled, as far as is known, is no longer waiting after this. A diversion
# ends no waiting: by its known-at rule it can be known before a very late departure is.
QUEUE_LIMIT = timedelta(hours=36)
OVER_DUE = timedelta(minutes=15)

_COLUMNS = (
    "departure_id", "carrier", "flight_number", "origin", "dest", "scheduled_departure_at", "scheduled_block_minutes",
    "tail_number", "tail_known_at", "departed_known_at", "departure_delay_minutes", "arrived_known_at",
    "arrival_delay_minutes", "cancelled_known_at", "outcome_known_at", "is_disrupted", "is_retracted",
)  # fmt: skip
_FACTS_KNOWN = (
    "tail_known_at",
    "departed_known_at",
    "arrived_known_at",
    "cancelled_known_at",
    "outcome_known_at",
)
# A version that did not come on its feed's regular time.
IRREGULAR = "(is_retracted OR created_at > schedule_known_at)"


@dataclass(frozen=True)
class Days:
    """Service dates, both included."""

    first: date
    last: date

    @property
    def condition(self) -> str:
        """SQL: literals, so that a scan of the lake opens only the days it needs."""
        return f"service_date BETWEEN DATE '{self.first}' AND DATE '{self.last}'"

    def within(self, other: Days) -> Days:
        return Days(max(self.first, other.first), min(self.last, other.last))


def days_known_in(first: datetime, hi: datetime) -> Days:
    """The service dates of all departures of which a fact is known in [first, hi)."""
    return Days(
        (first - FACTS_KNOWN_WITHIN).astimezone(UTC).date(), (hi + FACTS_KNOWN_BEFORE).astimezone(UTC).date()
    )


def flights_sql(days: Days, *, corrected: bool) -> str:
    """SQL for the versions of all departures of some service dates, over the view ``departures``.

    Args:
        corrected: whether some departure has a version beside its regular one; without that nothing needs ordering.

    Returns:
        A SELECT of the facts, and: `due_at`, `overdue_at`, `gone_at` (when a flight enters the queues and leaves
        them), `network`, `version_at` (the version's created_at), `is_limited` (whether the departure has several
        versions or an irregular one), `valid_from` and `valid_to` (null: without limit).
    """
    facts = f"""{", ".join(_COLUMNS)}, 'all' AS network,
    greatest(scheduled_departure_at, schedule_known_at) AS due_at,
    greatest(scheduled_departure_at + INTERVAL {_minutes(OVER_DUE)} MINUTE, schedule_known_at) AS overdue_at,
    least(departed_known_at, arrived_known_at, cancelled_known_at,
      scheduled_departure_at + INTERVAL {_minutes(QUEUE_LIMIT)} MINUTE) AS gone_at, created_at AS version_at"""
    unlimited = "false AS is_limited, NULL::TIMESTAMPTZ AS valid_from, NULL::TIMESTAMPTZ AS valid_to"
    scanned = f"(SELECT * FROM departures WHERE {days.condition})"
    if not corrected:
        return f"SELECT {facts}, {unlimited} FROM {scanned}"
    irregular = f"(SELECT DISTINCT departure_id FROM {scanned} WHERE {IRREGULAR})"
    return f"""SELECT {facts}, {unlimited} FROM {scanned} ANTI JOIN {irregular} USING (departure_id)
  UNION ALL
  SELECT {facts}, true, CASE WHEN {IRREGULAR} THEN created_at END,
    lead(created_at) OVER (PARTITION BY departure_id ORDER BY created_at)
  FROM {scanned} SEMI JOIN {irregular} USING (departure_id)"""


def revision(
    con: DuckDBPyConnection, reach: timedelta, days: tuple[date, date] | None, built_until: datetime
) -> Revision | None:
    """Which part of a table changes by versions that came since it was built.

    A version of a late or correcting file changes what is known from its creation on. A regular one that was not there
    (its day was held back, because another file of it was blocked) belongs to what was known then; so does a regular
    fact that a version did not have (its day was held back after it had been built once).

    Args:
        con: a session with the views ``departures`` and ``departures_before``, what was built from.
        reach: how long after a fact a value still depends on it.
        days: the service dates that were written since; None: any.
        built_until: the exclusive end of what is built.
    """
    among = Days(*days).condition if days else "true"
    before = ", ".join(f"{at} AS {at}_before" for at in _FACTS_KNOWN)
    others = ", ".join(
        f"CASE WHEN {at} IS DISTINCT FROM {at}_before THEN least({at}, {at}_before) END"
        for at in _FACTS_KNOWN
    )
    first = "least(departed_known_at, arrived_known_at, cancelled_known_at, outcome_known_at, scheduled_departure_at)"
    row = con.sql(
        f"""SELECT min(service_date), max(service_date), min(changes_from) FROM (
          SELECT service_date, was_there IS NULL AND {IRREGULAR} AS is_correction,
            CASE WHEN is_correction THEN created_at
              WHEN was_there IS NULL THEN greatest(schedule_known_at, {first})
              WHEN least({others}) IS NOT NULL THEN greatest(created_at, least({others})) END AS changes_from
          FROM (FROM departures WHERE {among}) LEFT JOIN (
            SELECT departure_id, created_at, true AS was_there, {before} FROM departures_before WHERE {among})
          USING (departure_id, created_at))
        WHERE is_correction OR changes_from < {utc_literal(built_until)}"""
    ).fetchone()
    if row is None or row[0] is None:
        return None
    return Revision(
        lo=_midnight(row[0]) - FACTS_KNOWN_BEFORE,
        hi=_midnight(row[1]) + FACTS_KNOWN_WITHIN + reach,
        created_from=row[2],
    )


def _midnight(day: date) -> datetime:
    return datetime(day.year, day.month, day.day, tzinfo=UTC)


def _minutes(span: timedelta) -> int:
    return span // timedelta(minutes=1)
