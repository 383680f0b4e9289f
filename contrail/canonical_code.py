"""Python and SQL reduced to what they mean: two texts that differ in comments or layout only become the same text.

Python is taken as its syntax tree, without positions, docstrings and the annotations of functions and variables; the
annotations in a class body stay, for they may declare its fields. SQL is any string constant in which SQL keywords
stand: its comments go and its white space is folded, outside quotes. What cannot be told for sure stays as it is: a
difference too many asks for a look, one too few would let another meaning pass.
"""

from __future__ import annotations

import ast
import re
from collections.abc import Sequence

_SQL_WORD = re.compile(
    r"\b(SELECT|FROM|WHERE|WITH|JOIN|UNION|GROUP BY|ORDER BY|PARTITION BY|CASE|WHEN|HAVING|QUALIFY|INSERT|CREATE|"
    r"FILTER|VALUES|OVER|WINDOW|INTERVAL|COALESCE)\b",
    re.IGNORECASE,
)
# Strings whose quotes follow other rules: taken as they are.
_OTHER_QUOTES = re.compile(r"\$\w*\$|\b[eE]'")
# Quoted text, a comment, or the place of an inserted value; whatever else is between them.
_TOKENS = re.compile(r"""'(?:[^']|'')*'|"(?:[^"]|"")*"|--[^\n]*|/\*|['"]""")
_SPACE = re.compile(r"\s+")
_AROUND_PUNCTUATION = re.compile(r" ?([(),]) ?")
# Stands for a value that is put into a string; nobody writes it into a program.
_HOLE = "\x00"


def canonical_sql(text: str) -> str:
    """A string constant without SQL comments and layout; unchanged where it is no SQL or its quotes do not match.

    White space at the ends is folded and not dropped: the string may be one piece of a longer one.
    """
    if not _is_sql(text) or _OTHER_QUOTES.search(text):
        return text
    pieces: list[str] = []
    plain: list[str] = []  # what is outside quotes, up to the next quoted text

    def fold() -> None:
        pieces.append(_AROUND_PUNCTUATION.sub(r"\1", _SPACE.sub(" ", "".join(plain))))
        plain.clear()

    place = 0
    while found := _TOKENS.search(text, place):
        plain.append(text[place : found.start()])
        piece, place = found.group(), found.end()
        if piece in ("'", '"'):
            return text  # it is opened here and closed in another piece
        if piece == "/*":
            end = _comment_end(text, found.end())
            if end is None:
                return text
            piece, place = text[found.start() : end], end
        is_comment = piece.startswith(("--", "/*"))
        is_open = piece.startswith("--") and place == len(text)
        if is_comment and not is_open and _HOLE not in piece:
            plain.append(" ")
        else:
            # Quoted, or a comment that cannot go: an open one swallows what is put behind it, and a value that is put
            # into one may end it.
            fold()
            pieces.append(piece)
            if piece.startswith("--") and not is_open:
                pieces.append("\n")
    plain.append(text[place:])
    fold()
    return "".join(pieces)


def _is_sql(text: str) -> bool:
    """Whether an SQL keyword stands in it in capitals, or two of them as one writes prose."""
    words = {found.group() for found in _SQL_WORD.finditer(text)}
    return any(word.isupper() for word in words) or len({word.upper() for word in words}) > 1


def _comment_end(text: str, place: int) -> int | None:
    """Where a block comment that is opened before `place` ends; comments nest."""
    depth = 1
    for mark in re.finditer(r"/\*|\*/", text[place:]):
        depth += 1 if mark.group() == "/*" else -1
        if depth == 0:
            return place + mark.end()
    return None


def canonical(nodes: ast.AST | Sequence[ast.AST], *, in_class: bool = False) -> str:
    """The meaning of some syntax nodes as text.

    Args:
        nodes: statements or expressions; they stay as they are.
        in_class: they are the body of a class.
    """
    if isinstance(nodes, ast.AST):
        return _node(nodes, in_class=in_class)
    kept = [_node(node, in_class=in_class) for node in nodes if not _says_nothing(node, in_class=in_class)]
    return f"[{', '.join(kept)}]"


def _says_nothing(node: ast.AST, *, in_class: bool) -> bool:
    """A docstring or another bare text, `pass`, an annotation without a value that declares no field."""
    if isinstance(node, ast.Expr):
        return isinstance(node.value, ast.Constant) and isinstance(node.value.value, str)
    if isinstance(node, ast.AnnAssign):
        return node.value is None and not in_class
    return isinstance(node, ast.Pass)


def _node(node: ast.AST, *, in_class: bool) -> str:
    match node:
        case ast.Constant(value=str() as text):
            return f"Text({canonical_sql(text)!r})"
        case ast.Constant(value=value):
            return f"{type(value).__name__}({value!r})"
        case ast.JoinedStr(values=values):
            return _joined(values)
        case ast.AnnAssign(target=target, value=ast.expr() as value) if not in_class:
            return f"Assign(targets=[{_node(target, in_class=False)}], value={_node(value, in_class=False)})"
        case _:
            return f"{type(node).__name__}({', '.join(_fields(node, in_class=in_class))})"


def _fields(node: ast.AST, *, in_class: bool) -> list[str]:
    is_function = isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda)
    # A conditional in a class body still declares fields.
    inside = isinstance(node, ast.ClassDef) or (
        in_class and not is_function and isinstance(node, ast.stmt | ast.ExceptHandler | ast.match_case)
    )
    texts: list[str] = []
    for name, value in ast.iter_fields(node):
        says_nothing = (
            value is None
            or value == []  # a later Python adds fields; empty they must not count
            or name in ("type_comment", "kind", "ctx")
            or (name == "returns" and is_function)
            or (name == "annotation" and isinstance(node, ast.arg))
        )
        if not says_nothing:
            texts.append(f"{name}={_field(value, in_class=inside)}")
    return texts


def _field(value: object, *, in_class: bool) -> str:
    if isinstance(value, ast.AST):
        return _node(value, in_class=in_class)
    if not isinstance(value, list):
        return repr(value)
    if any(isinstance(each, ast.stmt) for each in value):
        return canonical(value, in_class=in_class)
    return f"[{', '.join(_field(each, in_class=in_class) for each in value)}]"


def _joined(values: Sequence[ast.expr]) -> str:
    """An f-string: its texts as one, so that SQL is seen whole, and the values that are put into it, in order."""
    texts: list[str] = []
    inserted: list[str] = []
    for value in values:
        if isinstance(value, ast.Constant) and isinstance(value.value, str):
            texts.append(value.value)
        else:
            texts.append(_HOLE)
            inserted.append(_node(value, in_class=False))
    return f"Text({canonical_sql(''.join(texts))!r}, {', '.join(inserted)})"
