"""The types in which a feature table says what it is."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from duckdb import DuckDBPyConnection, DuckDBPyRelation

    Build = Callable[[DuckDBPyConnection, datetime, datetime], DuckDBPyRelation]

DEPARTURES = "clean/departures"
WEATHER = "clean/weather"
OWNER = "team:features"


@dataclass(frozen=True)
class FeatureColumn:
    """One column of a feature table.

    Attributes:
        name: the column, prefixed by its scope.
        sql_type: its DuckDB type.
        unit: what one unit of it is.
        description: what it says, in one sentence.
        known_rule: by which rule a source fact may count.
        window: the half-open window (g − w, g] it covers, in words; empty for a level or a single observation.
        prior: its value where there is no row or only one outside max age; None means null.
        deprecated: why no new model should use it, and what to use instead; empty: it is not deprecated.
    """

    name: str
    sql_type: str
    unit: str
    description: str
    known_rule: str
    window: str = ""
    prior: float | int | None = None
    deprecated: str = ""


@dataclass(frozen=True)
class FeatureTable:
    """One feature table: a pure function of clean tables, for any span of known-at times.

    Attributes:
        name: the table's name under ``feature/``.
        entity: what one key value stands for.
        keys: the key columns.
        columns: the feature columns, in order; before them stand keys, ``known_at``, ``created_at``, ``month``.
        look_back: how long before `lo` a builder needs facts.
        max_age: the age, at the time of a question, up to which a row answers it.
        grid: the distance of two instants at which values are defined; None for rows at events.
        description: what the table holds, in one or two sentences.
        sources: the clean tables it is made of.
        build: ``build(con, lo, hi)`` returns the rows with ``lo <= known_at < hi``. `con` holds one view per source,
            named as the source without its stage, with all versions of its rows. The same facts give the same bits,
            whatever `lo` and `hi` and whatever lies after `hi`; `hi` must not be later than *complete until*.
        owner: who answers for it.
        deprecated: why no new model should use any of its columns; empty: it is not deprecated.
    """

    name: str
    entity: str
    keys: tuple[str, ...]
    columns: tuple[FeatureColumn, ...]
    look_back: timedelta
    max_age: timedelta
    grid: timedelta | None
    description: str
    sources: tuple[str, ...]
    build: Build
    owner: str = OWNER
    deprecated: str = ""

    @property
    def column_names(self) -> tuple[str, ...]:
        """All columns in the order in which `build` returns them."""
        return (*self.keys, "known_at", "created_at", "month", *(column.name for column in self.columns))


@dataclass(frozen=True)
class RequestFeature:
    """One feature that is computed when the question is asked.

    Attributes:
        sql_type: VARCHAR (a category) or INTEGER.
        unit: what one unit of it is.
        description: what it says.
        known_rule: by which rule a source fact may count.
        reads: the feature table that it is computed from beside the request; empty: from the request alone.
        owner: who answers for it.
        deprecated: why no new model should use it, and what to use instead; empty: it is not deprecated.
    """

    sql_type: str
    unit: str
    description: str
    known_rule: str
    reads: str = ""
    owner: str = OWNER
    deprecated: str = ""


def published(keys: str, known_at: str, values: str, source: str, lo: str, hi: str) -> str:
    """SQL that gives rows the shape every feature table has, cut to [lo, hi) and in a fixed order.

    Args:
        keys: the key columns, with commas between them.
        known_at: the expression of the known-at time.
        values: the feature columns, with commas between them.
        source: the FROM item.
        lo: literal of the first instant.
        hi: literal of the first instant that is out.
    """
    return f"""SELECT {keys}, {known_at} AS known_at, {known_at} AS created_at,
  date_trunc('month', timezone('UTC', {known_at}))::DATE AS month, {values}
FROM {source} WHERE {known_at} >= {lo} AND {known_at} < {hi}
ORDER BY {known_at}, {keys}"""
