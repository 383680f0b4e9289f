"""The feature repository and the resource over it, on a week of the real data."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from dataclasses import replace
from datetime import UTC, datetime, time, timedelta
from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc
import pytest
import yaml

from contrail.feast_config import FEATURE_REPO, feature_store_yaml
from contrail.settings import REPO_ROOT, Settings
from contrail.use_case import UseCase, UseCaseError
from feature_repo.feature_views import declare
from feature_repo.use_cases import LATE_FLIGHT_2H, LATE_FLIGHT_DAY_AHEAD, USE_CASES
from features.request_time import FEATURE_ORDER
from features.tables import FEATURE_TABLES
from features.vectors import PRIORS, VIEW_FEATURES
from resources.feature_store import FeatureStoreResource, registry_sha256
from tests.support.feature_week import NOW, SERVICE, FeatureWeek, cells, sample

EVERY_USE_CASE = pytest.mark.parametrize("use_case", USE_CASES.values(), ids=list(USE_CASES))


# --- declarations ----------------------------------------------------------------------------------------------------


def test_every_view_says_what_it_is(feature_week: FeatureWeek) -> None:
    store = feature_week.resource.store()
    views = {view.name: view for view in store.list_feature_views()}
    assert set(views) == set(FEATURE_TABLES)
    for name, view in views.items():
        table = FEATURE_TABLES[name]
        assert view.ttl == table.max_age
        assert view.description == table.description
        assert view.owner
        source = view.batch_source
        assert (source.timestamp_field, source.created_timestamp_column) == ("known_at", "created_at")
        assert source.path == str(feature_week.lake_root / "feature" / name)
        assert {key for entity in view.entities for key in [entity]} == set(table.keys)
        assert {field.name for field in view.features} == set(VIEW_FEATURES[name])
        for field in view.features:
            assert field.description, field.name
            assert field.tags["unit"], field.name
            assert field.tags["known_at"], field.name
    for on_demand in store.list_on_demand_feature_views():
        assert on_demand.mode == "python"
        assert not on_demand.singleton
        assert {feature.name for feature in on_demand.features} <= set(on_demand.tags)


@EVERY_USE_CASE
def test_a_service_has_the_vector_of_its_use_case_in_its_order(
    feature_week: FeatureWeek, use_case: UseCase
) -> None:
    service = feature_week.resource.store().get_feature_service(use_case.feature_service)
    names = [
        feature.name for projection in service.feature_view_projections for feature in projection.features
    ]
    assert tuple(names) == use_case.features
    assert service.tags["features"] == str(len(names))
    assert service.tags["feature_order_sha256"] == use_case.feature_order_sha256


@pytest.mark.parametrize(
    ("features", "words"),
    [
        (
            ("carrier", "origin_departures_waiting", "dest"),
            "dest stands apart from the other features of schedule_request",
        ),
        (("carrier", "origin_colour"), "no feature view has origin_colour"),
    ],
)
def test_a_use_case_that_no_service_can_serve_is_refused(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, features: tuple[str, ...], words: str
) -> None:
    wrong = replace(LATE_FLIGHT_2H, name="wrong", feature_service="wrong", features=features, categorical=())
    monkeypatch.setitem(USE_CASES, "wrong", wrong)
    with pytest.raises(UseCaseError, match=words):
        declare(tmp_path)


def test_a_third_model_needs_its_declaration_only(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    # A column of the tables that no other model uses is in its view as soon as one does.
    unused = "network_late_departure_share_180min"
    third = replace(
        LATE_FLIGHT_DAY_AHEAD,
        name="third",
        feature_service="third",
        features=("carrier", unused),
        categorical=(),
    )
    assert unused not in {field.name for view in declare(tmp_path).views for field in view.features}
    monkeypatch.setitem(USE_CASES, "third", third)
    declared = declare(tmp_path)
    (service,) = (one for one in declared.services if one.name == "third")
    projections = {p.name: [field.name for field in p.features] for p in service.feature_view_projections}
    assert projections == {"schedule_request": ["carrier"], "network_state": [unused]}
    monkeypatch.setitem(USE_CASES, "fourth", replace(third, name="fourth", features=("carrier",)))
    with pytest.raises(UseCaseError, match="'third' and 'fourth' both name the feature service 'third'"):
        declare(tmp_path)


def test_feast_imports_one_module_only() -> None:
    ignored = (FEATURE_REPO / ".feastignore").read_text().split()
    others = {path.name for path in FEATURE_REPO.glob("*.py")} - {"feature_views.py"}
    assert others <= set(ignored)
    assert not list(FEATURE_REPO.glob("**/definitions.py"))
    assert not list(FEATURE_REPO.glob("*/*.py")), "Feast would import it: list it in .feastignore and here"


def test_the_literal_yaml_names_the_default_home(tmp_path: Path) -> None:
    literal = yaml.safe_load((FEATURE_REPO / "feature_store.yaml").read_text())
    default, other = Settings(home=REPO_ROOT / ".contrail"), Settings(home=tmp_path)
    assert feature_store_yaml(default) == FEATURE_REPO / "feature_store.yaml"
    assert (FEATURE_REPO / literal["registry"]["path"]).resolve() == default.registry_path.resolve()
    assert (FEATURE_REPO / literal["online_store"]["path"]).resolve() == default.online_store_path.resolve()
    assert (
        FEATURE_REPO / literal["offline_store"]["temp_directory"]
    ).resolve() == default.temp_root.resolve()
    written = yaml.safe_load(feature_store_yaml(other).read_text())
    assert feature_store_yaml(other) == tmp_path / "feature_store.yaml"
    assert written["registry"]["path"] == str(other.registry_path)
    for part in (literal, written):
        assert part["project"] == "contrail"
        assert part["entity_key_serialization_version"] == 3
        assert part["offline_store"]["type"] == "contrail.asof.AsofOfflineStore"
        assert part["offline_store"]["knowledge_time"] is True


# --- apply -----------------------------------------------------------------------------------------------------------


def _feast(cwd: Path, home: Path, *arguments: str) -> str:
    done = subprocess.run(
        [Path(sys.executable).with_name("feast"), *arguments],
        cwd=cwd,
        env=os.environ
        | {"CONTRAIL_HOME": str(home), "PYTHONPATH": str(REPO_ROOT), "PYTHONDONTWRITEBYTECODE": "1"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def test_applying_again_changes_nothing(feature_week: FeatureWeek) -> None:
    first = feature_week.resource.apply()
    second = feature_week.resource.apply()
    assert second.changes == ()
    assert second.registry_sha256 == first.registry_sha256
    assert second.counts == {
        "entities": 6,
        "feature_views": 12,
        "on_demand_feature_views": 2,
        "feature_services": 2,
    }


@pytest.mark.slow
def test_apply_from_root_and_from_folder_leaves_one_registry(tmp_path: Path) -> None:
    # A repository of its own, so that the bare command works on its default home and not on this one's. With the real
    # root on the path too there is a module `definitions` to be imported by mistake.
    root = tmp_path / "repository"
    shutil.copytree(FEATURE_REPO, root / "feature_repo", ignore=shutil.ignore_patterns("__pycache__"))
    _feast(root, root / ".contrail", "-c", "feature_repo", "apply")
    from_root = _registry_of(root)
    said = _feast(root / "feature_repo", root / ".contrail", "apply")
    assert "No changes to registry" in said
    assert "No changes to infrastructure" in said
    assert _registry_of(root) == from_root
    listed = _feast(root, root / ".contrail", "-c", "feature_repo", "feature-views", "list")
    assert all(table in listed for table in FEATURE_TABLES)


@pytest.mark.slow
def test_the_command_line_finds_nothing_to_do_after_our_apply(tmp_path: Path) -> None:
    FeatureStoreResource(home=str(tmp_path)).apply()
    said = _feast(
        REPO_ROOT, tmp_path, "-c", "feature_repo", "-f", str(tmp_path / "feature_store.yaml"), "apply"
    )
    assert "No changes to registry" in said
    assert "No changes to infrastructure" in said


def _registry_of(root: Path) -> str:
    from feast import FeatureStore

    return registry_sha256(FeatureStore(repo_path=str(root / "feature_repo")))


def test_what_is_no_longer_declared_is_deleted(tmp_path: Path) -> None:
    from feast import FeatureService

    resource = FeatureStoreResource(home=str(tmp_path))
    clean = resource.apply().registry_sha256
    store = resource.store()
    store.apply(FeatureService(name="stray", features=[store.get_feature_view("origin_state")]))
    assert any("stray" in change for change in resource.apply().changes)
    assert resource.apply().registry_sha256 == clean


# --- online ----------------------------------------------------------------------------------------------------------


@EVERY_USE_CASE
def test_online_equals_offline_now(feature_week: FeatureWeek, use_case: UseCase) -> None:
    service, features, spine = use_case.feature_service, use_case.features, feature_week.spines[use_case.name]
    if use_case is LATE_FLIGHT_2H:
        before = feature_week.resource.online(service, spine.slice(0, 1).to_pylist(), now=NOW)
        assert {row.status for row in before[0].views.values()} == {"not found"}
    done = feature_week.resource.materialize(NOW)
    assert [one.view for one in done] == sorted(FEATURE_TABLES)
    for one in done:
        assert one.source == f"feature/{one.view}"
        assert one.rows == (one.rows_written if use_case is LATE_FLIGHT_2H else one.rows) > 0
        assert one.newest is not None
        assert one.newest <= NOW
    due = spine.filter(
        pc.greater(
            spine["decision_at"], pa.scalar(NOW - timedelta(hours=2 if use_case is LATE_FLIGHT_2H else 24))
        )
    )
    rows = sample(due, 60).to_pylist()
    rows.append(rows[0] | {"carrier": "ZZ", "dest": "ZZZ", "tail_number": None, "flight_number": 1})
    asked = pa.Table.from_pylist([row | {"decision_at": NOW} for row in rows], spine.schema)
    offline, _ = feature_week.resource.historical(asked, service)
    online = feature_week.resource.online(service, asked.to_pylist(), now=NOW)
    assert [tuple(vector.features) for vector in online] == [features] * len(rows)
    assert [repr(tuple(v.features.values())) for v in online] == [
        repr(cells) for cells in cells(offline, features)
    ]
    nobody = online[-1]
    assert nobody.views["dest_state"].status == "not found"
    assert nobody.views["origin_state"].status == "present"
    assert nobody.features["dest_disrupted_share_6h"] == PRIORS["dest_disrupted_share_6h"]
    assert nobody.features.get("aircraft_stage") is None


def test_the_day_ahead_needs_no_aircraft_and_no_instant(feature_week: FeatureWeek) -> None:
    feature_week.resource.materialize(NOW)
    service = LATE_FLIGHT_DAY_AHEAD.feature_service
    vectors = feature_week.resource.online_vectors(service)
    assert set(vectors.reader.keys) == set(LATE_FLIGHT_DAY_AHEAD.join_keys)
    assert dict(vectors.request_columns) == {
        "service_date": "DATE", "scheduled_departure_minute_local": "INTEGER",
    }  # fmt: skip
    row = feature_week.spines[LATE_FLIGHT_DAY_AHEAD.name].slice(0, 1).to_pylist()[0]
    asked = {name: row[name] for name in (*LATE_FLIGHT_DAY_AHEAD.join_keys, *vectors.request_columns)}
    (vector,) = vectors.read([asked], now=NOW)
    not_read = {"station_weather", "aircraft_leg", "carrier_origin_history"}
    assert set(vector.views) == set(FEATURE_TABLES) - not_read
    midnight = asked | {"service_date": datetime.combine(row["service_date"], time(), UTC)}
    store = feature_week.resource.store()
    feasts = store.get_online_features(store.get_feature_service(service), [midnight]).to_dict()
    for name in LATE_FLIGHT_DAY_AHEAD.features:
        value = feasts[name][0]
        assert repr(PRIORS.get(name) if value is None else value) == repr(vector.features[name]), name


def test_get_online_features_of_a_real_flight(feature_week: FeatureWeek) -> None:
    feature_week.resource.materialize(NOW)
    store = feature_week.resource.store()
    due = feature_week.spine.filter(
        pc.greater(feature_week.spine["decision_at"], pa.scalar(NOW - timedelta(hours=1)))
    )
    asked = [
        {name: row[name] for name in (*LATE_FLIGHT_2H.join_keys, *LATE_FLIGHT_2H.request_columns)}
        | {"decision_at": NOW}
        for row in sample(due, 20).to_pylist()
    ]
    asked = [row | {"tail_number": row["tail_number"] or ""} for row in asked]
    ours = feature_week.resource.online(SERVICE, asked, now=NOW)
    midnight = [row | {"service_date": datetime.combine(row["service_date"], time(), UTC)} for row in asked]
    feasts = store.get_online_features(store.get_feature_service(SERVICE), midnight).to_dict()
    assert set(FEATURE_ORDER) <= set(feasts)
    for number, vector in enumerate(ours):
        for name in FEATURE_ORDER:
            value = feasts[name][number]
            expected = vector.features[name]
            assert repr(PRIORS.get(name) if value is None else value) == repr(expected), name


def test_a_second_materialisation_writes_nothing_and_registers_the_interval(
    feature_week: FeatureWeek,
) -> None:
    feature_week.resource.materialize(NOW)
    again = feature_week.resource.materialize(NOW)
    assert [one.rows_written for one in again] == [0] * len(FEATURE_TABLES)
    intervals = feature_week.resource.store().get_feature_view("dest_state").materialization_intervals
    assert intervals[-1] == (NOW - FEATURE_TABLES["dest_state"].max_age, NOW)
    assert feature_week.resource.apply().changes == ()
    assert feature_week.resource.store().get_feature_view("dest_state").materialization_intervals == intervals
