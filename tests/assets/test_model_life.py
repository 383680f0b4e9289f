"""A model's life in the graph: trained, asked for, approved, scoring, rolled back; and what stops a training.

Over a copy of the three weeks' home. Its days are too few for the declared criteria, so those are laxer here.
"""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import dagster as dg
import pyarrow as pa
import pytest
from deltalake import write_deltalake

from contrail import duck, environment, evidence, model_files, promotions, registry
from contrail.lake import Commit, Lake
from contrail.leakage import FEATURES_KNOWN_AT
from contrail.settings import Settings
from contrail.use_case import UseCase
from definitions import build_defs
from feature_repo.feature_pieces import table_code
from feature_repo.use_cases import DEFAULT_USE_CASE, USE_CASES
from resources import feature_code
from resources.feature_store import FeatureStoreResource
from resources.mlflow_client import connect
from resources.tracking import TAG_FAILURE
from tests.support.three_weeks import LAST, copy
from tests.support.tracking_world import empty_database

DECLARED = USE_CASES[DEFAULT_USE_CASE]
LAX = replace(
    DECLARED.criteria,
    min_log_loss_gain=0.0,
    min_auc_gain=0.0,
    max_calibration_error=0.2,
    min_champion_gain=-1.0,
    min_champion_slice_rows=1_000_000,
    max_predict_milliseconds=1_000.0,
    needs_parity=False,
)
PREFIX = f"model/{DEFAULT_USE_CASE}"
TRAINING_SET = f"{PREFIX}/training_set"
PREDICTIONS = f"score/{DEFAULT_USE_CASE}/predictions"
DAY_BEFORE = "2013-01-20"
BY_HAND = Commit("trail/decisions", "by hand", (), git_sha="none")


@dataclass
class World:
    """A home that may be written to, and the use case as it is declared there."""

    settings: Settings
    use_case: UseCase

    @property
    def lake(self) -> Lake:
        return Lake(self.settings.lake_root)

    @property
    def now(self) -> Any:
        from contrail.clock import clock_for

        return clock_for(self.settings).now()

    def run(self, job: str, *, raises: bool = True, **options: Any) -> dg.ExecuteInProcessResult:
        resolved = build_defs(self.settings).resolve_job_def(job)
        with dg.DagsterInstance.ephemeral() as instance:
            return resolved.execute_in_process(instance=instance, raise_on_error=raises, **options)

    def train(self, *assets: str, raises: bool = True) -> dg.ExecuteInProcessResult:
        selection = [dg.AssetKey(f"{PREFIX}/{asset}".split("/")) for asset in assets]
        return self.run(f"train_{DEFAULT_USE_CASE}", raises=raises, asset_selection=selection)

    def score(self, day: str) -> None:
        selection = [dg.AssetKey(PREDICTIONS.split("/"))]
        self.run(f"score_{DEFAULT_USE_CASE}", partition_key=day, asset_selection=selection)

    def makers(self, day: str) -> list[tuple[int, str]]:
        """Which versions made the day's scores."""
        with duck.connect() as con:
            return con.execute(
                f"SELECT DISTINCT model_version, model_sha256 FROM {self.lake.scan(PREDICTIONS)} WHERE service_date = ?",
                [day],
            ).fetchall()

    def decide(self, how: Callable[..., Any], *what: Any, by: str) -> Any:
        return how(self.use_case, *what, self.lake, by=by, reason="a test", now=self.now, commit=BY_HAND)


@pytest.fixture
def world(
    three_weeks: Settings,
    tmp_path: Path,
    tmp_path_factory: pytest.TempPathFactory,
    monkeypatch: pytest.MonkeyPatch,
) -> World:
    """Three weeks with a champion, version 1, and a declaration that learns another model from the same rows."""
    settings = copy(three_weeks, tmp_path / "home")
    for others in ("dagster", "mlartifacts"):  # they name the home that was copied
        shutil.rmtree(settings.home / others)
    empty_database(tmp_path_factory, settings.home / "mlflow.db")
    environment.write(settings)
    FeatureStoreResource(home=str(settings.home)).apply()
    changed = replace(DECLARED, seed=DECLARED.seed + 1, criteria=LAX)
    monkeypatch.setitem(USE_CASES, DEFAULT_USE_CASE, changed)
    return World(settings, changed)


