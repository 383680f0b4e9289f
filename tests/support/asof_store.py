"""A Feast store over this project's offline store, in a folder, for tests."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pandas as pd
import pyarrow as pa
from deltalake import write_deltalake
from feast import Entity, FeatureStore, FeatureView, Field, FileSource
from feast.data_format import DeltaFormat
from feast.repo_config import RepoConfig
from feast.types import Float64, Int64, String
from feast.value_type import ValueType

T0 = datetime(2013, 3, 10, 6, 30, tzinfo=UTC)
US = timedelta(microseconds=1)
HOUR = timedelta(hours=1)
STAMP = pa.timestamp("us", tz="UTC")
FEATURES = ["prices:price", "prices:sold"]


def open_store(folder: Path, **offline: Any) -> FeatureStore:
    """An empty store whose feature repository is the folder; `offline` is the rest of its `offline_store` section."""
    config = RepoConfig(
        project="test",
        provider="local",
        registry=str(folder / "registry.db"),
        online_store={"type": "sqlite", "path": str(folder / "online.db")},
        offline_store={"type": "contrail.asof.AsofOfflineStore", **offline},
        entity_key_serialization_version=3,
        repo_path=folder,
    )
    return FeatureStore(config=config)


def price_rows(*rows: tuple[str | None, float, float, float]) -> pa.Table:
    """(shop, known at, created at, price), both times in hours after T0; `sold` is the hour known at."""
    return pa.table(
        {
            "shop": pa.array([shop for shop, *_ in rows], pa.string()),
            "known_at": pa.array([T0 + h * HOUR for _, h, _, _ in rows], STAMP),
            "created_at": pa.array([T0 + c * HOUR for _, _, c, _ in rows], STAMP),
            "price": pa.array([price for *_, price in rows], pa.float64()),
            "sold": pa.array([int(h) for _, h, _, _ in rows], pa.int64()),
        }
    )


def write_prices(folder: Path, *rows: tuple[str | None, float, float, float]) -> None:
    """Append to the Delta table that `price_store` reads."""
    write_deltalake(str(folder / "prices"), price_rows(*rows), mode="append")


def price_store(folder: Path, *, source: FileSource | None = None, **offline: Any) -> FeatureStore:
    """A store with the one view `prices` by `shop`, valid for six hours, over the folder's Delta table or `source`."""
    source = source or price_source(str(folder / "prices"))
    shop = Entity(name="shop", join_keys=["shop"], value_type=ValueType.STRING)
    view = FeatureView(
        name="prices",
        entities=[shop],
        ttl=6 * HOUR,
        schema=[
            Field(name="shop", dtype=String),
            Field(name="price", dtype=Float64),
            Field(name="sold", dtype=Int64),
        ],
        source=source,
    )
    store = open_store(folder, **offline)
    store.apply([shop, source, view])
    return store


def price_source(path: str, **other: Any) -> FileSource:
    """A source of price rows; a Delta table unless `other` says another `file_format`."""
    return FileSource(
        name="prices_source",
        path=path,
        timestamp_field="known_at",
        created_timestamp_column="created_at",
        **{"file_format": DeltaFormat(), **other},
    )


def asked(*points: tuple[str | None, timedelta]) -> pd.DataFrame:
    """An entity frame of (shop, time after T0), numbered in `n`."""
    return pd.DataFrame(
        {
            "shop": [shop for shop, _ in points],
            "event_timestamp": [T0 + after for _, after in points],
            "n": range(len(points)),
        }
    )


def values(frame: pd.DataFrame, column: str = "price") -> list[Any]:
    """A column as a list, its missing values as None."""
    return [None if pd.isna(value) else value for value in frame[column]]
