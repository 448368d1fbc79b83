"""What the runtime says of sandboxes and containers, in the core's words.

Pure, but for the termination message that is read from a file. Answers to toKubeContainerStatus in
``pkg/kubelet/kuberuntime/kuberuntime_container.go``, to determinePodSandboxIPs in
``kuberuntime_sandbox.go`` and to PodSandboxChanged in ``util/util.go``.
"""

from __future__ import annotations

import dataclasses
import ipaddress
from collections.abc import Iterable, Mapping
from typing import Any

import orjson

from whipstaff.node_agent import provider, requirements
from whipstaff.node_agent.cgroups import numbers as cgroup_numbers
from whipstaff.node_agent.providers.cri import labels, termination
from whipstaff.node_agent.providers.cri.api import runtime_pb2 as pb
from whipstaff.runtime import objects

Object = objects.Object
State = provider.State

_STATES: Mapping[int, State] = {
    pb.CONTAINER_CREATED: State.CREATED,
    pb.CONTAINER_RUNNING: State.RUNNING,
    pb.CONTAINER_EXITED: State.EXITED,
    pb.CONTAINER_UNKNOWN: State.UNKNOWN,
}
_NANOSECONDS = 1e9
KILLED = 137
FORGOTTEN = "Unknown"
"""containerd's reason for an end that it didn't see (``unknownExitReason`` of its cri server)."""


def state(listed: int) -> State:
    """A container's state."""
    return _STATES.get(listed, State.UNKNOWN)


def has_started(status: pb.ContainerStatus) -> bool:
    """Whether a container counts as a run.

    One that was only created doesn't, nor one whose start was broken off because the agent that
    asked for it was killed: it never ran, and that wasn't its fault.
    """
    if status.state != pb.CONTAINER_EXITED:
        return status.state != pb.CONTAINER_CREATED
    return not (status.reason == "StartError" and "context canceled" in status.message)


def sandbox(status: pb.PodSandboxStatus) -> provider.Sandbox:
    """A sandbox.

    It is ready only with an address, unless its network is the node's; and only as long as it is
    ready does it have one: of a sandbox whose making was cut short nobody should hear.
    """
    up = status.state == pb.SANDBOX_READY
    ips = _ips([status.network.ip, *(more.ip for more in status.network.additional_ips)])
    on_node = status.linux.namespaces.options.network == pb.NODE
    return provider.Sandbox(
        id=status.id,
        attempt=status.metadata.attempt,
        ready=up and (on_node or bool(ips)),
        ips=ips if up else (),
        created_at=status.created_at / _NANOSECONDS,
    )


def container(
    status: pb.ContainerStatus, sandbox_id: str, actuated: Object | None = None
) -> provider.RuntimeContainer:
    """A container.

    Args:
        status: what the runtime says of it.
        sandbox_id: its sandbox.
        actuated: the resources that it was given last, where that is known; what it was started
            with otherwise.
    """
    found = state(status.state)
    annotations = status.annotations
    run = provider.RuntimeContainer(
        id=status.id,
        name=status.labels.get(labels.CONTAINER_NAME, ""),
        state=found,
        attempt=_attempt(status),
        sandbox_id=sandbox_id,
        image=status.image.image,
        image_ref=status.image_id or status.image_ref,
        definition_image=annotations.get(labels.DEFINITION_IMAGE, ""),
        created_at=status.created_at / _NANOSECONDS,
        started_at=0.0 if found is State.CREATED else status.started_at / _NANOSECONDS,
        log_path=status.log_path,
        resources=resources(status, actuated),
        user=user(status),
    )
    if found is not State.EXITED:
        return run
    return ended(
        run,
        status.finished_at / _NANOSECONDS,
        status.exit_code,
        status.reason,
        termination.message(termination.source(status), status.exit_code, status.message),
    )


def ended(
    run: provider.RuntimeContainer, at: float, exit_code: int, reason: str, message: str
) -> provider.RuntimeContainer:
    """A container that has ended; without a reason, its exit code says it."""
    return dataclasses.replace(
        run,
        state=State.EXITED,
        finished_at=at,
        exit_code=exit_code,
        reason=reason or ("Error" if exit_code else "Completed"),
        message=message,
    )


def gone(run: provider.RuntimeContainer, now: float) -> provider.RuntimeContainer:
    """A container that the runtime doesn't know any more, and so nobody knows how it ended."""
    message = "The container could not be located when the pod was terminated"
    return ended(run, now, KILLED, "ContainerStatusUnknown", message)


def user(status: pb.ContainerStatus) -> Object | None:
    """Who the container's first process runs as; None from runtimes that don't tell."""
    if not status.user.HasField("linux"):
        return None
    linux = status.user.linux
    found: Object = {"uid": linux.uid, "gid": linux.gid}
    if linux.supplemental_groups:
        found["supplementalGroups"] = list(linux.supplemental_groups)
    return {"linux": found}


def resources(status: pb.ContainerStatus, actuated: Object | None) -> Object | None:
    """What is set for a container; requests of memory are nowhere but in our own notes."""
    noted = status.annotations.get(labels.RESOURCES)
    base = actuated if actuated is not None else orjson.loads(noted) if noted else None
    if not status.resources.HasField("linux"):
        return base
    linux = status.resources.linux
    cpu_limit = cgroup_numbers.millicores_of_quota(linux.cpu_quota, linux.cpu_period)
    asked: dict[str, Any] = dict((base or {}).get("requests") or {})
    limited: dict[str, Any] = dict((base or {}).get("limits") or {})
    _set(limited, "cpu", cpu_limit, f"{cpu_limit}m")
    _set(limited, "memory", linux.memory_limit_in_bytes, str(linux.memory_limit_in_bytes))
    if linux.cpu_shares > cgroup_numbers.MIN_SHARES:
        cpu = cgroup_numbers.millicores_of_shares(linux.cpu_shares)
        # Shares are coarser than millicores: what would be set is what is set.
        known = requirements.amounts({"cpu": asked["cpu"]})["cpu"] if "cpu" in asked else None
        if known is None or cgroup_numbers.shares(known) != linux.cpu_shares:
            _set(asked, "cpu", cpu, f"{cpu}m")
    found = {"requests": asked, "limits": limited}
    return {key: value for key, value in found.items() if value} or base


def _set(amounts: dict[str, Any], name: str, amount: int, text: str) -> None:
    """Note an amount, in the words that it was asked for in if it is the same."""
    if amount <= 0:
        return
    if name not in amounts or requirements.amounts({name: amounts[name]})[name] != amount:
        amounts[name] = text


def _attempt(status: pb.ContainerStatus) -> int:
    noted = status.annotations.get(labels.RESTART_COUNT, "")
    return int(noted) if noted.isdecimal() else status.metadata.attempt


def _ips(texts: Iterable[str]) -> tuple[str, ...]:
    """The first address of each family."""
    found: dict[int, str] = {}
    for text in texts:
        if not text:
            continue
        try:
            version = ipaddress.ip_address(text).version
        except ValueError:
            continue
        found.setdefault(version, text)
    return tuple(found.values())
