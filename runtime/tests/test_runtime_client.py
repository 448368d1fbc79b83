"""The client's own rules, against a plain HTTP server that answers what a test says."""

import asyncio
import contextlib
import gzip
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass, field
from typing import Any

import multidict
import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from whipstaff.runtime import client, config, errors, resources, transport, watching

BINDING = {"apiVersion": "v1", "kind": "Binding", "metadata": {"name": "web"}}


@dataclass
class Request:
    method: str
    target: str
    headers: dict[str, str]
    body: bytes


@dataclass
class Wire:
    """A server that notes what it gets; each script entry is an answer, or None to hang up."""

    script: list[bytes | None] = field(default_factory=list)
    requests: list[Request] = field(default_factory=list)
    writers: list[asyncio.StreamWriter] = field(default_factory=list)
    asked: asyncio.Event = field(default_factory=asyncio.Event)
    url: str = ""

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.writers.append(writer)
        try:
            while line := await reader.readline():
                method, target, _ = line.decode().split()
                headers = {}
                while (line := await reader.readline()) != b"\r\n":
                    name, _, value = line.decode().partition(":")
                    headers[name.lower()] = value.strip()
                body = await reader.readexactly(int(headers.get("content-length", 0)))
                self.requests.append(Request(method, target, headers, body))
                self.asked.set()
                answer = self.script.pop(0) if self.script else ok({})
                if answer is None:
                    break
                writer.write(answer)
                await writer.drain()
        except ConnectionError:
            return
        finally:
            writer.close()


def answer(status: int, content: Any, **headers: str) -> bytes:
    body = content.encode() if isinstance(content, str) else orjson.dumps(content)
    lines = [f"HTTP/1.1 {status} Whatever", f"Content-Length: {len(body)}"]
    lines += [f"{k.replace('_', '-')}: {v}" for k, v in headers.items()]
    if not isinstance(content, str):
        lines.append("Content-Type: application/json")
    return "\r\n".join([*lines, "", ""]).encode() + body


def ok(content: Any) -> bytes:
    return answer(200, content)


def status(code: int, reason: str, message: str = "no", **details: Any) -> dict[str, Any]:
    return {
        "kind": "Status",
        "apiVersion": "v1",
        "code": code,
        "reason": reason,
        "message": message,
        "details": details,
    }


def chunk(*lines: bytes, end: bool = False) -> bytes:
    text = b"".join(line + b"\n" for line in lines)
    return b"%x\r\n%s\r\n" % (len(text), text) + (b"0\r\n\r\n" if end else b"")


CHUNKED = b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nTransfer-Encoding: chunked\r\n\r\n"


async def drain(watch: AsyncIterator[client.WatchEvent]) -> tuple[list[str], Exception | None]:
    """What a watch gave, as ``TYPE name``, and what it ended with."""
    seen = []
    try:
        async for event in watch:
            seen.append(f"{event.type} {event.object['metadata']['name']}")  # noqa: PERF401
    except errors.WhipstaffError as error:
        return seen, error
    return seen, None


def change(kind: str, name: str, **more: Any) -> bytes:
    return orjson.dumps({"type": kind, "object": {"metadata": {"name": name}, **more}})


@pytest.fixture
async def wire() -> AsyncIterator[Wire]:
    wire = Wire()
    server = await asyncio.start_server(wire.serve, "127.0.0.1", 0)
    wire.url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"
    async with server:
        yield wire
        for writer in wire.writers:
            writer.close()
            with contextlib.suppress(ConnectionError):
                await writer.wait_closed()


@pytest.fixture
async def api(wire: Wire) -> AsyncIterator[client.Client]:
    async with client.Client(config.Connection(wire.url, "a test"), timeout=1.5) as api:
        yield api


