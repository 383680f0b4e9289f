"""`contrail doctor`: what it says of the online store."""

from __future__ import annotations

import socket
import sqlite3
import time
from contextlib import closing
from pathlib import Path

import pyarrow as pa
from pydantic import SecretStr

from assets.feature_store import ONLINE_SCHEMA
from cli.doctor import Finding, examine
from contrail.lake import Commit, Lake
from contrail.settings import Settings
from feature_repo.view_rules import ONLINE_TABLE
from tests.support.redis_server import RedisServer


def online_store(settings: Settings) -> Finding:
    (found,) = [finding for finding in examine(settings) if finding.check == "online store"]
    return found


def redis(home: Path, url: str) -> Settings:
    return Settings(home=home, online_store="redis", redis_url=SecretStr(url))


def test_sqlite_needs_no_server(tmp_path: Path) -> None:
    assert online_store(Settings(home=tmp_path)) == Finding("online store", True, "SQLite, online_store.db")


def test_a_redis_that_answers(tmp_path: Path, redis_server: RedisServer) -> None:
    found = online_store(redis(tmp_path, f"redis://{redis_server.address}/3"))
    assert found == Finding("online store", True, f"redis {redis_server.address}/3 answers")


def recorded(home: Path, rows: int = 3) -> None:
    """What a materialisation of one view leaves in the lake."""
    lake = Lake(Settings(home=home).lake_root)
    lake.create(ONLINE_TABLE, ONLINE_SCHEMA)
    row = {"feature_view": "origin_state", "source_table": "feature/origin_state@v1", "rows": rows}
    lake.append(ONLINE_TABLE, pa.Table.from_pylist([row], ONLINE_SCHEMA), Commit(ONLINE_TABLE, "test", ()))


def test_a_file_that_lost_its_rows(tmp_path: Path) -> None:
    recorded(tmp_path)
    settings = Settings(home=tmp_path)
    lost = Finding(
        "online store",
        False,
        "SQLite, online_store.db, but holds nothing of origin_state",
        "materialise feature_store/registry, then feature_store/online",
    )
    assert online_store(settings) == lost  # no file
    with closing(sqlite3.connect(settings.online_store_path, isolation_level=None)) as con:
        assert online_store(settings) == lost  # no table
        con.execute("CREATE TABLE contrail_origin_state (value)")
        assert online_store(settings) == lost
        con.execute("INSERT INTO contrail_origin_state VALUES (1)")
    assert online_store(settings).ok


def test_a_redis_that_restarted_empty(tmp_path: Path, redis_server: RedisServer) -> None:
    settings = redis(tmp_path, f"redis://{redis_server.address}/0")
    recorded(tmp_path)
    found = online_store(settings)
    assert (found.ok, "answers, but holds nothing of origin_state" in found.found) == (False, True)
    redis_server.client.set("some", "key")
    assert online_store(settings).ok


def test_a_redis_that_hangs_is_not_waited_for(tmp_path: Path, own_redis: RedisServer) -> None:
    own_redis.hang()
    try:
        began = time.monotonic()
        found = online_store(redis(tmp_path, f"redis://:s3cret@{own_redis.address}?socket_timeout=0.2"))
        took = time.monotonic() - began
    finally:
        own_redis.go_on()
    assert (found.ok, "does not answer" in found.found) == (False, True)
    assert "s3cret" not in found.found + found.remedy
    assert took < 30  # of which the other checks take most; redis-py would wait for ever


def test_a_redis_that_is_down_or_no_address(tmp_path: Path) -> None:
    found = online_store(redis(tmp_path, "redis://reader:s3cret@127.0.0.1:1/0"))
    assert (found.ok, "127.0.0.1:1/0 cannot be reached" in found.found) == (False, True)
    no_address = online_store(redis(tmp_path, "http://reader:s3cret@127.0.0.1"))
    assert (no_address.ok, "CONTRAIL_REDIS_URL must be redis://" in no_address.found) == (False, True)
    assert "CONTRAIL_REDIS_URL" in found.remedy
    assert "s3cret" not in found.found + found.remedy + no_address.found + no_address.remedy


def mlflow(settings: Settings) -> Finding:
    (found,) = [finding for finding in examine(settings) if finding.check == "mlflow"]
    return found


def test_mlflow_is_a_file_or_a_place_that_takes_connections(tmp_path: Path) -> None:
    assert mlflow(Settings(home=tmp_path)) == Finding("mlflow", True, "SQLite, mlflow.db")
    with socket.create_server(("127.0.0.1", 0)) as listening:
        port = listening.getsockname()[1]
        uri = SecretStr(f"http://me:s3cret@127.0.0.1:{port}")
        settings = Settings(home=tmp_path, mlflow_uri=uri)
        assert mlflow(settings) == Finding("mlflow", True, f"http 127.0.0.1:{port} takes connections")
    found = mlflow(settings)
    assert not found.ok
    assert found.found.startswith(f"http 127.0.0.1:{port} cannot be reached: ")
    assert "CONTRAIL_MLFLOW_URI" in found.remedy
    assert "s3cret" not in found.found + found.remedy
