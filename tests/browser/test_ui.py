"""The web page as a person meets it: the asset graph, one asset materialised for one day, its check and its plot.

Dagster's own server is run over a small home; Debian's headless chromium is driven through playwright. The webserver runs
alone here: with the daemon beside it, sensors would materialise the same days while the test looks on.
"""

from __future__ import annotations

import shutil
import time
from collections.abc import Callable, Iterator
from datetime import date
from pathlib import Path

import pytest
from playwright.sync_api import Page, expect, sync_playwright

from contrail import environment
from contrail.settings import Settings
from sources.nycflights import land

DAY = "2013-03-08"
ASSET = "assets/raw/weather"
STAGES = ("raw", "clean", "feature", "feature_store", "model", "score", "monitor")
FLAGS = (
    "--no-sandbox",
    "--disable-gpu",
    "--disable-dev-shm-usage",
    "--disable-quic",
    "--no-first-run",
    # Without these it looks for its maker's hosts at every start.
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
)
LATEST_RUN = "query { runsOrError(limit: 1) { ... on Runs { results { runId status } } } }"

pytestmark = [pytest.mark.browser, pytest.mark.slow]


@pytest.fixture(scope="module")
def settings(tmp_path_factory: pytest.TempPathFactory) -> Settings:
    """A home in which three days have landed and nothing is materialised."""
    settings = Settings(home=tmp_path_factory.mktemp("ui") / "home")
    environment.write(settings)
    # Runs start at once instead of waiting for the daemon to take them from the queue.
    text = environment.dagster_yaml(settings).replace("concurrency:", "#").replace("  runs:", "#")
    direct = "run_coordinator: {module: dagster.core.run_coordinator, class: DefaultRunCoordinator}\n"
    (settings.dagster_home / "dagster.yaml").write_text(text + direct)
    land(settings, first=date(2013, 3, 7), last=date(2013, 3, 9))
    return settings


@pytest.fixture(scope="module")
def server(settings: Settings, dagster_server) -> Iterator:
    with dagster_server(settings, "dagster-webserver") as server:
        assert "raw/weather" in server.assets()
        yield server


@pytest.fixture
def page() -> Iterator[Page]:
    chromium = shutil.which("chromium")
    assert chromium, "chromium is not installed; type: sudo apt-get install chromium"
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=chromium, args=list(FLAGS))
        page = browser.new_page(viewport={"width": 1600, "height": 1000})
        page.set_default_timeout(60_000)
        expect.set_options(timeout=60_000)
        yield page
        browser.close()


@pytest.fixture
def shoot(page: Page, tmp_path: Path, request: pytest.FixtureRequest) -> Callable[[str], None]:
    """Take a named screenshot, into the test's own folder or into --screenshots DIR."""
    folder: Path = request.config.getoption("--screenshots") or tmp_path / "screenshots"
    folder.mkdir(parents=True, exist_ok=True)

    def take(name: str) -> None:
        page.wait_for_timeout(1_000)  # what fades in has done so
        path = folder / f"{name}.png"
        page.screenshot(path=path)
        assert path.stat().st_size > 10_000, f"{path} shows nothing"

    return take


def wait_for_run(server, not_run: str | None) -> str:
    """The id of the run that comes after `not_run`, when it has ended well."""
    deadline = time.monotonic() + 240
    while time.monotonic() < deadline:
        for run in server.query(LATEST_RUN)["runsOrError"]["results"]:
            assert run["status"] not in {"FAILURE", "CANCELED"}, run
            if run["runId"] != not_run and run["status"] == "SUCCESS":
                return run["runId"]
        time.sleep(1)
    raise AssertionError("no run has ended in four minutes")


def test_the_asset_graph_shows_the_stages(page, server, shoot):
    page.goto(f"{server.address}/asset-groups")
    for stage in STAGES:
        expect(page.get_by_text(stage, exact=True).first).to_be_visible()
    shoot("asset-graph")


def test_a_day_is_materialised_from_its_asset_page(page, server, shoot):
    run_id = None
    for day in ("2013-03-07", DAY):  # two days make a line in the plots
        page.goto(f"{server.address}/{ASSET}?view=partitions&partition={day}")
        expect(
            page.get_by_role("heading", name=day).or_(page.get_by_text(day, exact=True)).first
        ).to_be_visible()
        page.get_by_role("button", name="Materialize").first.click()
        dialog = page.get_by_role("dialog")
        expect(dialog.get_by_role("textbox").first).to_have_value(day)
        if day == DAY:
            shoot("materialise")
        dialog.get_by_role("button", name="Launch 1 run").click()
        run_id = wait_for_run(server, run_id)

    # The day: its rows and its run.
    page.goto(f"{server.address}/{ASSET}?view=partitions&partition={DAY}")
    expect(page.get_by_text("Materialized", exact=True)).to_be_visible()
    expect(page.get_by_text(run_id[:8]).first).to_be_visible()
    expect(page.get_by_text("dagster/partition_row_count")).to_be_visible()
    expect(page.get_by_role("row", name="landed_rows").first).to_contain_text("72")
    shoot("day")

    # Its check: passed, for this day, with a row per expectation and a plot.
    page.goto(f"{server.address}/{ASSET}?view=checks")
    expect(page.get_by_text("This is a blocking asset check.")).to_be_visible()
    expect(page.get_by_text("Passed", exact=True)).to_be_visible()
    expect(page.get_by_text(DAY, exact=True).first).to_be_visible()
    expect(page.get_by_text("expect_", exact=False).first).to_be_visible()
    shoot("check")
    plot = page.locator("canvas").first
    plot.scroll_into_view_if_needed()
    expect(plot).to_be_visible()
    shoot("check-plot")

    # What it is: description, owner, kinds, columns with their units, and its numbers over time.
    page.goto(f"{server.address}/{ASSET}?view=overview")
    for heading in ("Description", "Columns", "Owners", "Kinds"):
        expect(page.get_by_text(heading, exact=True).first).to_be_visible()
    expect(page.get_by_text("temperature_f", exact=True)).to_be_visible()
    expect(page.get_by_text("unit: ", exact=False).first).to_be_visible()
    shoot("asset")
    page.get_by_text("Plots", exact=True).click()
    page.get_by_text("Events", exact=True).last.click()  # the first is a tab of the page
    plot = page.locator("canvas").first
    plot.scroll_into_view_if_needed()
    expect(plot).to_be_visible()
    shoot("asset-plots")
