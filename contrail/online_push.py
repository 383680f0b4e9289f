"""Single rows straight into the online store, as a materialisation would put them there later.

The rules are the writers' own: a newer row wins, of the same event time the later version. Who pushes knows each
entity's newest row *now*, and it may be older than the one that is stored: an event that came late can take away the
very instant that the stored row stands for. So a stored row of what he knows gives way (`contrail.online_settled`).
"""

from __future__ import annotations

from datetime import datetime
from typing import TYPE_CHECKING

import pyarrow as pa

from contrail.contracts import CREATED_AT, KNOWN_AT
from contrail.online_settled import Settled
from contrail.online_stores import store_kind
from contrail.online_views import OnlineView
from contrail.online_write import open_writer
from contrail.online_write_columns import CREATED_COLUMN, EVENT_COLUMN, check_types, encode_rows

if TYPE_CHECKING:
    from feast.repo_config import RepoConfig


class OnlinePush:
    """Pushes rows of one view; nothing stays open between two calls."""

    def __init__(self, config: RepoConfig, view: OnlineView) -> None:
        """Nothing is opened yet.

        Raises:
            OnlineError: the store is neither SQLite nor one Redis server.
        """
        store_kind(config)
        self._config = config
        self._view = view

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
        with open_writer(self._config, view, exclusive=False, settled=Settled.by_push(until)) as writer:
            return writer.write(encode_rows(batch, view, writer.frame))
