"""The feature repository and the resource over it, on a week of the real data."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import dataclass, replace
from datetime import UTC, date, datetime, time, timedelta
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pytest
import yaml
from deltalake import DeltaTable, write_deltalake

from contrail import duck
from contrail.feast_config import FEATURE_REPO, feature_store_yaml
from contrail.lake import Commit, Lake
from contrail.settings import REPO_ROOT, Settings
from contrail.shards import ShardError
from contrail.use_case import UseCase, UseCaseError
from feature_repo.feature_views import declare
from feature_repo.use_cases import LATE_FLIGHT_2H, LATE_FLIGHT_DAY_AHEAD, USE_CASES
from features.request_time import CATEGORICAL, FEATURE_ORDER, leg_columns
from features.tables import FEATURE_TABLES
from features.vectors import PRIORS, VIEW_FEATURES, fill_priors
from resources.feature_store import FeatureStoreResource, registry_sha256
from tests.support import nyc_clean

FIRST, LAST = date(2013, 3, 1), date(2013, 3, 7)
NOW = datetime.combine(LAST, time(18), UTC)
SERVICE = LATE_FLIGHT_2H.feature_service
EVERY_USE_CASE = pytest.mark.parametrize("use_case", USE_CASES.values(), ids=list(USE_CASES))


@dataclass(frozen=True)
class Home:
    resource: FeatureStoreResource
    spines: Mapping[str, pa.Table]

    @property
    def spine(self) -> pa.Table:
        return self.spines[LATE_FLIGHT_2H.name]

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
    until = f"WHERE decision_at <= TIMESTAMPTZ '{NOW.isoformat()}' ORDER BY decision_at, departure_id"
    spines = {
        name: con.sql(f"SELECT * FROM ({use_case.spine_sql}) {until}").to_arrow_table()
        for name, use_case in USE_CASES.items()
    }
    con.close()
    resource = FeatureStoreResource(home=str(folder))
    resource.apply()
    return Home(resource, spines)


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


@EVERY_USE_CASE
def test_a_service_has_the_vector_of_its_use_case_in_its_order(home: Home, use_case: UseCase) -> None:
    service = home.resource.store().get_feature_service(use_case.feature_service)
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


def test_applying_again_changes_nothing(home: Home) -> None:
    first = home.resource.apply()
    second = home.resource.apply()
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


# --- historical ------------------------------------------------------------------------------------------------------


@EVERY_USE_CASE
def test_historical_equals_feasts_own_retrieval(home: Home, use_case: UseCase) -> None:
    rows = _sample(home.spines[use_case.name], 200)
    ours, versions = home.resource.historical(rows, use_case.feature_service)
    read = [
        name
        for name, columns in VIEW_FEATURES.items()
        if {*columns} & {*use_case.features, *leg_columns(use_case.features)}
    ]
    paths = {name: str(home.lake_root / "feature" / name) for name in read}
    assert versions == {f"feature/{name}": DeltaTable(path).version() for name, path in paths.items()}
    assert ours.num_rows == rows.num_rows >= 200
    own = [name for name in rows.column_names if name not in CATEGORICAL]
    assert ours.column_names == [*own, *use_case.features]
    assert ours["departure_id"].to_pylist() == rows["departure_id"].to_pylist()
    store = home.resource.store()
    asked = [*use_case.join_keys, *use_case.request_columns, "decision_at"]
    request = rows.select(list(dict.fromkeys(asked)))
    frame = request.append_column("event_timestamp", request["decision_at"]).to_pandas()
    # Feast appends the three categories a second time, from its on-demand view.
    service = store.get_feature_service(use_case.feature_service)
    feasts = store.get_historical_features(frame, service).to_arrow()
    filled = fill_priors(
        {name: feasts.column(feasts.schema.get_all_field_indices(name)[-1]) for name in use_case.features}
    )
    for name in use_case.features:
        assert repr(ours[name].to_pylist()) == repr(filled[name].to_pylist()), name
    varied = {
        "origin_departures_waiting",
        "weather_temp_f",
        "aircraft_slack_minutes",
        "flight_arrival_delay_mean_7d",
    }
    for name in varied & set(use_case.features):
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


def test_training_rows_say_when_what_was_looked_up_for_them_was_known(
    home: Home, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Against a count of each table by itself, for rows with all, with some, and with no stored row."""
    lake, rows = Lake(home.lake_root), _sample(home.spine, 60).to_pylist()
    unseen: dict[str, Any] = dict.fromkeys(("network", "carrier", "origin", "dest"), "nowhere")
    rows.append(rows[-1] | unseen | {"departure_id": "unseen", "flight_number": 0, "tail_number": None})
    spine = pa.Table.from_pylist(rows, home.spine.schema)
    asked, made = "clean/asked", "model/known"
    if not lake.exists(asked):
        lake.create(asked, spine.schema)
        lake.append(asked, spine, Commit(asked, "test", ()))
    monkeypatch.setenv("CONTRAIL_SHARD_ROWS", "40")
    options: dict[str, Any] = {
        "spine_tables": {"asked": lake.ref(asked)},
        "order_by": ["decision_at", "departure_id"],
        "commit": Commit(made, "test", ()),
    }
    columns = ["departure_id", "decision_at", *FEATURE_ORDER]
    home.resource.write_historical("model/plain", "FROM asked", SERVICE, columns=columns, **options)
    done = home.resource.write_historical(
        made, "FROM asked", SERVICE, columns=columns, known_at_column="features_known_at", **options
    )
    assert done.shards > 1
    keys = {name: table.keys for name, table in FEATURE_TABLES.items()}
    newest = ", ".join(
        f"(SELECT max(t.known_at) FROM {lake.scan(f'feature/{name}')} t WHERE t.known_at <= s.decision_at AND "
        f"s.decision_at - t.known_at <= INTERVAL {int(FEATURE_TABLES[name].max_age.total_seconds())} SECOND "
        f"{''.join(f' AND t.{key} = s.{key}' for key in of_table)})"
        for name, of_table in keys.items()
    )
    with duck.connect() as con:
        found = con.sql(f"SELECT * EXCLUDE (_written_at, _run_id) FROM {lake.scan(made)}").to_arrow_table()
        plain = con.sql(
            f"SELECT * EXCLUDE (_written_at, _run_id) FROM {lake.scan('model/plain')}"
        ).to_arrow_table()
        expected = con.sql(
            f"SELECT departure_id, greatest({newest}) FROM {lake.scan(asked)} s ORDER BY decision_at, departure_id"
        ).fetchall()
    assert found.column_names == [*columns, "features_known_at"]
    assert found.drop_columns(["features_known_at"]).equals(plain)
    assert _cells(found, ("departure_id", "features_known_at")) == expected
    known = dict(expected)
    assert known.pop("unseen") is None
    assert None not in known.values()


