"""How a model fares once its labels are known: one row per window of matured labels.

Only labels known by now count. Every number stands next to that of the naive reference on the same rows, because the
achievable level moves with the season. Retraining is asked for by calibration in the large, which shows what hurts, and
not by drift of the inputs, which mostly shows the season.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from datetime import UTC, date, datetime, timedelta
from typing import Any

import numpy as np
import pyarrow as pa

from contrail.drift import count, psi
from contrail.encoding import Booleans, booleans, floats, mask, pc
from contrail.evaluation import metrics
from contrail.model_files import LoadedModel
from contrail.training import midnight
from contrail.use_case import UseCase

WINDOW = timedelta(days=14)
FORTNIGHT, MONTH = "14d", "month"
MIN_ALARM_ROWS = 100
NOTABLE_PSI = 0.2  # above it a feature counts as drifted, for display; it alarms nobody

_KEYS = [
    pa.field("use_case", pa.string(), nullable=False),
    pa.field("window_kind", pa.string(), nullable=False),
    pa.field("window_start", pa.date32(), nullable=False),
    pa.field("window_end", pa.date32(), nullable=False),
]
WINDOWS_SCHEMA = pa.schema(
    [
        *_KEYS,
        pa.field("is_complete", pa.bool_(), nullable=False),
        pa.field("rows", pa.int64(), nullable=False),
        pa.field("rows_waiting", pa.int64(), nullable=False),
        pa.field("model_sha256", pa.string()),
        *(pa.field(name, pa.float64()) for name in ("label_rate", "mean_score", "bias", "auc", "pr_auc")),
        *(
            pa.field(name, pa.float64())
            for name in ("log_loss", "brier", "ece", "naive_auc", "naive_log_loss")
        ),
        pa.field("drifted_share", pa.float64()),
        pa.field("max_psi", pa.float64()),
        pa.field("max_psi_feature", pa.string()),
        pa.field("max_missing_rate_rise", pa.float64()),
        pa.field("max_missing_rate_rise_feature", pa.string()),
    ]
)
FEATURES_SCHEMA = pa.schema(
    [
        *_KEYS,
        pa.field("feature", pa.string(), nullable=False),
        pa.field("rows", pa.int64(), nullable=False),
        pa.field("psi", pa.float64()),
        pa.field("missing_rate", pa.float64()),
        pa.field("training_missing_rate", pa.float64()),
    ]
)


class MonitoringError(ValueError):
    """The report cannot be made from what was given."""


@dataclass(frozen=True)
class Report:
    """The monitoring report.

    Attributes:
        windows: one row per window, columns of `WINDOWS_SCHEMA`, ordered by kind and start.
        features: one row per window and feature, columns of `FEATURES_SCHEMA`.
    """

    windows: pa.Table
    features: pa.Table


@dataclass(frozen=True)
class Alarm:
    """Two consecutive windows in which the scores were off.

    Attributes:
        first_start: first day of the earlier window.
        last_end: first day after the later window; a key for "once per alarm".
        biases: mean score − label rate of both, earlier first.
        reason: the same in words, for whoever reads the request to retrain.
    """

    first_start: date
    last_end: date
    biases: tuple[float, float]
    reason: str


def report(
    outcomes: pa.Table,
    use_case: UseCase,
    models: Mapping[str, LoadedModel],
    *,
    now: datetime,
    anchor: date | None = None,
) -> Report:
    """Compare scores with what came to be.

    Args:
        outcomes: one row per score: key, day, score, ``model_sha256``, feature vector, naive group columns, label and
            the instant at which it became known (both null while unknown).
        use_case: names the columns.
        models: every model that made one of the scores, by sha256. A row is compared with the naive rates of its own
            model: those of a later one would already know the row's label.
        now: the project's clock. A label known later does not exist yet.
        anchor: first day of the first 14-day window; the earliest day of `outcomes` without it.

    Returns:
        Windows with at least one row; `rows` counts the matured, `rows_waiting` the others. A window is complete when
        the use case's label delay has passed since its end. PSI and missing rates are taken against the training rows
        of the model that made most of the window's scores (`model_sha256`). Missing is what is missing to the model:
        null, or a category that its training never saw.

    Raises:
        MonitoringError: a score's model is not among `models`.
    """
    if outcomes.num_rows == 0:
        return Report(WINDOWS_SCHEMA.empty_table(), FEATURES_SCHEMA.empty_table())
    known_at = outcomes.column(use_case.outcome_known_column)
    matured = mask(pc.fill_null(pc.less_equal(known_at, pa.scalar(now, known_at.type)), False))
    days: list[date] = outcomes.column(use_case.partition_column).to_pylist()
    ordinals = np.array([day.toordinal() for day in days], dtype=np.int64)
    matured_rows = _MaturedRows(outcomes.filter(pa.array(matured)), use_case, models)
    windows: list[dict[str, object]] = []
    features: list[dict[str, object]] = []
    for kind, start, end in _windows(min(days), max(days), anchor):
        inside = (ordinals >= start.toordinal()) & (ordinals < end.toordinal())
        if not inside.any():
            continue
        keys: dict[str, object] = {
            "use_case": use_case.name,
            "window_kind": kind,
            "window_start": start,
            "window_end": end,
        }
        chosen = inside[matured]
        window = keys | {
            "is_complete": midnight(end) + use_case.label_delay <= now.astimezone(UTC),
            "rows": int(chosen.sum()),
            "rows_waiting": int((inside & ~matured).sum()),
        }
        if chosen.any():
            reference = matured_rows.main_model(chosen)
            moved = matured_rows.features(chosen, reference)
            window |= matured_rows.performance(chosen) | _worst(moved) | {"model_sha256": reference.sha256}
            features += [keys | row for row in moved]
        windows.append(window)
    return Report(
        pa.Table.from_pylist([_finite(row) for row in windows], schema=WINDOWS_SCHEMA),
        pa.Table.from_pylist([_finite(row) for row in features], schema=FEATURES_SCHEMA),
    )


def calibration_alarm(
    windows: Sequence[Mapping[str, Any]], *, limit: float, min_rows: int = MIN_ALARM_ROWS
) -> Alarm | None:
    """Whether the two newest complete 14-day windows are both off by more than `limit`.

    Args:
        windows: rows of a report, any kinds, in any order.
        limit: on |mean score − label rate|; a value equal to it is not off.
        min_rows: a window with fewer matured rows says nothing.

    Returns:
        None when a window is missing, incomplete, too small or within the limit, or when days lie between the two.
    """
    complete = [w for w in windows if w["window_kind"] == FORTNIGHT and w["is_complete"]]
    newest = sorted(complete, key=lambda w: w["window_start"])[-2:]
    if len(newest) < 2 or newest[0]["window_end"] != newest[1]["window_start"]:
        return None
    if any(w["rows"] < min_rows or w["bias"] is None or abs(w["bias"]) <= limit for w in newest):
        return None
    earlier, later = newest
    said = ", ".join(
        f"{w['window_start']}..{w['window_end']}: {w['bias']:+.3f} of {w['rows']} rows" for w in newest
    )
    return Alarm(
        first_start=earlier["window_start"],
        last_end=later["window_end"],
        biases=(float(earlier["bias"]), float(later["bias"])),
        reason=f"mean score − label rate beyond ±{limit} in two consecutive windows ({said})",
    )


class _MaturedRows:
    """Matured rows, decoded once; every window is a mask over them."""

    def __init__(self, rows: pa.Table, use_case: UseCase, models: Mapping[str, LoadedModel]) -> None:
        self._rows = rows
        self._models = models
        self._labels = booleans(rows, use_case.label)
        self._scores = floats(rows, "score")
        self._naive = np.empty(rows.num_rows, dtype=np.float64)
        self._makers = np.array(rows.column("model_sha256").to_pylist(), dtype=object)
        for sha256 in sorted(set(self._makers)):
            if sha256 not in models:
                raise MonitoringError(
                    f"{use_case.name}: there are scores of model {sha256}, which was not given"
                )
            its = self._makers == sha256
            self._naive[its] = models[sha256].naive.predict(rows.filter(pa.array(its)))

    def main_model(self, chosen: Booleans) -> LoadedModel:
        names, counts = np.unique(self._makers[chosen].astype(str), return_counts=True)
        return self._models[str(names[int(counts.argmax())])]

    def performance(self, chosen: Booleans) -> dict[str, object]:
        naive = metrics(self._labels[chosen], self._naive[chosen])
        found: dict[str, object] = asdict(metrics(self._labels[chosen], self._scores[chosen]))
        return found | {"naive_auc": naive.auc, "naive_log_loss": naive.log_loss}

    def features(self, chosen: Booleans, model: LoadedModel) -> list[dict[str, object]]:
        matrix = model.encoding.matrix(self._rows, np.flatnonzero(chosen).astype(np.int64))
        found: list[dict[str, object]] = []
        for position, (name, reference) in enumerate(model.profile.features.items()):
            counts = count(matrix[:, position], reference.edges)
            found.append(
                {
                    "feature": name,
                    "rows": len(matrix),
                    "psi": psi(reference.counts, counts),
                    "missing_rate": int(counts[-1]) / len(matrix),
                    "training_missing_rate": reference.missing_rate,
                }
            )
        return found


def _worst(features: Sequence[Mapping[str, Any]]) -> dict[str, object]:
    """How many features moved, which moved most, and which went missing most."""
    moved = max(features, key=lambda f: f["psi"])
    gone = max(features, key=lambda f: f["missing_rate"] - f["training_missing_rate"])
    return {
        "drifted_share": sum(f["psi"] > NOTABLE_PSI for f in features) / len(features),
        "max_psi": moved["psi"],
        "max_psi_feature": moved["feature"],
        "max_missing_rate_rise": gone["missing_rate"] - gone["training_missing_rate"],
        "max_missing_rate_rise_feature": gone["feature"],
    }


def _windows(first: date, last: date, anchor: date | None) -> list[tuple[str, date, date]]:
    """(kind, first day, day after the last) of every window that touches first..last."""
    start = anchor or first
    start += WINDOW * ((first - start) // WINDOW)
    found: list[tuple[str, date, date]] = []
    while start <= last:
        found.append((FORTNIGHT, start, start + WINDOW))
        start += WINDOW
    month = first.replace(day=1)
    while month <= last:
        following = (month + timedelta(days=32)).replace(day=1)
        found.append((MONTH, month, following))
        month = following
    return found


def _finite(row: Mapping[str, object]) -> dict[str, object]:
    return {k: None if isinstance(v, float) and not math.isfinite(v) else v for k, v in row.items()}
