"""MLflow holds what people compare: written before the fit what must be, and no model twice."""

from __future__ import annotations

import hashlib
import time
from pathlib import Path

import mlflow
import numpy as np
import pyarrow as pa
import pytest
from mlflow.exceptions import MlflowException

from contrail import model_files, training
from contrail.registry import ModelVersion
from resources.tracking import ENVIRONMENT, TAG_SHA256, TrackedRun, TrackingResource
from tests.support import small_model
from tests.support.small_model import LINEAGE, NOW, USE_CASE, trained

ROWS = small_model.rows()
SPLIT = training.split_rows(ROWS, USE_CASE, labels_until=NOW)
PARAMETERS = training.lightgbm_parameters(USE_CASE, rows=len(SPLIT.rows["train"]), threads=1)


@pytest.fixture(scope="module")
def home(tmp_path_factory) -> Path:
    return tmp_path_factory.mktemp("home")


@pytest.fixture(scope="module")
def tracking(home) -> TrackingResource:
    """One database for all tests: creating it takes seconds."""
    return TrackingResource(
        tracking_uri=f"sqlite:///{home / 'mlflow.db'}", artifact_root=(home / "artifacts").as_uri()
    )


def start(tracking: TrackingResource, version: int = 3) -> TrackedRun:
    return tracking.start(
        USE_CASE,
        SPLIT,
        training_set=f"model/broken_jar/training_set@v{version}",
        training_set_hash="3600-abc",
        parameters=PARAMETERS,
        tags={"dagster.run_id": "run-1"},
    )


def finish(tracking: TrackingResource, run: TrackedRun, model: training.TrainedModel, home: Path):
    return tracking.finish(
        run,
        model,
        USE_CASE,
        model_folder=model_files.write(model, USE_CASE, LINEAGE, home / "lake"),
        metrics={"test_auc": 0.77, "test_log_loss": 0.48},
        plots={"calibration.png": b"\x89PNG"},
        tables={"slices.json": [{"group": "north", "auc": 0.7}]},
    )


def client(tracking: TrackingResource) -> mlflow.MlflowClient:
    return mlflow.MlflowClient(tracking_uri=tracking.tracking_uri, registry_uri=tracking.tracking_uri)


@pytest.fixture(scope="module")
def finished(tracking, home):
    run = start(tracking)
    model = trained(ROWS)
    return model, finish(tracking, run, model, home)


def test_before_the_fit_the_run_already_says_what_it_is_judged_by(tracking):
    run = start(tracking, version=9)
    found = client(tracking).get_run(run.run_id)
    assert found.info.status == "RUNNING"
    assert found.data.tags["contrail.criteria_sha256"] == USE_CASE.criteria.sha256
    assert found.data.tags["contrail.feature_order_sha256"] == USE_CASE.feature_order_sha256
    assert found.data.tags["data.training_set"] == "model/broken_jar/training_set@v9"
    assert found.data.tags["dagster.run_id"] == "run-1"
    assert len(found.data.tags["contrail.lock_sha256"]) == 64
    assert found.data.params["feature_fraction"] == "0.7"
    assert found.data.params["train_days"] == "2024-01-01..2024-03-01"
    assert found.data.params["rows_dropped_train"] == str(SPLIT.dropped["train"])
    assert found.data.metrics == {}
    assert run.url.endswith(f"#/experiments/{run.experiment_id}/runs/{run.run_id}")
    tracking.fail(run, "the test is over")


def test_a_finished_run_holds_metrics_plots_tables_and_files(tracking, finished):
    _, logged = finished
    found = client(tracking).get_run(logged.run_id)
    assert found.info.status == "FINISHED"
    assert found.data.metrics == {"test_auc": 0.77, "test_log_loss": 0.48}
    listed = {
        item.path
        for folder in ("", "plots", "model_files")
        for item in artifacts(tracking, logged.run_id, folder)
    }
    assert {"plots/calibration.png", "slices.json", "criteria.json", "model_files/manifest.json"} <= listed


def artifacts(tracking: TrackingResource, run_id: str, folder: str):
    return client(tracking).list_artifacts(run_id, folder or None)


