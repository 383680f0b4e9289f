"""Features that come with the request: the calendar, and what the aircraft's last leg means for this departure.

Two doors to one arithmetic: `request_time_features` takes columns (training, batch scores), `request_time_row` one
request (online). All results are texts and integers, so both give the same values, bit by bit.
"""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections.abc import Collection, Mapping, Sequence
from datetime import UTC, date, datetime, timedelta
from functools import lru_cache
from types import MappingProxyType
from typing import Any, TypeVar

import numpy as np
import pyarrow as pa

# Whose federal holidays move the traffic; a country the package `holidays` knows.
HOLIDAY_COUNTRY = "US"
# A leg that was due longer than this before the departure says no more than an unknown tail: both are null, so that
# a missing tail (in the source: a flight that will be cancelled) is no name tag.
LEG_LIMIT_MINUTES = 48 * 60
CANCELLED_LEG_DELAY_MINUTES = 300

CATEGORICAL = ("carrier", "origin", "dest")
# What the schedule says of the day and the departure, and the two instants between which an aircraft is on its way.
SCHEDULE_COLUMNS: Mapping[str, str] = {
    "carrier": "VARCHAR",
    "origin": "VARCHAR",
    "dest": "VARCHAR",
    "service_date": "DATE",
    "scheduled_departure_minute_local": "INTEGER",
}
INSTANT_COLUMNS: Mapping[str, str] = {
    "scheduled_departure_at": "TIMESTAMPTZ",
    "decision_at": "TIMESTAMPTZ",
}
REQUEST_COLUMNS: Mapping[str, str] = {**SCHEDULE_COLUMNS, **INSTANT_COLUMNS}
LEG_COLUMNS: Mapping[str, str] = {
    "aircraft_leg_scheduled_departure_at": "TIMESTAMPTZ",
    "aircraft_leg_block_minutes": "INTEGER",
    "aircraft_leg_departure_delay_minutes": "INTEGER",
    "aircraft_leg_arrival_delay_minutes": "INTEGER",
    "aircraft_leg_is_cancelled": "BOOLEAN",
    "aircraft_leg_stage": "INTEGER",
}
SCHEDULE_FEATURES = (
    "schedule_departure_minute_local",
    "schedule_day_of_week",
    "schedule_days_to_holiday",
    "schedule_days_from_holiday",
)
AIRCRAFT_FEATURES = (
    "aircraft_delay_known_minutes",
    "aircraft_slack_minutes",
    "aircraft_stage",
    "aircraft_arrival_delay_minutes",
    "aircraft_cancelled",
    "aircraft_minutes_since_leg",
)
OF_SCHEDULE = (*CATEGORICAL, *SCHEDULE_FEATURES)
COMPUTED = (*OF_SCHEDULE, *AIRCRAFT_FEATURES)

# The whole vector, in the order a model sees it; a model may leave features out. The order is part of the model: with a
# feature fraction below 1 another order grows other trees. Add at the end, never in the middle.
FEATURE_ORDER: tuple[str, ...] = (
    *CATEGORICAL,
    *SCHEDULE_FEATURES,
    "network_departures_waiting",
    "network_departures_waiting_over_15min",
    "network_departures_waiting_change_60min",
    "network_late_departure_share_60min",
    "network_cancellations_6h",
    "network_disrupted_share_6h",
    "network_disrupted_share_12h",
    "network_disrupted_share_24h",
    "network_arrival_delay_mean_24h",
    "origin_departures_waiting",
    "origin_departures_waiting_over_15min",
    "origin_late_departure_share_60min",
    "origin_cancellations_6h",
    "origin_arrival_delay_mean_180min",
    "origin_disrupted_share_12h",
    "carrier_departures_waiting",
    "carrier_late_departure_share_180min",
    "carrier_disrupted_share_6h",
    "carrier_arrival_delay_mean_24h",
    "carrier_origin_departures_waiting",
    "carrier_origin_late_departure_share_180min",
    "carrier_origin_arrival_delay_mean_180min",
    "carrier_origin_disrupted_share_6h",
    "carrier_origin_disrupted_share_24h",
    "carrier_origin_arrival_delay_mean_24h",
    "dest_departures_waiting",
    "dest_arrival_delay_mean_180min",
    "dest_disrupted_share_6h",
    "dest_disrupted_share_24h",
    "dest_arrival_delay_mean_24h",
    "carrier_origin_arrival_delay_mean_28d",
    "network_disrupted_share_7d",
    "origin_disrupted_share_7d",
    "carrier_route_arrival_delay_mean_1d",
    "flight_arrival_delay_mean_1d",
    "flight_arrival_delay_mean_7d",
    "flight_arrival_delay_mean_28d",
    "flight_arrival_delay_mean_56d",
    "flight_disrupted_share_28d",
    "flight_disrupted_share_56d",
    "weather_temp_f",
    "weather_humid_pct",
    "weather_wind_mph",
    "weather_wind_sin",
    "weather_wind_cos",
    "weather_precip_3h_in",
    "weather_visib_min_3h_mi",
    "weather_pressure_mb",
    "weather_pressure_change_6h_mb",
    *AIRCRAFT_FEATURES,
)

