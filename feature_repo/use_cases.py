"""The models of this project, as the library is told about them.

One `UseCase` per model. The library knows no domain; whatever it must know stands here.
"""

from __future__ import annotations

from datetime import timedelta

from contrail.use_case import Criteria, UseCase
from features.request_time import CATEGORICAL, FEATURE_ORDER, REQUEST_COLUMNS, request_time_features

LATE_FLIGHT_HORIZON = timedelta(hours=2)

# One row per scheduled departure. Key and schedule are the newest version's; a departure whose newest version is
# retracted no longer exists. The aircraft is the one that was known at decision time: a file that came later must not
# name it in hindsight. The outcome is the first one that became known and never changes afterwards.
LATE_FLIGHT_SPINE = """
WITH versions AS (
    SELECT *, scheduled_departure_at - INTERVAL 2 HOUR AS decision_at FROM departures
), folded AS (
    SELECT
        departure_id,
        arg_max(struct_pack(
            service_date, carrier, flight_number, origin, dest, distance_miles, decision_at, is_retracted,
            scheduled_departure_at, scheduled_departure_minute_local, scheduled_block_minutes
        ), created_at) AS newest,
        arg_max(struct_pack(tail_number := CASE WHEN tail_known_at <= decision_at THEN tail_number END), created_at)
            FILTER (WHERE created_at <= decision_at) AS at_decision,
        arg_min(struct_pack(
            is_disrupted, outcome_known_at := greatest(outcome_known_at, created_at)
        ), created_at) FILTER (WHERE is_disrupted IS NOT NULL AND NOT is_retracted) AS outcome
    FROM versions
    GROUP BY departure_id
)
SELECT
    departure_id,
    newest.service_date,
    newest.decision_at,
    'all' AS network,
    newest.carrier,
    newest.flight_number,
    newest.origin,
    newest.dest,
    at_decision.tail_number,
    newest.distance_miles,
    newest.scheduled_departure_at,
    newest.scheduled_departure_minute_local,
    newest.scheduled_block_minutes,
    (newest.scheduled_departure_minute_local // 60)::INTEGER AS scheduled_departure_hour_local,
    CASE
        WHEN newest.scheduled_departure_minute_local < 300 THEN '21-05 h'
        WHEN newest.scheduled_departure_minute_local < 540 THEN '05-09 h'
        WHEN newest.scheduled_departure_minute_local < 780 THEN '09-13 h'
        WHEN newest.scheduled_departure_minute_local < 1020 THEN '13-17 h'
        WHEN newest.scheduled_departure_minute_local < 1260 THEN '17-21 h'
        ELSE '21-05 h'
    END AS departure_band,
    outcome.is_disrupted,
    outcome.outcome_known_at
FROM folded
WHERE NOT newest.is_retracted
"""

LATE_FLIGHT_2H = UseCase(
    name="late_flight_2h",
    title="Late flights, two hours ahead",
    description=(
        "The probability, two hours before its scheduled departure, that a flight will be disrupted: arrive 15 minutes "
        "late or later, be cancelled or be diverted. For planning of connections and staff; not for decisions about "
        "persons, and not for anything that bears on the safety of a flight."
    ),
    feature_service="late_flight_2h",
    spine_sql=LATE_FLIGHT_SPINE,
    entity_key="departure_id",
    join_keys=("network", "carrier", "flight_number", "origin", "dest", "tail_number"),
    request_columns=tuple(REQUEST_COLUMNS),
    request_time=request_time_features,
    partition_column="service_date",
    decision_column="decision_at",
    outcome_known_column="outcome_known_at",
    label="is_disrupted",
    horizon=LATE_FLIGHT_HORIZON,
    features=FEATURE_ORDER,
    categorical=CATEGORICAL,
    naive_group_columns=("carrier", "scheduled_departure_hour_local"),
    slices=("origin", "carrier", "departure_band"),
    personal=("tail_number",),
    min_training_days=14,
    # Two hours ahead nobody has honestly passed 0.78 on these data; a random split shows 0.815.
    criteria=Criteria(max_auc=0.80),
    risk_class="limited",
)

USE_CASES: dict[str, UseCase] = {use_case.name: use_case for use_case in (LATE_FLIGHT_2H,)}
DEFAULT_USE_CASE = LATE_FLIGHT_2H.name
