"""Ingestion of rows: what is accepted, what is quarantined and why, and that nothing is lost on the way."""

from __future__ import annotations

import json
import time
from datetime import UTC, date, datetime, timedelta

import pytest

from contrail import contracts, duck, ingest_report, landing
from contrail.ingest import IngestError, ingest, ingest_in_chunks
from tests.support import contract_files as files
from tests.support.contract_files import DAY, csv_of, deliver, line, lines, midnight
from tests.support.ingest_world import World, rewrite_bytes

NEXT = "2024-03-06"


@pytest.fixture(scope="module")
def con():
    with duck.connect() as connection:
        yield connection


@pytest.fixture
def world(tmp_path, con):
    return World(tmp_path, con)


# -- accepted ------------------------------------------------------------------------------------------------


def test_a_good_file_is_accepted_with_types_versions_and_provenance(world):
    delivery = deliver(world.root, lines(3))
    result = world.ingest()
    assert result.accepted.schema == contracts.raw_schema(world.contract)
    assert result.quarantined.schema == contracts.quarantine_schema(world.contract)
    rows = result.accepted.to_pylist()
    assert [row["level"] for row in rows] == [0, 2, 4]
    taken = midnight() + timedelta(minutes=1)
    assert rows[1] == {
        "station": "s1",
        "taken_at": taken,
        "level": 2,
        "litres": 1.5,
        "grade": rows[1]["grade"],
        "checked_on": date(2024, 3, 5),
        "is_final": True,
        "note": "n1",
        "known_at": taken + timedelta(minutes=1),
        "feed_date": date(2024, 3, 5),
        "created_at": taken + timedelta(minutes=1),  # regular delivery: its own time of knowing
        "is_retracted": False,
        "_source_file": f"readings/{DAY}.csv.gz",
        "_source_sha256": delivery.sha256,
        "_source_row": 2,
        "_raw_id": f"{delivery.sha256}:2",
    }
    assert str(rows[1]["grade"]) == "3.25"
    (report,) = result.partitions
    assert (report.status, report.landed, report.accepted, report.quarantined) == ("accepted", 3, 3, 0)
    assert report.files == (delivery.sha256,)
    assert result.quarantined.num_rows == 0


def test_a_late_file_carries_its_delivery_as_the_time_of_its_version(world):
    deliver(world.root, lines(2), hours=30)
    created = set(world.ingest().accepted.column("created_at").to_pylist())
    assert created == {midnight() + timedelta(hours=30)}


def test_a_file_of_an_hour_is_due_at_the_end_of_its_hour(world):
    deliver(world.root, lines(2), hours=1, covers=(0, 1), stem=f"{DAY}T00")
    deliver(world.root, lines(2, start=60), hours=3, covers=(1, 2), stem=f"{DAY}T01")
    rows = world.ingest().accepted.to_pylist()
    assert [row["created_at"] == row["known_at"] for row in rows] == [True, True, False, False]
    assert world.only().status == "accepted"


@pytest.mark.parametrize(
    "data",
    [
        b"\xef\xbb\xbf" + csv_of(lines(2)),
        csv_of(lines(2), end="\r\n"),
        csv_of(lines(2)).rstrip(b"\n"),
        csv_of(lines(2)) + b"\n\n",
    ],
    ids=["byte order mark", "Windows line ends", "no last line end", "blank lines at the end"],
)
def test_ways_to_write_a_file_that_do_not_matter(world, data):
    deliver(world.root, data, rows=2)
    result = world.ingest()
    assert result.accepted.column("level").to_pylist() == [0, 2]
    assert result.accepted.column("_source_row").to_pylist() == [1, 2]


def test_quoted_fields_keep_commas_quotes_and_line_ends(world):
    note = '"a ""b"",\nc"'
    deliver(world.root, csv_of([line(0, note=note), line(1, note='""')]), rows=2)
    assert world.ingest().accepted.column("note").to_pylist() == ['a "b",\nc', None]


