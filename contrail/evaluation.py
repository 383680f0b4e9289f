"""How good scores are: ranking, probability error and calibration, always next to references on the same rows.

Month to month the achievable numbers swing without any fault, so a model is judged against the naive reference on the
same days and never against a fixed number alone. Intervals come from a bootstrap over days.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any, cast

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from contrail.bootstrap import DayDraws, Interval
from contrail.encoding import Booleans, Floats, Integers, booleans, pc
from contrail.use_case import UseCase

EPSILON = float(
    np.finfo(np.float64).eps
)  # scores of exactly 0 or 1 are moved by this much, as scikit-learn does
CALIBRATION_BINS = 10
SMOOTHING_ROWS = 20.0
SEPARATOR = "\x1f"
# Of the whole part every metric has an interval; of a month or slice those that are cheap over many groups.
GROUP_INTERVALS = ("auc", "log_loss", "bias")
INTERVALS = ("auc", "pr_auc", "log_loss", "brier", "ece", "bias")
_RANGES = dict.fromkeys(INTERVALS, (0.0, 1.0)) | {"log_loss": (0.0, math.inf), "bias": (-1.0, 1.0)}

EVALUATION_SCHEMA = pa.schema(
    [
        pa.field("part", pa.string(), nullable=False),
        pa.field("kind", pa.string(), nullable=False),
        pa.field("group", pa.string(), nullable=False),
        pa.field("rows", pa.int64(), nullable=False),
        *(pa.field(name, pa.float64()) for name in ("label_rate", "mean_score", "bias", "auc", "pr_auc")),
        *(
            pa.field(name, pa.float64())
            for name in (
                *("log_loss", "brier", "ece", "naive_auc", "naive_log_loss"),
                *("logistic_auc", "logistic_log_loss"),
                *(f"{metric}_{end}" for metric in INTERVALS for end in ("low", "high")),
            )
        ),
    ]
)


class EvaluationError(ValueError):
    """Labels and scores do not fit together."""


@dataclass(frozen=True)
class Metrics:
    """Of one set of rows. Without rows, or with labels of one kind only, what cannot be said is NaN.

    Attributes:
        rows: number of rows.
        label_rate: share of positive labels.
        mean_score: mean score.
        bias: mean score − label rate (calibration in the large).
        auc: probability that a positive ranks above a negative, ties counting half.
        pr_auc: average precision.
        log_loss: mean negative log-likelihood, nats.
        brier: mean squared error of the probability.
        ece: expected calibration error over ten bins of equal mass.
    """

    rows: int
    label_rate: float
    mean_score: float
    bias: float
    auc: float
    pr_auc: float
    log_loss: float
    brier: float
    ece: float


def metrics(labels: Booleans, scores: Floats) -> Metrics:
    """All metrics of one set of rows.

    Raises:
        EvaluationError: different lengths, or scores outside [0, 1].
    """
    if len(labels) != len(scores):
        raise EvaluationError(f"{len(labels)} labels but {len(scores)} scores")
    if len(labels) == 0:
        nan = math.nan
        return Metrics(0, nan, nan, nan, nan, nan, nan, nan, nan)
    if not (np.isfinite(scores).all() and scores.min() >= 0.0 and scores.max() <= 1.0):
        raise EvaluationError("scores must be probabilities: some are outside [0, 1] or not finite")
    truth = labels.astype(np.float64)
    rate, mean = float(truth.mean()), float(scores.mean())
    return Metrics(
        rows=len(labels),
        label_rate=rate,
        mean_score=mean,
        bias=mean - rate,
        auc=auc(labels, scores),
        pr_auc=average_precision(labels, scores),
        log_loss=float(log_losses(labels, scores).mean()),
        brier=float(np.mean((scores - truth) ** 2)),
        ece=calibration_error(labels, scores),
    )


def log_losses(labels: Booleans, scores: Floats) -> Floats:
    """Negative log-likelihood of every row, nats."""
    clipped = np.clip(scores, EPSILON, 1.0 - EPSILON)
    return -np.where(labels, np.log(clipped), np.log1p(-clipped))


def auc(labels: Booleans, scores: Floats) -> float:
    """Area under the ROC curve by ranks, ties counting half; NaN when all labels are equal."""
    positives = int(labels.sum())
    negatives = len(labels) - positives
    if positives == 0 or negatives == 0:
        return math.nan
    _, where, repeats = np.unique(scores, return_inverse=True, return_counts=True)
    ends = np.cumsum(repeats)
    mean_rank = ends - (repeats - 1) / 2.0
    rank_sum = float(mean_rank[where][labels].sum())
    return (rank_sum - positives * (positives + 1) / 2.0) / (positives * negatives)


def average_precision(labels: Booleans, scores: Floats) -> float:
    """Area under the precision-recall curve as a step function; NaN without a positive label."""
    positives = int(labels.sum())
    if positives == 0:
        return math.nan
    _, where, repeats = np.unique(-scores, return_inverse=True, return_counts=True)
    hits = np.bincount(where, weights=labels.astype(np.float64), minlength=len(repeats))
    precision = np.cumsum(hits) / np.cumsum(repeats)
    return float(np.sum(precision * hits) / positives)


def equal_mass_bins(scores: Floats, bins: int = CALIBRATION_BINS) -> Integers:
    """Of each row, its bin of (nearly) equal mass by score: 0, 1, …, none empty; equal scores share a bin."""
    ordered = np.sort(scores)
    ranks = np.ceil(np.arange(1, bins) / bins * len(ordered)).astype(np.int64) - 1
    edges = np.unique(ordered[np.maximum(ranks, 0)])
    _, place = np.unique(np.searchsorted(edges, scores, side="left"), return_inverse=True)
    return place.astype(np.int64)


def calibration_bins(
    labels: Booleans, scores: Floats, bins: int = CALIBRATION_BINS
) -> tuple[Floats, Floats, Floats]:
    """Bins of equal mass by score: mean score, label rate and rows of each (equal scores share a bin)."""
    place = equal_mass_bins(scores, bins)
    rows = np.bincount(place).astype(np.float64)
    mean = np.bincount(place, weights=scores) / rows
    rate = np.bincount(place, weights=labels.astype(np.float64)) / rows
    return mean, rate, rows


def calibration_error(labels: Booleans, scores: Floats) -> float:
    """Mean |mean score − label rate| over the bins, weighted by rows."""
    mean, rate, rows = calibration_bins(labels, scores)
    return float(np.sum(np.abs(mean - rate) * rows) / np.sum(rows))


@dataclass(frozen=True)
class NaiveReference:
    """What anybody could say without a model: the training label rate of the row's group.

    Rates are smoothed towards the overall rate by `SMOOTHING_ROWS` rows; a group never seen gets the overall rate.

    Attributes:
        columns: the columns that make a group.
        base_rate: overall training label rate.
        rates: group (its values joined by ``SEPARATOR``) → rate.
    """

    columns: tuple[str, ...]
    base_rate: float
    rates: Mapping[str, float]

    @classmethod
    def learn(cls, rows: pa.Table, columns: tuple[str, ...], labels: Booleans) -> NaiveReference:
        """Take the rates from training rows."""
        base = float(labels.mean())
        encoded = _group_names(rows, columns).dictionary_encode().combine_chunks()
        place = np.asarray(encoded.indices.to_numpy(zero_copy_only=False), dtype=np.int64)
        names = [str(name) for name in encoded.dictionary.to_pylist()]
        seen = np.bincount(place, minlength=len(names)).astype(np.float64)
        hits = np.bincount(place, weights=labels.astype(np.float64), minlength=len(names))
        rates = (hits + SMOOTHING_ROWS * base) / (seen + SMOOTHING_ROWS)
        return cls(
            tuple(columns), base, dict(sorted((n, float(r)) for n, r in zip(names, rates, strict=True)))
        )

    def predict(self, rows: pa.Table) -> Floats:
        """The reference's score of every row."""
        encoded = _group_names(rows, self.columns).dictionary_encode().combine_chunks()
        rates = np.array(
            [self.rates.get(str(n), self.base_rate) for n in encoded.dictionary.to_pylist()], np.float64
        )
        return rates[np.asarray(encoded.indices.to_numpy(zero_copy_only=False), dtype=np.int64)]

    def to_dict(self) -> dict[str, Any]:
        """Plain data for JSON."""
        return {"columns": list(self.columns), "base_rate": self.base_rate, "rates": dict(self.rates)}

    @classmethod
    def from_dict(cls, body: Mapping[str, Any]) -> NaiveReference:
        """Read what `to_dict` gave."""
        rates = {str(k): float(v) for k, v in cast(Mapping[str, Any], body["rates"]).items()}
        return cls(tuple(str(c) for c in body["columns"]), float(body["base_rate"]), rates)


