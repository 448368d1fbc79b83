"""Which old ReplicaSets are kept for going back to them, and which are deleted.

Pure. Answers to ``cleanupDeployment`` in upstream's ``pkg/controller/deployment/sync.go``.
"""

from __future__ import annotations

import functools
from collections.abc import Iterable, Mapping
from typing import Any, TypeAlias

from whipstaff.controllers.deployment import arithmetic, revisions
from whipstaff.runtime import objects

Object: TypeAlias = dict[str, Any]

UNLIMITED = 2**31 - 1


def superfluous(deployment: Mapping[str, Any], old: Iterable[Object]) -> list[Object]:
    """The ReplicaSets beyond `revisionHistoryLimit`, those of the lowest revisions.

    One that still has pods, or that its controller hasn't looked at, stays, and none is deleted
    in its stead.
    """
    limit = deployment["spec"].get("revisionHistoryLimit")
    if limit is None or limit == UNLIMITED:
        return []
    alive = [each for each in old if not objects.is_terminating(each)]
    ordered = sorted(alive, key=functools.cmp_to_key(_compare))
    return [each for each in ordered[: max(0, len(alive) - limit)] if _is_idle(each)]


def _is_idle(replicaset: Object) -> bool:
    seen = arithmetic.counted(replicaset, "observedGeneration")
    return (
        arithmetic.replicas(replicaset) == 0
        and arithmetic.counted(replicaset, "replicas") == 0
        and replicaset["metadata"].get("generation", 0) <= seen
    )


def _compare(one: Object, other: Object) -> int:
    """By revision where both can be read and differ, else by age."""
    left, right = revisions.revision(one), revisions.revision(other)
    if left is not None and right is not None and left != right:
        return -1 if left < right else 1
    return -1 if arithmetic.age_key(one) < arithmetic.age_key(other) else 1
