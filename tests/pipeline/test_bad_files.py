"""Bad files in the middle of the graph: each blocks its own partition in words, nothing is lost, the rest goes on."""

from __future__ import annotations

import gzip
import json
from datetime import UTC, date, datetime, timedelta
from pathlib import Path

import pytest

from contrail import landing
from features.state import STATE_GRID
from tests.support import bad_files
from tests.support.bad_week import BAD, Bad
from tests.support.one_build import features_differing_from_one_build
from tests.support.whole_graph import Home, all_succeeded, days, part_of_package

pytestmark = pytest.mark.slow

FIRST, COUNT = date(2013, 3, 4), 7
LAST = FIRST + timedelta(days=COUNT - 1)
ALL_DAYS = [day.isoformat() for day in days(FIRST, COUNT)]
DAILY = ("flight_schedules", "aircraft_assignments", "flight_events", "weather")
CORRECTED_DAY, MISTYPED_DAY = "2013-03-06", "2013-03-08"
# After the feeds' end, as the replacement of a file that was found bad would come.
LATER = datetime(2013, 3, 11, 12, tzinfo=UTC)
# A day with a blocked file is held back whole: once it is there, what was known then holds it too.
BEFORE_HELD_BACK_DAYS = (
    "known_at < TIMESTAMPTZ '2013-03-05 00:00:00Z' AND created_at < TIMESTAMPTZ '2013-03-11 12:00:00Z'"
)


SECOND_FILE = Bad(
    "flight_events", "2013-03-04", lambda delivery: None, "second file for 2013-03-04 without supersedes"
)
BLOCKED_DAYS = {bad.day for bad in BAD.values()}
GOOD_DAYS = [day for day in ALL_DAYS if day not in BLOCKED_DAYS]


KNOWN_WHEN_MENDED = f"created_at <= TIMESTAMPTZ '{LATER.isoformat()}' AND known_at < TIMESTAMPTZ '{LAST + timedelta(days=1)} 07:00:00Z'"


class World:
    """The home as it was left by each of the three runs, with what was there before."""

    def __init__(
        self, home: Home, source: Path, originals: dict[str, tuple[landing.Delivery, bytes]]
    ) -> None:
        self.home = home
        self.source = source
        self.originals = originals

    @property
    def root(self):
        return self.home.settings.landing_root


@pytest.fixture(scope="module")
def world(tmp_path_factory) -> World:
    """Seven days landed, eight files of them spoiled, one value mistyped; not run yet."""
    folder = tmp_path_factory.mktemp("bad_files")
    home = Home(folder / "home")
    source = part_of_package(folder / "source", FIRST, LAST + timedelta(days=1))
    home.land(source, FIRST, LAST)
    root = home.settings.landing_root
    originals: dict[str, tuple[landing.Delivery, bytes]] = {}
    for bad in BAD.values():
        delivery = bad_files.only(root, bad.table, bad.day)
        originals[bad.partition] = delivery, gzip.decompress(delivery.path.read_bytes())
        bad.spoil(delivery)
    mistyped = bad_files.only(root, "flight_events", MISTYPED_DAY)
    bad_files.change(mistyped, bad_files.with_value(17, "delay_minutes", "eleven"))
    return World(home, source, originals)


@pytest.fixture(scope="module")
def spoiled(world) -> World:
    """After the first run."""
    world.reports = world.home.run_to_features()
    world.status = world.home.status()
    world.before = world.home.content("feature", where=BEFORE_HELD_BACK_DAYS)
    return world


def books(home: Home, table: str) -> tuple[int, int, int]:
    """Landed by the manifests, accepted, quarantined."""
    landed = sum(d.rows for d in landing.deliveries(home.settings.landing_root, table))
    accepted = home.value(f"SELECT count(*) FROM {{raw/{table}}} WHERE NOT is_retracted")
    return landed, accepted, home.value(f"SELECT coalesce(sum(rows), 0)::BIGINT FROM {{quarantine/{table}}}")


@pytest.mark.parametrize("kind", BAD)
def test_a_bad_file_blocks_its_partition_and_says_why(spoiled, kind):
    bad = BAD[kind]
    (found,) = [b for b in spoiled.status.blocked if b["partition"] == bad.partition]
    file = f"{bad.table}/{bad.day}.csv.gz"
    assert file in found["why"]
    assert bad.says in found["why"]
    (advice,) = [line for line in spoiled.status.next if bad.partition in line]
    assert advice.startswith("replace the file")
    assert "contrail run" in advice


