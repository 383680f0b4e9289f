"""Who becomes champion: requests, approvals, rejections and rollbacks, all of them rows of the decision log.

A request binds what it was made of: the version and the bytes of its model, the evaluation and its evidence, the
criteria, the champion of the moment. Whatever of that changes before the last approval voids it. A request holds no
process and no state of its own: what it is now is folded from the rows each time it is asked.
"""

from __future__ import annotations

import hashlib
import unicodedata
from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from typing import Literal

from contrail import decisions, evidence, model_files
from contrail.decisions import Decision, Draft
from contrail.evidence import EvidenceError
from contrail.lake import Commit, Lake
from contrail.model_files import ModelFilesError
from contrail.registry import ModelVersion, champion_in, champions_in, versions_in
from contrail.use_case import UseCase

ID_LENGTH = 12

State = Literal["open", "expired", "void", "rejected", "promoted"]


class Refused(RuntimeError):
    """The decision was not taken; the message says why."""


@dataclass(frozen=True)
class Request:
    """A promotion request and what it is now.

    Attributes:
        request_id: 12 hex digits.
        version: the version asked for; sha256: its model's identity.
        evaluation_id: the evidence that it rests on.
        asked_by, asked_at, reason: who asked, when on the project's clock, and why.
        expires_at: end of the wait, on the project's clock.
        approvals: who approved so far.
        needed: how many must: as many as when it was asked, or as the use case says now where that is more.
        state: open, expired, void, rejected or promoted.
        why: for what reason it is void, or by whom and why it was decided; empty while it is open.
    """

    request_id: str
    use_case: str
    version: int
    sha256: str
    evaluation_id: str
    asked_by: str
    asked_at: datetime
    reason: str
    expires_at: datetime
    approvals: tuple[str, ...]
    needed: int
    state: State
    why: str


def request(
    use_case: UseCase, version: int, lake: Lake, *, by: str, reason: str, now: datetime, commit: Commit
) -> Decision:
    """Ask for a version to become champion.

    Args:
        by: a person or a run; who asks cannot approve.
        now: the project's clock; the request is valid for the use case's `request_valid_for` from here.

    Raises:
        Refused: there is no such version, it is champion, it was never evaluated, its newest evaluation has something
            unmet or compared it with another champion, the criteria were changed after the fit, its files or evidence
            are missing or altered, or a request for it waits already.
        DecisionError: the log is damaged, or other writers were always first.
    """
    by, reason = _said(by, reason)

    def decide(rows: Sequence[Decision]) -> list[Draft]:
        history = [row for row in rows if row.use_case == use_case.name]
        asked = _version(use_case, history, version)
        champion = champion_in(history)
        name = f"{use_case.name} version {version}"
        if asked.role == "champion":
            raise Refused(f"{name} is the champion already")
        if not asked.evaluation_id:
            raise Refused(f"{name} was never evaluated: train again")
        if asked.unmet:
            raise Refused(f"{name} does not meet its criteria: {'; '.join(asked.unmet)}")
        waiting = [one for one in _fold(use_case, history, lake, now) if one.state == "open"]
        if same := next((one for one in waiting if one.version == version), None):
            raise Refused(f"request {same.request_id} for {name} waits already")
        if doubt := _doubt(use_case, lake, asked.sha256, asked.evaluation_id, asked.criteria_sha256):
            raise Refused(f"{name} cannot be promoted: {doubt}")
        compared = str(evidence.read(lake.root, asked.sha256, asked.evaluation_id)["champion_sha256"])
        if compared != (champion.sha256 if champion else ""):
            now_champion = f"version {champion.version}" if champion else "none"
            raise Refused(
                f"{name} was compared with another champion than that of now ({now_champion}): train again"
            )
        bound = f"{use_case.name}/{version}/{asked.sha256}/{asked.evaluation_id}/{len(rows)}"
        return [
            Draft(
                use_case=use_case.name,
                event="requested",
                model_version=version,
                model_sha256=asked.sha256,
                decided_at=now,
                decided_by=by,
                reason=reason,
                request_id=hashlib.sha256(bound.encode()).hexdigest()[:ID_LENGTH],
                evaluation_id=asked.evaluation_id,
                criteria_sha256=asked.criteria_sha256,
                champion_sequence=champion.sequence if champion else decisions.NO_CHAMPION,
                approvals_needed=use_case.approvals_needed,
                expires_at=now + use_case.request_valid_for,
            )
        ]

    return decisions.append(lake, decide, commit)[-1]


