"""Batch scoring: contrail.scoring.score against raw Booster.predict on the same rows, in one process, interleaved.

The peer gets its input ready made: an Arrow table, or a numpy matrix, whose texts are codes already. Ours starts from
the feature vectors as they are read: it sorts, encodes, predicts, and makes the score table with an id for every row.
"""

from __future__ import annotations

import argparse
import hashlib
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from benchmarks.measuring import cpu_of, heading, interleaved, median, table, verdict
from contrail import duck, model_files, registry, scoring
from contrail.clock import pin_utc
from contrail.lake import Lake
from contrail.settings import Settings
from feature_repo.use_cases import DEFAULT_USE_CASE, USE_CASES

BARE, NUMPY, PREDICT, SCORE = "arrow", "numpy", "predict", "score"
NAMES = {
    BARE: "peer: Booster.predict, Arrow of codes",
    NUMPY: "peer: Booster.predict, numpy of codes",
    PREDICT: "ours: encode and predict",
    SCORE: "ours: contrail.scoring.score, all in",
}


def main() -> None:
    options = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    options.add_argument("--home", type=Path, help="a home with a model (default: the settings')")
    options.add_argument(
        "--rows", type=int, default=50_000, help="vectors to score, the newest of the training set"
    )
    options.add_argument("--repeats", type=int, default=5, help="interleaved rounds")
    given = options.parse_args()
    pin_utc()
    settings = Settings(home=given.home.resolve()) if given.home else Settings()
    use_case = USE_CASES[DEFAULT_USE_CASE]
    lake = Lake(settings.lake_root)
    champion = registry.champion(use_case.name, lake)
    if champion is None:
        raise SystemExit(f"{use_case.name} has no champion in {settings.lake_root}: contrail run, or --home")
    model = model_files.load(settings.lake_root, champion.sha256)
    with duck.connect(threads=settings.threads, memory_limit=settings.memory_limit) as con:
        vectors = con.execute(
            f"SELECT * FROM {lake.scan(f'model/{use_case.name}/training_set')} "
            f"ORDER BY {use_case.decision_column} DESC, {use_case.entity_key} LIMIT {given.rows}"
        ).to_arrow_table()
    matrix = model.encoding.matrix(vectors)
    codes = pa.table({name: matrix[:, i] for i, name in enumerate(use_case.features)})
    heading(
        f"batch scoring: {vectors.num_rows:,} rows × {len(use_case.features)} features, {model.booster.num_trees()} "
        f"trees, one thread, median of {given.repeats} interleaved",
        "lightgbm", "pyarrow",
    )  # fmt: skip
    scores: dict[str, Any] = {}

    def bare() -> None:
        scores[BARE] = model.booster.predict(codes, num_threads=1)

    def from_numpy() -> None:
        scores[NUMPY] = model.booster.predict(matrix, num_threads=1)

    def predict() -> None:
        scores[PREDICT] = model.predict(vectors)

    def score() -> None:
        scores[SCORE] = scoring.score(model, vectors, use_case, version=champion.version)

    measured = interleaved(
        {name: lambda work=work: cpu_of(work) for name, work in
         {BARE: bare, NUMPY: from_numpy, PREDICT: predict, SCORE: score}.items()},
        given.repeats,
    )  # fmt: skip
    cpu = {name: median(values) for name, values in measured.items()}
    table(
        [
            {"variant": NAMES[name], "CPU s": value, "µs per row": value / vectors.num_rows * 1e6,
             "of Arrow": value / cpu[BARE], "of numpy": value / cpu[NUMPY]}
            for name, value in cpu.items()
        ]
    )  # fmt: skip
    same = np.array_equal(scores[BARE], scores[NUMPY]) and np.array_equal(scores[NUMPY], scores[PREDICT])
    digest = hashlib.sha256(np.sort(scores[SCORE].column("score").to_numpy()).tobytes()).hexdigest()
    kept = digest == hashlib.sha256(np.sort(scores[BARE]).tobytes()).hexdigest()
    print(f"the same scores, bit for bit: {same and kept}")
    print(
        f"ratio, ours / peer from Arrow: predict {cpu[PREDICT] / cpu[BARE]:.3f}, all in {cpu[SCORE] / cpu[BARE]:.3f}"
    )
    verdict("all in, of raw predict from Arrow", cpu[SCORE] / cpu[BARE], 1.05, unit="×")


if __name__ == "__main__":
    main()
