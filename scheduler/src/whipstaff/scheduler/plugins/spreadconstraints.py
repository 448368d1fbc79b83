"""Topology spread constraints as PodTopologySpread works with them: read, and applied to nodes.

No loop runs here: pure functions on raw constraints and the snapshot.

Answers to `pkg/scheduler/framework/plugins/podtopologyspread/common.go`.
"""

import dataclasses
import functools
from collections.abc import Mapping, Sequence
from typing import Any

import orjson

from whipstaff.runtime import selectors
from whipstaff.scheduler import framework, podcounts, pods, snapshot, topology
from whipstaff.scheduler.plugins import nodeaffinity, tainttoleration

DO_NOT_SCHEDULE, SCHEDULE_ANYWAY = "DoNotSchedule", "ScheduleAnyway"
HOSTNAME, ZONE = "kubernetes.io/hostname", "topology.kubernetes.io/zone"


@dataclasses.dataclass(frozen=True, slots=True)
class Constraint:
    """A TopologySpreadConstraint with its defaults filled in and its selector read."""

    max_skew: int
    key: str
    selector: selectors.Selector
    min_domains: int
    honors_affinity: bool
    honors_taints: bool

    def question(self, namespace: str) -> podcounts.Question:
        """The pods that it counts for a pod of that namespace: none for an empty selector."""
        selector = selectors.NOTHING if self.selector.empty else self.selector
        return podcounts.Question(
            (podcounts.Group(frozenset((namespace,)), selector),), living=True
        )


Constraints = tuple[Constraint, ...]


def of_pod(pod: pods.PodInfo, action: str) -> Constraints | None:
    """The pod's own constraints with that `whenUnsatisfiable`; None if it has none of either.

    Raises:
        ValueError: a selector can't be read.
    """
    return of_raw(pod.raw["spec"].get("topologySpreadConstraints"), pod.labels, action)


def of_raw(
    raw: Sequence[Mapping[str, Any]] | None, labels: Mapping[str, str], action: str
) -> Constraints | None:
    """The same of a raw list, for a pod with these labels."""
    if not raw:
        return None
    used = sorted({key for constraint in raw for key in constraint.get("matchLabelKeys") or ()})
    values = tuple((key, labels[key]) for key in used if key in labels)
    return _read(orjson.dumps(raw), values, action)


def of_defaults(
    raw: Sequence[Mapping[str, Any]],
    labels: Mapping[str, str],
    action: str,
    selector: selectors.Selector,
) -> Constraints:
    """Those of the default constraints with that `whenUnsatisfiable`, each with this selector."""
    return tuple(
        dataclasses.replace(constraint, selector=selector)
        for constraint in of_raw(raw, labels, action) or ()
    )


@functools.lru_cache(maxsize=4096)
def _read(dumped: bytes, values: tuple[tuple[str, str], ...], action: str) -> Constraints:
    labels = dict(values)
    return tuple(
        Constraint(
            raw["maxSkew"],
            raw["topologyKey"],
            _selector(raw, labels),
            1 if raw.get("minDomains") is None else raw["minDomains"],
            (raw.get("nodeAffinityPolicy") or "Honor") == "Honor",
            raw.get("nodeTaintsPolicy") == "Honor",
        )
        for raw in orjson.loads(dumped)
        if raw["whenUnsatisfiable"] == action
    )


def _selector(raw: Mapping[str, Any], labels: Mapping[str, str]) -> selectors.Selector:
    """The label selector and, where it selects anything at all, the values of matchLabelKeys."""
    selector = selectors.label_selector(raw.get("labelSelector"))
    if selector.nothing:
        return selector
    wanted = {key: labels[key] for key in raw.get("matchLabelKeys") or () if key in labels}
    requirements = (*selectors.from_labels(wanted).requirements, *selector.requirements)
    return selectors.Selector(tuple(dict.fromkeys(requirements)))


@dataclasses.dataclass(slots=True)
class Spread:
    """How the pods that a constraint counts are spread: (domains,) by code of its key.

    `eligible` are the nodes that count, None meaning all that have the key.
    """

    codes: topology.Domains  # (nodes,)
    counts: framework.Int64s  # (domains,): pods on eligible nodes
    present: framework.Mask  # (domains,): which have an eligible node
    eligible: framework.Mask | None  # (nodes,)


def spreads(
    constraints: Constraints,
    pod: pods.PodInfo,
    cluster: snapshot.Snapshot,
    *,
    needs_all_keys: bool = True,
) -> list[Spread]:
    """How the pods are spread, a `Spread` a constraint.

    A node counts where the constraint's policies let it and, with `needs_all_keys`, where it has
    the keys of all constraints.
    """
    codes = [topology.codes(constraint.key, cluster) for constraint in constraints]
    with_keys: framework.Mask | None = None
    if needs_all_keys:
        with_keys = _all_of([None if each.all() else each != 0 for each in codes])
    asked = any(constraint.honors_affinity for constraint in constraints)
    matching = nodeaffinity.matches(pod, cluster, framework.ALL_ROWS) if asked else None
    asked = any(constraint.honors_taints for constraint in constraints)
    unwelcome = tainttoleration.untolerated(pod, cluster, framework.ALL_ROWS) if asked else None
    made = []
    for constraint, each in zip(constraints, codes, strict=True):
        masks = [with_keys]
        if constraint.honors_affinity:
            masks.append(matching)
        if constraint.honors_taints and unwelcome is not None:
            masks.append(~unwelcome)
        eligible = _all_of(masks)
        counts = cluster.count_pods(constraint.question(pod.namespace))
        counted = counts if eligible is None else counts * eligible
        made.append(
            Spread(each, topology.sums(each, counted), topology.present(each, eligible), eligible)
        )
    return made


def _all_of(masks: list[framework.Mask | None]) -> framework.Mask | None:
    """(nodes,): where all masks hold that aren't None."""
    result: framework.Mask | None = None
    for mask in masks:
        if mask is not None:
            result = mask if result is None else result & mask
    return result


def has_keys(constraints: Constraints, labels: Mapping[str, str]) -> bool:
    """Whether a node with these labels has all the keys."""
    return all(constraint.key in labels for constraint in constraints)