def test_nothing_else_is_blocked(spoiled):
    assert {b["partition"] for b in spoiled.status.blocked} == {bad.partition for bad in BAD.values()}


@pytest.mark.parametrize("kind", BAD)
def test_its_rows_lie_in_quarantine_and_none_in_raw(spoiled, kind):
    bad = BAD[kind]
    column = "service_date" if bad.table == "flight_schedules" else "feed_date"
    where = f"WHERE {column} = DATE '{bad.day}'"
    delivery, _ = spoiled.originals[bad.partition]
    kept = spoiled.home.rows(
        f"SELECT kind, rows, source_file, reason FROM {{quarantine/{bad.table}}} {where}"
    )
    lost = 7 if kind == "fewer rows than the manifest says" else 0
    assert sum(row["rows"] for row in kept) == delivery.rows - lost
    assert {row["kind"] for row in kept} == {"blocked"}
    assert {row["source_file"] for row in kept} == {f"{bad.table}/{bad.day}.csv.gz"}
    assert all(bad.says in row["reason"] for row in kept)
    assert spoiled.home.value(f"SELECT count(*) FROM {{raw/{bad.table}}} {where}") == 0


@pytest.mark.parametrize("kind", ["truncated gzip", "not UTF-8"])
def test_an_unreadable_file_keeps_its_bytes(spoiled, kind):
    bad = BAD[kind]
    column = "service_date" if bad.table == "flight_schedules" else "feed_date"
    (row,) = spoiled.home.rows(
        f"SELECT file_bytes FROM {{quarantine/{bad.table}}} WHERE {column} = DATE '{bad.day}'"
    )
    assert row["file_bytes"] == bad_files.only(spoiled.root, bad.table, bad.day).path.read_bytes()


def test_a_mistyped_value_in_row_17_costs_that_row_and_not_the_day(spoiled):
    (row,) = spoiled.home.rows(
        f"SELECT * FROM {{quarantine/flight_events}} WHERE feed_date = DATE '{MISTYPED_DAY}'"
    )
    assert (row["source_row"], row["kind"], row["rows"]) == (17, "row", 1)
    assert json.loads(row["values"])["delay_minutes"] == "eleven"
    assert any("delay_minutes" in rule for rule in row["rules"])
    (delivery,) = landing.deliveries(spoiled.root, "flight_events", {MISTYPED_DAY})
    accepted = spoiled.home.value(
        f"SELECT count(*) FROM {{raw/flight_events}} WHERE feed_date = DATE '{MISTYPED_DAY}'"
    )
    assert accepted == delivery.rows - 1


@pytest.mark.parametrize("table", DAILY)
def test_what_landed_is_what_was_accepted_or_quarantined(spoiled, table):
    landed, accepted, quarantined = books(spoiled.home, table)
    never_came = 7 if table == "flight_schedules" else 0  # in the manifest, and not in the file
    assert accepted + quarantined == landed - never_came


def test_the_other_days_go_on_to_clean_and_feature(spoiled):
    built = spoiled.home.rows(
        "SELECT DISTINCT service_date::VARCHAR AS day FROM {clean/departures} ORDER BY 1"
    )
    following = (LAST + timedelta(days=1)).isoformat()  # its schedule has landed
    assert [row["day"] for row in built] == [*GOOD_DAYS, following]
    features = spoiled.home.tables("feature")
    assert len(features) == 12
    assert all(spoiled.home.value(f"SELECT count(*) FROM {{{name}}}") > 0 for name in features)
    assert spoiled.home.value("SELECT max(known_at) FROM {feature/origin_state}").date() == LAST + timedelta(
        days=1
    )


def test_runs_fail_for_nothing_but_blocked_partitions(spoiled):
    assert all(report.succeeded or report.only_blocked for report in spoiled.reports)


def test_the_command_says_the_same(spoiled):
    printed = spoiled.home.contrail("status")
    for bad in BAD.values():
        assert bad.partition in printed
        assert bad.says in printed
    assert "replace the file of" in printed


# --- then, files come in their place --------------------------------------------------------------------------------


