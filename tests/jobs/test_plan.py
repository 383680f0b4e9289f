"""What is due: read off manifests and commits, stage by stage, and nothing when all is done."""

from __future__ import annotations

from datetime import timedelta
from pathlib import Path

import pytest

from contrail.feast_config import online_place
from contrail.lake import CommitRecord
from contrail.settings import Settings
from contrail.view_freshness import ONLINE_PLACE
from features.tables import FEATURE_TABLES
from jobs.plan import plan
from jobs.steps import Step, contiguous, days_between, partition_days
from tests.support.plan_world import DAILY, FEEDS, REFERENCE, PlanWorld, feed_day_ends

FIRST, LAST = "2013-01-01", "2013-01-04"


@pytest.fixture
def world(tmp_path: Path) -> PlanWorld:
    return PlanWorld(tmp_path / "home")


@pytest.fixture
def done(world: PlanWorld) -> PlanWorld:
    world.everything_done(FIRST, LAST)
    return world


def due(world: PlanWorld) -> list[tuple[str, str]]:
    return [(step.job, step.days) for step in plan(world.settings).steps]


# --- days --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("days", "ranges"),
    [
        ([], []),
        (["2013-01-05"], [("2013-01-05", "2013-01-05")]),
        (["2013-01-31", "2013-02-01", "2013-02-02"], [("2013-01-31", "2013-02-02")]),
        (["2013-01-05", "2013-01-03", "2013-01-04", "2013-01-04"], [("2013-01-03", "2013-01-05")]),
        (
            ["2013-01-01", "2013-01-03", "2013-01-04"],
            [("2013-01-01", "2013-01-01"), ("2013-01-03", "2013-01-04")],
        ),
        (["2013-12-31", "2014-01-01"], [("2013-12-31", "2014-01-01")]),
    ],
)
def test_contiguous_ranges_hold_exactly_the_days(days, ranges):
    assert contiguous(days) == ranges
    assert sorted({day for first, last in contiguous(days) for day in days_between(first, last)}) == sorted(
        set(days)
    )


@pytest.mark.parametrize(
    ("partition", "days"),
    [
        ("2013-02-27..2013-03-01", ["2013-02-27", "2013-02-28", "2013-03-01"]),
        ("2013-01-02", ["2013-01-02"]),
        ("all", []),
        ("", []),
    ],
)
def test_the_days_of_a_commit(partition, days):
    at = feed_day_ends(FIRST)
    record = CommitRecord(1, at, "WRITE", "raw/x", "run", partition, (), "1", "abc", 0, {})
    assert partition_days(record) == days


def test_a_step_in_words_and_tags():
    one_day, span, whole = Step("a", "why", FIRST, FIRST), Step("a", "why", FIRST, LAST), Step("a", "w" * 300)
    assert (one_day.days, span.days, whole.days) == (FIRST, f"{FIRST}..{LAST}", "")
    assert span.tags == {
        "contrail/reason": "why",
        "dagster/asset_partition_range_start": FIRST,
        "dagster/asset_partition_range_end": LAST,
    }
    assert whole.tags == {"contrail/reason": "w" * 200}


# --- the way through the graph -----------------------------------------------------------------------------------


def test_before_anything_has_landed_nothing_is_due(world):
    assert plan(world.settings).steps == ()


def test_a_first_start_goes_stage_by_stage(world):
    world.land_reference()
    world.land_days(FIRST, LAST)
    assert due(world) == [("reference", ""), ("ingest", f"{FIRST}..{LAST}")]
    (reference, ingest) = plan(world.settings).steps
    assert set(ingest.assets) == {f"raw/{name}" for name in DAILY}
    assert {asset for asset in reference.assets if asset.startswith("clean/")} == {
        "clean/aircraft", "clean/airports", "clean/carriers",
    }  # fmt: skip
    world.take_in(DAILY, FIRST, LAST)
    assert due(world) == [("reference", "")]
    world.take_in(REFERENCE, "all")
    assert due(world) == [("reference", "")], "raw was written and clean was not: killed in between"
    world.build_reference()
    assert due(world) == [("clean", f"{FIRST}..{LAST}")]
    world.build_clean(FIRST, LAST)
    assert due(world) == [("features", "")]
    world.build_features(feed_day_ends(LAST))
    assert due(world) == [("features", "")], "the online store is not there yet"
    world.materialise()
    assert due(world) == []


def test_after_a_run_nothing_is_due_and_what_cannot_be_done_is_said(done):
    found = plan(done.settings)
    assert (found.steps, found.blocked) == ((), {})
    assert [note for note in found.notes if "too few training days" in note]


