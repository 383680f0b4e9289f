"""Landing and running feed day by feed day gives, bitwise, the rows of the whole-range build."""

from __future__ import annotations

from datetime import date, timedelta

import pytest

from tests.support.whole_graph import Home, all_succeeded, days, part_of_package

pytestmark = pytest.mark.slow

# Over the end of a month, where feature tables begin a new partition, and over the night of the 10th of March, when
# clocks go forward. Twelve days and not three weeks because a day costs 20 CPU seconds; 21 days from 2013-02-22 on gave
# the same answer when they were tried.
FIRST, COUNT = date(2013, 2, 28), 12
DAYS = days(FIRST, COUNT)
STAGES = ("raw", "quarantine", "clean", "feature")


@pytest.fixture(scope="module")
def source(tmp_path_factory):
    """With days before and after those that are landed, as any source has them."""
    folder = tmp_path_factory.mktemp("day_by_day") / "source"
    return part_of_package(folder, FIRST - timedelta(days=2), DAYS[-1] + timedelta(days=2))


@pytest.fixture(scope="module")
def at_once(tmp_path_factory, source) -> dict[str, str]:
    home = Home(tmp_path_factory.mktemp("at_once"))
    home.land(source, FIRST, DAYS[-1])
    all_succeeded(home.run_to_features())
    return home.content(*STAGES)


@pytest.fixture(scope="module")
def day_by_day(tmp_path_factory, source) -> Home:
    home = Home(tmp_path_factory.mktemp("day_by_day"))
    home.ran = []
    for day in DAYS:
        home.land(source, FIRST, day)
        reports = home.run_to_features()
        all_succeeded(reports)
        home.ran.append([report.job for report in reports])
    return home


def test_every_day_ran_through_every_stage(day_by_day):
    """Otherwise this would compare two builds of the whole range."""
    assert len(day_by_day.ran) == COUNT
    assert all({"ingest", "clean", "features"} <= set(jobs) for jobs in day_by_day.ran)
    commits = [record for record in day_by_day.lake.commits("feature/origin_state") if record.inputs]
    assert len(commits) == COUNT


@pytest.mark.parametrize("stage", STAGES)
def test_the_rows_are_those_of_the_build_at_once(at_once, day_by_day, stage):
    expected = {name: found for name, found in at_once.items() if name.startswith(f"{stage}/")}
    assert len(expected) >= 5
    assert day_by_day.content(stage) == expected
