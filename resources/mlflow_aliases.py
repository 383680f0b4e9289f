"""MLflow's aliases ``champion`` and ``challenger``: a cache of what the decisions in the lake say.

An alias has no history, no author and no compare-and-swap, and goes away with the version behind it. A tag of the
registered model therefore remembers what we set, for which decision: an alias that is elsewhere was moved by hand, one
that is where we left it merely lags.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from contrail import decisions
from contrail.lake import Lake
from contrail.registry import ModelVersion, versions_in
from resources.mlflow_models import TAG_VERSION, registered_versions, whole

LOGGER = logging.getLogger(__name__)
ALIASES = ("champion", "challenger")
TAG_ALIASES = "contrail.aliases"
# A decision made while the aliases are set makes them lag; beyond this the next call goes on.
ROUNDS = 5


@dataclass(frozen=True)
class Moved:
    """An alias that was put where the decisions want it; versions are MLflow's numbers, None is no alias."""

    alias: str
    was: str | None
    now: str | None
    by_hand: bool

    @property
    def in_words(self) -> str:
        """What was found and what was done."""
        if not self.by_hand:
            return f"alias {self.alias} followed the decisions from {_named(self.was)} to {_named(self.now)}"
        return (
            f"alias {self.alias} had been moved by hand to {_named(self.was)}; it is back at {_named(self.now)}, as "
            "decided (contrail approve and contrail rollback decide, MLflow follows)"
        )


@dataclass(frozen=True)
class Reconciled:
    """What `follow` found and did.

    Attributes:
        moved: aliases that were not as decided.
        missing: models of which MLflow has none any more (or not yet), so that they get no alias; they still score.
    """

    moved: tuple[Moved, ...] = ()
    missing: tuple[str, ...] = ()

    @property
    def by_hand(self) -> bool:
        """Whether somebody had moved an alias by hand."""
        return any(moved.by_hand for moved in self.moved)

    @property
    def in_words(self) -> list[str]:
        """A sentence for everything that was moved or is missing."""
        return [*(moved.in_words for moved in self.moved), *self.missing]


@dataclass(frozen=True)
class _Remembered:
    """The tag: where the aliases were put, and while they are being moved also where they were before."""

    sequence: int
    put: Mapping[str, str]
    before: Mapping[str, str] | None = None

    def knows(self, alias: str, version: str | None) -> bool:
        known = [self.put.get(alias)] + ([] if self.before is None else [self.before.get(alias)])
        return version in known


def follow(client: Any, use_case: str, lake: Lake) -> Reconciled:
    """Put the aliases where the decisions want them, and again if somebody decides meanwhile."""
    moved: list[Moved] = []
    missing: tuple[str, ...] = ()
    for _ in range(ROUNDS):
        history = decisions.read(lake, use_case)
        if not history:
            return Reconciled()
        changes, missing = _follow_once(client, use_case, history[-1].sequence, versions_in(history))
        moved += changes
        if decisions.read(lake, use_case)[-1].sequence == history[-1].sequence:
            break
    found = Reconciled(tuple(moved), missing)
    for sentence in found.in_words:
        LOGGER.log(logging.WARNING if found.by_hand else logging.INFO, "%s: %s", use_case, sentence)
    return found


def _follow_once(
    client: Any, use_case: str, sequence: int, versions: Sequence[ModelVersion]
) -> tuple[list[Moved], tuple[str, ...]]:
    from mlflow.exceptions import MlflowException

    try:
        registered = client.get_registered_model(use_case)
    except MlflowException as error:
        if error.error_code != "RESOURCE_DOES_NOT_EXIST":
            raise
        return [], tuple(_lacks(version) for version in versions if version.role in ALIASES)
    wanted, missing = _wanted(client, use_case, versions)
    present = {name: str(number) for name, number in registered.aliases.items() if name in ALIASES}
    remembered = _remembered(registered.tags.get(TAG_ALIASES))
    moved = [
        Moved(
            alias,
            present.get(alias),
            wanted.get(alias),
            by_hand=remembered is not None and not remembered.knows(alias, present.get(alias)),
        )
        for alias in ALIASES
        if present.get(alias) != wanted.get(alias)
    ]
    if moved:
        # Said before it is done: killed in between, what is found next time was not moved by hand.
        _remember(client, use_case, _Remembered(sequence, wanted, before=present))
    for change in moved:
        if change.now is None:
            client.delete_registered_model_alias(use_case, change.alias)
        else:
            client.set_registered_model_alias(use_case, change.alias, change.now)
    done = _Remembered(sequence, wanted)
    if moved or remembered != done:
        _remember(client, use_case, done)
    return moved, missing


def _wanted(
    client: Any, use_case: str, versions: Sequence[ModelVersion]
) -> tuple[dict[str, str], tuple[str, ...]]:
    """Alias → the version that MLflow shall put it on, and what MLflow lacks for that, in words."""
    known = registered_versions(client, use_case)
    aliases: dict[str, str] = {}
    missing: list[str] = []
    for version in versions:
        theirs = known.get(version.sha256, [])
        for one in theirs:
            if one.tags.get(TAG_VERSION) != str(version.version):
                client.set_model_version_tag(use_case, str(one.version), TAG_VERSION, str(version.version))
        if version.role not in ALIASES:
            continue
        found = whole(client, theirs)
        if found is None:
            missing.append(_lacks(version))
        else:
            aliases[version.role] = str(found.version)
    return aliases, tuple(missing)


def _remembered(text: str | None) -> _Remembered | None:
    """What the tag says; None where there is none, or one that somebody else wrote."""
    try:
        body = json.loads(text or "")
        return _Remembered(int(body["sequence"]), dict(body["put"]), body.get("before"))
    except (ValueError, TypeError, KeyError):
        return None


def _remember(client: Any, use_case: str, state: _Remembered) -> None:
    body = {"sequence": state.sequence, "put": dict(state.put)}
    if state.before is not None:
        body["before"] = dict(state.before)
    client.set_registered_model_tag(use_case, TAG_ALIASES, json.dumps(body, sort_keys=True))


def _lacks(version: ModelVersion) -> str:
    return (
        f"MLflow has no model {version.sha256[:12]} any more (version {version.version}, {version.role}): it gets no "
        "alias there; the lake has it, and it scores"
    )


def _named(version: str | None) -> str:
    return "no version" if version is None else f"MLflow's version {version}"
