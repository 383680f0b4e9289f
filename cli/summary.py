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
    """The result of one `contrail run`."""

    seconds: float
    landed_files: int
    runs: list[dict[str, Any]]
    stages: list[dict[str, Any]]
    checks_passed: int
    checks_failed: list[str]
    blocked: dict[str, dict[str, list[str]]]
    model: dict[str, Any]
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
        model=_model(settings, lake),
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
    if outcome.model:
        m = outcome.model
        parts.append(
            f"\nModel {m['use case']} version {m['version']} ({m['role']}), sha256 {m['sha256'][:12]}:"
            f" test AUC {m['test_auc']:.4f}, log-loss {m['test_log_loss']:.4f}"
            f" (naive reference {m['naive_auc']:.4f}, {m['naive_log_loss']:.4f})"
        )
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


def _model(settings: Settings, lake: Any) -> dict[str, Any]:
    """The newest model of the first use case, with its test figures."""
    from contrail import duck, registry
    from feature_repo.use_cases import DEFAULT_USE_CASE

    table = f"model/{DEFAULT_USE_CASE}/evaluation"
    versions = registry.versions(DEFAULT_USE_CASE, lake)
    if not versions or not lake.exists(table):
        return {}
    with duck.connect() as con:
        row = con.execute(
            f"SELECT auc, log_loss, naive_auc, naive_log_loss FROM {lake.scan(table)}"
            " WHERE part = 'test' AND kind = 'all'"
        ).fetchone()
    if row is None:
        return {}
    newest = versions[-1]
    return {
        "use case": DEFAULT_USE_CASE,
        "version": newest.version,
        "role": newest.role,
        "sha256": newest.sha256,
        **dict(zip(("test_auc", "test_log_loss", "naive_auc", "naive_log_loss"), row, strict=True)),
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
