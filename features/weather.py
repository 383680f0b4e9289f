"""station_weather: the last observation at an airport, with what the hours before it say.

An observation labelled with an hour is known an hour later: reports up to that hour's end go into it. One that comes
later than that counts from its delivery, and one that is more than six hours old by then tells nothing any more.
"""

from __future__ import annotations

from datetime import datetime, timedelta
from typing import TYPE_CHECKING

from contrail.windows import utc_literal
from features.declarations import WEATHER, FeatureColumn, FeatureTable, published

if TYPE_CHECKING:
    from duckdb import DuckDBPyConnection, DuckDBPyRelation

WEATHER_MAX_AGE = timedelta(hours=6)
SHORT_WINDOW = timedelta(hours=3)
LOOK_BACK = 2 * WEATHER_MAX_AGE

_KNOWN = "the observation's hour + 60 min"
# column: (SQL, unit, words, window); n.* is the newest observation, o.* one of the last six hours up to it
_RECENT = f"FILTER (o.seen_at >= n.seen_at - INTERVAL {SHORT_WINDOW // timedelta(hours=1)} HOUR)"
# Sums and differences are taken of integers: ten thousandths of an inch (a trace is one), hundredths of a millibar.
_COLUMNS: dict[str, tuple[str, str, str, str]] = {
    "weather_temp_f": ("any_value(n.temperature_f)", "°F", "Temperature", ""),
    "weather_humid_pct": ("any_value(n.humidity_percent)", "%", "Relative humidity", ""),
    "weather_wind_mph": ("any_value(n.wind_speed_mph)", "mph", "Wind speed", ""),
    "weather_wind_sin": (
        "any_value(sin(radians(n.wind_direction_degrees)))", "1",
        "Sine of the wind's direction (from the east 1); null when calm or variable", "",
    ),
    "weather_wind_cos": (
        "any_value(cos(radians(n.wind_direction_degrees)))", "1",
        "Cosine of the wind's direction (from the north 1); null when calm or variable", "",
    ),
    "weather_precip_3h_in": (
        f"(sum(round(o.precipitation_inches * 10000)::BIGINT) {_RECENT})::BIGINT / 10000.0::DOUBLE", "in",
        "Precipitation, sum of the observations of the last 3 h", "3 h, both ends",
    ),
    "weather_visib_min_3h_mi": (
        f"min(o.visibility_miles) {_RECENT}", "mi", "Least visibility of the observations of the last 3 h",
        "3 h, both ends",
    ),
    "weather_pressure_mb": (
        "arg_max(o.pressure_millibars, o.seen_at)", "mb",
        "Last pressure reported in 6 h (a missing one is filled: its absence must not mean a storm)", "6 h, both ends",
    ),
    "weather_pressure_change_6h_mb": (
        ("(arg_max(round(o.pressure_millibars * 100)::BIGINT, o.seen_at)"
         " - arg_min(round(o.pressure_millibars * 100)::BIGINT, o.seen_at))::BIGINT / 100.0::DOUBLE"), "mb",
        "Last pressure reported in 6 h less the first", "6 h, both ends",
    ),
}  # fmt: skip


def weather_sql(lo: datetime, hi: datetime) -> str:
    """SQL for the rows with lo <= known_at < hi, over the view ``weather``.

    Raises:
        WindowError: `lo` or `hi` has no zone.
    """
    hours = WEATHER_MAX_AGE // timedelta(hours=1)
    values = ", ".join(f"{column[0]} AS {name}" for name, column in _COLUMNS.items())
    first_seen = utc_literal(lo - LOOK_BACK)
    return f"""
WITH observations AS (
  SELECT *, known_at AS seen_at, greatest(known_at, created_at) AS counts_at,
    epoch_us(known_at) // 3600000000 AS hour
  FROM weather
  WHERE known_at >= {first_seen} AND known_at < {utc_literal(hi)} AND NOT is_retracted
  QUALIFY row_number() OVER (PARTITION BY origin, known_at ORDER BY observed_hour_at DESC, created_at) = 1),
usable AS (SELECT * FROM observations WHERE counts_at <= seen_at + INTERVAL {hours} HOUR),
instants AS (
  SELECT origin, counts_at, max(newest) AS seen_at FROM (
    SELECT origin, counts_at, max(seen_at) OVER (PARTITION BY origin ORDER BY counts_at) AS newest FROM usable)
  GROUP BY origin, counts_at),
newest AS (
  SELECT i.counts_at AS at_instant, u.* FROM instants i JOIN usable u USING (origin, seen_at)),
nearby AS (
  SELECT *, hour - unnest(range({hours + 1})) AS other_hour FROM newest),
rows_out AS (
  SELECT n.origin, n.at_instant, {values}
  FROM nearby n JOIN usable o ON o.origin = n.origin AND o.hour = n.other_hour
    AND o.seen_at <= n.seen_at AND o.seen_at >= n.seen_at - INTERVAL {hours} HOUR AND o.counts_at <= n.at_instant
  GROUP BY n.origin, n.at_instant)
{published("origin", "at_instant", ", ".join(_COLUMNS), "rows_out", utc_literal(lo), utc_literal(hi))}"""


def _build(con: DuckDBPyConnection, lo: datetime, hi: datetime) -> DuckDBPyRelation:
    return con.sql(weather_sql(lo, hi))


STATION_WEATHER = FeatureTable(
    name="station_weather", entity="origin", keys=("origin",), look_back=LOOK_BACK, max_age=WEATHER_MAX_AGE, grid=None,
    columns=tuple(
        FeatureColumn(name, "DOUBLE", unit, f"{words}, at the airport of origin.", _KNOWN, window)
        for name, (_, unit, words, window) in _COLUMNS.items()
    ),
    description="The last hourly observation at each airport of origin; it answers for six hours, then for nothing.",
    sources=(WEATHER,), build=_build,
)  # fmt: skip
