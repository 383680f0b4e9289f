"""A model as files in the lake: ``<lake>/models/<sha256>/``, complete before anybody registers it.

What must outlive a tracking server (scoring, serving, approval, rollback, trace) loads a model from here. Nothing is
pickled: the model is LightGBM's own text, all else JSON. Loading compares every byte with the manifest and then the
scores of the golden rows with the recorded ones, bit for bit; whoever scores also gives what the features mean now.

    model.lgb       canonical model text; its sha256 is the folder's name
    features.json   ordered features with their types, category maps
    profile.json    distribution of every feature in the training rows
    naive.json      the naive reference
    golden.json     synthetic rows and their exact scores
    manifest.json   sha256 of all of these, recipe, criteria, what the features meant, where the model comes from
    evaluations/    what was found of it since, see `contrail.evidence`; no part of the model

The model text names no entity and no category: identifiers are integer codes in it, and which text a code stands for is
in ``features.json`` alone. What it shows of the training rows is each feature's range: `model_text.feature_infos`.
"""

from __future__ import annotations

import hashlib
import json
import re
import tempfile
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from datetime import UTC, date, datetime
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from contrail.drift import Profile
from contrail.encoding import Encoding, EncodingError, Floats, predict
from contrail.evaluation import NaiveReference
from contrail.feature_code import differences
from contrail.model_text import booster_from_text
from contrail.recipe import Recipe, TrainingError, made_with
from contrail.training import TrainedModel
from contrail.use_case import UseCase
from contrail.whole_files import put_folder, read_recorded, write_durably

