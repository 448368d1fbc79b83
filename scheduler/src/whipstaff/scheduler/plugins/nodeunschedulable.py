"""NodeUnschedulable: a cordoned node takes no pods but those that tolerate it.

Answers to `pkg/scheduler/framework/plugins/nodeunschedulable/node_unschedulable.go`.
"""

from collections.abc import Hashable, Iterable, Mapping
from typing import Any

from whipstaff.runtime import selectors
from whipstaff.scheduler import framework, pods, queueing_hints, snapshot
from whipstaff.scheduler.cluster_events import NODE, POD, Action

Object = dict[str, Any]

REASON = "node(s) were unschedulable"

_TAINT = {"key": "node.kubernetes.io/unschedulable", "effect": "NoSchedule"}


def _after_node(_: Object, old: Object | None, new: Object | None) -> bool:
    """Whether the node isn't cordoned, and was or wasn't there before."""
    if new is None or _is_cordoned(new):
        return False
    return old is None or _is_cordoned(old)


def _is_cordoned(node: Object) -> bool:
    return bool((node.get("spec") or {}).get("unschedulable"))


def _after_tolerations(pod: pods.PodInfo, _: Object | None, new: Object | None) -> bool:
    """Whether the waiting pod has come to tolerate cordoned nodes."""
    if not queueing_hints.of_itself(pod.raw, None, new) or new is None:
        return False
    return _tolerates(new["spec"].get("tolerations") or ())


def _tolerates(tolerations: Iterable[Mapping[str, Any]]) -> bool:
    return any(selectors.toleration_tolerates(toleration, _TAINT) for toleration in tolerations)


class NodeUnschedulable(framework.Plugin):
    """Rejects nodes with `spec.unschedulable`."""

    name = "NodeUnschedulable"
    filter_reads = framework.Reads.NODE
    queueing_hints = (
        queueing_hints.on(NODE, Action.ADD | Action.UPDATE_NODE_TAINT, _after_node),
        queueing_hints.on_info(POD, Action.UPDATE_POD_TOLERATION, _after_tolerations),
    )

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
        if _tolerates(pod.tolerations):
            return None
        return framework.reject(cluster.unschedulable[rows], REASON)
