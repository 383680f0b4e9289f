"""Writing the online copy into SQLite: Feast's tables in a smaller layout, and rows that never go back in time.

Feast's own table is a rowid table with an index for its primary key and a second one over half of that key. The same
columns in a table WITHOUT ROWID take less than half the space and time; Feast reads and writes it unchanged, if it is
there before `feast apply`, which creates only what does not exist. The second index exists by name, and is empty.

Resolution: an event time is stored in whole seconds, as Feast does. Of two events of one entity within a second the
one that was created later stands.
"""

from __future__ import annotations

import json
import re
import sqlite3
from collections.abc import Generator, Iterable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from contrail import online_stores
from contrail.duck import quote_identifier as q
from contrail.duck import quote_literal
from contrail.file_lock import LockTakenError, locked
from contrail.online_settled import Settled
from contrail.online_stores import sqlite_session
from contrail.online_views import OnlineError, OnlineView
from contrail.online_write_columns import EncodedRows
from contrail.online_write_journal import Bucket

_JOURNAL = "contrail_materialization"
_PUSHED = "contrail_pushed"
_KEYS_AT_A_TIME = 10_000
_SECOND = 1_000_000
_ENTITIES_PER_STATEMENT = 4  # more gains nothing

# A newer event wins; of the same event the version that was created later; equal rows stay untouched.
_NEWER = """ON CONFLICT (entity_key, feature_name) DO UPDATE SET
  value = excluded.value, value_text = NULL, event_ts = excluded.event_ts, created_ts = excluded.created_ts
WHERE excluded.event_ts > event_ts OR (excluded.event_ts = event_ts AND (
  coalesce(excluded.created_ts, 0) > coalesce(created_ts, 0)
  OR (coalesce(excluded.created_ts, 0) = coalesce(created_ts, 0) AND excluded.value IS NOT value)))"""
_SETTLED = "event_ts < {before} AND coalesce(created_ts, 0) <= {created}"


