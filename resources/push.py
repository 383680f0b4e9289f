"""Push: events as they happen, into the online store before the daily file comes.

What belongs here: the one process that holds the live state of a home and puts journal, live clean rows, feature tables
and online store together. What does not: what an event is (contracts/), what a clean row is (dbt_project/), how a
feature is made (features/) or how a row is stored (contrail/).
"""

from __future__ import annotations

import fcntl
import uuid
from collections.abc import Callable, Generator, Iterable, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from pathlib import Path
from time import perf_counter
from typing import Any, Self

import duckdb
import pyarrow as pa

from contrail import completeness, duck, incremental, intake, push
from contrail.clock import utc_now
from contrail.contracts import CREATED_AT, KNOWN_AT, load_contracts
from contrail.dbt_sql import model_sql
from contrail.lake import Lake
from contrail.online_layout import OnlineError
from contrail.online_push import OnlinePush
from contrail.online_views import online_view
from contrail.push import Closings, Journal, PushError, Refused
from contrail.settings import Settings
from contrail.windows import MICROSECOND
from features import live
from features.corrections import let_go
from features.declarations import DEPARTURES, FeatureTable
from features.facts import FACTS_KNOWN_WITHIN
from features.history import HISTORY_GRID
from features.live import CleanRules, Filed, LeftOut, LiveDepartures
from features.state import STATE_GRID
from features.tables import FEATURE_TABLES
from resources.feature_store import FeatureStoreResource

LATE_REACH = timedelta(days=3)
"""How far before a late event the newest row of an entity is looked for."""

_GRIDS = {grid.step: grid for grid in (STATE_GRID, HISTORY_GRID)}
_READS = ("raw/flight_schedules", *(f"raw/{name}" for name in live.FEEDS), DEPARTURES, "clean/airports")


@dataclass(frozen=True)
class ViewWritten:
    """What a view got.

    Attributes:
        rows: entities whose newest row was made; `rows_written`: those that were not online like this already.
        newest: the newest known-at time among them; None without rows.
        seconds: from the call to the end of this view's write.
    """

    view: str
    rows: int
    rows_written: int
    newest: datetime | None
    seconds: float


@dataclass(frozen=True)
class Pushed:
    """What became of a batch.

    Attributes:
        accepted: events that were taken; `repeated`: those that were known already, just so.
        refused: not taken, and kept in the journal with the reason.
        left_out: taken, and without effect by the rules of the clean stage.
        views: what was written online.
        seconds: the whole call.
    """

    table: str
    accepted: int
    repeated: int
    refused: tuple[Refused, ...]
    left_out: tuple[LeftOut, ...]
    views: tuple[ViewWritten, ...]
    seconds: float


class NotWritten(OnlineError):
    """A batch is in the journal, and the online store could not be written: the next call does it.

    Attributes:
        pushed: what became of the batch.
    """

    def __init__(self, error: OnlineError, pushed: Pushed) -> None:
        super().__init__(f"{error}; what was taken is kept, and written by the next call")
        self.pushed = pushed


@dataclass(frozen=True)
class Closed:
    """What was written when an instant was closed."""

    instant: datetime
    views: tuple[ViewWritten, ...]
    seconds: float


