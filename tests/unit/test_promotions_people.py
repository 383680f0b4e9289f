"""Who decides: names and reasons as they are written down, and one person under whatever spelling."""

from __future__ import annotations

from pathlib import Path

import pytest

from contrail import decisions, promotions
from contrail.lake import Lake
from contrail.promotions import Refused
from tests.support.decided_models import COMMIT, approve, ask, champion_version, two_approvals, world
from tests.support.small_model import NOW, USE_CASE


@pytest.fixture
def lake(tmp_path: Path) -> Lake:
    """Version 1 is champion, version 2 challenger."""
    return world(tmp_path)


@pytest.mark.parametrize(
    ("by", "reason", "why"), [(" ", "x", "the name of who"), ("Bob", "\n", "its reason")]
)
def test_a_decision_without_a_name_or_a_reason(lake: Lake, by: str, reason: str, why: str) -> None:
    asked = ask(lake, 2)
    before = decisions.head(lake)
    for decide in (
        lambda: promotions.request(USE_CASE, 2, lake, by=by, reason=reason, now=NOW, commit=COMMIT),
        lambda: promotions.approve(USE_CASE, asked, lake, by=by, reason=reason, now=NOW, commit=COMMIT),
        lambda: promotions.reject(USE_CASE, asked, lake, by=by, reason=reason, now=NOW, commit=COMMIT),
        lambda: promotions.rollback(USE_CASE, lake, by=by, reason=reason, now=NOW, commit=COMMIT),
    ):
        with pytest.raises(Refused, match=f"^a decision needs {why}"):
            decide()
    assert decisions.head(lake) == before


@pytest.mark.parametrize("hidden", ["\u200b", "\u00ad", "\u202e", "\x1b", "\udcff"])
def test_what_does_not_show_makes_no_other_person_and_no_other_line(lake: Lake, hidden: str) -> None:
    asked = ask(lake, 2, by="Bob")
    with pytest.raises(Refused, match="^the name holds .*, which does not show: write it without$"):
        approve(lake, asked, f"Bo{hidden}b")
    with pytest.raises(Refused, match="^the reason holds .*, which does not show"):
        promotions.reject(USE_CASE, asked, lake, by="Ada", reason=f"x{hidden}", now=NOW, commit=COMMIT)
    (waiting,) = promotions.requests(USE_CASE, lake, now=NOW)
    assert waiting.state == "open"


def test_a_name_and_a_reason_are_one_line_each(lake: Lake) -> None:
    asked = ask(lake, 2)
    row = promotions.approve(
        USE_CASE, asked, lake, by=" Ada\tLovelace\n", reason="agreed,\n  for now\n", now=NOW, commit=COMMIT
    )
    assert (row.decided_by, row.reason) == ("Ada Lovelace", "agreed, for now")


@pytest.mark.parametrize("by", ["Bob", "bob", " BOB ", "Ｂｏｂ"])
def test_who_asked_under_any_spelling(lake: Lake, by: str) -> None:
    asked = ask(lake, 2, by="Bob")
    with pytest.raises(Refused, match="asked for it, and who asks cannot approve"):
        approve(lake, asked, by)
    assert champion_version(lake) == 1


@pytest.mark.parametrize("again", ["ada  straße", "ADA STRASSE", "Ａda\tStraße"])
def test_one_person_under_two_spellings_approves_once(lake: Lake, again: str) -> None:
    use_case = two_approvals()
    asked = ask(lake, 2, use_case=use_case)
    approve(lake, asked, "Ada Straße", use_case)
    with pytest.raises(Refused, match="has approved it already: one person approves once$"):
        approve(lake, asked, again, use_case)
    assert champion_version(lake) == 1
