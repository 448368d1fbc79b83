"""What must be true before a component starts: a server that answers, knows us and lets us work.

Runs once at the start and owns nothing. Each thing that can be wrong is one line that names what to
mend: the server that doesn't answer, the certificate that expired, the authority that the server's
certificate isn't from, the token that isn't known, or every right that RBAC doesn't grant. Without
this a component would run and do nothing, and its log would say why thousands of times.

Has no answer upstream: the stock components find out by failing. Leaves out checking again later;
rights that are taken away while a component runs show in its log.
"""

from __future__ import annotations

import asyncio
import base64
import binascii
import datetime
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

import orjson

from whipstaff.runtime import client, config, errors, resources

# Between attempts to reach a server that isn't there yet.
_PAUSE = 0.25
# Roles that were bound a moment ago take effect within this many seconds.
_RBAC_GRACE = 2.0

_T = TypeVar("_T")


@dataclass(frozen=True, slots=True)
class Access:
    """A right that a component can't work without.

    Attributes:
        verb: ``get``, ``list``, ``watch``, ``create``, ``update``, ``patch``, ``delete``, ...
        resource: on what.
        subresource: e.g. ``status`` or ``binding``.
        namespace: where it is enough to have the right; empty is everywhere.
        name: the object on which it is enough to have the right; empty is any.
    """

    verb: str
    resource: resources.Resource
    subresource: str = ""
    namespace: str = ""
    name: str = ""

    @property
    def target(self) -> str:
        """On what, as messages and RBAC rules say it, e.g. ``pods/binding``."""
        text = self.resource.name
        if self.subresource:
            text = f"{self.resource.plural}/{self.subresource}"
            if self.resource.group:
                text = f"{text}.{self.resource.group}"
        if self.name:
            text = f"{text} {self.name!r}"
        return f"{text} in namespace {self.namespace}" if self.namespace else text


async def check(client: client.Client, access: Sequence[Access] = (), wait: float = 10.0) -> None:
    """Come back when everything is as it must be.

    Args:
        client: what the component will use.
        access: the rights that it needs.
        wait: seconds that the server has to come up.

    Raises:
        errors.StartupError: something isn't; the text is one line for the user.
    """
    try:
        await client.connection.headers()
    except errors.Unreachable as error:
        raise errors.StartupError(f"no credentials: {error}") from error
    try:
        user = await _patiently(lambda: _who_am_i(client), wait)
        await _check_access(client, user, access)
    except errors.Untrusted as error:
        raise errors.StartupError(f"cannot trust the API server {error}") from error
    except errors.Unreachable as error:
        check_certificate(client.connection.certificate, datetime.datetime.now(datetime.UTC))
        raise errors.StartupError(f"cannot reach the API server: {error}") from error
    except errors.Unauthorized as error:
        check_certificate(client.connection.certificate, datetime.datetime.now(datetime.UTC))
        why = await _why_unknown(client.connection)
        raise errors.StartupError(
            f"{client.connection.server} doesn't accept our credentials: {why}"
        ) from error
    except errors.ApiError as error:
        raise errors.StartupError(
            f"{client.connection.server}: {error} ({client.connection.source})"
        ) from error


def check_certificate(certificate: config.Certificate | None, now: datetime.datetime) -> None:
    """See that a client certificate is valid now.

    Raises:
        errors.StartupError: it isn't; the text says which file and since or until when.
    """
    if certificate is None:
        return
    # Asked for only where something is wrong: it takes 10 MB.
    from cryptography import x509  # noqa: PLC0415

    parsed = x509.load_pem_x509_certificate(certificate.pem)
    if now >= parsed.not_valid_after_utc:
        date = _date(parsed.not_valid_after_utc)
        raise errors.StartupError(f"the client certificate {certificate.where} expired on {date}")
    if now < parsed.not_valid_before_utc:
        date = _date(parsed.not_valid_before_utc)
        raise errors.StartupError(
            f"the client certificate {certificate.where} is valid from {date} on: is the clock "
            "right?"
        )


