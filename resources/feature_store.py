"""Feast, as assets are handed it: apply, historical retrieval, materialisation, one online look-up.

Feast takes seconds of CPU to import, so it is imported where the work happens.
"""

from __future__ import annotations

import hashlib
import io
import json
import re
import warnings
from collections.abc import Mapping, Sequence
from contextlib import ExitStack, closing, redirect_stdout
from dataclasses import dataclass, replace
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

import dagster as dg
import pyarrow as pa

from contrail import incremental
from contrail.asof_shards import Joined
from contrail.asof_sources import join_view, source_path
from contrail.clock import pin_utc
from contrail.feast_config import FEATURE_REPO, feature_store_yaml, online_place
from contrail.feature_changes import FeatureChange
from contrail.lake import Commit, Lake
from contrail.online_write import Materialized, materialize_view, prepare_store
from contrail.settings import Settings
from contrail.shards import Means
from feature_repo.online_vectors import OnlineVector, OnlineVectors
from resources import historical
from resources.feature_changes import changes as feature_changes
from resources.historical import Retrieval

if TYPE_CHECKING:
    from feast import FeatureService, FeatureStore, FeatureView

# What Feast prints where nothing changed: the second for every view, each time, where the online store is Redis.
_NO_CHANGE = ("No changes", "Deploying infrastructure for")
_TERMINAL_COLOUR = re.compile(r"\x1b\[[0-9;]*m")


@dataclass(frozen=True)
class Applied:
    """What `feast apply` did.

    Attributes:
        counts: kind of object -> how many are registered now.
        changes: what was created, updated or deleted, in Feast's words; empty when nothing was.
        registry_sha256: identity of what is registered, without times.
        feature_changes: what that means feature by feature, with the models concerned.
    """

    counts: Mapping[str, int]
    changes: tuple[str, ...]
    registry_sha256: str
    feature_changes: tuple[FeatureChange, ...]


