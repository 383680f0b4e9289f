"""What is said of settings that cannot be: which variable, and no value of any, for some are secret."""

from __future__ import annotations

import re
import sys
from pathlib import Path

import pytest
from pydantic import ValidationError

from cli.app import main
from contrail.settings import Settings

REDIS_URL = "redis://reader:s3cret@cache.example/0"  # pragma: allowlist secret
ALERT_URLS = '["mailto://me:s3cret@mail.example"]'  # pragma: allowlist secret


@pytest.fixture(autouse=True)
def secrets(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CONTRAIL_REDIS_URL", REDIS_URL)
    monkeypatch.setenv("CONTRAIL_ALERT_URLS", ALERT_URLS)


@pytest.mark.parametrize(
    ("name", "value", "said"),
    [
        ("CONTRAIL_CLOCK", "replay", "CONTRAIL_CLOCK=replay needs CONTRAIL_REPLAY_AT"),
        ("CONTRAIL_REPLAY_AT", "2013-01-01T00:00", "CONTRAIL_REPLAY_AT has no zone"),
        ("CONTRAIL_THREADS", "none", "CONTRAIL_THREADS: Input should be a valid integer"),
        ("CONTRAIL_ONLINE_STORE", "paper", "CONTRAIL_ONLINE_STORE: Input should be 'sqlite' or 'redis'"),
        ("CONTRAIL_MLFLOW_URI", "mlruns", "CONTRAIL_MLFLOW_URI must be a server"),
        ("CONTRAIL_MLFLOW_URI", "sqlite:///relative.db", "CONTRAIL_MLFLOW_URI must be a server"),
        (
            "CONTRAIL_ALERT_URLS",
            "mailto:s3cret",
            'a setting cannot be read: .*"alert_urls"',
        ),
    ],
)
def test_a_wrong_setting_is_one_line_without_secrets(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], name: str, value: str, said: str
) -> None:
    monkeypatch.setenv(name, value)
    monkeypatch.setattr(sys, "argv", ["contrail", "env"])
    with pytest.raises(SystemExit) as ended:
        main()
    shown = capsys.readouterr()
    assert ended.value.code == 1
    assert shown.out == ""
    assert shown.err.startswith("contrail: ")
    assert shown.err.count("\n") == 1
    assert "s3cret" not in shown.err
    assert re.search(said, shown.err)


def test_the_error_itself_shows_no_other_setting(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CONTRAIL_CLOCK", "replay")
    with pytest.raises(ValidationError, match="CONTRAIL_REPLAY_AT") as caught:
        Settings()
    assert "s3cret" not in str(caught.value)


def test_mlflow_is_a_file_of_the_home_or_what_the_setting_names(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    assert Settings(home=tmp_path).mlflow_tracking_uri == f"sqlite:///{tmp_path}/mlflow.db"
    for uri in (
        "http://mlflow.example:5000",
        "postgresql+psycopg://me:s3cret@db.example/mlflow",  # pragma: allowlist secret
        "sqlite:////var/lib/mlflow.db",
    ):
        monkeypatch.setenv("CONTRAIL_MLFLOW_URI", uri)
        settings = Settings(home=tmp_path)
        assert settings.mlflow_tracking_uri == uri
        assert "s3cret" not in repr(settings)


@pytest.mark.parametrize(
    "uri",
    [
        "http://me:s3cret/x@mlflow.example:5000",
        "http://me:12/s3cret@mlflow.example:5000",
        "postgresql://me:12?s3cret@db.example/mlflow",
        "postgresql://me:12#s3cret@db.example/mlflow",
        "http://[s3cret",
    ],
)
def test_a_password_that_would_be_taken_for_another_part_is_refused_unseen(
    monkeypatch: pytest.MonkeyPatch, uri: str
) -> None:
    monkeypatch.setenv("CONTRAIL_MLFLOW_URI", uri)
    with pytest.raises(ValidationError, match="write / . # @ in a user or a password as %2F") as caught:
        Settings()
    assert "s3cret" not in str(caught.value)


def test_signs_may_stand_in_a_password_where_they_are_written_so(monkeypatch: pytest.MonkeyPatch) -> None:
    server = "http://me:s%2Fa%40@mlflow.example:5000/ml"  # pragma: allowlist secret
    for uri in (server, "sqlite:////var/lib/a@b.db"):
        monkeypatch.setenv("CONTRAIL_MLFLOW_URI", uri)
        assert Settings().mlflow_tracking_uri == uri
