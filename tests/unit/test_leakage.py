"""The leakage certificate: an honest training set holds, and every planted leak is named with its row."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from datetime import datetime, timedelta
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from contrail import leakage
from contrail.leakage import FEATURES_KNOWN_AT, Certificate, LeakageError, certify
from contrail.training import Split, midnight, split_rows
from tests.support.small_model import NOW, USE_CASE, column_replaced, rows

CASE = replace(USE_CASE, request_known_column="request_known_at")
MICROSECOND = timedelta(microseconds=1)
INSTANT = pa.timestamp("us", tz="UTC")


def training_set() -> pa.Table:
    """Vectors of rows known 10 minutes before the decision, requests of an hour before; row 3 found nothing."""
    table = rows()
    decided = table["decided_at"].to_pylist()
    features: list[datetime | None] = [at - timedelta(minutes=10) for at in decided]
    features[3] = None
    request = [at - timedelta(hours=1) for at in decided]
    return table.append_column(FEATURES_KNOWN_AT, pa.array(features, INSTANT)).append_column(
        "request_known_at", pa.array(request, INSTANT)
    )


HONEST = training_set()
SPLIT = split_rows(HONEST, CASE, labels_until=NOW)


def certified(table: pa.Table, split: Split = SPLIT) -> Certificate:
    return certify(table, split, CASE, labels_until=NOW)


def planted(
    column: str, part: str, place: int, value: Callable[[dict[str, Any]], Any]
) -> tuple[pa.Table, str]:
    """The training set with one value changed, and the key of the row; the split is that of the honest one."""
    number = int(SPLIT.rows[part][place])
    values = HONEST[column].to_pylist()
    values[number] = value(HONEST.slice(number, 1).to_pylist()[0])
    return column_replaced(HONEST, column, values), HONEST["jar_id"][number].as_py()


def test_an_honest_training_set_holds_and_says_how_closely() -> None:
    found = certified(HONEST)
    assert found.holds
    found.require()
    assert found.rows == sum(len(chosen) for chosen in SPLIT.rows.values())
    assert [part.part for part in found.parts] == ["train", "validate", "test"]
    train, validate, test = found.parts
    assert [part.without_lookup for part in found.parts] == [1, 0, 0]
    assert {part.features_margin_seconds for part in found.parts} == {600.0}
    assert {part.request_margin_seconds for part in found.parts} == {3600.0}
    assert (train.cut, validate.cut, test.cut) == (
        midnight(SPLIT.cuts.train_end), midnight(SPLIT.cuts.validate_end), NOW,
    )  # fmt: skip
    greatest = max(at for at in HONEST[FEATURES_KNOWN_AT].to_pylist() if at is not None)
    assert test.features_known_at == greatest
    assert train.outcome_known_at is not None
    assert train.outcome_known_at < train.cut
    assert "the tightest margin is 600 s; 1 rows had no stored row" in found.in_words
    assert json.loads(json.dumps(found.to_dict()))["parts"][2]["features_known_at"] == greatest.isoformat()


@pytest.mark.parametrize("part", ["train", "validate", "test"])
@pytest.mark.parametrize("rule", [leakage.FEATURES, leakage.REQUEST])
def test_a_microsecond_after_the_decision_is_a_leak_and_the_decision_itself_is_none(
    part: str, rule: str
) -> None:
    column = FEATURES_KNOWN_AT if rule == leakage.FEATURES else "request_known_at"
    at_decision, _ = planted(column, part, 5, lambda row: row["decided_at"])
    assert certified(at_decision).holds
    late, key = planted(column, part, 5, lambda row: row["decided_at"] + MICROSECOND)
    found = certified(late)
    assert not found.holds
    assert {p.part: dict(p.offences) for p in found.parts if p.offences} == {part: {rule: 1}}
    (offence,) = found.first_offences
    assert (offence.key, offence.rule, offence.part) == (key, rule, part)
    assert offence.limit is not None
    assert offence.known_at == offence.limit + MICROSECOND
    with pytest.raises(
        LeakageError, match=rf"1 rows of {part} break the rule '{rule}'. First: {part} {key} decided"
    ):
        found.require()


@pytest.mark.parametrize("part", ["train", "validate", "test"])
def test_a_label_known_at_the_cut_is_a_leak(part: str) -> None:
    cut = {found.part: found.cut for found in certified(HONEST).parts}[part]
    before, _ = planted("outcome_known_at", part, 0, lambda _: cut - MICROSECOND)
    assert certified(before).holds
    late, key = planted("outcome_known_at", part, 0, lambda _: cut)
    (offence,) = certified(late).first_offences
    assert (offence.key, offence.rule, offence.known_at, offence.limit) == (key, leakage.OUTCOME, cut, cut)
    assert f"known at {cut.isoformat()}, cut {cut.isoformat()}" in certified(late).in_words


@pytest.mark.parametrize("part", ["train", "validate", "test"])
def test_an_outcome_that_was_known_at_the_decision_is_a_leak(part: str) -> None:
    after, _ = planted("outcome_known_at", part, 4, lambda row: row["decided_at"] + MICROSECOND)
    assert certified(after).holds
    known, key = planted("outcome_known_at", part, 4, lambda row: row["decided_at"])
    found = certified(known)
    (offence,) = found.first_offences
    assert (offence.part, offence.key, offence.rule) == (part, key, leakage.OPEN)
    assert f"{key} decided {offence.decision_at.isoformat()}: its outcome was known at" in found.in_words


def test_decisions_that_are_dated_after_the_event_are_a_leak_though_nothing_is_younger_than_they() -> None:
    late = [at + timedelta(hours=4) for at in HONEST["decided_at"].to_pylist()]
    found = certified(column_replaced(HONEST, "decided_at", late))
    assert {rule for part in found.parts for rule in part.offences} == {leakage.OPEN}


@pytest.mark.parametrize(
    ("column", "rules"),
    [
        ("request_known_at", {leakage.REQUEST}),
        ("outcome_known_at", {leakage.OUTCOME}),
        ("decided_at", {leakage.FEATURES, leakage.REQUEST}),
    ],
)
def test_a_time_that_must_be_there_and_is_not_is_a_leak(column: str, rules: set[str]) -> None:
    empty, key = planted(column, "validate", 7, lambda _: None)
    found = certified(empty)
    assert {(offence.rule, offence.key) for offence in found.first_offences} == {
        (rule, key) for rule in rules
    }
    assert not found.holds


def test_a_row_in_two_parts_is_a_leak() -> None:
    twice = replace(SPLIT, rows={**SPLIT.rows, "test": np.append(SPLIT.rows["test"], SPLIT.rows["train"][0])})
    found = certified(HONEST, twice)
    assert {part.part: dict(part.offences) for part in found.parts} == {
        "train": {leakage.PARTS_RULE: 1}, "validate": {}, "test": {leakage.PARTS_RULE: 1},
    }  # fmt: skip
    assert (
        f"{HONEST['jar_id'][int(SPLIT.rows['train'][0])].as_py()} is in another part, too" in found.in_words
    )


def test_only_the_first_offending_rows_are_named_and_all_are_counted() -> None:
    table = column_replaced(HONEST, FEATURES_KNOWN_AT, [NOW] * HONEST.num_rows)
    found = certified(table)
    assert sum(part.offences[leakage.FEATURES] for part in found.parts) == found.rows
    assert len(found.first_offences) == 3 * leakage.MOST_LISTED
    first = HONEST["jar_id"][int(SPLIT.rows["train"][0])].as_py()
    assert found.first_offences[0].key == first


def test_rows_that_nothing_can_be_said_of_are_refused() -> None:
    with pytest.raises(LeakageError, match=f"no column {FEATURES_KNOWN_AT}, so nothing can be said of leaks"):
        certified(HONEST.drop_columns([FEATURES_KNOWN_AT]))
    empty = column_replaced(HONEST, FEATURES_KNOWN_AT, [None] * HONEST.num_rows)
    with pytest.raises(LeakageError, match="features_known_at is empty in all 3,600 rows"):
        certified(empty)
    computed_alone = replace(CASE, join_keys=())
    assert certify(empty, SPLIT, computed_alone, labels_until=NOW).holds
    naive = HONEST["request_known_at"].cast(pa.timestamp("us"))
    place = HONEST.column_names.index("request_known_at")
    with pytest.raises(LeakageError, match="request_known_at must hold instants with a zone"):
        certified(HONEST.set_column(place, "request_known_at", naive))


def test_a_use_case_without_a_request_time_says_that_it_proves_nothing_of_it() -> None:
    found = certify(HONEST.drop_columns(["request_known_at"]), SPLIT, USE_CASE, labels_until=NOW)
    assert found.holds
    assert found.proven[leakage.REQUEST].startswith("not proven")
    assert found.parts[0].request_margin_seconds is None
