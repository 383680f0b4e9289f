"""The whole graph: a full year from landed files to scores and report, one more day on top, and the ordinary way.

Ours: `contrail land`, then `contrail run --json`, each in a process of its own; per run of the graph the wall and CPU
that it reports, and the peak memory of the process while it went on (memory that is freed is not always given back,
so later stages inherit some). Then the same up to 2013-12-30 and, in a fresh process, one more day. The year that is
made here, or the one that --home names, also serves the peer as its source of files, model and feature tables.

Peer: benchmarks/ordinary/daily_graph.py for a sample of days, and benchmarks/ordinary/feast_duckdb.py for two sizes of
a sample of training rows; both are scaled to the year by the formulas that are printed. What does not run by day
(reference tables, registry, online copy, fit, evaluation, monitoring) the peer is given at our cost.
"""

from __future__ import annotations

import argparse
import json
import shutil
import sys
import tempfile
from collections import defaultdict
from collections.abc import Mapping, Sequence
from datetime import UTC, date, datetime, time, timedelta
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from benchmarks.measuring import ROOT, Usage, heading, median, run, table, verdict
from feature_repo.use_cases import DEFAULT_USE_CASE, USE_CASES

PROGRAMS = Path(sys.executable).parent
ORDINARY = ROOT / "benchmarks" / "ordinary"
LAST_BUT_ONE, LAST = "2013-12-30", "2013-12-31"
REFERENCE = (
    "raw/planes",
    "raw/airports",
    "raw/airlines",
    "clean/aircraft",
    "clean/airports",
    "clean/carriers",
)


def main() -> None:
    options = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    options.add_argument(
        "--home", type=Path, help="a finished home: spares the year, peer and increment only"
    )
    options.add_argument("--last", help="run ours up to this day only, for a quick look (YYYY-MM-DD)")
    options.add_argument("--no-increment", action="store_true", help="leave out one more day")
    options.add_argument("--no-peer", action="store_true", help="leave out the ordinary way")
    options.add_argument("--peer-first", default="2013-11-12", help="first day of the peer's sample")
    options.add_argument("--peer-days", type=int, default=2, help="days of the peer's sample")
    options.add_argument(
        "--peer-rows", type=int, nargs=2, default=(2000, 8000), help="two samples of training rows"
    )
    options.add_argument("--peer-packages", type=Path, help="a folder with another ibis than the lock's")
    given = options.parse_args()
    heading("the whole graph", "dagster", "dagster-dbt", "duckdb", "deltalake", "feast", "lightgbm")
    with tempfile.TemporaryDirectory(prefix="contrail-bench-") as folder:
        scratch = Path(folder)
        home, ours = (given.home.resolve() if given.home else scratch / "year"), None
        if given.home is None:
            ours = _year(home, given.last)
        one_day = None if given.no_increment else _increment(scratch / "increment")
        if not given.no_peer:
            peer_day = _peer(home, scratch, ours, given)
            if one_day is not None:
                print(
                    f"one day by itself, peer / ours: {peer_day:.1f} / {one_day:.1f} = {peer_day / one_day:.1f}× "
                    "(ours with a year of history, online copy, planning and monitoring; the peer without)"
                )


# -- ours --------------------------------------------------------------------------------------------------------------


