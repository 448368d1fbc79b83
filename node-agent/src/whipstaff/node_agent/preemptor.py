"""Making room for a critical pod: others are ended, and the pod waits until they have.

Runs no loop and owns nothing. Answers to HandleAdmissionFailure and evictPodsToFreeRequests in
``pkg/kubelet/preemption/preemption.go``. Upstream ends the pods one after the other; here they end
at the same time.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Collection, Sequence

from whipstaff.node_agent import admission, metrics, pod_events, preemption, statuses
from whipstaff.runtime import logs, objects

Object = objects.Object

# As killPodNow: how long it waits for a pod to end, in grace periods, and at least in seconds.
_GRACES = 1.5
_LEAST_PATIENCE = 10.0
_LOOK_AGAIN = 0.05

_log = logs.get("node_agent.preemptor")


class Preemptor:
    """Makes room on a node.

    Args:
        events: for what pods' owners are told.
        end: ends a pod, by UID, with a verdict; its worker does that, some time.
        has_ended: whether nothing of a pod runs any more, by UID.
    """

    def __init__(
        self,
        events: pod_events.PodEvents,
        end: Callable[[str, statuses.Verdict], None],
        has_ended: Callable[[str], bool],
    ) -> None:
        self._events = events
        self._end = end
        self._has_ended = has_ended

    async def make_room(
        self,
        pod: Object,
        shortages: Sequence[admission.Shortage],
        candidates: Collection[preemption.Candidate],
    ) -> admission.Rejection | None:
        """End pods until there is room for a critical one; why that isn't possible.

        Args:
            pod: the critical pod.
            shortages: what the node hasn't enough of for it.
            candidates: the other pods of the node.
        """
        try:
            victims = preemption.choose(pod, shortages, candidates)
        except preemption.ImpossibleError as error:
            return admission.Rejection(
                "UnexpectedAdmissionError",
                "Unexpected error while attempting to recover from admission failure: "
                f"preemption: error finding a set of pods to preempt: {error}",
            )
        for victim in victims:
            _log.warning("preempting a pod", pod=objects.key(victim), critical=objects.key(pod))
            self._events.report(victim, "Warning", preemption.REASON, preemption.MESSAGE)
            metrics.preemptions.labels(shortages[0].resource).inc()
            self._end(objects.uid(victim), preemption.VERDICT)
        await asyncio.gather(*(self._wait_for(victim) for victim in victims))
        return None

    async def _wait_for(self, victim: Object) -> None:
        grace = victim["spec"].get("terminationGracePeriodSeconds", 30)
        uid = objects.uid(victim)
        try:
            async with asyncio.timeout(max(grace * _GRACES, _LEAST_PATIENCE)):
                while not self._has_ended(uid):  # noqa: ASYNC110 (happens rarely)
                    await asyncio.sleep(_LOOK_AGAIN)
        except TimeoutError:
            note = "Container runtime did not kill the pod within specified grace period."
            self._events.report(victim, "Warning", "ExceededGracePeriod", note)
