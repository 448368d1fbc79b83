"""Beside the stock controllers without writing: what ours would have done otherwise.

The controllers run as ever, on a client that notes what they would write instead of sending it. Two
things count as a difference, and each is told once, in the log and in a metric:

- ours would still act on an object that hasn't changed for `SETTLED` seconds: the stock controller
  is content with what is there, and ours isn't;
- a ReplicaSet of a Deployment was set to a size that ours would not have set it to, in any state of
  the Deployment that was seen since its last step. Steps between which ours didn't come to look
  aren't judged, nor those beside a change of the Deployment itself, which two watches may bring in
  either order. A size that a user gave a ReplicaSet counts too: who wrote it isn't known.
"""

from __future__ import annotations

import collections
import contextvars
import time
from collections.abc import Awaitable, Callable, Iterable
from typing import Any, NamedTuple, TypeAlias

import prometheus_client

from whipstaff.runtime import client, errors, events, informer, logs, objects, resources, workqueue

Object: TypeAlias = dict[str, Any]
Sync: TypeAlias = Callable[[str], Awaitable[float | None]]

SETTLED = 5.0
"""Seconds for which an object must have stood still."""

DOUBTED = 1.0
"""Seconds for which a size is looked at twice."""


class Intent(NamedTuple):
    """A write that isn't made: what, and the size that it would give to which ReplicaSet."""

    text: str
    name: str = ""
    size: int | None = None


_differences = prometheus_client.Counter(
    "whipstaff_shadow_differences",
    "Times that our controllers would have acted otherwise than what was seen.",
    ["controller", "kind"],
)
_intents: contextvars.ContextVar[list[Intent] | None] = contextvars.ContextVar(
    "intents", default=None
)
_log = logs.get("shadow")


class Unwritten(errors.WhipstaffError):
    """What would follow depends on an answer that nobody was asked for."""


class NotingClient(client.Client):
    """Reads as `client.Client` does, and notes down what it is told to write."""

    async def create(
        self,
        resource: resources.Resource,
        body: Object,
        *_: Any,
        **__: Any,
    ) -> Object:
        """Note that an object would be made; gives it as it was given."""
        shown = body["metadata"].get("name") or f"{body['metadata'].get('generateName')}?"
        _note(Intent(f"create {resource.kind} {shown}"))
        metadata = {"resourceVersion": "", "uid": "", **body["metadata"], "name": shown}
        return {**body, "metadata": metadata}

    async def update(
        self, resource: resources.Resource, body: Object, *, subresource: str | None = None
    ) -> Object:
        """Note that an object would be changed; gives it as it was given."""
        what = f"{resource.kind} {objects.name(body)}"
        if subresource:
            _note(Intent(f"write {subresource} of {what}: {_shown(body.get(subresource) or {})}"))
        elif resource is resources.REPLICASETS:
            size = body["spec"].get("replicas")
            _note(Intent(f"update {what} (of {size})", objects.name(body), size))
        else:
            _note(Intent(f"update {what}"))
        return body

    async def patch(
        self, resource: resources.Resource, name: str, body: Any, *_: Any, **__: Any
    ) -> Object:
        """Note that an object would be adopted or released. Raises `Unwritten`."""
        verb = "release" if "$patch" in str(body) else "adopt"
        _note(Intent(f"{verb} {resource.kind} {name}"))
        raise Unwritten(f"{verb} {resource.kind} {name}")

    async def delete(self, resource: resources.Resource, name: str, *_: Any, **__: Any) -> Object:
        """Note that an object would be deleted."""
        _note(Intent(f"delete {resource.kind} {name}"))
        return {"metadata": {"resourceVersion": ""}}


class SilentRecorder(events.Recorder):
    """Tells nobody."""

    def event(self, *_: Any, **__: Any) -> None:
        """Nothing."""


