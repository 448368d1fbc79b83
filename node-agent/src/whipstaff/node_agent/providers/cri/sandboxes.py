"""Sandboxes: made, found again, stopped and removed.

The runtime reserves a sandbox's name, which its pod and attempt make, for as long as it has
anything of it: so a sandbox whose making was cut short, by a kill of the agent or by a pod's
deletion, is found under that name and used or cleared away before another one is made. Runs no loop
and owns nothing. Answers to ``pkg/kubelet/kuberuntime/kuberuntime_sandbox.go``. Leaves out Windows.
"""

from __future__ import annotations

import asyncio

from grpc import aio

from whipstaff.node_agent import provider, sysctls
from whipstaff.node_agent.providers.cri import connection, labels, resources, security, statuses
from whipstaff.node_agent.providers.cri.api import runtime_pb2 as pb
from whipstaff.node_agent.providers.cri.api import runtime_pb2_grpc as services
from whipstaff.runtime import logs, objects

Object = objects.Object

# Networks take their time: twice what other calls have.
_RUN_TIMEOUT = 2 * connection.TIMEOUT

_log = logs.get("node_agent.providers.cri")

_PROTOCOLS = {"TCP": pb.TCP, "UDP": pb.UDP, "SCTP": pb.SCTP}


def config(
    pod: Object, spec: provider.SandboxSpec, machine: resources.Ground
) -> pb.PodSandboxConfig:
    """What a pod's sandbox is to be.

    Raises:
        security.UnsupportedError: the pod asks for what isn't there.
    """
    metadata = pod["metadata"]
    context = pod["spec"].get("securityContext") or {}
    return pb.PodSandboxConfig(
        metadata=pb.PodSandboxMetadata(
            name=metadata["name"],
            namespace=metadata["namespace"],
            uid=metadata["uid"],
            attempt=spec.attempt,
        ),
        hostname="" if pod["spec"].get("hostNetwork") else spec.hostname,
        log_directory=spec.log_directory,
        dns_config=pb.DNSConfig(
            servers=spec.dns.servers, searches=spec.dns.searches, options=spec.dns.options
        ),
        port_mappings=port_mappings(pod["spec"]),
        labels=labels.of_sandbox(pod),
        annotations=metadata.get("annotations") or {},
        linux=pb.LinuxPodSandboxConfig(
            cgroup_parent=spec.cgroup_parent,
            security_context=security.of_sandbox(pod),
            sysctls={
                sysctls.normalized(each["name"]): each["value"]
                for each in context.get("sysctls") or ()
            },
            overhead=resources.of_overhead(pod, machine),
            resources=resources.of_sandbox(pod, machine),
        ),
    )


def port_mappings(spec: Object) -> list[pb.PortMapping]:
    """The ports of the pod's containers; one that is declared twice counts once."""
    found = []
    for definition in spec.get("containers") or ():
        seen = set()
        for port in definition.get("ports") or ():
            host_ip = port.get("hostIP", "")
            protocol = port.get("protocol", "TCP")
            host_port = port.get("hostPort", 0)
            family = ("v6" if ":" in host_ip else "v4") if host_ip else "any"
            key = port.get("name") or (
                family, protocol, host_ip, port["containerPort"], host_port
            )  # fmt: skip
            if key in seen:
                continue
            seen.add(key)
            found.append(
                pb.PortMapping(
                    protocol=_PROTOCOLS.get(protocol, pb.TCP),
                    container_port=port["containerPort"],
                    host_port=host_port,
                    host_ip=host_ip,
                )
            )
    return found


