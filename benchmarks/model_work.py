"""What `bench_model.py` measures in processes of their own: fits, each with its own memory, and registration.

Every fit starts from the same saved matrix; what a process took before the fit (imports, the matrix) is in its peak.
"""

from __future__ import annotations

import json
import os
import tempfile
import time
from collections.abc import Callable
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from contrail import duck, model_files, registry, training
from contrail.clock import clock_for, pin_utc
from contrail.commits import Commit
from contrail.encoding import Encoding, booleans
from contrail.lake import Lake
from contrail.recipe import Recipe
from contrail.settings import Settings
from contrail.use_case import UseCase

MATRIX, LABELS, RECIPE = "matrix.npy", "labels.npy", "recipe.json"
OURS, PLAIN, TABLE = "ours", "plain", "table"


def training_set(settings: Settings, use_case: UseCase) -> tuple[str, pa.Table] | None:
    """``table@version`` and the rows; None where the home has none for this use case."""
    lake, name = Lake(settings.lake_root), f"model/{use_case.name}/training_set"
    if not lake.exists(name):
        return None
    version = lake.version(name)
    with duck.connect(threads=settings.threads, memory_limit=settings.memory_limit) as con:
        rows = con.execute(f"SELECT * FROM {lake.scan(name, version)}").to_arrow_table()
    return lake.ref(name, version), rows


def save_matrix(rows: pa.Table, split: training.Split, use_case: UseCase, threads: int, folder: Path) -> None:
    """The training part as every fit gets it."""
    chosen = split.rows["train"]
    part = rows.take(pa.array(chosen))
    encoding = Encoding.learn(part, use_case.features, use_case.categorical)
    np.save(folder / MATRIX, encoding.matrix(rows, chosen))
    np.save(folder / LABELS, booleans(part, use_case.label))
    recipe = Recipe.of(use_case, split.cuts, split.labels_until, threads=threads)
    (folder / RECIPE).write_text(json.dumps(recipe.to_dict()))


def work(kind: str, folder: str, home: str, name: str) -> dict[str, float]:
    """One fit in this process: its CPU seconds, and the greatest resident memory of the process, MB."""
    pin_utc()
    import_module("lightgbm")  # an import, not part of the fit
    fit = _from_table(home, name) if kind == TABLE else _from_matrix(kind, Path(folder))
    before = _peak_mb()
    began = time.process_time()
    fit()
    return {"cpu": time.process_time() - began, "before_mb": before, "peak_mb": _peak_mb()}


def _peak_mb() -> float:
    # Not ru_maxrss: that of a child begins with what its parent held.
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("VmHWM:")) / 1024


def _from_matrix(kind: str, folder: Path) -> Callable[[], object]:
    matrix, labels = np.load(folder / MATRIX), np.load(folder / LABELS)
    recipe = Recipe.from_dict(json.loads((folder / RECIPE).read_text()))

    def ours() -> str:
        return training.text_sha256(
            training.canonical(training.grow(matrix, labels, recipe).model_to_string())
        )

    return ours if kind == OURS else lambda: plain(matrix, labels, recipe)


def plain(matrix: np.ndarray, labels: np.ndarray, recipe: Recipe) -> Any:
    """LightGBM as one would type it: the same learning parameters and threads, bins from its own sample."""
    import lightgbm

    learning = recipe.learning
    parameters: dict[str, Any] = {
        "objective": "binary",
        "learning_rate": learning.learning_rate,
        "num_leaves": learning.num_leaves,
        "lambda_l2": learning.lambda_l2,
        "min_child_samples": learning.min_child_samples,
        "feature_fraction": learning.feature_fraction,
        "seed": recipe.seed,
        "num_threads": recipe.threads,
        "verbosity": -1,
    }
    texts = [recipe.features.index(feature) for feature in recipe.categorical]
    data = lightgbm.Dataset(matrix, label=labels, categorical_feature=texts)
    booster = lightgbm.train(parameters, data, num_boost_round=learning.rounds)
    booster.model_to_string()
    return booster


def _from_table(home: str, name: str) -> Callable[[], object]:
    use_cases: Any = import_module("feature_repo.use_cases")
    settings, use_case = Settings(home=Path(home)), use_cases.USE_CASES[name]
    found = training_set(settings, use_case)
    if found is None:
        raise SystemExit(f"{home} has no training set of {name}")
    rows = found[1]
    split = training.split_rows(rows, use_case, labels_until=clock_for(settings).now())
    return lambda: training.fit(rows, split, use_case, threads=settings.model_threads)


def registration(
    model: training.TrainedModel, split: training.Split, use_case: UseCase, *, with_mlflow: bool
) -> list[dict[str, object]]:
    """Wall and CPU seconds of storing and registering a model in an empty home, without MLflow and with it."""
    measured: list[dict[str, object]] = []

    def timed(what: str, step: Callable[[], Any]) -> Any:
        began, cpu = time.perf_counter(), time.process_time()
        result = step()
        measured.append(
            {"step": what, "wall s": time.perf_counter() - began, "CPU s": time.process_time() - cpu}
        )
        return result

    with tempfile.TemporaryDirectory() as folder:
        settings = Settings(home=Path(folder))
        lake = Lake(settings.lake_root)
        lineage = model_files.Lineage("model/x/training_set@v0", "run", "", "", "", "")
        where = timed(
            "files in the lake, checked on loading",
            lambda: model_files.write(model, use_case, lineage, lake.root),
        )
        timed(
            "decision log: registered, promoted by rule",
            lambda: registry.register(
                use_case.name, model.sha256, lake, decided_at=split.labels_until, decided_by="bench",
                reason="measured", commit=Commit(registry.TABLE, "bench", ()),
            ),
        )  # fmt: skip
        timed(
            "loading it: hashes, golden rows, features' code",
            lambda: model_files.load(lake.root, model.sha256, feature_code=use_case.feature_code()),
        )
        if with_mlflow:
            os.environ["MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR"] = "false"
            tracking: Any = import_module("resources.tracking").TrackingResource.from_settings(settings)
            settings.home.mkdir(parents=True, exist_ok=True)
            connect: Any = import_module("resources.mlflow_client").connect
            timed(
                "MLflow: imported, its database made (once)",
                lambda: connect(tracking.tracking_uri).search_experiments(),
            )
            run = timed(
                "MLflow: run opened before the fit",
                lambda: tracking.start(
                    use_case, split, training_set="model/x/training_set@v0", training_set_hash="0" * 32,
                    parameters=model.parameters, tags={},
                ),
            )  # fmt: skip
            timed(
                "MLflow: model, signature, run ended, registered",
                lambda: tracking.finish(
                    run, model, use_case, model_folder=where, evaluation_id="0" * 64, metrics={"auc": 0.5}, files={}
                ),
            )  # fmt: skip
    return measured
