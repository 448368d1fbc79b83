"""The phase of a pod, from its spec and its containers' statuses.

Pure. Answers to ``getPhase`` in ``pkg/kubelet/kubelet_pods.go`` with ContainerRestartRules on, as
they are by default. That a pod never leaves Succeeded or Failed, and isn't called either while a
container may run, is not decided here but where statuses are made (`statuses`) and published
(`workers`).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from whipstaff.node_agent import containers
from whipstaff.runtime import objects

Object = objects.Object

TERMINAL = frozenset({"Succeeded", "Failed"})


# The reason of the last end of a container that was removed so that all of them start anew.
RESTARTING = "RestartingAllContainers"


@dataclass(slots=True)
class _Counts:
    """What the containers are doing, in numbers; sidecars count as running or waiting only."""

    pending_init: int = 0
    pending_sidecars: int = 0
    failed_init: int = 0
    unknown: int = 0
    running: int = 0
    waiting: int = 0
    stopped: int = 0
    restarting: int = 0
    succeeded: int = 0


def phase_of(
    spec: Object, statuses: Mapping[str, Object], *, terminal: bool, initialized: bool
) -> str:
    """Pending, Running, Succeeded or Failed.

    Args:
        spec: the pod's spec.
        statuses: the statuses of its init and regular containers, by name.
        terminal: nothing will be restarted any more, whatever the restart policy says.
        initialized: a regular container has been started in the current sandbox, so that a
            restarting sidecar doesn't make the pod Pending again.
    """
    counts = _Counts()
    for definition in containers.init(spec):
        if containers.is_sidecar(definition):
            _count_sidecar(counts, statuses.get(definition["name"]))
        else:
            _count_init(counts, definition, spec, statuses.get(definition["name"]))
    for definition in containers.regular(spec):
        _count_regular(counts, definition, spec, statuses.get(definition["name"]))
    return _phase(counts, terminal=terminal, initialized=initialized)


def _phase(counts: _Counts, *, terminal: bool, initialized: bool) -> str:
    if counts.failed_init:
        return "Failed"
    initializing = counts.pending_init or (counts.pending_sidecars and not initialized)
    if initializing or counts.waiting or counts.unknown:
        return "Pending"
    if counts.running or (counts.restarting and not terminal):
        return "Running"
    if not counts.stopped:
        return "Pending"
    return "Succeeded" if counts.stopped == counts.succeeded else "Failed"


def _count_init(counts: _Counts, definition: Object, spec: Object, status: Object | None) -> None:
    ended = _last_end(status)
    if status is None or "running" in status["state"] or ended is None:
        counts.pending_init += 1
    elif ended["exitCode"] != 0 and not _restarts(definition, spec, ended):
        counts.failed_init += 1


def _count_sidecar(counts: _Counts, status: Object | None) -> None:
    state = status["state"] if status else {}
    if status is None:
        counts.unknown += 1
    elif "running" in state:
        counts.running += 1
        if not status.get("started"):
            counts.pending_sidecars += 1
    elif "terminated" not in state and _last_end(status) is None:
        counts.pending_sidecars += 1
        counts.waiting += 1


def _count_regular(
    counts: _Counts, definition: Object, spec: Object, status: Object | None
) -> None:
    if status is None:
        counts.unknown += 1
        return
    if "running" in status["state"]:
        counts.running += 1
        return
    ended = _last_end(status)
    if ended is None:
        counts.waiting += 1
        return
    counts.stopped += 1
    if _restarts(definition, spec, ended):
        counts.restarting += 1
    if ended["exitCode"] == 0 and "terminated" in status["state"]:
        counts.succeeded += 1


def _restarts(definition: Object, spec: Object, ended: Object) -> bool:
    if ended.get("reason") == RESTARTING:
        return True
    return containers.restarts(definition, spec, ended["exitCode"])


def _last_end(status: Object | None) -> Object | None:
    """How the container ended, now or (while it waits for its restart) the last time."""
    if status is None:
        return None
    terminated: Object | None = status["state"].get("terminated")
    if terminated is None and "running" not in status["state"]:
        terminated = (status.get("lastState") or {}).get("terminated")
    return terminated
