"""Taking landed files in: from the landing zone to the raw table and its quarantine, partition by partition.

The outcome is a pure function of the files that lie in the landing zone, so taking a partition in again gives the same
rows. The quarantine is written before the raw table, whose commit is what says that the files have been dealt with: a
kill in between repeats both.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import date, datetime, timedelta
from typing import Protocol

import duckdb

from contrail import completeness, landing
from contrail.contracts import Contract
from contrail.ingest import IngestResult, PartitionReport, ingest_in_chunks
from contrail.lake import Commit, Lake

FILES = "files"


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
    for chunk in ingest_in_chunks(contract, deliveries, con=con, history=trailing_rows):
        _write_chunk(lake, contract, chunk, table, quarantine, commit, deliveries)
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
    table: str,
    quarantine: str,
    commit: CommitFactory,
    deliveries: Sequence[landing.Delivery],
) -> None:
    days = sorted(report.partition for report in chunk.partitions)
    files = [f"sha256:{sha}" for report in chunk.partitions for sha in report.files]
    by_column = [contract.partition_column] if contract.partition_column else []
    where = f"{by_column[0]} IN ({', '.join(repr(day) for day in days)})" if by_column else "true"
    partition = days[0] if len(days) == 1 else f"{days[0]}..{days[-1]}"
    accepted = {r.partition for r in chunk.partitions if r.status != completeness.BLOCKED}
    ends = [end for d in deliveries if d.partition in accepted and (end := _end_of(contract, d)) is not None]
    facts = {
        completeness.BLOCKED: json.dumps(
            {r.partition: list(r.reasons) for r in chunk.partitions if r.status == "blocked"}
        ),
        FILES: json.dumps(sorted(d.path.name for d in deliveries if d.partition in set(days))),
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
    """Up to which instant a delivery speaks for its feed."""
    return delivery.covers_to if contract.partition_column else None


def trailing_rows(deliveries: Sequence[landing.Delivery], first: str, days: int) -> dict[str, int]:
    """Rows per partition, by their manifests, in the `days` days before `first`."""
    start = (date.fromisoformat(first) - timedelta(days=days)).isoformat()
    counted: dict[str, int] = {}
    for delivery in deliveries:
        if start <= delivery.partition < first:
            counted[delivery.partition] = counted.get(delivery.partition, 0) + delivery.rows
    return counted


def waiting(lake: Lake, table: str, deliveries: Sequence[landing.Delivery]) -> list[landing.Delivery]:
    """The deliveries that no commit of the table has dealt with.

    By name and hash: files of the same content, as those of two days without rows, have the same hash.
    """
    records = lake.commits(f"raw/{table}") if lake.exists(f"raw/{table}") else []
    taken: list[tuple[set[str], set[str]]] = [
        (set(json.loads(record.extra.get(FILES, "[]"))), set(record.inputs)) for record in records
    ]
    return [
        delivery
        for delivery in deliveries
        if not any(delivery.path.name in names and f"sha256:{delivery.sha256}" in hashes for names, hashes in taken)
    ]


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
