"""Taking landed files in: from the landing zone to the raw table and its quarantine, partition by partition.

The outcome is a pure function of the files that lie in the landing zone, so taking a partition in again gives the same
rows. The quarantine is written before the raw table, whose commit is what says that the files have been dealt with: a
kill in between repeats both.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from datetime import date, datetime, timedelta
from typing import Protocol

import duckdb

from contrail import completeness, landing
from contrail.contracts import Contract
from contrail.ingest import IngestResult, PartitionReport, ingest_in_chunks, regular_delivery
from contrail.lake import Commit, Lake

# What a commit says of the files it dealt with: name → digest of what their manifest said; and of those whose bytes
# were others than it said, name → sha256 of the bytes ("" where there was no file).
TAKEN = "taken"
DAMAGED = "damaged"


class CommitFactory(Protocol):
    """Makes the commit of one write: table, inputs, partition in words, further facts."""

    def __call__(self, asset: str, inputs: Sequence[str], partition: str, **extra: str) -> Commit: ...


class IntakeError(RuntimeError):
    """Files cannot be taken in as asked."""


@dataclass(frozen=True)
class Intake:
    """What happened to the files of one table."""

    table: str
    version: int
    quarantine_version: int
    partitions: tuple[PartitionReport, ...]

    @property
    def landed(self) -> int:
        return sum(report.landed for report in self.partitions)

    @property
    def accepted(self) -> int:
        return sum(report.accepted for report in self.partitions)

    @property
    def quarantined(self) -> int:
        return sum(report.quarantined for report in self.partitions)

    @property
    def blocked(self) -> tuple[PartitionReport, ...]:
        return tuple(report for report in self.partitions if report.status == completeness.BLOCKED)


def take_in(
    lake: Lake,
    contract: Contract,
    deliveries: Sequence[landing.Delivery],
    *,
    con: duckdb.DuckDBPyConnection,
    commit: CommitFactory,
    trailing_rows: Mapping[str, int],
    progress: Callable[[str], None] | None = None,
) -> Intake:
    """Check the files of whole partitions against their contract; good rows to ``raw/``, the rest to quarantine.

    Args:
        deliveries: all files of the partitions that are taken in, also those taken in before.
        commit: makes the commits; called with the table, the files' hashes and the partitions.
        trailing_rows: rows of earlier partitions, for the volume rule.

    Raises:
        IntakeError: there is no file.
        IngestError: landed rows are not the sum of accepted and quarantined ones (a defect of ours, never of the data).
    """
    table, quarantine = f"raw/{contract.table}", f"quarantine/{contract.table}"
    reports: list[PartitionReport] = []
    if not deliveries:
        raise IntakeError(f"nothing has landed for {table} in these partitions (contrail land)")
    # Looked at before they are judged: bytes that are put right meanwhile are then taken in once more.
    damaged = {d.path.name: found for d in deliveries if (found := sha256_of(d)) != d.sha256}
    for chunk in ingest_in_chunks(contract, deliveries, con=con, history=trailing_rows):
        _write_chunk(lake, contract, chunk, commit, deliveries, damaged)
        reports.extend(chunk.partitions)
        if progress:
            progress(
                f"{table}: {chunk.partitions[-1].partition}, {sum(r.landed for r in chunk.partitions)} rows"
            )
    return Intake(contract.table, lake.version(table), lake.version(quarantine), tuple(reports))


def _write_chunk(
    lake: Lake,
    contract: Contract,
    chunk: IngestResult,
    commit: CommitFactory,
    deliveries: Sequence[landing.Delivery],
    damaged: Mapping[str, str],
) -> None:
    table, quarantine = f"raw/{contract.table}", f"quarantine/{contract.table}"
    days = sorted(report.partition for report in chunk.partitions)
    files = [f"sha256:{sha}" for report in chunk.partitions for sha in report.files]
    by_column = [contract.partition_column] if contract.partition_column else []
    where = f"{by_column[0]} IN ({', '.join(repr(day) for day in days)})" if by_column else "true"
    partition = days[0] if len(days) == 1 else f"{days[0]}..{days[-1]}"
    blocked = {r.partition: list(r.reasons) for r in chunk.partitions if r.status == completeness.BLOCKED}
    taken = {d.path.name: d for d in deliveries if d.partition in set(days)}
    ends = [
        end
        for d in taken.values()
        if d.partition not in blocked and (end := _end_of(contract, d)) is not None
    ]
    facts = {
        completeness.BLOCKED: json.dumps(blocked),
        TAKEN: json.dumps({name: manifest_digest(d) for name, d in sorted(taken.items())}),
        DAMAGED: json.dumps({name: sha for name, sha in sorted(damaged.items()) if name in taken}),
        "landed": str(sum(r.landed for r in chunk.partitions)),
        "accepted": str(sum(r.accepted for r in chunk.partitions)),
        "quarantined": str(sum(r.quarantined for r in chunk.partitions)),
    }
    if ends:
        facts[completeness.ACCEPTED_UNTIL] = max(ends).isoformat()
    lake.create(
        quarantine, chunk.quarantined.schema, partition_by=by_column, personal=["values", "file_bytes"]
    )
    lake.create(table, chunk.accepted.schema, partition_by=by_column, personal=contract.personal_columns)
    lake.replace_partitions(
        quarantine, chunk.quarantined, commit(quarantine, files, partition, **facts), where=where
    )
    lake.replace_partitions(table, chunk.accepted, commit(table, files, partition, **facts), where=where)


def _end_of(contract: Contract, delivery: landing.Delivery) -> datetime | None:
    """Up to which instant a delivery speaks for its feed; where it does not say, up to its regular delivery."""
    return delivery.covers_to or regular_delivery(contract, delivery)


def trailing_rows(
    deliveries: Sequence[landing.Delivery], first: str, days: int, *, leave_out: Collection[str] = ()
) -> dict[str, int]:
    """Rows per partition, by their manifests, in the `days` days before `first`.

    A file counts once however often it came, and not at all when another one supersedes it.

    Args:
        leave_out: partitions that say nothing about what is usual: the blocked ones.
    """
    start = (date.fromisoformat(first) - timedelta(days=days)).isoformat()
    superseded = {delivery.supersedes for delivery in deliveries}
    counted: dict[str, dict[str, int]] = {}
    for delivery in deliveries:
        if not start <= delivery.partition < first or delivery.partition in leave_out:
            continue
        if delivery.sha256 not in superseded:
            counted.setdefault(delivery.partition, {})[delivery.sha256] = delivery.rows
    return {partition: sum(rows.values()) for partition, rows in counted.items()}


def waiting(lake: Lake, table: str, deliveries: Sequence[landing.Delivery]) -> list[landing.Delivery]:
    """The deliveries that no commit of the table has dealt with as they are now.

    By name and manifest: files of the same content, as those of two days without rows, have the same hash; and a file
    that was put in the place of another has its name. A file whose bytes were not those of its manifest waits again as
    soon as its bytes are others, though its manifest has stayed.
    """
    taken: dict[str, str] = {}
    damaged: dict[str, str] = {}
    for record in lake.commits(f"raw/{table}") if lake.exists(f"raw/{table}") else ():
        names: dict[str, str] = json.loads(record.extra.get(TAKEN, "{}"))
        bad: dict[str, str] = json.loads(record.extra.get(DAMAGED, "{}"))
        taken |= names
        damaged = {name: sha for name, sha in damaged.items() if name not in names} | bad
    return [
        delivery
        for delivery in deliveries
        if taken.get(delivery.path.name) != manifest_digest(delivery)
        or (delivery.path.name in damaged and damaged[delivery.path.name] != sha256_of(delivery))
    ]


def manifest_digest(delivery: landing.Delivery) -> str:
    """A few characters that change with anything that the manifest says."""
    said = {name: str(value) for name, value in vars(delivery).items() if name != "path"}
    return hashlib.sha256(json.dumps(said, sort_keys=True).encode()).hexdigest()[:16]


def sha256_of(delivery: landing.Delivery) -> str:
    """Of the bytes that lie there now; empty where there are none."""
    try:
        return hashlib.sha256(delivery.path.read_bytes()).hexdigest()
    except FileNotFoundError:
        return ""


def taken_partitions(lake: Lake, table: str, among: Collection[str]) -> set[str]:
    """Those of the partitions of which files have been dealt with, whether they count or are blocked."""
    if not lake.exists(f"raw/{table}"):
        return set()
    taken = [json.loads(record.extra.get(TAKEN, "{}")) for record in lake.commits(f"raw/{table}")]
    # A file's name begins with its partition.
    return {
        partition for partition in among for names in taken if any(n.startswith(partition) for n in names)
    }


def blocked_partitions(lake: Lake, table: str) -> dict[str, list[str]]:
    """Partition → reasons, for the partitions whose newest intake blocked."""
    blocked: dict[str, list[str]] = {}
    if not lake.exists(f"raw/{table}"):
        return blocked
    for record in lake.commits(f"raw/{table}"):
        first, _, last = record.partition.partition("..")
        for day in [day for day in blocked if first <= day <= (last or first)]:
            del blocked[day]
        blocked.update(json.loads(record.extra.get(completeness.BLOCKED, "{}")))
    return blocked
