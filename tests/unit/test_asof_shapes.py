"""What comes in and what comes out: frames of every kind, names of every kind, views of every kind."""

from __future__ import annotations

from datetime import date, datetime, timedelta
from pathlib import Path
from typing import Any
from zoneinfo import ZoneInfo

import pandas as pd
import pyarrow as pa
import pytest
from deltalake import write_deltalake
from feast import Entity, FeatureService, FeatureStore, FeatureView, Field, FileSource, RequestSource
from feast.data_format import DeltaFormat
from feast.on_demand_feature_view import on_demand_feature_view
from feast.types import Float64, Int64, String
from feast.value_type import ValueType

from contrail.asof import AsofOfflineStore
from tests.support.asof_store import (
    FEATURES,
    HOUR,
    STAMP,
    T0,
    US,
    asked,
    open_store,
    price_store,
    values,
    write_prices,
)


@pytest.fixture
def store(tmp_path: Path) -> FeatureStore:
    write_prices(tmp_path, ("a", 0, 0, 1.0), ("a", 2, 2, 2.0), ("b", 0, 0, 5.0), (None, 0, 0, 9.0))
    return price_store(tmp_path)


FRAME = asked(("b", HOUR), ("a", 2 * HOUR), (None, HOUR), ("a", HOUR), ("b", HOUR), ("x", HOUR))
ANSWER = [5.0, 2.0, None, 1.0, 5.0, None]


# --- frames ----------------------------------------------------------------------------------------------------------


def _indexed(index: Any) -> pd.DataFrame:
    frame = FRAME.copy()
    frame.index = index
    return frame


FRAMES: dict[str, Any] = {
    "plain": FRAME,
    "named index": _indexed(pd.Index([5, 5, 1, 2, 0, 9], name="shelf")),
    "index named like a key": _indexed(pd.Index(list("zzzzzz"), name="shop")),
    "many-level index": _indexed(pd.MultiIndex.from_product([[1, 2], [3, 4, 5]], names=["n", None])),
    "descending": _indexed(range(6, 0, -1)),
    "filtered": pd.concat([FRAME, FRAME]).iloc[:6],
    "text times": FRAME.assign(event_timestamp=[time.isoformat() for time in FRAME["event_timestamp"]]),
    "nanoseconds": FRAME.astype({"event_timestamp": "datetime64[ns, UTC]"}),
    "naive": FRAME.assign(event_timestamp=FRAME["event_timestamp"].dt.tz_localize(None)),
    "New York": FRAME.assign(event_timestamp=FRAME["event_timestamp"].dt.tz_convert("America/New_York")),
    "categories": FRAME.astype({"shop": "category"}),
    "pandas strings": FRAME.astype({"shop": "string"}),
    "other time column": FRAME.rename(columns={"event_timestamp": "decided at"}),
}


@pytest.mark.parametrize("kind", FRAMES)
def test_every_kind_of_pandas_frame(store: FeatureStore, kind: str) -> None:
    frame = FRAMES[kind]
    before = frame.copy(deep=True)
    answer = store.get_historical_features(frame, FEATURES).to_df()
    assert values(answer) == ANSWER
    assert answer["n"].tolist() == frame["n"].tolist()
    assert list(answer.columns) == [*frame.columns, "price", "sold"]
    assert answer.index.tolist() == list(range(6))
    pd.testing.assert_frame_equal(frame, before)


def test_an_arrow_frame_in_many_chunks_keeps_its_order(store: FeatureStore) -> None:
    table = pa.Table.from_pandas(FRAME, preserve_index=False)
    chunked = pa.concat_tables([table.slice(i, 1) for i in range(6)] * 500)
    assert chunked.column(0).num_chunks == 3_000
    answer = store.get_historical_features(chunked, FEATURES).to_arrow()
    assert answer["n"].to_pylist() == list(range(6)) * 500
    assert answer["price"].to_pylist() == ANSWER * 500
    assert chunked.column_names == ["shop", "event_timestamp", "n"]


