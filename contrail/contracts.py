"""Data contracts: one Open Data Contract Standard (ODCS v3) file per raw table, read into plain objects.

Everything that is generic about a table comes from its contract: columns and types, keys, rules, tolerances, when its
files are due, which columns are personal. The files are read as plain YAML with the checks that this library depends
on, because the standard's own models are heavy to import; that the files also satisfy the standard is a test's work.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, cast, get_args

import pyarrow as pa

from contrail.document import DocumentError, Place, read_document

RuleClass = Literal["reject", "fix", "warn"]

KNOWN_AT = "known_at"
CREATED_AT = "created_at"
INSTANT = pa.timestamp("us", tz="UTC")

_DECIMAL = re.compile(r"DECIMAL\((\d{1,2}),\s*(\d{1,2})\)")
# SQL type → Arrow type and the standard's logical type
_TYPES: dict[str, tuple[pa.DataType, str]] = {
    "VARCHAR": (pa.string(), "string"),
    "BOOLEAN": (pa.bool_(), "boolean"),
    "SMALLINT": (pa.int16(), "integer"),
    "INTEGER": (pa.int32(), "integer"),
    "BIGINT": (pa.int64(), "integer"),
    "DOUBLE": (pa.float64(), "number"),
    "DATE": (pa.date32(), "date"),
    "TIMESTAMPTZ": (INSTANT, "timestamp"),
}


class ContractError(ValueError):
    """A contract file does not say what this library must know; the message names the file and the place."""


@dataclass(frozen=True)
class Column:
    """A column as the contract describes it.

    Attributes:
        sql_type: its DuckDB type; instants are always TIMESTAMPTZ.
        required: no row may lack it; true for every key column.
        key_position: its place in the primary key, None outside it.
        personal: whether it is personal data, and so stays out of statistics and listings.
        unit: the unit of its values, None where there is none.
    """

    name: str
    sql_type: str
    description: str
    required: bool = False
    key_position: int | None = None
    personal: bool = False
    unit: str | None = None

    @property
    def arrow_type(self) -> pa.DataType:
        """The Arrow type of the column."""
        decimal = _DECIMAL.fullmatch(self.sql_type)
        if decimal:
            return pa.decimal128(int(decimal[1]), int(decimal[2]))
        return _TYPES[self.sql_type][0]


@dataclass(frozen=True)
class Rule:
    """A rule of the contract: a Great Expectations expectation and what follows when rows break it.

    Attributes:
        rule_class: ``reject`` sends the row to quarantine, ``fix`` is repaired downstream, ``warn`` only counts.
        expectation: the expectation's type in snake case, as Great Expectations registers it.
        kwargs: its arguments.
    """

    name: str
    rule_class: RuleClass
    expectation: str
    kwargs: Mapping[str, Any]
    description: str = ""


@dataclass(frozen=True)
class Volume:
    """What the number of rows of a partition is held against: the mean of the `days` days before it."""

    days: int
    least: float
    most: float


@dataclass(frozen=True)
class Contract:
    """The contract of one raw table.

    Attributes:
        partition_column: the DATE column by which the table is cut into files; None: the table comes as one file.
        partition_kind: what a partition is, in a word; None where there are none.
        partition_rule: SQL condition over the columns and ``partition_date`` that says a row belongs into its file.
        regular_offset_hours: when a partition's file is due, in hours after 00:00 UTC of the partition's date.
        tolerated_share: share of a file's rows that may go to quarantine before the whole file is blocked.
        tolerated_rows: number of rows that may always go to quarantine, however small the file is.
        is_fact: whether its deliveries move the data clock.
        bounds_completeness: whether what is built from it may reach only as far as it has landed.
        volume: the volume rule, None where there is none.
        service_levels: the contract's service levels: property → (value, unit).
        properties: all custom properties of the table as they stand in the file.
    """

    table: str
    version: str
    description: str
    columns: tuple[Column, ...]
    rules: tuple[Rule, ...]
    owner: str = ""
    partition_column: str | None = None
    partition_kind: str | None = None
    partition_rule: str | None = None
    regular_offset_hours: float | None = None
    tolerated_share: float = 0.0
    tolerated_rows: int = 0
    is_fact: bool = False
    bounds_completeness: bool = False
    volume: Volume | None = None
    service_levels: Mapping[str, tuple[Any, str | None]] = field(
        default_factory=dict[str, tuple[Any, str | None]]
    )
    properties: Mapping[str, Any] = field(default_factory=dict[str, Any])

    @property
    def column_names(self) -> tuple[str, ...]:
        return tuple(column.name for column in self.columns)

    @property
    def primary_key(self) -> tuple[str, ...]:
        """The key columns in the key's order."""
        keyed = [
            (column.key_position, column.name) for column in self.columns if column.key_position is not None
        ]
        return tuple(name for _, name in sorted(keyed))

    @property
    def personal_columns(self) -> tuple[str, ...]:
        return tuple(column.name for column in self.columns if column.personal)

    @property
    def adds_partition_column(self) -> bool:
        """Whether the raw table has its partition column beyond the columns of the file."""
        return self.partition_column is not None and self.partition_column not in self.column_names

    def column(self, name: str) -> Column:
        for column in self.columns:
            if column.name == name:
                return column
        raise ContractError(f"{self.table} has no column {name!r}; it has {', '.join(self.column_names)}")


