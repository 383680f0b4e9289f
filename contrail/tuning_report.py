"""A study for people and for keeping: JSON, Markdown and a picture of the plateau, without a path of this machine."""

from __future__ import annotations

import io
import json
import math
from collections.abc import Mapping
from dataclasses import asdict
from importlib.metadata import version
from pathlib import Path
from typing import Any

from contrail.tuning import Study, Trial
from contrail.tuning_search import Configuration
from contrail.use_case import LearningParameters

LIBRARIES = ("lightgbm", "numpy", "optuna", "pyarrow")
INK, MUTED, GRID, BLUE, ORANGE = "#1f2933", "#9aa5b1", "#e4e7eb", "#2463a8", "#d9822b"


def declaration(learning: LearningParameters) -> str:
    """The line that declares these parameters: ``learning=LearningParameters(…),``."""
    arguments = ", ".join(f"{name}={value!r}" for name, value in asdict(learning).items())
    return f"learning=LearningParameters({arguments}),"


def write(study: Study, folder: Path, *, title: str) -> tuple[Path, ...]:
    """Write ``<use case>.json``, ``.md`` and ``.png`` into the folder.

    Args:
        title: the use case's, for people.
    """
    folder.mkdir(parents=True, exist_ok=True)
    contents = {
        f"{study.use_case}.json": record(study).encode(),
        f"{study.use_case}.md": markdown(study, title=title).encode(),
        f"{study.use_case}.png": plateau(study, title=title),
    }
    for name, content in contents.items():
        (folder / name).write_bytes(content)
    return tuple(folder / name for name in contents)


def record(study: Study) -> str:
    """All of the study but the curves of single rounds and the losses of single days, as JSON."""
    body = {
        "use_case": study.use_case,
        "identity": study.identity,
        "training_set": study.training_set,
        "training_set_content": study.training_set_content,
        "labels_until": study.labels_until.isoformat(),
        "feature_order_sha256": study.feature_order_sha256,
        "seed": study.seed,
        "space": {name: [each.low, each.high] for name, each in study.space.items()},
        "folds": [
            {
                "trained_until": each.trained_until.isoformat(),
                "first": each.first.isoformat(),
                "last_excluded": each.end.isoformat(),
                "train_rows": each.train_rows,
                "rows": each.rows,
            }
            for each in study.folds
        ],
        "libraries": versions(),
        "declared": _configuration(study.declared),
        "best": _configuration(study.best),
        "difference": _digits(study.difference),
        "difference_error": _digits(study.difference_error),
        "declared_within_one_standard_error": study.is_declared_good,
        "verdict": study.verdict,
        "trials": [_trial(each) for each in study.trials],
    }
    return json.dumps(body, indent=1, ensure_ascii=False, allow_nan=False) + "\n"


def versions() -> Mapping[str, str]:
    """The libraries that decide what a study finds."""
    return {name: version(name) for name in LIBRARIES}


def markdown(study: Study, *, title: str) -> str:
    """The study on one page."""
    is_best = study.best.learning == study.declared.learning
    lines = [
        f"# {title}: what tuning is worth",
        "",
        f"`contrail tune --use-case {study.use_case}` made this page. In short: {study.verdict}.",
        "",
        *([] if is_best else [*_difference(study), ""]),
        f"![loss by rounds and by trial]({study.use_case}.png)",
        "",
        _identity(study),
        "",
        "## Folds",
        "",
        "Each learns what was known one day before its block and is judged on the block.",
        "",
        *_table(
            [
                "fold",
                "learns what was known before",
                "judged on",
                "rows learnt",
                "rows judged",
                "declared",
                "best",
            ],
            [
                [
                    str(number),
                    f"{fold.trained_until:%Y-%m-%d}",
                    f"{fold.first} to before {fold.end}",
                    f"{fold.train_rows:,}",
                    f"{fold.rows:,}",
                    f"{study.declared.fold_losses[number - 1]:.5f}",
                    f"{study.best.fold_losses[number - 1]:.5f}",
                ]
                for number, fold in enumerate(study.folds, 1)
            ],
        ),
        "",
        "## Rounds",
        "",
        "Mean log-loss over the folds by number of rounds, same parameters otherwise.",
        "",
        *_curves(study),
        "",
        "## Trials",
        "",
        _counts(study),
        "",
        *_table(
            ["trial", "state", *study.space, "rounds", "log-loss", "by fold", "seconds"],
            [_row(study, each) for each in sorted(study.trials, key=_by_loss)],
        ),
        "",
    ]
    return "\n".join(lines)


