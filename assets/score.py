"""score: predictions of every decided row, and what came to be of them.

What belongs here: two daily assets per use case. What does not: how a score is made (contrail/scoring.py).
"""

from collections.abc import Sequence

import dagster as dg
import duckdb
import pyarrow as pa
import pyarrow.compute as pc

from contrail import decisions, evidence, incremental, model_files, outcomes, registry, scoring
from contrail.model_files import LoadedModel
from contrail.registry import ModelVersion
from contrail.settings import Settings
from contrail.use_case import UseCase
from feature_repo.use_cases import USE_CASES
from resources.column_docs import describe
from resources.columns import schema_metadata
from resources.feature_store import FeatureStoreResource
from resources.lake import LakeResource
from resources.partitions import daily_partitions

STAGE = "score"
OWNER = "team:models"
SPINE_VIEW, SPINE_TABLE = "departures", "clean/departures"


def build(settings: Settings) -> list[dg.AssetsDefinition]:
    """Predictions and outcomes of every use case, daily."""
    daily = daily_partitions(settings)
    return [
        asset
        for use_case in USE_CASES.values()
        for asset in (_predictions(use_case, daily), _outcomes(use_case, daily))
    ]


def _predictions(use_case: UseCase, daily: dg.DailyPartitionsDefinition) -> dg.AssetsDefinition:
    name = f"{STAGE}/{use_case.name}/predictions"

    @dg.asset(
        key=dg.AssetKey(name.split("/")),
        group_name=STAGE,
        description=(
            f"{use_case.title}: one score per row that was decided after the model's training range, with the vector "
            "it was made from and the model that made it. A rerun of a day uses the model that scored it."
        ),
        owners=[OWNER],
        kinds={"lightgbm", "delta"},
        partitions_def=daily,
        backfill_policy=dg.BackfillPolicy.single_run(),
        deps=[
            dg.AssetKey(["clean", "departures"]),
            dg.AssetKey(["feature_store", "registry"]),
            dg.AssetKey(["model", use_case.name, "candidate"]),
        ],
        metadata=schema_metadata((f.name, *describe(f.name)) for f in scoring.score_schema(use_case)),
        pool="lake",
    )
    def predictions(
        context: dg.AssetExecutionContext,
        lake: dg.ResourceParam[LakeResource],
        feature_store: FeatureStoreResource,
    ) -> dg.MaterializeResult[None]:
        if not (checked := decisions.verify(lake.lake)).holds:
            raise dg.Failure(
                f"who is champion is not sure: {decisions.TABLE} does not hold, {checked.why}: contrail audit verify",
                allow_retries=False,
            )
        history = registry.decisions(lake.lake, use_case.name)
        champion = registry.champion_in(history)
        if champion is None:
            return dg.MaterializeResult(
                metadata={"scored": 0, "note": "there is no champion yet: nothing was scored"}
            )
        until = lake.complete_until().until
        if until is None:
            raise dg.Failure(
                "the feeds have nothing yet: no decision lies before their end", allow_retries=False
            )
        days = sorted(context.partition_keys)
        spine, inputs = _spine(lake, use_case, days)
        lake.lake.create(name, scoring.score_schema(use_case), partition_by=[use_case.partition_column])
        scored = _scored(lake, name, use_case, days)
        versions = {v.sha256: v for v in registry.versions_in(history)}
        model = _load(lake, use_case, versions[champion.sha256])
        work = scoring.assign(spine, use_case, model=model, complete_until=until, scored=scored)
        made: list[pa.Table] = []
        read = list(inputs)
        for sha256, rows in work.items():
            vectors, tables = feature_store.historical(rows, use_case.feature_service)
            its = model if sha256 == model.sha256 else _load(lake, use_case, versions[sha256])
            made.append(scoring.score(its, vectors, use_case, version=versions[sha256].version))
            read += [f"model:{sha256}", *(f"{table}@v{version}" for table, version in tables.items())]
        result = pa.concat_tables(made) if made else scoring.score_schema(use_case).empty_table()
        version = lake.lake.replace_partitions(
            name, result, lake.commit(context, name, read, _range(days)), where=_where(use_case, days)
        )
        _add_row_counts(context, result, use_case, days)
        return dg.MaterializeResult(
            metadata={
                "table": f"{name}@v{version}",
                "scored": result.num_rows,
                "models": ", ".join(f"v{versions[sha].version} {sha[:12]}" for sha in work),
                "mean_score": _mean(result),
            }
        )

    return predictions


