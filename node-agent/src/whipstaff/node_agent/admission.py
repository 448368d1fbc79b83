"""Whether a pod that was bound to this node may run on it.

The scheduler has decided already, from a picture that may be old or wrong, or nobody decided and
``nodeName`` was simply written: the node has the last word. `admit` is pure; `Usage` is what the
admitted pods of one node hold, kept up to date by their workers so that admission needn't add up
all pods again; `Machine` is what only a node with real containers has to say. Answers to
``pkg/kubelet/lifecycle/{predicate,handlers}.go``, AdmissionCheck in
``pkg/scheduler/eventhandlers.go`` and ``pkg/security/apparmor``. Leaves out eviction pressure (that
is `eviction`'s) and topology; room for critical pods is made by `preemptor`.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

from whipstaff.node_agent import apparmor, containers, requirements, sysctls
from whipstaff.node_agent.static_pods import manifests as static_manifests
from whipstaff.runtime import objects, selectors

Object = objects.Object
HostPort = tuple[str, str, int]

OS_LABEL = "kubernetes.io/os"
# From this priority on a pod is critical.
SYSTEM_CRITICAL = 2_000_000_000

_NATIVE = ("cpu", "memory", "ephemeral-storage")
_ANY_ADDRESS = frozenset({"", "0.0.0.0", "::"})  # noqa: S104 (compared, not bound)


@dataclass(frozen=True, slots=True)
class Shortage:
    """What a node hasn't enough of; amounts as `requirements.requests` gives them."""

    resource: str
    requested: int
    used: int
    capacity: int

    @property
    def missing(self) -> int:
        """How much must become free."""
        return self.requested - (self.capacity - self.used)


@dataclass(frozen=True, slots=True)
class Rejection:
    """Why a pod may not run here: the reason and the message of its event; see `status_message`.

    Attributes:
        shortages: what a critical pod is rejected for, if room is all that is missing.
    """

    reason: str
    message: str
    shortages: tuple[Shortage, ...] = ()

    @property
    def status_message(self) -> str:
        """The message of the pod's status."""
        return f"Pod was rejected: {self.message}"


@dataclass(frozen=True, slots=True)
class Claim:
    """What one admitted pod holds; amounts as `requirements.requests` gives them."""

    requests: Mapping[str, int]
    ports: tuple[HostPort, ...] = ()


@dataclass(slots=True)
class Usage:
    """What the admitted pods of a node hold together."""

    pods: int = 0
    requested: dict[str, int] = field(default_factory=dict)
    ports: list[HostPort] = field(default_factory=list)

    def add(self, claim: Claim) -> None:
        """One pod more."""
        self.pods += 1
        for name, amount in claim.requests.items():
            self.requested[name] = self.requested.get(name, 0) + amount
        self.ports.extend(claim.ports)

    def remove(self, claim: Claim) -> None:
        """One pod less."""
        self.pods -= 1
        for name, amount in claim.requests.items():
            self.requested[name] -= amount
        for port in claim.ports:
            self.ports.remove(port)


@dataclass(frozen=True, slots=True)
class Machine:
    """What a machine with real containers can't or won't do for pods.

    Attributes:
        sysctls: what pods may set.
        apparmor: see `apparmor.is_enabled`.
    """

    sysctls: sysctls.Allowlist
    apparmor: bool = False


def claim_of(spec: Object) -> Claim:
    """What a pod would hold."""
    return Claim(requirements.requests(spec), tuple(host_ports(spec)))


def host_ports(spec: Object) -> Iterable[HostPort]:
    """The (address, protocol, port) triples that a pod takes from its node."""
    for _, definition in containers.every(spec):
        for port in definition.get("ports") or ():
            if port.get("hostPort"):
                yield (port.get("hostIP") or "", port.get("protocol") or "TCP", port["hostPort"])


def admit(
    pod: Object,
    claim: Claim,
    node: Object,
    allocatable: Mapping[str, int],
    usage: Usage,
    machine: Machine | None = None,
) -> Rejection | None:
    """None if the pod may run; else the first reason against it, in the kubelet's order.

    Args:
        pod: the pod's object.
        claim: what it would hold.
        node: the Node as the API has it: name, labels, taints.
        allocatable: the node's amounts, ``cpu`` in thousandths.
        usage: what the other pods hold.
        machine: the machine below, where there is one.
    """
    refusal = machine.sysctls.refusal(pod) if machine is not None else None
    if refusal is not None:
        return Rejection("SysctlForbidden", refusal)
    rejection = _other_system(pod, node)
    if rejection is None and machine is not None:
        rejection = _groups_policy(pod["spec"], node)
    if rejection is not None:
        return rejection
    short = shortages(claim, allocatable, usage)
    if short and not is_critical(pod):
        return _insufficient(short[0])
    rejection = _predicates(pod, node, claim, usage)
    if rejection is None and machine is not None:
        rejection = _apparmor(pod, machine) or _features(pod["spec"], node)
    if rejection is None and short:
        # Others may have to go for it, which is not to be in vain.
        return dataclasses.replace(_insufficient(short[0]), shortages=tuple(short))
    return rejection


def _other_system(pod: Object, node: Object) -> Rejection | None:
    labels = node["metadata"].get("labels") or {}
    spec = pod["spec"]
    wanted_os = (pod["metadata"].get("labels") or {}).get(OS_LABEL)
    if wanted_os is not None and wanted_os != labels.get(OS_LABEL, "linux"):
        return Rejection(
            "PodOSSelectorNodeLabelDoesNotMatch",
            "Failed to admit pod as the `kubernetes.io/os` label doesn't match node label",
        )
    if (spec.get("os") or {}).get("name", "linux") != "linux":
        return Rejection(
            "PodOSNotSupported", "Failed to admit pod as the OS field doesn't match node OS"
        )
    return None


