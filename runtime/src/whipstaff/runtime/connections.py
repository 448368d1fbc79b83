"""One API server and one identity, and the renewal of what proves it.

Runs no loop. It owns what the client needs to open connections: the server's address, one TLS
context, and the headers that carry a token. Tokens and certificates change while a component runs
(files rotate, plugins issue short-lived ones), so the headers are asked for before each request and
renewed here when they are due or rejected, in a thread, since a plugin may take seconds.

Answers to client-go ``rest/config.go``, ``transport/{token_source,cert_rotation}.go`` and the
caching of ``plugin/pkg/client/auth/exec``. Leaves out where any of it comes from: see `config`.
"""

from __future__ import annotations

import asyncio
import contextlib
import ipaddress
import math
import pathlib
import ssl
import tempfile
import threading
import time
import urllib.parse
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, TypeVar, cast

import multidict

from whipstaff.runtime import errors, logs

# A plugin that takes longer than this is taken for hung.
PLUGIN_TIMEOUT = 60.0
# How long credentials are left alone after an attempt to renew them brought nothing new.
RENEWAL_PAUSE = 5.0

_T = TypeVar("_T")
_log = logs.get("runtime.connections")


@dataclass(frozen=True, slots=True)
class Certificate:
    """A client certificate with its key, both PEM, and the place that messages name."""

    where: str
    pem: bytes = field(repr=False)
    key: bytes = field(repr=False)


@dataclass(frozen=True, slots=True)
class Credentials:
    """What proves an identity, and for how many seconds it may be used without looking again."""

    headers: multidict.CIMultiDict[str] = field(default_factory=multidict.CIMultiDict, repr=False)
    certificate: Certificate | None = None
    lifetime: float = math.inf


@dataclass(slots=True)
class Connection:
    """One API server and one identity.

    Attributes:
        server: the URL that paths are appended to, without a slash at its end.
        source: where this came from, for messages: a file and its context.
        namespace: the namespace to use where none is given.
        tls: the one TLS context of the process for this server; None for plain HTTP. Renewed client
            certificates are loaded into it, so connections opened later use them.
        server_hostname: the name that the server's certificate must carry, where it isn't the
            URL's.
        proxy: the URL of an HTTP proxy.
        extensions: what the kubeconfig says of the cluster beside that, by name.
    """

    server: str
    source: str
    namespace: str = "default"
    tls: ssl.SSLContext | None = None
    server_hostname: str | None = None
    proxy: str | None = None
    extensions: Mapping[str, Any] = field(default_factory=dict)
    authenticate: Callable[[], Credentials] | None = field(default=None, repr=False)
    _credentials: Credentials | None = field(default=None, repr=False)
    _due: float = -math.inf
    _pause_until: float = -math.inf
    _lock: asyncio.Lock = field(default_factory=asyncio.Lock, repr=False)

    @property
    def loopback(self) -> bool:
        """Whether the server is on this machine."""
        return is_loopback(urllib.parse.urlsplit(self.server).hostname or "")

    @property
    def certificate(self) -> Certificate | None:
        """The client certificate in use."""
        return self._credentials.certificate if self._credentials else None

    @property
    def lifetime(self) -> float:
        """Seconds for which the credentials in use hold from when they were got."""
        return self._credentials.lifetime if self._credentials else 0

    async def headers(self) -> Mapping[str, str]:
        """The headers that prove the identity; the same object for as long as they hold.

        Raises:
            errors.Unreachable: a plugin, token file or identity provider gives none.
        """
        if self._credentials is None or time.monotonic() >= self._due:
            await self._renew(self._credentials)
        assert self._credentials is not None
        return self._credentials.headers

    async def rejected(self, headers: Mapping[str, str]) -> bool:
        """Take note that the server answered these headers by 401; True if there are new ones.

        Raises:
            errors.Unreachable: as `headers` does.
        """
        if self._credentials is None or self._credentials.headers is not headers:
            return True
        if self.authenticate is None or time.monotonic() < self._pause_until:
            return False
        await self._renew(self._credentials, keep=False)
        if self._credentials.headers is not headers:
            return True
        self._pause_until = time.monotonic() + RENEWAL_PAUSE
        return False

    async def _renew(self, seen: Credentials | None, *, keep: bool = True) -> None:
        """Ask again, once for all who wait; `keep`: go on with the old ones if that fails."""
        async with self._lock:
            if self._credentials is not seen:
                return
            if self.authenticate is None:
                self._credentials, self._due = Credentials(), math.inf
                return
            try:
                fresh = await _in_thread(self.authenticate, PLUGIN_TIMEOUT)
                self.adopt(fresh)
            except errors.WhipstaffError as error:
                self._pause_until = time.monotonic() + RENEWAL_PAUSE
                if self._credentials is None or not keep:
                    raise errors.Unreachable(str(error)) from error
                self._due = time.monotonic() + RENEWAL_PAUSE
                _log.warning("cannot renew credentials, going on with the old", error=str(error))

    def adopt(self, fresh: Credentials) -> None:
        """Use these from now on.

        Raises:
            errors.ConfigurationError: the certificate and its key can't be used.
        """
        old = self._credentials
        certificate, headers = fresh.certificate, fresh.headers
        # What didn't change stays the same object: by that the client knows whether a request's
        # credentials are still current, and whether its open connections are.
        if old is not None and old.certificate == certificate:
            certificate = old.certificate
            headers = old.headers if old.headers == headers else headers
        elif certificate is not None and self.tls is not None:
            _load_certificate(self.tls, certificate)
        self._credentials = Credentials(headers, certificate, fresh.lifetime)
        self._due = time.monotonic() + fresh.lifetime