@pytest.mark.slow
def test_a_challenger_is_asked_for_approved_scores_and_is_rolled_back(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also while a day is scored: its rows name the one model that was champion when the scoring began."""
    world.train("backtest", "candidate", "evaluation")
    first, second = registry.versions(DEFAULT_USE_CASE, world.lake)
    assert (first.role, second.role) == ("champion", "challenger")
    assert second.unmet == ()
    record = evidence.read(world.settings.lake_root, second.sha256, second.evaluation_id)
    assert record["champion_sha256"] == first.sha256
    assert record["comparison"]["rows"] > 1_000
    assert record["criteria_sha256"] == world.use_case.criteria_sha256
    card = evidence.folder(world.settings.lake_root, second.sha256, second.evaluation_id) / "card.md"
    assert second.sha256[:12] in card.read_text(encoding="utf-8")

    (request,) = promotions.requests(world.use_case, world.lake, now=world.now)
    assert (request.version, request.state) == (2, "open")
    assert request.asked_by.startswith("run ")
    assert world.decide(promotions.approve, request.request_id, by="ada").event == "promoted"

    shutil.rmtree(world.lake.uri(PREDICTIONS))
    look_up = FeatureStoreResource.historical

    def rolled_back_meanwhile(self: FeatureStoreResource, *asked: Any) -> Any:
        world.decide(promotions.rollback, by="grace")
        return look_up(self, *asked)

    monkeypatch.setattr(FeatureStoreResource, "historical", rolled_back_meanwhile)
    world.score(DAY_BEFORE)
    monkeypatch.setattr(FeatureStoreResource, "historical", look_up)
    assert world.makers(DAY_BEFORE) == [(2, second.sha256)]
    champion = registry.champion(DEFAULT_USE_CASE, world.lake)
    assert champion is not None
    assert (champion.version, champion.promoted_by) == (1, "grace")
    world.score(LAST)
    assert world.makers(LAST) == [(1, first.sha256)]
    world.score(DAY_BEFORE)  # a rerun stays with the model that scored it
    assert world.makers(DAY_BEFORE) == [(2, second.sha256)]


@pytest.mark.slow
def test_a_training_set_that_leaks_is_never_learnt_from(world: World) -> None:
    """One row of thousands holds a value that was known a minute after its decision."""
    with duck.connect() as con:
        rows = con.execute(
            f"SELECT * EXCLUDE (_written_at, _run_id) FROM {world.lake.scan(TRAINING_SET)} ORDER BY departure_id"
        ).to_arrow_table()
    decided = rows["decision_at"].to_pylist()
    known = rows[FEATURES_KNOWN_AT].to_pylist()
    known[7] = decided[7].replace(microsecond=1)
    place = rows.column_names.index(FEATURES_KNOWN_AT)
    leaking = rows.set_column(place, rows.field(place), pa.array(known, rows.field(place).type))
    world.lake.replace_partitions(
        TRAINING_SET, leaking, Commit(TRAINING_SET, "planted", ("clean/departures@v1",)), where="true"
    )
    models = sorted(path.name for path in (world.settings.lake_root / "models").iterdir())
    before = registry.decisions(world.lake)

    result = world.train("backtest", "candidate", "evaluation", raises=False)

    assert not result.success
    told = next(
        e.step_failure_data.error
        for e in result.all_events
        if e.is_step_failure and e.step_failure_data.error
    )
    cause = told.cause or told
    assert "LeakageError" in (told.cls_name or "") or "LeakageError" in (cause.cls_name or "")
    assert rows["departure_id"][7].as_py() in f"{told.message}{cause.message}"
    assert registry.decisions(world.lake) == before
    assert sorted(path.name for path in (world.settings.lake_root / "models").iterdir()) == models
    client = connect(world.settings.mlflow_tracking_uri)
    (run,) = client.search_runs([client.get_experiment_by_name(DEFAULT_USE_CASE).experiment_id])
    assert run.info.status == "FAILED"
    assert "features" in run.data.tags[TAG_FAILURE]


@pytest.mark.slow
def test_a_candidate_needs_the_backtest_of_its_own_training_set_and_declaration(world: World) -> None:
    """The card would otherwise show months of other rows, or of a model that was declared otherwise."""
    for made_anew in (
        (),
        ("training_set",),
    ):  # the declaration has changed since the home was made, then the rows
        if made_anew:
            world.train(*made_anew)
        result = world.train("candidate", "evaluation", raises=False)
        assert not result.success
        told = next(e.step_failure_data for e in result.all_events if e.is_step_failure)
        assert f"{PREFIX}/backtest was not made of {TRAINING_SET}@v" in str(told.error)


def test_rows_that_other_code_built_are_not_learnt_from(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nor is a table grown by code of another meaning: who changes it begins again."""
    recorded = world.lake.commits("feature/network_state")[-1].extra[feature_code.FACT]
    assert recorded == table_code("network_state")
    monkeypatch.setattr(
        feature_code, "table_code", lambda name: "0" * 64 if name == "network_state" else table_code(name)
    )
    before = world.lake.version(TRAINING_SET)
    for job, asset in ((f"train_{DEFAULT_USE_CASE}", TRAINING_SET), ("features", "feature/network_state")):
        result = world.run(job, raises=False, asset_selection=[dg.AssetKey(asset.split("/"))])
        told = next(e.step_failure_data for e in result.all_events if e.is_step_failure)
        assert "feature/network_state: built by code that meant something else" in str(told.error)
    assert world.lake.version(TRAINING_SET) == before


def test_scoring_refuses_files_that_were_exchanged_together_with_their_manifest(world: World) -> None:
    """The model's own bytes and sha256 are the same; only what was examined knows of the other files."""
    champion = registry.champion(DEFAULT_USE_CASE, world.lake)
    assert champion is not None
    folder = model_files.folder(world.settings.lake_root, champion.sha256)
    described = json.loads((folder / model_files.FEATURES).read_bytes())
    described["categories"]["carrier"].reverse()
    golden = json.dumps({"rows": [], "scores": []}).encode()
    changed = {model_files.FEATURES: json.dumps(described).encode(), model_files.GOLDEN: golden}
    manifest = json.loads((folder / model_files.MANIFEST).read_bytes())
    del manifest["manifest_sha256"]
    for name, content in changed.items():
        (folder / name).write_bytes(content)
        manifest["files"][name] = hashlib.sha256(content).hexdigest()
    (folder / model_files.MANIFEST).write_bytes(model_files.sealed(manifest))
    with pytest.raises(
        evidence.EvidenceError, match=r"features\.json, golden\.json is not what was examined"
    ):
        world.score(LAST)


def test_nothing_is_scored_by_a_log_that_does_not_hold(world: World) -> None:
    """A row written past the log would otherwise make its model champion at once."""
    rows = world.lake.rows("trail/decisions")[1].to_pylist()
    forged = rows[-1] | {"sequence": len(rows), "use_case": DEFAULT_USE_CASE, "event": "promoted"}
    table = pa.Table.from_pylist([forged], schema=world.lake.schema("trail/decisions"))
    write_deltalake(world.lake.uri("trail/decisions"), table, mode="append")
    with pytest.raises(dg.Failure, match=f"trail/decisions does not hold, .*{len(rows)}"):
        world.score(LAST)


def test_scoring_refuses_a_champion_whose_features_mean_something_else(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    """And names what differs and what to do; the monitor, which only reads it, goes on."""
    pieces = dict(world.use_case.feature_code())
    name = sorted(pieces)[0]
    other = replace(world.use_case, feature_code=lambda: pieces | {name: "0" * 64})
    monkeypatch.setitem(USE_CASES, DEFAULT_USE_CASE, other)
    with pytest.raises(model_files.ModelFilesError, match=name.replace("/", ".")):
        world.score(LAST)
