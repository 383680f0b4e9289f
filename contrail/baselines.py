"""The second reference: a logistic regression on the model's own features.

The naive reference says what is known without a model, this one what a simple model makes of the same features: what
the trees are better by is what their shape is worth. It is learnt from training rows only, for the report; nothing
scores with it.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pyarrow as pa

from contrail.encoding import Booleans, Encoding, Floats, Integers, booleans
from contrail.evaluation import EvaluationError
from contrail.use_case import UseCase

PENALTY = 1.0  # scikit-learn's default; the rows are so many that it hardly matters
MAX_ITERATIONS = 100  # Newton's method needs under ten
MAX_ROWS = 100_000  # more training rows are thinned out evenly: the dense matrix must stay bounded


@dataclass(frozen=True)
class LogisticReference:
    """A fitted logistic regression: numbers standardised, missing = median and a flag, texts one weight per value.

    Attributes:
        encoding: ordered features and category maps of the training rows; a value not seen there weighs nothing.
        intercept: the constant.
        numbers: positions of the numeric features.
        medians: of each numeric feature; zero where it is never there.
        means: of each, missing filled.
        scales: standard deviation of each, missing filled; one where constant.
        weights: of each, standardised.
        missing_weights: of each, where it is missing; zero where it never was.
        category_weights: text feature → weight of each value in code order.
    """

    encoding: Encoding
    intercept: float
    numbers: tuple[int, ...]
    medians: Floats
    means: Floats
    scales: Floats
    weights: Floats
    missing_weights: Floats
    category_weights: dict[str, Floats]

    @classmethod
    def learn(cls, rows: pa.Table, chosen: Integers, use_case: UseCase) -> LogisticReference:
        """Learn from some rows; the same rows give the same weights.

        Args:
            rows: with the use case's features and label.
            chosen: row numbers of the training part; of more than `MAX_ROWS`, evenly spaced ones are taken.

        Raises:
            EvaluationError: the labels of the chosen rows are all equal.
            EncodingError: a feature or the label is missing or of another type than declared.
        """
        from sklearn.linear_model import LogisticRegression
        from threadpoolctl import threadpool_limits

        if len(chosen) > MAX_ROWS:
            chosen = chosen[np.linspace(0, len(chosen) - 1, MAX_ROWS).astype(np.int64)]
        taken = rows.select(list(dict.fromkeys([use_case.label, *use_case.categorical]))).take(
            pa.array(chosen)
        )
        labels: Booleans = booleans(taken, use_case.label)
        if labels.all() or not labels.any():
            raise EvaluationError("a logistic regression needs labels of both kinds")
        encoding = Encoding.learn(taken, use_case.features, use_case.categorical)
        values = encoding.matrix(rows, chosen)
        numbers = tuple(i for i, name in enumerate(encoding.features) if name not in encoding.categories)
        numeric = values[:, list(numbers)]
        missing = np.isnan(numeric)
        medians = np.array([_median(numeric[:, i]) for i in range(len(numbers))])
        np.copyto(numeric, medians, where=missing)
        means, scales = numeric.mean(axis=0), numeric.std(axis=0)
        scales[scales == 0.0] = 1.0
        numeric -= means
        numeric /= scales
        flagged = missing.any(axis=0)
        design = np.hstack(
            [
                numeric,
                missing[:, flagged].astype(np.float64),
                *(
                    values[:, i, None] == np.arange(len(encoding.categories[name]))
                    for i, name in enumerate(encoding.features)
                    if name in encoding.categories
                ),
            ]
        )
        # One thread: how a sum is divided among threads moves its last bits.
        with threadpool_limits(limits=1):
            fitted = LogisticRegression(C=PENALTY, solver="newton-cholesky", max_iter=MAX_ITERATIONS).fit(
                design, labels
            )
        found: Floats = np.asarray(fitted.coef_[0], dtype=np.float64)
        missing_weights = np.zeros(len(numbers))
        missing_weights[flagged] = found[len(numbers) :][: int(flagged.sum())]
        categories: dict[str, Floats] = {}
        start = len(numbers) + int(flagged.sum())
        for name in encoding.features:
            if name in encoding.categories:
                end = start + len(encoding.categories[name])
                categories[name], start = found[start:end], end
        return cls(
            encoding=encoding,
            intercept=float(fitted.intercept_[0]),
            numbers=numbers,
            medians=medians,
            means=means,
            scales=scales,
            weights=found[: len(numbers)],
            missing_weights=missing_weights,
            category_weights=categories,
        )

    def predict(self, rows: pa.Table) -> Floats:
        """Probabilities of `rows`, in their order."""
        values = self.encoding.matrix(rows)
        numeric = values[:, list(self.numbers)]
        missing = np.isnan(numeric)
        standard = (np.where(missing, self.medians, numeric) - self.means) / self.scales
        total = self.intercept + standard @ self.weights + missing @ self.missing_weights
        for name, weights in self.category_weights.items():
            codes = values[:, self.encoding.features.index(name)]
            known = ~np.isnan(codes)
            total[known] += weights[codes[known].astype(np.int64)]
        return 1.0 / (1.0 + np.exp(-total))


def _median(column: Floats) -> float:
    present = column[~np.isnan(column)]
    return float(np.median(present)) if len(present) else 0.0
