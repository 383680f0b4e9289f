"""The peer's graph: the same stack wired the ordinary way, one Dagster run per day, a process per asset.

Raw: pandas reads the day's file, Great Expectations validates the frame, deltalake writes the day. Clean: this
project's dbt models through dagster-dbt's ``.cli()``. Feature: this project's builders (DuckDB SQL) over the day, one
asset per table. Score: the day's vectors from Feast's DuckDB store, the finished model, deltalake.

It is spared: quarantine, provenance beyond the day's file, rules that are SQL conditions, retrieval of history (its
tables hold the sampled days only, so its windows are short), and every stage that does not run by day. Each asset
leaves a note of its CPU in ``<home>/cost``. What it reads is named by ``<home>/peer.json``, which bench_graph writes.
"""

import json
import resource
import sys
from collections.abc import Generator, Mapping
from contextlib import contextmanager
from datetime import UTC, date, datetime, timedelta
from importlib import import_module
from pathlib import Path
from typing import Any

import dagster as dg
from dagster_dbt import DagsterDbtTranslator, DbtCliResource, dbt_assets
from deltalake import write_deltalake

from contrail.contracts import Contract, load_contracts
from contrail.settings import Settings
from features.tables import FEATURE_TABLES, FeatureTable

SETTINGS = Settings()
PEER: dict[str, Any] = json.loads((SETTINGS.home / "peer.json").read_text())
SOURCE = Settings(home=Path(PEER["source"]))
DAYS = dg.DailyPartitionsDefinition(start_date=PEER["first"])
CONTRACTS = {
    name: contract
    for name, contract in load_contracts(SETTINGS.repo_root / "contracts").items()
    if contract.partition_column
}
DBT_PROJECT = SETTINGS.home / "dbt_project"
DBT = str(Path(sys.executable).with_name("dbt"))
DBT_MODELS = "departure_facts departure_times time_zone_patches departures weather quarantine_departures"


@contextmanager
def costed(stage: str, name: str, day: str) -> Generator[None]:
    """Note what the block took, and what the process and its children took until its end, imports included."""
    work = _cpu()
    yield
    folder = SETTINGS.home / "cost" / day
    folder.mkdir(parents=True, exist_ok=True)
    note = {"stage": stage, "name": name, "work": _cpu() - work, "process": _cpu()}
    (folder / f"{stage}-{name}.json").write_text(json.dumps(note))


def raw_asset(contract: Contract) -> dg.AssetsDefinition:
    """One daily raw table."""

    @dg.asset(key=["raw", contract.table], partitions_def=DAYS)
    def raw_table(context: dg.AssetExecutionContext) -> dg.MaterializeResult[Any]:
        import pandas as pd
        import pyarrow as pa

        from benchmarks.ordinary.gx_pandas import GxOnPandas, for_pandas, read_frame
        from contrail import landing
        from contrail.contracts import raw_schema

        warm_imports("great_expectations")
        day = context.partition_key
        with costed("raw", contract.table, day):
            (delivery,) = landing.deliveries(SOURCE.landing_root, contract.table, {day})
            frame = read_frame(contract, delivery.path)
            is_valid = GxOnPandas(for_pandas(contract)).validate(frame)
            frame[contract.partition_column] = pd.Timestamp(day)
            frame["created_at"] = frame["known_at"]
            frame["is_retracted"] = False
            frame["_source_file"], frame["_source_sha256"] = delivery.path.name, delivery.sha256
            frame["_source_row"] = range(1, len(frame) + 1)
            frame["_raw_id"] = delivery.sha256 + ":" + frame["_source_row"].astype(str)
            write_day(
                f"raw/{contract.table}",
                pa.Table.from_pandas(frame, schema=raw_schema(contract), preserve_index=False),
                str(contract.partition_column),
                day,
            )
        return dg.MaterializeResult(metadata={"rows": len(frame), "valid": is_valid})

    return raw_table


class StageKeys(DagsterDbtTranslator):
    """Schema and alias as the asset key."""

    def get_asset_key(self, dbt_resource_props: Mapping[str, Any]) -> dg.AssetKey:
        if dbt_resource_props["resource_type"] == "source":
            return dg.AssetKey([dbt_resource_props["source_name"], dbt_resource_props["name"]])
        return dg.AssetKey([dbt_resource_props["schema"], dbt_resource_props["alias"]])


