"""What a retrieval runs, planned and not yet run: as a table, or as a stream in the same order.

A point-in-time join answers below its memory floor too. DuckDB spills, but some steps need a minimum that it refuses to
go below (OutOfMemoryException). Then the spine is split by the hash of its keys, so that an entity's history stays
together; every part is joined in a session of its own against those rows of the sources that its keys can meet; and the
parts' rows are merged by row id. The answer is the same, for more scans of the sources.
"""

from __future__ import annotations

import io
import logging
import tempfile
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass, replace
from pathlib import Path
from typing import IO, Protocol

import duckdb
import numpy as np
import pyarrow as pa

from contrail.asof_join import JoinView, column_types, point_in_time_join
from contrail.asof_sources import AsofError
from contrail.duck import quote_identifier as q

_log = logging.getLogger(__name__)

SPINE = "entity_rows"
PART = "entity_rows_of_part"
PARTS = (2, 4, 8, 16, 32, 64)
BATCH_ROWS = 100_000
_SMALLEST_BATCH = 2_048  # DuckDB's vector

Session = Callable[[], duckdb.DuckDBPyConnection]


class Plan(Protocol):
    """Something to run. Each call runs it anew, in a session of its own."""

    def table(self) -> pa.Table: ...

    def stream(self, batch_rows: int) -> pa.RecordBatchReader: ...


@dataclass(frozen=True)
class PlannedQuery:
    """One query; `sql` is asked for it with the session in which it will run."""

    session: Session
    sql: Callable[[duckdb.DuckDBPyConnection], str]

    def table(self) -> pa.Table:
        with closing(self.session()) as con:
            return con.sql(self.sql(con)).to_arrow_table()

    def stream(self, batch_rows: int) -> pa.RecordBatchReader:
        con = self.session()
        try:
            reader = con.sql(self.sql(con)).to_arrow_reader(batch_rows)
        except BaseException:
            con.close()
            raise
        return pa.RecordBatchReader.from_batches(reader.schema, _batches(reader, con))