def test_the_registered_model_is_the_canonical_text_and_scores_alike(tracking, finished, home):
    model, logged = finished
    files = sorted((home / "artifacts").rglob("model.lgb"))
    assert {hashlib.sha256(path.read_bytes()).hexdigest() for path in files} == {model.sha256}
    assert not [
        path for path in (home / "artifacts").rglob("*") if path.suffix in {".pkl", ".pickle", ".skops"}
    ]
    (requirements,) = (home / "artifacts").rglob("requirements.txt")
    assert {line.partition("==")[0] for line in requirements.read_text().split()} == {
        "lightgbm",
        "mlflow",
        "numpy",
    }

    mlflow.set_tracking_uri(tracking.tracking_uri)
    loaded = mlflow.pyfunc.load_model(f"models:/broken_jar/{logged.version}")
    assert {column.type.name for column in loaded.metadata.signature.inputs} == {"double"}
    assert loaded.metadata.signature.inputs.input_names() == list(USE_CASE.features)
    frame = loaded.input_example
    codes = {name: pa.array(frame[name].to_numpy()) for name in USE_CASE.features}
    expected = model.booster().predict(
        np.column_stack([codes[name].to_numpy() for name in USE_CASE.features])
    )
    np.testing.assert_array_equal(loaded.predict(frame), expected)


def test_the_same_model_gets_no_second_version(tracking, finished, home):
    model, logged = finished
    again = finish(tracking, start(tracking), model, home)
    assert again.version == logged.version
    assert again.run_id != logged.run_id
    other = finish(tracking, start(tracking), trained(ROWS, small_model.another_seed(8)), home)
    assert int(other.version) == int(logged.version) + 1


def version(number: int, sha256: str, role: str) -> ModelVersion:
    return ModelVersion("broken_jar", number, sha256, role, NOW)


def test_aliases_follow_the_decisions(tracking, finished, home):
    model, logged = finished
    other = trained(ROWS, small_model.another_seed(9))
    second = finish(tracking, start(tracking), other, home)

    def aliases() -> dict[str, str]:
        return {k: str(v) for k, v in client(tracking).get_registered_model("broken_jar").aliases.items()}

    decided = [version(1, model.sha256, "champion"), version(2, other.sha256, "challenger")]
    expected = {"champion": logged.version, "challenger": second.version}
    assert tracking.set_aliases("broken_jar", decided) == expected
    assert aliases() == expected
    tagged = client(tracking).get_model_version("broken_jar", second.version).tags
    assert (tagged["contrail.model_version"], tagged[TAG_SHA256]) == ("2", other.sha256)

    swapped = [version(1, model.sha256, "archived"), version(2, other.sha256, "champion")]
    assert tracking.set_aliases("broken_jar", swapped) == {"champion": second.version}
    assert aliases() == {"champion": second.version}
    # moved by hand: the next call puts it right
    client(tracking).set_registered_model_alias("broken_jar", "champion", logged.version)
    tracking.set_aliases("broken_jar", swapped)
    assert aliases() == {"champion": second.version}


def test_models_that_mlflow_does_not_know_get_no_alias(tracking, finished):
    assert tracking.set_aliases("full_jar", [version(1, "a" * 64, "champion")]) == {}


def test_what_is_raised_ends_the_run_as_failed(tracking):
    run = start(tracking)
    with pytest.raises(ZeroDivisionError), tracking.failing(run):
        _ = 1 / 0
    found = client(tracking).get_run(run.run_id)
    assert found.info.status == "FAILED"
    assert found.data.tags["contrail.failure"] == "ZeroDivisionError: division by zero"


def test_a_server_that_is_gone_fails_the_training_soon(home):
    gone = TrackingResource(tracking_uri="http://127.0.0.1:9", artifact_root=home.as_uri())
    for _ in range(2):  # the first call also imports what speaks HTTP
        began = time.perf_counter()
        with pytest.raises(MlflowException, match="Max retries exceeded"):
            start(gone)
    assert time.perf_counter() - began < 30


def test_pickles_are_refused_and_nothing_is_reported_home():
    assert ENVIRONMENT["MLFLOW_ALLOW_PICKLE_DESERIALIZATION"] == "false"
    assert ENVIRONMENT["MLFLOW_DISABLE_TELEMETRY"] == "true"
