"""A stored model refuses to be altered, and to score with features that mean something else."""

from __future__ import annotations

import json
from dataclasses import asdict, replace
from pathlib import Path

import pytest

from contrail import evidence, model_files, model_text
from contrail.evidence import Evidence
from contrail.model_files import ModelFilesError
from contrail.recipe import Recipe, TrainingError, made_with
from contrail.use_case import Criteria, UseCase
from tests.support import small_model
from tests.support.small_model import LINEAGE, USE_CASE, trained

CODE = {"jar_state": "1" * 64, "request": "2" * 64}
FILES = ("features.json", "golden.json", "manifest.json", "model.lgb", "naive.json", "profile.json")
MODEL = trained(small_model.rows())


def with_code(code: dict[str, str], **changes: object) -> UseCase:
    return replace(USE_CASE, feature_code=lambda: code, **changes)


@pytest.fixture
def stored(tmp_path) -> Path:
    return model_files.write(MODEL, with_code(CODE), LINEAGE, tmp_path)


def reseal(where: Path, **changes: object) -> None:
    """Change the manifest as somebody who means it would: with a new sha256 of its own."""
    body = json.loads((where / "manifest.json").read_bytes())
    del body["manifest_sha256"]
    (where / "manifest.json").write_bytes(model_files.sealed(body | changes))


# --- what is recorded ---------------------------------------------------------------------------------------


def test_the_manifest_holds_all_that_reproduction_needs(tmp_path, stored):
    manifest = model_files.read_manifest(tmp_path, MODEL.sha256)
    assert manifest["format"] == model_files.FORMAT == 2
    assert model_files.recipe_of(manifest) == MODEL.recipe == model_files.load(tmp_path, MODEL.sha256).recipe
    assert manifest["recipe"]["learning"] == asdict(USE_CASE.learning)
    assert manifest["recipe"]["threads"] == 1
    assert manifest["feature_code"] == CODE
    assert manifest["criteria_sha256"] == USE_CASE.criteria_sha256
    assert Criteria(**manifest["criteria"]) == USE_CASE.criteria
    assert manifest["made_with"] == made_with()
    assert {"lightgbm", "numpy", "pyarrow", "python", "machine"} == set(manifest["made_with"])
    assert {name: manifest[name] for name in asdict(LINEAGE)} == asdict(LINEAGE)


def test_no_text_of_a_row_is_in_the_model_file(stored):
    text = (stored / "model.lgb").read_text()
    rows = small_model.rows()
    told = {str(v) for name in ("jar_id", "maker", "colour") for v in rows.column(name).to_pylist()}
    assert [value for value in told if value in text] == []
    assert json.loads((stored / "features.json").read_text())["categories"] == {
        "colour": ["blue", "green", "red"]
    }


def test_what_the_text_still_shows_is_said_for_every_feature():
    shown = model_text.feature_infos(MODEL.text)
    assert list(shown) == list(USE_CASE.features)
    assert shown["colour"] == "3 integer codes, in order of their frequency"
    assert shown["batch_size"] == "least value 1, greatest value 499"
    with pytest.raises(model_text.ModelTextError, match="no LightGBM model text"):
        model_text.feature_infos("tree\n")


def test_a_feature_that_is_always_zero_shows_nothing():
    flat = small_model.column_replaced(small_model.rows(), "batch_size", [0] * small_model.rows().num_rows)
    assert model_text.feature_infos(trained(flat).text)["batch_size"] == "nothing"


# --- what is refused ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("place", [0.0, 0.1, 0.37, 0.5, 0.93, 1.0])
@pytest.mark.parametrize("name", FILES)
def test_one_altered_byte_in_any_file_is_refused(tmp_path, stored, name, place):
    path = stored / name
    content = bytearray(path.read_bytes())
    content[int(place * (len(content) - 1))] ^= 1
    path.write_bytes(content)
    with pytest.raises(
        ModelFilesError, match=rf"{name} was altered: its .*sha256 is [0-9a-f]{{64}}, recorded"
    ):
        model_files.load(tmp_path, MODEL.sha256)


