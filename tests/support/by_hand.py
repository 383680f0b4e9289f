"""Feature values counted by hand, straight from their definitions, over departures and observations that are true."""

from __future__ import annotations

from datetime import timedelta

import numpy as np
import pyarrow as pa
import pytest

NEVER = np.iinfo(np.int64).max // 4


def minute(at):
    """Whole minutes since 1970."""
    return int(at.timestamp()) // 60


def columns_of(rows: pa.Table) -> dict[str, np.ndarray]:
    """Clean departures as columns: instants as whole minutes, never = far away."""
    columns = {}
    for name in rows.column_names:
        if pa.types.is_timestamp(rows[name].type):
            us = rows[name].cast(pa.int64()).fill_null(0)
            columns[name] = np.where(rows[name].is_null(), NEVER, us.to_numpy() // 60_000_000)
        elif pa.types.is_boolean(rows[name].type):
            columns[name] = rows[name].fill_null(False).to_numpy(zero_copy_only=False)
        elif pa.types.is_integer(rows[name].type):
            columns[name] = rows[name].fill_null(-(10**6)).to_numpy()
        else:
            columns[name] = np.array(rows[name].to_pylist(), dtype=object)
    return columns


def chosen(clean, keys, values):
    """The departures of one key."""
    mask = np.ones(len(clean["carrier"]), dtype=bool)
    for key, value in zip(keys, values, strict=True):
        mask &= clean[key] == value
    return {name: column[mask] for name, column in clean.items()}


def smoothed(part, whole, weight, prior):
    return (int(part) + weight * prior) / (int(whole) + weight)


def state(c, g):
    """The eleven values at minute g."""
    due, departed, arrived = c["scheduled_departure_at"], c["departed_known_at"], c["arrived_known_at"]
    cancelled, outcome = c["cancelled_known_at"], c["outcome_known_at"]
    late = c["departure_delay_minutes"] >= 15
    delay = np.clip(c["arrival_delay_minutes"], -60, 240)
    disrupted = c["is_disrupted"]

    def waiting(at, after=0):
        return int(np.sum((due + after <= at) & (departed > at) & (cancelled > at) & (due + 36 * 60 > at)))

    def within(instants, window):
        return (instants <= g) & (instants > g - window)

    def late_share(window):
        now = within(departed, window)
        return smoothed(np.sum(now & late), np.sum(now), 2, 0.25)

    def delay_mean(window, weight):
        now = within(arrived, window)
        return smoothed(np.sum(delay[now]), np.sum(now), weight, 5.0)

    def share(window, weight):
        now = within(outcome, window)
        return smoothed(np.sum(now & disrupted), np.sum(now), weight, 0.25)

    return (
        waiting(g), waiting(g, 15), waiting(g) - waiting(g - 60), late_share(60), late_share(180),
        int(np.sum(within(cancelled, 360))), delay_mean(180, 2), share(360, 3), share(720, 3), share(1440, 5),
        delay_mean(1440, 5),
    )  # fmt: skip


def history(c, g):
    """The seven values at minute g."""
    arrived, outcome = c["arrived_known_at"], c["outcome_known_at"]
    delay = np.clip(c["arrival_delay_minutes"], -60, 240)
    disrupted = c["is_disrupted"]
    delays, shares = [], []
    for days in (1, 7, 28, 56):
        now = (arrived <= g) & (arrived > g - days * 1440)
        delays.append(smoothed(np.sum(delay[now]), np.sum(now), 5, 5.0))
    for days in (7, 28, 56):
        now = (outcome <= g) & (outcome > g - days * 1440)
        shares.append(smoothed(np.sum(now & disrupted), np.sum(now), 5, 0.25))
    return (*delays, *shares)


def aircraft_leg(legs, at):
    """The six values of the newest news of an aircraft's legs at an instant; Nones without any."""
    news = []
    for leg in legs:
        due, departed = leg["scheduled_departure_at"], leg["departed_known_at"]
        events = [due] if departed is None or departed > due else []
        events += [e for e in (departed, leg["arrived_known_at"], leg["cancelled_known_at"]) if e]
        for event in events:
            when = max(event, leg["tail_known_at"])
            landed = leg["arrived_known_at"] is not None and leg["arrived_known_at"] <= when
            gone = departed is not None and departed <= when
            cancelled = leg["cancelled_known_at"] is not None and leg["cancelled_known_at"] <= when
            news.append((when, due, 2 if landed else int(gone), leg["departure_id"],
                         leg["departure_delay_minutes"] if gone else None,
                         leg["arrival_delay_minutes"] if landed else None, cancelled,
                         leg["scheduled_block_minutes"]))  # fmt: skip
    latest = max((n for n in news if n[0] <= at), key=lambda n: n[:4], default=None)
    if latest is None:
        return (None,) * 6
    return (latest[1], latest[7], latest[4], latest[5], latest[6], latest[2])


def station_weather(rows, at):
    """The nine values of one station at an instant; Nones where the last observation is more than six hours old."""
    known = sorted((r for r in rows if r["known_at"] <= at), key=lambda r: r["known_at"])
    if not known or at - known[-1]["known_at"] > timedelta(hours=6):
        return (None,) * 9
    last = known[-1]
    three = [r for r in known if r["known_at"] >= last["known_at"] - timedelta(hours=3)]
    six = [r for r in known if r["known_at"] >= last["known_at"] - timedelta(hours=6)]
    rain = [round(r["precipitation_inches"] * 10000) for r in three if r["precipitation_inches"] is not None]
    seen = [r["visibility_miles"] for r in three if r["visibility_miles"] is not None]
    pressure = [r["pressure_millibars"] for r in six if r["pressure_millibars"] is not None]
    angle = last["wind_direction_degrees"]
    return (
        last["temperature_f"], last["humidity_percent"], last["wind_speed_mph"],
        None if angle is None else float(np.sin(np.radians(angle))),
        None if angle is None else float(np.cos(np.radians(angle))),
        sum(rain) / 10000.0 if rain else None, min(seen) if seen else None,
        pressure[-1] if pressure else None,
        (round(pressure[-1] * 100) - round(pressure[0] * 100)) / 100.0 if pressure else None,
    )  # fmt: skip


def up_to_sine(values):
    """Weather values to compare with: sine and cosine are rounded by whoever computes them, all else is exact."""
    return tuple(
        pytest.approx(value) if number in (3, 4) and value is not None else value
        for number, value in enumerate(values)
    )
