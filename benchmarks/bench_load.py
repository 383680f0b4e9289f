"""Loading: the code location and `contrail --help`, in fresh interpreters, against the same imports made eagerly."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from benchmarks.measuring import heading, interleaved, median, run, table, verdict

EAGER = ("dagster", "dagster_dbt", "feast", "mlflow", "lightgbm", "great_expectations")
HEAVY = ("feast", "mlflow", "lightgbm", "great_expectations", "matplotlib", "sklearn", "evidently")


def main() -> None:
    options = argparse.ArgumentParser(description=__doc__)
    options.add_argument("--repeats", type=int, default=5, help="interleaved rounds")
    repeats: int = options.parse_args().repeats
    heading(
        f"code location load: CPU seconds of fresh interpreters, median of {repeats} interleaved",
        "dagster", "dagster-dbt", "feast", "mlflow", "lightgbm", "great-expectations",
    )  # fmt: skip

    def cpu(*command: str) -> float:
        return run(command).cpu

    def python(code: str) -> float:
        return cpu(sys.executable, "-c", code)

    contrail = str(Path(sys.executable).with_name("contrail"))
    found = {
        name: median(values)
        for name, values in interleaved(
            {
                "python alone": lambda: python("pass"),
                "import dagster": lambda: python("import dagster"),
                "import dagster, dagster_dbt": lambda: python("import dagster, dagster_dbt"),
                "peer: the same imports eagerly": lambda: python(f"import {', '.join(EAGER)}"),
                "ours: import definitions": lambda: python("import definitions"),
                "ours: contrail --help": lambda: cpu(contrail, "--help"),
            },
            repeats,
        ).items()
    }
    table([{"process": name, "CPU s": value} for name, value in found.items()])
    ours, peer = found["ours: import definitions"], found["peer: the same imports eagerly"]
    print(f"ratio: eager / ours = {peer / ours:.1f}")
    loaded = run(
        [sys.executable, "-c", f"import sys, definitions; print([m for m in {HEAVY!r} if m in sys.modules])"]
    )
    print(f"heavy libraries in sys.modules after loading: {loaded.stdout.strip()}")
    verdict("code location load", ours, 4.5, unit=" CPU s")
    verdict("contrail --help", found["ours: contrail --help"], 0.5, unit=" CPU s")


if __name__ == "__main__":
    main()
