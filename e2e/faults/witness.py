"""A watch over all pods that says where a status went backwards.

`complaints` compares two states of one pod and names what mustn't have happened between them;
`Witness` follows a namespace in a thread of its own and collects.
"""

from __future__ import annotations

import asyncio
import collections
import contextlib
import json
import pathlib
import threading
from collections.abc import Iterator
from typing import Any, Self

from whipstaff.runtime import client, config, errors, resources

Object = dict[str, Any]

STEADY = "steady"  # the label of pods that nothing may happen to

_RANKS = {"Pending": 0, "Running": 1, "Succeeded": 2, "Failed": 2}
_LISTS = ("initContainerStatuses", "containerStatuses", "ephemeralContainerStatuses")
_FOR_GOOD = ("PodScheduled", "Initialized")  # conditions that are never lost again


def complaints(old: Object, new: Object) -> Iterator[str]:
    """What went backwards from one state of a pod to a later one."""
    yield from _of_pod(old, new)
    before, after = old.get("status") or {}, new.get("status") or {}
    yield from _of_conditions(old, new)
    for name in _LISTS:
        shown = {status["name"]: status for status in after.get(name) or ()}
        for status in before.get(name) or ():
            if status["name"] not in shown:
                yield f"the status of container {status['name']} is gone"
                continue
            for text in _of_container(new["spec"], status, shown[status["name"]]):
                yield f"container {status['name']}: {text}"


def _of_pod(old: Object, new: Object) -> Iterator[str]:
    before, after = old.get("status") or {}, new.get("status") or {}
    was, now = before.get("phase", "Pending"), after.get("phase", "Pending")
    if _RANKS[now] < _RANKS[was] or (_RANKS[was] == 2 and now != was):
        yield f"phase {was} became {now}"
    for field in ("startTime", "podIP", "hostIP", "qosClass"):
        if before.get(field) and after.get(field) != before[field]:
            yield f"{field} {before[field]} became {after.get(field)}"
    if after.get("observedGeneration", 0) < before.get("observedGeneration", 0):
        yield f"observedGeneration {before['observedGeneration']} became smaller"
    if after.get("observedGeneration", 0) > new["metadata"].get("generation", 0):
        yield f"observedGeneration {after['observedGeneration']} was never there"


def _of_conditions(old: Object, new: Object) -> Iterator[str]:
    shown = {c["type"]: c for c in (new.get("status") or {}).get("conditions") or ()}
    leaving = "deletionTimestamp" in new["metadata"]
    for was in (old.get("status") or {}).get("conditions") or ():
        kind = was["type"]
        now = shown.get(kind)
        if now is None:
            if kind in {*_FOR_GOOD, "Ready", "ContainersReady"}:
                yield f"condition {kind} is gone"
            continue
        if now.get("observedGeneration", 0) < was.get("observedGeneration", 0):
            yield f"observedGeneration of condition {kind} became smaller"
        since, later = (each.get("lastTransitionTime") or "" for each in (was, now))
        if later < since:
            yield f"time of condition {kind} went back: {since}, {later}"
        if was["status"] == now["status"]:
            if since != later:
                yield f"another time of condition {kind}, which is as it was"
        elif was["status"] == "True" and kind in _FOR_GOOD:
            yield f"condition {kind} was lost"
        elif was["status"] == "True" and kind == "Ready" and not leaving and _is_steady(new):
            yield f"not ready any more: {now.get('reason')} {now.get('message')}"


def _is_steady(pod: Object) -> bool:
    return STEADY in (pod["metadata"].get("labels") or {})


def _of_container(spec: Object, old: Object, new: Object) -> Iterator[str]:
    was, now = old["restartCount"], new["restartCount"]
    if now < was:
        yield f"restartCount {was} became {now}"
    before, after = old.get("containerID", ""), new.get("containerID", "")
    if before and not after:
        yield f"containerID {before[:24]} is gone"
    if before and after and before != after and was == now:
        yield f"is another one, without a restart: {before[:24]}, {after[:24]}"
    if before == after and was != now and before:
        yield f"restartCount {was} became {now}, but it is the same one"
    yield from _of_states(spec, old, new)
    # One that never ran may end so, with its pod.
    if before and _is_unknown(new) and not _is_unknown(old):
        yield "nobody knows how it ended"


def _of_states(spec: Object, old: Object, new: Object) -> Iterator[str]:
    before = old.get("containerID", "")
    (kind, state), (later, next_state) = _state(old), _state(new)
    same = before == new.get("containerID", "")
    if kind == "terminated":
        final = spec.get("restartPolicy") == "Never" and not _is_sidecar(spec, new["name"])
        if final and later != "terminated":
            yield f"had ended for good, and is {later}"
        if same and later == "running":
            yield "had ended, and runs"
        if same and later == "terminated" and state != next_state:
            yield f"ended twice: {state}, {next_state}"
    if kind == "running":
        last = (new.get("lastState") or {}).get("terminated") or {}
        if later == "waiting" and last.get("containerID") != before:
            yield f"ran, and waits: {next_state}, last {last}"
        if same and later == "running" and state != next_state:
            yield f"started twice: {state}, {next_state}"
    if same and old.get("started") and not new.get("started") and later == "running":
        yield "was started, and isn't any more"