@pytest.fixture
def pauses(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """The pauses that the client makes, noted instead of waited for."""
    made: list[float] = []

    async def sleep(seconds: float) -> None:
        if seconds:
            made.append(seconds)

    monkeypatch.setattr(asyncio, "sleep", sleep)
    return made


# ---- what goes out ---------------------------------------------------------------------------


async def test_verbs_send_what_the_api_expects(api: client.Client, wire: Wire) -> None:
    pods = resources.PODS
    await api.get(pods, "web", "shop", subresource="status")
    await api.create(pods, BINDING, "shop", name="web", subresource="binding", dry_run=True)
    await api.update(resources.NODES, {"metadata": {"name": "n 1"}}, subresource="status")
    await api.patch(pods, "web", {}, "shop", kind="apply", field_manager="me", force=True)
    await api.delete(pods, "web", "shop")
    await api.delete_collection(pods, "shop", label_selector="a in (b,c)", field_selector="x=y")
    assert [(r.method, r.target) for r in wire.requests] == [
        ("GET", "/api/v1/namespaces/shop/pods/web/status"),
        ("POST", "/api/v1/namespaces/shop/pods/web/binding?dryRun=All"),
        ("PUT", "/api/v1/nodes/n%201/status"),
        ("PATCH", "/api/v1/namespaces/shop/pods/web?fieldManager=me&force=true"),
        ("DELETE", "/api/v1/namespaces/shop/pods/web"),
        (
            "DELETE",
            "/api/v1/namespaces/shop/pods?labelSelector=a%20in%20%28b%2Cc%29&fieldSelector=x%3Dy",
        ),
    ]
    assert orjson.loads(wire.requests[1].body) == BINDING
    assert wire.requests[4].body == b""


async def test_a_request_can_be_called_off_just_before_it_is_sent(
    wire: Wire, pauses: list[float]
) -> None:
    turns: list[int] = []

    async def before() -> None:
        turns.append(len(pauses))
        if len(turns) == 3:
            raise LookupError("somebody was faster")

    async def bind() -> None:
        await api.create(resources.PODS, BINDING, "shop", name="web", before=before)

    busy = answer(429, status(429, "TooManyRequests"), Retry_After="1")
    connection = config.Connection(wire.url, "a test")
    async with client.Client(connection, qps=10, burst=1) as api:
        await bind()
        wire.script = [busy]
        with pytest.raises(LookupError):
            await bind()
    # It is asked when the client's limit has let the request through, and again for a new try.
    assert turns == [0, 1, 3]
    assert len(wire.requests) == 2


async def test_a_delete_carries_its_conditions(api: client.Client, wire: Wire) -> None:
    await api.delete(
        resources.PODS,
        "web",
        "shop",
        uid="u",
        resource_version="7",
        grace_period_seconds=0,
        propagation_policy="Orphan",
    )
    assert orjson.loads(wire.requests[0].body) == {
        "apiVersion": "v1",
        "kind": "DeleteOptions",
        "preconditions": {"uid": "u", "resourceVersion": "7"},
        "gracePeriodSeconds": 0,
        "propagationPolicy": "Orphan",
    }


@pytest.mark.parametrize(
    ("kind", "content_type"),
    [
        ("merge", "application/merge-patch+json"),
        ("strategic", "application/strategic-merge-patch+json"),
        ("json", "application/json-patch+json"),
        ("apply", "application/apply-patch+yaml"),
    ],
)
async def test_each_kind_of_patch_has_its_content_type(
    api: client.Client, wire: Wire, kind: client.PatchKind, content_type: str
) -> None:
    await api.patch(resources.NODES, "n", {}, kind=kind, field_manager="me")
    assert wire.requests[0].headers["content-type"] == content_type


async def test_loopback_traffic_is_not_compressed(api: client.Client, wire: Wire) -> None:
    await api.get(resources.NODES, "n")
    sent = wire.requests[0].headers
    assert (sent["accept"], sent["accept-encoding"]) == ("application/json", "identity")
    assert sent["user-agent"] == "whipstaff"
    assert "cookie" not in sent


async def test_far_servers_may_compress_and_are_reached_through_a_proxy(wire: Wire) -> None:
    zipped = gzip.compress(b'{"kind": "Node"}')
    head = f"HTTP/1.1 200 OK\r\nContent-Encoding: gzip\r\nContent-Length: {len(zipped)}\r\n"
    wire.script = [head.encode() + b"Content-Type: application/json\r\n\r\n" + zipped]
    connection = config.Connection("http://far.example:1/k8s", "a test", proxy=wire.url)
    async with client.Client(connection) as api:
        assert await api.get(resources.NODES, "n") == {"kind": "Node"}
    assert wire.requests[0].target == "http://far.example:1/k8s/api/v1/nodes/n"
    assert wire.requests[0].headers["accept-encoding"] == "gzip"


async def test_a_body_of_megabytes_goes_out_whole(api: client.Client, wire: Wire) -> None:
    big = {"metadata": {"name": "n"}, "data": "x" * (3 * 2**20)}
    await api.update(resources.NODES, big)
    assert orjson.loads(wire.requests[0].body) == big


async def test_mistakes_of_the_caller_send_nothing(api: client.Client, wire: Wire) -> None:
    with pytest.raises(ValueError, match="namespace"):
        await api.create(resources.PODS, {"metadata": {"name": "web"}})
    with pytest.raises(ValueError, match="namespace"):
        await api.delete(resources.PODS, "web")
    for target in ("/a b", "/a\r\nHost: x", "/ä"):
        with pytest.raises(ValueError, match="percent-encoded"):
            await api.request("GET", target)
    with pytest.raises(ValueError, match="'X-Note' has a line end"):
        await api.request("GET", "/", headers={"X-Note": "a\r\nX-More: b"})
    with pytest.raises(ValueError, match="name"):
        await api.delete(resources.NODES, "")
    with pytest.raises(ValueError, match="name"):
        await api.get(resources.NODES, "../pods")
    with pytest.raises(ValueError, match="field_manager"):
        await api.patch(resources.NODES, "n", {}, kind="apply")
    assert wire.requests == []


# ---- what comes back -------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("code", "reason", "kind"),
    [
        (400, "BadRequest", errors.BadRequest),
        (401, "Unauthorized", errors.Unauthorized),
        (403, "Forbidden", errors.Forbidden),
        (404, "NotFound", errors.NotFound),
        (405, "MethodNotAllowed", errors.MethodNotAllowed),
        (409, "AlreadyExists", errors.AlreadyExists),
        (409, "Conflict", errors.Conflict),
        (410, "Expired", errors.Expired),
        (410, "Gone", errors.Expired),
        (418, "Teapot", errors.ApiError),
        (422, "Invalid", errors.Invalid),
        (429, "TooManyRequests", errors.TooManyRequests),
        (500, "InternalError", errors.ServerError),
        (504, "Timeout", errors.ServerError),
    ],
)
async def test_each_refusal_is_an_exception_of_its_own(
    api: client.Client, wire: Wire, code: int, reason: str, kind: type[errors.ApiError]
) -> None:
    wire.script = [answer(code, status(code, reason, "so\n  not", name="web"))]
    with pytest.raises(errors.ApiError) as caught:
        await api.get(resources.NODES, "n")
    assert type(caught.value) is kind
    assert (caught.value.status, caught.value.reason) == (code, reason)
    assert caught.value.details == {"name": "web"}
    assert str(caught.value) == f"so not (HTTP {code})"


