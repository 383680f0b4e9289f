"""Ingestion of files: which are blocked and why, which count, and what corrections and volume do."""

from __future__ import annotations

import gzip
import hashlib
import json
from datetime import date, datetime, timedelta
from typing import Any

import pyarrow as pa
import pytest

from contrail import duck, landing
from tests.support import contract_files as files
from tests.support.contract_files import DAY, csv_of, deliver, line, lines, midnight
from tests.support.ingest_world import World, books_balance, rewrite_bytes

NEXT = "2024-03-06"


@pytest.fixture(scope="module")
def con():
    with duck.connect() as connection:
        yield connection


@pytest.fixture
def world(tmp_path, con):
    return World(tmp_path, con)


# -- blocked files ---------------------------------------------------------------------------------------------


def break_bytes(world: World, case: str) -> None:
    """Land a day of 40 rows that is bad in one way."""
    header = files.HEADER
    if case == "a column is missing":
        rows = [row.rpartition(",")[0] for row in [header, *lines(40)]]
        deliver(world.root, csv_of(rows[1:], header=rows[0]))
    elif case == "a column more":
        deliver(world.root, csv_of([row + ",1" for row in lines(40)], header=header + ",surplus"))
    elif case == "a renamed column":
        deliver(world.root, csv_of(lines(40), header=header.replace("litres", "liters")))
    elif case == "a column twice":
        deliver(world.root, csv_of(lines(40), header=header.replace("litres", "level")))
    elif case == "fewer rows":
        deliver(world.root, lines(40), rows=50)
    elif case == "more rows":
        deliver(world.root, lines(40), rows=30)
    elif case == "another year":
        deliver(world.root, [*lines(39), line(39, taken_at="2023-03-05T00:00:00Z")])
    elif case == "too many bad rows":
        deliver(world.root, [*lines(36), *(line(n, level="odd") for n in range(36, 40))])
    elif case == "changed afterwards":
        rewrite_bytes(deliver(world.root, lines(40)), gzip.compress(csv_of(lines(40)[::-1])), honest=False)


@pytest.mark.parametrize(
    ("case", "words"),
    [
        ("a column is missing", "column 'known_at' is missing"),
        ("a column more", "column 'surplus' is not in the contract"),
        ("a renamed column", "column 'litres' is missing and 'liters' is not in the contract: renamed?"),
        ("a column twice", "column 'level' stands twice"),
        ("fewer rows", "fewer rows than the manifest says: 40 instead of 50"),
        ("more rows", "more rows than the manifest says: 40 instead of 30"),
        ("another year", f"1 of 40 rows do not belong to {DAY}, first in row 40"),
        (
            "too many bad rows",
            "4 of 40 rows break rules, more than is tolerated (5.0% of the rows, or 2): type:level 4",
        ),
        ("changed afterwards", "the manifest says"),
    ],
)
def test_a_readable_file_that_is_bad_is_blocked_and_each_row_kept_with_its_values(world, case, words):
    break_bytes(world, case)
    deliver(world.root, lines(3, NEXT), day=NEXT)
    result = world.ingest()
    bad, good = result.partitions
    assert bad.status == "blocked"
    assert any(words in reason for reason in bad.reasons)
    assert all(reason.startswith(f"readings/{DAY}.csv.gz: ") for reason in bad.reasons)
    assert (bad.landed, bad.accepted, bad.quarantined) == (40, 0, 40)
    kept = result.quarantined.to_pylist()
    assert {row["kind"] for row in kept} == {"blocked"}
    assert sorted(row["source_row"] for row in kept) == list(range(1, 41))
    assert all(words in row["reason"] for row in kept)
    assert all(json.loads(row["values"])["station"] == "s1" for row in kept)
    assert (good.status, good.accepted) == ("accepted", 3)
    assert set(result.accepted.column("feed_date").to_pylist()) == {date(2024, 3, 6)}


def test_rows_of_a_blocked_file_still_say_which_rules_they_break(world):
    break_bytes(world, "another year")
    kept = {row["source_row"]: row["rules"] for row in world.ingest().quarantined.to_pylist()}
    assert kept[40] == ["partition"]
    assert kept[1] == []


GOOD = gzip.compress(csv_of(lines(40)), mtime=0)


