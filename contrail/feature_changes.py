"""What a change of the declared features concerns: declared against registered, with the models that use each."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal, TypeAlias

Kind: TypeAlias = Literal["added", "changed", "deprecated", "removed"]
KINDS: tuple[Kind, ...] = ("removed", "deprecated", "changed", "added")  # the gravest first


@dataclass(frozen=True)
class FeatureState:
    """One feature of a view, as it is declared or registered.

    Attributes:
        attributes: what a user of it relies on, in words: type, unit, window, max age, …
        deprecated: the reason; empty: it is not.
        used_by: models that were said to use it.
    """

    attributes: Mapping[str, str]
    deprecated: str = ""
    used_by: tuple[str, ...] = ()


# (view, feature) -> its state
Features: TypeAlias = Mapping[tuple[str, str], FeatureState]


@dataclass(frozen=True)
class FeatureChange:
    """One feature that is not what is registered.

    Attributes:
        what: the differences in words, ``window: '60 min' → '90 min'``.
        models: the models concerned.
    """

    feature: str
    view: str
    kind: Kind
    what: tuple[str, ...]
    models: tuple[str, ...]


def compare(
    registered: Features,
    declared: Features,
    models_using: Callable[[str], Sequence[str]],
) -> tuple[FeatureChange, ...]:
    """Every feature that was removed, deprecated, changed or added, in this order.

    Args:
        models_using: feature -> the models, declared or registered, that use it now.
    """
    found: list[FeatureChange] = []
    for view, feature in sorted({*registered, *declared}):
        before, after = registered.get((view, feature)), declared.get((view, feature))
        if before == after:
            continue
        kind, what = _difference(before, after)
        if what or kind in ("added", "removed"):
            said = () if before is None else before.used_by
            models = tuple(dict.fromkeys([*models_using(feature), *said]))
            found.append(FeatureChange(feature, view, kind, what, models))
    return tuple(sorted(found, key=lambda change: KINDS.index(change.kind)))


def _difference(before: FeatureState | None, after: FeatureState | None) -> tuple[Kind, tuple[str, ...]]:
    if before is None or after is None:
        return ("added" if before is None else "removed"), ()
    names = dict.fromkeys([*before.attributes, *after.attributes])
    what = [
        f"{name}: {before.attributes.get(name, '')!r} → {after.attributes.get(name, '')!r}"
        for name in names
        if before.attributes.get(name, "") != after.attributes.get(name, "")
    ]
    if before.deprecated != after.deprecated:
        what.insert(0, f"deprecated: {after.deprecated}" if after.deprecated else "no longer deprecated")
        if after.deprecated:
            return "deprecated", tuple(what)
    return "changed", tuple(what)
