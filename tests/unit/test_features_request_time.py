"""Request-time features: the calendar and the aircraft's last leg, by row and by column."""

from datetime import UTC, date, datetime, timedelta

import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from features.request_time import (
    AIRCRAFT_FEATURES,
    CATEGORICAL,
    COMPUTED,
    INSTANT_COLUMNS,
    LEG_COLUMNS,
    OF_SCHEDULE,
    REQUEST_COLUMNS,
    SCHEDULE_COLUMNS,
    SCHEDULE_FEATURES,
    RequestError,
    holiday_distances,
    leg_columns,
    request_columns,
    request_time_features,
    request_time_row,
)

AT = datetime(2013, 3, 8, 20, 15, tzinfo=UTC)


def request(**changes):
    """A departure at 22:15 UTC, decided at 20:15, whose aircraft left six hours before it and landed."""
    return {
        "carrier": "UA", "origin": "EWR", "dest": "ORD", "service_date": date(2013, 3, 8),
        "scheduled_departure_minute_local": 17 * 60 + 15, "scheduled_departure_at": AT + timedelta(hours=2),
        "decision_at": AT, "aircraft_leg_scheduled_departure_at": AT - timedelta(hours=4),
        "aircraft_leg_block_minutes": 120, "aircraft_leg_departure_delay_minutes": 20,
        "aircraft_leg_arrival_delay_minutes": 35, "aircraft_leg_is_cancelled": False, "aircraft_leg_stage": 2,
        **changes,
    }  # fmt: skip


NO_LEG = dict.fromkeys(LEG_COLUMNS)


def columns(rows):
    return {name: [row[name] for row in rows] for name in (*REQUEST_COLUMNS, *LEG_COLUMNS)}


def both(row):
    """The features of one request by both doors, which must agree."""
    by_row = request_time_row(row)
    by_column = request_time_features(columns([row]))
    assert {name: array.to_pylist()[0] for name, array in by_column.items()} == by_row
    return by_row


def aircraft(row):
    found = both(row)
    return tuple(found[f"aircraft_{name}"] for name in (
        "stage", "cancelled", "arrival_delay_minutes", "delay_known_minutes", "slack_minutes", "minutes_since_leg",
    ))  # fmt: skip


def test_the_calendar():
    found = both(request())
    assert tuple(found[name] for name in CATEGORICAL) == ("UA", "EWR", "ORD")
    assert tuple(found[name] for name in SCHEDULE_FEATURES) == (
        1035,
        5,
        80,
        18,
    )  # Memorial Day, Washington's Birthday
    assert set(found) == {*CATEGORICAL, *SCHEDULE_FEATURES, *AIRCRAFT_FEATURES}


@pytest.mark.parametrize(
    ("day", "to_holiday", "from_holiday", "day_of_week"),
    [
        (date(2013, 7, 4), 0, 0, 4),
        (date(2013, 7, 3), 1, 37, 3),
        (date(2013, 12, 31), 1, 6, 2),
        (date(2013, 1, 1), 0, 0, 2),
        (date(2014, 1, 2), 18, 1, 4),
        (date(2019, 3, 10), 78, 20, 0),
        (
            date(1999, 12, 26),
            5,
            1,
            0,
        ),  # New Year's Day of 2000 fell on a Saturday and was observed on the Friday
    ],
)
def test_holidays_of_any_year(day, to_holiday, from_holiday, day_of_week):
    found = both(request(service_date=day))
    assert found["schedule_days_to_holiday"] == to_holiday
    assert found["schedule_days_from_holiday"] == from_holiday
    assert found["schedule_day_of_week"] == day_of_week
    assert holiday_distances((day - date(1970, 1, 1)).days) == (to_holiday, from_holiday)


@pytest.mark.parametrize(
    ("leg", "expected"),
    [
        ({}, (2, 0, 35, 35, 360 - 240 - 35, 360)),
        ({"arrival": -12}, (2, 0, -12, -12, 360 - 240 + 12, 360)),
        ({"arrival": None, "stage": 1}, (1, 0, None, 20, 360 - 240 - 20, 360)),
        ({"arrival": None, "stage": 1, "departure": -7}, (1, 0, None, 0, 120, 360)),
        ({"arrival": None, "stage": 0, "departure": None}, (0, 0, None, 240, 360 - 240 - 240, 360)),
        (
            {"arrival": None, "stage": 0, "departure": None, "at": AT + timedelta(minutes=30)},
            (0, 0, None, 0, -150, 90),
        ),
        (
            {"arrival": None, "stage": 0, "departure": None, "cancelled": True},
            (0, 1, None, 300, 360 - 240 - 300, 360),
        ),
    ],
)
def test_the_last_leg(leg, expected):
    values = {
        "arrival": 35,
        "departure": 20,
        "stage": 2,
        "cancelled": False,
        "at": AT - timedelta(hours=4),
        **leg,
    }
    row = request(
        aircraft_leg_scheduled_departure_at=values["at"],
        aircraft_leg_arrival_delay_minutes=values["arrival"],
        aircraft_leg_departure_delay_minutes=values["departure"],
        aircraft_leg_stage=values["stage"],
        aircraft_leg_is_cancelled=values["cancelled"],
    )
    assert aircraft(row) == expected


def test_no_leg_and_a_leg_of_more_than_48_hours_ago_are_the_same_null():
    departure = AT + timedelta(hours=2)
    limit = departure - timedelta(hours=48)
    assert aircraft(request(aircraft_leg_scheduled_departure_at=limit))[5] == 2880
    old = both(request(aircraft_leg_scheduled_departure_at=limit - timedelta(minutes=1)))
    assert old == both(request(**NO_LEG))
    assert {old[name] for name in AIRCRAFT_FEATURES} == {None}


