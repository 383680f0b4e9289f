"""Each month is scored by what was known before it, and by nothing else."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, date, datetime, timedelta

import numpy as np
import pyarrow as pa
import pytest

from contrail import evaluation, training
from contrail.backtest import SCHEMA, backtest, declared
from contrail.training import Cuts, Split, TrainingError
from tests.support import small_model
from tests.support.small_model import USE_CASE

DAYS = 130  # January to 9 May 2024
_MADE = small_model.rows(days=DAYS)
# Outcomes are known eight hours later: of the last eight jars of a day on the next day.
ROWS = small_model.column_replaced(
    _MADE, "outcome_known_at", [t + timedelta(hours=8) for t in _MADE.column("decided_at").to_pylist()]
)
END = datetime(2024, 6, 1, tzinfo=UTC)
FAST = replace(USE_CASE, learning=replace(USE_CASE.learning, rounds=5))


def test_months_begin_when_there_are_ninety_earlier_days():
    heard: list[str] = []
    found = backtest(ROWS, FAST, labels_until=END, threads=1, progress=heard.append)
    assert found.schema == SCHEMA
    assert found.column("month").to_pylist() == [date(2024, 4, 1), date(2024, 5, 1)]
    assert found.column("rows").to_pylist() == [30 * 40, 9 * 40]
    assert found.column("train_rows").to_pylist() == [91 * 40 - 8, 121 * 40 - 8]
    assert heard == ["backtest 2024-04 (1 of 2)", "backtest 2024-05 (2 of 2)"]
    assert all(gain > 0 for gain in _gains(found))


def test_the_figures_are_those_of_a_fit_by_hand():
    found = backtest(ROWS, FAST, labels_until=END, threads=1).to_pylist()[1]
    may = date(2024, 5, 1)
    begins = datetime(2024, 5, 1, tzinfo=UTC)
    known = ROWS.column("outcome_known_at").to_pylist()
    earlier = np.array([i for i in range(ROWS.num_rows) if known[i] < begins])
    split = Split(Cuts(date(2024, 1, 1), may, may, may), begins, {"train": earlier}, {"train": 0}, END)
    model = training.fit(ROWS, split, FAST, threads=1)
    month = ROWS.slice(121 * 40)
    labels = np.array(month.column("is_broken"))
    expected = evaluation.metrics(labels, model.predict(month))
    assert (found["auc"], found["log_loss"], found["bias"]) == (
        expected.auc,
        expected.log_loss,
        expected.bias,
    )
    assert found["naive_auc"] == evaluation.auc(labels, model.naive.predict(month))


def test_a_month_never_sees_what_came_after_it():
    april = backtest(ROWS, FAST, labels_until=END, threads=1).slice(0, 1)
    cut = 121 * 40
    later = ROWS.slice(cut)
    flipped = small_model.column_replaced(
        later, "is_broken", [not v for v in later.column("is_broken").to_pylist()]
    )
    spoilt = pa.concat_tables([ROWS.slice(0, cut), flipped])
    assert backtest(spoilt, FAST, labels_until=END, threads=1).slice(0, 1) == april


def test_no_outcome_counts_that_was_known_after_the_months_first_decision():
    early = timedelta(hours=6)  # decided at 18:00 on the evening before
    decided = [t - early for t in ROWS.column("decided_at").to_pylist()]
    known = [t + early for t in decided]  # of four jars of a day between 18:00 and midnight
    evening = small_model.column_replaced(ROWS, "decided_at", decided)
    evening = small_model.column_replaced(evening, "outcome_known_at", known)
    begins = datetime(2024, 5, 1, tzinfo=UTC)
    counts = [sum(t < limit for t in known) for limit in (begins, begins - early)]
    assert counts == [121 * 40, 121 * 40 - 4]
    assert (
        backtest(evening, FAST, labels_until=END, threads=1).column("train_rows").to_pylist()[1] == counts[1]
    )


def test_the_order_of_the_rows_does_not_matter():
    shuffled = ROWS.take(pa.array(np.random.default_rng(1).permutation(ROWS.num_rows)))
    first = backtest(ROWS, FAST, labels_until=END, threads=1).to_pylist()
    for row, other in zip(
        first, backtest(shuffled, FAST, labels_until=END, threads=1).to_pylist(), strict=True
    ):
        assert row == pytest.approx(other)


def test_outcomes_that_are_not_known_yet_do_not_count():
    now = datetime(2024, 5, 3, tzinfo=UTC)
    found = backtest(ROWS, FAST, labels_until=now, threads=1)
    assert found.column("rows").to_pylist() == [30 * 40, 2 * 40 - 8]
    assert backtest(ROWS, FAST, labels_until=datetime(2024, 5, 1, tzinfo=UTC), threads=1).num_rows == 1


def test_a_short_range_has_no_month_and_no_rows_are_refused():
    short = backtest(ROWS.slice(0, 40 * 40), FAST, labels_until=END, threads=1)
    assert (short.num_rows, short.schema) == (0, SCHEMA)
    with pytest.raises(TrainingError, match="no rows"):
        backtest(ROWS.slice(0, 0), FAST, labels_until=END, threads=1)


def test_a_month_with_labels_of_one_kind_has_no_auc():
    labels = ROWS.column("is_broken").to_pylist()
    labels[121 * 40 :] = [False] * (9 * 40)
    quiet = small_model.column_replaced(ROWS, "is_broken", labels)
    may = backtest(quiet, FAST, labels_until=END, threads=1).to_pylist()[1]
    assert may["auc"] is None
    assert may["log_loss"] > 0


def test_what_is_declared_otherwise_is_another_backtest():
    others = [
        replace(USE_CASE, seed=8),
        replace(USE_CASE, learning=replace(USE_CASE.learning, rounds=21)),
        replace(USE_CASE, features=USE_CASE.features[::-1]),
        replace(USE_CASE, naive_group_columns=("maker",)),
    ]
    assert len({declared(each) for each in (USE_CASE, *others)}) == 5
    assert declared(replace(USE_CASE, title="Jars", approvals_needed=2)) == declared(USE_CASE)


def _gains(found: pa.Table) -> list[float]:
    return [row["naive_log_loss"] - row["log_loss"] for row in found.to_pylist()]
