"""Events that come one by one, before the file that will bring them: checked as the file's rows are, and journalled.

An event has the columns of a raw table's contract. Each is judged by that contract alone: types, required columns, and
every rule that judges a single row. A bad one is refused in words and kept; the good ones go on. The journal is a Delta
table, ``push/<table>``, one commit for each batch, written before anything else is: what stands online and not in the
lake yet can be made again from it.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import date, datetime
from typing import TYPE_CHECKING, Any, cast

import pyarrow as pa

from contrail import staging
from contrail.clock import utc_now
from contrail.contracts import INSTANT, KNOWN_AT, Contract, landed_schema
from contrail.duck import quote_identifier as q
from contrail.duck import quote_literal
from contrail.expectations import CompiledRule, compile_rules
from contrail.lake import WRITTEN_AT, Commit, Lake
from contrail.windows import utc_literal

if TYPE_CHECKING:
    import duckdb

JOURNAL = "push"
CLOSINGS = f"{JOURNAL}/closings"

_AS_SENT, _WHY = "_as_sent", "_refused"
_INCOMING, _TYPED = "pushed_events", "pushed_typed"
# Arguments of a rule that say what it is about, not what is allowed.
_ABOUT = ("column", "column_A", "column_B", "column_list", "ignore_row_if", "unexpected_rows_query")
_CLOSING_SCHEMA = pa.schema([("closed_until", INSTANT)])


class _NoNumber(str):
    """``NaN`` or ``Infinity`` where JSON has no such value, and Python's reader takes it all the same."""

    __slots__ = ()


class PushError(RuntimeError):
    """Events of this table cannot be taken one by one; the message says why."""


@dataclass(frozen=True)
class Refused:
    """An event that was not taken, as it came, and why: column, value and rule where it breaks its contract."""

    event: str
    reason: str


@dataclass(frozen=True)
class Checked:
    """Events after their contract.

    Attributes:
        rows: the good ones, typed: `contracts.landed_schema`.
        texts: each of them as it came.
        refused: the others.
    """

    rows: pa.Table
    texts: tuple[str, ...]
    refused: tuple[Refused, ...]


def row_rules(contract: Contract) -> list[CompiledRule]:
    """The rules that reject a single row; those over a file as a whole are the file's.

    Raises:
        PushError: a rule that rejects rows can only be judged over a file.
    """
    own = [rule for rule in staging.schema_rules(contract) if rule.rule.name != staging.PARTITION_RULE]
    rules = [rule for rule in (*own, *compile_rules(contract)) if rule.rejects]
    if other := [rule.rule.name for rule in rules if rule.kind == "fallback"]:
        raise PushError(
            f"{contract.table}: the rule {other[0]} cannot be judged for a single event: deliver its events in files"
        )
    # A key that comes twice is told by `sort_known`, from whatever batch.
    return [rule for rule in rules if rule.kind == "row"]


def check(
    con: duckdb.DuckDBPyConnection,
    contract: Contract,
    events: Iterable[Mapping[str, Any] | str],
    *,
    at: datetime | None = None,
) -> Checked:
    """Judge events by their contract.

    Args:
        con: a session for the work.
        events: each a mapping of the contract's columns, or a line of JSON that holds one. A column that is not there
            is null. Numbers in JSON are read as they are written: 12.0 is no whole number.
        at: an event known later than this is refused; the wall clock's now unless given.

    Raises:
        PushError: events of this table cannot be taken one by one.
    """
    rules = row_rules(contract)
    texts: list[str] = []
    values: list[dict[str, str | None]] = []
    refused: list[Refused] = []
    for event in events:
        text = _storable(event) if isinstance(event, str) else json.dumps(dict(event), default=_plain)
        try:
            values.append(_fields(text, contract))
            texts.append(text.strip())
        except ValueError as error:
            refused.append(Refused(text.strip(), str(error)))
    broken = _broken(con, contract, rules, values, at or utc_now())
    try:
        good = [i for i in range(len(values)) if i not in broken]
        rows = _typed(con, contract, good)
    finally:
        con.execute(f"DROP TABLE IF EXISTS {_TYPED}")
    for i, names in broken.items():
        told = [_words(rule, values[i], contract) for rule in rules if _is_told(rule, names)]
        refused.append(Refused(texts[i], "; ".join(told)))
    return Checked(rows, tuple(texts[i] for i in good), tuple(refused))


def _plain(value: Any) -> str:
    if isinstance(value, datetime | date):
        return value.isoformat()
    raise TypeError(f"an event cannot hold {type(value).__name__}")


