"""What the pods of one workload have in common: the selectors of Services and of owners.

No loop runs here; `informers` makes the informers that keep a `Workloads` up to date. The snapshot
owns it. Pods without topology spread constraints of their own are spread by default ones, and those
count the pods that the same Services and the same owner select.

Answers to `DefaultSelector` in `pkg/scheduler/framework/plugins/helper/spread.go`.
"""

from collections.abc import Mapping
from typing import Any

from whipstaff.runtime import client, informer, objects, resources, selectors
from whipstaff.scheduler import pods

Object = dict[str, Any]

OWNERS = {
    ("v1", "ReplicationController"): resources.REPLICATIONCONTROLLERS,
    ("apps/v1", "ReplicaSet"): resources.REPLICASETS,
    ("apps/v1", "StatefulSet"): resources.STATEFULSETS,
}
"""The kinds of owners whose selectors count, by apiVersion and kind."""

RESOURCES = (resources.SERVICES, *OWNERS.values())

_KEPT = 4096


class Workloads:
    """Selectors by object."""

    def __init__(self) -> None:
        self._services: dict[str, dict[str, Mapping[str, str]]] = {}  # by namespace and name
        self._owners: dict[tuple[resources.Resource, str, str], Any] = {}
        self._known: dict[Any, selectors.Selector] = {}

    def put(self, resource: resources.Resource, obj: Object) -> None:
        """Takes in one of `RESOURCES` as it now is."""
        namespace, name = objects.namespace(obj), objects.name(obj)
        selector = (obj.get("spec") or {}).get("selector")
        if resource is resources.SERVICES:
            if selector is None:
                self.remove(resource, obj)
                return
            self._services.setdefault(namespace, {})[name] = selector
        else:
            self._owners[resource, namespace, name] = selector
        self._known.clear()

    def remove(self, resource: resources.Resource, obj: Object) -> None:
        """Forgets one."""
        namespace, name = objects.namespace(obj), objects.name(obj)
        if resource is resources.SERVICES:
            of_namespace = self._services.get(namespace, {})
            of_namespace.pop(name, None)
            if not of_namespace:
                self._services.pop(namespace, None)
        else:
            self._owners.pop((resource, namespace, name), None)
        self._known.clear()

    def selector_of(self, pod: pods.PodInfo) -> selectors.Selector:
        """What the pod's Services and owner select, all of it together; empty without any."""
        owner = _controller(pod.raw["metadata"])
        key = (pod.kind, owner)
        selector = self._known.get(key)
        if selector is None:
            if len(self._known) >= _KEPT:
                self._known.clear()
            selector = self._known[key] = self._merge(pod, owner)
        return selector

    def _merge(
        self, pod: pods.PodInfo, owner: tuple[resources.Resource, str] | None
    ) -> selectors.Selector:
        labels: dict[str, str] = {}
        for service in self._services.get(pod.namespace, {}).values():
            if all(pod.labels.get(key) == value for key, value in service.items()):
                labels.update(service)
        found = self._owners.get((owner[0], pod.namespace, owner[1])) if owner else None
        if not found or owner is None:
            return selectors.from_labels(labels)
        if owner[0] is resources.REPLICATIONCONTROLLERS:
            return selectors.from_labels({**labels, **found})
        return _both(selectors.from_labels(labels), found)


def _both(selector: selectors.Selector, raw: Mapping[str, Any]) -> selectors.Selector:
    """`selector` and the raw label selector; alone where that one can't be read."""
    try:
        other = selectors.label_selector(raw)
    except ValueError:
        return selector
    requirements = dict.fromkeys((*selector.requirements, *other.requirements))
    return selectors.Selector(tuple(requirements))


def _controller(metadata: Mapping[str, Any]) -> tuple[resources.Resource, str] | None:
    """The resource and name of the pod's controller, if its selector is one that counts."""
    for reference in metadata.get("ownerReferences") or ():
        if reference.get("controller"):
            resource = OWNERS.get((reference["apiVersion"], reference["kind"]))
            return None if resource is None else (resource, reference["name"])
    return None


class _Handler:
    """Keeps one resource's part of a `Workloads` true to the watch."""

    def __init__(self, workloads: Workloads, resource: resources.Resource) -> None:
        self._workloads = workloads
        self._resource = resource

    def on_add(self, obj: Object) -> None:
        self._workloads.put(self._resource, obj)

    def on_update(self, old: Object, new: Object) -> None:
        if old != new:
            self._workloads.put(self._resource, new)

    def on_delete(self, obj: Object) -> None:
        self._workloads.remove(self._resource, obj)


def informers(api: client.Client, workloads: Workloads) -> list[informer.Informer]:
    """One informer a resource, not started yet. Nothing is kept of an object but its selector."""
    made = []
    for resource in RESOURCES:
        watched = informer.Informer(api, resource, transform=_prune)
        watched.add_handler(_Handler(workloads, resource))
        made.append(watched)
    return made


def _prune(raw: Object) -> Object:
    metadata = {field: raw["metadata"][field] for field in ("namespace", "name")}
    return {"metadata": metadata, "spec": {"selector": (raw.get("spec") or {}).get("selector")}}