def _year(home: Path, last: str | None) -> Mapping[str, float]:
    """Land and run; CPU seconds per job, and ``total``."""
    until = ("--to", last) if last else ()
    print(
        f"\n== ours: from landed files to scores and report{f', up to {last}' if last else ', the full year'}"
    )
    landed = _contrail(home, "land", *until)
    print(
        f"landing (before the clock starts): {landed.wall:.1f} s wall, {landed.cpu:.1f} CPU s, {landed.peak_mb:.0f} MB"
    )
    done = _contrail(home, "run", *until)
    outcome: dict[str, Any] = json.loads(done.stdout)
    spans = _spans(home)
    per_job: dict[str, list[dict[str, Any]]] = defaultdict(list)
    for one in outcome["runs"]:
        per_job[one["job"]].append(one)
    rows: list[dict[str, object]] = []
    cpu: dict[str, float] = {}
    for job, runs in per_job.items():
        cpu[job] = sum(one["CPU s"] for one in runs)
        rows.append(
            {
                "run of": job,
                "runs": len(runs),
                "wall s": float(sum(one["wall s"] for one in runs)),
                "CPU s": float(cpu[job]),
                "peak MB": int(max(done.peak_between(*spans[one["run"]]) for one in runs)),
            }
        )
    between = {
        "wall s": done.wall - sum(float(str(r["wall s"])) for r in rows),
        "CPU s": done.cpu - sum(cpu.values()),
    }
    rows.append({"run of": "start, planning, summary", "runs": "", **between, "peak MB": ""})
    rows.append(
        {
            "run of": "all",
            "runs": len(outcome["runs"]),
            "wall s": done.wall,
            "CPU s": done.cpu,
            "peak MB": int(done.peak_mb),
        }
    )
    table(rows)
    model = outcome["model"]
    if model:
        print(
            f"test AUC {model['test_auc']:.4f}; checks: {outcome['checks_passed']} passed, "
            f"{len(outcome['checks_failed'])} failed"
        )
    print("rows: " + ", ".join(f"{s['stage']}/{s['table']} {s['rows']:,}" for s in outcome["stages"] if s["table"] in
                               ("flight_events", "departures", "late_flight_2h/predictions")))  # fmt: skip
    verdict("wall", done.wall, 180, unit=" s")
    verdict("CPU", done.cpu, 360, unit=" s (3 minutes of 2 cores)")
    verdict("peak memory", done.peak_mb, 3072, unit=" MB")
    return cpu | {"total": done.cpu}


def _increment(home: Path) -> float:
    """Everything but the last day, then the last day: its CPU seconds."""
    print(f"\n== ours: one more day ({LAST}) on top of everything up to {LAST_BUT_ONE}")
    first = _contrail(home, "run", "--to", LAST_BUT_ONE)
    print(f"up to {LAST_BUT_ONE}: {first.wall:.1f} s wall, {first.cpu:.1f} CPU s, {first.peak_mb:.0f} MB")
    _contrail(home, "land", "--to", LAST)
    done = _contrail(home, "run", "--to", LAST)
    outcome: dict[str, Any] = json.loads(done.stdout)
    table([{key: one[key] for key in ("job", "days", "wall s", "CPU s")} for one in outcome["runs"]])
    print(
        f"one more day: {done.wall:.1f} s wall, {done.cpu:.1f} CPU s, {done.peak_mb:.0f} MB (process start included)"
    )
    idle = _contrail(home, "run", "--to", LAST)
    print(f"nothing to do: {idle.wall:.1f} s wall, {idle.cpu:.1f} CPU s")
    return done.cpu


def _contrail(home: Path, command: str, *arguments: str) -> Usage:
    return run([str(PROGRAMS / "contrail"), command, *arguments, "--json"], env={"CONTRAIL_HOME": str(home)})


def _spans(home: Path) -> dict[str, tuple[float, float]]:
    """Run → its start and end, in seconds since 1970."""
    import dagster as dg

    with dg.DagsterInstance.from_config(str(home / "dagster")) as instance:
        return {
            record.dagster_run.run_id[:8]: (record.start_time or 0.0, record.end_time or 0.0)
            for record in instance.get_run_records()
        }


# -- the ordinary way --------------------------------------------------------------------------------------------------


