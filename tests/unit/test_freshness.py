"""Freshness: what a run can mend, what it cannot, and what the contract promises."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from datetime import timedelta
from pathlib import Path

import pytest

from contrail import duck, freshness, intake, landing
from contrail.contracts import Contract, ContractError
from contrail.lake import Commit, Lake
from tests.support import contract_files as files

SECOND = "2024-03-06"


class Feed:
    def __init__(self, folder: Path) -> None:
        self.root, self.lake = folder / "landing", Lake(folder / "lake")
        self.contract = promising(files.contract(folder), 26, "h")

    def take_in(self) -> None:
        def commit(asset: str, inputs: Sequence[str], partition: str, **extra: str) -> Commit:
            return Commit(asset, "run", tuple(inputs), partition, extra=extra)

        landed = landing.deliveries(self.root, "readings")
        with duck.connect(threads=1) as con:
            intake.take_in(self.lake, self.contract, landed, con=con, commit=commit, trailing_rows={})

    def at(self, hours: float) -> freshness.FeedFreshness:
        now = files.midnight() + timedelta(hours=hours)
        (found,) = freshness.all_feeds(self.lake, self.root, {"readings": self.contract}, now)
        return found


def promising(contract: Contract, value: object, unit: str | None) -> Contract:
    return replace(contract, service_levels={"freshness": (value, unit)})


@pytest.fixture
def feed(tmp_path: Path) -> Feed:
    return Feed(tmp_path)


def test_before_anything_has_landed(feed):
    found = feed.at(0)
    assert (found.state, found.newest_delivered_at, found.age, found.waiting_files) == (
        "never landed",
        None,
        None,
        0,
    )
    assert found.allowed_age == timedelta(hours=26)


def test_what_has_landed_and_was_not_taken_in_is_what_a_run_mends(feed):
    files.deliver(feed.root, files.lines(10))
    found = feed.at(30)
    assert (found.state, found.waiting_files, found.age) == ("not taken in", 1, timedelta(hours=6))


def test_fresh_up_to_the_promised_age_and_late_beyond_it(feed):
    files.deliver(feed.root, files.lines(10))  # delivered 24 h after its midnight
    feed.take_in()
    assert feed.at(24 + 26).state == "fresh"
    late = feed.at(24 + 26.01)
    assert (late.state, late.waiting_files) == ("source late", 0)


def test_a_newer_file_makes_a_late_source_worth_a_run_again(feed):
    files.deliver(feed.root, files.lines(10))
    feed.take_in()
    assert feed.at(100).state == "source late"
    files.deliver(feed.root, files.lines(10, SECOND), day=SECOND, hours=70)
    assert feed.at(100).state == "not taken in"
    feed.take_in()
    assert feed.at(100).state == "fresh"


def test_a_blocked_file_has_been_dealt_with_running_again_mends_nothing(feed):
    files.deliver(feed.root, files.lines(10), rows=11)
    feed.take_in()
    assert feed.at(30).state == "fresh"


def test_a_contract_that_promises_nothing_is_never_late(feed):
    feed.contract = replace(feed.contract, service_levels={})
    files.deliver(feed.root, files.lines(10))
    feed.take_in()
    found = feed.at(24 * 400)
    assert (found.state, found.allowed_age) == ("fresh", None)


@pytest.mark.parametrize(
    ("value", "unit", "expected"),
    [
        (26, "h", timedelta(hours=26)),
        (1.5, "days", timedelta(hours=36)),
        ("90", "Minutes", timedelta(minutes=90)),
        (2, None, timedelta(hours=2)),
    ],
)
def test_units(feed, value, unit, expected):
    assert freshness.allowed_age(promising(feed.contract, value, unit)) == expected


@pytest.mark.parametrize(("value", "unit"), [(1, "months"), (1, "y"), ("soon", "h"), (None, "d")])
def test_a_level_that_cannot_be_understood_is_refused_and_not_guessed(feed, value, unit):
    with pytest.raises(
        ContractError, match=r"readings: the freshness level .* is not a number with one of the units"
    ):
        freshness.allowed_age(promising(feed.contract, value, unit))
