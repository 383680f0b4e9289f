"""The rows that ingestion hands back: accepted with version and provenance, quarantined with their reasons."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import duckdb
import pyarrow as pa

from contrail.chains import Verdict
from contrail.contracts import KNOWN_AT, Contract, quarantine_schema, raw_schema
from contrail.duck import quote_identifier as quoted
from contrail.expectations import CompiledRule
from contrail.staging import ROWS, StagedFile

_PLACED, _BROKEN, _RETRACTED = "_placed_files", "_broken_rows", "_retracted_rows"
_LINE = "line"  # what stands in `values` for a line that could not be cut into fields


@dataclass(frozen=True)
class PlacedFile:
    """A file and what became of it.

    Attributes:
        is_regular: whether its rows carry their own `known_at` as the time of their version.
    """

    staged: StagedFile
    verdict: Verdict
    is_regular: bool

    @property
    def source_file(self) -> str:
        """The file's name below the landing zone."""
        path = self.staged.file.delivery.path
        return f"{path.parent.name}/{path.name}"


def accepted_rows(
    con: duckdb.DuckDBPyConnection,
    contract: Contract,
    files: Sequence[PlacedFile],
    chains: Sequence[Sequence[int]],
    broken: Mapping[int, Sequence[str]],
) -> pa.Table:
    """The accepted rows of all files (`contracts.raw_schema`), and retractions of the keys that corrections lack.

    A retraction is the previous version of the row as it was, provenance included, with `is_retracted` and the
    `created_at` of the file that lacks its key.

    Args:
        files: all files, as they are numbered in the staged rows.
        chains: the accepted files of each chain, oldest first.
        broken: the staged rows that are not accepted.
    """
    retracted = _retractions(con, contract, chains, broken)
    about = pa.table(
        {
            "_file": pa.array(range(len(files)), pa.int32()),
            "is_accepted": pa.array([one.verdict.outcome == "accepted" for one in files], pa.bool_()),
            "is_regular": pa.array([one.is_regular for one in files], pa.bool_()),
            "name": pa.array([one.source_file for one in files], pa.string()),
            "sha256": pa.array([one.staged.file.delivery.sha256 for one in files], pa.string()),
        }
    )
    con.register(_PLACED, about)
    con.register(_BROKEN, pa.table({"_index": pa.array(list(broken), pa.int64())}))
    con.register(
        _RETRACTED,
        pa.table(
            {
                "_index": pa.array([index for index, _ in retracted], pa.int64()),
                "_by": pa.array([file for _, file in retracted], pa.int32()),
            }
        ),
    )
    try:
        rows = con.execute(_accepted_query(contract)).to_arrow_table()
    finally:
        for name in (_PLACED, _BROKEN, _RETRACTED):
            con.unregister(name)
    return rows.cast(raw_schema(contract))


def _accepted_query(contract: Contract) -> str:
    columns = ", ".join(f"r.{quoted(name)}" for name in contract.column_names)
    partition = (
        f", r.partition_date AS {quoted(str(contract.partition_column))}"
        if contract.adds_partition_column
        else ""
    )
    raw_id = "f.sha256 || ':' || r._source_row AS _raw_id"
    provenance = f"f.name AS _source_file, f.sha256 AS _source_sha256, r._source_row, {raw_id}"
    created = f"CASE WHEN f.is_regular THEN r.{quoted(KNOWN_AT)} ELSE r._delivered_at END"
    kept = (
        f"SELECT {columns}{partition}, {created} AS created_at, false AS is_retracted, {provenance} "
        f"FROM {ROWS} r JOIN {_PLACED} f USING (_file) "
        f"WHERE f.is_accepted AND r._index NOT IN (SELECT _index FROM {_BROKEN})"
    )
    gone = (
        f"SELECT {columns}{partition}, d._delivered_at AS created_at, true AS is_retracted, {provenance} "
        f"FROM {_RETRACTED} t JOIN {ROWS} r USING (_index) JOIN {_PLACED} f USING (_file) "
        f"JOIN _staged_files d ON d._file = t._by ORDER BY t._by, r._index"
    )
    return f"({kept} ORDER BY r._index) UNION ALL ({gone})"


