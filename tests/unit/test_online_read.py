"""Online reads: Feast's values for any service, and what Feast does not say: present, not found, outside max age."""

from __future__ import annotations

import os
import random
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from feast import FeatureService, FeatureStore, Field
from feast.errors import FeatureNameCollisionError
from feast.types import Int64

from contrail.online_layout import OnlineError, redis_field
from contrail.online_read import OnlineReader, OnlineRow
from tests.support import served_world as world
from tests.support.redis_server import RedisServer
from tests.support.served_world import KINDS, MAX_AGE, NOW

ROOT = Path(__file__).parents[2]
STORES = ("sqlite", "redis")
SECOND = timedelta(seconds=1)
MICROSECOND = timedelta(microseconds=1)


Shop = Callable[[str], FeatureStore]


@pytest.fixture(scope="module")
def filled(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Shop]:
    """The store of a kind with everything in it, to be read only; made when it is first asked for."""
    folder = tmp_path_factory.mktemp("served")
    server = RedisServer()
    made: dict[str, FeatureStore] = {}

    def of(kind: str) -> FeatureStore:
        if kind not in made:
            online = {"type": "sqlite", "path": "online.db"}
            if kind == "redis":
                online = {"type": "redis", "connection_string": server.start().address}
            made[kind] = world.make(folder, online, f"{kind}.registry")
            world.fill(made[kind])
        return made[kind]

    yield of
    server.stop()


@pytest.fixture
def fresh(tmp_path: Path, request: pytest.FixtureRequest) -> Shop:
    """The store of a kind with nothing in it, and one service over all its views."""

    def make(kind: str) -> FeatureStore:
        online = {"type": "sqlite", "path": "online.db"}
        if kind == "redis":
            online = {"type": "redis", "connection_string": request.getfixturevalue("redis_server").address}
        store = world.make(tmp_path, online)
        store.apply(
            FeatureService(name="all", features=[store.get_feature_view(name) for name in world.VIEWS])
        )
        return store

    return make


def one_row(
    store: FeatureStore, view: str, entity: dict[str, Any], now: datetime, **options: Any
) -> OnlineRow:
    """The answer of one view for one entity."""
    reader = OnlineReader(store, "all")
    try:
        asked = {"shop": None, "aisle": None, "shelf": None, **entity}
        return reader.read([asked], now=now, **options).rows(0)[view]
    finally:
        reader.close()


# --- the same values as Feast ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", STORES)
def test_any_service_has_the_values_that_feast_hands_out(filled: Shop, kind: str) -> None:
    store = filled(kind)
    rnd = random.Random(5)
    seen: set[str] = set()
    refused = 0
    for number in range(100):
        service = world.draw_service(store, f"service_{number}", rnd)
        store.apply(service)
        full = rnd.random() < 0.5
        entities = world.draw_entities(rnd, rnd.choice([1, 1, 2, 30]))
        try:
            feasts = store.get_online_features(service, entities, full_feature_names=full).to_dict()
        except FeatureNameCollisionError:  # one view twice, without its name before its features
            with pytest.raises(OnlineError, match="ask for full feature names"):
                OnlineReader(store, service.name, full_feature_names=full)
            refused += 1
            continue
        reader = OnlineReader(store, service.name, full_feature_names=full)
        answer = reader.read(entities, now=NOW)
        columns = answer.columns()
        assert tuple(columns) == reader.service.features
        for name, column in columns.items():
            assert [repr(value) for value in column] == [repr(value) for value in feasts[name]], name
            seen |= {f"{name.rpartition('_')[2]} {type(value).__name__}" for value in column}
        for at in range(len(entities)):
            assert answer.values(at) == {name: column[at] for name, column in columns.items()}
        reader.close()
    assert 0 < refused < 25
    assert len(seen) == 2 * len(KINDS), seen  # a value and a null of every kind


