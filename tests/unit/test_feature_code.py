"""What features mean: layout changes nothing, meaning changes the hash of the piece it belongs to."""

from __future__ import annotations

import functools
import importlib
import sys
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType

import pytest

from contrail.feature_code import FeatureCodeError, differences, meaning

ROOT = Path(__file__).resolve().parents[2]
PIECES = {"jar": ["jars.table:build"], "lid": ["jars.lid:build"]}
MODULES = {
    "__init__": "",
    "helpers": '''
"""Helpers."""
from collections.abc import Sequence

LIMIT = 15
UNUSED = 1


class Shape:
    """A shape."""

    kind: str = "round"

    def area(self, width: int) -> int:
        """Its area."""
        return width * 2


def smooth(part: float, weight: int = 5) -> float:
    return part + weight
''',
    "table": '''
"""The jar table."""
from jars import helpers as own
from jars.helpers import smooth


def build(con: object, lo: int, hi: int = 3) -> object:
    """Rows of jars."""
    # a comment
    rows = f"""
        SELECT name, wall * {own.LIMIT} AS wall  -- thin ones
        FROM jars
        WHERE wall < 'a -- b' AND made > {lo}
    """
    return con, rows, smooth(own.Shape().area(hi))
''',
    "lid": '''
"""The lid table."""
SQL = "SELECT lid FROM lids WHERE width > 3"


def build(con):
    return SQL
''',
}


