"""The lake: Delta tables in folders, and the only module that writes them.

A table is named ``stage/name``, which is its folder under the lake's root. Reading always goes through DuckDB's
`delta_scan` at a pinned version: delta-rs's Arrow reader answers NULL without an error on column-mapped tables. Every
write is one atomic commit whose metadata names the run, the asset, the partitions, the code and **every input that was
read**; those commits are what the trail is derived from, so there is no way to write without them.
"""

from __future__ import annotations

import hashlib
import json
import random
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as parquet
from deltalake import CommitProperties, DeltaTable, Transaction, write_deltalake
from deltalake.exceptions import CommitFailedError, DeltaError
from deltalake.transaction import AddAction, RemoveAction

from contrail import duck
from contrail.clock import utc_now
from contrail.commits import (
    RUN_ID,
    WRITTEN_AT,
    Commit,
    CommitRecord,
    Rows,
    Stamped,
    Written,
    file_sha256,
    read_record,
    shape_of,
    with_provenance,
)
from contrail.fingerprint import row_fingerprint
from contrail.table_reading import LakeError, all_rows, arrow_schema, open_table

__all__ = [
    "RUN_ID", "WRITTEN_AT", "Commit", "CommitRecord", "Lake", "LakeError", "Rows", "StaleSnapshotError", "Written",
]  # fmt: skip

COMMIT_RETRIES_INSIDE = 100  # of delta-rs: rebases that do not conflict
COMMIT_RETRIES_OUTSIDE = 5  # of ours: conflicts, after which the table is opened anew


