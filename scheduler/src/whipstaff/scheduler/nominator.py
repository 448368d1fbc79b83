"""Which waiting pod has been promised which node.

No loop runs here. A pod for which others are evicted is nominated to the node that they leave: from
then on pods of the same or a lower priority find the node as full as if it were there. The promise
is kept here from the moment it is made, because its place in the pod's status
(`status.nominatedNodeName`) is written and seen a little later. Others, an autoscaler for one, may
make promises there too. The queue and the watch's handlers keep this true; decisions read it.

Answers to `pkg/scheduler/backend/queue/nominator.go`. A promise that was taken back is remembered
until the pod's status says so too, so that an old status doesn't revive it.
"""

from collections.abc import Collection, Iterator
from typing import Any, TypeAlias

from whipstaff.scheduler import pods

Object = dict[str, Any]

Guests: TypeAlias = tuple[int, int, str]
"""Stands for whom a pod has to leave room for on a node: what the promises are, the pod's priority,
and its uid where it is promised the node itself."""

NOBODY: Guests = (0, 0, "")


class Nominator:
    """Promises by pod, and by node."""

    def __init__(self) -> None:
        self._node_of: dict[str, str] = {}  # by uid; "" for a promise that was taken back
        self._pods_on: dict[str, dict[str, pods.PodInfo]] = {}  # by node name and uid
        self._versions: dict[str, int] = {}  # by node name, where somebody waits
        self._version = 0

    def __len__(self) -> int:
        """The number of nodes that are promised to some pod."""
        return len(self._pods_on)

    def node_of(self, pod: pods.PodInfo) -> str:
        """The node that the pod waits for; "" if there is none."""
        node = self._node_of.get(pod.uid)
        return pod.nominated_node_name if node is None else node

    def pods_on(self, node_name: str) -> Collection[pods.PodInfo]:
        """The pods that wait for the node, as they will be once they are there."""
        return self._pods_on.get(node_name, {}).values()

    def guests(self, node_name: str, pod: pods.PodInfo) -> Guests:
        """Whom `pod` leaves room for there; equal as long as that is the same."""
        version = self._versions.get(node_name)
        if version is None:
            return NOBODY
        return version, pod.priority, pod.uid if pod.uid in self._pods_on[node_name] else ""

    def items(self) -> Iterator[tuple[str, Collection[pods.PodInfo]]]:
        """Each node that is promised to some pod, and the pods that wait for it."""
        for node_name, waiting in self._pods_on.items():
            yield node_name, waiting.values()

    def add(self, pod: pods.PodInfo, node_name: str | None = None) -> None:
        """The pod waits for a node, or with "" for none any more; None: for which it did before."""
        if node_name is None:
            node_name = self.node_of(pod)
            if not node_name and pod.uid not in self._node_of:
                return
        self.remove(pod.uid)
        self._node_of[pod.uid] = node_name
        if node_name:
            self._pods_on.setdefault(node_name, {})[pod.uid] = pod.on_node(node_name)
            self._changed(node_name)

    def update(self, old: Object, new: pods.PodInfo) -> None:
        """The pod was seen to change: a promise in its status counts, if that is what changed."""
        before = (old.get("status") or {}).get("nominatedNodeName") or ""
        if before == new.nominated_node_name:
            self.add(new)
        else:
            self.remove(new.uid)
            if new.nominated_node_name:
                self.add(new, new.nominated_node_name)

    def remove(self, uid: str) -> None:
        """The pod doesn't wait any more."""
        node_name = self._node_of.pop(uid, "")
        waiting = self._pods_on.get(node_name)
        if waiting is not None:
            del waiting[uid]
            if waiting:
                self._changed(node_name)
            else:
                del self._pods_on[node_name], self._versions[node_name]

    def _changed(self, node_name: str) -> None:
        self._version += 1
        self._versions[node_name] = self._version
