"""The log of decisions, ``trail/decisions``: append-only, hash-chained, written by compare-and-swap.

Every row holds the sha256 of the row before it and its own, which is that of its canonical JSON: one object of all
columns but ``row_sha256``, keys sorted, no blanks, UTF-8 unescaped; an instant as ISO 8601 in UTC with six decimals and
``+00:00``, a list as an array, an absent value as null. Changing, deleting or reordering a row breaks the chain there.
An end that was cut off leaves a good chain: it shows only against an *anchor*, the sequence number and hash of a head,
kept somewhere else.

Nothing is held in memory: whatever is asked is folded from the rows (`contrail.registry`, `contrail.promotions`). A
decision is appended to the very rows that it was made from, or is made anew.
"""

from __future__ import annotations

import hashlib
import json
import random
import re
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, fields, replace
from datetime import UTC, datetime, timedelta
from typing import Any, Literal

import pyarrow as pa

from contrail.clock import utc_now
from contrail.lake import Commit, Lake, StaleSnapshotError

TABLE = "trail/decisions"
NO_CHAMPION = -1
EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
BEFORE_THE_FIRST = "0" * 64
KEEP_DAYS = 3650
# With n writers one wins in each round, so that a writer loses n - 1 rounds in turn at the worst.
ATTEMPTS = 40
LONGEST_PAUSE_SECONDS = 0.2
ANCHOR = re.compile(r"^(\d{1,18}):([0-9a-f]{64})$")

Event = Literal["registered", "evaluated", "requested", "approved", "rejected", "promoted", "rolled_back"]

_INSTANT = pa.timestamp("us", tz="UTC")
SCHEMA = pa.schema(
    [
        pa.field("sequence", pa.int64(), nullable=False),
        pa.field("use_case", pa.string(), nullable=False),
        pa.field("event", pa.string(), nullable=False),
        pa.field("model_version", pa.int64(), nullable=False),
        pa.field("model_sha256", pa.string(), nullable=False),
        pa.field("request_id", pa.string(), nullable=False),
        pa.field("evaluation_id", pa.string(), nullable=False),
        pa.field("criteria_sha256", pa.string(), nullable=False),
        pa.field("champion_sequence", pa.int64(), nullable=False),
        pa.field("approvals_needed", pa.int64(), nullable=False),
        pa.field("expires_at", _INSTANT),
        pa.field("unmet", pa.list_(pa.string()), nullable=False),
        pa.field("decided_at", _INSTANT, nullable=False),
        pa.field("recorded_at", _INSTANT, nullable=False),
        pa.field("decided_by", pa.string(), nullable=False),
        pa.field("reason", pa.string(), nullable=False),
        pa.field("previous_sha256", pa.string(), nullable=False),
        pa.field("row_sha256", pa.string(), nullable=False),
    ]
)
INSTANTS = tuple(field.name for field in SCHEMA if field.type == _INSTANT)


class DecisionError(RuntimeError):
    """The log cannot be read or written as asked; the message says what to do."""


@dataclass(frozen=True, kw_only=True)
class Draft:
    """A decision before it stands in the log.

    Attributes:
        use_case: name of the use case.
        event: what was decided.
        model_version: the version that it is about; where it is rolled back, the version that is champion again.
        model_sha256: identity of that model's artifact.
        decided_at: now, on the project's clock: what expires, and what was champion when, goes by it.
        decided_by: a person, a run or a rule.
        reason: why.
        request_id: the promotion request; empty where there is none.
        evaluation_id: the evidence that it rests on; empty where there is none.
        criteria_sha256: the criteria frozen before the fit; empty where there are none.
        champion_sequence: number of the decision that made the champion of the moment; `NO_CHAMPION` for none.
        approvals_needed: how many people must approve the request; 0 where there is none.
        expires_at: end of the request, on the project's clock.
        unmet: the criteria that the evaluation found unmet, in words.
    """

    use_case: str
    event: Event
    model_version: int
    model_sha256: str
    decided_at: datetime
    decided_by: str
    reason: str
    request_id: str = ""
    evaluation_id: str = ""
    criteria_sha256: str = ""
    champion_sequence: int = NO_CHAMPION
    approvals_needed: int = 0
    expires_at: datetime | None = None
    unmet: tuple[str, ...] = ()