def _fields(text: str, contract: Contract) -> dict[str, str | None]:
    """The texts of an event's columns.

    Raises:
        ValueError: it is no JSON object, has another column, or holds something that is not a value.
    """
    try:
        found: Any = json.loads(text, parse_int=str, parse_float=str, parse_constant=_NoNumber)
    except (json.JSONDecodeError, RecursionError) as error:
        raise ValueError(f"the event is no JSON: {error}") from error
    if not isinstance(found, dict):
        raise ValueError("the event is no JSON object: write {" + f'"{contract.column_names[0]}": …' + "}")
    event = cast("dict[str, Any]", found)
    if other := sorted(set(event) - set(contract.column_names)):
        raise ValueError(
            f"{contract.table} has no column {', '.join(other)}; it has {', '.join(contract.column_names)}"
        )
    if no_numbers := [name for name, value in event.items() if isinstance(value, _NoNumber)]:
        raise ValueError(f"column {no_numbers[0]} holds {event[no_numbers[0]]}, which is no number")
    texts = {name: value for name, value in event.items() if isinstance(value, str)}
    if halves := [name for name, value in texts.items() if _storable(value) != value]:
        raise ValueError(f"column {halves[0]} holds {texts[halves[0]]!r}, which has half a character")
    nested = [name for name, value in event.items() if isinstance(value, dict | list)]
    if nested:
        raise ValueError(f"column {nested[0]} holds {event[nested[0]]!r}, which is not one value")
    return {name: _text(event.get(name)) for name in contract.column_names}


def _storable(text: str) -> str:
    """The text with half characters spelled out: JSON can say them, and a stream of bytes that are no text."""
    return text.encode("utf-8", "backslashreplace").decode()


def _text(value: Any) -> str | None:
    if value is None or value == "":  # an empty field of a file is null too
        return None
    return str(value).lower() if isinstance(value, bool) else str(value)


def _broken(
    con: duckdb.DuckDBPyConnection,
    contract: Contract,
    rules: Sequence[CompiledRule],
    values: Sequence[Mapping[str, str | None]],
    at: datetime,
) -> dict[int, list[str]]:
    """Position → names of the rules that the event breaks; leaves the typed rows in `_TYPED`."""
    schema = pa.schema([("_index", pa.int64()), *((name, pa.string()) for name in contract.column_names)])
    con.register(
        _INCOMING, pa.Table.from_pylist([{"_index": i, **row} for i, row in enumerate(values)], schema=schema)
    )
    try:
        con.execute(
            f"CREATE OR REPLACE TEMP TABLE {_TYPED} AS SELECT t._index, ?::TIMESTAMPTZ AS _delivered_at, "
            f"NULL::DATE AS partition_date, {staging.typed_columns(contract, 't')} FROM {_INCOMING} t",
            [at],
        )
    finally:
        con.unregister(_INCOMING)
    names = ", ".join(f"CASE WHEN {rule.bad} THEN {quote_literal(rule.rule.name)} END" for rule in rules)
    found = con.execute(
        f"SELECT _index, list_filter([{names}], lambda x: x IS NOT NULL) FROM {_TYPED} "
        f"WHERE {' OR '.join(f'({rule.bad})' for rule in rules)} ORDER BY _index"
    ).fetchall()
    return dict(found)


def _typed(con: duckdb.DuckDBPyConnection, contract: Contract, positions: Sequence[int]) -> pa.Table:
    rows = con.execute(
        f"SELECT {', '.join(map(q, contract.column_names))} FROM {_TYPED} "
        "WHERE list_contains(?::BIGINT[], _index) ORDER BY _index",
        [list(positions)],
    ).to_arrow_table()
    return rows.cast(landed_schema(contract))


def _is_told(rule: CompiledRule, broken: Sequence[str]) -> bool:
    """A value that is not of its column's type stands as null: what is broken by that alone is not told."""
    column = rule.rule.kwargs.get("column")
    return rule.rule.name in broken and f"type:{column}" not in broken


def _words(rule: CompiledRule, values: Mapping[str, str | None], contract: Contract) -> str:
    """A broken rule with the columns that it is about, and what they hold."""
    asked = f"{rule.rule.name} {json.dumps(dict(rule.rule.kwargs), default=str)} {rule.bad}"
    about = [name for name in contract.column_names if re.search(rf"\b{re.escape(name)}\b", asked)]
    held = [f"{name} = {values[name]!r}" if values[name] is not None else f"{name} is null" for name in about]
    limits = [f"{name} {value}" for name, value in rule.rule.kwargs.items() if name not in _ABOUT]
    named = ", ".join([f"rule {rule.rule.name}", *limits])
    return f"{', '.join(held)}: {rule.rule.description or 'not as the contract says.'} ({named})"


