"""Feast on other homes than the default one: the bare command finds theirs, and a copy leaves the first one alone."""

from __future__ import annotations

import os
import shutil
import sqlite3
import subprocess
import sys
from contextlib import closing
from pathlib import Path

import pytest

from contrail.settings import REPO_ROOT
from features.tables import FEATURE_TABLES
from resources.feature_store import FeatureStoreResource
from tests.support.small_features import make as make_small_features


def feast_apply(home: Path) -> str:
    """`feast apply` as one types it after asking for the environment: what it printed."""
    command = Path(sys.executable).with_name("contrail")
    done = subprocess.run(
        ["bash", "-euc", f'eval "$({command} env)"; feast -c feature_repo apply'],
        cwd=REPO_ROOT,
        env=os.environ
        | {"CONTRAIL_HOME": str(home), "PYTHONPATH": str(REPO_ROOT), "PYTHONDONTWRITEBYTECODE": "1"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.mark.slow
def test_the_bare_command_works_on_the_home_that_the_environment_names(tmp_path: Path) -> None:
    FeatureStoreResource(home=str(tmp_path)).apply()
    (tmp_path / "feature_store.yaml").unlink()
    said = feast_apply(tmp_path)
    assert "No changes to registry" in said
    assert "No changes to infrastructure" in said


@pytest.mark.parametrize("by", ["us", pytest.param("feast", marks=pytest.mark.slow)])
def test_applying_in_a_copy_leaves_the_first_home_as_it_is(tmp_path: Path, by: str) -> None:
    first, copy = tmp_path / "first", tmp_path / "copy"
    make_small_features(first)
    stored = _online_cells(first)
    assert stored > 0
    shutil.copytree(first, copy)
    if by == "feast":
        feast_apply(copy)
    else:
        FeatureStoreResource(home=str(copy)).apply()
    assert (_online_cells(first), _online_cells(copy)) == (stored, stored)
    assert FeatureStoreResource(home=str(copy)).apply().changes == ()
    # And of a home that was moved nothing comes back where it was.
    shutil.rmtree(first)
    moved = copy.rename(tmp_path / "moved")
    FeatureStoreResource(home=str(moved)).apply()
    assert [path.name for path in tmp_path.iterdir()] == ["moved"]
    assert _online_cells(moved) == stored


def _online_cells(home: Path) -> int:
    """Cells in the online store of a home, of all views."""
    with closing(sqlite3.connect(home / "online_store.db")) as con:
        return sum(
            con.execute(f"SELECT count(*) FROM contrail_{table}").fetchone()[0] for table in FEATURE_TABLES
        )