def _groups_policy(spec: Object, node: Object) -> Rejection | None:
    policy = (spec.get("securityContext") or {}).get("supplementalGroupsPolicy")
    features = (node.get("status") or {}).get("features") or {}
    if policy != "Strict" or features.get("supplementalGroupsPolicy"):
        return None
    return Rejection(
        "SupplementalGroupsPolicyNotSupported",
        "SupplementalGroupsPolicy=Strict is not supported in this node",
    )


def resources(claim: Claim, allocatable: Mapping[str, int], usage: Usage) -> Rejection | None:
    """The first thing that the node hasn't enough of for a claim; None where it has of all."""
    short = shortages(claim, allocatable, usage)
    return _insufficient(short[0]) if short else None


def shortages(claim: Claim, allocatable: Mapping[str, int], usage: Usage) -> list[Shortage]:
    """What the node hasn't enough of for a claim, in the kubelet's order."""
    found = []
    if usage.pods + 1 > allocatable.get("pods", 0):
        found.append(Shortage("pods", 1, usage.pods, allocatable.get("pods", 0)))
    others = [name for name in claim.requests if name not in _NATIVE]
    for name in (*_NATIVE, *others):
        amount = claim.requests.get(name, 0)
        if not amount or (name not in allocatable and _is_extended(name)):
            continue
        used = usage.requested.get(name, 0)
        if amount > allocatable.get(name, 0) - used:
            found.append(Shortage(name, amount, used, allocatable.get(name, 0)))
    return found


def _insufficient(short: Shortage) -> Rejection:
    return Rejection(
        f"OutOf{short.resource}",
        f"Node didn't have enough resource: {short.resource}, "
        f"requested: {short.requested}, used: {short.used}, capacity: {short.capacity}",
    )


def _is_extended(name: str) -> bool:
    """Whether a resource may belong to the cluster rather than to the node (devices by name)."""
    return "/" in name and "kubernetes.io/" not in name


def _predicates(pod: Object, node: Object, claim: Claim, usage: Usage) -> Rejection | None:
    spec, name = pod["spec"], node["metadata"]["name"]
    labels = node["metadata"].get("labels") or {}
    if not _affinity_matches(spec, labels, name):
        return _failed("NodeAffinity", "node(s) didn't match Pod's node affinity/selector")
    if spec.get("nodeName") not in {None, "", name}:
        return _failed("NodeName", "node(s) didn't match the requested node name")
    if any(_clash(mine, theirs) for mine in claim.ports for theirs in usage.ports):
        return _failed("NodePorts", "node(s) didn't have free ports for the requested pod ports")
    taints = node.get("spec", {}).get("taints") or ()
    tolerations = spec.get("tolerations") or ()
    if is_static(pod):
        return None
    if selectors.untolerated_taint(taints, tolerations, effects=("NoExecute",)) is not None:
        return _failed("TaintToleration", "node(s) had taints that the pod didn't tolerate")
    return None


def is_static(pod: Object) -> bool:
    """Whether the pod comes from the node itself and not from the API."""
    return objects.annotations(pod).get("kubernetes.io/config.source", "api") != "api"


def is_critical(pod: Object) -> bool:
    """Whether a pod is so important that others make room for it."""
    if is_static(pod) or static_manifests.MIRROR in objects.annotations(pod):
        return True
    return bool((pod["spec"].get("priority") or 0) >= SYSTEM_CRITICAL)


def _failed(predicate: str, description: str) -> Rejection:
    return Rejection(predicate, f"Predicate {predicate} failed: {description}")


def _affinity_matches(spec: Object, labels: Mapping[str, str], name: str) -> bool:
    for key, value in (spec.get("nodeSelector") or {}).items():
        if labels.get(key) != value:
            return False
    affinity = (spec.get("affinity") or {}).get("nodeAffinity") or {}
    required = affinity.get("requiredDuringSchedulingIgnoredDuringExecution")
    if required is None:
        return True
    return selectors.node_selector(required).matches(labels, {"metadata.name": name})


def _clash(mine: HostPort, theirs: HostPort) -> bool:
    if mine[1:] != theirs[1:]:
        return False
    return mine[0] == theirs[0] or mine[0] in _ANY_ADDRESS or theirs[0] in _ANY_ADDRESS


def _apparmor(pod: Object, machine: Machine) -> Rejection | None:
    """A pod that runs already has had its profiles."""
    if ((pod.get("status") or {}).get("phase") or "Pending") != "Pending":
        return None
    refusal = apparmor.refusal(pod, machine.apparmor)
    return Rejection("AppArmor", f"Cannot enforce AppArmor: {refusal}") if refusal else None


# Features that nodes declare.


def _features(spec: Object, node: Object) -> Rejection | None:
    declared = (node.get("status") or {}).get("declaredFeatures") or ()
    missing = [name for name in sorted(_needed(spec)) if name not in declared]
    if not missing:
        return None
    return Rejection(
        "PodFeatureUnsupported",
        f"Pod requires node features that are not available: {', '.join(missing)}",
    )


def _needed(spec: Object) -> set[str]:
    needed = set()
    for definition in (*containers.regular(spec), *containers.init(spec)):
        rules = definition.get("restartPolicyRules") or ()
        if any(rule.get("action") == "RestartAllContainers" for rule in rules):
            needed.add("RestartAllContainersOnContainerExits")
    if spec.get("hostNetwork") and spec.get("hostUsers") is False:
        needed.add("UserNamespacesHostNetworkSupport")
    return needed
