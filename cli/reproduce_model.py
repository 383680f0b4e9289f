"""`contrail reproduce-model`: learn a registered model again and compare it byte for byte."""

from __future__ import annotations

import sys
from dataclasses import asdict
from typing import TYPE_CHECKING

from cli.asked import chosen_use_case
from cli.output import EXIT_FAILED, failures, print_json, say
from contrail.settings import Settings

if TYPE_CHECKING:
    from contrail.reproduction import Reproduction


def main(version: int, *, use_case: str | None, threads: int | None, as_json: bool) -> int:
    """Print what came out; what is being done goes to standard error.

    Returns:
        The exit code: 0 for the same bytes.
    """
    from contrail.decisions import DecisionError
    from contrail.encoding import EncodingError
    from contrail.feature_code import FeatureCodeError
    from contrail.lake import Lake, LakeError
    from contrail.model_files import ModelFilesError
    from contrail.recipe import TrainingError
    from contrail.reproduction import ReproductionError, reproduce

    chosen = chosen_use_case(use_case)
    with failures(
        ReproductionError, ModelFilesError, TrainingError, EncodingError, FeatureCodeError, DecisionError, LakeError
    ):  # fmt: skip
        found = reproduce(
            Lake(Settings().lake_root), chosen, version, threads=threads, progress=_say_progress
        )
    if as_json:
        print_json(asdict(found) | {"is_identical": found.is_identical})
    else:
        _print(found)
    return 0 if found.is_identical else EXIT_FAILED


def _say_progress(step: str) -> None:
    sys.stderr.write(f"contrail: {step} …\n")
    sys.stderr.flush()


def _print(found: Reproduction) -> None:
    say(f"{'IDENTICAL' if found.is_identical else 'DIFFERENT'}  {found.use_case} version {found.version}")
    say(
        f"  learnt again from  {found.training_set}, {found.rows:,} rows, {found.threads} "
        f"thread{'s' if found.threads > 1 else ''}"
    )
    say(f"  recorded sha256    {found.expected}")
    say(f"  found sha256       {found.found}")
    if found.first_difference:
        say(f"  first difference   {found.first_difference}")
    if found.differs:
        effect = "without effect on the model" if found.is_identical else "any of it may be why"
        say(f"not as recorded ({effect}):")
        for words in found.differs:
            say(f"  {words}")
    elif not found.is_identical:
        say(
            "Every recorded input is as it was: the content of the training set's files, or this machine, differs."
        )
