"""The lake: what a write promises, and what opening a table refuses."""

from __future__ import annotations

import hashlib
import multiprocessing
import os
import signal
from datetime import UTC, date, datetime
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as parquet
import pytest
from deltalake import DeltaTable
from deltalake.exceptions import CommitFailedError

from contrail import duck
from contrail import lake as lake_module
from contrail.lake import Commit, Lake, LakeError, StaleSnapshotError, Written

TABLE = "raw/things"
SCHEMA = pa.schema([("day", pa.date32()), ("key", pa.string()), ("x", pa.float64())])


def rows(*values: tuple[int, str, float | None]) -> pa.Table:
    days = [date(2020, 1, d) for d, _, _ in values]
    return pa.table([days, [k for _, k, _ in values], [x for _, _, x in values]], schema=SCHEMA)


def commit(run_id: str = "run-1", partition: str = "", transaction: str | None = None) -> Commit:
    return Commit(TABLE, run_id, ("sha256:ab", "raw/other@v3"), partition, transaction=transaction)


@pytest.fixture
def lake(tmp_path: Path) -> Lake:
    made = Lake(tmp_path / "lake")
    made.create(TABLE, SCHEMA, partition_by=["day"], personal=["key"])
    return made


def read(lake: Lake, table: str = TABLE, version: int | None = None) -> list[tuple[object, ...]]:
    with duck.connect() as con:
        return con.execute(f"SELECT day, key, x FROM {lake.scan(table, version)} ORDER BY ALL").fetchall()


def test_every_commit_says_who_made_it_and_of_what(lake: Lake) -> None:
    lake.append(
        TABLE, rows((1, "a", 1.0)), Commit(TABLE, "run-9", ("b@v1", "a@v2"), "2020-01-01", extra={"k": "v"})
    )
    record = lake.commits(TABLE)[-1]
    assert (record.asset, record.run_id, record.partition) == (TABLE, "run-9", "2020-01-01")
    assert record.inputs == ("a@v2", "b@v1")
    assert record.extra == {"k": "v"}
    assert record.rows_added == 1
    assert record.code_version
    assert record.git_sha


def test_rows_carry_run_and_write_time_and_these_are_not_content(lake: Lake) -> None:
    lake.append(TABLE, rows((1, "a", 1.0)), commit("run-1"))
    first = lake.content_hash(TABLE)
    lake.replace_partitions(TABLE, rows((1, "a", 1.0)), commit("run-2"), where="day = '2020-01-01'")
    with duck.connect() as con:
        found = con.execute(f"SELECT _run_id, _written_at FROM {lake.scan(TABLE)}").fetchall()
    assert found[0][0] == "run-2"
    assert found[0][1].tzinfo is not None
    assert lake.content_hash(TABLE) == first


@pytest.mark.parametrize("stamps", [[], ["_run_id"], ["_run_id", "_written_at"]])
def test_a_table_made_elsewhere_gets_the_provenance_columns_that_it_has(
    tmp_path: Path, stamps: list[str]
) -> None:
    types = {"_run_id": pa.string(), "_written_at": pa.timestamp("us", "UTC")}
    made = SCHEMA
    for name in stamps:
        made = made.append(pa.field(name, types[name]))
    DeltaTable.create(tmp_path / "elsewhere" / "things", made)
    lake = Lake(tmp_path)
    version = lake.append("elsewhere/things", rows((1, "a", 1.0)), commit("run-7"))
    assert lake.schema("elsewhere/things").names == made.names
    assert read(lake, "elsewhere/things") == [(date(2020, 1, 1), "a", 1.0)]
    assert lake.commits("elsewhere/things")[version].run_id == "run-7"
    with duck.connect() as con:
        found = con.sql(f"SELECT * FROM {lake.scan('elsewhere/things')}").to_arrow_table().to_pylist()[0]
    assert [found[name] is not None for name in stamps] == [True] * len(stamps)
    assert found.get("_run_id", "run-7") == "run-7"


