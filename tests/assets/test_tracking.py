"""MLflow holds what people compare: written before the fit what must be, no model twice, and no pickle anywhere."""

from __future__ import annotations

import hashlib
import json
import threading
import time
from base64 import b64encode
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path

import mlflow
import mlflow.lightgbm
import numpy as np
import pytest
import yaml
from mlflow.exceptions import MlflowException
from pydantic import SecretStr

from contrail.lake import Lake
from contrail.settings import Settings
from resources.mlflow_client import CREDENTIAL_NAMES, ENVIRONMENT, TrackingError, connect, first_line, within
from resources.mlflow_datasets import LakeTableSource, register_source
from resources.mlflow_models import TAG_SHA256
from resources.tracking import TrackingResource
from tests.support import small_model
from tests.support.small_model import COMMIT, USE_CASE, trained
from tests.support.tracking_world import EVALUATION, ROWS, SPLIT, TrackingWorld, empty_database

# What a pickle, of whatever protocol and inside whatever file, ends with and begins with.
PICKLED = (b"\x80\x02", b"\x80\x03", b"\x80\x04", b"\x80\x05")


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> TrackingWorld:
    settings = Settings(home=tmp_path_factory.mktemp("home"))
    empty_database(tmp_path_factory, settings.mlflow_path)
    return TrackingWorld(settings)


@pytest.fixture(scope="module")
def finished(world):
    model = trained(ROWS)
    return model, world.finish(world.start(), model)


def artifacts(world: TrackingWorld) -> Path:
    return world.settings.mlflow_artifact_root


def test_before_the_fit_the_run_already_says_what_it_is_judged_by(world):
    run = world.start(version=9)
    found = world.client.get_run(run.run_id)
    assert found.info.status == "RUNNING"
    assert found.data.tags["contrail.criteria_sha256"] == USE_CASE.criteria_sha256
    assert found.data.tags["contrail.feature_order_sha256"] == USE_CASE.feature_order_sha256
    assert found.data.tags["data.training_set"] == "model/broken_jar/training_set@v9"
    assert found.data.tags["dagster.run_id"] == "run-1"
    assert len(found.data.tags["contrail.lock_sha256"]) == 64
    assert found.data.params["feature_fraction"] == "0.7"
    assert found.data.params["train_days"] == "2024-01-01..2024-03-01"
    assert found.data.params["rows_dropped_train"] == str(SPLIT.dropped["train"])
    assert found.data.metrics == {}
    assert run.url.endswith(f"#/experiments/{run.experiment_id}/runs/{run.run_id}")
    world.tracking.fail(run.run_id, "the test is over")


def test_the_training_set_is_a_dataset_that_can_be_read_again(world, tmp_path):
    lake = Lake(tmp_path / "lake")
    table = f"model/{USE_CASE.name}/training_set"
    lake.create(table, ROWS.schema)
    version = lake.append(table, ROWS, COMMIT)
    run = world.start(version=version)
    register_source()
    inputs = {
        entry.tags[0].value: entry.dataset for entry in world.client.get_run(run.run_id).inputs.dataset_inputs
    }
    assert set(inputs) == {"training", "evaluation"}
    learnt = mlflow.data.get_source(inputs["training"])
    assert isinstance(learnt, LakeTableSource)
    assert (learnt.table, learnt.version) == (table, version)
    read = learnt.load(lake.root)
    assert read.num_rows == len(SPLIT.rows["train"]) == json.loads(inputs["training"].profile)["num_rows"]
    assert read.column("jar_id").to_pylist() == [
        ROWS.column("jar_id")[int(row)].as_py() for row in SPLIT.rows["train"]
    ]
    world.tracking.fail(run.run_id, "the test is over")


