"""One lookup for what a published column means, whoever declares it."""

from __future__ import annotations

from contrail.column_docs import COLUMNS as LIBRARY
from contrail.column_docs import ColumnDoc
from feature_repo.column_docs import COLUMNS as DOMAIN
from features.documentation import ALL_FEATURES


def describe(name: str) -> ColumnDoc:
    """(SQL type, description, unit) of a column.

    Raises:
        KeyError: nobody says what it means; a published column must be described.
    """
    if name in ALL_FEATURES:
        feature = ALL_FEATURES[name]
        return feature.sql_type, feature.description, feature.unit
    if name in DOMAIN:
        return DOMAIN[name]
    if name in LIBRARY:
        return LIBRARY[name]
    raise KeyError(
        f"the column {name!r} is described nowhere: add it to contrail/column_docs.py or feature_repo/column_docs.py"
    )
