"""A home with a handful of rows in every feature table, applied and materialised: enough to ask for vectors."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pyarrow as pa

from contrail.lake import Commit, Lake
from contrail.settings import Settings
from features.tables import FEATURE_TABLES
from resources.feature_store import FeatureStoreResource

NOW = datetime(2013, 3, 8, 18, tzinfo=UTC)
ROW_AGE = timedelta(minutes=45)
KEYS: dict[str, Any] = {
    "network": "all",
    "carrier": "UA",
    "origin": "EWR",
    "dest": "ORD",
    "flight_number": 259,
    "tail_number": "N471UA",
}
REQUEST: dict[str, Any] = {
    **KEYS,
    "service_date": NOW.date(),
    "scheduled_departure_minute_local": 15 * 60,
    "scheduled_departure_at": NOW + timedelta(hours=2),
}
_ARROW = {
    "VARCHAR": pa.string(),
    "INTEGER": pa.int32(),
    "DOUBLE": pa.float64(),
    "BOOLEAN": pa.bool_(),
    "TIMESTAMPTZ": pa.timestamp("us", tz="UTC"),
}


def make(home: Path) -> FeatureStoreResource:
    """One row per table for the entity of `KEYS`, known `ROW_AGE` before `NOW`; no value of them is a prior."""
    lake = Lake(Settings(home=home).lake_root)
    known_at = NOW - ROW_AGE
    for table in FEATURE_TABLES.values():
        values: dict[str, Any] = {key: KEYS[key] for key in table.keys}
        values |= {"known_at": known_at, "created_at": known_at, "month": known_at.date().replace(day=1)}
        values |= {c.name: _value(c.name, c.sql_type, number) for number, c in enumerate(table.columns)}
        types = {c.name: _ARROW[c.sql_type] for c in table.columns}
        types |= dict.fromkeys(("known_at", "created_at"), _ARROW["TIMESTAMPTZ"])
        rows = pa.table({name: pa.array([value], types.get(name)) for name, value in values.items()})
        name = f"feature/{table.name}"
        lake.create(name, rows.schema)
        lake.append(name, rows, Commit(name, "small", ()))
    resource = FeatureStoreResource(home=str(home))
    resource.apply()
    resource.materialize(NOW)
    return resource


def _value(name: str, sql_type: str, number: int) -> Any:
    if sql_type == "TIMESTAMPTZ":
        return NOW - timedelta(hours=5)
    if name.endswith("_stage"):
        return 1
    return {"DOUBLE": 0.0625 + number, "INTEGER": 3 + number, "BOOLEAN": False, "VARCHAR": "x"}[sql_type]
