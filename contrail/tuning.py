"""Tuning: a search over learning parameters on time-ordered folds, which a kill does not undo.

The study lies in an SQLite file of the home. It belongs to one training set (table, version and content), one ordered
feature list, one seed, one search space and one set of folds; with anything else a new study begins. The parameters
that the use case declares are its first trial, so the search always says what it is worth.

Every trial's sampler starts from the study's seed + the number of finished trials and from nothing else: a study that
was killed and went on has the same trials as one that was not. A trial that was cut off counts as failed and is done
again.

The number of rounds is not searched: every trial grows all its trees, and takes the common number of rounds at which
the mean log-loss over the folds is least. Stopping early on one block would let that block's chance choose it.
"""

from __future__ import annotations

import hashlib
import json
import math
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from datetime import datetime
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pyarrow as pa

from contrail.file_lock import LockTakenError, locked
from contrail.lake import Lake
from contrail.tuning_folds import Fold, eligible, plan_folds, prepare
from contrail.tuning_search import Configuration, Range, Search, configuration, standard_error
from contrail.use_case import LearningParameters, UseCase

if TYPE_CHECKING:
    import duckdb
    import optuna

FOLDER = "tuning"
FOLDS = 3
RANDOM_TRIALS = 8  # before the sampler models what it has seen
UNPRUNED_TRIALS = 5


class TuningError(RuntimeError):
    """The study cannot be run; the message says why."""


@dataclass(frozen=True)
class TrainingSet:
    """The rows of a study and their identity.

    Attributes:
        rows: the training set's table.
        reference: ``table@version``.
        content: sha256 of that version's content.
        labels_until: outcomes known at or after it did not exist when it was made.
    """

    rows: pa.Table
    reference: str
    content: str
    labels_until: datetime


@dataclass(frozen=True)
class Trial:
    """One trial.

    Attributes:
        number: its number in the study.
        state: ``complete``, ``pruned`` (worse than the median after some folds) or ``failed`` (cut off).
        learning: what was tried; of a complete trial with the best common number of rounds.
        loss: of a complete trial its value, of a pruned one that of the folds it got to; NaN of a failed one.
        fold_losses: of a complete trial, in order of time.
        curve: mean log-loss over the folds by number of rounds, of a complete trial.
        seconds: wall seconds.
    """

    number: int
    state: str
    learning: LearningParameters | None
    loss: float
    fold_losses: tuple[float, ...] = ()
    curve: Mapping[int, float] = field(default_factory=dict[int, float])
    seconds: float = 0.0


@dataclass(frozen=True)
class Progress:
    """What is told after each trial.

    Attributes:
        trial: the one that has just ended.
        finished: trials that count so far.
        target: trials asked for.
        best: least loss so far; NaN before the first.
        seconds_left: of this call's budget.
    """

    trial: Trial
    finished: int
    target: int
    best: float
    seconds_left: float


@dataclass(frozen=True)
class Study:
    """What a study found.

    Attributes:
        use_case: name of the use case.
        identity: sha256 of all that the study belongs to.
        training_set: ``table@version``.
        training_set_content: its sha256.
        labels_until: see `TrainingSet`.
        feature_order_sha256: the ordered features.
        seed: of fits and sampler.
        space: where was searched.
        folds: in order of time.
        trials: all of them.
        declared: the use case's declared parameters at their declared rounds.
        best: the best configuration found; the declared one where nothing was better.
        difference: declared loss − best loss.
        difference_error: its standard error, paired by day.
        is_resumed: the study was there before this call.
        other_studies: studies of the same use case in the file that belong to other rows, features or folds.
    """

    use_case: str
    identity: str
    training_set: str
    training_set_content: str
    labels_until: datetime
    feature_order_sha256: str
    seed: int
    space: Mapping[str, Range]
    folds: tuple[Fold, ...]
    trials: tuple[Trial, ...]
    declared: Configuration
    best: Configuration
    difference: float
    difference_error: float
    is_resumed: bool
    other_studies: int

    @property
    def is_declared_good(self) -> bool:
        """Whether the declared parameters are within one standard error of the best (over days)."""
        return self.difference <= self.best.standard_error

    @property
    def finished(self) -> int:
        """Trials that count: complete and pruned ones."""
        return sum(trial.state != "failed" for trial in self.trials)

    @property
    def verdict(self) -> str:
        """In one sentence how the declared parameters stand."""
        if self.best.learning == self.declared.learning:
            return (
                f"the declared parameters have a log-loss of {self.declared.loss:.5f}, and none of {self.finished} "
                "trials was better"
            )
        within = "within" if self.is_declared_good else "more than"
        paired = self.difference / self.difference_error if self.difference_error else math.inf
        return (
            f"the declared parameters have a log-loss of {self.declared.loss:.5f}, the best of {self.finished} trials "
            f"{self.best.loss:.5f}, {self.difference:.5f} less: {within} one standard error over days "
            f"({self.best.standard_error:.5f}), {paired:.1f} standard errors of the difference paired by day "
            f"({self.difference_error:.5f})"
        )


