"""The promotion criteria, frozen before the fit, judged on what was found after it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from contrail.evaluation import EvaluationError, GroupMetrics
from contrail.use_case import UseCase


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


def judge(found: Sequence[GroupMetrics], use_case: UseCase) -> list[Verdict]:
    """The use case's criteria on the evaluated groups of the test part.

    Raises:
        EvaluationError: the test part was not evaluated.
    """
    whole = next((item for item in found if item.part == "test" and item.kind == "all"), None)
    if whole is None:
        raise EvaluationError("criteria are judged on the test part, and it was not evaluated")
    limits = use_case.criteria
    slices = [item for item in found if item.part == "test" and item.kind in use_case.slices]
    gain = whole.naive.log_loss - whole.model.log_loss
    auc_gain = whole.model.auc - whole.naive.auc
    worst = max((abs(item.model.bias) for item in slices), default=0.0)
    return [
        Verdict("min_log_loss_gain", limits.min_log_loss_gain, gain, gain >= limits.min_log_loss_gain),
        Verdict("min_auc_gain", limits.min_auc_gain, auc_gain, auc_gain >= limits.min_auc_gain),
        Verdict("max_auc", limits.max_auc, whole.model.auc, whole.model.auc <= limits.max_auc),
        Verdict("max_bias", limits.max_bias, abs(whole.model.bias), abs(whole.model.bias) <= limits.max_bias),
        Verdict("max_slice_bias", limits.max_slice_bias, worst, worst <= limits.max_slice_bias),
    ]
