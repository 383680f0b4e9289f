"""What a commit says of itself, and the shape of the rows that it adds: the forms that `contrail.lake` writes."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any, TypeAlias, cast

import pyarrow as pa

from contrail import provenance
from contrail.clock import utc_now

Rows: TypeAlias = pa.Table | pa.RecordBatchReader

METADATA_PREFIX = "contrail."
WRITTEN_AT = "_written_at"
RUN_ID = "_run_id"


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


class Stamped:
    """Rows with their provenance columns, in the table's column order."""

    def __init__(self, data: Rows, columns: Sequence[str], run_id: str) -> None:
        self._data = data
        self._columns = list(columns)
        self._run_id = run_id
        self._written_at = utc_now()
        self._schema = with_provenance(pa.schema([data.schema.field(name) for name in self._columns]))

    def reader(self) -> pa.RecordBatchReader:
        return pa.RecordBatchReader.from_batches(self._schema, self._batches())

    def _batches(self) -> Iterator[pa.RecordBatch]:
        batches = self._data.to_batches() if isinstance(self._data, pa.Table) else self._data
        for batch in batches:
            n = batch.num_rows
            stamps = pa.array([self._written_at] * 1, pa.timestamp("us", tz="UTC")).take(
                pa.array([0] * n, pa.int32())
            )
            runs = pa.array([self._run_id], pa.string()).take(pa.array([0] * n, pa.int32()))
            arrays = [batch.column(name) for name in self._columns]
            yield pa.RecordBatch.from_arrays([*arrays, stamps, runs], schema=self._schema)


def with_provenance(schema: pa.Schema) -> pa.Schema:
    return schema.append(pa.field(WRITTEN_AT, pa.timestamp("us", tz="UTC"))).append(
        pa.field(RUN_ID, pa.string())
    )


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
