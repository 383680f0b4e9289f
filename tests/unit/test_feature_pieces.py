"""What a model's features are made by: each use case names its own pieces, and a change is named by its piece."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from dataclasses import replace
from datetime import timedelta
from pathlib import Path

import pytest

from contrail.feature_code import differences
from contrail.use_case import UseCase
from feature_repo import feature_pieces
from feature_repo.use_cases import LATE_FLIGHT_2H, LATE_FLIGHT_DAY_AHEAD, USE_CASES
from features.tables import FEATURE_TABLES, FeatureTable

ROOT = Path(__file__).resolve().parents[2]


def pieces(use_case: UseCase = LATE_FLIGHT_2H) -> dict[str, str]:
    """As they are now, whatever was said before."""
    return dict(feature_pieces.pieces.__wrapped__(use_case.features, use_case.spine_sql))


def test_every_use_case_names_what_its_features_are_made_by() -> None:
    for use_case in USE_CASES.values():
        assert dict(use_case.feature_code()) == pieces(use_case)
    assert set(pieces()) == {
        *(f"feature/{name}" for name in FEATURE_TABLES), "request/schedule", "request/aircraft", "priors", "spine",
        "completion",
    }  # fmt: skip
    ahead = pieces(LATE_FLIGHT_DAY_AHEAD)
    not_used = {
        "feature/station_weather",
        "feature/aircraft_leg",
        "feature/carrier_origin_history",
        "request/aircraft",
    }
    assert set(ahead) == set(pieces()) - not_used
    assert ahead["spine"] != pieces()["spine"]
    for shared in ("request/schedule", "priors", "completion"):
        assert ahead[shared] == pieces()[shared]


@pytest.mark.parametrize(
    ("change", "is_another"),
    [
        ({"description": "Other words.", "owner": "team:others", "deprecated": "old"}, False),
        ({"max_age": timedelta(hours=1)}, True),
        ({"look_back": timedelta(hours=1)}, True),
        ({"keys": ("origin", "dest")}, True),
        ({"build": FEATURE_TABLES["dest_state"].build}, True),
    ],
)
def test_a_changed_table_is_named_and_its_description_is_no_change(
    monkeypatch: pytest.MonkeyPatch, change: dict[str, object], is_another: bool
) -> None:
    before = pieces()
    changed: FeatureTable = replace(FEATURE_TABLES["origin_state"], **change)  # type: ignore[arg-type]
    monkeypatch.setattr(feature_pieces, "FEATURE_TABLES", {**FEATURE_TABLES, "origin_state": changed})
    found = differences(before, pieces())
    assert [words.split()[0] for words in found] == ["feature/origin_state"] * is_another


def test_a_prior_counts_where_the_feature_is_used(monkeypatch: pytest.MonkeyPatch) -> None:
    table = FEATURE_TABLES["carrier_state"]
    used_by_one = "carrier_departures_waiting"
    columns = tuple(replace(c, prior=1) if c.name == used_by_one else c for c in table.columns)
    before = {name: pieces(use_case) for name, use_case in USE_CASES.items()}
    monkeypatch.setattr(
        feature_pieces, "FEATURE_TABLES", {**FEATURE_TABLES, "carrier_state": replace(table, columns=columns)}
    )
    (words,) = differences(before[LATE_FLIGHT_2H.name], pieces())
    assert words.startswith("feature/carrier_state is ")
    assert differences(before[LATE_FLIGHT_DAY_AHEAD.name], pieces(LATE_FLIGHT_DAY_AHEAD)) == ()


@pytest.mark.parametrize(
    ("file", "old", "new", "refuses"),
    [
        ("completion", "fill_priors(stored) | ", "dict(stored) | ", ["completion"]),
        ("request_time", "made |= schedule_features(request)", "made |= {}", ["completion"]),
        ("request_time", "values |= aircraft_row(request)", "values |= {}", ["completion"]),
        ("request_time", "LEG_LIMIT_MINUTES = 48", "LEG_LIMIT_MINUTES = 24", ["request/aircraft"]),
        ("completion", "# As integers: Arrow", "# Arrow", []),
    ],
)
def test_what_puts_a_vector_together_counts_apart_from_its_parts(
    file: str, old: str, new: str, refuses: list[str], tmp_path: Path
) -> None:
    for package in ("contrail", "feature_repo", "features"):
        shutil.copytree(ROOT / package, tmp_path / package, ignore=shutil.ignore_patterns("__pycache__"))
    changed = tmp_path / "features" / f"{file}.py"
    text = changed.read_text(encoding="utf-8")
    assert text.count(old) == 1
    changed.write_text(text.replace(old, new), encoding="utf-8")
    program = "import json; from feature_repo.use_cases import LATE_FLIGHT_2H; print(json.dumps(LATE_FLIGHT_2H.feature_code()))"
    said = subprocess.run(
        [sys.executable, "-c", program], cwd=tmp_path, capture_output=True, text=True, check=True
    ).stdout
    assert [words.split()[0] for words in differences(pieces(), json.loads(said))] == refuses


def test_the_query_of_the_rows_counts_and_its_layout_does_not() -> None:
    spine = LATE_FLIGHT_2H.spine_sql
    other = replace(LATE_FLIGHT_2H, spine_sql=spine.replace("INTERVAL 2 HOUR", "INTERVAL 3 HOUR"))
    (words,) = differences(pieces(), pieces(other))
    assert words.startswith("spine is ")
    wider = replace(LATE_FLIGHT_2H, spine_sql=f"-- a remark\n{spine.replace('SELECT', 'SELECT  ')}")
    assert differences(pieces(), pieces(wider)) == ()
