"""The peer's feature retrieval: Feast's own DuckDB offline store over the same Delta feature tables.

As a program it retrieves the vectors of some decisions of a finished home and prints what that took. Feast's store
needs ibis, which `feast[duckdb]` brings; and it asks DuckDB to INSTALL its delta extension, which `install_extension`
does from the wheel, into the HOME of this process: give it a private one.
"""

from __future__ import annotations

import json
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import duckdb
import pyarrow as pa

from contrail import duck, incremental
from contrail.clock import pin_utc
from contrail.lake import Lake
from contrail.settings import Settings
from feature_repo.use_cases import LATE_FLIGHT_2H

if TYPE_CHECKING:
    import pandas as pd
    from feast import FeatureStore


def install_extension() -> None:
    """Put DuckDB's delta extension where Feast's store looks for it, below HOME."""
    with duckdb.connect() as con:
        con.execute(f"INSTALL {duck.quote_literal(str(duck.delta_extension_path()))}")


def store(source: Settings, folder: Path) -> FeatureStore:
    """A Feast store with the project's views over the feature tables of `source`, registered below `folder`."""
    from feast import FeatureStore, RepoConfig

    from feature_repo.feature_views import declare

    is_new = not (folder / "registry.db").exists()
    made = FeatureStore(
        config=RepoConfig(
            project="ordinary",
            provider="local",
            registry=str(folder / "registry.db"),
            online_store={"type": "sqlite", "path": str(folder / "online.db")},
            offline_store={"type": "duckdb"},
            entity_key_serialization_version=3,
        )
    )
    if is_new:
        made.apply(list(declare(source.lake_root)))
    return made


def vectors(feast: FeatureStore, spine: pa.Table) -> pd.DataFrame:
    """The feature service's answer for decisions, as Feast's users ask for it."""
    frame = spine.to_pandas()
    frame["event_timestamp"] = frame[LATE_FLIGHT_2H.decision_column]
    service = feast.get_feature_service(LATE_FLIGHT_2H.feature_service)
    found = feast.get_historical_features(entity_df=frame, features=service).to_df()
    return found.loc[:, ~found.columns.duplicated()]  # keys that are features too come twice


def spine(settings: Settings, tail: str) -> pa.Table:
    """Decisions of a lake: the use case's spine, and what else the query says (WHERE, ORDER BY, LIMIT)."""
    with duck.connect(threads=settings.threads) as con:
        incremental.pin(Lake(settings.lake_root), con, {"departures": "clean/departures"})
        return con.sql(f"SELECT * FROM ({LATE_FLIGHT_2H.spine_sql}) {tail}").to_arrow_table()


def main(home: Path, folder: Path, rows: int) -> dict[str, Any]:
    """Retrieve `rows` labelled decisions drawn from the whole range; what it took after the imports."""
    pin_utc()
    install_extension()
    settings = Settings(home=home)
    feast = store(settings, folder)
    known = f"WHERE {LATE_FLIGHT_2H.label} IS NOT NULL"
    asked = spine(settings, f"{known} ORDER BY hash({LATE_FLIGHT_2H.entity_key}) LIMIT {rows}")
    began = time.process_time()
    found = vectors(feast, asked)
    return {"rows": len(found), "cpu": time.process_time() - began}


if __name__ == "__main__":
    print(json.dumps(main(Path(sys.argv[1]), Path(sys.argv[2]), int(sys.argv[3]))))
