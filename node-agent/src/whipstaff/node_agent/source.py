"""Where pods come from: one watch for all nodes of the process, told apart by node name.

A process with one node asks the API for its pods only; one with many watches every pod that is
bound and keeps those bound to its own nodes. Pods are taken over in two steps: first all that were
there at the start, so that the provider can take up what already runs before anything new happens,
and then one by one as they change.

Static pods come from files and are told in the same way; their mirrors in the API are nobody's to
run. Where the API can't be reached at the start, they start without it: it may be one of them. Owns
the informer; runs no loop of its own. Answers to ``pkg/kubelet/config``.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping

from whipstaff.node_agent import nodes, pod_worker, provider, records, workers
from whipstaff.node_agent.static_pods import pods as static_pods
from whipstaff.runtime import client, informer, objects, resources

Object = objects.Object

_MIRROR = "mirror"
_FILE = "file"


class Source:
    """Feeds the workers.

    Args:
        api: the client.
        fleet: the nodes, by name.
        crew: the workers.
        mirrors: told of mirror pods; None where there are no static pods.
    """

    def __init__(
        self,
        api: client.Client,
        fleet: Mapping[str, nodes.Node],
        crew: workers.Workers,
        mirrors: static_pods.StaticPods | None = None,
    ) -> None:
        self._fleet = fleet
        self._crew = crew
        self._mirrors = mirrors
        self._first: dict[str, Object] | None = {}
        self._alone: Mapping[str, provider.RuntimePod] | None = None
        only = next(iter(fleet)) if len(fleet) == 1 else None
        self.informer = informer.Informer(
            api,
            resources.PODS,
            field_selector=f"spec.nodeName={only}" if only else "spec.nodeName!=",
            transform=self._keep,
        )
        self.informer.add_handler(self)

    def begin_alone(self, found: Mapping[str, provider.RuntimePod]) -> None:
        """Start with the static pods, while nobody knows what the API has.

        Args:
            found: what the provider's `list` has, by UID.
        """
        assert self._first is not None
        self._alone = found
        for uid, record in list(self._first.items()):
            if _FILE in record:
                del self._first[uid]
                self.on_add(record)

    def _waits(self, record: Object) -> bool:
        """Whether a pod is to be met with all the others."""
        return self._first is not None and not (self._alone is not None and _FILE in record)

    def take_over(self, found: Mapping[str, provider.RuntimePod]) -> None:
        """Start with what was there when the informer had synced.

        Args:
            found: what the provider's `list` has, by UID.
        """
        assert self._first is not None
        first, self._first = self._first, None
        self._alone = None
        for uid, stray in found.items():
            if uid not in first and self._crew.get(uid) is None:
                self._crew.orphan(next(iter(self._fleet.values())), stray)
        crew = [self._meet(record, found.get(uid)) for uid, record in first.items()]
        for worker in sorted(crew, key=_age):
            self._crew.wake(worker)

    def on_add(self, record: Object) -> None:
        """A pod was bound to one of the nodes."""
        if _MIRROR in record:
            self._show_mirror(record)
            return
        uid = record["metadata"]["uid"]
        if self._first is not None and self._waits(record):
            self._first[uid] = record
        elif self._crew.get(uid) is None:
            self._crew.wake(self._meet(record, (self._alone or {}).get(uid)))
        else:
            self._crew.update(record)

    def on_update(self, _: Object, record: Object) -> None:
        """A pod has changed."""
        if _MIRROR in record:
            self._show_mirror(record)
        elif self._first is not None and self._waits(record):
            self._first[record["metadata"]["uid"]] = record
        else:
            self._crew.update(record)

    def on_delete(self, record: Object) -> None:
        """A pod is gone from the API."""
        if _MIRROR in record:
            if self._mirrors is not None:
                self._mirrors.mirror_gone(record[_MIRROR])
        elif self._first is not None and self._waits(record):
            self._first.pop(record["metadata"]["uid"], None)
        else:
            self._crew.remove(record)

    def _keep(self, pod: Object) -> Object | None:
        if pod["spec"].get("nodeName") not in self._fleet:
            return None
        if static_pods.is_mirror(pod):
            return {"metadata": pod["metadata"], _MIRROR: pod}
        return records.pack(pod)

    def _show_mirror(self, record: Object) -> None:
        if self._mirrors is not None:
            self._mirrors.mirror_seen(record[_MIRROR])

    def _meet(self, record: Object, found: provider.RuntimePod | None) -> pod_worker.Worker:
        return self._crew.first_sight(self._fleet[record["node"]], record, found)


def _age(worker: pod_worker.Worker) -> str:
    """Pods are admitted in the order of their creation."""
    created: str = worker.load()["metadata"].get("creationTimestamp") or ""
    return created


class Files:
    """Feeds the workers with static pods.

    Args:
        source: gives what feeds them with the API's pods.
    """

    def __init__(self, source: Callable[[], Source]) -> None:
        self._source = source

    def on_add(self, pod: Object) -> None:
        """A pod is to run."""
        self._source().on_add(_pack(pod))

    def on_update(self, old: Object, new: Object) -> None:
        """A pod of the same UID is to run differently."""
        self._source().on_update(old, _pack(new))

    def on_delete(self, pod: Object) -> None:
        """A pod is to stop."""
        self._source().on_delete(_pack(pod))


def _pack(pod: Object) -> Object:
    """A record of a pod that the API has never seen, and so no version of it."""
    packed = records.pack(copy.deepcopy(pod))
    packed["metadata"]["resourceVersion"] = "0"
    packed[_FILE] = True
    return packed
