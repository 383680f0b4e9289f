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
from contrail.windows import Revision

START = datetime(2023, 12, 30, tzinfo=UTC)
NOW = datetime(2024, 2, 2, tzinfo=UTC)
INSTANT = pa.timestamp("us", tz="UTC")
TABLE, SOURCE = "feature/levels", "clean/readings"


def instant(month: int, day: int, hour: int = 0) -> datetime:
    return datetime(2024, month, day, hour, tzinfo=UTC)


def build(
    con: duckdb.DuckDBPyConnection, lo: datetime, hi: datetime, created_from: datetime | None = None
) -> duckdb.DuckDBPyRelation:
    """A value every six hours: how many readings were known by then."""
    assert created_from is None
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
            now=now, delivered_until=NOW, commit=commit, rebuild=rebuild,
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
    assert incremental.built_until(growing.lake, TABLE, record.version - 1) == instant(1, 1)


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


# --- corrections: a source whose rows have versions ------------------------------------------------------------------

SPAN = timedelta(days=2)  # how long a reading counts
READINGS = pa.schema(
    [("day", pa.date32()), ("known_at", INSTANT), ("created_at", INSTANT), ("reading", pa.int64())]
)


def levels(con, lo, hi, created_from=None):
    """Per day the sum of the readings of two days, and a version of it for each later one that changes it."""
    since = f"AND created_at >= TIMESTAMPTZ '{created_from.isoformat()}'" if created_from else ""
    return con.sql(f"""
        WITH instants AS (SELECT unnest(generate_series(TIMESTAMPTZ '{START.isoformat()}', TIMESTAMPTZ '{NOW.isoformat()}',
                                                       INTERVAL 1 DAY)) AS g),
        versions AS (
          SELECT g AS known_at, greatest(g, r.created_at) AS created_at FROM instants JOIN readings r
            ON r.known_at <= g AND r.known_at > g - INTERVAL 2 DAY)
        SELECT DISTINCT v.known_at, v.created_at, date_trunc('month', v.known_at)::DATE AS month,
          (SELECT sum(reading) FROM readings r WHERE r.known_at <= v.known_at
            AND r.known_at > v.known_at - INTERVAL 2 DAY AND r.created_at <= v.created_at)::BIGINT AS level
        FROM versions v WHERE known_at >= TIMESTAMPTZ '{lo.isoformat()}' AND known_at < TIMESTAMPTZ '{hi.isoformat()}' {since}
        ORDER BY ALL""")


def revise(con, days, built_until):
    among = f"WHERE day BETWEEN '{days[0]}' AND '{days[1]}'" if days else ""
    lo, hi, created = con.sql(
        f"SELECT min(known_at), max(known_at), min(created_at) FROM readings ANTI JOIN readings_before "
        f"USING (known_at, created_at) {among} {'AND' if among else 'WHERE'} known_at < '{built_until.isoformat()}'"
    ).fetchone()
    return None if lo is None else Revision(lo, hi + SPAN, created)


class Correcting:
    """A lake whose source gets versions, and a table that follows them."""

    def __init__(self, root: Path, con: duckdb.DuckDBPyConnection) -> None:
        self.lake, self.con = Lake(root), con
        self.lake.create(SOURCE, READINGS)

    def deliver(self, *readings: tuple[datetime, datetime, int]) -> None:
        rows = [{"day": k.date(), "known_at": k, "created_at": c, "reading": r} for k, c, r in readings]
        days = sorted(row["day"] for row in rows)
        self.lake.append(
            SOURCE,
            pa.Table.from_pylist(rows, READINGS),
            Commit(SOURCE, "run", ("sha256:ab",), f"{days[0]}..{days[-1]}"),
        )

    def extend(self, until: datetime, delivered_until: datetime = NOW) -> Extension:
        def commit(inputs: Sequence[str], partition: str, facts: dict[str, str]) -> Commit:
            return Commit(TABLE, f"{inputs} {until}", tuple(inputs), partition, extra=facts)

        return incremental.extend(
            self.lake, TABLE, levels, con=self.con, sources={"readings": SOURCE}, start=START, until=until, now=NOW,
            delivered_until=delivered_until, commit=commit, revise=revise,
        )  # fmt: skip


REGULAR = [(START + timedelta(days=n), START + timedelta(days=n), n) for n in range(20)]
LATE = (instant(1, 5), instant(1, 17, 3), 100)
STILL_LATER = (instant(1, 2), instant(1, 12, 6), 1000)


