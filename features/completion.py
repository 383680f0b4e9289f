"""Joined rows become rows with whole feature vectors: the same function after a join of one piece and of many."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pyarrow as pa
import pyarrow.compute

from features.request_time import leg_columns, request_columns, request_time_features
from features.vectors import PRIORS, fill_priors

pc: Any = pyarrow.compute  # its functions are made at import, unknown to the type checker
_INSTANT = pa.timestamp("us", tz="UTC")


def complete_rows(
    rows: pa.Table, features: Sequence[str], known_at: Sequence[str] = (), times: Sequence[str] = ()
) -> pa.Table:
    """Compute the request-time features and fill the priors of rows that were joined with the stored features.

    Row by row: a row's vector does not depend on which rows come with it.

    Args:
        rows: their own columns, the `request_columns` of the features among them, and the stored features, with the
            `leg_columns` of the features.
        features: names of the vector, in its order.
        known_at: one name: of a further column, the greatest of `times` in each row, null where all are. Without it
            there is no such column.
        times: columns of `rows` that say when what was looked up was known; they are left out.

    Returns:
        The rows in their order: their own columns, then `features` (a column that is itself a feature stands there
        once), then `known_at`. The leg columns served the computation and are left out.

    Raises:
        RequestError: a request column has nulls.
        KeyError: a column is missing.
    """
    legs = leg_columns(features)
    looked_up = {*features, *legs} & PRIORS.keys()
    stored = {name: rows[name] for name in rows.column_names if name in looked_up}
    request = {name: rows[name] for name in (*request_columns(features), *legs)}
    values = fill_priors(stored) | request_time_features(request, features)
    left_out = {*features, *stored, *times}
    own = {name: rows[name] for name in rows.column_names if name not in left_out}
    known = {name: _greatest(rows, times) for name in known_at}
    return pa.table(own | {name: values[name] for name in features} | known)


def _greatest(rows: pa.Table, times: Sequence[str]) -> Any:
    if not times:
        return pa.nulls(rows.num_rows, _INSTANT)
    # As integers: Arrow has no such function for instants with a zone.
    counted = (rows[name].cast(_INSTANT).cast(pa.int64()) for name in times)
    return pc.max_element_wise(*counted, skip_nulls=True).cast(_INSTANT)
