"""What was pushed and is not in the table after all: it gives way up to where the table is whole, and not beyond."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from feast import FeatureStore, FeatureView
from feast.types import Float64

from contrail.online_layout import ENTITYLESS_KEY, decode_key, encode_key
from contrail.online_push import OnlinePush
from contrail.online_read import read_online
from contrail.online_views import online_view
from contrail.online_write import Materialized, open_writer
from contrail.online_write_redis import RedisWriter
from contrail.online_write_sqlite import SqliteWriter
from tests.support import online_world as world
from tests.support.online_world import HOUR, MAX_AGE, MICROSECOND, T0
from tests.support.redis_server import RedisServer

SECOND = timedelta(seconds=1)


class Shop:
    """A store that holds what the table says: shop a at three hours before T0."""

    def __init__(self, folder: Path, online: dict[str, Any]) -> None:
        self.folder = folder
        world.append(folder, [("a", 1, T0 - 3 * HOUR, T0 - 3 * HOUR, 1.0)])
        other = world.view(folder, {"price": Float64}, name="other")
        self.store: FeatureStore = world.shop(folder, online, "ours", world.view(folder), other)
        self.view = online_view(self.store.config, self.store.get_feature_view("prices"))
        self.materialize()

    def push(self, *rows: world.Row, until: datetime = T0 + 9 * HOUR) -> int:
        return OnlinePush(self.store.config, self.view).write(world.arrow(rows), until)

    def materialize(
        self, now: datetime = T0, whole_until: datetime | None = T0, **options: Any
    ) -> Materialized:
        return world.materialize(self.store, now, whole_until=whole_until, **options)

    def price(self, shop: str = "a") -> float | None:
        return world.prices(self.store)[(shop, 1)]

    def pushed(self) -> int:
        """How many keys are remembered as pushed."""
        with open_writer(self.store.config, self.view, exclusive=True) as writer:
            return sum(map(len, writer.pushed()))


@pytest.fixture(params=["sqlite", "redis"])
def shop(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Shop]:
    if request.param == "sqlite":
        yield Shop(tmp_path, world.sqlite(tmp_path))
        return
    server: RedisServer = request.getfixturevalue("redis_server")
    yield Shop(tmp_path, world.redis(server.address))


def test_a_pushed_event_that_the_table_lacks_gives_way_to_the_tables_newest_row(shop: Shop) -> None:
    shop.push(("a", 1, T0 - HOUR, T0 - HOUR, 9.0))
    assert shop.price() == 9.0
    done = shop.materialize()
    assert (done.rows, done.rows_written, done.rows_withdrawn) == (1, 1, 0)
    assert shop.price() == world.offline_prices(shop.store, T0)[("a", 1)] == 1.0
    assert shop.materialize().rows_written == 0
    assert shop.pushed() == 0


def test_an_event_that_the_table_has_at_an_earlier_instant_gives_way_too(shop: Shop) -> None:
    shop.push(("a", 1, T0 - HOUR, T0 - HOUR, 9.0))
    world.append(shop.folder, [("a", 1, T0 - 2 * HOUR, T0 - 2 * HOUR, 9.0)])
    assert shop.materialize().rows_written == 1
    answers = dict(zip(map(str, world.ENTITIES), world.online(shop.store), strict=True))
    stamp = answers[str({"shop": "a", "aisle": 1})]["price"][2]
    assert stamp == (T0 - 2 * HOUR).timestamp() * 1_000_000


@pytest.mark.parametrize(
    ("event", "created", "whole_until"),
    [
        (T0 - HOUR, T0 - HOUR, T0 - HOUR),  # the table is whole before that instant
        (T0, T0, T0 + HOUR),  # and known at T0: what is known at it may not be there yet
        (T0 + HOUR, T0 + HOUR, T0 + 9 * HOUR),
        (T0 - HOUR, T0 + MICROSECOND, T0),  # a version that nobody knew at T0
        (T0 - HOUR, T0 - HOUR, None),
    ],
)
def test_what_the_table_cannot_know_yet_stays(
    shop: Shop, event: datetime, created: datetime, whole_until: datetime | None
) -> None:
    shop.push(("a", 1, event, created, 9.0), ("b", 1, event, created, 8.0))
    done = shop.materialize(whole_until=whole_until)
    assert (done.rows_written, done.rows_withdrawn) == (0, 0)
    assert (shop.price(), shop.price("b")) == (9.0, 8.0)
    # And once the table knows, it gives way.
    later = T0 + 2 * HOUR
    done = shop.materialize(later, later)
    assert (done.rows_written, done.rows_withdrawn) == (1, 1)
    assert (shop.price(), shop.price("b")) == (1.0, None)


def test_a_second_that_the_end_cuts_is_not_settled(shop: Shop) -> None:
    """SQLite keeps whole seconds: the event may lie after the end."""
    end = T0 - HOUR + SECOND / 2
    shop.push(("a", 1, end + MICROSECOND, end + MICROSECOND, 9.0))
    assert shop.materialize(whole_until=end).rows_written == 0
    assert shop.price() == 9.0
    assert shop.materialize(whole_until=end + SECOND / 2).rows_written == 1


def test_an_entity_without_any_row_in_the_table_answers_no_more(shop: Shop) -> None:
    """Feast's own reader serves a value of any age: the row must be gone, not old."""
    beyond = T0 + HOUR
    shop.push(("b", 1, T0 - HOUR, T0 - HOUR, 9.0), ("Zürich", -4, beyond, beyond, 8.0))
    other = online_view(shop.store.config, shop.store.get_feature_view("other"))
    row = world.arrow([("b", 1, T0 - HOUR, T0 - HOUR, 7.0)])
    OnlinePush(shop.store.config, other).write(row, T0)
    done = shop.materialize()
    assert (done.rows, done.rows_written, done.rows_withdrawn) == (1, 0, 1)
    assert world.prices(shop.store)[("b", 1)] is None
    assert world.prices(shop.store)[("Zürich", -4)] == 8.0
    answer = world.online(shop.store)[world.ENTITIES.index({"shop": "b", "aisle": 1})]
    assert {stamp for _, _, stamp in answer.values()} == {0}
    # In Redis both views' rows of an entity lie in one hash.
    kept = shop.store.get_online_features(["other:price"], [{"shop": "b", "aisle": 1}]).to_dict()["price"]
    assert kept == [7.0]
    assert shop.pushed() == 1
    assert shop.materialize().rows_withdrawn == 0


