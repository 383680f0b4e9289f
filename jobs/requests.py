"""From the plan's steps to run requests: bounded, never twice for the same work, with the reason in words."""

from __future__ import annotations

from collections.abc import Collection
from datetime import timedelta

import dagster as dg

from contrail.clock import utc_now
from contrail.settings import Settings
from jobs.abandoned import PROCESS_TAG, UNFINISHED, close_abandoned
from jobs.plan import Plan, plan
from jobs.steps import REASON_TAG, Step

MOST_REQUESTS_PER_TICK = 10
RETRY_AFTER = timedelta(minutes=30)


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
    return dg.RunRequest(
        run_key=run_key,
        job_name=step.job,
        tags=step.tags,
        asset_selection=[dg.AssetKey(name.split("/")) for name in step.assets] or None,
    )


def run_requests(
    settings: Settings, instance: dg.DagsterInstance, only_jobs: Collection[str] | None = None
) -> list[dg.RunRequest] | dg.SkipReason:
    """Requests for what is due now, at most ten a tick; a reason where there are none.

    A step whose run has just failed is left alone for a while: whoever was alerted looks first.
    """
    found = plan(settings)
    steps = [step for step in found.steps if only_jobs is None or step.job in only_jobs]
    if not steps:
        return dg.SkipReason("; ".join(["nothing is due", *_in_the_way(found)]))
    close_abandoned(settings, instance)
    busy = instance.get_runs(dg.RunsFilter(statuses=UNFINISHED), limit=1)
    if busy:
        return dg.SkipReason(
            f"run {busy[0].run_id[:8]} of {busy[0].job_name} is under way; asking again next tick"
        )
    failed = {step: run for step in steps if (run := _failed_lately(instance, step)) is not None}
    ready = [request(step) for step in steps if step not in failed]
    if ready:
        return ready[:MOST_REQUESTS_PER_TICK]
    told = ", ".join(f"{run.run_id[:8]} of {step.job} {step.days}".strip() for step, run in failed.items())
    minutes = RETRY_AFTER // timedelta(minutes=1)
    return dg.SkipReason(f"failed less than {minutes} minutes ago, not asked for again yet: {told}")


def _in_the_way(found: Plan) -> list[str]:
    blocked = ", ".join(f"raw/{table}: {', '.join(days)}" for table, days in found.blocked.items())
    return [*([f"blocked: {blocked}"] if blocked else []), *found.notes]


def _failed_lately(instance: dg.DagsterInstance, step: Step) -> dg.DagsterRun | None:
    """The newest run of the same job over the same days, if it failed within `RETRY_AFTER` (by the wall).

    Not one that a command executed: whoever typed it saw the failure, or killed it.
    """
    days = {name: value for name, value in step.tags.items() if name != REASON_TAG}
    records = instance.get_run_records(dg.RunsFilter(job_name=step.job, tags=days), limit=1)
    if not records:
        return None
    run, ended = records[0].dagster_run, records[0].end_time
    if run.status != dg.DagsterRunStatus.FAILURE or PROCESS_TAG in run.tags or ended is None:
        return None
    return run if ended > (utc_now() - RETRY_AFTER).timestamp() else None
