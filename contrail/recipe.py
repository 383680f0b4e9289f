"""The recipe of a fit: all that it takes from its declaration, recorded with the model, so that it can be done again.

A declaration changes; what a model was learnt by does not. Training writes the recipe down, reproduction reads nothing
else beside the training set.
"""

from __future__ import annotations

import platform
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from datetime import UTC, date, datetime, time
from importlib.metadata import version
from typing import Any

from contrail.use_case import LearningParameters, UseCase

MIN_BIN_SAMPLE = 10_000_000
# What moves a bit of the result: the learner, what sums and sorts its input, and the machine's arithmetic.
_LIBRARIES = ("lightgbm", "numpy", "pyarrow")


class TrainingError(ValueError):
    """The rows cannot be split or learnt from; the message says what is missing."""


@dataclass(frozen=True)
class Cuts:
    """Day boundaries of the parts, by partition day; every end is exclusive.

    Attributes:
        first: first day of the range.
        train_end: end of the training part.
        validate_end: end of the validation part.
        test_end: the day after the last one of the range.
    """

    first: date
    train_end: date
    validate_end: date
    test_end: date


@dataclass(frozen=True)
class Recipe:
    """How a model is learnt from a training set.

    Attributes:
        use_case: name of the use case.
        features: the model's inputs, in order.
        categorical: those that are texts.
        naive_group_columns: columns of the naive reference.
        entity_key: with `decision_column` the order of the rows.
        partition_column: the day that the cuts are about.
        decision_column: instant of the decision.
        outcome_known_column: instant at which the label became known.
        label: what is predicted.
        learning: learning parameters.
        seed: seed of the fit.
        threads: number of threads.
        cuts: day boundaries.
        labels_until: outcomes that became known at or after it did not exist.
    """

    use_case: str
    features: tuple[str, ...]
    categorical: tuple[str, ...]
    naive_group_columns: tuple[str, ...]
    entity_key: str
    partition_column: str
    decision_column: str
    outcome_known_column: str
    label: str
    learning: LearningParameters
    seed: int
    threads: int
    cuts: Cuts
    labels_until: datetime

    @classmethod
    def of(
        cls, use_case: UseCase, cuts: Cuts, labels_until: datetime, *, threads: int, seed: int | None = None
    ) -> Recipe:
        """The recipe that a use case declares now.

        Args:
            threads: number of threads, a constant of the settings, never the machine's core count.
            seed: another seed than the use case's.
        """
        return cls(
            use_case=use_case.name,
            features=use_case.features,
            categorical=use_case.categorical,
            naive_group_columns=use_case.naive_group_columns,
            entity_key=use_case.entity_key,
            partition_column=use_case.partition_column,
            decision_column=use_case.decision_column,
            outcome_known_column=use_case.outcome_known_column,
            label=use_case.label,
            learning=use_case.learning,
            seed=use_case.seed if seed is None else seed,
            threads=threads,
            cuts=cuts,
            labels_until=labels_until,
        )

    @property
    def labels_cut(self) -> datetime:
        """A training row's outcome was known before this."""
        return min(midnight(self.cuts.train_end), self.labels_until)

    @property
    def columns(self) -> tuple[str, ...]:
        """The columns of a training set that it reads, each once."""
        named = (
            self.entity_key,
            self.partition_column,
            self.decision_column,
            self.outcome_known_column,
            self.label,
            *self.naive_group_columns,
            *self.features,
        )
        return tuple(dict.fromkeys(named))

    def parameters(self, rows: int) -> dict[str, Any]:
        """LightGBM's parameters for so many training rows; see `lightgbm_parameters`."""
        return lightgbm_parameters(self.learning, seed=self.seed, rows=rows, threads=self.threads)

    def to_dict(self) -> dict[str, Any]:
        """Plain data for JSON."""
        cuts = {name: day.isoformat() for name, day in asdict(self.cuts).items()}
        return asdict(self) | {"cuts": cuts, "labels_until": self.labels_until.astimezone(UTC).isoformat()}

    @classmethod
    def from_dict(cls, body: Mapping[str, Any]) -> Recipe:
        """Read what `to_dict` gave.

        Raises:
            TrainingError: something is missing, the number of threads say, or is of another kind.
        """
        try:
            return cls(
                features=tuple(map(str, body["features"])),
                categorical=tuple(map(str, body["categorical"])),
                naive_group_columns=tuple(map(str, body["naive_group_columns"])),
                learning=LearningParameters(**body["learning"]),
                seed=int(body["seed"]),
                threads=int(body["threads"]),
                cuts=Cuts(**{str(name): date.fromisoformat(day) for name, day in body["cuts"].items()}),
                labels_until=datetime.fromisoformat(body["labels_until"]),
                **{name: str(body[name]) for name in _TEXTS},
            )
        except (KeyError, TypeError, ValueError) as error:
            raise TrainingError(
                f"the recorded recipe cannot be followed: {type(error).__name__} {error}"
            ) from error


_TEXTS = (
    "use_case",
    "entity_key",
    "partition_column",
    "decision_column",
    "outcome_known_column",
    "label",
)


def lightgbm_parameters(
    learning: LearningParameters, *, seed: int, rows: int, threads: int
) -> dict[str, Any]:
    """The full parameter set of a fit: recorded, and nothing is left to a default that differs between machines.

    Args:
        rows: training rows; bins are built from all of them, so that they do not depend on a sample.
        threads: number of threads.

    Raises:
        TrainingError: the number of threads is not given.
    """
    if threads < 1:
        raise TrainingError(
            "the number of threads is part of what is recorded: give 1 or more, not a default"
        )
    return {
        "objective": "binary",
        "learning_rate": learning.learning_rate,
        "num_leaves": learning.num_leaves,
        "lambda_l2": learning.lambda_l2,
        "min_child_samples": learning.min_child_samples,
        "feature_fraction": learning.feature_fraction,
        "seed": seed,
        "deterministic": True,
        "force_row_wise": True,
        "num_threads": threads,
        "feature_pre_filter": False,
        "bin_construct_sample_cnt": max(rows, MIN_BIN_SAMPLE),
        "verbosity": -1,
    }


def made_with() -> dict[str, str]:
    """The libraries and the kind of machine that this process learns with."""
    return {name: version(name) for name in _LIBRARIES} | {
        "python": platform.python_version(),
        "machine": platform.machine(),
    }


def midnight(day: date) -> datetime:
    """The first instant of a day, UTC."""
    return datetime.combine(day, time(), tzinfo=UTC)