async def test_a_refusal_in_plain_text_is_a_message_too(api: client.Client, wire: Wire) -> None:
    wire.script = [answer(502, "bad\ngateway")]
    with pytest.raises(errors.ServerError, match=r"^bad gateway \(HTTP 502\)$"):
        await api.get(resources.NODES, "n")


async def test_raw_requests_give_json_or_text(api: client.Client, wire: Wire) -> None:
    wire.script = [ok({"gitVersion": "v1"}), answer(200, "ok")]
    assert await api.request("GET", "/version") == {"gitVersion": "v1"}
    assert await api.request("GET", "/readyz", query={"verbose": "a b"}) == "ok"
    assert wire.requests[1].target == "/readyz?verbose=a%20b"


async def test_something_that_is_no_api_server_is_named(api: client.Client, wire: Wire) -> None:
    wire.script = [answer(200, "<html>hello")]
    with pytest.raises(errors.Unreachable, match=r"is this a Kubernetes API server\? \(a test\)"):
        await api.get(resources.NODES, "n")


def _page(names: list[str], token: str = "", version: str = "5") -> bytes:
    metadata = {"resourceVersion": version, "continue": token}
    return ok({"metadata": metadata, "items": [{"metadata": {"name": n}} for n in names]})


async def test_a_list_is_all_pages_with_kinds_filled_in(api: client.Client, wire: Wire) -> None:
    wire.script = [_page(["a", "b"], "t=1&2"), _page(["c"])]
    found = await api.list(resources.NODES, label_selector="x", resource_version="0", page_size=2)
    assert [node["metadata"]["name"] for node in found] == ["a", "b", "c"]
    assert {(node["apiVersion"], node["kind"]) for node in found} == {("v1", "Node")}
    assert (found.resource_version, len(found)) == ("5", 3)
    assert [r.target for r in wire.requests] == [
        "/api/v1/nodes?labelSelector=x&resourceVersion=0&limit=2",
        "/api/v1/nodes?labelSelector=x&limit=2&continue=t%3D1%262",
    ]


