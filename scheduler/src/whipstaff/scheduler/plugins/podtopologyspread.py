"""PodTopologySpread: pods of one kind evenly over zones, nodes or whatever a node label names.

The filter keeps to DoNotSchedule constraints: a node is out if its domain would hold more than
`maxSkew` pods more than the domain that holds the fewest. The score follows ScheduleAnyway ones:
the fewer pods a node's domains hold, the better. A pod without constraints has the default ones,
which count what its Services and its owner select.

Answers to plugin.go, filtering.go and scoring.go in
`pkg/scheduler/framework/plugins/podtopologyspread`.
When a pod is tried without others (preemption) terminating pods don't count, as they never do;
upstream takes those away a second time there.
"""

import dataclasses
import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from whipstaff.scheduler import framework, pods, queueing_hints, snapshot
from whipstaff.scheduler.cluster_events import NODE, POD, Action
from whipstaff.scheduler.plugins import spreadconstraints as constraining

Object = dict[str, Any]

REASON = "node(s) didn't match pod topology spread constraints"
REASON_NO_LABEL = f"{REASON} (missing required label)"
SYSTEM_DEFAULTS: Sequence[Mapping[str, Any]] = (
    {
        "topologyKey": constraining.HOSTNAME,
        "whenUnsatisfiable": constraining.SCHEDULE_ANYWAY,
        "maxSkew": 3,
        "labelSelector": {},
    },
    {
        "topologyKey": constraining.ZONE,
        "whenUnsatisfiable": constraining.SCHEDULE_ANYWAY,
        "maxSkew": 5,
        "labelSelector": {},
    },
)

_TEXTS = ((REASON_NO_LABEL,), (REASON,))


@dataclasses.dataclass(slots=True)
class Filtering:
    """What pre_filter finds: the constraints and, of each, how pods are spread."""

    constraints: constraining.Constraints
    spreads: list[constraining.Spread]


@dataclasses.dataclass(slots=True)
class _Scoring:
    """What pre_score finds: each node's raw score, and which feasible ones aren't scored."""

    scores: framework.Int64s  # (nodes,)
    ignored: framework.Mask | None  # (feasible,)


