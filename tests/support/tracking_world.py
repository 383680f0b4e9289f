"""MLflow for tests: an empty database that is migrated once, and trainings of the small use case."""

from __future__ import annotations

import fcntl
import os
import shutil
from pathlib import Path
from typing import Any

import mlflow
import pytest

from contrail import evidence, model_files, promotions, registry, training
from contrail.decisions import Decision
from contrail.evidence import Evidence
from contrail.lake import Lake
from contrail.registry import ModelVersion
from contrail.settings import Settings
from resources.mlflow_aliases import Reconciled
from resources.mlflow_client import connect
from resources.tracking import TrackedModel, TrackedRun, TrackingResource
from tests.support import small_model
from tests.support.small_model import COMMIT, LINEAGE, NOW, USE_CASE, trained

ROWS = small_model.rows()
SPLIT = training.split_rows(ROWS, USE_CASE, labels_until=NOW)
PARAMETERS = training.lightgbm_parameters(USE_CASE, rows=len(SPLIT.rows["train"]), threads=1)
EVALUATION = "e" * 64


def empty_database(factory: pytest.TempPathFactory, target: Path) -> Path:
    """A migrated database at `target`; migrating takes seconds, so that it is done once and copied."""
    base = factory.getbasetemp()
    folder = (base.parent if "PYTEST_XDIST_WORKER" in os.environ else base) / "mlflow-template"
    folder.mkdir(exist_ok=True)
    made = folder / "mlflow.db"
    with (folder / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not made.exists():
            building = folder / "building.db"
            building.unlink(missing_ok=True)
            connect(f"sqlite:///{building}").search_experiments()
            building.rename(made)
    target.parent.mkdir(parents=True, exist_ok=True)
    shutil.copyfile(made, target)
    return target


class TrackingWorld:
    """A home with an MLflow of its own: its file, or a server."""

    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        self.lake = Lake(settings.lake_root)
        self.tracking = TrackingResource.from_settings(settings)

    @property
    def client(self) -> mlflow.MlflowClient:
        return connect(self.tracking.tracking_uri)

    def start(self, version: int = 3, dagster_run: str = "run-1") -> TrackedRun:
        return self.tracking.start(
            USE_CASE,
            SPLIT,
            training_set=f"model/{USE_CASE.name}/training_set@v{version}",
            training_set_hash="abc" * 21,
            parameters=PARAMETERS,
            tags={"dagster.run_id": dagster_run},
        )

    def model_folder(self, model: training.TrainedModel) -> Path:
        return model_files.write(model, USE_CASE, LINEAGE, self.settings.lake_root)

    def finish(self, run: TrackedRun, model: training.TrainedModel, **files: bytes) -> TrackedModel:
        return self.tracking.finish(
            run,
            model,
            USE_CASE,
            model_folder=self.model_folder(model),
            evaluation_id=EVALUATION,
            metrics={"test_auc": 0.77, "test_log_loss": 0.48},
            files={"card.md": b"# Jars", "plots/calibration.png": b"\x89PNG"} | files,
        )

    def train(self, seed: int) -> tuple[training.TrainedModel, TrackedModel]:
        """A model of this seed, in MLflow and in the lake's decisions: the first one is champion."""
        model = trained(ROWS, small_model.another_seed(seed))
        tracked = self.finish(self.start(), model)
        self.register(model)
        return model, tracked

    def register(self, model: training.TrainedModel) -> ModelVersion:
        """The model in the lake, with evidence in which nothing is unmet."""
        self.model_folder(model)
        champion = registry.champion(USE_CASE.name, self.lake)
        found = Evidence(
            use_case=USE_CASE.name,
            model_sha256=model.sha256,
            manifest_sha256=model_files.manifest_sha256(self.settings.lake_root, model.sha256),
            files=model_files.read_manifest(self.settings.lake_root, model.sha256)["files"],
            training_set=LINEAGE.training_set,
            criteria=USE_CASE.criteria,
            criteria_sha256=USE_CASE.criteria_sha256,
            champion_sha256=champion.sha256 if champion else "",
            groups=[],
            comparison={},
            backtest=[],
            leakage={},
            verdicts=[],
        )
        evidence.store(found, {}, self.settings.lake_root)
        return registry.register(
            USE_CASE.name,
            model.sha256,
            self.lake,
            decided_at=NOW,
            decided_by="run run-1",
            reason="trained",
            commit=COMMIT,
            evaluated=registry.Evaluated(found.evaluation_id, USE_CASE.criteria_sha256, found.unmet),
        )

    def ask(self, version: int) -> str:
        """A promotion request; returns its id."""
        asked = promotions.request(
            USE_CASE, version, self.lake, by="Asker", reason="better", now=NOW, commit=COMMIT
        )
        return asked.request_id

    def promote(self, version: int) -> Decision:
        """Asked for and approved, by the rules."""
        return promotions.approve(
            USE_CASE, self.ask(version), self.lake, by="Approver", reason="agreed", now=NOW, commit=COMMIT
        )

    def roll_back(self) -> Decision:
        return promotions.rollback(
            USE_CASE, self.lake, by="Approver", reason="worse in life", now=NOW, commit=COMMIT
        )

    def reconcile(self) -> Reconciled:
        return self.tracking.reconcile(USE_CASE.name, self.lake)

    def put(self, alias: str, version: str) -> None:
        """An alias moved by hand."""
        self.client.set_registered_model_alias(USE_CASE.name, alias, version)

    def aliases(self) -> dict[str, str]:
        found = self.client.get_registered_model(USE_CASE.name).aliases
        return {str(alias): str(version) for alias, version in found.items()}

    def tags(self) -> dict[str, Any]:
        return dict(self.client.get_registered_model(USE_CASE.name).tags)
