"""A candidate examined: everything that must be known of a fitted model before anybody decides on it.

What is found goes into one `Evidence` and into the pictures beside it. Nothing is written here.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import pyarrow as pa

from contrail import (
    baselines,
    comparison,
    criteria,
    encoding,
    evaluation,
    explanation,
    fairness,
    model_files,
    plots,
    plots_groups,
)
from contrail.comparison import Comparison
from contrail.encoding import Encoding, EncodingError, Floats, booleans, pc
from contrail.evaluation import EvaluationError, GroupMetrics
from contrail.evidence import Evidence
from contrail.feature_code import differences
from contrail.leakage import Certificate
from contrail.model_files import LoadedModel
from contrail.training import Split, TrainedModel
from contrail.use_case import UseCase


@dataclass(frozen=True)
class Circumstances:
    """What is known beside the rows and the model.

    Attributes:
        training_set: ``table@version`` of the rows.
        manifest_sha256: of the stored model.
        files: of the stored model: name → sha256.
        certificate: of the rows, from `contrail.leakage.certify`.
        backtest: the rolling monthly backtest of the same rows.
        champion: the model of the moment; None where there is none. The very model that is examined is compared with
            nobody: it is no better than itself, and would seem to fail.
        parity_mismatches: values that differed when online was last compared with offline; None where that was never
            done.
    """

    training_set: str
    manifest_sha256: str
    files: Mapping[str, str]
    certificate: Certificate
    backtest: pa.Table
    champion: LoadedModel | None
    parity_mismatches: int | None


@dataclass(frozen=True)
class Examined:
    """What was found.

    Attributes:
        evidence: all of it, judged.
        groups: metrics of the validation and test parts, of their months and slices.
        pictures: file name → PNG.
    """

    evidence: Evidence
    groups: tuple[GroupMetrics, ...]
    pictures: Mapping[str, bytes]

    @property
    def test(self) -> GroupMetrics:
        """The whole test part."""
        return next(group for group in self.groups if group.part == "test" and group.kind == "all")


@dataclass(frozen=True)
class _Loaded:
    """The model read once: its text is not parsed again for every score."""

    booster: Any
    encoding: Encoding

    def predict(self, rows: pa.Table) -> Floats:
        return encoding.predict(self.booster, self.encoding, rows)


def examine(
    rows: pa.Table, split: Split, model: TrainedModel, use_case: UseCase, known: Circumstances
) -> Examined:
    """Evaluate a fitted model on the parts it was not fitted on, compare it, judge it, and draw it.

    Args:
        rows: the table that `split` was made of.
        split: from `training.split_rows`.
        model: fitted on its training part.
        known: what is known beside.

    Raises:
        EvaluationError: the test part has no rows.
    """
    loaded = _Loaded(model.booster(), model.encoding)
    logistic = baselines.LogisticReference.learn(rows, split.rows["train"], use_case)
    groups: list[GroupMetrics] = []
    scores: dict[str, dict[str, Floats]] = {}
    for part in ("validate", "test"):
        chosen = rows.take(pa.array(split.rows[part]))
        if chosen.num_rows == 0:
            continue
        its = {"model": loaded.predict(chosen), "logistic": logistic.predict(chosen)}
        groups += evaluation.evaluate(
            chosen, its["model"], model.naive, use_case, part=part, logistic=its["logistic"]
        )
        scores[part] = its | {"naive": model.naive.predict(chosen)}
    if "test" not in scores:
        raise EvaluationError(f"use case {use_case.name}: the test part has no rows")
    test = rows.take(pa.array(split.rows["test"]))
    champion = known.champion if known.champion and known.champion.sha256 != model.sha256 else None
    against = _compare(test, scores["test"], use_case, champion)
    milliseconds = criteria.predict_milliseconds(loaded, model_files.golden_rows(model))
    by_slice = fairness.by_slice(test, scores["test"]["model"], use_case)
    evidence = Evidence(
        use_case=use_case.name,
        model_sha256=model.sha256,
        manifest_sha256=known.manifest_sha256,
        files=known.files,
        training_set=known.training_set,
        criteria=use_case.criteria,
        criteria_sha256=use_case.criteria_sha256,
        champion_sha256=champion.sha256 if champion else "",
        groups=evaluation.evaluation_table(groups).to_pylist(),
        comparison=against.comparison.to_dict() if against.comparison else {},
        backtest=known.backtest.to_pylist(),
        leakage=known.certificate.to_dict(),
        verdicts=criteria.judge(
            groups,
            use_case,
            backtest=known.backtest,
            comparison=against.comparison,
            champion=champion.sha256 if champion else "",
            why_not_compared=against.why_not,
            can_champion_score=against.can_score,
            champion_remark=against.remark,
            leakage_holds=known.certificate.holds,
            latency_milliseconds=milliseconds,
            parity_mismatches=known.parity_mismatches,
        ),
        facts={"predict_milliseconds": milliseconds, "fairness": by_slice.to_pylist()},
    )
    pictures = _pictures(test, scores["test"], loaded, model, groups, use_case)
    if against.comparison:
        pictures["comparison.png"] = plots_groups.comparison(
            against.comparison, title=f"{use_case.title}: against the champion"
        )
    if known.backtest.num_rows:
        pictures["backtest.png"] = plots_groups.backtest(
            known.backtest, title=f"{use_case.title}: trained before each month"
        )
    return Examined(evidence, tuple(groups), pictures)


@dataclass(frozen=True)
class _Against:
    """How it went against the champion: what was found, or why nothing was."""

    comparison: Comparison | None = None
    why_not: str = ""
    can_score: bool = True
    remark: str = ""


def _compare(
    test: pa.Table, scores: Mapping[str, Floats], use_case: UseCase, champion: LoadedModel | None
) -> _Against:
    """The comparison on the test rows that the champion was not trained on, or why there is none."""
    if champion is None:
        return _Against()
    day, decided = test.column(use_case.partition_column), test.column(use_case.decision_column)
    unseen = pc.and_(
        pc.greater_equal(day, pa.scalar(champion.train_end, day.type)),
        pc.greater_equal(decided, pa.scalar(champion.trained_until, decided.type)),
    )
    shared = test.filter(unseen)
    if shared.num_rows == 0:
        return _Against(why_not="it was trained on all test days; land more days")
    try:
        its = champion.predict(shared)
    except (
        EncodingError
    ) as error:  # a feature of its is gone: it will never score again, here or in production
        return _Against(why_not=str(error), can_score=False)
    ours = scores["model"][unseen.to_numpy(zero_copy_only=False)]
    other = differences(champion.manifest["feature_code"], use_case.feature_code())
    remark = f"its features meant something else: {', '.join(other)}" if other else ""
    return _Against(comparison.compare(shared, ours, its, use_case), remark=remark)


def _pictures(
    test: pa.Table,
    scores: Mapping[str, Floats],
    loaded: _Loaded,
    model: TrainedModel,
    groups: list[GroupMetrics],
    use_case: UseCase,
) -> dict[str, bytes]:
    labels, ours = booleans(test, use_case.label), scores["model"]
    title = f"{use_case.title}, {test.num_rows:,} test rows"
    days = test.column(use_case.partition_column).to_numpy()
    references = {"naive": scores["naive"], "logistic": scores["logistic"]}
    explained = explanation.shap_values(loaded.booster, model.encoding, test)
    return {
        "calibration.png": plots.calibration(labels, ours, days, title=title),
        "precision_recall.png": plots.precision_recall(
            labels, ours, references, threshold=use_case.decision_threshold, title=title
        ),
        "ranking.png": plots.ranking(labels, ours, scores["naive"], title=title),
        "slices.png": plots_groups.slices(groups, title=title, max_bias=use_case.criteria.max_slice_bias),
        "importance.png": plots.importance(model.gains, title=f"{use_case.title}: what the trees split on"),
        "shap.png": plots_groups.shap_summary(explained, title=f"{use_case.title}: what moved the scores"),
    }
