"""Drift against a stored profile: the training rows are read once, later windows cost features × bins.

A profile keeps, per feature, ten bins of equal mass (or one per category) and one for missing values. Counts are
additive, so windows can be summed from days. PSI is Σ (q − p) ln(q / p) over the bins, missing included, with Jeffreys
smoothing (+½ per bin) instead of a floor, so that an emptied bin stays finite.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from contrail.encoding import Encoding, Floats, Integers

BINS = 10


class DriftError(ValueError):
    """A profile and rows do not fit together."""


@dataclass(frozen=True)
class FeatureProfile:
    """One feature in the reference rows.

    Attributes:
        edges: inner bin edges, ascending; bin i holds edges[i−1] < value ≤ edges[i]. Of a text feature: 0.5, 1.5, …,
            one bin per code.
        counts: rows per bin, then the rows in which it is missing.
    """

    edges: tuple[float, ...]
    counts: tuple[int, ...]

    @property
    def missing_rate(self) -> float:
        """Share of reference rows in which the feature is missing."""
        return self.counts[-1] / max(sum(self.counts), 1)


@dataclass(frozen=True)
class Profile:
    """The reference distribution of every feature, in the model's order."""

    features: Mapping[str, FeatureProfile]

    @classmethod
    def of(cls, matrix: Floats, encoding: Encoding, bins: int = BINS) -> Profile:
        """Profile the model's training matrix (shape rows × features, missing NaN).

        Numeric edges are the exact quantiles (a value that occurs, none interpolated); ties collapse.
        """
        profiles: dict[str, FeatureProfile] = {}
        for position, name in enumerate(encoding.features):
            values = matrix[:, position]
            if name in encoding.categories:
                edges = tuple(code + 0.5 for code in range(len(encoding.categories[name]) - 1))
            else:
                edges = _quantile_edges(values, bins)
            counts = count(values, edges)
            profiles[name] = FeatureProfile(edges=edges, counts=tuple(int(n) for n in counts))
        return cls(features=profiles)

    def to_json(self) -> str:
        """Text form; floats are written so that they read back to the same bits."""
        body = {name: {"edges": p.edges, "counts": p.counts} for name, p in self.features.items()}
        return json.dumps(body, indent=1)

    @classmethod
    def from_json(cls, text: str) -> Profile:
        """Read what `to_json` wrote."""
        body = json.loads(text)
        return cls(
            {
                name: FeatureProfile(tuple(float(e) for e in p["edges"]), tuple(int(n) for n in p["counts"]))
                for name, p in body.items()
            }
        )


def count(values: Floats, edges: tuple[float, ...]) -> Integers:
    """Rows per bin and, last, missing ones: shape (len(edges) + 2,)."""
    missing = np.isnan(values)
    bins = np.searchsorted(np.asarray(edges, dtype=np.float64), values[~missing], side="left")
    inside = np.bincount(bins, minlength=len(edges) + 1)
    return np.append(inside, int(missing.sum())).astype(np.int64)


def psi(reference: npt.ArrayLike, current: npt.ArrayLike) -> float:
    """Population stability index of two rows of bin counts (0: the same shares).

    Bins that are empty in both are left out. Without any current row there is nothing to compare: NaN.

    Raises:
        DriftError: the two have different numbers of bins.
    """
    a, b = np.asarray(reference, dtype=np.float64), np.asarray(current, dtype=np.float64)
    if a.shape != b.shape:
        raise DriftError(f"counts of {len(a)} bins cannot be compared with counts of {len(b)}")
    if a.sum() == 0 or b.sum() == 0:
        return float("nan")
    used = (a + b) > 0
    a, b = a[used], b[used]
    p = (a + 0.5) / (a.sum() + 0.5 * len(a))
    q = (b + 0.5) / (b.sum() + 0.5 * len(b))
    return float(np.sum((q - p) * np.log(q / p)))


def _quantile_edges(values: Floats, bins: int) -> tuple[float, ...]:
    present = np.sort(values[~np.isnan(values)])
    if len(present) == 0:
        return ()
    ranks = np.ceil(np.arange(1, bins) / bins * len(present)).astype(np.int64) - 1
    return tuple(float(edge) for edge in np.unique(present[np.maximum(ranks, 0)]))
