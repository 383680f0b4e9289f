"""What is due, read off the lake: the one answer that the command line, the schedules and the sensors act on.

Nothing is remembered between calls. Each step compares what lies upstream with what the last commit says it was made
from, so a killed run, a late file and a first start are all the same question. What belongs here: deciding. What does
not: doing (that is the assets).
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import date, datetime, timedelta
from typing import Literal

from contrail import incremental, intake, landing
from contrail.clock import clock_for
from contrail.completeness import complete_until
from contrail.contracts import Contract, load_contracts
from contrail.lake import CommitRecord, Lake
from contrail.settings import Settings
from feature_repo.use_cases import USE_CASES
from features.tables import FEATURE_TABLES
from jobs import scoring_plan

JobName = Literal["ingest", "reference", "clean", "features", "train", "score", "monitor"]

# Which service dates a landed day touches: its own, the two before (their last arrivals) and the one after (whose
# first assignments are known the evening before).
CLEAN_REACH = {
    "flight_schedules": (0, 0),
    "aircraft_assignments": (-1, 1),
    "flight_events": (-2, 1),
}
CLEAN_DAILY = ("departures", "weather")
CLEAN_REFERENCE = {"aircraft": "planes", "airports": "airports", "carriers": "airlines"}


@dataclass(frozen=True)
class Step:
    """One run that is due: which job, which assets of it (all when empty), which days, and why."""

    job: str
    reason: str
    first: str | None = None
    last: str | None = None
    assets: tuple[str, ...] = ()

    @property
    def days(self) -> str:
        return (
            ""
            if self.first is None
            else self.first
            if self.first == self.last
            else f"{self.first}..{self.last}"
        )


@dataclass(frozen=True)
class Plan:
    """The steps that are due now (the first stage that has any), and what stands in the way elsewhere."""

    steps: tuple[Step, ...]
    blocked: Mapping[str, Mapping[str, Sequence[str]]]
    notes: tuple[str, ...] = ()


def plan(settings: Settings) -> Plan:
    """The steps of the first stage in row order that has work; empty when everything is up to date."""
    lake = Lake(settings.lake_root)
    contracts = load_contracts(settings.repo_root / "contracts")
    blocked = {name: reasons for name in contracts if (reasons := intake.blocked_partitions(lake, name))}
    for stage in (_raw_steps, _reference_steps, _clean_steps, _feature_steps):
        steps = stage(settings, lake, contracts, blocked)
        if steps:
            return Plan(tuple(steps), blocked)
    notes: list[str] = []
    for use_case in USE_CASES.values():
        steps, said = scoring_plan.model_steps(
            settings, lake, use_case, complete_until(lake, contracts).until
        )
        notes.extend(said)
        if steps:
            return Plan(
                tuple(Step(s.job, s.reason, s.first, s.last, s.assets) for s in steps), blocked, tuple(notes)
            )
    return Plan((), blocked, tuple(notes))


def days_between(first: str, last: str) -> list[str]:
    """All days from first to last, both included."""
    start, end = date.fromisoformat(first), date.fromisoformat(last)
    return [(start + timedelta(days=n)).isoformat() for n in range((end - start).days + 1)]


def contiguous(days: Iterable[str]) -> list[tuple[str, str]]:
    """Days as maximal runs of consecutive ones: one run of a job each."""
    ranges: list[tuple[str, str]] = []
    for day in sorted(set(days)):
        if ranges and date.fromisoformat(day) - date.fromisoformat(ranges[-1][1]) == timedelta(days=1):
            ranges[-1] = (ranges[-1][0], day)
        else:
            ranges.append((day, day))
    return ranges


def partition_days(record: CommitRecord) -> list[str]:
    """The days that a commit says it wrote."""
    first, _, last = record.partition.partition("..")
    return days_between(first, last or first) if first else []


def _raw_steps(
    settings: Settings,
    lake: Lake,
    contracts: Mapping[str, Contract],
    blocked: Mapping[str, Mapping[str, Sequence[str]]],
) -> list[Step]:
    del blocked  # a replacement is a new file, and new files are what is looked for
    by_range: dict[tuple[str, str], list[str]] = {}
    steps: list[Step] = []
    for name, contract in contracts.items():
        fresh = intake.waiting(lake, name, landing.deliveries(settings.landing_root, name))
        if not fresh:
            continue
        if contract.partition_column is None:
            steps.append(
                Step("reference", f"{len(fresh)} new file(s) for raw/{name}", assets=(f"raw/{name}",))
            )
            continue
        for days in contiguous(d.partition for d in fresh):
            by_range.setdefault(days, []).append(name)
    if steps:
        tables = tuple(asset for step in steps for asset in step.assets)
        clean = tuple(f"clean/{model}" for model, raw in CLEAN_REFERENCE.items() if f"raw/{raw}" in tables)
        steps = [Step("reference", f"new reference files: {', '.join(tables)}", assets=(*tables, *clean))]
    for (first, last), names in sorted(by_range.items()):
        assets = tuple(f"raw/{name}" for name in names)
        steps.append(Step("ingest", f"new files for {', '.join(assets)}", first, last, assets))
    return steps


def _reference_steps(
    settings: Settings,
    lake: Lake,
    contracts: Mapping[str, Contract],
    blocked: Mapping[str, Mapping[str, Sequence[str]]],
) -> list[Step]:
    del settings, contracts
    stale = [
        model
        for model, raw in CLEAN_REFERENCE.items()
        if raw not in blocked and lake.exists(f"raw/{raw}") and _behind(lake, f"clean/{model}", f"raw/{raw}")
    ]
    assets = tuple(f"clean/{model}" for model in stale)
    return (
        [Step("reference", f"newer reference rows for {', '.join(assets)}", assets=assets)] if assets else []
    )


def _behind(lake: Lake, table: str, source: str) -> bool:
    """Whether the newest commit of a table was made from an older version of its source than there is."""
    if not lake.exists(table):
        return True
    records = [record for record in lake.commits(table) if record.inputs]
    return not records or lake.ref(source) not in records[-1].inputs


def _clean_steps(
    settings: Settings,
    lake: Lake,
    contracts: Mapping[str, Contract],
    blocked: Mapping[str, Mapping[str, Sequence[str]]],
) -> list[Step]:
    landed = landing.partition_range(settings.landing_root)
    if landed is None:
        return []
    daily = [name for name, contract in contracts.items() if contract.partition_column]
    bad = {day for name in daily for day in blocked.get(name, {})}
    stale: set[str] = set()
    for model, reach in (("departures", CLEAN_REACH), ("weather", {"weather": (0, 0)})):
        stale |= _stale_days(lake, f"clean/{model}", reach)
    known = set(days_between(landed.first.isoformat(), landed.last.isoformat()))
    scheduled = {day for r in _commits(lake, "raw/flight_schedules") for day in partition_days(r)}
    good = sorted((stale & known & scheduled) - bad)
    return [
        Step("clean", "raw rows newer than the clean ones", first, last) for first, last in contiguous(good)
    ]


def _stale_days(lake: Lake, table: str, reach: Mapping[str, tuple[int, int]]) -> set[str]:
    """Days of a table that were built from older versions of raw days within reach than there are now."""
    built: dict[str, dict[str, int]] = {}
    for record in _commits(lake, table):
        used = {
            name: int(version) for name, _, version in (i.rpartition("@v") for i in record.inputs) if version
        }
        for day in partition_days(record):
            built[day] = used
    stale: set[str] = set()
    for source, (before, after) in reach.items():
        for record in _commits(lake, f"raw/{source}"):
            days = partition_days(record)
            if not days:
                continue
            touched = days_between(_shift(days[0], before), _shift(days[-1], after))
            stale |= {day for day in touched if built.get(day, {}).get(f"raw/{source}", -1) < record.version}
    return stale


def _commits(lake: Lake, table: str) -> list[CommitRecord]:
    return lake.commits(table) if lake.exists(table) else []


def _shift(day: str, days: int) -> str:
    return (date.fromisoformat(day) + timedelta(days=days)).isoformat()


def _feature_steps(
    settings: Settings,
    lake: Lake,
    contracts: Mapping[str, Contract],
    blocked: Mapping[str, Mapping[str, Sequence[str]]],
) -> list[Step]:
    del blocked
    until = complete_until(lake, contracts).until
    if until is None or not all(lake.exists(f"clean/{name}") for name in CLEAN_DAILY):
        return []
    until = min(until, clock_for(settings).now())
    behind = [
        name
        for name in FEATURE_TABLES
        if (built := incremental.built_until(lake, f"feature/{name}")) is None or built < until
    ]
    online = "feature_store/online"
    if (
        behind
        or not lake.exists(online)
        or any(_behind(lake, online, f"feature/{n}") for n in FEATURE_TABLES)
    ):
        return [Step("features", f"complete until {until:%Y-%m-%d %H:%M}Z, {len(behind)} tables end before")]
    return []


def complete_until_of(settings: Settings) -> datetime | None:
    """Up to which instant the bounding feeds have been taken in."""
    return complete_until(Lake(settings.lake_root), load_contracts(settings.repo_root / "contracts")).until
