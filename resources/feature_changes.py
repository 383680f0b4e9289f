"""Which features differ from what Feast has registered, and which models that concerns."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import TYPE_CHECKING

import dagster as dg

from contrail import feature_changes, model_features
from contrail.feature_changes import FeatureChange, FeatureState
from contrail.lake import Lake
from feature_repo.feature_docs import DEPRECATED_TAG, USED_BY_TAG, named_models, used_by
from feature_repo.use_cases import USE_CASES
from features.documentation import ALL_FEATURES

if TYPE_CHECKING:
    from feast import FeatureStore, FeatureView, OnDemandFeatureView

    from feature_repo.feature_views import Declared

CHANGE_SCHEMA = dg.TableSchema(
    columns=[
        dg.TableColumn("feature", "string", "The feature."),
        dg.TableColumn("view", "string", "Its feature view."),
        dg.TableColumn("kind", "string", "removed, deprecated or changed."),
        dg.TableColumn("what", "string", "The differences, registered → declared."),
        dg.TableColumn("models", "string", "The models concerned: declared ones, and registered versions."),
    ]
)


def changes(store: FeatureStore, declared: Declared, lake: Lake) -> tuple[FeatureChange, ...]:
    """What `feast apply` of `declared` would change, feature by feature; nothing is written."""
    registered = _states(store.list_feature_views(), store.list_on_demand_feature_views())
    return feature_changes.compare(
        registered, _states(declared.views, declared.on_demand), models_using(lake)
    )


def models_using(lake: Lake) -> Callable[[str], Sequence[str]]:
    """Feature -> the models that use it: the declared ones by name, then the registered versions."""
    registered = model_features.registered(lake, USE_CASES)

    def using(feature: str) -> Sequence[str]:
        documented = ALL_FEATURES.get(feature)
        names = {feature, *(documented.vector_features if documented else ())}
        declared = used_by(documented) if documented else ()
        return (*declared, *(model.name for model in model_features.using(registered, names)))

    return using


def change_table(changed: Iterable[FeatureChange]) -> dg.TableMetadataValue:
    """The changes that can concern a model, as Dagster shows them; added features concern none yet."""
    return dg.MetadataValue.table(
        [
            dg.TableRecord(
                {
                    "feature": change.feature,
                    "view": change.view,
                    "kind": change.kind,
                    "what": "; ".join(change.what),
                    "models": ", ".join(change.models),
                }
            )
            for change in changed
            if change.kind != "added"
        ],
        CHANGE_SCHEMA,
    )


def _states(
    views: Iterable[FeatureView], on_demand: Iterable[OnDemandFeatureView]
) -> dict[tuple[str, str], FeatureState]:
    states: dict[tuple[str, str], FeatureState] = {}
    for view in views:
        of_view = {
            "max age": str(view.ttl),
            "key": ", ".join(view.entities),
            "table": view.tags.get("table", ""),
        }
        for field in view.features:
            words = {
                name: text for name, text in field.tags.items() if name not in (USED_BY_TAG, DEPRECATED_TAG)
            }
            states[view.name, field.name] = FeatureState(
                {"type": str(field.dtype), "description": field.description, **words, **of_view},
                field.tags.get(DEPRECATED_TAG, ""),
                named_models(field.tags.get(USED_BY_TAG, "")),
            )
    for view in on_demand:
        for field in view.features:
            states[view.name, field.name] = FeatureState(
                {"type": str(field.dtype), "description": view.tags.get(field.name, "")},
                view.tags.get(f"{field.name}.{DEPRECATED_TAG}", ""),
                named_models(view.tags.get(f"{field.name}.{USED_BY_TAG}", "")),
            )
    return states