def load_contracts(folder: Path) -> dict[str, Contract]:
    """All contracts of a folder, by table name, in the order of the file names.

    Raises:
        ContractError: the folder holds none, or one of them is not as it must be.
    """
    paths = sorted(folder.glob("*.yaml"))
    if not paths:
        raise ContractError(f"no contract in {folder} (expected one .yaml file per table)")
    contracts = [load_contract(path) for path in paths]
    return {contract.table: contract for contract in contracts}


def load_contract(path: Path) -> Contract:
    """One contract file; its table is named as the file is.

    Raises:
        ContractError: with the file and the place where it is not as it must be.
    """
    try:
        return _contract(read_document(path), path.stem)
    except DocumentError as error:
        raise ContractError(str(error)) from error


def landed_schema(contract: Contract) -> pa.Schema:
    """The columns of a landed file, typed."""
    return pa.schema([_arrow_field(column) for column in contract.columns])


def raw_schema(contract: Contract) -> pa.Schema:
    """The raw table without the lake's own columns: the file's columns, partition, version and provenance."""
    added = (
        [pa.field(cast(str, contract.partition_column), pa.date32())]
        if contract.adds_partition_column
        else []
    )
    return pa.schema(
        [
            *landed_schema(contract),
            *added,
            pa.field(CREATED_AT, INSTANT),
            pa.field("is_retracted", pa.bool_()),
            pa.field("_source_file", pa.string()),
            pa.field("_source_sha256", pa.string()),
            pa.field("_source_row", pa.int64()),
            pa.field("_raw_id", pa.string()),
        ]
    )


def quarantine_schema(contract: Contract) -> pa.Schema:
    """The quarantine table of a contract's table."""
    partition = [pa.field(contract.partition_column, pa.date32())] if contract.partition_column else []
    return pa.schema(
        [
            pa.field("source_file", pa.string()),
            pa.field("source_sha256", pa.string()),
            pa.field("source_row", pa.int64()),
            pa.field("kind", pa.string()),
            pa.field("rules", pa.list_(pa.string())),
            pa.field("values", pa.string()),
            pa.field("reason", pa.string()),
            pa.field("rows", pa.int64()),
            pa.field("file_bytes", pa.binary()),
            pa.field("delivered_at", INSTANT),
            *partition,
        ]
    )


def _arrow_field(column: Column) -> pa.Field[Any]:
    return pa.field(column.name, column.arrow_type)


def _contract(document: Place, stem: str) -> Contract:
    if document.get("kind").value != "DataContract":
        raise document.fail("not a data contract (kind: DataContract)")
    if not document.get("apiVersion").text().startswith("v3"):
        raise document.get("apiVersion").fail(
            "only version 3 of the standard is understood (apiVersion: v3.…)"
        )
    objects = document.get("schema").items()
    if len(objects) != 1:
        raise document.get("schema").fail(f"expected one table, found {len(objects)}")
    table = objects[0]
    name = table.get("name").text()
    if name != stem:
        raise table.fail(f"the table {name!r} must be in {name}.yaml")
    columns = tuple(_column(place) for place in table.get("properties").items())
    _refuse_repeats(table.get("properties"), [column.name for column in columns])
    rules = tuple(_rule(place) for place in table.get("quality").items())
    _refuse_repeats(table.get("quality"), [rule.name for rule in rules])
    custom = {**document.custom_properties(), **table.custom_properties()}

    def own(key: str) -> Place:
        return custom.get(key) or Place(f"{table.where}, customProperties, {key}", None)

    contract = Contract(
        table=name,
        version=document.get("version").text(),
        description=table.get("description").text(),
        columns=columns,
        rules=rules,
        owner=_owner(document.get("team")),
        partition_column=own("partitionColumn").text("") or None,
        partition_kind=own("partitionKind").text("") or None,
        partition_rule=own("partitionRule").text("") or None,
        regular_offset_hours=own("regularDeliveryOffsetHours").number(),
        tolerated_share=own("toleratedQuarantineShare").number() or 0.0,
        tolerated_rows=int(own("toleratedQuarantineRows").number() or 0),
        is_fact=own("isFact").flag(),
        bounds_completeness=own("boundsCompleteness").flag(),
        volume=_volume(own),
        service_levels=_service_levels(document.get("slaProperties")),
        properties={key: place.value for key, place in custom.items()},
    )
    _check(contract, table)
    return contract


