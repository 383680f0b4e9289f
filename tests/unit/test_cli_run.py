"""`contrail run`: what it runs, when it stops, what it prints and with which code it ends. The runs are stand-ins."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import dagster as dg
import pyarrow as pa
import pytest

from cli import run, summary
from cli.output import Failure
from contrail import evaluation
from contrail.lake import Commit
from contrail.settings import Settings
from jobs.plan import Plan
from jobs.steps import Step
from tests.support.decided_models import model, world
from tests.support.small_model import USE_CASE

INGEST = Step("ingest", "new files", "2013-01-01", "2013-01-02", ("raw/readings",))
CLEAN = Step("clean", "newer rows", "2013-01-01", "2013-01-02", ("clean/readings",))


@dataclass
class Stage:
    """A graph of two assets, and a plan that wants each once; `due` may be set by a test."""

    home: Path
    monkeypatch: pytest.MonkeyPatch
    acts: list[str] = field(default_factory=list)
    due: list[Step] = field(default_factory=lambda: [INGEST, CLEAN])
    raw: Callable[[], Any] = lambda: None
    clean: Callable[[], Any] = lambda: None
    blocked: dict[str, dict[str, list[str]]] = field(default_factory=dict)
    stubborn: bool = False

    def definitions(self, settings: Settings) -> dg.Definitions:
        del settings

        def asset(key: str, act: Callable[[], Any]) -> dg.AssetsDefinition:
            made = dg.AssetKey(key.split("/"))

            @dg.asset(
                key=made,
                partitions_def=dg.DailyPartitionsDefinition("2013-01-01", end_date="2013-01-04"),
                backfill_policy=dg.BackfillPolicy.single_run(),
                check_specs=[dg.AssetCheckSpec("contract", asset=made, blocking=True)],
            )
            def compute(
                context,
            ) -> Iterator[Any]:  # no annotation: Dagster does not understand a postponed one
                self.acts.append(f"{key} {context.partition_keys[0]}..{context.partition_keys[-1]}")
                context.log.info("under way")
                verdict = act()
                yield dg.MaterializeResult(metadata={"rows": 3})
                yield verdict or dg.AssetCheckResult(asset_key=made, check_name="contract", passed=True)

            return compute

        assets = [asset("raw/readings", self.raw), asset("clean/readings", self.clean)]
        jobs = [
            dg.define_asset_job("ingest", selection="key:raw/readings"),
            dg.define_asset_job("clean", selection="key:clean/readings"),
        ]
        return dg.Definitions(assets=assets, jobs=jobs)

    def plan(self, settings: Settings) -> Plan:
        del settings
        left = [
            step for step in self.due if self.stubborn or f"{step.assets[0]} {step.days}" not in self.acts
        ]
        return Plan(tuple(left[:1]), self.blocked)

    def main(self, *, as_json: bool = False) -> int:
        before = dict(os.environ)
        try:
            return run.main(source=None, first=None, last=None, as_json=as_json)
        finally:
            os.environ.clear()
            os.environ.update(before)


@pytest.fixture
def stage(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Stage:
    import contrail.intake
    import definitions
    import jobs.plan

    made = Stage(tmp_path, monkeypatch)
    settings = Settings(home=tmp_path)
    monkeypatch.setattr(run, "Settings", lambda: settings)
    monkeypatch.setattr("cli.land.land_quietly", lambda *_, **__: type("Landed", (), {"files_written": 0}))
    monkeypatch.setattr(definitions, "build_defs", made.definitions)
    monkeypatch.setattr(jobs.plan, "plan", made.plan)
    monkeypatch.setattr(contrail.intake, "blocked_partitions", lambda lake, name: made.blocked.get(name, {}))
    # The lake is empty; its tables are those that a test says are blocked.
    monkeypatch.setattr("contrail.lake.Lake.tables", lambda self: [f"raw/{name}" for name in made.blocked])
    monkeypatch.setattr(summary, "_stages", lambda lake, reports: [])
    return made


def check(
    passed: bool, severity: dg.AssetCheckSeverity = dg.AssetCheckSeverity.ERROR, stage: str = "raw"
) -> Any:
    return lambda: dg.AssetCheckResult(
        asset_key=dg.AssetKey([stage, "readings"]),
        check_name="contract",
        passed=passed,
        severity=severity,
        description="2 of 3 rows break rules",
    )


def fail() -> None:
    raise ValueError("the disk is full")


def test_everything_due_is_run_in_order_and_the_end_is_0(stage, capsys):
    assert stage.main() == 0
    assert stage.acts == ["raw/readings 2013-01-01..2013-01-02", "clean/readings 2013-01-01..2013-01-02"]
    told = capsys.readouterr().out
    for line in ("▸ ingest", "raw/readings ", "✓ 1 assets, 1 checks passed", "▸ clean", "clean/readings "):
        assert line in told
    assert (
        told.index("▸ ingest")
        < told.index("    raw/readings")
        < told.index("✓ 1 assets")
        < told.index("▸ clean")
    )


def test_with_nothing_due_it_says_so_and_ends_with_0(stage, capsys):
    stage.due = []
    assert stage.main() == 0
    assert "Nothing to do" in capsys.readouterr().out


def test_a_failed_run_stops_the_rest_tells_the_cause_and_ends_with_1(stage, capsys):
    stage.raw = fail
    assert stage.main() == 1
    assert stage.acts == ["raw/readings 2013-01-01..2013-01-02"]
    told = capsys.readouterr().out
    assert "✗" in told
    assert "raw/readings: ValueError: the disk is full" in told
    assert "Traceback" not in told


def test_a_failed_run_in_json_is_one_document_with_its_error(stage, capsys):
    stage.raw = fail
    assert stage.main(as_json=True) == 1
    (told,) = json.loads(capsys.readouterr().out)["runs"]
    assert (told["ok"], told["error"]) == (False, "raw/readings: ValueError: the disk is full")


def test_a_run_of_which_every_partition_is_blocked_is_no_failure_the_rest_goes_on_and_the_end_is_3(
    stage, capsys
):
    stage.raw = check(passed=False)
    stage.blocked = {"readings": {"2013-01-01": ["damaged"]}}
    assert stage.main() == 3
    assert len(stage.acts) == 2
    told = capsys.readouterr().out
    assert "! raw/readings  contract: 2 of 3 rows break rules" in told
    assert "BLOCKED raw/readings:2013-01-01: damaged" in told


def test_a_run_with_some_partitions_blocked_ends_with_3(stage):
    stage.raw = check(passed=False, severity=dg.AssetCheckSeverity.WARN)
    stage.blocked = {"readings": {"2013-01-01": ["damaged"]}}
    assert stage.main() == 3


def test_a_block_of_an_earlier_run_still_ends_with_3(stage):
    stage.due = []
    stage.blocked = {"readings": {"2013-01-01": ["damaged"]}}
    assert stage.main() == 3


def test_a_failed_check_further_down_is_a_failure(stage):
    stage.clean = check(passed=False, stage="clean")
    assert stage.main() == 1


def test_a_warning_is_no_failure(stage, capsys):
    stage.clean = check(passed=False, severity=dg.AssetCheckSeverity.WARN, stage="clean")
    assert stage.main() == 0
    assert "Checks: 1 passed, 1 failed" in capsys.readouterr().out


def test_a_failure_weighs_more_than_a_block(stage):
    stage.raw = check(passed=False)
    stage.clean = fail
    stage.blocked = {"readings": {"2013-01-01": ["damaged"]}}
    assert stage.main() == 1


def test_a_step_that_stays_due_after_its_run_ends_it_instead_of_going_round(stage):
    stage.stubborn = True
    with pytest.raises(Failure, match=r"ingest 2013-01-01\.\.2013-01-02 was run and is still due"):
        stage.main()
    assert len(stage.acts) == 1


def test_known_errors_are_failures_with_their_words(stage, monkeypatch):
    from contrail.landing import LandingError

    def refuse(*_: Any, **__: Any) -> None:
        raise LandingError("weather/2013-01-02.manifest.json: not readable as JSON")

    monkeypatch.setattr("cli.land.land_quietly", refuse)
    with pytest.raises(Failure, match="not readable as JSON"):
        stage.main()


def test_the_run_is_recorded_with_its_reason_and_days(stage):
    stage.due = [INGEST]
    stage.main()
    with dg.DagsterInstance.from_config(str(stage.home / "dagster")) as instance:
        (recorded,) = instance.get_runs()
    assert recorded.job_name == "ingest"
    assert recorded.tags["contrail/reason"] == "new files"
    assert recorded.tags["dagster/asset_partition_range_end"] == "2013-01-02"


def test_the_summary_names_the_model_that_its_figures_are_of(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also where an earlier version was learnt again, and is not the newest."""
    settings = Settings(home=tmp_path)
    lake = world(settings.lake_root, versions=2)
    monkeypatch.setattr("feature_repo.use_cases.USE_CASES", {USE_CASE.name: USE_CASE})
    table = f"model/{USE_CASE.name}/evaluation"
    lake.create(table, evaluation.EVALUATION_SCHEMA)
    assert summary._models(settings, lake) == []
    whole = {"part": "test", "kind": "all", "group": "", "rows": 9, "auc": 0.75, "log_loss": 0.5}
    rows = pa.Table.from_pylist([whole], schema=evaluation.EVALUATION_SCHEMA)
    for seed in (2, 1):
        made = Commit(table, f"run-{seed}", (f"model:{model(seed).sha256}",), git_sha="abc")
        lake.replace_partitions(table, rows, made, where="true")
        (said,) = summary._models(settings, lake)
        assert (said["version"], said["sha256"], said["test_auc"]) == (seed, model(seed).sha256, 0.75)
        assert Path(said["card"]).parents[2].name == model(seed).sha256
