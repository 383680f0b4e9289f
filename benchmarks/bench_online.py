"""Online reads: contrail.online_read against Feast's get_online_features and against the store's raw fetch and decode.

Ten features in three views, of 1, 10 and 100 entities a call, SQLite and Redis, in one process and in turn. Data are
made, and materialised as the project does (Feast reads the same); a redis-server is started for the while.

  peer   `FeatureStore.get_online_features(…).to_dict()`, its registry cached for ever.
  raw    what a hand-written loop needs for the same values: keys packed, one SELECT per view or one pipeline of HMGETs
         (one per view and entity, through redis-py), the same decoder; no status, no age, no names, no checks.
  ours   `OnlineReader.read(…).columns()`: values by feature, statuses and event times.

CPU per call is the median of interleaved rounds. Latency is that of eight threads which ask one reader (or one
FeatureStore) at the same time, as in a server.
"""

from __future__ import annotations

import argparse
import itertools
import random
import shutil
import socket
import struct
import subprocess
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pyarrow as pa

from benchmarks.measuring import cpu_of, heading, interleaved, median, table, verdict
from contrail.clock import pin_utc
from contrail.online_layout import decode_value, redis_field
from contrail.online_read import OnlineReader
from contrail.online_stores import open_sqlite, redis_client, store_path
from contrail.online_write import materialize_view, prepare_store

if TYPE_CHECKING:
    from feast import FeatureStore

NOW = datetime(2024, 6, 1, 12, tzinfo=UTC)
SERVICE = "basket"
SIZES = {1: 400, 10: 150, 100: 30}
CLIENTS = 8
# view: (join keys, features: name -> kind)
VIEWS: Mapping[str, tuple[tuple[str, ...], Mapping[str, str]]] = {
    "customer_stats": (
        ("customer",), {"spent": "double", "visits": "int64", "is_member": "bool", "last_basket": "double"}),
    "shop_stats": (("shop",), {"waiting": "int64", "turnover": "double", "open_tills": "int64"}),
    "shelf_stats": (("shop", "product"), {"stock": "int64", "price": "double", "sold_share": "double"}),
}  # fmt: skip
VALUES: Mapping[str, range] = {"customer": range(4_000), "shop": range(3), "product": range(75)}

Entity = Mapping[str, Any]
Read = Callable[[Sequence[Entity]], Any]


def main() -> None:
    options = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    options.add_argument("--repeats", type=int, default=5, help="interleaved rounds")
    options.add_argument("--calls", type=float, default=1.0, help="calls per round, times the usual number")
    given = options.parse_args()
    pin_utc()
    heading(
        f"online reads: 10 features in {len(VIEWS)} views; CPU per call, median of {given.repeats} interleaved",
        "feast", "redis", "hiredis",
    )  # fmt: skip
    with tempfile.TemporaryDirectory() as folder, redis_server(Path(folder)) as address:
        _compare("SQLite", _filled(Path(folder) / "sqlite", {"type": "sqlite", "path": "online.db"}), given)
        redis = {"type": "redis", "connection_string": address}
        _compare("Redis", _filled(Path(folder) / "redis", redis), given)