@dbt_assets(
    manifest=DBT_PROJECT / "target" / "manifest.json",
    select=DBT_MODELS,
    partitions_def=DAYS,
    dagster_dbt_translator=StageKeys(),
)
def clean(context: dg.AssetExecutionContext, dbt: DbtCliResource) -> Any:
    """The daily clean tables; the models take the day from the range of what has landed."""
    with costed("clean", "dbt", context.partition_key):
        yield from dbt.cli(["build"], context=context).stream()


def feature_asset(table: FeatureTable) -> dg.AssetsDefinition:
    """One day of a feature table."""

    @dg.asset(
        key=["feature", table.name],
        partitions_def=DAYS,
        deps=[dg.AssetKey(source.split("/")) for source in table.sources],
    )
    def feature_table(context: dg.AssetExecutionContext) -> dg.MaterializeResult[Any]:
        from contrail import duck, incremental
        from contrail.lake import Lake

        day = context.partition_key
        with costed("feature", table.name, day):
            lo = datetime.combine(date.fromisoformat(day), datetime.min.time(), UTC)
            sources = {source.rpartition("/")[2]: source for source in table.sources}
            with duck.connect(threads=SETTINGS.threads) as con:
                incremental.pin(Lake(SETTINGS.lake_root), con, sources)
                rows = table.build(con, lo, lo + timedelta(days=1)).to_arrow_table()
            write_deltalake(str(SETTINGS.lake_root / "feature" / table.name), rows, mode="append")
        return dg.MaterializeResult(metadata={"rows": rows.num_rows})

    return feature_table


@dg.asset(
    key=["score", "predictions"],
    partitions_def=DAYS,
    deps=[dg.AssetKey(["feature", name]) for name in FEATURE_TABLES],
)
def predictions(context: dg.AssetExecutionContext) -> dg.MaterializeResult[Any]:
    """The day's scores, by the finished home's model and feature tables."""
    import pyarrow as pa

    from benchmarks.ordinary import feast_duckdb
    from contrail import model_files, registry
    from contrail.lake import Lake
    from feature_repo.use_cases import LATE_FLIGHT_2H

    warm_imports("feast", "ibis", "lightgbm")
    day = context.partition_key
    with costed("score", "predictions", day):
        use_case = LATE_FLIGHT_2H
        champion = registry.champion(use_case.name, Lake(SOURCE.lake_root))
        if champion is None:
            raise dg.Failure(f"there is no champion in {SOURCE.lake_root}")
        model = model_files.load(SOURCE.lake_root, champion.sha256)
        rows = feast_duckdb.spine(SETTINGS, f"WHERE {use_case.partition_column} = DATE '{day}'")
        frame = feast_duckdb.vectors(feast_duckdb.store(SOURCE, SETTINGS.home), rows)
        vectors = pa.Table.from_pandas(frame[list(use_case.features)], preserve_index=False)
        scores = model.booster.predict(model.encoding.matrix(vectors), num_threads=1)
        write_deltalake(
            str(SETTINGS.lake_root / "score" / "predictions"),
            pa.table({use_case.entity_key: pa.array(frame[use_case.entity_key]), "score": pa.array(scores)}),
            mode="append",
        )
    return dg.MaterializeResult(metadata={"rows": len(frame)})


def warm_imports(*modules: str) -> None:
    """Import what the work needs before the work is timed."""
    for name in modules:
        import_module(name)


def write_day(table: str, rows: Any, column: str, day: str) -> None:
    """Replace a day of a Delta table, or create the table with it."""
    path = SETTINGS.lake_root / table
    replacing = (path / "_delta_log").exists()
    write_deltalake(
        str(path),
        rows,
        mode="overwrite",
        partition_by=None if replacing else [column],
        predicate=f"{column} = '{day}'" if replacing else None,
    )


def _cpu() -> float:
    used = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    return sum(one.ru_utime + one.ru_stime for one in used)


_assets: list[Any] = [
    *map(raw_asset, CONTRACTS.values()),
    clean,
    *map(feature_asset, FEATURE_TABLES.values()),
]
defs = dg.Definitions(
    assets=[*_assets, predictions] if PEER["has_feast"] else _assets,
    resources={
        "dbt": DbtCliResource(project_dir=str(DBT_PROJECT), profiles_dir=str(DBT_PROJECT), dbt_executable=DBT)
    },
    executor=dg.multiprocess_executor,
)