def approve(
    use_case: UseCase, request_id: str, lake: Lake, *, by: str, reason: str, now: datetime, commit: Commit
) -> Decision:
    """Approve a request; the last approval needed promotes, in the same append.

    Raises:
        Refused: there is no such request, it is decided, expired or void (see `requests`), or the approver is who
            asked, or has approved it already; names are compared without case, width of letters and extra blanks.
        DecisionError: the log is damaged, or other writers were always first.
    """
    by, reason = _said(by, reason)

    def decide(rows: Sequence[Decision]) -> list[Draft]:
        found, asked = _find(use_case, rows, request_id, lake, now)
        _check_undecided(found)
        if found.state != "open":
            raise Refused(f"request {request_id} is {found.state}: {found.why}")
        if _person(by) == _person(found.asked_by):
            raise Refused(f"{by} asked for it, and who asks cannot approve: let somebody else decide")
        if _person(by) in {_person(name) for name in found.approvals}:
            raise Refused(f"{by} has approved it already: one person approves once")
        is_last = len(found.approvals) + 1 >= found.needed
        event = "promoted" if is_last else "approved"
        answer = asked.answered(event, decided_at=now, decided_by=by, reason=reason)
        return [replace(answer, approvals_needed=found.needed)]

    return decisions.append(lake, decide, commit)[-1]


def reject(
    use_case: UseCase, request_id: str, lake: Lake, *, by: str, reason: str, now: datetime, commit: Commit
) -> Decision:
    """Reject a request for good, whoever asked; a void one too, for what voids it might be repaired.

    Raises:
        Refused: there is no such request, or it is decided or expired.
        DecisionError: the log is damaged, or other writers were always first.
    """
    by, reason = _said(by, reason)

    def decide(rows: Sequence[Decision]) -> list[Draft]:
        found, asked = _find(use_case, rows, request_id, lake, now)
        _check_undecided(found)
        if found.state == "expired":
            raise Refused(f"request {request_id} is expired: {found.why}")
        return [asked.answered("rejected", decided_at=now, decided_by=by, reason=reason)]

    return decisions.append(lake, decide, commit)[-1]


def rollback(
    use_case: UseCase, lake: Lake, *, by: str, reason: str, now: datetime, commit: Commit
) -> Decision:
    """Put the champion before the present one back, in one step; once more goes one further back.

    Raises:
        Refused: there is no earlier champion, or its files are missing or altered, or its features are made otherwise
            now.
        DecisionError: the log is damaged, or other writers were always first.
    """
    by, reason = _said(by, reason)

    def decide(rows: Sequence[Decision]) -> list[Draft]:
        history = [row for row in rows if row.use_case == use_case.name]
        stack = champions_in(history)
        if len(stack) < 2:
            raise Refused(f"{use_case.name} has no earlier champion to go back to")
        present, target = stack[-1], stack[-2]
        if doubt := _artifact_doubt(use_case, lake, target.model_sha256, target.evaluation_id):
            raise Refused(f"{use_case.name} cannot go back to version {target.model_version}: {doubt}")
        return [
            Draft(
                use_case=use_case.name,
                event="rolled_back",
                model_version=target.model_version,
                model_sha256=target.model_sha256,
                decided_at=now,
                decided_by=by,
                reason=reason,
                evaluation_id=target.evaluation_id,
                criteria_sha256=target.criteria_sha256,
                champion_sequence=present.sequence,
            )
        ]

    return decisions.append(lake, decide, commit)[-1]


def requests(use_case: UseCase, lake: Lake, *, now: datetime) -> list[Request]:
    """Every request of the use case, oldest first, with its present state.

    The model of a request that waits is loaded, and its evidence read: either may void it.
    """
    return _fold(use_case, decisions.read(lake, use_case.name), lake, now)


def use_case_of(lake: Lake, request_id: str) -> str:
    """The name of the use case that a request is for.

    Raises:
        Refused: there is no such request.
    """
    for row in decisions.read(lake):
        if row.event == "requested" and row.request_id == request_id:
            return row.use_case
    raise Refused(f"there is no request {request_id!r}: contrail models lists them")


# --- folding ----------------------------------------------------------------------------------------------------------


def _fold(use_case: UseCase, history: Sequence[Decision], lake: Lake, now: datetime) -> list[Request]:
    return [_folded(use_case, asked, history, lake, now) for asked in history if asked.event == "requested"]


def _folded(
    use_case: UseCase, asked: Decision, history: Sequence[Decision], lake: Lake, now: datetime
) -> Request:
    answers = [row for row in history if row.request_id == asked.request_id and row is not asked]
    expires_at = asked.expires_at or asked.decided_at
    last = answers[-1] if answers else asked
    state: State = "open"
    why = ""
    if last.event == "promoted" or last.event == "rejected":
        state, why = last.event, f"by {last.decided_by}: {last.reason}"
    elif max(now, history[-1].decided_at) > expires_at:
        state, why = "expired", f"it was valid until {expires_at:%Y-%m-%d %H:%M}Z; ask anew"
    elif why := _void(use_case, asked, history, lake):
        state = "void"
    return Request(
        request_id=asked.request_id,
        use_case=asked.use_case,
        version=asked.model_version,
        sha256=asked.model_sha256,
        evaluation_id=asked.evaluation_id,
        asked_by=asked.decided_by,
        asked_at=asked.decided_at,
        reason=asked.reason,
        expires_at=expires_at,
        approvals=tuple(row.decided_by for row in answers if row.event in ("approved", "promoted")),
        needed=max(asked.approvals_needed, use_case.approvals_needed),
        state=state,
        why=why,
    )


