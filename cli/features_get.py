"""`contrail features get`: one entity's online vector, with the status and age of every value."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta
from typing import TYPE_CHECKING, Any

from cli.asked import chosen_use_case
from cli.output import Failure, failures, print_json, say, table
from contrail.settings import Settings

if TYPE_CHECKING:
    from feature_repo.online_vectors import OnlineVector, OnlineVectors

COMPUTED, NOT_COMPUTED = "computed", "not computed"
_EXAMPLES = {
    "DATE": "2014-01-02",
    "TIMESTAMPTZ": "2014-01-03T02:09Z",
    "INTEGER": "1269",
    "INT64": "259",
    "INT32": "7",
}


@dataclass(frozen=True)
class Served:
    """One feature as it is served.

    Attributes:
        value: None where it is null or not computed.
        view: its feature view, stored or on-demand.
        status: of the stored row, or of the one that it was computed from: present, not found, outside max age.
            Computed where the request alone says it, not computed where the request does not.
        known_at: of that row, also when it is outside max age.
        age_seconds: from then to `Vector.at`.
    """

    feature: str
    value: Any
    unit: str
    view: str
    status: str
    known_at: datetime | None
    age_seconds: float | None


@dataclass(frozen=True)
class Vector:
    """One entity's vector.

    Attributes:
        at: the instant at which ages are judged.
        entity: the join keys and request columns it was asked for with.
        features: in the service's order.
        missing: request columns that were not given: column -> how to give it.
    """

    service: str
    at: datetime
    entity: Mapping[str, Any]
    features: list[Served]
    missing: Mapping[str, str]


def main(
    entity: Sequence[str], *, service: str | None, use_case: str | None, at: datetime | None, as_json: bool
) -> None:
    """Print the vector."""
    from contrail.clock import ClockError, clock_for
    from contrail.online_layout import OnlineError
    from features.request_time import RequestError
    from resources.feature_store import FeatureStoreResource

    settings = Settings()
    name = _service(service, use_case)
    with failures(ClockError, OnlineError, RequestError):
        now = (at or clock_for(settings).now()).astimezone(UTC)
        vectors = FeatureStoreResource(home=str(settings.home)).online_vectors(name)
        asked = _asked(vectors, entity)
        (vector,) = vectors.read([asked], now=now, partial=True)
    missing = {
        column: _how(column, kind)
        for column, kind in vectors.request_columns.items()
        if vector.not_computed and asked.get(column) is None
    }
    found = Vector(name, now, asked, _served(vectors, vector), missing)
    if as_json:
        print_json(found)
    else:
        _print(found)


def _service(service: str | None, use_case: str | None) -> str:
    if service is not None:
        if use_case is not None:
            raise Failure("--service and --use-case both name a feature service: give one of them")
        return service
    return chosen_use_case(use_case).feature_service


# --- what was asked for ----------------------------------------------------------------------------------------------


def _asked(vectors: OnlineVectors, entity: Sequence[str]) -> dict[str, Any]:
    """The request, typed as the views and the request-time function declare.

    Raises:
        Failure: a key is unknown, given twice, missing, or no value of its type.
    """
    from feature_repo.online_vectors import CONSTANT_KEYS, DECISION_COLUMN

    keys, columns = vectors.reader.keys, vectors.request_columns
    kinds = {**keys, **columns, **({DECISION_COLUMN: "TIMESTAMPTZ"} if columns else {})}
    asked: dict[str, Any] = {}
    for text in entity:
        key, equals, value = text.partition("=")
        if not equals:
            raise Failure(f"--entity {text} has no =: write --entity {text}=VALUE")
        if key not in kinds:
            raise Failure(
                f"--entity {key}: {vectors.reader.service.name} has no such key; it has {', '.join(kinds)}"
            )
        if key in asked:
            raise Failure(f"--entity {key} is given twice")
        asked[key] = _typed(key, kinds[key], value) if value else None
    lacking = [key for key in keys if key not in asked and key not in CONSTANT_KEYS]
    if lacking:
        raise Failure(
            f"the entity lacks {', '.join(lacking)}: give {' '.join(_how(key, keys[key]) for key in lacking)} "
            "(KEY= without a value where it is not known)"
        )
    return {key: value for key, value in CONSTANT_KEYS.items() if key in keys} | asked


def _typed(key: str, kind: str, text: str) -> Any:
    read = _READERS.get(kind, str)
    try:
        value = read(text)
    except ValueError as error:
        raise Failure(f"--entity {key}={text}: {key} is of type {kind}, as in {_how(key, kind)}") from error
    if isinstance(value, datetime) and value.tzinfo is None:
        raise Failure(
            f"--entity {key}={text} has no zone: write {value.isoformat(timespec='minutes')}Z for UTC"
        )
    return value


_READERS: Mapping[str, Callable[[str], Any]] = {
    "INT32": int, "INT64": int, "INTEGER": int, "DATE": date.fromisoformat, "TIMESTAMPTZ": datetime.fromisoformat,
}  # fmt: skip


def _how(key: str, kind: str) -> str:
    return f"--entity {key}={_EXAMPLES.get(kind, 'TEXT')}"


# --- what is shown ---------------------------------------------------------------------------------------------------


def _served(vectors: OnlineVectors, vector: OnlineVector) -> list[Served]:
    from contrail.online_read import PRESENT
    from features.documentation import ALL_FEATURES

    served: list[Served] = []
    service, stored = vectors.reader.service, vector.views
    for feature in service.features:
        view = service.homes[feature]
        # A computed feature is as old as the stored row that went into it, and as little there.
        rows = [stored[name] for name in service.sources.get(view, (view,))]
        row = min(rows, key=lambda one: one.status == PRESENT, default=None)
        status = COMPUTED if row is None else row.status
        if feature in vector.not_computed:
            row, status = None, NOT_COMPUTED
        served.append(
            Served(
                feature,
                vector.features.get(feature),
                ALL_FEATURES[feature].unit if feature in ALL_FEATURES else "",
                view,
                status,
                None if row is None else row.event_at,
                None if row is None or row.age is None else row.age.total_seconds(),
            )
        )
    return served


def _print(found: Vector) -> None:
    entity = ", ".join(f"{key}={'null' if value is None else value}" for key, value in found.entity.items())
    say(f"{found.service} at {found.at:%Y-%m-%d %H:%M:%S}Z of {entity}\n")
    rows = [
        {"feature": one.feature, "value": one.value, "unit": one.unit, "view": one.view, "status": one.status,
         "known at": one.known_at, "age": _age(one.age_seconds)}
        for one in found.features
    ]  # fmt: skip
    say(table(rows, ["feature", "value", "unit", "view", "status", "known at", "age"]))
    if found.missing:
        number = sum(one.status == NOT_COMPUTED for one in found.features)
        say(
            f"\n{number} features need what the request does not say: give also {' '.join(found.missing.values())}"
        )


def _age(seconds: float | None) -> str:
    """In the two largest units: 2 d 05 h, 3 h 15 min, 4 min 10 s."""
    if seconds is None:
        return ""
    days, rest = divmod(timedelta(seconds=round(seconds)), timedelta(days=1))
    hours, minutes, left = rest.seconds // 3600, rest.seconds // 60 % 60, rest.seconds % 60
    if days:
        return f"{days} d {hours:02} h"
    return f"{hours} h {minutes:02} min" if hours else f"{minutes} min {left:02} s"
