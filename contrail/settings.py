"""The one place that reads the environment.

Everything else is handed a `Settings` object. Every variable starts with ``CONTRAIL_``; the defaults keep a whole
installation in one folder under the repository root, whatever the working directory is.
"""

from __future__ import annotations

import os
import re
from datetime import datetime
from pathlib import Path
from typing import Literal, Self
from urllib.parse import urlsplit

from pydantic import Field, SecretStr, ValidationError, field_validator, model_validator
from pydantic_settings import BaseSettings, SettingsConfigDict

REPO_ROOT = Path(__file__).resolve().parent.parent
# A folder (MLflow's old file store) or a relative SQLite path would depend on where a command is typed.
MLFLOW_URI = re.compile(r"^(https?://.|(postgresql|mysql|mssql)(\+\w+)?://.|sqlite:////.)")


class Settings(BaseSettings):
    """Where things are, how much of the machine may be used, and which clock counts."""

    # A message about one setting would otherwise show the others as they were given, secrets too.
    model_config = SettingsConfigDict(
        env_prefix="CONTRAIL_", extra="forbid", frozen=True, hide_input_in_errors=True
    )

    home: Path = Field(
        default=REPO_ROOT / ".contrail", description="Folder that holds lake, registry, stores and logs."
    )
    clock: Literal["system", "data", "replay"] = Field(
        default="data",
        description="What `now` means: the wall clock, the newest landed fact file, or a replayed instant.",
    )
    replay_at: datetime | None = Field(
        default=None, description="The instant of the `replay` clock, with a zone."
    )
    threads: int = Field(default=2, ge=1, description="DuckDB threads of one process.")
    memory_limit: str = Field(
        default="4GB", description="DuckDB memory of one process; beyond it, it spills to disk."
    )
    model_threads: int = Field(
        default=1, ge=1, description="LightGBM threads: a recorded constant, part of a model's identity."
    )
    land_every: Literal["day", "hour"] = Field(default="day", description="How often feeds deliver a file.")
    engine: Literal["local", "processes", "ray"] = Field(
        default="local", description="Who maps shards of heavy work."
    )
    shard_rows: int | None = Field(
        default=None,
        ge=1,
        description="Rows in one shard; unset: a worker's memory / 1.2 kB, at most 3 million.",
    )
    workers: int = Field(default=2, ge=1, description="Processes of the engine `processes`.")
    worker_memory: str | None = Field(
        default=None, description="DuckDB memory of one worker; unset: memory_limit shared by the workers."
    )
    online_store: Literal["sqlite", "redis"] = Field(
        default="sqlite",
        description="Where the online copy is: a file of the home, or the Redis of `redis_url`.",
    )
    redis_url: SecretStr | None = Field(
        default=None,
        description="redis://… or rediss://… (TLS), may hold user and password; for online_store=redis.",
    )
    mlflow_uri: SecretStr | None = Field(
        default=None,
        description="MLflow's server (http…) or database, which may hold user and password; unset: a file of the home.",
    )
    alert_urls: tuple[SecretStr, ...] = Field(
        default=(), description="Apprise targets (JSON list) told of failed runs and blocked partitions."
    )
    retrain_cooldown_days: int = Field(
        default=14, ge=0, description="Days of the clock between two retrainings that drift asks for."
    )
    git_sha: str | None = Field(
        default=None, description="Overrides the commit that is recorded with every write."
    )

    @field_validator("home")
    @classmethod
    def _absolute_home(cls, value: Path) -> Path:
        # A relative home is relative to the repository, never to wherever a command happens to be typed.
        return value if value.is_absolute() else (REPO_ROOT / value).resolve()

    @model_validator(mode="after")
    def _replay_needs_an_instant(self) -> Self:
        if self.clock == "replay" and self.replay_at is None:
            raise ValueError("CONTRAIL_CLOCK=replay needs CONTRAIL_REPLAY_AT, an instant with a zone (…Z)")
        if self.replay_at is not None and self.replay_at.tzinfo is None:
            raise ValueError(
                f"CONTRAIL_REPLAY_AT has no zone: {self.replay_at.isoformat()} (write …Z for UTC)"
            )
        return self

    @model_validator(mode="after")
    def _redis_needs_an_address(self) -> Self:
        if self.online_store == "redis" and self.redis_url is None:
            raise ValueError("CONTRAIL_ONLINE_STORE=redis needs CONTRAIL_REDIS_URL (redis://host:6379/0)")
        return self

    @model_validator(mode="after")
    def _mlflow_is_a_server_or_a_database(self) -> Self:
        if self.mlflow_uri is not None and not MLFLOW_URI.match(self.mlflow_uri.get_secret_value()):
            raise ValueError(
                "CONTRAIL_MLFLOW_URI must be a server (http://host:5000) or a database "
                "(postgresql+psycopg://host/name, sqlite:////absolute/path.db)"
            )
        if self.mlflow_uri is not None and not _is_parted_as_meant(self.mlflow_uri.get_secret_value()):
            # What is taken for host, port or path would be shown.
            raise ValueError(
                "CONTRAIL_MLFLOW_URI cannot be read: write / ? # @ in a user or a password as %2F %3F %23 %40"
            )
        return self

    @property
    def repo_root(self) -> Path:
        return REPO_ROOT

    @property
    def lake_root(self) -> Path:
        return self.home / "lake"

    @property
    def landing_root(self) -> Path:
        return self.lake_root / "landing"

    @property
    def online_store_path(self) -> Path:
        return self.home / "online_store.db"

    @property
    def registry_path(self) -> Path:
        return self.home / "registry.db"

    @property
    def mlflow_path(self) -> Path:
        return self.home / "mlflow.db"

    @property
    def mlflow_tracking_uri(self) -> str:
        """Where MLflow is: `mlflow_uri`, which may hold a password, or else the home's own file."""
        if self.mlflow_uri is not None:
            return self.mlflow_uri.get_secret_value()
        return f"sqlite:///{self.mlflow_path}"

    @property
    def mlflow_artifact_root(self) -> Path:
        return self.home / "mlartifacts"

    @property
    def temp_root(self) -> Path:
        return self.home / "tmp"

    @property
    def dagster_home(self) -> Path:
        return self.home / "dagster"

    @property
    def dbt_target(self) -> Path:
        return REPO_ROOT / "dbt_project" / "target"


def _is_parted_as_meant(uri: str) -> bool:
    """Whether an address has a port where one belongs, and no ``@`` behind the host."""
    try:
        address = urlsplit(uri)
        _ = address.port
    except ValueError:
        return False
    return address.scheme == "sqlite" or "@" not in f"{address.path}{address.query}{address.fragment}"


def in_words(error: ValidationError) -> str:
    """What is wrong with the settings, each with its variable, and no value."""
    said: list[str] = []
    for one in error.errors(include_input=False, include_url=False):
        variable = "".join(f"CONTRAIL_{part}".upper() for part in one["loc"][:1])
        said.append(": ".join(filter(None, [variable, one["msg"].removeprefix("Value error, ")])))
    return "; ".join(said)


def export(variables: dict[str, str]) -> None:
    """Put variables into this process's environment, for libraries that read nothing else."""
    os.environ.update(variables)


def current_user() -> str:
    """The name of whoever runs this process, for records that say who did something."""
    return os.environ.get("USER") or os.environ.get("LOGNAME") or f"uid-{os.getuid()}"


def under_ci() -> bool:
    """Whether this runs under continuous integration (``CI=true``)."""
    return os.environ.get("CI", "").lower() in {"1", "true"}
