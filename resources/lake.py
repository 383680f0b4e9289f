"""The lake, the clock and the sessions, as assets are handed them."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import cached_property

import dagster as dg
import duckdb

from contrail import completeness, duck, provenance
from contrail.clock import Clock, clock_for
from contrail.contracts import Contract, load_contracts
from contrail.lake import Commit, Lake
from contrail.settings import Settings


@dataclass(frozen=True)
class LakeResource:
    """What an asset needs in order to read and write: two hops to the line that touches storage."""

    settings: Settings

    @cached_property
    def lake(self) -> Lake:
        return Lake(self.settings.lake_root)

    @cached_property
    def contracts(self) -> Mapping[str, Contract]:
        return load_contracts(self.settings.repo_root / "contracts")

    @property
    def clock(self) -> Clock:
        return clock_for(self.settings)

    def connect(self) -> duckdb.DuckDBPyConnection:
        """A DuckDB session with this installation's threads, memory limit and spill folder."""
        return duck.connect(
            threads=self.settings.threads,
            memory_limit=self.settings.memory_limit,
            temp_directory=self.settings.temp_root,
        )

    def complete_until(self) -> completeness.Completeness:
        """Up to which instant all bounding feeds have been taken in."""
        return completeness.complete_until(self.lake, self.contracts)

    def commit(
        self,
        context: dg.AssetExecutionContext,
        asset: str,
        inputs: Iterable[str],
        partition: str = "",
        **extra: str,
    ) -> Commit:
        """The commit of this step; written once per run, asset and partition, however often the step is retried."""
        return Commit(
            asset=asset,
            run_id=context.run.run_id,
            inputs=tuple(inputs),
            partition=partition,
            git_sha=provenance.recorded_git_sha(self.settings),
            transaction=f"{context.run.run_id}:{asset}:{partition}",
            extra=extra,
        )
