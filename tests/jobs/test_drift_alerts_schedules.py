"""Ticks of drift, alerts and schedules, and how Dagster sees all of them."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import replace
from datetime import UTC, date, datetime
from pathlib import Path

import dagster as dg
import pyarrow as pa
import pytest

from contrail import alerts, monitoring
from contrail.lake import Commit
from contrail.settings import Settings
from feature_repo.use_cases import DEFAULT_USE_CASE, USE_CASES
from jobs import schedules, sensors
from tests.support.plan_world import PlanWorld
from tests.support.ticks import END, START, replayed, words

FIRST, LAST = "2013-01-01", "2013-01-04"
USE_CASE = USE_CASES[DEFAULT_USE_CASE]


@pytest.fixture
def world(tmp_path: Path) -> PlanWorld:
    return PlanWorld(tmp_path / "home")


@pytest.fixture
def done(world: PlanWorld) -> PlanWorld:
    world.everything_done(FIRST, LAST)
    return world


@pytest.fixture
def instance() -> Iterator[dg.DagsterInstance]:
    with dg.DagsterInstance.ephemeral() as made:
        yield made


# --- drift -------------------------------------------------------------------------------------------------------


def report(world: PlanWorld, *biases: float, rows: int = 500) -> None:
    """A performance report of consecutive complete 14-day windows with these biases."""
    table = f"monitor/{USE_CASE.name}/performance"
    start = date(2013, 9, 1)
    made = [
        {
            "use_case": USE_CASE.name,
            "window_kind": monitoring.FORTNIGHT,
            "window_start": start + monitoring.WINDOW * n,
            "window_end": start + monitoring.WINDOW * (n + 1),
            "is_complete": True,
            "rows": rows,
            "rows_waiting": 0,
            "bias": bias,
        }
        for n, bias in enumerate(biases)
    ]
    world.lake.create(table, monitoring.WINDOWS_SCHEMA)
    rows_table = pa.Table.from_pylist(made, monitoring.WINDOWS_SCHEMA)
    world.lake.replace_partitions(table, rows_table, Commit(table, "run", ("x@v1",)), where="true")


def drift_tick(world: PlanWorld, at: str, cursor: str | None = None) -> dg.SensorResult | dg.SkipReason:
    return sensors.drift_tick(replayed(world, datetime.fromisoformat(at)), USE_CASE, cursor)


def test_without_a_report_there_is_nothing_to_judge(world):
    assert "has not been materialised" in words(drift_tick(world, "2013-10-05T00:00Z"))


def test_one_window_off_is_no_alarm(world):
    report(world, 0.01, 0.08)
    assert "within the limit" in words(drift_tick(world, "2013-10-05T00:00Z"))


def test_an_alarm_asks_for_one_training_with_the_reason(world):
    report(world, 0.01, 0.08, -0.05)
    tick = drift_tick(world, "2013-10-15T00:00Z")
    assert isinstance(tick, dg.SensorResult)
    (request,) = tick.run_requests or []
    assert (
        "2013-09-15..2013-09-29: +0.080 of 500 rows, 2013-09-29..2013-10-13: -0.050"
        in request.tags["contrail/reason"]
    )
    assert request.run_key is not None
    assert request.run_key.startswith("drift:late_flight_2h:2013-10-13:")
    assert tick.cursor == "2013-10-15T00:00:00+00:00"


def test_within_the_cool_down_it_says_so_and_afterwards_it_asks_again(world):
    report(world, 0.05, 0.08)
    first = drift_tick(world, "2013-10-01T00:00Z")
    assert isinstance(first, dg.SensorResult)
    said = words(drift_tick(world, "2013-10-06T12:00Z", first.cursor))
    assert "a retraining was asked for 5.5 days ago, cool-down 14 days" in said
    assert "beyond ±0.03" in said
    again = drift_tick(world, "2013-10-15T00:00Z", first.cursor)
    assert isinstance(again, dg.SensorResult)
    assert [r.run_key for r in again.run_requests or []] != [r.run_key for r in first.run_requests or []]


def test_the_drift_sensor_trains_its_own_use_case(world):
    made = {sensor.name: sensor for sensor in sensors.build(world.settings, [])}
    assert made[f"drift_{USE_CASE.name}"].job_name == f"train_{USE_CASE.name}"


# --- alerts ------------------------------------------------------------------------------------------------------


@pytest.fixture
def sent(monkeypatch) -> list[alerts.Alert]:
    found: list[alerts.Alert] = []
    monkeypatch.setattr(sensors, "send", lambda settings, alert: found.append(alert))
    return found


def blocked_tick(world: PlanWorld, cursor: str | None = None) -> dg.SensorResult | dg.SkipReason:
    return sensors.blocked_tick(world.settings, cursor)


def test_a_blocked_partition_is_told_once_with_its_reason(done, sent):
    assert "no partition was blocked" in words(blocked_tick(done))
    done.take_in(
        ["weather"], FIRST, LAST, blocked={"2013-01-02": ["file x: damaged"], "2013-01-03": ["file y: empty"]}
    )
    first = blocked_tick(done)
    (alert,) = sent
    assert alert.title == "2 partition(s) blocked"
    assert alert.text == "raw/weather:2013-01-02: file x: damaged\nraw/weather:2013-01-03: file y: empty"
    assert words(first) == "2 alert(s) sent"
    assert isinstance(first, dg.SensorResult)
    assert "no partition was blocked" in words(blocked_tick(done, first.cursor))
    assert len(sent) == 1


def test_a_block_that_is_lifted_is_forgotten_and_told_again_when_it_comes_back(done, sent):
    done.take_in(["weather"], "2013-01-02", blocked={"2013-01-02": ["damaged"]})
    first = blocked_tick(done)
    done.take_in(["weather"], "2013-01-02")
    lifted = blocked_tick(done, first.cursor)
    assert (words(lifted), json.loads(lifted.cursor)) == ("a block was lifted", [])
    done.take_in(["weather"], "2013-01-02", blocked={"2013-01-02": ["damaged"]})
    blocked_tick(done, lifted.cursor)
    assert len(sent) == 2


def test_an_alert_that_was_not_taken_is_sent_again_on_the_next_tick(done, monkeypatch):
    def refuse(settings: Settings, alert: alerts.Alert) -> None:
        raise alerts.AlertError("an alert target did not take the message")

    done.take_in(["weather"], "2013-01-02", blocked={"2013-01-02": ["damaged"]})
    monkeypatch.setattr(sensors, "send", refuse)
    with pytest.raises(alerts.AlertError):
        blocked_tick(done)
    found: list[alerts.Alert] = []
    monkeypatch.setattr(sensors, "send", lambda settings, alert: found.append(alert))
    blocked_tick(done)
    assert len(found) == 1


def test_a_failed_run_is_told_with_job_and_run(done, instance, sent):
    @dg.op
    def act() -> None:
        raise dg.Failure("no space left", allow_retries=False)

    @dg.job(name="clean")
    def clean() -> None:
        act()

    result = clean.execute_in_process(instance=instance, raise_on_error=False)
    context = dg.build_run_status_sensor_context(
        sensor_name="alert_run_failed",
        dagster_event=result.get_run_failure_event(),
        dagster_instance=instance,
        dagster_run=result.dagster_run,
    ).for_run_failure()
    (sensor,) = [s for s in sensors.build(done.settings, []) if s.name == "alert_run_failed"]
    sensor(context)
    (alert,) = sent
    assert alert.title == "run failed"
    assert alert.text.startswith(f"clean ({result.run_id[:8]}): ")


# --- schedules ---------------------------------------------------------------------------------------------------


def schedule_tick(world: PlanWorld, name: str, instance: dg.DagsterInstance) -> object:
    (schedule,) = [s for s in schedules.build(world.settings) if s.name == name]
    return schedule(dg.build_schedule_context(instance=instance))


def test_the_daily_schedule_takes_the_new_day_and_those_it_completes(done, instance):
    assert "nothing is due" in words(schedule_tick(done, "daily", instance))
    done.land_days("2013-01-05", "2013-01-05")
    request = schedule_tick(done, "daily", instance)
    assert isinstance(request, dg.RunRequest)
    assert (request.tags[START], request.tags[END]) == ("2013-01-03", "2013-01-05")
    assert "new files for" in request.tags["contrail/reason"]
    assert request.run_key == "daily:2013-01-05:2013-01-06T07:00:00+00:00"


def test_the_daily_schedule_does_not_reach_before_the_first_day(world, instance):
    world.land_days(FIRST, FIRST)
    request = schedule_tick(world, "daily", instance)
    assert isinstance(request, dg.RunRequest)
    assert (request.tags[START], request.tags[END]) == (FIRST, FIRST)


def test_the_scoring_schedule_asks_only_for_scores(done, tmp_path):
    instance = dg.DagsterInstance.local_temp(
        str(tmp_path)
    )  # a schedule's context wants one that it can find again
    name = f"score_{USE_CASE.name}_due"
    assert "nothing is due" in words(schedule_tick(done, name, instance))
    done.take_in(["weather"], "2013-01-02")
    assert "nothing is due" in words(schedule_tick(done, name, instance)), "what lies upstream comes first"


# --- as Dagster sees them ------------------------------------------------------------------------------------------


def test_over_an_old_year_everything_is_off_and_in_life_it_is_on(world):
    live = Settings(home=world.settings.home, clock="system")
    for settings, running in ((world.settings, False), (live, True)):
        for sensor in sensors.build(settings, []):
            assert (sensor.default_status is dg.DefaultSensorStatus.RUNNING) is running, sensor.name
        for schedule in schedules.build(settings):
            assert (schedule.default_status is dg.DefaultScheduleStatus.RUNNING) is running, schedule.name


def test_every_sensor_evaluates_as_dagster_calls_it(done, instance, sent):
    """A tick that Dagster would refuse (a reason beside requests, an unknown job) fails here."""
    from definitions import build_defs

    done.land_days("2013-01-05", "2013-01-05")
    done.take_in(["weather"], "2013-01-02", blocked={"2013-01-02": ["damaged"]})
    repository = build_defs(done.settings).get_repository_def()
    requested: dict[str, int] = {}
    for sensor in repository.sensor_defs:
        if isinstance(sensor, dg.RunStatusSensorDefinition):
            continue
        with dg.build_sensor_context(
            instance=instance, repository_def=repository, sensor_name=sensor.name
        ) as context:
            requested[sensor.name] = len(sensor.evaluate_tick(context).run_requests or [])
    assert requested == {
        "landing": 4,
        "raw_freshness": 1,
        "refresh": 1,
        **{f"drift_{name}": 0 for name in USE_CASES},
        "alert_partition_blocked": 0,
        "mlflow_aliases": 0,
        "mlflow_abandoned_runs": 0,
    }


def test_the_alarm_limit_is_the_use_cases(world):
    report(world, 0.05, 0.08)
    lax = replace(USE_CASE, criteria=replace(USE_CASE.criteria, alarm_bias=0.1))
    assert "within the limit" in words(
        sensors.drift_tick(replayed(world, datetime(2013, 10, 5, tzinfo=UTC)), lax, None)
    )
