"""Feast's historical retrieval over this store against a brute-force oracle, over ten thousand generated cases.

A case is a handful of source rows, crowded onto the same few instants and keys, and the entity rows that ask about
them. The case's number is one more key of every view, so that thousands of cases are one request and never meet.
"""

from __future__ import annotations

import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any
from zoneinfo import ZoneInfo

import pandas as pd
import pyarrow as pa
import pytest
from deltalake import write_deltalake
from feast import Entity, FeatureService, FeatureStore, FeatureView, Field, FileSource
from feast.data_format import DeltaFormat
from feast.types import Int32, Int64, String
from feast.value_type import ValueType

from tests.support.asof_store import open_store

CASES = 10_500
MICROSECOND, SECOND, MINUTE, HOUR, DAY = 1, 1_000_000, 60_000_000, 3_600_000_000, 86_400_000_000
# None and zero both mean for ever.
MAX_AGES = {"none": None, "zero": 0, "1us": MICROSECOND, "1s": SECOND, "1d": DAY}
EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
NEW_YORK = ZoneInfo("America/New_York")
# Clocks in New York skip 02:00 to 03:00 at the first instant and repeat 01:00 to 02:00 around the second.
GAP = (datetime(2013, 3, 10, 7, 0, tzinfo=UTC) - EPOCH) // timedelta(microseconds=1)
FOLD = (datetime(2013, 11, 3, 6, 0, tzinfo=UTC) - EPOCH) // timedelta(microseconds=1)


@dataclass(frozen=True)
class Row:
    """A row of a source; times in microseconds since the epoch."""

    key: Any
    ts: int | None
    created: int | None
    number: int | None
    label: str | None


@dataclass(frozen=True)
class Point:
    """An entity row."""

    case: int
    key: str | None
    other_key: str | None
    shelf: int | None
    at: int | None


@dataclass
class Case:
    """`rows` of the three views: by text key; by number, in naive timestamps; by nothing, without created time."""

    by_key: list[Row] = field(default_factory=list)
    by_shelf: list[Row] = field(default_factory=list)
    for_all: list[Row] = field(default_factory=list)
    points: list[Point] = field(default_factory=list)


@dataclass(frozen=True)
class Rules:
    """The rules of a point-in-time join. The defaults are the right ones; the others make oracles that are wrong."""

    max_age: int | None
    knowledge_time: bool
    created_counts: bool = True
    same_instant_counts: bool = True
    age_of_max_age_counts: bool = True
    null_meets_null: bool = False

    def value(self, rows: Sequence[Row], key: Any, at: int | None) -> tuple[int | None, str | None]:
        """What a view with these rows says of a key at an instant, by looking at every row."""
        if at is None or (key is None and not self.null_meets_null):
            return None, None
        best: tuple[Any, Row] | None = None
        for row in rows:
            if row.ts is None or row.key != key:
                continue
            created = row.created if self.created_counts else None
            visible = max(row.ts, row.ts if created is None or not self.knowledge_time else created)
            if visible > at or (visible == at and not self.same_instant_counts):
                continue
            # Of versions that nothing else tells apart the greatest values count, nulls last.
            values = (row.number is not None, row.number or 0, row.label is not None, row.label or "")
            rank = (row.ts, created is not None, created or 0, *values)
            if best is None or rank > best[0]:
                best = (rank, row)
        if best is None:
            return None, None
        newest = best[1]
        assert newest.ts is not None
        age = at - newest.ts
        if self.max_age and (age > self.max_age or (age == self.max_age and not self.age_of_max_age_counts)):
            return None, None
        return newest.number, newest.label


# --- cases -----------------------------------------------------------------------------------------------------------


