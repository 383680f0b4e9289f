"""Corrections, late files and retractions: every question is answered as of what had been delivered when it was asked.

Random departures get random later versions. At random instants T, the row that a point-in-time reader finds in a
feature table (event time and creation both not after T) must equal counting by hand over the versions that were there
at T.
"""

import random
from datetime import timedelta
from itertools import pairwise

import pyarrow as pa
import pytest

from contrail.windows import Revision, utc_literal
from features import history, state
from features.corrections import let_go
from features.facts import revision
from features.tables import FEATURE_TABLES
from tests.support import by_hand
from tests.support.clean_rows import DEPARTURE_SCHEMA, departure, observation, session_with, utc

LO, HI = utc("2013-03-01 00:00"), utc("2013-03-20 00:00")
MINUTE, DAY = timedelta(minutes=1), timedelta(days=1)
SEEDS = range(3)


def outcome_of(row):
    """The outcome as the clean stage derives it: what was heard by scheduled arrival + 15 min, else late by absence."""
    late_from = row["scheduled_arrival_at"] + timedelta(minutes=15)
    finals = [row[f"{event}_known_at"] for event in ("arrived", "cancelled", "diverted")]
    heard = min((at for at in finals if at is not None), default=None)
    on_time = heard is not None and heard <= late_from
    late = not on_time or (row["arrival_delay_minutes"] or 0) >= 15
    return {
        "outcome_known_at": min(heard, late_from) if heard is not None else late_from,
        "is_disrupted": late or row["is_cancelled"] or row["is_diverted"],
    }


def random_departure(draw, number, day):
    scheduled = utc(f"2013-03-{day:02d} 10:00") + draw.randrange(14 * 60) * MINUTE
    facts = {
        "carrier": draw.choice(["XX", "YY"]), "origin": draw.choice(["AAA", "CCC"]), "dest": draw.choice(["BBB", "DDD"]),
        "tail_number": draw.choice(["N1", "N2", "N3", None]),
    }  # fmt: skip
    facts |= random_events(draw)
    row = departure(f"{scheduled:%Y-%m-%d %H:%M}", number, **facts)
    row["departure_id"] = f"{day:02d}-{number:03d}"
    return row | outcome_of(row)


def random_events(draw):
    kind = draw.random()
    if kind < 0.1:
        return {"cancelled": True}
    delay = draw.choice([-5, 0, 3, 14, 15, 40, 200])
    return (
        {"delay": delay} if kind < 0.2 else {"delay": delay, "arrival_delay": delay + draw.randrange(-15, 20)}
    )


def corrected(draw, row, created_at):
    """A later version of a departure: other events, another aircraft, another destination, or none at all."""
    kind = draw.randrange(5)
    if kind == 0:
        return row | {"is_retracted": True, "created_at": created_at}
    scheduled = row["scheduled_departure_at"] + (kind == 1) * draw.choice([-30, 45]) * MINUTE
    facts = {name: row[name] for name in ("carrier", "origin", "dest", "tail_number", "flight_number")}
    if kind == 2:
        facts["tail_number"] = draw.choice(["N1", "N2", None])
    if kind == 3:
        facts["dest"] = "DDD" if row["dest"] == "BBB" else "BBB"
    number = facts.pop("flight_number")
    again = departure(f"{scheduled:%Y-%m-%d %H:%M}", number, **facts, **random_events(draw))
    same = {name: row[name] for name in ("departure_id", "service_date", "schedule_known_at", "known_at")}
    again |= same | {"created_at": created_at}
    return again | outcome_of(again)


def random_world(seed, days=(8, 9, 10)):
    """Versions of departures: nearly all regular, a third with corrections at a few instants, some late from the start."""
    draw = random.Random(seed)
    deliveries = [utc("2013-03-08 12:00") + draw.randrange(5 * 1440) * MINUTE for _ in range(5)]
    rows = []
    for number in range(60):
        row = random_departure(draw, number, draw.choice(days))
        if draw.random() < 0.1:
            row["created_at"] = max(row["known_at"], draw.choice(deliveries))
        rows.append(row)
        later = sorted({at for at in deliveries if at > row["created_at"] and draw.random() < 0.2})
        for at in later:
            row = corrected(draw, row, at)
            rows.append(row)
    return rows


