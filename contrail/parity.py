"""Parity: what is served online is what the offline tables say of the same instant, bit for bit.

For a sample of a view's entities the point-in-time join gives the row that counts at an instant, over the version of
the table that the online copy was made from. The online answer for the same entities must be that row: the same
known-at time, the same bits in every value, and nothing at all where no row is within max age.
"""

from __future__ import annotations

import hashlib
import json
import struct
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from typing import Any, Protocol

import duckdb
import numpy as np
import pyarrow as pa

from contrail.asof_join import JoinView, instant, point_in_time_join, utc
from contrail.duck import quote_identifier as q
from contrail.duck import quote_literal
from contrail.online_layout import epoch_seconds

PRESENT = "present"
ROW, KNOWN_AT = "(row)", "(known at)"  # what differs where it is no feature
MOST_LISTED = 20

_KNOWN_AT, _DECISION, _ROW_ID = "__known_at", "__decision_at", "__row_id"
_ENTITIES = "parity_entities"


class OnlineAnswer(Protocol):
    """What an online reader says of one entity in one view."""

    @property
    def status(self) -> str: ...
    @property
    def event_at(self) -> datetime | None: ...
    @property
    def values(self) -> Mapping[str, Any]: ...


@dataclass(frozen=True)
class OfflineRow:
    """The row that counts for one entity at the instant; without one `known_at` and all values are None."""

    known_at: datetime | None
    values: Mapping[str, Any]


@dataclass(frozen=True)
class Mismatch:
    """One difference.

    Attributes:
        view: feature view, or the feature service where whole vectors are compared.
        column: the feature; ``(row)`` where only one side has a row, ``(known at)`` where the rows are not the same.
        entity: the entity's keys; only a digest of them where a key is personal.
        offline: the offline value in words; online: the online one.
    """

    view: str
    column: str
    entity: str
    offline: str
    online: str


@dataclass(frozen=True)
class Compared:
    """What a comparison looked at and what it found.

    Attributes:
        entities: entities compared; values: single values compared.
        differing: positions (in the order given) of the entities that differ.
        ahead: entities left out, because their online row is newer than what the table was built until.
    """

    view: str
    entities: int
    values: int
    mismatches: tuple[Mismatch, ...]
    differing: tuple[int, ...]
    ahead: int = 0


# --- comparing: nothing is read --------------------------------------------------------------------------------------


def same_bits(left: Any, right: Any) -> bool:
    """Whether two values are the same, floats by their eight bytes; null equals null and nothing else."""
    if isinstance(left, float) and isinstance(right, float):
        return struct.pack("<d", left) == struct.pack("<d", right)
    return type(left) is type(right) and bool(left == right)


def compare(
    view: str,
    entities: Sequence[Mapping[str, Any]],
    offline: Sequence[OfflineRow],
    online: Sequence[OnlineAnswer],
    *,
    personal: frozenset[str] = frozenset(),
    ahead_from: datetime | None = None,
) -> Compared:
    """Compare both sides, entity by entity.

    Args:
        entities: the keys of each.
        offline: per entity the row that counts; its values are the features to compare.
        online: per entity the online answer.
        personal: keys that may not be shown.
        ahead_from: online rows known at this instant or later were pushed ahead of the table and cannot be compared
            yet; None: nothing is pushed, and such a row is a difference.

    Raises:
        ValueError: the sequences are not equally long.
    """
    found: list[Mismatch] = []
    differing: list[int] = []
    values = ahead = 0
    for number, (keys, row, answer) in enumerate(zip(entities, offline, online, strict=True)):
        if is_ahead(answer, ahead_from):
            ahead += 1
            continue
        before = len(found)
        name = entity_name(keys, personal)
        is_present = answer.status == PRESENT
        if is_present != (row.known_at is not None):
            said = (
                "no row within max age" if row.known_at is None else f"a row known at {_word(row.known_at)}"
            )
            at = "" if answer.event_at is None else f", known at {_word(answer.event_at)}"
            found.append(Mismatch(view, ROW, name, said, f"{answer.status}{at}"))
        elif row.known_at is not None:
            # Whole seconds: the resolution of what is stored online.
            if answer.event_at is None or epoch_seconds(answer.event_at) != epoch_seconds(row.known_at):
                found.append(Mismatch(view, KNOWN_AT, name, _word(row.known_at), _word(answer.event_at)))
            values += len(row.values)
            found += _differences(view, name, row.values, answer.values)
        if len(found) > before:
            differing.append(number)
    return Compared(view, len(entities) - ahead, values, tuple(found), tuple(differing), ahead)


def is_ahead(answer: OnlineAnswer, ahead_from: datetime | None) -> bool:
    """Whether an online row is one that the table was not built far enough to have."""
    return ahead_from is not None and answer.event_at is not None and answer.event_at >= ahead_from


