"""How much a pod asks for, counted as Kubernetes counts it.

No loop runs here: pure functions from a raw pod to amounts. Quantities are summed exactly, in
nano-units, and rounded up once at the end, because 100 containers of a tenth of a milli-CPU are
ten milli-CPUs and not a hundred.

Answers to `k8s.io/component-helpers/resource/helpers.go` (PodRequests) and to `Resource` in
`pkg/scheduler/framework/types.go`. Feature gates are as 1.36 sets them: sidecar containers,
pod-level resources and in-place resize on; DRA node-allocatable resources off.
"""

import dataclasses
import functools
import re
from collections.abc import Mapping
from typing import Any

from whipstaff.runtime import quantities

CPU = "cpu"
MEMORY = "memory"
EPHEMERAL_STORAGE = "ephemeral-storage"
PODS = "pods"

DEFAULT_MILLI_CPU = 100
DEFAULT_MEMORY = 200 * 1024 * 1024
"""What a container that says nothing counts as, in scoring only."""

_NANO = 10**9
_NANO_PER_MILLI = 10**6
_INT64_MAX = 2**63 - 1
_DEFAULTS = {CPU: DEFAULT_MILLI_CPU * _NANO_PER_MILLI, MEMORY: DEFAULT_MEMORY * _NANO}
_QUALIFIED_PREFIX = re.compile(r"[a-z0-9]([-a-z0-9]*[a-z0-9])?(\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*")
_QUALIFIED_NAME = re.compile(r"[A-Za-z0-9]([-A-Za-z0-9_.]*[A-Za-z0-9])?")

Amounts = dict[str, int]
"""Resource name to nano-units."""


@dataclasses.dataclass(frozen=True, slots=True)
class Requests:
    """What is asked for or available: CPU in thousandths, memory and storage in bytes."""

    milli_cpu: int = 0
    memory: int = 0
    ephemeral_storage: int = 0
    scalars: tuple[tuple[str, int], ...] = ()  # extended resources, huge pages: sorted by name

    @property
    def is_zero(self) -> bool:
        """Whether no resource is named at all: such a pod only needs a place among the pods."""
        return not (self.milli_cpu or self.memory or self.ephemeral_storage or self.scalars)

    def amount(self, resource: str) -> int:
        """The amount of `resource`, 0 if it isn't named."""
        match resource:
            case "cpu":
                return self.milli_cpu
            case "memory":
                return self.memory
            case "ephemeral-storage":
                return self.ephemeral_storage
        for name, amount in self.scalars:
            if name == resource:
                return amount
        return 0


