"""A week of the real data as feature tables, with the rows that each use case asks about; applied, nothing online."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, date, datetime, time, timedelta
from pathlib import Path
from typing import Any

import pyarrow as pa
from deltalake import write_deltalake

from contrail.settings import Settings
from feature_repo.use_cases import LATE_FLIGHT_2H, USE_CASES
from features.tables import FEATURE_TABLES
from resources.feature_store import FeatureStoreResource
from tests.support import nyc_clean

FIRST, LAST = date(2013, 3, 1), date(2013, 3, 7)
NOW = datetime.combine(LAST, time(18), UTC)
SERVICE = LATE_FLIGHT_2H.feature_service


@dataclass(frozen=True)
class FeatureWeek:
    """The home, and per use case its rows that were decided until `NOW`."""

    resource: FeatureStoreResource
    spines: Mapping[str, pa.Table]

    @property
    def spine(self) -> pa.Table:
        """The rows of the two-hour model."""
        return self.spines[LATE_FLIGHT_2H.name]

    @property
    def lake_root(self) -> Path:
        return self.resource.settings.lake_root


def make(home: Path, work: Path) -> FeatureWeek:
    """Build it in an empty folder; `work` takes what is needed on the way."""
    con = nyc_clean.session()
    nyc_clean.load_facts(con, work, FIRST, LAST)
    nyc_clean.create_clean(con)
    settings = Settings(home=home)
    lo = datetime.combine(FIRST, time(), UTC)
    for name, table in FEATURE_TABLES.items():
        rows = table.build(con, lo, NOW + timedelta(hours=6)).to_arrow_table()
        write_deltalake(str(settings.lake_root / "feature" / name), rows, partition_by=["month"])
    until = f"WHERE decision_at <= TIMESTAMPTZ '{NOW.isoformat()}' ORDER BY decision_at, departure_id"
    spines = {
        name: con.sql(f"SELECT * FROM ({use_case.spine_sql}) {until}").to_arrow_table()
        for name, use_case in USE_CASES.items()
    }
    con.close()
    resource = FeatureStoreResource(home=str(home))
    resource.apply()
    return FeatureWeek(resource, spines)


def sample(table: pa.Table, rows: int) -> pa.Table:
    """About so many rows, spread evenly."""
    step = max(1, table.num_rows // rows)
    return table.take(pa.array(range(0, table.num_rows, step)))


def cells(table: pa.Table, names: tuple[str, ...]) -> list[tuple[Any, ...]]:
    """Row by row the values of some columns."""
    return list(zip(*(table[name].to_pylist() for name in names), strict=True))
