"""Freshness of the feature views, on the project's clock: what was built, what is online, what still answers.

The age of a row says nothing about freshness where rows stand only where a value can change: no row since the morning
may mean that nothing has happened since. So freshness comes from the commit of the view's table, which says until when
it was built. The age of the newest row decides one other thing: whether any look-up is still answered.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Literal, TypeAlias

import duckdb

from contrail import duck, incremental
from contrail.asof_join import instant
from contrail.duck import quote_identifier as q
from contrail.lake import Lake

ONLINE_PLACE = "online_place"
"""The fact of a materialisation's commit that says which online store was filled: its kind and where it is."""

State: TypeAlias = Literal["fresh", "behind", "online copy behind", "source ended", "never built"]

STATES: Mapping[State, str] = {
    "fresh": "built as far as the feeds are complete, and online",
    "behind": "its sources hold more than the table was built from: a run mends it",
    "online copy behind": "the table is built, the online store holds an earlier version or is another one than was "
    "filled: materialising mends it",
    "source ended": "built and online, but no row is young enough to answer: only a newer delivery mends it",
    "never built": "there is no table yet: a run makes it",
}


@dataclass(frozen=True)
class ViewRules:
    """What is declared of a view, as far as freshness goes.

    Attributes:
        view: its name.
        table: the lake table it reads, ``stage/name``.
        sources: the tables it is made of.
        keys: key columns of the table.
        max_age: the age up to which a row answers a question.
        has_priors: whether a declared prior stands where no row answers; otherwise null does.
    """

    view: str
    table: str
    sources: tuple[str, ...]
    keys: tuple[str, ...]
    max_age: timedelta
    has_priors: bool


@dataclass(frozen=True)
class OnlineCopy:
    """What the online store was last filled from: the table's version, and what was known until when (inclusive)."""

    version: int | None
    until: datetime


@dataclass(frozen=True)
class ViewFacts:
    """What is found of a view at an instant.

    Attributes:
        version: the table's newest version; None while there is no table.
        built_until: exclusive end of what was built, from the table's commits.
        unread: sources of which a newer version is there than the newest commit read: corrections, for instance.
        newest_known_at: known-at time of the newest row that is known at that instant; None without rows.
        entities: keys that have ever had a row; counted only where no prior stands in, else None.
        entities_answering: those whose newest row is within max age.
        online: what the online store was filled from; None while it never was.
    """

    version: int | None
    built_until: datetime | None
    unread: tuple[str, ...]
    newest_known_at: datetime | None
    entities: int | None
    entities_answering: int | None
    online: OnlineCopy | None


@dataclass(frozen=True)
class ViewFreshness:
    """One view now: what was found, and what it means.

    Attributes:
        lag: from `built_until` to the end of what may be built (the feeds' completeness, or now if that is earlier).
        lag_to_now: from `built_until` to now; that much the feeds themselves may be behind.
        newest_age: age of the newest row.
        outside_max_age: no entity's newest row answers any more: every look-up gives the prior, or null.
    """

    rules: ViewRules
    facts: ViewFacts
    state: State
    lag: timedelta | None
    lag_to_now: timedelta | None
    newest_age: timedelta | None
    outside_max_age: bool


def judge(
    rules: ViewRules, facts: ViewFacts, *, complete_until: datetime | None, now: datetime
) -> ViewFreshness:
    """What the facts mean at `now`; nothing is read.

    Args:
        complete_until: until when all bounding feeds are complete; None while one of them has nothing.
    """
    due = now if complete_until is None else min(complete_until, now)
    built, online, newest = facts.built_until, facts.online, facts.newest_known_at
    age = None if newest is None else now - newest
    outside = built is not None and (age is None or age > rules.max_age)
    state: State = "fresh"
    if built is None:
        state = "never built"
    elif built < due or facts.unread:
        state = "behind"
    elif online is None or online.version != facts.version or online.until < built:
        state = "online copy behind"
    elif outside:
        state = "source ended"
    return ViewFreshness(
        rules=rules,
        facts=facts,
        state=state,
        lag=None if built is None else max(due - built, timedelta(0)),
        lag_to_now=None if built is None else max(now - built, timedelta(0)),
        newest_age=age,
        outside_max_age=outside,
    )


