"""A witness of rollouts: whether they kept the bounds of their strategy all the time.

It looks at every change of a ReplicaSet and of a pod, and judges at the end of a step, when all
sizes are known that its Deployment was asked to have meanwhile. As upstream defines it, the sizes
that a rolling update gives its ReplicaSets never sum to more than ``replicas + maxSurge``, and
never fewer than ``replicas - maxUnavailable`` pods are available; with Recreate no pod of a new
template comes while one of an old one is there. What was out of bounds before needn't be within.
"""

from __future__ import annotations

import collections
from collections.abc import Iterable
from dataclasses import dataclass, field
from fractions import Fraction
from typing import Any, Protocol, TypeAlias

from whipstaff.runtime import objects, resources

Object: TypeAlias = dict[str, Any]
Counts: TypeAlias = dict[str, int]
"""A count for each ReplicaSet, by its uid."""


class Cluster(Protocol):
    """What the witness needs of a side."""

    def watch(self, kind: resources.Resource, handler: object) -> None: ...


@dataclass(slots=True)
class _Seen:
    """A namespace during a step.

    Attributes:
        owners: the uid of each ReplicaSet's Deployment.
        sizes: of the ReplicaSets, at every moment at which one changed.
        available: of the ReplicaSets' pods those that serve, at every moment at which one changed.
        deployments: every state of every Deployment.
        mixed: ReplicaSets that got a pod while these others had some.
    """

    owners: dict[str, str] = field(default_factory=dict)
    replicasets: dict[str, Object] = field(default_factory=dict)
    pods: dict[str, Object] = field(default_factory=dict)
    current: dict[str, Object] = field(default_factory=dict)
    sizes: list[Counts] = field(default_factory=list)
    available: list[Counts] = field(default_factory=list)
    deployments: dict[str, list[Object]] = field(
        default_factory=lambda: collections.defaultdict(list)
    )
    mixed: list[tuple[str, list[str]]] = field(default_factory=list)

    def begin(self) -> None:
        self.deployments.clear()
        self.mixed.clear()
        for uid, each in self.current.items():
            self.deployments[uid].append(each)
        self.sizes[:] = [self.count_sizes()]
        self.available[:] = [self.count_available()]

    def count_sizes(self) -> Counts:
        return {uid: each["spec"]["replicas"] for uid, each in self.replicasets.items()}

    def count_available(self) -> Counts:
        found = (_replicaset(pod) for pod in self.pods.values() if _serves(pod))
        return dict(collections.Counter(found))


class Witness:
    """Watches one cluster, namespace by namespace."""

    def __init__(self, cluster: Cluster) -> None:
        self._seen: dict[str, _Seen] = collections.defaultdict(_Seen)
        cluster.watch(resources.DEPLOYMENTS, _Deployments(self._seen))
        cluster.watch(resources.REPLICASETS, _ReplicaSets(self._seen))
        cluster.watch(resources.PODS, _Pods(self._seen))

    def begin(self, namespace: str) -> None:
        """A step begins."""
        self._seen[namespace].begin()

    def judge(self, namespace: str, taken: int) -> dict[str, str]:
        """What was out of bounds since `begin`, by Deployment; `taken` pods were the user's."""
        seen = self._seen[namespace]
        found = {}
        for uid, states in seen.deployments.items():
            if uid in seen.current and (text := _judged(seen, uid, states, taken)):
                found[objects.name(states[-1])] = text
        return found


def bounds(deployment: Object) -> tuple[int, int]:
    """The most pods that a rolling update may ask for, and the fewest that have to serve."""
    spec = deployment["spec"]
    wanted, rolling = spec["replicas"], spec["strategy"]["rollingUpdate"]
    surge = _part(rolling["maxSurge"], wanted, up=True)
    missing = _part(rolling["maxUnavailable"], wanted, up=False)
    if not surge and not missing:
        missing = 1
    return wanted + surge, wanted - min(missing, wanted)


