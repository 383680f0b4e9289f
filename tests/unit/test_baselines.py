"""The logistic reference equals an ordinary scikit-learn pipeline, and learns from the training part only."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pyarrow as pa
import pytest
from sklearn.compose import make_column_transformer
from sklearn.impute import SimpleImputer
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import OneHotEncoder, StandardScaler

from contrail import baselines, evaluation
from contrail.baselines import LogisticReference
from contrail.evaluation import EvaluationError
from tests.support import small_model
from tests.support.small_model import USE_CASE

ROWS = small_model.rows(days=40)
LABELS = np.array(ROWS.column("is_broken"))
TRAINING = np.arange(1_000)


def test_scores_equal_those_of_a_scikit_learn_pipeline():
    frame = ROWS.select(list(USE_CASE.features)).to_pandas()
    frame["is_missing"] = frame["wall_mm"].isna().astype(float)
    numbers = make_pipeline(SimpleImputer(strategy="median"), StandardScaler())
    peer = make_pipeline(
        make_column_transformer(
            (numbers, ["wall_mm", "batch_size"]),
            ("passthrough", ["is_missing"]),
            (OneHotEncoder(handle_unknown="ignore"), ["colour"]),
        ),
        LogisticRegression(C=1.0, tol=1e-10, max_iter=1_000),
    ).fit(frame[:1_000], LABELS[:1_000])
    found = LogisticReference.learn(ROWS, TRAINING, USE_CASE)
    np.testing.assert_allclose(found.predict(ROWS), peer.predict_proba(frame)[:, 1], atol=2e-4)
    assert evaluation.auc(LABELS[1_000:], found.predict(ROWS)[1_000:]) > 0.7


def test_the_same_rows_give_the_same_weights_and_others_are_not_seen():
    first = LogisticReference.learn(ROWS, TRAINING, USE_CASE)
    later = ROWS.slice(0, 1_000)
    spoilt = small_model.column_replaced(ROWS.slice(1_000), "wall_mm", [99.0] * (ROWS.num_rows - 1_000))
    second = LogisticReference.learn(pa.concat_tables([later, spoilt]), TRAINING, USE_CASE)
    np.testing.assert_array_equal(first.predict(ROWS), second.predict(ROWS))


def test_what_was_never_seen_is_scored_all_the_same():
    found = LogisticReference.learn(ROWS, TRAINING, USE_CASE)
    odd = pa.table({"wall_mm": [None, 3.0], "batch_size": [10, None], "colour": ["violet", None]}).cast(
        pa.schema([("wall_mm", pa.float64()), ("batch_size", pa.int32()), ("colour", pa.string())])
    )
    scores = found.predict(odd)
    assert ((scores > 0) & (scores < 1)).all()


def test_a_feature_that_is_never_there_or_constant_weighs_nothing():
    hollow = small_model.column_replaced(ROWS, "wall_mm", [None] * ROWS.num_rows)
    level = small_model.column_replaced(hollow, "batch_size", [7] * ROWS.num_rows)
    found = LogisticReference.learn(level, TRAINING, USE_CASE)
    assert found.weights.tolist() == [0.0, 0.0]
    assert np.isfinite(found.predict(ROWS)).all()


def test_many_rows_are_thinned_out_evenly(monkeypatch):
    monkeypatch.setattr(baselines, "MAX_ROWS", 500)
    thinned = LogisticReference.learn(ROWS, TRAINING, USE_CASE)
    by_hand = LogisticReference.learn(ROWS, np.linspace(0, 999, 500).astype(int), USE_CASE)
    np.testing.assert_array_equal(thinned.predict(ROWS), by_hand.predict(ROWS))


def test_labels_of_one_kind_are_refused():
    broken = np.flatnonzero(LABELS)
    with pytest.raises(EvaluationError, match="both kinds"):
        LogisticReference.learn(ROWS, broken, USE_CASE)


def test_numbers_alone_do_too():
    plain = replace(USE_CASE, features=("wall_mm",), categorical=())
    assert evaluation.auc(LABELS, LogisticReference.learn(ROWS, TRAINING, plain).predict(ROWS)) > 0.6
