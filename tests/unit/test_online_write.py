"""Materialisation, on SQLite and on Redis: what Feast's clients read afterwards, and what never happens to it."""

from __future__ import annotations

import sqlite3
from collections.abc import Callable
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pytest
from deltalake import DeltaTable, write_deltalake
from feast.types import Float64, Int32, String, UnixTimestamp

from contrail.asof_sources import AsofError
from contrail.online_read import read_online
from contrail.online_views import OnlineError, online_view
from contrail.online_write import open_writer, prepare_store
from tests.support import online_world as world
from tests.support.online_world import HOUR, MAX_AGE, MICROSECOND, T0, append, intervals, materialize

KEY = ("a", 1)


@pytest.fixture(params=["sqlite", "redis"])
def place(request: pytest.FixtureRequest, tmp_path: Path) -> Callable[[str], dict[str, Any]]:
    """Online stores of one kind, empty, by name."""
    if request.param == "sqlite":
        return lambda name: world.sqlite(tmp_path, f"{name}.db")
    address = request.getfixturevalue("redis_server").address
    return lambda name: world.redis(address, {"ours": 0, "feasts": 1}[name])


Place = Callable[[str], dict[str, Any]]


# --- what is read ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("seed", [1, 2, 3])
def test_feasts_clients_read_what_feast_would_have_written(tmp_path: Path, place: Place, seed: int) -> None:
    append(tmp_path, world.random_rows(seed))
    ours = world.shop(tmp_path, place("ours"))
    feasts = world.shop(tmp_path, place("feasts"), "feasts")
    done = materialize(ours, batch_rows=5)
    feasts.materialize(T0 - MAX_AGE, T0, ["prices"])
    assert world.online(ours) == world.online(feasts)
    assert world.prices(ours) == world.offline_prices(ours, T0)
    assert done.rows == done.rows_written == 12
    assert done.delta_version == 0
    assert Path(done.source) == (tmp_path / "prices").resolve()
    assert done.newest is not None
    assert T0 - HOUR < done.newest <= T0


def test_our_own_reader_reads_what_offline_says_now(tmp_path: Path, place: Place) -> None:
    append(tmp_path, world.random_rows(8))
    store = world.shop(tmp_path, place("ours"))
    materialize(store)
    view = online_view(store.config, store.get_feature_view("prices"))
    rows = read_online(store.config, [view], world.ENTITIES, now=T0)
    frame = pa.Table.from_pylist([entity | {"event_timestamp": T0} for entity in world.ENTITIES])
    offline = store.get_historical_features(frame, world.REFS).to_arrow().select(list(world.FIELDS))
    whole_seconds = pa.timestamp("s", tz="UTC")  # what is kept of an instant online
    since = pc.floor_temporal(offline["since"], unit="second").cast(whole_seconds)
    offline = offline.set_column(offline.column_names.index("since"), "since", since)
    assert [dict(row["prices"].values) for row in rows] == offline.to_pylist()


def test_the_cells_in_a_file_are_feasts(tmp_path: Path) -> None:
    """But for the fraction of a created time, which Feast cuts off."""
    append(tmp_path, world.random_rows(9))
    ours = world.shop(tmp_path, world.sqlite(tmp_path, "ours.db"))
    feasts = world.shop(tmp_path, world.sqlite(tmp_path, "feasts.db"), "feasts")
    materialize(ours)
    feasts.materialize(T0 - MAX_AGE, T0, ["prices"])
    cells = (
        "SELECT entity_key, feature_name, value, event_ts, CAST(created_ts AS INTEGER) FROM test_prices "
        "ORDER BY 1, 2"
    )
    with sqlite3.connect(tmp_path / "ours.db") as left, sqlite3.connect(tmp_path / "feasts.db") as right:
        found = left.execute(cells).fetchall()
        assert found == right.execute(cells).fetchall()
    assert len(found) == 12 * len(world.FIELDS)


def test_any_number_of_buckets_gives_the_same(tmp_path: Path, place: Place) -> None:
    append(tmp_path, world.random_rows(4))
    whole, parts = world.shop(tmp_path, place("ours")), world.shop(tmp_path, place("feasts"), "parts")
    assert materialize(whole).buckets == 1
    done = materialize(parts, bucket_keys=2, batch_rows=1)
    assert (done.buckets, done.rows, done.resumed) == (6, 12, 0)
    assert world.online(whole) == world.online(parts)


