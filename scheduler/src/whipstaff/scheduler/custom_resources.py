"""Tells the queue of changes to resources that only a plugin of somebody's own knows.

Its loops are those of the informers made here, one for each resource that a plugin names in its
`queueing_hints` as `plural.version.group` ("foos.v1.example.com"). Of such an object nothing is
read here: a pod that the plugin refused is tried again when the plugin's hint says so.

Answers to the dynamic informers of `addAllEventHandlers` in `pkg/scheduler/eventhandlers.go`.
"""

from collections.abc import Iterable, Mapping
from typing import Any

from whipstaff.runtime import client, informer, preflight, resources
from whipstaff.scheduler import cluster_events, pruning, queue, queueing_hints

Object = dict[str, Any]


def named(plugins: Mapping[str, object]) -> list[resources.Resource]:
    """The resources that these plugins, given by name, ask for beside those that are known.

    Raises:
        ValueError: one is neither known nor a `plural.version.group`.
    """
    found: dict[str, resources.Resource] = {}
    for plugin, wanted in queueing_hints.interests(plugins).items():
        for interest in wanted:
            name = interest.event.resource
            if name in cluster_events.RESOURCES or name in found:
                continue
            plural, _, rest = name.partition(".")
            version, _, group = rest.partition(".")
            if not (plural and version and group):
                text = f"{name!r} is no resource: a custom one is named plural.version.group"
                raise ValueError(f"{plugin}: queueing_hints: {text}")
            found[name] = resources.Resource(group, version, plural, plural, namespaced=True)
    return list(found.values())


def access(wanted: Iterable[resources.Resource]) -> list[preflight.Access]:
    """The rights to watch these."""
    return [preflight.Access(verb, each) for each in wanted for verb in ("list", "watch")]


class Handler:
    """What happens when an object of the resource appears, changes or goes."""

    def __init__(self, name: str, waiting: queue.SchedulingQueue) -> None:
        self._waiting = waiting
        self._add = cluster_events.event(name, cluster_events.Action.ADD)
        self._update = cluster_events.event(name, cluster_events.Action.UPDATE)
        self._delete = cluster_events.event(name, cluster_events.Action.DELETE)

    def on_add(self, obj: Object) -> None:
        """An object is new to us."""
        self._waiting.move_all(self._add, None, obj)

    def on_update(self, old: Object, new: Object) -> None:
        """An object changed."""
        self._waiting.move_all(self._update, old, new)

    def on_delete(self, obj: Object) -> None:
        """An object is gone."""
        self._waiting.move_all(self._delete, obj, None)


def informers(
    api: client.Client, wanted: Iterable[resources.Resource], waiting: queue.SchedulingQueue
) -> list[informer.Informer]:
    """Informers that tell `waiting` of changes, not started."""
    made = []
    for resource in wanted:
        watched = informer.Informer(api, resource, transform=pruning.lightly)
        name = f"{resource.plural}.{resource.version}.{resource.group}"
        watched.add_handler(Handler(name, waiting))
        made.append(watched)
    return made