def _is_sidecar(spec: Object, name: str) -> bool:
    return any(
        each["name"] == name and each.get("restartPolicy") == "Always"
        for each in spec.get("initContainers") or ()
    )


def _is_unknown(status: Object) -> bool:
    states = [status.get(field) or {} for field in ("state", "lastState")]
    reasons = [(state.get("terminated") or {}).get("reason") for state in states]
    return "ContainerStatusUnknown" in reasons


def _state(status: Object) -> tuple[str, Object]:
    for kind, state in (status.get("state") or {}).items():
        return kind, state or {}
    return "waiting", {}


class Witness:
    """Follows the pods of a namespace from ``with`` on.

    Attributes:
        forgiven: what isn't noted: beginnings of texts (those of `complaints`).
        found: what went backwards, by pod.
        last: each pod as it was seen last, by UID.
        gone: the UIDs of the pods that were deleted.
        history: each pod in every state that was seen, by UID.
    """

    def __init__(self, kubeconfig: pathlib.Path, namespace: str) -> None:
        self._kubeconfig = kubeconfig
        self._namespace = namespace
        self.forgiven: tuple[str, ...] = ()
        self.found: dict[str, list[str]] = collections.defaultdict(list)
        self.last: dict[str, Object] = {}
        self.gone: set[str] = set()
        self.history: dict[str, list[Object]] = collections.defaultdict(list)
        self._stop = threading.Event()
        self._seen = threading.Event()
        self._thread = threading.Thread(target=lambda: asyncio.run(self._run()), daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        assert self._seen.wait(30)
        return self

    def __exit__(self, *exception: object) -> None:
        self._stop.set()
        self._thread.join(30)

    def all_found(self) -> list[str]:
        """What went backwards, a line each."""
        return [f"{pod}: {text}" for pod, texts in self.found.items() for text in texts]

    async def _run(self) -> None:
        async with client.Client(config.load(str(self._kubeconfig))) as api:
            following = asyncio.create_task(self._follow(api))
            while not self._stop.is_set():
                await asyncio.sleep(0.1)
                if following.done():
                    following.result()
            following.cancel()
            await asyncio.gather(following, return_exceptions=True)

    async def _follow(self, api: client.Client) -> None:
        version = ""
        while True:
            try:
                if not version:
                    listed = await api.list(resources.PODS, self._namespace)
                    for pod in listed.items:
                        self._see("MODIFIED", pod)
                    version = listed.resource_version
                self._seen.set()
                watch = api.watch(resources.PODS, self._namespace, resource_version=version)
                async with contextlib.aclosing(watch):
                    async for event in watch:
                        version = event.object["metadata"]["resourceVersion"]
                        if event.type != "BOOKMARK":
                            self._see(event.type, event.object)
            except errors.Expired:
                version = ""
            except (errors.Unreachable, errors.ApiError):
                await asyncio.sleep(0.2)

    def _see(self, kind: str, pod: Object) -> None:
        uid = pod["metadata"]["uid"]
        old = self.last.get(uid)
        if old is not None:
            texts = complaints(old, pod)
            self.found[_key(pod)] += [t for t in texts if not t.startswith(self.forgiven)]
        if kind == "DELETED":
            self.gone.add(uid)
            if old is not None and not _was_forced(old) and (running := _running(pod)):
                self.found[_key(pod)].append(f"was deleted while {running} ran")
        self.last[uid] = pod
        self.history[uid].append(pod)

    def unknown(self) -> set[tuple[str, str]]:
        """The containers of which nobody knows how they ended, by UID and name."""
        return {
            (uid, status["name"])
            for uid, pod in list(self.last.items())
            for name in _LISTS
            for status in (pod.get("status") or {}).get(name) or ()
            if _is_unknown(status)
        }

    def write(self, file: pathlib.Path) -> None:
        """Keep the whole history, for whoever looks for the cause."""
        file.write_text(json.dumps(self.history))

    def restarts(self) -> dict[tuple[str, str], int]:
        """The last restart count of each container, by UID and name."""
        return {
            (uid, status["name"]): status["restartCount"]
            for uid, pod in list(self.last.items())
            for name in _LISTS
            for status in (pod.get("status") or {}).get(name) or ()
        }


def _key(pod: Object) -> str:
    return f"{pod['metadata']['name']} {pod['metadata']['uid'][:8]}"


def _was_forced(pod: Object) -> bool:
    """Whether a pod's deletion didn't wait for the node."""
    return pod["metadata"].get("deletionGracePeriodSeconds") in {None, 0}


def _running(pod: Object) -> list[str]:
    return [
        status["name"]
        for name in _LISTS
        for status in (pod.get("status") or {}).get(name) or ()
        if "running" in (status.get("state") or {})
    ]