def _void(use_case: UseCase, asked: Decision, history: Sequence[Decision], lake: Lake) -> str:
    """What has changed since the request, in words; empty where nothing."""
    champion = champion_in(history)
    if (champion.sequence if champion else decisions.NO_CHAMPION) != asked.champion_sequence:
        name = f"version {champion.version}" if champion else "none"
        return f"the champion changed since the request, it is {name} now: train again"
    if doubt := _doubt(use_case, lake, asked.model_sha256, asked.evaluation_id, asked.criteria_sha256):
        return doubt
    version = _version(use_case, history, asked.model_version)
    if version.evaluation_id != asked.evaluation_id:
        return "the version was evaluated anew since the request: ask on the newer evaluation"
    return ""


def _doubt(use_case: UseCase, lake: Lake, sha256: str, evaluation_id: str, criteria_sha256: str) -> str:
    """Why a version may not be decided on as it is, in words; empty where nothing speaks against it."""
    if criteria_sha256 != use_case.criteria_sha256:
        return (
            f"the criteria were changed after the fit: it was judged by {criteria_sha256[:12]}, declared now are"
            f" {use_case.criteria_sha256[:12]}; train again"
        )
    return _artifact_doubt(use_case, lake, sha256, evaluation_id) or _evidence_doubt(
        lake, use_case, sha256, evaluation_id, criteria_sha256
    )


def _artifact_doubt(use_case: UseCase, lake: Lake, sha256: str, evaluation_id: str) -> str:
    try:
        loaded = model_files.load(lake.root, sha256, feature_code=use_case.feature_code())
        if evaluation_id:  # of a model that was never evaluated there is nothing to compare with
            evidence.require_files(lake.root, sha256, evaluation_id, loaded.manifest["files"])
    except ModelFilesError as error:
        return f"its model does not load: {error}"
    except EvidenceError as error:
        return f"its evidence is not what was recorded: {error}"
    return ""


def _evidence_doubt(
    lake: Lake, use_case: UseCase, sha256: str, evaluation_id: str, criteria_sha256: str
) -> str:
    try:
        record = evidence.read(lake.root, sha256, evaluation_id)
    except EvidenceError as error:
        return f"its evidence is not what was recorded: {error}"
    judged = (record["use_case"], record["model_sha256"], record["criteria_sha256"])
    if judged != (use_case.name, sha256, criteria_sha256):
        return f"the evaluation {evaluation_id[:12]} is of another model, or by other criteria"
    if any(not verdict["met"] for verdict in record["verdicts"]):
        return f"the evaluation {evaluation_id[:12]} finds criteria unmet that the log does not name; train again"
    if record["manifest_sha256"] != model_files.manifest_sha256(lake.root, sha256):
        return "the model's files are not those that were evaluated: its manifest was exchanged since; train again"
    return ""


def _version(use_case: UseCase, history: Sequence[Decision], version: int) -> ModelVersion:
    known = versions_in(history)
    for one in known:
        if one.version == version:
            return one
    there = ", ".join(str(one.version) for one in known) or "none yet"
    raise Refused(f"{use_case.name} has no version {version}; registered: {there}")


def _find(
    use_case: UseCase, rows: Sequence[Decision], request_id: str, lake: Lake, now: datetime
) -> tuple[Request, Decision]:
    history = [row for row in rows if row.use_case == use_case.name]
    for asked in history:
        if asked.event == "requested" and asked.request_id == request_id:
            return _folded(use_case, asked, history, lake, now), asked
    raise Refused(f"{use_case.name} has no request {request_id!r}: contrail models lists them")


def _check_undecided(found: Request) -> None:
    if found.state in ("promoted", "rejected"):
        raise Refused(f"request {found.request_id} was decided already: {found.state} {found.why}")


def _said(by: str, reason: str) -> tuple[str, str]:
    """Name and reason in one line each; what does not show could make one person two, or a line look like several."""
    name, why = " ".join(by.split()), " ".join(reason.split())
    if not name:
        raise Refused("a decision needs the name of who takes it")
    if not why:
        raise Refused("a decision needs its reason")
    for said, text in (("name", name), ("reason", why)):
        if hidden := next((character for character in text if not character.isprintable()), None):
            raise Refused(f"the {said} holds {hidden!a}, which does not show: write it without")
    return name, why


def _person(name: str) -> str:
    """A name without what spellings of the same name differ in."""
    folded = unicodedata.normalize("NFKC", unicodedata.normalize("NFKC", name).casefold())
    return " ".join(folded.split())
