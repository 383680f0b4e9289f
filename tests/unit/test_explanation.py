"""SHAP values add up to the score, and name what the invented labels were made of."""

from __future__ import annotations

import numpy as np
import pytest

from contrail.explanation import shap_values
from tests.support import small_model

ROWS = small_model.rows(days=40)


@pytest.fixture(scope="module")
def model():
    return small_model.trained(small_model.rows())


def test_values_add_up_to_the_score_of_evenly_spaced_rows(model):
    found = shap_values(model.booster(), model.encoding, ROWS, limit=100)
    assert found.values.shape == found.inputs.shape == (100, 3)
    scores = 1 / (1 + np.exp(-(found.base + found.values.sum(axis=1))))
    chosen = np.linspace(0, ROWS.num_rows - 1, 100).astype(int)
    np.testing.assert_allclose(scores, model.predict(ROWS)[chosen], atol=1e-12)
    np.testing.assert_array_equal(found.inputs, model.encoding.matrix(ROWS)[chosen])
    assert (chosen[0], chosen[-1]) == (0, ROWS.num_rows - 1)


def test_importance_names_what_the_labels_were_made_of(model):
    importance = shap_values(model.booster(), model.encoding, ROWS).importance
    assert list(importance) == ["wall_mm", "colour", "batch_size"]
    assert importance["wall_mm"] > 3 * importance["batch_size"]


def test_few_rows_are_all_explained_and_none_is_no_error(model):
    assert len(shap_values(model.booster(), model.encoding, ROWS.slice(0, 7), limit=100).values) == 7
    nothing = shap_values(model.booster(), model.encoding, ROWS.slice(0, 0))
    assert nothing.values.shape == (0, 3)
    assert set(nothing.importance.values()) == {0.0}
