"""The checks on the online copy, on a small lake of invented rows: freshness in words, parity to the bit."""

from __future__ import annotations

import hashlib
import json
import re
import shutil
import struct
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Any

import dagster as dg
import mmh3
import pyarrow as pa
import pytest

from assets import feature_store_checks
from cli import status
from contrail import duck
from contrail.incremental import BUILT_UNTIL
from contrail.lake import Commit
from contrail.online_fetch import Group, fetch_of
from contrail.online_layout import encode_key, encode_value
from contrail.online_push import OnlinePush
from contrail.online_views import online_view
from contrail.settings import Settings
from contrail.view_freshness import ONLINE_PLACE
from feature_repo.use_cases import LATE_FLIGHT_2H, USE_CASES
from features.tables import FEATURE_TABLES
from features.vectors import PRIORS
from resources import parity
from resources.feature_store import FeatureStoreResource
from tests.support.invented_features import DEPARTURES, ENTITIES, NOW, SILENT, World, make
from tests.support.redis_server import RedisServer


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> tuple[World, dict[str, dg.AssetCheckEvaluation]]:
    """A home whose features are online, and what the checks said in that run. Read only."""
    world = make(tmp_path_factory.mktemp("home"))
    return world, world.execute()


@dataclass(frozen=True)
class Planted:
    """What was planted, and what the check said of it: one run for all of it."""

    bit: tuple[float, str]
    silent_tail: str
    evaluation: dg.AssetCheckEvaluation

    def of(self, view: str) -> list[dict[str, Any]]:
        return [row for row in cells(self.evaluation, "mismatches_listed") if row["view"] == view]


@pytest.fixture(scope="module")
def planted(tmp_path_factory: pytest.TempPathFactory) -> Planted:
    """A home in whose online store things are wrong."""
    world = make(tmp_path_factory.mktemp("planted"))
    world.fill()
    feature = "origin_arrival_delay_mean_180min"
    key, value = world.cell("origin_state", feature)
    (number,) = struct.unpack("<d", value[1:])
    flipped = value[:1] + bytes([value[1] ^ 1]) + value[2:]
    world.online(
        "UPDATE contrail_origin_state SET value = ? WHERE entity_key = ? AND feature_name = ?", flipped, key, feature
    )  # fmt: skip
    key, _ = world.cell("dest_state", "dest_disrupted_share_6h")
    world.online("DELETE FROM contrail_dest_state WHERE entity_key = ?", key)
    key, _ = world.cell("carrier_state", "carrier_disrupted_share_6h")
    world.online("UPDATE contrail_carrier_state SET event_ts = event_ts - 60 WHERE entity_key = ?", key)
    # An aircraft that has not been heard of for too long, as if it had just been.
    silent_tail, now = f"tail_number-{SILENT}", int(NOW.timestamp())
    key = encode_key({"tail_number": silent_tail}, {"tail_number": "STRING"})
    for column in FEATURE_TABLES["aircraft_leg"].columns:
        world.online(
            "INSERT INTO contrail_aircraft_leg (entity_key, feature_name, value, event_ts, created_ts) "
            "VALUES (?, ?, ?, ?, ?)", key, column.name, b"", now, now,
        )  # fmt: skip
    world.online("DELETE FROM contrail_station_weather")
    return Planted((number, feature), silent_tail, world.parity())


def cells(evaluation: dg.AssetCheckEvaluation, name: str) -> list[dict[str, Any]]:
    return [dict(record.data) for record in evaluation.metadata[name].records]


# --- freshness -------------------------------------------------------------------------------------------------------


def test_every_view_is_fresh_after_its_run(made: tuple[World, dict[str, dg.AssetCheckEvaluation]]) -> None:
    evaluation = made[1][feature_store_checks.FRESHNESS]
    assert evaluation.passed, evaluation.description
    views = cells(evaluation, "views")
    assert {view["view"] for view in views} == set(FEATURE_TABLES)
    for view in views:
        assert (view["state"], view["outside max age"]) == ("fresh", False), view
        assert view["built until"] == view["online until"] == "2013-03-07 18:00Z", view
        assert (view["behind h"], view["behind now h"]) == (0.0, 0.0), view
        assert view["row age h"] <= view["max age h"], view


