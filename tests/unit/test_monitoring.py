"""Reports count matured labels only; the alarm needs two windows in a row."""

from __future__ import annotations

from datetime import UTC, date, datetime, timedelta

import numpy as np
import pyarrow as pa
import pytest

from contrail import evaluation, monitoring, scoring
from contrail.monitoring import MonitoringError
from tests.support import small_model
from tests.support.small_model import NOW, USE_CASE, stored, trained

ROWS = small_model.rows()
COMPARED = ["jar_id", "maker", "shift", "is_broken", "outcome_known_at"]


@pytest.fixture(scope="module")
def lake_root(tmp_path_factory):
    return tmp_path_factory.mktemp("lake")


@pytest.fixture(scope="module")
def model(lake_root):
    return stored(lake_root, trained(ROWS))


def outcomes_of(model, rows: pa.Table) -> pa.Table:
    scores = scoring.score(model, rows, USE_CASE, version=1)
    return scores.join(rows.select(COMPARED), "jar_id").sort_by("prediction_id")


@pytest.fixture(scope="module")
def outcomes(model) -> pa.Table:
    due = scoring.due(ROWS, USE_CASE, model=model, complete_until=NOW, scored=ROWS.slice(0, 0))
    return outcomes_of(model, due)  # 1..30 March


def report(outcomes: pa.Table, model, now: datetime = NOW, **options) -> monitoring.Report:
    return monitoring.report(outcomes, USE_CASE, {model.sha256: model}, now=now, **options)


def test_windows_are_fortnights_and_months(outcomes, model):
    found = report(outcomes, model)
    windows = found.windows.to_pylist()
    assert [(w["window_kind"], w["window_start"], w["window_end"], w["rows"]) for w in windows] == [
        ("14d", date(2024, 3, 1), date(2024, 3, 15), 14 * 40),
        ("14d", date(2024, 3, 15), date(2024, 3, 29), 14 * 40),
        ("14d", date(2024, 3, 29), date(2024, 4, 12), 2 * 40),
        ("month", date(2024, 3, 1), date(2024, 4, 1), 30 * 40),
    ]
    assert [w["is_complete"] for w in windows] == [True, True, False, True]
    assert found.windows.schema == monitoring.WINDOWS_SCHEMA
    assert found.features.num_rows == 4 * len(USE_CASE.features)


def test_numbers_are_those_of_the_rows(outcomes, model):
    window = report(outcomes, model).windows.to_pylist()[0]
    chosen = outcomes.filter(
        pa.array([d < date(2024, 3, 15) for d in outcomes.column("made_on").to_pylist()])
    )
    labels = np.array(chosen.column("is_broken"))
    expected = evaluation.metrics(labels, chosen.column("score").to_numpy())
    naive = evaluation.metrics(labels, model.naive.predict(chosen))
    assert (window["auc"], window["log_loss"], window["bias"]) == (
        expected.auc,
        expected.log_loss,
        expected.bias,
    )
    assert (window["naive_auc"], window["naive_log_loss"]) == (naive.auc, naive.log_loss)
    assert window["auc"] > window["naive_auc"]
    assert window["model_sha256"] == model.sha256


def test_labels_known_later_do_not_exist_yet(outcomes, model):
    now = datetime(2024, 3, 10, 12, tzinfo=UTC)
    known = np.array([t <= now for t in outcomes.column("outcome_known_at").to_pylist()])
    first, second, *_ = report(outcomes, model, now).windows.to_pylist()
    assert (first["rows"], first["rows_waiting"]) == (known.sum(), 14 * 40 - known.sum())
    assert (second["rows"], second["rows_waiting"], second["auc"]) == (0, 14 * 40, None)
    assert not first["is_complete"]
    # what is not known yet may be anything: not one number moves
    hidden = small_model.column_replaced(
        outcomes,
        "is_broken",
        [y if k else None for y, k in zip(outcomes.column("is_broken").to_pylist(), known, strict=True)],
    )
    assert report(hidden, model, now).windows.equals(report(outcomes, model, now).windows)


def test_a_window_is_complete_once_the_label_delay_has_passed(outcomes, model):
    end = datetime(2024, 3, 15, tzinfo=UTC)
    almost = report(outcomes, model, end + USE_CASE.label_delay - timedelta(seconds=1)).windows.to_pylist()
    assert not almost[0]["is_complete"]
    assert report(outcomes, model, end + USE_CASE.label_delay).windows.to_pylist()[0]["is_complete"]


