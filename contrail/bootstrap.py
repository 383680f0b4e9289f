"""Intervals by resampling whole days: rows of one day share what befell them all and are no independent witnesses.

A draw takes as many days as there are, with replacement; a day drawn twice counts twice. So a draw is a vector of day
weights, and every statistic here is the one that the rows, literally repeated, would give. Means need only sums per
day, the AUC only the counts of ordered pairs per pair of days; nothing but the precision-recall curve and the
calibration bins walks the rows once per draw.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from contrail.encoding import Booleans, Floats, Integers

DRAWS = 500
SEED = 20_240_229  # of every draw of days that is recorded; another one would move the intervals by their own noise
MIN_DAYS = 2

Interval = tuple[float, float]


@dataclass(frozen=True)
class DayDraws:
    """Draws of days for one set of rows.

    Attributes:
        place: of each row, the position of its day.
        weights: shape (draws, days): how often each day was drawn; every row sums to the number of days.
    """

    place: Integers
    weights: Floats

    @classmethod
    def of(cls, days: npt.NDArray[Any], *, draws: int = DRAWS, seed: int = SEED) -> DayDraws:
        """Draw the days that occur in `days` (one value per row; anything that sorts)."""
        named, place = np.unique(days, return_inverse=True)
        count = len(named)
        if count == 0:
            return cls(place.astype(np.int64), np.zeros((draws, 0)))
        drawn = np.random.default_rng(seed).multinomial(count, np.full(count, 1.0 / count), size=draws)
        return cls(place.astype(np.int64), drawn.astype(np.float64))

    @property
    def days(self) -> int:
        """How many days there are."""
        return self.weights.shape[1]

    def means(self, values: Floats) -> Floats:
        """Mean of `values` (one per row) in every draw."""
        return self.group_means(values, np.zeros(len(values), dtype=np.int64), 1)[:, 0]

    def group_means(self, values: Floats, group: Integers, groups: int) -> Floats:
        """Mean of `values` per group in every draw, shape (draws, groups); NaN where a draw has no row of the group.

        Args:
            values: one per row.
            group: of each row, its group: 0 … groups − 1.
        """
        cell = self.place * groups + group
        shape = (self.days, groups)
        sums = np.bincount(cell, weights=values, minlength=self.days * groups).reshape(shape)
        rows = np.bincount(cell, minlength=self.days * groups).reshape(shape).astype(np.float64)
        return _divide(self.weights @ sums, self.weights @ rows)

    def aucs(self, labels: Booleans, scores: Floats) -> Floats:
        """AUC in every draw, ties counting half; NaN where a draw has labels of one kind only."""
        order = np.argsort(scores[labels], kind="stable")
        high, high_day = scores[labels][order], self.place[labels][order]
        low, low_day = scores[~labels], self.place[~labels]
        by_day = np.argsort(low_day, kind="stable")
        ends = np.cumsum(np.bincount(low_day, minlength=self.days))
        pairs = np.zeros((self.days, self.days))  # (day of the positive, day of the negative): pairs in order
        for day, negatives in enumerate(np.split(low[by_day], ends[:-1]) if self.days else []):
            ordered = np.sort(negatives)
            below = np.searchsorted(ordered, high, "left") + np.searchsorted(ordered, high, "right")
            pairs[:, day] = np.bincount(high_day, weights=below / 2.0, minlength=self.days)
        wins = ((self.weights @ pairs) * self.weights).sum(axis=1)
        positives = self.weights @ np.bincount(high_day, minlength=self.days).astype(np.float64)
        negatives = self.weights @ np.bincount(low_day, minlength=self.days).astype(np.float64)
        return _divide(wins, positives * negatives)

    def curves(self, labels: Booleans, scores: Floats, *, bins: int) -> tuple[Floats, Floats]:
        """Average precision, and expected calibration error over `bins` bins of equal mass, in every draw.

        The bins are made anew in each draw, as they would be for its rows. Resampling adds noise to every bin and the
        error is a sum of absolute values, so draws lie above what was measured: read the upper end.
        """
        order = np.argsort(scores, kind="stable")
        ranked, place = scores[order], self.place[order]
        truth = labels[order].astype(np.float64)
        ends = np.append(np.flatnonzero(np.diff(ranked)), len(ranked) - 1)
        precision = np.full(len(self.weights), math.nan)
        error = np.full(len(self.weights), math.nan)
        if len(ranked):
            shares = np.arange(1, bins) / bins
            for draw, weights in enumerate(self.weights):
                taken = weights[place]
                rows = np.cumsum(taken)[ends]
                hits = np.cumsum(taken * truth)[ends]
                mass = np.cumsum(taken * ranked)[ends]
                precision[draw] = _average_precision(rows, hits)
                error[draw] = _calibration_error(rows, hits, mass, shares)
        return precision, error

    def interval(self, drawn: Floats, confidence: float, *, days: int | None = None) -> Interval:
        """The interval of a statistic from its draws; NaN where fewer than two days, or nothing, was drawn.

        Percentiles, further out than the confidence says: those of few days alone are too narrow, as a normal interval
        is where Student's is due (the expanded percentile interval of Hesterberg, "What Teachers Should Know About the
        Bootstrap", 2015). Of 60 days that changes little.

        No draw lies outside the least and the greatest day, and by chance alone all days lie on one side of the truth
        once in 2^days / 2 times. Where that is more often than the confidence allows (under six days at 95 %),
        Student's interval itself stands there, which may reach beyond what was drawn.

        Args:
            days: days that have rows of the statistic, where these are not all: what has rows on three days of sixty is
                known of three.
        """
        from scipy.special import ndtr, stdtrit

        known, count = drawn[~np.isnan(drawn)], self.days if days is None else days
        if count < MIN_DAYS or len(known) == 0:
            return math.nan, math.nan
        beyond = (1.0 - confidence) / 2.0
        student = float(stdtrit(count - 1, beyond)) * math.sqrt(count / (count - 1))
        if 0.5**count > beyond:
            middle, half = float(known.mean()), -student * float(known.std())
            return middle - half, middle + half
        outside = float(ndtr(student))
        low, high = np.quantile(known, [outside, 1.0 - outside])
        return float(low), float(high)

    def p_value(self, drawn: Floats, *, days: int | None = None) -> float:
        """Two-sided, of a statistic that is truly zero; NaN where `interval` is NaN.

        Twice the share of draws on the smaller side of zero, the sample itself counted in, brought from the normal to
        Student's distribution; and never less than the chance that all days fall on one side.

        Args:
            days: as in `interval`.
        """
        from scipy.special import ndtri, stdtr

        known, count = drawn[~np.isnan(drawn)], self.days if days is None else days
        if count < MIN_DAYS or len(known) == 0:
            return math.nan
        side = min(int((known <= 0.0).sum()), int((known >= 0.0).sum()))
        share = min(0.5, (side + 1) / (len(known) + 1))
        student = 2.0 * float(stdtr(count - 1, float(ndtri(share)) * math.sqrt((count - 1) / count)))
        return max(student, 2.0 * 0.5**count)


def _average_precision(rows: Floats, hits: Floats) -> float:
    """From cumulative weights of rows and positives over ascending scores; NaN without a positive."""
    positives = hits[-1]
    if positives == 0:
        return math.nan
    before_rows, before_hits = np.append(0.0, rows[:-1]), np.append(0.0, hits[:-1])
    at_or_above = rows[-1] - before_rows
    gained = hits - before_hits
    used = gained > 0
    return float(np.sum((positives - before_hits[used]) / at_or_above[used] * gained[used]) / positives)


def _calibration_error(rows: Floats, hits: Floats, mass: Floats, shares: Floats) -> float:
    """From cumulative weights of rows, positives and scores over ascending scores."""
    edges = np.searchsorted(rows, np.ceil(shares * rows[-1]), "left")
    last = np.unique(np.append(edges, len(rows) - 1))
    gap = np.diff(mass[last] - hits[last], prepend=0.0)
    return float(np.sum(np.abs(gap)) / rows[-1])


def _divide(above: Floats, below: Floats) -> Floats:
    return np.divide(above, below, out=np.full_like(above, math.nan), where=below > 0)
