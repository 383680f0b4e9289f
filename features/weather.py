"""station_weather: the last observation at an airport, with what the hours before it say.

An observation labelled with an hour is known an hour later: reports up to that hour's end go into it. One that comes
later than that counts from its delivery, and one that is more than six hours old by then tells nothing any more.
"""

from __future__ import annotations

from datetime import date, datetime, timedelta
from typing import TYPE_CHECKING

from contrail.windows import Revision, utc_literal
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


# A version that did not come on its feed's regular time.
_IRREGULAR = "(is_retracted OR created_at > known_at)"


def weather_sql(lo: datetime, hi: datetime, *, corrected: bool) -> str:
    """SQL for the rows with lo <= known_at < hi, over the view ``weather``.

    An observation counts from its known-at time or the creation of its version, whichever is later, until the version
    is replaced. A correction adds a version of every row of the six hours that it reaches; where a row was and no
    longer is, the observation before it answers, for as long as the row would have.

    Args:
        corrected: whether some observation has a version beside its regular one.

    Raises:
        WindowError: `lo` or `hi` has no zone.
    """
    hours = WEATHER_MAX_AGE // timedelta(hours=1)
    values = ", ".join(f"{column[0]} AS {name}" for name, column in _COLUMNS.items())
    known = ", ".join(f"k.{name}" for name in _COLUMNS)
    corrections = f"""UNION
  SELECT s.origin, e.seen_at, s.corrected_at FROM changed s JOIN versions e USING (origin)
  WHERE e.seen_at BETWEEN s.changed_at AND s.changed_at + INTERVAL {hours} HOUR
    AND e.seen_at < s.corrected_at AND e.created_at <= s.corrected_at"""
    return f"""
WITH versions AS (
  SELECT *, known_at AS seen_at, epoch_us(known_at) // 3600000000 AS hour,
    CASE WHEN {_IRREGULAR} THEN created_at END AS valid_from, lead(created_at) OVER observation AS valid_to,
    lag(known_at) OVER observation AS earlier_seen_at
  FROM weather
  WHERE known_at >= {utc_literal(lo - LOOK_BACK)} AND known_at < {utc_literal(hi)}
  WINDOW observation AS (PARTITION BY origin, observed_hour_at ORDER BY created_at)),
changed AS (
  SELECT DISTINCT origin, valid_from AS corrected_at, unnest([seen_at, earlier_seen_at]) AS changed_at
  FROM versions WHERE valid_from IS NOT NULL),
instants AS (
  SELECT origin, seen_at AS answers_at, seen_at AS as_of FROM versions
  WHERE NOT is_retracted AND coalesce(valid_from <= seen_at, true) AND coalesce(seen_at < valid_to, true)
  {corrections if corrected else ""}),
wanted AS (
  FROM instants WHERE answers_at >= {utc_literal(lo)} AND answers_at < {utc_literal(hi)}),
newest AS (
  SELECT w.answers_at, w.as_of, v.* FROM wanted w JOIN versions v ON v.origin = w.origin
    AND v.seen_at <= w.answers_at AND v.seen_at >= w.answers_at - INTERVAL {hours} HOUR AND {_valid("v", "w.as_of")}
  QUALIFY row_number() OVER (
    PARTITION BY v.origin, w.answers_at, w.as_of ORDER BY v.seen_at DESC, v.observed_hour_at DESC) = 1),
nearby AS (SELECT *, hour - unnest(range({hours + 1})) AS other_hour FROM newest),
known AS (
  SELECT n.origin, n.answers_at, n.as_of, {values}
  FROM nearby n JOIN versions o ON o.origin = n.origin AND o.hour = n.other_hour
    AND o.seen_at <= n.seen_at AND o.seen_at >= n.seen_at - INTERVAL {hours} HOUR AND {_valid("o", "n.as_of")}
  GROUP BY n.origin, n.answers_at, n.as_of),
rows_out AS (
  SELECT w.origin, w.answers_at AS known_at, w.as_of AS created_at, {known}
  FROM wanted w LEFT JOIN known k USING (origin, answers_at, as_of))
"""


def _valid(version: str, as_of: str) -> str:
    return (
        f"NOT {version}.is_retracted AND coalesce({version}.valid_from <= {as_of}, true) "
        f"AND coalesce({as_of} < {version}.valid_to, true)"
    )


def _build(
    con: DuckDBPyConnection, lo: datetime, hi: datetime, created_from: datetime | None = None
) -> DuckDBPyRelation:
    span = f"known_at >= {utc_literal(lo - LOOK_BACK)} AND known_at < {utc_literal(hi)}"
    irregular = con.sql(f"SELECT 1 FROM weather WHERE {_IRREGULAR} AND {span} LIMIT 1").fetchone()
    rows = weather_sql(lo, hi, corrected=irregular is not None)
    return con.sql(rows + published(("origin",), tuple(_COLUMNS), "rows_out", lo, hi, created_from))


def _revise(
    con: DuckDBPyConnection, days: tuple[date, date] | None, built_until: datetime
) -> Revision | None:
    among = f"AND feed_date BETWEEN DATE '{days[0]}' AND DATE '{days[1]}'" if days else ""
    row = con.sql(
        f"SELECT min(known_at), max(known_at), min(greatest(known_at, created_at)) FROM weather "
        f"ANTI JOIN weather_before USING (origin, observed_hour_at, created_at) "
        f"WHERE ({_IRREGULAR} OR known_at < {utc_literal(built_until)}) {among}"
    ).fetchone()
    if row is None or row[0] is None:
        return None
    # An observation that was moved to another hour is known within a feed day of where it was.
    return Revision(row[0] - timedelta(days=1), row[1] + timedelta(days=1) + WEATHER_MAX_AGE, row[2])


STATION_WEATHER = FeatureTable(
    name="station_weather", entity="origin", keys=("origin",), look_back=LOOK_BACK, max_age=WEATHER_MAX_AGE, grid=None,
    columns=tuple(
        FeatureColumn(name, "DOUBLE", unit, f"{words}, at the airport of origin.", _KNOWN, window)
        for name, (_, unit, words, window) in _COLUMNS.items()
    ),
    description="The last hourly observation at each airport of origin; it answers for six hours, then for nothing.",
    sources=(WEATHER,), build=_build, revise=_revise,
)  # fmt: skip
