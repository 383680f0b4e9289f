"""The lake: Delta tables in folders, and the only module that writes them.

A table is named ``stage/name``, which is its folder under the lake's root. Reading always goes through DuckDB's
`delta_scan` at a pinned version: delta-rs's Arrow reader answers NULL without an error on column-mapped tables. Every
write is one atomic commit whose metadata names the run, the asset, the partitions, the code and **every input that was
read**; those commits are what the trail is derived from, so there is no way to write without them.
"""

from __future__ import annotations

import json
import random
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, TypeAlias, cast

import pyarrow as pa
from deltalake import CommitProperties, DeltaTable, Transaction, write_deltalake
from deltalake.exceptions import CommitFailedError, DeltaError

from contrail import duck, provenance
from contrail.clock import utc_now

Rows: TypeAlias = pa.Table | pa.RecordBatchReader

METADATA_PREFIX = "contrail."
WRITTEN_AT = "_written_at"
RUN_ID = "_run_id"
# Readers that meet another feature pass over what they do not understand; the lake refuses instead.
KNOWN_READER_FEATURES = frozenset({"timestampNtz", "deletionVectors"})
COMMIT_RETRIES_INSIDE = 100  # of delta-rs: rebases that do not conflict
COMMIT_RETRIES_OUTSIDE = 5  # of ours: conflicts, after which the table is opened anew


class LakeError(RuntimeError):
    """A table cannot be read or written as asked; the message says what to do."""


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


