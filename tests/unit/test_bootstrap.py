"""A draw of days gives what the rows, literally repeated, give; intervals cover what they should."""

from __future__ import annotations

import math
import time

import numpy as np
import pytest
from scipy import stats
from sklearn import metrics as sk

from contrail import evaluation
from contrail.bootstrap import DayDraws

DRAW = np.random.default_rng(11)
ROWS, DAYS = 600, 9


def sample(kind: str) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Labels, scores, days; scores distinct, or with many ties."""
    days = np.sort(DRAW.integers(0, DAYS, ROWS)) * 3 + 100
    scores = DRAW.random(ROWS)
    labels = DRAW.random(ROWS) < 0.2 + 0.5 * scores
    return labels, np.round(scores, 1) if kind == "ties" else scores, days


def repeated(draws: DayDraws, draw: int) -> np.ndarray:
    """Row numbers of one draw, each as often as its day was drawn."""
    return np.repeat(np.arange(len(draws.place)), draws.weights[draw][draws.place].astype(int))


@pytest.mark.parametrize("kind", ["distinct", "ties"])
def test_every_draw_is_the_metric_of_the_rows_repeated(kind):
    labels, scores, days = sample(kind)
    draws = DayDraws.of(days, draws=25)
    aucs = draws.aucs(labels, scores)
    precision, error = draws.curves(labels, scores, bins=10)
    squares = draws.means((scores - labels) ** 2)
    for draw in range(25):
        taken = repeated(draws, draw)
        assert aucs[draw] == pytest.approx(sk.roc_auc_score(labels[taken], scores[taken]), abs=1e-12)
        assert precision[draw] == pytest.approx(
            sk.average_precision_score(labels[taken], scores[taken]), abs=1e-12
        )
        assert error[draw] == pytest.approx(
            evaluation.calibration_error(labels[taken], scores[taken]), abs=1e-12
        )
        assert squares[draw] == pytest.approx(sk.brier_score_loss(labels[taken], scores[taken]), abs=1e-12)


def test_group_means_are_those_of_the_rows_repeated():
    labels, scores, days = sample("distinct")
    group = DRAW.integers(0, 3, ROWS)
    draws = DayDraws.of(days, draws=10)
    found = draws.group_means(scores, group, 4)
    for draw in range(10):
        taken = repeated(draws, draw)
        for value in range(3):
            assert found[draw, value] == pytest.approx(scores[taken][group[taken] == value].mean())
    assert np.isnan(found[:, 3]).all(), "no row is of the fourth group"
    assert labels.any()


def test_days_are_drawn_whole_and_the_same_for_the_same_seed():
    days = np.array(["2024-01-02", "2024-01-01", "2024-01-02"], dtype="datetime64[D]")
    draws = DayDraws.of(days, draws=200)
    assert draws.days == 2
    assert draws.place.tolist() == [1, 0, 1]
    assert (draws.weights.sum(axis=1) == 2).all()
    np.testing.assert_array_equal(draws.weights, DayDraws.of(days, draws=200).weights)
    assert (draws.weights != DayDraws.of(days, draws=200, seed=5).weights).any()


def test_the_interval_of_a_mean_is_that_of_the_theory_of_independent_days():
    per_day, count = 20, 400
    day_effect = DRAW.normal(0.0, 1.0, count)
    values = np.repeat(day_effect, per_day) + DRAW.normal(0.0, 0.1, count * per_day)
    draws = DayDraws.of(np.repeat(np.arange(count), per_day), draws=2_000)
    low, high = draws.interval(draws.means(values), 0.95)
    half = 1.96 * values.reshape(count, per_day).mean(axis=1).std(ddof=1) / math.sqrt(count)
    assert (low, high) == pytest.approx((values.mean() - half, values.mean() + half), abs=0.012)
    naive_half = 1.96 * values.std() / math.sqrt(len(values))
    assert (high - low) / 2 > 4 * naive_half, "rows of one day are no independent witnesses"
    wider = draws.interval(draws.means(values), 0.99)
    assert wider[0] < low < high < wider[1]


def test_few_days_still_cover_the_truth_nearly_as_often_as_promised():
    covered = plain = 0
    for seed in range(300):
        values = np.random.default_rng(seed).normal(0.0, 1.0, 8)
        draws = DayDraws.of(np.arange(8), seed=seed)
        means = draws.means(values)
        low, high = draws.interval(means, 0.9)
        covered += low < 0.0 < high
        low, high = np.quantile(means, [0.05, 0.95])
        plain += low < 0.0 < high
    assert covered / 300 == pytest.approx(0.9, abs=0.04)
    assert plain / 300 < 0.85, "ordinary percentiles promise too much"


def test_the_p_value_is_that_of_a_t_test_over_days():
    for days in (12, 60):
        values = DRAW.normal(0.4, 1.0, days)
        draws = DayDraws.of(np.arange(days), draws=20_000)
        expected = stats.ttest_1samp(values, 0.0).pvalue
        assert draws.p_value(draws.means(values)) == pytest.approx(expected, rel=0.35, abs=0.003)
    assert draws.p_value(draws.means(np.zeros(60))) == 1.0
    four = DayDraws.of(np.arange(4), draws=10_000)
    assert four.p_value(four.means(np.ones(4))) == 0.125, "four coins fall alike one time in eight"


def test_of_very_few_days_the_interval_is_students():
    for count in (2, 4, 5):
        values = DRAW.normal(0.2, 0.1, count)
        draws = DayDraws.of(np.arange(count), draws=20_000)
        means = draws.means(values)
        expected = stats.ttest_1samp(values, 0.0).confidence_interval(0.95)
        assert draws.interval(means, 0.95) == pytest.approx(tuple(expected), rel=0.05, abs=0.01)
        assert draws.p_value(means) >= 2 / 2**count
    five = np.array([0.1, 0.3, 0.2, 0.1, 0.4])
    low, _ = DayDraws.of(np.arange(5)).interval(DayDraws.of(np.arange(5)).means(five), 0.95)
    assert low < 0.1, "by chance all five days lie on one side one time in sixteen"


def test_what_has_rows_on_few_of_the_days_is_known_of_few():
    days = np.repeat(np.arange(60), 10)
    draws = DayDraws.of(days, draws=2_000)
    for count in (1, 3):
        on_few = (days < count).astype(np.int64)
        means = draws.group_means(np.where(on_few, -1.0, 0.0), on_few, 2)[:, 1]
        assert draws.p_value(means) < 0.01
        assert not draws.p_value(means, days=count) < 0.2
    one_day = draws.group_means(np.where(days < 1, -1.0, 0.0), (days < 1).astype(np.int64), 2)[:, 1]
    assert all(math.isnan(end) for end in draws.interval(one_day, 0.95, days=1))


def test_what_cannot_be_said_has_no_interval():
    labels, scores = np.array([True, True, False]), np.array([0.2, 0.4, 0.6])
    one_day = DayDraws.of(np.array([1, 1, 1]), draws=10)
    assert all(math.isnan(end) for end in one_day.interval(one_day.means(scores), 0.95))
    assert math.isnan(one_day.p_value(one_day.means(scores)))
    none = DayDraws.of(np.array([], dtype=int), draws=10)
    nothing = (np.array([], dtype=bool), np.array([]))
    assert np.isnan(none.means(nothing[1])).all()
    assert np.isnan(none.aucs(*nothing)).all()
    assert np.isnan(none.curves(*nothing, bins=10)[0]).all()
    of_one_kind = DayDraws.of(np.array([1, 2, 3]), draws=50)
    aucs = of_one_kind.aucs(labels, scores)
    assert np.isnan(aucs).any(), "a draw without the third day has positives only"
    assert set(aucs[~np.isnan(aucs)]) == {0.0}
    assert of_one_kind.interval(aucs, 0.95) == (0.0, 0.0)


def test_two_months_of_rows_take_little_cpu():
    rows = 20_000
    days = np.sort(DRAW.integers(0, 61, rows))
    scores = DRAW.random(rows)
    labels = DRAW.random(rows) < scores
    began = time.process_time()
    draws = DayDraws.of(days)
    draws.aucs(labels, scores)
    draws.curves(labels, scores, bins=10)
    draws.means(scores)
    assert time.process_time() - began < 3.0
