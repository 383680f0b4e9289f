"""Tuning from Dagster's pages and from the command line: the form, what a run says, and that it goes on."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import dagster as dg
import pytest
from typer.testing import CliRunner

from cli import tune as command
from cli.app import app
from cli.output import Failure
from contrail import tuning_search
from contrail.lake import Commit, Lake
from contrail.settings import Settings
from feature_repo import use_cases
from jobs import tuning as tuning_jobs
from resources.lake import LakeResource
from tests.support import small_model
from tests.support.small_model import NOW, USE_CASE

SET = "model/broken_jar/training_set"


@pytest.fixture
def settings(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Settings:
    """A home without a training set, and one use case."""
    for module in (tuning_jobs, use_cases):
        monkeypatch.setattr(module, "USE_CASES", {USE_CASE.name: USE_CASE})
    monkeypatch.setattr(tuning_search, "MOST_ROUNDS", 40)
    monkeypatch.setattr(use_cases, "DEFAULT_USE_CASE", USE_CASE.name)
    monkeypatch.setenv("OMP_WAIT_POLICY", "PASSIVE")  # the command sets it; put back afterwards
    monkeypatch.setenv("CONTRAIL_HOME", str(tmp_path / "home"))
    return Settings()


@pytest.fixture
def with_rows(settings: Settings) -> Settings:
    rows = small_model.rows()
    lake = Lake(settings.lake_root)
    lake.create(SET, rows.schema)
    lake.append(
        SET,
        rows,
        Commit(asset=SET, run_id="r", inputs=(), git_sha="g", extra={"labels_until": NOW.isoformat()}),
    )
    return settings


def run(settings: Settings, **form: object) -> dg.ExecuteInProcessResult:
    (job,) = tuning_jobs.build()
    return job.execute_in_process(
        run_config={"ops": {"tune_broken_jar_study": {"config": form}}},
        resources={"lake": LakeResource(settings)},
        raise_on_error=False,
    )


def told(result: dg.ExecuteInProcessResult) -> dict[str, Any]:
    (output,) = [e.step_output_data for e in result.all_node_events if e.is_successful_output]
    return {name: value.value for name, value in output.metadata.items()}


def test_the_job_has_a_form_of_two_numbers_and_goes_on(with_rows):
    (job,) = tuning_jobs.build()
    assert job.name == "tune_broken_jar"
    for form in ({}, {"trials": 2}, {"trials": "many", "seconds": 60}):
        with pytest.raises(dg.DagsterError):
            job.execute_in_process(
                run_config={"ops": {"tune_broken_jar_study": {"config": form}}},
                resources={"lake": LakeResource(with_rows)},
            )
    assert not run(with_rows, trials=0, seconds=60).success
    first = told(run(with_rows, trials=2, seconds=60))
    assert "the best of 2 trials" in first["verdict"]
    assert first["declared"].startswith("learning=LearningParameters(learning_rate=0.05, num_leaves=7,")
    assert "data:image/png;base64," in first["plateau"]
    assert first["verdict"] in first["study"]
    assert "the best of 3 trials" in told(run(with_rows, trials=3, seconds=60))["verdict"]


def test_a_run_without_a_training_set_fails_in_words(settings):
    result = run(settings, trials=2, seconds=60)
    failed = next(e.step_failure_data for e in result.all_events if e.is_step_failure)
    assert "there is no model/broken_jar/training_set yet" in str(failed.error)


def test_the_command_shows_its_progress_and_what_to_declare(with_rows, tmp_path, capsys):
    studies = tmp_path / "studies"
    command.main(None, trials=2, seconds=60, evidence=studies, as_json=False)
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == "tuning broken_jar on model/broken_jar/training_set@v1: up to 2 trials and 60 s"
    assert [line.split()[:3] for line in lines[1:3]] == [
        ["trial", "0", "complete"],
        ["trial", "1", "complete"],
    ]
    assert "2 of 2" in lines[2]
    assert lines[3].endswith(", new")
    assert any(line.startswith("verdict     the declared parameters have a log-loss of") for line in lines)
    assert any(line.startswith("to declare  learning=LearningParameters(") for line in lines)
    assert sorted(p.name for p in studies.iterdir()) == ["broken_jar.json", "broken_jar.md", "broken_jar.png"]

    command.main("broken_jar", trials=2, seconds=60, evidence=None, as_json=False)
    again = capsys.readouterr().out
    assert "gone on with" in again
    assert "trial " not in again.split("study")[0].replace("up to 2 trials", "")


def test_the_command_speaks_json(with_rows, capsys):
    command.main(None, trials=1, seconds=60, evidence=None, as_json=True)
    said = json.loads(capsys.readouterr().out)
    assert said["study"]["training_set"] == f"{SET}@v1"
    assert said["study"]["trials"][0]["state"] == "complete"
    assert said["is_declared_good"] in (True, False)
    assert said["declaration"].startswith("learning=LearningParameters(")


def test_the_command_says_what_is_wrong(settings):
    with pytest.raises(Failure, match="there is no use case 'other'; declared: broken_jar"):
        command.main("other", trials=1, seconds=60, evidence=None, as_json=False)
    with pytest.raises(Failure, match=r"materialise it first \(contrail run\)"):
        command.main(None, trials=1, seconds=60, evidence=None, as_json=False)
    refused = CliRunner().invoke(app, ["tune", "--trials", "0"])
    assert refused.exit_code == 2
