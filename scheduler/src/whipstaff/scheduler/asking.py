"""Asking a running scheduler what it shows: where it is, and as whom to ask.

Runs no loop. `find` knows where a scheduler serves from the command line or from the kubeconfig,
where `whipstaff up` writes it. The identity is the kubeconfig's. A scheduler usually signs its own
certificate, so unless a CA is given its certificate proves nothing: then a client certificate is
shown, whose key stays here, and a token only to this machine's loopback addresses.
"""

import ssl
import urllib.parse
from collections.abc import Sequence
from typing import Any

import aiohttp
import orjson

from whipstaff.runtime import client, config, connections, errors, resources, tls
from whipstaff.scheduler import configuration

EXTENSION = "whipstaff"
"""The name of the extension in a kubeconfig's cluster that holds `scheduler`, the address."""

_TIMEOUT = 10.0


class Scheduler:
    """A scheduler at an address."""

    def __init__(self, address: str, connection: config.Connection, ca_file: str | None) -> None:
        self.address = address.rstrip("/")
        self._connection = connection
        self._ca_file = ca_file

    async def get(self, path: str, query: Sequence[tuple[str, str]] = ()) -> Any:
        """What is served there; None for 404.

        Raises:
            errors.WhipstaffError: it can't be reached, or refuses; the text says what to do.
        """
        # Credentials may have to be fetched, and the certificate comes with them.
        headers = dict(await self._connection.headers())
        context = self._context()
        if not self._is_trusted and "Authorization" in headers:
            del headers["Authorization"]
            if self._connection.certificate is None:
                raise errors.WhipstaffError(
                    f"{self.address}: no token is sent to whom nothing is known of: "
                    "give --scheduler-ca-file"
                )
        timeout = aiohttp.ClientTimeout(total=_TIMEOUT)
        try:
            async with (
                aiohttp.ClientSession(timeout=timeout) as session,
                session.get(
                    f"{self.address}{path}",
                    params=[pair for pair in query if pair[1]],
                    headers=headers,
                    ssl=context,
                ) as response,
            ):
                body = await response.read()
        except (aiohttp.ClientError, TimeoutError, OSError) as error:
            text = str(error) or "no answer in time"
            raise errors.Unreachable(f"{self.address}: {text}") from error
        return self._content(path, response.status, body)

    def _content(self, path: str, status: int, body: bytes) -> Any:
        if status == 404:
            return None
        try:
            content = orjson.loads(body)
        except ValueError:
            content = None
        if status == 200 and content is not None:
            return content
        text = content.get("message") if isinstance(content, dict) else ""
        text = text or body[:200].decode(errors="replace").strip()
        hint = "; a ClusterRole for nonResourceURLs /debug/* is needed" if status == 403 else ""
        raise errors.WhipstaffError(f"{self.address}{path}: {status} {text}{hint}")

    @property
    def _is_trusted(self) -> bool:
        parts = urllib.parse.urlsplit(self.address)
        if parts.scheme == "https" and self._ca_file is not None:
            return True
        return connections.is_loopback(parts.hostname or "")

    def _context(self) -> ssl.SSLContext:
        context = ssl.create_default_context(cafile=self._ca_file)
        if self._ca_file is None:
            context.check_hostname = False
            context.verify_mode = ssl.CERT_NONE
        certificate = self._connection.certificate
        if certificate is not None:
            tls.load_chain(context, certificate.pem, certificate.key)
        return context


def find(
    connection: config.Connection, address: str | None, ca_file: str | None
) -> Scheduler | None:
    """The scheduler at the address, or at the one that the kubeconfig names; None without either.

    Raises:
        errors.ConfigurationError: the address isn't a URL.
    """
    if address is None:
        known = connection.extensions.get(EXTENSION)
        address = known.get("scheduler") if isinstance(known, dict) else None
        if not address:
            return None
    parts = urllib.parse.urlsplit(address)
    if parts.scheme not in {"http", "https"} or not parts.hostname:
        raise errors.ConfigurationError(
            f"--scheduler-address: {address!r} isn't a URL such as https://127.0.0.1:10259"
        )
    return Scheduler(address, connection, ca_file)


async def hint(api: client.Client) -> str:
    """How to reach a scheduler that runs in the cluster, as its Lease tells; "" if it doesn't.

    The API server's own proxy doesn't say on whose behalf it asks, so it is of no use here.
    """
    lease = configuration.LEADER_ELECTION
    namespace, name = lease.resource_namespace, lease.resource_name
    try:
        found = await api.get(resources.LEASES, name, namespace)
        holder = (found.get("spec") or {}).get("holderIdentity") or ""
        pod = holder.rpartition("_")[0]
        if not pod:
            return ""
        await api.get(resources.PODS, pod, namespace)
    except (errors.NotFound, errors.Forbidden):
        return ""
    return (
        f"the scheduler's own decision: `kubectl port-forward -n {namespace} {pod} 10259`, "
        "and --scheduler-address=https://127.0.0.1:10259"
    )
