"""Materialisation when it is killed, locked out, or has no store: nothing is lost, and the words say what to do."""

from __future__ import annotations

import sqlite3
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from feast import FeatureStore

from contrail import online_stores, online_write_redis
from contrail.online_stores import redis_address
from contrail.online_views import OnlineError, online_view
from contrail.online_write import open_writer, prepare_store
from contrail.online_write_redis import RedisWriter
from tests.support import online_world as world
from tests.support.killed_writers import Killer, Scenario
from tests.support.online_world import HOUR, MAX_AGE, T0, append, intervals, materialize
from tests.support.redis_server import RedisServer

PARTS = {"bucket_keys": 2, "batch_rows": 1}  # six buckets, of two entities or so, one at a time
BUCKETS, ENTITIES = 6, 12
LEASE = "contrail.online_write_redis:LEASE_SECONDS"
SQLITE, REDIS = "contrail.online_write_sqlite:SqliteWriter", "contrail.online_write_redis:RedisWriter"
WHOLE = [(T0 - MAX_AGE, T0)]


@pytest.fixture(scope="module")
def killer() -> Iterator[Killer]:
    running = Killer()
    yield running
    running.close()


@pytest.fixture
def rows(tmp_path: Path) -> Path:
    append(tmp_path, world.random_rows(1))
    return tmp_path


def scenario(store: FeatureStore, function: str, call: int, **more: Any) -> Scenario:
    config = store.config.model_dump_json(by_alias=True)
    constants = {LEASE: 0.5} | more.pop("constants", {})
    return Scenario(config, T0.isoformat(), function, call, constants=constants, options=PARTS, **more)


# --- killed ----------------------------------------------------------------------------------------------------------


def test_what_is_killed_is_completed_by_the_same_call(
    rows: Path, redis_server: RedisServer, killer: Killer
) -> None:
    """At a bucket's boundary; inside a batch; when all is written; when all is registered."""
    one_by_one = {
        "contrail.online_write_redis:_ROWS_PER_CALL": 1,
        "contrail.online_write_redis:_CALLS_PER_SEND": 1,
    }
    whole = world.shop(rows, world.redis(redis_server.address, 9), "whole")
    whole_file = world.shop(rows, world.sqlite(rows, "whole.db"), "whole_file")
    for store in (whole, whole_file):
        materialize(store)
    killed = [
        # store, where it is killed, with what, how many buckets are done by then, whether the interval is registered
        ("sqlite", f"{SQLITE}.finish", 3, {}, 3, False),
        ("sqlite", f"{SQLITE}._put", 8, {}, None, False),
        ("sqlite", "contrail.online_write:register", 1, {"before": True}, BUCKETS, False),
        ("sqlite", f"{SQLITE}.forget", 1, {"before": True}, BUCKETS, True),
        ("redis", f"{REDIS}.finish", 3, {}, 3, False),
        ("redis", f"{REDIS}._keep_lock", 14, {"constants": one_by_one}, None, False),
        ("redis", f"{REDIS}.write", 8, {"before": True}, None, False),
        ("redis", f"{REDIS}.forget", 1, {"before": True}, BUCKETS, True),
    ]
    stores: list[FeatureStore] = []
    for number, (kind, *_) in enumerate(killed):
        online = (
            world.sqlite(rows, f"{number}.db")
            if kind == "sqlite"
            else world.redis(redis_server.address, number)
        )
        stores.append(world.shop(rows, online, f"killed{number}"))
    for store, (_, function, call, more, _, _) in zip(stores, killed, strict=True):
        killer.kill(scenario(store, function, call, **more))
    for store, (kind, function, _, _, done_before, registered) in zip(stores, killed, strict=True):
        assert intervals(store) == (WHOLE if registered else []), function
        done = materialize(store, **PARTS)
        assert (done.buckets, done.rows) == (BUCKETS, ENTITIES), function
        assert done.resumed == done_before or (done_before is None and 0 < done.resumed < BUCKETS), function
        assert world.online(store) == world.online(whole if kind == "redis" else whole_file), function
        assert intervals(store) == WHOLE, function
        # It is forgotten: the same call again begins anew, and finds everything there.
        again = materialize(store, **PARTS)
        assert (again.resumed, again.rows, again.rows_written) == (0, ENTITIES, 0), function


