"""The online copy: Feast's layout byte for byte, newest rows only, honest statuses."""

from __future__ import annotations

import random
import sqlite3
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from deltalake import write_deltalake
from feast import Entity, FeatureStore, FeatureView, Field, FileSource
from feast.data_format import DeltaFormat
from feast.infra.key_encoding_utils import serialize_entity_key
from feast.protos.feast.types.EntityKey_pb2 import EntityKey
from feast.protos.feast.types.Value_pb2 import Value
from feast.repo_config import RepoConfig
from feast.types import Bool, Float64, Int32, Int64, String, UnixTimestamp
from feast.value_type import ValueType

from contrail.online_layout import (
    OnlineError,
    decode_time,
    decode_value,
    encode_key,
    encode_time,
    encode_value,
    redis_field,
    redis_key,
)
from contrail.online_read import read_online
from contrail.online_views import online_view
from contrail.online_write import materialize_view

T0 = datetime(2013, 6, 1, 12, tzinfo=UTC)
HOUR = timedelta(hours=1)
STAMP = pa.timestamp("us", tz="UTC")
MAX_AGE = timedelta(hours=6)


@pytest.mark.parametrize(
    ("kind", "field", "values"),
    [
        ("STRING", "string_val", ["", "x", "é" * 100, "a" * 20_000]),
        ("INT32", "int32_val", [0, 1, -1, 127, 128, 2**31 - 1, -(2**31)]),
        ("INT64", "int64_val", [0, -5, 2**63 - 1, -(2**63)]),
        ("DOUBLE", "double_val", [0.0, -0.0, 0.1, 1e308, float("inf")]),
        ("FLOAT", "float_val", [0.0, 0.5, -2.25]),
        ("BOOL", "bool_val", [True, False]),
    ],
)
def test_values_are_feasts_bytes(kind: str, field: str, values: list[Any]) -> None:
    for value in values:
        data = Value(**{field: value}).SerializeToString()
        assert encode_value(value, kind) == data
        assert repr(decode_value(data)) == repr(value)


def test_times_nulls_and_unknown_types() -> None:
    data = Value(unix_timestamp_val=int(T0.timestamp())).SerializeToString()
    assert encode_value(T0, "UNIX_TIMESTAMP") == data
    assert decode_value(data) == T0
    assert encode_value(None, "DOUBLE") == Value().SerializeToString() == b""
    assert decode_value(b"") is None
    with pytest.raises(OnlineError, match="INT64_LIST"):
        encode_value([1], "INT64_LIST")
    with pytest.raises(OnlineError, match="0x0a"):
        decode_value(Value(bytes_val=b"x").SerializeToString())


def test_keys_are_feasts_bytes() -> None:
    key = EntityKey(
        join_keys=["shop", "aisle", "shelf"],
        entity_values=[Value(string_val="Zürich"), Value(int64_val=-3), Value(int32_val=9)],
    )
    kinds = {"shop": "STRING", "aisle": "INT64", "shelf": "INT32"}
    expected = serialize_entity_key(key, entity_key_serialization_version=3)
    assert encode_key({"shop": "Zürich", "aisle": -3, "shelf": 9, "more": 1}, kinds) == expected
    with pytest.raises(OnlineError, match="'shop' is of type BOOL"):
        encode_key({"shop": True}, {"shop": "BOOL"})


FIELDS = {"price": Float64, "sold": Int32, "open": Bool, "label": String, "since": UnixTimestamp}


def _append(
    folder: Path, rows: list[tuple[str | None, int | None, datetime, datetime, float | None]]
) -> None:
    table = pa.table(
        {
            "shop": pa.array([shop for shop, *_ in rows], pa.string()),
            "aisle": pa.array([aisle for _, aisle, *_ in rows], pa.int32()),
            "known_at": pa.array([known for _, _, known, _, _ in rows], STAMP),
            "created_at": pa.array([created for *_, created, _ in rows], STAMP),
            "price": pa.array([price for *_, price in rows], pa.float64()),
            "sold": pa.array([None if price is None else int(price) for *_, price in rows], pa.int32()),
            "open": pa.array([None if price is None else price > 5 for *_, price in rows], pa.bool_()),
            "label": pa.array([None if price is None else f"p{price}" for *_, price in rows], pa.string()),
            "since": pa.array([known for _, _, known, _, _ in rows], STAMP),
        }
    )
    write_deltalake(str(folder / "prices"), table, mode="append")


def _store(folder: Path, online: str = "online.db") -> FeatureStore:
    config = RepoConfig(
        project="test",
        provider="local",
        registry=str(folder / f"{online}.registry"),
        online_store={"type": "sqlite", "path": str(folder / online)},
        offline_store={"type": "contrail.asof.AsofOfflineStore"},
        entity_key_serialization_version=3,
        repo_path=folder,
    )
    source = FileSource(
        name="prices_source",
        path=str(folder / "prices"),
        file_format=DeltaFormat(),
        timestamp_field="known_at",
        created_timestamp_column="created_at",
    )
    shop = Entity(name="shop", join_keys=["shop"], value_type=ValueType.STRING)
    aisle = Entity(name="aisle", join_keys=["aisle"], value_type=ValueType.INT64)
    keys = [Field(name="shop", dtype=String), Field(name="aisle", dtype=Int64)]
    view = FeatureView(
        name="prices",
        entities=[shop, aisle],
        ttl=MAX_AGE,
        schema=[*keys, *(Field(name=name, dtype=kind) for name, kind in FIELDS.items())],
        source=source,
    )
    store = FeatureStore(config=config)
    store.apply([shop, aisle, source, view])
    return store


