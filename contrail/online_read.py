"""Online reads: entities' rows of the views of a feature service, straight out of Feast's own layout.

The values are those of Feast's `get_online_features`, which parses registry and protobufs for every call; here the
service is resolved once, and cells are decoded as they lie. Beside the values stands what Feast does not tell apart:
whether a row is there, and whether it is older than its view's max age.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, Literal

from contrail.online_fetch import Fetch, Group, Stored, fetch_of
from contrail.online_keys import EntityKeys
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


@dataclass(slots=True)
class ViewRows:
    """One view's answers. Rows are kept once, however many entities share them.

    Attributes:
        outputs: the features' names.
        places: per entity the place of its row in the other lists.
        event_us: of each stored row, microseconds since 1970; None where nothing is stored.
        answers: of each row the values in the order of `outputs`; all None where they are not handed out.
        oldest_us: the event time at which a row is as old as it may be; None: it may be of any age.
    """

    outputs: tuple[str, ...]
    places: list[int]
    event_us: list[int | None]
    answers: list[Sequence[Any]]
    oldest_us: int | None

    def values(self, entity: int) -> dict[str, Any]:
        """Feature -> value of the entity at this position."""
        return dict(zip(self.outputs, self.answers[self.places[entity]], strict=True))

    def columns(self) -> Iterator[tuple[str, tuple[Any, ...]]]:
        """Each feature with its values, one per entity."""
        answers = self.answers
        rows = [answers[place] for place in self.places]
        return zip(self.outputs, zip(*rows, strict=True) if rows else [()] * len(self.outputs), strict=True)

    def row(self, entity: int, now: datetime) -> OnlineRow:
        """The answer for the entity at this position."""
        microseconds = self.event_us[self.places[entity]]
        if microseconds is None:
            return OnlineRow(NOT_FOUND, None, None, self.values(entity))
        event_at = _EPOCH + timedelta(microseconds=microseconds)
        is_old = self.oldest_us is not None and microseconds < self.oldest_us
        return OnlineRow(OUTSIDE if is_old else PRESENT, event_at, now - event_at, self.values(entity))


@dataclass(frozen=True)
class OnlineRows:
    """The answer to one question.

    Attributes:
        now: the instant at which ages are judged.
        views: what the service calls a view -> its rows.
    """

    now: datetime
    views: Mapping[str, ViewRows]

    def columns(self) -> dict[str, tuple[Any, ...]]:
        """Feature -> its values, one per entity, view by view."""
        return {name: column for view in self.views.values() for name, column in view.columns()}

    def values(self, entity: int) -> dict[str, Any]:
        """Feature -> value of the entity at this position."""
        found: dict[str, Any] = {}
        for view in self.views.values():
            found |= view.values(entity)
        return found

    def newer_than_asked(self, entity: int) -> list[str]:
        """The views whose row for this entity has its event time after `now`: what it says was not known then."""
        now_us = (self.now - _EPOCH) // _MICROSECOND
        return [
            name
            for name, view in self.views.items()
            if (event_us := view.event_us[view.places[entity]]) is not None and event_us > now_us
        ]

    def rows(self, entity: int) -> dict[str, OnlineRow]:
        """View -> row of the entity at this position."""
        return {name: view.row(entity, self.now) for name, view in self.views.items()}


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
        old, self._plan = self._plan, self._resolved()
        old.fetch.close()

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
        return _answer(self._plan, entities, now, expired_values)

    def close(self) -> None:
        """Let go of the store's connections."""
        self._plan.fetch.close()

    def _resolved(self) -> _Plan:
        service = served_service(self._store, self._name, full_feature_names=self._full_feature_names)
        return _Plan(self._store.config, service)


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
    plan = _Plan(config, ServedService("", (), served, {}, {}))
    try:
        answer = _answer(plan, entities, now, False)
    finally:
        plan.fetch.close()
    return [answer.rows(number) for number in range(len(entities))]


# --- how -------------------------------------------------------------------------------------------------------------


class _Plan:
    """A service, ready to be read: views with the same keys together."""

    def __init__(self, config: RepoConfig, service: ServedService) -> None:
        self.service = service
        self.keys: Mapping[str, str] = MappingProxyType(
            {asked: view.view.keys[key] for view in service.views for key, asked in view.asked.items()}
        )
        together: dict[tuple[Any, ...], list[ServedView]] = {}
        for view in service.views:
            same = (tuple(sorted(view.view.keys.items())), tuple(sorted(view.asked.items())))
            together.setdefault(same, []).append(view)
        self.groups = [(EntityKeys(views), views) for views in together.values()]
        self.fetch: Fetch = fetch_of(config, [Group([one.view for one in views]) for _, views in self.groups])
        self.limits = {
            view.name: (
                (None,) * len(view.outputs),
                None if view.view.max_age is None else view.view.max_age // _MICROSECOND,
            )
            for view in service.views
        }


def _answer(
    plan: _Plan, entities: Sequence[Mapping[str, Any]], now: datetime, expired_values: bool
) -> OnlineRows:
    if now.tzinfo is None:
        raise ValueError(f"now = {now.isoformat()} has no zone: ages are counted between instants")
    now_us = (now - _EPOCH) // _MICROSECOND
    distinct = [keys.distinct(entities) for keys, _ in plan.groups]
    fetched = plan.fetch.fetch([keys for keys, _ in distinct])
    found: dict[str, ViewRows] = {}
    for (_, views), (_, places), stored in zip(plan.groups, distinct, fetched, strict=True):
        for view, rows in zip(views, stored, strict=True):
            found[view.name] = _judged(plan, view, places, rows, now_us, expired_values)
    return OnlineRows(now, {view.name: found[view.name] for view in plan.service.views})


def _judged(
    plan: _Plan, view: ServedView, places: list[int], stored: Stored, now_us: int, expired_values: bool
) -> ViewRows:
    nothing, max_age_us = plan.limits[view.name]
    oldest = None if max_age_us is None else now_us - max_age_us
    event_us, values = stored
    answers: list[Sequence[Any]]
    if oldest is None or expired_values:
        answers = [nothing if row is None else row for row in values]
    else:
        answers = [
            row if row is not None and event is not None and event >= oldest else nothing
            for event, row in zip(event_us, values, strict=True)
        ]
    # The place of a null key is -1, the last one.
    event_us.append(None)
    answers.append(nothing)
    return ViewRows(view.outputs, places, event_us, answers, oldest)