def test_a_new_day_makes_due_what_it_touches(done):
    done.land_days("2013-01-05", "2013-01-05")
    assert due(done) == [("ingest", "2013-01-05")]
    done.take_in(DAILY, "2013-01-05")
    # Its own service date, and the two before, whose last arrivals it brings.
    assert due(done) == [("clean", "2013-01-03..2013-01-05")]
    done.build_clean("2013-01-03", "2013-01-05")
    (step,) = plan(done.settings).steps
    assert (step.job, "complete until 2013-01-06 07:00Z" in step.reason) == ("features", True)


def test_tables_with_other_days_waiting_get_runs_of_their_own(done):
    done.land_days("2013-01-05", "2013-01-06", ["flight_schedules"])
    done.land_days("2013-01-05", "2013-01-05", FEEDS)
    assert due(done) == [("ingest", "2013-01-05"), ("ingest", "2013-01-05..2013-01-06")]


@pytest.mark.parametrize(
    ("table", "touched"),
    [
        ("flight_schedules", "2013-01-03"),
        ("aircraft_assignments", "2013-01-02..2013-01-04"),
        ("flight_events", "2013-01-01..2013-01-04"),
        ("weather", "2013-01-03"),
    ],
)
def test_newer_raw_rows_of_a_day_make_the_days_that_read_them_stale(done, table, touched):
    done.take_in([table], "2013-01-03")
    assert due(done) == [("clean", touched)]
    first, _, last = touched.partition("..")
    done.build_clean(first, last or first)
    assert ("clean", touched) not in due(done)


def test_departures_without_what_was_rejected_of_them_are_due_again(done):
    """A run that was killed between the two writes must not lose the rejected facts."""
    done.take_in(["flight_events"], FIRST)
    done.build_clean(FIRST, LAST, killed_before_the_rejected=True)
    assert due(done) == [("clean", "2013-01-01..2013-01-02")]
    done.build_clean(FIRST, LAST)
    assert "clean" not in {job for job, _ in due(done)}


def test_stale_days_that_are_no_neighbours_are_two_runs(done):
    done.take_in(["weather"], "2013-01-01")
    done.take_in(["flight_schedules"], "2013-01-04")
    assert due(done) == [("clean", "2013-01-01"), ("clean", "2013-01-04")]


# --- files -------------------------------------------------------------------------------------------------------


def test_a_superseding_file_makes_its_day_due_again(done):
    base = done.root / "weather" / "2013-01-02.csv.gz"
    assert base.is_file()
    done.land("weather", "2013-01-02", "corrected\n", hours_later=30, supersedes="a" * 64)
    assert due(done) == [("ingest", "2013-01-02")]


def test_a_file_put_in_the_place_of_another_makes_its_day_due_again(done):
    path = done.root / "weather" / "2013-01-02.manifest.json"
    path.write_text(path.read_text().replace('"rows": 1', '"rows": 2'))
    assert due(done) == [("ingest", "2013-01-02")]
    done.take_in(["weather"], "2013-01-02")
    assert ("ingest", "2013-01-02") not in due(done)


def test_files_of_two_days_without_rows_are_two_files(done):
    one = done.land("weather", "2013-01-05")
    other = done.land("weather", "2013-01-06")
    done.widen("2013-01-05", "2013-01-06")
    assert one.sha256 == other.sha256
    done.take_in(["weather"], "2013-01-05")
    assert due(done) == [("ingest", "2013-01-06")]


def test_a_new_reference_file_takes_its_clean_table_along(done):
    done.land("planes", "all", "more\n", hours_later=100)
    (step,) = plan(done.settings).steps
    assert (step.job, step.assets) == ("reference", ("raw/planes", "clean/aircraft"))


def test_files_of_days_outside_the_landed_range_wait_and_are_told_of(done):
    done.land("weather", "2013-02-01", "x\n")
    done.land("weather", "2012-12-31", "x\n")
    found = plan(done.settings)
    assert found.steps == ()
    assert any("files of 2012-12-31, 2013-02-01 lie outside the landed range" in note for note in found.notes)
    # In life the range has no end, so the newer file can be taken in.
    live = Settings(home=done.settings.home, clock="system")
    assert [(step.job, step.days) for step in plan(live).steps] == [("ingest", "2013-02-01")]


# --- blocked -----------------------------------------------------------------------------------------------------


def test_a_blocked_day_is_left_out_the_others_go_on(world):
    world.land_reference()
    world.land_days(FIRST, LAST)
    world.take_in(REFERENCE, "all")
    world.build_reference()
    world.take_in(FEEDS, FIRST, LAST)
    world.take_in(["flight_schedules"], FIRST, LAST, blocked={"2013-01-02": ["damaged"]})
    found = plan(world.settings)
    assert [(step.job, step.days) for step in found.steps] == [
        ("clean", FIRST),
        ("clean", "2013-01-03..2013-01-04"),
    ]
    assert found.blocked == {"flight_schedules": {"2013-01-02": ["damaged"]}}
    world.build_clean(FIRST, FIRST)
    world.build_clean("2013-01-03", LAST)
    assert "clean" not in {step.job for step in plan(world.settings).steps}