def create_tables(path: Path, views: Iterable[OnlineView]) -> None:
    """Create the views' tables that do not exist; a table that Feast made before stays as it is.

    Raises:
        OnlineError: the file is locked, or no database.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    path.touch()
    with sqlite_session(path, writing=True) as con:
        for view in views:
            table = q(view.table)
            con.execute("BEGIN IMMEDIATE")
            found = con.execute("SELECT 1 FROM sqlite_master WHERE name = ?", [view.table]).fetchone()
            if not found:
                con.execute(
                    f"CREATE TABLE {table} (entity_key BLOB, feature_name TEXT, value BLOB, value_text TEXT, "
                    "vector_value BLOB, event_ts timestamp, created_ts timestamp, "
                    "PRIMARY KEY (entity_key, feature_name)) WITHOUT ROWID"
                )
                con.execute(
                    f"CREATE INDEX {q(view.table + '_ek')} ON {table} (entity_key) WHERE entity_key IS NULL"
                )
            con.execute("COMMIT")


def stored_order(view: OnlineView, columns: Sequence[str]) -> str:
    """ORDER BY that follows the table's B-tree, so that each of its pages is written about once.

    Args:
        columns: SQL of the key columns, in the order of their names.
    """
    terms: list[str] = []
    for name, column in zip(sorted(view.keys), columns, strict=True):
        if view.keys[name] == "STRING":
            terms += [f"strlen({column})", column]
        else:  # little endian: the lowest byte counts first
            terms += [f"(CAST({column} AS BIGINT) >> {shift}) & 255" for shift in (0, 8, 16, 24)]
    return ", ".join(terms)


@contextmanager
def _only_writer(path: Path, view: OnlineView) -> Generator[None]:
    """A lock per view that ends with the process that holds it.

    Raises:
        OnlineError: another process holds it for longer than `LOCK_SECONDS`.
    """
    folder = path.with_name(f"{path.name}-locks")
    folder.mkdir(exist_ok=True)
    lock = folder / re.sub(r"[^0-9A-Za-z_-]", "_", view.table)
    with ExitStack() as held:
        try:
            held.enter_context(locked(lock, wait_seconds=online_stores.LOCK_SECONDS))
        except LockTakenError:
            raise OnlineError(
                f"another process is materialising view {view.name!r} into {path}: wait for it, or stop it"
            ) from None
        yield


@contextmanager
def sqlite_writer(
    path: Path, view: OnlineView, *, exclusive: bool, settled: Settled | None
) -> Generator[SqliteWriter]:
    """A writer of one view.

    Args:
        exclusive: take the view's lock, as a materialisation does. Single batches need none: each is one transaction
            and never puts an older row over a newer one. Their keys are remembered as pushed.
        settled: which stored rows give way to an older one.

    Raises:
        OnlineError: the store is missing or locked, the view's table is missing, another process materialises the view.
    """
    with sqlite_session(path, writing=True) as con, ExitStack() as stack:
        if exclusive:
            stack.enter_context(_only_writer(path, view))
        con.execute(
            f"CREATE TABLE IF NOT EXISTS {_PUSHED} (view_table TEXT, entity_key BLOB, "
            "PRIMARY KEY (view_table, entity_key)) WITHOUT ROWID"
        )
        yield SqliteWriter(con, view, settled, remembers=not exclusive)


class SqliteWriter:
    """Writes batches of one view, and remembers in the same file which buckets of a materialisation are done."""

    ordered = True

    def __init__(
        self, con: sqlite3.Connection, view: OnlineView, settled: Settled | None, *, remembers: bool
    ) -> None:
        self._con = con
        self._view = view
        self._since = 0 if settled is None else settled.since // _SECOND
        self._remembers = remembers
        # As it is compared with what is stored: whole seconds, and a created time as `_created` writes it.
        self._settled = settled and _SETTLED.format(
            before=-(-settled.before // _SECOND), created=repr(settled.created_until / 1e6)
        )
        self._insert = {n: _insert(view, n, self._settled) for n in (1, _ENTITIES_PER_STATEMENT)}
        self._job = ""

    @staticmethod
    def frame(value: bytes) -> bytes:
        return value

    def resume(self, job: str) -> dict[int, Bucket]:
        self._con.execute(
            f"CREATE TABLE IF NOT EXISTS {_JOURNAL} (view_table TEXT, bucket INTEGER, job TEXT, done TEXT, "
            "PRIMARY KEY (view_table, bucket)) WITHOUT ROWID"
        )
        self._job = job
        found = self._con.execute(
            f"SELECT bucket, done FROM {_JOURNAL} WHERE view_table = ? AND job = ?", [self._view.table, job]
        ).fetchall()
        return {bucket: Bucket(**json.loads(done)) for bucket, done in found}

    def begin(self, number: int) -> None:
        """Nothing to be done: bucket and journal are in one file."""

    def write(self, rows: EncodedRows) -> int:
        self._con.execute("BEGIN IMMEDIATE")
        changed = self._put(rows)
        self._con.execute("COMMIT")
        return changed

    def finish(self, bucket: Bucket, rows: EncodedRows | None) -> Bucket:
        self._con.execute("BEGIN IMMEDIATE")
        changed = 0 if rows is None else self._put(rows)
        done = bucket.plus(rows, changed)
        self._con.execute(
            f"INSERT OR REPLACE INTO {_JOURNAL} VALUES (?, ?, ?, ?)",
            [self._view.table, done.number, self._job, json.dumps(done.__dict__)],
        )
        self._con.execute("COMMIT")
        return done

    def pushed(self) -> Iterator[list[bytes]]:
        after = b""
        while keys := [
            key
            for (key,) in self._con.execute(
                f"SELECT entity_key FROM {_PUSHED} WHERE view_table = ? AND entity_key > ? ORDER BY 1 LIMIT ?",
                [self._view.table, after, _KEYS_AT_A_TIME],
            ).fetchall()
        ]:
            yield keys
            after = keys[-1]

    def withdraw(self, pushed: Sequence[bytes], lacking: Sequence[bytes]) -> int:
        table, settled = q(self._view.table), self._settled or "false"
        self._con.execute("BEGIN IMMEDIATE")
        gone = [
            self._con.execute(
                f"DELETE FROM {table} WHERE entity_key = ? AND event_ts >= ? AND {settled}",
                [key, self._since],
            ).rowcount
            for key in lacking
        ]
        self._con.executemany(
            f"DELETE FROM {_PUSHED} WHERE view_table = ?1 AND entity_key = ?2 AND NOT EXISTS "
            f"(SELECT 1 FROM {table} WHERE entity_key = ?2 AND NOT ({settled}))",
            [(self._view.table, key) for key in pushed],
        )
        self._con.execute("COMMIT")
        return sum(cells > 0 for cells in gone)

    def settle(self) -> None:
        # Commits of a write-ahead log reach the disk with its next checkpoint.
        self._con.execute("PRAGMA wal_checkpoint(PASSIVE)")

    def forget(self) -> None:
        self._con.execute(f"DELETE FROM {_JOURNAL} WHERE view_table = ?", [self._view.table])

    def _put(self, rows: EncodedRows) -> int:
        before = self._con.total_changes
        columns: list[list[Any]] = [rows.keys, (rows.events // _SECOND).tolist(), _created(rows.created)]
        columns += rows.values
        whole = len(rows.keys) // _ENTITIES_PER_STATEMENT * _ENTITIES_PER_STATEMENT
        strides = (
            column[first:whole:_ENTITIES_PER_STATEMENT]
            for first in range(_ENTITIES_PER_STATEMENT)
            for column in columns
        )
        self._con.executemany(self._insert[_ENTITIES_PER_STATEMENT], zip(*strides, strict=True))
        self._con.executemany(self._insert[1], zip(*(column[whole:] for column in columns), strict=True))
        # Counted in cells; an entity whose row is new has all of them written.
        changed = -(-(self._con.total_changes - before) // len(rows.values))
        if self._remembers:
            self._con.executemany(
                f"INSERT OR IGNORE INTO {_PUSHED} VALUES (?, ?)",
                [(self._view.table, key) for key in rows.keys],
            )
        return changed


def _insert(view: OnlineView, entities: int, settled: str | None) -> str:
    """One statement for some entities: key, event, created and the values of each are its parameters."""
    cells: list[str] = []
    for entity in range(entities):
        first = entity * (3 + len(view.features)) + 1
        cells += [
            f"(?{first}, {quote_literal(name)}, ?{first + 3 + number}, ?{first + 1}, ?{first + 2})"
            for number, name in enumerate(view.features)
        ]
    columns = "entity_key, feature_name, value, event_ts, created_ts"
    gives_way = f" OR (excluded.event_ts < event_ts AND {settled})" if settled else ""
    return f"INSERT INTO {q(view.table)} ({columns}) VALUES {', '.join(cells)} {_NEWER}{gives_way}"


def _created(microseconds: npt.NDArray[np.int64]) -> list[int | float | None]:
    """Created times in seconds, as Feast writes them, with a fraction where there is one: Feast never reads them."""
    whole: list[int] = (microseconds // 1_000_000).tolist()
    fractions = microseconds % 1_000_000
    if not fractions.any():
        return list(whole)
    return [
        None if value < 0 else second if value % 1_000_000 == 0 else value / 1e6
        for value, second in zip(microseconds.tolist(), whole, strict=True)
    ]
