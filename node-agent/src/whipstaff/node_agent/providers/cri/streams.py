"""Commands in containers and streams into them.

A command is run by the runtime, which keeps its output; a stream is prepared by it, and spoken with
at the URL that it gives, by whoever asked for it. Runs no loop and owns nothing. Answers to
ExecSync, Exec, Attach and PortForward of ``k8s.io/cri-client``.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import grpc
from grpc import aio

from whipstaff.node_agent import provider, texts
from whipstaff.node_agent.providers.cri import connection
from whipstaff.node_agent.providers.cri.api import runtime_pb2 as pb
from whipstaff.node_agent.providers.cri.api import runtime_pb2_grpc as services


class Streams:
    """Commands and streams of one runtime."""

    def __init__(self, runtime: services.RuntimeServiceStub) -> None:
        self._runtime = runtime

    async def exec_sync(
        self, container_id: str, command: Sequence[str], timeout: float
    ) -> tuple[int, bytes]:
        """Run a command: its exit code, and what it wrote (stdout, then stderr).

        Args:
            container_id: where.
            command: with its arguments.
            timeout: seconds that it may take; 0 for any time.

        Raises:
            provider.CommandTimeoutError: it took longer.
            provider.ProviderError: it couldn't be run.
        """
        request = pb.ExecSyncRequest(
            container_id=container_id, cmd=command, timeout=math.ceil(timeout)
        )
        limit = timeout + connection.TIMEOUT if timeout else None
        try:
            answer = await self._runtime.ExecSync(request, timeout=limit)
        except aio.AioRpcError as error:
            if error.code() is grpc.StatusCode.DEADLINE_EXCEEDED:
                line = texts.quoted(" ".join(command))
                raise provider.CommandTimeoutError(
                    f"command timed out: {line} timed out after {texts.duration(timeout)}"
                ) from error
            raise provider.ProviderError(connection.describe(error)) from error
        return answer.exit_code, answer.stdout + answer.stderr

    async def open(
        self, container_id: str, sandbox_id: str, request: provider.StreamRequest
    ) -> str:
        """The URL of a stream; it can be used once, and not for long.

        Raises:
            provider.ProviderError: the runtime refuses.
        """
        runtime = self._runtime
        with connection.failing(""):
            if request.kind == "portforward":
                forwarded = await runtime.PortForward(
                    pb.PortForwardRequest(pod_sandbox_id=sandbox_id, port=request.ports),
                    timeout=connection.TIMEOUT,
                )
                return forwarded.url
            # A terminal has one output.
            stderr = request.stderr and not request.tty
            if request.kind == "attach":
                attached = await runtime.Attach(
                    pb.AttachRequest(
                        container_id=container_id,
                        stdin=request.stdin,
                        tty=request.tty,
                        stdout=request.stdout,
                        stderr=stderr,
                    ),
                    timeout=connection.TIMEOUT,
                )
                return attached.url
            prepared = await runtime.Exec(
                pb.ExecRequest(
                    container_id=container_id,
                    cmd=request.command,
                    stdin=request.stdin,
                    tty=request.tty,
                    stdout=request.stdout,
                    stderr=stderr,
                ),
                timeout=connection.TIMEOUT,
            )
            return prepared.url