class Correction:
    """One arrival of a file took two minutes longer in the air, and another one is left out."""

    def __init__(self, rows: bad_files.Rows) -> None:
        header = rows[0]
        event, service_date = header.index("event"), header.index("service_date")
        changed, *_, gone = (
            row for row in rows if row[event] == "arrived" and row[service_date] == CORRECTED_DAY
        )
        self.changed, self.gone = (dict(zip(header, row, strict=True)) for row in (changed, gone))
        self.air_time = int(self.changed["air_time_minutes"]) + 2
        changed[header.index("air_time_minutes")] = str(self.air_time)
        self.rows = [row for row in rows if row is not gone]


@pytest.fixture(scope="module")
def mended(spoiled) -> World:
    """After the second run: all bad files replaced, one accepted file corrected, one followed by another one."""
    root = spoiled.root
    for delivery, content in spoiled.originals.values():
        bad_files.deliver(root, delivery, content, LATER, rows=delivery.rows)
    corrected = bad_files.only(root, "flight_events", CORRECTED_DAY)
    spoiled.correction = Correction(bad_files.rows_of(corrected))
    bad_files.deliver_rows(root, corrected, spoiled.correction.rows, LATER, supersedes=corrected.sha256)
    first = bad_files.only(root, "flight_events", SECOND_FILE.day)
    spoiled.second = bad_files.rows_of(first)[:-1]
    bad_files.deliver_rows(root, first, spoiled.second, LATER)
    spoiled.reports = spoiled.home.run_to_features()
    spoiled.status = spoiled.home.status()
    spoiled.mended = spoiled.home.content("feature", where=KNOWN_WHEN_MENDED)
    return spoiled


def test_a_replaced_file_lets_its_partition_through(mended):
    for bad in BAD.values():
        column = "service_date" if bad.table == "flight_schedules" else "feed_date"
        delivery, _ = mended.originals[bad.partition]
        accepted = mended.home.rows(
            f"SELECT count(*) AS n, min(_source_file) AS file FROM {{raw/{bad.table}}} "
            f"WHERE {column} = DATE '{bad.day}'"
        )
        assert accepted == [{"n": delivery.rows, "file": f"{bad.table}/{bad.day}.1.csv.gz"}]


def test_its_days_are_then_built(mended):
    days_built = mended.home.rows(
        "SELECT DISTINCT service_date::VARCHAR AS day FROM {clean/departures} ORDER BY 1"
    )
    assert [row["day"] for row in days_built][:COUNT] == ALL_DAYS
    assert all(report.succeeded or report.only_blocked for report in mended.reports)


def test_a_second_file_without_supersedes_blocks_and_the_first_one_stands(mended):
    (blocked,) = mended.status.blocked
    assert blocked["partition"] == SECOND_FILE.partition
    assert SECOND_FILE.says in blocked["why"]
    assert f"flight_events/{SECOND_FILE.day}.1.csv.gz" in blocked["why"]
    first, second = landing.deliveries(mended.root, "flight_events", {SECOND_FILE.day})
    assert f"supersedes: {first.sha256}" in blocked["why"]
    where = f"WHERE feed_date = DATE '{SECOND_FILE.day}'"
    assert mended.home.value(f"SELECT count(*) FROM {{raw/flight_events}} {where}") == first.rows
    assert mended.home.value(f"SELECT count(*) FROM {{quarantine/flight_events}} {where}") == second.rows


def test_a_corrected_file_is_a_further_version_in_raw(mended):
    versions = mended.home.rows(
        f"""SELECT created_at > known_at AS is_later, is_retracted, count(*) AS n, min(created_at) AS first,
            max(created_at) AS last FROM {{raw/flight_events}} WHERE feed_date = DATE '{CORRECTED_DAY}'
            GROUP BY ALL ORDER BY 1, 2"""
    )
    kept = len(mended.correction.rows) - 1
    assert [(v["is_later"], v["is_retracted"], v["n"]) for v in versions] == [
        (False, False, kept + 1),
        (True, False, kept),
        (True, True, 1),
    ]
    assert {v[name] for v in versions[1:] for name in ("first", "last")} == {LATER}


def versions_of(home: Home, event: dict[str, str]) -> list[dict]:
    return home.rows(
        f"""SELECT created_at, schedule_known_at, air_time_minutes, is_retracted FROM {{clean/departures}}
            WHERE service_date = DATE '{event["service_date"]}' AND carrier = '{event["carrier"]}'
            AND flight_number = {event["flight_number"]} AND origin = '{event["origin"]}' ORDER BY created_at"""
    )


