"""From flights and weather to dated facts: what happened, when in UTC, and when it was known.

Every relation here has the columns of its contract, in the contract's order, and `known_at` to the minute.

How a local time becomes an instant:

* A departure is scheduled at `hour`:`minute` on the wall clock of its origin, in the zone that the airports table gives
  for it. `time_hour` is believed where it names a zone and says the same hour (in the night when clocks go back it
  alone tells the two hours apart); anyflights writes the wall clock with a Z there, which would be hours wrong.
* An arrival is scheduled on the wall clock of its destination: on the first of the days −1, 0, +1, +2 that puts it more
  than 15 minutes after the scheduled departure. 2400 is midnight at the end of the day. Four airports that the usual
  airports table lacks have their zone here, used only where the table has none; any other unknown destination counts as
  lying in its origin's zone.
* An observed hour is what `time_hour` says. Only where in most rows it is the row's own hour neither on the wall clock
  nor in UTC, the row's own hour counts and is UTC: so anyflights leaves it in a session of another zone.
"""

from __future__ import annotations

import duckdb

from sources.nycflights_tables import SourceError

FEED_DAY_STARTS_HOUR = 7
"""A feed day D is [07:00 UTC of D, 07:00 UTC of D + 1)."""
SCHEDULE_KNOWN_HOURS = -2
"""The schedule of a service date is known, and delivered, at 22:00 UTC of the day before."""
ASSIGNMENT_KNOWN_HOURS = -2
"""Which aircraft flies is known two hours before the scheduled departure (an assumption)."""
DIVERSION_KNOWN_MINUTES = 15
"""A diversion is known when the flight is overdue by this much (an assumption)."""
WEATHER_KNOWN_MINUTES = 60
"""An observed hour is put together from all its reports, so it is known when the hour is over."""
MISSING_ZONES = dict.fromkeys(("SJU", "BQN", "STT", "PSE"), "America/Puerto_Rico")
"""Airports that the usual airports table lacks; used only where it does."""

HOURLY = ("aircraft_assignments", "flight_events", "weather")
"""The tables that can be landed by the hour in which their rows became known."""
DAILY = ("flight_schedules", "aircraft_assignments", "flight_events", "weather")
REFERENCE = ("planes", "airports", "airlines")

KEYS = {
    "flight_schedules": ("service_date", "carrier", "flight_number", "origin"),
    "aircraft_assignments": ("service_date", "carrier", "flight_number", "origin"),
    "flight_events": ("service_date", "carrier", "flight_number", "origin", "event"),
    "weather": ("origin", "observed_hour_at"),
    "planes": ("tail_number",),
    "airports": ("faa",),
    "airlines": ("carrier",),
}

_NAMES_A_ZONE = r"\d{2}:\d{2}.*(Z|[+-]\d{2}(:?\d{2})?)$"

_ZONES = f"""
CREATE OR REPLACE TEMP TABLE zones AS
WITH valid AS (SELECT name FROM pg_timezone_names()),
known AS (SELECT faa, min(valid.name) AS zone FROM source_airports LEFT JOIN valid ON valid.name = tzone
          WHERE faa IS NOT NULL GROUP BY faa),
patch AS (SELECT unnest({list(MISSING_ZONES)}) AS faa, unnest({list(MISSING_ZONES.values())}) AS zone)
SELECT faa, coalesce(known.zone, patch.zone) AS zone FROM known FULL JOIN patch USING (faa)
"""

