"""How commands speak: text for people, one JSON document for programs, one line for an error."""

from __future__ import annotations

import json
import math
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import fields, is_dataclass
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
    """Print one JSON document; dataclasses, times, sets and paths are understood, and a number that is none is null."""
    sys.stdout.write(json.dumps(_plain(value), indent=2, allow_nan=False) + "\n")


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
        return _decimal(value)
    if isinstance(value, int):
        return f"{value:,}"
    if isinstance(value, datetime):
        return f"{value:%Y-%m-%d %H:%MZ}"
    return str(value)


def _decimal(value: float) -> str:
    """At most four decimals, at least one, and no zeros that say nothing: 7.8, 0.7712, 1,234.5."""
    if not math.isfinite(value):
        return str(value)
    whole, _, decimals = f"{value:,.{4 if abs(value) < 10 else 1}f}".partition(".")
    return f"{whole}.{decimals.rstrip('0') or '0'}"


def _plain(value: object) -> Any:
    """The value as JSON knows it."""
    if is_dataclass(value) and not isinstance(value, type):
        return {each.name: _plain(getattr(value, each.name)) for each in fields(value)}
    if isinstance(value, Mapping):
        return {str(key): _plain(each) for key, each in value.items()}
    if isinstance(value, list | tuple | set | frozenset):
        return [_plain(each) for each in value]
    if isinstance(value, datetime | date):
        return value.isoformat()
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    return value if value is None or isinstance(value, str | int) else str(value)