class FeatureStoreResource(dg.ConfigurableResource[Any]):
    """The feature store of one home."""

    home: str

    @property
    def settings(self) -> Settings:
        return Settings(home=Path(self.home))

    @property
    def online_place(self) -> str:
        """Which online store is meant: `contrail.feast_config.online_place`."""
        return online_place(self.settings)

    def store(self) -> FeatureStore:
        """Feast's own object, for whatever is not here."""
        from feast import FeatureStore

        from contrail.asof import AsofOfflineStoreConfig
        from contrail.feast_registry import registry_lock

        pin_utc()
        settings = self.settings
        yaml = feature_store_yaml(settings)
        with ExitStack() as stack:
            # Feast would make an empty one, over whatever is there by then.
            if not settings.registry_path.exists():
                stack.enter_context(registry_lock(settings.registry_path))
            store = FeatureStore(repo_path=str(FEATURE_REPO), fs_yaml_file=yaml)
        if isinstance(offline := store.config.offline_store, AsofOfflineStoreConfig):
            offline.threads, offline.memory_limit = settings.threads, settings.memory_limit
        return store

    def apply(self) -> Applied:
        """Register what `feature_repo.feature_views` declares, and delete what it no longer does: `feast apply`.

        Raises:
            RegistryBusyError: another process changes the registry, and does not end.
        """
        from contrail.feast_registry import changing

        store = self.store()
        with changing(store.registry, store.project):
            return self._apply(store)

    def _apply(self, store: FeatureStore) -> Applied:
        from feast.feature_view import DUMMY_ENTITY
        from feast.project import Project
        from feast.repo_contents import RepoContents
        from feast.repo_operations import apply_total_with_repo_instance

        from feature_repo.feature_views import declare

        declared = declare(self.settings.lake_root)
        registered = {view.name: view for view in store.list_feature_views()}
        for view in declared.views:
            # To Feast a view that was materialised since differs from its declaration, which has no intervals.
            if view.name in registered:
                view.materialization_intervals = registered[view.name].materialization_intervals
        changed = feature_changes(store, declared, self._lake())
        contents = RepoContents(
            projects=[Project(name=store.project)],
            entities=[*declared.entities, DUMMY_ENTITY],
            data_sources=list(declared.sources),
            feature_views=list(declared.views),
            on_demand_feature_views=list(declared.on_demand),
            feature_services=list(declared.services),
            stream_feature_views=[],
            label_views=[],
            permissions=[],
        )
        prepare_store(store.config, list(declared.views))
        said = io.StringIO()
        # Feast's command line prints its plan; here it is part of the answer. Its on-demand views are "experimental"
        # for their speed in retrieval, where this project computes them itself.
        with redirect_stdout(said), warnings.catch_warnings():
            warnings.simplefilter("ignore", RuntimeWarning)
            apply_total_with_repo_instance(
                store, store.project, store.registry, contents, skip_source_validation=True
            )
        lines = (line.strip() for line in _TERMINAL_COLOUR.sub("", said.getvalue()).splitlines())
        return Applied(
            counts={
                "entities": len(declared.entities),
                "feature_views": len(declared.views),
                "on_demand_feature_views": len(declared.on_demand),
                "feature_services": len(declared.services),
            },
            changes=tuple(line for line in lines if line and not line.startswith(_NO_CHANGE)),
            registry_sha256=registry_sha256(store),
            feature_changes=changed,
        )

    def pending_changes(self) -> tuple[FeatureChange, ...]:
        """What `apply` would change, feature by feature; nothing is registered."""
        from feature_repo.feature_views import declare

        return feature_changes(self.store(), declare(self.settings.lake_root), self._lake())

    def historical(self, rows: pa.Table, service: str) -> tuple[pa.Table, dict[str, int]]:
        """Each row's vector as it was known at the row's decision time.

        The stored features come through the same join as Feast's `get_historical_features`; the request-time features
        are computed on columns, which Feast's on-demand views do row by row with the same result.

        Args:
            rows: one row per decision: ``decision_at``, the join keys and the request columns; more columns may be
                there and stay.
            service: name of the feature service.

        Returns:
            The rows in their order: their own columns, then the service's features in its order (a column that is
            itself a feature stands there once). And lake table -> version, of every table that was read.

        Raises:
            ValueError: a column is missing, or named like a computed feature.
        """
        from contrail.asof import session

        store, settings = self.store(), self.settings
        retrieval = self._retrieval(store, service)
        made = historical.vectors(
            retrieval,
            rows,
            session=lambda: session(store.config),
            lake_root=settings.lake_root,
            means=Means.of(settings),
        )
        return made, retrieval.versions

    def write_historical(
        self,
        table: str,
        spine_sql: str,
        service: str,
        *,
        spine_tables: Mapping[str, str],
        order_by: Sequence[str],
        columns: Sequence[str],
        commit: Commit,
        known_at_column: str | None = None,
    ) -> Joined:
        """`historical` for the rows of a query, straight into a table, whose content they become in one commit.

        Neither the rows nor their vectors are held in this process as a whole.

        Args:
            table: an unpartitioned table of the lake; it is created where it does not exist.
            spine_sql: a SELECT over `spine_tables` (name in it -> ``stage/name@v3``) that yields the columns that
                `historical` needs of its rows.
            order_by: columns of it that make its rows unique.
            columns: what is kept of its columns and the vector.
            commit: what is read is added to its inputs.
            known_at_column: a further column: the greatest known-at and created-at time of the rows that were looked up
                for a vector; null where none was found.

        Raises:
            ShardError: a shard was not finished, or the query has no rows.
            LakeError: the table exists with other columns.
        """
        settings = self.settings
        return historical.vectors_into(
            Lake(settings.lake_root),
            table,
            self._retrieval(self.store(), service),
            spine_sql=spine_sql,
            spine_tables=spine_tables,
            order_by=order_by,
            columns=columns,
            commit=commit,
            means=Means.of(settings),
            known_at_column=known_at_column,
        )

    def materialize(self, now: datetime, *, start: datetime | None = None) -> tuple[Materialized, ...]:
        """Bring the online copy of every view to `now`; `source` of each report is the lake table.

        What was pushed for an instant up to which a view's table is built, and is not in the table, gives way to it.

        Args:
            now: the clock's now: nothing known or created later is copied.
            start: the first known-at time; by default what is within each view's max age.
        """
        from contrail.asof import session

        store = self.store()
        views = {
            view.name: source_path(store.config, view.batch_source) for view in store.list_feature_views()
        }
        with closing(session(store.config)) as con:
            # What is known of the table before its version is pinned holds for that version, too.
            done = [
                materialize_view(
                    store,
                    view,
                    now=now,
                    start=start,
                    whole_until=incremental.built_until(self._lake(), self._table(views[view])),
                    con=con,
                )
                for view in sorted(views)
            ]
        return tuple(replace(one, source=self._table(one.source)) for one in done)

    def online_vectors(self, service: str) -> OnlineVectors:
        """A feature service, resolved once, to make online vectors of as often as one likes."""
        return OnlineVectors(self.store(), service)

    def online(self, service: str, rows: Sequence[Mapping[str, Any]], *, now: datetime) -> list[OnlineVector]:
        """The online vectors of some entities, once: `OnlineVectors.read`."""
        vectors = self.online_vectors(service)
        try:
            return vectors.read(rows, now=now)
        finally:
            vectors.reader.close()

    def _lake(self) -> Lake:
        return Lake(self.settings.lake_root)

    def _retrieval(self, store: FeatureStore, service: str) -> Retrieval:
        asked = store.get_feature_service(service)
        pins: dict[str, int] = {}
        views = [
            (join_view(store.config, view, names, pins), source_path(store.config, view.batch_source))
            for view, names in _stored_features(store, asked)
        ]
        return Retrieval(
            service=service,
            views=tuple((view, f"{self._table(path)}@v{pins[path]}") for view, path in views),
            features=tuple(_names(asked)),
        )

    def _table(self, path: str) -> str:
        return Path(path).relative_to(self.settings.lake_root.resolve()).as_posix()