@pytest.fixture
def store(tmp_path: Path) -> FeatureStore:
    rnd = random.Random(1)
    rows: list[tuple[str | None, int | None, datetime, datetime, float | None]] = []
    for shop in ("a", "b", "c", None):
        for aisle in (1, 2, 3, None):
            for _ in range(20):
                known = T0 + timedelta(minutes=rnd.randrange(-1000, 200))
                late = rnd.choice([timedelta(0), timedelta(0), HOUR])
                rows.append((shop, aisle, known, known + late, rnd.choice([None, rnd.random() * 10])))
    rows.append(("old", 1, T0 - MAX_AGE - timedelta(microseconds=1), T0 - MAX_AGE, 1.0))
    rows.append(("edge", 1, T0 - MAX_AGE, T0 - MAX_AGE, 2.0))
    _append(tmp_path, rows)
    return _store(tmp_path)


ENTITIES = [
    {"shop": shop, "aisle": aisle} for shop in ("a", "b", "c", "old", "edge", "nobody") for aisle in (1, 2, 3)
]
REFS = [f"prices:{name}" for name in FIELDS]


def _offline(store: FeatureStore, now: datetime) -> list[dict[str, Any]]:
    frame = pa.table(
        {
            "shop": [e["shop"] for e in ENTITIES],
            "aisle": [e["aisle"] for e in ENTITIES],
            "event_timestamp": pa.array([now] * len(ENTITIES), STAMP),
        }
    )
    return store.get_historical_features(frame, REFS).to_arrow().select(list(FIELDS)).to_pylist()


def test_feast_reads_what_offline_says_now(store: FeatureStore) -> None:
    done = materialize_view(store, "prices", now=T0, batch_rows=4)
    offline = _offline(store, T0)
    answer = store.get_online_features(REFS, ENTITIES).to_dict()
    for number, expected in enumerate(offline):
        for name in FIELDS:
            value = answer[name][number]
            if name == "since" and expected[name] is not None:
                assert value.replace(tzinfo=UTC) == expected[name]
            else:
                assert repr(value) == repr(expected[name])
    direct = read_online(
        store.config,
        [online_view(store.config, store.get_feature_view("prices"))],
        ENTITIES,
        now=T0,
    )
    assert [dict(row["prices"].values) for row in direct] == offline
    assert done.rows == done.rows_written == 10
    assert done.newest is not None
    assert done.newest <= T0
    assert (done.start, done.end, done.delta_version) == (T0 - MAX_AGE, T0, 0)
    assert done.source == str((store.repo_path / "prices").resolve()) or done.source.endswith("/prices")
    assert store.get_feature_view("prices").materialization_intervals == [(T0 - MAX_AGE, T0)]


def test_it_writes_the_cells_that_feast_writes(store: FeatureStore, tmp_path: Path) -> None:
    ours = "SELECT entity_key, feature_name, value, event_ts, created_ts FROM test_prices ORDER BY 1, 2"
    materialize_view(store, "prices", now=T0)
    feasts = _store(tmp_path, "feast.db")
    feasts.materialize(T0 - MAX_AGE, T0, feature_views=["prices"])
    with sqlite3.connect(tmp_path / "online.db") as left, sqlite3.connect(tmp_path / "feast.db") as right:
        cells = left.execute(ours).fetchall()
        assert cells == right.execute(ours).fetchall()
        assert len(cells) == 10 * len(FIELDS)


def test_statuses(store: FeatureStore) -> None:
    materialize_view(store, "prices", now=T0, start=T0 - 10 * MAX_AGE)
    view = online_view(store.config, store.get_feature_view("prices"), ["price"])

    def status(shop: str | None, now: datetime) -> tuple[str, Any]:
        row = read_online(store.config, [view], [{"shop": shop, "aisle": 1}], now=now)[0]["prices"]
        return row.status, row.values["price"]

    assert status("edge", T0) == ("present", 2.0)
    assert status("edge", T0 + timedelta(seconds=1)) == ("outside max age", None)
    assert status("old", T0) == ("outside max age", None)
    assert status("nobody", T0) == ("not found", None)
    assert status(None, T0) == ("not found", None)


def test_redis_keys_fields_and_times_are_feasts_bytes() -> None:
    from feast.infra.online_stores.helpers import _mmh3, _redis_key
    from google.protobuf.timestamp_pb2 import Timestamp

    key = EntityKey(join_keys=["shop"], entity_values=[Value(string_val="a")])
    assert redis_key(encode_key({"shop": "a"}, {"shop": "STRING"}), "p") == _redis_key("p", key)
    assert redis_field("prices", "price") == _mmh3("prices:price")
    for microseconds in (0, 1, 999_999, 1_000_000, 1_370_088_000_000_000, 1_370_088_000_000_001, 2**51):
        stamp = Timestamp()
        stamp.FromMicroseconds(microseconds)
        data = encode_time(microseconds)
        assert data == stamp.SerializeToString()
        assert decode_time(data) == microseconds
