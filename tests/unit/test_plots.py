"""Plots are images of the stated size, the same for the same numbers, and draw also what is odd or missing."""

from __future__ import annotations

import io
import math
from collections.abc import Callable
from dataclasses import replace
from datetime import date, timedelta

import numpy as np
import pyarrow as pa
import pytest
from PIL import Image

from contrail import backtest, evaluation, plots, plots_groups
from contrail.comparison import Comparison, SliceComparison
from contrail.evaluation import NaiveReference
from contrail.explanation import Explanation
from tests.support import small_model
from tests.support.small_model import USE_CASE

LABELS, SCORES = np.arange(500) % 3 == 0, np.linspace(0.01, 0.99, 500)
DAYS = np.arange(500) // 50


def windows(count: int) -> list[dict[str, object]]:
    start = date(2024, 1, 1)
    return [
        {
            "window_start": start + timedelta(days=14 * i),
            "window_end": start + timedelta(days=14 * (i + 1)),
            "log_loss": 0.4,
            "naive_log_loss": 0.5,
            "bias": 0.05 if i % 2 else -0.01,
            "auc": None if i == 0 else 0.7,
            "naive_auc": 0.6,
            "drifted_share": 0.3,
        }
        for i in range(count)
    ]


def groups(rows: pa.Table) -> list[evaluation.GroupMetrics]:
    naive = NaiveReference.learn(rows, USE_CASE.naive_group_columns, np.array(rows.column("is_broken")))
    lenient = replace(USE_CASE, criteria=replace(USE_CASE.criteria, min_slice_rows=1))
    return evaluation.evaluate(rows, np.linspace(0.05, 0.9, rows.num_rows), naive, lenient, part="test")


def compared(slices: int, *, low: float = 0.01) -> Comparison:
    return Comparison(
        days=60,
        rows=5_000,
        confidence=0.95,
        gain=0.02,
        low=low,
        high=0.03,
        slices=tuple(
            SliceComparison("maker", f"m{i}", 1_000, 0.02 - 0.01 * i, -0.02, 0.04, 0.01, 0.02, i == 3)
            for i in range(slices)
        ),
    )


def explained(rows: int) -> Explanation:
    draw = np.random.default_rng(1)
    inputs = draw.normal(size=(rows, 3))
    inputs[: rows // 4, 0] = math.nan
    return Explanation(
        ("a", "b", "c"), draw.normal(size=(rows, 3)) * [3, 2, 1], inputs, frozenset({"c"}), 0.1
    )


def months(auc: float | None) -> pa.Table:
    listed = [
        {"month": date(2024, i, 1), "train_rows": 9, "rows": 1_000, "label_rate": 0.3, "auc": auc}
        | {"log_loss": 0.5, "brier": 0.2, "bias": 0.01 * i, "naive_auc": 0.6, "naive_log_loss": 0.55}
        for i in (4, 5, 6)
    ]
    return pa.Table.from_pylist(listed, schema=backtest.SCHEMA)


REFERENCES = {"naive": np.round(SCORES, 1), "logistic": SCORES**2}
PLOTS: dict[str, tuple[Callable[[], bytes], tuple[int, int]]] = {
    "calibration": (lambda: plots.calibration(LABELS, SCORES, DAYS, title="t"), (800, 850)),
    "calibration, one day": (lambda: plots.calibration(LABELS, SCORES, DAYS * 0, title="t"), (800, 850)),
    "precision_recall": (
        lambda: plots.precision_recall(LABELS, SCORES, REFERENCES, threshold=0.5, title="t"),
        (1080, 520),
    ),
    "precision_recall, none selected": (
        lambda: plots.precision_recall(LABELS, SCORES, {}, threshold=0.995, title="t"),
        (1080, 520),
    ),
    "ranking": (lambda: plots.ranking(LABELS, SCORES, np.round(SCORES, 1), title="t"), (1080, 520)),
    "importance": (
        lambda: plots.importance({f"feature_{i}": 1 / (i + 1) for i in range(40)}, title="t"),
        (900, 800),
    ),
    "monitor": (lambda: plots.monitor(windows(5), title="t", alarm_bias=0.03), (1080, 1000)),
    "shap_summary": (lambda: plots_groups.shap_summary(explained(200), title="t"), (1000, 800)),
    "shap_summary, one row": (lambda: plots_groups.shap_summary(explained(1), title="t"), (1000, 800)),
    "slices": (
        lambda: plots_groups.slices(groups(small_model.rows(days=10)), title="t", max_bias=0.1),
        (1080, 280),
    ),
    "slices, one day": (
        lambda: plots_groups.slices(groups(small_model.rows(days=1)), title="t", max_bias=0.1),
        (1080, 280),
    ),
    "comparison": (lambda: plots_groups.comparison(compared(8), title="t"), (1000, 430)),
    "comparison, one day, no slice": (
        lambda: plots_groups.comparison(compared(0, low=math.nan), title="t"),
        (1000, 280),
    ),
    "backtest": (lambda: plots_groups.backtest(months(0.7), title="t"), (1080, 900)),
    "backtest, no AUC": (lambda: plots_groups.backtest(months(None), title="t"), (1080, 900)),
}


@pytest.mark.parametrize("name", list(PLOTS))
def test_plots_are_images_of_the_stated_size_and_the_same_each_time(name):
    draw, size = PLOTS[name]
    drawn = draw()
    image = Image.open(io.BytesIO(drawn))
    image.load()
    assert (image.format, image.size) == ("PNG", size)
    assert len(set(image.convert("L").tobytes())) > 20, "an empty canvas has one or two shades"
    if "," not in name:
        assert draw() == drawn


@pytest.mark.parametrize(
    ("one", "other"),
    [
        (
            lambda: plots_groups.comparison(compared(2), title="t"),
            lambda: plots_groups.comparison(compared(2, low=-0.01), title="t"),
        ),
        (
            lambda: plots_groups.backtest(months(0.7), title="t"),
            lambda: plots_groups.backtest(months(0.8), title="t"),
        ),
        (
            lambda: plots.calibration(LABELS, SCORES, DAYS, title="t"),
            lambda: plots.calibration(LABELS, SCORES, np.arange(500) % 7, title="t"),
        ),
        (
            lambda: plots.precision_recall(LABELS, SCORES, {}, threshold=0.5, title="t"),
            lambda: plots.precision_recall(LABELS, SCORES, {}, threshold=0.6, title="t"),
        ),
    ],
    ids=["interval", "auc", "days", "threshold"],
)
def test_other_numbers_are_other_pictures(one, other):
    assert one() != other()
