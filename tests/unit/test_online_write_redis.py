"""Materialisation into a Redis that is down, hangs, restarts empty, is emptied meanwhile, or wants a password."""

from __future__ import annotations

import time
from pathlib import Path

import pytest
from feast import FeatureStore

from contrail import online_write_redis
from contrail.online_stores import redis_address, redis_connection_string
from contrail.online_views import OnlineError
from contrail.online_write import prepare_store
from contrail.online_write_redis import RedisWriter
from tests.support import online_world as world
from tests.support.online_world import MAX_AGE, T0, append, intervals, materialize
from tests.support.redis_server import RedisServer

PARTS = {"bucket_keys": 2, "batch_rows": 1}  # six buckets, of two entities or so, one at a time
ENTITIES = 12
WHOLE = [(T0 - MAX_AGE, T0)]


@pytest.fixture
def rows(tmp_path: Path) -> Path:
    append(tmp_path, world.random_rows(1))
    return tmp_path


def test_a_redis_that_is_down_is_said_at_once(rows: Path, own_redis: RedisServer) -> None:
    store = world.shop(rows, world.redis(own_redis.address))
    own_redis.stop()
    began = time.monotonic()
    with pytest.raises(
        OnlineError, match=rf"redis {own_redis.address}/0 cannot be reached .*is it running\?"
    ):
        materialize(store)
    assert time.monotonic() - began < 1
    assert intervals(store) == []
    own_redis.start()
    assert materialize(store).rows_written == ENTITIES
    assert world.prices(store) == world.offline_prices(store, T0)


def test_a_redis_that_hangs_is_said_in_time(
    rows: Path, own_redis: RedisServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = world.shop(rows, world.redis(own_redis.address, 0, "socket_timeout=0.3"))
    whole = RedisWriter.begin

    def begin(writer: RedisWriter, number: int) -> None:
        whole(writer, number)
        if number == 2:
            own_redis.hang()

    monkeypatch.setattr(RedisWriter, "begin", begin)
    monkeypatch.setattr(online_write_redis, "LEASE_SECONDS", 0.5)
    for _ in range(2):  # in the middle, and from the beginning
        began = time.monotonic()
        with pytest.raises(OnlineError, match="does not answer .* hung or out of reach"):
            materialize(store, **PARTS)
        assert time.monotonic() - began < 2
    assert intervals(store) == []
    own_redis.go_on()
    monkeypatch.undo()
    done = materialize(store, **PARTS)
    assert (done.resumed, done.rows) == (2, ENTITIES)
    assert world.prices(store) == world.offline_prices(store, T0)


def test_a_redis_that_restarts_empty_is_filled_again(
    rows: Path, own_redis: RedisServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = world.shop(rows, world.redis(own_redis.address))
    whole = RedisWriter.begin

    def begin(writer: RedisWriter, number: int) -> None:
        if number == 3:
            own_redis.stop()
        whole(writer, number)

    with monkeypatch.context() as patched:
        patched.setattr(RedisWriter, "begin", begin)
        with pytest.raises(OnlineError, match="cannot be reached"):
            materialize(store, **PARTS)
    for _ in range(2):  # what was begun, and what was complete
        own_redis.stop()
        own_redis.start()
        store = FeatureStore(config=store.config)
        done = materialize(store, **PARTS)
        assert (done.resumed, done.rows_written) == (0, ENTITIES)
        assert world.prices(store) == world.offline_prices(store, T0)
        assert intervals(store) == WHOLE


@pytest.mark.parametrize("moment", ["between buckets", "inside a bucket"])
def test_a_redis_that_is_emptied_meanwhile_is_filled_nevertheless(
    rows: Path,
    redis_server: RedisServer,
    monkeypatch: pytest.MonkeyPatch,
    moment: str,
) -> None:
    store = world.shop(rows, world.redis(redis_server.address))
    whole, emptied = RedisWriter.begin, False

    def begin(writer: RedisWriter, number: int) -> None:
        nonlocal emptied
        if moment == "inside a bucket":
            whole(writer, number)
        if number == 3 and not emptied:
            redis_server.client.flushall()
            emptied = True
        if moment == "between buckets":
            whole(writer, number)

    monkeypatch.setattr(RedisWriter, "begin", begin)
    assert materialize(store, **PARTS).rows == ENTITIES
    assert emptied
    assert world.prices(store) == world.offline_prices(store, T0)


def test_a_redis_that_keeps_being_emptied_is_said(
    rows: Path, redis_server: RedisServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = world.shop(rows, world.redis(redis_server.address))
    whole = RedisWriter.begin

    def begin(writer: RedisWriter, number: int) -> None:
        redis_server.client.flushall()
        whole(writer, number)

    monkeypatch.setattr(RedisWriter, "begin", begin)
    with pytest.raises(OnlineError, match="does not stay there; is the store being emptied"):
        materialize(store, **PARTS)
    assert intervals(store) == []


def test_a_password_is_used_and_never_shown(rows: Path, own_redis: RedisServer) -> None:
    secret = 'p,a=s$HOME"ü 1'
    own_redis.client.config_set("requirepass", secret)
    url = f"redis://:p%2Ca%3Ds%24HOME%22%C3%BC%201@{own_redis.address}/2"
    online = {"type": "redis", "connection_string": redis_connection_string(url)}
    store = world.shop(rows, online)
    assert materialize(store).rows_written == ENTITIES
    assert world.prices(store) == world.offline_prices(store, T0)
    address = redis_address(store.config)
    assert address.options["password"] == secret
    assert secret not in f"{address} {address!r}"
    online["connection_string"] = online["connection_string"].replace("ü", "u").replace("u00fc", "u0075")
    wrong = FeatureStore(config=world.config(rows, online))
    with pytest.raises(OnlineError, match="refuses the password") as caught:
        materialize(wrong)
    assert "HOME" not in str(caught.value)


def test_entities_of_redis_end_when_its_configuration_says(rows: Path, redis_server: RedisServer) -> None:
    store = world.shop(rows, world.redis(redis_server.address) | {"key_ttl_seconds": 1000})
    materialize(store)
    client = redis_server.client
    assert all(0 < client.ttl(key) <= 1000 for key in client.keys("*"))
    assert client.dbsize() == ENTITIES


def test_features_with_the_same_field_in_redis_are_refused(rows: Path, redis_server: RedisServer) -> None:
    from feast.types import Float64

    from contrail.online_layout import redis_field

    seen: dict[bytes, str] = {}
    for number in range(2**20):
        name = f"f{number}"
        other = seen.setdefault(redis_field("prices", name), name)
        if other != name:
            break
    else:
        pytest.fail("no two names with the same hash")
    online = world.redis(redis_server.address)
    views = [world.view(rows, {other: Float64, name: Float64})]
    with pytest.raises(OnlineError, match=f"features prices:{other} and prices:{name} have the same field"):
        prepare_store(world.config(rows, online), views)
    prepare_store(world.config(rows, world.sqlite(rows)), views)
