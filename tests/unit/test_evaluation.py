"""The metrics equal scikit-learn's; groups, reference and criteria are what they say."""

from __future__ import annotations

import math
from dataclasses import replace
from datetime import date

import numpy as np
import pyarrow as pa
import pytest
from sklearn import metrics as sk

from contrail import evaluation
from contrail.evaluation import EvaluationError, GroupMetrics, NaiveReference
from contrail.use_case import Criteria
from tests.support import small_model
from tests.support.small_model import USE_CASE

DRAW = np.random.default_rng(5)


def sample(kind: str):
    scores = DRAW.random(4_000)
    labels = DRAW.random(4_000) < scores * 0.6
    if kind == "ties":
        scores = np.round(scores, 1)
    if kind == "constant":
        scores = np.full(4_000, 0.25)
    return labels, scores


@pytest.mark.parametrize("kind", ["distinct", "ties", "constant"])
def test_metrics_equal_scikit_learn(kind):
    labels, scores = sample(kind)
    found = evaluation.metrics(labels, scores)
    assert found.auc == pytest.approx(sk.roc_auc_score(labels, scores), abs=1e-12)
    assert found.pr_auc == pytest.approx(sk.average_precision_score(labels, scores), abs=1e-12)
    assert found.log_loss == pytest.approx(sk.log_loss(labels, scores), abs=1e-12)
    assert found.brier == pytest.approx(sk.brier_score_loss(labels, scores), abs=1e-12)
    assert found.bias == pytest.approx(scores.mean() - labels.mean(), abs=1e-12)


def test_auc_by_hand():
    # pairs (positive, negative): .8>.3, .8>.5, .5>.3, .5=.5 -> 3.5 of 4
    assert evaluation.auc(np.array([True, False, True, False]), np.array([0.8, 0.3, 0.5, 0.5])) == 3.5 / 4


def test_calibration_error_by_hand():
    labels = np.array([False, False, True, True])
    scores = np.array([0.1, 0.1, 0.6, 0.6])
    mean, rate, rows = evaluation.calibration_bins(labels, scores, bins=2)
    np.testing.assert_allclose((mean, rate, rows), ([0.1, 0.6], [0.0, 1.0], [2, 2]))
    assert evaluation.calibration_error(labels, scores) == pytest.approx((0.1 + 0.4) / 2)


def test_what_cannot_be_said_is_not_a_number():
    one_kind = evaluation.metrics(np.array([True, True]), np.array([0.4, 0.6]))
    assert math.isnan(one_kind.auc)
    assert one_kind.pr_auc == 1.0
    nothing = evaluation.metrics(np.array([], dtype=bool), np.array([]))
    assert nothing.rows == 0
    assert math.isnan(nothing.log_loss)


@pytest.mark.parametrize("scores", [[0.1], [1.2, 0.3], [math.nan, 0.3], [-0.1, 0.3]])
def test_scores_that_are_no_probabilities_of_these_rows_are_refused(scores):
    with pytest.raises(EvaluationError):
        evaluation.metrics(np.array([True, False]), np.array(scores))


def test_the_naive_reference_is_the_smoothed_rate_of_the_group():
    rows = pa.table({"maker": ["n"] * 30 + ["s"] * 10, "shift": pa.array([1] * 40, pa.int32())})
    labels = np.array([True] * 15 + [False] * 25)
    naive = NaiveReference.learn(rows, ("maker", "shift"), labels)
    base, smoothing = 15 / 40, evaluation.SMOOTHING_ROWS
    asked = pa.table({"maker": ["s", "n", "unheard of", None], "shift": pa.array([1, 1, 1, 1], pa.int32())})
    expected = [smoothing * base / (10 + smoothing), (15 + smoothing * base) / (30 + smoothing), base, base]
    np.testing.assert_allclose(naive.predict(asked), expected)
    again = NaiveReference.from_dict(naive.to_dict())
    np.testing.assert_array_equal(again.predict(asked), naive.predict(asked))


def scored_rows() -> tuple[pa.Table, np.ndarray]:
    rows = small_model.rows(days=40)
    return rows, np.linspace(0.05, 0.9, rows.num_rows)


