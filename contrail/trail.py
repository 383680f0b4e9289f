"""The trail, first form: from a prediction back to the bytes, walked over what the commits say they read.

A table at a version is the work of all its commits up to that version, and every commit names its inputs. The walk
follows those names until only landed files are left, and checks that the files still have the content whose hash was
recorded.
"""

from __future__ import annotations

import hashlib
from collections import deque
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import date, datetime
from pathlib import Path
from typing import Any

from contrail import duck, landing, model_files
from contrail.lake import CommitRecord, Lake
from contrail.model_files import ModelFilesError
from contrail.use_case import UseCase

FILE = "sha256:"
MODEL = "model:"
RAW_ID_SUFFIX = "_raw_id"


class TrailError(LookupError):
    """The trail cannot be walked: the message says at which hop it ends."""


@dataclass(frozen=True)
class TableHop:
    """One table on the way: the version that was read, its commits, the runs and code that made them."""

    table: str
    version: int
    commits: int
    run_ids: tuple[str, ...]
    git_shas: tuple[str, ...]
    inputs: tuple[str, ...]


@dataclass(frozen=True)
class FileHop:
    """One landed file; `verified` when it still lies there with that hash."""

    sha256: str
    table: str
    partition: str
    name: str
    verified: bool


@dataclass(frozen=True)
class SourceRow:
    """The raw row that a column of the prediction's own clean row came from."""

    column: str
    sha256: str
    row: int
    file: str


@dataclass(frozen=True)
class Trace:
    """A prediction and everything it was made from."""

    prediction: Mapping[str, Any]
    use_case: str
    written_by: CommitRecord
    model: Mapping[str, Any]
    training_set: str
    tables: tuple[TableHop, ...]
    files: tuple[FileHop, ...]
    source_rows: tuple[SourceRow, ...]

    @property
    def unverified(self) -> tuple[FileHop, ...]:
        return tuple(file for file in self.files if not file.verified)


def trace(lake: Lake, landing_root: Path, use_cases: Mapping[str, UseCase], prediction_id: str) -> Trace:
    """Walk from a prediction to the landed files.

    Raises:
        TrailError: there is no such prediction, or a hop names something that is not there.
    """
    use_case, table, row = _find(lake, use_cases, prediction_id)
    written_by = _written_by(lake, table, row, use_case)
    model, training_set = _model(lake, str(row["model_sha256"]))
    hops, hashes = _walk(lake, [*written_by.inputs, training_set])
    files = _files(landing_root, hashes)
    by_hash = {file.sha256: file for file in files}
    return Trace(
        prediction=row,
        use_case=use_case.name,
        written_by=written_by,
        model=model,
        training_set=training_set,
        tables=hops,
        files=files,
        source_rows=_source_rows(lake, written_by.inputs, use_case, row, by_hash),
    )


def _find(
    lake: Lake, use_cases: Mapping[str, UseCase], prediction_id: str
) -> tuple[UseCase, str, dict[str, Any]]:
    looked: list[str] = []
    for use_case in use_cases.values():
        table = f"score/{use_case.name}/predictions"
        if not lake.exists(table):
            continue
        looked.append(table)
        with duck.connect() as con:
            cursor = con.execute(f"SELECT * FROM {lake.scan(table)} WHERE prediction_id = ?", [prediction_id])
            names = [str(column[0]) for column in cursor.description or []]
            found = cursor.fetchone()
        if found is not None:
            return use_case, table, dict(zip(names, found, strict=True))
    raise TrailError(
        f"no prediction {prediction_id!r} in {', '.join(looked) or 'any score table (none exists yet)'}"
    )


def _written_by(lake: Lake, table: str, row: Mapping[str, Any], use_case: UseCase) -> CommitRecord:
    day = row[use_case.partition_column]
    text = day.isoformat() if isinstance(day, date) else str(day)
    for record in reversed(lake.commits(table)):
        first, _, last = record.partition.partition("..")
        if record.run_id == row["_run_id"] and first <= text <= (last or first):
            return record
    raise TrailError(f"{table}: no commit of run {row['_run_id']} covers {text}, though the row says so")


