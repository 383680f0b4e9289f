"""The code location: one door, for `dagster dev`, the command line and the tests alike.

Loading reads settings, `contracts/*.yaml`, the dbt manifest and the landing range file; no store, no network, and none
of the heavy libraries, which are imported where the work happens.
"""

from __future__ import annotations

import warnings
from datetime import timedelta
from types import ModuleType

import dagster as dg

from assets import clean, feature, feature_store, model, monitor, raw, score
from contrail.clock import pin_utc
from contrail.settings import Settings
from jobs import decisions, model_sensors, pipelines, schedules, sensors, tuning
from resources.feature_store import FeatureStoreResource
from resources.lake import LakeResource
from resources.tracking import TrackingResource

# By the wall clock it says only that the pipeline runs; whether data are fresh is asked of the feeds (jobs/sensors.py).
PIPELINE_ALIVE = dg.FreshnessPolicy.time_window(
    fail_window=timedelta(hours=30), warn_window=timedelta(hours=26)
)

# In the row's order. Module = group = key prefix = folder in the lake.
STAGES: dict[str, ModuleType] = {
    "raw": raw,
    "clean": clean,
    "feature": feature,
    "feature_store": feature_store,
    "model": model,
    "score": score,
    "monitor": monitor,
}


def build_defs(settings: Settings | None = None, **resource_overrides: object) -> dg.Definitions:
    """Everything Dagster sees, for these settings (the environment's unless given).

    Args:
        settings: where the lake is, which clock counts.
        resource_overrides: resources by key, in place of the ordinary ones.
    """
    settings = settings or Settings()
    pin_utc()
    # Partitions on checks and backfill policies are what this project is built on; their notices would hide others.
    warnings.filterwarnings("ignore", category=dg.PreviewWarning)
    warnings.filterwarnings("ignore", category=dg.BetaWarning)
    resources: dict[str, object] = {
        "lake": LakeResource(settings),
        "feature_store": FeatureStoreResource(home=str(settings.home)),
        "tracking": TrackingResource.from_settings(settings),
    }
    jobs = pipelines.build(settings)
    defs = dg.Definitions(
        assets=[asset for stage in STAGES.values() for asset in stage.build(settings)],
        jobs=[*jobs, *decisions.build(), *tuning.build()],
        schedules=schedules.build(settings),
        sensors=[*sensors.build(settings, jobs), *model_sensors.build(settings)],
        resources=resources | resource_overrides,
        executor=dg.in_process_executor,
    )
    if settings.clock != "system":
        return defs  # by the wall clock everything about a past year is overdue
    return defs.map_asset_specs(func=_with_policy)


def _with_policy(spec: dg.AssetSpec) -> dg.AssetSpec:
    # A model is trained when there is a reason, not every day.
    return spec if spec.group_name == "model" else dg.apply_freshness_policy(spec, PIPELINE_ALIVE)


defs = build_defs()
