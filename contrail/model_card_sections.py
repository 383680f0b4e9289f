"""The fields of a model card, one function each, in the order in which they are read."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from contrail import model_card_tables as tables
from contrail.model_card_blocks import (
    Block,
    CardFacts,
    Commands,
    Items,
    Pairs,
    Picture,
    Section,
    Table,
    Text,
)
from contrail.model_card_words import Summary, count, instant, number, percent, share_of_days
from contrail.model_text import feature_infos
from contrail.use_case import UseCase

_AT_TOP = ("slice", "calibration", "backtest")
_CAPTIONS = {
    "calibration": "Calibration: what it says against what came out",
    "slices": "Slices, worst first",
    "backtest": "Backtest: each month by a model of all months before it",
    "precision_recall": "Precision and recall",
    "importance": "Importance: share of the gain of all splits",
    "shap_summary": "What each feature adds to a score (SHAP)",
    "comparison": "Against the champion, by slice",
}
VERSION = "VERSION"  # in commands, while a model has no number yet


def sections(facts: CardFacts, summary: Summary) -> list[Section]:
    """All of the card below its summary."""
    return [
        _details(facts),
        _use(facts.use_case),
        _out_of_scope(facts),
        _factors(facts.use_case),
        _metrics(facts),
        _evaluation_data(facts, summary),
        _training_data(facts),
        _quantitative(facts),
        _criteria(facts),
        _leakage(facts.evidence["leakage"]),
        _ethics(facts),
        _caveats(facts, summary),
        _what_the_file_shows(facts),
        _commands(facts),
    ]


def _details(facts: CardFacts) -> Section:
    manifest, use_case = facts.manifest, facts.use_case
    parameters = ", ".join(f"{name} {value}" for name, value in sorted(manifest["parameters"].items()))
    return Section(
        "Model details",
        (
            Pairs(
                (
                    ("Name", use_case.name),
                    (
                        "Version",
                        "given at its registration, after this page: contrail models"
                        if facts.version is None
                        else str(facts.version),
                    ),
                    ("Identity (sha256 of the model text)", facts.evidence["model_sha256"]),
                    ("Evaluation", facts.evaluation_id),
                    (
                        "Kind",
                        "gradient-boosted trees for a probability (LightGBM, objective log-loss), no pickle",
                    ),
                    (
                        "Features",
                        f"{len(use_case.features)}, from feature service {manifest['feature_service']}",
                    ),
                    ("Order of features", manifest["feature_order_sha256"]),
                    ("Learnt by run", manifest["run_id"]),
                    ("Run in the tracking server", manifest["tracking_run_id"]),
                    ("Code", manifest["git_sha"]),
                    ("Environment (sha256 of the lock)", manifest["lock_sha256"]),
                    ("Questions", f"to {facts.owner}" if facts.owner else "to whoever declares the use case"),
                )
            ),
            Text(f"Parameters: {parameters}."),
        ),
    )


def _use(use_case: UseCase) -> Section:
    return Section(
        "Intended use",
        (
            Text(use_case.description),
            Items(
                (
                    (
                        f"A score is the probability of {use_case.label}, asked at {use_case.decision_column}, at "
                        f"least {_duration(use_case.horizon_minutes)} before the event."
                    ),
                    f"At or above {use_case.decision_threshold:g} it counts as a positive decision.",
                    "A row of which a feature is missing is "
                    + (
                        "scored all the same."
                        if use_case.missing_policy == "score_with_missing"
                        else "refused."
                    ),
                )
            ),
        ),
    )


def _out_of_scope(facts: CardFacts) -> Section:
    return Section(
        "Out of scope",
        (
            Items(
                (
                    "Whatever the description above excludes.",
                    f"Decisions before {instant(facts.manifest['trained_until'])}: it has learnt from their time.",
                    "Another moment of asking: what is known earlier or later is not what it has learnt from.",
                    "Values of text features that the training days never had: they count as missing.",
                    "Explaining causes: it has learnt what goes together, not what brings it about.",
                )
            ),
        ),
    )


def _factors(use_case: UseCase) -> Section:
    slices = ", ".join(use_case.slices) or "none"
    return Section(
        "Factors",
        (
            Text(
                f"Shown and judged by month and by the values of: {slices}. Values with fewer than "
                f"{count(use_case.criteria.min_slice_rows)} rows are left out: their numbers would be chance. The "
                "naive reference is the training share of positive labels by "
                f"{' and '.join(use_case.naive_group_columns)}."
            ),
        ),
    )


def _metrics(facts: CardFacts) -> Section:
    confidence = percent(facts.evidence["criteria"]["confidence"])
    return Section(
        "Metrics",
        (
            Items(
                (
                    "AUC: how often a positive row gets a higher score than a negative one; 0.5 is chance.",
                    "PR-AUC: precision averaged over recall; the share of positive rows is chance.",
                    "Log-loss and Brier: how far the probabilities are from what happened; less is better.",
                    "Bias: mean score less share of positive labels; 0 is best.",
                    "ECE: mean distance of score and outcome over ten bins of equal mass; 0 is best.",
                    f"Intervals: {confidence}, by a bootstrap over days, because rows of one day are not independent.",
                    (
                        "Months and slices swing without any fault, so every number stands beside the naive reference "
                        "and a logistic regression on the same rows."
                    ),
                )
            ),
        ),
    )


def _evaluation_data(facts: CardFacts, summary: Summary) -> Section:
    manifest = facts.manifest
    return Section(
        "Evaluation data",
        (
            Text(
                f"The last days of {facts.evidence['training_set']}: validation {manifest['train_end']} to before "
                f"{manifest['validate_end']}, test {manifest['validate_end']} to before {manifest['test_end']}. "
                "Cut by time, never at random: random rows would show scores that no day in life repeats. "
                f"The test part has {count(summary.rows)} rows."
            ),
        ),
    )


def _training_data(facts: CardFacts) -> Section:
    manifest = facts.manifest
    blocks: list[Block] = [
        Text(
            f"{count(manifest['train_rows'])} rows of {manifest['training_set']}, days {manifest['train_first']} to "
            f"before {manifest['train_end']}; {count(manifest['dropped_rows'])} rows were left out because their "
            f"outcome was not known before {instant(manifest['trained_until'])}."
        )
    ]
    if facts.data_versions:
        blocks += [Text("Made of these versions:"), Items(tuple(facts.data_versions))]
    return Section("Training data", tuple(blocks))


def top_pictures(pictures: Mapping[str, bytes]) -> tuple[Picture, ...]:
    """What shows in pictures what the model is good and bad at: they stand beside the summary."""
    return tuple(
        _picture(name, pictures[name]) for word in _AT_TOP for name in pictures if word in Path(name).stem
    )


def _quantitative(facts: CardFacts) -> Section:
    record = facts.evidence
    left = {
        name: content
        for name, content in facts.pictures.items()
        if not any(word in Path(name).stem for word in _AT_TOP)
    }

    def pictures(*wanted: str) -> list[Block]:
        names = [name for word in wanted for name in left if word in Path(name).stem]
        return [_picture(name, left.pop(name)) for name in dict.fromkeys(names)]

    blocks: list[Block] = [Text("The whole parts", is_heading=True), tables.parts(record["groups"])]
    blocks += pictures("ranking", "recall")
    blocks += [Text("By month", is_heading=True), tables.groups(record["groups"], "month")]
    blocks += [Text("By slice, test days, worst AUC first", is_heading=True)]
    blocks += [tables.slices(record["groups"], facts.use_case.slices)]
    blocks += [Text("Backtest: each month by a model of all months before it", is_heading=True)]
    blocks += [tables.backtest(record["backtest"])]
    blocks += [
        Text("Against the champion", is_heading=True),
        *tables.comparison(record),
        *pictures("comparison"),
    ]
    fairness = record["facts"].get("fairness")
    if fairness:
        threshold = facts.use_case.decision_threshold
        blocks += [Text(f"Decisions by slice, at a score of {threshold:g}", is_heading=True)]
        blocks += [tables.fairness(fairness), *pictures("fairness")]
    if left:
        blocks += [Text("What the model looks at", is_heading=True), *pictures("")]
    return Section("Quantitative analyses", tuple(blocks))


def _picture(name: str, png: bytes) -> Picture:
    stem = Path(name).stem
    return Picture(_CAPTIONS.get(stem, stem.replace("_", " ").capitalize()), png)


def _criteria(facts: CardFacts) -> Section:
    record = facts.evidence
    rows = tuple(
        (
            verdict["criterion"],
            number(verdict["limit"]),
            "not found" if verdict["value"] is None else number(verdict["value"]),
            "met" if verdict["met"] else "NOT MET",
            verdict["note"],
        )
        for verdict in record["verdicts"]
    )
    return Section(
        "Criteria and verdicts",
        (
            Text(f"Frozen before the fit: {record['criteria_sha256']}."),
            Table(("criterion", "limit", "found", "verdict", "note"), rows, numeric=(1, 2)),
        ),
    )


def _leakage(leakage: Mapping[str, Any]) -> Section:
    return Section(
        "Leakage certificate",
        (
            Text(
                f"{'It holds' if leakage['holds'] else 'IT DOES NOT HOLD'}: {count(leakage['rows'])} rows, labels "
                f"known before {instant(leakage['labels_until'])}."
            ),
            Items(tuple(f"{rule}: {by}" for rule, by in leakage["proven"].items())),
            tables.leakage(leakage["parts"]),
            Text(
                "It rests on the recorded times: it cannot see a fact that its source dates too early, nor what the "
                "choice of the rows or of the features had of the future."
            ),
        ),
    )


def _ethics(facts: CardFacts) -> Section:
    use_case = facts.use_case
    personal = ", ".join(use_case.personal)
    return Section(
        "Ethical considerations",
        (
            Items(
                (
                    (
                        f"Risk class: {use_case.risk_class}. A promotion needs the approval of "
                        f"{use_case.approvals_needed} {'person' if use_case.approvals_needed == 1 else 'people'} "
                        "other than the one who asks."
                    ),
                    f"Personal columns, which are no features and are not stored with a score: {personal}."
                    if personal
                    else "No column is declared personal.",
                    "Whether it serves some slices worse than others is in the tables by slice: read them before use.",
                    "Text values are integer codes in the model file; what it still shows is listed below.",
                )
            ),
        ),
    )


def _caveats(facts: CardFacts, summary: Summary) -> Section:
    alarm = facts.evidence["criteria"]["alarm_bias"]
    return Section(
        "Caveats and recommendations",
        (
            Items(
                (
                    *summary.limits,
                    (
                        f"The test days are {share_of_days(facts.manifest)}: seasons that they lack are seen in the "
                        "backtest alone."
                    ),
                    f"Watch the monitor: a window with a bias above {number(alarm)} counts as off.",
                    "Model bytes repeat on one kind of processor; another may round otherwise.",
                )
            ),
        ),
    )


def _what_the_file_shows(facts: CardFacts) -> Section:
    infos = feature_infos(facts.model_text)
    rows = tuple(infos.items())
    return Section(
        "What the model file still shows",
        (
            Text(
                "Whoever has the model file sees of each feature the least and the greatest value of the training "
                "rows, of a text feature how many codes there are and which are the frequent ones, and where the trees "
                "split. The texts behind the codes are in features.json beside it."
            ),
            Table(("feature", "shown"), rows, is_long=True),
        ),
    )


def _commands(facts: CardFacts) -> Section:
    named = f" --use-case {facts.use_case.name}"
    version = VERSION if facts.version is None else str(facts.version)
    return Section(
        "Check it",
        (
            Text(
                f"{VERSION} is the number that `contrail models` shows."
                if facts.version is None
                else "By hand:"
            ),
            Commands(
                (
                    (f"contrail reproduce-model {version}{named}", "learn it again: the bytes must be equal"),
                    ("contrail trace PREDICTION_ID", "from one score back to the landed files"),
                    ("contrail audit verify", "no decision about a model was altered"),
                    (f"contrail history{named}", "who decided what, and when"),
                )
            ),
        ),
    )


def _duration(minutes: int) -> str:
    hours, rest = divmod(minutes, 60)
    return f"{minutes} minutes" if rest or not hours else f"{hours} hour{'s' if hours > 1 else ''}"