def at_instant(rows, at):
    """The versions that counted at an instant: of each departure the newest that was there, unless it is retracted."""
    newest = {}
    for row in sorted(rows, key=lambda r: r["created_at"]):
        regular = row["created_at"] == row["schedule_known_at"]
        if regular or row["created_at"] <= at:
            newest[row["departure_id"]] = row
    return [row for row in newest.values() if not row["is_retracted"]]


def answer(con, table, keys, at):
    """The values a point-in-time reader finds at `at`; priors where there is no row or only one outside max age."""
    where = " AND ".join(f"{name} = ?" for name in table.keys)
    names = ", ".join(column.name for column in table.columns)
    row = con.execute(
        f"SELECT {names}, known_at FROM built_{table.name} WHERE {where} AND known_at <= ? AND created_at <= ? "
        "ORDER BY known_at DESC, created_at DESC LIMIT 1",
        [*keys, at, at],
    ).fetchone()
    priors = tuple(column.prior for column in table.columns)
    return priors if row is None or at - row[-1] > table.max_age else row[:-1]


@pytest.fixture(scope="module", params=SEEDS)
def world(request):
    """(versions, session with every table built over them, random generator)"""
    rows = random_world(request.param)
    con = session_with(rows)
    for name, table in FEATURE_TABLES.items():
        table.build(con, LO, HI).create(f"built_{name}")
    assert any(r["is_retracted"] for r in rows)
    assert any(r["created_at"] > r["schedule_known_at"] for r in rows)
    return rows, con, random.Random(1000 + request.param)


def asked(draw, rows):
    """Random instants, half of them around a delivery, where answers change."""
    deliveries = sorted({r["created_at"] for r in rows if r["created_at"] > r["schedule_known_at"]})
    for n in range(120):
        if n % 2:
            yield draw.choice(deliveries) + draw.choice([-MINUTE, timedelta(0), MINUTE, timedelta(hours=7)])
        else:
            yield utc("2013-03-08 08:00") + draw.randrange(6 * 1440) * MINUTE


@pytest.mark.parametrize("scope", state.SCOPES)
def test_state_is_answered_as_of_what_had_been_delivered(world, scope):
    rows, con, draw = world
    table, differing = FEATURE_TABLES[f"{scope}_state"], 0
    for at in asked(draw, rows):
        keys = keys_of(draw, rows, table.keys)
        g = by_hand.minute(state.STATE_GRID.last(at))
        expected = by_hand.state(selected(rows, at, table.keys, keys), g)
        assert answer(con, table, keys, at) == expected, (keys, at)
        differing += expected != by_hand.state(selected(rows, HI, table.keys, keys), g)
    assert differing > 5, "the corrections must matter to the answers, or nothing was tested"


@pytest.mark.parametrize("scope", history.SCOPES)
def test_history_is_answered_as_of_what_had_been_delivered(world, scope):
    rows, con, draw = world
    table = FEATURE_TABLES[f"{scope}_history"]
    for at in asked(draw, rows):
        keys = keys_of(draw, rows, table.keys)
        g = by_hand.minute(history.HISTORY_GRID.last(at))
        expected = by_hand.history(selected(rows, at, table.keys, keys), g)
        assert answer(con, table, keys, at) == expected, (keys, at)


def test_the_aircraft_is_answered_as_of_what_had_been_delivered(world):
    rows, con, draw = world
    table, known = FEATURE_TABLES["aircraft_leg"], 0
    for at in asked(draw, rows):
        tail = draw.choice(["N1", "N2", "N3"])
        legs = [row for row in at_instant(rows, at) if row["tail_number"] == tail]
        expected = by_hand.aircraft_leg(legs, at)
        if expected != by_hand.aircraft_leg(
            legs, at - table.max_age
        ):  # the newest news is young enough to answer
            assert answer(con, table, (tail,), at) == expected, (tail, at)
            known += expected[0] is not None
    assert known > 50


