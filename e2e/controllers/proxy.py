"""An API server's bad day: a proxy between a client and the API server that spoils some answers.

Plain HTTP on loopback towards the client, TLS with the administrator's certificate towards the API
server. Seeded, and counts what it did. What a client has given up on isn't passed on any more.
"""

from __future__ import annotations

import asyncio
import collections
import contextlib
import dataclasses
import json
import pathlib
import random
from collections.abc import AsyncIterator, Iterable, Mapping
from typing import Any

import aiohttp
import orjson
from aiohttp import web

from whipstaff.runtime import config

WRITES = frozenset({"POST", "PUT", "PATCH", "DELETE"})
REFUSED = ("500", "503", "429", "409")
"""The API server says no, and does nothing."""
CUT, LOST = "cut", "lost"
"""No answer: nothing was done, or what was asked for was done."""
SLOW, LATE = "slow", "late"
"""What is asked for, or the answer to it, takes its time."""
GONE, ENDED, BROKEN, STALLED = "gone", "ended", "broken", "stalled"
"""A watch gets ERROR 410, ends without a word, breaks off, or is silent for a while."""

_REASONS = {500: "InternalError", 503: "ServiceUnavailable", 429: "TooManyRequests"}
_HOP_BY_HOP = frozenset({"connection", "keep-alive", "transfer-encoding", "content-length"})
_QUESTIONS = "/apis/authorization.k8s.io/"
_ASIDE = ("/apis/coordination.k8s.io/", "/apis/events.k8s.io/", _QUESTIONS)
_NO_CONFLICT = frozenset({"POST", "GET"})
_EXPIRED = {
    "type": "ERROR",
    "object": {
        "kind": "Status",
        "apiVersion": "v1",
        "metadata": {},
        "status": "Failure",
        "message": "too old resource version",
        "reason": "Expired",
        "code": 410,
    },
}


@dataclasses.dataclass(slots=True)
class Faults:
    """What goes wrong, and how often.

    Attributes:
        writes: the faults of writes: of `REFUSED`, `CUT`, `LOST`, `SLOW`, `LATE`.
        rate: the share of writes that meet one of them.
        reads: the faults of lists and gets; not `LOST` and `LATE`, which change nothing there.
        read_rate: the share of them.
        watches: how watches end or hang: of `GONE`, `ENDED`, `BROKEN`, `STALLED`.
        watch_seconds: the shortest and longest time between two such faults of one watch.
        slowness: the longest that something slow takes, in seconds.
    """

    writes: tuple[str, ...] = ()
    rate: float = 0.0
    reads: tuple[str, ...] = ()
    read_rate: float = 0.0
    watches: tuple[str, ...] = ()
    watch_seconds: tuple[float, float] = (0.5, 4.0)
    slowness: float = 1.0


