"""Materialisations that are killed with signal 9 at a given moment, each in a process of its own.

As a program it imports everything once, reads scenarios, and forks one process for each. A scenario names a function,
how often it has to be called, and whether the process dies before or after that call.
"""

from __future__ import annotations

import importlib
import json
import os
import signal
import subprocess
import sys
from dataclasses import asdict, dataclass, field
from datetime import datetime
from functools import reduce
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]


@dataclass(frozen=True)
class Scenario:
    """One killed materialisation of the view "prices".

    Attributes:
        config: JSON of the store's `RepoConfig`.
        function: ``module:Class.method``; `call`: which of its calls, from 1; `before`: or after it.
        constants: ``module:name`` -> value, set first.
    """

    config: str
    now: str
    function: str
    call: int
    before: bool = False
    constants: dict[str, float] = field(default_factory=dict)
    options: dict[str, int] = field(default_factory=dict)


class Killer:
    """The program, running; `close` it."""

    def __init__(self) -> None:
        self._process = subprocess.Popen(
            [sys.executable, "-m", "tests.support.killed_writers"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            cwd=ROOT,
            text=True,
        )

    def kill(self, *scenarios: Scenario) -> None:
        """Run them, one after the other.

        Raises:
            AssertionError: one was not killed.
        """
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        for scenario in scenarios:
            self._process.stdin.write(json.dumps(asdict(scenario)) + "\n")
            self._process.stdin.flush()
            assert self._process.stdout.readline() == f"{int(signal.SIGKILL)}\n", scenario

    def close(self) -> None:
        self._process.kill()
        self._process.wait()


def _find(path: str) -> tuple[Any, str]:
    module, _, names = path.partition(":")
    *owners, name = names.split(".")
    return reduce(getattr, owners, importlib.import_module(module)), name


def _die_in(scenario: Scenario) -> None:
    from feast import FeatureStore
    from feast.repo_config import RepoConfig

    from contrail.online_write import materialize_view

    for path, value in scenario.constants.items():
        owner, name = _find(path)
        setattr(owner, name, value)
    owner, name = _find(scenario.function)
    whole, calls = getattr(owner, name), 0

    def call(*arguments: Any, **named: Any) -> Any:
        nonlocal calls
        calls += 1
        if calls == scenario.call and scenario.before:
            os.kill(os.getpid(), signal.SIGKILL)
        answer = whole(*arguments, **named)
        if calls == scenario.call:
            os.kill(os.getpid(), signal.SIGKILL)
        return answer

    setattr(owner, name, call)
    store = FeatureStore(config=RepoConfig.model_validate_json(scenario.config))
    materialize_view(store, "prices", now=datetime.fromisoformat(scenario.now), **scenario.options)


def main() -> None:
    # Imported before the first fork, and not yet used: no thread of theirs runs.
    for module in ("feast", "contrail.asof", "contrail.online_write", "redis"):
        importlib.import_module(module)
    for line in sys.stdin:
        child = os.fork()
        if child == 0:
            try:
                _die_in(Scenario(**json.loads(line)))
            finally:
                os._exit(1)
        _, status = os.waitpid(child, 0)
        print(os.WTERMSIG(status) if os.WIFSIGNALED(status) else -1, flush=True)


if __name__ == "__main__":
    main()
