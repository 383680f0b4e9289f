"""MLflow's aliases follow the decisions, tell a hand from a delay, and never name a model that MLflow has lost."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from contrail import decisions, model_files, registry
from contrail.decisions import Anchor
from contrail.lake import Lake
from contrail.settings import Settings
from resources import decisions as outside
from resources import mlflow_aliases
from resources.decisions import after_decision, recorded_anchors
from resources.mlflow_aliases import ALIASES, TAG_ALIASES, Moved
from resources.mlflow_client import TrackingError
from tests.support.small_model import USE_CASE
from tests.support.tracking_world import ROWS, TrackingWorld, empty_database


@pytest.fixture
def world(tmp_path: Path, tmp_path_factory: pytest.TempPathFactory) -> TrackingWorld:
    """A champion, version 1, and a challenger, version 2; no alias is set yet."""
    settings = Settings(home=tmp_path / "home")
    empty_database(tmp_path_factory, settings.mlflow_path)
    made = TrackingWorld(settings)
    made.train(1)
    made.train(2)
    return made


def test_aliases_follow_the_decisions(world):
    found = world.reconcile()
    assert found.moved == (Moved("champion", None, "1", False), Moved("challenger", None, "2", False))
    assert (found.by_hand, found.missing) == (False, ())
    assert world.aliases() == {"champion": "1", "challenger": "2"}
    assert world.client.get_model_version(USE_CASE.name, "2").tags["contrail.model_version"] == "2"
    assert world.reconcile().in_words == []  # nothing is to do

    world.promote(2)
    found = world.reconcile()
    assert found.moved == (Moved("champion", "1", "2", False), Moved("challenger", "2", None, False))
    assert world.aliases() == {"champion": "2"}  # a stale alias is gone

    world.roll_back()
    assert not world.reconcile().by_hand
    assert world.aliases() == {"champion": "1"}


def test_an_alias_moved_by_hand_is_told_from_one_that_lags(world):
    world.reconcile()
    world.put("champion", "2")
    found = world.reconcile()
    assert found.moved == (Moved("champion", "2", "1", True),)
    assert "alias champion had been moved by hand to MLflow's version 2" in found.in_words[0]
    assert world.aliases() == {"champion": "1", "challenger": "2"}

    # Moved by hand and decided otherwise meanwhile: both are seen.
    world.put("champion", "2")
    world.promote(2)
    world.put("challenger", "1")
    found = world.reconcile()
    assert {moved.alias: moved.by_hand for moved in found.moved} == {"challenger": True}
    assert world.aliases() == {"champion": "2"}

    world.client.delete_registered_model_alias(USE_CASE.name, "champion")
    assert world.reconcile().moved == (Moved("champion", None, "2", True),)


def test_killed_between_two_aliases_is_not_taken_for_a_hand(world, monkeypatch):
    world.reconcile()
    world.promote(2)
    client = type(world.client)

    def killed(self, name, alias):
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr(client, "delete_registered_model_alias", killed)
        with pytest.raises(KeyboardInterrupt):
            world.reconcile()
    assert world.aliases() == {"champion": "2", "challenger": "2"}
    found = world.reconcile()
    assert found.moved == (Moved("challenger", "2", None, False),)
    assert "before" not in json.loads(world.tags()[TAG_ALIASES])


def test_decided_while_the_aliases_were_set_is_followed_at_once(world, monkeypatch):
    whole = mlflow_aliases.whole
    done: list[int] = []

    def decided_meanwhile(client, versions):
        if not done:
            done.append(world.promote(2).sequence)
        return whole(client, versions)

    monkeypatch.setattr(mlflow_aliases, "whole", decided_meanwhile)
    world.reconcile()
    assert world.aliases() == {"champion": "2"}


def test_a_tag_that_somebody_else_wrote_tells_nothing(world):
    world.reconcile()
    world.client.set_registered_model_tag(USE_CASE.name, TAG_ALIASES, "champion, I think")
    world.put("champion", "2")
    assert world.reconcile().moved == (Moved("champion", "2", "1", False),)


def test_a_deleted_version_gets_no_alias_and_is_named(world):
    world.reconcile()
    world.client.delete_model_version(USE_CASE.name, "2")  # the alias goes with it
    found = world.reconcile()
    assert [sentence for sentence in found.missing if "(version 2, challenger)" in sentence]
    assert world.aliases() == {"champion": "1"}


def test_the_champion_scores_after_its_run_and_its_model_are_gone_from_mlflow(world):
    champion = registry.champion(USE_CASE.name, world.lake)
    expected = model_files.load(world.settings.lake_root, champion.sha256).predict(ROWS)
    world.reconcile()
    version = world.client.get_model_version(USE_CASE.name, "1")
    world.client.delete_run(version.run_id)
    world.client.delete_logged_model(version.source.rpartition("/")[2])
    done = subprocess.run(
        [Path(sys.executable).with_name("mlflow"), "gc", "--backend-store-uri", world.tracking.tracking_uri],
        env=os.environ | {"MLFLOW_TRACKING_URI": world.tracking.tracking_uri},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    assert not list(
        world.settings.mlflow_artifact_root.rglob(f"{version.source.rpartition('/')[2]}/**/MLmodel")
    )

    found = world.reconcile()
    assert [sentence for sentence in found.missing if "(version 1, champion)" in sentence]
    assert world.aliases() == {"challenger": "2"}
    assert registry.champion(USE_CASE.name, world.lake) == champion
    np.testing.assert_array_equal(
        model_files.load(world.settings.lake_root, champion.sha256).predict(ROWS), expected
    )
    # Trained once more, it is in MLflow again and gets its alias back.
    world.train(1)
    world.reconcile()
    assert world.aliases() == {"champion": "3", "challenger": "2"}


def test_models_that_mlflow_never_had_get_no_alias(tmp_path, tmp_path_factory):
    settings = Settings(home=tmp_path / "home")
    empty_database(tmp_path_factory, settings.mlflow_path)
    empty = TrackingWorld(settings)
    assert empty.reconcile().in_words == []
    other = Lake(tmp_path / "other")
    assert empty.tracking.reconcile("full_jar", other).in_words == []


# --- anchors -----------------------------------------------------------------------------------------------------


def test_a_decision_leaves_its_anchor_in_dagster_and_in_mlflow(world):
    promoted = world.promote(2)
    assert after_decision(world.settings, USE_CASE.name, promoted.anchor) == []
    assert world.aliases() == {"champion": "2"}
    rolled_back = world.roll_back()
    assert after_decision(world.settings, USE_CASE.name, rolled_back.anchor) == []
    found = recorded_anchors(world.settings)
    assert found.unasked == []
    assert found.anchors == [
        (outside.DAGSTER, promoted.anchor),
        (outside.DAGSTER, rolled_back.anchor),
        (outside.MLFLOW, rolled_back.anchor),
    ]
    assert decisions.verify(world.lake, [anchor for _, anchor in found.anchors]).holds
    with outside.dagster_instance(world.settings) as instance:
        (event, _) = instance.fetch_materializations(outside.ASSET, limit=5, ascending=True).records
    metadata = {name: value.value for name, value in event.asset_materialization.metadata.items()}
    assert metadata["sequence"] == promoted.sequence
    assert metadata["sha256"] == promoted.row_sha256
    assert (metadata["event"], metadata["use_case"], metadata["version"]) == ("promoted", USE_CASE.name, 2)


def test_the_anchor_of_an_earlier_decision_comes_after_that_of_a_later_one(world):
    earlier, later = world.promote(2), world.roll_back()
    after_decision(world.settings, USE_CASE.name, later.anchor)
    assert after_decision(world.settings, USE_CASE.name, earlier.anchor) == []
    assert world.tracking.anchors() == {USE_CASE.name: str(later.anchor)}


def test_an_anchor_that_the_log_lacks_is_kept_and_told_of(world):
    cut = Anchor(7, "a" * 64)
    world.tracking.anchor(USE_CASE.name, cut)
    decision = world.promote(2)
    (said,) = after_decision(world.settings, USE_CASE.name, decision.anchor)
    assert f"MLflow keeps the anchor {cut}, which the log of decisions does not hold to" in said
    assert "contrail audit verify" in said
    assert world.tracking.anchors() == {USE_CASE.name: str(cut)}
    assert world.aliases() == {"champion": "2"}


def test_more_anchors_than_a_page_are_all_found(world, monkeypatch):
    monkeypatch.setattr(outside, "PAGE", 2)
    history = decisions.read(world.lake)
    assert len(history) == 3
    for decision in history:
        after_decision(world.settings, USE_CASE.name, decision.anchor)
    found = recorded_anchors(world.settings)
    assert [anchor for where, anchor in found.anchors if where == outside.DAGSTER] == [
        d.anchor for d in history
    ]


def test_what_is_no_anchor_is_said(world):
    world.reconcile()
    world.client.set_registered_model_tag(USE_CASE.name, "contrail.decision_anchor", "the third")
    found = recorded_anchors(world.settings)
    assert (found.anchors, len(found.unasked)) == ([], 1)
    assert "MLflow's registered model holds what is no anchor: 'the third'" in found.unasked[0]


def test_an_alias_put_back_after_a_decision_is_said(world):
    world.reconcile()
    world.put("champion", "2")
    said = after_decision(world.settings, USE_CASE.name, decisions.head(world.lake))
    assert len(said) == 1
    assert "moved by hand" in said[0]
    assert world.aliases() == dict(zip(ALIASES, ("1", "2"), strict=True))


def test_where_mlflow_has_no_database_none_is_made(tmp_path):
    world = TrackingWorld(Settings(home=tmp_path / "home"))
    with pytest.raises(TrackingError, match="not there"):
        world.reconcile()
    assert not world.settings.mlflow_path.exists()
