"""The model card: what a model is for, how good it is and at what bad, and how to check every word of it.

The fields are those of Mitchell et al., "Model Cards for Model Reporting" (FAT* 2019), and beside them what lets a
reader check: versions of the data, criteria frozen before the fit, verdicts, the leakage certificate and the commands
that reproduce, trace and audit. Every number is taken from the recorded evidence; a summary in plain words is made from
the numbers. It is written once as blocks and rendered twice: as Markdown, and as one HTML file that needs nothing else.
"""

from __future__ import annotations

import base64
import re
from dataclasses import dataclass
from pathlib import Path

from contrail.model_card_blocks import CardError, CardFacts
from contrail.model_card_sections import sections, top_pictures
from contrail.model_card_words import summarise

__all__ = ["Card", "CardError", "CardFacts", "card"]

_TEMPLATES = Path(__file__).resolve().parent / "templates"
_BLANKS = re.compile(r"[ \t\r\n]+")
_NOT_WITHIN_A_WORD = re.compile(r"(?<![A-Za-z0-9])_|_(?![A-Za-z0-9])")


@dataclass(frozen=True)
class Card:
    """The card as Markdown and as a self-contained HTML page."""

    markdown: str
    html: str


def card(facts: CardFacts) -> Card:
    """Write the card.

    Raises:
        CardError: the evidence is of another model or use case than the manifest, or has no test part.
        ModelTextError: the model's text does not describe its features.
    """
    from jinja2 import Environment, FileSystemLoader, StrictUndefined  # only who wants the card pays for it

    use_case, record = facts.use_case, facts.evidence
    if not use_case.name == facts.manifest["use_case"] == record["use_case"]:
        raise CardError(
            f"use case {use_case.name}, manifest of {facts.manifest['use_case']}, evidence of {record['use_case']}"
        )
    if record["model_sha256"] not in facts.manifest["files"].values():
        raise CardError(f"the evidence is of model {record['model_sha256']}, the manifest is of another one")
    if not any(row["part"] == "test" and row["kind"] == "all" for row in record["groups"]):
        raise CardError("the evidence has no test part: there is nothing to say about the model")
    summary = summarise(use_case, record)
    shown = {
        "title": use_case.title,
        "description": use_case.description,
        "subtitle": _subtitle(facts),
        "summary": summary,
        "pictures": top_pictures(facts.pictures),
        "sections": sections(facts, summary),
        "all_met": all(verdict["met"] for verdict in record["verdicts"]),
        "criteria": len(record["verdicts"]),
        "unmet": sum(not verdict["met"] for verdict in record["verdicts"]),
    }

    def rendered(template: str, *, autoescape: bool) -> str:
        environment = Environment(  # nosec B701: Markdown has its own filter for every value
            loader=FileSystemLoader(_TEMPLATES), autoescape=autoescape, undefined=StrictUndefined, trim_blocks=True,
            lstrip_blocks=True,
        )  # fmt: skip
        environment.filters |= {"md": _markdown_text, "data_uri": _data_uri}
        return environment.get_template(template).render(shown)

    return Card(
        markdown=rendered("model_card.md.jinja", autoescape=False),
        html=rendered("model_card.html.jinja", autoescape=True),
    )


def _subtitle(facts: CardFacts) -> str:
    version = "" if facts.version is None else f"version {facts.version}, "
    return f"{facts.use_case.name}, {version}model {facts.evidence['model_sha256'][:12]}"


def _data_uri(content: bytes) -> str:
    return f"data:image/png;base64,{base64.b64encode(content).decode('ascii')}"


def _markdown_text(value: object) -> str:
    """Plain text as Markdown that shows exactly this text."""
    escaped = re.sub(r"([\\`*\[\]<>|#])", r"\\\1", _BLANKS.sub(" ", str(value)).strip())
    return _NOT_WITHIN_A_WORD.sub(r"\\_", escaped)
