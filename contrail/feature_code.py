"""What features mean: hashes over the syntax of all that makes them, so that a comment changes nothing.

A *piece* is whatever a difference shall be named by: a feature table, the features of a request, the query of the rows.
Its hash covers everything its entry points reach inside the given packages: functions, classes with all their methods,
constants, through imports, and the SQL in them. Followed by name and never by running anything, so a piece rather
covers too much than too little. Two things are outside: files that code reads while it runs, and libraries, whose
versions the environment's lock has.

An entry point is a string ``module:name`` (``module`` alone: all of it, of a package all its modules) or an object: a
function, class, partial, bound method, or an instance or collection that holds some. Of an object the values count as
well as the code, so what was computed at import (a table declared in a loop, a closure) counts with what came out.
"""

from __future__ import annotations

import ast
import dataclasses
import functools
import hashlib
import types
from collections.abc import Collection, Iterator, Mapping, Sequence
from datetime import date, time, timedelta
from decimal import Decimal
from enum import Enum
from fractions import Fraction
from typing import Any

from contrail.canonical_code import canonical_sql
from contrail.code_modules import ALL, Definition
from contrail.code_symbols import Code, FeatureCodeError, Meaning

__all__ = ["FeatureCodeError", "differences", "meaning"]

_PLAIN = (bool, int, float, complex, bytes, date, time, timedelta, Decimal, Fraction, type(None))
_LOCALS = "<locals>"


def meaning(
    entry_points: Mapping[str, Sequence[object]], packages: Sequence[str], *, apart: Collection[str] = ()
) -> dict[str, str]:
    """The sha256 of what each piece means.

    Args:
        entry_points: piece → what makes it.
        packages: top-level packages inside which code is followed; what lies on disk now is read.
        apart: symbols (``module:name``) at which the walk stops, because they belong to other pieces.

    Returns:
        piece → sha256, hex; the same in every process.

    Raises:
        FeatureCodeError: an entry point or something that it uses is not in the packages, or is a value of which it
            cannot be said what it means.
    """
    code = Code(packages)
    found: dict[str, str] = {}
    for piece, points in entry_points.items():
        reached = _Reached(code, frozenset(apart))
        for point in points:
            reached.enter(point)
        found[piece] = reached.sha256()
    return found


def differences(recorded: Mapping[str, str], now: Mapping[str, str]) -> tuple[str, ...]:
    """The pieces that do not mean the same, in words, by name; empty where all do."""
    words: list[str] = []
    for piece in sorted({*recorded, *now}):
        before, after = recorded.get(piece), now.get(piece)
        if before is None or after is None:
            words.append(f"{piece} is {'new' if before is None else 'gone'}")
        elif before != after:
            words.append(f"{piece} is {after[:12]}, recorded is {before[:12]}")
    return tuple(words)


