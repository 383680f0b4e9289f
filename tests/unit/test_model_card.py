"""The model card says every field, only the record's numbers, and needs nothing but itself."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import asdict, replace
from html.parser import HTMLParser
from typing import Any

import pytest

from contrail.evidence import Evidence
from contrail.model_card import Card, CardError, CardFacts, card
from contrail.model_card_words import summarise
from contrail.model_text import feature_infos
from contrail.training import TrainedModel
from tests.support.carded_model import BACKTEST, PICTURES, VERDICTS, card_facts, examined
from tests.support.small_model import LINEAGE, USE_CASE

MITCHELL = (
    "Model details", "Intended use", "Out of scope", "Factors", "Metrics", "Evaluation data", "Training data",
    "Quantitative analyses", "Ethical considerations", "Caveats and recommendations",
)  # fmt: skip
OURS = ("Criteria and verdicts", "Leakage certificate", "What the model file still shows", "Check it")


@pytest.fixture(scope="module")
def made() -> tuple[TrainedModel, Evidence]:
    return examined()


@pytest.fixture(scope="module")
def facts(made, tmp_path_factory) -> CardFacts:
    return card_facts(*made, tmp_path_factory.mktemp("lake"))


@pytest.fixture(scope="module")
def written(facts) -> Card:
    return card(facts)


class Page(HTMLParser):
    """Texts by tag, attributes that could fetch something, and the rows of every table."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.texts: list[tuple[str, str]] = []
        self.tags: set[str] = set()
        self.links: list[str] = []
        self.rows: list[list[str]] = []
        self.feed(html)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.add(tag)
        self.links += [
            v or "" for n, v in attrs if n in ("src", "href", "srcset", "action", "data", "poster")
        ]
        if tag not in ("meta", "img", "br"):
            self.open.append(tag)
        if tag == "tr":
            self.rows.append([])
        if tag in ("td", "th"):
            self.rows[-1].append("")

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag, f"</{tag}> closes nothing"

    def handle_data(self, data: str) -> None:
        if self.open:
            self.texts.append((self.open[-1], data.strip()))
            if "td" in self.open or "th" in self.open:
                self.rows[-1][-1] += data.strip()

    def of(self, tag: str) -> list[str]:
        return [text for where, text in self.texts if where == tag and text]


@pytest.fixture(scope="module")
def page(written) -> Page:
    return Page(written.html)


def changed(given: CardFacts, /, **fields: Any) -> CardFacts:
    return replace(given, evidence={**given.evidence, **fields})


def whole(record: Mapping[str, Any]) -> Mapping[str, Any]:
    return next(row for row in record["groups"] if row["part"] == "test" and row["kind"] == "all")


# --- fields and numbers -------------------------------------------------------------------------------------


def test_every_field_is_there(written, page):
    assert page.of("h2") == [*MITCHELL[:8], *OURS[:2], *MITCHELL[8:], *OURS[2:]]
    headings = re.findall(r"^## (.*)$", written.markdown, re.MULTILINE)
    assert headings == ["In a minute", *page.of("h2")]


def test_what_identifies_the_model_is_told(facts, written):
    told = [
        facts.evidence["model_sha256"], facts.evaluation_id, "clean/jars@v7", "feature/kiln@v2", LINEAGE.run_id,
        LINEAGE.tracking_run_id, LINEAGE.git_sha, LINEAGE.lock_sha256, USE_CASE.criteria_sha256, "team:jars", "version 3",
        USE_CASE.description, LINEAGE.training_set, USE_CASE.feature_order_sha256,
    ]  # fmt: skip
    for text in told:
        assert text in written.html
        assert text in written.markdown


