"""State tables: what is going on at a scope at each quarter of an hour.

One builder serves five scopes. A flight waits from its scheduled departure (or from when its schedule became known)
until it departs, is cancelled, or 36 h have passed; that it waits is derived from the schedule and the instant, never
from the later event, so rows do not depend on what happens after them.
"""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime, timedelta
from typing import TYPE_CHECKING

from contrail.windows import Grid, Total, running_totals_sql, smoothed_ratio_sql, utc_literal
from features.declarations import DEPARTURES, FeatureColumn, FeatureTable, published
from features.facts import FACTS_ACCEPTED_FOR, OVER_DUE, known_facts_sql

if TYPE_CHECKING:
    from duckdb import DuckDBPyConnection, DuckDBPyRelation

STATE_GRID = Grid(timedelta(minutes=15))
LONGEST_WINDOW = timedelta(hours=24)
# Whoever needs a row's value later than this after it finds the prior there: by then every queue and window is empty.
STATE_MAX_AGE = timedelta(days=3)
SHARE_PRIOR = 0.25
DELAY_PRIOR_MINUTES = 5.0
# Arrival delays enter a mean between these, so that one stranded flight does not make it.
DELAY_FLOOR_MINUTES, DELAY_CEILING_MINUTES = -60, 240
LATE_FROM_MINUTES = 15

SCOPES: Mapping[str, tuple[tuple[str, ...], str]] = {
    "network": (("network",), "all flights of the network"),
    "origin": (("origin",), "flights from this airport"),
    "carrier": (("carrier",), "flights of this carrier"),
    "carrier_origin": (("carrier", "origin"), "flights of this carrier from this airport"),
    "dest": (("dest",), "flights to this airport"),
}

_DEPARTED = "counts from the departure's known-at time"
_LANDED = "counts from the arrival's known-at time"
_OUTCOME = (
    "counts from when the outcome is known: the arrival, or scheduled arrival + 15 min without one, "
    "the scheduled departure of a cancelled flight, scheduled arrival + 15 min of a diverted one"
)
# metric: (SQL over the totals, type, unit, words, known-at rule, window, prior)
_METRICS: Mapping[str, tuple[str, str, str, str, str, str, float | int]] = {
    "departures_waiting": (
        "waiting::INTEGER", "INTEGER", "flights", "Scheduled by now, neither departed nor cancelled",
        ("enters at the scheduled departure unless departed or cancelled by then; leaves when departed or cancelled, "
         "or after 36 h"), "", 0,
    ),
    "departures_waiting_over_15min": (
        "waiting_over::INTEGER", "INTEGER", "flights", "Still waiting more than 15 min after the scheduled departure",
        "enters at scheduled departure + 15 min unless departed or cancelled by then", "", 0,
    ),
    "departures_waiting_change_60min": (
        "waiting_60::INTEGER", "INTEGER", "flights", "Waiting flights now less those waiting 60 min ago",
        "as departures_waiting", "60 min", 0,
    ),
    "late_departure_share_60min": (
        smoothed_ratio_sql("late_60", "departed_60", 2, SHARE_PRIOR), "DOUBLE", "share",
        "Departed 15 min late or later, of all departed (m = 2, prior 0.25)", _DEPARTED, "60 min", SHARE_PRIOR,
    ),
    "late_departure_share_180min": (
        smoothed_ratio_sql("late_180", "departed_180", 2, SHARE_PRIOR), "DOUBLE", "share",
        "Departed 15 min late or later, of all departed (m = 2, prior 0.25)", _DEPARTED, "180 min", SHARE_PRIOR,
    ),
    "cancellations_6h": (
        "cancelled_6h::INTEGER", "INTEGER", "flights", "Cancelled flights",
        "counts from the scheduled departure of the cancelled flight", "6 h", 0,
    ),
    "arrival_delay_mean_180min": (
        smoothed_ratio_sql("delay_180", "landed_180", 2, DELAY_PRIOR_MINUTES), "DOUBLE", "minutes",
        "Mean arrival delay, each between -60 and 240 (m = 2, prior 5)", _LANDED, "180 min", DELAY_PRIOR_MINUTES,
    ),
    "disrupted_share_6h": (
        smoothed_ratio_sql("disrupted_6h", "outcomes_6h", 3, SHARE_PRIOR), "DOUBLE", "share",
        "Disrupted, of all flights whose outcome became known (m = 3, prior 0.25)", _OUTCOME, "6 h", SHARE_PRIOR,
    ),
    "disrupted_share_12h": (
        smoothed_ratio_sql("disrupted_12h", "outcomes_12h", 3, SHARE_PRIOR), "DOUBLE", "share",
        "Disrupted, of all flights whose outcome became known (m = 3, prior 0.25)", _OUTCOME, "12 h", SHARE_PRIOR,
    ),
    "disrupted_share_24h": (
        smoothed_ratio_sql("disrupted_24h", "outcomes_24h", 5, SHARE_PRIOR), "DOUBLE", "share",
        "Disrupted, of all flights whose outcome became known (m = 5, prior 0.25)", _OUTCOME, "24 h", SHARE_PRIOR,
    ),
    "arrival_delay_mean_24h": (
        smoothed_ratio_sql("delay_24h", "landed_24h", 5, DELAY_PRIOR_MINUTES), "DOUBLE", "minutes",
        "Mean arrival delay, each between -60 and 240 (m = 5, prior 5)", _LANDED, "24 h", DELAY_PRIOR_MINUTES,
    ),
}  # fmt: skip


