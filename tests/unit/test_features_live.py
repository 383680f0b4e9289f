"""Pushed reports make the clean rows that the clean stage will make of them, by its own rules."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from types import MappingProxyType
from typing import Any

import pyarrow as pa
import pytest

from contrail import duck
from contrail.contracts import load_contracts, raw_schema
from contrail.dbt_sql import model_sql
from features import live
from features.live import CleanRules, Filed, LiveDepartures

ROOT = Path(__file__).resolve().parents[2]
PROJECT = ROOT / "dbt_project"
CONTRACTS = load_contracts(ROOT / "contracts")
DAY = date(2013, 7, 15)
NOW = datetime(2013, 7, 15, 16, tzinfo=UTC)  # noon in New York
MINUTE = timedelta(minutes=1)
LANDED = {"_source_file": "a", "_source_sha256": "b", "_source_row": 1, "is_retracted": False}


def at(text: str) -> datetime:
    """``12:30`` of the day on New York's wall clock."""
    return datetime.fromisoformat(f"{DAY}T{text}:00-04:00").astimezone(UTC)


def hhmm(instant: datetime) -> int:
    local = instant - timedelta(hours=4)
    return local.hour * 100 + local.minute


def schedule(number: int, departs: str, arrives: str, *, day: date = DAY, **changed: Any) -> dict[str, Any]:
    known = datetime(day.year, day.month, day.day, tzinfo=UTC) - timedelta(hours=2)
    departure = at(departs) + (day - DAY)
    row = {
        "service_date": day, "carrier": "UA", "flight_number": number, "origin": "EWR", "dest": "BOS",
        "scheduled_departure_hhmm_local": hhmm(departure), "scheduled_arrival_hhmm_local": hhmm(at(arrives)),
        "scheduled_departure_at": departure, "distance_miles": 200, "known_at": known, "created_at": known,
        "_raw_id": f"schedule-{day}-{number}",
    }  # fmt: skip
    return LANDED | row | changed


def report(number: int, event: str, known: str, delay: int | None = None, **changed: Any) -> dict[str, Any]:
    """A report as it is pushed; the wall clock is that of its known-at time."""
    return {
        "service_date": DAY, "carrier": "UA", "flight_number": number, "origin": "EWR", "event": event,
        "actual_hhmm_local": None if delay is None else hhmm(at(known)), "delay_minutes": delay,
        "air_time_minutes": 40 if event == "arrived" and delay is not None else None, "known_at": at(known),
    } | changed  # fmt: skip


def assignment(number: int, tail: str, known: str) -> dict[str, Any]:
    return {
        "service_date": DAY, "carrier": "UA", "flight_number": number, "origin": "EWR", "tail_number": tail,
        "known_at": at(known),
    }  # fmt: skip


def rows_of(table: str, rows: list[dict[str, Any]]) -> pa.Table:
    names = [*CONTRACTS[table].column_names]
    schema = pa.schema([raw_schema(CONTRACTS[table]).field(name) for name in names])
    return pa.Table.from_pylist(rows, schema=schema)


