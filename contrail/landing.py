"""The landing zone: delivered files as they came, each with a manifest that says what it is.

    <landing>/<table>/<stem>[.<n>].csv.gz             the bytes
    <landing>/<table>/<stem>[.<n>].manifest.json      written last, by rename: without it nothing was delivered
    <landing>/range.json                              first and last daily partition, newest delivery of a fact file

The stem is the partition, or begins with it where a partition comes in several files. Landing never refuses and never
overwrites: other content for a partition that is already there becomes a further file (``.1``, ``.2``, …), and the
ingestion judges which one counts.
"""

from __future__ import annotations

import fcntl
import gzip
import hashlib
import io
import json
import os
from collections.abc import Collection, Generator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, date, datetime
from itertools import count
from pathlib import Path
from typing import Any, cast

DATA_SUFFIX = ".csv.gz"
MANIFEST_SUFFIX = ".manifest.json"
RANGE_FILE = "range.json"
REFERENCE_PARTITION = "all"
"""The one partition of a table that does not come daily."""


class LandingError(RuntimeError):
    """A file of the landing zone cannot be understood, or was asked to say something impossible."""


@dataclass(frozen=True)
class Delivery:
    """One delivered file and what its manifest says of it.

    Attributes:
        path: the data file; `sha256` and `size_bytes` are what the manifest says of it, not what lies there now.
        rows: data rows (without the header).
        delivered_at: when the file reached the landing zone.
        covers_from, covers_to: the half-open span of `known_at` that the file answers for; equal where all its rows
            became known at one instant; none where the sender did not say.
        supersedes: sha256 of the file that this one replaces whole.
    """

    table: str
    partition: str
    path: Path
    sha256: str
    rows: int
    size_bytes: int
    delivered_at: datetime
    covers_from: datetime | None
    covers_to: datetime | None
    supersedes: str | None
    source: str

    @property
    def manifest_path(self) -> Path:
        return self.path.with_name(self.path.name.removesuffix(DATA_SUFFIX) + MANIFEST_SUFFIX)


@dataclass(frozen=True)
class PartitionRange:
    """The days for which every daily table has a file, and the newest delivery of a fact file."""

    first: date
    last: date
    newest_fact_delivered_at: datetime


def write_delivery(
    landing_root: Path,
    table: str,
    partition: str,
    csv_bytes: bytes,
    *,
    rows: int,
    delivered_at: datetime,
    covers_from: datetime | None,
    covers_to: datetime | None,
    source: str,
    supersedes: str | None = None,
    stem: str | None = None,
) -> Delivery:
    """Put one file and its manifest into the landing zone.

    The same content for the same stem is a no-op that returns the delivery already there (a correction, which names
    what it supersedes, is the same only if that is the same too). Any other content gets the next free number.

    Args:
        csv_bytes: the plain CSV, with its header; it is compressed here, the same bytes for the same content.
        rows: data rows in it.
        stem: file name without suffixes, beginning with the partition; the partition itself if not given.

    Raises:
        LandingError: a time without a zone, a stem of another partition, or an unreadable manifest in the way.
    """
    stem = partition if stem is None else stem
    if not stem.startswith(partition):
        raise LandingError(f"{table}: the file name {stem!r} does not begin with its partition {partition!r}")
    data = _compressed(csv_bytes)
    sha256 = hashlib.sha256(data).hexdigest()
    folder = landing_root / table
    folder.mkdir(parents=True, exist_ok=True)
    numbers = count()
    while True:
        n = next(numbers)
        name = stem if n == 0 else f"{stem}.{n}"
        path = folder / (name + DATA_SUFFIX)
        manifest = folder / (name + MANIFEST_SUFFIX)
        if manifest.exists():
            there = read_manifest(manifest)
            is_same = there.sha256 == sha256 and (supersedes is None or there.supersedes == supersedes)
            # What its manifest describes may have been damaged since; then it has to be delivered again.
            if is_same and path.exists() and path.read_bytes() == data:
                return there
            continue
        if path.exists() and path.read_bytes() != data:
            continue  # someone's file that was never completed with a manifest: not ours to overwrite
        delivery = Delivery(
            table=table,
            partition=partition,
            path=path,
            sha256=sha256,
            rows=rows,
            size_bytes=len(data),
            delivered_at=_aware(delivered_at, "delivered_at", path),
            covers_from=None if covers_from is None else _aware(covers_from, "covers_from", path),
            covers_to=None if covers_to is None else _aware(covers_to, "covers_to", path),
            supersedes=supersedes,
            source=source,
        )
        _write_atomically(path, data)
        _write_atomically(manifest, _manifest_bytes(delivery))
        return delivery


