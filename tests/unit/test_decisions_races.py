"""Processes that decide at the same time: one champion, no gap, no number twice, and whoever lost is told why."""

from __future__ import annotations

import multiprocessing
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor
from multiprocessing.managers import SyncManager
from pathlib import Path
from threading import Barrier
from typing import TypeVar

import pytest

from contrail import decisions, promotions, registry
from contrail.decisions import Decision, Draft
from contrail.lake import Lake
from contrail.promotions import Refused
from tests.support.decided_models import COMMIT, ask, champion_version, world
from tests.support.small_model import NOW, USE_CASE

PROCESSES = 4
APPENDS = 6
# A forked child cannot use delta-rs.
SPAWN = multiprocessing.get_context("spawn")
Result = TypeVar("Result")


def promoted_or_why(root: str, request_id: str, barrier: Barrier) -> str:
    """One process: approve, all at the same instant."""
    barrier.wait(timeout=120)
    lake = Lake(root)
    try:
        row = promotions.approve(USE_CASE, request_id, lake, by="Ada", reason="race", now=NOW, commit=COMMIT)
    except Refused as refused:
        return str(refused)
    return f"{row.event} {row.model_version}"


def appended(root: str, name: str, barrier: Barrier) -> list[tuple[int, int]]:
    """One process: several decisions in turn; (how many rows it decided upon, the number that it got)."""
    barrier.wait(timeout=120)
    lake = Lake(root)
    got: list[tuple[int, int]] = []
    for n in range(APPENDS):
        upon: list[int] = []

        def decide(rows: Sequence[Decision], n: int = n, upon: list[int] = upon) -> list[Draft]:
            upon.append(len(rows))
            return [
                Draft(
                    use_case=name, event="registered", model_version=n + 1, model_sha256=name * 64, decided_at=NOW,
                    decided_by=name, reason="race",
                )
            ]  # fmt: skip

        (row,) = decisions.append(lake, decide, COMMIT)
        got.append((upon[-1], row.sequence))
    return got


def registered(root: str, name: str, barrier: Barrier) -> str:
    """One process: register a model where nothing is yet, not even the log."""
    barrier.wait(timeout=120)
    version = registry.register(
        "a", name * 64, Lake(root), decided_at=NOW, decided_by=name, reason="race", commit=COMMIT
    )
    return f"{version.version}"


@pytest.fixture(scope="module")
def manager() -> SyncManager:
    return SPAWN.Manager()


@pytest.fixture(scope="module")
def pool():
    with ProcessPoolExecutor(PROCESSES, mp_context=SPAWN) as processes:
        yield processes


def race(
    pool: ProcessPoolExecutor,
    manager: SyncManager,
    work: Callable[[str, str, Barrier], Result],
    root: Path,
    names: Sequence[str],
) -> list[Result]:
    """The work of every name, each in a process of its own, from the same instant on."""
    barrier = manager.Barrier(PROCESSES)
    done = [pool.submit(work, str(root), name, barrier) for name in names]
    return [one.result(timeout=240) for one in done]


def test_of_four_that_promote_at_once_one_wins_and_three_are_told(
    tmp_path: Path, pool: ProcessPoolExecutor, manager: SyncManager
) -> None:
    lake = world(tmp_path, versions=PROCESSES + 1)
    asked = [ask(lake, version) for version in range(2, PROCESSES + 2)]
    before = len(decisions.read(lake))
    said = race(pool, manager, promoted_or_why, tmp_path, asked)
    won = [one for one in said if one.startswith("promoted")]
    assert len(won) == 1
    winner = int(won[0].split()[1])
    refused = [
        f"request {request_id} is void: the champion changed since the request, it is version {winner} now: train"
        " again"
        for version, request_id in enumerate(asked, start=2)
        if version != winner
    ]
    assert sorted(one for one in said if one not in won) == sorted(refused)
    rows = decisions.read(lake)
    assert [row.sequence for row in rows] == list(range(before + 1))
    assert [row.event for row in rows].count("promoted") == 2
    assert champion_version(lake) == winner
    roles = [v.role for v in registry.versions(USE_CASE.name, lake)]
    assert roles.count("champion") == 1
    assert decisions.verify(lake).holds


def test_appends_of_four_processes_leave_no_gap_and_no_number_twice(
    tmp_path: Path, pool: ProcessPoolExecutor, manager: SyncManager
) -> None:
    got = race(pool, manager, appended, tmp_path, "abcd")
    everything = PROCESSES * APPENDS
    assert sorted(sequence for of_one in got for _, sequence in of_one) == list(range(everything))
    assert all(upon == sequence for of_one in got for upon, sequence in of_one), (
        "decided on rows of another moment"
    )
    lake = Lake(tmp_path)
    rows = decisions.read(lake)
    assert [row.sequence for row in rows] == list(range(everything))
    for name in "abcd":
        assert [row.model_version for row in rows if row.use_case == name] == list(range(1, APPENDS + 1))
    assert decisions.verify(lake, [row.anchor for row in rows]).holds
    assert len(lake.commits(decisions.TABLE)) == everything + 1


def test_registrations_at_once_without_a_log_make_one_champion(
    tmp_path: Path, pool: ProcessPoolExecutor, manager: SyncManager
) -> None:
    got = race(pool, manager, registered, tmp_path, "abcd")
    assert sorted(got) == ["1", "2", "3", "4"]
    lake = Lake(tmp_path)
    assert [row.sequence for row in decisions.read(lake)] == list(range(PROCESSES + 1))
    assert [v.role for v in registry.versions("a", lake)].count("champion") == 1
    assert decisions.verify(lake).holds
