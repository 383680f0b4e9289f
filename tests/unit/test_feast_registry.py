"""The registry file is changed by one at a time, whoever that is, and by each from what the others made of it."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta
from pathlib import Path

import pytest
from feast import FeatureStore
from feast.types import Float64

from contrail import feast_registry
from contrail.feast_registry import RegistryBusyError, registry_lock
from contrail.online_write import register
from tests.support import online_world as world
from tests.support.online_world import HOUR, T0

ROOT = Path(__file__).resolve().parents[2]
TIMES = 15
HOLDS = "from contrail.feast_registry import *; import sys, time\nwith registry_lock(Path(sys.argv[1])): print('held', flush=True); time.sleep(60)"
REGISTERS = """
import json, sys
from datetime import timedelta
from feast import FeatureStore, RepoConfig
from pathlib import Path
from contrail.online_write import register
from tests.support.online_world import HOUR, T0
config = RepoConfig(**json.loads(sys.argv[1]))
config.repo_path = Path(sys.argv[2])
store = FeatureStore(config=config)
view = store.get_feature_view("other")
print("ready", flush=True)
sys.stdin.readline()
for n in range(int(sys.argv[3])):
    register(store, view, T0 + 2 * n * HOUR, T0 + 2 * n * HOUR + timedelta(minutes=1))
"""


def shop(folder: Path) -> FeatureStore:
    """A store with two views of one table."""
    world.append(folder, [("a", 1, T0 - HOUR, T0 - HOUR, 1.0)])
    other = world.view(folder, {"price": Float64}, name="other")
    return world.shop(folder, world.sqlite(folder), "ours", world.view(folder), other)


@contextmanager
def another(program: str, *arguments: str) -> Iterator[subprocess.Popen[str]]:
    """A process that has said its first line."""
    process = subprocess.Popen(
        [sys.executable, "-c", program, *arguments],
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, cwd=ROOT, text=True,
    )  # fmt: skip
    assert process.stdout is not None
    try:
        assert process.stdout.readline().strip() in ("held", "ready")
        yield process
    finally:
        process.kill()
        process.communicate()


def test_two_processes_that_register_at_once_lose_nothing(tmp_path: Path) -> None:
    store = shop(tmp_path)
    view = store.get_feature_view("prices")
    given = json.dumps(store.config.model_dump(mode="json", exclude_none=True, by_alias=True))
    with another(REGISTERS, given, str(tmp_path), str(TIMES)) as process:
        assert process.stdin is not None
        process.stdin.write("go\n")
        process.stdin.flush()
        for n in range(TIMES):
            register(store, view, T0 + 2 * n * HOUR, T0 + 2 * n * HOUR + timedelta(minutes=1))
        assert process.wait(60) == 0
    store.refresh_registry()
    found = {
        name: len(store.get_feature_view(name).materialization_intervals) for name in ("prices", "other")
    }
    assert found == {"prices": TIMES, "other": TIMES}


def test_what_was_applied_since_the_store_was_opened_stays(tmp_path: Path) -> None:
    store = shop(tmp_path)
    view = store.get_feature_view("prices")
    later = FeatureStore(config=store.config)
    later.apply(world.view(tmp_path, {"price": Float64}, name="third"))
    register(store, view, T0 - HOUR, T0)
    assert sorted(one.name for one in FeatureStore(config=store.config).list_feature_views()) == [
        "other",
        "prices",
        "third",
    ]


def test_a_registry_that_another_one_changes_is_waited_for_and_named_and_a_kill_lets_go(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = shop(tmp_path)
    view = store.get_feature_view("prices")
    with another(HOLDS, str(tmp_path / "ours.registry")) as process:
        monkeypatch.setattr(feast_registry, "LOCK_SECONDS", 0.1)
        with pytest.raises(
            RegistryBusyError, match=r"changing the registry .*ours\.registry for 0\.1 s: wait"
        ):
            register(store, view, T0 - HOUR, T0)
        monkeypatch.setattr(feast_registry, "LOCK_SECONDS", 60)
        process.kill()
        register(store, view, T0 - HOUR, T0)
    assert world.intervals(store) == [(T0 - HOUR, T0)]
    with registry_lock(tmp_path / "new" / "registry.db"):
        pass
