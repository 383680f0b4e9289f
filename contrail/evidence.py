"""The evidence of one evaluation, as files beside the model: what was judged, by which criteria, against whom.

    models/<sha256>/evaluations/<evaluation id>/evaluation.json    all that was found; its sha256 is the id
    models/<sha256>/evaluations/<evaluation id>/…                  what people look at: card, plots

A promotion request names the id, so an evaluation that was altered afterwards is no longer the one that was approved.
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any

from contrail import model_files
from contrail.criteria import Verdict
from contrail.use_case import Criteria
from contrail.whole_files import put_folder, read_recorded

FOLDER = "evaluations"
RECORD = "evaluation.json"


class EvidenceError(RuntimeError):
    """The evidence is missing or is not what was recorded; nothing may be decided on it."""


@dataclass(frozen=True)
class Evidence:
    """One evaluation of one model.

    Attributes:
        use_case: name of the use case.
        model_sha256: the model.
        manifest_sha256: its manifest as it was examined.
        files: the model's files as they were examined: name → sha256.
        training_set: ``table@version`` of the rows it was learnt from and tested on.
        criteria: as they were frozen before the fit.
        criteria_sha256: of all that was judged by, as it was frozen before the fit.
        champion_sha256: the champion of the moment that it was compared with; empty where there was none.
        groups: rows of the evaluation table: the whole, months, slices, with intervals and references.
        comparison: champion against challenger; empty where there was no champion.
        backtest: rows of the rolling monthly backtest.
        leakage: the leakage certificate.
        verdicts: what was judged.
        facts: anything else worth keeping (latency, parity, fairness).
    """

    use_case: str
    model_sha256: str
    manifest_sha256: str
    files: Mapping[str, str]
    training_set: str
    criteria: Criteria
    criteria_sha256: str
    champion_sha256: str
    groups: Sequence[Mapping[str, Any]]
    comparison: Mapping[str, Any]
    backtest: Sequence[Mapping[str, Any]]
    leakage: Mapping[str, Any]
    verdicts: Sequence[Verdict]
    facts: Mapping[str, Any] = field(default_factory=dict[str, Any])

    @property
    def record(self) -> bytes:
        """All of it as JSON; the same evidence gives the same bytes."""
        return json.dumps(
            _plain(asdict(self)), sort_keys=True, indent=1, ensure_ascii=False, allow_nan=False
        ).encode()

    @property
    def evaluation_id(self) -> str:
        """The sha256 of `record`."""
        return hashlib.sha256(self.record).hexdigest()

    @property
    def unmet(self) -> tuple[str, ...]:
        """The criteria that are not met, in words."""
        return tuple(verdict.in_words for verdict in self.verdicts if not verdict.met)


def folder(lake_root: Path, model_sha256: str, evaluation_id: str) -> Path:
    """Where the evidence lies."""
    return model_files.folder(lake_root, model_sha256) / FOLDER / evaluation_id


def store(evidence: Evidence, files: Mapping[str, bytes], lake_root: Path) -> Path:
    """Put the evidence beside its model; what is there already is the same and stays.

    Args:
        files: name → content of what people look at.

    Returns:
        The folder.
    """
    target = folder(lake_root, evidence.model_sha256, evidence.evaluation_id)
    put_folder(target, {RECORD: evidence.record, **files})
    return target


def read(lake_root: Path, model_sha256: str, evaluation_id: str) -> Mapping[str, Any]:
    """The record of an evaluation, checked: `Evidence` as plain data; NaN is None.

    Raises:
        EvidenceError: it is missing, was altered, or was made by an earlier release.
    """
    path = folder(lake_root, model_sha256, evaluation_id) / RECORD
    record: Mapping[str, Any] = json.loads(read_recorded(path, evaluation_id, EvidenceError))
    if missing := sorted({each.name for each in fields(Evidence)} - set(record)):
        raise EvidenceError(
            f"{path} was made by an earlier release, it lacks {', '.join(missing)}: train again"
        )
    return record


def require_files(lake_root: Path, model_sha256: str, evaluation_id: str, files: Mapping[str, str]) -> None:
    """See that a model's files are those that were examined: they could be exchanged together with their manifest.

    Args:
        files: name → sha256, as the model's manifest says now.

    Raises:
        EvidenceError: they differ, or the evidence is missing or altered.
    """
    examined: Mapping[str, str] = read(lake_root, model_sha256, evaluation_id)["files"]
    if other := sorted(n for n in {*examined, *files} if examined.get(n) != files.get(n)):
        raise EvidenceError(
            f"model {model_sha256[:12]}: {', '.join(other)} is not what was examined ({evaluation_id[:12]}), though "
            "the manifest agrees with it: restore the model's folder from the backup"
        )


def _plain(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {str(key): _plain(each) for key, each in value.items()}  # pyright: ignore[reportUnknownVariableType]
    if isinstance(value, list | tuple):
        return [_plain(each) for each in value]  # pyright: ignore[reportUnknownVariableType]
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    return value if value is None or isinstance(value, str | int | bool) else str(value)