def test_what_is_not_fresh_warns_with_view_and_consequence(made: tuple[World, Any]) -> None:
    later = NOW + timedelta(hours=7)
    world = World(Settings(home=made[0].settings.home, clock="replay", replay_at=later))
    evaluation = world.execute(feature_store_checks.FRESHNESS)[feature_store_checks.FRESHNESS]
    assert (evaluation.passed, evaluation.severity) == (False, dg.AssetCheckSeverity.WARN)
    by_view = {view["view"]: view for view in cells(evaluation, "views")}
    assert {view["state"] for view in by_view.values()} == {"behind"}
    outside = {name for name, view in by_view.items() if view["outside max age"]}
    assert outside == {"station_weather"}
    assert "station_weather: its sources hold more than the table was built from" in (
        evaluation.description or ""
    )
    assert "7 h old, the max age is 6 h: every look-up gives null" in (evaluation.description or "")


def test_status_says_it_in_words_and_in_json(
    made: tuple[World, Any], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("CONTRAIL_HOME", str(made[0].settings.home))
    monkeypatch.setenv("CONTRAIL_CLOCK", "replay")
    monkeypatch.setenv("CONTRAIL_REPLAY_AT", NOW.isoformat())
    status.main(as_json=True)
    found = json.loads(capsys.readouterr().out)
    assert {view["view"]: view["state"] for view in found["feature_views"]} == dict.fromkeys(
        FEATURE_TABLES, "fresh"
    )
    assert found["stale_views"] == []
    weather = next(view for view in found["feature_views"] if view["view"] == "station_weather")
    version = made[0].lake.version("feature/station_weather")
    assert (weather["version"], weather["online version"], weather["max age h"]) == (version, version, 6.0)
    assert (weather["entities"], weather["entities answering"]) == (ENTITIES, ENTITIES - 1)
    assert weather["built until"] == weather["online until"] == NOW.isoformat()

    monkeypatch.setenv("CONTRAIL_REPLAY_AT", (NOW + timedelta(hours=7)).isoformat())
    status.main(as_json=False)
    told = capsys.readouterr().out.partition("\nfeature views (")[2].partition("\n\n")[0]
    assert re.search(r"^  station_weather +behind +2013-03-07 18:00Z +7\.0 +7\.0 ", told, re.MULTILINE)
    assert "  ! station_weather: " in told
    assert "h old, the max age is 6 h: every look-up gives null, flagged as outside max age" in told
    assert "  ! dest_state: its sources hold more than the table was built from: a run mends it\n" in told


# --- parity ----------------------------------------------------------------------------------------------------------


def test_online_equals_offline(made: tuple[World, dict[str, dg.AssetCheckEvaluation]]) -> None:
    world, said = made
    evaluation = said[feature_store_checks.PARITY]
    assert evaluation.passed, evaluation.description
    compared = {part["view"]: part for part in cells(evaluation, "compared")}
    assert set(compared) == {*FEATURE_TABLES, *(one.feature_service for one in USE_CASES.values())}
    for name, table in FEATURE_TABLES.items():
        one = table.keys == ("network",)
        # The silent entity is asked for, too: it must not be there, and has no values to compare.
        assert compared[name]["entities"] == (1 if one else ENTITIES), name
        served = compared[name]["values"] / (1 if one else ENTITIES - 1)
        assert served == int(served) > 0, name
        assert compared[name]["table"] == f"feature/{name}@v{world.lake.version(f'feature/{name}')}"
        assert compared[name]["as of"] == NOW.isoformat()
    newest_two_days = sum(n % 4 < 2 for n in range(ENTITIES))
    for use_case in USE_CASES.values():
        vectors = compared[use_case.feature_service]
        assert vectors["entities"] == newest_two_days
        assert vectors["values"] == newest_two_days * len(use_case.features)
    assert evaluation.metadata["mismatches"].value == 0


def test_a_mismatch_fails_the_check(planted: Planted) -> None:
    assert not planted.evaluation.passed
    assert planted.evaluation.severity == dg.AssetCheckSeverity.ERROR


def test_one_planted_bit_is_named_with_view_column_entity_and_values(planted: Planted) -> None:
    number, feature = planted.bit
    (row,) = planted.of("origin_state")
    assert row["column"] == feature
    assert row["entity"].startswith("origin=origin-")
    assert row["offline"].startswith(f"{number!r} (")
    assert row["offline"] != row["online"]
    said = f"origin_state {feature} of {row['entity']}: offline {row['offline']}, online {row['online']}"
    assert said in (planted.evaluation.description or "")


def test_a_planted_missing_entity_is_named(planted: Planted) -> None:
    (row,) = planted.of("dest_state")
    assert (row["column"], row["online"]) == ("(row)", "not found")
    assert row["entity"].startswith("dest=dest-")
    assert row["offline"].startswith("a row known at 2013-")


def test_a_planted_stale_row_is_named(planted: Planted) -> None:
    (row,) = planted.of("carrier_state")
    assert row["column"] == "(known at)"
    assert row["offline"] > row["online"]


def test_what_is_outside_max_age_must_not_be_served_and_personal_keys_are_not_shown(planted: Planted) -> None:
    (row,) = planted.of("aircraft_leg")
    digest = hashlib.sha256(f'{{"tail_number": "{planted.silent_tail}"}}'.encode()).hexdigest()[:12]
    assert (row["column"], row["entity"]) == ("(row)", f"sha256:{digest}")
    assert row["offline"] == "no row within max age"
    assert row["online"].startswith("present")
    assert planted.silent_tail not in repr(planted.evaluation)


def test_the_list_ends_at_twenty_and_says_how_many_more(planted: Planted) -> None:
    total = planted.evaluation.metadata["mismatches"].value
    # Vectors show what is wrong, too: of each that was compared at least the nine values of its weather.
    assert total > 4 + (ENTITIES - 1) + 9
    assert len(cells(planted.evaluation, "mismatches_listed")) == 20
    assert planted.evaluation.metadata["mismatches_not_listed"].value == total - 20
    assert (planted.evaluation.description or "").endswith(f"; and {total - 20} more")


def test_rows_of_a_newer_version_online_are_compared_with_that_version(tmp_path: Path) -> None:
    world = make(tmp_path)
    world.fill()
    table, column = "feature/station_weather", "weather_temp_f"
    with duck.connect() as con:
        row = con.sql(
            f"SELECT * EXCLUDE (_written_at, _run_id) REPLACE (71.5 AS {column}, TIMESTAMPTZ '{NOW.isoformat()}' AS known_at, "
            f"TIMESTAMPTZ '{NOW.isoformat()}' AS created_at) FROM {world.lake.scan(table)} WHERE origin = 'origin-3' LIMIT 1"
        ).to_arrow_table()  # fmt: skip
    world.lake.append(table, row, Commit(table, "push", (), extra={BUILT_UNTIL: NOW.isoformat()}))
    assert world.parity().passed, "an older version online is stale, and equal to its own table version"
    (values,) = row.select([c.name for c in FEATURE_TABLES["station_weather"].columns]).to_pylist()
    key = encode_key({"origin": "origin-3"}, {"origin": "STRING"})
    for name, value in values.items():
        world.online(
            "UPDATE contrail_station_weather SET value = ?, event_ts = ?, created_ts = ? WHERE entity_key = ? "
            "AND feature_name = ?", encode_value(value, "DOUBLE"), int(NOW.timestamp()), int(NOW.timestamp()), key, name,
        )  # fmt: skip
    evaluation = world.parity()
    assert evaluation.passed, evaluation.description
    notes = {part["view"]: part["note"] for part in cells(evaluation, "compared")}
    assert notes["station_weather"] == "1 entities are newer than the last materialisation, and equal to v2"
    assert "not compared" in notes[LATE_FLIGHT_2H.feature_service]


def test_rows_pushed_ahead_of_the_tables_are_counted_and_not_compared(made: tuple[World, Any]) -> None:
    world, _ = made
    key, _ = world.cell("dest_state", "dest_disrupted_share_6h")
    kept = world.online_row("dest_state", key)
    pushed = int(NOW.timestamp()) + 900
    world.online("UPDATE contrail_dest_state SET event_ts = ? WHERE entity_key = ?", pushed, key)
    try:
        resource = FeatureStoreResource(home=str(world.settings.home))
        refused = parity.compare_online(resource, now=NOW, sample=50, spine=feature_store_checks.SPINE)
        services = [use_case.feature_service for use_case in USE_CASES.values()]
        late = [(name, "(known at)") for name in ("dest_state", *services)]
        assert [(m.view, m.column) for m in refused.mismatches] == late
        world.lake.create("push/flight_events", pa.schema([("event", pa.string())]))
        excused = parity.compare_online(resource, now=NOW, sample=50, spine=feature_store_checks.SPINE)
    finally:
        shutil.rmtree(world.settings.lake_root / "push", ignore_errors=True)
        world.online("UPDATE contrail_dest_state SET event_ts = ? WHERE entity_key = ?", kept, key)
    assert not excused.mismatches
    parts = {part.compared.view: part for part in excused.parts}
    assert (parts["dest_state"].compared.ahead, parts["dest_state"].compared.entities) == (1, ENTITIES - 1)
    assert parts["dest_state"].note == "1 entities were pushed ahead of the table"
    for service in services:
        assert parts[service].note == "1 vectors hold rows that were pushed ahead of the tables"


def test_parity_over_redis(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, redis_server: RedisServer
) -> None:
    monkeypatch.setenv("CONTRAIL_ONLINE_STORE", "redis")
    monkeypatch.setenv("CONTRAIL_REDIS_URL", f"redis://127.0.0.1:{redis_server.port}/0")
    world = make(tmp_path)
    world.fill()
    said = world.parity()
    assert said.passed, said.description
    feature = "carrier_origin_disrupted_share_24h"
    field = struct.pack("<i", mmh3.hash(f"carrier_origin_state:{feature}", signed=True))
    key = next(
        key for key in sorted(redis_server.client.keys())
        if len(redis_server.client.hget(key, field) or b"") > 1
    )  # fmt: skip
    value = redis_server.client.hget(key, field)
    redis_server.client.hset(key, field, value[:1] + bytes([value[1] ^ 1]) + value[2:])
    evaluation = world.parity()
    assert not evaluation.passed
    first = cells(evaluation, "mismatches_listed")[0]
    assert (first["view"], first["column"]) == ("carrier_origin_state", feature)
    assert re.fullmatch(r"carrier=carrier-\d+, origin=origin-\d+", first["entity"])


def test_nothing_materialised_is_nothing_to_compare(tmp_path: Path) -> None:
    world = make(tmp_path)
    resource = FeatureStoreResource(home=str(tmp_path))
    resource.apply()
    found = parity.compare_online(resource, now=NOW, sample=5, spine=feature_store_checks.SPINE)
    assert not found.mismatches
    assert {part.note for part in found.parts} == {"never materialised: nothing to compare"}
    assert world.execute(feature_store_checks.FRESHNESS)[feature_store_checks.FRESHNESS].description.count(
        "the online store holds an earlier version"
    ) == len(FEATURE_TABLES)


def test_an_unseen_key_gets_the_same_prior_online_and_offline(
    made: tuple[World, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    from features import vectors

    world, _ = made
    resource = FeatureStoreResource(home=str(world.settings.home))
    with duck.connect() as con:
        departures = con.sql(f"SELECT * FROM ({DEPARTURES}) LIMIT 1")  # noqa: F841 - the query reads it by name
        rows = con.sql(
            f"SELECT * REPLACE ('nowhere' AS dest, 'nobody' AS carrier, 1 AS flight_number, 'none' AS origin, "
            f"NULL::VARCHAR AS tail_number, TIMESTAMPTZ '{NOW.isoformat()}' AS decision_at) "
            f"FROM ({LATE_FLIGHT_2H.spine_sql})"
        ).to_arrow_table()

    def both() -> list[dict[str, Any]]:
        offline, _ = resource.historical(rows, LATE_FLIGHT_2H.feature_service)
        (online,) = resource.online(LATE_FLIGHT_2H.feature_service, rows.to_pylist(), now=NOW)
        names = [n for n in LATE_FLIGHT_2H.features if n in PRIORS and not n.startswith("network_")]
        return [{n: offline[n].to_pylist()[0] for n in names}, {n: online.features[n] for n in names}]

    offline, online = both()
    assert offline == online == {name: PRIORS[name] for name in offline}
    assert len(offline) > 30
    # One function on both sides: what it is told to fill in, both fill in.
    monkeypatch.setattr(vectors, "PRIORS", {**PRIORS, "dest_disrupted_share_6h": 0.75})
    assert [side["dest_disrupted_share_6h"] for side in both()] == [0.75, 0.75]


def test_a_pushed_event_that_its_file_does_not_bring_is_mended_by_the_next_materialisation(
    made: tuple[World, Any],
) -> None:
    world, _ = made
    resource = FeatureStoreResource(home=str(world.settings.home))
    store = resource.store()
    view = online_view(store.config, store.get_feature_view("dest_state"))
    at = NOW - timedelta(seconds=1)  # after every row of the table, before what it is built until
    with duck.connect() as con:
        rows = con.sql(
            f"SELECT * REPLACE (TIMESTAMPTZ '{at.isoformat()}' AS known_at, TIMESTAMPTZ '{at.isoformat()}' AS "
            f"created_at, 0.125::DOUBLE AS dest_disrupted_share_6h) FROM {world.lake.scan('feature/dest_state')} "
            "QUALIFY row_number() OVER (ORDER BY dest, known_at) = 1"
        ).to_arrow_table()  # fmt: skip
    unheard_of = rows.set_column(rows.column_names.index("dest"), "dest", pa.array(["nowhere"]))
    pushing = OnlinePush(store.config, view)
    assert pushing.write(pa.concat_tables([rows, unheard_of]), NOW) == 2
    assert not world.parity().passed
    done = {one.view: one for one in resource.materialize(NOW)}
    assert (done["dest_state"].rows_written, done["dest_state"].rows_withdrawn) == (1, 1)
    assert {one.rows_written for name, one in done.items() if name != "dest_state"} == {0}
    fetch = fetch_of(store.config, [Group([view])])
    assert fetch.fetch([[encode_key({"dest": "nowhere"}, view.keys)]])[0][0].event_us == [None]
    fetch.close()
    evaluation = world.parity()
    assert evaluation.passed, evaluation.description


def test_another_store_than_was_filled_is_told(
    made: tuple[World, Any], redis_server: RedisServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The run has recorded which store it filled; the settings now mean another one."""
    lake = made[0].lake
    assert lake.commits("feature_store/online")[-1].extra == {ONLINE_PLACE: "sqlite online_store.db"}
    for name, value in (
        ("HOME", str(made[0].settings.home)), ("CLOCK", "replay"), ("REPLAY_AT", NOW.isoformat()),
        ("ONLINE_STORE", "redis"), ("REDIS_URL", f"redis://{redis_server.address}"),
    ):  # fmt: skip
        monkeypatch.setenv(f"CONTRAIL_{name}", value)
    found = status.collect(Settings())
    assert {str(view["state"]) for view in found.feature_views} == {"online copy behind"}
