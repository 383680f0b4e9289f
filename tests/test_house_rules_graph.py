"""The rules of the house that need the loaded graph: names, descriptions, owners, kinds, columns, load cost.

The definitions are loaded over an empty home: nothing here may depend on what has landed or been built.
"""

from __future__ import annotations

import json
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import dagster as dg
import pytest

from contrail.lake import Lake
from contrail.settings import Settings

ROOT = Path(__file__).resolve().parent.parent
STAGES = ("raw", "clean", "feature", "feature_store", "model", "score", "monitor")
# Stages whose every asset is a published table. In the others, whatever shows columns is held to the same rule.
TABLE_STAGES = ("raw", "clean", "feature", "score", "monitor")
HEAVY = (
    "great_expectations",
    "evidently",
    "feast",
    "mlflow",
    "lightgbm",
    "sklearn",
    "matplotlib",
    "scipy",
    "ibis",
)


@pytest.fixture(scope="module")
def definitions(tmp_path_factory: pytest.TempPathFactory) -> dg.Definitions:
    from definitions import build_defs

    return build_defs(Settings(home=tmp_path_factory.mktemp("home")))


@pytest.fixture(scope="module")
def specs(definitions: dg.Definitions) -> list[dg.AssetSpec]:
    found = [spec for spec in definitions.resolve_all_asset_specs() if spec.key.path[0] != "landing"]
    assert len(found) > 20, "the graph is not whole"
    return found


def columns_of(spec: dg.AssetSpec) -> list[dg.TableColumn]:
    schema = spec.metadata.get("dagster/column_schema")
    if isinstance(schema, dg.TableSchemaMetadataValue):
        schema = schema.schema
    return list(schema.columns) if isinstance(schema, dg.TableSchema) else []


def lines(found: Iterator[str]) -> None:
    listed = list(found)
    assert not listed, "\n" + "\n".join(listed)


def test_the_definitions_load_whole(definitions):
    dg.Definitions.validate_loadable(definitions)
    assert list(definitions.schedules or []), "no schedule"
    assert list(definitions.sensors or []), "no sensor"
    assert list(definitions.jobs or []), "no job"


def test_stages_are_the_modules_of_assets(specs):
    assert {spec.group_name for spec in specs} == set(STAGES)
    modules = {path.stem for path in (ROOT / "assets").glob("*.py")} | {
        path.parent.name for path in (ROOT / "assets").glob("*/__init__.py")
    }
    assert set(STAGES) <= modules


def test_one_name_in_four_places(specs, tmp_path):
    lake = Lake(tmp_path / "lake")
    lines(
        f"{spec.key.to_user_string()}: group {spec.group_name}"
        for spec in specs
        if spec.group_name != spec.key.path[0]
        or Path(lake.uri("/".join(spec.key.path))) != tmp_path.joinpath("lake", *spec.key.path)
    )


def test_what_belongs_to_one_model_lies_one_level_deeper(specs):
    from feature_repo import use_cases

    names = set(use_cases.USE_CASES)
    lines(
        f"{spec.key.to_user_string()}: expected {spec.key.path[0]}/<use case>/…"
        for spec in specs
        if spec.key.path[0] in {"model", "score", "monitor"}
        if len(spec.key.path) < 3 or spec.key.path[1] not in names
    )


def test_every_asset_says_what_it_is_and_whose(specs):
    def missing() -> Iterator[str]:
        for spec in specs:
            name = spec.key.to_user_string()
            if len((spec.description or "").split()) < 4:
                yield f"{name}: no description worth the name: {spec.description!r}"
            if not spec.owners:
                yield f"{name}: no owner"
            if not spec.kinds:
                yield f"{name}: no kinds"

    lines(missing())


def test_every_published_column_has_a_description_and_a_unit(specs):
    def missing() -> Iterator[str]:
        for spec in specs:
            name = spec.key.to_user_string()
            columns = columns_of(spec)
            if spec.group_name in TABLE_STAGES and not columns:
                yield f"{name}: no dagster/column_schema"
            for column in columns:
                if not column.description:
                    yield f"{name}.{column.name}: no description"
                if not column.tags.get("unit"):
                    yield f"{name}.{column.name}: no unit (tags={{'unit': …}}; 'none' for what has none)"

    lines(missing())


def test_every_instant_has_a_zone(specs):
    def wrong() -> Iterator[str]:
        for spec in specs:
            for column in columns_of(spec):
                instant = re.search("timestamp", column.type, re.I)
                if instant and column.name.endswith("_local"):
                    yield f"{spec.key.to_user_string()}.{column.name}: a local time of day is a number, not an instant"
                elif instant and not re.search("time zone|tz|utc", column.type, re.I):
                    yield f"{spec.key.to_user_string()}.{column.name}: {column.type} has no zone"

    lines(wrong())


def test_every_check_says_what_it_checks(definitions):
    graph = definitions.resolve_asset_graph()
    # dbt's tests are named after what they hold: not_null_airports_faa, rule_07_cancelled_is_not_flown.
    keys = [key for key in graph.asset_check_keys if key.asset_key.path[0] != "clean"]
    assert keys, "no asset checks"
    lines(f"{key}: no description" for key in keys if not graph.get_check_spec(key).description)


def test_every_schedule_and_sensor_declares_where_it_runs(definitions):
    # The default status is STOPPED: whoever defines one decides, and says what it is for.
    lines(
        f"{ticking.name}: no description"
        for ticking in [*(definitions.schedules or []), *(definitions.sensors or [])]
        if not getattr(ticking, "description", None)
    )


def test_loading_the_definitions_imports_nothing_heavy(tmp_path):
    code = (
        "import json, sys, time; import definitions; "
        f"print(json.dumps([sorted(set({HEAVY!r}) & set(sys.modules)), time.process_time()]))"
    )
    done = subprocess.run(
        [sys.executable, "-c", code],
        cwd=ROOT,
        env={
            "CONTRAIL_HOME": str(tmp_path),
            "DAGSTER_HOME": str(tmp_path),
            "HOME": str(tmp_path),
            "PYTHONPATH": str(ROOT),
        },
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    heavy, cpu_seconds = json.loads(done.stdout.splitlines()[-1])
    assert heavy == [], "imported while loading; import them inside functions"
    assert cpu_seconds < 12, "loading should cost about 4 CPU seconds; the benchmark measures it exactly"


def test_the_command_line_starts_without_the_graph(tmp_path):
    heavy = (*HEAVY, "dagster", "pandas", "dbt")
    code = f"import json, sys; import cli.app; print(json.dumps(sorted(set({heavy!r}) & set(sys.modules))))"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert json.loads(done.stdout) == []


def test_the_workspace_loads_from_any_working_directory(tmp_path):
    # Dagster puts `.env` of the working directory over the environment; another directory has none.
    program = Path(sys.executable).with_name("dagster")
    done = subprocess.run(
        [program, "definitions", "validate", "-w", ROOT / "workspace.yaml"],
        cwd=tmp_path,
        env={"CONTRAIL_HOME": str(tmp_path / "home"), "HOME": str(tmp_path), "PATH": "/usr/bin:/bin"},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert "contrail" in done.stdout + done.stderr
