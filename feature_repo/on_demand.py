"""The bodies of the on-demand views: Feast's lists in, Feast's lists out, `features.request_time` in between."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import UTC, date, datetime
from typing import Any

from features.request_time import (
    AIRCRAFT_FEATURES,
    CATEGORICAL,
    LEG_COLUMNS,
    REQUEST_COLUMNS,
    SCHEDULE_FEATURES,
    request_time_features,
)


def schedule_features(inputs: Mapping[str, Sequence[Any]]) -> dict[str, list[Any]]:
    """What the schedule says; `inputs` are the lists of `REQUEST_COLUMNS`."""
    no_leg = dict.fromkeys(LEG_COLUMNS, [None] * _rows(inputs))
    return _computed({**inputs, **no_leg}, (*CATEGORICAL, *SCHEDULE_FEATURES))


def aircraft_features(inputs: Mapping[str, Sequence[Any]]) -> dict[str, list[Any]]:
    """What the aircraft's last leg means; `inputs` are the lists of `REQUEST_COLUMNS` and `LEG_COLUMNS`."""
    return _computed(inputs, AIRCRAFT_FEATURES)


def _rows(inputs: Mapping[str, Sequence[Any]]) -> int:
    return len(inputs["decision_at"])


def _computed(inputs: Mapping[str, Sequence[Any]], names: Sequence[str]) -> dict[str, list[Any]]:
    # The categories are join keys, which Feast leaves out of its trial run at apply, and only there.
    trial = dict.fromkeys(CATEGORICAL, ["trial"] * _rows(inputs))
    types = {**REQUEST_COLUMNS, **LEG_COLUMNS}
    given = {**trial, **inputs}
    features = request_time_features(
        {name: [_value(v, kind) for v in given[name]] for name, kind in types.items()}
    )
    return {name: features[name].to_pylist() for name in names}


def _value(value: Any, sql_type: str) -> Any:
    """What Feast makes of a value, back in its own type: it knows no dates, and its naive instants are UTC."""
    if sql_type == "DATE" and isinstance(value, datetime):
        return value.date()
    if sql_type == "TIMESTAMPTZ" and isinstance(value, datetime) and value.tzinfo is None:
        return value.replace(tzinfo=UTC)
    return date.fromisoformat(value) if sql_type == "DATE" and isinstance(value, str) else value
