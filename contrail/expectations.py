"""Great Expectations' language, run as one DuckDB scan.

A contract's rules name expectations of Great Expectations (GX). Each is compiled to SQL: conditions over a row,
uniqueness of a key, aggregates of a group, statements about the columns. `evaluate` then counts all of them for all
groups (files, partitions) together: one scan, and one GROUP BY per uniqueness rule. The numbers are those of GX itself
(`contrail.gx_engine`), which is what runs an expectation that is not compiled here.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import duckdb

from contrail.contracts import Contract, Rule
from contrail.duck import quote_identifier as quoted
from contrail.expectation_sql import COMPILERS, CompiledRule, ExpectationError

__all__ = ["CompiledRule", "ExpectationError", "Outcome", "compile_rule", "compile_rules", "evaluate"]

# Arguments that do not change what is counted.
_IGNORED_ARGUMENTS = frozenset(
    {"meta", "notes", "description", "severity", "result_format", "catch_exceptions"}
)
# Expectations whose arguments may name columns that are not there: that is what they judge.
_JUDGE_COLUMNS = frozenset({"expect_column_to_exist", "expect_table_columns_to_match_ordered_list"})


@dataclass(frozen=True)
class Outcome:
    """What a rule found in one group: counts in rows; `observed` in words where the rule judges a value."""

    element_count: int
    missing_count: int
    unexpected_count: int
    success: bool
    observed: str | None = None


def compile_rules(contract: Contract) -> list[CompiledRule]:
    """A contract's rules in its order; and its key, where none of them says that it is unique.

    Raises:
        ExpectationError: an argument is missing or names a column that the contract does not have.
    """
    compiled = [compile_rule(rule, contract.column_names) for rule in contract.rules]
    key = contract.primary_key
    if not any(one.kind == "unique" and one.rejects and set(one.key) == set(key) for one in compiled):
        arguments = {"column_list": list(key)}
        unique = Rule(
            "unique_key", "reject", "expect_compound_columns_to_be_unique", arguments, "The key is unique."
        )
        compiled.append(compile_rule(unique, contract.column_names))
    return compiled


def compile_rule(rule: Rule, columns: Sequence[str]) -> CompiledRule:
    """One rule; an expectation or an argument that is not known here becomes a ``fallback``.

    Raises:
        ExpectationError: an argument is missing or names a column that is not among `columns`.
    """
    arguments = {key: value for key, value in rule.kwargs.items() if key not in _IGNORED_ARGUMENTS}
    used = [arguments[key] for key in ("column", "column_A", "column_B") if key in arguments]
    unknown = [name for name in (*used, *arguments.get("column_list", ())) if name not in columns]
    if unknown and rule.expectation not in _JUDGE_COLUMNS:
        raise ExpectationError(
            f"rule {rule.name}: no column {', '.join(unknown)} (there are {', '.join(columns)})"
        )
    entry = COMPILERS.get(rule.expectation)
    if entry is None:
        return CompiledRule(rule, "fallback")
    known, compiler = entry
    if not arguments.keys() <= known:
        return CompiledRule(rule, "fallback")
    try:
        return compiler(rule, arguments)
    except KeyError as error:
        raise ExpectationError(f"rule {rule.name}: {rule.expectation} needs the argument {error}") from error
    except ExpectationError as error:
        raise ExpectationError(f"rule {rule.name}: {error}") from error


def evaluate(
    con: duckdb.DuckDBPyConnection,
    relation: str,
    rules: Sequence[CompiledRule],
    *,
    columns: Sequence[str],
    group_by: str | None = None,
    groups: Sequence[Any] = (None,),
) -> dict[Any, list[Outcome]]:
    """Count all rules in all groups.

    Args:
        relation: name of the table or view.
        columns: those of its columns that the rules are about.
        group_by: the column whose values are the groups; None: the whole relation is one group, called None.
        groups: the values to report on; one without rows is judged as an empty table.

    Returns:
        Per group, one outcome per rule, in the rules' order.
    """
    counted = _scan(con, relation, rules, group_by)
    without_rows = [group for group in groups if group not in counted]
    if without_rows:  # a group that has no row is no group to SQL: it is judged as an empty table
        (nothing,) = _scan(con, relation, rules, None, where="WHERE false").values()
        counted |= dict.fromkeys(without_rows, nothing)
    duplicates = {
        i: _duplicates(con, relation, rule, group_by) for i, rule in enumerate(rules) if rule.kind == "unique"
    }
    outcomes: dict[Any, list[Outcome]] = {}
    for group in groups:
        values = counted[group]
        rows = int(values["count(*)"])
        judged: list[Outcome] = []
        for position, one in enumerate(rules):
            if one.kind in ("row", "unique"):
                counts = (
                    duplicates[position] if one.kind == "unique" else {group: values.get(_count(one.bad), 0)}
                )
                missing = int(values.get(_count(one.missing), 0))
                judged.append(_map_outcome(one, rows, missing, int(counts.get(group, 0))))
            elif one.kind == "aggregate":
                value = values[one.value]
                judged.append(Outcome(rows, 0, 0, one.judge(value), _in_words(value)))
            elif one.kind == "columns":
                judged.append(Outcome(rows, 0, 0, one.judge(list(columns)), ", ".join(columns)))
            else:
                judged.append(_by_gx(con, relation, one.rule, columns, group_by, group))
        outcomes[group] = judged
    return outcomes


def _scan(
    con: duckdb.DuckDBPyConnection,
    relation: str,
    rules: Sequence[CompiledRule],
    group_by: str | None,
    where: str = "",
) -> dict[Any, dict[str, Any]]:
    """Group → SQL expression → value, in one scan; an expression that several rules share is computed once."""
    wanted = {"count(*)": None}
    for one in rules:
        if one.kind == "row":
            wanted[_count(one.bad)] = None
        if one.kind in ("row", "unique"):
            wanted[_count(one.missing)] = None
        if one.kind == "aggregate":
            wanted[one.value] = None
    expressions = [expression for expression in wanted if expression != _count("false")]
    group = quoted(group_by) if group_by else "NULL"
    by = f"GROUP BY {group}" if group_by else ""
    query = f"SELECT {group}, {', '.join(expressions)} FROM {quoted(relation)} {where} {by}"
    return {row[0]: dict(zip(expressions, row[1:], strict=True)) for row in con.execute(query).fetchall()}


def _duplicates(
    con: duckdb.DuckDBPyConnection, relation: str, one: CompiledRule, group_by: str | None
) -> dict[Any, int]:
    """Group → rows whose key occurs more than once in the group."""
    group = quoted(group_by) if group_by else "NULL"
    key = ", ".join(quoted(column) for column in one.key)
    by = f"{group}, {key}" if group_by else key
    query = (
        f"SELECT g, sum(n)::BIGINT FROM (SELECT {group} AS g, count(*) AS n FROM {quoted(relation)} "
        f"WHERE NOT {one.missing} GROUP BY {by} HAVING count(*) > 1) GROUP BY g"
    )
    return dict(con.execute(query).fetchall())


def _by_gx(
    con: duckdb.DuckDBPyConnection,
    relation: str,
    rule: Rule,
    columns: Sequence[str],
    group_by: str | None,
    group: Any,
) -> Outcome:
    from contrail import gx_engine  # Great Expectations costs seconds to import

    with gx_engine.group_view(con, relation, columns, group_by, group) as view:
        return gx_engine.validate(con, view, [rule])[0]


def _map_outcome(one: CompiledRule, rows: int, missing: int, unexpected: int) -> Outcome:
    judged = rows - missing
    share = 1.0 if judged == 0 else (judged - unexpected) / judged
    return Outcome(rows, missing, unexpected, share >= one.rule.kwargs.get("mostly", 1.0))


def _in_words(value: Any) -> str | None:
    return None if value is None else f"{value:.6g}" if isinstance(value, float) else str(value)


def _count(condition: str) -> str:
    return f"count(*) FILTER (WHERE {condition})"