class Proxy:
    """Serves from ``running`` on; `faults` may be changed at any time.

    Attributes:
        faults: what goes wrong.
        done: how often each fault was committed.
        writes: how many writes were asked for.
        mutations: how many of them were about more than leases and events.
        watching: how many watches are open.
    """

    def __init__(self, kubeconfig: pathlib.Path, seed: int) -> None:
        self.faults = Faults()
        self.done: collections.Counter[str] = collections.Counter()
        self.writes = self.mutations = 0
        self.watching = 0
        self._kubeconfig = kubeconfig
        self._chance = random.Random(seed)
        self._port = 0
        self._session: aiohttp.ClientSession | None = None
        self._server = ""

    @contextlib.asynccontextmanager
    async def running(self) -> AsyncIterator[Proxy]:
        """Serving, on a port of its own."""
        connection = config.load(str(self._kubeconfig))
        self._server = connection.server
        connector = aiohttp.TCPConnector(ssl=connection.tls or True, limit=0)
        timeout = aiohttp.ClientTimeout(total=None, sock_connect=5)
        async with aiohttp.ClientSession(
            connector=connector, timeout=timeout, auto_decompress=False
        ) as self._session:
            # What may be repeated is for the one to say whose request it is.
            self._session._retry_connection = False  # noqa: SLF001
            server = web.Server(self._answer, handler_cancellation=True, access_log=None)
            runner = web.ServerRunner(server, shutdown_timeout=0.1)
            await runner.setup()
            site = web.TCPSite(runner, "127.0.0.1", 0)
            await site.start()
            self._port = runner.addresses[0][1]
            try:
                yield self
            finally:
                await runner.cleanup()

    def write_kubeconfig(self, path: pathlib.Path) -> pathlib.Path:
        """A kubeconfig that leads here."""
        cluster = {"name": "c", "cluster": {"server": f"http://127.0.0.1:{self._port}"}}
        context = {"name": "c", "context": {"cluster": "c", "user": "u"}}
        path.write_text(
            json.dumps(
                {
                    "apiVersion": "v1",
                    "kind": "Config",
                    "clusters": [cluster],
                    "users": [{"name": "u", "user": {}}],
                    "contexts": [context],
                    "current-context": "c",
                }
            )
        )
        return path

    # ---- requests ----------------------------------------------------------------------------

    async def _answer(self, request: web.BaseRequest) -> web.StreamResponse:
        try:
            if request.query.get("watch") in {"true", "1"}:
                return await self._watch(request)
            return await self._exchange(request)
        except aiohttp.ClientError:
            # The API server is away: so are we.
            return _hang_up(request)

    async def _exchange(self, request: web.BaseRequest) -> web.StreamResponse:
        body = await request.read()
        if request.method in WRITES and not request.path.startswith(_ASIDE):
            self.mutations += 1
        fault = self._fault_of(request)
        if fault:
            self.done[fault] += 1
        if fault in REFUSED:
            return _refusal(int(fault))
        if fault == CUT:
            return _hang_up(request)
        if fault == SLOW:
            await self._wait()
        assert self._session is not None
        async with self._session.request(
            request.method,
            self._server + request.raw_path,
            data=body or None,
            headers=_passed_on(request.headers.items()),
            allow_redirects=False,
        ) as answer:
            content = await answer.read()
        if fault == LOST:
            return _hang_up(request)
        if fault == LATE:
            await self._wait()
        return web.Response(
            status=answer.status, body=content, headers=_passed_on(answer.headers.items())
        )

    def _fault_of(self, request: web.BaseRequest) -> str:
        method = request.method
        faults = self.faults
        if method in WRITES and not request.path.startswith(_QUESTIONS):
            self.writes += 1
            kinds, rate = faults.writes, faults.rate
        else:
            kinds, rate = faults.reads, faults.read_rate
        if method in _NO_CONFLICT:
            kinds = tuple(kind for kind in kinds if kind != "409")
        if not kinds or self._chance.random() >= rate:
            return ""
        return self._chance.choice(kinds)

    async def _wait(self) -> None:
        await asyncio.sleep(self._chance.uniform(0, self.faults.slowness))

    # ---- watches -----------------------------------------------------------------------------

    async def _watch(self, request: web.BaseRequest) -> web.StreamResponse:
        assert self._session is not None
        self.watching += 1
        try:
            async with self._session.get(
                self._server + request.raw_path, headers=_passed_on(request.headers.items())
            ) as answer:
                headers = _passed_on(answer.headers.items())
                response = web.StreamResponse(status=answer.status, headers=headers)
                if answer.status != 200:
                    return web.Response(
                        status=answer.status, headers=headers, body=await answer.read()
                    )
                await response.prepare(request)
                await self._pass_events(request, answer.content, response)
                return response
        finally:
            self.watching -= 1

    async def _pass_events(
        self, request: web.BaseRequest, events: aiohttp.StreamReader, response: web.StreamResponse
    ) -> None:
        """Whole events only, so that an ERROR event can follow anywhere."""
        rest = b""
        loop = asyncio.get_running_loop()
        due = loop.time() + self._until_fault()
        while True:
            chunk = b""
            try:
                async with asyncio.timeout_at(due):
                    chunk = await events.readany()
                    if not chunk:
                        return
            except TimeoutError:
                kind = self._fault_of_watch()
                if kind and not await self._spoil(kind, request, response):
                    return
                due = loop.time() + self._until_fault()
            lines, newline, rest = (rest + chunk).rpartition(b"\n")
            if newline:
                await response.write(lines + newline)

    def _until_fault(self) -> float:
        return self._chance.uniform(*self.faults.watch_seconds)

    def _fault_of_watch(self) -> str:
        return self._chance.choice(self.faults.watches) if self.faults.watches else ""

    async def _spoil(
        self, kind: str, request: web.BaseRequest, response: web.StreamResponse
    ) -> bool:
        """Spoil a watch; gives whether it goes on."""
        self.done[kind] += 1
        if kind == STALLED:
            await asyncio.sleep(self._chance.uniform(0, 3 * self.faults.slowness))
            return True
        if kind == GONE:
            await response.write(orjson.dumps(_EXPIRED) + b"\n")
        if kind == BROKEN:
            _hang_up(request)
        return False


def _passed_on(headers: Iterable[tuple[str, str]]) -> dict[str, str]:
    left_out = _HOP_BY_HOP | {"host", "authorization"}
    return {name: value for name, value in headers if name.lower() not in left_out}


def _hang_up(request: web.BaseRequest) -> web.Response:
    if request.transport is not None:
        request.transport.abort()
    return web.Response()


def _refusal(code: int) -> web.Response:
    status: Mapping[str, Any] = {
        "kind": "Status",
        "apiVersion": "v1",
        "metadata": {},
        "status": "Failure",
        "message": "injected",
        "reason": _REASONS.get(code, "Conflict"),
        "code": code,
    }
    # As kube-apiserver and its flow control: 429 says when to come again.
    headers = {"Retry-After": "1"} if code == 429 else {}
    return web.json_response(status, status=code, headers=headers)
