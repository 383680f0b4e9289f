"""Sensors: what runs because something happened. Each says in its tick why it did or did not ask for a run.

Deciding is a pure function in the library (`contrail.freshness`, `contrail.monitoring`) or the plan; here it becomes a
request, bounded per tick and never repeated for the same cause.
"""

import hashlib
import json
from collections.abc import Mapping, Sequence
from datetime import datetime, timedelta
from typing import TypeAlias

import dagster as dg

from contrail import completeness, duck, freshness, intake, landing, monitoring
from contrail.alerts import Alert, send
from contrail.clock import ClockError, clock_for
from contrail.contracts import Contract, load_contracts
from contrail.lake import Lake
from contrail.settings import Settings
from contrail.use_case import UseCase
from feature_repo.use_cases import USE_CASES
from jobs.plan import has_partition
from jobs.requests import MOST_REQUESTS_PER_TICK, default_sensor_status, request, run_requests
from jobs.steps import Step, contiguous

Tick: TypeAlias = list[dg.RunRequest] | dg.SkipReason


def build(settings: Settings, jobs: Sequence[object]) -> list[dg.SensorDefinition]:
    """Landing, freshness, refresh, drift per use case, alerts."""
    return [
        _landing(settings, jobs),
        _freshness(settings, jobs),
        _refresh(settings, jobs),
        *(_drift(settings, use_case) for use_case in USE_CASES.values()),
        _run_failed(settings),
        _partition_blocked(settings),
    ]


def _landing(settings: Settings, jobs: Sequence[object]) -> dg.SensorDefinition:
    @dg.sensor(
        name="landing",
        jobs=jobs,
        minimum_interval_seconds=30,
        default_status=default_sensor_status(settings),
        description="New and replaced files in the landing zone: takes in their partitions, at most ten runs a tick.",
    )
    def landed(context: dg.SensorEvaluationContext) -> dg.SensorResult | dg.SkipReason:
        return landing_tick(settings, context.cursor)

    return landed


def landing_tick(settings: Settings, cursor: str | None) -> dg.SensorResult | dg.SkipReason:
    """Requests for files that have not been taken in and that no earlier tick asked for.

    Which files wait is read off the lake, by name and content: neither a file that says that it is older than others
    nor one that was put in the place of another is missed. The cursor holds, per table, what was asked for and still
    waits, so a file is asked for once.
    """
    asked: dict[str, list[str]] = json.loads(cursor or "{}")
    lake = Lake(settings.lake_root)
    landed = landing.partition_range(settings.landing_root)
    requests: list[dg.RunRequest] = []
    kept: dict[str, list[str]] = {}
    for name, contract in load_contracts(settings.repo_root / "contracts").items():
        waiting = {
            _identity(delivery): delivery
            for delivery in intake.waiting(lake, name, landing.deliveries(settings.landing_root, name))
            if has_partition(settings, landed, contract, delivery)
        }
        known = set(asked.get(name, [])) & set(waiting)
        fresh = {identity: delivery for identity, delivery in waiting.items() if identity not in known}
        steps = _ingest_steps(contract, fresh)[: MOST_REQUESTS_PER_TICK - len(requests)]
        version = lake.version(f"raw/{name}") if lake.exists(f"raw/{name}") else -1
        for step, identities in steps:
            digest = hashlib.sha256(" ".join(identities).encode()).hexdigest()[:16]
            requests.append(request(step, run_key=f"raw/{name}@v{version}:{step.days}:{digest}"))
            known |= set(identities)
        if known:
            kept[name] = sorted(known)
    if requests:
        return dg.SensorResult(run_requests=requests, cursor=json.dumps(kept))
    if kept != asked:
        return dg.SensorResult(
            skip_reason="what was asked for has been taken in; no file has landed since",
            cursor=json.dumps(kept),
        )
    return dg.SkipReason("no file has landed since the last tick")


def _identity(delivery: landing.Delivery) -> str:
    """A file as it lies there: its name, what its manifest says and what it holds, in a few characters."""
    text = f"{delivery.path.name} {intake.manifest_digest(delivery)} {intake.sha256_of(delivery)}"
    return hashlib.sha256(text.encode()).hexdigest()[:12]


def _ingest_steps(contract: Contract, fresh: Mapping[str, landing.Delivery]) -> list[tuple[Step, list[str]]]:
    """The runs that take these files in, each with the identities of its files."""
    asset = f"raw/{contract.table}"
    if contract.partition_column is None:
        step = Step("reference", f"{len(fresh)} new file(s) for {asset}", assets=(asset,))
        return [(step, sorted(fresh))] if fresh else []
    steps: list[tuple[Step, list[str]]] = []
    for first, last in contiguous(delivery.partition for delivery in fresh.values()):
        its = sorted(i for i, delivery in fresh.items() if first <= delivery.partition <= last)
        steps.append((Step("ingest", f"{len(its)} new file(s) for {asset}", first, last, (asset,)), its))
    return steps


def _freshness(settings: Settings, jobs: Sequence[object]) -> dg.SensorDefinition:
    @dg.sensor(
        name="raw_freshness",
        jobs=jobs,
        minimum_interval_seconds=300,
        default_status=default_sensor_status(settings),
        description="Feeds against their contracts: a run only where something newer has landed, else 'source late'.",
    )
    def raw_freshness(context: dg.SensorEvaluationContext) -> Tick:
        return freshness_tick(settings, context.instance)

    return raw_freshness


