"""A candidate examined: whom it is compared with."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from contrail import backtest, candidate, leakage, model_files, training
from contrail.candidate import Circumstances
from contrail.evidence import Evidence
from contrail.training import TrainedModel
from contrail.use_case import UseCase
from tests.support import small_model
from tests.support.small_model import LINEAGE, NOW, USE_CASE

AGAINST = {"champion", "champion_slices"}


@pytest.fixture(autouse=True)
def undrawn(monkeypatch: pytest.MonkeyPatch) -> None:
    """No pictures: they are shown elsewhere."""
    monkeypatch.setattr(candidate, "_pictures", lambda *_: {})
    monkeypatch.setattr("contrail.plots_groups.comparison", lambda *_, title: b"")


def examined(
    lake: Path, model: TrainedModel, champion: TrainedModel | None, use_case: UseCase = USE_CASE
) -> Evidence:
    rows = small_model.rows()
    split = training.split_rows(rows, USE_CASE, labels_until=NOW)
    certified = rows.append_column(leakage.FEATURES_KNOWN_AT, rows.column("decided_at"))
    if champion:
        model_files.write(champion, USE_CASE, LINEAGE, lake)
    known = Circumstances(
        training_set=LINEAGE.training_set,
        manifest_sha256="d" * 64,
        files={},
        certificate=leakage.certify(certified, split, USE_CASE, labels_until=NOW),
        backtest=backtest.SCHEMA.empty_table(),
        champion=model_files.load(lake, champion.sha256) if champion else None,
        parity_mismatches=0,
    )
    return candidate.examine(rows, split, model, use_case, known).evidence


def test_a_candidate_is_compared_with_the_champion_unless_it_is_the_champion(tmp_path: Path) -> None:
    model = small_model.trained(small_model.rows())
    other = small_model.trained(small_model.rows(), small_model.another_seed(5))
    assert model.sha256 != other.sha256
    against = examined(tmp_path, model, other)
    assert against.champion_sha256 == other.sha256
    assert {verdict.criterion for verdict in against.verdicts} >= AGAINST
    for champion in (None, model):
        alone = examined(tmp_path, model, champion)
        assert (alone.champion_sha256, alone.comparison) == ("", {})
        assert not AGAINST & {verdict.criterion for verdict in alone.verdicts}


def test_a_champion_that_can_no_longer_score_stands_in_nobodys_way(tmp_path: Path) -> None:
    """A feature of its is gone: it could not be beaten, and nobody could be promoted in its place."""
    rows = small_model.rows()
    wider = rows.append_column("gone", rows.column("wall_mm"))
    use_case = replace(USE_CASE, features=(*USE_CASE.features, "gone"))
    split = training.split_rows(wider, use_case, labels_until=NOW)
    champion = training.fit(wider, split, use_case, threads=1)
    model_files.write(champion, use_case, LINEAGE, tmp_path)
    found = examined(tmp_path, small_model.trained(rows), champion)
    verdicts = {verdict.criterion: verdict for verdict in found.verdicts}
    assert all(verdicts[name].met for name in AGAINST)
    assert (
        "can no longer score, there is nothing to be better than: column gone is missing"
        in verdicts["champion"].note
    )


def test_a_champion_whose_features_meant_something_else_is_compared_and_it_is_said(tmp_path: Path) -> None:
    now = replace(USE_CASE, feature_code=lambda: {"wall_mm": "2" * 64})
    champion = small_model.trained(small_model.rows(), small_model.another_seed(5))
    found = examined(tmp_path, small_model.trained(small_model.rows()), champion, now)
    note = next(v.note for v in found.verdicts if v.criterion == "champion")
    assert "its features meant something else: wall_mm is new" in note
