"""A model's vector, online: the stored rows, priors where there are none, and what comes with the request.

The same functions as offline make it (`fill_priors_row`, `request_time_row`), on plain values, without a frame.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

from contrail.online_layout import OnlineError
from contrail.online_read import OnlineReader, OnlineRow, OnlineRows
from features.request_time import CATEGORICAL, RequestError, leg_columns, request_columns, request_time_row
from features.vectors import fill_priors_row

if TYPE_CHECKING:
    from feast import FeatureStore

DECISION_COLUMN = "decision_at"
# Join keys that have but one value: nobody need name them.
CONSTANT_KEYS: Mapping[str, Any] = MappingProxyType({"network": "all"})


@dataclass(frozen=True)
class OnlineVector:
    """One entity's vector.

    Attributes:
        features: feature -> value, in the service's order; without those of `not_computed`.
        not_computed: the features that need request columns which the request has not.
    """

    features: Mapping[str, Any]
    not_computed: tuple[str, ...]
    _answer: OnlineRows = field(repr=False, compare=False)
    _position: int = field(repr=False, compare=False)

    @property
    def views(self) -> Mapping[str, OnlineRow]:
        """Feature view -> its stored row, with status, known-at time and age; made when it is asked for."""
        return self._answer.rows(self._position)


class OnlineVectors:
    """Makes vectors of one feature service, which is resolved once; any number of threads may ask.

    Attributes:
        reader: what reads its stored rows; it knows the join keys.
        computed: the service's features that are computed with the request, in its order.
        request_columns: what a request must hold beside the join keys, for what is computed: column -> SQL type.
    """

    computed: tuple[str, ...]
    request_columns: Mapping[str, str]
    _needed: Mapping[str, str]
    _legs: Mapping[str, str]

    def __init__(self, store: FeatureStore, service: str) -> None:
        """Resolve the service.

        Raises:
            OnlineError: it is not registered, or cannot be read.
        """
        self.reader = OnlineReader(store, service)
        self._settle()

    def refresh(self) -> None:
        """Read the registry again and resolve the service anew.

        Raises:
            OnlineError: it is no longer registered, or cannot be read; the old one stays.
        """
        self.reader.refresh()
        self._settle()

    def _settle(self) -> None:
        service, keys = self.reader.service, self.reader.keys
        stored = {name for view in service.views for name in view.outputs}
        self.computed = tuple(name for name in service.features if name not in stored)
        self._needed, self._legs = request_columns(self.computed), leg_columns(self.computed)
        given = {*keys, DECISION_COLUMN}
        self.request_columns = {name: kind for name, kind in self._needed.items() if name not in given}

    def read(
        self, requests: Sequence[Mapping[str, Any]], *, now: datetime, partial: bool = False
    ) -> list[OnlineVector]:
        """The vectors of some requests, stored rows in one round trip.

        Args:
            requests: per entity the join keys and request columns. ``decision_at`` is `now` unless given;
                `CONSTANT_KEYS` need not be given.
            now: the instant at which the stored rows' ages are judged.
            partial: a request without all request columns has a vector without the features computed of them.

        Raises:
            OnlineError: a join key is missing or of another type, the store cannot be read, or it holds a row that
                was known only after `now`.
            RequestError: a request column is missing, and not `partial`.
        """
        asked = [{**CONSTANT_KEYS, DECISION_COLUMN: now, **request} for request in requests]
        answer = self.reader.read(asked, now=now)
        return [self._vector(request, answer, number, partial) for number, request in enumerate(asked)]

    def _vector(
        self, request: Mapping[str, Any], answer: OnlineRows, number: int, partial: bool
    ) -> OnlineVector:
        if newer := answer.newer_than_asked(number):
            raise OnlineError(
                f"the online copy of {newer[0]} holds a row known at "
                f"{answer.rows(number)[newer[0]].event_at.isoformat()}, after the instant asked about, "
                f"{answer.now.isoformat()}; it keeps the newest row only: ask about that instant or later"
            )
        stored = answer.values(number)
        values = fill_priors_row(stored)
        names = self.reader.service.features
        if self.computed:
            request = {**request, **{name: stored.get(name) for name in self._legs}}
            try:
                values |= request_time_row(request, self.computed)
            except RequestError:
                if not partial or all(request.get(name) is not None for name in self._needed):
                    raise
                values |= {name: request[name] for name in CATEGORICAL if request.get(name) is not None}
                missing = tuple(name for name in names if name not in values)
                there = {name: values[name] for name in names if name in values}
                return OnlineVector(there, missing, answer, number)
        return OnlineVector({name: values[name] for name in names}, (), answer, number)
