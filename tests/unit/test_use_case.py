"""A use case refuses what contradicts itself; the project's own fits the clean columns it reads."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, date, datetime, time, timedelta
from fractions import Fraction

import duckdb
import pytest

from contrail import duck
from contrail.use_case import SplitShares, UseCase, UseCaseError
from feature_repo.use_cases import LATE_FLIGHT_2H, LATE_FLIGHT_DAY_AHEAD, LATE_FLIGHT_HORIZON, USE_CASES
from tests.support.small_model import USE_CASE


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"name": "Broken Jar"}, "snake_case"),
        ({"features": ()}, "features must be named"),
        ({"features": ("wall_mm", "wall_mm", "colour")}, "each once"),
        ({"categorical": ("shape",)}, r"no features: \['shape'\]"),
        ({"features": ("wall_mm", "colour", "is_broken")}, r"may not be features: \['is_broken'\]"),
        ({"personal": ("colour",)}, r"may not be features: \['colour'\]"),
        ({"decision_threshold": 1.0}, "threshold"),
        ({"horizon": timedelta(0)}, "horizon"),
        ({"min_training_days": 0}, "min_training_days"),
    ],
)
def test_contradictions_are_refused(change, words):
    with pytest.raises(UseCaseError, match=words):
        replace(USE_CASE, **change)


def test_shares_must_leave_a_test_part():
    with pytest.raises(UseCaseError, match="no test part"):
        SplitShares(train=Fraction(2, 3), validate=Fraction(1, 3))


def test_identities_change_with_what_they_identify():
    swapped = replace(USE_CASE, features=("batch_size", "wall_mm", "colour"))
    assert swapped.feature_order_sha256 != USE_CASE.feature_order_sha256
    assert replace(USE_CASE, seed=8).feature_order_sha256 == USE_CASE.feature_order_sha256
    for judged_by in (
        {"criteria": replace(USE_CASE.criteria, max_bias=0.01)},
        {"slices": ()},
        {"naive_group_columns": ("maker",)},
        {"split": SplitShares(train=Fraction(1, 2))},
        {"decision_threshold": 0.4},
    ):
        assert replace(USE_CASE, **judged_by).criteria_sha256 != USE_CASE.criteria_sha256
    assert replace(USE_CASE, title="Other words").criteria_sha256 == USE_CASE.criteria_sha256


# --- the project's own -------------------------------------------------------------------------------------

DEPARTURES = """CREATE TABLE departures (
    departure_id VARCHAR, service_date DATE, carrier VARCHAR, flight_number INTEGER, origin VARCHAR, dest VARCHAR,
    tail_number VARCHAR, tail_known_at TIMESTAMPTZ, distance_miles INTEGER, scheduled_departure_at TIMESTAMPTZ,
    scheduled_departure_minute_local INTEGER, scheduled_block_minutes INTEGER, is_disrupted BOOLEAN,
    outcome_known_at TIMESTAMPTZ, origin_time_zone VARCHAR, created_at TIMESTAMPTZ, is_retracted BOOLEAN)"""
SCHEDULED = datetime(2013, 3, 8, 20, 45, tzinfo=UTC)
BORN = datetime(2013, 3, 7, 22, tzinfo=UTC)


def spine(*versions: dict[str, object], use_case: UseCase = LATE_FLIGHT_2H) -> list[dict[str, object]]:
    """What its spine makes of versions of one departure, each given as its difference from the plainest one."""
    plain: dict[str, object] = {
        "departure_id": "20130308-UA-1545-EWR",
        "service_date": date(2013, 3, 8),
        "carrier": "UA",
        "flight_number": 1545,
        "origin": "EWR",
        "dest": "IAH",
        "tail_number": "N14228",
        "tail_known_at": SCHEDULED - LATE_FLIGHT_HORIZON,
        "distance_miles": 1400,
        "scheduled_departure_at": SCHEDULED,
        "scheduled_departure_minute_local": 945,
        "scheduled_block_minutes": 240,
        "is_disrupted": None,
        "outcome_known_at": None,
        "origin_time_zone": "America/New_York",
        "created_at": BORN,
        "is_retracted": False,
    }
    with duck.connect() as con:
        con.execute(DEPARTURES)
        for version in versions:
            row = plain | version
            con.execute(f"INSERT INTO departures VALUES ({', '.join('?' * len(row))})", list(row.values()))
        return as_dicts(con.execute(use_case.spine_sql))


def as_dicts(found: duckdb.DuckDBPyConnection) -> list[dict[str, object]]:
    names = [column[0] for column in found.description or []]
    return [dict(zip(names, row, strict=True)) for row in found.fetchall()]


def test_the_spine_has_every_column_that_the_use_case_names():
    (row,) = spine({})
    assert set(LATE_FLIGHT_2H.spine_columns) <= set(row)
    assert row["decision_at"] == SCHEDULED - LATE_FLIGHT_2H.horizon
    assert (row["scheduled_departure_hour_local"], row["departure_band"]) == (15, "13-17 h")
    assert row["tail_number"] == "N14228"
    assert row["dest_traffic"] == "1-2 a day"
    assert (row["is_disrupted"], row["outcome_known_at"]) == (None, None)


def test_the_outcome_is_the_first_that_became_known():
    landed = SCHEDULED + timedelta(hours=5)
    corrected = {"is_disrupted": True, "outcome_known_at": landed, "created_at": landed + timedelta(days=3)}
    (row,) = spine({"is_disrupted": False, "outcome_known_at": landed}, corrected)
    assert (row["is_disrupted"], row["outcome_known_at"]) == (False, landed)
    (row,) = spine({}, corrected)
    # The file that told it came three days later: before that nobody knew.
    assert (row["is_disrupted"], row["outcome_known_at"]) == (True, landed + timedelta(days=3))


def test_an_aircraft_named_after_the_decision_is_unknown_at_it():
    late = {"tail_number": "N14228", "created_at": SCHEDULED}
    (row,) = spine({"tail_number": None}, late)
    assert row["tail_number"] is None
    (row,) = spine({"tail_known_at": SCHEDULED})
    assert row["tail_number"] is None


def test_the_schedule_is_the_one_that_was_known_at_the_decision():
    decided = SCHEDULED - LATE_FLIGHT_HORIZON
    (row,) = spine({}, {"dest": "ORD", "created_at": decided}, {"dest": "MIA", "created_at": SCHEDULED})
    assert row["dest"] == "ORD"
    moved = {"scheduled_departure_at": SCHEDULED + timedelta(hours=6), "created_at": SCHEDULED}
    (row,) = spine({}, moved)
    assert (row["decision_at"], row["scheduled_departure_at"]) == (decided, SCHEDULED)


def test_a_departure_that_nobody_knew_at_its_decision_has_its_first_schedule_and_no_aircraft():
    (row,) = spine({"created_at": SCHEDULED}, {"dest": "MIA", "created_at": SCHEDULED + timedelta(days=1)})
    assert (row["dest"], row["tail_number"]) == ("IAH", None)


def test_a_departure_whose_newest_version_is_retracted_is_none():
    later = SCHEDULED + timedelta(days=2)
    assert spine({}, {"is_retracted": True, "created_at": later}) == []
    back = {"dest": "ORD", "created_at": later + timedelta(days=1)}
    (row,) = spine({}, {"is_retracted": True, "created_at": later}, back)
    assert row["dest"] == "IAH"


def test_the_request_is_as_old_as_its_newest_fact() -> None:
    (row,) = spine({"tail_known_at": BORN + timedelta(hours=3)})
    assert (row["tail_number"], row["request_known_at"]) == ("N14228", BORN + timedelta(hours=3))
    # An aircraft that is not in the request makes it no younger.
    (row,) = spine({"tail_known_at": SCHEDULED})
    assert (row["tail_number"], row["request_known_at"]) == (None, BORN)
    decided = SCHEDULED - LATE_FLIGHT_HORIZON
    (row,) = spine({"tail_number": None}, {"tail_number": None, "dest": "ORD", "created_at": decided})
    assert (row["dest"], row["request_known_at"]) == ("ORD", decided)


@pytest.mark.parametrize(
    ("flights", "traffic"),
    [(2, "1-2 a day"), (3, "3-9 a day"), (9, "3-9 a day"), (10, "10-24 a day"), (25, "25 or more a day")],
)
def test_small_airports_are_those_with_few_flights_that_day(flights: int, traffic: str) -> None:
    others: list[dict[str, object]] = [
        {"departure_id": "gone", "is_retracted": True},
        {"departure_id": "elsewhere", "dest": "ORD"},
        {"departure_id": "next day", "service_date": date(2013, 3, 9)},
    ]
    found = spine(*({"departure_id": f"flight-{n}"} for n in range(flights)), *others)
    assert {row["dest_traffic"] for row in found if str(row["departure_id"]).startswith("flight-")} == {
        traffic
    }
    assert {row["dest_traffic"] for row in found if row["departure_id"] in ("elsewhere", "next day")} == {
        "1-2 a day"
    }


@pytest.mark.parametrize("use_case", USE_CASES.values(), ids=list(USE_CASES))
def test_a_request_that_nobody_knew_at_its_decision_says_so(use_case: UseCase) -> None:
    (row,) = spine({"created_at": SCHEDULED}, use_case=use_case)
    assert row["request_known_at"] == SCHEDULED
    assert row["request_known_at"] > row["decision_at"]  # type: ignore[operator]


@pytest.mark.parametrize(
    ("day", "utc_hour"),
    [
        (date(2013, 3, 8), 23),  # the evening before is in winter
        (date(2013, 3, 10), 23),  # the clocks change in the night after it
        (date(2013, 3, 11), 22),
        (date(2013, 7, 8), 22),  # the very instant at which the schedule is known
        (date(2013, 11, 3), 22),
        (date(2013, 11, 4), 23),
    ],
)
def test_the_day_ahead_decides_at_18_on_the_evening_before_at_the_origin(day: date, utc_hour: int) -> None:
    evening = datetime.combine(day - timedelta(days=1), time(22), UTC)
    (row,) = spine({"service_date": day, "created_at": evening}, use_case=LATE_FLIGHT_DAY_AHEAD)
    assert row["decision_at"] == evening.replace(hour=utc_hour)
    assert row["request_known_at"] == evening
    (row,) = spine(
        {"service_date": day, "created_at": evening, "origin_time_zone": "America/Chicago"},
        use_case=LATE_FLIGHT_DAY_AHEAD,
    )
    assert row["decision_at"] == evening.replace(hour=utc_hour) + timedelta(hours=1)


def test_the_day_ahead_knows_no_aircraft_and_the_schedule_of_the_evening() -> None:
    moved = {"dest": "ORD", "created_at": BORN + timedelta(hours=2)}
    (row,) = spine({}, moved, use_case=LATE_FLIGHT_DAY_AHEAD)
    assert (row["dest"], row["decision_at"]) == ("IAH", datetime(2013, 3, 7, 23, tzinfo=UTC))
    assert "tail_number" not in row
    assert set(LATE_FLIGHT_DAY_AHEAD.spine_columns) <= set(row)
    least = timedelta(hours=6)
    assert LATE_FLIGHT_DAY_AHEAD.horizon == least
    midnight = datetime(2013, 3, 8, 5, tzinfo=UTC)
    (row,) = spine({"scheduled_departure_at": midnight}, use_case=LATE_FLIGHT_DAY_AHEAD)
    assert row["decision_at"] == midnight - least


def test_declared_use_cases_are_named_as_they_are_keyed():
    assert {use_case.name: use_case for use_case in USE_CASES.values()} == USE_CASES
    for use_case in USE_CASES.values():
        assert not {*use_case.personal, "tail_number"} & set(use_case.features)
        assert use_case.request_known_column


def test_the_order_of_the_features_is_part_of_each_model() -> None:
    # Another order is another model: whoever changes it changes this too, on purpose.
    assert {name: (len(one.features), one.feature_order_sha256[:12]) for name, one in USE_CASES.items()} == {
        "late_flight_2h": (62, "317adb3e1cc9"),
        "late_flight_day_ahead": (42, "b4877a0f6ec5"),
    }
    assert not any(name.startswith(("weather_", "aircraft_")) for name in LATE_FLIGHT_DAY_AHEAD.features)
