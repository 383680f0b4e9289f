"""A Feast feature view, as the online copy is written and read: its place, its keys, its features, its age limit."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import timedelta
from typing import TYPE_CHECKING, Any, cast

from contrail.online_layout import OnlineError

if TYPE_CHECKING:
    from feast import FeatureView
    from feast.repo_config import RepoConfig

__all__ = ["OnlineError", "OnlineView", "online_view"]


@dataclass(frozen=True)
class OnlineView:
    """What is needed to read and write one feature view online.

    Attributes:
        name: the view.
        project: Feast's project, the end of every Redis key.
        stored_name: the view's name in Redis' field names; differs from `name` where Feast versions views.
        table: its SQLite table.
        keys: join key -> name of Feast's `ValueType`.
        features: feature -> name of Feast's `ValueType`, in order.
        max_age: None: a row counts for ever.
    """

    name: str
    project: str
    stored_name: str
    table: str
    keys: Mapping[str, str]
    features: Mapping[str, str]
    max_age: timedelta | None


def online_view(config: RepoConfig, view: FeatureView, features: Sequence[str] | None = None) -> OnlineView:
    """A Feast view as the online copy wants it, with all its features or the ones named."""
    from feast.feature_view import DUMMY_ENTITY_ID
    from feast.infra.online_stores.helpers import compute_table_id, compute_versioned_name

    versioned: bool = cast("Any", config.registry).enable_online_feature_view_versioning
    kinds = {field.name: field.dtype.to_value_type().name for field in view.features}
    return OnlineView(
        name=view.name,
        project=config.project,
        stored_name=compute_versioned_name(view, versioned),
        table=compute_table_id(config.project, view, versioned),
        keys={f.name: f.dtype.to_value_type().name for f in view.entity_columns if f.name != DUMMY_ENTITY_ID},
        features={name: kinds[name] for name in (features or kinds)},
        max_age=view.ttl or None,
    )
