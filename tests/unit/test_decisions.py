"""The log of decisions: a chain that shows what was altered, and appends that go to just the rows that were read."""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Callable, Sequence
from dataclasses import asdict, replace
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from deltalake import DeltaTable
from deltalake.exceptions import CommitFailedError

from contrail import decisions
from contrail.decisions import Anchor, Decision, DecisionError, Draft
from contrail.lake import Commit, Lake, LakeError
from tests.support.small_model import NOW

COMMIT = Commit("model/a/model", "run-1", ("model/a/training_set@v3",), git_sha="abc")
ROWS = 6


def draft(n: int = 0, **changed: Any) -> Draft:
    plain = Draft(
        use_case="a", event="registered", model_version=n + 1, model_sha256=f"{n:064x}",
        decided_at=NOW + timedelta(hours=n), decided_by="Zoë", reason="ein „Grund“", unmet=("max_bias: 0.06",),
    )  # fmt: skip
    return replace(plain, **changed)


def add(lake: Lake, *drafts: Draft) -> list[Decision]:
    return decisions.append(lake, lambda rows: drafts, COMMIT)


@pytest.fixture
def lake(tmp_path: Path) -> Lake:
    """A log of `ROWS` rows."""
    made = Lake(tmp_path)
    for n in range(ROWS):
        add(made, draft(n, expires_at=NOW if n % 2 else None))
    return made


def write_anew(lake: Lake, rows: Sequence[Decision]) -> None:
    """What somebody does who may write the files: another table in the log's place."""
    shutil.rmtree(lake.uri(decisions.TABLE))
    lake.create(decisions.TABLE, decisions.SCHEMA)
    listed = [asdict(row) for row in rows]
    lake.append(decisions.TABLE, pa.Table.from_pylist(listed, schema=decisions.SCHEMA), COMMIT)


def chained_anew(rows: Sequence[Decision]) -> list[Decision]:
    """The rows with hashes that fit."""
    previous, made = decisions.BEFORE_THE_FIRST, list[Decision]()
    for row in rows:
        row = replace(row, previous_sha256=previous)
        made.append(replace(row, row_sha256=row.computed_sha256))
        previous = made[-1].row_sha256
    return made


# --- what is written --------------------------------------------------------------------------------------------------


def test_without_a_log_there_are_no_rows(tmp_path: Path) -> None:
    lake = Lake(tmp_path)
    assert decisions.read(lake) == []
    assert decisions.head(lake) is None
    found = decisions.verify(lake)
    assert (found.rows, found.head, found.holds, found.anchors_checked) == (0, None, True, 0)


def test_rows_are_read_as_they_were_written(tmp_path: Path) -> None:
    lake = Lake(tmp_path)
    full = draft(
        request_id="r1", evaluation_id="e" * 64, criteria_sha256="c" * 64, champion_sequence=4, approvals_needed=2,
        expires_at=NOW + timedelta(microseconds=7),
    )  # fmt: skip
    written = add(lake, draft(use_case="b"), full)
    assert decisions.read(lake) == written
    assert decisions.read(lake, "a") == written[1:]
    first, second = written
    assert [first.sequence, second.sequence] == [0, 1]
    assert (first.previous_sha256, second.previous_sha256) == (decisions.BEFORE_THE_FIRST, first.row_sha256)
    assert first.recorded_at == second.recorded_at != NOW
    assert {name: getattr(second, name) for name in asdict(full)} == asdict(full)
    assert decisions.head(lake) == Anchor(1, second.row_sha256) == second.anchor


def test_the_hash_is_that_of_the_documented_json(lake: Lake) -> None:
    row = decisions.read(lake)[1]
    instants = {
        name: getattr(row, name).strftime("%Y-%m-%dT%H:%M:%S.%f+00:00")
        for name in ("decided_at", "recorded_at", "expires_at")
    }
    body = asdict(row) | instants | {"unmet": ["max_bias: 0.06"]}
    del body["row_sha256"]
    text = json.dumps(body, sort_keys=True, separators=(",", ":"), ensure_ascii=False)
    assert '"decided_by":"Zoë"' in text
    assert row.row_sha256 == hashlib.sha256(text.encode("utf-8")).hexdigest()


def test_one_decision_is_one_commit_that_says_what_it_read(tmp_path: Path) -> None:
    lake = Lake(tmp_path)
    added = add(lake, draft(0), draft(0, event="promoted"))
    add(lake, draft(1))
    _, first, second = lake.commits(decisions.TABLE)
    assert first.rows_added == 2
    assert first.inputs == (*COMMIT.inputs, "trail/decisions@v0")
    assert second.inputs == (*COMMIT.inputs, "trail/decisions@v1")
    assert first.extra == {"events": "registered promoted", "anchor": str(added[-1].anchor)}


def test_deciding_nothing_writes_nothing_and_so_does_a_refusal(lake: Lake) -> None:
    version = lake.version(decisions.TABLE)

    def refuse(rows: Sequence[Decision]) -> list[Draft]:
        raise ValueError(f"refused after {len(rows)} rows")

    assert add(lake) == []
    with pytest.raises(ValueError, match="refused after 6 rows"):
        decisions.append(lake, refuse, COMMIT)
    assert lake.version(decisions.TABLE) == version


