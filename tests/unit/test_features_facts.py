"""Versions of a departure reduced to what was known of it, and from when."""

from datetime import timedelta
from itertools import pairwise

import pytest

from features.facts import known_facts_sql
from features.tables import FEATURE_TABLES
from tests.support.clean_rows import departure, session_with, utc

SCHEDULED = "2013-03-08 15:00"


def facts(rows, first="2013-03-08 00:00", hi="2013-03-09 00:00"):
    con = session_with(rows)
    return con.sql(known_facts_sql(utc(first), utc(hi))).to_arrow_table().to_pylist()


def test_a_regular_row_passes_as_it_is():
    row = departure(SCHEDULED, delay=20, arrival_delay=30, tail_number="N1")
    (found,) = facts([row])
    assert found["departed_at"] == utc("2013-03-08 15:20")
    assert found["arrived_at"] == utc("2013-03-08 17:30")
    assert found["outcome_at"] == utc("2013-03-08 17:15")
    assert found["tail_at"] == utc("2013-03-08 13:00")
    assert (found["departure_delay_minutes"], found["arrival_delay_minutes"]) == (20, 30)
    assert (found["tail_number"], found["is_disrupted"]) == ("N1", True)
    assert found["cancelled_at"] is None
    assert found["gone_at"] == utc("2013-03-08 15:20")


def test_a_fact_that_came_late_counts_from_its_delivery():
    first = departure(SCHEDULED, delay=20)
    late = departure(SCHEDULED, delay=20, arrival_delay=30, created_at=utc("2013-03-10 09:00"))
    (found,) = facts([first, late])
    assert found["departed_at"] == utc("2013-03-08 15:20")
    assert found["arrived_at"] == found["outcome_at"] == utc("2013-03-10 09:00")


def test_a_correction_does_not_enter():
    first = departure(SCHEDULED, delay=20, arrival_delay=30)
    corrected = departure(SCHEDULED, delay=2, arrival_delay=3, created_at=utc("2013-03-10 09:00"))
    assert facts([first, corrected]) == facts([first]) == facts([corrected, first])


def test_an_outcome_known_by_absence_stays_the_first():
    silent = departure(SCHEDULED, delay=0, outcome_known_at=utc("2013-03-08 17:15"), is_disrupted=True)
    landed = departure(SCHEDULED, delay=0, arrival_delay=-5, created_at=utc("2013-03-10 09:00"))
    (found,) = facts([silent, landed])
    assert (found["outcome_at"], found["is_disrupted"]) == (utc("2013-03-08 17:15"), True)
    assert (found["arrived_at"], found["arrival_delay_minutes"]) == (utc("2013-03-10 09:00"), -5)


def test_retracted_from_the_start_is_no_departure():
    assert facts([departure(SCHEDULED, is_retracted=True)]) == []


def test_a_later_retraction_does_not_enter():
    first = departure(SCHEDULED, delay=20, arrival_delay=30)
    gone = departure(SCHEDULED, is_retracted=True, created_at=utc("2013-03-10 09:00"))
    assert facts([first, gone]) == facts([first])


def test_a_departure_that_comes_back_counts_from_then():
    gone = departure(SCHEDULED, is_retracted=True)
    back = departure(SCHEDULED, delay=20, arrival_delay=30, created_at=utc("2013-03-09 09:00"))
    (found,) = facts([gone, back])
    assert found["schedule_at"] == found["departed_at"] == utc("2013-03-09 09:00")


def test_what_comes_after_four_days_makes_no_features():
    first = departure(SCHEDULED, delay=20)
    late = departure(SCHEDULED, delay=20, arrival_delay=30, created_at=utc("2013-03-12 00:00"))
    assert facts([first, late]) == facts([first])


@pytest.mark.parametrize(
    ("row", "gone"),
    [
        ({}, "2013-03-10 03:00"),
        ({"delay": -3}, "2013-03-08 14:57"),
        ({"cancelled": True}, SCHEDULED),
        ({"arrived_known_at": utc("2013-03-08 18:00")}, "2013-03-08 18:00"),
        ({"diverted_known_at": utc("2013-03-08 18:00")}, "2013-03-10 03:00"),
        ({"diverted_known_at": utc("2013-03-08 17:15"), "delay": 300}, "2013-03-08 20:00"),
        ({"delay": 40 * 60}, "2013-03-10 03:00"),
    ],
)
def test_a_flight_waits_until_it_departs_or_is_cancelled_or_36_hours_have_passed(row, gone):
    (found,) = facts([departure(SCHEDULED, **row)])
    assert found["gone_at"] == utc(gone)


def test_late_files_give_the_same_rows_for_a_day_and_for_the_whole():
    rows = []
    for number in range(1, 40):
        scheduled = f"2013-03-08 {10 + number % 10:02d}:{number % 60:02d}"
        rows.append(departure(scheduled, number, delay=number, tail_number=f"N{number % 7}"))
        rows.append(
            departure(
                scheduled, number, delay=number, arrival_delay=number - 12, tail_number=f"N{number % 7}",
                created_at=utc("2013-03-08 00:00") + timedelta(hours=30 + number),
            )
        )  # fmt: skip
    con = session_with(rows)
    for name, table in FEATURE_TABLES.items():
        whole = (
            table.build(con, utc("2013-03-01 00:00"), utc("2013-03-20 00:00")).to_arrow_table().to_pylist()
        )
        parts = []
        cuts = [utc(f"2013-03-{day} 00:00") for day in ("01", "08", "09", "10", "12", "20")]
        for lo, hi in pairwise(cuts):
            parts += table.build(con, lo, hi).to_arrow_table().to_pylist()
        assert whole == parts, name
        assert bool(whole) == (name != "station_weather")
