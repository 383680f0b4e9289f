"""The rates by slice equal fairlearn's own; small groups are left out."""

from __future__ import annotations

from dataclasses import replace

import fairlearn.metrics as fl
import numpy as np
import pyarrow as pa
import pytest
from sklearn.metrics import precision_score

from contrail import fairness
from contrail.evaluation import EvaluationError
from contrail.fairness import DIFFERENCE, SCHEMA
from contrail.use_case import Criteria
from tests.support import small_model
from tests.support.small_model import USE_CASE

ROWS = small_model.rows(days=20)
LABELS = np.array(ROWS.column("is_broken"))
MAKER = np.array(ROWS.column("maker"))
SCORES = np.clip(np.where(LABELS, 0.55, 0.35) + np.random.default_rng(2).normal(0, 0.2, len(LABELS)), 0, 1)


def test_rates_and_differences_equal_fairlearns():
    found = fairness.by_slice(ROWS, SCORES, USE_CASE)
    assert found.schema == SCHEMA
    north, south, difference = found.to_pylist()
    decisions = np.greater_equal(SCORES, USE_CASE.decision_threshold)
    for name, row in (("north", north), ("south", south)):
        of = name == MAKER
        assert (row["kind"], row["group"], row["is_difference"], row["rows"]) == (
            "maker",
            name,
            False,
            of.sum(),
        )
        assert row["selection_rate"] == pytest.approx(fl.selection_rate(LABELS[of], decisions[of]))
        assert row["true_positive_rate"] == pytest.approx(fl.true_positive_rate(LABELS[of], decisions[of]))
        assert row["false_positive_rate"] == pytest.approx(fl.false_positive_rate(LABELS[of], decisions[of]))
        assert row["precision"] == pytest.approx(precision_score(LABELS[of], decisions[of]))
        assert row["bias"] == pytest.approx(SCORES[of].mean() - LABELS[of].mean())
    assert (difference["group"], difference["is_difference"]) == (DIFFERENCE, True)
    assert difference["selection_rate"] == pytest.approx(
        fl.demographic_parity_difference(LABELS, decisions, sensitive_features=MAKER)
    )
    both = max(difference["true_positive_rate"], difference["false_positive_rate"])
    assert both == pytest.approx(fl.equalized_odds_difference(LABELS, decisions, sensitive_features=MAKER))


def test_small_groups_are_left_out():
    rare = small_model.column_replaced(ROWS, "maker", ["west"] * 10 + MAKER.tolist()[10:])
    found = fairness.by_slice(rare, SCORES, USE_CASE).column("group").to_pylist()
    assert found == ["north", "south", DIFFERENCE]
    alone = replace(USE_CASE, criteria=Criteria(min_slice_rows=400))
    uneven = small_model.column_replaced(ROWS, "maker", ["north"] * 401 + ["south"] * 399)
    assert fairness.by_slice(uneven, SCORES, alone).column("group").to_pylist() == ["north"]
    none = replace(USE_CASE, criteria=Criteria(min_slice_rows=10_000))
    assert fairness.by_slice(ROWS, SCORES, none).num_rows == 0


def test_what_cannot_be_said_is_null():
    shy = np.where(MAKER == "north", 0.1, SCORES)
    north = fairness.by_slice(ROWS, shy, USE_CASE).to_pylist()[0]
    assert north["selection_rate"] == 0.0
    assert north["precision"] is None
    sound = small_model.column_replaced(ROWS, "is_broken", [False] * ROWS.num_rows)
    assert pa.compute.all(
        fairness.by_slice(sound, SCORES, USE_CASE).column("true_positive_rate").is_null()
    ).as_py()


def test_every_row_needs_a_score():
    with pytest.raises(EvaluationError, match="800 rows but 3 scores"):
        fairness.by_slice(ROWS, SCORES[:3], USE_CASE)
