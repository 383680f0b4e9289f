"""model: the training set, the candidate that is learnt from it, and how it fares.

What belongs here: three assets per use case. What does not: how to split, fit, judge or register (contrail/).
"""

import hashlib
import json
from typing import Any

import dagster as dg

from contrail import criteria, evaluation, incremental, model_files, plots, provenance, registry, training
from contrail.evaluation import booleans
from contrail.lake import Lake
from contrail.settings import Settings
from contrail.use_case import UseCase
from feature_repo.use_cases import USE_CASES
from features.tables import FEATURE_TABLES
from resources.column_docs import describe
from resources.columns import schema_metadata
from resources.feature_store import FeatureStoreResource
from resources.lake import LakeResource
from resources.plots import inline_png
from resources.tracking import TrackingResource

STAGE = "model"
OWNER = "team:models"
SPINE = {"departures": "clean/departures"}


def build(settings: Settings) -> list[dg.AssetsDefinition]:
    """Training set, candidate and evaluation of every use case."""
    return [
        asset
        for use_case in USE_CASES.values()
        for asset in (_training_set(use_case), _candidate(settings, use_case))
    ]


def _training_set(use_case: UseCase) -> dg.AssetsDefinition:
    name = f"{STAGE}/{use_case.name}/training_set"

    @dg.asset(
        key=dg.AssetKey(name.split("/")),
        group_name=STAGE,
        description=(
            f"Training rows of {use_case.name}: key, decision time, label, when the label became known, and the "
            f"{len(use_case.features)} features as they were known at decision time."
        ),
        owners=[OWNER],
        kinds={"feast", "duckdb", "delta"},
        deps=[
            dg.AssetKey(["clean", "departures"]),
            dg.AssetKey(["feature_store", "registry"]),
            *_feature_keys(),
        ],
        metadata=schema_metadata((name, *describe(name)) for name in _training_columns(use_case)),
        pool="lake",
    )
    def training_set(
        context: dg.AssetExecutionContext,
        lake: dg.ResourceParam[LakeResource],
        feature_store: FeatureStoreResource,
    ) -> dg.MaterializeResult[None]:
        now = lake.clock.now()
        spine = (
            f"SELECT * FROM ({use_case.spine_sql})"
            f" WHERE {use_case.outcome_known_column} < TIMESTAMPTZ '{now.isoformat()}'"
        )
        with lake.connect() as con:
            tables = dict(zip(SPINE, incremental.pin(lake.lake, con, SPINE), strict=True))
            if con.sql(f"SELECT 1 FROM ({spine}) LIMIT 1").fetchone() is None:
                raise dg.Failure(f"{name}: no outcome is known yet", allow_retries=False)
        made = feature_store.write_historical(
            name,
            spine,
            use_case.feature_service,
            spine_tables=tables,
            order_by=[use_case.decision_column, use_case.entity_key],
            columns=_training_columns(use_case),
            commit=lake.commit(context, name, (), labels_until=now.isoformat()),
        )
        with lake.connect() as con:
            rate = con.sql(f"SELECT avg({use_case.label}::INTEGER) FROM {lake.lake.scan(name, made.version)}")
            (label_rate,) = rate.fetchone() or (None,)
        return dg.MaterializeResult(
            metadata={
                "table": f"{name}@v{made.version}",
                "rows": made.rows,
                "shards": made.shards,
                "label_rate": label_rate,
                "labels_until": now.isoformat(),
                "read": dg.MetadataValue.json(list(made.inputs)),
            }
        )

    return training_set


def _candidate(settings: Settings, use_case: UseCase) -> dg.AssetsDefinition:
    prefix = [STAGE, use_case.name]
    candidate, evaluated = dg.AssetKey([*prefix, "candidate"]), dg.AssetKey([*prefix, "evaluation"])

    @dg.multi_asset(
        name=f"{use_case.name}_candidate",
        specs=[
            dg.AssetSpec(
                candidate,
                deps=[dg.AssetKey([*prefix, "training_set"])],
                group_name=STAGE,
                owners=[OWNER],
                kinds={"lightgbm", "mlflow"},
                description=f"{use_case.title}: the model learnt from the training set. {use_case.description}",
            ),
            dg.AssetSpec(
                evaluated,
                deps=[candidate],
                group_name=STAGE,
                owners=[OWNER],
                kinds={"delta", "python"},
                description="Metrics of the candidate on validation and test days, by month and slice, beside the "
                "naive reference on the same rows.",
                metadata=schema_metadata((f.name, *describe(f.name)) for f in evaluation.EVALUATION_SCHEMA),
            ),
        ],
        check_specs=[
            dg.AssetCheckSpec(
                "criteria",
                asset=candidate,
                description="The promotion criteria, frozen before the fit, judged on the test days.",
            )
        ],
        pool="lake",
    )
    def train(
        context: dg.AssetExecutionContext,
        lake: dg.ResourceParam[LakeResource],
        tracking: dg.ResourceParam[TrackingResource],
    ) -> Any:
        yield from _train(context, settings, lake, tracking, use_case, candidate, evaluated)

    return train