def content_sha256(csv_bytes: bytes) -> str:
    """What the manifest of a file with this content says as its sha256."""
    return hashlib.sha256(_compressed(csv_bytes)).hexdigest()


def deliveries(landing_root: Path, table: str, partitions: Collection[str] | None = None) -> list[Delivery]:
    """What was delivered for a table, ordered by partition, delivery time, file name.

    Args:
        partitions: only these; all of them if not given.

    Raises:
        LandingError: a manifest that cannot be read; the message names it.
    """
    folder = landing_root / table
    if not folder.is_dir():
        return []
    wanted = None if partitions is None else frozenset(partitions)
    lengths = () if wanted is None else tuple(sorted({len(name) for name in wanted}))
    found: list[Delivery] = []
    with os.scandir(folder) as entries:
        for entry in entries:
            if not entry.name.endswith(MANIFEST_SUFFIX):
                continue
            # The name begins with the partition, so that one day is found without opening a year of manifests.
            if wanted is not None and not any(entry.name[:length] in wanted for length in lengths):
                continue
            delivery = read_manifest(Path(entry.path))
            if wanted is None or delivery.partition in wanted:
                found.append(delivery)
    return sorted(found, key=lambda d: (d.partition, d.delivered_at, d.path.name))


def read_manifest(path: Path) -> Delivery:
    """The delivery that a manifest describes.

    Raises:
        LandingError: not JSON, a field missing or of another type, a time without a zone, or another table's manifest.
    """
    fields = _json_object(path)
    table, partition = _text(fields, "table", path), _text(fields, "partition", path)
    stem = path.name.removesuffix(MANIFEST_SUFFIX)
    if table != path.parent.name:
        raise LandingError(
            f"{path}: the manifest is of table {table!r} but lies in {path.parent.name!r}; move it"
        )
    file = _text(fields, "file", path)
    if file != stem + DATA_SUFFIX or not stem.startswith(partition):
        raise LandingError(
            f"{path}: the manifest is of file {file!r}, partition {partition!r}; rename it to match"
        )
    return Delivery(
        table=table,
        partition=partition,
        path=path.with_name(file),
        sha256=_text(fields, "sha256", path),
        rows=_number(fields, "rows", path),
        size_bytes=_number(fields, "bytes", path),
        delivered_at=_instant(fields, "delivered_at", path),
        covers_from=_optional_instant(fields, "covers_from", path),
        covers_to=_optional_instant(fields, "covers_to", path),
        supersedes=None if fields.get("supersedes") is None else _text(fields, "supersedes", path),
        source=_text(fields, "source", path),
    )


def partition_range(landing_root: Path) -> PartitionRange | None:
    """The landed range; None before anything has landed.

    Raises:
        LandingError: the range file cannot be read.
    """
    path = landing_root / RANGE_FILE
    if not path.exists():
        return None
    fields = _json_object(path)
    return PartitionRange(
        first=_day(fields, "first", path),
        last=_day(fields, "last", path),
        newest_fact_delivered_at=_instant(fields, "newest_fact_delivered_at", path),
    )


def update_range(
    landing_root: Path, *, first: date, last: date, newest_fact_delivered_at: datetime
) -> PartitionRange:
    """Widen the landed range to hold these days too; it never becomes narrower or older. Returns what it is now."""
    path = landing_root / RANGE_FILE
    newest = _aware(newest_fact_delivered_at, "newest_fact_delivered_at", path)
    landing_root.mkdir(parents=True, exist_ok=True)
    with _locked(path.with_name(f".{RANGE_FILE}.lock")):
        before = partition_range(landing_root)
        now = PartitionRange(first, last, newest)
        if before is not None:
            now = PartitionRange(
                first=min(before.first, first),
                last=max(before.last, last),
                newest_fact_delivered_at=max(before.newest_fact_delivered_at, newest),
            )
        if now != before:
            fields = {
                "first": now.first.isoformat(),
                "last": now.last.isoformat(),
                "newest_fact_delivered_at": format_instant(now.newest_fact_delivered_at),
            }
            _write_atomically(path, _json_bytes(fields))
    return now


