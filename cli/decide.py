"""`contrail request | approve | reject | rollback`: who becomes champion, decided by people.

The decision is a row of the log in the lake and needs nothing else. What it leaves in Dagster and MLflow comes after
it; where that cannot be done the command says so and still ends with 0.
"""

from __future__ import annotations

import uuid
from collections.abc import Callable
from typing import TYPE_CHECKING

from cli.asked import chosen_use_case
from cli.output import failures, print_json, say
from contrail.settings import Settings

if TYPE_CHECKING:
    from contrail.decisions import Decision
    from contrail.lake import Lake


def request(version: int, *, use_case: str | None, by: str, reason: str, as_json: bool) -> None:
    """Ask for a version to become champion."""
    from contrail import promotions

    _decide(promotions.request, version, use_case=use_case, by=by, reason=reason, as_json=as_json)


def approve(request_id: str, *, by: str, reason: str, as_json: bool) -> None:
    """Approve a request; the last approval needed promotes."""
    from contrail import promotions

    _decide(promotions.approve, request_id, is_of_request=True, by=by, reason=reason, as_json=as_json)


def reject(request_id: str, *, by: str, reason: str, as_json: bool) -> None:
    """Reject a request."""
    from contrail import promotions

    _decide(promotions.reject, request_id, is_of_request=True, by=by, reason=reason, as_json=as_json)


def rollback(*, use_case: str | None, by: str, reason: str, as_json: bool) -> None:
    """Put the champion before the present one back."""
    from contrail import promotions

    _decide(promotions.rollback, use_case=use_case, by=by, reason=reason, as_json=as_json)


def _decide(
    decide: Callable[..., Decision],
    *what: str | int,
    by: str,
    reason: str,
    as_json: bool,
    use_case: str | None = None,
    is_of_request: bool = False,
) -> None:
    """Decide by a rule of `contrail.promotions` on `what`; a request names its use case itself."""
    from contrail import decisions, promotions, provenance
    from contrail.clock import ClockError, clock_for
    from contrail.decisions import DecisionError
    from contrail.lake import Commit, Lake, LakeError

    settings = Settings()
    lake = Lake(settings.lake_root)
    with failures(promotions.Refused, DecisionError, LakeError, ClockError):
        name = promotions.use_case_of(lake, str(what[0])) if is_of_request else use_case
        commit = Commit(
            asset=decisions.TABLE,
            run_id=f"cli {uuid.uuid4()}",
            inputs=(),
            git_sha=provenance.recorded_git_sha(settings),
        )
        now = clock_for(settings).now()
        decision = decide(chosen_use_case(name), *what, lake, by=by, reason=reason, now=now, commit=commit)
        approvals = _approvals(lake, decision)
    if not as_json:
        _print(decision, approvals)
    warnings = _follow(settings, decision)
    if as_json:
        print_json({"decision": decision, "anchor": str(decision.anchor), "warnings": warnings})
        return
    for warning in warnings:
        say(f"  note: {warning}")


def _approvals(lake: Lake, decision: Decision) -> int:
    from contrail import decisions

    mine = [row for row in decisions.read(lake, decision.use_case) if row.request_id == decision.request_id]
    return sum(row.event in ("approved", "promoted") for row in mine)


def _follow(settings: Settings, decision: Decision) -> list[str]:
    import logging

    from resources.decisions import after_decision

    # What it returns is printed below; without a handler Python would print its log too.
    logging.getLogger("resources.decisions").addHandler(logging.NullHandler())
    return after_decision(settings, decision.use_case, decision.anchor)


def _print(decision: Decision, approvals: int) -> None:
    name = f"{decision.use_case} version {decision.model_version} ({decision.model_sha256[:12]})"
    if decision.event == "requested":
        people = "1 person" if decision.approvals_needed == 1 else f"{decision.approvals_needed} people"
        say(f"request {decision.request_id}: {name} to become champion")
        say(
            f"  valid until {decision.expires_at:%Y-%m-%d %H:%M}Z; {people} must approve, not {decision.decided_by}"
        )
        say(f"  next: contrail approve {decision.request_id} --by NAME --reason TEXT")
    elif decision.event == "approved":
        say(
            f"request {decision.request_id} is approved by {approvals} of {decision.approvals_needed}: {name}"
        )
        say(f"  next: contrail approve {decision.request_id} --by NAME --reason TEXT    (somebody else)")
    elif decision.event == "promoted":
        say(f"champion is now {name}")
    elif decision.event == "rejected":
        say(f"request {decision.request_id} is rejected: {name}")
    else:
        say(f"champion is again {name}")
    say(f"  anchor {decision.anchor}")
