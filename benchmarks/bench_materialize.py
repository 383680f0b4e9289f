"""Materialisation to the online store: contrail.online_write against Feast's own engine pulling the latest rows only.

Both read the same Delta table through the same offline store, one row per entity, and write Feast's layout: into a
SQLite file that is new each time, and into a Redis that is emptied before. Each measurement is a fresh process; CPU is
that of the work alone, after imports and `feast apply`. The floor writes cells that are ready made, in the order of the
table, with one plain INSERT each: what SQLite itself takes for the layout. Redis' own CPU is printed beside ours.

Ours is run over ten times the rows as well: its memory must not grow with them.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import json
import resource
import sqlite3
import struct
import tempfile
import time
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa

from benchmarks.bench_online import redis_server
from benchmarks.measuring import MB, heading, interleaved, median, table, verdict, worker
from contrail.clock import pin_utc

if TYPE_CHECKING:
    from feast import FeatureStore

PROGRAM = str(Path(__file__).resolve())
VIEW = "readings"
START, END = datetime(2013, 1, 1, tzinfo=UTC), datetime(2014, 1, 1, tzinfo=UTC)
PEER, OURS, FLOOR, FLOOR_SMALL = "peer", "ours", "floor", "floor-small"
NAMES = {
    PEER: "peer: Feast, latest rows only",
    OURS: "ours: contrail.online_write",
    FLOOR: "floor: bare INSERT, Feast's table",
    FLOOR_SMALL: "floor: bare INSERT, our smaller table",
}
TARGETS = {"redis": 6.0, "sqlite": 2.2}
GROWN = 10


def main() -> None:
    options = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    options.add_argument("--rows", type=int, default=300_000, help="entities")
    options.add_argument(
        "--features", type=int, default=4, help="features of each, doubles and integers in turn"
    )
    options.add_argument("--repeats", type=int, default=5, help="interleaved rounds")
    options.add_argument("--store", choices=("sqlite", "redis", "both"), default="both")
    options.add_argument(
        "--worker", nargs=4, metavar=("VARIANT", "STORE", "SOURCE", "FOLDER"), help=argparse.SUPPRESS
    )
    given = options.parse_args()
    pin_utc()
    if given.worker:
        variant, place, source, folder = given.worker
        print(json.dumps(_work(variant, place, Path(source), Path(folder))))
        return
    heading(
        f"materialise {given.rows:,} entities × {given.features} features to the online store, "
        f"median of {given.repeats} interleaved",
        "feast", "duckdb", "redis",
    )  # fmt: skip
    with tempfile.TemporaryDirectory() as folder, redis_server(Path(folder)) as redis:
        small, large = Path(folder, "source"), Path(folder, "grown")
        _make_source(small, given.rows, given.features)
        _make_source(large, GROWN * given.rows, given.features)
        for kind in ("sqlite", "redis") if given.store == "both" else (given.store,):
            _compare(kind, redis if kind == "redis" else "sqlite", small, large, Path(folder), given.repeats)


def _compare(kind: str, place: str, small: Path, large: Path, folder: Path, repeats: int) -> None:
    results: dict[str, list[dict[str, Any]]] = {}

    def measure(variant: str, source: Path) -> float:
        result, _ = worker(PROGRAM, variant, place, str(source), str(folder))
        results.setdefault(variant, []).append(result)
        return result["rows"] / result["cpu"]

    variants = [PEER, OURS, *((FLOOR, FLOOR_SMALL) if kind == "sqlite" else ())]
    per_cpu = interleaved({name: lambda name=name: measure(name, small) for name in variants}, repeats)
    rates = {name: median(values) for name, values in per_cpu.items()}
    table(
        [
            {
                f"{kind}": NAMES[name],
                "rows per CPU s": round(rates[name]),
                "CPU s": median([one["cpu"] for one in results[name]]),
                "wall s": median([one["wall"] for one in results[name]]),
                "server CPU s": median([one["server_cpu"] for one in results[name]]),
                "RSS before MB": round(median([one["before_mb"] for one in results[name]])),
                "peak RSS MB": round(median([one["peak_mb"] for one in results[name]])),
            }
            for name in variants
        ]
    )
    peak = median([one["peak_mb"] for one in results[OURS]])
    results.clear()
    measure(OURS, large)
    grown = results[OURS][0]
    print(
        f"{kind}, ours over {GROWN}× the rows: {grown['rows'] / grown['cpu']:,.0f} rows per CPU s, "
        f"peak RSS {grown['peak_mb']:,.0f} MB against {peak:,.0f} MB"
    )
    verdict(
        f"{kind}: rows per CPU second, ours / peer",
        rates[OURS] / rates[PEER],
        TARGETS[kind],
        at_least=True,
        unit="×",
    )
    verdict(f"{kind}: peak RSS at {GROWN}× the rows / at 1×", grown["peak_mb"] / peak, 1.5, unit="×")


def _make_source(path: Path, rows: int, features: int) -> None:
    """A Delta table with one row per entity, in no order of theirs, written in parts."""
    from deltalake import write_deltalake

    rnd = np.random.default_rng(7)
    entities = rnd.permutation(rows)
    for part in np.array_split(entities, max(1, rows // 500_000)):
        stamps = pa.array(
            np.datetime64("2013-01-01", "us")
            + rnd.integers(0, 31_000_000, len(part)).astype("timedelta64[s]")
        ).cast(pa.timestamp("us", tz="UTC"))
        columns: dict[str, Any] = {
            "sensor": pa.array(part, pa.int64()),
            "known_at": stamps,
            "created_at": stamps,
        }
        for number in range(features):
            columns[f"f{number}"] = (
                pa.array(rnd.random(len(part)))
                if number % 2 == 0
                else pa.array(rnd.integers(0, 1000, len(part)))
            )
        write_deltalake(str(path), pa.table(columns), mode="append")


def _store(place: str, source: Path, folder: Path, features: list[str], *, peer: bool) -> FeatureStore:
    from feast import Entity, FeatureStore, FeatureView, Field, FileSource
    from feast.data_format import DeltaFormat
    from feast.repo_config import RepoConfig
    from feast.types import Float64, Int64
    from feast.value_type import ValueType

    from contrail.online_write import prepare_store

    online = {"type": "sqlite", "path": str(folder / "online.db")}
    if place != "sqlite":
        online = {"type": "redis", "connection_string": place}
    for name in ("online.db", "online.db-wal", "online.db-shm", "registry.db"):
        (folder / name).unlink(missing_ok=True)
    store = FeatureStore(
        config=RepoConfig(
            project="bench",
            provider="local",
            registry=str(folder / "registry.db"),
            online_store=online,
            offline_store={
                "type": "contrail.asof.AsofOfflineStore",
                "temp_directory": str(folder / "spilled"),
            },
            materialization={"pull_latest_features": True},
            entity_key_serialization_version=3,
        )
    )
    sensor = Entity(name="sensor", join_keys=["sensor"], value_type=ValueType.INT64)
    view = FeatureView(
        name=VIEW,
        entities=[sensor],
        schema=[
            Field(name="sensor", dtype=Int64),
            *(Field(name=name, dtype=Int64 if i % 2 else Float64) for i, name in enumerate(features)),
        ],
        source=FileSource(
            name="source",
            path=str(source),
            file_format=DeltaFormat(),
            timestamp_field="known_at",
            created_timestamp_column="created_at",
        ),
    )
    if not peer:
        prepare_store(store.config, [view])
    store.apply([sensor, view])
    return store


def _work(variant: str, place: str, source: Path, folder: Path) -> dict[str, Any]:
    """One measurement, in this process."""
    from deltalake import DeltaTable

    from contrail.online_write import materialize_view

    opened = DeltaTable(str(source))
    rows = sum(opened.get_add_actions(flatten=True).column("num_records").to_pylist())
    features = [field.name for field in opened.schema().fields if field.name.startswith("f")]
    store = _store(place, source, folder, features, peer=variant in (PEER, FLOOR))
    if variant in (FLOOR, FLOOR_SMALL):
        cells = _ready_cells(rows, features)
        with contextlib.closing(sqlite3.connect(folder / "online.db", isolation_level=None)) as con:
            con.execute("PRAGMA journal_mode = WAL")
            con.execute("PRAGMA synchronous = NORMAL")
            with _measured(place) as took:
                con.execute("BEGIN")
                con.executemany(
                    f"INSERT INTO bench_{VIEW} (entity_key, feature_name, value, event_ts, created_ts) "
                    "VALUES (?, ?, ?, ?, ?)",
                    cells,
                )
                con.execute("COMMIT")
    elif variant == PEER:
        quiet = io.StringIO()
        with _measured(place) as took, contextlib.redirect_stdout(quiet), contextlib.redirect_stderr(quiet):
            store.materialize(START, END, [VIEW])
    else:
        with _measured(place) as took:
            written = materialize_view(store, VIEW, start=START, now=END).rows_written
        if written != rows:
            raise SystemExit(f"{written} of {rows} entities were written")
    return {"rows": rows, **took}


@contextlib.contextmanager
def _measured(place: str) -> Iterator[dict[str, float]]:
    """CPU and wall seconds of a block, memory of this process before and at most, CPU of a Redis, which is emptied."""
    import redis

    server = None
    if place != "sqlite":
        host, _, port = place.partition(":")
        server = redis.Redis(host=host, port=int(port), socket_timeout=60, socket_connect_timeout=5)
        server.flushall()
    took = {"before_mb": int(Path("/proc/self/statm").read_text().split()[1]) * resource.getpagesize() / MB}
    busy, began, cpu = _server_cpu(server), time.perf_counter(), time.process_time()
    yield took
    took["cpu"], took["wall"] = time.process_time() - cpu, time.perf_counter() - began
    took["server_cpu"] = _server_cpu(server) - busy
    took["peak_mb"] = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def _server_cpu(server: Any) -> float:
    if server is None:
        return 0.0
    used = server.info("cpu")
    return used["used_cpu_user"] + used["used_cpu_sys"]


def _ready_cells(rows: int, features: list[str]) -> Iterator[tuple[bytes, str, bytes, int, int]]:
    """The cells of as many entities, in the order of their keys; made before they are asked for."""
    from contrail.online_layout import encode_key

    value = b"\x29" + struct.pack("<d", 0.5)
    keys = sorted(encode_key({"sensor": i}, {"sensor": "INT64"}) for i in range(rows))
    second = int(START.timestamp())
    return iter([(key, name, value, second, second) for key in keys for name in features])


if __name__ == "__main__":
    main()
