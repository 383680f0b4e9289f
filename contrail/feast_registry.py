"""Feast's registry file, replaced whole, and read without the tables of another home.

Feast empties the file and writes it anew, at every apply and every materialisation. Whoever reads it in between finds
no views at all, and a process killed in between leaves none.

The file also names the SQLite tables that were made, each with its path. In a copy of a home these are still those of
the first one, and Feast's next apply would "update" them: drop them there, with all that the first home serves, and
create them here. So a table counts only where its file lies beside the registry, as it does in every home.

In ``feature_store.yaml``::

    registry:
        registry_type: file
        registry_store_type: contrail.feast_registry.WholeFileRegistryStore
"""

from __future__ import annotations

import os
import uuid
from pathlib import Path

from feast.infra.registry.file import FileRegistryStore  # noqa: TID253 - Feast imports this module by its name
from feast.protos.feast.core.Registry_pb2 import Registry  # noqa: TID253

from contrail.clock import utc_now


class WholeFileRegistryStore(FileRegistryStore):
    """Feast's own, but for how it writes, and for tables that lie elsewhere."""

    def get_registry_proto(self) -> Registry:
        registry = super().get_registry_proto()
        here = self._filepath.resolve().parent
        made = registry.infra.infra_objects
        kept = [
            one
            for one in made
            if not one.HasField("sqlite_table") or Path(one.sqlite_table.path).resolve().parent == here
        ]
        if len(kept) < len(made):
            del made[:]
            made.extend(kept)
        return registry

    def _write_registry(self, registry_proto: Registry) -> None:
        registry_proto.version_id = str(uuid.uuid4())
        registry_proto.last_updated.FromDatetime(utc_now())
        self._filepath.parent.mkdir(parents=True, exist_ok=True)
        draft = self._filepath.with_name(f"{self._filepath.name}.{os.getpid()}.draft")
        with draft.open("wb") as file:
            file.write(registry_proto.SerializeToString())
            file.flush()
            os.fsync(file.fileno())
        draft.replace(self._filepath)
