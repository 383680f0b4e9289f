"""What Feast's own suite is told to test (its FULL_REPO_CONFIGS_MODULE): this project's offline store.

Importable only beside Feast's tests; `scripts/feast_suite.sh` puts both together. Knowledge time is off: the suite's
rows are created later than its entity rows ask, so that with it nearly every answer would rightly be null.
"""

from __future__ import annotations

from tests.universal.feature_repos.universal.data_sources.file import (
    DeltaFileSourceCreator,
    FileDataSourceCreator,
)

from contrail.asof import AsofOfflineStoreConfig


def _this_store(creator: FileDataSourceCreator) -> AsofOfflineStoreConfig:
    return AsofOfflineStoreConfig(knowledge_time=False)


# Tests that vary the online store alone make their offline store with this creator itself; Feast's would be Dask.
FileDataSourceCreator.create_offline_store_config = _this_store


class AsofParquetCreator(FileDataSourceCreator):
    """Sources, saved datasets and logs as Parquet."""


class AsofDeltaCreator(DeltaFileSourceCreator):
    """Sources and saved datasets as Delta tables; logs are Parquet in Feast."""


AVAILABLE_OFFLINE_STORES = [("local", AsofParquetCreator), ("local", AsofDeltaCreator)]
AVAILABLE_ONLINE_STORES = {"sqlite": ({"type": "sqlite"}, None)}
