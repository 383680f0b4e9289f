"""`contrail run`: the main job. Lands what is missing, then runs what is due until nothing is."""

from __future__ import annotations

import resource
import time
import warnings
from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import date
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cli.output import EXIT_BLOCKED, Failure, failures, print_json, say, table
from contrail import environment
from contrail.clock import pin_utc
from contrail.settings import Settings, export

if TYPE_CHECKING:
    import dagster as dg

    from jobs.plan import Step


@dataclass(frozen=True)
class Made:
    """One asset as one run left it."""

    asset: str
    partitions: int
    facts: dict[str, Any]


@dataclass(frozen=True)
class StepReport:
    """One finished run."""

    job: str
    days: str
    reason: str
    run_id: str
    succeeded: bool
    wall_seconds: float
    cpu_seconds: float
    made: list[Made] = field(default_factory=list[Made])
    checks_passed: int = 0
    checks_failed: list[str] = field(default_factory=list[str])
    error: str = ""


def main(*, source: Path | None, first: date | None, last: date | None, as_json: bool) -> int:
    """Run everything that is due; returns the exit code."""
    started = time.perf_counter()
    settings = Settings()
    prepare(settings)
    from cli.land import land_quietly

    with failures(*_known_errors()):
        landed = land_quietly(settings, source, first, last, show=not as_json)
        reports = list(run_steps(settings, show=not as_json))
    from cli.summary import collect, render

    outcome = collect(settings, landed, reports, time.perf_counter() - started)
    if as_json:
        print_json(outcome)
    else:
        say(render(outcome, table))
    return EXIT_BLOCKED if outcome.blocked else 0


def prepare(settings: Settings) -> None:
    """Bring this process under the project's environment and make sure its files exist."""
    warnings.filterwarnings("ignore", message="On demand feature view is an experimental feature")
    warnings.filterwarnings("ignore", message=".*is currently in (preview|beta).*")
    environment.write(settings)
    export(environment.variables(settings))
    pin_utc()


def run_steps(settings: Settings, *, show: bool) -> Iterator[StepReport]:
    """Run what is due, stage by stage, until nothing is.

    Raises:
        Failure: a run left the very step due that it was to do.
    """
    import dagster as dg

    from jobs.plan import plan

    done: set[tuple[str, str, tuple[str, ...]]] = set()
    with dg.DagsterInstance.from_config(str(settings.dagster_home)) as instance:
        while steps := plan(settings).steps:
            for step in steps:
                identity = (step.job, step.days, step.assets)
                if identity in done:
                    raise Failure(
                        f"{step.job} {step.days} was run and is still due; see the run above, or the UI"
                    )
                if show:
                    say(f"▸ {step.job:<9} {step.days:<24} {step.reason}")
                report = run_step(settings, instance, step)
                if show:
                    say(_line(report))
                yield report
                done.add(identity)


def run_step(settings: Settings, instance: dg.DagsterInstance, step: Step) -> StepReport:
    """One run in this process, recorded in the instance like any other."""
    import dagster as dg

    from definitions import build_defs

    tags: dict[str, str] = {"contrail/reason": step.reason[:200]}
    if step.first is not None and step.last is not None:
        tags |= {
            "dagster/asset_partition_range_start": step.first,
            "dagster/asset_partition_range_end": step.last,
        }
    wall, cpu = time.perf_counter(), _cpu_seconds()
    job = build_defs(settings).resolve_job_def(step.job)
    result = job.execute_in_process(
        instance=instance,
        tags=tags,
        raise_on_error=False,
        # The event log keeps everything; here a line per run is enough, and its error is printed once, in words.
        run_config={"loggers": {"console": {"config": {"log_level": "CRITICAL"}}}},
        asset_selection=[dg.AssetKey(name.split("/")) for name in step.assets] or None,
    )
    made, passed, bad, error = _read_events(result)
    return StepReport(
        step.job, step.days, step.reason, result.run_id, result.success,
        time.perf_counter() - wall, _cpu_seconds() - cpu, made, passed, bad, error,
    )  # fmt: skip


def _read_events(result: dg.ExecuteInProcessResult) -> tuple[list[Made], int, list[str], str]:
    made: dict[str, Made] = {}
    passed, bad, error = 0, list[str](), ""
    for event in result.all_events:
        if event.is_step_materialization:
            materialization = event.step_materialization_data.materialization
            name = "/".join(materialization.asset_key.path)
            facts = {label: value.value for label, value in materialization.metadata.items()}
            before = made.get(name)
            made[name] = Made(name, (before.partitions if before else 0) + 1, facts)
        elif event.event_type_value == "ASSET_CHECK_EVALUATION":
            evaluation = event.asset_check_evaluation_data
            passed += evaluation.passed
            if not evaluation.passed:
                where = "/".join(evaluation.asset_key.path)
                bad.append(
                    f"{where} {evaluation.partition or ''} {evaluation.check_name}: {evaluation.description or ''}"
                )
        elif event.is_step_failure and not error:
            failure = event.step_failure_data
            cause = failure.error
            while cause is not None and cause.cause is not None:
                cause = cause.cause
            error = f"{event.step_key}: {cause.message.strip() if cause else failure.error_display_string}"
    return list(made.values()), passed, bad, error


def _line(report: StepReport) -> str:
    mark = "✓" if report.succeeded else "✗"
    checks = f"{report.checks_passed} checks passed" + (
        f", {len(report.checks_failed)} failed" if report.checks_failed else ""
    )
    text = f"  {mark} {len(report.made)} assets, {checks}, {report.wall_seconds:.1f} s ({report.cpu_seconds:.1f} CPU s)"
    for failed in report.checks_failed[:5]:
        text += f"\n    ! {failed}"
    return text + (f"\n    {report.error}" if report.error else "")


def _cpu_seconds() -> float:
    usage = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    return sum(u.ru_utime + u.ru_stime for u in usage)


def _known_errors() -> tuple[type[Exception], ...]:
    from contrail.clock import ClockError
    from contrail.contracts import ContractError
    from contrail.lake import LakeError
    from contrail.landing import LandingError
    from sources.nycflights import SourceError

    return (ClockError, ContractError, LakeError, LandingError, SourceError)