class World:
    """A session over a small lake: three scheduled departures, and what has landed of them."""

    def __init__(self) -> None:
        self.con = duck.connect()
        self.schedules = [
            schedule(1, "12:30", "13:40"), schedule(2, "11:00", "12:10"), schedule(3, "23:30", "00:40"),
        ]  # fmt: skip
        self.events: list[dict[str, Any]] = []
        before = {live.TIMES_MODEL: live.TIMES}
        self.rules = CleanRules(
            times=model_sql(PROJECT, live.TIMES_MODEL, live.MODELS),
            departures=model_sql(PROJECT, "departures", before),
            rejected=model_sql(PROJECT, "quarantine_departures", {**live.MODELS, **before}),
        )
        self.live = LiveDepartures(self.con, self.rules)

    def load(self, until: datetime = NOW, filed: Mapping[str, Filed] = MappingProxyType({})) -> World:
        self._table("raw_flight_schedules", "flight_schedules", self.schedules)
        self._table("raw_flight_events", "flight_events", self.events)
        self._table("raw_aircraft_assignments", "aircraft_assignments", [])
        self.con.execute("CREATE OR REPLACE TABLE clean_airports AS SELECT unnest(['EWR', 'BOS']) AS faa, "
            "'America/New_York' AS time_zone, TIMESTAMPTZ '2013-01-01 00:00:00Z' AS created_at, false AS is_retracted, "
            "NULL::TIMESTAMPTZ AS _written_at, '' AS _run_id")  # fmt: skip
        sources = {f"raw/{name}": f"raw_{name}" for name in ("flight_schedules", *live.FEEDS)}
        self.con.execute(
            "SET VARIABLE first_day = DATE '2013-01-01'; SET VARIABLE last_day = DATE '2013-01-01'"
        )
        clean = model_sql(PROJECT, "departures", {**sources, "airports": "clean_airports"})
        self.con.execute(f"CREATE OR REPLACE TABLE clean_departures AS SELECT *, NULL::TIMESTAMPTZ AS _written_at, "
            f"'' AS _run_id FROM (\n{clean}\n) LIMIT 0")  # fmt: skip
        self.live.load(lambda table: table.replace("/", "_"), until - timedelta(days=7), until, filed)
        return self

    def land(self, **reports: Any) -> None:
        known = reports["known_at"]
        feed = (known - timedelta(hours=7)).date()
        self.events.append(
            LANDED
            | {"created_at": known, "feed_date": feed, "_raw_id": f"landed-{len(self.events)}"}
            | reports
        )

    def _table(self, name: str, contract: str, rows: list[dict[str, Any]]) -> None:
        self.con.register("given", pa.Table.from_pylist(rows, schema=raw_schema(CONTRACTS[contract])))
        self.con.execute(
            f"CREATE OR REPLACE TABLE {name} AS SELECT *, NULL::TIMESTAMPTZ AS _written_at, '' AS _run_id FROM given"
        )

    def push(self, *reports: dict[str, Any]) -> list[str]:
        """The reasons for which reports were left out."""
        return [
            one.reason for one in self.live.apply({"flight_events": rows_of("flight_events", list(reports))})
        ]

    def row(self, number: int, day: date = DAY) -> dict[str, Any]:
        found = self.con.execute(
            "SELECT * FROM live_departures WHERE flight_number = ? AND service_date = ?", [number, day]
        ).to_arrow_table().to_pylist()  # fmt: skip
        assert len(found) == 1
        return found[0]


@pytest.fixture
def world() -> Iterator[World]:
    made = World()
    yield made
    made.con.close()


def test_a_departure_is_known_by_its_report(world):
    world.load()
    before = world.row(1)
    assert before["departed_at"] is None
    assert world.push(report(1, "departed", "12:34", delay=4)) == []
    row = world.row(1)
    assert row["departed_at"] == row["departed_known_at"] == at("12:34")
    assert row["departure_delay_minutes"] == 4
    # Reports that come in time are the version that the schedule began.
    assert row["created_at"] == row["known_at"] == before["known_at"]
    assert row["departure_id"] == "20130715-UA-1-EWR"


def test_an_arrival_decides_the_outcome(world):
    world.load()
    world.push(report(2, "departed", "11:00", delay=0), report(2, "arrived", "12:24", delay=14))
    world.push(report(1, "departed", "12:30", delay=0), report(1, "arrived", "14:00", delay=20))
    on_time, late = world.row(2), world.row(1)
    assert (on_time["is_late"], on_time["outcome_known_at"]) == (False, at("12:24"))
    assert (late["is_late"], late["is_disrupted"]) == (True, True)
    # Known by absence before it landed.
    assert late["outcome_known_at"] == at("13:55")


