"""`contrail status`: what is fresh, stale, late or blocked, and what to do about it."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Any

from cli.output import failures, print_json, say, table
from contrail.settings import Settings

if TYPE_CHECKING:
    from contrail.lake import Lake
    from contrail.view_freshness import ViewFreshness


VIEW_COLUMNS = (
    "view", "state", "built until", "behind h", "behind now h", "online until", "online version", "newest row",
    "row age h", "max age h",
)  # fmt: skip


@dataclass(frozen=True)
class Status:
    """The installation now.

    Attributes:
        feature_views: one record per feature view, times and ages of `contrail.view_freshness` in it.
        stale_views: a sentence for each view that is not fresh.
        models: every version of each use case, with the criteria that it does not meet.
        requests: promotion requests that wait for approval.
    """

    now: datetime
    complete_until: datetime | None
    feeds: list[dict[str, Any]]
    blocked: list[dict[str, str]]
    corrections: list[dict[str, Any]]
    tables: list[dict[str, Any]]
    feature_views: list[dict[str, Any]]
    stale_views: list[str]
    models: list[dict[str, Any]]
    requests: list[dict[str, Any]]
    due: list[dict[str, str]]
    notes: list[str]
    next: list[str]


def main(*, as_json: bool) -> None:
    """Print the status."""
    from contrail.clock import ClockError
    from contrail.contracts import ContractError
    from contrail.decisions import DecisionError
    from contrail.lake import LakeError
    from contrail.landing import LandingError
    from contrail.online_layout import OnlineError

    with failures(ClockError, LakeError, LandingError, ContractError, OnlineError, DecisionError):
        found = collect(Settings())
    if as_json:
        print_json(found)
    else:
        _print(found)


def collect(settings: Settings) -> Status:
    """Read the status off landing zone, lake and plan."""
    from contrail import freshness, intake, view_freshness
    from contrail.clock import clock_for
    from contrail.completeness import complete_until
    from contrail.contracts import load_contracts
    from contrail.feast_config import online_place
    from contrail.lake import Lake
    from feature_repo.view_rules import ONLINE_TABLE, view_rules
    from jobs.plan import plan

    lake = Lake(settings.lake_root)
    contracts = load_contracts(settings.repo_root / "contracts")
    now = clock_for(settings).now()
    due = plan(settings)
    feeds = [
        {
            "feed": f"raw/{feed.table}",
            "state": feed.state,
            "newest delivery": feed.newest_delivered_at,
            "age hours": _hours(feed.age),
            "allowed": _hours(feed.allowed_age),
            "files waiting": feed.waiting_files,
        }
        for feed in freshness.all_feeds(lake, settings.landing_root, contracts, now)
    ]
    blocked = [
        {"partition": f"raw/{name}:{day}", "why": "; ".join(reasons)}
        for name in contracts
        for day, reasons in intake.blocked_partitions(lake, name).items()
    ]
    corrections = _corrections(settings, list(contracts))
    models, requests, decide = _decisions(lake, now)
    tables = [
        {"table": name, "version": lake.version(name), "last run": _last_run(lake, name)}
        for name in lake.tables()
        if not name.startswith(("trail/", "quarantine/"))
    ]
    complete = complete_until(lake, contracts).until
    views = view_freshness.all_views(
        lake, view_rules(), online_table=ONLINE_TABLE, online_place=online_place(settings),
        complete_until=complete, now=now,
    )  # fmt: skip
    steps = [{"job": step.job, "days": step.days, "why": step.reason} for step in due.steps]
    advice = [_advice(b["partition"], b["why"]) for b in blocked] + decide
    if steps:
        advice.append("contrail run    (brings everything that is due up to date)")
    if not feeds or all(feed["state"] == "never landed" for feed in feeds):
        advice.insert(0, "contrail land   (nothing has landed yet)")
    return Status(
        now, complete, feeds, blocked, corrections, tables, [_view_record(view) for view in views],
        [view_freshness.in_words(view) for view in views if view.state != "fresh" or view.outside_max_age],
        models, requests, steps, list(due.notes), advice,
    )  # fmt: skip


def _corrections(settings: Settings, tables: list[str]) -> list[dict[str, Any]]:
    """Superseding files: kept in raw and clean as further versions; features show them from their delivery on."""
    from contrail import landing

    return [
        {
            "file": f"raw/{name}:{d.partition}",
            "delivered": d.delivered_at,
            "supersedes": str(d.supersedes)[:12],
        }
        for name in tables
        for d in landing.deliveries(settings.landing_root, name)
        if d.supersedes is not None
    ]


def _decisions(lake: Lake, now: datetime) -> tuple[list[dict[str, Any]], list[dict[str, Any]], list[str]]:
    """The versions of every use case, the requests that wait for people, and what these may do now."""
    from cli import models as command
    from contrail import decisions
    from feature_repo.use_cases import USE_CASES

    models: list[dict[str, Any]] = []
    requests: list[dict[str, Any]] = []
    verified = decisions.verify(lake)
    advice = [] if verified.holds else [f"contrail audit verify    ({decisions.TABLE}: {verified.why})"]
    for name, use_case in USE_CASES.items():
        found = command.collect(use_case, lake, now, tuple(USE_CASES))
        advice += found.next
        models += [
            {
                "use case": name,
                "version": v.version,
                "role": v.role,
                "sha256": v.sha256[:12],
                "registered": v.registered_at,
                "criteria": command.criteria_in_words(v),
                "unmet": list(v.unmet),
            }
            for v in found.versions
        ]
        requests += [
            {
                "request": one.request_id,
                "use case": name,
                "version": one.version,
                "asked by": one.asked_by,
                "expires": one.expires_at,
                "approvals": f"{len(one.approvals)} of {one.needed}",
            }
            for one in found.requests
            if one.state == "open"
        ]
    return models, requests, advice


def _view_record(view: ViewFreshness) -> dict[str, Any]:
    facts, online = view.facts, view.facts.online
    return {
        "view": view.rules.view,
        "state": view.state,
        "version": facts.version,
        "built until": facts.built_until,
        "behind h": _hours(view.lag),
        "behind now h": _hours(view.lag_to_now),
        "unread sources": list(facts.unread),
        "online version": None if online is None else online.version,
        "online until": None if online is None else online.until,
        "newest row": facts.newest_known_at,
        "row age h": _hours(view.newest_age),
        "max age h": _hours(view.rules.max_age),
        "outside max age": view.outside_max_age,
        "entities": facts.entities,
        "entities answering": facts.entities_answering,
    }


def _hours(span: timedelta | None) -> float | None:
    return None if span is None else round(span / timedelta(hours=1), 1)


def _last_run(lake: Any, name: str) -> str:
    records = [record for record in lake.commits(name) if record.run_id]
    return records[-1].run_id[:8] if records else ""


def _advice(partition: str, why: str) -> str:
    return f"replace the file of {partition} in the landing zone, with its manifest, then: contrail run    ({why})"


def _print(found: Status) -> None:
    until = f"{found.complete_until:%Y-%m-%d %H:%M}Z" if found.complete_until else "not yet"
    say(f"now {found.now:%Y-%m-%d %H:%M}Z · feeds complete until {until}")
    say("\nfeeds")
    say(table(found.feeds, ["feed", "state", "newest delivery", "age hours", "allowed", "files waiting"]))
    if found.blocked:
        say("\nblocked partitions (their rows lie in quarantine)")
        say(table(found.blocked, ["partition", "why"]))
    if found.corrections:
        say(
            "\ncorrections (kept in raw and clean as further versions; features show them from their delivery on)"
        )
        say(table(found.corrections, ["file", "delivered", "supersedes"]))
    say("\ntables")
    say(table(found.tables, ["table", "version", "last run"]))
    say(
        "\nfeature views (fresh by what their table's commit says it was built until, not by the age of rows)"
    )
    say(table(found.feature_views, VIEW_COLUMNS))
    for sentence in found.stale_views:
        say(f"  ! {sentence}")
    if found.models:
        say("\nmodels")
        say(table(found.models, ["use case", "version", "role", "sha256", "registered", "criteria"]))
    if found.requests:
        say("\nwaiting for approval")
        say(table(found.requests, ["request", "use case", "version", "asked by", "expires", "approvals"]))
    say("\ndue")
    say(table(found.due, ["job", "days", "why"]) if found.due else "  nothing: everything is up to date")
    for note in found.notes:
        say(f"  note: {note}")
    if found.next:
        say("\nnext")
        for line in found.next:
            say(f"  {line}")
