"""Landed text as typed rows in DuckDB, and the rows that break a rule.

The rows of many files stand in one temporary table, so that types and rules of all of them are judged in one scan.
Casting is strict: a fraction is no INTEGER, a timestamp without a zone is no instant, a number that is not finite is
no DOUBLE. DuckDB's own TRY_CAST would round the first, guess the second and take the third.
"""

from __future__ import annotations

from collections.abc import Generator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import date, datetime

import duckdb
import pyarrow as pa

from contrail import expectations
from contrail.contracts import INSTANT, KNOWN_AT, Column, Contract, Rule
from contrail.duck import quote_identifier as quoted
from contrail.duck import quote_literal
from contrail.expectations import CompiledRule, Outcome
from contrail.landed_file import LandedFile

TEXTS, FILES, ROWS, NEWEST = "_staged_texts", "_staged_files", "_staged_rows", "_staged_newest"
PARTITION_RULE = "partition"

_PATTERNS = {
    "BOOLEAN": r"(?i:true|false)",
    "SMALLINT": r"[+-]?[0-9]+",
    "INTEGER": r"[+-]?[0-9]+",
    "BIGINT": r"[+-]?[0-9]+",
    "DOUBLE": r"[+-]?([0-9]+\.?[0-9]*|\.[0-9]+)([eE][+-]?[0-9]+)?",
    "DATE": r"[0-9]{4}-[0-9]{2}-[0-9]{2}",
    "TIMESTAMPTZ": (
        r"[0-9]{4}-[0-9]{2}-[0-9]{2}[T ][0-2][0-9]:[0-9]{2}:[0-9]{2}(\.[0-9]{1,6})?(Z|[+-][0-9]{2}(:?[0-9]{2})?)"
    ),
}


@dataclass(frozen=True)
class StagedFile:
    """A file, and what its rows need to know of it."""

    file: LandedFile
    partition_date: date | None
    delivered_at: datetime


def strict_cast(column: Column, text: str) -> str:
    """SQL that makes a column's type of its text; NULL where it is not of that type."""
    if column.sql_type == "VARCHAR":
        return text
    if column.sql_type.startswith("DECIMAL"):
        scale = column.sql_type.rstrip(")").rpartition(",")[2].strip()
        pattern = rf"[+-]?([0-9]+(\.[0-9]{{0,{scale}}})?|\.[0-9]{{1,{scale}}})"
    else:
        pattern = _PATTERNS[column.sql_type]
    cast = f"TRY_CAST({text} AS {column.sql_type})"
    matches = f"regexp_full_match({text}, {quote_literal(pattern)})"
    if column.sql_type == "DOUBLE":
        matches += f" AND isfinite({cast})"
    return f"CASE WHEN {matches} THEN {cast} END"


@contextmanager
def staged(
    con: duckdb.DuckDBPyConnection, contract: Contract, files: Sequence[StagedFile]
) -> Generator[pa.Table]:
    """Put the rows of all files that fit the contract into the temporary table `ROWS` for the time of the block.

    `ROWS` has the contract's columns, ``_index`` (over all files), ``_file`` (position in `files`), ``_source_row``,
    ``_delivered_at``, ``partition_date``, and per column ``_bad_<n>``: whether its text is not of its type.

    Yields:
        The texts, in the order of ``_index``.
    """
    texts = _texts(contract, files)
    about = pa.table(
        {
            "_file": pa.array(range(len(files)), pa.int32()),
            "_delivered_at": pa.array([one.delivered_at for one in files], INSTANT),
            "partition_date": pa.array([one.partition_date for one in files], pa.date32()),
        }
    )
    con.register(TEXTS, texts)
    con.register(FILES, about)
    try:
        con.execute(_rows_query(contract))
        yield texts
    finally:
        con.execute(f"DROP TABLE IF EXISTS {ROWS}")
        con.unregister(TEXTS)
        con.unregister(FILES)


