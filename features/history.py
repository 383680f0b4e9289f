"""History tables: what each scope's flights did over the last days and weeks, as it was known each night.

The snapshot instant is 07:00 UTC (02:00 or 03:00 in New York), fixed in UTC so that no clock change moves it.
"""

from __future__ import annotations

from collections.abc import Mapping
from datetime import date, datetime, timedelta
from typing import TYPE_CHECKING

from contrail.windows import Grid, Revision, Total, smoothed_ratio_sql
from features.declarations import DEPARTURES, FeatureColumn, FeatureTable
from features.facts import FACTS_KNOWN_WITHIN, revision
from features.grid_tables import GridTable
from features.state import DELAY_PRIOR_MINUTES, LANDED, OUTCOME_KNOWN, SHARE_PRIOR

if TYPE_CHECKING:
    from duckdb import DuckDBPyConnection

HISTORY_GRID = Grid(timedelta(days=1), offset=timedelta(hours=7))
LONGEST_WINDOW = timedelta(days=56)
HISTORY_MAX_AGE = timedelta(days=60)
LOOK_BACK = LONGEST_WINDOW + HISTORY_GRID.step + FACTS_KNOWN_WITHIN
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


_AMOUNTS = ("landed", "delay", "outcomes", "disrupted")


def _values(scope: str) -> dict[str, str]:
    delays = {
        f"{scope}_arrival_delay_mean_{d}d": smoothed_ratio_sql(
            f"delay_{d}", f"landed_{d}", PRIOR_WEIGHT, DELAY_PRIOR_MINUTES
        )
        for d in DELAY_DAYS
    }
    shares = {
        f"{scope}_disrupted_share_{d}d": smoothed_ratio_sql(
            f"disrupted_{d}", f"outcomes_{d}", PRIOR_WEIGHT, SHARE_PRIOR
        )
        for d in DISRUPTED_DAYS
    }
    return delays | shares


def history_table(scope: str) -> FeatureTable:
    """The history table of one scope of `SCOPES`."""
    keys, words = SCOPES[scope]

    made = GridTable(
        keys=keys, grid=HISTORY_GRID, longest=LONGEST_WINDOW, amounts=_AMOUNTS, events=(LANDED, OUTCOME_KNOWN),
        totals=_TOTALS, values=_values(scope),
    ).versioned()  # fmt: skip

    def revise(
        con: DuckDBPyConnection, days: tuple[date, date] | None, built_until: datetime
    ) -> Revision | None:
        return revision(con, made.reach, days, built_until)

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
        max_age=HISTORY_MAX_AGE, grid=HISTORY_GRID.step, sources=(DEPARTURES,), build=made.build,
        revise=revise,
        description=f"What was known each night at 07:00 UTC of the last days and weeks: {words}.",
    )  # fmt: skip