class PodTopologySpread(framework.Plugin):
    """Filters by DoNotSchedule, scores by ScheduleAnyway.

    It is asked for every pod, for where every other pod is matters to it.
    """

    name = "PodTopologySpread"

    def __init__(
        self,
        defaults: Sequence[Mapping[str, Any]] = SYSTEM_DEFAULTS,
        *,
        system_defaulted: bool = True,
    ) -> None:
        """`defaults` are constraints for pods that have none.

        With `system_defaulted` a node counts that lacks the key of some of them.
        """
        self._defaults = tuple(
            {**constraint, "labelSelector": constraint.get("labelSelector") or {}}
            for constraint in defaults
        )
        self._system_defaulted = system_defaulted
        self._default_actions = frozenset(each["whenUnsatisfiable"] for each in self._defaults)
        self.queueing_hints = (
            queueing_hints.on(
                POD,
                Action.ADD | Action.DELETE | Action.UPDATE_POD_LABEL | Action.UPDATE_POD_TOLERATION,
                self._after_pod,
            ),
            queueing_hints.on(
                NODE,
                Action.ADD | Action.DELETE | Action.UPDATE_NODE_LABEL | Action.UPDATE_NODE_TAINT,
                self._after_node,
            ),
        )

    @classmethod
    def from_arguments(cls, arguments: Mapping[str, Any]) -> "PodTopologySpread":
        """Made of PodTopologySpreadArgs."""
        if arguments["defaultingType"] == "System":
            return cls()
        return cls(arguments["defaultConstraints"], system_defaulted=False)

    def _constraints(
        self, pod: pods.PodInfo, cluster: snapshot.Snapshot, action: str
    ) -> constraining.Constraints:
        """The pod's own, or the defaults where it has none at all."""
        own = constraining.of_pod(pod, action)
        if own is not None:
            return own
        if action not in self._default_actions:
            return ()
        selector = cluster.workloads.selector_of(pod)
        if selector.empty:
            return ()
        return constraining.of_defaults(self._defaults, pod.labels, action, selector)

    def pre_filter(
        self, state: framework.CycleState, pod: pods.PodInfo, cluster: snapshot.Snapshot
    ) -> framework.Status | None:
        """Counts the pods by domain; skips a pod without DoNotSchedule constraints."""
        constraints = self._constraints(pod, cluster, constraining.DO_NOT_SCHEDULE)
        if not constraints:
            return framework.SKIP
        state[self.name] = Filtering(constraints, constraining.spreads(constraints, pod, cluster))
        return None

    def filter(
        self,
        state: framework.CycleState,
        pod: pods.PodInfo,
        cluster: snapshot.Snapshot,
        rows: framework.Rows,
    ) -> framework.Verdict | None:
        """Unresolvable where a label is missing, for no eviction gives a node a label."""
        found: Filtering = state[self.name]
        codes = np.zeros(cluster.size_of(rows), np.int8)
        for constraint, spread in zip(found.constraints, found.spreads, strict=True):
            verdicts = np.where(
                is_full(constraint, spread, pod), np.int8(framework.Code.UNSCHEDULABLE), np.int8(0)
            )
            verdicts[0] = framework.Code.UNSCHEDULABLE_AND_UNRESOLVABLE
            np.copyto(codes, verdicts[spread.codes[rows]], where=codes == 0)
        if not np.count_nonzero(codes):
            return None
        missing = codes == framework.Code.UNSCHEDULABLE_AND_UNRESOLVABLE
        return framework.Verdict(codes, np.where(missing, 0, 1), _TEXTS)

    def add_pod(
        self,
        state: framework.CycleState,
        pod: pods.PodInfo,
        other: pods.PodInfo,
        cluster: snapshot.Snapshot,
    ) -> None:
        """Counts `other` on the node that it has come to."""
        _recount(state[self.name], pod, other, cluster, 1)

    def remove_pod(
        self,
        state: framework.CycleState,
        pod: pods.PodInfo,
        other: pods.PodInfo,
        cluster: snapshot.Snapshot,
    ) -> None:
        """No longer counts `other`, which has left its node."""
        _recount(state[self.name], pod, other, cluster, -1)

    def pre_score(
        self,
        state: framework.CycleState,
        pod: pods.PodInfo,
        cluster: snapshot.Snapshot,
        feasible: npt.NDArray[np.intp],
    ) -> framework.Status | None:
        """Scores all nodes at once; skips a pod without ScheduleAnyway constraints."""
        constraints = self._constraints(pod, cluster, constraining.SCHEDULE_ANYWAY)
        if not constraints:
            return framework.SKIP
        own = bool(pod.raw["spec"].get("topologySpreadConstraints"))
        strict = own or not self._system_defaulted
        spreads = constraining.spreads(constraints, pod, cluster, needs_all_keys=strict)
        ignored: framework.Mask | None = None
        if strict:
            ignored = np.zeros(len(feasible), np.bool_)
            for spread in spreads:
                ignored |= spread.codes[feasible] == 0
            ignored = ignored if np.count_nonzero(ignored) else None
        scored = feasible if ignored is None else feasible[~ignored]
        total = np.zeros(len(cluster))
        for constraint, spread in zip(constraints, spreads, strict=True):
            total += _costs(constraint, spread, pod, cluster, scored)
        state[f"{self.name}/score"] = _Scoring(_rounded(total), ignored)
        return None

    def score(
        self,
        state: framework.CycleState,
        pod: pods.PodInfo,  # noqa: ARG002
        cluster: snapshot.Snapshot,  # noqa: ARG002
        rows: framework.Rows,
    ) -> framework.Int64s:
        """How full the node's domains are: `normalize` turns it round."""
        found: _Scoring = state[f"{self.name}/score"]
        return found.scores[rows]

    def normalize(
        self,
        state: framework.CycleState,
        pod: pods.PodInfo,  # noqa: ARG002
        scores: framework.Int64s,
    ) -> framework.Int64s:
        """100 for the emptiest, or near it where all are about as full; 0 for nodes without a key.

        Source: `NormalizeScore`.
        """
        ignored = state[f"{self.name}/score"].ignored
        scored = scores if ignored is None else scores[~ignored]
        if not len(scored):
            return np.zeros_like(scores)
        lowest, highest = int(scored.min()), int(scored.max())
        if highest == 0:
            result = np.full_like(scores, framework.MAX_NODE_SCORE)
        else:
            result = framework.MAX_NODE_SCORE * (highest + lowest - scores) // highest
        if ignored is not None:
            result[ignored] = 0
        return result

    def _hinted(self, pod: Object) -> constraining.Constraints | None:
        """The constraints that may have rejected a raw pod; None for defaults.

        What those count can't be told here.
        """
        labels = pod["metadata"].get("labels") or {}
        raw = pod["spec"].get("topologySpreadConstraints")
        return constraining.of_raw(raw, labels, constraining.DO_NOT_SCHEDULE)

    def _after_pod(self, pod: Object, old: Object | None, new: Object | None) -> bool:
        """Whether the number of pods that a constraint counts changed.

        Source: `isSchedulableAfterPodChange`. For default constraints every pod of the namespace
        may count.
        """
        changed = [each for each in (old, new) if each is not None]
        if not all(_involved(each, pod) for each in changed):
            return False
        constraints = self._hinted(pod)
        if old is not None and new is not None:
            if _got_tolerations(pod, old, new) and (
                constraints is None or any(each.honors_taints for each in constraints)
            ):
                return True
            if _labels(old) == _labels(new):
                return False
        if constraints is None:
            return True
        counted = [
            tuple(each.selector.matches(_labels(one)) for each in constraints) for one in changed
        ]
        return counted[0] != counted[1] if len(counted) == 2 else any(counted[0])

    def _after_node(self, pod: Object, old: Object | None, new: Object | None) -> bool:
        """Whether a domain's nodes changed. Source: `isSchedulableAfterNodeChange`."""
        constraints = self._hinted(pod)
        if constraints is None:
            labels = pod["metadata"].get("labels") or {}
            constraints = (
                constraining.of_raw(self._defaults, labels, constraining.DO_NOT_SCHEDULE) or ()
            )
        before, after = ({} if node is None else _labels(node) for node in (old, new))
        had = old is not None and constraining.has_keys(constraints, before)
        has = new is not None and constraining.has_keys(constraints, after)
        if old is None or new is None or had != has:
            return had or has
        moved = any(before.get(each.key) != after.get(each.key) for each in constraints)
        return has and (moved or _taints(old) != _taints(new))