def test_the_numbers_are_the_record_s(facts, page):
    def shown(value: float, digits: int = 4, sign: str = "") -> str:
        return f"{value:{sign}.{digits}f}".replace("-", "−")

    record = facts.evidence
    test = whole(record)
    for name in ("auc", "pr_auc", "log_loss", "brier", "ece", "bias"):
        row = next(r for r in page.rows if r[:2] == ["test", name])
        assert row[2] == shown(test[name], sign="+" if name == "bias" else "")
        assert row[3] == f"{shown(test[f'{name}_low'])} … {shown(test[f'{name}_high'])}"
        assert row[-1] == f"{test['rows']:,}"
    slices = [row for row in record["groups"] if row["kind"] == "maker"]
    assert len(slices) == 2
    for each in slices:
        row = next(r for r in page.rows if r[:2] == ["maker", each["group"]])
        assert row[2] == f"{each['rows']:,}"
        assert row[4] == shown(each["auc"])
        assert row[5] == f"{each['auc_low']:.3f} … {each['auc_high']:.3f}"
        assert (row[6], row[7]) == (shown(each["naive_auc"]), shown(each["logistic_auc"]))
        assert (row[8], row[9]) == (shown(each["log_loss"]), shown(each["naive_log_loss"]))
    for each in BACKTEST:
        row = next(r for r in page.rows if r[0] == f"{each['month']:%Y-%m}")
        assert row[4:8] == [shown(each[n]) for n in ("auc", "naive_auc", "log_loss", "naive_log_loss")]
        assert row[9] == shown(each["bias"], sign="+")
    for verdict in VERDICTS:
        row = next(r for r in page.rows if r[0] == verdict.criterion)
        assert row[1] == shown(verdict.limit)
        assert row[3] == ("met" if verdict.met else "not met")
        assert row[4] == verdict.note
    assert next(r for r in page.rows if r[0] == "parity")[2] == "not found"
    for part in record["leakage"]["parts"]:
        assert next(r for r in page.rows if r[0] == part["part"] and len(r) == 9)[1] == f"{part['rows']:,}"
    for each in record["facts"]["fairness"]:
        row = next(r for r in page.rows if r[:2] == [each["kind"], each["group"]] and len(r) == 8)
        assert row[3] == shown(each["selection_rate"])


def test_both_forms_hold_the_same_numbers(written, page):
    cells = {c for row in page.rows for c in row if re.fullmatch(r"[−+]?\d\.\d{4}", c)}
    assert len(cells) > 40
    assert not [cell for cell in cells if cell not in written.markdown]


def test_what_the_file_shows_is_the_model_text_s_own(facts, page):
    least, greatest = re.search(r"feature_infos=\[([^:]+):([^\]]+)\]", facts.model_text).groups()
    assert ["wall_mm", f"least value {least}, greatest value {greatest}"] in page.rows
    assert ["colour", "3 integer codes, in order of their frequency"] in page.rows
    assert list(feature_infos(facts.model_text)) == list(USE_CASE.features)


# --- the summary in words -----------------------------------------------------------------------------------


def test_the_summary_names_best_and_worst(facts):
    record = facts.evidence
    told = summarise(USE_CASE, record)
    slices = sorted((r for r in record["groups"] if r["kind"] == "maker"), key=lambda r: r["auc"])
    good, bad = " ".join(told.good), " ".join(told.bad)
    assert f"ranks best on maker = {slices[-1]['group']}: AUC {slices[-1]['auc']:.3f}" in good
    assert f"ranks worst on maker = {slices[0]['group']}: AUC {slices[0]['auc']:.3f}" in bad
    assert "In the backtest it ranks worst in 2024-02: AUC 0.710 (the naive reference: 0.520)." in bad
    assert "in 2024-02 it said 38.0\u00a0% where 50.0\u00a0% came out" in bad
    assert "beats the naive reference in each of 2 months" in good
    assert "Better than the champion: log-loss 0.0123 less (0.0045 … 0.0201, 15 days)" in good
    assert "Significantly worse than the champion on maker = north" in bad
    assert "Not met: max_bias: 0.0731, limit 0.0500 (worse than it was)." in bad
    assert "Not met: parity: nothing found, limit 0.0000 (never compared)." in bad
    assert f"{100 * whole(record)['auc']:.1f} times in 100" in told.sentences[1]


def test_the_summary_turns_with_the_numbers(facts):
    record = facts.evidence
    test = {**whole(record), "bias": -0.2, "log_loss": 0.8, "naive_log_loss": 0.7}
    groups = [test if row is whole(record) else row for row in record["groups"]]
    months = [{**row, "log_loss": 0.9} for row in record["backtest"]]
    worse = {**record["comparison"], "gain": -0.02, "low": -0.03, "high": -0.01, "slices": []}
    told = summarise(
        USE_CASE,
        {
            **record,
            "groups": groups,
            "backtest": months,
            "comparison": worse,
            "leakage": {**record["leakage"], "holds": False},
        },
    )
    bad = " ".join(told.bad)
    assert told.bad[0].startswith("The leakage certificate does not hold")
    assert "No better than the naive reference: log-loss 0.8000 against 0.7000 (14.3\u00a0% more)" in bad
    assert "Its probabilities are off: on average 20.0 percentage points too low" in bad
    assert "In the backtest by log-loss no better than the naive reference in 2024-02, 2024-03." in bad
    assert "Worse than the champion: log-loss 0.0200 more" in bad
    even = {**worse, "low": -0.03, "high": 0.01}
    assert "Not shown to be better than the champion" in " ".join(
        summarise(USE_CASE, {**record, "comparison": even}).bad
    )


