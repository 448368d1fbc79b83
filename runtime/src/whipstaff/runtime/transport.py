"""HTTP below the client: pooled connections to one API server, and what their failures mean.

Runs no loop of its own. It owns two aiohttp sessions on the connection's one TLS context: a bounded
pool for requests, and an unbounded one for streams, so that open watches never keep a request
waiting. When a client certificate is renewed, both are replaced and the old ones end when their
work is done: a connection proves the identity that it was opened with.

This is the hot path of every component, so an exchange does nothing that can be done once: URLs
come encoded, headers are built once for each identity, there are no cookies, redirects, traces or
environment look-ups. Answers to client-go ``transport`` and ``util/flowcontrol``. Leaves out HTTP/2
(aiohttp has none): requests in flight at the same time each take a connection.
"""

from __future__ import annotations

import asyncio
import contextlib
import io
import os
import socket
import ssl
import time
import weakref
from collections.abc import AsyncIterator, Mapping
from dataclasses import dataclass
from typing import Any

import aiohttp
import multidict
import yarl

from whipstaff.runtime import config, errors

CONNECT_TIMEOUT = 10.0
# kube-apiserver closes idle connections after 90 s; whoever lets go first gets no errors.
KEEPALIVE = 60.0
# Replaced streams may go on until their watches end by themselves.
_STREAM_LINGER = 600.0
_FAREWELL = 2.0
"""Seconds for which the TLS farewells of cancelled requests are waited for."""
# aiohttp warns of bytes longer than this and wants a file.
_LARGE = 2**20
_READ_BUFFER = 2**18


@dataclass(slots=True)
class Answer:
    """A whole HTTP answer."""

    status: int
    headers: Mapping[str, str]
    body: bytes

    @property
    def is_json(self) -> bool:
        """Whether the body says that it is JSON."""
        return self.headers.get("Content-Type", "").startswith("application/json")


class TokenBucket:
    """A client-side rate limit: `qps` on average, `burst` at once.

    Answers to client-go ``util/flowcontrol/throttle.go``. Times are seconds of any one clock.
    """

    def __init__(self, qps: float, burst: int) -> None:
        if qps <= 0 or burst < 1:
            raise ValueError(f"a rate limit needs qps > 0 and burst >= 1, not {qps} and {burst}")
        self._interval = 1 / qps
        self._depth = (burst - 1) * self._interval
        self._next = float("-inf")

    def reserve(self, now: float) -> float:
        """Take a token: the seconds to wait until it is there."""
        # The time at which the bucket would be full again says all that there is to know.
        self._next = max(self._next, now - self._depth)
        wait = max(self._next - now, 0.0)
        self._next += self._interval
        return wait


