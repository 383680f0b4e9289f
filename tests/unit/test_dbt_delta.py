"""The dbt plugin and the runner, on a small project of their own."""

from __future__ import annotations

import json
from collections.abc import Iterator
from datetime import UTC, date, datetime
from pathlib import Path

import pyarrow as pa
import pytest

from contrail import dbt_runner, duck
from contrail.dbt_runner import BuildContext, DbtError, DbtRunResult, parse, run_dbt, selection
from contrail.lake import Commit, Lake, LakeError
from contrail.settings import Settings

FIRST, LAST = date(2020, 5, 1), date(2020, 5, 3)
UNTIL = datetime(2020, 5, 4, tzinfo=UTC)
ROOT = Path(__file__).resolve().parents[2]

FILES = {
    "dbt_project.yml": """
name: small
profile: small
model-paths: [models]
macro-paths: [macros]
flags: {send_anonymous_usage_stats: false}
models:
  small:
    memory: {+materialized: table, +schema: memory}
    stored: {+materialized: delta, +schema: stored}
""",
    "profiles.yml": """
small:
  target: lake
  outputs:
    lake: {type: duckdb, path: ":memory:", threads: 1, plugins: [{module: contrail.dbt_delta, alias: lake}]}
""",
    "models/sources.yml": """
version: 2
sources:
  - name: raw
    schema: raw
    tables: [{name: items}, {name: names}, {name: unread}]
models:
  - name: totals
    columns:
      - {name: owner, config: {meta: {personal: true}}}
      - {name: amount, data_tests: [not_null]}
  - name: labels
    columns:
      - {name: id, data_tests: [{unique: {config: {severity: warn}}}]}
""",
    "models/memory/wanted.sql": """
select * from {{ source('raw', 'items') }}
where day between getvariable('first_day') and getvariable('last_day')
""",
    "models/stored/totals.sql": """
{{ config(partition_by='day') }}
select day, owner, sum(amount)::bigint as amount, getvariable('complete_until') as complete_until
from {{ ref('wanted') }} group by day, owner
""",
    "models/stored/labels.sql": "select id, name from {{ source('raw', 'names') }}",
    "models/stored/joined.sql": "select * from {{ ref('labels') }} where id in (select amount from {{ ref('totals') }})",
}


class Small:
    """A small dbt project over a lake with three raw tables, all of five days."""

    def __init__(self, project: Path, home: Path, target: Path) -> None:
        self.project = project
        self.home = home
        self.lake = Lake(home / "lake")
        self.target = target
        days = [date(2020, 5, d) for d in (1, 1, 2, 3, 4)]
        owners = ["Ada", "Bob", "Ada", "Bob", "Ada"]
        items = pa.table({"day": days, "owner": owners, "amount": [1, 2, 3, 4, 5]})
        self.lake.create("raw/items", items.schema, partition_by=["day"])
        self.append("raw/items", items)
        for table, rows in (
            ("raw/names", pa.table({"id": [1, 2], "name": ["one", "two"]})),
            ("raw/unread", pa.table({"id": [1]})),
        ):
            self.lake.create(table, rows.schema)
            self.append(table, rows)

    def write(self, name: str, text: str) -> None:
        path = self.project / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)

    def append(self, table: str, rows: pa.Table) -> int:
        return self.lake.append(table, rows, Commit(asset=table, run_id="raw", inputs=("sha256:00",)))

    def context(self, first: date = FIRST, last: date = LAST, **more: object) -> BuildContext:
        fields = {"complete_until": UNTIL, "run_id": "r1", "settings": Settings(home=self.home), **more}
        return BuildContext(lake_root=self.lake.root, first=first, last=last, **fields)  # type: ignore[arg-type]

    def run(self, *args: str, context: BuildContext | None = None) -> DbtRunResult:
        return run_dbt(
            self.project,
            args or ("run",),
            context or self.context(),
            target_path=self.target,
            log_path=self.target,
        )

    def rows(self, table: str, columns: str = "*", version: int | None = None) -> list[tuple[object, ...]]:
        with duck.connect() as con:
            return con.execute(
                f"SELECT {columns} FROM {self.lake.scan(table, version)} ORDER BY ALL"
            ).fetchall()


def write_project(folder: Path) -> Path:
    macros = (ROOT / "dbt_project" / "macros" / "delta.sql").read_text()
    for name, text in {**FILES, "macros/delta.sql": macros}.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return folder