def accepted(tmp_path: Path) -> bool:
    try:
        model_files.read_manifest(tmp_path, MODEL.sha256)
    except ModelFilesError:
        return False
    return True


def test_every_byte_of_the_manifest_counts(tmp_path, stored):
    path = stored / "manifest.json"
    sound = path.read_bytes()
    let_pass = []
    for place in range(0, len(sound), 7):
        path.write_bytes(sound[:place] + bytes([sound[place] ^ 1]) + sound[place + 1 :])
        let_pass += [place] if accepted(tmp_path) else []
    assert let_pass == []
    for longer in (sound + b"\n", b" " + sound):
        path.write_bytes(longer)
        with pytest.raises(ModelFilesError, match="sha256 is [0-9a-f]{64}, recorded is [0-9a-f]{64}"):
            model_files.read_manifest(tmp_path, MODEL.sha256)


def test_features_that_mean_something_else_are_refused_by_name(tmp_path, stored):
    assert model_files.load(tmp_path, MODEL.sha256, feature_code=CODE).sha256 == MODEL.sha256
    changed = {"request": "3" * 64, "lid_state": "4" * 64}
    with pytest.raises(ModelFilesError) as refused:
        model_files.load(tmp_path, MODEL.sha256, feature_code=changed)
    message = str(refused.value)
    assert f"request is {'3' * 12}, recorded is {'2' * 12}" in message
    assert "jar_state is gone" in message
    assert "lid_state is new" in message
    assert "train a new model" in message
    assert model_files.load(tmp_path, MODEL.sha256).sha256 == MODEL.sha256, "who only looks is not refused"


def test_an_earlier_format_is_refused_with_what_to_do(tmp_path, stored):
    reseal(stored, format=1)
    with pytest.raises(ModelFilesError, match="is of format 1, and format 2 is read: .* new home and train"):
        model_files.load(tmp_path, MODEL.sha256)


@pytest.mark.parametrize("missing", ["threads", "learning", "label", "cuts"])
def test_a_recipe_that_lacks_something_is_refused(tmp_path, stored, missing):
    recipe = MODEL.recipe.to_dict()
    del recipe[missing]
    with pytest.raises(TrainingError, match=f"cannot be followed: KeyError '{missing}'"):
        Recipe.from_dict(recipe)
    reseal(stored, recipe=recipe)
    with pytest.raises(ModelFilesError, match=missing):
        _ = model_files.load(tmp_path, MODEL.sha256).recipe


# --- what stays as it is ------------------------------------------------------------------------------------


def test_what_lies_beside_the_model_does_not_disturb_it(tmp_path, stored):
    found = Evidence(
        use_case="broken_jar", model_sha256=MODEL.sha256, manifest_sha256="", files={}, training_set="t@v1", criteria=USE_CASE.criteria, criteria_sha256="c" * 64,
        champion_sha256="", groups=[], comparison={}, backtest=[], leakage={}, verdicts=[],
    )  # fmt: skip
    evidence.store(found, {"plots/a.png": b"x"}, tmp_path)
    assert model_files.load(tmp_path, MODEL.sha256).sha256 == MODEL.sha256
    assert model_files.write(MODEL, with_code(CODE), LINEAGE, tmp_path) == stored


def test_the_same_model_from_features_made_anew_takes_their_new_meaning(tmp_path, stored):
    changed = CODE | {"request": "3" * 64}
    again = replace(LINEAGE, run_id="run-2")
    assert model_files.write(MODEL, with_code(changed), again, tmp_path) == stored
    loaded = model_files.load(tmp_path, MODEL.sha256, feature_code=changed)
    assert loaded.manifest["run_id"] == "run-2"
    assert sorted(p.name for p in stored.iterdir()) == sorted(FILES)
    stricter = with_code(changed, criteria=Criteria(min_auc_gain=0.2))
    model_files.write(MODEL, stricter, again, tmp_path)
    assert model_files.read_manifest(tmp_path, MODEL.sha256)["criteria"]["min_auc_gain"] == 0.2
