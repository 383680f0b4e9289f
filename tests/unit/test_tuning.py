"""Tuning: folds that know no future, a study that a kill does not undo, and a verdict that can be checked by hand."""

from __future__ import annotations

import json
import math
import signal
import subprocess
import sys
from dataclasses import replace
from datetime import UTC, date, datetime, timedelta
from itertools import pairwise
from pathlib import Path

import lightgbm
import numpy as np
import pyarrow as pa
import pytest

from contrail import duck, training, tuning, tuning_report, tuning_search
from contrail.encoding import Encoding
from contrail.file_lock import locked
from contrail.lake import Commit, Lake
from contrail.training import TrainingError
from contrail.tuning import Progress, Study, TrainingSet, TuningError, tune
from contrail.tuning_folds import eligible, fold_rows, plan_folds
from contrail.tuning_search import Search, standard_error
from contrail.use_case import LearningParameters
from tests.support import small_model
from tests.support.small_model import NOW, USE_CASE, column_replaced

ROOT = Path(__file__).resolve().parents[2]
ROWS = small_model.rows()
GIVEN = TrainingSet(ROWS, "model/broken_jar/training_set@v3", "content-1", NOW)
TRIALS = 7
ROUNDS = 60  # in place of the many that real rows need


def run(storage: Path, given: TrainingSet = GIVEN, use_case=USE_CASE, **options) -> Study:
    return tune(
        given, use_case, **({"storage": storage, "trials": TRIALS, "seconds": 60, "threads": 1} | options)
    )


@pytest.fixture(scope="module", autouse=True)
def _few_rounds():
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(tuning_search, "MOST_ROUNDS", ROUNDS)
        yield


@pytest.fixture(scope="module")
def storage(tmp_path_factory) -> Path:
    return tmp_path_factory.mktemp("tuning") / "broken_jar.db"


@pytest.fixture(scope="module")
def told() -> list[Progress]:
    return []


@pytest.fixture(scope="module")
def study(storage, told) -> Study:
    return run(storage, progress=told.append)


def tried(study: Study) -> list[object]:
    return [(t.state, t.learning, None if math.isnan(t.loss) else t.loss) for t in study.trials]


# --- folds --------------------------------------------------------------------------------------------------


def test_each_fold_learns_only_what_was_known_a_day_before_its_block():
    rows, cuts = eligible(ROWS, USE_CASE, labels_until=NOW)
    known = np.array(rows.column("outcome_known_at").to_pylist())
    days = np.array(rows.column("made_on").to_pylist())
    folds = plan_folds(cuts, USE_CASE, count=3)
    for fold in folds:
        learnt, judged = fold_rows(rows, fold, USE_CASE)
        cut = datetime.combine(fold.first, datetime.min.time(), UTC) - timedelta(days=1)
        assert fold.trained_until == cut
        assert known[learnt].max() < cut
        assert days[learnt].max() < fold.first - timedelta(days=1)
        assert days[judged].min() == fold.first
        assert days[judged].max() == fold.end - timedelta(days=1)
        everything = (days < cut.date()) & (known < cut)
        assert list(learnt) == list(np.flatnonzero(everything))
    assert all(a.end <= b.first for a, b in pairwise(folds))
    assert folds[-1].end == cuts.validate_end


def test_the_blocks_are_spread_over_the_seasons():
    cuts = training.split_by_time(date(2013, 1, 1), date(2013, 12, 31), USE_CASE)
    folds = plan_folds(cuts, USE_CASE, count=3)
    assert [(fold.first, fold.end) for fold in folds] == [
        (date(2013, 4, 12), date(2013, 5, 12)),
        (date(2013, 7, 7), date(2013, 8, 6)),
        (date(2013, 10, 2), date(2013, 11, 1)),
    ]


def test_too_few_days_are_refused():
    cuts = training.Cuts(date(2024, 1, 1), date(2024, 1, 29), date(2024, 2, 2), date(2024, 2, 9))
    with pytest.raises(TrainingError, match="32 days of training and validation are too few for 3 folds"):
        plan_folds(cuts, USE_CASE, count=3)
    with pytest.raises(TrainingError, match="at least 2 folds"):
        plan_folds(replace(cuts, validate_end=date(2024, 12, 1)), USE_CASE, count=1)


