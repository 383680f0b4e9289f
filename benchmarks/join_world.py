"""What the join benchmark joins: three synthetic views in Delta tables, entity frames, the same question three ways.

A year of feature rows, five in a hundred corrected two days later (same event time, newer creation). Entity frames draw
keys and instants evenly; some keys the views do not know. The question is asked through Feast, in SQL written by hand,
or as a job of time shards.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any

from contrail import duck
from contrail.asof_join import JoinView
from contrail.lake import Commit, Lake

if TYPE_CHECKING:
    import duckdb
    from feast import FeatureService, FeatureStore

DECISION = "event_timestamp"
ROW = "flight_id"
SERVICE = "everything"
START = "TIMESTAMPTZ '2013-01-01 00:00:00+00'"
SPLIT = {10: (4, 3, 3), 50: (20, 15, 15)}
"""Features asked for -> how many of each view."""


@dataclass(frozen=True)
class View:
    """One synthetic view.

    Attributes:
        keys: SQL of each key, of the entity number `k`.
        entities, events: how many of them, and how many rows of each.
        at: SQL of a row's event time, of `k` and the event number `h`.
        max_age: how long a row counts.
        letter: its features are called `<letter>0`, `<letter>1`, …; the first is an integer.
    """

    name: str
    keys: Mapping[str, str]
    entities: int
    events: int
    at: str
    max_age: timedelta
    letter: str

    def features(self, count: int) -> list[str]:
        return [f"{self.letter}{i}" for i in range(SPLIT[count]["cra".index(self.letter)])]

    def table(self, count: int) -> str:
        return f"feature/{self.name}_{count}"

    def rows_sql(self, count: int) -> str:
        salt = ord(self.letter)
        first, *others = self.features(count)
        values = ", ".join(
            [f"(hash(k, h, {salt}) % 100)::BIGINT AS {first}"]
            + [f"(hash(k, h, {salt}, {i}) % 1000003) / 1000.0 AS {name}" for i, name in enumerate(others)]
        )
        base = (
            f"SELECT {', '.join(f'{sql} AS {key}' for key, sql in self.keys.items())}, {self.at} AS event_timestamp, "
            f"{self.at} AS created, {values}, hash(k, h, {salt}) % 20 = 0 AS is_wrong "
            f"FROM range({self.entities}) r(k), range({self.events}) s(h)"
        )
        return (
            f"WITH base AS ({base}) SELECT * EXCLUDE (is_wrong) FROM base UNION ALL SELECT * EXCLUDE (is_wrong) "
            f"REPLACE (created + INTERVAL 2 DAY AS created, {first} + 1 AS {first}) FROM base WHERE is_wrong"
        )


_ORIGIN = "['JFK', 'EWR', 'LGA'][1 + {0} % 3]"
_DEST = "'D' || lpad(({0} // 3)::VARCHAR, 3, '0')"
VIEWS = (
    View("carrier", {"carrier": "'C' || lpad(k::VARCHAR, 2, '0')"}, 16, 8_760, f"{START} + h * INTERVAL 1 HOUR",
         timedelta(days=2), "c"),
    View("route", {"origin": _ORIGIN.format("k"), "dest": _DEST.format("k")}, 224, 365, f"{START} + h * INTERVAL 1 DAY",
         timedelta(days=7), "r"),
    View("aircraft", {"tail_number": "'N' || lpad(k::VARCHAR, 5, '0')"}, 4_043, 83,
         f"{START} + (h * 105 + (hash(k, h) % 105)::BIGINT) * INTERVAL 1 HOUR", timedelta(days=30), "a"),
)  # fmt: skip


def make(folder: Path, rows: Sequence[int], features: Sequence[int]) -> None:
    """Write the views' tables and the entity frames below `folder`."""
    lake = Lake(folder / "lake")
    with duck.connect() as con:
        for view in VIEWS:
            for count in features:
                data = con.sql(view.rows_sql(count)).to_arrow_table()
                lake.create(view.table(count), data.schema)
                lake.append(view.table(count), data, Commit(view.table(count), "benchmark", ()))
        for number in rows:
            route = "(hash(i, 2) % 224)::BIGINT"
            con.execute(
                f"""COPY (SELECT i AS {ROW}, 'C' || lpad((hash(i, 1) % 17)::VARCHAR, 2, '0') AS carrier,
                                 {_ORIGIN.format(route)} AS origin, {_DEST.format(route)} AS dest,
                                 'N' || lpad((hash(i, 3) % 4100)::VARCHAR, 5, '0') AS tail_number,
                                 {START} + (hash(i, 4) % 31536000)::BIGINT * INTERVAL 1 SECOND AS {DECISION}
                          FROM range({number}) t(i)) TO {duck.quote_literal(str(entities(folder, number)))}"""
            )


