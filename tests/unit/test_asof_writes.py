"""What Feast's API writes offline: pushed rows and logged features."""

from __future__ import annotations

from datetime import date, datetime, timedelta
from pathlib import Path
from typing import Any

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from deltalake import DeltaTable
from feast import Entity, FeatureService, FeatureStore, FeatureView, Field, FileSource, PushSource
from feast.data_format import DeltaFormat, ParquetFormat
from feast.data_source import PushMode
from feast.feature_logging import FeatureServiceLoggingSource, LoggingConfig
from feast.infra.offline_stores.bigquery_source import BigQuerySource
from feast.infra.offline_stores.file_source import FileLoggingDestination
from feast.infra.offline_stores.snowflake_source import SnowflakeLoggingDestination
from feast.types import Float64
from feast.value_type import ValueType

from contrail import asof_writes
from contrail.asof import AsofError, AsofOfflineStore
from contrail.commits import Commit
from contrail.lake import Lake
from tests.support.asof_store import (
    FEATURES,
    HOUR,
    T0,
    asked,
    open_store,
    price_rows,
    price_source,
    price_store,
    values,
    write_prices,
)

TABLE = "feature/prices"


def _pushed(*rows: tuple[str, float, float, float]) -> pd.DataFrame:
    return price_rows(*rows).to_pandas()


@pytest.fixture
def lake(tmp_path: Path) -> Lake:
    """A lake whose price table is made as feature tables are: by month, with provenance."""
    made = Lake(tmp_path / "lake")
    rows = price_rows(("a", 0, 0, 1.0), ("b", 0, 0, 5.0))
    rows = rows.append_column("month", pa.array([date(2013, 3, 1)] * 2))
    made.create(TABLE, rows.schema, partition_by=["month"])
    made.append(TABLE, rows, Commit(TABLE, "build", ("clean/sales@v1",)))
    return made


# --- pushed rows -----------------------------------------------------------------------------------------------------


def test_a_push_is_one_commit_that_says_so_and_is_read_from_then_on(lake: Lake, tmp_path: Path) -> None:
    batch = price_source(lake.uri(TABLE))
    store = open_store(tmp_path)
    shop = Entity(name="shop", join_keys=["shop"], value_type=ValueType.STRING)
    pushed = PushSource(name="till", batch_source=batch)
    store.apply(
        [shop, batch, pushed, FeatureView(name="prices", entities=[shop], source=pushed, ttl=6 * HOUR)]
    )
    frame = asked(("a", HOUR), ("a", 2 * HOUR))
    assert values(store.get_historical_features(frame, ["prices:price"]).to_df()) == [1.0, 1.0]
    store.push("till", _pushed(("a", 2, 2, 2.0), ("c", 600, 600, 3.0)), to=PushMode.OFFLINE)
    assert values(store.get_historical_features(frame, ["prices:price"]).to_df()) == [1.0, 2.0]

    commit = lake.commits(TABLE)[-1]
    assert (commit.version, commit.asset, commit.inputs) == (2, TABLE, ("push:prices",))
    assert commit.partition == "2013-03-10..2013-04-04"
    rows = {row["shop"]: row for row in DeltaTable(lake.uri(TABLE)).to_pyarrow_table().to_pylist()}
    assert rows["c"]["month"] == date(2013, 4, 1)
    assert rows["c"]["_run_id"] == commit.run_id
    assert commit.run_id.startswith("push-")
    assert rows["b"]["_run_id"] == "build"


def test_feast_asks_for_no_column_that_the_lake_fills_in(lake: Lake, tmp_path: Path) -> None:
    store = price_store(tmp_path, source=price_source(lake.uri(TABLE)))
    with pytest.raises(ValueError, match=r"missing_expected_columns: \['sold'\]"):
        store.write_to_offline_store("prices", _pushed(("a", 1, 1, 1.0)).drop(columns="sold"))


