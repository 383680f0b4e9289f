"""The online copy: the latest row of every entity in SQLite, in Feast's own layout.

One table per feature view, ``<project>_<view>``, one row per cell: the serialized entity key, the feature's name, the
serialized ``feast.types.Value`` (empty for null), and event and created time in whole epoch seconds. So every Feast
client reads what is written here (`get_online_features`, ``feast serve``), and `read_online` reads what Feast wrote.

It differs from Feast's own materialisation on purpose: the latest rows are found in SQL and streamed, an older row
never overwrites a newer one, and a row outside its view's max age is said to be so.
"""

from __future__ import annotations

import math
import sqlite3
from collections.abc import Generator, Mapping, Sequence
from contextlib import ExitStack, closing, contextmanager
from dataclasses import dataclass
from datetime import datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import duckdb
import pyarrow as pa

from contrail.asof_join import Rows
from contrail.asof_sources import join_view, source_path
from contrail.duck import quote_identifier as q
from contrail.online_layout import (
    OnlineError,
    decode_value,
    encode_key,
    encode_value,
    epoch_seconds,
    instant_of,
)

if TYPE_CHECKING:
    from feast import FeatureStore, FeatureView
    from feast.repo_config import RepoConfig

__all__ = [
    "Materialized",
    "OnlineError",
    "OnlineRow",
    "OnlineView",
    "materialize_view",
    "online_view",
    "read_online",
    "store_path",
]

Status = Literal["present", "not found", "outside max age"]

_EVENT, _CREATED = "__event_at", "__created_at"
_LOCK_SECONDS = 30
_PARAMETERS = 30_000  # SQLite takes 32,766 in one statement

# One newer than what is stored wins; of the same event the version that was created later; equal rows stay untouched.
_UPSERT = """INSERT INTO {table} (entity_key, feature_name, value, event_ts, created_ts) VALUES (?, ?, ?, ?, ?)
ON CONFLICT (entity_key, feature_name) DO UPDATE SET
  value = excluded.value, value_text = NULL, event_ts = excluded.event_ts, created_ts = excluded.created_ts
WHERE excluded.event_ts > event_ts OR (excluded.event_ts = event_ts AND (
  coalesce(excluded.created_ts, 0) > coalesce(created_ts, 0)
  OR (coalesce(excluded.created_ts, 0) = coalesce(created_ts, 0) AND excluded.value IS NOT value)))"""


# --- writing ---------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class OnlineView:
    """What is needed to read and write one feature view online.

    Attributes:
        name: the view.
        table: its SQLite table.
        keys: join key -> name of Feast's `ValueType`.
        features: feature -> name of Feast's `ValueType`, in order.
        max_age: None: a row counts for ever.
    """

    name: str
    table: str
    keys: Mapping[str, str]
    features: Mapping[str, str]
    max_age: timedelta | None


@dataclass(frozen=True)
class Materialized:
    """What one materialisation of one view did.

    Attributes:
        rows: entities with a row in [start, end].
        rows_written: those of them that were not there already, in this or a newer version.
        newest: the newest event time among them; None without rows.
        source: path of the Delta table; `delta_version`: the version that was read; None for other files.
    """

    view: str
    start: datetime
    end: datetime
    rows: int
    rows_written: int
    newest: datetime | None
    source: str
    delta_version: int | None


def online_view(config: RepoConfig, view: FeatureView, features: Sequence[str] | None = None) -> OnlineView:
    """A Feast view as this module wants it, with all its features or the ones named."""
    from feast.feature_view import DUMMY_ENTITY_ID
    from feast.infra.online_stores.helpers import compute_table_id

    kinds = {field.name: field.dtype.to_value_type().name for field in view.features}
    return OnlineView(
        name=view.name,
        table=compute_table_id(config.project, view),
        keys={f.name: f.dtype.to_value_type().name for f in view.entity_columns if f.name != DUMMY_ENTITY_ID},
        features={name: kinds[name] for name in (features or kinds)},
        max_age=view.ttl or None,
    )


