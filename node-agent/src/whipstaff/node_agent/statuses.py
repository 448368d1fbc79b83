"""The status of a pod: a pure function of its spec, its runtime state and its last status.

`generate` makes what should be reported; `hold_back` and `finish` are the two corrections that
depend on how far the pod's worker has come: no terminal phase before the last container has
stopped, and no status without an end after it. Answers to ``generateAPIPodStatus`` in
``pkg/kubelet/kubelet_pods.go`` and to TerminatePod and mergePodStatus in
``pkg/kubelet/status/status_manager.go``. Leaves out the status of in-place resizes.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field

from whipstaff.node_agent import (
    conditions,
    container_statuses,
    containers,
    phases,
    provider,
    requirements,
    texts,
)
from whipstaff.runtime import objects

Object = objects.Object

_LISTS: tuple[tuple[provider.Kind, str], ...] = (
    ("container", "containerStatuses"),
    ("init", "initContainerStatuses"),
    ("ephemeral", "ephemeralContainerStatuses"),
)

# Bytes of termination messages that the containers of a pod may have together.
_MESSAGES = 12 << 10


@dataclass(frozen=True, slots=True)
class Verdict:
    """The node's word that a pod has failed whatever its containers do, e.g. past its deadline.

    Attributes:
        disruption: the node ended it for its own sake (eviction, shutdown), not by its own fault.
        explanation: what the condition that says so has to say, if it isn't the message.
        grace: seconds for stopping its containers; None for what its spec says.
    """

    reason: str
    message: str
    disruption: bool = False
    grace: float | None = None
    explanation: str = ""


@dataclass(frozen=True, slots=True)
class Observation:
    """What a status is made from, besides the pod's object.

    Attributes:
        runtime: what runs.
        errors: why the starts of containers were put off, by container.
        type: the provider's name, the scheme of container IDs.
        host_ips: the node's addresses, at most one a family.
        verdict: the node's word that the pod has failed.
    """

    runtime: provider.RuntimePod
    type: str
    host_ips: Sequence[str] = ()
    errors: Mapping[str, container_statuses.StartError] = field(default_factory=dict)
    verdict: Verdict | None = None


def generate(
    pod: Object, observed: Observation, old: Object, now: float, *, terminal: bool = False
) -> Object:
    """The status to report.

    Args:
        pod: the pod, with the status that the API has.
        observed: what the node knows of it.
        old: the status last generated; the API's if none was.
        now: seconds since the epoch.
        terminal: the containers have stopped for good, whatever the restart policy says.
    """
    spec = pod["spec"]
    api = pod.get("status") or {}
    restarting = conditions.restart_all(spec, observed.runtime, old.get("conditions") or ())
    view = container_statuses.View(
        pod, observed.runtime, observed.errors, observed.type, restarting
    )
    status: Object = {}
    for kind, name in _LISTS:
        found = container_statuses.generate(view, kind, old.get(name) or ())
        if found or name in old:
            status[name] = found
    _shorten_messages(status, pod["spec"])
    by_name = _by_name(status)
    phase = phases.phase_of(
        spec, by_name, terminal=terminal, initialized=_any_regular_active(spec, observed.runtime)
    )
    _add_phase(status, phase, observed.verdict, old, api)
    _add_addresses(status, pod, observed, old)
    status["qosClass"] = api.get("qosClass") or requirements.qos_class(spec)
    status["startTime"] = old.get("startTime") or texts.timestamp(now)
    status["conditions"] = conditions.generate(
        pod,
        observed.runtime,
        by_name,
        status["phase"],
        old.get("conditions") or (),
        now,
        _disruption(observed),
    )
    generation = pod["metadata"].get("generation", 0)
    if generation:
        status["observedGeneration"] = max(generation, old.get("observedGeneration", 0))
    return status


def hold_back(status: Object, old: Object) -> Object:
    """The status while containers may still run: nothing is over before they have stopped."""
    if not conditions.is_terminal(status) or conditions.is_terminal(old):
        return status
    held = {k: v for k, v in status.items() if k not in {"phase", "reason", "message"}}
    held["phase"] = old.get("phase") or "Pending"
    held.update((key, old[key]) for key in ("reason", "message") if old.get(key))
    return held


def finish(pod: Object, status: Object, observed: Observation, now: float) -> Object:
    """The last status: every container that was ever due has ended, and so has the pod."""
    spec = pod["spec"]
    finished = dict(status)
    if _has_initialized(spec, finished):
        finished["containerStatuses"] = [
            s if "terminated" in s["state"] else container_statuses.lost(s)
            for s in finished.get("containerStatuses") or ()
        ]
    if finished.get("initContainerStatuses"):
        due = _due(finished["initContainerStatuses"])
        finished["initContainerStatuses"] = [
            container_statuses.lost(s) if i < due and "terminated" not in s["state"] else s
            for i, s in enumerate(finished["initContainerStatuses"])
        ]
    if conditions.is_terminal(finished):
        return finished
    finished["phase"] = "Failed"
    finished["conditions"] = conditions.generate(
        pod,
        observed.runtime,
        _by_name(finished),
        "Failed",
        status["conditions"],
        now,
        _disruption(observed),
    )
    return finished


def newly_ended(old: Object, status: Object) -> Iterator[tuple[provider.Kind, Object]]:
    """How containers have ended that hadn't in the status before, by their kind."""
    for kind, name in _LISTS:
        before = {one["name"] for one in old.get(name) or () if _end(one)}
        for one in status.get(name) or ():
            if (ended := _end(one)) and one["name"] not in before:
                yield kind, ended


