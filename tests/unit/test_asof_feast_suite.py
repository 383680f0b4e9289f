"""The script that runs Feast's own suite, as far as it goes without a checkout of Feast."""

from __future__ import annotations

import re
import subprocess
from importlib.metadata import distributions
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
SCRIPT = ROOT / "scripts" / "feast_suite.sh"


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ([], "give the folder of a Feast checkout"),
        (["{tmp}"], "is no Feast checkout: there is no .*/universal"),
    ],
)
def test_it_says_what_it_needs(tmp_path: Path, arguments: list[str], said: str) -> None:
    given = [argument.format(tmp=tmp_path) for argument in arguments]
    done = subprocess.run([SCRIPT, *given], capture_output=True, text=True)
    assert done.returncode != 0
    assert re.search(said, done.stderr)
    assert list(tmp_path.iterdir()) == []


def test_what_the_suite_needs_is_pinned_and_not_part_of_the_environment() -> None:
    lines = (ROOT / "tests" / "feast_suite" / "requirements.txt").read_text().splitlines()
    names = [line.partition("==")[0] for line in lines if line and not line.startswith("#")]
    assert all("==" in line for line in lines if line and not line.startswith("#"))
    installed = {re.sub(r"[-_.]+", "-", found.metadata["Name"]).lower() for found in distributions()}
    assert not set(names) & installed, "no longer an extra: take it out of the list"
    assert "pytest-asyncio" in names
