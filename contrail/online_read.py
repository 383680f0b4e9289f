"""Online reads: entities' rows of the views of a feature service, straight out of Feast's own layout.

The values are those of Feast's `get_online_features`, which parses registry and protobufs for every call; here the
service is resolved once, and cells are decoded as they lie. Beside the values stands what Feast does not tell apart:
whether a row is there, and whether it is older than its view's max age.
"""

from __future__ import annotations

import operator
import struct
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, Literal

from contrail.online_fetch import Fetch, Group, Stored, fetch_of
from contrail.online_layout import ENTITYLESS_KEY, KEY_TYPES, OnlineError, key_prefix
from contrail.online_service import ServedService, ServedView, served_service, served_view
from contrail.online_views import OnlineView

if TYPE_CHECKING:
    from feast import FeatureStore
    from feast.repo_config import RepoConfig

Status = Literal["present", "not found", "outside max age"]

PRESENT: Status = "present"
NOT_FOUND: Status = "not found"
OUTSIDE: Status = "outside max age"

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_MICROSECOND = timedelta(microseconds=1)


@dataclass(frozen=True)
class OnlineRow:
    """One view's answer for one entity.

    Attributes:
        status: "present" also where single values are null.
        event_at: of the stored row, also when it is outside max age; None when there is none. SQLite keeps whole
            seconds.
        age: from then to the instant that was asked about; negative for a row that is newer.
        values: feature -> value; all None where the row is not present, unless expired values were asked for.
    """

    status: Status
    event_at: datetime | None
    age: timedelta | None
    values: Mapping[str, Any]


@dataclass(frozen=True)
class ViewRows:
    """One view's answers; one entry per entity in each list.

    Attributes:
        outputs: the features' names.
        statuses: per entity.
        event_us: microseconds since 1970; None where nothing is stored.
        values: per entity its values in the order of `outputs`.
    """

    outputs: tuple[str, ...]
    statuses: Sequence[Status]
    event_us: Sequence[int | None]
    values: Sequence[Sequence[Any]]


@dataclass(frozen=True)
class OnlineRows:
    """The answer to one question.

    Attributes:
        now: the instant at which ages are judged.
        views: what the service calls a view -> its rows.
    """

    now: datetime
    views: Mapping[str, ViewRows]

    def columns(self) -> dict[str, Sequence[Any]]:
        """Feature -> its values, one per entity, view by view."""
        return {
            name: column
            for view in self.views.values()
            for name, column in zip(
                view.outputs,
                zip(*view.values, strict=True) if view.values else [()] * len(view.outputs),
                strict=True,
            )
        }

    def values(self, entity: int) -> dict[str, Any]:
        """Feature -> value of the entity at this position."""
        found: dict[str, Any] = {}
        for view in self.views.values():
            found.update(zip(view.outputs, view.values[entity], strict=True))
        return found

    def rows(self, entity: int) -> dict[str, OnlineRow]:
        """View -> row of the entity at this position."""
        return {name: self._row(view, entity) for name, view in self.views.items()}

    def _row(self, view: ViewRows, entity: int) -> OnlineRow:
        microseconds = view.event_us[entity]
        event_at = None if microseconds is None else _EPOCH + timedelta(microseconds=microseconds)
        return OnlineRow(
            view.statuses[entity],
            event_at,
            None if event_at is None else self.now - event_at,
            dict(zip(view.outputs, view.values[entity], strict=True)),
        )


class OnlineReader:
    """Reads one feature service, resolved when this is made and when `refresh` is called, never in between.

    Any number of threads may read at once.
    """

    def __init__(self, store: FeatureStore, service: str, *, full_feature_names: bool = False) -> None:
        """Resolve the service; the online store is opened by the first read.

        Args:
            full_feature_names: call a feature ``<view>__<feature>``, as Feast does.

        Raises:
            OnlineError: the service is not registered, or something of it cannot be read here.
        """
        self._store = store
        self._full_feature_names = full_feature_names
        self._name = service
        self._fetch = fetch_of(store.config)
        self._plan = self._resolved()

    @property
    def service(self) -> ServedService:
        """The service as it was resolved."""
        return self._plan.service

    @property
    def keys(self) -> Mapping[str, str]:
        """What a request must hold: key -> name of Feast's `ValueType`."""
        return self._plan.keys

    def refresh(self) -> None:
        """Read the registry again and resolve the service anew; reads that are under way end with the old one.

        Raises:
            OnlineError: the service is no longer registered, or something of it cannot be read; the old one stays.
        """
        self._store.refresh_registry()
        self._plan = self._resolved()

    def read(
        self, entities: Sequence[Mapping[str, Any]], *, now: datetime, expired_values: bool = False
    ) -> OnlineRows:
        """Look entities up, all in one round trip.

        Args:
            entities: per entity the values of `keys`; more may be there. A null key finds nothing.
            now: the instant at which a row's age is judged.
            expired_values: also hand out the values of rows outside max age.

        Raises:
            OnlineError: an entity lacks a key or has one of another type, or the store cannot be read.
            ValueError: `now` has no zone.
        """
        return _answer(self._fetch, self._plan, entities, now, expired_values)

    def close(self) -> None:
        """Let go of the store's connections."""
        self._fetch.close()

    def _resolved(self) -> _Plan:
        return _Plan(served_service(self._store, self._name, full_feature_names=self._full_feature_names))