def test_content_hash_sees_values_nulls_and_repeats_but_not_order(lake: Lake) -> None:
    lake.append(TABLE, rows((1, "a", 1.0), (1, "b", None)), commit())
    lake.create("raw/same", SCHEMA, partition_by=["day"])
    lake.append("raw/same", rows((1, "b", None), (1, "a", 1.0)), commit())
    assert lake.content_hash(TABLE) == lake.content_hash("raw/same")
    lake.append("raw/same", rows((1, "b", None)), commit("again"))
    assert lake.content_hash(TABLE) != lake.content_hash("raw/same")
    assert lake.content_hash("raw/same", version=1) == lake.content_hash(TABLE)


def test_content_hash_is_exact_over_many_rows_in_any_order_and_number_of_files(lake: Lake) -> None:
    table = rows(*((1 + n % 28, f"key-{n}", n / 7) for n in range(5_000)))
    lake.append(TABLE, table, commit())
    shuffled = table.take(pa.array([(n * 1_237) % 5_000 for n in range(5_000)]))
    lake.create("raw/same", SCHEMA)
    for start in range(0, 5_000, 1_000):
        lake.append("raw/same", shuffled.slice(start, 1_000), commit(f"r{start}"))
    assert lake.content_hash(TABLE) == lake.content_hash("raw/same")
    assert lake.snapshot_sha256(TABLE) != lake.snapshot_sha256("raw/same")


def test_replacing_touches_only_what_it_names(lake: Lake) -> None:
    lake.append(TABLE, rows((1, "a", 1.0), (2, "b", 2.0)), commit())
    lake.replace_partitions(TABLE, rows((1, "c", 3.0)), commit("r2"), where="day = '2020-01-01'")
    assert read(lake) == [(date(2020, 1, 1), "c", 3.0), (date(2020, 1, 2), "b", 2.0)]
    lake.replace_partitions(TABLE, rows(), commit("r3"), where="day = '2020-01-01'")
    assert read(lake) == [(date(2020, 1, 2), "b", 2.0)]


def test_data_outside_the_replaced_part_is_refused(lake: Lake) -> None:
    lake.append(TABLE, rows((1, "a", 1.0)), commit())
    with pytest.raises(LakeError, match="outside the part to replace"):
        lake.replace_partitions(TABLE, rows((2, "x", 0.0)), commit("r2"), where="day = '2020-01-01'")
    assert read(lake) == [(date(2020, 1, 1), "a", 1.0)]


def test_a_partitioned_table_has_no_overwrite_of_all(lake: Lake) -> None:
    with pytest.raises(LakeError, match="overwrite of all is refused"):
        lake.replace_partitions(TABLE, rows(), commit(), where="true")


def test_a_transaction_is_written_once(lake: Lake) -> None:
    first = lake.append(TABLE, rows((1, "a", 1.0)), commit(transaction="job-1"))
    assert lake.append(TABLE, rows((1, "a", 1.0)), commit(transaction="job-1")) == first
    assert Lake(lake.root).append(TABLE, rows((1, "a", 1.0)), commit(transaction="job-1")) == first
    assert len(read(lake)) == 1
    assert lake.append(TABLE, rows((1, "a", 1.0)), commit(transaction="job-2")) > first


def test_columns_must_be_the_tables(lake: Lake) -> None:
    with pytest.raises(LakeError, match="these differ: \\['x'\\]"):
        lake.append(TABLE, rows((1, "a", 1.0)).drop_columns("x"), commit())
    with pytest.raises(LakeError, match="exists with other columns"):
        lake.create(TABLE, SCHEMA.append(pa.field("y", pa.int64())), partition_by=["day"])
    with pytest.raises(LakeError, match="exists partitioned by"):
        lake.create(TABLE, SCHEMA)


