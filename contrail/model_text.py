"""The text of a model: its canonical form, its identity, and what can be read in it."""

from __future__ import annotations

import hashlib
import re
from itertools import zip_longest
from typing import Any

from contrail.recipe import TrainingError

# Parameters that do not shape the trees: echoed into the model text, they would give equal models different bytes.
RUN_TIME = {
    "num_threads": "0",
    "force_row_wise": "0",
    "force_col_wise": "0",
    "verbosity": "-1",
    "histogram_pool_size": "-1",
    "data": "",
    "valid": "",
    "input_model": "",
    "output_model": "",
    "machines": "",
    "machine_list_filename": "",
    "saved_feature_importance_type": "0",
}
SHOWN_CHARACTERS = 80
_PARTS = {"end of trees": "the importances", "parameters:": "the parameters"}
_OTHER = "-1"  # LightGBM's own code of whatever it has no bin for
_PARAMETER = re.compile(r"^\[(\w+): (.*)\]$", re.MULTILINE)


class ModelTextError(TrainingError):
    """A text is no LightGBM model."""


def canonical(text: str) -> str:
    """A model text with the run-time parameters at fixed values: equal for any number of threads and memory layout.

    The result loads and predicts like the original, and saving what was loaded gives it back.

    Raises:
        ModelTextError: the text is no LightGBM model.
    """
    head, opened, rest = text.partition("\nparameters:\n")
    parameters, closed, ending = rest.partition("\nend of parameters")
    if not opened or not closed:
        raise ModelTextError("this is no LightGBM model text: it has no parameters section")
    fixed = _PARAMETER.sub(lambda m: f"[{m[1]}: {RUN_TIME.get(m[1], m[2])}]", parameters)
    return f"{head}{opened}{fixed}{closed}{ending}"


def text_sha256(text: str) -> str:
    """The sha256 of a model text, as it lies on disk (UTF-8)."""
    return hashlib.sha256(text.encode()).hexdigest()


def booster_from_text(text: str) -> Any:
    """Load a model from its text."""
    import lightgbm

    return lightgbm.Booster(model_str=text)


def feature_infos(model_text: str) -> dict[str, str]:
    """What a model text shows of its training rows, in words: feature → its range, or how many codes occur.

    Raises:
        ModelTextError: the text has no such part.
    """
    lines: dict[str, str] = {}
    for line in model_text.partition("\nTree=")[0].splitlines():
        name, _, value = line.partition("=")
        lines[name] = value
    if "feature_names" not in lines or "feature_infos" not in lines:
        raise ModelTextError("this is no LightGBM model text: it does not describe its features")
    names, infos = lines["feature_names"].split(" "), lines["feature_infos"].split(" ")
    return {name: _info_in_words(info) for name, info in zip(names, infos, strict=True)}


def first_difference(one: str, other: str) -> str:
    """Where two model texts part, in words: the tree or part, and both lines, cut; empty where they are equal."""
    part = "the header"
    for mine, theirs in zip_longest(one.splitlines(), other.splitlines(), fillvalue="(nothing)"):
        if mine != theirs:
            return f"in {part}: {_cut(mine)} recorded, {_cut(theirs)} now"
        if mine.startswith("Tree="):
            part = f"tree {mine.removeprefix('Tree=')}"
        elif mine in _PARTS:
            part = _PARTS[mine]
    return ""


def _cut(line: str) -> str:
    return line if len(line) <= SHOWN_CHARACTERS else f"{line[:SHOWN_CHARACTERS]}…"


def _info_in_words(info: str) -> str:
    if info == "none":
        return "nothing"
    if info.startswith("["):
        low, _, high = info.strip("[]").partition(":")
        return f"least value {low}, greatest value {high}"
    codes = [code for code in info.split(":") if code != _OTHER]
    return f"{len(codes)} integer codes, in order of their frequency"
