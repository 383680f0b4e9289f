"""Pushed events: judged like a file's rows, refused in words, kept in a journal that can be played again."""

from __future__ import annotations

import json
import re
from datetime import UTC, date, datetime, timedelta
from typing import Any

import duckdb
import pytest

from contrail import duck, push
from contrail.contracts import Contract, landed_schema
from contrail.lake import Lake
from contrail.push import Closings, Journal, PushError
from tests.support import contract_files as files

NOW = datetime(2024, 3, 5, 12, tzinfo=UTC)


def event(n: int = 0, **changed: Any) -> dict[str, Any]:
    """The n-th good event of the day, one a minute, known a minute later."""
    at = datetime(2024, 3, 5, tzinfo=UTC) + timedelta(minutes=n)
    return {
        "station": "s1", "taken_at": at, "level": 2 * n, "litres": 1.5, "grade": "3.25", "checked_on": date(2024, 3, 5),
        "is_final": True, "note": f"n{n}", "known_at": at + timedelta(minutes=1),
    } | changed  # fmt: skip


@pytest.fixture
def contract(tmp_path) -> Contract:
    return files.contract(tmp_path)


@pytest.fixture
def con():
    with duck.connect() as session:
        yield session


@pytest.fixture
def lake(tmp_path) -> Lake:
    return Lake(tmp_path / "lake")


def test_a_good_event_is_typed(con: duckdb.DuckDBPyConnection, contract):
    checked = push.check(con, contract, [event(1)], at=NOW)
    assert not checked.refused
    assert checked.rows.schema == landed_schema(contract)
    (row,) = checked.rows.to_pylist()
    assert row["level"] == 2
    assert row["known_at"] == datetime(2024, 3, 5, 0, 2, tzinfo=UTC)
    assert row["is_final"] is True


def test_a_line_of_json_and_a_mapping_are_the_same_event(con, contract):
    line = (
        '{"station": "s1", "taken_at": "2024-03-05T00:01:00Z", "level": 2, "litres": 1.5, "grade": 3.25, '
        '"checked_on": "2024-03-05", "is_final": true, "note": "n1", "known_at": "2024-03-05T01:02:00+01:00"}'
    )
    of_line = push.check(con, contract, [line + "\n"], at=NOW)
    assert of_line.rows == push.check(con, contract, [event(1)], at=NOW).rows
    assert of_line.texts == (line,)


def test_what_is_not_there_is_null(con, contract):
    few = {name: event(1)[name] for name in ("station", "taken_at", "known_at")}
    (row,) = push.check(con, contract, [few], at=NOW).rows.to_pylist()
    assert row["level"] is None
    assert row["note"] is None


@pytest.mark.parametrize(
    ("changed", "words"),
    [
        ({"level": "deep"}, r"level = 'deep': level is of type INTEGER. \(rule type:level\)"),
        ({"level": 12.0}, r"level = '12.0': level is of type INTEGER"),
        ({"station": None}, r"station is null: station is never missing. \(rule required:station\)"),
        ({"station": ""}, r"station is null: station is never missing"),
        ({"known_at": "2024-03-05 00:02:00"}, r"known_at = '2024-03-05 00:02:00': known_at is of type TIMESTAMPTZ"),
        ({"known_at": NOW + timedelta(seconds=1)}, "known_at = '2024-03-05T12:00:01.*known_before_delivered"),
        ({"level": 1000}, r"level = '1000': level_range, in words. \(rule level_range, max_value 900\)"),
        ({"level": 901}, r"level = '901'.*level_range.*; level = '901'.*level_is_even"),
        ({"colour": "red"}, "readings has no column colour; it has station, taken_at, level"),
        ({"litres": float("nan")}, "column litres holds NaN, which is no number"),
        ({"station": float("-inf")}, "column station holds -Infinity, which is no number"),
        ({"level": [1]}, r"column level holds \['1'\], which is not one value"),
    ],
)  # fmt: skip
def test_a_bad_event_is_refused_with_column_value_and_rule(con, contract, changed, words):
    checked = push.check(con, contract, [event(1), event(2, **changed), event(3)], at=NOW)
    assert checked.rows["level"].to_pylist() == [2, 6]
    (refused,) = checked.refused
    assert re.search(words, refused.reason), refused.reason
    assert json.loads(refused.event)["note"] == "n2"


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ("{", "no JSON"),
        ("[1]", "no JSON object"),
        ("3", "no JSON object"),
        ("[" * 100_000, "no JSON: maximum recursion depth"),
        ('{"note": "\\ud800"}', "column note holds '\\ud800', which has half a character"),
        ('{"note": "\udcff"}', "column note holds '\\udcff', which has half a character"),
        ("\udcff", "no JSON"),
    ],
    ids=["cut", "list", "number", "deep", "half a character", "bytes that are no text", "no text at all"],
)
def test_a_line_that_is_no_event_is_refused_and_kept(con, contract, lake, line, words):
    checked = push.check(con, contract, [line, event(1)], at=NOW)
    assert checked.rows.num_rows == 1
    assert words in checked.refused[0].reason
    assert Journal(lake, contract, "run-1").append(checked) == 1


