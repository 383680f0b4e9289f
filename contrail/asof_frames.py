"""Entity frames as the point-in-time join wants them: an Arrow table of its own, and the name of its decision time.

pandas and Feast are imported inside the functions, as in `contrail.asof_sources`.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import closing
from datetime import datetime
from typing import TYPE_CHECKING

import duckdb
import pyarrow as pa
import pyarrow.compute as pc

if TYPE_CHECKING:
    import pandas as pd


def entity_table(
    entity_df: pd.DataFrame | pa.Table | str, session: Callable[[], duckdb.DuckDBPyConnection]
) -> tuple[pa.Table, str]:
    """The entity frame as a new Arrow table, and the name of its decision time. The caller's frame stays as it is.

    Args:
        entity_df: a pandas frame (its index is left out), an Arrow table, or a SQL query that `session` can answer.

    Raises:
        ValueError: two columns have one name.
        EntityTimestampInferenceException: there is no ``event_timestamp``, and not exactly one other timestamp.
    """
    if isinstance(entity_df, str):
        with closing(session()) as con:
            table = con.sql(entity_df).to_arrow_table()
    elif isinstance(entity_df, pa.Table):
        table = entity_df
    else:
        table = _from_pandas(entity_df)
    if len(set(table.column_names)) < table.num_columns:
        raise ValueError(f"the entity frame has columns of the same name: {table.column_names}")
    for number, field in enumerate(table.schema):
        if pa.types.is_null(field.type):  # an all-null pandas column has no type; a text may be null
            table = table.set_column(number, field.name, table.column(number).cast(pa.string()))
    decision_column = _decision_column(table.schema)
    if not pa.types.is_timestamp(table.schema.field(decision_column).type):  # text, or days
        import pandas as pd

        number = table.column_names.index(decision_column)
        instants = pd.to_datetime(table.column(number).to_pandas(), utc=True)
        table = table.set_column(number, decision_column, pa.array(instants))
    return table, decision_column


def _from_pandas(frame: pd.DataFrame) -> pa.Table:
    import pandas as pd
    from feast.infra.offline_stores.offline_utils import DEFAULT_ENTITY_DF_EVENT_TIMESTAMP_COL as DEFAULT

    if frame.columns.duplicated().any():
        raise ValueError(f"the entity frame has columns of the same name: {list(frame.columns)}")
    if DEFAULT in frame.columns and not pd.api.types.is_datetime64_any_dtype(frame[DEFAULT]):
        # Here already: instants of several zones in one column are nothing that Arrow takes.
        frame = frame.assign(**{DEFAULT: pd.to_datetime(frame[DEFAULT], utc=True)})
    return pa.Table.from_pandas(frame, preserve_index=False)


def _decision_column(schema: pa.Schema) -> str:
    from feast.errors import EntityTimestampInferenceException
    from feast.infra.offline_stores.offline_utils import DEFAULT_ENTITY_DF_EVENT_TIMESTAMP_COL as DEFAULT

    if DEFAULT in schema.names:
        return DEFAULT
    timestamps = [field.name for field in schema if pa.types.is_timestamp(field.type)]
    if len(timestamps) != 1:
        raise EntityTimestampInferenceException(DEFAULT)
    return timestamps[0]


def span(table: pa.Table, column: str) -> tuple[datetime | None, datetime | None]:
    """The first and the last instant of a timestamp column, aware; None where there is none."""
    from feast.utils import make_tzaware

    least_and_greatest = pc.call_function("min_max", [table[column]]).as_py()
    first, last = least_and_greatest["min"], least_and_greatest["max"]
    return (None, None) if first is None else (make_tzaware(first), make_tzaware(last))
