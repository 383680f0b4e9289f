"""Up to which instant the feeds are complete.

What is built from several feeds may reach only up to the least end of what has been taken in of each of them; a file
that was blocked counts as not delivered.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime

from contrail.contracts import Contract
from contrail.lake import Lake

ACCEPTED_UNTIL = "accepted_until"
BLOCKED = "blocked"
ACCEPTED = "accepted"


@dataclass(frozen=True)
class Completeness:
    """`until` is exclusive, and None while a bounding feed has nothing; `by_feed` says which feed holds it back."""

    until: datetime | None
    by_feed: Mapping[str, datetime | None]


def accepted_until(lake: Lake, table: str) -> datetime | None:
    """The end of the newest accepted delivery of a raw table."""
    if not lake.exists(table):
        return None
    stated = [
        record.extra[ACCEPTED_UNTIL] for record in lake.commits(table) if record.extra.get(ACCEPTED_UNTIL)
    ]
    return max((datetime.fromisoformat(value) for value in stated), default=None)


def complete_until(lake: Lake, contracts: Mapping[str, Contract]) -> Completeness:
    """The least end over the feeds whose contract says that they bound completeness."""
    by_feed = {
        name: accepted_until(lake, f"raw/{name}")
        for name, contract in contracts.items()
        if contract.bounds_completeness
    }
    ends = [end for end in by_feed.values() if end is not None]
    whole = len(ends) == len(by_feed) and bool(ends)
    return Completeness(until=min(ends) if whole else None, by_feed=by_feed)
