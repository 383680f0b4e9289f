"""`contrail features docs | describe | changes`: what the features mean, who uses them, what a change concerns."""

from __future__ import annotations

import difflib
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from cli.output import Failure, failures, print_json, say, table
from contrail.settings import Settings

if TYPE_CHECKING:
    from contrail.feature_changes import FeatureChange

Json = Annotated[bool, typer.Option("--json", help="Print one JSON document instead of text.")]


@dataclass(frozen=True)
class Declared:
    """One feature as it is declared; `used_by` are the declared models."""

    feature: str
    description: str
    type: str
    unit: str
    window: str
    known_at: str
    when_missing: str
    view: str
    keys: tuple[str, ...]
    max_age: str
    sources: tuple[str, ...]
    owner: str
    deprecated: str
    goes_into: tuple[str, ...]
    used_by: tuple[str, ...]


@dataclass(frozen=True)
class Described:
    """One feature, and the registered model versions that have it, or one computed from it, among their inputs."""

    declared: Declared
    registered_models: list[dict[str, object]]


def register(app: typer.Typer) -> None:
    """Add the commands to `contrail features`."""

    @app.command()
    def docs(
        write: Annotated[
            bool, typer.Option("--write", help="Write docs/features.md instead of printing it.")
        ] = False,
        json: Json = False,
    ) -> None:
        """Render the documentation of all features from their declarations."""
        print_docs(write=write, as_json=json)

    @app.command()
    def describe(
        name: Annotated[str, typer.Argument(help="A feature, of the vector or only of a table.")],
        json: Json = False,
    ) -> None:
        """Say what one feature means, where it comes from, and which models use it, registered versions included."""
        print_described(name, as_json=json)

    @app.command()
    def changes(json: Json = False) -> None:
        """List the features whose declaration differs from what is registered, and the models that concerns."""
        print_changes(as_json=json)


def print_docs(*, write: bool, as_json: bool) -> None:
    """Print the document, or write it where it is committed; as JSON, a list of all features."""
    from feature_repo.feature_docs import DOCS_PATH, render
    from features.documentation import ALL_FEATURES

    text = render()
    if write:
        path: Path = Settings().repo_root / DOCS_PATH
        path.write_text(text, encoding="utf-8")
    if as_json:
        print_json([declared(name) for name in ALL_FEATURES])
    else:
        say(f"written: {DOCS_PATH}" if write else text.rstrip("\n"))


def print_described(name: str, *, as_json: bool) -> None:
    """Print one feature."""
    found = described(Settings(), name)
    if as_json:
        print_json(found)
        return
    feature = found.declared
    say(feature.feature)
    if feature.deprecated:
        say(f"  DEPRECATED     {feature.deprecated}")
    for label, text in (
        ("says", feature.description),
        ("type and unit", f"{feature.type}, {feature.unit}"),
        ("window", feature.window or "none: a level or a single observation"),
        ("known at", feature.known_at),
        ("when missing", feature.when_missing),
        ("view", f"{feature.view}, by {', '.join(feature.keys)}" if feature.keys else feature.view),
        ("max age", feature.max_age or "none: no row is looked up"),
        ("made of", ", ".join(feature.sources) or "the request alone"),
        ("owner", feature.owner),
        ("goes into", ", ".join(feature.goes_into) or "no vector"),
        ("used by", ", ".join(feature.used_by) or "no declared model"),
    ):
        say(f"  {label:<14} {text}")
    if found.registered_models:
        say("registered models that use it")
        say(table(found.registered_models, ["use case", "version", "role", "sha256", "inputs"]))
    else:
        say("no registered model uses it")


def declared(name: str) -> Declared:
    """One feature.

    Raises:
        Failure: there is no such feature; names that are like it are said.
    """
    from feature_repo.feature_docs import age_words, used_by, when_missing
    from features.documentation import ALL_FEATURES

    if name not in ALL_FEATURES:
        like = difflib.get_close_matches(name, ALL_FEATURES, n=3)
        hint = f"do you mean {' or '.join(like)}?" if like else "contrail features docs lists them all"
        raise Failure(f"there is no feature {name!r}: {hint}")
    feature = ALL_FEATURES[name]
    return Declared(
        feature=feature.name,
        description=feature.description,
        type=feature.sql_type,
        unit=feature.unit,
        window=feature.window,
        known_at=feature.known_rule,
        when_missing=when_missing(feature),
        view=feature.source,
        keys=feature.keys,
        max_age=age_words(feature.max_age) if feature.max_age is not None else "",
        sources=feature.sources,
        owner=feature.owner,
        deprecated=feature.deprecated,
        goes_into=feature.vector_features,
        used_by=used_by(feature),
    )


def described(settings: Settings, name: str) -> Described:
    """One feature, with the models of a home.

    Raises:
        Failure: there is no such feature.
    """
    from contrail import model_features
    from contrail.lake import Lake
    from feature_repo.use_cases import USE_CASES

    feature = declared(name)
    models = model_features.registered(Lake(settings.lake_root), USE_CASES)
    return Described(
        feature,
        [
            {
                "use case": model.use_case,
                "version": model.version,
                "role": model.role,
                "sha256": model.sha256[:12],
                "inputs": "include it" if model.features is not None else "unknown: its files are damaged",
            }
            for model in model_features.using(models, [name, *feature.goes_into])
        ],
    )


def print_changes(*, as_json: bool) -> None:
    """Print what `feast apply` would change, feature by feature; nothing is written."""
    from contrail.online_layout import OnlineError
    from resources.feature_store import FeatureStoreResource

    with failures(OnlineError):
        found = FeatureStoreResource(home=str(Settings().home)).pending_changes()
    if as_json:
        print_json(found)
    elif not found:
        say("nothing: every feature is registered as it is declared")
    else:
        _print_changes(found)


def _print_changes(found: tuple[FeatureChange, ...]) -> None:
    added = [change for change in found if change.kind == "added"]
    for change in found:
        if change.kind == "added":
            continue
        say(f"{change.kind:<10} {change.feature} ({change.view})")
        for what in change.what:
            say(f"    {what}")
        say(f"    models concerned: {', '.join(change.models) or 'none'}")
    if added:
        views = sorted({change.view for change in added})
        say(f"added      {len(added)} features of {', '.join(views)}")
    say("they are registered with the next run of feature_store/registry, or: feast apply")
