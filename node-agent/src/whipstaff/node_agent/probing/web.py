"""One HTTP GET, as probes and lifecycle hooks make it: by hand, on a connection of its own.

A probe is a few hundred bytes each way and made thousands of times a minute, so there are no
sessions and no pools here: open, write, read the head and at most 10 KB, close. Certificates aren't
verified, the environment's proxies aren't used, redirects are followed on the same host only. Texts
of errors are Go's, without what differs from one attempt to the next (local ports).

Runs no loop and owns nothing but the TLS settings. Answers to ``pkg/probe/http`` and to what that
uses of Go's net/http. Leaves out HTTP/2, which Go speaks where a TLS server offers nothing else.
"""

from __future__ import annotations

import asyncio
import functools
import os
import re
import socket
import ssl
import urllib.parse
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from whipstaff.node_agent import texts
from whipstaff.node_agent.probing import ports
from whipstaff.runtime import objects

Object = objects.Object

VERSION = "1.36"
"""The Kubernetes version that User-Agent headers name."""
BODY_LIMIT = 10 * 1024
"""Bytes of an answer that are read."""

NOT_TLS = "http: server gave HTTP response to HTTPS client"

_MOST_REDIRECTS = 10
_HEAD_LIMIT = 256 * 1024
_REDIRECTS = frozenset({301, 302, 303, 307, 308})
_NO_BODY = frozenset({204, 304})
_NOT_OURS = frozenset({"Host", "Content-Length", "Transfer-Encoding", "Trailer"})
_BAD_ESCAPE = re.compile(r"%(?![0-9A-Fa-f]{2})")
_CONTROL = re.compile(r"[\x00-\x1f\x7f]")
# What a path (and a query) may have besides letters, digits and escapes.
_PATH_SAFE = "/:@!$&'()*+,;=~-._[]"
_TOKEN = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]+")


class RequestError(Exception):
    """There was no answer; the text is the one that Go's client gives."""


class BodyError(Exception):
    """The answer broke off in its body."""


@dataclass(frozen=True, slots=True)
class Request:
    """A GET.

    Attributes:
        url: where, complete.
        headers: in order, with the names in their usual spelling; ``Host`` takes the place of the
            URL's.
    """

    url: str
    headers: tuple[tuple[str, str], ...] = ()


@dataclass(frozen=True, slots=True)
class Response:
    """An answer: its status, and the first 10 KB of its body."""

    status: int
    body: bytes


def request(action: Object, definition: Object, pod_ip: str, purpose: str) -> Request:
    """The request of an ``httpGet`` action.

    Args:
        action: the action.
        definition: the container, for its named ports.
        pod_ip: the host where the action names none.
        purpose: ``probe`` or ``lifecycle``, for the User-Agent.

    Raises:
        ports.PortError: the action's port isn't one.
    """
    host = action.get("host") or pod_ip
    address = join(host, ports.resolve(action.get("port"), definition))
    scheme = (action.get("scheme") or "http").lower()
    headers: list[tuple[str, str]] = [
        (_canonical(header["name"]), header.get("value") or "")
        for header in action.get("httpHeaders") or ()
    ]
    names = {name for name, _ in headers}
    if "User-Agent" not in names:
        headers.append(("User-Agent", f"kube-{purpose}/{VERSION}"))
    if "Accept" not in names:
        headers.append(("Accept", "*/*"))
    elif _first(headers, "Accept") == "":
        headers = [header for header in headers if header[0] != "Accept"]
    return Request(f"{scheme}://{address}{_target(action.get('path') or '')}", tuple(headers))


async def get(asked: Request, timeout: float | None) -> Response:
    """Make a request, following redirects on the same host.

    Args:
        asked: the request.
        timeout: seconds for everything; None for no limit.

    Raises:
        RequestError: there was no answer.
        BodyError: the answer broke off.
    """
    answered = False
    try:
        async with asyncio.timeout(timeout):
            current = asked
            for _ in range(_MOST_REDIRECTS):
                connection = await _open(current)
                try:
                    status, headers = await connection.ask(current)
                    following = _redirect(asked, current, status, headers)
                    if following is None:
                        answered = True
                        return Response(status, await connection.body(status, headers))
                finally:
                    connection.close()
                current = following
    except TimeoutError:
        note = "context deadline exceeded (Client.Timeout"
        if answered:
            raise BodyError(f"{note} or context cancellation while reading body)") from None
        raise _failed(asked, f"{note} exceeded while awaiting headers)") from None
    raise _failed(asked, f"stopped after {_MOST_REDIRECTS} redirects")


def join(host: str, port: int) -> str:
    """An address as Go's net.JoinHostPort writes it."""
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


