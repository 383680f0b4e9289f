"""What Feast's API writes offline: rows pushed into a view's source, saved answers, logged features.

Delta tables are written through `contrail.lake`, so that a commit says where its rows come from: ``push:<view>``, or
the versions that an answer was made of. Parquet files appear under their names only when they are whole. Only local
folders are written.

Feast is imported inside the functions, as in `contrail.asof_sources`.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import tempfile
import uuid
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.dataset as ds
import pyarrow.parquet as pq
from deltalake import DeltaTable
from deltalake.exceptions import DeltaError

from contrail.asof_sources import AsofError, absolute_path, is_delta, reversed_mapping, source_path
from contrail.commits import PROVENANCE, Commit, Rows
from contrail.lake import Lake

if TYPE_CHECKING:
    from feast.data_source import DataSource
    from feast.feature_logging import LoggingConfig, LoggingSource
    from feast.feature_view import FeatureView
    from feast.infra.registry.base_registry import BaseRegistry
    from feast.repo_config import RepoConfig
    from feast.saved_dataset import SavedDatasetStorage

# The partition that tables which grow by time are made with: the first day of the event time's month, in UTC.
MONTH = "month"
INPUTS = b"contrail.inputs"

_UTC = pa.timestamp("us", tz="UTC")
_PANDAS_INDEX = re.compile(r"__index_level_\d+__")


# --- pushed rows -----------------------------------------------------------------------------------------------------


def writable_columns(config: RepoConfig, source: DataSource) -> list[tuple[str, str]] | None:
    """Name and type of the columns that a writer has to bring; None where the source is no local Delta table.

    Columns that the lake fills in itself are left out: the provenance columns, and the month that partitions a table.
    """
    path = source_path(config, source)
    if "://" in path or not is_delta(source):
        return None
    opened = _opened(path, f"source {source.name!r}")
    schema = pa.schema(opened.schema().to_arrow())
    filled_in = {*PROVENANCE.names, *([MONTH] if _by_month(opened, schema) else [])}
    return [(field.name, str(field.type)) for field in schema if field.name not in filled_in]


def append_to_source(config: RepoConfig, view: FeatureView, table: pa.Table) -> None:
    """Append rows to a view's source: as one commit, as one more Parquet file, or to the end of a single one.

    A table takes any number of writers at once. A single Parquet file takes one: of two the later undoes the earlier.

    Args:
        table: the source's columns in any order, under its own names or Feast's; an unnamed pandas index is left out.

    Raises:
        ValueError: columns are missing, unknown or of another type; a row has no event time.
        AsofError: the view has no source, or one that cannot be written.
    """
    source = view.batch_source
    if source is None:
        raise AsofError(f"feature view {view.name!r} has no batch source to write to")
    path = _local(source_path(config, source), f"the source of {view.name!r}")
    to_source = reversed_mapping(source)
    rows = _own_columns(table, to_source)
    event_column = to_source.get(source.timestamp_field, source.timestamp_field)
    if event_column in rows.column_names and rows[event_column].null_count:
        raise ValueError(
            f"{view.name!r}: rows without {event_column!r} would never be read; they are refused"
        )
    if is_delta(source):
        _append_to_delta(Path(path), view.name, rows, event_column)
    else:
        _append_to_parquet(Path(path), view.name, rows)


def _append_to_delta(path: Path, view: str, rows: pa.Table, event_column: str) -> None:
    opened = _opened(str(path), f"the source of {view!r}")
    schema = pa.schema(opened.schema().to_arrow())
    content = pa.schema([field for field in schema if field.name not in PROVENANCE.names])
    if _by_month(opened, schema) and event_column in rows.column_names:
        month = _floored(_typed(rows[event_column], _UTC, event_column), "month").cast(pa.date32())
        if MONTH not in rows.column_names:
            rows = rows.append_column(MONTH, month)
        elif not rows[MONTH].cast(pa.date32()).equals(month):
            raise ValueError(f"{view!r}: {MONTH!r} has to be the first day of the month of {event_column!r}")
    rows = conformed(rows, content, f"the source of {view!r}")
    if not rows.num_rows:
        return
    lake, name = lake_table(path)
    days = pc.call_function("min_max", [_typed(rows[event_column], _UTC, event_column)]).as_py()
    span = f"{days['min'].date()}..{days['max'].date()}"
    lake.append(name, rows, Commit(name, f"push-{uuid.uuid4().hex}", (f"push:{view}",), span))


def _append_to_parquet(path: Path, view: str, rows: pa.Table) -> None:
    if path.is_dir():
        dataset = ds.dataset(path, partitioning="hive")
        some_file = Path(next(iter(dataset.files))).relative_to(path) if dataset.files else Path()
        partitions = [part.partition("=")[0] for part in some_file.parts[:-1] if "=" in part]
        write_files(conformed(rows, dataset.schema, f"the source of {view!r}"), path, partitions)
        return
    before = pq.read_table(path)
    rows = conformed(rows, before.schema, f"the source of {view!r}")
    _replace_file(path, pa.concat_tables([before, rows.replace_schema_metadata(before.schema.metadata)]))


def _opened(path: str, what: str) -> DeltaTable:
    try:
        return DeltaTable(path)
    except DeltaError as error:
        raise AsofError(f"{what}: no Delta table can be opened at {path}: {error}") from error


def _by_month(opened: DeltaTable, schema: pa.Schema) -> bool:
    return MONTH in opened.metadata().partition_columns and pa.types.is_date(schema.field(MONTH).type)


def _own_columns(table: pa.Table, to_source: Mapping[str, str]) -> pa.Table:
    """The table under the source's names, without what an unnamed pandas index left behind."""
    table = table.drop_columns([name for name in table.column_names if _PANDAS_INDEX.fullmatch(name)])
    taken = set(table.column_names)
    return table.rename_columns(
        [column if (column := to_source.get(n, n)) not in taken else n for n in table.column_names]
    )


