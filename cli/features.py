"""`contrail features`: names, options and help of its commands. The work of each is in a module beside this one."""

from __future__ import annotations

from typing import Annotated

import typer

from cli import features_docs
from cli.asked import instant

app = typer.Typer(
    name="features",
    help="Features: what they mean, who uses them, and one entity's values as they are served.",
    no_args_is_help=True,
)

Json = Annotated[bool, typer.Option("--json", help="Print one JSON document instead of text.")]


@app.callback()
def features() -> None:
    """Features: what they mean, who uses them, and one entity's values as they are served."""


@app.command()
def get(
    entity: Annotated[
        list[str],
        typer.Option(
            "--entity",
            metavar="KEY=VALUE",
            help="A join key or a request column, once for each; KEY= without a value is null.",
        ),
    ],
    service: Annotated[
        str | None, typer.Option("--service", help="A feature service (default: the use case's).")
    ] = None,
    use_case: Annotated[
        str | None, typer.Option("--use-case", help="A use case (default: the first declared).")
    ] = None,
    at: Annotated[
        str | None,
        typer.Option(
            "--at", metavar="INSTANT", help="ISO instant with a zone, …Z (default: the clock's now)."
        ),
    ] = None,
    json: Json = False,
) -> None:
    """Print one entity's online vector: every value with its view, status, known-at time and age.

    Without service_date and the scheduled_departure_… columns it prints what is stored, and says what else is needed.

    Example: contrail features get --entity carrier=UA --entity flight_number=259 --entity origin=EWR --entity dest=FLL
    --entity tail_number=N471UA --entity service_date=2014-01-02 --entity scheduled_departure_minute_local=1269
    --entity scheduled_departure_at=2014-01-03T02:09Z
    """  # fmt: skip
    from cli import features_get as command

    command.main(entity, service=service, use_case=use_case, at=instant(at), as_json=json)


features_docs.register(app)
