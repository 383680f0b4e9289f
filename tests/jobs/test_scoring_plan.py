"""When a day's rows are due to be scored: each model by its own decisions, as far as the feeds are complete."""

from __future__ import annotations

from datetime import UTC, date, datetime, time, timedelta
from pathlib import Path

import pyarrow as pa
import pytest

from contrail import registry
from contrail.lake import Commit, Lake
from contrail.use_case import UseCase
from feature_repo.use_cases import LATE_FLIGHT_2H, LATE_FLIGHT_DAY_AHEAD, USE_CASES
from jobs import scoring_plan
from tests.support import small_model

FIRST, DAYS = date(2024, 3, 10), 4  # after the training range of the small model
LAST = FIRST + timedelta(days=DAYS - 1)
INSTANT = pa.timestamp("us", tz="UTC")


def feed_day_ends(day: date) -> datetime:
    return datetime.combine(day + timedelta(days=1), time(7), UTC)


@pytest.fixture
def lake(tmp_path: Path) -> Lake:
    """One departure a day at 17:00 UTC, scheduled the evening before; every use case has a champion."""
    lake = Lake(tmp_path / "lake")
    days = [FIRST + timedelta(days=n) for n in range(DAYS)]
    evenings = [datetime.combine(day - timedelta(days=1), time(22), UTC) for day in days]
    due = [datetime.combine(day, time(17), UTC) for day in days]
    rows = pa.table(
        {
            "departure_id": [f"{day:%Y%m%d}-UA-1-EWR" for day in days],
            "service_date": pa.array(days, pa.date32()),
            **{name: ["x"] * DAYS for name in ("carrier", "origin", "dest")},
            "tail_number": pa.nulls(DAYS, pa.string()),
            "tail_known_at": pa.nulls(DAYS, INSTANT),
            "flight_number": pa.array([1] * DAYS, pa.int32()),
            **{
                name: pa.array([60] * DAYS, pa.int32())
                for name in ("distance_miles", "scheduled_departure_minute_local", "scheduled_block_minutes")
            },
            "scheduled_departure_at": pa.array(due, INSTANT),
            "origin_time_zone": ["America/New_York"] * DAYS,
            "is_disrupted": pa.nulls(DAYS, pa.bool_()),
            "outcome_known_at": pa.nulls(DAYS, INSTANT),
            # The last day's file came when all was over: nobody knew of that departure at any decision.
            "created_at": pa.array([*evenings[:-1], feed_day_ends(LAST)], INSTANT),
            "is_retracted": [False] * DAYS,
        }
    )
    lake.create(scoring_plan.SPINE_TABLE, rows.schema, partition_by=["service_date"])
    lake.append(
        scoring_plan.SPINE_TABLE, rows, Commit(scoring_plan.SPINE_TABLE, "run", (), f"{FIRST}..{LAST}")
    )
    model = small_model.stored(lake.root)
    assert model.train_end < FIRST
    for name in USE_CASES:
        registry.register(
            name, model.sha256, lake, decided_at=small_model.NOW, decided_by="test", reason="test",
            commit=Commit(registry.TABLE, "run", ()),
        )  # fmt: skip
    return lake


def last_due(lake: Lake, use_case: UseCase, feeds_until: date) -> str:
    """The last day that is due to be scored once the feed day has landed."""
    (step,), notes = scoring_plan.model_steps(lake, use_case, feed_day_ends(feeds_until))
    assert not notes
    assert step.job == f"score_{use_case.name}"
    assert step.first == FIRST.isoformat()
    return step.last


def test_the_day_ahead_scores_a_day_before_its_feed_has_landed_and_the_short_horizon_does_not(
    lake: Lake,
) -> None:
    for landed in (FIRST, FIRST + timedelta(days=1)):
        assert last_due(lake, LATE_FLIGHT_2H, landed) == landed.isoformat()
        assert last_due(lake, LATE_FLIGHT_DAY_AHEAD, landed) == (landed + timedelta(days=1)).isoformat()


def test_a_departure_that_nobody_knew_at_its_decision_is_scored_all_the_same(lake: Lake) -> None:
    assert last_due(lake, LATE_FLIGHT_2H, LAST) == LAST.isoformat()
    assert last_due(lake, LATE_FLIGHT_DAY_AHEAD, LAST) == LAST.isoformat()
