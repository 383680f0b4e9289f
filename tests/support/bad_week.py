"""A week of files of which eight are spoiled, each in its own way, and what must be said of each."""

from __future__ import annotations

import gzip
from collections.abc import Callable
from dataclasses import dataclass

from contrail import landing
from tests.support import bad_files


@dataclass(frozen=True)
class Bad:
    """A file to spoil, how, and what must be said of it."""

    table: str
    day: str
    spoil: Callable[[landing.Delivery], None]
    says: str

    @property
    def partition(self) -> str:
        return f"raw/{self.table}:{self.day}"


def truncate(delivery: landing.Delivery) -> None:
    bad_files.put_bytes(delivery, delivery.path.read_bytes()[:-200])


def empty(delivery: landing.Delivery) -> None:
    bad_files.put_bytes(delivery, b"")


def drop_rows(delivery: landing.Delivery) -> None:
    kept = bad_files.rows_of(delivery)[:-7]
    bad_files.send(delivery, bad_files.text_of(kept), rows=delivery.rows)


def not_utf8(delivery: landing.Delivery) -> None:
    bad_files.send(delivery, gzip.decompress(delivery.path.read_bytes()).replace(b"arrived", b"arriv\xe9d"))


def changed(how: Callable[[bad_files.Rows], bad_files.Rows]) -> Callable[[landing.Delivery], None]:
    return lambda delivery: bad_files.change(delivery, how)


BAD = {
    "truncated gzip": Bad("flight_schedules", "2013-03-05", truncate, "truncated gzip"),
    "renamed column": Bad(
        "weather", "2013-03-05", changed(bad_files.renamed("temperature_f", "temperature_c")),
        "'temperature_f' is missing and 'temperature_c' is not in the contract: renamed?",
    ),
    "missing column": Bad(
        "aircraft_assignments", "2013-03-07", changed(bad_files.without_column("tail_number")),
        "column 'tail_number' is missing",
    ),
    "extra column": Bad(
        "flight_events", "2013-03-07", changed(bad_files.with_column("gate", "A12")),
        "column 'gate' is not in the contract",
    ),
    "0 bytes": Bad("weather", "2013-03-07", empty, "the file has 0 bytes"),
    "fewer rows than the manifest says": Bad(
        "flight_schedules", "2013-03-09", drop_rows, "fewer rows than the manifest says"
    ),
    "rows of another year": Bad(
        "aircraft_assignments", "2013-03-09", changed(bad_files.replaced("2013-03-", "2014-03-")),
        "rows do not belong to 2013-03-09",
    ),
    "not UTF-8": Bad("flight_events", "2013-03-09", not_utf8, "not UTF-8"),
}  # fmt: skip