_OF_SCHEDULE, _OF_AIRCRAFT = frozenset(OF_SCHEDULE), frozenset(AIRCRAFT_FEATURES)
_EPOCH_DAY = date(1970, 1, 1).toordinal()
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_SUNDAY_OF_EPOCH = 4  # 1970-01-01 was a Thursday, and Sunday is 0
_MINUTE_US = 60_000_000

Column = pa.Array | pa.ChunkedArray | Sequence[Any]
Number = TypeVar("Number", int, np.ndarray)


class RequestError(ValueError):
    """A request lacks a column, or holds a value that cannot be used."""


def request_columns(features: Collection[str]) -> dict[str, str]:
    """The columns of a request that some features are computed of: column → SQL type; none where none is computed."""
    of_schedule = {} if _OF_SCHEDULE.isdisjoint(features) else SCHEDULE_COLUMNS
    return {**of_schedule, **({} if _OF_AIRCRAFT.isdisjoint(features) else INSTANT_COLUMNS)}


def leg_columns(features: Collection[str]) -> dict[str, str]:
    """The looked-up columns that some features are computed of: column → SQL type; they are no features themselves."""
    return {} if _OF_AIRCRAFT.isdisjoint(features) else dict(LEG_COLUMNS)


# -- the arithmetic, over ints and over arrays of ints -------------------------------------------------------------


def _day_of_week(day: Number) -> Number:
    return (day + _SUNDAY_OF_EPOCH) % 7


def _minutes(later_us: Number, earlier_us: Number) -> Number:
    return (later_us - earlier_us) // _MINUTE_US


def _slack(since_leg: Number, block: Number, delay: Number) -> Number:
    return since_leg - 2 * block - delay


@lru_cache(maxsize=64)
def _holidays_of(year: int) -> tuple[int, ...]:
    import holidays

    calendar = holidays.country_holidays(HOLIDAY_COUNTRY, years=[year - 1, year, year + 1])
    return tuple(sorted(day.toordinal() - _EPOCH_DAY for day in calendar))


@lru_cache(maxsize=4096)
def holiday_distances(day: int) -> tuple[int, int]:
    """Days to the next and from the last federal holiday; on a holiday both are 0.

    Args:
        day: the local date as days since 1970-01-01.
    """
    known = _holidays_of(date.fromordinal(day + _EPOCH_DAY).year)
    return known[bisect_left(known, day)] - day, day - known[bisect_right(known, day) - 1]


# -- one request ---------------------------------------------------------------------------------------------------


def request_time_row(
    request: Mapping[str, Any], features: Collection[str] = COMPUTED
) -> dict[str, str | int | None]:
    """The request-time features of one departure.

    Args:
        request: the values of `request_columns` and `leg_columns` of `features` (instants aware, dates as `date`); a
            leg column may be missing or None where there is no leg.
        features: which are wanted; others than `COMPUTED` are passed over.

    Raises:
        RequestError: a request column is missing or empty, or an instant has no zone.
    """
    needed = request_columns(features)
    missing = [name for name in needed if request.get(name) is None]
    if missing:
        raise RequestError(f"the request lacks {', '.join(missing)}; every request names {', '.join(needed)}")
    values: dict[str, str | int | None] = {}
    if not _OF_SCHEDULE.isdisjoint(features):
        values |= schedule_row(request)
    if not _OF_AIRCRAFT.isdisjoint(features):
        values |= aircraft_row(request)
    return {name: value for name, value in values.items() if name in features}


