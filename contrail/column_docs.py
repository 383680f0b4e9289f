"""What the library's own columns mean: name → (SQL type, description, unit). Domain columns are told elsewhere."""

from __future__ import annotations

from collections.abc import Mapping

ColumnDoc = tuple[str, str, str | None]

COLUMNS: Mapping[str, ColumnDoc] = {
    # score
    "prediction_id": (
        "VARCHAR",
        "Hash of use case, entity key, decision time and model: one prediction's identity.",
        None,
    ),
    "decision_at": ("TIMESTAMPTZ", "The decision time: nothing known later is in the vector.", "UTC"),
    "horizon_minutes": ("INTEGER", "How long before the event the decision is made.", "minutes"),
    "model_name": ("VARCHAR", "Use case whose model made the score.", None),
    "model_version": ("BIGINT", "Version of that model in the decision log.", None),
    "model_sha256": (
        "VARCHAR",
        "sha256 of the model's canonical text; its files lie under models/ by that name.",
        None,
    ),
    "feature_service": ("VARCHAR", "Feature service that yields the vector.", None),
    "score": ("DOUBLE", "Predicted probability of the label.", "probability"),
    "decision": ("BOOLEAN", "Whether the score reaches the use case's decision threshold.", None),
    # training set
    "features_known_at": (
        "TIMESTAMPTZ",
        "When the newest of the stored rows in the vector was known; null where none was found.",
        "UTC",
    ),
    # evaluation and monitoring
    "use_case": ("VARCHAR", "Use case that is monitored.", None),
    "part": ("VARCHAR", "Which rows: validate or test.", None),
    "kind": ("VARCHAR", "What the group is: all, month, or a slice's column.", None),
    "group": ("VARCHAR", "The month, or the slice's value.", None),
    "window_kind": ("VARCHAR", "fortnight (14 days) or month.", None),
    "window_start": ("DATE", "First day of the window.", None),
    "window_end": ("DATE", "First day after the window.", None),
    "is_complete": ("BOOLEAN", "Whether the labels of the whole window have had time to become known.", None),
    "rows": ("BIGINT", "Rows that were counted.", "rows"),
    "rows_waiting": ("BIGINT", "Scored rows of the window whose label is not known yet.", "rows"),
    "label_rate": ("DOUBLE", "Share of positive labels.", "share"),
    "mean_score": ("DOUBLE", "Mean score.", "probability"),
    "bias": ("DOUBLE", "Mean score − label rate: calibration in the large.", "probability"),
    "auc": ("DOUBLE", "Probability that a positive ranks above a negative.", "probability"),
    "pr_auc": ("DOUBLE", "Average precision.", "share"),
    "log_loss": ("DOUBLE", "Mean negative log-likelihood.", "nats"),
    "brier": ("DOUBLE", "Mean squared error of the probability.", "squared probability"),
    "ece": ("DOUBLE", "Expected calibration error over ten bins of equal mass.", "probability"),
    "naive_auc": ("DOUBLE", "AUC of the naive reference on the same rows.", "probability"),
    "naive_log_loss": ("DOUBLE", "Log-loss of the naive reference on the same rows.", "nats"),
    "logistic_auc": ("DOUBLE", "AUC of the logistic reference on the same rows.", "probability"),
    "logistic_log_loss": ("DOUBLE", "Log-loss of the logistic reference on the same rows.", "nats"),
    "auc_low": ("DOUBLE", "Lower end of the AUC's interval (bootstrap over days).", "probability"),
    "auc_high": ("DOUBLE", "Upper end of the AUC's interval (bootstrap over days).", "probability"),
    "pr_auc_low": ("DOUBLE", "Lower end of the average precision's interval (bootstrap over days).", "share"),
    "pr_auc_high": (
        "DOUBLE",
        "Upper end of the average precision's interval (bootstrap over days).",
        "share",
    ),
    "log_loss_low": ("DOUBLE", "Lower end of the log-loss's interval (bootstrap over days).", "nats"),
    "log_loss_high": ("DOUBLE", "Upper end of the log-loss's interval (bootstrap over days).", "nats"),
    "brier_low": (
        "DOUBLE",
        "Lower end of the Brier score's interval (bootstrap over days).",
        "squared probability",
    ),
    "brier_high": (
        "DOUBLE",
        "Upper end of the Brier score's interval (bootstrap over days).",
        "squared probability",
    ),
    "ece_low": (
        "DOUBLE",
        "Lower end of the expected calibration error's interval (bootstrap over days).",
        "probability",
    ),
    "ece_high": (
        "DOUBLE",
        "Upper end of the expected calibration error's interval (bootstrap over days).",
        "probability",
    ),
    "bias_low": ("DOUBLE", "Lower end of the bias's interval (bootstrap over days).", "probability"),
    "bias_high": ("DOUBLE", "Upper end of the bias's interval (bootstrap over days).", "probability"),
    # backtest and fairness
    "train_rows": ("BIGINT", "Rows of all earlier months that the month's model was trained on.", "rows"),
    "is_difference": ("BOOLEAN", "Whether the row is the greatest difference between the groups.", None),
    "selection_rate": ("DOUBLE", "Share of rows with a positive decision.", "share"),
    "true_positive_rate": ("DOUBLE", "Share of positive labels with a positive decision.", "share"),
    "false_positive_rate": ("DOUBLE", "Share of negative labels with a positive decision.", "share"),
    "precision": ("DOUBLE", "Share of positive decisions with a positive label.", "share"),
    "drifted_share": ("DOUBLE", "Share of the features whose PSI is beyond 0.2.", "share"),
    "max_psi": ("DOUBLE", "Greatest PSI of any feature against the training rows.", "PSI"),
    "max_psi_feature": ("VARCHAR", "The feature that has it.", None),
    "max_missing_rate_rise": (
        "DOUBLE",
        "Greatest rise of a missing rate against the training rows.",
        "share",
    ),
    "max_missing_rate_rise_feature": ("VARCHAR", "The feature that has it.", None),
    "feature": ("VARCHAR", "The feature.", None),
    "psi": (
        "DOUBLE",
        "Population stability index against the training rows, ten equal-mass bins and one for nulls.",
        "PSI",
    ),
    "missing_rate": ("DOUBLE", "Share of rows in which the feature is missing to the model.", "share"),
    "training_missing_rate": ("DOUBLE", "The same in the training rows.", "share"),
    # feed latency
    "feed": ("VARCHAR", "Raw table.", None),
    "month": ("DATE", "First day of the month.", None),
    "latency_median_minutes": ("DOUBLE", "Median of delivered_at − known_at.", "minutes"),
    "latency_p95_minutes": ("DOUBLE", "Its 95th percentile.", "minutes"),
    "latency_max_minutes": ("DOUBLE", "Its maximum.", "minutes"),
    # online materialisation
    "feature_view": ("VARCHAR", "Feature view that was written.", None),
    "source_table": ("VARCHAR", "Its table, with the version that was read.", None),
    "rows_written": ("BIGINT", "Entities whose newest values were written online.", "rows"),
    "newest_known_at": ("TIMESTAMPTZ", "The newest known_at among them.", "UTC"),
    "materialised_until": ("TIMESTAMPTZ", "Values known until here were considered.", "UTC"),
}
