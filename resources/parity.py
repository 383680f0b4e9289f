"""Parity of the online store with the feature tables: a sample of every view, and whole vectors of every use case."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass, replace
from datetime import datetime
from typing import TYPE_CHECKING, Any

import dagster as dg
import duckdb
import pyarrow as pa

from contrail import parity
from contrail.asof_join import instant
from contrail.asof_sources import join_view, source_path
from contrail.duck import quote_identifier as q
from contrail.lake import Lake
from contrail.online_read import read_online
from contrail.online_views import online_view
from contrail.parity import Compared, Mismatch
from contrail.use_case import UseCase
from contrail.view_freshness import OnlineCopy, online_copies
from feature_repo.use_cases import USE_CASES
from feature_repo.view_rules import ONLINE_TABLE
from resources.feature_store import FeatureStoreResource

if TYPE_CHECKING:
    from feast import FeatureStore, FeatureView

VECTORS = 50
"""Whole vectors compared per use case."""
RECENT_DAYS = 2
"""Partition days of the spine, the newest, of which they are taken."""

PERSONAL = frozenset(column for use_case in USE_CASES.values() for column in use_case.personal)

VIEW_SCHEMA = dg.TableSchema(
    columns=[
        dg.TableColumn("view", "string", "The feature view, or the feature service for whole vectors."),
        dg.TableColumn("table", "string", "What the online copy was made from."),
        dg.TableColumn("as of", "string", "The instant at which both sides were asked."),
        dg.TableColumn("entities", "int", "Entities compared."),
        dg.TableColumn("values", "int", "Values compared, bit by bit."),
        dg.TableColumn("mismatches", "int", "Differences."),
        dg.TableColumn("note", "string", "Why something was not compared, or compared otherwise."),
    ]
)
MISMATCH_SCHEMA = dg.TableSchema(
    columns=[
        dg.TableColumn("view", "string", "The feature view, or the feature service for whole vectors."),
        dg.TableColumn(
            "column", "string", "The feature; (row) or (known at) where the rows themselves differ."
        ),
        dg.TableColumn("entity", "string", "The entity's keys; a digest where a key is personal."),
        dg.TableColumn("offline", "string", "What the feature table says."),
        dg.TableColumn("online", "string", "What the online store says."),
    ]
)


@dataclass(frozen=True)
class Part:
    """One view, or the vectors of one feature service.

    Attributes:
        read: the tables that the offline side was read from, ``stage/name@v3``.
        at: the instant at which both sides were asked; None where nothing was compared.
        note: why something was not compared, or compared otherwise; empty as a rule.
    """

    compared: Compared
    read: str
    at: datetime | None
    note: str = ""


@dataclass(frozen=True)
class Parity:
    """The outcome of one comparison."""

    parts: tuple[Part, ...]

    @property
    def mismatches(self) -> list[Mismatch]:
        return [mismatch for part in self.parts for mismatch in part.compared.mismatches]

    @property
    def in_words(self) -> str:
        """One sentence, naming what differs."""
        listed, more = parity.listed(self.mismatches)
        if not listed:
            entities = sum(part.compared.entities for part in self.parts)
            values = sum(part.compared.values for part in self.parts)
            return f"{entities:,} sampled entities, {values:,} values: online equals offline, bit by bit"
        said = "; ".join(
            f"{m.view} {m.column} of {m.entity}: offline {m.offline}, online {m.online}" for m in listed
        )
        return f"{len(self.mismatches)} differences: {said}" + (f"; and {more} more" if more else "")


def compare_online(
    feature_store: FeatureStoreResource, *, now: datetime, sample: int, spine: Mapping[str, str]
) -> Parity:
    """Compare the online store with the tables that it was filled from, at the instant it was filled until.

    Args:
        now: the clock's now; the sample is drawn from it.
        sample: entities per view.
        spine: view name -> table that the use cases' spine queries read.

    Raises:
        OnlineError: the online store is missing or cannot be read.
    """
    from contrail.asof import session

    store = feature_store.store()
    lake = Lake(feature_store.settings.lake_root)
    with closing(session(store.config)) as con:
        copies = online_copies(lake, con, ONLINE_TABLE)
        views = sorted(store.list_feature_views(), key=lambda view: view.name)
        parts = [_view_part(store, con, view, copies.get(view.name), now, sample) for view in views]
        parts += [
            _vector_part(feature_store, lake, con, use_case, copies, spine) for use_case in USE_CASES.values()
        ]
    return Parity(tuple(parts))


def _view_part(
    store: FeatureStore,
    con: duckdb.DuckDBPyConnection,
    view: FeatureView,
    copy: OnlineCopy | None,
    now: datetime,
    sample: int,
) -> Part:
    if copy is None:
        return Part(Compared(view.name, 0, 0, (), ()), "", None, "never materialised: nothing to compare")
    path = source_path(store.config, view.batch_source)
    pins = {} if copy.version is None else {path: copy.version}
    joined = join_view(store.config, view, [field.name for field in view.features], pins)
    entities = parity.sample_entities(con, joined, count=sample, seed=now, now=copy.until)
    compared = _compare(store, con, view, pins, entities, copy.until)
    read = f"{view.tags.get('table', path)}@v{pins[path]}"
    if not compared.mismatches:
        return Part(compared, read, copy.until)
    # What was pushed since the last materialisation stands in a newer version of the table: those entities must be
    # what that one says now.
    newest: dict[str, int] = {}
    again = _compare(store, con, view, newest, [entities[n] for n in compared.differing], now)
    pushed = len(compared.differing) - len(again.differing)
    note = (
        f"{pushed} entities are newer than the materialisation and equal to v{newest[path]}" if pushed else ""
    )
    return Part(replace(compared, mismatches=again.mismatches), read, copy.until, note)


def _compare(
    store: FeatureStore,
    con: duckdb.DuckDBPyConnection,
    view: FeatureView,
    pins: dict[str, int],
    entities: Sequence[Mapping[str, Any]],
    at: datetime,
) -> Compared:
    joined = join_view(store.config, view, [field.name for field in view.features], pins)
    offline = parity.offline_rows(con, joined, entities, now=at)
    online = read_online(store.config, [online_view(store.config, view)], entities, now=at)
    answers = [answer[view.name] for answer in online]
    return parity.compare(view.name, entities, offline, answers, personal=PERSONAL)


def _vector_part(
    feature_store: FeatureStoreResource,
    lake: Lake,
    con: duckdb.DuckDBPyConnection,
    use_case: UseCase,
    copies: Mapping[str, OnlineCopy],
    spine: Mapping[str, str],
) -> Part:
    nothing = Compared(use_case.feature_service, 0, 0, (), ())
    if not copies:
        return Part(nothing, "", None, "never materialised: nothing to compare")
    at = max(copy.until for copy in copies.values())
    rows = _recent_rows(lake, con, use_case, spine, at)
    offline, versions = feature_store.historical(rows, use_case.feature_service)
    moved = sorted(_moved(versions, copies, at))
    read = ", ".join(f"{table}@v{version}" for table, version in versions.items())
    if moved:
        return Part(
            nothing, read, None, f"not compared, the online copy is of another version: {', '.join(moved)}"
        )
    online = feature_store.online(use_case.feature_service, rows.to_pylist(), now=at)
    compared = parity.compare_vectors(
        use_case.feature_service,
        [{use_case.entity_key: key} for key in rows[use_case.entity_key].to_pylist()],
        offline.select(list(use_case.features)).to_pylist(),
        [vector.features for vector in online],
        personal=PERSONAL,
    )
    return Part(compared, read, at)


def _moved(versions: Mapping[str, int], copies: Mapping[str, OnlineCopy], at: datetime) -> Iterator[str]:
    for table, version in versions.items():
        copy = copies.get(table.rpartition("/")[2])
        if copy is None or copy.version != version or copy.until != at:
            yield f"{table}@v{version}"


def _recent_rows(
    lake: Lake, con: duckdb.DuckDBPyConnection, use_case: UseCase, spine: Mapping[str, str], at: datetime
) -> pa.Table:
    """Rows of the spine's newest days, a sample, all as if decided at `at`."""
    for name, table in spine.items():
        scanned, day = lake.scan(table), q(use_case.partition_column)
        con.execute(
            f"CREATE OR REPLACE TEMP VIEW {q(name)} AS SELECT * FROM {scanned} WHERE {day} IN "
            f"(SELECT DISTINCT {day} FROM {scanned} ORDER BY {day} DESC LIMIT {RECENT_DAYS})"
        )
    key = q(use_case.entity_key)
    return con.execute(
        f"SELECT * REPLACE ({instant(at)} AS {q(use_case.decision_column)}) FROM ({use_case.spine_sql}) "
        f"ORDER BY md5(concat_ws('|', '{at.isoformat()}', {key})), {key} LIMIT {VECTORS}"
    ).to_arrow_table()


# --- as Dagster shows it ---------------------------------------------------------------------------------------------


def metadata(found: Parity) -> dict[str, Any]:
    """The comparison as metadata of a check result: a row per view, and the first differences."""
    listed, more = parity.listed(found.mismatches)
    return {
        "compared": dg.MetadataValue.table([_part_record(part) for part in found.parts], VIEW_SCHEMA),
        "mismatches": len(found.mismatches),
        "mismatches_listed": dg.MetadataValue.table(
            [
                dg.TableRecord(
                    {"view": m.view, "column": m.column, "entity": m.entity, "offline": m.offline, "online": m.online}
                )
                for m in listed
            ],
            MISMATCH_SCHEMA,
        ),
        "mismatches_not_listed": more,
    }  # fmt: skip


def _part_record(part: Part) -> dg.TableRecord:
    return dg.TableRecord(
        {
            "view": part.compared.view,
            "table": part.read,
            "as of": "" if part.at is None else part.at.isoformat(),
            "entities": part.compared.entities,
            "values": part.compared.values,
            "mismatches": len(part.compared.mismatches),
            "note": part.note,
        }
    )
