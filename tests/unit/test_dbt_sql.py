"""A dbt model rendered as one SELECT gives what the model says, and what it cannot render it names."""

from pathlib import Path

import duckdb
import pytest

from contrail.dbt_sql import DbtSqlError, model_sql


@pytest.fixture
def project(tmp_path):
    def write(name, text):
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)

    write("macros/sums.sql", "{% macro doubled(column) -%} 2 * {{ column }} {%- endmacro %}")
    # What only dbt reads may stand between macros.
    write(
        "macros/more.sql",
        "{% materialization delta, adapter='duckdb' %} {{ nothing }} {% endmaterialization %}\n"
        "{%- macro plus(column, n=1) -%} {{ column }} + {{ n }} {%- endmacro -%}",
    )
    write(
        "models/first/levels.sql",
        "select station, {{ plus('level') }} as level from {{ source('raw', 'readings') }}",
    )
    write(
        "models/second/heights.sql",
        "{{ config(partition_by='day') }}\n"
        "select station, {{ doubled('level') }} as height from {{ ref('levels') }} -- the last line is a comment",
    )
    write("models/second/other.sql", "select {{ target.schema }} from {{ ref('levels') }}")
    return tmp_path


READINGS = "(VALUES ('s1', 3), ('s2', 5)) AS readings(station, level)"


def rows(sql: str) -> list[tuple[object, ...]]:
    return duckdb.connect().execute(f"SELECT * FROM (\n{sql}\n) ORDER BY ALL").fetchall()


def test_a_model_is_rendered_with_the_models_before_it(project):
    assert rows(model_sql(project, "heights", {"raw/readings": READINGS})) == [("s1", 8), ("s2", 12)]


def test_a_table_may_stand_for_a_model(project):
    assert rows(model_sql(project, "heights", {"levels": READINGS})) == [("s1", 6), ("s2", 10)]


def test_what_is_missing_is_named(project):
    with pytest.raises(DbtSqlError, match="nothing stands for the source raw/readings"):
        model_sql(project, "heights", {})
    with pytest.raises(DbtSqlError, match=r"0 files nowhere\.sql"):
        model_sql(project, "nowhere", {})


def test_what_only_dbt_knows_is_named(project):
    with pytest.raises(DbtSqlError, match="model other uses what only dbt itself can render.*target"):
        model_sql(project, "other", {"raw/readings": READINGS})


def test_the_projects_own_models_can_be_rendered():
    project = Path(__file__).resolve().parents[2] / "dbt_project"
    sources = {f"raw/{name}": name for name in ("flight_schedules", "aircraft_assignments", "flight_events")}
    sql = model_sql(project, "departures", {**sources, "airports": "zones"})
    assert "{{" not in sql
    assert "from zones" in sql
    assert "getvariable('complete_until')" in sql
