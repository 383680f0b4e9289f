"""Plots as PNG bytes: drawn without a display, without global state, the same bytes for the same numbers."""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from contrail.encoding import Booleans, Floats

DPI = 100
INK, MUTED, GRID = "#1f2933", "#7b8794", "#e4e7eb"
BLUE, ORANGE, GREEN, RED = "#2463a8", "#d9822b", "#2f855a", "#c53030"
CURVE_POINTS = 500


def calibration(labels: Booleans, scores: Floats, *, title: str) -> bytes:
    """Reliability diagram over bins of equal mass, with 95 % intervals, and the distribution of the scores.

    700 × 700 pixels.
    """
    from contrail.evaluation import calibration_bins

    mean, rate, rows = calibration_bins(labels, scores)
    figure, (top, bottom) = _figure(7, 7, rows=2, heights=(3, 1))
    spread = 1.96 * np.sqrt(rate * (1 - rate) / rows)
    top.plot([0, 1], [0, 1], color=MUTED, linestyle="--", linewidth=1, label="perfectly calibrated")
    top.errorbar(
        mean,
        rate,
        yerr=spread,
        color=BLUE,
        marker="o",
        markersize=5,
        capsize=3,
        label="bins of equal mass, 95 % interval",
    )
    end = min(1.0, float(max(mean.max(), rate.max())) * 1.15 + 0.02)
    top.set(xlim=(0, end), ylim=(0, end), ylabel="observed share of positive labels", title=title)
    top.legend(loc="upper left", frameon=False)
    bottom.hist(scores[~labels], bins=50, range=(0, 1), color=BLUE, alpha=0.6, label="negative labels")
    bottom.hist(scores[labels], bins=50, range=(0, 1), color=ORANGE, alpha=0.7, label="positive labels")
    bottom.set(xlabel="score (predicted probability)", ylabel="rows", xlim=(0, 1))
    bottom.legend(frameon=False)
    return _png(figure)


def ranking(labels: Booleans, scores: Floats, naive: Floats, *, title: str) -> bytes:
    """ROC and precision-recall curves of the model and of the naive reference. 1200 × 560 pixels."""
    from contrail.evaluation import auc, average_precision

    figure, (left, right) = _figure(12, 5.6, columns=2)
    for name, values, colour in (("model", scores, BLUE), ("naive reference", naive, ORANGE)):
        order = np.argsort(-values, kind="stable")
        ends = np.append(np.flatnonzero(np.diff(values[order])), len(values) - 1)
        hits = np.cumsum(labels[order])[ends]
        taken = ends + 1.0
        positives, negatives = int(labels.sum()), int((~labels).sum())
        some = np.unique(np.linspace(0, len(ends) - 1, CURVE_POINTS).astype(int))
        recall = hits / max(positives, 1)
        false = (taken - hits) / max(negatives, 1)
        left.plot(
            np.append(0.0, false[some]),
            np.append(0.0, recall[some]),
            color=colour,
            label=f"{name}: area {auc(labels, values):.3f}",
        )
        right.plot(
            recall[some],
            (hits / taken)[some],
            color=colour,
            label=f"{name}: average precision {average_precision(labels, values):.3f}",
        )
    left.plot([0, 1], [0, 1], color=MUTED, linestyle="--", linewidth=1, label="by chance")
    left.set(
        xlabel="false positive rate", ylabel="true positive rate", title="ROC", xlim=(0, 1), ylim=(0, 1.02)
    )
    right.axhline(float(labels.mean()), color=MUTED, linestyle="--", linewidth=1, label="by chance")
    right.set(xlabel="recall", ylabel="precision", title="Precision and recall", xlim=(0, 1), ylim=(0, 1.02))
    left.legend(loc="lower right", frameon=False)
    right.legend(loc="upper right", frameon=False)
    figure.suptitle(title, color=INK, fontweight="bold")
    return _png(figure)


