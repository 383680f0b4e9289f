"""Columns as bytes: what Feast's own protobufs serialize to, value by value, on columns of every type."""

from __future__ import annotations

import random
import struct
from datetime import UTC, datetime, timedelta
from typing import Any

import pyarrow as pa
import pytest
from feast.infra.key_encoding_utils import serialize_entity_key
from feast.protos.feast.types.EntityKey_pb2 import EntityKey
from feast.protos.feast.types.Value_pb2 import Value

from contrail.online_layout import ENTITYLESS_KEY
from contrail.online_views import OnlineError, OnlineView
from contrail.online_write_columns import CREATED_COLUMN, EVENT_COLUMN, encode_rows

T0 = datetime(2013, 6, 1, 12, tzinfo=UTC)
STAMP = pa.timestamp("us", tz="UTC")
RND = random.Random(3)
# kind -> Arrow type, protobuf field, values
COLUMNS: dict[str, tuple[pa.DataType, str, list[Any]]] = {
    "STRING": (pa.string(), "string_val", ["", "x", "é" * 100, "a" * 20_000, "\0", "$1\r\n"]),
    "INT32": (pa.int32(), "int32_val", [0, 1, -1, 127, 128, 2**31 - 1, -(2**31)]),
    "INT64": (pa.int64(), "int64_val", [0, -5, 300, 2**63 - 1, -(2**63)]),
    "DOUBLE": (
        pa.float64(),
        "double_val",
        [0.0, -0.0, 0.1, 1e308, 5e-324, float("inf"), float("nan"), *(RND.random() for _ in range(50))],
    ),
    "FLOAT": (pa.float32(), "float_val", [0.0, -0.0, 0.5, -2.25, float("-inf"), 1e-45]),
    "BOOL": (pa.bool_(), "bool_val", [True, False]),
    "UNIX_TIMESTAMP": (STAMP, "unix_timestamp_val", [T0, T0 + timedelta(microseconds=1), datetime(1970, 1, 1, tzinfo=UTC), datetime(1969, 1, 1, tzinfo=UTC)]),
}  # fmt: skip


def view(keys: dict[str, str], features: dict[str, str]) -> OnlineView:
    return OnlineView("v", "p", "v", "p_v", keys, features, None)


def same(value: bytes) -> bytes:
    return value


def framed(value: bytes) -> bytes:
    return b"<%d|%b>" % (len(value), value)


def batch(**columns: pa.Array) -> pa.RecordBatch:
    rows = len(next(iter(columns.values())))
    columns.setdefault(EVENT_COLUMN, pa.array([T0] * rows, STAMP))
    return pa.record_batch(list(columns.values()), names=list(columns))


