"""What `contrail run` says at the end: stage by stage what was made, and where to look."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from contrail.settings import Settings

if TYPE_CHECKING:
    from cli.run import StepReport
    from sources.nycflights import LandReport

RISKIEST = 5


@dataclass(frozen=True)
class Outcome:
    """The result of one `contrail run`; `model` is the first of `models`, that of the default use case."""

    seconds: float
    landed_files: int
    runs: list[dict[str, Any]]
    stages: list[dict[str, Any]]
    checks_passed: int
    checks_failed: list[str]
    blocked: dict[str, dict[str, list[str]]]
    model: dict[str, Any]
    models: list[dict[str, Any]]
    riskiest: list[dict[str, Any]]
    notes: list[str]
    places: dict[str, str]

    @property
    def did_something(self) -> bool:
        return bool(self.runs) or self.landed_files > 0


def collect(settings: Settings, landed: LandReport, reports: Sequence[StepReport], seconds: float) -> Outcome:
    """Gather the facts from the reports and the lake."""
    from contrail.intake import blocked_partitions
    from contrail.lake import Lake
    from jobs.plan import plan

    lake = Lake(settings.lake_root)
    models = _models(settings, lake)
    contracts = [name.removeprefix("raw/") for name in lake.tables() if name.startswith("raw/")]
    blocked = {name: found for name in contracts if (found := blocked_partitions(lake, name))}
    return Outcome(
        seconds=seconds,
        landed_files=landed.files_written,
        runs=[
            {"job": r.job, "days": r.days, "run": r.run_id[:8], "wall s": round(r.wall_seconds, 1),
             "CPU s": round(r.cpu_seconds, 1), "assets": len(r.made), "ok": r.succeeded, "error": r.error}
            for r in reports
        ],
        stages=_stages(lake, reports),
        checks_passed=sum(r.checks_passed for r in reports),
        checks_failed=[text for r in reports for text in r.checks_failed],
        blocked=blocked,
        model=models[0] if models else {},
        models=models,
        riskiest=_riskiest(lake),
        notes=list(plan(settings).notes),
        places=_places(settings),
    )  # fmt: skip


def render(outcome: Outcome, table: Callable[[Sequence[Mapping[str, object]], Sequence[str]], str]) -> str:
    """The outcome as text."""
    parts: list[str] = []
    if not outcome.did_something:
        parts.append("\nNothing to do: every landed file was taken in and everything was built from it.")
    else:
        parts += ["\nRuns", table(outcome.runs, ["job", "days", "run", "wall s", "CPU s", "assets", "ok"])]
        parts += ["\nTables", table(outcome.stages, ["stage", "table", "rows", "version", "built now"])]
        parts.append(f"\nChecks: {outcome.checks_passed} passed, {len(outcome.checks_failed)} failed")
        parts += [f"  ! {text}" for text in outcome.checks_failed[:10]]
    for name, days in outcome.blocked.items():
        parts += [f"\nBLOCKED raw/{name}:{day}: {'; '.join(reasons)}" for day, reasons in days.items()]
    parts += [f"\nNote: {note}" for note in outcome.notes]
    if outcome.models:
        parts.append("")
    for m in outcome.models:
        parts.append(
            f"Model {m['use case']} version {m['version']} ({m['role']}), sha256 {m['sha256'][:12]}:"
            f" test AUC {m['test_auc']:.4f}, log-loss {m['test_log_loss']:.4f}"
            f" (naive reference {m['naive_auc']:.4f}, {m['naive_log_loss']:.4f};"
            f" logistic {m['logistic_auc']:.4f}, {m['logistic_log_loss']:.4f})"
        )
        parts += [f"  ! not met: {unmet}" for unmet in m["unmet"]]
        parts.append(f"  what it is good and bad at: {m['card']}")
    if outcome.riskiest:
        parts += [
            "\nRiskiest predictions of the last scored day",
            table(outcome.riskiest, list(outcome.riskiest[0])),
        ]
        parts.append(f"  follow one back to its bytes: contrail trace {outcome.riskiest[0]['prediction_id']}")
    parts.append("\nWhere to look")
    parts += [f"  {what:<12} {where}" for what, where in outcome.places.items()]
    parts.append(f"\nDone in {outcome.seconds:.1f} s.")
    return "\n".join(parts)


def _stages(lake: Any, reports: Sequence[StepReport]) -> list[dict[str, Any]]:
    from contrail import duck

    made = {asset.asset for report in reports for asset in report.made}
    order = ["raw", "quarantine", "clean", "feature", "feature_store", "model", "score", "monitor"]
    rows: list[dict[str, Any]] = []
    with duck.connect() as con:
        for name in sorted(lake.tables(), key=lambda n: (_place(order, n), n)):
            stage = name.partition("/")[0]
            if stage not in order:
                continue
            counted = con.execute(f"SELECT count(*) FROM {lake.scan(name)}").fetchone()
            rows.append(
                {
                    "stage": stage,
                    "table": name.partition("/")[2],
                    "rows": int(counted[0]) if counted else 0,
                    "version": f"v{lake.version(name)}",
                    "built now": name in made or stage == "quarantine",
                }
            )
    return rows


def _place(order: list[str], name: str) -> int:
    stage = name.partition("/")[0]
    return order.index(stage) if stage in order else len(order)


def _models(settings: Settings, lake: Any) -> list[dict[str, Any]]:
    """The model of every use case that was examined last, with its test figures and its card."""
    from feature_repo.use_cases import USE_CASES

    return [found for name in USE_CASES if (found := _model(settings, lake, name))]


def _model(settings: Settings, lake: Any, use_case: str) -> dict[str, Any]:
    from contrail import duck, evidence, registry

    table = f"model/{use_case}/evaluation"
    versions = registry.versions(use_case, lake)
    if not versions or not lake.exists(table):
        return {}
    figures = ("auc", "log_loss", "naive_auc", "naive_log_loss", "logistic_auc", "logistic_log_loss")
    with duck.connect() as con:
        row = con.execute(
            f"SELECT {', '.join(figures)} FROM {lake.scan(table)} WHERE part = 'test' AND kind = 'all'"
        ).fetchone()
    # An earlier version may have been learnt again: the figures are those of the model that the table was made of.
    examined = lake.commits(table)[-1].inputs
    found = next((each for each in versions if f"model:{each.sha256}" in examined), None)
    if row is None or found is None:
        return {}
    return {
        "use case": use_case,
        "version": found.version,
        "role": found.role,
        "sha256": found.sha256,
        "unmet": list(found.unmet),
        "card": str(evidence.folder(settings.lake_root, found.sha256, found.evaluation_id) / "card.html"),
        **dict(zip(("test_auc", "test_log_loss", *figures[2:]), row, strict=True)),
    }


def _riskiest(lake: Any) -> list[dict[str, Any]]:
    from contrail import duck
    from feature_repo.use_cases import DEFAULT_USE_CASE, USE_CASES

    use_case = USE_CASES[DEFAULT_USE_CASE]
    table = f"score/{use_case.name}/predictions"
    if not lake.exists(table):
        return []
    with duck.connect() as con:
        cursor = con.execute(
            f"""SELECT {use_case.entity_key}, strftime({use_case.decision_column}, '%Y-%m-%d %H:%MZ') AS decided,
                       round(score, 3) AS score, prediction_id
                FROM {lake.scan(table)}
                WHERE {use_case.partition_column} = (SELECT max({use_case.partition_column}) FROM {lake.scan(table)})
                ORDER BY score DESC, prediction_id LIMIT {RISKIEST}"""
        )
        names = [str(column[0]) for column in cursor.description or []]
        return [dict(zip(names, row, strict=True)) for row in cursor.fetchall()]


def _places(settings: Settings) -> dict[str, str]:
    return {
        "lake": str(settings.lake_root),
        "Dagster": "make dev, then http://127.0.0.1:3000",
        "MLflow": 'eval "$(contrail env)" && mlflow ui, then http://127.0.0.1:5000',
        "status": "contrail status",
    }