def conformed(table: pa.Table, schema: pa.Schema, what: str) -> pa.Table:
    """The table in a schema's order and types; instants lose what is finer than the schema, nothing else is lost.

    Raises:
        ValueError: the columns are others, or a value does not fit.
    """
    missing = sorted(set(schema.names) - set(table.column_names))
    unknown = sorted(set(table.column_names) - set(schema.names))
    if missing or unknown:
        raise ValueError(f"the rows do not have the columns of {what}: missing {missing}, unknown {unknown}")
    return pa.table(
        {field.name: _typed(table[field.name], field.type, field.name) for field in schema}, schema=schema
    )


def _typed(column: pa.ChunkedArray, kind: pa.DataType, name: str) -> pa.ChunkedArray:
    try:
        if pa.types.is_timestamp(kind) and pa.types.is_timestamp(column.type) and column.type.unit == "ns":
            column = _floored(column, "microsecond")
        return column.cast(kind)
    except (pa.ArrowInvalid, pa.ArrowNotImplementedError, pa.ArrowTypeError) as error:
        raise ValueError(f"column {name!r} is {column.type} and cannot become {kind}: {error}") from error


def _floored(column: pa.ChunkedArray, unit: str) -> pa.ChunkedArray:
    return pc.call_function("floor_temporal", [column], pc.RoundTemporalOptions(unit=unit))


# --- saved answers ---------------------------------------------------------------------------------------------------


def input_names(delta_versions: Mapping[str, int], files: Sequence[str]) -> list[str]:
    """What an answer was made of, as commits name it: ``stage/name@v3`` for a table, ``file:<path>`` for Parquet."""
    tables = [f"{lake_table(Path(path))[1]}@v{version}" for path, version in delta_versions.items()]
    return sorted({*tables, *(f"file:{path}" for path in files)})


def saved_path(
    config: RepoConfig, storage: SavedDatasetStorage, *, allow_overwrite: bool
) -> tuple[Path, bool]:
    """Where an answer is to be saved, and whether as a Delta table.

    Raises:
        SavedDatasetLocationAlreadyExists: something lies there, and it may not be overwritten.
        AsofError: the storage is not of files, or not local.
    """
    from feast.data_format import DeltaFormat
    from feast.errors import SavedDatasetLocationAlreadyExists
    from feast.infra.offline_stores.file_source import SavedDatasetFileStorage

    if not isinstance(storage, SavedDatasetFileStorage):
        raise AsofError(f"answers are saved in SavedDatasetFileStorage, not in {type(storage).__name__}")
    path = Path(_local(absolute_path(config, storage.file_options.uri), "the saved dataset"))
    if not allow_overwrite and _occupied(path):
        raise SavedDatasetLocationAlreadyExists(location=str(path))
    return path, isinstance(storage.file_options.file_format, DeltaFormat)


def _occupied(path: Path) -> bool:
    """Whether there are rows to lose: an empty folder, or a table that was only created, has none."""
    if path.is_dir():
        return any(entry.name != "_delta_log" for entry in path.iterdir())
    return path.exists()