def test_nothing_of_the_test_part_is_looked_at(study, tmp_path):
    cuts = training.split_by_time(small_model.FIRST, small_model.FIRST + timedelta(days=89), USE_CASE)
    is_test = [day >= cuts.validate_end for day in ROWS.column("made_on").to_pylist()]
    assert 0 < sum(is_test) < ROWS.num_rows / 3
    rows = ROWS
    for name, other in (
        ("is_broken", lambda v: not v),
        ("wall_mm", lambda v: 99.0),
        ("colour", lambda v: "plaid"),
    ):
        values = [other(v) if t else v for v, t in zip(ROWS.column(name).to_pylist(), is_test, strict=True)]
        rows = column_replaced(rows, name, values)
    again = run(tmp_path / "t.db", replace(GIVEN, rows=rows))
    assert tried(again) == tried(study)
    assert again.identity == study.identity


def test_a_label_that_did_not_exist_yet_is_not_judged():
    until = datetime(2024, 3, 5, tzinfo=UTC)
    rows, _ = eligible(ROWS, USE_CASE, labels_until=until)
    assert max(rows.column("outcome_known_at").to_pylist()) < until
    with pytest.raises(TrainingError, match="has no rows"):
        eligible(ROWS.slice(0, 0), USE_CASE, labels_until=NOW)


# --- trials -------------------------------------------------------------------------------------------------


def test_the_declared_parameters_come_first_and_every_trial_is_told(study, told):
    assert [t.number for t in study.trials] == list(range(TRIALS))
    assert replace(study.trials[0].learning, rounds=USE_CASE.learning.rounds) == USE_CASE.learning
    assert [p.trial for p in told] == list(study.trials)
    assert [p.finished for p in told] == list(range(1, TRIALS + 1))
    assert told[-1].best == min(t.loss for t in study.trials if t.state == "complete")
    assert study.declared.learning == USE_CASE.learning


def test_a_fit_by_hand_gives_the_same_loss(study):
    rows, cuts = eligible(ROWS, USE_CASE, labels_until=NOW)
    for number, fold in enumerate(plan_folds(cuts, USE_CASE, count=3)):
        learnt, judged = fold_rows(rows, fold, USE_CASE)
        encoding = Encoding.learn(rows.take(pa.array(learnt)), USE_CASE.features, USE_CASE.categorical)
        labels = np.array(rows.column("is_broken").to_pylist(), dtype=np.float64)
        parameters = training.lightgbm_parameters(USE_CASE, rows=len(learnt), threads=1)
        data = lightgbm.Dataset(
            encoding.matrix(rows, learnt), labels[learnt], feature_name=list(USE_CASE.features),
            categorical_feature=[2], params=parameters,
        )  # fmt: skip
        fitted = lightgbm.train(parameters, data, num_boost_round=USE_CASE.learning.rounds)
        scores = fitted.predict(encoding.matrix(rows, judged))
        loss = -np.where(labels[judged] == 1, np.log(scores), np.log(1 - scores)).mean()
        assert study.declared.fold_losses[number] == pytest.approx(loss, abs=1e-12)
        assert study.trials[0].curve[20] == pytest.approx(study.declared.loss, abs=1e-7)
    assert study.declared.loss == pytest.approx(np.mean(study.declared.fold_losses))


def test_every_fit_has_the_project_s_fixed_parameters():
    search = Search(USE_CASE, threads=1)
    learning = LearningParameters(num_leaves=9)
    expected = training.lightgbm_parameters(replace(USE_CASE, learning=learning), rows=5, threads=1)
    assert search.parameters(learning, 5) == expected | {"metric": "binary_logloss"}


def test_one_number_of_rounds_is_taken_for_all_folds(study):
    for trial in (t for t in study.trials if t.state == "complete"):
        assert trial.loss == min(trial.curve.values()) == trial.curve[trial.learning.rounds]
        assert trial.loss == pytest.approx(np.mean(trial.fold_losses))
    assert set(study.trials[0].curve) == set(range(10, ROUNDS + 1, 10))


