"""The features' documentation: from the declarations alone, whole, and the committed file is what is rendered."""

from __future__ import annotations

import json
import re
from dataclasses import replace
from datetime import timedelta
from pathlib import Path

import pytest
from typer.testing import CliRunner

from cli.app import app
from cli.output import Failure
from contrail import registry
from contrail.lake import Commit, Lake
from contrail.settings import REPO_ROOT
from contrail.use_case import UseCase
from feature_repo import feature_docs
from feature_repo.feature_docs import DOCS_PATH, age_words, markdown_table, render, table_markdown, used_by
from feature_repo.use_cases import LATE_FLIGHT_2H, LATE_FLIGHT_DAY_AHEAD, USE_CASES
from features.documentation import ALL_FEATURES, AT_REQUEST, REQUEST, document
from features.request_time import AIRCRAFT_FEATURES, FEATURE_ORDER, LEG_COLUMNS
from features.tables import FEATURE_TABLES
from tests.support.small_model import NOW


def rows_of(text: str) -> dict[str, list[str]]:
    """First cell -> all cells, of every row of every table in a Markdown text."""
    lines = [line for line in text.splitlines() if line.startswith("| `")]
    cells = [[cell.strip() for cell in re.split(r"(?<!\\)\|", line)[1:-1]] for line in lines]
    return {row[0].strip("`"): row for row in cells}


# --- the document ----------------------------------------------------------------------------------------------------


def test_the_committed_document_is_what_is_rendered() -> None:
    committed = (REPO_ROOT / DOCS_PATH).read_text(encoding="utf-8")
    assert committed == render(), "declarations changed: contrail features docs --write"


def test_every_feature_stands_in_it_with_everything_that_is_asked_of_it() -> None:
    text = render()
    rows = rows_of(text)
    assert set(rows) == set(ALL_FEATURES)
    for name, feature in ALL_FEATURES.items():
        row = " | ".join(rows[name])
        for said in (feature.sql_type, feature.unit, feature.description, feature.known_rule, feature.window):
            assert said in row, name
    for table in FEATURE_TABLES.values():
        section = text.partition(f"## {table.name}\n")[2].partition("\n## ")[0]
        assert table.description in section
        assert table.owner in section
        assert f"max age {age_words(table.max_age)}" in section
        assert all(f"`{name}`" in section for name in (*table.keys, *table.sources))
    missing = {name: rows[name][6] for name in ("origin_disrupted_share_12h", "weather_temp_f")}
    assert missing == {"origin_disrupted_share_12h": "0.25", "weather_temp_f": "null"}


def test_every_feature_has_an_owner_sources_and_an_age_limit() -> None:
    for name, feature in ALL_FEATURES.items():
        assert feature.owner.startswith("team:"), name
        assert feature.description, name
        assert feature.known_rule, name
        if feature.source != REQUEST:
            assert feature.sources == FEATURE_TABLES[feature.source].sources
            assert feature.max_age == FEATURE_TABLES[feature.source].max_age
    assert ALL_FEATURES["aircraft_stage"].sources == ("feature/aircraft_leg",)
    assert ALL_FEATURES["aircraft_stage"].max_age == FEATURE_TABLES["aircraft_leg"].max_age
    assert (ALL_FEATURES["dest"].sources, ALL_FEATURES["dest"].max_age) == ((), None)


def test_used_by_follows_columns_into_what_is_computed_of_them() -> None:
    for name in FEATURE_ORDER:
        ahead = (LATE_FLIGHT_DAY_AHEAD.name,) if name in LATE_FLIGHT_DAY_AHEAD.features else ()
        assert used_by(ALL_FEATURES[name]) == (LATE_FLIGHT_2H.name, *ahead), name
    assert all(used_by(ALL_FEATURES[name]) == (LATE_FLIGHT_2H.name,) for name in LEG_COLUMNS)
    unused = [name for name, feature in ALL_FEATURES.items() if not used_by(feature)]
    assert "network_late_departure_share_180min" in unused
    assert not set(unused) & {*FEATURE_ORDER, *LEG_COLUMNS}
    other: UseCase = replace(
        LATE_FLIGHT_2H, name="early", features=("weather_temp_f", AIRCRAFT_FEATURES[0]), categorical=()
    )
    both = {**USE_CASES, "early": other}
    assert used_by(ALL_FEATURES["weather_temp_f"], both) == (LATE_FLIGHT_2H.name, "early")
    assert used_by(ALL_FEATURES[next(iter(LEG_COLUMNS))], both) == (LATE_FLIGHT_2H.name, "early")
    assert used_by(ALL_FEATURES["dest"], both) == (LATE_FLIGHT_2H.name, LATE_FLIGHT_DAY_AHEAD.name)


