"""The compiled rules against Great Expectations itself, on DuckDB and on pandas: the same counts and verdicts."""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import duckdb
import numpy as np
import pandas as pd
import pyarrow as pa
import pytest

from contrail import duck, expectations, gx_engine
from contrail.contracts import Column, Contract, Rule, landed_schema, load_contracts
from contrail.expectations import Outcome
from tests.support import contract_files as files

CONTRACTS = load_contracts(Path(__file__).resolve().parents[2] / "contracts")
ROWS = 1500
# Expectations over SQL text, and those that GX judges by names of types of its own.
NOT_ON_PANDAS = {"unexpected_rows_expectation"}


@pytest.fixture(scope="module")
def con():
    with duck.connect() as connection:
        yield connection


def compiled(
    con: duckdb.DuckDBPyConnection, relation: str, rules: Sequence[Rule], columns: Sequence[str]
) -> list[Outcome]:
    made = [expectations.compile_rule(rule, columns) for rule in rules]
    assert not [one.rule.expectation for one in made if one.kind == "fallback"]
    return expectations.evaluate(con, relation, made, columns=columns)[None]


def on_pandas(frame: pd.DataFrame, rules: Sequence[Rule]) -> list[dict[str, Any]]:
    import great_expectations as gx

    context = gx.get_context(mode="ephemeral")
    context.variables.progress_bars = {"globally": False, "metric_calculations": False}
    asset = context.data_sources.add_pandas("frame").add_dataframe_asset("frame")
    batch = asset.add_batch_definition_whole_dataframe("all").get_batch(batch_parameters={"dataframe": frame})
    found = []
    for rule in rules:
        result = batch.validate(gx_engine.expectation_of(rule), result_format="SUMMARY").to_json_dict()
        raised = [
            v
            for v in (result["exception_info"] or {}).values()
            if isinstance(v, dict) and v.get("raised_exception")
        ]
        assert not raised, (rule, raised)
        found.append(result)
    return found


def counted(rule: Rule, outcome: Outcome) -> int:
    """Unexpected rows; of a set of distinct values GX counts the unexpected values, which we do not."""
    return 0 if rule.expectation == "expect_column_distinct_values_to_be_in_set" else outcome.unexpected_count


def same_number(ours: str | None, theirs: str | None) -> bool:
    """Whether two observed values are the same number; lists and column names are left to the verdict."""
    if ours is None or theirs is None or not re.fullmatch(r"[-+.e0-9]+", ours):
        return True
    return math.isclose(float(ours), float(theirs), rel_tol=1e-5)


def differences(
    con: duckdb.DuckDBPyConnection,
    relation: str,
    rules: Sequence[Rule],
    columns: Sequence[str],
    *,
    pandas: bool = True,
) -> str:
    """What the three do not agree on, in words."""
    ours = compiled(con, relation, rules, columns)
    found: list[str] = []
    for rule, mine, theirs in zip(rules, ours, gx_engine.validate(con, relation, rules), strict=True):
        if (mine.success, counted(rule, mine)) != (theirs.success, counted(rule, theirs)):
            found.append(f"{rule.name}: compiled {mine}, GX on DuckDB {theirs}")
        if not same_number(mine.observed, theirs.observed):
            found.append(f"{rule.name} observed: compiled {mine}, GX on DuckDB {theirs}")
        if theirs.element_count and (mine.element_count, mine.missing_count) != (
            theirs.element_count,
            theirs.missing_count,
        ):
            found.append(f"{rule.name} counts: compiled {mine}, GX on DuckDB {theirs}")
    if pandas:
        comparable = [i for i, rule in enumerate(rules) if rule.expectation not in NOT_ON_PANDAS]
        frame = con.execute(f"FROM {relation}").df()
        for i, result in zip(comparable, on_pandas(frame, [rules[i] for i in comparable]), strict=True):
            theirs = Outcome(0, 0, result["result"].get("unexpected_count") or 0, result["success"])
            if (ours[i].success, counted(rules[i], ours[i])) != (theirs.success, counted(rules[i], theirs)):
                found.append(f"{rules[i].name}: compiled {ours[i]}, GX on pandas {theirs}")
    return "\n".join(found)


