"""TaintToleration: taints keep pods away that don't tolerate them, or make a node less welcome.

Answers to `pkg/scheduler/framework/plugins/tainttoleration/taint_toleration.go`. Left out, as in
1.36's defaults: tolerations that compare numbers (Gt and Lt, alpha).
"""

from collections.abc import Hashable, Iterable, Mapping
from typing import Any

import numpy as np
import numpy.typing as npt

from whipstaff.runtime import selectors
from whipstaff.scheduler import framework, interning, pods, queueing_hints, snapshot
from whipstaff.scheduler.cluster_events import NODE, POD, Action

Object = dict[str, Any]

REASON = "node(s) had untolerated taint(s)"


def _after_node(pod: pods.PodInfo, old: Object | None, new: Object | None) -> bool:
    """Whether a node came that the pod tolerates, or one has changed to be so."""
    if new is None or not _is_tolerated(new, pod):
        return False
    return old is None or not _is_tolerated(old, pod)


def _is_tolerated(node: Object, pod: pods.PodInfo) -> bool:
    taints = (node.get("spec") or {}).get("taints") or ()
    return selectors.untolerated_taint(taints, pod.tolerations) is None


class TaintToleration(framework.Plugin):
    """Filters by NoSchedule and NoExecute, scores by PreferNoSchedule."""

    name = "TaintToleration"
    filter_reads = framework.Reads.NODE
    score_reads = framework.Reads.NODE
    queueing_hints = (
        queueing_hints.on_info(NODE, Action.ADD | Action.UPDATE_NODE_TAINT, _after_node),
        queueing_hints.on(POD, Action.UPDATE_POD_TOLERATION, queueing_hints.of_itself),
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
        """Unresolvable: no eviction takes a taint away."""
        unwelcome = untolerated(pod, cluster, rows)
        return None if unwelcome is None else framework.reject(unwelcome, REASON)

    def score(
        self,
        state: framework.CycleState,  # noqa: ARG002
        pod: pods.PodInfo,
        cluster: snapshot.Snapshot,
        rows: framework.Rows,
    ) -> framework.Int64s:
        """How many PreferNoSchedule taints the pod doesn't tolerate: `normalize` turns it round."""
        if not cluster.taints:
            return np.zeros(cluster.size_of(rows), np.int64)
        tolerations = [
            toleration
            for toleration in pod.tolerations
            if toleration.get("effect") in (None, "", "PreferNoSchedule")
        ]
        table = cluster.taints.table(lambda taints: _intolerable(taints, tolerations), np.int64)
        counts: framework.Int64s = table[cluster.taint_codes(rows)]
        return counts

    def normalize(
        self,
        state: framework.CycleState,  # noqa: ARG002
        pod: pods.PodInfo,  # noqa: ARG002
        scores: npt.NDArray[np.int64],
    ) -> framework.Int64s:
        """The fewer, the better."""
        return framework.default_normalize(scores, reverse=True)


def untolerated(
    pod: pods.PodInfo, cluster: snapshot.Snapshot, rows: framework.Rows
) -> framework.Mask | None:
    """(rows,): which nodes have a NoSchedule or NoExecute taint that the pod doesn't tolerate.

    None if no node has a taint.
    """
    if not cluster.taints:
        return None

    def keeps_away(taints: Iterable[interning.Taint]) -> bool:
        objects = [taint._asdict() for taint in taints]
        return selectors.untolerated_taint(objects, pod.tolerations) is not None

    table = cluster.taints.table(keeps_away, np.bool_)
    unwelcome: framework.Mask = table[cluster.taint_codes(rows)]
    return unwelcome


def _intolerable(taints: Iterable[interning.Taint], tolerations: list[Mapping[str, Any]]) -> int:
    return sum(
        taint.effect == "PreferNoSchedule"
        and not any(
            selectors.toleration_tolerates(toleration, taint._asdict())
            for toleration in tolerations
        )
        for taint in taints
    )
