"""Training: the same rows and code give the same model, byte for byte.

What makes it so: rows in a total order, float64, integer codes frozen from the training range,
`deterministic` with `force_row_wise`, bins built from all rows, a recorded constant number of threads, no sampling of
rows. The identity of a model is the sha256 of its *canonical* text, in which the parameters that only say how it was
run have fixed values.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import date, datetime, timedelta
from typing import Any

import numpy as np
import pyarrow as pa

from contrail import recipe as recipes
from contrail.drift import Profile
from contrail.encoding import Booleans, Encoding, Floats, Integers, booleans, mask, pc, predict
from contrail.evaluation import NaiveReference
from contrail.model_text import booster_from_text, canonical, text_sha256
from contrail.recipe import Cuts, Recipe, TrainingError, midnight
from contrail.use_case import UseCase

__all__ = [
    "PARTS", "Cuts", "Recipe", "Split", "TrainedModel", "TrainingError", "booster_from_text", "canonical", "fit",
    "grow", "lightgbm_parameters", "midnight", "refit", "split_by_time", "split_rows", "text_sha256",
]  # fmt: skip

PARTS = ("train", "validate", "test")
EachTree = Callable[[int], None]


@dataclass(frozen=True)
class Split:
    """Row numbers of each part, ordered by (decision time, entity key).

    Attributes:
        cuts: the day boundaries.
        trained_until: the instant before which every training label was known; decisions before it are never scored.
        rows: part → row numbers of the table that was split.
        dropped: part → rows left out because their outcome was not known before the part's cut.
        labels_until: outcomes that became known at or after it did not exist for this split.
    """

    cuts: Cuts
    trained_until: datetime
    rows: Mapping[str, Integers]
    dropped: Mapping[str, int]
    labels_until: datetime


@dataclass(frozen=True)
class TrainedModel:
    """A fitted model with all that is needed to score, check and monitor it.

    Attributes:
        recipe: what it was learnt by.
        text: canonical model text.
        sha256: of `text`; the model's identity.
        encoding: ordered features and category maps.
        parameters: every LightGBM parameter that was given, rounds and threads included.
        train_rows: rows it was fitted on.
        dropped_rows: training rows left out because their outcome was not known in time.
        profile: distribution of every feature in the training rows.
        naive: the naive reference, from the training rows.
        gains: feature → share of the total gain of all splits.
    """

    recipe: Recipe
    text: str
    sha256: str
    encoding: Encoding
    parameters: Mapping[str, float | int | bool | str]
    train_rows: int
    dropped_rows: int
    profile: Profile
    naive: NaiveReference
    gains: Mapping[str, float]

    @property
    def use_case(self) -> str:
        """Name of the use case."""
        return self.recipe.use_case

    @property
    def cuts(self) -> Cuts:
        """Day boundaries of its split."""
        return self.recipe.cuts

    @property
    def trained_until(self) -> datetime:
        """See `Split`."""
        return midnight(self.recipe.cuts.train_end)

    def booster(self) -> Any:
        """The model, loaded from its canonical text."""
        return booster_from_text(self.text)

    def predict(self, rows: pa.Table) -> Floats:
        """Scores of `rows` in their order."""
        return predict(self.booster(), self.encoding, rows)


def split_by_time(first: date, last: date, use_case: UseCase) -> Cuts:
    """Cut a range of partition days by the use case's shares, at day boundaries, each cut rounded down.

    Args:
        first: first day.
        last: last day, included.

    Raises:
        TrainingError: the training part is shorter than the use case allows, or another part has no day.
    """
    days = (last - first).days + 1
    shares = use_case.split
    train_end = first + timedelta(days=int(days * shares.train))
    validate_end = first + timedelta(days=int(days * (shares.train + shares.validate)))
    cuts = Cuts(first, train_end, validate_end, last + timedelta(days=1))
    training_days = (cuts.train_end - cuts.first).days
    if training_days < use_case.min_training_days:
        raise TrainingError(
            f"use case {use_case.name}: the days {first}..{last} give {max(training_days, 0)} training days; "
            f"at least {use_case.min_training_days} are needed (land more days)"
        )
    if cuts.validate_end == cuts.train_end or cuts.test_end == cuts.validate_end:
        raise TrainingError(
            f"use case {use_case.name}: the days {first}..{last} are too few for a validation and a test part"
        )
    return cuts


def split_rows(rows: pa.Table, use_case: UseCase, *, labels_until: datetime) -> Split:
    """Split training rows by time; a row whose outcome became known at or after its part's cut is left out.

    The cut of a part is midnight UTC of its exclusive end day; that of the last part is `labels_until`, because nothing
    comes after it. A part must never hold rows by chance: random splits show scores that no day in life repeats.

    Args:
        rows: one row per entity, with the use case's key, day, decision, outcome and label columns.
        labels_until: now; an outcome that becomes known at or after it does not exist yet.

    Raises:
        TrainingError: no rows, a key that repeats, a known outcome without a label, or a range that cannot be split.
    """
    order = total_order(rows, use_case.name, use_case.entity_key, use_case.decision_column)
    days = rows.column(use_case.partition_column).combine_chunks()
    span = pc.min_max(days).as_py()
    cuts = split_by_time(span["min"], span["max"], use_case)
    known_at = rows.column(use_case.outcome_known_column)
    unlabelled = pc.and_(pc.is_valid(known_at), pc.is_null(rows.column(use_case.label)))
    if pc.any(unlabelled).as_py():
        raise TrainingError(
            f"use case {use_case.name}: rows have an outcome known at some instant but no {use_case.label}"
        )

    starts = (cuts.first, cuts.train_end, cuts.validate_end)
    ends = (cuts.train_end, cuts.validate_end, cuts.test_end)
    chosen: dict[str, Integers] = {}
    dropped: dict[str, int] = {}
    for part, start, end in zip(PARTS, starts, ends, strict=True):
        cut = min(midnight(end), labels_until) if part != "test" else labels_until
        chosen[part], dropped[part] = known_before(order, days, known_at, start, end, cut)
    if not len(chosen["train"]):
        raise TrainingError(
            f"use case {use_case.name}: no outcome was known before {midnight(cuts.train_end).isoformat()}"
        )
    return Split(
        cuts=cuts,
        trained_until=midnight(cuts.train_end),
        rows=chosen,
        dropped=dropped,
        labels_until=labels_until,
    )


def lightgbm_parameters(
    use_case: UseCase, *, rows: int, threads: int, seed: int | None = None
) -> dict[str, Any]:
    """The parameters of a fit of this use case; see `contrail.recipe.lightgbm_parameters`."""
    return recipes.lightgbm_parameters(
        use_case.learning, seed=use_case.seed if seed is None else seed, rows=rows, threads=threads
    )


def fit(
    rows: pa.Table, split: Split, use_case: UseCase, *, threads: int, seed: int | None = None
) -> TrainedModel:
    """Learn a model from the training part, as the use case declares it now.

    Args:
        rows: the table that `split` was made of.
        split: from `split_rows`.
        threads: see `Recipe.of`.
        seed: another seed than the use case's.

    Raises:
        TrainingError: the training labels are all equal.
        EncodingError: a feature is missing or has another type than declared.
    """
    recipe = Recipe.of(use_case, split.cuts, split.labels_until, threads=threads, seed=seed)
    return _learn(rows, split.rows["train"], recipe, split.dropped["train"])


def refit(rows: pa.Table, recipe: Recipe, *, each_tree: EachTree | None = None) -> TrainedModel:
    """Learn a model again, by its recorded recipe: the same rows give the same bytes, whatever is declared by now.

    Args:
        rows: the training set at the version that the model was learnt from, in any order.
        each_tree: see `grow`.

    Raises:
        TrainingError: as `split_rows` and `fit`.
        EncodingError: as `fit`.
    """
    order = total_order(rows, recipe.use_case, recipe.entity_key, recipe.decision_column)
    chosen, dropped = known_before(
        order,
        rows.column(recipe.partition_column).combine_chunks(),
        rows.column(recipe.outcome_known_column),
        recipe.cuts.first,
        recipe.cuts.train_end,
        recipe.labels_cut,
    )
    return _learn(rows, chosen, recipe, dropped, each_tree)


def grow(matrix: Floats, labels: Booleans, recipe: Recipe, *, each_tree: EachTree | None = None) -> Any:
    """The fit alone: LightGBM's trees of a matrix.

    Args:
        matrix: shape (rows, features), in the recipe's order of features; texts are codes, missing is NaN.
        labels: of the rows.
        each_tree: is told the number of trees after each one, for whoever waits.

    Returns:
        The booster.
    """
    import lightgbm

    parameters = recipe.parameters(len(labels))
    data = lightgbm.Dataset(
        matrix,
        label=labels.astype(np.float64),
        feature_name=list(recipe.features),
        categorical_feature=[recipe.features.index(name) for name in recipe.categorical],
        params=parameters,
    )

    def told(state: Any) -> None:
        if each_tree is not None:
            each_tree(int(state.iteration) + 1)

    return lightgbm.train(parameters, data, num_boost_round=recipe.learning.rounds, callbacks=[told])


def _learn(
    rows: pa.Table, chosen: Integers, recipe: Recipe, dropped: int, each_tree: EachTree | None = None
) -> TrainedModel:
    parameters = recipe.parameters(len(chosen))
    columns = [recipe.label, *recipe.naive_group_columns, *recipe.categorical]
    small = rows.select(list(dict.fromkeys(columns))).take(pa.array(chosen))
    labels: Booleans = booleans(small, recipe.label)
    if labels.all() or not labels.any():
        raise TrainingError(
            f"use case {recipe.use_case}: all {len(labels)} training labels are {bool(labels.any())}"
        )
    encoding = Encoding.learn(small, recipe.features, recipe.categorical)
    naive = NaiveReference.learn(small, recipe.naive_group_columns, labels)
    matrix = encoding.matrix(rows, chosen)
    profile = Profile.of(matrix, encoding)
    fitted = grow(matrix, labels, recipe, each_tree=each_tree)
    text = canonical(fitted.model_to_string())
    gain: Floats = np.asarray(fitted.feature_importance(importance_type="gain"), dtype=np.float64)
    total = float(gain.sum()) or 1.0
    return TrainedModel(
        recipe=recipe,
        text=text,
        sha256=text_sha256(text),
        encoding=encoding,
        parameters=parameters | {"rounds": recipe.learning.rounds},
        train_rows=len(chosen),
        dropped_rows=dropped,
        profile=profile,
        naive=naive,
        gains={name: float(value) / total for name, value in zip(encoding.features, gain, strict=True)},
    )


def total_order(rows: pa.Table, use_case: str, entity_key: str, decision_column: str) -> Integers:
    """All row numbers in the order of (decision time, entity key), which no two rows share.

    Raises:
        TrainingError: there are no rows, or the entity key repeats.
    """
    if rows.num_rows == 0:
        raise TrainingError(f"use case {use_case}: the training set has no rows")
    if pc.count_distinct(rows.column(entity_key)).as_py() != rows.num_rows:
        raise TrainingError(f"use case {use_case}: {entity_key} repeats; one row per entity is needed")
    keys = [(decision_column, "ascending"), (entity_key, "ascending")]
    return np.asarray(pc.sort_indices(rows, sort_keys=keys)).astype(np.int64)


def known_before(
    order: Integers, days: Any, known_at: Any, start: date, end: date, cut: datetime
) -> tuple[Integers, int]:
    """The rows of [start, end) whose outcome was known before the cut, in order, and how many others there are."""
    inside = mask(pc.and_(pc.greater_equal(days, start), pc.less(days, end)))
    known = mask(pc.fill_null(pc.less(known_at, pa.scalar(cut, known_at.type)), False))
    return order[(inside & known)[order]], int((inside & ~known).sum())