def test_order_index_fine_instants_and_small_numbers_do_not_matter(lake: Lake, tmp_path: Path) -> None:
    store = price_store(tmp_path, source=price_source(lake.uri(TABLE)))
    frame = _pushed(("a", 1, 1, 1.5), ("b", 1, 1, 2.5))
    frame.index = pd.Index([7, 9])
    frame["known_at"] = frame["known_at"].astype("datetime64[ns, UTC]") + pd.Timedelta(999, "ns")
    frame["sold"] = frame["sold"].astype("int32")
    store.write_to_offline_store("prices", frame[["price", "sold", "created_at", "shop", "known_at"]])
    answer = store.get_historical_features(asked(("a", HOUR), ("b", HOUR)), FEATURES).to_df()
    assert values(answer) == [1.5, 2.5]
    assert values(answer, "sold") == [1, 1]


def test_a_table_made_elsewhere_keeps_its_columns(tmp_path: Path) -> None:
    write_prices(tmp_path, ("a", 0, 0, 1.0))
    store = price_store(tmp_path)
    store.write_to_offline_store("prices", _pushed(("a", 1, 1, 2.0)))
    assert values(store.get_historical_features(asked(("a", HOUR)), FEATURES).to_df()) == [2.0]
    assert DeltaTable(str(tmp_path / "prices")).to_pyarrow_table().column_names == price_rows().column_names


def test_mapped_columns_find_their_names_in_the_source(tmp_path: Path) -> None:
    write_prices(tmp_path, ("a", 0, 0, 1.0))
    mapping = {"price": "list price", "known_at": "happened"}
    source = FileSource(
        name="prices_source",
        path=str(tmp_path / "prices"),
        file_format=DeltaFormat(),
        timestamp_field="happened",
        created_timestamp_column="created_at",
        field_mapping=mapping,
    )
    shop = Entity(name="shop", join_keys=["shop"], value_type=ValueType.STRING)
    view = FeatureView(
        name="prices", entities=[shop], source=source, schema=[Field(name="list price", dtype=Float64)]
    )
    store = open_store(tmp_path)
    store.apply([shop, source, view])
    store.write_to_offline_store("prices", _pushed(("a", 1, 1, 2.0)))
    answer = store.get_historical_features(asked(("a", HOUR), ("a", 0 * HOUR)), ["prices:list price"])
    assert values(answer.to_df(), "list price") == [2.0, 1.0]


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"price": ["dear"]}, r"'price' is string and cannot become double"),
        ({"sold": [1.5]}, r"'sold' is double and cannot become int64"),
        ({"known_at": [pd.NaT]}, r"without 'known_at' would never be read"),
        ({"colour": ["red"]}, r"unknown \['colour'\]"),
        ({"_run_id": ["mine"]}, r"unknown \['_run_id'\]"),
        ({"month": [date(2013, 4, 1)]}, r"'month' has to be the first day of the month of 'known_at'"),
    ],
)
def test_rows_that_do_not_fit_are_refused_and_nothing_is_written(
    lake: Lake, tmp_path: Path, change: dict[str, list[Any]], said: str
) -> None:
    store = price_store(tmp_path, source=price_source(lake.uri(TABLE)))
    view = store.get_feature_view("prices")
    table = pa.Table.from_pandas(_pushed(("a", 1, 1, 1.0)).assign(**change))
    with pytest.raises(ValueError, match=said):
        AsofOfflineStore.offline_write_batch(store.config, view, table, None)
    assert lake.version(TABLE) == 1


def test_progress_is_told_and_no_rows_are_no_commit(lake: Lake, tmp_path: Path) -> None:
    store = price_store(tmp_path, source=price_source(lake.uri(TABLE)))
    view, told = store.get_feature_view("prices"), []
    for rows in (price_rows(), price_rows(("a", 1, 1, 1.0), ("b", 1, 1, 1.0))):
        AsofOfflineStore.offline_write_batch(store.config, view, rows, told.append)
    assert told == [0, 2]
    assert lake.version(TABLE) == 2


def test_what_is_not_a_local_folder_is_refused(tmp_path: Path) -> None:
    store = open_store(tmp_path)
    source = price_source("s3://bucket/feature/prices")
    view = FeatureView(name="prices", entities=[], source=source)
    with pytest.raises(AsofError, match=r"'prices' is s3://bucket/feature/prices: only local folders"):
        AsofOfflineStore.offline_write_batch(store.config, view, price_rows(), None)


