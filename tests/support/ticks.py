"""What a tick of a sensor or schedule said: for tests."""

from __future__ import annotations

from datetime import datetime

import dagster as dg

from contrail.settings import Settings
from tests.support.plan_world import PlanWorld

START, END = "dagster/asset_partition_range_start", "dagster/asset_partition_range_end"


def asked(tick: object) -> list[tuple[str, str, str]]:
    """Job, asset and days of each request of a tick."""
    found = tick.run_requests if isinstance(tick, dg.SensorResult) else tick
    assert isinstance(found, list), f"no request: {tick}"
    return [
        (
            run.job_name,
            ",".join("/".join(key.path) for key in run.asset_selection or []),
            f"{run.tags[START]}..{run.tags[END]}" if START in run.tags else "",
        )
        for run in found
    ]


def words(tick: object) -> str:
    reason = tick.skip_reason if isinstance(tick, dg.SensorResult) else tick
    assert isinstance(reason, dg.SkipReason), f"not skipped: {tick}"
    return str(reason.skip_message)


def replayed(world: PlanWorld, at: datetime) -> Settings:
    return Settings(home=world.settings.home, clock="replay", replay_at=at)
