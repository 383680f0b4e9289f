"""By which code a feature table was built, as its commits say: rows of two meanings do not belong in one table."""

from __future__ import annotations

from collections.abc import Iterable

import dagster as dg

from contrail.lake import Lake
from feature_repo.feature_pieces import table_code
from features.tables import FEATURE_TABLES

FACT = "feature_code"
"""The fact of a feature table's commit that names the code."""
PREFIX = "feature/"


def require_own_code(lake: Lake, tables: Iterable[str]) -> None:
    """See that feature tables hold what today's code makes.

    Args:
        tables: ``feature/<name>``; others, and those that are not there, are passed over.

    Raises:
        dagster.Failure: one was built by code that means something else.
    """
    other = [name for name in tables if name.startswith(PREFIX) and _differs(lake, name)]
    if other:
        raise dg.Failure(
            f"{', '.join(other)}: built by code that meant something else than today's. Materialise with the "
            "configuration `rebuild: true`, which begins at the first landed day again, or restore the code",
            allow_retries=False,
        )


def _differs(lake: Lake, table: str) -> bool:
    name = table.removeprefix(PREFIX)
    if name not in FEATURE_TABLES or not lake.exists(table):
        return False
    recorded = [record.extra[FACT] for record in lake.commits(table) if FACT in record.extra]
    return bool(recorded) and recorded[-1] != table_code(name)
