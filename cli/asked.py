"""What several commands are asked with: a use case, an instant."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import TYPE_CHECKING

from cli.output import Failure

if TYPE_CHECKING:
    from contrail.use_case import UseCase


def chosen_use_case(name: str | None) -> UseCase:
    """The use case of that name, the first declared unless told.

    Raises:
        Failure: there is none of that name.
    """
    from feature_repo.use_cases import DEFAULT_USE_CASE, USE_CASES

    if name is not None and name not in USE_CASES:
        raise Failure(f"there is no use case {name!r}; declared: {', '.join(USE_CASES)}")
    return USE_CASES[name or DEFAULT_USE_CASE]


def instant(text: str | None) -> datetime | None:
    """The value of ``--at``, in UTC; see `parsed_instant`."""
    return None if text is None else parsed_instant(text, "--at ")


def parsed_instant(text: str, what: str = "") -> datetime:
    """An instant as somebody typed it, in UTC.

    Args:
        what: where it stands, for messages.

    Raises:
        Failure: it is no ISO instant, or has no zone.
    """
    try:
        at = datetime.fromisoformat(text)
    except ValueError as error:
        raise Failure(f"{what}{text!r} is no ISO instant: write 2013-12-31T18:00Z") from error
    if at.tzinfo is None:
        raise Failure(f"{what}{text!r} has no zone: write {at.isoformat(timespec='minutes')}Z for UTC")
    try:
        return at.astimezone(UTC)
    except OverflowError as error:
        raise Failure(f"{what}{text!r} lies outside of the calendar") from error
