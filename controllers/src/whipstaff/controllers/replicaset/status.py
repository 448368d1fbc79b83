"""What a ReplicaSet says of its pods: the counts and the one condition of its status.

Runs no loop and owns nothing. Answers to ``calculateStatus`` and the condition helpers in
upstream's ``pkg/controller/replicaset/replica_set_utils.go``, and to ``IsPodAvailable`` and
``FindMinNextPodAvailabilityCheck``. Leaves out the gate of ``terminatingReplicas``, which is on.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any, Literal, TypeAlias

from whipstaff.controllers.replicaset import ranking
from whipstaff.runtime import objects, selectors

Object: TypeAlias = dict[str, Any]

FAILURE: Literal["ReplicaFailure"] = "ReplicaFailure"

_COUNTS = ("replicas", "fullyLabeledReplicas", "readyReplicas", "availableReplicas")


def calculate(
    replicaset: Object, active: Sequence[Object], terminating: int, failure: str, now: float
) -> Object:
    """The status of a ReplicaSet, whole, as it is to be written.

    Args:
        replicaset: with the status that it has now.
        active: its pods that count as replicas.
        terminating: how many of its pods are on their way out.
        failure: what went wrong when pods were created or deleted; empty if nothing did.
        now: seconds since the epoch.
    """
    spec, old = replicaset["spec"], replicaset.get("status") or {}
    complete = selectors.from_labels((spec["template"].get("metadata") or {}).get("labels"))
    at_least = spec.get("minReadySeconds", 0)
    status = {
        **old,
        "replicas": len(active),
        "fullyLabeledReplicas": sum(complete.matches(objects.labels(pod)) for pod in active),
        "readyReplicas": sum(ranking.is_ready(pod) for pod in active),
        "availableReplicas": sum(is_available(pod, at_least, now) for pod in active),
        "terminatingReplicas": terminating,
        "observedGeneration": replicaset["metadata"].get("generation", 0),
    }
    conditions = _conditions(replicaset, len(active), failure, now)
    status.pop("conditions", None)
    return {**status, "conditions": conditions} if conditions else status


def differs(replicaset: Object, new: Object) -> bool:
    """Whether a ReplicaSet has another status than this."""
    old = replicaset.get("status") or {}
    return (
        any(old.get(count, 0) != new[count] for count in _COUNTS)
        or old.get("terminatingReplicas") != new["terminatingReplicas"]
        or old.get("observedGeneration", 0) != new["observedGeneration"]
        or (old.get("conditions") or []) != new.get("conditions", [])
    )


def is_available(pod: Object, min_ready_seconds: int, now: float) -> bool:
    """Whether a pod has been ready for long enough to be counted on."""
    if not min_ready_seconds:
        return ranking.is_ready(pod)
    since = ranking.ready_since(pod)
    return since is not None and since + min_ready_seconds <= now


def next_check(pods: Iterable[Object], min_ready_seconds: int, now: float) -> float | None:
    """Seconds until the next of these pods becomes available by time alone; None if none will."""
    if min_ready_seconds <= 0:
        return None
    waits = [
        since + min_ready_seconds - now
        for pod in pods
        if (since := ranking.ready_since(pod)) is not None and since + min_ready_seconds > now
    ]
    return min(waits, default=None)


def _conditions(replicaset: Object, active: int, failure: str, now: float) -> list[Any]:
    """The conditions: ReplicaFailure comes with the first failure and stays until there is none.

    As upstream, it isn't touched while it is there, so its message is that of the first failure.
    """
    conditions = list((replicaset.get("status") or {}).get("conditions") or ())
    known = objects.condition(replicaset, FAILURE) is not None
    if known and not failure:
        return [condition for condition in conditions if condition["type"] != FAILURE]
    if known or not failure:
        return conditions
    wanted = replicaset["spec"].get("replicas", 1)
    reason = "FailedCreate" if active < wanted else "FailedDelete" if active > wanted else ""
    new: objects.Condition = {"type": FAILURE, "status": "True", "message": failure}
    if reason:
        new["reason"] = reason
    return objects.with_condition(conditions, new, now)