def test_a_missing_table_is_named(lake: Lake, tmp_path: Path) -> None:
    store = price_store(tmp_path, source=price_source(lake.uri(TABLE)))
    view = store.get_feature_view("prices")
    Path(lake.uri(TABLE)).rename(tmp_path / "moved")
    with pytest.raises(
        AsofError, match=r"source 'prices_source': no Delta table can be opened at .*feature/prices"
    ):
        store.write_to_offline_store("prices", _pushed(("a", 1, 1, 2.0)))
    with pytest.raises(AsofError, match=r"the source of 'prices': no Delta table can be opened"):
        AsofOfflineStore.offline_write_batch(store.config, view, price_rows(("a", 1, 1, 2.0)), None)


def test_a_view_without_a_source_of_files_is_refused(tmp_path: Path) -> None:
    store = open_store(tmp_path)
    view = FeatureView(name="prices", entities=[], source=price_source(str(tmp_path / "prices")))
    view.batch_source = BigQuerySource(name="elsewhere", table="prices", timestamp_field="known_at")
    with pytest.raises(AsofError, match=r"'elsewhere' is a BigQuerySource; this store reads FileSource only"):
        AsofOfflineStore.offline_write_batch(store.config, view, price_rows(), None)
    view.batch_source = None
    with pytest.raises(AsofError, match=r"'prices' has no batch source to write to"):
        AsofOfflineStore.offline_write_batch(store.config, view, price_rows(), None)


@pytest.mark.parametrize("layout", ["file", "folder", "partitions"])
def test_a_push_into_parquet(tmp_path: Path, layout: str) -> None:
    rows = price_rows(("a", 0, 0, 1.0), ("b", 0, 0, 5.0))
    path = tmp_path / ("prices.parquet" if layout == "file" else "prices")
    if layout == "partitions":
        pq.write_to_dataset(rows, path, partition_cols=["shop"])
    elif layout == "folder":
        path.mkdir()
        pq.write_table(rows, path / "first.parquet")
    else:
        pq.write_table(rows, path)
    store = price_store(tmp_path, source=price_source(str(path), file_format=ParquetFormat()))
    store.write_to_offline_store("prices", _pushed(("a", 1, 1, 2.0)))
    frame = asked(("a", 0 * HOUR), ("a", HOUR), ("b", HOUR))
    assert values(store.get_historical_features(frame, FEATURES).to_df()) == [1.0, 2.0, 5.0]
    files = sorted(file.relative_to(tmp_path).parts[:-1] for file in tmp_path.rglob("*.parquet"))
    assert len(files) == (1 if layout == "file" else 3 if layout == "partitions" else 2)
    assert not [entry for entry in tmp_path.iterdir() if entry.name.startswith(".")]


