"""Windows over time, defined on a grid: pure helpers for builders that make values in SQL.

A windowed value is *defined* at the instants of a grid. At instant g the window of length w is (g − w, g]: what became
known exactly at g is in, what became known exactly at g − w is out. Between two instants the value is the one of the
last instant, so a stored row per instant answers every later question by "the latest row", online and offline alike.

Instants are numbered, and windows are whole numbers of steps. With that, a window needs no range frame and no second
look-up: every amount is added at its own instant and taken away again w steps later, and a running total of integers
does the rest (`running_totals_sql`). Rows come out only at instants at which some total changes.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
MICROSECOND = timedelta(microseconds=1)
NEVER = 2**31 - 1  # the number of an instant that never comes


class WindowError(ValueError):
    """A window, a grid or an instant is not usable as asked."""


class SplitError(ValueError):
    """The parts of a split do not follow each other in time."""


@dataclass(frozen=True)
class Grid:
    """Instants at a fixed distance: 1970-01-01T00:00Z + offset + n × step, for n = 0, 1, 2, …

    Attributes:
        step: the distance of two instants, whole microseconds.
        offset: where in the step the instants lie, from UTC midnight; UTC, so that no clock change moves them.
    """

    step: timedelta
    offset: timedelta = timedelta(0)

    def __post_init__(self) -> None:
        if self.step <= timedelta(0) or not timedelta(0) <= self.offset < self.step:
            raise WindowError(f"not a grid: step {self.step}, offset {self.offset} (need 0 <= offset < step)")

    def number(self, at: datetime) -> int:
        """The number of the first instant at or after `at`: the one at which what is known at `at` first counts."""
        return -((EPOCH + self.offset - _utc(at)) // self.step)

    def instant(self, number: int) -> datetime:
        """The instant with this number, UTC."""
        return EPOCH + self.offset + number * self.step

    def last(self, at: datetime) -> datetime:
        """The last instant at or before `at`, UTC: the one whose value holds at `at`."""
        return EPOCH + self.offset + ((_utc(at) - EPOCH - self.offset) // self.step) * self.step

    def steps(self, window: timedelta) -> int:
        """A window's length in steps.

        Raises:
            WindowError: the window is not a whole number of steps.
        """
        steps, rest = divmod(window, self.step)
        if rest or steps <= 0:
            raise WindowError(f"a window of {window} is not a whole number of steps of {self.step}")
        return steps

    def number_sql(self, instant: str) -> str:
        """SQL for `number` of a TIMESTAMPTZ expression after 1970."""
        step, offset = self.step // MICROSECOND, self.offset // MICROSECOND
        return f"((epoch_us({instant}) + {step - 1 - offset}) // {step})::INTEGER"

    def instant_sql(self, number: str) -> str:
        """SQL for `instant` of an integer expression."""
        step, offset = self.step // MICROSECOND, self.offset // MICROSECOND
        return f"make_timestamptz({number}::BIGINT * {step} + {offset})"


@dataclass(frozen=True)
class Revision:
    """The part of a table that newer versions of its sources change.

    Attributes:
        lo: the first instant whose row may change, by known-at time.
        hi: the first instant after the last one.
        created_from: only versions created then or later change; those before stay as they were known then.
    """

    lo: datetime
    hi: datetime
    created_from: datetime


@dataclass(frozen=True)
class Total:
    """A total over a window.

    Attributes:
        name: the resulting column.
        source: the integer column of amounts that is added up.
        steps: the window's length in steps; None adds up everything since the beginning (a level).
    """

    name: str
    source: str
    steps: int | None = None


def running_totals_sql(
    amounts: str, keys: Sequence[str], totals: Sequence[Total], *, limited: str | None = None
) -> str:
    """SQL for the totals of every window at every instant at which one of them changes.

    Args:
        amounts: a relation with the key columns, ``n`` (the number of the instant, INTEGER) and integer amounts; one
            row per key and instant, or several.
        keys: the key columns; may be empty.
        totals: what to add up.
        limited: a relation like `amounts` with two more columns, ``from_n`` and ``until_n`` (INTEGER; 0 and `NEVER`
            are no limit): an amount that counts at the instants from_n <= n < until_n only, as what is known of a fact
            until it is corrected, or since it was.

    Returns:
        A SELECT with the key columns, ``n`` and one BIGINT column per total, unordered. Only integers are added, so
        the result does not depend on order or threads.
    """
    key_list = "".join(f"{key}, " for key in keys)
    shifts = sorted({total.steps for total in totals if total.steps is not None})
    sources = sorted({total.source for total in totals})
    entering = ", ".join(f"{total.source} AS {total.name}" for total in totals)
    moves = [f"SELECT {key_list}n, {entering} FROM amounts"]
    moves += [
        f"SELECT {key_list}n + {shift}, {_moved('-', totals, shift)} FROM amounts WHERE {_some(totals, shift)}"
        for shift in shifts
    ]
    if limited is not None:
        if any(total.steps is None for total in totals):
            moves += _limited_levels(key_list, totals, limited)
        for shift in shifts:
            end = f"least(n + {shift}, until_n)"
            counts = f"FROM {limited} WHERE greatest(n, from_n) < {end}"
            moves.append(f"SELECT {key_list}greatest(n, from_n), {_moved('', totals, shift)} {counts}")
            moves.append(
                f"SELECT {key_list}{end}, {_moved('-', totals, shift)} {counts} AND ({_some(totals, shift)})"
            )
    # One pass over all keys in order costs a tenth of a window per key. It needs every total back at zero where a key
    # ends: windows get there by themselves, levels by a closing row, which is left out at the end.
    closing = ", ".join(f"-sum({t.source})" if t.steps is None else "0" for t in totals)
    at_each_instant = ", ".join(f"sum({t.name})::INTEGER AS {t.name}" for t in totals)
    since_start = ", ".join(
        f"(sum({t.name}) OVER (ROWS UNBOUNDED PRECEDING))::BIGINT AS {t.name}" for t in totals
    )
    moves.append(f"SELECT {key_list}{NEVER}, {closing} FROM amounts GROUP BY ALL")
    return f"""
