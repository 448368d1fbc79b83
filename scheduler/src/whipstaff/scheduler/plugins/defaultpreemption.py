"""DefaultPreemption: makes room for a pod by evicting pods of a lower priority from one node.

It says which; the shell's `evictions` does it. While that goes on, the pod that room is made for is
kept out of the active queue.

Answers to `pkg/scheduler/framework/plugins/defaultpreemption/default_preemption.go` and to
`Evaluator.Preempt` in `pkg/scheduler/framework/preemption/preemption.go`. Feature gates are as 1.36
sets them: asynchronous preemption on; pod groups and workloads off. Extenders have their say in
`consultation`.
"""

import collections
import functools
import random
import time
from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any

from whipstaff.runtime import objects
from whipstaff.scheduler import (
    disruption,
    dry_runs,
    framework,
    pods,
    preemption,
    queueing_hints,
    reasons,
    snapshot,
)
from whipstaff.scheduler.cluster_events import POD, Action

if TYPE_CHECKING:
    from whipstaff.scheduler import diagnosis, trial

NOT_HELPFUL = "Preemption is not helpful for scheduling"
NEVER = "not eligible due to preemptionPolicy=Never."
TERMINATING = "not eligible due to a terminating pod on the nominated node."
WAITING = "waiting for the preemption for this pod to be finished"

DISRUPTION_TARGET = "DisruptionTarget"
PREEMPTION_BY_SCHEDULER = "PreemptionByScheduler"
"""The condition of a victim, and its reason."""

_UNRESOLVABLE = framework.Code.UNSCHEDULABLE_AND_UNRESOLVABLE

_parse_time = functools.lru_cache(1 << 16)(objects.parse_time)


def _never(_: object, __: object, ___: object) -> bool:
    """Whether a pod fits once those are gone that are evicted for it, the others are to say.

    The event is named for the queue alone, which asks `pre_enqueue` again then.
    """
    return False


class _Nowhere:
    """Where a plugin is that was told of no surroundings: a pod is as it was decided about."""

    def __init__(self) -> None:
        self.random = random.Random(0)

    def latest(self, key: str) -> Mapping[str, Any] | None:  # noqa: ARG002
        return None

    def budgets(self) -> Iterable[Mapping[str, Any]]:
        return ()

    def nominated_node(self, pod: pods.PodInfo) -> str:
        return pod.nominated_node_name

    def is_preempting(self, uid: str) -> bool:  # noqa: ARG002
        return False

    def time(self) -> float:
        return time.time()


