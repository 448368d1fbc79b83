"""Informers: a local copy of one resource, kept current by list and watch.

Runs one loop for each informer: stream the current state, then the changes; when the stream ends go
on from the last resourceVersion seen; when the server no longer knows that (410 Gone), stream or
list everything again. It owns the copy and calls the handlers. Whatever happens to the connection,
handlers see every object that came, changed or went: after a new list what is missing in it is
reported as deleted.

Answers to client-go ``tools/cache/{reflector,shared_informer,controller}.go``. Leaves out resyncs
(a component that wants to look at everything again does so from the copy) and sharing by factory:
whoever starts a component makes its informers. Unlike upstream, an object that was replaced by
another of the same name while nobody looked is a delete and an add, not an update.
"""

from __future__ import annotations

import asyncio
import contextlib
import random
import time
from collections.abc import Awaitable, Callable, Mapping
from typing import Any, TypeAlias

from whipstaff.runtime import client, errors, logs, objects, resources, store, watching

Object: TypeAlias = dict[str, Any]
Transform: TypeAlias = Callable[[Object], Object | None]

key_of = objects.key

FIRST_PAUSE = 0.2
LONGEST_PAUSE = 5.0
# Handlers may keep the loop busy for this long before others get a turn.
SLICE = 0.005
# A stream that lasted this long or brought something was a good one.
_GOOD_STREAM = 1.0

# Refusals that say nothing about the resourceVersion asked for; after others a list is needed.
_TRANSIENT = frozenset({401, 403, 429, 500, 503})

_log = logs.get("runtime.informer")


def pause(failures: int, jitter: float) -> float:
    """Seconds to wait after so many failures in a row; `jitter` is random in [0, 1)."""
    longest = min(FIRST_PAUSE * 2.0 ** min(failures - 1, 16), LONGEST_PAUSE)
    return longest * (0.5 + jitter / 2)


