"""What each feature means: one place for the feature store's views, the docs, Dagster's UI and the data card."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import timedelta
from types import MappingProxyType

from features.declarations import FeatureTable, RequestFeature
from features.request_time import AIRCRAFT_FEATURES, LEG_COLUMNS
from features.tables import FEATURE_TABLES

REQUEST = "request"


@dataclass(frozen=True)
class FeatureDocumentation:
    """One feature, of the whole vector or only of a table.

    Attributes:
        name: its name in the vector.
        sql_type: VARCHAR (a category), INTEGER or DOUBLE; of a table's column also BOOLEAN or TIMESTAMPTZ.
        unit: what one unit of it is.
        description: what it says, in one sentence.
        known_rule: by which rule a source fact may count.
        window: the window it covers, in words; empty where it has none.
        source: the feature table it is read from, or ``request`` where it is computed with the request.
        prior: its value where nothing is known; None means null.
        keys: the entity key of a look-up; empty where none is looked up.
        sources: the tables it is made of, ``stage/name``.
        max_age: the age up to which a row answers; None where no row is looked up.
        owner: who answers for it.
        vector_features: the features of a vector that it can go into: itself, or those that are computed from it.
        deprecated: why no new model should use it, and what to use instead; empty: it is not deprecated.
    """

    name: str
    sql_type: str
    unit: str
    description: str
    known_rule: str
    window: str
    source: str
    prior: float | int | None
    keys: tuple[str, ...]
    sources: tuple[str, ...]
    max_age: timedelta | None
    owner: str
    vector_features: tuple[str, ...]
    deprecated: str


_LEG_TABLE = "aircraft_leg"
_SCHEDULE = "known with the schedule, the evening before"
_LEG = "the leg's own events, and the known-at time of the assignment"
_NULL = "Null when the tail is unknown or its last leg from here was due more than 48 h before."

AT_REQUEST: Mapping[str, RequestFeature] = {
    "carrier": RequestFeature("VARCHAR", "code", "Operating carrier, as scheduled.", _SCHEDULE),
    "origin": RequestFeature("VARCHAR", "code", "Airport of departure, as scheduled.", _SCHEDULE),
    "dest": RequestFeature("VARCHAR", "code", "Airport of destination, as scheduled.", _SCHEDULE),
    "schedule_departure_minute_local": RequestFeature(
        "INTEGER", "minutes", "Scheduled departure, minute of the day on the origin's wall clock.", _SCHEDULE),
    "schedule_day_of_week": RequestFeature(
        "INTEGER", "day", "Day of the week of the local service date, Sunday 0.", _SCHEDULE),
    "schedule_days_to_holiday": RequestFeature(
        "INTEGER", "days", "Days to the next federal holiday; 0 on one.", _SCHEDULE),
    "schedule_days_from_holiday": RequestFeature(
        "INTEGER", "days", "Days since the last federal holiday; 0 on one.", _SCHEDULE),
    "aircraft_delay_known_minutes": RequestFeature(
        "INTEGER", "minutes",
        ("The delay known of the aircraft's last leg: its arrival delay when landed, its departure delay (not below 0) "
         f"when departed, how long it is overdue at the decision when not, 300 when cancelled. {_NULL}"),
        _LEG, _LEG_TABLE),
    "aircraft_slack_minutes": RequestFeature(
        "INTEGER", "minutes",
        ("Time left if the aircraft flew straight back: this scheduled departure less the leg's, less two scheduled "
         f"block times, less the delay known. {_NULL}"), _LEG, _LEG_TABLE),
    "aircraft_stage": RequestFeature(
        "INTEGER", "stage", f"The aircraft's last leg: 0 due or cancelled, 1 departed, 2 landed. {_NULL}",
        _LEG, _LEG_TABLE),
    "aircraft_arrival_delay_minutes": RequestFeature(
        "INTEGER", "minutes", f"Arrival delay of the aircraft's last leg; null until it landed. {_NULL}",
        _LEG, _LEG_TABLE),
    "aircraft_cancelled": RequestFeature(
        "INTEGER", "0/1", f"Whether the aircraft's last leg was cancelled. {_NULL}", _LEG, _LEG_TABLE),
    "aircraft_minutes_since_leg": RequestFeature(
        "INTEGER", "minutes", f"This scheduled departure less that of the aircraft's last leg. {_NULL}",
        _LEG, _LEG_TABLE),
}  # fmt: skip


def _of_request(name: str, feature: RequestFeature, table: FeatureTable | None) -> FeatureDocumentation:
    return FeatureDocumentation(
        name=name, sql_type=feature.sql_type, unit=feature.unit, description=feature.description,
        known_rule=feature.known_rule, window="", source=REQUEST, prior=None,
        keys=table.keys if table else (), sources=(f"feature/{table.name}",) if table else (),
        max_age=table.max_age if table else None, owner=feature.owner,
        vector_features=(name,), deprecated=feature.deprecated or (table.deprecated if table else ""),
    )  # fmt: skip


def _of_table(table: FeatureTable) -> dict[str, FeatureDocumentation]:
    computed = dict.fromkeys(LEG_COLUMNS, AIRCRAFT_FEATURES)
    return {
        column.name: FeatureDocumentation(
            name=column.name, sql_type=column.sql_type, unit=column.unit, description=column.description,
            known_rule=column.known_rule, window=column.window, source=table.name, prior=column.prior,
            keys=table.keys, sources=table.sources, max_age=table.max_age, owner=table.owner,
            vector_features=computed.get(column.name, (column.name,)), deprecated=column.deprecated or table.deprecated,
        )
        for column in table.columns
    }  # fmt: skip


def document(
    tables: Mapping[str, FeatureTable], at_request: Mapping[str, RequestFeature]
) -> dict[str, FeatureDocumentation]:
    """Every feature that these declare, by name: those of the request first, then table by table.

    Raises:
        KeyError: a feature reads a table that is not declared.
    """
    documented = {
        name: _of_request(name, feature, tables[feature.reads] if feature.reads else None)
        for name, feature in at_request.items()
    }
    for table in tables.values():
        documented |= _of_table(table)
    return documented


# All features there are, in the vector or not.
ALL_FEATURES: Mapping[str, FeatureDocumentation] = MappingProxyType(document(FEATURE_TABLES, AT_REQUEST))
