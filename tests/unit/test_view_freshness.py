"""Freshness of views: from the commit and the clock, never from the age of rows; the newest row decides what answers."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, date, datetime, timedelta
from pathlib import Path

import pyarrow as pa
import pytest

from contrail import duck
from contrail.incremental import BUILT_UNTIL
from contrail.lake import Commit, Lake
from contrail.view_freshness import (
    ONLINE_PLACE,
    STATES,
    OnlineCopy,
    State,
    ViewFacts,
    ViewRules,
    all_views,
    in_words,
    is_elsewhere,
    judge,
    measure,
    online_copies,
)

NOW = datetime(2013, 6, 10, 7, tzinfo=UTC)
HOUR, DAY = timedelta(hours=1), timedelta(days=1)
STAMP = pa.timestamp("us", tz="UTC")

RULES = ViewRules("levels", "feature/levels", ("clean/sales",), ("shop",), 6 * HOUR, has_priors=False)
GRID = ViewRules("counts", "feature/counts", ("clean/sales",), ("shop",), 3 * DAY, has_priors=True)
FRESH = ViewFacts(
    version=4, built_until=NOW, unread=(), newest_known_at=NOW - HOUR, entities=3, entities_answering=3,
    online=OnlineCopy(4, NOW),
)  # fmt: skip


@pytest.mark.parametrize(
    ("changed", "complete_until", "state"),
    [
        ({}, NOW, "fresh"),
        ({}, NOW + DAY, "fresh"),  # nothing may be built beyond now
        ({"newest_known_at": NOW - 6 * HOUR}, NOW, "fresh"),
        (
            {"built_until": NOW - DAY, "online": OnlineCopy(4, NOW)},
            NOW - DAY,
            "fresh",
        ),  # the feeds are behind
        ({"built_until": NOW - DAY}, NOW - HOUR, "behind"),
        ({"built_until": NOW - DAY}, None, "behind"),
        ({"unread": ("clean/sales",)}, NOW, "behind"),  # a correction, for instance
        ({"online": None}, NOW, "online copy behind"),
        ({"online": OnlineCopy(3, NOW)}, NOW, "online copy behind"),
        ({"online": OnlineCopy(4, NOW - HOUR)}, NOW, "online copy behind"),
        ({"newest_known_at": NOW - 6 * HOUR - timedelta(microseconds=1)}, NOW, "source ended"),
        ({"newest_known_at": None}, NOW, "source ended"),
        ({"built_until": None, "version": None, "newest_known_at": None}, NOW, "never built"),
    ],
)
def test_the_state_is_what_a_run_would_mend(
    changed: dict, complete_until: datetime | None, state: State
) -> None:
    found = judge(RULES, replace(FRESH, **changed), complete_until=complete_until, now=NOW)
    assert found.state == state
    assert in_words(found).startswith(f"levels: {STATES[state]}")


def test_an_old_row_is_no_staleness_where_priors_stand_in() -> None:
    quiet = replace(FRESH, newest_known_at=NOW - 2 * DAY)
    assert judge(GRID, quiet, complete_until=NOW, now=NOW).state == "fresh"
    assert judge(RULES, quiet, complete_until=NOW, now=NOW).state == "source ended"


def test_lags_are_counted_to_what_may_be_built_and_to_now() -> None:
    found = judge(RULES, replace(FRESH, built_until=NOW - 5 * HOUR), complete_until=NOW - 3 * HOUR, now=NOW)
    assert (found.lag, found.lag_to_now, found.newest_age) == (2 * HOUR, 5 * HOUR, HOUR)
    ahead = judge(RULES, replace(FRESH, built_until=NOW + DAY), complete_until=NOW, now=NOW)
    assert (ahead.lag, ahead.lag_to_now) == (timedelta(0), timedelta(0))


def test_words_name_view_newest_row_age_limit_and_consequence() -> None:
    ended = replace(FRESH, newest_known_at=NOW - 55 * HOUR, entities_answering=0)
    found = judge(RULES, ended, complete_until=NOW, now=NOW)
    assert found.outside_max_age
    assert in_words(found).endswith(
        "; its newest row, known at 2013-06-08 00:00Z, is 55 h old, the max age is 6 h: every look-up gives null, "
        "flagged as outside max age"
    )
    of_grid = judge(GRID, replace(FRESH, newest_known_at=NOW - 80 * HOUR), complete_until=NOW, now=NOW)
    assert in_words(of_grid).endswith("every look-up gives its declared prior")
    empty = judge(RULES, replace(FRESH, newest_known_at=None), complete_until=NOW, now=NOW)
    assert "it has no row at all" in in_words(empty)


def test_a_stale_view_that_answers_nothing_says_both() -> None:
    facts = replace(FRESH, built_until=NOW - DAY, newest_known_at=NOW - 30 * HOUR)
    found = judge(RULES, facts, complete_until=NOW, now=NOW)
    assert (found.state, found.outside_max_age) == ("behind", True)
    assert "a run mends it" in in_words(found)
    assert "30 h old" in in_words(found)


# --- reading ---------------------------------------------------------------------------------------------------------


def _write(
    lake: Lake, table: str, rows: list[tuple[str, datetime, datetime]], built_until: datetime | None
) -> None:
    data = pa.table(
        {
            "shop": pa.array([shop for shop, _, _ in rows], pa.string()),
            "known_at": pa.array([known for _, known, _ in rows], STAMP),
            "created_at": pa.array([created for *_, created in rows], STAMP),
            "month": pa.array([date(2013, 6, 1)] * len(rows)),
        }
    )
    facts = {BUILT_UNTIL: built_until.isoformat()} if built_until else {}
    lake.create(table, data.schema)
    lake.append(table, data, Commit(table, f"run {built_until}", (), extra=facts))


@pytest.fixture
def lake(tmp_path: Path) -> Lake:
    lake = Lake(tmp_path)
    rows = [
        ("a", NOW - HOUR, NOW - HOUR),
        ("b", NOW - 7 * HOUR, NOW - 7 * HOUR),
        ("c", NOW - 2 * DAY, NOW - DAY),
    ]
    unknown = [("d", NOW + HOUR, NOW + HOUR), ("e", NOW - HOUR, NOW + HOUR)]
    for table in ("feature/levels", "feature/counts"):
        _write(lake, table, rows, NOW - 3 * HOUR)
        _write(lake, table, unknown, NOW)
    lake.create("store/online", pa.schema(
        [("feature_view", pa.string()), ("source_table", pa.string()), ("materialised_until", STAMP)]
    ))  # fmt: skip
    lake.append(
        "store/online",
        pa.table({
            "feature_view": ["levels", "counts"],
            "source_table": ["feature/levels@v2", "feature/counts@v1"],
            "materialised_until": pa.array([NOW, NOW - HOUR], STAMP),
        }),
        Commit("store/online", "run", ()),
    )  # fmt: skip
    return lake


def test_a_table_is_read_as_known_now_and_its_commit_says_until_when(lake: Lake) -> None:
    with duck.connect() as con:
        copies = online_copies(lake, con, "store/online")
        assert copies == {"levels": OnlineCopy(2, NOW), "counts": OnlineCopy(1, NOW - HOUR)}
        levels = measure(lake, con, RULES, copies["levels"], NOW)
        counts = measure(lake, con, GRID, None, NOW)
        missing = measure(lake, con, replace(RULES, table="feature/nothing"), None, NOW)
    assert levels == ViewFacts(2, NOW, (), NOW - HOUR, 3, 1, OnlineCopy(2, NOW))
    assert counts == ViewFacts(2, NOW, (), NOW - HOUR, None, None, None)
    assert missing == ViewFacts(None, None, (), None, None, None, None)


def test_a_source_that_has_moved_on_since_is_named(lake: Lake) -> None:
    source = "clean/sales"
    rows = pa.table({"sold": [1]})
    lake.create(source, rows.schema)
    lake.append(source, rows, Commit(source, "first", ()))
    nothing = lake.schema("feature/levels").empty_table().select(["shop", "known_at", "created_at", "month"])
    facts = {BUILT_UNTIL: NOW.isoformat()}
    lake.append("feature/levels", nothing, Commit("feature/levels", "read", (lake.ref(source),), extra=facts))
    with duck.connect() as con:
        assert measure(lake, con, RULES, None, NOW).unread == ()
        lake.append(source, rows, Commit(source, "corrected", ()))
        found = measure(lake, con, RULES, None, NOW)
    assert found.unread == (source,)
    judged = judge(RULES, found, complete_until=NOW, now=NOW)
    assert (judged.state, judged.lag) == ("behind", timedelta(0))
    assert "a run mends it (there are newer versions of clean/sales)" in in_words(judged)


def test_another_online_store_than_was_filled_is_behind(lake: Lake) -> None:
    def states(place: str | None) -> list[State]:
        rules = [RULES, replace(GRID, view="levels")]
        return [
            view.state
            for view in all_views(
                lake, rules, online_table="store/online", online_place=place, complete_until=NOW, now=NOW
            )
        ]

    here = ["fresh", "fresh"]
    assert states("redis cache:6379/0") == here, "of an older home's record nobody knows where it went"
    assert not is_elsewhere(lake, "store/nothing", "redis cache:6379/0")
    with duck.connect() as con:
        rows = con.sql(f"SELECT * EXCLUDE (_written_at, _run_id) FROM {lake.scan('store/online')}")
        filled = Commit("store/online", "again", (), extra={ONLINE_PLACE: "redis cache:6379/0"})
        lake.replace_partitions("store/online", rows.to_arrow_table(), filled, where="true")
    assert states("redis cache:6379/0") == states(None) == here
    assert states("redis cache:6379/1") == ["online copy behind"] * 2
    assert states("sqlite online_store.db") == ["online copy behind"] * 2


def test_all_views_at_once(lake: Lake) -> None:
    found = all_views(lake, [RULES, GRID], online_table="store/online", complete_until=NOW, now=NOW)
    assert [(view.rules.view, view.state) for view in found] == [
        ("levels", "fresh"),
        ("counts", "online copy behind"),
    ]
    later = all_views(lake, [RULES], online_table="store/nothing", complete_until=NOW + DAY, now=NOW + DAY)
    assert (later[0].state, later[0].lag, later[0].facts.online) == ("behind", DAY, None)
    # By then the rows of the future are known, and they are what is newest.
    assert later[0].facts.newest_known_at == NOW + HOUR
