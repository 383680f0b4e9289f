"""Promotions: what a request binds, who may approve it, and every reason for which it is refused."""

from __future__ import annotations

import json
from dataclasses import replace
from datetime import timedelta
from pathlib import Path

import pytest

from contrail import decisions, evidence, model_files, promotions, registry
from contrail.lake import Lake
from contrail.promotions import Refused
from contrail.use_case import UseCase
from tests.support.decided_models import (
    COMMIT,
    VALID,
    approve,
    ask,
    champion_version,
    model,
    promote,
    register,
    two_approvals,
    world,
)
from tests.support.small_model import NOW, USE_CASE


@pytest.fixture
def lake(tmp_path: Path) -> Lake:
    """Version 1 is champion, version 2 challenger."""
    return world(tmp_path)


def state(lake: Lake, request_id: str, at: timedelta = timedelta(0)) -> tuple[str, str]:
    found = {one.request_id: one for one in promotions.requests(USE_CASE, lake, now=NOW + at)}[request_id]
    return found.state, found.why


def rollback(lake: Lake) -> decisions.Decision:
    return promotions.rollback(USE_CASE, lake, by="Ada", reason="errors", now=NOW, commit=COMMIT)


# --- the way through --------------------------------------------------------------------------------------------------


def test_a_request_binds_what_it_was_made_of(lake: Lake) -> None:
    asked = promotions.request(USE_CASE, 2, lake, by="Bob", reason="better", now=NOW, commit=COMMIT)
    version = registry.versions(USE_CASE.name, lake)[1]
    champion = registry.champion(USE_CASE.name, lake)
    assert champion is not None
    assert (asked.event, asked.model_version, asked.decided_by, asked.reason) == (
        "requested",
        2,
        "Bob",
        "better",
    )
    assert (asked.model_sha256, asked.evaluation_id) == (model(2).sha256, version.evaluation_id)
    assert (asked.criteria_sha256, asked.champion_sequence) == (USE_CASE.criteria_sha256, champion.sequence)
    assert (asked.decided_at, asked.expires_at, asked.approvals_needed) == (NOW, NOW + VALID, 1)
    assert len(asked.request_id) == promotions.ID_LENGTH
    (waiting,) = promotions.requests(USE_CASE, lake, now=NOW)
    assert (waiting.state, waiting.why, waiting.approvals, waiting.needed) == ("open", "", (), 1)
    assert promotions.use_case_of(lake, asked.request_id) == USE_CASE.name


def test_an_approval_promotes(lake: Lake) -> None:
    asked = ask(lake, 2)
    done = approve(lake, asked)
    assert (done.event, done.model_version, done.request_id) == ("promoted", 2, asked)
    champion = registry.champion(USE_CASE.name, lake)
    assert champion is not None
    assert (champion.version, champion.sha256, champion.promoted_by) == (2, model(2).sha256, "Ada")
    (decided,) = promotions.requests(USE_CASE, lake, now=NOW)
    assert (decided.state, decided.why, decided.approvals) == ("promoted", "by Ada: agreed", ("Ada",))
    assert decisions.verify(lake).holds


def test_where_two_must_approve_the_second_promotes(lake: Lake) -> None:
    use_case = two_approvals()
    asked = ask(lake, 2, use_case=use_case)
    assert approve(lake, asked, "Ada", use_case).event == "approved"
    assert champion_version(lake) == 1
    with pytest.raises(Refused, match="^Ada has approved it already: one person approves once$"):
        approve(lake, asked, "Ada", use_case)
    assert approve(lake, asked, "Eve", use_case).event == "promoted"
    assert champion_version(lake) == 2


def test_without_a_champion_the_first_is_promoted_by_request(tmp_path: Path) -> None:
    lake = Lake(tmp_path)
    register(lake, 1, first_by_rule=False)
    asked = ask(lake, 1)
    assert decisions.read(lake)[-1].champion_sequence == decisions.NO_CHAMPION
    approve(lake, asked)
    assert champion_version(lake) == 1