class Sandboxes:
    """The sandboxes of one runtime."""

    def __init__(self, runtime: services.RuntimeServiceStub) -> None:
        self._runtime = runtime

    async def ensure(self, made_of: pb.PodSandboxConfig, handler: str) -> provider.Sandbox:
        """Make a sandbox, or find it; sandboxes that it takes the place of are stopped.

        Raises:
            provider.ProviderError: it couldn't be made.
        """
        metadata = made_of.metadata
        request = pb.RunPodSandboxRequest(config=made_of, runtime_handler=handler)
        with connection.failing(""):
            if metadata.attempt:
                await self._give_up_others(metadata.uid, metadata.attempt)
            sandbox_id = await self._run(request)
            answer = await self._runtime.PodSandboxStatus(
                pb.PodSandboxStatusRequest(pod_sandbox_id=sandbox_id), timeout=connection.TIMEOUT
            )
        return statuses.sandbox(answer.status)

    async def stop(self, sandbox_id: str) -> None:
        """Stop a sandbox and all that runs in it; one that is gone is fine.

        Raises:
            grpc.aio.AioRpcError: it couldn't be stopped.
        """
        await connection.unless_gone(
            self._runtime.StopPodSandbox(
                pb.StopPodSandboxRequest(pod_sandbox_id=sandbox_id), timeout=connection.TIMEOUT
            )
        )

    async def remove(self, sandbox_id: str, *, stopped: bool = False) -> None:
        """Remove a sandbox and all containers in it; one that is gone is fine.

        Args:
            sandbox_id: which.
            stopped: whether it is known that `stop` was done with it.

        Raises:
            grpc.aio.AioRpcError: it couldn't be removed.
        """
        if not stopped:
            # It should have been: this gives back its network in case that it wasn't. Not done
            # twice, as containerd runs all network plugins again.
            await self.stop(sandbox_id)
        request = pb.RemovePodSandboxRequest(pod_sandbox_id=sandbox_id)
        await connection.when_settled(
            lambda: self._runtime.RemovePodSandbox(request, timeout=connection.TIMEOUT)
        )

    async def list(self, uid: str | None = None) -> list[pb.PodSandbox]:
        """The sandboxes of one pod or of all.

        Raises:
            grpc.aio.AioRpcError: they couldn't be listed.
        """
        answer = await self._runtime.ListPodSandbox(
            pb.ListPodSandboxRequest(
                filter=pb.PodSandboxFilter(label_selector=labels.selector(uid))
            ),
            timeout=connection.TIMEOUT,
        )
        return [item for item in answer.items if item.labels.get(labels.POD_UID)]

    async def _run(self, request: pb.RunPodSandboxRequest) -> str:
        for _ in range(connection.TRIES):
            try:
                # Broken off, containerd 1.6 forgets the shim that it has just started.
                answer = await connection.to_the_end(
                    self._runtime.RunPodSandbox(request, timeout=_RUN_TIMEOUT)
                )
            except aio.AioRpcError as error:
                if not connection.is_reserved(error):
                    raise
                found = await self._find(request.config.metadata)
                if found:
                    return found
                failure = error
                await asyncio.sleep(connection.PAUSE)
            else:
                return answer.pod_sandbox_id
        raise failure

    async def _find(self, metadata: pb.PodSandboxMetadata) -> str:
        """The sandbox that has the name already, if it is usable; if not, it is removed."""
        for item in await self.list(metadata.uid):
            if item.metadata.attempt != metadata.attempt:
                continue
            if item.state == pb.SANDBOX_READY:
                return item.id
            await self.remove(item.id)
        return ""

    async def _give_up_others(self, uid: str, attempt: int) -> None:
        """Stop the pod's other sandboxes, and remove those of which nothing is left to be told.

        Nothing else would stop one without an address, and a pod that loses its sandbox again and
        again would have more of them each time. One that isn't ready is stopped as well: when its
        machine ended before it, the network still holds its address.
        """
        others = [item for item in await self.list(uid) if item.metadata.attempt != attempt]
        spent = []
        for item in others:
            await self.stop(item.id)
            if item.state != pb.SANDBOX_READY:
                spent.append(item.id)
        if not spent:
            return
        answer = await self._runtime.ListContainers(
            pb.ListContainersRequest(
                filter=pb.ContainerFilter(label_selector=labels.selector(uid))
            ),
            timeout=connection.TIMEOUT,
        )
        used = {item.pod_sandbox_id for item in answer.containers}
        for sandbox_id in spent:
            if sandbox_id not in used:
                await self._try_to_remove(sandbox_id)

    async def _try_to_remove(self, sandbox_id: str) -> None:
        try:
            await self.remove(sandbox_id, stopped=True)
        except aio.AioRpcError as error:
            # It goes with its pod.
            _log.warning("an old sandbox stays", id=sandbox_id, error=connection.describe(error))