# Converting a wall clock costs microseconds a row, so each zone's half hours are converted once; zones change their
# offset on the half hour.
_CLOCKED = """
CREATE OR REPLACE TEMP TABLE clocked AS
SELECT f.*, TRY(make_date(year, month, day)) AS service_date,
       o.zone AS origin_zone, coalesce(d.zone, o.zone) AS dest_zone,
       service_date::TIMESTAMP + to_hours(hour) AS hour_local,
       hour_local + to_minutes(minute) AS departs_local,
       service_date::TIMESTAMP + to_minutes((sched_arr_time // 100) * 60 + sched_arr_time % 100) AS arrives_local,
       time_bucket(INTERVAL 30 MINUTE, departs_local) AS departs_half_hour,
       time_bucket(INTERVAL 30 MINUTE, arrives_local) AS arrives_half_hour
FROM source_flights f LEFT JOIN zones o ON o.faa = origin LEFT JOIN zones d ON d.faa = dest
"""
_WALL = """
CREATE OR REPLACE TEMP TABLE wall AS
SELECT zone, half_hour, timezone(zone, half_hour) AS starts_at
FROM (SELECT DISTINCT origin_zone AS zone, departs_half_hour AS half_hour FROM clocked
      UNION SELECT DISTINCT dest_zone, arrives_half_hour FROM clocked)
WHERE zone IS NOT NULL AND half_hour IS NOT NULL
"""

_DEPARTURES = f"""
CREATE OR REPLACE TEMP TABLE departures AS
WITH departing AS (
  SELECT c.*,
         d.starts_at + (departs_local - departs_half_hour) AS departs_by_the_clock,
         a.starts_at + (arrives_local - arrives_half_hour) AS arrives_by_the_clock,
         CASE WHEN regexp_matches(time_hour, '{_NAMES_A_ZONE}') THEN TRY_CAST(time_hour AS TIMESTAMPTZ) END AS stated,
         CASE WHEN stated + to_minutes(minute) = departs_by_the_clock THEN true
              WHEN stated IS NULL OR origin_zone IS NULL THEN stated IS NOT NULL
              ELSE coalesce(timezone(origin_zone, stated) = hour_local, false) END AS is_stated_right,
         CASE WHEN is_stated_right THEN date_trunc('minute', stated) + to_minutes(minute)
              ELSE coalesce(departs_by_the_clock, timezone('UTC', departs_local)) END AS scheduled_departure_at
  FROM clocked c LEFT JOIN wall d ON d.zone = origin_zone AND d.half_hour = departs_half_hour
                 LEFT JOIN wall a ON a.zone = dest_zone AND a.half_hour = arrives_half_hour),
arriving AS (
  SELECT *,
         scheduled_departure_at + INTERVAL 15 MINUTE AS earliest,
         -- Without any zone the destination is taken to be as far from UTC as the origin is.
         departs_local - timezone('UTC', scheduled_departure_at) AS origin_offset,
         coalesce(arrives_by_the_clock, timezone('UTC', arrives_local - origin_offset)) AS same_day,
         coalesce(dest_zone, 'UTC') AS clock,
         CASE WHEN dest_zone IS NULL THEN arrives_local - origin_offset ELSE arrives_local END AS reading
  FROM departing)
SELECT * EXCLUDE (departs_half_hour, arrives_half_hour, departs_by_the_clock, arrives_by_the_clock, stated, earliest,
                  origin_offset, same_day, clock, reading),
       -- The day before is looked at only where it can be right, up to two hours of clock change included.
       CASE WHEN same_day - INTERVAL 22 HOUR > earliest
                 THEN CASE WHEN timezone(clock, reading - INTERVAL 1 DAY) > earliest
                           THEN timezone(clock, reading - INTERVAL 1 DAY) ELSE same_day END
            WHEN same_day > earliest THEN same_day
            WHEN timezone(clock, reading + INTERVAL 1 DAY) > earliest THEN timezone(clock, reading + INTERVAL 1 DAY)
            ELSE timezone(clock, reading + INTERVAL 2 DAY) END AS scheduled_arrival_at,
       -- Of a fact whose instant cannot be told it is only sure that it came with its day's file.
       service_date::TIMESTAMPTZ + INTERVAL {24 + FEED_DAY_STARTS_HOUR} HOUR - INTERVAL 1 MINUTE AS known_at_the_latest
FROM arriving
"""

_KEY = "service_date, carrier, flight AS flight_number, origin"

