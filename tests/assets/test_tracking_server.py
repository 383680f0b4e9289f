"""A real MLflow server: used, killed in the middle of a training, made to hang, and not there when people decide."""

from __future__ import annotations

import time
from collections.abc import Iterator
from datetime import datetime, timedelta

import mlflow.lightgbm
import numpy as np
import pyarrow as pa
import pytest
from mlflow.exceptions import MlflowException
from pydantic import SecretStr

from contrail import decisions, model_files, promotions, registry, scoring
from contrail.clock import utc_now
from contrail.settings import Settings
from resources import mlflow_models
from resources.decisions import DAGSTER, after_decision, recorded_anchors
from tests.support import small_model
from tests.support.mlflow_server import MlflowServer
from tests.support.small_model import COMMIT, NOW, USE_CASE, trained
from tests.support.tracking_world import ROWS, TrackingWorld, empty_database

FAILS_WITHIN_SECONDS = 30
OTHER_MODEL = small_model.another_seed(21)


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[MlflowServer]:
    made = MlflowServer(tmp_path_factory.mktemp("mlflow"))
    empty_database(tmp_path_factory, made.database)
    try:
        yield made.start()
    finally:
        made.kill()


@pytest.fixture
def world(server: MlflowServer, tmp_path) -> TrackingWorld:
    """A home that uses the server; the lake is empty."""
    return TrackingWorld(Settings(home=tmp_path / "home", mlflow_uri=SecretStr(server.uri)))


def versions(world: TrackingWorld) -> list[str]:
    return [version.version for version in world.client.search_model_versions(f"name='{USE_CASE.name}'")]


def test_a_training_goes_through_the_server_and_its_artifacts_too(world, server):
    model, tracked = world.train(20)
    assert world.client.get_run(tracked.run_id).info.status == "FINISHED"
    assert tracked.url.startswith(server.uri)
    assert not world.settings.mlflow_path.exists()
    booster = mlflow.lightgbm.load_model(f"models:/{USE_CASE.name}/{tracked.version}")
    np.testing.assert_array_equal(booster.predict(model.encoding.matrix(ROWS)), model.predict(ROWS))
    world.reconcile()
    assert world.aliases() == {"champion": tracked.version}


def test_a_server_killed_in_the_middle_fails_the_training_and_leaves_nothing_half_registered(
    world, server, monkeypatch
):
    before = versions(world)
    early, late = world.start(), world.start()
    model = trained(ROWS, OTHER_MODEL)

    def killed_first(*arguments):
        server.kill()
        return register(*arguments)

    register = mlflow_models.register
    try:
        # At the worst moment: the model is stored, and not yet a version.
        with monkeypatch.context() as patched:
            patched.setattr(mlflow_models, "register", killed_first)
            assert failing_seconds(world, late, model) < FAILS_WITHIN_SECONDS
        # And with all of it still to be written.
        assert failing_seconds(world, early, model) < FAILS_WITHIN_SECONDS
        assert registry.versions(USE_CASE.name, world.lake) == []
    finally:
        server.start()
    assert versions(world) == before
    assert world.client.get_run(early.run_id).info.status == "RUNNING"

    # Whoever sweeps closes what nobody can finish any more, and leaves alone what still runs.
    alive = world.start(dagster_run="alive")
    soon = utc_now() + timedelta(hours=1, minutes=1)
    swept = sweep(world, soon)
    assert early.run_id in swept
    assert alive.run_id not in swept
    closed = world.client.get_run(early.run_id)
    assert closed.info.status == "FAILED"
    assert "left RUNNING for over 1 h" in closed.data.tags["contrail.failure"]
    assert sweep(world, soon) == []
    assert world.client.get_run(alive.run_id).info.status == "RUNNING"

    # Trained again, it is registered as if nothing had been.
    again = world.finish(world.start(), model)
    assert versions(world) == [again.version, *before]
    world.tracking.fail(alive.run_id, "the test is over")


def sweep(world: TrackingWorld, now: datetime) -> list[str]:
    return world.tracking.sweep(
        timedelta(hours=1), now, experiments=[USE_CASE.name], is_under_way=lambda run: run == "alive"
    )


def failing_seconds(world: TrackingWorld, run, model) -> float:
    """How long a training takes to fail; what it fails with is MLflow's own error, with a note."""
    began = time.perf_counter()
    with pytest.raises(MlflowException, match="Max retries exceeded") as raised, world.tracking.failing(run):
        world.finish(run, model)
    assert any("could not be told that run" in note for note in raised.value.__notes__)
    return time.perf_counter() - began


def test_a_server_that_hangs_fails_the_training_too(world, server):
    run, model = world.start(), trained(ROWS, OTHER_MODEL)
    server.hang()
    try:
        began = time.perf_counter()
        with pytest.raises(MlflowException) as raised, world.tracking.failing(run):
            world.finish(run, model)
        took = time.perf_counter() - began
    finally:
        server.go_on()
    assert took < FAILS_WITHIN_SECONDS
    assert any("did not answer within" in note for note in raised.value.__notes__)


def test_people_decide_and_models_score_with_mlflow_down(tmp_path):
    world = TrackingWorld(Settings(home=tmp_path / "home", mlflow_uri=SecretStr("http://127.0.0.1:9")))
    first, second, third = (trained(ROWS, small_model.another_seed(seed)) for seed in (1, 2, 3))
    for model in (first, second):
        world.register(model)

    def follow(decision: decisions.Decision) -> None:
        began = time.perf_counter()
        (said,) = after_decision(world.settings, USE_CASE.name, decision.anchor)
        assert said.startswith("the decision stands; MLflow follows later")
        assert time.perf_counter() - began < 25

    approved = world.promote(2)
    follow(approved)
    assert champion_version(world) == 2
    world.register(third)
    rejected = promotions.reject(
        USE_CASE, world.ask(3), world.lake, by="Approver", reason="not now", now=NOW, commit=COMMIT
    )
    rolled_back = world.roll_back()
    follow(rolled_back)
    assert champion_version(world) == 1
    assert [d.event for d in decisions.read(world.lake)][-3:] == ["requested", "rejected", "rolled_back"]
    assert registry.champion(USE_CASE.name, world.lake, at=NOW).version == 1

    champion = registry.champion(USE_CASE.name, world.lake)
    loaded = model_files.load(world.settings.lake_root, champion.sha256)
    scores = scoring.score(loaded, ROWS, USE_CASE, version=champion.version)
    np.testing.assert_array_equal(np.sort(scores["score"]), np.sort(first.predict(ROWS)))
    assert set(scores["model_sha256"].to_pylist()) == {first.sha256}
    assert pa.compute.all(pa.compute.equal(scores["model_version"], 1)).as_py()

    found = recorded_anchors(world.settings)
    assert found.anchors == [(DAGSTER, approved.anchor), (DAGSTER, rolled_back.anchor)]
    assert [said for said in found.unasked if said.startswith("MLflow's registered model could not be asked")]
    assert decisions.verify(world.lake, [anchor for _, anchor in found.anchors]).holds
    assert rejected.sequence < rolled_back.sequence


def champion_version(world: TrackingWorld) -> int:
    champion = registry.champion(USE_CASE.name, world.lake)
    assert champion is not None
    return champion.version
