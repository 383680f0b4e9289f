"""aircraft_leg: the latest news of each aircraft's flights from here, one row per event.

Rows hold levels, not windows, so they are exact at any instant; what they mean for the next departure is arithmetic at
request time (`features.request_time`). A leg whose aircraft is unknown has no row.
"""

from __future__ import annotations

from datetime import date, datetime, timedelta
from typing import TYPE_CHECKING

from contrail.windows import Revision, utc_literal
from features.corrections import CREATED_BY_THEN, REPLACED_BY_THEN, Corrections, VersionedTable
from features.declarations import DEPARTURES, FeatureColumn, FeatureTable
from features.facts import FACTS_KNOWN_WITHIN, Days, flights_sql, revision

if TYPE_CHECKING:
    from duckdb import DuckDBPyConnection

AIRCRAFT_MAX_AGE = timedelta(days=3)

_COLUMNS: dict[str, tuple[str, str, str, str]] = {
    "aircraft_leg_scheduled_departure_at": (
        "TIMESTAMPTZ", "UTC", "Scheduled departure of the aircraft's last leg", "schedule"),
    "aircraft_leg_block_minutes": ("INTEGER", "minutes", "Scheduled gate-to-gate time of that leg", "schedule"),
    "aircraft_leg_departure_delay_minutes": (
        "INTEGER", "minutes", "Departure delay of that leg; null until it departed", "departure"),
    "aircraft_leg_arrival_delay_minutes": (
        "INTEGER", "minutes", "Arrival delay of that leg; null until it landed", "arrival"),
    "aircraft_leg_is_cancelled": (
        "BOOLEAN", "yes/no", "Whether that leg was cancelled", "scheduled departure of the cancelled leg"),
    "aircraft_leg_stage": ("INTEGER", "stage", "0 due or cancelled, 1 departed, 2 landed", "the event itself"),
}  # fmt: skip


_NAMES = ", ".join(_COLUMNS)
# The news that answers: of one instant that of the later leg.
_NEWEST = "scheduled_departure_at DESC, aircraft_leg_stage DESC, departure_id DESC"


def _news_sql(days: Days, *, corrected: bool) -> str:
    """SQL of CTEs: ``flights``, and ``news``, one row per event of a version of a leg, as the leg stood then."""
    return f"""flights AS ({flights_sql(days, corrected=corrected)}),
events AS (
  SELECT *, unnest([
    CASE WHEN coalesce(departed_known_at > due_at, true) THEN due_at END,
    departed_known_at, arrived_known_at, cancelled_known_at
  ]) AS event_at FROM flights WHERE tail_number IS NOT NULL AND NOT is_retracted),
stood AS (SELECT *, greatest(tail_known_at, event_at) AS news_at FROM events WHERE event_at IS NOT NULL),
news AS (
  SELECT tail_number, departure_id, scheduled_departure_at, news_at, version_at, valid_from, valid_to,
    scheduled_departure_at AS aircraft_leg_scheduled_departure_at,
    scheduled_block_minutes AS aircraft_leg_block_minutes,
    CASE WHEN departed_known_at <= news_at THEN departure_delay_minutes END AS aircraft_leg_departure_delay_minutes,
    CASE WHEN arrived_known_at <= news_at THEN arrival_delay_minutes END AS aircraft_leg_arrival_delay_minutes,
    coalesce(cancelled_known_at <= news_at, false) AS aircraft_leg_is_cancelled,
    CASE WHEN arrived_known_at <= news_at THEN 2 WHEN departed_known_at <= news_at THEN 1 ELSE 0 END
      AS aircraft_leg_stage
  FROM stood)"""


def _as_known_then(days: Days, lo: datetime, hi: datetime, corrected: bool) -> str:
    return f"""
WITH {_news_sql(days, corrected=corrected)}
SELECT tail_number, news_at AS known_at, news_at AS created_at, {_NAMES} FROM news
WHERE news_at >= {utc_literal(lo)} AND news_at < {utc_literal(hi)}
  AND coalesce(valid_from <= news_at, true) AND coalesce(news_at < valid_to, true)
QUALIFY row_number() OVER (PARTITION BY tail_number, news_at ORDER BY {_NEWEST}) = 1"""


def _as_known_since(group: Corrections, lo: datetime, hi: datetime) -> str:
    # Where a row was and no longer is, the news before it answers, for as long as the row would have.
    max_age = f"INTERVAL {AIRCRAFT_MAX_AGE // timedelta(minutes=1)} MINUTE"
    return f"""
WITH {_news_sql(group.days, corrected=True)},
corrections AS ({group.sql}),
changed AS (
  SELECT c.corrected_at, n.tail_number, n.news_at FROM corrections c
  JOIN news n ON n.departure_id = c.departure_id AND n.version_at IN (c.corrected_at, c.earlier_at)),
instants AS (
  FROM changed
  UNION
  SELECT s.corrected_at, s.tail_number, e.news_at FROM changed s JOIN news e USING (tail_number)
  WHERE e.news_at BETWEEN s.news_at AND s.news_at + {max_age}
    AND {CREATED_BY_THEN} AND (e.valid_from IS NOT NULL OR {REPLACED_BY_THEN})),
wanted AS (
  FROM instants WHERE news_at < corrected_at AND news_at >= {utc_literal(lo)} AND news_at < {utc_literal(hi)}),
known AS (
  SELECT s.corrected_at, s.news_at AS answers_at, e.* FROM wanted s JOIN news e ON e.tail_number = s.tail_number
    AND e.news_at <= s.news_at AND e.news_at > s.news_at - {max_age}
    AND {CREATED_BY_THEN} AND NOT {REPLACED_BY_THEN}
  QUALIFY row_number() OVER (
    PARTITION BY e.tail_number, s.corrected_at, s.news_at ORDER BY e.news_at DESC, {_newest_of("e")}) = 1)
SELECT w.tail_number, w.news_at AS known_at, w.corrected_at AS created_at, {_NAMES}
FROM wanted w LEFT JOIN known k
  ON k.tail_number = w.tail_number AND k.corrected_at = w.corrected_at AND k.answers_at = w.news_at"""


def _newest_of(alias: str) -> str:
    return ", ".join(f"{alias}.{term}" for term in _NEWEST.split(", "))


_TABLE = VersionedTable(("tail_number",), tuple(_COLUMNS), AIRCRAFT_MAX_AGE, _as_known_then, _as_known_since)


def _revise(
    con: DuckDBPyConnection, days: tuple[date, date] | None, built_until: datetime
) -> Revision | None:
    return revision(con, AIRCRAFT_MAX_AGE, days, built_until)


AIRCRAFT_LEG = FeatureTable(
    name="aircraft_leg", entity="aircraft", keys=("tail_number",), look_back=AIRCRAFT_MAX_AGE + FACTS_KNOWN_WITHIN,
    max_age=AIRCRAFT_MAX_AGE, grid=None,
    columns=tuple(
        FeatureColumn(name, sql_type, unit, f"{words}.", f"counts from: {rule}, and the assignment's known-at time")
        for name, (sql_type, unit, words, rule) in _COLUMNS.items()
    ),
    description="The latest news of each aircraft's flights from the network's airports: due, departed, landed.",
    sources=(DEPARTURES,), build=_TABLE.build, revise=_revise,
)  # fmt: skip
