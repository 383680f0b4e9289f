"""Feast's bytes for what is stored online: entity keys (serialization version 3), scalar values, Redis' fields.

In SQLite a view is one table, ``<project>_<view>``, one row per cell. In Redis an entity is one hash for all views
with the same join keys: its key is `redis_key`, a feature's field `redis_field`, a view's event time stands in
`redis_time_field`.

Written and read without protobuf objects, which cost more than the storage; tested byte by byte against Feast's own.
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, datetime, timedelta
from functools import partial
from typing import Any

import mmh3

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_HEAD = struct.Struct("<II")
_DOUBLE, _FLOAT = struct.Struct("<d").unpack_from, struct.Struct("<f").unpack_from
_NO_TIME = -(1 << 63)  # how Feast stores a null among instants


class OnlineError(RuntimeError):
    """The online copy cannot be written or read; the text says what to do."""


def _varint(number: int) -> bytes:
    number &= (1 << 64) - 1
    out = bytearray()
    while number > 127:
        out.append(number & 127 | 128)
        number >>= 7
    out.append(number)
    return bytes(out)


def _read_varint(data: bytes, position: int) -> int:
    result = shift = 0
    while True:
        byte = data[position]
        result |= (byte & 127) << shift
        if byte < 128:
            return result - (1 << 64) if result >> 63 else result
        shift += 7
        position += 1


def _text(value: str) -> bytes:
    data = value.encode()
    return b"\x12" + _varint(len(data)) + data


# Feast's type name -> the field of feast.types.Value, with its tag.
VALUE_TYPES: dict[str, Callable[[Any], bytes]] = {
    "STRING": _text,
    "INT32": lambda value: b"\x18" + _varint(value),
    "INT64": lambda value: b"\x20" + _varint(value),
    "DOUBLE": lambda value: b"\x29" + struct.pack("<d", value),
    "FLOAT": lambda value: b"\x35" + struct.pack("<f", value),
    "BOOL": lambda value: b"\x38\x01" if value else b"\x38\x00",
    "UNIX_TIMESTAMP": lambda value: b"\x40" + _varint(epoch_seconds(value)),
}


def _key_text(value: str) -> bytes:
    data = value.encode()
    return _HEAD.pack(2, len(data)) + data


# Feast's type name -> the value's Python type, and how it stands in an entity key: type number, length, bytes.
KEY_TYPES: dict[str, tuple[type, Callable[[Any], bytes]]] = {
    "STRING": (str, _key_text),
    "INT32": (int, partial(struct.Struct("<IIi").pack, 3, 4)),
    "INT64": (int, partial(struct.Struct("<IIq").pack, 4, 8)),
}


def epoch_seconds(value: datetime) -> int:
    """Whole seconds since 1970, the resolution of what is stored."""
    return (value - _EPOCH) // timedelta(seconds=1)


def instant_of(seconds: int) -> datetime:
    """The instant of `epoch_seconds`, aware."""
    return _EPOCH + timedelta(seconds=seconds)


def encode_value(value: Any, kind: str) -> bytes:
    """A value as a serialized ``feast.types.Value``; null is empty.

    Args:
        kind: the name of Feast's `ValueType`.

    Raises:
        OnlineError: the type is not one of the scalar types that are served.
    """
    if kind not in VALUE_TYPES:
        raise OnlineError(f"features of type {kind} cannot be served; known: {sorted(VALUE_TYPES)}")
    return b"" if value is None else VALUE_TYPES[kind](value)


def decode_value(data: bytes | None) -> Any:
    """The Python value of a serialized ``feast.types.Value``; a timestamp becomes an aware datetime.

    Raises:
        OnlineError: the bytes are not one of the scalar types that are served.
    """
    if not data:
        return None
    # In the order of how many there are: this runs for every cell of every answer.
    tag = data[0]
    if tag == 0x29:
        return _DOUBLE(data, 1)[0]
    if tag in (0x18, 0x20):
        return data[1] if data[1] < 128 else _read_varint(data, 1)
    if tag == 0x38:
        return data[1] != 0
    if tag == 0x35:
        return _FLOAT(data, 1)[0]
    if tag == 0x12:
        if data[1] < 128:
            return data[2:].decode()
        start = next(i for i in range(1, len(data)) if data[i] < 128) + 1
        return data[start:].decode()
    if tag == 0x40:
        seconds = _read_varint(data, 1)
        return None if seconds == _NO_TIME else instant_of(seconds)
    raise OnlineError(f"a stored value begins with the tag {tag:#04x}, which no served type has")


def encode_key(values: Mapping[str, Any], kinds: Mapping[str, str]) -> bytes:
    """An entity key in Feast's serialization, version 3: the join keys' names in order, then their values.

    Args:
        values: join key -> value; more than the key's columns may be there.
        kinds: join key -> name of Feast's `ValueType`. An int32 and an int64 of the same value are different keys.
    """
    names = sorted(kinds)
    if unknown := [name for name in names if kinds[name] not in KEY_TYPES]:
        raise OnlineError(
            f"entity key {unknown[0]!r} is of type {kinds[unknown[0]]}; known: {sorted(KEY_TYPES)}"
        )
    return key_prefix(names) + b"".join(KEY_TYPES[kinds[name]][1](values[name]) for name in names)


def decode_key(data: bytes, kinds: Mapping[str, str]) -> dict[str, Any]:
    """Join key -> value: the reverse of `encode_key`."""
    names = sorted(kinds)
    values: dict[str, Any] = {}
    position = len(key_prefix(names))
    for name in names:
        start = position + _HEAD.size
        position = start + _HEAD.unpack_from(data, position)[1]
        value = data[start:position]
        values[name] = (
            value.decode() if kinds[name] == "STRING" else int.from_bytes(value, "little", signed=True)
        )
    return values


def key_prefix(names: Sequence[str]) -> bytes:
    """What the entity keys of some join keys, sorted by name, begin with: how many they are, and their names."""
    return struct.pack("<I", len(names)) + b"".join(_key_text(name) for name in names)


ENTITYLESS_KEY = encode_key({"__dummy_id": ""}, {"__dummy_id": "STRING"})
"""The one key of a view without entity."""


# --- Redis -----------------------------------------------------------------------------------------------------------


def redis_key(entity_key: bytes, project: str) -> bytes:
    """The Redis key of an entity's hash, from `encode_key`."""
    return entity_key + project.encode()


