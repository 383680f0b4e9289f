"""Ticks of the sensors that keep the tables up to date: what asks for a run, what does not, and the words for it."""

from __future__ import annotations

import json
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import dagster as dg
import pytest

from contrail import landing
from jobs import requests, sensors
from jobs.abandoned import PROCESS_TAG
from jobs.steps import Step, days_between
from tests.support.plan_world import DAILY, FEEDS, PlanWorld
from tests.support.ticks import END, START, asked, replayed, words

FIRST, LAST = "2013-01-01", "2013-01-04"


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


def landing_tick(world: PlanWorld, cursor: str | None = None) -> dg.SensorResult:
    tick = sensors.landing_tick(world.settings, cursor)
    assert isinstance(tick, dg.SensorResult), tick
    return tick


# --- landing -----------------------------------------------------------------------------------------------------


def test_landing_asks_once_for_every_table_and_then_is_quiet(world):
    world.land_reference()
    world.land_days(FIRST, LAST)
    first = landing_tick(world)
    assert sorted(asked(first)) == sorted(
        [
            *(("ingest", f"raw/{name}", f"{FIRST}..{LAST}") for name in DAILY),
            *(("reference", f"raw/{name}", "") for name in ("planes", "airports", "airlines")),
        ]
    )
    assert (
        words(sensors.landing_tick(world.settings, first.cursor)) == "no file has landed since the last tick"
    )


def test_the_reason_stands_in_the_request(world):
    world.land_days(FIRST, LAST, ["weather"])
    (request,) = landing_tick(world).run_requests or []
    assert request.tags["contrail/reason"] == "4 new file(s) for raw/weather"


def test_landing_asks_for_nothing_that_has_been_taken_in_though_it_never_asked(done):
    assert words(sensors.landing_tick(done.settings, None)) == "no file has landed since the last tick"


def test_a_file_of_the_same_instant_is_not_missed(world):
    world.land_days(FIRST, FIRST, ["weather"])
    first = landing_tick(world)
    second = world.land("weather", FIRST, "part two\n")  # delivered at the very same instant
    assert second.delivered_at == landing.deliveries(world.root, "weather")[0].delivered_at
    again = landing_tick(world, first.cursor)
    assert asked(again) == [("ingest", "raw/weather", f"{FIRST}..{FIRST}")]
    assert words(sensors.landing_tick(world.settings, again.cursor))


def test_a_file_that_says_it_is_older_is_not_missed(done):
    done.land_days("2012-12-30", "2012-12-31", ["weather"])
    assert asked(landing_tick(done)) == [("ingest", "raw/weather", "2012-12-30..2012-12-31")]


def test_changed_and_superseding_files_are_asked_for(done):
    done.land("weather", "2013-01-02", "corrected\n", hours_later=30, supersedes="a" * 64)
    changed = done.root / "flight_events" / "2013-01-03.manifest.json"
    changed.write_text(changed.read_text().replace('"rows": 1', '"rows": 2'))
    tick = landing_tick(done)
    assert asked(tick) == [
        ("ingest", "raw/flight_events", "2013-01-03..2013-01-03"),
        ("ingest", "raw/weather", "2013-01-02..2013-01-02"),
    ]
    assert words(sensors.landing_tick(done.settings, tick.cursor))


def test_a_tick_asks_for_ten_runs_at_most_and_the_next_goes_on(world):
    odd = days_between("2013-01-01", "2013-01-27")[::2]  # no two of them are neighbours
    world.widen("2013-01-01", "2013-01-27")
    for day in odd:
        world.land("weather", day, f"{day}\n")
    first = landing_tick(world)
    assert len(asked(first)) == requests.MOST_REQUESTS_PER_TICK == 10
    second = landing_tick(world, first.cursor)
    assert [days.partition("..")[0] for _, _, days in asked(first) + asked(second)] == odd
    keys = [run.run_key for run in [*(first.run_requests or []), *(second.run_requests or [])]]
    assert len(set(keys)) == len(odd)
    assert words(sensors.landing_tick(world.settings, second.cursor))


def test_the_cursor_forgets_what_has_been_taken_in(world):
    world.land_days(FIRST, LAST, ["weather"])
    first = landing_tick(world)
    assert len(json.loads(first.cursor)["weather"]) == 4
    world.take_in(["weather"], FIRST, LAST)
    after = landing_tick(world, first.cursor)
    assert (after.run_requests, json.loads(after.cursor)) == ([], {})
    assert "has been taken in" in words(after)


def test_a_file_put_back_is_asked_for_again_under_another_key(world):
    world.land_days(FIRST, FIRST, ["weather"])
    manifest = world.root / "weather" / f"{FIRST}.manifest.json"
    first = landing_tick(world)
    original = manifest.read_text()
    world.take_in(["weather"], FIRST)
    manifest.write_text(original.replace('"rows": 1', '"rows": 2'))
    second = landing_tick(world, first.cursor)
    world.take_in(["weather"], FIRST)
    manifest.write_text(original)
    third = landing_tick(world, second.cursor)
    assert asked(first) == asked(third)
    assert len({tick.run_requests[0].run_key for tick in (first, second, third)}) == 3


