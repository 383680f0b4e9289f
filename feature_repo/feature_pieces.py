"""What the features of a model are made by, piece by piece: a model whose pieces mean something else now is refused.

A piece per feature table that the vector is looked up from, one for what is computed with the request, one for what
stands where nothing is found, one for how all of that is put together, one for the query of the rows. Documentation and
owners are in none of them; nor is the join that looks the rows up, which parity and its own tests watch.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import cache

from contrail import feature_code
from features.completion import complete_rows
from features.request_time import (
    AIRCRAFT_FEATURES,
    OF_SCHEDULE,
    aircraft_features,
    aircraft_row,
    leg_columns,
    request_time_row,
    schedule_features,
    schedule_row,
)
from features.tables import FEATURE_TABLES, FeatureTable
from features.vectors import fill_priors, fill_priors_row

PACKAGES = ("features", "contrail")
# Every table is a piece of its own.
_APART = ("features.tables:FEATURE_TABLES",)
# So is what puts them together: a model is not refused because of features that it does not have.
_APART_FROM_COMPLETION = (
    *_APART,
    *(
        f"features.request_time:{name}"
        for name in (
            *("schedule_features", "schedule_row", "aircraft_features", "aircraft_row"),
            *("COMPUTED", "OF_SCHEDULE", "AIRCRAFT_FEATURES", "LEG_COLUMNS", "INSTANT_COLUMNS"),
        )
    ),
)


@cache
def pieces(features: tuple[str, ...], spine_sql: str) -> Mapping[str, str]:
    """The sha256 of each piece's meaning.

    Args:
        features: the model's inputs.
        spine_sql: the query of its rows.

    Raises:
        FeatureCodeError: a piece uses something of which it cannot be said what it means.
    """
    looked_up = {*features, *leg_columns(features)}
    points: dict[str, list[object]] = {
        f"feature/{table.name}": _of_table(table, used)
        for table in FEATURE_TABLES.values()
        if (used := looked_up & {column.name for column in table.columns})
    }
    if {*features} & {*OF_SCHEDULE}:
        points["request/schedule"] = [schedule_features, schedule_row]
    if {*features} & {*AIRCRAFT_FEATURES}:
        points["request/aircraft"] = [aircraft_features, aircraft_row]
    points["priors"] = [fill_priors, fill_priors_row]
    points["spine"] = [(spine_sql,)]
    completion = {"completion": [complete_rows, request_time_row]}
    return {
        **feature_code.meaning(points, PACKAGES, apart=_APART),
        **feature_code.meaning(completion, PACKAGES, apart=_APART_FROM_COMPLETION),
    }


@cache
def table_code(name: str) -> str:
    """The sha256 of what builds a feature table, whichever of its columns a model uses."""
    table = FEATURE_TABLES[name]
    columns = tuple((column.name, column.sql_type) for column in table.columns)
    points: dict[str, list[object]] = {
        name: [(table.build, table.keys, table.look_back, table.grid, columns)]
    }
    return feature_code.meaning(points, PACKAGES, apart=_APART)[name]


def _of_table(table: FeatureTable, used: set[str]) -> list[object]:
    columns = tuple(
        (column.name, column.sql_type, column.prior) for column in table.columns if column.name in used
    )
    return [(table.build, table.keys, table.look_back, table.max_age, table.grid, columns)]
