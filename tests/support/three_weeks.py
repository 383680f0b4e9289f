"""The first three weeks of the default data, run once by the command itself; see the fixture `three_weeks`.

Three weeks are the least that gives a model: two to learn from, the rest to validate, test and score.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

from contrail.settings import Settings

FIRST, LAST = "2013-01-01", "2013-01-21"
# The schedule of a day is delivered the evening before: it is landed one day further than the feeds.
LAST_SCHEDULED = "2013-01-22"
DAYS = 21
CONTRAIL = Path(sys.executable).with_name("contrail")
OUTCOME = "run.json"


def contrail(settings: Settings, *arguments: str) -> subprocess.CompletedProcess[str]:
    """`contrail …` over a home, to its end; the working directory is another one on purpose."""
    return subprocess.run(
        [CONTRAIL, *arguments],
        cwd=settings.home,
        env=os.environ | {"CONTRAIL_HOME": str(settings.home)},
        capture_output=True,
        text=True,
        check=False,
    )


def make(home: Path) -> Settings:
    """Run the three weeks; fails with what was printed."""
    home.mkdir(parents=True)
    settings = Settings(home=home)
    done = contrail(settings, "run", "--to", LAST, "--json")
    assert done.returncode == 0, f"contrail run: {done.returncode}\n{done.stdout}\n{done.stderr}"
    (home.parent / OUTCOME).write_text(done.stdout, encoding="utf-8")
    return settings


def outcome(settings: Settings) -> dict[str, Any]:
    """What the run printed."""
    return json.loads((settings.home.parent / OUTCOME).read_text(encoding="utf-8"))


def copy(settings: Settings, home: Path) -> Settings:
    """The same in another folder, to be written to. Dagster's and MLflow's own files still name the old one."""
    shutil.copytree(settings.home, home)
    return Settings(home=home)
