"""Plots as PNG bytes: drawn without a display, without global state, the same bytes for the same numbers.

Here are the curves over rows and over time; slices, months and SHAP values are in `contrail.plots_groups`. Colours are
told apart with any colour vision, and nothing is said by colour alone.
"""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from contrail.encoding import Booleans, Floats

DPI = 100
WIDEST = 10.8  # inches: what the web page shows without cutting it off
INK, MUTED, GRID = "#1f2933", "#7b8794", "#e4e7eb"
# Of the Okabe-Ito palette: blue, orange, bluish green, vermilion, reddish purple.
BLUE, ORANGE, GREEN, RED, PURPLE = "#0072b2", "#e69f00", "#009e73", "#d55e00", "#aa4c8f"
STYLES = ((ORANGE, "--"), (GREEN, "-."), (PURPLE, ":"))  # of the references, in their order
CURVE_POINTS = 500
BAND = 0.95


def calibration(labels: Booleans, scores: Floats, days: npt.NDArray[Any], *, title: str) -> bytes:
    """Reliability diagram over bins of equal mass, with a band from resampled days, and the scores by class.

    800 × 850 pixels.

    Args:
        labels: one per row.
        scores: of those rows.
        days: of those rows; the band is wide where days differ, however many rows they have.
        title: above it.
    """
    from contrail.bootstrap import DayDraws
    from contrail.evaluation import calibration_bins, equal_mass_bins

    mean, rate, _ = calibration_bins(labels, scores)
    draws = DayDraws.of(days)
    drawn = draws.group_means(labels.astype(np.float64), equal_mass_bins(scores), len(mean))
    ends = np.array([draws.interval(drawn[:, place], BAND) for place in range(len(mean))])
    canvas, (top, bottom) = figure(8, 8.5, rows=2, heights=(2.4, 1))
    top.plot([0, 1], [0, 1], color=MUTED, linestyle="--", linewidth=1, label="perfectly calibrated")
    top.fill_between(
        mean, ends[:, 0], ends[:, 1], color=BLUE, alpha=0.2, linewidth=0, label="95 % of resampled days"
    )
    top.plot(mean, rate, color=BLUE, marker="o", markersize=5, label="ten bins of equal mass")
    highest = float(np.nanmax(np.concatenate([mean, rate, ends.ravel()])))
    end = min(1.0, highest * 1.08 + 0.02)
    top.set(
        xlim=(0, end),
        ylim=(0, end),
        xlabel="mean score of the bin (predicted probability)",
        ylabel="observed share of positive labels",
        title=title,
    )
    top.legend(loc="upper left", frameon=False)
    edges = np.linspace(0, 1, 51)
    for chosen, colour, style, name in (
        (~labels, BLUE, "-", "negative labels"),
        (labels, RED, "--", "positive labels"),
    ):
        count = int(chosen.sum())
        weights = np.full(count, 100.0 / max(count, 1))
        label = f"{name}: {count:,} rows"
        bottom.hist(scores[chosen], edges, weights=weights, color=colour, alpha=0.25)
        bottom.hist(
            scores[chosen],
            edges,
            weights=weights,
            color=colour,
            histtype="step",
            linestyle=style,
            linewidth=1.5,
            label=label,
        )
    bottom.set(xlabel="score (predicted probability)", ylabel="rows of the class (%)", xlim=(0, 1))
    bottom.legend(loc="upper right", frameon=False)
    return png(canvas)


def precision_recall(
    labels: Booleans, scores: Floats, references: Mapping[str, Floats], *, threshold: float, title: str
) -> bytes:
    """Precision against recall, and precision against the share of rows selected, with the decision threshold marked.

    1080 × 520 pixels.

    Args:
        labels: one per row.
        scores: the model's.
        references: name → scores of the same rows.
        threshold: at or above it a decision is positive.
        title: above both.
    """
    from contrail.evaluation import average_precision

    canvas, (left, right) = figure(WIDEST, 5.2, columns=2)
    base = float(labels.mean()) if len(labels) else 0.0
    named = {"model": (scores, BLUE, "-")} | {
        name: (values, *STYLES[place % len(STYLES)])
        for place, (name, values) in enumerate(references.items())
    }
    for name, (values, colour, style) in named.items():
        taken, hits = _ranked(labels, values)
        label = f"{name}: average precision {average_precision(labels, values):.3f}"
        drawn = {"color": colour, "linestyle": style, "linewidth": 2 if name == "model" else 1.5}
        left.plot(hits / max(int(labels.sum()), 1), hits / taken, label=label, **drawn)
        right.plot(100 * taken / len(labels), 100 * hits / taken, label=name, **drawn)
    selected = scores >= threshold
    count = int(selected.sum())
    if count:
        precision, recall = float(labels[selected].mean()), int(labels[selected].sum()) / max(labels.sum(), 1)
        share = count / len(labels)
        lift = precision / base if base else float("nan")
        mark = {"marker": "D", "markersize": 9, "color": INK, "linestyle": "none", "zorder": 5}
        at = f"at the threshold {threshold:g}"
        left.plot(
            [recall], [precision], label=f"{at}: precision {precision:.2f}, recall {recall:.2f}", **mark
        )
        right.plot(
            [100 * share],
            [100 * precision],
            label=f"{at}: {100 * share:.1f} % selected, lift {lift:.2f}",
            **mark,
        )
    left.axhline(base, color=MUTED, linewidth=1, label=f"by chance: {base:.3f}")
    right.axhline(100 * base, color=MUTED, linewidth=1, label="by chance: lift 1")
    left.set(
        xlabel="recall (share of the positive labels found)", ylabel="precision", xlim=(0, 1), ylim=(0, 1.02)
    )
    right.set(
        xlabel="rows selected, highest scores first (%)",
        ylabel="positive labels among them (%)",
        xlim=(0, 100),
        ylim=(0, 102),
    )
    left.legend(loc="upper right", frameon=False, fontsize=9)
    right.legend(loc="upper right", frameon=False, fontsize=9)
    canvas.suptitle(title, color=INK, fontweight="bold")
    return png(canvas)


