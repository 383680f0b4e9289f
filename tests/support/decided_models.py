"""Versions of the small model with files and evidence, registered in a lake: what decisions are made of."""

from __future__ import annotations

from dataclasses import replace
from datetime import timedelta
from functools import cache
from pathlib import Path

import pyarrow as pa

from contrail import decisions, evidence, model_files, promotions, registry
from contrail.criteria import Verdict
from contrail.decisions import Decision
from contrail.evidence import Evidence
from contrail.lake import Commit, Lake
from contrail.registry import ModelVersion
from contrail.training import TrainedModel
from contrail.use_case import Criteria, UseCase
from tests.support import small_model
from tests.support.small_model import LINEAGE, NOW, USE_CASE

VALID = USE_CASE.request_valid_for
COMMIT = Commit(decisions.TABLE, "run-1", ("model:x",), git_sha="abc")


@cache
def model(seed: int) -> TrainedModel:
    """One model per seed."""
    return small_model.trained(_rows(), small_model.another_seed(seed))


@cache
def _rows() -> pa.Table:
    return small_model.rows()


def register(
    lake: Lake,
    seed: int,
    *,
    use_case: UseCase = USE_CASE,
    unmet: tuple[str, ...] = (),
    criteria: Criteria | None = None,
    note: str = "",
    first_by_rule: bool = True,
) -> ModelVersion:
    """Store the seed's model with an evaluation against the champion of the moment, and register it.

    Args:
        unmet: names of criteria that the evaluation finds unmet.
        criteria: those that were frozen before the fit; the use case's unless told.
        note: makes another evaluation of the same model.
    """
    made, frozen = model(seed), criteria or use_case.criteria
    judged = replace(use_case, criteria=frozen)
    model_files.write(made, use_case, LINEAGE, lake.root)
    champion = registry.champion(use_case.name, lake)
    found = Evidence(
        use_case=use_case.name,
        model_sha256=made.sha256,
        manifest_sha256=model_files.manifest_sha256(lake.root, made.sha256),
        files=model_files.read_manifest(lake.root, made.sha256)["files"],
        training_set=LINEAGE.training_set,
        criteria=frozen,
        criteria_sha256=judged.criteria_sha256,
        champion_sha256=champion.sha256 if champion else "",
        groups=[],
        comparison={},
        backtest=[],
        leakage={},
        verdicts=[Verdict(name, 0.05, 0.061, False) for name in unmet],
        facts={"note": note},
    )
    evidence.store(found, {}, lake.root)
    return registry.register(
        use_case.name,
        made.sha256,
        lake,
        decided_at=NOW,
        decided_by="run 1",
        reason="trained",
        commit=COMMIT,
        evaluated=registry.Evaluated(found.evaluation_id, judged.criteria_sha256, found.unmet),
        first_by_rule=first_by_rule,
    )


def world(root: Path, versions: int = 2) -> Lake:
    """A lake with so many versions, of which the first is champion."""
    lake = Lake(root)
    for seed in range(1, versions + 1):
        register(lake, seed)
    return lake


def ask(
    lake: Lake, version: int, by: str = "Bob", use_case: UseCase = USE_CASE, at: timedelta = timedelta(0)
) -> str:
    """A promotion request; returns its id."""
    asked = promotions.request(use_case, version, lake, by=by, reason="better", now=NOW + at, commit=COMMIT)
    return asked.request_id


def approve(
    lake: Lake, request_id: str, by: str = "Ada", use_case: UseCase = USE_CASE, at: timedelta = timedelta(0)
) -> Decision:
    """An approval."""
    return promotions.approve(use_case, request_id, lake, by=by, reason="agreed", now=NOW + at, commit=COMMIT)


def promote(lake: Lake, version: int) -> None:
    """Request and approval."""
    approve(lake, ask(lake, version))


def two_approvals() -> UseCase:
    """The use case where two people must approve."""
    return replace(USE_CASE, approvals_needed=2)


def champion_version(lake: Lake, use_case: UseCase = USE_CASE) -> int | None:
    """The champion's number."""
    found = registry.champion(use_case.name, lake)
    return found.version if found else None