class Informer:
    """A copy of one resource, or of what selectors choose from it.

    Args:
        client: reads with it.
        resource: of what.
        namespace: None is all namespaces.
        label_selector: in the API's syntax.
        field_selector: in the API's syntax.
        transform: called with each object before it is stored, to prune it (it may change what it
            gets); None as its result leaves the object out, and an object that was in is deleted.
        indexers: functions that give an object's values in an index, see `by_index`.
        silence: seconds without any event after which the stream counts as dead.

    Attributes:
        synced: set when everything that existed at the start has been stored and handled.
        resource_version: how far the copy has come; empty while there is no complete one.
    """

    def __init__(
        self,
        client: client.Client,
        resource: resources.Resource,
        *,
        namespace: str | None = None,
        label_selector: str = "",
        field_selector: str = "",
        transform: Transform | None = None,
        indexers: Mapping[str, store.Indexer] | None = None,
        silence: float = watching.SILENCE,
    ) -> None:
        self.resource = resource
        self.synced = asyncio.Event()
        self.resource_version = ""
        self._at_rest = asyncio.Event()
        self._at_rest.set()
        self._client = client
        self._namespace = namespace
        self._label_selector = label_selector
        self._field_selector = field_selector
        self._transform = transform
        self._silence = silence
        self._store = store.Store(indexers)
        self._handlers: tuple[object, ...] = ()
        self._task: asyncio.Task[None] | None = None
        self._streaming = True
        self._unseen: dict[str, None] = {}
        # (uid, resourceVersion) of what is stored: a transform may have pruned them away.
        self._marks: dict[str, tuple[str, str]] = {}
        self._progress = False
        self._outage = _Outage(resource.name)

    # ---- the copy ----------------------------------------------------------------------------

    def __len__(self) -> int:
        return len(self._store)

    def get(self, key: str) -> Object | None:
        """The object with this key (``namespace/name``, or ``name``); None if there is none."""
        return self._store.get(key)

    def list(self) -> store.Objects:
        """All objects."""
        return self._store.list()

    def by_index(self, name: str, value: str) -> store.Objects:
        """The objects for which the indexer gives this value.

        Raises:
            KeyError: there is no such indexer.
        """
        return self._store.by_index(name, value)

    def index_values(self, name: str) -> store.Values:
        """The values that the indexer gives for at least one object.

        Raises:
            KeyError: there is no such indexer.
        """
        return self._store.index_values(name)

    # ---- handlers ----------------------------------------------------------------------------

    def add_handler(self, handler: object) -> None:
        """Tell a handler of changes from now on; what is here already comes as adds, at once.

        Args:
            handler: has any of ``on_add(obj)``, ``on_update(old, new)`` and ``on_delete(obj)``:
                plain functions, called on the event loop in the order of the changes. They share
                the objects with the copy and must not change them.
        """
        self._handlers = (*self._handlers, handler)
        for key, obj in self._store.items():
            _call(handler, "on_add", key, obj)

    # ---- running -----------------------------------------------------------------------------

    def start(self) -> asyncio.Task[None]:
        """Run in a task of its own."""
        if self._task is None or self._task.done():
            self._task = asyncio.create_task(self.run(), name=f"informer {self.resource.name}")
            self._task.add_done_callback(self._ended)
        return self._task

    def stop(self) -> Awaitable[Any]:
        """End the task of `start`; await the result to wait for its end."""
        if self._task is not None:
            self._task.cancel()
        return asyncio.gather(*([self._task] if self._task else []), return_exceptions=True)

    async def caught_up(self) -> None:
        """Wait until the events that came together, and are being told of now, have been told."""
        await self._at_rest.wait()

    async def wait_synced(self, timeout: float | None = None) -> None:
        """Wait until the copy is complete.

        Raises:
            errors.Unreachable: it isn't after `timeout` seconds; the text says what is in the way.
        """
        synced: asyncio.Task[Any] = asyncio.create_task(self.synced.wait())
        waiting = {synced} if self._task is None else {synced, self._task}
        try:
            await asyncio.wait(waiting, timeout=timeout, return_when=asyncio.FIRST_COMPLETED)
        finally:
            synced.cancel()
        if self.synced.is_set():
            return
        if self._task is not None and self._task.done():
            self._task.result()
        reason = self._outage.reason or "no answer yet"
        raise errors.Unreachable(f"cannot list {self.resource.name}: {reason}")

    def _ended(self, task: asyncio.Task[None]) -> None:
        if not task.cancelled() and (error := task.exception()) is not None:
            _log.error("an informer ended", resource=self.resource.name, error=repr(error))

    async def run(self) -> None:
        """Keep the copy current until cancelled."""
        failures = 0
        while True:
            self._progress = False
            problem = await self._attempt()
            failures = 0 if self._progress else failures + 1
            if problem is None and self._progress:
                continue
            patience = getattr(problem, "retry_after", None) or 0.0
            await asyncio.sleep(max(patience, pause(max(failures, 1), random.random())))

    async def _attempt(self) -> errors.WhipstaffError | None:
        """Stream or list until that ends; gives the problem that asks for a pause."""
        try:
            if self.resource_version or self._streaming:
                await self._stream()
            else:
                await self._list()
        except errors.Expired:
            _log.info("resourceVersion expired, listing again", resource=self.resource.name)
            self.resource_version = ""
        except (errors.Invalid, errors.BadRequest) as error:
            if self.resource_version or not self._streaming:
                return self._failed(error)
            _log.debug("no streaming lists here", resource=self.resource.name, error=str(error))
            self._streaming = False
            self._progress = True
        except errors.WhipstaffError as error:
            return self._failed(error)
        return None

    def _failed(self, error: errors.WhipstaffError) -> errors.WhipstaffError:
        self._outage.note(error)
        if isinstance(error, errors.ApiError) and error.status not in _TRANSIENT:
            self.resource_version = ""
        return error

    async def _list(self) -> None:
        """Read everything page by page: for servers that can't stream it."""
        self._unseen = dict.fromkeys(self._store.keys())
        listed = await self._client.list(
            self.resource,
            self._namespace,
            label_selector=self._label_selector,
            field_selector=self._field_selector,
        )
        turn = time.monotonic()
        for obj in listed.items:
            self._put(key_of(obj), obj)
            turn = await _give_way(turn)
        await self._complete(listed.resource_version)

    async def _stream(self) -> None:
        """Follow the changes since the resourceVersion; without one, everything comes first."""
        initial = not self.resource_version
        opened = 0.0
        if initial:
            self._unseen = dict.fromkeys(self._store.keys())
        batches = self._client.watch_batches(
            self.resource,
            self._namespace,
            label_selector=self._label_selector,
            field_selector=self._field_selector,
            resource_version=self.resource_version,
            send_initial_events=initial,
            silence=self._silence,
        )
        try:
            async with contextlib.aclosing(batches):
                async for batch in batches:
                    opened = opened or time.monotonic()
                    initial = await self._take(batch, initial=initial)
                    if not initial:
                        self._outage.over()
                        self._progress = self._progress or bool(batch)
                    elif not self._streaming:
                        return
        finally:
            if opened and not initial and time.monotonic() - opened > _GOOD_STREAM:
                self._progress = True
        self._streaming = self._streaming and not initial

    async def _take(self, batch: watching.Batch, *, initial: bool) -> bool:
        """Apply events; gives whether more initial ones are to come."""
        self._at_rest.clear()
        try:
            return await self._take_all(batch, initial=initial)
        finally:
            self._at_rest.set()

    async def _take_all(self, batch: watching.Batch, *, initial: bool) -> bool:
        turn = time.monotonic()
        for event in batch:
            metadata = event.object["metadata"]
            if event.ends_initial_events:
                await self._complete(metadata["resourceVersion"])
                initial = False
            elif event.type == "DELETED":
                self._take_out(key_of(event.object), event.object)
            elif event.type != "BOOKMARK":
                self._put(key_of(event.object), event.object)
            elif initial:
                # This server took the request for a plain watch: it doesn't know streaming lists.
                self._streaming = False
            if not initial:
                self.resource_version = metadata.get("resourceVersion") or self.resource_version
            turn = await _give_way(turn)
        return initial

    async def _complete(self, resource_version: str) -> None:
        """Everything that there is has come: what has not been seen is gone."""
        turn = time.monotonic()
        for key in self._unseen:
            self._take_out(key)
            turn = await _give_way(turn)
        self._unseen = {}
        self.resource_version = resource_version
        self._progress = True
        self._outage.over()
        self.synced.set()

    # ---- changes -----------------------------------------------------------------------------

    def _put(self, key: str, raw: Object) -> None:
        """Take over an object as it is now, and tell the handlers what that means."""
        self._unseen.pop(key, None)
        metadata = raw["metadata"]
        mark = (metadata.get("uid", ""), metadata.get("resourceVersion", ""))
        old, old_mark = self._store.get(key), self._marks.get(key)
        if old is not None and mark == old_mark and mark[1]:
            return
        new = self._pruned(key, raw)
        if old is not None and (new is None or old_mark is None or old_mark[0] != mark[0]):
            self._take_out(key)
            old = None
        if new is None:
            return
        self._store.put(key, new)
        self._marks[key] = mark
        if old is None:
            self._tell("on_add", key, new)
        else:
            self._tell("on_update", key, old, new)

    def _take_out(self, key: str, last: Object | None = None) -> None:
        """Forget an object; handlers get it as it was last, if that is known, or as it was here."""
        old = self._store.remove(key)
        self._marks.pop(key, None)
        if old is None:
            return
        final = self._pruned(key, last) if last is not None else None
        self._tell("on_delete", key, final if final is not None else old)

    def _pruned(self, key: str, obj: Object) -> Object | None:
        if self._transform is None:
            return obj
        try:
            return self._transform(obj)
        except Exception:  # noqa: BLE001 (a user's code; one bad object mustn't stop all)
            _log.exception("a transform failed; the object is kept as it came", key=key)
            return obj

    def _tell(self, method: str, key: str, *arguments: Object) -> None:
        for handler in self._handlers:
            _call(handler, method, key, *arguments)