async def test_a_list_starts_over_when_its_pages_expire(api: client.Client, wire: Wire) -> None:
    gone = answer(410, status(410, "Expired"))
    wire.script = [_page(["a"], "t"), gone, _page(["b", "c"], version="9")]
    found = await api.list(resources.NODES, field_selector="x=y", page_size=1)
    assert [node["metadata"]["name"] for node in found] == ["b", "c"]
    assert found.resource_version == "9"
    assert wire.requests[2].target == "/api/v1/nodes?fieldSelector=x%3Dy"


async def test_an_expired_list_version_is_the_callers_to_see(
    api: client.Client, wire: Wire
) -> None:
    wire.script = [answer(410, status(410, "Expired"))]
    with pytest.raises(errors.Expired):
        await api.list(resources.NODES, resource_version="1")


# ---- trying again ----------------------------------------------------------------------------


async def test_retry_after_is_waited_for(
    api: client.Client, wire: Wire, pauses: list[float]
) -> None:
    busy = answer(429, status(429, "TooManyRequests"), Retry_After="3")
    starting = answer(503, "apiserver is starting", Retry_After="1")
    wire.script = [busy, starting, ok({"kind": "Binding"})]
    await api.create(resources.PODS, BINDING, "shop", name="web", subresource="binding")
    assert pauses == [3, 1]
    assert [r.method for r in wire.requests] == ["POST"] * 3


async def test_patience_ends(api: client.Client, wire: Wire, pauses: list[float]) -> None:
    wire.script = [answer(429, status(429, "TooManyRequests"), Retry_After="1")] * 20
    with pytest.raises(errors.TooManyRequests) as caught:
        await api.get(resources.NODES, "n")
    assert caught.value.retry_after == 1
    assert len(pauses) == client.MAX_LATER


async def test_a_refused_token_is_renewed_once_and_the_request_goes_again(wire: Wire) -> None:
    issued: list[str] = []

    def authenticate() -> config.Credentials:
        issued.append(f"Bearer t{len(issued)}")
        headers = multidict.CIMultiDict({"Authorization": issued[-1]})
        return config.Credentials(headers)

    refusal = answer(401, status(401, "Unauthorized"))
    connection = config.Connection(wire.url, "a test", authenticate=authenticate)
    async with client.Client(connection) as api:
        wire.script = [refusal, ok({})]
        await api.create(resources.NODES, {})
        wire.script = [refusal] * 5
        with pytest.raises(errors.Unauthorized):
            await api.create(resources.NODES, {})
    sent = [request.headers["authorization"] for request in wire.requests]
    assert sent == ["Bearer t0", "Bearer t1", "Bearer t1", "Bearer t2"]