def test_a_version_counts_from_when_it_was_created(home: Home) -> None:
    """A version that came after its instant is known as late as it came, and the row says so."""
    lake, row = Lake(home.lake_root), _sample(home.spine, 1).slice(0, 1)
    decided = row["decision_at"][0].as_py()
    path = str(home.lake_root / "feature" / "origin_state")
    version = DeltaTable(path).version()
    like = DeltaTable(path).to_pyarrow_table().slice(0, 1)
    stamps = {"known_at": decided - timedelta(minutes=1), "created_at": decided}
    planted = (
        like.to_pylist()[0]
        | {"origin": row["origin"][0].as_py(), "origin_departures_waiting": 9_999}
        | stamps
    )
    write_deltalake(path, pa.Table.from_pylist([planted], like.schema), mode="append")
    asked, made = "clean/asked_once", "model/known_once"
    lake.create(asked, row.schema)
    lake.append(asked, row, Commit(asked, "test", ()))
    try:
        home.resource.write_historical(
            made, "FROM asked", SERVICE, spine_tables={"asked": lake.ref(asked)}, order_by=["departure_id"],
            columns=["departure_id", "origin_departures_waiting"], commit=Commit(made, "test", ()),
            known_at_column="features_known_at",
        )  # fmt: skip
    finally:
        DeltaTable(path).restore(version)
    with duck.connect() as con:
        found = con.sql(
            f"SELECT origin_departures_waiting, features_known_at FROM {lake.scan(made)}"
        ).fetchall()
    assert found == [(9_999, decided)]


