"""The `feature_store.yaml` of a home: where Feast finds registry, stores and spill of the same home as everything else.

`feature_repo/feature_store.yaml` is the default home's, for the bare command. Every other home, and a Redis, has a file
of its own.
"""

from __future__ import annotations

import os
from pathlib import Path

import yaml

from contrail.online_stores import redis_connection_string
from contrail.settings import REPO_ROOT, Settings

FEATURE_REPO = REPO_ROOT / "feature_repo"


def yaml_path(settings: Settings) -> Path:
    """Where the file of a home is: in the home, but for the default home with SQLite."""
    if settings.online_store == "sqlite" and settings.home == REPO_ROOT / ".contrail":
        return FEATURE_REPO / "feature_store.yaml"
    return settings.home / "feature_store.yaml"


def feature_store_yaml(settings: Settings) -> Path:
    """`yaml_path`, after bringing the file to what the settings say.

    ``feast -c feature_repo -f <it> …`` works on the same store as the project does. One that names a Redis may hold its
    password, and nobody else may read it.

    Raises:
        OnlineError: the setting `redis_url` is no address of a Redis.
    """
    literal = FEATURE_REPO / "feature_store.yaml"
    path = yaml_path(settings)
    if path == literal:
        return literal
    url = settings.redis_url if settings.online_store == "redis" else None
    config = yaml.safe_load(literal.read_text())
    config["registry"]["path"] = str(settings.registry_path)
    config["online_store"]["path"] = str(settings.online_store_path)
    if url is not None:
        connection = redis_connection_string(url.get_secret_value())
        config["online_store"] = {"type": "redis", "connection_string": connection}
    config["offline_store"]["temp_directory"] = str(settings.temp_root)
    text = "# Written by contrail for this home; feature_repo/feature_store.yaml is the original.\n"
    text += yaml.safe_dump(config, sort_keys=False)
    if not path.exists() or path.read_text() != text:
        settings.home.mkdir(parents=True, exist_ok=True)
        draft = path.with_suffix(f".{os.getpid()}.draft")
        draft.unlink(missing_ok=True)
        with open(os.open(draft, os.O_WRONLY | os.O_CREAT, 0o666 if url is None else 0o600), "w") as file:
            file.write(text)
        draft.replace(path)
    return path
