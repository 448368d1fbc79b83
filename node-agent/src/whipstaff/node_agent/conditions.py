"""The conditions of a pod that belong to the node: ready to start, initialized, ready, scheduled.

Pure. Answers to ``pkg/kubelet/status/generate.go`` and to the lists of owned and shared conditions
in ``pkg/kubelet/types/pod_status.go``. Every condition carries ``observedGeneration``; a condition
that keeps its status keeps its ``lastTransitionTime``. Those of in-place resize are added by
`resizing`.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from whipstaff.node_agent import containers, phases, provider, texts
from whipstaff.runtime import objects

Object = objects.Object

READY_TO_START = "PodReadyToStartContainers"
INITIALIZED = "Initialized"
READY = "Ready"
CONTAINERS_READY = "ContainersReady"
SCHEDULED = "PodScheduled"

DISRUPTION = "DisruptionTarget"
RESTARTING = "AllContainersRestarting"
RESIZES = frozenset({"PodResizePending", "PodResizeInProgress"})

OWNED = RESIZES | {
    *(READY_TO_START, INITIALIZED, READY, CONTAINERS_READY, SCHEDULED, RESTARTING),
}

_BY_NODE = "TerminationByKubelet"


def generate(
    pod: Object,
    runtime: provider.RuntimePod,
    statuses: Mapping[str, Object],
    phase: str,
    old: Iterable[Object],
    now: float,
    disruption: str = "",
) -> list[Object]:
    """The whole list: the conditions of others as they are, then the node's own, in its order.

    Args:
        pod: the pod, with the conditions that the API has.
        runtime: what runs.
        statuses: the statuses of the init and regular containers, by name.
        phase: the phase that goes with them.
        old: the conditions last generated, for the times of their transitions.
        now: seconds since the epoch.
        disruption: why the node ended the pod for its own sake; empty where it didn't.
    """
    foreign = frozenset(OWNED | {DISRUPTION}) if disruption else OWNED
    others = [c for c in pod.get("status", {}).get("conditions") or () if c["type"] not in foreign]
    before = {condition["type"]: condition for condition in old}
    containers_ready = _containers_ready(pod["spec"], statuses, phase)
    own = [
        (READY_TO_START, _verdict(not needs_sandbox(runtime))),
        (INITIALIZED, _initialized(pod["spec"], statuses, phase, before.get(INITIALIZED))),
        (READY, _ready(pod["spec"], containers_ready, others)),
        (CONTAINERS_READY, containers_ready),
        (SCHEDULED, _verdict(True)),
    ]
    if containers.may_restart_all(pod["spec"]):
        own.append((RESTARTING, _restarting(pod["spec"], runtime, phase, before)))
    if disruption:
        own.append((DISRUPTION, _verdict(True, _BY_NODE, disruption)))
    generation = pod["metadata"].get("generation", 0)
    return others + [
        _condition(kind, verdict, before.get(kind), generation, now) for kind, verdict in own
    ]


def owned(conditions: Iterable[Object]) -> frozenset[str]:
    """The types of conditions in a status that are the node's to write.

    DisruptionTarget is, where the node gave it; others give it, too.
    """
    if any(c["type"] == DISRUPTION and c.get("reason") == _BY_NODE for c in conditions):
        return OWNED | {DISRUPTION}
    return OWNED


def restart_all(spec: Object, runtime: provider.RuntimePod, old: Iterable[Object]) -> bool:
    """Whether all containers are to start anew: one has just said so, or that has begun.

    Args:
        spec: the pod's spec.
        runtime: what runs.
        old: the conditions last generated.
    """
    if not containers.may_restart_all(spec):
        return False
    if any(c["type"] == RESTARTING and c.get("status") == "True" for c in old):
        return True
    latest = ((d, runtime.latest(d["name"])) for d in _restartable(spec))
    return any(
        run is not None
        and run.state is provider.State.EXITED
        and containers.restarts_all(definition, run.exit_code)
        for definition, run in latest
    )


def needs_sandbox(runtime: provider.RuntimePod) -> bool:
    """Whether a (new) sandbox must be made before containers can start."""
    sandbox = runtime.sandbox
    if sandbox is None or not sandbox.ready:
        return True
    return sum(s.ready for s in runtime.sandboxes) > 1


def _restartable(spec: Object) -> list[Object]:
    return [*containers.init(spec), *containers.regular(spec)]


def _restarting(
    spec: Object, runtime: provider.RuntimePod, phase: str, before: Mapping[str, Object]
) -> tuple[bool, str, str]:
    """Whether containers are being removed so that all of them start anew."""
    if phase in phases.TERMINAL:
        return _verdict(False, "PodCompleted" if phase == "Succeeded" else "PodFailed")
    left = any(runtime.latest(definition["name"]) is not None for definition in _restartable(spec))
    if not left or not restart_all(spec, runtime, before.values()):
        return _verdict(False)
    message = "container exited with restart policy rule"
    return _verdict(True, "RestartAllContainersStarted", message)


def _condition(
    kind: str, verdict: tuple[bool, str, str], old: Object | None, generation: int, now: float
) -> Object:
    true, reason, message = verdict
    status = "True" if true else "False"
    changed = old is None or old.get("status") != status
    condition: Object = {
        "type": kind,
        "status": status,
        "lastProbeTime": None,
        "lastTransitionTime": (
            texts.timestamp(now) if changed or old is None else old.get("lastTransitionTime")
        ),
    }
    if generation:
        condition["observedGeneration"] = generation
    if reason:
        condition["reason"] = reason
    if message:
        condition["message"] = message
    return condition


def _verdict(true: bool, reason: str = "", message: str = "") -> tuple[bool, str, str]:
    return true, reason, message


def _containers_ready(
    spec: Object, statuses: Mapping[str, Object], phase: str
) -> tuple[bool, str, str]:
    if not statuses:
        return _verdict(False, "UnknownContainerStatuses")
    if phase == "Failed":
        return _verdict(False, "PodFailed")
    counted = [d["name"] for d in containers.init(spec) if containers.is_sidecar(d)]
    counted += [d["name"] for d in containers.regular(spec)]
    unknown = [name for name in counted if name not in statuses]
    if phase == "Succeeded" and not unknown:
        return _verdict(False, "PodCompleted")
    unready = [name for name in counted if name in statuses and not statuses[name].get("ready")]
    message = _complaints({"unknown": unknown, "unready": unready})
    return _verdict(False, "ContainersNotReady", message) if message else _verdict(True)


def _ready(
    spec: Object, containers_ready: tuple[bool, str, str], others: Iterable[Object]
) -> tuple[bool, str, str]:
    if not containers_ready[0]:
        return containers_ready
    found = {condition["type"]: condition for condition in others}
    complaints = []
    for gate in spec.get("readinessGates") or ():
        kind = gate["conditionType"]
        condition = found.get(kind)
        if condition is None:
            complaints.append(
                "corresponding condition of pod readiness gate "
                f"{texts.quoted(kind)} does not exist."
            )
        elif condition["status"] != "True":
            complaints.append(
                f"the status of pod readiness gate {texts.quoted(kind)} "
                f'is not "True", but {condition["status"]}'
            )
    if complaints:
        return _verdict(False, "ReadinessGatesNotReady", ", ".join(complaints))
    return _verdict(True)


def _initialized(
    spec: Object, statuses: Mapping[str, Object], phase: str, old: Object | None
) -> tuple[bool, str, str]:
    definitions = containers.init(spec)
    if not statuses and definitions:
        return _verdict(False, "UnknownContainerStatuses")
    unknown = [d["name"] for d in definitions if d["name"] not in statuses]
    if phase == "Succeeded" and not unknown:
        return _verdict(True, "PodCompleted")
    if any_regular_started(spec, statuses):
        return _verdict(True)
    # What is initialized stays so, also while everything starts again in a new sandbox.
    if old is not None and old.get("status") == "True":
        return _verdict(True)
    incomplete = [
        d["name"]
        for d in definitions
        if d["name"] in statuses and not _is_initialized(d, statuses[d["name"]])
    ]
    message = _complaints({"unknown": unknown, "incomplete": incomplete})
    return _verdict(False, "ContainersNotInitialized", message) if message else _verdict(True)


def any_regular_started(spec: Object, statuses: Mapping[str, Object]) -> bool:
    """Whether a regular container runs or has run, so that initialization lies in the past."""
    for definition in containers.regular(spec):
        state = statuses.get(definition["name"], {}).get("state", {})
        if "running" in state or "terminated" in state:
            return True
    return False


def _is_initialized(definition: Object, status: Object) -> bool:
    field = "started" if containers.is_sidecar(definition) else "ready"
    return bool(status.get(field))


def _complaints(found: Mapping[str, list[str]]) -> str:
    return ", ".join(
        f"containers with {adjective} status: {texts.names(names)}"
        for adjective, names in found.items()
        if names
    )


def is_terminal(status: Object) -> bool:
    """Whether a pod's status says that it has ended."""
    return status.get("phase") in phases.TERMINAL
