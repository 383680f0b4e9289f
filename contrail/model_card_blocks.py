"""What a model card is made from, and of: facts, and sections of blocks that the templates render."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

from contrail.use_case import UseCase


@dataclass(frozen=True)
class CardFacts:
    """What a card is made from.

    Attributes:
        use_case: as it is declared.
        manifest: of the model's files, as `contrail.model_files.read_manifest` gives it.
        evidence: the record of the evaluation, as `contrail.evidence.read` gives it.
        evaluation_id: the record's id.
        model_text: the model's text; what it shows of the training rows is listed.
        data_versions: ``table@version`` of everything that the training set was made of.
        pictures: file name (a folder before it does not matter) → PNG, in the order to be shown.
        version: the registered version; None before registration.
        owner: whom to ask.
    """

    use_case: UseCase
    manifest: Mapping[str, Any]
    evidence: Mapping[str, Any]
    evaluation_id: str
    model_text: str
    data_versions: Sequence[str] = ()
    pictures: Mapping[str, bytes] = field(default_factory=dict[str, bytes])
    version: int | None = None
    owner: str = ""


class CardError(ValueError):
    """Evidence, manifest and use case do not belong together."""


@dataclass(frozen=True)
class Text:
    """A paragraph, or a heading within a section."""

    text: str
    is_heading: bool = False
    kind: Literal["text"] = "text"


@dataclass(frozen=True)
class Items:
    """A list of sentences."""

    items: tuple[str, ...]
    kind: Literal["items"] = "items"


@dataclass(frozen=True)
class Pairs:
    """Names and values."""

    pairs: tuple[tuple[str, str], ...]
    kind: Literal["pairs"] = "pairs"


@dataclass(frozen=True)
class Table:
    """A table of texts.

    Attributes:
        numeric: numbers of the columns that are aligned to the right.
        is_long: shown folded where that can be done.
    """

    header: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    numeric: tuple[int, ...] = ()
    is_long: bool = False
    kind: Literal["table"] = "table"


@dataclass(frozen=True)
class Picture:
    """A PNG with its caption."""

    caption: str
    png: bytes
    kind: Literal["picture"] = "picture"


@dataclass(frozen=True)
class Commands:
    """Commands to type, each with what it does."""

    commands: tuple[tuple[str, str], ...]
    kind: Literal["commands"] = "commands"


Block = Text | Items | Pairs | Table | Picture | Commands


@dataclass(frozen=True)
class Section:
    """One field of the card."""

    title: str
    blocks: tuple[Block, ...]
