"""One module as its syntax tree shows it: the names that it binds, what it imports, what else importing it does."""

from __future__ import annotations

import ast
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from functools import cached_property

ALL = "*"
Definition = ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef


@dataclass
class Module:
    """One parsed module.

    Attributes:
        name: its dotted name.
        is_package: whether it is a package's ``__init__``.
        tree: its syntax.
        bindings: name → the statements that bind it, in order, without imports.
        imports: name → what it was imported as: ``module`` or ``module:name``, inside or outside the packages.
        stars: modules of which all names are imported.
        imported: every module that is imported when this one is, as written.
        effects: statements that do something else, or more, than binding names.
    """

    name: str
    is_package: bool
    tree: ast.Module
    bindings: dict[str, list[ast.stmt]] = field(default_factory=dict[str, list[ast.stmt]])
    imports: dict[str, str] = field(default_factory=dict[str, str])
    stars: list[str] = field(default_factory=list[str])
    imported: list[str] = field(default_factory=list[str])
    effects: list[ast.stmt] = field(default_factory=list[ast.stmt])

    def __post_init__(self) -> None:
        for statement in self.tree.body:
            self._take(statement)
        for name, statements in self.bindings.items():
            if name.startswith("_") and name not in self._loaded:
                # `_ = enter(it)`: nobody reads the name, so the call is what it is there for.
                self.effects += [s for s in statements if _calls(s) and s not in self.effects]

    @cached_property
    def _loaded(self) -> frozenset[str]:
        return frozenset(
            node.id
            for node in ast.walk(self.tree)
            if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Load)
        )

    def _take(self, statement: ast.stmt) -> None:
        match statement:
            case ast.Import() | ast.ImportFrom():
                self._import(statement)
            case ast.FunctionDef() | ast.AsyncFunctionDef() | ast.ClassDef():
                self._bind(statement.name, statement)
            case ast.Assign() | ast.AnnAssign() | ast.AugAssign():
                for name in bound_by(statement):
                    self._bind(name, statement)
                if _changes_an_object(statement):
                    self.effects.append(statement)
            case ast.If(test=ast.Name(id="TYPE_CHECKING") | ast.Attribute(attr="TYPE_CHECKING")):
                for inner in [*statement.body, *statement.orelse]:
                    self._take(inner)
            case ast.If(test=ast.Compare(left=ast.Name(id="__name__"))) | ast.Pass():
                pass
            case ast.Expr(value=ast.Constant()):
                pass
            case _:
                # A compound statement: it binds, and what it does besides nobody can tell.
                for inner in ast.walk(statement):
                    if isinstance(inner, ast.Import | ast.ImportFrom):
                        self._import(inner)
                    elif isinstance(inner, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
                        self._bind(inner.name, statement)
                    else:
                        for name in bound_by(inner):
                            self._bind(name, statement)
                self.effects.append(statement)

    def _bind(self, name: str, statement: ast.stmt) -> None:
        statements = self.bindings.setdefault(name, [])
        if statement not in statements:
            statements.append(statement)

    def _import(self, statement: ast.Import | ast.ImportFrom) -> None:
        found, modules = self.imports_of(statement)
        self.imports |= {name: target for name, target in found.items() if name != ALL}
        self.imported += modules
        if ALL in found:
            self.stars.append(found[ALL])

    def imports_of(self, statement: ast.Import | ast.ImportFrom) -> tuple[dict[str, str], list[str]]:
        """(name → target) of an import, and the modules that it imports."""
        if isinstance(statement, ast.Import):
            named = {a.asname or a.name.partition(".")[0]: a.asname and a.name for a in statement.names}
            modules = [alias.name for alias in statement.names]
            return {name: target or name for name, target in named.items()}, modules
        source = self._absolute(statement)
        found = {
            a.asname or a.name: source if a.name == ALL else f"{source}:{a.name}" for a in statement.names
        }
        return found, [source, *(f"{source}.{a.name}" for a in statement.names if a.name != ALL)]

    def _absolute(self, statement: ast.ImportFrom) -> str:
        if not statement.level:
            return statement.module or ""
        package = self.name if self.is_package else self.name.rpartition(".")[0]
        parts = package.split(".")
        kept = parts[: len(parts) - statement.level + 1]
        return ".".join([*kept, *([statement.module] if statement.module else [])])


def names_in(node: ast.AST) -> Iterator[tuple[str, list[str]]]:
    """Every name in the syntax with the attributes read of it: ``a.b.c`` is (a, [b, c]); ``f().b`` has no name.

    Annotations of functions are left out: they do nothing, and `contrail.canonical_code` leaves them out, too.
    """
    queue: list[ast.AST] = [node]
    while queue:
        at = queue.pop()
        attributes: list[str] = []
        inner = at
        while isinstance(inner, ast.Attribute):
            attributes.insert(0, inner.attr)
            inner = inner.value
        if isinstance(inner, ast.Name):
            yield inner.id, attributes
            continue
        if attributes:
            yield "", attributes  # of a value that has no name
        queue.extend(_children(inner if attributes else at))


def _children(node: ast.AST) -> Iterator[ast.AST]:
    match node:
        case ast.arg(annotation=ast.expr() as left_out):
            pass
        case (
            ast.FunctionDef(returns=ast.expr() as left_out)
            | ast.AsyncFunctionDef(returns=ast.expr() as left_out)
        ):
            pass
        case _:
            left_out = None
    return (child for child in ast.iter_child_nodes(node) if child is not left_out)


def bound_by(statement: ast.AST) -> Iterator[str]:
    """The names that a statement assigns."""
    match statement:
        case ast.Assign(targets=targets):
            stored: Sequence[ast.AST] = targets
        case ast.AnnAssign(target=target) | ast.AugAssign(target=target) | ast.For(target=target):
            stored = [target]
        case ast.NamedExpr(target=target):
            stored = [target]
        case ast.withitem(optional_vars=ast.expr() as target):
            stored = [target]
        case ast.ExceptHandler(name=str() as name):
            yield name
            return
        case _:
            return
    for target in stored:
        for node in ast.walk(target):
            if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store):
                yield node.id


def _changes_an_object(statement: ast.Assign | ast.AnnAssign | ast.AugAssign) -> bool:
    """Whether it stores into a part of something: ``LIST[0] = …``, ``module.name = …``."""
    targets = statement.targets if isinstance(statement, ast.Assign) else [statement.target]
    return any(
        isinstance(node, ast.Attribute | ast.Subscript) for target in targets for node in ast.walk(target)
    )


def _calls(statement: ast.stmt) -> bool:
    return not isinstance(statement, Definition) and any(isinstance(n, ast.Call) for n in ast.walk(statement))
