"""Training is a function of its rows: same rows, same bytes; and no row teaches what was not yet known."""

from __future__ import annotations

import json
import multiprocessing
from concurrent.futures import ProcessPoolExecutor
from dataclasses import replace
from datetime import UTC, date, datetime, timedelta

import numpy as np
import pyarrow as pa
import pytest

from contrail import training
from contrail.encoding import EncodingError
from contrail.recipe import TrainingError, lightgbm_parameters
from contrail.use_case import LearningParameters
from tests.support import small_model
from tests.support.small_model import NOW, USE_CASE, column_replaced, trained

ROWS = small_model.rows()


@pytest.fixture(scope="module")
def model() -> training.TrainedModel:
    return trained(ROWS)


# --- the split ----------------------------------------------------------------------------------------------


def test_a_year_is_cut_into_eight_two_and_two_months():
    cuts = training.split_by_time(date(2013, 1, 1), date(2013, 12, 31), USE_CASE)
    assert cuts == training.Cuts(date(2013, 1, 1), date(2013, 9, 1), date(2013, 11, 1), date(2014, 1, 1))


@pytest.mark.parametrize(
    ("days", "words"),
    [(30, "give 20 training days; at least 28"), (1, "0 training days")],
)
def test_too_short_a_range_is_refused(days, words):
    with pytest.raises(TrainingError, match=words):
        training.split_by_time(date(2024, 1, 1), date(2024, 1, 1) + timedelta(days=days - 1), USE_CASE)


def test_a_range_without_a_validation_day_is_refused():
    short = replace(USE_CASE, min_training_days=1)
    with pytest.raises(TrainingError, match="too few for a validation"):
        training.split_by_time(date(2024, 1, 1), date(2024, 1, 2), short)


def test_parts_follow_each_other_in_time():
    split = training.split_rows(ROWS, USE_CASE, labels_until=NOW)
    days = np.array(ROWS.column("made_on").to_pylist())
    for part, start, end in (
        ("train", split.cuts.first, split.cuts.train_end),
        ("validate", split.cuts.train_end, split.cuts.validate_end),
        ("test", split.cuts.validate_end, split.cuts.test_end),
    ):
        of_part = days[split.rows[part]]
        assert of_part.min() == start
        assert of_part.max() == end - timedelta(days=1)
    assert sum(map(len, split.rows.values())) + sum(split.dropped.values()) == ROWS.num_rows


def test_a_row_whose_outcome_was_unknown_at_the_cut_teaches_nothing(model):
    split = training.split_rows(ROWS, USE_CASE, labels_until=NOW)
    known = ROWS.column("outcome_known_at").to_pylist()
    cut = split.trained_until
    assert cut == datetime(2024, 3, 1, tzinfo=UTC)
    assert max(known[i] for i in split.rows["train"]) < cut
    # 29 February: 40 jars, every 30 minutes; of 18:30..19:30 the outcome comes with or after midnight of another day.
    before = [i for i, day in enumerate(ROWS.column("made_on").to_pylist()) if day < split.cuts.train_end]
    late = [i for i in before if known[i] >= cut]
    assert split.dropped["train"] == len(late) == model.dropped_rows

    exactly = list(known)
    moved = int(split.rows["train"][-1])
    exactly[moved] = cut
    again = training.split_rows(
        column_replaced(ROWS, "outcome_known_at", exactly), USE_CASE, labels_until=NOW
    )
    assert moved not in again.rows["train"]
    assert again.dropped["train"] == split.dropped["train"] + 1


def test_labels_that_do_not_exist_yet_are_in_no_part():
    until = datetime(2024, 3, 20, tzinfo=UTC)
    split = training.split_rows(ROWS, USE_CASE, labels_until=until)
    known = ROWS.column("outcome_known_at").to_pylist()
    assert max(known[i] for i in split.rows["test"]) < until
    assert split.dropped["test"] > 0