def test_what_is_not_known_is_said(facts):
    bare = changed(facts, comparison={}, champion_sha256="", backtest=[], facts={}, verdicts=[])
    nulls = [
        {n: None if n.endswith(("_low", "_high")) or n.startswith("logistic") else v for n, v in row.items()}
        for row in bare.evidence["groups"]
    ]
    written = card(
        replace(changed(bare, groups=nulls), version=None, owner="", data_versions=(), pictures={})
    )
    for words in ("There was no champion to compare it with.", "There were too few months for a backtest",
                  "given at its registration", "contrail reproduce-model VERSION --use-case broken_jar"):  # fmt: skip
        assert words in written.html
    assert "None" not in Page(written.html).of("td")
    assert "a logistic regression:" not in written.html


def test_a_champion_without_common_rows_is_not_called_none(facts):
    written = card(changed(facts, comparison={}))
    assert "It could not be compared with the champion of the moment." in written.html
    assert "There was no champion" not in written.html


# --- a page that needs nothing and runs nothing -------------------------------------------------------------


def test_nothing_is_fetched_and_nothing_runs(page, written):
    assert len(page.links) > len(PICTURES)
    assert all(link.startswith(("data:image/png;base64,", "#")) for link in page.links)
    assert sum(link.startswith("data:") for link in page.links) == len(PICTURES)
    assert not {"script", "link", "iframe", "object", "base"} & page.tags
    assert "url(" not in written.html
    assert "@import" not in written.html
    assert "default-src 'none'" in written.html
    assert page.open == []
    assert not re.search(r"\]\((?!data:)", written.markdown)


def test_every_picture_is_shown_once_the_telling_ones_first(written):
    places = [written.html.index(f'alt="{caption}"') for caption in (
        "Slices, worst first", "Calibration: what it says against what came out",
        "Importance: share of the gain of all splits", "Odd one",
    )]  # fmt: skip
    assert places == sorted(places)
    assert places[1] < written.html.index("<nav>") < places[2]
    assert written.markdown.count("data:image/png;base64,") == len(PICTURES)


def test_texts_are_escaped(facts):
    evil = '<script>alert("1")</script> | *a* _b_ [c](http://d) `e`\n# f'
    groups = [{**row, "group": evil} if row["kind"] == "maker" else row for row in facts.evidence["groups"]]
    use_case = replace(USE_CASE, title=evil, description=evil)
    written = card(replace(changed(facts, groups=groups), use_case=use_case))
    assert "<script" not in written.html
    assert "&lt;script&gt;" in written.html
    assert Page(written.html).open == []
    lines = [line for line in written.markdown.splitlines() if "alert" in line]
    assert len(lines) >= 4
    for line in lines:
        unescaped = re.sub(r"\\.", "", line)
        assert "<" not in unescaped
        assert "](http" not in unescaped
        assert not re.search(r"(?<![\w|:-])[*_`](?=\w)", unescaped.removeprefix("**"))
    table = [
        line for line in written.markdown.splitlines() if line.startswith("| maker") and line.count(" | ") > 8
    ]
    assert {len(re.findall(r"(?<!\\)\|", line)) for line in table} == {13}


def test_the_commands_name_the_version(facts, written):
    for form in (written.html, written.markdown):
        assert "contrail reproduce-model 3 --use-case broken_jar" in form
        assert "contrail trace PREDICTION_ID" in form
        assert "contrail audit verify" in form


def test_the_same_facts_give_the_same_card(facts, written):
    assert card(facts) == written


def test_facts_that_do_not_belong_together_are_refused(facts):
    with pytest.raises(CardError, match="evidence of other"):
        card(changed(facts, use_case="other"))
    with pytest.raises(CardError, match="manifest is of another one"):
        card(changed(facts, model_sha256="f" * 64))
    with pytest.raises(CardError, match="no test part"):
        card(changed(facts, groups=[]))


def test_the_record_that_was_just_made_will_do(made, facts):
    _, found = made
    assert card(replace(facts, evidence=json.loads(found.record))) == card(facts)
    assert asdict(found)["use_case"] == facts.evidence["use_case"]
