"""Every criterion can fail, says why, and what was not looked at is not met."""

from __future__ import annotations

import math
from dataclasses import fields, replace
from datetime import date

import numpy as np
import pyarrow as pa
import pytest

from contrail import criteria, evaluation
from contrail.backtest import SCHEMA as BACKTEST
from contrail.comparison import Comparison, SliceComparison
from contrail.criteria import Verdict, judge, predict_milliseconds
from contrail.evaluation import EvaluationError, GroupMetrics
from contrail.use_case import Criteria
from tests.support import small_model
from tests.support.small_model import USE_CASE

DRAW = np.random.default_rng(5)
LABELS = DRAW.random(2_000) < 0.3
GOOD = np.where(LABELS, 0.55, 0.2)
FLAT = np.full(2_000, 0.3)
SHA = "c" * 64


def item(kind: str, scores: np.ndarray, group: str = "all") -> GroupMetrics:
    return GroupMetrics(
        "test", kind, group, evaluation.metrics(LABELS, scores), evaluation.metrics(LABELS, FLAT)
    )


def months(*gains: float, rows: int = 1_000) -> pa.Table:
    listed = [
        {
            "month": date(2024, i, 1),
            "train_rows": 9,
            "rows": rows,
            "log_loss": 0.5,
            "naive_log_loss": 0.5 + gain,
        }
        for i, gain in enumerate(gains, 4)
    ]
    return pa.Table.from_pylist(listed, schema=BACKTEST)


def against(gain: float, half: float, *worse: bool) -> Comparison:
    slices = tuple(
        SliceComparison("maker", f"m{i}", 1_000, -0.1 if w else 0.1, -0.2, 0.2, 0.001, 0.002, w)
        for i, w in enumerate(worse)
    )
    return Comparison(60, 5_000, 0.95, gain, gain - half, gain + half, slices)


def judged(
    found: list[GroupMetrics] | None = None, *, limits: Criteria | None = None, **facts: object
) -> dict[str, Verdict]:
    good: dict[str, object] = {
        "backtest": months(0.1, 0.05),
        "leakage_holds": True,
        "latency_milliseconds": 0.4,
        "parity_mismatches": 0,
    }
    use_case = replace(USE_CASE, criteria=limits or Criteria(max_calibration_error=0.4))
    given = [item("all", GOOD), item("maker", GOOD, "north")] if found is None else found
    return {v.criterion: v for v in judge(given, use_case, **(good | facts))}  # type: ignore[arg-type]


def unmet(*args: object, **kwargs: object) -> set[str]:
    return {name for name, verdict in judged(*args, **kwargs).items() if not verdict.met}  # type: ignore[arg-type]


def test_a_good_model_without_a_champion_meets_all_and_is_asked_for_no_comparison():
    found = judged()
    assert all(v.met for v in found.values())
    assert not {"champion", "champion_slices"} & set(found)


def test_every_criterion_that_is_declared_is_judged():
    judged_by_name = set(judged(comparison=against(0.1, 0.01), champion=SHA))
    # How to measure, or judged under another name: `parity`, `champion`.
    how = {
        "min_slice_rows",
        "min_champion_slice_rows",
        "confidence",
        "alarm_bias",
        "needs_parity",
        "min_champion_gain",
    }
    assert judged_by_name == {f.name for f in fields(Criteria)} - how | {
        "leakage",
        "parity",
        "champion",
        "champion_slices",
    }


