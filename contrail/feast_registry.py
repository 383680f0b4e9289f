"""Feast's registry file, replaced whole, and read without the tables of another home.

Feast empties the file and writes it anew, at every apply and every materialisation. Whoever reads it in between finds
no views at all, and a process killed in between leaves none.

The file also names the SQLite tables that were made, each with its path. In a copy of a home these are still those of
the first one, and Feast's next apply would "update" them: drop them there, with all that the first home serves, and
create them here. So a table counts only where its file lies beside the registry, as it does in every home.

Feast reads it, changes what it read, and writes it whole: of two who do so at once the later one undoes the other's.
So whoever changes it here holds `registry_lock` and reads it anew. The bare ``feast apply`` knows of no lock: do not
run it while the graph runs.

In ``feature_store.yaml``::

    registry:
        registry_type: file
        registry_store_type: contrail.feast_registry.WholeFileRegistryStore
"""

from __future__ import annotations

import os
import uuid
from collections.abc import Generator
from contextlib import ExitStack, contextmanager
from pathlib import Path

from feast.infra.registry.base_registry import BaseRegistry  # noqa: TID253
from feast.infra.registry.file import FileRegistryStore  # noqa: TID253 - Feast imports this module by its name
from feast.protos.feast.core.Registry_pb2 import Registry  # noqa: TID253

from contrail.clock import utc_now
from contrail.file_lock import LockTakenError, locked

LOCK_SECONDS = 60.0
"""How long a change of the registry waits for another one; each takes a second or so."""


class RegistryBusyError(RuntimeError):
    """Another process changes the registry, and does not end."""


@contextmanager
def registry_lock(path: Path) -> Generator[None]:
    """Be the only one who changes a registry file; the lock ends with the process.

    Raises:
        RegistryBusyError: another one holds it for longer than `LOCK_SECONDS`.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    with ExitStack() as held:
        try:
            held.enter_context(locked(path.with_name(f"{path.name}.lock"), wait_seconds=LOCK_SECONDS))
        except LockTakenError:
            raise RegistryBusyError(
                f"another process has been changing the registry {path} for {LOCK_SECONDS:g} s: wait for it, or stop it"
            ) from None
        yield


@contextmanager
def changing(registry: BaseRegistry, project: str) -> Generator[None]:
    """Be the only one who changes this registry, beginning from what it is now; one that is no file guards itself.

    Raises:
        RegistryBusyError: another one does so for longer than `LOCK_SECONDS`.
    """
    stored = getattr(registry, "_registry_store", None)
    if not isinstance(stored, WholeFileRegistryStore):
        yield
        return
    with registry_lock(stored.path):
        registry.refresh(project)
        yield


class WholeFileRegistryStore(FileRegistryStore):
    """Feast's own, but for how it writes, and for tables that lie elsewhere."""

    @property
    def path(self) -> Path:
        return self._filepath

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
