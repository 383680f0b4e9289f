"""Taking landed files in: the books, what a commit says of them, and which files still wait."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

from contrail import completeness, duck, intake, landing
from contrail.intake import Intake, IntakeError
from contrail.lake import Commit, Lake
from tests.support import contract_files as files
from tests.support.ingest_world import World, rewrite_bytes

FIRST, SECOND, THIRD = "2024-03-05", "2024-03-06", "2024-03-07"
RAW, QUARANTINE = "raw/readings", "quarantine/readings"


class Place(World):
    """A landing zone with a lake beside it."""

    def __init__(self, folder: Path, con: Any) -> None:
        super().__init__(folder, con)
        self.lake = Lake(folder / "lake")
        self.runs = 0

    def landed(self) -> list[landing.Delivery]:
        return landing.deliveries(self.root, "readings")

    def take_in(self, *days: str, fail_on: str | None = None, **more: Any) -> Intake:
        self.runs += 1
        chosen = [d for d in self.landed() if not days or d.partition in days]

        def commit(asset: str, inputs: Sequence[str], partition: str, **extra: str) -> Commit:
            if asset == fail_on:
                raise KeyboardInterrupt(asset)
            return Commit(asset, f"run-{self.runs}", tuple(inputs), partition, extra=extra)

        return intake.take_in(
            self.lake, self.contract, chosen, con=self.con, commit=commit, trailing_rows={}, **more
        )

    def waiting(self) -> list[str]:
        return [d.path.name for d in intake.waiting(self.lake, "readings", self.landed())]

    def blocked(self) -> dict[str, list[str]]:
        return intake.blocked_partitions(self.lake, "readings")

    def count(self, table: str, where: str = "true") -> int:
        row = self.con.execute(f"SELECT count(*) FROM {self.lake.scan(table)} WHERE {where}").fetchone()
        return int(row[0])


@pytest.fixture
def place(tmp_path: Path) -> Iterator[Place]:
    with duck.connect(threads=1) as con:
        yield Place(tmp_path, con)


# --- the books ---------------------------------------------------------------------------------------------------


def test_what_landed_lies_in_raw_or_in_quarantine(place):
    files.deliver(place.root, [*files.lines(60), files.line(60, level="999")])
    taken = place.take_in()
    assert (taken.landed, taken.accepted, taken.quarantined) == (61, 60, 1)
    assert (place.count(RAW), place.count(QUARANTINE)) == (60, 1)
    assert (taken.version, taken.quarantine_version) == (
        place.lake.version(RAW),
        place.lake.version(QUARANTINE),
    )


def test_the_commits_say_of_which_files_and_how_many_rows(place):
    landed = files.deliver(place.root, [*files.lines(60), files.line(60, level="999")])
    place.take_in()
    for table in (RAW, QUARANTINE):
        record = place.lake.commits(table)[-1]
        assert record.inputs == (f"sha256:{landed.sha256}",)
        assert record.partition == FIRST
        assert {name: record.extra[name] for name in ("landed", "accepted", "quarantined")} == {
            "landed": "61",
            "accepted": "60",
            "quarantined": "1",
        }


def test_taking_the_same_files_in_again_gives_the_same_rows(place):
    for day in (FIRST, SECOND):
        files.deliver(place.root, [*files.lines(40, day), files.line(40, day, level="999")], day=day)
    place.take_in()
    whole = {table: place.lake.content_hash(table) for table in (RAW, QUARANTINE)}
    place.take_in(SECOND)
    place.take_in(FIRST)
    assert {table: place.lake.content_hash(table) for table in (RAW, QUARANTINE)} == whole


def test_one_partition_leaves_the_others_alone(place):
    files.deliver(place.root, files.lines(10))
    place.take_in()
    before = place.lake.content_hash(RAW, where=f"feed_date = '{FIRST}'")
    files.deliver(place.root, files.lines(12, SECOND), day=SECOND)
    place.take_in(SECOND)
    assert place.lake.content_hash(RAW, where=f"feed_date = '{FIRST}'") == before
    assert place.count(RAW) == 22


def test_nothing_landed_is_refused(place):
    with pytest.raises(IntakeError, match=r"nothing has landed for raw/readings"):
        place.take_in()


def test_progress_names_table_day_and_rows(place):
    files.deliver(place.root, files.lines(10))
    told: list[str] = []
    place.take_in(progress=told.append)
    assert told == [f"{RAW}: {FIRST}, 10 rows"]


# --- which files wait --------------------------------------------------------------------------------------------


def test_what_has_been_taken_in_does_not_wait(place):
    files.deliver(place.root, files.lines(10))
    assert place.waiting() == [f"{FIRST}.csv.gz"]
    place.take_in()
    assert place.waiting() == []


def test_files_of_two_days_without_rows_are_two_files_though_their_bytes_are_the_same(place):
    one = files.deliver(place.root, [])
    place.take_in()
    other = files.deliver(place.root, [], day=SECOND)
    assert one.sha256 == other.sha256
    assert place.waiting() == [f"{SECOND}.csv.gz"]
    place.take_in(SECOND)
    assert place.waiting() == []


def test_a_further_file_of_a_day_waits(place):
    base = files.deliver(place.root, files.lines(10))
    place.take_in()
    files.deliver(place.root, files.lines(9), hours=30, supersedes=base.sha256)
    assert place.waiting() == [f"{FIRST}.1.csv.gz"]


def test_a_file_put_in_the_place_of_another_waits_and_so_does_the_first_one_put_back(place):
    landed = files.deliver(place.root, files.lines(10))
    first, manifest = landed.path.read_bytes(), landed.manifest_path.read_bytes()
    place.take_in()
    rewrite_bytes(landed, landing._compressed(files.csv_of(files.lines(10, start=5))))
    assert place.waiting() == [f"{FIRST}.csv.gz"]
    place.take_in()
    assert place.waiting() == []
    landed.path.write_bytes(first)
    landed.manifest_path.write_bytes(manifest)
    assert place.waiting() == [f"{FIRST}.csv.gz"]


def test_damaged_bytes_block_and_wait_again_once_they_are_put_right_under_the_same_manifest(place):
    landed = files.deliver(place.root, files.lines(10))
    whole = landed.path.read_bytes()
    landed.path.write_bytes(whole[:-20])
    taken = place.take_in()
    assert [report.partition for report in taken.blocked] == [FIRST]
    assert place.waiting() == [], "as long as nothing changes there is nothing to do"
    landed.path.write_bytes(whole)
    assert place.waiting() == [f"{FIRST}.csv.gz"]
    place.take_in()
    assert (place.waiting(), place.blocked(), place.count(RAW)) == ([], {}, 10)


def test_a_manifest_that_is_put_right_makes_its_file_wait_again(place):
    landed = files.deliver(place.root, files.lines(10), rows=11)
    place.take_in()
    assert list(place.blocked()) == [FIRST]
    landed.manifest_path.write_text(landed.manifest_path.read_text().replace('"rows": 11', '"rows": 10'))
    assert place.waiting() == [f"{FIRST}.csv.gz"]
    place.take_in()
    assert (place.waiting(), place.blocked(), place.count(RAW)) == ([], {}, 10)


def test_a_manifest_without_its_file_blocks_until_the_file_comes(place):
    landed = files.deliver(place.root, files.lines(10))
    whole = landed.path.read_bytes()
    landed.path.unlink()
    place.take_in()
    assert place.waiting() == []
    assert list(place.blocked()) == [FIRST]
    landed.path.write_bytes(whole)
    assert place.waiting() == [f"{FIRST}.csv.gz"]


def test_a_kill_between_quarantine_and_raw_leaves_the_file_waiting_and_the_repeat_is_whole(place):
    files.deliver(place.root, [*files.lines(60), files.line(60, level="999")])
    with pytest.raises(KeyboardInterrupt):
        place.take_in(fail_on=RAW)
    assert place.waiting() == [f"{FIRST}.csv.gz"]
    place.take_in()
    assert (place.count(RAW), place.count(QUARANTINE), place.waiting()) == (60, 1, [])


# --- blocked -----------------------------------------------------------------------------------------------------


def test_a_blocked_day_tells_why_keeps_its_rows_out_of_raw_and_lets_the_others_pass(place):
    files.deliver(place.root, files.lines(10))
    files.deliver(place.root, files.lines(10, SECOND), day=SECOND, rows=11)
    files.deliver(place.root, files.lines(10, THIRD), day=THIRD)
    taken = place.take_in()
    assert [report.partition for report in taken.blocked] == [SECOND]
    (reason,) = place.blocked()[SECOND]
    assert "fewer rows than the manifest says: 10 instead of 11" in reason
    assert place.count(RAW, f"feed_date = '{SECOND}'") == 0
    assert place.count(RAW) == 20
    assert place.count(QUARANTINE, "kind = 'blocked'") == 10


def test_a_replacement_lifts_the_block_of_its_day_only(place):
    for day in (FIRST, SECOND):
        files.deliver(place.root, files.lines(10, day), day=day, rows=11)
    place.take_in()
    assert list(place.blocked()) == [FIRST, SECOND]
    files.deliver(place.root, files.lines(10, start=1), hours=40)
    place.take_in(FIRST)
    assert list(place.blocked()) == [SECOND]


def test_before_the_first_intake_nothing_is_blocked(place):
    assert place.blocked() == {}


def test_a_day_counts_as_dealt_with_without_rows_and_blocked_but_not_where_no_file_came(place):
    assert intake.taken_partitions(place.lake, "readings", {FIRST}) == set()
    files.deliver(place.root, files.lines(0))
    files.deliver(place.root, files.lines(10, THIRD), day=THIRD, rows=11)
    place.take_in()
    assert intake.taken_partitions(place.lake, "readings", {FIRST, SECOND, THIRD}) == {FIRST, THIRD}


# --- up to when a feed is complete -------------------------------------------------------------------------------


def test_the_commit_says_up_to_when_the_accepted_files_speak(place):
    files.deliver(place.root, files.lines(10))
    files.deliver(place.root, files.lines(10, SECOND), day=SECOND)
    place.take_in()
    assert completeness.accepted_until(place.lake, RAW) == files.midnight(THIRD)


def test_a_blocked_file_counts_as_not_delivered(place):
    files.deliver(place.root, files.lines(10))
    files.deliver(place.root, files.lines(10, SECOND), day=SECOND, rows=11)
    place.take_in()
    assert completeness.accepted_until(place.lake, RAW) == files.midnight(SECOND)


def test_a_file_that_does_not_say_its_span_speaks_up_to_its_regular_delivery(place):
    files.deliver(place.root, files.lines(10), covers=None)
    place.take_in()
    assert completeness.accepted_until(place.lake, RAW) == files.midnight(FIRST) + timedelta(hours=24)


# --- the days before ---------------------------------------------------------------------------------------------


def test_trailing_rows_are_those_of_the_days_before_within_reach(place):
    for day, rows in ((FIRST, 3), (SECOND, 5), (THIRD, 7)):
        files.deliver(place.root, files.lines(rows, day), day=day)
    assert intake.trailing_rows(place.landed(), THIRD, 28) == {FIRST: 3, SECOND: 5}
    assert intake.trailing_rows(place.landed(), THIRD, 1) == {SECOND: 5}
    assert intake.trailing_rows(place.landed(), THIRD, 28, leave_out={FIRST}) == {SECOND: 5}


def test_a_superseded_file_and_a_second_copy_do_not_count_among_the_trailing_rows(place):
    base = files.deliver(place.root, files.lines(10))
    files.deliver(place.root, files.lines(8), hours=30, supersedes=base.sha256)
    other = files.deliver(place.root, files.lines(6, SECOND), day=SECOND)
    other.path.write_bytes(b"damaged")
    files.deliver(place.root, files.lines(6, SECOND), day=SECOND, hours=30)
    assert len(place.landed()) == 4
    assert intake.trailing_rows(place.landed(), THIRD, 28) == {FIRST: 8, SECOND: 6}
