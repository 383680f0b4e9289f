"""Entities, sources, views and services, made from the declarations in `features/`. Feast imports this module alone.

One feature view per feature table. A row's event time is its known-at time, so that Feast's point-in-time join is one
over what was known. What the schedule and the aircraft's last leg say at request time are on-demand views over
`features.request_time`; they are registered for Feast's clients, our own paths call that function directly.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from feast import Entity, FeatureService, FeatureView, Field, FileSource, OnDemandFeatureView, RequestSource
from feast.data_format import DeltaFormat
from feast.data_source import DataSource
from feast.on_demand_feature_view import on_demand_feature_view
from feast.types import Bool, FeastType, Float64, Int32, Int64, String, UnixTimestamp
from feast.value_type import ValueType

from contrail.settings import Settings
from feature_repo.feature_docs import DEPRECATED_TAG, age_words, usage_tags, when_missing
from features.declarations import OWNER
from features.documentation import ALL_FEATURES, FEATURES
from features.request_time import AIRCRAFT_FEATURES, CATEGORICAL, REQUEST_COLUMNS, SCHEDULE_FEATURES
from features.tables import FEATURE_TABLES, FeatureColumn, FeatureTable
from features.vectors import VIEW_FEATURES, feature_order_sha256

LATE_FLIGHT_SERVICE = "late_flight_2h"

_TYPES: dict[str, FeastType] = {
    "VARCHAR": String,
    "INTEGER": Int32,
    "DOUBLE": Float64,
    "BOOLEAN": Bool,
    "TIMESTAMPTZ": UnixTimestamp,
    "DATE": UnixTimestamp,  # Feast has no date: midnight UTC
}
# Join key: type and meaning. Feast tells int32 and int64 keys apart; Python's int is an int64 to it.
_KEYS: dict[str, tuple[ValueType, FeastType, str]] = {
    "network": (ValueType.STRING, String, "The whole network; its one value is 'all'."),
    "origin": (ValueType.STRING, String, "Airport of departure, FAA code."),
    "dest": (ValueType.STRING, String, "Airport of destination, FAA code."),
    "carrier": (ValueType.STRING, String, "Operating carrier, IATA code."),
    "flight_number": (
        ValueType.INT64,
        Int64,
        "Flight number; with carrier, origin and destination it names a flight.",
    ),
    "tail_number": (
        ValueType.STRING,
        String,
        "The aircraft's registration (personal data); null when unknown.",
    ),
}


@dataclass(frozen=True)
class Declared:
    """Everything that `feast apply` registers."""

    entities: tuple[Entity, ...]
    sources: tuple[DataSource, ...]
    views: tuple[FeatureView, ...]
    on_demand: tuple[OnDemandFeatureView, ...]
    services: tuple[FeatureService, ...]

    def __iter__(self) -> Iterator[Any]:
        yield from (*self.entities, *self.sources, *self.views, *self.on_demand, *self.services)


def _field(column: FeatureColumn) -> Field:
    tags = {
        "unit": column.unit,
        "known_at": column.known_rule,
        "window": column.window,
        "when_missing": when_missing(ALL_FEATURES[column.name]),
        **usage_tags(column.name),
    }
    return Field(name=column.name, dtype=_TYPES[column.sql_type], description=column.description, tags=tags)


def _view(table: FeatureTable, entities: dict[str, Entity], lake_root: Path) -> FeatureView:
    source = FileSource(
        name=f"{table.name}_source",
        path=str(lake_root / "feature" / table.name),
        file_format=DeltaFormat(),
        timestamp_field="known_at",
        created_timestamp_column="created_at",
        description=f"The Delta table feature/{table.name}.",
        owner=table.owner,
    )
    used = [column for column in table.columns if column.name in VIEW_FEATURES[table.name]]
    return FeatureView(
        name=table.name,
        entities=[entities[key] for key in table.keys],
        ttl=table.max_age,
        schema=[*(Field(name=key, dtype=_KEYS[key][1]) for key in table.keys), *map(_field, used)],
        source=source,
        description=table.description,
        tags={
            "table": f"feature/{table.name}",
            "entity": table.entity,
            "grid": "events" if table.grid is None else age_words(table.grid),
            "max_age": age_words(table.max_age),
            "made_of": ", ".join(table.sources),
            **({DEPRECATED_TAG: table.deprecated} if table.deprecated else {}),
        },
        owner=table.owner,
    )


def _request_fields(names: tuple[str, ...]) -> list[Field]:
    # Feast compares these fields with those of a trial run, where an int is an int64 and nothing has a description.
    types: dict[str, FeastType] = {"VARCHAR": String, "INTEGER": Int64}
    return [Field(name=name, dtype=types[FEATURES[name].sql_type]) for name in names]


def _request_tags(names: tuple[str, ...]) -> dict[str, str]:
    documented = {
        name: f"{FEATURES[name].description} Unit: {FEATURES[name].unit}. Known at: {FEATURES[name].known_rule}."
        for name in names
    }
    used = {f"{name}.{tag}": text for name in names for tag, text in usage_tags(name).items()}
    return {"function": "features.request_time", **documented, **used}


def _on_demand(aircraft_leg: FeatureView, request: RequestSource) -> tuple[OnDemandFeatureView, ...]:
    of_schedule = (*CATEGORICAL, *SCHEDULE_FEATURES)

    # Feast stores the bodies themselves, without this module: each brings its import along.
    @on_demand_feature_view(
        name="schedule_request",
        sources=[request],
        schema=_request_fields(of_schedule),
        tags=_request_tags(of_schedule),
        description="What the schedule says of the departure: who, from where, to where, when, how near a holiday.",
        mode="python",
        owner=OWNER,
    )
    def schedule_request(inputs: dict[str, Any]) -> dict[str, Any]:
        from feature_repo.on_demand import schedule_features

        return schedule_features(inputs)

    @on_demand_feature_view(
        name="aircraft_request",
        sources=[aircraft_leg, request],
        schema=_request_fields(AIRCRAFT_FEATURES),
        tags=_request_tags(AIRCRAFT_FEATURES),
        description="What the aircraft's last leg means for this departure: delay known, time left to fly back.",
        mode="python",
        owner=OWNER,
    )
    def aircraft_request(inputs: dict[str, Any]) -> dict[str, Any]:
        from feature_repo.on_demand import aircraft_features

        return aircraft_features(inputs)

    return schedule_request, aircraft_request


def declare(lake_root: Path) -> Declared:
    """All of it, over the feature tables of one lake."""
    entities = {
        key: Entity(name=key, join_keys=[key], value_type=value_type, description=description, owner=OWNER)
        for key, (value_type, _, description) in _KEYS.items()
    }
    views = {table.name: _view(table, entities, lake_root) for table in FEATURE_TABLES.values()}
    # Columns that are join keys as well are no request data: Feast would take them away from the join.
    request = RequestSource(
        name="departure_request",
        schema=[
            Field(name=name, dtype=_TYPES[kind])
            for name, kind in REQUEST_COLUMNS.items()
            if name not in _KEYS
        ],
        description="What the caller knows of the departure: the schedule, and when the decision is made.",
        owner=OWNER,
    )
    schedule, aircraft = _on_demand(views["aircraft_leg"], request)
    # Views in the order in which the vector first names them: so the service's features are in the vector's order.
    order = list(FEATURES)
    stored = sorted(
        (view for view in views.values() if view.name != "aircraft_leg"),
        key=lambda view: min(order.index(feature.name) for feature in view.features),
    )
    late_flight = FeatureService(
        name=LATE_FLIGHT_SERVICE,
        features=[schedule, *stored, aircraft],
        description="The vector of the late-flight model, two hours before scheduled departure.",
        tags={"features": str(len(order)), "feature_order_sha256": feature_order_sha256()},
        owner=OWNER,
    )
    return Declared(
        entities=tuple(entities.values()),
        sources=(*(view.batch_source for view in views.values() if view.batch_source), request),
        views=tuple(views.values()),
        on_demand=(schedule, aircraft),
        services=(late_flight,),
    )


# Feast registers what it finds as attributes of the module.
globals().update({f"{type(thing).__name__}_{thing.name}": thing for thing in declare(Settings().lake_root)})