def _texts(contract: Contract, files: Sequence[StagedFile]) -> pa.Table:
    schema = pa.schema(
        [*((name, pa.string()) for name in contract.column_names), ("_source_row", pa.int64())]
    )
    parts: list[pa.Table] = [schema.empty_table()]
    positions: list[pa.Array] = []
    for position, one in enumerate(files):
        if one.file.fits and one.file.texts is not None:
            rows = one.file.texts.select(list(contract.column_names))
            parts.append(rows.append_column("_source_row", one.file.row_numbers))
            positions.append(pa.repeat(pa.scalar(position, pa.int32()), rows.num_rows))
    table = pa.concat_tables(parts)
    table = table.append_column("_file", pa.chunked_array(positions, pa.int32()))
    return table.append_column("_index", pa.array(range(table.num_rows), pa.int64()))


def typed_columns(contract: Contract, texts: str) -> str:
    """SQL for the contract's columns of a relation of texts; and for each ``_bad_<n>``: its text is not of its type."""
    typed: list[str] = []
    for number, column in enumerate(contract.columns):
        text = f"{texts}.{quoted(column.name)}"
        cast = strict_cast(column, text)
        typed.append(f"{cast} AS {quoted(column.name)}")
        if column.sql_type != "VARCHAR":
            typed.append(f"({text} IS NOT NULL AND ({cast}) IS NULL) AS _bad_{number}")
    return ", ".join(typed)


def _rows_query(contract: Contract) -> str:
    return (
        f"CREATE OR REPLACE TEMP TABLE {ROWS} AS SELECT t._index, t._file, t._source_row, "
        f"f._delivered_at, f.partition_date, {typed_columns(contract, 't')} FROM {TEXTS} t JOIN {FILES} f USING (_file)"
    )


def schema_rules(contract: Contract) -> list[CompiledRule]:
    """The rules that every contract has by itself, over `ROWS`: types, required columns, times, the right partition."""
    rules: list[CompiledRule] = []
    broken: list[str] = []
    for number, column in enumerate(contract.columns):
        typed = column.sql_type != "VARCHAR"
        if typed:
            rules.append(
                _own(f"type:{column.name}", f"_bad_{number}", f"{column.name} is of type {column.sql_type}.")
            )
            broken.append(f"_bad_{number}")
        if column.required:
            missing = f"({quoted(column.name)} IS NULL{f' AND NOT _bad_{number}' if typed else ''})"
            rules.append(_own(f"required:{column.name}", missing, f"{column.name} is never missing."))
            broken.append(missing)
    late = f"{quoted(KNOWN_AT)} > _delivered_at"
    rules.append(_own("known_before_delivered", late, "No row is known later than its file was delivered."))
    belongs = _belongs(contract)
    if belongs:
        # What cannot be told of a row that is broken anyway is not held against the file.
        outside = f"NOT coalesce(({belongs}), {' OR '.join(broken) or 'false'})"
        rules.append(_own(PARTITION_RULE, outside, f"Every row belongs into its file: {belongs}."))
    return rules


def _belongs(contract: Contract) -> str:
    """SQL condition: a row belongs into its file; empty where nothing says so."""
    conditions = [f"({contract.partition_rule})"] if contract.partition_rule else []
    if contract.partition_column in contract.column_names:
        conditions.append(f"({quoted(str(contract.partition_column))} = partition_date)")
    return " AND ".join(conditions)


def _own(name: str, bad: str, description: str) -> CompiledRule:
    return CompiledRule(Rule(name, "reject", "contract", {}, description), "row", bad=bad)


@dataclass(frozen=True)
class BrokenRows:
    """Rows that go to quarantine: ``_index`` → names of the rules; and files whose broken rule cannot name its rows."""

    rules: Mapping[int, list[str]]
    files: Mapping[int, list[str]]


