"""Feast's bytes for what is stored online: values, entity keys, Redis' fields and times."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

import pytest
from feast.infra.key_encoding_utils import serialize_entity_key
from feast.protos.feast.types.EntityKey_pb2 import EntityKey
from feast.protos.feast.types.Value_pb2 import Value

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

T0 = datetime(2013, 6, 1, 12, tzinfo=UTC)


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