def test_a_parquet_file_is_replaced_whole_or_not_at_all(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "prices.parquet"
    pq.write_table(price_rows(("a", 0, 0, 1.0)), path)
    store = price_store(tmp_path, source=price_source(str(path), file_format=ParquetFormat()))
    before = path.read_bytes()

    def half(table: pa.Table, where: str) -> None:
        Path(where).write_bytes(before[:100])
        raise OSError("no space left on device")

    monkeypatch.setattr(asof_writes.pq, "write_table", half)
    with pytest.raises(OSError, match="no space left"):
        store.write_to_offline_store("prices", _pushed(("a", 1, 1, 2.0)))
    assert path.read_bytes() == before
    assert not [entry for entry in tmp_path.iterdir() if entry.name.startswith(".")]


def test_a_saved_folder_that_cannot_be_replaced_stays(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "answer"
    asof_writes.save_as_parquet(path, price_rows(("a", 0, 0, 1.0)), ["file:a"])
    rename = Path.rename

    def refused(self: Path, target: Path) -> Path:
        if self.name == "whole":
            raise OSError("permission denied")
        return rename(self, target)

    monkeypatch.setattr(Path, "rename", refused)
    with pytest.raises(OSError, match="permission denied"):
        asof_writes.save_as_parquet(path, price_rows(("a", 0, 0, 2.0)), ["file:a"])
    assert pq.read_table(path)["price"].to_pylist() == [1.0]
    monkeypatch.undo()
    asof_writes.save_as_parquet(path, price_rows(("a", 0, 0, 2.0)), ["file:a"])
    assert pq.read_table(path)["price"].to_pylist() == [2.0]
    assert [entry.name for entry in tmp_path.iterdir()] == ["answer"]


@pytest.fixture
def store(tmp_path: Path) -> FeatureStore:
    write_prices(tmp_path, ("a", 0, 0, 1.0), ("a", 2, 2, 2.0), ("b", 0, 0, 5.0))
    return price_store(tmp_path)


# --- logged features -------------------------------------------------------------------------------------------------


def _service(store: FeatureStore, destination: Any) -> FeatureService:
    view = store.get_feature_view("prices")
    service = FeatureService(
        name="shelf", features=[view[["price"]]], logging_config=LoggingConfig(destination=destination)
    )
    store.apply([service])
    return service


def _log(store: FeatureStore, service: FeatureService, *rows: tuple[str, int, float]) -> pa.Table:
    """(shop, day of March, price) as the feature server logs them."""
    stamps = [datetime(2013, 3, day, tzinfo=T0.tzinfo) for _, day, _ in rows]
    columns = {
        "shop": [shop for shop, *_ in rows],
        "prices__price": [price for *_, price in rows],
        "prices__price__timestamp": stamps,
        "prices__price__status": [1] * len(rows),
        "__log_timestamp": stamps,
        "__log_date": [stamp.date() for stamp in stamps],
        "__request_id": [f"{shop}{day}" for shop, day, _ in rows],
    }
    schema = FeatureServiceLoggingSource(service, store.project).get_schema(store.registry)
    return pa.table({name: pa.array(columns[name], schema.field(name).type) for name in schema.names})


@pytest.mark.parametrize("partition_by", [None, ["__log_date"]], ids=["flat", "by day"])
def test_logged_features_are_appended_and_read_back(
    store: FeatureStore, tmp_path: Path, partition_by: list[str] | None
) -> None:
    service = _service(store, FileLoggingDestination(path="log", partition_by=partition_by))
    store.write_logged_features(_log(store, service, ("a", 1, 1.0), ("b", 2, 2.0)), service)
    handed = tmp_path / "handed"
    handed.mkdir()
    pq.write_table(_log(store, service, ("a", 2, 3.0)), handed / "chunk.parquet")
    store.write_logged_features(handed, service)

    job = store._get_provider().retrieve_feature_service_logs(
        service,
        datetime(2013, 3, 1, tzinfo=T0.tzinfo),
        datetime(2013, 3, 2, tzinfo=T0.tzinfo) + timedelta(seconds=1),
        store.config,
        store.registry,
    )
    back = job.to_df().sort_values("__request_id")
    assert back["__request_id"].tolist() == ["a1", "a2", "b2"]
    assert back["prices__price"].tolist() == [1.0, 3.0, 2.0]
    files = [file.relative_to(tmp_path / "log") for file in (tmp_path / "log").rglob("*") if file.is_file()]
    assert len(files) == len(set(files)) == (3 if partition_by else 2)
    folders = {str(file.parent) for file in files}
    assert folders == ({"__log_date=2013-03-01", "__log_date=2013-03-02"} if partition_by else {"."})
    assert not [entry for entry in tmp_path.iterdir() if entry.name.startswith(".")]


def test_logs_that_do_not_fit_are_refused(store: FeatureStore, tmp_path: Path) -> None:
    service = _service(store, FileLoggingDestination(path="log"))
    rows = _log(store, service, ("a", 1, 1.0))
    with pytest.raises(ValueError, match=r"feature service's log: missing \['prices__price'\]"):
        store.write_logged_features(rows.drop_columns("prices__price"), service)
    by_colour = _service(store, FileLoggingDestination(path="log", partition_by=["colour"]))
    with pytest.raises(ValueError, match=r"partitioned by \['colour'\], which are none of its columns"):
        store.write_logged_features(rows, by_colour)
    elsewhere = _service(store, SnowflakeLoggingDestination(table_name="log"))
    with pytest.raises(AsofError, match="not to SnowflakeLoggingDestination"):
        store.write_logged_features(rows, elsewhere)
    assert not (tmp_path / "log").exists()
