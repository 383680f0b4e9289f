"""A real day pushed as it happened: what is online at each instant is what the daily files make of it later."""

from __future__ import annotations

import json
import random
import re
import signal
import statistics
import subprocess
import sys
import time
from collections.abc import Sequence
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from contrail import duck
from contrail.completeness import ACCEPTED_UNTIL, BLOCKED
from contrail.lake import RUN_ID, WRITTEN_AT, Commit, Lake
from contrail.online_push import OnlinePush
from contrail.online_views import OnlineError
from contrail.push import PushError
from contrail.settings import Settings
from contrail.windows import MICROSECOND, utc_literal
from features.declarations import DEPARTURES
from features.live import FEEDS, LiveDepartures
from resources.push import LivePush, clean_rules
from tests.support.pushed_day import CUT, END, TABLES, Online, Report, Whole, journal, leg_of

pytestmark = pytest.mark.slow

QUARTER = timedelta(minutes=15)
FED = "2013-01-21"  # the feed day of the cut and of all that comes after it
ROOT = Path(__file__).resolve().parents[2]


def push_all(live: LivePush, reports: Sequence[Report]) -> None:
    for feed in FEEDS:
        live.push([row for name, row in reports if name == feed], feed)


def test_the_live_rows_are_those_of_the_clean_stage(whole):
    with duck.connect() as con:
        live = LiveDepartures(con, clean_rules(whole.settings))
        live.load(whole.scan, END - timedelta(days=9), END)
        columns = ", ".join(name for (name, *_) in con.execute("DESCRIBE live_departures").fetchall())
        days = f"service_date >= DATE '{(END - timedelta(days=9)).date()}'"
        clean = f"SELECT {columns} FROM {whole.scan(DEPARTURES)} WHERE {days}"
        ours = f"SELECT {columns} FROM live_departures WHERE {days}"
        for one, other in ((clean, ours), (ours, clean)):
            assert con.execute(f"SELECT count(*) FROM ({one} EXCEPT ALL {other})").fetchone() == (0,)
        assert con.execute(f"SELECT count(*) > 7000 FROM ({ours})").fetchone() == (True,)


def test_a_day_that_is_pushed_is_online_as_its_files_make_it_later(whole, home):
    online = Online(home)
    pushes: list[float] = []
    closes: list[float] = []
    cpu: dict[str, list[float]] = {"push": [], "close": []}
    with LivePush(home) as live:
        assert live.closed_until == CUT - MICROSECOND
        push_all(live, whole.reports(CUT, CUT + MICROSECOND))
        live.close(CUT)  # warms up
        assert online.differences(whole, CUT) == []
        for quarter in range(2):
            since = CUT + quarter * QUARTER
            # The last quarter's last reports, and this one's first: one by one.
            for feed, row in whole.reports(since, since + QUARTER + MICROSECOND)[:25]:
                began = time.process_time()
                done = live.push([row], feed)
                cpu["push"].append(time.process_time() - began)
                assert (done.accepted + done.repeated, done.refused, done.left_out) == (1, (), ())
                pushes.append(done.seconds)
            push_all(live, whole.reports(since, since + QUARTER + MICROSECOND))
            began = time.process_time()
            closed = live.close(since + QUARTER)
            cpu["close"].append(time.process_time() - began)
            closes.append(closed.seconds)
            assert {view.view for view in closed.views} == {t.name for t in TABLES if "history" not in t.name}
            assert online.differences(whole, since + QUARTER) == []
        push_all(live, whole.reports(CUT, END))
        live.close(END - MICROSECOND)
        assert online.differences(whole, END - MICROSECOND) == []
        # Not only the newest: every row of the rest of the day.
        for table in TABLES:
            mine = (
                live.rows(table, CUT + MICROSECOND, END).to_arrow_table().sort_by([("known_at", "ascending")])
            )
            names = ", ".join(mine.column_names)
            whole.con.register("mine", mine)
            theirs = (
                f"SELECT {names} FROM {whole.scan(f'feature/{table.name}')} "
                f"WHERE known_at > {utc_literal(CUT)} AND known_at < {utc_literal(END)}"
            )
            for one, other in ((theirs, "FROM mine"), ("FROM mine", theirs)):
                count = whole.con.execute(f"SELECT count(*) FROM ({one} EXCEPT ALL {other})").fetchone()
                assert count == (0,), table.name
            whole.con.unregister("mine")
            assert mine.num_rows or "history" in table.name
    # The wall says, too, what else the machine does; the CPU seconds of all threads of this process hardly do.
    print(
        f"push of one event: median {statistics.median(pushes):.3f} s, slowest {max(pushes):.3f} s of {len(pushes)}; "
        f"close of a quarter of an hour: {', '.join(f'{seconds:.3f}' for seconds in closes)} s; "
        f"CPU seconds, medians: {', '.join(f'{name} {statistics.median(each):.3f}' for name, each in cpu.items())}"
    )
    for name, each in cpu.items():
        assert max(each) < 2, name


