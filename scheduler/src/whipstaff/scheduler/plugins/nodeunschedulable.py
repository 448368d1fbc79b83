"""NodeUnschedulable: a cordoned node takes no pods but those that tolerate it.

Answers to `pkg/scheduler/framework/plugins/nodeunschedulable/node_unschedulable.go`.
"""

from collections.abc import Hashable

from whipstaff.runtime import selectors
from whipstaff.scheduler import framework, pods, snapshot

REASON = "node(s) were unschedulable"

_TAINT = {"key": "node.kubernetes.io/unschedulable", "effect": "NoSchedule"}


class NodeUnschedulable(framework.Plugin):
    """Rejects nodes with `spec.unschedulable`."""

    name = "NodeUnschedulable"
    filter_reads = framework.Reads.NODE

    def sign(self, pod: pods.PodInfo) -> Hashable:  # noqa: ARG002
        """Reads the tolerations, which the class key holds."""
        return ()

    def filter(
        self,
        state: framework.CycleState,  # noqa: ARG002
        pod: pods.PodInfo,
        cluster: snapshot.Snapshot,
        rows: framework.Rows,
    ) -> framework.Verdict | None:
        """Unresolvable: evicting pods doesn't uncordon a node."""
        tolerated = any(
            selectors.toleration_tolerates(toleration, _TAINT) for toleration in pod.tolerations
        )
        return None if tolerated else framework.reject(cluster.unschedulable[rows], REASON)
