"""What Feast and Dagster are told of the features, and what a change of the declarations says before and after apply."""

from __future__ import annotations

import json
from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from typing import Any

import dagster as dg
import pytest
from feast import Field
from feast.types import Float64
from typer.testing import CliRunner

from assets import feature, feature_store
from cli.app import app
from contrail import registry
from contrail.lake import Commit, Lake
from contrail.settings import Settings
from feature_repo import feature_docs
from feature_repo.feature_docs import named_models, used_by
from feature_repo.use_cases import LATE_FLIGHT_2H
from features.documentation import ALL_FEATURES
from features.tables import FEATURE_TABLES
from resources.feature_store import FeatureStoreResource
from resources.lake import LakeResource
from tests.support.small_model import NOW

MODEL = LATE_FLIGHT_2H.name
CHAMPION = f"{MODEL} v1 (champion, inputs unknown: its files are damaged)"


@pytest.fixture
def resource(tmp_path: Path) -> FeatureStoreResource:
    """A home in which everything is registered, with one registered model."""
    made = FeatureStoreResource(home=str(tmp_path))
    made.apply()
    registry.register(
        MODEL, "a" * 64, Lake(tmp_path / "lake"), decided_at=NOW, decided_by="test", reason="test",
        commit=Commit("model/x", "run", ()),
    )  # fmt: skip
    return made


@pytest.fixture
def other(resource: FeatureStoreResource) -> FeatureStoreResource:
    """The same, but what is registered of the weather is not what is declared."""
    store = resource.store()
    view = store.get_feature_view("station_weather")
    fields = {field.name: field for field in view.features}
    fields["weather_temp_f"].tags["unit"] = "°C"
    del fields["weather_wind_mph"]
    fields["weather_gone"] = Field(
        name="weather_gone", dtype=Float64, description="No longer made.", tags={"used_by": f"{MODEL}, old_model"}
    )  # fmt: skip
    view.features = list(fields.values())
    store.apply(view)
    return resource


# --- what is registered ----------------------------------------------------------------------------------------------


def test_max_ages_cover_the_longest_quiet_of_their_views(resource: FeatureStoreResource) -> None:
    ttls = {view.name: view.ttl for view in resource.store().list_feature_views()}
    state = [name for name in ttls if name.endswith("_state")]
    history = [name for name in ttls if name.endswith("_history")]
    assert (len(state), len(history)) == (5, 5)
    assert all(ttls[name] >= timedelta(days=3) for name in state)
    assert all(ttls[name] >= timedelta(days=60) for name in history)
    assert ttls["station_weather"] == timedelta(hours=6)


def test_feast_knows_owner_and_users_of_every_feature(resource: FeatureStoreResource) -> None:
    store = resource.store()
    for view in store.list_feature_views():
        assert view.owner == FEATURE_TABLES[view.name].owner
        for field in view.features:
            assert field.tags["owner"] == ALL_FEATURES[field.name].owner
            assert field.tags["used_by"] == ", ".join(used_by(ALL_FEATURES[field.name]))
            assert named_models(field.tags["used_by"]), "a view holds what a model uses, and nothing else"
            assert {"unit", "known_at", "window", "when_missing"} <= set(field.tags)
    for view in store.list_on_demand_feature_views():
        for field in view.features:
            assert view.tags[f"{field.name}.used_by"] == ", ".join(used_by(ALL_FEATURES[field.name]))
            assert view.tags[f"{field.name}.owner"] == ALL_FEATURES[field.name].owner


def test_dagster_shows_the_features_of_every_table(tmp_path: Path) -> None:
    built = {asset.key.path[-1]: asset for asset in feature.build(Settings(home=tmp_path))}
    assert set(built) == set(FEATURE_TABLES)
    for name, asset in built.items():
        (metadata,) = asset.metadata_by_key.values()
        shown = metadata["features"]
        assert isinstance(shown, dg.MarkdownMetadataValue)
        assert "| feature | window | known at | when missing | used by |" in (shown.md_str or "")
        assert all(f"`{column.name}`" in (shown.md_str or "") for column in FEATURE_TABLES[name].columns)
        assert asset.owners_by_key[asset.key] == [FEATURE_TABLES[name].owner]


# --- what a change concerns ------------------------------------------------------------------------------------------


