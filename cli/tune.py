"""`contrail tune`: what other learning parameters would be worth, on time-ordered folds of the training set."""

from __future__ import annotations

import math
from dataclasses import asdict
from pathlib import Path

from cli.asked import chosen_use_case
from cli.output import failures, print_json, say, table
from contrail import duck, tuning, tuning_report
from contrail.clock import pin_utc
from contrail.lake import Lake, LakeError
from contrail.settings import Settings, export
from contrail.training import TrainingError


def main(use_case: str | None, *, trials: int, seconds: float, evidence: Path | None, as_json: bool) -> None:
    """Go on with the study, or begin it, and say what it found."""
    pin_utc()
    export({"OMP_WAIT_POLICY": "PASSIVE"})  # before LightGBM is loaded: its idle threads would spin
    settings = Settings()
    chosen = chosen_use_case(use_case)
    name = chosen.name
    with failures(tuning.TuningError, TrainingError, LakeError):
        with duck.connect(threads=settings.threads, memory_limit=settings.memory_limit) as con:
            given = tuning.read_training_set(Lake(settings.lake_root), con, chosen)
        if not as_json:
            say(f"tuning {name} on {given.reference}: up to {trials} trials and {seconds:,.0f} s")
        study = tuning.tune(
            given,
            chosen,
            storage=settings.home / tuning.FOLDER / f"{name}.db",
            trials=trials,
            seconds=seconds,
            threads=settings.model_threads,
            progress=None if as_json else _tell,
        )
    written = tuning_report.write(study, evidence, title=chosen.title) if evidence is not None else ()
    line = tuning_report.declaration(study.best.learning)
    if as_json:
        print_json(
            {
                "verdict": study.verdict,
                "is_declared_good": study.is_declared_good,
                "declaration": line,
                "written": written,
                "study": study,
            }
        )
        return
    _print(study, line)
    for path in written:
        say(f"written     {path}")


def _tell(progress: tuning.Progress) -> None:
    trial = progress.trial
    loss = "" if math.isnan(trial.loss) else f"{trial.loss:.5f}"
    say(
        f"  trial {trial.number:>3}  {trial.state:<8}  {loss:<7}  best {progress.best:.5f}  "
        f"{progress.finished} of {progress.target}, {trial.seconds:.1f} s, {progress.seconds_left:,.0f} s left"
    )


def _print(study: tuning.Study, line: str) -> None:
    if study.is_resumed:
        say(f"study       {study.identity[:16]}, gone on with")
    else:
        others = study.other_studies
        say(
            f"study       {study.identity[:16]}, new"
            + (f": the {others} there belong to other rows, features, folds or ranges" if others else "")
        )
    shown = [("declared", study.declared), ("best", study.best)]
    rows = [
        {
            "": what,
            **asdict(each.learning),
            "log_loss": f"{each.loss:.5f}",
            "by fold": " ".join(f"{loss:.4f}" for loss in each.fold_losses),
        }
        for what, each in shown
    ]
    say(table(rows, list(rows[0])))
    say(f"verdict     {study.verdict}")
    if study.best.learning == study.declared.learning:
        say("keep        what is declared; nothing better was found")
    else:
        say(f"to declare  {line}")
