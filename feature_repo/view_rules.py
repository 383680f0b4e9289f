"""What the freshness of each feature view is judged by."""

from __future__ import annotations

from contrail.view_freshness import ViewRules
from features.tables import FEATURE_TABLES

ONLINE_TABLE = "feature_store/online"
"""The lake table in which every materialisation says of each view which version it copied, and until when."""


def view_rules() -> list[ViewRules]:
    """One per feature table, in their order."""
    return [
        ViewRules(
            view=table.name,
            table=f"feature/{table.name}",
            sources=table.sources,
            keys=table.keys,
            max_age=table.max_age,
            has_priors=any(column.prior is not None for column in table.columns),
        )
        for table in FEATURE_TABLES.values()
    ]
