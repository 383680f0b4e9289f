"""clean: one row per thing, in UTC, with its own known-at for each fact; made by dbt on DuckDB, Delta in and out.

What belongs here: dbt's models as assets, their tests as checks. What does not: how a row is made (dbt_project/).
"""

import json
from collections.abc import Iterator, Mapping
from datetime import date
from typing import Any

import dagster as dg

# The models are assets of the graph: loading it needs their decorator.
from dagster_dbt import DagsterDbtTranslator, DagsterDbtTranslatorSettings, dbt_assets  # noqa: TID253

from contrail import landing
from contrail.settings import Settings
from resources.columns import schema_metadata
from resources.lake import LakeResource
from resources.partitions import daily_partitions, partition_days

STAGE = "clean"
OWNER = "team:lake"

# How far a service date reads its daily sources: (days before, days after). The evening before brings its first
# assignments; an aircraft that leaves a day late may land two feed days later.
READS_DAYS = {"aircraft_assignments": (-1, 1), "flight_events": (-1, 2)}


class StageTranslator(DagsterDbtTranslator):
    """dbt's names in the project's: schema/alias is stage/table; sources are the raw assets."""

    def __init__(self) -> None:
        super().__init__(
            settings=DagsterDbtTranslatorSettings(enable_asset_checks=True, enable_code_references=False)
        )

    def get_asset_key(self, dbt_resource_props: Mapping[str, Any]) -> dg.AssetKey:
        if dbt_resource_props["resource_type"] == "source":
            return dg.AssetKey([dbt_resource_props["source_name"], dbt_resource_props["name"]])
        return dg.AssetKey([dbt_resource_props["schema"], dbt_resource_props["alias"]])

    def get_group_name(self, dbt_resource_props: Mapping[str, Any]) -> str | None:
        return None if dbt_resource_props["resource_type"] == "source" else str(dbt_resource_props["schema"])

    def get_owners(self, dbt_resource_props: Mapping[str, Any]) -> list[str]:
        return [OWNER]

    def get_description(self, dbt_resource_props: Mapping[str, Any]) -> str:
        return str(dbt_resource_props.get("description", ""))

    def get_metadata(self, dbt_resource_props: Mapping[str, Any]) -> Mapping[str, Any]:
        columns = dbt_resource_props.get("columns", {}).values()
        return schema_metadata(
            (c["name"], c.get("data_type") or "", c.get("description", ""), _unit(c)) for c in columns
        )

    def get_partition_mapping(
        self, dbt_resource_props: Mapping[str, Any], dbt_parent_resource_props: Mapping[str, Any]
    ) -> dg.PartitionMapping | None:
        reads = READS_DAYS.get(dbt_parent_resource_props["name"])
        if reads is None or not _is_daily(dbt_resource_props):
            return None
        return dg.TimeWindowPartitionMapping(
            start_offset=reads[0], end_offset=reads[1], allow_nonexistent_upstream_partitions=True
        )


def build(settings: Settings) -> list[dg.AssetsDefinition]:
    """The daily models and the reference models."""
    path = settings.dbt_target / "manifest.json"
    if not path.is_file():
        raise FileNotFoundError(f"{path} does not exist: make setup parses the dbt project")
    manifest: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    models = [node for node in manifest["nodes"].values() if node["resource_type"] == "model"]
    for node in models:
        if node["schema"] not in (STAGE, "quarantine"):
            # Tables of one invocation's memory: to the graph they are what dbt calls ephemeral.
            node["config"]["materialized"] = "ephemeral"
    clean = [node for node in models if node["schema"] == STAGE]
    stored = [node["name"] for node in models if node["schema"] in (STAGE, "quarantine")]
    daily = [node["name"] for node in clean if _is_daily(node)]
    reference = [node["name"] for node in clean if not _is_daily(node)]
    return [
        _models(settings, manifest, "clean_daily", daily, stored, daily_partitions(settings)),
        _models(settings, manifest, "clean_reference", reference, stored, None),
    ]


def _models(
    settings: Settings,
    manifest: Mapping[str, Any],
    name: str,
    models: list[str],
    stored: list[str],
    partitions: dg.PartitionsDefinition[str] | None,
) -> dg.AssetsDefinition:
    @dbt_assets(
        manifest=manifest,
        select=" ".join(models),
        name=name,
        partitions_def=partitions,
        backfill_policy=dg.BackfillPolicy.single_run() if partitions else None,
        dagster_dbt_translator=StageTranslator(),
        pool="lake",
    )
    def dbt_models(
        context: dg.AssetExecutionContext, lake: dg.ResourceParam[LakeResource]
    ) -> Iterator[dg.MaterializeResult[None] | dg.AssetCheckResult]:
        yield from _build_models(context, settings, lake, stored, is_daily=partitions is not None)

    return dbt_models


def _build_models(
    context: dg.AssetExecutionContext,
    settings: Settings,
    lake: LakeResource,
    stored: list[str],
    *,
    is_daily: bool,
) -> Iterator[dg.MaterializeResult[None] | dg.AssetCheckResult]:
    from contrail.dbt_runner import BuildContext, run_dbt, selection

    landed = landing.partition_range(settings.landing_root)
    if landed is None:
        raise dg.Failure("nothing has landed yet (contrail land)", allow_retries=False)
    first, last = partition_days(context) if is_daily else (landed.first.isoformat(), landed.last.isoformat())
    until = lake.complete_until().until
    build = BuildContext(
        lake_root=settings.lake_root,
        first=date.fromisoformat(first),
        last=date.fromisoformat(last),
        # Until every bounding feed has come, nothing is known by absence.
        complete_until=until or landed.newest_fact_delivered_at.replace(year=1),
        run_id=context.run.run_id,
        settings=settings,
    )
    selected = sorted(key.path[-1] for key in context.selected_asset_keys)
    beside = [name for model in selected if (name := f"quarantine_{model}") in stored]
    # A test that also reads a daily model belongs to that one's build: at the reference models' it may not exist yet.
    chosen = selection([*selected, *beside], only_their_tests=not is_daily)
    done = run_dbt(settings.repo_root / "dbt_project", ["build", *chosen], build)
    for model in done.models:
        key = dg.AssetKey(model.table.split("/"))
        if key in context.selected_asset_keys:
            yield dg.MaterializeResult(
                asset_key=key,
                metadata={
                    "table": f"{model.table}@v{model.version}",
                    "rows_built": model.rows or 0,
                    "seconds": model.seconds,
                    "days": f"{first}..{last}" if is_daily else "all",
                },
            )
    for test in done.tests:
        for check in context.selected_asset_check_keys:
            if check.name == test.name:
                yield dg.AssetCheckResult(
                    asset_key=check.asset_key,
                    check_name=check.name,
                    passed=test.status == "pass",
                    severity=dg.AssetCheckSeverity.ERROR
                    if test.severity == "error"
                    else dg.AssetCheckSeverity.WARN,
                    description=test.message or None,
                    metadata={"failures": test.failures, "status": test.status},
                )


def _is_daily(node: Mapping[str, Any]) -> bool:
    return bool(node.get("config", {}).get("partition_by"))


def _unit(column: Mapping[str, Any]) -> str | None:
    meta = column.get("meta") or column.get("config", {}).get("meta") or {}
    return meta.get("unit")
