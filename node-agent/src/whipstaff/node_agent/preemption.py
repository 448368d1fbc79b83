"""Which pods make room for a critical one that the node hasn't enough of something for.

Pure. Fewest pods first, and among them those that ask for least; pods that were promised nothing
go before those that were promised something, and those before pods that were promised everything.
Answers to ``pkg/kubelet/preemption/preemption.go``.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from whipstaff.node_agent import admission, requirements, statuses
from whipstaff.runtime import objects

Object = objects.Object

REASON = "Preempting"
MESSAGE = "Preempted in order to admit critical pod"
VERDICT = statuses.Verdict(
    REASON,
    MESSAGE,
    disruption=True,
    explanation="Pod was preempted by Kubelet to accommodate a critical pod.",
)

_CLASSES = ("BestEffort", "Burstable", "Guaranteed")


class ImpossibleError(Exception):
    """Not even all pods together hold what is missing."""


@dataclass(frozen=True, slots=True)
class Candidate:
    """A pod that runs on the node, and what it holds there."""

    pod: Object
    requests: Mapping[str, int]

    def amount(self, resource: str) -> int:
        """What would be free without it; amounts as `requirements.requests` gives them."""
        return 1 if resource == "pods" else self.requests.get(resource, 0)


Missing = Mapping[str, int]


def choose(
    pod: Object, shortages: Iterable[admission.Shortage], candidates: Iterable[Candidate]
) -> list[Object]:
    """The pods that make room for a critical one.

    Args:
        pod: the critical pod.
        shortages: what the node hasn't enough of for it.
        candidates: the other pods of the node.

    Raises:
        ImpossibleError: there aren't enough of them.
    """
    missing = {shortage.resource: shortage.missing for shortage in shortages}
    by_class: dict[str, list[Candidate]] = {name: [] for name in _CLASSES}
    for candidate in candidates:
        if preemptable(pod, candidate.pod):
            by_class[_class(candidate.pod)].append(candidate)
    best_effort, burstable, guaranteed = (by_class[name] for name in _CLASSES)
    _check(_left(missing, [*best_effort, *burstable, *guaranteed]))
    # From the best class down: what is needed of it if all pods of the lesser ones went. Then what
    # is needed of a lesser one, given those of the better ones.
    first = _nearest(guaranteed, _left(missing, [*best_effort, *burstable]))
    second = _nearest(burstable, _left(missing, [*best_effort, *first]))
    third = _nearest(best_effort, _left(missing, [*second, *first]))
    return [candidate.pod for candidate in (*third, *second, *first)]


def preemptable(pod: Object, other: Object) -> bool:
    """Whether a pod may make another one go."""
    if admission.is_critical(pod) and not admission.is_critical(other):
        return True
    mine, theirs = pod["spec"].get("priority"), other["spec"].get("priority")
    return mine is not None and theirs is not None and mine > theirs


def _class(pod: Object) -> str:
    told = (pod.get("status") or {}).get("qosClass")
    return told or requirements.qos_class(pod["spec"])


def _nearest(candidates: Sequence[Candidate], missing: Missing) -> list[Candidate]:
    """Take the pod that covers most of what is missing, and the smallest of equals; and again."""
    left = list(candidates)
    taken = []
    while missing:
        if not left:
            _check(missing)
        best = min(left, key=lambda candidate: (_distance(candidate, missing), *_size(candidate)))
        left.remove(best)
        taken.append(best)
        missing = _left(missing, [best])
    return taken


def _distance(candidate: Candidate, missing: Missing) -> float:
    """How much of what is missing a pod leaves uncovered, each resource counting the same."""
    uncovered = (
        max(amount - candidate.amount(resource), 0) / amount for resource, amount in missing.items()
    )
    return float(sum(part**2 for part in uncovered))


def _size(candidate: Candidate) -> tuple[int, int]:
    return candidate.amount("memory"), candidate.amount("cpu")


def _left(missing: Missing, taken: Iterable[Candidate]) -> dict[str, int]:
    """What is still missing without some pods."""
    left = dict(missing)
    for candidate in taken:
        for resource in left:
            left[resource] -= candidate.amount(resource)
    return {resource: amount for resource, amount in left.items() if amount > 0}


def _check(missing: Missing) -> None:
    if missing:
        listed = "".join(
            f"(res: {resource}, q: {amount}), " for resource, amount in missing.items()
        )
        raise ImpossibleError(f"no set of running pods found to reclaim resources: [{listed}]")
