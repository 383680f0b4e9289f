"""`contrail land`: raw daily files into the landing zone."""

from __future__ import annotations

from datetime import date
from pathlib import Path
from typing import TYPE_CHECKING

from cli.output import failures, print_json, say, table
from contrail.settings import Settings

if TYPE_CHECKING:
    from sources.nycflights import LandReport


def main(*, source: Path | None, first: date | None, last: date | None, as_json: bool) -> None:
    """Land, and say per table what was written and what was there already."""
    from contrail.landing import LandingError
    from sources.nycflights import SourceError

    settings = Settings()
    with failures(SourceError, LandingError):
        report = land_quietly(settings, source, first, last, show=not as_json)
    if as_json:
        print_json(report)
        return
    columns = ["table", "written", "already there", "rows"]
    say(
        table(
            [
                dict(zip(columns, (t.table, t.written, t.already_there, t.rows), strict=True))
                for t in report.tables
            ],
            columns,
        )
    )


def land_quietly(
    settings: Settings, source: Path | None, first: date | None, last: date | None, *, show: bool
) -> LandReport:
    """Land what is missing, with a progress bar where someone looks."""
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn

    from sources.nycflights import land

    with Progress(
        TextColumn("landing {task.description:<22}"),
        BarColumn(),
        MofNCompleteColumn(),
        disable=not show,
        transient=True,
    ) as bar:
        task = bar.add_task("", total=None)

        def advance(table_name: str, done: int, total: int) -> None:
            bar.update(task, description=table_name, completed=done, total=total)

        return land(settings, source=source, first=first, last=last, progress=advance)
