"""State tables: what is going on at a scope at each quarter of an hour.

One builder serves five scopes. A flight waits from its scheduled departure (or from when its schedule became known)
until it departs, is cancelled, or 36 h have passed; that it waits is derived from the schedule and the instant, never
from the later event, so rows do not depend on what happens after them.
"""

from __future__ import annotations

from collections.abc import Mapping
from datetime import date, datetime, timedelta
from typing import TYPE_CHECKING

from contrail.windows import Grid, Revision, Total, smoothed_ratio_sql
from features.declarations import DEPARTURES, FeatureColumn, FeatureTable
from features.facts import FACTS_KNOWN_WITHIN, revision
from features.grid_tables import Event, GridTable

if TYPE_CHECKING:
    from duckdb import DuckDBPyConnection

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
LOOK_BACK = LONGEST_WINDOW + STATE_GRID.step + FACTS_KNOWN_WITHIN


_CLIPPED = f"greatest({DELAY_FLOOR_MINUTES}, least({DELAY_CEILING_MINUTES}, arrival_delay_minutes))"
LANDED = Event(
    "arrived_known_at",
    "arrived_known_at IS NOT NULL AND arrival_delay_minutes IS NOT NULL",
    {"landed": "1", "delay": _CLIPPED},
)
OUTCOME_KNOWN = Event(
    "outcome_known_at",
    "outcome_known_at IS NOT NULL",
    {"outcomes": "1", "disrupted": "is_disrupted::INTEGER"},
)
_LATE = f"(departure_delay_minutes >= {LATE_FROM_MINUTES})::INTEGER"
_EVENTS = (
    Event("due_at", "due_at < gone_at", {"queue": "1"}),
    Event("overdue_at", "overdue_at < gone_at", {"overdue": "1"}),
    Event("gone_at", "due_at < gone_at", {"queue": "-1", "overdue": "-(overdue_at < gone_at)::INTEGER"}),
    Event("departed_known_at", "departed_known_at IS NOT NULL", {"departed": "1", "departed_late": _LATE}),
    Event("cancelled_known_at", "cancelled_known_at IS NOT NULL", {"cancelled": "1"}),
    LANDED,
    OUTCOME_KNOWN,
)


def state_table(scope: str) -> FeatureTable:
    """The state table of one scope of `SCOPES`."""
    keys, words = SCOPES[scope]

    made = GridTable(
        keys=keys, grid=STATE_GRID, longest=LONGEST_WINDOW, amounts=_AMOUNTS, events=_EVENTS, totals=_TOTALS,
        values={f"{scope}_{name}": metric[0] for name, metric in _METRICS.items()},
    ).versioned()  # fmt: skip

    def revise(
        con: DuckDBPyConnection, days: tuple[date, date] | None, built_until: datetime
    ) -> Revision | None:
        return revision(con, made.reach, days, built_until)

    columns = tuple(
        FeatureColumn(
            name=f"{scope}_{name}", sql_type=sql_type, unit=unit, description=f"{description}; {words}.",
            known_rule=rule, window=f"(g - {window}, g]" if window else "", prior=prior,
        )
        for name, (_, sql_type, unit, description, rule, window, prior) in _METRICS.items()
    )  # fmt: skip
    return FeatureTable(
        name=f"{scope}_state", entity=scope, keys=keys, columns=columns, look_back=LOOK_BACK, max_age=STATE_MAX_AGE,
        grid=STATE_GRID.step, sources=(DEPARTURES,), build=made.build, revise=revise,
        description=f"What is going on every 15 minutes: {words}. Rows only where a value can change.",
    )  # fmt: skip
