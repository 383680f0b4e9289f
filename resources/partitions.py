"""The daily partitions: from the first to the last landed day (open-ended under the system clock)."""

from __future__ import annotations

from datetime import timedelta

import dagster as dg

from contrail import landing
from contrail.clock import utc_now
from contrail.settings import Settings

DAY_FORMAT = "%Y-%m-%d"


def daily_partitions(settings: Settings) -> dg.DailyPartitionsDefinition:
    """One partition a day: of the service date for schedules, clean rows and scores, of the feed day for feeds.

    Reads the small range file that landing keeps; before anything has landed there are no partitions yet.
    """
    landed = landing.partition_range(settings.landing_root)
    if landed is None:
        today = utc_now().date()
        return dg.DailyPartitionsDefinition(start_date=today.strftime(DAY_FORMAT), timezone="UTC")
    end = None if settings.clock == "system" else (landed.last + timedelta(days=1)).strftime(DAY_FORMAT)
    return dg.DailyPartitionsDefinition(
        start_date=landed.first.strftime(DAY_FORMAT), end_date=end, timezone="UTC"
    )


def partition_days(context: dg.AssetExecutionContext) -> tuple[str, str]:
    """The first and last day of this run's partitions, both included."""
    keys = sorted(context.partition_keys)
    return keys[0], keys[-1]
