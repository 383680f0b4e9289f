"""What a commit says of itself, and the shape of the rows that it adds: the forms that `contrail.lake` writes."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, date, datetime
from pathlib import Path
from typing import Any, TypeAlias, cast

import pyarrow as pa

from contrail import provenance
from contrail.clock import utc_now

Rows: TypeAlias = pa.Table | pa.RecordBatchReader

METADATA_PREFIX = "contrail."
WRITTEN_AT = "_written_at"
RUN_ID = "_run_id"
PROVENANCE = pa.schema([(WRITTEN_AT, pa.timestamp("us", tz="UTC")), (RUN_ID, pa.string())])


@dataclass(frozen=True)
class Commit:
    """What a write says of itself.

    Attributes:
        asset: the table or asset that is written, ``stage/name``.
        run_id: the run that writes.
        inputs: everything that was read: ``stage/name@v3`` for a table, ``sha256:<hex>`` for a file.
        partition: the part that is written, in words: a day, or ``first..last``.
        transaction: a key that may be written once; a second write under it does nothing. None: no such check.
        extra: further facts worth keeping (a watermark, a row count), as text.
    """

    asset: str
    run_id: str
    inputs: tuple[str, ...]
    partition: str = ""
    code_version: str = field(default_factory=provenance.code_version)
    git_sha: str = field(default_factory=provenance.git_sha)
    transaction: str | None = None
    extra: Mapping[str, str] = field(default_factory=dict[str, str])

    def metadata(self) -> dict[str, str]:
        """The commit's custom metadata, keys under ``contrail.``."""
        values = {
            "asset": self.asset,
            "run_id": self.run_id,
            "partition": self.partition,
            "inputs": json.dumps(sorted(set(self.inputs))),
            "code_version": self.code_version,
            "git_sha": self.git_sha,
            "extra": json.dumps(dict(self.extra), sort_keys=True),
        }
        return {METADATA_PREFIX + key: value for key, value in values.items()}


@dataclass(frozen=True)
class CommitRecord:
    """One commit as the log tells it; the fields of `Commit` are empty where it was not made by this library."""

    version: int
    timestamp: datetime
    operation: str
    asset: str
    run_id: str
    partition: str
    inputs: tuple[str, ...]
    code_version: str
    git_sha: str
    rows_added: int | None
    extra: Mapping[str, str]

    @property
    def days(self) -> tuple[date, date] | None:
        """The first and the last day that it says it wrote; None where it is not of days."""
        first, _, last = self.partition.partition("..")
        try:
            return date.fromisoformat(first), date.fromisoformat(last or first)
        except ValueError:
            return None


@dataclass(frozen=True)
class Written:
    """A Parquet file that a worker has finished, to be committed by whoever asked for it.

    Attributes:
        path: the file, inside the table's folder, relative to it.
        rows: rows in it; size_bytes: its size.
        sha256: of its bytes, checked before the commit.
        partition: partition column → value, as the path says it.
    """

    path: str
    rows: int
    size_bytes: int
    sha256: str
    partition: Mapping[str, str] = field(default_factory=dict[str, str])


def file_sha256(path: Path) -> str:
    """The sha256 of a file's bytes, hex; the file is not held in memory."""
    with path.open("rb") as content:
        return hashlib.file_digest(content, "sha256").hexdigest()


class Stamped:
    """Rows in the table's column order, with those provenance columns that the table has.

    A table that was made elsewhere may have none of them: its commit says the same of all its rows.
    """

    def __init__(self, data: Rows, table_columns: Sequence[str], run_id: str) -> None:
        self._data = data
        self._columns = [name for name in table_columns if name not in PROVENANCE.names]
        self._stamps = [PROVENANCE.field(name) for name in PROVENANCE.names if name in table_columns]
        self._values = {WRITTEN_AT: utc_now(), RUN_ID: run_id}
        self._schema = pa.schema([*(data.schema.field(name) for name in self._columns), *self._stamps])

    def reader(self) -> pa.RecordBatchReader:
        return pa.RecordBatchReader.from_batches(self._schema, self._batches())

    def _batches(self) -> Iterator[pa.RecordBatch]:
        batches = self._data.to_batches() if isinstance(self._data, pa.Table) else self._data
        for batch in batches:
            first = pa.array([0] * batch.num_rows, pa.int32())
            stamps = [pa.array([self._values[f.name]], f.type).take(first) for f in self._stamps]
            arrays = [batch.column(name) for name in self._columns]
            yield pa.RecordBatch.from_arrays([*arrays, *stamps], schema=self._schema)


def with_provenance(schema: pa.Schema) -> pa.Schema:
    return pa.schema([*schema, *PROVENANCE], schema.metadata)


def shape_of(schema: pa.Schema) -> dict[str, str]:
    """Column → type, with the types that Delta does not tell apart made one."""
    same = {
        "large_string": "string",
        "string_view": "string",
        "large_binary": "binary",
        "binary_view": "binary",
    }
    shape: dict[str, str] = {}
    for column in schema:
        name = str(column.type)
        if pa.types.is_list(column.type) or pa.types.is_large_list(column.type):
            name = f"list<{same.get(str(column.type.value_type), str(column.type.value_type))}>"
        shape[column.name] = same.get(name, name)
    return shape


def read_record(entry: Mapping[str, Any]) -> CommitRecord:
    def text(key: str) -> str:
        return str(entry.get(METADATA_PREFIX + key, ""))

    metrics = cast(Mapping[str, Any], entry.get("operationMetrics") or {})
    added = metrics.get("num_added_rows", metrics.get("num_output_rows"))
    return CommitRecord(
        version=int(entry["version"]),
        timestamp=datetime.fromtimestamp(int(entry["timestamp"]) / 1000, UTC),
        operation=str(entry.get("operation", "")),
        asset=text("asset"),
        run_id=text("run_id"),
        partition=text("partition"),
        inputs=tuple(json.loads(text("inputs") or "[]")),
        code_version=text("code_version"),
        git_sha=text("git_sha"),
        rows_added=int(added) if added is not None else None,
        extra=json.loads(text("extra") or "{}"),
    )
