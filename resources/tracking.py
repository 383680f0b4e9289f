"""MLflow, for people: runs, comparisons and a model registry. Nothing that scores or decides needs it.

The order of a training: `start` (before the fit: data versions, code, criteria and feature order), then the fit, then
`finish`, or `fail`. Aliases follow the decisions in the lake (`set_aliases`) and never the other way round.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Self

import dagster as dg

from contrail import provenance
from contrail.model_files import golden_rows
from contrail.registry import ModelVersion
from contrail.settings import Settings, export
from contrail.training import Split, TrainedModel
from contrail.use_case import UseCase

FAILED_REASON_CHARACTERS = 4000  # a longer tag is cut by the server without a word
TAG_SHA256 = "contrail.model_sha256"
TAG_VERSION = "contrail.model_version"
# For libraries that read nothing else. A server that is gone must fail a training in seconds; by default a call
# blocks for minutes.
ENVIRONMENT = {
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "MLFLOW_ALLOW_PICKLE_DESERIALIZATION": "false",
    "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "2",
    "MLFLOW_HTTP_REQUEST_BACKOFF_FACTOR": "1",
    "MLFLOW_HTTP_REQUEST_TIMEOUT": "10",
}


@dataclass(frozen=True)
class TrackedRun:
    """A run in MLflow.

    Attributes:
        run_id: its id.
        experiment_id: the id of its experiment.
        url: where `mlflow ui` shows it.
    """

    run_id: str
    experiment_id: str
    url: str


@dataclass(frozen=True)
class TrackedModel:
    """A finished training in MLflow.

    Attributes:
        run_id: the run.
        version: version of the registered model; it may differ from the registry's, which is the truth.
        url: where `mlflow ui` shows the run.
    """

    run_id: str
    version: str
    url: str


class TrackingResource(dg.ConfigurableResource):
    """MLflow at one tracking URI.

    Attributes:
        tracking_uri: database or server that holds runs and registered models.
        artifact_root: folder (or URI) of the artifacts; a folder per use case lies in it.
        ui_url: where somebody who types `mlflow ui` looks, for links.
    """

    tracking_uri: str
    artifact_root: str
    ui_url: str = "http://127.0.0.1:5000"

    @classmethod
    def from_settings(cls, settings: Settings) -> Self:
        """The tracking store of an installation; its folder is made."""
        settings.mlflow_artifact_root.mkdir(parents=True, exist_ok=True)
        return cls(
            tracking_uri=settings.mlflow_tracking_uri, artifact_root=settings.mlflow_artifact_root.as_uri()
        )

    def start(
        self,
        use_case: UseCase,
        split: Split,
        *,
        training_set: str,
        training_set_hash: str,
        parameters: Mapping[str, Any],
        tags: Mapping[str, str],
    ) -> TrackedRun:
        """Open a run and write down, before the fit, everything that must not depend on its result.

        Args:
            training_set: ``table@version`` of the rows.
            training_set_hash: their content hash.
            parameters: LightGBM's, from `training.lightgbm_parameters`.
            tags: further facts: the run that trains, the git sha it recorded.
        """
        client = self._client()
        experiment_id = self._experiment(client, use_case.name)
        run = client.create_run(experiment_id, run_name=f"{use_case.name} {training_set.rpartition('@')[2]}")
        run_id = str(run.info.run_id)
        cuts = split.cuts
        facts = {
            "data.training_set": training_set,
            "data.training_set_hash": training_set_hash,
            "contrail.use_case": use_case.name,
            "contrail.feature_service": use_case.feature_service,
            "contrail.feature_order_sha256": use_case.feature_order_sha256,
            "contrail.criteria_sha256": use_case.criteria.sha256,
            "contrail.lock_sha256": provenance.lock_sha256(),
            "contrail.git_sha": provenance.git_sha(),
        } | dict(tags)
        settled = dict(parameters) | {
            "rounds": use_case.learning.rounds,
            "features": len(use_case.features),
            "train_days": f"{cuts.first}..{cuts.train_end}",
            "validate_days": f"{cuts.train_end}..{cuts.validate_end}",
            "test_days": f"{cuts.validate_end}..{cuts.test_end}",
            "trained_until": split.trained_until.isoformat(),
        }
        settled |= {f"rows_{part}": len(rows) for part, rows in split.rows.items()}
        settled |= {f"rows_dropped_{part}": n for part, n in split.dropped.items()}
        self._log(client, run_id, parameters=settled, tags=facts)
        client.log_dict(run_id, asdict(use_case.criteria), "criteria.json")
        client.log_dict(run_id, {"features": list(use_case.features)}, "feature_order.json")
        return TrackedRun(run_id, experiment_id, self._url(experiment_id, run_id))

    def finish(
        self,
        run: TrackedRun,
        model: TrainedModel,
        use_case: UseCase,
        *,
        model_folder: Path,
        metrics: Mapping[str, float],
        plots: Mapping[str, bytes],
        tables: Mapping[str, list[dict[str, Any]]],
    ) -> TrackedModel:
        """Log the results and register the model; a model that is registered already gets no second version.

        Args:
            model_folder: the model's folder in the lake; its files become artifacts of the run.
            metrics: name → value; written in one batch.
            plots: file name → PNG bytes.
            tables: file name → rows, written as JSON.
        """
        import mlflow

        client = self._client()
        self._log(client, run.run_id, metrics=metrics, tags={TAG_SHA256: model.sha256})
        with mlflow.start_run(run_id=run.run_id):  # ends the run as FINISHED, or as FAILED on an error
            for name, content in plots.items():
                _log_bytes(client, run.run_id, content, name)
            for name, rows in tables.items():
                client.log_text(run.run_id, json.dumps(rows, default=str, indent=1), name)
            client.log_artifacts(run.run_id, str(model_folder), "model_files")
            version = self._register(client, run.run_id, model, use_case)
        return TrackedModel(run.run_id, version, run.url)

    def fail(self, run: TrackedRun, reason: str) -> None:
        """End a run as FAILED, with the reason as its tag."""
        client = self._client()
        client.set_tag(run.run_id, "contrail.failure", reason[:FAILED_REASON_CHARACTERS])
        client.set_terminated(run.run_id, "FAILED")

    @contextmanager
    def failing(self, run: TrackedRun) -> Iterator[None]:
        """Whatever is raised inside ends the run as FAILED and goes on."""
        try:
            yield
        except BaseException as error:
            self.fail(run, f"{type(error).__name__}: {error}")
            raise

    def set_aliases(self, use_case: str, versions: list[ModelVersion]) -> dict[str, str]:
        """Make the aliases ``champion`` and ``challenger`` follow the lake's decisions.

        Returns:
            alias → MLflow version. A registered version that MLflow no longer has gets no alias: it still scores.
        """
        client = self._client()
        known = {
            str(found.tags.get(TAG_SHA256)): str(found.version)
            for found in client.search_model_versions(f"name='{use_case}'")
        }
        wanted = {v.role: v for v in versions if v.role != "archived" and v.sha256 in known}
        aliases: dict[str, str] = {}
        if not known:
            return aliases
        for role in ("champion", "challenger"):
            decided = wanted.get(role)
            if decided is None:
                client.delete_registered_model_alias(use_case, role)
                continue
            aliases[role] = known[decided.sha256]
            client.set_registered_model_alias(use_case, role, aliases[role])
            client.set_model_version_tag(use_case, aliases[role], TAG_VERSION, str(decided.version))
        return aliases

    def _client(self) -> Any:
        export(ENVIRONMENT)
        import mlflow

        # Migrating an empty database says so in dozens of lines.
        for talkative in ("alembic", "mlflow.store.db.utils"):
            logging.getLogger(talkative).setLevel(logging.WARNING)
        # The model flavours write through the process-wide URI; a stray ./mlruns would otherwise win over it.
        mlflow.set_tracking_uri(self.tracking_uri)
        mlflow.set_registry_uri(self.tracking_uri)
        return mlflow.MlflowClient(tracking_uri=self.tracking_uri, registry_uri=self.tracking_uri)

    def _experiment(self, client: Any, name: str) -> str:
        found = client.get_experiment_by_name(name)
        if found is not None:
            return str(found.experiment_id)
        return str(
            client.create_experiment(name, artifact_location=f"{self.artifact_root.rstrip('/')}/{name}")
        )

    def _url(self, experiment_id: str, run_id: str) -> str:
        return f"{self.ui_url.rstrip('/')}/#/experiments/{experiment_id}/runs/{run_id}"

    def _log(
        self,
        client: Any,
        run_id: str,
        *,
        metrics: Mapping[str, float] | None = None,
        parameters: Mapping[str, Any] | None = None,
        tags: Mapping[str, str] | None = None,
    ) -> None:
        """One batch: a call per value costs tens of milliseconds each."""
        from mlflow.entities import Metric, Param, RunTag

        from contrail.clock import utc_now

        stamp = int(utc_now().timestamp() * 1000)
        client.log_batch(
            run_id,
            metrics=[Metric(name, float(value), stamp, 0) for name, value in (metrics or {}).items()],
            params=[Param(name, str(value)) for name, value in (parameters or {}).items()],
            tags=[RunTag(name, str(value)) for name, value in (tags or {}).items()],
        )

    def _register(self, client: Any, run_id: str, model: TrainedModel, use_case: UseCase) -> str:
        import mlflow.lightgbm
        import pandas as pd
        from mlflow.exceptions import MlflowException
        from mlflow.models.signature import ModelSignature
        from mlflow.types.schema import ColSpec, Schema

        name = use_case.name
        same = [
            str(found.version)
            for found in client.search_model_versions(f"name='{name}'")
            if found.tags.get(TAG_SHA256) == model.sha256
        ]
        if same:
            return same[0]
        features = model.encoding.features
        # Doubles throughout: an integer column of a signature refuses missing values.
        signature = ModelSignature(
            inputs=Schema([ColSpec("double", feature) for feature in features]),
            outputs=Schema([ColSpec("double")]),
        )
        example = pd.DataFrame(model.encoding.matrix(golden_rows(model)), columns=list(features))
        # Without requirements given, MLflow starts a second Python and loads the model in it to guess them.
        logged = mlflow.lightgbm.log_model(
            model.booster(),
            name=name,
            signature=signature,
            input_example=example,
            pip_requirements=[f"{package}=={_installed(package)}" for package in ("lightgbm", "numpy")],
        )
        try:
            client.create_registered_model(name, description=use_case.description)
        except MlflowException as error:
            if error.error_code != "RESOURCE_ALREADY_EXISTS":
                raise
        version = client.create_model_version(
            name,
            source=logged.model_uri,
            run_id=run_id,
            model_id=logged.model_id,
            tags={TAG_SHA256: model.sha256},
        )
        return str(version.version)


def _log_bytes(client: Any, run_id: str, content: bytes, name: str) -> None:
    """An artifact from bytes, through a file that is gone afterwards."""
    import tempfile

    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / name
        path.write_bytes(content)
        client.log_artifact(run_id, str(path), "plots")


def _installed(package: str) -> str:
    from importlib.metadata import version

    return version(package)