def test_after_a_blocked_file_was_replaced_its_day_goes_through(done):
    done.land_days("2013-01-05", "2013-01-05")
    done.take_in(DAILY, "2013-01-05", blocked={"2013-01-05": ["damaged"]})
    assert ("clean", "2013-01-05") not in due(done)
    done.land("weather", "2013-01-05", "whole\n", hours_later=5)
    assert due(done) == [("ingest", "2013-01-05")]
    done.take_in(DAILY, "2013-01-05")
    assert due(done) == [("clean", "2013-01-03..2013-01-05")]
    assert plan(done.settings).blocked == {}


def test_a_blocked_reference_file_does_not_make_its_clean_table_due(done):
    done.land("planes", "all", "bad\n", hours_later=100)
    done.take_in(["planes"], "all", blocked={"all": ["damaged"]})
    assert due(done) == []


# --- features ----------------------------------------------------------------------------------------------------


def test_features_wait_for_every_bounding_feed(world):
    world.land_reference()
    world.land_days(FIRST, LAST)
    world.take_in(REFERENCE, "all")
    world.build_reference()
    world.take_in(DAILY, FIRST, LAST, blocked={day: ["damaged"] for day in days_between(FIRST, LAST)})
    world.build_clean(FIRST, LAST)
    assert due(world) == []


def test_features_reach_up_to_the_least_feed_and_never_beyond_now(done):
    done.land_days("2013-01-05", "2013-01-05")
    done.take_in(["weather", "aircraft_assignments", "flight_schedules"], "2013-01-05")
    done.take_in(["flight_events"], "2013-01-05", blocked={"2013-01-05": ["damaged"]})
    done.build_clean("2013-01-03", "2013-01-04")
    # Clean rows are newer, and may hold corrections; but events end where they did.
    newer = f"clean rows newer than {len(FEATURE_TABLES)} feature tables"
    assert [step.reason for step in plan(done.settings).steps] == [newer]
    before = Settings(
        home=done.settings.home, clock="replay", replay_at=feed_day_ends("2013-01-03") - timedelta(hours=1)
    )
    assert [step.reason for step in plan(before).steps] == [newer]
    done.build_features(feed_day_ends(LAST))
    done.materialise()
    assert due(done) == []


def test_newer_clean_rows_make_the_features_due_that_read_them(done):
    """A correction moves no end of a feed: it shows in clean rows that are newer than the features."""
    done.build_clean(FIRST, FIRST)
    (step,) = plan(done.settings).steps
    assert (step.job, step.reason) == (
        "features", f"clean rows newer than {len(FEATURE_TABLES)} feature tables",
    )  # fmt: skip


def test_a_newer_feature_table_makes_the_online_store_due(done):
    done.build_features(feed_day_ends(LAST))
    (step,) = plan(done.settings).steps
    assert (step.job, step.reason) == ("features", "feature tables newer than the online store")


def test_another_online_store_than_was_filled_is_due(done):
    refs = [done.lake.ref(f"feature/{name}") for name in FEATURE_TABLES]
    done.settings.online_store_path.touch()
    done.commit("feature_store/online", refs, "", {ONLINE_PLACE: online_place(done.settings)})
    assert due(done) == []
    switched = Settings(
        home=done.settings.home, online_store="redis", redis_url="redis://:s3cret@cache.example/3"
    )
    (step,) = plan(switched).steps
    reason = "the online store is redis cache.example:6379/3, and another one was filled"
    assert (step.job, step.reason) == ("features", reason)
    done.settings.online_store_path.unlink()
    (step,) = plan(done.settings).steps
    assert "online_store.db, which is missing" in step.reason


def test_features_reach_no_further_than_the_newest_delivery(done):
    """A file that is delivered before its feed day ends makes the feed complete beyond what anyone can know."""
    ends = feed_day_ends("2013-01-05")
    done.land_days("2013-01-05", "2013-01-05")
    done.take_in(DAILY, "2013-01-05")
    done.build_clean("2013-01-03", "2013-01-05")
    early = done.root / "range.json"
    early.write_text(
        early.read_text().replace(f"{ends:%Y-%m-%dT%H}", f"{ends - timedelta(hours=3):%Y-%m-%dT%H}")
    )
    live = Settings(home=done.settings.home, clock="system")
    (step,) = plan(live).steps
    assert step.reason.startswith(f"complete until {ends - timedelta(hours=3):%Y-%m-%d %H:%M}Z")
