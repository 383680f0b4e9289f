"""`contrail doctor`: is this installation fit to run, and if not, what to do."""

from __future__ import annotations

import platform
import shutil
import sqlite3
import sys
import uuid
from collections.abc import Callable
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path

from cli.output import print_json, say
from contrail.settings import Settings

LEAST_FREE_BYTES = 5 * 1024**3
MLFLOW_PORTS = {"http": 80, "https": 443, "postgresql": 5432, "mysql": 3306, "mssql": 1433}


@dataclass(frozen=True)
class Finding:
    """One check: what was looked at, whether it is well, what was found, what to do if not."""

    check: str
    ok: bool
    found: str
    remedy: str = ""


def main(*, as_json: bool) -> int:
    """Run every check; returns 1 where one is not well."""
    findings = examine(Settings())
    if as_json:
        print_json(findings)
    else:
        for finding in findings:
            say(f"{'✓' if finding.ok else '✗'} {finding.check:<22} {finding.found}")
            if not finding.ok:
                say(f"  → {finding.remedy}")
    return 0 if all(finding.ok for finding in findings) else 1


def examine(settings: Settings) -> list[Finding]:
    """All checks, each caught by itself: one that cannot even run is a finding too."""
    checks: list[Callable[[Settings], Finding]] = [
        _python, _duckdb, _openmp, _home, _free_space, _put_if_absent, _tool_files, _manifest, _contracts, _landed,
        _stores, _online_store, _mlflow,
    ]  # fmt: skip
    found: list[Finding] = []
    for check in checks:
        try:
            found.append(check(settings))
        except Exception as error:  # the doctor reports whatever goes wrong, with its type and words
            name = check.__name__.strip("_").replace("_", " ")
            found.append(Finding(name, False, f"{type(error).__name__}: {error}", "see the message"))
    return found


def _python(settings: Settings) -> Finding:
    del settings
    ok = sys.version_info[:2] == (3, 11)
    return Finding("python", ok, platform.python_version(), "install python3.11 and run: make clean setup")


def _duckdb(settings: Settings) -> Finding:
    from contrail import duck

    with duck.connect(threads=settings.threads, memory_limit=settings.memory_limit) as con:
        version = con.execute("SELECT version()").fetchone()
    return Finding(
        "duckdb + delta reader", True, f"{version[0] if version else '?'}, {duck.delta_extension_path().name}"
    )


def _openmp(settings: Settings) -> Finding:
    del settings
    import ctypes

    try:
        ctypes.CDLL("libgomp.so.1")
    except OSError as error:
        return Finding("libgomp1", False, str(error), "apt-get install libgomp1 (LightGBM needs it)")
    return Finding("libgomp1", True, "found")


def _home(settings: Settings) -> Finding:
    settings.home.mkdir(parents=True, exist_ok=True)
    probe = settings.home / f".probe-{uuid.uuid4().hex}"
    probe.write_bytes(b"x")
    probe.unlink()
    return Finding("home", True, f"{settings.home} is writable")


def _free_space(settings: Settings) -> Finding:
    free = shutil.disk_usage(settings.home).free
    remedy = f"free some: at least {LEAST_FREE_BYTES // 1024**3} GiB for lake and spill"
    return Finding("free space", free >= LEAST_FREE_BYTES, f"{free / 1024**3:.1f} GiB", remedy)


def _put_if_absent(settings: Settings) -> Finding:
    """Two Delta writers are safe only where the second creation of the same log entry is refused."""
    probe = settings.lake_root / f".probe-{uuid.uuid4().hex}"
    probe.parent.mkdir(parents=True, exist_ok=True)
    with probe.open("xb"):
        pass
    try:
        with probe.open("xb"):
            refused = False
    except FileExistsError:
        refused = True
    probe.unlink()
    remedy = "put the lake on a file system that honours exclusive creation"
    return Finding("put-if-absent", refused, "second creation refused" if refused else "NOT refused", remedy)


def _tool_files(settings: Settings) -> Finding:
    from contrail import environment

    wanted = {settings.repo_root / ".env": environment.dotenv(settings)}
    wanted[settings.dagster_home / "dagster.yaml"] = environment.dagster_yaml(settings)
    stale = [
        path.name for path, text in wanted.items() if not path.is_file() or path.read_text("utf-8") != text
    ]
    remedy = "contrail env --write"
    return Finding(
        "files for bare tools", not stale, f"differ: {', '.join(stale)}" if stale else "up to date", remedy
    )


def _manifest(settings: Settings) -> Finding:
    path = settings.dbt_target / "manifest.json"
    return Finding("dbt manifest", path.is_file(), path.name if path.is_file() else "missing", "make setup")


