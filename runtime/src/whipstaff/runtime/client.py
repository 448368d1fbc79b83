"""The API client: objects are plain dicts, read and written with orjson.

Runs no loop. It owns the connections (through `transport`), the optional client-side rate limit and
the rules for trying again: a request is sent a second time only when that can do no harm. That is

- any request that the server says it didn't take up: 429 or 503 with Retry-After, or 401 when there
  are newer credentials to show;
- a GET that got no answer, unless it took long to get none.

A POST, PUT, PATCH or DELETE whose answer was lost is the caller's to think about
(`errors.Unreachable`), since it may have run.

Answers to client-go ``rest/{request,client,with_retry}.go``. It decodes a pod in a thirtieth of the
time that the official Python client's models take, and keeps fields that those drop. Leaves out
protobuf, warnings headers, discovery and typed objects.
"""

from __future__ import annotations

import asyncio
import contextlib
import random
import time
import urllib.parse
from collections.abc import AsyncGenerator, Awaitable, Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal, Self, TypeAlias

import orjson

from whipstaff.runtime import config, errors, resources, transport, watching

Object: TypeAlias = dict[str, Any]
WatchEvent = watching.WatchEvent
PatchKind: TypeAlias = Literal["merge", "strategic", "json", "apply"]

# As client-go: how often the server may say "later" to one request.
MAX_LATER = 10
# How often a GET that got no answer is sent again, and the seconds before that.
GET_PAUSES = (0.1, 0.5)
# A server that asks for more patience than this is answered with an error instead.
MAX_RETRY_AFTER = 60.0
# As client-go's reflector: between one and two of these, so that watches don't end all at once.
WATCH_SECONDS = 300

_PATCH_TYPES: dict[PatchKind, str] = {
    "merge": "application/merge-patch+json",
    "strategic": "application/strategic-merge-patch+json",
    "json": "application/json-patch+json",
    "apply": "application/apply-patch+yaml",
}

_METADATA_ONLY = {"Accept": "application/json;as=PartialObjectMetadata;g=meta.k8s.io;v=v1"}


@dataclass(slots=True)
class ObjectList:
    """A list of objects, each with its apiVersion and kind, and the resourceVersion of the list."""

    items: list[Object] = field(default_factory=list)
    resource_version: str = ""

    def __iter__(self) -> Iterator[Object]:
        return iter(self.items)

    def __len__(self) -> int:
        return len(self.items)