def test_a_rule_that_only_a_whole_file_can_be_judged_by_is_named(tmp_path, con):
    query = "SELECT * FROM {batch} WHERE level > (SELECT avg(level) FROM {batch})"
    changed = files.document()
    changed["schema"][0]["quality"].append(
        files.rule("deep", "reject", "unexpected_rows_expectation", unexpected_rows_query=query)
    )
    with pytest.raises(PushError, match="readings: the rule deep cannot be judged for a single event"):
        push.check(con, files.contract(tmp_path, changed), [event()], at=NOW)


def known(con, rows) -> str:
    con.register("everything", rows)
    return "everything"


def test_an_event_that_is_known_is_counted_and_one_that_says_otherwise_is_refused(con, contract):
    there = known(con, push.check(con, contract, [event(1), event(2)], at=NOW).rows)
    checked = push.check(con, contract, [event(1), event(2, level=8), event(3)], at=NOW)
    new, repeated = push.sort_known(con, contract, checked, there)
    assert new.rows["level"].to_pylist() == [6]
    assert [json.loads(text)["note"] for text in new.texts] == ["n3"]
    assert repeated == 1
    (refused,) = new.refused
    assert "station = s1, taken_at = 2024-03-05 00:02:00" in refused.reason
    assert "was reported before with other values" in refused.reason


def test_in_one_batch_the_first_event_of_a_key_counts(con, contract):
    there = known(con, landed_schema(contract).empty_table())
    checked = push.check(con, contract, [event(1), event(1), event(1, note=None)], at=NOW)
    new, repeated = push.sort_known(con, contract, checked, there)
    assert new.rows["note"].to_pylist() == ["n1"]
    assert repeated == 1
    assert len(new.refused) == 1


def test_events_can_be_refused_for_a_reason_of_ones_own(con, contract):
    checked = push.refuse(push.check(con, contract, [event(1), event(2)], at=NOW), [None, "nobody asked"])
    assert checked.rows["level"].to_pylist() == [2]
    assert [one.reason for one in checked.refused] == ["nobody asked"]
    assert json.loads(checked.refused[0].event)["note"] == "n2"


def test_the_journal_keeps_good_and_bad_in_one_commit(con, contract, lake):
    journal = Journal(lake, contract, "run-1")
    version = journal.append(push.check(con, contract, [event(1), "{", event(2)], at=NOW))
    assert version == 1  # 0 created the table
    kept = con.execute(
        f"SELECT * FROM {lake.scan('push/readings')} ORDER BY level NULLS LAST"
    ).to_arrow_table()
    assert kept["level"].to_pylist() == [2, 4, None]
    assert kept["_as_sent"].to_pylist()[2] == "{"
    assert [reason is None for reason in kept["_refused"].to_pylist()] == [True, True, False]
    commit = lake.commits("push/readings")[-1]
    assert commit.run_id == "run-1"
    assert commit.inputs[0].startswith("sha256:")
    statistics = lake.commits("push/readings")[0]
    assert statistics.operation == "CREATE TABLE"


def test_personal_data_stay_out_of_the_journals_statistics(con, contract, lake):
    Journal(lake, contract, "run-1").append(push.check(con, contract, [event(1, note="secret")], at=NOW))
    logged = "".join(
        path.read_text() for path in (lake.root / "push" / "readings" / "_delta_log").glob("*.json")
    )
    assert "level" in logged
    assert "secret" not in logged


def test_an_empty_batch_makes_no_commit(con, contract, lake):
    assert Journal(lake, contract, "run-1").append(push.check(con, contract, [], at=NOW)) is None
    assert not lake.exists("push/readings")


def test_the_journal_gives_back_what_is_not_known_elsewhere(con, contract, lake):
    journal = Journal(lake, contract, "run-1")
    there = known(con, push.check(con, contract, [event(2)], at=NOW).rows)
    assert journal.accepted(con, there, NOW).num_rows == 0
    journal.append(push.check(con, contract, [event(3), event(1), event(2), event(5, level=7)], at=NOW))
    journal.append(push.check(con, contract, [event(3)], at=NOW))  # two who push at once
    since = datetime(2024, 3, 5, tzinfo=UTC)
    assert journal.accepted(con, there, since)["level"].to_pylist() == [2, 6]
    assert journal.accepted(con, there, since + timedelta(minutes=3))["level"].to_pylist() == [6]


def test_closings_remember_the_latest_instant(con, lake):
    closings = Closings(lake, "run-1")
    assert closings.last(con) is None
    closings.append(NOW)
    closings.append(NOW - timedelta(hours=1))
    assert closings.last(con) == NOW