@dataclass(frozen=True)
class GroupMetrics:
    """Metrics of one group of one part, with the references' on the same rows.

    Attributes:
        part: ``validate`` or ``test``, or what the caller calls its rows.
        kind: ``all``, ``month`` or the slice column.
        group: the month (``2013-11``) or the slice's value; ``all`` for the whole part.
        model: the model's metrics.
        naive: the naive reference's.
        logistic: those of the logistic regression; None where it was not asked.
        intervals: metric → (low, high) of the model's, by a bootstrap over days at the criteria's confidence.
    """

    part: str
    kind: str
    group: str
    model: Metrics
    naive: Metrics
    logistic: Metrics | None = None
    intervals: Mapping[str, Interval] = field(default_factory=dict[str, Interval])

    @property
    def references(self) -> Mapping[str, Metrics]:
        """Name → metrics of what the model must be better than."""
        return {"naive": self.naive} | ({"logistic": self.logistic} if self.logistic else {})


def evaluate(
    rows: pa.Table,
    scores: Floats,
    naive: NaiveReference,
    use_case: UseCase,
    *,
    part: str,
    logistic: Floats | None = None,
) -> list[GroupMetrics]:
    """Metrics of the rows as a whole, by month and by slice; small slices are left out.

    Args:
        rows: labelled rows with day, label, naive group and slice columns.
        scores: of those rows, in their order.
        part: what to call them.
        logistic: scores of the logistic reference for the same rows.

    Returns:
        The whole first, then months in order, then slices, each value with at least `criteria.min_slice_rows` rows.
    """
    labels = booleans(rows, use_case.label)
    reference = naive.predict(rows)
    days = rows.column(use_case.partition_column).to_numpy()
    confidence = use_case.criteria.confidence

    def group(kind: str, name: str, chosen: Booleans) -> GroupMetrics:
        truth, scored = labels[chosen], scores[chosen]
        return GroupMetrics(
            part,
            kind,
            name,
            model=metrics(truth, scored),
            naive=metrics(truth, reference[chosen]),
            logistic=None if logistic is None else metrics(truth, logistic[chosen]),
            intervals=intervals(truth, scored, days[chosen], confidence, whole=kind == "all"),
        )

    found = [group("all", "all", np.ones(len(labels), dtype=np.bool_))]
    months = pc.strftime(rows.column(use_case.partition_column), format="%Y-%m")
    found += [group("month", name, chosen) for name, chosen in groups(months)]
    for column in use_case.slices:
        for name, chosen in groups(rows.column(column)):
            if int(chosen.sum()) >= use_case.criteria.min_slice_rows:
                found.append(group(column, name, chosen))
    return found


