"""Where the online copy is, and how its store is opened: SQLite or Redis, as Feast's configuration says.

Every wait has an end: SQLite waits for a lock and Redis for a connection and an answer only so long, and nothing is
tried again behind the caller's back. What goes wrong is said as an `OnlineError`.
"""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Generator
from contextlib import closing, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast
from urllib.parse import parse_qsl, unquote, urlsplit

from contrail.online_layout import OnlineError

if TYPE_CHECKING:
    import redis
    from feast.repo_config import RepoConfig

LOCK_SECONDS = 30.0
"""How long SQLite waits for another writer's transaction."""
CONNECT_SECONDS = 0.5
"""How long Redis may take to accept a connection, unless `connection_string` has ``socket_connect_timeout``."""
READ_SECONDS = 5.0
"""How long Redis may take to answer, unless `connection_string` has ``socket_timeout``."""

# The same for Feast's own clients, in a form that no option of a URL is written in: so that they are told from waits
# that somebody asked for, and each of our clients has its own.
_OUR_WAITS = {
    "socket_connect_timeout": f"{CONNECT_SECONDS * 10:g}e-1",
    "socket_timeout": f"{READ_SECONDS * 10:g}e-1",
}


def store_kind(config: RepoConfig) -> str:
    """``sqlite`` or ``redis``.

    Raises:
        OnlineError: the online store is another one, or a Redis that is more than one server.
    """
    online = cast("Any", config.online_store)
    kind = "none" if online is None else str(online.type).rsplit(".", 1)[-1]
    kind = {"SqliteOnlineStore": "sqlite", "RedisOnlineStore": "redis"}.get(kind, kind)
    if kind not in ("sqlite", "redis"):
        raise OnlineError(f"the online store is {kind}; only sqlite and redis are read and written directly")
    if kind == "redis" and (form := str(cast("Any", online).redis_type.value)) != "redis":
        raise OnlineError(
            f"the online store is {form}; only a single Redis server is read and written directly"
        )
    return kind


# --- SQLite ----------------------------------------------------------------------------------------------------------


def store_path(config: RepoConfig) -> Path:
    """The SQLite file of a store.

    Raises:
        OnlineError: the online store is another one.
    """
    if (kind := store_kind(config)) != "sqlite":
        raise OnlineError(f"the online store is {kind}, not a SQLite file")
    return Path(config.repo_path or ".") / cast("Any", config.online_store).path


def open_sqlite(
    path: Path, *, writing: bool = False, wait_seconds: float | None = None
) -> sqlite3.Connection:
    """Open the file of an online store, in autocommit.

    Args:
        path: `store_path`.
        writing: sets write-ahead logging, so that readers go on while rows are written.
        wait_seconds: for another writer's transaction; `LOCK_SECONDS` unless given.

    Raises:
        OnlineError: the file is missing, or locked.
    """
    if not path.exists():
        raise OnlineError(f"there is no online store at {path}: run `feast apply`, then materialise")
    wait = LOCK_SECONDS if wait_seconds is None else wait_seconds
    with sqlite_errors(path):
        con = sqlite3.connect(path, timeout=wait, isolation_level=None, check_same_thread=False)
        try:
            if writing:
                con.execute("PRAGMA journal_mode = WAL")
                con.execute("PRAGMA synchronous = NORMAL")
        except BaseException:
            con.close()
            raise
    return con


@contextmanager
def sqlite_errors(path: Path) -> Generator[None]:
    """SQLite's errors in this block, in words.

    Raises:
        OnlineError: a lock, a missing table, or a file that is no database.
    """
    try:
        yield
    except sqlite3.DatabaseError as error:
        text = str(error)
        if "locked" in text:
            raise OnlineError(f"the online store {path} is locked by another writer: try again") from error
        if "no such table" in text:
            raise OnlineError(
                f"the online store {path} lacks a view's table ({error}): run `feast apply`"
            ) from error
        if "not a database" in text or "malformed" in text:
            raise OnlineError(
                f"the online store {path} is damaged ({error}): move it away, run `feast apply`, then materialise"
            ) from error
        raise


@contextmanager
def sqlite_session(path: Path, *, writing: bool = False) -> Generator[sqlite3.Connection]:
    """`open_sqlite` for one block, with `sqlite_errors` around it."""
    with closing(open_sqlite(path, writing=writing)) as con, sqlite_errors(path):
        yield con


# --- Redis -----------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class RedisAddress:
    """Feast's `connection_string`, taken apart.

    Attributes:
        options: what redis-py is given beside host and port; may hold a password.
    """

    host: str
    port: int
    options: dict[str, Any]

    def __str__(self) -> str:
        """Without secrets, for messages."""
        return f"{self.host}:{self.port}/{self.options.get('db', 0)}"

    def __repr__(self) -> str:
        return f"RedisAddress({self})"


