"""NodeAffinity: nodes that the pod's nodeSelector and node affinity ask for.

Answers to `pkg/scheduler/framework/plugins/nodeaffinity/node_affinity.go` and to
`k8s.io/component-helpers/scheduling/corev1/nodeaffinity`.
"""

import dataclasses
from collections.abc import Hashable, Iterable, Mapping, Sequence
from typing import Any

import numpy as np

from whipstaff.runtime import selectors
from whipstaff.scheduler import framework, pods, queueing_hints, snapshot
from whipstaff.scheduler.cluster_events import NODE, Action

Object = dict[str, Any]

REASON_POD = "node(s) didn't match Pod's node affinity/selector"
REASON_ENFORCED = "node(s) didn't match scheduler-enforced node affinity"
REASON_CONFLICT = "pod affinity terms conflict"

_REQUIRED = "requiredDuringSchedulingIgnoredDuringExecution"
_PREFERRED = "preferredDuringSchedulingIgnoredDuringExecution"
_NODE_NAME = "metadata.name"


@dataclasses.dataclass(frozen=True, slots=True)
class Required:
    """What a pod demands: all of `labels`, and one of the terms of `selector` if there is one."""

    labels: tuple[selectors.Requirement, ...]
    selector: selectors.NodeSelector | None


@dataclasses.dataclass(frozen=True, slots=True)
class _Preferred:
    """A term, and what a node gains by it."""

    weight: int
    term: selectors.NodeSelectorTerm


class NodeAffinity(framework.Plugin):
    """Filters by what is required, scores by what is preferred.

    `added` is the profile's `addedAffinity`, which every pod gets in addition to its own.
    """

    name = "NodeAffinity"
    filter_reads = framework.Reads.NODE
    score_reads = framework.Reads.NODE

    def __init__(self, added: Mapping[str, Any] | None = None) -> None:
        """Takes a v1.NodeAffinity. Raises `ValueError` where a term of it can't be read."""
        self._added: selectors.NodeSelector | None = None
        self._added_preferred: tuple[_Preferred, ...] = ()
        added = added or {}
        if added.get(_REQUIRED) is not None:
            self._added = selectors.node_selector(added[_REQUIRED])
            if self._added.errors:
                raise ValueError(f"addedAffinity.{_REQUIRED}: {'; '.join(self._added.errors)}")
        if added.get(_PREFERRED):
            self._added_preferred = _preferred(added[_PREFERRED])
        self.queueing_hints = (
            queueing_hints.on_info(NODE, Action.ADD | Action.UPDATE_NODE_LABEL, self._after_node),
        )

    @classmethod
    def from_arguments(cls, arguments: Mapping[str, Any]) -> "NodeAffinity":
        """Made of NodeAffinityArgs."""
        return cls(arguments.get("addedAffinity"))

    def sign(self, pod: pods.PodInfo) -> Hashable:  # noqa: ARG002
        """Reads nodeSelector and node affinity, which the class key holds."""
        return ()

    def pre_filter(
        self,
        state: framework.CycleState,
        pod: pods.PodInfo,
        cluster: snapshot.Snapshot,  # noqa: ARG002
    ) -> framework.Status | framework.NodeNames | None:
        """Reads the requirements; where every term names its nodes, no others are looked at."""
        required = pod.node_affinity.get(_REQUIRED)
        if required is None and self._added is None and pod.node_selector is None:
            return framework.SKIP
        state[self.name] = _read_required(pod)
        terms = (required or {}).get("nodeSelectorTerms") or ()
        if not terms:
            return None
        named: set[str] = set()
        for term in terms:
            names = _named_nodes(term)
            if names is None:
                return None
            named |= names
        if not named:
            return framework.Status(
                framework.Code.UNSCHEDULABLE_AND_UNRESOLVABLE, (REASON_CONFLICT,)
            )
        return framework.NodeNames(frozenset(named))

    def filter(
        self,
        state: framework.CycleState,
        pod: pods.PodInfo,
        cluster: snapshot.Snapshot,
        rows: framework.Rows,
    ) -> framework.Verdict | None:
        """Unresolvable: no eviction gives a node a label."""
        required = state.get(self.name) or _read_required(pod)
        matched = _meets(required, cluster, rows)
        if self._added is None:
            return framework.reject(~matched, REASON_POD)
        enforced = _any_term(self._added.terms, cluster, rows)
        verdict = framework.reject(~(matched & enforced), REASON_POD)
        if verdict is not None:
            verdict.reasons = np.where(enforced, 0, 1)
            verdict.texts = ((REASON_POD,), (REASON_ENFORCED,))
        return verdict

    def pre_score(
        self,
        state: framework.CycleState,
        pod: pods.PodInfo,
        cluster: snapshot.Snapshot,  # noqa: ARG002
        feasible: Any,  # noqa: ARG002
    ) -> framework.Status | None:
        """Reads the preferences; skips a pod that has none."""
        terms = pod.node_affinity.get(_PREFERRED)
        if terms is None and not self._added_preferred:
            return framework.SKIP
        state[f"{self.name}/score"] = (*self._added_preferred, *self._preferred_of(pod))
        return None

    def score(
        self,
        state: framework.CycleState,
        pod: pods.PodInfo,
        cluster: snapshot.Snapshot,
        rows: framework.Rows,
    ) -> framework.Int64s:
        """The sum of the weights of the terms that the node matches."""
        preferences: Sequence[_Preferred] | None = state.get(f"{self.name}/score")
        if preferences is None:
            preferences = (*self._added_preferred, *self._preferred_of(pod))
        total = np.zeros(cluster.size_of(rows), np.int64)
        for preference in preferences:
            total += preference.weight * _term(preference.term, cluster, rows)
        return total

    def normalize(
        self,
        state: framework.CycleState,  # noqa: ARG002
        pod: pods.PodInfo,  # noqa: ARG002
        scores: framework.Int64s,
    ) -> framework.Int64s:
        """The more, the better."""
        return framework.default_normalize(scores, reverse=False)

    def _after_node(self, pod: pods.PodInfo, old: Object | None, new: Object | None) -> bool:
        """Whether a node came that the pod asks for, or one has changed to be so.

        Source: `isSchedulableAfterNodeChange`, which doesn't look at whether it is `addedAffinity`
        that the node didn't match before.
        """
        if new is None:
            return False
        required = _read_required(pod)
        return self._takes(new, required) and not (old is not None and self._takes(old, required))

    def _takes(self, node: Object, required: Required) -> bool:
        labels = node["metadata"].get("labels") or {}
        fields = {_NODE_NAME: node["metadata"]["name"]}
        return (
            (self._added is None or self._added.matches(labels, fields))
            and all(requirement.matches(labels) for requirement in required.labels)
            and (required.selector is None or required.selector.matches(labels, fields))
        )

    def required(self, pod: pods.PodInfo) -> tuple[Required, selectors.NodeSelector | None]:
        """What the pod demands, and what the profile adds for every pod."""
        return _read_required(pod), self._added

    def _preferred_of(self, pod: pods.PodInfo) -> tuple[_Preferred, ...]:
        try:
            return _preferred(pod.node_affinity.get(_PREFERRED) or ())
        except ValueError as error:
            raise framework.PluginError(self.name, str(error)) from error


