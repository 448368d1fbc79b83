"""What is to be done so that a ReplicaSet has the pods that it asks for.

Runs no loop and owns nothing: `reconcile` goes from what is observed to what is to be done about
it. Answers to the deciding half of ``manageReplicas`` in upstream's
``pkg/controller/replicaset/replica_set.go`` and to ``GetPodFromTemplate`` in
``pkg/controller/controller_utils.go``. Leaves out the expectations, see `own_writes`.
"""

from __future__ import annotations

import copy
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, TypeAlias

from whipstaff.controllers.replicaset import ranking
from whipstaff.runtime import objects, selectors

Object: TypeAlias = dict[str, Any]

BURST = 500
"""Pods that are created or deleted in one go; the rest comes when these have been seen."""

_LONGEST_NAME = 253


@dataclass(frozen=True, slots=True)
class Observed:
    """A ReplicaSet and its pods.

    Attributes:
        replicaset: as it is.
        active: its pods that count as replicas, all of them claimed.
        related: the pods of all ReplicaSets of its Deployment, itself included; read only where
            pods have to be chosen.
        now: seconds since the epoch.
    """

    replicaset: Object
    active: Sequence[Object]
    related: Iterable[Object] = ()
    now: float = 0.0


@dataclass(frozen=True, slots=True)
class Actions:
    """What to do: create so many pods, or delete these."""

    create: int = 0
    delete: list[Object] = field(default_factory=list)


def reconcile(observed: Observed, burst: int = BURST) -> Actions:
    """What brings a ReplicaSet nearer to its number of replicas; nothing while it is deleted."""
    replicaset, active = observed.replicaset, observed.active
    if objects.is_terminating(replicaset):
        return Actions()
    surplus = len(active) - replicaset["spec"].get("replicas", 1)
    if surplus < 0:
        return Actions(create=min(-surplus, burst))
    if surplus > 0:
        count = min(surplus, burst)
        return Actions(delete=ranking.choose(active, observed.related, count, observed.now))
    return Actions()


def pod_of(replicaset: Object) -> Object:
    """A pod as the ReplicaSet's template wants it, to be created under a name of its own."""
    template = replicaset["spec"]["template"]
    wanted = template.get("metadata") or {}
    copied = {k: wanted[k] for k in ("labels", "annotations", "finalizers") if wanted.get(k)}
    name = objects.name(replicaset)
    prefix = f"{name}-" if len(name) < _LONGEST_NAME else name
    reference = objects.owner_reference(replicaset)
    metadata = {**copied, "generateName": prefix, "ownerReferences": [reference]}
    pod = {"apiVersion": "v1", "kind": "Pod", "metadata": metadata, "spec": template["spec"]}
    return copy.deepcopy(pod)


def terminating(
    replicaset: Object, pods: Iterable[Object], selector: selectors.Selector
) -> Iterator[Object]:
    """Of some pods those of the ReplicaSet that are to end and haven't yet."""
    for pod in pods:
        if (
            objects.is_terminating(pod)
            and not objects.is_finished(pod)
            and objects.is_owned_by(pod, replicaset)
            and selector.matches(objects.labels(pod))
        ):
            yield pod


def batches(count: int, first: int = 1) -> Iterator[int]:
    """The sizes in which to do something `count` times: twice as many each time it went well."""
    size = min(count, first)
    while size > 0:
        yield size
        count -= size
        size = min(2 * size, count)