def _column(place: Place) -> Column:
    sql_type = place.get("physicalType").text().upper()
    decimal = _DECIMAL.fullmatch(sql_type)
    if sql_type not in _TYPES and not decimal:
        known = ", ".join([*_TYPES, "DECIMAL(p, s)"])
        hint = (
            "; an instant without a zone is refused: TIMESTAMPTZ" if sql_type.startswith("TIMESTAMP") else ""
        )
        raise place.get("physicalType").fail(f"unknown type {sql_type!r}; known are {known}{hint}")
    logical = "number" if decimal else _TYPES[sql_type][1]
    if place.get("logicalType").value != logical:
        raise place.get("logicalType").fail(
            f"{sql_type} is {logical!r}, found {place.get('logicalType').value!r}"
        )
    if place.get("quality").value:
        raise place.get("quality").fail("rules stand at the table, not at a column")
    is_key = place.get("primaryKey").flag()
    unit = place.custom_properties().get("unit")
    return Column(
        name=place.get("name").text(),
        sql_type=f"DECIMAL({decimal[1]},{decimal[2]})" if decimal else sql_type,
        description=place.get("description").text(),
        required=place.get("required").flag() or is_key,
        key_position=int(place.get("primaryKeyPosition").number() or 1) if is_key else None,
        personal=place.get("classification").value == "personal",
        unit=unit.text() if unit else None,
    )


def _rule(place: Place) -> Rule:
    if place.get("type").value != "custom" or place.get("engine").value != "greatExpectations":
        raise place.fail("expected type: custom and engine: greatExpectations")
    custom = place.custom_properties()
    rule_class = custom["ruleClass"].value if "ruleClass" in custom else None
    if rule_class not in get_args(RuleClass):
        raise place.fail(
            f"customProperties ruleClass must be one of {', '.join(get_args(RuleClass))}, not {rule_class!r}"
        )
    kwargs = place.get("implementation").get("kwargs")
    if not isinstance(kwargs.value, dict):
        raise kwargs.fail("expected the expectation's arguments")
    if rule_class == "reject" and cast(dict[str, Any], kwargs.value).get("mostly", 1) != 1:
        raise kwargs.fail("a rule that rejects rows cannot tolerate some of them (mostly); make it warn")
    return Rule(
        name=place.get("name").text(),
        rule_class=cast(RuleClass, rule_class),
        expectation=place.get("implementation").get("type").text(),
        kwargs=cast(dict[str, Any], kwargs.value),
        description=place.get("description").text(""),
    )


def _volume(own: Any) -> Volume | None:
    days = own("trailingVolumeDays").number()
    if days is None:
        return None
    least, most = own("trailingVolumeMinRatio").number(), own("trailingVolumeMaxRatio").number()
    return Volume(int(days), 0.0 if least is None else least, float("inf") if most is None else most)


def _owner(team: Place) -> str:
    """The team's name, or its first member's."""
    if isinstance(team.value, dict):
        named = team.get("name").text("")
        team = team.get("members")
        if named:
            return named
    members = team.items()
    return (members[0].get("name").text("") or members[0].get("username").text("")) if members else ""


def _service_levels(place: Place) -> dict[str, tuple[Any, str | None]]:
    return {
        entry.get("property").text(): (entry.get("value").value, entry.get("unit").text("") or None)
        for entry in place.items()
    }


def _refuse_repeats(place: Place, names: Sequence[str]) -> None:
    repeated = sorted({name for name in names if names.count(name) > 1})
    if repeated:
        raise place.fail(f"named twice: {', '.join(repeated)}")


def _check(contract: Contract, place: Place) -> None:
    """What ingestion depends on beyond single values."""
    if not contract.primary_key:
        raise place.fail(
            "no primary key: corrections could not say which rows they replace (primaryKey: true)"
        )
    if KNOWN_AT not in contract.column_names or contract.column(KNOWN_AT).sql_type != "TIMESTAMPTZ":
        raise place.fail(f"no column {KNOWN_AT} of type TIMESTAMPTZ")
    if not 0 <= contract.tolerated_share <= 1:
        raise place.fail(f"toleratedQuarantineShare must lie in 0…1, not {contract.tolerated_share}")
    if contract.partition_column is None:
        stray = [
            name
            for name, value in (
                ("partitionRule", contract.partition_rule),
                ("regularDeliveryOffsetHours", contract.regular_offset_hours),
                ("trailingVolumeDays", contract.volume),
            )
            if value is not None
        ]
        if stray:
            raise place.fail(f"{', '.join(stray)} without a partitionColumn")
        return
    if contract.regular_offset_hours is None:
        raise place.fail("no regularDeliveryOffsetHours: when is the file of a partition due?")
    if contract.partition_column in contract.column_names:
        column = contract.column(contract.partition_column)
        if column.sql_type != "DATE" or not column.required:
            raise place.fail(f"the partition column {column.name} must be a required DATE")
