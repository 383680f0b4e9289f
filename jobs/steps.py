"""One step of the plan, and days as the runs of a job want them: in ranges."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from datetime import date, timedelta

from contrail.lake import CommitRecord

REASON_TAG = "contrail/reason"


@dataclass(frozen=True)
class Step:
    """One run that is due: which job, which assets of it (all when empty), which days, and why."""

    job: str
    reason: str
    first: str | None = None
    last: str | None = None
    assets: tuple[str, ...] = ()

    @property
    def days(self) -> str:
        """The days in words: empty, a day, or ``first..last``."""
        if self.first is None or self.last is None:
            return ""
        return self.first if self.first == self.last else f"{self.first}..{self.last}"

    @property
    def tags(self) -> dict[str, str]:
        """What a run of this step is tagged with: the reason, and the days as one range."""
        tags = {REASON_TAG: self.reason[:200]}
        if self.first is not None and self.last is not None:
            tags |= {
                "dagster/asset_partition_range_start": self.first,
                "dagster/asset_partition_range_end": self.last,
            }
        return tags


def days_between(first: str, last: str) -> list[str]:
    """All days from first to last, both included."""
    start, end = date.fromisoformat(first), date.fromisoformat(last)
    return [(start + timedelta(days=n)).isoformat() for n in range((end - start).days + 1)]


def contiguous(days: Iterable[str]) -> list[tuple[str, str]]:
    """Days as maximal runs of consecutive ones: one run of a job each."""
    ranges: list[tuple[str, str]] = []
    for day in sorted(set(days)):
        if ranges and date.fromisoformat(day) - date.fromisoformat(ranges[-1][1]) == timedelta(days=1):
            ranges[-1] = (ranges[-1][0], day)
        else:
            ranges.append((day, day))
    return ranges


def partition_days(record: CommitRecord) -> list[str]:
    """The days that a commit says it wrote; none where it is not of days."""
    return days_between(*(day.isoformat() for day in record.days)) if record.days else []
