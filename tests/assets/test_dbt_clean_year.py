"""The clean stage over the whole year: every time that can be turned back is, and the counts are those of the source."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import date
from pathlib import Path

import duckdb
import pytest

from contrail import duck
from contrail.dbt_runner import BuildContext, DbtRunResult, run_dbt
from contrail.settings import Settings
from tests.support.raw_lake import RawLake, facts, feed_day_ends

PROJECT = Path(__file__).resolve().parents[2] / "dbt_project"
FIRST, LAST = date(2013, 1, 1), date(2013, 12, 31)

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def year(
    tmp_path_factory: pytest.TempPathFactory,
) -> Iterator[tuple[duckdb.DuckDBPyConnection, DbtRunResult]]:
    """The source's flights beside the views `clean` and `rejected`, and what dbt said."""
    home = tmp_path_factory.mktemp("home")
    source = facts(tmp_path_factory.mktemp("work"))
    raw = RawLake(home / "lake", source)
    raw.append_reference()
    raw.append_days(FIRST, date(2014, 1, 2))
    context = BuildContext(
        lake_root=home / "lake",
        first=FIRST,
        last=LAST,
        complete_until=feed_day_ends(date(2014, 1, 1)),
        run_id="year",
        settings=Settings(home=home),
    )
    done = run_dbt(PROJECT, ("build",), context)
    with duck.connect() as con:
        flights = source.execute("FROM source_flights").to_arrow_table()
        source.close()
        con.register("flights", flights)
        con.execute(f"CREATE VIEW clean AS FROM {raw.lake.scan('clean/departures')}")
        con.execute(f"CREATE VIEW rejected AS FROM {raw.lake.scan('quarantine/departures')}")
        con.execute("""
CREATE TABLE joined AS SELECT c.*, f.arr_time, f.dep_time, f.arr_delay FROM clean c
JOIN flights f ON c.service_date = make_date(f.year, f.month, f.day) AND c.carrier = f.carrier
              AND c.flight_number = f.flight AND c.origin = f.origin""")
        yield con, done


def test_each_utc_time_shows_the_source_s_wall_clock(
    year: tuple[duckdb.DuckDBPyConnection, DbtRunResult],
) -> None:
    con, _ = year
    wrong = con.execute("""
WITH shown AS (
  SELECT *, timezone(dest_time_zone, scheduled_arrival_at + to_minutes(arr_delay::BIGINT)) AS arrival,
         timezone(origin_time_zone, departed_at) AS departure FROM joined)
SELECT departure_id FROM shown
WHERE (arr_delay IS NOT NULL AND arr_time % 2400 <> hour(arrival) * 100 + minute(arrival))
   OR (departed_at IS NOT NULL AND dep_time % 2400 <> hour(departure) * 100 + minute(departure))""").fetchall()
    assert wrong == [("20130309-B6-35-JFK",)]
    assert con.execute("SELECT count(*) FROM joined").fetchone() == (336_776,)
    spans = con.execute("""
SELECT min(scheduled_block_minutes), max(scheduled_block_minutes),
       min(date_diff('minute', departed_at, arrived_at) - air_time_minutes) FROM clean""").fetchone()
    assert spans == (50, 700, 5)


def test_outcomes_are_those_of_the_source(year: tuple[duckdb.DuckDBPyConnection, DbtRunResult]) -> None:
    con, _ = year
    counted = con.execute("""
SELECT count(*), count(DISTINCT departure_id), count(*) FILTER (is_cancelled), count(*) FILTER (is_diverted),
       round(100 * count(*) FILTER (is_late) / count(*), 2), round(100 * count(*) FILTER (is_disrupted) / count(*), 2),
       count(*) FILTER (created_at <> known_at), count(*) FILTER (is_dest_time_zone_assumed)
FROM clean""").fetchone()
    assert counted == (336_776, 336_776, 8_255, 1_175, 23.78, 26.58, 0, 0)
    unlike = con.execute("""
SELECT departure_id, is_disrupted FROM joined
WHERE is_disrupted IS DISTINCT FROM coalesce(arr_delay >= 15, true) ORDER BY departure_id""").fetchall()
    # Arrived in time by a report that was rejected: nobody can say.
    assert [disrupted for _, disrupted in unlike] == [None] * len(unlike)
    rejected = dict(con.execute("SELECT rules[1], count(*) FROM rejected GROUP BY ALL").fetchall())
    assert rejected == {"arrival_wall_time_exists": 1, "plausible_ground_speed": 5}
    assert len(unlike) < 6


def test_every_dbt_test_of_the_year(year: tuple[duckdb.DuckDBPyConnection, DbtRunResult]) -> None:
    _, done = year
    assert done.is_success
    warned = {test.name: test.failures for test in done.tests if test.status == "warn"}
    assert warned.keys() == {
        "departures_across_days",
        "rules_05_06_07_12_reports_rejected",
        "weather_values_nulled",
    }
    assert warned["rules_05_06_07_12_reports_rejected"] == 6
    assert warned["weather_values_nulled"] == 2
