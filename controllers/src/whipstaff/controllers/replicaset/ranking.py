"""Which pods go first when there are too many of them.

Runs no loop and owns nothing. The order spares what serves: pods that aren't placed, aren't running
or aren't ready go first, then those that the user says are cheap to lose, then those that share a
node with others of their kind, then the young ones.

Answers to ``ActivePodsWithRanks`` in upstream's ``pkg/controller/controller_utils.go`` and to
``getPodsToDelete`` in ``pkg/controller/replicaset/replica_set.go``. Leaves out the two feature
gates in it (PodDeletionCost, LogarithmicScaleDown), which are on here. Different: where all rules
call two pods equal, the one that came first in the list goes first; upstream's order is arbitrary.
"""

from __future__ import annotations

import collections
import math
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

from whipstaff.runtime import objects

Object: TypeAlias = dict[str, Any]

DELETION_COST = "controller.kubernetes.io/pod-deletion-cost"

_PHASES = {"Pending": 0, "Unknown": 1, "Running": 2}
_COST = re.compile(r"0|[1-9][0-9]{0,9}|-[0-9]{1,10}")


def choose(
    pods: Sequence[Object], related: Iterable[Object], count: int, now: float
) -> list[Object]:
    """The pods to delete: `count` of these active ones.

    Args:
        pods: what to choose from; when all are to go they keep their order.
        related: pods of the same application: a node with more of them is thinned out first. Only
            read when there is a choice.
        count: at most ``len(pods)``.
        now: seconds since the epoch.
    """
    if count >= len(pods):
        return list(pods)
    crowd = collections.Counter(node(pod) for pod in related if is_active(pod))
    ranked = sorted(_Ranked.of(pod, crowd[node(pod)], now) for pod in pods)
    return [entry.pod for entry in ranked[:count]]


def age_ratios(pods: Iterable[Object], chosen: Iterable[Object], now: float) -> list[float]:
    """For each chosen pod that is ready: its age by that of the youngest ready one of all."""
    ready = [created for pod in pods if is_ready(pod) and (created := _created(pod)) is not None]
    youngest = now - max(ready, default=now)
    if youngest <= 0:
        return []
    return [
        (now - created) / youngest
        for pod in chosen
        if is_ready(pod) and (created := _created(pod)) is not None
    ]


def is_active(pod: Object) -> bool:
    """Whether a pod counts as a replica: not finished, and nobody has asked for its end."""
    return not objects.is_finished(pod) and not objects.is_terminating(pod)


def is_ready(pod: Object) -> bool:
    """Whether a pod's Ready condition is True."""
    return objects.is_true(pod, "Ready")


def ready_since(pod: Object) -> float | None:
    """When a ready pod became so; None if it isn't ready, or nobody wrote down since when."""
    ready = objects.condition(pod, "Ready")
    if ready is None or ready["status"] != "True":
        return None
    since = ready.get("lastTransitionTime")
    return objects.parse_time(since) if since else None


def node(pod: Object) -> str:
    """The node that a pod is on; "" for none."""
    return (pod.get("spec") or {}).get("nodeName") or ""


def restarts(pod: Object) -> tuple[int, int]:
    """The most restarts of any one container, and of any one sidecar."""
    status = pod.get("status") or {}
    regular = (found.get("restartCount", 0) for found in status.get("containerStatuses") or ())
    initial = (pod.get("spec") or {}).get("initContainers") or ()
    sidecars = {found["name"] for found in initial if found.get("restartPolicy") == "Always"}
    beside = (
        found.get("restartCount", 0)
        for found in status.get("initContainerStatuses") or ()
        if found["name"] in sidecars
    )
    return max(regular, default=0), max(beside, default=0)


def deletion_cost(pod: Object) -> int:
    """What the user says that losing a pod costs; 0 if that isn't said, or not as a number."""
    text = objects.annotations(pod).get(DELETION_COST, "")
    if _COST.fullmatch(text) is None:
        return 0
    cost = int(text)
    return cost if -(2**31) <= cost < 2**31 else 0


@dataclass(frozen=True, slots=True, eq=False)
class _Ranked:
    """A pod with what it is compared by; the lesser one is deleted first.

    Times are None where the API has none: such pods go first. `magnitude` is the binary logarithm
    of an age, so that pods of about the same age are told apart by their uid, that is by chance.
    """

    pod: Object
    uid: str
    first: tuple[bool, int, bool, int, int]
    ready_since: float | None
    ready_magnitude: int
    restarts: tuple[int, int]
    created: float | None
    created_magnitude: int

    @classmethod
    def of(cls, pod: Object, crowd: int, now: float) -> _Ranked:
        ready, created = ready_since(pod), _created(pod)
        phase = _PHASES.get((pod.get("status") or {}).get("phase", ""), 0)
        most, beside = restarts(pod)
        return cls(
            pod=pod,
            uid=objects.uid(pod),
            first=(node(pod) != "", phase, is_ready(pod), deletion_cost(pod), -crowd),
            ready_since=ready,
            ready_magnitude=_magnitude(ready, now),
            restarts=(-most, -beside),
            created=created,
            created_magnitude=_magnitude(created, now),
        )

    def __lt__(self, other: _Ranked) -> bool:
        if self.first != other.first:
            return self.first < other.first
        if self.ready_since != other.ready_since:
            return self._is_younger(
                other,
                (self.ready_since, self.ready_magnitude),
                (other.ready_since, other.ready_magnitude),
            )
        if self.restarts != other.restarts:
            return self.restarts < other.restarts
        if self.created != other.created:
            return self._is_younger(
                other,
                (self.created, self.created_magnitude),
                (other.created, other.created_magnitude),
            )
        return False

    def _is_younger(
        self, other: _Ranked, mine: tuple[float | None, int], others: tuple[float | None, int]
    ) -> bool:
        if mine[0] is None or others[0] is None:
            return mine[0] is None
        return self.uid < other.uid if mine[1] == others[1] else mine[1] < others[1]


def _created(pod: Object) -> float | None:
    created = pod["metadata"].get("creationTimestamp")
    return objects.parse_time(created) if created else None


def _magnitude(moment: float | None, now: float) -> int:
    """The binary logarithm of the nanoseconds since a moment; -1 for what is yet to come."""
    if moment is None or moment >= now:
        return -1
    return int(math.log2((now - moment) * 1e9))
