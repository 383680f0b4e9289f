"""The join in time shards: the same rows however it is cut, mapped and disturbed; one commit."""

from __future__ import annotations

import itertools
import multiprocessing
import os
from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import duckdb
import pyarrow as pa
import pyarrow.parquet as parquet
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from contrail import duck
from contrail.asof_join import JoinView, point_in_time_join
from contrail.asof_shards import (
    FileSpec,
    FinishSpec,
    JoinSpec,
    SpineSpec,
    inputs_of,
    join_by_shards,
    join_into_table,
    join_spec,
    read_files,
    spine_shards,
    write_shard,
)
from contrail.commits import Written, file_sha256
from contrail.fingerprint import row_fingerprint
from contrail.lake import Commit, Lake
from contrail.shards import Means, Shard, ShardError

T0 = datetime(2013, 3, 10, tzinfo=UTC)
US = timedelta(microseconds=1)
HOUR = timedelta(hours=1)
MAX_AGE = timedelta(hours=3)
STAMP = pa.timestamp("us", tz="UTC")
HERE = "tests.unit.test_asof_shards"

SPINE, KEYED, KEYLESS, TARGET = "clean/asked", "feature/keyed", "feature/keyless", "model/joined"
VIEWS = (
    (
        JoinView("keyed", "", {"key": "key"}, "ts", "created", MAX_AGE, (("value", "a"), ("other", "b"))),
        KEYED,
    ),
    (JoinView("keyless", "", {}, "ts", None, None, (("value", "c"),)), KEYLESS),
)


def _asked(rows: Sequence[tuple[int, str | None, datetime | None]]) -> pa.Table:
    number, key, at = zip(*rows, strict=True)
    return pa.table(
        {
            "number": pa.array(number, pa.int64()),
            "key": pa.array(key, pa.string()),
            "decided": pa.array(at, STAMP),
        }
    )


def _keyed(rows: Sequence[tuple[str, datetime, datetime, int]]) -> pa.Table:
    key, ts, created, value = zip(*rows, strict=True)
    return pa.table(
        {
            "key": pa.array(key, pa.string()),
            "ts": pa.array(ts, STAMP),
            "created": pa.array(created, STAMP),
            "value": pa.array(value, pa.int64()),
            "other": pa.array([v / 7 for v in value], pa.float64()),
        }
    )


ALL = "SELECT number, key, decided FROM asked"


