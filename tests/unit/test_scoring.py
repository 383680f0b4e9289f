"""What is due, what a score row is, and that a rerun gives the same rows."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime, timedelta, timezone

import numpy as np
import pyarrow as pa
import pytest

from contrail import model_files, scoring
from contrail.encoding import EncodingError
from contrail.scoring import ScoringError
from tests.support import small_model
from tests.support.small_model import NOW, USE_CASE, stored, trained

ROWS = small_model.rows()
NONE_SCORED = pa.table({"jar_id": pa.array([], pa.string()), "model_sha256": pa.array([], pa.string())})


@pytest.fixture(scope="module")
def lake_root(tmp_path_factory):
    return tmp_path_factory.mktemp("lake")


@pytest.fixture(scope="module")
def model(lake_root) -> model_files.LoadedModel:
    return stored(lake_root, trained(ROWS))


@pytest.fixture(scope="module")
def other(lake_root) -> model_files.LoadedModel:
    return stored(lake_root, trained(ROWS, small_model.another_seed(8)))


def due(model: model_files.LoadedModel, scored: pa.Table = NONE_SCORED, until: datetime = NOW) -> pa.Table:
    return scoring.due(ROWS, USE_CASE, model=model, complete_until=until, scored=scored)


# --- identity -----------------------------------------------------------------------------------------------


def test_a_prediction_id_is_what_it_always_was():
    at = datetime(2024, 3, 5, 12, tzinfo=UTC)
    found = scoring.prediction_id("broken_jar", "jar-00001", at, "a" * 64)
    # sha256 of "broken_jar|jar-00001|2024-03-05T12:00:00+00:00|aaa…", first 32 digits: stored rows depend on it
    assert found == "91b6b96779320c303ab92871c0c7c9a5"
    assert found == scoring.prediction_id(
        "broken_jar", "jar-00001", at.astimezone(timezone(timedelta(hours=5))), "a" * 64
    )


@pytest.mark.parametrize(
    "other_question",
    [
        ("full_jar", "jar-00001", datetime(2024, 3, 5, 12, tzinfo=UTC), "a" * 64),
        ("broken_jar", "jar-00002", datetime(2024, 3, 5, 12, tzinfo=UTC), "a" * 64),
        ("broken_jar", "jar-00001", datetime(2024, 3, 5, 13, tzinfo=UTC), "a" * 64),
        ("broken_jar", "jar-00001", datetime(2024, 3, 5, 12, tzinfo=UTC), "b" * 64),
    ],
)
def test_every_part_of_the_question_is_in_the_id(other_question):
    asked = scoring.prediction_id("broken_jar", "jar-00001", datetime(2024, 3, 5, 12, tzinfo=UTC), "a" * 64)
    assert scoring.prediction_id(*other_question) != asked


# --- scores -------------------------------------------------------------------------------------------------


def test_a_model_whose_features_mean_something_else_by_now_may_not_score(model):
    changed = replace(USE_CASE, feature_code=lambda: {"jar_state": "1" * 64})
    with pytest.raises(ScoringError, match="broken_jar version 4 may not score: .* jar_state is new"):
        scoring.score(model, ROWS.slice(3_000, 10), changed, version=4)


def test_a_score_row_holds_all_that_a_trace_needs(model):
    vectors = ROWS.slice(3_000, 100)
    found = scoring.score(model, vectors, USE_CASE, version=4)
    assert found.schema == scoring.score_schema(USE_CASE)
    first = found.to_pylist()[0]
    assert first["jar_id"] == "jar-03000"
    assert (first["model_name"], first["model_version"], first["model_sha256"]) == (
        "broken_jar",
        4,
        model.sha256,
    )
    assert (first["horizon_minutes"], first["feature_service"]) == (60, "broken_jar")
    assert first["prediction_id"] == scoring.prediction_id(
        "broken_jar", "jar-03000", first["decided_at"], model.sha256
    )
    np.testing.assert_array_equal(found.column("score").to_numpy(), model.predict(vectors))
    np.testing.assert_array_equal(found.column("wall_mm").to_pylist(), vectors.column("wall_mm").to_pylist())
    decisions = np.array(found.column("decision").to_pylist())
    np.testing.assert_array_equal(decisions, found.column("score").to_numpy() >= USE_CASE.decision_threshold)
    assert decisions.any()
    assert not decisions.all()


def test_no_personal_or_label_column_is_stored(model):
    personal = replace(USE_CASE, personal=("maker",))
    found = scoring.score(model, ROWS.slice(0, 10), personal, version=1)
    assert not {"maker", "is_broken", "outcome_known_at"} & set(found.column_names)


def test_the_same_vectors_in_another_order_give_the_same_table(model):
    vectors = ROWS.slice(3_000, 200)
    shuffled = vectors.take(pa.array(np.random.default_rng(1).permutation(200)))
    assert scoring.score(model, shuffled, USE_CASE, version=1).equals(
        scoring.score(model, vectors, USE_CASE, version=1)
    )


def test_chunks_do_not_change_scores(model, monkeypatch):
    whole = model.predict(ROWS)
    monkeypatch.setattr("contrail.encoding.PREDICT_ROWS", 777)
    np.testing.assert_array_equal(model.predict(ROWS), whole)


def test_no_rows_give_an_empty_table_of_the_same_shape(model):
    found = scoring.score(model, ROWS.slice(0, 0), USE_CASE, version=1)
    assert (found.num_rows, found.schema) == (0, scoring.score_schema(USE_CASE))


def test_another_feature_order_is_refused(model):
    swapped = replace(USE_CASE, features=("colour", "wall_mm", "batch_size"))
    with pytest.raises(ScoringError, match="another order"):
        scoring.score(model, ROWS.slice(0, 5), swapped, version=1)


def test_a_missing_column_is_refused_and_missing_values_by_policy(model):
    with pytest.raises(EncodingError, match="batch_size is missing"):
        scoring.score(model, ROWS.slice(0, 5).drop_columns(["batch_size"]), USE_CASE, version=1)
    strict = replace(USE_CASE, missing_policy="refuse")
    with pytest.raises(ScoringError, match="wall_mm"):
        scoring.score(model, ROWS, strict, version=1)
    whole = ROWS.filter(pa.array([v is not None for v in ROWS.column("wall_mm").to_pylist()]))
    assert scoring.score(model, whole, strict, version=1).num_rows == whole.num_rows


# --- due ----------------------------------------------------------------------------------------------------


def test_due_is_after_the_training_range_and_before_complete_until(model):
    until = datetime(2024, 3, 20, 12, tzinfo=UTC)
    found = due(model, until=until)
    decided = found.column("decided_at").to_pylist()
    assert min(decided) == model.trained_until == datetime(2024, 3, 1, tzinfo=UTC)
    assert max(decided) == until - timedelta(minutes=30)
    expected = [t for t in ROWS.column("decided_at").to_pylist() if model.trained_until <= t < until]
    assert len(decided) == len(expected)


def test_a_day_of_the_training_range_is_not_due_even_when_decided_later(model):
    last_training_day = model.train_end - timedelta(days=1)
    row = ROWS.slice(3_000, 1)
    row = small_model.column_replaced(row, "made_on", [last_training_day])
    assert scoring.due(row, USE_CASE, model=model, complete_until=NOW, scored=NONE_SCORED).num_rows == 0


def test_what_has_a_score_is_not_due(model):
    half = due(model).slice(0, 500)
    scored = scoring.score(model, half, USE_CASE, version=1)
    rest = due(model, scored)
    assert rest.num_rows == due(model).num_rows - 500
    assert not set(rest.column("jar_id").to_pylist()) & set(half.column("jar_id").to_pylist())


def test_a_rerun_stays_with_the_model_that_scored(model, other):
    day = due(model).slice(0, 40)
    first = scoring.assign(day, USE_CASE, model=model, complete_until=NOW, scored=NONE_SCORED)
    assert {sha: rows.num_rows for sha, rows in first.items()} == {model.sha256: 40}
    scored = scoring.score(model, day, USE_CASE, version=1)
    # another model is champion by now
    again = scoring.assign(day, USE_CASE, model=other, complete_until=NOW, scored=scored)
    assert list(again) == [model.sha256]
    assert scoring.score(model, again[model.sha256], USE_CASE, version=1).equals(scored)
    # half of the day had no score yet: that half is the new champion's
    mixed = scoring.assign(day, USE_CASE, model=other, complete_until=NOW, scored=scored.slice(0, 25))
    assert {sha: rows.num_rows for sha, rows in mixed.items()} == {model.sha256: 25, other.sha256: 15}
    more = scoring.assign(day, USE_CASE, model=model, complete_until=NOW, scored=scored.slice(0, 25))
    assert {sha: rows.num_rows for sha, rows in more.items()} == {model.sha256: 40}


def test_two_scores_of_one_entity_are_refused(model, other):
    day = due(model).slice(0, 5)
    twice = pa.concat_tables(
        [scoring.score(model, day, USE_CASE, version=1), scoring.score(other, day, USE_CASE, version=2)]
    )
    with pytest.raises(ScoringError, match="more than one score"):
        scoring.assign(day, USE_CASE, model=other, complete_until=NOW, scored=twice)