def test_a_row_before_the_window_answers_nothing_and_is_left_alone(shop: Shop) -> None:
    old = T0 - MAX_AGE - HOUR
    shop.push(("b", 1, old, old, 9.0))
    done = shop.materialize()
    assert (done.rows_withdrawn, shop.pushed()) == (0, 0)


def test_a_row_that_is_pushed_meanwhile_for_a_later_instant_is_never_lost(
    shop: Shop, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Both of an entity with a row and of one without: pushed after the batch was made, before it is withdrawn."""
    shop.push(("a", 1, T0 - HOUR, T0 - HOUR, 9.0), ("b", 1, T0 - HOUR, T0 - HOUR, 9.0))
    beyond = T0 + HOUR
    for writer in (SqliteWriter, RedisWriter):
        finish, withdraw = writer.finish, writer.withdraw

        def finishing(self: Any, *given: Any, whole: Any = finish) -> Any:
            shop.push(("a", 1, beyond, beyond, 5.0))
            return whole(self, *given)

        def withdrawing(self: Any, *given: Any, whole: Any = withdraw) -> int:
            shop.push(("b", 1, beyond, beyond, 6.0))
            return whole(self, *given)

        monkeypatch.setattr(writer, "finish", finishing)
        monkeypatch.setattr(writer, "withdraw", withdrawing)
    done = shop.materialize()
    assert (done.rows_written, done.rows_withdrawn) == (0, 0)
    assert (shop.price(), shop.price("b")) == (5.0, 6.0)
    assert shop.pushed() == 2


def test_many_keys_go_in_parts(shop: Shop, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("contrail.online_write_sqlite._KEYS_AT_A_TIME", 3)
    monkeypatch.setattr("contrail.online_write_redis._KEYS_AT_A_TIME", 3)
    shop.push(*(("b", aisle, T0 - HOUR, T0 - HOUR, 9.0) for aisle in range(100)))
    assert shop.materialize().rows_withdrawn == 100
    assert shop.pushed() == 0


def test_a_view_without_keys_is_withdrawn_where_its_table_is_empty(tmp_path: Path) -> None:
    world.append(tmp_path, [("a", 1, T0 - 9 * HOUR, T0 - 9 * HOUR, 1.0)])
    prices = world.view(tmp_path)
    alone = FeatureView(
        name="prices", entities=[], ttl=MAX_AGE, schema=prices.features, source=prices.batch_source
    )
    store = world.shop(tmp_path, world.sqlite(tmp_path), "ours", alone)
    view = online_view(store.config, store.get_feature_view("prices"))
    OnlinePush(store.config, view).write(world.arrow([("a", 1, T0 - HOUR, T0 - HOUR, 9.0)]), T0)
    assert world.materialize(store, whole_until=T0).rows_withdrawn == 1
    (answer,) = read_online(store.config, [view], [{}], now=T0)
    assert dict(answer["prices"].values)["price"] is None


def test_a_key_is_read_as_it_was_written() -> None:
    kinds = {"shop": "STRING", "aisle": "INT64", "shelf": "INT32"}
    values = {"shop": "Zürich", "aisle": -(1 << 40), "shelf": -7}
    assert decode_key(encode_key(values, kinds), kinds) == values
    assert decode_key(ENTITYLESS_KEY, {}) == {}
