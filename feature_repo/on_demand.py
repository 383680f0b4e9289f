"""The bodies of the on-demand views: Feast's lists in, Feast's lists out, `features.request_time` in between."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import UTC, date, datetime
from typing import Any

from features.request_time import (
    AIRCRAFT_FEATURES,
    CATEGORICAL,
    OF_SCHEDULE,
    leg_columns,
    request_columns,
    request_time_features,
)


def schedule_features(inputs: Mapping[str, Sequence[Any]]) -> dict[str, list[Any]]:
    """What the schedule says; `inputs` are the lists of `SCHEDULE_COLUMNS`."""
    return _computed(inputs, OF_SCHEDULE)


def aircraft_features(inputs: Mapping[str, Sequence[Any]]) -> dict[str, list[Any]]:
    """What the aircraft's last leg means; `inputs` are the lists of `INSTANT_COLUMNS` and `LEG_COLUMNS`."""
    return _computed(inputs, AIRCRAFT_FEATURES)


def _computed(inputs: Mapping[str, Sequence[Any]], names: Sequence[str]) -> dict[str, list[Any]]:
    types = {**request_columns(names), **leg_columns(names)}
    rows = max(map(len, inputs.values()))
    # The categories are join keys, which Feast leaves out of its trial run at apply, and only there.
    given = {**dict.fromkeys(CATEGORICAL, ["trial"] * rows), **inputs}
    features = request_time_features(
        {name: [_value(v, kind) for v in given[name]] for name, kind in types.items()}, names
    )
    return {name: features[name].to_pylist() for name in names}


def _value(value: Any, sql_type: str) -> Any:
    """What Feast makes of a value, back in its own type: it knows no dates, and its naive instants are UTC."""
    if sql_type == "DATE" and isinstance(value, datetime):
        return value.date()
    if sql_type == "TIMESTAMPTZ" and isinstance(value, datetime) and value.tzinfo is None:
        return value.replace(tzinfo=UTC)
    return date.fromisoformat(value) if sql_type == "DATE" and isinstance(value, str) else value
