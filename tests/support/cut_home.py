"""A home as it was at an instant: what was known by then has landed, is built and is online, and nothing later."""

from __future__ import annotations

from datetime import datetime
from pathlib import Path

from contrail import duck
from contrail.completeness import ACCEPTED_UNTIL
from contrail.contracts import load_contracts
from contrail.incremental import BUILT_UNTIL
from contrail.lake import RUN_ID, WRITTEN_AT, Commit, Lake
from contrail.settings import Settings
from contrail.windows import utc_literal
from features.declarations import DEPARTURES
from features.live import OPEN_FOR
from features.tables import FEATURE_TABLES
from resources.feature_store import FeatureStoreResource


def cut(whole: Settings, home: Path, at: datetime) -> Settings:
    """Make it from a finished home, with the tables that pushing needs.

    Service dates that are not closed at `at` are left out of clean/departures: their rows there know what came later.
    """
    settings = Settings(home=home)
    source, lake = Lake(whole.lake_root), Lake(settings.lake_root)
    home.mkdir(parents=True)
    known = f"known_at < {utc_literal(at)}"
    closed = f"service_date < DATE '{(at - OPEN_FOR).date()}'"
    contracts = load_contracts(settings.repo_root / "contracts")
    feeds = {f"raw/{name}": known for name, contract in contracts.items() if contract.bounds_completeness}
    parts = {"raw/flight_schedules": known, **feeds, "clean/airports": "true", DEPARTURES: closed}
    parts |= {f"feature/{table.name}": known for table in FEATURE_TABLES.values()}
    extra = {ACCEPTED_UNTIL: at.isoformat(), BUILT_UNTIL: at.isoformat()}
    with duck.connect() as con:
        for table, where in parts.items():
            rows = con.execute(
                f"SELECT * EXCLUDE ({WRITTEN_AT}, {RUN_ID}) FROM {source.scan(table)} WHERE {where}"
            ).to_arrow_table()
            lake.create(table, rows.schema)
            lake.append(table, rows, Commit(table, "cut", (source.ref(table),), extra=extra))
    store = FeatureStoreResource(home=str(home))
    store.apply()
    store.materialize(at)
    return settings
