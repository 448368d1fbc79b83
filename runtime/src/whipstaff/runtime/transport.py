"""HTTP below the client: pooled connections to one API server, and what their failures mean.

Runs no loop of its own. It owns, on the connection's one TLS context, a bounded pool for requests,
and an unbounded aiohttp session for streams, so that open watches never keep a request waiting.
When a client certificate is renewed, both are replaced and the old ones end when their work is
done: a connection proves the identity that it was opened with. Behind an HTTP proxy requests take
the session too, for it knows how to talk to one.

This is the hot path of every component, so an exchange does nothing that can be done once: URLs
come encoded, headers are built once for each identity, there are no cookies, redirects, traces or
environment look-ups. Answers to client-go ``transport`` and ``util/flowcontrol``. Leaves out
HTTP/2: requests in flight at the same time each take a connection.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import socket
import ssl
import time
import urllib.parse
import weakref
from collections.abc import AsyncIterator, Mapping
from dataclasses import dataclass

import aiohttp
import multidict
import yarl

from whipstaff.runtime import config, errors, pool

# Replaced streams may go on until their watches end by themselves.
_STREAM_LINGER = 600.0
_FAREWELL = 2.0
"""Seconds for which the TLS farewells of cancelled requests are waited for."""
_READ_BUFFER = 2**18
# Of the methods in use, those whose requests must say so when they have no body (RFC 9110, 8.6).
_WITH_BODY = frozenset({"POST", "PUT", "PATCH"})


@dataclass(slots=True)
class Answer:
    """A whole HTTP answer; of its headers, those that the client acts on."""

    status: int
    body: bytes
    content_type: str = ""
    retry_after: str = ""

    @property
    def is_json(self) -> bool:
        """Whether the body says that it is JSON."""
        return self.content_type.startswith("application/json")


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
        self._timeout = timeout
        self._place = urllib.parse.urlsplit(connection.server)
        self._proxied = asyncio.Semaphore(max_connections)
        self._requests: pool.Pool | None = None
        self._streams: aiohttp.ClientSession | None = None
        self._certificate: config.Certificate | None = None
        self._sockets: weakref.WeakSet[socket.socket] = weakref.WeakSet()
        self._retired: set[asyncio.Task[None]] = set()
        self._heads: dict[tuple[object, ...], bytes] = {}
        self._heads_of: Mapping[str, str] | None = None

    async def close(self) -> None:
        """Close every connection."""
        for task in self._retired:
            task.cancel()
        requests, self._requests = self._requests, None
        streams, self._streams = self._streams, None
        if requests is not None:
            requests.close()
        if streams is not None:
            await streams.close()
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
        patience = self._timeout if timeout is None else timeout
        try:
            if self.connection.proxy:
                sent = self._headers(identity, content_type, headers)
                return await self._exchange_by_proxy(method, target, body, sent, patience)
            message = self._message(method, target, body, identity, content_type, headers)
            reply = await self._requests.exchange(message, patience)
        except (aiohttp.ClientError, TimeoutError, OSError, ssl.SSLError) as error:
            raise self._unreachable(error) from error
        return Answer(
            reply.status,
            reply.body,
            reply.headers.get(b"content-type", b"").decode("latin-1"),
            reply.headers.get(b"retry-after", b"").decode("latin-1"),
        )

    async def _exchange_by_proxy(
        self,
        method: str,
        target: str,
        body: bytes | None,
        headers: Mapping[str, str],
        timeout: float,
    ) -> Answer:
        assert self._streams is not None
        async with (
            asyncio.timeout(timeout),
            self._proxied,
            self._streams.request(
                method,
                yarl.URL(self.connection.server + target, encoded=True),
                data=None if body is None else aiohttp.BytesPayload(body),
                headers=headers,
                allow_redirects=False,
                timeout=aiohttp.ClientTimeout(total=None, sock_connect=pool.CONNECT_TIMEOUT),
                server_hostname=self.connection.server_hostname,
                proxy=self.connection.proxy,
            ) as response,
        ):
            return await answer(response)

    @contextlib.asynccontextmanager
    async def stream(
        self, target: str, identity: Mapping[str, str], *, silence: float
    ) -> AsyncIterator[aiohttp.ClientResponse]:
        """GET something that goes on: its head, and the body as it comes.

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
                headers=self._headers(identity),
                allow_redirects=False,
                timeout=aiohttp.ClientTimeout(
                    total=None, sock_connect=pool.CONNECT_TIMEOUT, sock_read=silence
                ),
                server_hostname=self.connection.server_hostname,
                proxy=self.connection.proxy,
            ) as response:
                connection = response.connection
                try:
                    yield response
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
        if self._requests is not None:
            self._requests.retire()
        if self._streams is not None:
            task = asyncio.create_task(_close_later(self._streams, _STREAM_LINGER))
            self._retired.add(task)
            task.add_done_callback(self._retired.discard)
        self._certificate = self.connection.certificate
        self._requests = pool.Pool(
            self._place.hostname or "",
            self._place.port or (443 if self._place.scheme == "https" else 80),
            tls=self.connection.tls,
            server_hostname=self.connection.server_hostname,
            limit=self._max_connections,
            make_socket=self._socket,
        )
        self._streams = self._session()

    def _session(self) -> aiohttp.ClientSession:
        session = aiohttp.ClientSession(
            connector=aiohttp.TCPConnector(
                ssl=self.connection.tls or False,
                limit=0,
                keepalive_timeout=pool.KEEPALIVE,
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

    def _message(
        self,
        method: str,
        target: str,
        body: bytes | None,
        identity: Mapping[str, str],
        content_type: str,
        extra: Mapping[str, str] | None,
    ) -> bytes:
        """A request as it goes over the wire; its headers are put together once for an identity."""
        if not (target.isascii() and target.isprintable()) or " " in target:
            raise ValueError(f"the target of a request must be percent-encoded, not {target!r}")
        if self._heads_of is not identity:
            self._heads_of = identity
            self._heads = {}
        key = (content_type, *extra.items()) if extra else (content_type,)
        head = self._heads.get(key)
        if head is None:
            head = self._heads[key] = _head(self._headers(identity, content_type, extra))
        start = f"{method} {self._place.path}{target} HTTP/1.1\r\n".encode()
        if body is not None:
            return b"%b%bContent-Length: %d\r\n\r\n%b" % (start, head, len(body), body)
        if method in _WITH_BODY:
            return b"%b%bContent-Length: 0\r\n\r\n" % (start, head)
        return b"%b%b\r\n" % (start, head)

    def _headers(
        self,
        identity: Mapping[str, str],
        content_type: str = "",
        extra: Mapping[str, str] | None = None,
    ) -> multidict.CIMultiDict[str]:
        headers = multidict.CIMultiDict(identity)
        headers["Host"] = self._place.netloc.rpartition("@")[2]
        headers["Accept"] = "application/json"
        headers["Accept-Encoding"] = "identity" if self.connection.loopback else "gzip"
        headers["User-Agent"] = self._user_agent
        if content_type:
            headers["Content-Type"] = content_type
        headers.update(extra or {})
        return headers

    def _unreachable(self, error: BaseException) -> errors.Unreachable:
        untrusted = isinstance(
            error, aiohttp.ClientConnectorCertificateError | ssl.SSLCertVerificationError
        )
        kind = errors.Untrusted if untrusted else errors.Unreachable
        return kind(f"{self.connection.server}: {_why(error)} ({self.connection.source})")


async def answer(response: aiohttp.ClientResponse) -> Answer:
    """The whole of what came by the session."""
    return Answer(
        response.status,
        await response.read(),
        response.headers.get("Content-Type", ""),
        response.headers.get("Retry-After", ""),
    )


def _head(headers: Mapping[str, str]) -> bytes:
    """Header lines.

    Raises:
        ValueError: a line end in one, which would start another.
    """
    for name, value in headers.items():
        if {"\r", "\n", "\0"} & set(name + value):
            raise ValueError(f"the header {name!r} has a line end or a NUL in it")
    return "".join(f"{name}: {value}\r\n" for name, value in headers.items()).encode("latin-1")


def _why(error: BaseException) -> str:
    """The reason in a few words; the order matters, for these types inherit from one another."""
    if isinstance(error, aiohttp.ClientConnectorCertificateError):
        error = error.certificate_error
    if isinstance(error, ssl.SSLCertVerificationError):
        return f"its certificate isn't trusted: {error.verify_message or error}"
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
