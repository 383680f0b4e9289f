"""What a tuning trial is: where parameters are searched, and how a trial is judged on the folds."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np

from contrail.encoding import Floats
from contrail.evaluation import EPSILON
from contrail.training import lightgbm_parameters
from contrail.tuning_folds import PreparedFold
from contrail.use_case import LearningParameters, UseCase

if TYPE_CHECKING:
    import optuna

MOST_ROUNDS = 600
ROUNDS_STEP = 10  # a finer choice of rounds would follow the noise


@dataclass(frozen=True)
class Range:
    """Where a parameter is searched; both ends included."""

    low: float
    high: float
    is_whole: bool = False


@dataclass(frozen=True)
class Configuration:
    """Learning parameters and how they fared.

    Attributes:
        learning: the parameters, rounds included.
        loss: mean over folds of the block's log-loss.
        fold_losses: of each fold, in order of time.
        standard_error: of `loss`, by days: rows of one day are not independent.
        day_losses: fold → day → summed log-loss of its rows.
    """

    learning: LearningParameters
    loss: float
    fold_losses: tuple[float, ...]
    standard_error: float
    day_losses: tuple[tuple[float, ...], ...]


# Around what boosted trees of some ten thousand to some million rows ever need; all on a logarithmic scale.
SPACE: Mapping[str, Range] = {
    "learning_rate": Range(0.02, 0.12),
    "num_leaves": Range(7, 63, is_whole=True),
    "lambda_l2": Range(1.0, 100.0),
    "min_child_samples": Range(20, 400, is_whole=True),
    "feature_fraction": Range(0.2, 0.9),
}


class Search:
    """One study's objective.

    Attributes:
        space: `SPACE`, widened so that the declared parameters lie in it.
        rounds: the numbers of rounds that are compared, the declared one among them.
        prepared: the folds; to be set before the first trial.
    """

    def __init__(self, use_case: UseCase, threads: int) -> None:
        self.use_case = use_case
        self.threads = threads
        self.space: dict[str, Range] = {}
        for name, each in SPACE.items():
            declared = getattr(use_case.learning, name)
            self.space[name] = replace(each, low=min(each.low, declared), high=max(each.high, declared))
        most = max(MOST_ROUNDS, use_case.learning.rounds)
        grid = {*range(ROUNDS_STEP, most + 1, ROUNDS_STEP), use_case.learning.rounds}
        self.rounds = np.array(sorted(grid), dtype=np.int64)
        self.prepared: tuple[PreparedFold, ...] = ()

    @property
    def declared_values(self) -> dict[str, float]:
        """The declared parameters, as far as they are searched."""
        return {name: getattr(self.use_case.learning, name) for name in self.space}

    def parameters(self, learning: LearningParameters, rows: int) -> dict[str, Any]:
        """The full parameter set of a fit on so many rows."""
        fixed = lightgbm_parameters(
            replace(self.use_case, learning=learning), rows=rows, threads=self.threads
        )
        return fixed | {"metric": "binary_logloss"}

    def __call__(self, trial: optuna.Trial) -> float:
        """The least mean log-loss over the folds at a common number of rounds.

        Raises:
            optuna.TrialPruned: after some folds it is worse than the median of earlier trials was there.
        """
        import lightgbm
        import optuna

        learning = self._suggest(trial)
        is_declared = replace(learning, rounds=self.use_case.learning.rounds) == self.use_case.learning
        trial.set_user_attr("learning", asdict(learning))
        most = int(self.rounds[-1])
        boosters: list[Any] = []
        curves: list[Floats] = []
        for step, fold in enumerate(self.prepared):
            told: dict[str, dict[str, list[float]]] = {}
            parameters = self.parameters(learning, fold.fold.train_rows)
            boosters.append(
                lightgbm.train(
                    parameters, fold.data, num_boost_round=most, valid_sets=[fold.valid], valid_names=["block"],
                    callbacks=[lightgbm.record_evaluation(told)],
                )
            )  # fmt: skip
            curves.append(np.asarray(told["block"]["binary_logloss"], np.float64)[self.rounds - 1])
            trial.report(float(np.mean(curves, axis=0).min()), step)
            if not is_declared and step + 1 < len(self.prepared) and trial.should_prune():
                raise optuna.TrialPruned
        mean: Floats = np.mean(curves, axis=0)
        chosen = int(np.argmin(mean))
        rounds = int(self.rounds[chosen])
        trial.set_user_attr("learning", asdict(replace(learning, rounds=rounds)))
        trial.set_user_attr("curve", [[int(n), float(v)] for n, v in zip(self.rounds, mean, strict=True)])
        trial.set_user_attr("fold_losses", [float(curve[chosen]) for curve in curves])
        trial.set_user_attr("day_losses", self._day_losses(boosters, rounds))
        if is_declared:
            trial.set_user_attr("declared_rounds", self.use_case.learning.rounds)
            trial.set_user_attr("declared", self._day_losses(boosters, self.use_case.learning.rounds))
        return float(mean[chosen])

    def _suggest(self, trial: optuna.Trial) -> LearningParameters:
        values: dict[str, Any] = {}
        for name, each in self.space.items():
            if each.is_whole:
                values[name] = trial.suggest_int(name, int(each.low), int(each.high), log=True)
            else:  # three digits: what a person would copy
                values[name] = float(f"{trial.suggest_float(name, each.low, each.high, log=True):.3g}")
        return replace(self.use_case.learning, **values)

    def _day_losses(self, boosters: Sequence[Any], rounds: int) -> list[list[float]]:
        found: list[list[float]] = []
        for booster, fold in zip(boosters, self.prepared, strict=True):
            raw = booster.predict(fold.matrix, num_iteration=rounds, num_threads=self.threads)
            scores: Floats = np.clip(np.asarray(raw, np.float64), EPSILON, 1.0 - EPSILON)
            loss = -np.where(fold.labels, np.log(scores), np.log1p(-scores))
            found.append([float(v) for v in np.bincount(fold.place, weights=loss)])
        return found


def configuration(
    learning: LearningParameters, day_losses: Sequence[Sequence[float]], day_rows: Any
) -> Configuration:
    """A configuration from its summed losses by fold and day, and the rows of those days."""
    sums = [np.asarray(each, np.float64) for each in day_losses]
    folds = tuple(float(each.sum() / rows.sum()) for each, rows in zip(sums, day_rows, strict=True))
    return Configuration(
        learning=learning,
        loss=float(np.mean(folds)),
        fold_losses=folds,
        standard_error=standard_error(sums, day_rows),
        day_losses=tuple(tuple(float(v) for v in each) for each in sums),
    )


def standard_error(day_sums: Sequence[Floats], day_rows: Sequence[Any]) -> float:
    """Of the mean over folds of (sum over days / rows), each day one draw: the ratio estimator's linearised error."""
    variances: list[float] = []
    for sums, rows in zip(day_sums, day_rows, strict=True):
        days = len(sums)
        residual = sums - rows * (sums.sum() / rows.sum())
        variances.append(float(np.sum(residual**2) * days / max(days - 1, 1) / rows.sum() ** 2))
    return math.sqrt(sum(variances)) / len(variances)