def read_training_set(lake: Lake, con: duckdb.DuckDBPyConnection, use_case: UseCase) -> TrainingSet:
    """The newest version of the use case's training set.

    Raises:
        TuningError: there is none, or its commit does not say until when labels were known.
        LakeError: it cannot be read.
    """
    name = f"model/{use_case.name}/training_set"
    if not lake.exists(name):
        raise TuningError(f"there is no {name} yet: materialise it first (contrail run)")
    version = lake.version(name)
    record = next((each for each in lake.commits(name) if each.version == version), None)
    until = record.extra.get("labels_until") if record is not None else None
    if not until:
        raise TuningError(
            f"{lake.ref(name, version)} does not say until when labels were known; build it again"
        )
    return TrainingSet(
        rows=con.execute(f"SELECT * FROM {lake.scan(name, version)}").to_arrow_table(),
        reference=lake.ref(name, version),
        content=lake.snapshot_sha256(name, version),
        labels_until=datetime.fromisoformat(until),
    )


def tune(
    given: TrainingSet,
    use_case: UseCase,
    *,
    storage: Path,
    trials: int,
    seconds: float,
    threads: int,
    folds: int = FOLDS,
    progress: Callable[[Progress], None] | None = None,
) -> Study:
    """Go on with the study of these rows, or begin it, until it has `trials` finished trials or the time is over.

    Args:
        given: the training set; its test part is not looked at.
        storage: the SQLite file.
        trials: finished trials that the study shall have in all, those of earlier calls included.
        seconds: wall seconds for this call; a trial that has begun ends, and the declared parameters are always tried.
        threads: LightGBM threads.
        folds: number of blocks.
        progress: called after each trial.

    Raises:
        TuningError: another process runs this use case's study, or the budget is none.
        TrainingError: the days are too few.
    """
    if trials < 1 or seconds <= 0:
        raise TuningError(f"a study needs at least one trial and some time, not {trials} and {seconds} s")
    began = time.monotonic()
    rows, cuts = eligible(given.rows, use_case, labels_until=given.labels_until)
    planned = plan_folds(cuts, use_case, count=folds)
    search = Search(use_case, threads)
    identity = _identity(given, use_case, planned, search)
    storage.parent.mkdir(parents=True, exist_ok=True)
    try:
        with locked(storage.with_suffix(".lock"), wait_seconds=0):
            study, is_resumed, others = _open(storage, use_case, identity, given)
            _close_cut_off(study)
            # The bins need all rows of a fold, whichever it is.
            search.prepared = prepare(
                rows, planned, use_case, search.parameters(use_case.learning, rows.num_rows)
            )
            del rows
            while (_declared(study, use_case) is None) or (
                _finished(study) < trials and time.monotonic() - began < seconds
            ):
                _run_one(study, search, use_case)
                if progress is not None:
                    told = _trial(study.trials[-1])
                    left = seconds - (time.monotonic() - began)
                    progress(Progress(told, _finished(study), trials, _least(study), max(0.0, left)))
            return _result(study, given, use_case, search, identity, is_resumed=is_resumed, others=others)
    except LockTakenError as error:
        raise TuningError(
            f"another process runs the study of {use_case.name}; wait for it or end it"
        ) from error


def _identity(given: TrainingSet, use_case: UseCase, folds: Sequence[Fold], search: Search) -> str:
    belongs_to = {
        "training_set": given.reference,
        "content": given.content,
        "labels_until": given.labels_until.isoformat(),
        "features": use_case.features,
        "categorical": use_case.categorical,
        "seed": use_case.seed,
        "folds": [[f.trained_until.isoformat(), f.first.isoformat(), f.end.isoformat()] for f in folds],
        "space": {name: asdict(each) for name, each in search.space.items()},
        "rounds": [int(n) for n in search.rounds],
        "lightgbm": version("lightgbm"),
    }
    return hashlib.sha256(json.dumps(belongs_to, sort_keys=True).encode()).hexdigest()


