"""Kept-open HTTP/1.1 connections to one API server, a request and its whole answer at a time.

Runs no loop. Owns the connections: opens them as they are needed, keeps those that rest for a
minute, and hangs up on any whose request was given up. Answers to Go's ``net/http`` ``Transport``.

A control plane makes thousands of small requests a second, and most of what aiohttp does for each
is for needs that an API client hasn't: this takes less than half of its CPU time (see
``docs/performance.md``). llhttp parses, by way of httptools; TLS is asyncio's. Leaves out streams,
HTTP proxies and redirects: `transport` uses aiohttp for the first two, and an API server has no
use for the last.
"""

from __future__ import annotations

import asyncio
import socket
import ssl
import time
import zlib
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple, cast

import aiohappyeyeballs
import httptools

# kube-apiserver closes idle connections after 90 s; whoever lets go first gets no errors.
KEEPALIVE = 60.0
CONNECT_TIMEOUT = 10.0
_ADDRESSES_HOLD = 10.0
"""Seconds for which a name isn't looked up again."""
_TRY_NEXT_ADDRESS = 0.25
"""Seconds until another address of the server is tried at the same time (RFC 8305)."""


class BrokenError(ConnectionError):
    """The connection ended, or speaks something else, before the whole answer was there."""


class UnknownHostError(OSError):
    """The server's name can't be resolved."""


class Reply(NamedTuple):
    """A whole answer; the names of its headers are in lower case."""

    status: int
    headers: Mapping[bytes, bytes]
    body: bytes


class Pool:
    """Connections to one place.

    Args:
        host: a name or an address.
        port: of TCP.
        tls: None for plain HTTP.
        server_hostname: the name that the certificate must carry; None is the host.
        limit: how many connections at most; more requests wait for one.
        make_socket: makes each socket that is to be connected.
    """

    def __init__(
        self,
        host: str,
        port: int,
        *,
        tls: ssl.SSLContext | None,
        server_hostname: str | None,
        limit: int,
        make_socket: Callable[[aiohappyeyeballs.AddrInfoType], socket.socket],
    ) -> None:
        self._host, self._port = host, port
        self._tls = tls
        self._server_hostname = (server_hostname or host) if tls else None
        self._make_socket = make_socket
        self._turn = asyncio.Semaphore(limit)
        self._idle: deque[_Connection] = deque()
        self._busy: set[_Connection] = set()
        self._retired = False
        self._sweep: asyncio.TimerHandle | None = None
        self._addresses: Sequence[aiohappyeyeballs.AddrInfoType] = ()
        self._addresses_until = 0.0
        self._resolving = asyncio.Lock()

    async def exchange(self, message: bytes, timeout: float) -> Reply:
        """Send a request, head and body, and read the answer.

        Args:
            message: as it goes over the wire.
            timeout: seconds for all of it, waiting for a connection included.

        Raises:
            TimeoutError: it took longer.
            BrokenError: the answer isn't whole, or no HTTP.
            UnknownHostError: no address.
            OSError: no connection.
            ssl.SSLError: no TLS.
        """
        async with asyncio.timeout(timeout), self._turn:
            connection = self._rested() or await self._connect()
            self._busy.add(connection)
            try:
                reply = await connection.ask(message)
            except BaseException:
                connection.hang_up()
                raise
            finally:
                self._busy.discard(connection)
            self._put_back(connection)
        return reply

    def retire(self) -> None:
        """Close what rests now, and what is in use when it is done."""
        self._retired = True
        if self._sweep is not None:
            self._sweep.cancel()
        while self._idle:
            self._idle.pop().hang_up()

    def close(self) -> None:
        """Hang up, whatever is under way."""
        self.retire()
        for connection in self._busy:
            connection.hang_up()

    def _rested(self) -> _Connection | None:
        """The connection that rests for the shortest time, if one still stands."""
        while self._idle:
            connection = self._idle.pop()
            if connection.is_open:
                return connection
        return None

    def _put_back(self, connection: _Connection) -> None:
        if self._retired or not connection.is_open:
            connection.hang_up()
            return
        connection.rests_since = time.monotonic()
        self._idle.append(connection)
        if self._sweep is None:
            self._sweep = asyncio.get_running_loop().call_later(KEEPALIVE, self._let_go)

    def _let_go(self) -> None:
        """Close what has rested for long: the oldest are at the left."""
        self._sweep = None
        long_ago = time.monotonic() - KEEPALIVE
        while self._idle and self._idle[0].rests_since <= long_ago:
            self._idle.popleft().hang_up()
        if self._idle:
            wait = self._idle[0].rests_since - long_ago
            self._sweep = asyncio.get_running_loop().call_later(wait, self._let_go)

    async def _connect(self) -> _Connection:
        loop = asyncio.get_running_loop()
        addresses = await self._resolve()
        try:
            async with asyncio.timeout(CONNECT_TIMEOUT):
                connected = await aiohappyeyeballs.start_connection(
                    addresses,
                    happy_eyeballs_delay=_TRY_NEXT_ADDRESS,
                    interleave=1,
                    socket_factory=self._make_socket,
                )
        except OSError:
            self._addresses = ()
            raise
        try:
            _, connection = await loop.create_connection(
                _Connection, sock=connected, ssl=self._tls, server_hostname=self._server_hostname
            )
        except BaseException:
            connected.close()
            raise
        return connection

    async def _resolve(self) -> Sequence[aiohappyeyeballs.AddrInfoType]:
        async with self._resolving:
            if not self._addresses or time.monotonic() > self._addresses_until:
                try:
                    self._addresses = await asyncio.get_running_loop().getaddrinfo(
                        self._host, self._port, type=socket.SOCK_STREAM
                    )
                except socket.gaierror as error:
                    raise UnknownHostError(f"cannot resolve the name {self._host!r}") from error
                self._addresses_until = time.monotonic() + _ADDRESSES_HOLD
            return self._addresses


