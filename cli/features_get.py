"""`contrail features get`: one entity's online vector, with the status and age of every value."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from typing import Any

from cli.output import Failure, failures, print_json, say, table
from contrail.settings import Settings


def main(
    entity: Sequence[str], *, service: str | None, use_case: str | None, at: datetime | None, as_json: bool
) -> None:
    """Print the vector."""
    from contrail.clock import ClockError, clock_for
    from contrail.online_layout import OnlineError
    from feature_repo.use_cases import DEFAULT_USE_CASE, USE_CASES
    from features.documentation import FEATURES
    from features.request_time import RequestError
    from resources.feature_store import FeatureStoreResource

    settings = Settings()
    with failures(ClockError, OnlineError, RequestError):
        now = at or clock_for(settings).now()
        name = service or USE_CASES[use_case or DEFAULT_USE_CASE].feature_service
        (vector,) = FeatureStoreResource(home=str(settings.home)).online(name, [_row(entity)], now=now)
    rows: list[dict[str, Any]] = []
    for feature, value in vector.features.items():
        source = FEATURES[feature].source
        stored = vector.views.get(source)
        rows.append(
            {"feature": feature, "value": value, "unit": FEATURES[feature].unit, "view": source}
            | ({"status": stored.status, "known at": stored.event_at} if stored else {})
        )
    if as_json:
        print_json(rows)
    else:
        say(table(rows, ["feature", "value", "unit", "view", "status", "known at"]))


def _row(entity: Sequence[str]) -> dict[str, Any]:
    from datetime import date

    typed = {
        "flight_number": int,
        "scheduled_departure_minute_local": int,
        "service_date": date.fromisoformat,
        "scheduled_departure_at": datetime.fromisoformat,
        "decision_at": datetime.fromisoformat,
    }
    row: dict[str, Any] = {"network": "all"}
    for text in entity:
        key, equals, value = text.partition("=")
        if not equals:
            raise Failure(f"--entity {text!r} has no =: write {text}=VALUE")
        row[key] = typed.get(key, str)(value) if value else None
    return row