class Shadow:
    """Compares what one controller would do with what is done.

    Args:
        name: the controller's, for messages.
        queue: its keys, to look at them again once they should have settled.
        now: seconds that only grow.
    """

    def __init__(
        self,
        name: str,
        queue: workqueue.WorkQueue[str],
        now: Callable[[], float] = time.monotonic,
    ) -> None:
        self._name = name
        self._queue = queue
        self._now = now
        self._standing: dict[str, tuple[tuple[str, ...], float]] = {}
        self._told: dict[str, tuple[str, ...]] = {}
        self._sizes: dict[str, set[tuple[str, int]]] = {}
        self._unseen: set[str] = set()
        self._doubts: dict[str, list[tuple[str, float]]] = {}

    def watched(self, sync: Sync) -> Sync:
        """A controller's sync that looks at what that would write."""

        async def look(key: str) -> float | None:
            noted: list[Intent] = []
            _intents.set(noted)
            again = None
            self._unseen.discard(key)
            try:
                again = await sync(key)
            except errors.WhipstaffError as error:
                _log.debug("not followed any further", key=key, error=str(error))
            self.judge(key, noted)
            return again

        return look

    def judge(self, key: str, noted: Iterable[Intent]) -> None:
        """Take down what would be written, and tell of it where nothing changes any more."""
        noted = sorted(noted)
        sizes = self._sizes.setdefault(key, set())
        sizes.update((each.name, each.size) for each in noted if each.size is not None)
        self._tell_doubts(key)
        texts = tuple(each.text for each in noted)
        if not texts:
            self._standing.pop(key, None)
            if self._told.pop(key, None):
                _log.info("agrees again", controller=self._name, key=key)
            return
        before, since = self._standing.get(key, ((), 0.0))
        if before != texts:
            self._standing[key] = (texts, self._now())
            self._queue.add_after(key, SETTLED)
        elif self._now() - since < SETTLED:
            self._queue.add_after(key, SETTLED - (self._now() - since))
        elif self._told.get(key) != texts:
            self._told[key] = texts
            self._differ("standing", key, f"nobody does: {_joined(texts)}")

    def watch(self, deployments: informer.Informer, replicasets: informer.Informer) -> None:
        """Look at the sizes of Deployments' ReplicaSets; before the controller's own handlers."""
        deployments.add_handler(_DeploymentHandler(self))
        replicasets.add_handler(_ReplicaSetHandler(self))

    # ---- sizes -------------------------------------------------------------------------------

    def changed(self, key: str) -> None:
        """A Deployment itself has changed: steps beside that aren't judged."""
        self._unseen.add(key)
        self._doubts.pop(key, None)

    def scaled(self, key: str, name: str, old: int, new: int) -> None:
        """A ReplicaSet of a Deployment was given another size."""
        expected = self._sizes.pop(key, None)
        unseen = key in self._unseen
        self._unseen.add(key)
        if unseen or expected is None or (name, new) in expected:
            return
        would = sorted(f"{child} to {size}" for child, size in expected) or ["none"]
        text = f"{name} was scaled from {old} to {new}, and ours would scale {', '.join(would)}"
        self._doubts.setdefault(key, []).append((text, self._now()))
        self._queue.add_after(key, DOUBTED)

    def _tell_doubts(self, key: str) -> None:
        old = [each for each in self._doubts.get(key, ()) if self._now() - each[1] >= DOUBTED]
        for text, _ in old:
            self._differ("scaled", key, text)
        left = [each for each in self._doubts.pop(key, ()) if each not in old]
        if left:
            self._doubts[key] = left

    def _differ(self, kind: str, key: str, text: str) -> None:
        _differences.labels(self._name, kind).inc()
        _log.warning("would act otherwise", controller=self._name, key=key, what=text)


class _DeploymentHandler:
    """Tells of changes of Deployments."""

    def __init__(self, shadow: Shadow) -> None:
        self._shadow = shadow

    def on_add(self, deployment: Object) -> None:
        self._shadow.changed(objects.key(deployment))

    def on_update(self, old: Object, new: Object) -> None:
        if old["metadata"].get("generation") != new["metadata"].get("generation"):
            self._shadow.changed(objects.key(new))

    def on_delete(self, deployment: Object) -> None:
        self._shadow.changed(objects.key(deployment))


class _ReplicaSetHandler:
    """Tells of the sizes of Deployments' ReplicaSets."""

    def __init__(self, shadow: Shadow) -> None:
        self._shadow = shadow

    def on_add(self, replicaset: Object) -> None:
        if owner := objects.owner(replicaset):
            self._shadow.changed(f"{objects.namespace(replicaset)}/{owner['name']}")

    def on_update(self, old: Object, new: Object) -> None:
        owner = objects.owner(new)
        before, after = old["spec"].get("replicas", 1), new["spec"].get("replicas", 1)
        if owner is not None and before != after:
            key = f"{objects.namespace(new)}/{owner['name']}"
            self._shadow.scaled(key, objects.name(new), before, after)

    def on_delete(self, replicaset: Object) -> None:
        self.on_add(replicaset)


def _note(intent: Intent) -> None:
    noted = _intents.get()
    if noted is not None:
        noted.append(intent)


def _shown(status: Object) -> str:
    """A status without what is only a time."""
    flat = {k: v for k, v in status.items() if k != "conditions"}
    conditions = [
        f"{each['type']}={each['status']} {each.get('reason', '')}"
        for each in status.get("conditions") or ()
    ]
    return f"{flat} {conditions}"


def _joined(noted: tuple[str, ...]) -> str:
    counted = collections.Counter(noted)
    return "; ".join(text if n == 1 else f"{n} times {text}" for text, n in counted.items())
