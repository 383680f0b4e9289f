"""A made-up source folder in the nycflights13 schema: another airport, another year, carriers and a place nobody knows."""

from __future__ import annotations

import csv
import random
from collections.abc import Mapping, Sequence
from datetime import UTC, date, datetime, time, timedelta
from pathlib import Path
from zoneinfo import ZoneInfo

from sources.nycflights_tables import COLUMNS

HOME_AIRPORT, HOME_ZONE = "DEN", "America/Denver"
UNKNOWN_DESTINATION = "QQQ"
CARRIERS = ("Q9", "ZX", "W4")  # the last one is in no table of carriers
# destination: zone (of the unknown one that of home: nobody can know better), minutes of flight, miles
DESTINATIONS = {
    "SLC": ("America/Denver", 85, 391),
    "ORD": ("America/Chicago", 150, 888),
    "LAX": ("America/Los_Angeles", 155, 862),
    "HNL": ("Pacific/Honolulu", 450, 3365),
    UNKNOWN_DESTINATION: (HOME_ZONE, 120, 700),
}
TAILS = [f"N{number}QX" for number in range(100, 140)]
FLIGHTS_A_DAY = 60

Row = Mapping[str, object]


def write(folder: Path, first: date, days: int) -> Path:
    """Write the five tables as CSV, `days` days from `first` on, the same for the same arguments."""
    folder.mkdir(parents=True)
    chance = random.Random(20)
    tables: dict[str, Sequence[Row]] = {
        "flights": [
            flight(chance, first + timedelta(days=day), number)
            for day in range(days)
            for number in range(FLIGHTS_A_DAY)
        ],
        "weather": [observation(chance, first, hour) for hour in range(24 * days)],
        "planes": [plane(tail) for tail in TAILS[:-3]],
        "airports": [
            airport(faa, zone) for faa, (zone, _, _) in DESTINATIONS.items() if faa != UNKNOWN_DESTINATION
        ]
        + [airport(HOME_AIRPORT, HOME_ZONE)],
        "airlines": [{"carrier": carrier, "name": f"{carrier} Air"} for carrier in CARRIERS[:-1]],
    }
    for table, rows in tables.items():
        with (folder / f"{table}.csv").open("w", newline="") as file:
            writer = csv.DictWriter(file, COLUMNS[table].keys(), restval="NA")
            writer.writeheader()
            writer.writerows(
                {name: "NA" if value is None else value for name, value in row.items()} for row in rows
            )
    return folder


def flight(chance: random.Random, day: date, number: int) -> Row:
    """A flight a quarter of an hour after the one before; about one in five late, one in thirty cancelled."""
    dest = list(DESTINATIONS)[number % len(DESTINATIONS)]
    zone, minutes, miles = DESTINATIONS[dest]
    leaves_at = datetime.combine(day, time(6), ZoneInfo(HOME_ZONE)).astimezone(UTC) + timedelta(
        minutes=15 * number
    )
    leaves = leaves_at.astimezone(ZoneInfo(HOME_ZONE))
    arrives = (leaves_at + timedelta(minutes=minutes + 25)).astimezone(ZoneInfo(zone))
    late = max(-8, round(chance.gauss(number / 12, 14)))
    arrival_late = late + chance.randint(-10, 5)
    cancelled, diverted = chance.random() < 1 / 30, chance.random() < 1 / 200
    gone = (leaves + timedelta(minutes=late)).time()
    came = (arrives + timedelta(minutes=arrival_late)).time()
    landed = not cancelled and not diverted
    return {
        "year": leaves.year, "month": leaves.month, "day": leaves.day, "hour": leaves.hour, "minute": leaves.minute,
        "sched_dep_time": hhmm(leaves.time()), "dep_time": None if cancelled else hhmm(gone) or 2400,
        "dep_delay": None if cancelled else late, "sched_arr_time": hhmm(arrives.time()),
        "arr_time": (hhmm(came) or 2400) if landed else None, "arr_delay": arrival_late if landed else None,
        "carrier": CARRIERS[number % len(CARRIERS)], "flight": 100 + number, "origin": HOME_AIRPORT, "dest": dest,
        "tailnum": None if cancelled and chance.random() < 0.5 else chance.choice(TAILS),
        "air_time": minutes + arrival_late - late if landed else None, "distance": miles,
        # As anyflights writes it: the wall clock, with a Z that is not true.
        "time_hour": f"{leaves:%Y-%m-%dT%H}:00:00Z",
    }  # fmt: skip


def observation(chance: random.Random, first: date, hour: int) -> Row:
    at = datetime.combine(first, time(6), UTC) + timedelta(hours=hour)
    temperature = round(chance.gauss(48, 9), 1)
    return {
        "origin": HOME_AIRPORT, "year": at.year, "month": at.month, "day": at.day, "hour": at.hour,
        "temp": temperature, "dewp": round(temperature - chance.uniform(2, 25), 1), "humid": chance.randint(20, 90),
        "wind_dir": chance.randrange(0, 361, 10), "wind_speed": round(abs(chance.gauss(9, 5)), 1), "precip": 0,
        "pressure": round(chance.gauss(1015, 6), 1), "visib": 10, "time_hour": f"{at:%Y-%m-%dT%H}:00:00Z",
    }  # fmt: skip


def plane(tail: str) -> Row:
    return {
        "tailnum": tail, "year": 2009, "type": "Fixed wing multi engine", "manufacturer": "AIRBUS", "model": "A320-214",
        "engines": 2, "seats": 180, "engine": "Turbo-fan",
    }  # fmt: skip


def airport(faa: str, zone: str) -> Row:
    offset = datetime(2021, 1, 1, tzinfo=ZoneInfo(zone)).utcoffset() or timedelta()
    return {
        "faa": faa, "name": f"{faa} Airport", "lat": 40.0, "lon": -105.0, "alt": 5000,
        "tz": offset // timedelta(hours=1), "dst": "A", "tzone": zone,
    }  # fmt: skip


def hhmm(at: time) -> int:
    return at.hour * 100 + at.minute
