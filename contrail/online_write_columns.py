"""Arrow batches as Feast's bytes, a column at a time.

No object is made per cell where it can be helped: numbers of a fixed width are laid out in one buffer, everything else
is encoded once per distinct value of a batch.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from contrail.online_layout import ENTITYLESS_KEY, KEY_TYPES, VALUE_TYPES, instant_of, key_prefix
from contrail.online_views import OnlineError, OnlineView

EVENT_COLUMN, CREATED_COLUMN = "__event_at", "__created_at"
"""The event and the created time of a batch, beside keys and features; the created time may be missing."""

Frame = Callable[[bytes], bytes]

# numpy type, tag and width of the kinds whose serialized values have one length
_FIXED = {"DOUBLE": ("<f8", 0x29, 8), "FLOAT": ("<f4", 0x35, 4)}
_ARROW_TYPES: dict[str, tuple[Callable[[pa.DataType], bool], ...]] = {
    "STRING": (pa.types.is_string, pa.types.is_large_string),
    "INT32": (pa.types.is_integer,),
    "INT64": (pa.types.is_integer,),
    "DOUBLE": (pa.types.is_floating, pa.types.is_integer),
    "FLOAT": (pa.types.is_floating, pa.types.is_integer),
    "BOOL": (pa.types.is_boolean,),
    "UNIX_TIMESTAMP": (pa.types.is_timestamp, pa.types.is_date),
}


@dataclass(frozen=True)
class EncodedRows:
    """Rows of one view as they are stored.

    Attributes:
        keys: serialized entity keys.
        events: event times, microseconds since 1970.
        created: created times, likewise; -1 where none is known.
        values: per feature, in the view's order, the framed serialized values.
    """

    keys: list[bytes]
    events: npt.NDArray[np.int64]
    created: npt.NDArray[np.int64]
    values: list[list[bytes]]


def check_types(schema: pa.Schema, view: OnlineView) -> None:
    """Whether a source's columns are of the types that the view says.

    Raises:
        OnlineError: one is not, or a type is not served at all.
    """
    for name, kind in view.keys.items():
        if kind not in KEY_TYPES:
            raise OnlineError(
                f"view {view.name!r}: entity key {name!r} is of type {kind}; known: {sorted(KEY_TYPES)}"
            )
    for name, kind in view.features.items():
        if kind not in VALUE_TYPES:
            raise OnlineError(
                f"view {view.name!r}: feature {name!r} is of type {kind}, which cannot be served; "
                f"known: {sorted(VALUE_TYPES)}"
            )
    for name, kind in {**view.keys, **view.features}.items():
        found = schema.field(name).type
        if not any(is_type(found) for is_type in _ARROW_TYPES[kind]):
            raise OnlineError(
                f"view {view.name!r}: {name!r} is declared {kind}, but its source holds {found}: "
                "change the view's schema, or the table"
            )


def encode_rows(batch: pa.RecordBatch, view: OnlineView, frame: Frame) -> EncodedRows:
    """A batch with the view's keys, its features, `EVENT_COLUMN` and perhaps `CREATED_COLUMN`.

    Args:
        frame: wraps every serialized value; what it adds depends on the value's length alone.

    Raises:
        OnlineError: a value does not fit the view's type, or an event is before 1970.
    """
    events = _microseconds(batch.column(EVENT_COLUMN), -1)
    if batch.num_rows and int(events.min()) < 0:
        raise OnlineError(
            f"view {view.name!r}: an event time is missing or before 1970, and cannot be served"
        )
    created = (
        _microseconds(batch.column(CREATED_COLUMN), -1)
        if CREATED_COLUMN in batch.schema.names
        else np.full(batch.num_rows, -1, np.int64)
    )
    values = [_encode(batch.column(name), kind, frame, view, name) for name, kind in view.features.items()]
    return EncodedRows(_encode_keys(batch, view), events, created, values)


def _microseconds(column: pa.Array, missing: int) -> npt.NDArray[np.int64]:
    # A timestamp without a zone counts as UTC, here as everywhere; nanoseconds are cut.
    zone = column.type.tz if pa.types.is_timestamp(column.type) else None
    stamps = column.cast(pa.timestamp("us", tz=zone), safe=False)
    return pc.fill_null(stamps.cast(pa.int64()), missing).to_numpy(zero_copy_only=False)


def _cast(column: pa.Array, kind: pa.DataType, view: OnlineView, name: str) -> pa.Array:
    try:
        return column.cast(kind)
    except pa.ArrowInvalid as error:
        raise OnlineError(f"view {view.name!r}: a value of {name!r} does not fit {kind}: {error}") from error


def _encode(column: pa.Array, kind: str, frame: Frame, view: OnlineView, name: str) -> list[bytes]:
    if kind in _FIXED:
        return _fixed_width(_cast(column, pa.float64(), view, name), *_FIXED[kind], frame)
    encode: Callable[[Any], bytes] = VALUE_TYPES[kind]
    if kind in ("INT32", "INT64"):
        column = _cast(column, pa.int32() if kind == "INT32" else pa.int64(), view, name)
    elif kind == "UNIX_TIMESTAMP":
        # Floored to the second before values are told apart.
        seconds = _microseconds(column, 0) // 1_000_000
        column = pa.array(seconds, mask=column.is_null().to_numpy(zero_copy_only=False))
        encode_instant = VALUE_TYPES[kind]
        encode = lambda value: encode_instant(instant_of(value))  # noqa: E731
    distinct = column.dictionary_encode()
    encoded = [frame(encode(value)) for value in distinct.dictionary.to_pylist()]
    encoded.append(frame(b""))
    return [encoded[i] for i in pc.fill_null(distinct.indices, len(encoded) - 1).to_pylist()]


def _fixed_width(column: pa.Array, dtype: str, tag: int, width: int, frame: Frame) -> list[bytes]:
    before, payload, after = frame(bytes(width + 1)).partition(bytes(width + 1))
    numbers = pc.fill_null(column, 0.0).to_numpy(zero_copy_only=False).astype(dtype)
    head, body = len(before) + 1, len(before) + len(payload)
    cells = np.empty((len(numbers), body + len(after)), np.uint8)
    cells[:, :head] = np.frombuffer(before + bytes([tag]), np.uint8)
    cells[:, head:body] = numbers.view(np.uint8).reshape(len(numbers), width)
    cells[:, body:] = np.frombuffer(after, np.uint8)
    encoded = _rows_of(cells)
    if column.null_count:
        null = frame(b"")
        for row in np.flatnonzero(column.is_null().to_numpy(zero_copy_only=False)):
            encoded[row] = null
    return encoded


def _rows_of(cells: npt.NDArray[np.uint8]) -> list[bytes]:
    data, width = cells.tobytes(), cells.shape[1]
    return [data[start : start + width] for start in range(0, len(data), width)]


def _encode_keys(batch: pa.RecordBatch, view: OnlineView) -> list[bytes]:
    names = sorted(view.keys)
    if not names:
        return [ENTITYLESS_KEY] * batch.num_rows
    parts = [_key_parts(batch.column(name), view.keys[name], view, name) for name in names]
    prefix = key_prefix(names)
    return [prefix + b"".join(values) for values in zip(*parts, strict=True)]


def _key_parts(column: pa.Array, kind: str, view: OnlineView, name: str) -> list[bytes]:
    if column.null_count:
        raise OnlineError(f"view {view.name!r}: entity key {name!r} is null in a row, which is nobody")
    if kind == "STRING":
        distinct = column.dictionary_encode()
        encoded = [KEY_TYPES[kind][1](value) for value in distinct.dictionary.to_pylist()]
        return [encoded[i] for i in distinct.indices.to_pylist()]
    dtype, width = ("<i4", 4) if kind == "INT32" else ("<i8", 8)
    numbers = _cast(column, pa.int32() if kind == "INT32" else pa.int64(), view, name)
    head = KEY_TYPES[kind][1](0)[:-width]
    cells = np.empty((len(column), len(head) + width), np.uint8)
    cells[:, : len(head)] = np.frombuffer(head, np.uint8)
    cells[:, len(head) :] = (
        numbers.to_numpy(zero_copy_only=False).astype(dtype).view(np.uint8).reshape(len(column), width)
    )
    return _rows_of(cells)
