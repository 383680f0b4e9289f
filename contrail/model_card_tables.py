"""The tables of a model card, from the rows of the record."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from contrail.model_card_blocks import Block, Table, Text
from contrail.model_card_words import (
    by_auc,
    count,
    instant,
    interval,
    month_of,
    number,
    percent,
    signed,
)

Row = Mapping[str, Any]


def parts(groups: Sequence[Row]) -> Table:
    """Every metric of the whole validation and test part, beside the references."""
    rows = tuple(
        (
            row["part"], name, signed(row[name]) if name == "bias" else number(row[name]), interval(row, name),
            number(row.get(f"naive_{name}")), number(row.get(f"logistic_{name}")), count(row["rows"]),
        )
        for row in groups
        if row["kind"] == "all"
        for name in ("auc", "pr_auc", "log_loss", "brier", "ece", "bias")
    )  # fmt: skip
    header = ("part", "metric", "model", "interval", "naive", "logistic", "rows")
    return Table(header, rows, numeric=(2, 3, 4, 5, 6))


def groups(found: Sequence[Row], kind: str) -> Table:
    """One row per group of one kind, validation and test."""
    chosen = [row for row in found if row["kind"] == kind]
    header, numeric = ("part", kind, *_MEASURES), range(2, 2 + len(_MEASURES))
    return Table(header, tuple((r["part"], r["group"], *_measures(r)) for r in chosen), tuple(numeric))


def slices(found: Sequence[Row], columns: Sequence[str]) -> Table:
    """One row per slice of the test part, worst AUC first."""
    chosen = by_auc([row for row in found if row["part"] == "test" and row["kind"] in columns])
    header, numeric = ("slice", "value", *_MEASURES), range(2, 2 + len(_MEASURES))
    return Table(header, tuple((r["kind"], r["group"], *_measures(r)) for r in chosen), tuple(numeric))


_MEASURES = (
    "rows", "positive", "AUC", "interval", "naive", "logistic",
    "log-loss", "naive log-loss", "bias", "interval of bias",
)  # fmt: skip


def _measures(row: Row) -> tuple[str, ...]:
    return (
        count(row["rows"]), percent(row["label_rate"], 1), number(row["auc"]), interval(row, "auc", 3),
        number(row["naive_auc"]), number(row["logistic_auc"]), number(row["log_loss"]), number(row["naive_log_loss"]),
        signed(row["bias"]), interval(row, "bias", 3),
    )  # fmt: skip


def backtest(found: Sequence[Row]) -> Block:
    """One row per month."""
    if not found:
        return Text("There were too few earlier days for any month.")
    header = (
        "month",
        "learnt from",
        "rows",
        "positive",
        "AUC",
        "naive AUC",
        "log-loss",
        "naive log-loss",
        "Brier",
        "bias",
    )
    rows = tuple(
        (
            month_of(row), count(row["train_rows"]), count(row["rows"]), percent(row["label_rate"], 1),
            number(row["auc"]), number(row["naive_auc"]), number(row["log_loss"]), number(row["naive_log_loss"]),
            number(row["brier"]), signed(row["bias"]),
        )
        for row in found
    )  # fmt: skip
    return Table(header, rows, numeric=tuple(range(1, len(header))))


def comparison(record: Row) -> list[Block]:
    """What the champion of the moment does on the same rows."""
    compared = record["comparison"]
    if not compared:
        return [
            Text(
                "There was none." if not record["champion_sha256"] else "No rows that neither was trained on."
            )
        ]
    told = (
        f"Champion {record['champion_sha256'][:12]}, {count(compared['rows'])} rows of {count(compared['days'])} days "
        f"that neither was trained on: its log-loss less ours is {signed(compared['gain'])} "
        f"({number(compared['low'])} … {number(compared['high'])}), by a bootstrap paired by day. p-values of slices "
        "are corrected by Holm's procedure."
    )
    rows = tuple(
        (
            f"{each['column']} = {each['value']}", count(each["rows"]), signed(each["gain"]),
            f"{number(each['low'])} … {number(each['high'])}", number(each["p_holm"]),
            "worse" if each["is_worse"] else "",
        )
        for each in sorted(compared["slices"], key=lambda each: each["gain"])
    )  # fmt: skip
    header = ("slice", "rows", "gain", "interval", "p (Holm)", "significant")
    return [Text(told), *([Table(header, rows, numeric=(1, 2, 3, 4))] if rows else [])]


def leakage(found: Sequence[Row]) -> Table:
    """One row per part of the training set."""
    rows = tuple(
        (
            part["part"], count(part["rows"]), count(part["without_lookup"]), instant(part["cut"]),
            *(instant(part[name]) for name in ("features_known_at", "request_known_at", "outcome_known_at")),
            count(part["features_margin_seconds"]),
            ", ".join(f"{rule}: {count(n)}" for rule, n in part["offences"].items()) or "none",
        )
        for part in found
    )  # fmt: skip
    header = (
        "part", "rows", "nothing stored found", "cut", "newest feature", "newest request", "newest outcome",
        "least margin, s", "offences",
    )  # fmt: skip
    return Table(header, rows, numeric=(1, 2, 7))


def fairness(found: Sequence[Row]) -> Table:
    """What decisions at the threshold do to each slice, and the greatest difference between any two of a column."""
    rows = tuple(
        (
            row["kind"], row["group"], count(row["rows"]), number(row["selection_rate"]),
            number(row["true_positive_rate"]), number(row["false_positive_rate"]), number(row["precision"]),
            signed(row["bias"]),
        )
        for row in found
    )  # fmt: skip
    header = (
        "slice", "value", "rows", "positive decisions", "of positives", "of negatives", "precision", "bias",
    )  # fmt: skip
    return Table(header, rows, numeric=(2, 3, 4, 5, 6, 7))
