"""Views of every kind that is served online, filled by Feast itself, and services drawn from them at random."""

from __future__ import annotations

import random
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from feast import Entity, FeatureService, FeatureStore, FeatureView, Field, FileSource
from feast.feature_view import DUMMY_ENTITY_ID, DUMMY_ENTITY_VAL
from feast.protos.feast.types.EntityKey_pb2 import EntityKey
from feast.protos.feast.types.Value_pb2 import Value
from feast.repo_config import RepoConfig
from feast.types import Bool, FeastType, Float32, Float64, Int32, Int64, String, UnixTimestamp
from feast.value_type import ValueType

from contrail.clock import pin_utc

NOW = datetime(2024, 6, 1, 12, tzinfo=UTC)
MAX_AGE = timedelta(hours=6)
PROJECT = "served"

KINDS: dict[str, tuple[FeastType, str]] = {
    "double": (Float64, "double_val"),
    "float": (Float32, "float_val"),
    "int64": (Int64, "int64_val"),
    "int32": (Int32, "int32_val"),
    "bool": (Bool, "bool_val"),
    "string": (String, "string_val"),
    "moment": (UnixTimestamp, "unix_timestamp_val"),
}
KEYS: dict[str, tuple[FeastType, ValueType, str]] = {
    "shop": (String, ValueType.STRING, "string_val"),
    "aisle": (Int64, ValueType.INT64, "int64_val"),
    "shelf": (Int32, ValueType.INT32, "int32_val"),
}
# View: its keys. Two share one, so that they share a hash in Redis; one has none.
VIEWS: dict[str, tuple[str, ...]] = {
    "shops": ("shop",),
    "more_shops": ("shop",),
    "aisles": ("shop", "aisle"),
    "shelves": ("aisle", "shelf"),
    "chain": (),
}
VALUES: dict[str, list[Any]] = {
    "shop": ["a", "Zürich", "", "x" * 200, "unknown"],
    "aisle": [0, 1, -7, 2**40, 99],
    "shelf": [0, 1, -7, 2**31 - 1, 99],
}
# What a service may call a key; the same values go in.
OTHER_NAMES = {"shop": "home_shop", "aisle": "home_aisle"}

Row = tuple[EntityKey, dict[str, Value], datetime, datetime | None]


def make(folder: Path, online: dict[str, Any], registry: str = "served.registry") -> FeatureStore:
    """A store with the views, nothing in them."""
    pin_utc()  # Feast's SQLite store writes epochs that depend on the process's zone
    config = RepoConfig(
        project=PROJECT,
        provider="local",
        registry={"path": str(folder / registry), "cache_ttl_seconds": 0},
        online_store=online,
        offline_store={"type": "contrail.asof.AsofOfflineStore"},
        entity_key_serialization_version=3,
        repo_path=folder,
    )
    store = FeatureStore(config=config)
    entities = {key: Entity(name=key, join_keys=[key], value_type=kind) for key, (_, kind, _) in KEYS.items()}
    views = [
        FeatureView(
            name=name,
            entities=[entities[key] for key in keys],
            ttl=MAX_AGE,
            schema=[Field(name=key, dtype=KEYS[key][0]) for key in keys]
            + [Field(name=f"{name}_{kind}", dtype=dtype) for kind, (dtype, _) in KINDS.items()],
            source=FileSource(
                name=f"{name}_source", path=str(folder / f"{name}.parquet"), timestamp_field="event_timestamp"
            ),
        )
        for name, keys in VIEWS.items()
    ]
    store.apply([*entities.values(), *views])
    return store


def serve_all(store: FeatureStore) -> FeatureStore:
    """The store, with the service "all" over all its views."""
    store.apply(FeatureService(name="all", features=[store.get_feature_view(name) for name in VIEWS]))
    return store


def write(store: FeatureStore, view: str, rows: Sequence[Row]) -> None:
    """Rows, as Feast's own materialisation writes them."""
    store._get_provider().online_write_batch(store.config, store.get_feature_view(view), list(rows), None)


def row(view: str, keys: dict[str, Any], values: dict[str, Any], at: datetime) -> Row:
    """One row of a view: kind -> value; what is not named is null."""
    names = VIEWS[view]
    entity_key = EntityKey(
        join_keys=list(names) or [DUMMY_ENTITY_ID],
        entity_values=[Value(**{KEYS[key][2]: keys[key]}) for key in names]
        or [Value(string_val=DUMMY_ENTITY_VAL)],
    )
    cells = {
        f"{view}_{kind}": Value() if values.get(kind) is None else Value(**{field: values[kind]})
        for kind, (_, field) in KINDS.items()
    }
    return entity_key, cells, at, at


def fill(store: FeatureStore, seed: int = 1) -> None:
    """Every entity but those of the unknown values, a fifth of the cells null."""
    rnd = random.Random(seed)
    of_kind = {
        "double": lambda: rnd.choice([0.0, -0.0, float("inf"), 1e-308, rnd.random()]),
        "float": lambda: rnd.choice([0.5, -2.25, 3.0e38, rnd.random()]),
        "int64": lambda: rnd.choice([0, -1, 127, 128, 2**63 - 1, -(2**63)]),
        "int32": lambda: rnd.choice([0, -1, 300, 2**31 - 1, -(2**31)]),
        "bool": lambda: rnd.random() < 0.5,
        "string": lambda: rnd.choice(["", "é", "y" * 127, "y" * 128, "y" * 70_000]),
        "moment": lambda: rnd.choice([0, -86_400, int(NOW.timestamp())]),
    }
    for view, names in VIEWS.items():
        keys: list[dict[str, Any]] = [{}]
        for name in names:
            keys = [{**one, name: value} for one in keys for value in VALUES[name][:-1]]
        write(
            store,
            view,
            [
                row(
                    view,
                    one,
                    {kind: draw() for kind, draw in of_kind.items() if rnd.random() > 0.2},
                    NOW - timedelta(minutes=rnd.randrange(1, 300)),
                )
                for one in keys
            ],
        )


def draw_service(store: FeatureStore, name: str, rnd: random.Random) -> FeatureService:
    """One to four of the views, some of their features in any order, some under another name, some keys renamed."""
    names = rnd.sample(sorted(VIEWS), rnd.randint(1, 4))
    names += rnd.sample(names, rnd.randint(0, 1))  # one of them twice
    projections: list[Any] = []
    for number, view_name in enumerate(names):
        features = [f"{view_name}_{kind}" for kind in rnd.sample(sorted(KINDS), rnd.randint(1, len(KINDS)))]
        view = store.get_feature_view(view_name)[features]
        # Feast cannot put a view with and one without another name in order.
        if names.count(view_name) > 1 or rnd.random() < 0.3:
            view = view.with_name(f"{view_name}_{number}")
        renamed = {
            key: OTHER_NAMES[key] for key in VIEWS[view_name] if key in OTHER_NAMES and rnd.random() < 0.4
        }
        if renamed:
            view = view.with_join_key_map(renamed)
        projections.append(view)
    return FeatureService(name=name, features=projections)


def draw_entities(rnd: random.Random, count: int) -> list[dict[str, Any]]:
    """Entities with all keys under all their names, known and unknown values."""
    return [
        {name: rnd.choice(values) for name, values in VALUES.items()}
        | {other: rnd.choice(VALUES[name]) for name, other in OTHER_NAMES.items()}
        for _ in range(count)
    ]