def test_the_search_space_takes_the_declared_parameters_in():
    wide = replace(
        USE_CASE, learning=replace(USE_CASE.learning, num_leaves=3, rounds=701, feature_fraction=1.0)
    )
    search = Search(wide, threads=1)
    assert search.space["num_leaves"].low == 3
    assert search.space["feature_fraction"].high == 1.0
    assert search.rounds[-1] == 701


def test_the_verdict_follows_from_the_losses_of_days(study):
    days = [
        np.array(a) - np.array(b)
        for a, b in zip(study.declared.day_losses, study.best.day_losses, strict=True)
    ]
    total = np.mean([d.sum() / fold.rows for d, fold in zip(days, study.folds, strict=True)])
    assert study.difference == pytest.approx(total)
    assert study.difference == study.declared.loss - study.best.loss >= 0
    assert study.is_declared_good == (study.difference <= study.best.standard_error)
    assert ("more than one standard error over days" in study.verdict) == (not study.is_declared_good)
    errors = study.difference / study.difference_error
    assert f"{errors:.1f} standard errors of the difference paired by day" in study.verdict
    alone = replace(study, best=study.declared, difference=0.0, difference_error=0.0)
    assert alone.is_declared_good
    assert f"none of {TRIALS} trials was better" in alone.verdict


def test_the_standard_error_of_equal_days_is_the_textbook_s():
    losses = np.array([3.0, 5.0, 4.0, 8.0])
    ones = np.ones(4, dtype=np.int64)
    one_fold = losses.std(ddof=1) / math.sqrt(4)
    assert standard_error([losses], [ones]) == pytest.approx(one_fold)
    assert standard_error([losses, losses], [ones, ones]) == pytest.approx(one_fold / math.sqrt(2))
    assert standard_error([losses * 7], [ones * 7]) == pytest.approx(
        one_fold
    )  # rows within a day add nothing


# --- the study goes on --------------------------------------------------------------------------------------

CUT_OFF = """
import sys, time
from pathlib import Path
from contrail import tuning_search
from tests.unit.test_tuning import ROUNDS, run

tuning_search.MOST_ROUNDS = ROUNDS
judge, calls = tuning_search.Search._day_losses, []
def hang(self, boosters, rounds):
    calls.append(rounds)
    if len(calls) == 4:  # the declared parameters are judged twice
        print("in the middle of trial 2", flush=True)
        time.sleep(600)
    return judge(self, boosters, rounds)
tuning_search.Search._day_losses = hang
run(Path(sys.argv[1]))
"""


def test_a_killed_study_goes_on_and_has_the_trials_of_one_that_was_not(study, tmp_path):
    storage = tmp_path / "broken_jar.db"
    process = subprocess.Popen(
        [sys.executable, "-c", CUT_OFF, str(storage)], cwd=ROOT, stdout=subprocess.PIPE, text=True
    )
    assert process.stdout is not None
    assert process.stdout.readline() == "in the middle of trial 2\n"
    process.send_signal(signal.SIGKILL)
    process.wait(timeout=30)

    resumed = run(storage)
    assert resumed.is_resumed
    assert resumed.identity == study.identity
    assert [t.state for t in resumed.trials].count("failed") == 1
    assert resumed.finished == TRIALS
    assert [each for each in tried(resumed) if each[0] != "failed"] == tried(study)
    assert resumed.best == study.best


def test_what_was_cut_off_first_is_tried_again(tmp_path):
    import optuna

    storage = tmp_path / "broken_jar.db"
    search = Search(USE_CASE, threads=1)
    name = run(tmp_path / "other.db", trials=1).identity[:16]
    database = optuna.storages.RDBStorage(f"sqlite:///{storage}")
    begun = optuna.create_study(storage=database, study_name=f"broken_jar-{name}")
    begun.enqueue_trial(search.declared_values)
    begun.ask()
    found = run(storage, trials=2)
    assert [t.state for t in found.trials][:2] == ["failed", "complete"]
    assert found.finished == 2
    assert replace(found.trials[1].learning, rounds=20) == USE_CASE.learning


def test_enough_trials_are_enough(study, storage):
    again = run(storage)
    assert again.is_resumed
    assert tried(again) == tried(study)
    assert replace(again, is_resumed=False) == study