def entities(folder: Path, rows: int) -> Path:
    """The entity frame of so many rows, in the order of `ROW`."""
    return folder / f"entities_{rows}.parquet"


def feast_store(
    folder: Path, features: int, offline: Mapping[str, Any]
) -> tuple[FeatureStore, FeatureService]:
    """A Feast store over the tables, with this offline store; and the service that asks for all features."""
    from feast import (
        Entity,
        FeatureService,
        FeatureStore,
        FeatureView,
        Field,
        FileSource,
        RepoConfig,
        ValueType,
    )
    from feast.data_format import DeltaFormat
    from feast.types import Float64, Int64, String

    store = FeatureStore(
        config=RepoConfig(
            project="joins",
            provider="local",
            registry=str(folder / f"registry_{str(offline['type']).rpartition('.')[2]}_{features}.db"),
            online_store={"type": "sqlite", "path": str(folder / "online.db")},
            offline_store=dict(offline),
            entity_key_serialization_version=3,
        )
    )
    lake = Lake(folder / "lake")
    named = {
        key: Entity(name=key, join_keys=[key], value_type=ValueType.STRING)
        for view in VIEWS
        for key in view.keys
    }
    views = [
        FeatureView(
            name=view.name,
            entities=[named[key] for key in view.keys],
            ttl=view.max_age,
            source=FileSource(
                name=f"{view.name}_source",
                path=lake.uri(view.table(features)),
                file_format=DeltaFormat(),
                timestamp_field="event_timestamp",
                created_timestamp_column="created",
            ),
            schema=[Field(name=key, dtype=String) for key in view.keys]
            + [
                Field(name=name, dtype=Int64 if i == 0 else Float64)
                for i, name in enumerate(view.features(features))
            ],
        )
        for view in VIEWS
    ]
    service = FeatureService(name=SERVICE, features=views)
    store.apply([*named.values(), *views, service])
    return store, store.get_feature_service(SERVICE)


def raw_sql(folder: Path, features: int, *, ordered: bool) -> str:
    """What one writes by hand who knows DuckDB and these tables: nested ASOF joins over the view `entity`."""
    lake = Lake(folder / "lake")
    chosen, joins = ["entity.*"], ""
    for view in VIEWS:
        names, keys = view.features(features), ", ".join(view.keys)
        days, rows = view.max_age.days, lake.scan(view.table(features))
        chosen += [
            f"CASE WHEN {view.name}.event_timestamp >= entity.{DECISION} - INTERVAL {days} DAY "
            f"THEN {view.name}.{name} END AS {name}"
            for name in names
        ]
        on = " AND ".join(f"entity.{key} = {view.name}.{key}" for key in view.keys)
        joins += (
            f" ASOF LEFT JOIN (SELECT {keys}, event_timestamp, {', '.join(names)} FROM {rows} "
            f"QUALIFY row_number() OVER (PARTITION BY {keys}, event_timestamp ORDER BY created DESC) = 1) {view.name} "
            f"ON {on} AND entity.{DECISION} >= {view.name}.event_timestamp"
        )
    return f"SELECT {', '.join(chosen)} FROM entity{joins}" + (f" ORDER BY {ROW}" if ordered else "")


def join_views(lake: Lake, features: int) -> list[tuple[JoinView, str]]:
    """The views as a job of shards wants them: each with its table at the newest version."""
    return [
        (
            JoinView(
                name=view.name,
                scan_sql=lake.scan(view.table(features)),
                keys={key: key for key in view.keys},
                event_column="event_timestamp",
                created_column="created",
                max_age=view.max_age,
                features=tuple((name, name) for name in view.features(features)),
            ),
            lake.ref(view.table(features)),
        )
        for view in VIEWS
    ]


def session(folder: Path, *, threads: int, memory_limit: str) -> duckdb.DuckDBPyConnection:
    """A session with the project's settings, for the SQL written by hand."""
    return duck.connect(threads=threads, memory_limit=memory_limit, temp_directory=folder / "spill")
