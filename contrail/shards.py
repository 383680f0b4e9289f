"""Heavy work over rows, cut into half-open time shards: who plans them, who maps them, and what each may use.

A step is a top-level function of plain data, ``step(spec, shard) -> Written``: it opens its own session, reads the
versions that the spec names and writes one file. So it does not matter where it runs: `map_shards` runs it in this
process, one shard after another (the low-memory path too), or in processes of their own. An engine of several machines
is another entry of `_ENGINES`; steps and plans stay as they are.
"""

from __future__ import annotations

import importlib
import json
import multiprocessing
import re
import traceback
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, date, datetime, time, timedelta
from multiprocessing.connection import Connection, wait
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any, TypeAlias, cast

from contrail.commits import Written
from contrail.settings import Settings

BYTES_PER_ROW = 1_200
"""Memory that a point-in-time join of ten features takes per row of its spine, all in."""
MOST_SHARD_ROWS = 3_000_000
STOP_SECONDS = 5.0

_MICROSECOND = timedelta(microseconds=1)
_DAY = timedelta(days=1)
_SIZE = re.compile(r"\s*(\d+(?:\.\d+)?)\s*([KMGT]?)(i?)B\s*", re.IGNORECASE)


class ShardError(RuntimeError):
    """A plan is impossible, or a shard was not finished; the message names the shard and the reason."""


@dataclass(frozen=True)
class Shard:
    """The part [lo, hi) of a spine's time, UTC; `index` counts the shards of one plan from 0."""

    index: int
    lo: datetime
    hi: datetime

    def __str__(self) -> str:
        return f"shard {self.index} [{self.lo.isoformat()}, {self.hi.isoformat()})"


Step: TypeAlias = Callable[[Any, Shard], Written]


