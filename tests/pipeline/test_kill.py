"""kill -9 in the middle of the graph, then the same command: the rows of an undisturbed run."""

from __future__ import annotations

import contextlib
import os
import signal
import time
from collections.abc import Callable
from datetime import date, timedelta
from pathlib import Path

import dagster as dg
import pytest

from jobs.abandoned import UNFINISHED
from jobs.requests import run_requests
from tests.support.whole_graph import Home, part_of_package

pytestmark = pytest.mark.slow

FIRST, LAST = date(2013, 3, 4), date(2013, 3, 6)
STAGES = ("raw", "quarantine", "clean", "feature")
PATIENCE_SECONDS = 300


@pytest.fixture(scope="module")
def source(tmp_path_factory) -> Path:
    return part_of_package(tmp_path_factory.mktemp("kill") / "source", FIRST, LAST + timedelta(days=1))


class Undisturbed:
    """What a run from beginning to end leaves, and each version of each table on the way."""

    def __init__(self, home: Home) -> None:
        self.content = home.content(*STAGES)
        self.versions = {
            name: {home.lake.content_hash(name, version) for version in range(home.lake.version(name) + 1)}
            for name in self.content
        }


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory, source) -> Undisturbed:
    home = Home(tmp_path_factory.mktemp("undisturbed"))
    home.contrail(*command(source))
    return Undisturbed(home)


def command(source: Path) -> list[str]:
    return ["run", "--source", str(source), "--to", LAST.isoformat()]


def files_of(home: Home, table: str) -> bool:
    """Whether a data file of the table lies there, committed or not."""
    return any((home.settings.lake_root / table).glob("**/*.parquet"))


MOMENTS: dict[str, Callable[[Home], bool]] = {
    "a daily raw table is being written": lambda home: (
        files_of(home, "quarantine/flight_events") or files_of(home, "raw/flight_events")
    ),
    "departures are being built": lambda home: files_of(home, "clean/departures"),
    "half of the feature tables are there": lambda home: len(home.tables("feature")) >= 6,
}


def kill_when(home: Home, source: Path, has_come: Callable[[Home], bool]) -> None:
    """Run the command until the moment has come, then end it and all that it started, without a word."""
    running = home.command(*command(source))
    try:
        deadline = time.monotonic() + PATIENCE_SECONDS
        while not has_come(home):
            if running.poll() is not None:
                pytest.fail(f"the command ended before the moment came:\n{running.communicate()}")
            assert time.monotonic() < deadline, "the moment never came"
            time.sleep(0.002)
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(running.pid, signal.SIGKILL)
        running.communicate()


def unfinished_runs(home: Home) -> list[dg.DagsterRun]:
    with dg.DagsterInstance.from_config(str(home.settings.dagster_home)) as instance:
        return list(instance.get_runs(dg.RunsFilter(statuses=UNFINISHED)))


def sensors_wait_for_a_run(home: Home) -> bool:
    with dg.DagsterInstance.from_config(str(home.settings.dagster_home)) as instance:
        answer = run_requests(home.settings, instance)
    return isinstance(answer, dg.SkipReason) and "under way" in str(answer.skip_message)


@pytest.mark.parametrize("moment", MOMENTS)
def test_after_a_kill_the_same_command_gives_the_same_rows(tmp_path, source, undisturbed, moment):
    home = Home(tmp_path / "home")
    kill_when(home, source, MOMENTS[moment])
    left = home.content(*STAGES)
    assert left != undisturbed.content, "killed too late: everything had been done"
    half_done = {name for name, found in left.items() if found not in undisturbed.versions[name]}
    assert half_done == set(), "readers see what no commit of an undisturbed run shows"
    assert len(unfinished_runs(home)) == 1
    home.contrail(*command(source))
    assert home.content(*STAGES) == undisturbed.content
    assert unfinished_runs(home) == []


def test_a_killed_run_does_not_hold_up_the_sensors(tmp_path, source):
    home = Home(tmp_path / "home")
    kill_when(home, source, lambda home: bool(home.tables("raw")))
    assert len(unfinished_runs(home)) == 1
    assert not sensors_wait_for_a_run(home)
    assert unfinished_runs(home) == []