def freshness_tick(settings: Settings, instance: dg.DagsterInstance) -> Tick:
    """Runs for what has landed and was not taken in; otherwise which sources are late."""
    try:
        now = clock_for(settings).now()
    except ClockError as error:
        return dg.SkipReason(str(error))
    contracts = load_contracts(settings.repo_root / "contracts")
    feeds = freshness.all_feeds(Lake(settings.lake_root), settings.landing_root, contracts, now)
    if any(feed.state == "not taken in" for feed in feeds):
        return run_requests(settings, instance, {"ingest", "reference"})
    late = [
        f"{f.table}: newest delivery {f.newest_delivered_at:%Y-%m-%d %H:%M}Z, {_hours(f.age)} h ago, "
        f"{_hours(f.allowed_age)} h allowed"
        for f in feeds
        if f.state == "source late"
    ]
    return dg.SkipReason(
        "source late: " + "; ".join(late) if late else "every feed is as fresh as its contract promises"
    )


def _hours(span: timedelta | None) -> str:
    return "?" if span is None else f"{span / timedelta(hours=1):.0f}"


def _refresh(settings: Settings, jobs: Sequence[object]) -> dg.SensorDefinition:
    @dg.sensor(
        name="refresh",
        jobs=jobs,
        minimum_interval_seconds=60,
        default_status=default_sensor_status(settings),
        description="Whatever lies downstream of something newer is brought up to date, one stage after the other.",
    )
    def refresh(context: dg.SensorEvaluationContext) -> Tick:
        return run_requests(settings, context.instance)

    return refresh


def _drift(settings: Settings, use_case: UseCase) -> dg.SensorDefinition:
    @dg.sensor(
        name=f"drift_{use_case.name}",
        job_name=f"train_{use_case.name}",
        minimum_interval_seconds=600,
        default_status=default_sensor_status(settings),
        description="Two consecutive windows in which scores and outcomes part: a retraining, once per cool-down.",
    )
    def drift(context: dg.SensorEvaluationContext) -> dg.SensorResult | dg.SkipReason:
        return drift_tick(settings, use_case, context.cursor)

    return drift


def drift_tick(settings: Settings, use_case: UseCase, cursor: str | None) -> dg.SensorResult | dg.SkipReason:
    """The retraining job, where the newest two complete windows are off and the cool-down has passed.

    The cursor holds the instant (of the project's clock) of the last request.
    """
    lake, table = Lake(settings.lake_root), f"monitor/{use_case.name}/performance"
    if not lake.exists(table):
        return dg.SkipReason(f"there is no report yet: {table} has not been materialised")
    with duck.connect() as con:
        windows = con.execute(f"SELECT * FROM {lake.scan(table)}").to_arrow_table().to_pylist()
    alarm = monitoring.calibration_alarm(windows, limit=use_case.criteria.alarm_bias)
    if alarm is None:
        return dg.SkipReason("the newest two complete windows are within the limit")
    now = clock_for(settings).now()
    cooldown = timedelta(days=settings.retrain_cooldown_days)
    if cursor and now - datetime.fromisoformat(cursor) < cooldown:
        since = (now - datetime.fromisoformat(cursor)) / timedelta(days=1)
        return dg.SkipReason(
            f"{alarm.reason}; but a retraining was asked for {since:.1f} days ago, cool-down {cooldown.days} days"
        )
    return dg.SensorResult(
        run_requests=[
            dg.RunRequest(
                run_key=f"drift:{use_case.name}:{alarm.last_end}:{now.isoformat()}",
                tags={"contrail/reason": alarm.reason[:200]},
            )
        ],
        cursor=now.isoformat(),
    )


def _run_failed(settings: Settings) -> dg.SensorDefinition:
    @dg.run_failure_sensor(
        name="alert_run_failed",
        monitor_all_code_locations=True,
        default_status=default_sensor_status(settings),
        description="Tells the alert targets of every failed run.",
    )
    def run_failed(context: dg.RunFailureSensorContext) -> None:
        run = context.dagster_run
        send(
            settings,
            Alert("run failed", f"{run.job_name} ({run.run_id[:8]}): {context.failure_event.message}"),
        )

    return run_failed


def _partition_blocked(settings: Settings) -> dg.SensorDefinition:
    @dg.sensor(
        name="alert_partition_blocked",
        minimum_interval_seconds=60,
        default_status=default_sensor_status(settings),
        description="Tells the alert targets once of every blocked partition, with the reason.",
    )
    def partition_blocked(context: dg.SensorEvaluationContext) -> dg.SensorResult | dg.SkipReason:
        return blocked_tick(settings, context.cursor)

    return partition_blocked


def blocked_tick(settings: Settings, cursor: str | None) -> dg.SensorResult | dg.SkipReason:
    """Alerts for partitions that are blocked and were not told of before; the cursor holds those told of."""
    lake = Lake(settings.lake_root)
    now_blocked = {
        f"raw/{name}:{day}": "; ".join(reasons)
        for name in load_contracts(settings.repo_root / "contracts")
        for day, reasons in intake.blocked_partitions(lake, name).items()
    }
    told = set(json.loads(cursor or "[]"))
    fresh = {where: why for where, why in now_blocked.items() if where not in told}
    if fresh:
        text = "\n".join(f"{where}: {why}" for where, why in sorted(fresh.items()))
        send(settings, Alert(f"{len(fresh)} partition(s) {completeness.BLOCKED}", text))
    kept = json.dumps(sorted(now_blocked))
    if kept == (cursor or "[]"):
        return dg.SkipReason("no partition was blocked since the last tick")
    return dg.SensorResult(
        cursor=kept, skip_reason=f"{len(fresh)} alert(s) sent" if fresh else "a block was lifted"
    )
