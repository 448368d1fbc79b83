"""Requests and their answers over kept-open connections, against a plain server."""

import asyncio
import contextlib
import gzip
import socket
import ssl
from collections.abc import AsyncIterator, Callable

import pytest

from whipstaff.cluster import testing
from whipstaff.runtime import client, config, errors, pool, resources

OK = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"
GET = b"GET / HTTP/1.1\r\nHost: x\r\n\r\n"


class Server:
    """Answers each request with the next line of a script; None hangs up."""

    def __init__(self) -> None:
        self.script: list[bytes | None] = []
        self.port = 0
        self.connections: list[asyncio.StreamWriter] = []
        self.open = 0
        self.most_open = 0
        self.asked = asyncio.Event()
        self.go_on = asyncio.Event()
        self.go_on.set()

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.connections.append(writer)
        self.open += 1
        self.most_open = max(self.open, self.most_open)
        try:
            while await reader.readuntil(b"\r\n\r\n"):
                self.asked.set()
                await self.go_on.wait()
                answer = self.script.pop(0) if self.script else OK
                if answer is None:
                    return
                writer.write(answer)
                if b"Connection: close" in answer or b"HTTP/1.0" in answer:
                    return
        except (asyncio.IncompleteReadError, ConnectionError):
            return
        finally:
            self.open -= 1
            writer.close()

    async def until_open(self, number: int) -> None:
        async with asyncio.timeout(5):
            while self.open != number:  # noqa: ASYNC110 (the streams tell nobody)
                await asyncio.sleep(0.005)


@pytest.fixture
async def server() -> AsyncIterator[Server]:
    made = Server()
    listener = await asyncio.start_server(made.serve, "127.0.0.1", 0)
    made.port = listener.sockets[0].getsockname()[1]
    async with listener:
        yield made
        made.go_on.set()
        for writer in made.connections:
            writer.close()
            with contextlib.suppress(ConnectionError):
                await writer.wait_closed()


@pytest.fixture
async def make_pool(server: Server) -> AsyncIterator[Callable[..., pool.Pool]]:
    made: list[pool.Pool] = []

    def make(
        host: str = "127.0.0.1", limit: int = 10, tls: ssl.SSLContext | None = None
    ) -> pool.Pool:
        made.append(
            pool.Pool(
                host,
                server.port,
                tls=tls,
                server_hostname=None,
                limit=limit,
                make_socket=lambda address: socket.socket(*address[:3]),
            )
        )
        return made[-1]

    yield make
    for each in made:
        each.close()


async def test_connections_are_kept_and_no_more_than_allowed(
    server: Server, make_pool: Callable[..., pool.Pool]
) -> None:
    requests = make_pool(limit=3)
    replies = await asyncio.gather(*(requests.exchange(GET, 5) for _ in range(20)))
    assert {(reply.status, reply.body) for reply in replies} == {(200, b"ok")}
    assert server.most_open <= 3
    opened = len(server.connections)
    await requests.exchange(GET, 5)
    assert len(server.connections) == opened


@pytest.mark.parametrize(
    ("answer", "body"),
    [
        (
            b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nab\r\n1\r\nc\r\n0\r\n\r\n",
            b"abc",
        ),
        (b"HTTP/1.1 103 Early Hints\r\nLink: x\r\n\r\n" + OK, b"ok"),
        (b"HTTP/1.1 204 No Content\r\n\r\n", b""),
        (b"HTTP/1.0 200 OK\r\n\r\nuntil the end", b"until the end"),
        (b"HTTP/1.1 200 OK\r\nConnection: close\r\n\r\nuntil the end", b"until the end"),
        (
            b"HTTP/1.1 200 OK\r\nContent-Encoding: gzip\r\nContent-Length: %d\r\n\r\n%s"
            % (len(gzip.compress(b"zipped", mtime=0)), gzip.compress(b"zipped", mtime=0)),
            b"zipped",
        ),
    ],
)
async def test_an_answer_may_come_in_any_way_that_http_knows(
    server: Server, make_pool: Callable[..., pool.Pool], answer: bytes, body: bytes
) -> None:
    requests = make_pool()
    server.script = [answer]
    assert (await requests.exchange(GET, 5)).body == body
    assert (await requests.exchange(GET, 5)).body == b"ok"


