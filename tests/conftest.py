"""What every test may use, and the honest count of the tests that this machine cannot run."""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import hypothesis
import pytest

from contrail import environment
from contrail.settings import Settings, under_ci
from tests.support.redis_server import PROGRAM as REDIS
from tests.support.redis_server import RedisServer
from tests.support.three_weeks import OUTCOME
from tests.support.three_weeks import make as make_three_weeks

ROOT = Path(__file__).resolve().parent.parent
LOCATIONS = """
query {
  workspaceOrError {
    ... on Workspace {
      locationEntries {
        name
        locationOrLoadError {
          ... on PythonError { message }
          ... on RepositoryLocation { repositories { assetNodes { assetKey { path } } } }
        }
      }
    }
  }
}
"""
# How long one example takes says more of the machine than of the code.
hypothesis.settings.register_profile("project", deadline=None)
hypothesis.settings.load_profile("project")
NOT_RUN = pytest.StashKey[Mapping[str, int]]()
REDIS_FIXTURES = {"redis_of_session", "own_redis"}


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--screenshots",
        type=Path,
        default=None,
        metavar="DIR",
        help="Keep the screenshots of the browser tests in DIR.",
    )


def _debian_package(item: pytest.Item) -> str | None:
    """The Debian package that a test needs and this machine has not."""
    if item.get_closest_marker("browser") and not shutil.which("chromium"):
        return "chromium"
    # A test over both stores asks for the server only where its parameter says so.
    parameters = item.callspec.params.values() if hasattr(item, "callspec") else ()
    if (
        "redis" in parameters or REDIS_FIXTURES & set(getattr(item, "fixturenames", ()))
    ) and not shutil.which(REDIS):
        return REDIS
    return None


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Leave out the tests that lack a Debian package, and count them; under CI they stay, and fail saying why."""
    config.stash[NOT_RUN] = {}
    if under_ci():
        return
    lacking = {item: package for item in items if (package := _debian_package(item))}
    if lacking:
        config.stash[NOT_RUN] = Counter(lacking.values())
        config.hook.pytest_deselected(items=list(lacking))
        items[:] = [item for item in items if item not in lacking]


def pytest_sessionfinish(session: pytest.Session) -> None:
    """A worker tells the process that prints the summary what it left out."""
    if (output := getattr(session.config, "workeroutput", None)) is not None:
        output["not_run"] = dict(session.config.stash.get(NOT_RUN, {}))


@pytest.hookimpl(optionalhook=True)
def pytest_testnodedown(node: Any, error: object) -> None:
    """Every worker collects all tests, so what each left out is the same."""
    del error
    node.config.stash[NOT_RUN] = getattr(node, "workeroutput", {}).get("not_run", {})


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter, config: pytest.Config) -> None:
    for package, count in config.stash.get(NOT_RUN, {}).items():
        noun = "test" if count == 1 else "tests"
        what = "browser" if package == "chromium" else "Redis"
        terminalreporter.write_line(
            f"not run: {count} {what} {noun}; type: sudo apt-get install {package}", yellow=True
        )


@pytest.fixture(scope="session")
def redis_of_session() -> Iterator[RedisServer]:
    """One redis-server for all tests; they use `redis_server`, which empties it."""
    server = RedisServer().start()
    yield server
    server.stop()


@pytest.fixture
def redis_server(redis_of_session: RedisServer) -> RedisServer:
    """A redis-server with nothing in it; it is shared and must stay up."""
    redis_of_session.client.flushall()
    return redis_of_session


@pytest.fixture
def own_redis() -> Iterator[RedisServer]:
    """A redis-server of this test alone, which may stop it and make it hang."""
    server = RedisServer().start()
    yield server
    server.stop()


class DagsterServer:
    """A running server of Dagster's own, and its GraphQL."""

    def __init__(self, address: str) -> None:
        self.address = address

    def query(self, text: str, **variables: object) -> dict[str, Any]:
        """The `data` of a GraphQL answer."""
        request = urllib.request.Request(
            f"{self.address}/graphql",
            data=json.dumps({"query": text, "variables": variables}).encode(),
            headers={"Content-Type": "application/json"},
        )
        with urllib.request.urlopen(request, timeout=60) as answer:
            content = json.load(answer)
        assert "errors" not in content, content["errors"]
        return content["data"]

    def assets(self) -> set[str]:
        """The keys of all assets, `stage/name`; fails where the code location did not load."""
        (location,) = self.query(LOCATIONS)["workspaceOrError"]["locationEntries"]
        loaded = location["locationOrLoadError"]
        assert "message" not in loaded, loaded["message"]
        return {
            "/".join(node["assetKey"]["path"])
            for repository in loaded["repositories"]
            for node in repository["assetNodes"]
        }


@pytest.fixture(scope="session")
def three_weeks(tmp_path_factory: pytest.TempPathFactory) -> Settings:
    """A home in which 2013-01-01 … 2013-01-21 ran whole, landing files to monitor, by the command itself.

    One for all tests of a session: read it only. A test that writes takes a copy (`tests.support.three_weeks.copy`).
    What the command printed lies beside it, in ``run.json``.
    """
    # The folder of the whole run, above that of a worker, if there are several.
    base = tmp_path_factory.getbasetemp()
    folder = (base.parent if "PYTEST_XDIST_WORKER" in os.environ else base) / "three-weeks"
    folder.mkdir(exist_ok=True)
    with (folder / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)  # the first worker makes it, the others wait for it
        home = folder / "home"
        return Settings(home=home) if (folder / OUTCOME).exists() else make_three_weeks(home)


@pytest.fixture(scope="session")
def dagster_server() -> Callable[..., contextlib.AbstractContextManager[DagsterServer]]:
    """Run `dagster dev` or `dagster-webserver` over a home, on a free port, until the block ends.

    The working directory is the home: one with a `.env` would win over the environment given here.
    """

    @contextlib.contextmanager
    def serve(settings: Settings, *program: str, patience_seconds: float = 180) -> Iterator[DagsterServer]:
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            port = probe.getsockname()[1]
        executable = Path(sys.executable).with_name(program[0])
        log_path = settings.home / f"{program[0]}.log"
        log_path.parent.mkdir(parents=True, exist_ok=True)
        with log_path.open("wb") as log:
            process = subprocess.Popen(
                [executable, *program[1:], "-w", ROOT / "workspace.yaml", "-h", "127.0.0.1", "-p", str(port)],
                cwd=settings.home,
                env=os.environ | environment.variables(settings),
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
        try:
            address = f"http://127.0.0.1:{port}"
            deadline = time.monotonic() + patience_seconds
            while True:
                with (
                    contextlib.suppress(OSError),
                    urllib.request.urlopen(f"{address}/server_info", timeout=5),
                ):
                    break
                if process.poll() is not None or time.monotonic() > deadline:
                    pytest.fail(f"{' '.join(program)} did not start:\n{log_path.read_text()[-4000:]}")
                time.sleep(0.5)
            yield DagsterServer(address)
        finally:
            _stop(process)

    return serve


def _stop(process: subprocess.Popen[bytes]) -> None:
    """End the server and everything it started, which is in its process group."""
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGINT)
    with contextlib.suppress(subprocess.TimeoutExpired):
        process.wait(timeout=30)
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    process.wait(timeout=30)
