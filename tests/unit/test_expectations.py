"""The compiler of expectations: what becomes SQL, what is left to GX, what is refused, and counts per group."""

from __future__ import annotations

import subprocess
import sys
from datetime import UTC, date, datetime
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest

from contrail import duck
from contrail.contracts import Rule
from contrail.expectation_sql import literal
from contrail.expectations import ExpectationError, Outcome, compile_rule, compile_rules, evaluate
from tests.support import contract_files as files

ROOT = Path(__file__).resolve().parents[2]
COLUMNS = ("n", "word", "at")


@pytest.fixture
def con():
    with duck.connect() as connection:
        connection.execute(
            "CREATE TABLE t AS SELECT * FROM (VALUES "
            "('a', 1, 'x', TIMESTAMPTZ '2024-01-01 00:00:00Z'), ('a', 1, NULL, NULL), "
            "('b', 5, 'y', TIMESTAMPTZ '2024-01-02 00:00:00Z'), ('b', NULL, 'it''s', NULL)) v(g, n, word, \"at\")"
        )
        yield connection


def rule(expectation: str, **kwargs: Any) -> Rule:
    return Rule("r", "warn", expectation, kwargs)


def one(con: Any, expectation: str, **kwargs: Any) -> Outcome:
    return evaluate(con, "t", [compile_rule(rule(expectation, **kwargs), COLUMNS)], columns=COLUMNS)[None][0]


def test_counts_are_per_group_and_a_group_without_rows_is_an_empty_table(con):
    rules = [
        compile_rule(rule("expect_column_values_to_be_between", column="n", max_value=3), COLUMNS),
        compile_rule(rule("expect_column_values_to_be_unique", column="n"), COLUMNS),
        compile_rule(rule("expect_table_row_count_to_be_between", min_value=1), COLUMNS),
        compile_rule(rule("expect_column_max_to_be_between", column="n", max_value=9), COLUMNS),
    ]
    found = evaluate(con, "t", rules, columns=COLUMNS, group_by="g", groups=["a", "b", "c"])
    assert found["a"] == [
        Outcome(2, 0, 0, True),
        Outcome(2, 0, 2, False),
        Outcome(2, 0, 0, True, "2"),
        Outcome(2, 0, 0, True, "1"),
    ]
    assert found["b"] == [
        Outcome(2, 1, 1, False),
        Outcome(2, 1, 0, True),
        Outcome(2, 0, 0, True, "2"),
        Outcome(2, 0, 0, True, "5"),
    ]
    assert found["c"] == [
        Outcome(0, 0, 0, True),
        Outcome(0, 0, 0, True),
        Outcome(0, 0, 0, False, "0"),
        Outcome(0, 0, 0, False),
    ]


def test_one_scan_serves_all_rules(con):
    class Counting:
        def __init__(self) -> None:
            self.queries: list[str] = []

        def execute(self, query: str) -> Any:
            self.queries.append(query)
            return con.execute(query)

    kinds = [("expect_column_values_to_be_between", {"column": "n", "max_value": i}) for i in range(20)]
    rules = [compile_rule(rule(kind, **kwargs), COLUMNS) for kind, kwargs in kinds]
    rules.append(compile_rule(rule("expect_column_values_to_be_unique", column="word"), COLUMNS))
    counting: Any = Counting()
    evaluate(counting, "t", rules, columns=COLUMNS, group_by="g", groups=["a", "b"])
    assert len(counting.queries) == 2  # the scan, and one for the uniqueness rule
    assert counting.queries[0].count('"n" IS NULL') == 1  # what rules share is computed once


@pytest.mark.parametrize(("mostly", "success"), [(1.0, False), (0.67, False), (0.66, True), (0.0, True)])
def test_mostly_is_a_share_of_the_rows_that_are_not_missing(con, mostly, success):
    found = one(con, "expect_column_values_to_be_between", column="n", max_value=3, mostly=mostly)
    assert found == Outcome(4, 1, 1, success)


@pytest.mark.parametrize(
    ("kwargs", "success"),
    [
        ({"min_value": 5, "max_value": 5}, True),
        ({"min_value": 5, "strict_min": True}, False),
        ({"max_value": 5, "strict_max": True}, False),
        ({}, True),
    ],
)
def test_bounds_of_aggregates(con, kwargs, success):
    assert one(con, "expect_column_max_to_be_between", column="n", **kwargs).success is success


