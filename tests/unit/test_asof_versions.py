"""Which version of a table is read, and that an old answer comes back byte for byte."""

from __future__ import annotations

import hashlib
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from deltalake import DeltaTable, write_deltalake
from feast import FeatureStore
from feast.data_format import ParquetFormat
from feast.infra.offline_stores.file_source import SavedDatasetFileStorage

from contrail.asof import AsofError, AsofOfflineStore, read_versions
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

FRAME = asked(("a", 3 * HOUR))


@pytest.fixture
def path(tmp_path: Path) -> str:
    """A table of three versions: a newer price in each."""
    for version in range(3):
        write_prices(tmp_path, ("a", version, version, float(version)))
    return str((tmp_path / "prices").resolve())


@pytest.fixture
def store(tmp_path: Path, path: str) -> FeatureStore:
    return price_store(tmp_path)


def _answer(store: FeatureStore) -> tuple[list[float], dict[str, int]]:
    job = store.get_historical_features(FRAME, FEATURES)
    return values(job.to_df()), job.delta_versions


def test_a_block_reads_the_versions_it_names_and_only_that_block(store: FeatureStore, path: str) -> None:
    assert _answer(store) == ([2.0], {path: 2})
    with read_versions({path: 0}):
        assert _answer(store) == ([0.0], {path: 0})
        with read_versions({path: 1}):
            assert _answer(store) == ([1.0], {path: 1})
        planned = store.get_historical_features(FRAME, FEATURES)
    assert _answer(store) == ([2.0], {path: 2})
    assert values(planned.to_df()) == [0.0]


def test_a_path_may_be_relative_to_the_feature_repository(store: FeatureStore, path: str) -> None:
    with read_versions({"prices": 1}):
        assert _answer(store) == ([1.0], {path: 1})


def test_the_block_wins_over_the_configuration_and_that_over_the_tag(tmp_path: Path, path: str) -> None:
    store = price_store(tmp_path, source=price_source(path, tags={"delta.version": "0"}))
    assert _answer(store) == ([0.0], {path: 0})
    configured = open_store(tmp_path, delta_versions={"prices": 1})
    assert _answer(configured) == ([1.0], {path: 1})
    with read_versions({path: 2}):
        assert _answer(configured) == ([2.0], {path: 2})


def test_pulls_and_saved_answers_obey_the_block_too(store: FeatureStore, path: str) -> None:
    source = store.get_data_source("prices_source")
    with read_versions({path: 1}):
        job = AsofOfflineStore.pull_latest_from_table_or_query(
            store.config, source, ["shop"], ["price"], "known_at", "created_at", T0, T0 + 3 * HOUR
        )
    assert job.delta_versions == {path: 1}
    assert job.to_arrow()["price"].to_pylist() == [1.0]


@pytest.mark.parametrize(
    ("version", "said"),
    [(3, r"asks for version 3 of .*prices, which has 0 to 2"), (-1, "asks for version -1")],
)
def test_a_version_that_is_not_there_is_said(store: FeatureStore, path: str, version: int, said: str) -> None:
    with read_versions({path: version}), pytest.raises(AsofError, match=said):
        store.get_historical_features(FRAME, FEATURES)


def test_a_slip_of_the_pen_does_not_read_the_newest_version(
    store: FeatureStore, tmp_path: Path, path: str
) -> None:
    with read_versions({path + "s": 0}), pytest.raises(AsofError, match=r"read_versions names .*pricess"):
        store.get_historical_features(FRAME, FEATURES)
    # Also where everything that is read is named beside it, and by another than who names the version.
    both = {path: 0, path + "s": 0}
    with read_versions(both), pytest.raises(AsofError, match=r"read_versions names \[.*pricess'\], where"):
        store.get_historical_features(FRAME, FEATURES)
    beside = open_store(tmp_path, delta_versions={"pricess": 0})
    with (
        read_versions({path: 0}),
        pytest.raises(AsofError, match=r"offline_store.delta_versions names .*pricess"),
    ):
        beside.get_historical_features(FRAME, FEATURES)
    configured = open_store(tmp_path, delta_versions={"price": 0})
    with pytest.raises(AsofError, match=r"offline_store.delta_versions names .*price'"):
        configured.get_historical_features(FRAME, FEATURES)
    tagged = price_store(tmp_path, source=price_source(path, tags={"delta.version": "newest"}))
    with pytest.raises(AsofError, match=r"tag delta.version is 'newest', which is no version"):
        tagged.get_historical_features(FRAME, FEATURES)


def _bytes(table: pa.Table) -> str:
    # As Parquet: what lies in Arrow's buffers under a null is nobody's.
    sink = pa.BufferOutputStream()
    pq.write_table(table, sink)
    return hashlib.sha256(sink.getvalue()).hexdigest()


def test_an_old_answer_comes_back_byte_for_byte(tmp_path: Path) -> None:
    hours = [h / 7 for h in range(300)]
    for start in range(0, 300, 100):  # the physical order and the files differ from version to version
        write_prices(
            tmp_path, *((shop, h, h + 1, h * 3) for h in hours[start : start + 100] for shop in "ab")
        )
    store = price_store(tmp_path)
    frame = asked(*((shop, h * HOUR) for h in range(45) for shop in "bax"))
    job = store.get_historical_features(frame, FEATURES)
    first = _bytes(job.to_arrow())
    job.persist(SavedDatasetFileStorage(path="first.parquet"))

    write_prices(tmp_path, ("a", 0, 0, -1.0), ("b", 40, 40, -1.0))
    DeltaTable(str(tmp_path / "prices")).optimize.compact()
    assert _bytes(store.get_historical_features(frame, FEATURES).to_arrow()) != first
    with read_versions(job.delta_versions):
        again = store.get_historical_features(frame, FEATURES)
    assert again.delta_versions == job.delta_versions
    assert _bytes(again.to_arrow()) == first
    again.persist(SavedDatasetFileStorage(path="again.parquet"))
    assert (tmp_path / "again.parquet").read_bytes() == (tmp_path / "first.parquet").read_bytes()


def test_a_vacuumed_version_says_so_in_a_stream_too(store: FeatureStore, path: str) -> None:
    planned = store.get_historical_features(FRAME, FEATURES)
    write_deltalake(path, DeltaTable(path).to_pyarrow_table(), mode="overwrite")
    DeltaTable(path).vacuum(retention_hours=0, enforce_retention_duration=False, dry_run=False)
    with pytest.raises(AsofError, match=r"vacuumed.*prices"):
        planned.to_reader().read_all()


def test_a_missing_parquet_file_is_not_called_vacuumed(tmp_path: Path) -> None:
    path = tmp_path / "prices.parquet"
    pq.write_table(price_rows(("a", 0, 0, 1.0)), path)
    store = price_store(tmp_path, source=price_source(str(path), file_format=ParquetFormat()))
    path.unlink()
    job = store.get_historical_features(FRAME, FEATURES)
    for run in (job.to_arrow, job.to_reader):
        with pytest.raises(AsofError, match=r"a source cannot be read.*prices\.parquet"):
            run()