def test_a_request_need_not_name_the_leg():
    row = {name: value for name, value in request().items() if name in REQUEST_COLUMNS}
    assert request_time_row(row) == request_time_row(request(**NO_LEG))


def test_a_clock_change_between_leg_and_departure_counts_real_minutes():
    """From 01:30 EST to 03:30 EDT on 2013-03-10 it is one hour."""
    row = request(
        service_date=date(2013, 3, 10),
        scheduled_departure_at=datetime(2013, 3, 10, 7, 30, tzinfo=UTC),
        aircraft_leg_scheduled_departure_at=datetime(2013, 3, 10, 6, 30, tzinfo=UTC),
        decision_at=datetime(2013, 3, 10, 5, 30, tzinfo=UTC),
    )
    assert both(row)["aircraft_minutes_since_leg"] == 60


MINUTES = st.integers(-90, 2000)
LEGS = st.one_of(
    st.just(NO_LEG),
    st.fixed_dictionaries(
        {
            "aircraft_leg_scheduled_departure_at": st.integers(-3000, 200).map(
                lambda m: AT + timedelta(minutes=m)
            ),
            "aircraft_leg_block_minutes": st.one_of(st.none(), st.integers(30, 700)),
            "aircraft_leg_departure_delay_minutes": st.one_of(st.none(), MINUTES),
            "aircraft_leg_arrival_delay_minutes": st.one_of(st.none(), MINUTES),
            "aircraft_leg_is_cancelled": st.booleans(),
            "aircraft_leg_stage": st.integers(0, 2),
        }
    ),
)


@settings(max_examples=60, deadline=None)
@given(
    rows=st.lists(
        st.builds(
            lambda leg, day, minute: request(
                service_date=day, scheduled_departure_minute_local=minute, **leg
            ),
            LEGS,
            st.dates(date(1990, 1, 1), date(2050, 12, 31)),
            st.integers(0, 1439),
        ),
        min_size=1,
        max_size=20,
    )
)
def test_rows_and_columns_agree(rows):
    by_column = request_time_features(columns(rows))
    for index, row in enumerate(rows):
        assert {name: array[index].as_py() for name, array in by_column.items()} == request_time_row(row)


def test_arrow_columns_of_any_kind_are_taken():
    rows = [request(), request(**NO_LEG), request(service_date=date(2013, 7, 4))]
    plain = request_time_features(columns(rows))
    arrays = {name: pa.array(values) for name, values in columns(rows).items()}
    chunked = {name: pa.chunked_array([array.slice(0, 1), array.slice(1)]) for name, array in arrays.items()}
    dictionary = {**arrays, "carrier": arrays["carrier"].dictionary_encode()}
    dates = {**arrays, "service_date": pa.array(["2013-03-08", "2013-03-08", "2013-07-04"])}
    nanoseconds = {
        **arrays,
        "decision_at": arrays["decision_at"].cast(pa.timestamp("ns", tz="America/New_York")),
    }
    for kind in (arrays, chunked, dictionary, dates, nanoseconds):
        assert request_time_features(kind) == plain
    assert {name: str(array.type) for name, array in plain.items()} == {
        **dict.fromkeys(CATEGORICAL, "string"),
        **dict.fromkeys((*SCHEDULE_FEATURES, *AIRCRAFT_FEATURES), "int32"),
    }


def test_no_requests_give_empty_columns():
    empty = {name: pa.array([], pa.null()) for name in (*REQUEST_COLUMNS, *LEG_COLUMNS)}
    assert {len(array) for array in request_time_features(empty).values()} == {0}


@pytest.mark.parametrize(
    ("wanted", "needed", "legs"),
    [
        (OF_SCHEDULE, SCHEDULE_COLUMNS, {}),
        (AIRCRAFT_FEATURES, INSTANT_COLUMNS, LEG_COLUMNS),
        (("dest", "aircraft_stage", "weather_temp_f"), REQUEST_COLUMNS, LEG_COLUMNS),
        (("weather_temp_f",), {}, {}),
    ],
)
def test_a_request_names_what_its_features_are_computed_of_and_nothing_else(wanted, needed, legs):
    assert request_columns(wanted) == dict(needed)
    assert leg_columns(wanted) == dict(legs)
    row = {name: value for name, value in request().items() if name in needed or name in legs}
    whole = both(request())
    expected = {name: whole[name] for name in wanted if name in COMPUTED}
    assert request_time_row(row, wanted) == expected
    found = request_time_features({name: [value] for name, value in row.items()}, wanted)
    assert {name: array.to_pylist()[0] for name, array in found.items()} == expected
    for name in needed:
        with pytest.raises(RequestError, match=f"lacks {name}; every request names"):
            request_time_row(row | {name: None}, wanted)


def test_what_is_missing_is_named():
    with pytest.raises(RequestError, match="lacks the columns dest, aircraft_leg_stage"):
        request_time_features(
            {n: v for n, v in columns([request()]).items() if n not in ("dest", "aircraft_leg_stage")}
        )
    with pytest.raises(RequestError, match="1 of 2 requests have no carrier"):
        request_time_features(columns([request(), request(carrier=None)]))
    with pytest.raises(RequestError, match="lacks carrier"):
        request_time_row(request(carrier=None))


@pytest.mark.parametrize("name", ["scheduled_departure_at", "aircraft_leg_scheduled_departure_at"])
def test_naive_instants_are_refused(name):
    row = request(**{name: AT.replace(tzinfo=None)})
    for door in (lambda: request_time_row(row), lambda: request_time_features(columns([row]))):
        with pytest.raises(RequestError, match=f"{name}.* no zone"):
            door()
