"""Feast offline store: point-in-time joins in DuckDB over Delta tables (Parquet files too).

In ``feature_store.yaml``::

    offline_store:
        type: contrail.asof.AsofOfflineStore

Feast finds the store by that text: the class's name has to end in ``OfflineStore``, its configuration's is the same
plus ``Config``. The join itself is `contrail.asof_join`, which needs no Feast and serves batch scoring as well.

Every Delta table that a request reads is pinned to one version, and the job reports them (`delta_versions`); old
versions are read with `read_versions`, with ``offline_store.delta_versions``, or with a source's tag ``delta.version``.

What Feast's API writes (pushed rows, saved datasets, logged features) is in `contrail.asof_writes`: Delta tables are
written by `contrail.lake` alone, whose commits name the inputs.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from datetime import datetime
from functools import partial
from pathlib import Path
from typing import Any, ClassVar

import duckdb
import numpy as np
import pandas as pd
import pyarrow as pa
from feast.data_source import DataSource
from feast.errors import FeastEntityDFMissingColumnsError
from feast.feature_logging import LoggingConfig, LoggingSource
from feast.feature_view import DUMMY_ENTITY_ID, DUMMY_ENTITY_VAL, FeatureView
from feast.infra.offline_stores.offline_store import OfflineStore, RetrievalJob, RetrievalMetadata
from feast.infra.offline_stores.offline_utils import (
    DEFAULT_ENTITY_DF_EVENT_TIMESTAMP_COL as DEFAULT_DECISION_COLUMN,
)
from feast.infra.registry.base_registry import BaseRegistry
from feast.on_demand_feature_view import OnDemandFeatureView
from feast.repo_config import FeastConfigBaseModel, RepoConfig
from feast.saved_dataset import SavedDatasetStorage
from feast.utils import compute_non_entity_date_range, make_tzaware

from contrail import asof_writes, duck
from contrail.asof_frames import entity_table, span
from contrail.asof_join import (
    JoinView,
    Rows,
    column_types,
    keys_and_times_sql,
    naive_columns,
    point_in_time_join,
)
from contrail.asof_plan import BATCH_ROWS, SPINE, Plan, PlannedJoin, PlannedQuery
from contrail.asof_sources import (
    AsofError,
    is_delta,
    join_view,
    read_versions,
    scan,
    source_path,
    unreadable,
)
from contrail.clock import pin_utc
from contrail.duck import quote_identifier as q

__all__ = [
    "AsofError",
    "AsofOfflineStore",
    "AsofOfflineStoreConfig",
    "AsofRetrievalJob",
    "JoinView",
    "point_in_time_join",
    "read_versions",
    "session",
]

_ROW_ID = "__asof_row_id"

# Every Feast process imports its offline store first, and Feast's SQLite store writes epochs that depend on the zone.
pin_utc()


class AsofOfflineStoreConfig(FeastConfigBaseModel):
    """The `offline_store` section of ``feature_store.yaml``."""

    type: str = "contrail.asof.AsofOfflineStore"
    threads: int = 2
    memory_limit: str = "4GB"
    temp_directory: str | None = None
    """Where DuckDB may spill; relative to the feature repository. Without it nothing is spilled."""
    knowledge_time: bool = True
    """Count a row only from greatest(event time, created time) on, for every request."""
    delta_versions: dict[str, int] | None = None
    """Table path (relative to the feature repository) -> version, to re-create an earlier answer; tables that are not
    named are read at their newest version. For one request: `read_versions`."""


def _config(config: RepoConfig) -> AsofOfflineStoreConfig:
    store = config.offline_store
    if not isinstance(store, AsofOfflineStoreConfig):
        raise AsofError(
            f"the offline store is configured as {type(store).__name__}, not AsofOfflineStoreConfig"
        )
    return store


def _spill(config: RepoConfig) -> Path | None:
    folder = _config(config).temp_directory
    return Path(config.repo_path or ".") / folder if folder else None


def session(config: RepoConfig) -> duckdb.DuckDBPyConnection:
    """A DuckDB session with the limits of the `offline_store` section."""
    store = _config(config)
    con = duck.connect(threads=store.threads, memory_limit=store.memory_limit, temp_directory=_spill(config))
    # The order of the answer comes from the row id alone; keeping the order of every scan would cost memory.
    con.execute("SET preserve_insertion_order = false")
    return con


class AsofRetrievalJob(RetrievalJob):
    """A planned read: versions are pinned, nothing has run yet.

    `delta_versions` maps the path of every Delta table that is read to its version.
    """

    def __init__(
        self,
        config: RepoConfig,
        plan: Plan,
        delta_versions: dict[str, int],
        *,
        files: Sequence[str] = (),
        full_feature_names: bool = False,
        on_demand_feature_views: list[OnDemandFeatureView] | None = None,
        metadata: RetrievalMetadata | None = None,
    ) -> None:
        self.delta_versions = delta_versions
        self._config = config
        self._plan = plan
        self._files = files
        self._full_feature_names = full_feature_names
        self._on_demand = on_demand_feature_views or []
        self._metadata = metadata

    @property
    def full_feature_names(self) -> bool:
        return self._full_feature_names

    @property
    def on_demand_feature_views(self) -> list[OnDemandFeatureView]:
        return self._on_demand

    @property
    def metadata(self) -> RetrievalMetadata | None:
        return self._metadata

    def _to_arrow_internal(self, timeout: int | None = None) -> pa.Table:
        try:
            return self._plan.table()
        except duckdb.IOException as error:
            raise unreadable(error, self.delta_versions) from error

    def _to_df_internal(self, timeout: int | None = None) -> pd.DataFrame:
        return self._to_arrow_internal(timeout).to_pandas()

    def to_reader(self, batch_rows: int = BATCH_ROWS) -> pa.RecordBatchReader:
        """Stream the answer in its order, without holding it whole.

        Raises:
            AsofError: features are computed on demand; those need the whole table (`to_arrow`).
        """
        if self._on_demand:
            names = [view.name for view in self._on_demand]
            raise AsofError(
                f"on-demand views {names} cannot be streamed: use to_arrow(), or request stored features"
            )
        try:
            reader = self._plan.stream(batch_rows)
        except duckdb.IOException as error:
            raise unreadable(error, self.delta_versions) from error
        return pa.RecordBatchReader.from_batches(reader.schema, self._explained(reader))

    def _explained(self, batches: Iterable[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
        try:
            yield from batches
        except duckdb.IOException as error:
            raise unreadable(error, self.delta_versions) from error

    def persist(
        self, storage: SavedDatasetStorage, allow_overwrite: bool = False, timeout: int | None = None
    ) -> None:
        """Save the answer as a Delta table or as Parquet; a file or commit of it says which versions it was made of.

        Raises:
            SavedDatasetLocationAlreadyExists: something lies there, and `allow_overwrite` is not set.
            AsofError: the answer spans no time, so that Feast could not read it back; or the storage is another one.
        """
        if self._metadata is None or self._metadata.min_event_timestamp is None:
            raise AsofError(
                "an answer without a single decision time cannot be saved: Feast could not read it back"
            )
        path, delta = asof_writes.saved_path(self._config, storage, allow_overwrite=allow_overwrite)
        rows = self.to_arrow() if self._on_demand else self.to_reader()
        inputs = asof_writes.input_names(self.delta_versions, self._files)
        if delta:
            asof_writes.save_as_delta(path, rows, inputs, self._metadata.features)
        else:
            asof_writes.save_as_parquet(path, rows, inputs)


def _requested(
    feature_views: list[FeatureView], feature_refs: list[str]
) -> list[tuple[FeatureView, list[str]]]:
    wanted: dict[str, list[str]] = {}
    for reference in feature_refs:
        view, _, feature = reference.partition(":")
        features = wanted.setdefault(view, [])
        if feature not in features:
            features.append(feature)
    return [(view, wanted.get(view.projection.name_to_use(), [])) for view in feature_views]


class AsofOfflineStore(OfflineStore):
    """Feast's door to the point-in-time join; see the module."""

    supports_filter_by_created_timestamp: ClassVar[bool] = True  # pyright: ignore[reportIncompatibleVariableOverride]

    @staticmethod
    def get_historical_features(
        config: RepoConfig,
        feature_views: list[FeatureView],
        feature_refs: list[str],
        entity_df: pd.DataFrame | pa.Table | str | None,
        registry: BaseRegistry,
        project: str,
        full_feature_names: bool = False,
        **kwargs: Any,
    ) -> AsofRetrievalJob:
        """Plan a retrieval: one output row per entity row, in its order.

        Args:
            entity_df: a pandas frame, an Arrow table or a SQL query with the entity keys and the decision time
                (``event_timestamp``, or the only timestamp column); None with `start_date` and `end_date`.

        Raises:
            FeastEntityDFMissingColumnsError: the frame lacks an entity key.
            ValueError: the frame has a column named like a requested feature (raised when the job runs).
        """
        knowledge_time = _config(config).knowledge_time or bool(kwargs.get("filter_by_created_timestamp"))
        pins: dict[str, int] = {}
        requested = _requested(feature_views, feature_refs)
        views = [
            join_view(config, view, names, pins, full_names=full_feature_names) for view, names in requested
        ]
        keys = {key for view in views for key in view.keys}
        if entity_df is None:
            decision_column = DEFAULT_DECISION_COLUMN
            first, last = compute_non_entity_date_range(
                feature_views, start_date=kwargs.get("start_date"), end_date=kwargs.get("end_date")
            )

            def load(con: duckdb.DuckDBPyConnection) -> None:
                rows = keys_and_times_sql(con, views, decision_column, first, last)
                numbered = f"SELECT row_number() OVER () AS {_ROW_ID}, * FROM (FROM ({rows}) ORDER BY ALL)"
                con.execute(f"CREATE TEMP TABLE {SPINE} AS {numbered}")
        else:
            frame, decision_column = entity_table(entity_df, partial(session, config))
            first, last = span(frame, decision_column)
            if missing := keys - set(frame.column_names):
                raise FeastEntityDFMissingColumnsError(keys | {decision_column}, missing)
            table = frame.append_column(_ROW_ID, pa.array(np.arange(frame.num_rows)))

            def load(con: duckdb.DuckDBPyConnection) -> None:
                con.register(SPINE, table)

        join = PlannedJoin(
            session=partial(session, config),
            load=load,
            decision_column=decision_column,
            row_id_column=_ROW_ID,
            views=views,
            knowledge_time=knowledge_time,
            spool=_spill(config),
        )
        sources = [view.batch_source for view in feature_views if view.batch_source]
        return AsofRetrievalJob(
            config,
            join,
            pins,
            files=[source_path(config, source) for source in sources if not is_delta(source)],
            full_feature_names=full_feature_names,
            on_demand_feature_views=OnDemandFeatureView.get_requested_odfvs(feature_refs, project, registry),
            metadata=RetrievalMetadata(
                features=feature_refs, keys=sorted(keys), min_event_timestamp=first, max_event_timestamp=last
            ),
        )

    @staticmethod
    def pull_latest_from_table_or_query(
        config: RepoConfig,
        data_source: DataSource,
        join_key_columns: list[str],
        feature_name_columns: list[str],
        timestamp_field: str,
        created_timestamp_column: str | None,
        start_date: datetime | None = None,
        end_date: datetime | None = None,
    ) -> AsofRetrievalJob:
        """The newest row of every entity with an event time in [start, end], both included, as known at the end."""
        rows = Rows(join_key_columns, feature_name_columns, timestamp_field, created_timestamp_column)
        return _pull(config, data_source, rows, start_date, end_date, latest=True)

    @staticmethod
    def pull_all_from_table_or_query(
        config: RepoConfig,
        data_source: DataSource,
        join_key_columns: list[str],
        feature_name_columns: list[str],
        timestamp_field: str,
        created_timestamp_column: str | None = None,
        start_date: datetime | None = None,
        end_date: datetime | None = None,
    ) -> AsofRetrievalJob:
        """Every row with an event time in [start, end], both included, as known at the end.

        Feast reads saved answers and logs through this too: from a source without a timestamp field. They come back
        whole, rows with a null key or no decision time included.
        """
        rows = Rows(join_key_columns, feature_name_columns, timestamp_field, created_timestamp_column)
        return _pull(config, data_source, rows, start_date, end_date, latest=False)

    @staticmethod
    def offline_write_batch(
        config: RepoConfig, feature_view: FeatureView, table: pa.Table, progress: Callable[[int], Any] | None
    ) -> None:
        """Append rows to the view's source (`FeatureStore.push`, `write_to_offline_store`); one commit per call.

        Every call appends: rows that are sent twice are there twice, and answer as if they were there once.

        Raises:
            ValueError: columns are missing, unknown or of another type; a row has no event time.
            AsofError: the source cannot be written.
        """
        asof_writes.append_to_source(config, feature_view, table)
        if progress:
            progress(table.num_rows)

    @staticmethod
    def write_logged_features(
        config: RepoConfig,
        data: pa.Table | Path,
        source: LoggingSource,
        logging_config: LoggingConfig,
        registry: BaseRegistry,
    ) -> None:
        """Append logged features to the folder of Parquet files that the feature service logs to.

        Raises:
            ValueError: the columns are not those of the feature service.
            AsofError: the destination is not a local folder of files.
        """
        asof_writes.append_log(config, data, source, logging_config, registry)

    def get_table_column_names_and_types_from_data_source(
        self, config: RepoConfig, data_source: DataSource
    ) -> Iterable[tuple[str, str]]:
        """The columns of a source that are anybody's to write: Feast demands exactly these of pushed rows."""
        columns = asof_writes.writable_columns(config, data_source)
        return data_source.get_table_column_names_and_types(config) if columns is None else columns


def _pull(
    config: RepoConfig,
    source: DataSource,
    rows: Rows,
    start: datetime | None,
    end: datetime | None,
    *,
    latest: bool,
) -> AsofRetrievalJob:
    pins: dict[str, int] = {}
    scan_sql = scan(config, source, pins)

    def sql(con: duckdb.DuckDBPyConnection) -> str:
        selected = rows.sql(
            scan_sql,
            start=start and make_tzaware(start),
            end=end and make_tzaware(end),
            latest=latest,
            knowledge_time=_config(config).knowledge_time,
            naive=naive_columns(column_types(con, scan_sql)),
            with_nulls=not latest and not source.timestamp_field,
        )
        if rows.keys:
            return selected
        return f"SELECT *, {duck.quote_literal(DUMMY_ENTITY_VAL)} AS {q(DUMMY_ENTITY_ID)} FROM ({selected})"

    return AsofRetrievalJob(config, PlannedQuery(partial(session, config), sql), pins)
