"""The features' documentation as Markdown, from the declarations alone: no store and no lake is read.

`docs/features.md` is `render()`; Dagster shows `table_markdown` on every feature asset; the tags of Feast's views name
the same models. Which *registered* model versions use a feature is a question to the lake (`contrail.model_features`).
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from datetime import timedelta

from contrail.use_case import UseCase
from feature_repo.use_cases import USE_CASES
from features.documentation import ALL_FEATURES, REQUEST, FeatureDocumentation
from features.tables import FEATURE_TABLES, FeatureTable

DOCS_PATH = "docs/features.md"
NO_MODEL = "no model"

# Tags of what Feast registers that are no property of the feature: who uses it, and whether it is on its way out.
USED_BY_TAG, DEPRECATED_TAG = "used_by", "deprecated"

_INTRO = """# Features

Written by `contrail features docs --write` from the declarations in `features/` and `feature_repo/use_cases.py`; a test
holds this file to them. One feature with the registered model versions that use it: `contrail features describe NAME`.

- **Known at** is the rule by which a fact of the source may count. No value that was known later than the instant of
  a question ever answers it.
- **Window** is half-open, (g − w, g], up to the last grid instant g of the table, unless it says that both ends count.
  Features without a window are levels or single observations.
- **Max age** is how long a row answers. **When missing** is what stands where there is no row, or only an older one:
  the declared prior, or null. Training, batch scores and the online service fill it by one function
  (`features.vectors.fill_priors`, and `fill_priors_row` for one row).
- **Used by** names the declared models. A column that goes into others by arithmetic at request time counts as used."""

_HEAD = ("feature", "type", "unit", "description", "window", "known at", "when missing", "used by")
_WINDOW = _HEAD.index("window")


def used_by(feature: FeatureDocumentation, use_cases: Mapping[str, UseCase] = USE_CASES) -> tuple[str, ...]:
    """The declared models that have the feature, or one computed from it, among their inputs."""
    wanted = set(feature.vector_features)
    return tuple(name for name, use_case in use_cases.items() if wanted & set(use_case.features))


def usage_tags(name: str) -> dict[str, str]:
    """The tags of a feature in Feast that say who owns it, who uses it and, where it is so, that it is deprecated."""
    feature = ALL_FEATURES[name]
    tags = {"owner": feature.owner, USED_BY_TAG: ", ".join(used_by(feature)) or NO_MODEL}
    return tags | ({DEPRECATED_TAG: feature.deprecated} if feature.deprecated else {})


def named_models(tag: str) -> tuple[str, ...]:
    """The models that a `USED_BY_TAG` names."""
    return tuple(name for name in tag.split(", ") if name not in ("", NO_MODEL))


def when_missing(feature: FeatureDocumentation) -> str:
    """What stands where nothing is known, in words."""
    return "null" if feature.prior is None else str(feature.prior)


def age_words(span: timedelta) -> str:
    """A max age or a grid step: ``60 d``, ``6 h``, ``15 min``."""
    for unit, size in (("d", timedelta(days=1)), ("h", timedelta(hours=1)), ("min", timedelta(minutes=1))):
        if span >= size and not span % size:
            return f"{span // size} {unit}"
    return f"{span.total_seconds():g} s"


def markdown_table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """A Markdown table; what would end a cell is escaped."""
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join(f"| {' | '.join(_cell(cell) for cell in line)} |" for line in lines)


def _cell(text: str) -> str:
    return text.replace("|", "\\|").replace("\n", " ")


def _row(feature: FeatureDocumentation) -> tuple[str, ...]:
    words = f"**Deprecated**: {feature.deprecated} " if feature.deprecated else ""
    return (
        f"`{feature.name}`",
        feature.sql_type,
        feature.unit,
        words + feature.description,
        feature.window or "–",
        feature.known_rule,
        when_missing(feature),
        ", ".join(used_by(feature)) or NO_MODEL,
    )


def table_markdown(table: FeatureTable) -> str:
    """What Dagster shows of one feature table: per feature window, known-at rule, prior and models."""
    chosen = [0, *range(4, len(_HEAD))]
    rows = [_row(ALL_FEATURES[column.name]) for column in table.columns]
    facts = f"{_facts(table)}\n\n" + markdown_table(
        [_HEAD[n] for n in chosen], ([row[n] for n in chosen] for row in rows)
    )
    return f"**Deprecated**: {table.deprecated}\n\n{facts}" if table.deprecated else facts


def _facts(table: FeatureTable) -> str:
    grid = "at events" if table.grid is None else f"every {age_words(table.grid)}, where a value can change"
    return (
        f"Key: {', '.join(f'`{key}`' for key in table.keys)} · rows {grid} · max age {age_words(table.max_age)} · "
        f"made of {', '.join(f'`{source}`' for source in table.sources)} · owner {table.owner}"
    )


def render() -> str:
    """The whole document."""
    at_request = [feature for feature in ALL_FEATURES.values() if feature.source == REQUEST]
    parts = [
        _INTRO,
        "## At request time",
        "Computed when the question is asked, by `features.request_time`.",
        markdown_table(
            (*_HEAD[:_WINDOW], "made of", *_HEAD[_WINDOW + 1 :], "owner"), map(_request_row, at_request)
        ),
    ]
    for table in FEATURE_TABLES.values():
        rows = [_row(ALL_FEATURES[column.name]) for column in table.columns]
        parts += [f"## {table.name}", table.description, _facts(table), markdown_table(_HEAD, rows)]
    parts += ["## Deprecated", _deprecated()]
    return "\n\n".join(parts) + "\n"


def _request_row(feature: FeatureDocumentation) -> tuple[str, ...]:
    row = _row(feature)
    made_of = ["the request"]
    if feature.max_age is not None:
        made_of += [f"`{source}` (max age {age_words(feature.max_age)})" for source in feature.sources]
    return (*row[:_WINDOW], ", ".join(made_of), *row[_WINDOW + 1 :], feature.owner)


def _deprecated() -> str:
    rows = [
        (f"`{feature.name}`", feature.deprecated, ", ".join(used_by(feature)) or NO_MODEL)
        for feature in ALL_FEATURES.values()
        if feature.deprecated
    ]
    return markdown_table(("feature", "reason", "used by"), rows) if rows else "No feature is deprecated."