# --- online ----------------------------------------------------------------------------------------------------------


@EVERY_USE_CASE
def test_online_equals_offline_now(home: Home, use_case: UseCase) -> None:
    service, features, spine = use_case.feature_service, use_case.features, home.spines[use_case.name]
    if use_case is LATE_FLIGHT_2H:
        before = home.resource.online(service, spine.slice(0, 1).to_pylist(), now=NOW)
        assert {row.status for row in before[0].views.values()} == {"not found"}
    done = home.resource.materialize(NOW)
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
    rows = _sample(due, 60).to_pylist()
    rows.append(rows[0] | {"carrier": "ZZ", "dest": "ZZZ", "tail_number": None, "flight_number": 1})
    asked = pa.Table.from_pylist([row | {"decision_at": NOW} for row in rows], spine.schema)
    offline, _ = home.resource.historical(asked, service)
    online = home.resource.online(service, asked.to_pylist(), now=NOW)
    assert [tuple(vector.features) for vector in online] == [features] * len(rows)
    assert [repr(tuple(v.features.values())) for v in online] == [
        repr(cells) for cells in _cells(offline, features)
    ]
    nobody = online[-1]
    assert nobody.views["dest_state"].status == "not found"
    assert nobody.views["origin_state"].status == "present"
    assert nobody.features["dest_disrupted_share_6h"] == PRIORS["dest_disrupted_share_6h"]
    assert nobody.features.get("aircraft_stage") is None


def test_the_day_ahead_needs_no_aircraft_and_no_instant(home: Home) -> None:
    home.resource.materialize(NOW)
    service = LATE_FLIGHT_DAY_AHEAD.feature_service
    vectors = home.resource.online_vectors(service)
    assert set(vectors.reader.keys) == set(LATE_FLIGHT_DAY_AHEAD.join_keys)
    assert dict(vectors.request_columns) == {
        "service_date": "DATE", "scheduled_departure_minute_local": "INTEGER",
    }  # fmt: skip
    row = home.spines[LATE_FLIGHT_DAY_AHEAD.name].slice(0, 1).to_pylist()[0]
    asked = {name: row[name] for name in (*LATE_FLIGHT_DAY_AHEAD.join_keys, *vectors.request_columns)}
    (vector,) = vectors.read([asked], now=NOW)
    not_read = {"station_weather", "aircraft_leg", "carrier_origin_history"}
    assert set(vector.views) == set(FEATURE_TABLES) - not_read
    midnight = asked | {"service_date": datetime.combine(row["service_date"], time(), UTC)}
    store = home.resource.store()
    feasts = store.get_online_features(store.get_feature_service(service), [midnight]).to_dict()
    for name in LATE_FLIGHT_DAY_AHEAD.features:
        value = feasts[name][0]
        assert repr(PRIORS.get(name) if value is None else value) == repr(vector.features[name]), name


def test_get_online_features_of_a_real_flight(home: Home) -> None:
    home.resource.materialize(NOW)
    store = home.resource.store()
    due = home.spine.filter(pc.greater(home.spine["decision_at"], pa.scalar(NOW - timedelta(hours=1))))
    asked = [
        {name: row[name] for name in (*LATE_FLIGHT_2H.join_keys, *LATE_FLIGHT_2H.request_columns)}
        | {"decision_at": NOW}
        for row in _sample(due, 20).to_pylist()
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
