"""Which of several files for one partition counts.

Files are judged in the order of their delivery. The first acceptable one is the base. A further file replaces it whole
if it says so (`supersedes`), says nothing new if it has the same content, and is blocked otherwise. A blocked file
counts as not delivered. Files that cover different spans of one partition (hourly landing) are chains of their own.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Literal

from contrail.landing import DATA_SUFFIX, Delivery

Outcome = Literal["accepted", "blocked", "ignored"]
Span = tuple[datetime | None, datetime | None]


@dataclass(frozen=True)
class Candidate:
    """A delivered file and what is wrong with the file itself.

    Attributes:
        is_verified: whether its bytes are those that the manifest names; only then does its sha256 say what it holds.
    """

    delivery: Delivery
    problems: tuple[str, ...]
    is_verified: bool


@dataclass(frozen=True)
class Verdict:
    """What becomes of a file.

    Attributes:
        reasons: why it is blocked, in words.
        chain: number of the chain in the partition that it belongs to.
        replaces: position of the file that it supersedes.
    """

    outcome: Outcome
    chain: int
    reasons: tuple[str, ...] = ()
    replaces: int | None = None


@dataclass(frozen=True)
class Judgement:
    """The verdicts on a partition's files.

    Attributes:
        verdicts: one per file, in the given order.
        newest: per chain, the position of the file that says how the chain stands.
        current: per chain, the position of the file whose rows count; chains without one are left out.
    """

    verdicts: tuple[Verdict, ...]
    newest: tuple[int, ...]
    current: tuple[int, ...]


@dataclass
class _Chain:
    number: int
    span: Span
    current: int | None = None
    newest: int | None = None
    accepted: list[str] = field(default_factory=list[str])


def in_order(deliveries: Sequence[Delivery]) -> list[Delivery]:
    """Deliveries in the order in which they came; files of one instant in the order of their number."""
    return sorted(deliveries, key=lambda d: (d.partition, d.delivered_at, _number(d), d.path.name))


def judge(candidates: Sequence[Candidate]) -> Judgement:
    """Decide on the files of one partition, given in the order of their delivery."""
    chains: list[_Chain] = []
    verdicts: list[Verdict] = []
    seen: set[tuple[str, str | None]] = set()
    blocked: set[str] = set()
    for position, candidate in enumerate(candidates):
        delivery = candidate.delivery
        chain = _chain_of(delivery, chains, candidates)
        identity = (delivery.sha256, delivery.supersedes)
        accepted = None if chain.current is None else candidates[chain.current].delivery
        if candidate.is_verified and accepted is not None and accepted.sha256 == delivery.sha256:
            chain.newest = chain.current  # the sender stands by what is accepted
            verdicts.append(Verdict("ignored", chain.number))
            continue
        if candidate.is_verified and identity in seen:
            verdicts.append(Verdict("ignored", chain.number))
            continue
        if candidate.is_verified:
            seen.add(identity)
        reasons = [*candidate.problems, *_objections(delivery, accepted, chain, chains, blocked, candidates)]
        chain.newest = position
        if reasons:
            blocked.add(delivery.sha256)
            verdicts.append(Verdict("blocked", chain.number, tuple(reasons)))
        else:
            verdicts.append(Verdict("accepted", chain.number, replaces=chain.current))
            chain.current = position
            chain.accepted.append(delivery.sha256)
    return Judgement(
        tuple(verdicts),
        tuple(chain.newest for chain in chains if chain.newest is not None),
        tuple(chain.current for chain in chains if chain.current is not None),
    )


def _chain_of(delivery: Delivery, chains: list[_Chain], candidates: Sequence[Candidate]) -> _Chain:
    """The chain whose accepted file it supersedes, else that of its span."""
    for chain in chains:
        if chain.current is not None and candidates[chain.current].delivery.sha256 == delivery.supersedes:
            return chain
    span = (delivery.covers_from, delivery.covers_to)
    for chain in chains:
        if chain.span == span:
            return chain
    chains.append(_Chain(len(chains), span))
    return chains[-1]


def _objections(
    delivery: Delivery,
    accepted: Delivery | None,
    chain: _Chain,
    chains: Sequence[_Chain],
    blocked: set[str],
    candidates: Sequence[Candidate],
) -> list[str]:
    """What speaks against a file because of the files before it."""
    if delivery.supersedes is None:
        if accepted is not None:
            second = (
                f"second file for {delivery.partition} without supersedes: {accepted.path.name} is accepted"
            )
            return [
                f"{second} and its content differs; deliver the correction with supersedes: {accepted.sha256}"
            ]
        return [
            f"covers a part of what {candidates[other.current].delivery.path.name} covers, which is accepted: "
            "its rows would count twice"
            for other in chains
            if other is not chain and other.current is not None and _overlap(other.span, chain.span)
        ]
    if accepted is not None and accepted.sha256 == delivery.supersedes:
        return []
    if accepted is None and delivery.supersedes in blocked:
        return []  # what it corrects never counted
    there = f"accepted is {accepted.path.name}, {accepted.sha256}" if accepted else "none is accepted"
    if any(delivery.supersedes in other.accepted for other in chains):
        return [f"supersedes {delivery.supersedes}, which has been superseded itself; {there}"]
    if delivery.supersedes in blocked:
        return [f"supersedes {delivery.supersedes}, which was blocked and never counted; {there}"]
    return [
        f"supersedes {delivery.supersedes}, and no such file was delivered for {delivery.partition}; {there}"
    ]


def _overlap(one: Span, other: Span) -> bool:
    """Whether two half-open spans share an instant; a span without an end has none."""
    if one[0] is None or one[1] is None or other[0] is None or other[1] is None:
        return True
    return one[0] < other[1] and other[0] < one[1]


def _number(delivery: Delivery) -> int:
    """The ``n`` of ``<stem>.<n>.csv.gz``, by which the landing zone counts further files of one name."""
    last = delivery.path.name.removesuffix(DATA_SUFFIX).rpartition(".")[2]
    return int(last) if last.isdigit() else 0
