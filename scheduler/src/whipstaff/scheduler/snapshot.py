"""The cluster as columns: a row a node, kept up to date by every node and pod that changes.

No loop runs here: the shell's watch handlers and its assume step call in, and a decision reads.
`Snapshot` owns the arrays. Everything is O(what changed); nothing is rebuilt.

Rows are dense: nodes occupy rows 0 to len-1 and every property gives arrays of that length. When a
node goes, the last row moves into its place; both are marked as changed. So an index means a node
only until the next mutation, and there is no mask of living rows to carry around.

Which rows changed is told by two counters a row, `node_version` (its node object) and
`pods_version` (the pods on it, and the volumes that they and the node have), that take the value of
`version` at the change.

A pod counts as soon as it has a node name, whichever scheduler gave it one; a pod assumed here
counts until the watch confirms it or it is forgotten. Pods of nodes that aren't known (yet, or any
more) are kept, and counted when the node appears.

Answers to `pkg/scheduler/backend/cache` (cache.go, snapshot.go) and to `NodeInfo` in
`pkg/scheduler/framework/types.go`. Left out: the order of nodes by zone, which only matters to a
scheduler that looks at some nodes and not at all of them. Host ports are counted, where upstream
keeps a set and so frees a port that two pods hold as soon as one of them goes.
"""

import dataclasses
from collections.abc import Collection, Hashable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from whipstaff.runtime import selectors
from whipstaff.scheduler import (
    affinityterms,
    attached_volumes,
    framework,
    interning,
    namespaces,
    podcounts,
    pods,
    requests,
    storage,
    workloads,
)

Object = dict[str, Any]

CPU, MEMORY, EPHEMERAL_STORAGE = 0, 1, 2
"""The columns of `allocatable` and `requested` that are always there."""

_SCALARS_FROM = 3
_VECTORS_KEPT = 4096


@dataclasses.dataclass(frozen=True, slots=True)
class Moved:
    """Pods to be moved in thought, with what they hold: only valid until the nodes change."""

    pods: Sequence[pods.PodInfo]
    rows: npt.NDArray[np.intp]  # (pods,), -1 on a node that isn't known
    amounts: framework.Int64s  # (pods, resources)
    nonzero: framework.Int64s  # (pods, 2)

    def take(self, positions: Sequence[int]) -> "Moved":
        """Some of them."""
        chosen = np.array(positions, np.intp)
        return Moved(
            [self.pods[position] for position in positions],
            self.rows[chosen],
            self.amounts[chosen],
            self.nonzero[chosen],
        )


