"""Entities, sources, views and services, made from the declarations in `features/`. Feast imports this module alone.

One feature view per feature table. A row's event time is its known-at time, so that Feast's point-in-time join is one
over what was known. What the schedule and the aircraft's last leg say at request time are on-demand views over
`features.request_time`; they are registered for Feast's clients, our own paths call that function directly.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
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
from contrail.use_case import UseCase, UseCaseError
from feature_repo.feature_docs import DEPRECATED_TAG, age_words, usage_tags, when_missing
from feature_repo.use_cases import USE_CASES
from features.declarations import OWNER
from features.documentation import ALL_FEATURES
from features.request_time import AIRCRAFT_FEATURES, INSTANT_COLUMNS, OF_SCHEDULE, SCHEDULE_COLUMNS
from features.tables import FEATURE_TABLES, FeatureColumn, FeatureTable
from features.vectors import VIEW_FEATURES

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
    wanted = {*VIEW_FEATURES[table.name], *(name for one in USE_CASES.values() for name in one.features)}
    used = [column for column in table.columns if column.name in wanted]
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
    return [Field(name=name, dtype=types[ALL_FEATURES[name].sql_type]) for name in names]


def _request_tags(names: tuple[str, ...]) -> dict[str, str]:
    documented = {
        name: f"{ALL_FEATURES[name].description} Unit: {ALL_FEATURES[name].unit}. "
        f"Known at: {ALL_FEATURES[name].known_rule}."
        for name in names
    }
    used = {f"{name}.{tag}": text for name in names for tag, text in usage_tags(name).items()}
    return {"function": "features.request_time", **documented, **used}


def _on_demand(
    aircraft_leg: FeatureView, schedule: RequestSource, instants: RequestSource
) -> tuple[OnDemandFeatureView, ...]:
    # Feast stores the bodies themselves, without this module: each brings its import along.
    @on_demand_feature_view(
        name="schedule_request",
        sources=[schedule],
        schema=_request_fields(OF_SCHEDULE),
        tags=_request_tags(OF_SCHEDULE),
        description="What the schedule says of the departure: who, from where, to where, when, how near a holiday.",
        mode="python",
        owner=OWNER,
    )
    def schedule_request(inputs: dict[str, Any]) -> dict[str, Any]:
        from feature_repo.on_demand import schedule_features

        return schedule_features(inputs)

    @on_demand_feature_view(
        name="aircraft_request",
        sources=[aircraft_leg, instants],
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
    requests = (
        _request("departure_schedule", SCHEDULE_COLUMNS, "What the schedule says of the departure."),
        _request("departure_instants", INSTANT_COLUMNS, "When it is due, and when the decision is made."),
    )
    on_demand = _on_demand(views["aircraft_leg"], *requests)
    homes = {field.name: view for view in (*views.values(), *on_demand) for field in view.features}
    services: dict[str, UseCase] = {}
    for use_case in USE_CASES.values():
        first = services.setdefault(use_case.feature_service, use_case)
        if first.features != use_case.features:
            raise UseCaseError(
                f"use cases {first.name!r} and {use_case.name!r} both name the feature service "
                f"{use_case.feature_service!r} and have other features"
            )
    return Declared(
        entities=tuple(entities.values()),
        sources=(*(view.batch_source for view in views.values() if view.batch_source), *requests),
        views=tuple(views.values()),
        on_demand=on_demand,
        services=tuple(_service(name, use_case, homes) for name, use_case in services.items()),
    )


def _request(name: str, columns: Mapping[str, str], description: str) -> RequestSource:
    # Columns that are join keys as well are no request data: Feast would take them away from the join.
    schema = [
        Field(name=column, dtype=_TYPES[kind]) for column, kind in columns.items() if column not in _KEYS
    ]
    return RequestSource(name=name, schema=schema, description=description, owner=OWNER)


def _service(
    name: str, use_case: UseCase, homes: Mapping[str, FeatureView | OnDemandFeatureView]
) -> FeatureService:
    """The features of a use case, in their order, each from its view.

    Raises:
        UseCaseError: a feature is in no view, or the order of the features is not one of whole views: Feast keeps those
            of one view together.
    """
    if strays := [feature for feature in use_case.features if feature not in homes]:
        raise UseCaseError(f"use case {use_case.name!r}: no feature view has {', '.join(strays)}")
    asked: dict[str, list[str]] = {}
    for feature in use_case.features:
        view = homes[feature].name
        if view in asked and view != next(reversed(asked)):
            raise UseCaseError(
                f"use case {use_case.name!r}: {feature} stands apart from the other features of {view}; list the "
                "features of a view one after another"
            )
        asked.setdefault(view, []).append(feature)
    by_name = {view.name: view for view in homes.values()}
    return FeatureService(
        name=name,
        features=[by_name[view][features] for view, features in asked.items()],
        description=f"The vector of: {use_case.title}.",
        tags={
            "features": str(len(use_case.features)),
            "feature_order_sha256": use_case.feature_order_sha256,
        },
        owner=OWNER,
    )


# Feast registers what it finds as attributes of the module.
globals().update({f"{type(thing).__name__}_{thing.name}": thing for thing in declare(Settings().lake_root)})
