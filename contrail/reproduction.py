"""Learning a registered model again: from the training set it names, by the recipe it records, to the same bytes.

Nothing is taken from today's declaration. Where the bytes differ, what else is not as recorded is named: the
environment's lock, the features' code, the training set's snapshot, LightGBM's parameters, the libraries.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any

import duckdb
import pyarrow as pa

from contrail import duck, feature_code, model_files, provenance, registry
from contrail.lake import Lake
from contrail.model_text import first_difference
from contrail.recipe import Recipe, made_with
from contrail.training import refit
from contrail.use_case import UseCase

TREES_AT_ONCE = 50
Progress = Callable[[str], None]


class ReproductionError(RuntimeError):
    """The model cannot be learnt again; the message says what is missing."""


@dataclass(frozen=True)
class Reproduction:
    """What came out.

    Attributes:
        use_case: name of the use case.
        version: the model's version.
        training_set: ``table@version`` that it was learnt from.
        rows: training rows.
        threads: number of threads used now.
        expected: sha256 of the recorded model.
        found: sha256 of what was learnt now.
        differs: what is not as recorded, in words; it may be without effect on the bytes.
        first_difference: where the two texts part; empty where they do not.
    """

    use_case: str
    version: int
    training_set: str
    rows: int
    threads: int
    expected: str
    found: str
    differs: tuple[str, ...]
    first_difference: str

    @property
    def is_identical(self) -> bool:
        """Whether the bytes are the same."""
        return self.found == self.expected


def reproduce(
    lake: Lake,
    use_case: UseCase,
    version: int,
    *,
    threads: int | None = None,
    progress: Progress | None = None,
) -> Reproduction:
    """Learn a registered version again and compare.

    Args:
        version: its number.
        threads: another number of threads than the recorded one, which must not matter.
        progress: told of each step, in words.

    Raises:
        ReproductionError: there is no such version, or its training set is gone.
        ModelFilesError: the recorded model is missing or altered.
        TrainingError: the training set no longer holds what the recipe needs.
        LakeError: the training set cannot be read.
    """
    say = progress or _say_nothing
    sha256 = _sha256_of(lake, use_case.name, version)
    say(f"{use_case.name} version {version}: checking the files of model {sha256[:12]}")
    model = model_files.load(lake.root, sha256)
    recipe = model.recipe if threads is None else replace(model.recipe, threads=threads)
    say(f"reading {model.training_set}")
    rows, snapshot = _training_rows(lake, model.training_set, recipe)
    say(
        f"learning {recipe.learning.rounds} trees from the days {recipe.cuts.first} to {recipe.cuts.train_end} "
        f"(exclusive), {recipe.threads} thread{'s' if recipe.threads > 1 else ''}"
    )

    def after_a_tree(trees: int) -> None:
        if trees % TREES_AT_ONCE == 0:
            say(f"{trees} of {recipe.learning.rounds} trees")

    made = refit(rows, recipe, each_tree=after_a_tree)
    say("comparing")
    is_same = made.sha256 == sha256
    return Reproduction(
        use_case=use_case.name,
        version=version,
        training_set=model.training_set,
        rows=made.train_rows,
        threads=recipe.threads,
        expected=sha256,
        found=made.sha256,
        differs=_differs(model.manifest, use_case, snapshot, made.parameters),
        first_difference=""
        if is_same
        else first_difference(model_files.text_of(lake.root, sha256), made.text),
    )


def _sha256_of(lake: Lake, use_case: str, version: int) -> str:
    known = {each.version: each.sha256 for each in registry.versions(use_case, lake)}
    if version not in known:
        listed = ", ".join(map(str, known)) or "none yet"
        raise ReproductionError(f"{use_case} has no version {version}; registered: {listed}")
    return known[version]


def _training_rows(lake: Lake, training_set: str, recipe: Recipe) -> tuple[pa.Table, str]:
    """The columns that the recipe names, and the table's snapshot."""
    table, _, number = training_set.rpartition("@v")
    if not table or not lake.exists(table):
        raise ReproductionError(
            f"the training set {training_set} is not in {lake.root}: restore it from the backup"
        )
    if int(number) > lake.version(table):
        raise ReproductionError(
            f"the training set {table} ends at version {lake.version(table)}, the model was learnt from {number}: "
            "restore it from the backup"
        )
    named = ", ".join(duck.quote_identifier(column) for column in recipe.columns)
    try:
        with duck.connect() as con:
            rows = con.execute(f"SELECT {named} FROM {lake.scan(table, int(number))}").to_arrow_table()
    except duckdb.Error as error:
        raise ReproductionError(f"the training set {training_set} cannot be read: {error}") from error
    return rows, lake.snapshot_sha256(table, int(number))


def _differs(
    manifest: Mapping[str, Any], use_case: UseCase, snapshot: str, parameters: Mapping[str, Any]
) -> tuple[str, ...]:
    found: list[str] = []
    if snapshot != manifest["training_set_sha256"]:
        found.append(
            f"training set: its snapshot is {snapshot[:12]}, recorded is {manifest['training_set_sha256'][:12]}"
        )
    found += _changed("parameter", manifest["parameters"], parameters)
    found += _changed("library", manifest["made_with"], made_with())
    found += [
        f"feature code: {words}"
        for words in feature_code.differences(manifest["feature_code"], use_case.feature_code())
    ]
    if (lock := provenance.lock_sha256()) != manifest["lock_sha256"]:
        found.append(f"lock: it is {lock[:12]}, recorded is {manifest['lock_sha256'][:12]}")
    return tuple(found)


def _changed(what: str, recorded: Mapping[str, Any], now: Mapping[str, Any]) -> list[str]:
    return [
        f"{what} {name}: {now.get(name, 'none')} now, {recorded.get(name, 'none')} recorded"
        for name in sorted({*recorded, *now})
        if recorded.get(name) != now.get(name)
    ]


def _say_nothing(_: str) -> None:
    """Nobody waits."""
