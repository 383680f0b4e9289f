"""Running dbt inside this process: what a build is told, and what came of it.

A subprocess costs seconds of imports for each run, and a changed ``--vars`` makes dbt parse the whole project again.
So dbt runs in process with a parsed manifest that is kept, and the days to build and the instant up to which the
feeds are complete reach the models as DuckDB variables, through a `BuildContext` that `contrail.dbt_delta` reads.
Nothing of dbt is imported with this module.
"""

from __future__ import annotations

import threading
from collections.abc import Generator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import date, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from contrail.settings import Settings

if TYPE_CHECKING:
    from dbt.artifacts.schemas.results import NodeResult
    from dbt.contracts.graph.manifest import Manifest

FAILED = frozenset({"error", "fail", "runtime error", "partial success"})


class DbtError(RuntimeError):
    """dbt could not do what it was asked; the message names the model or file, and what dbt says of it."""


@dataclass(frozen=True)
class TableWritten:
    """What became of one Delta model.

    Attributes:
        table: ``stage/name``.
        version: the table's version that holds the rows.
        rows: rows that the model made: of the window, or of the whole table where it is not partitioned.
        is_unchanged: the rows were those already there, so nothing was committed.
    """

    table: str
    version: int
    rows: int
    inputs: tuple[str, ...]
    is_unchanged: bool = False


@dataclass
class BuildContext:
    """What one dbt invocation is told, and what it leaves behind.

    Attributes:
        lake_root: the lake that is read and written.
        first, last: days to build, both included; models read them by getvariable('first_day'), 'last_day'.
        complete_until: up to here the feeds are complete (exclusive); getvariable('complete_until').
        run_id: the run that the commits will name.
        pins: table → version to read; all others are read at the version that is newest when dbt connects.
        settings: threads, memory and where to spill.
        tables: the only tables that models can read; `run_dbt` fills in those that the project names. None: all.
        pinned: out: every table that could be read, at the version at which it was.
        results: out: every Delta model that was stored, in order.
    """

    lake_root: Path
    first: date
    last: date
    complete_until: datetime
    run_id: str
    pins: Mapping[str, int] = field(default_factory=dict[str, int])
    settings: Settings = field(default_factory=Settings)
    tables: frozenset[str] | None = None
    pinned: dict[str, int] = field(default_factory=dict[str, int])
    results: list[TableWritten] = field(default_factory=list[TableWritten])

    def __post_init__(self) -> None:
        if self.last < self.first:
            raise DbtError(f"the window ends before it begins: {self.first}..{self.last}")
        if self.complete_until.tzinfo is None:
            raise DbtError(f"complete_until has no zone: {self.complete_until.isoformat()}")


@dataclass(frozen=True)
class ModelResult:
    """One model of an invocation; version and rows are those of a Delta model, None for the others.

    `name` is dbt's, `table` is ``schema/alias``; `status` is dbt's (success, error, skipped), `seconds` wall time.
    """

    name: str
    table: str
    version: int | None
    rows: int | None
    seconds: float
    status: str
    message: str


@dataclass(frozen=True)
class TestResult:
    """One data test: the model and column it belongs to, and how many rows broke it.

    `status` is dbt's (pass, warn, fail, error, skipped); dbt counts failures only where the test did not pass.
    `severity` is warn or error.
    """

    __test__ = False  # the name is dbt's word; pytest would collect it

    name: str
    model: str
    column: str | None
    status: str
    failures: int
    severity: str
    seconds: float
    message: str
    description: str


@dataclass(frozen=True)
class DbtRunResult:
    """Everything that one invocation did."""

    models: tuple[ModelResult, ...]
    tests: tuple[TestResult, ...]

    @property
    def is_success(self) -> bool:
        """Whether nothing failed and nothing was skipped; warnings do not count."""
        states = {result.status for result in (*self.models, *self.tests)}
        return not states & (FAILED | {"skipped"})