def _load_certificate(context: ssl.SSLContext, certificate: Certificate) -> None:
    """Into the context, by way of files: OpenSSL takes them from nowhere else."""

    def encrypted() -> bytes:
        raise errors.ConfigurationError(f"{certificate.where}: its key is encrypted")

    with tempfile.TemporaryDirectory(prefix="whipstaff-") as name:
        folder = pathlib.Path(name)
        (folder / "crt").write_bytes(certificate.pem)
        (folder / "key").touch(mode=0o600)
        (folder / "key").write_bytes(certificate.key)
        try:
            context.load_cert_chain(folder / "crt", folder / "key", password=encrypted)
        except ssl.SSLError as error:
            problem = (
                "its key belongs to another certificate"
                if error.reason == "KEY_VALUES_MISMATCH"
                else "the certificate or its key isn't usable PEM"
            )
            raise errors.ConfigurationError(f"{certificate.where}: {problem}") from error


def is_loopback(host: str) -> bool:
    """Whether a host is this machine itself."""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


async def _in_thread(function: Callable[[], _T], timeout: float) -> _T:
    """Run it beside the loop, in a thread that a hanging plugin may keep: it holds up no exit."""
    loop = asyncio.get_running_loop()
    outcome: asyncio.Future[_T] = loop.create_future()

    def settle(value: _T | None, error: Exception | None) -> None:
        if outcome.done():
            return
        if error is not None:
            outcome.set_exception(error)
        else:
            outcome.set_result(cast(_T, value))

    def work() -> None:
        value, problem = None, None
        try:
            value = function()
        except Exception as error:  # noqa: BLE001 (whatever it is, the one who waits gets it)
            problem = error
        with contextlib.suppress(RuntimeError):  # the loop has closed: nobody waits any more
            loop.call_soon_threadsafe(settle, value, problem)

    threading.Thread(target=work, name="whipstaff-credentials", daemon=True).start()
    try:
        return await asyncio.wait_for(outcome, timeout)
    except TimeoutError as error:
        raise errors.Unreachable(f"no credentials were issued within {timeout:.0f} s") from error
