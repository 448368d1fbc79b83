"""What went through sandboxes' networks, as the kernel counts it.

The CRI tells that too, but containerd 1.6 runs a command for each sandbox when it is asked: with a
hundred pods looked at every ten seconds that is a tenth of a CPU. Runs no loop; owns which process
holds which sandbox's network. Answers to cAdvisor's ``container/libcontainer`` (handler.go,
networkStatsFromProc).
"""

from __future__ import annotations

import asyncio
import pathlib
import time
from collections.abc import Mapping

import orjson

from whipstaff.node_agent import provider
from whipstaff.node_agent.providers.cri import connection, register
from whipstaff.node_agent.providers.cri.api import runtime_pb2 as pb
from whipstaff.node_agent.providers.cri.api import runtime_pb2_grpc as services

_PROC = pathlib.Path("/proc")
_INTERFACE = "eth0"


class Networks:
    """The networks of one runtime's sandboxes.

    Args:
        runtime: the CRI.
        known: which sandboxes there are.
        proc: where the kernel shows processes.
    """

    def __init__(
        self,
        runtime: services.RuntimeServiceStub,
        known: register.Register,
        proc: pathlib.Path = _PROC,
    ) -> None:
        self._runtime = runtime
        self._known = known
        self._proc = proc
        self._processes: dict[str, int] = {}
        self._in_sight = True

    async def read(self, uid: str | None) -> Mapping[str, provider.Usage] | None:
        """What each sandbox's network carried, by sandbox ID; of one pod or of all.

        Those on the node's own network are left out. None where the runtime doesn't tell which
        processes are its sandboxes', or tells of others than are to be seen from here.

        Raises:
            grpc.aio.AioRpcError: the runtime doesn't answer.
        """
        wanted = [
            sandbox.id
            for owner, sandbox in list(self._known.sandboxes.values())
            if sandbox.ready and sandbox.ips and uid in {None, owner}
        ]
        for sandbox_id in wanted:
            if self._in_sight and sandbox_id not in self._processes:
                await self._find(sandbox_id)
        if not self._in_sight:
            return None
        for gone in self._processes.keys() - self._known.sandboxes.keys():
            del self._processes[gone]
        processes = {each: self._processes[each] for each in wanted if each in self._processes}
        return await asyncio.to_thread(self._read, processes)

    async def _find(self, sandbox_id: str) -> None:
        request = pb.PodSandboxStatusRequest(pod_sandbox_id=sandbox_id, verbose=True)
        answer = await connection.unless_gone(
            self._runtime.PodSandboxStatus(request, timeout=connection.TIMEOUT)
        )
        if answer is None or answer.status.state != pb.SANDBOX_READY:
            return
        try:
            process = int(orjson.loads(answer.info["info"])["pid"])
            groups = (self._proc / str(process) / "cgroup").read_text()
        except (KeyError, ValueError, TypeError, OSError):
            self._in_sight = False
            return
        # Another process, if the runtime counts them in a namespace of its own.
        self._in_sight = sandbox_id in groups
        self._processes[sandbox_id] = process

    def _read(self, processes: Mapping[str, int]) -> dict[str, provider.Usage]:
        found = {}
        for sandbox_id, process in processes.items():
            try:
                text = (self._proc / str(process) / "net/dev").read_text()
            except OSError:
                continue  # it has just ended
            if (usage := parse(text, time.time())) is not None:
                found[sandbox_id] = usage
        return found


def parse(text: str, now: float) -> provider.Usage | None:
    """What ``/proc/PID/net/dev`` says of a pod's interface: ``eth0``, or else its first one."""
    found: dict[str, list[str]] = {}
    for line in text.splitlines()[2:]:
        name, _, rest = line.partition(":")
        if name.strip() != "lo":
            found[name.strip()] = rest.split()
    name = _INTERFACE if _INTERFACE in found else next(iter(found), "")
    if not name:
        return None
    numbers = found[name]
    return provider.Usage(
        at=now,
        interface=name,
        received=int(numbers[0]),
        receive_errors=int(numbers[2]),
        sent=int(numbers[8]),
        send_errors=int(numbers[10]),
    )
