"""Which models use a feature: read off the decision log and the models' files."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest

from contrail import model_features, model_files, registry
from contrail.lake import Lake
from contrail.model_features import ModelFeatures
from contrail.model_files import ModelFilesError
from tests.support.small_model import COMMIT, LINEAGE, NOW, USE_CASE, rows, trained

MODEL = trained(rows())


@pytest.fixture
def lake(tmp_path: Path) -> Lake:
    """Two registered versions: the champion, whose files are stored, and a challenger, whose files are not."""
    lake = Lake(tmp_path)
    model_files.write(MODEL, USE_CASE, LINEAGE, tmp_path)
    for sha256 in (MODEL.sha256, "f" * 64):
        registry.register(
            USE_CASE.name, sha256, lake, decided_at=NOW, decided_by="test", reason="test", commit=COMMIT
        )
    return lake


def test_the_inputs_are_those_of_the_model(lake: Lake) -> None:
    assert model_features.features_of(lake.root, MODEL.sha256) == MODEL.encoding.features == USE_CASE.features


def test_an_altered_or_missing_file_is_refused(lake: Lake) -> None:
    path = model_files.folder(lake.root, MODEL.sha256) / model_files.FEATURES
    content = path.read_bytes()
    path.write_bytes(content.replace(b"wall_mm", b"wall_cm"))
    with pytest.raises(ModelFilesError, match=r"features\.json was altered"):
        model_features.features_of(lake.root, MODEL.sha256)
    path.unlink()
    with pytest.raises(ModelFilesError, match=r"there is no .*features\.json"):
        model_features.features_of(lake.root, MODEL.sha256)


def test_registered_versions_champion_first(lake: Lake) -> None:
    champion, challenger = model_features.registered(lake, [USE_CASE.name, "another"])
    assert champion == ModelFeatures(USE_CASE.name, 1, "champion", MODEL.sha256, frozenset(USE_CASE.features))
    assert champion.name == "broken_jar v1 (champion)"
    assert (challenger.version, challenger.features) == (2, None)
    assert challenger.name == "broken_jar v2 (challenger, inputs unknown: its files are damaged)"


def test_who_uses_a_feature(lake: Lake) -> None:
    champion, unknown = model_features.registered(lake, [USE_CASE.name])
    assert model_features.using([champion, unknown], ["wall_mm", "other"]) == [champion, unknown]
    # What cannot be read may use anything.
    assert model_features.using([champion, unknown], ["other"]) == [unknown]
    readable = dataclasses.replace(unknown, features=frozenset({"colour"}))
    assert model_features.using([champion, readable], ["wall_mm"]) == [champion]
    assert model_features.using([champion, readable], []) == []