def schedule_row(request: Mapping[str, Any]) -> dict[str, str | int | None]:
    """`OF_SCHEDULE` of one departure: `SCHEDULE_COLUMNS` are there."""
    day = request["service_date"].toordinal() - _EPOCH_DAY
    to_holiday, from_holiday = holiday_distances(day)
    values: dict[str, str | int | None] = {name: request[name] for name in CATEGORICAL}
    return values | {
        "schedule_departure_minute_local": int(request["scheduled_departure_minute_local"]),
        "schedule_day_of_week": _day_of_week(day),
        "schedule_days_to_holiday": to_holiday,
        "schedule_days_from_holiday": from_holiday,
    }


def aircraft_row(request: Mapping[str, Any]) -> dict[str, int | None]:
    """`AIRCRAFT_FEATURES` of one departure: `INSTANT_COLUMNS` are there, `LEG_COLUMNS` where there is a leg."""
    unknown: dict[str, int | None] = dict.fromkeys(AIRCRAFT_FEATURES)
    leg_at = request.get("aircraft_leg_scheduled_departure_at")
    if leg_at is None:
        return unknown
    leg_us = _instant_us("aircraft_leg_scheduled_departure_at", leg_at)
    since = _minutes(_instant_us("scheduled_departure_at", request["scheduled_departure_at"]), leg_us)
    if since > LEG_LIMIT_MINUTES:
        return unknown
    cancelled = bool(request["aircraft_leg_is_cancelled"])
    departure_delay = request.get("aircraft_leg_departure_delay_minutes")
    arrival_delay = request.get("aircraft_leg_arrival_delay_minutes")
    if cancelled:
        delay = CANCELLED_LEG_DELAY_MINUTES
    elif arrival_delay is not None:
        delay = int(arrival_delay)
    elif departure_delay is not None:
        delay = max(int(departure_delay), 0)
    else:
        delay = max(_minutes(_instant_us("decision_at", request["decision_at"]), leg_us), 0)
    block = request.get("aircraft_leg_block_minutes")
    return {
        "aircraft_delay_known_minutes": delay,
        "aircraft_slack_minutes": None if block is None else _slack(since, int(block), delay),
        "aircraft_stage": int(request["aircraft_leg_stage"]),
        "aircraft_arrival_delay_minutes": None if arrival_delay is None else int(arrival_delay),
        "aircraft_cancelled": int(cancelled),
        "aircraft_minutes_since_leg": since,
    }


def _instant_us(name: str, at: datetime) -> int:
    if at.tzinfo is None:
        raise RequestError(f"{name} = {at.isoformat()} has no zone; instants are aware (UTC)")
    return (at - _EPOCH) // timedelta(microseconds=1)


# -- columns -------------------------------------------------------------------------------------------------------


def request_time_features(
    request: Mapping[str, Column], features: Collection[str] = COMPUTED
) -> dict[str, pa.Array]:
    """The request-time features of many departures.

    Args:
        request: the columns of `request_columns` and `leg_columns` of `features`, all of one length, as Arrow arrays or
            sequences. Where there is no leg its columns are null.
        features: which are wanted; others than `COMPUTED` are passed over.

    Returns:
        Texts as strings, all others as INT32, in the order of the rows.

    Raises:
        RequestError: a column is missing, a request column has nulls, or an instant has no zone.
    """
    _refuse_missing(request, {**request_columns(features), **leg_columns(features)})
    made: dict[str, pa.Array] = {}
    if not _OF_SCHEDULE.isdisjoint(features):
        made |= schedule_features(request)
    if not _OF_AIRCRAFT.isdisjoint(features):
        made |= aircraft_features(request)
    return {name: array for name, array in made.items() if name in features}


def schedule_features(request: Mapping[str, Column]) -> dict[str, pa.Array]:
    """`OF_SCHEDULE` of many departures, of `SCHEDULE_COLUMNS`; the rest as `request_time_features`."""
    arrays = _arrays(request, SCHEDULE_COLUMNS)
    day, _ = _integers(arrays["service_date"].cast(pa.int32()))
    days, place = np.unique(day, return_inverse=True)
    distances = np.array([holiday_distances(int(d)) for d in days], dtype=np.int64).reshape(-1, 2)[place]
    minute_local, _ = _integers(arrays["scheduled_departure_minute_local"])
    features: dict[str, pa.Array] = {name: arrays[name] for name in CATEGORICAL}
    return features | {
        "schedule_departure_minute_local": _int32(minute_local),
        "schedule_day_of_week": _int32(_day_of_week(day)),
        "schedule_days_to_holiday": _int32(distances[:, 0]),
        "schedule_days_from_holiday": _int32(distances[:, 1]),
    }