FOLDER = "models"
MODEL, FEATURES, PROFILE = "model.lgb", "features.json", "profile.json"
NAIVE, GOLDEN, MANIFEST = "naive.json", "golden.json", "manifest.json"
GOLDEN_ROWS = 20
FORMAT = 2
# What a manifest written before must agree in, or the model that is stored again gets the newer one.
_MEANS = ("feature_code", "criteria", "criteria_sha256", "feature_service")
_RECORDED = re.compile(rb'"manifest_sha256": "([0-9a-f]{64})"')


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
        training_set_sha256: the training set's snapshot at that version, from `Lake.snapshot_sha256`.
    """

    training_set: str
    run_id: str
    tracking_run_id: str
    git_sha: str
    lock_sha256: str
    training_set_sha256: str


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

    @property
    def recipe(self) -> Recipe:
        """What it was learnt by.

        Raises:
            ModelFilesError: the recorded recipe cannot be followed.
        """
        return recipe_of(self.manifest)

    def predict(self, rows: pa.Table) -> Floats:
        """Scores of `rows` in their order."""
        return predict(self.booster, self.encoding, rows)


def folder(lake_root: Path, sha256: str) -> Path:
    """Where the model lies."""
    return lake_root / FOLDER / sha256


def write(model: TrainedModel, use_case: UseCase, lineage: Lineage, lake_root: Path) -> Path:
    """Store a model; one that is there already (same bytes) keeps its files.

    Its manifest stays too, unless features or criteria mean something else by now: the same model, learnt again from
    features whose code has changed, then counts as learnt with the new code.

    The files are written to a temporary folder beside the target, which then takes the target's name: a reader sees a
    whole model or none.

    Returns:
        The model's folder.

    Raises:
        ModelFilesError: the model is there already and damaged.
    """
    target = folder(lake_root, model.sha256)
    if target.exists():
        _renew(target, load(lake_root, model.sha256), model, use_case, lineage)
        return target
    contents = _contents(model)
    manifest = sealed(_manifest(model, use_case, lineage, _hashes(contents)))
    if not put_folder(target, {**contents, MANIFEST: manifest}):
        load(lake_root, model.sha256)  # somebody else stored the same model meanwhile
    return target


def load(lake_root: Path, sha256: str, *, feature_code: Mapping[str, str] | None = None) -> LoadedModel:
    """Load a model after checking every file and the golden rows.

    Args:
        feature_code: what the features mean now (`UseCase.feature_code`), where the model is to score; None where it is
            only looked at.

    Raises:
        ModelFilesError: a file is missing or altered, the golden rows score otherwise than recorded, or the features
            meant something else when it was learnt; the message names what differs.
    """
    where = folder(lake_root, sha256)
    manifest = read_manifest(lake_root, sha256)
    contents = {
        name: read_recorded(where / name, recorded, ModelFilesError)
        for name, recorded in manifest["files"].items()
    }
    if manifest["files"].get(MODEL) != sha256:
        raise ModelFilesError(
            f"{where} holds another model: {manifest['files'].get(MODEL)} instead of {sha256}"
        )
    if feature_code is not None:
        require_feature_code(manifest, sha256, feature_code)
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


def require_feature_code(manifest: Mapping[str, Any], sha256: str, now: Mapping[str, str]) -> None:
    """Refuse a model whose features mean something else by now.

    Raises:
        ModelFilesError: they do; the message names the pieces.
    """
    if differing := differences(manifest["feature_code"], now):
        raise ModelFilesError(
            f"model {sha256[:12]} was learnt from features of another meaning: {'; '.join(differing)}; restore their "
            "code, or build the features again and train a new model"
        )


def recipe_of(manifest: Mapping[str, Any]) -> Recipe:
    """The recipe that a manifest records.

    Raises:
        ModelFilesError: it cannot be followed.
    """
    try:
        return Recipe.from_dict(manifest["recipe"])
    except TrainingError as error:
        raise ModelFilesError(str(error)) from error


def text_of(lake_root: Path, sha256: str) -> str:
    """The text of a stored model; `load` checks it."""
    return _read(folder(lake_root, sha256) / MODEL).decode()


def read_manifest(lake_root: Path, sha256: str) -> dict[str, Any]:
    """The manifest alone, checked against its own sha256.

    Raises:
        ModelFilesError: it is missing or altered, or of a format that is no longer read.
    """
    path = folder(lake_root, sha256) / MANIFEST
    content = _read(path)
    try:
        manifest: dict[str, Any] = json.loads(content)
        recorded = str(manifest.pop("manifest_sha256"))
        made = manifest["format"]
    except (ValueError, KeyError, AttributeError, TypeError) as error:
        named = _RECORDED.search(content)
        raise ModelFilesError(
            f"{path} was altered: its sha256 is {hashlib.sha256(content).hexdigest()}, recorded of its content is "
            f"{named[1].decode() if named else 'no longer readable'}; it is no manifest ({error})"
        ) from error
    found = hashlib.sha256(_json(manifest)).hexdigest()
    if found != recorded:
        raise ModelFilesError(f"{path} was altered: its content's sha256 is {found}, recorded is {recorded}")
    if content != sealed(manifest):  # a space more, say: the same content, not the same bytes
        whole = hashlib.sha256(sealed(manifest)).hexdigest()
        raise ModelFilesError(
            f"{path} was altered: its sha256 is {hashlib.sha256(content).hexdigest()}, recorded is {whole}"
        )
    if made != FORMAT:
        raise ModelFilesError(
            f"{path} is of format {made}, and format {FORMAT} is read: it records no recipe and no meaning of the "
            "features. Make a new home and train the model there"
        )
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


def manifest_sha256(lake_root: Path, sha256: str) -> str:
    """The identity of a stored model with all its files: the sha256 of the manifest that names theirs.

    Raises:
        ModelFilesError: there is no manifest.
    """
    return hashlib.sha256(_read(folder(lake_root, sha256) / MANIFEST)).hexdigest()


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


def _hashes(contents: Mapping[str, bytes]) -> dict[str, str]:
    return {name: hashlib.sha256(content).hexdigest() for name, content in contents.items()}


def _manifest(
    model: TrainedModel, use_case: UseCase, lineage: Lineage, files: Mapping[str, str]
) -> dict[str, Any]:
    return {
        "format": FORMAT,
        "use_case": use_case.name,
        "feature_service": use_case.feature_service,
        "feature_order_sha256": use_case.feature_order_sha256,
        "feature_code": dict(use_case.feature_code()),
        "criteria": asdict(use_case.criteria),
        "criteria_sha256": use_case.criteria_sha256,
        "recipe": model.recipe.to_dict(),
        "made_with": made_with(),
        "parameters": dict(model.parameters),
        "train_first": model.cuts.first.isoformat(),
        "train_end": model.cuts.train_end.isoformat(),
        "validate_end": model.cuts.validate_end.isoformat(),
        "test_end": model.cuts.test_end.isoformat(),
        "trained_until": model.trained_until.isoformat(),
        "train_rows": model.train_rows,
        "dropped_rows": model.dropped_rows,
        **asdict(lineage),
        "files": dict(files),
    }


def sealed(body: Mapping[str, Any]) -> bytes:
    """The bytes of a manifest: the content with its own sha256."""
    return _json({**body, "manifest_sha256": hashlib.sha256(_json(body)).hexdigest()})


def _renew(
    target: Path, stored: LoadedModel, model: TrainedModel, use_case: UseCase, lineage: Lineage
) -> None:
    """Exchange the manifest at once, where features or criteria mean something else by now."""
    body: dict[str, Any] = json.loads(_json(_manifest(model, use_case, lineage, stored.manifest["files"])))
    if all(body[name] == stored.manifest[name] for name in _MEANS):
        return
    with tempfile.NamedTemporaryFile(dir=target, prefix=f".{MANIFEST}-", delete=False) as out:
        newer = Path(out.name)
    write_durably(newer, sealed(body))
    newer.chmod(0o644)
    newer.replace(target / MANIFEST)


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
