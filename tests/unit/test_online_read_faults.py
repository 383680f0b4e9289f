"""Online reads that cannot be answered: what is wrong is said in words, soon, and nothing stays broken."""

from __future__ import annotations

import re
import sqlite3
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from feast import Entity, FeatureService, FeatureStore, FeatureView, Field, FileSource
from feast.types import Array, Bytes, Int64
from feast.value_type import ValueType

from contrail.online_fetch import SqliteFetch
from contrail.online_layout import OnlineError
from contrail.online_read import OnlineReader, OnlineRow
from tests.support import served_world as world
from tests.support.redis_server import RedisServer
from tests.support.served_world import NOW


def sqlite_store(folder: Path) -> FeatureStore:
    return world.serve_all(world.make(folder, {"type": "sqlite", "path": "online.db"}))


@pytest.fixture(scope="module")
def shops(tmp_path_factory: pytest.TempPathFactory) -> FeatureStore:
    """A store with everything in it, to be read only."""
    store = sqlite_store(tmp_path_factory.mktemp("shops"))
    world.fill(store)
    return store


@pytest.mark.parametrize(
    ("entity", "words"),
    [
        ({"shop": "a", "shelf": 1}, "the entity lacks 'aisle' (INT64), of the join key of aisles; it has shelf, shop"),
        ({"shop": "a"}, "the entity lacks 'aisle' (INT64), of the join key of aisles; it has shop"),
        ({"shop": "a", "aisle": "1", "shelf": 1}, "aisle = '1' is of type str; as a join key of aisles it is INT64"),
        ({"shop": "a", "aisle": True, "shelf": 1}, "aisle = True is of type bool; as a join key of aisles it is INT64"),
        ({"shop": "a", "aisle": 1.0, "shelf": 1}, "aisle = 1.0 is of type float; as a join key of aisles it is INT64"),
        ({"shop": 7, "aisle": 1, "shelf": 1}, "shop = 7 is of type int; as a join key of shops, more_shops it is STRING"),
        ({"shop": b"a", "aisle": 1, "shelf": 1}, "shop = b'a' is of type bytes"),
        ({"shop": ["a"], "aisle": 1, "shelf": 1}, "shop = ['a'] is of type list"),
        ({"shop": "a", "aisle": 1, "shelf": 2**31}, "are out of range as join keys of shelves: aisle as INT64, shelf as INT32"),
    ],
)  # fmt: skip
def test_a_wrong_entity_is_named(shops: FeatureStore, entity: dict[str, Any], words: str) -> None:
    reader = OnlineReader(shops, "all")
    with pytest.raises(OnlineError, match=re.escape(words)):
        reader.read([{"shop": "a", "aisle": 1, "shelf": 1}, entity], now=NOW)
    assert reader.read([{"shop": "a", "aisle": 1, "shelf": 1}], now=NOW).rows(0)["shops"].status == "present"
    reader.close()


def test_numbers_and_texts_of_numpy_are_keys_like_pythons(shops: FeatureStore) -> None:
    reader = OnlineReader(shops, "all")
    plain = {"shop": "a", "aisle": 1, "shelf": 1}
    numpys = {"shop": np.str_("a"), "aisle": np.int32(1), "shelf": np.uint64(1)}
    columns = reader.read([plain, numpys, plain], now=NOW).columns()
    assert all(first == second == third for first, second, third in columns.values())
    assert any(first is not None for first, _, _ in columns.values())
    reader.close()


def test_what_cannot_be_served_is_refused_when_the_service_is_resolved(tmp_path: Path) -> None:
    store = sqlite_store(tmp_path)
    with pytest.raises(OnlineError, match="there is no feature service 'none'; registered: all"):
        OnlineReader(store, "none")
    photo = Entity(name="photo", join_keys=["photo"], value_type=ValueType.BYTES)
    source = FileSource(name="s", path=str(tmp_path / "s.parquet"), timestamp_field="event_timestamp")
    by_bytes = FeatureView(
        name="by_bytes",
        entities=[photo],
        schema=[Field(name="photo", dtype=Bytes), Field(name="f", dtype=Int64)],
        source=source,
    )
    shop = store.get_entity("shop")
    lists = FeatureView(
        name="lists", entities=[shop], schema=[Field(name="l", dtype=Array(Int64))], source=source
    )
    store.apply([photo, by_bytes, lists])
    store.apply([FeatureService(name=view.name, features=[view]) for view in (by_bytes, lists)])
    with pytest.raises(OnlineError, match="by_bytes: join key 'photo' is of type BYTES"):
        OnlineReader(store, "by_bytes")
    with pytest.raises(OnlineError, match="lists: feature 'l' is of type INT64_LIST"):
        OnlineReader(store, "lists")


