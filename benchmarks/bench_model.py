"""The models: AUC beside the references, what a fit costs beside plain LightGBM, registration, one score.

The training sets of a finished home are read; nothing is written there. The peer of the fit is `lightgbm.train` on the
same matrix, as one would type it: the same learning parameters, threads and rows, bins from LightGBM's own sample.
Ours builds its bins from all rows, in a fixed order of sums. Each fit runs in a process of its own, so that its peak
memory is its own.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from benchmarks import model_work
from benchmarks.measuring import cpu_of, heading, median, table, verdict, worker
from contrail import backtest, criteria, evaluation, model_files, training
from contrail.baselines import LogisticReference
from contrail.clock import clock_for, pin_utc
from contrail.encoding import booleans
from contrail.settings import Settings
from contrail.use_case import UseCase
from feature_repo.use_cases import USE_CASES

# By use case: mean test AUC over seeds, and that of the declared seed.
TARGETS = {"late_flight_2h": (0.770, 0.768), "late_flight_day_ahead": (0.660, 0.660)}
MAX_RATIO = 1.3
SINGLE_ROWS = 300


def main() -> None:
    options = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    options.add_argument("--home", type=Path, help="a home with training sets (default: the settings')")
    options.add_argument("--use-case", choices=list(USE_CASES), help="only this one (default: all)")
    options.add_argument("--seeds", type=int, nargs="*", default=[1, 2, 3])
    options.add_argument("--repeats", type=int, default=5, help="interleaved rounds of fits, each a process")
    options.add_argument(
        "--no-peer", action="store_true", help="leave out the fits in processes of their own"
    )
    options.add_argument("--no-mlflow", action="store_true", help="register in the lake alone")
    options.add_argument(
        "--backtest", action="store_true", help="also train before each month: a minute more"
    )
    given = options.parse_args()
    pin_utc()
    settings = Settings(home=given.home.resolve()) if given.home else Settings()
    names = [given.use_case] if given.use_case else list(USE_CASES)
    measured = [name for name in names if _use_case(settings, USE_CASES[name], given)]
    if not measured:
        raise SystemExit(f"no training set in {settings.lake_root}: contrail run, or --home")


def _use_case(settings: Settings, declared: UseCase, given: argparse.Namespace) -> bool:
    found = model_work.training_set(settings, declared)
    if found is None:
        print(f"model {declared.name}: this home has no training set of it\n")
        return False
    name, rows = found
    # A home that was made before a slice was declared has no column of it.
    use_case = replace(declared, slices=tuple(s for s in declared.slices if s in rows.column_names))
    until = clock_for(settings).now()
    split = training.split_rows(rows, use_case, labels_until=until)
    heading(
        f"model {use_case.name}: {name}, {len(split.rows['train']):,} rows of {split.cuts.first} to "
        f"{split.cuts.train_end} to learn from, tested on {len(split.rows['test']):,} of {split.cuts.validate_end} to "
        f"{split.cuts.test_end} (ends exclusive); {len(use_case.features)} features",
        "lightgbm",
    )
    model = _scores(rows, split, use_case, settings, given.seeds)
    if given.backtest:
        print("\ntrained before each month:")
        months = backtest.backtest(rows, use_case, labels_until=until, threads=settings.model_threads)
        table([{k: _figure(v) for k, v in row.items()} for row in months.to_pylist()])
    if not given.no_peer:
        _fits(rows, split, use_case, settings, given.repeats)
    print("\nregistration in an empty home:")
    steps = model_work.registration(model, split, use_case, with_mlflow=not given.no_mlflow)
    table(steps)
    in_lake = sum(float(str(step["wall s"])) for step in steps[:2])
    print(f"in the lake alone {in_lake:.2f} s")
    _single_rows(model, use_case)
    print()
    return True


def _scores(
    rows: pa.Table, split: training.Split, use_case: UseCase, settings: Settings, seeds: list[int]
) -> training.TrainedModel:
    """The AUC table of the use case's own seed, and the mean over seeds."""
    test = rows.take(pa.array(split.rows["test"]))
    labels = booleans(test, use_case.label)
    model = training.fit(rows, split, use_case, threads=settings.model_threads)
    print(f"model sha256 {model.sha256}")
    logistic = LogisticReference.learn(rows, split.rows["train"], use_case)
    groups = evaluation.evaluate(
        test, model.predict(test), model.naive, use_case, part="test", logistic=logistic.predict(test)
    )
    table([_row(group) for group in groups])
    whole = groups[0].model.auc
    by_seed = [whole if seed == use_case.seed else _auc_of_seed(rows, split, use_case, settings, test, labels, seed)
               for seed in seeds]  # fmt: skip
    mean_target, own_target = TARGETS[use_case.name]
    if by_seed:
        listed = ", ".join(f"{seed}: {auc:.4f}" for seed, auc in zip(seeds, by_seed, strict=True))
        print(f"test AUC by seed {listed}")
        verdict("mean test AUC over seeds", float(np.mean(by_seed)), mean_target, at_least=True)
    verdict("test AUC of the use case's seed", whole, own_target, at_least=True)
    return model


