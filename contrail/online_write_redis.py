"""Writing the online copy into Redis: one hash per entity, as Feast's own store lays it out, and one more field.

Whether a row is newer than the stored one is decided in the server, row by row, by a script: no second writer can come
between reading and writing. For a correction, which has the event time of what it corrects, the script needs to know
when the stored version was created. That stands in a field of its own, which Feast does not read; it names the event
time that it belongs to, so that it says nothing about a row that another Feast client has written since.
"""

from __future__ import annotations

import json
import os
import socket
import time
import uuid
from collections.abc import Generator, Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from contrail import online_stores
from contrail.online_layout import encode_time, redis_field, redis_key, redis_time_field
from contrail.online_settled import Settled
from contrail.online_stores import redis_client, redis_errors
from contrail.online_views import OnlineError, OnlineView
from contrail.online_write_columns import EncodedRows
from contrail.online_write_journal import Bucket

if TYPE_CHECKING:
    import redis
    from feast.repo_config import RepoConfig

LEASE_SECONDS = 10.0
"""How long a view's lock outlives a writer that says nothing."""

_ROWS_PER_CALL = 32  # short enough not to hold up the server's other clients
_CALLS_PER_SEND = 64
_KEYS_AT_A_TIME = 10_000
_POLL_SECONDS = 0.1

_TIMES = """
local function microseconds(stamp)
  local seconds, nanoseconds, at = 0, 0, 1
  while at <= #stamp do
    local tag, number, scale, byte = string.byte(stamp, at), 0, 1
    repeat
      at = at + 1
      byte = string.byte(stamp, at)
      number = number + (byte % 128) * scale
      scale = scale * 128
    until byte < 128
    at = at + 1
    if tag == 8 then seconds = number else nanoseconds = number end
  end
  return seconds * 1000000 + math.floor(nanoseconds / 1000)
end

local function created_of(event, version)
  if version and string.sub(version, 1, #event) == event then
    return tonumber(string.sub(version, #event + 1)) or -1
  end
  return -1
end
"""

# KEYS: entities. ARGV: the view's time field and created field, seconds to live, the set of pushed keys or '', before
# which event time and up to which created time a stored row gives way to an older one (-1: none does), number of
# features, their fields; then per entity: event time, created time in microseconds or '', values. Answers how many
# entities changed.
_PUT = (
    _TIMES
    + """
local time_field, created_field, to_live, pushed = ARGV[1], ARGV[2], tonumber(ARGV[3]), ARGV[4]
local before, created_until, features = tonumber(ARGV[5]), tonumber(ARGV[6]), tonumber(ARGV[7])

local function goes_over(key, event, created, values_at)
  local stored = redis.call('HMGET', key, time_field, created_field)
  if not stored[1] then return true end
  if stored[1] ~= event then
    local stored_at = microseconds(stored[1])
    local later = microseconds(event) - stored_at
    if later > 0 then return true end
    if later < 0 then return stored_at < before and created_of(stored[1], stored[2]) <= created_until end
  end
  local ours, known = tonumber(created) or -1, created_of(stored[1], stored[2])
  if ours ~= known then return ours > known end
  for number = 1, features do
    if redis.call('HGET', key, ARGV[7 + number]) ~= ARGV[values_at + number] then return true end
  end
  return false
end

local changed, at = 0, 7 + features
for _, key in ipairs(KEYS) do
  local event, created = ARGV[at + 1], ARGV[at + 2]
  if goes_over(key, event, created, at + 2) then
    local cells = {time_field, event, created_field, event .. created}
    for number = 1, features do
      cells[3 + 2 * number] = ARGV[7 + number]
      cells[4 + 2 * number] = ARGV[at + 2 + number]
    end
    redis.call('HSET', key, unpack(cells))
    if to_live > 0 then redis.call('EXPIRE', key, to_live) end
    changed = changed + 1
  end
  if pushed ~= '' then redis.call('SADD', pushed, key) end
  at = at + 2 + features
end
return changed
"""
)

# KEYS: entities that were pushed. ARGV: the set of them, time field, created field, since, before, created until, '1'
# where the table lacks these entities, the features' fields. Answers how many entities lost their row.
_WITHDRAW = (
    _TIMES
    + """
local removed = 0
for _, key in ipairs(KEYS) do
  local stored = redis.call('HMGET', key, ARGV[2], ARGV[3])
  local stays = false
  if stored[1] then
    local event, created = microseconds(stored[1]), created_of(stored[1], stored[2])
    stays = event >= tonumber(ARGV[5]) or created > tonumber(ARGV[6])
    if ARGV[7] == '1' and not stays and event >= tonumber(ARGV[4]) then
      redis.call('HDEL', key, ARGV[2], ARGV[3], unpack(ARGV, 8))
      removed = removed + 1
    end
  end
  if not stays then redis.call('SREM', ARGV[1], key) end
end
return removed
"""
)

