"""The runtime itself: what it is, what it can do, whether it is well.

Runs no loop; owns when it was last seen well, since a runtime that is restarted isn't down for the
node at once. Answers to updateRuntimeUp in ``pkg/kubelet/kubelet.go`` and to
``pkg/kubelet/runtime.go``.
"""

from __future__ import annotations

import dataclasses
import re
import time
from collections.abc import Callable

import grpc
import orjson
from grpc import aio

from whipstaff.node_agent import provider
from whipstaff.node_agent.providers.cri import connection, containers
from whipstaff.node_agent.providers.cri.api import runtime_pb2 as pb
from whipstaff.node_agent.providers.cri.api import runtime_pb2_grpc as services
from whipstaff.runtime import logs

# maxWaitForContainerRuntime: how long a runtime may be away before the node isn't ready.
_PATIENCE = 30.0
# The first versions that can mount images into containers.
_IMAGE_MOUNTS = {"containerd": (2, 1), "cri-o": (1, 31)}

_log = logs.get("node_agent.providers.cri")


class Machinery:
    """What is known of one runtime.

    Args:
        runtime: the CRI.
        clock: monotonic seconds.
    """

    def __init__(
        self, runtime: services.RuntimeServiceStub, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._runtime = runtime
        self._clock = clock
        self._version: pb.VersionResponse | None = None
        self._status: provider.RuntimeStatus | None = None
        self._well_at: float | None = None
        self._driver: str | None = None
        self._recursive: frozenset[str] = frozenset()

    async def version(self) -> pb.VersionResponse:
        """Its name and version, as it says once.

        Raises:
            provider.ProviderError: it doesn't answer.
        """
        if self._version is None:
            with connection.failing("the container runtime doesn't answer"):
                self._version = await self._runtime.Version(
                    pb.VersionRequest(version="0.1.0"), timeout=connection.TIMEOUT
                )
        return self._version

    async def ability(self) -> containers.Ability:
        """What it can do with containers.

        Raises:
            provider.ProviderError: it doesn't answer.
        """
        version = await self.version()
        if self._status is None:
            await self.status()
        least = _IMAGE_MOUNTS.get(version.runtime_name)
        return containers.Ability(
            name=f"{version.runtime_name} {version.runtime_version}",
            image_mounts=least is not None and _numbers(version.runtime_version) >= least,
            recursive_readonly=self._recursive,
        )

    async def status(self) -> provider.RuntimeStatus:
        """Whether containers can be run now."""
        try:
            version = await self.version()
            answer = await self._runtime.Status(
                pb.StatusRequest(verbose=self._driver is None), timeout=connection.TIMEOUT
            )
            if self._driver is None:
                self._driver = await self._find_driver(answer)
        except (aio.AioRpcError, provider.ProviderError) as error:
            _log.warning("container runtime sanity check failed", error=str(error))
            # Another version may be the one that comes back.
            self._version = None
            return self._away()
        self._recursive = frozenset(
            each.name
            for each in answer.runtime_handlers
            if each.features.recursive_read_only_mounts
        )
        found = problems(answer.status)
        if not any(each.startswith("container runtime not ready") for each in found):
            self._well_at = self._clock()
        status = provider.RuntimeStatus(
            version=f"{version.runtime_name}://{version.runtime_version}",
            problems=(*self._absence(), *found),
            handlers=tuple(_handler(each) for each in answer.runtime_handlers),
            cgroup_driver=self._driver,
            features=_features(answer),
        )
        self._status = status
        return status

    def _away(self) -> provider.RuntimeStatus:
        """The runtime doesn't answer: for a little time, nothing has changed."""
        known = self._status or provider.RuntimeStatus(version="containerd://unknown")
        absence = self._absence()
        return dataclasses.replace(known, problems=absence) if absence else known

    def _absence(self) -> tuple[str, ...]:
        """What is wrong with a runtime that hasn't been well for too long."""
        if self._well_at is None:
            return ("container runtime status check may not have completed yet",)
        if self._clock() - self._well_at < _PATIENCE:
            return ()
        return ("container runtime is down",)

    async def _find_driver(self, status: pb.StatusResponse) -> str:
        """How cgroups are to be named; runtimes without RuntimeConfig show their configuration."""
        try:
            answer = await self._runtime.RuntimeConfig(
                pb.RuntimeConfigRequest(), timeout=connection.TIMEOUT
            )
        except aio.AioRpcError as error:
            if error.code() is not grpc.StatusCode.UNIMPLEMENTED:
                raise
            return configured_driver(status.info.get("config", ""))
        return "systemd" if answer.linux.cgroup_driver == pb.SYSTEMD else "cgroupfs"


def problems(status: pb.RuntimeStatus) -> tuple[str, ...]:
    """Why containers can't be run, in the kubelet's words."""
    found = []
    conditions = {each.type: each for each in status.conditions}
    for kind, what in (("RuntimeReady", "runtime"), ("NetworkReady", "runtime network")):
        condition = conditions.get(kind)
        if condition is None:
            found.append(f"container {what} not ready: <nil>")
        elif not condition.status:
            found.append(
                f"container {what} not ready: {kind}=false "
                f"reason:{condition.reason} message:{condition.message}"
            )
    return tuple(found)


def configured_driver(config: str) -> str:
    """The cgroup driver that containerd's configuration (JSON) has for its default runtime."""
    if not config:
        return ""
    containerd = orjson.loads(config).get("containerd") or {}
    runtimes = containerd.get("runtimes") or {}
    default = runtimes.get(containerd.get("defaultRuntimeName") or "runc") or {}
    systemd = (default.get("options") or {}).get("SystemdCgroup")
    return "systemd" if systemd else "cgroupfs"


def _handler(handler: pb.RuntimeHandler) -> provider.Object:
    return {
        "name": handler.name,
        "features": {
            "recursiveReadOnlyMounts": handler.features.recursive_read_only_mounts,
            "userNamespaces": handler.features.user_namespaces,
        },
    }


def _features(status: pb.StatusResponse) -> provider.Object | None:
    if not status.HasField("features"):
        return None
    return {"supplementalGroupsPolicy": status.features.supplemental_groups_policy}


def _numbers(version: str) -> tuple[int, ...]:
    """``v2.1.0-rc.1`` as (2, 1, 0)."""
    found = re.match(r"v?(\d+(?:\.\d+)*)", version)
    return tuple(map(int, found[1].split("."))) if found else ()
