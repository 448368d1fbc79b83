"""How large the ReplicaSets of a Deployment may be and should become.

Pure. Counts are of `spec.replicas` unless they are said to be of the status; pods themselves are
never counted here. Answers to the arithmetic in upstream's ``pkg/controller/deployment/``:
``sync.go``, ``rolling.go`` and ``util/deployment_util.go``.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from fractions import Fraction
from typing import Any, TypeAlias

from whipstaff.controllers.deployment import revisions
from whipstaff.runtime import objects

Object: TypeAlias = dict[str, Any]
Sizes: TypeAlias = dict[str, int]
"""What ReplicaSets are to be scaled to, by name; in the order in which that is done."""

NO_DEADLINE = 2**31 - 1


def replicas(obj: Mapping[str, Any]) -> int:
    """How many pods a Deployment or ReplicaSet asks for."""
    return int(obj["spec"].get("replicas", 1))


def counted(replicaset: Mapping[str, Any], name: str) -> int:
    """A count of a ReplicaSet's status."""
    return int((replicaset.get("status") or {}).get(name) or 0)


def total(replicasets: Iterable[Mapping[str, Any]]) -> int:
    """How many pods ReplicaSets ask for together."""
    return sum(replicas(each) for each in replicasets)


def active(replicasets: Iterable[Object]) -> list[Object]:
    """The ReplicaSets that ask for pods."""
    return [each for each in replicasets if replicas(each) > 0]


def age_key(replicaset: Mapping[str, Any]) -> tuple[str, str]:
    """Orders from old to new."""
    return replicaset["metadata"].get("creationTimestamp") or "9999", objects.name(replicaset)


def is_rolling(deployment: Mapping[str, Any]) -> bool:
    """Whether the strategy is RollingUpdate."""
    return bool((deployment["spec"].get("strategy") or {}).get("type") == "RollingUpdate")


def fenceposts(deployment: Mapping[str, Any]) -> tuple[int, int]:
    """How many pods too many and too few a rolling update may have; never both 0.

    Raises:
        ValueError: a value is neither a number nor a percentage.
    """
    rolling = deployment["spec"]["strategy"].get("rollingUpdate") or {}
    wanted = replicas(deployment)
    surge = _scaled(rolling.get("maxSurge", 0), wanted, up=True)
    unavailable = _scaled(rolling.get("maxUnavailable", 0), wanted, up=False)
    return (surge, unavailable) if surge or unavailable else (0, 1)


def max_surge(deployment: Mapping[str, Any]) -> int:
    """How many pods more than it asks for a Deployment may have."""
    return fenceposts(deployment)[0] if is_rolling(deployment) else 0


def max_unavailable(deployment: Mapping[str, Any]) -> int:
    """How many pods fewer than it asks for a Deployment may have available."""
    wanted = replicas(deployment)
    return min(fenceposts(deployment)[1], wanted) if is_rolling(deployment) and wanted else 0


def new_size(deployment: Mapping[str, Any], every: Sequence[Object], new: Object) -> int:
    """What the newest ReplicaSet may be scaled to, given all others (`every` holds it too)."""
    wanted, has = replicas(deployment), replicas(new)
    if not is_rolling(deployment):
        return wanted
    room = wanted + max_surge(deployment) - total(every)
    return has if room <= 0 else has + min(room, wanted - has)


def old_sizes(deployment: Mapping[str, Any], old: Sequence[Object], new: Object) -> Sizes:
    """What the old ReplicaSets of a rolling update can be scaled down to now.

    First what isn't available anyway, then as many as may be missing; the oldest first. A
    ReplicaSet that was scaled down still reports the pods that are to go: they count for nothing.
    Upstream takes those of the newest for available, and does nothing while an old one has any.
    Nothing is done while a ReplicaSet hasn't looked at two of its sizes: scaled down and up again,
    it reports pods as available that it deletes. Upstream counts them.
    """
    if any(map(_is_far_behind, [*active(old), new])):
        return {}
    ordered = sorted(active(old), key=age_key)
    least = replicas(deployment) - max_unavailable(deployment)
    budget = total(ordered) + _staying(new) - least
    if budget <= 0 or not ordered:
        return {}
    sizes = {objects.name(each): replicas(each) for each in ordered}
    before = dict(sizes)
    for each in ordered:
        name = objects.name(each)
        step = min(budget, sizes[name] - _staying(each))
        sizes[name] -= step
        budget -= step
        if budget <= 0:
            break
    spare = sum(_staying(each) for each in [*ordered, new]) - least
    for name, size in sizes.items():
        if spare <= 0:
            break
        step = min(size, spare)
        sizes[name] -= step
        spare -= step
    return {name: size for name, size in sizes.items() if size != before[name]}


def _is_far_behind(replicaset: Object) -> bool:
    generation = int(replicaset["metadata"].get("generation") or 0)
    return generation > counted(replicaset, "observedGeneration") + 1


def _staying(replicaset: Object) -> int:
    """How many of the available pods a ReplicaSet keeps."""
    return min(replicas(replicaset), counted(replicaset, "availableReplicas"))


def proportional_sizes(deployment: Mapping[str, Any], every: Iterable[Object]) -> Sizes:
    """What all active ReplicaSets become when a Deployment is scaled within a rolling update."""
    wanted = replicas(deployment)
    to_add = (wanted + max_surge(deployment) if wanted > 0 else 0) - total(every)
    ordered = sorted(active(every), key=age_key, reverse=to_add > 0)
    ordered.sort(key=lambda each: -replicas(each))
    added, sizes = 0, {}
    for each in ordered:
        share = _share(deployment, each, to_add, added)
        sizes[objects.name(each)] = replicas(each) + share
        added += share
    if ordered and to_add:
        largest = objects.name(ordered[0])
        sizes[largest] = max(0, sizes[largest] + to_add - added)
    return sizes


def _share(deployment: Mapping[str, Any], replicaset: Object, to_add: int, added: int) -> int:
    if to_add in (0, added):
        return 0
    left = to_add - added
    fraction = _fraction(deployment, replicaset)
    return min(fraction, left) if to_add > 0 else max(fraction, left)


def _fraction(deployment: Mapping[str, Any], replicaset: Object) -> int:
    """By how much a ReplicaSet grows with its Deployment; halves are rounded away from zero."""
    has = replicas(replicaset)
    if replicas(deployment) == 0:
        return -has
    before = revisions.count(replicaset, revisions.MAXIMUM) or counted(deployment, "replicas")
    if not before:
        return 0
    exact = Fraction(has * (replicas(deployment) + max_surge(deployment)), before)
    return math.floor(exact + Fraction(1, 2)) - has


def is_saturated(deployment: Mapping[str, Any], new: Object | None) -> bool:
    """Whether the newest ReplicaSet has all pods that were asked for, and they are available."""
    wanted = replicas(deployment)
    return (
        new is not None
        and revisions.count(new, revisions.DESIRED) == wanted
        and replicas(new) == wanted
        and counted(new, "availableReplicas") == wanted
    )


def _scaled(value: int | str, of: int, *, up: bool) -> int:
    if isinstance(value, int):
        return value
    number = value.removesuffix("%")
    if number == value or not (number.isascii() and number.isdecimal()):
        raise ValueError(f"{value!r} is neither a number nor a percentage")
    part = Fraction(int(number) * of, 100)
    return math.ceil(part) if up else math.floor(part)