def _peer(source: Path, scratch: Path, ours: Mapping[str, float] | None, given: argparse.Namespace) -> float:
    """The ordinary way on a sample of days, scaled to the year; CPU seconds of the median day."""
    first = date.fromisoformat(given.peer_first)
    days = [(first + timedelta(days=n)).isoformat() for n in range(given.peer_days)]
    has_feast = given.peer_packages is not None or find_spec("ibis") is not None
    print(
        f"\n== peer: one Dagster run per day, multiprocess executor, a sample of {len(days)} days from {days[0]}"
    )
    print(
        "raw: GX on pandas, deltalake; clean: our dbt models by dagster-dbt's .cli(); feature: our SQL over the day"
    )
    if has_feast:
        print(
            "score and training rows: Feast's DuckDB store over our Delta feature tables (delta extension INSTALLed)"
        )
    else:
        print(
            "score and training rows: NOT run, Feast's DuckDB store needs ibis, which the lock has: make setup"
        )
    home = scratch / "peer"
    env = {"CONTRAIL_HOME": str(home), "HOME": str(home / "user"), "TZ": "UTC"}
    if given.peer_packages:
        env["PYTHONPATH"] = str(given.peer_packages.resolve())
    _prepare(home, source, days[0], has_feast=has_feast)
    training = _training_rows(source, home, given.peer_rows, env) if has_feast else None
    runs: list[Usage] = []
    for day in days:
        _landed_until(home, date.fromisoformat(day))
        arguments = [
            "asset",
            "materialize",
            "--select",
            "*",
            "--partition",
            day,
            "-f",
            str(ORDINARY / "daily_graph.py"),
        ]
        runs.append(run([str(PROGRAMS / "dagster"), *arguments], env=env))
        print(
            f"{day}: {runs[-1].wall:.1f} s wall, {runs[-1].cpu:.1f} CPU s, {runs[-1].peak_mb:.0f} MB (process tree)"
        )
    per_stage, work = _costs(home, days)
    per_day = median([one.cpu for one in runs])
    per_stage["orchestration"] = per_day - sum(per_stage.values())
    work["orchestration"] = 0.0
    table(
        [
            {
                "stage, one day": stage,
                "CPU s": per_stage[stage],
                "of it work, without process start and imports": work[stage],
            }
            for stage in per_stage
        ]
    )
    _compare(per_stage, work, training, source, ours)
    return per_day


def _prepare(home: Path, source: Path, first: str, *, has_feast: bool) -> None:
    """A home for the peer: reference tables and the parsed dbt project are given to it."""
    for name in REFERENCE:
        shutil.copytree(source / "lake" / name, home / "lake" / name)
    shutil.copytree(ROOT / "dbt_project", home / "dbt_project")
    (home / "dagster").mkdir(parents=True)
    (home / "dagster" / "dagster.yaml").write_text("telemetry: {enabled: false}\n")
    (home / "user").mkdir()
    peer = {"source": str(source), "first": first, "has_feast": has_feast}
    (home / "peer.json").write_text(json.dumps(peer))


def _landed_until(home: Path, day: date) -> None:
    """Tell the dbt models which day to build: the only one that has landed, as far as they can see."""
    end = datetime.combine(day + timedelta(days=1), time(7), UTC)
    landed = {
        "first": day.isoformat(),
        "last": day.isoformat(),
        "newest_fact_delivered_at": end.strftime("%Y-%m-%dT%H:%M:%SZ"),
    }
    folder = home / "lake" / "landing"
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "range.json").write_text(json.dumps(landed))


def _training_rows(
    source: Path, home: Path, sizes: Sequence[int], env: Mapping[str, str]
) -> tuple[float, float]:
    """(fixed CPU seconds, CPU seconds per row) of Feast's retrieval, from two sizes."""
    cpu: list[float] = []
    program = str(ORDINARY / "feast_duckdb.py")
    for size in sizes:
        used = run([sys.executable, program, str(source), str(home), str(size)], env=env)
        cpu.append(used.document()["cpu"])
        print(f"training rows, {size}: {cpu[-1]:.1f} CPU s after imports, {used.peak_mb:.0f} MB")
    slope = (cpu[1] - cpu[0]) / (sizes[1] - sizes[0])
    return cpu[0] - slope * sizes[0], slope


