"""The paired bootstrap tells a better model from an equal one, and names the slices where it is worse."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest
from scipy import stats
from sklearn import metrics as sk

from contrail.comparison import compare, holm
from contrail.evaluation import EvaluationError
from contrail.use_case import Criteria
from tests.support import small_model
from tests.support.small_model import USE_CASE

ROWS = small_model.rows(days=60)
LABELS = np.array(ROWS.column("is_broken"))
NORTH = np.array(ROWS.column("maker")) == "north"
DRAW = np.random.default_rng(3)
LOGIT = np.where(LABELS, 0.4, -1.4) + DRAW.normal(0.0, 1.0, len(LABELS))


def probability(logit: np.ndarray) -> np.ndarray:
    return 1 / (1 + np.exp(-logit))


CHAMPION = probability(LOGIT)
BETTER = probability(LOGIT + np.where(LABELS, 0.2, -0.2))


def test_a_better_model_gains_on_the_same_days_and_in_every_slice():
    found = compare(ROWS, BETTER, CHAMPION, replace(USE_CASE, criteria=Criteria(min_champion_slice_rows=500)))
    assert (found.days, found.rows, found.confidence) == (60, ROWS.num_rows, 0.95)
    assert found.gain == pytest.approx(sk.log_loss(LABELS, CHAMPION) - sk.log_loss(LABELS, BETTER))
    assert 0 < found.low < found.gain < found.high
    assert [(s.column, s.value, s.rows) for s in found.slices] == [
        ("maker", "north", int(NORTH.sum())),
        ("maker", "south", int((~NORTH).sum())),
    ]
    assert found.worse == ()
    turned = compare(ROWS, CHAMPION, BETTER, USE_CASE)
    assert (turned.gain, turned.low, turned.high) == pytest.approx((-found.gain, -found.high, -found.low))


def test_the_interval_is_that_of_a_paired_test_over_days():
    found = compare(ROWS, BETTER, CHAMPION, USE_CASE)
    losses = [
        np.where(LABELS, -np.log(scores), -np.log1p(-scores)).reshape(60, -1).mean(axis=1)
        for scores in (CHAMPION, BETTER)
    ]
    low, high = stats.ttest_rel(*losses).confidence_interval(0.95)
    assert (found.low, found.high) == pytest.approx((low, high), rel=0.1)
    unpaired = stats.ttest_ind(*losses).confidence_interval(0.95)
    assert found.high - found.low < 0.5 * (unpaired.high - unpaired.low), "pairing must pay"


def test_a_slice_on_which_the_challenger_is_worse_is_named_though_it_is_better_overall():
    split = probability(LOGIT + np.where(LABELS, 1.0, -1.0) * np.where(NORTH, -0.3, 1.0))
    cautious = replace(USE_CASE, criteria=Criteria(min_champion_slice_rows=500))
    found = compare(ROWS, split, CHAMPION, cautious)
    assert found.low > 0
    assert [(s.column, s.value) for s in found.worse] == [("maker", "north")]
    north = found.worse[0]
    assert north.high < 0
    assert north.p_value <= north.p_holm < 0.05
    assert (
        compare(
            ROWS, split, CHAMPION, replace(USE_CASE, criteria=Criteria(min_champion_slice_rows=10_000))
        ).slices
        == ()
    )


def test_equal_models_differ_nowhere_and_noise_is_not_significant():
    same = compare(ROWS, CHAMPION, CHAMPION, USE_CASE)
    assert (same.gain, same.low, same.high) == (0.0, 0.0, 0.0)
    slices = replace(USE_CASE, criteria=Criteria(min_champion_slice_rows=100))
    assert {s.p_value for s in compare(ROWS, CHAMPION, CHAMPION, slices).slices} == {1.0}
    noise = probability(LOGIT + DRAW.normal(0.0, 0.02, len(LABELS)))
    found = compare(ROWS, noise, CHAMPION, slices)
    assert found.low < 0 < found.high
    assert found.worse == ()


def test_the_same_question_has_the_same_answer():
    assert compare(ROWS, BETTER, CHAMPION, USE_CASE) == compare(ROWS, BETTER, CHAMPION, USE_CASE)
    assert (
        compare(ROWS, BETTER, CHAMPION, USE_CASE, seed=9).low != compare(ROWS, BETTER, CHAMPION, USE_CASE).low
    )


def test_one_day_is_no_evidence():
    one = ROWS.slice(0, 40)
    small = replace(USE_CASE, criteria=Criteria(min_champion_slice_rows=1))
    found = compare(one, BETTER[:40], CHAMPION[:40], small)
    assert found.days == 1
    assert math.isnan(found.low)
    assert found.worse == ()
    assert all(s.p_holm == 1.0 for s in found.slices)


def test_a_slice_of_one_day_is_no_evidence_among_sixty():
    first = np.arange(ROWS.num_rows) < 40
    named = small_model.column_replaced(
        ROWS,
        "maker",
        [
            "new" if is_first else m
            for is_first, m in zip(first, ROWS.column("maker").to_pylist(), strict=True)
        ],
    )
    worse = np.where(first, probability(LOGIT - np.where(LABELS, 2.0, -2.0)), CHAMPION)
    found = compare(named, worse, CHAMPION, replace(USE_CASE, criteria=Criteria(min_champion_slice_rows=40)))
    new = next(s for s in found.slices if s.value == "new")
    assert new.gain < -0.5
    assert math.isnan(new.p_value)
    assert math.isnan(new.low)
    assert found.worse == ()


def test_rows_and_scores_must_fit():
    with pytest.raises(EvaluationError, match="no rows"):
        compare(ROWS.slice(0, 0), np.array([]), np.array([]), USE_CASE)
    with pytest.raises(EvaluationError, match="2400 rows, but 3 scores"):
        compare(ROWS, CHAMPION[:3], CHAMPION, USE_CASE)


def test_plain_data_holds_everything():
    cautious = replace(USE_CASE, criteria=Criteria(min_champion_slice_rows=500))
    body = compare(ROWS, BETTER, CHAMPION, cautious).to_dict()
    assert body["slices"][0]["value"] == "north"
    assert set(body) == {"days", "rows", "confidence", "gain", "low", "high", "slices"}


def test_holm_by_hand():
    np.testing.assert_allclose(holm(np.array([0.01, 0.04, 0.03, 0.005])), [0.03, 0.06, 0.06, 0.02])
    np.testing.assert_allclose(holm(np.array([0.4, math.nan, 0.5])), [1.0, 1.0, 1.0])
    assert len(holm(np.array([]))) == 0
