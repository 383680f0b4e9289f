"""The online copy: the latest row of every entity in SQLite, in Feast's own layout.

One table per feature view, ``<project>_<view>``, one row per cell: the serialized entity key, the feature's name, the
serialized ``feast.types.Value`` (empty for null), and event and created time in whole epoch seconds. So every Feast
client reads what is written here (`get_online_features`, ``feast serve``), and `read_online` reads what Feast wrote.

It differs from Feast's own materialisation on purpose: the latest rows are found in SQL and streamed, an older row
never overwrites a newer one, and a row outside its view's max age is said to be so.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any, Literal

from contrail.duck import quote_identifier as q
from contrail.online_layout import decode_value, encode_key, instant_of
from contrail.online_stores import sqlite_session
from contrail.online_views import OnlineView

Status = Literal["present", "not found", "outside max age"]

_PARAMETERS = 30_000  # SQLite takes 32,766 in one statement


@dataclass(frozen=True)
class OnlineRow:
    """One view's answer for one entity.

    Attributes:
        status: "present" also where single values are null.
        event_at: of the stored row, also when it is outside max age; None when there is none.
        values: feature -> value; all None unless the row is present.
    """

    status: Status
    event_at: datetime | None
    values: Mapping[str, Any]


def read_online(
    path: Path, views: Sequence[OnlineView], entities: Sequence[Mapping[str, Any]], *, now: datetime
) -> list[dict[str, OnlineRow]]:
    """Look entities up, one query per view.

    Args:
        path: the SQLite file (`store_path`).
        views: what to read (`online_view`).
        entities: per entity the join keys of all views; a null key finds nothing.
        now: the instant at which a row's age is judged.

    Returns:
        Per entity, in order: view name -> its row.

    Raises:
        OnlineError: the store or a view's table is missing.
        KeyError: an entity lacks a join key.
    """
    answers: list[dict[str, OnlineRow]] = [{} for _ in entities]
    with sqlite_session(path) as con:
        for view in views:
            keys = [
                None if any(e[k] is None for k in view.keys) else encode_key(e, view.keys) for e in entities
            ]
            stored = _stored(con, view, sorted({key for key in keys if key is not None}))
            for answer, key in zip(answers, keys, strict=True):
                answer[view.name] = _judged(view, stored.get(key) if key is not None else None, now)
    return answers


def _stored(
    con: sqlite3.Connection, view: OnlineView, keys: Sequence[bytes]
) -> dict[bytes, tuple[int, dict[str, Any]]]:
    found: dict[bytes, tuple[int, dict[str, Any]]] = {}
    for offset in range(0, len(keys), _PARAMETERS):
        part = keys[offset : offset + _PARAMETERS]
        marks = ",".join("?" * len(part))
        sql = (
            f"SELECT entity_key, feature_name, value, CAST(event_ts AS INTEGER) FROM {q(view.table)} "
            f"WHERE entity_key IN ({marks})"
        )
        for key, feature, value, event_ts in con.execute(sql, part):
            if feature in view.features:
                found.setdefault(key, (event_ts, {}))[1][feature] = decode_value(value)
    return found


def _judged(view: OnlineView, row: tuple[int, dict[str, Any]] | None, now: datetime) -> OnlineRow:
    nothing = dict.fromkeys(view.features)
    if row is None:
        return OnlineRow("not found", None, nothing)
    event_at = instant_of(row[0])
    if view.max_age and now - event_at > view.max_age:
        return OnlineRow("outside max age", event_at, nothing)
    return OnlineRow("present", event_at, nothing | row[1])