def test_feast_writes_over_ours_and_ours_over_feasts(tmp_path: Path, place: Place) -> None:
    append(tmp_path, [("a", 1, T0 - HOUR, T0 - HOUR, 1.0)])
    store = world.shop(tmp_path, place("ours"))
    materialize(store)
    append(tmp_path, [("a", 1, T0, T0, 2.0)])
    store.materialize(T0 - HOUR, T0, ["prices"])
    assert world.prices(store)[KEY] == 2.0
    # Feast's Redis does not keep when a version was created: a correction arrives nevertheless.
    append(tmp_path, [("a", 1, T0, T0 + HOUR, 3.0)])
    assert materialize(store, T0 + HOUR).rows_written == 1
    assert world.prices(store)[KEY] == 3.0


# --- what is written over what ---------------------------------------------------------------------------------------


def test_an_older_row_never_overwrites_a_newer_one(tmp_path: Path, place: Place) -> None:
    append(tmp_path, [("a", 1, T0 - HOUR, T0 - HOUR, 1.0), ("a", 1, T0, T0, 2.0)])
    store = world.shop(tmp_path, place("ours"))
    assert materialize(store).rows_written == 1
    assert materialize(store, T0 - MICROSECOND).rows_written == 0
    assert world.prices(store)[KEY] == 2.0
    # One whose event is a microsecond older, but was created later.
    append(
        tmp_path, [("a", 1, T0 + HOUR - MICROSECOND, T0 + 2 * HOUR, 3.0), ("a", 1, T0 + HOUR, T0 + HOUR, 4.0)]
    )
    materialize(store, T0 + 2 * HOUR)
    assert world.prices(store)[KEY] == 4.0


def test_a_correction_of_the_same_event_arrives_when_it_is_known(tmp_path: Path, place: Place) -> None:
    append(tmp_path, [("a", 1, T0, T0, 1.0)])
    store = world.shop(tmp_path, place("ours"))
    materialize(store)
    append(tmp_path, [("a", 1, T0, T0 + HOUR + MICROSECOND, 2.0)])
    assert materialize(store, T0 + HOUR).rows_written == 0
    assert world.prices(store)[KEY] == 1.0
    assert materialize(store, T0 + HOUR + MICROSECOND).rows_written == 1
    assert world.prices(store)[KEY] == 2.0
    # Nothing new, nothing written; and what was known before does not come back.
    assert materialize(store, T0 + HOUR + MICROSECOND).rows_written == 0
    assert materialize(store, T0 + HOUR).rows_written == 0
    assert world.prices(store)[KEY] == 2.0
    append(tmp_path, [("a", 1, T0, T0 + 2 * HOUR, None)])
    assert materialize(store, T0 + 2 * HOUR).rows_written == 1
    assert world.prices(store)[KEY] is None


def test_the_windows_edges_are_in_it(tmp_path: Path, place: Place) -> None:
    start = T0 - MAX_AGE
    append(
        tmp_path,
        [
            ("a", 1, start - MICROSECOND, start - MICROSECOND, 1.0),
            ("a", 2, start, start, 2.0),
            ("b", 1, T0, T0, 3.0),
            ("b", 2, T0 + MICROSECOND, T0 + MICROSECOND, 4.0),
            ("b", -4, T0, T0 + MICROSECOND, 5.0),  # known, but this version of it only later
        ],
    )
    store = world.shop(tmp_path, place("ours"))
    done = materialize(store)
    assert done.rows == 2
    assert (done.start, done.end, done.newest) == (start, T0, T0)
    found = world.prices(store)
    assert {key: price for key, price in found.items() if price is not None} == {("a", 2): 2.0, ("b", 1): 3.0}
    assert materialize(store, start=start - MICROSECOND).rows == 3


def test_replay_sees_at_every_instant_what_was_known_then(tmp_path: Path, place: Place) -> None:
    append(tmp_path, world.random_rows(5))
    store = world.shop(tmp_path, place("ours"))
    for minutes in range(-240, 1, 60):
        now = T0 + timedelta(minutes=minutes)
        materialize(store, now)
        assert world.prices(store) == world.offline_prices(store, now)


def test_single_rows_are_put_by_the_same_rule_while_another_materialises(
    tmp_path: Path, place: Place
) -> None:
    append(tmp_path, [("a", 1, T0, T0, 1.0)])
    store = world.shop(tmp_path, place("ours"))
    view = online_view(store.config, store.get_feature_view("prices"))

    def put(known: datetime, price: float) -> int:
        from contrail.online_write_columns import encode_rows

        table = world.arrow([("a", 1, known, known, price)])
        names = {"known_at": "__event_at", "created_at": "__created_at"}
        (batch,) = table.rename_columns([names.get(name, name) for name in table.column_names]).to_batches()
        with open_writer(store.config, view, exclusive=False) as writer:
            return writer.write(encode_rows(batch, view, writer.frame))

    with open_writer(store.config, view, exclusive=True):
        assert put(T0, 2.0) == 1
        assert put(T0 - MICROSECOND, 3.0) == 0
    assert world.prices(store)[KEY] == 2.0


