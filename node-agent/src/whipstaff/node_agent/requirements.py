"""What a pod asks of its node: its effective requests and its quality-of-service class.

Pure. Answers to PodRequests in component-helpers ``resource/helpers.go`` and ComputePodQOS in
``pkg/apis/core/v1/helper/qos/qos.go``. Requests are whole numbers: millicores for ``cpu``, units
(bytes, devices) for everything else. Leaves out what a running container has actually been given
during an in-place resize.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from whipstaff.node_agent import containers
from whipstaff.runtime import objects, quantities

Object = objects.Object

_COMPUTE = ("cpu", "memory")
_POD_LEVEL = ("cpu", "memory")


def amounts(resources: Mapping[str, Any] | None) -> dict[str, int]:
    """A resource list as whole numbers; ``cpu`` in thousandths."""
    return {
        name: quantities.milli_value(quantity) if name == "cpu" else quantities.value(quantity)
        for name, quantity in (resources or {}).items()
    }


def requests(spec: Object) -> dict[str, int]:
    """What the pod needs at once at most: its containers, or its init containers at their height.

    A sidecar counts for as long as anything after it runs; the spec's own (pod-level) requests
    take the place of the sum; overhead comes on top.
    """
    total: dict[str, int] = {}
    for definition in containers.regular(spec):
        _add(total, _requests_of(definition))
    sidecars: dict[str, int] = {}
    height: dict[str, int] = {}
    for definition in containers.init(spec):
        own = _requests_of(definition)
        if containers.is_sidecar(definition):
            _add(total, own)
            _add(sidecars, own)
            _raise_to(height, sidecars)
        else:
            _add(own, sidecars)
            _raise_to(height, own)
    _raise_to(total, height)
    pod_level = amounts((spec.get("resources") or {}).get("requests"))
    total.update((name, pod_level[name]) for name in _POD_LEVEL if name in pod_level)
    total.update((n, v) for n, v in pod_level.items() if n.startswith("hugepages-"))
    _add(total, amounts(spec.get("overhead")))
    return total


def qos_class(spec: Object) -> str:
    """Guaranteed, Burstable or BestEffort."""
    asked: dict[str, int] = {}
    capped: dict[str, int] = {}
    sources = [spec["resources"]] if spec.get("resources") else _container_resources(spec)
    all_capped = True
    for resources in sources:
        _add(asked, _compute(resources.get("requests")))
        limits = _compute(resources.get("limits"))
        _add(capped, limits)
        all_capped = all_capped and all(name in limits for name in _COMPUTE)
    if not asked and not capped:
        return "BestEffort"
    guaranteed = all_capped and asked == capped
    return "Guaranteed" if guaranteed else "Burstable"


def _container_resources(spec: Object) -> list[Object]:
    definitions = containers.regular(spec) + containers.init(spec)
    return [definition.get("resources") or {} for definition in definitions]


def _compute(resources: Mapping[str, Any] | None) -> dict[str, int]:
    return {
        name: amount
        for name, amount in amounts(resources).items()
        if name in _COMPUTE and amount > 0
    }


def _requests_of(definition: Object) -> dict[str, int]:
    return amounts((definition.get("resources") or {}).get("requests"))


def _add(total: dict[str, int], more: Mapping[str, int]) -> None:
    for name, amount in more.items():
        total[name] = total.get(name, 0) + amount


def _raise_to(total: dict[str, int], least: Mapping[str, int]) -> None:
    for name, amount in least.items():
        if amount > total.get(name, 0):
            total[name] = amount
