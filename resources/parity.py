"""Parity of the online store with the feature tables: a sample of every view, and whole vectors of every use case."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass, replace
from datetime import datetime
from typing import TYPE_CHECKING, Any

import dagster as dg
import duckdb
import pyarrow as pa

from contrail import parity
from contrail.asof_join import JoinView, instant
from contrail.asof_sources import join_view, source_path
from contrail.duck import quote_identifier as q
from contrail.incremental import built_until
from contrail.lake import Lake
from contrail.online_read import OnlineRow, read_online
from contrail.online_views import online_view
from contrail.parity import Compared, Mismatch
from contrail.use_case import UseCase
from contrail.view_freshness import OnlineCopy, online_copies
from feature_repo.use_cases import USE_CASES
from feature_repo.view_rules import ONLINE_TABLE
from resources.feature_store import FeatureStoreResource

if TYPE_CHECKING:
    from feast import FeatureStore, FeatureView

PUSHED = "push/"
"""Where the journals of pushed events lie in the lake."""
NEVER = "never materialised: nothing to compare"
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
        views = {view.name: view for view in store.list_feature_views()}
        copies = online_copies(lake, con, ONLINE_TABLE)
        comparison = _Comparison(
            feature_store, store, lake, con, views, copies, _ahead_from(lake, views, copies), now
        )
        parts = [comparison.of_view(views[name], sample) for name in sorted(views)]
        parts += [comparison.of_vectors(use_case, spine) for use_case in USE_CASES.values()]
    return Parity(tuple(parts))


def _ahead_from(
    lake: Lake, views: Mapping[str, FeatureView], copies: Mapping[str, OnlineCopy]
) -> dict[str, datetime]:
    """View -> from when on online rows are pushed ones; empty where nothing was ever pushed.

    Events that are pushed reach the online store before the files that bring them to the tables.
    """
    if not any(name.startswith(PUSHED) for name in lake.tables()):
        return {}
    found: dict[str, datetime] = {}
    for name, view in views.items():
        copy = copies.get(name)
        if copy is not None and copy.version is not None:
            end = built_until(lake, view.tags["table"], copy.version)
            if end is not None:
                found[name] = end
    return found


@dataclass(frozen=True)
class _Comparison:
    """Both sides, open.

    Attributes:
        copies: view -> what its online copy was made from.
        ahead: view -> from when on its online rows are pushed ones.
    """

    feature_store: FeatureStoreResource
    store: FeatureStore
    lake: Lake
    con: duckdb.DuckDBPyConnection
    views: Mapping[str, FeatureView]
    copies: Mapping[str, OnlineCopy]
    ahead: Mapping[str, datetime]
    now: datetime

    def of_view(self, view: FeatureView, sample: int) -> Part:
        """A sample of one view's entities."""
        copy = self.copies.get(view.name)
        if copy is None:
            return Part(Compared(view.name, 0, 0, (), ()), "", None, NEVER)
        path = source_path(self.store.config, view.batch_source)
        pins = {} if copy.version is None else {path: copy.version}
        entities = parity.sample_entities(
            self.con, self._join_view(view, pins), count=sample, seed=self.now, now=copy.until
        )
        compared = self._rows(view, pins, entities, copy.until)
        notes = [f"{compared.ahead} entities were pushed ahead of the table"] if compared.ahead else []
        if compared.mismatches:
            # A materialisation that was killed, and Feast's own push, leave rows of a newer version online than is
            # recorded: those entities must be what that version says now.
            newest: dict[str, int] = {}
            differing = [entities[n] for n in compared.differing]
            again = self._rows(view, newest, differing, self.now)
            compared = replace(compared, mismatches=again.mismatches)
            if newer := len(differing) - len(again.differing):
                notes.append(
                    f"{newer} entities are newer than the last materialisation, and equal to v{newest[path]}"
                )
        return Part(compared, f"{view.tags['table']}@v{pins[path]}", copy.until, "; ".join(notes))

    def _join_view(self, view: FeatureView, pins: dict[str, int]) -> JoinView:
        return join_view(self.store.config, view, [field.name for field in view.features], pins)

    def _rows(
        self, view: FeatureView, pins: dict[str, int], entities: Sequence[Mapping[str, Any]], at: datetime
    ) -> Compared:
        offline = parity.offline_rows(self.con, self._join_view(view, pins), entities, now=at)
        online = self._online([view], entities, at)
        return parity.compare(
            view.name,
            entities,
            offline,
            [answer[view.name] for answer in online],
            personal=PERSONAL,
            ahead_from=self.ahead.get(view.name),
        )

    def _online(
        self, views: Iterable[FeatureView], entities: Sequence[Mapping[str, Any]], at: datetime
    ) -> list[dict[str, OnlineRow]]:
        config = self.store.config
        return read_online(config, [online_view(config, view) for view in views], entities, now=at)

    def of_vectors(self, use_case: UseCase, spine: Mapping[str, str]) -> Part:
        """Whole vectors of recent rows of one use case, computed features and priors included."""
        service = use_case.feature_service
        nothing = Compared(service, 0, 0, (), ())
        if not self.copies:
            return Part(nothing, "", None, NEVER)
        at = max(copy.until for copy in self.copies.values())
        rows = self._recent_rows(use_case, spine, at)
        offline, versions = self.feature_store.historical(rows, service)
        read = ", ".join(f"{table}@v{version}" for table, version in versions.items())
        if moved := sorted(self._moved(versions, at)):
            note = f"not compared, the online copy is of another version: {', '.join(moved)}"
            return Part(nothing, read, None, note)
        asked = rows.to_pylist()
        pushed, late = self._after(use_case, asked, at, versions)
        chosen = [n for n in range(len(asked)) if n not in pushed and n not in late]
        online = self.feature_store.online(service, [asked[n] for n in chosen], now=at)
        vectors = offline.select(list(use_case.features)).to_pylist()
        compared = parity.compare_vectors(
            service,
            [{use_case.entity_key: asked[n][use_case.entity_key]} for n in chosen],
            [vectors[n] for n in chosen],
            [vector.features for vector in online],
            personal=PERSONAL,
        )
        compared = replace(compared, mismatches=(*late.values(), *compared.mismatches), ahead=len(pushed))
        note = f"{len(pushed)} vectors hold rows that were pushed ahead of the tables" if pushed else ""
        return Part(compared, read, at, note)

    def _after(
        self, use_case: UseCase, asked: Sequence[Mapping[str, Any]], at: datetime, read: Mapping[str, int]
    ) -> tuple[set[int], dict[int, Mismatch]]:
        """Positions of those with a pushed row, and of those with a row from after `at` that nothing accounts for.

        Only the tables count that the vectors were `read` from.

        The service refuses a question that it could answer only from after its instant, so these are not asked for.
        """
        views = [
            view for name, view in self.views.items() if name in self.copies and view.tags["table"] in read
        ]
        pushed: set[int] = set()
        late: dict[int, Mismatch] = {}
        for number, rows in enumerate(self._online(views, asked, at)):
            if any(parity.is_ahead(row, self.ahead.get(view)) for view, row in rows.items()):
                pushed.add(number)
                continue
            for view, row in rows.items():
                if row.event_at is not None and row.event_at > at:
                    key = {use_case.entity_key: asked[number][use_case.entity_key]}
                    late[number] = Mismatch(
                        use_case.feature_service,
                        parity.KNOWN_AT,
                        parity.entity_name(key, PERSONAL),
                        f"nothing after {at.isoformat()}",
                        f"a row of {view} known at {row.event_at.isoformat()}",
                    )
        return pushed, late

    def _moved(self, versions: Mapping[str, int], at: datetime) -> Iterator[str]:
        for table, version in versions.items():
            copy = self.copies.get(table.rpartition("/")[2])
            if copy is None or copy.version != version or copy.until != at:
                yield f"{table}@v{version}"

    def _recent_rows(self, use_case: UseCase, spine: Mapping[str, str], at: datetime) -> pa.Table:
        """Rows of the spine's newest days, a sample, all as if decided at `at`."""
        for name, table in spine.items():
            scanned, day = self.lake.scan(table), q(use_case.partition_column)
            newest = self.con.execute(
                f"SELECT DISTINCT {day} FROM {scanned} ORDER BY {day} DESC LIMIT {RECENT_DAYS}"
            ).fetchall()
            # As literals: only their files are opened.
            days = ", ".join(f"DATE '{found}'" for (found,) in newest) or "NULL"
            self.con.execute(
                f"CREATE OR REPLACE TEMP VIEW {q(name)} AS SELECT * FROM {scanned} WHERE {day} IN ({days})"
            )
        key = q(use_case.entity_key)
        return self.con.execute(
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
