"""model: the training set, the candidate that is learnt from it, and how it fares.

What belongs here: four assets per use case and the checks of the candidate. What does not: how to split, fit, judge or
register (contrail/, resources/candidates.py).
"""

import math
from collections.abc import Iterator
from typing import Any

import dagster as dg

from contrail import backtest, evaluation, incremental, plots_groups
from contrail.leakage import FEATURES_KNOWN_AT
from contrail.settings import Settings
from contrail.use_case import UseCase
from feature_repo.use_cases import USE_CASES
from features.tables import FEATURE_TABLES
from resources import candidates
from resources.candidates import Made
from resources.column_docs import describe
from resources.columns import schema_metadata
from resources.feature_code import require_own_code
from resources.feature_store import FeatureStoreResource
from resources.lake import LakeResource
from resources.plots import inline_png
from resources.tracking import TrackingResource

STAGE = "model"
OWNER = "team:models"
SPINE = {"departures": "clean/departures"}


# What the criteria say, in the order in which people ask.
CHECKS = {
    "leakage": "Nothing in any training vector was known after its decision, no label after its part's cut.",
    "performance": "Better than the naive reference on the test days by what was demanded, and not suspiciously so.",
    "calibration": "Mean score against label rate, and calibration error, on the test days.",
    "slices": "Mean score against label rate on every slice that is large enough.",
    "backtest": "Better than the naive reference in the worst month of the rolling backtest.",
    "champion": "Better than the champion on the same days, and on no large slice significantly worse.",
    "latency": "CPU of one score of one row.",
    "parity": "The online store was found equal to the offline tables.",
}
CHECK_OF = {
    "leakage": "leakage",
    "min_log_loss_gain": "performance",
    "min_auc_gain": "performance",
    "max_auc": "performance",
    "max_bias": "calibration",
    "max_calibration_error": "calibration",
    "max_slice_bias": "slices",
    "min_backtest_gain": "backtest",
    "champion": "champion",
    "champion_slices": "champion",
    "max_predict_milliseconds": "latency",
    "parity": "parity",
}
NOTHING_TO_COMPARE = "there is nothing to compare with yet"
EVALUATION_PLOTS = ("slices", "calibration", "precision_recall", "ranking", "backtest")


def build(settings: Settings) -> list[dg.AssetsDefinition]:
    """Training set, backtest, candidate and evaluation of every use case."""
    del settings
    return [
        asset
        for use_case in USE_CASES.values()
        for asset in (_training_set(use_case), _backtest(use_case), _candidate(use_case))
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
        metadata=schema_metadata(
            (name, *describe(name)) for name in (*_training_columns(use_case), FEATURES_KNOWN_AT)
        ),
        pool="lake",
    )
    def training_set(
        context: dg.AssetExecutionContext,
        lake: dg.ResourceParam[LakeResource],
        feature_store: FeatureStoreResource,
    ) -> dg.MaterializeResult[None]:
        require_own_code(lake.lake, use_case.feature_code())
        now = lake.clock.now()
        spine = (
            f"SELECT * FROM ({use_case.spine_sql})"
            f" WHERE {use_case.outcome_known_column} < TIMESTAMPTZ '{now.isoformat()}'"
        )
        if (
            use_case.request_known_column
        ):  # what nobody could have asked at its decision teaches nothing honest
            spine += f" AND {use_case.request_known_column} <= {use_case.decision_column}"
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
            known_at_column=FEATURES_KNOWN_AT,
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


def _backtest(use_case: UseCase) -> dg.AssetsDefinition:
    name = f"{STAGE}/{use_case.name}/backtest"

    @dg.asset(
        key=dg.AssetKey(name.split("/")),
        group_name=STAGE,
        description=f"{use_case.title}: each month scored by a model that was trained on all months before it, beside "
        "the naive reference.",
        owners=[OWNER],
        kinds={"lightgbm", "delta"},
        deps=[dg.AssetKey([STAGE, use_case.name, "training_set"])],
        metadata=schema_metadata((f.name, *describe(f.name)) for f in backtest.SCHEMA),
        pool="lake",
    )
    def rolling(
        context: dg.AssetExecutionContext, lake: dg.ResourceParam[LakeResource]
    ) -> dg.MaterializeResult[None]:
        reference, rows = candidates.training_rows(lake, use_case)
        months = backtest.backtest(
            rows,
            use_case,
            labels_until=lake.clock.now(),
            threads=lake.settings.model_threads,
            progress=context.log.info,
        )
        lake.lake.create(name, months.schema)
        version = lake.lake.replace_partitions(
            name,
            months,
            lake.commit(context, name, [reference], declared=backtest.declared(use_case)),
            where="true",
        )
        picture = plots_groups.backtest(months, title=f"{use_case.title}: trained before each month")
        return dg.MaterializeResult(
            metadata={
                "table": f"{name}@v{version}",
                "training_set": reference,
                "months": months.num_rows,
                **({"plot": inline_png(picture)} if months.num_rows else {}),
            }
        )

    return rolling


