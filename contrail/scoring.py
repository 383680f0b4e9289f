"""Batch scores: which rows are due, what a score row holds, and why a rerun gives the same rows.

A score exists only for decisions after the model's training range and before *complete until*. A row that was scored
once stays with the model that scored it, so that a rerun of a day changes nothing, whoever is champion by then.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any

import pyarrow as pa

from contrail.encoding import Floats, pc
from contrail.model_files import LoadedModel, ModelFilesError, require_feature_code
from contrail.use_case import UseCase

ID_LENGTH = 32


class ScoringError(ValueError):
    """Rows cannot be scored as asked."""


def score_schema(use_case: UseCase) -> pa.Schema:
    """Columns of a score table: identity, decision, model, feature vector, score.

    Categorical features are texts; all others are float64, whatever their type was: their value is what the model saw.
    """
    vector = [
        pa.field(n, pa.string() if n in use_case.categorical else pa.float64()) for n in use_case.features
    ]
    return pa.schema(
        [
            pa.field("prediction_id", pa.string(), nullable=False),
            pa.field(use_case.entity_key, pa.string(), nullable=False),
            pa.field(use_case.partition_column, pa.date32(), nullable=False),
            pa.field(use_case.decision_column, pa.timestamp("us", tz="UTC"), nullable=False),
            pa.field("horizon_minutes", pa.int32(), nullable=False),
            pa.field("model_name", pa.string(), nullable=False),
            pa.field("model_version", pa.int64(), nullable=False),
            pa.field("model_sha256", pa.string(), nullable=False),
            pa.field("feature_service", pa.string(), nullable=False),
            *vector,
            pa.field("score", pa.float64(), nullable=False),
            pa.field("decision", pa.bool_(), nullable=False),
        ]
    )


def prediction_id(use_case: str, entity: str, decision_at: datetime, model_sha256: str) -> str:
    """The identity of one prediction: 32 hex digits, the same for the same question to the same model."""
    asked = "|".join((use_case, entity, decision_at.astimezone(UTC).isoformat(), model_sha256))
    return hashlib.sha256(asked.encode()).hexdigest()[:ID_LENGTH]


def score(model: LoadedModel, vectors: pa.Table, use_case: UseCase, *, version: int) -> pa.Table:
    """Score feature vectors.

    Args:
        model: the model, from `model_files.load`.
        vectors: one row per entity: key, day, decision time and every feature; other columns are ignored.
        version: the model's version in the registry.

    Returns:
        A table of `score_schema`, ordered by (decision time, key). The same input gives the same bytes.

    Raises:
        ScoringError: the model has another feature order than the use case, its features meant something else when it
            was learnt, or a feature is missing in a row and the use case refuses such rows.
        EncodingError: a column is missing or of another type than in training.
    """
    if model.encoding.features != use_case.features:
        raise ScoringError(
            f"model {model.sha256[:12]} has other features, or another order, than use case {use_case.name} declares; "
            "train a new model or restore the declaration"
        )
    try:
        require_feature_code(model.manifest, model.sha256, use_case.feature_code())
    except ModelFilesError as error:
        raise ScoringError(f"{use_case.name} version {version} may not score: {error}") from error
    keys = [(use_case.decision_column, "ascending"), (use_case.entity_key, "ascending")]
    rows = vectors.take(pc.sort_indices(vectors, sort_keys=keys))
    if use_case.missing_policy == "refuse":
        _refuse_missing(rows, use_case)
    scores: Floats = model.predict(rows)
    entities = [str(v) for v in rows.column(use_case.entity_key).to_pylist()]
    instants: list[datetime] = rows.column(use_case.decision_column).to_pylist()
    same: dict[str, Any] = {
        "horizon_minutes": use_case.horizon_minutes,
        "model_name": use_case.name,
        "model_version": version,
        "model_sha256": model.sha256,
        "feature_service": use_case.feature_service,
    }
    made: dict[str, Any] = {
        "prediction_id": pa.array(
            [
                prediction_id(use_case.name, e, t, model.sha256)
                for e, t in zip(entities, instants, strict=True)
            ],
            pa.string(),
        ),
        "score": pa.array(scores),
        "decision": pa.array(scores >= use_case.decision_threshold),
    }
    schema = score_schema(use_case)
    columns: list[Any] = []
    for column in schema:
        if column.name in made:
            columns.append(made[column.name])
        elif column.name in same:
            columns.append(pa.repeat(pa.scalar(same[column.name], column.type), rows.num_rows))
        else:
            columns.append(rows.column(column.name).cast(column.type))
    return pa.table(columns, schema=schema)


def due(
    spine: pa.Table,
    use_case: UseCase,
    *,
    model: LoadedModel,
    complete_until: datetime,
    scored: pa.Table,
) -> pa.Table:
    """The spine rows that the model is to score now: after its training range, complete, and not scored yet.

    Args:
        spine: key, day and decision time of the candidates, among other columns.
        model: the champion.
        complete_until: features exist up to here; decisions at or after it wait.
        scored: rows that have a score for this use case, whatever model made it; column: the entity key.
    """
    decided = spine.column(use_case.decision_column)
    day = spine.column(use_case.partition_column)
    wanted = pc.and_(
        pc.and_(
            pc.greater_equal(day, pa.scalar(model.train_end, day.type)),
            pc.greater_equal(decided, pa.scalar(model.trained_until, decided.type)),
        ),
        pc.less(decided, pa.scalar(complete_until, decided.type)),
    )
    done = scored.column(use_case.entity_key).cast(pa.string()).combine_chunks()
    already = pc.is_in(spine.column(use_case.entity_key).cast(pa.string()), value_set=done)
    return spine.filter(pc.and_(wanted, pc.invert(already)))


def assign(
    spine: pa.Table,
    use_case: UseCase,
    *,
    model: LoadedModel,
    complete_until: datetime,
    scored: pa.Table,
) -> Mapping[str, pa.Table]:
    """Which model scores which spine rows, for a day that is run or run again.

    Args:
        spine: the day's rows.
        model: the champion; it takes what is due.
        complete_until: see `due`.
        scored: the day's present scores; columns: the entity key and ``model_sha256``.

    Returns:
        model sha256 → spine rows. Rows that have a score stay with the model that made it.

    Raises:
        ScoringError: an entity has scores of two models.
    """
    due_rows = due(spine, use_case, model=model, complete_until=complete_until, scored=scored)
    keys = scored.column(use_case.entity_key).cast(pa.string())
    if pc.count_distinct(keys).as_py() != scored.num_rows:
        raise ScoringError(
            f"{use_case.name}: some {use_case.entity_key} have more than one score; a day is scored once"
        )
    work: dict[str, pa.Table] = {}
    makers = scored.column("model_sha256")
    for sha256 in sorted(str(s) for s in pc.unique(makers).to_pylist()):
        its = keys.filter(pc.equal(makers, sha256)).combine_chunks()
        work[sha256] = spine.filter(
            pc.is_in(spine.column(use_case.entity_key).cast(pa.string()), value_set=its)
        )
    if due_rows.num_rows:
        earlier = work.get(model.sha256)
        work[model.sha256] = due_rows if earlier is None else pa.concat_tables([earlier, due_rows])
    return {sha256: rows for sha256, rows in work.items() if rows.num_rows}


def _refuse_missing(rows: pa.Table, use_case: UseCase) -> None:
    nulls = {name: rows.column(name).null_count for name in use_case.features}
    if missing := {name: n for name, n in nulls.items() if n}:
        raise ScoringError(f"{use_case.name} scores no row with a missing feature, and rows lack: {missing}")