def _model(lake: Lake, sha256: str) -> tuple[dict[str, Any], str]:
    try:
        manifest = model_files.read_manifest(lake.root, sha256)
    except ModelFilesError as error:
        raise TrailError(f"the trail ends at model {sha256}: {error}") from error
    training_set = manifest.get("training_set")
    if not isinstance(training_set, str):
        raise TrailError(f"model {sha256} does not name the training set that it was learnt from")
    return manifest, training_set


def _walk(lake: Lake, start: Sequence[str]) -> tuple[tuple[TableHop, ...], frozenset[str]]:
    """Follow inputs breadth first; a table met at several versions is walked at the newest of them."""
    newest: dict[str, int] = {}
    order: list[str] = []
    hashes: set[str] = set()
    hops: dict[str, TableHop] = {}
    queue = deque(start)
    while queue:
        name = queue.popleft()
        if name.startswith(FILE):
            hashes.add(name.removeprefix(FILE))
            continue
        table, _, version = name.rpartition("@v")
        if not table or name.startswith(MODEL):
            continue
        if newest.get(table, -1) >= int(version):
            continue
        if table not in newest:
            order.append(table)
        newest[table] = int(version)
        if not lake.exists(table):
            raise TrailError(f"{name} was read, but there is no table {table} any more")
        records = [
            record for record in lake.commits(table) if record.version <= int(version) and record.inputs
        ]
        inputs = tuple(dict.fromkeys(i for record in records for i in record.inputs))
        hops[table] = TableHop(
            table=table,
            version=int(version),
            commits=len(records),
            run_ids=tuple(dict.fromkeys(record.run_id for record in records)),
            git_shas=tuple(dict.fromkeys(record.git_sha for record in records)),
            inputs=inputs,
        )
        queue.extend(inputs)
    return tuple(hops[table] for table in order), frozenset(hashes)


def _files(landing_root: Path, hashes: frozenset[str]) -> tuple[FileHop, ...]:
    found: dict[str, FileHop] = {}
    tables = (
        sorted(folder.name for folder in landing_root.iterdir() if folder.is_dir())
        if landing_root.is_dir()
        else []
    )
    for table in tables:
        for delivery in landing.deliveries(landing_root, table):
            before = found.get(delivery.sha256)
            # One file with the recorded content is enough: a copy of it may have been damaged since.
            if delivery.sha256 in hashes and not (before and before.verified):
                there = delivery.path.is_file()
                same = there and hashlib.sha256(delivery.path.read_bytes()).hexdigest() == delivery.sha256
                found[delivery.sha256] = FileHop(
                    delivery.sha256, table, delivery.partition, delivery.path.name, same
                )
    gone = [FileHop(sha256, "", "", "", verified=False) for sha256 in sorted(hashes - set(found))]
    return (*sorted(found.values(), key=lambda file: (file.table, file.partition, file.name)), *gone)


def _source_rows(
    lake: Lake, inputs: Sequence[str], use_case: UseCase, row: Mapping[str, Any], files: Mapping[str, FileHop]
) -> tuple[SourceRow, ...]:
    """The raw rows behind the entity's own row, in the tables that hold it by its key and were read for scoring."""
    rows: list[SourceRow] = []
    key = row[use_case.entity_key]
    for name in inputs:
        table, _, version = name.rpartition("@v")
        if not table or not lake.exists(table):
            continue
        columns = lake.schema(table).names
        raw_ids = [column for column in columns if column.endswith(RAW_ID_SUFFIX)]
        if use_case.entity_key not in columns or not raw_ids:
            continue
        picked = ", ".join(duck.quote_identifier(column) for column in raw_ids)
        with duck.connect() as con:
            found = con.execute(
                f"SELECT {picked} FROM {lake.scan(table, int(version))}"
                f" WHERE {duck.quote_identifier(use_case.entity_key)} = ? ORDER BY created_at",
                [key],
            ).fetchall()
        for column, value in (
            (c, v) for record in found for c, v in zip(raw_ids, record, strict=True) if v is not None
        ):
            sha256, _, number = str(value).rpartition(":")
            file = files.get(sha256)
            rows.append(SourceRow(column.strip("_"), sha256, int(number), file.name if file else ""))
    return tuple(dict.fromkeys(rows))


def describe(instant: object) -> str:
    """An instant or a day as people read it."""
    return f"{instant:%Y-%m-%d %H:%MZ}" if isinstance(instant, datetime) else str(instant)
