"""Evidence: one record whose sha256 is its name, and which is read as it was written or not at all."""

from __future__ import annotations

import hashlib
import json
import math
from dataclasses import replace
from pathlib import Path

import pytest

from contrail import evidence
from contrail.criteria import Verdict
from contrail.evidence import Evidence, EvidenceError
from contrail.use_case import Criteria

MODEL = "a" * 64
FOUND = Evidence(
    use_case="broken_jar",
    model_sha256=MODEL,
    manifest_sha256="b" * 64,
    files={"model.lgb": "e" * 64},
    training_set="model/broken_jar/training_set@v3",
    criteria=Criteria(),
    criteria_sha256="c" * 64,
    champion_sha256="",
    groups=[{"part": "test", "auc": math.nan, "log_loss": 0.25}],
    comparison={},
    backtest=[],
    leakage={"holds": True},
    verdicts=[
        Verdict("max_bias", 0.05, 0.02, True),
        Verdict("parity", 0.0, math.nan, False, "never compared"),
    ],
)


def test_what_is_stored_is_read_back_under_the_sha256_of_its_bytes(tmp_path: Path) -> None:
    where = evidence.store(FOUND, {"card.md": b"# Jars", "plots/one.png": b"png"}, tmp_path)
    content = (where / evidence.RECORD).read_bytes()
    assert where.name == FOUND.evaluation_id == hashlib.sha256(content).hexdigest()
    assert {path.relative_to(where).as_posix() for path in where.rglob("*.*")} == {
        evidence.RECORD, "card.md", "plots/one.png",
    }  # fmt: skip
    record = evidence.read(tmp_path, MODEL, FOUND.evaluation_id)
    assert record["groups"] == [{"part": "test", "auc": None, "log_loss": 0.25}]
    assert record["criteria_sha256"] == FOUND.criteria_sha256
    assert FOUND.unmet == (FOUND.verdicts[1].in_words,)


def test_what_is_there_already_stays_and_other_findings_have_another_name(tmp_path: Path) -> None:
    where = evidence.store(FOUND, {"card.md": b"first"}, tmp_path)
    assert evidence.store(FOUND, {"card.md": b"second"}, tmp_path) == where
    assert (where / "card.md").read_bytes() == b"first"
    assert replace(FOUND, manifest_sha256="c" * 64).evaluation_id != FOUND.evaluation_id


def test_an_altered_or_missing_record_is_not_read(tmp_path: Path) -> None:
    path = evidence.store(FOUND, {}, tmp_path) / evidence.RECORD
    path.write_bytes(path.read_bytes().replace(b"0.02", b"0.01"))
    with pytest.raises(EvidenceError, match=f"was altered: its sha256 is .*, recorded is {path.parent.name}"):
        evidence.read(tmp_path, MODEL, FOUND.evaluation_id)
    path.unlink()
    with pytest.raises(EvidenceError, match=r"there is no .*evaluation\.json; restore"):
        evidence.read(tmp_path, MODEL, FOUND.evaluation_id)


def test_a_record_of_an_earlier_release_says_what_it_lacks(tmp_path: Path) -> None:
    body = json.loads(FOUND.record)
    del body["manifest_sha256"]
    content = json.dumps(body).encode()
    name = hashlib.sha256(content).hexdigest()
    path = evidence.folder(tmp_path, MODEL, name) / evidence.RECORD
    path.parent.mkdir(parents=True)
    path.write_bytes(content)
    with pytest.raises(EvidenceError, match="earlier release, it lacks manifest_sha256: train again"):
        evidence.read(tmp_path, MODEL, name)


def test_files_that_are_not_those_that_were_examined_are_named(tmp_path: Path) -> None:
    evidence.store(FOUND, {}, tmp_path)
    evidence.require_files(tmp_path, MODEL, FOUND.evaluation_id, dict(FOUND.files))
    for files in ({"model.lgb": "f" * 64}, {}, {**FOUND.files, "extra.json": "a" * 64}):
        other = sorted({*files, *FOUND.files} - {n for n, h in files.items() if FOUND.files.get(n) == h})
        with pytest.raises(EvidenceError, match=f"{', '.join(other)} is not what was examined"):
            evidence.require_files(tmp_path, MODEL, FOUND.evaluation_id, files)
