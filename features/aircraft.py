"""aircraft_leg: the latest news of each aircraft's flights from here, one row per event.

Rows hold levels, not windows, so they are exact at any instant; what they mean for the next departure is arithmetic at
request time (`features.request_time`). A leg whose aircraft is unknown has no row.
"""

from __future__ import annotations

from datetime import datetime, timedelta
from typing import TYPE_CHECKING

from contrail.windows import utc_literal
from features.declarations import DEPARTURES, FeatureColumn, FeatureTable, published
from features.facts import FACTS_ACCEPTED_FOR, known_facts_sql

if TYPE_CHECKING:
    from duckdb import DuckDBPyConnection, DuckDBPyRelation

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


def aircraft_sql(lo: datetime, hi: datetime) -> str:
    """SQL for the rows with lo <= known_at < hi, over the view ``departures``.

    Raises:
        WindowError: `lo` or `hi` has no zone.
    """
    facts = known_facts_sql(lo, hi)
    return f"""
WITH known AS ({facts}),
legs AS (
  SELECT *, greatest(scheduled_departure_at, schedule_at) AS due_at FROM known WHERE tail_number IS NOT NULL),
events AS (
  SELECT *, unnest([
    CASE WHEN coalesce(departed_at > due_at, true) THEN due_at END, departed_at, arrived_at, cancelled_at
  ]) AS event_at FROM legs),
news AS (SELECT *, greatest(tail_at, event_at) AS news_at FROM events WHERE event_at IS NOT NULL),
latest AS (
  SELECT tail_number, news_at,
    scheduled_departure_at AS aircraft_leg_scheduled_departure_at,
    scheduled_block_minutes AS aircraft_leg_block_minutes,
    CASE WHEN departed_at <= news_at THEN departure_delay_minutes END AS aircraft_leg_departure_delay_minutes,
    CASE WHEN arrived_at <= news_at THEN arrival_delay_minutes END AS aircraft_leg_arrival_delay_minutes,
    coalesce(cancelled_at <= news_at, false) AS aircraft_leg_is_cancelled,
    CASE WHEN arrived_at <= news_at THEN 2 WHEN departed_at <= news_at THEN 1 ELSE 0 END AS aircraft_leg_stage
  FROM news WHERE news_at >= {utc_literal(lo)} AND news_at < {utc_literal(hi)}
  QUALIFY row_number() OVER (
    PARTITION BY tail_number, news_at
    ORDER BY scheduled_departure_at DESC, aircraft_leg_stage DESC, departure_id DESC) = 1)
{published("tail_number", "news_at", ", ".join(_COLUMNS), "latest", utc_literal(lo), utc_literal(hi))}"""


def _build(con: DuckDBPyConnection, lo: datetime, hi: datetime) -> DuckDBPyRelation:
    return con.sql(aircraft_sql(lo, hi))


AIRCRAFT_LEG = FeatureTable(
    name="aircraft_leg", entity="aircraft", keys=("tail_number",), look_back=FACTS_ACCEPTED_FOR,
    max_age=AIRCRAFT_MAX_AGE, grid=None,
    columns=tuple(
        FeatureColumn(name, sql_type, unit, f"{words}.", f"counts from: {rule}, and the assignment's known-at time")
        for name, (sql_type, unit, words, rule) in _COLUMNS.items()
    ),
    description="The latest news of each aircraft's flights from the network's airports: due, departed, landed.",
    sources=(DEPARTURES,), build=_build,
)  # fmt: skip
