"""The whole graph on three weeks: what a run leaves in the lake, in Dagster's instance, and on the command line."""

from __future__ import annotations

import json
import re
import resource
import shutil
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import dagster as dg
import pytest

from cli import status, trace
from contrail import duck, intake, landing, trail
from contrail.contracts import load_contracts
from contrail.lake import Lake
from contrail.settings import Settings
from feature_repo.use_cases import DEFAULT_USE_CASE, USE_CASES
from features.tables import FEATURE_TABLES
from jobs.plan import plan
from jobs.steps import days_between
from tests.support.three_weeks import DAYS, FIRST, LAST, LAST_SCHEDULED, contrail, copy, outcome

FEED_DAYS = days_between(FIRST, LAST)
FEEDS = ("aircraft_assignments", "flight_events", "weather")
PREDICTIONS = f"score/{DEFAULT_USE_CASE}/predictions"


@pytest.fixture(scope="module")
def lake(three_weeks: Settings) -> Lake:
    return Lake(three_weeks.lake_root)


@pytest.fixture(scope="module")
def instance(three_weeks: Settings) -> Iterator[dg.DagsterInstance]:
    with dg.DagsterInstance.from_config(str(three_weeks.dagster_home)) as found:
        yield found


@pytest.fixture(scope="module")
def said(three_weeks: Settings) -> dict[str, Any]:
    return outcome(three_weeks)


def rows(lake: Lake, query: str) -> list[tuple[Any, ...]]:
    """A query in which ``{raw/weather}`` and the like stand for tables."""
    for name in re.findall(r"{([a-z0-9_/]+)}", query):
        query = query.replace("{" + name + "}", lake.scan(name))
    with duck.connect() as con:
        return con.execute(query).fetchall()


def as_json(settings: Settings, *arguments: str, code: int = 0) -> Any:
    done = contrail(settings, *arguments, "--json")
    assert done.returncode == code, f"{done.returncode}\n{done.stdout}\n{done.stderr}"
    return json.loads(done.stdout)


def materialisations(instance: dg.DagsterInstance, key: str) -> dict[str | None, dict[str, Any]]:
    """Partition → metadata of its newest materialisation."""
    records = instance.fetch_materializations(dg.AssetKey(key.split("/")), limit=1000).records
    found: dict[str | None, dict[str, Any]] = {}
    for record in records:
        assert record.asset_materialization is not None
        values = {name: value.value for name, value in record.asset_materialization.metadata.items()}
        found.setdefault(record.partition_key, values)
    return found


# --- what the run said -------------------------------------------------------------------------------------------


def test_every_run_succeeded_stage_by_stage(said):
    assert [run["job"] for run in said["runs"]] == [
        "reference", "ingest", "ingest", "clean", "features",
        *(f"{step}_{name}" for name in USE_CASES for step in ("train", "score", "monitor")),
    ]  # fmt: skip
    assert all(run["ok"] and run["error"] == "" for run in said["runs"])
    assert said["blocked"] == {}
    assert said["checks_passed"] > 100


def test_the_summary_counts_what_lies_in_the_lake(said, lake):
    counted = {f"{row['stage']}/{row['table']}": row["rows"] for row in said["stages"]}
    assert set(counted) == {name for name in lake.tables() if not name.startswith("trail/")}
    for name in ("raw/flight_events", "clean/departures", PREDICTIONS):
        assert counted[name] == rows(lake, f"SELECT count(*) FROM {{{name}}}")[0][0] > 0


def test_the_summary_names_the_model_and_the_riskiest_of_the_last_day(said, lake):
    assert said["model"]["role"] == "champion"
    assert 0.5 < said["model"]["test_auc"] < 0.8
    highest = rows(lake, f"SELECT max(score) FROM {{{PREDICTIONS}}} WHERE service_date = '{LAST}'")[0][0]
    assert said["riskiest"][0]["score"] == pytest.approx(highest, abs=0.0006)
    scores = [row["score"] for row in said["riskiest"]]
    assert scores == sorted(scores, reverse=True)


def test_nothing_is_left_to_do(three_weeks):
    assert plan(three_weeks).steps == ()


# --- the lake ----------------------------------------------------------------------------------------------------


