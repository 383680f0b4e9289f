"""A small use case with rows of which the signal is known: for tests of training, scoring and monitoring."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, date, datetime, time, timedelta
from pathlib import Path

import numpy as np
import pyarrow as pa

from contrail import model_files, training
from contrail.lake import Commit
from contrail.use_case import Criteria, LearningParameters, UseCase

FIRST = date(2024, 1, 1)
DAYS = 90
ROWS_PER_DAY = 40
NOW = datetime(2024, 4, 2, tzinfo=UTC)

USE_CASE = UseCase(
    name="broken_jar",
    title="Broken jars",
    description="Whether a jar breaks; invented.",
    feature_service="broken_jar",
    spine_sql="SELECT 1",
    entity_key="jar_id",
    join_keys=("maker",),
    request_columns=("made_on",),
    request_time=lambda request: {"batch_size": request["batch_size"]},
    partition_column="made_on",
    decision_column="decided_at",
    outcome_known_column="outcome_known_at",
    label="is_broken",
    horizon=timedelta(hours=1),
    features=("wall_mm", "batch_size", "colour"),
    categorical=("colour",),
    naive_group_columns=("maker", "shift"),
    slices=("maker",),
    learning=LearningParameters(
        rounds=20, num_leaves=7, min_child_samples=20, lambda_l2=1.0, feature_fraction=0.7
    ),
    criteria=Criteria(min_slice_rows=50),
)


def rows(days: int = DAYS, seed: int = 1) -> pa.Table:
    """`days` × 40 jars. Thin walls and red glass break; 5 % of walls are missing; outcomes are known 3 hours later."""
    draw = np.random.default_rng(seed)
    n = days * ROWS_PER_DAY
    day = np.repeat(np.arange(days), ROWS_PER_DAY)
    wall = draw.normal(3.0, 0.5, n)
    colour = draw.choice(["red", "green", "blue"], n)
    risk = 1 / (1 + np.exp(2.5 * (wall - 2.8) - 1.2 * (colour == "red")))
    minutes = np.tile(np.arange(ROWS_PER_DAY) * 30, days)
    decided = [
        datetime.combine(FIRST + timedelta(days=int(d)), time(), UTC) + timedelta(minutes=int(m))
        for d, m in zip(day, minutes, strict=True)
    ]
    instant = pa.timestamp("us", tz="UTC")
    return pa.table(
        {
            "jar_id": [f"jar-{i:05d}" for i in range(n)],
            "maker": draw.choice(["north", "south"], n),
            "shift": pa.array(minutes // 480, pa.int32()),
            "made_on": pa.array([FIRST + timedelta(days=int(d)) for d in day], pa.date32()),
            "decided_at": pa.array(decided, instant),
            "outcome_known_at": pa.array([t + timedelta(hours=3) for t in decided], instant),
            "is_broken": draw.random(n) < risk,
            "wall_mm": pa.array(wall, mask=draw.random(n) < 0.05),
            "batch_size": pa.array(draw.integers(1, 500, n), pa.int32()),
            "colour": colour,
        }
    )


def column_replaced(table: pa.Table, name: str, values: pa.Array | list[object]) -> pa.Table:
    """The table with one column's values exchanged."""
    place = table.column_names.index(name)
    return table.set_column(place, table.field(name), pa.array(values, table.field(name).type))


def trained(
    table: pa.Table | None = None, use_case: UseCase = USE_CASE, **options: int
) -> training.TrainedModel:
    """A fitted model, one thread unless told."""
    data = rows() if table is None else table
    split = training.split_rows(data, use_case, labels_until=NOW)
    return training.fit(data, split, use_case, **({"threads": 1} | options))


def stored(lake_root: Path, model: training.TrainedModel | None = None) -> model_files.LoadedModel:
    """A model written to the lake and loaded again."""
    made = trained() if model is None else model
    model_files.write(made, USE_CASE, LINEAGE, lake_root)
    return model_files.load(lake_root, made.sha256)


LINEAGE = model_files.Lineage(
    training_set="model/broken_jar/training_set@v3",
    run_id="run-1",
    tracking_run_id="tracked-1",
    git_sha="abc",
    lock_sha256="def",
    training_set_sha256="ghi",
)
COMMIT = Commit(
    asset="model/broken_jar/model",
    run_id="run-1",
    inputs=("model/broken_jar/training_set@v3",),
    git_sha="abc",
)


def another_seed(seed: int) -> UseCase:
    """The use case with another seed, hence another model."""
    return replace(USE_CASE, seed=seed)