def test_a_rejection_is_for_good_and_the_version_no_challenger(lake: Lake) -> None:
    asked = ask(lake, 2)
    done = promotions.reject(USE_CASE, asked, lake, by="Ada", reason="worse at night", now=NOW, commit=COMMIT)
    assert (done.event, done.model_version, done.request_id) == ("rejected", 2, asked)
    assert state(lake, asked) == ("rejected", "by Ada: worse at night")
    assert [v.role for v in registry.versions(USE_CASE.name, lake)] == ["champion", "archived"]
    with pytest.raises(
        Refused, match=f"^request {asked} was decided already: rejected by Ada: worse at night$"
    ):
        approve(lake, asked, "Eve")
    again = ask(lake, 2)
    assert again != asked
    assert registry.versions(USE_CASE.name, lake)[1].role == "challenger"


def test_rollbacks_go_back_one_by_one(lake: Lake) -> None:
    promote(lake, 2)
    register(lake, 3)
    promote(lake, 3)
    first = rollback(lake)
    assert (first.event, first.model_version, first.model_sha256) == ("rolled_back", 2, model(2).sha256)
    assert rollback(lake).model_version == 1
    assert champion_version(lake) == 1
    with pytest.raises(Refused, match="^broken_jar has no earlier champion to go back to$"):
        rollback(lake)


# --- refused when asked -----------------------------------------------------------------------------------------------


def test_a_version_that_is_not_there_or_champion_already(lake: Lake) -> None:
    with pytest.raises(Refused, match="^broken_jar has no version 7; registered: 1, 2$"):
        ask(lake, 7)
    with pytest.raises(Refused, match="^broken_jar version 1 is the champion already$"):
        ask(lake, 1)


def test_a_version_that_was_never_evaluated(lake: Lake) -> None:
    registry.register(
        USE_CASE.name, "f" * 64, lake, decided_at=NOW, decided_by="run", reason="trained", commit=COMMIT
    )
    with pytest.raises(Refused, match="^broken_jar version 3 was never evaluated: train again$"):
        ask(lake, 3)


def test_a_version_that_does_not_meet_its_criteria(lake: Lake) -> None:
    register(lake, 3, unmet=("max_bias", "parity"))
    words = r"max_bias: 0.061, limit 0.05; parity: 0.061, limit 0.05$"
    with pytest.raises(Refused, match=rf"^broken_jar version 3 does not meet its criteria: {words}"):
        ask(lake, 3)


def test_a_second_request_while_one_waits(lake: Lake) -> None:
    asked = ask(lake, 2)
    with pytest.raises(Refused, match=f"^request {asked} for broken_jar version 2 waits already$"):
        ask(lake, 2, by="Eve")
    assert ask(lake, 2, at=VALID + timedelta(seconds=1)) != asked, "the first has expired"


def test_an_evaluation_against_an_earlier_champion(lake: Lake) -> None:
    register(lake, 3)
    promote(lake, 2)
    why = r"compared with another champion than that of now \(version 2\): train again$"
    with pytest.raises(Refused, match=f"^broken_jar version 3 was {why}"):
        ask(lake, 3)
    assert register(lake, 3).version == 3  # evaluated anew, against version 2
    approve(lake, ask(lake, 3))
    assert champion_version(lake) == 3


# --- refused when approved --------------------------------------------------------------------------------------------


def test_an_unknown_request(lake: Lake) -> None:
    with pytest.raises(Refused, match="^broken_jar has no request 'abc'"):
        approve(lake, "abc")
    with pytest.raises(Refused, match="^there is no request 'abc'"):
        promotions.use_case_of(lake, "abc")


def test_a_request_of_another_use_case(lake: Lake) -> None:
    asked = ask(lake, 2)
    with pytest.raises(Refused, match=f"^full_jar has no request '{asked}'"):
        approve(lake, asked, use_case=replace(USE_CASE, name="full_jar"))


def test_an_expired_request(lake: Lake) -> None:
    asked = ask(lake, 2)
    late = VALID + timedelta(microseconds=1)
    assert state(lake, asked, at=VALID)[0] == "open"
    why = "it was valid until 2024-04-05 00:00Z; ask anew"
    assert state(lake, asked, at=late) == ("expired", why)
    with pytest.raises(Refused, match=f"^request {asked} is expired: {why}$"):
        approve(lake, asked, at=late)
    with pytest.raises(Refused, match=f"^request {asked} is expired: {why}$"):
        promotions.reject(USE_CASE, asked, lake, by="Ada", reason="x", now=NOW + late, commit=COMMIT)


