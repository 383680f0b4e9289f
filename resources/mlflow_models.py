"""One MLflow model per registered version: LightGBM's own text, and the lake's files of the model beside it.

    MLmodel            signature (doubles), and in `metadata` every sha256
    model.lgb          the canonical text; its sha256 is the model's identity
    extra_files/       features with types and category maps, profile, naive reference, golden rows, manifest
    input_example.*    the golden rows, which are synthetic

Nothing is pickled: what loads it runs no code of the file.
"""

from __future__ import annotations

import hashlib
import json
from importlib.metadata import version as installed_version
from pathlib import Path
from typing import Any

from contrail.model_files import MANIFEST, MODEL, golden_rows
from contrail.training import TrainedModel
from contrail.use_case import UseCase

TAG_SHA256 = "contrail.model_sha256"
TAG_VERSION = "contrail.model_version"


def log_model(
    client: Any, experiment_id: str, run_id: str, model: TrainedModel, use_case: UseCase, folder: Path
) -> str:
    """Store the model in MLflow as an output of the run, and return its id there. Nothing is registered yet.

    Args:
        folder: the model's folder in the lake.
    """
    import pandas as pd
    from mlflow import lightgbm
    from mlflow.models import Model
    from mlflow.models.signature import ModelSignature
    from mlflow.types.schema import ColSpec, Schema

    features = model.encoding.features
    # Doubles throughout: an integer column of a signature refuses missing values.
    signature = ModelSignature(
        inputs=Schema([ColSpec("double", feature) for feature in features]),
        outputs=Schema([ColSpec("double")]),
    )
    named = client.create_logged_model(
        experiment_id,
        use_case.name,
        source_run_id=run_id,
        tags={TAG_SHA256: model.sha256},
        params=client.get_run(run_id).data.params,
    )
    Model.log(
        artifact_path=None,
        flavor=lightgbm,
        run_id=run_id,
        model_id=named.model_id,
        # MLflow stores what the booster saves: this one was loaded from the canonical text.
        lgb_model=model.booster(),
        signature=signature,
        input_example=pd.DataFrame(model.encoding.matrix(golden_rows(model)), columns=pd.Index(features)),
        # Without requirements given, MLflow starts a second Python and loads the model in it to guess them.
        pip_requirements=[f"{package}=={installed_version(package)}" for package in ("lightgbm", "numpy")],
        metadata=_identities(folder),
        extra_files=[str(folder / name) for name in _beside(folder)],
    )
    return str(named.model_id)


def register(client: Any, run_id: str, model_id: str, model: TrainedModel, use_case: UseCase) -> str:
    """Make a logged model a version of the registered model; returns the version's number in MLflow."""
    from mlflow.exceptions import MlflowException

    try:
        client.create_registered_model(use_case.name, description=use_case.description)
    except MlflowException as error:
        if error.error_code != "RESOURCE_ALREADY_EXISTS":
            raise
    version = client.create_model_version(
        use_case.name,
        source=f"models:/{model_id}",
        run_id=run_id,
        model_id=model_id,
        tags={TAG_SHA256: model.sha256},
    )
    return str(version.version)


def registered_versions(client: Any, name: str) -> dict[str, list[Any]]:
    """sha256 → MLflow's versions of that model, oldest first; there are several only where some were emptied."""
    found: dict[str, list[Any]] = {}
    versions = client.search_model_versions(f"name='{name}'")
    for version in sorted(versions, key=lambda version: int(version.version)):
        found.setdefault(str(version.tags.get(TAG_SHA256)), []).append(version)
    return found


def whole(client: Any, versions: list[Any]) -> Any | None:
    """The first of the versions that still has its model: `mlflow gc` empties a version and leaves it standing."""
    return next((version for version in versions if _has_model(client, version)), None)


def model_id_of(version: Any) -> str:
    """The id of the logged model behind a version, which is named by its source alone."""
    return str(version.source).rpartition("/")[2]


def _has_model(client: Any, version: Any) -> bool:
    from mlflow.exceptions import MlflowException

    try:
        client.get_logged_model(model_id_of(version))
    except MlflowException as error:
        if error.error_code != "RESOURCE_DOES_NOT_EXIST":
            raise
        return False
    return True


def _beside(folder: Path) -> list[str]:
    """The lake's files of the model but for its text."""
    return [*sorted(set(_manifest(folder)["files"]) - {MODEL}), MANIFEST]


def _identities(folder: Path) -> dict[str, Any]:
    """What the lake's manifest says of the model: the same in every MLflow that it is ever put into."""
    manifest = _manifest(folder)
    code = json.dumps(manifest["feature_code"], sort_keys=True).encode()
    same = ("use_case", "training_set", "feature_order_sha256", "criteria_sha256", "lock_sha256")
    return {name: manifest[name] for name in same} | {
        "model_sha256": manifest["files"][MODEL],
        "feature_code_sha256": hashlib.sha256(code).hexdigest(),
        "files": manifest["files"] | {MANIFEST: hashlib.sha256((folder / MANIFEST).read_bytes()).hexdigest()},
    }


def _manifest(folder: Path) -> dict[str, Any]:
    content: dict[str, Any] = json.loads((folder / MANIFEST).read_text(encoding="utf-8"))
    return content
