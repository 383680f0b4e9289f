"""Feast offline store: point-in-time joins in DuckDB over Delta tables (Parquet files too).

In ``feature_store.yaml``::

    offline_store:
        type: contrail.asof.AsofOfflineStore

Feast finds the store by that text: the class's name has to end in ``OfflineStore``, its configuration's is the same
plus ``Config``. The join itself is `contrail.asof_join`, which needs no Feast and serves batch scoring as well.

The store only reads. Rows enter the lake through `contrail.lake`, so that their commit names the inputs; Feast's own
writes into a source (push, saved datasets) are refused.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from datetime import datetime
from pathlib import Path
from typing import Any, ClassVar, NoReturn

import duckdb
import pandas as pd
import pyarrow as pa
from feast.data_source import DataSource
from feast.errors import EntityTimestampInferenceException, FeastEntityDFMissingColumnsError
from feast.feature_view import DUMMY_ENTITY_ID, DUMMY_ENTITY_VAL, FeatureView
from feast.infra.offline_stores.offline_store import OfflineStore, RetrievalJob, RetrievalMetadata
from feast.infra.offline_stores.offline_utils import (
    DEFAULT_ENTITY_DF_EVENT_TIMESTAMP_COL as DEFAULT_DECISION_COLUMN,
)
from feast.infra.registry.base_registry import BaseRegistry
from feast.on_demand_feature_view import OnDemandFeatureView
from feast.repo_config import FeastConfigBaseModel, RepoConfig
from feast.utils import compute_non_entity_date_range, make_tzaware

from contrail import duck
from contrail.asof_join import JoinView, Rows, keys_and_times_sql, point_in_time_join
from contrail.asof_sources import AsofError, join_view, scan
from contrail.clock import pin_utc
from contrail.duck import quote_identifier as q

__all__ = [
    "AsofError",
    "AsofOfflineStore",
    "AsofOfflineStoreConfig",
    "AsofRetrievalJob",
    "JoinView",
    "point_in_time_join",
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
    """Table path -> version, to re-create an earlier answer; tables not named are read at their newest version."""


def _config(config: RepoConfig) -> AsofOfflineStoreConfig:
    store = config.offline_store
    if not isinstance(store, AsofOfflineStoreConfig):
        raise AsofError(
            f"the offline store is configured as {type(store).__name__}, not AsofOfflineStoreConfig"
        )
    return store


def session(config: RepoConfig) -> duckdb.DuckDBPyConnection:
    """A DuckDB session with the limits of the `offline_store` section."""
    store = _config(config)
    spill = Path(store.temp_directory) if store.temp_directory else None
    if spill and not spill.is_absolute():
        spill = Path(config.repo_path or ".") / spill
    con = duck.connect(threads=store.threads, memory_limit=store.memory_limit, temp_directory=spill)
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
        build: Callable[[duckdb.DuckDBPyConnection], duckdb.DuckDBPyRelation],
        delta_versions: dict[str, int],
        *,
        full_feature_names: bool = False,
        on_demand_feature_views: list[OnDemandFeatureView] | None = None,
        metadata: RetrievalMetadata | None = None,
    ) -> None:
        self.delta_versions = delta_versions
        self._config = config
        self._build = build
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

    def _explain(self, error: duckdb.IOException) -> NoReturn:
        found = re.search(r"[^\s'\":]+\.parquet", str(error))
        raise AsofError(
            f"a data file of a pinned version cannot be read ({found.group() if found else 'see below'}): the version "
            f"was probably vacuumed. Pinned: {self.delta_versions}. Read a newer version, or restore the file. {error}"
        ) from error

    def _to_arrow_internal(self, timeout: int | None = None) -> pa.Table:
        con = session(self._config)
        try:
            return self._build(con).to_arrow_table()
        except duckdb.IOException as error:
            self._explain(error)
        finally:
            con.close()

    def _to_df_internal(self, timeout: int | None = None) -> pd.DataFrame:
        return self._to_arrow_internal(timeout).to_pandas()

    def to_reader(self, batch_rows: int = 100_000) -> pa.RecordBatchReader:
        """Stream the answer in its order, without holding it whole.

        Raises:
            AsofError: features are computed on demand; those need the whole table (`to_arrow`).
        """
        if self._on_demand:
            names = [view.name for view in self._on_demand]
            raise AsofError(
                f"on-demand views {names} cannot be streamed: use to_arrow(), or request stored features"
            )
        con = session(self._config)
        try:
            reader = self._build(con).to_arrow_reader(batch_rows)
        except duckdb.IOException as error:
            con.close()
            self._explain(error)

        def batches() -> Iterator[pa.RecordBatch]:
            try:
                yield from reader
            finally:  # the session lives as long as its reader
                con.close()

        return pa.RecordBatchReader.from_batches(reader.schema, batches())


def _decision_column(schema: pa.Schema) -> str:
    if DEFAULT_DECISION_COLUMN in schema.names:
        return DEFAULT_DECISION_COLUMN
    timestamps = [field.name for field in schema if pa.types.is_timestamp(field.type)]
    if len(timestamps) != 1:
        raise EntityTimestampInferenceException(DEFAULT_DECISION_COLUMN)
    return timestamps[0]


def _entity_table(config: RepoConfig, entity_df: pd.DataFrame | pa.Table | str) -> tuple[pa.Table, str]:
    """The entity frame as a new Arrow table, and the name of its decision time. The caller's frame stays as it is."""
    if isinstance(entity_df, str):
        con = session(config)
        try:
            table = con.sql(entity_df).to_arrow_table()
        finally:
            con.close()
    elif isinstance(entity_df, pa.Table):
        table = entity_df
    else:
        frame = entity_df
        if frame.columns.duplicated().any():
            raise ValueError(f"the entity frame has columns of the same name: {list(frame.columns)}")
        column = DEFAULT_DECISION_COLUMN
        if column in frame.columns and not pd.api.types.is_datetime64_any_dtype(frame[column]):
            frame = frame.assign(**{column: pd.to_datetime(frame[column], utc=True)})
        table = pa.Table.from_pandas(frame.reset_index(drop=True), preserve_index=False)
    for number, field in enumerate(table.schema):
        if pa.types.is_null(field.type):  # an all-null pandas column has no type; a text may be null
            table = table.set_column(number, field.name, table.column(number).cast(pa.string()))
    return table, _decision_column(table.schema)


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
        table: pa.Table | None = None
        spine_sql = ""
        if entity_df is None:
            decision_column = DEFAULT_DECISION_COLUMN
            first, last = compute_non_entity_date_range(
                feature_views, start_date=kwargs.get("start_date"), end_date=kwargs.get("end_date")
            )
            keys_and_times = keys_and_times_sql(views, decision_column, first, last)
            spine_sql = (
                f"SELECT row_number() OVER () AS {_ROW_ID}, * FROM (FROM ({keys_and_times}) ORDER BY ALL)"
            )
        else:
            frame, decision_column = _entity_table(config, entity_df)
            first = last = None
            if missing := keys - set(frame.column_names):
                raise FeastEntityDFMissingColumnsError(keys | {decision_column}, missing)
            table = frame.append_column(_ROW_ID, pa.array(range(frame.num_rows), pa.int64()))

        def build(con: duckdb.DuckDBPyConnection) -> duckdb.DuckDBPyRelation:
            if table is None:
                con.execute(f"CREATE TEMP TABLE entity_rows AS {spine_sql}")
            else:
                con.register("entity_rows", table)
            return point_in_time_join(
                con,
                spine="entity_rows",
                decision_column=decision_column,
                row_id_column=_ROW_ID,
                views=views,
                knowledge_time=knowledge_time,
                keep_row_id=False,
            )

        return AsofRetrievalJob(
            config,
            build,
            pins,
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
        """Every row with an event time in [start, end], both included, as known at the end."""
        rows = Rows(join_key_columns, feature_name_columns, timestamp_field, created_timestamp_column)
        return _pull(config, data_source, rows, start_date, end_date, latest=False)

    @staticmethod
    def offline_write_batch(
        config: RepoConfig, feature_view: FeatureView, table: pa.Table, progress: Callable[[int], Any] | None
    ) -> NoReturn:
        """Refused: a row without the inputs it was made from must not enter the lake.

        Raises:
            AsofError: always.
        """
        raise AsofError(
            f"{_config(config).type} does not write into the source of {feature_view.name!r}: rows enter the lake "
            "through contrail.lake, whose commits name their inputs; materialise them online from there"
        )


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
    sql = rows.sql(
        scan(config, source, pins),
        start=start and make_tzaware(start),
        end=end and make_tzaware(end),
        latest=latest,
        knowledge_time=_config(config).knowledge_time,
    )
    if not rows.keys:
        sql = f"SELECT *, {duck.quote_literal(DUMMY_ENTITY_VAL)} AS {q(DUMMY_ENTITY_ID)} FROM ({sql})"
    return AsofRetrievalJob(config, lambda con: con.sql(sql), pins)
