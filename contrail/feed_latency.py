"""Feed latency: how long after something was known its row reached us."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import duckdb
import pyarrow as pa

from contrail import landing
from contrail.lake import Lake

SCHEMA = pa.schema(
    [
        pa.field("feed", pa.string()),
        pa.field("month", pa.date32()),
        pa.field("rows", pa.int64()),
        pa.field("latency_median_minutes", pa.float64()),
        pa.field("latency_p95_minutes", pa.float64()),
        pa.field("latency_max_minutes", pa.float64()),
    ]
)


def measure(
    lake: Lake, con: duckdb.DuckDBPyConnection, landing_root: Path, feeds: Sequence[str]
) -> tuple[pa.Table, tuple[str, ...]]:
    """Latency per feed and month of `known_at`, in minutes, and the table versions that were read.

    Args:
        feeds: raw tables, ``raw/name``; their rows name their file, whose manifest says when it was delivered. Name and
            hash: the same content may have been delivered more than once.
    """
    tables: list[pa.Table] = []
    inputs: list[str] = []
    for feed in feeds:
        if not lake.exists(feed):
            continue
        version = lake.version(feed)
        inputs.append(lake.ref(feed, version))
        table = feed.partition("/")[2]
        delivered = landing.deliveries(landing_root, table)
        con.register(
            "delivered",
            pa.table(
                {
                    "name": pa.array([f"{table}/{d.path.name}" for d in delivered], pa.string()),
                    "sha256": pa.array([d.sha256 for d in delivered], pa.string()),
                    "delivered_at": pa.array(
                        [d.delivered_at for d in delivered], pa.timestamp("us", tz="UTC")
                    ),
                }
            ),
        )
        tables.append(
            con.execute(
                f"""SELECT ? AS feed, date_trunc('month', known_at)::DATE AS month, count(*) AS rows,
                           median(age) AS latency_median_minutes, quantile_cont(age, 0.95) AS latency_p95_minutes,
                           max(age) AS latency_max_minutes
                    FROM (SELECT r.known_at, date_diff('second', r.known_at, d.delivered_at) / 60.0 AS age
                          FROM {lake.scan(feed, version)} AS r
                          JOIN delivered AS d ON r._source_file = d.name AND r._source_sha256 = d.sha256
                          WHERE NOT r.is_retracted)
                    GROUP BY ALL ORDER BY ALL""",
                [feed],
            )
            .to_arrow_table()
            .cast(SCHEMA)
        )
        con.unregister("delivered")
    return (pa.concat_tables(tables) if tables else SCHEMA.empty_table()), tuple(inputs)
