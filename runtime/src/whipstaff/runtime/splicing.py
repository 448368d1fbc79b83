"""Connections that stop speaking HTTP: an upgraded request is joined with another server's.

`splice` sends a request on to a backend and, once that has answered ``101 Switching Protocols``,
carries bytes between the two connections until one of them ends. What they speak (SPDY, WebSocket)
is theirs: nothing is read, so nothing has to be understood. For that the connection is taken out of
aiohttp's hands, which keeps waiting in the handler until it is over.

Owns the two connections of a call. Answers to ``UpgradeAwareHandler`` in apimachinery
``pkg/util/proxy/upgradeaware.go``. Left out: requests that are no upgrades, and bytes that a client
sends before it was answered (no protocol allows that).
"""

from __future__ import annotations

import asyncio
import contextlib
import ipaddress
import re
import ssl
import urllib.parse
from typing import TypeAlias, cast

import multidict
from aiohttp import web
from aiohttp.abc import AbstractStreamWriter

DIAL_TIMEOUT = 30.0
"""Seconds that the backend may take to accept and to answer the request's head."""
CLOSE_TIMEOUT = 10.0
"""Seconds that one connection has to take what is left after the other has ended."""

_LONGEST_HEAD = 64 * 1024
_LONGEST_REFUSAL = 64 * 1024
_END_OF_HEAD = b"\r\n\r\n"
# The user's credentials were meant for this server; a body can't come before the answer.
_DROPPED = frozenset({"authorization", "cookie", "content-length", "transfer-encoding", "expect"})

_Prepared: TypeAlias = AbstractStreamWriter | None


def is_upgrade(request: web.BaseRequest) -> bool:
    """Whether a request asks to speak something else on its connection."""
    wanted = ",".join(request.headers.getall("Connection", ()))
    return any(token.strip().lower() == "upgrade" for token in wanted.split(","))


async def splice(request: web.Request, url: str, stopping: asyncio.Event) -> web.StreamResponse:
    """Join the request's connection with a backend's; returns when it is over.

    Args:
        request: an upgrade (`is_upgrade`) that nothing was answered to yet. Its method and headers
            are sent on, its credentials are not.
        url: of the backend, ``http`` where it names no scheme; an unspecified address is this host.
        stopping: ends it when it is set.

    Returns:
        What the handler must return: the backend's refusal, where it didn't upgrade.
    """
    transport = request.transport
    if transport is None or transport.is_closing():
        return _Over()
    backend = _Backend()
    try:
        async with asyncio.timeout(DIAL_TIMEOUT):
            await _dial(url, backend)
            backend.write(_head(request, url))
            head = await backend.answered
    except (OSError, ValueError, TimeoutError, EOFError) as error:
        backend.close()
        return _text(500, f"error dialing backend: {_explain(error)}")
    status = _status(head)
    if status == 101:
        await _join(request, backend, head, stopping)
        return _Over()
    try:
        async with asyncio.timeout(CLOSE_TIMEOUT):
            return await _refusal(status, head, backend)
    except TimeoutError:
        return _text(500, f"invalid upgrade response: status code {status}")
    finally:
        backend.close()


class _Over(web.StreamResponse):
    """What a handler returns whose connection isn't HTTP any more."""

    async def prepare(self, request: web.BaseRequest) -> _Prepared:
        """Write nothing."""
        del request
        return None

    async def write_eof(self, data: bytes | bytearray | memoryview = b"") -> None:
        """Write nothing."""
        del data


class _Pipe(asyncio.Protocol):
    """One of two connections: what comes in here goes out there, as fast as it can."""

    def __init__(self) -> None:
        self.transport: asyncio.Transport | None = None
        self.other: _Pipe | None = None
        self.ended = asyncio.Event()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Take the connection."""
        self.transport = cast("asyncio.Transport", transport)

    def data_received(self, data: bytes) -> None:
        """Pass it on."""
        if self.other is not None:
            self.other.write(data)

    def write(self, data: bytes) -> None:
        """Send, unless it is over."""
        if self.transport is not None and not self.transport.is_closing():
            self.transport.write(data)

    def pause_writing(self) -> None:
        """The receiver is slower than the sender: read no more."""
        if self.other is not None and self.other.transport is not None:
            self.other.transport.pause_reading()

    def resume_writing(self) -> None:
        """The receiver has caught up."""
        if self.other is not None and self.other.transport is not None:
            self.other.transport.resume_reading()

    def connection_lost(self, error: Exception | None) -> None:
        """One end is gone, so the other goes as soon as it has everything."""
        del error
        self.ended.set()
        if self.other is not None:
            self.other.close()

    def close(self) -> None:
        """Send what is still to be sent, and end."""
        if self.transport is not None:
            self.transport.close()

    def abort(self) -> None:
        """End at once."""
        if self.transport is not None:
            self.transport.abort()

    async def wait_ended(self) -> None:
        """Wait for the end, but not for ever: the other side may take nothing any more."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(CLOSE_TIMEOUT):
                await self.ended.wait()


class _Client(_Pipe):
    """The connection that was aiohttp's, which is told when it ends."""

    def __init__(self, former: asyncio.Protocol) -> None:
        super().__init__()
        self._former = former

    def connection_lost(self, error: Exception | None) -> None:
        """Pass it on to both."""
        super().connection_lost(error)
        self._former.connection_lost(error)


