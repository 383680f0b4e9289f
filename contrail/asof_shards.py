"""The point-in-time join in time shards of its spine: one step per shard, one commit of all that the steps wrote.

Whatever the number of shards, the engine, the threads and the memory, the rows are the same: every input is read at the
version that the spec names, a view is read back from the shard's first decision by the view's own max age, and
`contrail.asof_join` breaks every tie by values. A shard's file is in the order of the spine.
"""

from __future__ import annotations

import shutil
import uuid
from collections.abc import Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass, replace
from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from typing import TypedDict, cast

import duckdb
import pyarrow as pa
import pyarrow.parquet as parquet

from contrail import duck
from contrail.asof_join import JoinView, instant, point_in_time_join, utc
from contrail.commits import RUN_ID, WRITTEN_AT, Commit, Stamped, Written, file_sha256
from contrail.duck import quote_identifier as q
from contrail.lake import Lake
from contrail.shards import Means, Shard, ShardError, function_named, map_shards, plan

BATCH_ROWS = 100_000
SHARD_COUNT = "shards"
"""Where a commit's extra facts say how many shards it was made of."""

_MICROSECOND = timedelta(microseconds=1)
_ROW = "__shard_row"
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


class FileSpec(TypedDict):
    """A Parquet file and the sha256 that it must have."""

    path: str
    sha256: str


class SpineSpec(TypedDict):
    """Whose decisions: a SELECT over tables (name in it -> ``stage/name@v3``) and files (name in it -> file)."""

    sql: str
    tables: dict[str, str]
    files: dict[str, FileSpec]


class ViewSpec(TypedDict):
    """A `JoinView` whose rows lie in a table of the lake, ``stage/name@v3``; its max age in microseconds."""

    name: str
    table: str
    keys: dict[str, str]
    event_column: str
    created_column: str | None
    max_age_us: int | None
    features: list[list[str]]


class FinishSpec(TypedDict):
    """``module:function`` that is given joined rows (an Arrow table, any number of them) and named arguments, and
    returns what is to be written: it must work row by row, and give the same types for no rows at all."""

    function: str
    arguments: dict[str, list[str]]


class JoinSpec(TypedDict):
    """All that `write_shard` needs to know, as plain data.

    `order_by` names spine columns that make its rows unique: the order of the output. `columns` are what is kept of the
    result (None: all). `run_id` adds the provenance columns of the lake (None: a file of no table). Every file in
    `folder` and every spill folder in `temp_directory` begins with `job`.
    """

    job: str
    lake_root: str
    spine: SpineSpec
    order_by: list[str]
    decision_column: str
    views: list[ViewSpec]
    knowledge_time: bool
    finish: FinishSpec | None
    columns: list[str] | None
    folder: str
    run_id: str | None
    threads: int
    memory_limit: str
    temp_directory: str


@dataclass(frozen=True)
class Joined:
    """What a job left in its table: the version, the rows of that version, from how many shards, made of what."""

    version: int
    rows: int
    shards: int
    inputs: tuple[str, ...]


def join_spec(
    *,
    lake_root: Path,
    spine: SpineSpec,
    order_by: Sequence[str],
    decision_column: str,
    views: Sequence[tuple[JoinView, str]],
    means: Means,
    folder: Path,
    knowledge_time: bool = True,
    finish: FinishSpec | None = None,
    columns: Sequence[str] | None = None,
) -> JoinSpec:
    """A job of its own over these inputs.

    Args:
        views: each with the table that it reads, ``stage/name@v3``; a view's `scan_sql` is not looked at.
        means: threads and memory of each session.
    """
    return JoinSpec(
        job=uuid.uuid4().hex,
        lake_root=str(lake_root),
        spine=spine,
        order_by=list(order_by),
        decision_column=decision_column,
        views=[
            ViewSpec(
                name=view.name,
                table=table,
                keys=dict(view.keys),
                event_column=view.event_column,
                created_column=view.created_column,
                max_age_us=view.max_age // _MICROSECOND if view.max_age else None,
                features=[[column, output] for column, output in view.features],
            )
            for view, table in views
        ],
        knowledge_time=knowledge_time,
        finish=finish,
        columns=list(columns) if columns is not None else None,
        folder=str(folder),
        run_id=None,
        threads=means.threads,
        memory_limit=means.memory_limit,
        temp_directory=str(means.temp_root),
    )


def inputs_of(spec: JoinSpec) -> list[str]:
    """Everything that the job reads, as a commit names it."""
    spine = spec["spine"]
    files = [f"sha256:{file['sha256']}" for file in spine["files"].values()]
    return sorted({*spine["tables"].values(), *(view["table"] for view in spec["views"]), *files})


# -- the driver ------------------------------------------------------------------------------------------------------