def dirty_values(column: Column, rules: Sequence[Rule], seed: int) -> pa.Array:
    """Values near what the rules speak of, beyond it, and missing."""
    rng = np.random.default_rng(seed)
    kwargs = [rule.kwargs for rule in rules if rule.kwargs.get("column") == column.name]
    named = [value for kw in kwargs for value in kw.get("value_set", [])]
    bounds = [kw[key] for kw in kwargs for key in ("min_value", "max_value") if kw.get(key) is not None]
    missing = rng.random(ROWS) < 0.1
    if column.sql_type == "VARCHAR":
        pool = [
            *named,
            "UA",
            "N12345",
            "N1AA",
            "x1",
            "ABC",
            "AB",
            "",
            "é€",
            "JFK",
            "America/New_York",
            "D942DN",
        ]
        values: list[Any] = [str(value) for value in rng.choice(np.array(pool, dtype=object), ROWS)]
    elif column.sql_type == "TIMESTAMPTZ":
        start = np.datetime64("2024-01-01T00:00:00", "us")
        values = (start + rng.integers(0, 400, ROWS).astype("timedelta64[h]")).astype(object).tolist()
    elif column.sql_type == "DATE":
        values = (np.datetime64("2024-01-01", "D") + rng.integers(0, 20, ROWS)).astype(object).tolist()
    elif column.sql_type == "BOOLEAN":
        values = [bool(value) for value in rng.integers(0, 2, ROWS)]
    else:
        near = [value + step for value in [*bounds, *named] for step in (-1, 0, 1)] or [0]
        pool_of_numbers = np.array([*near, *rng.integers(0, 3000, 30)], dtype=float)
        values = [float(value) for value in rng.choice(pool_of_numbers, ROWS)]
        if column.sql_type != "DOUBLE":
            values = [round(value) for value in values]
    return pa.array(
        [None if gone else value for gone, value in zip(missing, values, strict=True)], column.arrow_type
    )


def dirty_table(contract: Contract, seed: int) -> pa.Table:
    arrays = [dirty_values(column, contract.rules, seed + i) for i, column in enumerate(contract.columns)]
    return pa.table(arrays, schema=landed_schema(contract))


@pytest.mark.parametrize("table", sorted(CONTRACTS))
def test_every_rule_of_the_contracts_is_what_gx_says(con, table):
    contract = CONTRACTS[table]
    con.register("source", dirty_table(contract, seed=20240305))
    con.execute("CREATE OR REPLACE TEMP TABLE dirty AS FROM source")
    broken = compiled(con, "dirty", contract.rules, contract.column_names)
    assert sum(not one.success for one in broken) > len(broken) / 2, "the data is not dirty enough to tell"
    assert differences(con, "dirty", contract.rules, contract.column_names) == ""


def test_contracts_are_known_to_gx_as_a_suite():
    for contract in CONTRACTS.values():
        suite = gx_engine.build_suite(contract)
        assert [one.meta["rule"] for one in suite.expectations] == [rule.name for rule in contract.rules]
        assert [one.configuration.type for one in suite.expectations] == [
            rule.expectation for rule in contract.rules
        ]