def test_a_sql_frame_may_read_a_delta_table(store: FeatureStore, tmp_path: Path) -> None:
    write_deltalake(str(tmp_path / "asked"), pa.Table.from_pandas(FRAME, preserve_index=False))
    sql = f"SELECT shop, event_timestamp, n FROM delta_scan('{tmp_path}/asked') ORDER BY n DESC"
    answer = store.get_historical_features(sql, FEATURES).to_df()
    assert answer["n"].tolist() == [5, 4, 3, 2, 1, 0]
    assert values(answer) == ANSWER[::-1]


def test_times_as_text_and_days_are_instants_in_utc(store: FeatureStore) -> None:
    for times, price in (
        (["2013-03-10T01:30:00-06:00", None], [1.0, None]),
        (["2013-03-10 08:30:00", "2013-03-10 06:30:00"], [2.0, 1.0]),
        (pa.array([date(2013, 3, 10), date(2013, 3, 11)]), [None, None]),
    ):
        table = pa.table({"shop": ["a", "a"], "event_timestamp": times})
        job = store.get_historical_features(table, FEATURES)
        assert job.to_arrow()["price"].to_pylist() == price
        assert job.metadata.min_event_timestamp.tzinfo is not None
    mixed = asked(("a", HOUR), ("a", 2 * HOUR)).astype({"event_timestamp": object})
    mixed.loc[1, "event_timestamp"] = (T0 + 2 * HOUR).astimezone(ZoneInfo("America/New_York"))
    assert values(store.get_historical_features(mixed, FEATURES).to_df()) == [1.0, 2.0]


def test_frames_that_cannot_be_asked_with_are_named(store: FeatureStore) -> None:
    twice = pd.concat([FRAME, FRAME[["n"]]], axis=1)
    with pytest.raises(ValueError, match="columns of the same name"):
        store.get_historical_features(twice, FEATURES)
    arrow = pa.table([["a"], ["b"], [T0]], names=["shop", "shop", "event_timestamp"])
    with pytest.raises(ValueError, match="columns of the same name"):
        store.get_historical_features(arrow, FEATURES)
    two_times = FRAME.rename(columns={"event_timestamp": "one"}).assign(two=FRAME["event_timestamp"])
    with pytest.raises(Exception, match="event_timestamp"):
        store.get_historical_features(two_times, FEATURES)


# --- without a frame -------------------------------------------------------------------------------------------------


def _rows(job: Any) -> list[tuple[Any, ...]]:
    frame = job.to_df()
    columns = [column for column in frame.columns if column not in ("sold",)]
    return [tuple(row) for row in frame[columns].itertuples(index=False)]


@pytest.mark.parametrize(
    ("start", "end", "hours"),
    [
        (timedelta(0), 2 * HOUR, [("a", 0), ("a", 2), ("b", 0)]),
        (US, 2 * HOUR, [("a", 2)]),
        (timedelta(0), 2 * HOUR - US, [("a", 0), ("b", 0)]),
        (HOUR, HOUR, []),
    ],
)
def test_without_a_frame_one_row_per_key_and_event_edges_included(
    store: FeatureStore, tmp_path: Path, start: timedelta, end: timedelta, hours: list[tuple[str, int]]
) -> None:
    write_prices(tmp_path, ("a", 2, 3, 2.5))  # another version of one event is no other row
    job = store.get_historical_features(features=FEATURES, start_date=T0 + start, end_date=T0 + end)
    price = {("a", 0): 1.0, ("a", 2): 2.0, ("b", 0): 5.0}
    assert _rows(job) == [(shop, T0 + h * HOUR, price[shop, h]) for shop, h in hours]


def test_without_a_frame_naive_dates_are_utc(store: FeatureStore) -> None:
    start = T0.replace(tzinfo=None)
    job = store.get_historical_features(features=FEATURES, start_date=start, end_date=start + HOUR)
    assert [row[0] for row in _rows(job)] == ["a", "b"]