def test_columns_may_come_in_another_order(world):
    order = [3, 0, 1, 2, 4, 5, 6, 7, 8]
    rows = [",".join(row.split(",")[i] for i in order) for row in [files.HEADER, *lines(2)]]
    deliver(world.root, csv_of(rows[1:], header=rows[0]))
    assert world.ingest().accepted.column("level").to_pylist() == [0, 2]


def test_a_file_with_a_header_only_is_accepted_as_empty_and_the_volume_warns(world):
    deliver(world.root, [])
    report = world.only()
    assert (report.status, report.landed, report.accepted) == ("empty", 0, 0)
    assert any(text.startswith("volume: 0 rows") for text in report.warnings)
    assert not report.reasons


def test_a_table_that_comes_as_one_file(world):
    none = dict.fromkeys(
        [
            "partitionColumn",
            "partitionKind",
            "partitionRule",
            "regularDeliveryOffsetHours",
            "trailingVolumeDays",
        ]
    )
    world.rewrite(**none)
    kwargs = {"rows": 2, "covers_from": None, "covers_to": None, "source": "gauges"}
    landing.write_delivery(
        world.root, "readings", "all", csv_of(lines(2)), delivered_at=midnight() + timedelta(days=9), **kwargs
    )
    result = world.ingest()
    assert "feed_date" not in result.accepted.column_names + result.quarantined.column_names
    assert result.accepted.column("created_at").to_pylist() == result.accepted.column("known_at").to_pylist()
    assert result.partitions[0].partition == "all"
    assert result.partitions[0].accepted == 2


# -- rows in quarantine ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("changed", "rules"),
    [
        ({"level": "x7"}, ["type:level"]),
        ({"level": "12.7"}, ["type:level"]),
        ({"level": "99999999999"}, ["type:level"]),
        ({"level": " 12"}, ["type:level"]),
        ({"level": "1_000"}, ["type:level"]),
        ({"litres": "nan"}, ["type:litres"]),
        ({"litres": "1e400"}, ["type:litres"]),
        ({"grade": "1.239"}, ["type:grade"]),
        ({"grade": "12345.00"}, ["type:grade"]),
        ({"checked_on": "2024-02-30"}, ["type:checked_on"]),
        ({"checked_on": "2024-3-5"}, ["type:checked_on"]),
        ({"is_final": "t"}, ["type:is_final"]),
        ({"taken_at": "2024-03-05T00:16:00"}, ["type:taken_at"]),  # no zone
        ({"known_at": "soon"}, ["type:known_at"]),
        ({"station": ""}, ["required:station"]),
        ({"known_at": ""}, ["required:known_at"]),
        ({"known_at": "2024-03-06T00:00:01Z"}, ["known_before_delivered"]),
        ({"level": "902"}, ["level_range"]),
        ({"level": "901", "is_final": "maybe"}, ["type:is_final", "level_range", "level_is_even"]),
    ],
)
def test_a_bad_row_goes_to_quarantine_with_every_rule_it_breaks(world, changed, rules):
    rows = lines(20)
    rows[16] = line(16, **changed)
    delivery = deliver(world.root, rows)
    result = world.ingest()
    (bad,) = result.quarantined.to_pylist()
    assert bad["rules"] == rules
    assert (bad["source_row"], bad["kind"], bad["rows"]) == (17, "row", 1)
    assert (bad["source_file"], bad["source_sha256"]) == (f"readings/{DAY}.csv.gz", delivery.sha256)
    values = json.loads(bad["values"])
    assert all(values[name] == (text or None) for name, text in changed.items())
    assert list(values) == files.HEADER.split(",")
    assert bad["feed_date"] == date(2024, 3, 5)
    assert bad["delivered_at"] == midnight() + timedelta(hours=24)
    (report,) = result.partitions
    assert (report.status, report.landed, report.accepted, report.quarantined) == ("accepted", 20, 19, 1)
    assert 17 not in result.accepted.column("_source_row").to_pylist()


