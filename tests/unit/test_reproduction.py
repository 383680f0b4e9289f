"""A registered model is learnt again to the same bytes; where it is not, what differs is named."""

from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import pyarrow as pa
import pytest
from typer.testing import CliRunner

from contrail import model_files, provenance, registry, reproduction, training
from contrail.lake import Lake
from contrail.model_files import ModelFilesError
from contrail.recipe import TrainingError
from contrail.reproduction import ReproductionError, reproduce
from contrail.use_case import LearningParameters
from tests.support import small_model
from tests.support.small_model import COMMIT, LINEAGE, NOW, USE_CASE, trained

TABLE = "model/broken_jar/training_set"
ROWS = small_model.rows()
MODEL = trained(ROWS)


@pytest.fixture
def lake(tmp_path) -> Lake:
    """One registered model, learnt from version 1 of a table that has a later version of other rows."""
    lake = Lake(tmp_path / "lake")
    lake.create(TABLE, ROWS.schema)
    shuffled = ROWS.take(pa.array(np.random.default_rng(1).permutation(ROWS.num_rows)))
    version = lake.replace_partitions(TABLE, shuffled, COMMIT, where="true")
    lineage = replace(
        LINEAGE,
        training_set=lake.ref(TABLE, version),
        training_set_sha256=lake.snapshot_sha256(TABLE, version),
        lock_sha256=provenance.lock_sha256(),
    )
    model_files.write(MODEL, USE_CASE, lineage, lake.root)
    registry.register(
        "broken_jar", MODEL.sha256, lake, decided_at=NOW, decided_by="run", reason="trained", commit=COMMIT
    )
    lake.replace_partitions(TABLE, small_model.rows(seed=2), COMMIT, where="true")
    return lake


def resealed(lake: Lake, **changes: object) -> None:
    path = model_files.folder(lake.root, MODEL.sha256) / "manifest.json"
    body = json.loads(path.read_bytes())
    del body["manifest_sha256"]
    path.write_bytes(model_files.sealed(body | changes))


@pytest.mark.parametrize("threads", [None, 2])
def test_the_same_bytes_from_the_recorded_version_of_the_rows(lake, threads):
    said: list[str] = []
    found = reproduce(lake, USE_CASE, 1, threads=threads, progress=said.append)
    assert found.is_identical
    assert (found.found, found.first_difference) == (MODEL.sha256, "")
    assert (found.rows, found.threads) == (MODEL.train_rows, threads or 1)
    assert found.differs == (() if threads is None else ("parameter num_threads: 2 now, 1 recorded",))
    assert [words.split()[0] for words in said] == ["broken_jar", "reading", "learning", "comparing"]


def test_who_waits_is_told_of_the_trees(lake, monkeypatch):
    monkeypatch.setattr(reproduction, "TREES_AT_ONCE", 10)
    said: list[str] = []
    assert reproduce(lake, USE_CASE, 1, progress=said.append).is_identical
    assert said[-3:] == ["10 of 20 trees", "20 of 20 trees", "comparing"]


def test_what_is_declared_today_does_not_matter(lake):
    today = replace(
        USE_CASE, learning=LearningParameters(rounds=3), seed=99, features=("batch_size",), categorical=(),
        label="is_full", naive_group_columns=(),
    )  # fmt: skip
    assert reproduce(lake, today, 1).is_identical


def test_another_recipe_gives_other_bytes_and_the_parameter_is_named(lake):
    recipe = MODEL.recipe.to_dict()
    recipe["learning"]["learning_rate"] = 0.1
    resealed(lake, recipe=recipe)
    found = reproduce(lake, USE_CASE, 1)
    assert not found.is_identical
    assert "parameter learning_rate: 0.1 now, 0.05 recorded" in found.differs
    assert found.first_difference.startswith("in the header: ") or "tree 0" in found.first_difference


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"training_set_sha256": "0" * 64}, "training set: its snapshot is"),
        ({"lock_sha256": "0" * 64}, "lock: it is"),
        ({"feature_code": {"jar_state": "1" * 64}}, "feature code: jar_state is gone"),
        ({"made_with": {"lightgbm": "3.0.0"}}, "library lightgbm: "),
    ],
)
def test_every_input_that_is_not_as_recorded_is_named(lake, changes, words):
    resealed(lake, **changes)
    found = reproduce(lake, USE_CASE, 1)
    assert found.is_identical, "what differs had no effect"
    assert any(words in line for line in found.differs)


