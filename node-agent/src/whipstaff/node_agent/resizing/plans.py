"""What a resize takes: which containers are updated, which restarted, and in which order.

Pure. Every comparison is in whole numbers (millicores, bytes), so that ``1`` and ``1000m`` are the
same. Memory and CPU are changed one after the other; of each, the pod's group grows first and
shrinks last, and containers that shrink go before those that grow. Answers to
computePodResizeAction, doPodResizeAction and validateMemoryResizeAction in
``pkg/kubelet/kuberuntime/kuberuntime_manager.go``.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from fractions import Fraction
from typing import Any, Literal

from whipstaff.node_agent import containers, provider, requirements
from whipstaff.node_agent.cgroups import numbers as cgroup_numbers
from whipstaff.node_agent.resizing import allocations
from whipstaff.runtime import objects, quantities

Object = objects.Object
Resource = Literal["memory", "cpu"]

RESOURCES: tuple[Resource, ...] = ("memory", "cpu")


@dataclass(frozen=True, slots=True)
class Amounts:
    """What can be resized: millicores and bytes, 0 for none."""

    cpu_request: int = 0
    cpu_limit: int = 0
    memory_request: int = 0
    memory_limit: int = 0

    def of(self, resource: Resource) -> tuple[int, int]:
        """Request and limit."""
        if resource == "cpu":
            return self.cpu_request, self.cpu_limit
        return self.memory_request, self.memory_limit


def amounts(
    resources: Mapping[str, Any] | None, pod_level: Mapping[str, Any] | None = None
) -> Amounts:
    """The amounts of a container or a pod; the pod's limits stand in for those that it lacks."""
    resources = resources or {}
    asked = requirements.amounts(resources.get("requests"))
    limited = requirements.amounts(resources.get("limits"))
    above = requirements.amounts((pod_level or {}).get("limits"))
    return Amounts(
        asked.get("cpu", 0),
        limited.get("cpu", 0) or above.get("cpu", 0),
        asked.get("memory", 0),
        limited.get("memory", 0) or above.get("memory", 0),
    )


def resources_of(found: Amounts) -> Object:
    """Amounts as the API writes them, without those that are none."""
    return {
        kind: listed
        for kind, listed in (
            ("limits", _listed(found.cpu_limit, found.memory_limit)),
            ("requests", _listed(found.cpu_request, found.memory_request)),
        )
        if listed
    }


def _listed(cpu: int, memory: int) -> dict[str, str]:
    listed = {}
    if cpu:
        listed["cpu"] = quantities.format_quantity(Fraction(cpu, 1000))
    if memory:
        listed["memory"] = quantities.format_quantity(memory, "BinarySI")
    return listed


@dataclass(frozen=True, slots=True)
class Update:
    """A running container that gets other amounts."""

    run: provider.RuntimeContainer
    definition: Object
    current: Amounts
    desired: Amounts

    def definition_for(self, resource: Resource) -> Object:
        """The container with this resource as desired and the other as it is.

        `memory` is changed first: what was changed already isn't to be taken back.
        """
        cpu = self.desired if resource == "cpu" else self.current
        memory = self.desired
        own = self.definition.get("resources") or {}
        cpu_request = f"{cpu.cpu_request}m"
        requests = {"cpu": cpu_request, "memory": str(memory.memory_request)}
        limits = {"cpu": f"{cpu.cpu_limit}m", "memory": str(memory.memory_limit)}
        changed = {
            "requests": {**(own.get("requests") or {}), **requests},
            "limits": {**(own.get("limits") or {}), **limits},
        }
        return {**self.definition, "resources": {**own, **changed}}

    def after(self, resource: Resource) -> Amounts:
        """What the container has once this resource was changed."""
        return Amounts(
            self.desired.cpu_request if resource == "cpu" else self.current.cpu_request,
            self.desired.cpu_limit if resource == "cpu" else self.current.cpu_limit,
            self.desired.memory_request,
            self.desired.memory_limit,
        )


