"""The clean table ``departures`` kept up to date with reports that no daily file has brought yet.

The daily file that will bring the same reports is regular: each counts from its own known-at time. So they stand here
as they will stand there, and the rows made of them are those that the clean stage will make. They are made by the clean
stage's own SQL, which is handed in (`CleanRules`): its joins, its rules that reject a report, its knowledge by absence.
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta
from types import MappingProxyType
from typing import TYPE_CHECKING

from contrail.windows import MICROSECOND, utc_literal
from features.facts import IRREGULAR, OVER_DUE, QUEUE_LIMIT

if TYPE_CHECKING:
    import pyarrow as pa
    from duckdb import DuckDBPyConnection

_DAY_BEGINS = timedelta(hours=7)  # a feed day D is [07:00 UTC of D, 07:00 UTC of D + 1)


@dataclass(frozen=True)
class Feed:
    """A raw table whose reports may be pushed.

    Attributes:
        key: the columns that tell reports of one departure apart.
        days: the last feed day that the clean stage reads of it, in days after the service date; the first is -1.
        raw_ids: the columns of a clean row that say from which report it was made.
    """

    key: tuple[str, ...]
    days: int
    raw_ids: tuple[str, ...]


FEEDS: Mapping[str, Feed] = MappingProxyType(
    {
        "flight_events": Feed(
            key=("event",),
            days=2,
            raw_ids=("_departed_raw_id", "_arrived_raw_id", "_cancelled_raw_id", "_diverted_raw_id"),
        ),
        "aircraft_assignments": Feed(key=(), days=1, raw_ids=("_aircraft_assignments_raw_id",)),
    }
)
# Where the clean stage's SQL finds what it reads: the reports of the departures that are being made anew, and the model
# that comes before the last one.
MODELS: Mapping[str, str] = MappingProxyType(
    {
        **{f"raw/{name}": f"live_changing_{name}" for name in ("flight_schedules", *FEEDS)},
        "airports": "live_airports",
    }
)
TIMES_MODEL, TIMES = "departure_times", "live_times"

# A service date takes reports of the feed days D-1 … D+2: it is closed three days and seven hours after it began.
OPEN_FOR = timedelta(days=4)
# A report is known a day before its service date (00:00 UTC) at the earliest; so is its schedule.
KNOWN_AHEAD = timedelta(days=2)
_KEY = ("service_date", "carrier", "flight_number", "origin")
_KEYS = ", ".join(_KEY)
_PUSHED = "push"
_TOUCHED = "carrier, flight_number, origin, dest, tail_number"
# The last instant at which a departure that came regularly does anything.
_OVER_AT = f"""greatest(
  schedule_known_at, scheduled_departure_at + INTERVAL {OVER_DUE // timedelta(minutes=1)} MINUTE, departed_known_at,
  arrived_known_at, cancelled_known_at, outcome_known_at, tail_known_at,
  CASE WHEN coalesce(departed_known_at, arrived_known_at, cancelled_known_at) IS NULL
    THEN scheduled_departure_at + INTERVAL {QUEUE_LIMIT // timedelta(minutes=1)} MINUTE END)"""


@dataclass(frozen=True)
class CleanRules:
    """The clean stage's SQL over the tables named in `MODELS`.

    Attributes:
        times: model `TIMES_MODEL`: each departure's facts in UTC, and the rules that they break.
        departures: the clean rows, over `TIMES`.
        rejected: the reports that the clean rows do without, over `TIMES`: ``_flight_events_raw_id`` and ``reason``.
    """

    times: str
    departures: str
    rejected: str


@dataclass(frozen=True)
class LeftOut:
    """A report that is taken and makes no difference, as it would in the clean stage: which one, and why."""

    report: str
    reason: str


@dataclass(frozen=True)
class Filed:
    """What of a feed is its files' business: they have been taken in, and what they lack did not happen.

    Attributes:
        until: everything known before this instant; None: nothing.
        waiting: but for these feed days, whose file is blocked or missing.
    """

    until: datetime | None
    waiting: frozenset[date] = frozenset()


class LiveDepartures:
    """All live departures of one session (``live_departures``). One at a time: it is not safe for threads."""

    def __init__(self, con: DuckDBPyConnection, rules: CleanRules) -> None:
        self._con = con
        self._rules = rules
        self._first = self._last = date.min
        self._filed: Mapping[str, Filed] = {}
        # Since when ``departures`` has the rows of ``live_departures``; None: it is of an earlier state.
        self._since: datetime | None = None

    def load(
        self,
        scan: Callable[[str], str],
        since: datetime,
        until: datetime,
        filed: Mapping[str, Filed] = MappingProxyType({}),
    ) -> None:
        """Begin anew from the lake.

        Args:
            scan: lake table (``raw/flight_events``) → FROM item over one version of it.
            since: of which instant the oldest rows are needed: closed service dates are taken from clean/departures.
            until: up to this instant (exclusive) all reports are there.
            filed: feed of `FEEDS` → what of it is its files' business; nothing where it is not named.
        """
        self._filed = filed
        self._first = (until - OPEN_FOR).astimezone(UTC).date()
        self._last = (until + KNOWN_AHEAD).astimezone(UTC).date()
        oldest = since.astimezone(UTC).date() - timedelta(days=1)
        days = f"service_date BETWEEN DATE '{self._first}' AND DATE '{self._last}'"
        fed = f"feed_date BETWEEN DATE '{self._first}' - 1 AND DATE '{self._last}' + 2 AND {days}"
        without = "* EXCLUDE (_written_at, _run_id)"
        con = self._con
        con.execute(
            f"SET VARIABLE first_day = DATE '{self._first}'; SET VARIABLE last_day = DATE '{self._last}'"
        )
        con.execute(
            f"CREATE OR REPLACE TABLE live_airports AS SELECT {without} FROM {scan('clean/airports')}"
        )
        con.execute(
            f"CREATE OR REPLACE TABLE live_departures AS SELECT {without} FROM {scan('clean/departures')} "
            f"WHERE service_date >= DATE '{oldest}' AND service_date < DATE '{self._first}'"
        )
        for name in ("flight_schedules", *FEEDS):
            con.execute(
                f"CREATE OR REPLACE TABLE live_{name} AS SELECT {without} FROM {scan(f'raw/{name}')} "
                f"WHERE {fed if name in FEEDS else days}"
            )
        con.execute(
            f"CREATE OR REPLACE TABLE live_changing AS SELECT DISTINCT {_KEYS} FROM live_flight_schedules"
        )
        for name in ("flight_schedules", *FEEDS):
            con.execute(
                f"CREATE OR REPLACE VIEW live_changing_{name} AS "
                f"SELECT * FROM live_{name} SEMI JOIN live_changing USING ({_KEYS})"
            )
        con.execute(
            f"CREATE OR REPLACE TABLE live_touched AS SELECT 'all' AS network, {_TOUCHED} FROM live_departures LIMIT 0"
        )
        self._complete_until(until)
        with self._together():
            self._make()

    def departures_since(self, since: datetime) -> None:
        """Bring the table ``departures`` up to date, without what was over before `since`: builders read it."""
        if self._since == since:
            return
        irregular = f"SELECT departure_id FROM live_departures WHERE {IRREGULAR}"
        self._con.execute(
            f"CREATE OR REPLACE TABLE departures AS SELECT * FROM live_departures "
            f"WHERE {_OVER_AT} >= {utc_literal(since)} OR departure_id IN ({irregular})"
        )
        self._since = since

    def known(self, table: str) -> str:
        """The table in which the reports of a feed of `FEEDS` stand, those of the lake and those applied."""
        return f"live_{table}"

    def why_not(self, table: str, reports: pa.Table) -> list[str | None]:
        """Per report of a feed why it cannot be taken, in words; None: it can be."""
        self._con.register("live_incoming", reports)
        try:
            found = self._con.execute(
                f"WITH scheduled AS (SELECT {_KEYS}, arg_max(is_retracted, created_at) AS is_retracted "
                f"FROM live_flight_schedules GROUP BY {_KEYS}), "
                "numbered AS (SELECT *, row_number() OVER () AS n FROM live_incoming) "
                f"SELECT {_KEYS}, known_at, {_feed_date('known_at')}, coalesce(NOT is_retracted, false) FROM numbered "
                f"LEFT JOIN scheduled USING ({_KEYS}) ORDER BY n"
            ).fetchall()
        finally:
            self._con.unregister("live_incoming")
        reasons: list[str | None] = []
        for day, carrier, number, origin, known_at, feed_date, is_scheduled in found:
            first, last = day - timedelta(days=1), day + timedelta(days=FEEDS[table].days)
            if not is_scheduled:
                reasons.append(self._unscheduled(day, f"{carrier} {number} from {origin}"))
            elif not first <= feed_date <= last:
                reasons.append(
                    f"known_at {known_at.isoformat()} lies on the feed day {feed_date}; of service_date {day} the "
                    f"clean stage reads the feed days {first} to {last}"
                )
            else:
                reasons.append(None)
        return reasons

    def why_filed(self, table: str, reports: pa.Table) -> list[str | None]:
        """Per report of a feed that no file has brought why it is too late for it, in words; None: it is not."""
        filed = self._filed.get(table, Filed(None))
        reasons: list[str | None] = []
        for known_at in reports["known_at"].to_pylist():
            day = feed_day(known_at)
            if filed.until is None or known_at >= filed.until or day in filed.waiting:
                reasons.append(None)
            else:
                reasons.append(
                    f"known_at {known_at.isoformat()}: the file of the feed day {day} has been taken in "
                    f"(raw/{table} up to {filed.until.isoformat()}) and does not hold this; what it lacks is brought "
                    "by a file that supersedes it"
                )
        return reasons

    def _unscheduled(self, day: date, departure: str) -> str:
        if not self._first <= day <= self._last:
            return (
                f"service_date {day} takes no pushed report: open are {self._first} to {self._last}; "
                "deliver a file for it"
            )
        return (
            f"no departure {departure} is scheduled on {day} (raw/flight_schedules): a report without its schedule "
            "says nothing; send it again when the schedule has landed"
        )

    def apply(self, reports: Mapping[str, pa.Table]) -> list[LeftOut]:
        """Take reports and make the rows of their departures anew; `touched` then tells of these.

        Args:
            reports: feed of `FEEDS` → rows with the columns of its contract; every key is scheduled (`why_not`) and
                not there yet.

        Returns:
            The reports that the clean stage's rules leave out.
        """
        taken: list[tuple[str, str]] = []
        with self._together():
            self._con.execute("DELETE FROM live_changing")
            for table, rows in reports.items():
                taken += [(table, raw_id) for raw_id in self._insert(table, rows)]
            self._make()
        return self._left_out(taken)

    def close(self, instant: datetime) -> None:
        """Nothing that was known at `instant` or before can still come: what has not been heard of is late.

        `touched` then tells of the departures whose outcome was open.
        """
        self._complete_until(instant + MICROSECOND)
        with self._together():
            self._con.execute("DELETE FROM live_changing")
            self._con.execute(
                f"INSERT INTO live_changing SELECT DISTINCT {_KEYS} FROM live_departures "
                f"WHERE service_date >= DATE '{self._first}' AND is_late IS NULL "
                f"AND scheduled_departure_at <= {utc_literal(instant)}"
            )
            self._make()

    def touched(self, keys: Sequence[str]) -> list[tuple[object, ...]]:
        """The entities, by these columns (``network`` is 'all'), of the departures that the last call made anew: as
        they were before and as they are now; none of them null."""
        names = ", ".join(keys)
        complete = " AND ".join(f"{key} IS NOT NULL" for key in keys)
        return self._con.execute(
            f"SELECT DISTINCT {names} FROM live_touched WHERE {complete} ORDER BY {names}"
        ).fetchall()

    def concerned(self, keys: Sequence[str], reports: Mapping[str, pa.Table]) -> list[tuple[object, ...]]:
        """The entities, by these columns, that reports name or whose departures they are of; none of them null."""
        names = ", ".join(keys)
        complete = " AND ".join(f"{key} IS NOT NULL" for key in keys)
        found: set[tuple[object, ...]] = set()
        for rows in reports.values():
            theirs = f"SELECT 'all' AS network, {_TOUCHED} FROM live_departures SEMI JOIN live_incoming USING ({_KEYS})"
            among = [f"({theirs})", *(["live_incoming"] if set(keys) <= set(rows.column_names) else [])]
            self._con.register("live_incoming", rows)
            try:
                for those in among:
                    found.update(
                        self._con.execute(f"SELECT DISTINCT {names} FROM {those} WHERE {complete}").fetchall()
                    )
            finally:
                self._con.unregister("live_incoming")
        return list(found)

    # -- inside ------------------------------------------------------------------------------------------------

    def _complete_until(self, until: datetime) -> None:
        self._con.execute(f"SET VARIABLE complete_until = {utc_literal(until)}")

    @contextmanager
    def _together(self) -> Generator[None]:
        """All of it, or nothing."""
        self._con.execute("BEGIN")
        try:
            yield
        except BaseException:
            self._con.execute("ROLLBACK")
            raise
        self._con.execute("COMMIT")

    def _insert(self, table: str, rows: pa.Table) -> list[str]:
        """Put reports where those of the lake stand, and their departures into ``live_changing``; their raw ids."""
        parts = ", ".join(f"{name}::VARCHAR" for name in (*_KEY, *FEEDS[table].key))
        self._con.register("live_incoming", rows)
        try:
            inserted = self._con.execute(
                f"INSERT INTO live_{table} BY NAME SELECT *, "
                f"{_feed_date('known_at')} AS feed_date, known_at AS created_at, "
                f"false AS is_retracted, concat_ws('-', '{_PUSHED}', {parts}) AS _raw_id FROM live_incoming "
                "RETURNING _raw_id"
            ).fetchall()
            self._con.execute(f"INSERT INTO live_changing SELECT DISTINCT {_KEYS} FROM live_incoming")
        finally:
            self._con.unregister("live_incoming")
        return [raw_id for (raw_id,) in inserted]

    def _make(self) -> None:
        """The rows of the departures in ``live_changing``, in place of those that are there."""
        con = self._con
        same = " AND ".join(f"live_departures.{key} = live_changing.{key}" for key in _KEY)
        touched = (
            f"INSERT INTO live_touched SELECT DISTINCT 'all', {_TOUCHED} FROM live_departures SEMI JOIN live_changing "
            f"USING ({_KEYS}) WHERE service_date >= DATE '{self._first}'"
        )
        self._since = None
        con.execute("DELETE FROM live_touched")
        con.execute(touched)
        con.execute(f"CREATE OR REPLACE TABLE {TIMES} AS {self._rules.times}")
        con.execute(f"DELETE FROM live_departures USING live_changing WHERE {same}")
        con.execute(f"INSERT INTO live_departures BY NAME {self._rules.departures}")
        con.execute(touched)

    def _left_out(self, taken: Sequence[tuple[str, str]]) -> list[LeftOut]:
        used: set[str] = set()
        for column in (column for feed in FEEDS.values() for column in feed.raw_ids):
            used |= {
                raw_id
                for (raw_id,) in self._con.execute(
                    f"SELECT {column} FROM live_departures SEMI JOIN live_changing USING ({_KEYS}) "
                    f"WHERE {column} IS NOT NULL"
                ).fetchall()
            }
        missing = [(table, raw_id) for table, raw_id in taken if raw_id not in used]
        if not missing:
            return []
        reasons = dict(
            self._con.execute(
                f"SELECT _flight_events_raw_id, reason FROM (\n{self._rules.rejected}\n)"
            ).fetchall()
        )
        return [
            LeftOut(
                f"{table} {raw_id.removeprefix(f'{_PUSHED}-')}",
                reasons.get(raw_id, "the clean stage makes no use of it"),
            )
            for table, raw_id in missing
        ]


def feed_day(known_at: datetime) -> date:
    """The feed day of an instant."""
    return (known_at.astimezone(UTC) - _DAY_BEGINS).date()


def _feed_date(known_at: str) -> str:
    """SQL for the feed day of an instant."""
    return f"(timezone('UTC', {known_at}) - INTERVAL {_DAY_BEGINS // timedelta(hours=1)} HOUR)::DATE"
