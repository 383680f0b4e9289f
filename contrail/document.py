"""Reading a YAML document with complaints that say where: every value knows the way to it."""

from __future__ import annotations

from pathlib import Path
from typing import Any, cast

import yaml


class DocumentError(ValueError):
    """A document is not as it must be; the message names the file and the place."""


def read_document(path: Path) -> Place:
    """The document of a YAML file.

    Raises:
        DocumentError: the file is not YAML.
    """
    loader: Any = getattr(yaml, "CSafeLoader", yaml.SafeLoader)  # the compiled one is ten times as fast
    try:
        return Place(path.name, yaml.load(path.read_bytes(), Loader=loader))  # nosec B506: a safe loader
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise DocumentError(f"{path.name} is not YAML: {error}") from error


class Place:
    """A value in the file together with the way to it, so that every complaint can say where it is."""

    def __init__(self, where: str, value: Any) -> None:
        self.where = where
        self.value = value

    def fail(self, what: str) -> DocumentError:
        return DocumentError(f"{self.where}: {what}")

    def get(self, key: str) -> Place:
        if not isinstance(self.value, dict):
            raise self.fail(f"expected a mapping, found {type(self.value).__name__}")
        return Place(f"{self.where}, {key}", cast(dict[str, Any], self.value).get(key))

    def items(self) -> list[Place]:
        if self.value is None:
            return []
        if not isinstance(self.value, list):
            raise self.fail(f"expected a list, found {type(self.value).__name__}")
        entries = cast(list[Any], self.value)
        return [
            Place(f"{self.where}[{_label(entry, number)}]", entry) for number, entry in enumerate(entries)
        ]

    def text(self, default: str | None = None) -> str:
        value = default if self.value is None else self.value
        if not isinstance(value, str) or (default is None and not value.strip()):
            raise self.fail(f"expected a text, found {self.value!r}")
        return value.strip()

    def flag(self) -> bool:
        if self.value is not None and not isinstance(self.value, bool):
            raise self.fail(f"expected true or false, found {self.value!r}")
        return bool(self.value)

    def number(self) -> float | None:
        if self.value is None:
            return None
        if isinstance(self.value, bool) or not isinstance(self.value, int | float):
            raise self.fail(f"expected a number, found {self.value!r}")
        return self.value

    def custom_properties(self) -> dict[str, Place]:
        return {
            entry.get("property").text(): entry.get("value") for entry in self.get("customProperties").items()
        }


def _label(entry: Any, number: int) -> str:
    if not isinstance(entry, dict):
        return str(number)
    named = cast(dict[str, Any], entry)
    return str(named.get("name") or named.get("property") or number)
