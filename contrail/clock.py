"""The only source of *now*.

Data of a past year live at a past now: under the `data` clock now is the newest instant at which a fact file was
delivered, so that schedules, ages, labels and freshness mean the same in a demo of an old year as in production.
"""

from __future__ import annotations

import time
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Protocol

from contrail import landing
from contrail.settings import Settings, export


class Clock(Protocol):
    def now(self) -> datetime:
        """The current instant, aware, in UTC."""
        ...


class ClockError(RuntimeError):
    """The clock cannot say what time it is."""


@dataclass(frozen=True)
class SystemClock:
    """The wall clock."""

    def now(self) -> datetime:
        return utc_now()


@dataclass(frozen=True)
class DataClock:
    """Now is the greatest `delivered_at` of the landed fact files; reference files never move it."""

    landing_root: Path

    def now(self) -> datetime:
        landed = landing.partition_range(self.landing_root)
        if landed is None:
            raise ClockError(
                f"the data clock has no time yet: nothing has landed in {self.landing_root} (contrail land)"
            )
        return landed.newest_fact_delivered_at


@dataclass(frozen=True)
class ReplayClock:
    """Now is whatever the replay says."""

    at: datetime

    def now(self) -> datetime:
        return self.at.astimezone(UTC)


def clock_for(settings: Settings) -> Clock:
    """The clock that the settings name."""
    if settings.clock == "system":
        return SystemClock()
    if settings.clock == "replay":
        if settings.replay_at is None:  # the settings refuse this; said again for the type checker
            raise ClockError("the replay clock has no instant")
        return ReplayClock(settings.replay_at)
    return DataClock(settings.landing_root)


def utc_now() -> datetime:
    """The physical instant, for `_written_at` and logs; it decides nothing about the data."""
    return datetime.now(UTC)


def pin_utc() -> None:
    """Make UTC the zone of this process (Feast's SQLite store writes epochs that depend on it)."""
    export({"TZ": "UTC"})
    time.tzset()