class Package:
    """The package `jars` in a folder of its own."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder / "jars"
        self.folder.mkdir()
        for name, text in MODULES.items():
            (self.folder / f"{name}.py").write_text(text)

    def change(self, module: str, old: str, new: str) -> None:
        path = self.folder / f"{module}.py"
        text = path.read_text()
        assert text.count(old) == 1, f"{old!r} must stand once in {module}"
        path.write_text(text.replace(old, new))

    def add(self, module: str, text: str) -> None:
        with (self.folder / f"{module}.py").open("a") as out:
            out.write(text)

    def means(self, pieces: dict[str, list[object]] | None = None, **options: object) -> dict[str, str]:
        return meaning(pieces or PIECES, ["jars"], **options)

    def load(self, module: str = "table") -> ModuleType:
        """The module, imported: for entry points that are objects."""
        importlib.invalidate_caches()
        for name in [name for name in sys.modules if name.partition(".")[0] == "jars"]:
            del sys.modules[name]
        return importlib.import_module(f"jars.{module}")


@pytest.fixture
def package(tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.setattr(sys, "dont_write_bytecode", True)  # a module changed within a second is read again
    yield Package(tmp_path)
    for name in [name for name in sys.modules if name.partition(".")[0] == "jars"]:
        del sys.modules[name]


# --- what changes nothing -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("module", "old", "new"),
    [
        ("table", "    # a comment\n", ""),
        ("table", "    # a comment\n", "    # another\n\n\n"),
        ("table", '    """Rows of jars."""\n', '    """Rows of all jars, made anew."""\n'),
        ("table", '    """Rows of jars."""\n', ""),
        ("table", '"""The jar table."""', '"""Jars."""\n# by hand\n'),
        ("table", "  -- thin ones", ""),
        ("table", "  -- thin ones", "  -- those whose walls 'are thin"),
        ("table", "        FROM jars\n", "  FROM /* all /* of */ them */ jars\n\n\n"),
        ("table", "SELECT name, wall *", "SELECT\n            name,wall   *"),
        ("table", "con: object, lo: int, hi: int = 3", "con, lo, hi: float = 3"),
        ("table", "return con, rows, smooth(own.Shape().area(hi))", "return (con, rows,\n  smooth(own.Shape().area(hi),),)"),
        ("table", "hi: int = 3) -> object:", "hi: int = 3):"),
        ("helpers", '    """A shape."""\n', ""),
        ("helpers", "part: float, weight: int = 5", "part: 'float', weight=5"),
        ("helpers", "part: float", "part: UNUSED"),
        ("helpers", "-> float:", "-> UNUSED:"),
        ("helpers", "UNUSED = 1", "UNUSED = 2"),
        ("helpers", "LIMIT = 15", "LIMIT: int = 15  # minutes"),
    ],
)  # fmt: skip
def test_layout_comments_and_what_is_not_used_change_nothing(package, module, old, new):
    before = package.means()
    package.change(module, old, new)
    assert package.means() == before


# --- what changes something ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("module", "old", "new", "piece"),
    [
        ("table", "wall * {own.LIMIT}", "wall + {own.LIMIT}", "jar"),
        ("table", "wall < 'a -- b'", "wall < 'a -- c'", "jar"),
        ("table", "wall < 'a -- b'", "wall < 'a  -- b'", "jar"),
        ("table", "AND made > {lo}", "AND made > {hi}", "jar"),
        ("table", "AND made > {lo}", "AND made >= {lo}", "jar"),
        ("table", "AS wall", "AS walls", "jar"),
        ("table", "hi: int = 3", "hi: int = 4", "jar"),
        ("table", "import smooth", "import Shape as smooth", "jar"),
        ("helpers", "LIMIT = 15", "LIMIT = 16", "jar"),
        ("helpers", "weight: int = 5", "weight: int = 6", "jar"),
        ("helpers", "return part + weight", "return part - weight", "jar"),
        ("helpers", "width * 2", "width * 3", "jar"),
        ("helpers", 'kind: str = "round"', 'kind: str = "square"', "jar"),
        ("helpers", "    kind: str", "    kind: bytes", "jar"),
        ("lid", "width > 3", "width > 4", "lid"),
        ("lid", "SELECT lid", "SELECT lids", "lid"),
        ("lid", "return SQL", "return SQL, 1.0", "lid"),
    ],
)
def test_a_change_of_meaning_names_the_piece(package, module, old, new, piece):
    before = package.means()
    package.change(module, old, new)
    (words,) = differences(before, package.means())
    assert words.startswith(f"{piece} is ")
    assert before[piece][:12] in words


@pytest.mark.parametrize(
    ("added", "to"),
    [
        (
            "\nhelpers = LISTED = {}\nLISTED['a'] = 1\n",
            "helpers",
        ),  # stores into an object when it is imported
        ("\nprint('imported')\n", "helpers"),
        ("\n@own.smooth\ndef entered():\n    return 1\n", "table"),  # a decorator that may enter it in a list
        ("\n_ = own.smooth(1)\n", "table"),
        ("\nfrom jars import plugin\n", "table"),
        ("\nif own.LIMIT > 3:\n    own.LIMIT = 4\n", "table"),
    ],
)
def test_what_an_import_does_besides_counts(package, added, to):
    (package.folder / "plugin.py").write_text("from jars import helpers\n\nhelpers.Shape.kind = 'flat'\n")
    before = package.means()
    package.add(to, added)
    assert [words.split()[0] for words in differences(before, package.means())] == ["jar"]


@pytest.mark.parametrize(
    "found_at_run_time",
    [
        "globals()['LIMITS']",
        "getattr(own, 'UN' + 'USED')",
        "__import__('jars.helpers').helpers.UNUSED",
        "importlib.import_module('jars.helpers').UNUSED",
        "sys.modules['jars.helpers'].UNUSED",
    ],
)
def test_where_names_are_found_at_run_time_all_of_them_count(package, found_at_run_time):
    package.change("table", "con, rows,", f"con, {found_at_run_time}, rows,")
    package.add("table", "\nimport importlib, sys\nLIMITS = (1, 2)\n")
    before = package.means()
    if "LIMITS" in found_at_run_time:
        package.change("table", "(1, 2)", "(1, 3)")
    else:
        package.change("helpers", "UNUSED = 1", "UNUSED = 2")
    assert [words.split()[0] for words in differences(before, package.means())] == ["jar"]


def test_every_way_to_import_is_followed(package):
    ways = (
        "import jars.helpers\nx = jars.helpers.LIMIT\n",
        "import jars.helpers as h\nx = h.LIMIT\n",
        "from . import helpers\nx = helpers.LIMIT\n",
        "from .helpers import LIMIT as L\nx = L\n",
        "from jars.helpers import *\nx = LIMIT\n",
        "from jars.again import LIMIT\nx = LIMIT\n",
        "def x():\n    from jars.helpers import LIMIT as L\n    return L\n",
        "try:\n    from jars.helpers import LIMIT as L\nexcept ImportError:\n    L = 0\nx = L\n",
    )
    (package.folder / "again.py").write_text("from jars.helpers import LIMIT\n")
    pieces: dict[str, list[object]] = {}
    for number, text in enumerate(ways):
        (package.folder / f"way{number}.py").write_text(text)
        pieces[f"way{number}"] = [f"jars.way{number}:x"]
    before = package.means(pieces)
    package.change("helpers", "LIMIT = 15", "LIMIT = 16")
    after = package.means(pieces)
    assert [piece for piece in pieces if before[piece] == after[piece]] == []


def test_a_package_named_alone_is_all_of_its_modules(package):
    before = package.means({"all": ["jars"], "helpers": ["jars.helpers"]})
    package.change("lid", "width > 3", "width > 4")
    assert [
        w.split()[0]
        for w in differences(before, package.means({"all": ["jars"], "helpers": ["jars.helpers"]}))
    ] == ["all"]
    package.change("helpers", "UNUSED = 1", "UNUSED = 2")
    assert package.means({"helpers": ["jars.helpers"]})["helpers"] != before["helpers"]


def test_a_subclass_that_is_told_to_its_base_counts(package):
    package.add(
        "helpers", "\nclass Base:\n    def __init_subclass__(cls):\n        KNOWN.append(cls)\n\nKNOWN = []\n"
    )
    package.add("table", "\nclass Mine(own.Base):\n    weight = 1\n")
    before = package.means()
    package.change("table", "weight = 1", "weight = 2")
    assert package.means()["jar"] != before["jar"]


def test_the_walk_stops_at_what_belongs_to_another_piece(package):
    apart = ["jars.helpers:smooth"]
    before = package.means(apart=apart)
    package.change("helpers", "weight: int = 5", "weight: int = 6")
    assert package.means(apart=apart) == before


def test_pieces_that_come_and_go_are_named():
    assert differences({"a": "1" * 64, "b": "2" * 64}, {"b": "3" * 64, "c": "4" * 64}) == (
        "a is gone",
        f"b is {'3' * 12}, recorded is {'2' * 12}",
        "c is new",
    )


def test_a_value_inside_a_comment_stays_for_it_may_end_the_comment(package):
    package.change("table", "-- thin ones", "-- thin ones {hi}")
    before = package.means()
    package.change("table", "-- thin ones {hi}", "-- thick ones {hi}")
    assert package.means()["jar"] != before["jar"]


# --- entry points that are objects --------------------------------------------------------------------------


OBJECTS = """
from dataclasses import dataclass
from functools import partial