@pytest.mark.parametrize(
    "refusal",
    [
        answer(503, "no idea"),
        answer(500, status(500, "InternalError"), Retry_After="1"),
        answer(504, status(504, "Timeout"), Retry_After="1"),
        answer(429, status(429, "TooManyRequests"), Retry_After="3600"),
    ],
)
async def test_other_failures_are_the_callers_to_see(
    api: client.Client, wire: Wire, pauses: list[float], refusal: bytes
) -> None:
    wire.script = [refusal]
    with pytest.raises(errors.ApiError):
        await api.create(resources.PODS, BINDING, "shop")
    assert (len(wire.requests), pauses) == (1, [])


async def test_a_get_without_an_answer_is_sent_again(
    api: client.Client, wire: Wire, pauses: list[float]
) -> None:
    wire.script = [None, None, ok({"kind": "Node"})]
    assert await api.get(resources.NODES, "n") == {"kind": "Node"}
    assert pauses == list(client.GET_PAUSES)


async def test_a_get_gives_up_in_the_end(
    api: client.Client, wire: Wire, pauses: list[float]
) -> None:
    wire.script = [None] * 9
    with pytest.raises(errors.Unreachable, match="closed without an answer"):
        await api.get(resources.NODES, "n")
    assert len(wire.requests) == 1 + len(client.GET_PAUSES) == 1 + len(pauses)


async def test_a_get_that_took_long_to_get_no_answer_is_not_sent_again(
    api: client.Client, wire: Wire, pauses: list[float]
) -> None:
    wire.script = [b"HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\n"] * 2
    with pytest.raises(errors.Unreachable, match="in time"):
        await api.request("GET", "/slow", timeout=0.8)
    assert (len(wire.requests), pauses) == (1, [])


@pytest.mark.parametrize("warm", [False, True], ids=["new connection", "kept connection"])
@pytest.mark.parametrize("method", ["POST", "PUT", "PATCH", "DELETE"])
async def test_a_write_whose_answer_is_lost_is_never_sent_twice(
    api: client.Client, wire: Wire, method: str, warm: bool
) -> None:
    if warm:
        await api.request("GET", "/version")
    wire.script = [None]
    with pytest.raises(errors.Unreachable, match="closed without an answer"):
        await api.request(method, "/api/v1/nodes/n", body={})
    assert [r.method for r in wire.requests].count(method) == 1


# ---- no answer -------------------------------------------------------------------------------


async def test_a_refused_connection_names_server_and_source(
    unused_tcp_port: int, pauses: list[float]
) -> None:
    server = f"http://127.0.0.1:{unused_tcp_port}"
    async with client.Client(config.Connection(server, "kubeconfig /k")) as api:
        with pytest.raises(errors.Unreachable) as caught:
            await api.get(resources.NODES, "n")
    assert str(caught.value) == f"{server}: connection refused (kubeconfig /k)"


async def test_silence_ends_with_the_timeout(api: client.Client, wire: Wire) -> None:
    wire.script = [b"HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\n"]
    with pytest.raises(errors.Unreachable, match="no answer in time"):
        await api.request("POST", "/slow", timeout=0.1)


async def test_half_an_answer_is_none(api: client.Client, wire: Wire) -> None:
    wire.script = [b"HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nhalf", None]
    task = asyncio.create_task(api.request("POST", "/broken"))
    await wire.asked.wait()
    wire.writers[0].close()
    with pytest.raises(errors.Unreachable, match="broke off"):
        await task


async def test_json_that_is_none_is_an_answer_that_is_none(api: client.Client, wire: Wire) -> None:
    wire.script = [answer(200, "{oh", Content_Type="application/json")]
    with pytest.raises(errors.Unreachable, match="isn't the JSON"):
        await api.request("POST", "/broken")


# ---- watches ---------------------------------------------------------------------------------