def broken_rows(
    con: duckdb.DuckDBPyConnection,
    contract: Contract,
    rules: Sequence[CompiledRule],
    outcomes: Mapping[int, Sequence[Outcome]],
) -> BrokenRows:
    """Every row of `ROWS` that breaks a rejecting rule, with all the rules that it breaks."""
    rows: dict[int, list[str]] = {}
    files: dict[int, list[str]] = {}
    failing = {
        position: sorted(file for file, found in outcomes.items() if not found[position].success)
        for position, rule in enumerate(rules)
        if rule.rejects
    }
    of_rows = [
        rules[position] for position, where in failing.items() if where and rules[position].kind == "row"
    ]
    if of_rows:
        cases = ", ".join(f"CASE WHEN {one.bad} THEN {quote_literal(one.rule.name)} END" for one in of_rows)
        found = con.execute(
            f"SELECT _index, list_filter([{cases}], lambda x: x IS NOT NULL) FROM {ROWS} "
            f"WHERE {' OR '.join(f'({one.bad})' for one in of_rows)} ORDER BY _index"
        ).fetchall()
        rows.update(found)
    for position, where in failing.items():
        rule = rules[position]
        if not where or rule.kind == "row":
            continue
        for file in where:
            if rule.kind == "unique":
                indexes = _repeated(con, rule, file)
            elif rule.kind == "fallback":
                indexes = _named_by_gx(con, contract, rule, file, outcomes[file][position])
            else:
                indexes = []
            for index in indexes:
                rows.setdefault(index, []).append(rule.rule.name)
            if not indexes and outcomes[file][position].element_count:
                observed = outcomes[file][position].observed
                files.setdefault(file, []).append(
                    f"rule {rule.rule.name} is broken by the file as a whole ({observed})"
                )
    return BrokenRows(rows, files)


def _repeated(con: duckdb.DuckDBPyConnection, rule: CompiledRule, file: int) -> list[int]:
    key = ", ".join(quoted(name) for name in rule.key)
    query = (
        f"SELECT _index FROM {ROWS} WHERE _file = {file} AND NOT {rule.missing} "
        f"QUALIFY count(*) OVER (PARTITION BY {key}) > 1 ORDER BY _index"
    )
    return [row[0] for row in con.execute(query).fetchall()]


def _named_by_gx(
    con: duckdb.DuckDBPyConnection, contract: Contract, rule: CompiledRule, file: int, outcome: Outcome
) -> list[int]:
    """The rows that GX names; none when it does not name all of them."""
    from contrail import gx_engine  # Great Expectations costs seconds to import

    columns = (*contract.column_names, "_index")
    with gx_engine.group_view(con, ROWS, columns, "_file", file) as view:
        indexes = gx_engine.unexpected_ids(con, view, rule.rule, "_index")
    return indexes if len(indexes) == outcome.unexpected_count else []


def judge_files(
    con: duckdb.DuckDBPyConnection, contract: Contract, rules: Sequence[CompiledRule], files: Sequence[int]
) -> dict[int, list[Outcome]]:
    """The outcomes of all rules for each file of `ROWS`."""
    names = contract.column_names
    return expectations.evaluate(con, ROWS, rules, columns=names, group_by="_file", groups=list(files))


def judge_partitions(
    con: duckdb.DuckDBPyConnection,
    contract: Contract,
    rules: Sequence[CompiledRule],
    partitions: Mapping[date | None, Sequence[int]],
) -> dict[date | None, list[Outcome]]:
    """The outcomes of all rules for each partition, over the given files of it."""
    files = ", ".join(str(file) for positions in partitions.values() for file in positions)
    con.execute(f"CREATE TEMP VIEW {NEWEST} AS SELECT * FROM {ROWS} WHERE _file IN ({files})")
    try:
        return expectations.evaluate(
            con,
            NEWEST,
            rules,
            columns=contract.column_names,
            group_by="partition_date",
            groups=list(partitions),
        )
    finally:
        con.execute(f"DROP VIEW {NEWEST}")