from jars.helpers import LIMIT, smooth


@dataclass(frozen=True)
class Table:
    name: str
    sql: str
    weights: tuple[int, ...]

    def build(self, con):
        return self.sql, smooth(1)


def made(scope, weight):
    def inner(con, share=weight):
        return scope, LIMIT, share

    return inner


TABLES = {name: Table(name, f"SELECT {name} FROM t", (1, 2)) for name in ("a", "b")}
INNER = {name: made(name, 3) for name in ("a", "b")}
PARTIAL = partial(smooth, weight=4)
"""


def of_objects(package: Package) -> dict[str, str]:
    loaded = package.load("objects")
    pieces = {f"table {name}": [table.build] for name, table in loaded.TABLES.items()}
    pieces |= {f"inner {name}": [inner] for name, inner in loaded.INNER.items()}
    return package.means(pieces | {"partial": [loaded.PARTIAL]})


@pytest.mark.parametrize(
    ("module", "old", "new", "pieces"),
    [
        ("objects", "FROM t", "/* all */ FROM   t", []),
        ("objects", "FROM t", "FROM u", ["table a", "table b"]),
        ("objects", "(1, 2)", "(1, 3)", ["table a", "table b"]),
        ("objects", 'for name in ("a", "b")}\nINNER', 'for name in ("a", "bb")}\nINNER', ["table b", "table bb"]),
        ("objects", "made(name, 3)", "made(name, 4)", ["inner a", "inner b"]),
        ("objects", "return scope, LIMIT, share", "return scope, share", ["inner a", "inner b"]),
        ("objects", "weight=4", "weight=5", ["partial"]),
        ("helpers", "LIMIT = 15", "LIMIT = 16", ["inner a", "inner b"]),
        ("helpers", "part + weight", "part * weight", ["partial", "table a", "table b"]),
    ],
)  # fmt: skip
def test_values_of_objects_count_with_their_code(package, module, old, new, pieces):
    (package.folder / "objects.py").write_text(OBJECTS)
    before = of_objects(package)
    assert len(set(before.values())) == len(before)
    package.change(module, old, new)
    assert [
        " ".join(w.split()[: w.split().index("is")]) for w in differences(before, of_objects(package))
    ] == pieces


def test_plain_values_are_told_apart_and_cycles_end():
    @dataclass
    class Node:
        name: str
        next: object = None

    ring = Node("ring")
    ring.next = ring
    values = [
        1,
        1.0,
        True,
        "1",
        b"1",
        None,
        (),
        ((),),
        {"a": 1},
        {"a": 2},
        {1, 2},
        len,
        ring,
        functools.partial(len),
    ]
    found = [meaning({"x": [(value,)]}, [])["x"] for value in values]
    assert len(set(found)) == len(values)
    assert meaning({"x": [({3, 1, 2},)]}, []) == meaning({"x": [({2, 3, 1},)]}, [])


# --- refusals -----------------------------------------------------------------------------------------------


def test_what_cannot_be_told_is_refused(package):
    for point, words in (
        ("jars.table:nothing", "module jars.table has no nothing"),
        ("jars.nowhere:build", "no module jars.nowhere"),
        (object(), r"what a builtins\.object means cannot be told"),
    ):
        with pytest.raises(FeatureCodeError, match=words):
            package.means({"x": [point]})
    with pytest.raises(FeatureCodeError, match="package no_such_package cannot be found"):
        meaning({}, ["no_such_package"])
    package.change("table", "from jars.helpers import smooth", "from jars.helpers import missing as smooth")
    with pytest.raises(FeatureCodeError, match="module jars.helpers has no missing"):
        package.means()
    package.add("lid", "\n)\n")
    with pytest.raises(FeatureCodeError, match="lid is no Python|lid.py .* is no Python"):
        package.means({"lid": ["jars.lid:build"]})


def test_a_module_of_its_own_is_a_package_too(package):
    alone = package.folder.parent / "jars_alone.py"
    alone.write_text("LIMIT = 1\n\n\ndef build():\n    return LIMIT\n")
    pieces: dict[str, list[object]] = {"x": ["jars_alone:build"]}
    before = meaning(pieces, ["jars_alone"])
    alone.write_text("LIMIT = 2\n\n\ndef build():\n    return LIMIT\n")
    assert meaning(pieces, ["jars_alone"]) != before
