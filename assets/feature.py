"""feature: point-in-time features as pure functions of the clean tables, grown by time.

What belongs here: one asset per declared table. What does not: how a number is made (features/) or which of them a
model uses (feature_repo/).
"""

from collections.abc import Sequence
from datetime import UTC, datetime, time

import dagster as dg

from contrail import incremental, landing
from contrail.incremental import Extension
from contrail.lake import Commit
from contrail.settings import Settings
from feature_repo.feature_docs import table_markdown
from feature_repo.feature_pieces import table_code
from features.tables import FEATURE_TABLES, FeatureTable
from resources.columns import schema_metadata
from resources.feature_code import FACT, require_own_code
from resources.lake import LakeResource

STAGE = "feature"


class BuildConfig(dg.Config):
    """How a feature table is built."""

    rebuild: bool = False
    """Begin at the first landed day again, for instance because the feature's code has changed."""


def build(settings: Settings) -> list[dg.AssetsDefinition]:
    """One unpartitioned asset per feature table; the tables grow by time, in Delta by month."""
    del settings
    return [_feature_asset(table) for table in FEATURE_TABLES.values()]


def _feature_asset(table: FeatureTable) -> dg.AssetsDefinition:
    described = [
        *((name, "VARCHAR", f"Entity key of {table.entity}.", None) for name in table.keys),
        (
            "known_at",
            "TIMESTAMPTZ",
            "When this value could first be known: the event timestamp of the feature.",
            "UTC",
        ),
        ("created_at", "TIMESTAMPTZ", "When this version of the value became known; it breaks ties.", "UTC"),
        ("month", "DATE", "First day of the month of known_at: the Delta partition.", None),
        *((column.name, column.sql_type, column.description, column.unit) for column in table.columns),
    ]

    @dg.asset(
        key=dg.AssetKey([STAGE, table.name]),
        group_name=STAGE,
        description=table.description,
        owners=[table.owner],
        kinds={"duckdb", "delta"},
        deps=[dg.AssetKey(source.split("/")) for source in table.sources],
        metadata={
            **schema_metadata(described),
            "features": dg.MetadataValue.md(table_markdown(table)),
        },
        pool="lake",
    )
    def feature_table(
        context: dg.AssetExecutionContext, config: BuildConfig, lake: dg.ResourceParam[LakeResource]
    ) -> dg.MaterializeResult[None]:
        built = _extend(context, lake, table, rebuild=config.rebuild)
        revised = built.revised
        return dg.MaterializeResult(
            metadata={
                "table": f"{STAGE}/{table.name}@v{built.version}",
                "rows_built": built.rows,
                "built_from": built.lo.isoformat(),
                "built_until": built.hi.isoformat(),
                "corrected": f"{revised.lo.isoformat()}..{revised.hi.isoformat()}, versions created from "
                f"{revised.created_from.isoformat()} on"
                if revised
                else "nothing",
            }
        )

    return feature_table


def _extend(
    context: dg.AssetExecutionContext, lake: LakeResource, table: FeatureTable, *, rebuild: bool
) -> Extension:
    name = f"{STAGE}/{table.name}"
    landed = landing.partition_range(lake.settings.landing_root)
    complete = lake.complete_until().until
    if landed is None or complete is None:
        raise dg.Failure(
            f"{name}: a feed that bounds completeness has nothing accepted yet: {lake.complete_until().by_feed}",
            allow_retries=False,
        )
    if not rebuild:
        require_own_code(lake.lake, [name])
    now, code = lake.clock.now(), {FACT: table_code(table.name)}

    def commit(inputs: Sequence[str], partition: str, facts: dict[str, str]) -> Commit:
        return lake.commit(context, name, inputs, partition, **facts, **code)

    with lake.connect() as con:
        return incremental.extend(
            lake.lake,
            name,
            table.build,
            con=con,
            sources={source.rpartition("/")[2]: source for source in table.sources},
            start=datetime.combine(landed.first, time(), UTC),
            # A file may be delivered before its feed day ends: no row may be known later than the newest delivery.
            until=min(complete, now, landed.newest_fact_delivered_at),
            now=now,
            delivered_until=landed.newest_fact_delivered_at,
            commit=commit,
            revise=table.revise,
            rebuild=rebuild,
        )
