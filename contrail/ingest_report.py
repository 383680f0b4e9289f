"""What became of a partition: the verdict, the books, and what every rule found."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import date, timedelta
from typing import Any, Literal, cast

import pyarrow as pa
import pyarrow.compute

from contrail.chains import Judgement
from contrail.contracts import Contract, RuleClass
from contrail.expectations import CompiledRule, Outcome
from contrail.ingest_rows import PlacedFile

Status = Literal["accepted", "empty", "blocked"]

# Fewer earlier days than this say nothing about how many rows are usual.
LEAST_VOLUME_DAYS = 7
_DAY = timedelta(days=1)
_compute = cast(
    Any, pyarrow.compute
)  # its functions are made when it is imported, so no type checker sees them


class IngestError(RuntimeError):
    """The books do not balance, or a delivery cannot be placed; the message names table and partition."""


@dataclass(frozen=True)
class RuleResult:
    """What one rule found in one partition; counts in rows, `observed` in words where the rule judges a value."""

    rule: str
    rule_class: RuleClass
    expectation: str
    partition: str
    element_count: int
    unexpected_count: int
    success: bool
    observed: str | None
    description: str


@dataclass(frozen=True)
class PartitionReport:
    """What became of a partition's files.

    Attributes:
        status: how its newest files stand: ``accepted``, ``empty`` (accepted, without a row) or ``blocked``.
        landed: rows in all its files, a file that came twice counted once; always `accepted` + `quarantined`.
        accepted: rows taken over, also of files that were superseded later.
        quarantined: rows that were not; an unreadable file counts the rows of its manifest.
        retracted: keys that a superseding file no longer has.
        rows: accepted rows of the files that count now.
        reasons: why it is blocked, in words, with the file.
        rules: what every rule found in its newest files.
        files: sha256 of all its files.
        warnings: what does not block and should be looked at.
    """

    partition: str
    status: Status
    landed: int
    accepted: int
    quarantined: int
    retracted: int
    rows: int
    reasons: tuple[str, ...]
    rules: tuple[RuleResult, ...]
    files: tuple[str, ...]
    warnings: tuple[str, ...]


@dataclass(frozen=True)
class Balance:
    """Rows per partition, counted in the tables that are handed back."""

    accepted: Mapping[date | None, int]
    retracted: Mapping[date | None, int]
    quarantined: Mapping[date | None, int]

    @staticmethod
    def of(contract: Contract, accepted: pa.Table, quarantined: pa.Table) -> Balance:
        is_retracted = accepted.column("is_retracted")
        return Balance(
            _count_by(contract, accepted.filter(_compute.invert(is_retracted))),
            _count_by(contract, accepted.filter(is_retracted)),
            _count_by(contract, quarantined, "rows"),
        )


def _count_by(contract: Contract, table: pa.Table, weight: str | None = None) -> dict[date | None, int]:
    column = contract.partition_column
    weights = table.column(weight) if weight else pa.repeat(pa.scalar(1, pa.int64()), table.num_rows)
    if column is None:
        return {None: _compute.sum(weights).as_py() or 0}
    counted = pa.table({"day": table.column(column), "n": weights}).group_by("day").aggregate([("n", "sum")])
    return dict(zip(counted.column("day").to_pylist(), counted.column("n_sum").to_pylist(), strict=True))


def report_partition(
    contract: Contract,
    rules: Sequence[CompiledRule],
    placed: Sequence[PlacedFile],
    positions: Sequence[int],
    judgement: Judgement,
    outcomes: Sequence[Outcome] | None,
    broken_in: Mapping[int, int],
    balance: Balance,
    known: dict[str, int],
) -> PartitionReport:
    """One partition's report; adds its rows to `known` for the days after it."""
    files = [placed[position] for position in positions]
    first = files[0].staged
    partition, day = first.file.delivery.partition, first.partition_date
    newest, current = [files[i] for i in judgement.newest], [files[i] for i in judgement.current]
    landed = sum(one.staged.file.rows for one in files if one.verdict.outcome != "ignored")
    accepted, quarantined = balance.accepted.get(day, 0), balance.quarantined.get(day, 0)
    if landed != accepted + quarantined:
        raise IngestError(
            f"{contract.table} {partition}: {landed} rows landed, but {accepted} are accepted and {quarantined} "
            "quarantined; nothing may be written, this is a defect of the ingestion"
        )
    blocked = [one for one in newest if one.verdict.outcome == "blocked"]
    rows = sum(
        one.staged.file.rows - len(one.staged.file.malformed) - broken_in.get(positions[i], 0)
        for i, one in zip(judgement.current, current, strict=True)
    )
    results = _rule_results(partition, rules, newest, outcomes)
    if not blocked:
        volume = _volume(contract, partition, rows, known)
        results += [volume] if volume else []
        known[partition] = rows
    warnings = [
        f"{one.rule}: {one.observed or f'{one.unexpected_count} of {one.element_count} rows'} ({one.description})"
        for one in results
        if one.rule_class == "warn" and not one.success
    ]
    return PartitionReport(
        partition=partition,
        status="blocked"
        if blocked
        else "accepted"
        if any(one.staged.file.rows for one in current)
        else "empty",
        landed=landed,
        accepted=accepted,
        quarantined=quarantined,
        retracted=balance.retracted.get(day, 0),
        rows=rows,
        reasons=tuple(f"{one.source_file}: {reason}" for one in blocked for reason in one.verdict.reasons),
        rules=tuple(results),
        files=tuple(dict.fromkeys(one.staged.file.delivery.sha256 for one in files)),
        warnings=tuple(warnings),
    )