@dataclass(frozen=True, slots=True)
class Plan:
    """What is to be done for a pod to have what it was allocated.

    Attributes:
        restarts: containers whose resize policy wants them to be started anew.
        memory, cpu: containers to be updated, in order.
        pod_level: whether the pod's own resources are others than before.
        group: whether the pod's group may not be what it should be, whatever runs in it.
    """

    restarts: frozenset[str] = frozenset()
    memory: tuple[Update, ...] = ()
    cpu: tuple[Update, ...] = ()
    pod_level: bool = False
    group: bool = False

    def __bool__(self) -> bool:
        return bool(self.restarts or self.memory or self.cpu or self.pod_level or self.group)

    def updates(self, resource: Resource) -> tuple[Update, ...]:
        """The containers to be updated in a resource."""
        return self.memory if resource == "memory" else self.cpu

    def touches(self, resource: Resource) -> bool:
        """Whether the pod's group must be looked at for a resource."""
        return bool(self.updates(resource) or self.restarts or self.pod_level or self.group)


def plan(
    pod: Object,
    runtime: provider.RuntimePod,
    actuated: allocations.Resources | None,
    *,
    group: bool = False,
) -> Plan:
    """What is to be done.

    Args:
        pod: the pod with what it was allocated.
        runtime: what runs.
        actuated: what was set on what runs.
        group: see `Plan`.
    """
    own = pod["spec"].get("resources")
    before = actuated.pod if actuated is not None else None
    restarts: set[str] = set()
    lists: dict[Resource, list[Update]] = {"memory": [], "cpu": []}
    for update, restartable in _changed(pod, runtime, actuated):
        changed = [r for r in RESOURCES if update.desired.of(r) != update.current.of(r)]
        if restartable and any(_restarts(update.definition, resource) for resource in changed):
            restarts.add(update.run.name)
            continue
        for resource in changed:
            _insert(lists[resource], update, resource)
    return Plan(
        frozenset(restarts),
        tuple(lists["memory"]),
        tuple(lists["cpu"]),
        amounts(own) != amounts(before),
        group,
    )


def in_progress(
    pod: Object, runtime: provider.RuntimePod, actuated: allocations.Resources | None
) -> bool:
    """Whether what runs of a pod hasn't got yet what it was allocated."""
    own = pod["spec"].get("resources")
    if own and actuated is not None and actuated.pod and amounts(own) != amounts(actuated.pod):
        return True
    return any(restartable for _, restartable in _changed(pod, runtime, actuated))


def _changed(
    pod: Object, runtime: provider.RuntimePod, actuated: allocations.Resources | None
) -> Iterator[tuple[Update, bool]]:
    """Running containers that have other amounts than they should, and whether they may restart.

    An agent may die between an update or a start and its note, and nothing is to be restarted for
    that: a run of which the runtime says that it has what it should is believed, and so is one that
    nothing is known of.
    """
    spec = pod["spec"]
    before = actuated or allocations.Resources()
    for kind, definition in containers.every(spec):
        name = definition["name"]
        run = runtime.latest(name)
        if kind == "ephemeral" or run is None or run.state is not provider.State.RUNNING:
            continue
        noted = before.containers.get(name, run.resources)
        if noted is None:
            continue
        current = amounts(noted, before.pod)
        desired = amounts(definition.get("resources"), spec.get("resources"))
        if desired == current:
            continue
        if not is_given(run, definition, spec):
            restartable = kind == "container" or containers.is_sidecar(definition)
            yield Update(run, definition, current, desired), restartable


def is_given(run: provider.RuntimeContainer, definition: Object, spec: Object) -> bool:
    """Whether the runtime says that a run has what its definition wants, as far as it can be told.

    The kernel counts CPU in shares and in quotas of at least a millisecond.
    """
    if run.resources is None:
        return False
    told = amounts(run.resources, spec.get("resources"))
    desired = amounts(definition.get("resources"), spec.get("resources"))
    return (
        (told.memory_request, told.memory_limit) == (desired.memory_request, desired.memory_limit)
        and cgroup_numbers.shares(told.cpu_request) == cgroup_numbers.shares(desired.cpu_request)
        and cgroup_numbers.quota(told.cpu_limit) == cgroup_numbers.quota(desired.cpu_limit)
    )