class Client:
    """A connection to one API server; use it as an async context manager, or call `close`.

    Every method raises `errors.ApiError` (by its subclasses) when the server says no, and
    `errors.Unreachable` when it says nothing.

    Args:
        connection: where to and as whom, from `config.load`.
        user_agent: what the server's audit log and default field manager see.
        qps: requests a second that this client allows itself on average; None is no limit (the
            server has its own: API priority and fairness).
        burst: requests allowed at once under `qps`; None is twice the qps.
        max_connections: requests in flight at most; more wait. Watches don't count.
        timeout: seconds that a request may take, a time-out of each attempt.

    Attributes:
        on_write: called before each request that may change something, if it is set.
    """

    def __init__(
        self,
        connection: config.Connection,
        *,
        user_agent: str = "whipstaff",
        qps: float | None = None,
        burst: int | None = None,
        max_connections: int = 100,
        timeout: float = 30,
    ) -> None:
        self.connection = connection
        self._timeout = timeout
        self.http = transport.Transport(
            connection, user_agent=user_agent, max_connections=max_connections, timeout=timeout
        )
        self.on_write: Callable[[], None] | None = None
        self._limit: transport.TokenBucket | None = None
        if qps is not None:
            self._limit = transport.TokenBucket(qps, burst or max(1, round(2 * qps)))

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()

    async def close(self) -> None:
        """Close every connection; watches that are open end with `errors.Unreachable`."""
        await self.http.close()

    # ---- verbs -------------------------------------------------------------------------------

    async def get(
        self,
        resource: resources.Resource,
        name: str,
        namespace: str | None = None,
        *,
        subresource: str | None = None,
    ) -> Object:
        """Read one object."""
        return await self._object("GET", resource.path(namespace, name, subresource))

    async def list(
        self,
        resource: resources.Resource,
        namespace: str | None = None,
        *,
        label_selector: str = "",
        field_selector: str = "",
        resource_version: str | None = None,
        page_size: int = 500,
    ) -> ObjectList:
        """Read all objects, of a namespace or of the cluster, page by page.

        Args:
            resource: what to list.
            namespace: None is all namespaces.
            label_selector: in the API's syntax.
            field_selector: in the API's syntax.
            resource_version: None asks for the newest state; ``"0"`` takes whatever the server's
                cache holds, which may be old; another one takes nothing older than it.
            page_size: objects a request; 0 is all in one.
        """
        query = _selectors(label_selector, field_selector)
        if resource_version is not None:
            query["resourceVersion"] = resource_version
        if page_size:
            query["limit"] = str(page_size)
        path = resource.path(namespace)
        found = ObjectList()
        while True:
            try:
                page = await self._object("GET", path, query)
            except errors.Expired:
                # The pages' snapshot was compacted away under us: as client-go, all at once then.
                if "continue" not in query:
                    raise
                found.items.clear()
                query = _selectors(label_selector, field_selector)
                continue
            found.items.extend(_typed(page, resource))
            metadata = page["metadata"]
            found.resource_version = metadata.get("resourceVersion", "")
            if not (token := metadata.get("continue")):
                return found
            query["continue"] = token
            query.pop("resourceVersion", None)

    async def create(
        self,
        resource: resources.Resource,
        body: Object,
        namespace: str | None = None,
        *,
        name: str | None = None,
        subresource: str | None = None,
        dry_run: bool = False,
        metadata_only: bool = False,
        before: Callable[[], Awaitable[None]] | None = None,
    ) -> Object:
        """Create an object; or POST to a subresource of `name` (``binding``, ``token``, ...).

        Args:
            resource: what to create.
            body: the object.
            namespace: None takes the one that the body names.
            name: the object whose subresource this is.
            subresource: which.
            dry_run: have it admitted and validated, and not stored.
            metadata_only: have the answer be a PartialObjectMetadata, which is shorter.
            before: see `request`.
        """
        space = namespace or body.get("metadata", {}).get("namespace")
        if resource.namespaced and not space:
            raise ValueError(f"creating {resource.name}: a namespace is needed")
        return await self._object(
            "POST",
            resource.path(space, name, subresource),
            {"dryRun": "All"} if dry_run else None,
            body,
            headers=_METADATA_ONLY if metadata_only else None,
            before=before,
        )

    async def update(
        self, resource: resources.Resource, body: Object, *, subresource: str | None = None
    ) -> Object:
        """Replace an object; with a resourceVersion in it only if it hasn't changed since."""
        metadata = body["metadata"]
        path = resource.path(metadata.get("namespace"), metadata["name"], subresource)
        return await self._object("PUT", path, None, body)

    async def patch(
        self,
        resource: resources.Resource,
        name: str,
        body: Any,
        namespace: str | None = None,
        *,
        kind: PatchKind = "merge",
        subresource: str | None = None,
        field_manager: str | None = None,
        force: bool = False,
    ) -> Object:
        """Change parts of an object.

        Args:
            resource: what to change.
            name: which.
            body: a dict; for ``json`` a list of operations.
            namespace: where.
            kind: JSON merge patch, strategic merge patch, JSON patch, or server-side apply.
            subresource: e.g. ``status``.
            field_manager: who owns the fields set; needed for ``apply``.
            force: for ``apply``: take fields over from other managers.
        """
        query = {}
        if field_manager:
            query["fieldManager"] = field_manager
        elif kind == "apply":
            raise ValueError("server-side apply needs a field_manager")
        if kind == "apply":
            # What is in the path has to be in the body too, or nothing can be created.
            identity = {"apiVersion": resource.api_version, "kind": resource.kind}
            body = identity | body | {"metadata": {"name": name} | body.get("metadata", {})}
        if force:
            query["force"] = "true"
        path = resource.path(namespace, name, subresource)
        return await self._object("PATCH", path, query, body, _PATCH_TYPES[kind])

    async def delete(
        self,
        resource: resources.Resource,
        name: str,
        namespace: str | None = None,
        *,
        uid: str | None = None,
        resource_version: str | None = None,
        grace_period_seconds: int | None = None,
        propagation_policy: str | None = None,
    ) -> Object:
        """Delete an object, or start its deletion; gives the object or a ``Status``.

        Args:
            resource: what to delete.
            name: which.
            namespace: where.
            uid: only if it is this very object (else `errors.Conflict`).
            resource_version: only if it is still in this state (else `errors.Conflict`).
            grace_period_seconds: None is the object's own; 0 is at once.
            propagation_policy: ``Background``, ``Foreground`` or ``Orphan``, for its dependents.
        """
        options: Object = {}
        preconditions = {"uid": uid, "resourceVersion": resource_version}
        if preconditions := {k: v for k, v in preconditions.items() if v is not None}:
            options["preconditions"] = preconditions
        if grace_period_seconds is not None:
            options["gracePeriodSeconds"] = grace_period_seconds
        if propagation_policy is not None:
            options["propagationPolicy"] = propagation_policy
        if options:
            options |= {"apiVersion": "v1", "kind": "DeleteOptions"}
        path = resource.path(namespace, name)
        return await self._object("DELETE", path, None, options or None)

    async def delete_collection(
        self,
        resource: resources.Resource,
        namespace: str | None = None,
        *,
        label_selector: str = "",
        field_selector: str = "",
    ) -> None:
        """Delete all objects that are selected."""
        query = _selectors(label_selector, field_selector)
        await self._object("DELETE", resource.path(namespace), query)

    async def watch(
        self,
        resource: resources.Resource,
        namespace: str | None = None,
        *,
        resource_version: str = "",
        label_selector: str = "",
        field_selector: str = "",
        bookmarks: bool = True,
        send_initial_events: bool = False,
        silence: float = watching.SILENCE,
    ) -> AsyncGenerator[WatchEvent, None]:
        """The changes since a resourceVersion, until the server ends the watch (some minutes).

        Args:
            resource: what to watch.
            namespace: None is all namespaces.
            resource_version: of the list or event from which to go on; empty starts with everything
                that there is, as ADDED.
            label_selector: in the API's syntax.
            field_selector: in the API's syntax.
            bookmarks: ask for BOOKMARK events, which only carry how far the watch has come.
            send_initial_events: a streaming list: everything that there is now, and then a bookmark
                (`WatchEvent.ends_initial_events`).
            silence: seconds without any event after which the stream counts as dead.

        Raises:
            errors.Expired: the resourceVersion is too old, at the start or on the way: list again.
            errors.Unreachable: the stream broke, or is silent.
        """
        batches = self.watch_batches(
            resource,
            namespace,
            resource_version=resource_version,
            label_selector=label_selector,
            field_selector=field_selector,
            bookmarks=bookmarks,
            send_initial_events=send_initial_events,
            silence=silence,
        )
        async with contextlib.aclosing(batches):
            async for events in batches:
                for event in events:
                    yield event

    async def watch_batches(
        self,
        resource: resources.Resource,
        namespace: str | None = None,
        *,
        resource_version: str = "",
        label_selector: str = "",
        field_selector: str = "",
        bookmarks: bool = True,
        send_initial_events: bool = False,
        silence: float = watching.SILENCE,
    ) -> AsyncGenerator[watching.Batch, None]:
        """As `watch`, giving together what came together; an empty batch first, once it is open."""
        query = _selectors(label_selector, field_selector)
        query["watch"] = "true"
        query["timeoutSeconds"] = str(random.randint(WATCH_SECONDS, 2 * WATCH_SECONDS))
        if resource_version:
            query["resourceVersion"] = resource_version
        if bookmarks or send_initial_events:
            query["allowWatchBookmarks"] = "true"
        if send_initial_events:
            query["sendInitialEvents"] = "true"
            query["resourceVersionMatch"] = "NotOlderThan"
        target = _target(resource.path(namespace), query)
        if self._limit is not None:
            await self._wait_turn(self._limit)
        identity = await self.connection.headers()
        batches = watching.batches(self.http, target, identity, silence=silence)
        try:
            async with contextlib.aclosing(batches):
                async for events in batches:
                    yield events
        except errors.Unauthorized:
            # The next watch shows the new credentials, if there are any.
            await self.connection.rejected(identity)
            raise

    # ---- below the verbs ---------------------------------------------------------------------

    async def request(
        self,
        method: str,
        path: str,
        *,
        query: Mapping[str, str] | None = None,
        body: Any = None,
        content_type: str = "application/json",
        headers: Mapping[str, str] | None = None,
        timeout: float | None = None,
        before: Callable[[], Awaitable[None]] | None = None,
    ) -> Any:
        """Any request: decoded JSON, or text when the answer isn't JSON.

        Args:
            method: the HTTP verb.
            path: percent-encoded, from the root of the API, e.g. ``/version``.
            query: parameters, not encoded.
            body: bytes are sent as they are, anything else as JSON; None sends none.
            content_type: of the body.
            headers: more headers.
            timeout: seconds for an attempt; None is the client's own.
            before: awaited when it is this request's turn, just before it is sent, each time that
                it is; what it raises ends the request unsent.
        """
        payload = body if body is None or isinstance(body, bytes) else orjson.dumps(body)
        target = _target(path, query)
        later = lost = 0
        renewed = False
        patience = time.monotonic() + self._timeout / 2
        while True:
            if self._limit is not None:
                await self._wait_turn(self._limit)
            identity = await self.connection.headers()
            if before is not None:
                await before()
            if method != "GET" and self.on_write is not None:
                self.on_write()
            try:
                answer = await self.http.exchange(
                    method,
                    target,
                    payload,
                    identity,
                    content_type=content_type if payload is not None else "",
                    headers=headers,
                    timeout=timeout,
                )
            except errors.Unreachable as error:
                hopeless = isinstance(error, errors.Untrusted) or time.monotonic() > patience
                if method != "GET" or hopeless or lost == len(GET_PAUSES):
                    raise
                await asyncio.sleep(GET_PAUSES[lost])
                lost += 1
                continue
            if answer.status < 300:
                return _content(answer)
            refusal = watching.refusal(answer)
            if answer.status == 401 and not renewed and await self.connection.rejected(identity):
                renewed = True
                continue
            if not _asks_for_patience(refusal) or later == MAX_LATER:
                raise refusal
            later += 1
            await asyncio.sleep(refusal.retry_after or 0)

    async def _object(
        self,
        method: str,
        path: str,
        query: Mapping[str, str] | None = None,
        body: Any = None,
        content_type: str = "application/json",
        headers: Mapping[str, str] | None = None,
        before: Callable[[], Awaitable[None]] | None = None,
    ) -> Object:
        answer = await self.request(
            method,
            path,
            query=query,
            body=body,
            content_type=content_type,
            headers=headers,
            before=before,
        )
        if not isinstance(answer, dict):
            raise errors.Unreachable(
                f"{self.connection.server}{path}: the answer isn't an API object; is this a "
                f"Kubernetes API server? ({self.connection.source})"
            )
        return answer

    async def _wait_turn(self, limit: transport.TokenBucket) -> None:
        if wait := limit.reserve(time.monotonic()):
            await asyncio.sleep(wait)


