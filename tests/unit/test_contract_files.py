"""The seven contract files: valid by their standard, readable by the library, and true of the real year."""

import json
from collections.abc import Iterator, Mapping
from importlib.resources import files
from pathlib import Path
from typing import Any

import duckdb
import jsonschema
import pytest
import yaml
from open_data_contract_standard.model import OpenDataContractStandard

from contrail.contracts import Contract, load_contracts
from contrail.duck import connect
from contrail.expectations import compile_rules, evaluate
from sources import nycflights_facts as facts
from sources.nycflights_tables import find_source, load

FOLDER = Path(__file__).resolve().parents[2] / "contracts"
TABLES = (*facts.DAILY, *facts.REFERENCE)
CONTRACTS = load_contracts(FOLDER)


@pytest.fixture(scope="module")
def real(tmp_path_factory: pytest.TempPathFactory) -> Iterator[duckdb.DuckDBPyConnection]:
    """The rows of the real year as they are landed, in views ``facts_<table>``."""
    con = connect()
    load(con, find_source(None), tmp_path_factory.mktemp("work"))
    facts.build(con)
    yield con
    con.close()


def document(table: str) -> dict[str, Any]:
    return yaml.safe_load((FOLDER / f"{table}.yaml").read_text())


def test_there_is_one_contract_per_landed_table() -> None:
    assert set(CONTRACTS) == set(TABLES)


@pytest.mark.parametrize("table", TABLES)
def test_the_file_satisfies_the_standard(table: str) -> None:
    contract = OpenDataContractStandard.from_file(str(FOLDER / f"{table}.yaml"))
    assert contract.status == "active"
    schema = json.loads(files("open_data_contract_standard").joinpath("schema.json").read_text())
    jsonschema.validators.validator_for(schema)(schema).validate(document(table))


@pytest.mark.parametrize("table", TABLES)
def test_the_file_says_what_people_ask(table: str) -> None:
    contract = OpenDataContractStandard.from_file(str(FOLDER / f"{table}.yaml"))
    description = contract.description
    assert description is not None
    assert all(description.model_dump()[part] for part in ("purpose", "usage", "limitations"))
    assert CONTRACTS[table].owner
    assert "frequency" in CONTRACTS[table].service_levels
    for column in CONTRACTS[table].columns:
        assert column.description.endswith("."), column.name
        assert column.unit, column.name
    for rule in CONTRACTS[table].rules:
        assert rule.description.endswith("."), rule.name


@pytest.mark.parametrize("table", TABLES)
def test_the_columns_are_those_that_are_landed(table: str, real: duckdb.DuckDBPyConnection) -> None:
    described = real.execute(f"DESCRIBE facts_{table}").fetchall()
    landed = [(name, kind.replace("TIMESTAMP WITH TIME ZONE", "TIMESTAMPTZ")) for name, kind, *_ in described]
    assert landed[-1] == ("partition", "DATE")
    assert [(column.name, column.sql_type) for column in CONTRACTS[table].columns] == landed[:-1]
    assert CONTRACTS[table].primary_key == facts.KEYS[table]


def test_registrations_are_the_personal_data() -> None:
    personal = {
        (table, column) for table, contract in CONTRACTS.items() for column in contract.personal_columns
    }
    assert personal == {("aircraft_assignments", "tail_number"), ("planes", "tail_number")}


def test_feeds_say_when_they_are_due_and_what_hangs_on_them() -> None:
    def facts_of(attribute: str) -> Mapping[str, object]:
        return {table: getattr(CONTRACTS[table], attribute) for table in TABLES}

    feeds = ("aircraft_assignments", "flight_events", "weather")
    assert facts_of("partition_column") == {
        "flight_schedules": "service_date",
        **dict.fromkeys(feeds, "feed_date"),
        **dict.fromkeys(facts.REFERENCE),
    }
    assert facts_of("regular_offset_hours") == {
        "flight_schedules": facts.SCHEDULE_KNOWN_HOURS,
        **dict.fromkeys(feeds, 24 + facts.FEED_DAY_STARTS_HOUR),
        **dict.fromkeys(facts.REFERENCE),
    }
    assert facts_of("bounds_completeness") == {table: table in feeds for table in TABLES}
    assert facts_of("is_fact") == {table: table in facts.DAILY for table in TABLES}
    for table in facts.DAILY:
        # After a year's last day no schedule follows; its feeds still deliver once more.
        assert CONTRACTS[table].service_levels["freshness"] == (
            48 if table == "flight_schedules" else 26,
            "h",
        )
        volume = CONTRACTS[table].volume
        assert volume is not None
        assert volume.days == 28