def test_what_is_deprecated_says_so_with_the_reason(monkeypatch: pytest.MonkeyPatch) -> None:
    assert "No feature is deprecated." in render()
    table = FEATURE_TABLES["station_weather"]
    column = replace(table.columns[0], deprecated="the sensor drifts; use weather_humid_pct")
    tables = {
        **FEATURE_TABLES,
        "station_weather": replace(table, columns=(column, *table.columns[1:])),
        "aircraft_leg": replace(FEATURE_TABLES["aircraft_leg"], deprecated="no assignments any more"),
    }
    changed = document(tables, AT_REQUEST)
    assert {name for name, f in changed.items() if f.deprecated} == {
        "weather_temp_f",
        *LEG_COLUMNS,
        *AIRCRAFT_FEATURES,
    }
    monkeypatch.setattr(feature_docs, "ALL_FEATURES", changed)
    monkeypatch.setattr(feature_docs, "FEATURE_TABLES", tables)
    text = render()
    listed = text.partition("## Deprecated")[2]
    assert "| `weather_temp_f` | the sensor drifts; use weather_humid_pct | late_flight_2h |" in listed
    assert "**Deprecated**: the sensor drifts" in text.partition("## Deprecated")[0]
    assert table_markdown(tables["aircraft_leg"]).startswith("**Deprecated**: no assignments any more")


def test_dagster_shows_window_rule_prior_and_models_of_every_column() -> None:
    for table in FEATURE_TABLES.values():
        rows = rows_of(table_markdown(table))
        assert list(rows) == [column.name for column in table.columns]
        for column in table.columns:
            _, window, known, missing, models = rows[column.name]
            assert window == (column.window or "–")
            assert known == column.known_rule
            assert missing == ("null" if column.prior is None else str(column.prior))
            assert models == (", ".join(used_by(ALL_FEATURES[column.name])) or "no model")


def test_tables_and_ages_in_words() -> None:
    assert (
        markdown_table(("a", "b"), [("x|y", "two\nlines")])
        == "| a | b |\n| --- | --- |\n| x\\|y | two lines |"
    )
    ages = {timedelta(days=60): "60 d", timedelta(hours=6): "6 h", timedelta(minutes=15): "15 min"}
    ages |= {timedelta(hours=25): "25 h", timedelta(seconds=90): "90 s"}
    assert {span: age_words(span) for span in ages} == ages


# --- the command -----------------------------------------------------------------------------------------------------


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("CONTRAIL_HOME", str(tmp_path))

    def command(*arguments: str) -> str:
        done = CliRunner().invoke(app, ["features", *arguments], catch_exceptions=False)
        assert done.exit_code == 0, done.output
        return done.stdout

    return command


def test_docs_prints_the_document_and_all_features_as_json(run) -> None:
    assert run("docs") == render()
    listed = json.loads(run("docs", "--json"))
    assert [entry["feature"] for entry in listed] == list(ALL_FEATURES)


def test_describe_names_the_registered_versions(run, tmp_path: Path) -> None:
    name = "weather_temp_f"
    assert "no registered model uses it" in run("describe", name)
    registry.register(
        LATE_FLIGHT_2H.name, "a" * 64, Lake(tmp_path / "lake"), decided_at=NOW, decided_by="test", reason="test",
        commit=Commit("model/x", "run", ()),
    )  # fmt: skip
    found = json.loads(run("describe", name, "--json"))
    assert found["declared"]["feature"] == name
    assert found["declared"]["used_by"] == [LATE_FLIGHT_2H.name]
    assert found["declared"]["max_age"] == "6 h"
    (model,) = found["registered_models"]
    assert (model["use case"], model["version"], model["role"]) == (LATE_FLIGHT_2H.name, 1, "champion")
    assert model["inputs"] == "unknown: its files are damaged"
    text = run("describe", name)
    assert "clean/weather" in text
    assert re.search(r"late_flight_2h +1 +champion +aaaaaaaaaaaa", text)


def test_an_unknown_feature_is_refused_with_what_may_be_meant(run) -> None:
    with pytest.raises(Failure, match="do you mean weather_temp_f"):
        run("describe", "weather_tmp_f")
    with pytest.raises(Failure, match="contrail features docs lists them all"):
        run("describe", "zzzzzz")