def _asks_for_patience(refusal: errors.ApiError) -> bool:
    if refusal.status not in {429, 503} or refusal.retry_after is None:
        return False
    # An eviction that a PodDisruptionBudget forbids says "later" too, and may mean days.
    causes = refusal.details.get("causes") or []
    forbidden = any(cause.get("reason") == "DisruptionBudget" for cause in causes)
    return not forbidden and refusal.retry_after <= MAX_RETRY_AFTER


def _content(answer: transport.Answer) -> Any:
    if answer.is_json:
        try:
            return orjson.loads(answer.body)
        except orjson.JSONDecodeError as error:
            raise errors.Unreachable(
                f"the answer isn't the JSON that it says it is: {error}"
            ) from error
    return answer.body.decode(errors="replace")


def _target(path: str, query: Mapping[str, str] | None) -> str:
    if not query:
        return path
    return f"{path}?{urllib.parse.urlencode(query, quote_via=urllib.parse.quote)}"


def _selectors(label_selector: str, field_selector: str) -> dict[str, str]:
    query = {}
    if label_selector:
        query["labelSelector"] = label_selector
    if field_selector:
        query["fieldSelector"] = field_selector
    return query


def _typed(page: Object, resource: resources.Resource) -> list[Object]:
    """The items, with the apiVersion and kind that the API leaves out of lists."""
    items: list[Object] = page.get("items") or []
    for item in items:
        item["apiVersion"] = resource.api_version
        item["kind"] = resource.kind
    return items
