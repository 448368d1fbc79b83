"""Numbers for control groups: what requests and limits are to the kernel.

Pure: from a pod's object to CPU shares, quotas, bytes and OOM scores, both for the pod's own group
and for each of its containers. Amounts of CPU are millicores, times are microseconds, memory is
bytes. Answers to ``pkg/kubelet/cm/helpers_linux.go`` (ResourceConfigForPod), to
``pkg/kubelet/qos/policy.go`` and to the arithmetic in ``kuberuntime_container_linux.go``. Leaves
out MemoryQoS, swap for pods, and CPUs that belong to one container alone.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from whipstaff.node_agent import containers, requirements
from whipstaff.runtime import objects

Object = objects.Object

PERIOD = 100_000
MIN_SHARES = 2
MAX_SHARES = 262_144

GUARANTEED_OOM_SCORE = -997
BEST_EFFORT_OOM_SCORE = 1000
# Whatever has asked for something dies after what hasn't, and before what is guaranteed.
_BURSTABLE_OOM_SCORES = (1000 + GUARANTEED_OOM_SCORE, BEST_EFFORT_OOM_SCORE - 1)

_MIN_QUOTA = 1000
_HUGE_PAGES = "hugepages-"
_SYSTEM_CRITICAL_PRIORITY = 2_000_000_000


@dataclass(frozen=True, slots=True)
class Numbers:
    """What is set for a pod's or a container's group; None leaves a value as it is.

    Attributes:
        shares: weight among its siblings when CPUs are short, in cgroup v1's terms (2 to 262144).
        quota: microseconds of CPU in each `period`; -1 lifts a limit, 0 sets none.
        memory: bytes; 0 sets none.
        huge_pages: bytes by page size in the kernel's words (``2MB``).
        pids: how many processes and threads there may be.
    """

    shares: int | None = None
    quota: int | None = None
    period: int = PERIOD
    memory: int | None = None
    huge_pages: Mapping[str, int] = field(default_factory=dict)
    pids: int | None = None


def shares(millicores: int) -> int:
    """CPU shares (cgroup v1) for a request."""
    return max(MIN_SHARES, min(MAX_SHARES, millicores * 1024 // 1000))


def quota(millicores: int, period: int = PERIOD) -> int:
    """Microseconds of CPU in each period for a limit; 0 for none. Less than 1 ms isn't possible."""
    return max(_MIN_QUOTA, millicores * period // 1000) if millicores else 0


def weight(cpu_shares: int) -> int:
    """Shares as cgroup v2's ``cpu.weight``, 1 to 10000."""
    limited = max(MIN_SHARES, min(MAX_SHARES, cpu_shares))
    return 1 + (limited - 2) * 9999 // 262_142


def shares_of_weight(cpu_weight: int) -> int:
    """``cpu.weight`` back as shares, as near as that goes."""
    return (cpu_weight - 1) * 262_142 // 9999 + 2


def millicores_of_shares(cpu_shares: int) -> int:
    """The request that shares stand for; 0 where there are none."""
    return -(-cpu_shares * 1000 // 1024) if cpu_shares >= MIN_SHARES else 0


def millicores_of_quota(cpu_quota: int, period: int) -> int:
    """The limit that a quota stands for; 0 for none."""
    return 0 if cpu_quota < 0 or period <= 0 else cpu_quota * 1000 // period


def qos_class(pod: Object) -> str:
    """The class that the API noted when the pod was made, or the one that its spec gives."""
    noted = (pod.get("status") or {}).get("qosClass")
    return str(noted) if noted else requirements.qos_class(pod["spec"])


def of_pod(
    pod: Object,
    *,
    page_sizes: Iterable[str] = (),
    quotas: bool = True,
    period: int = PERIOD,
    pids: int | None = None,
) -> Numbers:
    """What the pod's own group gets.

    A Burstable pod is only limited in what all of its containers are limited in.

    Args:
        pod: the pod, with the resources that it has been allocated.
        page_sizes: the huge pages that the kernel has, such as ``2MB``; what isn't asked for is
            limited to nothing.
        quotas: whether limits on CPU are enforced at all.
        period: of quotas, in microseconds.
        pids: how many processes and threads the pod may have; None for any number.
    """
    asked = requirements.requests(pod["spec"])
    limited, declared = _limits(pod["spec"])
    huge = dict.fromkeys(page_sizes, 0) | huge_page_limits(asked)
    kind = qos_class(pod)
    if kind == "BestEffort":
        return Numbers(MIN_SHARES, huge_pages=huge, pids=pids)
    cpu_quota: int | None = quota(limited.get("cpu", 0), period) if quotas else -1
    memory: int | None = limited.get("memory", 0)
    if kind == "Burstable":
        cpu_quota = cpu_quota if "cpu" in declared else None
        memory = memory if "memory" in declared else None
    return Numbers(shares(asked.get("cpu", 0)), cpu_quota, period, memory, huge, pids)


def of_container(
    pod: Object,
    definition: Object,
    *,
    page_sizes: Iterable[str] = (),
    quotas: bool = True,
    period: int = PERIOD,
) -> Numbers:
    """What a container's group gets; the pod's own limits stand in for those it doesn't have.

    Args:
        pod: the pod, with the resources that it has been allocated.
        definition: the container, likewise.
        page_sizes: the huge pages that the kernel has, such as ``2MB``; what isn't asked for is
            limited to nothing.
        quotas: whether limits on CPU are enforced at all.
        period: of quotas, in microseconds.
    """
    resources = definition.get("resources") or {}
    asked = requirements.amounts(resources.get("requests"))
    limited = requirements.amounts(resources.get("limits"))
    pod_limits = _pod_level(pod["spec"], "limits")
    cpu = limited.get("cpu", 0) or pod_limits.get("cpu", 0)
    memory = limited.get("memory", 0) or pod_limits.get("memory", 0)
    huge = huge_page_limits(pod_limits) | huge_page_limits(limited)
    return Numbers(
        shares(asked.get("cpu", cpu)),
        quota(cpu, period) if quotas else None,
        period,
        memory or None,
        {size: huge.get(size, 0) for size in page_sizes},
    )


def limits(spec: Object) -> dict[str, int]:
    """The pod's limits in all: of its containers, or its own, and overhead where there is one."""
    return _limits(spec)[0]


def huge_page_limits(amounts: Mapping[str, int]) -> dict[str, int]:
    """Bytes of huge pages by page size in the kernel's words, from ``hugepages-2Mi``."""
    found: dict[str, int] = {}
    for name, amount in amounts.items():
        if name.startswith(_HUGE_PAGES):
            size = requirements.amounts({"size": name.removeprefix(_HUGE_PAGES)})["size"]
            text = page_size(size)
            found[text] = found.get(text, 0) + amount
    return found


def page_size(size: int) -> str:
    """Bytes of a page as the kernel names them: ``64KB``, ``2MB``, ``1GB``."""
    for unit, name in ((1 << 30, "GB"), (1 << 20, "MB")):
        if size >= unit:
            return f"{size // unit}{name}"
    return f"{size >> 10}KB"


def oom_score_adj(pod: Object, definition: Object, machine_memory: int) -> int:
    """How readily the kernel kills a container when memory runs out, -997 to 1000.

    Args:
        pod: the pod, with the resources that it has been allocated.
        definition: the container, likewise.
        machine_memory: bytes of this machine; 0 where that isn't known.
    """
    if is_node_critical(pod):
        return GUARANTEED_OOM_SCORE
    match qos_class(pod):
        case "Guaranteed":
            return GUARANTEED_OOM_SCORE
        case "BestEffort":
            return BEST_EFFORT_OOM_SCORE
    spec = pod["spec"]
    counted = _memory_request(definition) + (spare := _spare_memory(spec))
    if _is_sidecar(spec, definition):
        # A sidecar outlives the least of the containers that it serves.
        least = min((_memory_request(other) for other in containers.regular(spec)), default=0)
        counted = max(counted, least + spare)
    score = 1000 - (1000 * counted // machine_memory if machine_memory else 0)
    lowest, highest = _BURSTABLE_OOM_SCORES
    return max(lowest, min(highest, score))


def is_critical(pod: Object) -> bool:
    """Whether a pod counts as part of the system: by its priority, or as a static pod."""
    annotations = pod["metadata"].get("annotations") or {}
    if annotations.get("kubernetes.io/config.source", "api") != "api":
        return True
    if "kubernetes.io/config.mirror" in annotations:
        return True
    return int(pod["spec"].get("priority") or 0) >= _SYSTEM_CRITICAL_PRIORITY


def is_node_critical(pod: Object) -> bool:
    """Whether a pod is what its node can't do without."""
    return is_critical(pod) and pod["spec"].get("priorityClassName") == "system-node-critical"


def _limits(spec: Object) -> tuple[dict[str, int], set[str]]:
    """The pod's limits, and in which of cpu and memory it is limited as a whole."""
    total: dict[str, int] = {}
    declared = {"cpu", "memory"}

    def note(counted: Mapping[str, int]) -> None:
        declared.difference_update([name for name in declared if not counted.get(name)])

    for definition in containers.regular(spec):
        own = _limits_of(definition)
        note(own)
        _add(total, own)
    sidecars: dict[str, int] = {}
    height: dict[str, int] = {}
    for definition in containers.init(spec):
        own = _limits_of(definition)
        if containers.is_sidecar(definition):
            _add(total, own)
            _add(sidecars, own)
            own = sidecars
        else:
            _add(own, sidecars)
        note(own)
        _raise_to(height, own)
    _raise_to(total, height)
    pod_level = _pod_level(spec, "limits")
    total.update(pod_level)
    declared.update(name for name in ("cpu", "memory") if pod_level.get(name))
    for name, amount in requirements.amounts(spec.get("overhead")).items():
        if total.get(name):
            total[name] += amount
    return total, declared


def _pod_level(spec: Object, which: str) -> dict[str, int]:
    """Requests or limits of the pod itself, of the resources that can be set there."""
    declared = requirements.amounts((spec.get("resources") or {}).get(which))
    return {
        name: amount
        for name, amount in declared.items()
        if name in {"cpu", "memory"} or name.startswith(_HUGE_PAGES)
    }


def _spare_memory(spec: Object) -> int:
    """Each container's part of the memory that the pod asks for beyond what they ask for."""
    pod_level = _pod_level(spec, "requests").get("memory", 0)
    if not pod_level:
        return 0
    inner: dict[str, Any] = {**spec, "resources": None, "overhead": None}
    summed = requirements.requests(inner).get("memory", 0)
    count = len(containers.regular(spec)) + len(containers.init(spec))
    return max(pod_level - summed, 0) // count


def _memory_request(definition: Object) -> int:
    resources = definition.get("resources") or {}
    return requirements.amounts(resources.get("requests")).get("memory", 0)


def _limits_of(definition: Object) -> dict[str, int]:
    return requirements.amounts((definition.get("resources") or {}).get("limits"))


def _is_sidecar(spec: Object, definition: Object) -> bool:
    return containers.is_sidecar(definition) and any(
        other["name"] == definition["name"] for other in containers.init(spec)
    )


def _add(total: dict[str, int], more: Mapping[str, int]) -> None:
    for name, amount in more.items():
        total[name] = total.get(name, 0) + amount


def _raise_to(total: dict[str, int], least: Mapping[str, int]) -> None:
    for name, amount in least.items():
        if amount > total.get(name, 0):
            total[name] = amount
