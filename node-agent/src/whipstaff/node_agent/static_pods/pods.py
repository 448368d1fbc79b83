"""Static pods: pods that the node runs out of files, without being told to by the API.

Runs two loops. One reads the manifests every 20 s and soon after the directory changes, and tells a
handler, as an informer would, which pods came and went. The other keeps the mirror pods: objects in
the API, owned by the Node, that show what the static pods are and how they are. A mirror that was
deleted or doesn't fit is made anew; one whose static pod is gone is deleted.

Owns the pods that the manifests describe and knows of their mirrors. A pod's UID follows from its
manifest, so a changed one is another pod: it starts when the old one of its name is gone (`gone`).
Answers to ``pkg/kubelet/config/file.go``, ``pkg/kubelet/pod/mirror_client.go`` and to
tryReconcileMirrorPods in ``pkg/kubelet/kubelet.go``. Leaves out manifests from URLs.
"""

from __future__ import annotations

import asyncio
import copy
import pathlib
import time
from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import dataclass
from typing import Protocol

from whipstaff.node_agent import inotify
from whipstaff.node_agent.static_pods import manifests as static_manifests
from whipstaff.runtime import client, errors, logs, objects, resources

Object = objects.Object

SCAN_SECONDS = 20.0
# An editor writes a file in several steps.
_SETTLE_SECONDS = 0.1
_RETRY_SECONDS = 3.0
_MISSING_SECONDS = 1.0

_log = logs.get("node_agent.static_pods")


class Handler(Protocol):
    """Who is told of pods, as an informer's handlers are."""

    def on_add(self, pod: Object, /) -> None:
        """A pod is to run."""

    def on_update(self, old: Object, new: Object, /) -> None:
        """A pod of the same UID is to run differently."""

    def on_delete(self, pod: Object, /) -> None:
        """A pod is to stop."""


@dataclass(frozen=True, slots=True)
class CreateMirror:
    """A static pod has no mirror."""

    pod: Object


@dataclass(frozen=True, slots=True)
class DeleteMirror:
    """A mirror is of no pod, or doesn't fit."""

    mirror: Object


def is_mirror(pod: Object) -> bool:
    """Whether a pod in the API only shows one that a node runs by itself."""
    return static_manifests.MIRROR in objects.annotations(pod)


def mirror_body(pod: Object, node: Object) -> Object:
    """The mirror of a static pod, as it is created: the pod, marked and owned by its Node."""
    body = copy.deepcopy(pod)
    metadata = body["metadata"]
    metadata.pop("uid", None)
    metadata["annotations"][static_manifests.MIRROR] = _hash(pod)
    metadata["ownerReferences"] = [
        {
            "apiVersion": "v1",
            "kind": "Node",
            "name": objects.name(node),
            "uid": objects.uid(node),
            "controller": True,
        }
    ]
    return body


def plan(
    pods: Mapping[str, Object], mirrors: Mapping[str, Object], leaving: Collection[str] = ()
) -> list[CreateMirror | DeleteMirror]:
    """What makes the mirrors fit. Pure.

    Args:
        pods: the static pods, by namespace/name.
        mirrors: the mirrors in the API, likewise.
        leaving: names of pods that are on their way out; they keep their mirrors, and get no new
            ones.
    """
    steps: list[CreateMirror | DeleteMirror] = []
    for key, mirror in mirrors.items():
        if key not in pods or objects.is_terminating(mirror) or not _fits(mirror, pods[key]):
            steps.append(DeleteMirror(mirror))
    for key, pod in pods.items():
        if key not in mirrors and key not in leaving:
            steps.append(CreateMirror(pod))
    return steps


def _fits(mirror: Object, pod: Object) -> bool:
    return objects.annotations(mirror).get(static_manifests.MIRROR) == _hash(pod)


def _hash(pod: Object) -> str:
    return objects.annotations(pod).get(static_manifests.HASH, "")