def store_path(config: RepoConfig) -> Path:
    """The SQLite file of a store.

    Raises:
        OnlineError: the online store is another one.
    """
    online = config.online_store
    if online is None or online.type != "sqlite":
        kind = None if online is None else online.type
        raise OnlineError(f"the online store is {kind}; only sqlite is written directly")
    return Path(config.repo_path or ".") / online.path


@contextmanager
def _opened(path: Path) -> Generator[sqlite3.Connection]:
    if not path.exists():
        raise OnlineError(f"there is no online store at {path}: run `feast apply`, then materialise")
    try:
        with closing(sqlite3.connect(path, timeout=_LOCK_SECONDS, isolation_level=None)) as con:
            yield con
    except sqlite3.OperationalError as error:
        if "locked" in str(error):
            raise OnlineError(f"the online store {path} is locked by another writer: try again") from error
        if "no such table" in str(error):
            raise OnlineError(
                f"the online store {path} lacks a view's table ({error}): run `feast apply`"
            ) from error
        raise


def _cells(batch: pa.RecordBatch, view: OnlineView, *, versioned: bool) -> list[tuple[Any, ...]]:
    columns = {name: batch.column(name).to_pylist() for name in batch.schema.names}
    events = [epoch_seconds(value) for value in columns[_EVENT]]
    versions = (
        [None if value is None else epoch_seconds(value) for value in columns[_CREATED]]
        if versioned
        else None
    )
    encoded = {name: [encode_value(v, kind) for v in columns[name]] for name, kind in view.features.items()}
    keys = [
        encode_key(dict(zip(view.keys, values, strict=True)), view.keys)
        for values in zip(*(columns[key] for key in view.keys), strict=True)
    ]
    # In the order of the B-tree, so that pages are written once.
    order = sorted(range(len(keys)), key=keys.__getitem__)
    return [
        (keys[i], name, values[i], events[i], versions[i] if versions else None)
        for i in order
        for name, values in encoded.items()
    ]


def materialize_view(
    store: FeatureStore,
    view_name: str,
    *,
    now: datetime,
    start: datetime | None = None,
    batch_rows: int = 10_000,
    con: duckdb.DuckDBPyConnection | None = None,
) -> Materialized:
    """Copy the latest row of every entity, as known at `now`, from a view's source to the online store.

    A row counts if its event time and its created time are not after `now`. Batches are written one transaction each,
    in any number of runs: killed in the middle, the same call completes it. The interval is registered with Feast
    after the last batch, so that Feast's watermark is never ahead of the data.

    Args:
        store: a store whose views are applied.
        now: the end of the interval, included.
        start: its start, included; by default `now` less the view's max age, or the beginning of time.
        con: a session to read with, for many views one after the other (opening one costs half a second).

    Raises:
        OnlineError: the view has no entity, a type is not served, the store is missing or locked.
    """
    from contrail.asof import session

    feast_view = store.get_feature_view(view_name)
    view = online_view(store.config, feast_view)
    if not view.keys or feast_view.batch_source is None:
        raise OnlineError(f"view {view_name!r} needs an entity and a batch source to be materialised")
    if start is None:
        start = now - view.max_age if view.max_age else instant_of(0)
    pins: dict[str, int] = {}
    source = join_view(store.config, feast_view, list(view.features), pins)
    event, created = source.event_column, source.created_column
    rows_sql = Rows(
        list(source.keys.values()), [column for column, _ in source.features], event, created
    ).sql(source.scan_sql, start=start, end=now, latest=True)
    outputs = [f"{q(column)} AS {q(key)}" for key, column in source.keys.items()]
    outputs += [f"{q(column)} AS {q(name)}" for column, name in source.features]
    outputs += [f"{q(event)} AS {_EVENT}", *([f"{q(created)} AS {_CREATED}"] if created else [])]
    rows = changed = 0
    newest: datetime | None = None
    with ExitStack() as stack:
        reading = con or stack.enter_context(closing(session(store.config)))
        writing = stack.enter_context(_opened(store_path(store.config)))
        writing.execute("PRAGMA journal_mode = WAL")
        writing.execute("PRAGMA synchronous = NORMAL")
        upsert = _UPSERT.format(table=q(view.table))
        latest = reading.sql(f"SELECT {', '.join(outputs)} FROM ({rows_sql})")
        for batch in latest.to_arrow_reader(batch_rows):
            cells = _cells(batch, view, versioned=created is not None)
            before = writing.total_changes
            writing.execute("BEGIN IMMEDIATE")
            writing.executemany(upsert, cells)
            writing.execute("COMMIT")
            rows += batch.num_rows
            changed += writing.total_changes - before
            newest = max(value for value in [newest, *batch.column(_EVENT).to_pylist()] if value is not None)
    store.registry.apply_materialization(feast_view, store.project, start, now)
    return Materialized(
        view=view_name,
        start=start,
        end=now,
        rows=rows,
        rows_written=math.ceil(changed / max(1, len(view.features))),
        newest=newest,
        source=source_path(store.config, feast_view.batch_source),
        delta_version=next(iter(pins.values()), None),
    )


