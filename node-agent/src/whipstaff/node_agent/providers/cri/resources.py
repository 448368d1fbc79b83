"""Requests and limits in the CRI's words, for containers and for sandboxes.

The numbers themselves are `cgroup_numbers`'; here they are put into messages, together with what
depends on the machine: the version of its control groups, whether it accounts for swap, the sizes
of its huge pages. Runs no loop and owns nothing. Answers to ``pkg/kubelet/kuberuntime/
kuberuntime_container_linux.go`` and ``kuberuntime_sandbox_linux.go``. Leaves out MemoryQoS, swap
for containers (NoSwap, the kubelet's default) and CPUs that belong to one container alone.
"""

from __future__ import annotations

import pathlib
from collections.abc import Mapping
from dataclasses import dataclass

from whipstaff.node_agent import requirements
from whipstaff.node_agent.cgroups import numbers as cgroup_numbers
from whipstaff.node_agent.providers.cri.api import runtime_pb2 as pb
from whipstaff.runtime import objects

Object = objects.Object

_ROOT = pathlib.Path("/sys/fs/cgroup")
_HUGE_PAGES = pathlib.Path("/sys/kernel/mm/hugepages")


@dataclass(frozen=True, slots=True)
class Ground:
    """What of the machine matters to a container's limits.

    Attributes:
        memory: bytes.
        unified: it has cgroup v2 only.
        swap: its control groups count swap.
        page_sizes: of huge pages, in the kernel's words (``2MB``).
    """

    memory: int = 0
    unified: bool = False
    swap: bool = False
    page_sizes: tuple[str, ...] = ()


def ground(memory: int) -> Ground:
    """This machine, which has so many bytes of memory."""
    unified = (_ROOT / "cgroup.controllers").exists()
    if unified:
        own = pathlib.Path("/proc/self/cgroup").read_text(encoding="utf-8").strip()
        swap = (_ROOT / own.removeprefix("0::").lstrip("/") / "memory.swap.max").exists()
    else:
        swap = (_ROOT / "memory/memory.memsw.limit_in_bytes").exists()
    return Ground(memory, unified, swap, _page_sizes())


def of_container(pod: Object, definition: Object, machine: Ground) -> pb.LinuxContainerResources:
    """What a container may use.

    Args:
        pod: the pod, with the resources that it has been allocated.
        definition: the container, likewise.
        machine: what it runs on.
    """
    numbers = cgroup_numbers.of_container(pod, definition, page_sizes=machine.page_sizes)
    result = _message(numbers, machine)
    result.oom_score_adj = cgroup_numbers.oom_score_adj(pod, definition, machine.memory)
    for size, limit in numbers.huge_pages.items():
        result.hugepage_limits.add(page_size=size, limit=limit)
    if machine.swap and machine.unified:
        result.unified["memory.swap.max"] = "0"
    elif machine.swap:
        # Memory and swap together: as much as memory alone.
        result.memory_swap_limit_in_bytes = result.memory_limit_in_bytes
    return result


def of_sandbox(pod: Object, machine: Ground) -> pb.LinuxContainerResources:
    """What a pod may use in all, without its overhead; only some runtimes care."""
    spec = {**pod["spec"], "overhead": None}
    asked = requirements.requests(spec)
    limited = cgroup_numbers.limits(spec)
    return _message(_amounts(asked.get("cpu"), limited), machine)


def of_overhead(pod: Object, machine: Ground) -> pb.LinuxContainerResources:
    """What the sandbox itself is reckoned to use; empty where the pod has no overhead."""
    overhead = pod["spec"].get("overhead")
    if not overhead:
        return pb.LinuxContainerResources()
    amounts = requirements.amounts(overhead)
    return _message(_amounts(amounts.get("cpu", 0), amounts), machine)


def _amounts(cpu_request: int | None, limits: Mapping[str, int]) -> cgroup_numbers.Numbers:
    cpu = limits.get("cpu", 0)
    return cgroup_numbers.Numbers(
        shares=cgroup_numbers.shares(cpu if cpu_request is None else cpu_request),
        quota=cgroup_numbers.quota(cpu),
        memory=limits.get("memory"),
    )


def _message(numbers: cgroup_numbers.Numbers, machine: Ground) -> pb.LinuxContainerResources:
    result = pb.LinuxContainerResources(
        cpu_period=numbers.period,
        cpu_quota=numbers.quota or 0,
        cpu_shares=numbers.shares,
        memory_limit_in_bytes=numbers.memory or 0,
    )
    if machine.unified:
        # All of a container's processes go together when its memory is used up.
        result.unified["memory.oom.group"] = "1"
    return result


def _page_sizes() -> tuple[str, ...]:
    if not _HUGE_PAGES.is_dir():
        return ()
    kilobytes = sorted(
        int(folder.name.removeprefix("hugepages-").removesuffix("kB"))
        for folder in _HUGE_PAGES.iterdir()
    )
    return tuple(cgroup_numbers.page_size(size << 10) for size in kilobytes)