def aircraft_features(request: Mapping[str, Column]) -> dict[str, pa.Array]:
    """`AIRCRAFT_FEATURES` of many departures, of `INSTANT_COLUMNS` and `LEG_COLUMNS`; the rest as
    `request_time_features`."""
    arrays = _arrays(request, INSTANT_COLUMNS, LEG_COLUMNS)
    decision_us, _ = _integers(arrays["decision_at"].cast(pa.int64()))
    departure_us, _ = _integers(arrays["scheduled_departure_at"].cast(pa.int64()))
    leg_us, has_leg = _integers(arrays["aircraft_leg_scheduled_departure_at"].cast(pa.int64()))
    block, has_block = _integers(arrays["aircraft_leg_block_minutes"])
    departure_delay, departed = _integers(arrays["aircraft_leg_departure_delay_minutes"])
    arrival_delay, landed = _integers(arrays["aircraft_leg_arrival_delay_minutes"])
    cancelled, _ = _integers(arrays["aircraft_leg_is_cancelled"].cast(pa.int8()))
    stage, _ = _integers(arrays["aircraft_leg_stage"])
    since = _minutes(departure_us, leg_us)
    known = has_leg & (since <= LEG_LIMIT_MINUTES)
    overdue = np.maximum(_minutes(decision_us, leg_us), 0)
    open_delay = np.where(departed, np.maximum(departure_delay, 0), overdue)
    flown_delay = np.where(landed, arrival_delay, open_delay)
    delay = np.where(cancelled == 1, CANCELLED_LEG_DELAY_MINUTES, flown_delay)
    return {
        "aircraft_delay_known_minutes": _int32(delay, known),
        "aircraft_slack_minutes": _int32(_slack(since, block, delay), known & has_block),
        "aircraft_stage": _int32(stage, known),
        "aircraft_arrival_delay_minutes": _int32(arrival_delay, known & landed),
        "aircraft_cancelled": _int32(cancelled, known),
        "aircraft_minutes_since_leg": _int32(since, known),
    }


_ARROW_TYPES: Mapping[str, pa.DataType] = {
    "VARCHAR": pa.string(),
    "DATE": pa.date32(),
    "INTEGER": pa.int64(),
    "BOOLEAN": pa.bool_(),
    "TIMESTAMPTZ": pa.timestamp("us", tz="UTC"),
}


def _arrays(
    request: Mapping[str, Column],
    required: Mapping[str, str],
    nullable: Mapping[str, str] = MappingProxyType({}),
) -> dict[str, pa.Array]:
    kinds = {**required, **nullable}
    _refuse_missing(request, kinds)
    arrays = {name: _array(name, request[name], kind) for name, kind in kinds.items()}
    for name in required:
        if arrays[name].null_count:
            raise RequestError(f"{arrays[name].null_count} of {len(arrays[name])} requests have no {name}")
    return arrays


def _refuse_missing(request: Mapping[str, Column], names: Collection[str]) -> None:
    if missing := [name for name in names if name not in request]:
        raise RequestError(f"the request lacks the columns {', '.join(missing)}")


def _array(name: str, values: Column, kind: str) -> pa.Array:
    wanted = _ARROW_TYPES[kind]
    array: Any = values if isinstance(values, pa.Array | pa.ChunkedArray) else pa.array(values)
    if isinstance(array, pa.ChunkedArray):
        array = array.combine_chunks()
    if pa.types.is_timestamp(wanted) and pa.types.is_timestamp(array.type) and array.type.tz is None:
        raise RequestError(f"{name} has no zone; instants are aware (UTC)")
    return array.cast(wanted)


def _integers(array: pa.Array) -> tuple[np.ndarray, np.ndarray]:
    """Values as int64 (0 where null) and the mask of those that are there."""
    valid = np.asarray(array.is_valid())
    return np.asarray(array.fill_null(0)).astype(np.int64), valid


def _int32(values: np.ndarray, valid: np.ndarray | None = None) -> pa.Array:
    kept = values if valid is None else np.where(valid, values, 0)
    return pa.array(kept.astype(np.int32), mask=None if valid is None else ~valid)