def test_what_is_not_heard_of_is_late_once_its_instant_is_closed(world):
    world.load()
    late_from = at("12:25")
    world.live.close(late_from - MINUTE)
    assert world.row(2)["is_late"] is None
    world.live.close(late_from)
    row = world.row(2)
    assert (row["is_late"], row["is_disrupted"], row["outcome_known_at"]) == (True, True, late_from)
    assert row["arrived_at"] is None
    assert world.live.touched(("flight_number",)) == [(2,)]


def test_a_cancellation_stands_against_a_flight_that_comes_later(world):
    world.load()
    world.push(report(2, "cancelled", "11:00"))
    row = world.row(2)
    assert (row["is_cancelled"], row["is_disrupted"], row["outcome_known_at"]) == (True, True, at("11:00"))
    (reason,) = world.push(report(2, "departed", "11:20", delay=20))
    assert 'the report "departed" contradicts' in reason
    assert "one_outcome" in reason
    after = world.row(2)
    assert after["departed_at"] is None
    assert after["is_cancelled"]


def test_a_report_that_was_rejected_counts_for_what_comes_after_it(world):
    """Rejected, but heard of: the flight is not late by absence."""
    world.load()
    (reason,) = world.push(report(2, "arrived", "12:10", delay=0, air_time_minutes=5))
    assert "plausible_ground_speed" in reason
    world.live.close(at("13:00"))
    row = world.row(2)
    assert row["arrived_at"] is None
    assert row["is_late"] is None


def test_a_wall_clock_that_is_not_schedule_plus_delay_is_rejected(world):
    world.load()
    (reason,) = world.push(report(1, "departed", "12:34", delay=4, actual_hhmm_local=1300))
    assert "actual_time_matches_delay" in reason
    assert world.row(1)["departed_at"] is None


def test_what_files_have_been_taken_in_for_is_too_late_but_for_days_that_wait(world):
    world.load()
    asked = rows_of(
        "flight_events", [report(2, "departed", "11:05", delay=5), report(1, "departed", "12:34", delay=4)]
    )
    assert world.live.why_filed("flight_events", asked) == [None, None]
    until = at("12:34")
    world.load(filed={"flight_events": Filed(until)})
    too_late, fine = world.live.why_filed("flight_events", asked)
    assert (
        "known_at 2013-07-15T15:05:00+00:00: the file of the feed day 2013-07-15 has been taken in"
        in too_late
    )
    assert "(raw/flight_events up to 2013-07-15T16:34:00+00:00)" in too_late
    assert fine is None
    world.load(filed={"flight_events": Filed(until, frozenset({DAY}))})
    assert world.live.why_filed("flight_events", asked) == [None, None]


def test_reports_concern_the_entities_of_their_departures_and_those_that_they_name(world):
    world.load()
    world.live.apply(
        {"aircraft_assignments": rows_of("aircraft_assignments", [assignment(1, "N1", "10:00")])}
    )
    events = rows_of(
        "flight_events", [report(1, "departed", "12:34", delay=4), report(2, "cancelled", "11:00")]
    )
    renamed = rows_of("aircraft_assignments", [assignment(1, "N2", "11:00")])
    assert world.live.concerned(("tail_number",), {"flight_events": events}) == [("N1",)]
    both = {"flight_events": events, "aircraft_assignments": renamed}
    assert sorted(world.live.concerned(("tail_number",), both)) == [("N1",), ("N2",)]
    assert world.live.concerned(("network",), {"flight_events": events}) == [("all",)]


def test_a_report_of_another_feed_day_is_refused(world):
    world.load()
    late = report(1, "departed", "12:34", delay=4, known_at=at("12:34") + timedelta(days=3))
    (reason,) = world.live.why_not("flight_events", rows_of("flight_events", [late]))
    assert "lies on the feed day 2013-07-18; of service_date 2013-07-15" in reason
    assert "the feed days 2013-07-14 to 2013-07-17" in reason