def sort_known(
    con: duckdb.DuckDBPyConnection, contract: Contract, checked: Checked, known: str
) -> tuple[Checked, int]:
    """Take out the events that are known already.

    Args:
        known: relation with the contract's columns: all that is known of the table.

    Returns:
        The events whose key is new, the first of each key; an event whose key is known with other values is refused,
        since what was said once is corrected by a file. And how many were the same as what is known.
    """
    columns = contract.column_names
    key = ", ".join(map(q, contract.primary_key))
    con.register(_INCOMING, checked.rows)
    same = " AND ".join(f"k.{q(name)} IS NOT DISTINCT FROM i.{q(name)}" for name in columns)
    try:
        found = con.execute(
            f"WITH i AS (SELECT *, row_number() OVER () - 1 AS n FROM {_INCOMING}) "
            f"SELECT n, count(*), coalesce(bool_or({same}), false) FROM i JOIN {known} k USING ({key}) GROUP BY n"
        ).fetchall()
    finally:
        con.unregister(_INCOMING)
    is_same = {n: bool(equal) for n, _, equal in found}
    first: dict[tuple[Any, ...], dict[str, Any]] = {}
    kept: list[int] = []
    refused = list(checked.refused)
    repeated = 0
    for n, row in enumerate(checked.rows.to_pylist()):
        place = tuple(row[name] for name in contract.primary_key)
        equal = is_same.get(n) if n in is_same else (first[place] == row if place in first else None)
        if equal is None:
            first[place] = row
            kept.append(n)
        elif equal:
            repeated += 1
        else:
            said = ", ".join(f"{name} = {row[name]}" for name in contract.primary_key)
            refused.append(
                Refused(
                    checked.texts[n],
                    f"{said} was reported before with other values: what was said is corrected by a file that "
                    "supersedes, never by a second event",
                )
            )
    rows = checked.rows.take(pa.array(kept, pa.int64()))
    return Checked(rows, tuple(checked.texts[n] for n in kept), tuple(refused)), repeated


def refuse(checked: Checked, reasons: Sequence[str | None]) -> Checked:
    """Refuse those good events for which there is a reason; one entry per row."""
    kept = [n for n, reason in enumerate(reasons) if reason is None]
    refused = [Refused(checked.texts[n], reason) for n, reason in enumerate(reasons) if reason is not None]
    rows = checked.rows.take(pa.array(kept, pa.int64()))
    return Checked(rows, tuple(checked.texts[n] for n in kept), (*checked.refused, *refused))


class Journal:
    """All events of one table that were pushed, as they came: the accepted ones typed, the refused ones with why."""

    def __init__(self, lake: Lake, contract: Contract, run_id: str) -> None:
        self.table = f"{JOURNAL}/{contract.table}"
        self._lake = lake
        self._contract = contract
        self._run_id = run_id

    def append(self, checked: Checked) -> int | None:
        """Keep a batch, in one commit; returns the version, None where there was nothing to keep."""
        if not checked.rows.num_rows and not checked.refused:
            return None
        schema = self._schema()
        good = checked.rows
        for name, values in ((_AS_SENT, list(checked.texts)), (_WHY, [None] * good.num_rows)):
            good = good.append_column(name, pa.array(values, pa.string()))
        bad = pa.Table.from_pylist(
            [{_AS_SENT: one.event, _WHY: one.reason} for one in checked.refused], schema=schema
        )
        batch = pa.concat_tables([good.select(schema.names).cast(schema), bad])
        if not self._lake.exists(self.table):
            personal = (*self._contract.personal_columns, _AS_SENT, _WHY)
            self._lake.create(self.table, schema, personal=personal)
        sent = hashlib.sha256("\n".join([*checked.texts, *(one.event for one in checked.refused)]).encode())
        return self._lake.append(
            self.table, batch, Commit(self.table, self._run_id, (f"sha256:{sent.hexdigest()}",))
        )

    def accepted(self, con: duckdb.DuckDBPyConnection, known: str, since: datetime) -> pa.Table:
        """The accepted events known at `since` or later whose key is not in the relation `known`, in order of time."""
        schema = landed_schema(self._contract)
        if not self._lake.exists(self.table):
            return schema.empty_table()
        key = ", ".join(map(q, self._contract.primary_key))
        found = con.execute(
            f"SELECT {', '.join(map(q, schema.names))} FROM {self._lake.scan(self.table)} ANTI JOIN {known} "
            f"USING ({key}) WHERE {_WHY} IS NULL AND {KNOWN_AT} >= {utc_literal(since)} "
            # Two who push at once may both have kept an event.
            f"QUALIFY row_number() OVER (PARTITION BY {key} ORDER BY {WRITTEN_AT}) = 1 ORDER BY {KNOWN_AT}, {key}"
        )
        return found.to_arrow_table().cast(schema)

    def _schema(self) -> pa.Schema:
        return pa.schema([*landed_schema(self._contract), (_AS_SENT, pa.string()), (_WHY, pa.string())])


class Closings:
    """Up to which instant it was said that nothing more comes: one row each time, ``push/closings``."""

    def __init__(self, lake: Lake, run_id: str) -> None:
        self._lake = lake
        self._run_id = run_id

    def last(self, con: duckdb.DuckDBPyConnection) -> datetime | None:
        """The latest instant; None where nothing was closed yet."""
        if not self._lake.exists(CLOSINGS):
            return None
        found = con.execute(f"SELECT max(closed_until) FROM {self._lake.scan(CLOSINGS)}").fetchone()
        return found[0] if found else None

    def append(self, instant: datetime) -> None:
        """Everything known at `instant` or before has come."""
        self._lake.create(CLOSINGS, _CLOSING_SCHEMA)
        said = pa.table({"closed_until": pa.array([instant], INSTANT)}, schema=_CLOSING_SCHEMA)
        self._lake.append(CLOSINGS, said, Commit(CLOSINGS, self._run_id, (), partition=instant.isoformat()))
