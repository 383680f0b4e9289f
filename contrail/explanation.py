"""What moved each score: the SHAP values that LightGBM itself computes, exact for trees, for a sample of rows."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa

from contrail.encoding import Encoding, Floats

LIMIT = 2_000  # a thousand rows already rank the features as all do; each costs about a millisecond


@dataclass(frozen=True)
class Explanation:
    """SHAP values of some rows.

    Attributes:
        features: in the model's order.
        values: shape (rows, features), log-odds: what the feature's value added to the row's score.
        inputs: shape (rows, features): the values, texts as codes, missing NaN.
        texts: those of `features` that are texts.
        base: log-odds of a row of which nothing is known; base + the sum of a row's values is its score.
    """

    features: tuple[str, ...]
    values: Floats
    inputs: Floats
    texts: frozenset[str]
    base: float

    @property
    def importance(self) -> dict[str, float]:
        """Feature → mean |SHAP value|, greatest first."""
        means = np.abs(self.values).mean(axis=0) if len(self.values) else np.zeros(len(self.features))
        order = np.argsort(-means, kind="stable")
        return {self.features[i]: float(means[i]) for i in order}


def shap_values(booster: Any, encoding: Encoding, rows: pa.Table, *, limit: int = LIMIT) -> Explanation:
    """SHAP values of at most `limit` rows, evenly spaced over the table, so that the same rows are explained each time.

    Args:
        booster: the LightGBM model.
        encoding: its features and category maps.
        rows: with every feature as a column; ordered by time, the sample spreads over time.
        limit: most rows to explain.

    Raises:
        EncodingError: a feature is missing or of a type that cannot be a number.
    """
    count = min(limit, rows.num_rows)
    chosen = np.linspace(0, max(rows.num_rows - 1, 0), count).astype(np.int64)
    inputs = encoding.matrix(rows, chosen)
    texts = frozenset(encoding.categories)
    if count == 0:
        return Explanation(encoding.features, np.zeros((0, len(encoding.features))), inputs, texts, base=0.0)
    found: Floats = np.asarray(booster.predict(inputs, pred_contrib=True, num_threads=1), dtype=np.float64)
    return Explanation(encoding.features, found[:, :-1], inputs, texts, base=float(found[0, -1]))
