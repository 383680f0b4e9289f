"""Which registered models use which features: from the decision log and the models' own files, nothing is loaded."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from contrail import model_files, registry
from contrail.lake import Lake
from contrail.model_files import ModelFilesError
from contrail.registry import Role
from contrail.whole_files import read_recorded


@dataclass(frozen=True)
class ModelFeatures:
    """A registered model version and its inputs.

    Attributes:
        features: None where its files are missing or altered: what it uses cannot be said.
    """

    use_case: str
    version: int
    role: Role
    sha256: str
    features: frozenset[str] | None

    @property
    def name(self) -> str:
        """In words: ``name v3 (champion)``."""
        doubt = "" if self.features is not None else ", inputs unknown: its files are damaged"
        return f"{self.use_case} v{self.version} ({self.role}{doubt})"


def features_of(lake_root: Path, sha256: str) -> tuple[str, ...]:
    """The ordered inputs of a stored model.

    Raises:
        ModelFilesError: the file that names them is missing, or not the one of the model's manifest.
    """
    recorded = model_files.read_manifest(lake_root, sha256)["files"].get(model_files.FEATURES)
    path = model_files.folder(lake_root, sha256) / model_files.FEATURES
    content = read_recorded(path, recorded, ModelFilesError)
    return tuple(str(feature["name"]) for feature in json.loads(content)["features"])


def registered(lake: Lake, use_cases: Iterable[str]) -> list[ModelFeatures]:
    """Every registered version of these use cases, the champion of each first, then the newest."""
    found: list[ModelFeatures] = []
    for use_case in use_cases:
        versions = registry.versions(use_case, lake)
        for v in sorted(versions, key=lambda v: (v.role != "champion", -v.version)):
            try:
                inputs = frozenset(features_of(lake.root, v.sha256))
            except ModelFilesError:  # said in its name; a damaged model must not stop what is no use of it
                inputs = None
            found.append(ModelFeatures(use_case, v.version, v.role, v.sha256, inputs))
    return found


def using(models: Sequence[ModelFeatures], features: Iterable[str]) -> list[ModelFeatures]:
    """Those models that have one of the features among their inputs, or of which that cannot be said."""
    wanted = set(features)
    return [model for model in models if model.features is None or wanted & model.features]