def keys_of(draw, rows, names):
    row = draw.choice(rows)
    return tuple("all" if name == "network" else row[name] for name in names)


def selected(rows, at, names, keys):
    there = pa.Table.from_pylist([dict(row, network="all") for row in at_instant(rows, at)],
                                 schema=DEPARTURE_SCHEMA.append(pa.field("network", pa.string())))  # fmt: skip
    return by_hand.chosen(by_hand.columns_of(there), names, keys)


def test_weather_is_answered_as_of_what_had_been_delivered():
    draw, rows = random.Random(7), []
    deliveries = [utc("2013-03-08 03:30") + draw.randrange(20 * 60) * MINUTE for _ in range(4)]
    for hour in range(30):
        at = f"{utc('2013-03-08 00:00') + timedelta(hours=hour):%Y-%m-%d %H:%M}"
        row = observation(at, temperature_f=40.0 + hour, precipitation_inches=draw.choice([0.0, 0.01, None]),
                          visibility_miles=draw.choice([10.0, 2.0]), wind_direction_degrees=draw.choice([90.0, None]),
                          pressure_millibars=draw.choice([1000.0 + hour, None]))  # fmt: skip
        rows.append(row)
        for created in sorted(c for c in deliveries if c > row["created_at"] and draw.random() < 0.5):
            change = {"is_retracted": True} if draw.random() < 0.3 else {"temperature_f": draw.random() * 90}
            row = row | {"is_retracted": False} | change | {"created_at": created}
            rows.append(row)
    con = session_with(weather=rows)
    table = FEATURE_TABLES["station_weather"]
    table.build(con, LO, HI).create("built_station_weather")
    changed = 0
    for _ in range(300):
        at = utc("2013-03-08 02:00") + draw.randrange(29 * 60) * MINUTE
        newest = {}
        for row in sorted(rows, key=lambda r: r["created_at"]):
            if row["created_at"] <= at:
                newest[row["observed_hour_at"]] = row
        there = [row for row in newest.values() if not row["is_retracted"]]
        expected = by_hand.station_weather(there, at)
        assert answer(con, table, ("AAA",), at) == by_hand.up_to_sine(expected), at
        changed += any(row["created_at"] > row["known_at"] for row in there)
    assert changed > 100


@pytest.mark.parametrize("name", FEATURE_TABLES)
def test_a_part_built_alone_is_that_slice_of_the_whole(world, name):
    _, con, _ = world
    parts = []
    for lo, hi in pairwise([LO, *(utc(f"2013-03-{d:02d} 07:30") for d in (8, 9, 10, 11, 13)), HI]):
        parts += FEATURE_TABLES[name].build(con, lo, hi).to_arrow_table().to_pylist()
    assert parts == con.sql(f"FROM built_{name}").to_arrow_table().to_pylist()


