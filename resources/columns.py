"""Column documentation as Dagster shows it: type, description and unit of every published column."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

import dagster as dg

NO_UNIT = "none"


def schema_metadata(columns: Iterable[tuple[str, str, str, str | None]]) -> Mapping[str, object]:
    """Asset metadata that documents columns: (name, type, description, unit)."""
    return {
        "dagster/column_schema": dg.TableSchema(
            columns=[
                dg.TableColumn(name, type_, description=description, tags={"unit": unit or NO_UNIT})
                for name, type_, description, unit in columns
            ]
        )
    }
