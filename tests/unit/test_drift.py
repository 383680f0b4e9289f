"""PSI by hand, and profiles that count exactly."""

from __future__ import annotations

import math

import numpy as np
import pytest

from contrail.drift import DriftError, Profile, count, psi
from contrail.encoding import Encoding

DRAW = np.random.default_rng(11)


def test_psi_by_hand():
    # Two bins and one for missing, Jeffreys: p = (60.5, 30.5, 10.5) / 101.5, q = (10.5, 20.5, 20.5) / 51.5
    p = [60.5 / 101.5, 30.5 / 101.5, 10.5 / 101.5]
    q = [10.5 / 51.5, 20.5 / 51.5, 20.5 / 51.5]
    expected = sum((b - a) * math.log(b / a) for a, b in zip(p, q, strict=True))
    assert psi([60, 30, 10], [10, 20, 20]) == pytest.approx(expected, abs=1e-12)


def test_an_emptied_bin_stays_finite_and_bins_empty_in_both_do_not_count():
    assert psi([50, 50], [100, 0]) == pytest.approx(
        (100.5 / 101 - 0.5) * math.log(100.5 / 101 / 0.5) + (0.5 / 101 - 0.5) * math.log(0.5 / 101 / 0.5)
    )
    assert psi([50, 0, 50], [10, 0, 90]) == psi([50, 50], [10, 90])


def test_equal_shares_are_no_drift_and_nothing_is_not_a_number():
    assert psi([100, 100, 10], [1000, 1000, 100]) == pytest.approx(0, abs=1e-4)
    assert math.isnan(psi([1, 2], [0, 0]))
    with pytest.raises(DriftError, match="2 bins cannot be compared with counts of 3"):
        psi([1, 2], [1, 2, 3])


def test_bins_are_closed_above_and_missing_has_its_own():
    counts = count(np.array([-5.0, 1.0, 1.1, 2.0, 9.0, np.nan]), (1.0, 2.0))
    assert counts.tolist() == [2, 2, 1, 1]


def profile_of(values: np.ndarray) -> Profile:
    return Profile.of(values.reshape(-1, 1), Encoding(features=("x",)))


def test_reference_bins_have_equal_mass():
    profile = profile_of(np.arange(1, 1001, dtype=np.float64)).features["x"]
    assert profile.edges == tuple(float(e) for e in range(100, 1000, 100))
    assert profile.counts == (*[100] * 10, 0)
    assert profile.missing_rate == 0


def test_ties_collapse_and_a_feature_that_is_never_there_has_one_bin():
    assert profile_of(np.array([0.0] * 95 + [1.0] * 5)).features["x"].edges == (0.0,)
    never = profile_of(np.full(7, np.nan)).features["x"]
    assert (never.edges, never.counts, never.missing_rate) == ((), (0, 7), 1.0)


def test_categories_have_a_bin_each():
    encoding = Encoding(features=("colour",), categories={"colour": ("blue", "green", "red")})
    codes = np.array([[0.0], [0.0], [2.0], [1.0], [np.nan]])
    assert Profile.of(codes, encoding).features["colour"].counts == (2, 1, 1, 1)


def test_a_shift_is_seen_and_missing_values_are_drift():
    reference = DRAW.normal(0, 1, 20_000)
    x = profile_of(reference).features["x"]

    def drift(values: np.ndarray) -> float:
        return psi(x.counts, count(values, x.edges))

    assert drift(DRAW.normal(0, 1, 5_000)) < 0.01
    assert drift(DRAW.normal(1, 1, 5_000)) > 0.5
    half_gone = DRAW.normal(0, 1, 5_000)
    half_gone[::2] = np.nan
    assert drift(half_gone) > 1


def test_profiles_survive_json_to_the_bit():
    profile = profile_of(DRAW.normal(0, 1 / 3, 1_000))
    assert Profile.from_json(profile.to_json()) == profile


def test_windows_are_sums_of_days():
    days = [DRAW.normal(0, 1, 300) for _ in range(5)]
    edges = profile_of(np.concatenate(days)).features["x"].edges
    whole = count(np.concatenate(days), edges)
    assert (sum(count(day, edges) for day in days) == whole).all()
