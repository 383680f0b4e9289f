"""Ways to spoil a landed file, and to deliver another one after it."""

from __future__ import annotations

import csv
import gzip
import hashlib
import io
import json
from collections.abc import Callable
from datetime import datetime
from pathlib import Path

from contrail import landing

Rows = list[list[str]]


def only(landing_root: Path, table: str, day: str) -> landing.Delivery:
    """The one file of a table and day."""
    (delivery,) = landing.deliveries(landing_root, table, {day})
    return delivery


def rows_of(delivery: landing.Delivery) -> Rows:
    """Header and data rows, as text."""
    return list(csv.reader(io.StringIO(gzip.decompress(delivery.path.read_bytes()).decode())))


def text_of(rows: Rows) -> bytes:
    written = io.StringIO()
    csv.writer(written, lineterminator="\n").writerows(rows)
    return written.getvalue().encode()


def put_bytes(delivery: landing.Delivery, data: bytes) -> None:
    """Damage on the way: other bytes than the manifest says."""
    delivery.path.write_bytes(data)


def send(delivery: landing.Delivery, content: bytes, *, rows: int | None = None) -> None:
    """A sender's mistake: the manifest names these very bytes, and `rows` where it lies about their number."""
    data = gzip.compress(content, mtime=0)
    delivery.path.write_bytes(data)
    manifest = json.loads(delivery.manifest_path.read_text())
    manifest |= {"sha256": hashlib.sha256(data).hexdigest(), "bytes": len(data)}
    if rows is not None:
        manifest["rows"] = rows
    delivery.manifest_path.write_text(json.dumps(manifest))


def change(delivery: landing.Delivery, how: Callable[[Rows], Rows]) -> None:
    """Send the file's rows changed."""
    send(delivery, text_of(how(rows_of(delivery))))


def without_column(name: str) -> Callable[[Rows], Rows]:
    def how(rows: Rows) -> Rows:
        at = rows[0].index(name)
        return [row[:at] + row[at + 1 :] for row in rows]

    return how


def with_column(name: str, value: str) -> Callable[[Rows], Rows]:
    return lambda rows: [[*rows[0], name], *([*row, value] for row in rows[1:])]


def renamed(name: str, new: str) -> Callable[[Rows], Rows]:
    return lambda rows: [[new if column == name else column for column in rows[0]], *rows[1:]]


def replaced(old: str, new: str) -> Callable[[Rows], Rows]:
    return lambda rows: [rows[0], *([value.replace(old, new) for value in row] for row in rows[1:])]


def with_value(row: int, column: str, value: str) -> Callable[[Rows], Rows]:
    """Another value in one data row, counted from 1."""

    def how(rows: Rows) -> Rows:
        at = rows[0].index(column)
        rows[row][at] = value
        return rows

    return how


def deliver(
    landing_root: Path,
    before: landing.Delivery,
    content: bytes,
    delivered_at: datetime,
    *,
    rows: int,
    supersedes: str | None = None,
) -> landing.Delivery:
    """A further file for a partition that has one."""
    return landing.write_delivery(
        landing_root,
        before.table,
        before.partition,
        content,
        rows=rows,
        delivered_at=delivered_at,
        covers_from=before.covers_from,
        covers_to=before.covers_to,
        source=before.source,
        supersedes=supersedes,
    )


def deliver_rows(
    landing_root: Path,
    before: landing.Delivery,
    rows: Rows,
    delivered_at: datetime,
    *,
    supersedes: str | None = None,
) -> landing.Delivery:
    """A further file with these rows, header first."""
    return deliver(
        landing_root, before, text_of(rows), delivered_at, rows=len(rows) - 1, supersedes=supersedes
    )