class DefaultPreemption(framework.Plugin):
    """Evicts pods of a lower priority where that helps."""

    name = "DefaultPreemption"
    queueing_hints = (queueing_hints.on(POD, Action.DELETE, _never),)

    def __init__(
        self, min_candidate_nodes_percentage: int = 10, min_candidate_nodes_absolute: int = 100
    ) -> None:
        self._percentage = min_candidate_nodes_percentage
        self._absolute = min_candidate_nodes_absolute
        self._around: framework.Surroundings = _Nowhere()
        self._memory = dry_runs.Memory()

    @classmethod
    def from_arguments(cls, arguments: Mapping[str, Any]) -> "DefaultPreemption":
        """Made of DefaultPreemptionArgs."""
        return cls(arguments["minCandidateNodesPercentage"], arguments["minCandidateNodesAbsolute"])

    def settle(self, surroundings: framework.Surroundings) -> None:
        """Takes note of what is around."""
        self._around = surroundings

    def pre_enqueue(self, pod: pods.PodInfo) -> framework.Status:
        """Keeps out a pod for which pods are being evicted."""
        if self._around.is_preempting(pod.uid):
            return framework.Status(_UNRESOLVABLE, (WAITING,))
        return framework.SUCCESS

    def may_evict(self, victim: pods.PodInfo, preemptor: pods.PodInfo) -> bool:  # noqa: ARG002
        """Whether a pod of a lower priority may be evicted for another. To be overridden.

        Where it is, nodes are tried anew for each pod.
        """
        return True

    def post_filter(
        self,
        pod: pods.PodInfo,
        cluster: snapshot.Snapshot,
        statuses: "diagnosis.NodeStatuses",
        trying: "trial.Trial",
    ) -> framework.PostFiltered:
        """Success with the node and its victims; otherwise why there are none."""
        objection = self._objection(pod, cluster, statuses)
        if objection:
            return _no(objection)
        rows = statuses.rows_with(framework.Code.UNSCHEDULABLE, cluster)
        started = self._clock()
        found = self._dry_run(pod, cluster, rows, trying, started)
        if found.candidates:
            best = preemption.choose(found.candidates, started)
            choice = preemption.Choice(found.candidates, started)
            return framework.PostFiltered(framework.SUCCESS, best.node, best.victims, choice)
        if found.errors:
            texts = collections.Counter(map(str, found.errors))
            text = next(iter(texts)) if len(texts) == 1 else f"[{', '.join(texts)}]"
            status = framework.Status(framework.Code.ERROR, (f"preemption: {text}",))
            return framework.PostFiltered(status)
        counts = collections.Counter(found.reasons)
        if absent := len(cluster) - len(rows):
            counts[NOT_HELPFUL] += absent
        return _no(reasons.unavailable(len(cluster), counts), nominated="")

    def _objection(
        self, pod: pods.PodInfo, cluster: snapshot.Snapshot, statuses: "diagnosis.NodeStatuses"
    ) -> str:
        """Why the pod may not preempt, if it may not. Source: `PodEligibleToPreemptOthers`."""
        if pod.raw["spec"].get("preemptionPolicy") == "Never":
            return NEVER
        nominated = self._around.nominated_node(pod)
        if nominated not in cluster.row_of or statuses[nominated].code == _UNRESOLVABLE:
            return ""
        for other in cluster.pods_on(nominated):
            lower = other.priority < pod.priority and self.may_evict(other, pod)
            if lower and is_leaving(self._newest(other)):
                return TERMINATING
        return ""

    def _dry_run(
        self,
        pod: pods.PodInfo,
        cluster: snapshot.Snapshot,
        rows: list[int],
        trying: "trial.Trial",
        started: preemption.Started,
    ) -> preemption.Found:
        """Tries the nodes from a random one on, as many as the arguments ask for."""
        if not rows:
            return preemption.Found([], {}, [])
        start = self._around.random.randrange(len(rows))
        budgets = disruption.read(self._around.budgets())
        findings = None
        kind = trying.kind
        if kind is not None and type(self).may_evict is DefaultPreemption.may_evict:
            of = (kind, pod.priority)
            findings = self._memory.of(of, cluster, budgets)
        run = preemption.DryRun(
            trying,
            cluster,
            budgets,
            started,
            lambda victim: self.may_evict(victim, pod),
            findings,
            self._known_start,
        )
        return run.find([*rows[start:], *rows[:start]], self.candidates_wanted(len(rows)))

    def candidates_wanted(self, nodes: int) -> int:
        """How many nodes that would do are enough, of so many that might."""
        return min(max(nodes * self._percentage // 100, self._absolute), nodes)

    def _newest(self, pod: pods.PodInfo) -> Mapping[str, Any]:
        """The pod as it was last seen: its status changes more often than what is decided by."""
        latest = self._around.latest(pod.key)
        return latest if latest is not None and objects.uid(latest) == pod.uid else pod.raw

    def _clock(self) -> preemption.Started:
        """When pods started, as far as they have."""
        now = self._around.time()
        known: dict[str, float] = {}

        def started(pod: pods.PodInfo) -> float:
            when = known.get(pod.uid)
            if when is None:
                since = self._known_start(pod)
                when = known[pod.uid] = now if since is None else since
            return when

        return started

    def _known_start(self, pod: pods.PodInfo) -> float | None:
        """When a pod started; None if it hasn't."""
        text = (self._newest(pod).get("status") or {}).get("startTime")
        return _parse_time(text) if text else None


def is_leaving(raw: Mapping[str, Any]) -> bool:
    """Whether the pod is going because a scheduler evicted it."""
    if not objects.is_terminating(raw):
        return False
    condition = objects.condition(raw, DISRUPTION_TARGET)
    return (
        condition is not None
        and condition["status"] == "True"
        and condition.get("reason") == PREEMPTION_BY_SCHEDULER
    )


def _no(message: str, nominated: str | None = None) -> framework.PostFiltered:
    status = framework.Status(framework.Code.UNSCHEDULABLE, (f"preemption: {message}",))
    return framework.PostFiltered(status, nominated)
