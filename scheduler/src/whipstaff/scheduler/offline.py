"""A cluster out of listed objects, with the engine that decides: nothing runs, nothing is sent.

No loop runs here. `read` lists a live cluster once; a dump or manifests do as well. `Offline` turns
the objects into what a running scheduler would have: the snapshot with everything in it that
plugins look at, promises, PodDisruptionBudgets, and a `decision.Decider` over it. What changes
afterwards is put in by `put` and `remove`.

Profiles are handed in, as `app.build_profiles` makes them of a configuration. Their plugins are
told of these surroundings, so a profile belongs to one `Offline` at a time.

Answers to no upstream file; kube-scheduler-simulator has the same purpose.
"""

import asyncio
import dataclasses
import random
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any

from whipstaff.runtime import client, errors, objects, resources
from whipstaff.scheduler import (
    decision,
    diagnosis,
    framework,
    nominator,
    pods,
    post_filters,
    profile,
    snapshot,
    storage_state,
    workloads,
)

Object = dict[str, Any]

REQUIRED = (resources.NODES, resources.PODS)
"""What must be readable for an answer to make sense."""

RESOURCES = (
    *REQUIRED,
    resources.NAMESPACES,
    *workloads.RESOURCES,
    resources.PODDISRUPTIONBUDGETS,
    *storage_state.RESOURCES,
)
"""All that decisions depend on."""

_AT_ONCE = 4


@dataclasses.dataclass(frozen=True, slots=True)
class Listed:
    """What was read of a live cluster.

    Attributes:
        objects: with apiVersion and kind, as the API server gave them.
        unread: why resources couldn't be read, by their names (`poddisruptionbudgets.policy`).
    """

    objects: list[Object]
    unread: dict[str, str]


async def read(
    api: client.Client, more: Iterable[resources.Resource] = (), *, page_size: int = 500
) -> Listed:
    """Lists everything that decisions depend on, and `more`.

    Of what may not be read, or isn't served, the error is noted.

    Raises:
        errors.WhipstaffError: pods or nodes can't be read, or the API server can't be reached.
    """
    limit = asyncio.Semaphore(_AT_ONCE)

    async def listed(resource: resources.Resource) -> list[Object] | str:
        try:
            async with limit:
                return (await api.list(resource, page_size=page_size)).items
        except (errors.Forbidden, errors.NotFound) as error:
            if resource in REQUIRED:
                raise
            return str(error)

    asked = list(dict.fromkeys([*RESOURCES, *more]))
    found = dict(zip(asked, await asyncio.gather(*map(listed, asked)), strict=True))
    return Listed(
        [obj for items in found.values() if not isinstance(items, str) for obj in items],
        {resource.name: text for resource, text in found.items() if isinstance(text, str)},
    )


def flat(documents: Iterable[Object]) -> Iterator[Object]:
    """The objects of documents of which some may be lists (`kubectl get -o json` makes one)."""
    for document in documents:
        if "items" in document and str(document.get("kind", "")).endswith("List"):
            yield from flat(document["items"] or ())
        elif document:
            yield document