@pytest.mark.parametrize("name", FEATURE_TABLES)
def test_that_holds_for_files_of_weeks_ago_that_come_at_once(name):
    """Days in between are reached by none of them, and no row stands there but their own."""
    first, second = utc("2013-03-12 12:07"), utc("2013-03-18 12:00")
    rows, hours = [], []
    for day, created in (("2013-03-01", first), ("2013-03-01", second), ("2013-03-16", second)):
        for number, delay in ((1, 20), (2, 90)):
            there = departure(f"{day} 15:00", number, delay=delay, arrival_delay=delay, tail_number="N1")
            rows += [there] * (there not in rows)
            rows.append(departure(f"{day} 15:00", number, delay=2 * number, arrival_delay=3, tail_number="N1",
                                  created_at=created))  # fmt: skip
        hours.append(observation(f"{day} 15:00", temperature_f=50.0, created_at=created))
    for day in range(1, 18):
        rows.append(departure(f"2013-03-{day:02d} 18:00", 3, delay=20, arrival_delay=30, tail_number="N1"))
        hours += [observation(f"2013-03-{day:02d} {hour}:00", temperature_f=40.0) for hour in (15, 16)]
    con = session_with(rows, hours)
    table = FEATURE_TABLES[name]
    whole = table.build(con, utc("2013-02-25 00:00"), HI).to_arrow_table().to_pylist()
    for lo in (utc("2013-03-05 00:00"), utc("2013-03-12 07:30"), utc("2013-03-16 20:00")):
        part = table.build(con, lo, lo + DAY).to_arrow_table().to_pylist()
        assert part == [row for row in whole if lo <= row["known_at"] < lo + DAY]
    if "history" not in name:
        assert {row["created_at"] for row in whole if row["known_at"].day == 8}.isdisjoint({first, second})
    assert {first, second} <= {row["created_at"] for row in whole}


@pytest.mark.parametrize("name", [n for n in FEATURE_TABLES if n != "station_weather"])
def test_what_is_delivered_later_changes_no_earlier_version(world, name):
    """Built when only the first deliveries had come, the table is what it is later, less the versions created later."""
    rows, con, _ = world
    cut = sorted({r["created_at"] for r in rows if r["created_at"] > r["schedule_known_at"]})[1]
    early = session_with([row for row in rows if row["created_at"] <= cut])
    table = FEATURE_TABLES[name]
    before = table.build(early, LO, HI).to_arrow_table()
    con.register("early", before)
    earlier = f"created_at <= {utc_literal(cut)}"
    (differing,) = con.sql(
        f"SELECT count(*) FROM ((FROM early WHERE {earlier} EXCEPT ALL FROM built_{name} WHERE {earlier}) UNION ALL "
        f"(FROM built_{name} WHERE {earlier} EXCEPT ALL FROM early WHERE {earlier}))"
    ).fetchone()
    con.unregister("early")
    assert differing == 0
    assert before.num_rows > 0


@pytest.mark.parametrize("name", [n for n in FEATURE_TABLES if n != "station_weather"])
def test_a_revision_is_the_part_that_changes(world, name):
    """What `revise` says, built and put in place of what was there, gives the table that a whole build gives."""
    rows, con, draw = world
    unseen = draw.sample([r for r in rows if r["created_at"] > r["schedule_known_at"]], 3)
    seen = [row for row in rows if row not in unseen]
    before = session_with(seen)
    table = FEATURE_TABLES[name]
    table.build(before, LO, HI).create("stored")
    before.register("all_rows", pa.Table.from_pylist(rows, schema=DEPARTURE_SCHEMA))
    before.register("seen_rows", pa.Table.from_pylist(seen, schema=DEPARTURE_SCHEMA))
    before.execute("CREATE OR REPLACE TEMP VIEW departures_before AS FROM seen_rows")
    before.execute("CREATE OR REPLACE TEMP VIEW departures AS FROM all_rows")
    part = table.revise(before, None, HI)
    assert isinstance(part, Revision)
    assert part.created_from == min(r["created_at"] for r in unseen)
    hi = min(part.hi, HI)  # no further than what is built
    inside = (f"known_at >= {utc_literal(part.lo)} AND known_at < {utc_literal(hi)} "
              f"AND created_at >= {utc_literal(part.created_from)}")  # fmt: skip
    before.execute(f"DELETE FROM stored WHERE {inside}")
    table.build(before, part.lo, hi, part.created_from).insert_into("stored")
    con.register("revised", before.sql("FROM stored").to_arrow_table())
    (differing,) = con.sql(
        f"SELECT count(*) FROM ((FROM revised EXCEPT ALL FROM built_{name}) UNION ALL "
        f"(FROM built_{name} EXCEPT ALL FROM revised))"
    ).fetchone()
    con.unregister("revised")
    assert differing == 0