def test_a_clock_that_was_set_back_writes_nothing_into_the_past(lake: Lake) -> None:
    last = decisions.read(lake)[-1].decided_at
    back = NOW - timedelta(days=9)
    one, other, two = add(
        lake,
        draft(decided_at=back),
        draft(decided_at=back, use_case="b"),
        draft(decided_at=last + timedelta(1)),
    )
    assert (one.decided_at, other.decided_at, two.decided_at) == (last, back, last + timedelta(1))
    assert decisions.read(lake)[-3:] == [one, other, two]
    assert decisions.verify(lake).holds


def test_an_answer_keeps_what_was_bound(lake: Lake) -> None:
    (asked,) = add(lake, draft(event="requested", request_id="r", approvals_needed=2, expires_at=NOW))
    answer = asked.answered("approved", decided_at=NOW, decided_by="Eve", reason="ok")
    bound = asdict(draft(event="requested", request_id="r", approvals_needed=2, expires_at=NOW))
    said = {"event": "approved", "decided_at": NOW, "decided_by": "Eve", "reason": "ok"}
    assert asdict(answer) == bound | said


# --- compare and swap -------------------------------------------------------------------------------------------------


def test_after_a_lost_race_it_is_decided_anew_on_the_rows_then_there(lake: Lake) -> None:
    seen: list[int] = []

    def decide(rows: Sequence[Decision]) -> list[Draft]:
        seen.append(len(rows))
        if len(seen) < 3:
            add(lake, draft(reason="somebody was first"))
        return [draft(reason=f"after {len(rows)}")]

    (row,) = decisions.append(lake, decide, COMMIT)
    assert seen == [ROWS, ROWS + 1, ROWS + 2]
    assert (row.sequence, row.reason) == (ROWS + 2, f"after {ROWS + 2}")
    assert decisions.verify(lake).holds


