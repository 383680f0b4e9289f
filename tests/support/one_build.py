"""Feature tables that grew run by run, against one build over the clean rows as they are in the end."""

from __future__ import annotations

from datetime import UTC, date, datetime

from contrail import duck, incremental
from features.tables import FEATURE_TABLES
from tests.support.whole_graph import Home


def features_differing_from_one_build(home: Home, first: date) -> list[str]:
    """The tables that hold other rows, with files late, replaced and corrected, than one build from `first` gives."""
    differing: list[str] = []
    for name, table in FEATURE_TABLES.items():
        stored = home.lake.scan(f"feature/{name}")
        with duck.connect() as con:
            incremental.pin(home.lake, con, {s.rpartition("/")[2]: s for s in table.sources})
            until = incremental.built_until(home.lake, f"feature/{name}")
            assert until is not None, name
            whole = table.build(con, datetime(first.year, first.month, first.day, tzinfo=UTC), until)
            con.execute(f"CREATE TEMP TABLE whole AS {whole.sql_query()}")
            columns = ", ".join(table.column_names)
            row = con.execute(
                f"SELECT count(*) FROM ((SELECT {columns} FROM whole EXCEPT ALL SELECT {columns} FROM {stored}) "
                f"UNION ALL (SELECT {columns} FROM {stored} EXCEPT ALL SELECT {columns} FROM whole))"
            ).fetchone()
        if row != (0,):
            differing.append(f"{name}: {row[0] if row else '?'} rows")
    return differing