def test_files_outside_the_landed_range_have_no_partition_to_ask_for(done):
    done.land("weather", "2013-02-01", "x\n")
    assert words(sensors.landing_tick(done.settings, None))


# --- freshness ---------------------------------------------------------------------------------------------------


def test_before_anything_has_landed_freshness_says_so(world, instance):
    assert "nothing has landed" in words(sensors.freshness_tick(world.settings, instance))


def test_fresh_feeds_ask_for_nothing(done, instance):
    tick = sensors.freshness_tick(done.settings, instance)
    assert words(tick) == "every feed is as fresh as its contract promises"


def test_a_late_source_is_told_and_no_run_is_asked_for(done, instance):
    later = replayed(done, datetime(2013, 1, 8, tzinfo=UTC))
    said = words(sensors.freshness_tick(later, instance))
    assert said.startswith("source late: ")
    for feed in FEEDS:
        assert f"{feed}: newest delivery 2013-01-05 07:00Z, 65 h ago, 26 h allowed" in said
    assert "planes" not in said


def test_a_refresh_runs_only_where_something_newer_has_landed(done, instance):
    done.land_days("2013-01-05", "2013-01-05", ["weather"])
    later = replayed(done, datetime(2013, 1, 9, tzinfo=UTC))
    assert asked(sensors.freshness_tick(later, instance)) == [
        ("ingest", "raw/weather", "2013-01-05..2013-01-05")
    ]
    # Requests and reasons never come together: Dagster refuses such a tick.
    done.land("planes", "all", "more\n", hours_later=100)
    assert {job for job, _, _ in asked(sensors.freshness_tick(later, instance))} == {"ingest", "reference"}


# --- refresh -----------------------------------------------------------------------------------------------------


def run_of(instance: dg.DagsterInstance, job: str, tags: dict[str, str], *, fails: bool) -> None:
    @dg.op
    def act() -> None:
        if fails:
            raise dg.Failure("as asked", allow_retries=False)

    @dg.job(name=job)
    def named() -> None:
        act()

    named.execute_in_process(instance=instance, tags=tags, raise_on_error=False)


def test_refresh_asks_for_the_first_stage_that_has_work(done, instance):
    done.take_in(["weather"], "2013-01-02")
    assert asked(requests.run_requests(done.settings, instance)) == [("clean", "", "2013-01-02..2013-01-02")]


def test_refresh_says_what_stands_in_the_way(done, instance):
    done.take_in(["weather"], "2013-01-02", blocked={"2013-01-02": ["damaged"]})
    said = words(requests.run_requests(done.settings, instance))
    assert said.startswith("nothing is due; blocked: raw/weather: 2013-01-02; ")
    assert "too few training days" in said


def test_while_a_run_is_under_way_nothing_more_is_asked_for(done, instance):
    done.take_in(["weather"], "2013-01-02")

    @dg.job(name="clean")
    def clean() -> None:
        pass

    instance.create_run_for_job(clean, status=dg.DagsterRunStatus.STARTED)
    assert "of clean is under way" in words(requests.run_requests(done.settings, instance))


def test_a_step_that_has_just_failed_is_left_alone_for_a_while(done, instance, monkeypatch):
    done.take_in(["weather"], "2013-01-02")
    (tags,) = [request.tags for request in requests.run_requests(done.settings, instance)]
    run_of(instance, "clean", tags, fails=True)
    said = words(requests.run_requests(done.settings, instance))
    assert said.startswith("failed less than 30 minutes ago, not asked for again yet: ")
    assert said.endswith("of clean 2013-01-02")
    monkeypatch.setattr(requests, "RETRY_AFTER", timedelta(0))
    assert asked(requests.run_requests(done.settings, instance))


def test_a_failure_of_other_days_or_one_that_was_mended_holds_nothing_back(done, instance):
    done.take_in(["weather"], "2013-01-02")
    (tags,) = [request.tags for request in requests.run_requests(done.settings, instance)]
    run_of(instance, "clean", {**tags, START: FIRST, END: FIRST}, fails=True)
    assert asked(requests.run_requests(done.settings, instance))
    run_of(instance, "clean", tags, fails=True)
    run_of(instance, "clean", tags, fails=False)
    assert asked(requests.run_requests(done.settings, instance))
    run_of(instance, "clean", {**tags, PROCESS_TAG: "of a command that was killed"}, fails=True)
    assert asked(requests.run_requests(done.settings, instance))


def test_a_request_names_job_assets_days_and_reason():
    made = requests.request(Step("ingest", "why", FIRST, LAST, ("raw/weather",)), run_key="key")
    assert (made.job_name, made.run_key) == ("ingest", "key")
    assert made.asset_selection == [dg.AssetKey(["raw", "weather"])]
    assert made.tags == {"contrail/reason": "why", START: FIRST, END: LAST}
    assert requests.request(Step("features", "why")).asset_selection is None