def test_whoever_always_loses_is_told(lake: Lake, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(decisions, "ATTEMPTS", 3)
    asked = 0

    def decide(rows: Sequence[Decision]) -> list[Draft]:
        nonlocal asked
        asked += 1
        lost = draft(reason="first")
        decisions.append(lake, lambda _: [lost], COMMIT)
        return [draft()]

    with pytest.raises(DecisionError, match="other writers were first 3 times; decide again"):
        decisions.append(lake, decide, COMMIT)
    assert asked == 3
    assert len(decisions.read(lake)) == ROWS + 3


def test_the_table_refuses_to_forget(lake: Lake) -> None:
    with pytest.raises(CommitFailedError, match="append-only"):
        DeltaTable(lake.uri(decisions.TABLE)).delete("sequence = 0")
    assert len(decisions.read(lake)) == ROWS


# --- what is altered --------------------------------------------------------------------------------------------------

FORGED: dict[str, Any] = {
    "use_case": "b",
    "event": "promoted",
    "model_version": 9,
    "model_sha256": "f" * 64,
    "request_id": "r",
    "evaluation_id": "e",
    "criteria_sha256": "c",
    "champion_sequence": 0,
    "approvals_needed": 1,
    "expires_at": NOW + timedelta(days=9),
    "unmet": (),
    "decided_at": NOW,
    "recorded_at": NOW,
    "decided_by": "Eve",
    "reason": "forged",
    "previous_sha256": "0" * 64,
    "row_sha256": "1" * 64,
}


def test_every_column_but_the_number_is_forged_below() -> None:
    assert set(FORGED) == set(decisions.SCHEMA.names) - {"sequence"}


@pytest.mark.parametrize("column", FORGED)
def test_a_forged_value_is_found_where_it_is(lake: Lake, column: str) -> None:
    rows = decisions.read(lake)
    rows[3] = replace(rows[3], **{column: FORGED[column]})
    write_anew(lake, rows)
    found = decisions.verify(lake)
    assert (found.first_bad, found.rows) == (3, ROWS)
    assert "row 3" in found.why
    assert "was altered" in found.why


def test_a_forged_row_with_its_own_hash_right_breaks_the_next(lake: Lake) -> None:
    rows = decisions.read(lake)
    forged = replace(rows[3], reason="forged")
    rows[3] = replace(forged, row_sha256=forged.computed_sha256)
    write_anew(lake, rows)
    found = decisions.verify(lake)
    assert found.first_bad == 4
    assert "row 4 (registered) does not follow the row before it" in found.why


def test_a_deleted_row_is_named(lake: Lake) -> None:
    rows = decisions.read(lake)
    write_anew(lake, rows[:2] + rows[3:])
    found = decisions.verify(lake)
    assert (found.first_bad, found.why) == (2, "row 2 is missing: 3 comes next")
    write_anew(lake, rows[1:])
    assert decisions.verify(lake).first_bad == 0


def test_reordered_rows_are_found(lake: Lake) -> None:
    rows = decisions.read(lake)
    rows[2], rows[3] = replace(rows[3], sequence=2), replace(rows[2], sequence=3)
    write_anew(lake, rows)
    assert decisions.verify(lake).first_bad == 2


def test_a_number_that_stands_twice_is_found(lake: Lake) -> None:
    rows = decisions.read(lake)
    write_anew(lake, [*rows, replace(rows[4], reason="another")])
    assert decisions.verify(lake).first_bad == 4


def data_file(lake: Lake) -> Path:
    return min(Path(lake.uri(decisions.TABLE)).glob("*.parquet"))


def log_entry(lake: Lake) -> Path:
    return Path(lake.uri(decisions.TABLE)) / "_delta_log" / f"{2:020}.json"


@pytest.mark.parametrize("path", [data_file, log_entry])
@pytest.mark.parametrize("damage", ["gone", "cut", "other"])
def test_a_damaged_file_is_named_with_what_to_do(
    lake: Lake, path: Callable[[Lake], Path], damage: str
) -> None:
    file = path(lake)
    kept = file.read_bytes()
    file.write_bytes(kept[: len(kept) // 2] if damage == "cut" else b"other")
    if damage == "gone":
        file.unlink()
    for ask in (decisions.verify, decisions.read, lambda lake: add(lake, draft())):
        with pytest.raises(LakeError, match=r"damaged \((?s:.+)\); restore it from the backup$"):
            ask(lake)
    file.write_bytes(kept)
    assert decisions.verify(lake).holds


def test_an_instant_that_no_clock_shows_is_told(lake: Lake) -> None:
    forged = pa.Table.from_pylist([asdict(decisions.read(lake)[1])], schema=decisions.SCHEMA)
    endless = pa.array([2**62], pa.int64()).cast(decisions.SCHEMA.field("decided_at").type)
    place = forged.schema.get_field_index("decided_at")
    lake.append(
        decisions.TABLE, forged.set_column(place, decisions.SCHEMA.field("decided_at"), endless), COMMIT
    )
    with pytest.raises(DecisionError, match="was altered: it holds an instant that no clock shows"):
        decisions.verify(lake)


def test_nothing_is_decided_upon_a_damaged_log(lake: Lake) -> None:
    rows = decisions.read(lake)
    rows[1] = replace(rows[1], reason="forged")
    write_anew(lake, rows)
    with pytest.raises(DecisionError, match=r"damaged at sequence 1 \(row 1 .*restore it from the backup"):
        add(lake, draft())
    assert len(decisions.read(lake)) == ROWS


# --- anchors ----------------------------------------------------------------------------------------------------------


def test_a_cut_end_shows_by_an_anchor_alone(lake: Lake) -> None:
    rows = decisions.read(lake)
    anchors = [rows[1].anchor, rows[-1].anchor]
    assert decisions.verify(lake, anchors).holds
    write_anew(lake, rows[:-2])
    assert decisions.verify(lake).holds
    found = decisions.verify(lake, anchors)
    assert (found.first_bad, found.anchors_checked, found.anchors_gone) == (ROWS - 2, 2, (rows[-1].anchor,))
    assert "the end was cut off after 4 rows" in found.why


def test_a_log_written_anew_shows_by_an_anchor_alone(lake: Lake) -> None:
    rows = decisions.read(lake)
    anchors = [row.anchor for row in rows[1:5]]
    forged = chained_anew([*rows[:3], replace(rows[3], decided_by="Eve"), *rows[4:]])
    write_anew(lake, forged)
    assert decisions.verify(lake).holds
    found = decisions.verify(lake, anchors)
    assert found.first_bad == 3
    assert found.anchors_gone == tuple(anchors[2:])
    assert "written anew from here or from before" in found.why


def test_the_first_altered_row_is_named_before_the_anchors(lake: Lake) -> None:
    rows = decisions.read(lake)
    anchor = rows[-1].anchor
    rows[1] = replace(rows[1], reason="forged")
    write_anew(lake, rows[:-1])
    found = decisions.verify(lake, [anchor])
    assert found.first_bad == 1
    assert found.anchors_gone == (anchor,)


def test_an_anchor_of_a_log_that_is_gone(lake: Lake) -> None:
    anchor = decisions.read(lake)[0].anchor
    shutil.rmtree(lake.uri(decisions.TABLE))
    assert decisions.verify(lake, [anchor]).first_bad == 0


def test_an_anchor_is_read_as_it_is_written(lake: Lake) -> None:
    anchor = decisions.head(lake)
    assert anchor is not None
    assert Anchor.parse(f" {anchor}\n") == anchor


@pytest.mark.parametrize(
    "text", ["", "7", "7:", f"x:{'0' * 64}", f"-1:{'0' * 64}", f"7:{'0' * 63}", f"7:{'G' * 64}"]
)
def test_what_is_no_anchor_is_refused(text: str) -> None:
    with pytest.raises(DecisionError, match="is no anchor: SEQUENCE:SHA256 is"):
        Anchor.parse(text)


def test_instants_come_back_in_utc(lake: Lake) -> None:
    row = decisions.read(lake)[1]
    instants: list[datetime | None] = [row.decided_at, row.recorded_at, row.expires_at]
    assert [instant and instant.utcoffset() for instant in instants] == [timedelta(0)] * 3
