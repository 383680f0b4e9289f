"""The leakage certificate: proof, row by row, that a training set holds nothing that was not known at its decisions.

What is proven, and by what:

* *features*: the greatest known-at and created-at time of all rows that were looked up for a vector, which the join
  that read them wrote beside it, is not later than the row's decision. A row for which nothing was found has none.
* *request*: the latest fact of the request, which the use case's query names, was known at the decision. What is
  computed at request time is made of these two and of nothing else.
* *outcome*: the label was known before the cut of the part that the row is in, so that nobody learns or chooses by what
  came to be known only afterwards.
* *open*: the outcome was not known yet at the decision. A decision time that lies after the event, by which all that
  the event brought would count as known, shows here.
* *parts*: no row is in two parts.

The certificate rests on those times: that they are true is what the tests of the join and of the clean tables are for.
It cannot see a fact that is dated too early, a column of the request that is younger than the query says, nor what the
choice of the rows or of the features has of the future.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from datetime import datetime, timedelta
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from contrail.encoding import Booleans, Integers
from contrail.training import PARTS, Split, midnight
from contrail.use_case import UseCase

FEATURES_KNOWN_AT = "features_known_at"
"""Column of a training set: when the newest of the rows that were looked up for its vector was known."""
FEATURES, REQUEST, OUTCOME, OPEN, PARTS_RULE = "features", "request", "outcome", "open", "parts"
MOST_LISTED = 5
"""Offending rows named per rule and part."""

_INSTANT = pa.timestamp("us", tz="UTC")
_MICROSECOND = timedelta(microseconds=1)


class LeakageError(ValueError):
    """A training set cannot be certified, or was not; the message says what to do or what leaks."""


@dataclass(frozen=True)
class Offence:
    """One row that breaks a rule.

    Attributes:
        key: the entity.
        decision_at: its decision; None where it has none.
        known_at: the time that should not have been so late; None where there should have been one.
        limit: what it had to be at the latest (of an outcome: before which; of an open one: after which).
    """

    rule: str
    part: str
    key: str
    decision_at: datetime | None
    known_at: datetime | None
    limit: datetime | None

    def __str__(self) -> str:
        known = "at no known time" if self.known_at is None else f"known at {self.known_at.isoformat()}"
        if self.rule == PARTS_RULE:
            return f"{self.part} {self.key} is in another part, too"
        decided = "without a decision" if self.decision_at is None else self.decision_at.isoformat()
        if self.rule == OPEN:
            return f"{self.part} {self.key} decided {decided}: its outcome was {known} already"
        limit = "" if self.rule != OUTCOME or self.limit is None else f", cut {self.limit.isoformat()}"
        return f"{self.part} {self.key} decided {decided}: {self.rule} {known}{limit}"


@dataclass(frozen=True)
class PartFacts:
    """What holds of one part; times and margins are None where the part has no row with such a time.

    Attributes:
        rows: its rows.
        without_lookup: rows for whose vector no stored row was found.
        cut: every outcome had to be known before it.
        features_known_at: the greatest of the part.
        request_known_at: likewise.
        outcome_known_at: likewise.
        features_margin_seconds: the least time between a decision and the newest row looked up for it.
        request_margin_seconds: likewise, of the request.
        offences: rule → rows that break it; only rules that are broken.
    """

    part: str
    rows: int
    without_lookup: int
    cut: datetime
    features_known_at: datetime | None
    request_known_at: datetime | None
    outcome_known_at: datetime | None
    features_margin_seconds: float | None
    request_margin_seconds: float | None
    offences: Mapping[str, int]


@dataclass(frozen=True)
class Certificate:
    """What was checked of a training set, and whether it holds.

    Attributes:
        labels_until: the instant after which no outcome counted.
        proven: rule → what is proven by what; a rule that the use case gives no time for says that it is not.
        first_offences: of every part and rule the first rows that break it, in order of their decisions.
    """

    use_case: str
    labels_until: datetime
    proven: Mapping[str, str]
    parts: tuple[PartFacts, ...]
    first_offences: tuple[Offence, ...]

    @property
    def holds(self) -> bool:
        return not any(part.offences for part in self.parts)

    @property
    def rows(self) -> int:
        """Rows of all parts."""
        return sum(part.rows for part in self.parts)

    @property
    def in_words(self) -> str:
        """One sentence: what holds, or which rules are broken by which rows first."""
        if self.holds:
            without = sum(part.without_lookup for part in self.parts)
            margins = [m for part in self.parts if (m := part.features_margin_seconds) is not None]
            tightest = f", the tightest margin is {min(margins):g} s" if margins else ""
            return (
                f"{self.rows:,} rows: nothing in a vector was known after its decision{tightest}; {without:,} rows "
                "had no stored row; every outcome was known before the cut of its part"
            )
        counted = ", ".join(
            f"{count:,} rows of {part.part} break the rule {rule!r}"
            for part in self.parts
            for rule, count in part.offences.items()
        )
        first = "; ".join(str(offence) for offence in self.first_offences)
        return f"{self.use_case}: the training set leaks: {counted}. First: {first}"

    def to_dict(self) -> dict[str, Any]:
        """All of it as JSON has it; instants in ISO form."""
        return _plain({"holds": self.holds, "rows": self.rows, **asdict(self)})

    def require(self) -> None:
        """Go on only where it holds.

        Raises:
            LeakageError: it does not; the message names the first offending rows.
        """
        if not self.holds:
            raise LeakageError(self.in_words)


def certify(rows: pa.Table, split: Split, use_case: UseCase, *, labels_until: datetime) -> Certificate:
    """Check every row of every part.

    Args:
        rows: the training set that was split, with `FEATURES_KNOWN_AT` and the use case's times.
        split: from `training.split_rows`.
        labels_until: as it was given to that; the cut of the last part.

    Raises:
        LeakageError: a column is missing or holds no instants, or features are looked up and not one row says when
            what was found was known.
    """
    decided = _instants(rows, use_case.decision_column)
    times = {
        FEATURES: _instants(rows, FEATURES_KNOWN_AT),
        OUTCOME: _instants(rows, use_case.outcome_known_column),
    }
    if use_case.request_known_column:
        times[REQUEST] = _instants(rows, use_case.request_known_column)
    if use_case.join_keys and not times[FEATURES].there.any():
        raise LeakageError(
            f"{use_case.name}: {FEATURES_KNOWN_AT} is empty in all {rows.num_rows:,} rows, so nothing can be said of "
            "leaks: no stored row was found, or the join did not say when what it found was known"
        )
    keys = rows.column(use_case.entity_key)
    counted: Integers = np.bincount(np.concatenate(list(split.rows.values())), minlength=rows.num_rows)
    facts: list[PartFacts] = []
    first: list[Offence] = []
    ends = (split.cuts.train_end, split.cuts.validate_end, None)
    for part, end in zip(PARTS, ends, strict=True):
        chosen = split.rows[part]
        cut = labels_until if end is None else min(midnight(end), labels_until)
        checked = _Part(
            part, decided.take(chosen), {rule: time.take(chosen) for rule, time in times.items()}, cut
        )
        broken = checked.broken() | {PARTS_RULE: counted[chosen] > 1}
        for rule, mask in broken.items():
            first += [
                checked.offence(rule, int(place), str(keys[int(chosen[place])].as_py()))
                for place in np.flatnonzero(mask)[:MOST_LISTED]
            ]
        facts.append(checked.facts({rule: int(mask.sum()) for rule, mask in broken.items() if mask.any()}))
    return Certificate(use_case.name, labels_until, _proven(use_case), tuple(facts), tuple(first))


def _proven(use_case: UseCase) -> dict[str, str]:
    request = use_case.request_known_column
    return {
        FEATURES: f"{FEATURES_KNOWN_AT}, written by the join that read the rows, <= {use_case.decision_column}",
        REQUEST: f"{request}, from the use case's query, <= {use_case.decision_column}"
        if request
        else "not proven: the use case names no time at which its request was known",
        OUTCOME: f"{use_case.outcome_known_column} < the cut of the row's part",
        OPEN: f"{use_case.outcome_known_column} > {use_case.decision_column}",
        PARTS_RULE: "no row is in two parts",
    }


@dataclass(frozen=True)
class _Instants:
    """Microseconds since 1970, and which of them are there."""

    values: Integers
    there: Booleans

    def take(self, places: Integers) -> _Instants:
        return _Instants(self.values[places], self.there[places])

    def at(self, place: int) -> datetime | None:
        return _datetime(int(self.values[place])) if self.there[place] else None

    @property
    def greatest(self) -> datetime | None:
        return _datetime(int(self.values[self.there].max())) if self.there.any() else None


@dataclass(frozen=True)
class _Part:
    part: str
    decided: _Instants
    times: Mapping[str, _Instants]
    cut: datetime

    def broken(self) -> dict[str, Booleans]:
        """Rule → which rows break it."""
        cut = (self.cut - _EPOCH) // _MICROSECOND
        outcome = self.times[OUTCOME]
        found = {OUTCOME: ~outcome.there | (outcome.values >= cut)}
        found[OPEN] = outcome.there & self.decided.there & (outcome.values <= self.decided.values)
        for rule in (FEATURES, REQUEST):
            if rule in self.times:
                time = self.times[rule]
                late = ~self.decided.there | (time.there & (time.values > self.decided.values))
                found[rule] = late if rule == FEATURES else late | ~time.there
        return found

    def offence(self, rule: str, place: int, key: str) -> Offence:
        decided = self.decided.at(place)
        time = self.times.get(OUTCOME if rule == OPEN else rule)
        known = None if time is None else time.at(place)
        return Offence(rule, self.part, key, decided, known, self.cut if rule == OUTCOME else decided)

    def facts(self, offences: Mapping[str, int]) -> PartFacts:
        features, request = self.times[FEATURES], self.times.get(REQUEST)
        return PartFacts(
            part=self.part,
            rows=len(self.decided.values),
            without_lookup=int((~features.there).sum()),
            cut=self.cut,
            features_known_at=features.greatest,
            request_known_at=None if request is None else request.greatest,
            outcome_known_at=self.times[OUTCOME].greatest,
            features_margin_seconds=self._margin(features),
            request_margin_seconds=None if request is None else self._margin(request),
            offences=offences,
        )

    def _margin(self, time: _Instants) -> float | None:
        both = time.there & self.decided.there
        if not both.any():
            return None
        return int((self.decided.values - time.values)[both].min()) / 1_000_000


_EPOCH = datetime.fromisoformat("1970-01-01T00:00:00+00:00")


def _datetime(microseconds: int) -> datetime:
    return _EPOCH + microseconds * _MICROSECOND


def _instants(rows: pa.Table, name: str) -> _Instants:
    if name not in rows.column_names:
        raise LeakageError(
            f"the training set has no column {name}, so nothing can be said of leaks: make it anew; it has "
            f"{sorted(rows.column_names)}"
        )
    column = rows.column(name)
    if not pa.types.is_timestamp(column.type) or column.type.tz is None:
        raise LeakageError(f"the column {name} must hold instants with a zone; it is of type {column.type}")
    array = column.cast(_INSTANT).cast(pa.int64())
    there: npt.NDArray[np.bool_] = np.asarray(column.is_valid().to_numpy(), dtype=np.bool_)
    return _Instants(np.asarray(array.fill_null(0).to_numpy(), dtype=np.int64), there)


def _plain(value: Any) -> Any:
    if isinstance(value, datetime):
        return value.isoformat()
    if isinstance(value, Mapping):
        return {str(name): _plain(item) for name, item in value.items()}
    if isinstance(value, Sequence) and not isinstance(value, str):
        return [_plain(item) for item in value]
    return value
