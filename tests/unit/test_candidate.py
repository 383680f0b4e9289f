"""A candidate examined: whom it is compared with."""

from __future__ import annotations

from pathlib import Path

import pytest

from contrail import backtest, candidate, leakage, model_files, training
from contrail.candidate import Circumstances
from contrail.evidence import Evidence
from contrail.training import TrainedModel
from tests.support import small_model
from tests.support.small_model import LINEAGE, NOW, USE_CASE

AGAINST = {"champion", "champion_slices"}


@pytest.fixture(autouse=True)
def undrawn(monkeypatch: pytest.MonkeyPatch) -> None:
    """No pictures: they are shown elsewhere."""
    monkeypatch.setattr(candidate, "_pictures", lambda *_: {})
    monkeypatch.setattr("contrail.plots_groups.comparison", lambda *_, title: b"")


def examined(lake: Path, model: TrainedModel, champion: TrainedModel | None) -> Evidence:
    rows = small_model.rows()
    split = training.split_rows(rows, USE_CASE, labels_until=NOW)
    certified = rows.append_column(leakage.FEATURES_KNOWN_AT, rows.column("decided_at"))
    if champion:
        model_files.write(champion, USE_CASE, LINEAGE, lake)
    known = Circumstances(
        training_set=LINEAGE.training_set,
        manifest_sha256="d" * 64,
        certificate=leakage.certify(certified, split, USE_CASE, labels_until=NOW),
        backtest=backtest.SCHEMA.empty_table(),
        champion=model_files.load(lake, champion.sha256) if champion else None,
        parity_mismatches=0,
    )
    return candidate.examine(rows, split, model, USE_CASE, known).evidence


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
