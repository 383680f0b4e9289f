"""What the modules of some packages bind at their top level, and what each binding refers to; nothing is imported.

A *symbol* is ``module:name``, the statements that bind a name at the top level of a module; ``module:*`` is all of a
module, ``module:`` what it does when it is imported beside binding names. References are followed by name alone, local
variables included: a name that is taken for more than it is adds code, and leaves none out.
"""

from __future__ import annotations

import ast
import importlib.util
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from importlib.machinery import SourceFileLoader
from pathlib import Path

from contrail.canonical_code import canonical
from contrail.code_modules import ALL, Definition, Module, names_in

# Decorators of the standard library that only change the function: they enter it in no list that others read.
_HARMLESS_DECORATORS = (
    "functools.",
    "dataclasses.",
    "contextlib.",
    "typing.",
    "abc.",
    "enum.",
    "collections.",
)
_HARMLESS_BUILTINS = frozenset({"staticmethod", "classmethod", "property"})
# Names of what finds other names while it runs: then all that it could find counts.
_FINDS_IN_OWN_MODULE = frozenset({"globals", "eval", "exec"})
_FINDS_ANYWHERE = frozenset({"__import__", "import_module", "__subclasses__", "sys.modules"})


class FeatureCodeError(RuntimeError):
    """What a piece of code means cannot be told; the message says of which."""


@dataclass(frozen=True)
class Meaning:
    """What one symbol, or one function inside one, is made of.

    Attributes:
        text: its canonical syntax, and what each global name in it stands for.
        symbols: the symbols it refers to.
    """

    text: str
    symbols: tuple[str, ...]