def compare_vectors(
    service: str,
    entities: Sequence[Mapping[str, Any]],
    offline: Sequence[Mapping[str, Any]],
    online: Sequence[Mapping[str, Any]],
    *,
    personal: frozenset[str] = frozenset(),
) -> Compared:
    """Compare whole vectors, priors and computed features included; the offline one says which features."""
    found: list[Mismatch] = []
    differing: list[int] = []
    for number, (keys, left, right) in enumerate(zip(entities, offline, online, strict=True)):
        here = _differences(service, entity_name(keys, personal), left, right)
        found += here
        if here:
            differing.append(number)
    return Compared(service, len(entities), sum(map(len, offline)), tuple(found), tuple(differing))


def _differences(
    view: str, entity: str, offline: Mapping[str, Any], online: Mapping[str, Any]
) -> list[Mismatch]:
    return [
        Mismatch(view, column, entity, _word(value), _word(online.get(column)))
        for column, value in offline.items()
        if not same_bits(value, online.get(column))
    ]


def _word(value: Any) -> str:
    if isinstance(value, float):
        # Two floats can differ and print alike only as NaN; the bits say which.
        return f"{value!r} ({struct.pack('>d', value).hex()})"
    return value.isoformat() if isinstance(value, datetime) else repr(value)


def entity_name(keys: Mapping[str, Any], personal: frozenset[str]) -> str:
    """``key=value`` of all keys, or twelve digits of their sha256 where one of them is personal."""
    if personal & keys.keys():
        packed = json.dumps({key: str(value) for key, value in keys.items()}, sort_keys=True)
        return f"sha256:{hashlib.sha256(packed.encode()).hexdigest()[:12]}"
    return ", ".join(f"{key}={value}" for key, value in keys.items())


def listed(mismatches: Sequence[Mismatch], most: int = MOST_LISTED) -> tuple[Sequence[Mismatch], int]:
    """The first differences, and how many more there are."""
    return mismatches[:most], max(0, len(mismatches) - most)


# --- the offline side ------------------------------------------------------------------------------------------------


def sample_entities(
    con: duckdb.DuckDBPyConnection, view: JoinView, *, count: int, seed: datetime, now: datetime
) -> list[dict[str, Any]]:
    """Entities that have a row known at `now`, drawn by the md5 of `seed` and their keys: another seed, another sample.

    Entities whose newest row is outside max age are among them: they must not be served. A view without keys has one
    entity, which has no name.
    """
    known = [f"{utc(q(view.event_column))} <= {instant(now)}"]
    if view.created_column:
        created = q(view.created_column)
        known.append(f"({created} IS NULL OR {utc(created)} <= {instant(now)})")
    known += [f"{q(column)} IS NOT NULL" for column in view.keys.values()]
    if not view.keys:
        any_row = con.execute(f"SELECT 1 FROM {view.scan_sql} WHERE {' AND '.join(known)} LIMIT 1").fetchone()
        return [] if any_row is None else [{}]
    keys = ", ".join(f"{q(column)} AS {q(key)}" for key, column in view.keys.items())
    names = ", ".join(q(key) for key in view.keys)
    drawn = (
        f"SELECT {names} FROM (SELECT DISTINCT {keys} FROM {view.scan_sql} WHERE {' AND '.join(known)}) "
        f"ORDER BY md5(concat_ws('|', {quote_literal(seed.isoformat())}, {names})), {names} LIMIT {count}"
    )
    return con.execute(drawn).to_arrow_table().to_pylist()


def offline_rows(
    con: duckdb.DuckDBPyConnection, view: JoinView, entities: Sequence[Mapping[str, Any]], *, now: datetime
) -> list[OfflineRow]:
    """The row of each entity that counts at `now`, by the join that training and scoring use."""
    if not entities:
        return []
    spine = pa.table(
        {key: pa.array([entity[key] for entity in entities]) for key in view.keys}
        | {
            _DECISION: pa.array([now] * len(entities), pa.timestamp("us", tz="UTC")),
            _ROW_ID: np.arange(len(entities)),
        }
    )
    con.register(_ENTITIES, spine)
    with_time = replace(view, features=(*view.features, (view.event_column, _KNOWN_AT)))
    joined = point_in_time_join(
        con, spine=_ENTITIES, decision_column=_DECISION, row_id_column=_ROW_ID, views=[with_time]
    ).to_arrow_table()
    names = [name for _, name in view.features]
    return [
        OfflineRow(known_at, dict(zip(names, values, strict=True)))
        for known_at, *values in zip(*(joined[name].to_pylist() for name in (_KNOWN_AT, *names)), strict=True)
    ]