def _auc_of_seed(
    rows: pa.Table,
    split: training.Split,
    use_case: UseCase,
    settings: Settings,
    test: pa.Table,
    labels: Any,
    seed: int,
) -> float:
    model = training.fit(rows, split, use_case, threads=settings.model_threads, seed=seed)
    return evaluation.auc(labels, model.predict(test))


def _row(group: evaluation.GroupMetrics) -> dict[str, object]:
    """One line of the AUC table: naive, logistic, ours with its interval over days."""
    low, high = group.intervals.get("auc", (float("nan"), float("nan")))
    logistic = group.logistic
    return {
        "group": "whole test part" if group.kind == "all" else f"{group.kind} {group.group}",
        "rows": group.model.rows,
        "rate": f"{group.model.label_rate:.3f}",
        "AUC naive": f"{group.naive.auc:.4f}",
        "logistic": f"{logistic.auc:.4f}" if logistic else "",
        "ours": f"{group.model.auc:.4f}",
        "95 % by day": f"{low:.4f} to {high:.4f}",
        "log-loss naive": f"{group.naive.log_loss:.4f}",
        "log-loss logistic": f"{logistic.log_loss:.4f}" if logistic else "",
        "log-loss ours": f"{group.model.log_loss:.4f}",
        "bias": f"{group.model.bias:+.4f}",
    }


def _fits(rows: pa.Table, split: training.Split, use_case: UseCase, settings: Settings, repeats: int) -> None:
    words = {
        model_work.PLAIN: "peer: plain lightgbm.train on the matrix",
        model_work.OURS: "ours: the fit alone on the same matrix",
        model_work.TABLE: "ours: all of training.fit, from the table of rows",
    }
    found: dict[str, list[dict[str, float]]] = {kind: [] for kind in words}
    with tempfile.TemporaryDirectory() as folder:
        model_work.save_matrix(rows, split, use_case, settings.model_threads, Path(folder))
        for _ in range(repeats):
            for kind in words:
                # Idle OpenMP threads sleep, as in every process of this project.
                done, _used = worker(
                    __file__, kind, folder, str(settings.home), use_case.name,
                    env={"OMP_WAIT_POLICY": "PASSIVE", "PYTHONPATH": "."},
                )  # fmt: skip
                found[kind].append(done)

    def middle(kind: str, what: str) -> float:
        return median([each[what] for each in found[kind]])

    print(
        f"\nfits, median of {repeats}, {settings.model_threads} thread(s); peak memory of the whole process:"
    )
    table(
        [
            {
                "fit": text,
                "CPU s": middle(kind, "cpu"),
                "peak MB": int(middle(kind, "peak_mb")),
                "of it before the fit": int(middle(kind, "before_mb")),
            }
            for kind, text in words.items()
        ]
    )
    for what, unit in (("cpu", "CPU"), ("peak_mb", "peak memory")):
        ratio = middle(model_work.OURS, what) / middle(model_work.PLAIN, what)
        verdict(f"fit alone, {unit}, ours / plain LightGBM on the same matrix", ratio, MAX_RATIO)


def _single_rows(model: training.TrainedModel, use_case: UseCase) -> None:
    """CPU of one score of one row: as the criterion measures it, and by LightGBM alone."""
    booster, golden = model.booster(), model_files.golden_rows(model)
    loaded = _Loaded(booster, model)
    matrix = np.ascontiguousarray(model.encoding.matrix(golden.slice(0, 1)))

    def bare() -> None:
        for _ in range(SINGLE_ROWS):
            booster.predict(matrix, num_threads=1)

    bare()
    ours = criteria.predict_milliseconds(loaded, golden)
    print("\none score of one row:")
    table(
        [
            {"how": "encode an Arrow row and score it (the criterion)", "CPU µs": round(1000 * ours)},
            {
                "how": "Booster.predict of a ready numpy row",
                "CPU µs": round(1e6 * cpu_of(bare) / SINGLE_ROWS),
            },
        ]
    )
    verdict("one score of one row", ours, use_case.criteria.max_predict_milliseconds, unit=" ms CPU")


class _Loaded:
    """The model with its text read once, as whoever scores holds it."""

    def __init__(self, booster: Any, model: training.TrainedModel) -> None:
        self._booster, self._encoding = booster, model.encoding

    def predict(self, rows: pa.Table) -> Any:
        from contrail.encoding import predict

        return predict(self._booster, self._encoding, rows)


def _figure(value: object) -> object:
    return f"{value:.4f}" if isinstance(value, float) else value if isinstance(value, int) else str(value)


if __name__ == "__main__":
    if sys.argv[1:2] == ["--worker"]:
        print(json.dumps(model_work.work(*sys.argv[2:])))
    else:
        main()