class Code:
    """The modules of some packages, read as they lie on disk when they are first needed."""

    def __init__(self, packages: Sequence[str]) -> None:
        """Find the packages.

        Args:
            packages: names of top-level packages or modules.

        Raises:
            FeatureCodeError: one of them cannot be found.
        """
        self._places = {name: _place(name) for name in packages}
        self._modules: dict[str, Module | None] = {}
        self._meanings: dict[str, Meaning] = {}

    def module(self, name: str) -> Module | None:
        """A module of the packages; None where it is none of theirs, or does not exist."""
        if name not in self._modules:
            self._modules[name] = self._read(name)
        return self._modules[name]

    def holds(self, name: str) -> bool:
        """Whether a module belongs to the packages."""
        return name.partition(".")[0] in self._places

    def meaning(self, symbol: str) -> Meaning:
        """What a symbol is made of.

        Raises:
            FeatureCodeError: there is no such symbol.
        """
        if symbol not in self._meanings:
            self._meanings[symbol] = self._meaning(symbol)
        return self._meanings[symbol]

    def meaning_of(self, module: Module, nodes: Sequence[ast.AST], *, apart: frozenset[str]) -> Meaning:
        """What some syntax of a module is made of.

        Args:
            apart: names in it whose values the caller knows.
        """
        local = dict(module.imports)
        for node in nodes:
            for inner in ast.walk(node):
                if isinstance(inner, ast.Import | ast.ImportFrom):
                    local |= module.imports_of(inner)[0]
        symbols: dict[str, None] = {}
        stands_for: dict[str, str] = {}
        for node in nodes:
            for name, attributes in names_in(node):
                if name in apart:
                    continue
                words = {name, *attributes, ".".join([name, *attributes[:1]])}
                for found in self._resolve(module, local, name, attributes):
                    stands_for[name] = found
                    symbols |= dict.fromkeys(self._within(found))
                    words |= {found.rpartition(":")[2], found.replace(":", ".")}
                symbols |= dict.fromkeys(self._found_at_run_time(module, words))
        text = f"{canonical(nodes)}\n{sorted(stands_for.items())}"
        return Meaning(text, tuple(symbols))

    def modules(self) -> Iterator[str]:
        """Every module of the packages, by name."""
        for package, place in self._places.items():
            if place.is_file():
                yield package
                continue
            for path in sorted(place.rglob("*.py")):
                parts = [package, *path.relative_to(place).with_suffix("").parts]
                yield ".".join(parts[:-1] if parts[-1] == "__init__" else parts)

    # -- inside ------------------------------------------------------------------------------------------------

    def _read(self, name: str) -> Module | None:
        top, *rest = name.split(".")
        place = self._places.get(top)
        if place is None:
            return None
        path = place.joinpath(*rest) if place.is_dir() else place
        if path.is_dir():
            path, is_package = path / "__init__.py", True
        else:
            path, is_package = (path if place.is_file() and not rest else path.with_suffix(".py")), False
        if not path.is_file():
            return None
        try:
            return Module(name, is_package, ast.parse(path.read_bytes()))
        except SyntaxError as error:
            raise FeatureCodeError(f"{path.name} (module {name}) is no Python: {error}") from error

    def _meaning(self, symbol: str) -> Meaning:
        module_name, _, name = symbol.partition(":")
        module = self.module(module_name)
        if module is None:
            raise FeatureCodeError(f"there is no module {module_name} in {', '.join(self._places)}")
        if name == "":
            return self._import_time(module)
        if name == ALL:
            symbols = [f"{module_name}:{bound}" for bound in module.bindings]
            symbols += [f"{inner}:{ALL}" for inner in self.modules() if inner.startswith(f"{module_name}.")]
            return Meaning(f"module {module_name}", (*symbols, f"{module_name}:"))
        if name in module.bindings:
            found = self.meaning_of(module, module.bindings[name], apart=frozenset())
            return Meaning(found.text, (*found.symbols, f"{module_name}:"))
        targets = list(self._resolve(module, module.imports, name, []))
        if targets:
            return Meaning(f"{name} is {targets}", tuple(s for t in targets for s in self._within(t)))
        if "__getattr__" in module.bindings:
            return Meaning(f"{name} of __getattr__", (f"{module_name}:{ALL}",))
        raise FeatureCodeError(f"module {module_name} has no {name}: what uses it cannot be told")

    def _import_time(self, module: Module) -> Meaning:
        """What importing the module does: its own effects, those of its package and of all that it imports."""
        own = self.meaning_of(module, self._effects(module), apart=frozenset())
        parent = module.name.rpartition(".")[0]
        others = [name for name in [*([parent] if parent else []), *module.imported] if self.module(name)]
        return Meaning(own.text, (*own.symbols, *(f"{name}:" for name in others if name != module.name)))

    def _effects(self, module: Module) -> list[ast.stmt]:
        definitions = [
            statement
            for statements in module.bindings.values()
            for statement in statements
            if isinstance(statement, Definition) and self._may_enter_itself(module, statement)
        ]
        return [*module.effects, *definitions]

    def _may_enter_itself(self, module: Module, definition: Definition) -> bool:
        """Whether a definition may enter itself in a list: by a decorator, or a base class that is told of it."""
        for decorator in definition.decorator_list:
            called = decorator.func if isinstance(decorator, ast.Call) else decorator
            for name, attributes in names_in(called):
                found = next(iter(self._resolve(module, module.imports, name, attributes)), name)
                dotted = ".".join([found.replace(":", "."), *attributes])
                if not dotted.startswith(_HARMLESS_DECORATORS) and name not in _HARMLESS_BUILTINS:
                    return True
        return isinstance(definition, ast.ClassDef) and self._is_told_of_classes(module, definition, 0)

    def _is_told_of_classes(self, module: Module, definition: ast.ClassDef, depth: int) -> bool:
        if any(keyword.arg == "metaclass" for keyword in definition.keywords):
            return True
        hooks = ("__init_subclass__", "__set_name__")
        if depth and any(isinstance(s, ast.FunctionDef) and s.name in hooks for s in definition.body):
            return True
        for base in definition.bases:
            for name, attributes in names_in(base):
                for found in self._resolve(module, module.imports, name, attributes):
                    inner = self.module(found.partition(":")[0])
                    named = inner.bindings.get(found.partition(":")[2], []) if inner else []
                    classes = [s for s in named if isinstance(s, ast.ClassDef)]
                    if inner and any(self._is_told_of_classes(inner, s, depth + 1) for s in classes):
                        return True
        return False

    def _resolve(
        self, module: Module, imports: dict[str, str], name: str, attributes: Sequence[str]
    ) -> Iterator[str]:
        """What a name stands for in a module: symbols, whole modules, or names outside the packages."""
        if name in module.bindings:
            yield f"{module.name}:{name}"
        if name in imports:
            yield self._target(imports[name], attributes)
        if name not in module.bindings and name not in imports:
            for star in module.stars:
                source = self.module(star)
                if source and (name in source.bindings or name in source.imports or source.stars):
                    yield from self._resolve(source, source.imports, name, attributes)

    def _target(self, target: str, attributes: Sequence[str]) -> str:
        source, _, name = target.partition(":")
        if not self.holds(source):
            return target
        dotted = [*source.split("."), *([name] if name else []), *attributes]
        # The longest beginning that is a module; what follows is a name in it.
        for length in range(len(dotted), 0, -1):
            candidate = ".".join(dotted[:length])
            if self.module(candidate):
                rest = dotted[length:]
                return f"{candidate}:{rest[0]}" if rest else f"{candidate}:{ALL}"
        raise FeatureCodeError(f"there is no module {source}, which is imported")

    def _within(self, found: str) -> Sequence[str]:
        module = found.partition(":")[0]
        return (found,) if self.holds(module) and ":" in found else ()

    def _found_at_run_time(self, module: Module, words: set[str]) -> Iterator[str]:
        if words & (_FINDS_IN_OWN_MODULE | _FINDS_ANYWHERE):
            yield f"{module.name}:{ALL}"
        if words & _FINDS_ANYWHERE:
            yield from (f"{other}:{ALL}" for other in self.modules())


def _place(package: str) -> Path:
    try:
        spec = importlib.util.find_spec(package)
    except (ImportError, ValueError) as error:
        raise FeatureCodeError(f"the package {package} cannot be found: {error}") from error
    if spec is None:
        raise FeatureCodeError(f"the package {package} cannot be found")
    if spec.submodule_search_locations:
        return Path(next(iter(spec.submodule_search_locations)))
    if not isinstance(spec.loader, SourceFileLoader):
        raise FeatureCodeError(f"the package {package} has no source")
    return Path(spec.loader.path)