class LivePush:
    """The live state of one home. One per home, and not for several threads; use it in a ``with``."""

    def __init__(self, settings: Settings) -> None:
        """Open sessions and store, load what the lake holds, and make up for what was pushed and is not in it yet.

        Raises:
            LakeError, PushError: the graph has not run in this home, or another process pushes into it.
            OnlineError: the online store is missing, out of reach or locked.
        """
        self._lake = Lake(settings.lake_root)
        self._contracts = load_contracts(settings.repo_root / "contracts")
        self._tables = [table for table in FEATURE_TABLES.values() if DEPARTURES in table.sources]
        run_id = f"push-{uuid.uuid4()}"
        self._journals = {name: Journal(self._lake, self._contracts[name], run_id) for name in live.FEEDS}
        self._closings = Closings(self._lake, run_id)
        self._versions: dict[str, int] = {}
        # What online is behind: entities of tables with rows at events, and since when the others may have changed.
        # It is there beyond the end of a call only where a write failed.
        self._owed: dict[str, set[tuple[object, ...]]] = {
            table.name: set() for table in self._tables if table.grid is None
        }
        self._behind: datetime | None = None
        with ExitStack() as opened:
            opened.enter_context(_only_one(settings.home / "push.lock"))
            self._con = opened.enter_context(
                duck.connect(
                    threads=settings.threads,
                    memory_limit=settings.memory_limit,
                    temp_directory=settings.temp_root,
                )
            )
            self._live = LiveDepartures(self._con, clean_rules(settings))
            store = FeatureStoreResource(home=str(settings.home)).store()
            self._online: dict[str, OnlinePush] = {}
            for table in self._tables:
                view = online_view(store.config, store.get_feature_view(table.name))
                self._online[table.name] = OnlinePush(store.config, view)
            self._load()
            self._settle(perf_counter())
            self._opened = opened.pop_all()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._opened.close()

    @property
    def closed_until(self) -> datetime:
        """Up to this instant, included, everything was said to have come."""
        return min(self._closed.values())

    def rows(self, table: FeatureTable, lo: datetime, hi: datetime) -> duckdb.DuckDBPyRelation:
        """A feature table's rows with lo <= known_at < hi, of all that is known now."""
        self._live.departures_since(lo - (table.look_back - FACTS_KNOWN_WITHIN))
        return table.build(self._con, lo, hi)

    def push(self, events: Iterable[Mapping[str, Any] | str], table: str = "flight_events") -> Pushed:
        """Take events and bring the online rows up to date that change by them.

        They are journalled first, good and bad. Rows at events (the aircraft's leg) are written at once; those on a
        grid where an event is late, known at an instant that is closed already.

        Args:
            events: mappings of the raw table's columns, or lines of JSON; in any order.
            table: one of `features.live.FEEDS`.

        Raises:
            PushError: the table takes no events.
            NotWritten: the store cannot be written. The events are kept; the next call writes what is owed.
            LakeError: the journal cannot be written: nothing was taken.
        """
        start = perf_counter()
        if table not in self._journals:
            raise PushError(f"{table} takes no pushed events; those that do: {', '.join(self._journals)}")
        self._refresh()
        contract, known = self._contracts[table], self._live.known(table)
        checked, repeated = push.sort_known(
            self._con, contract, push.check(self._con, contract, events), known
        )
        reasons = zip(
            self._live.why_not(table, checked.rows), self._live.why_filed(table, checked.rows), strict=True
        )
        checked = push.refuse(checked, [cannot or too_late for cannot, too_late in reasons])
        self._journals[table].append(checked)
        left_out = self._apply({table: checked.rows})
        pushed = Pushed(
            table=table, accepted=checked.rows.num_rows, repeated=repeated, refused=checked.refused,
            left_out=tuple(left_out), views=(), seconds=perf_counter() - start,
        )  # fmt: skip
        try:
            views = self._settle(start)
        except OnlineError as error:
            raise NotWritten(error, pushed) from error
        return replace(pushed, views=views, seconds=perf_counter() - start)

    def close(self, instant: datetime) -> Closed:
        """Everything known at `instant` or before has come: write the rows of the grid instants since the last close,
        and those that are known by absence. An instant that is closed already changes nothing.

        Raises:
            PushError: the instant has no zone, or is days after all that is known: it could not be taken back.
            OnlineError: the store cannot be written; the same call completes it.
        """
        start = perf_counter()
        if instant.tzinfo is None:
            raise PushError(f"{instant.isoformat()} has no zone; instants are aware (write …Z for UTC)")
        if instant > min(utc_now(), self._reached + live.OPEN_FOR):
            raise PushError(
                f"{instant.isoformat()} lies in the future: the newest event is known at {self._reached.isoformat()}"
            )
        self._refresh()
        views = list(self._settle(start))
        if instant > self.closed_until:
            self._live.close(instant)
            self._reached = max(self._reached, instant)
            for table in self._tables:
                if (after := self._closed[table.name]) >= instant:
                    continue
                if has_instant(table, after, instant):
                    newest = self._newest(table, after + MICROSECOND, instant + MICROSECOND)
                    views.append(self._write(table, newest, instant, start))
                self._closed[table.name] = instant
            self._closings.append(instant)
        return Closed(instant, tuple(views), perf_counter() - start)

    # -- inside ------------------------------------------------------------------------------------------------

    def _refresh(self) -> None:
        """Begin anew where a file has brought something."""
        if any(self._lake.version(table) != version for table, version in self._versions.items()):
            self._load()

    def _load(self) -> None:
        """What the lake holds, and after it what was pushed and is not in it."""
        versions = {table: self._lake.version(table) for table in _READS}
        complete = completeness.complete_until(self._lake, self._contracts).until
        built = {
            table.name: incremental.built_until(self._lake, f"feature/{table.name}") for table in self._tables
        }
        if complete is None or None in built.values():
            raise PushError(
                f"nothing to push into: {self._lake.root} has no complete feature tables (contrail run)"
            )
        said = self._closings.last(self._con) or complete - MICROSECOND
        self._closed = {name: max(end - MICROSECOND, said) for name, end in built.items() if end is not None}
        until = max(complete, said + MICROSECOND)
        earliest = until - live.OPEN_FOR - live.KNOWN_AHEAD  # no event that is still taken is known before
        since = min(earliest, *self._closed.values())
        since -= max(table.look_back for table in self._tables) + LATE_REACH
        filed = {name: self._filed(name, versions[f"raw/{name}"], earliest) for name in live.FEEDS}
        self._live.load(lambda table: self._lake.scan(table, versions[table]), since, until, filed)
        self._reached = until - MICROSECOND
        reports: dict[str, pa.Table] = {}
        lacking: dict[str, pa.Table] = {}
        for name, journal in self._journals.items():
            rows = journal.accepted(self._con, self._live.known(name), earliest)
            # A report of a service date that is closed came with a file since, or never will.
            rows = _where(rows, [reason is None for reason in self._live.why_not(name, rows)])
            too_late = [reason is not None for reason in self._live.why_filed(name, rows)]
            reports[name] = _where(rows, [not late for late in too_late])
            lacking[name] = _where(rows, too_late)
        self._apply(reports)
        self._owe(lacking, lambda table: self._live.concerned(table.keys, lacking))
        self._versions = versions

    def _filed(self, name: str, version: int, since: datetime) -> Filed:
        """What of a feed is its files' business, of what became known at `since` or later."""
        table = f"raw/{name}"
        if (until := completeness.accepted_until(self._lake, table)) is None:
            return Filed(None)
        first, last = live.feed_day(since), live.feed_day(until - MICROSECOND)
        days = {first + timedelta(days=n) for n in range((last - first).days + 1)}
        with_rows = self._con.execute(
            f"SELECT DISTINCT feed_date FROM {self._lake.scan(table, version)} WHERE feed_date >= DATE '{first}'"
        ).fetchall()
        # A day without a row may have come as a file without one.
        taken = intake.taken_partitions(self._lake, name, {day.isoformat() for day in days})
        blocked = intake.blocked_partitions(self._lake, name)
        there = {day for (day,) in with_rows} | {day for day in days if day.isoformat() in taken}
        return Filed(until, frozenset(day for day in days if day not in there or day.isoformat() in blocked))

    def _apply(self, reports: Mapping[str, pa.Table]) -> list[LeftOut]:
        known = [at for rows in reports.values() for at in rows[KNOWN_AT].to_pylist()]
        if not known:
            return []
        left_out = self._live.apply(reports)
        self._reached = max(self._reached, *known)
        self._owe(reports, lambda table: self._live.touched(table.keys))
        return left_out

    def _owe(
        self,
        reports: Mapping[str, pa.Table],
        entities: Callable[[FeatureTable], Iterable[tuple[object, ...]]],
    ) -> None:
        """Online is behind by these reports: they are there or gone since it was written."""
        known = [at for rows in reports.values() for at in rows[KNOWN_AT].to_pylist()]
        if not known:
            return
        self._behind = min(*known, *([self._behind] if self._behind else known))
        for table in self._tables:
            if table.name in self._owed:
                self._owed[table.name].update(entities(table))

    def _settle(self, start: float) -> tuple[ViewWritten, ...]:
        """Write what online is behind."""
        written: list[ViewWritten] = []
        for table in self._tables:
            if table.name not in self._owed:
                closed = self._closed[table.name]
                if self._behind and has_instant(table, self._behind - MICROSECOND, closed):
                    newest = self._newest(table, self._behind - LATE_REACH, closed + MICROSECOND)
                    written.append(self._write(table, newest, closed, start))
            elif owed := self._owed[table.name]:
                lo, hi = self._reached - table.max_age, self._reached + MICROSECOND
                newest = self._newest(table, lo, hi, owed)
                written.append(self._write(table, newest, self._reached, start))
                owed.clear()
        self._behind = None
        return tuple(written)

    def _newest(
        self,
        table: FeatureTable,
        lo: datetime,
        hi: datetime,
        entities: Iterable[tuple[object, ...]] | None = None,
    ) -> pa.Table:
        """The newest row of every entity in [lo, hi), or of the given ones."""
        keys = ", ".join(table.keys)
        among = "built"
        if entities is not None:
            columns = zip(*entities, strict=True)
            self._con.register("owed", pa.table(dict(zip(table.keys, map(pa.array, columns), strict=True))))
            among = f"built SEMI JOIN owed USING ({keys})"
        rows = self.rows(table, lo, hi).query(
            "built",
            f"SELECT * FROM {among} QUALIFY row_number() OVER "
            f"(PARTITION BY {keys} ORDER BY {KNOWN_AT} DESC, {CREATED_AT} DESC) = 1",
        )
        found = rows.to_arrow_table()
        let_go(self._con)
        return found

    def _write(self, table: FeatureTable, newest: pa.Table, until: datetime, start: float) -> ViewWritten:
        changed = self._online[table.name].write(newest, until)
        last = max(newest[KNOWN_AT].to_pylist(), default=None)
        return ViewWritten(table.name, newest.num_rows, changed, last, perf_counter() - start)


