"""Single rows straight into the online store, as a materialisation would put them there later.

The rules are the writers' own: a newer row wins, of the same event time the later version. One thing is added. Who
pushes knows each entity's newest value *now*, and what was known when the stored row was written may since have proved
wrong: an event that came after its time can take away the very instant that the stored row stands for. An older row
would not go over it. So the newest value is then written under the event time that is stored.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np
import pyarrow as pa

from contrail.contracts import CREATED_AT, KNOWN_AT
from contrail.online_fetch import Fetch, Group, fetch_of
from contrail.online_views import OnlineView
from contrail.online_write import open_writer
from contrail.online_write_columns import CREATED_COLUMN, EVENT_COLUMN, check_types, encode_rows

if TYPE_CHECKING:
    from feast.repo_config import RepoConfig


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

    def write(self, newest: pa.Table) -> int:
        """Write the newest row of some entities, in one batch.

        Args:
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
            created = np.where(stored > rows.events, np.maximum(rows.created, stored), rows.created)
            return writer.write(replace(rows, events=np.maximum(rows.events, stored), created=created))

    def close(self) -> None:
        """Let go of all connections; the next `write` opens new ones."""
        self._fetch.close()
