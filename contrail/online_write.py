"""Materialisation: the latest row of every entity, from a view's source to the online store, in Feast's own layout."""

from __future__ import annotations

import math
from contextlib import ExitStack, closing
from dataclasses import dataclass
from datetime import datetime
from typing import TYPE_CHECKING, Any

import duckdb
import pyarrow as pa

from contrail.asof_join import Rows
from contrail.asof_sources import join_view, source_path
from contrail.duck import quote_identifier as q
from contrail.online_layout import encode_key, encode_value, epoch_seconds, instant_of
from contrail.online_stores import sqlite_session, store_path
from contrail.online_views import OnlineError, OnlineView, online_view

if TYPE_CHECKING:
    from feast import FeatureStore

_EVENT, _CREATED = "__event_at", "__created_at"

# One newer than what is stored wins; of the same event the version that was created later; equal rows stay untouched.
_UPSERT = """INSERT INTO {table} (entity_key, feature_name, value, event_ts, created_ts) VALUES (?, ?, ?, ?, ?)
ON CONFLICT (entity_key, feature_name) DO UPDATE SET
  value = excluded.value, value_text = NULL, event_ts = excluded.event_ts, created_ts = excluded.created_ts
WHERE excluded.event_ts > event_ts OR (excluded.event_ts = event_ts AND (
  coalesce(excluded.created_ts, 0) > coalesce(created_ts, 0)
  OR (coalesce(excluded.created_ts, 0) = coalesce(created_ts, 0) AND excluded.value IS NOT value)))"""


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
        writing = stack.enter_context(sqlite_session(store_path(store.config), writing=True))
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
