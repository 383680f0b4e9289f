"""Schedules: what runs by the wall clock. They look at what is due first, so an early or missed tick does no harm."""

from datetime import date, timedelta

import dagster as dg

from contrail import landing
from contrail.settings import Settings
from feature_repo.use_cases import USE_CASES
from jobs.pipelines import DAILY_LOOK_BACK_DAYS
from jobs.plan import plan
from jobs.requests import default_schedule_status, run_requests
from jobs.steps import Step


def build(settings: Settings) -> list[dg.ScheduleDefinition]:
    """The daily run, and a scoring schedule per use case."""
    return [_daily(settings), *(_scoring(settings, name) for name in USE_CASES)]


def _daily(settings: Settings) -> dg.ScheduleDefinition:
    @dg.schedule(
        name="daily",
        job_name="daily",
        cron_schedule="30 7 * * *",
        execution_timezone="UTC",
        default_status=default_schedule_status(settings),
        description="After the feed day has ended: the newest landed day, and the days before it that it completes.",
    )
    def daily(context: dg.ScheduleEvaluationContext) -> dg.RunRequest | dg.SkipReason:
        del context
        due = plan(settings).steps
        landed = landing.partition_range(settings.landing_root)
        if landed is None or not due:
            return dg.SkipReason(
                "nothing is due: every landed file has been taken in and everything was built from it"
            )
        newest = max((step.last for step in due if step.last), default=landed.last.isoformat())
        last = min(date.fromisoformat(newest), landed.last)
        first = max(last - timedelta(days=DAILY_LOOK_BACK_DAYS), landed.first)
        return dg.RunRequest(
            run_key=f"daily:{last}:{landed.newest_fact_delivered_at.isoformat()}",
            tags=Step("daily", due[0].reason, first.isoformat(), last.isoformat()).tags,
        )

    return daily


def _scoring(settings: Settings, use_case: str) -> dg.ScheduleDefinition:
    job = f"score_{use_case}"

    @dg.schedule(
        name=f"{job}_due",
        job_name=job,
        cron_schedule="0 * * * *",
        execution_timezone="UTC",
        default_status=default_schedule_status(settings),
        description="Scores for decisions that have none yet, as far as the feeds are complete.",
    )
    def due_scores(context: dg.ScheduleEvaluationContext) -> list[dg.RunRequest] | dg.SkipReason:
        return run_requests(settings, context.instance, {job})

    return due_scores
