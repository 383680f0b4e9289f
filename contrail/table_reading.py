"""Opening a table for reading: what Delta readers pass over in silence is refused, what is damaged is named."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as parquet
from deltalake import DeltaTable
from deltalake.exceptions import DeltaError

# Readers that meet another feature pass over what they do not understand; the lake refuses instead.
KNOWN_READER_FEATURES = frozenset({"timestampNtz", "deletionVectors"})


class LakeError(RuntimeError):
    """A table cannot be read or written as asked; the message says what to do."""


def open_table(folder: Path, table: str) -> DeltaTable:
    """The table at its newest version.

    Args:
        folder: where it lies; table: its name, for the messages.

    Raises:
        LakeError: its log is damaged, or it needs a reader that ours is not.
    """
    empty = [path.name for path in (folder / "_delta_log").glob("*.json") if path.stat().st_size == 0]
    if empty:
        # Delta readers take an emptied entry for a commit without actions: rows vanish without an error.
        raise LakeError(f"{table}: log entry {min(empty)} has no bytes; restore it from the backup")
    try:
        opened = DeltaTable(str(folder))
    except DeltaError as error:
        raise LakeError(
            f"{table}: its log is damaged ({_said(error)}); restore it from the backup"
        ) from error
    unknown = set(opened.protocol().reader_features or []) - KNOWN_READER_FEATURES
    if unknown:
        raise LakeError(f"{table} needs the reader features {sorted(unknown)}, which this lake cannot honour")
    return opened


def arrow_schema(opened: DeltaTable) -> pa.Schema:
    """The table's columns, as Arrow names their types."""
    exported: Any = opened.schema()
    return pa.schema(exported.to_arrow())


def all_rows(opened: DeltaTable, folder: Path, table: str) -> pa.Table:
    """All rows, file by file, without a session.

    Raises:
        LakeError: the files are not read as they are (deleted rows, renamed columns, partitions), or one is missing or
            damaged.
    """
    if opened.protocol().min_reader_version > 1 or opened.metadata().partition_columns:
        raise LakeError(f"{table} cannot be read file by file: scan it")
    schema = arrow_schema(opened)
    added: Any = opened.get_add_actions(flatten=True).column("path")
    files = [_file_rows(folder / path, schema) for path in sorted(added.to_pylist())]
    return pa.concat_tables(files) if files else schema.empty_table()


def _file_rows(path: Path, schema: pa.Schema) -> pa.Table:
    try:
        found = parquet.ParquetFile(path).read(use_threads=False).cast(schema)
        found.validate(full=True)
    except (OSError, ValueError, pa.ArrowException) as error:
        raise LakeError(
            f"{path} is missing or damaged ({_said(error)}); restore it from the backup"
        ) from error
    return found


def _said(error: Exception) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0][:300]
