"""Models as files that refuse to be altered, and decisions that cannot be written twice."""

from __future__ import annotations

import json
from dataclasses import replace
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from contrail import decisions, model_files, registry
from contrail.lake import Lake
from contrail.model_files import ModelFilesError
from tests.support import small_model
from tests.support.small_model import COMMIT, LINEAGE, NOW, USE_CASE, trained

ROWS = small_model.rows()
MODEL = trained(ROWS)


# --- files --------------------------------------------------------------------------------------------------


def test_what_is_loaded_is_what_was_trained(tmp_path):
    where = model_files.write(MODEL, USE_CASE, LINEAGE, tmp_path)
    assert where == tmp_path / "models" / MODEL.sha256
    assert sorted(p.name for p in where.iterdir()) == sorted(
        ["features.json", "golden.json", "manifest.json", "model.lgb", "naive.json", "profile.json"]
    )
    loaded = model_files.load(tmp_path, MODEL.sha256)
    assert loaded.encoding == MODEL.encoding
    assert loaded.profile == MODEL.profile
    assert loaded.naive == MODEL.naive
    assert loaded.training_set == LINEAGE.training_set
    assert (loaded.train_end, loaded.trained_until) == (MODEL.cuts.train_end, MODEL.trained_until)
    np.testing.assert_array_equal(loaded.predict(ROWS), MODEL.predict(ROWS))
    assert not [p for p in where.parent.iterdir() if p != where], "the temporary folder is still there"


def test_golden_rows_cover_missing_values_and_every_feature():
    rows = model_files.golden_rows(MODEL)
    assert rows.num_rows == model_files.GOLDEN_ROWS
    assert rows.column_names == list(MODEL.encoding.features)
    assert any(rows.column(name).null_count for name in rows.column_names)
    assert len(set(MODEL.predict(rows))) > 5


def test_storing_again_changes_nothing(tmp_path):
    where = model_files.write(MODEL, USE_CASE, LINEAGE, tmp_path)
    before = (where / "manifest.json").read_bytes()
    assert model_files.write(MODEL, USE_CASE, replace(LINEAGE, run_id="run-2"), tmp_path) == where
    assert (where / "manifest.json").read_bytes() == before


@pytest.mark.parametrize(
    "name", ["features.json", "golden.json", "manifest.json", "model.lgb", "naive.json", "profile.json"]
)
def test_one_flipped_bit_in_any_file_is_refused(tmp_path, name):
    path = model_files.write(MODEL, USE_CASE, LINEAGE, tmp_path) / name
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)
    with pytest.raises(ModelFilesError, match=rf"{name} was altered"):
        model_files.load(tmp_path, MODEL.sha256)
    with pytest.raises(ModelFilesError, match="was altered"):
        model_files.write(MODEL, USE_CASE, LINEAGE, tmp_path)


def test_a_missing_file_is_named(tmp_path):
    (model_files.write(MODEL, USE_CASE, LINEAGE, tmp_path) / "naive.json").unlink()
    with pytest.raises(ModelFilesError, match=r"there is no .*naive\.json; restore"):
        model_files.load(tmp_path, MODEL.sha256)
    with pytest.raises(ModelFilesError, match="there is no"):
        model_files.load(tmp_path, "0" * 64)


def reseal(where: Path) -> None:
    """Make the manifest agree with the files again, as somebody who means it would."""
    import hashlib

    path = where / "manifest.json"
    manifest = json.loads(path.read_text())
    del manifest["manifest_sha256"]
    for name in manifest["files"]:
        manifest["files"][name] = hashlib.sha256((where / name).read_bytes()).hexdigest()
    body = json.dumps(manifest, sort_keys=True, indent=1, ensure_ascii=False).encode()
    manifest["manifest_sha256"] = hashlib.sha256(body).hexdigest()
    path.write_text(json.dumps(manifest, sort_keys=True, indent=1, ensure_ascii=False))


def test_golden_rows_catch_what_hashes_cannot(tmp_path):
    where = model_files.write(MODEL, USE_CASE, LINEAGE, tmp_path)
    features = json.loads((where / "features.json").read_text())
    features["features"][:2] = features["features"][
        1::-1
    ]  # another order: accepted by the model without a word
    (where / "features.json").write_text(json.dumps(features))
    reseal(where)
    with pytest.raises(ModelFilesError, match="golden rows .* score otherwise than recorded"):
        model_files.load(tmp_path, MODEL.sha256)