def test_every_landed_row_is_accepted_or_in_quarantine(three_weeks, lake):
    for name in load_contracts(three_weeks.repo_root / "contracts"):
        landed = sum(d.rows for d in landing.deliveries(three_weeks.landing_root, name))
        ((kept,),) = rows(lake, f"SELECT count(*) FROM {{raw/{name}}}")
        ((refused,),) = rows(lake, f"SELECT coalesce(sum(rows), 0) FROM {{quarantine/{name}}}")
        assert landed == kept + refused > 0, name


def test_no_row_was_known_after_its_file_was_delivered(three_weeks, lake):
    for name in FEEDS:
        delivered = {d.sha256: d.delivered_at for d in landing.deliveries(three_weeks.landing_root, name)}
        newest = rows(lake, f"SELECT _source_sha256, max(known_at) FROM {{raw/{name}}} GROUP BY 1")
        assert newest
        assert all(known <= delivered[sha256] for sha256, known in newest)


def test_every_commit_names_its_run_its_code_and_what_it_read(lake):
    for name in lake.tables():
        writes = [record for record in lake.commits(name) if record.asset]
        assert writes, name
        for record in writes:
            assert "" not in (record.run_id, record.code_version, record.git_sha), name
            assert record.inputs, f"{name}@v{record.version} does not say what it was made of"
            for source in (i.rpartition("@v")[0] for i in record.inputs if "@v" in i):
                assert lake.exists(source), f"{name} read {source}"


def test_scores_lie_after_the_training_range_and_one_per_decision(lake):
    ((first, doubled, above),) = rows(
        lake,
        f"""SELECT min(service_date)::VARCHAR, count(*) - count(DISTINCT (departure_id, model_sha256)),
                   count(*) FILTER (score <= 0 OR score >= 1)
            FROM {{{PREDICTIONS}}}""",
    )
    assert (first, doubled, above) == ("2013-01-15", 0, 0)


def test_the_day_ahead_has_scored_the_day_whose_feed_has_not_landed(lake):
    of = {
        name: rows(
            lake,
            f"""SELECT min(service_date)::VARCHAR, max(service_date)::VARCHAR, max(decision_at)
                FROM {{score/{name}/predictions}}""",
        )[0]
        for name in USE_CASES
    }
    assert of[DEFAULT_USE_CASE][1] == LAST
    # Decided at 18:00 on the evening before; those of the first day after the training range lie within it.
    first, last, decided = of["late_flight_day_ahead"]
    assert (first, last) == ("2013-01-16", LAST_SCHEDULED)
    assert decided == datetime(2013, 1, 21, 23, tzinfo=UTC)
    counted = (
        "SELECT count(*) FROM {clean/departures} WHERE service_date = DATE '2013-01-22' AND NOT is_retracted"
    )
    scored = "SELECT count(*) FROM {score/late_flight_day_ahead/predictions} WHERE service_date = DATE '2013-01-22'"
    assert rows(lake, scored) == rows(lake, counted)


@pytest.mark.parametrize("name", USE_CASES)
def test_no_training_row_holds_what_was_known_after_its_decision(lake, name):
    ((late, unknown, least),) = rows(
        lake,
        f"""SELECT count(*) FILTER (features_known_at > decision_at OR request_known_at > decision_at),
                   count(*) FILTER (features_known_at IS NULL),
                   min(decision_at - features_known_at)::VARCHAR
            FROM {{model/{name}/training_set}}""",
    )
    assert late == 0
    assert least == "00:00:00", "on the grid the newest row is of the very instant"
    # On the evening before the first day nothing had been heard of yet.
    ((first_day,),) = rows(
        lake, f"SELECT count(*) FROM {{model/{name}/training_set}} WHERE service_date = '{FIRST}'"
    )
    assert unknown == (first_day if name == "late_flight_day_ahead" else 0)


# --- Dagster's instance ------------------------------------------------------------------------------------------


def test_each_partition_has_its_materialisation_with_its_own_row_count(instance, lake):
    for name in FEEDS:
        made = materialisations(instance, f"raw/{name}")
        assert sorted(str(day) for day in made) == FEED_DAYS
        counted = dict(rows(lake, f"SELECT feed_date::VARCHAR, count(*) FROM {{raw/{name}}} GROUP BY 1"))
        for day in FEED_DAYS:
            assert made[day]["dagster/partition_row_count"] == counted.get(day, 0), f"{name} {day}"
            assert (
                made[day]["landed_rows"]
                == made[day]["dagster/partition_row_count"] + made[day]["quarantined_rows"]
            )