class Transport:
    """Exchanges with one API server under one identity."""

    def __init__(
        self,
        connection: config.Connection,
        *,
        user_agent: str,
        max_connections: int,
        timeout: float,
    ) -> None:
        self.connection = connection
        self._user_agent = user_agent
        self._max_connections = max_connections
        self._timeout = aiohttp.ClientTimeout(
            total=timeout, sock_connect=min(CONNECT_TIMEOUT, timeout)
        )
        self._requests: aiohttp.ClientSession | None = None
        self._streams: aiohttp.ClientSession | None = None
        self._certificate: config.Certificate | None = None
        self._sockets: weakref.WeakSet[socket.socket] = weakref.WeakSet()
        self._retired: set[asyncio.Task[None]] = set()
        self._headers: dict[str, multidict.CIMultiDict[str]] = {}
        self._headers_of: Mapping[str, str] | None = None

    async def close(self) -> None:
        """Close every connection."""
        for task in self._retired:
            task.cancel()
        sessions = [s for s in (self._requests, self._streams) if s is not None]
        self._requests = self._streams = None
        for session in sessions:
            await session.close()
        await asyncio.gather(*self._retired, return_exceptions=True)
        # Hanging up takes a turn of the loop, and the TLS farewell of a cancelled request a moment.
        patience = time.monotonic() + _FAREWELL
        await asyncio.sleep(0)
        while self._is_connected() and time.monotonic() < patience:  # noqa: ASYNC110 (none tells)
            await asyncio.sleep(0.005)

    async def exchange(
        self,
        method: str,
        target: str,
        body: bytes | None,
        identity: Mapping[str, str],
        *,
        content_type: str = "",
        headers: Mapping[str, str] | None = None,
        timeout: float | None = None,
    ) -> Answer:
        """Send one request and read its whole answer.

        Args:
            method: the HTTP verb.
            target: path and query, percent-encoded.
            body: None sends none.
            identity: the headers that `config.Connection.headers` gave.
            content_type: of the body.
            headers: more headers.
            timeout: seconds for all of it; None is the transport's own.

        Raises:
            errors.Unreachable: there was no answer, or only a part of one.
        """
        if self._requests is None or self._certificate is not self.connection.certificate:
            self._open()
        assert self._requests is not None
        try:
            async with self._requests.request(
                method,
                yarl.URL(self.connection.server + target, encoded=True),
                data=_payload(body),
                headers=self._merged(identity, content_type, headers),
                allow_redirects=False,
                timeout=self._timeout if timeout is None else aiohttp.ClientTimeout(timeout),
                server_hostname=self.connection.server_hostname,
                proxy=self.connection.proxy,
            ) as response:
                return Answer(response.status, response.headers, await response.read())
        except (aiohttp.ClientError, TimeoutError, OSError, ssl.SSLError) as error:
            raise self._unreachable(error) from error

    @contextlib.asynccontextmanager
    async def stream(
        self, target: str, identity: Mapping[str, str], *, silence: float
    ) -> AsyncIterator[tuple[int, Mapping[str, str], aiohttp.StreamReader]]:
        """GET something that goes on: status, headers and the body as it comes.

        Args:
            target: path and query, percent-encoded.
            identity: the headers that `config.Connection.headers` gave.
            silence: seconds without a byte after which the stream counts as dead.

        Raises:
            errors.Unreachable: no answer; or, while the body is read, it broke off or is silent.
        """
        if self._streams is None or self._certificate is not self.connection.certificate:
            self._open()
        assert self._streams is not None
        try:
            async with self._streams.get(
                yarl.URL(self.connection.server + target, encoded=True),
                headers=self._merged(identity, "", None),
                allow_redirects=False,
                timeout=aiohttp.ClientTimeout(
                    total=None, sock_connect=CONNECT_TIMEOUT, sock_read=silence
                ),
                server_hostname=self.connection.server_hostname,
                proxy=self.connection.proxy,
            ) as response:
                connection = response.connection
                try:
                    yield response.status, response.headers, response.content
                finally:
                    # There is more to come that nobody wants: hang up instead of a TLS farewell,
                    # which would go on in the background.
                    if connection is not None and connection.transport is not None:
                        connection.transport.abort()
        except aiohttp.SocketTimeoutError as error:
            raise errors.Unreachable(
                f"{self.connection.server}: the stream was silent for {silence:g} s"
            ) from error
        except (aiohttp.ClientError, TimeoutError, OSError, ssl.SSLError) as error:
            raise self._unreachable(error) from error

    def _open(self) -> None:
        for session, linger in (
            (self._requests, self._timeout.total or 0.0),
            (self._streams, _STREAM_LINGER),
        ):
            if session is not None:
                task = asyncio.create_task(_close_later(session, linger))
                self._retired.add(task)
                task.add_done_callback(self._retired.discard)
        self._certificate = self.connection.certificate
        self._requests = self._session(self._max_connections)
        self._streams = self._session(0)

    def _session(self, limit: int) -> aiohttp.ClientSession:
        session = aiohttp.ClientSession(
            connector=aiohttp.TCPConnector(
                ssl=self.connection.tls or False,
                limit=limit,
                keepalive_timeout=KEEPALIVE,
                socket_factory=self._socket,
            ),
            cookie_jar=aiohttp.DummyCookieJar(),
            auto_decompress=not self.connection.loopback,
            read_bufsize=_READ_BUFFER,
        )
        # aiohttp sends a PUT or DELETE again when a connection that it kept open breaks, though
        # the first may have run: a delete might then hit the next object of that name. Go's
        # transport repeats neither. What may be repeated is for the client above to say.
        session._retry_connection = False  # noqa: SLF001
        return session

    def _socket(self, address: aiohttp.AddrInfoType) -> socket.socket:
        family, kind, protocol, _, _ = address
        made = socket.socket(family, kind, protocol)
        self._sockets.add(made)
        return made

    def _is_connected(self) -> bool:
        return any(each.fileno() != -1 for each in self._sockets)

    def _merged(
        self, identity: Mapping[str, str], content_type: str, extra: Mapping[str, str] | None
    ) -> multidict.CIMultiDict[str]:
        """All headers of a request, built once for each identity and content type."""
        if self._headers_of is not identity:
            self._headers_of = identity
            self._headers = {}
        headers = self._headers.get(content_type)
        if headers is None:
            headers = multidict.CIMultiDict(identity)
            headers["Accept"] = "application/json"
            headers["Accept-Encoding"] = "identity" if self.connection.loopback else "gzip"
            headers["User-Agent"] = self._user_agent
            if content_type:
                headers["Content-Type"] = content_type
            self._headers[content_type] = headers
        if extra:
            headers = multidict.CIMultiDict(headers)
            headers.update(extra)
        return headers

    def _unreachable(self, error: BaseException) -> errors.Unreachable:
        untrusted = isinstance(error, aiohttp.ClientConnectorCertificateError)
        kind = errors.Untrusted if untrusted else errors.Unreachable
        return kind(f"{self.connection.server}: {_why(error)} ({self.connection.source})")


def _payload(body: bytes | None) -> Any:
    if body is None:
        return None
    if len(body) > _LARGE:
        return io.BytesIO(body)
    return aiohttp.BytesPayload(body)


def _why(error: BaseException) -> str:
    """The reason in a few words; the order matters, for these types inherit from one another."""
    if isinstance(error, aiohttp.ClientConnectorCertificateError):
        problem = getattr(error.certificate_error, "verify_message", "") or error.certificate_error
        return f"its certificate isn't trusted: {problem}"
    if isinstance(error, aiohttp.ClientConnectorDNSError):
        return f"cannot resolve the name {error.host!r}"
    if isinstance(error, aiohttp.ClientSSLError | ssl.SSLError):
        return f"TLS failed: {getattr(error, 'reason', '') or error}"
    for kind, reason in _REASONS.items():
        if isinstance(error, kind):
            return reason
    if isinstance(error, OSError) and error.errno is not None:
        return os.strerror(error.errno).lower()
    return " ".join(str(error).split()) or type(error).__name__


_REASONS: dict[type[BaseException], str] = {
    TimeoutError: "no answer in time",
    aiohttp.ServerDisconnectedError: "the connection was closed without an answer",
    aiohttp.ClientPayloadError: "the answer broke off",
}


async def _close_later(session: aiohttp.ClientSession, seconds: float) -> None:
    try:
        await asyncio.sleep(seconds)
    finally:
        await session.close()