def _retractions(
    con: duckdb.DuckDBPyConnection,
    contract: Contract,
    chains: Sequence[Sequence[int]],
    broken: Mapping[int, Sequence[str]],
) -> list[tuple[int, int]]:
    """(row that stood, file that lacks its key). A key whose row was refused is not lacking: its old version stands."""
    corrected = [chain for chain in chains if len(chain) > 1]
    if not corrected:
        return []
    key = ", ".join(quoted(name) for name in contract.primary_key)
    wanted = ", ".join(str(file) for chain in corrected for file in chain)
    rows: dict[int, list[tuple[int, tuple[Any, ...]]]] = {}
    query = f"SELECT _file, _index, {key} FROM {ROWS} WHERE _file IN ({wanted}) ORDER BY _index"
    for file, index, *values in con.execute(query).fetchall():
        rows.setdefault(file, []).append((index, tuple(values)))
    found: list[tuple[int, int]] = []
    for chain in corrected:
        standing: dict[tuple[Any, ...], int] = {}
        for file in chain:
            present = {values for _, values in rows.get(file, [])}
            lacking = [values for values in standing if values not in present]
            found += [(standing.pop(values), file) for values in lacking]
            standing.update({values: index for index, values in rows.get(file, []) if index not in broken})
    return found


def quarantined_rows(
    contract: Contract,
    files: Sequence[PlacedFile],
    broken: Mapping[int, Sequence[str]],
    rules: Sequence[CompiledRule],
    texts: pa.Table,
) -> pa.Table:
    """Every row that was not accepted, with its original text, as `contracts.quarantine_schema`.

    Rows of an accepted file have kind ``row``; those of a blocked file ``blocked``, and where it cannot be read, it is
    one row with the file's bytes and the number of rows of its manifest.
    """
    descriptions = {one.rule.name: one.rule.description or one.rule.name for one in rules}
    starts = _starts(files)
    of_file: dict[int, dict[int, Sequence[str]]] = {}
    owner = texts.column("_file").to_pylist() if broken else []
    for index, names in broken.items():
        of_file.setdefault(owner[index], {})[index - starts[owner[index]]] = names
    entries: list[dict[str, Any]] = []
    for position, one in enumerate(files):
        if one.verdict.outcome != "ignored":
            entries.extend(_entries(one, of_file.get(position, {}), descriptions))
    schema = quarantine_schema(contract)
    if contract.partition_column:
        for entry in entries:
            entry[contract.partition_column] = entry["partition_date"]
    return pa.table({name: [entry[name] for entry in entries] for name in schema.names}, schema=schema)


def _starts(files: Sequence[PlacedFile]) -> list[int]:
    """The ``_index`` of each file's first staged row."""
    starts: list[int] = []
    total = 0
    for one in files:
        starts.append(total)
        landed = one.staged.file
        total += landed.texts.num_rows if landed.fits and landed.texts is not None else 0
    return starts


def _entries(
    one: PlacedFile, broken: Mapping[int, Sequence[str]], descriptions: Mapping[str, str]
) -> Iterator[dict[str, Any]]:
    file = one.staged.file
    blocked = one.verdict.outcome == "blocked"
    why = "; ".join(one.verdict.reasons)
    common: dict[str, Any] = {
        "source_file": one.source_file,
        "source_sha256": file.delivery.sha256,
        "kind": "blocked" if blocked else "row",
        "rows": 1,
        "file_bytes": None,
        "delivered_at": file.delivery.delivered_at,
        "partition_date": one.staged.partition_date,
    }
    if file.texts is None or file.row_numbers is None:
        whole = {"source_row": None, "rules": [], "values": None, "reason": why}
        yield common | whole | {"rows": file.delivery.rows, "file_bytes": file.content or None}
        return
    positions = list(range(file.texts.num_rows)) if blocked else sorted(broken)
    numbers = file.row_numbers.take(pa.array(positions, pa.int64())).to_pylist()
    for position, number, values in zip(
        positions, numbers, file.texts.take(pa.array(positions, pa.int64())).to_pylist(), strict=True
    ):
        names = list(broken.get(position, ()))
        reason = why if blocked else " ".join(descriptions.get(name, name) for name in names)
        yield common | {"source_row": number, "rules": names, "values": _json(values), "reason": reason}
    for row in file.malformed:
        fields = f"{row.found} fields instead of {row.expected}."
        values = _json({_LINE: row.text})
        yield common | {
            "source_row": row.row,
            "rules": ["malformed_row"],
            "values": values,
            "reason": why if blocked else fields,
        }


def _json(values: Mapping[str, Any]) -> str:
    return json.dumps(values, ensure_ascii=False)
