"""MLflow, for people: runs, comparisons and a model registry. Nothing that scores or decides needs it.

The order of a training: `start` (before the fit: data versions, code, criteria and feature order), then the fit, then
`finish`; `failing` around both ends the run where something is raised. What is registered is registered last: a server
that dies in between leaves a run, and no version. Aliases follow the decisions in the lake (`reconcile`) and never the
other way round.
"""

from __future__ import annotations

import logging
import tempfile
from collections.abc import Callable, Collection, Generator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any, Self
from urllib.parse import urlsplit

from contrail import provenance
from contrail.clock import utc_now
from contrail.decisions import Anchor
from contrail.lake import Lake
from contrail.settings import Settings
from contrail.training import Split, TrainedModel
from contrail.use_case import UseCase
from resources import mlflow_aliases, mlflow_models
from resources.mlflow_aliases import Reconciled
from resources.mlflow_client import (
    CLOSING_SECONDS,
    TrackingError,
    connect,
    first_line,
    is_missing_file,
    reached,
    within,
)
from resources.mlflow_models import TAG_SHA256

LOGGER = logging.getLogger(__name__)
FAILED_REASON_CHARACTERS = 4000  # a longer tag is cut by the server without a word
LOCAL_UI = "http://127.0.0.1:5000"
DAGSTER_RUN = "dagster.run_id"
TAG_FAILURE = "contrail.failure"
TAG_EVALUATION = "contrail.evaluation_id"
TAG_ANCHOR = "contrail.decision_anchor"


@dataclass(frozen=True)
class TrackedRun:
    """A run in MLflow.

    Attributes:
        run_id: its id.
        experiment_id: the id of its experiment.
        url: where MLflow shows it.
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
        url: where MLflow shows the run.
    """

    run_id: str
    version: str
    url: str