def _open(
    storage: Path, use_case: UseCase, identity: str, given: TrainingSet
) -> tuple[optuna.Study, bool, int]:
    import optuna

    optuna.logging.set_verbosity(optuna.logging.ERROR)
    database = optuna.storages.RDBStorage(
        f"sqlite:///{storage}", engine_kwargs={"connect_args": {"timeout": 60}}
    )
    name = f"{use_case.name}-{identity[:16]}"
    names = optuna.get_all_study_names(database)
    study = optuna.create_study(
        storage=database,
        study_name=name,
        load_if_exists=True,
        pruner=optuna.pruners.MedianPruner(n_startup_trials=UNPRUNED_TRIALS),
    )
    study.set_user_attr("identity", identity)
    study.set_user_attr("training_set", given.reference)
    return study, name in names, sum(other != name for other in names)


def _close_cut_off(study: optuna.Study) -> None:
    """Trials still under way belong to a process that is gone: this one holds the lock."""
    import optuna

    for trial in study.get_trials(deepcopy=False, states=(optuna.trial.TrialState.RUNNING,)):
        study.tell(trial.number, state=optuna.trial.TrialState.FAIL)


def _run_one(study: optuna.Study, search: Search, use_case: UseCase) -> None:
    """Run the next trial; that of the declared parameters, where they were not tried to the end yet."""
    import optuna

    waiting = study.get_trials(deepcopy=False, states=(optuna.trial.TrialState.WAITING,))
    if _declared(study, use_case) is None and not waiting:
        study.enqueue_trial(search.declared_values)
    # Anew for each trial, or a study that went on after a kill would draw what it has drawn before.
    study.sampler = optuna.samplers.TPESampler(
        seed=use_case.seed + _finished(study), n_startup_trials=RANDOM_TRIALS
    )
    study.optimize(search, n_trials=1)


def _finished(study: optuna.Study) -> int:
    return sum(trial.state.name in ("COMPLETE", "PRUNED") for trial in study.get_trials(deepcopy=False))


def _least(study: optuna.Study) -> float:
    values = [
        t.value
        for t in study.get_trials(deepcopy=False)
        if t.state.name == "COMPLETE" and t.value is not None
    ]
    return min(values, default=math.nan)


def _declared(study: optuna.Study, use_case: UseCase) -> optuna.trial.FrozenTrial | None:
    """The complete trial of the declared parameters, if there is one."""
    for trial in study.get_trials(deepcopy=False):
        told = trial.user_attrs
        if trial.state.name == "COMPLETE" and "declared_rounds" in told:
            tried = LearningParameters(**told["learning"] | {"rounds": told["declared_rounds"]})
            if tried == use_case.learning:
                return trial
    return None


def _trial(frozen: optuna.trial.FrozenTrial) -> Trial:
    told = frozen.user_attrs
    states = {"COMPLETE": "complete", "PRUNED": "pruned"}
    lasted = frozen.duration
    return Trial(
        number=frozen.number,
        state=states.get(frozen.state.name, "failed"),
        learning=LearningParameters(**told["learning"]) if "learning" in told else None,
        loss=math.nan if frozen.value is None or frozen.state.name not in states else frozen.value,
        fold_losses=tuple(told.get("fold_losses", ())),
        curve={int(n): float(v) for n, v in told.get("curve", ())},
        seconds=0.0 if lasted is None else lasted.total_seconds(),
    )


def _result(
    study: optuna.Study, given: TrainingSet, use_case: UseCase, search: Search, identity: str, *, is_resumed: bool,
    others: int,
) -> Study:  # fmt: skip
    frozen = study.get_trials(deepcopy=False)
    trial_zero = _declared(study, use_case)
    if trial_zero is None:  # the loop does not end without it
        raise TuningError("the declared parameters were not tried")
    day_rows = [fold.day_rows for fold in search.prepared]
    declared = configuration(use_case.learning, trial_zero.user_attrs["declared"], day_rows)
    best = declared
    for trial in frozen:
        if trial.state.name == "COMPLETE" and trial.value is not None and trial.value < best.loss:
            told = trial.user_attrs
            best = configuration(LearningParameters(**told["learning"]), told["day_losses"], day_rows)
    pairs = zip(declared.day_losses, best.day_losses, strict=True)
    difference = [np.subtract(ours, theirs) for ours, theirs in pairs]
    return Study(
        use_case=use_case.name,
        identity=identity,
        training_set=given.reference,
        training_set_content=given.content,
        labels_until=given.labels_until,
        feature_order_sha256=use_case.feature_order_sha256,
        seed=use_case.seed,
        space=search.space,
        folds=tuple(each.fold for each in search.prepared),
        trials=tuple(_trial(each) for each in frozen),
        declared=declared,
        best=best,
        difference=declared.loss - best.loss,
        difference_error=standard_error(difference, day_rows),
        is_resumed=is_resumed,
        other_studies=others,
    )