# --- reading ---------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class OnlineRow:
    """One view's answer for one entity.

    Attributes:
        status: "present" also where single values are null.
        event_at: of the stored row, also when it is outside max age; None when there is none.
        values: feature -> value; all None unless the row is present.
    """

    status: Status
    event_at: datetime | None
    values: Mapping[str, Any]


def read_online(
    path: Path, views: Sequence[OnlineView], entities: Sequence[Mapping[str, Any]], *, now: datetime
) -> list[dict[str, OnlineRow]]:
    """Look entities up, one query per view.

    Args:
        path: the SQLite file (`store_path`).
        views: what to read (`online_view`).
        entities: per entity the join keys of all views; a null key finds nothing.
        now: the instant at which a row's age is judged.

    Returns:
        Per entity, in order: view name -> its row.

    Raises:
        OnlineError: the store or a view's table is missing.
        KeyError: an entity lacks a join key.
    """
    answers: list[dict[str, OnlineRow]] = [{} for _ in entities]
    with _opened(path) as con:
        for view in views:
            keys = [
                None if any(e[k] is None for k in view.keys) else encode_key(e, view.keys) for e in entities
            ]
            stored = _stored(con, view, sorted({key for key in keys if key is not None}))
            for answer, key in zip(answers, keys, strict=True):
                answer[view.name] = _judged(view, stored.get(key) if key is not None else None, now)
    return answers


def _stored(
    con: sqlite3.Connection, view: OnlineView, keys: Sequence[bytes]
) -> dict[bytes, tuple[int, dict[str, Any]]]:
    found: dict[bytes, tuple[int, dict[str, Any]]] = {}
    for offset in range(0, len(keys), _PARAMETERS):
        part = keys[offset : offset + _PARAMETERS]
        marks = ",".join("?" * len(part))
        sql = (
            f"SELECT entity_key, feature_name, value, CAST(event_ts AS INTEGER) FROM {q(view.table)} "
            f"WHERE entity_key IN ({marks})"
        )
        for key, feature, value, event_ts in con.execute(sql, part):
            if feature in view.features:
                found.setdefault(key, (event_ts, {}))[1][feature] = decode_value(value)
    return found


def _judged(view: OnlineView, row: tuple[int, dict[str, Any]] | None, now: datetime) -> OnlineRow:
    nothing = dict.fromkeys(view.features)
    if row is None:
        return OnlineRow("not found", None, nothing)
    event_at = instant_of(row[0])
    if view.max_age and now - event_at > view.max_age:
        return OnlineRow("outside max age", event_at, nothing)
    return OnlineRow("present", event_at, nothing | row[1])