def test_relationships_name_columns_that_exist() -> None:
    named = 0
    for table in TABLES:
        schema = document(table)["schema"][0]
        for column in schema["properties"]:
            for relationship in column.get("relationships", ()):
                other, _, key = relationship["to"].partition(".")
                assert CONTRACTS[other].primary_key == (key,)
                named += 1
        for relationship in schema.get("relationships", ()):
            ours = [name.partition(".")[2] for name in relationship["from"]]
            theirs = [name.partition(".")[2] for name in relationship["to"]]
            assert set(ours) <= set(CONTRACTS[table].column_names)
            assert tuple(theirs) == CONTRACTS["flight_schedules"].primary_key
            named += 1
    assert named == 9


def test_no_rule_is_of_one_year_or_of_three_airports() -> None:
    for table in TABLES:
        rules = json.dumps(document(table)["schema"][0]["quality"])
        bound = [word for word in ("2013", "2014", "EWR", "JFK", "LGA") if word in rules]
        assert not bound, table


# What the rules find in the real year; a rule that is not named here finds nothing.
VIOLATIONS = {
    "flight_schedules": {"distance_at_least_25_miles": 1, "distance_at_least_50_miles": 1},
    "aircraft_assignments": {
        "tail_number_mostly_known": 2_512,
        "tail_number_starts_with_n": 4,
        "tail_number_is_an_n_number": 22_754,
    },
    "flight_events": {
        "actual_time_midnight_is_0000": 29 + 150,
        "departure_not_30_minutes_early": 3,
        "departure_delay_below_12_hours": 29,
        "arrival_delay_is_plausible": 2 + 29,
    },
    "weather": {"wind_speed_below_100_mph": 1, "temperature_mostly_known": 1, "pressure_mostly_known": 2_729},
    "planes": {
        "seats_of_an_airliner": 40,
        "engines_of_an_airliner": 27,
        "type_is_fixed_wing": 5,
        "made_since_1970": 8,
        "manufacture_year_mostly_known": 70,
        "speed_known": 3_299,
        "manufacturer_is_canonical": 400 + 117,
    },
    "airports": {
        "position_fits_utc_offset": 1,
        "north_american_rule_in_north_america": 2,
        "time_zone_known": 3,
        "time_zone_of_the_united_states": 4,
        "code_is_three_letters": 129,
        "name_is_of_an_airport": 27,
        "summer_time_fits_the_zone": 26,
    },
    "airlines": {},
}
REJECTED = {"flight_schedules": 1, "flight_events": 3, "planes": 42, "airports": 3}


@pytest.mark.parametrize("table", TABLES)
def test_the_rules_find_in_the_real_year_what_is_wrong_with_it(
    table: str, real: duckdb.DuckDBPyConnection
) -> None:
    contract = CONTRACTS[table]
    rules = compile_rules(contract)
    assert [rule.kind for rule in rules if rule.kind == "fallback"] == []
    (outcomes,) = evaluate(real, f"facts_{table}", rules, columns=contract.column_names).values()
    found = {
        rule.rule.name: outcome.unexpected_count
        for rule, outcome in zip(rules, outcomes, strict=True)
        if outcome.unexpected_count
    }
    assert found == VIOLATIONS[table]
    rejects = " OR ".join(
        f"coalesce({rule.bad}, false)" for rule in rules if rule.rejects and rule.kind == "row"
    )
    rejected = real.execute(f"SELECT count(*) FILTER ({rejects}) FROM facts_{table}").fetchall()[0][0]
    assert rejected == REJECTED.get(table, 0)


@pytest.mark.parametrize("table", facts.DAILY)
def test_every_row_belongs_to_its_partition_and_no_other(table: str, real: duckdb.DuckDBPyConnection) -> None:
    rule = CONTRACTS[table].partition_rule
    for shift, belonging in ((0, True), (-1, False), (1, False), (365, False)):
        wrong = real.execute(
            f"SELECT count(*) FROM (SELECT *, partition + {shift} AS partition_date FROM facts_{table}) "
            f"WHERE ({rule}) IS DISTINCT FROM {belonging}"
        ).fetchall()[0][0]
        assert (shift, wrong) == (shift, 0)