def test_events_that_come_late_and_out_of_order_end_at_the_same_values(whole, home):
    online = Online(home)
    reports = whole.reports(CUT, CUT + 2 * QUARTER + MICROSECOND)
    random.Random(3).shuffle(reports)
    half = len(reports) // 2
    with LivePush(home) as live:
        push_all(live, reports[:half])
        live.close(CUT + 2 * QUARTER)
        assert online.differences(whole, CUT + 2 * QUARTER)
        # A view on a grid changes at once when an event belongs before an instant that is closed.
        done = live.push([row for feed, row in reports[half:] if feed == "flight_events"])
        assert {"network_state", "dest_state", "aircraft_leg"} <= {view.view for view in done.views}
        push_all(live, reports[half:])
        assert online.differences(whole, CUT + 2 * QUARTER) == []


def test_an_older_event_never_goes_over_a_newer_value(whole, home, leg):
    departed, arrived, tail = leg_of(whole)
    with LivePush(home) as live:
        live.push([arrived])
        landed = leg(tail)
        assert landed["aircraft_leg_stage"] == 2
        assert landed["aircraft_leg_arrival_delay_minutes"] == arrived["delay_minutes"]
        assert landed["aircraft_leg_departure_delay_minutes"] is None
        live.push([departed])
    after = leg(tail)
    # The aircraft stays landed, and what is now known of its departure is told as well.
    assert after == landed | {"aircraft_leg_departure_delay_minutes": departed["delay_minutes"]}


def test_an_event_that_comes_twice_is_taken_once(whole, home):
    departed, arrived, _ = leg_of(whole)
    with LivePush(home) as live:
        assert (live.push([departed]).accepted, live.push([departed, arrived]).repeated) == (1, 1)
    with LivePush(home) as live:
        again = live.push([departed, arrived])
        assert (again.accepted, again.repeated, again.views) == (0, 2, ())
        otherwise = live.push([{**departed, "delay_minutes": departed["delay_minutes"] + 1}])
        assert "was reported before with other values" in otherwise.refused[0].reason
    assert [row["_refused"] is None for row in journal(home)].count(True) == 2


def test_an_event_that_nobody_scheduled_is_refused_and_kept(whole, home):
    departed, arrived, _ = leg_of(whole)
    with LivePush(home) as live:
        done = live.push([{**departed, "flight_number": 9999}, {**departed, "delay_minutes": "ten"}, arrived])
        assert done.accepted == 1
        assert [re.sub(r"(?s) is .*", "", one.reason) for one in done.refused] == [
            "delay_minutes = 'ten': delay_minutes",
            f"no departure {departed['carrier']} 9999 from {departed['origin']}",
        ]
        with pytest.raises(
            PushError, match="weather takes no pushed events; those that do: flight_events, aircraft_ass"
        ):
            live.push([departed], "weather")
        with pytest.raises(PushError, match="lies in the future: the newest event is known at 2013-01-2"):
            live.close(CUT + timedelta(days=5))
        with pytest.raises(PushError, match="has no zone"):
            live.close(datetime(2013, 1, 21, 17))  # noqa: DTZ001
    kept = [json.loads(row["_as_sent"]) for row in journal(home) if row["_refused"]]
    assert sorted(str(row["flight_number"]) for row in kept) == sorted(
        ["9999", str(departed["flight_number"])]
    )