def test_without_a_frame_the_views_with_all_keys_give_the_rows(tmp_path: Path) -> None:
    store = _two_keyed(tmp_path)
    job = store.get_historical_features(
        features=["offers:discount", "prices:price"], start_date=T0, end_date=T0 + 5 * HOUR
    )
    assert _rows(job) == [("x", "a", T0 + HOUR, 0.1, 1.0), ("y", "a", T0 + 3 * HOUR, 0.2, 2.0)]
    alone = FeatureView(
        name="colours", entities=[store.get_entity("colour")], source=store.get_data_source("offers_source")
    )
    store.apply([alone])
    job = store.get_historical_features(
        features=["colours:discount", "prices:price"], start_date=T0, end_date=T0 + 5 * HOUR
    )
    with pytest.raises(ValueError, match=r"has to carry all join keys \['colour', 'shop'\], and none does"):
        job.to_df()


def _two_keyed(folder: Path) -> FeatureStore:
    """`prices` by shop and `offers` by shop and colour."""
    write_prices(folder, ("a", 0, 0, 1.0), ("a", 2, 2, 2.0))
    store = price_store(folder)
    offers = {
        "shop": ["a", "a", "b"],
        "colour": ["x", "y", None],
        "known_at": pa.array([T0 + h * HOUR for h in (1, 3, 1)], STAMP),
        "discount": [0.1, 0.2, 0.3],
    }
    write_deltalake(str(folder / "offers"), pa.table(offers))
    colour = Entity(name="colour", join_keys=["colour"], value_type=ValueType.STRING)
    source = FileSource(
        name="offers_source",
        path=str(folder / "offers"),
        file_format=DeltaFormat(),
        timestamp_field="known_at",
    )
    view = FeatureView(name="offers", entities=[store.get_entity("shop"), colour], source=source)
    store.apply([colour, source, view])
    return store


# --- names -----------------------------------------------------------------------------------------------------------

ODD = ["per cent", 'the "best"', "it's", "sold_y", "sold_x", "ts", "k0", "f0", "visible", "row_id", "SELECT"]


def test_names_of_every_kind(tmp_path: Path) -> None:
    columns: dict[str, Any] = {
        'the shop\'s "name"': ["a", "a"],
        "known at": pa.array([T0, T0 + HOUR], STAMP),
        "created at": pa.array([T0, T0 + HOUR], STAMP),
        **{name: [float(number), float(number + 1)] for number, name in enumerate(ODD)},
    }
    write_deltalake(str(tmp_path / "odd names"), pa.table(columns))
    key = Entity(name="shop", join_keys=['the shop\'s "name"'], value_type=ValueType.STRING)
    source = FileSource(
        name="odd",
        path=str(tmp_path / "odd names"),
        file_format=DeltaFormat(),
        timestamp_field="known at",
        created_timestamp_column="created at",
    )
    view = FeatureView(
        name="odd", entities=[key], source=source, schema=[Field(name=name, dtype=Float64) for name in ODD]
    )
    store = open_store(tmp_path)
    store.apply([key, source, view])
    frame = pd.DataFrame(
        {'the shop\'s "name"': ["a", "a"], "event_timestamp": [T0 + HOUR, T0], "k 0": [7, 8]}
    )
    features = [f"odd:{name}" for name in ODD]
    answer = store.get_historical_features(frame, features).to_df()
    assert list(answer.columns) == [*frame.columns, *ODD]
    for number, name in enumerate(ODD):
        assert answer[name].tolist() == [number + 1.0, float(number)]
    full = store.get_historical_features(frame, features, full_feature_names=True).to_df()
    assert list(full.columns) == [*frame.columns, *(f"odd__{name}" for name in ODD)]
    latest = AsofOfflineStore.pull_latest_from_table_or_query(
        store.config, source, ['the shop\'s "name"'], ODD, "known at", "created at", T0, T0 + HOUR
    )
    assert latest.to_df()[ODD].iloc[0].tolist() == [number + 1.0 for number in range(len(ODD))]