def test_golden_scores_are_compared_to_the_last_bit(tmp_path):
    where = model_files.write(MODEL, USE_CASE, LINEAGE, tmp_path)
    golden = json.loads((where / "golden.json").read_text())
    golden["scores"][3] = float(np.nextafter(golden["scores"][3], 1.0))
    (where / "golden.json").write_text(json.dumps(golden))
    reseal(where)
    with pytest.raises(ModelFilesError, match=r"golden rows \[3\]"):
        model_files.load(tmp_path, MODEL.sha256)


def test_another_model_under_a_name_is_refused(tmp_path):
    other = trained(ROWS, small_model.another_seed(8))
    first = model_files.write(MODEL, USE_CASE, LINEAGE, tmp_path)
    second = model_files.write(other, USE_CASE, LINEAGE, tmp_path)
    for file in first.iterdir():
        (second / file.name).write_bytes(file.read_bytes())
    with pytest.raises(ModelFilesError, match="holds another model"):
        model_files.load(tmp_path, other.sha256)


# --- decisions ----------------------------------------------------------------------------------------------


def register(lake: Lake, sha256: str, use_case: str = "broken_jar", **options: Any) -> registry.ModelVersion:
    return registry.register(
        use_case,
        sha256,
        lake,
        decided_at=NOW,
        decided_by="training",
        reason="retrained",
        commit=COMMIT,
        **options,
    )


def test_without_a_model_there_is_no_champion(tmp_path):
    lake = Lake(tmp_path)
    assert registry.champion("broken_jar", lake) is None
    assert registry.versions("broken_jar", lake) == []


def test_the_first_model_is_champion_and_the_second_challenger(tmp_path):
    lake = Lake(tmp_path)
    first, second = register(lake, "a" * 64), register(lake, "b" * 64)
    assert (first.version, first.role) == (1, "champion")
    assert (second.version, second.role) == (2, "challenger")
    champion = registry.champion("broken_jar", lake)
    assert champion is not None
    assert (champion.version, champion.sha256, champion.promoted_by) == (
        1,
        "a" * 64,
        registry.FIRST_MODEL_RULE,
    )
    assert champion.promoted_at == NOW
    third = register(lake, "c" * 64)
    assert third.role == "challenger"
    roles = {v.version: v.role for v in registry.versions("broken_jar", lake)}
    assert roles == {1: "champion", 2: "archived", 3: "challenger"}


def test_registering_again_writes_nothing(tmp_path):
    lake = Lake(tmp_path)
    register(lake, "a" * 64)
    version = lake.version(registry.TABLE)
    assert register(lake, "a" * 64).version == 1
    assert lake.version(registry.TABLE) == version


def test_use_cases_are_apart_and_sequences_run_through(tmp_path):
    lake = Lake(tmp_path)
    register(lake, "a" * 64)
    other = register(lake, "a" * 64, use_case="full_jar")
    assert (other.version, other.role) == (1, "champion")
    register(lake, "b" * 64)
    assert [d.sequence for d in registry.decisions(lake)] == [0, 1, 2, 3, 4]
    assert [d.event for d in registry.decisions(lake, "broken_jar")] == [
        "registered",
        "promoted",
        "registered",
    ]


def test_the_commit_names_what_was_read_and_what_was_decided(tmp_path):
    lake = Lake(tmp_path)
    register(lake, "a" * 64)
    register(lake, "b" * 64)
    first, second = lake.commits(registry.TABLE)[1:]
    assert first.inputs == (*COMMIT.inputs, f"{registry.TABLE}@v0")
    assert second.inputs == (*COMMIT.inputs, f"{registry.TABLE}@v1")
    anchor = str(registry.decisions(lake)[1].anchor)
    assert first.extra == {"events": "registered promoted", "anchor": anchor}


def test_the_first_model_is_champion_whatever_is_unmet_and_the_reason_says_what(tmp_path):
    lake = Lake(tmp_path)
    unmet = ("max_bias: 0.061, limit 0.05", "parity: nan, limit 0")
    first = register(lake, "a" * 64, evaluated=registry.Evaluated("e" * 64, "c" * 64, unmet))
    assert (first.role, first.evaluation_id, first.criteria_sha256, first.unmet) == (
        "champion", "e" * 64, "c" * 64, unmet,
    )  # fmt: skip
    champion = registry.champion("broken_jar", lake)
    assert champion is not None
    assert champion.reason == (
        "the first model of a use case becomes its champion; unmet: "
        "max_bias: 0.061, limit 0.05; parity: nan, limit 0"
    )