class _Outage:
    """Says once that the API server can't be watched, and once that it can be again."""

    def __init__(self, resource: str) -> None:
        self._resource = resource
        self._since = 0.0
        self._said: set[type[Exception]] = set()
        self.reason = ""

    def note(self, error: errors.WhipstaffError) -> None:
        self.reason = str(error)
        if not self._said:
            self._since = time.monotonic()
        # The reasons for no answer change from one attempt to the next and mean the same.
        if type(error) not in self._said:
            self._said.add(type(error))
            _log.warning("watch lost, trying again", resource=self._resource, error=self.reason)

    def over(self) -> None:
        if not self._said:
            return
        lasted = round(time.monotonic() - self._since, 1)
        _log.info("watch is back", resource=self._resource, seconds=lasted)
        self._said.clear()
        self.reason = ""


def _call(handler: object, method: str, key: str, *arguments: Object) -> None:
    function = getattr(handler, method, None)
    if function is None:
        return
    try:
        function(*arguments)
    except Exception:  # noqa: BLE001 (one handler's mistake mustn't stop the others)
        _log.exception("a handler failed", handler=repr(handler), method=method, key=key)


async def _give_way(turn: float) -> float:
    """Let others run if this turn has lasted long enough; gives the start of the turn."""
    if time.monotonic() - turn < SLICE:
        return turn
    await asyncio.sleep(0)
    return time.monotonic()