def evaluations(instance: dg.DagsterInstance, asset: str, check: str) -> dict[str | None, Any]:
    """Partition → newest evaluation of a check (without those that are only planned)."""
    key = dg.AssetCheckKey(dg.AssetKey(asset.split("/")), check)
    found: dict[str | None, Any] = {}
    for record in instance.event_log_storage.get_asset_check_execution_history(key, limit=1000):
        assert record.event is not None
        evaluation = record.event.dagster_event.event_specific_data
        if record.event.dagster_event.event_type_value == "ASSET_CHECK_EVALUATION":
            found.setdefault(evaluation.partition, evaluation)
    return found


def test_each_partition_has_its_own_verdict_of_the_contract(instance):
    by_day = evaluations(instance, "raw/weather", "contract")
    assert by_day.pop(None).description == f"all {DAYS} partitions accepted"
    assert sorted(str(day) for day in by_day) == FEED_DAYS
    for day, evaluation in by_day.items():
        assert evaluation.passed, day
        assert evaluation.blocking
        assert evaluation.target_materialization_data is not None
        rules = evaluation.metadata["expectations"].records
        assert len(rules) > 10
        assert {"rule", "class", "expectation", "checked", "unexpected", "passed"} == set(rules[0].data)


def test_checks_of_clean_are_recorded_by_name(instance):
    (evaluation,) = evaluations(instance, "clean/departures", "departures_across_days").values()
    assert (evaluation.passed, evaluation.severity) == (False, dg.AssetCheckSeverity.WARN)
    assert evaluation.metadata["failures"].value > 0


def test_every_asset_of_the_graph_was_materialised(instance, three_weeks):
    from definitions import build_defs

    keys = {
        spec.key
        for spec in build_defs(three_weeks).resolve_all_asset_specs()
        if spec.key.path[0] != "landing"
    }
    assert keys == set(instance.get_asset_keys()) & keys


def test_features_say_from_when_to_when_they_were_built(instance):
    for name in FEATURE_TABLES:
        (facts,) = materialisations(instance, f"feature/{name}").values()
        assert (facts["built_from"], facts["built_until"]) == (
            "2013-01-01T00:00:00+00:00", "2013-01-22T07:00:00+00:00",
        ), name  # fmt: skip


def test_the_validation_page_of_a_run_opens_without_a_network(instance):
    for facts in list(materialisations(instance, "raw/weather").values())[:1]:
        page = Path(facts["validation_page"]).read_text(encoding="utf-8")
        assert "weather" in page
        assert "http://" not in page.replace("http://www.w3.org", "")
        assert "<script src" not in page


# --- the command line --------------------------------------------------------------------------------------------


def test_status_says_that_all_is_well(three_weeks):
    found = as_json(three_weeks, "status")
    assert found["now"] == found["complete_until"] == "2013-01-22T07:00:00+00:00"
    assert {feed["state"] for feed in found["feeds"]} == {"fresh"}
    assert (found["due"], found["blocked"], found["next"]) == ([], [], [])
    assert [model["role"] for model in found["models"]] == ["champion"] * len(USE_CASES)


def test_status_and_trace_in_words(three_weeks, said, capsys):
    status._print(status.collect(three_weeks))
    told = capsys.readouterr().out
    assert told.startswith("now 2013-01-22 07:00Z · feeds complete until 2013-01-22 07:00Z\n")
    assert "nothing: everything is up to date" in told
    prediction = said["riskiest"][0]["prediction_id"]
    trace._print(trail.trace(Lake(three_weeks.lake_root), three_weeks.landing_root, USE_CASES, prediction))
    told = capsys.readouterr().out
    assert told.startswith(f"prediction  {prediction}  ({DEFAULT_USE_CASE})\n")
    assert f"model       {DEFAULT_USE_CASE} version 1  sha256 {said['model']['sha256']}" in told
    assert told.endswith("every file verified\n")


def test_doctor_finds_nothing_wrong(three_weeks):
    found = as_json(three_weeks, "doctor")
    assert [finding for finding in found if not finding["ok"]] == []
    assert any(finding["check"] == "landing zone" and LAST_SCHEDULED in finding["found"] for finding in found)


