"""monitor: how the champion does on labels as they mature, what drifts, and how late the feeds come.

What belongs here: the reports as tables, with a check and a plot. What does not: the statistics (contrail/) or what is
done about them (jobs/).
"""

from typing import Any

import dagster as dg
import pyarrow as pa
import pyarrow.compute as pc

from contrail import feed_latency, model_files, monitoring, plots
from contrail.contracts import load_contracts
from contrail.settings import Settings
from contrail.use_case import UseCase
from feature_repo.use_cases import USE_CASES
from resources.column_docs import describe
from resources.columns import schema_metadata
from resources.lake import LakeResource
from resources.plots import inline_png

STAGE = "monitor"
OWNER = "team:models"
CHECK = "calibration"


def build(settings: Settings) -> list[dg.AssetsDefinition]:
    """Per use case: performance, feature drift and the latency of the feeds it lives on."""
    contracts = load_contracts(settings.repo_root / "contracts").values()
    feeds = [f"raw/{contract.table}" for contract in contracts if contract.bounds_completeness]
    return [
        asset for use_case in USE_CASES.values() for asset in (_report(use_case), _latency(use_case, feeds))
    ]


def _report(use_case: UseCase) -> dg.AssetsDefinition:
    prefix = [STAGE, use_case.name]
    performance, drift = dg.AssetKey([*prefix, "performance"]), dg.AssetKey([*prefix, "feature_drift"])
    deps = [
        dg.AssetKey(["score", use_case.name, "outcomes"]),
        dg.AssetKey(["model", use_case.name, "candidate"]),
    ]

    @dg.multi_asset(
        name=f"{use_case.name}_monitor",
        specs=[
            dg.AssetSpec(
                performance,
                deps=deps,
                group_name=STAGE,
                owners=[OWNER],
                kinds={"duckdb", "delta"},
                description="One row per 14-day window and per month of matured labels: AUC, log-loss against the "
                "naive reference on the same rows, calibration, drift and missing rates in short.",
                metadata=_columns(monitoring.WINDOWS_SCHEMA),
            ),
            dg.AssetSpec(
                drift,
                deps=deps,
                group_name=STAGE,
                owners=[OWNER],
                kinds={"duckdb", "delta"},
                description="One row per window and feature: PSI against the champion's training rows, missing rates.",
                metadata=_columns(monitoring.FEATURES_SCHEMA),
            ),
        ],
        check_specs=[
            dg.AssetCheckSpec(
                CHECK,
                asset=performance,
                description="Warns when the two newest complete 14-day windows are both off in mean score − rate.",
            )
        ],
        pool="lake",
    )
    def report(context: dg.AssetExecutionContext, lake: dg.ResourceParam[LakeResource]) -> Any:
        rows, inputs = _outcomes(lake, use_case)
        makers = sorted(str(sha256) for sha256 in pc.unique(rows.column("model_sha256")).to_pylist())
        models = {sha256: model_files.load(lake.settings.lake_root, sha256) for sha256 in makers}
        made = monitoring.report(rows, use_case, models, now=lake.clock.now())
        read = [*inputs, *(f"model:{sha256}" for sha256 in makers)]
        windows = made.windows.to_pylist()
        versions = {}
        for key, table in ((performance, made.windows), (drift, made.features)):
            name = "/".join(key.path)
            lake.lake.create(name, table.schema)
            versions[name] = lake.lake.replace_partitions(
                name, table, lake.commit(context, name, read), where="true"
            )
        fortnights = [w for w in windows if w["window_kind"] == monitoring.FORTNIGHT]
        limit = use_case.criteria.alarm_bias
        alarm = monitoring.calibration_alarm(windows, limit=limit)
        newest = fortnights[-1] if fortnights else {}
        yield dg.MaterializeResult(
            asset_key=performance,
            metadata={
                "table": f"monitor/{use_case.name}/performance@v{versions['/'.join(performance.path)]}",
                "windows": len(windows),
                **{
                    f"newest_{name}": newest[name]
                    for name in ("rows", "auc", "log_loss", "bias")
                    if newest.get(name)
                },
                "report": inline_png(
                    plots.monitor(fortnights, title=f"{use_case.title}: 14-day windows", alarm_bias=limit)
                )
                if fortnights
                else dg.MetadataValue.text("no window has a score yet"),
            },
        )
        yield dg.MaterializeResult(
            asset_key=drift,
            metadata={
                "table": f"monitor/{use_case.name}/feature_drift@v{versions['/'.join(drift.path)]}",
                "rows": made.features.num_rows,
            },
        )
        yield dg.AssetCheckResult(
            asset_key=performance,
            check_name=CHECK,
            passed=alarm is None,
            severity=dg.AssetCheckSeverity.WARN,
            description=alarm.reason if alarm else "the newest two complete windows are within the limit",
            metadata={"limit": limit},
        )

    return report


def _latency(use_case: UseCase, feeds: list[str]) -> dg.AssetsDefinition:
    name = f"{STAGE}/{use_case.name}/feed_latency"

    @dg.asset(
        key=dg.AssetKey(name.split("/")),
        group_name=STAGE,
        owners=[OWNER],
        kinds={"duckdb", "delta"},
        description="Per feed and month: how long after a fact was known it reached us (delivered_at − known_at). With "
        "files by the day this is most of a day: the short horizon needs a feed that comes as things happen.",
        deps=[dg.AssetKey(feed.split("/")) for feed in feeds],
        metadata=_columns(feed_latency.SCHEMA),
        pool="lake",
    )
    def latency(
        context: dg.AssetExecutionContext, lake: dg.ResourceParam[LakeResource]
    ) -> dg.MaterializeResult[None]:
        with lake.connect() as con:
            rows, inputs = feed_latency.measure(lake.lake, con, lake.settings.landing_root, feeds)
        lake.lake.create(name, rows.schema)
        version = lake.lake.replace_partitions(name, rows, lake.commit(context, name, inputs), where="true")
        return dg.MaterializeResult(metadata={"table": f"{name}@v{version}", "rows": rows.num_rows})

    return latency


def _outcomes(lake: LakeResource, use_case: UseCase) -> tuple[pa.Table, tuple[str, ...]]:
    """Scores with their vectors, joined with what came to be, both at pinned versions."""
    predictions, outcomes = (f"score/{use_case.name}/{name}" for name in ("predictions", "outcomes"))
    versions = {name: lake.lake.version(name) for name in (predictions, outcomes)}
    with lake.connect() as con:
        rows = con.execute(
            f"""SELECT p.*, o.* EXCLUDE (prediction_id, {use_case.entity_key}, {use_case.partition_column},
                                         {use_case.decision_column}, _written_at, _run_id)
                FROM {lake.lake.scan(predictions, versions[predictions])} AS p
                JOIN {lake.lake.scan(outcomes, versions[outcomes])} AS o USING (prediction_id)
                ORDER BY p.{use_case.decision_column}, p.{use_case.entity_key}"""
        ).to_arrow_table()
    return rows, tuple(f"{name}@v{version}" for name, version in versions.items())


def _columns(schema: pa.Schema) -> Any:
    return schema_metadata((field.name, *describe(field.name)) for field in schema)
