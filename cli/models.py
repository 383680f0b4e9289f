"""`contrail models`: the versions of a model, which of them scores, and what waits for a decision."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from cli.asked import chosen_use_case
from cli.output import failures, print_json, say, table
from contrail.settings import Settings

if TYPE_CHECKING:
    from datetime import datetime

    from contrail.lake import Lake
    from contrail.promotions import Request
    from contrail.registry import ChampionModel, ModelVersion
    from contrail.use_case import UseCase


@dataclass(frozen=True)
class Models:
    """One use case's models.

    Attributes:
        champion: the version that scores, by whose decision and why; None while there is none.
        challenger: the version that may become it; None where there is none.
        versions: every version, with what its newest evaluation found unmet.
        requests: every promotion request with its present state.
        other_use_cases: further use cases that are declared.
        next: commands that a person may give now.
    """

    use_case: str
    champion: ChampionModel | None
    challenger: ModelVersion | None
    versions: list[ModelVersion]
    requests: list[Request]
    other_use_cases: list[str]
    next: list[str]


def main(*, use_case: str | None, as_json: bool) -> None:
    """Print the models of a use case."""
    from contrail.clock import ClockError, clock_for
    from contrail.decisions import DecisionError
    from contrail.lake import Lake, LakeError
    from feature_repo.use_cases import USE_CASES

    settings = Settings()
    chosen = chosen_use_case(use_case)
    with failures(ClockError, DecisionError, LakeError):
        found = collect(chosen, Lake(settings.lake_root), clock_for(settings).now(), tuple(USE_CASES))
    if as_json:
        print_json(found)
    else:
        _print(found)


def collect(use_case: UseCase, lake: Lake, now: datetime, declared: Sequence[str]) -> Models:
    """Read it off the log."""
    from contrail import promotions, registry

    history = registry.decisions(lake, use_case.name)
    versions = registry.versions_in(history)
    requests = promotions.requests(use_case, lake, now=now)
    challenger = next((v for v in versions if v.role == "challenger"), None)
    return Models(
        use_case=use_case.name,
        champion=registry.champion_in(history),
        challenger=challenger,
        versions=versions,
        requests=requests,
        other_use_cases=[name for name in declared if name != use_case.name],
        next=advice(use_case, challenger, requests),
    )


def advice(use_case: UseCase, challenger: ModelVersion | None, requests: Sequence[Request]) -> list[str]:
    """What a person may do now, as commands."""
    said: list[str] = []
    for one in requests:
        if one.state == "open":
            left = one.needed - len(one.approvals)
            names = ", ".join((one.asked_by, *one.approvals))
            people = "a person" if left == 1 else f"{left} people"
            said.append(
                f"contrail approve {one.request_id} --by NAME --reason TEXT    (or reject: {use_case.name} version"
                f" {one.version} waits for {people} other than {names}, until {one.expires_at:%Y-%m-%d %H:%M}Z)"
            )
    asked = {one.version for one in requests if one.state == "open"}
    if challenger is not None and challenger.version not in asked and _may_be_asked(use_case, challenger):
        option = f" --use-case {use_case.name}"
        said.append(
            f"contrail request {challenger.version}{option} --by NAME --reason TEXT    (it meets its criteria, and"
            " nobody asks for it)"
        )
    return said


def criteria_in_words(version: ModelVersion) -> str:
    """What its newest evaluation found, in two words."""
    if not version.evaluation_id:
        return "not evaluated"
    return f"{len(version.unmet)} unmet" if version.unmet else "all met"


def _may_be_asked(use_case: UseCase, version: ModelVersion) -> bool:
    is_judged = bool(version.evaluation_id) and version.criteria_sha256 == use_case.criteria_sha256
    return is_judged and not version.unmet


def _print(found: Models) -> None:
    say(found.use_case)
    if not found.versions:
        say("  no model is registered yet: contrail run")
    champion = found.champion
    if champion is not None:
        since = f"since {champion.promoted_at:%Y-%m-%d %H:%M}Z by {champion.promoted_by}"
        say(f"  champion    version {champion.version}, {since}: {champion.reason}")
    elif found.versions:
        say("  champion    none: nothing is scored until a request is approved")
    if found.challenger is not None:
        say(f"  challenger  version {found.challenger.version}")
    if found.versions:
        say("\nversions")
        say(
            table(
                [_version(v) for v in found.versions], ["version", "role", "sha256", "registered", "criteria"]
            )
        )
        for version in found.versions:
            for sentence in version.unmet:
                say(f"  ! version {version.version} does not meet {sentence}")
    if found.requests:
        say("\npromotion requests")
        columns = [
            "request",
            "version",
            "asked by",
            "asked",
            "expires",
            "approved by",
            "needed",
            "state",
            "why",
        ]
        say(table([_request(one) for one in found.requests], columns))
    if found.other_use_cases:
        say(f"\nother use cases (--use-case): {', '.join(found.other_use_cases)}")
    if found.next:
        say("\nnext")
        for line in found.next:
            say(f"  {line}")


def _version(version: ModelVersion) -> dict[str, Any]:
    return {
        "version": version.version,
        "role": version.role,
        "sha256": version.sha256[:12],
        "registered": version.registered_at,
        "criteria": criteria_in_words(version),
    }


def _request(one: Request) -> dict[str, Any]:
    return {
        "request": one.request_id,
        "version": one.version,
        "asked by": one.asked_by,
        "asked": one.asked_at,
        "expires": one.expires_at,
        "approved by": ", ".join(one.approvals),
        "needed": one.needed,
        "state": one.state,
        "why": one.why,
    }
