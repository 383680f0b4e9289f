"""Contracts: the project's own satisfy the standard, and what the library needs is read strictly."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

from contrail import contracts
from contrail.contracts import ContractError, Volume, load_contract, load_contracts
from tests.support import contract_files as files

ROOT = Path(__file__).resolve().parents[2]
FILES = sorted((ROOT / "contracts").glob("*.yaml"))


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_the_projects_contracts_satisfy_the_standard(path):
    import json

    import jsonschema
    import yaml
    from open_data_contract_standard.model import OpenDataContractStandard

    parsed = OpenDataContractStandard.from_file(str(path))
    assert parsed.schema_
    assert parsed.schema_[0].name == path.stem
    schema: Any = OpenDataContractStandard.json_schema()
    jsonschema.validate(
        yaml.safe_load(path.read_text()), json.loads(schema) if isinstance(schema, str) else schema
    )


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_the_projects_contracts_say_what_a_reader_needs(path):
    contract = load_contract(path)
    assert contract.owner
    assert contract.service_levels
    for column in contract.columns:
        assert column.description, column.name
        assert column.unit, column.name
    for rule in contract.rules:
        assert rule.description, rule.name


def test_all_contracts_are_loaded_by_table():
    found = load_contracts(ROOT / "contracts")
    assert list(found) == [path.stem for path in FILES]


def test_a_contract_is_read_whole(tmp_path):
    contract = files.contract(tmp_path)
    assert (contract.table, contract.version, contract.owner) == ("readings", "1.2.0", "gauges")
    assert contract.description == "What the gauges read."
    assert contract.primary_key == ("station", "taken_at")
    assert contract.personal_columns == ("note",)
    assert (contract.partition_column, contract.partition_kind) == ("feed_date", "feed_day")
    assert contract.partition_rule == "(taken_at AT TIME ZONE 'UTC')::DATE = partition_date"
    assert contract.regular_offset_hours == 24
    assert (contract.tolerated_share, contract.tolerated_rows) == (0.05, 2)
    assert contract.is_fact
    assert contract.bounds_completeness
    assert contract.volume == Volume(28, 0.5, 2.0)
    assert contract.service_levels == {"latency": (1, "d")}
    assert contract.properties["partitionKind"] == "feed_day"
    assert contract.column("level").unit == "cm"
    assert contract.column("station").required  # a key is, though it does not say so
    assert not contract.column("level").required
    rule = contract.rules[2]
    assert (rule.name, rule.rule_class, rule.expectation) == (
        "note_known",
        "warn",
        "expect_column_values_to_not_be_null",
    )
    assert rule.kwargs == {"column": "note", "mostly": 0.5}
    with pytest.raises(ContractError, match="readings has no column 'depth'"):
        contract.column("depth")


def test_the_schemas_follow_the_columns(tmp_path):
    contract = files.contract(tmp_path)
    landed = contracts.landed_schema(contract)
    assert landed.names == files.HEADER.split(",")
    assert landed.field("grade").type == pa.decimal128(5, 2)
    assert landed.field("taken_at").type == pa.timestamp("us", tz="UTC")
    raw = contracts.raw_schema(contract)
    assert raw.names[len(landed.names) :] == [
        "feed_date",
        "created_at",
        "is_retracted",
        "_source_file",
        "_source_sha256",
        "_source_row",
        "_raw_id",
    ]
    assert contracts.quarantine_schema(contract).names[-1] == "feed_date"


def test_a_partition_column_of_the_file_stands_once_in_the_raw_table(tmp_path):
    changed = files.document(partitionColumn="checked_on")
    changed["schema"][0]["properties"][5]["required"] = True
    contract = files.contract(tmp_path, changed)
    assert not contract.adds_partition_column
    assert contracts.raw_schema(contract).names.count("checked_on") == 1


def table(changed: dict[str, Any]) -> dict[str, Any]:
    return changed["schema"][0]


def broken(change: str) -> dict[str, Any]:
    """The contract with one thing wrong."""
    changed = files.document()
    this = table(changed)
    match change:
        case "kind":
            changed["kind"] = "Contract"
        case "version":
            changed["apiVersion"] = "v2.3.0"
        case "two tables":
            changed["schema"].append(this)
        case "name":
            this["name"] = "others"
        case "type":
            this["properties"][2]["physicalType"] = "INT"
        case "naive":
            this["properties"][1]["physicalType"] = "TIMESTAMP"
        case "logical":
            this["properties"][2]["logicalType"] = "string"
        case "column twice":
            this["properties"].append(this["properties"][2])
        case "column rule":
            this["properties"][2]["quality"] = this["quality"][:1]
        case "rule twice":
            this["quality"].append(this["quality"][0])
        case "class":
            this["quality"][0]["customProperties"][0]["value"] = "ignore"
        case "no class":
            del this["quality"][0]["customProperties"]
        case "engine":
            this["quality"][0]["engine"] = "soda"
        case "mostly":
            this["quality"][0]["implementation"]["kwargs"]["mostly"] = 0.9
        case "no key":
            for column in this["properties"]:
                column.pop("primaryKey", None)
        case "no known_at":
            this["properties"].pop()
        case "flag":
            return files.document(isFact="yes")
        case "share":
            return files.document(toleratedQuarantineShare=5)
        case "number":
            return files.document(toleratedQuarantineRows="many")
        case "no offset":
            return files.document(regularDeliveryOffsetHours=None)
        case "stray":
            return files.document(partitionColumn=None)
        case "partition type":
            return files.document(partitionColumn="note")
        case "no description":
            del this["properties"][2]["description"]
        case "list":
            this["properties"] = {"station": {}}
        case _:
            raise AssertionError(change)
    return changed


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ("kind", "not a data contract"),
        ("version", "only version 3"),
        ("two tables", "expected one table, found 2"),
        ("name", "the table 'others' must be in others.yaml"),
        ("type", r"properties\[level\], physicalType: unknown type 'INT'"),
        ("naive", "an instant without a zone is refused"),
        ("logical", "INTEGER is 'integer', found 'string'"),
        ("column twice", "named twice: level"),
        ("column rule", "rules stand at the table"),
        ("rule twice", "named twice: level_range"),
        ("class", "ruleClass must be one of reject, fix, warn, not 'ignore'"),
        ("no class", "ruleClass must be one of"),
        ("engine", "engine: greatExpectations"),
        ("mostly", "make it warn"),
        ("no key", "no primary key"),
        ("no known_at", "no column known_at"),
        ("flag", "expected true or false, found 'yes'"),
        ("share", r"must lie in 0…1"),
        ("number", "expected a number, found 'many'"),
        ("no offset", "when is the file of a partition due"),
        ("stray", "without a partitionColumn"),
        ("partition type", "must be a required DATE"),
        ("no description", r"properties\[level\], description: expected a text"),
        ("list", "expected a list, found dict"),
    ],
)
def test_a_contract_that_is_not_as_it_must_be_is_refused_with_the_place(tmp_path, change, words):
    with pytest.raises(ContractError, match=words) as refused:
        files.contract(tmp_path, broken(change))
    assert str(refused.value).startswith("readings.yaml")


def test_what_is_no_contract_at_all_is_refused(tmp_path):
    with pytest.raises(ContractError, match="no contract in"):
        load_contracts(tmp_path)
    path = tmp_path / "readings.yaml"
    path.write_text("a: [1")
    with pytest.raises(ContractError, match="readings.yaml is not YAML"):
        load_contract(path)
    path.write_text("- 1")
    with pytest.raises(ContractError, match="expected a mapping"):
        load_contract(path)


def test_loading_contracts_imports_nothing_heavy():
    program = (
        "import sys; from pathlib import Path; from contrail.contracts import load_contracts; "
        f"load_contracts(Path({str(ROOT / 'contracts')!r})); import contrail.ingest, contrail.validation_page; "
        "print([n for n in ('great_expectations', 'open_data_contract_standard', 'pydantic', 'pandas') if n in sys.modules])"
    )
    done = subprocess.run(
        [sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, check=True
    )
    assert done.stdout.strip() in ("[]", "['pydantic']")  # the settings need pydantic