def intervals(
    labels: Booleans, scores: Floats, days: npt.NDArray[Any], confidence: float, *, whole: bool
) -> dict[str, Interval]:
    """Intervals of the metrics by a bootstrap over days; NaN ends where fewer than two days have rows.

    Args:
        days: of each row, its day.
        confidence: of the interval, between 0 and 1.
        whole: all of `INTERVALS`; those of `GROUP_INTERVALS` without it.
    """
    draws = DayDraws.of(days)
    drawn = {
        "auc": draws.aucs(labels, scores),
        "log_loss": draws.means(log_losses(labels, scores)),
        "bias": draws.means(scores - labels),
    }
    if whole:
        drawn["brier"] = draws.means((scores - labels) ** 2)
        drawn["pr_auc"], drawn["ece"] = draws.curves(labels, scores, bins=CALIBRATION_BINS)
    found: dict[str, Interval] = {}
    for name in INTERVALS:
        if name in drawn:  # of few days an interval may reach beyond what the metric can be
            low, high = np.clip(draws.interval(drawn[name], confidence), *_RANGES[name])
            found[name] = float(low), float(high)
    return found


def evaluation_table(found: Sequence[GroupMetrics]) -> pa.Table:
    """One row per group, columns of `EVALUATION_SCHEMA`; NaN, and what was not asked, is null."""
    listed: list[dict[str, object]] = []
    for item in found:
        row: dict[str, object] = {"part": item.part, "kind": item.kind, "group": item.group}
        row |= _numbers(item)
        listed.append({k: None if isinstance(v, float) and math.isnan(v) else v for k, v in row.items()})
    return pa.Table.from_pylist(listed, schema=EVALUATION_SCHEMA)


def flat_metrics(found: Sequence[GroupMetrics]) -> dict[str, float]:
    """``test_auc``, ``test_month_2013_11_auc``, …: for a tracking server, which has no place for the slices."""
    flat: dict[str, float] = {}
    for item in found:
        if item.kind not in ("all", "month"):
            continue
        prefix = item.part if item.kind == "all" else f"{item.part}_month_{item.group.replace('-', '_')}"
        flat |= {f"{prefix}_{name}": float(value) for name, value in _numbers(item).items()}
    return {name: value for name, value in flat.items() if not math.isnan(value)}


def groups(values: Any) -> list[tuple[str, Booleans]]:
    """Each value of a column as text, in order, with the mask of its rows; null is ``(none)``."""
    encoded = pc.fill_null(values.cast(pa.string()), "(none)").dictionary_encode().combine_chunks()
    place = np.asarray(encoded.indices.to_numpy(zero_copy_only=False), dtype=np.int64)
    names = [str(name) for name in encoded.dictionary.to_pylist()]
    return [(names[code], place == code) for code in sorted(range(len(names)), key=lambda c: names[c])]


def _numbers(item: GroupMetrics) -> dict[str, float]:
    """Column → number: the model's metrics, the references' AUC and log-loss, the ends of the intervals."""
    found: dict[str, float] = asdict(item.model)
    for name, reference in item.references.items():
        found |= {f"{name}_auc": reference.auc, f"{name}_log_loss": reference.log_loss}
    for name, (low, high) in item.intervals.items():
        found |= {f"{name}_low": low, f"{name}_high": high}
    return found


def _group_names(rows: pa.Table, columns: Sequence[str]) -> Any:
    texts = [pc.fill_null(rows.column(name).cast(pa.string()), "") for name in columns]
    return pc.binary_join_element_wise(*texts, SEPARATOR)
