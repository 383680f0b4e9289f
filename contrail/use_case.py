"""What the library is told about one model: a frozen `UseCase` that the domain declares.

Nothing here knows what the rows are about. A use case names its columns, its query and its rules; training, scoring,
monitoring and the registry take everything else from it.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field
from datetime import timedelta
from fractions import Fraction
from typing import Any, Literal

NAME = re.compile(r"^[a-z][a-z0-9_]*$")

RiskClass = Literal["minimal", "limited", "high"]
MissingPolicy = Literal["score_with_missing", "refuse"]
RequestTime = Callable[[Mapping[str, Any]], Mapping[str, Any]]
FeatureCode = Callable[[], Mapping[str, str]]


class UseCaseError(ValueError):
    """A use case is declared with values that contradict each other."""


@dataclass(frozen=True)
class LearningParameters:
    """How the boosted trees are learnt (the defaults won a backtest over months, by log-loss).

    There is no bagging: it picks rows by their number, and no early stopping: a calm validation month would choose
    too few trees.

    Attributes:
        learning_rate: shrinkage of each tree.
        num_leaves: leaves per tree.
        lambda_l2: L2 penalty of the leaf values.
        min_child_samples: least rows per leaf.
        feature_fraction: share of the features that each tree may use; the draw depends on seed and feature order.
        rounds: number of trees.
    """

    learning_rate: float = 0.05
    num_leaves: int = 31
    lambda_l2: float = 20.0
    min_child_samples: int = 100
    feature_fraction: float = 0.4
    rounds: int = 250


@dataclass(frozen=True)
class SplitShares:
    """Shares of the data's range of partition days, in order of time; the test part is what remains."""

    train: Fraction = Fraction(2, 3)
    validate: Fraction = Fraction(1, 6)

    def __post_init__(self) -> None:
        if self.train <= 0 or self.validate < 0 or self.train + self.validate >= 1:
            raise UseCaseError(
                f"split shares leave no test part: train {self.train}, validate {self.validate}"
            )


@dataclass(frozen=True)
class Criteria:
    """What a model must reach; hashed (`UseCase.criteria_sha256`) before the fit, judged after it.

    Attributes:
        min_log_loss_gain: least log-loss gain over the naive reference on the test part.
        min_auc_gain: least AUC gain over the naive reference on the test part.
        max_auc: AUC above which a leak is suspected before a good model.
        max_bias: greatest |mean score − label rate| on the test part.
        max_calibration_error: greatest expected calibration error (ten bins of equal mass) on the test part.
        max_slice_bias: as `max_bias`, for every slice of at least `min_slice_rows` rows.
        min_slice_rows: slices with fewer rows are reported with their size and judged by nobody.
        min_backtest_gain: least log-loss gain over the naive reference in the worst month of the backtest.
        confidence: of every interval and test.
        min_champion_gain: least log-loss gain over the champion on the same days; the whole interval must lie above it.
        min_champion_slice_rows: slices of at least so many rows on which the champion may not be significantly better.
        max_predict_milliseconds: CPU of one score of one row.
        needs_parity: online must have been found equal to offline.
        alarm_bias: |mean score − label rate| above which a monitored window counts as off.
    """

    min_log_loss_gain: float = 0.02
    min_auc_gain: float = 0.05
    max_auc: float = 1.0
    max_bias: float = 0.05
    max_calibration_error: float = 0.05
    max_slice_bias: float = 0.10
    min_slice_rows: int = 300
    min_backtest_gain: float = 0.0
    confidence: float = 0.95
    min_champion_gain: float = 0.0
    min_champion_slice_rows: int = 1000
    max_predict_milliseconds: float = 1.0
    needs_parity: bool = True
    alarm_bias: float = 0.03