@pytest.fixture(scope="module")
def shared_project(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One project for all tests that leave it as it is: it is parsed once."""
    return write_project(tmp_path_factory.mktemp("shared") / "project")


@pytest.fixture
def elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """An empty folder to work in; dbt must leave nothing there, nor in the user's home."""
    folder = tmp_path / "elsewhere"
    folder.mkdir()
    monkeypatch.setenv("HOME", str(folder))
    monkeypatch.chdir(folder)
    yield folder
    assert not list(folder.iterdir())


@pytest.fixture
def small(tmp_path: Path, shared_project: Path, elsewhere: Path) -> Small:
    return Small(shared_project, tmp_path / "home", shared_project.parent / "target")


@pytest.fixture
def editable(tmp_path: Path, elsewhere: Path) -> Small:
    """With a project of its own, for tests that change it."""
    return Small(write_project(tmp_path / "project"), tmp_path / "home", tmp_path / "target")


def test_only_the_days_of_the_window_are_replaced(small: Small) -> None:
    done = small.run("build")
    assert done.is_success
    totals = "day::VARCHAR, owner, amount"
    assert small.rows("stored/totals", totals) == [
        ("2020-05-01", "Ada", 1),
        ("2020-05-01", "Bob", 2),
        ("2020-05-02", "Ada", 3),
        ("2020-05-03", "Bob", 4),
    ]
    small.append(
        "raw/items",
        pa.table({"day": [date(2020, 5, 1), date(2020, 5, 2)], "owner": ["Ada"] * 2, "amount": [10] * 2}),
    )
    result = small.run(context=small.context(date(2020, 5, 2), date(2020, 5, 2)))
    assert small.rows("stored/totals", totals)[0] == ("2020-05-01", "Ada", 1)
    assert ("2020-05-02", "Ada", 13) in small.rows("stored/totals", totals)
    rows = {model.name: (model.rows, model.version) for model in result.models}
    assert rows["totals"] == (1, small.lake.version("stored/totals"))
    assert rows["wanted"] == (None, None)


def test_a_commit_names_exactly_what_was_read(small: Small) -> None:
    context = small.context()
    small.run(context=context)
    commit = small.lake.commits("stored/totals")[-1]
    # Through the model in memory, and no table that only lies beside it.
    assert commit.inputs == (small.lake.ref("raw/items"),)
    assert (commit.asset, commit.run_id, commit.partition) == (
        "stored/totals",
        "r1",
        "2020-05-01..2020-05-03",
    )
    assert commit.extra["complete_until"] == UNTIL.isoformat()
    # A table stored by the same build is named at the version that this build gave it.
    joined = small.lake.commits("stored/joined")[-1]
    assert set(joined.inputs) == {small.lake.ref("stored/labels"), small.lake.ref("stored/totals")}
    assert joined.partition == ""
    assert {result.table for result in context.results} == {"stored/totals", "stored/labels", "stored/joined"}
    assert context.pinned["raw/unread"] == small.lake.version("raw/unread")


def test_a_pinned_version_is_what_is_read(small: Small) -> None:
    old = small.lake.version("raw/names")
    small.append("raw/names", pa.table({"id": [3], "name": ["three"]}))
    small.run("run", "--select", "labels", context=small.context(pins={"raw/names": old}))
    assert small.rows("stored/labels", "id") == [(1,), (2,)]
    assert small.lake.commits("stored/labels")[-1].inputs == (f"raw/names@v{old}",)
    small.run("run", "--select", "labels")
    assert small.rows("stored/labels", "id") == [(1,), (2,), (3,)]


def test_models_are_told_the_window_and_the_instant(small: Small) -> None:
    until = datetime(2020, 5, 2, 7, 30, tzinfo=UTC)
    small.run(*("run", *selection(["totals"])), context=small.context(FIRST, FIRST, complete_until=until))
    assert small.rows("stored/totals", "DISTINCT epoch(complete_until)") == [(until.timestamp(),)]
    # Another window with the manifest that this process has parsed: nothing of the last one is left.
    small.run(*("run", *selection(["totals"])), context=small.context(LAST, LAST))
    assert small.rows("stored/totals", "DISTINCT day::VARCHAR") == [("2020-05-01",), ("2020-05-03",)]


def test_only_the_partitions_of_the_window_are_scanned(small: Small) -> None:
    with duck.connect() as con:
        con.execute("SET VARIABLE first_day = DATE '2020-05-02'; SET VARIABLE last_day = DATE '2020-05-02'")
        compiled = FILES["models/memory/wanted.sql"].replace(
            "{{ source('raw', 'items') }}", small.lake.scan("raw/items")
        )
        plan = con.execute(f"EXPLAIN ANALYZE {compiled}").fetchall()[0][1]
    assert "Scanning Files: 1/4" in plan


def test_a_table_that_would_not_change_gets_no_version(small: Small) -> None:
    small.run("run", "--select", "labels")
    version = small.lake.version("stored/labels")
    context = small.context()
    small.run("run", "--select", "labels", context=context)
    (result,) = context.results
    assert (result.version, result.is_unchanged, result.rows) == (version, True, 2)
    small.append("raw/names", pa.table({"id": [2], "name": ["two"]}))
    done = small.run("build", "--select", "labels")
    assert small.lake.version("stored/labels") == version + 1
    (test,) = done.tests
    assert (test.model, test.column, test.status, test.failures, test.severity) == (
        "labels",
        "id",
        "warn",
        1,
        "warn",
    )
    assert done.is_success


def test_personal_columns_stay_out_of_the_statistics(small: Small) -> None:
    small.run()
    log = (Path(small.lake.uri("stored/totals")) / "_delta_log").glob("*.json")
    added = [json.loads(line) for path in log for line in path.read_text().splitlines() if '"add"' in line]
    statistics = [json.loads(entry["add"]["stats"]) for entry in added]
    assert all("amount" in stats["minValues"] and "owner" not in stats["minValues"] for stats in statistics)


def test_a_model_that_leaves_its_window_is_refused(editable: Small) -> None:
    editable.write("models/memory/wanted.sql", "select * from {{ source('raw', 'items') }}")
    with pytest.raises(DbtError, match=r"totals: (?s:.*)outside the part to replace"):
        editable.run()
    assert editable.rows("stored/totals") == []


def test_errors_name_the_model_and_what_is_missing(editable: Small) -> None:
    editable.write("models/stored/labels.sql", "select nonsense from {{ source('raw', 'names') }}")
    with pytest.raises(DbtError, match=r"labels: (?s:.*)nonsense"):
        editable.run("run", "--select", "labels")
    editable.write(
        "models/stored/labels.sql",
        "select * from {{ source('raw', 'items') }} join {{ source('raw', 'gone') }}",
    )
    with pytest.raises(DbtError, match="gone"):
        editable.run("run", "--select", "labels")
    editable.write(
        "models/sources.yml", FILES["models/sources.yml"].replace("{name: unread}", "{name: gone}")
    )
    with pytest.raises(DbtError, match=r"labels: (?s:.*)not in the lake: raw/gone"):
        editable.run("run", "--select", "labels")
    with pytest.raises(DbtError, match="frobnicate"):
        editable.run("frobnicate")
    assert dbt_runner.active_context() is None


def test_a_failed_test_is_a_result_and_stops_what_follows(small: Small) -> None:
    small.append(
        "raw/items", pa.table({"day": [FIRST], "owner": ["Eve"], "amount": pa.array([None], pa.int64())})
    )
    done = small.run("build")
    assert not done.is_success
    (failed,) = (test for test in done.tests if test.status == "fail")
    assert (failed.model, failed.column, failed.failures, failed.severity) == ("totals", "amount", 1, "error")
    assert {model.name: model.status for model in done.models}["joined"] == "skipped"


def test_the_manifest_is_parsed_again_when_a_file_changes(editable: Small) -> None:
    first = parse(editable.project, target_path=editable.target, log_path=editable.target)
    assert parse(editable.project, target_path=editable.target, log_path=editable.target) is first
    editable.write("models/stored/more.sql", "select 1 as one")
    second = parse(editable.project, target_path=editable.target, log_path=editable.target)
    assert "model.small.more" in second.nodes
    editable.write("models/stored/broken.sql", "{{ ref('nowhere') }}")
    with pytest.raises(DbtError, match="nowhere"):
        parse(editable.project, target_path=editable.target, log_path=editable.target)


def test_a_selection_takes_the_tests_that_touch_it_or_only_its_own() -> None:
    assert selection(["a", "b"]) == (
        "--select", "a", "b", "+a,config.materialized:table", "+b,config.materialized:table",
        "--indirect-selection", "eager",
    )  # fmt: skip
    assert selection(["a"], only_their_tests=True)[-1] == "cautious"


def test_nothing_landed_is_said(small: Small, monkeypatch: pytest.MonkeyPatch) -> None:
    from contrail.dbt_delta import Plugin

    monkeypatch.setenv("CONTRAIL_HOME", str(small.home))
    with pytest.raises(DbtError, match="nothing has landed"):
        _ = Plugin("lake", {}).context


@pytest.mark.parametrize(
    ("first", "last", "until", "said"),
    [
        (LAST, FIRST, UNTIL, "ends before it begins"),
        (FIRST, LAST, datetime(2020, 5, 4), "no zone"),  # noqa: DTZ001
    ],
)
def test_a_context_must_make_sense(
    tmp_path: Path, first: date, last: date, until: datetime, said: str
) -> None:
    with pytest.raises(DbtError, match=said):
        BuildContext(lake_root=tmp_path, first=first, last=last, complete_until=until, run_id="r")


def test_a_stored_table_keeps_its_columns(editable: Small) -> None:
    editable.run("run", "--select", "labels")
    editable.write("models/stored/labels.sql", "select id, name, 1 as more from {{ source('raw', 'names') }}")
    with pytest.raises(DbtError, match=r"labels: (?s:.*)other columns(?s:.*)more") as caught:
        editable.run("run", "--select", "labels")
    assert LakeError.__name__ not in str(caught.value)
