"""NodeDeclaredFeatures: a pod that needs a feature goes to nodes that say they have it.

Answers to `pkg/scheduler/framework/plugins/nodedeclaredfeatures/nodedeclaredfeatures.go` and to the
features in `k8s.io/component-helpers/nodedeclaredfeatures/features` that are about placing a pod;
the others are about changing one.
"""

from collections.abc import Hashable, Mapping
from typing import Any

import numpy as np

from whipstaff.scheduler import cluster_events, framework, pods, queueing_hints, snapshot
from whipstaff.scheduler.cluster_events import Action

REASON = "node(s) didn't match Pod's required features"

RESTART_ALL_CONTAINERS = "RestartAllContainersOnContainerExits"
USER_NAMESPACES_HOST_NETWORK = "UserNamespacesHostNetworkSupport"

Object = dict[str, Any]


def required(spec: Mapping[str, Any]) -> frozenset[str]:
    """The features that a pod needs of its node."""
    features = set()
    if spec.get("hostNetwork") and spec.get("hostUsers") is False:
        features.add(USER_NAMESPACES_HOST_NETWORK)
    if any(
        rule.get("action") == "RestartAllContainers"
        for kind in ("containers", "initContainers")
        for container in spec.get(kind) or ()
        for rule in container.get("restartPolicyRules") or ()
    ):
        features.add(RESTART_ALL_CONTAINERS)
    return frozenset(features)


def _after_pod_changed(pod: Object, old: Object | None, new: Object | None) -> bool:
    """Whether the waiting pod now needs other features."""
    if old is None or new is None or new["metadata"]["uid"] != pod["metadata"]["uid"]:
        return False
    return required(old["spec"]) != required(new["spec"])


class NodeDeclaredFeatures(framework.Plugin):
    """Rejects nodes whose `status.declaredFeatures` lacks something that the pod needs."""

    name = "NodeDeclaredFeatures"
    filter_reads = framework.Reads.NODE
    queueing_hints = (
        queueing_hints.on(cluster_events.NODE, Action.ADD | Action.UPDATE_NODE_DECLARED_FEATURE),
        queueing_hints.on(cluster_events.POD, Action.UPDATE, _after_pod_changed),
    )

    def sign(self, pod: pods.PodInfo) -> Hashable:
        """Pods that need the same features look alike."""
        return required(pod.raw["spec"])

    def pre_filter(
        self,
        state: framework.CycleState,
        pod: pods.PodInfo,
        cluster: snapshot.Snapshot,  # noqa: ARG002
    ) -> framework.Status | None:
        """Skips a pod that needs none."""
        features = required(pod.raw["spec"])
        if not features:
            return framework.SKIP
        state[self.name] = features
        return None

    def filter(
        self,
        state: framework.CycleState,
        pod: pods.PodInfo,
        cluster: snapshot.Snapshot,
        rows: framework.Rows,
    ) -> framework.Verdict | None:
        """Unresolvable: no eviction gives a node a feature."""
        features = state.get(self.name)
        if features is None:
            features = required(pod.raw["spec"])
        indices = np.arange(len(cluster))[rows]
        lacking = np.fromiter(
            (not features <= _declared(cluster.node_at(row)) for row in indices.tolist()),
            np.bool_,
            len(indices),
        )
        return framework.reject(lacking, REASON)


def _declared(node: Object) -> frozenset[str]:
    return frozenset((node.get("status") or {}).get("declaredFeatures") or ())
