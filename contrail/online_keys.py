"""Entity keys of many entities, by the types that their views declare; what is wrong with a key is said in words."""

from __future__ import annotations

import operator
import struct
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from contrail.online_layout import ENTITYLESS_KEY, KEY_TYPES, OnlineError, key_prefix
from contrail.online_service import ServedView


class EntityKeys:
    """Makes the entity keys of views that have the same, by the types that the views declare."""

    def __init__(self, views: Sequence[ServedView]) -> None:
        kinds = views[0].view.keys
        self._views = ", ".join(view.name for view in views)
        self._parts = [(views[0].asked[key], kinds[key], *KEY_TYPES[kinds[key]]) for key in sorted(kinds)]
        self._encode = _encoder(
            key_prefix(sorted(kinds)) if kinds else ENTITYLESS_KEY, [encode for *_, encode in self._parts]
        )
        self._numbers = [at for at, (_, _, wanted, _) in enumerate(self._parts) if wanted is int]
        names = [name for name, _, _, _ in self._parts]
        self._values: Callable[[Mapping[str, Any]], tuple[Any, ...]] = (
            operator.itemgetter(*names)
            if len(names) > 1
            else (lambda entity, name=names[0]: (entity[name],))
            if names
            else (lambda _: ())
        )

    def distinct(self, entities: Sequence[Mapping[str, Any]]) -> tuple[list[bytes], list[int]]:
        """The distinct entity keys, and each entity's place among them; -1 where a value of its key is null.

        Raises:
            OnlineError: an entity lacks a key, or has one of another type.
        """
        keys: list[bytes] = []
        places: list[int] = []
        known: dict[tuple[Any, ...], int] = {}
        values_of, numbers = self._values, self._numbers
        for entity in entities:
            try:
                values = values_of(entity)
            except KeyError:
                raise self._missing(entity) from None
            for at in numbers:
                if type(values[at]) is not int:  # to a dictionary 1, 1.0 and True are one key
                    values = self._plain(values)
            try:
                place = known.get(values)
            except TypeError:  # a list, say, which no key is
                place = known.get(self._plain(values))
            if place is None:
                key = self._key(values)
                place = known[values] = -1 if key is None else len(keys)
                if key is not None:
                    keys.append(key)
            places.append(place)
        return keys, places

    def _key(self, values: tuple[Any, ...]) -> bytes | None:
        try:
            return self._encode(values)
        except (AttributeError, struct.error) as error:
            if None in self._plain(values):
                return None
            types = ", ".join(f"{name} as {kind}" for name, kind, _, _ in self._parts)
            raise OnlineError(f"{values} are out of range as join keys of {self._views}: {types}") from error

    def _missing(self, entity: Mapping[str, Any]) -> OnlineError:
        lacking = ", ".join(f"{name!r} ({kind})" for name, kind, _, _ in self._parts if name not in entity)
        return OnlineError(
            f"the entity lacks {lacking}, of the join key of {self._views}; it has {', '.join(sorted(entity))}"
        )

    def _plain(self, values: tuple[Any, ...]) -> tuple[Any, ...]:
        """Plain values: of subclasses of str, and of what is an integer to Python, like numpy's; a null stays null."""
        plain: list[Any] = []
        for (name, kind, wanted, _), value in zip(self._parts, values, strict=True):
            if value is None:
                plain.append(None)
            elif wanted is str and isinstance(value, str):
                plain.append(str(value))
            elif wanted is int and hasattr(value, "__index__") and not isinstance(value, bool):
                plain.append(operator.index(value))
            else:
                raise OnlineError(
                    f"{name} = {value!r} is of type {type(value).__name__}; as a join key of {self._views} it is "
                    f"{kind}: give {'a text' if wanted is str else 'a whole number'}"
                )
        return tuple(plain)


def _encoder(prefix: bytes, encoders: Sequence[Callable[[Any], bytes]]) -> Callable[[tuple[Any, ...]], bytes]:
    """A key of its values; the lengths that nearly all keys have without a loop."""
    if len(encoders) == 1:
        one = encoders[0]
        return lambda values: prefix + one(values[0])
    if len(encoders) == 2:
        first, second = encoders
        return lambda values: prefix + first(values[0]) + second(values[1])
    return lambda values: prefix + b"".join([e(v) for e, v in zip(encoders, values, strict=True)])
