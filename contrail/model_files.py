"""A model as files in the lake: ``<lake>/models/<sha256>/``, complete before anybody registers it.

What must outlive a tracking server (scoring, serving, approval, rollback, trace) loads a model from here. Nothing is
pickled: the model is LightGBM's own text, all else JSON. Loading compares every byte with the manifest and then the
scores of the golden rows with the recorded ones, bit for bit.

    model.lgb       canonical model text; its sha256 is the folder's name
    features.json   ordered features with their types, category maps
    profile.json    distribution of every feature in the training rows
    naive.json      the naive reference
    golden.json     synthetic rows and their exact scores
    manifest.json   sha256 of all of these, and where the model comes from
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, date, datetime
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from contrail.drift import Profile
from contrail.encoding import Encoding, EncodingError, Floats, predict
from contrail.evaluation import NaiveReference
from contrail.training import TrainedModel, booster_from_text
from contrail.use_case import UseCase

FOLDER = "models"
MODEL, FEATURES, PROFILE = "model.lgb", "features.json", "profile.json"
NAIVE, GOLDEN, MANIFEST = "naive.json", "golden.json", "manifest.json"
GOLDEN_ROWS = 20
FORMAT = 1


class ModelFilesError(RuntimeError):
    """A stored model is missing or is not what its manifest says; it must not score."""


@dataclass(frozen=True)
class Lineage:
    """Where a model comes from.

    Attributes:
        training_set: ``table@version`` of its rows.
        run_id: the run that trained it.
        tracking_run_id: its run in the tracking server.
        git_sha: the code.
        lock_sha256: the environment.
    """

    training_set: str
    run_id: str
    tracking_run_id: str
    git_sha: str
    lock_sha256: str


@dataclass(frozen=True)
class LoadedModel:
    """A checked model, ready to score.

    Attributes:
        sha256: its identity.
        encoding: ordered features and category maps.
        profile: reference distribution for drift.
        naive: the naive reference.
        manifest: where it comes from, as recorded.
        booster: the LightGBM model.
    """

    sha256: str
    encoding: Encoding
    profile: Profile
    naive: NaiveReference
    manifest: Mapping[str, Any]
    booster: Any

    @property
    def trained_until(self) -> datetime:
        """Decisions before this instant belong to the training range."""
        return datetime.fromisoformat(self.manifest["trained_until"]).astimezone(UTC)

    @property
    def train_end(self) -> date:
        """First partition day after the training range."""
        return date.fromisoformat(self.manifest["train_end"])

    @property
    def training_set(self) -> str:
        """``table@version`` of the training rows."""
        return str(self.manifest["training_set"])

    def predict(self, rows: pa.Table) -> Floats:
        """Scores of `rows` in their order."""
        return predict(self.booster, self.encoding, rows)


def folder(lake_root: Path, sha256: str) -> Path:
    """Where the model lies."""
    return lake_root / FOLDER / sha256


def write(model: TrainedModel, use_case: UseCase, lineage: Lineage, lake_root: Path) -> Path:
    """Store a model; a model that is already there (same bytes) keeps its first manifest.

    The files are written to a temporary folder beside the target, which then takes the target's name: a reader sees a
    whole model or none.

    Returns:
        The model's folder.

    Raises:
        ModelFilesError: the model is there already and damaged.
    """
    target = folder(lake_root, model.sha256)
    if target.exists():
        load(lake_root, model.sha256)
        return target
    target.parent.mkdir(parents=True, exist_ok=True)
    building = Path(tempfile.mkdtemp(prefix=f".{model.sha256[:12]}-", dir=target.parent))
    try:
        contents = _contents(model)
        for name, content in contents.items():
            write_durably(building / name, content)
        write_durably(building / MANIFEST, _manifest(model, use_case, lineage, contents))
        building.chmod(0o755)
        building.rename(target)
    except FileExistsError:
        load(lake_root, model.sha256)  # somebody else stored the same model meanwhile
    finally:
        shutil.rmtree(building, ignore_errors=True)
    return target


def load(lake_root: Path, sha256: str) -> LoadedModel:
    """Load a model after checking every file and the golden rows.

    Raises:
        ModelFilesError: a file is missing or altered, or the golden rows score otherwise than recorded.
    """
    where = folder(lake_root, sha256)
    manifest = read_manifest(lake_root, sha256)
    contents: dict[str, bytes] = {}
    for name, recorded in manifest["files"].items():
        contents[name] = _read(where / name)
        found = hashlib.sha256(contents[name]).hexdigest()
        if found != recorded:
            raise ModelFilesError(
                f"{where / name} was altered: its sha256 is {found}, recorded is {recorded}"
            )
    if manifest["files"].get(MODEL) != sha256:
        raise ModelFilesError(
            f"{where} holds another model: {manifest['files'].get(MODEL)} instead of {sha256}"
        )
    described = json.loads(contents[FEATURES])
    loaded = LoadedModel(
        sha256=sha256,
        encoding=Encoding(
            features=tuple(str(f["name"]) for f in described["features"]),
            categories={
                str(n): tuple(str(v) for v in values) for n, values in described["categories"].items()
            },
        ),
        profile=Profile.from_json(contents[PROFILE].decode()),
        naive=NaiveReference.from_dict(json.loads(contents[NAIVE])),
        manifest=manifest,
        booster=booster_from_text(contents[MODEL].decode()),
    )
    _check_golden(loaded, json.loads(contents[GOLDEN]), where)
    return loaded


def read_manifest(lake_root: Path, sha256: str) -> dict[str, Any]:
    """The manifest alone, checked against its own sha256.

    Raises:
        ModelFilesError: it is missing or altered.
    """
    path = folder(lake_root, sha256) / MANIFEST
    content = _read(path)
    try:
        manifest: dict[str, Any] = json.loads(content)
        recorded = manifest.pop("manifest_sha256")
    except (ValueError, KeyError, AttributeError) as error:
        raise ModelFilesError(f"{path} was altered: it is no manifest ({error})") from error
    found = hashlib.sha256(_json(manifest)).hexdigest()
    if found != recorded:
        raise ModelFilesError(f"{path} was altered: its content's sha256 is {found}, recorded is {recorded}")
    return manifest


def golden_rows(model: TrainedModel) -> pa.Table:
    """Synthetic rows within the training distribution, every kind of input in them; drawn from the model's identity."""
    draw = np.random.default_rng(int(model.sha256[:16], 16))
    columns: dict[str, pa.Array] = {}
    for name in model.encoding.features:
        missing = draw.random(GOLDEN_ROWS) < 0.15
        if name in model.encoding.categories:
            values = model.encoding.categories[name] or ("",)
            picked: list[object] = [values[i] for i in draw.integers(0, len(values), GOLDEN_ROWS)]
            kind = pa.string()
        else:
            edges = model.profile.features[name].edges or (0.0,)
            picked = [float(v) for v in draw.uniform(edges[0] - 1.0, edges[-1] + 1.0, GOLDEN_ROWS)]
            kind = pa.float64()
        columns[name] = pa.array([None if m else v for v, m in zip(picked, missing, strict=True)], kind)
    return pa.table(columns)


