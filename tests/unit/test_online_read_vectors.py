"""The model's vector, online: the offline one, bit by bit, priors of unseen keys and request-time features included."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

import pyarrow as pa
import pytest

from contrail.online_layout import OnlineError
from feature_repo.online_vectors import OnlineVectors
from feature_repo.use_cases import LATE_FLIGHT_2H
from features.request_time import (
    AIRCRAFT_FEATURES,
    CATEGORICAL,
    FEATURE_ORDER,
    SCHEDULE_FEATURES,
    RequestError,
)
from features.tables import FEATURE_TABLES
from features.vectors import PRIORS, VIEW_FEATURES
from resources.feature_store import FeatureStoreResource
from tests.support.small_features import KEYS, NOW, REQUEST, ROW_AGE, make

SERVICE = LATE_FLIGHT_2H.feature_service
WEATHER = [name for name in FEATURE_ORDER if name.startswith("weather_")]


@pytest.fixture(scope="module")
def resource(tmp_path_factory: pytest.TempPathFactory) -> FeatureStoreResource:
    return make(tmp_path_factory.mktemp("home"))


@pytest.fixture(scope="module")
def vectors(resource: FeatureStoreResource) -> OnlineVectors:
    return resource.online_vectors(SERVICE)


def offline(resource: FeatureStoreResource, requests: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """The vectors of training and batch scores, for decisions made now."""
    types = pa.schema(
        [
            ("flight_number", pa.int64()),
            ("scheduled_departure_minute_local", pa.int32()),
            ("tail_number", pa.string()),
        ]
    )
    columns = {name: [request[name] for request in requests] for name in REQUEST}
    rows = pa.table(
        {
            name: pa.array(values, types.field(name).type if name in types.names else None)
            for name, values in columns.items()
        }
        | {"decision_at": pa.array([NOW] * len(requests), pa.timestamp("us", tz="UTC"))}
    )
    return resource.historical(rows, SERVICE)[0].select(list(FEATURE_ORDER)).to_pylist()


def test_a_new_carrier_has_the_same_priors_online_and_offline(resource: FeatureStoreResource) -> None:
    requests = [REQUEST, REQUEST | {"carrier": "ZZ"}, REQUEST | {"origin": "ZZZ", "tail_number": None}]
    online = resource.online(SERVICE, requests, now=NOW)
    assert [repr(dict(vector.features)) for vector in online] == [
        repr(vector) for vector in offline(resource, requests)
    ]
    known, new_carrier, new_origin = online
    of_carrier = [
        name for table in FEATURE_TABLES.values() if "carrier" in table.keys for name in table.column_names
        if name in FEATURE_ORDER
    ]  # fmt: skip
    assert len([name for name in of_carrier if name not in CATEGORICAL]) > 10
    for name in FEATURE_ORDER:
        if name in PRIORS:
            assert known.features[name] != PRIORS[name], name
        if name in CATEGORICAL:
            continue
        if name in of_carrier:
            assert new_carrier.features[name] == PRIORS[name], name
        else:
            assert new_carrier.features[name] == known.features[name], name
    for view, row in new_carrier.views.items():
        assert row.status == ("not found" if "carrier" in FEATURE_TABLES[view].keys else "present")
    # No prior stands for weather and aircraft: null, and flagged.
    for name in (*WEATHER, *AIRCRAFT_FEATURES):
        assert known.features[name] is not None or name == "aircraft_arrival_delay_minutes"
        assert new_origin.features[name] is None
    assert (
        new_origin.views["station_weather"].status == new_origin.views["aircraft_leg"].status == "not found"
    )


def test_what_is_outside_max_age_counts_as_not_there_on_both_sides(
    resource: FeatureStoreResource, vectors: OnlineVectors
) -> None:
    table = FEATURE_TABLES["station_weather"]
    later = NOW - ROW_AGE + table.max_age + timedelta(seconds=1)
    (vector,) = vectors.read([REQUEST], now=later)
    assert vector.views["station_weather"].status == "outside max age"
    assert vector.views["station_weather"].age == table.max_age + timedelta(seconds=1)
    assert {vector.features[name] for name in WEATHER} == {None}
    rows = pa.Table.from_pylist([REQUEST | {"decision_at": later}])
    expected = resource.historical(rows, SERVICE)[0].select(list(FEATURE_ORDER)).to_pylist()
    assert repr(dict(vector.features)) == repr(expected[0])


def test_ages_and_order(vectors: OnlineVectors) -> None:
    (vector,) = vectors.read([REQUEST], now=NOW)
    assert tuple(vector.features) == FEATURE_ORDER
    assert set(vector.views) == set(FEATURE_TABLES)
    assert {(row.status, row.event_at, row.age) for row in vector.views.values()} == {
        ("present", NOW - ROW_AGE, ROW_AGE)
    }
    assert vector.not_computed == ()


def test_the_one_network_need_not_be_named_and_the_decision_is_now(vectors: OnlineVectors) -> None:
    unnamed = {key: value for key, value in REQUEST.items() if key != "network"}
    first, second = vectors.read([unnamed, REQUEST | {"decision_at": NOW}], now=NOW)
    assert first == second
    assert vectors.request_columns == {
        "service_date": "DATE", "scheduled_departure_minute_local": "INTEGER", "scheduled_departure_at": "TIMESTAMPTZ",
    }  # fmt: skip


def test_a_request_without_its_columns_is_refused_or_answered_in_part(vectors: OnlineVectors) -> None:
    asked = {key: value for key, value in REQUEST.items() if key != "service_date"}
    with pytest.raises(RequestError, match="the request lacks service_date"):
        vectors.read([asked], now=NOW)
    (whole,) = vectors.read([REQUEST], now=NOW)
    (part,) = vectors.read([asked], now=NOW, partial=True)
    assert part.not_computed == (*SCHEDULE_FEATURES, *AIRCRAFT_FEATURES)
    assert dict(part.features) == {
        name: value for name, value in whole.features.items() if name not in part.not_computed
    }
    with pytest.raises(RequestError, match="has no zone"):
        vectors.read([REQUEST | {"scheduled_departure_at": NOW.replace(tzinfo=None)}], now=NOW, partial=True)


def test_a_row_that_was_known_only_later_never_enters_a_vector(vectors: OnlineVectors) -> None:
    known = NOW - ROW_AGE
    assert vectors.read([REQUEST], now=known)[0].views["origin_state"].age == timedelta(0)
    with pytest.raises(
        OnlineError,
        match=f"holds a row known at {known.isoformat()}, after the instant asked about".replace("+", r"\+"),
    ):
        vectors.read([REQUEST], now=known - timedelta(seconds=1))


def test_a_service_of_stored_features_needs_no_request(resource: FeatureStoreResource) -> None:
    from feast import FeatureService

    store = resource.store()
    store.apply(FeatureService(name="stored", features=[store.get_feature_view("origin_state")]))
    vectors = resource.online_vectors("stored")
    assert vectors.request_columns == {}
    seen, unseen = vectors.read([{"origin": "EWR"}, {"origin": "ZZZ"}], now=NOW)
    assert set(seen.features) == set(VIEW_FEATURES["origin_state"])
    assert dict(unseen.features) == {name: PRIORS[name] for name in seen.features}
    assert vectors.computed == seen.not_computed == ()


def test_many_vectors_in_one_read(vectors: OnlineVectors) -> None:
    requests = [REQUEST | {"flight_number": number} for number in range(250, 270)]
    answers = vectors.read(requests, now=NOW)
    assert [
        number
        for number, one in zip(range(250, 270), answers, strict=True)
        if one.views["flight_history"].status == "present"
    ] == [KEYS["flight_number"]]
    assert answers[9] == vectors.read([REQUEST], now=NOW)[0]