@pytest.mark.parametrize("frame", [same, framed])
@pytest.mark.parametrize("kind", list(COLUMNS))
def test_values_are_feasts_bytes(kind: str, frame: Any) -> None:
    arrow, field, values = COLUMNS[kind]
    mixed = [*values, None, *values, None]
    RND.shuffle(mixed)
    whole = pa.array([None, *mixed, None], arrow)
    rows = encode_rows(
        batch(k=pa.array(range(len(mixed)), pa.int64()), f=whole.slice(1, len(mixed))),
        view({"k": "INT64"}, {"f": kind}),
        frame,
    )

    def proto(value: Any) -> bytes:
        if value is None:
            return b""
        if kind == "UNIX_TIMESTAMP":
            value = int((value - datetime(1970, 1, 1, tzinfo=UTC)) // timedelta(seconds=1))
        return Value(**{field: value}).SerializeToString()

    assert rows.values == [[frame(proto(value)) for value in mixed]]


def test_columns_of_nothing_and_of_nulls() -> None:
    for kind, (arrow, *_) in COLUMNS.items():
        one = view({"k": "INT64"}, {"f": kind})
        empty = batch(
            k=pa.array([], pa.int64()), f=pa.array([], arrow), **{EVENT_COLUMN: pa.array([], STAMP)}
        )
        assert encode_rows(empty, one, same).values == [[]]
        nulls = batch(k=pa.array([1, 2], pa.int64()), f=pa.nulls(2, arrow))
        assert encode_rows(nulls, one, framed).values == [[b"<0|>"] * 2]


def test_keys_are_feasts_bytes() -> None:
    kinds = {"shop": "STRING", "aisle": "INT64", "shelf": "INT32"}
    shops = ["Zürich", "", "a" * 300, "Zürich"]
    aisles, shelves = [-3, 2**40, 0, 1], [9, -1, 2**31 - 1, 0]
    columns = {"shop": pa.array(shops), "aisle": pa.array(aisles), "shelf": pa.array(shelves)}
    rows = encode_rows(batch(**columns, f=pa.array([1.0] * 4)), view(kinds, {"f": "DOUBLE"}), same)
    expected = [
        serialize_entity_key(
            EntityKey(
                join_keys=["shop", "aisle", "shelf"],
                entity_values=[Value(string_val=shop), Value(int64_val=aisle), Value(int32_val=shelf)],
            ),
            entity_key_serialization_version=3,
        )
        for shop, aisle, shelf in zip(shops, aisles, shelves, strict=True)
    ]
    assert rows.keys == expected
    alone = encode_rows(batch(f=pa.array([1.0, 2.0])), view({}, {"f": "DOUBLE"}), same)
    assert alone.keys == [ENTITYLESS_KEY] * 2


def test_times_are_exact_in_every_unit_and_zone() -> None:
    exact = T0 + timedelta(microseconds=123_456)
    microseconds = 1_370_088_000_123_456
    one = view({"k": "INT64"}, {"f": "BOOL"})
    for arrow in (
        STAMP,
        pa.timestamp("us"),
        pa.timestamp("us", tz="America/New_York"),
        pa.timestamp("ns", tz="UTC"),
    ):
        value = exact.replace(tzinfo=None) if arrow.tz is None else exact
        stamps = pa.array([value], arrow)
        rows = encode_rows(
            batch(k=pa.array([1]), f=pa.array([True]), **{EVENT_COLUMN: stamps, CREATED_COLUMN: stamps}),
            one,
            same,
        )
        assert (rows.events.tolist(), rows.created.tolist()) == ([microseconds], [microseconds]), arrow
    unknown = {EVENT_COLUMN: pa.array([exact], STAMP), CREATED_COLUMN: pa.array([None], STAMP)}
    assert encode_rows(batch(k=pa.array([1]), f=pa.array([True]), **unknown), one, same).created.tolist() == [
        -1
    ]


def test_what_does_not_fit_is_said() -> None:
    one = view({"k": "INT32"}, {"f": "INT32"})
    with pytest.raises(OnlineError, match="view 'v': a value of 'f' does not fit int32"):
        encode_rows(batch(k=pa.array([1]), f=pa.array([2**31])), one, same)
    with pytest.raises(OnlineError, match="view 'v': a value of 'k' does not fit int32"):
        encode_rows(batch(k=pa.array([2**31]), f=pa.array([1])), one, same)
    with pytest.raises(OnlineError, match="'k' is null"):
        encode_rows(batch(k=pa.array([None], pa.int64()), f=pa.array([1])), one, same)
    for stamp in (None, datetime(1969, 12, 31, tzinfo=UTC)):
        with pytest.raises(OnlineError, match="missing or before 1970"):
            encode_rows(
                batch(k=pa.array([1]), f=pa.array([1]), **{EVENT_COLUMN: pa.array([stamp], STAMP)}), one, same
            )


def test_a_not_a_number_keeps_its_bits() -> None:
    bits = struct.pack("<Q", 0x7FF8_0000_0000_1234)
    column = pa.array([struct.unpack("<d", bits)[0]])
    rows = encode_rows(batch(k=pa.array([1]), f=column), view({"k": "INT64"}, {"f": "DOUBLE"}), same)
    assert rows.values == [[b"\x29" + bits]]
