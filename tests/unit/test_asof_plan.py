"""Joins below the memory floor: part by part, with the same answer."""

from __future__ import annotations

import itertools
import logging
import subprocess
import sys
import textwrap
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from datetime import timedelta
from pathlib import Path
from typing import Any

import duckdb
import numpy as np
import pyarrow as pa
import pytest
from deltalake import write_deltalake

from contrail import asof_plan, duck
from contrail.asof_join import JoinView
from contrail.asof_plan import PlannedJoin, PlannedQuery, merged_by_row_id
from contrail.asof_sources import AsofError
from tests.support.asof_store import FEATURES, HOUR, asked, price_store, write_prices

STAMP = pa.timestamp("us", "UTC")
START = np.datetime64("2013-03-01", "us")


def _session() -> duckdb.DuckDBPyConnection:
    """The project's settings without the Delta reader, whose loading would be most of these tests' time."""
    con = duckdb.connect()
    for statement in duck.session_settings():
        con.execute(statement)
    return con


def _times(rng: np.random.Generator, count: int) -> pa.Array:
    return pa.array(START + rng.integers(0, 10 * 86_400, count).astype("timedelta64[s]"), STAMP)


def _nullable(rng: np.random.Generator, values: np.ndarray, kind: pa.DataType) -> pa.Array:
    return pa.array(values, kind, mask=rng.random(len(values)) < 0.05)


def _join(spine_rows: int = 3_000) -> PlannedJoin:
    """Views with one key, with two (of another integer type), and with none; null keys and times, duplicates."""
    rng = np.random.default_rng(5)
    spine = pa.table(
        {
            "row": pa.array(np.arange(spine_rows) * 3),
            "k": _nullable(rng, rng.integers(0, 40, spine_rows), pa.int64()),
            "name": _nullable(rng, rng.choice(["x", "y", "z"], spine_rows), pa.string()),
            "at": _times(rng, spine_rows),
        }
    )
    rows = 2_000
    facts = pa.table(
        {
            "k": _nullable(rng, rng.integers(0, 50, rows), pa.int32()),
            "name": pa.array(rng.choice(["x", "y", "w"], rows)),
            "ts": _times(rng, rows),
            "created": _times(rng, rows),
            "v": rng.random(rows),
            "label": rng.choice(["one", "two"], rows),
        }
    )

    def load(con: duckdb.DuckDBPyConnection) -> None:
        con.register(asof_plan.SPINE, spine)
        con.register("facts", facts)

    def view(name: str, keys: dict[str, str]) -> JoinView:
        features = (("v", f"{name}_v"), ("label", f"{name}_label"))
        return JoinView(name, "facts", keys, "ts", "created", timedelta(days=2), features)

    views = [view("one", {"k": "k"}), view("two", {"k": "k", "name": "name"}), view("none", {})]
    return PlannedJoin(_session, load, "at", "row", views, knowledge_time=True, spool=None)


@dataclass
class Refusing:
    """A session factory whose first `times` sessions run out of memory: at once, or after some batches."""

    times: int
    after_batches: int | None = None
    connect: Callable[[], duckdb.DuckDBPyConnection] = _session
    opened: int = 0
    sessions: list[duckdb.DuckDBPyConnection] = field(default_factory=list)

    def __call__(self) -> Any:
        self.opened += 1
        con = self.connect()
        self.sessions.append(con)
        if self.opened > self.times:
            return con
        return _Refused(con, self.after_batches)


class _Refused:
    def __init__(self, con: duckdb.DuckDBPyConnection, after_batches: int | None) -> None:
        self._con, self._after = con, after_batches

    def __getattr__(self, name: str) -> Any:
        return getattr(self._con, name)

    def sql(self, sql: str) -> Any:
        relation = self._con.sql(sql)
        if "ORDER BY" not in sql:
            return relation
        if self._after is None:
            raise duckdb.OutOfMemoryException("Out of Memory Error: failed to pin block")
        return _Breaking(relation, self._after)


class _Breaking:
    """A relation whose stream breaks as DuckDB's do: with an OSError, as Arrow knows no other."""

    def __init__(self, relation: Any, after: int) -> None:
        self._relation, self._after = relation, after

    def to_arrow_reader(self, batch_rows: int) -> pa.RecordBatchReader:
        reader = self._relation.to_arrow_reader(batch_rows)

        def broken() -> Iterator[pa.RecordBatch]:
            yield from itertools.islice(reader, self._after)
            raise OSError("Out of Memory Error: could not allocate block")

        return pa.RecordBatchReader.from_batches(reader.schema, broken())


