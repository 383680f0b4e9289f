"""A small model with all that its card is made from: evidence with a champion, a backtest and unmet criteria."""

from __future__ import annotations

from datetime import date
from pathlib import Path

import pyarrow as pa

from contrail import evaluation, evidence, fairness, leakage, model_files, training
from contrail.comparison import Comparison, SliceComparison
from contrail.criteria import Verdict
from contrail.evidence import Evidence
from contrail.model_card import CardFacts
from tests.support import small_model
from tests.support.small_model import LINEAGE, NOW, USE_CASE, trained

PNG = b"\x89PNG\r\n\x1a\nno picture, but bytes"
PICTURES = {
    f"plots/{name}.png": PNG + name.encode() for name in ("importance", "slices", "calibration", "odd_one")
}
BACKTEST = [
    {"month": date(2024, 2, 1), "train_rows": 1240, "rows": 1160, "label_rate": 0.5, "auc": 0.71, "log_loss": 0.61,
     "brier": 0.21, "bias": -0.12, "naive_auc": 0.52, "naive_log_loss": 0.69},
    {"month": date(2024, 3, 1), "train_rows": 2400, "rows": 1200, "label_rate": 0.4, "auc": 0.75, "log_loss": 0.58,
     "brier": 0.20, "bias": 0.01, "naive_auc": 0.53, "naive_log_loss": 0.68},
]  # fmt: skip
VERDICTS = [
    Verdict("min_log_loss_gain", 0.02, 0.0917, True),
    Verdict("max_bias", 0.05, 0.0731, False, "worse than it was"),
    Verdict("parity", 0.0, float("nan"), False, "never compared"),
]
COMPARISON = Comparison(
    days=15, rows=600, confidence=0.95, gain=0.0123, low=0.0045, high=0.0201,
    slices=(SliceComparison("maker", "north", 300, -0.02, -0.03, -0.01, 0.001, 0.002, is_worse=True),),
)  # fmt: skip


def examined() -> tuple[training.TrainedModel, Evidence]:
    """The fitted model and what was found of it."""
    rows = small_model.rows()
    split = training.split_rows(rows, USE_CASE, labels_until=NOW)
    model = trained(rows)
    test = rows.take(pa.array(split.rows["test"]))
    scores = model.predict(test)
    groups = evaluation.evaluate(test, scores, model.naive, USE_CASE, part="test", logistic=scores)
    certified = rows.append_column(leakage.FEATURES_KNOWN_AT, rows.column("decided_at"))
    return model, Evidence(
        use_case=USE_CASE.name,
        model_sha256=model.sha256,
        manifest_sha256="d" * 64,
        files={},
        training_set=LINEAGE.training_set,
        criteria=USE_CASE.criteria,
        criteria_sha256=USE_CASE.criteria_sha256,
        champion_sha256="c" * 64,
        groups=evaluation.evaluation_table(groups).to_pylist(),
        comparison=COMPARISON.to_dict(),
        backtest=BACKTEST,
        leakage=leakage.certify(certified, split, USE_CASE, labels_until=NOW).to_dict(),
        verdicts=VERDICTS,
        facts={"fairness": fairness.by_slice(test, scores, USE_CASE).to_pylist()},
    )


def card_facts(model: training.TrainedModel, found: Evidence, lake: Path) -> CardFacts:
    """As they are read back from a lake."""
    model_files.write(model, USE_CASE, LINEAGE, lake)
    evidence.store(found, {}, lake)
    return CardFacts(
        use_case=USE_CASE,
        manifest=model_files.read_manifest(lake, model.sha256),
        evidence=evidence.read(lake, model.sha256, found.evaluation_id),
        evaluation_id=found.evaluation_id,
        model_text=model.text,
        data_versions=("clean/jars@v7", "feature/kiln@v2"),
        pictures=PICTURES,
        version=3,
        owner="team:jars",
    )
