"""PodDisruptionBudgets: which evictions would break a promise that somebody made to their users.

No loop runs here. A budget says how many of the pods that it selects may still be taken away. When
several pods are to be evicted together they draw on the same budgets, in the order in which they
are named here.

Answers to `filterPodsWithPDBViolation` in
`pkg/scheduler/framework/plugins/defaultpreemption/default_preemption.go`.
"""

import dataclasses
from collections.abc import Iterable, Mapping, Sequence
from collections.abc import Set as AbstractSet
from typing import Any

from whipstaff.runtime import objects, selectors
from whipstaff.scheduler import pods


@dataclasses.dataclass(frozen=True, slots=True)
class Budget:
    """A PodDisruptionBudget, read."""

    namespace: str
    selector: selectors.Selector
    allowed: int
    disrupted: AbstractSet[str]
    """Names of pods whose eviction the API server has counted already."""

    @classmethod
    def from_object(cls, raw: Mapping[str, Any]) -> "Budget | None":
        """Reads a budget; None for one that selects nothing (or everything: the same)."""
        try:
            selector = selectors.label_selector(raw["spec"].get("selector"))
        except ValueError:
            return None
        if selector.nothing or selector.empty:
            return None
        status = raw.get("status") or {}
        return cls(
            objects.namespace(raw),
            selector,
            status.get("disruptionsAllowed") or 0,
            (status.get("disruptedPods") or {}).keys(),
        )

    def covers(self, pod: pods.PodInfo) -> bool:
        """Whether evicting the pod draws on the budget."""
        return (
            pod.namespace == self.namespace
            and self.selector.matches(pod.labels)
            and pod.name not in self.disrupted
        )


def read(raw: Iterable[Mapping[str, Any]]) -> list[Budget]:
    """The budgets that matter."""
    return [budget for each in raw if (budget := Budget.from_object(each)) is not None]


def split(
    victims: Sequence[pods.PodInfo], budgets: Sequence[Budget]
) -> tuple[list[pods.PodInfo], list[pods.PodInfo]]:
    """The victims whose eviction breaks a budget and those whose doesn't, in the order given."""
    left = [budget.allowed for budget in budgets]
    violating: list[pods.PodInfo] = []
    others: list[pods.PodInfo] = []
    for victim in victims:
        violates = False
        if victim.labels:
            for index, budget in enumerate(budgets):
                if budget.covers(victim):
                    left[index] -= 1
                    violates |= left[index] < 0
        (violating if violates else others).append(victim)
    return violating, others
