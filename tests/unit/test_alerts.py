"""Alerts reach every target, a failure is told, and no address is."""

from __future__ import annotations

import json
import logging
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path

import pytest

from contrail.alerts import Alert, AlertError, send
from contrail.settings import Settings

ALERT = Alert("2 partition(s) blocked", "raw/readings:2024-03-05: damaged")
TOKEN = "hush-5f2c9a"  # pragma: allowlist secret


class Webhook:
    """A JSON webhook on loopback; `status` is what it answers."""

    def __init__(self) -> None:
        self.received: list[dict[str, object]] = []
        self.status = 200
        hook = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                length = int(self.headers["Content-Length"])
                hook.received.append({"path": self.path, **json.loads(self.rfile.read(length))})
                self.send_response(hook.status)
                self.end_headers()

            def log_message(self, *arguments: object) -> None:
                del arguments

        self.server = HTTPServer(("127.0.0.1", 0), Handler)
        self.thread = threading.Thread(target=self.server.serve_forever, daemon=True)
        self.thread.start()

    def url(self, path: str = "") -> str:
        return f"json://127.0.0.1:{self.server.server_port}/{path}"

    def close(self) -> None:
        self.server.shutdown()
        self.server.server_close()
        self.thread.join()


@pytest.fixture
def webhook() -> Iterator[Webhook]:
    made = Webhook()
    yield made
    made.close()


def settings(home: Path, *urls: str) -> Settings:
    return Settings(home=home, alert_urls=urls)


def test_an_alert_reaches_every_target_with_title_and_text(webhook, tmp_path):
    send(settings(tmp_path, webhook.url("one"), webhook.url("two")), ALERT)
    assert sorted(str(message["path"]) for message in webhook.received) == ["/one", "/two"]
    for message in webhook.received:
        assert message["title"] == "Contrail: 2 partition(s) blocked"
        assert message["message"] == ALERT.text
        assert message["type"] == "warning"


def test_without_targets_an_alert_is_logged_and_nothing_else(tmp_path, caplog):
    with caplog.at_level(logging.WARNING, logger="contrail.alerts"):
        send(settings(tmp_path), ALERT)
    assert [record.message for record in caplog.records] == [f"{ALERT.title}: {ALERT.text}"]


def test_the_targets_come_from_the_environment(webhook, tmp_path, monkeypatch):
    monkeypatch.setenv("CONTRAIL_ALERT_URLS", json.dumps([webhook.url("from-environment")]))
    send(Settings(home=tmp_path), ALERT)
    assert [message["path"] for message in webhook.received] == ["/from-environment"]


def test_a_target_that_refuses_is_an_error_though_another_took_it(webhook, tmp_path):
    webhook.status = 500
    with pytest.raises(AlertError, match="did not take the message '2 partition"):
        send(settings(tmp_path, webhook.url()), ALERT)
    assert webhook.received


def test_a_target_that_is_not_there_is_an_error_and_its_secret_is_told_nowhere(webhook, tmp_path, caplog):
    gone = webhook.url(f"?+Authorization={TOKEN}").replace("json://", f"json://user:{TOKEN}@")
    webhook.close()
    with caplog.at_level(logging.DEBUG), pytest.raises(AlertError) as failure:
        send(settings(tmp_path, gone), ALERT)
    assert TOKEN not in f"{failure.value!r} {failure.value.__cause__!r}"
    assert TOKEN not in "\n".join(r.getMessage() for r in caplog.records if r.levelno >= logging.INFO)


def test_a_target_that_apprise_does_not_know_is_named_by_its_number_only(webhook, tmp_path, caplog):
    with (
        caplog.at_level(logging.DEBUG),
        pytest.raises(AlertError, match="alert target 2 of CONTRAIL_ALERT_URLS") as failure,
    ):
        send(settings(tmp_path, webhook.url(), f"carrier-pigeon://{TOKEN}@loft"), ALERT)
    assert TOKEN not in repr(failure.value)
    assert TOKEN not in "\n".join(r.getMessage() for r in caplog.records)
    assert webhook.received == [], "nothing goes out while a target is not understood"


def test_settings_do_not_show_the_addresses(tmp_path):
    shown = settings(tmp_path, f"json://user:{TOKEN}@127.0.0.1")
    assert TOKEN not in f"{shown!r} {shown} {shown.model_dump_json()}"
