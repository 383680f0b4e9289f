"""Where the online copy is, settings alone say: a file of the home, or a Redis whose address nobody else may read."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
import yaml
from deltalake import write_deltalake
from pydantic import SecretStr, ValidationError

from contrail import environment
from contrail.feast_config import feature_store_yaml
from contrail.online_stores import redis_connection_string
from contrail.online_views import OnlineError
from contrail.settings import Settings
from features.tables import FEATURE_TABLES
from resources.feature_store import FeatureStoreResource
from tests.support.redis_server import RedisServer

NOW = datetime(2013, 6, 1, 12, tzinfo=UTC)
STAMP = pa.timestamp("us", tz="UTC")
KEYS = {
    "network": "all",
    "origin": "JFK",
    "dest": "LAX",
    "carrier": "AA",
    "flight_number": 7,
    "tail_number": "N1",
}
# SQL type -> Arrow type and some value
VALUES: dict[str, tuple[pa.DataType, Any]] = {
    "VARCHAR": (pa.string(), "on time"),
    "INTEGER": (pa.int32(), 3),
    "DOUBLE": (pa.float64(), 0.25),
    "BOOLEAN": (pa.bool_(), True),
    "TIMESTAMPTZ": (STAMP, NOW - timedelta(hours=1)),
    "DATE": (pa.date32(), NOW.date()),
}


def fill(settings: Settings) -> None:
    """One row in every feature table."""
    known = pa.array([NOW - timedelta(minutes=15)], STAMP)
    for name, table in FEATURE_TABLES.items():
        columns = {
            key: pa.array([KEYS[key]], pa.int32() if key == "flight_number" else None) for key in table.keys
        }
        columns |= {"known_at": known, "created_at": known}
        for column in table.columns:
            kind, value = VALUES[column.sql_type]
            columns[column.name] = pa.array([value], kind)
        write_deltalake(str(settings.lake_root / "feature" / name), pa.table(columns))


def materialised(home: Path) -> dict[str, Any]:
    """Everything in the online store of a home, as Feast's clients get it."""
    fill(Settings(home=home))
    resource = FeatureStoreResource(home=str(home))
    resource.apply()
    done = resource.materialize(NOW)
    assert {one.view: one.rows_written for one in done} == dict.fromkeys(FEATURE_TABLES, 1)
    assert resource.apply().changes == ()
    store = resource.store()
    refs = [f"{view.name}:{field.name}" for view in store.list_feature_views() for field in view.features]
    return store.get_online_features(refs, [KEYS], full_feature_names=True).to_dict()


def test_redis_by_settings_alone(
    tmp_path: Path, redis_server: RedisServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    in_a_file = materialised(tmp_path / "sqlite")
    assert not redis_server.client.keys("*")
    monkeypatch.setenv("CONTRAIL_ONLINE_STORE", "redis")
    monkeypatch.setenv("CONTRAIL_REDIS_URL", f"redis://{redis_server.address}/0")
    assert materialised(tmp_path / "redis") == in_a_file
    assert None not in [value for values in in_a_file.values() for value in values]
    assert redis_server.client.keys("*")
    assert (tmp_path / "sqlite" / "online_store.db").exists()
    assert not (tmp_path / "redis" / "online_store.db").exists()
    # And back again: the file of the home says what the settings say.
    monkeypatch.setenv("CONTRAIL_ONLINE_STORE", "sqlite")
    written = yaml.safe_load(feature_store_yaml(Settings(home=tmp_path / "redis")).read_text())
    assert written["online_store"] == {"type": "sqlite", "path": str(tmp_path / "redis" / "online_store.db")}


def test_the_address_of_a_redis_is_for_its_owner_alone(tmp_path: Path) -> None:
    url = SecretStr("rediss://reader:s3cret,%24HOME@cache.example:7000/4?socket_timeout=2&ssl_cert_reqs=none")
    settings = Settings(home=tmp_path, online_store="redis", redis_url=url)
    path = feature_store_yaml(settings)
    assert path == tmp_path / "feature_store.yaml"
    assert path.stat().st_mode & 0o777 == 0o600
    assert [file.name for file in tmp_path.iterdir()] == ["feature_store.yaml"]
    assert "s3cret" not in repr(settings)
    assert "s3cret" not in str(environment.variables(settings)) + environment.dotenv(settings)
    assert "s3cret" not in repr(FeatureStoreResource(home=str(tmp_path)))
    online = yaml.safe_load(path.read_text())["online_store"]
    assert online["type"] == "redis"

    from feast.infra.online_stores.redis import RedisOnlineStore

    places, options = RedisOnlineStore._parse_connection_string(online["connection_string"])
    assert places == [{"host": "cache.example", "port": "7000"}]
    assert options == {
        "db": 4,
        "ssl": True,
        "username": "reader",
        "password": "s3cret,$HOME",  # pragma: allowlist secret
        "socket_connect_timeout": 0.5,
        "socket_timeout": 2,
        "ssl_cert_reqs": "none",
        "retry": None,
    }


def test_a_redis_without_an_address_is_refused() -> None:
    with pytest.raises(ValidationError, match="CONTRAIL_ONLINE_STORE=redis needs CONTRAIL_REDIS_URL"):
        Settings(online_store="redis")


@pytest.mark.parametrize(
    "url", ["http://:s3cret@host", "redis://", "redis://:s3cret@host:port", "redis://:s3cret@h/x"]
)
def test_what_is_no_address_of_a_redis_is_refused_without_showing_it(url: str) -> None:
    with pytest.raises(OnlineError, match=r"CONTRAIL_REDIS_URL must be redis://") as caught:
        redis_connection_string(url)
    assert "s3cret" not in str(caught.value)
    assert caught.value.__cause__ is None
    with pytest.raises(OnlineError, match="IPv6"):
        redis_connection_string("redis://[::1]:6379")