@dataclass(frozen=True)
class PlannedJoin:
    """A point-in-time join.

    Attributes:
        session: opens a session with the limits that hold.
        load: brings the spine into a session, as a table or view named `SPINE`.
        decision_column, row_id_column, views, knowledge_time: as in `point_in_time_join`; the answer has no row id.
        spool: a folder for the parts of a split join; None: they are kept in memory.
    """

    session: Session
    load: Callable[[duckdb.DuckDBPyConnection], None]
    decision_column: str
    row_id_column: str
    views: Sequence[JoinView]
    knowledge_time: bool
    spool: Path | None

    def table(self) -> pa.Table:
        """The whole answer.

        Raises:
            AsofError: it does not fit into the memory limit in 64 parts either.
        """
        try:
            with closing(self.session()) as con:
                return self._whole(con).to_arrow_table()
        except duckdb.OutOfMemoryException as error:
            return self._by_parts(error, BATCH_ROWS).read_all()

    def stream(self, batch_rows: int) -> pa.RecordBatchReader:
        """The answer in batches of about that many rows; raises like `table`, also while it is read."""
        con = self.session()
        try:
            reader = self._whole(con).to_arrow_reader(batch_rows)
        except duckdb.OutOfMemoryException as error:
            con.close()
            return self._by_parts(error, batch_rows)
        except BaseException:
            con.close()
            raise
        return pa.RecordBatchReader.from_batches(reader.schema, self._resumed(reader, con, batch_rows))

    def _resumed(
        self, reader: pa.RecordBatchReader, con: duckdb.DuckDBPyConnection, batch_rows: int
    ) -> Iterator[pa.RecordBatch]:
        """The stream; where memory runs out in the middle, the parts' answer goes on where it stopped."""
        done = 0
        try:
            for batch in _batches(reader, con):
                yield batch
                done += batch.num_rows
        except duckdb.OutOfMemoryException as error:
            for batch in self._by_parts(error, batch_rows):
                if done < batch.num_rows:
                    yield batch.slice(done)
                done = max(0, done - batch.num_rows)

    def _whole(self, con: duckdb.DuckDBPyConnection) -> duckdb.DuckDBPyRelation:
        self.load(con)
        return self._join(con, SPINE, self.views, keep_row_id=False)

    def _join(
        self, con: duckdb.DuckDBPyConnection, spine: str, views: Sequence[JoinView], *, keep_row_id: bool
    ) -> duckdb.DuckDBPyRelation:
        return point_in_time_join(
            con,
            spine=spine,
            decision_column=self.decision_column,
            row_id_column=self.row_id_column,
            views=views,
            knowledge_time=self.knowledge_time,
            keep_row_id=keep_row_id,
        )

    def _by_parts(self, error: duckdb.OutOfMemoryException, batch_rows: int) -> pa.RecordBatchReader:
        for count in PARTS:
            _log.info("the join does not fit into the memory limit: joining it in %d parts by key", count)
            try:
                parts = [self._part(number, count, batch_rows) for number in range(count)]
            except duckdb.OutOfMemoryException as again:
                error = again
                continue
            schema = parts[0].schema
            kept = pa.schema([field for field in schema if field.name != self.row_id_column], schema.metadata)
            merged = merged_by_row_id(parts, self.row_id_column, batch_rows)
            return pa.RecordBatchReader.from_batches(kept, merged)
        raise AsofError(
            f"the join does not fit into the memory limit, not even in {PARTS[-1]} parts by key: raise "
            f"offline_store.memory_limit, set temp_directory, or ask for fewer rows or features at once. {error}"
        ) from error

    def _part(self, number: int, count: int, batch_rows: int) -> pa.RecordBatchReader:
        """The answer of one part, with row ids and in their order, run to its end and spooled."""
        keys = sorted({key for view in self.views for key in view.keys}) or [self.row_id_column]
        hashed = f"hash({', '.join(q(key) for key in keys)}) % {count} = {number}"
        with closing(self.session()) as con:
            self.load(con)
            con.execute(f"CREATE TEMP VIEW {PART} AS SELECT * FROM {SPINE} WHERE {hashed}")
            views = [_met_by_part(con, view) for view in self.views]
            joined = self._join(con, PART, views, keep_row_id=True)
            reader = joined.to_arrow_reader(max(_SMALLEST_BATCH, batch_rows // count))
            return _spooled(reader.schema, _batches(reader, con), self.spool)


def _met_by_part(con: duckdb.DuckDBPyConnection, view: JoinView) -> JoinView:
    """The view over those rows of its source whose keys occur in the part."""
    if not view.keys:
        return view
    types = column_types(con, view.scan_sql)
    theirs = ", ".join(q(column) for column in view.keys.values())
    # The join compares more exactly; here a key only must not be missed, whatever its type.
    ours = ", ".join(f"TRY_CAST({q(ours)} AS {types[column]})" for ours, column in view.keys.items())
    met = f"(SELECT * FROM {view.scan_sql} WHERE ({theirs}) IN (SELECT DISTINCT {ours} FROM {PART}))"
    return replace(view, scan_sql=met)


def _batches(reader: pa.RecordBatchReader, con: duckdb.DuckDBPyConnection) -> Iterator[pa.RecordBatch]:
    """What DuckDB streams, with its own errors again, which come through Arrow as OSError; closes the session."""
    try:
        yield from reader
    except OSError as error:
        if str(error).startswith("Out of Memory Error"):
            raise duckdb.OutOfMemoryException(str(error)) from error
        if str(error).startswith("IO Error"):
            raise duckdb.IOException(str(error)) from error
        raise
    finally:
        con.close()


def _spooled(
    schema: pa.Schema, batches: Iterable[pa.RecordBatch], folder: Path | None
) -> pa.RecordBatchReader:
    """Run a stream to its end and give it back from a nameless file, or from memory where there is no folder."""
    # Open as long as its reader lives, and gone with it.
    spool: IO[bytes] = tempfile.TemporaryFile(dir=folder) if folder else io.BytesIO()  # noqa: SIM115
    with pa.ipc.new_stream(spool, schema) as writer:
        for batch in batches:
            writer.write_batch(batch)
    spool.seek(0)
    return pa.ipc.open_stream(spool)


def merged_by_row_id(
    parts: Iterable[pa.RecordBatchReader], row_id_column: str, batch_rows: int
) -> Iterator[pa.RecordBatch]:
    """The rows of all parts in one order, without the row id, holding one batch of every part at a time.

    Args:
        parts: disjoint, each sorted by its row ids (int64).
        batch_rows: an upper bound for the batches that are given.
    """
    heads = [_Head(part, row_id_column) for part in parts]
    while heads := [head for head in heads if head.fill()]:
        # Below the least of the heads' ends nothing can come from any batch that is not read yet.
        limit = min(head.last for head in heads)
        rows = pa.Table.from_batches([head.take(limit) for head in heads])
        order = np.argsort(rows[row_id_column].to_numpy(), kind="stable")
        yield from rows.take(order).drop_columns(row_id_column).to_batches(max_chunksize=batch_rows)


class _Head:
    """What is read and not yet given of one part."""

    def __init__(self, part: pa.RecordBatchReader, row_id_column: str) -> None:
        self._part = part
        self._column = row_id_column
        self._batch = pa.RecordBatch.from_pylist([], schema=part.schema)

    def fill(self) -> bool:
        """Read on where nothing is left; False at the end."""
        while not self._batch.num_rows:
            try:
                self._batch = self._part.read_next_batch()
            except StopIteration:
                return False
        return True

    @property
    def last(self) -> int:
        return int(self._batch.column(self._column)[self._batch.num_rows - 1].as_py())

    def take(self, limit: int) -> pa.RecordBatch:
        """The rows up to that row id, which are then gone from here."""
        rows = self._batch
        count = int(np.searchsorted(rows.column(self._column).to_numpy(), limit, side="right"))
        self._batch = rows.slice(count)
        return rows.slice(0, count)
