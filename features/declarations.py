"""The types in which a feature table says what it is."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import date, datetime, timedelta
from typing import TYPE_CHECKING, Protocol

from contrail.windows import Revision, utc_literal

if TYPE_CHECKING:
    from duckdb import DuckDBPyConnection, DuckDBPyRelation

    Revise = Callable[[DuckDBPyConnection, tuple[date, date] | None, datetime], Revision | None]

DEPARTURES = "clean/departures"
WEATHER = "clean/weather"
OWNER = "team:features"


class Build(Protocol):
    """See `FeatureTable.build`."""

    def __call__(
        self, con: DuckDBPyConnection, lo: datetime, hi: datetime, created_from: datetime | None = None, /
    ) -> DuckDBPyRelation: ...


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
        build: ``build(con, lo, hi, created_from=None)`` returns the rows with ``lo <= known_at < hi``: the value at
            each instant as it was known then (``created_at`` = ``known_at``), and a further version of it for every
            later delivery that changes it (``created_at`` = its delivery). `con` holds one view per source, named as
            the source without its stage, with all versions of its rows. The same facts give the same bits, whatever
            `lo` and `hi` and whatever lies after `hi`; `hi` must not be later than *complete until*. With
            `created_from`, only the versions created then or later.
        revise: ``revise(con, days, built_until)``: which part of what is built changes by versions of the sources
            that are in a source's view and not in ``<view>_before``, what it was built from; None where nothing does.
            `days` are those that were written since, None where any may have been.
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
    revise: Revise
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


def published(
    keys: Sequence[str],
    values: Sequence[str],
    source: str,
    lo: datetime,
    hi: datetime,
    created_from: datetime | None = None,
) -> str:
    """SQL that gives rows the shape every feature table has, cut to [lo, hi) and in a fixed order.

    Args:
        keys: the key columns.
        values: the feature columns.
        source: the FROM item, with ``known_at`` and ``created_at``.
        created_from: cuts to the versions created then or later.
    """
    key_list = ", ".join(keys)
    since = f" AND created_at >= {utc_literal(created_from)}" if created_from else ""
    return f"""SELECT {key_list}, known_at, created_at,
  date_trunc('month', timezone('UTC', known_at))::DATE AS month, {", ".join(values)}
FROM {source} WHERE known_at >= {utc_literal(lo)} AND known_at < {utc_literal(hi)}{since}
ORDER BY known_at, {key_list}, created_at"""