def test_without_the_rule_the_first_model_waits_for_approval(tmp_path):
    lake = Lake(tmp_path)
    assert register(lake, "a" * 64, first_by_rule=False).role == "challenger"
    assert registry.champion("broken_jar", lake) is None
    assert [d.event for d in registry.decisions(lake)] == ["registered"]


def test_the_same_model_evaluated_again_is_the_same_version_with_the_newer_evaluation(tmp_path):
    lake = Lake(tmp_path)
    register(lake, "a" * 64, evaluated=registry.Evaluated("1" * 64, "c" * 64, ("max_bias: …",)))
    again = register(lake, "a" * 64, evaluated=registry.Evaluated("2" * 64, "d" * 64, ()))
    assert (again.version, again.evaluation_id, again.criteria_sha256, again.unmet) == (
        1, "2" * 64, "d" * 64, (),
    )  # fmt: skip
    assert [d.event for d in registry.decisions(lake)] == ["registered", "promoted", "evaluated"]
    register(lake, "a" * 64, evaluated=registry.Evaluated("2" * 64, "d" * 64, ()))
    register(lake, "a" * 64)
    assert len(registry.decisions(lake)) == 3


def decided(lake: Lake, event: decisions.Event, version: int, at: datetime = NOW, by: str = "ada") -> None:
    """A row as `contrail.promotions` writes it, which is tested by itself."""
    letter = "abcdefgh"[version - 1]
    draft = decisions.Draft(
        use_case="broken_jar", event=event, model_version=version, model_sha256=letter * 64, decided_at=at,
        decided_by=by, reason="better in every slice",
    )  # fmt: skip
    decisions.append(lake, lambda rows: [draft], COMMIT)


def roles(lake: Lake) -> dict[int, str]:
    return {v.version: v.role for v in registry.versions("broken_jar", lake)}


def test_a_promoted_challenger_becomes_champion(tmp_path):
    lake = Lake(tmp_path)
    register(lake, "a" * 64)
    register(lake, "b" * 64)
    decided(lake, "promoted", 2)
    champion = registry.champion("broken_jar", lake)
    assert champion is not None
    assert (champion.version, champion.promoted_by, champion.sequence) == (2, "ada", 3)
    assert roles(lake) == {1: "archived", 2: "champion"}


def test_rollbacks_are_a_stack_and_what_was_rolled_back_from_is_no_challenger(tmp_path):
    lake = Lake(tmp_path)
    for letter in "abcd":
        register(lake, letter * 64)
    decided(lake, "promoted", 2)
    decided(lake, "promoted", 3)
    decided(lake, "rolled_back", 2)
    assert roles(lake) == {1: "archived", 2: "champion", 3: "archived", 4: "challenger"}
    decided(lake, "rolled_back", 1)
    assert roles(lake) == {1: "champion", 2: "archived", 3: "archived", 4: "challenger"}
    decided(lake, "rejected", 4)
    assert roles(lake) == {1: "champion", 2: "archived", 3: "archived", 4: "archived"}
    decided(lake, "requested", 3)
    assert roles(lake) == {1: "champion", 2: "archived", 3: "challenger", 4: "archived"}
    decided(lake, "promoted", 3)
    decided(lake, "rolled_back", 1)
    assert roles(lake)[1] == "champion"


def test_who_was_champion_at_an_instant(tmp_path):
    lake = Lake(tmp_path)
    hours = [NOW + timedelta(hours=n) for n in range(5)]
    register(lake, "a" * 64)
    register(lake, "b" * 64)
    decided(lake, "promoted", 2, at=hours[2])
    decided(lake, "rolled_back", 1, at=hours[4])

    def at(instant: datetime | None) -> int | None:
        found = registry.champion("broken_jar", lake, at=instant)
        return found.version if found else None

    assert at(NOW - timedelta(microseconds=1)) is None
    assert [at(hour) for hour in hours] == [1, 1, 2, 2, 1]
    assert at(None) == 1


def test_a_log_of_an_earlier_release_is_named(tmp_path):
    lake = Lake(tmp_path)
    lake.create(registry.TABLE, pa.schema([("sequence", pa.int64()), ("use_case", pa.string())]))
    with pytest.raises(
        decisions.DecisionError, match=r"earlier release \(it lacks .*row_sha256.*make the home anew"
    ):
        registry.champion("broken_jar", lake)