def _costs(home: Path, days: Sequence[str]) -> tuple[dict[str, float], dict[str, float]]:
    """Median day: CPU seconds per stage of whole processes, and of the work in them."""
    process: dict[str, list[float]] = defaultdict(lambda: [0.0] * len(days))
    work: dict[str, list[float]] = defaultdict(lambda: [0.0] * len(days))
    for n, day in enumerate(days):
        for path in sorted((home / "cost" / day).glob("*.json")):
            note = json.loads(path.read_text())
            process[note["stage"]][n] += note["process"]
            work[note["stage"]][n] += note["work"]
    order = [stage for stage in ("raw", "clean", "feature", "score") if stage in process]
    return {s: median(process[s]) for s in order}, {s: median(work[s]) for s in order}


def _compare(
    process: Mapping[str, float],
    work: Mapping[str, float],
    training: tuple[float, float] | None,
    source: Path,
    ours: Mapping[str, float] | None,
) -> None:
    counts = _counts(source)
    print(
        f"\n== the year: {counts['days']} days, of which {counts['scored']} scored; "
        f"{counts['training']:,} training rows"
    )
    retrieval = 0.0
    if training is not None:
        retrieval = training[0] + training[1] * counts["training"]
        print(
            f"training retrieval, linear from two sizes: {training[0]:.1f} + {training[1] * 1000:.2f} ms × "
            f"{counts['training']:,} = {retrieval:,.0f} CPU s"
        )
    totals: dict[str, float] = {}
    for title, of in (("whole processes", process), ("work only", work)):
        daily = sum(value for stage, value in of.items() if stage != "score")
        score = of.get("score", 0.0)
        totals[title] = daily * counts["days"] + score * counts["scored"] + retrieval
        print(
            f"peer, {title}: {daily:.1f} × {counts['days']} + {score:.1f} × {counts['scored']} + {retrieval:,.0f} = "
            f"{totals[title]:,.0f} CPU s"
        )
    if ours is None:
        print("ours: not run here (--home was given), so no ratio")
        return
    # A training job holds both: its retrieval stays out of what the peer is given, for we cannot tell them apart here.
    second = sum(cpu for job, cpu in ours.items() if _is_of_another_model(job))
    total_ours = ours["total"] - second
    given = ours["reference"] + ours[f"monitor_{DEFAULT_USE_CASE}"]
    print(
        f"ours: {total_ours:.1f} CPU s without the jobs of the other models ({second:.1f}), which the peer has not"
    )
    print(
        f"both: reference and monitoring at our {given:.1f} CPU s; "
        "the peer is spared fit, evaluation, registry, online copy"
    )
    for title, total in totals.items():
        print(
            f"ratio, {title}: ({total:,.0f} + {given:.1f}) / {total_ours:.1f} = "
            f"{(total + given) / total_ours:.1f}×"
        )
    verdict(
        "whole graph, peer / ours, whole processes",
        (totals["whole processes"] + given) / total_ours,
        5,
        at_least=True,
        unit="×",
    )


def _is_of_another_model(job: str) -> bool:
    return any(job.endswith(f"_{name}") for name in USE_CASES if name != DEFAULT_USE_CASE)


def _counts(source: Path) -> dict[str, int]:
    from contrail import duck
    from contrail.lake import Lake

    lake, use_case = Lake(source / "lake"), USE_CASES[DEFAULT_USE_CASE]
    questions = {
        "days": f"count(DISTINCT {use_case.partition_column}) FROM {lake.scan('clean/departures')}",
        "scored": f"count(DISTINCT {use_case.partition_column}) FROM {lake.scan(f'score/{use_case.name}/predictions')}",
        "training": f"count(*) FROM {lake.scan(f'model/{use_case.name}/training_set')}",
    }
    with duck.connect() as con:
        return {
            name: int((con.execute(f"SELECT {query}").fetchone() or (0,))[0])
            for name, query in questions.items()
        }


if __name__ == "__main__":
    main()
