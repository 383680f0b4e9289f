"""Which model counts: the decisions, an append-only table in the lake, are the truth.

State is a fold over the rows of ``trail/decisions``; nothing is held in memory. A tracking server's aliases follow
these rows and never the other way round. Everything that needs a model asks `champion`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from typing import Literal

import pyarrow as pa

from contrail import duck
from contrail.lake import Commit, Lake

TABLE = "trail/decisions"
FIRST_MODEL_RULE = "rule:first-model"
ATTEMPTS = 10

Event = Literal["registered", "promoted"]
Role = Literal["champion", "challenger", "archived"]

SCHEMA = pa.schema(
    [
        pa.field("sequence", pa.int64(), nullable=False),
        pa.field("use_case", pa.string(), nullable=False),
        pa.field("event", pa.string(), nullable=False),
        pa.field("model_version", pa.int64(), nullable=False),
        pa.field("model_sha256", pa.string(), nullable=False),
        pa.field("decided_at", pa.timestamp("us", tz="UTC"), nullable=False),
        pa.field("decided_by", pa.string(), nullable=False),
        pa.field("reason", pa.string(), nullable=False),
    ]
)


class RegistryError(RuntimeError):
    """A decision could not be recorded."""


@dataclass(frozen=True)
class Decision:
    """One row of the table."""

    sequence: int
    use_case: str
    event: Event
    model_version: int
    model_sha256: str
    decided_at: datetime
    decided_by: str
    reason: str


@dataclass(frozen=True)
class ModelVersion:
    """A registered model and what it is now.

    Attributes:
        use_case: name of the use case.
        version: counts from 1 within the use case.
        sha256: identity of the model; its files lie under ``models/<sha256>/``.
        role: champion; challenger is the newest version that came after the champion's; archived is any other.
        registered_at: when it was registered, on the project's clock.
    """

    use_case: str
    version: int
    sha256: str
    role: Role
    registered_at: datetime


@dataclass(frozen=True)
class ChampionModel:
    """The model that scores.

    Attributes:
        use_case: name of the use case.
        version: its version.
        sha256: its identity.
        promoted_at: when it was promoted, on the project's clock.
        promoted_by: a person, or the rule that did it.
        reason: why.
    """

    use_case: str
    version: int
    sha256: str
    promoted_at: datetime
    promoted_by: str
    reason: str


def champion(use_case: str, lake: Lake) -> ChampionModel | None:
    """The use case's champion; None while no model was promoted."""
    promoted = [d for d in decisions(lake, use_case) if d.event == "promoted"]
    if not promoted:
        return None
    last = promoted[-1]
    return ChampionModel(
        use_case=use_case,
        version=last.model_version,
        sha256=last.model_sha256,
        promoted_at=last.decided_at,
        promoted_by=last.decided_by,
        reason=last.reason,
    )


def versions(use_case: str, lake: Lake) -> list[ModelVersion]:
    """Every registered version, oldest first, with its present role."""
    return _fold(decisions(lake, use_case))


def decisions(lake: Lake, use_case: str | None = None) -> list[Decision]:
    """All decisions in order, of one use case or of all."""
    if not lake.exists(TABLE):
        return []
    where = "true" if use_case is None else f"use_case = {duck.quote_literal(use_case)}"
    names = ", ".join(SCHEMA.names)
    with duck.connect() as con:
        query = f"SELECT {names} FROM {lake.scan(TABLE)} WHERE {where} ORDER BY sequence"
        return [Decision(*row) for row in con.execute(query).fetchall()]


def register(
    use_case: str,
    sha256: str,
    lake: Lake,
    *,
    decided_at: datetime,
    decided_by: str,
    reason: str,
    commit: Commit,
) -> ModelVersion:
    """Record a model whose files are stored; the first of a use case becomes champion by rule.

    Registering the same model again changes nothing. Two processes that register at the same time both succeed, one
    after the other: a sequence number is written once, and whoever comes second decides anew on the rows then there.

    Args:
        decided_at: now, on the project's clock.
        decided_by: who or what trained it.
        commit: the write's provenance; its inputs name the model's training set.

    Raises:
        RegistryError: other writers were always first.
    """
    lake.create(TABLE, SCHEMA, keep_days=3650)
    for _ in range(ATTEMPTS):
        history = decisions(lake)
        known = _fold([d for d in history if d.use_case == use_case])
        for version in known:
            if version.sha256 == sha256:
                return version
        number = max((v.version for v in known), default=0) + 1
        sequence = len(history)
        row = Decision(sequence, use_case, "registered", number, sha256, decided_at, decided_by, reason)
        rows = [row]
        if not any(v.role == "champion" for v in known):
            why = "the first model of a use case becomes its champion"
            rows.append(
                Decision(
                    sequence + 1, use_case, "promoted", number, sha256, decided_at, FIRST_MODEL_RULE, why
                )
            )
        _append(lake, rows, commit)
    raise RegistryError(f"{use_case}: other writers were first {ATTEMPTS} times; register the model again")


def _append(lake: Lake, rows: Sequence[Decision], commit: Commit) -> None:
    # The transaction makes this a compare-and-swap: the same sequence number cannot be written twice, and whether it
    # was ours that was written is seen when the rows are read again.
    once = replace(commit, transaction=f"decision-{rows[0].sequence}")
    listed = [{name: getattr(row, name) for name in SCHEMA.names} for row in rows]
    lake.append(TABLE, pa.Table.from_pylist(listed, schema=SCHEMA), once)


def _fold(history: Sequence[Decision]) -> list[ModelVersion]:
    registered = [d for d in history if d.event == "registered"]
    promoted = [d.model_version for d in history if d.event == "promoted"]
    current = promoted[-1] if promoted else 0
    newest = max((d.model_version for d in registered), default=0)

    def role(version: int) -> Role:
        if version == current:
            return "champion"
        return "challenger" if version == newest and version > current else "archived"

    return [
        ModelVersion(d.use_case, d.model_version, d.model_sha256, role(d.model_version), d.decided_at)
        for d in registered
    ]
