"""What a materialisation that is killed leaves behind, so that the same call completes it.

A materialisation goes through its view's entities in buckets of their keys' hashes. Each store remembers the buckets
that are done beside the rows themselves, so that it forgets both together, under the name of the job: view, window,
version of the source and number of buckets. Anything else is another job, and begins anew.
"""

from __future__ import annotations

import hashlib
import json
import uuid
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Protocol

import duckdb

from contrail.online_views import OnlineView
from contrail.online_write_columns import EncodedRows


@dataclass(frozen=True)
class Bucket:
    """One part of a view's entities.

    Attributes:
        number: from 0.
        rows: entities in it that have a row in the window.
        rows_written: those of them that were not in the store already, in this or a newer version.
        newest: newest event time among them, microseconds since 1970; -1 without rows.
    """

    number: int
    rows: int = 0
    rows_written: int = 0
    newest: int = -1

    def plus(self, rows: EncodedRows | None, written: int) -> Bucket:
        """With one more batch."""
        if rows is None or not rows.keys:
            return self
        newest = max(self.newest, int(rows.events.max()))
        return Bucket(self.number, self.rows + len(rows.keys), self.rows_written + written, newest)


class OnlineWriter(Protocol):
    """What a store has to be able to do."""

    @property
    def ordered(self) -> bool:
        """Whether it pays to hand over the rows in the order in which they are stored."""
        ...

    def frame(self, value: bytes) -> bytes:
        """A serialized value as it is sent."""
        ...

    def resume(self, job: str) -> Mapping[int, Bucket]:
        """The buckets of this job that are done; from now on `finish` is about this job."""
        ...

    def begin(self, number: int) -> None:
        """A bucket is begun."""
        ...

    def write(self, rows: EncodedRows) -> int:
        """Write rows, each only over an older version of itself: how many entities changed."""
        ...

    def finish(self, bucket: Bucket, rows: EncodedRows | None) -> Bucket:
        """Write a bucket's last rows and remember that it is done: the bucket with these rows in it."""
        ...

    def pushed(self) -> Iterator[list[bytes]]:
        """Entity keys that were pushed and not withdrawn or confirmed since, some at a time."""
        ...

    def withdraw(self, pushed: Sequence[bytes], lacking: Sequence[bytes]) -> int:
        """Take away the settled rows of the keys that the table lacks, and forget those that were pushed whose stored
        row, if any, is settled: how many entities lost their row."""
        ...

    def settle(self) -> None:
        """What is written is as lasting as the store makes it."""
        ...

    def forget(self) -> None:
        """Forget the job: it is done."""
        ...


def job_name(
    view: OnlineView,
    *,
    declared_at: datetime | None,
    start: datetime,
    end: datetime,
    whole_until: datetime | None,
    delta_version: int | None,
    buckets: int,
) -> str:
    """The identity of a materialisation that may be completed by a later call.

    Args:
        declared_at: when the view was first registered: one that was deleted in between has lost its rows.
        delta_version: None: nobody knows whether the source is still the same, and no two jobs are.
    """
    declared: dict[str, Any] = {
        "view": [view.stored_name, dict(view.keys), dict(view.features), str(declared_at)],
        "window": [start.isoformat(), end.isoformat(), str(whole_until)],
        "source": uuid.uuid4().hex if delta_version is None else delta_version,
        # A bucket is what DuckDB's hash function says.
        "buckets": [buckets, duckdb.__version__],
    }
    digest = hashlib.sha256(json.dumps(declared).encode()).hexdigest()
    return f"{view.name} {start.isoformat()}/{end.isoformat()} v{delta_version} {buckets} {digest[:16]}"