@pytest.mark.parametrize(
    ("data", "words"),
    [
        (b"", "0 bytes"),
        (GOOD[:-20], "truncated gzip"),
        (csv_of(lines(40)), "not gzip"),
        (GOOD[:60] + b"\x00\xff\x00\xff" + GOOD[64:], "gzip"),
        (gzip.compress(csv_of(lines(40)).replace(b"n3,", b"n\xe9,")), "line 5"),
        (gzip.compress(b""), "no header line"),
    ],
    ids=["0 bytes", "truncated", "not gzip", "damaged", "not UTF-8", "no header"],
)
def test_an_unreadable_file_counts_its_manifests_rows_and_keeps_its_bytes(world, data, words):
    delivery = deliver(world.root, lines(40))
    rewrite_bytes(delivery, data)
    result = world.ingest()
    (report,) = result.partitions
    assert report.status == "blocked"
    assert words in report.reasons[0]
    assert (report.landed, report.accepted, report.quarantined) == (40, 0, 40)
    (kept,) = result.quarantined.to_pylist()
    assert (kept["kind"], kept["rows"], kept["source_row"]) == ("blocked", 40, None)
    assert kept["file_bytes"] == (data or None)
    assert kept["source_sha256"] == hashlib.sha256(data).hexdigest()
    assert report.rules == ()


def test_non_utf8_says_byte_and_line(world):
    data = csv_of(lines(40)).replace(b"n3,", b"n\xe9,")
    rewrite_bytes(deliver(world.root, lines(40)), gzip.compress(data))
    (reason,) = world.only().reasons
    assert f"byte {data.index(0xE9)} (line 5) is 0xe9" in reason


def test_a_file_that_the_csv_reader_refuses_is_blocked(world, monkeypatch):
    def refuse(*_args: Any, **_kwargs: Any) -> None:
        raise pa.ArrowInvalid("straddling")

    deliver(world.root, lines(4))
    monkeypatch.setattr("contrail.landed_file.pa_csv.read_csv", refuse)
    (reason,) = world.only().reasons
    assert "not CSV: straddling" in reason


def test_a_file_that_is_gone_is_blocked(world):
    delivery = deliver(world.root, lines(4))
    delivery.path.unlink()
    report = world.only()
    assert (report.status, report.quarantined) == ("blocked", 4)
    assert "the manifest is there and the file is not" in report.reasons[0]


def test_a_blocked_file_counts_as_not_delivered(world):
    rewrite_bytes(deliver(world.root, lines(5)), b"")
    second = deliver(world.root, lines(5), hours=40)
    result = world.ingest()
    (report,) = result.partitions
    assert (report.status, report.landed, report.accepted, report.quarantined) == ("accepted", 10, 5, 5)
    assert set(result.accepted.column("created_at").to_pylist()) == {midnight() + timedelta(hours=40)}
    assert set(result.accepted.column("_source_sha256").to_pylist()) == {second.sha256}


def test_a_file_that_was_damaged_may_come_again_with_the_same_content(world):
    first = deliver(world.root, lines(5))
    first.path.write_bytes(first.path.read_bytes()[:-9])
    assert world.only().status == "blocked"
    again = deliver(world.root, lines(5), hours=30)
    assert again.path != first.path
    assert again.sha256 == first.sha256
    report = world.only()
    assert (report.status, report.landed, report.accepted, report.quarantined) == ("accepted", 10, 5, 5)


# -- corrections -----------------------------------------------------------------------------------------------


def test_a_second_file_without_supersedes_is_blocked_and_what_was_accepted_stays(world):
    first = deliver(world.root, lines(5))
    deliver(world.root, lines(6), hours=30)
    result = world.ingest()
    (report,) = result.partitions
    assert report.status == "blocked"
    assert f"readings/{DAY}.1.csv.gz: second file for {DAY} without supersedes" in report.reasons[0]
    assert first.sha256 in report.reasons[0]
    assert (report.landed, report.accepted, report.quarantined, report.rows) == (11, 5, 6, 5)
    assert set(result.accepted.column("_source_sha256").to_pylist()) == {first.sha256}


def test_the_same_file_again_changes_nothing_and_settles_a_dispute(world):
    first = deliver(world.root, lines(5))
    deliver(world.root, lines(6), hours=30)
    assert world.only().status == "blocked"
    deliver_again(first, 2, hours=36)
    report = world.only()
    assert (report.status, report.landed, report.accepted) == ("accepted", 11, 5)