def test_full_names_keep_views_and_frame_columns_apart(store: FeatureStore) -> None:
    frame = FRAME.assign(price=-1.0)
    with pytest.raises(ValueError, match=r"\['price'\] are already columns"):
        store.get_historical_features(frame, FEATURES).to_df()
    answer = store.get_historical_features(frame, FEATURES, full_feature_names=True).to_df()
    assert values(answer, "prices__price") == ANSWER
    assert set(answer["price"]) == {-1.0}


def test_aliases_of_one_view_ask_by_their_own_columns(store: FeatureStore) -> None:
    view = store.get_feature_view("prices")
    there = view.with_name("there").with_join_key_map({"shop": "the other shop"})
    here = view.with_name("here")
    service = FeatureService(name="both", features=[here[["price"]], there[["price"]]])
    store.apply([service])
    frame = asked(("a", HOUR), ("b", HOUR), ("a", 2 * HOUR)).assign(**{"the other shop": ["b", None, "a"]})
    answer = store.get_historical_features(frame, service, full_feature_names=True).to_df()
    assert values(answer, "here__price") == [1.0, 5.0, 2.0]
    assert values(answer, "there__price") == [5.0, None, 2.0]


def test_mapped_fields_have_feasts_names(tmp_path: Path) -> None:
    write_prices(tmp_path, ("a", 0, 0, 1.0), ("a", 0, 1, 1.5), ("a", 2, 2, 2.0))
    source = FileSource(
        name="prices_source",
        path=str(tmp_path / "prices"),
        file_format=DeltaFormat(),
        timestamp_field="happened",
        created_timestamp_column="written",
        field_mapping={
            "shop": "store",
            "price": "list price",
            "known_at": "happened",
            "created_at": "written",
        },
    )
    key = Entity(name="store", join_keys=["store"], value_type=ValueType.STRING)
    view = FeatureView(
        name="mapped",
        entities=[key],
        source=source,
        ttl=HOUR,
        schema=[Field(name="store", dtype=String), Field(name="list price", dtype=Float64)],
    )
    store = open_store(tmp_path)
    store.apply([key, source, view])
    frame = FRAME.rename(columns={"shop": "store"})
    answer = store.get_historical_features(frame, ["mapped:list price"]).to_df()
    assert values(answer, "list price") == [None, 2.0, None, 1.5, None, None]


# --- views -----------------------------------------------------------------------------------------------------------


def _fees(folder: Path, store: FeatureStore) -> FeatureView:
    """A view without entities: one value at a time for everyone."""
    rows = {"known_at": pa.array([T0, T0 + HOUR], STAMP), "fee": [0.5, 0.75]}
    write_deltalake(str(folder / "fees"), pa.table(rows))
    source = FileSource(
        name="fees_source", path=str(folder / "fees"), file_format=DeltaFormat(), timestamp_field="known_at"
    )
    view = FeatureView(
        name="fees", entities=[], source=source, ttl=2 * HOUR, schema=[Field(name="fee", dtype=Float64)]
    )
    store.apply([source, view])
    return view


def test_a_view_without_entities_answers_everyone(store: FeatureStore, tmp_path: Path) -> None:
    _fees(tmp_path, store)
    frame = asked(("a", -US), ("b", 0 * HOUR), (None, HOUR - US), ("x", HOUR), ("a", 3 * HOUR + US))
    answer = store.get_historical_features(frame, ["prices:price", "fees:fee"]).to_df()
    assert values(answer, "fee") == [None, 0.5, 0.5, 0.75, None]
    alone = store.get_historical_features(frame[["event_timestamp"]], ["fees:fee"]).to_df()
    assert values(alone, "fee") == [None, 0.5, 0.5, 0.75, None]
    no_frame = store.get_historical_features(features=["fees:fee"], start_date=T0, end_date=T0 + HOUR)
    assert values(no_frame.to_df(), "fee") == [0.5, 0.75]


