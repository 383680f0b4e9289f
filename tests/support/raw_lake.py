"""Raw Delta tables made straight from the facts of the source, without landing and contracts.

For tests of what is built on raw; faults and corrections are planted by the test, as SQL.
"""

from datetime import UTC, date, datetime, time, timedelta
from pathlib import Path

import duckdb

from contrail import duck
from contrail.lake import Commit, Lake
from sources import nycflights_facts
from sources.nycflights_tables import find_source, load

PARTITIONED_BY = {
    "flight_schedules": "service_date",
    "aircraft_assignments": "feed_date",
    "flight_events": "feed_date",
    "weather": "feed_date",
    "planes": None,
    "airports": None,
    "airlines": None,
}
PERSONAL = {"aircraft_assignments": ["tail_number"], "planes": ["tail_number"]}


def feed_day_ends(day: date) -> datetime:
    """The end of a feed day."""
    return datetime.combine(day + timedelta(days=1), time(7), UTC)


def facts(work: Path, *, flights: str = "true") -> duckdb.DuckDBPyConnection:
    """A session with a table ``raw_<table>`` per raw table, all of it delivered on time.

    Args:
        work: an empty folder.
        flights: a condition on the source's flights; the other tables are whole.
    """
    con = duck.connect()
    load(con, find_source(None), work)
    con.execute(f"DELETE FROM source_flights WHERE NOT coalesce({flights}, false)")
    nycflights_facts.build(con)
    for table, partition in PARTITIONED_BY.items():
        feed_date = ", partition AS feed_date" if partition == "feed_date" else ""
        con.execute(f"""
CREATE TABLE raw_{table} AS
WITH dated AS (SELECT * EXCLUDE (partition){feed_date}, coalesce(partition::VARCHAR, 'all') AS stem
               FROM facts_{table})
SELECT * EXCLUDE (stem), known_at AS created_at, false AS is_retracted,
       '{table}/' || stem || '.csv.gz' AS _source_file, sha256(_source_file) AS _source_sha256,
       row_number() OVER (PARTITION BY stem ORDER BY {", ".join(nycflights_facts.KEYS[table])}) AS _source_row,
       _source_sha256 || ':' || _source_row AS _raw_id
FROM dated""")
    return con


class RawLake:
    """A lake whose raw tables are filled from `con`, or from any other query of the same columns."""

    def __init__(self, root: Path, con: duckdb.DuckDBPyConnection) -> None:
        self.lake = Lake(root)
        self.con = con

    def append(self, table: str, query: str) -> None:
        """Add the rows of a query over ``raw_<table>``."""
        rows = self.con.execute(query).to_arrow_table()
        partition = PARTITIONED_BY[table]
        self.lake.create(
            f"raw/{table}",
            rows.schema,
            partition_by=[partition] if partition else [],
            personal=PERSONAL.get(table, []),
        )
        commit = Commit(asset=f"raw/{table}", run_id="raw", inputs=("sha256:" + 64 * "0",))
        self.lake.append(f"raw/{table}", rows, commit)

    def append_days(self, first: date, last: date, *, leave_out: tuple[str, ...] = ()) -> None:
        """Add what was delivered for these days, schedules and feeds."""
        for table, partition in PARTITIONED_BY.items():
            if partition and table not in leave_out:
                self.append(
                    table, f"FROM raw_{table} WHERE {partition} BETWEEN DATE '{first}' AND DATE '{last}'"
                )

    def append_reference(self, *, leave_out: tuple[str, ...] = ()) -> None:
        """Add the tables that do not come daily."""
        for table, partition in PARTITIONED_BY.items():
            if not partition and table not in leave_out:
                self.append(table, f"FROM raw_{table}")

    def file(self, table: str, query: str, delivered_at: datetime, *, supersedes: date | None = None) -> None:
        """Deliver the rows of a query late, or in place of the whole file of a day.

        Like the ingestion does: a superseding file retracts the keys that it lacks.
        """
        name = f"{table}/late-{delivered_at:%Y%m%dT%H%M}.csv.gz"
        key = ", ".join(nycflights_facts.KEYS[table])
        at = f"TIMESTAMPTZ '{delivered_at.isoformat()}'"
        changed = f"""
SELECT * REPLACE ({at} AS created_at, '{name}' AS _source_file, sha256('{name}') AS _source_sha256,
                  row_number() OVER (ORDER BY {key}) AS _source_row,
                  sha256('{name}') || ':' || row_number() OVER (ORDER BY {key}) AS _raw_id)
FROM ({query})"""
        if supersedes is not None:
            partition = PARTITIONED_BY[table]
            changed += f"""
UNION ALL BY NAME
SELECT * REPLACE ({at} AS created_at, true AS is_retracted, _raw_id || ':retracted' AS _raw_id)
FROM raw_{table} WHERE {partition} = DATE '{supersedes}' AND ({key}) NOT IN (SELECT ({key}) FROM ({query}))"""
        self.append(table, changed)