@pytest.mark.parametrize(
    ("changed", "column", "value"),
    [
        ({"taken_at": "2024-03-05T05:30:00+05:30"}, "taken_at", midnight()),
        ({"taken_at": "2024-03-05 00:00:00.25+00"}, "taken_at", midnight() + timedelta(milliseconds=250)),
        ({"level": "+012"}, "level", 12),
        ({"litres": "1e1"}, "litres", 10.0),
        ({"is_final": "FALSE"}, "is_final", False),
        ({"level": ""}, "level", None),
        ({"note": "NA"}, "note", "NA"),
    ],
)
def test_values_that_may_be_written_in_several_ways(world, changed, column, value):
    deliver(world.root, [line(0, **changed)])
    assert world.ingest().accepted.column(column).to_pylist() == [value]


def test_lines_with_another_number_of_fields_are_quarantined_with_their_text_and_number(world):
    rows = lines(60)
    rows[1] = "s1,2024-03-05T00:01:00Z,2"
    rows[30] += ",more"
    rows[40] = line(40, level="x")
    world.rewrite(toleratedQuarantineRows=3)
    deliver(world.root, rows)
    result = world.ingest()
    found = {row["source_row"]: row for row in result.quarantined.to_pylist()}
    assert found.keys() == {2, 31, 41}
    assert found[2]["rules"] == ["malformed_row"]
    assert json.loads(found[2]["values"]) == {"line": rows[1]}
    assert found[2]["reason"] == "3 fields instead of 9."
    assert found[41]["rules"] == ["type:level"]
    assert result.accepted.column("_source_row").to_pylist() == [n for n in range(1, 61) if n not in found]
    (malformed,) = [one for one in result.partitions[0].rules if one.rule == "malformed_row"]
    assert (malformed.element_count, malformed.unexpected_count, malformed.success) == (60, 2, False)


def test_rows_of_one_key_are_all_refused(world):
    deliver(world.root, [*lines(40), line(7, level="0")])
    result = world.ingest()
    assert [row["source_row"] for row in result.quarantined.to_pylist()] == [8, 41]
    assert {tuple(row["rules"]) for row in result.quarantined.to_pylist()} == {("unique_key",)}


def test_rules_that_warn_or_are_fixed_downstream_only_count(world):
    deliver(world.root, [line(n, note="", litres="70") for n in range(10)])
    result = world.ingest()
    (report,) = result.partitions
    assert (report.accepted, report.quarantined) == (10, 0)
    by_name = {one.rule: one for one in report.rules}
    assert (by_name["note_known"].unexpected_count, by_name["note_known"].success) == (10, False)
    assert (by_name["litres_range"].rule_class, by_name["litres_range"].unexpected_count) == ("fix", 10)
    assert any("note_known" in text for text in report.warnings)
    assert not any("litres_range" in text for text in report.warnings)


def test_an_expectation_that_is_not_compiled_still_names_its_rows(world):
    changed = files.document()
    changed["schema"][0]["quality"].append(
        files.rule(
            "level_outlier",
            "reject",
            "expect_column_value_z_scores_to_be_less_than",
            column="level",
            threshold=3,
            double_sided=True,
        )
    )
    world.contract = files.contract(world.folder, changed)
    deliver(world.root, [*lines(30), line(30, level="800")])
    deliver(world.root, lines(3, NEXT), day=NEXT)
    result = world.ingest()
    (bad,) = result.quarantined.to_pylist()
    assert (bad["source_row"], bad["rules"]) == (31, ["level_outlier"])
    assert [report.accepted for report in result.partitions] == [30, 3]


def test_a_rejecting_rule_over_the_whole_file_blocks_it(world):
    changed = files.document()
    changed["schema"][0]["quality"].append(
        files.rule("level_mean", "reject", "expect_column_mean_to_be_between", column="level", max_value=3)
    )
    world.contract = files.contract(world.folder, changed)
    deliver(world.root, lines(10))
    deliver(world.root, [], day=NEXT)
    bad, empty = world.ingest().partitions
    assert bad.status == "blocked"
    assert "rule level_mean is broken by the file as a whole (9)" in bad.reasons[0]
    assert empty.status == "empty"


# -- the whole -------------------------------------------------------------------------------------------------


