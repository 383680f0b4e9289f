"""Feast's door to the point-in-time join."""

from __future__ import annotations

import random
from datetime import datetime
from pathlib import Path

import pandas as pd
import pyarrow as pa
import pytest
from deltalake import DeltaTable, write_deltalake
from feast import FeatureStore
from feast.errors import FeastEntityDFMissingColumnsError
from feast.repo_config import FeastConfigBaseModel

from contrail.asof import AsofError, AsofOfflineStore, session
from tests.support.asof_store import (
    FEATURES,
    HOUR,
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
    write_prices(tmp_path, ("a", 0, 0, 1.0), ("a", 2, 2, 2.0), ("b", 0, 0, 5.0))
    return price_store(tmp_path)


def test_feast_keeps_the_frame_order_and_theasked(store: FeatureStore) -> None:
    frame = asked(
        ("a", 3 * HOUR),
        ("b", HOUR),
        ("a", -US),
        (None, HOUR),
        ("a", 0 * HOUR),
        ("a", 3 * HOUR),
        ("b", 6 * HOUR),
    )
    frame.index = pd.Index(range(10, 17), name="shelf")
    before = frame.copy(deep=True)
    answer = store.get_historical_features(frame, FEATURES).to_df()
    assert values(answer) == [2.0, 5.0, None, None, 1.0, 2.0, 5.0]
    assert list(answer.columns) == ["shop", "event_timestamp", "n", "price", "sold"]
    assert answer["n"].tolist() == list(range(7))
    pd.testing.assert_frame_equal(frame, before)


def test_feast_order_and_count_at_fifty_thousand_rows(store: FeatureStore) -> None:
    rnd = random.Random(3)
    frame = asked(*((rnd.choice("abx"), rnd.randrange(-3, 9) * HOUR) for _ in range(50_000)))
    answer = store.get_historical_features(frame, FEATURES).to_df()
    assert answer["n"].tolist() == list(range(50_000))
    assert answer["event_timestamp"].tolist() == frame["event_timestamp"].tolist()


def test_feast_takes_arrow_and_sql_frames(store: FeatureStore) -> None:
    frame = asked(("b", HOUR), ("a", 2 * HOUR))
    arrow = pa.Table.from_pandas(frame, preserve_index=False)
    sql = (
        "SELECT 'b' AS shop, TIMESTAMPTZ '2013-03-10 07:30:00Z' AS at "
        "UNION ALL SELECT 'a', TIMESTAMPTZ '2013-03-10 08:30:00Z'"
    )
    for entity_rows in (arrow, sql):
        assert values(store.get_historical_features(entity_rows, FEATURES).to_df()) == [5.0, 2.0]


def test_feast_without_a_frame_gives_every_event_in_the_window(store: FeatureStore) -> None:
    answer = store.get_historical_features(features=FEATURES, start_date=T0, end_date=T0 + 2 * HOUR).to_df()
    found = list(zip(answer["shop"], answer["event_timestamp"], answer["price"], strict=True))
    assert found == [("a", T0, 1.0), ("a", T0 + 2 * HOUR, 2.0), ("b", T0, 5.0)]


def test_known_or_created_a_microsecond_later_is_not_seen(store: FeatureStore, tmp_path: Path) -> None:
    write_prices(tmp_path, ("a", 2, 4, 99.0))  # a correction of the second price, two hours later
    frame = asked(("a", 2 * HOUR - US), ("a", 2 * HOUR), ("a", 4 * HOUR - US), ("a", 4 * HOUR))
    assert values(store.get_historical_features(frame, FEATURES).to_df()) == [1.0, 2.0, 2.0, 99.0]


def test_a_late_version_of_an_old_event_does_not_hide_the_newer_event(
    store: FeatureStore, tmp_path: Path
) -> None:
    write_prices(tmp_path, ("a", 0, 3, 99.0))  # corrects the first price when the second is long known
    frame = asked(("a", HOUR), ("a", 2 * HOUR), ("a", 3 * HOUR), ("a", 5 * HOUR))
    assert values(store.get_historical_features(frame, FEATURES).to_df()) == [1.0, 2.0, 2.0, 2.0]


def test_versions_are_pinned_when_planned_and_can_be_asked_for(store: FeatureStore, tmp_path: Path) -> None:
    frame = asked(("a", 3 * HOUR))
    path = str((tmp_path / "prices").resolve())
    planned = store.get_historical_features(frame, FEATURES)
    write_prices(tmp_path, ("a", 3, 3, 3.0))
    assert planned.delta_versions == {path: 0}
    assert values(planned.to_df()) == [2.0]
    newest = store.get_historical_features(frame, FEATURES)
    assert newest.delta_versions == {path: 1}
    assert values(newest.to_df()) == [3.0]
    again = open_store(tmp_path, delta_versions={path: 0}).get_historical_features(frame, FEATURES)
    assert again.delta_versions == {path: 0}
    assert values(again.to_df()) == [2.0]


def test_a_vacuumed_version_says_so(store: FeatureStore, tmp_path: Path) -> None:
    planned = store.get_historical_features(asked(("a", HOUR)), FEATURES)
    table = DeltaTable(str(tmp_path / "prices"))
    write_deltalake(str(tmp_path / "prices"), table.to_pyarrow_table(), mode="overwrite")
    DeltaTable(str(tmp_path / "prices")).vacuum(
        retention_hours=0, enforce_retention_duration=False, dry_run=False
    )
    with pytest.raises(AsofError, match=r"vacuumed.*prices"):
        planned.to_arrow()


def test_streaming_equals_the_table(store: FeatureStore) -> None:
    job = store.get_historical_features(
        asked(*((key, h * HOUR) for h in range(9) for key in "abx")), FEATURES
    )
    assert job.to_reader(5).read_all() == job.to_arrow()


def test_pull_latest_is_cut_by_both_times(store: FeatureStore, tmp_path: Path) -> None:
    write_prices(tmp_path, ("a", 2, 4, 99.0), ("b", 3, 3, 6.0))
    source = store.get_data_source("prices_source")
    arguments = (store.config, source, ["shop"], ["price"], "known_at", "created_at", T0 - HOUR)

    def latest(end: datetime) -> dict[str, float]:
        table = AsofOfflineStore.pull_latest_from_table_or_query(*arguments, end).to_arrow()
        return dict(zip(table["shop"].to_pylist(), table["price"].to_pylist(), strict=True))

    assert latest(T0 + 3 * HOUR) == {"a": 2.0, "b": 6.0}
    assert latest(T0 + 3 * HOUR - US) == {"a": 2.0, "b": 5.0}
    assert latest(T0 + 4 * HOUR) == {"a": 99.0, "b": 6.0}
    everything = AsofOfflineStore.pull_all_from_table_or_query(*arguments, T0 + 3 * HOUR).to_arrow()
    assert sorted(everything["price"].to_pylist()) == [1.0, 2.0, 5.0, 6.0]


def test_feast_names_what_is_wrong(store: FeatureStore, tmp_path: Path) -> None:
    with pytest.raises(FeastEntityDFMissingColumnsError, match="shop"):
        store.get_historical_features(asked(("a", HOUR)).drop(columns="shop"), FEATURES)
    with pytest.raises(ValueError, match=r"\['price'\] are already columns"):
        store.get_historical_features(asked(("a", HOUR)).assign(price=0.0), FEATURES).to_df()
    with pytest.raises(TypeError, match=r"'shop' is BIGINT.*'prices' is VARCHAR"):
        store.get_historical_features(asked(("a", HOUR)).assign(shop=1), FEATURES).to_df()
    nobody = store.get_historical_features(asked((None, HOUR)), FEATURES).to_df()
    assert values(nobody) == [None]
    empty = store.get_historical_features(asked(("a", HOUR)).iloc[:0], FEATURES).to_df()
    assert len(empty) == 0
    assert "price" in empty.columns
    (tmp_path / "prices").rename(tmp_path / "elsewhere")
    with pytest.raises(AsofError, match=r"prices_source.*no Delta table"):
        store.get_historical_features(asked(("a", HOUR)), FEATURES)


def test_another_stores_configuration_is_not_taken_for_ours(store: FeatureStore) -> None:
    other = store.config.model_copy()
    other.__dict__["_offline_store"] = FeastConfigBaseModel()
    with pytest.raises(AsofError, match=r"configured as FeastConfigBaseModel"):
        session(other)