@dataclass(frozen=True)
class Means:
    """What a map of shards may use of the machine.

    Attributes:
        engine: who maps: ``local``, ``processes``.
        workers: shards that are worked on at one time.
        threads: DuckDB threads of each; memory_limit: its memory.
        shard_rows: rows of the spine in one shard.
        temp_root: where sessions may spill.
    """

    engine: str
    workers: int
    threads: int
    memory_limit: str
    shard_rows: int
    temp_root: Path

    @classmethod
    def of(cls, settings: Settings) -> Means:
        """What the settings allow; with several workers they share memory and threads of one process."""
        workers = 1 if settings.engine == "local" else settings.workers
        memory = settings.worker_memory or settings.memory_limit
        share = memory_bytes(memory) // (1 if settings.worker_memory else workers)
        return cls(
            engine=settings.engine,
            workers=workers,
            threads=max(1, settings.threads // workers),
            memory_limit=f"{share}B",
            shard_rows=settings.shard_rows or min(MOST_SHARD_ROWS, max(1, share // BYTES_PER_ROW)),
            temp_root=settings.temp_root,
        )


def memory_bytes(size: str) -> int:
    """A DuckDB memory size (``4GB``, ``512MiB``) in bytes.

    Raises:
        ShardError: not a size.
    """
    found = _SIZE.fullmatch(size)
    if found is None:
        raise ShardError(
            f"not a memory size: {size!r}; CONTRAIL_MEMORY_LIMIT and CONTRAIL_WORKER_MEMORY are written 4GB or 512MiB"
        )
    number, prefix, binary = found.groups()
    return int(float(number) * (1024 if binary else 1000) ** " KMGT".index(prefix.upper() or " "))


def plan(lo: datetime, hi: datetime, rows_by_day: Mapping[date, int], shard_rows: int) -> tuple[Shard, ...]:
    """Cut [lo, hi) into shards of about `shard_rows` rows; they touch one another and cover it whole.

    There are ``ceil(rows / shard_rows)`` of them, fewer where the span has not that many microseconds. Within a day the
    rows are taken as evenly spread, so a shard can hold more: that costs memory or spilling, never rows.

    Args:
        lo, hi: aware; rows_by_day: UTC day -> rows of the spine on it that lie in [lo, hi).

    Raises:
        ShardError: an empty span, a naive instant, rows on a day outside [lo, hi), or `shard_rows` below 1.
    """
    if lo.tzinfo is None or hi.tzinfo is None or not lo < hi:
        raise ShardError(f"no span of time to cut: [{lo.isoformat()}, {hi.isoformat()})")
    if shard_rows < 1:
        raise ShardError(f"a shard holds at least 1 row, not {shard_rows}")
    lo, hi = lo.astimezone(UTC), hi.astimezone(UTC)
    spans: list[tuple[datetime, datetime, int]] = []
    for day, rows in sorted(rows_by_day.items()):
        midnight = datetime.combine(day, time(), UTC)
        start, end = max(lo, midnight), min(hi, midnight + _DAY)
        if rows and start >= end:
            raise ShardError(f"{rows} rows on {day}, which is outside [{lo.isoformat()}, {hi.isoformat()})")
        if rows:
            spans.append((start, end, rows))
    total = sum(rows for _, _, rows in spans)
    count = max(1, -(-total // shard_rows))
    cuts, number, before = [lo], 1, 0
    for start, end, rows in spans:
        # Cut `number` has number / count of all rows before it; whole numbers, so that every machine cuts alike.
        while number < count and number * total <= (before + rows) * count:
            share = (end - start) // _MICROSECOND * (number * total - before * count) // (rows * count)
            cut = start + share * _MICROSECOND
            if cuts[-1] < cut < hi:
                cuts.append(cut)
            number += 1
        before += rows
    return tuple(
        Shard(i, first, last) for i, (first, last) in enumerate(zip(cuts, [*cuts[1:], hi], strict=True))
    )


def map_shards(
    step: Step, spec: Mapping[str, Any], shards: Sequence[Shard], *, engine: str, workers: int = 1
) -> list[Written]:
    """Run a step on every shard; the answers are in the order of the shards.

    Args:
        step: a function at the top level of a module.
        spec: what the step needs to know, as data that JSON can hold; the step is given it after a turn through JSON,
            whatever the engine.
        engine: ``local`` or ``processes``.
        workers: how many processes at most.

    Raises:
        ShardError: an unknown engine, a spec or a step that cannot be sent, a shard whose step failed or whose process
            ended. No worker is left then, and nobody has committed anything.
    """
    try:
        run = _ENGINES[engine]
    except KeyError:
        raise ShardError(
            f"CONTRAIL_ENGINE={engine} needs the optional extra contrail[{engine}], which is not part of this release: "
            f"set CONTRAIL_ENGINE to one of {', '.join(_ENGINES)}"
        ) from None
    try:
        plain = json.loads(json.dumps(spec))
    except (TypeError, ValueError) as error:
        raise ShardError(f"the spec of a step must be data that JSON can hold: {error}") from error
    return run(step, plain, shards, workers)


def function_named(name: str) -> Callable[..., Any]:
    """The function that ``module:function`` names.

    Raises:
        ShardError: there is none.
    """
    module, _, function = name.partition(":")
    try:
        return getattr(importlib.import_module(module), function)
    except (ImportError, AttributeError, ValueError) as error:
        raise ShardError(f"there is no function {name!r} (module:function): {error}") from error


# -- one after another -----------------------------------------------------------------------------------------------


def _in_turn(step: Step, spec: Any, shards: Sequence[Shard], workers: int) -> list[Written]:
    done: list[Written] = []
    for shard in shards:
        try:
            done.append(step(spec, shard))
        except Exception as error:
            raise ShardError(f"{shard} failed: {type(error).__name__}: {error}") from error
    return done


# -- in processes ----------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Failure:
    """What a worker's step raised, as text: not every exception can be sent."""

    error: str
    trace: str


@dataclass(frozen=True)
class _Worker:
    process: BaseProcess
    line: Connection


def _serve(step: str, spec: Any, line: Connection) -> None:
    """A worker's life: shards in, answers out, until the line is closed at the other end."""
    work = function_named(step)
    while True:
        try:
            shard = line.recv()
        except EOFError:
            return
        try:
            answer: Written | _Failure = work(spec, shard)
        except Exception as error:
            answer = _Failure(f"{type(error).__name__}: {error}", traceback.format_exc())
        line.send(answer)


def _in_processes(step: Step, spec: Any, shards: Sequence[Shard], workers: int) -> list[Written]:
    name = f"{step.__module__}:{step.__qualname__}"
    if function_named(name) is not step:
        raise ShardError(f"the step {name} is not at the top level of a module: a worker cannot find it")
    # Spawned, never forked: DuckDB's and Arrow's threads do not survive a fork.
    context = multiprocessing.get_context("spawn")
    waiting = deque(shards)
    busy: dict[Connection, tuple[_Worker, Shard]] = {}
    done: dict[int, Written] = {}
    crew: list[_Worker] = []
    try:
        for _ in range(min(max(1, workers), len(shards))):
            ours, theirs = context.Pipe()
            process = context.Process(target=_serve, args=(name, spec, theirs), daemon=True)
            process.start()
            theirs.close()  # or its end would not be seen when the worker dies
            crew.append(_Worker(process, ours))
            _hand(crew[-1], waiting, busy)
        while busy:
            for line in cast(list[Connection], wait(list(busy))):
                worker, shard = busy.pop(line)
                done[shard.index] = _answer(worker, shard)
                _hand(worker, waiting, busy)
    finally:
        _dismiss(crew)
    return [done[shard.index] for shard in shards]


def _hand(worker: _Worker, waiting: deque[Shard], busy: dict[Connection, tuple[_Worker, Shard]]) -> None:
    if not waiting:
        return
    shard = waiting.popleft()
    busy[worker.line] = (worker, shard)
    try:
        worker.line.send(shard)
    except OSError as error:
        raise _ended(worker, shard) from error


def _answer(worker: _Worker, shard: Shard) -> Written:
    try:
        answer = worker.line.recv()
    except (EOFError, OSError) as error:
        raise _ended(worker, shard) from error
    if isinstance(answer, _Failure):
        failed = ShardError(f"{shard} failed in its worker: {answer.error}")
        failed.add_note(answer.trace)
        raise failed
    return answer


def _ended(worker: _Worker, shard: Shard) -> ShardError:
    worker.process.join(STOP_SECONDS)
    code = worker.process.exitcode
    how = f"was killed by signal {-code}" if code is not None and code < 0 else f"ended with exit code {code}"
    hint = (
        "; if the system ran out of memory, lower CONTRAIL_WORKER_MEMORY or CONTRAIL_WORKERS"
        if code == -9
        else ""
    )
    return ShardError(
        f"{shard} was not finished: its worker {how}{hint}. Nothing was committed: run it again"
    )


def _dismiss(crew: Sequence[_Worker]) -> None:
    """End every worker, also one that is in the middle of a shard: nobody waits for it any more."""
    for worker in crew:
        worker.line.close()
        worker.process.terminate()
    for worker in crew:
        worker.process.join(STOP_SECONDS)
        if worker.process.is_alive():
            worker.process.kill()
            worker.process.join()
        worker.process.close()


_ENGINES: Mapping[str, Callable[[Step, Any, Sequence[Shard], int], list[Written]]] = {
    "local": _in_turn,
    "processes": _in_processes,
}