def is_full(
    constraint: constraining.Constraint, spread: constraining.Spread, pod: pods.PodInfo
) -> framework.Mask:
    """(domains,): where one pod more would be too many."""
    counts = spread.counts[spread.present]
    lowest = int(counts.min()) if len(counts) and len(counts) >= constraint.min_domains else 0
    itself = constraint.selector.matches(pod.labels)
    full: framework.Mask = spread.counts > constraint.max_skew + lowest - itself
    return full


def _recount(
    found: Filtering,
    pod: pods.PodInfo,
    other: pods.PodInfo,
    cluster: snapshot.Snapshot,
    change: int,
) -> None:
    """Adds `change` for a pod where it counts. Source: `updateWithPod`."""
    row = cluster.row_of.get(other.node_name)
    if row is None or other.namespace != pod.namespace or other.is_terminating:
        return
    if not all(spread.codes[row] for spread in found.spreads):
        return
    for constraint, spread in zip(found.constraints, found.spreads, strict=True):
        eligible = spread.eligible is None or spread.eligible[row]
        if eligible and constraint.question(pod.namespace).includes(other.kind, other.labels):
            spread.counts[spread.codes[row]] += change


def _costs(
    constraint: constraining.Constraint,
    spread: constraining.Spread,
    pod: pods.PodInfo,
    cluster: snapshot.Snapshot,
    scored: npt.NDArray[np.intp],
) -> npt.NDArray[np.float64]:
    """(nodes,): what a constraint adds to each node's score, nothing where it has no such label.

    Domains weigh the more, the more of them the feasible nodes `scored` are in. A host is counted
    node by node, whatever the constraint's policies. Source: `Score`, `initPreScoreState`.
    """
    if constraint.key == constraining.HOSTNAME:
        size = len(scored)
        counts: npt.NDArray[Any] = cluster.count_pods(constraint.question(pod.namespace))
    else:
        by_domain, in_use = spread.counts, spread.codes[scored]
        # For upstream a node without the label is in the domain of the empty text.
        empty = cluster.label_code(constraint.key, "")
        if empty > 0:
            by_domain, in_use = by_domain.copy(), np.where(in_use == empty, 0, in_use)
            by_domain[empty] += by_domain[0]
        size = int(np.count_nonzero(np.bincount(in_use)))
        counts = by_domain[spread.codes]
    costs = counts * math.log(size + 2) + (constraint.max_skew - 1)
    return np.where(spread.codes != 0, costs, 0.0)


def _rounded(numbers: npt.NDArray[np.float64]) -> framework.Int64s:
    """Halves away from zero, as Go's math.Round, of numbers that aren't negative."""
    whole = np.floor(numbers)
    return (whole + (numbers - whole >= 0.5)).astype(np.int64)


def _involved(other: Object, pod: Object) -> bool:
    """Whether `other` is the pod itself, or one of its namespace that has or may get a node."""
    if other["metadata"]["uid"] == pod["metadata"]["uid"]:
        return True
    placed = other["spec"].get("nodeName") or (other.get("status") or {}).get("nominatedNodeName")
    return bool(placed) and other["metadata"]["namespace"] == pod["metadata"]["namespace"]


def _got_tolerations(pod: Object, old: Object, new: Object) -> bool:
    return new["metadata"]["uid"] == pod["metadata"]["uid"] and (
        (old["spec"].get("tolerations") or []) != (new["spec"].get("tolerations") or [])
    )


def _labels(obj: Object) -> Mapping[str, str]:
    return obj["metadata"].get("labels") or {}


def _taints(node: Object) -> Sequence[Any]:
    return (node.get("spec") or {}).get("taints") or []