def _names(service: FeatureService) -> list[str]:
    return [
        feature.name for projection in service.feature_view_projections for feature in projection.features
    ]


def _stored_features(store: FeatureStore, service: FeatureService) -> list[tuple[FeatureView, list[str]]]:
    """The feature views that a service reads, with the features it needs of each; also for its on-demand views."""
    views = {view.name: view for view in store.list_feature_views()}
    wanted: dict[str, dict[str, None]] = {}
    for projection in service.feature_view_projections:
        if projection.name in views:
            sources = [projection]
        else:
            on_demand = store.get_on_demand_feature_view(projection.name)
            sources = list(on_demand.source_feature_view_projections.values())
        for source in sources:
            wanted.setdefault(source.name, {}).update(
                dict.fromkeys(feature.name for feature in source.features)
            )
    return [(views[name], list(features)) for name, features in wanted.items()]


def registry_sha256(store: FeatureStore) -> str:
    """The identity of what is registered: every object as declared, without times and materialised intervals."""
    from google.protobuf.json_format import MessageToDict

    registry = store.registry.proto()
    kinds = ("entities", "data_sources", "feature_views", "on_demand_feature_views", "feature_services")
    objects = [
        json.dumps([kind, _without_times(MessageToDict(message))], sort_keys=True)
        for kind in kinds
        for message in getattr(registry, kind)
    ]
    return hashlib.sha256("\n".join(sorted(objects)).encode()).hexdigest()


def _without_times(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _without_times(item) for key, item in value.items() if key != "meta"}
    return [_without_times(item) for item in value] if isinstance(value, list) else value
