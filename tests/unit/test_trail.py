"""The trail: from a prediction over what the commits name to files whose hash is computed anew."""

from __future__ import annotations

from datetime import UTC, date, datetime, timedelta
from pathlib import Path

import pyarrow as pa
import pytest

from contrail import landing, model_files
from contrail.lake import Commit, Lake
from contrail.trail import Trace, TrailError, describe, trace
from tests.support.small_model import USE_CASE

MODEL = "ab" * 32
DAYS = ("2024-03-04", "2024-03-05")
RAW, CLEAN, FEATURES = "raw/jars", "clean/jars", "feature/jar_state"
TRAINING, PREDICTIONS = "model/broken_jar/training_set", "score/broken_jar/predictions"
INSTANT = pa.timestamp("us", tz="UTC")


class World:
    """Two landed files → raw → clean → feature → training set → model → one prediction for each of two jars."""

    def __init__(self, folder: Path) -> None:
        self.root, self.lake = folder / "landing", Lake(folder / "lake")
        self.files = {day: self.deliver(day, f"jar\n{day}\n") for day in DAYS}
        self.write(
            RAW,
            {"jar_id": [f"jar-{day}" for day in DAYS]},
            *(f"sha256:{f.sha256}" for f in self.files.values()),
        )
        self.write(
            CLEAN,
            {
                "jar_id": [f"jar-{day}" for day in DAYS],
                "created_at": pa.array([datetime(2024, 3, 5, tzinfo=UTC)] * 2, INSTANT),
                "_jars_raw_id": [f"{self.files[day].sha256}:{n}" for n, day in enumerate(DAYS, start=1)],
                "_labels_raw_id": pa.array([None, None], pa.string()),
            },
            f"{RAW}@v1",
        )
        self.write(FEATURES, {"wall_mm": [1.0]}, f"{CLEAN}@v1")
        self.write(TRAINING, {"x": [1]}, f"{CLEAN}@v1", f"{FEATURES}@v1")
        self.model({"training_set": f"{TRAINING}@v1", "model_sha256": MODEL})
        for number, day in enumerate(DAYS, start=1):
            self.predict(number, day, f"scoring-{number}")

    def deliver(self, day: str, text: str, hours: float = 24) -> landing.Delivery:
        at = datetime.fromisoformat(day).replace(tzinfo=UTC) + timedelta(hours=hours)
        return landing.write_delivery(
            self.root,
            "jars",
            day,
            text.encode(),
            rows=1,
            delivered_at=at,
            covers_from=None,
            covers_to=None,
            source="oven",
        )

    def write(
        self,
        table: str,
        columns: dict[str, object],
        *inputs: str,
        run: str = "run-1",
        partition: str = "",
        replace: str = "",
    ) -> None:
        rows = pa.table(columns)
        self.lake.create(table, rows.schema)
        commit = Commit(table, run, inputs, partition, git_sha="abc")
        if replace:
            self.lake.replace_partitions(table, rows, commit, where=replace)
        else:
            self.lake.append(table, rows, commit)

    def model(self, manifest: dict[str, object]) -> None:
        path = self.lake.root / "models" / MODEL / "manifest.json"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(model_files.sealed({"format": model_files.FORMAT, **manifest}))

    def predict(self, number: int, day: str, run: str, *inputs: str) -> None:
        self.write(
            PREDICTIONS,
            {
                "prediction_id": [f"p{number}"],
                "jar_id": [f"jar-{day}"],
                "made_on": pa.array([date.fromisoformat(day)]),
                "decided_at": pa.array([datetime(2024, 3, 5, 9, tzinfo=UTC)], INSTANT),
                "score": [0.25],
                "model_sha256": [MODEL],
            },
            *(inputs or (f"{CLEAN}@v1", f"{FEATURES}@v1", f"model:{MODEL}")),
            run=run,
            partition=day,
            replace=f"made_on = '{day}'",
        )

    def trace(self, prediction_id: str = "p1") -> Trace:
        return trace(self.lake, self.root, {"broken_jar": USE_CASE}, prediction_id)


@pytest.fixture
def world(tmp_path: Path) -> World:
    return World(tmp_path)


def test_a_prediction_leads_to_its_model_its_tables_and_the_files(world):
    found = world.trace()
    assert found.prediction["score"] == 0.25
    assert found.use_case == "broken_jar"
    assert (found.written_by.run_id, found.written_by.partition) == ("scoring-1", DAYS[0])
    assert found.model["model_sha256"] == MODEL
    assert found.training_set == f"{TRAINING}@v1"
    assert {hop.table for hop in found.tables} == {RAW, CLEAN, FEATURES, TRAINING}
    assert [(f.table, f.partition, f.name, f.verified) for f in found.files] == [
        ("jars", day, f"{day}.csv.gz", True) for day in DAYS
    ]
    assert found.unverified == ()