async def _patiently(ask: Callable[[], Awaitable[_T]], wait: float) -> _T:
    """Ask until there is an answer that a server which is just starting wouldn't give."""
    deadline = time.monotonic() + wait
    while True:
        try:
            return await ask()
        except errors.Untrusted:
            raise
        except (errors.Unreachable, errors.ServerError, errors.Forbidden):
            if time.monotonic() + _PAUSE >= deadline:
                raise
        await asyncio.sleep(_PAUSE)


async def _who_am_i(client: client.Client) -> str:
    review = {"apiVersion": "authentication.k8s.io/v1", "kind": "SelfSubjectReview"}
    try:
        answer = await client.create(resources.SELFSUBJECTREVIEWS, review)
    except errors.NotFound:
        return ""  # Kubernetes before 1.28 doesn't say; the access reviews below still do
    except errors.Forbidden as error:
        if "system:anonymous" not in error.message:
            raise
        raise errors.StartupError(
            f"{client.connection.server} takes us for anybody: there are no credentials in "
            f"{client.connection.source}"
        ) from error
    return str(answer["status"]["userInfo"].get("username", ""))


async def _check_access(client: client.Client, user: str, access: Sequence[Access]) -> None:
    deadline = time.monotonic() + _RBAC_GRACE
    while missing := await _missing(client, access):
        if time.monotonic() >= deadline:
            raise errors.StartupError(
                f"user {user!r} needs rights that RBAC doesn't grant: {missing}"
            )
        await asyncio.sleep(_PAUSE)


async def _missing(client: client.Client, access: Sequence[Access]) -> str:
    """The rights that aren't there, as ``list, watch nodes; create pods/binding``."""
    granted = await asyncio.gather(*(_is_granted(client, right) for right in access))
    verbs: dict[str, list[str]] = {}
    for right, allowed in zip(access, granted, strict=True):
        if not allowed:
            verbs.setdefault(right.target, []).append(right.verb)
    return "; ".join(f"{', '.join(dict.fromkeys(v))} {target}" for target, v in verbs.items())


async def _is_granted(client: client.Client, right: Access) -> bool:
    attributes = {
        "verb": right.verb,
        "group": right.resource.group,
        "version": right.resource.version,
        "resource": right.resource.plural,
        "subresource": right.subresource,
        "namespace": right.namespace,
        "name": right.name,
    }
    review = {
        "apiVersion": "authorization.k8s.io/v1",
        "kind": "SelfSubjectAccessReview",
        "spec": {"resourceAttributes": attributes},
    }
    answer = await client.create(resources.SELFSUBJECTACCESSREVIEWS, review)
    return bool(answer["status"].get("allowed"))


async def _why_unknown(connection: config.Connection) -> str:
    headers = await connection.headers()
    kind, _, token = headers.get("Authorization", "").partition(" ")
    if kind.lower() == "bearer":
        expiry = _token_expiry(token)
        if expiry is not None and expiry <= datetime.datetime.now(datetime.UTC):
            return f"the token of {connection.source} expired on {_date(expiry)}"
        return f"the token of {connection.source} is expired, revoked or meant for another server"
    if connection.certificate is not None:
        return f"its authority didn't sign the client certificate {connection.certificate.where}"
    if kind:
        return f"the user name or password of {connection.source} is wrong"
    return f"there are none in {connection.source}"


def _token_expiry(token: str) -> datetime.datetime | None:
    """When a token that is a JWT expires; it is read here, not verified."""
    try:
        payload = token.split(".")[1]
        claims: Any = orjson.loads(base64.urlsafe_b64decode(payload + "=" * (-len(payload) % 4)))
        if isinstance(claims, Mapping) and "exp" in claims:
            return datetime.datetime.fromtimestamp(float(claims["exp"]), datetime.UTC)
    except (IndexError, binascii.Error, ValueError, TypeError, OverflowError):
        return None
    return None


def _date(moment: datetime.datetime) -> str:
    return f"{moment:%Y-%m-%d at %H:%M:%S} UTC"