def redis_field(stored_name: str, feature: str) -> bytes:
    """The field of a feature in an entity's hash: 4 bytes, so that two of them can be equal.

    Args:
        stored_name: `OnlineView.stored_name`.
    """
    return struct.pack("<I", mmh3.hash(f"{stored_name}:{feature}", signed=False))


def redis_time_field(stored_name: str) -> bytes:
    """The field of a view's event time in an entity's hash; its value is `encode_time`."""
    return f"_ts:{stored_name}".encode()


def encode_time(microseconds: int) -> bytes:
    """An instant as a serialized ``google.protobuf.Timestamp``.

    Args:
        microseconds: since 1970, not negative.
    """
    seconds, rest = divmod(microseconds, 1_000_000)
    return (b"\x08" + _varint(seconds) if seconds else b"") + (
        b"\x10" + _varint(rest * 1000) if rest else b""
    )


def decode_time(data: bytes) -> int:
    """Microseconds since 1970 of a serialized ``google.protobuf.Timestamp``."""
    seconds = nanoseconds = number = shift = 0
    tag = 0
    for byte in data:
        if not tag:
            tag = byte
            continue
        number |= (byte & 127) << shift
        if byte >= 128:
            shift += 7
            continue
        if tag == 0x08:
            seconds = number - (1 << 64) if number >> 63 else number
        else:
            nanoseconds = number
        tag = number = shift = 0
    return seconds * 1_000_000 + nanoseconds // 1000
