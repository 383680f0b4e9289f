"""How commands speak: text for people, one JSON document for programs, one line for an error."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, is_dataclass
from datetime import date, datetime
from typing import Any

EXIT_FAILED = 1
EXIT_BLOCKED = 3


class Failure(Exception):
    """Something the user can act on: what is wrong, and what to do."""

    def __init__(self, message: str, *, code: int = EXIT_FAILED) -> None:
        super().__init__(message)
        self.code = code


@contextmanager
def failures(*known: type[Exception]) -> Iterator[None]:
    """Turn the given exceptions into a `Failure` with their message."""
    try:
        yield
    except known as error:
        raise Failure(str(error)) from error


def report_failure(failure: Failure) -> int:
    """Print the error as one JSON line when JSON was asked for, else as text; returns the exit code."""
    if "--json" in sys.argv:
        sys.stdout.write(json.dumps({"error": str(failure)}) + "\n")
    else:
        sys.stderr.write(f"contrail: {failure}\n")
    return failure.code


def print_json(value: object) -> None:
    """Print one JSON document; dataclasses, dates and sets are understood."""
    sys.stdout.write(json.dumps(value, default=_plain, indent=2) + "\n")


def say(text: str = "") -> None:
    """Print a line, at once."""
    sys.stdout.write(text + "\n")
    sys.stdout.flush()


def table(rows: Sequence[Mapping[str, object]], columns: Sequence[str]) -> str:
    """Rows as an aligned text table; numbers to the right."""
    cells = [[_cell(row.get(column)) for column in columns] for row in rows]
    widths = [max(len(c), *(len(r[i]) for r in cells)) if cells else len(c) for i, c in enumerate(columns)]
    right = [bool(rows) and all(isinstance(r.get(c), int | float) for r in rows) for c in columns]

    def line(parts: Sequence[str]) -> str:
        pieces = [
            p.rjust(w) if at_right else p.ljust(w)
            for p, w, at_right in zip(parts, widths, right, strict=True)
        ]
        return "  " + "  ".join(pieces).rstrip()

    return "\n".join([line(columns), line(["-" * w for w in widths]), *(line(row) for row in cells)])


def _cell(value: object) -> str:
    if value is None:
        return ""
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, float):
        return f"{value:,.4f}" if abs(value) < 10 else f"{value:,.1f}"
    if isinstance(value, int):
        return f"{value:,}"
    if isinstance(value, datetime):
        return f"{value:%Y-%m-%d %H:%MZ}"
    return str(value)


def _plain(value: object) -> Any:
    if is_dataclass(value) and not isinstance(value, type):
        return asdict(value)
    if isinstance(value, datetime | date):
        return value.isoformat()
    if isinstance(value, set | frozenset | tuple):
        return list(value)
    return str(value)
