"""The validation page: everything that ingestion found is on it, and it needs nothing from anywhere."""

from __future__ import annotations

import re
from datetime import date, timedelta
from html.parser import HTMLParser

import pytest

from contrail import duck, landing, validation_page
from contrail.ingest import ingest
from tests.support import contract_files as files
from tests.support.contract_files import DAY, deliver, line, lines

DAYS = [(date(2024, 3, 5) + timedelta(days=n)).isoformat() for n in range(4)]


class Page(HTMLParser):
    """The text of the page, its tags and the addresses in its attributes."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.tags: set[str] = set()
        self.attributes: set[str] = set()
        self.cells: dict[str, int] = {}
        self.words: list[str] = []
        self._style = False
        self.feed(html)

    def handle_starttag(self, tag, attrs):
        self.tags.add(tag)
        self.attributes |= {name for name, _ in attrs}
        self._style = tag == "style"
        if tag == "td":
            kind = dict(attrs).get("class") or "good"
            self.cells[kind] = self.cells.get(kind, 0) + 1

    def handle_data(self, data):
        if not self._style:
            self.words.append(data)

    @property
    def text(self) -> str:
        return re.sub(r"\s+", " ", " ".join(self.words))


@pytest.fixture
def page(tmp_path):
    contract = files.contract(tmp_path)
    root = tmp_path / "landing"
    deliver(root, [*lines(30), line(30, level="<b>7")])
    deliver(root, [line(n, DAYS[1], note="") for n in range(9)], day=DAYS[1])
    deliver(root, lines(5, DAYS[2]), day=DAYS[2]).path.write_bytes(b"")
    deliver(root, [], day=DAYS[3])
    with duck.connect() as con:
        result = ingest(contract, landing.deliveries(root, "readings"), con=con)
    return result, validation_page.render(contract, result.partitions)


def test_the_page_needs_nothing_but_itself(page):
    _, html = page
    found = Page(html)
    assert not found.tags & {"script", "link", "img", "iframe", "object", "embed", "base"}
    assert not found.attributes & {"src", "href", "srcset", "action", "data"}
    assert "//" not in html.replace("<!doctype", "")
    assert "url(" not in html
    assert "@import" not in html


def test_the_page_says_what_was_found(page):
    result, html = page
    text = Page(html).text
    assert "readings 1 blocked" in text
    assert "What the gauges read. Contract version 1.2.0, kept by gauges" in text
    assert "45 rows landed" in text
    assert "39 accepted" in text
    assert "6 in quarantine" in text
    (blocked,) = [report for report in result.partitions if report.status == "blocked"]
    assert blocked.reasons[0] in text
    for one in result.partitions[0].rules:
        assert one.rule in text
    assert "type:level" in text
    assert f"{DAY}: 1 of 31 rows" in text
    assert f"{DAYS[1]}: 9 of 9 rows" in text
    assert "expect_column_values_to_be_between (column='level', max_value=900)".replace(" (", "(") in text
    assert "volume: 0 rows" in text


def test_every_rule_has_a_cell_for_every_partition(page):
    result, html = page
    cells = Page(html).cells
    rules = len(result.partitions[0].rules)
    assert cells["x"] == rules  # the unreadable partition
    assert cells["r"] == 1
    broken_warnings = [
        one
        for report in result.partitions
        for one in report.rules
        if one.rule_class == "warn" and not one.success
    ]
    assert cells["w"] == len(broken_warnings) == 2
    matrix = html[html.index('class="matrix"') : html.index("</tbody>")]
    assert matrix.count("<td") == rules * len(DAYS)


def test_what_the_data_say_is_text_and_no_markup(tmp_path):
    changed = files.document()
    changed["schema"][0]["description"] = "<script>alert(1)</script>"
    html = validation_page.render(files.contract(tmp_path, changed), [])
    assert "<script>" not in html
    assert "&lt;script&gt;" in html


def test_the_page_is_written_whole_into_a_new_folder(tmp_path, page):
    result, html = page
    path = tmp_path / "validation" / "readings.html"
    validation_page.write(path, files.contract(tmp_path), result.partitions)
    assert path.read_text(encoding="utf-8") == html
    assert list(path.parent.iterdir()) == [path]
