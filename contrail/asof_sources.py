"""Feast's sources and views as the point-in-time join wants them, each Delta table at one pinned version.

Feast is imported inside the functions: whoever has a feature store at hand has paid for that import already.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, cast

from deltalake import DeltaTable
from deltalake.exceptions import DeltaError

from contrail import duck
from contrail.asof_join import JoinView

if TYPE_CHECKING:
    from feast import FeatureView, FileSource
    from feast.data_source import DataSource
    from feast.repo_config import RepoConfig


class AsofError(RuntimeError):
    """The offline store cannot answer; the text says what to do."""


def source_path(config: RepoConfig, source: DataSource) -> str:
    """Where a source lies: an absolute path, or a URI."""
    from feast import FileSource

    if not isinstance(source, FileSource):
        raise AsofError(
            f"source {source.name!r} is a {type(source).__name__}; this store reads FileSource only"
        )
    path = FileSource.get_uri_for_file_path(config.repo_path, source.file_options.uri)
    return _absolute(path)


def _absolute(path: str) -> str:
    return path if "://" in path else str(Path(path).resolve())


def scan(config: RepoConfig, source: DataSource, pins: dict[str, int]) -> str:
    """What stands after FROM to read a source.

    A Delta table is read at the version in `pins`, else at its newest, which `pins` then records: one request reads
    one version of a table however often the table occurs, and whatever is appended meanwhile.
    """
    from feast.data_format import DeltaFormat

    path = source_path(config, source)
    if isinstance(cast("FileSource", source).file_format, DeltaFormat):
        if path not in pins:
            asked = _asked_versions(config)
            try:
                pins[path] = asked[path] if path in asked else DeltaTable(path).version()
            except DeltaError as error:
                raise AsofError(
                    f"source {source.name!r}: no Delta table can be opened at {path}: {error}"
                ) from error
        return f"delta_scan({duck.quote_literal(path)}, version => {pins[path]})"
    return f"read_parquet({duck.quote_literal(f'{path}/**/*.parquet' if Path(path).is_dir() else path)})"


def _asked_versions(config: RepoConfig) -> dict[str, int]:
    named: dict[str, int] = getattr(config.offline_store, "delta_versions", None) or {}
    return {_absolute(path): version for path, version in named.items()}


def _reversed_mapping(source: DataSource) -> dict[str, str]:
    return {feast_name: column for column, feast_name in (source.field_mapping or {}).items()}


def join_view(
    config: RepoConfig,
    view: FeatureView,
    features: list[str],
    pins: dict[str, int],
    *,
    full_names: bool = False,
) -> JoinView:
    """A Feast feature view as `point_in_time_join` wants it; `pins` as in `scan`."""
    from feast.feature_view import DUMMY_ENTITY_ID

    source = view.batch_source
    if source is None:
        raise AsofError(f"feature view {view.name!r} has no batch source and cannot be joined")
    columns = _reversed_mapping(source)
    renamed = view.projection.join_key_map or {}
    keys = [field.name for field in view.entity_columns if field.name != DUMMY_ENTITY_ID]
    prefix = f"{view.projection.name_to_use()}__" if full_names else ""
    event, created = source.timestamp_field, source.created_timestamp_column
    return JoinView(
        name=view.name,
        scan_sql=scan(config, source, pins),
        keys={renamed.get(key, key): columns.get(key, key) for key in keys},
        event_column=columns.get(event, event),
        created_column=columns.get(created, created) if created else None,
        max_age=view.ttl or None,
        features=tuple((columns.get(name, name), prefix + name) for name in features),
    )
