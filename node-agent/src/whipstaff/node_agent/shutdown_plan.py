"""What a shutdown of the machine means for its pods: who is ended when, and with how much time.

Pure. Pods are ended group after group, by priority, the least important ones first; each group has
some seconds, and a pod gets them unless its own grace period is shorter. Answers to podManager in
``pkg/kubelet/nodeshutdown/nodeshutdown_manager.go``.
"""

from __future__ import annotations

import bisect
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

from whipstaff.node_agent import admission, statuses
from whipstaff.runtime import objects

Object = objects.Object

REASON = "Terminated"
MESSAGE = "Pod was terminated in response to imminent node shutdown."
# What the node's Ready condition says meanwhile.
PROBLEM = "node is shutting down"
REJECTION = admission.Rejection("NodeShutdown", "Pod was rejected as the node is shutting down.")


@dataclass(frozen=True, slots=True)
class Period:
    """How many seconds the pods of a priority have, and of all priorities up to the next one."""

    priority: int
    seconds: int


@dataclass(frozen=True, slots=True)
class Policy:
    """How much time pods get when the machine is shut down; by default none, and nobody waits.

    Attributes:
        grace: seconds for all pods together.
        critical: how many of them are for critical pods, at the end.
        by_priority: the same said in full, in the place of the other two.
    """

    grace: float = 0.0
    critical: float = 0.0
    by_priority: tuple[Period, ...] = ()

    def __post_init__(self) -> None:
        """Refuse what contradicts itself.

        Raises:
            ValueError: names the fields of the configuration.
        """
        if self.critical > self.grace:
            raise ValueError(
                f"shutdownGracePeriodCriticalPods: {self.critical:g}s must not be more than "
                f"shutdownGracePeriod ({self.grace:g}s)"
            )
        if 0 < self.grace < 1 or 0 < self.critical < 1:
            raise ValueError("shutdownGracePeriod: must be zero or at least a second")
        if self.by_priority and self.grace:
            raise ValueError(
                "shutdownGracePeriodByPodPriority: can't be given together with shutdownGracePeriod"
            )

    @property
    def periods(self) -> tuple[Period, ...]:
        """The time of each group, the lowest priority first; empty where nobody waits."""
        if self.by_priority:
            return tuple(sorted(self.by_priority, key=lambda period: period.priority))
        if not self.grace:
            return ()
        return (
            Period(0, int(self.grace - self.critical)),
            Period(admission.SYSTEM_CRITICAL, int(self.critical)),
        )

    @property
    def seconds(self) -> int:
        """For how long a shutdown is to be held up at most."""
        return sum(period.seconds for period in self.periods)


@dataclass(frozen=True, slots=True)
class Group:
    """Pods that are ended together, and the seconds that they have."""

    period: Period
    pods: list[Object] = field(default_factory=list)


def groups(periods: Sequence[Period], pods: Iterable[Object]) -> list[Group]:
    """The pods by group, in the order in which they are ended; groups without pods left out.

    Args:
        periods: from `Policy.periods`; not empty.
        pods: whatever runs.
    """
    found = [Group(period) for period in periods]
    priorities = [period.priority for period in periods]
    for pod in pods:
        place = bisect.bisect_right(priorities, pod["spec"].get("priority") or 0) - 1
        found[max(place, 0)].pods.append(pod)
    return [group for group in found if group.pods]


def verdict(pod: Object, period: Period) -> statuses.Verdict:
    """What the end of a pod says."""
    own = pod["spec"].get("terminationGracePeriodSeconds", period.seconds)
    return statuses.Verdict(REASON, MESSAGE, disruption=True, grace=min(own, period.seconds))