def test_a_replaced_training_set_is_found_out(lake):
    resealed(lake, training_set=lake.ref(TABLE))
    found = reproduce(lake, USE_CASE, 1)
    assert not found.is_identical
    assert [line.split(":")[0] for line in found.differs] == ["training set"]
    assert found.first_difference


def test_what_is_missing_is_named(lake):
    with pytest.raises(ReproductionError, match="has no version 7; registered: 1"):
        reproduce(lake, USE_CASE, 7)
    with pytest.raises(ReproductionError, match="no version 1; registered: none yet"):
        reproduce(lake, replace(USE_CASE, name="full_jar"), 1)
    resealed(lake, training_set=f"{TABLE}@v9")
    with pytest.raises(ReproductionError, match="ends at version 2, the model was learnt from 9"):
        reproduce(lake, USE_CASE, 1)
    resealed(lake, training_set="model/gone/training_set@v1")
    with pytest.raises(ReproductionError, match="model/gone/training_set@v1 is not in"):
        reproduce(lake, USE_CASE, 1)
    resealed(lake, training_set=f"{TABLE}@v1")
    recipe = MODEL.recipe.to_dict()
    del recipe["threads"]
    resealed(lake, recipe=recipe)
    with pytest.raises(ModelFilesError, match="cannot be followed: KeyError 'threads'"):
        reproduce(lake, USE_CASE, 1)


def test_a_training_set_whose_files_are_gone_is_named(lake):
    for file in (lake.root / TABLE).glob("*.parquet"):
        file.unlink()
    with pytest.raises(ReproductionError, match="training_set@v1 cannot be read"):
        reproduce(lake, USE_CASE, 1)


def test_an_altered_model_is_refused_before_anything_is_learnt(lake, monkeypatch):
    def never(*_: object) -> None:
        raise AssertionError("it was learnt")

    monkeypatch.setattr(reproduction, "refit", never)
    path = model_files.folder(lake.root, MODEL.sha256) / "model.lgb"
    path.write_bytes(path.read_bytes().replace(b"num_leaves", b"num_leafes", 1))
    with pytest.raises(ModelFilesError, match="altered"):
        reproduce(lake, USE_CASE, 1)


def test_a_recipe_survives_json_and_refuses_zero_threads():
    recipe = training.Recipe.from_dict(json.loads(json.dumps(MODEL.recipe.to_dict())))
    assert recipe == MODEL.recipe
    assert training.refit(ROWS, recipe).text == MODEL.text
    assert training.refit(ROWS, recipe).dropped_rows == MODEL.dropped_rows
    with pytest.raises(TrainingError, match="number of threads"):
        training.refit(ROWS, replace(recipe, threads=0))


# --- the command --------------------------------------------------------------------------------------------


@pytest.fixture
def command(lake, monkeypatch):
    from cli.app import app
    from feature_repo import use_cases

    monkeypatch.setattr(use_cases, "USE_CASES", {USE_CASE.name: USE_CASE})
    monkeypatch.setattr(use_cases, "DEFAULT_USE_CASE", USE_CASE.name)
    monkeypatch.setenv("CONTRAIL_HOME", str(lake.root.parent))
    return lambda *arguments: CliRunner().invoke(app, ["reproduce-model", *arguments])


def test_the_command_says_identical(command):
    done = command("1")
    assert (done.exit_code, done.stdout.splitlines()[0]) == (0, "IDENTICAL  broken_jar version 1")
    assert "learning 20 trees" in done.stderr
    as_json = json.loads(command("1", "--threads", "2", "--json").stdout)
    assert (as_json["is_identical"], as_json["found"], as_json["threads"]) == (True, MODEL.sha256, 2)


def test_the_command_ends_with_1_and_names_what_differs(command, lake):
    recipe = MODEL.recipe.to_dict()
    recipe["seed"] = 8
    resealed(lake, recipe=recipe)
    done = command("1", "--use-case", "broken_jar")
    assert done.exit_code == 1
    assert done.stdout.startswith("DIFFERENT  broken_jar version 1")
    assert "parameter seed: 8 now, 7 recorded" in done.stdout
    assert json.loads(command("1", "--json").stdout)["is_identical"] is False
