"""What the bare tools need to see: environment variables and the orchestrator's instance file.

Dagster, dbt, MLflow and Feast read the environment, not our settings. This module says in one place what they must
find there, and renders it three ways: the `.env` in the repository root (which Dagster's command line reads), the
lines that ``eval "$(contrail env)"`` runs in a shell, and the `dagster.yaml` of a home. Nothing here is secret:
secrets stay environment variables and are written nowhere.
"""

from __future__ import annotations

import os
import shlex
import sys
from pathlib import Path

from contrail import feast_config
from contrail.settings import Settings

_HOME = "CONTRAIL_HOME"
_MLFLOW = "CONTRAIL_MLFLOW_URI"
_FEAST = "FEAST_FS_YAML_FILE_PATH"

_DAGSTER_YAML = """\
# Written by `make` (contrail.environment); edits are overwritten.
telemetry: {enabled: false}
# Without this a sign-up window covers the page of a new installation.
nux: {enabled: false}
# Each run may use every core through DuckDB and LightGBM; more than two at once only take turns.
concurrency:
  runs: {max_concurrent_runs: 2}
"""


def variables(settings: Settings) -> dict[str, str]:
    """The environment of every tool that works on this home: absolute paths, no secret.

    `MLFLOW_TRACKING_URI` serves clients, `MLFLOW_BACKEND_STORE_URI` and `MLFLOW_DEFAULT_ARTIFACT_ROOT` serve
    ``mlflow ui``; where `CONTRAIL_MLFLOW_URI` names another MLflow, which may hold a password, the first two are left
    out, and a shell makes them of that variable (`shell_exports`). `DBT_*` serve ``dbt``, `FEAST_FS_YAML_FILE_PATH`
    serves ``feast`` (`cli.env` makes the file).
    `OMP_WAIT_POLICY=PASSIVE` lets idle OpenMP threads sleep where they would otherwise spin on the core that DuckDB
    wants. The last block keeps the tools from calling home.
    """
    return {**_in_home(settings), _FEAST: str(feast_config.yaml_path(settings)), **_elsewhere(settings)}


def _in_home(settings: Settings) -> dict[str, str]:
    own = {} if settings.mlflow_uri else dict.fromkeys(_mlflow_names(settings), settings.mlflow_tracking_uri)
    return {
        _HOME: str(settings.home),
        "DAGSTER_HOME": str(settings.dagster_home),
        **own,
        "MLFLOW_DEFAULT_ARTIFACT_ROOT": str(settings.mlflow_artifact_root),
    }


def _mlflow_names(settings: Settings) -> list[str]:
    """The variables in which MLflow looks for its store; a server is none that ``mlflow ui`` could open."""
    is_server = settings.mlflow_tracking_uri.startswith("http")
    return ["MLFLOW_TRACKING_URI", *([] if is_server else ["MLFLOW_BACKEND_STORE_URI"])]


def _elsewhere(settings: Settings) -> dict[str, str]:
    project = settings.repo_root / "dbt_project"
    return {
        "DBT_PROFILES_DIR": str(project),
        "DBT_PROJECT_DIR": str(project),
        "TZ": "UTC",
        "OMP_WAIT_POLICY": "PASSIVE",
        "DBT_SEND_ANONYMOUS_USAGE_STATS": "false",
        "MLFLOW_DISABLE_TELEMETRY": "true",
        "GX_ANALYTICS_ENABLED": "false",
        "FEAST_USAGE": "False",
    }


def dotenv(settings: Settings) -> str:
    """The text of `.env`: the same for every home of this installation. `feast` reads no `.env`: its part is left out.

    Dagster lets `.env` win over the environment. Everything is therefore written in terms of `CONTRAIL_HOME`, and that
    one gives way to the environment and falls back to the default home: ``CONTRAIL_HOME=/elsewhere dagster dev`` uses
    elsewhere for all of it, and a command run on another home leaves the file as it is.
    """
    default = type(settings).model_fields["home"].default
    lines = ["# Written by `make` (contrail.environment) for Dagster's command line; edits are overwritten."]
    for name, value in _in_home(settings).items():
        in_terms_of_home = value.replace(str(settings.home), f"${{{_HOME}}}")
        lines.append(f'{name}="{f"${{{_HOME}:-{default}}}" if name == _HOME else in_terms_of_home}"')
    if settings.mlflow_uri:
        lines += [f'{name}="${{{_MLFLOW}}}"' for name in _mlflow_names(settings)]
    lines += [f'{name}="{value}"' for name, value in _elsewhere(settings).items()]
    return "\n".join(lines) + "\n"


def shell_exports(settings: Settings) -> str:
    """POSIX shell lines for ``eval "$(contrail env)"``; they also put this installation's programs on the path."""
    programs = shlex.quote(str(Path(sys.prefix) / "bin"))
    lines = [f"export {name}={shlex.quote(value)}" for name, value in variables(settings).items()]
    if settings.online_store == "redis":
        # Made in that shell of the variable that is there already: what is printed here holds no secret.
        made = f"{shlex.quote(sys.executable)} -m contrail.feast_config"
        lines.append(f'export {feast_config.REDIS_VARIABLE}="$({made})"')
    if settings.mlflow_uri:
        lines += [f'export {name}="${_MLFLOW}"' for name in _mlflow_names(settings)]
    lines.append(f'case ":$PATH:" in *:{programs}:*) ;; *) export PATH={programs}:"$PATH" ;; esac')
    return "\n".join(lines) + "\n"


def dagster_yaml(settings: Settings) -> str:
    """The text of ``<home>/dagster/dagster.yaml``: embedded storage, no telemetry, no sign-up window."""
    del settings  # embedded storage needs nothing from it; production settings will
    return _DAGSTER_YAML


def write(settings: Settings) -> list[Path]:
    """Write `.env` and `dagster.yaml` where their content differs, and return the paths that changed."""
    wanted = {
        settings.repo_root / ".env": dotenv(settings),
        settings.dagster_home / "dagster.yaml": dagster_yaml(settings),
    }
    changed: list[Path] = []
    for path, text in wanted.items():
        if path.is_file() and path.read_text(encoding="utf-8") == text:
            continue
        path.parent.mkdir(parents=True, exist_ok=True)
        # By rename: another process may be reading it.
        partial = path.with_name(f"{path.name}.{os.getpid()}")
        partial.write_text(text, encoding="utf-8")
        partial.replace(path)
        changed.append(path)
    return changed