def format_instant(instant: datetime) -> str:
    """An aware instant as the manifests write it: ``2013-01-02T07:00:00Z``."""
    return instant.astimezone(UTC).isoformat().replace("+00:00", "Z")


def _compressed(data: bytes) -> bytes:
    buffer = io.BytesIO()
    # No file name and no time in the header: the same content is the same bytes.
    with gzip.GzipFile(filename="", mode="wb", fileobj=buffer, mtime=0, compresslevel=6) as file:
        file.write(data)
    return buffer.getvalue()


def _manifest_bytes(delivery: Delivery) -> bytes:
    return _json_bytes(
        {
            "table": delivery.table,
            "partition": delivery.partition,
            "file": delivery.path.name,
            "sha256": delivery.sha256,
            "rows": delivery.rows,
            "bytes": delivery.size_bytes,
            "delivered_at": format_instant(delivery.delivered_at),
            "covers_from": None if delivery.covers_from is None else format_instant(delivery.covers_from),
            "covers_to": None if delivery.covers_to is None else format_instant(delivery.covers_to),
            "supersedes": delivery.supersedes,
            "source": delivery.source,
        }
    )


def _json_bytes(fields: dict[str, Any]) -> bytes:
    return (json.dumps(fields, indent=1) + "\n").encode()


def _write_atomically(path: Path, data: bytes) -> None:
    # The name is this process's own, so that two writers never share a half-written file.
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    temporary.write_bytes(data)
    temporary.replace(path)


@contextmanager
def _locked(path: Path) -> Generator[None]:
    with path.open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


def _json_object(path: Path) -> dict[str, Any]:
    try:
        loaded: object = json.loads(path.read_bytes())
    except (OSError, ValueError) as error:  # a broken encoding is a ValueError too
        raise LandingError(f"{path}: not readable as JSON ({error}); deliver the file again") from error
    if not isinstance(loaded, dict):
        raise LandingError(f"{path}: holds {type(loaded).__name__}, not an object; deliver the file again")
    return cast("dict[str, Any]", loaded)


def _field(fields: dict[str, Any], name: str, path: Path) -> Any:
    if name not in fields:
        raise LandingError(f"{path}: the field {name!r} is missing (found: {', '.join(fields) or 'none'})")
    return fields[name]


def _text(fields: dict[str, Any], name: str, path: Path) -> str:
    value = _field(fields, name, path)
    if not isinstance(value, str) or not value:
        raise LandingError(f"{path}: the field {name!r} is {value!r}, not a text")
    return value


def _number(fields: dict[str, Any], name: str, path: Path) -> int:
    value = _field(fields, name, path)
    if not isinstance(value, int) or isinstance(value, bool) or value < 0:
        raise LandingError(f"{path}: the field {name!r} is {value!r}, not a count")
    return value


def _day(fields: dict[str, Any], name: str, path: Path) -> date:
    text = _text(fields, name, path)
    try:
        return date.fromisoformat(text)
    except ValueError as error:
        raise LandingError(f"{path}: the field {name!r} is {text!r}, not a day like 2000-12-31") from error


def _optional_instant(fields: dict[str, Any], name: str, path: Path) -> datetime | None:
    return None if fields.get(name) is None else _instant(fields, name, path)


def _instant(fields: dict[str, Any], name: str, path: Path) -> datetime:
    text = _text(fields, name, path)
    try:
        instant = datetime.fromisoformat(text)
    except ValueError as error:
        raise LandingError(
            f"{path}: {name!r} is {text!r}, not an instant like 2000-12-31T07:00:00Z"
        ) from error
    return _aware(instant, name, path)


def _aware(instant: datetime, name: str, path: Path) -> datetime:
    if instant.tzinfo is None:
        raise LandingError(
            f"{path}: {name} {instant.isoformat()} has no time zone; write it in UTC, with a Z"
        )
    return instant.astimezone(UTC)
