"""The rolling monthly backtest: each month is scored by a model that was trained on all earlier months.

It says what would have come out had the model been trained then, over many months instead of the few of the test part.
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Callable
from dataclasses import asdict
from datetime import date, datetime, timedelta

import pyarrow as pa

from contrail import training
from contrail.encoding import booleans, pc
from contrail.evaluation import metrics
from contrail.training import Cuts, Split, midnight
from contrail.use_case import UseCase

MIN_EARLIER_DAYS = 90

SCHEMA = pa.schema(
    [
        pa.field("month", pa.date32(), nullable=False),
        pa.field("train_rows", pa.int64(), nullable=False),
        pa.field("rows", pa.int64(), nullable=False),
        *(pa.field(name, pa.float64()) for name in ("label_rate", "auc", "log_loss", "brier", "bias")),
        *(pa.field(name, pa.float64()) for name in ("naive_auc", "naive_log_loss")),
    ]
)


def backtest(
    rows: pa.Table,
    use_case: UseCase,
    *,
    labels_until: datetime,
    threads: int,
    progress: Callable[[str], None] | None = None,
) -> pa.Table:
    """Train for each month on all months before it, and score the month.

    Args:
        rows: one row per entity, with the use case's key, day, decision, outcome, label and feature columns.
        use_case: names the columns and says how to learn.
        labels_until: now; an outcome that becomes known at or after it does not exist yet.
        threads: of the fits; see `training.lightgbm_parameters`.
        progress: is told each month in words before its fit.

    Returns:
        Columns of `SCHEMA`, one row per month in order; no row before the first month with `MIN_EARLIER_DAYS` earlier
        days. A training row counts when its outcome was known before the month began, and before the month's first
        decision where that is made earlier, on the evening before say. What cannot be said is null.

    Raises:
        TrainingError: there are no rows, or the labels of all earlier months are equal.
        EncodingError: a column is missing or of another type than declared.
    """
    order = training.total_order(rows, use_case.name, use_case.entity_key, use_case.decision_column)
    days = rows.column(use_case.partition_column).combine_chunks()
    known_at = rows.column(use_case.outcome_known_column)
    span = pc.min_max(days).as_py()
    months = _months(span["min"], span["max"])
    found: list[dict[str, object]] = []
    for place, (start, end) in enumerate(months, 1):
        tested, _ = training.known_before(order, days, known_at, start, end, labels_until)
        if len(tested) == 0:
            continue
        if progress is not None:
            progress(f"backtest {start:%Y-%m} ({place} of {len(months)})")
        month = rows.take(pa.array(tested))
        begins = min(midnight(start), pc.min(month.column(use_case.decision_column)).as_py())
        earlier, unknown = training.known_before(
            order, days, known_at, span["min"], start, min(begins, labels_until)
        )
        split = Split(
            cuts=Cuts(first=span["min"], train_end=start, validate_end=start, test_end=end),
            trained_until=begins,
            rows={"train": earlier},
            dropped={"train": unknown},
            labels_until=labels_until,
        )
        model = training.fit(rows, split, use_case, threads=threads)
        labels = booleans(month, use_case.label)
        ours, naive = metrics(labels, model.predict(month)), metrics(labels, model.naive.predict(month))
        row: dict[str, object] = {"month": start, "train_rows": len(earlier), "rows": ours.rows}
        row |= {name: getattr(ours, name) for name in ("label_rate", "auc", "log_loss", "brier", "bias")}
        row |= {"naive_auc": naive.auc, "naive_log_loss": naive.log_loss}
        found.append({k: None if isinstance(v, float) and math.isnan(v) else v for k, v in row.items()})
    return pa.Table.from_pylist(found, schema=SCHEMA)


def declared(use_case: UseCase) -> str:
    """The sha256 of all that a backtest takes from its declaration: one of other parameters says nothing of these."""
    taken = (
        use_case.learning,
        use_case.seed,
        use_case.features,
        use_case.categorical,
        use_case.naive_group_columns,
    )
    return hashlib.sha256(json.dumps([asdict(taken[0]), *taken[1:]], sort_keys=True).encode()).hexdigest()


def _months(first: date, last: date) -> list[tuple[date, date]]:
    """First day and day after the last, of each month of the range with enough days before it."""
    found: list[tuple[date, date]] = []
    month = first.replace(day=1)
    while month <= last:
        following = (month + timedelta(days=32)).replace(day=1)
        if (month - first).days >= MIN_EARLIER_DAYS:
            found.append((month, following))
        month = following
    return found