@pytest.mark.parametrize(
    ("answer", "message"),
    [
        (b"SSH-2.0-OpenSSH_9.6\r\n", "isn't HTTP: b'SSH"),
        (
            b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: x\r\nConnection: upgrade\r\n\r\n",
            "isn't HTTP",
        ),
        (b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\nConnection: close\r\n\r\nhalf", "broke off"),
        (b"HTTP/1.1 200 OK\r\nContent-Encoding: gzip\r\nContent-Length: 2\r\n\r\nxx", "the gzip"),
        (None, "closed without an answer"),
    ],
)
async def test_what_is_no_whole_answer_is_an_error_and_the_next_request_is_none(
    server: Server, make_pool: Callable[..., pool.Pool], answer: bytes | None, message: str
) -> None:
    requests = make_pool()
    server.script = [answer]
    with pytest.raises(pool.BrokenError, match=message):
        await requests.exchange(GET, 5)
    assert (await requests.exchange(GET, 5)).body == b"ok"


async def test_a_connection_that_the_server_closed_meanwhile_is_not_used(
    server: Server, make_pool: Callable[..., pool.Pool]
) -> None:
    requests = make_pool()
    await requests.exchange(GET, 5)
    server.connections[0].close()
    await server.until_open(0)
    await asyncio.sleep(0.01)
    assert (await requests.exchange(GET, 5)).status == 200
    assert len(server.connections) == 2


@pytest.mark.parametrize("by", ["cancelling", "time"])
async def test_the_answer_to_a_request_that_was_given_up_answers_no_other(
    server: Server, make_pool: Callable[..., pool.Pool], by: str
) -> None:
    requests = make_pool(limit=1)
    server.go_on.clear()
    server.script = [b"HTTP/1.1 200 OK\r\nContent-Length: 3\r\n\r\nold"]
    given_up = asyncio.create_task(requests.exchange(GET, 0.1 if by == "time" else 5))
    await server.asked.wait()
    waiting = asyncio.create_task(requests.exchange(GET, 5))
    if by == "cancelling":
        given_up.cancel()
    with pytest.raises((TimeoutError, asyncio.CancelledError)):
        await given_up
    server.go_on.set()
    assert (await waiting).body == b"ok"


@pytest.mark.parametrize("more", [OK, OK[:30]])
async def test_what_comes_after_an_answer_answers_no_other_request(
    server: Server, make_pool: Callable[..., pool.Pool], more: bytes
) -> None:
    requests = make_pool()
    server.script = [b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nfirst" + more]
    assert (await requests.exchange(GET, 5)).body == b"first"
    assert (await requests.exchange(GET, 5)).body == b"ok"
    assert len(server.connections) == 2


async def test_waiting_for_a_connection_counts_as_time(
    server: Server, make_pool: Callable[..., pool.Pool]
) -> None:
    requests = make_pool(limit=1)
    server.go_on.clear()
    first = asyncio.create_task(requests.exchange(GET, 5))
    await server.asked.wait()
    with pytest.raises(TimeoutError):
        await requests.exchange(GET, 0.05)
    server.go_on.set()
    assert (await first).status == 200


async def test_what_rests_for_long_is_closed(
    server: Server, make_pool: Callable[..., pool.Pool], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pool, "KEEPALIVE", 0.2)
    requests = make_pool()
    await asyncio.gather(*(requests.exchange(GET, 5) for _ in range(3)))
    assert server.open == 3
    await asyncio.sleep(0.1)
    await requests.exchange(GET, 5)
    await server.until_open(1)
    await server.until_open(0)
    assert (await requests.exchange(GET, 5)).status == 200


async def test_a_retired_pool_finishes_what_it_has_begun(
    server: Server, make_pool: Callable[..., pool.Pool]
) -> None:
    requests = make_pool()
    await asyncio.gather(*(requests.exchange(GET, 5) for _ in range(2)))
    server.go_on.clear()
    server.asked.clear()
    begun = asyncio.create_task(requests.exchange(GET, 5))
    await server.asked.wait()
    requests.retire()
    await server.until_open(1)
    server.go_on.set()
    assert (await begun).status == 200
    await server.until_open(0)


async def test_closing_ends_what_is_under_way(
    server: Server, make_pool: Callable[..., pool.Pool]
) -> None:
    requests = make_pool()
    server.go_on.clear()
    begun = asyncio.create_task(requests.exchange(GET, 5))
    await server.asked.wait()
    requests.close()
    with pytest.raises(pool.BrokenError):
        await begun


async def test_all_addresses_of_a_name_are_tried(
    server: Server, make_pool: Callable[..., pool.Pool], monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = []
    real = asyncio.get_running_loop().getaddrinfo

    async def resolve(host: str, port: int, **more: int) -> list[object]:
        asked.append(host)
        # Nobody listens at the first: what a name with a v6 and a v4 address often looks like.
        return [*await real("127.0.0.2", port, **more), *await real("127.0.0.1", port, **more)]

    monkeypatch.setattr(asyncio.get_running_loop(), "getaddrinfo", resolve)
    requests = make_pool(host="two.example")
    assert (await requests.exchange(GET, 5)).status == 200
    await asyncio.gather(*(requests.exchange(GET, 5) for _ in range(5)))
    assert asked == ["two.example"]


@pytest.mark.usefixtures("no_names")
async def test_a_name_that_nobody_knows_is_named(make_pool: Callable[..., pool.Pool]) -> None:
    with pytest.raises(pool.UnknownHostError, match=r"cannot resolve the name 'nowhere\.invalid'"):
        await make_pool(host="nowhere.invalid").exchange(GET, 5)


@pytest.mark.apiserver
async def test_a_server_that_is_not_trusted_gets_no_request(
    apiserver: testing.ControlPlane,
) -> None:
    connection = config.Connection(apiserver.server, "a test", tls=ssl.create_default_context())
    async with client.Client(connection) as api:
        with pytest.raises(errors.Untrusted, match="its certificate isn't trusted: unable to get"):
            await api.get(resources.NODES, "n")
