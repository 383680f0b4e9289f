"""Champion against challenger: on the same rows, with the days resampled once for both.

The gain of a row is the champion's log-loss less the challenger's. What a day did to both of them cancels, so a pair
needs far fewer days than two single intervals would. Slices are tested together by Holm's procedure: of twenty slices
one looks worse by chance.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import pyarrow as pa

from contrail.bootstrap import SEED, DayDraws
from contrail.encoding import Booleans, Floats, booleans
from contrail.evaluation import EvaluationError, groups, log_losses
from contrail.use_case import UseCase

DRAWS = 10_000  # of sixty days the least p-value is 0.0005: small enough for Holm's correction over a hundred slices


@dataclass(frozen=True)
class SliceComparison:
    """One slice of at least `criteria.min_champion_slice_rows` rows.

    Attributes:
        column: the slice's column.
        value: its value as text.
        rows: rows of it.
        gain: champion's mean log-loss − challenger's; positive where the challenger is better.
        low: lower end of the gain's interval, not corrected for the number of slices; NaN as the p-value.
        high: upper end.
        p_value: two-sided, of no difference; NaN where one day only has rows of the slice.
        p_holm: the same after Holm's correction over all slices.
        is_worse: whether the challenger is significantly worse here.
    """

    column: str
    value: str
    rows: int
    gain: float
    low: float
    high: float
    p_value: float
    p_holm: float
    is_worse: bool


@dataclass(frozen=True)
class Comparison:
    """A challenger beside a champion.

    Attributes:
        days: days of the rows.
        rows: rows that both scored.
        confidence: of the intervals and tests.
        gain: champion's mean log-loss − challenger's, nats; positive where the challenger is better.
        low: lower end of its interval; NaN where there is one day only.
        high: upper end.
        slices: in the use case's order of columns, values in order.
    """

    days: int
    rows: int
    confidence: float
    gain: float
    low: float
    high: float
    slices: tuple[SliceComparison, ...]

    @property
    def worse(self) -> tuple[SliceComparison, ...]:
        """The slices on which the challenger is significantly worse."""
        return tuple(item for item in self.slices if item.is_worse)

    def to_dict(self) -> Mapping[str, Any]:
        """Plain data for the evidence."""
        return asdict(self)


def compare(
    rows: pa.Table, challenger: Floats, champion: Floats, use_case: UseCase, *, seed: int = SEED
) -> Comparison:
    """Compare two models on rows that neither was trained on.

    The caller leaves out rows whose decision lies before the later of the two trainings' ends: a champion looks better
    than it is on what it has learnt by heart.

    Args:
        rows: labelled rows with day, label and slice columns.
        challenger: its scores of those rows, in their order.
        champion: the champion's.
        seed: of the draws of days.

    Raises:
        EvaluationError: there are no rows, or not one score of each model per row.
    """
    labels = booleans(rows, use_case.label)
    if len(labels) == 0:
        raise EvaluationError("there are no rows that neither model was trained on")
    if not len(labels) == len(challenger) == len(champion):
        raise EvaluationError(
            f"{len(labels)} rows, but {len(challenger)} scores of the challenger and {len(champion)} of the champion"
        )
    confidence = use_case.criteria.confidence
    gains = log_losses(labels, champion) - log_losses(labels, challenger)
    draws = DayDraws.of(rows.column(use_case.partition_column).to_numpy(), draws=DRAWS, seed=seed)
    low, high = draws.interval(draws.means(gains), confidence)
    return Comparison(
        days=draws.days,
        rows=len(labels),
        confidence=confidence,
        gain=float(gains.mean()),
        low=low,
        high=high,
        slices=_slices(rows, gains, draws, use_case),
    )


def holm(p_values: Floats) -> Floats:
    """P-values corrected for their number by Holm's step-down procedure; NaN counts as 1."""
    known = np.where(np.isnan(p_values), 1.0, p_values)
    order = np.argsort(known, kind="stable")
    corrected = np.maximum.accumulate(known[order] * np.arange(len(known), 0, -1))
    found = np.empty_like(known)
    found[order] = np.minimum(corrected, 1.0)
    return found


def _slices(rows: pa.Table, gains: Floats, draws: DayDraws, use_case: UseCase) -> tuple[SliceComparison, ...]:
    named: list[tuple[str, str, Booleans]] = [
        (column, value, chosen)
        for column in use_case.slices
        for value, chosen in groups(rows.column(column))
        if int(chosen.sum()) >= use_case.criteria.min_champion_slice_rows
    ]
    confidence = use_case.criteria.confidence
    drawn = [draws.group_means(gains, chosen.astype(np.int64), 2)[:, 1] for _, _, chosen in named]
    days = [len(np.unique(draws.place[chosen])) for _, _, chosen in named]
    p_values = [draws.p_value(each, days=its) for each, its in zip(drawn, days, strict=True)]
    corrected = holm(np.array(p_values))
    found: list[SliceComparison] = []
    for place, (column, value, chosen) in enumerate(named):
        low, high = draws.interval(drawn[place], confidence, days=days[place])
        gain, p_holm = float(gains[chosen].mean()), float(corrected[place])
        found.append(
            SliceComparison(
                column=column,
                value=value,
                rows=int(chosen.sum()),
                gain=gain,
                low=low,
                high=high,
                p_value=p_values[place],
                p_holm=p_holm,
                is_worse=gain < 0.0 and p_holm < 1.0 - confidence,
            )
        )
    return tuple(found)