def dial_text(error: OSError, host: str, port: int) -> str:
    """Go's text for a connection that couldn't be opened."""
    if isinstance(error, socket.gaierror):
        return f"dial tcp: lookup {host}: no such host"
    return f"dial tcp {join(host, port)}: connect: {_reason(error)}"


def _reason(error: OSError) -> str:
    return os.strerror(error.errno).lower() if error.errno else str(error)


# The request.


def _target(path: str) -> str:
    """Path and query as they are sent; a path that can't be parsed is escaped as a whole."""
    parts = _parsed(path)
    query = ""
    if parts is None:
        path = urllib.parse.quote(path, safe=_PATH_SAFE)
    else:
        path = urllib.parse.quote(parts.path, safe=_PATH_SAFE + "%")
        query = urllib.parse.quote(parts.query, safe=_PATH_SAFE + '%?"<>\\^`{|}')
    if not path.startswith("/"):
        path = f"/{path}"
    return f"{path}?{query}" if query else path


def _parsed(path: str) -> urllib.parse.SplitResult | None:
    if _CONTROL.search(path) or _BAD_ESCAPE.search(path.split("?", 1)[0]):
        return None
    try:
        return urllib.parse.urlsplit(path)
    except ValueError:
        return None


def _canonical(name: str) -> str:
    """A header's name as Go spells it; one that isn't a token stays as it is."""
    if _TOKEN.fullmatch(name) is None:
        return name
    return "-".join(part.capitalize() for part in name.split("-"))


def _first(headers: list[tuple[str, str]], name: str) -> str:
    return next((value for key, value in headers if key == name), "")


def _encoded(asked: Request) -> bytes:
    parts = urllib.parse.urlsplit(asked.url)
    headers = list(asked.headers)
    lines = [
        f"GET {parts.path or '/'}{'?' + parts.query if parts.query else ''} HTTP/1.1",
        f"Host: {_first(headers, 'Host') or parts.netloc}",
    ]
    if "Connection" not in {name for name, _ in headers}:
        headers.append(("Connection", "close"))
    for name, value in sorted(headers, key=lambda header: header[0]):
        if name in _NOT_OURS or (name == "User-Agent" and not value):
            continue
        if _TOKEN.fullmatch(name) is None:
            raise _failed(asked, f"net/http: invalid header field name {texts.quoted(name)}")
        if _CONTROL.search(value.replace("\t", "")):
            raise _failed(asked, f"net/http: invalid header field value for {texts.quoted(name)}")
        lines.append(f"{name}: {value.strip(' ')}")
    if _CONTROL.search(lines[1]):
        raise _failed(asked, "http: invalid Host header")
    return ("\r\n".join(lines) + "\r\n\r\n").encode("utf-8", "surrogateescape")


def _redirect(
    first: Request, current: Request, status: int, headers: Mapping[str, str]
) -> Request | None:
    """The request that a redirect asks for; None where the answer is the last one."""
    location = headers.get("Location")
    if status not in _REDIRECTS or not location:
        return None
    try:
        url = urllib.parse.urldefrag(urllib.parse.urljoin(current.url, location)).url
        parts = urllib.parse.urlsplit(url)
        parts.port  # noqa: B018 (raises ValueError where it isn't a port)
    except ValueError as error:
        text = f"failed to parse Location header {texts.quoted(location)}: {error}"
        raise _failed(current, text) from error
    if parts.hostname != urllib.parse.urlsplit(first.url).hostname:
        return None
    if parts.scheme not in {"http", "https"}:
        raise _failed(current, f"unsupported protocol scheme {texts.quoted(parts.scheme)}")
    kept = [header for header in first.headers if header[0] != "Referer"]
    if urllib.parse.urlsplit(location).scheme:
        # A host that the caller chose holds for relative redirects only.
        kept = [header for header in kept if header[0] != "Host"]
    if not (current.url.startswith("https:") and parts.scheme == "http"):
        kept.append(("Referer", current.url))
    target = _target(f"{parts.path or '/'}{'?' + parts.query if parts.query else ''}")
    return Request(f"{parts.scheme}://{parts.netloc}{target}", tuple(kept))


def _failed(asked: Request, text: str) -> RequestError:
    return RequestError(f"Get {texts.quoted(asked.url)}: {text}")


# The connection.


@functools.lru_cache(maxsize=1)
def _tls() -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    # Nothing is verified, so a weak key of the server's is no reason to call its pod unhealthy.
    context.set_ciphers("DEFAULT:@SECLEVEL=0")
    return context