def test_a_correction_rebuilds_only_what_it_reaches(tmp_path, con):
    made = Correcting(tmp_path / "lake", con)
    made.deliver(*REGULAR)
    made.extend(instant(1, 18))
    made.deliver(LATE)
    done = made.extend(instant(1, 18))
    assert done.revised == Revision(instant(1, 5), instant(1, 7), instant(1, 17, 3))
    assert (done.lo, done.hi, done.rows) == (instant(1, 18), instant(1, 18), 2)
    rows = con.execute(
        f"SELECT known_at, created_at, level FROM {made.lake.scan(TABLE)} WHERE known_at BETWEEN ? AND ? ORDER BY ALL",
        [instant(1, 5), instant(1, 6)],
    ).fetchall()
    assert rows == [
        (instant(1, 5), instant(1, 5), 11), (instant(1, 5), instant(1, 17, 3), 111),
        (instant(1, 6), instant(1, 6), 13), (instant(1, 6), instant(1, 17, 3), 113),
    ]  # fmt: skip
    assert incremental.built_until(made.lake, TABLE) == instant(1, 18)
    assert (
        made.lake.commits(TABLE)[-1].extra["revised"]
        == "2024-01-05T00:00:00+00:00..2024-01-07T00:00:00+00:00"
    )


@pytest.mark.parametrize(
    "first", [LATE, STILL_LATER], ids=["in the order of delivery", "the other way round"]
)
def test_step_by_step_with_corrections_is_the_whole(tmp_path, con, first):
    whole, grown = Correcting(tmp_path / "whole", con), Correcting(tmp_path / "grown", con)
    whole.deliver(*REGULAR, LATE, STILL_LATER)
    whole.extend(instant(1, 18))
    second = STILL_LATER if first is LATE else LATE
    grown.deliver(*REGULAR[:12])
    grown.extend(instant(1, 8))
    grown.deliver(*REGULAR[12:], first)
    grown.extend(instant(1, 15))
    grown.extend(instant(1, 18))
    grown.deliver(second)
    grown.extend(instant(1, 18))
    assert grown.lake.content_hash(TABLE) == whole.lake.content_hash(TABLE)
    assert grown.lake.content_hash(TABLE).startswith("23-"), "19 instants, two of them corrected by each"


def test_a_version_created_after_the_newest_delivery_is_refused(tmp_path, con):
    made = Correcting(tmp_path / "lake", con)
    made.deliver(*REGULAR)
    made.extend(instant(1, 18), instant(1, 18))
    made.deliver((instant(1, 5), NOW, 100))
    with pytest.raises(
        IncrementalError, match=r"created at 2024-02-02T.*after the newest delivery.*2024-01-18T.*hide"
    ):
        made.extend(instant(1, 18), instant(1, 18))
    assert made.lake.commits(TABLE)[-1].rows_added == 19, "nothing of it was written"


def test_newer_sources_that_change_nothing_are_noted_once(tmp_path, con):
    made = Correcting(tmp_path / "lake", con)
    made.deliver(*REGULAR)
    made.extend(instant(1, 10))
    before = made.lake.content_hash(TABLE)
    made.lake.append(SOURCE, READINGS.empty_table(), Commit(SOURCE, "later", ("sha256:ab",), "2024-01-09"))
    noted = made.extend(instant(1, 10))
    assert (noted.rows, noted.revised) == (0, None)
    assert made.lake.commits(TABLE)[-1].inputs == (made.lake.ref(SOURCE),)
    assert made.extend(instant(1, 10)).version == noted.version
    assert made.lake.content_hash(TABLE) == before


def test_rows_pushed_into_the_table_hide_no_correction(tmp_path, con):
    made = Correcting(tmp_path / "lake", con)
    made.deliver(*REGULAR)
    made.extend(instant(1, 18))
    columns = [name for name in made.lake.schema(TABLE).names if not name.startswith("_")]
    nothing = made.lake.schema(TABLE).empty_table().select(columns)
    made.lake.append(TABLE, nothing, Commit(TABLE, "push", ("push:levels",)))
    made.deliver(LATE)
    done = made.extend(instant(1, 18))
    assert (done.revised, done.rows) == (Revision(instant(1, 5), instant(1, 7), instant(1, 17, 3)), 2)
    made.lake.append(TABLE, nothing, Commit(TABLE, "push", ("push:levels",)))
    assert made.extend(instant(1, 18)).revised is None
    assert made.lake.commits(TABLE)[-1].inputs == (made.lake.ref(SOURCE),), "or it would be due for ever"


def test_a_build_runs_once(growing):
    """A reader runs its query, also where nothing but the schema is asked of it."""
    opened: list[int] = []

    class Watched:
        def __init__(self, relation: duckdb.DuckDBPyRelation) -> None:
            self._relation = relation

        def to_arrow_reader(self, batch_rows: int) -> pa.RecordBatchReader:
            opened.append(batch_rows)
            return self._relation.to_arrow_reader(batch_rows)

    added = growing.extend(instant(1, 2), builder=lambda con, lo, hi: Watched(build(con, lo, hi)))
    assert added.rows == 12
    assert len(opened) == 1