class _Backend(_Pipe):
    """The connection to the backend, whose answer has a head."""

    def __init__(self) -> None:
        super().__init__()
        self.answered: asyncio.Future[bytes] = asyncio.get_running_loop().create_future()
        self._received = b""
        self._news = asyncio.Event()

    def data_received(self, data: bytes) -> None:
        """Look for the end of the head, and from then on pass bytes on."""
        if self.other is not None:
            self.other.write(data)
            return
        self._received += data
        self._news.set()
        if self.answered.done():
            return
        end = self._received.find(_END_OF_HEAD)
        if end >= 0:
            end += len(_END_OF_HEAD)
            head, self._received = self._received[:end], self._received[end:]
            self.answered.set_result(head)
            # Whoever takes the head decides where the rest goes.
            if self.transport is not None:
                self.transport.pause_reading()
        elif len(self._received) > _LONGEST_HEAD:
            self.answered.set_exception(ValueError("the answer's head is too long"))

    def take(self) -> bytes:
        """What was received beyond the head."""
        data, self._received = self._received, b""
        self._news.clear()
        return data

    async def body(self, length: int | None) -> bytes:
        """The rest of an answer that is no upgrade: of that length, or until the end."""
        if self.transport is not None:
            self.transport.resume_reading()
        wanted = _LONGEST_REFUSAL if length is None else min(length, _LONGEST_REFUSAL)
        while len(self._received) < wanted and not self.ended.is_set():
            self._news.clear()
            await self._news.wait()
        return self.take()[:wanted]

    def connection_lost(self, error: Exception | None) -> None:
        """An end before the answer is an error."""
        super().connection_lost(error)
        self._news.set()
        if not self.answered.done():
            self.answered.set_exception(error or EOFError("the connection was closed"))
            # It may be that nobody waits any more.
            self.answered.exception()


async def _dial(url: str, backend: _Backend) -> None:
    parts = urllib.parse.urlsplit(url if "://" in url else f"http:{url}")
    host, port = parts.hostname or "", parts.port
    if not host or parts.scheme not in {"http", "https"}:
        raise ValueError(f"{url!r} is not a URL")
    try:
        if ipaddress.ip_address(host).is_unspecified:
            host = "localhost"
    except ValueError:
        pass  # a name
    secure = parts.scheme == "https"
    await asyncio.get_running_loop().create_connection(
        lambda: backend,
        host,
        port or (443 if secure else 80),
        ssl=ssl.create_default_context() if secure else None,
    )


def _head(request: web.Request, url: str) -> bytes:
    """The request's head as the backend gets it."""
    parts = urllib.parse.urlsplit(url)
    target = parts.path or "/"
    if parts.query:
        target += f"?{parts.query}"
    headers = multidict.CIMultiDict(
        (name, value) for name, value in request.headers.items() if name.lower() not in _DROPPED
    )
    if request.method not in {"GET", "HEAD"}:
        headers["Content-Length"] = "0"
    if request.remote:
        known = headers.getall("X-Forwarded-For", [])
        headers["X-Forwarded-For"] = ", ".join([*known, request.remote])
    lines = [f"{request.method} {target} HTTP/1.1"]
    lines += [f"{name}: {value}" for name, value in headers.items()]
    return "\r\n".join(lines).encode("utf-8", "surrogateescape") + _END_OF_HEAD


async def _join(
    request: web.Request, backend: _Backend, first: bytes, stopping: asyncio.Event
) -> None:
    """Carry bytes until one of the two connections has ended."""
    transport = request.transport
    if transport is None or transport.is_closing():
        backend.close()
        return
    client = _Client(request.protocol)
    client.transport, client.other, backend.other = transport, backend, client
    transport.set_protocol(client)
    client.write(first + backend.take())
    if backend.transport is not None:
        backend.transport.resume_reading()
    transport.resume_reading()
    ends = (client.ended, backend.ended, stopping)
    ended = [asyncio.create_task(end.wait()) for end in ends]
    try:
        await asyncio.wait(ended, return_when=asyncio.FIRST_COMPLETED)
        for end in (client, backend):
            end.close()
            if not stopping.is_set():
                await end.wait_ended()
    finally:
        for task in ended:
            task.cancel()
        for end in (client, backend):
            end.abort()


async def _refusal(status: int, head: bytes, backend: _Backend) -> web.Response:
    """The backend's answer, where it is a refusal; anything else can't be one to an upgrade."""
    if status < 400:
        return _text(500, f"invalid upgrade response: status code {status}")
    found = re.search(rb"(?im)^content-length:[ \t]*(\d+)", head)
    kind = re.search(rb"(?im)^content-type:[ \t]*([^\r\n]+)", head)
    body = await backend.body(int(found[1]) if found else None)
    response = web.Response(status=status, body=body)
    response.headers["Content-Type"] = kind[1].decode("latin-1") if kind else "text/plain"
    return response


def _status(head: bytes) -> int:
    found = re.match(rb"HTTP/1\.[01] (\d{3})[ \r]", head)
    return int(found[1]) if found else 0


def _text(status: int, text: str) -> web.Response:
    return web.Response(status=status, text=text, content_type="text/plain")


def _explain(error: Exception) -> str:
    return str(error) or ("no answer in time" if isinstance(error, TimeoutError) else repr(error))