class Lake:
    """Delta tables under one root folder."""

    def __init__(self, root: Path | str) -> None:
        self.root = Path(root)

    # -- names and reading -------------------------------------------------------------------------------------

    def uri(self, table: str) -> str:
        """The table's folder."""
        stage, _, name = table.partition("/")
        if not stage or not name or ".." in table:
            raise LakeError(f"not a table name: {table!r} (expected stage/name)")
        return str(self.root / table)

    def exists(self, table: str) -> bool:
        """Whether the table has been created."""
        return DeltaTable.is_deltatable(self.uri(table))

    def tables(self) -> list[str]:
        """The names of all tables, sorted."""
        return sorted(
            str(log.parent.relative_to(self.root)) for log in self.root.glob("**/_delta_log") if log.is_dir()
        )

    def version(self, table: str) -> int:
        """The newest version.

        Raises:
            LakeError: the table is missing, its log is damaged, or it needs a reader that ours is not.
        """
        return self._open(table).version()

    def ref(self, table: str, version: int | None = None) -> str:
        """``stage/name@v3``: the table at a version (the newest unless told)."""
        return f"{table}@v{self.version(table) if version is None else version}"

    def scan(self, table: str, version: int | None = None) -> str:
        """A FROM item that reads the table at one version (the newest at the time of this call unless told)."""
        pinned = self.version(table) if version is None else version
        return f"delta_scan({duck.quote_literal(self.uri(table))}, version => {pinned})"

    def schema(self, table: str) -> pa.Schema:
        """The table's Arrow schema, provenance columns included."""
        exported: Any = self._open(table).schema()
        return pa.schema(exported.to_arrow())

    def commits(self, table: str) -> list[CommitRecord]:
        """All commits, oldest first."""
        return [_record(entry) for entry in reversed(self._open(table).history())]

    def content_hash(self, table: str, version: int | None = None, where: str = "true") -> str:
        """A fingerprint of the rows: equal exactly when the same rows are there, in whatever order and files.

        Columns that begin with ``_`` are provenance and not content. The row digest is md5 of the row as JSON, so it
        does not depend on the DuckDB version.
        """
        with duck.connect() as con:
            source = self.scan(table, version)
            names = [str(row[0]) for row in con.execute(f"DESCRIBE SELECT * FROM {source}").fetchall()]
            content = sorted(name for name in names if not name.startswith("_"))
            packed = ", ".join(f"{duck.quote_identifier(n)} := {duck.quote_identifier(n)}" for n in content)
            row = con.execute(
                f"""SELECT count(*), coalesce(sum(d), 0), coalesce(bit_xor(d), 0)
                    FROM (SELECT md5_number(to_json(struct_pack({packed}))::VARCHAR) % 9223372036854775783 AS d
                          FROM {source} WHERE {where})"""
            ).fetchone()
        count, total, mixed = row if row is not None else (0, 0, 0)
        return f"{count}-{int(total):x}-{int(mixed):x}"

    # -- writing -----------------------------------------------------------------------------------------------

    def create(
        self,
        table: str,
        schema: pa.Schema,
        *,
        partition_by: Sequence[str] = (),
        personal: Sequence[str] = (),
        keep_days: int = 400,
    ) -> None:
        """Create the table if it does not exist, with its columns, history and statistics settled from the start.

        Args:
            schema: the content columns; the provenance columns of every row are added here.
            partition_by: partition columns.
            personal: columns left out of the log's min/max statistics, which outlive every deletion.
            keep_days: how long files of old versions stay readable.

        Raises:
            LakeError: the table exists with other columns or other partitions.
        """
        full = _with_provenance(schema)
        if self.exists(table):
            self._check_same_shape(table, full, partition_by)
            return
        configuration = {
            # Kept for ten years: when a checkpoint is written the log deletes commits older than this, and with them
            # the metadata that the trail is made of.
            "delta.logRetentionDuration": "interval 3650 days",
            "delta.deletedFileRetentionDuration": f"interval {keep_days} days",
            "delta.checkpointInterval": "20",
        }
        if personal:
            kept = [name for name in full.names if name not in set(personal)]
            configuration["delta.dataSkippingStatsColumns"] = ",".join(kept)
        DeltaTable.create(
            self.uri(table), full, mode="ignore", partition_by=list(partition_by), configuration=configuration
        )

    def append(self, table: str, data: Rows, commit: Commit) -> int:
        """Add rows; returns the new version (the current one where the transaction was already written)."""

        def write(target: DeltaTable, rows: pa.RecordBatchReader, properties: CommitProperties) -> None:
            write_deltalake(target, rows, mode="append", commit_properties=properties)

        return self._write(table, data, commit, write)

    def replace_partitions(self, table: str, data: Rows, commit: Commit, *, where: str) -> int:
        """Replace exactly the rows that `where` selects by `data`, in one commit; no rows empties that part.

        Args:
            where: a condition over the table's columns. Every row of `data` must satisfy it. ``true`` replaces an
                unpartitioned table whole; a partitioned table has no such overwrite.

        Raises:
            LakeError: data outside `where`, or a whole overwrite of a partitioned table.
        """
        whole = where.strip().lower() == "true"
        if whole and self._open(table).metadata().partition_columns:
            raise LakeError(
                f"{table} is partitioned: say which partitions to replace, an overwrite of all is refused"
            )

        def write(target: DeltaTable, rows: pa.RecordBatchReader, properties: CommitProperties) -> None:
            write_deltalake(
                target,
                rows,
                mode="overwrite",
                predicate=None if whole else where,
                commit_properties=properties,
            )

        try:
            return self._write(table, data, commit, write)
        except DeltaError as error:
            if "validation" in str(error) or "predicate" in str(error).lower():
                raise LakeError(
                    f"{table}: some rows lie outside the part to replace ({where}): {error}"
                ) from error
            raise

    def merge(self, table: str, data: pa.Table, commit: Commit, *, on: Sequence[str]) -> int:
        """Insert or update rows by key, in one commit."""

        def write(target: DeltaTable, rows: pa.RecordBatchReader, properties: CommitProperties) -> None:
            condition = " AND ".join(
                f"t.{duck.quote_identifier(k)} = s.{duck.quote_identifier(k)}" for k in on
            )
            merger = target.merge(
                rows, condition, source_alias="s", target_alias="t", commit_properties=properties
            )
            merger.when_matched_update_all().when_not_matched_insert_all().execute()

        return self._write(table, data, commit, write)

    # -- inside ------------------------------------------------------------------------------------------------

    def _open(self, table: str) -> DeltaTable:
        uri = self.uri(table)
        if not DeltaTable.is_deltatable(uri):
            raise LakeError(f"there is no table {table} in {self.root} (has its asset been materialised?)")
        empty = [p.name for p in (Path(uri) / "_delta_log").glob("*.json") if p.stat().st_size == 0]
        if empty:
            # Delta readers take an emptied entry for a commit without actions: rows vanish without an error.
            raise LakeError(f"{table}: log entry {min(empty)} has no bytes; restore it from the backup")
        opened = DeltaTable(uri)
        unknown = set(opened.protocol().reader_features or []) - KNOWN_READER_FEATURES
        if unknown:
            raise LakeError(
                f"{table} needs the reader features {sorted(unknown)}, which this lake cannot honour"
            )
        return opened

    def _check_same_shape(self, table: str, full: pa.Schema, partition_by: Sequence[str]) -> None:
        existing = self.schema(table)
        want, have = _shape(full), _shape(existing)
        if want != have:
            changed = sorted(set(want.items()) ^ set(have.items()))
            raise LakeError(f"{table} exists with other columns; these differ: {changed}")
        partitions = list(self._open(table).metadata().partition_columns)
        if partitions != list(partition_by):
            raise LakeError(f"{table} exists partitioned by {partitions}, not by {list(partition_by)}")

    def _write(
        self,
        table: str,
        data: Rows,
        commit: Commit,
        write: Callable[[DeltaTable, pa.RecordBatchReader, CommitProperties], None],
    ) -> int:
        target = self._open(table)
        columns = [name for name in self.schema(table).names if name not in (WRITTEN_AT, RUN_ID)]
        missing = set(columns) ^ set(data.schema.names)
        if missing:
            raise LakeError(
                f"{table}: the data's columns are not the table's; these differ: {sorted(missing)}"
            )
        stamped = _Stamped(data, columns, commit.run_id)
        properties = CommitProperties(
            custom_metadata=commit.metadata(),
            max_commit_retries=COMMIT_RETRIES_INSIDE,
            app_transactions=[Transaction(commit.transaction, 1)] if commit.transaction else None,
        )
        for attempt in range(1, COMMIT_RETRIES_OUTSIDE + 1):
            if commit.transaction and target.transaction_version(commit.transaction) is not None:
                return target.version()
            try:
                write(target, stamped.reader(), properties)
                return self._open(table).version()
            except CommitFailedError:
                # A reader can be drained once only; such a write is repeated by whoever made the rows.
                if attempt == COMMIT_RETRIES_OUTSIDE or not isinstance(data, pa.Table):
                    raise
                time.sleep(random.uniform(0.05, 0.3) * attempt)  # nosec B311
                target = self._open(table)
        raise AssertionError("unreachable: the loop returns or raises")


class _Stamped:
    """Rows with their provenance columns, in the table's column order."""

    def __init__(self, data: Rows, columns: Sequence[str], run_id: str) -> None:
        self._data = data
        self._columns = list(columns)
        self._run_id = run_id
        self._written_at = utc_now()
        self._schema = _with_provenance(pa.schema([data.schema.field(name) for name in self._columns]))

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


def _with_provenance(schema: pa.Schema) -> pa.Schema:
    return schema.append(pa.field(WRITTEN_AT, pa.timestamp("us", tz="UTC"))).append(
        pa.field(RUN_ID, pa.string())
    )


def _shape(schema: pa.Schema) -> dict[str, str]:
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


def _record(entry: Mapping[str, Any]) -> CommitRecord:
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
