"""The rules of the house that can be read off the files: who imports whom, what is said where, what is never said.

Rules over the loaded graph (descriptions, owners, names, columns) are in `test_house_rules_graph.py`.
"""

from __future__ import annotations

import ast
import re
import subprocess
import sys
import tomllib
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml

from contrail.settings import Settings

ROOT = Path(__file__).resolve().parent.parent
# Left to right: each imports only what stands to its right. `definitions` is the single file between cli and jobs.
LADDER = (
    "cli",
    "definitions",
    "jobs",
    "assets",
    "resources",
    "feature_repo",
    "sources",
    "features",
    "contrail",
)
PACKAGES = tuple(name for name in LADDER if name != "definitions")
MAX_LINES = 400
LONG_BECAUSE = "# Long because"


def python_files(*packages: str) -> list[Path]:
    """The Python files of these packages (all of them by default), and definitions.py with all of them."""
    files = [path for package in packages or PACKAGES for path in sorted((ROOT / package).rglob("*.py"))]
    return files if packages else [*files, ROOT / "definitions.py"]


def tracked_files() -> list[Path]:
    """Everything git keeps or would keep, which is what a clone sees."""
    listed = subprocess.run(
        ["git", "ls-files", "--cached", "--others", "--exclude-standard", "-z"],
        cwd=ROOT,
        check=True,
        capture_output=True,
        text=True,
    ).stdout
    return [path for name in sorted(set(listed.split("\0"))) if name and (path := ROOT / name).is_file()]


