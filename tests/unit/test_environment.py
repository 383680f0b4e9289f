"""What the bare tools are told: .env for Dagster, export lines for a shell, dagster.yaml for a home."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import yaml
from dotenv import dotenv_values

from contrail import environment
from contrail.settings import Settings


class Elsewhere(Settings):
    """Settings whose repository lies in a test's own folder."""

    @property
    def repo_root(self) -> Path:
        return self.home.parent


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    return Elsewhere(home=tmp_path / "a home")


def test_every_path_is_absolute_and_under_the_home(settings):
    values = environment.variables(settings)
    for name in ("CONTRAIL_HOME", "DAGSTER_HOME", "MLFLOW_DEFAULT_ARTIFACT_ROOT"):
        assert Path(values[name]).is_absolute()
        assert Path(values[name]).is_relative_to(settings.home)
    assert values["MLFLOW_TRACKING_URI"] == f"sqlite:///{settings.home}/mlflow.db"
    assert values["TZ"] == "UTC"
    assert values["OMP_WAIT_POLICY"] == "PASSIVE"


def test_dagster_reads_the_same_from_the_dotenv_file(tmp_path, monkeypatch):
    monkeypatch.delenv("CONTRAIL_HOME", raising=False)
    path = tmp_path / ".env"
    default = Settings()
    path.write_text(environment.dotenv(default))
    wanted = environment.variables(default)
    del wanted["FEAST_FS_YAML_FILE_PATH"]  # of the shell alone
    assert dict(dotenv_values(path)) == wanted


def test_a_home_in_the_environment_wins_over_the_dotenv_file(settings, tmp_path, monkeypatch):
    monkeypatch.setenv("CONTRAIL_HOME", "/elsewhere")
    path = tmp_path / ".env"
    path.write_text(environment.dotenv(settings))
    values = dotenv_values(path)
    assert values["CONTRAIL_HOME"] == "/elsewhere"
    assert values["DAGSTER_HOME"] == "/elsewhere/dagster"
    assert values["MLFLOW_TRACKING_URI"] == "sqlite:////elsewhere/mlflow.db"
    assert values["DBT_PROFILES_DIR"] == environment.variables(settings)["DBT_PROFILES_DIR"]


def test_the_dotenv_file_is_the_same_from_every_home(settings):
    other = Elsewhere(home=settings.home.with_name("other"))
    assert environment.dotenv(settings) == environment.dotenv(other)


def test_a_shell_reads_the_same_from_the_exports(settings):
    names = environment.variables(settings)
    script = (
        environment.shell_exports(settings) * 2
        + f"{sys.executable} -c 'import json, os; print(json.dumps(dict(os.environ)))'"
    )
    done = subprocess.run(
        ["bash", "-euc", script], env={"PATH": "/usr/bin"}, capture_output=True, text=True, check=True
    )
    seen: dict[str, str] = json.loads(done.stdout)
    assert {name: seen[name] for name in names} == names
    assert seen["PATH"].split(os.pathsep) == [str(Path(sys.prefix) / "bin"), "/usr/bin"]


def test_dagster_yaml_is_quiet(settings):
    content = yaml.safe_load(environment.dagster_yaml(settings))
    assert content["telemetry"] == {"enabled": False}
    assert content["nux"] == {"enabled": False}


def test_write_writes_once_and_again_after_a_change(settings):
    first = environment.write(settings)
    assert first == [settings.repo_root / ".env", settings.dagster_home / "dagster.yaml"]
    assert environment.write(settings) == []
    first[1].write_text("telemetry: {enabled: true}\n")
    assert environment.write(settings) == [first[1]]
    assert first[1].read_text() == environment.dagster_yaml(settings)


def test_a_shell_makes_the_address_of_a_redis_itself_and_a_file_store_has_none(tmp_path):
    with_redis = Elsewhere(home=tmp_path, online_store="redis", redis_url="redis://:s3cret@cache.example")
    printed = environment.shell_exports(with_redis)
    assert 'export CONTRAIL_FEAST_REDIS="$(' in printed
    assert "cache.example" not in printed + environment.dotenv(with_redis)
    assert "CONTRAIL_FEAST_REDIS" not in environment.shell_exports(Elsewhere(home=tmp_path))


def test_another_mlflow_is_named_by_its_variable_never_by_its_address(tmp_path):
    uri = "postgresql://me:s3cret@db.example/mlflow"  # pragma: allowlist secret
    database = Elsewhere(home=tmp_path, mlflow_uri=uri)
    texts = environment.shell_exports(database), environment.dotenv(database)
    assert "db.example" not in "".join(texts) + str(environment.variables(database))
    for name in ("MLFLOW_TRACKING_URI", "MLFLOW_BACKEND_STORE_URI"):
        assert name not in environment.variables(database)
        assert f'export {name}="$CONTRAIL_MLFLOW_URI"\n' in texts[0]
    (tmp_path / ".env").write_text(texts[1])
    assert (
        dotenv_values(tmp_path / ".env", interpolate=False)["MLFLOW_TRACKING_URI"] == "${CONTRAIL_MLFLOW_URI}"
    )
    # `mlflow ui` cannot open a server as its store
    server = environment.shell_exports(Elsewhere(home=tmp_path, mlflow_uri="https://mlflow.example"))
    assert ("MLFLOW_TRACKING_URI" in server, "MLFLOW_BACKEND_STORE_URI" in server) == (True, False)
