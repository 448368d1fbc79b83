"""SchedulingGates: a pod with scheduling gates isn't tried before the last one is taken away.

Answers to `pkg/scheduler/framework/plugins/schedulinggates/scheduling_gates.go`.
"""

from whipstaff.scheduler import framework, pods, queueing_hints
from whipstaff.scheduler.cluster_events import POD, Action


class SchedulingGates(framework.Plugin):
    """Holds back pods with `spec.schedulingGates`."""

    name = "SchedulingGates"
    queueing_hints = (
        queueing_hints.on(
            POD, Action.UPDATE_POD_SCHEDULING_GATES_ELIMINATED, queueing_hints.of_itself
        ),
    )

    def pre_enqueue(self, pod: pods.PodInfo) -> framework.Status:
        """Success once no gate is left."""
        if not pod.scheduling_gates:
            return framework.SUCCESS
        gates = " ".join(pod.scheduling_gates)
        return framework.Status(
            framework.Code.UNSCHEDULABLE_AND_UNRESOLVABLE,
            (f"waiting for scheduling gates: [{gates}]",),
            self.name,
        )
