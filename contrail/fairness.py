"""What the decisions do to each group: rates by slice at the decision threshold, and how far the groups lie apart.

The rates are those that fairness is spoken of in: who is selected, who of the positives is found, who of the negatives
is accused. Which differences are just is no question of arithmetic; small groups are left out, because they alone would
set every difference.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pyarrow as pa

from contrail.encoding import Booleans, Floats, booleans
from contrail.evaluation import EvaluationError, groups
from contrail.use_case import UseCase

RATES = ("selection_rate", "true_positive_rate", "false_positive_rate", "precision", "bias")
DIFFERENCE = "greatest difference"

SCHEMA = pa.schema(
    [
        pa.field("kind", pa.string(), nullable=False),
        pa.field("group", pa.string(), nullable=False),
        pa.field("is_difference", pa.bool_(), nullable=False),
        pa.field("rows", pa.int64(), nullable=False),
        *(pa.field(name, pa.float64()) for name in RATES),
    ]
)


def by_slice(rows: pa.Table, scores: Floats, use_case: UseCase) -> pa.Table:
    """Rates of every slice value with at least `criteria.min_slice_rows` rows, and their differences.

    Args:
        rows: labelled rows with label and slice columns.
        scores: of those rows, in their order; at or above `decision_threshold` the decision is positive.

    Returns:
        Columns of `SCHEMA`: per slice column its values in order, then a row of the greatest difference between any two
        of them (`is_difference`), where there are two. Null is what cannot be said: the precision of a group without a
        positive decision, the rate of a group without such labels.

    Raises:
        EvaluationError: not one score per row.
    """
    labels = booleans(rows, use_case.label)
    if len(labels) != len(scores):
        raise EvaluationError(f"{len(labels)} rows but {len(scores)} scores")
    decisions = scores >= use_case.decision_threshold
    found: list[dict[str, object]] = []
    for column in use_case.slices:
        large = [
            (name, chosen)
            for name, chosen in groups(rows.column(column))
            if int(chosen.sum()) >= use_case.criteria.min_slice_rows
        ]
        if large:
            found += _of_column(column, large, labels, decisions, scores)
    return pa.Table.from_pylist(found, schema=SCHEMA)


def _of_column(
    column: str,
    large: list[tuple[str, Booleans]],
    labels: Booleans,
    decisions: Booleans,
    scores: Floats,
) -> list[dict[str, object]]:
    from fairlearn.metrics import MetricFrame

    place = np.full(len(labels), -1, dtype=np.int64)
    for code, (_, chosen) in enumerate(large):
        place[chosen] = code
    kept = place >= 0
    frame: Any = MetricFrame(
        metrics={name: _METRICS[name] for name in RATES},
        y_true=labels[kept],
        y_pred=decisions[kept],
        sensitive_features=place[kept],
        sample_params={"bias": {"scores": scores[kept]}},
    )
    by_group = frame.by_group
    listed: list[dict[str, object]] = [
        {
            "kind": column,
            "group": name,
            "is_difference": False,
            "rows": int(chosen.sum()),
            **{rate: _finite(by_group[rate][code]) for rate in RATES},
        }
        for code, (name, chosen) in enumerate(large)
    ]
    if len(large) > 1:
        differences = frame.difference(method="between_groups")
        listed.append(
            {
                "kind": column,
                "group": DIFFERENCE,
                "is_difference": True,
                "rows": int(kept.sum()),
                **{rate: _finite(differences[rate]) for rate in RATES},
            }
        )
    return listed


# MetricFrame takes any function of the labels and the decisions. The rates that come with fairlearn and scikit-learn
# say 0, with a warning, where nothing was selected; here that is unknown.
def _selection_rate(labels: Any, decisions: Any) -> float:
    return _mean(decisions)


def _true_positive_rate(labels: Any, decisions: Any) -> float:
    return _mean(decisions[labels])


def _false_positive_rate(labels: Any, decisions: Any) -> float:
    return _mean(decisions[~labels])


def _precision(labels: Any, decisions: Any) -> float:
    return _mean(labels[decisions])


def _bias(labels: Any, decisions: Any, *, scores: Any) -> float:
    return _mean(scores) - _mean(labels)


_METRICS = {
    "selection_rate": _selection_rate,
    "true_positive_rate": _true_positive_rate,
    "false_positive_rate": _false_positive_rate,
    "precision": _precision,
    "bias": _bias,
}


def _mean(values: Any) -> float:
    return float(np.mean(values)) if len(values) else math.nan


def _finite(value: Any) -> float | None:
    return float(value) if math.isfinite(value) else None
