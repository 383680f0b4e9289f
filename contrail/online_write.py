"""Materialisation: the latest row of every entity, from a view's source to the online store, in Feast's own layout.

So every Feast client reads what is written here. It differs from Feast's own materialisation on purpose: the latest
rows are found in SQL and streamed in buckets, so that memory does not grow with the table; an older row never
overwrites a newer one; a correction arrives, also where it has the event time of what it corrects; what is killed is
completed by the same call.
"""

from __future__ import annotations

import math
from collections.abc import Generator, Iterator, Mapping
from contextlib import ExitStack, closing, contextmanager
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Any, cast

import duckdb
import pyarrow as pa

from contrail.asof_join import JoinView, Rows, column_types, naive_columns, utc
from contrail.asof_sources import join_view, source_path
from contrail.duck import quote_identifier as q
from contrail.online_layout import instant_of
from contrail.online_settled import Settled, withdraw
from contrail.online_stores import store_kind, store_path
from contrail.online_views import OnlineError, OnlineView, online_view
from contrail.online_write_columns import CREATED_COLUMN, EVENT_COLUMN, check_types, encode_rows
from contrail.online_write_journal import Bucket, OnlineWriter, job_name
from contrail.online_write_redis import check_fields, redis_writer
from contrail.online_write_sqlite import create_tables, sqlite_writer, stored_order

if TYPE_CHECKING:
    from feast import FeatureStore, FeatureView
    from feast.repo_config import RepoConfig

BUCKET_KEYS = 500_000
"""Entities of one bucket: what bounds the memory of a materialisation."""
BATCH_CELLS = 80_000
"""Values of one batch, which is one transaction: well under a second."""

_PASSES = 3


@dataclass(frozen=True)
class Materialized:
    """What one materialisation of one view did.

    Attributes:
        rows: entities with a row in [start, end].
        rows_written: those of them that were not there already, in this or a newer version. Of a materialisation that
            completes a killed one: what both wrote, but for the bucket in which the first was killed.
        rows_withdrawn: entities that had been pushed, have no row in the table, and answer no more.
        newest: the newest event time among them; None without rows.
        source: path of the Delta table; `delta_version`: the version that was read; None for other files.
        buckets: how many parts the entities were taken in; `resumed`: how many of them an earlier call had done.
    """

    view: str
    start: datetime
    end: datetime
    rows: int
    rows_written: int
    newest: datetime | None
    source: str
    delta_version: int | None
    buckets: int = 1
    resumed: int = 0
    rows_withdrawn: int = 0


def prepare_store(config: RepoConfig, views: list[FeatureView]) -> None:
    """What an online store needs before `feast apply`: SQLite its tables, Redis fields that do not collide.

    Raises:
        OnlineError: the file is locked or no database, two features have the same field.
    """
    online = [online_view(config, view) for view in views]
    if store_kind(config) == "sqlite":
        create_tables(store_path(config), online)
    else:
        check_fields(online)


@contextmanager
def open_writer(
    config: RepoConfig, view: OnlineView, *, exclusive: bool, settled: Settled | None = None
) -> Generator[OnlineWriter]:
    """A writer of one view, into whichever store the configuration names.

    Args:
        exclusive: take the view's lock, as a materialisation does. A push of some rows needs none: a row never goes
            over a newer one. What is pushed is remembered by its key.
        settled: which stored rows give way to an older one; None: none.

    Raises:
        OnlineError: the store cannot be reached, is locked, or another process materialises the view.
    """
    if store_kind(config) == "sqlite":
        with sqlite_writer(store_path(config), view, exclusive=exclusive, settled=settled) as writer:
            yield writer
    else:
        with redis_writer(config, view, exclusive=exclusive, settled=settled) as writer:
            yield writer