def test_another_version_of_the_training_set_is_another_dataset():
    def source(version: int, files: str = "a" * 64, where: str = "true") -> LakeTableSource:
        return LakeTableSource("model/jar/training_set", version, files, ("x",), where, ("x",))

    digests = [
        source(0).digest,
        source(1).digest,
        source(0, "b" * 64).digest,
        source(0, where="x > 1").digest,
    ]
    assert len(set(digests)) == len(digests)
    assert max(map(len, digests)) <= 36  # beyond, MLflow raises
    assert source(123456).digest.startswith("v123456-")
    assert len(source(123456).digest) <= 36
    assert LakeTableSource.from_json(source(0).to_json()) == source(0)  # version 0 is a version


def test_a_finished_run_holds_metrics_files_and_the_evaluation_it_stands_on(world, finished):
    _, logged = finished
    found = world.client.get_run(logged.run_id)
    assert found.info.status == "FINISHED"
    assert found.data.metrics == {"test_auc": 0.77, "test_log_loss": 0.48}
    assert found.data.tags["contrail.evaluation_id"] == EVALUATION
    listed = {
        item.path for folder in (None, "plots") for item in world.client.list_artifacts(logged.run_id, folder)
    }
    assert {"plots/calibration.png", "card.md", "criteria.json", "feature_order.json"} <= listed
    (output,) = found.outputs.model_outputs
    behind = world.client.get_logged_model(output.model_id)
    assert {metric.key for metric in behind.metrics} == {"test_auc", "test_log_loss"}


def test_the_registered_model_is_the_canonical_text_and_scores_alike(world, finished):
    model, logged = finished
    mlflow.set_tracking_uri(world.tracking.tracking_uri)
    booster = mlflow.lightgbm.load_model(f"models:/broken_jar/{logged.version}")
    matrix = model.encoding.matrix(ROWS)
    np.testing.assert_array_equal(booster.predict(matrix), model.predict(ROWS))

    loaded = mlflow.pyfunc.load_model(f"models:/broken_jar/{logged.version}")
    assert {column.type.name for column in loaded.metadata.signature.inputs} == {"double"}
    assert loaded.metadata.signature.inputs.input_names() == list(USE_CASE.features)
    frame = loaded.input_example
    np.testing.assert_array_equal(loaded.predict(frame), model.booster().predict(frame.to_numpy()))


def test_one_mlflow_model_holds_all_that_scoring_needs_with_every_hash(world, finished):
    model, _ = finished
    (described,) = artifacts(world).rglob("MLmodel")
    folder, metadata = described.parent, yaml.safe_load(described.read_text())["metadata"]
    assert metadata["model_sha256"] == model.sha256
    assert metadata["criteria_sha256"] == USE_CASE.criteria_sha256
    assert metadata["feature_order_sha256"] == USE_CASE.feature_order_sha256
    assert (len(metadata["feature_code_sha256"]), metadata["lock_sha256"]) == (
        64,
        small_model.LINEAGE.lock_sha256,
    )
    lake_folder = world.model_folder(model)
    for name, sha256 in metadata["files"].items():
        stored = folder / name if name == "model.lgb" else folder / "extra_files" / name
        assert hashlib.sha256(stored.read_bytes()).hexdigest() == sha256
        assert stored.read_bytes() == (lake_folder / name).read_bytes()
    assert {
        "model.lgb",
        "features.json",
        "golden.json",
        "naive.json",
        "profile.json",
        "manifest.json",
    } <= set(metadata["files"])
    described_features = json.loads((folder / "extra_files" / "features.json").read_text())
    assert {feature["type"] for feature in described_features["features"]} == {"double", "category"}
    assert set(described_features["categories"]) == set(USE_CASE.categorical)
    requirements = (folder / "requirements.txt").read_text().split()
    assert {line.partition("==")[0] for line in requirements} == {"lightgbm", "mlflow", "numpy"}