def _steps(**length: float) -> int:
    return STATE_GRID.steps(timedelta(**length))


_TOTALS = (
    Total("waiting", "queue"),
    Total("waiting_over", "overdue"),
    Total("waiting_60", "queue", _steps(minutes=60)),
    Total("departed_60", "departed", _steps(minutes=60)),
    Total("late_60", "departed_late", _steps(minutes=60)),
    Total("departed_180", "departed", _steps(minutes=180)),
    Total("late_180", "departed_late", _steps(minutes=180)),
    Total("cancelled_6h", "cancelled", _steps(hours=6)),
    Total("landed_180", "landed", _steps(minutes=180)),
    Total("delay_180", "delay", _steps(minutes=180)),
    Total("outcomes_6h", "outcomes", _steps(hours=6)),
    Total("disrupted_6h", "disrupted", _steps(hours=6)),
    Total("outcomes_12h", "outcomes", _steps(hours=12)),
    Total("disrupted_12h", "disrupted", _steps(hours=12)),
    Total("outcomes_24h", "outcomes", _steps(hours=24)),
    Total("disrupted_24h", "disrupted", _steps(hours=24)),
    Total("landed_24h", "landed", _steps(hours=24)),
    Total("delay_24h", "delay", _steps(hours=24)),
)
_AMOUNTS = (
    "queue",
    "overdue",
    "departed",
    "departed_late",
    "cancelled",
    "landed",
    "delay",
    "outcomes",
    "disrupted",
)
LOOK_BACK = LONGEST_WINDOW + STATE_GRID.step + FACTS_ACCEPTED_FOR


def clipped_delay_sql(delay: str) -> str:
    """SQL for an arrival delay as it enters a mean, minutes."""
    return f"greatest({DELAY_FLOOR_MINUTES}, least({DELAY_CEILING_MINUTES}, {delay}))"


def state_sql(scope: str, lo: datetime, hi: datetime) -> str:
    """SQL for the rows of one scope's state table with lo <= known_at < hi, over the view ``departures``.

    Raises:
        KeyError: the scope is unknown.
        WindowError: `lo` or `hi` has no zone.
    """
    keys, _ = SCOPES[scope]
    facts = known_facts_sql(lo - LONGEST_WINDOW - STATE_GRID.step, hi)
    late = f"(departure_delay_minutes >= {LATE_FROM_MINUTES})::INTEGER"
    events = " UNION ALL ".join(
        _event(keys, at, where, **amounts)
        for at, where, amounts in (
            ("due_at", "due_at < gone_at", {"queue": "1"}),
            ("overdue_at", "overdue_at < gone_at", {"overdue": "1"}),
            ("gone_at", "due_at < gone_at", {"queue": "-1", "overdue": "-(overdue_at < gone_at)::INTEGER"}),
            ("departed_at", "departed_at IS NOT NULL", {"departed": "1", "departed_late": late}),
            ("cancelled_at", "cancelled_at IS NOT NULL", {"cancelled": "1"}),
            ("arrived_at", "arrived_at IS NOT NULL AND arrival_delay_minutes IS NOT NULL",
             {"landed": "1", "delay": clipped_delay_sql("arrival_delay_minutes")}),
            ("outcome_at", "outcome_at IS NOT NULL", {"outcomes": "1", "disrupted": "is_disrupted::INTEGER"}),
        )
    )  # fmt: skip
    values = ", ".join(f"{metric[0]} AS {scope}_{name}" for name, metric in _METRICS.items())
    return f"""
WITH known AS ({facts}),
flights AS (
  SELECT *, 'all' AS network, greatest(scheduled_departure_at, schedule_at) AS due_at,
    greatest(scheduled_departure_at + INTERVAL {OVER_DUE // timedelta(minutes=1)} MINUTE, schedule_at) AS overdue_at
  FROM known),
events AS ({events}),
totals AS ({running_totals_sql("events", keys, _TOTALS)})
{published(", ".join(keys), STATE_GRID.instant_sql("n"), values, "totals", utc_literal(lo), utc_literal(hi))}"""


def _event(keys: tuple[str, ...], at: str, where: str, **amounts: str) -> str:
    values = ", ".join(f"{amounts.get(name, '0')} AS {name}" for name in _AMOUNTS)
    return f"SELECT {', '.join(keys)}, {STATE_GRID.number_sql(at)} AS n, {values} FROM flights WHERE {where}"


def state_table(scope: str) -> FeatureTable:
    """The state table of one scope of `SCOPES`."""
    keys, words = SCOPES[scope]

    def build(con: DuckDBPyConnection, lo: datetime, hi: datetime) -> DuckDBPyRelation:
        return con.sql(state_sql(scope, lo, hi))

    columns = tuple(
        FeatureColumn(
            name=f"{scope}_{name}", sql_type=sql_type, unit=unit, description=f"{description}; {words}.",
            known_rule=rule, window=f"(g - {window}, g]" if window else "", prior=prior,
        )
        for name, (_, sql_type, unit, description, rule, window, prior) in _METRICS.items()
    )  # fmt: skip
    return FeatureTable(
        name=f"{scope}_state", entity=scope, keys=keys, columns=columns, look_back=LOOK_BACK, max_age=STATE_MAX_AGE,
        grid=STATE_GRID.step, sources=(DEPARTURES,), build=build,
        description=f"What is going on every 15 minutes: {words}. Rows only where a value can change.",
    )  # fmt: skip
