"""InterPodAffinity: pods near other pods, or away from them, in the domain of a node label.

The filter keeps to required terms, in this order: the pod's affinity (all terms have to mean one
and the same pod), its anti-affinity, and the anti-affinity of the pods that are there. The score
adds up preferred terms, the pod's and those of the pods that are there, and what these require.

Answers to filtering.go and scoring.go in `pkg/scheduler/framework/plugins/interpodaffinity`. A
`namespaceSelector` of the pod's own terms means the namespaces that it selects; in 1.36.3 one that
selects by what a label isn't (NotIn, DoesNotExist) means all namespaces there.
"""

import dataclasses
from collections.abc import Mapping
from typing import Any

import numpy as np
import numpy.typing as npt

from whipstaff.scheduler import (
    affinityterms,
    framework,
    podcounts,
    pods,
    queueing_hints,
    snapshot,
    topology,
)
from whipstaff.scheduler.cluster_events import NODE, POD, Action

Object = dict[str, Any]

REASON_AFFINITY = "node(s) didn't match pod affinity rules"
REASON_ANTI_AFFINITY = "node(s) didn't match pod anti-affinity rules"
REASON_EXISTING = "node(s) didn't satisfy existing pods anti-affinity rules"

_TEXTS = ((REASON_AFFINITY,), (REASON_ANTI_AFFINITY,), (REASON_EXISTING,))


@dataclasses.dataclass(slots=True)
class Tally:
    """Pods counted by domain of one topology key."""

    codes: topology.Domains  # (nodes,)
    counts: framework.Int64s  # (domains,); 0 at code 0

    def add(self, pods_by_node: npt.NDArray[np.integer[Any]]) -> None:
        """Counts (nodes,) pods more."""
        self.counts += topology.sums(self.codes, pods_by_node)
        self.counts[0] = 0


Tallies = dict[str, Tally]
"""By topology key."""


@dataclasses.dataclass(slots=True)
class Filtering:
    """What pre_filter finds: the pod's terms, and the pods that matter by topology key."""

    attracts: podcounts.Question  # the pods that all terms of the pod's affinity mean
    repels: list[tuple[str, podcounts.Group]]  # topology key and pods, by term
    wanted: Tallies  # pods that the affinity means
    unwanted: Tallies  # pods that the anti-affinity means
    averse: Tallies  # pods whose anti-affinity means the pod


