"""The namespaces' labels, by which affinity terms may choose namespaces.

No loop runs here; `informers` makes the informer that keeps a `Namespaces` up to date. The snapshot
owns it.

Answers to the namespace lister in `pkg/scheduler/framework/plugins/interpodaffinity/plugin.go`.
"""

from collections.abc import Mapping
from typing import Any

from whipstaff.runtime import client, informer, objects, resources, selectors

Object = dict[str, Any]

_NONE: Mapping[str, str] = {}


class Namespaces:
    """Labels by namespace."""

    def __init__(self) -> None:
        self._labels: dict[str, Mapping[str, str]] = {}
        self._selected: dict[selectors.Selector, frozenset[str]] = {}

    def put(self, obj: Object) -> None:
        """Takes in a namespace as it now is."""
        self._labels[objects.name(obj)] = obj["metadata"].get("labels") or _NONE
        self._selected.clear()

    def remove(self, name: str) -> None:
        """Forgets a namespace."""
        self._labels.pop(name, None)
        self._selected.clear()

    def labels(self, name: str) -> Mapping[str, str]:
        """The labels of a namespace; of one that isn't known, none."""
        return self._labels.get(name, _NONE)

    def selected(self, selector: selectors.Selector) -> frozenset[str]:
        """The names of the namespaces that the selector selects."""
        names = self._selected.get(selector)
        if names is None:
            names = self._selected[selector] = frozenset(
                name for name, labels in self._labels.items() if selector.matches(labels)
            )
        return names


class _Handler:
    """Keeps a `Namespaces` true to the watch."""

    def __init__(self, namespaces: Namespaces) -> None:
        self._namespaces = namespaces

    def on_add(self, obj: Object) -> None:
        self._namespaces.put(obj)

    def on_update(self, old: Object, new: Object) -> None:
        if old != new:
            self._namespaces.put(new)

    def on_delete(self, obj: Object) -> None:
        self._namespaces.remove(objects.name(obj))


def informers(api: client.Client, namespaces: Namespaces) -> list[informer.Informer]:
    """The informer of namespaces, not started yet. Nothing is kept of one but its labels."""
    watched = informer.Informer(api, resources.NAMESPACES, transform=_prune)
    watched.add_handler(_Handler(namespaces))
    return [watched]


def _prune(raw: Object) -> Object:
    metadata = raw["metadata"]
    return {"metadata": {"name": metadata["name"], "labels": metadata.get("labels")}}
