"""Freshness of the feeds, on the project's clock: what has arrived, against what the contract promises."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from pathlib import Path
from typing import Literal, TypeAlias

from contrail import intake, landing
from contrail.contracts import Contract, ContractError
from contrail.lake import Lake

FRESHNESS = "freshness"
UNITS = {
    **dict.fromkeys(("m", "min", "minute", "minutes"), timedelta(minutes=1)),
    **dict.fromkeys(("h", "hr", "hour", "hours"), timedelta(hours=1)),
    **dict.fromkeys(("d", "day", "days"), timedelta(days=1)),
}

State: TypeAlias = Literal["fresh", "not taken in", "source late", "never landed"]


@dataclass(frozen=True)
class FeedFreshness:
    """One feed now.

    Attributes:
        state: ``not taken in`` where something newer has landed than was taken in: the only state that a run mends.
            ``source late`` where the newest delivery is older than the contract allows: running again mends nothing.
        newest_delivered_at: of all that landed.
        allowed_age: from the contract; None where it promises nothing.
        waiting_files: landed and not taken in.
    """

    table: str
    state: State
    newest_delivered_at: datetime | None
    age: timedelta | None
    allowed_age: timedelta | None
    waiting_files: int


def allowed_age(contract: Contract) -> timedelta | None:
    """The contract's freshness level, as a span; None where it promises none.

    Raises:
        ContractError: a unit that is none of minutes, hours and days, or a value that is no number.
    """
    level = contract.service_levels.get(FRESHNESS)
    if level is None:
        return None
    value, unit = level
    try:
        return float(value) * UNITS[(unit or "h").lower()]
    except (KeyError, TypeError, ValueError) as error:
        said = f"{value!r} {unit or ''}".strip()
        raise ContractError(
            f"{contract.table}: the freshness level {said} is not a number with one of the units {', '.join(UNITS)}"
        ) from error


def feed_freshness(lake: Lake, landing_root: Path, contract: Contract, now: datetime) -> FeedFreshness:
    """How fresh one raw table is at `now`."""
    delivered = landing.deliveries(landing_root, contract.table)
    allowed = allowed_age(contract)
    if not delivered:
        return FeedFreshness(contract.table, "never landed", None, None, allowed, 0)
    newest = max(delivery.delivered_at for delivery in delivered)
    waiting = len(intake.waiting(lake, contract.table, delivered))
    late = allowed is not None and now - newest > allowed
    state: State = "not taken in" if waiting else "source late" if late else "fresh"
    return FeedFreshness(contract.table, state, newest, now - newest, allowed, waiting)


def all_feeds(
    lake: Lake, landing_root: Path, contracts: Mapping[str, Contract], now: datetime
) -> list[FeedFreshness]:
    """Every raw table, in the contracts' order."""
    return [feed_freshness(lake, landing_root, contract, now) for contract in contracts.values()]
