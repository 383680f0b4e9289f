"""Sensors over MLflow: its aliases follow the decisions, and trainings that died are closed. They ask for no runs."""

from __future__ import annotations

from collections.abc import Callable
from datetime import timedelta
from functools import partial
from typing import TypeVar

import dagster as dg

from contrail import decisions
from contrail.alerts import Alert, AlertError, send
from contrail.clock import utc_now
from contrail.lake import Lake
from contrail.settings import Settings
from feature_repo.use_cases import USE_CASES
from jobs.abandoned import UNFINISHED, close_abandoned
from jobs.requests import default_sensor_status
from resources.decisions import leave_missed, remember
from resources.mlflow_client import ASKING_SECONDS, TrackingError, within
from resources.tracking import TrackingResource

LEFT_RUNNING = timedelta(hours=1)
# A run that is being cancelled still has a process.
UNDER_WAY = [*UNFINISHED, dg.DagsterRunStatus.CANCELING]

Answer = TypeVar("Answer")


def build(settings: Settings) -> list[dg.SensorDefinition]:
    """Aliases, and abandoned runs."""

    @dg.sensor(
        name="mlflow_aliases",
        minimum_interval_seconds=300,
        default_status=default_sensor_status(settings),
        description="MLflow's aliases follow the decision log; one that was moved by hand is put back and told of. "
        "Anchors of the log that whoever decided could not leave are left.",
    )
    def mlflow_aliases(context: dg.SensorEvaluationContext) -> dg.SensorResult | dg.SkipReason:
        return aliases_tick(settings, context.cursor, context.instance)

    @dg.sensor(
        name="mlflow_abandoned_runs",
        minimum_interval_seconds=600,
        default_status=default_sensor_status(settings),
        description="Trainings that MLflow shows as running for over an hour although their run has ended: closed as "
        "failed, with the reason.",
    )
    def mlflow_abandoned_runs(context: dg.SensorEvaluationContext) -> dg.SkipReason:
        return abandoned_tick(settings, context.instance)

    return [mlflow_aliases, mlflow_abandoned_runs]


def aliases_tick(
    settings: Settings, cursor: str | None, instance: dg.DagsterInstance
) -> dg.SensorResult | dg.SkipReason:
    """Reconcile every use case, and leave the anchors that are missing.

    The cursor holds what could not be told: an alias is put back once, so an alert that was not taken is sent again.
    """
    lake, tracking = Lake(settings.lake_root), TrackingResource.from_settings(settings)
    untold = [cursor] if cursor else []
    said = leave_missed(settings, instance)
    for name in USE_CASES:
        try:
            found = _ask(partial(tracking.reconcile, name, lake))
        except TrackingError as error:
            said.append(f"{error}; asking again next tick")
            break
        said += [f"{name}: {sentence}" for sentence in [*found.in_words, *_remember(tracking, lake, name)]]
        untold += [f"{name}: {moved.in_words}" for moved in found.moved if moved.by_hand]
    if untold:
        try:
            send(settings, Alert("an alias in MLflow was moved by hand", "\n".join(untold)))
            untold = []
        except AlertError as error:
            said.append(f"{error}; it is sent again next tick")
    reason = "; ".join(said) or "the aliases are as decided"
    left = "\n".join(untold)
    return (
        dg.SensorResult(skip_reason=reason, cursor=left) if left != (cursor or "") else dg.SkipReason(reason)
    )


def _remember(tracking: TrackingResource, lake: Lake, use_case: str) -> list[str]:
    history = decisions.read(lake, use_case)
    try:
        return _ask(partial(remember, tracking, lake, use_case, history[-1].anchor)) if history else []
    except TrackingError as error:
        return [f"the anchor is not in MLflow: {error}"]


def abandoned_tick(settings: Settings, instance: dg.DagsterInstance) -> dg.SkipReason:
    """Close what was left RUNNING for over an hour, by the wall clock, by a Dagster run that ended or is unknown."""
    close_abandoned(settings, instance)

    def is_under_way(run_id: str) -> bool:
        run = instance.get_run_by_id(run_id)
        return run is not None and run.status in UNDER_WAY

    tracking = TrackingResource.from_settings(settings)
    try:
        swept = _ask(
            lambda: tracking.sweep(LEFT_RUNNING, utc_now(), experiments=USE_CASES, is_under_way=is_under_way)
        )
    except TrackingError as error:
        return dg.SkipReason(f"{error}; asking again next tick")
    if not swept:
        return dg.SkipReason("no training was left running in MLflow")
    return dg.SkipReason(f"closed as failed in MLflow: {', '.join(swept)}")


def _ask(call: Callable[[], Answer]) -> Answer:
    return within(ASKING_SECONDS, call)
