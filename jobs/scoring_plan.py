"""What is due of one model: training, scores of decided rows, outcomes, monitoring. Part of the plan."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from datetime import date, datetime, timedelta

from contrail import duck, model_files, registry
from contrail.lake import Lake
from contrail.settings import Settings
from contrail.use_case import UseCase

SPINE_TABLE = "clean/departures"
SPINE_VIEW = "departures"


@dataclass(frozen=True)
class ModelStep:
    """One run that is due for a use case."""

    job: str
    reason: str
    first: str | None = None
    last: str | None = None
    assets: tuple[str, ...] = ()


def model_steps(
    settings: Settings, lake: Lake, use_case: UseCase, complete_until: datetime | None
) -> tuple[list[ModelStep], list[str]]:
    """The due steps of the first stage that has any, and remarks on what cannot be done yet."""
    del settings
    if complete_until is None or not lake.exists(SPINE_TABLE):
        return [], []
    champion = registry.champion(use_case.name, lake)
    if champion is None:
        return _first_training(lake, use_case)
    model = model_files.read_manifest(lake.root, champion.sha256)
    due = _scores(lake, use_case, model, complete_until) or _outcomes(lake, use_case) or _monitoring(lake, use_case)
    return due, []


def _first_training(lake: Lake, use_case: UseCase) -> tuple[list[ModelStep], list[str]]:
    with duck.connect() as con:
        span = con.execute(
            f"SELECT min({duck.quote_identifier(use_case.partition_column)}), "
            f"max({duck.quote_identifier(use_case.partition_column)}) FROM {lake.scan(SPINE_TABLE)}"
        ).fetchone()
    if span is None or span[0] is None:
        return [], []
    days = (span[1] - span[0]).days + 1
    needed = use_case.min_training_days
    if int(days * use_case.split.train) < needed:
        return [], [
            f"{use_case.name}: {days} days give too few training days ({needed} are needed); no model yet"
        ]
    return [ModelStep(f"train_{use_case.name}", "there is no champion yet")], []


def _scores(
    lake: Lake, use_case: UseCase, model: dict[str, object], complete_until: datetime
) -> list[ModelStep]:
    """Days with rows that were decided before the feeds' end, lie after the training range and have no score."""
    predictions = f"score/{use_case.name}/predictions"
    key, day = duck.quote_identifier(use_case.entity_key), duck.quote_identifier(use_case.partition_column)
    decided = duck.quote_identifier(use_case.decision_column)
    done = (
        f"AND {key} NOT IN (SELECT {key} FROM {lake.scan(predictions)})" if lake.exists(predictions) else ""
    )
    train_end, trained_until = str(model["train_end"]), str(model["trained_until"])
    with duck.connect() as con:
        con.execute(
            f"CREATE VIEW {SPINE_VIEW} AS SELECT * FROM {lake.scan(SPINE_TABLE)} WHERE {day} >= DATE '{train_end}'"
        )
        rows = con.execute(
            f"""SELECT DISTINCT {day} FROM ({use_case.spine_sql})
                WHERE {decided} >= TIMESTAMPTZ '{trained_until}' AND {decided} < ? {done} ORDER BY 1""",
            [complete_until],
        ).fetchall()
    return _steps(f"score_{use_case.name}", (row[0] for row in rows), "decided rows without a score")


def _outcomes(lake: Lake, use_case: UseCase) -> list[ModelStep]:
    """Scored days whose clean rows are newer than the outcomes made from them."""
    predictions, outcomes = (f"score/{use_case.name}/{name}" for name in ("predictions", "outcomes"))
    if not lake.exists(predictions):
        return []
    made: dict[date, int] = {}
    if lake.exists(outcomes):
        for record in lake.commits(outcomes):
            used = _version_of(record.inputs, SPINE_TABLE)
            made |= dict.fromkeys(_days(record.partition), used)
    scored = {d for record in lake.commits(predictions) for d in _days(record.partition)}
    changed: dict[date, int] = {}
    for record in lake.commits(SPINE_TABLE):
        changed |= dict.fromkeys(_days(record.partition), record.version)
    stale = {d for d in scored if made.get(d, -1) < changed.get(d, 0)}
    steps = _steps(f"score_{use_case.name}", stale, "clean rows newer than the outcomes")
    return [ModelStep(s.job, s.reason, s.first, s.last, (outcomes,)) for s in steps]


def _monitoring(lake: Lake, use_case: UseCase) -> list[ModelStep]:
    report, outcomes = f"monitor/{use_case.name}/performance", f"score/{use_case.name}/outcomes"
    if not lake.exists(outcomes):
        return []
    records = [r for r in lake.commits(report) if r.inputs] if lake.exists(report) else []
    if records and lake.ref(outcomes) in records[-1].inputs:
        return []
    return [ModelStep(f"monitor_{use_case.name}", "outcomes newer than the report")]


def _steps(job: str, days: Iterable[date], reason: str) -> list[ModelStep]:
    steps: list[ModelStep] = []
    for day in sorted(days):
        text = day.isoformat()
        if steps and date.fromisoformat(str(steps[-1].last)) + timedelta(days=1) == day:
            steps[-1] = ModelStep(job, reason, steps[-1].first, text)
        else:
            steps.append(ModelStep(job, reason, text, text))
    return steps


def _days(partition: str) -> list[date]:
    first, _, last = partition.partition("..")
    if not first:
        return []
    start, end = date.fromisoformat(first), date.fromisoformat(last or first)
    return [start + timedelta(days=n) for n in range((end - start).days + 1)]


def _version_of(inputs: tuple[str, ...], table: str) -> int:
    versions = [int(name.rpartition("@v")[2]) for name in inputs if name.rpartition("@v")[0] == table]
    return max(versions, default=-1)
