"""Joined rows become vectors: what is computed, what is filled, and when what was looked up was known."""

from __future__ import annotations

from datetime import UTC, date, datetime, timedelta

import pyarrow as pa
import pytest

from features.completion import complete_rows
from features.vectors import PRIORS

AT = datetime(2013, 3, 8, 20, 15, tzinfo=UTC)
INSTANT = pa.timestamp("us", tz="UTC")
SHARE = "dest_disrupted_share_6h"


def joined() -> pa.Table:
    """Three rows: two looked-up tables, one of them, none."""
    before = [AT - timedelta(minutes=minutes) for minutes in range(4)]
    return pa.table(
        {
            "departure_id": ["a", "b", "c"],
            "carrier": ["UA", "B6", "UA"],
            "origin": ["EWR", "JFK", "EWR"],
            "dest": ["ORD", "BOS", "ORD"],
            "service_date": pa.array([date(2013, 3, 8)] * 3, pa.date32()),
            "scheduled_departure_minute_local": pa.array([1035, 60, 0], pa.int32()),
            SHARE: [0.5, None, None],
            "weather_temp_f": [None, 40.0, None],
            "known_1": pa.array([before[2], None, None], INSTANT),
            "created_1": pa.array([before[1], None, None], INSTANT),
            "known_2": pa.array([before[3], before[3], None], INSTANT),
        }
    )


def test_a_vector_without_aircraft_needs_none_of_its_columns() -> None:
    features = ["dest", "schedule_day_of_week", SHARE, "weather_temp_f"]
    made = complete_rows(joined().drop_columns(["known_1", "created_1", "known_2"]), features)
    assert made.column_names == [
        "departure_id", "carrier", "origin", "service_date", "scheduled_departure_minute_local", *features,
    ]  # fmt: skip
    assert made["schedule_day_of_week"].to_pylist() == [5, 5, 5]
    assert made[SHARE].to_pylist() == [0.5, PRIORS[SHARE], PRIORS[SHARE]]
    assert made["weather_temp_f"].to_pylist() == [None, 40.0, None]
    with pytest.raises(KeyError, match="scheduled_departure_at"):
        complete_rows(joined(), ["aircraft_stage"])


def test_the_greatest_time_of_what_was_looked_up_stands_last_and_null_where_nothing_was() -> None:
    times = ["known_1", "created_1", "known_2"]
    made = complete_rows(joined(), [SHARE], ["features_known_at"], times)
    assert made.column_names[-2:] == [SHARE, "features_known_at"]
    assert not set(times) & set(made.column_names)
    assert made["features_known_at"].to_pylist() == [
        AT - timedelta(minutes=1),
        AT - timedelta(minutes=3),
        None,
    ]
    empty = complete_rows(joined().slice(0, 0), [SHARE], ["features_known_at"], times)
    assert empty.schema == made.schema


def test_a_vector_of_the_request_alone_was_looked_up_nowhere() -> None:
    made = complete_rows(joined(), ["carrier", "schedule_day_of_week"], ["features_known_at"])
    assert made["features_known_at"].to_pylist() == [None] * 3
    assert made.schema.field("features_known_at").type == INSTANT