_FACTS = {
    "flight_schedules": f"""
SELECT {_KEY}, dest, distance AS distance_miles, sched_dep_time AS scheduled_departure_hhmm_local,
       sched_arr_time AS scheduled_arrival_hhmm_local, hour AS scheduled_departure_hour_local,
       minute AS scheduled_departure_minute_local, scheduled_departure_at,
       service_date::TIMESTAMPTZ + INTERVAL ({SCHEDULE_KNOWN_HOURS}) HOUR AS known_at
FROM departures""",
    "aircraft_assignments": f"""
SELECT {_KEY}, tailnum AS tail_number,
       coalesce(scheduled_departure_at + INTERVAL ({ASSIGNMENT_KNOWN_HOURS}) HOUR, known_at_the_latest) AS known_at
FROM departures""",
    "flight_events": f"""
SELECT {_KEY}, 'departed' AS event, dep_time AS actual_hhmm_local, dep_delay AS delay_minutes,
       NULL::INTEGER AS air_time_minutes,
       coalesce(scheduled_departure_at + to_minutes(dep_delay), known_at_the_latest) AS known_at
FROM departures WHERE dep_time IS NOT NULL
UNION ALL
SELECT {_KEY}, 'arrived', arr_time, arr_delay, air_time,
       coalesce(scheduled_arrival_at + to_minutes(arr_delay), known_at_the_latest)
FROM departures WHERE arr_delay IS NOT NULL
UNION ALL
SELECT {_KEY}, 'cancelled', NULL, NULL, NULL, coalesce(scheduled_departure_at, known_at_the_latest)
FROM departures WHERE dep_time IS NULL
UNION ALL
SELECT {_KEY}, 'diverted', arr_time, NULL, NULL,
       coalesce(scheduled_arrival_at + INTERVAL {DIVERSION_KNOWN_MINUTES} MINUTE, known_at_the_latest)
FROM departures WHERE dep_time IS NOT NULL AND arr_delay IS NULL""",
    "weather": f"""
SELECT origin, observed_hour_at, temp AS temperature_f, dewp AS dew_point_f, humid AS humidity_percent,
       wind_dir AS wind_direction_degrees, wind_speed AS wind_speed_mph, wind_gust AS wind_gust_mph,
       precip AS precipitation_inches, pressure AS pressure_millibars, visib AS visibility_miles,
       observed_hour_at + INTERVAL {WEATHER_KNOWN_MINUTES} MINUTE AS known_at
FROM observations""",
    "planes": """
SELECT tailnum AS tail_number, year AS manufacture_year, type, manufacturer, model, engines, seats, speed AS speed_mph,
       engine AS engine_type, first_feed_day_at AS known_at
FROM source_planes, span""",
    "airports": """
SELECT faa, name, lat AS latitude_degrees, lon AS longitude_degrees, alt AS altitude_feet, tz AS utc_offset_hours,
       dst, tzone AS time_zone, first_feed_day_at AS known_at
FROM source_airports, span""",
    "airlines": """
SELECT carrier, name, first_feed_day_at AS known_at FROM source_airlines, span""",
}


def build(con: duckdb.DuckDBPyConnection) -> tuple[str, ...]:
    """Make a view ``facts_<table>`` for each landed table, and ``span`` (first and last day), from the source tables.

    The views' columns are those of the contracts, then `partition` (DATE; null for reference tables).
    Returns notes on times that were not as they should be.

    Raises:
        SourceError: flights or observations without a date, or no flights at all.
    """
    con.execute(_ZONES)
    con.execute(_CLOCKED)
    flights, undated = con.execute(
        "SELECT count(*), count(*) FILTER (service_date IS NULL) FROM clocked"
    ).fetchall()[0]
    if not flights:
        raise SourceError("flights: the table has no rows, so there is nothing to land")
    if undated:
        raise SourceError(
            f"flights: {undated} rows have no valid year, month and day, so no file can hold them"
        )
    con.execute(_WALL)
    con.execute(_DEPARTURES)
    notes = list(_observations(con))
    for table in DAILY:
        day = "service_date" if table == "flight_schedules" else _feed_day("known_at")
        con.execute(
            f"CREATE OR REPLACE TEMP VIEW facts_{table} AS SELECT *, {day} AS partition FROM ({_FACTS[table]})"
        )
    ends = " UNION ALL ".join(
        f"SELECT min(known_at) AS since, max(known_at) AS until FROM facts_{table}" for table in HOURLY
    )
    con.execute(f"""
CREATE OR REPLACE TEMP TABLE span AS
WITH feeds AS (SELECT min({_feed_day("since")}) AS first, max({_feed_day("until")}) AS last FROM ({ends})),
schedule AS (SELECT min(service_date) AS first, max(service_date) AS last FROM departures)
SELECT least(f.first, s.first) AS first, greatest(f.last, s.last) AS last,
       least(f.first, s.first)::TIMESTAMPTZ + INTERVAL {FEED_DAY_STARTS_HOUR} HOUR AS first_feed_day_at
FROM feeds f, schedule s""")
    for table in REFERENCE:
        con.execute(
            f"CREATE OR REPLACE TEMP VIEW facts_{table} AS SELECT *, NULL::DATE AS partition FROM ({_FACTS[table]})"
        )
    return (*notes, *_departure_notes(con))