def save_as_delta(path: Path, rows: Rows, inputs: Sequence[str], features: Sequence[str]) -> None:
    """Save an answer as a Delta table: made if it is not there, else all its rows are replaced, in one commit.

    Raises:
        LakeError: there is a table with other columns.
        AsofError: there is something else than a Delta table.
    """
    if _occupied(path) and not DeltaTable.is_deltatable(str(path)):
        raise AsofError(f"{path} holds files and no Delta table: save the answer somewhere else")
    lake, name = lake_table(path)
    lake.create(name, rows.schema)
    commit = Commit(
        name, f"saved-{uuid.uuid4().hex}", tuple(inputs), extra={"features": json.dumps(list(features))}
    )
    lake.replace_partitions(name, rows, commit, where="true")


def save_as_parquet(path: Path, rows: Rows, inputs: Sequence[str]) -> None:
    """Save an answer as a Parquet file, or as a folder with one where the path does not end in ``.parquet``."""
    schema = rows.schema.with_metadata({INPUTS: json.dumps(sorted(inputs)).encode()})
    batches = rows.to_batches() if isinstance(rows, pa.Table) else rows
    path.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=f".{path.name}-", dir=path.parent) as draft:
        whole = Path(draft) / "whole"
        whole.mkdir()
        file = whole / "part-0.parquet"
        with pq.ParquetWriter(file, schema) as writer:
            for batch in batches:
                writer.write_table(pa.Table.from_batches([batch]).replace_schema_metadata(schema.metadata))
        if path.suffix == ".parquet" and not path.is_dir():
            file.replace(path)
            return
        if not path.is_dir():
            whole.rename(path)
            return
        # There is no one step that puts a folder in place of a full one.
        before = Path(draft) / "before"
        path.rename(before)
        try:
            whole.rename(path)
        except OSError:
            before.rename(path)
            raise


# --- logged features -------------------------------------------------------------------------------------------------


def append_log(
    config: RepoConfig,
    data: pa.Table | Path,
    source: LoggingSource,
    logging_config: LoggingConfig,
    registry: BaseRegistry,
) -> None:
    """Append logged features to a folder of Parquet files, in ``column=value`` folders where it is partitioned.

    Raises:
        ValueError: the columns are not those of the feature service, or a partition column is none of them.
        AsofError: the destination is not a local folder of files.
    """
    from feast.infra.offline_stores.file_source import FileLoggingDestination

    destination = logging_config.destination
    if not isinstance(destination, FileLoggingDestination):
        raise AsofError(f"features are logged to FileLoggingDestination, not to {type(destination).__name__}")
    folder = Path(_local(absolute_path(config, destination.path), "the logging destination"))
    rows = ds.dataset(data, format="parquet").to_table() if isinstance(data, Path) else data
    rows = conformed(_own_columns(rows, {}), source.get_schema(registry), "the feature service's log")
    partitions = destination.partition_by or []
    if unknown := sorted(set(partitions) - set(rows.column_names)):
        raise ValueError(
            f"the log is partitioned by {unknown}, which are none of its columns {rows.column_names}"
        )
    write_files(rows, folder, partitions)


# --- files -----------------------------------------------------------------------------------------------------------


def write_files(table: pa.Table, folder: Path, partitions: Sequence[str]) -> None:
    """Add a table to a folder as new Parquet files, one per partition; a reader never meets half a file."""
    folder.mkdir(parents=True, exist_ok=True)
    # Beside the folder, not in it: whoever reads the folder reads all that is below.
    with tempfile.TemporaryDirectory(prefix=f".{folder.name}-", dir=folder.parent) as draft:
        ds.write_dataset(
            table,
            draft,
            format="parquet",
            basename_template=f"{uuid.uuid4().hex}-{{i}}.parquet",
            partitioning=list(partitions) or None,
            partitioning_flavor="hive" if partitions else None,
        )
        for file in sorted(Path(draft).rglob("*.parquet")):
            target = folder / file.relative_to(draft)
            target.parent.mkdir(parents=True, exist_ok=True)
            file.replace(target)


def _replace_file(path: Path, table: pa.Table) -> None:
    handle, draft = tempfile.mkstemp(prefix=f".{path.name}-", dir=path.parent)
    os.close(handle)
    try:
        pq.write_table(table, draft)
        shutil.copymode(path, draft)
        Path(draft).replace(path)
    finally:
        Path(draft).unlink(missing_ok=True)


def lake_table(path: Path) -> tuple[Lake, str]:
    """A Delta table anywhere as the lake knows tables: its grandparent is the root, its name the last two folders."""
    return Lake(path.parent.parent), f"{path.parent.name}/{path.name}"


def _local(path: str, what: str) -> str:
    if "://" in path:
        raise AsofError(f"{what} is {path}: only local folders are written; write there through the lake")
    return path