def _rows(rnd: random.Random, keys: Sequence[Any], moment: Any, edge: int, *, versioned: bool) -> list[Row]:
    rows: list[Row] = []
    for _ in range(rnd.choice([0, 1, 2, 3, 5])):
        ts = None if rnd.random() < 0.04 else moment()
        late = rnd.choice([0, 0, MICROSECOND, edge, HOUR, -MINUTE, 3 * DAY])
        created = None if ts is None or not versioned or rnd.random() < 0.15 else ts + late
        rows.append(
            Row(rnd.choice(keys), ts, created, rnd.choice([1, 2, 3, None]), rnd.choice(["x", "y", None]))
        )
    if rows and rnd.random() < 0.3:  # the same key and time again: only created, or only values, differ
        again = rnd.choice(rows)
        later = None if again.created is None else again.created + rnd.choice([0, MICROSECOND, HOUR])
        rows.append(replace(again, created=later, number=rnd.choice([1, 2, None])))
    return rows


def _case(rnd: random.Random, number: int, max_age: int | None) -> Case:
    base = rnd.choice([GAP, FOLD])
    edge = max_age or HOUR
    steps = [0, 0, MICROSECOND, -MICROSECOND, edge, -edge, edge + 1, edge - 1, HOUR, -HOUR, HOUR // 2, DAY]

    def moment() -> int:
        return base + rnd.choice(steps) + rnd.choice([0, 0, rnd.choice(steps)])

    texts, numbers = ["a", "b", None], [1, 2, None]
    case = Case(
        by_key=_rows(rnd, texts, moment, edge, versioned=True),
        by_shelf=_rows(rnd, numbers, moment, edge, versioned=True),
        for_all=_rows(rnd, [True], moment, edge, versioned=False),
    )
    times = [moment() for _ in range(3)]
    for row in (*case.by_key, *case.by_shelf, *case.for_all):
        if row.ts is not None:
            seen = rnd.choice([row.ts, max(row.ts, row.created or row.ts), row.ts + edge])
            times.append(seen + rnd.choice([0, 0, MICROSECOND, -MICROSECOND]))
    for at in rnd.sample(times, min(len(times), 6)):
        unknown = rnd.random() < 0.1
        key, other = rnd.choice(texts), rnd.choice(texts)
        shelf = 9 if unknown else rnd.choice(numbers)
        point = Point(number, "nobody" if unknown else key, other, shelf, None if rnd.random() < 0.05 else at)
        case.points += [point] * (2 if rnd.random() < 0.1 else 1)
    return case


# --- the same cases through Feast ------------------------------------------------------------------------------------


def _stamps(times: Sequence[int | None], *, naive: bool = False) -> pa.Array:
    return pa.array(times, pa.timestamp("us", None if naive else "UTC"))


def _write(folder: Path, name: str, rows: list[tuple[int, Row]], key: str | None, *, naive: bool) -> None:
    columns = {
        "case": pa.array([case for case, _ in rows], pa.int64()),
        "known at": _stamps([row.ts for _, row in rows], naive=naive),
        "created": _stamps([row.created for _, row in rows], naive=naive),
        "number": pa.array([row.number for _, row in rows], pa.int64()),
        "label_y": pa.array([row.label for _, row in rows], pa.string()),
    }
    if key:
        columns[key] = pa.array([row.key for _, row in rows], pa.int32() if key == "shelf" else pa.string())
    table = pa.table(columns)
    for start in range(0, len(table), 1 + len(table) // 3):  # several files
        write_deltalake(str(folder / name), table.slice(start, 1 + len(table) // 3), mode="append")


def _store(folder: Path) -> FeatureStore:
    entities = {
        name: Entity(name=name, join_keys=[name], value_type=kind)
        for name, kind in (
            ("case", ValueType.INT64),
            ("key", ValueType.STRING),
            ("shelf", ValueType.INT32),
        )
    }
    sources = {
        name: FileSource(
            name=name,
            path=str(folder / name),
            file_format=DeltaFormat(),
            timestamp_field="known at",
            created_timestamp_column="" if name == "for_all" else "created",
            field_mapping={"number": "it's a number"} if name == "by_shelf" else {},
        )
        for name in ("by_key", "by_shelf", "for_all")
    }
    keys = {"by_key": {"key": String}, "by_shelf": {"shelf": Int32}, "for_all": {}}
    views = [
        FeatureView(
            name=f"{name}_{age_name}",
            entities=[entities["case"], *(entities[key] for key in keys[name])],
            ttl=None if age is None else timedelta(microseconds=age),
            schema=[
                Field(name="case", dtype=Int64),
                *(Field(name=key, dtype=kind) for key, kind in keys[name].items()),
                Field(name="it's a number" if name == "by_shelf" else "number", dtype=Int64),
                Field(name="label_y", dtype=String),
            ],
            source=sources[name],
        )
        for name in sources
        for age_name, age in MAX_AGES.items()
    ]
    store = open_store(folder)
    store.apply([*entities.values(), *sources.values(), *views])
    return store


def _frame(points: Sequence[Point], zone: str | None) -> pd.DataFrame:
    instants = _stamps([point.at for point in points]).to_pandas()
    return pd.DataFrame(
        {
            "event_timestamp": instants.dt.tz_convert(zone) if zone else instants.dt.tz_localize(None),
            "case": [point.case for point in points],
            "key": [point.key for point in points],
            "other key": [point.other_key for point in points],
            "shelf": pd.array([point.shelf for point in points], dtype="Int64"),
        }
    )


@dataclass(frozen=True)
class Answered:
    """One request: its cases and entity rows, and what the store said, output column by output column."""

    max_age: int | None
    knowledge_time: bool
    cases: dict[int, Case]
    points: list[Point]
    values: dict[str, list[Any]]

    def differences(self, rules: Rules) -> tuple[int, int]:
        """How many values were compared, and how many are not the oracle's."""
        compared = wrong = 0
        for number, point in enumerate(self.points):
            case = self.cases[point.case]
            key, other = rules.value(case.by_key, point.key, point.at), (point.other_key, point.at)
            expected = {
                "by_key": key,
                "elsewhere": rules.value(case.by_key, *other),
                "by_shelf": rules.value(case.by_shelf, point.shelf, point.at),
                "for_all": rules.value(case.for_all, True, point.at),
            }
            for view, both in expected.items():
                for column, value in zip((f"{view} number", f"{view} label"), both, strict=True):
                    compared += 1
                    wrong += self.values[column][number] != value
        return compared, wrong

    @property
    def rules(self) -> Rules:
        return Rules(self.max_age, self.knowledge_time)


def _requests(folder: Path) -> Iterator[Answered]:
    rnd = random.Random(20131103)
    groups = [(age_name, knowledge) for age_name in MAX_AGES for knowledge in (True, False)]
    cases = {number: _case(rnd, number, MAX_AGES[groups[number % len(groups)][0]]) for number in range(CASES)}
    for name, key in (("by_key", "key"), ("by_shelf", "shelf"), ("for_all", None)):
        rows = [(number, row) for number, case in cases.items() for row in getattr(case, name)]
        rnd.shuffle(rows)
        _write(folder, name, rows, key, naive=name == "by_shelf")
    stores = {}
    _store(folder)
    for knowledge in (True, False):
        stores[knowledge] = open_store(folder, knowledge_time=knowledge)
    for group, (age_name, knowledge) in enumerate(groups):
        mine = {number: case for number, case in cases.items() if number % len(groups) == group}
        points = [point for case in mine.values() for point in case.points]
        rnd.shuffle(points)
        store = stores[knowledge]
        views = {
            name: store.get_feature_view(f"{name}_{age_name}") for name in ("by_key", "by_shelf", "for_all")
        }
        # Feast sorts a service's views by name and alias, and fails where only one of two has an alias.
        elsewhere = views["by_key"].with_name("elsewhere").with_join_key_map({"key": "other key"})
        asked = [views["by_key"].with_name("by_key"), elsewhere, views["by_shelf"], views["for_all"]]
        service = FeatureService(name=f"{age_name} {knowledge}", features=asked)
        store.apply([service])
        frame = _frame(points, zone=["America/New_York", None, "UTC"][group % 3])
        answer = store.get_historical_features(frame, service, full_feature_names=True).to_arrow()
        assert answer["case"].to_pylist() == [point.case for point in points]
        columns = {f"{name}_{age_name}": name for name in ("by_shelf", "for_all")}
        columns |= {"by_key": "by_key", "elsewhere": "elsewhere"}
        values: dict[str, list[Any]] = {}
        for feast_name, name in columns.items():
            number = "it's a number" if name == "by_shelf" else "number"
            values[f"{name} number"] = answer[f"{feast_name}__{number}"].to_pylist()
            values[f"{name} label"] = answer[f"{feast_name}__label_y"].to_pylist()
        yield Answered(MAX_AGES[age_name], knowledge, mine, points, values)


@pytest.fixture(scope="module")
def answers(tmp_path_factory: pytest.TempPathFactory) -> list[Answered]:
    return list(_requests(tmp_path_factory.mktemp("oracle")))


def test_no_case_differs_from_brute_force(
    answers: list[Answered], capsys: pytest.CaptureFixture[str]
) -> None:
    cases = sum(len(answer.cases) for answer in answers)
    rows = sum(len(answer.points) for answer in answers)
    compared = [answer.differences(answer.rules) for answer in answers]
    total, wrong = (sum(column) for column in zip(*compared, strict=True))
    with capsys.disabled():
        print(f"\noracle: {cases} cases, {rows} entity rows, {total} values compared, {wrong} differences")
    assert wrong == 0
    assert cases >= 10_000


WRONG = {
    "created is nothing": {"created_counts": False},
    "the same instant is too late": {"same_instant_counts": False},
    "as old as the limit is too old": {"age_of_max_age_counts": False},
    "null meets null": {"null_meets_null": True},
    "one microsecond more is young enough": {},
}


@pytest.mark.parametrize("mistake", WRONG)
def test_a_wrong_oracle_differs(answers: list[Answered], mistake: str) -> None:
    wrong = 0
    for answer in answers:
        rules = replace(answer.rules, **WRONG[mistake])
        if not WRONG[mistake] and rules.max_age:
            rules = replace(rules, max_age=rules.max_age + 1)
        wrong += answer.differences(rules)[1]
    assert wrong > 50


def test_the_cases_hold_what_they_should(answers: list[Answered]) -> None:
    points = [point for answer in answers for point in answer.points]
    instants = [EPOCH + timedelta(microseconds=point.at) for point in points if point.at is not None]
    local = [instant.astimezone(NEW_YORK) for instant in instants]
    assert sum(time.fold for time in local) > 500  # the second 01:00 to 02:00
    early = [time for time in local if (time.month, time.day, time.hour, time.fold) == (11, 3, 1, 0)]
    assert len(early) > 500
    around = [at for at in instants if abs(at - EPOCH - timedelta(microseconds=GAP)) < timedelta(hours=1)]
    assert len(around) > 500
    assert sum(point.key is None for point in points) > 500
    assert sum(point.key == "nobody" for point in points) > 500
    assert sum(point.at is None for point in points) > 500
    assert len(points) - len(set(points)) > 500
    cases = [case for answer in answers for case in answer.cases.values()]
    views = [bool(c.by_key) + bool(c.by_shelf) + bool(c.for_all) for c in cases]
    assert {0, 1, 2, 3} == set(views)
    for answer in answers:
        for name in ("by_key", "elsewhere", "by_shelf", "for_all"):
            assert sum(value is not None for value in answer.values[f"{name} number"]) > 100
    rows = [row for case in cases for row in case.by_key]
    assert sum(row.ts is not None and (row.created or 0) > row.ts for row in rows) > 500
    keyed = [(n, row.key, row.ts) for n, case in enumerate(cases) for row in case.by_key]
    assert len(keyed) - len(set(keyed)) > 500