@contextmanager
def _only_one(path: Path) -> Generator[None]:
    """A lock that ends with the process: two who know different events would write over each other.

    Raises:
        PushError: another process holds it, or there is no such home.
    """
    if not path.parent.is_dir():
        raise PushError(f"nothing to push into: there is no home {path.parent} (contrail run)")
    with path.open("a", encoding="utf-8") as held:
        try:
            fcntl.flock(held, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise PushError(
                f"another process pushes into {path.parent}: send the events to it, or stop it"
            ) from error
        yield


def _where(rows: pa.Table, keep: Sequence[bool]) -> pa.Table:
    return rows.filter(pa.array(keep, pa.bool_()))


def has_instant(table: FeatureTable, after: datetime, until: datetime) -> bool:
    """Whether a row of the table can lie in (after, until]."""
    return table.grid is None or _GRIDS[table.grid].last(until) > after


def clean_rules(settings: Settings) -> CleanRules:
    """The clean stage's own SQL, over the live tables."""
    project = settings.repo_root / "dbt_project"
    before = {live.TIMES_MODEL: live.TIMES}
    return CleanRules(
        times=model_sql(project, live.TIMES_MODEL, live.MODELS),
        departures=model_sql(project, "departures", before),
        rejected=model_sql(project, "quarantine_departures", {**live.MODELS, **before}),
    )
