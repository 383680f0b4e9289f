"""Ticks over MLflow: aliases moved by hand are told of and put back, dead trainings are closed, an outage is said."""

from __future__ import annotations

import uuid
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path

import dagster as dg
import pytest
from pydantic import SecretStr

from contrail import alerts, decisions
from contrail.clock import utc_now
from contrail.settings import Settings
from jobs import model_sensors
from jobs.abandoned import PROCESS_TAG
from resources.decisions import ASSET
from resources.tracking import TAG_ANCHOR
from tests.support.small_model import USE_CASE, trained
from tests.support.ticks import words
from tests.support.tracking_world import TrackingWorld, empty_database


@pytest.fixture
def instance() -> Iterator[dg.DagsterInstance]:
    with dg.DagsterInstance.ephemeral() as made:
        yield made


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> TrackingWorld:
    """A champion, version 1, and a challenger, version 2."""
    settings = Settings(home=tmp_path_factory.mktemp("home"))
    empty_database(tmp_path_factory, settings.mlflow_path)
    made = TrackingWorld(settings)
    made.train(1)
    made.train(2)
    return made


@pytest.fixture
def told(monkeypatch: pytest.MonkeyPatch) -> list[alerts.Alert]:
    """What was sent; the use case of the small model is declared."""
    sent: list[alerts.Alert] = []
    monkeypatch.setattr(model_sensors, "USE_CASES", {USE_CASE.name: USE_CASE})
    monkeypatch.setattr(model_sensors, "send", lambda settings, alert: sent.append(alert))
    return sent


def test_aliases_that_lag_follow_without_an_alert(world, instance, told):
    model_sensors.aliases_tick(world.settings, None, instance)
    assert world.aliases() == {"champion": "1", "challenger": "2"}
    assert words(model_sensors.aliases_tick(world.settings, None, instance)) == "the aliases are as decided"
    assert told == []


def test_an_alias_moved_by_hand_is_told_of_and_put_right(world, instance, told):
    world.reconcile()
    world.put("champion", "2")
    tick = model_sensors.aliases_tick(world.settings, None, instance)
    assert f"{USE_CASE.name}: alias champion had been moved by hand to MLflow's version 2" in words(tick)
    (alert,) = told
    assert "moved by hand" in alert.text
    assert world.aliases() == {"champion": "1", "challenger": "2"}
    assert words(model_sensors.aliases_tick(world.settings, None, instance)) == "the aliases are as decided"
    assert len(told) == 1


def test_anchors_that_whoever_decided_could_not_leave_are_left(world, instance, told):
    head = decisions.head(world.lake)
    world.client.delete_registered_model_tag(USE_CASE.name, TAG_ANCHOR)
    assert f"the anchor {head} was not in Dagster: left now" in words(
        model_sensors.aliases_tick(world.settings, None, instance)
    )
    (record,) = instance.fetch_materializations(ASSET, limit=5).records
    metadata = record.asset_materialization.metadata
    assert (metadata["anchor"].value, metadata["event"].value) == (str(head), "registered")
    assert world.tracking.anchors() == {USE_CASE.name: str(head)}
    assert words(model_sensors.aliases_tick(world.settings, None, instance)) == "the aliases are as decided"
    assert len(instance.fetch_materializations(ASSET, limit=5).records) == 1


def test_an_alert_that_was_not_taken_is_sent_again(world, instance, told, monkeypatch):
    world.reconcile()
    world.put("champion", "2")

    def refused(settings, alert):
        raise alerts.AlertError("the target is away")

    with monkeypatch.context() as patched:
        patched.setattr(model_sensors, "send", refused)
        tick = model_sensors.aliases_tick(world.settings, None, instance)
    assert isinstance(tick, dg.SensorResult)
    assert "the target is away; it is sent again next tick" in words(tick)
    after = model_sensors.aliases_tick(world.settings, tick.cursor, instance)
    assert isinstance(after, dg.SensorResult)
    assert (after.cursor, len(told)) == ("", 1)
    assert "moved by hand" in told[0].text


