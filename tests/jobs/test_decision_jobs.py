"""Decisions from Dagster's pages: the forms, what a run leaves behind, and how a refusal is said."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import dagster as dg
import pytest

from contrail import decisions, promotions, registry
from contrail.settings import Settings
from jobs import decisions as decision_jobs
from resources.decisions import ASSET
from resources.lake import LakeResource
from tests.support import small_model
from tests.support.small_model import NOW, USE_CASE, trained
from tests.support.tracking_world import ROWS, TrackingWorld

JOBS = {job.name: job for job in decision_jobs.build()}
OPS = {
    "request_promotion": "append_request",
    "decide_promotion": "append_answer",
    "roll_back": "append_rollback",
}


@pytest.fixture
def instance() -> Iterator[dg.DagsterInstance]:
    with dg.DagsterInstance.ephemeral() as made:
        yield made


@pytest.fixture
def world(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> TrackingWorld:
    """A champion, version 1, and a challenger, version 2; there is no MLflow."""
    monkeypatch.setattr(decision_jobs, "USE_CASES", {USE_CASE.name: USE_CASE})
    made = TrackingWorld(Settings(home=tmp_path / "home", clock="replay", replay_at=NOW))
    for seed in (1, 2):
        made.register(trained(ROWS, small_model.another_seed(seed)))
    return made


def run(
    world: TrackingWorld, instance: dg.DagsterInstance, name: str, **form: object
) -> dg.ExecuteInProcessResult:
    return JOBS[name].execute_in_process(
        run_config={"ops": {OPS[name]: {"config": form}}},
        resources={"lake": LakeResource(world.settings)},
        instance=instance,
        raise_on_error=False,
    )


def facts(result: dg.ExecuteInProcessResult, name: str) -> dict[str, Any]:
    assert result.success, failure(result)
    (output,) = [
        event.step_output_data for event in result.events_for_node(OPS[name]) if event.is_successful_output
    ]
    return {label: value.value for label, value in output.metadata.items()}


def failure(result: dg.ExecuteInProcessResult) -> dg.StepFailureData | None:
    return next((event.step_failure_data for event in result.all_events if event.is_step_failure), None)


def said(result: dg.ExecuteInProcessResult) -> str:
    assert not result.success
    found = failure(result)
    assert found is not None
    assert found.user_failure_data is not None
    assert not [event for event in result.all_events if event.is_step_up_for_retry]
    return str(found.user_failure_data.description)


def champion(world: TrackingWorld) -> int:
    found = registry.champion(USE_CASE.name, world.lake)
    assert found is not None
    return found.version


def test_asked_for_approved_and_rolled_back_from_the_pages(world, instance):
    asked = facts(
        run(
            world,
            instance,
            "request_promotion",
            use_case=USE_CASE.name,
            version=2,
            by="Asker",
            reason="better",
        ),
        "request_promotion",
    )
    assert (asked["event"], asked["champion_now"]) == ("requested", 1)
    assert asked["expires_at"] == (NOW + USE_CASE.request_valid_for).isoformat()
    approved = facts(
        run(
            world,
            instance,
            "decide_promotion",
            request=asked["request"],
            decision="approve",
            by="Approver",
            reason="agreed",
        ),
        "decide_promotion",
    )
    assert (approved["event"], approved["champion_now"], champion(world)) == ("promoted", 2, 2)
    assert approved["anchor"] == str(decisions.head(world.lake))
    assert "the decision stands; MLflow follows later" in approved["followed_later"]

    back = facts(
        run(world, instance, "roll_back", use_case=USE_CASE.name, by="Approver", reason="worse in life"),
        "roll_back",
    )
    assert (back["event"], back["champion_now"], champion(world)) == ("rolled_back", 1, 1)
    # Each left its anchor where this instance keeps its records.
    records = instance.fetch_materializations(ASSET, limit=10, ascending=True).records
    anchors = [record.asset_materialization.metadata["anchor"].value for record in records]
    assert anchors == [asked["anchor"], approved["anchor"], back["anchor"]]
    last = decisions.read(world.lake)[-1]
    assert (last.decided_by, last.reason, last.decided_at) == ("Approver", "worse in life", NOW)


def test_a_request_can_be_rejected(world, instance):
    form = {"request": world.ask(2), "decision": "reject", "by": "Approver", "reason": "not now"}
    done = facts(run(world, instance, "decide_promotion", **form), "decide_promotion")
    assert (done["event"], champion(world)) == ("rejected", 1)
    assert "was decided already: rejected by Approver: not now" in said(
        run(world, instance, "decide_promotion", **form)
    )


def test_a_refusal_fails_the_run_with_its_words_and_is_not_retried(world, instance):
    request = world.ask(2)
    before = decisions.head(world.lake)

    def answer(**form: object) -> str:
        return said(run(world, instance, "decide_promotion", **({"reason": "agreed"} | form)))

    assert "who asks cannot approve" in answer(request=request, decision="approve", by=" ASKER")
    assert "there is no request '123'" in answer(request="123", decision="approve", by="Approver")
    assert "needs the name" in answer(request=request, decision="approve", by=" ")
    assert "needs its reason" in answer(request=request, decision="reject", by="Approver", reason="")
    assert "no use case 'full_jar'; declared are: broken_jar" in said(
        run(world, instance, "roll_back", use_case="full_jar", by="Approver", reason="worse")
    )
    assert "no earlier champion" in said(
        run(world, instance, "roll_back", use_case=USE_CASE.name, by="Approver", reason="worse")
    )
    assert decisions.head(world.lake) == before
    assert [one.state for one in promotions.requests(USE_CASE, world.lake, now=NOW)] == ["open"]


@pytest.mark.parametrize("name", list(OPS))
def test_every_field_of_a_form_must_be_filled_in(world, instance, name):
    with pytest.raises(dg.DagsterInvalidConfigError) as raised:
        run(world, instance, name)
    missing = str(raised.value)
    for field in ("by", "reason", {"decide_promotion": "request"}.get(name, "use_case")):
        assert f"'{field}'" in missing


def test_the_forms_say_what_each_field_means_and_offer_the_answers(world):
    fields = JOBS["decide_promotion"].run_config_schema.config_type.fields["ops"].config_type.fields
    form = fields["append_answer"].config_type.fields["config"].config_type.fields
    assert all(field.description and field.is_required for field in form.values())
    assert {value.config_value for value in form["decision"].config_type.enum_values} == {"approve", "reject"}
    assert all(job.description for job in JOBS.values())
