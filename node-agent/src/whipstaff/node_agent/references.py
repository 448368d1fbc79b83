"""ConfigMaps and Secrets that pods refer to: each watched by itself for as long as a pod wants it.

The Node authorizer lets a node read an object only by its name, and only while a pod on the node
refers to it. So there is one watch an object, with a field selector of its name, started when the
first pod asks and ended when the last one is forgotten. What has been read once stays known while
the API server can't be reached. An immutable object is read once and not watched.

Runs one informer's loop for each object; owns the objects and who refers to them. Answers to
``pkg/kubelet/util/manager/{cache_based,watch_based}_manager.go``. Leaves out the pause of watches
that nobody has asked for in a while, and the other strategies (TTL, Get).
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable, Mapping
from typing import Literal

from whipstaff.runtime import client, errors, informer, logs, objects, resources

Object = objects.Object
Kind = Literal["ConfigMap", "Secret"]
Changed = Callable[[str], None]

# How long the first one who asks for an object waits for it; upstream gives up after one second.
FIRST_STATE_SECONDS = 3.0

_RESOURCES: Mapping[Kind, resources.Resource] = {
    "ConfigMap": resources.CONFIGMAPS,
    "Secret": resources.SECRETS,
}

_log = logs.get("node_agent.references")

_Key = tuple[Kind, str, str]


class UnreadableError(errors.WhipstaffError):
    """Whether the object exists isn't known: reading it is forbidden, or got no answer."""


class References:
    """What the pods of a node refer to.

    Args:
        api: the client.
        changed: called with the UID of each pod that refers to an object which came, changed or
            went after the pod had asked for it.
    """

    def __init__(self, api: client.Client, changed: Changed) -> None:
        self._api = api
        self._changed = changed
        self._watches: dict[_Key, _Watch] = {}
        self._by_pod: dict[str, set[_Key]] = {}

    def __len__(self) -> int:
        return len(self._watches)

    async def get(self, uid: str, kind: Kind, namespace: str, name: str) -> Object | None:
        """An object as it is now, which must not be changed; None where there is none.

        Args:
            uid: the pod that refers to it, and is told of changes from now on until `forget`.
            kind: ConfigMap or Secret.
            namespace: the pod's.
            name: the object's.

        Raises:
            UnreadableError: its state isn't known.
        """
        key = (kind, namespace, name)
        watch = self._watches.get(key)
        if watch is None:
            try:
                _RESOURCES[kind].path(namespace, name)
            except ValueError:
                return None
            watch = self._watches[key] = _Watch(self._api, key, self._changed)
        watch.pods.add(uid)
        self._by_pod.setdefault(uid, set()).add(key)
        return await watch.get(uid)

    def forget(self, uid: str) -> None:
        """A pod refers to nothing any more."""
        for key in self._by_pod.pop(uid, ()):
            watch = self._watches[key]
            watch.pods.discard(uid)
            if not watch.pods:
                watch.stop()
                del self._watches[key]

    async def close(self) -> None:
        """End all watches."""
        watches = list(self._watches.values())
        self._watches.clear()
        self._by_pod.clear()
        await asyncio.gather(*(watch.stop() for watch in watches))


class _Watch:
    """One object, and the pods that want it.

    A server takes a tenth of a second to say that a watch has shown everything. Until then whoever
    asks is answered by a read of its own, so that pods needn't wait for that.
    """

    def __init__(self, api: client.Client, key: _Key, changed: Changed) -> None:
        self.pods: set[str] = set()
        self._api = api
        self._kind, self._namespace, self._name = key
        self._changed = changed
        self._waiting: dict[str, int] = {}
        self._reading: asyncio.Task[Object | None] | None = None
        self._early: tuple[Object | None] | None = None
        self._fixed: Object | None = None
        self._informer = informer.Informer(
            api,
            _RESOURCES[self._kind],
            namespace=self._namespace,
            field_selector=f"metadata.name={self._name}",
            transform=_pruned,
        )
        self._informer.add_handler(self)
        self._informer.start()

    async def get(self, uid: str) -> Object | None:
        if self._fixed is not None:
            return self._fixed
        if self._informer.synced.is_set():
            found = self._informer.get(f"{self._namespace}/{self._name}")
        else:
            found = await self._await_first(uid)
        if found is not None and found.get("immutable"):
            self._fixed = found
            self._informer.stop()
        return found

    async def _await_first(self, uid: str) -> Object | None:
        # Who waits gets the first state from here and needn't be told of it.
        self._waiting[uid] = self._waiting.get(uid, 0) + 1
        try:
            return await self._first()
        except errors.Unreachable as error:
            raise UnreadableError(f"failed to sync {self._kind.lower()} cache: {error}") from error
        finally:
            self._waiting[uid] -= 1
            if not self._waiting[uid]:
                del self._waiting[uid]

    async def _first(self) -> Object | None:
        if self._reading is None or self._reading.done():
            self._reading = asyncio.create_task(self._read())
            # Who waited for it may have given up when it fails.
            self._reading.add_done_callback(lambda task: task.cancelled() or task.exception())
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(FIRST_STATE_SECONDS):
                try:
                    return await asyncio.shield(self._reading)
                except errors.WhipstaffError as error:
                    _log.debug("the watch will tell", object=self._name, error=str(error))
                await self._informer.wait_synced()
        if self._early is not None and not self._informer.synced.is_set():
            return self._early[0]
        # Raises what is in the way, if there still is something.
        await self._informer.wait_synced(0)
        return self._informer.get(f"{self._namespace}/{self._name}")

    async def _read(self) -> Object | None:
        found: Object | None = None
        with contextlib.suppress(errors.NotFound):
            found = await self._api.get(_RESOURCES[self._kind], self._name, self._namespace)
        self._early = (None if found is None else _pruned(found),)
        return self._early[0]

    def stop(self) -> asyncio.Future[object]:
        if self._reading is not None:
            self._reading.cancel()
        return asyncio.ensure_future(self._informer.stop())

    def on_add(self, obj: Object) -> None:
        early = self._early[0] if self._early is not None else None
        if early is None or objects.resource_version(early) != objects.resource_version(obj):
            self._tell()

    def on_update(self, _: Object, __: Object) -> None:
        self._tell()

    def on_delete(self, _: Object) -> None:
        self._tell()

    def _tell(self) -> None:
        for uid in self.pods - self._waiting.keys():
            self._changed(uid)


def _pruned(obj: Object) -> Object:
    """Without what can be large and what nobody reads."""
    metadata = obj["metadata"]
    metadata.pop("managedFields", None)
    annotations = metadata.get("annotations") or {}
    annotations.pop("kubectl.kubernetes.io/last-applied-configuration", None)
    return obj
