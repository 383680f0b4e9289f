"""Feature vectors: which columns of which table they may hold, and what stands where there is no row.

The same functions serve both sides. What is not found, or is older than its table's max age, is the declared prior on
the grid tables, and that is no guess: once every window is empty the stored value would be the prior. For weather and
aircraft it is null.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import datetime
from types import MappingProxyType
from typing import Any

import pyarrow as pa
import pyarrow.compute

from features.request_time import CATEGORICAL, COMPUTED, FEATURE_ORDER, LEG_COLUMNS
from features.tables import FEATURE_TABLES

__all__ = [
    "CATEGORICAL",
    "FEATURE_ORDER",
    "PRIORS",
    "VIEW_FEATURES",
    "VectorError",
    "fill_priors",
    "fill_priors_row",
]

pc: Any = pyarrow.compute  # its functions are made at import, unknown to the type checker
Value = str | float | int | bool | datetime | None


class VectorError(ValueError):
    """A vector cannot be made of these values."""


def _view_features() -> dict[str, tuple[str, ...]]:
    owner = {column.name: table for table in FEATURE_TABLES.values() for column in table.columns}
    used: dict[str, list[str]] = {name: [] for name in FEATURE_TABLES}
    for name in (*(f for f in FEATURE_ORDER if f not in COMPUTED), *LEG_COLUMNS):
        used[owner[name].name].append(name)
    return {table: tuple(columns) for table, columns in used.items()}


# Which columns of each table go into vectors; those of aircraft_leg go into request-time arithmetic.
VIEW_FEATURES: Mapping[str, tuple[str, ...]] = MappingProxyType(_view_features())

PRIORS: Mapping[str, float | int | None] = MappingProxyType(
    {column.name: column.prior for table in FEATURE_TABLES.values() for column in table.columns}
)


def fill_priors(
    columns: Mapping[str, pa.Array | pa.ChunkedArray],
    *,
    decision_at: pa.Array | Sequence[datetime] | None = None,
    row_known_at: Mapping[str, pa.Array | Sequence[datetime | None]] | None = None,
) -> dict[str, pa.Array]:
    """Put the declared value where a table had no row, or only one outside its max age.

    Args:
        columns: feature columns as they were looked up, null where no row was found; others pass through unchanged.
        decision_at: the decision time of each row; needed with `row_known_at`.
        row_known_at: table → the known-at time of the row that was found, null where none was. Give it where the
            look-up does not itself apply max age (the online store does not). Tables left out are taken as checked.

    Returns:
        The same columns in the same order and types: priors on the grid tables, null on weather and aircraft.

    Raises:
        VectorError: a row is younger than its decision, or `decision_at` is missing.
        KeyError: `row_known_at` names an unknown table.
    """
    usable: dict[str, pa.Array] = {}
    for table, known_at in (row_known_at or {}).items():
        if decision_at is None:
            raise VectorError("row_known_at needs decision_at: max age is counted back from the decision")
        usable |= dict.fromkeys(FEATURE_TABLES[table].column_names, _usable(table, decision_at, known_at))
    filled: dict[str, pa.Array] = {}
    for name, column in columns.items():
        array: pa.Array = column.combine_chunks() if isinstance(column, pa.ChunkedArray) else column
        if name in PRIORS:
            if name in usable:
                array = pc.if_else(usable[name], array, pa.scalar(None, array.type))
            if pa.types.is_floating(array.type):
                array = pc.if_else(
                    pc.is_nan(array), pa.scalar(None, array.type), array
                )  # pandas' way to say null
            prior = PRIORS[name]
            if prior is not None:
                array = array.fill_null(pa.scalar(prior, array.type))
        filled[name] = array
    return filled


def fill_priors_row(
    values: Mapping[str, Value],
    *,
    decision_at: datetime | None = None,
    row_known_at: Mapping[str, datetime | None] | None = None,
) -> dict[str, Value]:
    """`fill_priors` for one row: the same rules, values instead of columns.

    Raises:
        VectorError: a row is younger than its decision, or `decision_at` is missing.
        KeyError: `row_known_at` names an unknown table.
    """
    unusable: set[str] = set()
    for table, known_at in (row_known_at or {}).items():
        if decision_at is None:
            raise VectorError("row_known_at needs decision_at: max age is counted back from the decision")
        if known_at is not None and known_at > decision_at:
            raise VectorError(_too_young(table))
        if known_at is None or decision_at - known_at > FEATURE_TABLES[table].max_age:
            unusable |= set(FEATURE_TABLES[table].column_names)
    filled: dict[str, Value] = {}
    for name, value in values.items():
        empty = value is None or name in unusable or (isinstance(value, float) and value != value)
        filled[name] = PRIORS[name] if name in PRIORS and empty else value
    return filled


def _usable(
    table: str, decision_at: pa.Array | Sequence[datetime], known_at: pa.Array | Sequence[datetime | None]
) -> pa.Array:
    decided, known = (_microseconds(values) for values in (decision_at, known_at))
    age = pc.subtract(decided, known)
    if pc.any(pc.less(age, 0)).as_py():
        raise VectorError(_too_young(table))
    limit = int(FEATURE_TABLES[table].max_age.total_seconds()) * 1_000_000
    return pc.less_equal(age, limit).fill_null(False)


def _microseconds(instants: pa.Array | Sequence[datetime | None]) -> pa.Array:
    instant = pa.timestamp("us", tz="UTC")
    array: Any = instants if isinstance(instants, pa.Array) else pa.array(instants, instant)
    return array.cast(instant).cast(pa.int64())


def _too_young(table: str) -> str:
    return f"a row of {table} became known after the decision it is used for: cut the look-up at the decision time"
