"""Vectors as they were known at their decisions, on a week of the real data: at once, by shards, into a table."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pytest
from deltalake import DeltaTable, write_deltalake

from contrail import duck
from contrail.lake import Commit, Lake
from contrail.shards import ShardError
from contrail.use_case import UseCase
from feature_repo.use_cases import USE_CASES
from features.request_time import CATEGORICAL, FEATURE_ORDER, leg_columns
from features.tables import FEATURE_TABLES
from features.vectors import VIEW_FEATURES, fill_priors
from tests.support.feature_week import SERVICE, FeatureWeek, cells, sample


@pytest.mark.parametrize("use_case", USE_CASES.values(), ids=list(USE_CASES))
def test_historical_equals_feasts_own_retrieval(feature_week: FeatureWeek, use_case: UseCase) -> None:
    rows = sample(feature_week.spines[use_case.name], 200)
    ours, versions = feature_week.resource.historical(rows, use_case.feature_service)
    read = [
        name
        for name, columns in VIEW_FEATURES.items()
        if {*columns} & {*use_case.features, *leg_columns(use_case.features)}
    ]
    paths = {name: str(feature_week.lake_root / "feature" / name) for name in read}
    assert versions == {f"feature/{name}": DeltaTable(path).version() for name, path in paths.items()}
    assert ours.num_rows == rows.num_rows >= 200
    own = [name for name in rows.column_names if name not in CATEGORICAL]
    assert ours.column_names == [*own, *use_case.features]
    assert ours["departure_id"].to_pylist() == rows["departure_id"].to_pylist()
    store = feature_week.resource.store()
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


def test_nothing_known_after_the_decision_is_seen(feature_week: FeatureWeek) -> None:
    rows = sample(feature_week.spine, 50)
    before, _ = feature_week.resource.historical(rows, SERVICE)
    # A row known 1 µs after the newest decision, and one known earlier but created 1 µs after it, for every origin.
    newest = pc.max(rows["decision_at"]).as_py()
    path = str(feature_week.lake_root / "feature" / "origin_state")
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
        after, versions = feature_week.resource.historical(rows, SERVICE)
        seen, _ = feature_week.resource.historical(moved, SERVICE)
    finally:
        DeltaTable(path).restore(version)
    assert versions["feature/origin_state"] == version + 1
    assert cells(after, FEATURE_ORDER) == cells(before, FEATURE_ORDER)
    assert 9_999 in seen["origin_departures_waiting"].to_pylist()


def test_historical_names_what_is_wrong(feature_week: FeatureWeek) -> None:
    with pytest.raises(ValueError, match=r"lack the columns \['tail_number'\]"):
        feature_week.resource.historical(feature_week.spine.drop_columns(["tail_number"]), SERVICE)
    clash = feature_week.spine.slice(0, 1).append_column("weather_temp_f", pa.array([1.0]))
    with pytest.raises(ValueError, match=r"named like its features: \['weather_temp_f'\]"):
        feature_week.resource.historical(clash, SERVICE)
    empty, _ = feature_week.resource.historical(feature_week.spine.slice(0, 0), SERVICE)
    assert (empty.num_rows, empty.num_columns) == (
        0,
        feature_week.spine.num_columns - len(CATEGORICAL) + len(FEATURE_ORDER),
    )


@pytest.mark.parametrize(("engine", "shard_rows"), [("local", 40), ("processes", 150)])
def test_historical_by_shards_equals_at_once(
    feature_week: FeatureWeek, monkeypatch: pytest.MonkeyPatch, engine: str, shard_rows: int
) -> None:
    in_order = sample(feature_week.spine, 200)
    # Neither the order of the rows nor their types may come from the order and the files of the shards.
    places = pa.array([(n * 89) % in_order.num_rows for n in range(in_order.num_rows)])
    rows = in_order.take(places).set_column(
        0, in_order.column_names[0], pc.cast(in_order[0].take(places), "large_string")
    )
    at_once, versions = feature_week.resource.historical(rows, SERVICE)
    monkeypatch.setenv("CONTRAIL_ENGINE", engine)
    monkeypatch.setenv("CONTRAIL_SHARD_ROWS", str(shard_rows))
    by_shards, read = feature_week.resource.historical(rows, SERVICE)
    assert by_shards.schema == at_once.schema
    assert by_shards.equals(at_once)
    assert read == versions
    assert not list(feature_week.resource.settings.temp_root.glob("historical-*"))


def test_an_engine_that_is_not_here_is_named(
    feature_week: FeatureWeek, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CONTRAIL_ENGINE", "ray")
    with pytest.raises(ShardError, match="CONTRAIL_ENGINE=ray needs the optional extra"):
        feature_week.resource.historical(feature_week.spine.slice(0, 5), SERVICE)


def test_training_rows_say_when_what_was_looked_up_for_them_was_known(
    feature_week: FeatureWeek, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Against a count of each table by itself, for rows with all, with some, and with no stored row."""
    lake, rows = Lake(feature_week.lake_root), sample(feature_week.spine, 60).to_pylist()
    unseen: dict[str, Any] = dict.fromkeys(("network", "carrier", "origin", "dest"), "nowhere")
    rows.append(rows[-1] | unseen | {"departure_id": "unseen", "flight_number": 0, "tail_number": None})
    spine = pa.Table.from_pylist(rows, feature_week.spine.schema)
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
    feature_week.resource.write_historical("model/plain", "FROM asked", SERVICE, columns=columns, **options)
    done = feature_week.resource.write_historical(
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
    assert cells(found, ("departure_id", "features_known_at")) == expected
    known = dict(expected)
    assert known.pop("unseen") is None
    assert None not in known.values()


def test_a_version_counts_from_when_it_was_created(feature_week: FeatureWeek) -> None:
    """A version that came after its instant is known as late as it came, and the row says so."""
    lake, row = Lake(feature_week.lake_root), sample(feature_week.spine, 1).slice(0, 1)
    decided = row["decision_at"][0].as_py()
    path = str(feature_week.lake_root / "feature" / "origin_state")
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
        feature_week.resource.write_historical(
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