class InterPodAffinity(framework.Plugin):
    """Filters by what is required, scores by what is preferred.

    It is asked for every pod, for where every other pod is matters to it.
    """

    name = "InterPodAffinity"

    def __init__(
        self, hard_weight: int = 1, *, ignore_preferences_of_existing_pods: bool = False
    ) -> None:
        """`hard_weight`: what a pod's required affinity is worth to those that it means, 0 to 100.

        With `ignore_preferences_of_existing_pods` a pod without preferences isn't scored.
        """
        self._hard_weight = hard_weight
        self._ignores = ignore_preferences_of_existing_pods
        self.queueing_hints = (
            queueing_hints.on(
                POD, Action.ADD | Action.DELETE | Action.UPDATE_POD_LABEL, _after_pod
            ),
            queueing_hints.on(NODE, Action.ADD | Action.UPDATE_NODE_LABEL, _after_node),
        )

    @classmethod
    def from_arguments(cls, arguments: Mapping[str, Any]) -> "InterPodAffinity":
        """Made of InterPodAffinityArgs."""
        return cls(
            arguments["hardPodAffinityWeight"],
            ignore_preferences_of_existing_pods=arguments["ignorePreferredTermsOfExistingPods"],
        )

    def pre_filter(
        self, state: framework.CycleState, pod: pods.PodInfo, cluster: snapshot.Snapshot
    ) -> framework.Status | None:
        """Counts the pods by domain; skips a pod that no required term is about."""
        terms = pod.affinity_terms
        if terms.errors:
            return framework.Status(
                framework.Code.UNSCHEDULABLE_AND_UNRESOLVABLE,
                (f"parsing pod: {', '.join(terms.errors)}",),
            )
        averse: Tallies = {}
        for held, holders in cluster.terms_meaning(pod):
            if held.role is affinityterms.Role.REPELS:
                _tally(averse, held.term.key, cluster).add(holders)
        averse = {key: tally for key, tally in averse.items() if tally.counts.any()}
        if not averse and not terms.attracts and not terms.repels:
            return framework.SKIP
        found = Filtering(
            podcounts.Question(tuple(_group(term, cluster) for term in terms.attracts)),
            [(term.key, _group(term, cluster)) for term in terms.repels],
            {},
            {},
            averse,
        )
        for key in dict.fromkeys(term.key for term in terms.attracts):
            _tally(found.wanted, key, cluster).add(cluster.count_pods(found.attracts))
        for key, group in found.repels:
            counts = cluster.count_pods(podcounts.Question((group,)))
            _tally(found.unwanted, key, cluster).add(counts)
        state[self.name] = found
        return None

    def filter(
        self,
        state: framework.CycleState,
        pod: pods.PodInfo,
        cluster: snapshot.Snapshot,
        rows: framework.Rows,
    ) -> framework.Verdict | None:
        """Unresolvable where affinity isn't met, for no eviction brings a pod along."""
        found: Filtering = state[self.name]
        rejected = [
            unmet(found, pod, cluster, rows),
            _crowded(found.unwanted, cluster, rows),
            _crowded(found.averse, cluster, rows),
        ]
        codes = np.zeros(cluster.size_of(rows), np.int8)
        reasons = np.zeros(len(codes), np.int64)
        for index, where in reversed(list(enumerate(rejected))):
            code = framework.Code.UNSCHEDULABLE
            if index == 0:
                code = framework.Code.UNSCHEDULABLE_AND_UNRESOLVABLE
            codes[where] = code
            reasons[where] = index
        if not np.count_nonzero(codes):
            return None
        return framework.Verdict(codes, reasons, _TEXTS)

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
        feasible: npt.NDArray[np.intp],  # noqa: ARG002
    ) -> framework.Status | None:
        """Scores all nodes at once; skips a pod that no term is about.

        Source: `PreScore`, `processExistingPod`.
        """
        terms = pod.affinity_terms
        if self._ignores and not terms.has_preferences:
            return framework.SKIP
        weighed = [
            (term.key, weight, cluster.count_pods(podcounts.Question((_group(term, cluster),))))
            for term, weight in terms.prefers
        ]
        for held, holders in cluster.terms_meaning(pod):
            if held.role is affinityterms.Role.PREFERS:
                weighed.append((held.term.key, held.weight, holders))
            elif held.role is affinityterms.Role.ATTRACTS and self._hard_weight:
                weighed.append((held.term.key, self._hard_weight, holders))
        by_key: dict[str, Tally] = {}
        matters = False
        for key, weight, counts in weighed:
            tally = _tally(by_key, key, cluster)
            if np.count_nonzero(counts[tally.codes != 0]):
                matters = True
                tally.add(counts.astype(np.int64) * weight)
        if not matters:
            return framework.SKIP
        total = np.zeros(len(cluster), np.int64)
        for tally in by_key.values():
            total += tally.counts[tally.codes]
        state[f"{self.name}/score"] = total
        return None

    def score(
        self,
        state: framework.CycleState,
        pod: pods.PodInfo,  # noqa: ARG002
        cluster: snapshot.Snapshot,  # noqa: ARG002
        rows: framework.Rows,
    ) -> framework.Int64s:
        """The sum of the weights of the terms met in the node's domains; it may be negative."""
        total: framework.Int64s = state[f"{self.name}/score"]
        return total[rows]

    def normalize(
        self,
        state: framework.CycleState,  # noqa: ARG002
        pod: pods.PodInfo,  # noqa: ARG002
        scores: framework.Int64s,
    ) -> framework.Int64s:
        """From 0 for the lowest to 100 for the highest; 0 where all are equal."""
        lowest = int(scores.min(initial=2**62))
        spread = int(scores.max(initial=-(2**62))) - lowest
        if spread <= 0:
            return np.zeros_like(scores)
        return (framework.MAX_NODE_SCORE * ((scores - lowest) / spread)).astype(np.int64)


def _group(term: affinityterms.Term, cluster: snapshot.Snapshot) -> podcounts.Group:
    """The pods that a term of the pod's own means, its namespaces looked up."""
    chosen = term.namespace_selector
    if chosen.empty:
        return podcounts.Group(None, term.selector)
    if chosen.nothing:
        return podcounts.Group(term.namespaces, term.selector)
    names = term.namespaces | cluster.namespaces.selected(chosen)
    return podcounts.Group(names, term.selector)


def _tally(tallies: Tallies, key: str, cluster: snapshot.Snapshot) -> Tally:
    """The tally of a key, made if need be."""
    tally = tallies.get(key)
    if tally is None:
        codes = topology.codes(key, cluster)
        tally = tallies[key] = Tally(codes, np.zeros(topology.count(codes), np.int64))
    return tally


