"""Plain blocking HTTPS on this machine: health checks, and what tests ask of an apiserver.

One request, one connection. Everything that talks to a running cluster as a client uses
``whipstaff.runtime.client``.
"""

import http.client
import json
import pathlib
import socket
import ssl
import urllib.parse
from dataclasses import dataclass
from typing import Any

from whipstaff.cluster import certificates

_UNIX = "unix://"


@dataclass(frozen=True, slots=True)
class Endpoint:
    """A server on this machine, whom to trust there and who we are.

    ``ca`` None means that the certificate isn't checked: components sign their own on loopback. Of
    a ``unix://`` socket nothing is asked but that somebody listens.
    """

    url: str
    ca: pathlib.Path | None = None
    pair: certificates.Pair | None = None

    def context(self) -> ssl.SSLContext:
        """A TLS context that can be used for many requests."""
        if self.ca is not None:
            context = ssl.create_default_context(cafile=str(self.ca))
        else:
            # Not the default context: reading the system's authorities takes longer than a probe.
            context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
            context.check_hostname = False
            context.verify_mode = ssl.CERT_NONE
        if self.pair is not None:
            context.load_cert_chain(self.pair.certificate, self.pair.key)
        return context


def request(
    endpoint: Endpoint,
    method: str,
    path: str,
    body: Any = None,
    *,
    content_type: str = "application/json",
    timeout: float = 5,
    context: ssl.SSLContext | None = None,
) -> tuple[int, bytes]:
    """The status and body of the answer.

    Raises:
        OSError, http.client.HTTPException: there is none.
    """
    parts = urllib.parse.urlsplit(endpoint.url)
    host, port = parts.hostname or "", parts.port
    connection: http.client.HTTPConnection
    if parts.scheme == "https":
        connection = http.client.HTTPSConnection(
            host, port, timeout=timeout, context=context or endpoint.context()
        )
    else:
        connection = http.client.HTTPConnection(host, port, timeout=timeout)
    try:
        headers = {"Accept": "application/json"}
        if body is not None:
            headers["Content-Type"] = content_type
        connection.request(
            method, path, None if body is None else json.dumps(body).encode(), headers
        )
        response = connection.getresponse()
        return response.status, response.read()
    finally:
        connection.close()


def failure(
    endpoint: Endpoint, path: str, *, timeout: float = 1, context: ssl.SSLContext | None = None
) -> str | None:
    """Why ``GET path`` isn't answered with 200; None when it is."""
    try:
        if endpoint.url.startswith(_UNIX):
            _connect(endpoint.url.removeprefix(_UNIX), timeout)
            return None
        status, _ = request(endpoint, "GET", path, timeout=timeout, context=context)
    except (OSError, http.client.HTTPException) as error:
        return str(error) or type(error).__name__
    return None if status == http.HTTPStatus.OK else f"answers {status}"


def _connect(path: str, timeout: float) -> None:
    """Raises OSError where nobody listens."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as connection:
        connection.settimeout(timeout)
        connection.connect(path)