def test_a_superseding_file_adds_versions_and_retracts_the_keys_it_lacks(world):
    first = deliver(world.root, lines(5))
    rows = [line(0), line(1, note="corrected"), line(2), line(7)]
    second = deliver(world.root, rows, hours=50, supersedes=first.sha256)
    result = world.ingest()
    (report,) = result.partitions
    assert (report.status, report.landed, report.accepted, report.retracted, report.rows) == (
        "accepted",
        9,
        9,
        2,
        4,
    )
    assert books_balance(result)
    late = midnight() + timedelta(hours=50)
    versions: dict[datetime, list[dict[str, Any]]] = {}
    for row in result.accepted.to_pylist():
        versions.setdefault(row["taken_at"], []).append(row)
    at = [midnight() + timedelta(minutes=n) for n in range(8)]
    assert [len(versions.get(one, [])) for one in at] == [2, 2, 2, 2, 2, 0, 0, 1]
    assert [row["note"] for row in versions[at[1]]] == ["n1", "corrected"]
    assert [row["created_at"] for row in versions[at[1]]] == [at[2], late]
    old, retraction = versions[at[3]]
    assert retraction == old | {"is_retracted": True, "created_at": late}
    assert versions[at[7]][0]["created_at"] == late
    assert versions[at[7]][0]["_source_sha256"] == second.sha256


def test_a_key_may_come_back_and_an_old_file_may_be_restored(world):
    first = deliver(world.root, lines(2))
    second = deliver(world.root, lines(1), hours=30, supersedes=first.sha256)
    deliver(world.root, lines(2), hours=40, supersedes=second.sha256)
    result = world.ingest()
    (report,) = result.partitions
    assert (report.status, report.landed, report.accepted, report.retracted) == ("accepted", 5, 5, 1)
    of_second_key = [row for row in result.accepted.to_pylist() if row["level"] == 2]
    assert [
        (row["is_retracted"], row["created_at"].hour)
        for row in sorted(of_second_key, key=lambda r: r["created_at"])
    ] == [
        (False, 0),
        (True, 6),
        (False, 16),
    ]


def test_a_key_whose_corrected_row_is_refused_keeps_its_old_version(world):
    first = deliver(world.root, lines(3))
    deliver(world.root, [line(0), line(1, level="x")], hours=30, supersedes=first.sha256)
    result = world.ingest()
    retracted = [row["level"] for row in result.accepted.to_pylist() if row["is_retracted"]]
    assert retracted == [4]
    assert result.partitions[0].quarantined == 1


@pytest.mark.parametrize(
    ("supersedes", "words"),
    [
        ("0" * 64, "no such file was delivered"),
        ("old", "which has been superseded itself"),
        ("blocked", "which was blocked and never counted"),
    ],
)
def test_supersedes_must_name_the_accepted_file(world, supersedes, words):
    first = deliver(world.root, lines(5))
    blocked = deliver(world.root, lines(4), rows=9, hours=25, supersedes=first.sha256)
    second = deliver(world.root, lines(6), hours=30, supersedes=first.sha256)
    named = {"old": first.sha256, "blocked": blocked.sha256}.get(supersedes, supersedes)
    deliver(world.root, lines(7), hours=40, supersedes=named)
    report = world.only()
    assert report.status == "blocked"
    assert words in report.reasons[0]
    assert second.sha256 in report.reasons[0]
    assert report.rows == 6


def deliver_again(delivery: landing.Delivery, number: int, hours: float) -> None:
    """The same bytes under a further name, as a sender's retry would bring them."""
    name = f"{DAY}.{number}"
    manifest = json.loads(delivery.manifest_path.read_text())
    delivered_at = landing.format_instant(midnight() + timedelta(hours=hours))
    manifest |= {"file": f"{name}.csv.gz", "delivered_at": delivered_at}
    delivery.path.with_name(f"{name}.csv.gz").write_bytes(delivery.path.read_bytes())
    delivery.path.with_name(f"{name}.manifest.json").write_text(json.dumps(manifest))