def test_without_mlflow_both_ticks_say_so(tmp_path, told, instance):
    down = Settings(home=tmp_path / "home", mlflow_uri=SecretStr("http://127.0.0.1:9"))
    world = TrackingWorld(down)
    assert (
        words(model_sensors.aliases_tick(down, None, instance)) == "the aliases are as decided"
    )  # nothing is decided
    world.register(trained())
    for tick in (
        model_sensors.aliases_tick(down, None, instance),
        model_sensors.abandoned_tick(down, instance),
    ):
        assert "MLflow does not answer or refuses" in words(tick)
        assert words(tick).endswith("asking again next tick")
    unmade = Settings(home=tmp_path / "unmade")
    assert "not there (yet)" in words(model_sensors.abandoned_tick(unmade, instance))
    assert told == []


def dagster_run(instance: dg.DagsterInstance, status: dg.DagsterRunStatus, **tags: str) -> str:
    run = dg.DagsterRun(job_name="train", run_id=str(uuid.uuid4()), status=status, tags=tags)
    return instance.add_run(run).run_id


def test_what_was_left_running_is_closed_and_what_runs_is_not(world, told, instance, monkeypatch):
    dead = world.start(dagster_run=dagster_run(instance, dg.DagsterRunStatus.FAILURE))
    unknown = world.start(dagster_run="of-an-instance-that-is-gone")
    alive = world.start(dagster_run=dagster_run(instance, dg.DagsterRunStatus.STARTED))
    killed = world.start(
        dagster_run=dagster_run(instance, dg.DagsterRunStatus.STARTED, **{PROCESS_TAG: "gone.lock"})
    )
    elsewhere = world.client.create_experiment("somebody's own")
    somebodys = world.client.create_run(elsewhere).info.run_id
    notebook = world.client.create_run(dead.experiment_id).info.run_id

    assert "no training was left running" in words(model_sensors.abandoned_tick(world.settings, instance))
    monkeypatch.setattr(model_sensors, "utc_now", lambda: utc_now() + timedelta(minutes=61))
    tick = words(model_sensors.abandoned_tick(world.settings, instance))
    assert tick.startswith("closed as failed in MLflow: ")
    status = {
        name: world.client.get_run(run_id).info.status
        for name, run_id in {
            "dead": dead.run_id,
            "unknown": unknown.run_id,
            "alive": alive.run_id,
            "killed": killed.run_id,
            "somebody's": somebodys,
            "notebook": notebook,
        }.items()
    }
    assert status == {
        "dead": "FAILED",
        "unknown": "FAILED",
        "alive": "RUNNING",
        "killed": "FAILED",
        "somebody's": "RUNNING",
        "notebook": "FAILED",
    }
    reason = world.client.get_run(dead.run_id).data.tags["contrail.failure"]
    assert reason.startswith("left RUNNING for over 1 h, and the Dagster run")
    for run in (dead, unknown, killed):
        assert run.run_id in tick
    assert told == []


def test_the_definitions_hold_the_jobs_and_the_sensors(tmp_path: Path):
    from definitions import build_defs

    defs = build_defs(Settings(home=tmp_path))
    sensors = {sensor.name: sensor for sensor in defs.sensors or []}
    for name in ("mlflow_aliases", "mlflow_abandoned_runs"):
        assert sensors[name].description
        assert sensors[name].default_status == dg.DefaultSensorStatus.STOPPED  # an old year: a person decides
    live = build_defs(Settings(home=tmp_path, clock="system"))
    assert {
        sensor.name
        for sensor in live.sensors or []
        if sensor.default_status == dg.DefaultSensorStatus.RUNNING
    } >= {"mlflow_aliases", "mlflow_abandoned_runs"}
    for name in ("request_promotion", "decide_promotion", "roll_back"):
        assert defs.resolve_job_def(name).description