def _candidate(use_case: UseCase) -> dg.AssetsDefinition:
    prefix = [STAGE, use_case.name]
    candidate, evaluated = dg.AssetKey([*prefix, "candidate"]), dg.AssetKey([*prefix, "evaluation"])

    @dg.multi_asset(
        name=f"{use_case.name}_candidate",
        specs=[
            dg.AssetSpec(
                candidate,
                deps=[dg.AssetKey([*prefix, "training_set"]), dg.AssetKey([*prefix, "backtest"])],
                group_name=STAGE,
                owners=[OWNER],
                kinds={"lightgbm", "mlflow"},
                description=f"{use_case.title}: the model learnt from the training set, examined and registered. "
                f"{use_case.description}",
            ),
            dg.AssetSpec(
                evaluated,
                deps=[candidate],
                group_name=STAGE,
                owners=[OWNER],
                kinds={"delta", "python"},
                description="Metrics of the candidate on validation and test days, by month and slice, with intervals, "
                "beside the naive reference and a logistic regression on the same rows.",
                metadata=schema_metadata((f.name, *describe(f.name)) for f in evaluation.EVALUATION_SCHEMA),
            ),
        ],
        check_specs=[
            dg.AssetCheckSpec(name, asset=candidate, description=words) for name, words in CHECKS.items()
        ],
        pool="lake",
    )
    def train(
        context: dg.AssetExecutionContext,
        lake: dg.ResourceParam[LakeResource],
        tracking: dg.ResourceParam[TrackingResource],
    ) -> Any:
        made = candidates.make(context, lake, tracking, use_case)
        table = f"{STAGE}/{use_case.name}/evaluation"
        report = evaluation.evaluation_table(made.examined.groups)
        lake.lake.create(table, report.schema)
        version = lake.lake.replace_partitions(
            table,
            report,
            lake.commit(context, table, [made.training_set, f"model:{made.model.sha256}"]),
            where="true",
        )
        yield dg.MaterializeResult(asset_key=candidate, metadata=_candidate_metadata(made))
        yield dg.MaterializeResult(
            asset_key=evaluated,
            metadata={"table": f"{table}@v{version}", "rows": report.num_rows} | _pictures(made),
        )
        yield from _check_results(made, candidate)

    return train


def _candidate_metadata(made: Made) -> dict[str, Any]:
    test, version = made.examined.test, made.version
    return {
        "model_card": dg.MetadataValue.md(made.card),
        "model_version": version.version,
        "role": version.role,
        "promotion": made.asked,
        "model_sha256": made.model.sha256,
        "evaluation_id": version.evaluation_id,
        "training_set": made.training_set,
        "test_auc": test.model.auc,
        "test_log_loss": test.model.log_loss,
        "test_bias": test.model.bias,
        "naive_test_auc": test.naive.auc,
        "train_rows": made.model.train_rows,
        "dropped_rows": made.model.dropped_rows,
        "mlflow_run": dg.MetadataValue.url(made.tracked.url),
        **({"remarks": "; ".join(made.remarks)} if made.remarks else {}),
    }


def _pictures(made: Made) -> dict[str, Any]:
    there = made.examined.pictures
    return {n: inline_png(there[f"{n}.png"]) for n in EVALUATION_PLOTS if f"{n}.png" in there}


def _check_results(made: Made, candidate: dg.AssetKey) -> Iterator[dg.AssetCheckResult]:
    """One result per check, from the verdicts that belong to it; a criterion nobody named fails loudly."""
    verdicts = made.examined.evidence.verdicts
    for check in CHECKS:
        its = [v for v in verdicts if CHECK_OF[v.criterion] == check]
        unmet = [v for v in its if not v.met]
        yield dg.AssetCheckResult(
            asset_key=candidate,
            check_name=check,
            passed=not unmet,
            severity=dg.AssetCheckSeverity.WARN,
            description="; ".join(v.in_words for v in unmet or its) or NOTHING_TO_COMPARE,
            metadata={v.criterion: v.value for v in its if math.isfinite(v.value)},
        )


def _feature_keys() -> list[dg.AssetKey]:
    return [dg.AssetKey(["feature", name]) for name in FEATURE_TABLES]


def _training_columns(use_case: UseCase) -> list[str]:
    """Keys, times, label, groups and features; what is personal served its joins and is left behind."""
    named = dict.fromkeys((*use_case.spine_columns, *use_case.features))
    return [name for name in named if name not in use_case.personal]