def test_without_newer_versions_nothing_is_revised(world):
    rows, _, _ = world
    con = session_with(rows)
    con.execute("CREATE TEMP VIEW departures_before AS FROM departures")
    assert revision(con, DAY, None, HI) is None


def test_a_retraction_takes_the_flight_out_from_its_delivery_on():
    regular = departure("2013-03-08 15:00", delay=20, arrival_delay=30, tail_number="N1")
    delivery = utc("2013-03-08 18:07")
    gone = regular | {"is_retracted": True, "created_at": delivery}
    con = session_with([regular, gone])
    for name in ("network_state", "aircraft_leg"):
        FEATURE_TABLES[name].build(con, LO, HI).create(f"built_{name}")
    network, aircraft = FEATURE_TABLES["network_state"], FEATURE_TABLES["aircraft_leg"]
    landed = [c.name for c in network.columns].index("network_arrival_delay_mean_24h")
    assert answer(con, network, ("all",), delivery - MINUTE)[landed] == (30 + 25.0) / 6
    assert answer(con, network, ("all",), delivery)[landed] == 5.0
    assert answer(con, aircraft, ("N1",), delivery - MINUTE)[5] == 2
    assert answer(con, aircraft, ("N1",), delivery) == (None,) * 6


@pytest.mark.parametrize("name", ["network_state", "aircraft_leg", "flight_history"])
def test_a_day_that_was_held_back_belongs_to_what_was_known_then(name):
    """Regular rows that were not there when the table was built: its day had been blocked by another feed's file."""
    there = [
        departure(f"2013-03-08 {10 + n}:00", n, delay=n, arrival_delay=n, tail_number="N1") for n in range(5)
    ]
    held_back = [
        departure(f"2013-03-07 {10 + n}:00", n, delay=n, arrival_delay=30, tail_number="N1") for n in range(5)
    ]
    con = session_with(there + held_back)
    con.register("departures_before", pa.Table.from_pylist(there, schema=DEPARTURE_SCHEMA))
    table = FEATURE_TABLES[name]
    part = table.revise(con, None, HI)
    assert part.created_from == utc("2013-03-07 10:00")
    assert part.lo <= utc("2013-03-07 10:00")
    assert part.hi >= utc("2013-03-08 18:45")
    assert table.revise(con, (HI.date(), HI.date()), HI) is None, "other days were written"
    assert table.revise(con, None, utc("2013-03-07 09:00")) is None, "nothing of it is built yet"


@pytest.mark.parametrize("name", ["network_state", "aircraft_leg", "flight_history"])
def test_a_fact_of_a_day_that_was_held_back_later_belongs_to_what_was_known_then(name):
    """The day had been built once; then a second file of it was blocked, and the next day's reports did not reach it."""
    landed = departure("2013-03-08 23:00", delay=20, arrival_delay=30, tail_number="N1")
    on_its_way = departure("2013-03-08 23:00", delay=20, tail_number="N1")
    con = session_with([landed])
    con.register("departures_before", pa.Table.from_pylist([on_its_way], schema=DEPARTURE_SCHEMA))
    table = FEATURE_TABLES[name]
    part = table.revise(con, None, HI)
    assert part.created_from == utc("2013-03-09 01:15"), "late by absence, before it landed"
    assert part.hi >= utc("2013-03-09 01:30")
    assert table.revise(con, None, utc("2013-03-09 01:15")) is None, "the ordinary growth of a day is none"


def test_a_session_that_goes_on_lets_go_of_what_builds_left_in_it():
    first = departure("2013-03-08 15:00", delay=20, arrival_delay=30)
    con = session_with([first, first | {"is_retracted": True, "created_at": utc("2013-03-08 18:07")}])
    left = "SELECT count(*) FROM duckdb_tables() WHERE temporary"
    for _ in range(2):
        assert len(FEATURE_TABLES["network_state"].build(con, LO, HI).fetchall()) > 10
        assert con.sql(left).fetchone() == (1,)
        let_go(con)
        assert con.sql(left).fetchone() == (0,)
