"""What set-up says and does where something is missing; nothing here installs anything."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
TOOLS = ("bash", "env", "id", "dirname", "cat", "cut", "sha256sum", "rm", "awk", "grep", "mktemp", "tail")


@pytest.fixture
def bare_path(tmp_path: Path) -> Path:
    """A folder for PATH with the ordinary tools, but neither chromium nor redis-server nor apt-get nor python3.11."""
    folder = tmp_path / "bin"
    folder.mkdir()
    for tool in TOOLS:
        found = next(p for d in ("/usr/bin", "/bin") if (p := Path(d, tool)).exists())
        (folder / tool).symlink_to(found)
    return folder


def run(script: str, path: Path, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        ["bash", ROOT / "scripts" / script],
        env={"PATH": str(path), **environment},
        capture_output=True,
        text=True,
    )


def test_a_missing_package_is_named_with_the_line_to_type(bare_path):
    done = run("system_packages.sh", bare_path)
    assert done.returncode == 0
    assert "not installed: chromium redis-server; type: sudo apt-get install --yes" in done.stderr


@pytest.mark.parametrize("there", ["chromium", "redis-server"])
def test_a_missing_package_is_a_failure_under_ci(bare_path, there):
    (bare_path / there).symlink_to("/bin/true")
    done = run("system_packages.sh", bare_path, CI="true")
    assert done.returncode == 1
    missing = {"chromium", "redis-server"} - {there}
    assert f"not installed: {missing.pop()};" in done.stderr


def test_nothing_is_said_where_nothing_is_missing(bare_path):
    for there in ("chromium", "redis-server"):
        (bare_path / there).symlink_to("/bin/true")
    done = run("system_packages.sh", bare_path, CI="true")
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


@pytest.mark.parametrize("works", [True, False])
def test_what_may_be_installed_is_installed(bare_path, works):
    # An apt-get that only writes down what it is asked, and a user who is root.
    log = bare_path.parent / "asked"
    apt = bare_path / "apt-get"
    apt.write_text(
        f'#!/bin/bash\necho "$*" >>{log}\n{"exit 0" if works else "echo no such package; exit 100"}\n'
    )
    apt.chmod(0o755)
    (bare_path / "id").unlink()
    (bare_path / "id").write_text("#!/bin/bash\necho 0\n")
    (bare_path / "id").chmod(0o755)
    done = run("system_packages.sh", bare_path, CI="true")
    asked = log.read_text().splitlines()
    assert asked[0] == "update"
    assert done.returncode == (0 if works else 1)
    assert ("no such package" in done.stderr) is not works
    assert (asked[-1] == "install --yes --no-install-recommends chromium redis-server") is works


def test_bootstrap_names_the_debian_packages_where_python_is_missing(bare_path, tmp_path):
    # In a copy, so that the installation that runs this test is left alone.
    copy = tmp_path / "copy"
    (copy / "scripts").mkdir(parents=True)
    for name in ("scripts/bootstrap.sh", "requirements.lock", "pyproject.toml"):
        (copy / name).write_bytes((ROOT / name).read_bytes())
    done = subprocess.run(
        ["bash", copy / "scripts" / "bootstrap.sh"],
        env={"PATH": str(bare_path)},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 1
    assert "python3.11 is not here" in done.stderr
    assert "apt-get install python3.11 python3.11-venv git make libgomp1" in done.stderr
    assert not (copy / ".venv").exists()


def test_browser_tests_that_cannot_run_are_counted(bare_path):
    environment = {"PATH": str(bare_path), "HOME": os.devnull}
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "tests/browser", "-p", "no:cacheprovider", "--no-cov"],
        cwd=ROOT,
        env=environment,
        capture_output=True,
        text=True,
    )
    assert "type: sudo apt-get install chromium" in done.stdout
    assert "not run: " in done.stdout
    assert done.returncode == 5  # no tests ran