def in_words(found: ViewFreshness) -> str:
    """One sentence for people; of a view that answers nothing also the newest row, its age and the consequence."""
    rules = found.rules
    said = f"{rules.view}: {STATES[found.state]}"
    if found.facts.unread:
        said += f" (there are newer versions of {', '.join(found.facts.unread)})"
    if not found.outside_max_age:
        return said
    gives = "its declared prior" if rules.has_priors else "null, flagged as outside max age"
    if found.facts.newest_known_at is None or found.newest_age is None:
        return f"{said}; it has no row at all: every look-up gives {gives}"
    return (
        f"{said}; its newest row, known at {found.facts.newest_known_at:%Y-%m-%d %H:%M}Z, is "
        f"{hours(found.newest_age):.0f} h old, the max age is {hours(rules.max_age):.0f} h: every look-up gives {gives}"
    )


def hours(span: timedelta) -> float:
    """A span in hours."""
    return span / timedelta(hours=1)


def is_elsewhere(lake: Lake, table: str, place: str) -> bool:
    """Whether what was last materialised went into another online store than this one.

    Args:
        table: as for `online_copies`; of one that was written before places were recorded nothing is known, and it
            counts as here.
        place: as `ONLINE_PLACE` records it.
    """
    if not lake.exists(table):
        return False
    recorded = [record.extra[ONLINE_PLACE] for record in lake.commits(table) if ONLINE_PLACE in record.extra]
    return bool(recorded) and recorded[-1] != place


def online_copies(lake: Lake, con: duckdb.DuckDBPyConnection, table: str) -> dict[str, OnlineCopy]:
    """View -> what the online store was last filled from, as the materialisation's own table says.

    Args:
        table: a table with the columns `feature_view`, `source_table` (``stage/name@v3``) and `materialised_until`.
    """
    if not lake.exists(table):
        return {}
    found = con.execute(
        f"SELECT feature_view, source_table, materialised_until FROM {lake.scan(table)}"
    ).fetchall()
    copies: dict[str, OnlineCopy] = {}
    for view, source, until in found:
        version = str(source).rpartition("@v")[2]
        copies[str(view)] = OnlineCopy(int(version) if version.isdigit() else None, until)
    return copies


def measure(
    lake: Lake, con: duckdb.DuckDBPyConnection, rules: ViewRules, online: OnlineCopy | None, now: datetime
) -> ViewFacts:
    """Read one view's table, as known at `now`.

    Entities are counted only where null stands for what does not answer: there it is worth knowing how many.
    """
    if not lake.exists(rules.table):
        return ViewFacts(None, None, (), None, None, None, online)
    version = lake.version(rules.table)
    known = f"FROM {lake.scan(rules.table, version)} WHERE known_at <= {instant(now)} AND created_at <= {instant(now)}"
    newest, entities, answering = None, None, None
    if rules.has_priors:
        newest = (con.execute(f"SELECT max(known_at) {known}").fetchone() or (None,))[0]
    else:
        keys = ", ".join(q(key) for key in rules.keys)
        newest, entities, answering = con.execute(
            f"SELECT max(newest), count(*), count(*) FILTER (newest >= {instant(now - rules.max_age)}) "
            f"FROM (SELECT max(known_at) AS newest {known} GROUP BY {keys})"
        ).fetchone() or (None, 0, 0)
    built = incremental.built_until(lake, rules.table)
    return ViewFacts(version, built, _unread(lake, rules), newest, entities, answering, online)


def _unread(lake: Lake, rules: ViewRules) -> tuple[str, ...]:
    read = [record.inputs for record in lake.commits(rules.table) if record.inputs]
    known = [source for source in rules.sources if read and lake.exists(source)]
    return tuple(source for source in known if lake.ref(source) not in read[-1])


def all_views(
    lake: Lake,
    declared: Sequence[ViewRules],
    *,
    online_table: str,
    online_place: str | None = None,
    complete_until: datetime | None,
    now: datetime,
) -> list[ViewFreshness]:
    """Every declared view at `now`, in their order; costs a scan of two columns per table.

    Args:
        online_place: the online store that is meant now: one that was not filled holds nothing. None: not asked.
    """
    with duck.connect() as con:
        elsewhere = online_place is not None and is_elsewhere(lake, online_table, online_place)
        copies = {} if elsewhere else online_copies(lake, con, online_table)
        return [
            judge(
                rules,
                measure(lake, con, rules, copies.get(rules.view), now),
                complete_until=complete_until,
                now=now,
            )
            for rules in declared
        ]
