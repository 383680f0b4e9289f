"""Named selections of the graph: one job per stage that runs as one, selected by group, never by importing assets."""

from __future__ import annotations

import dagster as dg

from contrail.contracts import load_contracts
from contrail.settings import Settings
from feature_repo.use_cases import USE_CASES
from jobs.plan import CLEAN_DAILY, CLEAN_REFERENCE

# A landed day completes the two before it: that far back the daily run builds again.
DAILY_LOOK_BACK_DAYS = 2


def build(settings: Settings) -> list[object]:
    """The jobs that the plan, the schedules and the sensors name."""
    contracts = load_contracts(settings.repo_root / "contracts").values()
    daily = [f"raw/{c.table}" for c in contracts if c.partition_column]
    reference = [f"raw/{c.table}" for c in contracts if not c.partition_column]
    reference += [f"clean/{model}" for model in CLEAN_REFERENCE]
    jobs: list[object] = [
        _job("ingest", _keys(daily), "Landed daily files into raw, checked against their contracts."),
        _job("reference", _keys(reference), "Reference files into raw and clean."),
        _job(
            "clean",
            _keys([f"clean/{model}" for model in CLEAN_DAILY]),
            "Daily clean tables, with their tests.",
        ),
        _job(
            "features",
            dg.AssetSelection.groups("feature", "feature_store"),
            "Feature tables up to the instant until which the feeds are complete; then registry and online store.",
        ),
    ]
    everyday = _keys(daily) | _keys([f"clean/{model}" for model in CLEAN_DAILY])
    everyday |= dg.AssetSelection.groups("feature", "feature_store")
    for name in USE_CASES:
        everyday |= dg.AssetSelection.key_prefixes(["score", name])
        train = dg.AssetSelection.key_prefixes(["model", name])
        score = dg.AssetSelection.key_prefixes(["score", name])
        watch = dg.AssetSelection.key_prefixes(["monitor", name])
        jobs += [
            _job(f"train_{name}", train, f"Training set, candidate model and evaluation of {name}."),
            _job(
                f"score_{name}",
                score,
                f"Daily predictions of {name}, joined with outcomes as they become known.",
            ),
            _job(
                f"monitor_{name}", watch, f"Performance, calibration and drift of {name} on matured labels."
            ),
        ]
    jobs.append(_job("daily", everyday, "A new day, from its files to its scores, in one run."))
    return jobs


def _keys(names: list[str]) -> dg.AssetSelection:
    return dg.AssetSelection.assets(*(dg.AssetKey(name.split("/")) for name in names))


def _job(name: str, selection: dg.AssetSelection, description: str) -> object:
    return dg.define_asset_job(name, selection=selection, description=description)
