"""Where the online copy is, settings alone say: a file of the home, or a Redis whose address nobody else may read."""

from __future__ import annotations

import subprocess
import sys
import time
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
import yaml
from deltalake import write_deltalake
from pydantic import SecretStr, ValidationError

from contrail import environment, feast_config
from contrail.feast_config import FEATURE_REPO, REDIS_VARIABLE, feature_store_yaml
from contrail.online_fetch import Group, fetch_of
from contrail.online_layout import encode_key
from contrail.online_stores import redis_address, redis_connection_string
from contrail.online_views import OnlineError, OnlineView
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


def test_the_address_of_a_redis_stands_in_no_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(REDIS_VARIABLE, "set back after the test")
    url = SecretStr(
        "rediss://reader:s3cret,'%3A%20%23%24HOME@cache.example:7000/4?socket_timeout=2&ssl_cert_reqs=none"
    )
    settings = Settings(home=tmp_path, online_store="redis", redis_url=url)
    path = feature_store_yaml(settings)
    assert path == tmp_path / "feature_store.yaml"
    assert [file.name for file in tmp_path.iterdir()] == ["feature_store.yaml"]
    assert "s3cret" not in path.read_text()
    assert "cache.example" not in path.read_text()
    assert "s3cret" not in repr(settings)
    assert "s3cret" not in environment.dotenv(settings) + environment.shell_exports(settings)
    assert "s3cret" not in str(environment.variables(settings))
    assert "s3cret" not in repr(FeatureStoreResource(home=str(tmp_path)))

    from feast.infra.online_stores.redis import RedisOnlineStore
    from feast.repo_config import load_repo_config

    config = load_repo_config(FEATURE_REPO, path)
    assert config.online_store.type == "redis"
    places, options = RedisOnlineStore._parse_connection_string(config.online_store.connection_string)
    assert places == [{"host": "cache.example", "port": "7000"}]
    assert options == {
        "db": 4,
        "ssl": True,
        "username": "reader",
        "password": "s3cret,': #$HOME",  # pragma: allowlist secret
        "socket_connect_timeout": 0.5,
        "socket_timeout": 2,
        "ssl_cert_reqs": "none",
        "retry": None,
    }


def test_the_bare_feast_finds_a_redis_by_what_contrail_env_exports(
    tmp_path: Path, own_redis: RedisServer
) -> None:
    """Its password is in the environment alone: neither in a file nor in what is printed."""
    own_redis.client.config_set("requirepass", "s3cret' #")
    script = f"""
lines="$({Path(sys.executable).with_name("contrail")} env)"
case "$lines" in *s3cret*) exit 9 ;; esac
eval "$lines"
cd /
python -c '
import os
from pathlib import Path
from feast import FeatureStore
yaml = Path(os.environ["FEAST_FS_YAML_FILE_PATH"])
online = FeatureStore(repo_path="{FEATURE_REPO}", fs_yaml_file=yaml).config.online_store
from feast.infra.online_stores.redis import RedisOnlineStore
print(online.type, RedisOnlineStore()._get_client(online).ping())
'
"""
    env = {
        "PATH": "/usr/bin:/bin",
        "CONTRAIL_HOME": str(tmp_path),
        "CONTRAIL_ONLINE_STORE": "redis",
        "CONTRAIL_REDIS_URL": f"redis://:s3cret%27%20%23@{own_redis.address}/0",
    }
    done = subprocess.run(["bash", "-euc", script], env=env, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout.split()) == (0, ["redis", "True"]), done.stderr
    assert "s3cret" not in (tmp_path / "feature_store.yaml").read_text()


def test_the_default_home_keeps_no_file_of_a_redis_that_it_had(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(REDIS_VARIABLE, "set back after the test")
    monkeypatch.setattr(feast_config, "REPO_ROOT", tmp_path)
    home = tmp_path / ".contrail"
    with_redis = Settings(home=home, online_store="redis", redis_url=SecretStr("redis://cache.example"))
    own = feature_store_yaml(with_redis)
    assert own == home / "feature_store.yaml"
    assert own.exists()
    assert feature_store_yaml(Settings(home=home)) == FEATURE_REPO / "feature_store.yaml"
    assert not own.exists()


def test_a_reader_waits_for_a_hung_redis_as_long_as_a_reader_does(
    tmp_path: Path, own_redis: RedisServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The longer waits of a writer and of Feast's own clients are not taken for what somebody asked for."""
    view = OnlineView(
        "prices", "test", "prices", "test_prices", {"shop": "STRING"}, {"price": "DOUBLE"}, None
    )
    monkeypatch.setenv("CONTRAIL_ONLINE_STORE", "redis")

    def seconds(options: str) -> float:
        monkeypatch.setenv("CONTRAIL_REDIS_URL", f"redis://{own_redis.address}/0{options}")
        config = FeatureStoreResource(home=str(tmp_path)).store().config
        fetch = fetch_of(config, [Group([view])])
        began = time.monotonic()
        with pytest.raises(OnlineError, match="does not answer"):
            fetch.fetch([[encode_key({"shop": "a"}, view.keys)]])
        return time.monotonic() - began

    own_redis.hang()
    try:
        assert seconds("") < 0.5
        assert 0.6 <= seconds("?socket_timeout=0.6") < 1.5
        options = redis_address(FeatureStoreResource(home=str(tmp_path)).store().config).options
        assert (options["socket_timeout"], "socket_connect_timeout" in options) == (0.6, False)
    finally:
        own_redis.go_on()


@pytest.mark.parametrize("option", ["foo=1", "decode_responses=true", "host=other", "retry=3", "foo"])
def test_an_option_that_a_redis_client_lacks_is_named(option: str) -> None:
    with pytest.raises(OnlineError, match=rf"has the option '{option.partition('=')[0]}'") as caught:
        redis_connection_string(f"redis://:s3cret@host?{option}")
    assert "s3cret" not in str(caught.value)


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
