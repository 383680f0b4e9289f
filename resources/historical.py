"""Historical feature vectors: joined at once where the rows are few, in time shards where they are many."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass, replace
from pathlib import Path

import duckdb
import numpy as np
import pyarrow as pa
import pyarrow.parquet as parquet

from contrail.asof_join import JoinView, point_in_time_join
from contrail.asof_shards import (
    FileSpec,
    FinishSpec,
    Joined,
    SpineSpec,
    join_by_shards,
    join_into_table,
    join_spec,
    read_files,
)
from contrail.commits import Commit, file_sha256
from contrail.lake import Lake
from contrail.shards import Means
from feature_repo.online_vectors import DECISION_COLUMN
from features.completion import complete_rows
from features.request_time import request_columns

_ROW_ID = "__row_id"
_KNOWN_AT, _CREATED_AT = "__known_at", "__created_at"  # of a view's rows, in a join that is asked for them


@dataclass(frozen=True)
class Retrieval:
    """What a feature service asks of the lake.

    Attributes:
        service: its name, for messages.
        views: the stored features, each view with the table that it reads, ``stage/name@v3``.
        features: names of the vector, in its order.
    """

    service: str
    views: tuple[tuple[JoinView, str], ...]
    features: tuple[str, ...]

    @property
    def keys(self) -> list[str]:
        """The spine columns that the views are joined by, sorted."""
        return sorted({key for view, _ in self.views for key in view.keys})

    @property
    def request_columns(self) -> list[str]:
        """The spine columns that features are computed of."""
        return list(request_columns(self.features))

    @property
    def versions(self) -> dict[str, int]:
        """Table -> version, of every table that is read."""
        named = (table.rpartition("@v") for _, table in self.views)
        return {table: int(version) for table, _, version in named}

    def check(self, columns: Iterable[str]) -> None:
        """See that rows with these columns can be given their vectors.

        Raises:
            ValueError: a column is missing, or named like a computed feature.
        """
        found = list(columns)
        if missing := sorted({DECISION_COLUMN, *self.keys, *self.request_columns} - set(found)):
            raise ValueError(f"the rows for {self.service} lack the columns {missing}; they have {found}")
        if clash := sorted((set(self.features) - set(self.request_columns)) & set(found)):
            raise ValueError(
                f"the rows for {self.service} already have columns named like its features: {clash}"
            )


def vectors(
    retrieval: Retrieval,
    rows: pa.Table,
    *,
    session: Callable[[], duckdb.DuckDBPyConnection],
    lake_root: Path,
    means: Means,
) -> pa.Table:
    """The rows in their order, each with its vector.

    Args:
        session: opens the session in which the rows are joined if that is done at once.
    """
    retrieval.check(rows.column_names)
    if rows.num_rows == 0 or (means.engine == "local" and rows.num_rows <= means.shard_rows):
        with closing(session()) as con:
            return _at_once(retrieval, rows, con)
    return _by_shards(retrieval, rows, lake_root, means)


def vectors_into(
    lake: Lake,
    table: str,
    retrieval: Retrieval,
    *,
    spine_sql: str,
    spine_tables: Mapping[str, str],
    order_by: Sequence[str],
    columns: Sequence[str],
    commit: Commit,
    means: Means,
    known_at_column: str | None = None,
) -> Joined:
    """Make the vectors of a spine the content of a table, without holding them in this process's memory.

    Args:
        spine_sql: a SELECT over `spine_tables` (name in it -> ``stage/name@v3``).
        order_by: spine columns that make its rows unique.
        columns: what is kept of the spine's columns and the vector.
        known_at_column: a further column: when the newest of the rows that were looked up for a vector was known.
    """
    views, finish = retrieval.views, _completion(retrieval)
    if known_at_column is not None:
        times = {view.name: _times(view) for view, _ in views}
        finish["arguments"] |= {
            "known_at": [known_at_column],
            "times": [output for of_view in times.values() for _, output in of_view],
        }
        views = [(replace(view, features=(*view.features, *times[view.name])), read) for view, read in views]
        columns = [*columns, known_at_column]
    spec = join_spec(
        lake_root=lake.root,
        spine=SpineSpec(sql=spine_sql, tables=dict(spine_tables), files={}),
        order_by=order_by,
        decision_column=DECISION_COLUMN,
        views=views,
        means=means,
        folder=Path(lake.uri(table)),
        finish=finish,
        columns=columns,
    )
    return join_into_table(lake, table, spec, means, commit)


def _completion(retrieval: Retrieval) -> FinishSpec:
    return FinishSpec(
        function=f"{complete_rows.__module__}:{complete_rows.__name__}",
        arguments={"features": list(retrieval.features)},
    )


def _times(view: JoinView) -> list[tuple[str, str]]:
    """What says when a view's row was known, as further features of the view."""
    created = [(view.created_column, f"{_CREATED_AT}:{view.name}")] if view.created_column else []
    return [(view.event_column, f"{_KNOWN_AT}:{view.name}"), *created]


def _at_once(retrieval: Retrieval, rows: pa.Table, con: duckdb.DuckDBPyConnection) -> pa.Table:
    con.register("entity_rows", _numbered(rows.select([DECISION_COLUMN, *retrieval.keys])))
    joined = point_in_time_join(
        con,
        spine="entity_rows",
        decision_column=DECISION_COLUMN,
        row_id_column=_ROW_ID,
        views=[view for view, _ in retrieval.views],
    ).to_arrow_table()
    for view, _ in retrieval.views:
        for _, name in view.features:
            rows = rows.append_column(name, joined[name])
    return complete_rows(rows, retrieval.features)


def _by_shards(retrieval: Retrieval, rows: pa.Table, lake_root: Path, means: Means) -> pa.Table:
    asked = dict.fromkeys([DECISION_COLUMN, *retrieval.keys, *retrieval.request_columns])
    means.temp_root.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=means.temp_root, prefix="historical-") as work:
        spine = Path(work) / "spine.parquet"
        parquet.write_table(_numbered(rows.select(list(asked))), spine)
        spec = join_spec(
            lake_root=lake_root,
            spine=SpineSpec(
                sql="SELECT * FROM spine",
                tables={},
                files={"spine": FileSpec(path=str(spine), sha256=file_sha256(spine))},
            ),
            order_by=[_ROW_ID],
            decision_column=DECISION_COLUMN,
            views=retrieval.views,
            means=means,
            folder=Path(work) / "vectors",
            finish=_completion(retrieval),
            columns=[_ROW_ID, *retrieval.features],
        )
        made = read_files(spec, join_by_shards(spec, means))
    # Shards follow the decision times; the answer follows the rows.
    made = made.take(pa.array(np.argsort(made[_ROW_ID].to_numpy(), kind="stable")))
    own = {name: rows[name] for name in rows.column_names if name not in retrieval.features}
    return pa.table(own | {name: made[name] for name in retrieval.features})


def _numbered(rows: pa.Table) -> pa.Table:
    return rows.append_column(_ROW_ID, pa.array(np.arange(rows.num_rows)))