def test_changed_labels_after_the_cut_change_no_byte(model):
    days = ROWS.column("made_on").to_pylist()
    flipped = [
        (not y if day >= model.cuts.train_end else y)
        for y, day in zip(ROWS.column("is_broken").to_pylist(), days, strict=True)
    ]
    assert trained(column_replaced(ROWS, "is_broken", flipped)).sha256 == model.sha256


def test_faulty_training_sets_are_refused():
    with pytest.raises(TrainingError, match="has no rows"):
        training.split_rows(ROWS.slice(0, 0), USE_CASE, labels_until=NOW)
    with pytest.raises(TrainingError, match="jar_id repeats"):
        training.split_rows(pa.concat_tables([ROWS, ROWS.slice(0, 1)]), USE_CASE, labels_until=NOW)
    holes = [None, *ROWS.column("is_broken").to_pylist()[1:]]
    with pytest.raises(TrainingError, match="no is_broken"):
        training.split_rows(column_replaced(ROWS, "is_broken", holes), USE_CASE, labels_until=NOW)
    with pytest.raises(TrainingError, match="no outcome was known before 2024"):
        training.split_rows(ROWS, USE_CASE, labels_until=datetime(2023, 1, 1, tzinfo=UTC))
    with pytest.raises(TrainingError, match="all .* training labels are False"):
        trained(column_replaced(ROWS, "is_broken", [False] * ROWS.num_rows))


# --- the fit ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("threads", [1, 2, 4])
def test_any_number_of_threads_and_any_order_of_rows_give_the_same_bytes(model, threads):
    order = np.random.default_rng(threads).permutation(ROWS.num_rows)
    again = trained(ROWS.take(pa.array(order)), threads=threads)
    assert again.text == model.text
    assert (again.recipe.threads, again.parameters["num_threads"]) == (threads, threads)


def _sha256s(threads: tuple[int, ...]) -> list[str]:
    """For a process that knows nothing of this one."""
    return [trained(threads=number).sha256 for number in threads]


def test_a_second_process_gives_the_same_bytes(model):
    # Spawned, never forked: delta-rs and OpenMP do not work in a forked child.
    with ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn")) as pool:
        assert pool.submit(_sha256s, (1, 2, 4)).result() == [model.sha256] * 3


@pytest.fixture(scope="module")
def large() -> tuple[np.ndarray, np.ndarray]:
    """A matrix of so many rows that LightGBM sums them in several blocks, one per thread; and minutes with a long tail."""
    draw = np.random.default_rng(11)
    matrix = draw.normal(size=(100_000, 10))
    return matrix, np.exp(draw.normal(0.0, 1.5, len(matrix))) * 10 + matrix[:, 0]


def test_threads_do_not_matter_where_each_sums_its_own_block(large):
    matrix, minutes = large
    recipe = replace(
        trained(ROWS).recipe,
        features=tuple(f"f{i}" for i in range(10)), categorical=(), learning=LearningParameters(rounds=5),
    )  # fmt: skip
    texts = {
        training.canonical(
            training.grow(matrix, minutes > 15, replace(recipe, threads=threads)).model_to_string()
        )
        for threads in (1, 2, 4)
    }
    assert len(texts) == 1


def test_the_canary_differs(large):
    """That the test above can fail: where sums are not exact, the number of threads shows in the bytes.

    The models of this project are learnt without weights, and their gradients span few powers of two: every sum of
    them is exact, in any order. Weights over six decades are not.
    """
    import lightgbm

    matrix, minutes = large
    weights = 10 ** np.random.default_rng(12).uniform(-3, 3, len(matrix))

    def text(threads: int) -> str:
        given = lightgbm_parameters(LearningParameters(), seed=7, rows=len(matrix), threads=threads)
        given |= {"objective": "regression"}
        data = lightgbm.Dataset(matrix, label=minutes, weight=weights, params=given)
        return training.canonical(lightgbm.train(given, data, num_boost_round=5).model_to_string())

    first = text(1)
    assert text(1) == first
    assert text(2) != first


