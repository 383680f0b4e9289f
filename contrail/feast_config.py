"""The `feature_store.yaml` of a home: where Feast finds registry, stores and spill of the same home as everything else.

`feature_repo/feature_store.yaml` is the default home's, for the bare command. Every other home, and a Redis, has a file
of its own. The address of a Redis may hold a password and stands in no file: Feast fills it in from the environment.
``python -m contrail.feast_config`` prints it, for ``eval "$(contrail env)"``.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path

import yaml

from contrail.online_stores import connection_address, redis_connection_string
from contrail.settings import REPO_ROOT, Settings, export

FEATURE_REPO = REPO_ROOT / "feature_repo"
REDIS_VARIABLE = "CONTRAIL_FEAST_REDIS"
"""Feast's `connection_string`, made of `CONTRAIL_REDIS_URL`."""

_FROM_ENVIRONMENT = f"${{{REDIS_VARIABLE}}}"


def yaml_path(settings: Settings) -> Path:
    """Where the file of a home is: in the home, but for the default home with SQLite."""
    if settings.online_store == "sqlite" and settings.home == REPO_ROOT / ".contrail":
        return FEATURE_REPO / "feature_store.yaml"
    return settings.home / "feature_store.yaml"


def feature_store_yaml(settings: Settings) -> Path:
    """`yaml_path`, after bringing the file, and this process's environment, to what the settings say.

    ``feast -c feature_repo -f <it> …`` works on the same store as the project does.

    Raises:
        OnlineError: the setting `redis_url` is no address of a Redis.
    """
    literal = FEATURE_REPO / "feature_store.yaml"
    path = yaml_path(settings)
    if path == literal:
        (settings.home / literal.name).unlink(missing_ok=True)  # of a time with a Redis
        return literal
    connection = redis_connection(settings)
    config = yaml.safe_load(literal.read_text())
    config["registry"]["path"] = str(settings.registry_path)
    config["online_store"]["path"] = str(settings.online_store_path)
    if connection is not None:
        export({REDIS_VARIABLE: connection})
        config["online_store"] = {"type": "redis", "connection_string": _FROM_ENVIRONMENT}
    config["offline_store"]["temp_directory"] = str(settings.temp_root)
    text = "# Written by contrail for this home; feature_repo/feature_store.yaml is the original.\n"
    # Filled in before it is parsed: without the quotes a colon or a hash in it would count.
    text += yaml.safe_dump(config, sort_keys=False).replace(_FROM_ENVIRONMENT, f"'{_FROM_ENVIRONMENT}'")
    if not path.exists() or path.read_text() != text:
        settings.home.mkdir(parents=True, exist_ok=True)
        draft = path.with_suffix(f".{os.getpid()}.draft")
        draft.write_text(text)
        draft.replace(path)
    return path


def redis_connection(settings: Settings) -> str | None:
    """What `REDIS_VARIABLE` has to be: it may hold a password; None where the online store is no Redis.

    Raises:
        OnlineError: the setting `redis_url` is no address of a Redis.
    """
    if settings.online_store != "redis" or settings.redis_url is None:
        return None
    return redis_connection_string(settings.redis_url.get_secret_value())


def online_place(settings: Settings) -> str:
    """Which online store the settings mean: its kind and where it is, no secret. Nothing is connected.

    Raises:
        OnlineError: the setting `redis_url` is no address of a Redis.
    """
    connection = redis_connection(settings)
    if connection is not None:
        return f"redis {connection_address(connection)}"
    path = settings.online_store_path
    # By its name: the file of a home that is moved or copied goes with it.
    return f"sqlite {path.name}" if path.exists() else f"sqlite {path.name}, which is missing"


if __name__ == "__main__":
    sys.stdout.write(redis_connection(Settings()) or "")
