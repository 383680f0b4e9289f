"""From rows to the numbers a model sees, the same way in training, scoring and monitoring.

Texts become integer codes by maps that are frozen from the training range; what was not seen there, and null, is
missing (NaN). Everything is float64: narrower floats move the bins of the trees.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute

Floats = npt.NDArray[np.float64]
Integers = npt.NDArray[np.int64]
Booleans = npt.NDArray[np.bool_]

# Arrow makes its functions at import, so no type checker knows them.
pc: Any = pyarrow.compute

PREDICT_ROWS = 100_000  # at a time: memory stays flat however many rows there are


class EncodingError(ValueError):
    """Rows do not have the columns or types that the model was trained on."""


@dataclass(frozen=True)
class Encoding:
    """The ordered features and, of each text feature, its values in code order.

    Attributes:
        features: column names in the model's order.
        categories: text feature → its values; the code of a value is its position.
    """

    features: tuple[str, ...]
    categories: Mapping[str, tuple[str, ...]] = field(default_factory=dict[str, tuple[str, ...]])

    @classmethod
    def learn(cls, rows: pa.Table, features: tuple[str, ...], categorical: tuple[str, ...]) -> Encoding:
        """Freeze the category maps: the values of `rows` (the training range) in sorted order.

        Raises:
            EncodingError: a column is missing, or is not of texts.
        """
        categories: dict[str, tuple[str, ...]] = {}
        for name in categorical:
            column = _column(rows, name)
            if not _is_text(column.type):
                raise EncodingError(
                    f"feature {name} is declared categorical but is of type {column.type}, not text"
                )
            categories[name] = tuple(sorted(v for v in pc.unique(column).to_pylist() if v is not None))
        return cls(features=tuple(features), categories=categories)

    def matrix(self, rows: pa.Table, take: Integers | None = None) -> Floats:
        """The model's input, shape (rows, features), column-major float64; missing is NaN.

        Args:
            rows: a table that has every feature as a column; other columns are ignored.
            take: row numbers to use, in this order; all rows without it.

        Raises:
            EncodingError: a feature is missing or of a type that cannot be a number.
        """
        count = rows.num_rows if take is None else len(take)
        values = np.empty((count, len(self.features)), dtype=np.float64, order="F")
        chosen = None if take is None else pa.array(take)
        for position, name in enumerate(self.features):
            column = _column(rows, name)
            if chosen is not None:
                column = column.take(chosen)
            values[:, position] = (
                self._codes(name, column) if name in self.categories else _numbers(name, column)
            )
        return values

    def _codes(self, name: str, column: pa.ChunkedArray) -> Floats:
        if not _is_text(column.type):
            raise EncodingError(f"feature {name} must be text, as in training; it is of type {column.type}")
        known = pa.array(self.categories[name], pa.string())
        return _as_floats(pc.index_in(column.cast(pa.string()), value_set=known))


def predict(booster: Any, encoding: Encoding, rows: pa.Table) -> Floats:
    """Scores of `rows` in their order: probabilities, one thread, in chunks of bounded memory."""
    scores = np.empty(rows.num_rows, dtype=np.float64)
    for start in range(0, rows.num_rows, PREDICT_ROWS):
        chunk = rows.slice(start, PREDICT_ROWS)
        scores[start : start + chunk.num_rows] = booster.predict(encoding.matrix(chunk), num_threads=1)
    return scores


def floats(rows: pa.Table, name: str) -> Floats:
    """A numeric column as float64, null as NaN."""
    return _numbers(name, _column(rows, name))


def mask(values: Any) -> Booleans:
    """An Arrow boolean without nulls, as numpy."""
    return np.asarray(values.to_numpy(zero_copy_only=False), dtype=np.bool_)


def booleans(rows: pa.Table, name: str) -> Booleans:
    """A boolean column without nulls.

    Raises:
        EncodingError: the column is missing, not boolean, or has nulls.
    """
    column = _column(rows, name)
    if not pa.types.is_boolean(column.type):
        raise EncodingError(f"column {name} must be boolean; it is of type {column.type}")
    if column.null_count:
        raise EncodingError(f"column {name} has {column.null_count} nulls where every value must be known")
    return np.asarray(column.to_numpy(), dtype=np.bool_)


def _column(rows: pa.Table, name: str) -> pa.ChunkedArray:
    place = rows.schema.get_field_index(name)  # a table's list of names is made anew for every asking
    if place < 0:
        raise EncodingError(
            f"column {name} is missing or there twice; the rows have {sorted(rows.column_names)}"
        )
    column = rows.column(place)
    if pa.types.is_dictionary(column.type):
        return column.cast(column.type.value_type)
    return column


def _is_text(kind: pa.DataType) -> bool:
    return pa.types.is_string(kind) or pa.types.is_large_string(kind) or pa.types.is_string_view(kind)


def _numbers(name: str, column: pa.ChunkedArray) -> Floats:
    # A text, decimal or timestamp column handed to LightGBM aborts the process instead of raising.
    kind = column.type
    if not (pa.types.is_integer(kind) or pa.types.is_floating(kind) or pa.types.is_boolean(kind)):
        raise EncodingError(f"feature {name} must be a number, as in training; it is of type {kind}")
    return _as_floats(column)


def _as_floats(column: pa.ChunkedArray) -> Floats:
    return np.asarray(column.cast(pa.float64()).to_numpy(zero_copy_only=False), dtype=np.float64)