def imported_modules(tree: ast.AST) -> Iterator[tuple[int, str]]:
    """Line and dotted name of every absolute import, inside functions too."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from ((node.lineno, alias.name) for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module and node.level == 0:
            yield node.lineno, node.module


def where(path: Path, line: int, what: str) -> str:
    return f"{path.relative_to(ROOT)}:{line}: {what}"


def report(found: list[str]) -> None:
    assert not found, "\n" + "\n".join(found)


# --- who imports whom ---------------------------------------------------------------------------------------


def test_every_package_of_the_ladder_is_here():
    missing = [name for name in PACKAGES if not (ROOT / name / "__init__.py").is_file()]
    assert not missing, f"without __init__.py, import-linter does not see them: {missing}"
    config = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["importlinter"]
    ladder = next(contract for contract in config["contracts"] if contract["type"] == "layers")
    assert tuple(ladder["layers"]) == PACKAGES


def test_the_ladder_holds():
    program = Path(sys.executable).with_name("lint-imports")
    done = subprocess.run([program, "--no-cache"], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr


def test_definitions_stands_between_cli_and_jobs():
    found: list[str] = []
    path = ROOT / "definitions.py"
    for line, module in imported_modules(ast.parse(path.read_text())):
        if module.split(".")[0] == "cli":
            found.append(where(path, line, "definitions.py imports cli, which stands to its left"))
    for path in python_files(*(name for name in PACKAGES if name != "cli")):
        for line, module in imported_modules(ast.parse(path.read_text())):
            if module.split(".")[0] == "definitions":
                found.append(where(path, line, "imports definitions, which stands to its left"))
    report(found)


@pytest.mark.parametrize("package", ["feature_repo", "sources", "features", "contrail"])
def test_right_of_resources_nobody_imports_dagster(package):
    report(
        [
            where(path, line, f"imports {module}")
            for path in python_files(package)
            for line, module in imported_modules(ast.parse(path.read_text()))
            if module.split(".")[0].startswith("dagster")
        ]
    )


def test_features_import_the_standard_library_and_little_else():
    allowed = sys.stdlib_module_names | {"duckdb", "numpy", "pyarrow", "holidays", "features", "contrail"}
    report(
        [
            where(path, line, f"features must stay pure, but imports {module}")
            for path in python_files("features")
            for line, module in imported_modules(ast.parse(path.read_text()))
            if module.split(".")[0] not in allowed
        ]
    )


def test_there_is_one_module_called_definitions():
    # `feast apply` would import the wrong one and delete every object from the registry without an error.
    named = [
        path for path in tracked_files() if path.name == "definitions.py" or "definitions" in path.parts[:-1]
    ]
    assert named == [ROOT / "definitions.py"]


# --- what is never said -------------------------------------------------------------------------------------

DOMAIN_WORDS = {
    "flight",
    "carrier",
    "airport",
    "aircraft",
    "airline",
    "departure",
    "weather",
    "tail",
    "origin",
    "dest",
}
DOMAIN_WORDS |= {"plane", "nycflights", "nyc"}


def words_of(text: str) -> set[str]:
    """The words of a text, identifiers taken apart at underscores and capitals, plurals made singular."""
    words = {word.lower() for word in re.findall(r"[A-Z]?[a-z]+|[A-Z]+(?![a-z])", text)}
    return words | {word.removesuffix("s") for word in words}


@pytest.mark.parametrize(
    ("text", "caught"),
    [
        ("raw_flights", {"flight"}),
        ("class CarrierState:", {"carrier"}),
        ("# the WEATHER of the day", {"weather"}),
        ("the original detail of a curtailed planet", set()),
    ],
)
def test_domain_words_are_recognised(text, caught):
    assert words_of(text) & DOMAIN_WORDS == caught


def test_contrail_knows_no_domain_word():
    found: list[str] = []
    for path in sorted((ROOT / "contrail").rglob("*")):
        if path.is_file() and "__pycache__" not in path.parts:
            for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), 1):
                found += [where(path, number, word) for word in sorted(words_of(line) & DOMAIN_WORDS)]
    report(found)


def naive_time_calls(tree: ast.AST) -> Iterator[tuple[int, str]]:
    """Calls that read the wall clock, or that make an instant without a zone."""
    for node in ast.walk(tree):
        if not isinstance(node, ast.Call):
            continue
        name = ast.unparse(node.func)
        owner, _, method = name.rpartition(".")
        keywords = {keyword.arg for keyword in node.keywords}
        of_datetime = owner.split(".")[-1] in {"datetime", "date", "Timestamp"}
        is_now = of_datetime and method in {"now", "utcnow", "today", "utcfromtimestamp"}
        if is_now or name in {"time.time", "time.time_ns"}:
            yield node.lineno, f"{name}() reads the wall clock: ask contrail.clock"
        elif of_datetime and method == "fromtimestamp" and "tz" not in keywords and len(node.args) < 2:
            yield node.lineno, f"{name}() without tz= is naive"
        elif (
            name in {"datetime", "datetime.datetime", "dt.datetime"}
            and "tzinfo" not in keywords
            and len(node.args) < 8
        ):
            yield node.lineno, f"{name}(…) without tzinfo= is naive"


@pytest.mark.parametrize(
    ("source", "caught"),
    [
        ("datetime.now(UTC)", 1),
        ("dt.datetime.utcnow()", 1),
        ("date.today()", 1),
        ("time.time()", 1),
        ("datetime(2013, 3, 8)", 1),
        ("datetime.fromtimestamp(0)", 1),
        (
            "datetime(2013, 3, 8, tzinfo=UTC); clock.now(); time.perf_counter(); datetime.fromtimestamp(0, tz=UTC)",
            0,
        ),
    ],
)
def test_naive_time_is_recognised(source, caught):
    assert len(list(naive_time_calls(ast.parse(source)))) == caught


def test_time_comes_from_the_clock_and_has_a_zone():
    found: list[str] = []
    for path in python_files():
        if path != ROOT / "contrail" / "clock.py":
            found += [where(path, line, what) for line, what in naive_time_calls(ast.parse(path.read_text()))]
    wall_clock = re.compile(
        r"\b(now|today|getdate|current_localtimestamp)\s*\(|\bcurrent_(timestamp|date|time)\b", re.I
    )
    for path in sorted((ROOT / "dbt_project").rglob("*.sql")):
        if "target" not in path.relative_to(ROOT).parts:
            for number, line in enumerate(path.read_text().splitlines(), 1):
                if wall_clock.search(line.partition("--")[0]):
                    found.append(
                        where(path, number, "reads the wall clock: pass the instant as a dbt variable")
                    )
    report(found)


def test_settings_alone_read_the_environment():
    found: list[str] = []
    for path in python_files():
        if path == ROOT / "contrail" / "settings.py":
            continue
        for node in ast.walk(ast.parse(path.read_text())):
            reads = isinstance(node, ast.Attribute) and node.attr in {
                "environ",
                "environb",
                "getenv",
                "putenv",
            }
            imports = isinstance(node, ast.ImportFrom) and node.module == "os"
            if reads or (imports and {alias.name for alias in node.names} & {"environ", "getenv"}):
                found.append(where(path, node.lineno, "reads the environment: take a Settings object"))
    report(found)


def test_no_file_is_long_without_saying_why():
    found: list[str] = []
    for path in tracked_files():
        if path.suffix in {".py", ".sql"}:
            lines = path.read_text(encoding="utf-8").splitlines()
            if len(lines) > MAX_LINES and not any(line.startswith(LONG_BECAUSE) for line in lines[:40]):
                found.append(
                    where(path, len(lines), f"more than {MAX_LINES} lines and no '{LONG_BECAUSE} …'")
                )
    report(found)


def test_no_file_names_a_machine_or_a_package_host():
    # Written apart, so that this file does not name them either.
    folders = "|".join(("wor" + "k/", "roo" + "t/", "home/" + "[a-z]", "opt/" + "(pypi|wheels)"))
    hosts = "|".join(
        ("pypi", "pythonhosted", "npm" + "js", "deb" + r"\.debian", "crates", "proxy" + r"\.golang")
    )
    named = re.compile(
        rf"(?<![\w.$}}/-])/({folders})|\b({hosts})\.(org|io|com)\b|--(extra-)?index-url\s+\S+:"
    )
    found: list[str] = []
    for path in tracked_files():
        try:
            text = path.read_text(encoding="utf-8")
        except UnicodeDecodeError:
            continue  # a picture
        found += [
            where(path, number, match[0])
            for number, line in enumerate(text.splitlines(), 1)
            if (match := named.search(line))
        ]
    report(found)


def test_nothing_is_left_to_be_done_later():
    marks = re.compile(r"\b(TO" + "DO|FIX" + "ME|HA" + "CK)\\b|<!-- integra" + "tor")
    report(
        [
            where(path, number, line.strip())
            for path in tracked_files()
            if path.suffix in {".py", ".sql", ".md", ".yaml", ".yml", ".toml", ".sh"}
            or path.name == "Makefile"
            for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), 1)
            if marks.search(line)
        ]
    )


def test_the_lock_holds_hashes_and_no_address():
    text = (ROOT / "requirements.lock").read_text()
    assert "://" not in text
    pins = re.findall(
        r"^([a-z0-9._-]+)(?:\[[^]]*\])?==(\S+)(.*(?:\n    --hash=sha256:[0-9a-f]{64}(?: \\)?)+)", text, re.M
    )
    named = [line for line in text.splitlines() if line and line[0] not in " #"]
    assert len(pins) == len(named) > 100


# --- set-up -------------------------------------------------------------------------------------------------


def test_workspace_yaml_is_what_dagster_dev_loads():
    tool = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]
    assert not {"dagster", "dg"} & tool.keys(), "either table silently wins over workspace.yaml"
    (location,) = yaml.safe_load((ROOT / "workspace.yaml").read_text())["load_from"]
    assert location["python_file"]["relative_path"] == "definitions.py"
    assert location["python_file"]["working_directory"] == "."


def test_every_upper_bound_and_pin_has_its_reason():
    lines = (ROOT / "pyproject.toml").read_text().splitlines()
    start = lines.index("dependencies = [")
    found: list[str] = []
    reason_above = False
    for number, line in enumerate(lines[start + 1 :], start + 2):
        entry = line.strip()
        if entry == "]":
            break
        if entry.startswith("#"):
            reason_above = True
        elif re.search(r"==|<", entry.partition("#")[0]):
            if not reason_above and "#" not in entry:
                found.append(where(ROOT / "pyproject.toml", number, f"{entry} has no reason"))
        else:
            reason_above = False
    report(found)


def test_env_example_shows_every_setting_and_its_default():
    text = (ROOT / ".env.example").read_text()
    shown = dict(re.findall(r"^#?(CONTRAIL_[A-Z_]+)=(.*)$", text, re.M))
    fields = {f"CONTRAIL_{name.upper()}": field for name, field in Settings.model_fields.items()}
    assert shown.keys() == fields.keys()
    for name, value in shown.items():
        default = fields[name].default
        if isinstance(default, str | int):
            assert value == str(default), name


def test_test_files_have_unique_names_and_no_packages():
    files = sorted((ROOT / "tests").rglob("*.py"))
    assert not [path for path in files if path.name == "__init__.py"], (
        "a test package would shadow the real one"
    )
    names = Counter(path.name for path in files if path.name != "conftest.py")
    assert not [name for name, count in names.items() if count > 1]
