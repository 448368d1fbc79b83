"""Keeps pods from being placed where a plugin that isn't built yet might have said no.

No loop runs here. **This module is to be deleted**, feature by feature, as the plugins it stands in
for are built: InterPodAffinity, PodTopologySpread and DynamicResources. It runs before the others
in every profile. A pod that needs one of them stays pending with a reason that names what is
missing, and a pod that another pod's required anti-affinity keeps out of a zone or off a node stays
out. What is merely preferred (preferred affinity, ScheduleAnyway) is passed over: it only ever
moves scores.

Answers to no upstream file.
"""

from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np

from whipstaff.runtime import selectors
from whipstaff.scheduler import framework, pods, snapshot

REASON_ANTI_AFFINITY = "node(s) didn't satisfy existing pods anti-affinity rules"

_REQUIRED = "requiredDuringSchedulingIgnoredDuringExecution"


class Unsupported(framework.Plugin):
    """Rejects what needs plugins that aren't built yet."""

    name = "Unsupported"

    def pre_filter(
        self,
        state: framework.CycleState,  # noqa: ARG002
        pod: pods.PodInfo,
        cluster: snapshot.Snapshot,  # noqa: ARG002
    ) -> framework.Status | None:
        """No node at all for a pod that asks for what can't be decided yet."""
        needed = list(dict.fromkeys(features(pod)))
        if not needed:
            return None
        return framework.Status(
            framework.Code.UNSCHEDULABLE_AND_UNRESOLVABLE,
            (f"pod needs what this scheduler doesn't support yet: {', '.join(needed)}",),
        )

    def filter(
        self,
        state: framework.CycleState,  # noqa: ARG002
        pod: pods.PodInfo,
        cluster: snapshot.Snapshot,
        rows: framework.Rows,
    ) -> framework.Verdict | None:
        """Keeps the pod away from the pods that don't want it near."""
        holders = cluster.pods_with_required_anti_affinity()
        if not holders:
            return None
        forbidden = np.zeros(cluster.size_of(rows), np.bool_)
        for holder in holders:
            row = cluster.row_of.get(holder.node_name)
            if row is None:
                continue
            for term in holder.affinity["podAntiAffinity"][_REQUIRED]:
                codes = cluster.label_codes(term["topologyKey"])
                if codes is not None and codes[row] != 0 and _may_match(term, holder, pod):
                    forbidden |= codes[rows] == codes[row]
        return framework.reject(forbidden, REASON_ANTI_AFFINITY, framework.Code.UNSCHEDULABLE)


def features(pod: pods.PodInfo) -> Iterator[str]:
    """What the pod needs that no plugin decides yet."""
    spec = pod.raw["spec"]
    for kind, text in (("podAffinity", "affinity"), ("podAntiAffinity", "anti-affinity")):
        if (pod.affinity.get(kind) or {}).get(_REQUIRED):
            yield f"required pod {text} (InterPodAffinity)"
    for constraint in spec.get("topologySpreadConstraints") or ():
        if constraint.get("whenUnsatisfiable") != "ScheduleAnyway":
            yield "DoNotSchedule topology spread constraints (PodTopologySpread)"
    if spec.get("resourceClaims"):
        yield "resource claims (DynamicResources)"


def _may_match(term: Mapping[str, Any], holder: pods.PodInfo, pod: pods.PodInfo) -> bool:
    """Whether the term means the pod; a selector of namespaces is taken to select all of them."""
    namespaces = term.get("namespaces") or ()
    if term.get("namespaceSelector") is None:
        named = pod.namespace in (namespaces or (holder.namespace,))
    else:
        named = True
    return named and _selected(term.get("labelSelector"), pod.labels)


def _selected(selector: Mapping[str, Any] | None, labels: Mapping[str, str]) -> bool:
    """A selector that can't be read selects nothing, as for upstream, which drops such terms."""
    try:
        return selectors.label_selector(selector).matches(labels)
    except ValueError:
        return False