def test_a_clock_set_back_does_not_revive_what_a_later_decision_has_outlived(lake: Lake) -> None:
    register(lake, 3)
    asked = ask(lake, 2)
    late = ask(lake, 3, at=VALID + timedelta(hours=1))
    with pytest.raises(Refused, match=f"^request {asked} is expired"):
        approve(lake, asked)
    assert approve(lake, late).decided_at == NOW + VALID + timedelta(hours=1)


def test_a_request_that_was_approved_already(lake: Lake) -> None:
    asked = ask(lake, 2)
    approve(lake, asked)
    with pytest.raises(Refused, match=f"^request {asked} was decided already: promoted by Ada: agreed$"):
        approve(lake, asked, "Eve")


def refused_as_void(lake: Lake, asked: str, why: str, use_case: UseCase = USE_CASE) -> None:
    """Refused with that reason, listed as void with the same reason, and champion is whoever was."""
    before = champion_version(lake)
    with pytest.raises(Refused, match=f"^request {asked} is void: {why}"):
        approve(lake, asked, "Eve", use_case)
    (found,) = [one for one in promotions.requests(use_case, lake, now=NOW) if one.request_id == asked]
    assert found.state == "void"
    assert champion_version(lake) == before


def test_the_champion_changed_since(lake: Lake) -> None:
    register(lake, 3)
    second, third = ask(lake, 2), ask(lake, 3)
    approve(lake, second)
    refused_as_void(lake, third, "the champion changed since the request, it is version 2 now: train again$")
    rollback(lake)  # the same version is champion again, by another decision
    refused_as_void(lake, third, "the champion changed since the request, it is version 1 now: train again$")


def test_the_criteria_were_changed_after_the_fit(lake: Lake) -> None:
    asked = ask(lake, 2)
    eased = replace(USE_CASE, criteria=replace(USE_CASE.criteria, max_bias=0.5))
    why = (
        f"the criteria were changed after the fit: it was judged by {USE_CASE.criteria_sha256[:12]}, declared now "
        f"are {eased.criteria_sha256[:12]}; train again$"
    )
    refused_as_void(lake, asked, why, eased)
    with pytest.raises(Refused, match=f"^broken_jar version 2 cannot be promoted: {why}"):
        ask(lake, 2, use_case=eased)


