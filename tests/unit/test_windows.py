"""Grids, running totals, smoothed ratios and splits."""

import random
from datetime import UTC, datetime, timedelta, timezone

import duckdb
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from contrail import windows
from contrail.windows import (
    Grid,
    SplitError,
    Total,
    WindowError,
    check_time_ordered_split,
    running_totals_sql,
)

QUARTER = Grid(timedelta(minutes=15))
NIGHTLY = Grid(timedelta(days=1), offset=timedelta(hours=7))
INSTANTS = st.integers(1, 4 * 10**15).map(
    lambda us: datetime(1970, 1, 1, tzinfo=UTC) + timedelta(microseconds=us)
)


@pytest.fixture(scope="module")
def con():
    session = duckdb.connect(config={"threads": 4})
    session.execute("SET TimeZone = 'UTC'")
    return session


@pytest.mark.parametrize(
    ("grid", "at", "first", "last"),
    [
        (QUARTER, "2013-03-08T20:15:00+00:00", "2013-03-08T20:15:00+00:00", "2013-03-08T20:15:00+00:00"),
        (
            QUARTER,
            "2013-03-08T20:15:00.000001+00:00",
            "2013-03-08T20:30:00+00:00",
            "2013-03-08T20:15:00+00:00",
        ),
        (QUARTER, "2013-03-08T15:14:59-05:00", "2013-03-08T20:15:00+00:00", "2013-03-08T20:00:00+00:00"),
        (NIGHTLY, "2013-03-10T07:00:00+00:00", "2013-03-10T07:00:00+00:00", "2013-03-10T07:00:00+00:00"),
        (NIGHTLY, "2013-03-10T06:59:00+00:00", "2013-03-10T07:00:00+00:00", "2013-03-09T07:00:00+00:00"),
    ],
)
def test_an_instant_counts_from_the_next_grid_instant_on(con, grid, at, first, last):
    moment = datetime.fromisoformat(at)
    assert grid.instant(grid.number(moment)) == datetime.fromisoformat(first)
    assert grid.last(moment) == datetime.fromisoformat(last)
    number = grid.number_sql(windows.utc_literal(moment))
    assert con.sql(f"SELECT {number}, {grid.instant_sql(number)}").fetchone() == (
        grid.number(moment),
        datetime.fromisoformat(first),
    )


@given(at=INSTANTS, grid=st.sampled_from([QUARTER, NIGHTLY]))
def test_grid_instants_enclose_every_instant(at, grid):
    assert grid.last(at) <= at <= grid.instant(grid.number(at))
    assert grid.instant(grid.number(at)) - grid.last(at) in (timedelta(0), grid.step)


def test_both_clock_changes_have_all_their_grid_instants():
    for day in (datetime(2013, 3, 10, tzinfo=UTC), datetime(2013, 11, 3, tzinfo=UTC)):
        numbers = [QUARTER.number(day + n * QUARTER.step) for n in range(97)]
        assert numbers == list(range(numbers[0], numbers[0] + 97))


def test_windows_are_whole_steps():
    assert QUARTER.steps(timedelta(hours=24)) == 96
    for window in (timedelta(minutes=20), timedelta(0), timedelta(minutes=-15)):
        with pytest.raises(WindowError, match="whole number of steps"):
            QUARTER.steps(window)


def test_a_grid_needs_a_step_and_an_offset_inside_it():
    for step, offset in ((0, 0), (15, 15), (15, -1)):
        with pytest.raises(WindowError, match="not a grid"):
            Grid(timedelta(minutes=step), timedelta(minutes=offset))


def test_naive_instants_are_refused():
    naive = datetime(2013, 1, 1, tzinfo=UTC).replace(tzinfo=None)
    for use in (QUARTER.number, QUARTER.last, windows.utc_literal):
        with pytest.raises(WindowError, match="no zone"):
            use(naive)


def test_a_literal_is_utc_whatever_the_zone():
    eastern = datetime(2013, 3, 8, 15, 0, tzinfo=timezone(timedelta(hours=-5)))
    assert windows.utc_literal(eastern) == "TIMESTAMPTZ '2013-03-08 20:00:00+00:00'"


def brute_force(rows, keys, level, window):
    """Totals by definition: for every key and instant, over all rows."""
    instants = {(key, n + shift) for key, n, _ in rows for shift in (0, window)}
    return {
        (key, n): (
            sum(x for k, m, x in rows if k == key and m <= n),
            sum(x for k, m, x in rows if k == key and n - window < m <= n),
        )
        for key, n in instants
    }


