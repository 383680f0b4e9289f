"""Time-ordered folds over the training and validation days: learn what was known before a block, judge on the block.

Rows of the test part never get here. Each fold stands for one training in life: it learns all rows whose outcome was
known `PURGE` before its block begins, and is judged on the block. The gap is needed because outcomes mature late and
neighbouring days share their windows. An embargo, a gap *after* the block, is what folds need that also learn from
later days; these never do.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import date, datetime, timedelta
from typing import Any

import numpy as np
import pyarrow as pa

from contrail.encoding import Booleans, Encoding, Floats, Integers, booleans, pc
from contrail.training import Cuts, TrainingError, midnight, split_by_time
from contrail.use_case import UseCase

PURGE = timedelta(days=1)
MOST_BLOCK_DAYS = 30


@dataclass(frozen=True)
class Fold:
    """One block of days and how long before it the learning stops.

    Attributes:
        trained_until: only rows decided on earlier days with an outcome known before this instant are learnt.
        first: first day of the block.
        end: the day after its last one.
        train_rows: rows learnt from; 0 while only planned.
        rows: rows of the block; 0 while only planned.
    """

    trained_until: datetime
    first: date
    end: date
    train_rows: int = 0
    rows: int = 0


@dataclass(frozen=True)
class PreparedFold:
    """A fold as LightGBM takes it; its bins and category codes come from its own training rows alone.

    Attributes:
        fold: with its row counts.
        data: the constructed Dataset of the training rows.
        valid: that of the block.
        matrix: the block's input.
        labels: the block's labels.
        place: block row → number of its day.
        day_rows: rows of each day of the block.
    """

    fold: Fold
    data: Any
    valid: Any
    matrix: Floats
    labels: Booleans
    place: Integers
    day_rows: Integers


def eligible(rows: pa.Table, use_case: UseCase, *, labels_until: datetime) -> tuple[pa.Table, Cuts]:
    """The rows that may be tuned on, by (decision time, entity key), and where the parts are cut.

    Those of the training and validation days whose outcome was known before the validation part's cut; only columns
    that tuning needs.

    Raises:
        TrainingError: there are none, or the days cannot be split.
    """
    if rows.num_rows == 0:
        raise TrainingError(f"use case {use_case.name}: the training set has no rows")
    days = rows.column(use_case.partition_column)
    span = pc.min_max(days).as_py()
    cuts = split_by_time(span["min"], span["max"], use_case)
    known_at = rows.column(use_case.outcome_known_column)
    until = pa.scalar(min(midnight(cuts.validate_end), labels_until), known_at.type)
    inside = pc.and_(pc.less(days, cuts.validate_end), pc.fill_null(pc.less(known_at, until), False))
    needed = (
        use_case.entity_key,
        use_case.partition_column,
        use_case.decision_column,
        use_case.outcome_known_column,
        use_case.label,
        *use_case.features,
    )
    kept = rows.select(list(dict.fromkeys(needed))).filter(inside)
    order = [(use_case.decision_column, "ascending"), (use_case.entity_key, "ascending")]
    return kept.sort_by(order), cuts


def plan_folds(cuts: Cuts, use_case: UseCase, *, count: int) -> tuple[Fold, ...]:
    """`count` blocks of equal length, spread evenly so that more than one season judges; the last ends with validation.

    The first begins after a third of the days, and never before the use case's least training days are learnt. A
    block has a tenth of the days, at most `MOST_BLOCK_DAYS`.

    Raises:
        TrainingError: the days are too few for so many blocks.
    """
    days = (cuts.validate_end - cuts.first).days
    length = max(1, min(MOST_BLOCK_DAYS, days // 10))
    gap = -(-PURGE // timedelta(days=1))
    earliest, latest = max(days // 3, use_case.min_training_days + gap), days - length
    if count < 2 or latest - earliest < (count - 1) * length:
        raise TrainingError(
            f"use case {use_case.name}: the {days} days of training and validation are too few for {count} folds "
            f"of {length} days after {earliest} days to learn from (at least 2 folds are needed; land more days)"
        )
    starts = [earliest + (latest - earliest) * k // (count - 1) for k in range(count)]
    return tuple(
        Fold(
            trained_until=midnight(cuts.first + timedelta(days=start)) - PURGE,
            first=cuts.first + timedelta(days=start),
            end=cuts.first + timedelta(days=start + length),
        )
        for start in starts
    )


def fold_rows(rows: pa.Table, fold: Fold, use_case: UseCase) -> tuple[Integers, Integers]:
    """Numbers of the rows that the fold learns from, and of those of its block."""
    days = rows.column(use_case.partition_column)
    known_at = rows.column(use_case.outcome_known_column)
    known = pc.less(known_at, pa.scalar(fold.trained_until, known_at.type))
    learnt = pc.and_(pc.less(days, fold.trained_until.date()), known)
    judged = pc.and_(pc.greater_equal(days, fold.first), pc.less(days, fold.end))
    return _numbers(learnt), _numbers(judged)


def prepare(
    rows: pa.Table, folds: Sequence[Fold], use_case: UseCase, parameters: dict[str, Any]
) -> tuple[PreparedFold, ...]:
    """Build every fold's own Datasets: `Dataset.subset` would take its bins from rows that the fold must not know.

    Args:
        parameters: what the bins depend on; see `contrail.training.lightgbm_parameters`.

    Raises:
        TrainingError: a fold has no row to learn from or to judge, or labels of one kind only.
    """
    import lightgbm

    prepared: list[PreparedFold] = []
    labels = booleans(rows, use_case.label)
    days = rows.column(use_case.partition_column)
    for fold in folds:
        learnt, judged = fold_rows(rows, fold, use_case)
        if not len(judged) or len(np.unique(labels[learnt])) < 2:
            raise TrainingError(
                f"use case {use_case.name}: the fold of {fold.first} has {len(learnt)} rows to learn from and "
                f"{len(judged)} to judge; both kinds of label are needed among the former (land more days)"
            )
        texts = rows.select(list(use_case.categorical)).take(pa.array(learnt))
        encoding = Encoding.learn(texts, use_case.features, use_case.categorical)
        names: dict[str, Any] = {
            "feature_name": list(encoding.features),
            "categorical_feature": [encoding.features.index(name) for name in use_case.categorical],
            "params": parameters,
        }
        matrix = encoding.matrix(rows, judged)
        data = lightgbm.Dataset(encoding.matrix(rows, learnt), labels[learnt].astype(np.float64), **names)
        valid = lightgbm.Dataset(matrix, labels[judged].astype(np.float64), data.construct(), **names)
        place, day_rows = np.unique(
            days.take(pa.array(judged)).to_numpy(), return_inverse=True, return_counts=True
        )[1:]
        prepared.append(
            PreparedFold(
                fold=Fold(fold.trained_until, fold.first, fold.end, len(learnt), len(judged)),
                data=data,
                valid=valid.construct(),
                matrix=matrix,
                labels=labels[judged],
                place=place.astype(np.int64),
                day_rows=day_rows.astype(np.int64),
            )
        )
    return tuple(prepared)


def _numbers(mask: Any) -> Integers:
    return np.flatnonzero(mask.to_numpy()).astype(np.int64)
