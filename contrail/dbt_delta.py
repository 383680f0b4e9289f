"""dbt-duckdb plugin: models read Delta tables at pinned versions and are stored as Delta tables.

dbt runs on an in-memory DuckDB: there is no database file to lock, and the lake is the only thing that lasts. When
dbt connects, every table of the lake becomes a view ``<stage>.<name>`` over one pinned version; a model with the
materialization `delta` is written through `contrail.lake`, whose commit names the pinned tables it was made from.
Named in profiles.yml as ``module: contrail.dbt_delta``; dbt loads it, nobody else imports it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import duckdb
import pyarrow as pa
from dbt.adapters.duckdb.plugins import BasePlugin  # noqa: TID253 — only dbt imports this module

from contrail import duck, landing
from contrail.dbt_runner import BuildContext, DbtError, TableWritten, active_context
from contrail.lake import RUN_ID, WRITTEN_AT, Commit, Lake
from contrail.settings import Settings

BATCH_ROWS = 100_000
TABLE_ROWS = 1_000_000
"""Up to this many rows go to the lake as a table, which it can write again after a conflict; more as a stream."""


@dataclass(frozen=True)
class Target:
    """What the materialization says of the model that it hands over.

    Attributes:
        table: ``stage/name``.
        relation: the SQL name of the staged rows.
        partition_by: the day column that partitions the table; None: the table is replaced whole.
        inputs: tables that the model reads, directly or through models that are not stored.
        personal: columns that are left out of the log's statistics.
    """

    table: str
    relation: str
    partition_by: str | None
    inputs: tuple[str, ...]
    personal: tuple[str, ...]


class Plugin(BasePlugin):
    """The lake, as dbt-duckdb sees it."""

    def initialize(self, plugin_config: dict[str, Any]) -> None:
        del plugin_config  # it needs none
        self._context: BuildContext | None = None
        self._con: duckdb.DuckDBPyConnection | None = None

    @property
    def context(self) -> BuildContext:
        """What this invocation is told: the build's context, or everything that has landed."""
        if self._context is None:
            self._context = active_context() or self._everything_landed()
        return self._context

    def update_connection_config(self, creds: Any, config: dict[str, Any]) -> None:
        settings = self.context.settings
        settings.temp_root.mkdir(parents=True, exist_ok=True)
        config.setdefault("threads", settings.threads)
        config.setdefault("memory_limit", settings.memory_limit)
        config.setdefault("temp_directory", str(settings.temp_root))

    def configure_connection(self, conn: duckdb.DuckDBPyConnection) -> None:
        duck.configure(conn)
        self._con = conn
        lake = Lake(self.context.lake_root)
        asked_for = self.context.tables
        for table in lake.tables():
            if table.count("/") == 1 and (asked_for is None or table in asked_for):
                self._show(conn, lake, table, self.context.pins.get(table, lake.version(table)))

    def configure_cursor(self, cursor: duckdb.DuckDBPyConnection) -> None:
        # A cursor is a session of its own: neither settings nor variables are handed down to it.
        for statement in duck.session_settings():
            cursor.execute(statement)
        context = self.context
        cursor.execute(f"SET VARIABLE first_day = DATE '{context.first.isoformat()}'")
        cursor.execute(f"SET VARIABLE last_day = DATE '{context.last.isoformat()}'")
        cursor.execute(f"SET VARIABLE complete_until = TIMESTAMPTZ '{context.complete_until.isoformat()}'")

    def store(self, target_config: Any) -> None:
        """Write the staged rows of one model, show the new version to the models that follow, and note both.

        Raises:
            LakeError: the table exists with other columns, or rows lie outside the days to build.
        """
        if self._con is None:
            raise DbtError("dbt asked to store a model before it connected")
        target = _target(target_config)
        context, lake = self.context, Lake(self.context.lake_root)
        with self._con.cursor() as cursor:
            self.configure_cursor(cursor)
            rows = _count(cursor, target.relation)
            schema = cursor.execute(f"SELECT * FROM {target.relation} LIMIT 0").to_arrow_reader(1).schema
            partition_by = (target.partition_by,) if target.partition_by else ()
            lake.create(target.table, schema, partition_by=partition_by, personal=target.personal)
            inputs = tuple(lake.ref(name, self._pinned(name)) for name in target.inputs)
            # The same rows from newer inputs are committed too: the commit is what says how far they have been read.
            unchanged = (
                not partition_by
                and set(lake.commits(target.table)[-1].inputs) == set(inputs)
                and _same_rows(cursor, target.relation, lake.scan(target.table), schema)
            )
            if unchanged:
                version = lake.version(target.table)
            else:
                staged = cursor.execute(f"SELECT * FROM {target.relation}").to_arrow_reader(BATCH_ROWS)
                data = staged if rows > TABLE_ROWS else pa.Table.from_batches(staged, schema)
                version = lake.replace_partitions(
                    target.table, data, self._commit(target, inputs), where=self._where(target)
                )
            self._show(cursor, lake, target.table, version)
        context.results.append(TableWritten(target.table, version, rows, inputs, unchanged))

    def _commit(self, target: Target, inputs: tuple[str, ...]) -> Commit:
        context = self.context
        if target.partition_by is None:
            return Commit(asset=target.table, run_id=context.run_id, inputs=inputs)
        return Commit(
            asset=target.table,
            run_id=context.run_id,
            inputs=inputs,
            partition=f"{context.first.isoformat()}..{context.last.isoformat()}",
            extra={"complete_until": context.complete_until.isoformat()},
        )

    def _where(self, target: Target) -> str:
        if target.partition_by is None:
            return "true"
        first, last = self.context.first.isoformat(), self.context.last.isoformat()
        return f"{target.partition_by} >= '{first}' AND {target.partition_by} <= '{last}'"

    def _pinned(self, table: str) -> int:
        try:
            return self.context.pinned[table]
        except KeyError:
            raise DbtError(f"there is no table {table} in {self.context.lake_root} to read from") from None

    def _show(self, con: duckdb.DuckDBPyConnection, lake: Lake, table: str, version: int) -> None:
        """Make one version of a table the view ``stage.name`` and remember it.

        What the lake stamps on every row is left out: a model that selects everything would store it as its own.
        """
        stage, name = (duck.quote_identifier(part) for part in table.split("/"))
        columns = f"COLUMNS(c -> c NOT IN ('{WRITTEN_AT}', '{RUN_ID}'))"
        con.execute(f"CREATE SCHEMA IF NOT EXISTS {stage}")
        con.execute(
            f"CREATE OR REPLACE VIEW {stage}.{name} AS SELECT {columns} FROM {lake.scan(table, version)}"
        )
        self.context.pinned[table] = version

    def _everything_landed(self) -> BuildContext:
        """For dbt typed by hand: all days that have landed, complete up to the newest delivery."""
        from dbt_common.invocation import get_invocation_id

        settings = Settings()
        landed = landing.partition_range(settings.landing_root)
        if landed is None:
            raise DbtError(f"nothing has landed in {settings.landing_root}, so there are no days to build")
        return BuildContext(
            lake_root=settings.lake_root,
            first=landed.first,
            last=landed.last,
            complete_until=landed.newest_fact_delivered_at,
            run_id=f"dbt:{get_invocation_id()}",
            settings=settings,
        )


def _target(target_config: Any) -> Target:
    said = target_config.config
    return Target(
        table=str(target_config.location.path),
        relation=str(target_config.relation),
        partition_by=said["partition_by"],
        inputs=tuple(sorted(set(said["inputs"]))),
        personal=tuple(said["personal"]),
    )


def _count(con: duckdb.DuckDBPyConnection, relation: str) -> int:
    row = con.execute(f"SELECT count(*) FROM {relation}").fetchone()
    return int(row[0]) if row else 0


def _same_rows(con: duckdb.DuckDBPyConnection, staged: str, stored: str, schema: pa.Schema) -> bool:
    """Whether two relations hold the same rows, whatever their order, in the columns of `schema`."""
    columns: Sequence[str] = [duck.quote_identifier(name) for name in schema.names]
    both = [f"(SELECT {', '.join(columns)} FROM {relation})" for relation in (staged, stored)]
    sql = " UNION ALL ".join(f"({a} EXCEPT ALL {b})" for a, b in (both, both[::-1]))
    return con.execute(f"{sql} LIMIT 1").fetchone() is None