class _Connection(asyncio.Protocol):
    """One connection, and what has come of the answer that it waits for."""

    def __init__(self) -> None:
        self.is_open = False
        self.rests_since = 0.0
        self._transport: asyncio.Transport | None = None
        self._parser: httptools.HttpResponseParser | None = None
        self._waiting: asyncio.Future[Reply] | None = None
        self._headers: dict[bytes, bytes] = {}
        self._body: list[bytes] = []
        self._is_headed = False

    async def ask(self, message: bytes) -> Reply:
        """Send a request and wait for the answer; only one at a time."""
        assert self._transport is not None
        self._waiting = asyncio.get_running_loop().create_future()
        self._transport.write(message)
        return await self._waiting

    def hang_up(self) -> None:
        """End the connection without a TLS farewell; who waits for an answer hears of it."""
        self.is_open = False
        if self._transport is not None:
            self._transport.abort()

    # ---- from the transport ------------------------------------------------------------------

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)  # uvloop's are no subclass
        self._parser = httptools.HttpResponseParser(self)
        self.is_open = True

    def data_received(self, data: bytes) -> None:
        if self._waiting is None or self._parser is None:
            self.hang_up()  # nothing was asked: whatever comes next would answer the wrong request
            return
        try:
            self._parser.feed_data(data)
        except (httptools.HttpParserError, httptools.HttpParserUpgrade):
            self._fail(BrokenError(f"the answer isn't HTTP: {data[:40]!r}"))
            self.hang_up()

    def connection_lost(self, error: Exception | None) -> None:
        self.is_open = False
        if self._waiting is not None and self._is_headed and not self._has_length:
            self.on_message_complete()  # an answer that ends with the connection, as in HTTP/1.0
        elif self._is_headed:
            self._fail(BrokenError("the answer broke off"))
        elif isinstance(error, ssl.SSLError):
            self._fail(error)
        else:
            self._fail(BrokenError("the connection was closed without an answer"))
        self._transport = self._parser = None

    def _fail(self, error: Exception) -> None:
        waiting, self._waiting = self._waiting, None
        if waiting is not None and not waiting.done():
            waiting.set_exception(error)

    # ---- from the parser ---------------------------------------------------------------------

    def on_message_begin(self) -> None:
        if self._waiting is None:
            self.is_open = False  # more than was asked for: the next answer might be its rest

    def on_header(self, name: bytes, value: bytes) -> None:
        self._headers[name.lower()] = value

    def on_headers_complete(self) -> None:
        self._is_headed = True

    def on_body(self, piece: bytes) -> None:
        self._body.append(piece)

    def on_message_complete(self) -> None:
        assert self._parser is not None
        status = self._parser.get_status_code()
        headers, pieces, waiting = self._headers, self._body, self._waiting
        self._headers, self._body, self._is_headed = {}, [], False
        if status < 200:
            return  # there is more to say, and the answer itself comes after it
        self._waiting = None
        self.is_open = self.is_open and self._parser.should_keep_alive()
        if waiting is None or waiting.done():
            return
        try:
            waiting.set_result(Reply(status, headers, _plain(headers, pieces)))
        except zlib.error as error:
            waiting.set_exception(
                BrokenError(f"the answer isn't the gzip that it says it is: {error}")
            )

    @property
    def _has_length(self) -> bool:
        return b"content-length" in self._headers or b"transfer-encoding" in self._headers


def _plain(headers: Mapping[bytes, bytes], pieces: list[bytes]) -> bytes:
    body = pieces[0] if len(pieces) == 1 else b"".join(pieces)
    if headers.get(b"content-encoding") == b"gzip":
        return zlib.decompress(body, wbits=16 + zlib.MAX_WBITS)
    return body
