"""Runs whose process is gone: killed, they stay under way for ever in Dagster's eyes and hold up what waits for them.

A process that executes runs itself holds a lock while it lives, and its runs name that lock. The system lets go of a
lock with its process, however that ended, so a lock that can be taken says that its runs are over.
"""

from __future__ import annotations

import fcntl
import uuid
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path

import dagster as dg

from contrail.settings import Settings

PROCESS_TAG = "contrail/process"
UNFINISHED = [
    dg.DagsterRunStatus.QUEUED,
    dg.DagsterRunStatus.NOT_STARTED,
    dg.DagsterRunStatus.STARTING,
    dg.DagsterRunStatus.STARTED,
]


@contextmanager
def process_tags(settings: Settings) -> Generator[dict[str, str]]:
    """Tags for the runs that this process executes itself, good as long as the block."""
    path = _lock_path(settings, f"{uuid.uuid4().hex}.lock")
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        try:
            yield {PROCESS_TAG: path.name}
        finally:
            path.unlink()


def close_abandoned(settings: Settings, instance: dg.DagsterInstance) -> list[dg.DagsterRun]:
    """Report the unfinished runs of processes that are gone as failed, and return them; others are left alone."""
    gone: list[dg.DagsterRun] = []
    for run in instance.get_runs(dg.RunsFilter(statuses=UNFINISHED)):
        name = run.tags.get(PROCESS_TAG)
        if name is not None and not _is_held(_lock_path(settings, name)):
            instance.report_run_failed(
                run, "its process ended in the middle of it (killed?); what it left undone is due again"
            )
            gone.append(run)
    return gone


def _lock_path(settings: Settings, name: str) -> Path:
    return settings.dagster_home / "processes" / Path(name).name


def _is_held(path: Path) -> bool:
    if not path.exists():
        return False
    with path.open("w") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return True
    return False
