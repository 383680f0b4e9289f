"""What was known of each departure, and from when: versions of a clean row reduced to one row of facts.

Every fact carries the instant from which it may count: its own known-at time, or the instant at which the version that
first held it was created, whichever is later. So a file that came late counts from its delivery, never from the event.
Of each fact the first version that knows it counts; a later correction of it does not enter. A version that retracts a
departure knows nothing, so a departure that was retracted from the start has no row.
"""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

# A file that comes later than this after the service date (00:00 UTC) makes no feature rows: every fact of a regular
# file is known before (the feeds of a service date end at 07:00 UTC three days later). It bounds what a build reads.
FACTS_ACCEPTED_FOR = timedelta(days=4)
# A flight that neither departed nor was cancelled, as far as is known, is no longer waiting after this. A diversion
# ends no waiting: by its known-at rule it can be known before a very late departure is.
QUEUE_LIMIT = timedelta(hours=36)
OVER_DUE = timedelta(minutes=15)

_IDENTITY = ("departure_id", "carrier", "flight_number", "origin", "dest")
# fact: (the instant it became known, the further columns that come with it)
_FACTS: dict[str, tuple[str, tuple[str, ...]]] = {
    "schedule": ("schedule_known_at", ("scheduled_departure_at", "scheduled_block_minutes")),
    "tail": ("tail_known_at", ("tail_number",)),
    "departed": ("departed_known_at", ("departure_delay_minutes",)),
    "arrived": ("arrived_known_at", ("arrival_delay_minutes",)),
    "cancelled": ("cancelled_known_at", ()),
    "outcome": ("outcome_known_at", ("is_disrupted",)),
}


def known_facts_sql(first_known: datetime, hi: datetime) -> str:
    """SQL for one row per departure with everything that can be known of it in [first_known, hi).

    Args:
        first_known: facts that became known at this instant or later are all there.
        hi: no fact of a departure whose service date begins more than a day after this is needed.

    Returns:
        A SELECT over the view ``departures``: departure_id, carrier, flight_number, origin, dest,
        scheduled_departure_at, scheduled_block_minutes, tail_number, departure_delay_minutes, arrival_delay_minutes,
        is_disrupted, and one instant per fact: schedule_at, tail_at, departed_at, arrived_at, cancelled_at,
        outcome_at (null where the fact is not known); ``gone_at``: when the flight leaves every queue.
    """
    # Literals, so that a scan of the lake opens only the days it needs.
    first_day = (first_known - FACTS_ACCEPTED_FOR).astimezone(UTC).date()
    last_day = (hi + timedelta(days=1)).astimezone(UTC).date()
    accepted = f"timezone('UTC', service_date::TIMESTAMP) + INTERVAL {_minutes(FACTS_ACCEPTED_FOR)} MINUTE"
    single = [*_IDENTITY]
    grouped = ["departure_id", *(f"any_value({name}) AS {name}" for name in _IDENTITY[1:])]
    for fact, (known_at, values) in _FACTS.items():
        held = f"FILTER ({known_at} IS NOT NULL)"
        counted = f"CASE WHEN {known_at} IS NOT NULL THEN greatest({known_at}, created_at) END"
        single += [f"{counted} AS {fact}_at", *values]
        grouped.append(f"arg_min({counted}, created_at) {held} AS {fact}_at")
        grouped += [f"arg_min_null({value}, created_at) {held} AS {value}" for value in values]
    return f"""
WITH versions AS (
  SELECT * FROM departures
  WHERE service_date >= DATE '{first_day}' AND service_date <= DATE '{last_day}' AND created_at < {accepted}),
irregular AS (SELECT DISTINCT departure_id FROM versions WHERE is_retracted OR created_at > schedule_known_at),
facts AS (
  SELECT {", ".join(single)} FROM versions ANTI JOIN irregular USING (departure_id)
  UNION ALL
  SELECT {", ".join(grouped)} FROM versions SEMI JOIN irregular USING (departure_id)
  WHERE NOT is_retracted GROUP BY departure_id)
SELECT *, least(departed_at, arrived_at, cancelled_at,
  scheduled_departure_at + INTERVAL {_minutes(QUEUE_LIMIT)} MINUTE) AS gone_at
FROM facts"""


def _minutes(span: timedelta) -> int:
    return span // timedelta(minutes=1)