EITHER, ANY = {"ignore_row_if": "either_value_is_missing"}, {"ignore_row_if": "any_value_is_missing"}
COLUMNS = ("n", "m", "x", "word", "code", "day_at", "key")
CASES: list[tuple[str, dict[str, Any]]] = [
    ("expect_column_values_to_be_null", {"column": "word"}),
    ("expect_column_values_to_not_be_null", {"column": "word"}),
    ("expect_column_values_to_not_be_null", {"column": "word", "mostly": 0.5}),
    ("expect_column_values_to_be_between", {"column": "n", "min_value": 3, "max_value": 7}),
    ("expect_column_values_to_be_between", {"column": "n", "min_value": 3, "strict_min": True}),
    (
        "expect_column_values_to_be_between",
        {"column": "x", "max_value": 0.5, "strict_max": True, "mostly": 0.3},
    ),
    ("expect_column_values_to_be_in_set", {"column": "word", "value_set": ["alpha", "beta"]}),
    ("expect_column_values_to_be_in_set", {"column": "n", "value_set": [1, 2, 3]}),
    ("expect_column_values_to_not_be_in_set", {"column": "word", "value_set": ["alpha", "it's"]}),
    ("expect_column_values_to_match_regex", {"column": "word", "regex": "^[a-z]+$"}),
    ("expect_column_values_to_match_regex", {"column": "word", "regex": "a"}),
    ("expect_column_values_to_not_match_regex", {"column": "word", "regex": "'"}),
    ("expect_column_values_to_match_regex_list", {"column": "word", "regex_list": ["^a", "a$"]}),
    (
        "expect_column_values_to_match_regex_list",
        {"column": "word", "regex_list": ["^a", "a$"], "match_on": "all"},
    ),
    ("expect_column_values_to_not_match_regex_list", {"column": "word", "regex_list": ["^b", "m"]}),
    ("expect_column_value_lengths_to_equal", {"column": "word", "value": 5}),
    ("expect_column_value_lengths_to_be_between", {"column": "word", "min_value": 2, "max_value": 4}),
    ("expect_column_pair_values_a_to_be_greater_than_b", {"column_A": "n", "column_B": "m", **EITHER}),
    (
        "expect_column_pair_values_a_to_be_greater_than_b",
        {"column_A": "n", "column_B": "m", "or_equal": True, **EITHER},
    ),
    ("expect_column_pair_values_to_be_equal", {"column_A": "n", "column_B": "m", **EITHER}),
    (
        "expect_column_pair_values_to_be_in_set",
        {"column_A": "n", "column_B": "word", "value_pairs_set": [(1, "alpha"), (2, "beta")], **EITHER},
    ),
    ("expect_select_column_values_to_be_unique_within_record", {"column_list": ["n", "m", "key"], **ANY}),
    ("expect_multicolumn_sum_to_equal", {"column_list": ["n", "m"], "sum_total": 9, **ANY}),
    (
        "unexpected_rows_expectation",
        {"unexpected_rows_query": "SELECT * FROM {batch} WHERE n > m OR word LIKE 'a%'"},
    ),
    ("expect_column_values_to_be_unique", {"column": "n"}),
    ("expect_column_values_to_be_unique", {"column": "key"}),
    ("expect_compound_columns_to_be_unique", {"column_list": ["word", "n", "m"], **ANY}),
    ("expect_column_mean_to_be_between", {"column": "x", "min_value": 0.4, "max_value": 0.6}),
    ("expect_column_median_to_be_between", {"column": "n", "min_value": 9}),
    ("expect_column_stdev_to_be_between", {"column": "x", "max_value": 0.1}),
    ("expect_column_sum_to_be_between", {"column": "n", "min_value": 1}),
    ("expect_column_min_to_be_between", {"column": "n", "min_value": 0, "strict_min": True}),
    ("expect_column_max_to_be_between", {"column": "n", "max_value": 9}),
    ("expect_column_unique_value_count_to_be_between", {"column": "word", "min_value": 2, "max_value": 3}),
    ("expect_column_proportion_of_unique_values_to_be_between", {"column": "key", "min_value": 1}),
    ("expect_column_proportion_of_non_null_values_to_be_between", {"column": "word", "min_value": 0.95}),
    ("expect_column_distinct_values_to_be_in_set", {"column": "word", "value_set": ["alpha"]}),
    ("expect_column_distinct_values_to_contain_set", {"column": "word", "value_set": ["alpha"]}),
    ("expect_column_distinct_values_to_equal_set", {"column": "n", "value_set": list(range(10))}),
    ("expect_table_row_count_to_be_between", {"min_value": 1, "max_value": 10}),
    ("expect_table_row_count_to_equal", {"value": ROWS}),
    ("expect_table_column_count_to_equal", {"value": len(COLUMNS)}),
    ("expect_table_column_count_to_be_between", {"min_value": 9}),
    ("expect_table_columns_to_match_set", {"column_set": list(reversed(COLUMNS))}),
    ("expect_table_columns_to_match_set", {"column_set": ["n"], "exact_match": False}),
    ("expect_table_columns_to_match_ordered_list", {"column_list": list(reversed(COLUMNS))}),
    ("expect_column_to_exist", {"column": "absent"}),
    ("expect_column_to_exist", {"column": "m", "column_index": 1}),
]
# SQL patterns are nothing that GX can do on pandas; neither is SQL.
LIKE_CASES: list[tuple[str, dict[str, Any]]] = [
    ("expect_column_values_to_match_like_pattern", {"column": "word", "like_pattern": "a%"}),
    ("expect_column_values_to_not_match_like_pattern", {"column": "word", "like_pattern": "%m%"}),
    (
        "expect_column_values_to_match_like_pattern_list",
        {"column": "word", "like_pattern_list": ["a%", "b%"]},
    ),
    (
        "expect_column_values_to_match_like_pattern_list",
        {"column": "word", "like_pattern_list": ["a%", "%a"], "match_on": "all"},
    ),
    (
        "expect_column_values_to_not_match_like_pattern_list",
        {"column": "word", "like_pattern_list": ["b%", "g%"]},
    ),
    # What GX itself counts differently on pandas: a pair of which one value is missing.
    ("expect_column_pair_values_a_to_be_greater_than_b", {"column_A": "n", "column_B": "m"}),
    ("expect_column_pair_values_to_be_equal", {"column_A": "n", "column_B": "m"}),
    ("expect_multicolumn_sum_to_equal", {"column_list": ["n", "m"], "sum_total": 9}),
    ("expect_select_column_values_to_be_unique_within_record", {"column_list": ["n", "m"]}),
    ("unexpected_rows_expectation", {"unexpected_rows_query": "SELECT * FROM {batch} WHERE word = '{{' ;"}),
]


def numbered(cases: list[tuple[str, dict[str, Any]]]) -> list[Rule]:
    return [Rule(f"{i}:{kind}", "warn", kind, kwargs) for i, (kind, kwargs) in enumerate(cases)]