def test_without_time_only_the_declared_parameters_are_tried(tmp_path):
    found = run(tmp_path / "t.db", seconds=1e-6)
    assert len(found.trials) == 1
    assert found.declared.learning == USE_CASE.learning
    with pytest.raises(TuningError, match="at least one trial"):
        run(tmp_path / "t.db", trials=0)


@pytest.mark.parametrize("other", ["version", "content", "features", "folds"])
def test_other_rows_features_or_folds_begin_a_new_study(study, storage, other):
    given, use_case, options = GIVEN, USE_CASE, {}
    if other == "version":
        given = replace(GIVEN, reference="model/broken_jar/training_set@v4")
    elif other == "content":
        given = replace(GIVEN, content="content-2")
    elif other == "features":
        use_case = replace(USE_CASE, features=("batch_size", "wall_mm", "colour"))
    else:
        options = {"folds": 2}
    found = run(storage, given, use_case, trials=1, **options)
    assert not found.is_resumed
    assert found.other_studies >= 1
    assert found.identity != study.identity
    assert len(found.trials) == 1


def test_one_process_at_a_time_runs_a_study(tmp_path):
    with (
        locked(tmp_path / "t.lock", wait_seconds=0),
        pytest.raises(TuningError, match="another process runs"),
    ):
        run(tmp_path / "t.db")


# --- what is kept -------------------------------------------------------------------------------------------


def test_the_evidence_says_what_was_found_and_names_no_machine(study, storage, tmp_path):
    written = tuning_report.write(study, tmp_path / "studies", title=USE_CASE.title)
    assert [path.name for path in written] == ["broken_jar.json", "broken_jar.md", "broken_jar.png"]
    record = json.loads(written[0].read_text())
    assert record["training_set"] == GIVEN.reference
    assert record["identity"] == study.identity
    assert record["declared"]["loss"] == pytest.approx(study.declared.loss, abs=1e-6)
    assert [t["state"] for t in record["trials"]] == [t.state for t in study.trials]
    assert set(record["libraries"]) == set(tuning_report.LIBRARIES)
    page = written[1].read_text()
    assert study.verdict in page
    assert "(broken_jar.png)" in page
    assert tuning_report.declaration(study.best.learning) in page
    behind = [
        f"{a - b:+.4f}" for a, b in zip(study.declared.fold_losses, study.best.fold_losses, strict=True)
    ]
    assert f"behind by {', '.join(behind)}." in page
    picture = written[2].read_bytes()
    assert picture.startswith(b"\x89PNG")
    assert len(picture) < 300_000
    for text in (written[0].read_text(), page):
        assert str(storage.parent) not in text
        assert str(ROOT) not in text
    first = [path.read_bytes() for path in written]
    assert [p.read_bytes() for p in tuning_report.write(study, tmp_path / "b", title=USE_CASE.title)] == first


def test_the_declaration_can_be_pasted(study):
    line = tuning_report.declaration(study.best.learning)
    assert (
        eval(f"dict({line})", {"LearningParameters": LearningParameters})["learning"] == study.best.learning
    )


def test_the_newest_training_set_is_read_with_what_was_known_then(tmp_path):
    lake = Lake(tmp_path / "lake")
    name = "model/broken_jar/training_set"
    with duck.connect(threads=1) as con:
        with pytest.raises(TuningError, match=r"there is no model/broken_jar/training_set yet"):
            tuning.read_training_set(lake, con, USE_CASE)
        lake.create(name, ROWS.schema)
        commit = Commit(
            asset=name, run_id="r", inputs=(), git_sha="g", extra={"labels_until": NOW.isoformat()}
        )
        version = lake.append(name, ROWS, commit)
        found = tuning.read_training_set(lake, con, USE_CASE)
        assert (found.reference, found.labels_until) == (f"{name}@v{version}", NOW)
        assert found.content == lake.snapshot_sha256(name, version)
        assert found.rows.num_rows == ROWS.num_rows
        lake.append(name, ROWS, replace(commit, run_id="r2", extra={}))
        with pytest.raises(TuningError, match="does not say until when labels were known"):
            tuning.read_training_set(lake, con, USE_CASE)