def matches(
    pod: pods.PodInfo, cluster: snapshot.Snapshot, rows: framework.Rows
) -> framework.Mask | None:
    """(rows,): which nodes the pod's own selector and required affinity ask for; None for all."""
    if not pod.node_selector and pod.node_affinity.get(_REQUIRED) is None:
        return None
    return _meets(_read_required(pod), cluster, rows)


def _meets(required: Required, cluster: snapshot.Snapshot, rows: framework.Rows) -> framework.Mask:
    matched = np.ones(cluster.size_of(rows), np.bool_)
    for requirement in required.labels:
        matched &= cluster.matches(requirement, rows)
    if required.selector is not None:
        matched &= _any_term(required.selector.terms, cluster, rows)
    return matched


def _read_required(pod: pods.PodInfo) -> Required:
    required = pod.node_affinity.get(_REQUIRED)
    return Required(
        selectors.from_labels(pod.node_selector).requirements,
        None if required is None else selectors.node_selector(required),
    )


def _preferred(terms: Iterable[Mapping[str, Any]]) -> tuple[_Preferred, ...]:
    """Terms without weight or content are passed over, and not even read, as upstream does."""
    return tuple(
        _Preferred(term["weight"], selectors.node_selector_term(term["preference"]))
        for term in terms
        if term.get("weight") and not _is_empty(term["preference"])
    )


def _is_empty(term: Mapping[str, Any]) -> bool:
    return not term.get("matchExpressions") and not term.get("matchFields")


def _named_nodes(term: Mapping[str, Any]) -> set[str] | None:
    """The names that a term allows; None if it says nothing about names."""
    named: set[str] | None = None
    for field in term.get("matchFields") or ():
        if field.get("key") == _NODE_NAME and field.get("operator") == "In":
            names = set(field.get("values") or ())
            named = names if named is None else named & names
    return named


def _any_term(
    terms: Sequence[selectors.NodeSelectorTerm], cluster: snapshot.Snapshot, rows: framework.Rows
) -> framework.Mask:
    matched = np.zeros(cluster.size_of(rows), np.bool_)
    for term in terms:
        matched |= _term(term, cluster, rows)
    return matched


def _term(
    term: selectors.NodeSelectorTerm, cluster: snapshot.Snapshot, rows: framework.Rows
) -> framework.Mask:
    """(rows,): where all of a term's requirements are met; nowhere if it has none."""
    if not term.expressions and not term.fields:
        return np.zeros(cluster.size_of(rows), np.bool_)
    matched = np.ones(cluster.size_of(rows), np.bool_)
    for expression in term.expressions:
        matched &= cluster.matches(expression, rows)
    for field in term.fields:
        matched &= _field(field, cluster, rows)
    return matched


def _field(
    field: selectors.Requirement, cluster: snapshot.Snapshot, rows: framework.Rows
) -> framework.Mask:
    """The name is the only field that a node has here; any other is empty."""
    wanted = field.values[0]
    if field.key == _NODE_NAME:
        equal: framework.Mask = np.arange(len(cluster))[rows] == cluster.row_of.get(wanted, -1)
    else:
        equal = np.full(cluster.size_of(rows), wanted == "")
    return equal if field.operator == "In" else ~equal
