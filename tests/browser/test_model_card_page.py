"""The model card in a browser: it fetches nothing, complains of nothing, and fits a screen and a phone."""

from __future__ import annotations

import io
import shutil
from dataclasses import replace
from pathlib import Path

import pytest
from matplotlib.figure import Figure
from playwright.sync_api import sync_playwright

from contrail.model_card import card
from tests.support.carded_model import PICTURES, card_facts, examined

pytestmark = [pytest.mark.browser]


@pytest.fixture
def picture() -> bytes:
    """A PNG of one pixel."""
    out = io.BytesIO()
    Figure(figsize=(0.01, 0.01), dpi=100).savefig(out, format="png")
    return out.getvalue()


def test_the_page_stands_alone_and_fits(tmp_path: Path, picture: bytes):
    chromium = shutil.which("chromium")
    assert chromium, "chromium is not installed; type: sudo apt-get install chromium"
    facts = replace(card_facts(*examined(), tmp_path / "lake"), pictures=dict.fromkeys(PICTURES, picture))
    path = tmp_path / "card.html"
    path.write_text(card(facts).html)
    heard: list[str] = []
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=chromium, args=["--no-sandbox", "--disable-gpu"])
        for width in (1280, 420):
            page = browser.new_page(viewport={"width": width, "height": 900})
            page.on("console", lambda message: heard.append(message.text))
            page.on("pageerror", lambda error: heard.append(str(error)))
            page.on(
                "request",
                lambda request: heard.append(request.url) if not request.url.startswith("data:") else None,
            )
            page.goto(path.as_uri())
            assert page.evaluate("document.documentElement.scrollWidth") <= width
            assert page.evaluate("[...document.images].filter(i => i.naturalWidth > 0).length") == len(
                PICTURES
            )
            top = page.locator(".minute").bounding_box()
            assert top is not None
            assert top["y"] < 900  # what it is good and bad at begins on the first screen
            assert page.get_by_text("Bad at").is_visible()
            heard.remove(path.as_uri())
        browser.close()
    assert heard == []