def test_chunks_are_what_one_call_gives(world):
    days = [(date(2024, 3, 5) + timedelta(days=n)).isoformat() for n in range(12)]
    for day in days:
        deliver(world.root, [*lines(30, day), line(31, day, level="x")], day=day)
    rewrite_bytes(deliver(world.root, lines(8, "2024-03-20"), day="2024-03-20"), b"")
    everything = landing.deliveries(world.root, "readings")
    size = everything[0].size_bytes
    whole = ingest(world.contract, everything, con=world.con)
    parts = list(ingest_in_chunks(world.contract, everything, con=world.con, chunk_bytes=3 * size + 50))
    assert len(parts) > 3
    assert [row for part in parts for row in part.accepted.to_pylist()] == whole.accepted.to_pylist()
    assert [row for part in parts for row in part.quarantined.to_pylist()] == whole.quarantined.to_pylist()
    assert tuple(report for part in parts for report in part.partitions) == whole.partitions


def test_the_same_files_give_the_same_result_and_leave_nothing_behind(world):
    deliver(world.root, [*lines(30), line(31, level="x")])
    first, second = world.ingest(), world.ingest()
    assert first.accepted.equals(second.accepted)
    assert first.quarantined.equals(second.quarantined)
    assert world.con.execute("SELECT count(*) FROM duckdb_tables() WHERE temporary").fetchone() == (0,)
    assert world.con.execute("SELECT count(*) FROM duckdb_views() WHERE NOT internal").fetchone() == (0,)


def test_no_delivery_gives_empty_tables(world):
    result = world.ingest()
    assert (result.accepted.num_rows, result.quarantined.num_rows, result.partitions) == (0, 0, ())


def test_books_that_do_not_balance_are_refused(world, monkeypatch):
    deliver(world.root, lines(5))
    balance = ingest_report.Balance.of

    def lossy(contract, accepted, quarantined):
        return balance(contract, accepted.slice(1), quarantined)

    monkeypatch.setattr(ingest_report.Balance, "of", staticmethod(lossy))
    with pytest.raises(IngestError, match=f"readings {DAY}: 5 rows landed, but 4 are accepted"):
        world.ingest()


def test_a_delivery_must_be_of_the_table_and_of_a_day(world):
    delivery = deliver(world.root, lines(2))
    other = landing.Delivery(**(vars(delivery) | {"table": "others"}))
    with pytest.raises(IngestError, match="is of table others"):
        ingest(world.contract, [other], con=world.con)
    undated = landing.Delivery(**(vars(delivery) | {"partition": "all"}))
    with pytest.raises(IngestError, match="'all' is not a date"):
        ingest(world.contract, [undated], con=world.con)


def test_a_table_of_one_file_has_one_partition(world):
    one = [
        "partitionColumn",
        "partitionKind",
        "partitionRule",
        "regularDeliveryOffsetHours",
        "trailingVolumeDays",
    ]
    deliver(world.root, lines(2))
    deliver(world.root, lines(2, NEXT), day=NEXT)
    world.rewrite(**dict.fromkeys(one))
    with pytest.raises(IngestError, match="readings comes as one file"):
        world.ingest()


def test_ingestion_is_fast_enough_for_a_year(world):
    """A tenth of a year of 900 rows a day; the year in one session has to stay under 4 CPU seconds."""
    world.rewrite(partitionRule="(taken_at AT TIME ZONE 'UTC')::DATE = partition_date")
    days = [(date(2024, 3, 5) + timedelta(days=n)).isoformat() for n in range(36)]
    for day in days:
        deliver(world.root, [line(n, day, level=str(n % 400 * 2)) for n in range(900)], day=day)
    start = time.process_time()
    result = world.ingest()
    assert result.accepted.num_rows == 36 * 900
    assert time.process_time() - start < 2.0  # usually 0.3


def test_instants_are_in_utc(world):
    deliver(world.root, lines(1))
    (row,) = world.ingest().accepted.to_pylist()
    assert row["known_at"].tzinfo is not None
    assert row["known_at"] == datetime(2024, 3, 5, 0, 1, tzinfo=UTC)
