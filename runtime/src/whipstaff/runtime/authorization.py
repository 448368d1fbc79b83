"""Who asks a component's server, and whether they may: decided by the API server, and remembered.

`Authenticator` and `Authorizer` are what `serving.Server` needs; the ones here delegate. A bearer
token is shown to the API server in a TokenReview, a question about rights becomes a
SubjectAccessReview, and both answers are kept for ten seconds, as upstream's components do. Client
certificates were verified in the TLS handshake already; here they only become a user.

No loop runs here; each object owns its cache. Tokens are kept as hashes. Answers to apiserver
``pkg/authentication``, ``plugin/pkg/{authenticator/token,authorizer}/webhook`` and
``pkg/server/options``. Left out: authentication by request headers (the aggregator's), audiences,
user ids in certificates, and retries (the client's are enough, and who asks will ask again).
"""

from __future__ import annotations

import asyncio
import collections
import dataclasses
import hashlib
import time
from collections.abc import Callable, Hashable, Iterable, Mapping, Sequence
from typing import Any, Generic, Protocol, TypeAlias, TypeVar

from whipstaff.runtime import client as api
from whipstaff.runtime import errors, logs, resources

Value = TypeVar("Value")

_log = logs.get("authorization")

TTL = 10.0
"""Seconds for which an answer of the API server counts."""
TIMEOUT = 10.0
"""Seconds that the API server may take to answer."""
CACHE_SIZE = 8192
# What somebody else may make as long as they like isn't worth remembering.
_LONGEST_REMEMBERED = 10_000


@dataclasses.dataclass(frozen=True, slots=True)
class User:
    """Who asks. `extra` is what the authenticator adds: keys with their values."""

    name: str
    groups: tuple[str, ...] = ()
    uid: str = ""
    extra: tuple[tuple[str, tuple[str, ...]], ...] = ()


ANONYMOUS = User("system:anonymous", ("system:unauthenticated",))


@dataclasses.dataclass(frozen=True, slots=True)
class NonResourceAttributes:
    """A request for a path that is no API object."""

    verb: str
    path: str

    def review(self) -> dict[str, Any]:
        """The part of a SubjectAccessReview's spec that asks about this."""
        return {"nonResourceAttributes": {"verb": self.verb, "path": self.path}}

    def __str__(self) -> str:
        return f'{self.verb} path "{self.path}"'


@dataclasses.dataclass(frozen=True, slots=True)
class ResourceAttributes:
    """A request that counts as one for an API object, such as a node's ``proxy`` subresource."""

    verb: str
    resource: str
    subresource: str = ""
    name: str = ""
    namespace: str = ""
    group: str = ""
    version: str = "v1"

    def review(self) -> dict[str, Any]:
        """The part of a SubjectAccessReview's spec that asks about this."""
        asked = {key: value for key, value in dataclasses.asdict(self).items() if value}
        return {"resourceAttributes": asked}

    def __str__(self) -> str:
        resource = f"{self.resource}/{self.subresource}" if self.subresource else self.resource
        scope = f'in the namespace "{self.namespace}"' if self.namespace else "at the cluster scope"
        return f'{self.verb} resource "{resource}" in API group "{self.group}" {scope}'


Attributes: TypeAlias = NonResourceAttributes | ResourceAttributes


class TokenAuthenticator(Protocol):
    """Says whose a bearer token is."""

    async def user_of(self, token: str) -> User | None:
        """The user, or None where the token is nobody's.

        Raises:
            errors.WhipstaffError, TimeoutError: that can't be found out now.
        """


class Authorizer(Protocol):
    """Says who may do what."""

    async def authorize(self, user: User, attributes: Attributes) -> bool:
        """Whether the user may.

        Raises:
            errors.WhipstaffError, TimeoutError: that can't be found out now.
        """


class AllowAll:
    """Lets everybody do everything: for a server that only this machine can reach."""

    async def authorize(self, user: User, attributes: Attributes) -> bool:  # noqa: ARG002
        """Yes."""
        return True