# --- Feast's registry ------------------------------------------------------------------------------------------------


def test_intervals_that_touch_become_one(tmp_path: Path) -> None:
    append(tmp_path, [("a", 1, T0, T0, 1.0)])
    store = world.shop(tmp_path, world.sqlite(tmp_path))
    for hours in range(4):
        materialize(store, T0 + hours * HOUR, start=T0 + (hours - 1) * HOUR)
    assert intervals(store) == [(T0 - HOUR, T0 + 3 * HOUR)]
    materialize(store, T0 + 6 * HOUR, start=T0 + 5 * HOUR)
    assert intervals(store) == [(T0 - HOUR, T0 + 3 * HOUR), (T0 + 5 * HOUR, T0 + 6 * HOUR)]
    assert store.get_feature_view("prices").most_recent_end_time == T0 + 6 * HOUR
    materialize(store, T0 + 5 * HOUR, start=T0 + HOUR)
    assert intervals(store) == [(T0 - HOUR, T0 + 6 * HOUR)]


def test_feasts_incremental_goes_on_where_ours_ended(tmp_path: Path) -> None:
    append(tmp_path, [("a", 1, T0 - HOUR, T0 - HOUR, 1.0)])
    store = world.shop(tmp_path, world.sqlite(tmp_path))
    materialize(store)
    append(tmp_path, [("a", 1, T0 + HOUR, T0 + HOUR, 2.0)])
    store.materialize_incremental(T0 + HOUR, ["prices"])
    assert intervals(store) == [(T0 - MAX_AGE, T0), (T0, T0 + HOUR)]
    assert world.prices(store)[KEY] == 2.0
    materialize(store, T0 + 2 * HOUR)
    assert intervals(store) == [(T0 - MAX_AGE, T0 + 2 * HOUR)]


# --- SQLite's tables -------------------------------------------------------------------------------------------------


def _sizes(path: Path) -> dict[str, str]:
    with sqlite3.connect(path) as con:
        found = con.execute("SELECT name, sql FROM sqlite_master WHERE tbl_name = 'test_prices'").fetchall()
    return {name: sql for name, sql in found if sql}


def test_the_smaller_table_outlives_feasts_apply_and_ends_with_the_view(tmp_path: Path) -> None:
    append(tmp_path, world.random_rows(6))
    store = world.shop(tmp_path, world.sqlite(tmp_path))
    made = _sizes(tmp_path / "online.db")
    assert made["test_prices"].endswith("WITHOUT ROWID")
    assert made["test_prices_ek"].endswith("WHERE entity_key IS NULL")
    materialize(store)
    before = world.online(store)
    prepare_store(store.config, store.list_feature_views())
    store.apply(store.list_feature_views())
    assert _sizes(tmp_path / "online.db") == made
    assert world.online(store) == before
    store.apply([], objects_to_delete=store.list_feature_views(), partial=False)
    assert _sizes(tmp_path / "online.db") == {}
    store.teardown()
    assert not (tmp_path / "online.db").exists()


def test_feasts_own_table_is_written_as_well(tmp_path: Path) -> None:
    append(tmp_path, world.random_rows(7))
    ours, feasts = (
        world.shop(tmp_path, world.sqlite(tmp_path, f"{name}.db"), name) for name in ("ours", "feasts")
    )
    assert "ROWID" not in _sizes(tmp_path / "feasts.db")["test_prices"]
    for store in (ours, feasts):
        materialize(store)
    with sqlite3.connect(tmp_path / "ours.db") as left, sqlite3.connect(tmp_path / "feasts.db") as right:
        cells = "SELECT * FROM test_prices ORDER BY 1, 2"
        assert left.execute(cells).fetchall() == right.execute(cells).fetchall()


# --- what is wrong with a source -------------------------------------------------------------------------------------


def test_a_missing_table_is_named(tmp_path: Path) -> None:
    store = world.shop(tmp_path, world.sqlite(tmp_path))
    with pytest.raises(AsofError, match=r"no Delta table can be opened at .*/prices"):
        materialize(store)
    assert intervals(store) == []


def test_a_changed_schema_is_named(tmp_path: Path) -> None:
    append(tmp_path, [("a", 1, T0, T0, 1.0)])
    store = world.shop(tmp_path, world.sqlite(tmp_path))
    materialize(store)
    changed = world.arrow([("a", 1, T0 + HOUR, T0 + HOUR, 2.0)]).drop_columns(["price", "created_at"])
    write_deltalake(str(tmp_path / "prices"), changed, mode="overwrite", schema_mode="overwrite")
    with pytest.raises(
        OnlineError, match=r"'prices' lacks the columns \['created_at', 'price'\].*build the table"
    ):
        materialize(store, T0 + HOUR)
    assert world.prices(store)[KEY] == 1.0
    assert intervals(store) == [(T0 - MAX_AGE, T0)]


