"""What is due of one model: training, scores of decided rows, outcomes, monitoring. Part of the plan."""

from __future__ import annotations

from collections.abc import Iterable
from datetime import datetime

from contrail import duck, model_files, registry
from contrail.lake import Lake
from contrail.use_case import UseCase
from jobs.steps import Step, contiguous, partition_days

SPINE_TABLE = "clean/departures"
SPINE_VIEW = "departures"


def model_steps(
    lake: Lake, use_case: UseCase, complete_until: datetime | None
) -> tuple[list[Step], list[str]]:
    """The due steps of the first stage that has any, and remarks on what cannot be done yet."""
    if complete_until is None or not lake.exists(SPINE_TABLE):
        return [], []
    champion = registry.champion(use_case.name, lake)
    if champion is None:
        if registry.versions(use_case.name, lake):  # one more of the same would not help
            return [], [f"{use_case.name}: its first model waits for approval: contrail models"]
        return _first_training(lake, use_case)
    model = model_files.read_manifest(lake.root, champion.sha256)
    due = (
        _scores(lake, use_case, model, complete_until)
        or _outcomes(lake, use_case)
        or _monitoring(lake, use_case)
    )
    return due, []


def _first_training(lake: Lake, use_case: UseCase) -> tuple[list[Step], list[str]]:
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
    return [Step(f"train_{use_case.name}", "there is no champion yet")], []


def _scores(lake: Lake, use_case: UseCase, model: dict[str, object], complete_until: datetime) -> list[Step]:
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
    return _steps(
        f"score_{use_case.name}", (row[0].isoformat() for row in rows), "decided rows without a score"
    )


def _outcomes(lake: Lake, use_case: UseCase) -> list[Step]:
    """Scored days whose clean rows are newer than the outcomes made from them."""
    predictions, outcomes = (f"score/{use_case.name}/{name}" for name in ("predictions", "outcomes"))
    if not lake.exists(predictions):
        return []
    made: dict[str, int] = {}
    if lake.exists(outcomes):
        for record in lake.commits(outcomes):
            used = _version_of(record.inputs, SPINE_TABLE)
            made |= dict.fromkeys(partition_days(record), used)
    scored = {d for record in lake.commits(predictions) for d in partition_days(record)}
    changed: dict[str, int] = {}
    for record in lake.commits(SPINE_TABLE):
        changed |= dict.fromkeys(partition_days(record), record.version)
    stale = {d for d in scored if made.get(d, -1) < changed.get(d, 0)}
    return _steps(f"score_{use_case.name}", stale, "clean rows newer than the outcomes", (outcomes,))


def _monitoring(lake: Lake, use_case: UseCase) -> list[Step]:
    report, outcomes = f"monitor/{use_case.name}/performance", f"score/{use_case.name}/outcomes"
    if not lake.exists(outcomes):
        return []
    records = [r for r in lake.commits(report) if r.inputs] if lake.exists(report) else []
    if records and lake.ref(outcomes) in records[-1].inputs:
        return []
    return [Step(f"monitor_{use_case.name}", "outcomes newer than the report")]


def _steps(job: str, days: Iterable[str], reason: str, assets: tuple[str, ...] = ()) -> list[Step]:
    return [Step(job, reason, first, last, assets) for first, last in contiguous(days)]


def _version_of(inputs: tuple[str, ...], table: str) -> int:
    versions = [int(name.rpartition("@v")[2]) for name in inputs if name.rpartition("@v")[0] == table]
    return max(versions, default=-1)