WITH amounts AS (
  SELECT {key_list}n, {", ".join(f"sum({source})::INTEGER AS {source}" for source in sources)}
  FROM {amounts} GROUP BY ALL),
moves AS ({" UNION ALL ".join(moves)}),
changes AS (SELECT {key_list}n, {at_each_instant} FROM moves GROUP BY ALL),
ordered AS (SELECT * FROM changes ORDER BY {key_list}n),
running AS (SELECT {key_list}n, {since_start} FROM ordered)
SELECT * FROM running WHERE n < {NEVER}"""


def _limited_levels(key_list: str, totals: Sequence[Total], limited: str) -> list[str]:
    """The moves of the levels: where an amount counts from its own instant on, and where a limit lets it in or out.

    At a limit a level moves only if it changes: what came and went long before counts for nothing there.
    """
    columns = ", ".join(f"{total.source if total.steps is None else '0'} AS {total.name}" for total in totals)
    back = ", ".join(f"-{total.name}" for total in totals)
    sums = [f"sum({total.name})" for total in totals]
    amounts = f"(SELECT *, {columns} FROM {limited} WHERE greatest(n, from_n) < until_n)"
    at_limits = (
        f"SELECT {key_list}from_n AS n, {', '.join(total.name for total in totals)} FROM {amounts} WHERE n < from_n "
        f"UNION ALL SELECT {key_list}until_n, {back} FROM {amounts}"
    )
    own = f"SELECT {key_list}n, {_moved('', totals, None)} FROM {limited} WHERE n >= from_n AND n < until_n"
    changes = " OR ".join(f"{total} <> 0" for total in sums)
    return [
        own,
        f"SELECT {key_list}n, {', '.join(sums)} FROM ({at_limits}) GROUP BY {key_list}n HAVING {changes}",
    ]


def _moved(sign: str, totals: Sequence[Total], steps: int | None) -> str:
    return ", ".join(f"{sign}{total.source}" if total.steps == steps else "0" for total in totals)


def _some(totals: Sequence[Total], steps: int | None) -> str:
    named = sorted({total.source for total in totals if total.steps == steps})
    return " OR ".join(f"{source} <> 0" for source in named) or "false"


def smoothed_ratio(part: float, whole: int, weight: int, prior: float) -> float:
    """(part + weight × prior) / (whole + weight): a ratio that starts at `prior` and needs `weight` cases to leave it.

    `part` and `weight × prior` must be exactly representable (integers, halves, quarters): then the division is the
    only rounding, and SQL (`smoothed_ratio_sql`) gives the same bits.
    """
    return (part + weight * prior) / float(whole + weight)


def smoothed_ratio_sql(part: str, whole: str, weight: int, prior: float) -> str:
    """SQL for `smoothed_ratio` of two integer expressions, DOUBLE."""
    return f"(({part})::DOUBLE + {weight * prior}::DOUBLE) / (({whole}) + {weight})::DOUBLE"


def utc_literal(at: datetime) -> str:
    """An aware instant as a SQL literal.

    Raises:
        WindowError: the instant has no zone.
    """
    return f"TIMESTAMPTZ '{_utc(at).isoformat(sep=' ')}'"


def check_time_ordered_split(
    parts: Mapping[str, Sequence[datetime]], known_at: Mapping[str, Sequence[datetime]] | None = None
) -> None:
    """Refuse a split whose parts do not follow each other in time, as a random split's do not.

    Args:
        parts: the decision times of each part's rows, parts in order of time (train, validate, test).
        known_at: where given, when the label of each of those rows became known, in the same order.

    Raises:
        SplitError: a part is empty, a row of an earlier part is decided at or after a later part's first decision,
            or an earlier part's label became known only after that.
    """
    names = list(parts)
    for name in names:
        if not parts[name]:
            raise SplitError(
                f"the part {name!r} of the split has no rows; widen the data's range or its shares"
            )
    for index, name in enumerate(names):
        for later in names[index + 1 :]:
            cut = min(parts[later])
            mixed = sum(at >= cut for at in parts[name])
            if mixed:
                raise SplitError(
                    f"{mixed} of {len(parts[name])} rows of {name!r} are decided at or after {cut.isoformat()}, "
                    f"where {later!r} begins: split by time, never at random"
                )
            unknown = sum(at >= cut for at in known_at[name]) if known_at and name in known_at else 0
            if unknown:
                raise SplitError(
                    f"the labels of {unknown} rows of {name!r} became known at or after {cut.isoformat()}, where "
                    f"{later!r} begins: leave out rows whose outcome was not known before the cut"
                )


def _utc(at: datetime) -> datetime:
    if at.tzinfo is None:
        raise WindowError(f"{at.isoformat()} has no zone; instants are aware (UTC)")
    return at.astimezone(UTC)
