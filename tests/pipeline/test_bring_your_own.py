"""A source of another airport and year goes through the whole graph; a folder of another schema is refused in words."""

from __future__ import annotations

import json
from datetime import date, timedelta

import pytest

from tests.support import other_airport
from tests.support.whole_graph import Home

pytestmark = pytest.mark.slow

# Clocks go back in the night of the 7th of November.
FIRST, DAYS = date(2021, 10, 28), 24


@pytest.fixture(scope="module")
def source(tmp_path_factory):
    return other_airport.write(tmp_path_factory.mktemp("denver") / "denver", FIRST, DAYS)


@pytest.fixture(scope="module")
def denver(tmp_path_factory, source) -> Home:
    home = Home(tmp_path_factory.mktemp("home"))
    home.outcome = json.loads(home.contrail("run", "--source", str(source), "--json"))
    return home


def test_it_runs_to_the_end(denver):
    assert all(run["ok"] for run in denver.outcome["runs"])
    assert denver.outcome["blocked"] == {}
    assert denver.status().due == []


def test_next_to_nothing_is_quarantined(denver):
    flights = DAYS * other_airport.FLIGHTS_A_DAY
    assert denver.value("SELECT count(*) FROM {raw/flight_schedules}") == flights
    assert denver.value("SELECT count(*) FROM {raw/weather}") == DAYS * 24
    kept = {name: denver.value(f"SELECT count(*) FROM {{{name}}}") for name in denver.tables("quarantine")}
    assert sum(kept.values()) == 0, kept


def test_every_flight_is_clean_and_on_its_own_clocks(denver):
    """Local times that were written are those that the UTC times show, across the change of the clocks."""
    rows = denver.rows("""
        SELECT count(*) AS flights, count(*) FILTER (is_cancelled) AS cancelled, count(arrived_at) AS arrived,
               count(*) FILTER (is_diverted) AS diverted,
               count(*) FILTER (is_dest_time_zone_assumed) AS assumed, count(is_disrupted) AS judged,
               min(scheduled_block_minutes) AS shortest, max(scheduled_block_minutes) AS longest
        FROM {clean/departures}""")
    flights = DAYS * other_airport.FLIGHTS_A_DAY
    (row,) = rows
    assert row["flights"] == flights
    assert row["arrived"] + row["cancelled"] + row["diverted"] == flights
    assert row["cancelled"] > 10
    assert row["assumed"] == flights / len(other_airport.DESTINATIONS)  # those to the place that nobody knows
    assert (row["shortest"], row["longest"]) == (110, 475)
    assert row["judged"] == flights
    zones = {
        r["zone"] for r in denver.rows("SELECT DISTINCT origin_time_zone AS zone FROM {clean/departures}")
    }
    assert zones == {other_airport.HOME_ZONE}


def test_every_feature_table_is_built_to_the_end_of_the_feeds(denver):
    names = denver.tables("feature")
    assert len(names) == 12
    for name in names:
        row = denver.rows(f"SELECT count(*) AS n, max(known_at)::DATE AS last FROM {{{name}}}")[0]
        assert row["n"] > 0
        assert row["last"] >= FIRST + timedelta(days=DAYS - 1), name


def test_a_model_is_learnt_and_scores_what_came_after_its_training(denver):
    table = "score/late_flight_2h/predictions"
    assert denver.outcome["model"]["role"] == "champion"
    (row,) = denver.rows(
        f"SELECT count(*) AS n, count(DISTINCT departure_id) AS departures, min(score) AS low, max(score) AS high "
        f"FROM {{{table}}}"
    )
    assert row["n"] == row["departures"] > 100
    assert 0 < row["low"] < row["high"] < 1


def test_what_nobody_has_heard_of_is_scored_too(denver):
    unknown = denver.value(
        "SELECT count(*) FROM {score/late_flight_2h/predictions} SEMI JOIN (SELECT departure_id FROM {clean/departures} "
        f"WHERE dest = '{other_airport.UNKNOWN_DESTINATION}' OR carrier = 'W4') USING (departure_id)"
    )
    assert unknown > 50


def test_a_second_run_has_nothing_to_do(denver, source):
    before = denver.content("raw", "clean", "feature", "score")
    again = json.loads(denver.contrail("run", "--source", str(source), "--json"))
    assert again["runs"] == []
    assert denver.content("raw", "clean", "feature", "score") == before


# --- another schema -------------------------------------------------------------------------------------------------


def refused(tmp_path, source) -> str:
    home = Home(tmp_path / "home")
    said = home.contrail("run", "--source", str(source), expect=1)
    assert "Traceback" not in said
    assert not home.settings.landing_root.exists() or not any(home.settings.landing_root.glob("*/*"))
    return said


def test_a_folder_without_a_table_is_refused(tmp_path):
    folder = tmp_path / "taxis"
    folder.mkdir()
    (folder / "trips.csv").write_text("pickup,dropoff\n1,2\n")
    said = refused(tmp_path, folder)
    assert "lacks flights, weather, planes, airports, airlines" in said
    assert "found: trips.csv" in said


def test_a_table_without_a_column_is_refused(tmp_path):
    folder = other_airport.write(tmp_path / "denver", FIRST, 1)
    path = folder / "flights.csv"
    path.write_text(path.read_text().replace("dep_delay", "departure_delay", 1))
    said = refused(tmp_path, folder)
    assert "flights.csv lacks the column dep_delay" in said
    assert "departure_delay" in said


def test_texts_where_numbers_belong_are_refused(tmp_path):
    folder = other_airport.write(tmp_path / "denver", FIRST, 1)
    path = folder / "weather.csv"
    lines = path.read_text().splitlines()
    lines[5] = lines[5].replace(",10,", ",clear,")
    path.write_text("\n".join(lines) + "\n")
    said = refused(tmp_path, folder)
    assert "weather.csv" in said
    assert "'clear'" in said


def test_a_folder_that_is_not_there_is_refused(tmp_path):
    assert "does not exist" in refused(tmp_path, tmp_path / "nowhere")
