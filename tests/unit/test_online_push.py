"""Single rows go straight into SQLite and Redis, never over a newer value, and read by Feast's own clients."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import datetime
from pathlib import Path
from typing import Any

import pytest
from feast import FeatureStore

from contrail.online_push import OnlinePush
from contrail.online_views import OnlineError, online_view
from contrail.online_write import materialize_view
from tests.support import online_world as world
from tests.support.online_world import HOUR, T0
from tests.support.redis_server import RedisServer


@pytest.fixture(scope="module")
def redis() -> Iterator[RedisServer]:
    server = RedisServer().start()
    yield server
    server.stop()


class Shop:
    def __init__(self, folder: Path, online: dict[str, Any]) -> None:
        self.folder = folder
        self.store: FeatureStore = world.shop(folder, online)
        self.view = online_view(self.store.config, self.store.get_feature_view("prices"))
        self.pushing = OnlinePush(self.store.config, self.view)

    def push(self, *rows: world.Row, until: datetime = T0 + HOUR) -> int:
        return self.pushing.write(world.arrow(rows), until)

    def price(self, shop: str = "a") -> float | None:
        return world.prices(self.store)[(shop, 1)]

    def event_us(self, shop: str = "a") -> int:
        answers = zip(world.ENTITIES, world.online(self.store), strict=True)
        return next(answer["price"][2] for entity, answer in answers if entity == {"shop": shop, "aisle": 1})


@pytest.fixture(params=["sqlite", "redis"])
def shop(request: pytest.FixtureRequest, tmp_path: Path) -> Shop:
    world.append(tmp_path, [("a", 1, T0 - HOUR, T0 - HOUR, 1.0)])
    if request.param == "redis":
        server: RedisServer = request.getfixturevalue("redis")
        server.client.flushall()
        made = Shop(tmp_path, world.redis(server.address))
    else:
        made = Shop(tmp_path, world.sqlite(tmp_path))
    materialize_view(made.store, "prices", now=T0)
    return made


def test_a_pushed_row_is_what_feast_reads(shop: Shop) -> None:
    assert shop.push(("a", 1, T0, T0, 2.5), ("b", 1, T0, T0, None)) == 2
    assert shop.price() == 2.5
    assert shop.price("b") is None
    assert shop.event_us("b") == int(T0.timestamp()) * 1_000_000


def test_the_same_row_again_changes_nothing(shop: Shop) -> None:
    shop.push(("a", 1, T0, T0, 2.5))
    assert shop.push(("a", 1, T0, T0, 2.5)) == 0
    assert shop.push() == 0


def test_the_newest_row_takes_the_place_of_one_that_is_no_longer_so(shop: Shop) -> None:
    """Of all that is known now, nothing happened at T0: the newest row is an hour older."""
    shop.push(("a", 1, T0, T0, 2.5), ("b", 1, T0, T0, 3.0))
    assert shop.push(("a", 1, T0 - HOUR, T0 - HOUR, 7.0)) == 1
    assert (shop.price(), shop.price("b")) == (7.0, 3.0)
    assert shop.event_us() == int((T0 - HOUR).timestamp()) * 1_000_000
    assert shop.event_us("b") == int(T0.timestamp()) * 1_000_000
    assert shop.push(("a", 1, T0 - HOUR, T0 - HOUR, 7.0)) == 0
    assert shop.push(("a", 1, T0, T0, 2.5)) == 1
    assert shop.price() == 2.5


def test_a_row_of_one_who_knows_more_stays(shop: Shop) -> None:
    shop.push(("a", 1, T0 + HOUR, T0 + HOUR, 2.5))
    assert shop.push(("a", 1, T0 - HOUR, T0 - HOUR, 7.0), until=T0) == 0
    assert shop.price() == 2.5


def test_what_the_table_says_later_wins_where_it_differs(shop: Shop) -> None:
    shop.push(("a", 1, T0, T0, 2.5), ("b", 1, T0, T0, 3.0))
    world.append(shop.folder, [("a", 1, T0, T0, 2.5), ("b", 1, T0, T0, 3.5)])
    done = materialize_view(shop.store, "prices", now=T0)
    assert (done.rows, done.rows_written) == (2, 1)
    assert (shop.price(), shop.price("b")) == (2.5, 3.5)


def test_a_column_of_another_type_is_named(shop: Shop) -> None:
    rows = world.arrow([("a", 1, T0, T0, 2.5)])
    wrong = rows.set_column(rows.column_names.index("price"), "price", rows["label"])
    with pytest.raises(OnlineError, match="'price' is declared DOUBLE, but its source holds string"):
        shop.pushing.write(wrong, T0)


def test_a_store_that_is_down_is_named(tmp_path: Path) -> None:
    own = RedisServer().start()
    made = Shop(tmp_path, world.redis(own.address))
    own.stop()
    with pytest.raises(OnlineError, match="cannot be reached"):
        made.push(("a", 1, T0, T0, 2.5))
