"""Single rows of the clean tables, made by hand: one departure or observation with the facts a test is about."""

from datetime import UTC, datetime, timedelta
from typing import Any

import duckdb
import pyarrow as pa

from tests.support import nyc_clean

INSTANT = pa.timestamp("us", tz="UTC")
DEPARTURE_SCHEMA = pa.schema(
    [
        *((name, pa.string()) for name in ("departure_id", "carrier", "origin", "dest", "tail_number")),
        ("service_date", pa.date32()),
        *((name, INSTANT) for name in (
            "scheduled_departure_at", "scheduled_arrival_at", "schedule_known_at", "tail_known_at", "departed_known_at",
            "arrived_known_at", "cancelled_known_at", "diverted_known_at", "outcome_known_at", "known_at", "created_at",
        )),
        *((name, pa.int32()) for name in (
            "flight_number", "scheduled_departure_minute_local", "scheduled_block_minutes", "departure_delay_minutes",
            "arrival_delay_minutes",
        )),
        *((name, pa.bool_()) for name in ("is_disrupted", "is_cancelled", "is_diverted", "is_retracted")),
    ]
)  # fmt: skip
WEATHER_NUMBERS = (
    "temperature_f", "dew_point_f", "humidity_percent", "wind_direction_degrees", "wind_speed_mph", "wind_gust_mph",
    "precipitation_inches", "pressure_millibars", "visibility_miles",
)  # fmt: skip
WEATHER_SCHEMA = pa.schema(
    [
        ("origin", pa.string()),
        *((name, INSTANT) for name in ("observed_hour_at", "known_at", "created_at")),
        ("is_retracted", pa.bool_()),
        *((name, pa.float64()) for name in WEATHER_NUMBERS),
    ]
)

BLOCK = timedelta(minutes=120)


def utc(text: str) -> datetime:
    """``2013-03-08 20:15`` as an instant."""
    return datetime.fromisoformat(text).replace(tzinfo=UTC)


def departure(scheduled: str, number: int = 1, **facts: Any) -> dict[str, Any]:
    """A departure; with ``delay=`` it departed, with ``arrival_delay=`` it landed, with ``cancelled=True`` neither.

    Further facts override columns by their name.
    """
    at = utc(scheduled)
    row: dict[str, Any] = dict.fromkeys(DEPARTURE_SCHEMA.names)
    day = (at - timedelta(hours=5)).date()
    delay, arrival_delay = facts.pop("delay", None), facts.pop("arrival_delay", None)
    known = datetime(day.year, day.month, day.day, tzinfo=UTC) - timedelta(hours=2)
    row |= {
        "departure_id": f"{day:%Y%m%d}-XX-{number}-AAA", "carrier": "XX", "origin": "AAA", "dest": "BBB",
        "flight_number": number, "service_date": day, "scheduled_departure_at": at, "scheduled_arrival_at": at + BLOCK,
        "scheduled_departure_minute_local": 600, "scheduled_block_minutes": BLOCK // timedelta(minutes=1),
        "schedule_known_at": known, "known_at": known, "created_at": known,
        "is_cancelled": False, "is_diverted": False, "is_retracted": False,
    }  # fmt: skip
    if delay is not None:
        row |= {"departure_delay_minutes": delay, "departed_known_at": at + timedelta(minutes=delay)}
    if arrival_delay is not None:
        row |= {
            "arrival_delay_minutes": arrival_delay,
            "arrived_known_at": at + BLOCK + timedelta(minutes=arrival_delay),
            "outcome_known_at": at + BLOCK + timedelta(minutes=min(arrival_delay, 15)),
            "is_disrupted": arrival_delay >= 15,
        }
    if facts.pop("cancelled", False):
        row |= {"is_cancelled": True, "cancelled_known_at": at, "outcome_known_at": at, "is_disrupted": True}
    if facts.get("tail_number"):
        row["tail_known_at"] = at - timedelta(hours=2)
    return row | facts


def observation(hour: str, **facts: Any) -> dict[str, Any]:
    """An observation at AAA, known an hour after the hour it is labelled with."""
    at = utc(hour)
    known = at + timedelta(hours=1)
    row: dict[str, Any] = dict.fromkeys(WEATHER_SCHEMA.names)
    row |= {
        "origin": "AAA",
        "observed_hour_at": at,
        "known_at": known,
        "created_at": known,
        "is_retracted": False,
    }
    return row | facts


def session_with(
    departures: list[dict[str, Any]] | None = None, weather: list[dict[str, Any]] | None = None
) -> duckdb.DuckDBPyConnection:
    """A session with these rows as the tables ``departures`` and ``weather``."""
    con = nyc_clean.session()
    con.register("departures", pa.Table.from_pylist(departures or [], schema=DEPARTURE_SCHEMA))
    con.register("weather", pa.Table.from_pylist(weather or [], schema=WEATHER_SCHEMA))
    return con
