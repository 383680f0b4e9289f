"""Growing a table by time: build what lies between what is there and what may be built.

A build over ``[lo, hi)`` is a pure function of its sources, so extending day by day and building the whole range at
once give the same rows.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, date, datetime
from typing import TypeAlias

import duckdb

from contrail import duck
from contrail.lake import Commit, Lake

BUILT_UNTIL = "built_until"
BATCH_ROWS = 100_000

Builder: TypeAlias = Callable[[duckdb.DuckDBPyConnection, datetime, datetime], duckdb.DuckDBPyRelation]


class IncrementalError(RuntimeError):
    """A table cannot be extended as asked."""


@dataclass(frozen=True)
class Extension:
    """What was added: the half-open span (empty where there was nothing new), the version, the rows in the span."""

    table: str
    version: int
    lo: datetime
    hi: datetime
    rows: int


def built_until(lake: Lake, table: str) -> datetime | None:
    """The exclusive end of what has been built, from the table's commits."""
    if not lake.exists(table):
        return None
    ends = [record.extra[BUILT_UNTIL] for record in lake.commits(table) if BUILT_UNTIL in record.extra]
    return datetime.fromisoformat(ends[-1]) if ends else None


def pin(lake: Lake, con: duckdb.DuckDBPyConnection, sources: Mapping[str, str]) -> tuple[str, ...]:
    """Create a view per source over its newest version; returns ``table@version`` of each."""
    references: list[str] = []
    for view, table in sources.items():
        version = lake.version(table)
        con.execute(
            f"CREATE OR REPLACE VIEW {duck.quote_identifier(view)} AS SELECT * FROM {lake.scan(table, version)}"
        )
        references.append(lake.ref(table, version))
    return tuple(references)


def extend(
    lake: Lake,
    table: str,
    build: Builder,
    *,
    con: duckdb.DuckDBPyConnection,
    sources: Mapping[str, str],
    start: datetime,
    until: datetime,
    now: datetime,
    commit: Callable[[Sequence[str], str, dict[str, str]], Commit],
    rebuild: bool = False,
) -> Extension:
    """Build ``[built until, until)`` and put it in place of whatever stands in that span.

    Args:
        build: the pure builder; its rows carry `known_at` in the span, `created_at` and `month` (first day of it).
        sources: view name → table that the builder reads.
        start: where the first build begins.
        until: exclusive end: up to here the sources are complete.
        now: the clock's now; nothing may be built beyond it.
        commit: makes the commit from inputs, partition in words and further facts.
        rebuild: begin at `start` again, for instance because the builder has changed.

    Raises:
        IncrementalError: `until` lies after `now` (rows of the future would hide the rows that are true then), or the
            first build would be empty.
    """
    if until > now:
        raise IncrementalError(
            f"{table}: asked to build up to {until.isoformat()}, which is after now, {now.isoformat()}"
        )
    lo = start if rebuild else (built_until(lake, table) or start)
    inputs = pin(lake, con, sources)
    if lo >= until and not lake.exists(table):
        raise IncrementalError(
            f"{table}: the first build begins at {lo.isoformat()}, and its sources end at {until.isoformat()}"
        )
    if lo >= until:
        return Extension(table, lake.version(table), lo, lo, 0)
    rows = build(con, lo, until)
    reader = rows.to_arrow_reader(BATCH_ROWS)
    lake.create(table, reader.schema, partition_by=["month"])
    facts = {BUILT_UNTIL: until.isoformat()}
    months = ", ".join(f"'{month.isoformat()}'" for month in _months(lo, until))
    where = f"month IN ({months}) AND known_at >= '{_stamp(lo)}' AND known_at < '{_stamp(until)}'"
    version = lake.replace_partitions(
        table, reader, commit(inputs, f"{lo.isoformat()}..{until.isoformat()}", facts), where=where
    )
    counted = con.execute(f"SELECT count(*) FROM {lake.scan(table, version)} WHERE {where}").fetchone()
    return Extension(table, version, lo, until, int(counted[0]) if counted else 0)


def _months(lo: datetime, hi: datetime) -> list[date]:
    months = [date(lo.year, lo.month, 1)]
    while True:
        last = months[-1]
        following = date(last.year + last.month // 12, last.month % 12 + 1, 1)
        if datetime(following.year, following.month, 1, tzinfo=UTC) >= hi:
            return months
        months.append(following)


def _stamp(instant: datetime) -> str:
    return instant.astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%S.%fZ")