class Offline:
    """A cluster that stands still, and what a scheduler would decide in it.

    Attributes:
        cluster: the snapshot; every pod that has a node and hasn't ended counts in it.
        waiting: raw pods without a node, by `namespace/name`.
        promises: which waiting pods are nominated to nodes.
        decider: decides over `cluster`.
        unreadable: what was left out, by `Kind namespace/name`, and why.
    """

    def __init__(
        self,
        listed: Iterable[Object],
        profiles: Mapping[str, profile.Profile],
        *,
        rng: random.Random | None = None,
        now: Callable[[], float] = time.time,
        evidence: bool = True,
    ) -> None:
        """`listed`: objects of any kinds, lists among them; what doesn't matter is passed over.

        `rng` chooses among equals; `now` is the clock, in seconds since the epoch; `evidence` says
        whether decisions carry what they rested on.
        """
        self.cluster = snapshot.Snapshot()
        self.waiting: dict[str, Object] = {}
        self.promises = nominator.Nominator()
        self.profiles = dict(profiles)
        self.unreadable: dict[str, str] = {}
        self.random = random.Random(0) if rng is None else rng
        self.time = now
        self.decider = decision.Decider(
            self.cluster, self.random, promises=self.promises, evidence=evidence
        )
        self._pods: dict[str, Object] = {}
        self._budgets: dict[str, Object] = {}
        self._storage = {
            (kind.resource.api_version, kind.resource.kind): kind for kind in storage_state.KINDS
        }
        self._workloads = {
            (resource.api_version, resource.kind): resource for resource in workloads.RESOURCES
        }
        for built in self.profiles.values():
            for plugin in built.plugins.values():
                if isinstance(plugin, framework.SurroundedPlugin):
                    plugin.settle(self)
        for obj in flat(listed):
            self.put(obj)

    # Objects

    def put(self, obj: Object) -> bool:
        """Takes in an object as it now is; False if its kind doesn't matter here.

        One that can't be read is left out, and noted in `unreadable`.
        """
        try:
            return self._put(obj)
        except (ValueError, TypeError, AttributeError, LookupError) as error:
            # No API server stores a field of the wrong type, but a file may have one.
            text = str(error) if isinstance(error, ValueError) else f"can't be read ({error!r})"
            self.unreadable[label(obj)] = text
            if objects.name(obj):
                self.remove(obj)
            return True

    def _put(self, obj: Object) -> bool:
        kind = (obj.get("apiVersion", ""), obj.get("kind", ""))
        if kind == ("v1", "Node"):
            self.cluster.upsert_node(obj)
        elif kind == ("v1", "Pod"):
            self._put_pod(obj)
        elif kind == ("v1", "Namespace"):
            self.cluster.namespaces.put(obj)
        elif kind == ("policy/v1", "PodDisruptionBudget"):
            self._budgets[objects.key(obj)] = obj
        elif kind in self._workloads:
            self.cluster.workloads.put(self._workloads[kind], obj)
        elif kind in self._storage:
            self._storage[kind].put(self.cluster.storage, obj)
        else:
            return False
        return True

    def remove(self, obj: Object) -> None:
        """Forgets an object. The pods of a node that goes count again if it comes back."""
        kind = (obj.get("apiVersion", ""), obj.get("kind", ""))
        if kind == ("v1", "Node"):
            self.cluster.remove_node(objects.name(obj))
        elif kind == ("v1", "Pod"):
            self._remove_pod(objects.key(obj))
        elif kind == ("v1", "Namespace"):
            self.cluster.namespaces.remove(objects.name(obj))
        elif kind == ("policy/v1", "PodDisruptionBudget"):
            self._budgets.pop(objects.key(obj), None)
        elif kind in self._workloads:
            self.cluster.workloads.remove(self._workloads[kind], obj)
        elif kind in self._storage:
            self._storage[kind].drop(self.cluster.storage, obj)

    def _put_pod(self, raw: Object) -> None:
        self._remove_pod(objects.key(raw))
        if objects.is_finished(raw):
            return
        info = info_of(raw)
        self._pods[info.key] = info.raw
        if info.node_name:
            self.cluster.add_pod(info)
        else:
            self.waiting[info.key] = info.raw
            self.promises.add(info)

    def _remove_pod(self, key: str) -> None:
        raw = self._pods.pop(key, None)
        if raw is not None:
            self.waiting.pop(key, None)
            self.promises.remove(objects.uid(raw))
            self.cluster.remove_pod(objects.uid(raw))

    # What plugins ask of their surroundings (`framework.Surroundings`)

    def latest(self, key: str) -> Object | None:
        """The pod `namespace/name`, with a node or without; None if there is none."""
        return self._pods.get(key)

    def budgets(self) -> Iterable[Mapping[str, Any]]:
        """Every PodDisruptionBudget."""
        return self._budgets.values()

    def nominated_node(self, pod: pods.PodInfo) -> str:
        """The node that the pod waits for; "" if there is none."""
        return self.promises.node_of(pod)

    def is_preempting(self, uid: str) -> bool:  # noqa: ARG002
        """Never: nobody is evicted here."""
        return False

    # Deciding

    def profile_of(self, pod: pods.PodInfo) -> profile.Profile | None:
        """The profile that the pod asks for by its schedulerName."""
        return self.profiles.get(pod.scheduler_name)

    def decide(
        self, pod: pods.PodInfo, plugins: profile.Profile | None = None
    ) -> decision.Decision:
        """The best node for a pod that isn't counted; by the pod's own profile if none is given.

        Nothing changes by it: `cluster.assume` takes the place, `cluster.forget` gives it back.

        Raises:
            LookupError: there is no such profile.
            framework.PluginError: a plugin failed.
        """
        plugins = plugins or self.profile_of(pod)
        if plugins is None:
            raise LookupError(f"no profile is called {pod.scheduler_name}")
        return self.decider.decide(pod, plugins)

    def make_room(
        self, pod: pods.PodInfo, failure: diagnosis.FitError, plugins: profile.Profile | None = None
    ) -> post_filters.Answer | None:
        """Who would have to go for a pod that `decide` found no node for; as `Decider.post_filter`.

        Raises:
            LookupError: there is no such profile.
        """
        plugins = plugins or self.profile_of(pod)
        if plugins is None:
            raise LookupError(f"no profile is called {pod.scheduler_name}")
        return self.decider.post_filter(pod, plugins, failure)


def label(obj: Object) -> str:
    """What an object is called in `Offline.unreadable`."""
    name = objects.key(obj) if objects.name(obj) else "without a name"
    return f"{obj.get('kind')} {name}"


def info_of(raw: Object) -> pods.PodInfo:
    """A pod, read; one that no API server has seen gets a uid made of its namespace and name.

    Raises:
        ValueError: something in it can't be read.
    """
    metadata = raw["metadata"]
    namespace = metadata.get("namespace") or "default"
    if not metadata.get("uid") or not metadata.get("namespace"):
        uid = metadata.get("uid") or f"{namespace}/{metadata['name']}"
        raw = {**raw, "metadata": {**metadata, "namespace": namespace, "uid": uid}}
    return pods.PodInfo.from_object(raw)


def unplaced(raw: Object) -> pods.PodInfo:
    """The pod as it was before it got a node: to decide about it once more."""
    spec = {name: value for name, value in raw["spec"].items() if name != "nodeName"}
    return info_of({**raw, "spec": spec})