class StaticPods:
    """The static pods of one node.

    Args:
        place: the directory of manifests, or one manifest.
        node_name: the node's name.
        node: the Node's object once it is registered.
        api: the client.
        handler: told of the pods.
        mirrored: called with the UID of a static pod that has a new mirror, which knows nothing of
            its status yet.
        clock: seconds since the epoch.
    """

    def __init__(
        self,
        place: pathlib.Path,
        node_name: str,
        node: Callable[[], Object | None],
        api: client.Client,
        handler: Handler,
        mirrored: Callable[[str], None],
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._place = place
        self._node_name = node_name
        self._node = node
        self._api = api
        self._handler = handler
        self._mirrored = mirrored
        self._clock = clock
        self._wanted: dict[str, Object] = {}
        self._running: dict[str, Object] = {}
        self._leaving: set[str] = set()
        self._mirrors: dict[str, Object] = {}
        self._files: static_manifests.Found = static_manifests.Found()
        self._news = asyncio.Event()

    # What others say and ask.

    def gone(self, uid: str) -> None:
        """A static pod has stopped for good; another of its name may start."""
        for key, pod in list(self._running.items()):
            if objects.uid(pod) == uid and key in self._leaving:
                del self._running[key]
                self._leaving.discard(key)
                self._start(key)
        self._news.set()

    def mirror_seen(self, mirror: Object) -> None:
        """A mirror pod is in the API, as it is now."""
        key = objects.key(mirror)
        known = self._mirrors.get(key)
        self._mirrors[key] = mirror
        self._news.set()
        pod = self._running.get(key)
        new = known is None or objects.uid(known) != objects.uid(mirror)
        if new and pod is not None and _fits(mirror, pod):
            self._mirrored(objects.uid(pod))

    def mirror_gone(self, mirror: Object) -> None:
        """A mirror pod was deleted from the API."""
        known = self._mirrors.get(objects.key(mirror))
        if known is not None and objects.uid(known) == objects.uid(mirror):
            del self._mirrors[objects.key(mirror)]
        self._news.set()

    def mirror_of(self, uid: str) -> Object | None:
        """The mirror that a static pod's status is to be written to; None while there is none."""
        for key, pod in self._running.items():
            mirror = self._mirrors.get(key)
            if objects.uid(pod) == uid and mirror is not None and _fits(mirror, pod):
                return mirror
        return None

    # Manifests.

    async def scan(self, *, thorough: bool = True) -> None:
        """Read the manifests and tell of what has changed.

        Args:
            thorough: whether the pod of a file that can't be read any more is to go; if not, it
                may be in the middle of being written.
        """
        try:
            found = await asyncio.to_thread(static_manifests.read, self._place, self._node_name)
        except OSError as error:
            # What can't be looked at hasn't changed, as far as anybody knows.
            _log.warning("manifests can't be read", path=str(self._place), error=str(error))
            return
        for path, problem in found.problems.items():
            if self._files.problems.get(path) != problem:
                _log.warning("a manifest can't be used", file=path, error=problem)
        kept = dict(found.pods)
        if not thorough:
            for path in found.problems:
                if path in self._files.pods:
                    kept[path] = self._files.pods[path]
        self._files = static_manifests.Found(kept, found.problems)
        self._apply(kept.values())

    def _apply(self, pods: Iterable[Object]) -> None:
        self._wanted = {objects.key(pod): pod for pod in pods}
        for key, pod in list(self._running.items()):
            if key in self._leaving:
                continue
            wanted = self._wanted.get(key)
            if wanted is None or objects.uid(wanted) != objects.uid(pod):
                self._leaving.add(key)
                _log.info("a static pod stops", pod=key)
                self._handler.on_delete(pod)
            else:
                self._change(key, pod, wanted)
        for key in self._wanted:
            if key not in self._running:
                self._start(key)

    def _start(self, key: str) -> None:
        pod = self._wanted.get(key)
        if pod is None:
            return
        self._running[key] = pod = copy.deepcopy(pod)
        now = self._clock()
        pod["metadata"]["annotations"][static_manifests.SEEN] = objects.format_micro_time(now)
        pod["metadata"].setdefault("creationTimestamp", objects.format_time(now))
        _log.info("a static pod starts", pod=key)
        self._handler.on_add(pod)
        self._news.set()

    def _change(self, key: str, old: Object, wanted: Object) -> None:
        """A manifest that gives its pod a UID may change and mean the same pod."""
        if wanted["spec"] == old["spec"]:
            return
        new = copy.deepcopy(wanted)
        metadata = new["metadata"]
        metadata["annotations"][static_manifests.SEEN] = objects.annotations(old)[
            static_manifests.SEEN
        ]
        metadata["creationTimestamp"] = old["metadata"]["creationTimestamp"]
        self._running[key] = new
        self._handler.on_update(old, new)

    # The loops.

    async def run(self) -> None:
        """Follow the manifests and keep the mirrors, until cancelled."""
        async with asyncio.TaskGroup() as group:
            group.create_task(self._follow())
            group.create_task(self._keep_mirrors())

    async def _follow(self) -> None:
        while True:
            folder = self._place.parent if self._place.is_file() else self._place
            if not folder.is_dir():
                await self.scan()
                await asyncio.sleep(_MISSING_SECONDS)
                continue
            with inotify.Watch(str(folder), unwatched=SCAN_SECONDS) as watch:
                await self.scan()
                due = time.monotonic() + SCAN_SECONDS
                while (left := due - time.monotonic()) > 0:
                    if await watch.wait(left):
                        await asyncio.sleep(_SETTLE_SECONDS)
                        await self.scan(thorough=False)

    async def _keep_mirrors(self) -> None:
        while True:
            self._news.clear()
            done = await self._fit_mirrors()
            try:
                async with asyncio.timeout(None if done else _RETRY_SECONDS):
                    await self._news.wait()
            except TimeoutError:
                continue

    async def _fit_mirrors(self) -> bool:
        """Make the mirrors fit as far as that is possible now; whether nothing is left to do."""
        done = True
        for step in plan(self._running, self._mirrors, self._leaving):
            try:
                match step:
                    case DeleteMirror():
                        await self._delete(step.mirror)
                    case CreateMirror():
                        done = await self._create(step.pod) and done
            except errors.WhipstaffError as error:
                _log.warning("a mirror pod doesn't fit yet", error=str(error))
                done = False
        return done

    async def _create(self, pod: Object) -> bool:
        node = self._node()
        if node is None or not objects.uid(node) or objects.is_terminating(node):
            return False
        body = mirror_body(pod, node)
        self.mirror_seen(await self._api.create(resources.PODS, body))
        return True

    async def _delete(self, mirror: Object) -> None:
        try:
            await self._api.delete(
                resources.PODS,
                objects.name(mirror),
                objects.namespace(mirror),
                uid=objects.uid(mirror),
                grace_period_seconds=0,
            )
        except (errors.NotFound, errors.Conflict):
            _log.debug("a mirror pod was gone already", pod=objects.key(mirror))
        self.mirror_gone(mirror)
