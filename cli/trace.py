"""`contrail trace`: from one prediction back to the bytes."""

from __future__ import annotations

from collections import Counter

from cli.output import failures, print_json, say, table
from contrail.lake import Lake, LakeError
from contrail.landing import LandingError
from contrail.settings import Settings
from contrail.trail import Trace, TrailError, describe, trace


def main(prediction_id: str, *, as_json: bool) -> None:
    """Walk the trail and print it, hop by hop."""
    from feature_repo.use_cases import USE_CASES

    settings = Settings()
    with failures(TrailError, LakeError, LandingError):
        found = trace(Lake(settings.lake_root), settings.landing_root, USE_CASES, prediction_id)
    if as_json:
        print_json(found)
    else:
        _print(found)


def _print(found: Trace) -> None:
    row = found.prediction
    say(f"prediction  {row['prediction_id']}  ({found.use_case})")
    for name in ("decision_at", "score", "decision"):
        if name in row:
            value = row[name]
            say(f"  {name:<18} {describe(value) if name.endswith('_at') else value}")
    written = found.written_by
    say(
        f"  written by run     {written.run_id} at {describe(written.timestamp)}, code {written.git_sha[:12]}"
    )
    say(f"model       {row['model_name']} version {row['model_version']}  sha256 {row['model_sha256']}")
    say(f"  trained on         {found.training_set}")
    say("tables      version read, commits up to it, what they read")
    say(table([_hop(hop.table, hop.version, hop.commits, hop.inputs) for hop in found.tables],
              ["table", "version", "commits", "made from"]))  # fmt: skip
    say("this row's own raw rows")
    say(table([{"column": r.column, "file": r.file, "row": r.row, "sha256": r.sha256} for r in found.source_rows],
              ["column", "file", "row", "sha256"]))  # fmt: skip
    per_table = Counter(file.table or "(gone)" for file in found.files)
    verified = Counter(file.table for file in found.files if file.verified)
    say("landed files behind it (hash recomputed now)")
    say(table([{"table": t, "files": n, "verified": verified[t]} for t, n in sorted(per_table.items())],
              ["table", "files", "verified"]))  # fmt: skip
    say(
        "every file verified"
        if not found.unverified
        else f"NOT VERIFIED: {len(found.unverified)} files differ or are gone"
    )


def _hop(name: str, version: int, commits: int, inputs: tuple[str, ...]) -> dict[str, object]:
    files = sum(i.startswith("sha256:") for i in inputs)
    tables = sorted({i.rpartition("@v")[0] for i in inputs if "@v" in i})
    made = ", ".join(tables[:4]) + (f" and {len(tables) - 4} more" if len(tables) > 4 else "")
    return {
        "table": name,
        "version": version,
        "commits": commits,
        "made from": ", ".join(part for part in (made, f"{files:,} landed files" if files else "") if part),
    }
