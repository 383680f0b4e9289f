"""A Feast feature service, resolved once into what a reader needs: which views, under which names, with which keys."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

from contrail.online_layout import KEY_TYPES, VALUE_TYPES, OnlineError
from contrail.online_views import OnlineView, online_view

if TYPE_CHECKING:
    from feast import FeatureStore
    from feast.feature_view_projection import FeatureViewProjection


@dataclass(frozen=True)
class ServedView:
    """One view as a service reads it.

    Attributes:
        name: what the service calls it: its alias, else its own name.
        view: with the features that are read, in order.
        asked: join key -> what a request calls it; differs where the service renames a key.
        outputs: the features' names in an answer, in the order of `view.features`.
    """

    name: str
    view: OnlineView
    asked: Mapping[str, str]
    outputs: tuple[str, ...]


@dataclass(frozen=True)
class ServedService:
    """A feature service.

    Attributes:
        features: all its features in its order; those that no view stores are computed with the request.
        views: the stored views; also those that only feed its on-demand views.
        homes: feature -> what the service calls its view, stored or on-demand.
        sources: on-demand view -> the views in `views` that feed it.
    """

    name: str
    features: tuple[str, ...]
    views: tuple[ServedView, ...]
    homes: Mapping[str, str]
    sources: Mapping[str, tuple[str, ...]]


def _refuse_other_types(view: OnlineView) -> None:
    for key, kind in view.keys.items():
        if kind not in KEY_TYPES:
            raise OnlineError(f"{view.name}: join key {key!r} is of type {kind}; known: {sorted(KEY_TYPES)}")
    for feature, kind in view.features.items():
        if kind not in VALUE_TYPES:
            raise OnlineError(
                f"{view.name}: feature {feature!r} is of type {kind}; known: {sorted(VALUE_TYPES)}"
            )


def served_view(view: OnlineView) -> ServedView:
    """A view under its own names.

    Raises:
        OnlineError: a key or a feature is of a type that is not served.
    """
    _refuse_other_types(view)
    return ServedView(view.name, view, {key: key for key in view.keys}, tuple(view.features))


def served_service(store: FeatureStore, service: str, *, full_feature_names: bool = False) -> ServedService:
    """Look a feature service up in the registry.

    Args:
        full_feature_names: call a feature ``<view>__<feature>``, as Feast does.

    Raises:
        OnlineError: there is no such service, it names one feature twice, or it pins the version of a view.
    """
    from feast.errors import FeatureServiceNotFoundException

    try:
        found = store.get_feature_service(service)
    except FeatureServiceNotFoundException as error:
        known = sorted(one.name for one in store.list_feature_services())
        raise OnlineError(
            f"there is no feature service {service!r}; registered: {', '.join(known) or 'none, run `feast apply`'}"
        ) from error
    on_demand = {view.name: view for view in store.list_on_demand_feature_views()}
    homes: dict[str, str] = {}
    feeding: dict[str, tuple[str, ...]] = {}
    wanted: dict[str, tuple[FeatureViewProjection, dict[str, None]]] = {}

    def output(projection: FeatureViewProjection, feature: str) -> str:
        return f"{projection.name_to_use()}__{feature}" if full_feature_names else feature

    for projection in found.feature_view_projections:
        if projection.version_tag is not None:
            raise OnlineError(f"{service}: version {projection.version_tag} of {projection.name} is pinned")
        for feature in projection.features:
            name = output(projection, feature.name)
            if name in homes:
                raise OnlineError(
                    f"{service}: {homes[name]} and {projection.name_to_use()} both have a feature {name!r}: "
                    "ask for full feature names"
                )
            homes[name] = projection.name_to_use()
        sources = [projection]
        if projection.name in on_demand:
            sources = list(on_demand[projection.name].source_feature_view_projections.values())
            feeding[projection.name_to_use()] = tuple(source.name_to_use() for source in sources)
        for source in sources:
            _, features = wanted.setdefault(source.name_to_use(), (source, {}))
            features.update(dict.fromkeys(feature.name for feature in source.features))
    views: list[ServedView] = []
    for name, (projection, features) in wanted.items():
        view = online_view(store.config, store.get_feature_view(projection.name), list(features))
        _refuse_other_types(view)
        asked = {key: projection.join_key_map.get(key, key) for key in view.keys}
        views.append(ServedView(name, view, asked, tuple(output(projection, f) for f in features)))
    return ServedService(service, tuple(homes), tuple(views), homes, feeding)
