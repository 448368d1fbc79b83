"""Streams into containers reach the runtime byte for byte, whatever they speak."""

import asyncio
import contextlib
import dataclasses
import os
import ssl
import time
from collections.abc import AsyncIterator

import aiohttp
import node_agent_builders as builders
import node_agent_parts
import pytest

from whipstaff.node_agent import provider
from whipstaff.runtime import serving

SPDY = (
    b"Connection: Upgrade\r\nUpgrade: SPDY/3.1\r\n"
    b"X-Stream-Protocol-Version: v4.channel.k8s.io\r\nX-Stream-Protocol-Version: channel.k8s.io\r\n"
)
WEB_SOCKET = (
    b"Connection: keep-alive, Upgrade\r\nUpgrade: websocket\r\n"
    b"Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\n"
    b"Sec-WebSocket-Protocol: v4.channel.k8s.io\r\n"
)
SWITCHED = (
    b"HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: SPDY/3.1\r\n"
    b"X-Stream-Protocol-Version: v4.channel.k8s.io\r\n\r\n"
)


class Upstream:
    """A runtime's streaming server: answers a head as it is told, then echoes."""

    def __init__(self, answer: bytes = SWITCHED) -> None:
        self.answer = answer
        self.heads: list[bytes] = []
        self.port = 0
        self.open = 0
        self.echoes = True
        self.closes = False

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.open += 1
        try:
            self.heads.append(await reader.readuntil(b"\r\n\r\n"))
            writer.write(self.answer)
            await writer.drain()
            while not self.closes and (data := await reader.read(65536)):
                if self.echoes:
                    writer.write(data)
                    await writer.drain()
        except (ConnectionError, asyncio.IncompleteReadError):
            pass
        finally:
            self.open -= 1
            writer.close()

    @contextlib.asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        server = await asyncio.start_server(self.serve, "127.0.0.1", 0)
        self.port = server.sockets[0].getsockname()[1]
        try:
            yield
        finally:
            server.close()
            await node_agent_parts.until(lambda: self.open == 0)

    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}/exec/to%2Fken?with=query"


@pytest.fixture
def parts() -> node_agent_parts.Parts:
    made = node_agent_parts.Parts()
    made.add(builders.pod(), builders.run())
    return made


@pytest.fixture
def runtime(parts: node_agent_parts.Parts) -> node_agent_parts.Runtime:
    assert isinstance(parts.runtime, node_agent_parts.Runtime)
    return parts.runtime


@pytest.fixture
async def upstream(runtime: node_agent_parts.Runtime) -> AsyncIterator[Upstream]:
    made = Upstream()
    async with made.running():
        runtime.stream_url = made.url()
        yield made


@contextlib.asynccontextmanager
async def connected(
    server: serving.Server,
) -> AsyncIterator[tuple[asyncio.StreamReader, asyncio.StreamWriter]]:
    trust = None
    if server.tls is not None:
        assert server.tls.self_signed is not None
        trust = ssl.create_default_context(cadata=server.tls.self_signed.decode())
    reader, writer = await asyncio.open_connection("127.0.0.1", server.port, ssl=trust)
    try:
        yield reader, writer
    finally:
        writer.close()
        with contextlib.suppress(ConnectionError, ssl.SSLError):
            await writer.wait_closed()


def request(path: str, headers: bytes = SPDY, method: str = "POST") -> bytes:
    return (
        f"{method} {path} HTTP/1.1\r\nHost: node:10250\r\nAuthorization: Bearer secret\r\n".encode()
        + headers
        + b"\r\n"
    )


@pytest.mark.parametrize("secure", [False, True])
@pytest.mark.parametrize(
    ("method", "headers"),
    [
        ("POST", SPDY),
        ("POST", SPDY + b"Content-Length: 0\r\n"),
        ("GET", WEB_SOCKET),
    ],
)
async def test_bytes_are_carried_both_ways(
    parts: node_agent_parts.Parts,
    runtime: node_agent_parts.Runtime,
    upstream: Upstream,
    method: str,
    headers: bytes,
    secure: bool,
) -> None:
    async with (
        node_agent_parts.served(parts, secure=secure) as (_, server),
        connected(server) as (reader, writer),
    ):
        path = "/exec/shop/web/app?command=cat&command=-n&input=1&output=1&error=1"
        writer.write(request(path, headers, method))
        assert await reader.readexactly(len(SWITCHED)) == SWITCHED
        for data in (b"\x80\x03\x00\x01hello", b"GET / HTTP/1.1\r\n\r\n", os.urandom(300_000)):
            writer.write(data)
            assert await reader.readexactly(len(data)) == data
    assert runtime.streams == [
        (
            "app-0",
            provider.StreamRequest(
                "exec", command=("cat", "-n"), stdin=True, stdout=True, stderr=True
            ),
        )
    ]
    await node_agent_parts.until(lambda: upstream.open == 0)