def plateau(study: Study, *, title: str) -> bytes:
    """Loss by rounds of every complete trial, and their least losses, beside one standard error. PNG, 1200 × 520."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure
    from matplotlib.ticker import MaxNLocator

    figure: Any = Figure(figsize=(12, 5.2), layout="constrained")
    FigureCanvasAgg(figure)
    left, right = figure.subplots(1, 2)
    complete = sorted((each for each in study.trials if each.state == "complete"), key=_by_loss)
    declared = next((each for each in complete if _is_of(each, study.declared)), None)
    best = next((each for each in complete if _is_of(each, study.best)), None)
    low, limit = study.best.loss, study.best.loss + study.best.standard_error
    for each in complete:
        left.plot(list(each.curve), list(each.curve.values()), color=MUTED, linewidth=0.8, alpha=0.7)
    for found, colour, name in ((best, BLUE, "best"), (declared, ORANGE, "declared")):
        if found is not None:
            left.plot(list(found.curve), list(found.curve.values()), color=colour, linewidth=2, label=name)
    left.plot(
        study.declared.learning.rounds, study.declared.loss, color=ORANGE, marker="o", linestyle="none",
        label="declared rounds",
    )  # fmt: skip
    left.axhspan(low, limit, color=BLUE, alpha=0.08, label="within one standard error")
    left.set(
        xlabel="rounds", ylabel="mean log-loss over the folds", title="by number of rounds",
        ylim=(low - (limit - low) * 0.3, limit + (limit - low) * 2.5),
    )  # fmt: skip
    left.legend(frameon=False)
    places = range(1, len(complete) + 1)
    colours = [ORANGE if each is declared else BLUE if each is best else MUTED for each in complete]
    right.scatter(places, [each.loss for each in complete], c=colours, s=40, zorder=3)
    right.axhspan(low, limit, color=BLUE, alpha=0.08)
    right.set(xlabel="complete trials, best first", ylabel="least mean log-loss", title="by trial")
    right.xaxis.set_major_locator(MaxNLocator(integer=True))
    for axes in (left, right):
        axes.grid(visible=True, color=GRID, linewidth=0.8)
        axes.set_axisbelow(True)
        axes.tick_params(colors=INK)
        for side in ("top", "right"):
            axes.spines[side].set_visible(False)
    figure.suptitle(
        f"{title}: {len(complete)} complete trials on {len(study.folds)} time-ordered folds", color=INK
    )
    out = io.BytesIO()
    figure.savefig(out, format="png", dpi=100, metadata={"Software": None})
    return out.getvalue()


def _difference(study: Study) -> list[str]:
    declared, best = study.declared, study.best
    by_fold = ", ".join(
        f"{ours - theirs:+.4f}" for ours, theirs in zip(declared.fold_losses, best.fold_losses, strict=True)
    )
    sizes = [
        f"{each.learning.rounds} trees of up to {each.learning.num_leaves} leaves"
        for each in (best, declared)
    ]
    others = [each for each in study.trials if each.state == "complete" and not _is_of(each, declared)]
    better = sum(each.loss < declared.loss for each in others)
    return [
        f"- {better} of {len(others)} other complete trials were better than the declared parameters.",
        f"- By fold, oldest first, the declared parameters are behind by {by_fold}.",
        f"- The best grow {sizes[0]}, the declared {sizes[1]}.",
        f"- To declare the best: `{declaration(best.learning)}`",
    ]


def _identity(study: Study) -> str:
    libraries = ", ".join(f"{name} {number}" for name, number in versions().items())
    return (
        f"Rows: `{study.training_set}` (content `{study.training_set_content[:16]}`), labels known before "
        f"{study.labels_until:%Y-%m-%d %H:%M} UTC; training and validation days only, the test days were not looked "
        f"at. Study `{study.identity[:16]}`, seed {study.seed}, {libraries}."
    )


def _counts(study: Study) -> str:
    complete = sum(each.state == "complete" for each in study.trials)
    failed = len(study.trials) - study.finished
    cut_off = f", {failed} cut off" if failed else ""
    return (
        f"{complete} complete, {study.finished - complete} pruned (in brackets: worse than the median after a fold or "
        f"two){cut_off}. Each trial is judged at the common number of rounds that was "
        "best for it, and the best of many is flattered: on other days it will keep less of its lead than stands here."
    )


def _curves(study: Study) -> list[str]:
    complete = [each for each in study.trials if each.state == "complete"]
    shown: list[tuple[str, Trial]] = []
    for name, found in (("declared", study.declared), ("best", study.best)):
        trial = next((each for each in complete if _is_of(each, found)), None)
        if trial is not None and all(trial.number != other.number for _, other in shown):
            shown.append((name, trial))
    rounds = [n for n in shown[0][1].curve if n % 50 == 0 or n == study.declared.learning.rounds]
    rows = [[name, *(f"{trial.curve[n]:.5f}" for n in rounds)] for name, trial in shown]
    return _table(["parameters", *(str(n) for n in rounds)], rows)


def _row(study: Study, trial: Trial) -> list[str]:
    learning = asdict(trial.learning) if trial.learning is not None else {}
    is_declared = _is_of(trial, study.declared)
    return [
        f"{trial.number}{' (declared)' if is_declared else ''}",
        trial.state,
        *(str(learning.get(name, "")) for name in study.space),
        str(learning.get("rounds", "")) if trial.state == "complete" else "",
        ""
        if math.isnan(trial.loss)
        else f"{trial.loss:.5f}"
        if trial.state == "complete"
        else f"({trial.loss:.5f})",
        " ".join(f"{loss:.4f}" for loss in trial.fold_losses),
        f"{trial.seconds:.0f}",
    ]


def _is_of(trial: Trial, found: Configuration) -> bool:
    """Whether the trial tried these parameters, whatever the rounds."""
    if trial.state != "complete" or trial.learning is None:
        return False
    return asdict(trial.learning) | {"rounds": 0} == asdict(found.learning) | {"rounds": 0}


def _by_loss(trial: Trial) -> tuple[bool, float]:
    return trial.state != "complete", math.inf if math.isnan(trial.loss) else trial.loss


def _configuration(found: Configuration) -> Mapping[str, Any]:
    return {
        "learning": asdict(found.learning),
        "loss": _digits(found.loss),
        "fold_losses": [_digits(each) for each in found.fold_losses],
        "standard_error": _digits(found.standard_error),
    }


def _trial(trial: Trial) -> Mapping[str, Any]:
    return {
        "number": trial.number,
        "state": trial.state,
        "learning": None if trial.learning is None else asdict(trial.learning),
        "loss": None if math.isnan(trial.loss) else _digits(trial.loss),
        "fold_losses": [_digits(each) for each in trial.fold_losses],
        "seconds": round(trial.seconds, 1),
    }


def _digits(value: float) -> float:
    return round(value, 6)


def _table(header: list[str], rows: list[list[str]]) -> list[str]:
    return [f"| {' | '.join(each)} |" for each in [header, ["---"] * len(header), *rows]]
