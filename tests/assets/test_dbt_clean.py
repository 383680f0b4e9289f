"""The clean stage on real days: dbt in process, raw Delta tables in, clean Delta tables out."""
# Long because these days serve all of it, and reading them in again for a second file takes longer than its tests.

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from datetime import UTC, date, datetime, timedelta
from pathlib import Path

import duckdb
import pytest

from contrail import landing
from contrail.dbt_runner import DbtError, selection
from contrail.lake import Lake
from tests.support.clean_stage import DAILY, FIRST, LAST, REFERENCE, ROOT, Stage
from tests.support.raw_lake import RawLake, facts, feed_day_ends

REPORTS = "raw_flight_events WHERE feed_date"


@pytest.fixture(scope="module")
def year(tmp_path_factory: pytest.TempPathFactory) -> Iterator[duckdb.DuckDBPyConnection]:
    con = facts(tmp_path_factory.mktemp("facts"), flights="month = 3 OR (month = 11 AND day < 7)")
    yield con
    con.close()


@pytest.fixture(scope="module")
def target(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("dbt")


@pytest.fixture(scope="module")
def reference(
    year: duckdb.DuckDBPyConnection, target: Path, tmp_path_factory: pytest.TempPathFactory
) -> Path:
    """A home with the reference tables, raw and clean."""
    home = tmp_path_factory.mktemp("reference")
    raw = RawLake(home / "lake", year)
    raw.append_reference()
    done = Stage(raw, home, target).dbt("build", *selection(REFERENCE, only_their_tests=True))
    assert done.is_success
    return home


@pytest.fixture
def stage_of(
    year: duckdb.DuckDBPyConnection, target: Path, reference: Path, tmp_path: Path
) -> Callable[[str], Stage]:
    """A new home with nothing but the reference tables."""

    def make(name: str) -> Stage:
        home = tmp_path / name
        shutil.copytree(reference, home)
        return Stage(RawLake(home / "lake", year), home, target)

    return make


@pytest.fixture
def stage(stage_of: Callable[[str], Stage]) -> Stage:
    """March with all its files on time."""
    made = stage_of("home")
    made.raw.append_days(FIRST - timedelta(days=1), LAST + timedelta(days=2))
    return made


def test_a_range_is_built_and_says_what_from(stage: Stage) -> None:
    done = stage.dbt("build", *selection(DAILY))
    models = {model.table: model for model in done.models if model.version is not None}
    assert done.is_success, [test for test in done.tests if test.status in {"fail", "error", "skipped"}]
    assert models.keys() == {"clean/departures", "clean/weather", "quarantine/departures"}
    scheduled = stage.raw.con.execute(
        f"SELECT count(*) FROM raw_flight_schedules WHERE service_date BETWEEN '{FIRST}' AND '{LAST}'"
    ).fetchone()
    assert (models["clean/departures"].rows,) == scheduled
    assert models["quarantine/departures"].rows == 1

    commit = stage.lake.commits("clean/departures")[-1]
    assert (commit.asset, commit.run_id, commit.partition) == (
        "clean/departures",
        "test",
        "2013-03-08..2013-03-12",
    )
    assert set(commit.inputs) == {
        stage.lake.ref(table)
        for table in (
            "raw/flight_schedules",
            "raw/aircraft_assignments",
            "raw/flight_events",
            "clean/airports",
        )
    }
    assert stage.lake.commits("clean/weather")[-1].inputs == (stage.lake.ref("raw/weather"),)

    tests = {test.name: test for test in done.tests}
    rejected = tests["rules_05_06_07_12_reports_rejected"]
    assert (rejected.status, rejected.failures, rejected.model) == ("warn", 1, "quarantine_departures")
    assert tests["rule_23_aircraft_is_registered"].status == "pass"
    assert tests["rule_17_distance_matches_position"].severity == "warn"


def test_personal_columns_are_not_in_the_log(stage: Stage) -> None:
    stage.build()
    logs = sorted((stage.settings.lake_root / "clean/departures/_delta_log").glob("*.json"))
    text = "".join(path.read_text() for path in logs)
    assert '\\"departure_id\\"' in text or "departure_id" in text
    assert "N14228" not in text
    statistics = [line for path in logs for line in path.read_text().splitlines() if '"stats"' in line]
    assert statistics
    assert not [line for line in statistics if "tail_number" in line]


def test_the_wall_time_that_does_not_exist_is_rejected_and_its_departure_stays(stage: Stage) -> None:
    stage.build()
    (entry,) = stage.rows("SELECT * FROM {quarantine}")
    assert entry["rules"] == ["arrival_wall_time_exists"]
    assert entry["kind"] == "row"
    assert '"actual_hhmm_local":203' in entry["values"]
    (row,) = stage.departure("20130309-B6-35-JFK")
    assert row["departed_at"] is not None
    assert (row["arrived_at"], row["arrival_delay_minutes"], row["air_time_minutes"]) == (None, None, None)
    assert row["_arrived_raw_id"] is None
    # Nothing had been heard of it 15 minutes after its scheduled arrival.
    assert row["is_late"]
    assert row["outcome_known_at"] == row["scheduled_arrival_at"] + timedelta(minutes=15)


@pytest.mark.parametrize(
    ("first", "last", "hours"),
    [(date(2013, 3, 9), date(2013, 3, 10), {"2013-03-09": 5, "2013-03-10": 4}),
     (date(2013, 11, 2), date(2013, 11, 3), {"2013-11-02": 4, "2013-11-03": 5})],
    ids=["clocks go forward", "clocks go back"],
)  # fmt: skip
def test_days_on_which_the_clocks_change(
    stage_of: Callable[[str], Stage], first: date, last: date, hours: dict[str, int]
) -> None:
    stage = stage_of("dst")
    stage.raw.append_days(first - timedelta(days=1), last + timedelta(days=2))
    stage.build(first, last)
    offsets = stage.rows("""
SELECT service_date::VARCHAR AS day, (mode(timezone('UTC', scheduled_departure_at)
       - (service_date::TIMESTAMP + to_minutes(scheduled_departure_minute_local::BIGINT)))) AS west
FROM {departures} WHERE scheduled_departure_minute_local > 300 GROUP BY ALL""")
    assert {row["day"]: row["west"] for row in offsets} == {
        day: timedelta(hours=h) for day, h in hours.items()
    }
    blocks = stage.rows(
        "SELECT min(scheduled_block_minutes) AS lo, max(scheduled_block_minutes) AS hi FROM {departures}"
    )
    assert blocks[0]["lo"] >= 50
    assert blocks[0]["hi"] <= 700


def test_day_by_day_is_the_whole_range_bitwise(stage_of: Callable[[str], Stage]) -> None:
    daily, whole = stage_of("daily"), stage_of("whole")
    daily.raw.append_days(FIRST - timedelta(days=1), FIRST - timedelta(days=1))
    for n in range((LAST - FIRST).days + 1):
        day = FIRST + timedelta(days=n)
        daily.raw.append_days(day, day)
        # An event comes two feed days after its service date at the latest.
        daily.build(max(FIRST, day - timedelta(days=2)), day, until=feed_day_ends(day))
    whole.raw.append_days(FIRST - timedelta(days=1), LAST)
    whole.build(until=feed_day_ends(LAST))
    for table in ("clean/departures", "clean/weather", "quarantine/departures"):
        assert daily.content(table) == whole.content(table), table


def test_what_is_known_by_absence_stays_when_the_arrival_comes(stage_of: Callable[[str], Stage]) -> None:
    stage = stage_of("absence")
    stage.raw.append_days(FIRST - timedelta(days=1), FIRST)
    stage.build(FIRST, FIRST, until=feed_day_ends(FIRST))
    early = {row["departure_id"]: row for row in stage.rows("SELECT * FROM {departures}")}
    absent = [row for row in early.values() if row["is_late"] and row["arrived_at"] is None]
    unknown = [row for row in early.values() if row["is_disrupted"] is None]
    assert absent
    assert unknown
    for row in absent:
        assert (
            row["outcome_known_at"]
            == row["scheduled_arrival_at"] + timedelta(minutes=15)
            < feed_day_ends(FIRST)
        )
    for row in unknown:
        assert row["outcome_known_at"] is None
        assert row["scheduled_arrival_at"] + timedelta(minutes=15) >= feed_day_ends(FIRST)

    stage.raw.append_days(FIRST + timedelta(days=1), FIRST + timedelta(days=2))
    stage.build(FIRST, FIRST)
    later = {row["departure_id"]: row for row in stage.rows("SELECT * FROM {departures}")}
    assert later.keys() == early.keys()
    for name, row in early.items():
        if row["is_disrupted"] is not None:
            for column in ("is_disrupted", "is_late", "outcome_known_at"):
                assert later[name][column] == row[column], (name, column)
    assert any(later[row["departure_id"]]["arrived_at"] for row in absent)
    assert all(row["is_disrupted"] is not None for row in later.values())


def test_a_correction_adds_versions_and_deletes_none(stage: Stage) -> None:
    stage.build()
    before = stage.content("clean/departures")
    count = stage.rows("SELECT count(*) AS n FROM {departures}")[0]["n"]
    at = datetime(2013, 3, 11, 12, tzinfo=UTC)
    fixed, lost = (
        "carrier = 'UA' AND flight_number = 1545 AND event = 'arrived'",
        "carrier = 'UA' AND flight_number = 1714",
    )
    stage.raw.file(
        "flight_events",
        f"""SELECT * REPLACE (delay_minutes + 60 * ({fixed})::INTEGER AS delay_minutes,
                             actual_hhmm_local + 100 * ({fixed})::INTEGER AS actual_hhmm_local,
                             known_at + to_minutes(60 * ({fixed})::INTEGER) AS known_at)
            FROM {REPORTS} = DATE '2013-03-08' AND NOT ({lost} AND event = 'arrived')""",
        at,
        supersedes=FIRST,
    )
    stage.raw.file(
        "flight_schedules",
        "FROM raw_flight_schedules WHERE service_date = DATE '2013-03-09' AND NOT (carrier = 'UA' AND flight_number = 1714)",
        at + timedelta(hours=1),
        supersedes=date(2013, 3, 9),
    )
    stage.build()
    first, second = stage.departure("20130308-UA-1545-EWR")
    assert first["created_at"] == first["known_at"]
    assert second["created_at"] == at
    assert second["known_at"] == first["known_at"]
    assert second["arrival_delay_minutes"] == first["arrival_delay_minutes"] + 60
    assert second["_arrived_raw_id"] != first["_arrived_raw_id"]
    assert second["_flight_schedules_raw_id"] == first["_flight_schedules_raw_id"]

    arrived, gone = stage.departure("20130308-UA-1714-LGA")
    assert arrived["arrived_at"] is not None
    assert (gone["arrived_at"], gone["is_retracted"], gone["is_late"]) == (None, False, True)

    planned, retracted = stage.departure("20130309-UA-1714-LGA")
    assert (planned["is_retracted"], retracted["is_retracted"]) == (False, True)
    assert retracted["created_at"] == at + timedelta(hours=1)
    assert retracted["dest"] == planned["dest"]

    # All other keys of both files came again as they were: no version says nothing new.
    assert stage.rows("SELECT count(*) AS n FROM {departures}")[0]["n"] == count + 3
    # Of the versions before the corrections none has changed.
    assert stage.lake.content_hash("clean/departures", where="created_at = known_at") == before


def test_late_files_are_known_late(stage_of: Callable[[str], Stage]) -> None:
    stage = stage_of("late")
    day = FIRST + timedelta(days=1)
    stage.raw.append_days(FIRST - timedelta(days=1), FIRST)
    stage.raw.append_days(day, day, leave_out=("aircraft_assignments", "flight_schedules"))
    stage.raw.append_days(day + timedelta(days=1), LAST + timedelta(days=2))
    at = datetime(2013, 3, 9, 6, tzinfo=UTC)
    stage.raw.file("flight_schedules", f"FROM raw_flight_schedules WHERE service_date = DATE '{day}'", at)
    tails_at = datetime(2013, 3, 12, 9, tzinfo=UTC)
    stage.raw.file(
        "aircraft_assignments", f"FROM raw_aircraft_assignments WHERE feed_date = DATE '{day}'", tails_at
    )
    stage.build()
    before, after = stage.departure("20130309-AA-3-JFK")
    # The schedule came late; what happened afterwards and came regularly is in its first version.
    assert before["known_at"] == datetime(2013, 3, 8, 22, tzinfo=UTC)
    assert before["created_at"] == at
    assert before["arrived_at"] is not None
    assert before["tail_number"] is None
    assert after["created_at"] == tails_at
    assert after["tail_number"] is not None
    assert after["tail_known_at"] == after["scheduled_departure_at"] - timedelta(hours=2)
    (other,) = stage.departure("20130308-AA-3-JFK")
    assert other["created_at"] == other["known_at"]


def test_building_again_changes_nothing(stage: Stage) -> None:
    stage.build()
    tables = ("clean/departures", "clean/weather", "quarantine/departures")
    before = {table: stage.content(table) for table in tables}
    stage.build()
    stage.build(FIRST, FIRST)
    assert {table: stage.content(table) for table in tables} == before
    versions = {name: stage.lake.version(f"clean/{name}") for name in REFERENCE}
    stage.dbt("run", *selection(REFERENCE, only_their_tests=True))
    assert [result.is_unchanged for result in stage.context.results] == [True] * 3
    assert {name: stage.lake.version(f"clean/{name}") for name in REFERENCE} == versions


def test_reports_that_contradict_others_are_put_aside(stage_of: Callable[[str], Stage]) -> None:
    stage = stage_of("contradictions")
    stage.raw.append_days(FIRST - timedelta(days=1), FIRST + timedelta(days=2), leave_out=("flight_events",))

    def of(carrier: str, number: int, event: str) -> str:
        return f"(carrier = '{carrier}' AND flight_number = {number} AND event = '{event}')"

    wrong_clock, too_fast = of("AA", 3, "departed"), of("AA", 19, "arrived")
    stage.raw.append(
        "flight_events",
        f"""SELECT * REPLACE (actual_hhmm_local + 10 * ({wrong_clock})::INTEGER AS actual_hhmm_local,
                             CASE WHEN {too_fast} THEN 90 ELSE air_time_minutes END AS air_time_minutes)
            FROM {REPORTS} BETWEEN DATE '2013-03-07' AND DATE '2013-03-10'""",
    )
    # At its scheduled time each is said to be cancelled: AA 133 has left a minute before, AA 59 leaves 82 minutes after.
    stage.raw.append(
        "flight_events",
        f"""SELECT e.* REPLACE ('cancelled' AS event, NULL AS actual_hhmm_local, NULL AS delay_minutes,
                               s.scheduled_departure_at AS known_at, s.scheduled_departure_at AS created_at,
                               e._raw_id || ':planted' AS _raw_id)
            FROM raw_flight_events e JOIN raw_flight_schedules s USING (service_date, carrier, flight_number, origin)
            WHERE service_date = DATE '{FIRST}' AND ({of("AA", 133, "departed")} OR {of("AA", 59, "departed")})""",
    )
    stage.build(FIRST, FIRST)
    found = {
        (row["n"], row["event"]): row["rules"]
        for row in stage.rows(
            """SELECT ("values"->>'flight_number')::INTEGER AS n, "values"->>'event' AS event, rules
               FROM {quarantine} WHERE "values"->>'carrier' = 'AA'"""
        )
    }
    assert found == {
        (3, "departed"): ["actual_time_matches_delay"],
        (19, "arrived"): ["plausible_ground_speed"],
        (133, "cancelled"): ["one_outcome"],
        (59, "departed"): ["one_outcome"],
        (59, "arrived"): ["one_outcome"],
    }
    row = {number: stage.departure(f"20130308-AA-{number}-JFK")[0] for number in (3, 19, 59, 133)}
    assert row[3]["departed_at"] is None
    assert row[3]["arrived_at"] is not None
    assert row[133]["arrived_at"] is not None
    assert not row[133]["is_cancelled"]
    assert row[59]["is_cancelled"]
    assert row[59]["is_disrupted"]
    assert (row[59]["departed_at"], row[59]["is_late"]) == (None, False)
    assert row[19]["arrived_at"] is None


def test_zones_come_from_the_airports_table_and_patches_fill_what_is_missing(
    year: duckdb.DuckDBPyConnection, target: Path, tmp_path: Path
) -> None:
    stage = Stage(RawLake(tmp_path / "home" / "lake", year), tmp_path / "home", target)
    stage.raw.append_reference(leave_out=("airports",))
    stage.raw.append(
        "airports",
        """SELECT * REPLACE (CASE faa WHEN 'LAX' THEN 'Atlantis/Capital' ELSE time_zone END AS time_zone)
           FROM raw_airports WHERE faa NOT IN ('MIA')
           UNION ALL SELECT * REPLACE ('SJU' AS faa, 'America/New_York' AS time_zone, 'planted' AS _raw_id)
           FROM raw_airports WHERE faa = 'JFK'""",
    )
    stage.raw.append_days(FIRST - timedelta(days=1), FIRST + timedelta(days=2))
    stage.dbt("run", *selection(REFERENCE))
    done = stage.dbt("build", *selection(DAILY), first=FIRST, last=FIRST)
    zones = {
        row["dest"]: (row["dest_time_zone"], row["is_dest_time_zone_assumed"])
        for row in stage.rows(
            "SELECT DISTINCT dest, dest_time_zone, is_dest_time_zone_assumed FROM {departures}"
        )
    }
    assert zones["SJU"] == ("America/New_York", False)  # what the file says counts, right or wrong
    assert zones["BQN"] == ("America/Puerto_Rico", False)
    assert zones["MIA"] == ("America/New_York", True)
    assert zones["LAX"] == ("America/New_York", True)
    assert zones["SFO"] == ("America/Los_Angeles", False)
    patched = stage.rows("SELECT faa, name FROM {airports} WHERE is_patched ORDER BY faa")
    assert patched == [{"faa": faa, "name": None} for faa in ("BQN", "PSE", "STT")]
    unknown = next(test for test in done.tests if test.name == "rule_18_dest_has_a_time_zone")
    assert unknown.status == "warn"
    assert (
        unknown.failures
        == stage.rows("SELECT count(*) AS n FROM {departures} WHERE dest IN ('MIA', 'LAX')")[0]["n"]
    )
    assert done.is_success


def test_weather_outliers_become_null_and_late_rows_versions(stage_of: Callable[[str], Stage]) -> None:
    stage = stage_of("weather")
    stage.raw.append_days(date(2013, 5, 8), date(2013, 5, 8))
    stage.raw.append_days(date(2013, 2, 12), date(2013, 2, 12))
    stage.raw.file(
        "weather",
        """SELECT * REPLACE (60.1::DOUBLE AS temperature_f) FROM raw_weather
           WHERE origin = 'JFK' AND observed_hour_at = TIMESTAMPTZ '2013-05-09 02:00:00+00'""",
        datetime(2013, 5, 11, tzinfo=UTC),
    )
    done = stage.dbt("build", *selection(["weather"]), first=date(2013, 2, 12), last=date(2013, 5, 8))
    hour = "observed_hour_at = TIMESTAMPTZ '2013-05-09 02:00:00+00' AND origin = 'JFK'"
    wrong, corrected = stage.rows(f"SELECT * FROM {{weather}} WHERE {hour} ORDER BY created_at")
    assert wrong["temperature_f"] is None
    assert wrong["dew_point_f"] is not None
    assert wrong["known_at"] == wrong["observed_hour_at"] + timedelta(hours=1)
    assert (corrected["temperature_f"], corrected["created_at"]) == (60.1, datetime(2013, 5, 11, tzinfo=UTC))
    (gale,) = stage.rows(
        "SELECT * FROM {weather} WHERE wind_speed_mph IS NULL AND temperature_f = 39.02 AND origin = 'EWR'"
    )
    assert gale["observed_hour_at"] == datetime(2013, 2, 12, 8, tzinfo=UTC)
    nulled = next(test for test in done.tests if test.name == "weather_values_nulled")
    assert (nulled.status, nulled.failures) == ("warn", 2)


def test_tests_fail_where_a_rule_is_broken(stage_of: Callable[[str], Stage]) -> None:
    stage = stage_of("broken")
    stage.raw.append_days(
        FIRST - timedelta(days=1), FIRST + timedelta(days=2), leave_out=("flight_schedules",)
    )
    stage.raw.append(
        "flight_schedules",
        f"""SELECT * REPLACE (CASE WHEN carrier <> 'AA' THEN distance_miles END AS distance_miles,
                             CASE WHEN carrier = 'HA' THEN '??' ELSE carrier END AS carrier)
            FROM raw_flight_schedules WHERE service_date = DATE '{FIRST}'""",
    )
    done = stage.dbt("build", *selection(DAILY), first=FIRST, last=FIRST)
    tests = {test.name: test for test in done.tests}
    assert not done.is_success
    nulls = tests["departures_never_null"]
    assert (nulls.status, nulls.severity, nulls.model) == ("fail", "error", "departures")
    assert nulls.failures == stage.rows("SELECT count(*) AS n FROM {departures} WHERE carrier = 'AA'")[0]["n"]
    assert (tests["rule_19_carrier_is_known"].status, tests["rule_19_carrier_is_known"].failures) == (
        "warn",
        1,
    )


def test_a_missing_table_is_named(stage_of: Callable[[str], Stage]) -> None:
    with pytest.raises(DbtError, match=r"weather: (?s:.*)not in the lake: raw/weather"):
        stage_of("empty").dbt("run", *selection(["weather"]))


def test_bare_dbt_builds_everything_that_has_landed(stage: Stage) -> None:
    landing.update_range(
        stage.settings.landing_root, first=FIRST, last=LAST, newest_fact_delivered_at=feed_day_ends(LAST)
    )
    home = stage.settings.home
    done = subprocess.run(
        [Path(sys.executable).with_name("dbt"), "--quiet", "run", "--project-dir", "dbt_project", "--target-path",
         home / "target", "--log-path", home / "logs", "--select", *selection(["weather"])[1:2]],
        cwd=ROOT, capture_output=True, text=True, timeout=300,
        env=os.environ | {"CONTRAIL_HOME": str(home), "DBT_PROFILES_DIR": "dbt_project", "HOME": str(home)},
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    commit = Lake(stage.settings.lake_root).commits("clean/weather")[-1]
    assert commit.run_id.startswith("dbt:")
    assert commit.partition == "2013-03-08..2013-03-12"
    assert commit.extra["complete_until"] == "2013-03-13T07:00:00+00:00"
    assert not (home / ".dbt").exists()