def ranking(labels: Booleans, scores: Floats, naive: Floats, *, title: str) -> bytes:
    """ROC and precision-recall curves of the model and of the naive reference. 1080 × 520 pixels."""
    from contrail.evaluation import auc, average_precision

    canvas, (left, right) = figure(WIDEST, 5.2, columns=2)
    for name, values, colour, style in (
        ("model", scores, BLUE, "-"),
        ("naive reference", naive, ORANGE, "--"),
    ):
        taken, hits = _ranked(labels, values)
        positives, negatives = int(labels.sum()), int((~labels).sum())
        recall = hits / max(positives, 1)
        false = (taken - hits) / max(negatives, 1)
        left.plot(
            np.append(0.0, false),
            np.append(0.0, recall),
            color=colour,
            linestyle=style,
            label=f"{name}: area {auc(labels, values):.3f}",
        )
        right.plot(
            recall,
            hits / taken,
            color=colour,
            linestyle=style,
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
    canvas.suptitle(title, color=INK, fontweight="bold")
    return png(canvas)


def importance(gains: Mapping[str, float], *, title: str, top: int = 25) -> bytes:
    """Share of the total gain of the most used features. 900 × 800 pixels."""
    named = sorted(gains.items(), key=lambda item: (-item[1], item[0]))[:top][::-1]
    canvas, (axes,) = figure(9, 8)
    shares = [100 * share for _, share in named]
    axes.barh([name for name, _ in named], shares, color=BLUE)
    for place, share in enumerate(shares):
        axes.text(share, place, f" {share:.1f}", va="center", color=INK, fontsize=8)
    axes.set(xlabel="share of the total gain (%)", title=title, ylim=(-0.7, len(named) - 0.3))
    axes.tick_params(axis="y", labelsize=8)
    axes.grid(visible=False, axis="y")
    return png(canvas)


def monitor(windows: Sequence[Mapping[str, Any]], *, title: str, alarm_bias: float) -> bytes:
    """Log-loss against the naive reference, calibration, AUC and drifted features by window. 1080 × 1000 pixels.

    Args:
        windows: rows of one window kind of a monitoring report, oldest first.
        alarm_bias: |mean score − label rate| above which a window counts as off; drawn as a band.
    """
    canvas, (loss, bias, rank, drift) = figure(WIDEST, 10, rows=4)
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
    canvas.autofmt_xdate(rotation=0, ha="center")
    return png(canvas)


def figure(
    width: float, height: float, *, rows: int = 1, columns: int = 1, heights: Sequence[float] | None = None
) -> tuple[Any, tuple[Any, ...]]:
    """A figure of width × height × 100 pixels and its axes, row by row."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    drawn: Any = Figure(figsize=(width, height), dpi=DPI, layout="constrained")
    FigureCanvasAgg(drawn)
    grid: Any = drawn.subplots(rows, columns, squeeze=False, gridspec_kw={"height_ratios": heights})
    found = tuple(grid.ravel())
    for axes in found:
        axes.grid(visible=True, color=GRID, linewidth=0.8)
        axes.set_axisbelow(True)
        axes.tick_params(colors=INK)
        for side in ("top", "right"):
            axes.spines[side].set_visible(False)
        for side in ("left", "bottom"):
            axes.spines[side].set_color(MUTED)
    return drawn, found


def png(drawn: Any) -> bytes:
    """A figure as PNG bytes."""
    out = io.BytesIO()
    # Without its default metadata matplotlib's PNG is the same for the same figure.
    drawn.savefig(out, format="png", dpi=DPI, metadata={"Software": None})
    return out.getvalue()


def _ranked(labels: Booleans, scores: Floats) -> tuple[Floats, Floats]:
    """Rows taken and positives among them, highest scores first, at no more than `CURVE_POINTS` distinct scores."""
    order = np.argsort(-scores, kind="stable")
    ends = np.append(np.flatnonzero(np.diff(scores[order])), len(scores) - 1)
    some = np.unique(np.linspace(0, len(ends) - 1, CURVE_POINTS).astype(int))
    hits = np.cumsum(labels[order].astype(np.float64))[ends]
    return ends[some] + 1.0, hits[some]