def _compare(name: str, store: FeatureStore, given: argparse.Namespace) -> None:
    service = store.get_feature_service(SERVICE)
    reader = OnlineReader(store, SERVICE)
    raw = _raw_sqlite(store) if name == "SQLite" else _raw_redis(store)

    def peer(entities: Sequence[Entity]) -> dict[str, list[Any]]:
        return store.get_online_features(service, list(entities)).to_dict()

    def ours(entities: Sequence[Entity]) -> dict[str, Sequence[Any]]:
        return reader.read(entities, now=NOW).columns()

    everyone = _batch(random.Random(0), 500)
    theirs = peer(everyone)
    assert all(list(column) == theirs[feature] for feature, column in ours(everyone).items()), "values differ"
    variants: dict[str, Read] = {"peer": peer, "raw": raw, "ours": ours}
    rows, waits = list[dict[str, Any]](), list[dict[str, Any]]()
    for size, calls in SIZES.items():
        rnd = random.Random(size)
        batches = [_batch(rnd, size) for _ in range(max(8, int(calls * given.calls)))]
        cpu = _cpu_per_call(variants, batches, given.repeats)
        rows.append(
            {"entities": size}
            | {f"{key}, CPU µs": seconds * 1e6 for key, seconds in cpu.items()}
            | {"peer / ours": cpu["peer"] / cpu["ours"], "ours / raw": cpu["ours"] / cpu["raw"]}
        )
        for key in ("peer", "ours"):
            took = _under_load(variants[key], batches[: max(25, len(batches) // 4)])
            p50, p99 = (took[int(len(took) * share)] * 1e3 for share in (0.5, 0.99))
            waits.append({"entities": size, "variant": key, "calls": len(took), "p50 ms": p50, "p99 ms": p99})
    reader.close()
    print(f"\n{name}")
    table(rows)
    print(f"{name}, {CLIENTS} threads at the same time")
    table(waits)
    for row in rows:
        what = f"{name}, {row['entities']} entities"
        verdict(f"{what}: get_online_features / ours", row["peer / ours"], 5, at_least=True, unit="×")
        verdict(f"{what}: ours / raw fetch and decode", row["ours / raw"], 1.5, unit="×")


def _cpu_per_call(
    variants: Mapping[str, Read], batches: Sequence[Sequence[Entity]], repeats: int
) -> dict[str, float]:
    def measure(read: Read) -> float:
        return cpu_of(lambda: [read(batch) for batch in batches]) / len(batches)

    measured = interleaved({key: partial(measure, read) for key, read in variants.items()}, repeats)
    return {key: median(seconds) for key, seconds in measured.items()}


def _under_load(read: Read, batches: Sequence[Sequence[Entity]]) -> list[float]:
    """Seconds of every call, in order of size."""
    took: list[float] = []

    def client() -> None:
        for batch in batches:
            began = time.perf_counter()
            read(batch)
            took.append(time.perf_counter() - began)

    threads = [threading.Thread(target=client) for _ in range(CLIENTS)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return sorted(took)


def _batch(rnd: random.Random, size: int) -> list[Entity]:
    return [{key: _value(key, rnd.choice(values)) for key, values in VALUES.items()} for _ in range(size)]


def _value(key: str, number: int) -> Any:
    return number if key == "product" else f"{key}{number:05d}"


# --- the raw loops ---------------------------------------------------------------------------------------------------


def _key_of(view: str) -> Callable[[Entity], bytes]:
    """The entity key of this benchmark's views, by hand: texts, and one int64."""
    keys = sorted(VIEWS[view][0])
    head = struct.pack("<I", len(keys)) + b"".join(struct.pack("<II", 2, len(k)) + k.encode() for k in keys)
    text, number = struct.Struct("<II"), struct.Struct("<IIq")

    def one_text(entity: Entity) -> bytes:
        data = entity[keys[0]].encode()
        return head + text.pack(2, len(data)) + data

    def number_and_text(entity: Entity) -> bytes:
        data = entity["shop"].encode()
        return head + number.pack(4, 8, entity["product"]) + text.pack(2, len(data)) + data

    return one_text if len(keys) == 1 else number_and_text


def _raw_sqlite(store: FeatureStore) -> Read:
    con = open_sqlite(store_path(store.config))
    lock = threading.Lock()
    views = [(f'"{store.project}_{view}"', _key_of(view)) for view in VIEWS]

    def read(entities: Sequence[Entity]) -> list[list[tuple[bytes, str, Any]]]:
        found = []
        with lock:
            for name, key_of in views:
                keys = list({key_of(entity) for entity in entities})
                marks = ",".join("?" * len(keys))
                sql = f"SELECT entity_key, feature_name, value FROM {name} WHERE entity_key IN ({marks})"
                found.append(
                    [(key, name, decode_value(value)) for key, name, value in con.execute(sql, keys)]
                )
        return found

    return read


def _raw_redis(store: FeatureStore) -> Read:
    client = redis_client(store.config)
    project = store.project.encode()
    views = [
        ([redis_field(view, feature) for feature in features] + [f"_ts:{view}".encode()], _key_of(view))
        for view, (_, features) in VIEWS.items()
    ]

    def read(entities: Sequence[Entity]) -> list[list[Any]]:
        with client.pipeline(transaction=False) as pipe:
            for fields, key_of in views:
                for key in {key_of(entity) for entity in entities}:
                    pipe.hmget(key + project, fields)
            return [[decode_value(value) for value in row[:-1]] for row in pipe.execute()]

    return read


# --- the data --------------------------------------------------------------------------------------------------------


def _filled(folder: Path, online: dict[str, Any]) -> FeatureStore:
    """A store with the views, every entity materialised."""
    from deltalake import write_deltalake
    from feast import Entity, FeatureService, FeatureStore, FeatureView, Field, FileSource
    from feast.data_format import DeltaFormat
    from feast.repo_config import RepoConfig
    from feast.types import Bool, Float64, Int64, String
    from feast.value_type import ValueType

    folder.mkdir()
    config = RepoConfig(
        project="bench",
        provider="local",
        registry={"path": str(folder / "registry.db"), "cache_ttl_seconds": 0},
        online_store=online,
        offline_store={"type": "contrail.asof.AsofOfflineStore"},
        entity_key_serialization_version=3,
        repo_path=folder,
    )
    store = FeatureStore(config=config)
    types = {"double": Float64, "int64": Int64, "bool": Bool, "string": String}
    kinds = {key: "int64" if key == "product" else "string" for key in VALUES}
    entities = {
        key: Entity(name=key, join_keys=[key], value_type=ValueType[kinds[key].upper()]) for key in VALUES
    }
    views = [
        FeatureView(
            name=name,
            entities=[entities[key] for key in keys],
            ttl=timedelta(days=1),
            schema=[Field(name=key, dtype=types[kinds[key]]) for key in keys]
            + [Field(name=feature, dtype=types[kind]) for feature, kind in features.items()],
            source=FileSource(
                name=f"{name}_source",
                path=str(folder / name),
                file_format=DeltaFormat(),
                timestamp_field="known_at",
                created_timestamp_column="created_at",
            ),
        )
        for name, (keys, features) in VIEWS.items()
    ]
    prepare_store(config, views)
    store.apply([*entities.values(), *views, FeatureService(name=SERVICE, features=views)])
    rnd = random.Random(7)
    make = {"double": rnd.random, "int64": lambda: rnd.randrange(300), "bool": lambda: rnd.random() < 0.5}
    for name, (keys, features) in VIEWS.items():
        rows = [
            {key: _value(key, number) for key, number in zip(keys, numbers, strict=True)}
            | {feature: make[kind]() for feature, kind in features.items()}
            | dict.fromkeys(("known_at", "created_at"), NOW - timedelta(minutes=rnd.randrange(600)))
            for numbers in itertools.product(*(VALUES[key] for key in keys))
        ]
        write_deltalake(str(folder / name), pa.Table.from_pylist(rows))
        materialize_view(store, name, now=NOW)
    return store


@contextmanager
def redis_server(folder: Path) -> Iterator[str]:
    """A redis-server on a free port of this machine, without files, until the block ends: its host:port."""
    if (program := shutil.which("redis-server")) is None:
        raise SystemExit("there is no redis-server here: sudo apt-get install redis-server")
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    process = subprocess.Popen(
        [program, "--port", str(port), "--bind", "127.0.0.1", "--save", "", "--dir", str(folder)],
        stdout=subprocess.DEVNULL,
    )
    try:
        while True:
            try:
                socket.create_connection(("127.0.0.1", port), timeout=1).close()
                break
            except ConnectionRefusedError:
                if process.poll() is not None:
                    raise SystemExit(f"redis-server ended with {process.returncode}") from None
                time.sleep(0.02)
        yield f"127.0.0.1:{port}"
    finally:
        process.terminate()
        process.wait()


if __name__ == "__main__":
    main()