def test_what_is_registered_as_declared_has_no_changes(
    tmp_path: Path, resource: FeatureStoreResource
) -> None:
    first = FeatureStoreResource(home=str(tmp_path / "first")).apply()
    assert {change.kind for change in first.feature_changes} == {"added"}
    assert len(first.feature_changes) == sum(
        len(view.features) for view in [*resource.store().list_feature_views(),
                                        *resource.store().list_on_demand_feature_views()]
    )  # fmt: skip
    assert resource.pending_changes() == ()
    assert resource.apply().feature_changes == ()


def test_changes_name_the_models_concerned(other: FeatureStoreResource) -> None:
    pending = other.pending_changes()
    assert [(change.kind, change.view, change.feature) for change in pending] == [
        ("removed", "station_weather", "weather_gone"),
        ("changed", "station_weather", "weather_temp_f"),
        ("added", "station_weather", "weather_wind_mph"),
    ]
    removed, changed, _ = pending
    assert removed.models == (CHAMPION, MODEL, "old_model")
    assert changed.what == ("unit: '°C' → '°F'",)
    assert changed.models == (MODEL, CHAMPION)
    assert other.apply().feature_changes == pending
    assert other.pending_changes() == ()


def test_a_max_age_concerns_every_feature_of_its_view(resource: FeatureStoreResource) -> None:
    store = resource.store()
    view = store.get_feature_view("station_weather")
    view.ttl = timedelta(hours=9)
    store.apply(view)
    changes = resource.pending_changes()
    assert {change.feature for change in changes} == {
        c.name for c in FEATURE_TABLES["station_weather"].columns
    }
    assert {change.what for change in changes} == {("max age: '9:00:00' → '6:00:00'",)}


def test_deprecating_lists_the_models(
    resource: FeatureStoreResource, monkeypatch: pytest.MonkeyPatch
) -> None:
    names = ("weather_temp_f", "aircraft_stage")
    reason = "too seldom measured"
    marked = {name: replace(ALL_FEATURES[name], deprecated=reason) for name in names}
    monkeypatch.setattr(feature_docs, "ALL_FEATURES", {**ALL_FEATURES, **marked})
    changes = resource.apply().feature_changes
    assert {(change.kind, change.feature) for change in changes} == {("deprecated", name) for name in names}
    for change in changes:
        assert change.what == (f"deprecated: {reason}",)
        assert change.models == (MODEL, CHAMPION)
    tags = {f.name: f.tags for f in resource.store().get_feature_view("station_weather").features}
    assert tags["weather_temp_f"]["deprecated"] == reason
    assert "deprecated" not in tags["weather_humid_pct"]


def test_the_registry_asset_shows_the_changes_as_a_table(other: FeatureStoreResource) -> None:
    settings = other.settings
    done = dg.materialize(
        feature_store.build(settings),
        selection=dg.AssetSelection.assets(["feature_store", "registry"]).without_checks(),
        resources={"lake": LakeResource(settings), "feature_store": other},
    )
    (event,) = done.get_asset_materialization_events()
    metadata = event.materialization.metadata
    shown = [dict(record.data) for record in metadata["features_changed"].records]
    assert [(row["kind"], row["feature"]) for row in shown] == [
        ("removed", "weather_gone"),
        ("changed", "weather_temp_f"),
    ]
    assert shown[1]["models"] == f"{MODEL}, {CHAMPION}"
    assert metadata["features_added"].value == 1


def test_the_command_lists_them(
    other: FeatureStoreResource, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CONTRAIL_HOME", str(tmp_path))

    def run(*arguments: str) -> str:
        done = CliRunner().invoke(app, ["features", "changes", *arguments], catch_exceptions=False)
        assert done.exit_code == 0, done.output
        return done.stdout

    listed: list[dict[str, Any]] = json.loads(run("--json"))
    assert [entry["kind"] for entry in listed] == ["removed", "changed", "added"]
    told = run()
    assert "changed    weather_temp_f (station_weather)\n    unit: '°C' → '°F'\n" in told
    assert f"    models concerned: {MODEL}, {CHAMPION}\n" in told
    assert "added      1 features of station_weather\n" in told
    other.apply()
    assert run() == "nothing: every feature is registered as it is declared\n"
