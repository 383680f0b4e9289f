"""Structural canaries: what is known only after T is changed or taken away, and nothing at or before T may move.

A metric does not see most leaks; this does. A `World` is a session with the clean tables; the true one is compared with
one in which everything after T happened otherwise, and with one in which it has not happened yet.
"""

from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime, timedelta

import duckdb
import pyarrow as pa

from contrail.windows import utc_literal
from features.request_time import FEATURE_ORDER, REQUEST_COLUMNS, request_time_features
from features.tables import FEATURE_TABLES
from features.vectors import VIEW_FEATURES, fill_priors
from tests.support import nyc_clean

Values = Callable[[duckdb.DuckDBPyConnection], pa.Table]


class Moved(AssertionError):
    """A value at or before T depends on something that became known after T."""


@dataclass(frozen=True)
class Worlds:
    """Sessions that agree on everything known at T."""

    at: datetime
    true: duckdb.DuckDBPyConnection
    scrambled: duckdb.DuckDBPyConnection
    truncated: duckdb.DuckDBPyConnection


def worlds_at(con: duckdb.DuckDBPyConnection, at: datetime) -> Worlds:
    """The true world of `con` (tables ``departures`` and ``weather``), and two that differ only after `at`."""
    after = utc_literal(at)
    scrambled = nyc_clean.session()
    truncated = nyc_clean.session()
    for name in ("departures", "weather"):
        rows = con.table(name).to_arrow_table()
        for world in (scrambled, truncated):
            world.register(f"true_{name}", rows)
    # What has not happened at T happens otherwise: every fifth flight is cancelled, cancelled ones fly, tails change.
    scrambled.execute(f"""
CREATE TABLE departures AS
WITH fate AS (
  SELECT *, scheduled_departure_at > {after} AND coalesce(departed_known_at > {after}, true)
    AND flight_number % 5 = 0 AND NOT is_cancelled AS falls_out,
    is_cancelled AND cancelled_known_at > {after} AS flies_after_all
  FROM true_departures)
SELECT * EXCLUDE (falls_out, flies_after_all) REPLACE (
  CASE WHEN tail_known_at > {after} THEN 'N' || (flight_number % 97) ELSE tail_number END AS tail_number,
  CASE WHEN falls_out THEN NULL WHEN flies_after_all THEN scheduled_departure_at + INTERVAL 20 MINUTE
    WHEN departed_known_at > {after} THEN departed_known_at + INTERVAL 37 MINUTE ELSE departed_known_at END
    AS departed_known_at,
  CASE WHEN falls_out THEN NULL WHEN flies_after_all THEN 20
    WHEN departed_known_at > {after} THEN departure_delay_minutes + 37 ELSE departure_delay_minutes END
    AS departure_delay_minutes,
  CASE WHEN falls_out THEN NULL WHEN arrived_known_at > {after} THEN arrived_known_at + INTERVAL 53 MINUTE
    ELSE arrived_known_at END AS arrived_known_at,
  CASE WHEN falls_out THEN NULL WHEN arrived_known_at > {after} THEN 7 - arrival_delay_minutes
    ELSE arrival_delay_minutes END AS arrival_delay_minutes,
  (is_cancelled OR falls_out) AND NOT flies_after_all AS is_cancelled,
  CASE WHEN falls_out THEN scheduled_departure_at WHEN NOT flies_after_all THEN cancelled_known_at END
    AS cancelled_known_at,
  CASE WHEN outcome_known_at > {after} THEN NOT is_disrupted ELSE is_disrupted END AS is_disrupted,
  CASE WHEN outcome_known_at > {after} THEN outcome_known_at + INTERVAL 11 MINUTE ELSE outcome_known_at END
    AS outcome_known_at)
FROM fate;
CREATE TABLE weather AS
SELECT * REPLACE (
  CASE WHEN known_at > {after} THEN temperature_f + 40 ELSE temperature_f END AS temperature_f,
  CASE WHEN known_at > {after} THEN humidity_percent / 2 ELSE humidity_percent END AS humidity_percent,
  CASE WHEN known_at > {after} THEN wind_speed_mph + 30 ELSE wind_speed_mph END AS wind_speed_mph,
  CASE WHEN known_at > {after} THEN 0.5 ELSE precipitation_inches END AS precipitation_inches,
  CASE WHEN known_at > {after} THEN 0.25 ELSE visibility_miles END AS visibility_miles,
  CASE WHEN known_at > {after} THEN 960.0 ELSE pressure_millibars END AS pressure_millibars)
FROM true_weather""")

    def known(*columns: str, when: str) -> str:
        return ", ".join(f"CASE WHEN {when} <= {after} THEN {column} END AS {column}" for column in columns)

    truncated.execute(f"""
CREATE TABLE departures AS
SELECT * REPLACE (
  {known("tail_number", "tail_known_at", when="tail_known_at")},
  {known("departed_at", "departed_known_at", "departure_delay_minutes", when="departed_known_at")},
  {known("arrived_at", "arrived_known_at", "arrival_delay_minutes", when="arrived_known_at")},
  coalesce(cancelled_known_at <= {after}, false) AS is_cancelled, {known("cancelled_known_at", when="cancelled_known_at")},
  coalesce(diverted_known_at <= {after}, false) AS is_diverted, {known("diverted_known_at", when="diverted_known_at")},
  {known("is_disrupted", "is_late", "outcome_known_at", when="outcome_known_at")})
FROM true_departures WHERE schedule_known_at <= {after};
CREATE TABLE weather AS SELECT * FROM true_weather WHERE known_at <= {after}""")
    return Worlds(at, con, scrambled, truncated)