# Take the lock, or keep it.
_HOLD = """
local holder = redis.call('GET', KEYS[1])
if holder and holder ~= ARGV[1] then return holder end
redis.call('SET', KEYS[1], ARGV[1], 'PX', ARGV[2])
return ''
"""
_RELEASE = "if redis.call('GET', KEYS[1]) == ARGV[1] then redis.call('DEL', KEYS[1]) end return 0"

# A bucket is done if nobody has emptied the store since it was begun.
_FINISH = """
if redis.call('HGET', KEYS[1], ARGV[1]) ~= ARGV[2] then return 0 end
redis.call('HSET', KEYS[1], ARGV[1], ARGV[3])
return 1
"""


def check_fields(views: Iterable[OnlineView]) -> None:
    """Whether all features of one entity have fields of their own in its hash.

    Feast names them by a hash of 32 bits, and all views with the same join keys share an entity's hash.

    Raises:
        OnlineError: two do not: one would overwrite the other.
    """
    taken: dict[tuple[tuple[str, ...], bytes], str] = {}
    for view in views:
        keys = tuple(sorted(view.keys))
        for feature in view.features:
            name = f"{view.stored_name}:{feature}"
            other = taken.setdefault((keys, redis_field(view.stored_name, feature)), name)
            if other != name:
                raise OnlineError(
                    f"features {other} and {name} have the same field in Redis (a collision of 32-bit hashes): "
                    "rename one of them"
                )


def _bulk(value: bytes) -> bytes:
    return b"$%d\r\n%b\r\n" % (len(value), value)


@contextmanager
def redis_writer(
    config: RepoConfig, view: OnlineView, *, exclusive: bool, settled: Settled | None
) -> Generator[RedisWriter]:
    """A writer of one view.

    Args:
        exclusive: take the view's lock, as a materialisation does; it is lost `LEASE_SECONDS` after the holder's last
            word. Single batches need none: each row is put by the server, and never over a newer one. Their keys are
            remembered as pushed.
        settled: which stored rows give way to an older one.

    Raises:
        OnlineError: the server is down or hangs, another process materialises the view.
    """
    import redis

    with redis_errors(config):
        client = redis_client(config)
        try:
            to_live = getattr(config.online_store, "key_ttl_seconds", None) or 0
            writer = RedisWriter(client, view, to_live, settled, remembers=not exclusive)
            if not exclusive:
                yield writer
                return
            writer.take_lock()
            try:
                yield writer
            except redis.RedisError:  # out of reach: the lease ends the lock
                raise
            except BaseException:
                writer.release_lock()
                raise
            writer.release_lock()
        finally:
            client.close()