def test_pushed_and_landed_reports_make_the_same_row(world):
    reports = [report(2, "departed", "11:05", delay=5), report(2, "arrived", "12:12", delay=2)]
    for one in reports:
        world.land(**one)
    landed = world.load().row(2)
    world.events.clear()
    world.load()
    for one in reversed(reports):
        world.push(one)
    pushed = world.row(2)
    assert {k: v for k, v in pushed.items() if not k.startswith("_")} == {
        k: v for k, v in landed.items() if not k.startswith("_")
    }
    assert pushed["_departed_raw_id"] == "push-2013-07-15-UA-2-EWR-departed"


def test_a_report_without_a_schedule_is_refused_in_words(world):
    world.schedules += [
        schedule(4, "09:00", "10:00"),
        schedule(4, "09:00", "10:00", created_at=NOW - MINUTE, is_retracted=True, _raw_id="gone"),
    ]
    world.load()
    asked = [
        report(1, "departed", "12:34", delay=4), report(99, "departed", "12:34", delay=4),
        report(4, "departed", "09:00", delay=0), report(1, "departed", "12:34", delay=4, service_date=date(2013, 7, 1)),
    ]  # fmt: skip
    fine, unknown, retracted, closed = world.live.why_not("flight_events", rows_of("flight_events", asked))
    assert fine is None
    assert unknown is not None
    assert unknown.startswith("no departure UA 99 from EWR is scheduled on 2013-07-15 (raw/flight_schedules)")
    assert retracted is not None
    assert "UA 4 from EWR" in retracted
    assert closed is not None
    assert "service_date 2013-07-01 takes no pushed report: open are 2013-07-11 to 2013-07-17" in closed


def test_an_aircraft_that_is_swapped_touches_both(world):
    world.load()

    def assign(tail: str, known: str) -> None:
        world.live.apply(
            {"aircraft_assignments": rows_of("aircraft_assignments", [assignment(1, tail, known)])}
        )

    assign("N1", "10:30")
    assert world.row(1)["tail_number"] == "N1"
    assert world.live.touched(("tail_number",)) == [("N1",)]
    assert world.live.touched(("network", "carrier")) == [("all", "UA")]
    world.con.execute("UPDATE live_aircraft_assignments SET tail_number = 'N2'")
    world.push(report(1, "departed", "12:30", delay=0))
    assert world.live.touched(("tail_number",)) == [("N1",), ("N2",)]


def test_a_failure_leaves_everything_as_it_was(world, monkeypatch):
    world.load()
    before = world.row(1)
    broken = CleanRules(world.rules.times, "SELECT nothing FROM nowhere", world.rules.rejected)
    monkeypatch.setattr(world.live, "_rules", broken)
    with pytest.raises(Exception, match="nowhere"):
        world.push(report(1, "departed", "12:34", delay=4))
    monkeypatch.undo()
    assert world.row(1) == before
    assert world.con.execute("SELECT count(*) FROM live_flight_events").fetchone() == (0,)
    assert world.push(report(1, "departed", "12:34", delay=4)) == []
    assert world.row(1)["departure_delay_minutes"] == 4


def test_builders_are_given_what_is_not_over(world):
    world.schedules.append(schedule(5, "08:00", "09:00", created_at=NOW - MINUTE, _raw_id="late"))
    world.load()

    def there(since: str) -> list[int]:
        world.live.departures_since(at(since))
        return [n for (n,) in world.con.execute("SELECT flight_number FROM departures ORDER BY 1").fetchall()]

    world.push(report(2, "departed", "11:00", delay=0), report(2, "arrived", "12:05", delay=-5))
    # What came irregularly stays: all its versions count together.
    assert there("12:05") == [1, 2, 3, 5]
    assert there("12:06") == [1, 3, 5]
    world.push(report(1, "departed", "12:30", delay=0), report(1, "arrived", "13:40", delay=0))
    assert there("13:41") == [3, 5]
    assert there("12:00") == [1, 2, 3, 5]
