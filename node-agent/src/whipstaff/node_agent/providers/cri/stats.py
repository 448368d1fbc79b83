"""What containers and sandboxes use, as the runtime counts it.

Runs no loop and owns nothing. Answers to ``pkg/kubelet/stats/cri_stats_provider.go``. Leaves out
what the kernel's own files tell better: the core reads the cgroups of pods and of the node itself,
`networks` what went through sandboxes' interfaces; the runtime is asked about sandboxes only where
those can't be read.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from typing import Any

import grpc
from grpc import aio

from whipstaff.node_agent import provider
from whipstaff.node_agent.providers.cri import connection, labels, networks, register
from whipstaff.node_agent.providers.cri.api import runtime_pb2 as pb
from whipstaff.node_agent.providers.cri.api import runtime_pb2_grpc as services
from whipstaff.runtime import logs

_log = logs.get("node_agent.providers.cri")


class Stats:
    """The usage of one runtime's containers.

    Args:
        runtime: the CRI.
        known: which sandboxes there are.
    """

    def __init__(self, runtime: services.RuntimeServiceStub, known: register.Register) -> None:
        self._runtime = runtime
        self._networks = networks.Networks(runtime, known)
        self._counts_sandboxes = True

    async def read(self, uid: str | None) -> Mapping[str, provider.Usage]:
        """Usage by container and sandbox ID, of one pod or of all.

        Raises:
            provider.ProviderError: the runtime doesn't answer.
        """
        with connection.failing(""):
            listed, pods = await asyncio.gather(self._containers(uid), self._sandboxes(uid))
        return {**pods, **{each.attributes.id: of_container(each) for each in listed}}

    async def _containers(self, uid: str | None) -> list[pb.ContainerStats]:
        answer = await self._runtime.ListContainerStats(
            pb.ListContainerStatsRequest(
                filter=pb.ContainerStatsFilter(label_selector=labels.selector(uid))
            ),
            timeout=connection.TIMEOUT,
        )
        return list(answer.stats)

    async def _sandboxes(self, uid: str | None) -> Mapping[str, provider.Usage]:
        found = await self._networks.read(uid)
        if found is not None:
            return found
        return {each.attributes.id: of_sandbox(each) for each in await self._counted(uid)}

    async def _counted(self, uid: str | None) -> list[pb.PodSandboxStats]:
        if not self._counts_sandboxes:
            return []
        try:
            answer = await self._runtime.ListPodSandboxStats(
                pb.ListPodSandboxStatsRequest(
                    filter=pb.PodSandboxStatsFilter(label_selector=labels.selector(uid))
                ),
                timeout=connection.TIMEOUT,
            )
        except aio.AioRpcError as error:
            if error.code() is grpc.StatusCode.UNAVAILABLE:
                raise
            if error.code() is not grpc.StatusCode.UNIMPLEMENTED:
                # One sandbox that comes or goes makes containerd 1.6 tell of none.
                return await self._one_by_one(uid)
            self._counts_sandboxes = False
            return []
        return list(answer.stats)

    async def _one_by_one(self, uid: str | None) -> list[pb.PodSandboxStats]:
        ready = pb.PodSandboxFilter(
            label_selector=labels.selector(uid),
            state=pb.PodSandboxStateValue(state=pb.SANDBOX_READY),
        )
        listed = await self._runtime.ListPodSandbox(
            pb.ListPodSandboxRequest(filter=ready), timeout=connection.TIMEOUT
        )
        found = []
        for item in listed.items:
            try:
                answer = await self._runtime.PodSandboxStats(
                    pb.PodSandboxStatsRequest(pod_sandbox_id=item.id), timeout=connection.TIMEOUT
                )
            except aio.AioRpcError as error:
                if error.code() is grpc.StatusCode.UNAVAILABLE:
                    raise
                _log.debug("a sandbox can't be measured", sandbox=item.id, error=error.details())
                continue
            found.append(answer.stats)
        return found


def of_container(stats: pb.ContainerStats) -> provider.Usage:
    """A container's usage."""
    cpu, memory, layer = stats.cpu, stats.memory, stats.writable_layer
    return provider.Usage(
        at=(cpu.timestamp or memory.timestamp) / 1e9,
        cpu_nanoseconds=_value(cpu, "usage_core_nano_seconds"),
        memory=_value(memory, "usage_bytes"),
        working_set=_value(memory, "working_set_bytes"),
        rss=_value(memory, "rss_bytes"),
        page_faults=_value(memory, "page_faults"),
        major_page_faults=_value(memory, "major_page_faults"),
        filesystem=_value(layer, "used_bytes"),
        inodes=_value(layer, "inodes_used"),
    )


def of_sandbox(stats: pb.PodSandboxStats) -> provider.Usage:
    """What the containers of a pod use together, and its network."""
    cpu, memory, network = stats.linux.cpu, stats.linux.memory, stats.linux.network
    interface = network.default_interface
    return provider.Usage(
        at=(cpu.timestamp or network.timestamp) / 1e9,
        cpu_nanoseconds=_value(cpu, "usage_core_nano_seconds"),
        memory=_value(memory, "usage_bytes"),
        working_set=_value(memory, "working_set_bytes"),
        rss=_value(memory, "rss_bytes"),
        page_faults=_value(memory, "page_faults"),
        major_page_faults=_value(memory, "major_page_faults"),
        interface=interface.name,
        received=_value(interface, "rx_bytes"),
        receive_errors=_value(interface, "rx_errors"),
        sent=_value(interface, "tx_bytes"),
        send_errors=_value(interface, "tx_errors"),
        processes=_value(stats.linux.process, "process_count"),
    )


def _value(message: Any, name: str) -> int | None:
    """A number that is wrapped to tell nothing from zero."""
    return int(getattr(message, name).value) if message.HasField(name) else None
