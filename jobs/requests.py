"""From the plan's steps to run requests: bounded, never twice for the same work, with the reason in words."""

from __future__ import annotations

from collections.abc import Iterator

import dagster as dg

from contrail.settings import Settings
from jobs.plan import Step, plan

MOST_REQUESTS_PER_TICK = 10
UNFINISHED = [
    dg.DagsterRunStatus.QUEUED,
    dg.DagsterRunStatus.NOT_STARTED,
    dg.DagsterRunStatus.STARTING,
    dg.DagsterRunStatus.STARTED,
]


def default_sensor_status(settings: Settings) -> dg.DefaultSensorStatus:
    """On where life goes on by itself; off over an old year, where a person decides when its days pass."""
    live = settings.clock == "system"
    return dg.DefaultSensorStatus.RUNNING if live else dg.DefaultSensorStatus.STOPPED


def default_schedule_status(settings: Settings) -> dg.DefaultScheduleStatus:
    """As `default_sensor_status`."""
    live = settings.clock == "system"
    return dg.DefaultScheduleStatus.RUNNING if live else dg.DefaultScheduleStatus.STOPPED


def request(step: Step, run_key: str | None = None) -> dg.RunRequest:
    """One step as a run request; days become one run over the range."""
    tags = {"contrail/reason": step.reason[:200]}
    if step.first is not None and step.last is not None:
        tags |= {
            "dagster/asset_partition_range_start": step.first,
            "dagster/asset_partition_range_end": step.last,
        }
    return dg.RunRequest(
        run_key=run_key,
        job_name=step.job,
        tags=tags,
        asset_selection=[dg.AssetKey(name.split("/")) for name in step.assets] or None,
    )


def run_requests(
    settings: Settings, instance: dg.DagsterInstance, only_job: str | None = None
) -> Iterator[dg.RunRequest | dg.SkipReason]:
    """Requests for what is due now, at most ten a tick; a reason where there are none."""
    found = plan(settings)
    steps = [step for step in found.steps if only_job is None or step.job == only_job]
    if not steps:
        blocked = ", ".join(f"{table}: {', '.join(days)}" for table, days in found.blocked.items())
        waiting = "; ".join(found.notes)
        said = (
            "nothing is due"
            + (f"; blocked: {blocked}" if blocked else "")
            + (f"; {waiting}" if waiting else "")
        )
        yield dg.SkipReason(said)
        return
    busy = instance.get_runs(dg.RunsFilter(statuses=UNFINISHED), limit=1)
    if busy:
        yield dg.SkipReason(
            f"run {busy[0].run_id[:8]} of {busy[0].job_name} is under way; asking again next tick"
        )
        return
    for step in steps[:MOST_REQUESTS_PER_TICK]:
        yield request(step)
