"""Which model counts: a fold over the decisions in the lake, which are the truth.

Nothing is held in memory. A tracking server's aliases follow these rows and never the other way round. Everything that
needs a model asks `champion`. Who may become champion, and by whose decision, is `contrail.promotions`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Literal

from contrail import decisions as log
from contrail.decisions import TABLE, Decision, Draft
from contrail.lake import Commit, Lake

__all__ = [
    "FIRST_MODEL_RULE",
    "TABLE",
    "ChampionModel",
    "Decision",
    "Evaluated",
    "ModelVersion",
    "RegistryError",
    "Role",
    "champion",
    "champion_in",
    "champions_in",
    "decisions",
    "register",
    "versions",
    "versions_in",
]

FIRST_MODEL_RULE = "rule:first-model"

Role = Literal["champion", "challenger", "archived"]


class RegistryError(RuntimeError):
    """The registry cannot say what was asked."""


@dataclass(frozen=True)
class Evaluated:
    """What an evaluation says of a model.

    Attributes:
        evaluation_id: identity of its evidence.
        criteria_sha256: the criteria frozen before the fit.
        unmet: those that are not met, in words.
    """

    evaluation_id: str
    criteria_sha256: str
    unmet: tuple[str, ...]


@dataclass(frozen=True)
class ModelVersion:
    """A registered model and what it is now.

    Attributes:
        use_case: name of the use case.
        version: counts from 1 within the use case.
        sha256: identity of the model; its files lie under ``models/<sha256>/``.
        role: champion; challenger is the newest version that came after the champion's and was neither rejected nor
            rolled back from; archived is any other.
        registered_at: when it was registered, on the project's clock.
        evaluation_id: its newest evaluation; empty where it was never evaluated.
        criteria_sha256: the criteria of that evaluation.
        unmet: those that are not met, in words.
    """

    use_case: str
    version: int
    sha256: str
    role: Role
    registered_at: datetime
    evaluation_id: str = ""
    criteria_sha256: str = ""
    unmet: tuple[str, ...] = ()


@dataclass(frozen=True)
class ChampionModel:
    """The model that scores.

    Attributes:
        use_case: name of the use case.
        version: its version.
        sha256: its identity.
        promoted_at: when it became champion (again), on the project's clock.
        promoted_by: a person, or the rule that did it.
        reason: why.
        sequence: number of the decision that did it.
    """

    use_case: str
    version: int
    sha256: str
    promoted_at: datetime
    promoted_by: str
    reason: str
    sequence: int


def champion(use_case: str, lake: Lake, *, at: datetime | None = None) -> ChampionModel | None:
    """The use case's champion now, or as it was at an instant of the project's clock; None while there is none."""
    return champion_in(log.read(lake, use_case), at=at)


def versions(use_case: str, lake: Lake) -> list[ModelVersion]:
    """Every registered version, oldest first, with its present role."""
    return versions_in(log.read(lake, use_case))


def decisions(lake: Lake, use_case: str | None = None) -> list[Decision]:
    """All decisions in order, of one use case or of all."""
    return log.read(lake, use_case)


def register(
    use_case: str,
    sha256: str,
    lake: Lake,
    *,
    decided_at: datetime,
    decided_by: str,
    reason: str,
    commit: Commit,
    evaluated: Evaluated | None = None,
    first_by_rule: bool = True,
) -> ModelVersion:
    """Record a model whose files are stored, and what its evaluation says.

    Registering the same model again changes nothing but for another evaluation, which is recorded. Two processes that
    register at the same time both succeed, one after the other.

    Args:
        decided_at: now, on the project's clock.
        decided_by: who or what trained it.
        commit: the write's provenance; its inputs name the model's training set.
        evaluated: the evaluation; a model without one can never be asked a promotion for.
        first_by_rule: while the use case has no champion the model becomes it at once, whatever is unmet: with no
            champion nothing is scored, and nothing can be measured.

    Raises:
        DecisionError: other writers were always first, or the log is damaged.
    """
    found = evaluated or Evaluated("", "", ())

    def decide(rows: Sequence[Decision]) -> list[Draft]:
        history = [row for row in rows if row.use_case == use_case]
        known = versions_in(history)
        same = next((v for v in known if v.sha256 == sha256), None)
        current = champion_in(history)
        if same is not None and (evaluated is None or same.evaluation_id == evaluated.evaluation_id):
            return []
        number = same.version if same else max((v.version for v in known), default=0) + 1

        def draft(event: Literal["registered", "evaluated", "promoted"], by: str, why: str) -> Draft:
            return Draft(
                use_case=use_case, event=event, model_version=number, model_sha256=sha256, decided_at=decided_at,
                decided_by=by, reason=why, evaluation_id=found.evaluation_id, criteria_sha256=found.criteria_sha256,
                unmet=found.unmet, champion_sequence=current.sequence if current else log.NO_CHAMPION,
            )  # fmt: skip

        drafts = [draft("evaluated" if same else "registered", decided_by, reason)]
        if same is None and current is None and first_by_rule:
            why = "the first model of a use case becomes its champion"
            if found.unmet:
                why += f"; unmet: {'; '.join(found.unmet)}"
            drafts.append(draft("promoted", FIRST_MODEL_RULE, why))
        return drafts

    log.append(lake, decide, commit)
    for version in versions(use_case, lake):
        if version.sha256 == sha256:
            return version
    raise RegistryError(f"{use_case}: {sha256} was registered and is not in {TABLE}; contrail audit verify")


def champions_in(history: Sequence[Decision]) -> list[Decision]:
    """The decisions that made the champions, as a stack: the last one's model is champion, a rollback takes it off.

    Args:
        history: decisions of one use case, in order.
    """
    stack: list[Decision] = []
    for row in history:
        if row.event == "promoted":
            stack.append(row)
        elif row.event == "rolled_back":
            del stack[-2:]
            stack.append(row)
    return stack


def champion_in(history: Sequence[Decision], *, at: datetime | None = None) -> ChampionModel | None:
    """As `champion`, of decisions of one use case that were read already."""
    stack = champions_in([row for row in history if at is None or row.decided_at <= at])
    if not stack:
        return None
    last = stack[-1]
    return ChampionModel(
        use_case=last.use_case,
        version=last.model_version,
        sha256=last.model_sha256,
        promoted_at=last.decided_at,
        promoted_by=last.decided_by,
        reason=last.reason,
        sequence=last.sequence,
    )


def versions_in(history: Sequence[Decision]) -> list[ModelVersion]:
    """As `versions`, of decisions of one use case that were read already."""
    newest: dict[int, Decision] = {}
    registered: dict[int, Decision] = {}
    for row in history:
        if row.event in ("registered", "evaluated"):
            registered.setdefault(row.model_version, row)
            newest[row.model_version] = row
    current = champion_in(history)
    champion_version = current.version if current else 0
    candidates = [v for v in registered if v > champion_version and v not in _turned_down(history)]
    challenger = max(candidates, default=0)

    def role(version: int) -> Role:
        if version == champion_version:
            return "champion"
        return "challenger" if version == challenger else "archived"

    return [
        ModelVersion(
            use_case=first.use_case,
            version=version,
            sha256=first.model_sha256,
            role=role(version),
            registered_at=first.decided_at,
            evaluation_id=newest[version].evaluation_id,
            criteria_sha256=newest[version].criteria_sha256,
            unmet=newest[version].unmet,
        )
        for version, first in registered.items()
    ]


def _turned_down(history: Sequence[Decision]) -> set[int]:
    """Versions that were rejected or rolled back from, and not asked a promotion for since."""
    down: set[int] = set()
    for place, row in enumerate(history):
        if row.event == "rejected":
            down.add(row.model_version)
        elif row.event == "requested":
            down.discard(row.model_version)
        elif row.event == "rolled_back" and (before := champions_in(history[:place])):
            down.add(before[-1].model_version)
    return down
