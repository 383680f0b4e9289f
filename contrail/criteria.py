"""The promotion criteria, frozen before the fit, judged on what was found after it.

A criterion whose value could not be found is not met: nobody is promoted because something was not looked at. Where it
was looked and there is nothing to judge (no slice, or no month of the backtest, is large enough), it is met, and the
note says so.
"""

from __future__ import annotations

import math
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import pyarrow as pa

from contrail.comparison import Comparison
from contrail.encoding import Floats
from contrail.evaluation import EvaluationError, GroupMetrics
from contrail.use_case import Criteria, UseCase

BATCHES, BATCH = 10, 20  # single-row predictions that are timed


@dataclass(frozen=True)
class Verdict:
    """One criterion and whether it is met.

    Attributes:
        criterion: its name; those of `Criteria` where it is one of them.
        limit: what it demands.
        value: what was found; NaN where it could not be found.
        met: whether that is enough.
        note: what one must know to read it; empty where nothing.
    """

    criterion: str
    limit: float
    value: float
    met: bool
    note: str = ""

    @property
    def in_words(self) -> str:
        """``max_bias: 0.0612, limit 0.05 (…)``."""
        note = f" ({self.note})" if self.note else ""
        return f"{self.criterion}: {self.value:.4g}, limit {self.limit:.4g}{note}"


class Predicts(Protocol):
    """A model that is loaded and ready."""

    def predict(self, rows: pa.Table) -> Floats:
        """Scores of `rows` in their order."""
        ...


def judge(
    found: Sequence[GroupMetrics],
    use_case: UseCase,
    *,
    backtest: pa.Table | None = None,
    comparison: Comparison | None = None,
    champion: str = "",
    why_not_compared: str = "",
    can_champion_score: bool = True,
    champion_remark: str = "",
    leakage_holds: bool | None = None,
    latency_milliseconds: float | None = None,
    parity_mismatches: int | None = None,
) -> list[Verdict]:
    """The use case's criteria on what was found of a candidate.

    Args:
        found: the evaluated groups; the test part is judged.
        use_case: declares the criteria.
        backtest: rows of `contrail.backtest`; None where it was not run.
        comparison: with the champion; None where there were no rows that neither was trained on.
        champion: sha256 of the champion of the moment; empty where there is none: then nothing is asked of the
            comparison.
        why_not_compared: where there is a champion and no comparison.
        can_champion_score: False where the champion cannot score today's rows, and hence will never again: whoever
            comes after it cannot be asked to be better.
        champion_remark: what one must know to read the comparison.
        leakage_holds: whether the training set's leakage certificate holds; None where it was not made.
        latency_milliseconds: from `predict_milliseconds`; None where it was not measured.
        parity_mismatches: values that differed when online was compared with offline; None where that was never done.

    Returns:
        One verdict per criterion of `Criteria` that can be missed, and ``leakage``, ``parity`` (where it is needed),
        ``champion`` and ``champion_slices`` (where there is a champion).

    Raises:
        EvaluationError: the test part was not evaluated.
    """
    whole = next((item for item in found if item.part == "test" and item.kind == "all"), None)
    if whole is None:
        raise EvaluationError("criteria are judged on the test part, and it was not evaluated")
    limits = use_case.criteria
    slices = [item for item in found if item.part == "test" and item.kind in use_case.slices]
    verdicts = [
        _at_least("min_log_loss_gain", limits.min_log_loss_gain, whole.naive.log_loss - whole.model.log_loss),
        _at_least("min_auc_gain", limits.min_auc_gain, whole.model.auc - whole.naive.auc),
        _at_most("max_auc", limits.max_auc, whole.model.auc),
        _at_most("max_bias", limits.max_bias, abs(whole.model.bias)),
        _at_most("max_calibration_error", limits.max_calibration_error, whole.model.ece),
        _slice_bias(slices, limits),
        _backtest_gain(backtest, limits),
        _measured(
            "max_predict_milliseconds",
            limits.max_predict_milliseconds,
            latency_milliseconds,
            "one score was not timed",
        ),
        Verdict(
            "leakage",
            limit=1.0,
            value=math.nan if leakage_holds is None else float(leakage_holds),
            met=leakage_holds is True,
            note={
                None: "no leakage certificate was made",
                False: "the training set's leakage certificate fails",
                True: "",
            }[leakage_holds],
        ),
    ]
    if limits.needs_parity:
        reason = (
            "online was not compared with offline: run the feature store's parity check, then train again"
        )
        verdicts.append(_measured("parity", 0.0, parity_mismatches, reason))
    if champion:
        verdicts += _against(
            comparison,
            champion,
            limits,
            why_not_compared,
            can_score=can_champion_score,
            remark=champion_remark,
        )
    return verdicts


