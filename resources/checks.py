"""Contract reports as Dagster check results: one evaluation per partition, also when a run covers a range."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import dagster as dg
from dagster._core.definitions.asset_checks.asset_check_evaluation import (  # no public name logs one per partition
    AssetCheckEvaluation,
    AssetCheckEvaluationTargetMaterializationData,
)

from contrail.ingest import PartitionReport, RuleResult

RULE_SCHEMA = dg.TableSchema(
    columns=[
        dg.TableColumn("rule", "string", "Name of the rule in the contract."),
        dg.TableColumn("class", "string", "What follows: reject, fix or warn."),
        dg.TableColumn("expectation", "string", "The Great Expectations expectation type."),
        dg.TableColumn("checked", "int", "Rows that were checked."),
        dg.TableColumn("unexpected", "int", "Rows that break the rule."),
        dg.TableColumn("passed", "bool", "Whether the rule holds for the partition."),
    ]
)


@dataclass(frozen=True)
class PartitionVerdict:
    """What a check says of one partition (None: of an unpartitioned asset)."""

    partition: str | None
    passed: bool
    description: str
    metadata: Mapping[str, Any]


def verdict(report: PartitionReport, *, partitioned: bool) -> PartitionVerdict:
    """The verdict on one partition, with a row per expectation."""
    blocked = report.status == "blocked"
    said = "; ".join(report.reasons) if report.reasons else f"{report.accepted} rows accepted"
    return PartitionVerdict(
        partition=report.partition if partitioned else None,
        passed=not blocked,
        description=said,
        metadata={
            "landed_rows": report.landed,
            "accepted_rows": report.accepted,
            "quarantined_rows": report.quarantined,
            "rules_broken": sum(not rule.success for rule in report.rules),
            "expectations": dg.MetadataValue.table(
                [_rule_record(rule) for rule in report.rules], RULE_SCHEMA
            ),
        },
    )


def log_per_partition(
    context: dg.AssetExecutionContext, key: dg.AssetKey, check: str, verdicts: Sequence[PartitionVerdict]
) -> None:
    """Log one evaluation per partition of a range run (after its materialisations), so that each shows its own status.

    A check result has no partition field: without this, one status stands for the whole range.
    """
    names = [v.partition for v in verdicts if v.partition is not None]
    records = context.instance.fetch_materializations(
        dg.AssetRecordsFilter(asset_key=key, asset_partitions=names), limit=len(names) * 2
    ).records
    newest: dict[str, dg.EventLogRecord] = {}
    for record in records:  # newest first
        if record.partition_key is not None:
            newest.setdefault(record.partition_key, record)
    for each in verdicts:
        record = newest.get(each.partition or "")
        target = record and AssetCheckEvaluationTargetMaterializationData(
            run_id=record.run_id, storage_id=record.storage_id, timestamp=record.timestamp
        )
        context.op_execution_context.log_event(
            AssetCheckEvaluation(
                asset_key=key,
                check_name=check,
                passed=each.passed,
                description=each.description,
                metadata=dict(each.metadata),
                partition=each.partition,
                blocking=True,
                target_materialization_data=target,
            )
        )


def summary(key: dg.AssetKey, check: str, verdicts: Sequence[PartitionVerdict]) -> dg.AssetCheckResult:
    """One result for the run. A range goes on while it has a good partition: only a run without one is stopped."""
    bad = [v for v in verdicts if not v.passed]
    none_good = len(bad) == len(verdicts)
    if len(verdicts) == 1:
        only = verdicts[0]
        return dg.AssetCheckResult(
            asset_key=key,
            check_name=check,
            passed=only.passed,
            description=only.description,
            metadata=only.metadata,
        )
    return dg.AssetCheckResult(
        asset_key=key,
        check_name=check,
        passed=not bad,
        severity=dg.AssetCheckSeverity.ERROR if none_good else dg.AssetCheckSeverity.WARN,
        description=(
            f"{len(bad)} of {len(verdicts)} partitions blocked: {', '.join(str(v.partition) for v in bad[:5])}"
            if bad
            else f"all {len(verdicts)} partitions accepted"
        ),
        metadata={"partitions": len(verdicts), "blocked_partitions": len(bad)},
    )


def _rule_record(rule: RuleResult) -> dg.TableRecord:
    return dg.TableRecord(
        {
            "rule": rule.rule,
            "class": rule.rule_class,
            "expectation": rule.expectation,
            "checked": rule.element_count,
            "unexpected": rule.unexpected_count,
            "passed": rule.success,
        }
    )
