"""Parity: one bit, one missing entity, one stale row are found; what cannot be told apart is not reported."""

from __future__ import annotations

import hashlib
import struct
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from typing import Any

import duckdb
import pytest

from contrail import duck, parity
from contrail.asof_join import JoinView
from contrail.parity import KNOWN_AT, ROW, OfflineRow, compare, compare_vectors, listed, same_bits

NOW = datetime(2013, 6, 1, 12, tzinfo=UTC)
HOUR = timedelta(hours=1)


@dataclass(frozen=True)
class Answer:
    status: str
    event_at: datetime | None
    values: Mapping[str, Any]


def next_bit(value: float) -> float:
    (bits,) = struct.unpack("<q", struct.pack("<d", value))
    return struct.unpack("<d", struct.pack("<q", bits + 1))[0]


KEYS = [{"shop": "a"}, {"shop": "b"}, {"shop": "c"}]
OFFLINE = [
    OfflineRow(NOW - HOUR, {"price": 0.1, "sold": 3, "open": True, "label": None}),
    OfflineRow(NOW - 2 * HOUR, {"price": float("nan"), "sold": 0, "open": False, "label": "x"}),
    OfflineRow(None, {"price": None, "sold": None, "open": None, "label": None}),
]
NOTHING = dict.fromkeys(OFFLINE[0].values)
ONLINE = [
    *(Answer("present", row.known_at, dict(row.values)) for row in OFFLINE[:2]),
    Answer("outside max age", NOW - 90 * HOUR, NOTHING),
]


def found(online: list[Answer], **options: Any) -> list[tuple[str, str, str, str]]:
    compared = compare("prices", KEYS, OFFLINE, online, **options)
    return [(m.column, m.entity, m.offline, m.online) for m in compared.mismatches]


@pytest.mark.parametrize(
    ("left", "right", "same"),
    [
        (None, None, True),
        (None, 0, False),
        (0.1, 0.1, True),
        (0.1, next_bit(0.1), False),
        (0.0, -0.0, False),
        (float("nan"), float("nan"), True),
        (float("nan"), None, False),
        (1, True, False),
        (1, 1.0, False),
        ("a", "a", True),
        (NOW, NOW, True),
        (NOW, NOW + timedelta(microseconds=1), False),
    ],
)
def test_values_are_the_same_only_bit_by_bit(left: Any, right: Any, same: bool) -> None:
    assert same_bits(left, right) is same
    assert same_bits(right, left) is same


def test_equal_sides_have_no_mismatch() -> None:
    compared = compare("prices", KEYS, OFFLINE, ONLINE)
    assert compared.mismatches == ()
    assert compared.differing == ()
    assert (compared.view, compared.entities, compared.values) == ("prices", 3, 8)
    assert found([*ONLINE[:2], replace(ONLINE[2], status="not found", event_at=None)]) == []


def test_one_bit_is_named_with_view_column_entity_and_both_values() -> None:
    wrong = next_bit(0.1)
    planted = replace(ONLINE[0], values={**ONLINE[0].values, "price": wrong})
    compared = compare("prices", KEYS, OFFLINE, [planted, *ONLINE[1:]])
    (mismatch,) = compared.mismatches
    assert (mismatch.view, mismatch.column, mismatch.entity) == ("prices", "price", "shop=a")
    assert mismatch.offline == "0.1 (3fb999999999999a)"
    assert mismatch.online == f"{wrong!r} (3fb999999999999b)"
    assert compared.differing == (0,)


def test_a_missing_entity_is_found() -> None:
    missing = Answer("not found", None, NOTHING)
    assert found([ONLINE[0], missing, ONLINE[2]]) == [
        (ROW, "shop=b", "a row known at 2013-06-01T10:00:00+00:00", "not found")
    ]


