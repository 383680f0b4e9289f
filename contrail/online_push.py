"""Single rows straight into the online store, as a materialisation would put them there later.

The rules are the writers' own: a newer row wins, of the same event time the later version. One thing is added. Who
pushes knows each entity's newest row *now*, and it may be older than the one that is stored: an event that came late
can take away the very instant that the stored row stands for. An older row would not go over it. So the stored row is
set back in time first, if it is still the one that was found there.
"""

from __future__ import annotations

from collections.abc import Iterable
from contextlib import closing
from datetime import datetime
from typing import TYPE_CHECKING

import numpy as np
import pyarrow as pa

from contrail.contracts import CREATED_AT, KNOWN_AT
from contrail.duck import quote_identifier as q
from contrail.online_fetch import Fetch, Group, fetch_of
from contrail.online_layout import encode_time, redis_key, redis_time_field
from contrail.online_stores import redis_client, redis_errors, sqlite_session, store_kind, store_path
from contrail.online_views import OnlineView
from contrail.online_write import open_writer
from contrail.online_write_columns import CREATED_COLUMN, EVENT_COLUMN, check_types, encode_rows
from contrail.windows import EPOCH, MICROSECOND

if TYPE_CHECKING:
    from feast.repo_config import RepoConfig

_SECOND = 1_000_000
# KEYS: the entity. ARGV: the view's time field, the event time that must stand there, the one that takes its place.
_SET_BACK = "if redis.call('HGET', KEYS[1], ARGV[1]) == ARGV[2] then redis.call('HSET', KEYS[1], ARGV[1], ARGV[3]) end"


class OnlinePush:
    """Pushes rows of one view; `close` lets go of the connections."""

    def __init__(self, config: RepoConfig, view: OnlineView) -> None:
        """Nothing is opened yet.

        Raises:
            OnlineError: the store is neither SQLite nor one Redis server.
        """
        self._config = config
        self._view = view
        self._fetch: Fetch = fetch_of(config, [Group([view])])

    def write(self, newest: pa.Table, until: datetime) -> int:
        """Write the newest row of some entities, in one batch.

        Args:
            until: the instant up to which they are the newest. A stored row of a later one is of somebody who knows
                more, and stays.
            newest: one row per entity: the view's keys and features, ``known_at``, ``created_at``; more columns may be
                there.

        Returns:
            How many entities changed.

        Raises:
            OnlineError: the store is missing, out of reach or locked, or a column is not of the type the view says.
        """
        if not newest.num_rows:
            return 0
        view = self._view
        check_types(newest.schema, view)
        names = {name: name for name in (*view.keys, *view.features)}
        names |= {EVENT_COLUMN: KNOWN_AT, CREATED_COLUMN: CREATED_AT}
        (batch,) = pa.table({to: newest[name] for to, name in names.items()}).combine_chunks().to_batches()
        with open_writer(self._config, view, exclusive=False) as writer:
            rows = encode_rows(batch, view, writer.frame)
            ((found,),) = self._fetch.fetch([rows.keys])
            stored = np.array([-1 if us is None else us for us in found.event_us], np.int64)
            no_longer_so = (stored > rows.events) & (stored <= (until - EPOCH) // MICROSECOND)
            self._set_back(
                (rows.keys[n], int(stored[n]), int(rows.events[n])) for n in np.flatnonzero(no_longer_so)
            )
            return writer.write(rows)

    def _set_back(self, rows: Iterable[tuple[bytes, int, int]]) -> None:
        """Give stored rows an event time before that of the row that is to take their place.

        Args:
            rows: entity key, the stored event time, the other row's; microseconds since 1970.
        """
        view = self._view
        if not (found := list(rows)):
            return
        if store_kind(self._config) == "sqlite":
            with sqlite_session(store_path(self._config), writing=True) as con:
                con.execute("BEGIN IMMEDIATE")
                con.executemany(
                    f"UPDATE {q(view.table)} SET event_ts = ? WHERE entity_key = ? AND event_ts = ?",
                    [(event // _SECOND - 1, key, stored // _SECOND) for key, stored, event in found],
                )
                con.execute("COMMIT")
            return
        field = redis_time_field(view.stored_name)
        with redis_errors(self._config), closing(redis_client(self._config)) as client:
            for key, stored, event in found:
                client.eval(
                    _SET_BACK, 1, redis_key(key, view.project), field,
                    encode_time(stored), encode_time(event - _SECOND),
                )  # fmt: skip

    def close(self) -> None:
        """Let go of all connections; the next `write` opens new ones."""
        self._fetch.close()