def _part(value: int | str, of: int, *, up: bool) -> int:
    if isinstance(value, int):
        return value
    exact = Fraction(int(value.removesuffix("%")) * of, 100)
    return -int(-exact // 1) if up else int(exact // 1)


def _judged(seen: _Seen, uid: str, states: list[Object], taken: int) -> str:
    kinds = {each["spec"]["strategy"]["type"] for each in states}
    if kinds == {"Recreate"}:
        mixed = [pair for pair in seen.mixed if seen.owners.get(pair[0]) == uid]
        olds = [each for _, others in mixed for each in others if seen.owners.get(each) == uid]
        return "a new pod came while there were old ones" if olds else ""
    if kinds != {"RollingUpdate"}:
        return ""
    most = max(bounds(each)[0] for each in states)
    least = min(bounds(each)[1] for each in states)
    sizes = [_of(seen, uid, counts) for counts in seen.sizes]
    serving = [_of(seen, uid, counts) for counts in seen.available]
    if max(sizes) > max(most, sizes[0]):
        return f"asked for {max(sizes)} pods, where {max(most, sizes[0])} are allowed"
    least = min(least, serving[0]) - taken
    if min(serving) < least:
        return f"{min(serving)} pods served, where {least} have to"
    return ""


def _of(seen: _Seen, uid: str, counts: Counts) -> int:
    return sum(count for each, count in counts.items() if seen.owners.get(each) == uid)


def _replicaset(pod: Object) -> str:
    owner = objects.owner(pod)
    return owner["uid"] if owner else ""


def _serves(pod: Object) -> bool:
    return (
        objects.is_true(pod, "Ready")
        and not objects.is_terminating(pod)
        and not objects.is_finished(pod)
    )


class _Deployments:
    def __init__(self, seen: dict[str, _Seen]) -> None:
        self._seen = seen

    def on_add(self, found: Object) -> None:
        seen = self._seen[objects.namespace(found)]
        seen.current[objects.uid(found)] = found
        seen.deployments[objects.uid(found)].append(found)

    def on_update(self, _: Object, new: Object) -> None:
        self.on_add(new)

    def on_delete(self, found: Object) -> None:
        self._seen[objects.namespace(found)].current.pop(objects.uid(found), None)


class _ReplicaSets:
    def __init__(self, seen: dict[str, _Seen]) -> None:
        self._seen = seen

    def on_add(self, found: Object) -> None:
        seen, uid = self._seen[objects.namespace(found)], objects.uid(found)
        owner = objects.owner(found)
        if owner is not None:
            seen.owners[uid] = owner["uid"]
        else:
            seen.owners.pop(uid, None)
        seen.replicasets[uid] = found
        seen.sizes.append(seen.count_sizes())

    def on_update(self, _: Object, new: Object) -> None:
        self.on_add(new)

    def on_delete(self, found: Object) -> None:
        seen = self._seen[objects.namespace(found)]
        seen.replicasets.pop(objects.uid(found), None)
        seen.sizes.append(seen.count_sizes())


class _Pods:
    def __init__(self, seen: dict[str, _Seen]) -> None:
        self._seen = seen

    def on_add(self, found: Object) -> None:
        seen = self._seen[objects.namespace(found)]
        own = _replicaset(found)
        others = {_replicaset(each) for each in _unfinished(seen.pods.values())} - {own}
        seen.mixed.append((own, sorted(others)))
        self._put(seen, found)

    def on_update(self, _: Object, new: Object) -> None:
        self._put(self._seen[objects.namespace(new)], new)

    def on_delete(self, found: Object) -> None:
        seen = self._seen[objects.namespace(found)]
        seen.pods.pop(objects.uid(found), None)
        seen.available.append(seen.count_available())

    @staticmethod
    def _put(seen: _Seen, pod: Object) -> None:
        seen.pods[objects.uid(pod)] = pod
        seen.available.append(seen.count_available())


def _unfinished(pods: Iterable[Object]) -> list[Object]:
    return [pod for pod in pods if not objects.is_finished(pod)]
