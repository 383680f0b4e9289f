"""The model: test AUC over seeds beside the naive reference, and what the fit costs beside plain LightGBM.

The training set of a finished home is read; nothing is written. The peer of the fit is `lightgbm.train` as one would
type it: a pandas frame with category columns, the same learning parameters, threads and rows, bins from LightGBM's own
sample. Ours builds the matrix from Arrow, bins from all rows, and records the profile and the naive reference as well.
"""

from __future__ import annotations

import argparse
import time
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa

from benchmarks.measuring import heading, table, verdict
from contrail import duck, evaluation, training
from contrail.clock import clock_for, pin_utc
from contrail.encoding import booleans
from contrail.lake import Lake
from contrail.settings import Settings
from feature_repo.use_cases import DEFAULT_USE_CASE, USE_CASES

if TYPE_CHECKING:
    from contrail.use_case import UseCase

TARGET_MEAN, TARGET_DEFAULT = 0.770, 0.768


def main() -> None:
    options = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    options.add_argument("--home", type=Path, help="a home with a training set (default: the settings')")
    options.add_argument("--seeds", type=int, nargs="+", default=[1, 2, 3])
    options.add_argument("--no-peer", action="store_true", help="leave out the fit by plain LightGBM")
    given = options.parse_args()
    pin_utc()
    settings = Settings(home=given.home.resolve()) if given.home else Settings()
    use_case = USE_CASES[DEFAULT_USE_CASE]
    name, rows = _training_set(settings, use_case)
    split = training.split_rows(rows, use_case, labels_until=clock_for(settings).now())
    test = rows.take(pa.array(split.rows["test"]))
    labels = booleans(test, use_case.label)
    heading(
        f"model {use_case.name}: {name}, {len(split.rows['train']):,} rows of {split.cuts.first} to "
        f"{split.cuts.train_end} to learn from, tested on {test.num_rows:,} of {split.cuts.validate_end} to "
        f"{split.cuts.test_end} (ends exclusive); {len(use_case.features)} features",
        "lightgbm",
    )

    import_module("lightgbm")  # an import, not part of the first fit
    found: list[dict[str, object]] = []
    by_seed: dict[int, float] = {}
    fit_cpu: list[float] = []
    naive = float("nan")
    for seed in dict.fromkeys((*given.seeds, use_case.seed)):
        began = time.process_time()
        model = training.fit(rows, split, use_case, threads=settings.model_threads, seed=seed)
        fit_cpu.append(time.process_time() - began)
        by_seed[seed] = evaluation.auc(labels, model.predict(test))
        naive = evaluation.auc(labels, model.naive.predict(test))
        title = f"seed {seed}" + (" (the use case's)" if seed == use_case.seed else "")
        found.append({"model": title, "test AUC": f"{by_seed[seed]:.4f}", "fit CPU s": fit_cpu[-1]})
    ratio = ""
    if not given.no_peer:
        cpu, auc = _plain(rows, split, use_case, settings.model_threads, test)
        found.append({"model": "peer: plain lightgbm.train", "test AUC": f"{auc:.4f}", "fit CPU s": cpu})
        ratio = f"ratio of fit CPU, ours (median) / plain: {np.median(fit_cpu) / cpu:.2f}"
    found.append(
        {
            "model": "naive: " + " × ".join(use_case.naive_group_columns),
            "test AUC": f"{naive:.4f}",
            "fit CPU s": "",
        }
    )
    table(found)
    if ratio:
        print(ratio)
    mean = float(np.mean([by_seed[seed] for seed in given.seeds]))
    seeds = ", ".join(map(str, given.seeds))
    print(
        f"mean over seeds {seeds}: {mean:.4f} (target ≥ {TARGET_MEAN}); naive {naive:.4f}, gain {mean - naive:+.4f}"
    )
    verdict("mean test AUC", mean, TARGET_MEAN, at_least=True)
    verdict("test AUC of the use case's seed", by_seed[use_case.seed], TARGET_DEFAULT, at_least=True)


def _training_set(settings: Settings, use_case: UseCase) -> tuple[str, pa.Table]:
    lake, name = Lake(settings.lake_root), f"model/{use_case.name}/training_set"
    if not lake.exists(name):
        raise SystemExit(f"{name} is not in {settings.lake_root}: contrail run, or --home")
    version = lake.version(name)
    with duck.connect(threads=settings.threads, memory_limit=settings.memory_limit) as con:
        return lake.ref(name, version), con.execute(
            f"SELECT * FROM {lake.scan(name, version)}"
        ).to_arrow_table()


def _plain(
    rows: pa.Table, split: training.Split, use_case: UseCase, threads: int, test: pa.Table
) -> tuple[float, float]:
    """CPU of the fit by plain LightGBM from pandas, and its test AUC."""
    import lightgbm

    learning = use_case.learning
    began = time.process_time()
    frame = _frame(rows.take(pa.array(split.rows["train"])), use_case)
    data = lightgbm.Dataset(frame[list(use_case.features)], label=frame[use_case.label].astype(float))
    parameters: dict[str, Any] = {
        "objective": "binary",
        "learning_rate": learning.learning_rate,
        "num_leaves": learning.num_leaves,
        "lambda_l2": learning.lambda_l2,
        "min_child_samples": learning.min_child_samples,
        "feature_fraction": learning.feature_fraction,
        "seed": use_case.seed,
        "num_threads": threads,
        "verbosity": -1,
    }
    booster = lightgbm.train(parameters, data, num_boost_round=learning.rounds)
    cpu = time.process_time() - began
    known = {name: frame[name].cat.categories for name in use_case.categorical}
    scores = booster.predict(_frame(test, use_case, known)[list(use_case.features)])
    return cpu, evaluation.auc(booleans(test, use_case.label), np.asarray(scores, dtype=np.float64))


def _frame(rows: pa.Table, use_case: UseCase, known: dict[str, Any] | None = None) -> Any:
    import pandas as pd

    frame = rows.select([*use_case.features, use_case.label]).to_pandas()
    for name in use_case.categorical:
        frame[name] = pd.Categorical(frame[name], categories=known[name] if known else None)
    return frame


if __name__ == "__main__":
    main()
