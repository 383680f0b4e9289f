"""Growing a table by time: any way of cutting the range gives the same rows."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path

import duckdb
import pyarrow as pa
import pytest

from contrail import duck, incremental
from contrail.incremental import Extension, IncrementalError
from contrail.lake import Commit, Lake

START = datetime(2023, 12, 30, tzinfo=UTC)
NOW = datetime(2024, 2, 2, tzinfo=UTC)
TABLE, SOURCE = "feature/levels", "clean/readings"


def instant(month: int, day: int, hour: int = 0) -> datetime:
    return datetime(2024, month, day, hour, tzinfo=UTC)


def build(con: duckdb.DuckDBPyConnection, lo: datetime, hi: datetime) -> duckdb.DuckDBPyRelation:
    """A value every six hours: how many readings were known by then."""
    return con.sql(
        f"""SELECT g AS known_at, g AS created_at, date_trunc('month', g)::DATE AS month,
                   (SELECT count(*) FROM readings WHERE known_at <= g) AS readings_known
            FROM unnest(generate_series(TIMESTAMPTZ '{START.isoformat()}', TIMESTAMPTZ '{NOW.isoformat()}',
                                        INTERVAL 6 HOUR)) AS t(g)
            WHERE g >= TIMESTAMPTZ '{lo.isoformat()}' AND g < TIMESTAMPTZ '{hi.isoformat()}'"""
    )


class Growing:
    """A lake with a source, and a table that grows from it."""

    def __init__(self, root: Path, con: duckdb.DuckDBPyConnection) -> None:
        self.lake, self.con = Lake(root), con
        known = pa.array([START + timedelta(hours=n) for n in range(900)], pa.timestamp("us", tz="UTC"))
        rows = pa.table({"known_at": known})
        self.lake.create(SOURCE, rows.schema)
        self.lake.append(SOURCE, rows, Commit(SOURCE, "source", ("sha256:ab",)))

    def extend(
        self, until: datetime, *, now: datetime = NOW, builder=build, rebuild: bool = False
    ) -> Extension:
        def commit(inputs: Sequence[str], partition: str, facts: dict[str, str]) -> Commit:
            return Commit(TABLE, f"until {until}", tuple(inputs), partition, extra=facts)

        return incremental.extend(
            self.lake, TABLE, builder, con=self.con, sources={"readings": SOURCE}, start=START, until=until,
            now=now, commit=commit, rebuild=rebuild,
        )  # fmt: skip


@pytest.fixture
def con() -> Iterator[duckdb.DuckDBPyConnection]:
    with duck.connect(threads=1) as made:
        yield made


@pytest.fixture
def growing(tmp_path: Path, con: duckdb.DuckDBPyConnection) -> Growing:
    return Growing(tmp_path / "lake", con)


@pytest.mark.parametrize(
    "cuts",
    [
        [instant(1, 1)],
        [instant(1, 1, 3), instant(1, 31, 18), instant(2, 1)],
        [START + timedelta(hours=17 * n) for n in range(1, 40)],
    ],
    ids=["new year", "within a month", "every 17 hours"],
)
def test_piece_by_piece_is_the_whole(growing, tmp_path, con, cuts):
    whole = Growing(tmp_path / "other", con)
    assert whole.extend(instant(2, 1, 12)).rows == 134
    for until in [*(c for c in cuts if c < instant(2, 1, 12)), instant(2, 1, 12)]:
        growing.extend(until)
    assert growing.lake.content_hash(TABLE) == whole.lake.content_hash(TABLE)


def test_an_extension_says_what_it_added_and_of_what(growing):
    growing.extend(instant(1, 1))
    added = growing.extend(instant(1, 2))
    assert (added.lo, added.hi, added.rows) == (instant(1, 1), instant(1, 2), 4)
    record = growing.lake.commits(TABLE)[-1]
    assert record.version == added.version
    assert record.inputs == (f"{SOURCE}@v1",)
    assert record.partition == "2024-01-01T00:00:00+00:00..2024-01-02T00:00:00+00:00"
    assert incremental.built_until(growing.lake, TABLE) == instant(1, 2)


def test_where_nothing_is_new_nothing_is_written(growing):
    growing.extend(instant(1, 2))
    before = growing.lake.version(TABLE)
    again = growing.extend(instant(1, 2))
    assert (again.rows, again.lo, again.hi) == (0, instant(1, 2), instant(1, 2))
    assert growing.extend(instant(1, 1)).rows == 0, "an earlier end takes nothing away"
    assert growing.lake.version(TABLE) == before


def test_the_same_span_again_replaces_it(growing):
    growing.extend(instant(1, 20))
    before = growing.lake.content_hash(TABLE)
    growing.extend(instant(1, 20), rebuild=True)
    assert growing.lake.content_hash(TABLE) == before


def test_a_rebuild_begins_at_the_start_again_and_moves_the_end(growing):
    growing.extend(instant(1, 20))

    def doubled(con, lo, hi):
        return con.sql(
            f"SELECT * REPLACE (readings_known * 2 AS readings_known) FROM ({build(con, lo, hi).sql_query()})"
        )

    made = growing.extend(instant(1, 10), builder=doubled, rebuild=True)
    assert (made.lo, made.hi) == (START, instant(1, 10))
    # What lies after the end of the rebuild still is of the old builder: the next extension does it anew.
    assert incremental.built_until(growing.lake, TABLE) == instant(1, 10)
    growing.extend(instant(1, 20), builder=doubled)
    found = growing.con.execute(
        f"SELECT count(*), count(*) FILTER (readings_known % 2 = 0), max(known_at) FROM {growing.lake.scan(TABLE)}"
    ).fetchone()
    assert found == (84, 84, instant(1, 19, 18))


def test_the_future_is_refused(growing):
    with pytest.raises(IncrementalError, match="which is after now"):
        growing.extend(NOW + timedelta(seconds=1))
    assert not growing.lake.exists(TABLE)


def test_a_first_build_of_nothing_is_refused(growing):
    with pytest.raises(IncrementalError, match="the first build begins at 2023-12-30"):
        growing.extend(START)


def test_rows_outside_the_span_are_refused(growing):
    def stray(con, lo, hi):
        return build(con, lo, hi + timedelta(days=1))

    with pytest.raises(Exception, match=r"outside|validation|predicate"):
        growing.extend(instant(1, 5), builder=stray)


def test_the_builder_reads_the_version_that_the_commit_names(growing):
    more = pa.table({"known_at": pa.array([START] * 1000, pa.timestamp("us", tz="UTC"))})

    def builder(con, lo, hi):
        # Someone writes to the source in the middle of the build.
        growing.lake.append(SOURCE, more, Commit(SOURCE, "meanwhile", ("sha256:cd",)))
        return build(con, lo, hi)

    growing.extend(instant(1, 2), builder=builder)
    assert growing.lake.commits(TABLE)[-1].inputs == (f"{SOURCE}@v1",)
    assert growing.con.execute(f"SELECT max(readings_known) FROM {growing.lake.scan(TABLE)}").fetchone() == (
        67,
    )


def test_a_table_that_was_never_extended_has_no_end(growing):
    assert incremental.built_until(growing.lake, TABLE) is None
    assert incremental.built_until(growing.lake, SOURCE) is None