def _train(
    context: dg.AssetExecutionContext,
    settings: Settings,
    lake: LakeResource,
    tracking: TrackingResource,
    use_case: UseCase,
    candidate: dg.AssetKey,
    evaluated: dg.AssetKey,
) -> Any:
    name = f"{STAGE}/{use_case.name}/training_set"
    version = lake.lake.version(name)
    reference = lake.lake.ref(name, version)
    with lake.connect() as con:
        rows = con.execute(f"SELECT * FROM {lake.lake.scan(name, version)}").to_arrow_table()
    split = training.split_rows(rows, use_case, labels_until=lake.clock.now())
    parameters = training.lightgbm_parameters(
        use_case, rows=len(split.rows["train"]), threads=settings.model_threads
    )
    run = tracking.start(
        use_case,
        split,
        training_set=reference,
        training_set_hash=lake.lake.snapshot_sha256(name, version),
        parameters=parameters,
        tags={"dagster.run_id": context.run.run_id} | _data_tags(lake.lake, name, version),
    )
    with tracking.failing(run):
        model = training.fit(rows, split, use_case, threads=settings.model_threads)
        found, images = _evaluate(rows, split, model, use_case)
        lineage = model_files.Lineage(
            training_set=reference,
            run_id=context.run.run_id,
            tracking_run_id=run.run_id,
            git_sha=provenance.recorded_git_sha(settings),
            lock_sha256=provenance.lock_sha256(),
        )
        folder = model_files.write(model, use_case, lineage, settings.lake_root)
        report_text = json.dumps(evaluation.evaluation_table(found).to_pylist(), default=str).encode()
        tracked = tracking.finish(
            run,
            model,
            use_case,
            model_folder=folder,
            evaluation_id=hashlib.sha256(report_text).hexdigest(),
            metrics=evaluation.flat_metrics(found),
            files={"evaluation.json": report_text}
            | {f"plots/{name}": image for name, image in images.items()},
        )
    registered = registry.register(
        use_case.name,
        model.sha256,
        lake.lake,
        decided_at=lake.clock.now(),
        decided_by=f"run {context.run.run_id}",
        reason="trained",
        commit=lake.commit(context, registry.TABLE, [reference, f"model:{model.sha256}"]),
    )
    tracking.reconcile(use_case.name, lake.lake)
    table = f"{STAGE}/{use_case.name}/evaluation"
    report = evaluation.evaluation_table(found)
    lake.lake.create(table, report.schema)
    report_version = lake.lake.replace_partitions(
        table, report, lake.commit(context, table, [reference, f"model:{model.sha256}"]), where="true"
    )
    test = next(g for g in found if g.part == "test" and g.kind == "all")
    yield dg.MaterializeResult(
        asset_key=candidate,
        metadata={
            "model_version": registered.version,
            "role": registered.role,
            "model_sha256": model.sha256,
            "training_set": reference,
            "test_auc": test.model.auc,
            "test_log_loss": test.model.log_loss,
            "test_bias": test.model.bias,
            "naive_test_auc": test.naive.auc,
            "train_rows": model.train_rows,
            "dropped_rows": model.dropped_rows,
            "mlflow_run": dg.MetadataValue.url(tracked.url),
            "importance": inline_png(images["importance.png"]),
            "calibration": inline_png(images["calibration.png"]),
        },
    )
    yield dg.MaterializeResult(
        asset_key=evaluated,
        metadata={
            "table": f"{table}@v{report_version}",
            "rows": report.num_rows,
            "ranking": inline_png(images["ranking.png"]),
            "mlflow_run": dg.MetadataValue.url(tracked.url),
        },
    )
    verdicts = criteria.judge(found, use_case)
    unmet = [v for v in verdicts if not v.met]
    yield dg.AssetCheckResult(
        asset_key=candidate,
        check_name="criteria",
        passed=not unmet,
        severity=dg.AssetCheckSeverity.WARN,
        description="; ".join(f"{v.criterion}: {v.value:.4f}, limit {v.limit}" for v in unmet)
        or "all criteria met",
        metadata={v.criterion: v.value for v in verdicts},
    )


def _evaluate(
    rows: Any, split: training.Split, model: training.TrainedModel, use_case: UseCase
) -> tuple[list[evaluation.GroupMetrics], dict[str, bytes]]:
    import pyarrow as pa

    found: list[evaluation.GroupMetrics] = []
    images: dict[str, bytes] = {}
    for part in ("validate", "test"):
        chosen = rows.take(pa.array(split.rows[part]))
        if chosen.num_rows == 0:
            continue
        scores = model.predict(chosen)
        found += evaluation.evaluate(chosen, scores, model.naive, use_case, part=part)
        if part == "test":
            labels, naive = booleans(chosen, use_case.label), model.naive.predict(chosen)
            title = f"{use_case.title}, {chosen.num_rows:,} test rows"
            images["calibration.png"] = plots.calibration(labels, scores, title=title)
            images["ranking.png"] = plots.ranking(labels, scores, naive, title=title)
    images["importance.png"] = plots.importance(
        model.gains, title=f"{use_case.title}: what the trees split on"
    )
    return found, images


def _data_tags(lake: Lake, name: str, version: int) -> dict[str, str]:
    """The versions that the training set was made of, as tags of the tracking run."""
    record = next(r for r in lake.commits(name) if r.version == version)
    return {f"data.{i.rpartition('@v')[0].replace('/', '.')}": i for i in record.inputs}


def _feature_keys() -> list[dg.AssetKey]:
    return [dg.AssetKey(["feature", name]) for name in FEATURE_TABLES]


def _training_columns(use_case: UseCase) -> list[str]:
    """Keys, times, label, groups and features; what is personal served its joins and is left behind."""
    named = dict.fromkeys((*use_case.spine_columns, *use_case.features))
    return [name for name in named if name not in use_case.personal]
