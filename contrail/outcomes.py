"""Outcomes: what came to be of each prediction, as it becomes known."""

from __future__ import annotations

from collections.abc import Sequence

import duckdb

from contrail.duck import quote_identifier as q
from contrail.use_case import UseCase


def outcome_columns(use_case: UseCase) -> tuple[str, ...]:
    """The columns that an outcome row takes from the spine, besides those that say which prediction it is of."""
    named = (
        use_case.label,
        use_case.outcome_known_column,
        *use_case.naive_group_columns,
        *use_case.slices,
    )
    own = {use_case.entity_key, use_case.partition_column, use_case.decision_column, *use_case.features}
    return tuple(name for name in dict.fromkeys(named) if name not in own)


def outcomes(
    con: duckdb.DuckDBPyConnection, use_case: UseCase, *, predictions: str, days: Sequence[str]
) -> duckdb.DuckDBPyRelation:
    """One row per prediction of these days, with the label and the instant at which it became known.

    Args:
        con: a session in which the views that the use case's spine reads stand at pinned versions.
        predictions: FROM item over the score table.
        days: partition days, ISO.

    Returns:
        prediction_id, key, day, decision time, then `outcome_columns`; label and instant are null while unknown.
    """
    listed = ", ".join(f"DATE '{day}'" for day in days)
    taken = ", ".join(f"s.{q(name)}" for name in outcome_columns(use_case))
    key, day, decided = q(use_case.entity_key), q(use_case.partition_column), q(use_case.decision_column)
    return con.sql(
        f"""SELECT p.prediction_id, p.{key}, p.{day}, p.{decided}, {taken}
            FROM (SELECT prediction_id, {key}, {day}, {decided} FROM {predictions} WHERE {day} IN ({listed})) AS p
            LEFT JOIN ({use_case.spine_sql}) AS s ON s.{key} = p.{key}
            ORDER BY p.{decided}, p.{key}"""
    )