async def test_a_watch_asks_for_what_it_needs(api: client.Client, wire: Wire) -> None:
    wire.script = [CHUNKED + chunk(change("ADDED", "a"), end=True)] * 2
    plain = [e async for e in api.watch(resources.PODS, "shop", resource_version="7")]
    streamed = [
        e
        async for e in api.watch(
            resources.NODES, label_selector="a=b", field_selector="c=d", send_initial_events=True
        )
    ]
    assert [e.type for e in plain + streamed] == ["ADDED", "ADDED"]
    first, second = (_query(request.target) for request in wire.requests)
    assert 300 <= int(first.pop("timeoutSeconds")) <= 600
    assert 300 <= int(second.pop("timeoutSeconds")) <= 600
    assert first == {"watch": "true", "resourceVersion": "7", "allowWatchBookmarks": "true"}
    assert second == {
        "labelSelector": "a%3Db",
        "fieldSelector": "c%3Dd",
        "watch": "true",
        "allowWatchBookmarks": "true",
        "sendInitialEvents": "true",
        "resourceVersionMatch": "NotOlderThan",
    }


def _query(target: str) -> dict[str, str]:
    return dict(item.split("=", 1) for item in target.partition("?")[2].split("&"))


async def test_events_longer_than_any_buffer_arrive_whole(api: client.Client, wire: Wire) -> None:
    big = change("MODIFIED", "b", data="x" * (3 * 2**20))
    wire.script = [CHUNKED + chunk(change("ADDED", "a"), big, change("DELETED", "c"), end=True)]
    seen = [e async for e in api.watch(resources.NODES)]
    assert [(e.type, e.object["metadata"]["name"]) for e in seen] == [
        ("ADDED", "a"),
        ("MODIFIED", "b"),
        ("DELETED", "c"),
    ]
    assert len(seen[1].object["data"]) == 3 * 2**20


@pytest.mark.parametrize(
    ("code", "reason", "kind"),
    [(410, "Expired", errors.Expired), (500, "InternalError", errors.ServerError)],
)
async def test_an_error_in_the_stream_comes_after_what_came_before(
    api: client.Client, wire: Wire, code: int, reason: str, kind: type[errors.ApiError]
) -> None:
    error = orjson.dumps({"type": "ERROR", "object": status(code, reason, "too old")})
    wire.script = [CHUNKED + chunk(change("ADDED", "a"), error)]
    seen, problem = await drain(api.watch(resources.NODES))
    assert seen == ["ADDED a"]
    assert isinstance(problem, kind)
    assert problem.message == "too old"


async def test_a_watch_that_is_refused_says_why(api: client.Client, wire: Wire) -> None:
    wire.script = [answer(410, status(410, "Gone"))]
    with pytest.raises(errors.Expired):
        [e async for e in api.watch(resources.NODES, resource_version="1")]


async def test_a_silent_watch_is_dead(api: client.Client, wire: Wire) -> None:
    wire.script = [CHUNKED + chunk(change("ADDED", "a"))]
    seen, problem = await drain(api.watch(resources.NODES, silence=0.1))
    assert seen == ["ADDED a"]
    assert isinstance(problem, errors.Unreachable)
    assert "silent for 0.1 s" in str(problem)


async def test_a_watch_that_breaks_off_says_so(api: client.Client, wire: Wire) -> None:
    wire.script = [CHUNKED + chunk(change("ADDED", "a"))]
    watch = api.watch(resources.NODES)
    await anext(watch)
    wire.writers[0].close()
    with pytest.raises(errors.Unreachable, match="broke off"):
        await anext(watch)


async def test_open_watches_keep_no_request_waiting(wire: Wire) -> None:
    wire.script = [CHUNKED + chunk(change("ADDED", "a"))] * 3
    connection = config.Connection(wire.url, "a test")
    async with client.Client(connection, max_connections=1, timeout=1) as api:
        watches = [api.watch(resources.NODES) for _ in range(3)]
        for watch in watches:
            assert (await anext(watch)).type == "ADDED"
        assert await api.get(resources.NODES, "n") == {}
        for watch in watches:
            await watch.aclose()