def test_missing_and_unheard_of_values_show_as_missing_and_as_drift(outcomes, model):
    def of(found: monitoring.Report, feature: str) -> dict[str, float]:
        rows = [
            f for f in found.features.to_pylist() if f["feature"] == feature and f["window_kind"] == "month"
        ]
        return rows[0]

    before = of(report(outcomes, model), "colour")
    assert (before["missing_rate"], before["training_missing_rate"]) == (0, 0)
    assert before["psi"] < 0.05
    unheard = small_model.column_replaced(outcomes, "colour", ["violet"] * outcomes.num_rows)
    found = report(unheard, model)
    after = of(found, "colour")
    assert after["missing_rate"] == 1
    assert after["psi"] > 2
    month = found.windows.to_pylist()[-1]
    assert (month["max_psi_feature"], month["max_missing_rate_rise_feature"]) == ("colour", "colour")
    assert month["drifted_share"] == pytest.approx(1 / 3)


def test_the_anchor_settles_where_windows_begin(outcomes, model):
    anchored = report(outcomes, model, anchor=date(2024, 2, 26)).windows.to_pylist()
    assert [w["window_start"] for w in anchored if w["window_kind"] == "14d"] == [
        date(2024, 2, 26), date(2024, 3, 11), date(2024, 3, 25),
    ]  # fmt: skip
    part = outcomes.filter(pa.array([d >= date(2024, 3, 11) for d in outcomes.column("made_on").to_pylist()]))
    later = report(part, model, anchor=date(2024, 2, 26)).windows.to_pylist()
    assert later[0] == anchored[1]


def test_rows_are_compared_with_the_naive_rates_of_their_own_model(outcomes, model, lake_root):
    other = stored(lake_root, trained(ROWS.slice(0, 75 * 40), small_model.another_seed(8)))
    place = [d < date(2024, 3, 15) for d in outcomes.column("made_on").to_pylist()]
    makers = [model.sha256 if early else other.sha256 for early in place]
    mixed = small_model.column_replaced(outcomes, "model_sha256", makers)
    models = {model.sha256: model, other.sha256: other}
    first, second, *_ = monitoring.report(mixed, USE_CASE, models, now=NOW).windows.to_pylist()
    assert (first["model_sha256"], second["model_sha256"]) == (model.sha256, other.sha256)
    assert first["naive_log_loss"] == report(outcomes, model).windows.to_pylist()[0]["naive_log_loss"]
    assert second["naive_log_loss"] != report(outcomes, model).windows.to_pylist()[1]["naive_log_loss"]
    with pytest.raises(MonitoringError, match=other.sha256):
        report(mixed, model)


def test_without_scores_the_report_is_empty(outcomes, model):
    found = report(outcomes.slice(0, 0), model)
    assert (found.windows.num_rows, found.features.num_rows) == (0, 0)
    assert found.windows.schema == monitoring.WINDOWS_SCHEMA


# --- the alarm ----------------------------------------------------------------------------------------------


def window(number: int, bias: float | None, **other: object) -> dict[str, object]:
    start = date(2024, 1, 1) + timedelta(days=14 * number)
    plain: dict[str, object] = {
        "window_kind": "14d",
        "window_start": start,
        "window_end": start + timedelta(days=14),
        "is_complete": True,
        "rows": 5_000,
        "bias": bias,
    }
    return plain | other


@pytest.mark.parametrize(
    ("case", "windows", "alarmed"),
    [
        ("nothing yet", [], False),
        ("one window", [window(0, 0.09)], False),
        ("two above", [window(0, 0.04), window(1, 0.05)], True),
        ("two below", [window(0, -0.04), window(1, -0.05)], True),
        ("one above, one below", [window(0, 0.04), window(1, -0.05)], True),
        ("only the newest", [window(0, 0.01), window(1, 0.05)], False),
        ("it passed", [window(0, 0.04), window(1, 0.05), window(2, 0.01)], False),
        ("it lasts", [window(0, 0.01), window(1, 0.05), window(2, 0.06)], True),
        ("exactly at the limit", [window(0, 0.03), window(1, 0.05)], False),
        ("in any order", [window(1, 0.05), window(0, 0.04)], True),
        ("a gap between", [window(0, 0.04), window(2, 0.05)], False),
        ("newest incomplete", [window(0, 0.04), window(1, 0.05, is_complete=False)], False),
        ("incomplete left out", [window(0, 0.04), window(1, 0.05), window(2, 0.0, is_complete=False)], True),
        ("too few rows", [window(0, 0.04), window(1, 0.05, rows=99)], False),
        ("no labels", [window(0, 0.04), window(1, None)], False),
        ("months do not count", [window(0, 0.04, window_kind="month"), window(1, 0.05)], False),
    ],
)
def test_alarms(case, windows, alarmed):
    found = monitoring.calibration_alarm(windows, limit=0.03)
    assert (found is not None) == alarmed, case


def test_an_alarm_says_why():
    found = monitoring.calibration_alarm([window(0, 0.04), window(1, 0.05)], limit=0.03)
    assert found is not None
    assert (found.first_start, found.last_end) == (date(2024, 1, 1), date(2024, 1, 29))
    assert found.biases == (0.04, 0.05)
    assert "2024-01-15..2024-01-29: +0.050 of 5000 rows" in found.reason
