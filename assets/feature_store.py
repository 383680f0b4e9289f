"""feature_store: what Feast knows of the features, and the online copy of their newest values.

What belongs here: `feast apply` and materialisation as assets. What does not: which views there are (feature_repo/).
"""

import dagster as dg
import pyarrow as pa

from assets import feature_store_checks
from contrail.settings import Settings
from contrail.view_freshness import ONLINE_PLACE
from features.tables import FEATURE_TABLES
from resources.column_docs import describe
from resources.columns import schema_metadata
from resources.feature_changes import change_table
from resources.feature_store import FeatureStoreResource
from resources.lake import LakeResource

STAGE = "feature_store"
OWNER = "team:features"
ONLINE_SCHEMA = pa.schema(
    [
        pa.field("feature_view", pa.string()),
        pa.field("source_table", pa.string()),
        pa.field("rows", pa.int64()),
        pa.field("rows_written", pa.int64()),
        pa.field("newest_known_at", pa.timestamp("us", tz="UTC")),
        pa.field("materialised_until", pa.timestamp("us", tz="UTC")),
    ]
)


def build(settings: Settings) -> list[dg.AssetsDefinition]:
    """Registry and online store, with the checks on it."""
    tables = [dg.AssetKey(["feature", name]) for name in FEATURE_TABLES]

    @dg.asset(
        key=dg.AssetKey([STAGE, "registry"]),
        group_name=STAGE,
        owners=[OWNER],
        kinds={"feast"},
        deps=tables,
        description="`feast apply`: entities, views over the feature tables, request-time view and services, as "
        "declared in feature_repo/.",
        pool="feature_registry",
    )
    def registry(
        context: dg.AssetExecutionContext, feature_store: FeatureStoreResource
    ) -> dg.MaterializeResult[None]:
        applied = feature_store.apply()
        for change in applied.changes:
            context.log.info(change)
        return dg.MaterializeResult(
            metadata={
                **applied.counts,
                "changes": len(applied.changes),
                "features_added": sum(change.kind == "added" for change in applied.feature_changes),
                "features_changed": change_table(applied.feature_changes),
                "registry_sha256": applied.registry_sha256,
            }
        )

    @dg.asset(
        key=dg.AssetKey([STAGE, "online"]),
        group_name=STAGE,
        owners=[OWNER],
        kinds={"feast", settings.online_store},
        deps=[dg.AssetKey([STAGE, "registry"]), *tables],
        description="The newest value of every entity in the online store, as of the project's now; one row per view "
        "says what was written and of which table version.",
        metadata=schema_metadata((field.name, *describe(field.name)) for field in ONLINE_SCHEMA),
        pool="feature_registry",
    )
    def online(
        context: dg.AssetExecutionContext,
        lake: dg.ResourceParam[LakeResource],
        feature_store: FeatureStoreResource,
    ) -> dg.MaterializeResult[None]:
        name = f"{STAGE}/online"
        done = feature_store.materialize(lake.clock.now())
        rows = pa.Table.from_pylist(
            [
                {
                    "feature_view": one.view,
                    "source_table": f"{one.source}@v{one.delta_version}",
                    "rows": one.rows,
                    "rows_written": one.rows_written,
                    "newest_known_at": one.newest,
                    "materialised_until": one.end,
                }
                for one in done
            ],
            schema=ONLINE_SCHEMA,
        )
        inputs = [f"{one.source}@v{one.delta_version}" for one in done]
        lake.lake.create(name, ONLINE_SCHEMA)
        place = {ONLINE_PLACE: feature_store.online_place}
        commit = lake.commit(context, name, inputs, **place)
        version = lake.lake.replace_partitions(name, rows, commit, where="true")
        return dg.MaterializeResult(
            metadata={
                "table": f"{name}@v{version}",
                "views": len(done),
                "rows_written": sum(one.rows_written for one in done),
                "rows_withdrawn": sum(one.rows_withdrawn for one in done),
                "online_store": feature_store.online_place,
                "materialised_until": max(one.end for one in done).isoformat(),
            }
        )

    return [registry, online, *feature_store_checks.build(settings)]