def selection(models: Sequence[str], *, only_their_tests: bool = False) -> tuple[str, ...]:
    """dbt's options to build these models and what they need in memory, and no other stored model.

    ``--exclude`` is no way to do that: it takes every test with it that so much as reads an excluded model.

    Args:
        models: names of stored models.
        only_their_tests: leave out tests that read models which are not among these.
    """
    in_memory = [f"+{name},config.materialized:table" for name in models]
    tests = ("--indirect-selection", "cautious" if only_their_tests else "eager")
    return ("--select", *models, *in_memory, *tests)


_running = threading.Lock()
_active: BuildContext | None = None


def active_context() -> BuildContext | None:
    """The context of the build that is going on, None outside one (dbt typed by hand)."""
    return _active


@contextmanager
def build_context(context: BuildContext) -> Generator[BuildContext, None, None]:
    """Make `context` what dbt's plugin is told inside the block. One build at a time per process: others wait."""
    global _active
    # A module's variable and not a ContextVar: dbt runs models in threads of its own, which do not inherit one.
    with _running:
        _active = context
        try:
            yield context
        finally:
            _active = None


def parse(project_dir: Path, *, target_path: Path | None = None, log_path: Path | None = None) -> Manifest:
    """The project's manifest: dbt's own partial parse is used where it is there, and kept in this process.

    Raises:
        DbtError: the project does not parse.
    """
    key = (str(project_dir), str(target_path))
    state = _fingerprint(project_dir)
    known = _manifests.get(key)
    if known is not None and known[0] == state:
        return known[1]
    outcome = _invoke(["parse"], project_dir, None, target_path, log_path)
    manifest: Manifest = outcome.result
    _manifests[key] = (state, manifest)
    return manifest


def run_dbt(
    project_dir: Path,
    args: Sequence[str],
    context: BuildContext,
    *,
    manifest: Manifest | None = None,
    target_path: Path | None = None,
    log_path: Path | None = None,
) -> DbtRunResult:
    """Run ``dbt <args>`` (build, run or test) in this process.

    Args:
        project_dir: the folder of dbt_project.yml and profiles.yml.
        args: the command and its options, for instance ``("build", "--select", "+name")``.
        context: days, completeness, pins; its `results` and `pinned` are filled.
        manifest: a parsed project; `parse` is asked for it if not given.
        target_path, log_path: where dbt leaves its artifacts and logs, by default under the context's home.

    Returns:
        Models and tests with their outcomes. A failed data test is a result, not an exception.

    Raises:
        DbtError: a model or a test could not run, or dbt refused the invocation.
    """
    home = context.settings.home
    target_path = home / "dbt" / "target" if target_path is None else target_path
    log_path = home / "dbt" / "logs" if log_path is None else log_path
    if manifest is None:
        manifest = parse(project_dir, target_path=target_path, log_path=log_path)
    if context.tables is None:
        context.tables = _tables_named(manifest)
    with build_context(context):
        _forget_connection()
        try:
            outcome = _invoke([*args, "--no-write-json"], project_dir, manifest, target_path, log_path)
        finally:
            _forget_connection()
    written = {result.table: result for result in context.results}
    models: list[ModelResult] = []
    tests: list[TestResult] = []
    for result in outcome.result.results:
        if result.node.resource_type == "test":
            tests.append(_test_result(result, manifest))
        else:
            models.append(_model_result(result, written))
    broken = [result for result in outcome.result.results if str(result.status) in FAILED - {"fail"}]
    if broken:
        raise DbtError("\n".join(_complaint(result, manifest, context) for result in broken))
    return DbtRunResult(tuple(models), tuple(tests))


_manifests: dict[tuple[str, str], tuple[tuple[tuple[str, int, int], ...], Manifest]] = {}


def _fingerprint(project_dir: Path) -> tuple[tuple[str, int, int], ...]:
    """Name, size and modification time of every file that dbt parses."""
    files = sorted(
        p for p in project_dir.rglob("*") if p.suffix in {".sql", ".yml", ".csv", ".md"} and p.is_file()
    )
    stats = [(str(p.relative_to(project_dir)), p.stat()) for p in files]
    return tuple(
        (name, s.st_size, s.st_mtime_ns) for name, s in stats if not name.startswith(("target/", "logs/"))
    )


