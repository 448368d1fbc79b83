"""PodDisruptionBudgets while pods are evicted in thought: what they allow, and when again.

No loop runs here. In a cluster the disruption controller counts healthy pods and writes how many
may be missing; here an eviction draws on the budgets that cover the pod, and they have it back once
its successor has a node, which is taken to become ready there. A budget that no controller has seen
(a manifest's) is counted when it is read.

Answers to `pkg/registry/core/pod/storage/eviction.go` and to `pkg/controller/disruption`. Left out:
how many pods an owner means to have, where there are fewer; a manifest's percentage is of the pods
that are there.
"""

import dataclasses
import math
from collections.abc import Iterable, Mapping
from typing import Any

from whipstaff.runtime import objects, selectors
from whipstaff.scheduler import offline, pods

Object = dict[str, Any]

SEVERAL = "more than one PodDisruptionBudget covers it, which evictions don't support"
_READY = "Ready"


@dataclasses.dataclass(slots=True)
class _Budget:
    raw: Object
    key: str
    namespace: str
    selector: selectors.Selector
    allowed: int

    def covers(self, pod: pods.PodInfo) -> bool:
        return pod.namespace == self.namespace and self.selector.matches(pod.labels)


class Budgets:
    """The budgets of a cluster; what changes of them is put into it, for preemption to see."""

    def __init__(self, there: offline.Offline) -> None:
        self._there = there
        self._budgets: dict[str, _Budget] = {}
        for raw in list(there.budgets()):
            counted = dict(raw) if "disruptionsAllowed" in (raw.get("status") or {}) else None
            counted = counted or _count(raw, there.cluster.all_pods())
            try:
                selector = selectors.label_selector(raw["spec"].get("selector"))
            except ValueError:
                continue
            key = objects.key(raw)
            self._budgets[key] = _Budget(
                counted,
                key,
                objects.namespace(raw),
                selector,
                counted["status"]["disruptionsAllowed"],
            )
            there.put(counted)

    def blocking(self, pod: pods.PodInfo) -> tuple[str, ...]:
        """The budgets that don't allow the pod to go."""
        return tuple(
            budget.key
            for budget in self._budgets.values()
            if budget.covers(pod) and budget.allowed <= 0
        )

    def objection(self, pod: pods.PodInfo) -> str:
        """Why the API server would refuse to evict the pod; "" if it wouldn't."""
        if _is_free(pod.raw):
            return ""
        covering = [budget for budget in self._budgets.values() if budget.covers(pod)]
        if len(covering) > 1:
            return f"{SEVERAL}: {', '.join(budget.key for budget in covering)}"
        if not covering or covering[0].allowed > 0:
            return ""
        budget = covering[0]
        if not is_ready(pod.raw):
            if budget.raw["spec"].get("unhealthyPodEvictionPolicy") == "AlwaysAllow":
                return ""
            status = budget.raw.get("status") or {}
            desired = status.get("desiredHealthy") or 0
            if 0 < desired <= (status.get("currentHealthy") or 0):
                return ""
        return f"PodDisruptionBudget {budget.key} allows no more disruptions"

    def draw(self, pod: pods.PodInfo) -> tuple[str, ...]:
        """Counts the pod as gone; the budgets that it draws on."""
        if _is_free(pod.raw) or not is_ready(pod.raw):
            return ()
        charged = [budget for budget in self._budgets.values() if budget.covers(pod)]
        for budget in charged:
            self._set(budget, budget.allowed - 1)
        return tuple(budget.key for budget in charged)

    def give_back(self, keys: Iterable[str]) -> None:
        """Counts a pod as there again, of which these budgets were drawn on."""
        for key in keys:
            self._set(self._budgets[key], self._budgets[key].allowed + 1)

    def _set(self, budget: _Budget, allowed: int) -> None:
        budget.allowed = allowed
        status = {**budget.raw["status"], "disruptionsAllowed": max(allowed, 0)}
        budget.raw = {**budget.raw, "status": status}
        self._there.put(budget.raw)


def is_ready(raw: Mapping[str, Any]) -> bool:
    """Whether a pod is ready; one that no API server has seen is, as soon as it has a node."""
    status = raw.get("status") or {}
    condition = objects.condition(raw, _READY)
    if condition is None:
        return not status.get("conditions")
    return condition["status"] == "True"


def _is_free(raw: Mapping[str, Any]) -> bool:
    """Whether no budget is asked about the pod. Source: `canIgnorePDB`.

    A pod of a manifest has no status, or none to speak of, and is taken to run.
    """
    status = raw.get("status") or {}
    if objects.is_terminating(raw) or objects.is_finished(raw):
        return True
    return status.get("phase") == "Pending" and bool(status.get("conditions"))


def _count(raw: Mapping[str, Any], there: Iterable[pods.PodInfo]) -> Object:
    """The budget with the status that a controller would write."""
    spec = raw["spec"]
    try:
        selector = selectors.label_selector(spec.get("selector"))
    except ValueError:
        return {**raw, "status": {"disruptionsAllowed": 0}}
    namespace = objects.namespace(raw)
    covered = [pod for pod in there if pod.namespace == namespace and selector.matches(pod.labels)]
    healthy = sum(is_ready(pod.raw) and not pod.is_terminating for pod in covered)
    desired = 0
    if spec.get("maxUnavailable") is not None:
        desired = max(len(covered) - _share(spec["maxUnavailable"], len(covered)), 0)
    elif spec.get("minAvailable") is not None:
        desired = _share(spec["minAvailable"], len(covered))
    else:
        healthy = 0  # as upstream: a budget that promises nothing allows nothing
    status = {
        "currentHealthy": healthy,
        "desiredHealthy": desired,
        "expectedPods": len(covered),
        "disruptionsAllowed": max(healthy - desired, 0),
    }
    return {**raw, "status": status}


def _share(amount: Any, count: int) -> int:
    """A number, or a percentage of `count`, rounded up as upstream does."""
    if isinstance(amount, str):
        return math.ceil(count * int(amount.removesuffix("%")) / 100)
    return int(amount)