@dataclass(frozen=True, kw_only=True)
class Decision(Draft):
    """One row of the log.

    Attributes:
        decided_at: never before the decision before it about the same use case: a clock that was set back, for a replay
            say, writes nothing into what is past.
        sequence: counts from 0 over all use cases, without gaps.
        recorded_at: when it was written, on the wall clock; it decides nothing.
        previous_sha256: `row_sha256` of the row before.
        row_sha256: of this row; see the module.
    """

    sequence: int
    recorded_at: datetime
    previous_sha256: str
    row_sha256: str = ""

    @property
    def computed_sha256(self) -> str:
        """What `row_sha256` must be."""
        body = {name: _canonical(value) for name, value in asdict(self).items() if name != "row_sha256"}
        text = json.dumps(body, sort_keys=True, separators=(",", ":"), ensure_ascii=False)
        return hashlib.sha256(text.encode()).hexdigest()

    @property
    def anchor(self) -> Anchor:
        """What to keep elsewhere."""
        return Anchor(self.sequence, self.row_sha256)

    def answered(self, event: Event, *, decided_at: datetime, decided_by: str, reason: str) -> Draft:
        """The next decision about the same thing: all that this one binds, another event."""
        bound = Draft(**{field.name: getattr(self, field.name) for field in fields(Draft)})
        return replace(bound, event=event, decided_at=decided_at, decided_by=decided_by, reason=reason)


@dataclass(frozen=True)
class Anchor:
    """A row of the log as it is remembered outside of it; as text ``SEQUENCE:SHA256``."""

    sequence: int
    sha256: str

    def __str__(self) -> str:
        return f"{self.sequence}:{self.sha256}"

    @classmethod
    def parse(cls, text: str) -> Anchor:
        """Read ``SEQUENCE:SHA256``.

        Raises:
            DecisionError: it is something else.
        """
        found = ANCHOR.match(text.strip())
        if found is None:
            raise DecisionError(f"{text!r} is no anchor: SEQUENCE:SHA256 is, with 64 hex digits")
        return cls(int(found[1]), found[2])


@dataclass(frozen=True)
class Verification:
    """What was found of the chain.

    Attributes:
        rows: rows in the log.
        head: the last row; None where there is none.
        first_bad: sequence number of the first row that was altered or is missing; None where the chain holds.
        why: what is wrong with it; empty where nothing.
        anchors_checked: how many anchors were compared.
        anchors_gone: those of them that name a row that is gone, or another one.
    """

    rows: int
    head: Anchor | None
    first_bad: int | None
    why: str
    anchors_checked: int
    anchors_gone: tuple[Anchor, ...] = ()

    @property
    def holds(self) -> bool:
        return self.first_bad is None


Decide = Callable[[Sequence[Decision]], Sequence[Draft]]


def create(lake: Lake) -> None:
    """Create the log if there is none.

    Raises:
        LakeError: there is one of another form.
    """
    lake.create(TABLE, SCHEMA, keep_days=KEEP_DAYS, append_only=True)


def read(lake: Lake, use_case: str | None = None) -> list[Decision]:
    """All decisions in order, of one use case or of all; none where there is no log yet.

    Raises:
        DecisionError: the log was made by an earlier release.
        LakeError: it is damaged.
    """
    if not lake.exists(TABLE):
        return []
    _, rows = _snapshot(lake)
    return rows if use_case is None else [row for row in rows if row.use_case == use_case]


def head(lake: Lake) -> Anchor | None:
    """The last row as an anchor; None where there is none."""
    rows = read(lake)
    return rows[-1].anchor if rows else None


def append(lake: Lake, decide: Decide, commit: Commit) -> list[Decision]:
    """Decide on the rows that are there and append what was decided, all of it or nothing, to just these rows.

    Args:
        decide: all rows of the log, in order → what to append (nothing: nothing is written). It is asked again, with
            the rows then there, whenever another writer was first, and refuses by raising.
        commit: the write's provenance; the version of the log that was read is added to its inputs.

    Returns:
        The rows as they stand in the log.

    Raises:
        DecisionError: the log does not verify, and nothing is decided upon it; or other writers were always first.
    """
    create(lake)
    for attempt in range(1, ATTEMPTS + 1):
        version, rows = _snapshot(lake)
        if (found := _check_chain(rows)) is not None:
            raise DecisionError(
                f"{TABLE} is damaged at sequence {found[0]} ({found[1]}), nothing is decided upon it: restore it from"
                " the backup; contrail audit verify"
            )
        added = _chained(rows, decide(rows))
        if not added:
            return []
        told = {"events": " ".join(row.event for row in added), "anchor": str(added[-1].anchor)}
        once = replace(
            commit, inputs=(*commit.inputs, lake.ref(TABLE, version)), extra={**commit.extra, **told}
        )
        try:
            lake.append_at(TABLE, _table(added), once, version=version)
        except StaleSnapshotError:
            time.sleep(random.uniform(0.0, min(0.02 * attempt, LONGEST_PAUSE_SECONDS)))  # nosec B311
            continue
        return added
    raise DecisionError(f"{TABLE}: other writers were first {ATTEMPTS} times; decide again")


