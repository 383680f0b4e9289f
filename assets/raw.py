"""raw: landed files, checked against their contract, as they came.

What belongs here: one asset per contract. What does not: what a rule is (contracts/) or how it runs (contrail/).
"""

from collections.abc import Iterator, Sequence

import dagster as dg

from contrail import intake, landing, validation_page
from contrail.contracts import Contract, load_contracts
from contrail.lake import Commit
from contrail.settings import Settings
from resources.checks import log_per_partition, summary, verdict
from resources.columns import schema_metadata
from resources.lake import LakeResource
from resources.partitions import daily_partitions

STAGE = "raw"
CHECK = "contract"


def build(settings: Settings) -> list[dg.AssetsDefinition]:
    """One asset per contract; those with a partition column are daily."""
    contracts = load_contracts(settings.repo_root / "contracts")
    daily = daily_partitions(settings)
    return [
        _raw_asset(contract, daily if contract.partition_column else None) for contract in contracts.values()
    ]


def _raw_asset(contract: Contract, partitions: dg.PartitionsDefinition[str] | None) -> dg.AssetsDefinition:
    key = dg.AssetKey([STAGE, contract.table])

    @dg.asset(
        key=key,
        group_name=STAGE,
        description=contract.description,
        owners=[f"team:{contract.owner}"],
        kinds={"csv", "delta", "greatexpectations"},
        partitions_def=partitions,
        backfill_policy=dg.BackfillPolicy.single_run() if partitions else None,
        check_specs=[
            dg.AssetCheckSpec(
                CHECK,
                asset=key,
                description="The contract's rules; a partition beyond its tolerance is blocked and lies in quarantine.",
                blocking=True,
                partitions_def=partitions,
            )
        ],
        metadata=schema_metadata(
            (column.name, column.sql_type, column.description, column.unit) for column in contract.columns
        ),
        tags={"contract_version": contract.version},
        pool="lake",
    )
    def raw_table(
        context: dg.AssetExecutionContext, lake: dg.ResourceParam[LakeResource]
    ) -> Iterator[dg.MaterializeResult[None] | dg.AssetCheckResult]:
        keys = sorted(context.partition_keys) if partitions else [landing.REFERENCE_PARTITION]
        taken = _take_in(context, lake, contract, keys)
        page = lake.settings.home / "validation" / f"{contract.table}-{context.run.run_id}.html"
        page.parent.mkdir(parents=True, exist_ok=True)
        page.write_text(validation_page.render(contract, taken.partitions), encoding="utf-8")
        verdicts = [verdict(report, partitioned=partitions is not None) for report in taken.partitions]
        for report in taken.partitions if partitions else ():
            context.add_asset_metadata(
                {
                    "dagster/partition_row_count": report.accepted,
                    "landed_rows": report.landed,
                    "quarantined_rows": report.quarantined,
                },
                partition_key=report.partition,
            )
        yield dg.MaterializeResult(
            metadata={
                "table": f"{STAGE}/{contract.table}@v{taken.version}",
                "quarantine": f"quarantine/{contract.table}@v{taken.quarantine_version}",
                "run_landed_rows": taken.landed,
                "run_accepted_rows": taken.accepted,
                "run_quarantined_rows": taken.quarantined,
                "validation_page": dg.MetadataValue.path(str(page)),
            }
        )
        if len(verdicts) > 1:
            log_per_partition(context, key, CHECK, verdicts)
        yield summary(key, CHECK, verdicts)

    return raw_table


def _take_in(
    context: dg.AssetExecutionContext, lake: LakeResource, contract: Contract, partitions: Sequence[str]
) -> intake.Intake:
    root = lake.settings.landing_root
    delivered = landing.deliveries(root, contract.table, set(partitions))
    missing = sorted(set(partitions) - {delivery.partition for delivery in delivered})
    if missing:
        raise dg.Failure(
            f"no file of {contract.table} has landed for {', '.join(missing[:5])}: land it first (contrail land)",
            allow_retries=False,
        )
    landed = landing.partition_range(root)
    if contract.partition_column and landed is not None:
        # Whoever put a file there by hand, a correction perhaps, did not say so in the range file; and the data clock
        # is the newest delivery.
        landing.update_range(
            root,
            first=landed.first,
            last=landed.last,
            newest_fact_delivered_at=max(delivery.delivered_at for delivery in delivered),
        )
    trailing = (
        intake.trailing_rows(
            landing.deliveries(root, contract.table),
            partitions[0],
            contract.volume.days,
            leave_out=intake.blocked_partitions(lake.lake, contract.table),
        )
        if contract.volume
        else {}
    )

    def commit(asset: str, inputs: Sequence[str], partition: str, **extra: str) -> Commit:
        return lake.commit(context, asset, inputs, partition, **extra)

    with lake.connect() as con:
        return intake.take_in(
            lake.lake,
            contract,
            delivered,
            con=con,
            commit=commit,
            trailing_rows=trailing,
            progress=lambda text: context.log.info(text),
        )
