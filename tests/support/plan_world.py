"""A home in which commits are written by hand: for tests of what is due, without doing any of it.

The plan looks at landed manifests, at commits and at the days of the clean rows; tables here hold no more than that.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from datetime import UTC, date, datetime, time, timedelta
from pathlib import Path

import pyarrow as pa

from contrail import completeness, incremental, intake, landing
from contrail.lake import Commit, Lake
from contrail.settings import Settings
from features.tables import FEATURE_TABLES
from jobs.plan import CLEAN_REACH, CLEAN_REFERENCE
from jobs.steps import days_between

FEEDS = ("aircraft_assignments", "flight_events", "weather")
DAILY = (*FEEDS, "flight_schedules")
REFERENCE = ("planes", "airports", "airlines")


def feed_day_ends(day: str) -> datetime:
    return datetime.combine(date.fromisoformat(day) + timedelta(days=1), time(7), UTC)


class PlanWorld:
    """Landing, taking in and building, as commits only."""

    def __init__(self, home: Path) -> None:
        self.settings = Settings(home=home)
        self.lake = Lake(self.settings.lake_root)
        self.root = self.settings.landing_root
        self._runs = 0

    # -- landing -------------------------------------------------------------------------------------------------

    def land(
        self,
        table: str,
        day: str,
        text: str | None = None,
        *,
        hours_later: float = 0,
        supersedes: str | None = None,
    ) -> landing.Delivery:
        """A file of a day (header only unless told), delivered when its feed day ended."""
        end = feed_day_ends(day if day != "all" else "2013-01-01") + timedelta(hours=hours_later)
        return landing.write_delivery(
            self.root, table, day, f"column\n{text or ''}".encode(), rows=int(text is not None), delivered_at=end,
            covers_from=None, covers_to=None, source="test", supersedes=supersedes,
        )  # fmt: skip

    def land_days(self, first: str, last: str, tables: Iterable[str] = DAILY) -> None:
        """A file of every table for every day, and the range that says so."""
        for table in tables:
            for day in days_between(first, last):
                self.land(table, day, f"{table} {day}\n")
        self.widen(first, last)

    def land_reference(self) -> None:
        for table in REFERENCE:
            self.land(table, "all", f"{table}\n")

    def widen(self, first: str, last: str) -> None:
        landing.update_range(
            self.root,
            first=date.fromisoformat(first),
            last=date.fromisoformat(last),
            newest_fact_delivered_at=feed_day_ends(last),
        )

    # -- commits -------------------------------------------------------------------------------------------------

    def take_in(
        self,
        tables: Iterable[str],
        first: str,
        last: str | None = None,
        blocked: Mapping[str, list[str]] | None = None,
    ) -> None:
        """What an intake of these days would have said of itself."""
        days = [first] if first == "all" else days_between(first, last or first)
        bad = blocked or {}
        for table in tables:
            files = landing.deliveries(self.root, table, set(days))
            facts = {
                intake.TAKEN: json.dumps({d.path.name: intake.manifest_digest(d) for d in files}),
                completeness.BLOCKED: json.dumps(bad),
            }
            good = [day for day in days if day not in bad and day != "all"]
            if good:
                facts[completeness.ACCEPTED_UNTIL] = feed_day_ends(good[-1]).isoformat()
            inputs = [f"sha256:{d.sha256}" for d in files]
            self.commit(f"raw/{table}", inputs, f"{days[0]}..{days[-1]}" if len(days) > 1 else days[0], facts)

    def build_clean(self, first: str, last: str, *, killed_before_the_rejected: bool = False) -> None:
        reads = [f"raw/{table}" for table in CLEAN_REACH]
        inputs = [self.lake.ref(table) for table in reads if self.lake.exists(table)]
        self.commit("clean/departures", inputs, f"{first}..{last}", days=days_between(first, last))
        if killed_before_the_rejected:
            return
        self.commit("quarantine/departures", inputs, f"{first}..{last}")
        self.commit("clean/weather", [self.lake.ref("raw/weather")], f"{first}..{last}")

    def build_reference(self) -> None:
        for model, source in CLEAN_REFERENCE.items():
            self.commit(f"clean/{model}", [self.lake.ref(f"raw/{source}")], "")

    def build_features(self, until: datetime) -> None:
        for name, table in FEATURE_TABLES.items():
            facts = {incremental.BUILT_UNTIL: until.isoformat()}
            self.commit(f"feature/{name}", [self.lake.ref(source) for source in table.sources], "", facts)

    def materialise(self) -> None:
        refs = [self.lake.ref(f"feature/{name}") for name in FEATURE_TABLES]
        self.commit("feature_store/online", refs, "")

    def commit(
        self,
        table: str,
        inputs: Iterable[str],
        partition: str,
        facts: Mapping[str, str] | None = None,
        days: Iterable[str] = ("2013-01-01",),
    ) -> None:
        self._runs += 1
        rows = pa.table({"service_date": pa.array([date.fromisoformat(day) for day in days], pa.date32())})
        self.lake.create(table, rows.schema)
        self.lake.append(
            table, rows, Commit(table, f"run-{self._runs}", tuple(inputs), partition, extra=facts or {})
        )

    def everything_done(self, first: str, last: str) -> None:
        """Landed, taken in and built, from reference files to the online store."""
        self.land_reference()
        self.land_days(first, last)
        self.take_in(REFERENCE, "all")
        self.build_reference()
        self.take_in(DAILY, first, last)
        self.build_clean(first, last)
        self.build_features(feed_day_ends(last))
        self.materialise()