def _rule_results(
    partition: str,
    rules: Sequence[CompiledRule],
    newest: Sequence[PlacedFile],
    outcomes: Sequence[Outcome] | None,
) -> list[RuleResult]:
    """What the rules found in the newest files; nothing where these could not be read."""
    if outcomes is None:
        return []
    malformed = sum(len(one.staged.file.malformed) for one in newest)
    rows = sum(one.staged.file.rows for one in newest if one.staged.file.texts is not None)
    whole = "Every line has as many fields as the header."
    results = [
        RuleResult(
            "malformed_row", "reject", "contract", partition, rows, malformed, not malformed, None, whole
        )
    ]
    for one, found in zip(rules, outcomes, strict=True):
        results.append(
            RuleResult(
                rule=one.rule.name,
                rule_class=one.rule.rule_class,
                expectation=one.rule.expectation,
                partition=partition,
                element_count=found.element_count,
                unexpected_count=found.unexpected_count,
                success=found.success,
                observed=found.observed,
                description=one.rule.description,
            )
        )
    return results


def _volume(contract: Contract, partition: str, rows: int, known: Mapping[str, int]) -> RuleResult | None:
    """The number of rows against the mean of the days before; it only warns."""
    if contract.volume is None:
        return None
    day = date.fromisoformat(partition)
    before = [(day - _DAY * n).isoformat() for n in range(1, contract.volume.days + 1)]
    counts = [known[name] for name in before if name in known]
    mean = sum(counts) / len(counts) if counts else 0.0
    judged = len(counts) >= LEAST_VOLUME_DAYS and mean > 0
    usual = (
        f"mean of the {len(counts)} days known before: {mean:,.0f}" if counts else "no day before is known"
    )
    fine = rows > 0 and (not judged or contract.volume.least <= rows / mean <= contract.volume.most)
    return RuleResult(
        rule="volume",
        rule_class="warn",
        expectation="trailing_volume",
        partition=partition,
        element_count=rows,
        unexpected_count=0,
        success=fine,
        observed=f"{rows:,} rows; {usual}",
        description=(
            f"The day's rows lie between {contract.volume.least:g} and {contract.volume.most:g} times "
            f"the mean of the {contract.volume.days} days before."
        ),
    )