def unmet(
    found: Filtering, pod: pods.PodInfo, cluster: snapshot.Snapshot, rows: framework.Rows
) -> framework.Mask:
    """(rows,): where the pod's affinity keeps it out.

    The first of a series of pods that want to be near one another may go where the labels are.
    Source: `satisfyPodAffinity`.
    """
    unmet = np.zeros(cluster.size_of(rows), np.bool_)
    is_first = not any(tally.counts.any() for tally in found.wanted.values())
    is_first = is_first and found.attracts.includes(pod.kind, pod.labels)
    for tally in found.wanted.values():
        lacking = tally.counts <= 0
        if is_first:
            lacking = np.arange(len(tally.counts)) == 0
        unmet |= lacking[tally.codes[rows]]
    return unmet


def _crowded(tallies: Tallies, cluster: snapshot.Snapshot, rows: framework.Rows) -> framework.Mask:
    """(rows,): where a pod that is counted keeps the pod out."""
    crowded = np.zeros(cluster.size_of(rows), np.bool_)
    for tally in tallies.values():
        crowded |= (tally.counts > 0)[tally.codes[rows]]
    return crowded


def _recount(
    found: Filtering,
    pod: pods.PodInfo,
    other: pods.PodInfo,
    cluster: snapshot.Snapshot,
    change: int,
) -> None:
    """Adds `change` for a pod wherever it counts. Source: `updateWithPod`."""
    row = cluster.row_of.get(other.node_name)
    if row is None:
        return

    def count(tally: Tally) -> None:
        if tally.codes[row]:
            tally.counts[tally.codes[row]] += change

    labels = cluster.namespaces.labels(pod.namespace)
    for term in other.affinity_terms.repels:
        if term.means(pod.namespace, pod.labels, labels):
            count(_tally(found.averse, term.key, cluster))
    if found.wanted and found.attracts.includes(other.kind, other.labels):
        for tally in found.wanted.values():
            count(tally)
    for key, group in found.repels:
        if group.includes(other.namespace, other.labels):
            count(found.unwanted[key])


def _terms(pod: Object) -> affinityterms.Terms:
    affinity = pod["spec"].get("affinity") or {}
    return affinityterms.read(affinity, pod["metadata"].get("namespace") or "")


def _may_mean(term: affinityterms.Term, pod: Object) -> bool:
    return term.may_mean(pod["metadata"].get("namespace") or "", _labels(pod))


def _may_attract(terms: affinityterms.Terms, pod: Object) -> bool:
    return bool(terms.attracts) and all(_may_mean(term, pod) for term in terms.attracts)


def _after_pod(pod: Object, old: Object | None, new: Object | None) -> bool:
    """Whether a pod that matters came, went or changed its labels.

    Source: `isSchedulableAfterPodChange`. A `namespaceSelector` is taken to select every namespace,
    and of several anti-affinity terms one is enough, where upstream may let the pod wait on.
    """
    if old is not None and new is not None and queueing_hints.of_itself(pod, old, new):
        return True
    if not all(queueing_hints.held_a_node(each) for each in (old, new) if each is not None):
        return False
    terms = _terms(pod)
    if (
        new is not None
        and _may_attract(terms, new)
        and (old is None or not _may_attract(terms, old))
    ):
        return True
    if old is None:
        return False
    if any(
        _may_mean(term, old) and not (new is not None and _may_mean(term, new))
        for term in terms.repels
    ):
        return True
    return new is None and any(_may_mean(term, pod) for term in _terms(old).repels)


def _after_node(pod: Object, old: Object | None, new: Object | None) -> bool:
    """Whether a node came into a domain, or changed domains, that a term is about.

    Source: `isSchedulableAfterNodeChange`. A pod without required terms is kept out by those of
    others, whose keys aren't known here.
    """
    terms = _terms(pod)
    if new is None:
        return False
    after = _labels(new)
    if not terms.attracts and not terms.repels:
        return True
    if old is None:
        return bool(terms.repels) or any(term.key in after for term in terms.attracts)
    before = _labels(old)
    came = any(term.key in after and _moved(term, before, after) for term in terms.attracts)
    return came or any(term.key in before and _moved(term, before, after) for term in terms.repels)


def _moved(term: affinityterms.Term, before: Mapping[str, str], after: Mapping[str, str]) -> bool:
    return before.get(term.key) != after.get(term.key)


def _labels(obj: Object) -> Mapping[str, str]:
    return obj["metadata"].get("labels") or {}
