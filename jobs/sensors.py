"""Sensors: what runs because something happened. Each says in its tick why it did or did not ask for a run.

Deciding is a pure function in the library (`contrail.freshness`, `contrail.monitoring`) or the plan; here it becomes a
request, bounded per tick and never repeated for the same cause.
"""

import json
from collections.abc import Iterator, Sequence
from datetime import datetime, timedelta
from typing import TypeAlias

import dagster as dg

from contrail import completeness, duck, freshness, landing, monitoring
from contrail.alerts import Alert, send
from contrail.clock import ClockError, clock_for
from contrail.contracts import load_contracts
from contrail.lake import Lake
from contrail.settings import Settings
from contrail.use_case import UseCase
from feature_repo.use_cases import USE_CASES
from jobs.plan import contiguous
from jobs.requests import MOST_REQUESTS_PER_TICK, default_sensor_status, run_requests

Ticks: TypeAlias = Iterator[dg.RunRequest | dg.SkipReason | dg.SensorResult]


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
    """Requests for files that no earlier tick asked for.

    The cursor holds, per table, the newest delivery asked for: (delivered_at, names at that instant). Deliveries are
    asked for in that order, so it is exact, and short however many files there are.
    """
    seen: dict[str, tuple[str, list[str]]] = {
        t: (at, names) for t, (at, names) in json.loads(cursor or "{}").items()
    }
    requests: list[dg.RunRequest] = []
    waiting = 0
    for name, contract in load_contracts(settings.repo_root / "contracts").items():
        at, names = seen.get(name, ("", []))
        fresh = sorted(
            (d for d in landing.deliveries(settings.landing_root, name) if _is_after(d, at, names)),
            key=lambda d: (d.delivered_at, d.path.name),
        )
        room = MOST_REQUESTS_PER_TICK - len(requests)
        taken, left = _bounded(fresh, room)
        waiting += len(left)
        for delivery in taken:
            stamp = delivery.delivered_at.isoformat()
            at, names = (at, [*names, delivery.path.name]) if stamp == at else (stamp, [delivery.path.name])
        if taken:
            seen[name] = (at, names)
        if contract.partition_column is None:
            requests += [_ingest("reference", f"raw/{name}", None, len(taken), at, names)] if taken else []
            continue
        for days in contiguous(d.partition for d in taken):
            requests.append(_ingest("ingest", f"raw/{name}", days, len(taken), at, names))
    if not requests:
        return dg.SkipReason("no file has landed since the last tick")

    return dg.SensorResult(run_requests=requests, cursor=json.dumps(seen))


def _is_after(delivery: landing.Delivery, at: str, names: Sequence[str]) -> bool:
    stamp = delivery.delivered_at.isoformat()
    return stamp > at or (stamp == at and delivery.path.name not in names)


def _bounded(
    fresh: Sequence[landing.Delivery], most_runs: int
) -> tuple[list[landing.Delivery], list[landing.Delivery]]:
    """As many of the oldest files as fit in `most_runs` contiguous runs."""
    taken: list[landing.Delivery] = []
    for delivery in fresh:
        if len(contiguous(d.partition for d in [*taken, delivery])) > most_runs:
            break
        taken.append(delivery)
    return taken, list(fresh[len(taken) :])


def _ingest(
    job: str, asset: str, days: tuple[str, str] | None, files: int, at: str, names: Sequence[str]
) -> dg.RunRequest:
    tags = {"contrail/reason": f"{files} new file(s) for {asset}"}
    if days is not None:
        tags |= {"dagster/asset_partition_range_start": days[0], "dagster/asset_partition_range_end": days[1]}
    return dg.RunRequest(
        run_key=f"{asset}:{days}:{at}:{','.join(sorted(names))}",
        job_name=job,
        tags=tags,
        asset_selection=[dg.AssetKey(asset.split("/"))],
    )


def _freshness(settings: Settings, jobs: Sequence[object]) -> dg.SensorDefinition:
    @dg.sensor(
        name="raw_freshness",
        jobs=jobs,
        minimum_interval_seconds=300,
        default_status=default_sensor_status(settings),
        description="Feeds against their contracts: a run only where something newer has landed, else 'source late'.",
    )
    def raw_freshness(context: dg.SensorEvaluationContext) -> Ticks:
        yield from freshness_tick(settings, context.instance)

    return raw_freshness


def freshness_tick(settings: Settings, instance: dg.DagsterInstance) -> Ticks:
    """Runs for what has landed and was not taken in; otherwise which sources are late."""
    try:
        now = clock_for(settings).now()
    except ClockError as error:
        yield dg.SkipReason(str(error))
        return
    contracts = load_contracts(settings.repo_root / "contracts")
    feeds = freshness.all_feeds(Lake(settings.lake_root), settings.landing_root, contracts, now)
    if any(feed.state == "not taken in" for feed in feeds):
        yield from (r for job in ("ingest", "reference") for r in run_requests(settings, instance, job))
        return
    late = [
        f"{f.table}: newest delivery {f.newest_delivered_at:%Y-%m-%d %H:%M}Z, {_hours(f.age)} h ago, {_hours(f.allowed_age)} h allowed"
        for f in feeds
        if f.state == "source late"
    ]
    yield dg.SkipReason(
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
    def refresh(context: dg.SensorEvaluationContext) -> Ticks:
        yield from run_requests(settings, context.instance)

    return refresh


def _drift(settings: Settings, use_case: UseCase) -> dg.SensorDefinition:
    @dg.sensor(
        name=f"drift_{use_case.name}",
        job_name=f"train_{use_case.name}",
        minimum_interval_seconds=600,
        default_status=default_sensor_status(settings),
        description="Two consecutive windows in which scores and outcomes part: asks for a retraining once a cool-down.",
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
    from contrail.intake import blocked_partitions

    now_blocked = {
        f"raw/{name}:{day}": "; ".join(reasons)
        for name in load_contracts(settings.repo_root / "contracts")
        for day, reasons in blocked_partitions(lake, name).items()
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
