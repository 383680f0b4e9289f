"""The point-in-time join: Feast's own offline stores, DuckDB's ASOF join written by hand, and ours, over the same Delta
tables (three views, five rows in a hundred corrected).

One process per measurement; CPU is counted after imports, registry and reading of the entity frame. Peers and raw SQL
know no knowledge time, so ours is measured without it where it is compared with them; what it costs stands beside.
Feast's DuckDB store is spared more than 1 million rows, and Feast's Dask store more than 500: beyond, they leave the
machine.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as parquet

from benchmarks import join_world
from benchmarks.join_world import DECISION, ROW
from benchmarks.measuring import MB, heading, median, table, verdict, worker
from contrail.clock import pin_utc
from contrail.commits import file_sha256
from contrail.fingerprint import row_fingerprint
from contrail.shards import BYTES_PER_ROW, memory_bytes

FEAST, DASK = "peer: Feast's DuckDB store, to pandas", "peer: Feast's Dask store, to pandas"
RAW, RAW_ORDERED = "raw ASOF to Arrow", "raw ASOF with ORDER BY to Arrow"
ARROW, PANDAS, STREAM = "ours to Arrow", "ours to pandas", "ours, streamed"
KNOWLEDGE, SHARDS = "ours to Arrow, knowledge time", "ours in shards, to Parquet"
OURS = (ARROW, PANDAS, STREAM, KNOWLEDGE, SHARDS)
COMPARED = (RAW_ORDERED, ARROW, SHARDS)
"""Whose rows must be the same; pandas turns integers with nulls into floats."""
MOST_FEAST, MOST_DASK = 1_000_000, 500
LONG = 3_000_000
THREADS = 2
SMALL_MEMORY = "200MB"
LOW_MEMORY = "1GB"


@dataclass(frozen=True)
class Cell:
    """One measurement: which variant, over how many rows and features, with how much memory for DuckDB."""

    variant: str
    rows: int
    features: int
    memory: str = "4GB"


def main() -> None:
    options = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    options.add_argument(
        "--rows", type=_numbers, default=[50_000, 300_000, 1_000_000, 3_000_000], metavar="N,N…"
    )
    options.add_argument("--features", type=_numbers, default=[10, 50], metavar="N,N…", help="10, 50")
    options.add_argument(
        "--runs", type=int, default=5, help="interleaved runs; long cells take three at most"
    )
    options.add_argument("--quick", action="store_true", help="50 k and 300 k rows, 10 features, one run")
    given = options.parse_args()
    if given.quick:
        given.rows, given.features, given.runs = [50_000, 300_000], [10], 1
    if strays := set(given.features) - join_world.SPLIT.keys():
        options.error(f"no views of {sorted(strays)} features")
    with tempfile.TemporaryDirectory(prefix="bench-join-") as place:
        folder = Path(place)
        join_world.make(folder, sorted({*given.rows, MOST_DASK}), given.features)
        heading(
            f"point-in-time join of {len(join_world.VIEWS)} views, {THREADS} threads, one process per measurement",
            "duckdb", "feast", "pyarrow", "pandas",
        )  # fmt: skip
        for features in given.features:
            measured: dict[tuple[str, int], float] = {}
            for rows in [*([MOST_DASK] if features == 10 else []), *given.rows]:
                measured |= _measure(folder, rows, features, given.runs)
            _judge(measured, given.rows, features)
        _memory(folder, min(given.features), given.rows)


def _measure(folder: Path, rows: int, features: int, runs: int) -> dict[tuple[str, int], float]:
    """Run one size and print it; (variant, rows) -> CPU seconds."""
    variants = [DASK] if rows == MOST_DASK else [RAW, RAW_ORDERED, *OURS]
    if rows <= MOST_FEAST and features == 10:
        variants.insert(0, FEAST)
    few = min(runs, 3)
    counts = {v: few if rows >= LONG or (v == FEAST and rows >= MOST_FEAST) else runs for v in variants}
    cpu: dict[str, list[float]] = {variant: [] for variant in variants}
    peaks = dict.fromkeys(variants, 0.0)
    rows_of: dict[str, str] = {}
    for number in range(runs):
        for variant in variants:  # in turn, so that a busy minute hits all of them alike
            if number < counts[variant]:
                wanted = number == 0 and variant in COMPARED and rows != MOST_DASK
                said = _run(folder, Cell(variant, rows, features), fingerprint=wanted)
                cpu[variant].append(said["cpu"])
                peaks[variant] = max(peaks[variant], said["peak_mb"])
                if wanted:
                    rows_of[variant] = said["rows"]
    taken = {variant: median(values) for variant, values in cpu.items()}
    print(f"\n{rows:,} entity rows × {features} features")
    table(
        [
            {"variant": v, "CPU s": taken[v], "runs": counts[v], "peak MB": round(peaks[v]),
             "of raw ordered": taken[v] / taken[RAW_ORDERED] if RAW_ORDERED in taken else "-",
             "Feast / it": taken[FEAST] / taken[v] if FEAST in taken else "-"}
            for v in variants
        ]
    )  # fmt: skip
    if rows_of:
        print(f"the same rows by fingerprint ({'; '.join(rows_of)}): {len(set(rows_of.values())) == 1}")
    sys.stdout.flush()
    return {(variant, rows): value for variant, value in taken.items()}


def _judge(cpu: dict[tuple[str, int], float], sizes: list[int], features: int) -> None:
    print()
    for rows in sizes:
        size = f"{rows:,} × {features}"
        if (FEAST, rows) in cpu:
            ratio = cpu[FEAST, rows] / cpu[PANDAS, rows]
            said = f"{size}: Feast's DuckDB store / ours, both to pandas"
            if rows >= 1_000_000:
                verdict(said, ratio, 11, at_least=True, unit="×")
            else:
                print(f"{said}: {ratio:.3g}×")
        if rows >= 300_000:
            ratio = cpu[ARROW, rows] / cpu[RAW_ORDERED, rows]
            verdict(f"{size}: ours / raw ASOF with ORDER BY, both to Arrow", ratio, 1.5, unit="×")


def _memory(folder: Path, features: int, sizes: list[int]) -> None:
    """The streamed result keeps to its memory at ten times the rows; below the floor the rows are the same."""
    few, many = sizes[-2:] if len(sizes) > 1 else (sizes[0], sizes[0])
    if many // 10 in sizes:
        few = many // 10
    print(f"\nmemory, {features} features, memory_limit {LOW_MEMORY}")
    said = {
        (variant, rows): _run(folder, Cell(variant, rows, features, LOW_MEMORY))
        for variant in (STREAM, SHARDS)
        for rows in (few, many)
    }
    table(
        [
            {"variant": variant, "entity rows": rows, "CPU s": one["cpu"], "peak MB": round(one["peak_mb"]),
             "of it the frame": round(one["frame_mb"])}
            for (variant, rows), one in said.items()
        ]
    )  # fmt: skip
    limit = (memory_bytes(LOW_MEMORY) + memory_bytes("1GB")) / MB + said[STREAM, many]["frame_mb"]
    for variant in (STREAM, SHARDS):
        peak = said[variant, many]["peak_mb"]
        verdict(f"{variant}, {many:,} rows: peak, of setting + frame + 1 GB", peak, round(limit), unit=" MB")
    whole = _run(folder, Cell(ARROW, few, features), fingerprint=True)
    split = _run(folder, Cell(ARROW, few, features, SMALL_MEMORY), fingerprint=True)
    print(
        f"{few:,} rows with memory_limit {SMALL_MEMORY}: {split['cpu']:.2f} CPU s against {whole['cpu']:.2f}; "
        f"the same rows: {split['rows'] == whole['rows']}"
    )


def _run(folder: Path, cell: Cell, *, fingerprint: bool = False) -> Any:
    # Feast's DuckDB store asks for an installed extension: it gets one, in a home of its own.
    home = folder / "home"
    home.mkdir(exist_ok=True)
    numbers = [str(cell.rows), str(cell.features), cell.memory, str(int(fingerprint))]
    said, _ = worker(
        __file__, str(folder), cell.variant, *numbers, env={"HOME": str(home), "PYTHONWARNINGS": "ignore"}
    )
    return said


def _numbers(text: str) -> list[int]:
    return sorted(int(number.replace("_", "")) for number in text.split(","))


# -- in a process of its own -----------------------------------------------------------------------------------------


def measure(folder: Path, cell: Cell, *, fingerprint: bool) -> dict[str, Any]:
    """What one variant takes: CPU seconds, peak memory up to then; and the fingerprint of its rows if that is asked."""
    pin_utc()
    frame = parquet.read_table(join_world.entities(folder, cell.rows))
    ask = _prepared(folder, cell, frame)
    began = time.process_time()
    answer = ask()
    cpu = time.process_time() - began
    said = {"cpu": cpu, "frame_mb": frame.nbytes / MB, "peak_mb": _peak_mb()}
    if fingerprint:
        said["rows"] = _fingerprint(answer, folder)
    return said


def _prepared(folder: Path, cell: Cell, frame: pa.Table) -> Callable[[], Any]:
    """Everything that is not measured: imports, a store, a session; returns what is."""
    if cell.variant in (RAW, RAW_ORDERED):
        con = join_world.session(folder, threads=THREADS, memory_limit=cell.memory)
        con.register("entity", frame)
        sql = join_world.raw_sql(folder, cell.features, ordered=cell.variant == RAW_ORDERED)
        return lambda: con.sql(sql).to_arrow_table()
    if cell.variant == SHARDS:
        return _sharded(folder, cell)
    if cell.variant in (FEAST, DASK):
        from benchmarks.ordinary.feast_duckdb import install_extension

        install_extension()
        store, service = join_world.feast_store(
            folder, cell.features, {"type": "duckdb" if cell.variant == FEAST else "dask"}
        )
    else:
        store, service = join_world.feast_store(
            folder,
            cell.features,
            {
                "type": "contrail.asof.AsofOfflineStore",
                "threads": THREADS,
                "memory_limit": cell.memory,
                "temp_directory": str(folder / "spill"),
                "knowledge_time": cell.variant == KNOWLEDGE,
            },
        )
    asked: Any = frame.to_pandas() if cell.variant in (FEAST, DASK, PANDAS) else frame
    if cell.variant == STREAM:
        return lambda: _drained(store.get_historical_features(asked, service).to_reader(), cell.rows)
    if cell.variant in (ARROW, KNOWLEDGE):
        return lambda: store.get_historical_features(asked, service).to_arrow()
    return lambda: store.get_historical_features(asked, service).to_df()


def _drained(reader: pa.RecordBatchReader, rows: int) -> str:
    """Take batch after batch, as a consumer that holds one at a time; the rows must come in the frame's order."""
    came = 0
    for batch in reader:
        numbers = batch.column(ROW)
        assert (numbers[0].as_py(), numbers[-1].as_py()) == (came, came + batch.num_rows - 1)
        came += batch.num_rows
    assert came == rows
    return ""


