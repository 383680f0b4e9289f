"""The point-in-time join against a brute-force oracle."""

from __future__ import annotations

import random
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import duckdb
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from deltalake import DeltaTable, write_deltalake

from contrail import duck
from contrail.asof_join import (
    JoinView,
    Rows,
    column_types,
    keys_and_times_sql,
    naive_columns,
    point_in_time_join,
)

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


def _daily_files(folder: Path, zone: str | None) -> str:
    """A Delta table of ten days, a file each. Of all but the third and fourth day the values cannot be read any more."""
    for day in range(10):
        at = [T0 + timedelta(days=day, hours=hour) for hour in range(24)]
        known = pa.array(at, pa.timestamp("us", "UTC")).cast(pa.timestamp("us", zone))
        rows = {"key": ["a"] * 24, "ts": known, "created": known, "value": [day * 24 + h for h in range(24)]}
        write_deltalake(str(folder), pa.table(rows), mode="append")
    for file in folder.glob("*.parquet"):
        footer = pq.read_metadata(file)
        if footer.row_group(0).column(3).statistics.max not in (71, 95):
            chunks = [footer.row_group(0).column(column) for column in range(4)]
            with file.open("r+b") as bytes_of:  # the footer with its statistics stays
                for chunk in chunks:
                    bytes_of.seek(chunk.dictionary_page_offset or chunk.data_page_offset)
                    bytes_of.write(b"\xff" * chunk.total_compressed_size)
    return f"delta_scan({duck.quote_literal(str(folder))}, version => {DeltaTable(folder).version()})"


@pytest.mark.parametrize("zone", ["UTC", None], ids=["with zone", "naive"])
def test_statistics_leave_unread_what_no_decision_time_can_see(tmp_path: Path, zone: str | None) -> None:
    scan = _daily_files(tmp_path / "daily", zone)
    con = duck.connect()
    with pytest.raises(duckdb.Error):
        con.sql(f"SELECT sum(value) FROM {scan}").fetchall()
    first, last = T0 + timedelta(days=3), T0 + timedelta(days=3, hours=23)
    con.register("spine", pa.table({"id": [0, 1], "key": ["a", "a"], "at": pa.array([first, last], STAMP)}))
    view = JoinView("daily", scan, {"key": "key"}, "ts", "created", timedelta(days=1), (("value", "value"),))
    joined = point_in_time_join(con, spine="spine", decision_column="at", row_id_column="id", views=[view])
    assert joined.to_arrow_table()["value"].to_pylist() == [72, 95]

    naive = naive_columns(column_types(con, scan))
    assert naive == (frozenset() if zone else {"ts", "created"})
    rows = Rows(["key"], ["value"], "ts", "created")
    sql = rows.sql(scan, start=first, end=last, latest=False, naive=naive)
    assert sorted(con.sql(f"SELECT value FROM ({sql})").fetchall()) == [(value,) for value in range(72, 96)]
    spine = con.sql(keys_and_times_sql(con, [view], "at", first, last)).fetchall()
    assert len(spine) == 24
    # The reader is handed the bound in the column's own type: this is what the statistics can answer.
    plan = con.sql(f"EXPLAIN {sql}").fetchall()[0][1]
    assert "CAST" not in plan
    assert "ts>=" in plan.replace(" ", "")


def test_bounds_of_naive_columns_cut_nothing_that_counts() -> None:
    """The instants at the edges: exact in every zone of the spine, and to the microsecond."""
    con = duck.connect()
    edges = [T0 + step for step in (-US, timedelta(0), US, timedelta(hours=1), timedelta(hours=1) + US)]
    for kind in ("TIMESTAMP", "TIMESTAMPTZ", "TIMESTAMP_NS", "TIMESTAMP_S", "DATE"):
        con.execute(f"CREATE OR REPLACE TABLE rows (ts {kind}, created {kind}, value INTEGER)")
        for number, at in enumerate(edges):
            con.execute("INSERT INTO rows VALUES (?, ?, ?)", [at.isoformat()] * 2 + [number])
        moments = pa.array([*edges, edges[0] - US, T0 + timedelta(days=1)], STAMP)
        for asked in (moments[:3], moments[3:4], moments):
            con.register("spine", pa.table({"id": range(len(asked)), "at": asked}))
            view = JoinView("v", "rows", {}, "ts", "created", timedelta(hours=1), (("value", "value"),))
            answer = point_in_time_join(
                con, spine="spine", decision_column="at", row_id_column="id", views=[view]
            ).to_arrow_table()["value"]
            stored = con.sql("SELECT ts::TIMESTAMPTZ, value FROM rows").fetchall()
            for at, value in zip(asked.to_pylist(), answer.to_pylist(), strict=True):
                seen = [(ts, v) for ts, v in stored if ts <= at]
                best = max(seen, default=None)
                fresh = best is not None and at - best[0] <= timedelta(hours=1)
                assert value == (best[1] if best is not None and fresh else None), (kind, at)


def test_an_age_limit_that_reaches_before_the_year_one_is_none() -> None:
    con = duck.connect()
    con.sql("CREATE TABLE spine AS SELECT 1 AS id, TIMESTAMPTZ '0005-01-01 00:00:00Z' AS at")
    con.sql("CREATE TABLE rows AS SELECT TIMESTAMP '0001-01-01 00:00:00' AS ts, 7 AS value")
    view = JoinView("v", "rows", {}, "ts", None, timedelta(days=10_000), (("value", "value"),))
    joined = point_in_time_join(con, spine="spine", decision_column="at", row_id_column="id", views=[view])
    assert joined.fetchall()[0][-1] == 7
