"""The stored rows of some entity keys, out of SQLite or Redis, in one round trip.

SQLite holds a table per view with a row per cell: one query per view. Redis holds a hash per entity key, which all
views with the same keys share: one HMGET per key for all of them, all in one pipeline.
"""

from __future__ import annotations

import os
import sqlite3
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol

from contrail.duck import quote_identifier as q
from contrail.online_layout import OnlineError, decode_time, decode_value, redis_field, redis_time_field
from contrail.online_stores import (
    open_sqlite,
    redis_address,
    redis_client,
    redis_errors,
    sqlite_errors,
    store_kind,
    store_path,
)
from contrail.online_views import OnlineView

if TYPE_CHECKING:
    import redis
    from feast.repo_config import RepoConfig

LOCK_SECONDS = 1.0
"""How long a reader waits for a writer, where the SQLite file is not in write-ahead mode."""
CONNECT_SECONDS = 0.2
"""How long Redis may take to accept a reader, unless `connection_string` has ``socket_connect_timeout``."""
ANSWER_SECONDS = 0.25
"""How long Redis may take to answer a reader, unless `connection_string` has ``socket_timeout``."""

_PARAMETERS = 30_000  # SQLite takes 32,766 in one statement
_COMMANDS = 500  # Redis commands in one write to the socket


class Stored(NamedTuple):
    """What is stored of one view, one entry for each key that was asked for.

    Attributes:
        event_us: the row's event time, microseconds since 1970; None where there is no row.
        values: the values in the order of the view's features; None where there is no row.
    """

    event_us: list[int | None]
    values: list[list[Any] | None]


class Group:
    """Views with the same join keys: what is fetched of them by one entity key.

    Raises:
        OnlineError: two features have the same field in Redis.
    """

    def __init__(self, views: Sequence[OnlineView]) -> None:
        self.views = tuple(views)
        self.columns = [{feature: at for at, feature in enumerate(view.features)} for view in views]
        names: dict[bytes, str] = {}
        self.fields: list[bytes] = []
        for view in {view.stored_name: view for view in views}.values():
            for feature in view.features:
                name = f"{view.name}:{feature}"
                other = names.setdefault(redis_field(view.stored_name, feature), name)
                if other != name:
                    raise OnlineError(f"{other} and {name} have the same field in Redis: rename one of them")
        for view in views:
            self.fields += [redis_field(view.stored_name, feature) for feature in view.features]
            self.fields.append(redis_time_field(view.stored_name))


class Fetch(Protocol):
    """A store to fetch from; any number of threads may use it at once."""

    def fetch(self, asked: Sequence[tuple[Group, Sequence[bytes]]]) -> list[list[Stored]]:
        """For each group of views and its distinct entity keys: what is stored of each view.

        Raises:
            OnlineError: the store is missing, out of reach or locked, or it lacks a view's table.
        """
        ...

    def close(self) -> None:
        """Let go of all connections; the next `fetch` opens new ones."""
        ...


def fetch_of(config: RepoConfig) -> Fetch:
    """The store that Feast's configuration names; nothing is opened yet.

    Raises:
        OnlineError: it is neither SQLite nor one Redis server.
    """
    return SqliteFetch(store_path(config)) if store_kind(config) == "sqlite" else RedisFetch(config)


# --- SQLite ----------------------------------------------------------------------------------------------------------


class SqliteFetch:
    """A SQLite file. Connections stay open between calls, as many as there ever were callers at once."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._idle: list[tuple[tuple[int, int], sqlite3.Connection]] = []

    def fetch(self, asked: Sequence[tuple[Group, Sequence[bytes]]]) -> list[list[Stored]]:
        with sqlite_errors(self._path):
            file, con = self._connection()
            try:
                found = [
                    [
                        _cells(con, view.table, columns, keys)
                        for view, columns in zip(group.views, group.columns, strict=True)
                    ]
                    for group, keys in asked
                ]
            except BaseException:
                con.close()
                raise
            self._idle.append((file, con))
            return found

    def close(self) -> None:
        while self._idle:
            self._idle.pop()[1].close()

    def _connection(self) -> tuple[tuple[int, int], sqlite3.Connection]:
        # A connection outlives its file: one that was deleted and made anew would be read as it was, for ever.
        try:
            status = os.stat(self._path)
            file = (status.st_dev, status.st_ino)
        except FileNotFoundError:
            file = (0, 0)
        while self._idle:
            opened, con = self._idle.pop()
            if opened == file:
                return opened, con
            con.close()
        return file, open_sqlite(self._path, wait_seconds=LOCK_SECONDS)


def _cells(con: sqlite3.Connection, table: str, columns: dict[str, int], keys: Sequence[bytes]) -> Stored:
    event_us: list[int | None] = [None] * len(keys)
    values: list[list[Any] | None] = [None] * len(keys)
    empty: list[Any] = [None] * len(columns)
    places = {key: place for place, key in enumerate(keys)}
    for offset in range(0, len(keys), _PARAMETERS):
        part = keys[offset : offset + _PARAMETERS]
        marks = ",".join("?" * len(part))
        sql = (
            f"SELECT entity_key, feature_name, value, event_ts FROM {q(table)} WHERE entity_key IN ({marks})"
        )
        for key, feature, value, seconds in con.execute(sql, part):
            if (at := columns.get(feature)) is None:
                continue
            place = places[key]
            row = values[place]
            if row is None:
                row = values[place] = empty.copy()
                event_us[place] = seconds * 1_000_000
            row[at] = decode_value(value)
    return Stored(event_us, values)


# --- Redis -----------------------------------------------------------------------------------------------------------


class RedisFetch:
    """One Redis server. Connections stay open in the client's pool."""

    def __init__(self, config: RepoConfig) -> None:
        options = redis_address(config).options
        self._config = config
        self._project = config.project.encode()
        self._client: redis.Redis = redis_client(
            config,
            connect_seconds=options.get("socket_connect_timeout", CONNECT_SECONDS),
            read_seconds=options.get("socket_timeout", ANSWER_SECONDS),
        )

    def fetch(self, asked: Sequence[tuple[Group, Sequence[bytes]]]) -> list[list[Stored]]:
        with redis_errors(self._config):
            pipe = self._client.pipeline(transaction=False)
            for group, keys in asked:
                for key in keys:
                    pipe.execute_command("HMGET", key + self._project, *group.fields)
            replies: list[list[bytes | None]] = pipe.execute()
        found: list[list[Stored]] = []
        start = 0
        for group, keys in asked:
            found.append(_hashes(group, replies[start : start + len(keys)]))
            start += len(keys)
        return found

    def close(self) -> None:
        self._client.close()


def _hashes(group: Group, replies: list[list[bytes | None]]) -> list[Stored]:
    stored: list[Stored] = []
    start = 0
    for columns in group.columns:
        end = start + len(columns)
        event_us: list[int | None] = []
        values: list[list[Any] | None] = []
        for reply in replies:
            if (time := reply[end]) is None:
                event_us.append(None)
                values.append(None)
            else:
                event_us.append(decode_time(time))
                values.append([decode_value(value) for value in reply[start:end]])
        stored.append(Stored(event_us, values))
        start = end + 1
    return stored
