"""Ingestion: landed files in, accepted rows, quarantined rows and a report per partition out.

A pure function of the files: nothing is written, no clock is read, and the same files give the same rows. Nothing is
dropped either: for every partition the rows that landed are the rows accepted plus the rows quarantined, counted in
what is handed back.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, date, datetime, time, timedelta
from itertools import groupby

import duckdb
import pyarrow as pa

from contrail import expectations, staging
from contrail.chains import Candidate, Judgement, in_order, judge
from contrail.contracts import Contract
from contrail.expectations import CompiledRule, Outcome
from contrail.ingest_report import Balance, IngestError, PartitionReport, RuleResult, Status, report_partition
from contrail.ingest_rows import PlacedFile, accepted_rows, quarantined_rows
from contrail.landed_file import read_landed_file
from contrail.landing import Delivery
from contrail.staging import BrokenRows, StagedFile

__all__ = [
    "IngestError",
    "IngestResult",
    "PartitionReport",
    "RuleResult",
    "Status",
    "ingest",
    "ingest_in_chunks",
]

# Compressed; rows take about a hundred times as much while they are judged.
CHUNK_BYTES = 4 * 1024 * 1024
_DAY = timedelta(days=1)


@dataclass(frozen=True)
class IngestResult:
    """`accepted` has `contracts.raw_schema`, `quarantined` has `contracts.quarantine_schema`."""

    accepted: pa.Table
    quarantined: pa.Table
    partitions: tuple[PartitionReport, ...]


def ingest_in_chunks(
    contract: Contract,
    deliveries: Sequence[Delivery],
    *,
    con: duckdb.DuckDBPyConnection,
    history: Mapping[str, int] | None = None,
    chunk_bytes: int = CHUNK_BYTES,
) -> Iterator[IngestResult]:
    """`ingest` in bounded memory: whole partitions, in order, up to `chunk_bytes` of compressed files at a time.

    The chunks together are what one call over all deliveries gives; a partition larger than that is a chunk of its own.
    """
    known = dict(history or {})
    chunk: list[Delivery] = []
    size = 0
    for _, group in groupby(in_order(deliveries), key=lambda delivery: delivery.partition):
        files = list(group)
        weight = sum(delivery.size_bytes for delivery in files)
        if chunk and size + weight > chunk_bytes:
            yield _ingest_chunk(contract, chunk, con, known)
            chunk, size = [], 0
        chunk += files
        size += weight
    if chunk:
        yield _ingest_chunk(contract, chunk, con, known)


def _ingest_chunk(
    contract: Contract, chunk: Sequence[Delivery], con: duckdb.DuckDBPyConnection, known: dict[str, int]
) -> IngestResult:
    result = ingest(contract, chunk, con=con, history=known)
    known.update(
        {report.partition: report.rows for report in result.partitions if report.status != "blocked"}
    )
    return result


def ingest(
    contract: Contract,
    deliveries: Sequence[Delivery],
    *,
    con: duckdb.DuckDBPyConnection,
    history: Mapping[str, int] | None = None,
) -> IngestResult:
    """Judge all deliveries of some partitions by their contract.

    Args:
        deliveries: every delivery of every partition that is asked for; which file counts depends on all of them.
        con: a session for the work; its temporary tables are gone afterwards.
        history: rows of earlier partitions, for the volume rule; days among `deliveries` are added to it.

    Raises:
        IngestError: a delivery is of another table, its partition is not a date where the contract has days, or the
            rows handed back are not the rows that landed.
    """
    work = _prepare(contract, deliveries)
    rules = [*staging.schema_rules(contract), *expectations.compile_rules(contract)]
    fitting = [position for position, one in enumerate(work) if one.file.fits]
    with staging.staged(con, contract, work) as texts:
        outcomes = staging.judge_files(con, contract, rules, fitting)
        broken = staging.broken_rows(con, contract, rules, outcomes)
        problems = _problems(contract, work, rules, outcomes, broken, texts)
        partitions = _judge_partitions(work, problems)
        placed = _place(contract, work, partitions)
        chains = [chain for positions, judgement in partitions for chain in _chains(positions, judgement)]
        accepted = accepted_rows(con, contract, placed, chains, broken.rules)
        by_partition = _newest_outcomes(con, contract, rules, work, partitions)
    quarantined = quarantined_rows(contract, placed, broken.rules, rules, texts)
    balance = Balance.of(contract, accepted, quarantined)
    broken_in = Counter(texts.column("_file").take(pa.array(list(broken.rules), pa.int64())).to_pylist())
    known = dict(history or {})
    reports: list[PartitionReport] = []
    for positions, judgement in partitions:
        newest = [positions[i] for i in judgement.newest]
        found = (
            by_partition.get(work[newest[0]].partition_date) if len(newest) > 1 else outcomes.get(newest[0])
        )
        reports.append(
            report_partition(contract, rules, placed, positions, judgement, found, broken_in, balance, known)
        )
    return IngestResult(accepted, quarantined, tuple(reports))


# -- files -----------------------------------------------------------------------------------------------------------


def _prepare(contract: Contract, deliveries: Sequence[Delivery]) -> list[StagedFile]:
    """Read all files, in the order in which they are judged."""
    ordered = in_order(deliveries)
    for delivery in ordered:
        if delivery.table != contract.table:
            raise IngestError(f"{delivery.path.name} is of table {delivery.table}, not of {contract.table}")
    partitions = sorted({delivery.partition for delivery in ordered})
    if contract.partition_column is None and len(partitions) > 1:
        raise IngestError(
            f"{contract.table} comes as one file, and there are several partitions: {', '.join(partitions)}"
        )
    return [
        StagedFile(read_landed_file(one, contract), _date_of(contract, one), one.delivered_at)
        for one in ordered
    ]


def _date_of(contract: Contract, delivery: Delivery) -> date | None:
    if contract.partition_column is None:
        return None
    try:
        return date.fromisoformat(delivery.partition)
    except ValueError as error:
        raise IngestError(
            f"{delivery.path.name}: the partition {delivery.partition!r} is not a date"
        ) from error


def _judge_partitions(
    files: Sequence[StagedFile], problems: Sequence[tuple[str, ...]]
) -> list[tuple[list[int], Judgement]]:
    """Per partition, in order: the positions of its files, and the verdicts on them."""
    judged: list[tuple[list[int], Judgement]] = []
    for _, group in groupby(range(len(files)), key=lambda position: files[position].file.delivery.partition):
        positions = list(group)
        candidates = [
            Candidate(files[i].file.delivery, problems[i], files[i].file.is_verified) for i in positions
        ]
        judged.append((positions, judge(candidates)))
    return judged


def _place(
    contract: Contract, files: Sequence[StagedFile], partitions: Sequence[tuple[list[int], Judgement]]
) -> list[PlacedFile]:
    placed: list[PlacedFile] = []
    for positions, judgement in partitions:
        for position, verdict in zip(positions, judgement.verdicts, strict=True):
            delivery = files[position].file.delivery
            due = regular_delivery(contract, delivery)
            in_time = due is None or delivery.delivered_at <= due
            placed.append(PlacedFile(files[position], verdict, in_time and verdict.replaces is None))
    return placed


def regular_delivery(contract: Contract, delivery: Delivery) -> datetime | None:
    """Until when a delivery counts as regular; None: always (tables that come as one file).

    A file that answers for a part of its partition only (hourly landing) is due when that part ends.
    """
    day = _date_of(contract, delivery)
    if day is None:
        return None
    covers_from, covers_to = delivery.covers_from, delivery.covers_to
    if covers_from is not None and covers_to is not None and covers_to - covers_from < _DAY:
        return covers_to
    return datetime.combine(day, time(), UTC) + timedelta(hours=contract.regular_offset_hours or 0)


def _chains(positions: Sequence[int], judgement: Judgement) -> list[list[int]]:
    """The accepted files of each chain, oldest first."""
    chains: dict[int, list[int]] = {}
    for position, verdict in zip(positions, judgement.verdicts, strict=True):
        if verdict.outcome == "accepted":
            chains.setdefault(verdict.chain, []).append(position)
    return list(chains.values())


def _newest_outcomes(
    con: duckdb.DuckDBPyConnection,
    contract: Contract,
    rules: Sequence[CompiledRule],
    files: Sequence[StagedFile],
    partitions: Sequence[tuple[list[int], Judgement]],
) -> dict[date | None, list[Outcome]]:
    """The rules over the newest files together, of partitions that come in several files."""
    several = {
        files[positions[0]].partition_date: [positions[i] for i in judgement.newest]
        for positions, judgement in partitions
        if len(judgement.newest) > 1 and any(files[positions[i]].file.fits for i in judgement.newest)
    }
    if not several:
        return {}
    return staging.judge_partitions(con, contract, rules, several)


# -- what is wrong with a file because of its rows ---------------------------------------------------------------------


def _problems(
    contract: Contract,
    files: Sequence[StagedFile],
    rules: Sequence[CompiledRule],
    outcomes: Mapping[int, Sequence[Outcome]],
    broken: BrokenRows,
    texts: pa.Table,
) -> list[tuple[str, ...]]:
    """Per file, what blocks it: its own problems, rows of another partition, too many rows for the quarantine."""
    owner = texts.column("_file").to_pylist() if broken.rules else []
    of_file: dict[int, list[int]] = {}
    for index in broken.rules:
        of_file.setdefault(owner[index], []).append(index)
    found: list[tuple[str, ...]] = []
    for position, one in enumerate(files):
        problems = [*one.file.problems, *broken.files.get(position, ())]
        if one.file.fits:
            indexes = of_file.get(position, [])
            strays = [index for index in indexes if staging.PARTITION_RULE in broken.rules[index]]
            if strays:
                row = texts.column("_source_row")[min(strays)].as_py()
                rule = next(
                    rule for rule in rules if rule.rule.name == staging.PARTITION_RULE
                ).rule.description
                problems.append(
                    f"{len(strays)} of {one.file.rows} rows do not belong to {one.file.delivery.partition}, "
                    f"first in row {row}: {rule}"
                )
            else:
                problems += _beyond_tolerance(contract, one, [broken.rules[index] for index in indexes])
        found.append(tuple(problems))
    return found


def _beyond_tolerance(contract: Contract, one: StagedFile, rules: Sequence[Sequence[str]]) -> list[str]:
    bad = len(rules) + len(one.file.malformed)
    if bad <= max(contract.tolerated_rows, contract.tolerated_share * one.file.rows):
        return []
    counts = Counter(name for names in rules for name in names)
    counts.update({"malformed_row": len(one.file.malformed)})
    worst = ", ".join(f"{name} {count}" for name, count in counts.most_common(3) if count)
    tolerated = f"{contract.tolerated_share:.1%} of the rows, or {contract.tolerated_rows}"
    return [f"{bad} of {one.file.rows} rows break rules, more than is tolerated ({tolerated}): {worst}"]