@dataclass(frozen=True)
class UseCase:
    """One model of the project, as the domain declares it.

    Attributes:
        name: identifier, ``snake_case``; names tables, the registered model and the feature service's model.
        title: a few words for people.
        description: what is predicted, for whom, and what it must not be used for.
        feature_service: name of the feature service that yields `features`.
        spine_sql: a SELECT over the clean views: one row per entity with `entity_key`, `partition_column` (DATE),
            `decision_column` (TIMESTAMPTZ), `label` (BOOLEAN, null until known), `outcome_known_column`
            (TIMESTAMPTZ, null until known), `join_keys`, `request_columns`, `naive_group_columns` and `slices`.
        entity_key: column that identifies a row.
        join_keys: entity columns that the feature views are joined by.
        request_columns: what the caller knows at decision time; inputs of `request_time`.
        request_time: columns (of the request, and what the feature service looked up for it) → those features that
            are made when the question is asked.
        request_known_column: spine column that says when the latest fact of the request was known.
        partition_column: day by which rows are scored, split and monitored.
        decision_column: instant of the decision: nothing known later may enter the vector.
        outcome_known_column: instant at which the label became known.
        label: what is predicted.
        horizon: how long before the event, at the least, the decision is made.
        features: the model's inputs; the order is part of the model.
        categorical: those of `features` that are texts.
        naive_group_columns: the naive reference is the training label rate per group of these columns.
        slices: columns by whose values the metrics are shown and judged.
        personal: columns that may never be features, nor be stored with a score.
        learning: learning parameters.
        seed: seed of the fit.
        split: shares of the range.
        min_training_days: least days in the training part.
        criteria: what a model must reach.
        decision_threshold: a score at or above it is a positive decision.
        missing_policy: what to do with a row of which a feature is missing.
        label_delay: after a day's end (UTC), how long until all its labels are known.
        risk_class: how much harm a wrong decision does. The first model of a use case of class ``high`` needs approval
            like any other; of a lower class it becomes champion by rule.
        approvals_needed: how many people must approve a promotion; who asks for it is none of them.
        request_valid_for: how long a promotion request may wait for its decision.
        feature_code: names what the features are made by and gives the sha256 of each piece's meaning; called when a
            model is stored and before one scores.
    """

    name: str
    title: str
    description: str
    feature_service: str
    spine_sql: str
    entity_key: str
    join_keys: tuple[str, ...]
    request_columns: tuple[str, ...]
    request_time: RequestTime
    partition_column: str
    decision_column: str
    outcome_known_column: str
    label: str
    horizon: timedelta
    features: tuple[str, ...]
    categorical: tuple[str, ...]
    naive_group_columns: tuple[str, ...]
    slices: tuple[str, ...] = ()
    personal: tuple[str, ...] = ()
    learning: LearningParameters = field(default_factory=LearningParameters)
    seed: int = 7
    split: SplitShares = field(default_factory=SplitShares)
    min_training_days: int = 28
    criteria: Criteria = field(default_factory=Criteria)
    decision_threshold: float = 0.5
    missing_policy: MissingPolicy = "score_with_missing"
    label_delay: timedelta = timedelta(days=1)
    risk_class: RiskClass = "limited"
    approvals_needed: int = 1
    request_valid_for: timedelta = timedelta(hours=72)
    request_known_column: str = ""
    feature_code: FeatureCode = dict[str, str]

    def __post_init__(self) -> None:
        def refuse(reason: str) -> None:
            raise UseCaseError(f"use case {self.name!r}: {reason}")

        if not NAME.match(self.name):
            refuse("the name must be snake_case")
        if not self.features or len(set(self.features)) != len(self.features):
            refuse("features must be named, each once")
        if strays := sorted(set(self.categorical) - set(self.features)):
            refuse(f"categorical columns are no features: {strays}")
        forbidden = {self.label, self.outcome_known_column, self.entity_key, *self.personal}
        if leaks := sorted(forbidden & set(self.features)):
            refuse(f"label, outcome, key and personal columns may not be features: {leaks}")
        if not 0.0 < self.decision_threshold < 1.0:
            refuse(f"the decision threshold is a probability, not {self.decision_threshold}")
        if self.horizon <= timedelta(0):
            refuse(f"the horizon must lie before the event, not {self.horizon}")
        if self.min_training_days < 1:
            refuse("min_training_days must be at least 1")
        if self.approvals_needed < 1:
            refuse("at least one person must approve a promotion")
        if self.request_valid_for <= timedelta(0):
            refuse(f"a promotion request must be valid for some time, not {self.request_valid_for}")

    @property
    def feature_order_sha256(self) -> str:
        """The identity of the ordered feature list."""
        return hashlib.sha256("\n".join(self.features).encode()).hexdigest()

    @property
    def criteria_sha256(self) -> str:
        """The identity of all that a model is judged by: limits, slices, reference, split, threshold."""
        judged_by = {
            "criteria": asdict(self.criteria),
            "slices": self.slices,
            "naive_group_columns": self.naive_group_columns,
            "split": {name: str(share) for name, share in asdict(self.split).items()},
            "decision_threshold": self.decision_threshold,
        }
        return hashlib.sha256(json.dumps(judged_by, sort_keys=True).encode()).hexdigest()

    @property
    def horizon_minutes(self) -> int:
        return int(self.horizon / timedelta(minutes=1))

    @property
    def spine_columns(self) -> tuple[str, ...]:
        """Every column that `spine_sql` must yield, each once."""
        named = (
            self.entity_key,
            self.partition_column,
            self.decision_column,
            self.label,
            self.outcome_known_column,
            *([self.request_known_column] if self.request_known_column else ()),
            *self.join_keys,
            *self.request_columns,
            *self.naive_group_columns,
            *self.slices,
        )
        return tuple(dict.fromkeys(named))
