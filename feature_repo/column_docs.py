"""What the domain's columns mean outside the clean tables: name → (SQL type, description, unit)."""

from __future__ import annotations

from collections.abc import Mapping

COLUMNS: Mapping[str, tuple[str, str, str | None]] = {
    "departure_id": (
        "VARCHAR",
        "One scheduled departure: service date, carrier, flight number, origin.",
        None,
    ),
    "service_date": ("DATE", "Local calendar day of the scheduled departure.", None),
    "is_disrupted": (
        "BOOLEAN",
        "Arrived 15 minutes late or later, cancelled or diverted; null until known.",
        None,
    ),
    "outcome_known_at": ("TIMESTAMPTZ", "When that became known; null until then.", "UTC"),
    "request_known_at": (
        "TIMESTAMPTZ",
        "When the latest fact of the request was known: the schedule, and the aircraft where it is in the request.",
        "UTC",
    ),
    "network": ("VARCHAR", "The one network, key of the network-wide views.", None),
    "flight_number": ("INTEGER", "The carrier's flight number.", None),
    "scheduled_departure_at": ("TIMESTAMPTZ", "Scheduled departure.", "UTC"),
    "scheduled_departure_minute_local": (
        "INTEGER",
        "Scheduled departure, minute of the local day.",
        "minutes",
    ),
    "scheduled_departure_hour_local": ("INTEGER", "Scheduled departure, hour of the local day.", "hours"),
    "departure_band": ("VARCHAR", "Part of the local day of the scheduled departure.", None),
    "dest_traffic": (
        "VARCHAR",
        "How many flights are scheduled to the destination on that day: one or two to a small airport.",
        "flights",
    ),
}