@given(st.lists(st.binary(max_size=9).map(lambda b: b.replace(b"\n", b"")), max_size=9), st.data())
def test_lines_are_the_same_however_they_are_cut(lines: list[bytes], data: st.DataObject) -> None:
    stream = b"".join(line + b"\n" for line in lines)
    splitter, found, start = watching.Lines(), [], 0
    while start < len(stream):
        size = data.draw(st.integers(1, len(stream) - start))
        found += splitter.feed(stream[start : start + size])
        start += size
    assert found == [line for line in lines if line]


def test_a_stream_of_something_else_is_no_watch() -> None:
    for line in (b"<html>", b"[]", b'{"type": "ADDED"}'):
        with pytest.raises(errors.Unreachable, match="something else than events"):
            watching.decode(line)


# ---- rate limit ------------------------------------------------------------------------------


def _times(bucket: transport.TokenBucket, arrivals: list[float]) -> list[float]:
    """When each request that arrives at these times may go."""
    return [now + bucket.reserve(now) for now in arrivals]


def test_a_burst_goes_at_once_and_the_rest_at_the_rate() -> None:
    bucket = transport.TokenBucket(qps=4, burst=3)
    assert _times(bucket, [0.0] * 6) == [0.0, 0.0, 0.0, 0.25, 0.5, 0.75]


def test_the_bucket_fills_up_again_and_no_further() -> None:
    bucket = transport.TokenBucket(qps=2, burst=2)
    assert _times(bucket, [0.0, 0.0, 0.0]) == [0.0, 0.0, 0.5]
    assert _times(bucket, [100.0] * 3) == [100.0, 100.0, 100.5]


@given(
    st.integers(1, 64),
    st.integers(1, 20),
    st.lists(st.integers(0, 40).map(lambda n: n / 16), max_size=60),
)
def test_no_window_sees_more_than_burst_and_rate_allow(
    qps: int, burst: int, gaps: list[float]
) -> None:
    arrivals = [sum(gaps[: i + 1]) for i in range(len(gaps))]
    sent = _times(transport.TokenBucket(qps, burst), arrivals)
    assert sent == sorted(sent)
    for i, start in enumerate(sent):
        for j, end in enumerate(sent[i:], start=1):
            assert j <= burst + (end - start) * qps + 1e-6


def test_a_rate_of_nothing_is_a_mistake() -> None:
    for qps, burst in ((0, 1), (-1, 1), (1, 0)):
        with pytest.raises(ValueError, match="rate limit"):
            transport.TokenBucket(qps, burst)


async def test_requests_wait_for_their_turn(wire: Wire, pauses: list[float]) -> None:
    connection = config.Connection(wire.url, "a test")
    async with client.Client(connection, qps=1, burst=2) as api:
        for _ in range(4):
            await api.get(resources.NODES, "n")
    assert len(pauses) == 2
    assert pauses == [pytest.approx(1, abs=0.5), pytest.approx(2, abs=0.5)]


# ---- resources -------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("path", "expected"),
    [
        (resources.PODS.path, "/api/v1/pods"),
        (lambda: resources.PODS.path("shop"), "/api/v1/namespaces/shop/pods"),
        (lambda: resources.NODES.path(name="n", subresource="status"), "/api/v1/nodes/n/status"),
        (lambda: resources.NODES.path("ignored", "n"), "/api/v1/nodes/n"),
        (
            lambda: resources.DEPLOYMENTS.path("shop", "web", "scale"),
            "/apis/apps/v1/namespaces/shop/deployments/web/scale",
        ),
        (
            lambda: resources.CLUSTERROLES.path(name="system:x y?"),
            "/apis/rbac.authorization.k8s.io/v1/clusterroles/system:x%20y%3F",
        ),
    ],
)
def test_paths(path: Callable[[], str], expected: str) -> None:
    assert path() == expected


def test_resources_are_found_by_what_a_manifest_says() -> None:
    assert resources.find("apps/v1", "Deployment") is resources.DEPLOYMENTS
    assert resources.find("v1", "Event") is resources.CORE_EVENTS
    assert resources.find("events.k8s.io/v1", "Event") is resources.EVENTS
    with pytest.raises(LookupError, match="shop/v1 Cart"):
        resources.find("shop/v1", "Cart")