def test_nothing_is_pickled(world, finished):
    files = [path for path in artifacts(world).rglob("*") if path.is_file()]
    assert len(files) > 10
    suffixes = {".pkl", ".pickle", ".skops", ".joblib", ".npy", ".npz", ".bin", ".pt"}
    assert [path.name for path in files if path.suffix in suffixes] == []
    assert [path.name for path in files if path.read_bytes().startswith(PICKLED)] == []
    assert ENVIRONMENT["MLFLOW_ALLOW_PICKLE_DESERIALIZATION"] == "false"
    assert ENVIRONMENT["MLFLOW_DISABLE_TELEMETRY"] == "true"


def test_the_same_model_gets_no_second_version(world, finished):
    model, logged = finished
    again = world.finish(world.start(), model)
    assert again.version == logged.version
    assert again.run_id != logged.run_id
    assert world.client.get_run(again.run_id).data.tags[TAG_SHA256] == model.sha256
    other = world.finish(world.start(), trained(ROWS, small_model.another_seed(8)))
    assert int(other.version) == int(logged.version) + 1


def test_what_is_raised_ends_the_run_as_failed(world):
    run = world.start()
    with pytest.raises(ZeroDivisionError) as raised, world.tracking.failing(run):
        _ = 1 / 0
    found = world.client.get_run(run.run_id)
    assert found.info.status == "FAILED"
    assert found.data.tags["contrail.failure"] == "ZeroDivisionError: division by zero"
    assert not hasattr(raised.value, "__notes__")


def test_a_server_that_is_gone_fails_the_training_soon(tmp_path):
    gone = TrackingWorld(Settings(home=tmp_path, mlflow_uri=SecretStr("http://127.0.0.1:9")))
    for _ in range(2):  # the first call also imports what speaks HTTP
        began = time.perf_counter()
        with pytest.raises(MlflowException, match="Max retries exceeded"):
            gone.start()
    assert time.perf_counter() - began < 30


def test_an_answer_that_comes_too_late_is_not_waited_for():
    assert within(5, lambda: 7) == 7
    with pytest.raises(TrackingError, match=r"did not answer within 0\.05 s"):
        within(0.05, lambda: time.sleep(1))
    with pytest.raises(KeyError, match="as raised"):
        within(5, lambda: {}["as raised"])


def test_a_server_shows_its_own_pages_and_keeps_its_artifacts_and_its_password(tmp_path):
    settings = Settings(home=tmp_path, mlflow_uri=SecretStr("https://me:s3cret@mlflow.example:8443/ml"))
    tracking = TrackingResource.from_settings(settings)
    assert (tracking.artifact_root, tracking.ui_url) == ("", "https://mlflow.example:8443/ml")
    assert "s3cret" not in repr(tracking)
    assert tracking.tracking_uri == settings.mlflow_tracking_uri


def test_a_server_is_told_user_and_password_and_no_error_repeats_them(monkeypatch):
    told: list[str | None] = []

    class Refusing(BaseHTTPRequestHandler):
        def do_GET(self):
            told.append(self.headers["Authorization"])
            self.send_error(403)

        def log_message(self, *_):
            pass

    for name in CREDENTIAL_NAMES:
        monkeypatch.setenv(name, "")  # put back afterwards
    server = HTTPServer(("127.0.0.1", 0), Refusing)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    place = f"127.0.0.1:{server.server_port}"
    try:
        client = connect(f"http://me%40home:s3cret@{place}")
        with pytest.raises(MlflowException, match="403") as refused:
            client.get_registered_model("any")
    finally:
        server.shutdown()
        server.server_close()
    with pytest.raises(MlflowException, match="Max retries exceeded") as gone:
        client.get_registered_model("any")
    assert told == [f"Basic {b64encode(b'me@home:s3cret').decode()}"]
    assert mlflow.get_tracking_uri() == mlflow.get_registry_uri() == f"http://{place}"
    assert str(server.server_port) in str(gone.value)
    assert "s3cret" not in f"{refused.value} {gone.value}"


def test_what_is_said_of_an_error_holds_no_password():
    said = first_line(ValueError("bad address postgresql://me:s3cret@db.example/mlflow, really\nmore"))
    assert said == "bad address postgresql://…@db.example/mlflow, really"
