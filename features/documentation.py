"""What each of the model's features means: one place for the feature store's views, the docs and the data card."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType

from features.request_time import FEATURE_ORDER
from features.tables import FEATURE_TABLES

REQUEST = "request"


@dataclass(frozen=True)
class FeatureDocumentation:
    """One feature of the vector.

    Attributes:
        name: its name in the vector.
        sql_type: VARCHAR (a category), INTEGER or DOUBLE.
        unit: what one unit of it is.
        description: what it says, in one sentence.
        known_rule: by which rule a source fact may count.
        window: the window it covers, in words; empty where it has none.
        source: the feature table it is read from, or ``request`` where it is computed with the request.
        prior: its value where nothing is known; None means null.
    """

    name: str
    sql_type: str
    unit: str
    description: str
    known_rule: str
    window: str
    source: str
    prior: float | int | None


_SCHEDULE = "known with the schedule, the evening before"
_LEG = "the leg's own events, and the known-at time of the assignment"
_NULL = "Null when the tail is unknown or its last leg from here was due more than 48 h before."

# name: (type, unit, words, known-at rule)
_AT_REQUEST: Mapping[str, tuple[str, str, str, str]] = {
    "carrier": ("VARCHAR", "code", "Operating carrier, as scheduled.", _SCHEDULE),
    "origin": ("VARCHAR", "code", "Airport of departure, as scheduled.", _SCHEDULE),
    "dest": ("VARCHAR", "code", "Airport of destination, as scheduled.", _SCHEDULE),
    "schedule_departure_minute_local": (
        "INTEGER", "minutes", "Scheduled departure, minute of the day on the origin's wall clock.", _SCHEDULE),
    "schedule_day_of_week": ("INTEGER", "day", "Day of the week of the local service date, Sunday 0.", _SCHEDULE),
    "schedule_days_to_holiday": (
        "INTEGER", "days", "Days to the next federal holiday; 0 on one.", _SCHEDULE),
    "schedule_days_from_holiday": (
        "INTEGER", "days", "Days since the last federal holiday; 0 on one.", _SCHEDULE),
    "aircraft_delay_known_minutes": (
        "INTEGER", "minutes",
        ("The delay known of the aircraft's last leg: its arrival delay when landed, its departure delay (not below 0) "
         f"when departed, how long it is overdue at the decision when not, 300 when cancelled. {_NULL}"), _LEG),
    "aircraft_slack_minutes": (
        "INTEGER", "minutes",
        ("Time left if the aircraft flew straight back: this scheduled departure less the leg's, less two scheduled "
         f"block times, less the delay known. {_NULL}"), _LEG),
    "aircraft_stage": (
        "INTEGER", "stage", f"The aircraft's last leg: 0 due or cancelled, 1 departed, 2 landed. {_NULL}", _LEG),
    "aircraft_arrival_delay_minutes": (
        "INTEGER", "minutes", f"Arrival delay of the aircraft's last leg; null until it landed. {_NULL}", _LEG),
    "aircraft_cancelled": (
        "INTEGER", "0/1", f"Whether the aircraft's last leg was cancelled. {_NULL}", _LEG),
    "aircraft_minutes_since_leg": (
        "INTEGER", "minutes", f"This scheduled departure less that of the aircraft's last leg. {_NULL}", _LEG),
}  # fmt: skip


def _features() -> dict[str, FeatureDocumentation]:
    known = {
        name: FeatureDocumentation(name, sql_type, unit, words, rule, "", REQUEST, None)
        for name, (sql_type, unit, words, rule) in _AT_REQUEST.items()
    }
    for table in FEATURE_TABLES.values():
        for c in table.columns:
            known[c.name] = FeatureDocumentation(
                c.name, c.sql_type, c.unit, c.description, c.known_rule, c.window, table.name, c.prior
            )
    return {name: known[name] for name in FEATURE_ORDER}


# All features of the vector, in its order.
FEATURES: Mapping[str, FeatureDocumentation] = MappingProxyType(_features())