def _sharded(folder: Path, cell: Cell) -> Callable[[], Any]:
    from contrail.asof_shards import FileSpec, SpineSpec, join_by_shards, join_spec
    from contrail.lake import Lake
    from contrail.shards import Means

    lake = Lake(folder / "lake")
    shard_rows = min(1_000_000, memory_bytes(cell.memory) // BYTES_PER_ROW)
    means = Means("local", 1, THREADS, cell.memory, shard_rows, folder / "spill")
    path = join_world.entities(folder, cell.rows)
    spec = join_spec(
        lake_root=lake.root,
        spine=SpineSpec(
            sql="SELECT * FROM entity",
            tables={},
            files={"entity": FileSpec(path=str(path), sha256=file_sha256(path))},
        ),
        order_by=[ROW],
        decision_column=DECISION,
        views=join_world.join_views(lake, cell.features),
        means=means,
        folder=folder / f"out_{cell.rows}_{cell.features}",
        knowledge_time=False,
    )
    return lambda: [Path(spec["folder"]) / file.path for file in join_by_shards(spec, means)]


def _fingerprint(answer: Any, folder: Path) -> str:
    with join_world.session(folder, threads=THREADS, memory_limit="4GB") as con:
        if isinstance(answer, list):
            return row_fingerprint(con, f"read_parquet({[str(path) for path in answer]})")
        con.register("answer", answer)
        return row_fingerprint(con, "answer")


def _peak_mb() -> float:
    import resource

    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


if __name__ == "__main__":
    if sys.argv[1:2] == ["--worker"]:
        place, variant, rows, features, memory, fingerprint = sys.argv[2:]
        cell = Cell(variant, int(rows), int(features), memory)
        print(json.dumps(measure(Path(place), cell, fingerprint=fingerprint == "1")))
    else:
        main()
