"""The main job over a home of a test: its own steps in this process, or the command itself in another."""

from __future__ import annotations

import contextlib
import json
import os
import re
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import replace
from datetime import date, timedelta
from pathlib import Path
from typing import Any

import dagster as dg

from cli import run, status
from cli.land import land_quietly
from cli.run import StepReport
from contrail import duck
from contrail.lake import Lake
from contrail.settings import Settings
from features.tables import FEATURE_TABLES
from jobs.plan import plan
from jobs.steps import Step
from sources.nycflights_tables import COLUMNS, find_source, load

CONTRAIL = Path(sys.executable).with_name("contrail")
TO_FEATURES = ("reference", "ingest", "clean", "features")
_TABLE = re.compile(r"\{([a-z_0-9/]+)\}")
_FEATURES = tuple(f"feature/{name}" for name in FEATURE_TABLES)


def part_of_package(folder: Path, first: date, last: date) -> Path:
    """A source folder with the installed package's flights and weather of some days; its other tables whole.

    A tenth of a second to land a day of it, where the whole year takes three.
    """
    folder.mkdir(parents=True)
    with duck.connect() as con, tempfile.TemporaryDirectory() as work:
        load(con, find_source(None), Path(work))
        for table, columns in COLUMNS.items():
            rows = f"SELECT {', '.join(columns)} FROM source_{table}"
            if "month" in columns:
                rows += f" WHERE make_date(year, month, day) BETWEEN DATE '{first}' AND DATE '{last}'"
            con.execute(
                f"COPY ({rows}) TO {duck.quote_literal(str(folder / f'{table}.csv'))} (HEADER, NULLSTR 'NA')"
            )
    return folder


class Home:
    """One installation, of a test."""

    def __init__(self, path: Path) -> None:
        self.settings = Settings(home=path)
        self.lake = Lake(self.settings.lake_root)

    # -- in this process -----------------------------------------------------------------------------------------

    def land(self, source: Path, first: date, last: date) -> None:
        land_quietly(self.settings, source, first, last, show=False)

    def run(self) -> list[StepReport]:
        """Everything that is due, to the end of the graph."""
        with _environment_kept():
            run.prepare(self.settings)
            return list(run.run_steps(self.settings, show=False))

    def run_to_features(self) -> list[StepReport]:
        """What is due from landed files to feature tables: the plan's own steps, without the stages after them."""
        reports: list[StepReport] = []
        with _environment_kept():
            run.prepare(self.settings)
            with dg.DagsterInstance.from_config(str(self.settings.dagster_home)) as instance:
                while steps := self._steps_to_features({(r.job, r.days) for r in reports}):
                    reports += [run.run_step(self.settings, instance, step) for step in steps]
        return reports

    def run_step(self, step: Step) -> StepReport:
        """One step, whether due or not."""
        with _environment_kept():
            run.prepare(self.settings)
            with dg.DagsterInstance.from_config(str(self.settings.dagster_home)) as instance:
                report = run.run_step(self.settings, instance, step)
        all_succeeded([report])
        return report

    def _steps_to_features(self, done: set[tuple[str, str]]) -> list[Step]:
        """The features job once only: its last assets are the stores, which are left out and stay due."""
        steps = [step for step in plan(self.settings).steps if step.job in TO_FEATURES]
        if any((step.job, step.days) in done and step.job != "features" for step in steps):
            raise AssertionError(f"run and still due: {steps}")
        return [
            replace(step, assets=_FEATURES) if step.job == "features" else step
            for step in steps
            if (step.job, step.days) not in done
        ]

    def status(self) -> status.Status:
        return status.collect(self.settings)

    # -- in another process --------------------------------------------------------------------------------------

    def command(self, *arguments: str) -> subprocess.Popen[str]:
        """`contrail …` over this home, started; it leads a process group of its own."""
        return subprocess.Popen(
            [CONTRAIL, *arguments],
            env=os.environ | {"CONTRAIL_HOME": str(self.settings.home)},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            start_new_session=True,
        )

    def contrail(self, *arguments: str, expect: int = 0) -> str:
        """`contrail …` over this home, to its end: what it printed (its errors, where it shall end with another code).

        Fails where it ends with any other code.
        """
        done = self.command(*arguments)
        output, errors = done.communicate()
        assert done.returncode == expect, (
            f"contrail {' '.join(arguments)}: {done.returncode}\n{output}\n{errors}"
        )
        return errors if expect else output

    # -- what came out -------------------------------------------------------------------------------------------

    def tables(self, *stages: str) -> list[str]:
        return [name for name in self.lake.tables() if name.partition("/")[0] in stages]

    def content(self, *stages: str, where: str = "true") -> dict[str, str]:
        """Table → content hash."""
        return {name: self.lake.content_hash(name, where=where) for name in self.tables(*stages)}

    def rows(self, query: str) -> list[dict[str, Any]]:
        """A query in which ``{raw/weather}`` and the like stand for tables."""
        with duck.connect() as con:
            result = con.execute(_TABLE.sub(lambda name: self.lake.scan(name[1]), query))
            names = [column[0] for column in result.description or []]
            return [dict(zip(names, row, strict=True)) for row in result.fetchall()]

    def value(self, query: str) -> Any:
        """The one value that a query of `rows` gives."""
        (row,) = self.rows(query)
        (found,) = row.values()
        return found


def days(first: date, count: int) -> list[date]:
    return [first + timedelta(days=n) for n in range(count)]


def all_succeeded(reports: Sequence[StepReport]) -> None:
    """Fails with the words of every step that failed."""
    failed = {f"{r.job} {r.days}": [r.error, *r.checks_failed] for r in reports if not r.succeeded}
    assert not failed, json.dumps(failed, indent=1)


@contextlib.contextmanager
def _environment_kept() -> Iterator[None]:
    """The command brings its process under its home's environment; the next test's process is the same one."""
    before = dict(os.environ)
    try:
        yield
    finally:
        os.environ.clear()
        os.environ.update(before)
