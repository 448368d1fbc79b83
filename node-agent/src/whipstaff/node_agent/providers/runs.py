"""The runs of simulated containers: their identities, their ends, and how a status recalls them.

Pure. An ID is made from the pod's UID, the container's name and the attempt, so a run has the same
one in every life of the agent.
"""

from __future__ import annotations

import dataclasses
import hashlib
from collections.abc import Mapping
from dataclasses import dataclass

from whipstaff.node_agent import containers, provider, texts
from whipstaff.runtime import objects

Object = objects.Object
State = provider.State


@dataclass(frozen=True, slots=True)
class Ending:
    """How a run ends; without a reason, ``Completed`` or ``Error`` as its exit code has it."""

    at: float
    code: int = 0
    reason: str = ""
    message: str = ""


def identity(uid: str, name: str, attempt: int) -> str:
    """The ID of a run, or of a sandbox."""
    return hashlib.sha256(f"{uid}/{name}/{attempt}".encode()).hexdigest()


def ended(run: provider.RuntimeContainer, ending: Ending) -> provider.RuntimeContainer:
    """The run, over."""
    return dataclasses.replace(
        run,
        state=State.EXITED,
        finished_at=max(ending.at, run.started_at),
        exit_code=ending.code,
        reason=ending.reason or ("Error" if ending.code else "Completed"),
        message=ending.message,
        probes=provider.NO_PROBES,
    )


def recalled(pod: Object, status: Object, scheme: str) -> list[provider.RuntimeContainer]:
    """The runs that a pod's status tells of, as far as their IDs are of this scheme."""
    found = []
    for key in ("initContainerStatuses", "containerStatuses", "ephemeralContainerStatuses"):
        for told in status.get(key) or ():
            run = _run_in(pod, told, scheme)
            if run is not None:
                found.append(run)
    return found


def _run_in(pod: Object, told: Object, wanted: str) -> provider.RuntimeContainer | None:
    scheme, _, identity = (told.get("containerID") or "").partition("://")
    state = told.get("state") or {}
    end = state.get("terminated") or (
        (told.get("lastState") or {}).get("terminated") if "waiting" in state else None
    )
    if scheme != wanted or not identity or ("running" not in state and end is None):
        return None
    started = state.get("running") or end or {}
    found = containers.find(pod["spec"], told["name"])
    run = provider.RuntimeContainer(
        id=identity,
        name=told["name"],
        state=State.RUNNING,
        attempt=told.get("restartCount", 0),
        image=told.get("image", ""),
        image_ref=told.get("imageID", ""),
        definition_image=told.get("image", ""),
        created_at=texts.seconds(started.get("startedAt")),
        started_at=texts.seconds(started.get("startedAt")),
    )
    if "running" in state:
        return dataclasses.replace(run, probes=_told_probes(told, found[1] if found else {}))
    assert end is not None
    ending = Ending(
        texts.seconds(end.get("finishedAt")),
        end["exitCode"],
        end.get("reason", ""),
        end.get("message", ""),
    )
    return ended(run, ending)


def _told_probes(told: Object, definition: Object) -> Mapping[str, bool]:
    results: dict[str, bool] = {}
    if "startupProbe" in definition and told.get("started"):
        results["startup"] = True
    if "readinessProbe" in definition:
        results["readiness"] = bool(told.get("ready"))
    return results or provider.NO_PROBES
