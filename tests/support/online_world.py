"""A small shop whose prices are materialised: rows in a Delta table, a Feast view over them, SQLite or Redis online."""

from __future__ import annotations

import functools
import random
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import duckdb
import pyarrow as pa
from deltalake import write_deltalake
from feast import Entity, FeatureStore, FeatureView, Field, FileSource
from feast.data_format import DeltaFormat
from feast.repo_config import RepoConfig
from feast.types import Bool, FeastType, Float32, Float64, Int32, Int64, String, UnixTimestamp
from feast.value_type import ValueType

from contrail import duck
from contrail.online_write import Materialized, materialize_view, prepare_store

T0 = datetime(2013, 6, 1, 12, tzinfo=UTC)
HOUR = timedelta(hours=1)
MICROSECOND = timedelta(microseconds=1)
MAX_AGE = timedelta(hours=6)
STAMP = pa.timestamp("us", tz="UTC")
FIELDS: dict[str, FeastType] = {
    "price": Float64,
    "rate": Float32,
    "sold": Int32,
    "total": Int64,
    "open": Bool,
    "label": String,
    "since": UnixTimestamp,
}
REFS = [f"prices:{name}" for name in FIELDS]
SHOPS, AISLES = ("a", "b", "Zürich", "nobody"), (1, 2, 300_000, -4)
ENTITIES = [{"shop": shop, "aisle": aisle} for shop in SHOPS for aisle in AISLES]

# shop, aisle, known at, created at, price: the other values follow from the price
Row = tuple[str | None, int | None, datetime, datetime | None, float | None]


def arrow(rows: Sequence[Row]) -> pa.Table:
    """Rows as the table holds them."""
    prices = [price for *_, price in rows]

    def of(make: Any) -> list[Any]:
        return [None if price is None else make(price) for price in prices]

    return pa.table(
        {
            "shop": pa.array([row[0] for row in rows], pa.string()),
            "aisle": pa.array([row[1] for row in rows], pa.int32()),
            "known_at": pa.array([row[2] for row in rows], STAMP),
            "created_at": pa.array([row[3] for row in rows], STAMP),
            "price": pa.array(prices, pa.float64()),
            "rate": pa.array(of(lambda price: price / 3), pa.float32()),
            "sold": pa.array(of(lambda price: int(price) - 3), pa.int32()),
            "total": pa.array(of(lambda price: int(price * 1e15) - 10**15), pa.int64()),
            "open": pa.array(of(lambda price: price > 5), pa.bool_()),
            "label": pa.array(of(lambda price: f"p{price:.1f}ü"), pa.string()),
            "since": pa.array([row[2] for row in rows], STAMP),
        }
    )


def append(folder: Path, rows: Sequence[Row]) -> None:
    """One more version of the table of prices."""
    write_deltalake(str(folder / "prices"), arrow(rows), mode="append")


def random_rows(seed: int, count: int = 300) -> list[Row]:
    """Rows of all shops but "nobody", some of them late, some keys null, some events twice, some after T0."""
    rnd = random.Random(seed)
    rows: list[Row] = []
    for _ in range(count):
        known = T0 + timedelta(minutes=rnd.randrange(-500, 60), microseconds=rnd.choice([0, 0, 1, 999_999]))
        rows.append(
            (
                rnd.choice([*SHOPS[:-1], None]),
                rnd.choice([*AISLES, None]),
                known,
                known + rnd.choice([timedelta(0), timedelta(0), HOUR, 9 * HOUR]),
                rnd.choice([None, rnd.random() * 10]),
            )
        )
    # The same event, corrected: before and after T0.
    rows += [
        (shop, aisle, known, known + late, 4.5)
        for shop, aisle, known, _, _ in rows[:20]
        for late in (2 * HOUR, 20 * HOUR)
    ]
    return rows


def sqlite(folder: Path, name: str = "online.db") -> dict[str, Any]:
    """The `online_store` section of a file."""
    return {"type": "sqlite", "path": str(folder / name)}


def redis(address: str, database: int = 0, *more: str) -> dict[str, Any]:
    """The `online_store` section of one database of a Redis."""
    return {"type": "redis", "connection_string": ",".join([address, f"db={database}", *more])}


