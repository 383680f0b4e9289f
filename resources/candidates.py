"""A candidate from its training set to its place in the registry: fitted, examined, packed, tracked, registered.

The order is what makes a failure harmless: what must not depend on the result is written down before the fit, the bytes
and the evidence lie in the lake before MLflow hears of them, and the registry comes last.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Mapping
from dataclasses import dataclass

import dagster as dg
import pyarrow as pa

from contrail import (
    backtest,
    candidate,
    decisions,
    evaluation,
    evidence,
    leakage,
    model_card,
    model_files,
    promotions,
    provenance,
    registry,
    training,
)
from contrail.candidate import Circumstances, Examined
from contrail.lake import Commit, Lake
from contrail.model_card import CardFacts
from contrail.registry import ModelVersion
from contrail.training import TrainedModel
from contrail.use_case import UseCase
from resources.decisions import after_decision
from resources.lake import LakeResource
from resources.mlflow_client import TrackingError
from resources.tracking import TrackedModel, TrackingResource

LOGGER = logging.getLogger(__name__)
OWNER = "team:models"
PARITY_CHECK = dg.AssetCheckKey(dg.AssetKey(["feature_store", "online"]), "parity")


@dataclass(frozen=True)
class Made:
    """What became of a training.

    Attributes:
        version: its place in the registry, as it is after this run.
        training_set: ``table@version``.
        asked: what became of asking for its promotion, in words.
        card: the model card, Markdown.
        remarks: what could not be done and follows later.
    """

    model: TrainedModel
    examined: Examined
    version: ModelVersion
    tracked: TrackedModel
    training_set: str
    asked: str
    card: str
    remarks: tuple[str, ...]


def make(
    context: dg.AssetExecutionContext, lake: LakeResource, tracking: TrackingResource, use_case: UseCase
) -> Made:
    """Train a candidate on the newest training set, examine it, and register it.

    Raises:
        LeakageError: the training set has no certificate; nothing was fitted.
        dagster.Failure: the backtest is of another training set, or of another declaration.
    """
    settings, name = lake.settings, f"model/{use_case.name}/training_set"
    reference, rows = training_rows(lake, use_case)
    months = _backtest_of(lake, use_case, reference)
    now = lake.clock.now()
    split = training.split_rows(rows, use_case, labels_until=now)
    certificate = leakage.certify(rows, split, use_case, labels_until=now)
    remarks = _follow(tracking, use_case, lake.lake)
    version = int(reference.rpartition("@v")[2])
    snapshot = lake.lake.snapshot_sha256(name, version)
    run = tracking.start(
        use_case,
        split,
        training_set=reference,
        training_set_hash=snapshot,
        parameters=training.lightgbm_parameters(
            use_case, rows=len(split.rows["train"]), threads=settings.model_threads
        ),
        tags={"dagster.run_id": context.run.run_id} | _data_tags(lake.lake, name, version),
    )
    with tracking.failing(run):
        certificate.require()
        context.log.info(f"fitting on {len(split.rows['train']):,} rows of {reference}")
        model = training.fit(rows, split, use_case, threads=settings.model_threads)
        lineage = model_files.Lineage(
            training_set=reference,
            run_id=context.run.run_id,
            tracking_run_id=run.run_id,
            git_sha=provenance.recorded_git_sha(settings),
            lock_sha256=provenance.lock_sha256(),
            training_set_sha256=snapshot,
        )
        folder = model_files.write(model, use_case, lineage, settings.lake_root)
        manifest = model_files.read_manifest(settings.lake_root, model.sha256)
        champion = registry.champion(use_case.name, lake.lake)
        context.log.info(f"examining model {model.sha256[:12]}")
        examined = candidate.examine(
            rows,
            split,
            model,
            use_case,
            Circumstances(
                training_set=reference,
                manifest_sha256=model_files.manifest_sha256(settings.lake_root, model.sha256),
                files=manifest["files"],
                certificate=certificate,
                backtest=months,
                champion=model_files.load(settings.lake_root, champion.sha256) if champion else None,
                parity_mismatches=_parity_mismatches(context.instance, use_case),
            ),
        )
        evaluation_id = examined.evidence.evaluation_id
        card = model_card.card(
            CardFacts(
                use_case=use_case,
                manifest=manifest,
                evidence=json.loads(examined.evidence.record),
                evaluation_id=evaluation_id,
                model_text=model.text,
                data_versions=_inputs(lake.lake, name, version),
                pictures=examined.pictures,
                version=None,
                owner=OWNER,
            )
        )
        files = {
            "card.md": card.markdown.encode(),
            "card.html": card.html.encode(),
            "leakage.json": json.dumps(certificate.to_dict(), indent=1).encode(),
            **{f"plots/{plot}": content for plot, content in examined.pictures.items()},
        }
        evidence.store(examined.evidence, files, settings.lake_root)
        tracked = tracking.finish(
            run,
            model,
            use_case,
            model_folder=folder,
            evaluation_id=evaluation_id,
            metrics=evaluation.flat_metrics(examined.groups),
            files=files | {evidence.RECORD: examined.evidence.record},
        )
    commit = lake.commit(context, registry.TABLE, [reference, f"model:{model.sha256}"])
    who = f"run {context.run.run_id}"
    registered = registry.register(
        use_case.name,
        model.sha256,
        lake.lake,
        decided_at=now,
        decided_by=who,
        reason="trained",
        commit=commit,
        evaluated=registry.Evaluated(evaluation_id, use_case.criteria_sha256, examined.evidence.unmet),
        first_by_rule=use_case.risk_class != "high",
    )
    asked = _ask(lake, use_case, registered, who, commit)
    head = decisions.head(lake.lake)
    remarks += after_decision(settings, use_case.name, head, instance=context.instance) if head else []
    return Made(model, examined, registered, tracked, reference, asked, card.markdown, tuple(remarks))


def training_rows(lake: LakeResource, use_case: UseCase) -> tuple[str, pa.Table]:
    """The newest training set: ``table@version``, and its rows."""
    name = f"model/{use_case.name}/training_set"
    version = lake.lake.version(name)
    with lake.connect() as con:
        rows = con.execute(f"SELECT * FROM {lake.lake.scan(name, version)}").to_arrow_table()
    return lake.lake.ref(name, version), rows


def _backtest_of(lake: LakeResource, use_case: UseCase, reference: str) -> pa.Table:
    name = f"model/{use_case.name}/backtest"
    if lake.lake.exists(name):
        made = [
            record
            for record in lake.lake.commits(name)
            if reference in record.inputs and record.extra.get("declared") == backtest.declared(use_case)
        ]
        if made:
            columns = ", ".join(backtest.SCHEMA.names)
            with lake.connect() as con:
                return con.execute(
                    f"SELECT {columns} FROM {lake.lake.scan(name, made[-1].version)} ORDER BY month"
                ).to_arrow_table()
    raise dg.Failure(
        f"{name} was not made of {reference} as {use_case.name} is declared now: materialise it first, or run the job "
        f"train_{use_case.name}",
        allow_retries=False,
    )


def _follow(tracking: TrackingResource, use_case: UseCase, lake: Lake) -> list[str]:
    """Let the aliases follow what was decided while nobody told MLflow."""
    try:
        found = tracking.reconcile(use_case.name, lake)
    except TrackingError as error:  # the training itself will say whether MLflow is gone
        LOGGER.info("aliases: %s", error)
        return []
    return [*(moved.in_words for moved in found.moved if moved.by_hand), *found.missing]


def _ask(lake: LakeResource, use_case: UseCase, version: ModelVersion, who: str, commit: Commit) -> str:
    """Ask for the promotion of a challenger that meets everything; the answer in words."""
    if version.role != "challenger":
        return f"not asked: version {version.version} is {version.role}"
    if version.unmet:
        return f"not asked: {len(version.unmet)} criteria are not met"
    try:
        row = promotions.request(
            use_case, version.version, lake.lake, by=who, reason="meets all criteria",
            now=lake.clock.now(), commit=commit,
        )  # fmt: skip
    except promotions.Refused as refusal:
        return f"refused: {refusal}"
    command = f"contrail approve {row.request_id} --by NAME --reason TEXT"
    return f"asked: request {row.request_id}, valid until {row.expires_at}; {command}"


def _parity_mismatches(instance: dg.DagsterInstance, use_case: UseCase) -> int | None:
    """What the last comparison of online with offline found; None where it compared no vector of this use case."""
    record = instance.get_latest_asset_check_evaluation_record(PARITY_CHECK)
    found = record.event.asset_check_evaluation if record and record.event else None
    if found is None or "mismatches" not in found.metadata:
        return None
    parts = found.metadata["compared"]
    compared = parts.records if isinstance(parts, dg.TableMetadataValue) else []
    if not any(part.data["view"] == use_case.feature_service and part.data["values"] for part in compared):
        return None
    return int(str(found.metadata["mismatches"].value))


def _data_tags(lake: Lake, name: str, version: int) -> Mapping[str, str]:
    """The versions that the training set was made of, as tags of the tracking run."""
    return {f"data.{i.rpartition('@v')[0].replace('/', '.')}": i for i in _inputs(lake, name, version)}


def _inputs(lake: Lake, name: str, version: int) -> tuple[str, ...]:
    return next(record for record in lake.commits(name) if record.version == version).inputs