def test_what_was_killed_begins_anew_over_a_newer_version(rows: Path, killer: Killer) -> None:
    store = world.shop(rows, world.sqlite(rows))
    killer.kill(scenario(store, f"{SQLITE}.finish", 4))
    append(rows, [("a", 1, T0, T0, 77.0)])
    done = materialize(store, **PARTS)
    assert (done.resumed, done.delta_version) == (0, 1)
    assert world.prices(store) == world.offline_prices(store, T0)
    assert world.prices(store)["a", 1] == 77.0


def test_a_view_that_was_deleted_in_between_is_written_whole(rows: Path, killer: Killer) -> None:
    store = world.shop(rows, world.sqlite(rows))
    killer.kill(scenario(store, f"{SQLITE}.finish", 4))
    view = store.get_feature_view("prices")
    store.apply([], objects_to_delete=[view], partial=False)
    prepare_store(store.config, [view])
    store.apply([world.view(rows)])
    assert materialize(store, **PARTS).resumed == 0
    assert world.prices(store) == world.offline_prices(store, T0)


def test_a_registry_is_whole_at_every_instant(rows: Path, killer: Killer) -> None:
    store = world.shop(rows, world.sqlite(rows))
    materialize(store, T0 - HOUR)
    killer.kill(scenario(store, "pathlib:Path.replace", 1, before=True))  # written, and not put in place
    assert intervals(store) == [(T0 - HOUR - MAX_AGE, T0 - HOUR)]
    assert materialize(store, **PARTS).resumed == BUCKETS
    done, sizes = threading.Event(), set[int]()

    def watch() -> None:
        while not done.is_set():
            sizes.add((rows / "ours.registry").stat().st_size)

    watcher = threading.Thread(target=watch)
    watcher.start()
    for _ in range(50):
        store.registry.commit()
    done.set()
    watcher.join()
    whole = (rows / "ours.registry").stat().st_size
    assert min(sizes) > whole - 10  # a time of writing is shorter or longer


# --- locked ----------------------------------------------------------------------------------------------------------


