"""A small home of invented feature rows, a dozen entities per table, for tests of what is online."""

from __future__ import annotations

import sqlite3
from contextlib import closing
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import dagster as dg

from assets import feature_store, feature_store_checks
from contrail import duck
from contrail.incremental import BUILT_UNTIL
from contrail.lake import Commit, Lake
from contrail.settings import Settings
from features.tables import FEATURE_TABLES, FeatureTable
from resources.feature_store import FeatureStoreResource
from resources.lake import LakeResource

NOW = datetime(2013, 3, 7, 18, tzinfo=UTC)
ENTITIES = 12
SILENT = ENTITIES - 1  # this one's newest row is outside every max age
VALUES = {
    "INTEGER": "(h % 50)::INTEGER",
    "DOUBLE": "(h % 1000) / 7.0",
    "BOOLEAN": "h % 2 = 0",
    "TIMESTAMPTZ": "known_at - to_minutes(h % 600)",
}


def key_sql(name: str) -> str:
    return {"network": "'all'", "flight_number": "(100 + n)::INTEGER"}.get(name, f"'{name}-' || n")


def rows_sql(table: FeatureTable) -> str:
    """Three rows for each of some entities, every fifth value null; the silent entity's are too old to answer."""
    age = table.max_age // timedelta(minutes=1)
    keys = ", ".join(f"{key_sql(key)} AS {key}" for key in table.keys)
    count = 1 if table.keys == ("network",) else ENTITIES
    values = ", ".join(
        f"CASE WHEN hash({i}, n, k) % 5 > 0 THEN {VALUES[c.sql_type].replace('h %', f'(hash({i}, n, k) // 8)::BIGINT %')} "
        f"END AS {c.name}"
        for i, c in enumerate(table.columns)
    )
    return f"""
WITH ages AS (
  SELECT n, k, CASE WHEN n = {SILENT} THEN {age} + 1 + k ELSE 1 + (n + k * 17) % {age // 2} END AS minutes
  FROM range({count}) t(n), range(3) u(k)),
timed AS (SELECT *, TIMESTAMPTZ '{NOW.isoformat()}' - to_minutes(minutes::BIGINT) AS known_at FROM ages)
SELECT {keys}, known_at, known_at AS created_at, date_trunc('month', known_at)::DATE AS month, {values} FROM timed"""


DEPARTURES = f"""
SELECT 'flight-' || n AS departure_id, DATE '2013-03-07' - (n % 4)::INTEGER AS service_date, {key_sql("carrier")} AS carrier,
  {key_sql("flight_number")} AS flight_number, {key_sql("origin")} AS origin, {key_sql("dest")} AS dest,
  100 AS distance_miles, {key_sql("tail_number")} AS tail_number, TIMESTAMPTZ '{NOW.isoformat()}' AS tail_known_at,
  TIMESTAMPTZ '{NOW.isoformat()}' + INTERVAL 3 HOUR AS scheduled_departure_at, 780 AS scheduled_departure_minute_local,
  'America/New_York' AS origin_time_zone, 90 AS scheduled_block_minutes, false AS is_disrupted, TIMESTAMPTZ '{NOW.isoformat()}' AS outcome_known_at,
  TIMESTAMPTZ '{NOW.isoformat()}' - INTERVAL 1 DAY AS created_at, false AS is_retracted
FROM range({ENTITIES}) t(n)"""


@dataclass(frozen=True)
class World:
    settings: Settings

    @property
    def lake(self) -> Lake:
        return Lake(self.settings.lake_root)

    def execute(self, *selected: str) -> dict[str, dg.AssetCheckEvaluation]:
        """Run the assets and their checks, or the named checks alone; check -> evaluation."""
        keys = [dg.AssetCheckKey(feature_store_checks.ONLINE, name) for name in selected]
        return self._run(dg.AssetSelection.checks(*keys) if keys else None)

    def fill(self) -> None:
        """Run the assets alone: register the features and bring their newest values online."""
        self._run(dg.AssetSelection.groups(feature_store.STAGE).without_checks())

    def _run(self, selection: dg.AssetSelection | None) -> dict[str, dg.AssetCheckEvaluation]:
        done = dg.materialize(
            feature_store.build(self.settings),
            selection=selection,
            resources={
                "lake": LakeResource(self.settings),
                "feature_store": FeatureStoreResource(home=str(self.settings.home)),
            },
        )
        return {evaluation.check_name: evaluation for evaluation in done.get_asset_check_evaluations()}

    def parity(self) -> dg.AssetCheckEvaluation:
        return self.execute(feature_store_checks.PARITY)[feature_store_checks.PARITY]

    def online(self, statement: str, *values: Any) -> int:
        """Plant something in the online store; returns the rows changed."""
        with closing(sqlite3.connect(self.settings.online_store_path)) as con, con:
            return con.execute(statement, values).rowcount

    def online_row(self, view: str, key: bytes) -> int:
        """Known-at second of an entity's row."""
        with closing(sqlite3.connect(self.settings.online_store_path)) as con:
            (found,) = con.execute(
                f"SELECT max(event_ts) FROM contrail_{view} WHERE entity_key = ?", (key,)
            ).fetchone()
            return int(found)

    def cell(self, view: str, feature: str) -> tuple[bytes, bytes]:
        """Key and value of a cell that is not null."""
        with closing(sqlite3.connect(self.settings.online_store_path)) as con:
            return con.execute(
                f"SELECT entity_key, value FROM contrail_{view} WHERE feature_name = ? AND length(value) > 1 "
                "ORDER BY entity_key", (feature,),
            ).fetchone()  # fmt: skip


def make(home: Path) -> World:
    world = World(Settings(home=home, clock="replay", replay_at=NOW))
    with duck.connect() as con:
        tables = {f"feature/{name}": rows_sql(table) for name, table in FEATURE_TABLES.items()}
        for name, sql in {**tables, "clean/departures": DEPARTURES}.items():
            rows = con.sql(sql).to_arrow_table()
            built = {BUILT_UNTIL: NOW.isoformat()} if name in tables else {}
            world.lake.create(name, rows.schema)
            world.lake.append(name, rows, Commit(name, "run", (), extra=built))
    return world
