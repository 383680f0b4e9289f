"""The expectations that are known as SQL: one entry per expectation type of Great Expectations (GX).

NULL follows SQL, as it does in GX on a database: what cannot be compared is not unexpected. (One exception: two keys
that lack the same parts are the same key, as in GX on pandas; GX on a database passes over them.)
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import date, datetime
from decimal import Decimal
from typing import Any, Literal

from contrail.contracts import Rule
from contrail.duck import quote_identifier as quoted
from contrail.duck import quote_literal

Kind = Literal["row", "unique", "aggregate", "columns", "fallback"]
Arguments = Mapping[str, Any]

_WHERE_QUERY = re.compile(
    r"\s*SELECT\s+\*\s+FROM\s+\{batch\}\s+WHERE\s+(.*?)[\s;]*", re.IGNORECASE | re.DOTALL
)


class ExpectationError(ValueError):
    """An expectation lacks what it needs; the message names the rule."""


@dataclass(frozen=True)
class CompiledRule:
    """A rule as SQL.

    Attributes:
        kind: ``row`` judges rows by `bad`; ``unique`` judges `key`; ``aggregate`` judges the value of `value` with
            `judge`; ``columns`` judges the relation's column names; ``fallback`` is run by GX.
        bad: condition that is true for an unexpected row, and false or NULL for any other.
        missing: condition that is true for a row that is not judged because what it is judged by is missing.
        key: the columns that are unique together.
        value: SQL aggregate.
        judge: whether an observed value is as expected.
    """

    rule: Rule
    kind: Kind
    bad: str = "false"
    missing: str = "false"
    key: tuple[str, ...] = ()
    value: str = ""
    judge: Callable[[Any], bool] = field(default=bool, compare=False)

    @property
    def rejects(self) -> bool:
        """Whether breaking it sends rows to quarantine."""
        return self.rule.rule_class == "reject"


def literal(value: Any) -> str:
    """A value of a rule as SQL."""
    if value is None:
        return "NULL"
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, int | float | Decimal):
        return str(value)
    if isinstance(value, datetime):
        return f"TIMESTAMPTZ {quote_literal(value.isoformat())}"
    if isinstance(value, date):
        return f"DATE {quote_literal(value.isoformat())}"
    return quote_literal(str(value))


def _literals(values: Sequence[Any]) -> str:
    return ", ".join(literal(value) for value in values if value is not None) or "NULL"


def _of_column(condition: Callable[[str, Arguments], str]) -> Callable[[Rule, Arguments], CompiledRule]:
    """A condition over one column, whose NULLs are not judged."""

    def compiler(rule: Rule, arguments: Arguments) -> CompiledRule:
        column = quoted(arguments["column"])
        return CompiledRule(rule, "row", bad=f"({condition(column, arguments)})", missing=f"{column} IS NULL")

    return compiler


def _outside(value: str, arguments: Arguments, low: str = "min_value", high: str = "max_value") -> str:
    parts: list[str] = []
    if arguments.get(low) is not None:
        parts.append(f"{value} {'<=' if arguments.get('strict_min') else '<'} {literal(arguments[low])}")
    if arguments.get(high) is not None:
        parts.append(f"{value} {'>=' if arguments.get('strict_max') else '>'} {literal(arguments[high])}")
    return " OR ".join(parts) or "false"


def _matches(column: str, patterns: Sequence[str], function: str, joined: str) -> str:
    return joined.join(function.format(column=column, pattern=quote_literal(pattern)) for pattern in patterns)


_REGEX, _LIKE = "regexp_matches({column}, {pattern})", "{column} LIKE {pattern}"


def _pattern_list(argument: str, function: str) -> Callable[[str, Arguments], str]:
    def condition(column: str, arguments: Arguments) -> str:
        joined = " AND " if arguments.get("match_on") == "all" else " OR "
        return f"NOT ({_matches(column, arguments[argument], function, joined)})"

    return condition


def _null(rule: Rule, arguments: Arguments) -> CompiledRule:
    return CompiledRule(rule, "row", bad=f"{quoted(arguments['column'])} IS NOT NULL")


def _not_null(rule: Rule, arguments: Arguments) -> CompiledRule:
    return CompiledRule(rule, "row", bad=f"{quoted(arguments['column'])} IS NULL")


def _ignored(columns: Sequence[str], how: str) -> str:
    """The rows that an expectation over several columns passes over (its argument ``ignore_row_if``)."""
    nulls = [f"{quoted(column)} IS NULL" for column in columns]
    if how in ("both_values_are_missing", "all_values_are_missing"):
        return f"({' AND '.join(nulls)})"
    if how in ("either_value_is_missing", "any_value_is_missing"):
        return f"({' OR '.join(nulls)})"
    if how in ("neither", "never"):
        return "false"
    raise ExpectationError(f"ignore_row_if: {how!r} is not known")


def _of_pair(fine: Callable[[str, str, Arguments], str]) -> Callable[[Rule, Arguments], CompiledRule]:
    def compiler(rule: Rule, arguments: Arguments) -> CompiledRule:
        a, b = arguments["column_A"], arguments["column_B"]
        missing = _ignored([a, b], arguments.get("ignore_row_if", "both_values_are_missing"))
        condition = fine(quoted(a), quoted(b), arguments)
        return CompiledRule(rule, "row", bad=f"(NOT ({condition}) AND NOT {missing})", missing=missing)

    return compiler


def _greater(a: str, b: str, arguments: Arguments) -> str:
    return f"{a} >= {b} OR ({a} IS NULL AND {b} IS NULL)" if arguments.get("or_equal") else f"{a} > {b}"


def _pair_in(a: str, b: str, arguments: Arguments) -> str:
    pairs = [f"({a} = {literal(x)} AND {b} = {literal(y)})" for x, y in arguments["value_pairs_set"]]
    return " OR ".join(pairs) or "false"


def _of_record(fine: Callable[[list[str], Arguments], str]) -> Callable[[Rule, Arguments], CompiledRule]:
    def compiler(rule: Rule, arguments: Arguments) -> CompiledRule:
        columns = list(arguments["column_list"])
        missing = _ignored(columns, arguments.get("ignore_row_if", "all_values_are_missing"))
        condition = fine([quoted(column) for column in columns], arguments)
        return CompiledRule(rule, "row", bad=f"(NOT ({condition}) AND NOT {missing})", missing=missing)

    return compiler


def _all_different(columns: list[str], arguments: Arguments) -> str:
    pairs = [(a, b) for i, a in enumerate(columns) for b in columns[i + 1 :]]
    return " AND ".join(f"NOT ({a} = {b} OR ({a} IS NULL AND {b} IS NULL))" for a, b in pairs)


def _unexpected_rows(rule: Rule, arguments: Arguments) -> CompiledRule:
    """``SELECT * FROM {batch} WHERE condition``: the condition; any other query is left to GX."""
    query = _WHERE_QUERY.fullmatch(arguments["unexpected_rows_query"])
    if query is None or re.search(
        r"\{batch\}|\bSELECT\b|\bOVER\b|\bLIMIT\b|\bORDER\s+BY\b", query[1], re.IGNORECASE
    ):
        return CompiledRule(rule, "fallback")
    return CompiledRule(rule, "row", bad=f"({query[1].replace('{{', '{').replace('}}', '}')})")


def _unique(rule: Rule, arguments: Arguments) -> CompiledRule:
    columns = tuple(arguments["column_list"]) if "column_list" in arguments else (arguments["column"],)
    missing = _ignored(columns, arguments.get("ignore_row_if", "all_values_are_missing"))
    return CompiledRule(rule, "unique", missing=missing, key=columns)


def _between(value: str) -> Callable[[Rule, Arguments], CompiledRule]:
    """An aggregate, ``{column}`` standing for the column, that must lie between ``min_value`` and ``max_value``."""

    def compiler(rule: Rule, arguments: Arguments) -> CompiledRule:
        low, high = arguments.get("min_value"), arguments.get("max_value")
        strict_min, strict_max = bool(arguments.get("strict_min")), bool(arguments.get("strict_max"))

        def judge(observed: Any) -> bool:
            if observed is None:
                return False
            above = low is None or observed > low or (observed == low and not strict_min)
            return above and (high is None or observed < high or (observed == high and not strict_max))

        return CompiledRule(rule, "aggregate", value=_filled(value, arguments), judge=judge)

    return compiler


def _filled(value: str, arguments: Arguments) -> str:
    return value.format(column=quoted(arguments["column"])) if "{column}" in value else value


def _judged(value: str, judge: Callable[[Any, Arguments], bool], kind: Kind = "aggregate") -> Any:
    """An aggregate, or the list of columns, with a judgement of its own."""

    def compiler(rule: Rule, arguments: Arguments) -> CompiledRule:
        filled = _filled(value, arguments)
        return CompiledRule(rule, kind, value=filled, judge=lambda observed: judge(observed, arguments))

    return compiler


def _columns_match(columns: list[str], arguments: Arguments) -> bool:
    wanted = set(arguments["column_set"])
    return set(columns) == wanted if arguments.get("exact_match", True) else wanted <= set(columns)


def _columns_within(columns: list[str], arguments: Arguments) -> bool:
    low, high = arguments.get("min_value"), arguments.get("max_value")
    return (low is None or len(columns) >= low) and (high is None or len(columns) <= high)


def _column_exists(columns: list[str], arguments: Arguments) -> bool:
    index = arguments.get("column_index")
    name = arguments["column"]
    return name in columns if index is None else columns[index : index + 1] == [name]


_DISTINCT = "list(DISTINCT {column}) FILTER (WHERE {column} IS NOT NULL)"
_COLUMN, _MOSTLY = {"column"}, {"column", "mostly"}
_RANGE = {"min_value", "max_value", "strict_min", "strict_max"}
_PAIR = {"column_A", "column_B", "ignore_row_if", "mostly"}
_RECORD = {"column_list", "ignore_row_if", "mostly"}

# expectation → (the arguments that are understood, the compiler)
COMPILERS: dict[str, tuple[set[str], Callable[[Rule, Arguments], CompiledRule]]] = {
    "expect_column_values_to_be_null": (_MOSTLY, _null),
    "expect_column_values_to_not_be_null": (_MOSTLY, _not_null),
    "expect_column_values_to_be_between": (_MOSTLY | _RANGE, _of_column(_outside)),
    "expect_column_values_to_be_in_set": (
        _MOSTLY | {"value_set"},
        _of_column(lambda c, a: f"{c} NOT IN ({_literals(a['value_set'])})"),
    ),
    "expect_column_values_to_not_be_in_set": (
        _MOSTLY | {"value_set"},
        _of_column(lambda c, a: f"{c} IN ({_literals(a['value_set'])})"),
    ),
    "expect_column_values_to_match_regex": (
        _MOSTLY | {"regex"},
        _of_column(lambda c, a: f"NOT {_matches(c, [a['regex']], _REGEX, '')}"),
    ),
    "expect_column_values_to_not_match_regex": (
        _MOSTLY | {"regex"},
        _of_column(lambda c, a: _matches(c, [a["regex"]], _REGEX, "")),
    ),
    "expect_column_values_to_match_regex_list": (
        _MOSTLY | {"regex_list", "match_on"},
        _of_column(_pattern_list("regex_list", _REGEX)),
    ),
    "expect_column_values_to_not_match_regex_list": (
        _MOSTLY | {"regex_list"},
        _of_column(lambda c, a: _matches(c, a["regex_list"], _REGEX, " OR ")),
    ),
    "expect_column_values_to_match_like_pattern": (
        _MOSTLY | {"like_pattern"},
        _of_column(lambda c, a: f"NOT ({_matches(c, [a['like_pattern']], _LIKE, '')})"),
    ),
    "expect_column_values_to_not_match_like_pattern": (
        _MOSTLY | {"like_pattern"},
        _of_column(lambda c, a: _matches(c, [a["like_pattern"]], _LIKE, "")),
    ),
    "expect_column_values_to_match_like_pattern_list": (
        _MOSTLY | {"like_pattern_list", "match_on"},
        _of_column(_pattern_list("like_pattern_list", _LIKE)),
    ),
    "expect_column_values_to_not_match_like_pattern_list": (
        _MOSTLY | {"like_pattern_list"},
        _of_column(lambda c, a: _matches(c, a["like_pattern_list"], _LIKE, " OR ")),
    ),
    "expect_column_value_lengths_to_equal": (
        _MOSTLY | {"value"},
        _of_column(lambda c, a: f"length({c}) <> {literal(a['value'])}"),
    ),
    "expect_column_value_lengths_to_be_between": (
        _MOSTLY | _RANGE,
        _of_column(lambda c, a: _outside(f"length({c})", a)),
    ),
    "expect_column_pair_values_a_to_be_greater_than_b": (_PAIR | {"or_equal"}, _of_pair(_greater)),
    "expect_column_pair_values_to_be_equal": (
        _PAIR,
        _of_pair(lambda a, b, _: f"{a} = {b} AND {a} IS NOT NULL AND {b} IS NOT NULL"),
    ),
    "expect_column_pair_values_to_be_in_set": (_PAIR | {"value_pairs_set"}, _of_pair(_pair_in)),
    "expect_select_column_values_to_be_unique_within_record": (_RECORD, _of_record(_all_different)),
    "expect_multicolumn_sum_to_equal": (
        _RECORD | {"sum_total"},
        _of_record(lambda columns, a: f"{' + '.join(columns)} = {literal(a['sum_total'])}"),
    ),
    "unexpected_rows_expectation": ({"unexpected_rows_query"}, _unexpected_rows),
    "expect_column_values_to_be_unique": (_MOSTLY, _unique),
    "expect_compound_columns_to_be_unique": (_RECORD, _unique),
    "expect_column_mean_to_be_between": (_COLUMN | _RANGE, _between("avg({column})")),
    "expect_column_median_to_be_between": (_COLUMN | _RANGE, _between("median({column})")),
    "expect_column_stdev_to_be_between": (_COLUMN | _RANGE, _between("stddev_samp({column})")),
    "expect_column_sum_to_be_between": (_COLUMN | _RANGE, _between("sum({column})")),
    "expect_column_min_to_be_between": (_COLUMN | _RANGE, _between("min({column})")),
    "expect_column_max_to_be_between": (_COLUMN | _RANGE, _between("max({column})")),
    "expect_column_unique_value_count_to_be_between": (
        _COLUMN | _RANGE,
        _between("count(DISTINCT {column})"),
    ),
    "expect_column_proportion_of_unique_values_to_be_between": (
        _COLUMN | _RANGE,
        _between("(count(DISTINCT {column}) / nullif(count({column}), 0))"),
    ),
    "expect_column_proportion_of_non_null_values_to_be_between": (
        _COLUMN | _RANGE,
        _between("(count({column}) / nullif(count(*), 0))"),
    ),
    "expect_column_distinct_values_to_be_in_set": (
        _COLUMN | {"value_set"},
        _judged(_DISTINCT, lambda seen, a: set(seen or ()) <= set(a["value_set"])),
    ),
    "expect_column_distinct_values_to_contain_set": (
        _COLUMN | {"value_set"},
        _judged(_DISTINCT, lambda seen, a: set(seen or ()) >= set(a["value_set"])),
    ),
    "expect_column_distinct_values_to_equal_set": (
        _COLUMN | {"value_set"},
        _judged(_DISTINCT, lambda seen, a: set(seen or ()) == set(a["value_set"])),
    ),
    "expect_table_row_count_to_be_between": (_RANGE, _between("count(*)")),
    "expect_table_row_count_to_equal": ({"value"}, _judged("count(*)", lambda rows, a: rows == a["value"])),
    "expect_table_column_count_to_equal": (
        {"value"},
        _judged("", lambda c, a: len(c) == a["value"], "columns"),
    ),
    "expect_table_column_count_to_be_between": (_RANGE, _judged("", _columns_within, "columns")),
    "expect_table_columns_to_match_set": (
        {"column_set", "exact_match"},
        _judged("", _columns_match, "columns"),
    ),
    "expect_table_columns_to_match_ordered_list": (
        {"column_list"},
        _judged("", lambda c, a: c == list(a["column_list"]), "columns"),
    ),
    "expect_column_to_exist": ({"column", "column_index"}, _judged("", _column_exists, "columns")),
}
