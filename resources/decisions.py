"""What a decision leaves outside of its log: an anchor in Dagster and in MLflow, and the aliases in MLflow.

The decision stands in the lake before anything here is called. Whatever cannot be done here is said and made good later
(`jobs/model_sensors.py`); nothing here can undo or hinder a decision.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Generator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass

import dagster as dg

from contrail import decisions
from contrail.decisions import Anchor, Decision, DecisionError
from contrail.lake import Lake
from contrail.settings import Settings
from resources.mlflow_client import ASKING_SECONDS, first_line, within
from resources.tracking import TAG_ANCHOR, TrackingResource

LOGGER = logging.getLogger(__name__)
ASSET = dg.AssetKey(decisions.TABLE.split("/"))
DAGSTER, MLFLOW = "Dagster's event log", "MLflow's registered model"
PAGE = 500


@dataclass(frozen=True)
class Recorded:
    """The anchors that were found outside of the log.

    Attributes:
        anchors: (where it was found, anchor), oldest first in each place.
        unasked: a sentence for each place that could not be asked; its anchors were not compared.
    """

    anchors: list[tuple[str, Anchor]]
    unasked: list[str]


def after_decision(
    settings: Settings, use_case: str, anchor: Anchor, *, instance: dg.DagsterInstance | None = None
) -> list[str]:
    """Leave the anchor of a decision in Dagster and in MLflow, and let MLflow's aliases follow.

    Bounded: MLflow may take `ASKING_SECONDS` seconds.

    Args:
        use_case: name of the use case that was decided on.
        anchor: the head of the log after the decision.
        instance: Dagster's records, where they are open already; else those of the home.

    Returns:
        A sentence for everything that could not be done, or that a person should know; empty when all is well.
    """
    lake, tracking = Lake(settings.lake_root), TrackingResource.from_settings(settings)
    said = _try("the anchor is not in Dagster", lambda: _report(settings, lake, use_case, anchor, instance))

    def follow() -> list[str]:
        found = tracking.reconcile(use_case, lake)
        by_hand = [moved.in_words for moved in found.moved if moved.by_hand]
        return [*by_hand, *found.missing, *remember(tracking, lake, use_case, anchor)]

    later = "the decision stands; MLflow follows later (the sensor mlflow_aliases, or the next training)"
    said += _try(later, lambda: within(ASKING_SECONDS, follow))
    for sentence in said:
        LOGGER.warning("%s", sentence)
    return said


def remember(tracking: TrackingResource, lake: Lake, use_case: str, anchor: Anchor) -> list[str]:
    """Put the anchor where MLflow keeps the latest one, unless a later one is there, or one that the log lacks.

    Returns:
        A sentence where the log lacks the one that is there: it shows that the log was cut or written anew, and stays.

    Raises:
        TrackingError: MLflow cannot be reached, refuses, or has no such registered model.
    """
    kept = _parsed(tracking.anchors().get(use_case))
    if kept is not None and kept in decisions.verify(lake, [kept]).anchors_gone:
        said = f"MLflow keeps the anchor {kept}, which the log of decisions does not hold to: contrail audit verify"
        return [f"{said} (once that is explained, remove the tag {TAG_ANCHOR} of its model {use_case})"]
    if kept is None or kept.sequence < anchor.sequence:
        tracking.anchor(use_case, anchor)
    return []


def leave_missed(settings: Settings, instance: dg.DagsterInstance) -> list[str]:
    """Leave the log's head in Dagster, where whoever decided was stopped before.

    Returns:
        A sentence where it was missing.
    """
    lake = Lake(settings.lake_root)
    history = decisions.read(lake)
    latest = instance.get_latest_materialization_event(ASSET)
    told = latest.asset_materialization if latest else None
    left = _parsed(str(told.metadata["anchor"].value)) if told and "anchor" in told.metadata else None
    if not history or (left is not None and left.sequence >= history[-1].sequence):
        return []
    head = history[-1]
    _report(settings, lake, head.use_case, head.anchor, instance)
    return [f"the anchor {head.anchor} was not in Dagster: left now"]


def recorded_anchors(settings: Settings) -> Recorded:
    """Every anchor in Dagster's event log, and the latest of each registered model in MLflow."""
    found: list[tuple[str, Anchor]] = []

    def collect(where: str, texts: list[str]) -> list[str]:
        said: list[str] = []
        for text in texts:
            try:
                found.append((where, Anchor.parse(text)))
            except DecisionError as error:
                said.append(f"{where} holds what is no anchor: {error}")
        return said

    tracking = TrackingResource.from_settings(settings)
    unasked = _try(f"{DAGSTER} could not be asked", lambda: collect(DAGSTER, _reported(settings)))
    unasked += _try(
        f"{MLFLOW} could not be asked",
        lambda: collect(MLFLOW, list(within(ASKING_SECONDS, tracking.anchors).values())),
    )
    return Recorded(found, unasked)


@contextmanager
def dagster_instance(settings: Settings) -> Generator[dg.DagsterInstance]:
    """Dagster's records of this home; its folder is made where it is missing."""
    settings.dagster_home.mkdir(parents=True, exist_ok=True)
    with dg.DagsterInstance.from_config(str(settings.dagster_home)) as instance:
        yield instance


def _report(
    settings: Settings, lake: Lake, use_case: str, anchor: Anchor, instance: dg.DagsterInstance | None
) -> list[str]:
    decided = next((row for row in decisions.read(lake) if row.anchor == anchor), None)
    event = dg.AssetMaterialization(
        ASSET,
        description="A decision was appended; this is the head of the log since.",
        metadata={"anchor": str(anchor), "use_case": use_case} | _facts(decided),
    )
    with nullcontext(instance) if instance else dagster_instance(settings) as records:
        records.report_runless_asset_event(event)
    return []


def _parsed(text: str | None) -> Anchor | None:
    """The anchor; None where there is none, or what is none."""
    try:
        return Anchor.parse(text or "")
    except DecisionError:
        return None


def _facts(decided: Decision | None) -> dict[str, str | int]:
    if decided is None:
        return {}
    return {
        "sequence": decided.sequence,
        "sha256": decided.row_sha256,
        "event": decided.event,
        "version": decided.model_version,
        "decided_by": decided.decided_by,
        "reason": decided.reason,
    }


def _reported(settings: Settings) -> list[str]:
    texts: list[str] = []
    if not settings.dagster_home.is_dir():
        return texts
    with dagster_instance(settings) as instance:
        cursor, more = None, True
        while more:
            page = instance.fetch_materializations(ASSET, limit=PAGE, cursor=cursor, ascending=True)
            cursor, more = page.cursor, page.has_more
            for record in page.records:
                materialization = record.asset_materialization
                if materialization is not None and "anchor" in materialization.metadata:
                    texts.append(str(materialization.metadata["anchor"].value))
    return texts


def _try(otherwise: str, do: Callable[[], list[str]]) -> list[str]:
    """What `do` says, or a sentence with whatever it raises."""
    try:
        return do()
    except (
        Exception
    ) as error:  # a decision stands whatever fails after it; the audit says what it could not ask
        LOGGER.debug("%s", otherwise, exc_info=error)
        return [f"{otherwise}: {first_line(error)}"]