@contextmanager
def _another_process(program: str, *arguments: str) -> Iterator[subprocess.Popen[str]]:
    """Another process that has said that it holds something, and ends with the block."""
    process = subprocess.Popen(
        [sys.executable, "-c", f"{program}\nprint('held', flush=True)\ninput()", *arguments],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert process.stdout is not None
    assert process.stdout.readline() == "held\n"
    try:
        yield process
    finally:
        process.kill()
        process.wait()


WRITES = "import sqlite3, sys; con = sqlite3.connect(sys.argv[1]); con.execute('BEGIN IMMEDIATE')"
LOCKS = "import fcntl, sys; file = open(sys.argv[1], 'w'); fcntl.flock(file, fcntl.LOCK_EX)"


def test_a_file_that_another_process_locks_is_said(rows: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    store = world.shop(rows, world.sqlite(rows))
    materialize(store, T0 - HOUR)
    before = world.prices(store)
    monkeypatch.setattr(online_stores, "LOCK_SECONDS", 0.2)
    with _another_process(WRITES, str(rows / "online.db")):
        began = time.monotonic()
        with pytest.raises(OnlineError, match=r"online\.db is locked by another writer: try again"):
            materialize(store)
        assert time.monotonic() - began < 2
        assert world.prices(store) == before  # readers go on
    assert intervals(store) == [(T0 - HOUR - MAX_AGE, T0 - HOUR)]
    materialize(store)
    assert world.prices(store) == world.offline_prices(store, T0)


def test_one_process_at_a_time_materialises_a_view_into_a_file(
    rows: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = world.shop(rows, world.sqlite(rows))
    monkeypatch.setattr(online_stores, "LOCK_SECONDS", 0.2)
    materialize(store, T0 - 10 * HOUR)
    with _another_process(LOCKS, str(rows / "online.db-locks" / "test_prices")) as holder:
        with pytest.raises(OnlineError, match="another process is materialising view 'prices' into"):
            materialize(store)
        assert intervals(store) == [(T0 - 10 * HOUR - MAX_AGE, T0 - 10 * HOUR)]
        holder.kill()
        holder.wait()
        assert materialize(store).rows_written == ENTITIES


def test_one_process_at_a_time_materialises_a_view_into_redis(
    rows: Path, redis_server: RedisServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = world.shop(rows, world.redis(redis_server.address))
    view = online_view(store.config, store.get_feature_view("prices"))
    monkeypatch.setattr(online_stores, "LOCK_SECONDS", 0.2)
    with (
        open_writer(store.config, view, exclusive=True),
        pytest.raises(OnlineError, match=r"another process \(.+/\d+/.+\) is materialising view 'prices'"),
    ):
        materialize(store)
    assert intervals(store) == []
    assert materialize(store).rows_written == ENTITIES
    # A writer that was silent for longer than its lease finds that another one has begun.
    whole = RedisWriter.begin

    def begin(writer: RedisWriter, number: int) -> None:
        redis_server.client.set("contrail:writer:test:prices", "another")
        whole(writer, number)

    monkeypatch.setattr(RedisWriter, "begin", begin)
    with pytest.raises(OnlineError, match=r"another process \(another\) took over view 'prices'"):
        materialize(store)


def test_a_lock_in_redis_ends_with_its_lease_or_an_error(
    rows: Path,
    redis_server: RedisServer,
    monkeypatch: pytest.MonkeyPatch,
    killer: Killer,
) -> None:
    store = world.shop(rows, world.redis(redis_server.address))
    monkeypatch.setattr(online_write_redis, "LEASE_SECONDS", 0.3)
    killer.kill(scenario(store, f"{REDIS}.begin", 1))
    assert materialize(store).rows_written == ENTITIES
    view = online_view(store.config, store.get_feature_view("prices"))
    with pytest.raises(ValueError, match="something else"), open_writer(store.config, view, exclusive=True):
        raise ValueError("something else")
    assert redis_server.client.keys("contrail:*") == []


# --- no store --------------------------------------------------------------------------------------------------------


def test_a_missing_file_or_table_is_said(rows: Path) -> None:
    store = world.shop(rows, world.sqlite(rows))
    with sqlite3.connect(rows / "online.db") as con:
        con.execute("DROP TABLE test_prices")
    with pytest.raises(
        OnlineError, match=r"lacks a view's table \(no such table: test_prices\): run `feast apply`"
    ):
        materialize(store)
    for name in ("online.db", "online.db-wal", "online.db-shm"):
        (rows / name).unlink(missing_ok=True)
    with pytest.raises(OnlineError, match=r"no online store at .*online\.db: run `feast apply`"):
        materialize(store)
    (rows / "online.db").write_bytes(b"no database" * 1000)
    with pytest.raises(OnlineError, match=r"online\.db is damaged"):
        materialize(store)
    assert intervals(store) == []


def test_another_kind_of_store_is_said(rows: Path) -> None:
    for online, said in (
        ({"type": "redis", "connection_string": "a:1,b:2"}, "names 2 servers; it must be host:port"),
        ({"type": "redis", "connection_string": "only-a-host"}, "it must be host:port"),
        (
            {"type": "redis", "redis_type": "redis_cluster", "connection_string": "a:1"},
            "is redis_cluster; only",
        ),
        ({"type": "remote"}, "is remote; only sqlite and redis"),
    ):
        with pytest.raises(OnlineError, match=said):
            redis_address(world.config(rows, online))
    with pytest.raises(OnlineError, match="is sqlite, not Redis"):
        redis_address(world.config(rows, world.sqlite(rows)))
    with pytest.raises(OnlineError, match="is redis, not a SQLite file"):
        online_stores.store_path(world.config(rows, world.redis("host:1")))