def spine_shards(spec: JoinSpec, shard_rows: int) -> tuple[tuple[Shard, ...], int]:
    """The plan for a spine, and how many rows it has; no shards where there are none."""
    spill = _spill_folder(spec)
    try:
        with closing(_session(spec, spill)) as con:
            decision = utc(q(spec["decision_column"]))
            found = con.execute(
                f"SELECT CAST({decision} AS DATE), count(*), min({decision}), max({decision}) "
                f"FROM ({spec['spine']['sql']}) GROUP BY 1"
            ).fetchall()
    finally:
        shutil.rmtree(spill, ignore_errors=True)
    total = sum(int(row[1]) for row in found)
    decided = cast(list[tuple[date, int, datetime, datetime]], [row for row in found if row[0] is not None])
    if not decided:  # the first shard has the rows without a decision time, so there is one for them
        return (Shard(0, _EPOCH, _EPOCH + _MICROSECOND),) if total else (), total
    lo, hi = min(row[2] for row in decided), max(row[3] for row in decided)
    return plan(lo, hi + _MICROSECOND, {row[0]: row[1] for row in decided}, shard_rows), total


def join_by_shards(spec: JoinSpec, means: Means) -> list[Written]:
    """Run the whole job; one file per shard, in the order of their times.

    Raises:
        ShardError: a shard was not finished, or rows are missing. No file of the job is left then.
    """
    shards, rows = spine_shards(spec, means.shard_rows)
    try:
        written = map_shards(write_shard, spec, shards, engine=means.engine, workers=means.workers)
        if sum(file.rows for file in written) != rows:
            raise ShardError(
                f"the spine has {rows} rows, the {len(written)} shards have {sum(f.rows for f in written)}: does "
                f"the spine's query give the same rows every time?"
            )
    except BaseException:
        discard(spec)
        raise
    return written


def join_into_table(lake: Lake, table: str, spec: JoinSpec, means: Means, commit: Commit) -> Joined:
    """Run the whole job and make its rows the content of an unpartitioned table, in one commit.

    Args:
        spec: as `join_spec` gave it; the files go into the table's folder instead of its own.
        commit: the job's inputs and number of shards are added to it. Under a transaction that was written before,
            nothing is committed: the files of such a second run are swept by a full vacuum.

    Raises:
        ShardError: a shard was not finished, or the spine has no rows.
        LakeError: the table has other columns.
    """
    placed = spec.copy()
    placed["folder"], placed["run_id"] = lake.uri(table), commit.run_id
    written = join_by_shards(placed, means)
    if not written:
        raise ShardError(f"{table}: the spine has no rows")
    try:
        schema = parquet.read_schema(Path(placed["folder"]) / written[0].path)
        lake.create(table, pa.schema([field for field in schema if field.name not in (WRITTEN_AT, RUN_ID)]))
    except BaseException:
        discard(placed)
        raise
    named = replace(
        commit,
        inputs=tuple(sorted({*commit.inputs, *inputs_of(placed)})),
        extra={**commit.extra, SHARD_COUNT: str(len(written))},
    )
    # From here on the files may be the table's, whatever is raised: those that are not are a full vacuum's.
    version = lake.commit_files(table, written, named, replace=True)
    for file in written:
        if not file.rows:
            (Path(placed["folder"]) / file.path).unlink()
    return Joined(version, sum(file.rows for file in written), len(written), named.inputs)


def discard(spec: JoinSpec) -> None:
    """Remove every file and spill folder of a job that will not be committed."""
    for file in Path(spec["folder"]).glob(f"{spec['job']}-*"):
        file.unlink()
    for folder in Path(spec["temp_directory"]).glob(f"{spec['job']}-*"):
        shutil.rmtree(folder)


# -- the step --------------------------------------------------------------------------------------------------------


def write_shard(spec: JoinSpec, shard: Shard) -> Written:
    """Join the spine's rows with a decision in [lo, hi), and write them to a file of the spec's folder.

    The first shard has the rows without a decision time too. The file appears under its name when it is whole.

    Raises:
        ShardError: a file of the spine is not the one that the spec names.
        ValueError, TypeError: as `point_in_time_join`.
    """
    spill = _spill_folder(spec)
    folder = Path(spec["folder"])
    folder.mkdir(parents=True, exist_ok=True)
    name = f"{spec['job']}-{shard.index:05d}-{uuid.uuid4().hex}.parquet"
    draft, final = folder / f"{name}.tmp", folder / name
    try:
        with closing(_session(spec, spill)) as con:
            joined = _joined(con, spec, shard)
            rows = _write(_finished(joined.to_arrow_reader(BATCH_ROWS), spec), draft)
        draft.replace(final)
    except BaseException:
        draft.unlink(missing_ok=True)
        raise
    finally:
        shutil.rmtree(spill, ignore_errors=True)
    return Written(name, rows, final.stat().st_size, file_sha256(final))


