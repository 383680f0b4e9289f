"""Growing a table by time: build what lies between what is there and what may be built.

A build over ``[lo, hi)`` is a pure function of its sources, so extending day by day and building the whole range at
once give the same rows. What came late, or corrects what was known, adds versions to rows that are there already: only
the instants that it reaches are built again, and only versions that were created since.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, date, datetime
from typing import Any, Protocol, TypeAlias

import duckdb
import pyarrow as pa
import pyarrow.compute

from contrail import duck
from contrail.lake import Commit, Lake
from contrail.windows import Revision

pc: Any = pyarrow.compute  # its functions are made at import, unknown to the type checker

BUILT_UNTIL = "built_until"
BATCH_ROWS = 100_000
BEFORE = "_before"
"""Ends the name of the view over what a table was built from last."""


class Builder(Protocol):
    """``build(con, lo, hi)``: the rows with ``lo <= known_at < hi``; with a fourth argument, an instant, only the
    versions created then or later."""

    def __call__(
        self,
        con: duckdb.DuckDBPyConnection,
        lo: datetime,
        hi: datetime,
        created_from: datetime | None = None,
        /,
    ) -> duckdb.DuckDBPyRelation: ...


Reviser: TypeAlias = Callable[
    [duckdb.DuckDBPyConnection, tuple[date, date] | None, datetime], Revision | None
]


class IncrementalError(RuntimeError):
    """A table cannot be extended as asked."""


@dataclass(frozen=True)
class Extension:
    """What was added.

    Attributes:
        version: of the table, afterwards.
        lo: first instant of the half-open span that is new; `hi`: its end. Equal where there was nothing new.
        revised: the earlier part of which versions were built, as newer versions of the sources ask for.
        rows: rows in both.
    """

    table: str
    version: int
    lo: datetime
    hi: datetime
    revised: Revision | None
    rows: int


def built_until(lake: Lake, table: str, version: int | None = None) -> datetime | None:
    """The exclusive end of what has been built, from the table's commits (up to `version`, if one is named)."""
    if not lake.exists(table):
        return None
    ends = [
        record.extra[BUILT_UNTIL]
        for record in lake.commits(table)
        if BUILT_UNTIL in record.extra and (version is None or record.version <= version)
    ]
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
    delivered_until: datetime,
    commit: Callable[[Sequence[str], str, dict[str, str]], Commit],
    revise: Reviser | None = None,
    rebuild: bool = False,
) -> Extension:
    """Build ``[built until, until)``, and what newer versions of the sources change before that, in one commit.

    Args:
        build: the pure builder; its rows carry `known_at` in the span, `created_at` and `month` (first day of it).
        sources: view name → table that the builder reads.
        start: where the first build begins.
        until: exclusive end: up to here the sources are complete.
        now: the clock's now; nothing may be built beyond it.
        delivered_until: the newest delivery of the sources; no version may be created later.
        commit: makes the commit from inputs, partition in words and further facts.
        revise: says which part of what is built changes by versions that are in a view and not in ``<view>_before``,
            given the days that were written since (None: any) and the end of what is built.
        rebuild: begin at `start` again, for instance because the builder has changed.

    Raises:
        IncrementalError: `until` lies after `now` (rows of the future would hide the rows that are true then), the
            first build would be empty, or a row claims to have been created after `delivered_until`.
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
    end = max(lo, until)
    revision = (
        None
        if rebuild or revise is None
        else _revision(lake, table, revise, con, sources, inputs, (start, lo))
    )
    parts: list[tuple[duckdb.DuckDBPyRelation, str]] = []
    if lo < until:
        parts.append((build(con, lo, until), _condition(lo, until)))
    if revision is not None:
        since = revision.created_from
        condition = f"{_condition(revision.lo, revision.hi)} AND created_at >= '{_stamp(since)}'"
        parts.append((build(con, revision.lo, revision.hi, since), condition))
    facts = {BUILT_UNTIL: end.isoformat()}
    if not parts:
        version = _note_inputs(lake, table, inputs, facts, commit)
        return Extension(table, version, lo, lo, None, 0)
    rows = _Checked(table, [relation for relation, _ in parts], delivered_until)
    lake.create(table, rows.schema, partition_by=["month"])
    if revision is not None:
        facts["revised"] = f"{revision.lo.isoformat()}..{revision.hi.isoformat()}"
        facts["revised_created_from"] = revision.created_from.isoformat()
    try:
        version = lake.replace_partitions(
            table,
            pa.RecordBatchReader.from_batches(rows.schema, rows.batches()),
            commit(inputs, f"{lo.isoformat()}..{end.isoformat()}", facts),
            where=" OR ".join(f"({condition})" for _, condition in parts),
        )
    except Exception as error:
        if rows.refusal is not None:  # the writer wraps what its rows raise
            raise rows.refusal from error
        raise
    return Extension(table, version, lo, end, revision, rows.count)


class _Checked:
    """The rows of some relations, to be read once, counted, and none of them created after the newest delivery."""

    def __init__(
        self, table: str, relations: Sequence[duckdb.DuckDBPyRelation], delivered_until: datetime
    ) -> None:
        self.count = 0
        self.refusal: IncrementalError | None = None
        self._table, self._relations, self._delivered_until = table, relations, delivered_until
        # A reader runs its query, also where only the schema is asked of it.
        self._first = relations[0].to_arrow_reader(BATCH_ROWS)
        self.schema: pa.Schema = self._first.schema

    def batches(self) -> Iterator[pa.RecordBatch]:
        later = (relation.to_arrow_reader(BATCH_ROWS) for relation in self._relations[1:])
        for batch in itertools.chain(self._first, itertools.chain.from_iterable(later)):
            self._check(batch)
            self.count += batch.num_rows
            yield batch

    def _check(self, batch: pa.RecordBatch) -> None:
        created = batch.column("created_at")
        newest = pc.max(created).as_py()
        if newest is None or newest <= self._delivered_until:
            return
        row = batch.slice(pc.index(created, pa.scalar(newest, created.type)).as_py(), 1).to_pylist()[0]
        self.refusal = IncrementalError(
            f"{self._table}: a row claims to have been created at {newest.isoformat()}, after the newest delivery of "
            f"what it was made from, {self._delivered_until.isoformat()}: it would hide what was known before. "
            "created_at is the version's known_at or its file's delivered_at, never the time of writing. "
            f"The row: {row}"
        )
        raise self.refusal


def _revision(
    lake: Lake,
    table: str,
    revise: Reviser,
    con: duckdb.DuckDBPyConnection,
    sources: Mapping[str, str],
    inputs: Sequence[str],
    built: tuple[datetime, datetime],
) -> Revision | None:
    """What the versions that came since the last extension change of what is `built`, cut to that."""
    earlier = _newest_inputs(lake, table, of_extensions=True)
    if earlier is None or set(inputs) <= set(earlier):
        return None
    spans: list[tuple[date, date] | None] = []
    for view, source in sources.items():
        version = next((int(i.rpartition("@v")[2]) for i in earlier if i.rpartition("@v")[0] == source), None)
        if version is None:
            return None  # it was built from something else: only a rebuild can tell
        con.execute(
            f"CREATE OR REPLACE VIEW {duck.quote_identifier(view + BEFORE)} AS "
            f"SELECT * FROM {lake.scan(source, version)}"
        )
        spans += [record.days for record in lake.commits(source) if record.version > version]
    days = [span for span in spans if span is not None]
    known = days and len(days) == len(spans)
    written = (min(d[0] for d in days), max(d[1] for d in days)) if known else None
    revision = revise(con, written, built[1])
    if revision is None:
        return None
    lo, hi = max(revision.lo, built[0]), min(revision.hi, built[1])
    return Revision(lo, hi, revision.created_from) if lo < hi else None


def _note_inputs(
    lake: Lake,
    table: str,
    inputs: Sequence[str],
    facts: dict[str, str],
    commit: Callable[[Sequence[str], str, dict[str, str]], Commit],
) -> int:
    """Where newer sources change nothing, a commit without rows says that they were read."""
    earlier = _newest_inputs(lake, table)
    if earlier is not None and set(inputs) <= set(earlier):
        return lake.version(table)
    columns = [name for name in lake.schema(table).names if not name.startswith("_")]
    nothing = lake.schema(table).empty_table().select(columns)
    return lake.append(table, nothing, commit(inputs, "nothing new", facts))


def _newest_inputs(lake: Lake, table: str, *, of_extensions: bool = False) -> Sequence[str] | None:
    """What the newest commit was made of; `of_extensions` leaves out others, such as those of rows that were pushed."""
    if not lake.exists(table):
        return None
    made = [record for record in lake.commits(table) if BUILT_UNTIL in record.extra or not of_extensions]
    records = [record for record in made if record.inputs]
    return records[-1].inputs if records else None


def _condition(lo: datetime, hi: datetime) -> str:
    months = ", ".join(f"'{month.isoformat()}'" for month in _months(lo, hi))
    return f"month IN ({months}) AND known_at >= '{_stamp(lo)}' AND known_at < '{_stamp(hi)}'"


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