KILLED = """
import json, os, signal, sys
from contrail.online_push import OnlinePush
from contrail.settings import Settings
from resources.push import LivePush
OnlinePush.write = lambda self, rows, until: os.kill(os.getpid(), signal.SIGKILL)
with LivePush(Settings()) as live:
    live.push([json.loads(sys.argv[1])])
"""


def test_what_was_journalled_and_not_written_is_written_at_the_next_start(whole, home, leg):
    departed, _, tail = leg_of(whole)
    before = leg(tail)
    done = subprocess.run(
        [sys.executable, "-c", KILLED, json.dumps(departed, default=lambda value: value.isoformat())],
        cwd=ROOT, env={"CONTRAIL_HOME": str(home.home), "PATH": "/usr/bin:/bin"}, check=False, timeout=300,
    )  # fmt: skip
    assert done.returncode == -signal.SIGKILL
    assert len(journal(home)) == 1
    assert leg(tail) == before
    with LivePush(home):
        after = leg(tail)
    assert after["event_us"] == int(departed["known_at"].timestamp() * 1_000_000)
    assert (after["aircraft_leg_stage"], after["aircraft_leg_departure_delay_minutes"]) == (
        1,
        departed["delay_minutes"],
    )


def test_two_do_not_push_into_one_home(home):
    with (
        LivePush(home),
        pytest.raises(PushError, match="another process pushes into .*home: send the events to it"),
    ):
        LivePush(home)


def test_a_home_that_is_not_there_is_named(tmp_path):
    with pytest.raises(PushError, match="nothing to push into: there is no home .*nowhere"):
        LivePush(Settings(home=tmp_path / "nowhere"))


def test_what_could_not_be_written_is_written_by_the_next_call(whole, home, leg, monkeypatch):
    departed, _, tail = leg_of(whole)

    def locked(_self: OnlinePush, _rows: object, _until: datetime) -> int:
        raise OnlineError("the online store is locked by another writer: try again")

    with LivePush(home) as live:
        with monkeypatch.context() as patch:
            patch.setattr(OnlinePush, "write", locked)
            with pytest.raises(OnlineError, match="locked"):
                live.push([departed])
            with pytest.raises(OnlineError, match="locked"):
                live.close(CUT)
        again = live.push([departed])
        assert (again.accepted, again.repeated, [view.view for view in again.views]) == (
            0,
            1,
            ["aircraft_leg"],
        )
        assert leg(tail)["aircraft_leg_departure_delay_minutes"] == departed["delay_minutes"]
        assert live.close(CUT).views


def take_in(whole: Whole, home: Settings, *, without: str = "") -> None:
    """The files of the day come, and the raw tables hold what they brought.

    Or they are "blocked", or the one of flight_events is "missing", and the next day's came.
    """
    lake = Lake(home.lake_root)
    for feed in FEEDS:
        found = whole.con.execute(
            f"SELECT * EXCLUDE ({WRITTEN_AT}, {RUN_ID}) FROM {whole.scan(f'raw/{feed}')} "
            f"WHERE known_at >= {utc_literal(CUT)} AND known_at < {utc_literal(END)}"
        )
        rows, table = found.to_arrow_table(), f"raw/{feed}"
        until = END + timedelta(days=1) if without else END
        extra = {ACCEPTED_UNTIL: until.isoformat()}
        extra |= {BLOCKED: json.dumps({FED: ["unreadable"]})} if without == "blocked" else {}
        partition = "2013-01-22" if without == "missing" else FED
        commit = Commit(table, f"daily-{without}", ("sha256:00",), partition=partition, extra=extra)
        if without == "missing" and feed == "flight_events":
            lake.replace_partitions(table, rows.slice(0, 0), commit, where=f"feed_date = '{FED}'")
        else:
            lake.append(table, rows.slice(0, 0) if without else rows, commit)