def test_a_prediction_is_traced_to_files_that_are_all_verified(three_weeks, said):
    chosen = said["riskiest"][0]
    found = as_json(three_weeks, "trace", chosen["prediction_id"])
    assert found["prediction"]["departure_id"] == chosen["departure_id"]
    assert found["model"]["files"]["model.lgb"] == said["model"]["sha256"]
    walked = {hop["table"] for hop in found["tables"]}
    assert {f"feature/{name}" for name in FEATURE_TABLES} <= walked
    assert {f"raw/{name}" for name in (*FEEDS, "flight_schedules", "airports")} <= walked
    assert all(file["verified"] for file in found["files"])
    assert {file["partition"] for file in found["files"] if file["table"] == "weather"} == set(FEED_DAYS)
    schedule = [row for row in found["source_rows"] if row["column"] == "flight_schedules_raw_id"]
    assert [row["file"] for row in schedule] == [f"{LAST}.csv.gz"]


def test_an_unknown_prediction_is_one_line_and_code_1(three_weeks):
    done = contrail(three_weeks, "trace", "nobody")
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr.startswith("contrail: no prediction 'nobody'")
    assert len(done.stderr.splitlines()) == 1


def test_a_second_run_does_nothing_and_says_so_in_seconds(three_weeks, lake):
    before = {name: lake.version(name) for name in lake.tables()}
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    done = contrail(three_weeks, "run", "--to", LAST)
    spent = resource.getrusage(resource.RUSAGE_CHILDREN)
    assert done.returncode == 0, done.stderr
    assert "Nothing to do" in done.stdout
    assert {name: lake.version(name) for name in lake.tables()} == before
    assert spent.ru_utime - used.ru_utime < 20, "CPU seconds"


# --- alone, and with a bad file ----------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def other(three_weeks: Settings, tmp_path_factory: pytest.TempPathFactory) -> Settings:
    return copy(three_weeks, tmp_path_factory.mktemp("other") / "home")


def test_one_partition_of_raw_materialised_alone_gives_the_same_rows(other):
    from definitions import build_defs

    lake = Lake(other.lake_root)
    tables = ("raw/weather", "quarantine/weather")
    before = {name: (lake.version(name), lake.content_hash(name)) for name in tables}
    defs = build_defs(other)
    with dg.DagsterInstance.ephemeral() as instance:
        result = defs.resolve_job_def("ingest").execute_in_process(
            instance=instance, partition_key="2013-01-08", asset_selection=[dg.AssetKey(["raw", "weather"])]
        )
        judged = evaluations(instance, "raw/weather", "contract")
        made = materialisations(instance, "raw/weather")
    assert result.success
    assert (list(made), list(judged)) == (["2013-01-08"], ["2013-01-08"])
    for name, (version, content) in before.items():
        assert lake.version(name) == version + 1
        assert lake.content_hash(name) == content


def test_a_blocked_partition_ends_the_command_with_3_and_the_rest_goes_on(other):
    """A second file for an accepted day, other content, no `supersedes`."""
    lake = Lake(other.lake_root)
    base = landing.deliveries(other.landing_root, "weather", {"2013-01-10"})[0]
    landing.write_delivery(
        other.landing_root, "weather", "2013-01-10", b"origin\nJFK\n", rows=1, delivered_at=base.delivered_at,
        covers_from=base.covers_from, covers_to=base.covers_to, source="test",
    )  # fmt: skip
    before = lake.content_hash("raw/weather")
    done = contrail(other, "run", "--to", LAST)
    assert done.returncode == 3, f"{done.returncode}\n{done.stdout}\n{done.stderr}"
    assert "BLOCKED raw/weather:2013-01-10: weather/2013-01-10.1.csv.gz: " in done.stdout
    assert list(intake.blocked_partitions(lake, "weather")) == ["2013-01-10"]
    assert lake.content_hash("raw/weather") == before, "what was accepted stays"
    found = status.collect(other)
    assert [row["partition"] for row in found.blocked] == ["raw/weather:2013-01-10"]
    assert any(line.startswith("replace the file of raw/weather:2013-01-10") for line in found.next)
    assert plan(other).steps == ()


def test_a_damaged_lake_ends_the_command_with_1_and_one_line(other, tmp_path):
    home = Settings(home=tmp_path / "home")
    shutil.copytree(other.landing_root, home.landing_root)
    shutil.copytree(other.lake_root / "raw" / "weather", home.lake_root / "raw" / "weather")
    newest = max((home.lake_root / "raw" / "weather" / "_delta_log").glob("*.json"))
    newest.write_bytes(b"")
    done = contrail(home, "run", "--to", LAST)
    assert done.returncode == 1
    assert "raw/weather: log entry" in done.stderr
    assert "Traceback" not in done.stderr


def test_the_number_of_days_is_what_the_fixture_says():
    assert len(FEED_DAYS) == DAYS