def redis_connection_string(url: str) -> str:
    """A Redis URL as Feast's `connection_string`, with the waits that keep Feast's own clients from blocking too.

    It may stand between single quotes in a YAML file.

    Args:
        url: ``redis://[user:password@]host[:port][/db][?option=value]``, or ``rediss://`` for TLS. Options are
            redis-py's: ``ssl_ca_certs``, ``socket_timeout``, …

    Raises:
        OnlineError: it is no such URL, or has an option that redis-py lacks; the text does not show it.
    """
    what = "CONTRAIL_REDIS_URL must be redis://[user:password@]host[:port][/db], or rediss:// for TLS"
    try:
        parts = urlsplit(url)
        port = parts.port or 6379
        options: dict[str, Any] = {"db": int(parts.path.strip("/") or 0)}
    except ValueError:
        raise OnlineError(what) from None  # the cause would show the URL
    if parts.scheme not in ("redis", "rediss") or not parts.hostname:
        raise OnlineError(what)
    if ":" in parts.hostname:
        raise OnlineError("Feast's connection_string cannot name an IPv6 address: use a host name")
    if parts.scheme == "rediss":
        options["ssl"] = True
    if parts.username:
        options["username"] = unquote(parts.username)
    if parts.password:
        options["password"] = unquote(parts.password)
    for name, text in parse_qsl(parts.query, keep_blank_values=True):
        if name not in _url_options():
            raise OnlineError(
                f"CONTRAIL_REDIS_URL has the option {name!r}, which is none of redis-py's (ssl_ca_certs, "
                "socket_timeout, …) that can be set here"
            )
        try:
            options[name] = json.loads(text)
        except json.JSONDecodeError:
            options[name] = text
    written = [f"{name}={_in_connection_string(value)}" for name, value in options.items()]
    written += [f"{name}={text}" for name, text in _OUR_WAITS.items() if name not in options]
    return ",".join([f"{parts.hostname}:{port}", *written, "retry=null"])


def _url_options() -> set[str]:
    import inspect

    import redis

    # What the rest of the URL says, and what would change how answers are read or how often is tried.
    ours = {"self", "host", "port", "db", "username", "password", "ssl", "retry", "decode_responses"}
    return inspect.signature(redis.Redis.__init__).parameters.keys() - ours


def _in_connection_string(value: Any) -> str:
    # Feast splits at commas and fills in $VARIABLES before it reads each value as JSON, which can write both otherwise.
    return json.dumps(value).replace(",", "\\u002c").replace("$", "\\u0024").replace("'", "\\u0027")


def redis_address(config: RepoConfig) -> RedisAddress:
    """The one Redis server of a store: ``host:port,option=value,…``, as Feast reads it.

    Raises:
        OnlineError: the online store is another one, or the text names no host and port.
    """
    if (kind := store_kind(config)) != "redis":
        raise OnlineError(f"the online store is {kind}, not Redis")
    return connection_address(str(cast("Any", config.online_store).connection_string))


def connection_address(connection_string: str) -> RedisAddress:
    """Feast's `connection_string`, taken apart; without the waits that nobody asked for.

    Raises:
        OnlineError: the text names no host and port, or more than one.
    """
    places: list[str] = []
    options: dict[str, Any] = {}
    for part in connection_string.split(","):
        name, equals, value = part.partition("=")
        if not equals:
            places.append(part)
            continue
        if _OUR_WAITS.get(name) == value:
            continue
        try:  # Feast reads every value as JSON, and as text where it is none
            options[name] = json.loads(value)
        except json.JSONDecodeError:
            options[name] = value
    host, _, port = places[0].partition(":") if len(places) == 1 else ("", "", "")
    if not host or not port.isdecimal():
        raise OnlineError(
            f"connection_string of the online store names {len(places)} servers; it must be host:port,option=value,…"
        )
    return RedisAddress(host, int(port), options)


def redis_client(
    store: RepoConfig | RedisAddress,
    *,
    connect_seconds: float | None = None,
    read_seconds: float | None = None,
) -> redis.Redis:
    """A client of a Redis with its own pool; nothing is connected yet. Use it under `redis_errors`.

    Args:
        store: Feast's configuration, or the server's address.
        connect_seconds: how long a connection may take; the `connection_string`'s, else `CONNECT_SECONDS`.
        read_seconds: how long an answer may take; the `connection_string`'s, else `READ_SECONDS`.
    """
    import redis
    from redis.backoff import NoBackoff
    from redis.retry import Retry

    address = store if isinstance(store, RedisAddress) else redis_address(store)
    options = dict(address.options)
    for name, asked, default in (
        ("socket_connect_timeout", connect_seconds, CONNECT_SECONDS),
        ("socket_timeout", read_seconds, READ_SECONDS),
    ):
        options[name] = asked if asked is not None else options.get(name, default)
    # redis-py's own default tries again for 10 s.
    options["retry"] = Retry(NoBackoff(), 0)
    return redis.Redis(host=address.host, port=address.port, **options)


@contextmanager
def redis_errors(store: RepoConfig | RedisAddress) -> Generator[None]:
    """Redis' errors in this block, in words.

    Raises:
        OnlineError: the server is down, hangs, refuses the password, or refuses a command.
    """
    import redis
    from redis.exceptions import NoPermissionError

    try:
        yield
    except redis.RedisError as error:
        address = store if isinstance(store, RedisAddress) else redis_address(store)
        place = f"the online store at redis {address}"
        if isinstance(error, redis.TimeoutError):
            raise OnlineError(f"{place} does not answer ({error}): is it hung or out of reach?") from error
        if isinstance(error, redis.AuthenticationError | NoPermissionError):
            raise OnlineError(f"{place} refuses the password or the user ({error})") from error
        if isinstance(error, redis.ConnectionError):
            raise OnlineError(f"{place} cannot be reached ({error}): is it running?") from error
        raise OnlineError(f"{place} refuses a command ({error})") from error
