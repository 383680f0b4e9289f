"""Decisions from Dagster's pages: ask for a promotion, decide a request, roll back; each a job with a form to fill in.

The rules are `contrail.promotions`, the same as the command line's; what is refused fails the run with the words of
the refusal, and is not retried.
"""

import enum
from collections.abc import Callable

import dagster as dg
from pydantic import Field

from contrail import promotions, provenance, registry
from contrail.clock import ClockError
from contrail.decisions import TABLE, Decision, DecisionError
from contrail.lake import Commit, LakeError
from contrail.promotions import Refused
from contrail.use_case import UseCase
from feature_repo.use_cases import USE_CASES
from resources.decisions import after_decision
from resources.lake import LakeResource

BY = Field(description="Who decides: a person's name. It stands in the decision log for good.")
REASON = Field(description="Why, in a sentence. It stands in the decision log for good.")
USE_CASE = Field(description=f"Which model: {', '.join(USE_CASES)}.")


class Answer(enum.Enum):
    """What may be said to a request."""

    approve = "approve"
    reject = "reject"


class RequestForm(dg.Config):
    """A promotion asked for."""

    use_case: str = USE_CASE
    version: int = Field(description="The version that shall become champion; `contrail models` lists them.")
    by: str = Field(description="Who asks; somebody else must approve.")
    reason: str = REASON


class DecisionForm(dg.Config):
    """An answer to a request."""

    request: str = Field(
        description="The request's id, 12 hex digits; `contrail models` lists the open ones."
    )
    decision: Answer = Field(description="approve or reject.")
    by: str = BY
    reason: str = REASON


class RollbackForm(dg.Config):
    """The champion before the present one, put back."""

    use_case: str = USE_CASE
    by: str = BY
    reason: str = REASON


def build() -> list[dg.JobDefinition]:
    """The three jobs."""
    return [request_promotion, decide_promotion, roll_back]


@dg.op(
    name="append_request",
    description="Appends the request to the decision log; it binds the model, its evidence, the champion.",
)
def _ask(context: dg.OpExecutionContext, config: RequestForm, lake: dg.ResourceParam[LakeResource]) -> None:
    _decide(context, lake, config, promotions.request, config.version, use_case=config.use_case)


@dg.op(
    name="append_answer",
    description="Appends the answer to the decision log; the last approval needed makes the champion.",
)
def _answer(
    context: dg.OpExecutionContext, config: DecisionForm, lake: dg.ResourceParam[LakeResource]
) -> None:
    answer = promotions.approve if config.decision is Answer.approve else promotions.reject
    _decide(context, lake, config, answer, config.request)


@dg.op(
    name="append_rollback",
    description="Appends the rollback to the decision log: the champion before is champion again.",
)
def _back(context: dg.OpExecutionContext, config: RollbackForm, lake: dg.ResourceParam[LakeResource]) -> None:
    _decide(context, lake, config, promotions.rollback, use_case=config.use_case)


@dg.job(
    name="request_promotion", description="Asks that a version become champion; somebody else then decides."
)
def request_promotion() -> None:
    """The form is `RequestForm`."""
    _ask()


@dg.job(name="decide_promotion", description="Approves or rejects a promotion request.")
def decide_promotion() -> None:
    """The form is `DecisionForm`."""
    _answer()


@dg.job(name="roll_back", description="Puts the champion before the present one back, in one step.")
def roll_back() -> None:
    """The form is `RollbackForm`."""
    _back()


def _declared(name: str) -> UseCase:
    if name not in USE_CASES:
        raise dg.Failure(
            f"there is no use case {name!r}; declared are: {', '.join(USE_CASES)}", allow_retries=False
        )
    return USE_CASES[name]


def _decide(
    context: dg.OpExecutionContext,
    lake: LakeResource,
    form: RequestForm | DecisionForm | RollbackForm,
    decide: Callable[..., Decision],
    *what: str | int,
    use_case: str | None = None,
) -> None:
    """Decide, then leave the anchor and let MLflow follow; what came of it is the output's metadata.

    Args:
        decide: a rule of `contrail.promotions`.
        what: it decides on; a request names its use case, else `use_case` does.
    """
    commit = Commit(
        asset=TABLE, run_id=context.run_id, inputs=(), git_sha=provenance.recorded_git_sha(lake.settings)
    )
    try:
        name = promotions.use_case_of(lake.lake, str(what[0])) if use_case is None else use_case
        decision = decide(
            _declared(name),
            *what,
            lake.lake,
            by=form.by,
            reason=form.reason,
            now=lake.clock.now(),
            commit=commit,
        )
    except (Refused, DecisionError, LakeError, ClockError) as error:
        raise dg.Failure(str(error), allow_retries=False) from error
    warnings = after_decision(lake.settings, decision.use_case, decision.anchor, instance=context.instance)
    champion = registry.champion(decision.use_case, lake.lake)
    facts = {
        "event": decision.event,
        "use_case": decision.use_case,
        "model_version": decision.model_version,
        "champion_now": champion.version if champion else "none",
        "anchor": str(decision.anchor),
    }
    if decision.request_id:
        facts["request"] = decision.request_id
    if decision.expires_at:
        facts["expires_at"] = decision.expires_at.isoformat()
    if warnings:
        facts["followed_later"] = "; ".join(warnings)
    context.add_output_metadata(facts)