async def _open(asked: Request) -> _Connection:
    parts = urllib.parse.urlsplit(asked.url)
    tls = parts.scheme == "https"
    if not tls and parts.scheme != "http":
        raise _failed(asked, f"unsupported protocol scheme {texts.quoted(parts.scheme)}")
    host = parts.hostname or ""
    port = parts.port or (443 if tls else 80)
    options: dict[str, Any] = {}
    if tls:
        options = {"ssl": _tls(), "server_hostname": host, "ssl_shutdown_timeout": 1.0}
    try:
        reader, writer = await asyncio.open_connection(host, port, limit=_HEAD_LIMIT, **options)
    except ssl.SSLError as error:
        raise _failed(asked, _tls_text(error)) from error
    except ConnectionResetError as error:
        raise _failed(asked, f"read: {_reason(error)}" if error.errno else "EOF") from error
    except OSError as error:
        raise _failed(asked, dial_text(error, host, port)) from error
    except UnicodeError as error:
        raise _failed(asked, f"dial tcp: lookup {host}: no such host") from error
    return _Connection(reader, writer)


def _tls_text(error: ssl.SSLError) -> str:
    # OpenSSL takes "HTTP/" for the head of a record of a version that it doesn't know.
    if error.reason in {"WRONG_VERSION_NUMBER", "HTTP_REQUEST", "PACKET_LENGTH_TOO_LONG"}:
        return NOT_TLS
    return f"tls: {(error.reason or str(error)).replace('_', ' ').lower()}"


class _Connection:
    """A connection for one request and its answer."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader = reader
        self._writer = writer

    def close(self) -> None:
        self._writer.close()

    async def ask(self, asked: Request) -> tuple[int, dict[str, str]]:
        """Send a request and read the head of its answer: the status, and the headers."""
        self._writer.write(_encoded(asked))
        try:
            while True:
                status, headers = await self._head()
                if status >= 200 or status == 101:
                    return status, headers
        except ssl.SSLError as error:
            raise _failed(asked, _tls_text(error)) from error
        except EOFError as error:
            raise _failed(asked, str(error)) from error
        except OSError as error:
            raise _failed(asked, f"read: {_reason(error)}") from error
        except ValueError as error:
            text = f"net/http: HTTP/1.x transport connection broken: {error}"
            raise _failed(asked, text) from error

    async def _head(self) -> tuple[int, dict[str, str]]:
        line = await self._reader.readline()
        if not line:
            raise EOFError("EOF")
        words = line.decode("latin-1").rstrip("\r\n").split(" ", 2)
        if not words[0].startswith("HTTP/") or len(words) < 2:
            raise ValueError(f"malformed HTTP response {texts.quoted(' '.join(words))}")
        if len(words[1]) != 3 or not words[1].isdecimal():
            raise ValueError(f"malformed HTTP status code {texts.quoted(words[1])}")
        headers: dict[str, str] = {}
        size = len(line)
        while line := (await self._line()):
            size += len(line)
            if size > _HEAD_LIMIT:
                raise ValueError(f"server response headers exceeded {_HEAD_LIMIT} bytes; aborted")
            name, colon, value = line.decode("latin-1").partition(":")
            if not colon:
                raise ValueError(f"malformed MIME header line: {name}")
            headers.setdefault(_canonical(name.strip()), value.strip())
        return int(words[1]), headers

    async def _line(self) -> bytes:
        line = await self._reader.readline()
        if not line.endswith(b"\n"):
            raise EOFError("unexpected EOF")
        return line.rstrip(b"\r\n")

    async def body(self, status: int, headers: Mapping[str, str]) -> bytes:
        """The first bytes of the body.

        Raises:
            BodyError: it broke off.
        """
        if status in _NO_BODY or status < 200:
            return b""
        try:
            if headers.get("Transfer-Encoding", "").lower() == "chunked":
                return await self._chunks()
            if "Content-Length" in headers:
                size = min(int(headers["Content-Length"]), BODY_LIMIT)
                return await self._reader.readexactly(size)
            return await self._rest()
        except (asyncio.IncompleteReadError, ValueError) as error:
            raise BodyError("unexpected EOF") from error
        except OSError as error:
            raise BodyError(f"read: {_reason(error)}") from error

    async def _rest(self) -> bytes:
        found = bytearray()
        while len(found) < BODY_LIMIT:
            more = await self._reader.read(BODY_LIMIT - len(found))
            if not more:
                break
            found += more
        return bytes(found)

    async def _chunks(self) -> bytes:
        found = bytearray()
        while len(found) < BODY_LIMIT:
            head = await self._reader.readline()
            size = int(head.split(b";", 1)[0].strip() or b"-", 16)
            if size == 0:
                break
            found += await self._reader.readexactly(min(size, BODY_LIMIT - len(found)))
            if len(found) < BODY_LIMIT:
                await self._reader.readexactly(2)
        return bytes(found)