class _Reached:
    """All that one piece reaches: symbols, functions inside them, and values."""

    def __init__(self, code: Code, apart: frozenset[str]) -> None:
        self._code = code
        self._apart = apart
        self._symbols: dict[str, str] = {}
        self._values: list[str] = []
        self._nested: dict[str, str] = {}
        self._texts: dict[
            int, tuple[object, str]
        ] = {}  # by identity; kept alive, or its id would be used again
        self._inside: list[int] = []

    def sha256(self) -> str:
        parts = [
            *(f"{symbol}\n{text}" for symbol, text in sorted(self._symbols.items())),
            *(f"{name}\n{text}" for name, text in sorted(self._nested.items())),
            *self._values,
        ]
        whole = hashlib.sha256()
        for part in parts:
            whole.update(hashlib.sha256(part.encode("utf-8", "surrogatepass")).digest())
        return whole.hexdigest()

    def enter(self, point: object) -> None:
        if isinstance(point, str):
            symbol = point if ":" in point else f"{point}:{ALL}"
            module, _, name = symbol.partition(":")
            self._follow([f"{module}:{name.partition('.')[0]}"])
            self._values.append(symbol)
        else:
            self._values.append(self._value(point))

    def _follow(self, symbols: Sequence[str]) -> None:
        queue = list(symbols)
        while queue:
            symbol = queue.pop()
            if symbol in self._symbols or symbol in self._apart:
                continue
            found = self._code.meaning(symbol)
            self._symbols[symbol] = found.text
            queue.extend(found.symbols)

    # -- values ------------------------------------------------------------------------------------------------

    def _value(self, value: object) -> str:
        """A value as text; the code that it holds is followed."""
        if isinstance(value, str):
            return f"text {canonical_sql(value)!r}"
        if isinstance(value, Enum):
            return f"{self._class(type(value))}.{value.name}"
        if isinstance(value, _PLAIN):
            return f"{type(value).__name__} {value!r}"
        if id(value) in self._texts:
            return self._texts[id(value)][1]
        if id(value) in self._inside:
            return f"what holds this, {len(self._inside) - self._inside.index(id(value))} above"
        self._inside.append(id(value))
        text = self._holder(value)
        self._inside.pop()
        self._texts[id(value)] = (value, text)
        return text

    def _holder(self, value: Any) -> str:
        match value:
            case list() | tuple():
                fields = f"{self._class(type(value))} " if type(value) not in (list, tuple) else ""
                return f"{fields}[{', '.join(map(self._value, value))}]"
            case set() | frozenset():
                return f"{{{', '.join(sorted(map(self._value, value)))}}}"
            case Mapping():
                items = (f"{self._value(k)}: {self._value(v)}" for k, v in value.items())
                return f"{{{', '.join(items)}}}"
            case type():
                return self._class(value)
            case types.FunctionType():
                return self._function(value)
            case types.MethodType():
                return f"{self._value(value.__self__)}.{value.__name__} {self._value(value.__func__)}"
            case types.BuiltinFunctionType():
                return f"{value.__module__}.{value.__qualname__}"
            case functools.partial():
                return f"partial {self._value([value.func, value.args, value.keywords])}"
            case types.ModuleType():
                return self._named(value.__name__, ALL)
            case _ if isinstance(getattr(value, "__wrapped__", None), types.FunctionType):
                return f"{type(value).__name__} of {self._value(value.__wrapped__)}"
            case _:
                return self._instance(value)

    def _instance(self, value: Any) -> str:
        kind: type[Any] = type(value)
        if dataclasses.is_dataclass(value):
            held = {each.name: getattr(value, each.name) for each in dataclasses.fields(value)}
        elif self._code.holds(kind.__module__):
            held = dict(getattr(value, "__dict__", {})) | {
                name: getattr(value, name) for name in _slots(kind) if hasattr(value, name)
            }
        else:
            raise FeatureCodeError(
                f"what a {kind.__module__}.{kind.__qualname__} means cannot be told from the outside; name the code "
                "that makes it, as 'module:name'"
            )
        return f"{self._class(kind)} {self._value(held)}"

    def _class(self, kind: type[Any]) -> str:
        if self._code.holds(kind.__module__) and _LOCALS in kind.__qualname__:
            return self._named(kind.__module__, kind.__qualname__.partition(".")[0])
        return self._named(kind.__module__, kind.__qualname__)

    def _named(self, module: str, qualname: str) -> str:
        if self._code.holds(module):
            self._follow([f"{module}:{qualname.partition('.')[0]}"])
        return f"{module}:{qualname}"

    def _function(self, function: types.FunctionType) -> str:
        module, qualname = function.__module__, function.__qualname__
        if not self._code.holds(module):
            return f"{module}:{qualname}"
        top = qualname.partition(".")[0]
        if _LOCALS not in qualname and top != "<lambda>":
            return self._named(module, qualname)
        nodes, known = self._inner(function, top)
        held = {
            "defaults": [function.__defaults__, function.__kwdefaults__],
            "cells": {name: _content(cell) for name, cell in known.items()},
        }
        found = nodes if isinstance(nodes, Meaning) else self._code.meaning(f"{module}:{nodes}")
        self._nested[f"{module}:{qualname} {len(self._nested)}"] = found.text
        self._follow([*found.symbols, f"{module}:"])
        return f"{module}:{qualname} {self._value(held)}"

    def _inner(self, function: types.FunctionType, top: str) -> tuple[Meaning | str, dict[str, Any]]:
        """The function inside another, with its cells; the outer one's name where it cannot be told apart."""
        cells = dict(zip(function.__code__.co_freevars, function.__closure__ or (), strict=True))
        module = self._code.module(function.__module__)
        outer = module.bindings.get(top) if module else None
        if module is None or (outer is None and top != "<lambda>"):
            raise FeatureCodeError(
                f"{function.__module__}:{function.__qualname__} is not where it says it was made"
            )
        among = outer or module.tree.body
        name = function.__name__
        same = [n for n in _functions(among) if (n.name if isinstance(n, Definition) else "<lambda>") == name]
        if len(same) > 1:
            line = function.__code__.co_firstlineno
            same = [n for n in same if _first_line(n) == line] or same
        if len(same) == 1:
            return self._code.meaning_of(module, same, apart=frozenset(cells)), cells
        return (top if outer else ALL), cells


def _functions(nodes: Sequence[ast.AST]) -> Iterator[ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda]:
    for outer in nodes:
        for node in ast.walk(outer):
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda):
                yield node


def _first_line(node: ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda) -> int:
    decorators = [] if isinstance(node, ast.Lambda) else [each.lineno for each in node.decorator_list]
    return min([node.lineno, *decorators])


def _content(cell: Any) -> object:
    try:
        return cell.cell_contents
    except ValueError:  # not set yet
        return None


def _slots(kind: type[Any]) -> Iterator[str]:
    for base in kind.__mro__:
        slots: str | Sequence[str] = base.__dict__.get("__slots__", ())
        yield from [slots] if isinstance(slots, str) else slots
