"""Shards: how a span of time is cut, and what mapping a step over the pieces promises."""

from __future__ import annotations

import itertools
import multiprocessing
import os
import signal
from datetime import UTC, date, datetime, timedelta, timezone
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from contrail.commits import Written
from contrail.settings import Settings
from contrail.shards import Means, Shard, ShardError, map_shards, memory_bytes, plan

LO = datetime(2013, 3, 1, 6, tzinfo=UTC)
FIRST = LO.date()


def _days(rows: list[int]) -> tuple[dict[date, int], datetime]:
    """Rows of days from `LO` on, and an end inside the last of them."""
    last = datetime(2013, 3, 1, 18, tzinfo=UTC) + timedelta(days=len(rows) - 1)
    return {FIRST + timedelta(days=i): n for i, n in enumerate(rows)}, last


# --- plan -----------------------------------------------------------------------------------------------------------


@given(st.lists(st.integers(0, 5_000), min_size=1, max_size=40), st.integers(1, 6_000))
def test_a_plan_covers_the_span_without_gap_or_overlap(rows: list[int], shard_rows: int) -> None:
    by_day, hi = _days(rows)
    shards = plan(LO, hi, by_day, shard_rows)
    assert (shards[0].lo, shards[-1].hi) == (LO, hi)
    assert [shard.index for shard in shards] == list(range(len(shards)))
    assert all(shard.lo < shard.hi for shard in shards)
    assert all(one.hi == other.lo for one, other in itertools.pairwise(shards))
    assert len(shards) == max(1, -(-sum(rows) // shard_rows))
    shuffled = dict(sorted(by_day.items(), reverse=True))
    assert plan(LO, hi, shuffled, shard_rows) == shards


def test_shards_hold_about_as_many_rows_as_asked() -> None:
    by_day, hi = _days([0, 100, 300, 0, 100, 100])
    shards = plan(LO, hi, by_day, 200)
    third = datetime(2013, 3, 3, tzinfo=UTC)
    assert [shard.lo for shard in shards] == [LO, third + timedelta(hours=8), third + timedelta(days=1)]
    assert plan(LO, hi, by_day, 600) == (Shard(0, LO, hi),)
    assert plan(LO, hi, {}, 10) == (Shard(0, LO, hi),)


def test_a_span_too_short_for_its_rows_has_a_shard_per_microsecond() -> None:
    hi = LO + timedelta(microseconds=3)
    assert [shard.lo for shard in plan(LO, hi, {FIRST: 1_000}, 10)] == [
        LO + timedelta(microseconds=i) for i in range(3)
    ]


def test_a_plan_is_in_utc_whatever_the_zone_of_its_span() -> None:
    here = timezone(timedelta(hours=-5))
    by_day, hi = _days([10, 20, 30])
    assert plan(LO.astimezone(here), hi.astimezone(here), by_day, 20) == plan(LO, hi, by_day, 20)
    assert plan(LO.astimezone(here), hi, by_day, 20)[0].lo.tzinfo is UTC


def test_impossible_plans_are_refused() -> None:
    hi = LO + timedelta(hours=1)
    with pytest.raises(ShardError, match="no span of time"):
        plan(hi, LO, {}, 10)
    with pytest.raises(ShardError, match="no span of time"):
        plan(LO.replace(tzinfo=None), hi.replace(tzinfo=None), {}, 10)
    with pytest.raises(ShardError, match="at least 1 row, not 0"):
        plan(LO, hi, {}, 0)
    with pytest.raises(ShardError, match="7 rows on 2013-03-02, which is outside"):
        plan(LO, hi, {date(2013, 3, 2): 7}, 10)


# --- what a worker may use ------------------------------------------------------------------------------------------


def test_memory_sizes() -> None:
    assert memory_bytes("4GB") == 4_000_000_000
    assert memory_bytes(" 1.5 gib ") == 3 * 2**29
    assert memory_bytes("200MB") == 200_000_000
    assert memory_bytes("77B") == 77
    for wrong in ("", "4", "GB", "80%", "4 XB"):
        with pytest.raises(ShardError, match="not a memory size"):
            memory_bytes(wrong)


def test_workers_share_what_one_process_may_use(tmp_path: Path) -> None:
    local = Means.of(Settings(home=tmp_path, memory_limit="1200MB", threads=2, workers=4))
    assert (local.workers, local.threads, local.memory_limit, local.shard_rows) == (
        1,
        2,
        "1200000000B",
        1_000_000,
    )
    several = Means.of(
        Settings(home=tmp_path, engine="processes", memory_limit="1200MB", threads=2, workers=4)
    )
    assert (several.workers, several.threads, several.memory_limit) == (4, 1, "300000000B")
    assert several.shard_rows == 250_000
    told = Settings(home=tmp_path, engine="processes", worker_memory="1GB", shard_rows=77)
    assert (Means.of(told).memory_limit, Means.of(told).shard_rows) == ("1000000000B", 77)
    assert Means.of(Settings(home=tmp_path, memory_limit="1TB")).shard_rows == 3_000_000


# --- map ------------------------------------------------------------------------------------------------------------

SHARDS = [Shard(i, LO + timedelta(hours=i), LO + timedelta(hours=i + 1)) for i in range(5)]


def note(spec: Any, shard: Shard) -> Written:
    """A step that does what the spec says at one shard, else says where it ran."""
    if shard.index == spec.get("poisoned"):
        if spec["how"] == "exit":
            os._exit(7)
        if spec["how"] == "kill":
            os.kill(os.getpid(), signal.SIGKILL)
        raise LookupError("nothing under this stone")
    return Written(f"{shard.index}-{spec['name']}-{os.getpid()}", shard.index, 0, "")


def test_both_engines_answer_in_the_order_of_the_shards() -> None:
    here = map_shards(note, {"name": "x"}, SHARDS, engine="local")
    there = map_shards(note, {"name": "x"}, SHARDS, engine="processes", workers=2)
    for answers in (here, there):
        assert [one.rows for one in answers] == [0, 1, 2, 3, 4]
        assert [one.path.split("-")[:2] for one in answers] == [[str(i), "x"] for i in range(5)]
    assert {one.path.split("-")[2] for one in here} == {str(os.getpid())}
    pids = {one.path.split("-")[2] for one in there}
    assert len(pids) == 2
    assert str(os.getpid()) not in pids
    assert map_shards(note, {}, [], engine="processes") == []
    assert multiprocessing.active_children() == []


@pytest.mark.parametrize(
    ("engine", "how", "said"),
    [
        ("local", "raise", "LookupError: nothing under this stone"),
        ("processes", "raise", "LookupError: nothing under this stone"),
        ("processes", "exit", "its worker ended with exit code 7. Nothing was committed"),
        ("processes", "kill", "was killed by signal 9; if the system ran out of memory"),
    ],
)
def test_a_failure_names_its_shard_and_leaves_no_worker(engine: str, how: str, said: str) -> None:
    spec = {"name": "x", "poisoned": 3, "how": how}
    with pytest.raises(ShardError) as raised:
        map_shards(note, spec, SHARDS, engine=engine, workers=2)
    assert str(raised.value).startswith("shard 3 [2013-03-01T09:00:00+00:00, 2013-03-01T10:00:00+00:00)")
    assert said in str(raised.value)
    if how == "raise":
        shown = "".join(getattr(raised.value, "__notes__", [])) + repr(raised.value.__cause__)
        assert "LookupError" in shown
    assert multiprocessing.active_children() == []


def test_what_cannot_be_sent_is_refused() -> None:
    with pytest.raises(ShardError, match="must be data that JSON can hold"):
        map_shards(note, {"at": LO}, SHARDS, engine="local")

    def inner(spec: Any, shard: Shard) -> Written:
        return note(spec, shard)

    with pytest.raises(ShardError, match=r"there is no function '.*inner'"):
        map_shards(inner, {"name": "x"}, SHARDS, engine="processes")


def test_an_engine_of_several_machines_is_named_as_an_extra() -> None:
    with pytest.raises(ShardError, match=r"CONTRAIL_ENGINE=ray needs the optional extra contrail\[ray\]"):
        map_shards(note, {"name": "x"}, SHARDS, engine="ray")