def false_report(whole: Whole, until: datetime) -> tuple[dict[str, Any], str]:
    """The cancellation, before `until`, of a flight that departs later in the day, and its aircraft."""
    found = whole.rows(
        f"SELECT service_date, carrier, flight_number, origin, tail_number FROM {whole.scan(DEPARTURES)} "
        f"WHERE departed_known_at >= {utc_literal(until)} AND departed_known_at < {utc_literal(END)} "
        f"AND scheduled_departure_at >= {utc_literal(until)} AND tail_known_at < {utc_literal(CUT)} "
        "ORDER BY departure_id LIMIT 1"
    )[0]
    tail = found.pop("tail_number")
    nothing = dict.fromkeys(("actual_hhmm_local", "delay_minutes", "air_time_minutes"))
    return found | nothing | {"event": "cancelled", "known_at": until - timedelta(minutes=20)}, tail


def test_what_the_daily_file_lacks_did_not_happen(whole, home, leg):
    online, hour = Online(home), CUT + 4 * QUARTER
    said, tail = false_report(whole, hour)
    with LivePush(home) as live:
        push_all(live, whole.reports(CUT, hour))
        assert (live.push([said]).accepted, live.close(hour - MICROSECOND).instant) == (1, hour - MICROSECOND)
        assert leg(tail)["aircraft_leg_is_cancelled"]
        assert online.differences(whole, hour - MICROSECOND)
        take_in(whole, home)
        # Begins anew, and mends what is online, also at instants that are closed.
        views = {view.view for view in live.push([]).views}
        assert {"network_state", "aircraft_leg"} <= views
        assert online.differences(whole, hour - MICROSECOND) == []
        again = live.push([said])
        assert (again.accepted, again.repeated) == (0, 0)
        assert "the file of the feed day 2013-01-21 has been taken in" in again.refused[0].reason
        live.close(END - MICROSECOND)
        assert online.differences(whole, END - MICROSECOND) == []
    with LivePush(home):
        assert online.differences(whole, END - MICROSECOND) == []
    assert [row["known_at"] is None for row in journal(home) if "cancelled" in row["_as_sent"]].count(
        True
    ) == 1


@pytest.mark.parametrize("without", ["blocked", "missing"])
def test_a_day_whose_file_is_blocked_or_missing_is_still_pushed(whole, home, leg, without):
    departed, arrived, tail = leg_of(whole)
    with LivePush(home) as live:
        live.push([departed])
        take_in(whole, home, without=without)
        assert live.push([arrived]).accepted == 1
        landed = leg(tail)
    assert landed["aircraft_leg_departure_delay_minutes"] == departed["delay_minutes"]
    assert landed["aircraft_leg_stage"] == 2
    with LivePush(home) as live:
        assert live.push([departed, arrived]).repeated == 2
        take_in(whole, home)
        assert live.push([departed, arrived]).repeated == 2
        assert leg(tail)["aircraft_leg_stage"] == 2


def test_when_the_daily_file_has_come_it_is_what_counts(whole, home):
    hour = CUT + 4 * QUARTER
    reports = whole.reports(CUT, hour)
    with LivePush(home) as live:
        push_all(live, reports)
        live.close(hour - MICROSECOND)
        take_in(whole, home)
        done = live.push([row for feed, row in reports if feed == "flight_events"])
        assert (done.accepted, done.repeated) == (0, sum(feed == "flight_events" for feed, _ in reports))
        # The next instants are made of the file.
        live.close(END - MICROSECOND)
    assert Online(home).differences(whole, END - MICROSECOND) == []