def _feed_day(instant: str) -> str:
    return f"({instant} - INTERVAL {FEED_DAY_STARTS_HOUR} HOUR)::DATE"


def _departure_notes(con: duckdb.DuckDBPyConnection) -> list[str]:
    notes: list[str] = []
    distrusted = _one(con, "SELECT count(*) FROM departures WHERE NOT is_stated_right")
    if distrusted:
        notes.append(
            f"flights: time_hour is not the UTC hour in {distrusted} rows; the origin's wall clock counts there"
        )
    origins = _one(con, "SELECT count(DISTINCT origin) FROM departures WHERE origin_zone IS NULL")
    if origins:
        notes.append(f"airports: {origins} origins have no time zone; their time_hour is believed")
    dests = _one(
        con, "SELECT count(DISTINCT dest) FROM departures LEFT JOIN zones ON faa = dest WHERE zone IS NULL"
    )
    if dests:
        notes.append(f"airports: {dests} destinations have no time zone; their origin's is assumed")
    return notes


_OBSERVED = f"""
CREATE OR REPLACE TEMP TABLE observed AS
SELECT w.*, zone, TRY(make_timestamp(year, month, day, hour, 0, 0)) AS own_hour,
       regexp_matches(time_hour, '{_NAMES_A_ZONE}') AS names_a_zone,
       date_trunc('minute', TRY_CAST(time_hour AS TIMESTAMPTZ)) AS stated,
       coalesce(timezone('UTC', stated) = own_hour, false) OR coalesce(timezone(zone, stated) = own_hour, false)
         AS agrees
FROM source_weather w LEFT JOIN zones ON faa = origin
"""


def _observations(con: duckdb.DuckDBPyConnection) -> tuple[str, ...]:
    con.execute(_OBSERVED)
    rows, agreeing = con.execute(
        "SELECT count(*), count(*) FILTER (agrees OR own_hour IS NULL) FROM observed"
    ).fetchall()[0]
    believes_stated = agreeing * 2 >= rows
    # A time without a zone is a wall clock, like the other columns of this schema.
    stated = (
        "CASE WHEN names_a_zone THEN stated ELSE timezone(coalesce(zone, 'UTC'), timezone('UTC', stated)) END"
    )
    own = "timezone('UTC', own_hour)"
    preferred = f"{stated}, {own}" if believes_stated else f"{own}, {stated}"
    con.execute(
        "CREATE OR REPLACE TEMP TABLE observations AS "
        f"SELECT *, coalesce({preferred}) AS observed_hour_at FROM observed"
    )
    undated = _one(con, "SELECT count(*) FROM observations WHERE observed_hour_at IS NULL")
    if undated:
        raise SourceError(
            f"weather: {undated} rows have neither a time_hour nor a valid year, month, day and hour"
        )
    if believes_stated:
        return ()
    return (
        f"weather: time_hour is not the hour of {rows - agreeing} of {rows} rows; their own hour is taken as UTC",
    )


def _one(con: duckdb.DuckDBPyConnection, query: str) -> int:
    row = con.execute(query).fetchone()
    return int(row[0]) if row else 0