def _contents(model: TrainedModel) -> dict[str, bytes]:
    rows = golden_rows(model)
    categories = model.encoding.categories
    kinds = [
        {"name": n, "type": "category" if n in categories else "double"} for n in model.encoding.features
    ]
    return {
        MODEL: model.text.encode(),
        FEATURES: _json({"features": kinds, "categories": {n: list(v) for n, v in categories.items()}}),
        PROFILE: model.profile.to_json().encode(),
        NAIVE: _json(model.naive.to_dict()),
        GOLDEN: _json({"rows": rows.to_pylist(), "scores": [float(s) for s in model.predict(rows)]}),
    }


def _manifest(
    model: TrainedModel, use_case: UseCase, lineage: Lineage, contents: Mapping[str, bytes]
) -> bytes:
    body: dict[str, Any] = {
        "format": FORMAT,
        "use_case": use_case.name,
        "feature_service": use_case.feature_service,
        "feature_order_sha256": use_case.feature_order_sha256,
        "criteria_sha256": use_case.criteria.sha256,
        "parameters": dict(model.parameters),
        "train_first": model.cuts.first.isoformat(),
        "train_end": model.cuts.train_end.isoformat(),
        "validate_end": model.cuts.validate_end.isoformat(),
        "test_end": model.cuts.test_end.isoformat(),
        "trained_until": model.trained_until.isoformat(),
        "train_rows": model.train_rows,
        "dropped_rows": model.dropped_rows,
        "training_set": lineage.training_set,
        "run_id": lineage.run_id,
        "tracking_run_id": lineage.tracking_run_id,
        "git_sha": lineage.git_sha,
        "lock_sha256": lineage.lock_sha256,
        "files": {name: hashlib.sha256(content).hexdigest() for name, content in contents.items()},
    }
    return _json(body | {"manifest_sha256": hashlib.sha256(_json(body)).hexdigest()})


def _check_golden(model: LoadedModel, golden: Mapping[str, Any], where: Path) -> None:
    kinds = [
        pa.field(name, pa.string() if name in model.encoding.categories else pa.float64())
        for name in model.encoding.features
    ]
    try:
        found = model.predict(pa.Table.from_pylist(golden["rows"], schema=pa.schema(kinds)))
    except EncodingError as error:
        raise ModelFilesError(f"{where}: the golden rows do not fit the model: {error}") from error
    wrong = [i for i, (a, b) in enumerate(zip(found, golden["scores"], strict=True)) if float(a) != float(b)]
    if wrong:
        first = wrong[0]
        raise ModelFilesError(
            f"{where}: golden rows {wrong} score otherwise than recorded (row {first}: {found[first]!r} instead of "
            f"{golden['scores'][first]!r}); model, features and library do not belong together"
        )


def _json(body: Mapping[str, Any]) -> bytes:
    return json.dumps(body, sort_keys=True, indent=1, ensure_ascii=False, allow_nan=False).encode()


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except FileNotFoundError as error:
        raise ModelFilesError(f"there is no {path}; restore the model's folder from the backup") from error


def write_durably(path: Path, content: bytes) -> None:
    with path.open("wb") as out:
        out.write(content)
        out.flush()
        os.fsync(out.fileno())
