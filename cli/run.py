"""`contrail run`: the main job. Lands what is missing, then runs what is due until nothing is.

Ends with 0 when everything is up to date, with 3 when it is but for blocked partitions, with 1 when a run failed.
"""

from __future__ import annotations

import resource
import time
import warnings
from collections.abc import Callable, Generator, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import date
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cli.output import EXIT_BLOCKED, EXIT_FAILED, Failure, failures, print_json, say, table
from contrail import environment
from contrail.clock import pin_utc
from contrail.settings import Settings, export

if TYPE_CHECKING:
    import dagster as dg

    from jobs.steps import Step

CHECK_FAILED = "DagsterAssetCheckFailedError"


@dataclass(frozen=True)
class Made:
    """One asset as one run left it."""

    asset: str
    partitions: int
    facts: dict[str, Any]


@dataclass(frozen=True)
class StepReport:
    """One finished run.

    Attributes:
        error: what the first step that failed said.
        only_blocked: the run failed, but only because a raw table's contract let no partition of it through: that has
            been dealt with, and the other days go on.
    """

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
    only_blocked: bool = False


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
    if any(not report.succeeded and not report.only_blocked for report in reports):
        return EXIT_FAILED
    return EXIT_BLOCKED if outcome.blocked else 0


def prepare(settings: Settings) -> None:
    """Bring this process under the project's environment and make sure its files exist."""
    warnings.filterwarnings("ignore", message="On demand feature view is an experimental feature")
    warnings.filterwarnings("ignore", message=".*is currently in (preview|beta).*")
    environment.write(settings)
    export(environment.variables(settings))
    # One planned event for a range in place of one per partition: a third of what a year costs in the event log. The
    # price, that partitions of a failed run are not shown red, is paid only here, where the plan asks for them again.
    export({"DAGSTER_EMIT_PARTITION_SUBSET_IN_PLANNED_EVENTS": "1"})
    pin_utc()


def run_steps(settings: Settings, *, show: bool) -> Iterator[StepReport]:
    """Run what is due, stage by stage, until nothing is or a run fails.

    Raises:
        Failure: a run left the very step due that it was to do.
    """
    import dagster as dg

    from jobs.abandoned import close_abandoned, process_tags
    from jobs.plan import plan

    done: set[tuple[str, str, tuple[str, ...]]] = set()
    with (
        dg.DagsterInstance.from_config(str(settings.dagster_home)) as instance,
        process_tags(settings) as own,
    ):
        for gone in close_abandoned(settings, instance):
            if show:
                say(
                    f"run {gone.run_id[:8]} of {gone.job_name} was cut off with its process; going on from there"
                )
        while steps := plan(settings).steps:
            for step in steps:
                identity = (step.job, step.days, step.assets)
                if identity in done:
                    raise Failure(
                        f"{step.job} {step.days} was run and is still due; see the run above, or the UI"
                    )
                if show:
                    say(f"▸ {step.job:<9} {step.days:<24} {step.reason}")
                report = run_step(settings, instance, step, show=show, own_tags=own)
                if show:
                    say(_line(report))
                yield report
                if not report.succeeded and not report.only_blocked:
                    return
                done.add(identity)


def run_step(
    settings: Settings,
    instance: dg.DagsterInstance,
    step: Step,
    *,
    show: bool = False,
    own_tags: Mapping[str, str] | None = None,
) -> StepReport:
    """One run in this process, recorded in the instance like any other.

    Args:
        own_tags: `jobs.abandoned.process_tags` of this process: whose run it is, in case the process is killed.
    """
    import dagster as dg
    from dagster._core.utils import make_new_run_id  # known beforehand, its events can be listened to

    from definitions import build_defs

    run_id = make_new_run_id()
    wall, cpu = time.perf_counter(), _cpu_seconds()
    job = build_defs(settings).resolve_job_def(step.job)
    with _progress(show=show) as note:
        instance.add_event_listener(run_id, note)
        result = job.execute_in_process(
            run_id=run_id,
            instance=instance,
            tags=step.tags | dict(own_tags or {}),
            raise_on_error=False,
            # The event log keeps everything; here a line per asset is enough, and an error is printed once, in words.
            run_config={"loggers": {"console": {"config": {"log_level": "CRITICAL"}}}},
            asset_selection=[dg.AssetKey(name.split("/")) for name in step.assets] or None,
        )
    made, passed, bad, error, only_blocked = _read_events(result)
    return StepReport(
        step.job, step.days, step.reason, result.run_id, result.success,
        time.perf_counter() - wall, _cpu_seconds() - cpu, made, passed, bad, error, only_blocked,
    )  # fmt: skip


@contextmanager
def _progress(*, show: bool) -> Generator[Callable[[Any], None]]:
    """A listener to a run's events: a line per finished step, and, on a terminal, what is under way."""
    from rich.console import Console

    console = Console()
    if not show:
        yield lambda entry: None
        return
    with console.status("starting") as status:

        def note(entry: Any) -> None:
            event = entry.dagster_event
            if event is None:
                status.update(entry.user_message)  # what an asset says of itself
            elif event.event_type_value == "STEP_START":
                status.update(_asset_of(event.step_key))
            elif event.event_type_value == "STEP_SUCCESS":
                seconds = event.step_success_data.duration_ms / 1000
                console.print(
                    f"    {_asset_of(event.step_key):<40} {seconds:6.1f} s", highlight=False, markup=False
                )

        yield note


def _asset_of(step_key: str) -> str:
    return step_key.replace("__", "/")


def _read_events(result: dg.ExecuteInProcessResult) -> tuple[list[Made], int, list[str], str, bool]:
    made: dict[str, Made] = {}
    passed, bad, error = 0, list[str](), ""
    only_blocked = not result.success
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
                if evaluation.severity.value == "ERROR" and not where.startswith("raw/"):
                    only_blocked = False
                bad.append(
                    f"{where} {evaluation.partition or ''} {evaluation.check_name}: {evaluation.description or ''}"
                )
        elif event.is_step_failure:
            failure = event.step_failure_data
            cause = failure.error
            while cause is not None and cause.cause is not None:
                cause = cause.cause
            only_blocked = only_blocked and cause is not None and cause.cls_name == CHECK_FAILED
            told = f"{_asset_of(event.step_key)}: {cause.message.strip() if cause else failure.error_display_string}"
            error = error or told
    return list(made.values()), passed, bad, error, only_blocked


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
    from contrail.online_layout import OnlineError
    from sources.nycflights import SourceError

    return (ClockError, ContractError, LakeError, LandingError, OnlineError, SourceError)
