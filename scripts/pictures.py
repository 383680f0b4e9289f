"""Take the pictures of docs/ from the running system: `make demo`, then `make pictures`."""

from __future__ import annotations

import shutil
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from pathlib import Path

from playwright.sync_api import Page, sync_playwright

from contrail import environment, evidence, registry
from contrail.lake import Lake
from contrail.settings import REPO_ROOT, Settings, export
from feature_repo.use_cases import DEFAULT_USE_CASE

PICTURES = REPO_ROOT / "docs" / "pictures"
FLAGS = [
    "--no-sandbox",
    "--disable-gpu",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-sync",
]
START_SECONDS = 120
SETTLE_MILLISECONDS = 5_000


def main() -> None:
    """Serve the home on a free port, photograph its pages, stop the server."""
    settings = Settings()
    if not (settings.lake_root / "score").is_dir():
        sys.exit("there is nothing to photograph yet: make demo")
    chromium = shutil.which("chromium")
    if chromium is None:
        sys.exit("chromium is missing: sudo apt-get install chromium")
    export(environment.variables(settings))
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = [
        str(Path(sys.executable).with_name("dagster-webserver")),
        "-w",
        str(REPO_ROOT / "workspace.yaml"),
    ]
    server = subprocess.Popen([*command, "-h", "127.0.0.1", "-p", str(port)], cwd=settings.home)
    try:
        address = f"http://127.0.0.1:{port}"
        _wait(address)
        with sync_playwright() as player:
            browser = player.chromium.launch(executable_path=chromium, args=FLAGS)
            page = browser.new_page(viewport={"width": 1400, "height": 900})
            for name, path in (
                ("asset-graph", "/asset-groups"),
                ("contract-check", "/assets/raw/weather?view=checks&checkDetail=contract"),
                (
                    "candidate-checks",
                    "/assets/model/late_flight_2h/candidate?view=checks&checkDetail=champion",
                ),
                ("parity-check", "/assets/feature_store/online?view=checks&checkDetail=parity"),
            ):
                page.goto(address + path)
                page.wait_for_timeout(SETTLE_MILLISECONDS)
                _take(page, name)
            page.goto(f"{address}/locations/contrail/jobs/decide_promotion/playground")
            page.get_by_text("Scaffold missing config").first.click()
            page.get_by_role("button", name="Confirm").click()
            page.wait_for_timeout(SETTLE_MILLISECONDS)
            _take(page, "decide-promotion")
            page.goto(_card(settings).as_uri())
            _take(page, "model-card")
            page.goto(f"{address}/assets/monitor/late_flight_2h/performance")
            page.get_by_text("[Show Markdown]").first.click()
            page.wait_for_timeout(SETTLE_MILLISECONDS)
            _take(page, "monitor-report")
            browser.close()
    finally:
        server.terminate()
        server.wait(30)


def _card(settings: Settings) -> Path:
    """The card of the default use case's champion."""
    champion = next(
        v for v in registry.versions(DEFAULT_USE_CASE, Lake(settings.lake_root)) if v.role == "champion"
    )
    return evidence.folder(settings.lake_root, champion.sha256, champion.evaluation_id) / "card.html"


def _take(page: Page, name: str) -> None:
    PICTURES.mkdir(parents=True, exist_ok=True)
    page.screenshot(path=PICTURES / f"{name}.png")
    sys.stdout.write(f"docs/pictures/{name}.png\n")


def _wait(address: str) -> None:
    until = time.monotonic() + START_SECONDS
    while time.monotonic() < until:
        try:
            with urllib.request.urlopen(f"{address}/server_info", timeout=5):
                return
        except (urllib.error.URLError, OSError):
            time.sleep(1)
    sys.exit(f"the web page did not come up in {START_SECONDS} s")


if __name__ == "__main__":
    main()
