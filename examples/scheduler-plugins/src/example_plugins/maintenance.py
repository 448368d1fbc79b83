"""Maintenance: keeps pods off nodes that are about to be maintained, unless they are short."""

from whipstaff.scheduler import cluster_events, framework, pernode, pods, queueing_hints
from whipstaff.scheduler.cluster_events import Action


class Maintenance(pernode.NodePlugin):
    """Rejects nodes with the annotation `example.com/maintenance`."""

    name = "Maintenance"
    filter_reads = framework.Reads.NODE
    queueing_hints = (
        queueing_hints.on(cluster_events.NODE, Action.ADD | Action.UPDATE_NODE_ANNOTATION),
        queueing_hints.on(cluster_events.POD, Action.UPDATE_POD_LABEL, queueing_hints.of_itself),
    )

    def sign(self, pod: pods.PodInfo) -> bool:
        """All that is read of the pod: whether it is short."""
        return pod.labels.get("example.com/short") == "true"

    def filter_node(self, pod: pods.PodInfo, node: pernode.NodeView) -> framework.Status | None:
        """None where the pod may run; evicting others doesn't help where it may not."""
        when = node.annotations.get("example.com/maintenance")
        if when is None or self.sign(pod):
            return None
        return framework.Status(
            framework.Code.UNSCHEDULABLE_AND_UNRESOLVABLE,
            (f"node(s) were about to be maintained ({when})",),
        )
