"""Saved answers: Feast's saved datasets, as Delta tables and as Parquet."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pandas as pd
import pyarrow.parquet as pq
import pytest
from feast import FeatureStore, Field
from feast.data_format import DeltaFormat, ParquetFormat
from feast.errors import SavedDatasetLocationAlreadyExists
from feast.infra.offline_stores.bigquery_source import SavedDatasetBigQueryStorage
from feast.infra.offline_stores.file_source import SavedDatasetFileStorage
from feast.on_demand_feature_view import on_demand_feature_view
from feast.types import Float64

from contrail import asof_writes
from contrail.asof import AsofError
from contrail.lake import Lake, LakeError
from tests.support.asof_store import (
    FEATURES,
    HOUR,
    asked,
    price_rows,
    price_source,
    price_store,
    values,
    write_prices,
)


@pytest.fixture
def store(tmp_path: Path) -> FeatureStore:
    write_prices(tmp_path, ("a", 0, 0, 1.0), ("a", 2, 2, 2.0), ("b", 0, 0, 5.0))
    return price_store(tmp_path)


FRAME = asked(("b", HOUR), (None, HOUR), ("a", 3 * HOUR), ("a", 3 * HOUR), ("nobody", HOUR))


@pytest.mark.parametrize("where", ["delta", "folder", "file.parquet"])
def test_a_saved_answer_comes_back_whole_and_says_what_it_was_made_of(
    store: FeatureStore, tmp_path: Path, where: str
) -> None:
    frame = pd.concat([FRAME, asked(("a", HOUR)).assign(event_timestamp=pd.NaT)], ignore_index=True)
    job = store.get_historical_features(frame, FEATURES)
    path = tmp_path / "saved" / where
    file_format = DeltaFormat() if where == "delta" else ParquetFormat()
    storage = SavedDatasetFileStorage(path=str(path), file_format=file_format)
    store.create_saved_dataset(job, "training", storage)
    back = store.get_saved_dataset("training").to_df()
    wanted = job.to_df()[["shop", "price", "sold", "event_timestamp"]]
    order = ["shop", "event_timestamp"]
    pd.testing.assert_frame_equal(
        back.sort_values(order, ignore_index=True), wanted.sort_values(order, ignore_index=True)
    )
    inputs = [f"{tmp_path.name}/prices@v0"]
    if where == "delta":
        commit = Lake(tmp_path).commits("saved/delta")[-1]
        assert list(commit.inputs) == inputs
        assert json.loads(commit.extra["features"]) == FEATURES
    else:
        file = path if path.is_file() else path / "part-0.parquet"
        assert json.loads(pq.read_metadata(file).metadata[asof_writes.INPUTS]) == inputs


@pytest.mark.parametrize("file_format", [DeltaFormat(), ParquetFormat()], ids=["delta", "parquet"])
def test_a_saved_answer_is_overwritten_only_when_asked_to(
    store: FeatureStore, tmp_path: Path, file_format: Any
) -> None:
    storage = SavedDatasetFileStorage(
        path="saved/answer", file_format=file_format
    )  # relative to the repository
    first = store.get_historical_features(FRAME, FEATURES)
    store.create_saved_dataset(first, "training", storage)
    second = store.get_historical_features(asked(("a", HOUR)), FEATURES)
    with pytest.raises(SavedDatasetLocationAlreadyExists):
        store.create_saved_dataset(second, "training", storage)
    assert len(store.get_saved_dataset("training").to_df()) == len(FRAME)
    store.create_saved_dataset(second, "training", storage, allow_overwrite=True)
    assert values(store.get_saved_dataset("training").to_df()) == [1.0]
    assert sorted(entry.name for entry in (tmp_path / "saved").iterdir()) == ["answer"]


def test_an_empty_folder_and_a_table_that_was_only_created_hold_nothing(
    store: FeatureStore, tmp_path: Path
) -> None:
    job = store.get_historical_features(FRAME, FEATURES)
    (tmp_path / "saved" / "parquet").mkdir(parents=True)
    Lake(tmp_path).create("saved/delta", job.to_arrow().schema)
    for name, file_format in (("parquet", ParquetFormat()), ("delta", DeltaFormat())):
        storage = SavedDatasetFileStorage(path=f"saved/{name}", file_format=file_format)
        store.create_saved_dataset(job, name, storage)
        assert len(store.get_saved_dataset(name).to_df()) == len(FRAME)


def test_what_cannot_be_saved_is_refused_with_words(store: FeatureStore, tmp_path: Path) -> None:
    job = store.get_historical_features(FRAME, FEATURES)
    with pytest.raises(AsofError, match="not in SavedDatasetBigQueryStorage"):
        job.persist(SavedDatasetBigQueryStorage(table="somewhere"))
    with pytest.raises(AsofError, match="only local folders are written"):
        job.persist(SavedDatasetFileStorage(path="s3://bucket/answer"))
    delta = SavedDatasetFileStorage(path="saved/delta", file_format=DeltaFormat())
    job.persist(delta)
    narrower = store.get_historical_features(FRAME, FEATURES[:1])
    with pytest.raises(LakeError, match="exists with other columns"):
        narrower.persist(delta, allow_overwrite=True)
    (tmp_path / "files").mkdir()
    (tmp_path / "files" / "notes.txt").write_text("mine")
    with pytest.raises(AsofError, match="holds files and no Delta table"):
        job.persist(SavedDatasetFileStorage(path="files", file_format=DeltaFormat()), allow_overwrite=True)
    nothing = store.get_historical_features(FRAME.iloc[:0], FEATURES)
    with pytest.raises(AsofError, match="without a single decision time"):
        nothing.persist(SavedDatasetFileStorage(path="saved/nothing"))
    assert not (tmp_path / "saved" / "nothing").exists()


def test_a_saved_answer_has_the_features_on_demand(store: FeatureStore, tmp_path: Path) -> None:
    @on_demand_feature_view(
        sources=[store.get_feature_view("prices")],
        schema=[Field(name="gross", dtype=Float64)],
        mode="python",
    )
    def taxed(inputs: dict[str, Any]) -> dict[str, Any]:
        return {"gross": [None if price is None else price * 2 for price in inputs["price"]]}

    store.apply([taxed])
    job = store.get_historical_features(asked(("b", HOUR), ("a", 3 * HOUR)), ["prices:price", "taxed:gross"])
    with pytest.raises(AsofError, match=r"\['taxed'\] cannot be streamed"):
        job.to_reader()
    path = tmp_path / "saved.parquet"
    job.persist(SavedDatasetFileStorage(path=str(path)))
    assert pq.read_table(path)["gross"].to_pylist() == [10.0, 4.0]


def test_an_answer_from_parquet_names_the_file(tmp_path: Path) -> None:
    path = tmp_path / "prices.parquet"
    pq.write_table(price_rows(("a", 0, 0, 1.0)), path)
    store = price_store(tmp_path, source=price_source(str(path), file_format=ParquetFormat()))
    job = store.get_historical_features(asked(("a", HOUR)), FEATURES)
    job.persist(SavedDatasetFileStorage(path="saved/answer", file_format=DeltaFormat()))
    assert Lake(tmp_path).commits("saved/answer")[-1].inputs == (f"file:{path}",)