def materialize_view(
    store: FeatureStore,
    view_name: str,
    *,
    now: datetime,
    start: datetime | None = None,
    whole_until: datetime | None = None,
    con: duckdb.DuckDBPyConnection | None = None,
    batch_rows: int | None = None,
    bucket_keys: int = BUCKET_KEYS,
) -> Materialized:
    """Copy the latest row of every entity, as known at `now`, from a view's source to the online store.

    A row counts if its event time is in [start, now], both included, and its created time is not after `now`. One
    process at a time materialises a view. Killed in the middle, the same call over the same version of the source
    completes what was begun. The interval is registered with Feast after the last batch, so that Feast's watermark is
    never ahead of the data.

    Args:
        store: a store whose views are applied.
        now: the end of the interval, included.
        start: its start, included; by default `now` less the view's max age, or 1970, before which nothing is served.
        whole_until: the source holds everything known before this instant. A row that was pushed for an instant before
            it and is not in the source gives way; None: nothing is known of that, and what is newer stays.
        con: a session to read with, for many views one after the other (opening one costs half a second).
        batch_rows: entities of one transaction; by default as many as have `BATCH_CELLS` values.
        bucket_keys: entities of one bucket.

    Raises:
        OnlineError: the store is missing, locked, down or hangs; another process materialises the view; the source
            lacks a column, has one of another type, or cannot be read.
        AsofError: the source is no Delta table.
    """
    from contrail.asof import session

    feast_view = store.get_feature_view(view_name)
    if feast_view.batch_source is None:
        raise OnlineError(f"view {view_name!r} needs a batch source to be materialised")
    view = online_view(store.config, feast_view)
    if store_kind(store.config) == "redis":
        check_fields(online_view(store.config, other) for other in store.list_feature_views())
    if start is None:
        start = now - view.max_age if view.max_age else instant_of(0)
    settled = None if whole_until is None else Settled.by_table(whole_until, start, now)
    with ExitStack() as stack:
        # First of all: a store that is down or taken is told before anything is read, and who had to wait for another
        # one reads what that one read, or later.
        writer = stack.enter_context(open_writer(store.config, view, exclusive=True, settled=settled))
        pins: dict[str, int] = {}
        source = join_view(store.config, feast_view, list(view.features), pins)
        delta_version = next(iter(pins.values()), None)
        reading = con or stack.enter_context(closing(session(store.config)))
        stack.enter_context(_read_errors(view, delta_version))
        rows_sql = _rows_in(reading, source, view, start, now)
        buckets = _buckets(reading, rows_sql, view, source, bucket_keys)
        job = job_name(
            view,
            declared_at=feast_view.created_timestamp,
            start=start,
            end=now,
            whole_until=whole_until,
            delta_version=delta_version,
            buckets=buckets,
        )
        read = _LatestRows(reading, rows_sql, view, source, buckets, ordered=writer.ordered)
        done, resumed = _write(writer, read, job, batch_rows or max(1, BATCH_CELLS // len(view.features)))
        withdrawn = 0 if settled is None else withdraw(reading, rows_sql, source, view, writer)
        writer.settle()
        register(store, feast_view, start, now)
        writer.forget()
    newest = max(bucket.newest for bucket in done.values())
    return Materialized(
        view=view_name,
        start=start,
        end=now,
        rows=sum(bucket.rows for bucket in done.values()),
        rows_written=sum(bucket.rows_written for bucket in done.values()),
        newest=instant_of(0) + timedelta(microseconds=newest) if newest >= 0 else None,
        source=source_path(store.config, feast_view.batch_source),
        delta_version=delta_version,
        buckets=buckets,
        resumed=resumed,
        rows_withdrawn=withdrawn,
    )


# --- reading ---------------------------------------------------------------------------------------------------------


@contextmanager
def _read_errors(view: OnlineView, delta_version: int | None) -> Generator[None]:
    try:
        yield
    except duckdb.IOException as error:
        raise OnlineError(
            f"view {view.name!r}: a file of version {delta_version} of its source cannot be read, it was probably "
            f"vacuumed or lost: materialise a newer version, or restore the file. {error}"
        ) from error


def _rows_in(
    con: duckdb.DuckDBPyConnection, source: JoinView, view: OnlineView, start: datetime, end: datetime
) -> str:
    """SELECT of all rows of whole keys in the window, as known at its end."""
    found = column_types(con, source.scan_sql)
    created = [source.created_column] if source.created_column else []
    values = [column for column, _ in source.features]
    needed = [*source.keys.values(), source.event_column, *created, *values]
    if missing := sorted(set(needed) - found.keys()):
        raise OnlineError(
            f"the source of view {view.name!r} lacks the columns {missing}; it has {sorted(found)}: build the table "
            "anew, or change the view and run `feast apply`"
        )
    if untimely := [
        name for name in (source.event_column, *created) if not found[name].startswith("TIMESTAMP")
    ]:
        raise OnlineError(
            f"the source of view {view.name!r} has no times in {untimely}: {[found[name] for name in untimely]}"
        )
    outputs = [f"{q(column)} AS {q(name)}" for name, column in source.keys.items()]
    outputs += [f"{q(column)} AS {q(name)}" for column, name in source.features]
    empty = con.sql(f"SELECT {', '.join(outputs)} FROM {source.scan_sql} LIMIT 0")
    check_types(empty.to_arrow_table().schema, view)
    rows = Rows(list(source.keys.values()), values, source.event_column, source.created_column)
    return rows.sql(source.scan_sql, start=start, end=end, latest=False, naive=naive_columns(found))


def _hash(source: JoinView) -> str:
    return f"hash({', '.join(q(column) for column in source.keys.values())})"


def _buckets(
    con: duckdb.DuckDBPyConnection, rows_sql: str, view: OnlineView, source: JoinView, bucket_keys: int
) -> int:
    """How many buckets hold about `bucket_keys` entities each."""
    if not view.keys:
        return 1
    (rows,) = con.sql(f"SELECT count(*) FROM ({rows_sql})").fetchall()[0]
    if rows <= bucket_keys:
        return 1
    (keys,) = con.sql(f"SELECT approx_count_distinct({_hash(source)}) FROM ({rows_sql})").fetchall()[0]
    return max(1, math.ceil(keys / bucket_keys))


@dataclass(frozen=True)
class _LatestRows:
    """The latest row of every entity, bucket by bucket."""

    con: duckdb.DuckDBPyConnection
    rows_sql: str
    view: OnlineView
    source: JoinView
    buckets: int
    ordered: bool

    def sql(self, bucket: int) -> str:
        # The greatest of structs, of which DuckDB keeps one per key; sorting would keep every row. Compared field by
        # field, a null would be the greatest: hence the flags.
        created = (
            f"coalesce({utc(q(self.source.created_column))}, '-infinity')"
            if self.source.created_column
            else ""
        )
        fields = [f"event: {utc(q(self.source.event_column))}", *([f"created: {created}"] if created else [])]
        for number, (column, _) in enumerate(self.source.features):
            fields += [f"has{number}: {q(column)} IS NOT NULL", f"value{number}: {q(column)}"]
        keys = [q(column) for column in self.source.keys.values()]
        latest = ", ".join([*keys, f"max({{{', '.join(fields)}}}) AS latest"])
        sql = f"SELECT {latest} FROM ({self.rows_sql})"
        if self.buckets > 1:
            sql += f" WHERE {_hash(self.source)} % {self.buckets} = {bucket}"
        sql += f" GROUP BY {', '.join(keys)}" if keys else " HAVING count(*) > 0"
        columns = [f"{q(column)} AS {q(key)}" for key, column in self.source.keys.items()]
        columns += [
            f"latest.value{number} AS {q(name)}" for number, (_, name) in enumerate(self.source.features)
        ]
        columns.append(f"latest.event AS {EVENT_COLUMN}")
        if created:
            columns.append(f"nullif(latest.created, '-infinity') AS {CREATED_COLUMN}")
        sql = f"SELECT {', '.join(columns)} FROM ({sql})"
        if self.ordered and keys:
            by_name = [q(self.source.keys[name]) for name in sorted(self.source.keys)]
            sql += f" ORDER BY {stored_order(self.view, by_name)}"
        return sql

    def batches(self, bucket: int, batch_rows: int) -> Iterator[pa.RecordBatch]:
        yield from self.con.sql(self.sql(bucket)).to_arrow_reader(batch_rows)


# --- writing ---------------------------------------------------------------------------------------------------------


def _write(
    writer: OnlineWriter, read: _LatestRows, job: str, batch_rows: int
) -> tuple[Mapping[int, Bucket], int]:
    """Write the buckets that are not done: all of them as they are remembered, and how many were done before."""
    done = writer.resume(job)
    resumed = len(done)
    for _ in range(_PASSES):
        for number in sorted(set(range(read.buckets)) - done.keys()):
            _write_bucket(writer, read, number, batch_rows)
        done = writer.resume(job)
        if len(done) == read.buckets:
            return done, resumed
    raise OnlineError(
        f"view {read.view.name!r}: what is written online does not stay there; is the store being emptied?"
    )


def _write_bucket(writer: OnlineWriter, read: _LatestRows, number: int, batch_rows: int) -> None:
    writer.begin(number)
    bucket = Bucket(number)
    waiting = None
    for batch in read.batches(number, batch_rows):
        if waiting is not None:
            bucket = bucket.plus(waiting, writer.write(waiting))
        waiting = encode_rows(batch, read.view, writer.frame)
    writer.finish(bucket, waiting)


# --- Feast's registry ------------------------------------------------------------------------------------------------


def register(store: FeatureStore, view: FeatureView, start: datetime, end: datetime) -> None:
    """Tell Feast's registry that a view is materialised over [start, end].

    Feast appends an interval per materialisation and trims none, and every reading of the view pays for all of them.
    In a file registry intervals that touch become one here, in the same commit.

    Raises:
        RegistryBusyError: another process changes the registry, and does not end.
    """
    from feast.infra.registry.registry import Registry

    from contrail.feast_registry import changing

    registry = store.registry
    if not isinstance(registry, Registry):
        registry.apply_materialization(view, store.project, start, end)
        return
    with changing(registry, store.project):
        registry.apply_materialization(view, store.project, start, end, commit=False)
        proto = cast("Any", registry.proto())
        for registered in (*proto.feature_views, *proto.stream_feature_views):
            if registered.spec.name == view.name and registered.spec.project == store.project:
                _compact(registered.meta.materialization_intervals)
        registry.commit()


def _compact(intervals: Any) -> None:
    """Replace protobuf intervals by one covering interval per contiguous run."""
    spans = sorted((one.start_time.ToNanoseconds(), one.end_time.ToNanoseconds()) for one in intervals)
    runs: list[tuple[int, int]] = []
    for first, last in spans:
        if runs and first <= runs[-1][1]:
            runs[-1] = (runs[-1][0], max(runs[-1][1], last))
        else:
            runs.append((first, last))
    del intervals[:]
    for first, last in runs:
        one = intervals.add()
        one.start_time.FromNanoseconds(first)
        one.end_time.FromNanoseconds(last)