def test_one_byte_of_the_model_was_altered(lake: Lake) -> None:
    asked = ask(lake, 2)
    path = model_files.folder(lake.root, model(2).sha256) / model_files.MODEL
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)
    refused_as_void(lake, asked, r"its model does not load: .*model\.lgb was altered")
    content[len(content) // 2] ^= 1
    path.write_bytes(content)
    assert approve(lake, asked).event == "promoted", (
        "restored from the backup, it is the one that was asked for"
    )


def test_another_model_in_the_place_of_the_approved_one(lake: Lake) -> None:
    use_case = two_approvals()
    register(lake, 3)
    asked = ask(lake, 2, use_case=use_case)
    approve(lake, asked, "Ada", use_case)
    theirs = model_files.folder(lake.root, model(3).sha256)
    for path in theirs.glob("*.*"):
        (model_files.folder(lake.root, model(2).sha256) / path.name).write_bytes(path.read_bytes())
    refused_as_void(lake, asked, "its model does not load: .*holds another model", use_case)


def test_files_that_were_exchanged_together_with_their_manifest(lake: Lake) -> None:
    """All of them agree with each other, and the model's own bytes are the same: only the evidence knows better."""
    request_id = ask(lake, 2)
    folder = model_files.folder(lake.root, model(2).sha256)
    body = json.loads((folder / model_files.MANIFEST).read_bytes())
    del body["manifest_sha256"]
    body["git_sha"] = "another"
    (folder / model_files.MANIFEST).write_bytes(model_files.sealed(body))
    assert model_files.load(lake.root, model(2).sha256).manifest["git_sha"] == "another"
    with pytest.raises(Refused, match="its manifest was exchanged since; train again"):
        approve(lake, request_id)


def test_the_features_mean_something_else_now(tmp_path: Path) -> None:
    lake = Lake(tmp_path)
    then = replace(USE_CASE, feature_code=lambda: {"wall_mm": "1" * 64, "colour": "2" * 64})
    now = replace(USE_CASE, feature_code=lambda: {"wall_mm": "3" * 64, "colour": "2" * 64})
    register(lake, 1, use_case=then)
    register(lake, 2, use_case=then)
    asked = ask(lake, 2, use_case=then)
    refused_as_void(lake, asked, "its model does not load: .*wall_mm", now)
    assert approve(lake, asked, use_case=then).event == "promoted"
    with pytest.raises(
        Refused, match="^broken_jar cannot go back to version 1: its model does not load: .*wall_mm"
    ):
        promotions.rollback(now, lake, by="Ada", reason="errors", now=NOW, commit=COMMIT)


def test_the_evidence_was_altered_or_is_gone(lake: Lake) -> None:
    asked = ask(lake, 2)
    version = registry.versions(USE_CASE.name, lake)[1]
    path = evidence.folder(lake.root, version.sha256, version.evaluation_id) / evidence.RECORD
    path.write_bytes(path.read_bytes().replace(b'"broken_jar"', b'"broken_jug"'))
    refused_as_void(lake, asked, "its evidence is not what was recorded: .*was altered")
    path.unlink()
    refused_as_void(lake, asked, "its evidence is not what was recorded: there is no .*restore")


def test_evidence_by_other_criteria_than_the_log_says(lake: Lake) -> None:
    other = register(lake, 3, criteria=replace(USE_CASE.criteria, max_bias=0.5))
    swapped = registry.Evaluated(other.evaluation_id, USE_CASE.criteria_sha256, ())
    registry.register(
        USE_CASE.name, "a" * 64, lake, decided_at=NOW, decided_by="run", reason="x", commit=COMMIT
    )
    draft = replace(decisions.read(lake)[-1], model_version=3, model_sha256=other.sha256, event="evaluated",
                    criteria_sha256=swapped.criteria_sha256, evaluation_id=swapped.evaluation_id)  # fmt: skip
    decisions.append(lake, lambda rows: [draft], COMMIT)
    with pytest.raises(Refused, match="the evaluation .* is of another model, or by other criteria$"):
        ask(lake, 3)


def test_evidence_of_something_unmet_that_the_log_says_is_met(lake: Lake) -> None:
    other = register(lake, 3, unmet=("max_bias",))
    draft = replace(decisions.read(lake)[-1], event="evaluated", unmet=())
    decisions.append(lake, lambda rows: [draft], COMMIT)
    assert registry.versions(USE_CASE.name, lake)[-1].unmet == ()
    why = f"the evaluation {other.evaluation_id[:12]} finds criteria unmet that the log does not name"
    with pytest.raises(Refused, match=why):
        ask(lake, 3)


def test_where_more_must_approve_since_the_request_they_must(lake: Lake) -> None:
    asked = ask(lake, 2)
    first = approve(lake, asked, "Ada", two_approvals())
    assert (first.event, first.approvals_needed) == ("approved", 2)
    assert approve(lake, asked, "Eve", two_approvals()).event == "promoted"


def test_the_version_was_evaluated_anew_since(lake: Lake) -> None:
    asked = ask(lake, 2)
    register(lake, 2, note="on more days")
    refused_as_void(
        lake, asked, "the version was evaluated anew since the request: ask on the newer evaluation$"
    )
    approve(lake, ask(lake, 2))
    assert champion_version(lake) == 2


def test_what_is_void_may_still_be_rejected(lake: Lake) -> None:
    asked = ask(lake, 2)
    register(lake, 2, note="on more days")
    promotions.reject(USE_CASE, asked, lake, by="Bob", reason="asked anew", now=NOW, commit=COMMIT)
    assert state(lake, asked) == ("rejected", "by Bob: asked anew")


def test_going_back_to_a_model_that_does_not_load(lake: Lake) -> None:
    promote(lake, 2)
    (model_files.folder(lake.root, model(1).sha256) / model_files.MODEL).unlink()
    with pytest.raises(Refused, match=r"^broken_jar cannot go back to version 1: .*there is no .*model\.lgb"):
        rollback(lake)
    assert champion_version(lake) == 2
