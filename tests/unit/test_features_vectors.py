"""The vector: its order, its priors, its documentation."""

import random
from datetime import UTC, datetime, timedelta

import pyarrow as pa
import pytest

from features.documentation import ALL_FEATURES, REQUEST
from features.request_time import AIRCRAFT_FEATURES, LEG_COLUMNS, SCHEDULE_FEATURES
from features.tables import FEATURE_TABLES
from features.vectors import (
    CATEGORICAL,
    FEATURE_ORDER,
    PRIORS,
    VIEW_FEATURES,
    VectorError,
    fill_priors,
    fill_priors_row,
)

AT = datetime(2013, 3, 8, 20, 15, tzinfo=UTC)
LOOKED_UP = [name for table in VIEW_FEATURES for name in VIEW_FEATURES[table]]


def test_the_tables():
    assert list(FEATURE_TABLES) == [
        "network_state", "origin_state", "carrier_state", "carrier_origin_state", "dest_state", "network_history",
        "origin_history", "carrier_origin_history", "carrier_route_history", "flight_history", "station_weather",
        "aircraft_leg",
    ]  # fmt: skip
    for table in FEATURE_TABLES.values():
        assert table.max_age > timedelta(0)
        assert table.look_back > timedelta(0)
        assert table.description.endswith(".")
        assert (table.grid is None) == (table.name in ("station_weather", "aircraft_leg"))
    names = [column.name for table in FEATURE_TABLES.values() for column in table.columns]
    assert len(names) == len(set(names))


def test_the_vector_has_62_features_in_a_fixed_order():
    assert len(FEATURE_ORDER) == len(set(FEATURE_ORDER)) == 62
    assert FEATURE_ORDER[:3] == CATEGORICAL


def test_every_feature_comes_from_one_place():
    at_request = {*CATEGORICAL, *SCHEDULE_FEATURES, *AIRCRAFT_FEATURES}
    assert set(LOOKED_UP) - set(LEG_COLUMNS) == set(FEATURE_ORDER) - at_request
    assert len(LOOKED_UP) == len(set(LOOKED_UP))
    assert set(VIEW_FEATURES["aircraft_leg"]) == set(LEG_COLUMNS)
    for table, columns in VIEW_FEATURES.items():
        assert columns
        assert set(columns) <= {column.name for column in FEATURE_TABLES[table].columns}


def test_every_feature_is_documented():
    for name in FEATURE_ORDER:
        feature = ALL_FEATURES[name]
        assert feature.unit
        assert feature.known_rule
        assert feature.description.endswith(".")
        assert feature.sql_type == ("VARCHAR" if name in CATEGORICAL else feature.sql_type)
        assert feature.sql_type in ("VARCHAR", "INTEGER", "DOUBLE")
        assert feature.source == REQUEST or name in VIEW_FEATURES[feature.source]


def test_what_is_not_found_is_the_prior_on_grids_and_null_elsewhere():
    """A carrier, a destination, a flight never seen before."""
    filled = fill_priors_row(dict.fromkeys(LOOKED_UP))
    for name, value in filled.items():
        if name.startswith(("weather_", "aircraft_")):
            assert value is None
        elif "_share_" in name:
            assert value == 0.25
        elif "_delay_mean_" in name:
            assert value == 5.0
        else:
            assert (value, type(value)) == (0, int)


def column_types():
    arrow = {"DOUBLE": pa.float64(), "INTEGER": pa.int32(), "BOOLEAN": pa.bool_(),
             "TIMESTAMPTZ": pa.timestamp("us", tz="UTC")}  # fmt: skip
    return {c.name: arrow[c.sql_type] for table in FEATURE_TABLES.values() for c in table.columns}


def looked_up(seed, rows=50):
    """Random columns as a look-up gives them, with holes, and the known-at time of each table's row."""
    draw = random.Random(seed)
    make = {
        pa.float64(): draw.random,
        pa.int32(): lambda: draw.randrange(9),
        pa.bool_(): lambda: draw.random() < 0.5,
    }
    types = column_types()
    values = {
        name: [None if draw.random() < 0.2 else make.get(types[name], lambda: AT)() for _ in range(rows)]
        for name in LOOKED_UP
    }
    ages = [timedelta(0), timedelta(hours=6), timedelta(hours=6, microseconds=1), timedelta(days=3), timedelta(days=4),
            timedelta(days=60), timedelta(days=61), None]  # fmt: skip
    known_at = {
        t: [None if (a := draw.choice(ages)) is None else AT - a for _ in range(rows)] for t in VIEW_FEATURES
    }
    return values, {name: pa.array(column, types[name]) for name, column in values.items()}, known_at


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("with_ages", [True, False])
def test_rows_and_columns_are_filled_alike(seed, with_ages):
    values, columns, known_at = looked_up(seed)
    rows = len(values["network_departures_waiting"])
    ages = {"decision_at": [AT] * rows, "row_known_at": known_at} if with_ages else {}
    filled = fill_priors(columns, **ages)
    assert {name: array.type for name, array in filled.items()} == {n: a.type for n, a in columns.items()}
    for index in range(rows):
        one = (
            {"decision_at": AT, "row_known_at": {t: k[index] for t, k in known_at.items()}}
            if with_ages
            else {}
        )
        expected = fill_priors_row({name: column[index] for name, column in values.items()}, **one)
        assert {name: array[index].as_py() for name, array in filled.items()} == expected


@pytest.mark.parametrize("table", VIEW_FEATURES)
def test_a_row_answers_up_to_its_max_age_and_not_longer(table):
    name = VIEW_FEATURES[table][0]
    value = AT if name.endswith("_at") else 1
    max_age = FEATURE_TABLES[table].max_age
    for age, expected in ((max_age, value), (max_age + timedelta(microseconds=1), PRIORS[name])):
        known_at = {table: AT - age}
        assert fill_priors_row({name: value}, decision_at=AT, row_known_at=known_at) == {name: expected}
        column = pa.array([value], column_types()[name])
        filled = fill_priors({name: column}, decision_at=[AT], row_known_at={table: [AT - age]})
        assert filled[name].to_pylist() == [expected]


def test_a_row_of_the_future_is_refused():
    late = AT + timedelta(microseconds=1)
    with pytest.raises(VectorError, match="became known after the decision"):
        fill_priors_row({}, decision_at=AT, row_known_at={"dest_state": late})
    with pytest.raises(VectorError, match="became known after the decision"):
        fill_priors({}, decision_at=[AT], row_known_at={"dest_state": [late]})


def test_ages_need_the_decision():
    for fill, known_at in ((fill_priors, [AT]), (fill_priors_row, AT)):
        with pytest.raises(VectorError, match="needs decision_at"):
            fill({}, row_known_at={"dest_state": known_at})


def test_not_a_number_is_nothing_and_other_columns_pass():
    name, other = "dest_disrupted_share_6h", "departure_id"
    assert fill_priors_row({name: float("nan"), other: "x"}) == {name: 0.25, other: "x"}
    columns = {name: pa.chunked_array([[float("nan")], [0.5]]), other: pa.array(["x", None])}
    filled = fill_priors(columns)
    assert filled[name].to_pylist() == [0.25, 0.5]
    assert filled[other].to_pylist() == ["x", None]