class DelegatedTokens:
    """Asks the API server whose a token is, by TokenReview.

    Args:
        client: whose user may create TokenReviews (ClusterRole system:auth-delegator).
        ttl: seconds for which both a yes and a no count.
        clock: seconds that only ever grow.
    """

    def __init__(
        self,
        client: api.Client,
        *,
        ttl: float = TTL,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._client = client
        self._ttl = ttl
        self._known = _Cache[User | None](clock)

    async def user_of(self, token: str) -> User | None:
        """The user, or None where the token is nobody's."""
        key = hashlib.sha256(token.encode()).digest()
        if (known := self._known.get(key)) is not None:
            return known[0]
        body = {
            "apiVersion": resources.TOKENREVIEWS.api_version,
            "kind": resources.TOKENREVIEWS.kind,
            "spec": {"token": token},
        }
        async with asyncio.timeout(TIMEOUT):
            answer = await self._client.create(resources.TOKENREVIEWS, body)
        status = answer.get("status") or {}
        user = None
        if status.get("authenticated"):
            user = _user_of_review(status.get("user") or {})
        elif error := status.get("error"):
            _log.debug("token refused", error=error)
        self._known.put(key, user, self._ttl)
        return user


class DelegatedAuthorizer:
    """Asks the API server who may do what, by SubjectAccessReview.

    Args:
        client: whose user may create SubjectAccessReviews (ClusterRole system:auth-delegator).
        allow_ttl: seconds for which a yes counts.
        deny_ttl: seconds for which a no counts.
        always_allow_groups: groups about which nobody is asked.
        clock: seconds that only ever grow.
    """

    def __init__(
        self,
        client: api.Client,
        *,
        allow_ttl: float = TTL,
        deny_ttl: float = TTL,
        always_allow_groups: Iterable[str] = ("system:masters",),
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._client = client
        self._allow_ttl, self._deny_ttl = allow_ttl, deny_ttl
        self._always_allow = frozenset(always_allow_groups)
        self._known = _Cache[bool](clock)

    async def authorize(self, user: User, attributes: Attributes) -> bool:
        """Whether the user may."""
        if not self._always_allow.isdisjoint(user.groups):
            return True
        key = (user, attributes)
        if (known := self._known.get(key)) is not None:
            return known[0]
        async with asyncio.timeout(TIMEOUT):
            answer = await self._client.create(
                resources.SUBJECTACCESSREVIEWS, access_review(user, attributes)
            )
        status = answer.get("status") or {}
        allowed = bool(status.get("allowed")) and not status.get("denied")
        if len(str(attributes)) <= _LONGEST_REMEMBERED:
            self._known.put(key, allowed, self._allow_ttl if allowed else self._deny_ttl)
        return allowed


def access_review(user: User, attributes: Attributes) -> dict[str, Any]:
    """The SubjectAccessReview that asks whether a user may."""
    spec: dict[str, Any] = {"user": user.name, "groups": list(user.groups), **attributes.review()}
    if user.uid:
        spec["uid"] = user.uid
    if user.extra:
        spec["extra"] = {key: list(values) for key, values in user.extra}
    return {
        "apiVersion": resources.SUBJECTACCESSREVIEWS.api_version,
        "kind": resources.SUBJECTACCESSREVIEWS.kind,
        "spec": spec,
    }


def user_of_certificate(
    subject: Sequence[Sequence[tuple[str, str]]], certificate: bytes
) -> User | None:
    """The user that a verified client certificate stands for: its CN, the groups its Os.

    Args:
        subject: as `ssl.SSLSocket.getpeercert` gives it.
        certificate: in DER; its fingerprint becomes the credential's id.
    """
    names = [pair for relative in subject for pair in relative]
    common = next((value for key, value in names if key == "commonName"), "")
    if not common:
        return None
    groups = tuple(value for key, value in names if key == "organizationName")
    fingerprint = hashlib.sha256(certificate).hexdigest()
    extra = (("authentication.kubernetes.io/credential-id", (f"X509SHA256={fingerprint}",)),)
    return User(common, (*groups, "system:authenticated"), extra=extra)


def _user_of_review(found: Mapping[str, Any]) -> User:
    groups = tuple(found.get("groups") or ())
    if "system:authenticated" not in groups:
        groups = (*groups, "system:authenticated")
    extra = tuple((key, tuple(values)) for key, values in (found.get("extra") or {}).items())
    return User(found.get("username") or "", groups, found.get("uid") or "", extra)


def explain(error: BaseException) -> str:
    """Why the API server couldn't be asked, for a log line."""
    if isinstance(error, errors.Forbidden):
        return f"{error}; bind this component's user to the ClusterRole system:auth-delegator"
    return str(error) or "no answer in time"


class _Cache(Generic[Value]):
    """Answers by question, each until its time is over, the most recently used ones."""

    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock = clock
        self._answers: collections.OrderedDict[Hashable, tuple[Value, float]] = (
            collections.OrderedDict()
        )

    def get(self, key: Hashable) -> tuple[Value] | None:
        """The answer as a tuple of one, for None is an answer too; or None where there is none."""
        found = self._answers.get(key)
        if found is None:
            return None
        if found[1] <= self._clock():
            del self._answers[key]
            return None
        self._answers.move_to_end(key)
        return (found[0],)

    def put(self, key: Hashable, value: Value, ttl: float) -> None:
        """Keep an answer for some seconds."""
        self._answers[key] = (value, self._clock() + ttl)
        self._answers.move_to_end(key)
        if len(self._answers) > CACHE_SIZE:
            self._answers.popitem(last=False)
