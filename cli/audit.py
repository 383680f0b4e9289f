"""`contrail audit`: whether the log of decisions is still the one that was written."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Any

import typer

from cli.output import EXIT_FAILED, failures, print_json, say
from contrail.settings import Settings

app = typer.Typer(
    name="audit", help="Audit: is what was recorded still what was written?", no_args_is_help=True
)


@app.callback()
def audit() -> None:
    """Audit: is what was recorded still what was written?"""


@app.command()
def verify(
    anchor: Annotated[
        list[str] | None,
        typer.Option(
            "--anchor", metavar="SEQ:HASH", help="A head that was noted elsewhere; any number of them."
        ),
    ] = None,
    json: Annotated[bool, typer.Option("--json", help="Print one JSON document instead of text.")] = False,
) -> None:
    """Recompute the chain of decisions and name the first altered row. Ends with 1 where there is one.

    The heads that each decision left in Dagster and in MLflow are compared too: an end that was cut off shows by
    nothing else.
    """
    raise typer.Exit(main(anchor or [], as_json=json))


def main(texts: Sequence[str], *, as_json: bool) -> int:
    """Print what was found; returns the exit code."""
    from contrail import decisions
    from contrail.decisions import Anchor, DecisionError
    from contrail.lake import Lake, LakeError
    from resources.decisions import recorded_anchors

    settings = Settings()
    with failures(DecisionError, LakeError):
        given = [("--anchor", Anchor.parse(text)) for text in texts]
        recorded = recorded_anchors(settings)
        placed = [*given, *recorded.anchors]
        found = decisions.verify(Lake(settings.lake_root), [anchor for _, anchor in placed])
    gone = [{"where": where, "anchor": str(one)} for where, one in placed if one in found.anchors_gone]
    if as_json:
        report: dict[str, Any] = {
            "holds": found.holds,
            "rows": found.rows,
            "head": None if found.head is None else str(found.head),
            "first_bad": found.first_bad,
            "why": found.why,
            "anchors": [{"where": where, "anchor": str(one)} for where, one in placed],
            "anchors_gone": gone,
            "unasked": recorded.unasked,
        }
        print_json(report)
        return 0 if found.holds else EXIT_FAILED
    say(f"{decisions.TABLE}: {found.rows} rows, {found.anchors_checked} anchors compared")
    for sentence in recorded.unasked:
        say(f"  note: {sentence}")
    if found.holds and found.head is None:
        say("nothing was decided yet")
        return 0
    if found.holds:
        say("every row is the one that was written")
        say(f"  anchor {found.head}    (note it elsewhere; contrail audit verify --anchor compares)")
        return 0
    say(f"NOT AS WRITTEN from sequence {found.first_bad} on: {found.why}")
    for one in gone:
        say(f"  {one['where']} names {one['anchor']}")
    return EXIT_FAILED