def test_merge_updates_by_key_and_adds_the_rest(lake: Lake) -> None:
    lake.append(TABLE, rows((1, "a", 1.0), (1, "b", 2.0)), commit())
    lake.merge(TABLE, rows((1, "b", 5.0), (2, "c", 6.0)), commit("r2"), on=["day", "key"])
    assert [r[1:] for r in read(lake)] == [("a", 1.0), ("b", 5.0), ("c", 6.0)]


def test_old_versions_stay_readable(lake: Lake) -> None:
    first = lake.append(TABLE, rows((1, "a", 1.0)), commit())
    lake.replace_partitions(TABLE, rows((1, "z", 9.0)), commit("r2"), where="day = '2020-01-01'")
    assert read(lake, version=first) == [(date(2020, 1, 1), "a", 1.0)]


def test_personal_columns_are_in_no_statistics(lake: Lake) -> None:
    lake.append(TABLE, rows((1, "someone", 1.0)), commit())
    log = "".join(p.read_text() for p in Path(lake.uri(TABLE), "_delta_log").glob("*.json"))
    assert "someone" not in log


def test_history_is_kept_for_ten_years(lake: Lake) -> None:
    log = (Path(lake.uri(TABLE)) / "_delta_log" / f"{0:020}.json").read_text()
    assert "interval 3650 days" in log


def test_an_emptied_log_entry_is_refused(lake: Lake) -> None:
    lake.append(TABLE, rows((1, "a", 1.0)), commit())
    lake.append(TABLE, rows((2, "b", 1.0)), commit("r2"))
    (Path(lake.uri(TABLE)) / "_delta_log" / f"{1:020}.json").write_bytes(b"")
    with pytest.raises(LakeError, match="has no bytes"):
        lake.scan(TABLE)


def test_an_unknown_reader_feature_is_refused(lake: Lake) -> None:
    entry = Path(lake.uri(TABLE)) / "_delta_log" / f"{1:020}.json"
    entry.write_text(
        '{"protocol":{"minReaderVersion":3,"minWriterVersion":7,"readerFeatures":["columnMapping"],"writerFeatures":["columnMapping"]}}\n'
    )
    with pytest.raises(LakeError, match="columnMapping"):
        lake.version(TABLE)


def test_missing_tables_and_bad_names_are_said(lake: Lake) -> None:
    with pytest.raises(LakeError, match="no table raw/nothing"):
        lake.scan("raw/nothing")
    with pytest.raises(LakeError, match="not a table name"):
        lake.uri("../elsewhere")


def _append_many(root: str, worker: int, n: int) -> None:
    for i in range(n):
        Lake(root).append(TABLE, rows((1, f"{worker}-{i}", float(i))), commit(f"w{worker}-{i}"))


