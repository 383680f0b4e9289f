"""Up to which instant the feeds are complete: the least end of the feeds that bound it."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

import pyarrow as pa
import pytest

from contrail import completeness
from contrail.lake import Commit, Lake
from tests.support import contract_files as files

DAY_2, DAY_3, DAY_4 = (datetime(2024, 3, day, 7, tzinfo=UTC) for day in (2, 3, 4))
ROWS = pa.table({"x": pa.array([1], pa.int64())})


@pytest.fixture
def lake(tmp_path: Path) -> Lake:
    return Lake(tmp_path / "lake")


@pytest.fixture
def contracts(tmp_path: Path):
    bounding = files.contract(tmp_path)
    return {
        "readings": bounding,
        "alarms": replace(bounding, table="alarms"),
        "stations": replace(bounding, table="stations", bounds_completeness=False),
    }


def accept(lake: Lake, name: str, until: datetime | None) -> None:
    table = f"raw/{name}"
    facts = {completeness.ACCEPTED_UNTIL: until.isoformat()} if until else {}
    lake.create(table, ROWS.schema)
    lake.append(table, ROWS, Commit(table, "run", ("sha256:ab",), extra=facts))


def test_the_least_end_holds_the_others_back(lake, contracts):
    accept(lake, "readings", DAY_4)
    accept(lake, "alarms", DAY_3)
    found = completeness.complete_until(lake, contracts)
    assert found.until == DAY_3
    assert found.by_feed == {"readings": DAY_4, "alarms": DAY_3}


def test_a_feed_that_does_not_bound_counts_for_nothing(lake, contracts):
    accept(lake, "readings", DAY_3)
    accept(lake, "alarms", DAY_3)
    accept(lake, "stations", DAY_2)
    assert completeness.complete_until(lake, contracts).until == DAY_3


def test_until_every_bounding_feed_has_come_nothing_is_complete(lake, contracts):
    accept(lake, "readings", DAY_4)
    found = completeness.complete_until(lake, contracts)
    assert found.until is None
    assert found.by_feed == {"readings": DAY_4, "alarms": None}


def test_a_feed_of_which_only_blocked_files_came_has_no_end(lake, contracts):
    accept(lake, "readings", DAY_4)
    accept(lake, "alarms", None)
    assert completeness.complete_until(lake, contracts).until is None


def test_an_older_file_that_comes_later_does_not_move_the_end_back(lake):
    for until in (DAY_4, DAY_2):
        accept(lake, "readings", until)
    assert completeness.accepted_until(lake, "raw/readings") == DAY_4


def test_without_bounding_feeds_there_is_no_end(lake, contracts):
    accept(lake, "stations", DAY_4)
    assert completeness.complete_until(lake, {"stations": contracts["stations"]}).until is None
