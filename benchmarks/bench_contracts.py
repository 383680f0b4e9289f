"""Contract validation of a year's landed files: ours against Great Expectations on pandas.

Both read the same compressed CSV files and judge them by the same contract. Each variant runs in a fresh process; CPU
is taken after the imports, so that it is not the imports that are compared ("process" has them).

  judge    the rules alone, on rows that are read and typed: ours compiled to one DuckDB scan, all rules; the peer
           `Batch.validate` with SUMMARY. A rule that is a SQL condition GX cannot run on pandas, and it is spared
           them; "same rules" spares them to ours too.
  intake   from files to verdicts. Ours is the whole of contrail.ingest: every value strictly typed from its text, each
           broken row with all its rules, rows separated, versions and provenance added, one verdict per file. The peer
           reads with pandas and validates, once over one frame of all files, and file by file as daily partitions do.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from benchmarks.measuring import ROOT, heading, median, table, verdict, worker
from benchmarks.ordinary.gx_pandas import GxOnPandas, for_pandas, read_frame
from contrail import duck, expectations, landing
from contrail.clock import pin_utc
from contrail.contracts import Contract, landed_schema, load_contracts
from contrail.settings import Settings

if TYPE_CHECKING:
    import pandas as pd

PROGRAM = str(Path(__file__).resolve())
INGEST, JUDGE, JUDGE_SAME, GX_ONE, GX_FILES = "ingest", "judge", "judge-same", "gx-one-frame", "gx-per-file"
NAMES = {
    INGEST: "ours: contrail.ingest, all rules",
    JUDGE: "ours: compiled rules, all",
    JUDGE_SAME: "ours: compiled rules, same rules",
    GX_ONE: "peer: GX on pandas, one frame",
    GX_FILES: "peer: GX on pandas, file by file",
}


def main() -> None:
    options = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    options.add_argument("--home", type=Path, help="a home with landed files (default: the settings')")
    options.add_argument("--table", default="flight_events")
    options.add_argument("--files", type=int, default=0, help="so many files from the first (0: all)")
    options.add_argument("--peer-files", type=int, default=30, help="sample of the file-by-file peer, scaled")
    options.add_argument("--repeats", type=int, default=3, help="interleaved rounds")
    options.add_argument("--worker", choices=tuple(NAMES), help=argparse.SUPPRESS)
    given = options.parse_args()
    pin_utc()
    settings = Settings(home=given.home.resolve()) if given.home else Settings()
    contract = load_contracts(ROOT / "contracts")[given.table]
    if given.worker:
        delivered = landing.deliveries(settings.landing_root, given.table)[: given.files or None]
        print(json.dumps(_work(settings, given.worker, contract, delivered)))
    else:
        _compare(settings, contract, given.files, given.peer_files, given.repeats)


def _compare(settings: Settings, contract: Contract, files: int, peer_files: int, repeats: int) -> None:
    landed = len(landing.deliveries(settings.landing_root, contract.table)[: files or None])
    if landed == 0:
        raise SystemExit(f"no file of {contract.table} in {settings.landing_root}: contrail land, or --home")
    heading(
        f"contract validation: {landed} landed files of {contract.table}; {len(contract.rules)} rules, of which pandas "
        f"can run {len(for_pandas(contract).rules)}; median of {repeats} interleaved",
        "great-expectations", "pandas", "duckdb",
    )  # fmt: skip
    sample = min(peer_files, landed)
    found: dict[str, list[dict[str, float]]] = {variant: [] for variant in NAMES}
    for _ in range(repeats):
        for variant in NAMES:
            count = sample if variant == GX_FILES else landed
            said, used = worker(PROGRAM, variant, *_asked(settings, contract, count))
            found[variant].append({**said, "process": used.cpu, "peak": used.peak_mb})
    of = {
        variant: {key: median([one[key] for one in runs]) for key in runs[0]}
        for variant, runs in found.items()
    }
    table(
        [
            {
                "variant": NAMES[variant] + (f", {sample} files" if variant == GX_FILES else ""),
                "rows": int(one["rows"]),
                "judge CPU s": one.get("judge", ""),
                "intake CPU s": one.get("intake", ""),
                "process CPU s": one["process"],
                "peak MB": int(one["peak"]),
            }
            for variant, one in of.items()
        ]
    )
    by_file = {key: of[GX_FILES][key] * landed / sample for key in ("judge", "intake")}
    print(
        f"file by file, scaled to {landed} files (× {landed} / {sample}): judge {by_file['judge']:.1f}, "
        f"intake {by_file['intake']:.1f} CPU s"
    )
    one, ours = of[GX_ONE], of[INGEST]["intake"]
    verdict(
        "judge, one frame, same rules, peer / ours",
        one["judge"] / of[JUDGE_SAME]["judge"],
        5,
        at_least=True,
        unit="×",
    )
    verdict(
        "judge, one frame, ours with all rules", one["judge"] / of[JUDGE]["judge"], 5, at_least=True, unit="×"
    )
    verdict(
        "intake, file by file (a verdict per file, as ours)",
        by_file["intake"] / ours,
        5,
        at_least=True,
        unit="×",
    )
    verdict("intake, one frame (one verdict for all files)", one["intake"] / ours, 5, at_least=True, unit="×")
    quarter = {
        variant: worker(PROGRAM, variant, *_asked(settings, contract, max(landed // 4, 1)))[1].peak_mb
        for variant in (INGEST, GX_ONE)
    }
    print(
        f"peak memory from a quarter of the files to all: ours {quarter[INGEST]:.0f} → {of[INGEST]['peak']:.0f} MB, "
        f"peer in one frame {quarter[GX_ONE]:.0f} → {one['peak']:.0f} MB"
    )


def _asked(settings: Settings, contract: Contract, files: int) -> tuple[str, ...]:
    """The options of a worker."""
    return ("--table", contract.table, "--files", str(files), "--home", str(settings.home))


def _work(
    settings: Settings, variant: str, contract: Contract, delivered: Sequence[landing.Delivery]
) -> dict[str, float]:
    """One variant in this process: rows, and CPU seconds of the work."""
    import pandas as pd  # pyarrow imports it at its first array from Python objects: an import, not work

    if variant == INGEST:
        return _ingest(settings, contract, delivered)
    if variant in (JUDGE, JUDGE_SAME):
        frame = pd.concat([read_frame(contract, one.path) for one in delivered], ignore_index=True)
        return _judge(settings, contract if variant == JUDGE else for_pandas(contract), frame)
    return _gx(for_pandas(contract), delivered, one_frame=variant == GX_ONE)


def _ingest(
    settings: Settings, contract: Contract, delivered: Sequence[landing.Delivery]
) -> dict[str, float]:
    from contrail.ingest import ingest_in_chunks

    began = time.process_time()
    landed = 0
    with duck.connect(threads=settings.threads, memory_limit=settings.memory_limit) as con:
        for chunk in ingest_in_chunks(contract, delivered, con=con):
            landed += sum(report.landed for report in chunk.partitions)
    return {"intake": time.process_time() - began, "rows": landed}


def _judge(settings: Settings, contract: Contract, frame: pd.DataFrame) -> dict[str, float]:
    import pyarrow as pa

    rows = pa.Table.from_pandas(frame, schema=landed_schema(contract), preserve_index=False)
    with duck.connect(threads=settings.threads, memory_limit=settings.memory_limit) as con:
        began = time.process_time()
        con.register("landed", rows)
        rules = expectations.compile_rules(contract)
        expectations.evaluate(con, "landed", rules, columns=contract.column_names)
        return {"judge": time.process_time() - began, "rows": rows.num_rows}


def _gx(contract: Contract, delivered: Sequence[landing.Delivery], *, one_frame: bool) -> dict[str, float]:
    import pandas as pd

    gx = GxOnPandas(contract)
    began, judged, landed = time.process_time(), 0.0, 0
    frames = (read_frame(contract, delivery.path) for delivery in delivered)
    for frame in [pd.concat(list(frames), ignore_index=True)] if one_frame else frames:
        judging = time.process_time()
        gx.validate(frame)
        judged += time.process_time() - judging
        landed += len(frame)
    return {"judge": judged, "intake": time.process_time() - began, "rows": landed}


if __name__ == "__main__":
    main()