def _end(status: Object) -> Object | None:
    found: Object | None = (status.get("state") or {}).get("terminated")
    return found


def _disruption(observed: Observation) -> str:
    verdict = observed.verdict
    if verdict is None or not verdict.disruption:
        return ""
    return verdict.explanation or verdict.message


def _add_phase(
    status: Object, phase: str, verdict: Verdict | None, old: Object, api: Object
) -> None:
    if conditions.is_terminal(api):
        phase = api["phase"]
    elif conditions.is_terminal(old) and phase not in phases.TERMINAL:
        phase = old["phase"]
    status["phase"] = phase
    if phase == old.get("phase"):
        for key in ("reason", "message"):
            kept = old.get(key) or api.get(key)
            if kept:
                status[key] = kept
    if verdict is not None and not conditions.is_terminal(api):
        status.update(phase="Failed", reason=verdict.reason, message=verdict.message)


def _add_addresses(status: Object, pod: Object, observed: Observation, old: Object) -> None:
    ips: Sequence[str] = observed.runtime.sandbox.ips if observed.runtime.sandbox else ()
    if observed.host_ips:
        status["hostIP"] = observed.host_ips[0]
        status["hostIPs"] = [{"ip": ip} for ip in observed.host_ips]
        if pod["spec"].get("hostNetwork") and not ips:
            ips = observed.host_ips
    if ips:
        status["podIP"] = ips[0]
        status["podIPs"] = [{"ip": ip} for ip in ips]
    elif old.get("podIPs") and not any(s.ready for s in observed.runtime.sandboxes):
        # The runtime forgets the addresses of a sandbox that has stopped; who reads statuses
        # may still want to know where the pod was.
        status.update(podIP=old.get("podIP", ""), podIPs=old["podIPs"])


def _shorten_messages(status: Object, spec: Object) -> None:
    """Give each container its part of the room that a pod's termination messages have."""
    room = _MESSAGES // max(sum(1 for _ in containers.every(spec)), 1)
    for _, name in _LISTS:
        for one in status.get(name) or ():
            for key in ("state", "lastState"):
                ended = (one.get(key) or {}).get("terminated") or {}
                message = ended.get("message", "").encode()
                if len(message) > room:
                    short = message[:room].decode(errors="ignore")
                    one[key] = {"terminated": {**ended, "message": short}}


def _by_name(status: Object) -> dict[str, Object]:
    found = list(status.get("initContainerStatuses") or ())
    found += status.get("containerStatuses") or ()
    return {s["name"]: s for s in found}


def _any_regular_active(spec: Object, runtime: provider.RuntimePod) -> bool:
    if runtime.sandbox is None:
        return False
    names = {definition["name"] for definition in containers.regular(spec)}
    return any(
        run.name in names and run.sandbox_id == runtime.sandbox.id for run in runtime.containers
    )


def _has_initialized(spec: Object, status: Object) -> bool:
    """Whether the regular containers were ever due, so that one without an end has failed."""
    definitions = containers.init(spec)
    if not definitions:
        return True
    for one in status.get("containerStatuses") or ():
        if "waiting" not in one["state"] or "terminated" in (one.get("lastState") or {}):
            return True
    inits = status.get("initContainerStatuses") or ()
    if not inits:
        return False
    last = inits[-1]
    if containers.is_sidecar(definitions[-1]):
        return "running" in last["state"] and bool(last.get("started"))
    ends = (last["state"].get("terminated"), (last.get("lastState") or {}).get("terminated"))
    return any(end is not None and end["exitCode"] == 0 for end in ends)


def _due(statuses: Sequence[Object]) -> int:
    """How many init containers were ever due: all but the trailing ones that still wait."""
    for i in range(len(statuses), 0, -1):
        one = statuses[i - 1]
        if "waiting" not in one["state"] or "terminated" in (one.get("lastState") or {}):
            return i
    return min(1, len(statuses))