class StaleSnapshotError(LakeError):
    """Somebody else committed after the version that the rows to add were made from; read again and decide anew."""


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

    def rows(self, table: str) -> tuple[int, pa.Table]:
        """The newest version and all its rows, without a session: for small tables (DuckDB's reader loads for 0.2 s).

        Raises:
            LakeError: the table's files are not read as they are (deleted rows, renamed columns, partitions), or one
                is missing or damaged.
        """
        opened = self._open(table)
        return opened.version(), all_rows(opened, Path(self.uri(table)), table)

    def schema(self, table: str) -> pa.Schema:
        """The table's Arrow schema, provenance columns included."""
        return arrow_schema(self._open(table))

    def commits(self, table: str) -> list[CommitRecord]:
        """All commits, oldest first."""
        return [read_record(entry) for entry in reversed(self._open(table).history())]

    def content_hash(self, table: str, version: int | None = None, where: str = "true") -> str:
        """A fingerprint of the rows: equal exactly when the same rows are there, in whatever order and files.

        Columns that begin with ``_`` are provenance and not content; see `contrail.fingerprint`.
        """
        with duck.connect() as con:
            return row_fingerprint(con, self.scan(table, version), where)

    def snapshot_sha256(self, table: str, version: int | None = None) -> str:
        """The identity of a version's files: names and sizes, no data is read. Another content has another one."""
        opened = self._open(table)
        if version is not None:
            opened.load_as_version(version)
        actions = pa.table(opened.get_add_actions(flatten=True)).select(["path", "size_bytes"]).to_pylist()
        named = sorted(f"{action['path']}:{action['size_bytes']}" for action in actions)
        return hashlib.sha256("\n".join(named).encode()).hexdigest()

    # -- writing -----------------------------------------------------------------------------------------------

    def create(
        self,
        table: str,
        schema: pa.Schema,
        *,
        partition_by: Sequence[str] = (),
        personal: Sequence[str] = (),
        keep_days: int = 400,
        append_only: bool = False,
    ) -> None:
        """Create the table if it does not exist, with its columns, history and statistics settled from the start.

        Args:
            schema: the content columns; the provenance columns of every row are added here.
            partition_by: partition columns.
            personal: columns left out of the log's min/max statistics, which outlive every deletion.
            keep_days: how long files of old versions stay readable.
            append_only: rows may be added and never changed or deleted; every Delta writer honours it.

        Raises:
            LakeError: the table exists with other columns or other partitions.
        """
        full = with_provenance(schema)
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
        if append_only:
            configuration["delta.appendOnly"] = "true"
        try:
            DeltaTable.create(
                self.uri(table),
                full,
                mode="ignore",
                partition_by=list(partition_by),
                configuration=configuration,
                # Else a second creation at the same time becomes a second commit.
                commit_properties=CommitProperties(max_commit_retries=0),
            )
        except DeltaError:
            if not self.exists(table):  # else somebody created it meanwhile
                raise
        self._check_same_shape(table, full, partition_by)

    def append(self, table: str, data: Rows, commit: Commit) -> int:
        """Add rows; returns the new version (the current one where the transaction was already written)."""

        def write(target: DeltaTable, rows: pa.RecordBatchReader, properties: CommitProperties) -> None:
            write_deltalake(target, rows, mode="append", commit_properties=properties)

        return self._write(table, data, commit, write)

    def append_at(self, table: str, data: pa.Table, commit: Commit, *, version: int) -> int:
        """Add rows only if nobody has committed since `version`: a compare-and-swap; returns the new version.

        An ordinary append that meets another one goes after it without asking. Rows that were decided upon the rows
        already there (the next number, the hash of the last row) must not.

        Raises:
            StaleSnapshotError: somebody has committed since; nothing was written.
        """
        target = self._open(table)
        stale = StaleSnapshotError(f"{table} has changed since version {version}; read it again")
        if target.version() != version:
            raise stale
        stamped = self._stamped(target, table, data, commit)
        try:
            write_deltalake(
                target, stamped.reader(), mode="append", commit_properties=_properties(commit, retries=0)
            )
        except CommitFailedError as error:
            if self.version(table) == version:
                raise  # not lost to anybody
            raise stale from error
        return version + 1

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

    def commit_files(
        self, table: str, files: Sequence[Written], commit: Commit, *, replace: bool = False
    ) -> int:
        """Add files that workers have finished, all in one commit: every row of them is there, or none.

        Args:
            files: Parquet files inside the table's folder, with the table's columns and its provenance columns.
            replace: the same commit removes every row that the (unpartitioned) table has now.

        Raises:
            LakeError: a file is missing, is not the one that its worker finished, or has other columns than the table;
                or a partitioned table is to be replaced whole.
        """
        folder = Path(self.uri(table))
        partitions = self._open(table).metadata().partition_columns
        if replace and partitions:
            raise LakeError(
                f"{table} is partitioned: an overwrite of all is refused, commit files of the partitions concerned"
            )
        shape = {column for column in shape_of(self.schema(table)).items() if column[0] not in partitions}
        for file in files:
            path = folder / file.path
            if not path.is_file() or file_sha256(path) != file.sha256:
                raise LakeError(f"{table}: {file.path} is missing or is not the file that was finished")
            if changed := sorted(set(shape_of(parquet.read_schema(path)).items()) ^ shape):
                # A reader would answer null for the column that a file lacks.
                raise LakeError(
                    f"{table}: the columns of {file.path} are not the table's; these differ: {changed}"
                )
        stamp = int(utc_now().timestamp() * 1000)
        actions: list[AddAction | RemoveAction] = [
            AddAction(
                file.path,
                file.size_bytes,
                dict(file.partition),
                stamp,
                True,
                json.dumps({"numRecords": file.rows}),
            )
            for file in files
            if file.rows
        ]
        target = self._open(table)
        if commit.transaction and target.transaction_version(commit.transaction) is not None:
            return target.version()
        target.create_write_transaction(
            actions, "overwrite" if replace else "append", target.schema(), partition_by=partitions or None,
            commit_properties=_properties(commit),
        )  # fmt: skip
        return self._open(table).version()

    # -- inside ------------------------------------------------------------------------------------------------

    def _open(self, table: str) -> DeltaTable:
        uri = self.uri(table)
        if not DeltaTable.is_deltatable(uri):
            raise LakeError(f"there is no table {table} in {self.root} (has its asset been materialised?)")
        return open_table(Path(uri), table)

    def _check_same_shape(self, table: str, full: pa.Schema, partition_by: Sequence[str]) -> None:
        existing = self.schema(table)
        want, have = shape_of(full), shape_of(existing)
        if want != have:
            changed = sorted(set(want.items()) ^ set(have.items()))
            raise LakeError(f"{table} exists with other columns; these differ: {changed}")
        partitions = list(self._open(table).metadata().partition_columns)
        if partitions != list(partition_by):
            raise LakeError(f"{table} exists partitioned by {partitions}, not by {list(partition_by)}")

    def _stamped(self, target: DeltaTable, table: str, data: Rows, commit: Commit) -> Stamped:
        columns = arrow_schema(target).names
        missing = (set(columns) - {WRITTEN_AT, RUN_ID}) ^ set(data.schema.names)
        if missing:
            raise LakeError(
                f"{table}: the data's columns are not the table's; these differ: {sorted(missing)}"
            )
        return Stamped(data, columns, commit.run_id)

    def _write(
        self,
        table: str,
        data: Rows,
        commit: Commit,
        write: Callable[[DeltaTable, pa.RecordBatchReader, CommitProperties], None],
    ) -> int:
        target = self._open(table)
        stamped = self._stamped(target, table, data, commit)
        properties = _properties(commit)
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


def _properties(commit: Commit, *, retries: int = COMMIT_RETRIES_INSIDE) -> CommitProperties:
    return CommitProperties(
        custom_metadata=commit.metadata(),
        max_commit_retries=retries,
        app_transactions=[Transaction(commit.transaction, 1)] if commit.transaction else None,
    )