def test_parallel_writers_lose_and_double_nothing(lake: Lake) -> None:
    context = multiprocessing.get_context("spawn")
    workers = [context.Process(target=_append_many, args=(str(lake.root), w, 5)) for w in range(3)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join(60)
    assert sorted(r[1] for r in read(lake)) == sorted(f"{w}-{i}" for w in range(3) for i in range(5))


def _write_for_ever(root: str, kind: str) -> None:
    lake = Lake(root)
    for i in range(10_000):
        data = pa.concat_tables([rows((1, f"{i}-{n}", float(n))) for n in range(50)])
        if kind == "append":
            lake.append(TABLE, data, commit(f"run-{i}"))
        elif kind == "replace":
            lake.replace_partitions(TABLE, data, commit(f"run-{i}"), where="day = '2020-01-01'")
        else:
            lake.merge(TABLE, data, commit(f"run-{i}"), on=["day", "key"])


@pytest.mark.parametrize("kind", ["append", "replace", "merge"])
def test_a_killed_writer_leaves_whole_commits_only(lake: Lake, kind: str) -> None:
    worker = multiprocessing.get_context("spawn").Process(target=_write_for_ever, args=(str(lake.root), kind))
    worker.start()
    while lake.version(TABLE) < 4:
        assert worker.is_alive()
    assert worker.pid is not None
    os.kill(worker.pid, signal.SIGKILL)
    worker.join()
    with duck.connect() as con:
        by_run = dict(
            con.execute(f"SELECT _run_id, count(*) FROM {lake.scan(TABLE)} GROUP BY ALL").fetchall()
        )
    assert set(by_run.values()) == {50}
    assert set(by_run) <= {record.run_id for record in lake.commits(TABLE)}
    before = lake.version(TABLE)
    assert lake.append(TABLE, rows((2, "after", 1.0)), commit("after")) == before + 1


def _finished(lake: Lake, name: str, table: pa.Table, day: str | None, into: str = TABLE) -> Written:
    stamped = table.append_column(
        "_written_at", pa.array([datetime.now(UTC)] * len(table), pa.timestamp("us", "UTC"))
    )
    stamped = stamped.append_column("_run_id", pa.array(["run-1"] * len(table)))
    partition = {"day": day} if day else {}
    path = Path(*(f"{column}={value}" for column, value in partition.items()), name)
    whole = Path(lake.uri(into)) / path
    whole.parent.mkdir(exist_ok=True)
    parquet.write_table(stamped.drop_columns(list(partition)), whole)
    content = whole.read_bytes()
    return Written(str(path), len(table), len(content), hashlib.sha256(content).hexdigest(), partition)


def test_files_of_workers_become_one_commit_written_once(lake: Lake) -> None:
    files = [
        _finished(lake, "shard-0.parquet", rows((1, "a", 1.0), (1, "b", 2.0)), "2020-01-01"),
        _finished(lake, "shard-1.parquet", rows((2, "c", 3.0)), "2020-01-02"),
    ]
    before = lake.version(TABLE)
    version = lake.commit_files(TABLE, files, commit(transaction="job-7"))
    assert version == before + 1
    assert lake.commit_files(TABLE, files, commit(transaction="job-7")) == version
    assert [r[1:] for r in read(lake)] == [("a", 1.0), ("b", 2.0), ("c", 3.0)]
    assert lake.commits(TABLE)[-1].inputs == ("raw/other@v3", "sha256:ab")


def test_files_of_workers_replace_what_was_there_in_the_same_commit(lake: Lake) -> None:
    lake.create("raw/whole", SCHEMA)
    lake.append("raw/whole", rows((1, "old", 1.0), (2, "older", 2.0)), Commit("raw/whole", "run-0", ()))
    before = lake.version("raw/whole")
    job = Commit("raw/whole", "run-1", (), transaction="job-8")
    files = [_finished(lake, "shard-0.parquet", rows((1, "a", 1.0)), None, "raw/whole")]
    assert lake.commit_files("raw/whole", files, job, replace=True) == before + 1
    assert lake.commit_files("raw/whole", files, job, replace=True) == before + 1
    assert read(lake, "raw/whole") == [(date(2020, 1, 1), "a", 1.0)]
    assert [r[1] for r in read(lake, "raw/whole", version=before)] == ["old", "older"]
    emptied = lake.commit_files("raw/whole", [], Commit("raw/whole", "run-2", ()), replace=True)
    assert (emptied, read(lake, "raw/whole")) == (before + 2, [])


def test_a_partitioned_table_is_not_replaced_whole_by_files(lake: Lake) -> None:
    file = _finished(lake, "shard-0.parquet", rows((1, "a", 1.0)), "2020-01-01")
    with pytest.raises(LakeError, match="overwrite of all is refused"):
        lake.commit_files(TABLE, [file], commit(), replace=True)
    assert read(lake) == []


def test_a_file_that_is_not_the_finished_one_is_refused(lake: Lake) -> None:
    file = _finished(lake, "shard-0.parquet", rows((1, "a", 1.0)), "2020-01-01")
    (Path(lake.uri(TABLE)) / file.path).write_bytes(b"other bytes")
    with pytest.raises(LakeError, match="not the file that was finished"):
        lake.commit_files(TABLE, [file], commit())
    assert read(lake) == []


def test_a_file_that_lacks_a_column_is_refused(lake: Lake) -> None:
    file = _finished(lake, "shard-0.parquet", rows((1, "a", 1.0)).drop_columns("x"), "2020-01-01")
    with pytest.raises(
        LakeError, match=r"shard-0.parquet are not the table's; these differ: \[\('x', 'double'\)\]"
    ):
        lake.commit_files(TABLE, [file], commit())
    assert read(lake) == []


def test_written_at_is_the_wall_clock(lake: Lake) -> None:
    lake.append(TABLE, rows((1, "a", 1.0)), commit())
    with duck.connect() as con:
        found = con.execute(f"SELECT max(_written_at) FROM {lake.scan(TABLE)}").fetchone()
    assert found is not None
    assert abs((datetime.now(UTC) - found[0]).total_seconds()) < 60


# --- compare and swap -------------------------------------------------------------------------------------------------


def test_rows_are_added_to_the_version_that_was_read_or_not_at_all(lake: Lake) -> None:
    assert lake.append_at(TABLE, rows((1, "a", 1.0)), commit(), version=0) == 1
    with pytest.raises(StaleSnapshotError, match=f"{TABLE} has changed since version 0; read it again"):
        lake.append_at(TABLE, rows((1, "b", 2.0)), commit(), version=0)
    assert read(lake) == [(date(2020, 1, 1), "a", 1.0)]
    assert lake.append_at(TABLE, rows((1, "b", 2.0)), commit("run-2"), version=1) == 2
    assert lake.commits(TABLE)[2].run_id == "run-2"


def test_a_commit_between_look_and_write_is_noticed(lake: Lake, monkeypatch: pytest.MonkeyPatch) -> None:
    written = lake_module.write_deltalake

    def too_late(*arguments: Any, **options: Any) -> None:
        monkeypatch.setattr(lake_module, "write_deltalake", written)
        lake.append(TABLE, rows((2, "first", 1.0)), commit())
        written(*arguments, **options)

    monkeypatch.setattr(lake_module, "write_deltalake", too_late)
    with pytest.raises(StaleSnapshotError, match="has changed since version 0"):
        lake.append_at(TABLE, rows((1, "second", 2.0)), commit(), version=0)
    assert read(lake) == [(date(2020, 1, 2), "first", 1.0)]


def test_an_append_only_table_keeps_its_rows(tmp_path: Path) -> None:
    lake = Lake(tmp_path)
    lake.create("trail/kept", SCHEMA, append_only=True)
    lake.append("trail/kept", rows((1, "a", 1.0)), commit())
    with pytest.raises(CommitFailedError, match="append-only"):
        lake.replace_partitions("trail/kept", rows(), commit("r2"), where="true")
    assert read(lake, "trail/kept") == [(date(2020, 1, 1), "a", 1.0)]


def test_a_small_table_is_read_with_its_version_and_without_a_session(tmp_path: Path) -> None:
    lake = Lake(tmp_path / "a folder ä")
    lake.create("trail/small", SCHEMA)
    version, table = lake.rows("trail/small")
    assert (version, table.num_rows) == (0, 0)
    lake.append("trail/small", rows((1, "a", 1.0)), commit())
    lake.append("trail/small", rows((2, "b", None)), commit("r2"))
    version, table = lake.rows("trail/small")
    assert version == 2
    assert table.column_names == [*SCHEMA.names, "_written_at", "_run_id"]
    found = sorted(table.select(SCHEMA.names).to_pylist(), key=lambda row: row["key"])
    assert [tuple(row.values()) for row in found] == read(lake, "trail/small")


def test_a_table_in_partitions_is_not_read_file_by_file(lake: Lake) -> None:
    with pytest.raises(LakeError, match=f"{TABLE} cannot be read file by file: scan it"):
        lake.rows(TABLE)