def assert_nothing_moves_at_or_before(worlds: Worlds, values: Values) -> int:
    """Compare the values of the true world with those of the others, bit by bit; returns how many rows there were.

    Args:
        values: reads from a world the rows whose known-at or decision time is at or before ``worlds.at``.

    Raises:
        Moved: a row differs.
    """
    expected = values(worlds.true)
    assert expected.num_rows > 0, "there is nothing to compare"
    con = nyc_clean.session()
    con.register("expected", expected)
    for name in ("scrambled", "truncated"):
        con.register("found", values(getattr(worlds, name)))
        moved = con.sql(
            "SELECT count(*) FROM ((FROM expected EXCEPT ALL FROM found) UNION ALL (FROM found EXCEPT ALL FROM expected))"
        ).fetchone()
        if moved and moved[0]:
            raise Moved(
                f"{moved[0]} of {expected.num_rows} rows at or before {worlds.at} differ once what follows is {name}"
            )
    return expected.num_rows


def spine_sql(first: datetime, last: datetime) -> str:
    """Requests decided 2 h before departure in [first, last], with what is known of them at their decision."""
    return f"""
SELECT departure_id, service_date, carrier, flight_number, origin, dest, scheduled_departure_at,
  scheduled_departure_minute_local, 'all' AS network, decision_at,
  CASE WHEN tail_known_at <= decision_at THEN tail_number END AS tail_number
FROM (SELECT *, scheduled_departure_at - INTERVAL 2 HOUR AS decision_at FROM departures)
WHERE decision_at BETWEEN {utc_literal(first)} AND {utc_literal(last)}"""


def vectors(con: duckdb.DuckDBPyConnection, spine: str, first: datetime, last: datetime) -> pa.Table:
    """departure_id, decision_at and the 62 features of a spine whose decisions lie in [first, last]."""
    joins, columns = "", []
    for name, table in FEATURE_TABLES.items():
        built = table.build(con, first - table.max_age, last + timedelta(hours=1)).to_arrow_table()
        con.register(f"rows_{name}", built)
        keys = " AND ".join(f"d.{key} = {name}.{key}" for key in table.keys)
        joins += f" ASOF LEFT JOIN rows_{name} {name} ON {keys} AND d.decision_at >= {name}.known_at"
        young = f"d.decision_at - {name}.known_at <= INTERVAL {int(table.max_age.total_seconds())} SECOND"
        columns += [
            f"CASE WHEN {young} THEN {name}.{column} END AS {column}" for column in VIEW_FEATURES[name]
        ]
    request = ", ".join(f"d.{name}" for name in ("departure_id", *REQUEST_COLUMNS))
    looked_up = con.sql(
        f"SELECT {request}, {', '.join(columns)} FROM ({spine}) d {joins} ORDER BY departure_id"
    ).to_arrow_table()
    found = {name: looked_up[name] for name in looked_up.column_names}
    values = {**fill_priors(found), **request_time_features(found)}
    named = {name: values[name] for name in ("departure_id", "decision_at", *FEATURE_ORDER)}
    return pa.table(named)