def test_a_missing_file_and_a_missing_table_are_said(tmp_path: Path) -> None:
    store = sqlite_store(tmp_path)
    entity = {"shop": "a", "aisle": 1, "shelf": 1}
    reader = OnlineReader(store, "all")
    for entities in ([entity], [entity, entity | {"shop": "b"}]):
        reader.read(entities, now=NOW)
    with sqlite3.connect(tmp_path / "online.db") as con:
        con.execute("DROP TABLE served_shops")
    for entities in ([entity], [entity, entity | {"shop": "b"}]):
        with pytest.raises(OnlineError, match="lacks a view's table.*served_shops.*feast apply"):
            reader.read(entities, now=NOW)
    (tmp_path / "online.db").unlink()
    with pytest.raises(OnlineError, match=r"there is no online store at .*online\.db: run `feast apply`"):
        reader.read([entity], now=NOW)
    reader.close()


def test_a_file_that_was_made_anew_is_read_anew(tmp_path: Path) -> None:
    store = sqlite_store(tmp_path)
    entity = {"shop": "a", "aisle": 1, "shelf": 1}
    reader = OnlineReader(store, "all")

    def value() -> Any:
        return reader.read([entity], now=NOW).values(0)["shops_int64"]

    assert value() is None
    folder = tmp_path / "other"
    folder.mkdir()
    other = world.make(folder, {"type": "sqlite", "path": "online.db"})
    world.write(other, "shops", [world.row("shops", {"shop": "a"}, {"int64": 5}, NOW)])
    (folder / "online.db").replace(tmp_path / "online.db")
    assert value() == 5
    reader.close()


def test_redis_down_hung_and_empty_again(tmp_path: Path, own_redis: RedisServer) -> None:
    store = world.make(tmp_path, {"type": "redis", "connection_string": own_redis.address})
    store.apply(FeatureService(name="all", features=[store.get_feature_view("shops")]))
    world.write(store, "shops", [world.row("shops", {"shop": "a"}, {"int64": 5}, NOW)])
    reader = OnlineReader(store, "all")

    def row() -> OnlineRow:
        return reader.read([{"shop": "a"}], now=NOW).rows(0)["shops"]

    def fails(words: str) -> None:
        began = time.monotonic()
        with pytest.raises(OnlineError, match=f"the online store at redis {own_redis.address}/0 {words}"):
            row()
        assert time.monotonic() - began < 0.5

    assert row().values["shops_int64"] == 5
    own_redis.hang()
    fails("does not answer")  # on the connection that is open
    fails("does not answer")  # and on a new one
    own_redis.go_on()
    assert row().values["shops_int64"] == 5
    own_redis.client.set(b"other", b"no hash")
    own_redis.stop()
    fails("cannot be reached.*is it running")
    own_redis.start()
    assert row().status == "not found"
    world.write(store, "shops", [world.row("shops", {"shop": "a"}, {"int64": 6}, NOW)])
    assert row().values["shops_int64"] == 6
    reader.close()


def test_a_redis_key_that_is_no_hash_leaves_the_connection_right(
    tmp_path: Path, own_redis: RedisServer
) -> None:
    store = world.make(tmp_path, {"type": "redis", "connection_string": own_redis.address})
    store.apply(FeatureService(name="all", features=[store.get_feature_view("shops")]))
    world.write(store, "shops", [world.row("shops", {"shop": "a"}, {"int64": 5}, NOW)])
    (key,) = own_redis.client.keys()
    own_redis.client.set(
        key.replace(b"a" + world.PROJECT.encode(), b"b" + world.PROJECT.encode()), b"no hash"
    )
    reader = OnlineReader(store, "all")
    with pytest.raises(OnlineError, match="refuses a command.*WRONGTYPE"):
        reader.read([{"shop": "b"}, {"shop": "a"}], now=NOW)
    assert reader.read([{"shop": "a"}], now=NOW).values(0)["shops_int64"] == 5
    reader.close()


def test_a_reader_goes_on_while_rows_are_written_and_says_it_where_it_cannot(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("contrail.online_fetch.LOCK_SECONDS", 0.05)
    store = sqlite_store(tmp_path)
    world.write(store, "shops", [world.row("shops", {"shop": "a"}, {"int64": 5}, NOW)])
    reader = OnlineReader(store, "all")
    entity = {"shop": "a", "aisle": 1, "shelf": 1}
    writer = sqlite3.connect(tmp_path / "online.db", isolation_level=None)
    writer.execute("BEGIN EXCLUSIVE")  # the file is as Feast makes it, not in write-ahead mode
    with pytest.raises(OnlineError, match=r"online\.db is locked by another writer: try again"):
        reader.read([entity], now=NOW)
    writer.execute("ROLLBACK")
    writer.execute("PRAGMA journal_mode = WAL")
    writer.execute("BEGIN EXCLUSIVE")
    assert reader.read([entity], now=NOW).values(0)["shops_int64"] == 5
    writer.close()
    reader.close()


def test_a_connection_that_another_thread_takes_first_is_not_missed(tmp_path: Path) -> None:
    class TakenMeanwhile(list[Any]):
        """Has one when it is asked, and none any more when it is taken."""

        def __bool__(self) -> bool:
            return True

    sqlite3.connect(tmp_path / "online.db").close()
    fetch = SqliteFetch(tmp_path / "online.db", [])
    fetch._idle = TakenMeanwhile()
    _, con = fetch._connection()
    assert con.execute("SELECT 1").fetchone() == (1,)
    con.close()
    fetch.close()