@pytest.mark.parametrize(
    ("missed", "given"),
    [
        ({"min_log_loss_gain", "min_auc_gain"}, {"found": [item("all", FLAT)]}),
        ({"max_auc"}, {"limits": Criteria(max_auc=0.9, max_calibration_error=0.4)}),
        (
            {"max_calibration_error"},
            {"limits": Criteria(max_calibration_error=0.05, max_bias=0.5), "found": [item("all", GOOD)]},
        ),
        ({"max_bias"}, {"found": [item("all", np.clip(GOOD + 0.1, 0, 1))]}),
        ({"max_slice_bias"}, {"found": [item("all", GOOD), item("maker", GOOD + 0.2, "south")]}),
        ({"min_backtest_gain"}, {"backtest": months(0.1, -0.01)}),
        ({"min_backtest_gain"}, {"backtest": None}),
        ({"max_predict_milliseconds"}, {"latency_milliseconds": 1.5}),
        ({"max_predict_milliseconds"}, {"latency_milliseconds": None}),
        ({"leakage"}, {"leakage_holds": False}),
        ({"leakage"}, {"leakage_holds": None}),
        ({"parity"}, {"parity_mismatches": 3}),
        ({"parity"}, {"parity_mismatches": None}),
        ({"champion"}, {"champion": SHA, "comparison": against(0.01, 0.02)}),
        ({"champion"}, {"champion": SHA, "comparison": against(0.0, 0.0)}),
        ({"champion_slices"}, {"champion": SHA, "comparison": against(0.1, 0.02, True, False)}),
        ({"champion", "champion_slices"}, {"champion": SHA, "comparison": None}),
        ({"champion"}, {"champion": SHA, "comparison": against(0.1, math.nan)}),
    ],
)
def test_every_criterion_can_fail_alone(missed, given):
    assert unmet(**given) == missed


def test_verdicts_say_what_one_must_know():
    found = judged(
        [item("all", GOOD), item("maker", GOOD, "north"), item("maker", GOOD - 0.1, "south")],
        backtest=months(0.1, 0.02, 0.3),
        champion=SHA,
        comparison=against(0.1, 0.02, True, False),
    )
    assert found["max_slice_bias"].note == "worst: maker south, 2,000 rows"
    assert found["min_backtest_gain"].value == pytest.approx(0.02)
    assert found["min_backtest_gain"].note == "worst of 3 months: 2024-05"
    assert (
        "cccccccccccc: +0.1000 nats, 95% interval +0.0800 to +0.1200, 5,000 rows of 60 days"
        in found["champion"].note
    )
    assert found["champion_slices"].in_words == (
        "champion_slices: 1, limit 0 (significantly worse on maker m0 (-0.1000, p 0.002))"
    )
    assert "never" not in judged()["parity"].note
    assert "parity check" in judged(parity_mismatches=None)["parity"].note
    assert "could not be compared: no labelled rows" in judged(champion=SHA)["champion"].note
    blind = judged(champion=SHA, why_not_compared="it cannot score these rows")
    assert blind["champion_slices"].note.endswith("could not be compared: it cannot score these rows")


def test_what_is_not_asked_is_not_judged():
    relaxed = Criteria(needs_parity=False, max_calibration_error=0.4)
    assert "parity" not in judged(limits=relaxed, parity_mismatches=None)
    assert judged(champion="", comparison=against(-1.0, 0.1)).keys() == judged().keys()


def test_a_backtest_that_has_no_month_yet_is_met_with_a_note():
    for none in (months(), months(-0.5, rows=10)):
        verdict = judged(backtest=none)["min_backtest_gain"]
        assert verdict.met
        assert math.isnan(verdict.value)
        assert "nothing to judge yet" in verdict.note


def test_the_test_part_must_be_there():
    with pytest.raises(EvaluationError, match="test part"):
        judge([replace(item("all", GOOD), part="validate")], USE_CASE)


def test_a_score_is_timed_in_cpu_milliseconds(monkeypatch):
    clock = iter(np.arange(0, 100) * 0.1)
    monkeypatch.setattr(criteria.time, "process_time", lambda: next(clock))
    seen: list[int] = []

    class Model:
        def predict(self, rows: pa.Table) -> np.ndarray:
            seen.append(rows.num_rows)
            return np.zeros(rows.num_rows)

    rows = small_model.rows(days=1)
    assert predict_milliseconds(Model(), rows) == pytest.approx(1000 * 0.1 / criteria.BATCH)
    assert set(seen) == {1}
    assert len(seen) == 1 + criteria.BATCHES * criteria.BATCH
    with pytest.raises(EvaluationError, match="without a row"):
        predict_milliseconds(Model(), rows.slice(0, 0))
