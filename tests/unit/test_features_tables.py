"""The feature tables on twelve real days over a clock change: every value equals what counting by hand gives."""

import random
from datetime import UTC, date, datetime, timedelta
from itertools import pairwise

import pytest

from contrail.windows import utc_literal
from features import history, state
from features.tables import FEATURE_TABLES
from tests.support import by_hand, nyc_clean

FIRST, LAST = date(2013, 3, 2), date(2013, 3, 13)  # the storm of 03-08, and the clock change of 03-10
LO, HI = datetime(2013, 3, 2, 7, tzinfo=UTC), datetime(2013, 3, 15, 7, tzinfo=UTC)
MINUTE = timedelta(minutes=1)


@pytest.fixture(scope="module")
def con(tmp_path_factory):
    session = nyc_clean.session()
    nyc_clean.load_facts(session, tmp_path_factory.mktemp("source"), FIRST, LAST)
    nyc_clean.create_clean(session)
    return session


@pytest.fixture(scope="module")
def built(con):
    """Every table over the whole span, as ``built_<name>`` in the session."""
    for name, table in FEATURE_TABLES.items():
        table.build(con, LO, HI).create(f"built_{name}")
    return con


@pytest.fixture(scope="module")
def clean(con):
    """Columns of the clean departures: instants as whole minutes, never = far away."""
    return by_hand.columns_of(con.sql("SELECT *, 'all' AS network FROM departures").to_arrow_table())


def stored(con, table, keys, at):
    """The values that answer for `keys` at `at`: the last row's, else the priors."""
    where = " AND ".join(f"{name} = ?" for name in table.keys)
    names = ", ".join(column.name for column in table.columns)
    row = con.execute(
        f"SELECT {names} FROM built_{table.name} WHERE {where} AND known_at <= ? ORDER BY known_at DESC LIMIT 1",
        [*keys, at],
    ).fetchone()
    return row or tuple(column.prior for column in table.columns)


def draws(con, table, grid, seed, count):
    """Random keys of the table (half of them busy ones) and random grid instants."""
    names = ", ".join(table.keys)
    keys = con.sql(
        f"SELECT {names} FROM (SELECT *, 'all' AS network FROM departures)"
        f" GROUP BY {names} ORDER BY count(*) DESC, {names}"
    ).fetchall()
    draw = random.Random(seed)
    steps = (HI - LO) // grid.step
    for n in range(count):
        pool = keys[:5] if n % 2 else keys
        yield draw.choice(pool), grid.last(LO + (1 + draw.randrange(steps - 1)) * grid.step)


@pytest.mark.parametrize("scope", state.SCOPES)
def test_state_equals_counting_by_hand(built, clean, scope):
    table = FEATURE_TABLES[f"{scope}_state"]
    busy = 0
    for keys, at in draws(built, table, state.STATE_GRID, seed=1, count=200):
        expected = by_hand.state(by_hand.chosen(clean, table.keys, keys), by_hand.minute(at))
        assert stored(built, table, keys, at) == expected, (keys, at)
        busy += expected[0] > 0
    assert busy >= 10


@pytest.mark.parametrize("scope", history.SCOPES)
def test_history_equals_counting_by_hand(built, clean, scope):
    table = FEATURE_TABLES[f"{scope}_history"]
    for keys, at in draws(built, table, history.HISTORY_GRID, seed=2, count=200):
        expected = by_hand.history(by_hand.chosen(clean, table.keys, keys), by_hand.minute(at))
        assert stored(built, table, keys, at) == expected, (keys, at)


