"""Rows that were pushed, and that the table does not bring after all.

A push writes what is known now; the file that comes later is right. Where it lacks an event, or has it at an earlier
instant, the entity's newest row is older than the one that stands online, over which no older row goes. So whoever
writes may say up to when he knows everything: up to there a stored row gives way to what he writes. The store itself
compares, row by row, so that a row that is pushed meanwhile for a later instant is never lost.

An entity that was pushed and has no row in the table at all gets nothing written. Each store therefore keeps the keys
that were pushed, beside the rows; a materialisation takes the rows of those away that the table lacks: to set them back
in time would not do, for Feast's own reader serves a value of any age.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import TYPE_CHECKING, Self

import pyarrow as pa

from contrail.duck import quote_identifier as q
from contrail.online_layout import decode_key, encode_key
from contrail.windows import EPOCH, MICROSECOND

if TYPE_CHECKING:
    import duckdb

    from contrail.asof_join import JoinView
    from contrail.online_views import OnlineView
    from contrail.online_write_journal import OnlineWriter

EVER = 1 << 53
"""No created time is later, in microseconds; the greatest whole number that Redis' Lua can tell from the next."""

_SECOND = 1_000_000
_PUSHED = "contrail_pushed_keys"
_KEY_TYPES = {"STRING": pa.string(), "INT32": pa.int32(), "INT64": pa.int64()}


@dataclass(frozen=True)
class Settled:
    """Which stored rows give way to an older one; all in microseconds since 1970.

    Attributes:
        since: earlier rows are left alone where the table lacks the entity: they answer nothing.
        before: the exclusive end of what is known whole.
        created_until: a version created later is of somebody who knows more, and stays.
    """

    since: int
    before: int
    created_until: int

    @classmethod
    def by_table(cls, whole_until: datetime, start: datetime, now: datetime) -> Self:
        """What a table says that holds everything known before `whole_until`, as known at `now`."""
        # SQLite keeps whole seconds: an event in the last one may lie after the end.
        before = (min(whole_until, now) - EPOCH) // MICROSECOND // _SECOND * _SECOND
        return cls((start - EPOCH) // MICROSECOND, before, (now - EPOCH) // MICROSECOND)

    @classmethod
    def by_push(cls, until: datetime) -> Self:
        """What one says who knows everything up to `until`, included."""
        return cls(0, (until - EPOCH) // MICROSECOND + 1, EVER)


def withdraw(
    con: duckdb.DuckDBPyConnection, rows_sql: str, source: JoinView, view: OnlineView, writer: OnlineWriter
) -> int:
    """Take away the rows that were pushed for entities without a row in the table.

    Costs a scan of the key columns where anything was pushed since, else nothing.

    Args:
        rows_sql: SELECT of the table's rows in the window.

    Returns:
        How many entities lost their row.
    """
    removed = 0
    for pushed in writer.pushed():
        found = _in_table(con, rows_sql, source, view, pushed)
        removed += writer.withdraw(pushed, [key for key in pushed if key not in found])
    return removed


def _in_table(
    con: duckdb.DuckDBPyConnection, rows_sql: str, source: JoinView, view: OnlineView, pushed: Sequence[bytes]
) -> set[bytes]:
    names = sorted(view.keys)
    if not names:
        return set(pushed) if con.sql(f"SELECT 1 FROM ({rows_sql}) LIMIT 1").fetchall() else set()
    decoded = [decode_key(key, view.keys) for key in pushed]
    keys = pa.table(
        {name: pa.array([one[name] for one in decoded], _KEY_TYPES[view.keys[name]]) for name in names}
    )
    columns = ", ".join(f"rows.{q(source.keys[name])}" for name in names)
    same = " AND ".join(f"rows.{q(source.keys[name])} = pushed.{q(name)}" for name in names)
    con.register(_PUSHED, keys)
    try:
        found = con.sql(
            f"SELECT DISTINCT {columns} FROM ({rows_sql}) rows SEMI JOIN {_PUSHED} pushed ON {same}"
        )
        return {encode_key(dict(zip(names, row, strict=True)), view.keys) for row in found.fetchall()}
    finally:
        con.unregister(_PUSHED)