def importance(gains: Mapping[str, float], *, title: str, top: int = 25) -> bytes:
    """Share of the total gain of the most used features. 900 × 800 pixels."""
    named = sorted(gains.items(), key=lambda item: (-item[1], item[0]))[:top][::-1]
    figure, (axes,) = _figure(9, 8)
    shares = [100 * share for _, share in named]
    axes.barh([name for name, _ in named], shares, color=BLUE)
    for place, share in enumerate(shares):
        axes.text(share, place, f" {share:.1f}", va="center", color=MUTED, fontsize=8)
    axes.set(xlabel="share of the total gain (%)", title=title, ylim=(-0.7, len(named) - 0.3))
    axes.tick_params(axis="y", labelsize=8)
    axes.grid(visible=False, axis="y")
    return _png(figure)


def monitor(windows: Sequence[Mapping[str, Any]], *, title: str, alarm_bias: float) -> bytes:
    """Log-loss against the naive reference, calibration, AUC and drifted features by window. 1100 × 1000 pixels.

    Args:
        windows: rows of one window kind of a monitoring report, oldest first.
        alarm_bias: |mean score − label rate| above which a window counts as off; drawn as a band.
    """
    figure, (loss, bias, rank, drift) = _figure(11, 10, rows=4)
    starts = [w["window_start"] for w in windows]
    middles = [w["window_start"] + (w["window_end"] - w["window_start"]) / 2 for w in windows]
    widths = [0.9 * (w["window_end"] - w["window_start"]).days for w in windows]

    def values(name: str) -> Floats:
        return np.array([np.nan if w[name] is None else w[name] for w in windows], dtype=np.float64)

    for name, colour, label in (("log_loss", BLUE, "model"), ("naive_log_loss", ORANGE, "naive reference")):
        loss.plot(middles, values(name), color=colour, marker="o", label=label)
    loss.set(ylabel="log-loss (nats)", title=title)
    off = np.abs(values("bias")) > alarm_bias
    bias.bar(
        starts, 100 * values("bias"), width=widths, align="edge", color=[RED if o else GREEN for o in off]
    )
    bias.axhspan(-100 * alarm_bias, 100 * alarm_bias, color=GRID, zorder=0)
    bias.axhline(0, color=MUTED, linewidth=1)
    bias.set(ylabel="mean score − rate\n(percentage points)")
    for name, colour, label in (("auc", BLUE, "model"), ("naive_auc", ORANGE, "naive reference")):
        rank.plot(middles, values(name), color=colour, marker="o", label=label)
    rank.set(ylabel="AUC")
    drift.bar(starts, 100 * values("drifted_share"), width=widths, align="edge", color=BLUE)
    drift.set(ylabel="features with\nPSI > 0.2 (%)", xlabel="first day of the window", ylim=(0, 100))
    for axes in (loss, bias, rank, drift):
        axes.set_xlim(starts[0], windows[-1]["window_end"])
    for axes in (loss, rank):
        axes.legend(loc="best", frameon=False)
    figure.autofmt_xdate(rotation=0, ha="center")
    return _png(figure)


def _figure(
    width: float, height: float, *, rows: int = 1, columns: int = 1, heights: Sequence[float] | None = None
) -> tuple[Any, tuple[Any, ...]]:
    """A figure of width × height × 100 pixels and its axes, row by row."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure: Any = Figure(figsize=(width, height), dpi=DPI, layout="constrained")
    FigureCanvasAgg(figure)
    grid: Any = figure.subplots(rows, columns, squeeze=False, gridspec_kw={"height_ratios": heights})
    found = tuple(grid.ravel())
    for axes in found:
        axes.grid(visible=True, color=GRID, linewidth=0.8)
        axes.set_axisbelow(True)
        axes.tick_params(colors=INK)
        for side in ("top", "right"):
            axes.spines[side].set_visible(False)
        for side in ("left", "bottom"):
            axes.spines[side].set_color(MUTED)
    return figure, found


def _png(figure: Any) -> bytes:
    out = io.BytesIO()
    # Without its default metadata matplotlib's PNG is the same for the same figure.
    figure.savefig(out, format="png", dpi=DPI, metadata={"Software": None})
    return out.getvalue()