def test_aircraft_leg_equals_the_latest_news(built, con):
    facts = con.sql("SELECT * FROM departures WHERE tail_number IS NOT NULL").to_arrow_table().to_pylist()
    by_tail = {}
    for fact in facts:
        by_tail.setdefault(fact["tail_number"], []).append(fact)
    table, draw, checked = FEATURE_TABLES["aircraft_leg"], random.Random(3), 0
    for _ in range(250):
        tail = draw.choice(sorted(by_tail))
        at = LO + draw.randrange((HI - LO) // MINUTE) * MINUTE
        expected = by_hand.aircraft_leg(by_tail[tail], at)
        assert stored(built, table, (tail,), at) == expected, (tail, at)
        checked += expected[0] is not None
    assert checked > 150


def test_station_weather_equals_the_last_observations(built, con):
    rows = con.sql("SELECT * FROM weather").to_arrow_table().to_pylist()
    table, draw, filled = FEATURE_TABLES["station_weather"], random.Random(4), 0
    for _ in range(200):
        origin = draw.choice(["EWR", "JFK", "LGA"])
        at = LO + timedelta(hours=6) + draw.randrange((HI - LO) // MINUTE - 60 * 48) * MINUTE
        mine = [r for r in rows if r["origin"] == origin]
        last = max((r for r in mine if r["known_at"] <= at), key=lambda r: r["known_at"])
        expected = by_hand.station_weather(mine, at)
        assert stored(built, table, (origin,), at) == by_hand.up_to_sine(expected), (origin, at)
        filled += last["pressure_millibars"] is None and expected[7] is not None
    assert filled > 0  # a pressure that was not reported was filled at least once


def differing(con, left, right):
    return con.sql(
        f"SELECT count(*) FROM (({left} EXCEPT ALL {right}) UNION ALL ({right} EXCEPT ALL {left}))"
    ).fetchone()[0]


def slice_of(name, lo, hi):
    return f"(FROM built_{name} WHERE known_at >= {utc_literal(lo)} AND known_at < {utc_literal(hi)})"


@pytest.mark.parametrize("name", FEATURE_TABLES)
def test_a_part_built_alone_is_that_slice_of_the_whole(built, name):
    nightly = timedelta(hours=24)
    spans = [(LO + n * nightly, LO + (n + 1) * nightly) for n in (0, 7)]
    spans.append((datetime(2013, 3, 8, 20, 7, 30, tzinfo=UTC), datetime(2013, 3, 8, 21, 59, tzinfo=UTC)))
    for lo, hi in spans:
        FEATURE_TABLES[name].build(built, lo, hi).create_view("part", replace=True)
        assert differing(built, "(FROM part)", slice_of(name, lo, hi)) == 0, (lo, hi)


def test_what_has_not_landed_yet_changes_no_row(built):
    """A build up to complete-until, on clean tables that know no more, is that slice of the whole build."""
    complete_until = datetime(
        2013, 3, 9, 1, tzinfo=UTC
    )  # in the evening of the storm, schedules of the next day known
    early = nyc_clean.session()
    for name in ("facts", "observations"):
        early.register(name, built.table(name).to_arrow_table())
    nyc_clean.create_clean(early, complete_until)
    assert early.sql("SELECT count(*) FROM departures WHERE outcome_known_at IS NULL").fetchone()[0] > 100
    for name, table in FEATURE_TABLES.items():
        built.register("early", table.build(early, LO, complete_until).to_arrow_table())
        assert differing(built, "(FROM early)", slice_of(name, LO, complete_until)) == 0, name


def test_threads_and_repetition_change_no_bit(built):
    for name in ("dest_state", "flight_history", "station_weather", "aircraft_leg"):
        built.execute("SET threads = 4")
        again = FEATURE_TABLES[name].build(built, LO, HI).to_arrow_table()
        built.execute("SET threads = 1")
        once_more = FEATURE_TABLES[name].build(built, LO, HI).to_arrow_table()
        built.execute("SET threads = 2")
        assert again.equals(once_more), name
        assert again.num_rows == built.table(f"built_{name}").aggregate("count(*)").fetchone()[0]


@pytest.mark.parametrize("name", FEATURE_TABLES)
def test_rows_have_the_declared_shape(built, name):
    table = FEATURE_TABLES[name]
    relation = built.table(f"built_{name}")
    assert tuple(relation.columns) == table.column_names
    types = dict(zip(relation.columns, map(str, relation.types), strict=True))
    assert {c.name: types[c.name] for c in table.columns} == {
        c.name: c.sql_type.replace("TIMESTAMPTZ", "TIMESTAMP WITH TIME ZONE") for c in table.columns
    }
    rows, keys, wrong_month, wrong_created, nulls = built.sql(f"""
        SELECT count(*), count(DISTINCT ({", ".join(table.keys)}, known_at)),
          count(*) FILTER (month <> date_trunc('month', known_at)), count(*) FILTER (created_at <> known_at),
          count(*) FILTER ({" OR ".join(f"{c.name} IS NULL" for c in table.columns if c.prior is not None) or "false"})
        FROM built_{name}""").fetchone()
    assert rows == keys > 0
    assert wrong_month == wrong_created == nulls == 0


@pytest.mark.parametrize("name", [n for n, t in FEATURE_TABLES.items() if t.grid])
def test_nothing_changes_between_rows_and_the_last_row_is_the_prior(con, name):
    """Built far beyond the data, each key's last row holds the priors: outside max age the prior is the truth."""
    table = FEATURE_TABLES[name]
    far = HI + timedelta(days=70)
    table.build(con, LO, far).create_view("whole", replace=True)
    priors = " AND ".join(f"{c.name} = {c.prior}" for c in table.columns)
    not_prior = con.sql(f"""
        SELECT count(*) FROM (FROM whole QUALIFY row_number() OVER (
          PARTITION BY {", ".join(table.keys)} ORDER BY known_at DESC) = 1) WHERE NOT ({priors})""").fetchone()[
        0
    ]
    assert not_prior == 0
    gap = con.sql(f"""
        SELECT max(next - known_at) FROM (
          SELECT *, lead(known_at) OVER (PARTITION BY {", ".join(table.keys)} ORDER BY known_at) AS next FROM whole)
        WHERE NOT ({priors})""").fetchone()[0]
    assert gap <= table.max_age


def test_the_queue_is_never_negative_and_empties(con):
    FEATURE_TABLES["network_state"].build(con, LO, HI + timedelta(days=3)).create_view("queue", replace=True)
    least, most, over = con.sql(
        "SELECT min(least(network_departures_waiting, network_departures_waiting_over_15min)),"
        " max(network_departures_waiting), max(network_departures_waiting_over_15min) FROM queue"
    ).fetchone()
    assert least == 0
    assert most > over > 10


def test_a_quiet_night_does_not_lose_the_state(built, clean):
    """Between two and five in the morning there are few rows; the last one still answers, within max age."""
    table = FEATURE_TABLES["origin_state"]
    for origin in ("EWR", "JFK", "LGA"):
        for hour in (7, 8, 9):
            at = datetime(2013, 3, 12, hour, 45, tzinfo=UTC)
            last = built.execute(
                "SELECT max(known_at) FROM built_origin_state WHERE origin = ? AND known_at <= ?",
                [origin, at],
            ).fetchone()[0]
            assert at - last <= table.max_age
            expected = by_hand.state(by_hand.chosen(clean, ("origin",), (origin,)), by_hand.minute(at))
            assert stored(built, table, (origin,), at) == expected
            assert expected != tuple(column.prior for column in table.columns)


def test_both_sides_of_the_clock_change_have_every_grid_instant(built):
    """On the morning and the day of 2013-03-10 the network has a row every 15 minutes, and one history at 07:00 UTC."""
    rows = built.sql("""
        SELECT count(*), max(known_at - before) FROM (
          SELECT known_at, lag(known_at) OVER (ORDER BY known_at) AS before FROM built_network_state)
        WHERE known_at >= TIMESTAMPTZ '2013-03-10 12:00:00Z' AND known_at < TIMESTAMPTZ '2013-03-11 04:00:00Z'""").fetchone()
    assert rows == (64, timedelta(minutes=15))
    nights = built.sql("SELECT known_at FROM built_network_history ORDER BY known_at").fetchall()
    assert {at.strftime("%H:%M") for (at,) in nights} == {"07:00"}
    assert all(b[0] - a[0] == timedelta(days=1) for a, b in pairwise(nights))
