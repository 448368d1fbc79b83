"""Objects by key and by index: what an informer remembers.

Runs no loop. It owns the objects, the indexes over them and nothing else; who writes to it (the
informer) does so from one task. Answers to client-go ``tools/cache/thread_safe_store.go``. Leaves
out locks: everything is on one event loop.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any, TypeAlias

from whipstaff.runtime import logs

Object: TypeAlias = dict[str, Any]
Objects: TypeAlias = list[Object]
Items: TypeAlias = list[tuple[str, Object]]
Values: TypeAlias = list[str]
Indexer: TypeAlias = Callable[[Object], Iterable[str]]

_log = logs.get("runtime.store")


class Store:
    """Objects by key, and for each indexer the keys under each of its values."""

    def __init__(self, indexers: Mapping[str, Indexer] | None = None) -> None:
        self._objects: dict[str, Object] = {}
        self._indexers = dict(indexers or {})
        # index name -> value -> key -> object; a dict and not a set, so that order is insertion's.
        self._indexes: dict[str, dict[str, dict[str, Object]]] = {n: {} for n in self._indexers}
        # key -> index name -> values: an object may have been changed since it was put here.
        self._values: dict[str, dict[str, tuple[str, ...]]] = {}

    def __len__(self) -> int:
        return len(self._objects)

    def __contains__(self, key: str) -> bool:
        return key in self._objects

    def get(self, key: str) -> Object | None:
        """The object; None if there is none."""
        return self._objects.get(key)

    def keys(self) -> Values:
        """All keys, in the order in which they came."""
        return [*self._objects]

    def items(self) -> Items:
        """All keys with their objects."""
        return [*self._objects.items()]

    def list(self) -> Objects:
        """All objects."""
        return [*self._objects.values()]

    def by_index(self, name: str, value: str) -> Objects:
        """The objects for which the indexer gives this value.

        Raises:
            KeyError: there is no such indexer.
        """
        return [*self._indexes[name].get(value, {}).values()]

    def index_values(self, name: str) -> Values:
        """The values that the indexer gives for at least one object.

        Raises:
            KeyError: there is no such indexer.
        """
        return [*self._indexes[name]]

    def put(self, key: str, obj: Object) -> None:
        """Add an object, or replace the one with this key."""
        self._objects[key] = obj
        if not self._indexers:
            return
        old = self._values.get(key, {})
        new = {name: _values(name, index, key, obj) for name, index in self._indexers.items()}
        for name, values in new.items():
            index = self._indexes[name]
            for value in old.get(name, ()):
                if value not in values:
                    self._drop(index, value, key)
            for value in values:
                index.setdefault(value, {})[key] = obj
        self._values[key] = new

    def remove(self, key: str) -> Object | None:
        """Take an object out and give it back; None if there is none."""
        obj = self._objects.pop(key, None)
        for name, values in self._values.pop(key, {}).items():
            for value in values:
                self._drop(self._indexes[name], value, key)
        return obj

    def _drop(self, index: dict[str, dict[str, Object]], value: str, key: str) -> None:
        under = index[value]
        del under[key]
        if not under:
            del index[value]


def _values(name: str, indexer: Indexer, key: str, obj: Object) -> tuple[str, ...]:
    try:
        return tuple(dict.fromkeys(indexer(obj)))
    except Exception:  # noqa: BLE001 (an indexer is a user's code; one bad object mustn't stop all)
        _log.exception("an indexer failed; the object isn't in its index", index=name, key=key)
        return ()