def test_a_view_without_entities_is_pulled_for_feasts_dummy(store: FeatureStore, tmp_path: Path) -> None:
    _fees(tmp_path, store)
    source = store.get_data_source("fees_source")
    arguments = (store.config, source, [], ["fee"], "known_at", None, T0, T0 + HOUR)
    latest = AsofOfflineStore.pull_latest_from_table_or_query(*arguments).to_df()
    assert latest.to_dict("records") == [{"fee": 0.75, "known_at": T0 + HOUR, "__dummy_id": ""}]
    assert len(AsofOfflineStore.pull_all_from_table_or_query(*arguments).to_df()) == 2


def test_features_on_demand_see_stored_values_and_the_request(store: FeatureStore) -> None:
    request = RequestSource(name="basket", schema=[Field(name="count", dtype=Int64)])

    @on_demand_feature_view(
        sources=[store.get_feature_view("prices"), request],
        schema=[Field(name="sum", dtype=Float64)],
        mode="python",
    )
    def basket_value(inputs: dict[str, Any]) -> dict[str, Any]:
        pairs = zip(inputs["price"], inputs["count"], strict=True)
        return {"sum": [None if price is None else price * count for price, count in pairs]}

    store.apply([request, basket_value])
    frame = FRAME.assign(count=[1, 2, 3, 4, 5, 6])
    answer = store.get_historical_features(frame, ["prices:price", "basket_value:sum"]).to_df()
    assert values(answer) == ANSWER
    assert values(answer, "sum") == [5.0, 4.0, None, 4.0, 25.0, None]
    only = store.get_historical_features(frame, ["basket_value:sum"]).to_df()
    assert values(only, "sum") == [5.0, 4.0, None, 4.0, 25.0, None]


def test_a_key_of_nothing_but_nulls_meets_a_number(tmp_path: Path) -> None:
    rows = {"id": pa.array([1], pa.int32()), "known_at": pa.array([T0], STAMP), "size": [2.0]}
    write_deltalake(str(tmp_path / "sizes"), pa.table(rows))
    key = Entity(name="id", join_keys=["id"], value_type=ValueType.INT32)
    source = FileSource(
        name="sizes", path=str(tmp_path / "sizes"), file_format=DeltaFormat(), timestamp_field="known_at"
    )
    store = open_store(tmp_path)
    store.apply([key, source, FeatureView(name="sizes", entities=[key], source=source)])
    for ids, sizes in (([None, None], [None, None]), ([1, None], [2.0, None])):
        frame = pd.DataFrame({"id": ids, "event_timestamp": [T0 + HOUR] * 2})
        assert values(store.get_historical_features(frame, ["sizes:size"]).to_df(), "size") == sizes


def test_pull_all_leaves_out_what_is_nobodys(store: FeatureStore) -> None:
    source = store.get_data_source("prices_source")
    arguments = (store.config, source, ["shop"], ["price"], "known_at", "created_at")
    job = AsofOfflineStore.pull_all_from_table_or_query(*arguments, T0, T0 + 2 * HOUR)
    assert sorted(job.to_df()["shop"]) == ["a", "a", "b"]
    everything = AsofOfflineStore.pull_all_from_table_or_query(*arguments)
    assert sorted(everything.to_df()["price"]) == [1.0, 2.0, 5.0]


def test_metadata_says_the_span(store: FeatureStore) -> None:
    metadata = store.get_historical_features(FRAME, FEATURES).metadata
    assert (metadata.min_event_timestamp, metadata.max_event_timestamp) == (T0 + HOUR, T0 + 2 * HOUR)
    assert metadata.keys == ["shop"]
    nothing = store.get_historical_features(FRAME.iloc[:0], FEATURES).metadata
    assert nothing.min_event_timestamp is None


def test_naive_metadata_is_utc(store: FeatureStore) -> None:
    metadata = store.get_historical_features(FRAMES["naive"], FEATURES).metadata
    found = metadata.min_event_timestamp
    assert isinstance(found, datetime)
    assert found == T0 + HOUR