@functools.lru_cache(maxsize=1 << 14)
def _nanos(quantity: str | float) -> int:
    """The quantity in nano-units, the finest that Kubernetes knows, rounded up."""
    exact = quantities.parse(quantity)
    return -(-exact.numerator * _NANO // exact.denominator)


def _amounts(resources: Mapping[str, Any] | None) -> Amounts:
    return {name: _nanos(text) for name, text in resources.items()} if resources else {}


def milli(nanos: int) -> int:
    """Nano-units in thousandths, rounded up, kept within int64."""
    return min(-(-nanos // _NANO_PER_MILLI), _INT64_MAX)


def whole(nanos: int) -> int:
    """Nano-units in whole units, rounded up, kept within int64."""
    return min(-(-nanos // _NANO), _INT64_MAX)


@functools.lru_cache(maxsize=1 << 10)
def is_extended(name: str) -> bool:
    """Whether `name` is of a vendor: `example.com/gpu`. Source: `IsExtendedResourceName`."""
    prefix, slash, rest = name.partition("/")
    if not slash or "kubernetes.io/" in name or name.startswith("requests."):
        return False
    return (
        len("requests.") + len(prefix) <= 253
        and len(rest) <= 63
        and _QUALIFIED_PREFIX.fullmatch(prefix) is not None
        and _QUALIFIED_NAME.fullmatch(rest) is not None
    )


@functools.lru_cache(maxsize=1 << 10)
def is_scalar(name: str) -> bool:
    """Whether the scheduler counts `name` beside CPU, memory and ephemeral storage.

    Source: `IsScalarResourceName` (extended, huge pages, prefixed native, attachable volumes).
    """
    return (
        "kubernetes.io/" in name
        or name.startswith(("hugepages-", "attachable-volumes-"))
        or is_extended(name)
    )


def counted(amounts: Amounts) -> Requests:
    """Amounts as the scheduler counts them; names that it doesn't count are left out."""
    if len(amounts) <= 2 and amounts.keys() <= _DEFAULTS.keys():
        return Requests(milli(amounts.get(CPU, 0)), whole(amounts.get(MEMORY, 0)))
    return Requests(
        milli(amounts.get(CPU, 0)),
        whole(amounts.get(MEMORY, 0)),
        whole(amounts.get(EPHEMERAL_STORAGE, 0)),
        tuple(
            sorted((name, whole(nanos)) for name, nanos in amounts.items() if is_scalar(name)),
        ),
    )


def allocatable(resources: Mapping[str, Any] | None) -> tuple[Requests, int]:
    """A node's allocatable resources, and how many pods it takes."""
    amounts = _amounts(resources)
    return counted(amounts), whole(amounts.get(PODS, 0))


def _add(total: Amounts, more: Mapping[str, int]) -> None:
    for name, nanos in more.items():
        total[name] = total.get(name, 0) + nanos


def _raise_to(total: Amounts, other: Mapping[str, int]) -> None:
    for name, nanos in other.items():
        if name not in total or nanos > total[name]:
            total[name] = nanos


def _is_pod_level(name: str) -> bool:
    return name in (CPU, MEMORY) or name.startswith("hugepages-")


def _is_sidecar(container: Mapping[str, Any]) -> bool:
    return container.get("restartPolicy") == "Always"


def has_pod_level_requests(pod: Mapping[str, Any]) -> bool:
    """Whether the pod as a whole asks for something (`spec.resources.requests`)."""
    requests = (pod["spec"].get("resources") or {}).get("requests") or {}
    return any(_is_pod_level(name) for name in requests)


def _resize_is_infeasible(status: Mapping[str, Any]) -> bool:
    for condition in status.get("conditions") or ():
        if condition.get("type") == "PodResizePending":
            return bool(condition.get("reason") == "Infeasible")
    return False


class _Resizes:
    """What containers hold at present, for pods whose resources change in place."""

    def __init__(self, status: Mapping[str, Any]) -> None:
        self._infeasible = _resize_is_infeasible(status)
        self._statuses = {
            container["name"]: container
            for kind in ("containerStatuses", "initContainerStatuses")
            for container in status.get(kind) or ()
        }

    def effective(self, spec: Amounts, actuated: Any, allocated: Any) -> Amounts:
        """The most of what is wished for, what is in force and what was granted."""
        amounts = {} if self._infeasible else dict(spec)
        _raise_to(amounts, _amounts(actuated))
        _raise_to(amounts, _amounts(allocated))
        return amounts

    def of_container(self, name: str, spec: Amounts) -> Amounts:
        container = self._statuses.get(name)
        if container is None or container.get("resources") is None:
            return spec
        return self.effective(
            spec, container["resources"].get("requests"), container.get("allocatedResources")
        )


def _containers(
    pod: Mapping[str, Any],
    missing: Mapping[str, int],
    resizes: _Resizes | None,
    kind: str = "requests",
) -> Amounts:
    """The sum over the containers, or what the most demanding moment of the start needs if more."""

    def of(container: Mapping[str, Any], *, resizable: bool) -> Amounts:
        amounts = _amounts((container.get("resources") or {}).get(kind))
        if resizes is not None and resizable:
            amounts = resizes.of_container(container["name"], amounts)
        return {**missing, **amounts} if missing else amounts

    spec = pod["spec"]
    total: Amounts = {}
    for container in spec.get("containers") or ():
        _add(total, of(container, resizable=True))
    sidecars: Amounts = {}
    peak: Amounts = {}
    for container in spec.get("initContainers") or ():
        sidecar = _is_sidecar(container)
        amounts = of(container, resizable=sidecar)
        if sidecar:
            _add(total, amounts)
            _add(sidecars, amounts)
            moment = sidecars
        else:
            moment = dict(amounts)
            _add(moment, sidecars)
        _raise_to(peak, moment)
    _raise_to(total, peak)
    return total


def pod_amounts(
    pod: Mapping[str, Any],
    *,
    use_status: bool = False,
    pod_level: bool = True,
    missing: Mapping[str, int] | None = None,
) -> Amounts:
    """All that the pod asks for.

    Args:
        pod: the raw object.
        use_status: count what a pod on a node holds while it is resized in place.
        pod_level: let `spec.resources` replace the containers' sums.
        missing: what a container that doesn't name a resource counts as.
    """
    spec, status = pod["spec"], pod.get("status") or {}
    resizes = _Resizes(status) if use_status else None
    total = _containers(pod, missing or {}, resizes)
    if pod_level and has_pod_level_requests(pod):
        wished = _amounts(spec["resources"]["requests"])
        held = wished
        if resizes is not None and status.get("resources") is not None:
            held = resizes.effective(
                wished, status["resources"].get("requests"), status.get("allocatedResources")
            )
        total |= {name: held.get(name, 0) for name in wished if _is_pod_level(name)}
    _add(total, _amounts(spec.get("overhead")))
    return total


def pod_limits(pod: Mapping[str, Any]) -> Amounts:
    """All that the pod may use at most; a resource without a limit isn't there."""
    spec = pod["spec"]
    total = _containers(pod, {}, None, "limits")
    wished = _amounts((spec.get("resources") or {}).get("limits"))
    total |= {name: amount for name, amount in wished.items() if _is_pod_level(name)}
    overhead = _amounts(spec.get("overhead"))
    _add(total, {name: amount for name, amount in overhead.items() if total.get(name)})
    return total


def _names_everything(pod: Mapping[str, Any]) -> bool:
    """Whether every container names CPU and memory, so that no default applies."""
    spec = pod["spec"]
    return all(
        _DEFAULTS.keys() <= ((container.get("resources") or {}).get("requests") or {}).keys()
        for kind in ("containers", "initContainers")
        for container in spec.get(kind) or ()
    )


@dataclasses.dataclass(frozen=True, slots=True)
class PodRequests:
    """The four ways in which one pod's requests are counted."""

    asked: Requests
    """What a node must have free: for filters."""
    held: Requests
    """What the pod takes from its node: `asked`, and what a resize in place adds to it."""
    nonzero_milli_cpu: int
    """What the pod takes from its node in scoring: `held` with defaults for what isn't named."""
    nonzero_memory: int
    scored: Requests
    """What NodeResourcesFit scores: containers with defaults, without what the pod as a whole asks.

    Upstream's scorer never learns of pod-level resources (`getScorer` in `fit.go` leaves the switch
    off), so for such pods this differs from `asked`.
    """


def _tells_resources(status: Mapping[str, Any]) -> bool:
    return status.get("resources") is not None or any(
        container.get("resources") is not None
        for kind in ("containerStatuses", "initContainerStatuses")
        for container in status.get(kind) or ()
    )


def of_pod(pod: Mapping[str, Any]) -> PodRequests:
    """Counts the requests of a raw pod.

    Raises:
        ValueError: a quantity can't be read.
    """
    amounts = pod_amounts(pod)
    asked = held = counted(amounts)
    resized = _tells_resources(pod.get("status") or {})
    if resized:
        amounts = pod_amounts(pod, use_status=True)
        held = counted(amounts)
    pod_level = has_pod_level_requests(pod)
    if not pod_level and _names_everything(pod):
        return PodRequests(asked, held, held.milli_cpu, held.memory, asked)
    missing = (
        {name: nanos for name, nanos in _DEFAULTS.items() if name not in amounts}
        if pod_level
        else _DEFAULTS
    )
    if missing:
        amounts = pod_amounts(pod, use_status=resized, missing=missing)
    nonzero = counted(amounts)
    scored = (
        nonzero
        if not pod_level and not resized
        else counted(pod_amounts(pod, pod_level=False, missing=_DEFAULTS))
    )
    return PodRequests(asked, held, nonzero.milli_cpu, nonzero.memory, scored)