@pytest.mark.parametrize(
    "change",
    [{"seed": 8}, {"features": ("colour", "wall_mm", "batch_size")}],
)
def test_what_is_part_of_the_model_changes_its_bytes(model, change):
    assert trained(ROWS, replace(USE_CASE, **change)).sha256 != model.sha256


def test_the_number_of_threads_must_be_given():
    with pytest.raises(TrainingError, match="number of threads"):
        trained(ROWS, threads=0)
    split = training.split_rows(ROWS, USE_CASE, labels_until=NOW)
    with pytest.raises(TypeError, match="threads"):
        training.fit(ROWS, split, USE_CASE)


def test_parameters_are_complete_and_sample_nothing(model):
    assert model.parameters["deterministic"] is True
    assert model.parameters["force_row_wise"] is True
    assert model.parameters["feature_pre_filter"] is False
    assert model.parameters["bin_construct_sample_cnt"] >= model.train_rows
    assert model.parameters["rounds"] == 20
    assert not {name for name in model.parameters if "bagging" in name or "early" in name}


def test_the_canonical_text_is_a_fixed_point_and_names_no_run_time(model):
    assert training.canonical(model.text) == model.text
    assert training.canonical(model.booster().model_to_string()) == model.text
    assert "[num_threads: 0]" in model.text
    assert "[learning_rate: 0.05]" in model.text
    with pytest.raises(TrainingError, match="no LightGBM model text"):
        training.canonical("tree\n")


def test_the_model_learnt_the_signal(model):
    thin = pa.table({"wall_mm": [2.0, 4.0], "batch_size": [10, 10], "colour": ["red", "blue"]})
    breaks, holds = model.predict(thin)
    assert breaks - holds > 0.2
    assert sum(model.gains.values()) == pytest.approx(1.0)
    assert max(model.gains, key=lambda name: model.gains[name]) == "wall_mm"


# --- encoding -----------------------------------------------------------------------------------------------


def test_categories_are_frozen_from_the_training_range(model):
    assert model.encoding.categories == {"colour": ("blue", "green", "red")}
    days = ROWS.column("made_on").to_pylist()
    colours = [
        "violet" if day >= model.cuts.train_end else c
        for c, day in zip(ROWS.column("colour").to_pylist(), days, strict=True)
    ]
    later = trained(column_replaced(ROWS, "colour", colours))
    assert later.encoding.categories == model.encoding.categories


def test_unseen_and_null_categories_are_both_missing(model):
    table = pa.table({"wall_mm": [3.0] * 3, "batch_size": [9] * 3, "colour": ["violet", None, "red"]})
    codes = model.encoding.matrix(table)[:, 2]
    assert np.isnan(codes[:2]).all()
    assert codes[2] == 2.0
    scores = model.predict(table)
    assert scores[0] == scores[1] != scores[2]


def test_no_category_is_written_into_the_model_text(model):
    assert "red" not in json.dumps(model.text.split("parameters:")[0])


def test_wrong_columns_are_refused_by_name(model):
    good = ROWS.slice(0, 5)
    with pytest.raises(EncodingError, match="column wall_mm is missing"):
        model.encoding.matrix(good.drop_columns(["wall_mm"]))
    texts = good.set_column(good.column_names.index("wall_mm"), "wall_mm", pa.array(["3"] * 5))
    with pytest.raises(EncodingError, match="wall_mm must be a number"):
        model.encoding.matrix(texts)
    numbers = good.set_column(good.column_names.index("colour"), "colour", pa.array([1] * 5))
    with pytest.raises(EncodingError, match="colour must be text"):
        model.encoding.matrix(numbers)


def test_dictionary_columns_encode_like_plain_ones(model):
    place = ROWS.column_names.index("colour")
    packed = ROWS.set_column(place, "colour", ROWS.column("colour").dictionary_encode())
    np.testing.assert_array_equal(model.encoding.matrix(packed), model.encoding.matrix(ROWS))