def test_a_row_called_too_old_is_found() -> None:
    expired = Answer("outside max age", NOW - 80 * HOUR, NOTHING)
    ((column, _, offline, online),) = found([ONLINE[0], expired, ONLINE[2]])
    assert column == ROW
    assert offline.startswith("a row known at")
    assert online == "outside max age, known at 2013-05-29T04:00:00+00:00"


def test_a_stale_row_is_found_even_where_its_values_are_right() -> None:
    stale = replace(ONLINE[0], event_at=NOW - 3 * HOUR)
    assert found([stale, *ONLINE[1:]]) == [
        (KNOWN_AT, "shop=a", "2013-06-01T11:00:00+00:00", "2013-06-01T09:00:00+00:00")
    ]
    within_a_second = replace(ONLINE[0], event_at=NOW - HOUR + timedelta(milliseconds=900))
    assert found([within_a_second, *ONLINE[1:]]) == []


def test_what_is_outside_max_age_must_not_be_served() -> None:
    served = Answer("present", NOW - 90 * HOUR, OFFLINE[0].values)
    assert found([*ONLINE[:2], served]) == [
        (ROW, "shop=c", "no row within max age", "present, known at 2013-05-28T18:00:00+00:00")
    ]


def test_a_row_that_was_pushed_ahead_of_the_table_is_counted_and_not_compared() -> None:
    pushed = Answer("present", NOW - timedelta(minutes=30), {**OFFLINE[0].values, "price": 9.0})
    built_until = NOW - timedelta(minutes=45)
    compared = compare("prices", KEYS, OFFLINE, [pushed, *ONLINE[1:]], ahead_from=built_until)
    assert (compared.mismatches, compared.entities, compared.ahead) == ((), 2, 1)
    # Without pushes there is no such excuse, and neither for a row that the table was built far enough to have.
    assert [column for column, *_ in found([pushed, *ONLINE[1:]])] == [KNOWN_AT, "price"]
    assert [column for column, *_ in found([pushed, *ONLINE[1:]], ahead_from=NOW)] == [KNOWN_AT, "price"]


def test_a_feature_that_is_not_stored_is_found() -> None:
    short = replace(ONLINE[0], values={"price": 0.1, "sold": 3, "label": None})
    assert found([short, *ONLINE[1:]]) == [("open", "shop=a", "True", "None")]


def test_personal_keys_are_not_shown() -> None:
    missing = Answer("not found", None, NOTHING)
    ((_, entity, *_),) = found([ONLINE[0], missing, ONLINE[2]], personal=frozenset({"shop"}))
    assert entity == "sha256:" + hashlib.sha256(b'{"shop": "b"}').hexdigest()[:12]
    assert found([ONLINE[0], missing, ONLINE[2]], personal=frozenset({"aisle"}))[0][1] == "shop=b"


def test_both_sides_must_answer_for_every_entity() -> None:
    with pytest.raises(ValueError, match="shorter"):
        compare("prices", KEYS, OFFLINE, ONLINE[:2])


def test_vectors_are_compared_by_the_offline_features() -> None:
    offline = [{"price": 0.1, "carton": "x"}, {"price": None, "carton": "y"}]
    same = compare_vectors("svc", [{"id": 1}, {"id": 2}], offline, offline)
    assert (same.mismatches, same.values) == ((), 4)
    other = [{"price": 0.1, "carton": "x", "more": 1}, {"price": None, "carton": "z"}]
    compared = compare_vectors("svc", [{"id": 1}, {"id": 2}], offline, other)
    (mismatch,) = compared.mismatches
    assert (mismatch.view, mismatch.column, mismatch.entity) == ("svc", "carton", "id=2")
    assert compared.differing == (1,)


def test_the_list_is_capped_and_says_how_many_more() -> None:
    nothing = [Answer("not found", None, NOTHING)] * 30
    compared = compare("prices", [{"shop": n} for n in range(30)], [OFFLINE[0]] * 30, nothing)
    shown, more = listed(compared.mismatches)
    assert (len(shown), more) == (20, 10)
    assert listed(compared.mismatches[:3]) == (compared.mismatches[:3], 0)


