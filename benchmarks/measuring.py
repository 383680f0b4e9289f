"""What the benchmarks share: processes with their CPU and memory, interleaved rounds, and how figures are printed."""

from __future__ import annotations

import json
import os
import platform
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
"""The repository: what child processes work in."""
MB = 1024 * 1024
SAMPLE_SECONDS = 0.2


@dataclass(frozen=True)
class Usage:
    """What one process and its children took.

    Attributes:
        wall: seconds from start to end.
        cpu: user and system seconds of the process and of every child that it waited for.
        peak_mb: greatest resident memory of the whole process tree at one time, sampled; pages that its processes
            share are counted for each of them.
        memory: (seconds since 1970, MB of the tree), as sampled.
    """

    wall: float
    cpu: float
    peak_mb: float
    memory: tuple[tuple[float, float], ...]
    stdout: str

    def document(self) -> Any:
        """Its output's last line, which is JSON."""
        return json.loads(self.stdout.strip().splitlines()[-1])

    def peak_between(self, start: float, end: float) -> float:
        """Greatest sampled memory between two instants, MB."""
        return max((mb for at, mb in self.memory if start <= at <= end), default=0.0)


def run(
    command: Sequence[str], *, env: Mapping[str, str] | None = None, accept: Sequence[int] = (0,)
) -> Usage:
    """Run a command in the repository root and measure it.

    Raises:
        SystemExit: it ended with a code that is not accepted; its last words are shown.
    """
    memory: list[tuple[float, float]] = []
    ended = threading.Event()
    with tempfile.TemporaryFile() as out, tempfile.TemporaryFile() as err:
        began = time.perf_counter()
        settings = [f"{name}={value}" for name, value in (env or {}).items()]
        process = subprocess.Popen(["env", *settings, *command], cwd=ROOT, stdout=out, stderr=err)
        sampler = threading.Thread(target=_sample, args=(process.pid, memory, ended), daemon=True)
        sampler.start()
        _, status, used = os.wait4(process.pid, 0)
        wall = time.perf_counter() - began
        process.returncode = os.waitstatus_to_exitcode(status)
        ended.set()
        sampler.join()
        out.seek(0)
        err.seek(0)
        said, complained = out.read().decode(), err.read().decode()
    if process.returncode not in accept:
        sys.exit(
            f"{' '.join(command)} ended with {process.returncode}:\n{said[-2000:]}\n{complained[-4000:]}"
        )
    peak = max([mb for _, mb in memory] + [used.ru_maxrss / 1024])
    return Usage(wall, used.ru_utime + used.ru_stime, peak, tuple(memory), said)


def worker(program: str, *arguments: str, env: Mapping[str, str] | None = None) -> tuple[Any, Usage]:
    """Run ``python program --worker arguments…`` as a fresh process: the JSON of its last line, and what it took."""
    used = run([sys.executable, program, "--worker", *arguments], env=env)
    return used.document(), used


def interleaved(variants: Mapping[str, Callable[[], float]], repeats: int) -> dict[str, list[float]]:
    """Each variant once per round, in turn, so that a busy minute hits all of them alike."""
    measured: dict[str, list[float]] = {name: [] for name in variants}
    for _ in range(repeats):
        for name, measure in variants.items():
            measured[name].append(measure())
    return measured


def cpu_of(work: Callable[[], object]) -> float:
    """CPU seconds of this process, all threads, for one call."""
    began = time.process_time()
    work()
    return time.process_time() - began


def median(values: Sequence[float]) -> float:
    return statistics.median(values)


def heading(text: str, *packages: str) -> None:
    """What is measured, on what."""
    load = ", ".join(f"{value:.1f}" for value in os.getloadavg())
    libraries = ", ".join(f"{name} {version(name)}" for name in packages)
    print(text)
    print(f"{os.cpu_count()} cores, load {load}, Python {platform.python_version()}, {libraries}")


def table(rows: Sequence[Mapping[str, object]]) -> None:
    """Rows under one another, numbers to the right."""
    if not rows:
        return
    columns = list(rows[0])
    texts = [[_text(row[column]) for column in columns] for row in rows]
    widths = [max(len(column), *(len(row[i]) for row in texts)) for i, column in enumerate(columns)]
    print("  ".join(column.ljust(width) for column, width in zip(columns, widths, strict=True)).rstrip())
    for row, text in zip(rows, texts, strict=True):
        cells = [
            cell.rjust(width) if isinstance(row[column], int | float) else cell.ljust(width)
            for cell, width, column in zip(text, widths, columns, strict=True)
        ]
        print("  ".join(cells).rstrip())


def verdict(what: str, measured: float, limit: float, *, at_least: bool = False, unit: str = "") -> None:
    """One line: the figure, the target, and whether it is reached."""
    reached = measured >= limit if at_least else measured <= limit
    figure = f"{measured:,.0f}" if abs(measured) >= 100 else f"{measured:.3g}"
    print(
        f"{what}: {figure}{unit} (target {'≥' if at_least else '≤'} {limit:,g}{unit}) "
        f"{'reached' if reached else 'NOT reached'}"
    )


def _text(value: object) -> str:
    return (
        f"{value:,.2f}"
        if isinstance(value, float)
        else f"{value:,}"
        if isinstance(value, int)
        else str(value)
    )


def _sample(pid: int, memory: list[tuple[float, float]], ended: threading.Event) -> None:
    while not ended.wait(SAMPLE_SECONDS):
        memory.append((time.time(), sum(_resident(one) for one in _tree(pid)) / MB))


def _tree(pid: int) -> list[int]:
    """A process and all that descend from it."""
    found, waiting = list[int](), [pid]
    while waiting:
        one = waiting.pop()
        found.append(one)
        try:
            for task in Path(f"/proc/{one}/task").iterdir():
                waiting += [int(child) for child in (task / "children").read_text().split()]
        except OSError:
            continue  # it has ended meanwhile
    return found


def _resident(pid: int) -> int:
    try:
        return int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")
    except (OSError, IndexError):
        return 0
