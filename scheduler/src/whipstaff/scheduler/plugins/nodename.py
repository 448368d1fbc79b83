"""NodeName: a pod that names its node goes to no other.

Answers to `pkg/scheduler/framework/plugins/nodename/node_name.go`.
"""

from collections.abc import Hashable

import numpy as np

from whipstaff.scheduler import framework, pods, queueing_hints, snapshot
from whipstaff.scheduler.cluster_events import NODE, Action

REASON = "node(s) didn't match the requested node name"


class NodeName(framework.Plugin):
    """Rejects every node but the one in `spec.nodeName`, if there is one."""

    name = "NodeName"
    filter_reads = framework.Reads.NODE
    queueing_hints = (queueing_hints.on(NODE, Action.ADD),)

    def sign(self, pod: pods.PodInfo) -> Hashable:  # noqa: ARG002
        """Reads the node name, which the class key holds."""
        return ()

    def filter(
        self,
        state: framework.CycleState,  # noqa: ARG002
        pod: pods.PodInfo,
        cluster: snapshot.Snapshot,
        rows: framework.Rows,
    ) -> framework.Verdict | None:
        """Unresolvable: no eviction renames a node."""
        if not pod.node_name:
            return None
        wanted = cluster.row_of.get(pod.node_name, -1)
        return framework.reject(np.arange(len(cluster))[rows] != wanted, REASON)