def rejected_of(contract: Contract, rows: str) -> list[str]:
    """Names of the rows (first column) that a rejecting rule of the contract refuses."""
    con = connect()
    con.execute(f"CREATE TABLE sample AS {rows}")
    bad = " OR ".join(
        f"coalesce({rule.bad}, false)"
        for rule in compile_rules(contract)
        if rule.rejects and rule.kind == "row"
    )
    name = contract.primary_key[0]
    return [row[0] for row in con.execute(f"SELECT {name} FROM sample WHERE {bad} ORDER BY 1").fetchall()]


def test_airports_of_other_countries_are_accepted() -> None:
    rows = """
        SELECT faa, faa AS name, latitude_degrees, longitude_degrees, 10 AS altitude_feet,
               utc_offset_hours::DOUBLE AS utc_offset_hours, dst, time_zone, now() AS known_at
        FROM (VALUES ('LHR', 51.47, -0.46, 0, 'E', 'Europe/London'), ('SYD', -33.95, 151.18, 10, 'O', 'Australia/Sydney'),
                     ('AKL', -37.01, 174.79, 12, 'Z', 'Pacific/Auckland'), ('KHG', 39.54, 76.02, 8, 'N', 'Asia/Shanghai'),
                     ('CXI', 1.99, -157.35, 14, 'N', 'Pacific/Kiritimati'), ('YYT', 47.62, -52.75, -3.5, 'A', 'America/St_Johns'),
                     ('SYA', 52.71, 174.11, -9, 'A', 'America/Anchorage'), ('GUM', 13.48, 144.80, 10, 'N', 'Pacific/Guam'),
                     ('NUL', 40.0, -100.0, NULL, NULL, NULL), ('DVT', 33.41, 112.46, 8, 'A', 'Asia/Chongqing'),
                     ('EEN', 72.27, 42.90, -5, 'A', NULL))
             AS t(faa, latitude_degrees, longitude_degrees, utc_offset_hours, dst, time_zone)"""
    assert rejected_of(CONTRACTS["airports"], rows) == ["DVT", "EEN"]


def test_aircraft_and_carriers_of_other_countries_are_accepted() -> None:
    planes = """
        SELECT tail_number, 1995 AS manufacture_year, type, 'DE HAVILLAND' AS manufacturer, 'DHC-8' AS model, 2 AS engines,
               seats, NULL::INTEGER AS speed_mph, 'Turbo-prop' AS engine_type, now() AS known_at
        FROM (VALUES ('C-GABC', 'Fixed wing multi engine', 37), ('N1', 'Rotorcraft', 50), ('ZK-NEA', NULL, NULL))
             AS t(tail_number, type, seats)"""
    assert rejected_of(CONTRACTS["planes"], planes) == ["N1"]
    carriers = "SELECT unnest(['Q9', 'ML (1)', '09Q']) AS carrier, 'A name' AS name, now() AS known_at"
    assert rejected_of(CONTRACTS["airlines"], carriers) == []


def test_a_shifted_departure_is_refused_and_the_ends_of_the_world_are_not() -> None:
    rows = """
        SELECT DATE '2019-06-01' AS service_date, carrier, 1 AS flight_number, 'XXX' AS origin, 'YYY' AS dest,
               300 AS distance_miles, 905 AS scheduled_departure_hhmm_local, 1010 AS scheduled_arrival_hhmm_local,
               9 AS scheduled_departure_hour_local, 5 AS scheduled_departure_minute_local, scheduled_departure_at::TIMESTAMPTZ
               AS scheduled_departure_at, TIMESTAMPTZ '2019-05-31 22:00:00Z' AS known_at
        FROM (VALUES ('kiribati', '2019-05-31 10:00:00Z'), ('samoa', '2019-06-02 11:59:00Z'),
                     ('shifted', '2019-06-04 09:05:00Z')) AS t(carrier, scheduled_departure_at)"""
    contract = CONTRACTS["flight_schedules"]
    con = connect()
    con.execute(f"CREATE TABLE sample AS {rows}")
    (rule,) = [one for one in compile_rules(contract) if one.rule.name == "departure_instant_near_its_date"]
    assert con.execute(f"SELECT carrier FROM sample WHERE {rule.bad}").fetchall() == [("shifted",)]