def view(folder: Path, fields: dict[str, FeastType] | None = None, name: str = "prices") -> FeatureView:
    """The view of the table, with all its features or others."""
    source = FileSource(
        name=f"{name}_source",
        path=str(folder / "prices"),
        file_format=DeltaFormat(),
        timestamp_field="known_at",
        created_timestamp_column="created_at",
    )
    shop = Entity(name="shop", join_keys=["shop"], value_type=ValueType.STRING)
    aisle = Entity(name="aisle", join_keys=["aisle"], value_type=ValueType.INT64)
    features = [Field(name=feature, dtype=kind) for feature, kind in (fields or FIELDS).items()]
    keys = [Field(name="shop", dtype=String), Field(name="aisle", dtype=Int64)]
    return FeatureView(
        name=name, entities=[shop, aisle], ttl=MAX_AGE, schema=[*keys, *features], source=source
    )


def config(folder: Path, online: dict[str, Any], name: str = "ours") -> RepoConfig:
    """The configuration of a store whose registry is called `name`."""
    return RepoConfig(
        project="test",
        provider="local",
        registry={
            "registry_type": "file",
            "registry_store_type": "contrail.feast_registry.WholeFileRegistryStore",
            "path": str(folder / f"{name}.registry"),
        },
        online_store=online,
        offline_store={"type": "contrail.asof.AsofOfflineStore"},
        entity_key_serialization_version=3,
        repo_path=folder,
    )


def shop(folder: Path, online: dict[str, Any], name: str = "ours", *views: FeatureView) -> FeatureStore:
    """A store with the view, or others, applied; `feast apply` makes the tables of one that is not `name`d ours."""
    store = FeatureStore(config=config(folder, online, name))
    wanted = list(views) or [view(folder)]
    if name == "ours":
        prepare_store(store.config, wanted)
    shop_key = Entity(name="shop", join_keys=["shop"], value_type=ValueType.STRING)
    aisle = Entity(name="aisle", join_keys=["aisle"], value_type=ValueType.INT64)
    store.apply([shop_key, aisle, *wanted])
    return store


@functools.cache
def _session() -> duckdb.DuckDBPyConnection:
    return duck.connect()


def materialize(store: FeatureStore, now: datetime = T0, **options: Any) -> Materialized:
    """Materialise the view, reading in one session for all tests: opening one takes longer than a test."""
    return materialize_view(store, "prices", now=now, con=_session(), **options)


def intervals(store: FeatureStore) -> list[tuple[datetime, datetime]]:
    """What the registry says is materialised."""
    store.refresh_registry()
    return store.get_feature_view("prices").materialization_intervals


def online(store: FeatureStore, refs: Sequence[str] = REFS) -> list[dict[str, Any]]:
    """What Feast's own clients get, entity by entity: value, status and event time of every feature."""
    proto = store.get_online_features(list(refs), ENTITIES).proto
    names = list(proto.metadata.feature_names.val)
    answers: list[dict[str, Any]] = [{} for _ in ENTITIES]
    for name, vector in zip(names, proto.results, strict=True):
        for answer, value, status, stamp in zip(
            answers, vector.values, vector.statuses, vector.event_timestamps, strict=True
        ):
            answer[name] = (value.SerializeToString(), status, stamp.ToMicroseconds())
    return answers


def prices(store: FeatureStore) -> dict[tuple[str, int], float | None]:
    """(shop, aisle) -> price, as Feast's clients get it."""
    found = store.get_online_features(["prices:price"], ENTITIES).to_dict()["price"]
    return {(e["shop"], e["aisle"]): price for e, price in zip(ENTITIES, found, strict=True)}


def offline_prices(store: FeatureStore, now: datetime) -> dict[tuple[str, int], float | None]:
    """(shop, aisle) -> price at `now`, as the offline store says."""
    frame = pa.table(
        {
            "shop": [e["shop"] for e in ENTITIES],
            "aisle": [e["aisle"] for e in ENTITIES],
            "event_timestamp": pa.array([now] * len(ENTITIES), STAMP),
        }
    )
    found = store.get_historical_features(frame, ["prices:price"]).to_arrow()["price"].to_pylist()
    return {(e["shop"], e["aisle"]): price for e, price in zip(ENTITIES, found, strict=True)}
