"""The point-in-time join against a brute-force oracle."""

from __future__ import annotations

import random
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any

import pyarrow as pa
import pytest

from contrail import duck
from contrail.asof_join import JoinView, Rows, point_in_time_join

T0 = datetime(2013, 3, 10, 6, 30, tzinfo=UTC)
US = timedelta(microseconds=1)
STAMP = pa.timestamp("us", tz="UTC")


@dataclass(frozen=True)
class Row:
    case: int
    key: str | None
    ts: datetime | None
    created: datetime | None
    value: int | None


def _table(rows: list[Row]) -> pa.Table:
    return pa.table(
        {
            "case": pa.array([r.case for r in rows], pa.int64()),
            "key": pa.array([r.key for r in rows], pa.string()),
            "ts": pa.array([r.ts for r in rows], STAMP),
            "created": pa.array([r.created for r in rows], STAMP),
            "value": pa.array([r.value for r in rows], pa.int64()),
        }
    )


def _oracle(
    rows: list[Row],
    case: int,
    key: str | None,
    at: datetime | None,
    max_age: timedelta | None,
    *,
    knowledge_time: bool,
    keyless: bool,
) -> int | None:
    low = datetime.min.replace(tzinfo=UTC)
    best: tuple[Any, ...] | None = None
    for row in rows:
        if row.case != case or row.ts is None or at is None:
            continue
        if not keyless and (key is None or row.key != key):
            continue
        visible = max(row.ts, row.created or row.ts) if knowledge_time else row.ts
        if visible > at:
            continue
        rank = (row.ts, row.created or low, row.value is not None, row.value or 0)
        if best is None or rank > best[0]:
            best = (rank, row)
    if best is None or at is None:
        return None
    newest: Row = best[1]
    assert newest.ts is not None
    return None if max_age and at - newest.ts > max_age else newest.value


def _case(
    rnd: random.Random, case: int, max_age: timedelta | None
) -> tuple[list[Row], list[tuple[Any, Any]]]:
    """A few rows and spine points crowded onto the same instants, keys and age limits."""
    edge = max_age or timedelta(hours=1)
    steps = [
        timedelta(0),
        US,
        -US,
        edge,
        edge + US,
        edge - US,
        timedelta(minutes=15),
        timedelta(days=1),
        2 * edge,
    ]
    keys = ["a", "b", None]

    def moment() -> datetime:
        return T0 + rnd.choice(steps) + rnd.choice(steps) * rnd.choice([0, 1, -1])

    rows: list[Row] = []
    for _ in range(rnd.randrange(0, 7)):
        ts = None if rnd.random() < 0.05 else moment()
        late = rnd.choice([timedelta(0), US, timedelta(minutes=15), edge, -timedelta(minutes=1)])
        created = None if ts is None or rnd.random() < 0.2 else ts + late
        rows.append(Row(case, rnd.choice(keys), ts, created, rnd.choice([1, 2, 3, None])))
    points = [(rnd.choice([*keys, "unknown"]), None if rnd.random() < 0.1 else moment()) for _ in range(4)]
    points.append(points[0])  # duplicates stay duplicates
    times = [(row.key, row.ts) for row in rows if row.ts is not None]
    points += [(key, ts + edge + rnd.choice([timedelta(0), US, -US])) for key, ts in times]
    return rows, points


@pytest.mark.parametrize("knowledge_time", [True, False])
@pytest.mark.parametrize(
    "max_age", [None, US, timedelta(seconds=1), timedelta(days=3)], ids=["ever", "1us", "1s", "3d"]
)
def test_join_equals_brute_force(max_age: timedelta | None, knowledge_time: bool) -> None:
    rnd = random.Random(f"{max_age}{knowledge_time}")
    rows: list[Row] = []
    points: list[tuple[int, str | None, datetime | None]] = []
    for case in range(400):
        more, spots = _case(rnd, case, max_age)
        rows += more
        points += [(case, key, at) for key, at in spots]
    rnd.shuffle(points)
    spine = pa.table(
        {
            "number": pa.array(range(len(points)), pa.int64()),
            "case": pa.array([p[0] for p in points], pa.int64()),
            "key": pa.array([p[1] for p in points], pa.string()),
            "at": pa.array([p[2] for p in points], STAMP),
        }
    )
    con = duck.connect()
    con.execute("SET preserve_insertion_order = false")
    con.register("spine", spine)
    con.register("rows", _table(rows))
    common = {"scan_sql": "rows", "event_column": "ts", "created_column": "created", "max_age": max_age}
    views = [
        JoinView(name="keyed", keys={"case": "case", "key": "key"}, features=(("value", "keyed"),), **common),
        JoinView(name="keyless", keys={"case": "case"}, features=(("value", "keyless"),), **common),
    ]
    joined = point_in_time_join(
        con,
        spine="spine",
        decision_column="at",
        row_id_column="number",
        views=views,
        knowledge_time=knowledge_time,
    ).to_arrow_table()
    assert joined.column_names == ["number", "case", "key", "at", "keyed", "keyless"]
    assert joined["number"].to_pylist() == list(range(len(points)))
    for name, keyless in (("keyed", False), ("keyless", True)):
        by_case: dict[int, list[Row]] = {}
        for row in rows:
            by_case.setdefault(row.case, []).append(row)
        expected = [
            _oracle(by_case.get(c, []), c, k, at, max_age, knowledge_time=knowledge_time, keyless=keyless)
            for c, k, at in points
        ]
        assert joined[name].to_pylist() == expected
    assert sum(value is not None for value in joined["keyed"].to_pylist()) > 100


def test_latest_rows_are_the_join_at_the_end() -> None:
    rnd = random.Random(7)
    rows = [row for case in range(300) for row in _case(rnd, case, timedelta(hours=1))[0]]
    con = duck.connect()
    con.register("rows", _table(rows))
    sql = Rows(["case", "key"], ["value"], "ts", "created").sql("rows", start=None, end=T0, latest=True)
    latest = {(c, k): v for c, k, v in con.sql(f'SELECT "case", "key", value FROM ({sql})').fetchall()}
    for (case, key), value in latest.items():
        assert value == _oracle(rows, case, key, T0, None, knowledge_time=True, keyless=False)
    visible = {(r.case, r.key) for r in rows if r.key and r.ts and max(r.ts, r.created or r.ts) <= T0}
    assert set(latest) == visible
    assert len(latest) > 100


def test_wrong_columns_are_named() -> None:
    con = duck.connect()
    con.sql("CREATE TABLE spine AS SELECT 1 AS id, 'x' AS key, TIMESTAMPTZ '2013-01-01 00:00:00Z' AS at")
    con.sql("CREATE TABLE rows AS SELECT 7 AS key, TIMESTAMPTZ '2013-01-01 00:00:00Z' AS ts, 1 AS value")

    def join(spine_key: str, view_column: str, output: str) -> Any:
        view = JoinView("prices", "rows", {spine_key: "key"}, "ts", None, None, ((view_column, output),))
        return point_in_time_join(con, spine="spine", decision_column="at", row_id_column="id", views=[view])

    with pytest.raises(TypeError, match=r"'key' is VARCHAR.*'prices' is INTEGER"):
        join("key", "value", "value")
    with pytest.raises(ValueError, match=r"'prices' lacks the columns \['nothing'\]"):
        join("id", "nothing", "value")
    with pytest.raises(ValueError, match=r"spine spine lacks the columns \['nobody'\]"):
        join("nobody", "value", "value")
    with pytest.raises(ValueError, match=r"\['key'\] are already columns"):
        join("id", "value", "key")
