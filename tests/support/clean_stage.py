"""The clean stage over a lake of a test: run dbt on it and look at what came out."""

from __future__ import annotations

from datetime import date, datetime, timedelta
from pathlib import Path
from typing import Any

from contrail import duck
from contrail.dbt_runner import BuildContext, DbtRunResult, run_dbt, selection
from contrail.settings import Settings
from tests.support.raw_lake import RawLake, feed_day_ends

ROOT = Path(__file__).resolve().parents[2]
PROJECT = ROOT / "dbt_project"
FIRST, LAST = date(2013, 3, 8), date(2013, 3, 12)  # clocks go forward on the 10th
DAILY = ("departures", "weather", "quarantine_departures")
REFERENCE = ("aircraft", "airports", "carriers")


class Stage:
    """One lake and its clean stage."""

    def __init__(self, raw: RawLake, home: Path, target: Path) -> None:
        self.raw = raw
        self.lake = raw.lake
        self.settings = Settings(home=home)
        self._target = target

    def dbt(
        self, *args: str, first: date = FIRST, last: date = LAST, until: datetime | None = None
    ) -> DbtRunResult:
        self.context = BuildContext(
            lake_root=self.settings.lake_root,
            first=first,
            last=last,
            complete_until=until or feed_day_ends(last + timedelta(days=2)),
            run_id="test",
            settings=self.settings,
        )
        return run_dbt(PROJECT, args, self.context, target_path=self._target, log_path=self._target)

    def build(self, first: date = FIRST, last: date = LAST, until: datetime | None = None) -> DbtRunResult:
        """The daily models without their tests, from reference tables that are there."""
        return self.dbt("run", *selection(DAILY), first=first, last=last, until=until)

    def rows(self, query: str) -> list[dict[str, Any]]:
        """A query with ``{departures}`` and the like standing for clean tables, ``{quarantine}`` for theirs."""
        tables = {
            name.partition("/")[2]: self.lake.scan(name)
            for name in self.lake.tables()
            if name.startswith("clean/")
        }
        if self.lake.exists("quarantine/departures"):
            tables["quarantine"] = self.lake.scan("quarantine/departures")
        with duck.connect() as con:
            result = con.execute(query.format(**tables))
            names = [column[0] for column in result.description or []]
            return [dict(zip(names, row, strict=True)) for row in result.fetchall()]

    def departure(self, departure_id: str) -> list[dict[str, Any]]:
        """All versions of one departure."""
        return self.rows(
            f"SELECT * FROM {{departures}} WHERE departure_id = '{departure_id}' ORDER BY created_at"
        )

    def content(self, table: str, first: date = FIRST, last: date = LAST) -> str:
        column = "feed_date" if table == "clean/weather" else "service_date"
        return self.lake.content_hash(table, where=f"{column} BETWEEN DATE '{first}' AND DATE '{last}'")