def test_an_old_file_that_comes_again_is_ignored(world):
    first = deliver(world.root, lines(5))
    deliver(world.root, lines(6), hours=30, supersedes=first.sha256)
    before = world.only()
    deliver_again(first, 7, hours=60)
    after = world.only()
    assert (
        (after.status, after.landed, after.rows)
        == (before.status, before.landed, before.rows)
        == ("accepted", 11, 6)
    )


def test_a_blocked_file_that_comes_again_is_counted_once(world):
    bad = deliver(world.root, lines(5), rows=9)
    deliver_again(bad, 7, hours=60)
    report = world.only()
    assert (report.status, report.landed, report.quarantined) == ("blocked", 5, 5)


def test_a_correction_of_a_file_that_was_blocked_is_a_first_file(world):
    bad = deliver(world.root, lines(5), rows=9)
    deliver(world.root, lines(6), hours=30, supersedes=bad.sha256)
    report = world.only()
    assert (report.status, report.landed, report.accepted, report.quarantined) == ("accepted", 11, 6, 5)


def test_files_that_do_not_say_what_they_cover_cover_the_partition(world):
    deliver(world.root, lines(3), hours=1, covers=(0, 1), stem=f"{DAY}T00")
    deliver(world.root, lines(9), hours=24, covers=None)
    (reason,) = world.only().reasons
    assert "covers a part of what" in reason


def test_hours_of_a_day_are_chains_of_their_own(world):
    hour = {f"{n:02d}": lines(3, start=60 * n) for n in range(3)}
    landed = [
        deliver(world.root, rows, hours=n + 1, covers=(n, n + 1), stem=f"{DAY}T{name}")
        for n, (name, rows) in enumerate(hour.items())
    ]
    deliver(
        world.root, lines(2, start=60), hours=9, covers=(1, 2), stem=f"{DAY}T01", supersedes=landed[1].sha256
    )
    deliver(world.root, lines(1, start=120), hours=9, covers=(2, 3), stem=f"{DAY}T02")
    result = world.ingest()
    (report,) = result.partitions
    assert report.status == "blocked"
    assert len(report.reasons) == 1
    assert f"readings/{DAY}T02.1.csv.gz: second file" in report.reasons[0]
    assert (report.landed, report.accepted, report.quarantined, report.retracted, report.rows) == (
        12,
        11,
        1,
        1,
        8,
    )
    assert {one.element_count for one in report.rules if one.rule == "level_range"} == {3 + 2 + 1}


def test_a_whole_day_on_top_of_its_hours_is_blocked(world):
    deliver(world.root, lines(3), hours=1, covers=(0, 1), stem=f"{DAY}T00")
    deliver(world.root, lines(9), hours=24)
    (reason,) = world.only().reasons
    assert f"covers a part of what {DAY}T00.csv.gz covers" in reason


def test_files_of_one_instant_are_taken_in_the_order_of_their_number(world):
    deliver(world.root, lines(5))
    deliver(world.root, lines(6))
    report = world.only()
    assert report.rows == 5
    assert f"{DAY}.1.csv.gz" in report.reasons[0]


# -- volume ----------------------------------------------------------------------------------------------------


def history(rows: int, days: int) -> dict[str, int]:
    return {(date(2024, 3, 5) - timedelta(days=n)).isoformat(): rows for n in range(1, days + 1)}


@pytest.mark.parametrize(
    ("known", "fine"),
    [
        (history(10, 20), True),
        (history(100, 20), False),
        (history(2, 20), False),
        (history(100, 6), True),
        ({}, True),
    ],
)
def test_volume_is_judged_against_the_days_before_and_only_warns(world, known, fine):
    deliver(world.root, lines(10))
    (report,) = world.ingest(history=known).partitions
    (volume,) = [one for one in report.rules if one.rule == "volume"]
    assert (volume.success, volume.rule_class, volume.element_count) == (fine, "warn", 10)
    assert report.status == "accepted"
    assert any("volume" in text for text in report.warnings) is not fine


def test_volume_sees_the_days_of_the_same_call_and_no_later_ones(world):
    days = [(date(2024, 3, 5) + timedelta(days=n)).isoformat() for n in range(9)]
    for day in days:
        deliver(world.root, lines(20 if day != days[7] else 2, day), day=day)
    reports = {report.partition: report for report in world.ingest().partitions}
    warned = [day for day in days if any("volume" in text for text in reports[day].warnings)]
    assert warned == [days[7]]
