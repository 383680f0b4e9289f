"""Training: the same rows and code give the same model, byte for byte.

What makes it so: rows in a total order, float64, integer codes frozen from the training range,
`deterministic` with `force_row_wise`, bins built from all rows, a recorded constant number of threads, no sampling of
rows. The identity of a model is the sha256 of its *canonical* text, in which the parameters that only say how it was
run have fixed values.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, date, datetime, time, timedelta
from typing import Any

import numpy as np
import pyarrow as pa

from contrail.drift import Profile
from contrail.encoding import Booleans, Encoding, Floats, Integers, booleans, pc, predict
from contrail.evaluation import NaiveReference
from contrail.use_case import UseCase

PARTS = ("train", "validate", "test")
MIN_BIN_SAMPLE = 10_000_000

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
_PARAMETER = re.compile(r"^\[(\w+): (.*)\]$", re.MULTILINE)


class TrainingError(ValueError):
    """The rows cannot be split or learnt from; the message says what is missing."""


@dataclass(frozen=True)
class Cuts:
    """Day boundaries of the parts, by partition day; every end is exclusive.

    Attributes:
        first: first day of the range.
        train_end: end of the training part.
        validate_end: end of the validation part.
        test_end: the day after the last one of the range.
    """

    first: date
    train_end: date
    validate_end: date
    test_end: date


@dataclass(frozen=True)
class Split:
    """Row numbers of each part, ordered by (decision time, entity key).

    Attributes:
        cuts: the day boundaries.
        trained_until: the instant before which every training label was known; decisions before it are never scored.
        rows: part → row numbers of the table that was split.
        dropped: part → rows left out because their outcome was not known before the part's cut.
    """

    cuts: Cuts
    trained_until: datetime
    rows: Mapping[str, Integers]
    dropped: Mapping[str, int]


@dataclass(frozen=True)
class TrainedModel:
    """A fitted model with all that is needed to score, check and monitor it.

    Attributes:
        use_case: name of the use case.
        text: canonical model text.
        sha256: of `text`; the model's identity.
        encoding: ordered features and category maps.
        parameters: every LightGBM parameter that was given, rounds and threads included.
        cuts: day boundaries of its split.
        trained_until: see `Split`.
        train_rows: rows it was fitted on.
        dropped_rows: training rows left out because their outcome was not known in time.
        profile: distribution of every feature in the training rows.
        naive: the naive reference, from the training rows.
        gains: feature → share of the total gain of all splits.
    """

    use_case: str
    text: str
    sha256: str
    encoding: Encoding
    parameters: Mapping[str, float | int | bool | str]
    cuts: Cuts
    trained_until: datetime
    train_rows: int
    dropped_rows: int
    profile: Profile
    naive: NaiveReference
    gains: Mapping[str, float]

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
    if rows.num_rows == 0:
        raise TrainingError(f"use case {use_case.name}: the training set has no rows")
    keys = rows.column(use_case.entity_key)
    if pc.count_distinct(keys).as_py() != rows.num_rows:
        raise TrainingError(
            f"use case {use_case.name}: {use_case.entity_key} repeats; one row per entity is needed"
        )
    days = rows.column(use_case.partition_column).combine_chunks()
    span = pc.min_max(days).as_py()
    cuts = split_by_time(span["min"], span["max"], use_case)

    order = np.asarray(
        pc.sort_indices(
            rows, sort_keys=[(use_case.decision_column, "ascending"), (use_case.entity_key, "ascending")]
        )
    ).astype(np.int64)
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
        inside = _mask(pc.and_(pc.greater_equal(days, start), pc.less(days, end)))
        known = _mask(pc.fill_null(pc.less(known_at, pa.scalar(cut, known_at.type)), False))
        chosen[part] = order[(inside & known)[order]]
        dropped[part] = int((inside & ~known).sum())
    if not len(chosen["train"]):
        raise TrainingError(
            f"use case {use_case.name}: no outcome was known before {midnight(cuts.train_end).isoformat()}"
        )
    return Split(cuts=cuts, trained_until=midnight(cuts.train_end), rows=chosen, dropped=dropped)


def lightgbm_parameters(
    use_case: UseCase, *, rows: int, threads: int, seed: int | None = None
) -> dict[str, Any]:
    """The full parameter set of a fit: recorded, and nothing is left to a default that differs between machines.

    Args:
        rows: training rows; bins are built from all of them, so that they do not depend on a sample.
        threads: number of threads, a constant of the settings, never the machine's core count.
        seed: another seed than the use case's.
    """
    if threads < 1:
        raise TrainingError(
            "the number of threads is part of what is recorded: give 1 or more, not a default"
        )
    learning = use_case.learning
    return {
        "objective": "binary",
        "learning_rate": learning.learning_rate,
        "num_leaves": learning.num_leaves,
        "lambda_l2": learning.lambda_l2,
        "min_child_samples": learning.min_child_samples,
        "feature_fraction": learning.feature_fraction,
        "seed": use_case.seed if seed is None else seed,
        "deterministic": True,
        "force_row_wise": True,
        "num_threads": threads,
        "feature_pre_filter": False,
        "bin_construct_sample_cnt": max(rows, MIN_BIN_SAMPLE),
        "verbosity": -1,
    }


def fit(
    rows: pa.Table, split: Split, use_case: UseCase, *, threads: int, seed: int | None = None
) -> TrainedModel:
    """Learn a model from the training part.

    Args:
        rows: the table that `split` was made of.
        split: from `split_rows`.
        threads: see `lightgbm_parameters`.
        seed: another seed than the use case's.

    Raises:
        TrainingError: the training labels are all equal.
        EncodingError: a feature is missing or has another type than declared.
    """
    import lightgbm

    chosen = split.rows["train"]
    columns = [use_case.label, *use_case.naive_group_columns, *use_case.categorical]
    small = rows.select(list(dict.fromkeys(columns))).take(pa.array(chosen))
    labels: Booleans = booleans(small, use_case.label)
    if labels.all() or not labels.any():
        raise TrainingError(
            f"use case {use_case.name}: all {len(labels)} training labels are {bool(labels[0])}"
        )
    encoding = Encoding.learn(small, use_case.features, use_case.categorical)
    naive = NaiveReference.learn(small, use_case.naive_group_columns, labels)
    matrix = encoding.matrix(rows, chosen)
    profile = Profile.of(matrix, encoding)
    parameters = lightgbm_parameters(use_case, rows=len(chosen), threads=threads, seed=seed)
    data = lightgbm.Dataset(
        matrix,
        label=labels.astype(np.float64),
        feature_name=list(encoding.features),
        categorical_feature=[encoding.features.index(name) for name in use_case.categorical],
        params=parameters,
    )
    fitted: Any = lightgbm.train(parameters, data, num_boost_round=use_case.learning.rounds)
    text = canonical(fitted.model_to_string())
    gain: Floats = np.asarray(fitted.feature_importance(importance_type="gain"), dtype=np.float64)
    total = float(gain.sum()) or 1.0
    return TrainedModel(
        use_case=use_case.name,
        text=text,
        sha256=text_sha256(text),
        encoding=encoding,
        parameters=parameters | {"rounds": use_case.learning.rounds},
        cuts=split.cuts,
        trained_until=split.trained_until,
        train_rows=len(chosen),
        dropped_rows=split.dropped["train"],
        profile=profile,
        naive=naive,
        gains={name: float(value) / total for name, value in zip(encoding.features, gain, strict=True)},
    )


def canonical(text: str) -> str:
    """A model text with the run-time parameters at fixed values: equal for any number of threads and memory layout.

    The result loads and predicts like the original, and saving what was loaded gives it back.

    Raises:
        TrainingError: the text is no LightGBM model.
    """
    head, opened, rest = text.partition("\nparameters:\n")
    parameters, closed, ending = rest.partition("\nend of parameters")
    if not opened or not closed:
        raise TrainingError("this is no LightGBM model text: it has no parameters section")
    fixed = _PARAMETER.sub(lambda m: f"[{m[1]}: {RUN_TIME.get(m[1], m[2])}]", parameters)
    return f"{head}{opened}{fixed}{closed}{ending}"


def text_sha256(text: str) -> str:
    """The sha256 of a model text, as it lies on disk (UTF-8)."""
    return hashlib.sha256(text.encode()).hexdigest()


def booster_from_text(text: str) -> Any:
    """Load a model from its text."""
    import lightgbm

    return lightgbm.Booster(model_str=text)


def midnight(day: date) -> datetime:
    """The first instant of a day, UTC."""
    return datetime.combine(day, time(), tzinfo=UTC)


def _mask(values: Any) -> Booleans:
    return np.asarray(values.to_numpy(zero_copy_only=False), dtype=np.bool_)
