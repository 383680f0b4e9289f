"""What the numbers of an evaluation say, in plain words: made from the record, so that it says nothing else."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, date, datetime
from typing import Any

from contrail.use_case import UseCase

NONE = "–"
MINUS = "−"
NO_BREAK = "\u00a0"


@dataclass(frozen=True)
class Summary:
    """The card in a minute.

    Attributes:
        sentences: what the model does, in figures.
        good: what it is good at.
        bad: what it is bad at.
        limits: what the numbers cannot say.
        tiles: (figure, what it is).
        rows: rows of the test part.
    """

    sentences: tuple[str, ...]
    good: tuple[str, ...]
    bad: tuple[str, ...]
    limits: tuple[str, ...]
    tiles: tuple[tuple[str, str], ...]
    rows: int


def summarise(use_case: UseCase, record: Mapping[str, Any]) -> Summary:
    """Say in plain words what the evidence holds.

    Args:
        record: as `contrail.evidence.read` gives it; it has a whole test part.
    """
    groups: Sequence[Mapping[str, Any]] = record["groups"]
    whole = next(row for row in groups if row["part"] == "test" and row["kind"] == "all")
    slices = [row for row in groups if row["part"] == "test" and row["kind"] in use_case.slices]
    good, bad, limits = list[str](), list[str](), list[str]()

    _against_references(whole, good, bad)
    _calibration(whole, record["criteria"], good, bad)
    _slices(slices, record["criteria"], good, bad)
    _months(record["backtest"], record["criteria"], good, bad, limits)
    _champion(record, good, bad, limits)
    bad += [f"Not met: {_in_words(verdict)}." for verdict in record["verdicts"] if not verdict["met"]]
    small = record["criteria"]["min_slice_rows"]
    limits.append(
        f"Slices with fewer than {count(small)} rows are not in the tables; nobody has checked the model on them."
    )
    if not record["leakage"]["holds"]:
        bad.insert(0, "The leakage certificate does not hold: all numbers here may be too good.")
    return Summary(
        _sentences(whole), tuple(good), tuple(bad) or ("Nothing that was measured; see the caveats.",),
        tuple(limits), _tiles(whole), whole["rows"],
    )  # fmt: skip


def number(value: float | None, digits: int = 4) -> str:
    """A number of the record, or a dash where there is none."""
    return NONE if value is None else f"{value:.{digits}f}".replace("-", MINUS)


def signed(value: float | None, digits: int = 4) -> str:
    """As `number`, with its sign."""
    return NONE if value is None else f"{value:+.{digits}f}".replace("-", MINUS)


def count(value: float | None) -> str:
    """A number of rows or the like."""
    return NONE if value is None else f"{value:,.0f}"


def percent(value: float | None, digits: int = 0) -> str:
    """A share as a percentage."""
    return NONE if value is None else f"{100 * value:.{digits}f}{NO_BREAK}%"


def instant(value: str | None) -> str:
    """An ISO instant as ``2013-09-01 00:00 UTC``."""
    return NONE if value is None else f"{datetime.fromisoformat(value).astimezone(UTC):%Y-%m-%d %H:%M} UTC"


def interval(row: Mapping[str, Any], name: str, digits: int = 4) -> str:
    """``0.7600 … 0.7830``; a dash where it was not found."""
    low, high = row[f"{name}_low"], row[f"{name}_high"]
    return NONE if low is None or high is None else f"{number(low, digits)} … {number(high, digits)}"


def name_of(row: Mapping[str, Any]) -> str:
    """``column = value`` of a slice."""
    return f"{row['kind']} = {row['group']}"


def by_auc(rows: Sequence[Mapping[str, Any]]) -> list[Mapping[str, Any]]:
    """Worst first; those whose AUC cannot be said last."""
    return sorted(rows, key=lambda row: (row["auc"] is None, row["auc"] or 0.0))


def share_of_days(manifest: Mapping[str, Any]) -> str:
    """How many days the test part has, of how many."""
    ends = [date.fromisoformat(manifest[name]) for name in ("train_first", "validate_end", "test_end")]
    return f"{(ends[2] - ends[1]).days} of {(ends[2] - ends[0]).days} days"


def _sentences(whole: Mapping[str, Any]) -> tuple[str, ...]:
    ranks = (
        f"Of a positive and a negative row it gives the positive one the higher score {_times(whole['auc'])}"
    )
    ranks += f" (the naive reference: {_times(whole['naive_auc'])}"
    if whole["logistic_auc"] is not None:
        ranks += f"; a logistic regression: {_times(whole['logistic_auc'])}"
    return (
        (
            f"Tested on {count(whole['rows'])} rows of days after those it learnt from; "
            f"{percent(whole['label_rate'], 1)} of them are positive."
        ),
        f"{ranks}); by chance it would be 50.",
        f"On average it says {percent(whole['mean_score'], 1)} where {percent(whole['label_rate'], 1)} came out.",
    )


def _times(auc: float | None) -> str:
    return "an unknown number of times" if auc is None else f"{100 * auc:.1f} times in 100"


def _tiles(whole: Mapping[str, Any]) -> tuple[tuple[str, str], ...]:
    listed = [
        (number(whole["auc"], 3), f"AUC ({interval(whole, 'auc', 3)})"),
        (number(whole["naive_auc"], 3), "AUC, naive reference"),
        (number(whole["logistic_auc"], 3), "AUC, logistic regression"),
        (number(whole["log_loss"], 3), f"log-loss (naive {number(whole['naive_log_loss'], 3)})"),
        (signed(whole["bias"], 3), "bias"),
        (count(whole["rows"]), "test rows"),
    ]
    return tuple((figure, what) for figure, what in listed if figure != NONE)


def _against_references(whole: Mapping[str, Any], good: list[str], bad: list[str]) -> None:
    for name, words in (("naive", "the naive reference"), ("logistic", "a logistic regression")):
        theirs, auc = whole[f"{name}_log_loss"], whole[f"{name}_auc"]
        if theirs is None or auc is None or whole["auc"] is None:
            continue
        gain = theirs - whole["log_loss"]
        told = (
            f"{words}: log-loss {number(whole['log_loss'])} against {number(theirs)} ({percent(abs(gain) / theirs, 1)} "
            f"{'less' if gain > 0 else 'more'}), AUC {number(whole['auc'])} against {number(auc)}."
        )
        (good if gain > 0 else bad).append(f"{'Better' if gain > 0 else 'No better'} than {told}")


def _calibration(
    whole: Mapping[str, Any], criteria: Mapping[str, Any], good: list[str], bad: list[str]
) -> None:
    bias, ece = whole["bias"], whole["ece"]
    is_fine = abs(bias) <= criteria["max_bias"] and ece <= criteria["max_calibration_error"]
    direction = "too high" if bias > 0 else "too low"
    verdict = "Its probabilities mean what they say" if is_fine else "Its probabilities are off"
    (good if is_fine else bad).append(
        f"{verdict}: on average {100 * abs(bias):.1f} percentage points {direction} (bias {signed(bias)}), mean error "
        f"over ten bins {number(ece)}."
    )


def _slices(
    slices: Sequence[Mapping[str, Any]], criteria: Mapping[str, Any], good: list[str], bad: list[str]
) -> None:
    ranked = [row for row in by_auc(slices) if row["auc"] is not None]
    if ranked:
        good.append(f"It ranks best on {_ranked(ranked[-1])}.")
        bad.append(f"It ranks worst on {_ranked(ranked[0])}.")
    useless = [row for row in slices if row["log_loss"] >= row["naive_log_loss"]]
    if useless:
        bad.append(
            "By log-loss no better than the naive reference on "
            + ", ".join(name_of(row) for row in useless)
            + "."
        )
    elif slices:
        good.append(f"It beats the naive reference on each of the {len(slices)} slices, by log-loss.")
    if slices:
        worst = max(slices, key=lambda row: abs(row["bias"]))
        is_far = abs(worst["bias"]) > criteria["max_bias"]
        told = (
            f"{name_of(worst)}: it says {percent(worst['mean_score'], 1)} where {percent(worst['label_rate'], 1)} "
            f"came out ({count(worst['rows'])} rows)"
        )
        if is_far:
            bad.append(f"Its probabilities are most off on {told}.")
        else:
            good.append(f"On no slice is it far off; the most on {told}.")


def _ranked(row: Mapping[str, Any]) -> str:
    found = interval(row, "auc", 3)
    within = "" if found == NONE else f", {found}"
    return f"{name_of(row)}: AUC {number(row['auc'], 3)} ({count(row['rows'])} rows{within})"


def _months(
    backtest: Sequence[Mapping[str, Any]],
    criteria: Mapping[str, Any],
    good: list[str],
    bad: list[str],
    limits: list[str],
) -> None:
    judged = [row for row in backtest if row["naive_log_loss"] is not None and row["log_loss"] is not None]
    if not judged:
        limits.append("There were too few months for a backtest: nothing is known of other seasons.")
        return
    behind = [row for row in judged if row["log_loss"] >= row["naive_log_loss"]]
    if behind:
        months = ", ".join(month_of(row) for row in behind)
        bad.append(f"In the backtest by log-loss no better than the naive reference in {months}.")
    else:
        good.append(
            f"In the backtest it beats the naive reference in each of {len(judged)} months, by log-loss."
        )
    ranked = by_auc([row for row in judged if row["auc"] is not None])
    if ranked:
        worst = ranked[0]
        bad.append(
            f"In the backtest it ranks worst in {month_of(worst)}: AUC {number(worst['auc'], 3)} (the naive "
            f"reference: {number(worst['naive_auc'], 3)})."
        )
    off = max(judged, key=lambda row: abs(row["bias"]))
    told = (
        f"in {month_of(off)} it said {percent(off['label_rate'] + off['bias'], 1)} where "
        f"{percent(off['label_rate'], 1)} came out"
    )
    if abs(off["bias"]) > criteria["max_bias"]:
        bad.append(f"It does not foresee every season: {told}.")
    else:
        good.append(f"In no month of the backtest is it far off; the most {told}.")


def month_of(row: Mapping[str, Any]) -> str:
    """``2013-04`` of a backtest row, whose month is its first day."""
    return str(row["month"])[:7]


def _champion(record: Mapping[str, Any], good: list[str], bad: list[str], limits: list[str]) -> None:
    compared = record["comparison"]
    if not compared:
        limits.append(
            "There was no champion to compare it with."
            if not record["champion_sha256"]
            else "It could not be compared with the champion of the moment."
        )
        return
    within = f"({number(compared['low'])} … {number(compared['high'])}, {count(compared['days'])} days)"
    if compared["low"] is not None and compared["low"] > 0:
        good.append(f"Better than the champion: log-loss {number(compared['gain'])} less {within}.")
    elif compared["high"] is not None and compared["high"] < 0:
        bad.append(f"Worse than the champion: log-loss {number(-compared['gain'])} more {within}.")
    else:
        bad.append(
            f"Not shown to be better than the champion: log-loss gain {signed(compared['gain'])} {within}."
        )
    worse = [f"{each['column']} = {each['value']}" for each in compared["slices"] if each["is_worse"]]
    if worse:
        bad.append(f"Significantly worse than the champion on {', '.join(worse)}.")


def _in_words(verdict: Mapping[str, Any]) -> str:
    found = "nothing found" if verdict["value"] is None else number(verdict["value"])
    note = f" ({verdict['note']})" if verdict["note"] else ""
    return f"{verdict['criterion']}: {found}, limit {number(verdict['limit'])}{note}"
