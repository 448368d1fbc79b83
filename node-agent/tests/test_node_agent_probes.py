"""Probes: how often they look, what they look at, what comes of it."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import ssl
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from typing import Any

import grpc
import grpc.aio
import node_agent_builders as make
import prometheus_client
import pytest

from whipstaff.node_agent import probing, provider
from whipstaff.node_agent.probing import actions, checks, health, web
from whipstaff.runtime import events, tls

Object = dict[str, Any]
LOOPBACK = "127.0.0.1"


# Counting.


def check(**numbers: Any) -> checks.Check:
    rule = checks.rules({"periodSeconds": 10, "failureThreshold": 3, **numbers})
    return checks.Check(rule, began=100.0, eager=False)


def test_it_takes_as_many_failures_in_a_row_as_the_threshold_says() -> None:
    one = check()
    answers = [False, False, True, False, False, False]
    assert [one.answer(a, 100) for a in answers] == [None, None, True, None, None, False]


def test_it_takes_as_many_successes_in_a_row_as_the_threshold_says() -> None:
    one = check(successThreshold=2)
    assert [one.answer(a, 100) for a in [True, False, True, True]] == [None, None, None, True]


def test_a_probe_looks_once_a_period() -> None:
    one = check()
    one.answer(True, 100.0)
    assert one.next_look(100.2) == 110.0
    assert one.next_look(110.7) == 120.0


def test_a_look_that_took_longer_than_a_period_is_followed_by_the_next_at_once() -> None:
    one = check()
    assert one.next_look(117.0) == 117.0
    assert one.next_look(117.1) == 127.0


def test_a_server_that_is_slow_to_start_is_looked_at_again_soon() -> None:
    one = checks.Check(checks.rules({"failureThreshold": 1}), began=100.0, eager=True)
    looks = [100.0]
    while looks[-1] < 130.0:
        assert (one.answer(False, looks[-1]) is None) == (looks[-1] < 110.0)
        looks.append(one.next_look(looks[-1]))
    assert looks == [100.0, 100.5, 101.5, 103.5, 107.5, 110.0, 120.0, 130.0]


def test_an_early_success_is_the_beginning_of_the_regular_looks() -> None:
    one = checks.Check(checks.rules({"successThreshold": 2}), began=100.0, eager=True)
    assert one.answer(False, 100.0) is None
    assert one.answer(True, one.next_look(100.0)) is None
    assert one.next_look(100.5) == 110.5
    assert one.answer(True, 110.5) is True


def test_the_first_failures_are_quiet() -> None:
    one = checks.Check(checks.rules({}), began=100.0, eager=True)
    assert [one.is_quiet(t) for t in (100.0, 100.5, 101.5, 110.0)] == [True, True, False, False]
    assert not check().is_quiet(100.0)


@pytest.mark.parametrize(
    ("kind", "delay", "since_start", "since_passed", "expected"),
    [
        ("readiness", 0, 0.0, 0.0, 0.0),
        ("readiness", 15, 1.0, 1.0, 14.0),
        ("startup", 0, 30.0, 30.0, 0.0),
        ("liveness", 0, 0.0, 0.0, 10.0),
        ("liveness", 15, 0.0, 0.0, 15.0),
        ("liveness", 5, 60.0, 0.0, 10.0),
        ("readiness", 15, -1e9, -1e9, 25.0),  # the clock was set back
    ],
)
def test_when_a_probe_looks_first(
    kind: checks.Kind, delay: int, since_start: float, since_passed: float, expected: float
) -> None:
    rule = checks.rules({"initialDelaySeconds": delay})
    assert checks.first_delay(kind, rule, since_start, since_passed) == expected


# Looking.


class Runtime(provider.Provider):
    """Answers commands as it is told."""

    def __init__(self, *answers: tuple[int, bytes] | provider.ProviderError) -> None:
        self.answers = list(answers)
        self.asked: list[tuple[Sequence[str], float]] = []

    async def exec_sync(
        self, pod: Object, container: provider.RuntimeContainer, command: Sequence[str],
        timeout: float,
    ) -> tuple[int, bytes]:  # fmt: skip
        self.asked.append((command, timeout))
        answer = self.answers.pop(0) if len(self.answers) > 1 else self.answers[0]
        if isinstance(answer, provider.ProviderError):
            raise answer
        return answer

    ensure_sandbox = stop_sandbox = start_container = stop_container = remove = list = None  # type: ignore[assignment]


def target(**definition: Any) -> actions.Target:
    definition = make.container("app", **definition)
    return actions.Target(
        make.pod(containers=[definition]), make.run(), definition, pod_ip=LOOPBACK
    )


async def look(probe: Object, runtime: Runtime | None = None, **definition: Any) -> tuple[str, str]:
    outcome = await actions.act(runtime or Runtime((0, b"")), probe, target(**definition))
    return outcome.result.value, outcome.text


async def test_a_command_succeeds_with_exit_code_zero() -> None:
    runtime = Runtime((0, b"fine\n"), (3, b"bad\xff" + b"x" * 20000))
    probe = {"exec": {"command": ["cat", "$(FILE)", "$(MISSING)", "$$(FILE)"]}, "timeoutSeconds": 4}
    env = [{"name": "FILE", "value": "/tmp/health"}, {"name": "OTHER", "valueFrom": {}}]
    assert await look(probe, runtime, env=env) == ("success", "fine\n")
    assert runtime.asked == [(["cat", "/tmp/health", "$(MISSING)", "$(FILE)"], 4.0)]
    result, text = await look(probe, runtime)
    assert result == "failure"
    assert text.startswith("bad\ufffdxx")
    assert len(text) == 10240


async def test_a_command_that_takes_too_long_is_a_failure_and_no_error() -> None:
    runtime = Runtime(provider.CommandTimeoutError('command timed out: "sleep" timed out'))
    found = await look({"exec": {"command": ["sleep"]}}, runtime)
    assert found == ("failure", 'command timed out: "sleep" timed out')


async def test_a_command_that_cannot_be_run_is_tried_three_times() -> None:
    runtime = Runtime(provider.ProviderError("no such container"))
    with pytest.raises(actions.ProbeError, match="no such container") as caught:
        await look({"exec": {"command": ["true"]}}, runtime)
    assert caught.value.state == "unknown"
    assert len(runtime.asked) == 3


@contextlib.asynccontextmanager
async def serve(
    answer: bytes | Callable[[bytes], bytes] | None, **options: Any
) -> AsyncIterator[tuple[int, list[bytes]]]:
    """A server that answers every request head in the same way (None: never)."""
    heads: list[bytes] = []
    writers: list[asyncio.StreamWriter] = []

    async def handle(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writers.append(writer)
        with contextlib.suppress(asyncio.IncompleteReadError, ConnectionError):
            heads.append(await reader.readuntil(b"\r\n\r\n"))
            if answer is None:
                return
            writer.write(answer(heads[-1]) if callable(answer) else answer)
            await writer.drain()
            writer.close()

    server = await asyncio.start_server(handle, options.pop("host", LOOPBACK), 0, **options)
    try:
        yield server.sockets[0].getsockname()[1], heads
    finally:
        for writer in writers:
            writer.close()
        server.close()
        await server.wait_closed()


def answer(status: str, body: bytes = b"", *headers: str) -> bytes:
    lines = [f"HTTP/1.1 {status}", f"Content-Length: {len(body)}", *headers]
    return "\r\n".join(lines).encode() + b"\r\n\r\n" + body


def get(port: int | str, **action: Any) -> Object:
    timeout = action.pop("timeoutSeconds", 1)
    return {"httpGet": {"port": port, "path": "/healthz", **action}, "timeoutSeconds": timeout}


async def test_a_get_asks_as_the_kubelet_does() -> None:
    async with serve(answer("200 OK", b"ok")) as (port, heads):
        assert await look(get(port)) == ("success", "ok")
    assert heads[0].decode().split("\r\n") == [
        "GET /healthz HTTP/1.1",
        f"Host: 127.0.0.1:{port}",
        "Accept: */*",
        "Connection: close",
        "User-Agent: kube-probe/1.36",
        "", "",
    ]  # fmt: skip


async def test_headers_of_the_probe_take_the_place_of_the_usual_ones() -> None:
    headers = [
        {"name": "host", "value": "shop.example"},
        {"name": "X-Custom-Header", "value": "Awesome"},
        {"name": "x-custom-header", "value": "Again"},
        {"name": "user-agent", "value": "me"},
        {"name": "Accept", "value": ""},
        {"name": "Content-Length", "value": "7"},
    ]
    async with serve(answer("200 OK")) as (port, heads):
        await look(get(port, httpHeaders=headers, path="/a b?q=%20#part"))
    assert heads[0].decode().split("\r\n") == [
        "GET /a%20b?q=%20 HTTP/1.1",
        "Host: shop.example",
        "Connection: close",
        "User-Agent: me",
        "X-Custom-Header: Awesome",
        "X-Custom-Header: Again",
        "", "",
    ]  # fmt: skip


async def test_headers_cannot_smuggle_a_second_request_in() -> None:
    async with serve(answer("200 OK")) as (port, heads):
        for header in ({"name": "X", "value": "a\r\nGET /"}, {"name": "X\r\nY", "value": "a"}):
            result, text = await look(get(port, httpHeaders=[header]))
            assert result == "failure"
            assert "net/http: invalid header field" in text
        result, text = await look(get(port, path="/a\r\nX: y"))
    assert heads[-1].startswith(b"GET /a%0D%0AX:%20y HTTP/1.1\r\nHost: ")


@pytest.mark.parametrize(
    ("status", "expected"),
    [
        ("200 OK", ("success", "body")),
        ("399 Odd", ("warning", "Probe terminated redirects, Response body: body")),
        ("304 Not Modified", ("warning", "Probe terminated redirects, Response body: ")),
        ("400 Bad Request", ("failure", "HTTP probe failed with statuscode: 400")),
        ("500 Internal Server Error", ("failure", "HTTP probe failed with statuscode: 500")),
        ("101 Switching Protocols", ("failure", "HTTP probe failed with statuscode: 101")),
    ],
)
async def test_the_status_decides(status: str, expected: tuple[str, str]) -> None:
    async with serve(answer(status, b"body")) as (port, _):
        assert await look(get(port)) == expected


async def test_answers_of_every_shape_are_read() -> None:
    chunked = b"HTTP/1.1 200 OK\nTransfer-Encoding: chunked\n\n"
    shapes = {
        b"HTTP/1.0 200 OK\r\n\r\nto the end": "to the end",
        b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 200\r\nContent-Length: 2\r\n\r\nok": "ok",
        chunked + b"3;x\r\nabc\r\n2\r\nde\r\n0\r\n\r\n": "abcde",
        answer("200 OK", b"x" * 50_000): "x" * 10240,
        b"HTTP/1.1 200 OK\r\n\r\n" + b"y" * 50_000: "y" * 10240,
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nffff\r\n" + b"z" * 0xFFFF: "z"
        * 10240,
    }
    for shape, body in shapes.items():
        async with serve(shape) as (port, _):
            assert await look(get(port)) == ("success", body)


async def test_what_is_no_answer_is_a_failure() -> None:
    for shape, text in {
        b"": "EOF",
        b"HTTP/1.1 200 OK\r\nContent-": "unexpected EOF",
        b"SSH-2.0-OpenSSH\r\n": "net/http: HTTP/1.x transport connection broken: malformed HTTP "
        'response "SSH-2.0-OpenSSH"',
        b"HTTP/1.1 2x0 OK\r\n\r\n": "net/http: HTTP/1.x transport connection broken: malformed "
        'HTTP status code "2x0"',
    }.items():
        async with serve(shape) as (port, _):
            url = f"http://127.0.0.1:{port}/healthz"
            assert await look(get(port)) == ("failure", f'Get "{url}": {text}')


async def test_an_answer_that_breaks_off_is_an_error_of_the_probe() -> None:
    async with serve(b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nhalf") as (port, heads):
        with pytest.raises(actions.ProbeError, match="unexpected EOF") as caught:
            await look(get(port))
    assert caught.value.state == "failure"
    assert len(heads) == 3


async def test_a_server_that_does_not_answer_is_a_failure_after_the_timeout() -> None:
    async with serve(None) as (port, _):
        began = time.monotonic()
        result, text = await look(get(port, timeoutSeconds=0.1))
        assert time.monotonic() - began < 1
    url = f"http://127.0.0.1:{port}/healthz"
    assert result == "failure"
    assert text == (
        f'Get "{url}": context deadline exceeded (Client.Timeout exceeded while awaiting headers)'
    )


async def test_a_closed_port_is_a_failure() -> None:
    port = closed_port()
    refused = f"dial tcp 127.0.0.1:{port}: connect: connection refused"
    assert await look({"tcpSocket": {"port": port}}) == ("failure", refused)
    url = f"http://127.0.0.1:{port}/healthz"
    assert await look(get(port)) == ("failure", f'Get "{url}": {refused}')


@pytest.mark.usefixtures("no_names")
async def test_a_name_that_nobody_knows_is_a_failure() -> None:
    port = closed_port()
    result, text = await look(get(port, host="nowhere.invalid"))
    assert result == "failure"
    assert text == (
        f'Get "http://nowhere.invalid:{port}/healthz": '
        "dial tcp: lookup nowhere.invalid: no such host"
    )


def closed_port() -> int:
    with socket.socket() as probe:
        probe.bind((LOOPBACK, 0))
        port: int = probe.getsockname()[1]
        return port


async def test_an_open_port_is_a_success() -> None:
    async with serve(None) as (port, _):
        assert await look({"tcpSocket": {"port": port}}) == ("success", "")
        named = [{"name": "web", "containerPort": port}]
        assert await look({"tcpSocket": {"port": "web"}}, ports=named) == ("success", "")
        assert await look({"tcpSocket": {"port": str(port)}}) == ("success", "")


async def test_a_port_that_does_not_exist_is_an_error_of_the_probe() -> None:
    for port, text in {
        "admin": 'strconv.Atoi: parsing "admin": invalid',
        70000: "number: 70000",
    }.items():
        with pytest.raises(actions.ProbeError, match=text):
            await look({"tcpSocket": {"port": port}})


async def test_ipv6_addresses_are_written_in_brackets() -> None:
    asked = web.request({"port": 80, "path": "x"}, {}, "::1", "probe")
    assert asked.url == "http://[::1]:80/x"
    async with serve(answer("200 OK", b"six"), host="::1") as (port, heads):
        assert await look(get(port, host="::1")) == ("success", "six")
    assert f"Host: [::1]:{port}".encode() in heads[0]


async def test_redirects_on_the_same_host_are_followed() -> None:
    def redirect(head: bytes) -> bytes:
        if head.startswith(b"GET /redirect?loc=%2Fthere "):
            return answer("302 Found", b"", "Location: there?x=1")
        return answer("200 OK", b"arrived")

    async with serve(redirect) as (port, heads):
        found = await look(get(port, path="/redirect?loc=%2Fthere"))
    assert found == ("success", "arrived")
    assert heads[1].startswith(b"GET /there?x=1 HTTP/1.1\r\n")
    assert f"Referer: http://127.0.0.1:{port}/redirect?loc=%2Fthere\r\n".encode() in heads[1]


async def test_a_redirect_to_another_host_is_a_success_with_a_warning() -> None:
    elsewhere = answer("302 Found", b"moved", "Location: http://0.0.0.0/")
    async with serve(elsewhere) as (port, heads):
        found = await look(get(port))
    assert found == ("warning", "Probe terminated redirects, Response body: moved")
    assert len(heads) == 1


async def test_redirects_without_end_are_a_failure() -> None:
    async with serve(answer("301 Moved", b"", "Location: /again")) as (port, heads):
        result, text = await look(get(port))
    assert result == "failure"
    assert text.endswith(": stopped after 10 redirects")
    assert len(heads) == 10


async def test_certificates_are_not_verified() -> None:
    context = tls.ServerTls(names=["nobody"]).context
    context.verify_mode = ssl.CERT_NONE
    async with serve(answer("200 OK", b"secret"), ssl=context) as (port, _):
        assert await look(get(port, scheme="HTTPS")) == ("success", "secret")


async def test_a_server_without_tls_is_told_apart() -> None:
    async with serve_at_once(b"HTTP/1.1 400 Bad Request\r\n\r\n") as port:
        result, text = await look(get(port, scheme="HTTPS"))
    assert result == "failure"
    assert text.endswith(": http: server gave HTTP response to HTTPS client")


@contextlib.asynccontextmanager
async def serve_at_once(data: bytes) -> AsyncIterator[int]:
    """A server that answers whatever comes, also what it doesn't understand."""

    async def handle(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read(1)
        writer.write(data)
        writer.close()

    server = await asyncio.start_server(handle, LOOPBACK, 0)
    try:
        yield server.sockets[0].getsockname()[1]
    finally:
        server.close()
        await server.wait_closed()


# gRPC.


@contextlib.asynccontextmanager
async def serve_health(
    answer: Callable[[bytes, grpc.aio.ServicerContext[bytes, bytes]], Awaitable[bytes]] | None,
) -> AsyncIterator[int]:
    """A gRPC server with a health service (None: without one)."""
    server = grpc.aio.server()
    if answer is not None:
        method = grpc.unary_unary_rpc_method_handler(answer)
        handler = grpc.method_handlers_generic_handler("grpc.health.v1.Health", {"Check": method})
        server.add_generic_rpc_handlers((handler,))
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    try:
        yield port
    finally:
        await server.stop(None)


async def test_a_serving_service_is_healthy() -> None:
    asked: list[tuple[bytes, Any]] = []

    async def serving(request: bytes, context: Any) -> bytes:
        asked.append((request, dict(context.invocation_metadata())))
        return b"\x12\x02zz\x08\x01"

    async with serve_health(serving) as port:
        assert await look({"grpc": {"port": port}}) == ("success", "service healthy")
        assert await look({"grpc": {"port": port, "service": "é"}}) == (
            "success",
            "service healthy",
        )
    assert [request for request, _ in asked] == [b"", b"\x0a\x02\xc3\xa9"]
    assert asked[0][1]["user-agent"].startswith("kube-probe/1.36 ")


async def test_a_service_that_is_not_serving_is_unhealthy() -> None:
    async def dying(request: bytes, context: Any) -> bytes:
        return b"\x08\x02"

    async with serve_health(dying) as port:
        found = await look({"grpc": {"port": port}})
    assert found == ("failure", 'service unhealthy (responded with "NOT_SERVING")')


async def test_services_that_cannot_tell_are_unhealthy() -> None:
    async def unknown(request: bytes, context: Any) -> bytes:
        await context.abort(grpc.StatusCode.NOT_FOUND, "unknown service")
        return b""

    async def slow(request: bytes, context: Any) -> bytes:
        await asyncio.sleep(60)
        return b""

    async with serve_health(unknown) as port:
        assert await look({"grpc": {"port": port}}) == (
            "failure",
            "error: health rpc probe failed: rpc error: code = NotFound desc = unknown service",
        )
    async with serve_health(slow) as port:
        found = await look({"grpc": {"port": port}, "timeoutSeconds": 0.3})
        assert found == ("failure", "timeout: health rpc did not complete within 300ms")
    async with serve_health(None) as port:
        result, text = await look({"grpc": {"port": port}})
        assert result == "failure"
        assert text.startswith(
            "error: this server does not implement the grpc health protocol "
            "(grpc.health.v1.Health): "
        )


async def test_a_port_without_grpc_is_unhealthy() -> None:
    port = closed_port()
    result, text = await look({"grpc": {"port": port}, "timeoutSeconds": 0.3})
    assert result == "failure"
    assert text == (
        f'timeout: failed to connect service "127.0.0.1:{port}" within 300ms: '
        "context deadline exceeded"
    )


@pytest.mark.parametrize("broken", [b"\x08", b"\x08" + b"\xff" * 20, b"\x0b\x01"])
def test_a_broken_answer_is_refused(broken: bytes) -> None:
    with pytest.raises(ValueError, match="a "):
        health._status(broken)


# Probing.


class Fixture:
    """A prober, what it reported and whom it woke."""

    def __init__(self, *answers: tuple[int, bytes] | provider.ProviderError) -> None:
        self.runtime = Runtime(*answers or [(0, b"")])
        self.events: list[tuple[str, str, str]] = []
        self.woken = 0
        self.news = asyncio.Event()
        self.prober = probing.Prober(self.runtime, lambda: make.NOW, self._report, self._changed)

    def _report(
        self, pod: Object, kind: events.EventType, reason: str, note: str, container: str
    ) -> None:
        self.events.append((kind, reason, f"{container}: {note}"))

    def _changed(self, uid: str) -> None:
        assert uid == "uid-web"
        self.woken += 1
        self.news.set()

    async def next_news(self) -> None:
        async with asyncio.timeout(5):
            await self.news.wait()
        self.news.clear()


@pytest.fixture
async def fixture() -> AsyncIterator[Fixture]:
    found = Fixture()
    yield found
    await found.prober.close()
    assert len(found.prober) == 0


def probed(**probes: Any) -> Object:
    quick = {"exec": {"command": ["true"]}, "periodSeconds": 0.05, "failureThreshold": 1}
    definition = {f"{kind}Probe": quick | numbers for kind, numbers in probes.items()}
    return make.pod(containers=[make.container("app", **definition)])


def sync(
    fixture: Fixture, pod: Object, *runs: provider.RuntimeContainer, adopted: Any = ()
) -> None:
    runtime = make.runtime(*runs or [make.run()])
    fixture.prober.sync(pod, runtime, [LOOPBACK], adopted=set(adopted))


async def test_a_container_becomes_ready_at_once_when_its_probe_succeeds(fixture: Fixture) -> None:
    sync(fixture, probed(readiness={"periodSeconds": 10}))
    assert fixture.prober.results(make.run()) == {}
    await fixture.next_news()
    assert fixture.prober.results(make.run()) == {"readiness": True}
    assert fixture.events == []


async def test_readiness_comes_and_goes(fixture: Fixture) -> None:
    fixture.runtime.answers = [(0, b""), (1, b"down"), (0, b"")]
    sync(fixture, probed(readiness={}))
    seen = []
    for _ in range(3):
        await fixture.next_news()
        seen.append(fixture.prober.results(make.run())["readiness"])
    assert seen == [True, False, True]
    assert fixture.events == [("Warning", "Unhealthy", "app: Readiness probe failed: down")]


async def test_only_what_runs_and_has_probes_is_probed(fixture: Fixture) -> None:
    pod = probed(readiness={}, liveness={})
    sync(fixture, pod, make.run(state="exited"))
    assert len(fixture.prober) == 0
    sync(fixture, make.pod())
    assert len(fixture.prober) == 0
    sync(fixture, pod)
    assert len(fixture.prober) == 2
    sync(fixture, pod, make.run(state="exited"))
    assert len(fixture.prober) == 0
    assert fixture.prober.results(make.run()) == {}


async def test_a_failed_liveness_probe_ends_the_probing_of_its_run(fixture: Fixture) -> None:
    fixture.runtime.answers = [(1, b"dead")]
    pod = probed(liveness={"terminationGracePeriodSeconds": 5})
    sync(fixture, pod)
    await fixture.next_news()
    assert fixture.prober.results(make.run()) == {"liveness": False}
    assert fixture.prober.grace(make.run()) == 5.0
    assert len(fixture.prober) == 0
    assert fixture.events == [("Warning", "Unhealthy", "app: Liveness probe failed: dead")]
    sync(fixture, pod, make.run(attempt=1))
    assert fixture.prober.results(make.run()) == {}
    assert fixture.prober.grace(make.run(attempt=1)) is None
    assert len(fixture.prober) == 1


async def test_nothing_else_is_probed_before_the_container_has_started(fixture: Fixture) -> None:
    fixture.runtime.answers = [(1, b""), (1, b""), (0, b"")]
    sync(fixture, probed(startup={"failureThreshold": 5}, readiness={}, liveness={}))
    assert len(fixture.prober) == 1
    await fixture.next_news()
    assert fixture.prober.results(make.run()) == {"startup": True}
    assert len(fixture.prober) == 2
    assert len(fixture.runtime.asked) == 3
    await fixture.next_news()
    await fixture.next_news()
    assert fixture.prober.results(make.run()) == {
        "startup": True, "readiness": True, "liveness": True,
    }  # fmt: skip


async def test_a_container_that_does_not_start_has_failed_its_startup_probe(
    fixture: Fixture,
) -> None:
    fixture.runtime.answers = [(1, b"")]
    sync(fixture, probed(startup={"failureThreshold": 2, "terminationGracePeriodSeconds": 1}))
    began = time.monotonic()
    await fixture.next_news()
    assert time.monotonic() - began > 0.09
    assert fixture.prober.results(make.run()) == {"startup": False}
    assert fixture.prober.grace(make.run()) == 1.0


async def test_runs_from_before_the_agent_keep_what_their_status_says(fixture: Fixture) -> None:
    pod = probed(startup={"periodSeconds": 60}, readiness={"periodSeconds": 60})
    sync(fixture, pod, adopted=["app-0"])
    assert fixture.prober.results(make.run()) == {}
    assert len(fixture.prober) == 1
    fixture.prober.forget("uid-web")
    status = {"name": "app", "containerID": "containerd://app-0", "started": True, "ready": True}
    pod["status"]["containerStatuses"] = [status]
    sync(fixture, pod, adopted=["app-0"])
    assert fixture.prober.results(make.run()) == {"startup": True}
    assert list(fixture.prober._runs["app-0"].probes) == ["readiness"]


async def test_of_a_pod_that_is_stopped_only_readiness_is_probed(fixture: Fixture) -> None:
    fixture.runtime.answers = [(1, b"")]
    pod = probed(readiness={}, liveness={})
    sync(fixture, pod)
    fixture.prober.stop_all_but_readiness("uid-web")
    sync(fixture, pod)
    await fixture.next_news()
    assert fixture.prober.results(make.run()) == {"readiness": False}
    assert list(fixture.prober._runs["app-0"].probes) == ["readiness"]


async def test_a_deleted_pod_is_not_killed_for_its_liveness(fixture: Fixture) -> None:
    pod = probed(readiness={}, liveness={})
    pod["metadata"]["deletionTimestamp"] = "2026-01-02T03:04:05Z"
    sync(fixture, pod)
    assert list(fixture.prober._runs["app-0"].probes) == ["readiness"]


async def test_a_probe_that_fails_itself_says_nothing_about_the_container(
    fixture: Fixture,
) -> None:
    error = provider.ProviderError("container is paused")
    fixture.runtime.answers = [error, error, error, (0, b"")]
    sync(fixture, probed(readiness={}))
    await fixture.next_news()
    assert fixture.prober.results(make.run()) == {"readiness": True}
    note = "app: Readiness probe errored and resulted in unknown state: container is paused"
    assert fixture.events == [("Warning", "Unhealthy", note)]


async def test_a_redirect_elsewhere_is_told_as_a_warning(fixture: Fixture) -> None:
    async with serve(answer("302 Found", b"gone", "Location: http://0.0.0.0/")) as (port, _):
        pod = probed()
        pod["spec"]["containers"][0]["readinessProbe"] = get(port)
        sync(fixture, pod)
        await fixture.next_news()
    note = "app: Readiness probe warning: Probe terminated redirects, Response body: gone"
    assert fixture.events == [("Warning", "ProbeWarning", note)]


async def test_sidecars_are_probed_and_other_init_containers_are_not(fixture: Fixture) -> None:
    probe = {"readinessProbe": {"exec": {"command": ["true"]}}}
    pod = make.pod(
        initContainers=[
            make.container("setup", **probe),
            make.container("mesh", restartPolicy="Always", **probe),
        ]
    )
    sync(fixture, pod, make.run("setup"), make.run("mesh"))
    await fixture.next_news()
    assert fixture.prober.results(make.run("mesh")) == {"readiness": True}
    assert fixture.prober.results(make.run("setup")) == {}


async def test_answers_are_counted_over_restarts(fixture: Fixture) -> None:
    fixture.runtime.answers = [(0, b""), (1, b"")]
    pod = probed(readiness={})
    sync(fixture, pod)
    await fixture.next_news()
    await fixture.next_news()
    sync(fixture, pod, make.run(attempt=1))
    registry = prometheus_client.CollectorRegistry()
    registry.register(fixture.prober.metrics)
    found = prometheus_client.generate_latest(registry).decode()
    labels = 'container="app",namespace="shop",pod="web"'
    assert (
        f'prober_probe_total{{{labels},pod_uid="uid-web",probe_type="Readiness",'
        'result="successful"} 1.0'
    ) in found
    assert 'result="failed"} 1.0' in found
    assert (
        'prober_probe_duration_seconds_bucket{container="app",le="10.0",namespace="shop",'
        'pod="web",probe_type="Readiness"} 1.0'
    ) in found
    assert f'prober_probe_duration_seconds_count{{{labels},probe_type="Readiness"}} 1.0' in found
    fixture.prober.forget("uid-web")
    assert "shop" not in prometheus_client.generate_latest(registry).decode()


async def test_thousands_of_probes_at_rest_are_no_tasks(fixture: Fixture) -> None:
    idle = {"exec": {"command": ["true"]}, "initialDelaySeconds": 3600}
    pod = make.pod(containers=[make.container(f"c{i}", readinessProbe=idle) for i in range(2000)])
    tasks = len(asyncio.all_tasks())
    sync(fixture, pod, *[make.run(f"c{i}") for i in range(2000)])
    assert len(fixture.prober) == 2000
    assert len(asyncio.all_tasks()) == tasks
