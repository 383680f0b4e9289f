"""How commands speak: tables for people, one JSON document for programs, one line for an error."""

from __future__ import annotations

import json
import sys
from dataclasses import dataclass
from datetime import UTC, date, datetime
from pathlib import Path

import pytest

from cli import output


@dataclass(frozen=True)
class Inner:
    at: datetime
    days: frozenset[date]


@dataclass(frozen=True)
class Outer:
    name: str
    inner: Inner
    places: tuple[Path, ...]


def test_a_table_aligns_names_left_and_numbers_right():
    text = output.table([{"name": "a", "rows": 5}, {"name": "long", "rows": 12_345}], ["name", "rows"])
    assert text.split("\n") == [
        "  name    rows",
        "  ----  ------",
        "  a          5",
        "  long  12,345",
    ]


def test_a_table_without_rows_is_its_head():
    assert output.table([], ["name", "rows"]).split("\n") == ["  name  rows", "  ----  ----"]


@pytest.mark.parametrize(
    ("value", "shown"),
    [
        (7.8, "7.8"),
        (0.77123, "0.7712"),
        (0.5, "0.5"),
        (3.0, "3.0"),
        (-0.25, "-0.25"),
        (0.0, "0.0"),
        (12.34, "12.3"),
        (1234.56, "1,234.6"),
        (float("nan"), "nan"),
        (None, ""),
        (True, "yes"),
        (False, "no"),
        (1234, "1,234"),
        (datetime(2013, 3, 8, 7, tzinfo=UTC), "2013-03-08 07:00Z"),
        ("text", "text"),
    ],
)
def test_a_cell_shows_what_is_meant(value, shown):
    assert output.table([{"x": value}], ["x"]).split("\n")[2].strip() == shown


def test_a_missing_value_leaves_its_place_empty():
    assert output.table([{"a": 1, "b": None}, {"a": 2, "b": "x"}], ["a", "b"]).split("\n")[2:] == [
        "  1",
        "  2  x",
    ]


def test_json_understands_dataclasses_times_sets_tuples_and_paths(capsys):
    at = datetime(2013, 3, 8, 7, tzinfo=UTC)
    output.print_json(Outer("x", Inner(at, frozenset({date(2013, 3, 8)})), (Path("a/b"),)))
    assert json.loads(capsys.readouterr().out) == {
        "name": "x",
        "inner": {"at": "2013-03-08T07:00:00+00:00", "days": ["2013-03-08"]},
        "places": ["a/b"],
    }


def test_json_is_json_though_a_number_is_none(capsys):
    output.print_json({"auc": float("nan"), "nested": [float("inf"), 1.5]})
    text = capsys.readouterr().out
    assert json.loads(text, parse_constant=lambda name: pytest.fail(f"{name} is not JSON")) == {
        "auc": None,
        "nested": [None, 1.5],
    }


def test_known_errors_become_failures_and_others_stay_defects():
    with (
        pytest.raises(output.Failure, match="what is wrong") as failure,
        output.failures(KeyError, ValueError),
    ):
        raise ValueError("what is wrong")
    assert failure.value.code == output.EXIT_FAILED
    assert isinstance(failure.value.__cause__, ValueError)
    with pytest.raises(ZeroDivisionError), output.failures(ValueError):
        _ = 1 / 0


def test_a_failure_is_one_line_on_stderr_or_one_document_on_stdout(capsys, monkeypatch):
    monkeypatch.setattr(sys, "argv", ["contrail", "run"])
    assert output.report_failure(output.Failure("no such folder", code=3)) == 3
    said = capsys.readouterr()
    assert (said.out, said.err) == ("", "contrail: no such folder\n")
    monkeypatch.setattr(sys, "argv", ["contrail", "run", "--json"])
    assert output.report_failure(output.Failure("no such folder")) == 1
    said = capsys.readouterr()
    assert (json.loads(said.out), said.err) == ({"error": "no such folder"}, "")
