"""SchedulingGates: a pod with scheduling gates isn't tried before the last one is taken away.

Answers to `pkg/scheduler/framework/plugins/schedulinggates/scheduling_gates.go`.
"""

from whipstaff.scheduler import framework, pods


class SchedulingGates(framework.Plugin):
    """Holds back pods with `spec.schedulingGates`."""

    name = "SchedulingGates"

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
