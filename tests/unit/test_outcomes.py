"""Outcomes: one row per prediction, whatever became of the thing it was about."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from datetime import UTC, date, datetime

import duckdb
import pytest

from contrail import duck, outcomes
from tests.support import small_model

USE_CASE = replace(
    small_model.USE_CASE,
    spine_sql="SELECT jar_id, maker, shift, made_on, decided_at, is_broken, outcome_known_at, batch_size FROM jars",
)
JARS = """
CREATE TABLE jars AS SELECT * FROM (VALUES
    ('jar-1', 'north', 1, DATE '2024-03-05', TIMESTAMPTZ '2024-03-05 10:00:00Z', true, TIMESTAMPTZ '2024-03-05 12:00:00Z', 5),
    ('jar-2', 'south', 2, DATE '2024-03-05', TIMESTAMPTZ '2024-03-05 09:00:00Z', NULL, NULL, 6),
    ('jar-4', 'south', 2, DATE '2024-03-06', TIMESTAMPTZ '2024-03-06 09:00:00Z', false, TIMESTAMPTZ '2024-03-06 12:00:00Z', 6)
) AS t(jar_id, maker, shift, made_on, decided_at, is_broken, outcome_known_at, batch_size)
"""
PREDICTIONS = """
CREATE TABLE predictions AS SELECT * FROM (VALUES
    ('p1', 'jar-1', DATE '2024-03-05', TIMESTAMPTZ '2024-03-05 10:00:00Z', 0.9),
    ('p2', 'jar-2', DATE '2024-03-05', TIMESTAMPTZ '2024-03-05 09:00:00Z', 0.1),
    ('p3', 'jar-3', DATE '2024-03-05', TIMESTAMPTZ '2024-03-05 09:00:00Z', 0.2),
    ('p4', 'jar-4', DATE '2024-03-06', TIMESTAMPTZ '2024-03-06 09:00:00Z', 0.3)
) AS t(prediction_id, jar_id, made_on, decided_at, score)
"""


@pytest.fixture
def con() -> Iterator[duckdb.DuckDBPyConnection]:
    with duck.connect(threads=1) as made:
        made.execute(JARS)
        made.execute(PREDICTIONS)
        yield made


def found(con: duckdb.DuckDBPyConnection, *days: str) -> list[dict[str, object]]:
    made = outcomes.outcomes(con, USE_CASE, predictions="predictions", days=days)
    return made.to_arrow_table().to_pylist()


def test_columns_are_those_that_no_score_row_has(con):
    assert outcomes.outcome_columns(USE_CASE) == ("is_broken", "outcome_known_at", "maker", "shift")
    made = outcomes.outcomes(con, USE_CASE, predictions="predictions", days=["2024-03-05"])
    assert made.columns == ["prediction_id", "jar_id", "made_on", "decided_at", "is_broken", "outcome_known_at",
                            "maker", "shift"]  # fmt: skip


def test_a_feature_among_the_groups_is_not_taken_twice():
    grouped = replace(USE_CASE, naive_group_columns=("maker", "colour"), slices=("maker", "shift"))
    assert outcomes.outcome_columns(grouped) == ("is_broken", "outcome_known_at", "maker", "shift")


def test_every_prediction_of_the_days_has_one_row(con):
    rows = found(con, "2024-03-05")
    assert [row["prediction_id"] for row in rows] == ["p2", "p3", "p1"], (
        "in the order of decisions, then of keys"
    )
    assert [row["prediction_id"] for row in found(con, "2024-03-05", "2024-03-06")] == [
        "p2",
        "p3",
        "p1",
        "p4",
    ]


def test_the_outcome_stands_beside_the_instant_it_became_known(con):
    by_id = {row["prediction_id"]: row for row in found(con, "2024-03-05")}
    assert by_id["p1"]["is_broken"] is True
    assert by_id["p1"]["outcome_known_at"] == datetime(2024, 3, 5, 12, tzinfo=UTC)
    assert by_id["p1"]["made_on"] == date(2024, 3, 5)


def test_unknown_is_null_and_so_is_what_has_left_the_source(con):
    by_id = {row["prediction_id"]: row for row in found(con, "2024-03-05")}
    assert (by_id["p2"]["is_broken"], by_id["p2"]["outcome_known_at"], by_id["p2"]["maker"]) == (
        None,
        None,
        "south",
    )
    assert (by_id["p3"]["is_broken"], by_id["p3"]["outcome_known_at"], by_id["p3"]["maker"]) == (
        None,
        None,
        None,
    )


def test_predictions_of_two_models_for_one_thing_both_have_a_row(con):
    con.execute(
        "INSERT INTO predictions SELECT 'p1b', jar_id, made_on, decided_at, 0.5 FROM predictions WHERE prediction_id = 'p1'"
    )
    assert sum(row["is_broken"] is True for row in found(con, "2024-03-05")) == 2