def read_online(
    config: RepoConfig, views: Sequence[OnlineView], entities: Sequence[Mapping[str, Any]], *, now: datetime
) -> list[dict[str, OnlineRow]]:
    """Look entities up once, in any views of a store.

    Args:
        views: what to read (`online_view`).
        entities: per entity the join keys of all views; a null key finds nothing.
        now: the instant at which a row's age is judged.

    Returns:
        Per entity, in order: view name -> its row.

    Raises:
        OnlineError: an entity lacks a key or has one of another type, or the store cannot be read.
    """
    served = tuple(served_view(view) for view in views)
    fetch = fetch_of(config)
    try:
        answer = _answer(fetch, _Plan(ServedService("", (), served, {})), entities, now, False)
    finally:
        fetch.close()
    return [answer.rows(number) for number in range(len(entities))]


# --- how -------------------------------------------------------------------------------------------------------------


class _Plan:
    """A service, ready to be read: views with the same keys together."""

    def __init__(self, service: ServedService) -> None:
        self.service = service
        self.keys: Mapping[str, str] = MappingProxyType(
            {asked: view.view.keys[key] for view in service.views for key, asked in view.asked.items()}
        )
        together: dict[tuple[Any, ...], list[ServedView]] = {}
        for view in service.views:
            together.setdefault(
                (tuple(sorted(view.view.keys.items())), tuple(sorted(view.asked.items()))), []
            ).append(view)
        self.groups = [
            (_Keys(views), Group([one.view for one in views]), views) for views in together.values()
        ]
        self.nothing = {view.name: (None,) * len(view.outputs) for view in service.views}
        self.max_age_us = {
            view.name: None if view.view.max_age is None else view.view.max_age // _MICROSECOND
            for view in service.views
        }


def _answer(
    fetch: Fetch, plan: _Plan, entities: Sequence[Mapping[str, Any]], now: datetime, expired_values: bool
) -> OnlineRows:
    if now.tzinfo is None:
        raise ValueError(f"now = {now.isoformat()} has no zone: ages are counted between instants")
    now_us = (now - _EPOCH) // _MICROSECOND
    asked: list[tuple[Group, list[bytes]]] = []
    places: list[list[int]] = []
    for keys, group, _ in plan.groups:
        known: dict[bytes, int] = {}
        where: list[int] = []
        for entity in entities:
            key = keys.encode(entity)
            where.append(-1 if key is None else known.setdefault(key, len(known)))
        asked.append((group, list(known)))
        places.append(where)
    found: dict[str, ViewRows] = {}
    for (_, _, views), where, stored in zip(plan.groups, places, fetch.fetch(asked), strict=True):
        for view, rows in zip(views, stored, strict=True):
            found[view.name] = _judged(plan, view, where, rows, now_us, expired_values)
    return OnlineRows(now, {view.name: found[view.name] for view in plan.service.views})


def _judged(
    plan: _Plan, view: ServedView, where: list[int], stored: Stored, now_us: int, expired_values: bool
) -> ViewRows:
    nothing = plan.nothing[view.name]
    max_age = plan.max_age_us[view.name]
    statuses: list[Status] = []
    event_us, values = stored
    oldest = None if max_age is None else now_us - max_age
    answers: list[Sequence[Any]] = []
    for event, row in zip(event_us, values, strict=True):
        if event is None or row is None:
            statuses.append(NOT_FOUND)
            answers.append(nothing)
        elif oldest is not None and event < oldest:
            statuses.append(OUTSIDE)
            answers.append(row if expired_values else nothing)
        else:
            statuses.append(PRESENT)
            answers.append(row)
    # The place -1, that of a null key, is the last one.
    statuses.append(NOT_FOUND)
    answers.append(nothing)
    event_us.append(None)
    return ViewRows(
        view.outputs,
        [statuses[place] for place in where],
        [event_us[place] for place in where],
        [answers[place] for place in where],
    )


class _Keys:
    """Makes the entity keys of views that have the same, by the types that the views declare."""

    def __init__(self, views: Sequence[ServedView]) -> None:
        kinds = views[0].view.keys
        self._views = ", ".join(view.name for view in views)
        self._parts = [(views[0].asked[key], kinds[key], *KEY_TYPES[kinds[key]]) for key in sorted(kinds)]
        self._prefix = key_prefix(sorted(kinds)) if kinds else ENTITYLESS_KEY

    def encode(self, entity: Mapping[str, Any]) -> bytes | None:
        """The entity's key; None where a value of it is null."""
        parts = [self._prefix]
        for name, kind, wanted, encode in self._parts:
            try:
                value = entity[name]
            except KeyError:
                raise OnlineError(
                    f"the entity lacks {name!r} ({kind}), a join key of {self._views}; it has {sorted(entity)}"
                ) from None
            if value is None:
                return None
            if type(value) is not wanted:
                value = self._converted(name, kind, wanted, value)
            try:
                parts.append(encode(value))
            except struct.error as error:
                raise OnlineError(
                    f"{name} = {value} is out of the range of {kind}, its type in {self._views}"
                ) from error
        return b"".join(parts)

    def _converted(self, name: str, kind: str, wanted: type, value: Any) -> Any:
        """Subclasses of str, and whatever else is an integer to Python, like numpy's."""
        if not isinstance(value, bool):
            if wanted is str and isinstance(value, str):
                return str(value)
            if wanted is int and hasattr(value, "__index__"):
                return operator.index(value)
        raise OnlineError(
            f"{name} = {value!r} is of type {type(value).__name__}; as a join key of {self._views} it is {kind}: "
            f"give {'a text' if wanted is str else 'a whole number'}"
        )