def _restarts(definition: Object, resource: Resource) -> bool:
    for policy in definition.get("resizePolicy") or ():
        if policy["resourceName"] == resource:
            return bool(policy["restartPolicy"] == "RestartContainer")
    return False


def _insert(updates: list[Update], update: Update, resource: Resource) -> None:
    """Decreases first, so that there is room for increases. The limit decides, then the request."""
    desired, current = update.desired.of(resource), update.current.of(resource)
    which = 1 if desired[1] != current[1] else 0
    if desired[which] < current[which]:
        updates.insert(0, update)
    else:
        updates.append(update)


def group_writes(
    resource: Resource, current: cgroup_numbers.Numbers, wanted: cgroup_numbers.Numbers
) -> tuple[list[cgroup_numbers.Numbers], list[cgroup_numbers.Numbers]]:
    """What is written to the pod's group before its containers are updated, and what after.

    A limit isn't taken away: groups keep the one that they have.
    """
    before: list[cgroup_numbers.Numbers] = []
    after: list[cgroup_numbers.Numbers] = []
    if resource == "memory":
        if wanted.memory:
            grows = current.memory is not None and wanted.memory > current.memory
            if wanted.memory != current.memory:
                (before if grows else after).append(cgroup_numbers.Numbers(memory=wanted.memory))
        return before, after
    quota = current.quota if current.quota is not None else -1
    if wanted.quota and wanted.quota != quota:
        limit = cgroup_numbers.Numbers(quota=wanted.quota, period=wanted.period)
        (before if wanted.quota > quota else after).append(limit)
    shares = current.shares or 0
    if wanted.shares and wanted.shares != shares:
        request = cgroup_numbers.Numbers(shares=wanted.shares)
        if wanted.shares > shares:
            before.append(request)
        else:
            after.insert(0, request)
    return before, after


def shrinking(
    plan: Plan, current: cgroup_numbers.Numbers, wanted: cgroup_numbers.Numbers
) -> tuple[int, Mapping[str, int]]:
    """Memory limits that are to be lowered: the pod's (0 for none), and by container ID."""
    if not (plan.memory or plan.restarts or plan.group):
        return 0, {}
    lowered = {
        update.run.id: update.desired.memory_limit
        for update in plan.memory
        if update.desired.memory_limit
        and not 0 < update.current.memory_limit <= update.desired.memory_limit
    }
    pod = wanted.memory or 0
    is_lower = bool(pod) and (current.memory is None or pod < current.memory)
    return (pod if is_lower else 0), lowered


def complaint(
    pod_limit: int,
    container_limits: Mapping[str, int],
    pod_usage: provider.Usage | None,
    usages: Mapping[str, provider.Usage],
    runs: Sequence[provider.RuntimeContainer],
) -> str:
    """Why memory limits can't be lowered to these bytes; empty where they can."""
    found: list[str] = []
    if pod_limit:
        used = pod_usage.memory if pod_usage is not None else None
        if used is None:
            found.append("missing pod memory usage")
        elif used >= pod_limit:
            found.append(_too_low("pod", pod_limit, used))
    for run in runs:
        if run.id not in container_limits:
            continue
        usage: Any = usages.get(run.id)
        if usage is None or usage.memory is None:
            found.append(f'missing container "{run.name}" memory usage')
        elif usage.memory >= container_limits[run.id]:
            what = f'container "{run.name}"'
            found.append(_too_low(what, container_limits[run.id], usage.memory))
    if not found:
        return ""
    return f"cannot decrease memory limits: {_aggregate(found)}"


def _too_low(what: str, limit: int, used: int) -> str:
    return f"attempting to set {what} memory limit ({limit}) below current usage ({used})"


def _aggregate(found: Sequence[str]) -> str:
    """As apimachinery's errors.Aggregate prints several errors."""
    unique = list(dict.fromkeys(found))
    return unique[0] if len(unique) == 1 else f"[{', '.join(unique)}]"