async def test_the_runtime_gets_the_head_without_the_users_credentials(
    parts: node_agent_parts.Parts, upstream: Upstream
) -> None:
    async with (
        node_agent_parts.served(parts) as (_, server),
        connected(server) as (reader, writer),
    ):
        writer.write(request("/exec/shop/web/app?command=sh&output=1"))
        await reader.readexactly(len(SWITCHED))
    (head,) = upstream.heads
    lines = head.decode().split("\r\n")
    assert lines[0] == "POST /exec/to%2Fken?with=query HTTP/1.1"
    assert "Upgrade: SPDY/3.1" in lines
    assert "Connection: Upgrade" in lines
    versions = [line for line in lines if line.startswith("X-Stream-Protocol-Version")]
    assert versions == [
        "X-Stream-Protocol-Version: v4.channel.k8s.io",
        "X-Stream-Protocol-Version: channel.k8s.io",
    ]
    assert "X-Forwarded-For: 127.0.0.1" in lines
    assert not any("secret" in line for line in lines)


async def test_when_the_runtime_ends_a_stream_the_client_gets_everything_and_then_the_end(
    parts: node_agent_parts.Parts, upstream: Upstream
) -> None:
    rest = os.urandom(500_000)
    upstream.answer = SWITCHED + rest
    upstream.closes = True
    async with (
        node_agent_parts.served(parts, secure=True) as (_, server),
        connected(server) as (reader, writer),
    ):
        writer.write(request("/attach/shop/web/app?output=1"))
        assert await reader.read(-1) == SWITCHED + rest


