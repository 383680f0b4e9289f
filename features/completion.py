"""Joined rows become rows with whole feature vectors: the same function after a join of one piece and of many."""

from __future__ import annotations

from collections.abc import Sequence

import pyarrow as pa

from features.request_time import LEG_COLUMNS, REQUEST_COLUMNS, request_time_features
from features.vectors import PRIORS, fill_priors


def complete_rows(rows: pa.Table, features: Sequence[str]) -> pa.Table:
    """Compute the request-time features and fill the priors of rows that were joined with the stored features.

    Row by row: a row's vector does not depend on which rows come with it.

    Args:
        rows: their own columns, `REQUEST_COLUMNS` among them, and the stored features, `LEG_COLUMNS` among them.
        features: names of the vector, in its order.

    Returns:
        The rows in their order: their own columns, then `features` (a column that is itself a feature stands there
        once). `LEG_COLUMNS` served the computation and are left out.

    Raises:
        RequestError: a request column has nulls.
        KeyError: a column is missing.
    """
    looked_up = {*features, *LEG_COLUMNS} & PRIORS.keys()
    stored = {name: rows[name] for name in rows.column_names if name in looked_up}
    computed = request_time_features({name: rows[name] for name in (*REQUEST_COLUMNS, *LEG_COLUMNS)})
    values = fill_priors(stored) | computed
    left_out = {*features, *stored}
    own = {name: rows[name] for name in rows.column_names if name not in left_out}
    return pa.table(own | {name: values[name] for name in features})
