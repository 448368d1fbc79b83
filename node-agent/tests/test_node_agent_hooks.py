"""Lifecycle hooks: what they do, how they fail, and how long one waits for them."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Sequence
from typing import Any, Self

import node_agent_builders as make
import pytest

from whipstaff.node_agent import hooks, provider

Object = dict[str, Any]

WHERE = 'for Container "app" in Pod "web_shop(uid-web)" failed - error:'


class Runtime(provider.Provider):
    """Runs commands as it is told."""

    def __init__(self, code: int = 0, output: bytes = b"", takes: float = 0.0) -> None:
        self.code, self.output, self.takes = code, output, takes
        self.asked: list[tuple[Sequence[str], float]] = []
        self.ended = asyncio.Event()

    async def exec_sync(
        self, pod: Object, container: provider.RuntimeContainer, command: Sequence[str],
        timeout: float,
    ) -> tuple[int, bytes]:  # fmt: skip
        self.asked.append((command, timeout))
        await asyncio.sleep(self.takes)
        self.ended.set()
        if self.code < 0:
            raise provider.ProviderError("container not running")
        return self.code, self.output

    ensure_sandbox = stop_sandbox = start_container = stop_container = remove = list = None  # type: ignore[assignment]


async def run(
    handler: Object,
    runtime: Runtime | None = None,
    timeout: float | None = None,
    ip: str = "127.0.0.1",
) -> list[tuple[str, str, str]]:
    events: list[tuple[str, str, str]] = []
    await hooks.run(
        handler, make.pod(), make.run(), runtime or Runtime(), ip, timeout,
        lambda *event: events.append(event),
    )  # fmt: skip
    return events


async def test_a_command_runs_for_as_long_as_it_takes() -> None:
    runtime = Runtime()
    await run({"exec": {"command": ["sh", "-c", "true"]}}, runtime)
    assert runtime.asked == [(["sh", "-c", "true"], 0)]


async def test_a_command_that_fails_says_how() -> None:
    with pytest.raises(hooks.HookFailedError) as caught:
        await run({"exec": {"command": ["cat", "x"]}}, Runtime(1, b'no "x"\n'))
    assert str(caught.value) == (
        f"Exec lifecycle hook ([cat x]) {WHERE} command 'cat x' exited with 1: no \"x\"\n, "
        'message: "no \\"x\\"\\n"'
    )
    with pytest.raises(hooks.HookFailedError) as caught:
        await run({"exec": {"command": ["cat"]}}, Runtime(-1))
    assert str(caught.value) == (
        f'Exec lifecycle hook ([cat]) {WHERE} container not running, message: ""'
    )


async def test_a_pause_is_a_hook() -> None:
    began = time.monotonic()
    await run({"sleep": {"seconds": 0.1}})
    assert 0.1 <= time.monotonic() - began < 1


async def test_a_hook_is_waited_for_no_longer_than_the_grace_period() -> None:
    began = time.monotonic()
    await run({"sleep": {"seconds": 60}}, timeout=0.1)
    assert time.monotonic() - began < 1


async def test_a_command_whose_time_is_up_is_left_to_its_containers_end() -> None:
    runtime = Runtime(-1, takes=0.2)
    await run({"exec": {"command": ["sleep", "60"]}}, runtime, timeout=0.05)
    assert not runtime.ended.is_set()
    async with asyncio.timeout(5):
        await runtime.ended.wait()
    await asyncio.sleep(0)


async def test_a_hook_that_is_interrupted_ends() -> None:
    runtime = Runtime(takes=60)
    task = asyncio.create_task(run({"exec": {"command": ["sleep"]}}, runtime, timeout=60))
    await asyncio.sleep(0.01)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    await asyncio.sleep(0)
    assert not [t for t in asyncio.all_tasks() if t is not asyncio.current_task()]


class Server:
    """An HTTP server that keeps the heads of what it is asked."""

    def __init__(self, answer: bytes) -> None:
        self.answer = answer
        self.heads: list[bytes] = []

    async def __aenter__(self) -> Self:
        self.server = await asyncio.start_server(self._handle, "127.0.0.1", 0)
        self.port = self.server.sockets[0].getsockname()[1]
        return self

    async def __aexit__(self, *_: object) -> None:
        self.server.close()
        await self.server.wait_closed()

    async def _handle(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        first = await reader.read(1)
        if first == b"G":
            self.heads.append(first + await reader.readuntil(b"\r\n\r\n"))
        writer.write(self.answer)
        writer.close()


async def test_any_answer_to_a_get_will_do() -> None:
    async with Server(b"HTTP/1.1 500 Internal Server Error\r\nContent-Length: 9\r\n\r\n") as server:
        assert await run({"httpGet": {"path": "/hook", "port": server.port}}) == []
    assert server.heads[0].startswith(b"GET /hook HTTP/1.1\r\n")
    assert b"User-Agent: kube-lifecycle/1.36\r\n" in server.heads[0]


async def test_a_server_without_tls_is_asked_again_without_credentials() -> None:
    action: Object = {"path": "/hook", "scheme": "HTTPS"}
    action["httpHeaders"] = [{"name": "Authorization", "value": "x"}, {"name": "A", "value": "b"}]
    async with Server(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n") as server:
        events = await run({"httpGet": action | {"port": server.port}})
    assert b"\r\nA: b\r\n" in server.heads[0]
    assert b"Authorization" not in server.heads[0]
    note = (
        f"request to HTTPS lifecycle hook 127.0.0.1:{server.port} got HTTP response, "
        "retry with HTTP succeeded"
    )
    assert events == [("Warning", "LifecycleHTTPFallback", note)]


async def test_a_get_that_cannot_be_made_is_a_failure() -> None:
    async with Server(b"") as server:
        pass
    with pytest.raises(hooks.HookFailedError) as caught:
        await run({"httpGet": {"path": "/x", "port": server.port}})
    assert str(caught.value) == (
        f'HTTP lifecycle hook (/x) {WHERE} Get "http://127.0.0.1:{server.port}/x": '
        f"dial tcp 127.0.0.1:{server.port}: connect: connection refused"
    )
    with pytest.raises(hooks.HookFailedError, match="failed to find networking container"):
        await run({"httpGet": {"port": 80}}, ip="")
    with pytest.raises(hooks.HookFailedError, match="invalid port number: 0"):
        await run({"httpGet": {}})


async def test_a_handler_of_another_kind_is_a_failure() -> None:
    with pytest.raises(hooks.HookFailedError, match="Cannot run handler: invalid handler"):
        await run({"tcpSocket": {"port": 80}})