def _invoke(
    args: Sequence[str],
    project_dir: Path,
    manifest: Manifest | None,
    target_path: Path | None,
    log_path: Path | None,
) -> Any:
    from dbt.cli.main import dbtRunner

    said: list[str] = []

    def listen(event: Any) -> None:
        if str(event.info.level) == "error":
            said.append(str(event.info.msg))

    options = ["--project-dir", str(project_dir), "--profiles-dir", str(project_dir)]
    options += ["--target-path", str(target_path)] if target_path else []
    options += ["--log-path", str(log_path)] if log_path else []
    quiet = [
        "--quiet",
        "--no-use-colors",
        "--log-level",
        "none",
        "--log-level-file",
        "none",
        "--no-version-check",
    ]
    outcome = dbtRunner(manifest=manifest, callbacks=[listen]).invoke(
        [*quiet, "--no-send-anonymous-usage-stats", *args, *options]
    )
    if outcome.exception is not None:
        raise DbtError(f"dbt {' '.join(args)}: {outcome.exception}") from outcome.exception
    if outcome.result is None:
        raise DbtError(f"dbt {' '.join(args)} gave no result: " + ("\n".join(said) or "it said nothing"))
    return outcome


def _forget_connection() -> None:
    """Close dbt-duckdb's in-memory database, which it keeps per process: pins and variables belong to one build."""
    from dbt.adapters.duckdb.connections import DuckDBConnectionManager

    environment: Any = DuckDBConnectionManager._ENV  # pyright: ignore[reportPrivateUsage]
    if environment is not None:
        environment.close()
    DuckDBConnectionManager.close_all_connections()


def _tables_named(manifest: Manifest) -> frozenset[str]:
    """Sources and stored models: opening every other table of the lake as well would only cost time."""
    nodes: Any = manifest.nodes.values()
    stored = {f"{node.schema}/{node.alias}" for node in nodes if node.config.materialized == "delta"}
    return frozenset(
        stored | {f"{source.schema}/{source.identifier}" for source in manifest.sources.values()}
    )


def _complaint(result: NodeResult, manifest: Manifest, context: BuildContext) -> str:
    """What went wrong with one node, and the sources that it needs and the lake has not."""
    node: Any = result.node
    needed = [manifest.sources[name] for name in node.depends_on.nodes if name in manifest.sources]
    tables = [f"{source.schema}/{source.identifier}" for source in needed]
    missing = [table for table in tables if table not in context.pinned]
    text = f"{node.name}: {(result.message or str(result.status)).strip()}"
    return text + (f"\n  not in the lake: {', '.join(missing)} (materialise it first)" if missing else "")


def _model_result(result: NodeResult, written: Mapping[str, TableWritten]) -> ModelResult:
    node: Any = result.node
    table = f"{node.schema}/{node.alias}"
    stored = written.get(table)
    return ModelResult(
        name=node.name,
        table=table,
        version=stored.version if stored else None,
        rows=stored.rows if stored else None,
        seconds=result.execution_time,
        status=str(result.status),
        message=result.message or "",
    )


def _test_result(result: NodeResult, manifest: Manifest) -> TestResult:
    node: Any = result.node
    attached: str | None = getattr(node, "attached_node", None)
    if attached is None:  # a singular test belongs to the first model that it reads
        attached = next((name for name in node.depends_on.nodes if name.startswith("model.")), None)
    model: Any = manifest.nodes.get(attached) if attached else None
    return TestResult(
        name=node.name,
        model=model.name if model is not None else "",
        column=getattr(node, "column_name", None),
        status=str(result.status),
        failures=result.failures or 0,
        severity=str(node.config.severity).lower(),
        seconds=result.execution_time,
        message=result.message or "",
        description=node.description or "",
    )