@dataclass(frozen=True)
class World:
    lake: Lake
    temp: Path
    rows: int = 1
    whole: str = ""
    """The fingerprint of the join in one piece, without any of the machinery under test."""

    def means(self, shards: int = 1, engine: str = "local", threads: int = 1) -> Means:
        return Means(engine, 2, threads, "300MB", -(-self.rows // shards), self.temp / "spill")

    def spec(self, means: Means, sql: str = ALL, **changes: Any) -> JoinSpec:
        asked = {
            "lake_root": self.lake.root,
            "spine": SpineSpec(sql=sql, tables={"asked": f"{SPINE}@v1"}, files={}),
            "order_by": ["number"],
            "decision_column": "decided",
            "views": [(view, f"{table}@v1") for view, table in VIEWS],
            "means": means,
            "folder": self.temp / "out",
        }
        return join_spec(**(asked | changes))


def _whole(lake: Lake) -> str:
    with duck.connect() as con:
        con.sql(f"CREATE VIEW asked AS SELECT number, key, decided FROM {lake.scan(SPINE, 1)}")
        views = [replace(view, scan_sql=lake.scan(table, 1)) for view, table in VIEWS]
        joined = point_in_time_join(
            con, spine="asked", decision_column="decided", row_id_column="number", views=views
        )
        return _fingerprint(joined.to_arrow_table())


def _fingerprint(table: pa.Table) -> str:
    with duckdb.connect() as con:  # without the delta reader, which takes time to load
        con.execute("SET TimeZone = 'UTC'")
        con.register("made", table)
        return row_fingerprint(con, "made")


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> World:
    """Decisions every 20 minutes of three days, many at one instant, some without key or time; views with ties,
    corrections on time and late, and rows exactly at the limits of age. Read only."""
    folder = tmp_path_factory.mktemp("world")
    lake = Lake(folder / "lake")
    asked: list[tuple[int, str | None, datetime | None]] = []
    keyed: list[tuple[str, datetime, datetime, int]] = []
    for step in range(3 * 72):
        at = T0 + step * timedelta(minutes=20)
        asked += [(0, "a", at), (0, "b", at), (0, "a", at)]
        if step % 5 == 0:
            asked += [(0, None, at), (0, "nobody", at), (0, "b", at + US), (0, "a", at - US)]
        if step % 9 == 0:
            keyed += [
                ("a", at, at, step),
                ("a", at, at, step + 1_000),
                ("b", at - MAX_AGE, at - MAX_AGE, step),
            ]
            keyed += [("a", at, at + 5 * HOUR, -step), ("b", at - MAX_AGE, at - HOUR, -step)]
    asked += [(0, "a", None), (0, None, None)]
    # Numbered against the order of time, so that the order of a file is seen to be its row ids'.
    rows = [(len(asked) - i, key, at) for i, (_, key, at) in enumerate(asked)]
    world_rows = [("", T0 + i * timedelta(hours=11), T0, i) for i in range(6)]
    for table, data in (
        (SPINE, _asked(rows)),
        (KEYED, _keyed(keyed)),
        (KEYLESS, _keyed(world_rows).select(["ts", "value"])),
    ):
        lake.create(table, data.schema)
        assert lake.append(table, data, Commit(table, "run-0", ())) == 1
    return World(lake, folder, len(asked), _whole(lake))


def test_the_world_has_something_to_get_wrong(world: World) -> None:
    made = read_files(spec := world.spec(world.means()), join_by_shards(spec, world.means()))
    assert made.column_names == ["number", "key", "decided", "a", "b", "c"]
    assert made.num_rows == world.rows
    assert made["number"].to_pylist() == sorted(made["number"].to_pylist())
    assert 100 < made["a"].null_count < made.num_rows - 100
    assert len(set(made["a"].to_pylist())) > 40
    assert min(v for v in made["a"].to_pylist() if v is not None) < 0, "a correction counts at last"


@pytest.mark.parametrize(
    ("engine", "shards", "threads"),
    [
        *[("local", shards, threads) for shards in (1, 2, 7) for threads in (1, 2)],
        ("local", 36, 1),
        *[("processes", shards, threads) for shards, threads in ((1, 2), (2, 1), (7, 1), (36, 2))],
    ],
)
def test_the_same_rows_for_any_number_of_shards(world: World, engine: str, shards: int, threads: int) -> None:
    means = world.means(shards, engine, threads)
    spec = world.spec(means)
    written = join_by_shards(spec, means)
    assert len(written) == shards
    assert _fingerprint(read_files(spec, written)) == world.whole
    assert not list((world.temp / "spill").iterdir())
    assert sorted(p.name for p in Path(spec["folder"]).glob(f"{spec['job']}-*")) == sorted(
        file.path for file in written
    )
    for file in written:
        path = Path(spec["folder"]) / file.path
        assert (file.sha256, file.size_bytes) == (file_sha256(path), path.stat().st_size)


def test_a_shard_is_the_same_file_for_any_number_of_threads_and_memory(world: World) -> None:
    shas: set[str] = set()
    for threads, memory in ((1, "300MB"), (2, "300MB"), (2, "2GB")):
        means = Means("local", 1, threads, memory, 10**6, world.temp / "spill")
        shas |= {file.sha256 for file in join_by_shards(world.spec(means), means)}
    assert len(shas) == 1


@settings(max_examples=6, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(cuts=st.sets(st.integers(1, 215), max_size=4), shift=st.sampled_from([-1, 0, 1]))
def test_cuts_on_and_beside_the_decisions_change_nothing(world: World, cuts: set[int], shift: int) -> None:
    instants = [T0 + cut * timedelta(minutes=20) + shift * US for cut in sorted(cuts)]
    ends = [T0 - HOUR, *instants, T0 + timedelta(days=4)]
    spec = world.spec(world.means())
    written = [write_shard(spec, Shard(i, lo, hi)) for i, (lo, hi) in enumerate(itertools.pairwise(ends))]
    assert _fingerprint(read_files(spec, written)) == world.whole


def test_a_shard_takes_its_beginning_and_leaves_its_end(tmp_path: Path) -> None:
    lake = Lake(tmp_path / "lake")
    lo, hi = T0, T0 + HOUR
    asked = [(1, "a", lo - US), (2, "a", lo), (3, "b", lo), (4, "a", hi - US), (5, "a", hi), (6, "a", None)]
    # `a` is exactly at the limit of age at `lo`, `b` one microsecond beyond it.
    keyed = [("a", lo - MAX_AGE, lo - MAX_AGE, 1), ("b", lo - MAX_AGE - US, lo - MAX_AGE - US, 2)]
    keyed += [("a", hi, hi, 3), ("a", hi - US, hi, 4)]
    for table, data in ((SPINE, _asked(asked)), (KEYED, _keyed(keyed))):
        lake.create(table, data.schema)
        lake.append(table, data, Commit(table, "run-0", ()))
    world = World(lake, tmp_path)
    spec = world.spec(world.means(), views=[(VIEWS[0][0], f"{KEYED}@v1")])

    def made(shard: Shard) -> list[tuple[int, int | None]]:
        table = read_files(spec, [write_shard(spec, shard)])
        return list(zip(table["number"].to_pylist(), table["a"].to_pylist(), strict=True))

    assert made(Shard(1, lo, hi)) == [(2, 1), (3, None), (4, None)]
    assert made(Shard(2, hi, hi + HOUR)) == [(5, 3)]
    assert made(Shard(0, lo - HOUR, lo)) == [(1, 1), (6, None)], "the first has the undecided rows"


def test_pinned_versions_answer_while_others_write(tmp_path: Path, world: World) -> None:
    lake = Lake(tmp_path / "lake")
    for table in (SPINE, KEYED, KEYLESS):
        with duck.connect() as con:
            data = con.sql(
                f"SELECT * EXCLUDE (_written_at, _run_id) FROM {world.lake.scan(table, 1)}"
            ).to_arrow_table()
        lake.create(table, data.schema)
        lake.append(table, data, Commit(table, "run-0", ()))
    ours = World(lake, tmp_path)
    spec = ours.spec(ours.means())
    shards, rows = spine_shards(spec, -(-world.rows // 3))
    written: list[Written] = []
    for shard in shards:
        written.append(write_shard(spec, shard))
        lake.append(SPINE, _asked([(-shard.index, "a", shard.lo)]), Commit(SPINE, "run-1", ()))
        lake.append(KEYED, _keyed([("b", shard.hi, T0, 99)]), Commit(KEYED, "run-1", ()))
    made = read_files(spec, written)
    assert (len(shards), made.num_rows) == (3, rows)
    assert _fingerprint(made) == world.whole


# --- into a table ---------------------------------------------------------------------------------------------------


def doubled(rows: pa.Table, poison: list[str]) -> pa.Table:
    """Adds a column; while the file `poison` is there, ends the process that works on the first row of all."""
    if Path(poison[0]).exists() and 1 in rows["number"].to_pylist():
        os._exit(3)
    twice = pa.array([None if v is None else 2 * v for v in rows["a"].to_pylist()], pa.int64())
    return rows.append_column("twice", twice)


def _commit(transaction: str | None = None) -> Commit:
    return Commit(TARGET, "run-7", ("sha256:ab",), transaction=transaction, extra={"k": "v"})


def _files(lake: Lake) -> set[str]:
    return {p.name for p in Path(lake.uri(TARGET)).glob("*") if p.is_file()}


def test_a_killed_worker_commits_nothing_and_a_second_run_commits_once(world: World, tmp_path: Path) -> None:
    lake = Lake(tmp_path / "target")
    poison = tmp_path / "poison"
    poison.touch()
    means = world.means(3, "processes")
    finish = FinishSpec(function=f"{HERE}:doubled", arguments={"poison": [str(poison)]})

    def run() -> Any:
        spec = world.spec(means, finish=finish, columns=["number", "decided", "twice", "a"])
        return join_into_table(lake, TARGET, spec, means, _commit("job-1"))

    with pytest.raises(ShardError, match=r"shard \d \[2013-.*its worker ended with exit code 3"):
        run()
    assert not lake.exists(TARGET)
    assert _files(lake) == set()
    assert not list((world.temp / "spill").iterdir())
    assert multiprocessing.active_children() == []
    poison.unlink()
    joined = run()
    assert (joined.version, joined.rows, joined.shards) == (1, world.rows, 3)
    assert run().version == 1, "the same job once more"
    record = lake.commits(TARGET)[-1]
    assert (record.version, record.run_id, record.extra) == (1, "run-7", {"k": "v", "shards": "3"})
    assert (
        record.inputs
        == joined.inputs
        == tuple(sorted([f"{SPINE}@v1", f"{KEYED}@v1", f"{KEYLESS}@v1", "sha256:ab"]))
    )
    assert lake.schema(TARGET).names == ["number", "decided", "twice", "a", "_written_at", "_run_id"]
    with duck.connect() as con:
        found = con.sql(
            f"SELECT count(*), count(DISTINCT number), count(a), count(*) FILTER (twice = 2 * a), "
            f"count(*) FILTER (_run_id = 'run-7') FROM {lake.scan(TARGET)}"
        ).fetchone()
    assert found is not None
    assert found[:2] == (world.rows, world.rows)
    assert found[2] == found[3] > 100
    assert found[4] == world.rows


def test_a_second_job_replaces_the_first_ones_rows(world: World, tmp_path: Path) -> None:
    lake = Lake(tmp_path / "target")
    for sql, shards in ((ALL, 2), (f"{ALL} WHERE number <= 10", 1)):
        means = world.means(shards)
        join_into_table(lake, TARGET, world.spec(means, sql), means, _commit())
    with duck.connect() as con:
        assert con.sql(f"SELECT count(*) FROM {lake.scan(TARGET)}").fetchone() == (10,)
        assert con.sql(f"SELECT count(*) FROM {lake.scan(TARGET, 1)}").fetchone() == (world.rows,)


def test_a_table_of_another_shape_is_left_as_it_is(world: World, tmp_path: Path) -> None:
    lake = Lake(tmp_path / "target")
    lake.create(TARGET, pa.schema([("number", pa.int64())]))
    before = _files(lake)
    with pytest.raises(RuntimeError, match="exists with other columns"):
        join_into_table(lake, TARGET, world.spec(world.means()), world.means(), _commit())
    assert (lake.version(TARGET), _files(lake)) == (0, before)


# --- what a spec may say --------------------------------------------------------------------------------------------


def test_a_spine_of_a_file_is_the_file_that_was_named(world: World, tmp_path: Path) -> None:
    with duck.connect() as con:
        rows = con.sql(f"SELECT number, key, decided FROM {world.lake.scan(SPINE, 1)}").to_arrow_table()
    path = tmp_path / "spine.parquet"
    parquet.write_table(rows, path)
    named = FileSpec(path=str(path), sha256=file_sha256(path))
    spine = SpineSpec(sql="SELECT * FROM spine", tables={}, files={"spine": named})
    means = world.means(2)
    spec = world.spec(means, spine=spine)
    assert _fingerprint(read_files(spec, join_by_shards(spec, means))) == world.whole
    assert f"sha256:{named['sha256']}" in inputs_of(spec)
    parquet.write_table(rows.slice(1), path)
    with pytest.raises(ShardError, match="is not the one of sha256"):
        join_by_shards(spec, means)


def test_several_columns_can_make_the_order(world: World) -> None:
    means = world.means()
    spec = world.spec(means, order_by=["key", "number"])
    made = read_files(spec, join_by_shards(spec, means))
    assert made.column_names == ["number", "key", "decided", "a", "b", "c"]
    with duckdb.connect() as con:
        con.execute("SET TimeZone = 'UTC'")
        con.register("made", made)
        assert con.sql("FROM made ORDER BY key, number").to_arrow_table().equals(made)
    assert _fingerprint(made) == world.whole


def test_rows_without_a_decision_time_are_joined_with_nothing(world: World) -> None:
    means = world.means()
    spec = world.spec(means, f"{ALL} WHERE decided IS NULL")
    made = read_files(spec, join_by_shards(spec, means))
    assert [made[name].to_pylist() for name in ("decided", "a", "c")] == [[None, None]] * 3
    nobody = world.spec(means, f"{ALL} WHERE false")
    assert join_by_shards(nobody, means) == []
    with pytest.raises(ShardError, match="model/joined: the spine has no rows"):
        join_into_table(world.lake, TARGET, nobody, means, _commit())


def test_wrong_specs_are_named(world: World) -> None:
    means = world.means()
    spec = world.spec(means, views=[(VIEWS[0][0], KEYED)])
    with pytest.raises(ShardError, match=r"names its version, stage/name@v3, and 'feature/keyed' does not"):
        join_by_shards(spec, means)
    spec = world.spec(means, finish=FinishSpec(function=f"{HERE}:missing", arguments={}))
    with pytest.raises(ShardError, match=rf"there is no function '{HERE}:missing'"):
        join_by_shards(spec, means)
    ray = world.means(1, "ray")
    with pytest.raises(ShardError, match="CONTRAIL_ENGINE=ray needs the optional extra"):
        join_by_shards(world.spec(ray), ray)
    spec = world.spec(means, f"{ALL} WHERE random() < 0.5")
    with pytest.raises(ShardError, match="does the spine's query give the same rows every time"):
        join_by_shards(spec, means)
    assert not list((world.temp / "out").glob(f"{spec['job']}-*"))