def test_and_in_clean(mended):
    first, second = versions_of(mended.home, mended.correction.changed)
    assert first["created_at"] == first["schedule_known_at"]
    assert first["air_time_minutes"] == int(mended.correction.changed["air_time_minutes"])
    assert (second["created_at"], second["air_time_minutes"]) == (LATER, mended.correction.air_time)


def test_an_event_that_the_correction_lacks_is_gone_from_then_on(mended):
    first, second = versions_of(mended.home, mended.correction.gone)
    assert first["air_time_minutes"] == int(mended.correction.gone["air_time_minutes"])
    assert (second["created_at"], second["air_time_minutes"]) == (LATER, None)
    assert not second["is_retracted"]  # the departure stays: what is retracted is its arrival


def test_features_show_what_came_later_from_its_delivery_on(mended):
    """What was known before stays as it was, bit by bit; what came later stands beside it, as further versions."""
    assert mended.home.content("feature", where=BEFORE_HELD_BACK_DAYS) == mended.before
    known_then = f"created_at < TIMESTAMPTZ '{LATER.isoformat()}'"
    for table in ("network_state", "dest_state", "flight_history", "aircraft_leg", "station_weather"):
        later = mended.home.rows(
            f"SELECT min(created_at) AS first, max(created_at) AS last, count(*) AS n, max(known_at) AS known "
            f"FROM {{feature/{table}}} WHERE NOT {known_then}"
        )[0]
        assert (later["first"], later["last"]) == (LATER, LATER), table
        assert later["n"] > 0
        assert later["known"] < LATER


def test_an_arrival_that_was_taken_back_no_longer_counts(mended):
    """The network's mean delay of the quarter of an hour in which it counted, before and after the correction."""
    known_at = datetime.fromisoformat(mended.correction.gone["known_at"])
    instant = STATE_GRID.instant(STATE_GRID.number(known_at))
    versions = mended.home.rows(
        f"SELECT created_at, network_arrival_delay_mean_180min AS mean FROM {{feature/network_state}} "
        f"WHERE known_at = TIMESTAMPTZ '{instant.isoformat()}' ORDER BY created_at"
    )
    assert [v["created_at"] for v in versions] == [instant, LATER]
    assert versions[0]["mean"] != versions[1]["mean"]


def test_features_with_corrections_are_those_of_one_build(mended):
    assert features_differing_from_one_build(mended.home, FIRST) == []


def test_status_names_the_corrected_file(mended):
    assert [c["file"] for c in mended.status.corrections] == [f"raw/flight_events:{CORRECTED_DAY}"]
    printed = mended.home.contrail("status")
    assert "features show them from their delivery on" in printed
    assert f"raw/flight_events:{CORRECTED_DAY}" in printed


def test_the_data_clock_has_come_to_the_newest_delivery(mended):
    assert mended.status.now == LATER


# --- and the next day lands -----------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def next_day(mended) -> World:
    """After the third run: a day more, and the second file with the word that it lacked."""
    first = landing.deliveries(mended.root, "flight_events", {SECOND_FILE.day})[0]
    mended.home.land(mended.source, FIRST, LAST + timedelta(days=1))
    bad_files.deliver_rows(
        mended.root, first, mended.second, LATER + timedelta(hours=1), supersedes=first.sha256
    )
    all_succeeded(mended.home.run_to_features())
    return mended


def test_the_word_that_it_lacked_lets_the_second_file_through(next_day):
    assert next_day.home.status().blocked == []
    where = f"WHERE feed_date = DATE '{SECOND_FILE.day}' AND created_at > known_at AND NOT is_retracted"
    assert (
        next_day.home.value(f"SELECT count(*) FROM {{raw/flight_events}} {where}") == len(next_day.second) - 1
    )


def test_features_grow_on_with_what_came_late(next_day):
    """By a day: earlier versions stay, the late files count in the new rows, and a whole build gives the same."""
    assert next_day.home.content("feature", where=KNOWN_WHEN_MENDED) == next_day.mended
    assert features_differing_from_one_build(next_day.home, FIRST) == []


@pytest.mark.parametrize("table", DAILY)
def test_the_books_still_balance(next_day, table):
    landed, accepted, quarantined = books(next_day.home, table)
    never_came = 7 if table == "flight_schedules" else 0
    assert accepted + quarantined == landed - never_came