# --- the offline side ------------------------------------------------------------------------------------------------


@pytest.fixture
def con() -> Iterator[duckdb.DuckDBPyConnection]:
    with duck.connect() as con:
        con.execute(
            f"""CREATE TABLE prices AS
            SELECT 's' || n AS shop, n % 3 AS aisle, TIMESTAMPTZ '{NOW}' - to_hours(n::BIGINT) AS known_at,
              TIMESTAMPTZ '{NOW}' - to_hours(n::BIGINT) AS created_at, n / 7 AS price FROM range(100) t(n)
            UNION ALL SELECT 'late', 1, TIMESTAMPTZ '{NOW}' + INTERVAL 1 SECOND, TIMESTAMPTZ '{NOW}', 1.0
            UNION ALL SELECT 'unseen', 1, TIMESTAMPTZ '{NOW}', TIMESTAMPTZ '{NOW}' + INTERVAL 1 SECOND, 1.0
            UNION ALL SELECT NULL, 1, TIMESTAMPTZ '{NOW}', TIMESTAMPTZ '{NOW}', 1.0"""
        )
        yield con


VIEW = JoinView(
    name="prices",
    scan_sql="prices",
    keys={"shop": "shop", "shelf": "aisle"},
    event_column="known_at",
    created_column="created_at",
    max_age=6 * HOUR,
    features=(("price", "cost"),),
)


def test_the_sample_is_drawn_by_the_seed_and_nothing_else(con: duckdb.DuckDBPyConnection) -> None:
    first = parity.sample_entities(con, VIEW, count=20, seed=NOW, now=NOW)
    assert first == parity.sample_entities(con, VIEW, count=20, seed=NOW, now=NOW)
    assert len({entity["shop"] for entity in first}) == 20
    assert all(set(entity) == {"shop", "shelf"} for entity in first)
    con.execute("CREATE TABLE turned AS SELECT * FROM prices ORDER BY price DESC")
    assert first == parity.sample_entities(con, replace(VIEW, scan_sql="turned"), count=20, seed=NOW, now=NOW)
    other = parity.sample_entities(con, VIEW, count=20, seed=NOW + HOUR, now=NOW)
    assert first != other


def test_the_sample_holds_what_is_known_and_also_what_is_too_old(con: duckdb.DuckDBPyConnection) -> None:
    everybody = parity.sample_entities(con, VIEW, count=1_000, seed=NOW, now=NOW)
    assert {entity["shop"] for entity in everybody} == {f"s{n}" for n in range(100)}


def test_offline_rows_are_those_of_the_join(con: duckdb.DuckDBPyConnection) -> None:
    entities = [{"shop": f"s{n}", "shelf": n % 3} for n in (6, 0, 7)] + [{"shop": "nobody", "shelf": 0}]
    rows = parity.offline_rows(con, VIEW, entities, now=NOW)
    assert rows == [
        OfflineRow(NOW - 6 * HOUR, {"cost": 6 / 7}),
        OfflineRow(NOW, {"cost": 0.0}),
        OfflineRow(None, {"cost": None}),
        OfflineRow(None, {"cost": None}),
    ]
    assert parity.offline_rows(con, VIEW, [], now=NOW) == []


def test_a_view_without_keys_has_one_entity(con: duckdb.DuckDBPyConnection) -> None:
    everywhere = replace(VIEW, keys={}, scan_sql="(SELECT * FROM prices WHERE shop IN ('s3', 's5'))")
    entities = parity.sample_entities(con, everywhere, count=20, seed=NOW, now=NOW)
    assert entities == [{}]
    assert parity.offline_rows(con, everywhere, entities, now=NOW) == [
        OfflineRow(NOW - 3 * HOUR, {"cost": 3 / 7})
    ]
    assert parity.sample_entities(con, everywhere, count=20, seed=NOW, now=NOW - 9 * HOUR) == []