@pytest.mark.parametrize("seed", range(5))
def test_running_totals_are_what_they_say(con, seed):
    draw = random.Random(seed)
    rows = [(draw.choice("abc"), draw.randrange(40), draw.randrange(-3, 9)) for _ in range(120)]
    con.register("amounts_in", pa.table({"k": [r[0] for r in rows], "n": pa.array([r[1] for r in rows], pa.int32()),
                                         "x": pa.array([r[2] for r in rows], pa.int32())}))  # fmt: skip
    sql = running_totals_sql("amounts_in", ["k"], [Total("level", "x"), Total("recent", "x", 5)])
    found = {(k, n): (level, recent) for k, n, level, recent in con.sql(sql).fetchall()}
    expected = brute_force(rows, "abc", None, 5)
    assert found
    for key, value in found.items():
        assert value == expected[key]
    # No row where one is left out: the value there is the one of the row before.
    for key, n in sorted(set(expected) - set(found)):
        before = [m for k, m in found if k == key and m < n]
        assert expected[key, n] == (found[key, max(before)] if before else (0, 0))


def test_running_totals_of_many_keys_do_not_run_into_each_other(con):
    """The totals run over all keys in one pass; on 200,000 rows and 4 threads they still equal a window per key."""
    con.execute("""CREATE OR REPLACE TABLE many AS
        SELECT (i * 7919 % 331)::INTEGER AS k, (i * 104729 % 5003)::INTEGER AS n, (i % 5 - 1)::INTEGER AS x
        FROM range(200000) t(i)""")
    sql = running_totals_sql("many", ["k"], [Total("level", "x"), Total("recent", "x", 96)])
    per_key = """
      WITH m AS (SELECT k, n, x, x AS y FROM many UNION ALL SELECT k, n + 96, 0, -x FROM many WHERE x <> 0),
      c AS (SELECT k, n, sum(x) AS x, sum(y) AS y FROM m GROUP BY ALL)
      SELECT k, n, (sum(x) OVER w)::BIGINT AS level, (sum(y) OVER w)::BIGINT AS recent FROM c
      WINDOW w AS (PARTITION BY k ORDER BY n ROWS UNBOUNDED PRECEDING)"""
    con.execute(f"CREATE OR REPLACE TABLE ours AS {sql}; CREATE OR REPLACE TABLE theirs AS {per_key}")
    assert con.sql("SELECT count(*) FROM ours").fetchone()[0] > 100_000
    difference = "(FROM {} EXCEPT ALL FROM {})"
    for pair in (("ours", "theirs"), ("theirs", "ours")):
        assert con.sql(f"SELECT count(*) FROM {difference.format(*pair)}").fetchone() == (0,)


def test_running_totals_without_keys(con):
    con.execute("CREATE OR REPLACE TABLE few AS SELECT unnest([1, 2, 2])::INTEGER AS n, 1 AS x")
    sql = running_totals_sql("few", [], [Total("level", "x"), Total("recent", "x", 2)])
    assert con.sql(f"FROM ({sql}) ORDER BY n").fetchall() == [(1, 1, 1), (2, 3, 3), (3, 3, 2), (4, 3, 0)]


@given(part=st.integers(-10_000, 10_000), whole=st.integers(0, 10_000), weight=st.integers(1, 10))
def test_a_ratio_has_the_same_bits_in_sql(part, whole, weight):
    for prior in (0.25, 5.0):
        sql = windows.smoothed_ratio_sql(str(part), str(whole), weight, prior)
        assert duckdb.sql(f"SELECT {sql}").fetchone() == (windows.smoothed_ratio(part, whole, weight, prior),)


def test_a_ratio_of_nothing_is_its_prior():
    assert windows.smoothed_ratio(0, 0, 3, 0.25) == 0.25
    assert windows.smoothed_ratio(0, 0, 5, 5.0) == 5.0


def day(number):
    return datetime(2013, 1, number, tzinfo=UTC)


def test_a_split_by_time_passes():
    check_time_ordered_split({"train": [day(2), day(1)], "valid": [day(3)], "test": [day(4), day(5)]})


@pytest.mark.parametrize(
    ("parts", "known_at", "message"),
    [
        ({"train": [day(1), day(3)], "test": [day(2)]}, None, "1 of 2 rows of 'train'"),
        ({"train": [day(1)], "test": [day(1)]}, None, "at or after 2013-01-01"),
        ({"train": [day(1)], "valid": [day(4)], "test": [day(3)]}, None, "'valid' are decided at or after"),
        ({"train": [day(1)], "test": []}, None, "'test' of the split has no rows"),
        (
            {"train": [day(1)], "test": [day(2)]},
            {"train": [day(2)]},
            "labels of 1 rows of 'train' became known",
        ),
    ],
)
def test_any_other_split_is_refused(parts, known_at, message):
    with pytest.raises(SplitError, match=message):
        check_time_ordered_split(parts, known_at)