def _contracts(settings: Settings) -> Finding:
    from contrail.contracts import load_contracts

    contracts = load_contracts(settings.repo_root / "contracts")
    rules = sum(len(contract.rules) for contract in contracts.values())
    return Finding(
        "contracts", bool(contracts), f"{len(contracts)} tables, {rules} rules", "add contracts/*.yaml"
    )


def _landed(settings: Settings) -> Finding:
    from contrail.landing import partition_range

    landed = partition_range(settings.landing_root)
    found = "nothing yet" if landed is None else f"{landed.first} .. {landed.last}"
    return Finding("landing zone", landed is not None, found, "contrail land")


def _stores(settings: Settings) -> Finding:
    """SQLite files that exist must be readable and whole."""
    stores = [
        settings.registry_path,
        settings.online_store_path,
        settings.mlflow_path,
    ]
    told: list[str] = []
    for path in (path for path in stores if path.is_file()):
        if path.read_bytes()[:15] != b"SQLite format 3":
            told.append(f"{path.name} present")
            continue
        with sqlite3.connect(f"file:{path}?mode=ro", uri=True, timeout=5) as con:
            said = con.execute("PRAGMA quick_check").fetchone()[0]
        if said != "ok":
            return Finding("stores", False, f"{path.name}: {said}", f"restore {path} from the backup")
        told.append(f"{path.name} ok")
    return Finding("stores", True, ", ".join(told) or "none yet")


def _online_store(settings: Settings) -> Finding:
    """A Redis must answer, within the waits that its clients have; and what was written online must still be there."""
    from contrail.online_layout import OnlineError
    from contrail.online_stores import connection_address, redis_client, redis_connection_string, redis_errors

    name = "online store"
    recorded = _recorded_online(settings)
    if settings.online_store == "sqlite" or settings.redis_url is None:
        place = f"SQLite, {settings.online_store_path.name}"
        lost = [view for view in recorded if not _has_rows(settings, view)]
    else:
        try:
            address = connection_address(redis_connection_string(settings.redis_url.get_secret_value()))
            with redis_errors(address), closing(redis_client(address)) as client:
                client.ping()
                lost = [] if client.dbsize() else recorded
        except OnlineError as error:
            return Finding(
                name, False, str(error), "start it, or mend CONTRAIL_REDIS_URL (docs/operations.md)"
            )
        place = f"redis {address} answers"
    if lost:
        remedy = "materialise feature_store/registry, then feature_store/online"
        return Finding(name, False, f"{place}, but holds nothing of {', '.join(lost)}", remedy)
    return Finding(name, True, place)


def _mlflow(settings: Settings) -> Finding:
    """A server or a database server must take a connection; a file is one of the stores."""
    import socket
    from urllib.parse import urlsplit

    name, address = "mlflow", urlsplit(settings.mlflow_tracking_uri)
    if address.hostname is None:
        return Finding(name, True, f"SQLite, {Path(address.path).name}")
    port = address.port or MLFLOW_PORTS.get(address.scheme.partition("+")[0], 80)
    place = f"{address.scheme} {address.hostname}:{port}"  # without user and password
    try:
        socket.create_connection((address.hostname, port), timeout=5).close()
    except OSError as error:
        remedy = "start it, or mend CONTRAIL_MLFLOW_URI; until then no model is trained, and all else goes on"
        return Finding(name, False, f"{place} cannot be reached: {error}", remedy)
    return Finding(name, True, f"{place} takes connections")


def _recorded_online(settings: Settings) -> list[str]:
    """The views of which the last materialisation says that it has rows online."""
    from contrail import duck
    from contrail.lake import Lake
    from feature_repo.view_rules import ONLINE_TABLE

    lake = Lake(settings.lake_root)
    if not lake.exists(ONLINE_TABLE):
        return []
    with duck.connect() as con:
        found = con.execute(f"SELECT feature_view FROM {lake.scan(ONLINE_TABLE)} WHERE rows > 0 ORDER BY ALL")
        return [str(view) for (view,) in found.fetchall()]


def _has_rows(settings: Settings, view: str) -> bool:
    """Whether the SQLite file has any row of a view."""
    import yaml

    from contrail.duck import quote_identifier
    from contrail.feast_config import FEATURE_REPO

    project = yaml.safe_load((FEATURE_REPO / "feature_store.yaml").read_text())["project"]
    try:
        uri = f"file:{settings.online_store_path}?mode=ro"
        with closing(sqlite3.connect(uri, uri=True, timeout=5)) as con:
            table = quote_identifier(f"{project}_{view}")
            return con.execute(f"SELECT 1 FROM {table} LIMIT 1").fetchone() is not None
    except sqlite3.OperationalError as error:
        if "no such table" in str(error) or "unable to open" in str(error):
            return False
        raise