def predict_milliseconds(model: Predicts, rows: pa.Table) -> float:
    """CPU of one score of one row, milliseconds: the median over batches of single-row predictions.

    Args:
        model: loaded, so that reading its text is not part of a score.
        rows: at least one; taken in turn, one at a time.

    Raises:
        EvaluationError: there are no rows.
    """
    if rows.num_rows == 0:
        raise EvaluationError("one score of one row cannot be timed without a row")
    singles = [rows.slice(i, 1) for i in range(min(BATCH, rows.num_rows))]
    model.predict(singles[0])  # what only the first call does
    spent: list[float] = []
    for _ in range(BATCHES):
        began = time.process_time()
        for place in range(BATCH):
            model.predict(singles[place % len(singles)])
        spent.append((time.process_time() - began) / BATCH)
    return 1000.0 * float(np.median(spent))


def _at_least(name: str, limit: float, value: float, note: str = "") -> Verdict:
    return Verdict(name, limit, value, value >= limit, note)


def _at_most(name: str, limit: float, value: float, note: str = "") -> Verdict:
    return Verdict(name, limit, value, value <= limit, note)


def _measured(name: str, limit: float, value: float | None, missing: str) -> Verdict:
    """At most `limit`; where nothing was measured, not met, and why."""
    return Verdict(name, limit, math.nan, False, missing) if value is None else _at_most(name, limit, value)


def _slice_bias(slices: Sequence[GroupMetrics], limits: Criteria) -> Verdict:
    if not slices:
        return _at_most(
            "max_slice_bias", limits.max_slice_bias, 0.0, f"no slice has {limits.min_slice_rows:,} rows"
        )
    worst = max(slices, key=lambda item: abs(item.model.bias))
    note = f"worst: {worst.kind} {worst.group}, {worst.model.rows:,} rows"
    return _at_most("max_slice_bias", limits.max_slice_bias, abs(worst.model.bias), note)


def _backtest_gain(backtest: pa.Table | None, limits: Criteria) -> Verdict:
    name, limit = "min_backtest_gain", limits.min_backtest_gain
    if backtest is None:
        return Verdict(name, limit, math.nan, False, "no backtest was run")
    months = [row for row in backtest.to_pylist() if row["rows"] >= limits.min_slice_rows]
    if not months:
        note = "no month has enough days before it and rows in it; nothing to judge yet"
        return Verdict(name, limit, math.nan, True, note)
    gains = {row["month"]: row["naive_log_loss"] - row["log_loss"] for row in months}
    worst = min(gains, key=lambda month: gains[month])
    return _at_least(name, limit, gains[worst], f"worst of {len(gains)} months: {worst:%Y-%m}")


def _against(
    comparison: Comparison | None,
    champion: str,
    limits: Criteria,
    why_not: str,
    *,
    can_score: bool,
    remark: str,
) -> list[Verdict]:
    named = f"champion {champion[:12]}"
    if comparison is None:
        reason = why_not or "no labelled rows that neither model was trained on"
        note = (
            f"{named} could not be compared: {reason}"
            if can_score
            else f"{named} can no longer score, there is nothing to be better than: {reason}"
        )
        met = not can_score
        return [
            Verdict("champion", limits.min_champion_gain, math.nan, met, note),
            Verdict("champion_slices", 0.0, math.nan, met, note),
        ]
    where = f"{comparison.rows:,} rows of {comparison.days} days"
    if math.isnan(comparison.low):
        note = f"{named}: {where} have no interval; at least two days are needed"
    else:
        note = (
            f"low end of the gain over {named}: {comparison.gain:+.4f} nats, {comparison.confidence:.0%} interval "
            f"{comparison.low:+.4f} to {comparison.high:+.4f}, {where}"
        )
    if remark:
        note += f"; {remark}"
    worse = comparison.worse
    listed = ", ".join(f"{s.column} {s.value} ({s.gain:+.4f}, p {s.p_holm:.2g})" for s in worse)
    return [
        # Above, not at: a model that equals the champion is no better.
        Verdict(
            "champion",
            limits.min_champion_gain,
            comparison.low,
            comparison.low > limits.min_champion_gain,
            note,
        ),
        Verdict(
            "champion_slices",
            limit=0.0,
            value=float(len(worse)),
            met=not worse,
            note=f"significantly worse on {listed}" if worse else f"{len(comparison.slices)} slices compared",
        ),
    ]
