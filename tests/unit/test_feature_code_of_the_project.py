"""What this project's own features mean: told apart, told alike by every process, and told fast."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

from contrail import feature_code
from contrail.feature_code import meaning
from features import request_time
from features.tables import FEATURE_TABLES

ROOT = Path(__file__).resolve().parents[2]


def of_the_project() -> dict[str, str]:
    pieces: dict[str, list[object]] = {
        name: [table.build, table.keys, table.max_age, [(c.name, c.sql_type, c.prior) for c in table.columns]]
        for name, table in FEATURE_TABLES.items()
    }
    pieces["request"] = [request_time.request_time_features, "features.vectors:fill_priors"]
    return meaning(pieces, ["features", "contrail"])


def test_every_process_says_the_same_of_the_projects_features():
    program = "import json; from tests.unit.test_feature_code_of_the_project import of_the_project; print(json.dumps(of_the_project()))"
    said = {
        subprocess.run(
            ["env", f"PYTHONHASHSEED={seed}", sys.executable, "-c", program],
            cwd=ROOT, capture_output=True, text=True, check=True,
        ).stdout
        for seed in (1, 2)
    }  # fmt: skip
    assert len(said) == 1
    found = of_the_project()
    assert all(sha256 in next(iter(said)) for sha256 in found.values())
    assert len(set(found.values())) == len(found), "tables that differ mean different things"


def test_the_projects_features_take_under_half_a_second():
    """In a process of its own: here every line is counted for the coverage, which costs more than the work."""
    program = (
        "import time; from tests.unit.test_feature_code_of_the_project import of_the_project; of_the_project(); "
        "began = time.process_time(); of_the_project(); print(time.process_time() - began)"
    )
    done = subprocess.run(
        [sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, check=True
    )
    assert float(done.stdout) < 0.5


def test_a_table_reaches_its_helpers_and_no_other_table():
    reached = feature_code._Reached(feature_code.Code(["features", "contrail"]), frozenset())
    reached.enter(FEATURE_TABLES["station_weather"].build)
    symbols = {symbol.partition(":")[0] for symbol in reached._symbols}
    assert {"features.weather", "features.declarations", "contrail.windows"} <= symbols
    assert not symbols & {"features.state", "features.aircraft", "features.grid_tables"}
