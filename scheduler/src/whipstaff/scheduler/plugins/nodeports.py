"""NodePorts: two pods can't take the same port of a node.

Answers to `pkg/scheduler/framework/plugins/nodeports/node_ports.go` and to `HostPortInfo` in
`k8s.io/kube-scheduler/framework/types.go`.
"""

from collections.abc import Hashable
from typing import Any

import numpy as np

from whipstaff.scheduler import framework, pods, queueing_hints, snapshot
from whipstaff.scheduler.cluster_events import NODE, POD, Action

REASON = "node(s) didn't have free ports for the requested pod ports"

Object = dict[str, Any]

_ports_of = queueing_hints.remembering(lambda raw: pods.host_ports(raw["spec"]))


def _after_pod_deleted(pod: pods.PodInfo, old: Object | None, _: Object | None) -> bool:
    """Whether the pod that is gone held a port that this one wants."""
    if old is None or not queueing_hints.held_a_node(old):
        return False
    held = _ports_of(old)
    return any(conflict(wanted, one) for wanted in pod.host_ports for one in held)


class NodePorts(framework.Plugin):
    """Rejects nodes where a host port that the pod asks for is held."""

    name = "NodePorts"
    filter_reads = framework.Reads.PODS
    queueing_hints = (
        queueing_hints.on_info(POD, Action.DELETE, _after_pod_deleted),
        queueing_hints.on(NODE, Action.ADD),
    )

    def sign(self, pod: pods.PodInfo) -> Hashable:  # noqa: ARG002
        """Reads the host ports, which the class key holds."""
        return ()

    def pre_filter(
        self,
        state: framework.CycleState,  # noqa: ARG002
        pod: pods.PodInfo,
        cluster: snapshot.Snapshot,  # noqa: ARG002
    ) -> framework.Status | None:
        """Skips a pod without host ports."""
        return None if pod.host_ports else framework.SKIP

    def filter(
        self,
        state: framework.CycleState,  # noqa: ARG002
        pod: pods.PodInfo,
        cluster: snapshot.Snapshot,
        rows: framework.Rows,
    ) -> framework.Verdict | None:
        """Unschedulable: evicting whoever holds the port helps."""
        taken = np.zeros(cluster.size_of(rows), np.bool_)
        for held, counts in cluster.ports():
            if any(conflict(wanted, held) for wanted in pod.host_ports):
                taken |= counts[rows] > 0
        return framework.reject(taken, REASON, framework.Code.UNSCHEDULABLE)


def conflict(wanted: pods.HostPort, held: pods.HostPort) -> bool:
    """Whether both can't be had at once: 0.0.0.0 means every address."""
    return (
        wanted.port == held.port
        and wanted.protocol == held.protocol
        and (wanted.ip == held.ip or pods.WILDCARD_IP in (wanted.ip, held.ip))
    )
