"""`contrail features get`: what it shows of an entity, and what it says of one that cannot be asked about."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path

import pytest

from cli.app import main
from features.request_time import AIRCRAFT_FEATURES, FEATURE_ORDER, SCHEDULE_FEATURES
from features.vectors import PRIORS
from tests.support.small_features import KEYS, NOW, REQUEST, ROW_AGE, make

KEY_OPTIONS = {key: str(value) for key, value in KEYS.items() if key != "network"}
REQUEST_OPTIONS = {
    "service_date": "2013-03-08",
    "scheduled_departure_minute_local": "900",
    "scheduled_departure_at": "2013-03-08T20:00Z",
}
Said = tuple[int, str, str]
Get = Callable[..., Said]


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("home")
    make(folder)
    return folder


@pytest.fixture
def get(home: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Get:
    """Run `contrail features get` over the small home at `NOW`: exit code, output, complaint."""
    monkeypatch.setenv("CONTRAIL_HOME", str(home))
    monkeypatch.setenv("CONTRAIL_CLOCK", "replay")
    monkeypatch.setenv("CONTRAIL_REPLAY_AT", NOW.isoformat())

    def run(entity: dict[str, str], *options: str) -> Said:
        entities = [f"--entity={key}={value}" for key, value in entity.items()]
        monkeypatch.setattr(sys, "argv", ["contrail", "features", "get", *entities, *options])
        with pytest.raises(SystemExit) as ended:
            main()
        said = capsys.readouterr()
        return int(ended.value.code or 0), said.out, said.err

    return run


def test_the_whole_vector_in_the_services_order(get: Get) -> None:
    code, out, _ = get(KEY_OPTIONS | REQUEST_OPTIONS, "--json")
    assert code == 0
    found = json.loads(out)
    assert (found["service"], found["at"], found["missing"]) == ("late_flight_2h", NOW.isoformat(), {})
    assert found["entity"]["network"] == "all"
    assert found["entity"]["flight_number"] == 259
    assert tuple(one["feature"] for one in found["features"]) == FEATURE_ORDER
    of = {one["feature"]: one for one in found["features"]}
    stored = of["origin_departures_waiting"]
    assert (stored["view"], stored["status"], stored["unit"]) == ("origin_state", "present", "flights")
    assert (stored["known_at"], stored["age_seconds"]) == (
        (NOW - ROW_AGE).isoformat(),
        ROW_AGE.total_seconds(),
    )
    assert (of["carrier"]["view"], of["carrier"]["value"], of["carrier"]["status"]) == (
        "schedule_request",
        "UA",
        "computed",
    )
    assert of["schedule_day_of_week"]["value"] == 5
    leg = of["aircraft_minutes_since_leg"]
    assert (leg["value"], leg["view"], leg["status"]) == (7 * 60, "aircraft_request", "present")
    assert leg["age_seconds"] == ROW_AGE.total_seconds()


def test_a_table_for_people(get: Get) -> None:
    code, out, _ = get(KEY_OPTIONS | REQUEST_OPTIONS)
    assert code == 0
    lines = out.splitlines()
    assert lines[0].startswith("late_flight_2h at 2013-03-08 18:00:00Z of network=all, carrier=UA, ")
    assert lines[2].split() == ["feature", "value", "unit", "view", "status", "known", "at", "age"]
    (row,) = (line for line in lines if line.split()[:1] == ["weather_temp_f"])
    assert row.split() == [
        "weather_temp_f",
        "0.0625",
        "°F",
        "station_weather",
        "present",
        "2013-03-08",
        "17:15Z",
        "45",
        "min",
        "00",
        "s",
    ]


def test_without_the_request_what_is_stored_and_what_to_pass(get: Get) -> None:
    code, out, _ = get(KEY_OPTIONS)
    assert code == 0
    number = len(SCHEDULE_FEATURES) + len(AIRCRAFT_FEATURES)
    assert out.splitlines()[-1] == (
        f"{number} features need what the request does not say: give also --entity service_date=2014-01-02 --entity "
        "scheduled_departure_minute_local=1269 --entity scheduled_departure_at=2014-01-03T02:09Z"
    )
    assert out.count("not computed") == number
    found = json.loads(get(KEY_OPTIONS, "--json")[1])
    assert list(found["missing"]) == list(REQUEST_OPTIONS)
    of = {one["feature"]: one for one in found["features"]}
    assert of["origin"]["value"] == "EWR"
    assert of["origin_departures_waiting"]["status"] == "present"
    assert (of["schedule_day_of_week"]["value"], of["schedule_day_of_week"]["status"]) == (
        None,
        "not computed",
    )


def test_an_unseen_key_and_an_unknown_aircraft_are_flagged(get: Get) -> None:
    out = get(KEY_OPTIONS | REQUEST_OPTIONS | {"carrier": "ZZ", "tail_number": ""}, "--json")[1]
    found = json.loads(out)
    assert found["entity"]["tail_number"] is None
    of = {one["feature"]: one for one in found["features"]}
    assert of["carrier_disrupted_share_6h"]["status"] == "not found"
    assert of["carrier_disrupted_share_6h"]["value"] == PRIORS["carrier_disrupted_share_6h"]
    assert (of["aircraft_stage"]["status"], of["aircraft_stage"]["value"]) == ("not found", None)


def test_ages_count_to_the_instant_asked_about(get: Get) -> None:
    later = NOW + timedelta(days=4)
    out = get(KEY_OPTIONS | REQUEST_OPTIONS, "--at", later.isoformat(), "--json")[1]
    of = {one["feature"]: one for one in json.loads(out)["features"]}
    weather = of["weather_temp_f"]
    assert (weather["status"], weather["value"]) == ("outside max age", None)
    assert weather["age_seconds"] == (timedelta(days=4) + ROW_AGE).total_seconds()
    assert weather["known_at"] == (NOW - ROW_AGE).isoformat()
    table = get(KEY_OPTIONS | REQUEST_OPTIONS, "--at", later.isoformat())[1]
    assert "outside max age  2013-03-08 17:15Z  4 d 00 h" in table
    assert "13 h 30 min" in get(KEY_OPTIONS, "--at", (NOW + timedelta(hours=12, minutes=45)).isoformat())[1]


LACKING = {key: value for key, value in KEY_OPTIONS.items() if key not in ("tail_number", "flight_number")}


@pytest.mark.parametrize(
    ("entity", "options", "words"),
    [
        (LACKING, (), "lacks flight_number, tail_number: give --entity flight_number=259 --entity tail_number=TEXT (KEY= without"),
        (KEY_OPTIONS | {"flight_number": "x"}, (), "--entity flight_number=x: flight_number is of type INT64, as in --entity flight_number=259"),
        (KEY_OPTIONS | {"service_date": "8 March"}, (), "--entity service_date=8 March: service_date is of type DATE"),
        (KEY_OPTIONS | {"scheduled_departure_at": "2013-03-08T20:00"}, (), "has no zone: write 2013-03-08T20:00Z for UTC"),
        (KEY_OPTIONS | {"carier": "UA"}, (), "--entity carier: late_flight_2h has no such key; it has network, "),
        (KEY_OPTIONS, ("--entity", "origin"), "--entity origin has no =: write --entity origin=VALUE"),
        (KEY_OPTIONS, ("--entity", "origin=JFK"), "--entity origin is given twice"),
        (KEY_OPTIONS, ("--service", "none"), "there is no feature service 'none'; registered: late_flight_2h, late_flight_day_ahead"),
        (KEY_OPTIONS, ("--use-case", "none"), "there is no use case 'none'; declared: late_flight_2h, late_flight_day_ahead"),
        (KEY_OPTIONS, ("--use-case", "late_flight_2h", "--service", "late_flight_2h"), "give one of them"),
        (KEY_OPTIONS, ("--at", "yesterday"), "--at 'yesterday' is no ISO instant: write 2013-12-31T18:00Z"),
        (KEY_OPTIONS, ("--at", "2013-03-08T18:00"), "--at '2013-03-08T18:00' has no zone: write 2013-03-08T18:00Z for UTC"),
        (KEY_OPTIONS, ("--at", "2013-03-08"), "has no zone: write 2013-03-08T00:00Z for UTC"),
        (KEY_OPTIONS, ("--at", "2013-03-08T12:00Z"), "holds a row known at 2013-03-08T17:15:00+00:00, after the instant asked about"),
    ],
)  # fmt: skip
def test_what_is_wrong_is_said(
    get: Get, entity: dict[str, str], options: tuple[str, ...], words: str
) -> None:
    code, out, complaint = get(entity, *options)
    assert (code, out) == (1, "")
    assert complaint.startswith("contrail: ")
    assert words in complaint


def test_an_error_as_json(get: Get) -> None:
    code, out, complaint = get(LACKING, "--json")
    assert (code, complaint) == (1, "")
    assert json.loads(out)["error"].startswith("the entity lacks flight_number, tail_number")


def test_a_home_with_nothing_in_it(get: Get, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CONTRAIL_HOME", str(tmp_path))
    code, _, complaint = get(KEY_OPTIONS)
    assert code == 1
    assert "there is no feature service 'late_flight_2h'; registered: none, run `feast apply`" in complaint


def test_the_example_of_the_help_is_one_that_works(get: Get) -> None:
    _, text, _ = get({}, "--help")
    words = text.replace("│", " ").split()
    example = words[words.index("Example:") + 1 : words.index("╭─")]
    assert example[:3] == ["contrail", "features", "get"]
    entity = dict(word.split("=", 1) for word in example[3:] if word != "--entity")
    assert set(entity) == {*KEY_OPTIONS, *REQUEST} - {"network"}
    code, out, _ = get(entity)
    assert code == 0
    assert "not computed" not in out