@pytest.fixture(scope="module")
def dirty(con):
    rng = np.random.default_rng(7)

    def gone(values: Any) -> list[Any]:
        return [None if skip else value for skip, value in zip(rng.random(ROWS) < 0.1, values, strict=True)]

    words = np.array(["alpha", "beta", "gamma", "it's", "x", "é€z", "Alpha", "{"], dtype=object)
    table = pa.table(
        {
            "n": pa.array(gone([int(v) for v in rng.integers(0, 10, ROWS)]), pa.int32()),
            "m": pa.array(gone([int(v) for v in rng.integers(0, 10, ROWS)]), pa.int32()),
            "x": pa.array(gone([float(v) for v in rng.random(ROWS)]), pa.float64()),
            "word": pa.array(gone(rng.choice(words, ROWS).tolist()), pa.string()),
            "code": pa.array(rng.choice(words, ROWS).tolist(), pa.string()),
            "day_at": pa.array(
                gone([1_700_000_000_000_000 + i for i in range(ROWS)]), pa.timestamp("us", tz="UTC")
            ),
            "key": pa.array(range(ROWS), pa.int32()),
        }
    )
    assert tuple(table.column_names) == COLUMNS
    con.register("dirty_source", table)
    con.execute("CREATE OR REPLACE TEMP TABLE dirty_rows AS FROM dirty_source")
    return "dirty_rows"


def test_every_compiled_expectation_is_what_gx_says(con, dirty):
    assert differences(con, dirty, numbered(CASES), COLUMNS) == ""


def test_expectations_that_only_sql_can_run_are_what_gx_says_on_duckdb(con, dirty):
    assert differences(con, dirty, numbered(LIKE_CASES), COLUMNS, pandas=False) == ""


def test_keys_that_lack_the_same_part_are_the_same_key_as_in_gx_on_pandas(con, dirty):
    rule = Rule("key", "warn", "expect_compound_columns_to_be_unique", {"column_list": ["word", "n", "m"]})
    (ours,) = compiled(con, dirty, [rule], COLUMNS)
    (on_frame,) = on_pandas(con.execute(f"FROM {dirty}").df(), [rule])
    (on_duckdb,) = gx_engine.validate(con, dirty, [rule])
    assert ours.unexpected_count == on_frame["result"]["unexpected_count"]
    assert ours.unexpected_count > on_duckdb.unexpected_count


def test_no_compiled_expectation_is_left_out_above():
    from contrail.expectation_sql import COMPILERS

    assert COMPILERS.keys() == {kind for kind, _ in [*CASES, *LIKE_CASES]}


def test_a_table_without_rows_is_judged_as_gx_judges_it(con, dirty):
    con.execute("CREATE OR REPLACE TEMP TABLE no_rows AS SELECT * FROM dirty_rows WHERE false")
    assert differences(con, "no_rows", numbered(CASES), COLUMNS, pandas=False) == ""


def test_an_expectation_that_is_not_compiled_is_run_by_gx_per_group(con):
    con.execute(
        "CREATE OR REPLACE TEMP TABLE grouped AS SELECT i % 3 AS g, i + 1000 * (i % 3) AS n FROM range(300) t(i)"
    )
    rule = Rule(
        "quantiles",
        "warn",
        "expect_column_quantile_values_to_be_between",
        {"column": "n", "quantile_ranges": {"quantiles": [0.5], "value_ranges": [[0, 999]]}},
    )
    made = expectations.compile_rule(rule, ("n",))
    assert made.kind == "fallback"
    found = expectations.evaluate(con, "grouped", [made], columns=("n",), group_by="g", groups=[0, 1, 2])
    assert [found[group][0].success for group in (0, 1, 2)] == [True, False, False]


def test_gx_leaves_the_callers_transaction_alone(con, dirty):
    con.execute("BEGIN")
    con.execute("CREATE TEMP TABLE half_done AS SELECT 1 AS a")
    gx_engine.validate(con, dirty, numbered(CASES[:1]))
    con.execute("ROLLBACK")
    assert con.execute("SELECT count(*) FROM duckdb_tables() WHERE table_name = 'half_done'").fetchone() == (
        0,
    )


def test_what_gx_refuses_is_said_with_the_rule(con, dirty):
    with pytest.raises(gx_engine.GxError, match="rule odd: Great Expectations refuses expect_nothing"):
        gx_engine.expectation_of(Rule("odd", "warn", "expect_nothing", {}))
    absent = Rule("odd", "warn", "expect_column_max_to_be_between", {"column": "absent", "max_value": 1})
    with pytest.raises(gx_engine.GxError, match="rule odd: Great Expectations could not evaluate"):
        gx_engine.validate(con, dirty, [absent])


def test_the_contract_of_the_ingestion_tests_is_a_suite_too(tmp_path):
    assert len(gx_engine.build_suite(files.contract(tmp_path)).expectations) == 4
