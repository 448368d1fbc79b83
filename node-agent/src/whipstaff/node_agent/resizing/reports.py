"""What is told of a resize: conditions, events, and the resources that statuses show.

Pure. Answers to ``pkg/kubelet/events/resize.go``, to the resize conditions of
``pkg/kubelet/status/status_manager.go`` and to convertContainerStatusResources and
convertToAPIPodLevelResourcesStatus in ``pkg/kubelet/kubelet_pods.go``.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from fractions import Fraction
from typing import Any

from whipstaff.node_agent import containers, provider, requirements, texts
from whipstaff.node_agent.cgroups import numbers as cgroup_numbers
from whipstaff.runtime import objects, quantities

Object = objects.Object

PENDING = "PodResizePending"
IN_PROGRESS = "PodResizeInProgress"
CONDITIONS = frozenset({PENDING, IN_PROGRESS})

DEFERRED, ERROR = "Deferred", "Error"

# The least that the kernel can be told: below it, what was asked for is shown.
_LEAST_REQUEST = 2
_LEAST_LIMIT = 10

_BYTES = ("memory", "ephemeral-storage", "hugepages-")


def condition(
    kind: str, reason: str, message: str, generation: int, old: Object | None, now: float
) -> Object:
    """A condition; one that keeps its reason keeps its time."""
    same = old is not None and old.get("reason", "") == reason
    found: Object = {
        "type": kind,
        "status": "True",
        "lastProbeTime": texts.timestamp(now),
        "lastTransitionTime": (
            old["lastTransitionTime"] if same and old is not None else texts.timestamp(now)
        ),
    }
    if generation:
        found["observedGeneration"] = generation
    if reason:
        found["reason"] = reason
    if message:
        found["message"] = message
    return found


def summary(title: str, pod: Object, generation: int, error: str = "") -> str:
    """The note of an event: a title, and what each container has or is to get, as JSON."""
    said: Object = {}
    spec = pod["spec"]
    for kind, definitions in (
        ("initContainers", containers.init(spec)),
        ("containers", containers.regular(spec)),
    ):
        if definitions:
            said[kind] = [
                {"name": d["name"], "resources": _listed(d.get("resources"))} for d in definitions
            ]
    said["generation"] = generation
    if error:
        said["error"] = error
    return f"{title}: {json.dumps(said, separators=(',', ':'), ensure_ascii=False)}"


def _listed(resources: Object | None) -> Object:
    return {
        kind: dict(sorted(resources[kind].items()))
        for kind in ("limits", "requests")
        if resources and resources.get(kind)
    }


def of_container(
    definition: Object, run: provider.RuntimeContainer, old: Object | None = None
) -> Object:
    """The ``resources`` of a container's status.

    Args:
        definition: the container with what it was allocated.
        run: its newest run, with what was set for it.
        old: the status that was reported for the same run, if there is one.
    """
    allocated = definition.get("resources") or {}
    shown: Object = {key: value for key, value in allocated.items() if value}
    if run.state is not provider.State.RUNNING or run.resources is None:
        return shown
    before = (old or {}).get("resources") or {}
    actual = run.resources
    for kind, least in (("limits", _LEAST_LIMIT), ("requests", _LEAST_REQUEST)):
        if kind not in shown:
            continue
        known = {**(before.get(kind) or {}), **(actual.get(kind) or {})}
        shown[kind] = _overlaid(shown[kind], known, least)
    return shown


def _overlaid(allocated: Mapping[str, str], actual: Mapping[str, Any], least: int) -> Object:
    """What was allocated, with CPU and memory as they are."""
    shown = dict(allocated)
    for name in ("cpu", "memory"):
        if name not in actual:
            continue
        number = requirements.amounts({name: actual[name]})[name]
        wanted = requirements.amounts({name: allocated.get(name, "0")})[name]
        if not number or number == wanted:
            continue
        if name == "memory" or number > least or wanted > least:
            shown[name] = actual[name]
    return shown


def of_pod(
    pod: Object, numbers: cgroup_numbers.Numbers | None, old: Object | None
) -> tuple[Object, Object]:
    """The ``resources`` and ``allocatedResources`` of a pod's status; empty for one without any.

    Args:
        pod: the pod with what it was allocated.
        numbers: what its group has; None where it doesn't run.
        old: its status before.
    """
    spec = pod["spec"]
    own = spec.get("resources") or {}
    allocated = quantities_of(requirements.requests(spec))
    overhead = spec.get("overhead") or {}
    # In the words that they were asked for in.
    asked = {k: v for k, v in (own.get("requests") or {}).items() if k not in overhead}
    allocated.update(asked)
    allocated = {name: quantity for name, quantity in allocated.items() if quantity != "0"}
    if numbers is None:
        limited = quantities_of({k: v for k, v in cgroup_numbers.limits(spec).items() if v})
        return _without_empty({**own, "requests": allocated, "limits": limited}), allocated
    before = (old or {}).get("resources") or {}
    requests = {**(own.get("requests") or {})}
    if "memory" in allocated:
        requests.setdefault("memory", allocated["memory"])
    shares = cgroup_numbers.millicores_of_shares(numbers.shares or 0)
    quota = cgroup_numbers.millicores_of_quota(numbers.quota or -1, numbers.period)
    # Requests of memory are nowhere but in what was allocated.
    asked_before = {k: v for k, v in (before.get("requests") or {}).items() if k == "cpu"}
    requested = _known(asked_before, cpu=_millicores(shares))
    limited = _known(before.get("limits"), cpu=_millicores(quota), memory=_bytes(numbers.memory))
    shown = {
        **own,
        "requests": _overlaid(requests, requested, _LEAST_REQUEST),
        "limits": _overlaid(own.get("limits") or {}, limited, _LEAST_LIMIT),
    }
    return _without_empty(shown), allocated


def _known(before: Mapping[str, str] | None, **now: str) -> dict[str, str]:
    """What is known now and, where it isn't, what was before."""
    return {**(before or {}), **{name: text for name, text in now.items() if text}}


def quantities_of(found: Mapping[str, int]) -> dict[str, str]:
    """Whole numbers, as `requirements` has them, as the API writes them."""
    return {name: _quantity(name, number) for name, number in found.items()}


def _quantity(name: str, number: int) -> str:
    if name == "cpu":
        return quantities.format_quantity(Fraction(number, 1000))
    form: quantities.Format = "BinarySI" if name.startswith(_BYTES) else "DecimalSI"
    return quantities.format_quantity(number, form)


def _millicores(number: int) -> str:
    return _quantity("cpu", number) if number > 0 else ""


def _bytes(number: int | None) -> str:
    # More than any machine has is what the kernel says for "no limit".
    return _quantity("memory", number) if number and 0 < number < 1 << 62 else ""


def _without_empty(resources: Object) -> Object:
    return {key: value for key, value in resources.items() if value}