def test_each_hop_says_version_commits_runs_code_and_inputs(world):
    hop = next(h for h in world.trace().tables if h.table == TRAINING)
    assert (hop.version, hop.commits, hop.run_ids, hop.git_shas) == (1, 1, ("run-1",), ("abc",))
    assert hop.inputs == (f"{CLEAN}@v1", f"{FEATURES}@v1")


def test_the_entitys_own_raw_row_is_named_with_file_and_row(world):
    (row,) = world.trace("p2").source_rows
    assert (row.column, row.sha256, row.row, row.file) == (
        "jars_raw_id", world.files[DAYS[1]].sha256, 2, f"{DAYS[1]}.csv.gz",
    )  # fmt: skip


def test_the_run_that_wrote_the_row_counts_not_a_later_run_of_another_day(world):
    world.predict(2, DAYS[1], "scoring-again", f"{CLEAN}@v1")
    assert world.trace("p1").written_by.run_id == "scoring-1"
    assert world.trace("p2").written_by.run_id == "scoring-again"


def test_what_was_written_after_the_version_that_was_read_is_not_on_the_way(world):
    later = world.deliver("2024-03-06", "jar\nlater\n")
    world.write(RAW, {"jar_id": ["later"]}, f"sha256:{later.sha256}", run="run-2")
    assert later.sha256 not in {file.sha256 for file in world.trace().files}
    world.predict(1, DAYS[0], "scoring-3", f"{RAW}@v2")
    assert later.sha256 in {file.sha256 for file in world.trace().files}
    assert next(h for h in world.trace().tables if h.table == RAW).version == 2, (
        "the newest of the versions met"
    )


def test_a_file_with_other_bytes_is_not_verified(world):
    world.files[DAYS[0]].path.write_bytes(b"other")
    (bad,) = world.trace().unverified
    assert (bad.sha256, bad.name) == (world.files[DAYS[0]].sha256, f"{DAYS[0]}.csv.gz")


def test_a_file_that_is_gone_is_not_verified(world):
    world.files[DAYS[0]].path.unlink()
    assert [file.name for file in world.trace().unverified] == [f"{DAYS[0]}.csv.gz"]
    world.files[DAYS[0]].manifest_path.unlink()
    (bad,) = world.trace().unverified
    assert (bad.sha256, bad.name) == (world.files[DAYS[0]].sha256, "")


def test_a_second_copy_of_a_damaged_file_verifies_the_content(world):
    first = world.files[DAYS[0]]
    first.path.write_bytes(b"damaged")
    again = world.deliver(DAYS[0], f"jar\n{DAYS[0]}\n")  # of the same instant: listed before the damaged one
    assert (again.sha256, again.path.name) == (first.sha256, f"{DAYS[0]}.1.csv.gz")
    found = world.trace()
    assert found.unverified == ()
    assert {file.name for file in found.files} == {f"{DAYS[0]}.1.csv.gz", f"{DAYS[1]}.csv.gz"}


def test_an_unknown_prediction_is_refused_with_where_was_looked(world):
    with pytest.raises(TrailError, match=rf"no prediction 'nobody' in {PREDICTIONS}"):
        world.trace("nobody")


def test_before_anything_was_scored(tmp_path):
    with pytest.raises(TrailError, match=r"any score table \(none exists yet\)"):
        trace(Lake(tmp_path), tmp_path / "landing", {"broken_jar": USE_CASE}, "p1")


def test_a_model_without_bytes_ends_the_trail(world):
    (world.lake.root / "models" / MODEL / "manifest.json").unlink()
    with pytest.raises(TrailError, match=rf"ends at model {MODEL}: there is no .*manifest\.json; restore"):
        world.trace()


def test_an_altered_manifest_ends_the_trail(world):
    path = world.lake.root / "models" / MODEL / "manifest.json"
    path.write_bytes(path.read_bytes().replace(b"training_set@v1", b"training_set@v2"))
    with pytest.raises(TrailError, match=r"manifest\.json was altered"):
        world.trace()


def test_a_model_that_does_not_name_its_training_set_ends_the_trail(world):
    world.model({"training_set": None})
    with pytest.raises(TrailError, match="does not name the training set"):
        world.trace()


def test_an_input_that_is_no_table_any_more_ends_the_trail(world):
    world.predict(1, DAYS[0], "scoring-1b", f"{CLEAN}@v1", "clean/gone@v7")
    with pytest.raises(TrailError, match="clean/gone@v7 was read, but there is no table clean/gone"):
        world.trace()


def test_instants_and_days_as_people_read_them():
    assert describe(datetime(2024, 3, 5, 9, tzinfo=UTC)) == "2024-03-05 09:00Z"
    assert describe(date(2024, 3, 5)) == "2024-03-05"