@pytest.mark.parametrize("kind", STORES)
def test_eight_threads_share_one_reader(filled: Shop, kind: str) -> None:
    store = filled(kind)
    store.apply(world.draw_service(store, "shared", random.Random(11)))
    reader = OnlineReader(store, "shared", full_feature_names=True)
    questions = [world.draw_entities(random.Random(number), 1 + number % 5) for number in range(8)]
    expected = [repr(reader.read(entities, now=NOW).columns()) for entities in questions]
    wrong: list[int] = []

    def ask(number: int) -> None:
        for _ in range(30):
            if repr(reader.read(questions[number], now=NOW).columns()) != expected[number]:
                wrong.append(number)

    threads = [threading.Thread(target=ask, args=(number,)) for number in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert wrong == []
    assert len(set(expected)) == 8
    reader.close()


# --- what Feast does not say -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", STORES)
def test_statuses_are_told_apart(fresh: Shop, kind: str) -> None:
    store = fresh(kind)
    resolution = SECOND if kind == "sqlite" else MICROSECOND  # of what is stored
    rows = {"full": NOW, "null": NOW, "edge": NOW - MAX_AGE, "old": NOW - MAX_AGE - resolution}
    values = {"double": 1.5, "string": "x"}
    for shop, at in rows.items():
        world.write(
            store, "shops", [world.row("shops", {"shop": shop}, {} if shop == "null" else values, at)]
        )

    def said(shop: str | None, **options: Any) -> tuple[str, Any, datetime | None, timedelta | None]:
        row = one_row(store, "shops", {"shop": shop}, NOW, **options)
        assert tuple(row.values) == tuple(f"shops_{name}" for name in KINDS)
        return row.status, row.values["shops_double"], row.event_at, row.age

    assert said("full") == ("present", 1.5, NOW, timedelta(0))
    assert said("null") == ("present", None, NOW, timedelta(0))
    assert said("edge") == ("present", 1.5, NOW - MAX_AGE, MAX_AGE)
    assert said("old") == ("outside max age", None, NOW - MAX_AGE - resolution, MAX_AGE + resolution)
    assert said("old", expired_values=True) == ("outside max age", 1.5, *said("old")[2:])
    assert said("edge", expired_values=True) == said("edge")
    assert said("nobody") == said("nobody", expired_values=True) == ("not found", None, None, None)
    assert said(None) == said(None, expired_values=True) == ("not found", None, None, None)
    # Of the same hash in Redis, and yet not there.
    assert one_row(store, "more_shops", {"shop": "full"}, NOW).status == "not found"


@pytest.mark.parametrize("kind", STORES)
def test_a_row_newer_than_the_question_has_a_negative_age(fresh: Shop, kind: str) -> None:
    store = fresh(kind)
    world.write(store, "chain", [world.row("chain", {}, {"int64": 7}, NOW)])
    row = one_row(store, "chain", {}, NOW - SECOND)
    assert (row.status, row.age, row.values["chain_int64"]) == ("present", -SECOND, 7)
    with pytest.raises(ValueError, match="has no zone"):
        one_row(store, "chain", {}, NOW.replace(tzinfo=None))


def test_a_view_without_max_age_is_never_outside_it(tmp_path: Path) -> None:
    store = world.make(tmp_path, {"type": "sqlite", "path": "online.db"})
    view = store.get_feature_view("shops")
    view.ttl = timedelta(0)
    store.apply([view, FeatureService(name="all", features=[view])])
    long_ago = datetime(1971, 1, 1, tzinfo=NOW.tzinfo)
    world.write(store, "shops", [world.row("shops", {"shop": "a"}, {"double": 2.5}, long_ago)])
    row = one_row(store, "shops", {"shop": "a"}, NOW)
    assert (row.status, row.event_at, row.values["shops_double"]) == ("present", long_ago, 2.5)


AGES = """
import sys
from datetime import datetime
from types import SimpleNamespace
from contrail.online_read import read_online
from contrail.online_views import OnlineView
from datetime import timedelta
path, address, now = sys.argv[1:]
sqlite = SimpleNamespace(type="sqlite", path=path)
redis = SimpleNamespace(type="redis", redis_type=SimpleNamespace(value="redis"), connection_string=address)
view = OnlineView("shops", "served", "shops", "served_shops", {"shop": "STRING"}, {"shops_moment": "UNIX_TIMESTAMP"}, timedelta(hours=6))
for online in (sqlite, redis):
    config = SimpleNamespace(online_store=online, repo_path=None, project="served")
    row = read_online(config, [view], [{"shop": "a"}], now=datetime.fromisoformat(now))[0]["shops"]
    print(row.status, row.age, row.event_at.isoformat(), row.values["shops_moment"].isoformat())
"""


def test_ages_are_right_in_every_time_zone(fresh: Shop, tmp_path: Path, redis_server: RedisServer) -> None:
    at, moment = NOW - timedelta(hours=5), NOW - timedelta(days=200)
    for kind in STORES:
        world.write(
            fresh(kind), "shops", [world.row("shops", {"shop": "a"}, {"moment": int(moment.timestamp())}, at)]
        )
    line = f"present 5:00:00 {at.isoformat()} {moment.isoformat()}\n"
    for zone in ("UTC", "America/New_York", "Pacific/Auckland"):
        arguments = [str(tmp_path / "online.db"), redis_server.address, NOW.isoformat()]
        done = subprocess.run(
            [sys.executable, "-c", AGES, *arguments],
            env=os.environ | {"TZ": zone},
            capture_output=True,
            text=True,
            check=False,
            cwd=ROOT,
        )
        assert done.stdout == line * 2, (zone, done.stdout, done.stderr)


# --- in one round trip -----------------------------------------------------------------------------------------------


def test_more_keys_than_sqlite_takes_in_one_statement(fresh: Shop) -> None:
    store = fresh("sqlite")
    there = [0, 1, 29_999, 30_000, 32_765, 32_766, 32_767, 39_999]
    for view, keys in (("aisles", {"shop": "a"}), ("shelves", {"shelf": 1})):
        world.write(
            store,
            view,
            [world.row(view, {**keys, "aisle": n}, {"int64": n, "string": f"n{n}"}, NOW) for n in there],
        )
    reader = OnlineReader(store, "all")
    answer = reader.read([{"shop": "a", "aisle": n, "shelf": 1} for n in range(40_000)], now=NOW)
    columns = answer.columns()
    for view in ("aisles", "shelves"):
        assert [n for n, value in enumerate(columns[f"{view}_int64"]) if value is not None] == there
        assert [columns[f"{view}_string"][n] for n in there] == [f"n{n}" for n in there]
        assert answer.rows(32_766)[view].status == "present"
        assert answer.rows(32_764)[view].status == "not found"
    reader.close()


def test_one_entity_is_one_statement_with_the_answer_of_many(
    filled: Shop, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = world.serve_all(filled("sqlite"))
    reader = OnlineReader(store, "all")
    entities = world.draw_entities(random.Random(3), 40)
    one_by_one = [reader.read([entity], now=NOW).values(0) for entity in entities]
    monkeypatch.setattr("contrail.online_fetch._COMPOUNDS", 0)
    view_by_view = [reader.read([entity], now=NOW).values(0) for entity in entities]
    together = reader.read(entities, now=NOW)
    assert repr(one_by_one) == repr(view_by_view) == repr([together.values(at) for at in range(40)])
    reader.close()


def test_no_entities_no_rows(fresh: Shop) -> None:
    for kind in STORES:
        reader = OnlineReader(fresh(kind), "all")
        assert set(reader.read([], now=NOW).columns().values()) == {()}
        reader.close()


def test_redis_is_asked_once_for_each_key_of_views_that_share_it(
    fresh: Shop, redis_server: RedisServer
) -> None:
    store = fresh("redis")
    world.fill(store)
    reader = OnlineReader(store, "all")
    entities = [{"shop": shop, "aisle": 1, "shelf": 1} for shop in ("a", "Zürich", "a", "a", None)]
    reader.read(entities, now=NOW)
    redis_server.client.config_resetstat()
    reader.read(entities, now=NOW)
    calls = {name: found["calls"] for name, found in redis_server.client.info("commandstats").items()}
    # Two shops for two views, two aisles, one shelf, one chain; and nothing but look-ups.
    assert calls["cmdstat_hmget"] == 2 + 2 + 1 + 1
    assert set(calls) <= {
        "cmdstat_hmget",
        "cmdstat_config|resetstat",
        "cmdstat_info",
        "cmdstat_client|setinfo",
    }
    reader.close()


def test_two_features_with_one_field_in_redis_are_refused(tmp_path: Path, redis_server: RedisServer) -> None:
    known: dict[bytes, str] = {}
    for number in range(500_000):
        other = known.setdefault(redis_field("shops", f"f{number}"), f"f{number}")
        if other != f"f{number}":
            break
    store = world.make(tmp_path, {"type": "redis", "connection_string": redis_server.address})
    view = store.get_feature_view("shops")
    view.features = [Field(name=name, dtype=Int64) for name in (other, f"f{number}")]
    view.projection.features = view.features
    store.apply([view, FeatureService(name="all", features=[view])])
    with pytest.raises(OnlineError, match=f"shops:{other} and shops:f{number} have the same field in Redis"):
        OnlineReader(store, "all")


# --- resolved once ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", STORES)
def test_the_registry_is_read_when_made_and_on_refresh_only(
    fresh: Shop, kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = fresh(kind)
    world.fill(store)
    few = FeatureService(name="few", features=[store.get_feature_view("shops")[["shops_int64"]]])
    store.apply(few)
    another = FeatureStore(config=store.config)
    reader = OnlineReader(store, "few")
    assert reader.keys == {"shop": "STRING"}
    entity = {"shop": "a", "aisle": 1}
    before = reader.read([entity], now=NOW).columns()
    more = another.get_feature_view("aisles")[["aisles_bool"]]
    another.apply(
        FeatureService(name="few", features=[another.get_feature_view("shops")[["shops_int64"]], more])
    )
    with monkeypatch.context() as patched:
        patched.setattr(type(store.registry), "_get_registry_proto", None)
        with pytest.raises(TypeError):  # what any use of the registry comes to now
            store.get_feature_service("few")
        assert reader.read([entity], now=NOW).columns() == before
        assert reader.keys == {"shop": "STRING"}
    reader.refresh()
    assert reader.service.features == ("shops_int64", "aisles_bool")
    assert reader.keys == {"shop": "STRING", "aisle": "INT64"}
    after = reader.read([entity], now=NOW).columns()
    assert after["shops_int64"] == before["shops_int64"]
    another.delete_feature_service("few")
    with pytest.raises(OnlineError, match="there is no feature service 'few'; registered: all"):
        reader.refresh()
    assert reader.read([entity], now=NOW).columns() == after
    reader.close()


@pytest.mark.parametrize("kind", STORES)
def test_reads_go_on_while_it_is_refreshed(filled: Shop, kind: str) -> None:
    store = filled(kind)
    store.apply(
        FeatureService(
            name="two", features=[store.get_feature_view("shops"), store.get_feature_view("chain")]
        )
    )
    reader = OnlineReader(store, "two")
    expected = repr(reader.read([{"shop": "a"}], now=NOW).columns())
    done = threading.Event()
    said: list[str] = []

    def ask() -> None:
        while not done.is_set():
            try:
                said.append(repr(reader.read([{"shop": "a"}], now=NOW).columns()))
            except Exception as error:
                said.append(repr(error))

    threads = [threading.Thread(target=ask) for _ in range(3)]
    for thread in threads:
        thread.start()
    for _ in range(15):
        reader.refresh()
    done.set()
    for thread in threads:
        thread.join()
    assert set(said) == {expected}
    assert len(said) > 15
    reader.close()
    assert repr(reader.read([{"shop": "a"}], now=NOW).columns()) == expected  # and after it was closed
    reader.close()