async def test_a_slow_reader_holds_the_runtime_back(
    parts: node_agent_parts.Parts, upstream: Upstream
) -> None:
    amount = 64 * 1024 * 1024
    upstream.echoes = False
    sent = 0

    async def pour(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal sent
        await reader.readuntil(b"\r\n\r\n")
        writer.write(SWITCHED)
        with contextlib.suppress(ConnectionError):
            while sent < amount:
                writer.write(bytes(65536))
                await writer.drain()
                sent += 65536
        writer.close()

    pouring = await asyncio.start_server(pour, "127.0.0.1", 0)
    assert isinstance(parts.runtime, node_agent_parts.Runtime)
    parts.runtime.stream_url = f"//127.0.0.1:{pouring.sockets[0].getsockname()[1]}/x"
    async with (
        pouring,
        node_agent_parts.served(parts) as (_, server),
        connected(server) as (reader, writer),
    ):
        writer.write(request("/exec/shop/web/app?output=1"))
        await reader.readexactly(len(SWITCHED))
        await asyncio.sleep(0.5)
        assert sent < amount
        held = sent
        await reader.readexactly(amount)
        assert held < amount == sent
        pouring.close()


@pytest.mark.parametrize(
    ("answer", "status", "text"),
    [
        (b"HTTP/1.1 403 Forbidden\r\nContent-Length: 2\r\n\r\nno", 403, "no"),
        (b"HTTP/1.1 404 Not Found\r\nContent-Type: text/plain\r\n\r\nunknown token", 404,
         "unknown token"),
        (b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n", 500,
         "invalid upgrade response: status code 200"),
        (b"", 500, "error dialing backend: the connection was closed"),
    ],
)  # fmt: skip
async def test_a_runtimes_refusal_is_the_answer(
    parts: node_agent_parts.Parts, upstream: Upstream, answer: bytes, status: int, text: str
) -> None:
    upstream.answer, upstream.closes = answer, True
    async with node_agent_parts.served(parts) as (session, _):
        headers = {"Connection": "Upgrade", "Upgrade": "SPDY/3.1"}
        for _ in range(2):
            async with session.post(
                "/exec/shop/web/app?output=1&command=sh", headers=headers
            ) as got:
                assert (got.status, await got.text()) == (status, text)


async def test_a_runtime_that_is_not_there_is_an_error(
    parts: node_agent_parts.Parts, runtime: node_agent_parts.Runtime, unused_tcp_port: int
) -> None:
    headers = {"Connection": "Upgrade", "Upgrade": "SPDY/3.1"}
    async with node_agent_parts.served(parts) as (session, _):
        for url in (f"http://127.0.0.1:{unused_tcp_port}/x", "ftp://localhost/x", "/path"):
            runtime.stream_url = url
            async with session.post("/exec/shop/web/app?output=1", headers=headers) as answer:
                assert answer.status == 500
                assert (await answer.text()).startswith("error dialing backend: ")


async def test_an_unspecified_address_of_the_runtime_is_this_host(
    parts: node_agent_parts.Parts, upstream: Upstream, runtime: node_agent_parts.Runtime
) -> None:
    headers = {"Connection": "Upgrade", "Upgrade": "SPDY/3.1"}
    async with node_agent_parts.served(parts) as (session, _):
        for url in (f"//[::]:{upstream.port}/x", f"http://0.0.0.0:{upstream.port}/x"):
            runtime.stream_url = url
            async with session.post("/exec/shop/web/app?output=1", headers=headers) as answer:
                assert answer.status == 101


async def test_an_upgrade_may_follow_other_requests_on_a_connection(
    parts: node_agent_parts.Parts, upstream: Upstream
) -> None:
    async with (
        node_agent_parts.served(parts, secure=True) as (_, server),
        connected(server) as (reader, writer),
    ):
        for _ in range(3):
            writer.write(request("/healthz", b"", "GET"))
            assert (await reader.readuntil(b"\r\n\r\n")).startswith(b"HTTP/1.1 200")
            await reader.readexactly(2)
        writer.write(request("/exec/shop/web/app?output=1"))
        assert await reader.readexactly(len(SWITCHED)) == SWITCHED


async def test_streams_end_when_the_server_stops(
    parts: node_agent_parts.Parts, upstream: Upstream
) -> None:
    async with node_agent_parts.served(parts, secure=True) as (_, server):
        reader, writer = await asyncio.open_connection("127.0.0.1", server.port, ssl=_trust(server))
        writer.write(request("/exec/shop/web/app?output=1"))
        await reader.readexactly(len(SWITCHED))
        stopped_at = time.monotonic()
    assert time.monotonic() - stopped_at < 1
    async with asyncio.timeout(5):
        with contextlib.suppress(ConnectionError):
            assert await reader.read(-1) == b""
    writer.close()
    await node_agent_parts.until(lambda: upstream.open == 0)


def _trust(server: serving.Server) -> ssl.SSLContext:
    assert server.tls is not None
    assert server.tls.self_signed is not None
    return ssl.create_default_context(cadata=server.tls.self_signed.decode())


# What is asked of the runtime.


async def upgraded(session: aiohttp.ClientSession, path: str) -> tuple[int, str]:
    headers = {"Connection": "Upgrade", "Upgrade": "SPDY/3.1"}
    async with session.post(path, headers=headers) as answer:
        return answer.status, "" if answer.status == 101 else await answer.text()


async def test_a_terminal_has_no_error_stream_and_attach_has_the_containers_terminal(
    runtime: node_agent_parts.Runtime, parts: node_agent_parts.Parts, upstream: Upstream
) -> None:
    parts.add(
        builders.pod("shell", containers=[builders.container("app", tty=True)]),
        builders.run(id="shell-0"),
    )
    async with node_agent_parts.served(parts) as (session, _):
        query = "input=1&output=1&error=1&tty=1"
        assert (await upgraded(session, f"/exec/shop/web/app?command=sh&{query}"))[0] == 101
        assert (await upgraded(session, "/attach/shop/shell/app?input=1&output=1"))[0] == 101
        assert (await upgraded(session, "/attach/shop/web/app?output=1&tty=1"))[0] == 101
        assert (await upgraded(session, "/portForward/shop/web/uid-web"))[0] == 101
    assert runtime.streams == [
        (
            "app-0",
            provider.StreamRequest("exec", command=("sh",), stdin=True, stdout=True, tty=True),
        ),
        ("shell-0", provider.StreamRequest("attach", stdin=True, stdout=True, tty=True)),
        ("app-0", provider.StreamRequest("attach", stdout=True)),
        ("", provider.StreamRequest("portforward")),
    ]


@pytest.mark.parametrize(
    ("path", "status", "text"),
    [
        ("/exec/shop/web/app", 400, "you must specify at least 1 of stdin, stdout, stderr"),
        ("/exec/shop/web/app?error=1&tty=1", 400,
         "you must specify at least 1 of stdin, stdout, stderr"),
        ("/exec/shop/none/app?output=1", 404, "pod does not exist"),
        ("/exec/shop/web/other-uid/app?output=1", 404, "pod does not exist"),
        ("/exec/shop/web/none?output=1", 500, 'container not found ("none")'),
        ("/attach/shop/web/none?output=1", 500, "container none not found in pod web_shop"),
        ("/portForward/shop/none", 404, "pod does not exist"),
        ("/exec/shop/web/..%2Fapp?output=1", 500, 'container not found ("../app")'),
    ],
)  # fmt: skip
async def test_what_is_not_there_is_refused_as_by_a_kubelet(
    parts: node_agent_parts.Parts, upstream: Upstream, path: str, status: int, text: str
) -> None:
    async with node_agent_parts.served(parts) as (session, _):
        assert await upgraded(session, path) == (status, text)
    assert not upstream.heads


async def test_ports_of_a_websocket_are_in_its_query(
    parts: node_agent_parts.Parts, upstream: Upstream, runtime: node_agent_parts.Runtime
) -> None:
    headers = {"Connection": "Upgrade", "Upgrade": "websocket"}
    async with node_agent_parts.served(parts) as (session, _):
        for query, status in (
            ("", 400), ("?port=", 400), ("?port=http", 400), ("?port=0", 400),
            ("?port=70000", 400), ("?port=80,81&port=90", 101),
        ):  # fmt: skip
            async with session.get(f"/portForward/shop/web{query}", headers=headers) as answer:
                assert answer.status == status
    assert runtime.streams == [("", provider.StreamRequest("portforward", ports=(80, 81, 90)))]


async def test_only_upgrades_are_streams(parts: node_agent_parts.Parts, upstream: Upstream) -> None:
    async with (
        node_agent_parts.served(parts) as (session, _),
        session.post("/exec/shop/web/app?output=1") as answer,
    ):
        assert (answer.status, await answer.text()) == (500, "Upgrade request required")


async def test_a_provider_without_streams_or_commands_says_so(
    parts: node_agent_parts.Parts, runtime: node_agent_parts.Runtime
) -> None:
    async with node_agent_parts.served(parts) as (session, _):
        answer = await upgraded(session, "/exec/shop/web/app?output=1")
    assert answer == (501, "the provider test has no streams")


async def test_a_sandbox_that_is_gone_has_no_ports(
    parts: node_agent_parts.Parts, upstream: Upstream
) -> None:
    (worker,) = parts.crew
    worker.life.runtime = dataclasses.replace(
        worker.life.runtime, sandboxes=(builders.sandbox(ready=False),)
    )
    async with node_agent_parts.served(parts) as (session, _):
        answer = await upgraded(session, "/portForward/shop/web")
    assert answer == (500, 'pod not found ("web_shop")')


async def test_run_gives_what_a_command_wrote(
    parts: node_agent_parts.Parts, runtime: node_agent_parts.Runtime
) -> None:
    runtime.output = (0, b"hello\n")
    async with node_agent_parts.served(parts) as (session, _):
        async with session.post("/run/shop/web/app", params={"cmd": "echo hello"}) as answer:
            assert (answer.status, await answer.text()) == (200, "hello\n")
        assert runtime.commands == [["echo", "hello"]]
        runtime.output = (3, b"failed")
        async with session.post("/run/shop/web/uid-web/app?cmd=ls") as answer:
            assert answer.status == 500
            assert await answer.text() == "command 'ls' exited with 3: failed"
        async with session.get("/run/shop/web/app?cmd=ls") as answer:
            assert answer.status == 405
