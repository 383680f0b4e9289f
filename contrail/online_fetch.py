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
_CACHE = "PRAGMA cache_size = -16000"  # 16 MB; beyond 2 MB, the default, every page would be a system call
_COMPOUNDS = 500  # and so many SELECTs in one
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
    """The groups of one question, ready to be fetched again and again; any number of threads may do so at once."""

    def fetch(self, keys: Sequence[Sequence[bytes]]) -> list[list[Stored]]:
        """For each group and its distinct entity keys: what is stored of each of its views.

        Raises:
            OnlineError: the store is missing, out of reach or locked, or it lacks a view's table.
        """
        ...

    def close(self) -> None:
        """Let go of the connections that are not in use; a later `fetch` opens new ones."""
        ...


def fetch_of(config: RepoConfig, groups: Sequence[Group]) -> Fetch:
    """Get ready to fetch from the store that Feast's configuration names; nothing is opened yet.

    Raises:
        OnlineError: it is neither SQLite nor one Redis server.
    """
    if store_kind(config) == "sqlite":
        return SqliteFetch(store_path(config), groups)
    return RedisFetch(config, groups)


# --- SQLite ----------------------------------------------------------------------------------------------------------


class SqliteFetch:
    """Reads a SQLite file. Connections stay open between calls, as many as there ever were callers at once."""

    def __init__(self, path: Path, groups: Sequence[Group]) -> None:
        self._path = path
        self._groups = groups
        self._views = [
            (number, view.table, columns)
            for number, group in enumerate(groups)
            for view, columns in zip(group.views, group.columns, strict=True)
        ]
        # One key per group is what a server is asked for; then one statement for all views costs half of one for each.
        self._statement = " UNION ALL ".join(
            f"SELECT {at}, feature_name, value, event_ts FROM {q(table)} WHERE entity_key = ?{number + 1}"
            for at, (number, table, _) in enumerate(self._views)
        )
        self._idle: list[tuple[tuple[int, int], sqlite3.Connection]] = []

    def fetch(self, keys: Sequence[Sequence[bytes]]) -> list[list[Stored]]:
        with sqlite_errors(self._path):
            file, con = self._connection()
            try:
                if all(len(one) <= 1 for one in keys) and len(self._views) <= _COMPOUNDS:
                    found = self._one_key_each(con, keys)
                else:
                    found = [
                        _cells(con, table, columns, keys[number]) for number, table, columns in self._views
                    ]
            except BaseException:
                con.close()
                raise
            self._idle.append((file, con))
        stored = iter(found)
        return [[next(stored) for _ in group.views] for group in self._groups]

    def close(self) -> None:
        while idle := self._take_idle():
            idle[1].close()

    def _take_idle(self) -> tuple[tuple[int, int], sqlite3.Connection] | None:
        try:  # asking first would not do: another thread may take the last one in between
            return self._idle.pop()
        except IndexError:
            return None

    def _connection(self) -> tuple[tuple[int, int], sqlite3.Connection]:
        # A connection outlives its file: one that was deleted and made anew would be read as it was, for ever.
        try:
            status = os.stat(self._path)
            file = (status.st_dev, status.st_ino)
        except FileNotFoundError:
            file = (0, 0)
        while idle := self._take_idle():
            if idle[0] == file:
                return idle
            idle[1].close()
        con = open_sqlite(self._path, wait_seconds=LOCK_SECONDS)
        con.execute(_CACHE)
        return file, con

    def _one_key_each(self, con: sqlite3.Connection, keys: Sequence[Sequence[bytes]]) -> list[Stored]:
        found = [
            Stored([None] * len(keys[number]), [None] * len(keys[number])) for number, _, _ in self._views
        ]
        for number, feature, value, seconds in con.execute(
            self._statement, [one[0] if one else None for one in keys]
        ):
            columns = self._views[number][2]
            if (at := columns.get(feature)) is None:
                continue
            event_us, values = found[number]
            row = values[0]
            if row is None:
                row = values[0] = [None] * len(columns)
                event_us[0] = seconds * 1_000_000
            row[at] = decode_value(value)
        return found


def _cells(con: sqlite3.Connection, table: str, columns: dict[str, int], keys: Sequence[bytes]) -> Stored:
    event_us: list[int | None] = [None] * len(keys)
    values: list[list[Any] | None] = [None] * len(keys)
    places = {key: place for place, key in enumerate(keys)}
    last: bytes | None = None
    row: list[Any] = []
    for offset in range(0, len(keys), _PARAMETERS):
        part = keys[offset : offset + _PARAMETERS]
        marks = ",".join("?" * len(part))
        sql = (
            f"SELECT entity_key, feature_name, value, event_ts FROM {q(table)} WHERE entity_key IN ({marks})"
        )
        for key, feature, value, seconds in con.execute(sql, part):
            if (at := columns.get(feature)) is None:
                continue
            if key != last:  # an entity's cells lie together
                last, place = key, places[key]
                row = values[place] = values[place] or [None] * len(columns)
                event_us[place] = seconds * 1_000_000
            row[at] = decode_value(value)
    return Stored(event_us, values)


# --- Redis -----------------------------------------------------------------------------------------------------------


class RedisFetch:
    """Reads one Redis server. Connections stay open in the client's pool.

    The commands are put together here: all of an HMGET but its key is the same every time, and redis-py would pack it,
    look up a parser and count it anew for every entity.
    """

    def __init__(self, config: RepoConfig, groups: Sequence[Group]) -> None:
        options = redis_address(config).options
        self._config = config
        self._groups = groups
        self._client: redis.Redis = redis_client(
            config,
            connect_seconds=options.get("socket_connect_timeout", CONNECT_SECONDS),
            read_seconds=options.get("socket_timeout", ANSWER_SECONDS),
        )
        self._project = config.project.encode()
        self._commands = [
            (b"*%d\r\n$5\r\nHMGET\r\n" % (2 + len(group.fields)), b"".join(map(_bulk, group.fields)))
            for group in groups
        ]

    def fetch(self, keys: Sequence[Sequence[bytes]]) -> list[list[Stored]]:
        commands = [
            head + _bulk(key + self._project) + fields
            for (head, fields), of_group in zip(self._commands, keys, strict=True)
            for key in of_group
        ]
        if not commands:
            return [[Stored([], []) for _ in group.views] for group in self._groups]
        with redis_errors(self._config):
            replies = self._replies(commands)
        found: list[list[Stored]] = []
        start = 0
        for group, of_group in zip(self._groups, keys, strict=True):
            end = start + len(of_group)
            found.append(_hashes(group, replies[start:end]))
            start = end
        return found

    def close(self) -> None:
        self._client.connection_pool.disconnect(inuse_connections=False)

    def _replies(self, commands: Sequence[bytes]) -> list[list[bytes | None]]:
        pool = self._client.connection_pool
        connection = pool.get_connection()
        try:
            connection.send_packed_command(
                [b"".join(commands[at : at + _COMMANDS]) for at in range(0, len(commands), _COMMANDS)]
            )
            return [connection.read_response(disable_decoding=True) for _ in commands]
        except BaseException:
            connection.disconnect()  # the rest of the replies may still come
            raise
        finally:
            pool.release(connection)


def _bulk(data: bytes) -> bytes:
    """A string of Redis' protocol."""
    return b"$%d\r\n%b\r\n" % (len(data), data)


def _hashes(group: Group, replies: Sequence[Sequence[bytes | None]]) -> list[Stored]:
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
