"""What is due, read off the lake: the one answer that the command line, the schedules and the sensors act on.

Nothing is remembered between calls. Each step compares what lies upstream with what the last commit says it was made
from, so a killed run, a late file and a first start are all the same question. What belongs here: deciding. What does
not: doing (that is the assets).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import date, timedelta

from contrail import incremental, intake, landing, view_freshness
from contrail.clock import clock_for
from contrail.completeness import complete_until
from contrail.contracts import Contract, load_contracts
from contrail.feast_config import online_place
from contrail.lake import CommitRecord, Lake
from contrail.settings import Settings
from feature_repo.use_cases import USE_CASES
from feature_repo.view_rules import ONLINE_TABLE
from features.tables import FEATURE_TABLES
from jobs import scoring_plan
from jobs.steps import Step, contiguous, days_between, partition_days

# Which service dates a landed day touches: its own, the two before (their last arrivals) and the one after (whose
# first assignments are known the evening before).
CLEAN_REACH = {
    "flight_schedules": (0, 0),
    "aircraft_assignments": (-1, 1),
    "flight_events": (-2, 1),
}
WEATHER_REACH = {"weather": (0, 0)}
CLEAN_DAILY = ("departures", "weather")
CLEAN_REFERENCE = {"aircraft": "planes", "airports": "airports", "carriers": "airlines"}


@dataclass(frozen=True)
class Plan:
    """The steps that are due now (the first stage that has any), and what stands in the way elsewhere.

    Attributes:
        blocked: raw table → partition → reasons.
        notes: what cannot be done yet or is left alone, in words.
    """

    steps: tuple[Step, ...]
    blocked: Mapping[str, Mapping[str, Sequence[str]]]
    notes: tuple[str, ...] = ()


@dataclass(frozen=True)
class _State:
    """What deciding looks at."""

    settings: Settings
    lake: Lake
    contracts: Mapping[str, Contract]
    blocked: Mapping[str, Mapping[str, Sequence[str]]]
    landed: landing.PartitionRange | None


def plan(settings: Settings) -> Plan:
    """The steps of the first stage in row order that has work; empty when everything is up to date."""
    lake = Lake(settings.lake_root)
    contracts = load_contracts(settings.repo_root / "contracts")
    blocked = {name: reasons for name in contracts if (reasons := intake.blocked_partitions(lake, name))}
    state = _State(settings, lake, contracts, blocked, landing.partition_range(settings.landing_root))
    notes: list[str] = []
    for stage in (_raw_steps, _reference_steps, _clean_steps, _feature_steps):
        steps = stage(state, notes)
        if steps:
            return Plan(tuple(steps), blocked, tuple(notes))
    until = complete_until(lake, contracts).until
    for use_case in USE_CASES.values():
        steps, said = scoring_plan.model_steps(lake, use_case, until)
        notes.extend(said)
        if steps:
            return Plan(tuple(steps), blocked, tuple(notes))
    return Plan((), blocked, tuple(notes))


def has_partition(
    settings: Settings, landed: landing.PartitionRange | None, contract: Contract, delivery: landing.Delivery
) -> bool:
    """Whether there is a partition to take the file into; of a reference table there always is."""
    if contract.partition_column is None:
        return True
    if landed is None or delivery.partition < landed.first.isoformat():
        return False
    return settings.clock == "system" or delivery.partition <= landed.last.isoformat()


def _raw_steps(state: _State, notes: list[str]) -> list[Step]:
    reference: list[str] = []
    by_range: dict[tuple[str, str], list[str]] = {}
    for name, contract in state.contracts.items():
        waiting = intake.waiting(state.lake, name, landing.deliveries(state.settings.landing_root, name))
        fresh = [d for d in waiting if has_partition(state.settings, state.landed, contract, d)]
        if outside := sorted({d.partition for d in waiting} - {d.partition for d in fresh}):
            notes.append(
                f"raw/{name}: files of {', '.join(outside[:5])} lie outside the landed range "
                f"({landing.RANGE_FILE}) and wait until it holds them"
            )
        if not fresh:
            continue
        if contract.partition_column is None:
            reference.append(name)
            continue
        for days in contiguous(d.partition for d in fresh):
            by_range.setdefault(days, []).append(f"raw/{name}")
    steps: list[Step] = []
    if reference:
        raw = [f"raw/{name}" for name in reference]
        clean = [f"clean/{model}" for model, source in CLEAN_REFERENCE.items() if source in reference]
        steps.append(
            Step("reference", f"new reference files: {', '.join(raw)}", assets=(*raw, *clean)),
        )
    for (first, last), assets in sorted(by_range.items()):
        steps.append(Step("ingest", f"new files for {', '.join(assets)}", first, last, tuple(assets)))
    return steps


def _reference_steps(state: _State, notes: list[str]) -> list[Step]:
    del notes
    stale = [
        f"clean/{model}"
        for model, raw in CLEAN_REFERENCE.items()
        if raw not in state.blocked
        and state.lake.exists(f"raw/{raw}")
        and _behind(state.lake, f"clean/{model}", f"raw/{raw}")
    ]
    if not stale:
        return []
    return [Step("reference", f"newer reference rows for {', '.join(stale)}", assets=tuple(stale))]


def _behind(lake: Lake, table: str, source: str) -> bool:
    """Whether the newest commit of a table was made from an older version of its source than there is."""
    if not lake.exists(table):
        return True
    records = [record for record in lake.commits(table) if record.inputs]
    return not records or lake.ref(source) not in records[-1].inputs


def _clean_steps(state: _State, notes: list[str]) -> list[Step]:
    del notes
    if state.landed is None:
        return []
    daily = [name for name, contract in state.contracts.items() if contract.partition_column]
    bad = {day for name in daily for day in state.blocked.get(name, {})}
    stale: set[str] = set()
    # What is rejected of departures is written after them: a run that is killed in between owes it.
    tables = {
        "clean/departures": CLEAN_REACH,
        "quarantine/departures": CLEAN_REACH,
        "clean/weather": WEATHER_REACH,
    }
    for table, reach in tables.items():
        stale |= _stale_days(state.lake, table, reach)
    known = set(days_between(state.landed.first.isoformat(), state.landed.last.isoformat()))
    scheduled = {day for r in _commits(state.lake, "raw/flight_schedules") for day in partition_days(r)}
    good = (stale & known & scheduled) - bad
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


def _feature_steps(state: _State, notes: list[str]) -> list[Step]:
    del notes
    lake = state.lake
    until = complete_until(lake, state.contracts).until
    landed = state.landed
    if until is None or landed is None or not all(lake.exists(f"clean/{name}") for name in CLEAN_DAILY):
        return []
    until = min(until, clock_for(state.settings).now(), landed.newest_fact_delivered_at)
    ends = [incremental.built_until(lake, f"feature/{name}") for name in FEATURE_TABLES]
    before = sum(end is None or end < until for end in ends)
    # A correction moves no end: it shows in newer clean rows.
    older = [
        name
        for name, table in FEATURE_TABLES.items()
        if any(_behind(lake, f"feature/{name}", source) for source in table.sources)
    ]
    if before:
        reason = f"complete until {until:%Y-%m-%d %H:%M}Z, {before} tables end before"
    elif older:
        reason = f"clean rows newer than {len(older)} feature tables"
    elif any(_behind(lake, ONLINE_TABLE, f"feature/{name}") for name in FEATURE_TABLES):
        reason = "feature tables newer than the online store"
    elif view_freshness.is_elsewhere(lake, ONLINE_TABLE, online_place(state.settings)):
        reason = f"the online store is {online_place(state.settings)}, and another one was filled"
    else:
        return []
    return [Step("features", reason)]