def _outcomes(use_case: UseCase, daily: dg.DailyPartitionsDefinition) -> dg.AssetsDefinition:
    name, predictions = f"{STAGE}/{use_case.name}/outcomes", f"{STAGE}/{use_case.name}/predictions"
    columns = (
        "prediction_id", use_case.entity_key, use_case.partition_column, use_case.decision_column,
        *outcomes.outcome_columns(use_case),
    )  # fmt: skip

    @dg.asset(
        key=dg.AssetKey(name.split("/")),
        group_name=STAGE,
        description=f"{use_case.title}: the label of each prediction and when it became known; null while unknown.",
        owners=[OWNER],
        kinds={"duckdb", "delta"},
        partitions_def=daily,
        backfill_policy=dg.BackfillPolicy.single_run(),
        deps=[dg.AssetKey(predictions.split("/")), dg.AssetKey(["clean", "departures"])],
        metadata=schema_metadata((column, *describe(column)) for column in columns),
        pool="lake",
    )
    def outcome_rows(
        context: dg.AssetExecutionContext, lake: dg.ResourceParam[LakeResource]
    ) -> dg.MaterializeResult[None]:
        if not lake.lake.exists(predictions):
            return dg.MaterializeResult(metadata={"rows": 0, "note": "nothing has been scored yet"})
        days = sorted(context.partition_keys)
        with lake.connect() as con:
            scored = lake.lake.version(predictions)
            inputs = [*_pin_days(lake, con, use_case, days), lake.lake.ref(predictions, scored)]
            rows = outcomes.outcomes(
                con, use_case, predictions=lake.lake.scan(predictions, scored), days=days
            ).to_arrow_table()
        lake.lake.create(name, rows.schema, partition_by=[use_case.partition_column])
        version = lake.lake.replace_partitions(
            name, rows, lake.commit(context, name, inputs, _range(days)), where=_where(use_case, days)
        )
        known = rows.num_rows - rows.column(use_case.label).null_count
        _add_row_counts(context, rows, use_case, days)
        return dg.MaterializeResult(
            metadata={"table": f"{name}@v{version}", "rows": rows.num_rows, "outcomes_known": known}
        )

    return outcome_rows


def _load(lake: LakeResource, use_case: UseCase, version: ModelVersion) -> LoadedModel:
    """A model whose files are those that were examined, and whose features still mean what they did."""
    root = lake.settings.lake_root
    model = model_files.load(root, version.sha256, feature_code=use_case.feature_code())
    if version.evaluation_id:
        evidence.require_files(root, version.sha256, version.evaluation_id, model.manifest["files"])
    return model


def _spine(lake: LakeResource, use_case: UseCase, days: Sequence[str]) -> tuple[pa.Table, tuple[str, ...]]:
    with lake.connect() as con:
        inputs = _pin_days(lake, con, use_case, days)
        return con.sql(use_case.spine_sql).to_arrow_table(), inputs


def _pin_days(
    lake: LakeResource, con: duckdb.DuckDBPyConnection, use_case: UseCase, days: Sequence[str]
) -> tuple[str, ...]:
    """The spine's view over these days only: what a day's scores need is in its own partition."""
    inputs = incremental.pin(lake.lake, con, {SPINE_VIEW: SPINE_TABLE})
    version = int(inputs[0].rpartition("@v")[2])
    con.execute(
        f"CREATE OR REPLACE VIEW {SPINE_VIEW} AS SELECT * FROM {lake.lake.scan(SPINE_TABLE, version)}"
        f" WHERE {_where(use_case, days)}"
    )
    return inputs


def _scored(lake: LakeResource, name: str, use_case: UseCase, days: Sequence[str]) -> pa.Table:
    with lake.connect() as con:
        return con.execute(
            f"SELECT {use_case.entity_key}, model_sha256 FROM {lake.lake.scan(name)} WHERE {_where(use_case, days)}"
        ).to_arrow_table()


def _where(use_case: UseCase, days: Sequence[str]) -> str:
    return f"{use_case.partition_column} IN ({', '.join(repr(day) for day in days)})"


def _range(days: Sequence[str]) -> str:
    return days[0] if len(days) == 1 else f"{days[0]}..{days[-1]}"


def _mean(rows: pa.Table) -> float | None:
    return pc.mean(rows.column("score")).as_py() if rows.num_rows else None


def _add_row_counts(
    context: dg.AssetExecutionContext, rows: pa.Table, use_case: UseCase, days: Sequence[str]
) -> None:
    counted = dict.fromkeys(days, 0)
    for entry in rows.column(use_case.partition_column).value_counts().to_pylist():
        counted[entry["values"].isoformat()] = entry["counts"]
    for day, count in counted.items():
        context.add_asset_metadata({"dagster/partition_row_count": count}, partition_key=day)