def _closed(con: duckdb.DuckDBPyConnection) -> bool:
    try:
        con.sql("SELECT 1")
    except duckdb.ConnectionException:
        return True
    return False


WAYS: dict[str, Callable[[PlannedJoin], pa.Table]] = {
    "table": lambda join: join.table(),
    "stream": lambda join: join.stream(500).read_all(),
}


@pytest.mark.parametrize("spooled", [True, False], ids=["in files", "in memory"])
@pytest.mark.parametrize("way", WAYS)
def test_parts_answer_like_the_whole(
    way: str, spooled: bool, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    whole = _join().table()
    assert whole.column_names[:3] == ["k", "name", "at"]
    assert 0 < whole["two_v"].null_count < whole.num_rows
    refusing = Refusing(times=2)  # the whole, and the first of 2 parts
    with caplog.at_level(logging.INFO, logger="contrail.asof_plan"):
        parted = WAYS[way](replace(_join(), session=refusing, spool=tmp_path if spooled else None))
    assert parted.combine_chunks() == whole.combine_chunks()
    assert refusing.opened == 2 + 4
    said = [record.getMessage() for record in caplog.records]
    assert [text for text in said if "in 4 parts" in text]
    assert all(_closed(con) for con in refusing.sessions)
    assert list(tmp_path.iterdir()) == []


def test_a_file_that_is_lost_under_a_stream_is_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_prices(tmp_path, ("a", 0, 0, 1.0))
    store = price_store(tmp_path)
    job = store.get_historical_features(asked(("a", HOUR)), FEATURES)

    def lost() -> Iterator[pa.RecordBatch]:
        yield job.to_arrow().to_batches()[0]
        raise OSError(f"IO Error: Cannot open file {tmp_path}/prices/part-0.parquet")

    class Lost:
        def __init__(self, relation: Any) -> None:
            self._relation = relation

        def to_arrow_reader(self, batch_rows: int) -> pa.RecordBatchReader:
            return pa.RecordBatchReader.from_batches(self._relation.to_arrow_table().schema, lost())

    whole = PlannedJoin._whole
    monkeypatch.setattr(PlannedJoin, "_whole", lambda join, con: Lost(whole(join, con)))
    reader = job.to_reader()
    monkeypatch.undo()
    assert reader.read_next_batch().num_rows == 1
    with pytest.raises(AsofError, match=r"part-0\.parquet.*was probably vacuumed"):
        reader.read_next_batch()


@pytest.mark.parametrize("batches", [0, 1, 3])
def test_a_stream_that_breaks_goes_on_where_it_stopped(batches: int) -> None:
    whole = _join().table()
    refusing = Refusing(times=1, after_batches=batches)
    parted = replace(_join(), session=refusing).stream(700).read_all()
    assert parted.combine_chunks() == whole.combine_chunks()
    assert refusing.opened == 1 + 2


def test_views_without_keys_are_split_by_row() -> None:
    join = _join()
    join = replace(join, views=join.views[-1:])
    parted = replace(join, session=Refusing(times=1)).table()
    assert parted.combine_chunks() == join.table().combine_chunks()


def test_an_all_null_key_of_no_type_is_split_too() -> None:
    at = _times(np.random.default_rng(1), 2)
    spine = pa.table({"row": [0, 1], "k": pa.array([None, None], pa.string()), "at": at})
    join = _join()

    def load(con: duckdb.DuckDBPyConnection) -> None:
        join.load(con)
        con.register(asof_plan.SPINE, spine)

    parted = replace(join, load=load, views=join.views[:1], session=Refusing(times=1)).table()
    assert parted["one_v"].to_pylist() == [None, None]


def test_what_does_not_fit_in_64_parts_says_what_to_do() -> None:
    refusing = Refusing(times=100)
    with pytest.raises(AsofError, match=r"not even in 64 parts by key: raise offline_store.memory_limit"):
        replace(_join(100), session=refusing).table()
    assert refusing.opened == 1 + len(asof_plan.PARTS)


def test_other_errors_are_not_taken_for_want_of_memory() -> None:
    join = _join(100)
    broken = replace(join.views[0], features=(("nothing", "nothing"),))
    for run in WAYS.values():
        with pytest.raises(ValueError, match=r"lacks the columns \['nothing'\]"):
            run(replace(join, views=[broken]))


def test_a_query_streams_and_says_what_breaks() -> None:
    query = PlannedQuery(_session, lambda _: "SELECT range AS i FROM range(10000) ORDER BY i")
    assert query.stream(3_000).read_all() == query.table()
    wrong = PlannedQuery(_session, lambda _: "SELECT nothing")
    with pytest.raises(duckdb.BinderException, match="nothing"):
        wrong.stream(1_000)
    breaking = PlannedQuery(
        _session, lambda _: "SELECT CASE WHEN range = 900000 THEN error('x') END FROM range(1000000)"
    )
    with pytest.raises(OSError, match="Invalid Input Error: x"):
        breaking.stream(1_000).read_all()


def test_merging_keeps_one_order_whatever_the_batches() -> None:
    rng = np.random.default_rng(9)
    owner = rng.integers(0, 5, 2_000)
    owner[owner == 3] = 4  # a part without rows
    parts = []
    for number in range(5):
        rows = pa.table({"id": np.flatnonzero(owner == number)})
        rows = rows.append_column("v", rows["id"])
        parts.append(pa.RecordBatchReader.from_batches(rows.schema, rows.to_batches(1 + 50 * number)))
    batches = list(merged_by_row_id(parts, "id", 64))
    assert [v for batch in batches for v in batch["v"].to_pylist()] == list(range(2_000))
    assert max(batch.num_rows for batch in batches) <= 64
    assert batches[0].schema.names == ["v"]


def test_a_real_join_under_the_floor_answers_the_same(tmp_path: Path) -> None:
    """In a process of its own, where DuckDB itself refuses."""
    hours = pa.array(np.tile(START + np.arange(600).astype("timedelta64[h]"), 100), STAMP)
    shops = pa.array(np.repeat(np.arange(100), 600)).cast(pa.string())
    numbers = np.arange(60_000)
    rows = {"shop": shops, "known_at": hours, "created_at": hours, "price": numbers / 7, "sold": numbers}
    write_deltalake(str(tmp_path / "prices"), pa.table(rows))
    program = f"""
        import logging, sys
        from pathlib import Path
        import numpy as np
        import pandas as pd
        import pyarrow.parquet as pq
        from tests.support.asof_store import FEATURES, open_store
        logging.basicConfig(level=logging.INFO, stream=sys.stderr)
        folder = Path({str(tmp_path)!r})
        n = np.arange(120_000)
        at = pd.Timestamp("2013-03-01", tz="UTC") + pd.to_timedelta(n % 611, "h")
        frame = pd.DataFrame({{"shop": (n % 101).astype(str), "event_timestamp": at}})
        for limit in sys.argv[1:]:
            store = open_store(folder, memory_limit=limit, threads=2, temp_directory="spill")
            answer = store.get_historical_features(frame, FEATURES).to_arrow()
            pq.write_table(answer, folder / f"{{limit}}.parquet")
    """
    price_store(tmp_path)
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(program), "20MB", "1GB"],
        cwd=Path(__file__).parents[2],
        capture_output=True,
        text=True,
        check=True,
    )
    assert "parts by key" in done.stderr
    assert (tmp_path / "20MB.parquet").read_bytes() == (tmp_path / "1GB.parquet").read_bytes()
    assert list((tmp_path / "spill").iterdir()) == []


def test_without_a_frame_parts_answer_the_same(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_prices(tmp_path, *((shop, h, h, float(h)) for shop in "abcde" for h in range(5)))
    store = price_store(tmp_path)
    start = asked(("a", 0 * HOUR))["event_timestamp"][0].to_pydatetime()

    def everything() -> pa.Table:
        job = store.get_historical_features(features=FEATURES, start_date=start, end_date=start + 4 * HOUR)
        return job.to_arrow().combine_chunks()

    whole = everything()
    refusing = Refusing(times=1, connect=duck.connect)
    monkeypatch.setattr("contrail.asof.session", lambda config: refusing())
    assert everything() == whole
    assert whole.num_rows == 25
    assert refusing.opened == 3
