"""DuckDB sessions: one factory, so that every query of the project runs under the same rules."""

from __future__ import annotations

import importlib.resources
from pathlib import Path

import duckdb


class DuckError(RuntimeError):
    """DuckDB cannot be set up as the project needs it."""


def delta_extension_path() -> Path:
    """The delta extension inside its wheel; it is never fetched from the network.

    Raises:
        DuckError: the wheel is missing, or is of another DuckDB version.
    """
    try:
        package = Path(str(importlib.resources.files("duckdb_extension_delta")))
    except ModuleNotFoundError as error:
        raise DuckError("the package duckdb-extension-delta is not installed (make setup)") from error
    path = package / "extensions" / f"v{duckdb.__version__}" / "delta.duckdb_extension"
    if not path.exists():
        raise DuckError(
            f"duckdb-extension-delta is not of DuckDB {duckdb.__version__}: {path} does not exist"
        )
    return path


def session_settings() -> tuple[str, ...]:
    """The SET statements that every session runs first; dbt's sessions too."""
    return (
        "SET TimeZone = 'UTC'",
        # Planned by a wrong estimate, an ASOF join becomes a loop join and takes minutes instead of a second.
        "SET asof_loop_join_threshold = 0",
        "SET autoinstall_known_extensions = false",
        "SET autoload_known_extensions = false",
        # A spawned process looks like a terminal to DuckDB.
        "SET enable_progress_bar = false",
    )


def configure(con: duckdb.DuckDBPyConnection) -> None:
    """Bring a fresh connection under the project's rules and load the delta reader."""
    for statement in session_settings():
        con.execute(statement)
    con.load_extension(str(delta_extension_path()))


def connect(
    *, threads: int = 2, memory_limit: str = "4GB", temp_directory: Path | None = None
) -> duckdb.DuckDBPyConnection:
    """Open an in-memory session.

    Args:
        threads: worker threads of this session.
        memory_limit: DuckDB's own limit (``4GB``); what does not fit is spilled to `temp_directory`.
        temp_directory: where to spill; without it DuckDB may not spill at all rather than into the working directory.
    """
    con = duckdb.connect(":memory:", config={"threads": threads, "memory_limit": memory_limit})
    configure(con)
    if temp_directory is not None:
        temp_directory.mkdir(parents=True, exist_ok=True)
    con.execute(f"SET temp_directory = {quote_literal(str(temp_directory) if temp_directory else '')}")
    return con


def quote_identifier(name: str) -> str:
    """A name as a SQL identifier."""
    return '"' + name.replace('"', '""') + '"'


def quote_literal(value: str) -> str:
    """A text as a SQL string literal."""
    return "'" + value.replace("'", "''") + "'"
