"""A small contract and files that are delivered under it: for tests of contracts, rules and ingestion."""

from __future__ import annotations

import copy
from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from typing import Any

import yaml

from contrail import landing
from contrail.contracts import Contract, load_contract

DAY = "2024-03-05"
HEADER = "station,taken_at,level,litres,grade,checked_on,is_final,note,known_at"


def rule(name: str, rule_class: str, expectation: str, **kwargs: Any) -> dict[str, Any]:
    return {
        "name": name,
        "description": f"{name}, in words.",
        "type": "custom",
        "engine": "greatExpectations",
        "implementation": {"type": expectation, "kwargs": kwargs},
        "customProperties": [{"property": "ruleClass", "value": rule_class}],
    }


def column(name: str, logical: str, physical: str, **more: Any) -> dict[str, Any]:
    return {
        "name": name,
        "logicalType": logical,
        "physicalType": physical,
        "description": f"{name}.",
        **more,
    }


def properties(**values: Any) -> list[dict[str, Any]]:
    return [{"property": name, "value": value} for name, value in values.items()]


READINGS: dict[str, Any] = {
    "apiVersion": "v3.1.0",
    "kind": "DataContract",
    "id": "readings",
    "name": "Readings",
    "version": "1.2.0",
    "status": "active",
    "team": {"name": "gauges"},
    "slaProperties": [{"property": "latency", "value": 1, "unit": "d"}],
    "schema": [
        {
            "name": "readings",
            "description": "What the gauges read.",
            "properties": [
                column("station", "string", "VARCHAR", primaryKey=True, primaryKeyPosition=1),
                column("taken_at", "timestamp", "TIMESTAMPTZ", primaryKey=True, primaryKeyPosition=2),
                column("level", "integer", "INTEGER", customProperties=properties(unit="cm")),
                column("litres", "number", "DOUBLE"),
                column("grade", "number", "DECIMAL(5,2)"),
                column("checked_on", "date", "DATE"),
                column("is_final", "boolean", "BOOLEAN"),
                column("note", "string", "VARCHAR", classification="personal"),
                column("known_at", "timestamp", "TIMESTAMPTZ", required=True),
            ],
            "quality": [
                rule(
                    "level_range",
                    "reject",
                    "expect_column_values_to_be_between",
                    column="level",
                    max_value=900,
                ),
                rule(
                    "level_is_even",
                    "reject",
                    "unexpected_rows_expectation",
                    unexpected_rows_query="SELECT * FROM {batch} WHERE level % 2 = 1",
                ),
                rule("note_known", "warn", "expect_column_values_to_not_be_null", column="note", mostly=0.5),
                rule(
                    "litres_range", "fix", "expect_column_values_to_be_between", column="litres", max_value=50
                ),
            ],
            "customProperties": properties(
                partitionColumn="feed_date",
                partitionKind="feed_day",
                partitionRule="(taken_at AT TIME ZONE 'UTC')::DATE = partition_date",
                regularDeliveryOffsetHours=24,
                toleratedQuarantineShare=0.05,
                toleratedQuarantineRows=2,
                isFact=True,
                boundsCompleteness=True,
                trailingVolumeDays=28,
                trailingVolumeMinRatio=0.5,
                trailingVolumeMaxRatio=2.0,
            ),
        }
    ],
}


def document(**custom: Any) -> dict[str, Any]:
    """The contract as a document; `custom` replaces custom properties, None leaves one out."""
    changed = copy.deepcopy(READINGS)
    table = changed["schema"][0]
    kept = {entry["property"]: entry["value"] for entry in table["customProperties"]} | custom
    table["customProperties"] = properties(
        **{name: value for name, value in kept.items() if value is not None}
    )
    return changed


def write_contract(folder: Path, changed: dict[str, Any] | None = None) -> Path:
    path = folder / "readings.yaml"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(yaml.safe_dump(changed or READINGS, sort_keys=False))
    return path


def contract(folder: Path, changed: dict[str, Any] | None = None) -> Contract:
    return load_contract(write_contract(folder / "contracts", changed))


def midnight(day: str = DAY) -> datetime:
    return datetime.combine(date.fromisoformat(day), datetime.min.time(), UTC)


def line(n: int, day: str = DAY, **changed: str) -> str:
    """The n-th good row of a day: one a minute, level even, known a minute later."""
    taken = midnight(day) + timedelta(minutes=n)
    values = {
        "station": "s1",
        "taken_at": f"{taken:%Y-%m-%dT%H:%M:%SZ}",
        "level": str(n * 2),
        "litres": "1.5",
        "grade": "3.25",
        "checked_on": day,
        "is_final": "true",
        "note": f"n{n}",
        "known_at": f"{taken + timedelta(minutes=1):%Y-%m-%dT%H:%M:%SZ}",
    } | changed
    return ",".join(values.values())


def lines(count: int, day: str = DAY, start: int = 0) -> list[str]:
    return [line(n, day) for n in range(start, start + count)]


def csv_of(rows: list[str], header: str = HEADER, end: str = "\n") -> bytes:
    return "".join(row + end for row in [header, *rows]).encode()


def deliver(
    root: Path,
    content: bytes | list[str],
    *,
    day: str = DAY,
    rows: int | None = None,
    hours: float = 24,
    covers: tuple[float, float] | None = (0, 24),
    supersedes: str | None = None,
    stem: str | None = None,
) -> landing.Delivery:
    """Land a file of a day, `hours` after its midnight."""
    data = csv_of(content) if isinstance(content, list) else content
    counted = len(content) if isinstance(content, list) else data.count(b"\n") - 1
    return landing.write_delivery(
        root,
        "readings",
        day,
        data,
        rows=counted if rows is None else rows,
        delivered_at=midnight(day) + timedelta(hours=hours),
        covers_from=None if covers is None else midnight(day) + timedelta(hours=covers[0]),
        covers_to=None if covers is None else midnight(day) + timedelta(hours=covers[1]),
        source="gauges",
        supersedes=supersedes,
        stem=stem,
    )
