"""Feast's sources and views as the point-in-time join wants them, each Delta table at one pinned version.

Feast is imported inside the functions: whoever has a feature store at hand has paid for that import already.
"""

from __future__ import annotations

import re
from collections.abc import Generator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from pathlib import Path
from typing import TYPE_CHECKING, cast

import duckdb
from deltalake import DeltaTable
from deltalake.exceptions import DeltaError

from contrail import duck
from contrail.asof_join import JoinView

if TYPE_CHECKING:
    from feast import FeatureView, FileSource
    from feast.data_source import DataSource
    from feast.repo_config import RepoConfig


VERSION_TAG = "delta.version"

_versions_here: ContextVar[Mapping[str, int] | None] = ContextVar("delta_versions", default=None)


class AsofError(RuntimeError):
    """The offline store cannot answer; the text says what to do."""


@contextmanager
def read_versions(versions: Mapping[str, int]) -> Generator[None]:
    """Within the block, plan every retrieval of this thread (or task) at these versions: ``{table path: version}``.

    Feast's own calls take no such argument. What `AsofRetrievalJob.delta_versions` reported re-creates its answer;
    tables that are not named are read as without the block. Versions are pinned when a retrieval is planned, so the job
    may run after the block. The block wins over `offline_store.delta_versions`, which wins over a source's tag
    ``delta.version``.

    Raises:
        AsofError: when a retrieval is planned, and a path is no Delta table or has no such version.
    """
    token = _versions_here.set({**(_versions_here.get() or {}), **versions})
    try:
        yield
    finally:
        _versions_here.reset(token)


def source_path(config: RepoConfig, source: DataSource) -> str:
    """Where a source lies: an absolute path, or a URI."""
    from feast import FileSource

    if not isinstance(source, FileSource):
        raise AsofError(
            f"source {source.name!r} is a {type(source).__name__}; this store reads FileSource only"
        )
    return absolute_path(config, source.file_options.uri)


def absolute_path(config: RepoConfig, path: str) -> str:
    """A path of the configuration, absolute: a relative one counts from the feature repository. A URI stays."""
    from feast import FileSource

    found = FileSource.get_uri_for_file_path(config.repo_path, path)
    return found if "://" in found else str(Path(found).resolve())


def is_delta(source: DataSource) -> bool:
    """Whether a source is a Delta table; else it is read as Parquet."""
    from feast.data_format import DeltaFormat

    return isinstance(cast("FileSource", source).file_format, DeltaFormat)


def scan(config: RepoConfig, source: DataSource, pins: dict[str, int]) -> str:
    """What stands after FROM to read a source.

    A Delta table is read at the version in `pins`, else at its newest, which `pins` then records: one request reads
    one version of a table however often the table occurs, and whatever is appended meanwhile.
    """
    path = source_path(config, source)
    if is_delta(source):
        if path not in pins:
            pins[path] = _version(config, source, path)
        return f"delta_scan({duck.quote_literal(path)}, version => {pins[path]})"
    return f"read_parquet({duck.quote_literal(f'{path}/**/*.parquet' if Path(path).is_dir() else path)})"


def unreadable(error: duckdb.IOException, delta_versions: Mapping[str, int]) -> AsofError:
    """What to say when DuckDB could not read or write a file, given the versions that were pinned."""
    found = re.search(r"[^\s'\":]+\.parquet", str(error))
    if found and any(path in str(error) for path in delta_versions):
        return AsofError(
            f"a data file of a pinned version cannot be read ({found.group()}): the version was probably vacuumed. "
            f"Pinned: {dict(delta_versions)}. Read a newer version, or restore the file. {error}"
        )
    return AsofError(f"a source cannot be read, or a temporary file cannot be written: {error}")


def _version(config: RepoConfig, source: DataSource, path: str) -> int:
    """The version to read: the one that was asked for, else the newest."""
    try:
        newest = DeltaTable(path).version()
    except DeltaError as error:
        raise AsofError(f"source {source.name!r}: no Delta table can be opened at {path}: {error}") from error
    asked, asked_by = _asked_version(config, source, path)
    if asked is None:
        return newest
    if not 0 <= asked <= newest:
        raise AsofError(
            f"source {source.name!r}: {asked_by} asks for version {asked} of {path}, which has 0 to {newest}"
        )
    return asked


def _asked_version(config: RepoConfig, source: DataSource, path: str) -> tuple[int | None, str]:
    """The version asked for, and by whom; every table that is named anywhere has to be one."""
    in_config: Mapping[str, int] = getattr(config.offline_store, "delta_versions", None) or {}
    asked: list[tuple[int, str]] = []
    for versions, asked_by in (
        (_versions_here.get() or {}, "read_versions"),
        (in_config, "offline_store.delta_versions"),
    ):
        named = {absolute_path(config, table): version for table, version in versions.items()}
        # A path with a slip of the pen would be passed over, whether or not this source is named beside it.
        if unknown := sorted(table for table in named if not DeltaTable.is_deltatable(table)):
            raise AsofError(f"{asked_by} names {unknown}, where there are no Delta tables")
        if path in named:
            asked.append((named[path], asked_by))
    if asked:
        return asked[0]
    tag = source.tags.get(VERSION_TAG)
    if tag is None:
        return None, ""
    asked_by = f"the tag {VERSION_TAG}"
    if not tag.isdecimal():
        raise AsofError(f"source {source.name!r}: {asked_by} is {tag!r}, which is no version")
    return int(tag), asked_by


def reversed_mapping(source: DataSource) -> dict[str, str]:
    """Feast's name of a column -> its name in the source, where they differ."""
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
    columns = reversed_mapping(source)
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
