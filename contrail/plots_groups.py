"""Plots per feature, slice or month, as PNG bytes; see `contrail.plots` for how they are drawn."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pyarrow as pa

from contrail.comparison import Comparison
from contrail.encoding import Floats
from contrail.evaluation import GroupMetrics
from contrail.explanation import Explanation
from contrail.plots import BLUE, GREEN, GRID, INK, MUTED, ORANGE, RED, WIDEST, figure, png

ROW_INCHES = 0.3  # height of one named line
SWARM_BINS = 60


def shap_summary(explained: Explanation, *, title: str, top: int = 20) -> bytes:
    """One point per row and feature: what the value added to the score, coloured by the value. 1000 × 800 pixels.

    Features are ordered by mean |SHAP value|. Of a number the colour is its rank among the rows; codes of texts have no
    order, so they and missing values are grey.
    """
    names = list(explained.importance)[:top]
    canvas, (axes,) = figure(10, 8)
    shade: Any = None
    for place, name in enumerate(reversed(names)):
        column = explained.features.index(name)
        values, inputs = explained.values[:, column], explained.inputs[:, column]
        height = place + _spread(values)
        grey = np.isnan(inputs) | (name in explained.texts)
        axes.scatter(values[grey], height[grey], s=5, color=MUTED, alpha=0.6, linewidths=0)
        shade = axes.scatter(
            values[~grey],
            height[~grey],
            s=5,
            c=_ranks(inputs[~grey]),
            cmap="cividis",
            vmin=0,
            vmax=1,
            alpha=0.8,
            linewidths=0,
        )
    axes.axvline(0, color=MUTED, linewidth=1)
    axes.set(
        xlabel="SHAP value (added to the log-odds of a positive label)",
        title=title,
        ylim=(-0.7, len(names) - 0.3),
    )
    axes.set_yticks(range(len(names)), list(reversed(names)), fontsize=8)
    if shade is not None:
        bar = canvas.colorbar(shade, ax=axes, pad=0.01, aspect=40)
        bar.set_label("value of the feature; grey: text or missing")
        bar.set_ticks([0, 1], labels=["low", "high"])
    return png(canvas)


def slices(found: Sequence[GroupMetrics], *, title: str, max_bias: float, part: str = "test") -> bytes:
    """AUC and bias of every slice with their intervals, the worst AUC first. 1080 pixels wide, 30 per slice high.

    Args:
        found: evaluated groups.
        title: above it.
        max_bias: |bias| above which a slice is off; the band between is shaded.
        part: whose slices.
    """
    whole = next(item for item in found if item.part == part and item.kind == "all")
    listed = [item for item in found if item.part == part and item.kind not in ("all", "month")]
    listed.sort(key=lambda item: (-np.nan_to_num(item.model.auc, nan=2.0), item.kind, item.group))
    canvas, (left, right) = figure(WIDEST, 1.6 + ROW_INCHES * max(len(listed), 4), columns=2)
    places = np.arange(len(listed))
    for axes, metric, scale in ((left, "auc", 1.0), (right, "bias", 100.0)):
        middle = scale * np.array([getattr(item.model, metric) for item in listed], dtype=np.float64)
        ends = scale * np.array([item.intervals[metric] for item in listed], dtype=np.float64).reshape(-1, 2)
        _dots(axes, places, middle, ends, [BLUE] * len(listed), ["o"] * len(listed))
    marks: dict[str, Any] = {"color": ORANGE, "marker": "|", "markersize": 10, "markeredgewidth": 2.5}
    left.plot([i.naive.auc for i in listed], places, linestyle="none", label="naive reference", **marks)
    left.plot([], [], color=BLUE, marker="o", label="model, interval over resampled days")
    left.axvline(whole.model.auc, color=BLUE, linestyle="--", linewidth=1, label="model, all rows")
    allowed = f"allowed: ±{100 * max_bias:g}"
    right.axvspan(-100 * max_bias, 100 * max_bias, color=GRID, alpha=0.6, zorder=0, label=allowed)
    right.axvline(0, color=MUTED, linewidth=1)
    left.set(xlabel="AUC")
    right.set(xlabel="mean score − label rate (percentage points)")
    for axes in (left, right):
        axes.legend(loc="lower center", bbox_to_anchor=(0.5, 1.0), ncols=3, frameon=False, fontsize=9)
    left.set_yticks(
        places, [f"{item.kind} {item.group}  (n = {item.model.rows:,})" for item in listed], fontsize=9
    )
    right.set_yticks(places, [])
    for axes in (left, right):
        axes.set_ylim(-0.7, len(listed) - 0.3)
    canvas.suptitle(title, color=INK, fontweight="bold")
    return png(canvas)


def comparison(found: Comparison, *, title: str) -> bytes:
    """The challenger's gain over the champion, overall and by slice, worst first.

    1000 pixels wide, 30 per slice high.
    """
    ordered = sorted(found.slices, key=lambda item: -item.gain)
    names = [f"{item.column} {item.value}  (n = {item.rows:,})" for item in ordered]
    names.append(f"all rows  (n = {found.rows:,}, {found.days} days)")
    middle = np.array([*(item.gain for item in ordered), found.gain])
    ends = np.array([*((item.low, item.high) for item in ordered), (found.low, found.high)])
    worse = [*(item.is_worse for item in ordered), False]
    colours = [RED if each else BLUE for each in worse]
    canvas, (axes,) = figure(10, 1.6 + ROW_INCHES * max(len(names), 4))
    places = np.arange(len(names), dtype=np.float64)
    places[-1] += 0.5
    _dots(axes, places, middle, ends, colours, ["X" if each else "o" for each in worse])
    axes.plot(middle[-1:], places[-1:], color=INK, marker="D", markersize=8, linestyle="none", zorder=4)
    axes.axhline(len(names) - 1.0, color=MUTED, linewidth=1)
    axes.axvline(0, color=INK, linewidth=1)
    axes.set_yticks(places, names, fontsize=9)
    axes.set(
        xlabel=f"log-loss gain over the champion (nats; right of 0 the challenger is better)\n"
        f"{found.confidence:.0%} intervals, paired by day; crosses: significantly worse after Holm's correction",
        title=title,
        ylim=(-0.7, len(names) + 0.2),
    )
    return png(canvas)


def backtest(table: pa.Table, *, title: str) -> bytes:
    """Log-loss, AUC and bias by month, each month by a model that knew only earlier ones. 1080 × 900 pixels.

    Args:
        table: rows of `contrail.backtest`; at least one.
        title: above it.
    """
    months = [f"{month:%Y-%m}" for month in table.column("month").to_pylist()]
    canvas, (loss, rank, bias) = figure(WIDEST, 9, rows=3)
    for axes, model, naive, label in (
        (loss, "log_loss", "naive_log_loss", "log-loss (nats), lower is better"),
        (rank, "auc", "naive_auc", "AUC, higher is better"),
    ):
        axes.plot(
            months, _column(table, naive), color=ORANGE, marker="s", linestyle="--", label="naive reference"
        )
        axes.plot(months, _column(table, model), color=BLUE, marker="o", label="model")
        axes.set(ylabel=label)
        axes.legend(loc="best", frameon=False)
    bias.bar(months, 100 * _column(table, "bias"), color=GREEN, width=0.6)
    bias.axhline(0, color=MUTED, linewidth=1)
    bias.set(
        ylabel="mean score − label rate\n(percentage points)",
        xlabel="month that was scored, after a training on all months before it",
    )
    counts = zip(months, table.column("rows").to_pylist(), _column(table, "label_rate"), strict=True)
    bias.set_xticks(
        range(len(months)),
        [f"{month}\n{rows:,} rows\n{100 * rate:.0f} % positive" for month, rows, rate in counts],
    )
    for axes in (loss, rank):
        axes.set_xticks(range(len(months)), [""] * len(months))
    for axes in (loss, rank, bias):
        axes.set_xlim(-0.6, len(months) - 0.4)  # the same month stands on the same line
    loss.set_title(title)
    return png(canvas)


def _dots(
    axes: Any, places: Any, middle: Floats, ends: Floats, colours: Sequence[str], markers: Sequence[str]
) -> None:
    """A point with its interval per line; without an interval the point alone."""
    for place, at, (low, high), colour, marker in zip(places, middle, ends, colours, markers, strict=True):
        axes.plot([low, high], [place, place], color=colour, linewidth=1.8, solid_capstyle="butt")
        axes.plot([at], [place], color=colour, marker=marker, markersize=6, linestyle="none", zorder=3)
    axes.grid(visible=False, axis="y")


def _spread(values: Floats) -> Floats:
    """Of each value, how far off its line to draw it: points that would cover each other lie side by side."""
    low, high = (values.min(), values.max()) if len(values) else (0.0, 0.0)
    place = np.minimum(((values - low) / ((high - low) or 1.0) * SWARM_BINS).astype(np.int64), SWARM_BINS - 1)
    counts = np.bincount(place, minlength=SWARM_BINS)
    order = np.argsort(place, kind="stable")
    starts = np.cumsum(counts) - counts
    turn = np.empty(len(values))
    turn[order] = np.arange(len(values)) - starts[place[order]]
    side = np.where(turn % 2 == 0, 1.0, -1.0) * np.ceil(turn / 2.0)
    return 0.8 * side / max(int(counts.max(initial=1)), 1)


def _ranks(values: Floats) -> Floats:
    """Rank of each value between 0 and 1, equal values alike."""
    _, where = np.unique(values, return_inverse=True)
    return where / max(int(where.max(initial=0)), 1)


def _column(table: pa.Table, name: str) -> Floats:
    return np.asarray(table.column(name).to_numpy(), dtype=np.float64)
