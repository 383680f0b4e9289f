"""A run whose process is gone is closed; every other unfinished run is left alone."""

from __future__ import annotations

import dagster as dg
import pytest
from dagster._core.test_utils import create_run_for_test

from contrail.settings import Settings
from jobs.abandoned import PROCESS_TAG, close_abandoned, process_tags


@pytest.fixture
def instance():
    with dg.DagsterInstance.ephemeral() as instance:
        yield instance


def started(instance, **tags):
    return create_run_for_test(instance, job_name="ingest", status=dg.DagsterRunStatus.STARTED, tags=tags)


def status_of(instance, run):
    return instance.get_run_by_id(run.run_id).status


def test_a_run_of_a_living_process_goes_on(tmp_path, instance):
    settings = Settings(home=tmp_path)
    with process_tags(settings) as tags:
        run = started(instance, **tags)
        assert close_abandoned(settings, instance) == []
    assert status_of(instance, run) == dg.DagsterRunStatus.STARTED


def test_a_run_that_its_process_left_behind_has_failed(tmp_path, instance):
    settings = Settings(home=tmp_path)
    with process_tags(settings) as tags:
        run = started(instance, **tags)
    assert [gone.run_id for gone in close_abandoned(settings, instance)] == [run.run_id]
    assert status_of(instance, run) == dg.DagsterRunStatus.FAILURE
    assert close_abandoned(settings, instance) == []


def test_a_lock_file_that_nobody_holds_counts_as_gone(tmp_path, instance):
    """As a kill leaves it: the file is there, the lock is not."""
    settings = Settings(home=tmp_path)
    folder = settings.dagster_home / "processes"
    folder.mkdir(parents=True)
    (folder / "0.lock").touch()
    run = started(instance, **{PROCESS_TAG: "0.lock"})
    assert [gone.run_id for gone in close_abandoned(settings, instance)] == [run.run_id]


def test_runs_that_others_started_are_not_ours_to_judge(tmp_path, instance):
    run = started(instance)
    assert close_abandoned(Settings(home=tmp_path), instance) == []
    assert status_of(instance, run) == dg.DagsterRunStatus.STARTED
