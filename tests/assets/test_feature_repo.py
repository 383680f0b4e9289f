"""The feature repository and the resource over it, on a week of the real data."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from dataclasses import dataclass
from datetime import UTC, date, datetime, time, timedelta
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pytest
import yaml
from deltalake import DeltaTable, write_deltalake

from contrail.feast_config import FEATURE_REPO, feature_store_yaml
from contrail.settings import REPO_ROOT, Settings
from contrail.shards import ShardError
from feature_repo.use_cases import LATE_FLIGHT_2H
from features.request_time import CATEGORICAL, FEATURE_ORDER
from features.tables import FEATURE_TABLES
from features.vectors import PRIORS, VIEW_FEATURES, fill_priors
from resources.feature_store import FeatureStoreResource, registry_sha256
from tests.support import nyc_clean

FIRST, LAST = date(2013, 3, 1), date(2013, 3, 7)
NOW = datetime.combine(LAST, time(18), UTC)
SERVICE = LATE_FLIGHT_2H.feature_service
ASKED = list(dict.fromkeys([*LATE_FLIGHT_2H.join_keys, *LATE_FLIGHT_2H.request_columns, "decision_at"]))


@dataclass(frozen=True)
class Home:
    resource: FeatureStoreResource
    spine: pa.Table

    @property
    def lake_root(self) -> Path:
        return self.resource.settings.lake_root


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Home:
    """A home whose lake holds a week of feature tables; the feature store is applied."""
    folder = tmp_path_factory.mktemp("home")
    con = nyc_clean.session()
    nyc_clean.load_facts(con, tmp_path_factory.mktemp("source"), FIRST, LAST)
    nyc_clean.create_clean(con)
    settings = Settings(home=folder)
    lo = datetime.combine(FIRST, time(), UTC)
    for name, table in FEATURE_TABLES.items():
        rows = table.build(con, lo, NOW + timedelta(hours=6)).to_arrow_table()
        write_deltalake(str(settings.lake_root / "feature" / name), rows, partition_by=["month"])
    spine = con.sql(
        f"SELECT * FROM ({LATE_FLIGHT_2H.spine_sql}) WHERE decision_at <= TIMESTAMPTZ '{NOW.isoformat()}' ORDER BY decision_at, departure_id"
    ).to_arrow_table()
    con.close()
    resource = FeatureStoreResource(home=str(folder))
    resource.apply()
    return Home(resource, spine)


def _sample(table: pa.Table, rows: int) -> pa.Table:
    step = max(1, table.num_rows // rows)
    return table.take(pa.array(range(0, table.num_rows, step)))


def _cells(table: pa.Table, names: tuple[str, ...]) -> list[tuple[Any, ...]]:
    return list(zip(*(table[name].to_pylist() for name in names), strict=True))


# --- declarations ----------------------------------------------------------------------------------------------------


def test_every_view_says_what_it_is(home: Home) -> None:
    store = home.resource.store()
    views = {view.name: view for view in store.list_feature_views()}
    assert set(views) == set(FEATURE_TABLES)
    for name, view in views.items():
        table = FEATURE_TABLES[name]
        assert view.ttl == table.max_age
        assert view.description == table.description
        assert view.owner
        source = view.batch_source
        assert (source.timestamp_field, source.created_timestamp_column) == ("known_at", "created_at")
        assert source.path == str(home.lake_root / "feature" / name)
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


def test_the_service_has_the_vector_in_its_order(home: Home) -> None:
    service = home.resource.store().get_feature_service(SERVICE)
    names = [
        feature.name for projection in service.feature_view_projections for feature in projection.features
    ]
    assert tuple(names) == FEATURE_ORDER == LATE_FLIGHT_2H.features
    assert len(names) == 62


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


def test_applying_again_changes_nothing(home: Home) -> None:
    first = home.resource.apply()
    second = home.resource.apply()
    assert second.changes == ()
    assert second.registry_sha256 == first.registry_sha256
    assert second.counts == {
        "entities": 6,
        "feature_views": 12,
        "on_demand_feature_views": 2,
        "feature_services": 1,
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


# --- historical ------------------------------------------------------------------------------------------------------


def test_historical_equals_feasts_own_retrieval(home: Home) -> None:
    rows = _sample(home.spine, 200)
    ours, versions = home.resource.historical(rows, SERVICE)
    paths = {name: str(home.lake_root / "feature" / name) for name in FEATURE_TABLES}
    assert versions == {f"feature/{name}": DeltaTable(path).version() for name, path in paths.items()}
    assert ours.num_rows == rows.num_rows >= 200
    own = [name for name in rows.column_names if name not in CATEGORICAL]
    assert ours.column_names == [*own, *FEATURE_ORDER]
    assert ours["departure_id"].to_pylist() == rows["departure_id"].to_pylist()
    store = home.resource.store()
    request = rows.select(ASKED)
    frame = request.append_column("event_timestamp", request["decision_at"]).to_pandas()
    # Feast appends the three categories a second time, from its on-demand view.
    feasts = store.get_historical_features(frame, store.get_feature_service(SERVICE)).to_arrow()
    filled = fill_priors(
        {name: feasts.column(feasts.schema.get_all_field_indices(name)[-1]) for name in FEATURE_ORDER}
    )
    for name in FEATURE_ORDER:
        assert repr(ours[name].to_pylist()) == repr(filled[name].to_pylist()), name
    for name in (
        "origin_departures_waiting",
        "weather_temp_f",
        "aircraft_slack_minutes",
        "flight_arrival_delay_mean_7d",
    ):
        assert pc.count_distinct(ours[name]).as_py() > 5, name


def test_nothing_known_after_the_decision_is_seen(home: Home) -> None:
    rows = _sample(home.spine, 50)
    before, _ = home.resource.historical(rows, SERVICE)
    # A row known 1 µs after the newest decision, and one known earlier but created 1 µs after it, for every origin.
    newest = pc.max(rows["decision_at"]).as_py()
    path = str(home.lake_root / "feature" / "origin_state")
    version = DeltaTable(path).version()
    like = DeltaTable(path).to_pyarrow_table().slice(0, 1)
    planted = []
    for origin in set(rows["origin"].to_pylist()):
        for known, created in ((1, 1), (-1, 1)):
            stamps = [newest + timedelta(microseconds=shift) for shift in (known, created)]
            row = like.to_pylist()[0] | {"origin": origin, "origin_departures_waiting": 9_999}
            row |= dict(zip(("known_at", "created_at"), stamps, strict=True))
            planted.append(row)
    write_deltalake(path, pa.Table.from_pylist(planted, like.schema), mode="append")
    later = pc.add(rows["decision_at"], pa.scalar(timedelta(microseconds=1)))
    moved = rows.set_column(rows.column_names.index("decision_at"), "decision_at", later)
    try:
        after, versions = home.resource.historical(rows, SERVICE)
        seen, _ = home.resource.historical(moved, SERVICE)
    finally:
        DeltaTable(path).restore(version)
    assert versions["feature/origin_state"] == version + 1
    assert _cells(after, FEATURE_ORDER) == _cells(before, FEATURE_ORDER)
    assert 9_999 in seen["origin_departures_waiting"].to_pylist()


def test_historical_names_what_is_wrong(home: Home) -> None:
    with pytest.raises(ValueError, match=r"lack the columns \['tail_number'\]"):
        home.resource.historical(home.spine.drop_columns(["tail_number"]), SERVICE)
    clash = home.spine.slice(0, 1).append_column("weather_temp_f", pa.array([1.0]))
    with pytest.raises(ValueError, match=r"named like its features: \['weather_temp_f'\]"):
        home.resource.historical(clash, SERVICE)
    empty, _ = home.resource.historical(home.spine.slice(0, 0), SERVICE)
    assert (empty.num_rows, empty.num_columns) == (
        0,
        home.spine.num_columns - len(CATEGORICAL) + len(FEATURE_ORDER),
    )


@pytest.mark.parametrize(("engine", "shard_rows"), [("local", 40), ("processes", 150)])
def test_historical_by_shards_equals_at_once(
    home: Home, monkeypatch: pytest.MonkeyPatch, engine: str, shard_rows: int
) -> None:
    in_order = _sample(home.spine, 200)
    # Neither the order of the rows nor their types may come from the order and the files of the shards.
    places = pa.array([(n * 89) % in_order.num_rows for n in range(in_order.num_rows)])
    rows = in_order.take(places).set_column(
        0, in_order.column_names[0], pc.cast(in_order[0].take(places), "large_string")
    )
    at_once, versions = home.resource.historical(rows, SERVICE)
    monkeypatch.setenv("CONTRAIL_ENGINE", engine)
    monkeypatch.setenv("CONTRAIL_SHARD_ROWS", str(shard_rows))
    by_shards, read = home.resource.historical(rows, SERVICE)
    assert by_shards.schema == at_once.schema
    assert by_shards.equals(at_once)
    assert read == versions
    assert not list(home.resource.settings.temp_root.glob("historical-*"))


def test_an_engine_that_is_not_here_is_named(home: Home, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CONTRAIL_ENGINE", "ray")
    with pytest.raises(ShardError, match="CONTRAIL_ENGINE=ray needs the optional extra"):
        home.resource.historical(home.spine.slice(0, 5), SERVICE)


# --- online ----------------------------------------------------------------------------------------------------------


def test_online_equals_offline_now(home: Home) -> None:
    before = home.resource.online(SERVICE, home.spine.slice(0, 1).to_pylist(), now=NOW)
    assert {row.status for row in before[0].views.values()} == {"not found"}
    done = home.resource.materialize(NOW)
    assert [one.view for one in done] == sorted(FEATURE_TABLES)
    for one in done:
        assert one.source == f"feature/{one.view}"
        assert one.rows == one.rows_written > 0
        assert one.newest is not None
        assert one.newest <= NOW
    due = home.spine.filter(pc.greater(home.spine["decision_at"], pa.scalar(NOW - timedelta(hours=2))))
    rows = _sample(due, 60).to_pylist()
    rows.append(rows[0] | {"carrier": "ZZ", "dest": "ZZZ", "tail_number": None, "flight_number": 1})
    asked = pa.Table.from_pylist([row | {"decision_at": NOW} for row in rows], home.spine.schema)
    offline, _ = home.resource.historical(asked, SERVICE)
    online = home.resource.online(SERVICE, asked.to_pylist(), now=NOW)
    assert [tuple(vector.features) for vector in online] == [FEATURE_ORDER] * len(rows)
    assert [repr(tuple(v.features.values())) for v in online] == [
        repr(cells) for cells in _cells(offline, FEATURE_ORDER)
    ]
    nobody = online[-1]
    assert nobody.views["dest_state"].status == "not found"
    assert nobody.views["origin_state"].status == "present"
    assert nobody.features["dest_disrupted_share_6h"] == PRIORS["dest_disrupted_share_6h"]
    assert nobody.features["aircraft_stage"] is None


def test_get_online_features_of_a_real_flight(home: Home) -> None:
    home.resource.materialize(NOW)
    store = home.resource.store()
    due = home.spine.filter(pc.greater(home.spine["decision_at"], pa.scalar(NOW - timedelta(hours=1))))
    asked = [
        {name: row[name] for name in ASKED} | {"decision_at": NOW} for row in _sample(due, 20).to_pylist()
    ]
    asked = [row | {"tail_number": row["tail_number"] or ""} for row in asked]
    ours = home.resource.online(SERVICE, asked, now=NOW)
    midnight = [row | {"service_date": datetime.combine(row["service_date"], time(), UTC)} for row in asked]
    feasts = store.get_online_features(store.get_feature_service(SERVICE), midnight).to_dict()
    assert set(FEATURE_ORDER) <= set(feasts)
    for number, vector in enumerate(ours):
        for name in FEATURE_ORDER:
            value = feasts[name][number]
            expected = vector.features[name]
            assert repr(PRIORS.get(name) if value is None else value) == repr(expected), name


def test_a_second_materialisation_writes_nothing_and_registers_the_interval(home: Home) -> None:
    home.resource.materialize(NOW)
    again = home.resource.materialize(NOW)
    assert [one.rows_written for one in again] == [0] * len(FEATURE_TABLES)
    intervals = home.resource.store().get_feature_view("dest_state").materialization_intervals
    assert intervals[-1] == (NOW - FEATURE_TABLES["dest_state"].max_age, NOW)
    assert home.resource.apply().changes == ()
    assert home.resource.store().get_feature_view("dest_state").materialization_intervals == intervals
