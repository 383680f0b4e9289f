"""History tables: what each scope's flights did over the last days and weeks, as it was known each night.

The snapshot instant is 07:00 UTC (02:00 or 03:00 in New York), fixed in UTC so that no clock change moves it.
"""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime, timedelta
from typing import TYPE_CHECKING

from contrail.windows import Grid, Total, running_totals_sql, smoothed_ratio_sql, utc_literal
from features.declarations import DEPARTURES, FeatureColumn, FeatureTable, published
from features.facts import FACTS_ACCEPTED_FOR, known_facts_sql
from features.state import DELAY_PRIOR_MINUTES, SHARE_PRIOR, clipped_delay_sql

if TYPE_CHECKING:
    from duckdb import DuckDBPyConnection, DuckDBPyRelation

HISTORY_GRID = Grid(timedelta(days=1), offset=timedelta(hours=7))
LONGEST_WINDOW = timedelta(days=56)
HISTORY_MAX_AGE = timedelta(days=60)
LOOK_BACK = LONGEST_WINDOW + HISTORY_GRID.step + FACTS_ACCEPTED_FOR
PRIOR_WEIGHT = 5
DELAY_DAYS = (1, 7, 28, 56)
DISRUPTED_DAYS = (7, 28, 56)

SCOPES: Mapping[str, tuple[tuple[str, ...], str]] = {
    "network": (("network",), "all flights of the network"),
    "origin": (("origin",), "flights from this airport"),
    "carrier_origin": (("carrier", "origin"), "flights of this carrier from this airport"),
    "carrier_route": (("carrier", "origin", "dest"), "flights of this carrier on this route"),
    "flight": (("carrier", "flight_number", "origin", "dest"), "flights with this number on this route"),
}

_TOTALS = (
    *(Total(f"delay_{days}", "delay", days) for days in DELAY_DAYS),
    *(Total(f"landed_{days}", "landed", days) for days in DELAY_DAYS),
    *(Total(f"disrupted_{days}", "disrupted", days) for days in DISRUPTED_DAYS),
    *(Total(f"outcomes_{days}", "outcomes", days) for days in DISRUPTED_DAYS),
)


def history_sql(scope: str, lo: datetime, hi: datetime) -> str:
    """SQL for the rows of one scope's history table with lo <= known_at < hi, over the view ``departures``.

    Raises:
        KeyError: the scope is unknown.
        WindowError: `lo` or `hi` has no zone.
    """
    keys, _ = SCOPES[scope]
    key_list = ", ".join(keys)
    facts = known_facts_sql(lo - LONGEST_WINDOW - HISTORY_GRID.step, hi)
    delays = (
        f"{smoothed_ratio_sql(f'delay_{d}', f'landed_{d}', PRIOR_WEIGHT, DELAY_PRIOR_MINUTES)} "
        f"AS {scope}_arrival_delay_mean_{d}d"
        for d in DELAY_DAYS
    )
    shares = (
        f"{smoothed_ratio_sql(f'disrupted_{d}', f'outcomes_{d}', PRIOR_WEIGHT, SHARE_PRIOR)} "
        f"AS {scope}_disrupted_share_{d}d"
        for d in DISRUPTED_DAYS
    )
    instant = HISTORY_GRID.instant_sql("n")
    return f"""
WITH known AS ({facts}),
flights AS (SELECT *, 'all' AS network FROM known),
events AS (
  SELECT {key_list}, {HISTORY_GRID.number_sql("arrived_at")} AS n, 1 AS landed,
    {clipped_delay_sql("arrival_delay_minutes")} AS delay, 0 AS outcomes, 0 AS disrupted
  FROM flights WHERE arrived_at IS NOT NULL AND arrival_delay_minutes IS NOT NULL
  UNION ALL
  SELECT {key_list}, {HISTORY_GRID.number_sql("outcome_at")}, 0, 0, 1, is_disrupted::INTEGER
  FROM flights WHERE outcome_at IS NOT NULL),
totals AS ({running_totals_sql("events", keys, _TOTALS)})
{published(key_list, instant, ", ".join((*delays, *shares)), "totals", utc_literal(lo), utc_literal(hi))}"""


def history_table(scope: str) -> FeatureTable:
    """The history table of one scope of `SCOPES`."""
    keys, words = SCOPES[scope]

    def build(con: DuckDBPyConnection, lo: datetime, hi: datetime) -> DuckDBPyRelation:
        return con.sql(history_sql(scope, lo, hi))

    delays = (
        FeatureColumn(
            name=f"{scope}_arrival_delay_mean_{d}d", sql_type="DOUBLE", unit="minutes",
            description=f"Mean arrival delay, each between -60 and 240 (m = 5, prior 5); {words}.",
            known_rule="counts from the arrival's known-at time", window=f"(g - {d} d, g]", prior=DELAY_PRIOR_MINUTES,
        )
        for d in DELAY_DAYS
    )  # fmt: skip
    shares = (
        FeatureColumn(
            name=f"{scope}_disrupted_share_{d}d", sql_type="DOUBLE", unit="share",
            description=f"Disrupted, of all flights whose outcome became known (m = 5, prior 0.25); {words}.",
            known_rule="counts from when the outcome is known", window=f"(g - {d} d, g]", prior=SHARE_PRIOR,
        )
        for d in DISRUPTED_DAYS
    )  # fmt: skip
    return FeatureTable(
        name=f"{scope}_history", entity=scope, keys=keys, columns=(*delays, *shares), look_back=LOOK_BACK,
        max_age=HISTORY_MAX_AGE, grid=HISTORY_GRID.step, sources=(DEPARTURES,), build=build,
        description=f"What was known each night at 07:00 UTC of the last days and weeks: {words}.",
    )  # fmt: skip
