"""The row fingerprint: equal exactly when the same rows are there, in whatever order, files or number of shards."""

from __future__ import annotations

import duckdb

from contrail.duck import quote_identifier as q

PRIME = 9_223_372_036_854_775_783  # the greatest below 2^63: digests stay integers that sum without rounding


def row_fingerprint(con: duckdb.DuckDBPyConnection, source_sql: str, where: str = "true") -> str:
    """Count, sum and xor of a digest of every row over all its columns, in the order of their names.

    The digest is md5 of the row as JSON, so it does not depend on the DuckDB version.

    Args:
        source_sql: what stands after FROM. Columns that begin with ``_`` are provenance and not content.
        where: a condition over its columns.
    """
    names = [str(row[0]) for row in con.execute(f"DESCRIBE SELECT * FROM {source_sql}").fetchall()]
    content = sorted(name for name in names if not name.startswith("_"))
    packed = ", ".join(f"{q(name)} := {q(name)}" for name in content)
    row = con.execute(
        f"""SELECT count(*), coalesce(sum(d), 0), coalesce(bit_xor(d), 0)
            FROM (SELECT (md5_number(to_json(struct_pack({packed}))::VARCHAR) % {PRIME})::HUGEINT AS d
                  FROM {source_sql} WHERE {where})"""
    ).fetchone()
    count, total, mixed = row if row is not None else (0, 0, 0)
    return f"{count}-{int(total):x}-{int(mixed):x}"
