"""`contrail history`: what was decided about a model, and which version was champion at an instant."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from typing import TYPE_CHECKING

from cli.asked import chosen_use_case
from cli.output import failures, print_json, say, table
from contrail.settings import Settings

if TYPE_CHECKING:
    from contrail.decisions import Decision
    from contrail.registry import ChampionModel


@dataclass(frozen=True)
class History:
    """The decisions of one use case.

    Attributes:
        at: the instant asked for, on the project's clock; None for now.
        champion: the champion at that instant; None where there was none.
        decisions: those taken up to then, in order.
    """

    use_case: str
    at: datetime | None
    champion: ChampionModel | None
    decisions: list[Decision]


def main(*, at: datetime | None, use_case: str | None, as_json: bool) -> None:
    """Print the history; `at` is in UTC."""
    from contrail import registry
    from contrail.decisions import DecisionError
    from contrail.lake import Lake, LakeError

    name = chosen_use_case(use_case).name
    with failures(DecisionError, LakeError):
        taken = registry.decisions(Lake(Settings().lake_root), name)
    found = History(
        use_case=name,
        at=at,
        champion=registry.champion_in(taken, at=at),
        decisions=[one for one in taken if at is None or one.decided_at <= at],
    )
    if as_json:
        print_json(found)
    else:
        _print(found)


def _print(found: History) -> None:
    when = "now" if found.at is None else f"at {found.at:%Y-%m-%d %H:%M}Z"
    champion = found.champion
    if champion is None:
        say(f"{found.use_case}: there is no champion {when}")
    else:
        say(
            f"{found.use_case}: champion {when} is version {champion.version} ({champion.sha256[:12]}), since"
            f" {champion.promoted_at:%Y-%m-%d %H:%M}Z by {champion.promoted_by}: {champion.reason}"
        )
    if found.decisions:
        say("\ndecisions, on the project's clock")
        rows = [
            {
                "no.": one.sequence,
                "decided": one.decided_at,
                "event": one.event,
                "version": one.model_version,
                "request": one.request_id,
                "by": one.decided_by,
                "reason": one.reason,
            }
            for one in found.decisions
        ]
        say(table(rows, ["no.", "decided", "event", "version", "request", "by", "reason"]))