def _spill_folder(spec: JoinSpec) -> Path:
    return Path(spec["temp_directory"]) / f"{spec['job']}-{uuid.uuid4().hex}"


def _session(spec: JoinSpec, spill: Path) -> duckdb.DuckDBPyConnection:
    """A session of its own, in which the spine's inputs stand as views at their versions."""
    con = duck.connect(threads=spec["threads"], memory_limit=spec["memory_limit"], temp_directory=spill)
    # The order of the answer comes from the row id alone; keeping the order of every scan would cost memory.
    con.execute("SET preserve_insertion_order = false")
    for name, table in spec["spine"]["tables"].items():
        con.execute(f"CREATE TEMP VIEW {q(name)} AS SELECT * FROM {_scan(spec, table)}")
    for name, file in spec["spine"]["files"].items():
        path = Path(file["path"])
        if not path.is_file() or file_sha256(path) != file["sha256"]:
            raise ShardError(
                f"the spine's file {path} is missing, or is not the one of sha256 {file['sha256']}"
            )
        con.execute(
            f"CREATE TEMP VIEW {q(name)} AS SELECT * FROM read_parquet({duck.quote_literal(str(path))})"
        )
    return con


def _scan(spec: JoinSpec, reference: str) -> str:
    table, _, version = reference.rpartition("@v")
    if not table or not version.isdigit():
        raise ShardError(f"an input names its version, stage/name@v3, and {reference!r} does not")
    return Lake(spec["lake_root"]).scan(table, int(version))


def _joined(con: duckdb.DuckDBPyConnection, spec: JoinSpec, shard: Shard) -> duckdb.DuckDBPyRelation:
    order = ", ".join(q(column) for column in spec["order_by"])
    decision = utc(q(spec["decision_column"]))
    undecided = f" OR {decision} IS NULL" if shard.index == 0 else ""
    single = len(spec["order_by"]) == 1
    numbered = "*" if single else f"*, row_number() OVER (ORDER BY {order}) AS {_ROW}"
    con.execute(
        f"CREATE TEMP TABLE shard_spine AS SELECT {numbered} FROM ({spec['spine']['sql']}) "
        f"WHERE ({decision} >= {instant(shard.lo)} AND {decision} < {instant(shard.hi)}){undecided}"
    )
    views = [
        JoinView(
            name=view["name"],
            scan_sql=_scan(spec, view["table"]),
            keys=view["keys"],
            event_column=view["event_column"],
            created_column=view["created_column"],
            max_age=view["max_age_us"] * _MICROSECOND if view["max_age_us"] else None,
            features=tuple((column, output) for column, output in view["features"]),
        )
        for view in spec["views"]
    ]
    return point_in_time_join(
        con,
        spine="shard_spine",
        decision_column=spec["decision_column"],
        row_id_column=spec["order_by"][0] if single else _ROW,
        views=views,
        knowledge_time=spec["knowledge_time"],
        keep_row_id=single,
    )


def _finished(joined: pa.RecordBatchReader, spec: JoinSpec) -> pa.RecordBatchReader:
    finish, columns, run_id = spec["finish"], spec["columns"], spec["run_id"]
    reader = _mapped(joined, finish) if finish else joined
    kept = columns if columns is not None else reader.schema.names
    if run_id is not None:
        return Stamped(reader, [*kept, WRITTEN_AT, RUN_ID], run_id).reader()
    schema = pa.schema([reader.schema.field(name) for name in kept])
    return pa.RecordBatchReader.from_batches(schema, (batch.select(kept) for batch in reader))


def _mapped(joined: pa.RecordBatchReader, finish: FinishSpec) -> pa.RecordBatchReader:
    function, arguments = function_named(finish["function"]), finish["arguments"]
    empty: pa.Table = function(joined.schema.empty_table(), **arguments)

    def batches() -> Iterator[pa.RecordBatch]:
        for batch in joined:
            yield from function(pa.Table.from_batches([batch]), **arguments).to_batches()

    return pa.RecordBatchReader.from_batches(empty.schema, batches())


def _write(rows: pa.RecordBatchReader, path: Path) -> int:
    count = 0
    with parquet.ParquetWriter(path, rows.schema) as writer:
        for batch in rows:
            writer.write_batch(batch)
            count += batch.num_rows
    return count


def read_files(spec: JoinSpec, written: Sequence[Written]) -> pa.Table:
    """The rows of a finished job, shard after shard."""
    folder = Path(spec["folder"])
    return pa.concat_tables([parquet.read_table(folder / file.path) for file in written])