class RedisWriter:
    """Writes batches of one view, and remembers in the same server which buckets of a materialisation are done."""

    ordered = False

    def __init__(
        self,
        client: redis.Redis,
        view: OnlineView,
        to_live: int,
        settled: Settled | None,
        *,
        remembers: bool,
    ) -> None:
        self._client: Any = client  # its types are unions over its asynchronous twin
        self._view = view
        self._lock = f"contrail:writer:{view.project}:{view.stored_name}"
        self._journal = f"contrail:journal:{view.project}:{view.stored_name}"
        self._me = f"{socket.gethostname()}/{os.getpid()}/{uuid.uuid4().hex[:8]}"
        self._exclusive = False
        self._pushed = f"contrail:pushed:{view.project}:{view.stored_name}"
        self._settled = settled or Settled(since=0, before=-1, created_until=-1)
        self._fields = [redis_field(view.stored_name, feature) for feature in view.features]
        self._row_fields = [redis_time_field(view.stored_name), f"_created:{view.stored_name}".encode()]
        head = [
            *self._row_fields,
            b"%d" % to_live,
            self._pushed.encode() if remembers else b"",
            b"%d" % self._settled.before,
            b"%d" % self._settled.created_until,
            b"%d" % len(self._fields),
            *self._fields,
        ]
        self._head = b"".join(map(_bulk, head))
        self._head_arguments = len(head)
        self._script = _bulk(self._client.script_load(_PUT).encode())

    @staticmethod
    def frame(value: bytes) -> bytes:
        return _bulk(value)

    def take_lock(self) -> None:
        until = time.monotonic() + online_stores.LOCK_SECONDS
        while holder := self._hold():
            if time.monotonic() > until:
                raise OnlineError(
                    f"another process ({holder}) is materialising view {self._view.name!r} into redis: "
                    "wait for it, or stop it"
                )
            time.sleep(_POLL_SECONDS)
        self._exclusive = True

    def release_lock(self) -> None:
        self._exclusive = False
        self._client.eval(_RELEASE, 1, self._lock, self._me)

    def resume(self, job: str) -> dict[int, Bucket]:
        stored: dict[bytes, bytes] = self._client.hgetall(self._journal)
        if stored.pop(b"job", b"").decode() != job:
            self._client.delete(self._journal)
            stored = {}
        self._client.hset(self._journal, "job", job)
        done = [json.loads(value) for value in stored.values() if value.startswith(b"{")]
        return {bucket["number"]: Bucket(**bucket) for bucket in done}

    def begin(self, number: int) -> None:
        self._keep_lock()
        self._client.hset(self._journal, str(number), self._me)

    def write(self, rows: EncodedRows) -> int:
        frames = self._calls(rows)
        changed = 0
        pool = self._client.connection_pool
        connection = pool.get_connection()
        try:
            for first in range(0, len(frames), _CALLS_PER_SEND):
                self._keep_lock()
                calls = frames[first : first + _CALLS_PER_SEND]
                connection.send_packed_command([b"".join(calls)])
                changed += sum(connection.read_response() for _ in calls)
        except BaseException:
            connection.disconnect()  # answers may be left unread
            raise
        finally:
            pool.release(connection)
        return changed

    def finish(self, bucket: Bucket, rows: EncodedRows | None) -> Bucket:
        done = bucket.plus(rows, 0 if rows is None else self.write(rows))
        self._client.eval(_FINISH, 1, self._journal, str(done.number), self._me, json.dumps(done.__dict__))
        return done

    def pushed(self) -> Iterator[list[bytes]]:
        project = len(self._view.project.encode())
        cursor = 0
        while True:
            self._keep_lock()
            cursor, keys = self._client.sscan(self._pushed, cursor, count=_KEYS_AT_A_TIME)
            if keys:
                yield [key[: len(key) - project] for key in keys]
            if not cursor:
                return

    def withdraw(self, pushed: Sequence[bytes], lacking: Sequence[bytes]) -> int:
        apart = set(lacking)
        removed = 0
        for flag, keys in (("1", lacking), ("0", [key for key in pushed if key not in apart])):
            for first in range(0, len(keys), _ROWS_PER_CALL):
                self._keep_lock()
                some = [redis_key(key, self._view.project) for key in keys[first : first + _ROWS_PER_CALL]]
                settled = self._settled
                limits = (settled.since, settled.before, settled.created_until)
                removed += self._client.eval(
                    _WITHDRAW, len(some), *some, self._pushed, *self._row_fields, *limits, flag, *self._fields
                )
        return removed

    def settle(self) -> None:
        """How lasting a write is, Redis' own configuration says."""

    def forget(self) -> None:
        self._client.delete(self._journal)

    def _calls(self, rows: EncodedRows) -> list[bytes]:
        """EVALSHA commands as they go over the wire, some rows each."""
        project = self._view.project.encode()
        keys = [b"$%d\r\n%b%b\r\n" % (len(key) + len(project), key, project) for key in rows.keys]
        arguments = [b"".join(row) for row in zip(_times(rows), *rows.values, strict=True)]
        per_row = 3 + len(rows.values)
        calls: list[bytes] = []
        for first in range(0, len(keys), _ROWS_PER_CALL):
            some = keys[first : first + _ROWS_PER_CALL]
            size = 3 + self._head_arguments + per_row * len(some)
            head = b"*%d\r\n$7\r\nEVALSHA\r\n%b%b" % (size, self._script, _bulk(b"%d" % len(some)))
            calls.append(b"".join([head, *some, self._head, *arguments[first : first + _ROWS_PER_CALL]]))
        return calls

    def _hold(self) -> str:
        """Take or keep the lock; empty, or who has it."""
        return self._client.eval(_HOLD, 1, self._lock, self._me, int(LEASE_SECONDS * 1000)).decode()

    def _keep_lock(self) -> None:
        if self._exclusive and (holder := self._hold()):
            raise OnlineError(
                f"another process ({holder}) took over view {self._view.name!r} in redis, for this one said nothing "
                f"for {LEASE_SECONDS:g} s: what is written so far is right; run the materialisation again"
            )


def _times(rows: EncodedRows) -> list[bytes]:
    """Event and created time of every row, framed; equal ones are encoded once."""
    encoded: dict[tuple[int, int], bytes] = {}
    times: list[bytes] = []
    for pair in zip(rows.events.tolist(), rows.created.tolist(), strict=True):
        if (both := encoded.get(pair)) is None:
            event, created = pair
            both = _bulk(encode_time(event)) + _bulk(b"" if created < 0 else b"%d" % created)
            encoded[pair] = both
        times.append(both)
    return times