@pytest.mark.parametrize(
    ("column", "values", "said"),
    [
        ("price", pa.array(["cheap"]), "'price' is declared DOUBLE, but its source holds string"),
        ("label", pa.array([1.5]), "'label' is declared STRING, but its source holds double"),
        ("open", pa.array([1]), "'open' is declared BOOL, but its source holds int64"),
        ("sold", pa.array([2**31]), "a value of 'sold' does not fit int32"),
        ("aisle", pa.array(["one"]), "'aisle' is declared INT64, but its source holds string"),
        ("shop", pa.array([1]), "'shop' is declared STRING, but its source holds int64"),
        ("known_at", pa.array([1]), r"no times in \['known_at'\]"),
    ],
)
def test_a_wrong_type_is_named(tmp_path: Path, column: str, values: pa.Array, said: str) -> None:
    table = world.arrow([("a", 1, T0, T0, 1.0)])
    table = table.set_column(table.column_names.index(column), column, values)
    write_deltalake(str(tmp_path / "prices"), table)
    store = world.shop(tmp_path, world.sqlite(tmp_path))
    with pytest.raises(OnlineError, match=f"view 'prices'.*{said}"):
        materialize(store)
    assert intervals(store) == []
    assert set(world.prices(store).values()) == {None}


def test_a_type_that_is_not_served_is_named(tmp_path: Path) -> None:
    from feast.types import Array

    append(tmp_path, [("a", 1, T0, T0, 1.0)])
    store = world.shop(
        tmp_path, world.sqlite(tmp_path), "ours", world.view(tmp_path, {"price": Array(Float64)})
    )
    with pytest.raises(OnlineError, match="'price' is of type DOUBLE_LIST, which cannot be served"):
        materialize(store)


def test_a_file_that_is_gone_is_named(tmp_path: Path) -> None:
    append(tmp_path, [("a", 1, T0, T0, 1.0)])
    for uri in DeltaTable(str(tmp_path / "prices")).file_uris():
        Path(uri.removeprefix("file://")).unlink()
    store = world.shop(tmp_path, world.sqlite(tmp_path))
    with pytest.raises(
        OnlineError, match=r"view 'prices': a file of version 0 .* vacuumed or lost.*\.parquet"
    ):
        materialize(store)


def test_an_event_before_1970_is_refused(tmp_path: Path) -> None:
    early = datetime.fromisoformat("1969-12-31T23:59:59Z")
    append(tmp_path, [("a", 1, early, early, 1.0)])
    store = world.shop(tmp_path, world.sqlite(tmp_path))
    with pytest.raises(OnlineError, match="before 1970"):
        materialize(store, start=early)


def test_columns_of_other_widths_fit(tmp_path: Path, place: Place) -> None:
    """Integers where doubles are declared, dates where instants are, a source without created times and zones."""
    import datetime as dt

    naive = T0.replace(tzinfo=None)
    table = pa.table(
        {
            "shop": pa.array(["a", "b"], pa.large_string()),
            "aisle": pa.array([1, 1], pa.int16()),
            "known_at": pa.array([naive, naive - HOUR], pa.timestamp("us")),
            "price": pa.array([7, None], pa.int64()),
            "sold": pa.array([3, None], pa.int16()),
            "label": pa.array(["x" * 300, ""]),
            "since": pa.array([dt.date(2013, 6, 1), None]),
        }
    )
    write_deltalake(str(tmp_path / "prices"), table)
    fields = {"price": Float64, "sold": Int32, "label": String, "since": UnixTimestamp}
    view = world.view(tmp_path, fields)
    view.batch_source.created_timestamp_column = ""
    store = world.shop(tmp_path, place("ours"), "ours", view)
    assert materialize(store).rows_written == 2
    found = store.get_online_features(
        [f"prices:{name}" for name in fields], [{"shop": shop, "aisle": 1} for shop in ("a", "b")]
    ).to_dict()
    assert found["price"] == [7.0, None]
    assert found["sold"] == [3, None]
    assert found["label"] == ["x" * 300, ""]
    assert [at and at.isoformat()[:10] for at in found["since"]] == ["2013-06-01", None]
    assert materialize(store).rows_written == 0
    # Without created times the last one written counts.
    write_deltalake(
        str(tmp_path / "prices"), table.set_column(3, "price", pa.array([8, None])), mode="overwrite"
    )
    assert materialize(store).rows_written == 1
    assert world.prices(store)[KEY] == 8.0