def verify(lake: Lake, anchors: Sequence[Anchor] = ()) -> Verification:
    """Recompute the chain and compare it with what was remembered elsewhere; names the first row that is wrong.

    Raises:
        DecisionError, LakeError: the log cannot be read.
    """
    rows = read(lake)
    compared = {one: _check_anchor(rows, one) for one in anchors}
    found = [bad for bad in (_check_chain(rows), *compared.values()) if bad]
    first_bad, why = min(found) if found else (None, "")
    gone = tuple(anchor for anchor, bad in compared.items() if bad)
    return Verification(len(rows), rows[-1].anchor if rows else None, first_bad, why, len(anchors), gone)


def _check_chain(rows: Sequence[Decision]) -> tuple[int, str] | None:
    previous = BEFORE_THE_FIRST
    for expected, row in enumerate(rows):
        if row.sequence > expected:
            return expected, f"row {expected} is missing: {row.sequence} comes next"
        if row.sequence < expected:
            return row.sequence, f"the number {row.sequence} stands more than once"
        if row.computed_sha256 != row.row_sha256:
            return expected, f"row {expected} ({row.event}) was altered: its content has another hash"
        if row.previous_sha256 != previous:
            return expected, f"row {expected} ({row.event}) does not follow the row before it"
        previous = row.row_sha256
    return None


def _check_anchor(rows: Sequence[Decision], anchor: Anchor) -> tuple[int, str] | None:
    named = next((row for row in rows if row.sequence == anchor.sequence), None)
    if named is None:
        cut = f"the anchor {anchor} names a row that is gone: the end was cut off after {len(rows)} rows"
        return len(rows), cut
    if named.row_sha256 != anchor.sha256:
        anew = f"the anchor {anchor} names another row: the log was written anew from here or from before"
        return anchor.sequence, anew
    return None


def _chained(rows: Sequence[Decision], drafts: Sequence[Draft]) -> list[Decision]:
    previous = rows[-1].row_sha256 if rows else BEFORE_THE_FIRST
    latest = {row.use_case: row.decided_at for row in rows}
    recorded_at = utc_now()
    added: list[Decision] = []
    for sequence, draft in enumerate(drafts, start=len(rows)):
        decided = {field.name: getattr(draft, field.name) for field in fields(Draft)}
        latest[draft.use_case] = max(draft.decided_at, latest.get(draft.use_case, draft.decided_at))
        decided["decided_at"] = latest[draft.use_case]
        row = Decision(**decided, sequence=sequence, recorded_at=recorded_at, previous_sha256=previous)
        row = replace(row, row_sha256=row.computed_sha256)
        previous = row.row_sha256
        added.append(row)
    return added


def _snapshot(lake: Lake) -> tuple[int, list[Decision]]:
    version, table = lake.rows(TABLE)
    if missing := sorted(set(SCHEMA.names) - set(table.column_names)):
        raise DecisionError(
            f"{TABLE} was made by an earlier release (it lacks {', '.join(missing)}): make the home anew"
        )
    # As numbers: for an instant pyarrow would import pandas, which costs more than all else here.
    plain = table.select(SCHEMA.names).cast(
        pa.schema([field.with_type(pa.int64()) if field.name in INSTANTS else field for field in SCHEMA])
    )
    try:
        rows = [_decision(row) for row in plain.to_pylist()]
    except OverflowError as error:
        raise DecisionError(
            f"{TABLE} was altered: it holds an instant that no clock shows; restore it from the backup"
        ) from error
    # The hash breaks ties, which only a forged log has.
    return version, sorted(rows, key=lambda row: (row.sequence, row.row_sha256))


def _decision(values: Mapping[str, Any]) -> Decision:
    row: dict[str, Any] = dict(values)
    for name in INSTANTS:
        row[name] = None if row[name] is None else EPOCH + timedelta(microseconds=row[name])
    row["unmet"] = tuple(row["unmet"] or ())
    return Decision(**row)


def _table(rows: Sequence[Decision]) -> pa.Table:
    return pa.Table.from_pylist([asdict(row) for row in rows], schema=SCHEMA)


def _canonical(value: Any) -> Any:
    if isinstance(value, datetime):
        return value.astimezone(UTC).isoformat(timespec="microseconds")
    return list(value) if isinstance(value, tuple) else value