def test_groups_are_the_whole_the_months_and_the_large_slices():
    rows, scores = scored_rows()
    naive = NaiveReference.learn(rows, USE_CASE.naive_group_columns, np.array(rows.column("is_broken")))
    found = evaluation.evaluate(rows, scores, naive, USE_CASE, part="test")
    named = [(item.kind, item.group, item.model.rows) for item in found]
    assert named[:3] == [("all", "all", 1600), ("month", "2024-01", 31 * 40), ("month", "2024-02", 9 * 40)]
    assert [(kind, group) for kind, group, _ in named[3:]] == [("maker", "north"), ("maker", "south")]
    assert sum(n for kind, _, n in named if kind == "maker") == 1600
    january = np.array([day < date(2024, 2, 1) for day in rows.column("made_on").to_pylist()])
    labels = np.array(rows.column("is_broken"))
    assert found[1].model.auc == pytest.approx(sk.roc_auc_score(labels[january], scores[january]))
    assert found[1].naive.log_loss == pytest.approx(
        sk.log_loss(labels[january], naive.predict(rows)[january])
    )
    small = replace(USE_CASE, criteria=Criteria(min_slice_rows=10_000))
    assert len(evaluation.evaluate(rows, scores, naive, small, part="test")) == 3


def test_tables_and_flat_metrics_hold_the_same_numbers():
    rows, scores = scored_rows()
    naive = NaiveReference.learn(rows, USE_CASE.naive_group_columns, np.array(rows.column("is_broken")))
    found = evaluation.evaluate(rows, scores, naive, USE_CASE, part="test")
    flat = evaluation.flat_metrics(found)
    table = evaluation.evaluation_table(found).to_pylist()
    assert flat["test_auc"] == table[0]["auc"] == found[0].model.auc
    assert flat["test_month_2024_02_naive_log_loss"] == table[2]["naive_log_loss"]
    assert not [name for name in flat if "maker" in name]
    empty = evaluation.metrics(np.array([], dtype=bool), np.array([]))
    nothing = GroupMetrics("test", "all", "all", empty, empty)
    assert evaluation.evaluation_table([nothing]).to_pylist()[0]["auc"] is None
    assert evaluation.flat_metrics([nothing]) == {"test_rows": 0.0}


def test_intervals_are_those_of_the_days_drawn_and_hold_the_metric():
    rows, scores = scored_rows()
    naive = NaiveReference.learn(rows, USE_CASE.naive_group_columns, np.array(rows.column("is_broken")))
    found = evaluation.evaluate(rows, scores, naive, USE_CASE, part="test")
    assert set(found[0].intervals) == set(evaluation.INTERVALS)
    assert all(set(item.intervals) == set(evaluation.GROUP_INTERVALS) for item in found[1:])
    for item in found:
        for name, (low, high) in item.intervals.items():
            assert low < high
            if name != "ece":  # resampling only ever adds to it
                assert low < getattr(item.model, name) < high
    labels, days = np.array(rows.column("is_broken")), rows.column("made_on").to_numpy()
    wide = evaluation.intervals(labels, scores, days, 0.99, whole=False)
    assert wide["auc"][0] < found[0].intervals["auc"][0]
    one_day = evaluation.evaluate(rows.slice(0, 40), scores[:40], naive, USE_CASE, part="test")[0]
    assert evaluation.evaluation_table([one_day]).to_pylist()[0]["auc_low"] is None
    again = evaluation.evaluate(rows, scores, naive, USE_CASE, part="test")
    assert [item.intervals for item in again] == [item.intervals for item in found]


def test_the_logistic_reference_stands_beside_the_naive_one():
    rows, scores = scored_rows()
    labels = np.array(rows.column("is_broken"))
    naive = NaiveReference.learn(rows, USE_CASE.naive_group_columns, labels)
    logistic = np.where(labels, 0.6, 0.3)
    found = evaluation.evaluate(rows, scores, naive, USE_CASE, part="test", logistic=logistic)
    assert found[0].references == {"naive": found[0].naive, "logistic": evaluation.metrics(labels, logistic)}
    row = evaluation.evaluation_table(found).to_pylist()[0]
    assert row["logistic_auc"] == 1.0
    assert row["logistic_log_loss"] == pytest.approx(sk.log_loss(labels, logistic))
    flat = evaluation.flat_metrics(found)
    assert flat["test_logistic_auc"] == flat["test_month_2024_01_logistic_auc"] == 1.0
    assert flat["test_brier_low"] < flat["test_brier"] < flat["test_brier_high"]
    without = evaluation.evaluate(rows, scores, naive, USE_CASE, part="test")
    assert evaluation.evaluation_table(without).to_pylist()[0]["logistic_auc"] is None
    assert set(without[0].references) == {"naive"}
