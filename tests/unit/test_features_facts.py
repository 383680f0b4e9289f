"""Versions of a departure: what is known of it, and when each version counts."""

from datetime import date, timedelta

import pytest

from features.corrections import CORRECTIONS_AT_ONCE, corrections
from features.facts import Days, days_known_in, flights_sql
from tests.support.clean_rows import departure, session_with, utc

SCHEDULED = "2013-03-08 15:00"
DELIVERY = utc("2013-03-10 09:00")
ALL = Days(date(2013, 3, 1), date(2013, 3, 20))


def flights(rows, *, corrected=True, days=ALL):
    con = session_with(rows)
    found = con.sql(flights_sql(days, corrected=corrected)).to_arrow_table().to_pylist()
    return sorted(found, key=lambda row: row["version_at"])


@pytest.mark.parametrize("corrected", [True, False])
def test_a_regular_row_passes_as_it_is_and_counts_without_limit(corrected):
    row = departure(SCHEDULED, delay=20, arrival_delay=30, tail_number="N1")
    (found,) = flights([row], corrected=corrected)
    assert found["due_at"] == utc("2013-03-08 15:00")
    assert found["overdue_at"] == utc("2013-03-08 15:15")
    assert found["departed_known_at"] == found["gone_at"] == utc("2013-03-08 15:20")
    assert found["arrived_known_at"] == utc("2013-03-08 17:30")
    assert found["outcome_known_at"] == utc("2013-03-08 17:15")
    assert (found["tail_number"], found["is_disrupted"], found["network"]) == ("N1", True, "all")
    assert (found["is_limited"], found["valid_from"], found["valid_to"]) == (False, None, None)


def test_a_correction_ends_the_version_before_it():
    first = departure(SCHEDULED, delay=20, arrival_delay=30)
    second = departure(SCHEDULED, delay=2, arrival_delay=3, created_at=DELIVERY)
    third = second | {"is_retracted": True, "created_at": DELIVERY + timedelta(hours=1)}
    found = flights([second, third, first])
    assert [(f["valid_from"], f["valid_to"]) for f in found] == [
        (None, DELIVERY),
        (DELIVERY, third["created_at"]),
        (third["created_at"], None),
    ]
    assert [f["departure_delay_minutes"] for f in found] == [20, 2, 2]
    assert all(f["is_limited"] for f in found)


def test_a_departure_of_a_late_file_counts_from_its_delivery():
    (found,) = flights([departure(SCHEDULED, delay=20, created_at=DELIVERY)])
    assert (found["is_limited"], found["valid_from"], found["valid_to"]) == (True, DELIVERY, None)
    assert found["departed_known_at"] == utc("2013-03-08 15:20"), "what happened keeps its own instant"


def test_other_departures_are_not_limited_by_a_correction():
    rows = [departure(SCHEDULED, 1), departure(SCHEDULED, 2), departure(SCHEDULED, 2, created_at=DELIVERY)]
    assert [f["is_limited"] for f in flights(rows) if f["flight_number"] == 1] == [False]


def test_only_the_service_dates_asked_for_are_read():
    rows = [departure(SCHEDULED), departure("2013-03-09 15:00")]
    assert len(flights(rows, days=Days(date(2013, 3, 9), date(2013, 3, 9)))) == 1


def test_every_fact_known_in_a_span_is_of_its_days():
    days = days_known_in(utc("2013-03-08 07:00"), utc("2013-03-08 23:00"))
    assert days == Days(date(2013, 3, 4), date(2013, 3, 9))


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
    (found,) = flights([departure(SCHEDULED, **row)])
    assert found["gone_at"] == utc(gone)


def test_corrections_are_taken_a_few_at_a_time_with_the_days_around_them():
    rows = [departure(SCHEDULED, 1)]
    rows += [
        departure(f"2013-03-{6 + n % 3:02d} 15:00", 10 + n, created_at=DELIVERY + timedelta(minutes=n))
        for n in range(CORRECTIONS_AT_ONCE + 2)
    ]
    days = Days(date(2013, 1, 1), date(2013, 3, 12))
    groups = corrections(session_with(rows), days, timedelta(days=1))
    assert [len(group.instants) for group in groups] == [CORRECTIONS_AT_ONCE, 2]
    assert {at for group in groups for at in group.instants} == {r["created_at"] for r in rows[1:]}
    assert groups[0].days.first == date(2013, 3, 6) - timedelta(days=7)
    assert groups[0].days.last == date(2013, 3, 12), "no further than the days that the build reads"


def test_regular_rows_are_no_corrections():
    assert corrections(session_with([departure(SCHEDULED)]), ALL, timedelta(days=1)) == ()