@dataclass(frozen=True)
class TrackingResource:
    """MLflow at one tracking URI.

    Attributes:
        tracking_uri: database or server that holds runs and registered models; it may hold a password.
        artifact_root: URI of the artifacts, with a folder per use case; empty where a server decides that.
        ui_url: where MLflow shows what it holds, for links.
    """

    tracking_uri: str = field(repr=False)
    artifact_root: str
    ui_url: str = LOCAL_UI

    @classmethod
    def from_settings(cls, settings: Settings) -> Self:
        """The tracking store of an installation; nothing is opened."""
        uri = settings.mlflow_tracking_uri
        if not uri.startswith(("http://", "https://")):
            return cls(uri, settings.mlflow_artifact_root.as_uri())
        address = urlsplit(uri)
        place = address.netloc.rpartition("@")[2]
        return cls(uri, "", f"{address.scheme}://{place}{address.path}")

    # -- a training --------------------------------------------------------------------------------------------

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
            training_set_hash: identity of that version's files.
            parameters: LightGBM's, from `training.lightgbm_parameters`.
            tags: further facts: the run that trains, the git sha it recorded.
        """
        client = connect(self.tracking_uri)
        experiment_id = self._experiment(client, use_case.name)
        cuts = split.cuts
        facts = {
            "data.training_set": training_set,
            "data.training_set_hash": training_set_hash,
            "contrail.use_case": use_case.name,
            "contrail.feature_service": use_case.feature_service,
            "contrail.feature_order_sha256": use_case.feature_order_sha256,
            "contrail.criteria_sha256": use_case.criteria_sha256,
            "contrail.lock_sha256": provenance.lock_sha256(),
            "contrail.git_sha": provenance.git_sha(),
        } | dict(tags)
        # With its tags from the start: whoever closes what was left open knows it by them.
        run = client.create_run(
            experiment_id, tags=facts, run_name=f"{use_case.name} {training_set.rpartition('@')[2]}"
        )
        run_id = str(run.info.run_id)
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
        tracked = TrackedRun(run_id, experiment_id, self._url(experiment_id, run_id))
        with self.failing(tracked):
            self._log(client, run_id, parameters=settled)
            _log_inputs(client, run_id, use_case, split, training_set, training_set_hash)
            client.log_dict(run_id, asdict(use_case.criteria), "criteria.json")
            client.log_dict(run_id, {"features": list(use_case.features)}, "feature_order.json")
        return tracked

    def finish(
        self,
        run: TrackedRun,
        model: TrainedModel,
        use_case: UseCase,
        *,
        model_folder: Path,
        evaluation_id: str,
        metrics: Mapping[str, float],
        files: Mapping[str, bytes],
    ) -> TrackedModel:
        """Log the results, end the run and register the model; a registered model gets no second version.

        Args:
            model_folder: the model's folder in the lake; its files go into the MLflow model.
            evaluation_id: identity of the evidence, which lies in the lake.
            metrics: name → value; written in one batch.
            files: name → content of what people look at, such as ``card.md`` and ``plots/calibration.png``.
        """
        client = connect(self.tracking_uri)
        same = mlflow_models.registered_versions(client, use_case.name).get(model.sha256, [])
        version = mlflow_models.whole(client, same)
        if version is None:
            model_id = mlflow_models.log_model(
                client, run.experiment_id, run.run_id, model, use_case, model_folder
            )
        else:
            model_id = mlflow_models.model_id_of(version)
        found = {TAG_SHA256: model.sha256, TAG_EVALUATION: evaluation_id}
        self._log(client, run.run_id, metrics=metrics, tags=found, model_id=model_id)
        _log_files(client, run.run_id, files)
        client.set_terminated(run.run_id, "FINISHED")
        if version is None:
            number = mlflow_models.register(client, run.run_id, model_id, model, use_case)
        else:
            number = str(version.version)
        return TrackedModel(run.run_id, number, run.url)

    def fail(self, run_id: str, reason: str) -> None:
        """End a run as FAILED, with the reason as its tag."""
        client = connect(self.tracking_uri)
        client.set_tag(run_id, TAG_FAILURE, reason[:FAILED_REASON_CHARACTERS])
        client.set_terminated(run_id, "FAILED")

    @contextmanager
    def failing(self, run: TrackedRun) -> Generator[None]:
        """Whatever is raised inside ends the run as FAILED and goes on, with a note where MLflow cannot be told."""
        try:
            yield
        except BaseException as error:
            reason = f"{type(error).__name__}: {error}"
            try:
                within(CLOSING_SECONDS, lambda: self.fail(run.run_id, reason))
            except Exception as untold:  # the error that ended the training must be the one that is seen
                note = (
                    f"MLflow could not be told that run {run.run_id} failed ({first_line(untold)}); it stays RUNNING "
                    "there until the sensor mlflow_abandoned_runs closes it"
                )
                LOGGER.warning(note)
                error.add_note(note)
            raise

    # -- following what was decided ----------------------------------------------------------------------------

    def reconcile(self, use_case: str, lake: Lake) -> Reconciled:
        """Make the aliases ``champion`` and ``challenger`` follow the lake's decisions.

        Raises:
            TrackingError: MLflow cannot be reached, or refuses.
        """
        with self._asking() as client:
            return mlflow_aliases.follow(client, use_case, lake)

    def anchor(self, use_case: str, anchor: Anchor) -> None:
        """Remember a decision at the registered model, so that a log whose tail was cut off shows.

        Raises:
            TrackingError: MLflow cannot be reached, refuses, or has no such registered model.
        """
        with self._asking() as client:
            client.set_registered_model_tag(use_case, TAG_ANCHOR, str(anchor))

    def anchors(self) -> dict[str, str]:
        """Use case → the anchor remembered there, as text; those of all registered models that have one.

        Raises:
            TrackingError: MLflow cannot be reached, or refuses.
        """
        with self._asking() as client:
            found = client.search_registered_models(max_results=1000)
        return {str(model.name): model.tags[TAG_ANCHOR] for model in found if TAG_ANCHOR in model.tags}

    def sweep(
        self,
        older_than: timedelta,
        now: datetime,
        *,
        experiments: Collection[str],
        is_under_way: Callable[[str], bool],
    ) -> list[str]:
        """End as FAILED the runs that are RUNNING in MLflow although nothing runs any more.

        Args:
            older_than: how long a run must have been RUNNING.
            now: the wall clock, by which MLflow stamps its runs.
            experiments: the names of ours, which are those of the use cases; other people's are left alone.
            is_under_way: whether a Dagster run, by its id, has not ended: its MLflow run is left alone too.

        Returns:
            The ids of the runs that were ended.

        Raises:
            TrackingError: MLflow cannot be reached, or refuses.
        """
        before = int((now - older_than).timestamp() * 1000)
        swept: list[str] = []
        with self._asking() as client:
            ours = [str(one.experiment_id) for one in client.search_experiments() if one.name in experiments]
            condition = f"attributes.status = 'RUNNING' and attributes.start_time < {before}"
            for run in client.search_runs(ours, condition) if ours else []:
                run_id, dagster_run = str(run.info.run_id), run.data.tags.get(DAGSTER_RUN)
                if dagster_run and is_under_way(dagster_run):
                    continue
                opener = f"the Dagster run {dagster_run}" if dagster_run else "whatever"
                hours = older_than / timedelta(hours=1)
                self.fail(
                    run_id,
                    f"left RUNNING for over {hours:g} h, and {opener} that opened it has ended: its process or this "
                    "server was gone in the middle of it",
                )
                swept.append(run_id)
        return swept

    # -- inside ------------------------------------------------------------------------------------------------

    @contextmanager
    def _asking(self) -> Generator[Any]:
        if is_missing_file(self.tracking_uri):
            raise TrackingError("MLflow's database is not there (yet): the first training makes it")
        with reached():
            yield connect(self.tracking_uri)

    def _experiment(self, client: Any, name: str) -> str:
        found = client.get_experiment_by_name(name)
        if found is not None:
            return str(found.experiment_id)
        place = f"{self.artifact_root.rstrip('/')}/{name}" if self.artifact_root else None
        return str(client.create_experiment(name, artifact_location=place))

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
        model_id: str | None = None,
    ) -> None:
        """One batch: a call per value costs tens of milliseconds each."""
        from mlflow.entities import Metric, Param, RunTag

        stamp = int(utc_now().timestamp() * 1000)
        client.log_batch(
            run_id,
            metrics=[
                Metric(name, float(value), stamp, 0, model_id=model_id)
                for name, value in (metrics or {}).items()
            ],
            params=[Param(name, str(value)) for name, value in (parameters or {}).items()],
            tags=[RunTag(name, str(value)) for name, value in (tags or {}).items()],
        )


def _log_inputs(
    client: Any, run_id: str, use_case: UseCase, split: Split, training_set: str, files_sha256: str
) -> None:
    """The rows of the training set as the run's datasets: what was learnt from, and what came after."""
    from resources.mlflow_datasets import LakeTableSource, dataset_input

    table, _, version = training_set.rpartition("@v")
    day, end = use_case.partition_column, split.cuts.train_end
    known = f"{use_case.outcome_known_column} < TIMESTAMPTZ '{split.trained_until.isoformat()}'"
    later = len(split.rows["validate"]) + len(split.rows["test"])
    conditions = {
        "training": (f"{day} < DATE '{end}' AND {known}", len(split.rows["train"])),
        "evaluation": (f"{day} >= DATE '{end}'", later),
    }
    named = dict.fromkeys((*use_case.spine_columns, *use_case.features))
    client.log_inputs(
        run_id,
        [
            dataset_input(
                LakeTableSource(
                    table=table,
                    version=int(version),
                    files_sha256=files_sha256,
                    columns=tuple(name for name in named if name not in use_case.personal),
                    where=where,
                    order_by=(use_case.decision_column, use_case.entity_key),
                ),
                context,
                rows,
            )
            for context, (where, rows) in conditions.items()
        ],
    )


def _log_files(client: Any, run_id: str, files: Mapping[str, bytes]) -> None:
    """Artifacts from bytes, through a folder that is gone afterwards."""
    with tempfile.TemporaryDirectory() as folder:
        for name, content in files.items():
            path = Path(folder) / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(content)
        client.log_artifacts(run_id, folder)