class Snapshot:
    """The nodes, and the pods on them. Shapes are given in nodes and resources."""

    def __init__(self, capacity: int = 64) -> None:
        self._capacity = capacity
        self._size = 0
        self.version = 0
        self.last_node_version = 0
        self._last_touch = (0, -1)  # the version at which the pods of a row changed, and the row
        self.images_version = 0
        """Grows when the number of nodes changes, or which of them hold which images."""
        self._surprises: dict[str, int] = {}  # by name of node: the version of the last one
        self.names: list[str] = []
        self.row_of: dict[str, int] = {}
        self._nodes: list[Object] = []
        self._image_names: list[Mapping[str, int]] = []
        self._resources = {
            requests.CPU: CPU,
            requests.MEMORY: MEMORY,
            requests.EPHEMERAL_STORAGE: EPHEMERAL_STORAGE,
        }
        # Column by column in memory, because plugins read one resource of all nodes at a time.
        self._allocatable = np.zeros((capacity, _SCALARS_FROM), np.int64, order="F")
        self._requested = np.zeros((capacity, _SCALARS_FROM), np.int64, order="F")
        self._nonzero_requested = np.zeros((capacity, 2), np.int64, order="F")
        self._pod_counts = np.zeros(capacity, np.int64)
        self._allowed_pods = np.zeros(capacity, np.int64)
        self._unschedulable = np.zeros(capacity, np.bool_)
        self._node_version = np.zeros(capacity, np.int64)
        self._pods_version = np.zeros(capacity, np.int64)
        self._lowest_priority = np.zeros(capacity, np.int64)
        self._lowest_known = 0  # the version up to which that is worked out
        self._labels = interning.Labels(capacity)
        self._taints: interning.Taints = interning.Dictionary(capacity)
        self._ports: interning.Ports[pods.HostPort] = interning.Ports(capacity)
        self.images = interning.Images(capacity)
        self.workloads = workloads.Workloads()
        self.namespaces = namespaces.Namespaces()
        self._pods_by_kind = podcounts.PodCounts(capacity)
        self._terms = affinityterms.HeldTerms(capacity)
        self._pods: dict[str, pods.PodInfo] = {}  # by uid: every pod that has a node name
        self._pods_on: dict[str, dict[str, pods.PodInfo]] = {}  # by node name, known or not
        self._assumed: set[str] = set()
        self._starts: dict[str, int] = {}  # by node name
        self._vectors: dict[requests.Requests, framework.Int64s] = {}
        self._claim_users: dict[str, dict[str, pods.PodInfo]] = {}  # by claim's key, by uid
        self.storage = storage.Storage(self._storage_changed)
        """Claims, volumes and what else there is to know of storage."""
        self._attached_volumes = attached_volumes.AttachedVolumes()

    def __len__(self) -> int:
        """The number of nodes."""
        return self._size

    # What plugins read

    @property
    def allocatable(self) -> framework.Int64s:
        """(nodes, resources): what pods may use; CPU in thousandths, memory in bytes."""
        return self._allocatable[: self._size]

    @property
    def requested(self) -> framework.Int64s:
        """(nodes, resources): what the pods there use."""
        return self._requested[: self._size]

    @property
    def nonzero_requested(self) -> framework.Int64s:
        """(nodes, 2): CPU and memory, with defaults for containers that name none."""
        return self._nonzero_requested[: self._size]

    @property
    def pod_counts(self) -> framework.Int64s:
        """(nodes,): how many pods are there."""
        return self._pod_counts[: self._size]

    @property
    def allowed_pods(self) -> framework.Int64s:
        """(nodes,): how many pods may be there."""
        return self._allowed_pods[: self._size]

    @property
    def unschedulable(self) -> framework.Mask:
        """(nodes,): which nodes are cordoned."""
        return self._unschedulable[: self._size]

    @property
    def node_version(self) -> framework.Int64s:
        """(nodes,): when the row's node last changed in anything but its heartbeat.

        None is higher than `last_node_version`.
        """
        return self._node_version[: self._size]

    @property
    def pods_version(self) -> framework.Int64s:
        """(nodes,): when the pods on the row's node last changed, or volumes of theirs did."""
        return self._pods_version[: self._size]

    @property
    def taints(self) -> interning.Taints:
        """The lists of taints in use, to be asked about once each."""
        return self._taints

    def taint_codes(self, rows: framework.Rows) -> npt.NDArray[np.int32]:
        """(rows,): the code of each row's list of taints, 0 for none."""
        return self._taints.codes[: self._size][rows]

    @property
    def resource_names(self) -> tuple[str, ...]:
        """(resources,): what the columns of `allocatable` and `requested` are called."""
        return tuple(self._resources)

    def column_of(self, resource: str) -> int | None:
        """The column of a resource; None if neither a node nor a pod ever named it."""
        return self._resources.get(resource)

    def matches(self, requirement: selectors.Requirement, rows: framework.Rows) -> framework.Mask:
        """(rows,): which nodes' labels meet the requirement."""
        return self._labels.matches(requirement, rows, self._size)

    def label_codes(self, key: str) -> npt.NDArray[np.int32] | None:
        """(nodes,): a code a value of the label, 0 where a node hasn't got it; None if none has."""
        column = self._labels.column(key)
        return None if column is None else column.codes[: self._size]

    def label_code(self, key: str, value: str) -> int:
        """The code of `value` in `label_codes(key)`; -1 if no node has it."""
        column = self._labels.column(key)
        return -1 if column is None else column.code_of(value)

    def count_pods(self, question: podcounts.Question) -> npt.NDArray[np.int32]:
        """(nodes,): how many pods of each node are meant."""
        return self._pods_by_kind.column(question, self.row_of)[: self._size]

    def terms_meaning(
        self, pod: pods.PodInfo
    ) -> list[tuple[affinityterms.Held, npt.NDArray[np.int32]]]:
        """The terms held by pods that mean this one, and (nodes,) how many of each node hold it."""
        if not self._terms:
            return []
        labels = self.namespaces.labels(pod.namespace)
        return [
            (held, column[: self._size])
            for held, column in self._terms.meaning(pod.namespace, pod.labels, labels)
        ]

    def ports(self) -> Iterator[tuple[pods.HostPort, npt.NDArray[np.int32]]]:
        """Each host port in use, and (nodes,) how many pods of each node hold it."""
        for port, column in self._ports.columns.items():
            yield port, column[: self._size]

    def attached_volumes(self) -> attached_volumes.AttachedVolumes:
        """How many volumes of CSI drivers each node has, and takes; up to date for now."""
        self._attached_volumes.refresh(self)
        return self._attached_volumes

    def amounts(self, row: int) -> Hashable:
        """Equal for rows whose nodes have as much for pods, and whose pods take as much of it."""
        return (
            self._allocatable[row].tobytes(),
            self._requested[row].tobytes(),
            self._nonzero_requested[row].tobytes(),
            int(self._allowed_pods[row]),
            int(self._pod_counts[row]),
        )

    def only_change(self, since: int) -> int:
        """The row whose pods changed after a version, if nothing else did; otherwise -1."""
        version, row = self._last_touch
        return row if version == self.version == since + 1 else -1

    def size_of(self, rows: framework.Rows) -> int:
        """How many rows `rows` means."""
        return len(range(*rows.indices(self._size))) if isinstance(rows, slice) else len(rows)

    def node(self, name: str) -> Object | None:
        """The raw node; None if it isn't known."""
        row = self.row_of.get(name)
        return None if row is None else self._nodes[row]

    def node_at(self, row: int) -> Object:
        """The raw node of a row."""
        return self._nodes[row]

    def is_as_expected(self, node_name: str, since: int) -> bool:
        """Whether all that came to a node since that version are pods that were assumed first.

        False too if the node itself changed or went.
        """
        return self._surprises.get(node_name, self.version + 1) <= since

    def pods_on(self, node_name: str) -> Collection[pods.PodInfo]:
        """The pods that have this node's name, whether the node is known or not."""
        return self._pods_on.get(node_name, {}).values()

    # Nodes

    def upsert_node(self, raw: Object) -> bool:
        """Takes in a node as it now is; False if nothing but a heartbeat changed.

        Raises:
            ValueError: a quantity in it can't be read.
        """
        name = raw["metadata"]["name"]
        row = self.row_of.get(name)
        if row is not None and _material(self._nodes[row]) == _material(raw):
            self._nodes[row] = raw
            return False
        allocatable, allowed_pods = requests.allocatable(
            (raw.get("status") or {}).get("allocatable")
        )
        if row is None:
            row = self._append(name, raw)
        self._assign(row, raw, allocatable, allowed_pods)
        return True

    def _append(self, name: str, raw: Object) -> int:
        row = self._size
        if row == self._capacity:
            self._grow(2 * self._capacity)
        self._size += 1
        self.names.append(name)
        self.row_of[name] = row
        self._nodes.append({"metadata": {"name": raw["metadata"]["name"]}})
        self._image_names.append({})
        self._touch_pods(row)
        self.images_version = self.version
        for pod in self.pods_on(name):
            self._account(row, pod, 1)
        return row

    def _assign(
        self, row: int, raw: Object, allocatable: requests.Requests, allowed_pods: int
    ) -> None:
        spec, status = raw.get("spec") or {}, raw.get("status") or {}
        vector = self._vector(allocatable)
        self._allocatable[row] = vector
        self._allowed_pods[row] = allowed_pods
        self._unschedulable[row] = bool(spec.get("unschedulable"))
        self._labels.assign(row, _labels(self._nodes[row]), _labels(raw))
        self._taints.assign(row, interning.read_taints(spec.get("taints")))
        self.version += 1
        images = interning.read_images(status.get("images"))
        if images != self._image_names[row]:
            self.images.assign(row, self._image_names[row], images)
            self._image_names[row] = images
            self.images_version = self.version
        self._nodes[row] = raw
        self._node_version[row] = self.last_node_version = self.version
        self._surprises[self.names[row]] = self.version

    def remove_node(self, name: str) -> bool:
        """Forgets a node but not the pods on it; False if it wasn't known."""
        row = self.row_of.pop(name, None)
        if row is None:
            return False
        for pod in self.pods_on(name):
            self._account(row, pod, -1)
        self._labels.assign(row, _labels(self._nodes[row]), {})
        self._taints.assign(row, None)
        self.images.assign(row, self._image_names[row], {})
        last = self._size - 1
        if row != last:
            self._move(last, row)
        self._clear(last)
        self._size = last
        del self.names[last], self._nodes[last], self._image_names[last]
        self._surprises.pop(name, None)
        self._starts.pop(name, None)
        self.version += 1
        self.images_version = self.version
        if row != last:
            self._node_version[row] = self._pods_version[row] = self.version
            self.last_node_version = self.version
        return True

    def _move(self, source: int, target: int) -> None:
        for column in self._plain_columns():
            column[target] = column[source]
        self._labels.move(source, target, _labels(self._nodes[source]))
        self._taints.move(source, target)
        self._ports.move(source, target)
        self._pods_by_kind.move(source, target)
        self._terms.move(source, target)
        self.images.move(source, target, self._image_names[source])
        self._nodes[target] = self._nodes[source]
        self._image_names[target] = self._image_names[source]
        self.names[target] = self.names[source]
        self.row_of[self.names[source]] = target

    def _clear(self, row: int) -> None:
        for column in self._plain_columns():
            column[row] = 0

    def _plain_columns(self) -> tuple[npt.NDArray[Any], ...]:
        return (
            self._allocatable,
            self._requested,
            self._nonzero_requested,
            self._pod_counts,
            self._allowed_pods,
            self._unschedulable,
            self._node_version,
            self._pods_version,
            self._lowest_priority,
        )

    def _grow(self, capacity: int) -> None:
        self._capacity = capacity
        self._allocatable = interning.longer(self._allocatable, capacity)
        self._requested = interning.longer(self._requested, capacity)
        self._nonzero_requested = interning.longer(self._nonzero_requested, capacity)
        self._pod_counts = interning.longer(self._pod_counts, capacity)
        self._allowed_pods = interning.longer(self._allowed_pods, capacity)
        self._unschedulable = interning.longer(self._unschedulable, capacity)
        self._node_version = interning.longer(self._node_version, capacity)
        self._pods_version = interning.longer(self._pods_version, capacity)
        self._lowest_priority = interning.longer(self._lowest_priority, capacity)
        self._labels.grow(capacity)
        self._taints.grow(capacity)
        self._ports.grow(capacity)
        self._pods_by_kind.grow(capacity)
        self._terms.grow(capacity)
        self.images.grow(capacity)

    # Pods

    @property
    def pod_count(self) -> int:
        """How many pods have a node name, known node or not."""
        return len(self._pods)

    @property
    def assumed_count(self) -> int:
        """How many of them are only assumed so far."""
        return len(self._assumed)

    def get_pod(self, uid: str) -> pods.PodInfo | None:
        """The pod as it is counted; None if it isn't."""
        return self._pods.get(uid)

    def is_assumed(self, uid: str) -> bool:
        """Whether the pod was placed here and hasn't been seen on its node yet."""
        return uid in self._assumed

    def all_pods(self) -> Collection[pods.PodInfo]:
        """Every pod that has a node name."""
        return self._pods.values()

    def claim_users(self, key: str) -> Collection[pods.PodInfo]:
        """The pods with a node that use the claim `namespace/name`."""
        return self._claim_users.get(key, {}).values()

    def add_pod(self, pod: pods.PodInfo) -> None:
        """Takes in a pod with a node name as it is now: new, changed, or until now only assumed.

        Raises:
            ValueError: the pod has no uid or no node name.
        """
        _check(pod)
        before = self._pods.get(pod.uid)
        self._assumed.discard(pod.uid)
        if before is None:
            self._put(pod)
        elif _occupies_alike(before, pod):
            self._pods[pod.uid] = self._pods_on[pod.node_name][pod.uid] = pod
            return
        else:
            self._take(before)
            self._put(pod)
        if pod.node_name in self.row_of:
            self._surprises[pod.node_name] = self.version

    update_pod = add_pod

    def remove_pod(self, uid: str) -> pods.PodInfo | None:
        """Stops counting a pod and returns it; None if it wasn't counted."""
        pod = self._pods.get(uid)
        if pod is not None:
            self._assumed.discard(uid)
            self._take(pod)
        return pod

    def assume(self, pod: pods.PodInfo, node_name: str) -> pods.PodInfo:
        """Counts a pod as placed before the API server knows of it; returns it with its node.

        Raises:
            ValueError: the pod is counted already, or has no uid.
        """
        if pod.uid in self._pods:
            raise ValueError(f"pod {pod.key} ({pod.uid}) is counted already")
        row = self.row_of.get(node_name)
        placed = pod.on_node(node_name, None if row is None else _labels(self._nodes[row]))
        _check(placed)
        self._put(placed)
        self._assumed.add(pod.uid)
        return placed

    def forget(self, uid: str) -> bool:
        """Takes an assumption back; False if the pod isn't an assumed one."""
        if uid not in self._assumed:
            return False
        self.remove_pod(uid)
        return True

    def lowest_priority(self) -> framework.Int64s:
        """(nodes,): the lowest priority of a pod there; the highest int64 where there is none.

        Worked out when asked for, where pods changed since the last time.
        """
        nobody = np.iinfo(np.int64).max
        for row in np.flatnonzero(self.pods_version > self._lowest_known).tolist():
            there = self._pods_on.get(self.names[row])
            self._lowest_priority[row] = (
                min(pod.priority for pod in there.values()) if there else nobody
            )
        self._lowest_known = self.version
        return self._lowest_priority[: self._size]

    # What if: see `trial`, which undoes what it does.

    def moved(self, moved: Sequence[pods.PodInfo]) -> "Moved":
        """Some pods, made ready to be moved to and fro."""
        rows = np.array([self.row_of.get(pod.node_name, -1) for pod in moved], np.intp)
        vectors = [self._vector(pod.requests.held) for pod in moved]
        if len({len(vector) for vector in vectors}) > 1:  # one of them brought a new resource
            vectors = [self._vector(pod.requests.held) for pod in moved]
        nonzero = [(pod.requests.nonzero_milli_cpu, pod.requests.nonzero_memory) for pod in moved]
        shape = (len(moved), len(self._resources))
        return Moved(
            list(moved),
            rows,
            np.array(vectors, np.int64).reshape(shape),
            np.array(nonzero, np.int64).reshape(len(moved), 2),
        )

    def set_aside(self, moved: "Moved", *, only_amounts: bool = False) -> None:
        """Doesn't count these pods for a moment, until `put_in`; who is assumed stays known.

        With `only_amounts` they go on being listed as there, with their ports and labels: that
        takes a fraction of the time.
        """
        self._account_all(moved, -1, only_amounts=only_amounts)
        if not only_amounts:
            for pod in moved.pods:
                self._unlist(pod)

    def put_in(self, moved: "Moved", *, only_amounts: bool = False) -> None:
        """Counts pods that were set aside; or, until `set_aside`, ones that aren't there.

        `only_amounts` as it was there, or will be.
        """
        if not only_amounts:
            for pod in moved.pods:
                self._list(pod)
        self._account_all(moved, 1, only_amounts=only_amounts)

    def unmoved(self, versions: Mapping[int, int], since: int) -> None:
        """Has rows count as unchanged since a version of the cluster, for their pods are as then.

        Not if something was worked out meanwhile, over the pods as they weren't. `versions` is what
        `pods_version` was of each row.
        """
        if max(self._lowest_known, self._attached_volumes.version) <= since:
            for row, version in versions.items():
                self._pods_version[row] = version

    def pod_started(self, node_name: str) -> None:
        """Notes that another time is known since when a pod on a node runs."""
        if node_name in self.row_of:
            self._starts[node_name] = self._starts.get(node_name, 0) + 1

    def starts(self, row: int) -> int:
        """Grows when something becomes known of when the pods of a row started."""
        return self._starts.get(self.names[row], 0)

    def _account_all(self, moved: "Moved", sign: int, *, only_amounts: bool) -> None:
        """`_account` for many pods at once; those on unknown nodes count nowhere."""
        known = moved.rows >= 0
        if not known.all():
            moved = moved.take(np.flatnonzero(known).tolist())
        rows = moved.rows
        if not len(rows):
            return
        for column in range(moved.amounts.shape[1]):
            np.add.at(self._requested[:, column], rows, sign * moved.amounts[:, column])
        for column in range(2):
            np.add.at(self._nonzero_requested[:, column], rows, sign * moved.nonzero[:, column])
        np.add.at(self._pod_counts, rows, sign)
        if not only_amounts:
            for row, pod in zip(rows.tolist(), moved.pods, strict=True):
                self._count(row, pod, sign)
        self.version += 1
        self._pods_version[rows] = self.version

    def _put(self, pod: pods.PodInfo) -> None:
        self._list(pod)
        row = self.row_of.get(pod.node_name)
        if row is not None:
            self._touch_pods(row)
            self._account(row, pod, 1)

    def _take(self, pod: pods.PodInfo) -> None:
        row = self.row_of.get(pod.node_name)
        if row is not None:
            self._touch_pods(row)
            self._account(row, pod, -1)
        self._unlist(pod)

    def _list(self, pod: pods.PodInfo) -> None:
        """Notes a pod, before it is counted, where pods are looked up."""
        self._pods[pod.uid] = pod
        self._pods_on.setdefault(pod.node_name, {})[pod.uid] = pod
        self._pods_by_kind.add(pod)
        for key, _ in pod.claims() if pod.volumes else ():
            self._claim_users.setdefault(key, {})[pod.uid] = pod

    def _unlist(self, pod: pods.PodInfo) -> None:
        """Undoes `_list`, when the pod isn't counted any more."""
        del self._pods[pod.uid]
        on_node = self._pods_on[pod.node_name]
        del on_node[pod.uid]
        if not on_node:
            del self._pods_on[pod.node_name]
        self._pods_by_kind.remove(pod)
        for key, _ in pod.claims() if pod.volumes else ():
            users = self._claim_users.get(key, {})
            users.pop(pod.uid, None)
            if not users:
                self._claim_users.pop(key, None)

    def _storage_changed(self, claims: Collection[str], nodes: Collection[str]) -> None:
        """Marks the rows of the nodes, and of the nodes where pods use one of the claims."""
        names = {pod.node_name for key in claims for pod in self.claim_users(key)}
        for name in names.union(nodes):
            row = self.row_of.get(name)
            if row is not None:
                self._touch_pods(row)

    def _touch_pods(self, row: int) -> None:
        self.version += 1
        self._pods_version[row] = self.version
        self._last_touch = (self.version, row)

    def _account(self, row: int, pod: pods.PodInfo, sign: int) -> None:
        """Adds a pod to the sums of a row, or with sign -1 takes it away."""
        asked = pod.requests
        vector = self._vector(asked.held)
        if sign > 0:
            self._requested[row] += vector
        else:
            self._requested[row] -= vector
        self._nonzero_requested[row, 0] += sign * asked.nonzero_milli_cpu
        self._nonzero_requested[row, 1] += sign * asked.nonzero_memory
        self._pod_counts[row] += sign
        self._count(row, pod, sign)

    def _count(self, row: int, pod: pods.PodInfo, sign: int) -> None:
        """The part of `_account` that is done pod by pod; the pod is listed meanwhile."""
        for port in pod.host_ports:
            self._ports.count(row, port, sign)
        self._pods_by_kind.count(row, pod, sign)
        self._terms.count(row, pod.affinity_terms.held, sign)

    def _vector(self, amounts: requests.Requests) -> framework.Int64s:
        """(resources,): the amounts as a row of `requested`."""
        vector = self._vectors.get(amounts)
        if vector is None:
            for name, _ in amounts.scalars:
                if name not in self._resources:
                    self._add_resource(name)
            vector = np.zeros(len(self._resources), np.int64)
            vector[CPU] = amounts.milli_cpu
            vector[MEMORY] = amounts.memory
            vector[EPHEMERAL_STORAGE] = amounts.ephemeral_storage
            for name, amount in amounts.scalars:
                vector[self._resources[name]] = amount
            if len(self._vectors) >= _VECTORS_KEPT:
                self._vectors.clear()
            self._vectors[amounts] = vector
        return vector

    def _add_resource(self, name: str) -> None:
        self._resources[name] = len(self._resources)
        self._vectors.clear()
        shape = (self._capacity, len(self._resources))
        for attribute in ("_allocatable", "_requested"):
            wider = np.zeros(shape, np.int64, order="F")
            wider[:, :-1] = getattr(self, attribute)
            setattr(self, attribute, wider)


def _labels(node: Object) -> Mapping[str, str]:
    return node["metadata"].get("labels") or {}


def _material(node: Object) -> tuple[Any, ...]:
    """All of a node that a plugin may depend on: everything but times and versions."""
    metadata, status = node["metadata"], node.get("status") or {}
    conditions = tuple(
        (condition.get("type"), condition.get("status"))
        for condition in status.get("conditions") or ()
    )
    rest = {name: value for name, value in status.items() if name != "conditions"}
    return (
        metadata.get("labels"),
        metadata.get("annotations"),
        node.get("spec"),
        conditions,
        rest,
    )


def _check(pod: pods.PodInfo) -> None:
    if not pod.uid or not pod.node_name:
        raise ValueError(f"pod {pod.key} needs a uid and a node to be counted")


def _occupies_alike(before: pods.PodInfo, after: pods.PodInfo) -> bool:
    """Whether nothing changed that another pod's placement may depend on."""
    return (
        before.node_name == after.node_name
        and before.requests == after.requests
        and before.is_terminating == after.is_terminating
        and before.host_ports == after.host_ports
        and before.labels == after.labels
        and before.affinity == after.affinity
        and before.volumes == after.volumes
    )