def test_values_are_quoted(con):
    assert (
        one(con, "expect_column_values_to_not_be_in_set", column="word", value_set=["it's"]).unexpected_count
        == 1
    )
    assert one(con, "expect_column_values_to_not_match_regex", column="word", regex="'").unexpected_count == 1
    con.execute('CREATE TABLE odd AS SELECT 1 AS "a ""b"""')
    compiled = compile_rule(rule("expect_column_values_to_be_null", column='a "b"'), ['a "b"'])
    assert evaluate(con, "odd", [compiled], columns=['a "b"'])[None][0].unexpected_count == 1


def test_instants_are_compared_as_instants(con):
    late = datetime(2024, 1, 1, 12, tzinfo=UTC)
    assert one(con, "expect_column_values_to_be_between", column="at", max_value=late).unexpected_count == 1


@pytest.mark.parametrize(
    ("value", "sql"),
    [
        (None, "NULL"),
        (True, "true"),
        (3, "3"),
        (1.5, "1.5"),
        (Decimal("2.50"), "2.50"),
        (date(2024, 1, 2), "DATE '2024-01-02'"),
        (datetime(2024, 1, 2, tzinfo=UTC), "TIMESTAMPTZ '2024-01-02T00:00:00+00:00'"),
        ("it's", "'it''s'"),
    ],
)
def test_literals(value, sql):
    assert literal(value) == sql


@pytest.mark.parametrize(
    ("query", "kind"),
    [
        ("SELECT * FROM {batch} WHERE n > 3", "row"),
        ("select *\nfrom {batch}\nwhere n > 3 ;", "row"),
        ("SELECT n FROM {batch} WHERE n > 3", "fallback"),
        ("SELECT * FROM {batch} WHERE n > (SELECT avg(n) FROM {batch})", "fallback"),
        ("SELECT * FROM {batch} WHERE n > 3 LIMIT 1", "fallback"),
        ("SELECT * FROM {batch} JOIN {batch} b USING (n)", "fallback"),
    ],
)
def test_unexpected_rows_is_a_row_rule_only_where_it_is_a_plain_condition(query, kind):
    assert (
        compile_rule(rule("unexpected_rows_expectation", unexpected_rows_query=query), COLUMNS).kind == kind
    )


@pytest.mark.parametrize(
    ("expectation", "kwargs"),
    [
        ("expect_column_value_z_scores_to_be_less_than", {"column": "n", "threshold": 3}),
        ("expect_column_values_to_be_between", {"column": "n", "row_condition": "word IS NULL"}),
        ("expect_something_of_ones_own", {}),
    ],
)
def test_what_is_not_known_is_left_to_gx(expectation, kwargs):
    assert compile_rule(rule(expectation, **kwargs), COLUMNS).kind == "fallback"


@pytest.mark.parametrize(
    ("expectation", "kwargs", "words"),
    [
        ("expect_column_values_to_be_between", {"column": "m"}, "rule r: no column m"),
        ("expect_compound_columns_to_be_unique", {"column_list": ["n", "q"]}, "rule r: no column q"),
        ("expect_column_values_to_be_in_set", {"column": "n"}, "needs the argument 'value_set'"),
        (
            "expect_compound_columns_to_be_unique",
            {"column_list": ["n"], "ignore_row_if": "sometimes"},
            "rule r: ignore_row_if: 'sometimes' is not known",
        ),
    ],
)
def test_rules_that_cannot_be_meant_are_refused(expectation, kwargs, words):
    with pytest.raises(ExpectationError, match=words):
        compile_rule(rule(expectation, **kwargs), COLUMNS)


def test_the_key_is_unique_though_no_rule_says_so(tmp_path):
    compiled = compile_rules(files.contract(tmp_path))
    assert [one.rule.name for one in compiled][-1] == "unique_key"
    assert compiled[-1].key == ("station", "taken_at")
    changed = files.document()
    changed["schema"][0]["quality"].append(
        files.rule(
            "own", "reject", "expect_compound_columns_to_be_unique", column_list=["taken_at", "station"]
        )
    )
    names = [one.rule.name for one in compile_rules(files.contract(tmp_path, changed))]
    assert names[-1] == "own"


def test_compiled_rules_run_without_loading_gx():
    program = (
        "import sys; from contrail import duck; from contrail.contracts import Rule; "
        "from contrail.expectations import compile_rule, evaluate; con = duck.connect(); "
        "con.execute('CREATE TABLE t AS SELECT 1 AS n'); "
        "made = compile_rule(Rule('r', 'warn', 'expect_column_values_to_be_unique', {'column': 'n'}), ['n']); "
        "assert evaluate(con, 't', [made], columns=['n'])[None][0].success; "
        "print('great_expectations' in sys.modules, 'pandas' in sys.modules)"
    )
    done = subprocess.run(
        [sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, check=True
    )
    assert done.stdout.split() == ["False", "False"]
