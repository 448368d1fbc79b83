"""The ReplicaSet controller at work: the only module here that reads and writes the cluster.

Runs no loop: `sync` is for the workers of `queue`. It owns the queue, the memory of its own writes
and the parsed selectors; the copies of ReplicaSets and pods are the caller's informers. The pods'
informer has to be made with `POD_INDEXERS` and `prune_pod`, that of the ReplicaSets with
`prune_replicaset`.

A key is looked at only when both copies show everything that was written for it before, so no pod
is created or deleted a second time because the watch is slow. Whatever is written for a key brings
an event of its own that queues the key again.

Answers to upstream's ``pkg/controller/replicaset/replica_set.go`` and to the pod control of
``controller_utils.go``. Leaves out expectations (see `own_writes`), resyncs, and the
ReplicationController, which shares the code upstream. Different: an update of a pod that changes
nothing of what `prune_pod` keeps wakes nobody; of the events about many pods created or deleted
together the first ten name their pods and the rest are counted in one series.
"""

from __future__ import annotations

import asyncio
import functools
import sys
import time
from collections.abc import Awaitable, Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

import prometheus_client

from whipstaff.controllers import claiming, own_writes, rivals
from whipstaff.controllers.replicaset import ranking, reconciler, status, trust
from whipstaff.runtime import (
    client,
    errors,
    events,
    informer,
    logs,
    objects,
    resources,
    selectors,
    store,
    workqueue,
)

Object: TypeAlias = dict[str, Any]

KIND = resources.REPLICASETS.kind
POD_INDEX = "podController"
RECHECK = 0.5
"""Seconds after which a key is looked at again whose own writes haven't been seen."""
TOLD_SINGLY = 10
"""Of so many pods that are created or deleted together each gets an event; the rest share one."""

_log = logs.get("replicaset")
_age_ratio = prometheus_client.Histogram(
    "replicaset_controller_sorting_deletion_age_ratio",
    "The ratio of chosen deleted pod's ages to the current youngest pod's age (at the time). "
    "Should be <2. Only ready pods are considered.",
    buckets=[0.25 * 2**power for power in range(6)],
)
_stale_skips = prometheus_client.Counter(
    "replicaset_controller_stale_sync_skips",
    "Total number of ReplicaSet syncs skipped due to a stale watch cache.",
    ["group", "resource"],
)


# ---- what the informers keep -------------------------------------------------------------------


POD_INDEXERS: Mapping[str, store.Indexer] = {POD_INDEX: claiming.controllers_of}


def prune_replicaset(replicaset: Object) -> Object:
    """A ReplicaSet without the record of who set which field."""
    replicaset["metadata"].pop("managedFields", None)
    return replicaset


def prune_pod(pod: Object) -> Object:
    """What the controllers read of a pod, in the shape that it has in the API.

    Of the restarts only the highest counts are kept. Values that many pods share are shared.
    """
    metadata, found = pod["metadata"], pod.get("status") or {}
    kept = {"name": metadata["name"], "uid": metadata.get("uid", "")}
    for field in ("namespace", "creationTimestamp", "deletionTimestamp"):
        if value := metadata.get(field):
            kept[field] = sys.intern(value)
    if labels := metadata.get("labels"):
        kept["labels"] = _shared_labels(tuple(labels.items()))
    if references := metadata.get("ownerReferences"):
        kept["ownerReferences"] = _shared_references(
            tuple(tuple(reference.items()) for reference in references)
        )
    if cost := (metadata.get("annotations") or {}).get(ranking.DELETION_COST):
        kept["annotations"] = {ranking.DELETION_COST: cost}
    reduced: Object = {"metadata": kept}
    spec: Object = {"nodeName": sys.intern(node)} if (node := ranking.node(pod)) else {}
    state: Object = {"phase": sys.intern(phase)} if (phase := found.get("phase")) else {}
    if ready := objects.condition(pod, "Ready"):
        since = ready.get("lastTransitionTime") or ""
        state["conditions"] = _shared_ready(ready["status"], since)
    most, beside = ranking.restarts(pod)
    if most:
        state["containerStatuses"] = [{"restartCount": most}]
    if beside:
        spec["initContainers"] = [{"name": "sidecar", "restartPolicy": "Always"}]
        state["initContainerStatuses"] = [{"name": "sidecar", "restartCount": beside}]
    if spec:
        reduced["spec"] = spec
    reduced["status"] = state
    return reduced


@functools.lru_cache(maxsize=16384)
def _shared_labels(items: tuple[tuple[str, str], ...]) -> dict[str, str]:
    return {sys.intern(name): sys.intern(value) for name, value in items}


@functools.lru_cache(maxsize=16384)
def _shared_references(references: tuple[tuple[tuple[str, Any], ...], ...]) -> list[Object]:
    return [dict(reference) for reference in references]


@functools.lru_cache(maxsize=16384)
def _shared_ready(state: str, since: str) -> list[Object]:
    return [{"type": "Ready", "status": state, "lastTransitionTime": since}]


# ---- the controller ----------------------------------------------------------------------------


class AdoptionFailed(errors.WhipstaffError):
    """Pods that should have been adopted or released were not."""


class DeletionFailed(errors.WhipstaffError):
    """A pod too many is still there."""


class NoLabels(errors.WhipstaffError):
    """Pods without labels can't be told from others'."""


class ReplicaSetController:
    """Keeps the pods of every ReplicaSet at the number that it asks for.

    Args:
        api: writes with it.
        replicasets: all ReplicaSets, see `prune_replicaset`.
        pods: all pods, see `POD_INDEXERS` and `prune_pod`.
        recorder: tells the users of a ReplicaSet what was done.
        now: seconds since the epoch.

    Attributes:
        queue: the keys of ReplicaSets to look at.
    """

    def __init__(
        self,
        api: client.Client,
        replicasets: informer.Informer,
        pods: informer.Informer,
        recorder: events.Recorder,
        *,
        now: Callable[[], float] = time.time,
    ) -> None:
        self.queue: workqueue.WorkQueue[str] = workqueue.WorkQueue("replicaset")
        self._api = api
        self._replicasets = replicasets
        self._pods = pods
        self._recorder = recorder
        self._now = now
        self._own = own_writes.OwnWrites()
        self._trust = trust.Trust()
        # namespace -> key -> what the ReplicaSet selects; None where that can't be understood.
        self._selectors: dict[str, dict[str, selectors.Selector | None]] = {}

    def watch(self) -> None:
        """Have changes of ReplicaSets and pods queue the keys that they are about."""
        self._replicasets.add_handler(_ReplicaSetHandler(self))
        self._pods.add_handler(_PodHandler(self))

    async def sync(self, key: str) -> float | None:
        """Bring one ReplicaSet nearer to what it asks for; gives when to look at it again."""
        replicaset = self._replicasets.get(key)
        if replicaset is None:
            self._own.forget(key)
            self._trust.forget(key)
            return None
        if rivals.is_probe(replicaset):
            return None
        seen = {
            resources.PODS: self._pods.resource_version,
            resources.REPLICASETS: self._replicasets.resource_version,
        }
        if (stale := self._own.awaited(key, seen)) is not None:
            _stale_skips.labels(stale.group, stale.plural).inc()
            return RECHECK
        selector = self.selectors_in(objects.namespace(replicaset)).get(key)
        if selector is None:
            return None
        if self._own.is_doubted(key) and not await self._is_certain(key, replicaset, selector):
            return RECHECK
        return await self._reconcile(key, replicaset, selector)

    async def _reconcile(
        self, key: str, replicaset: Object, selector: selectors.Selector
    ) -> float | None:
        pods = self._candidates(replicaset)
        active = [pod for pod in pods if ranking.is_active(pod)]
        active = await self._claim(key, replicaset, claiming.claim(replicaset, active, selector))
        leaving = sum(1 for _ in reconciler.terminating(replicaset, pods, selector))
        related = self._related(replicaset)
        observed = reconciler.Observed(replicaset, active, related, self._now())
        failure: Exception | None = None
        gone: set[str] = set()
        try:
            await self._act(key, replicaset, reconciler.reconcile(observed), active, gone)
        except errors.WhipstaffError as error:
            failure = error
        now = self._now()
        text = "" if failure is None else _text(failure)
        # Nobody is to count on pods that were just deleted, as upstream has it for a moment.
        active = [pod for pod in active if objects.uid(pod) not in gone]
        new = status.calculate(replicaset, active, leaving, text, now)
        await self._write_status(key, replicaset, new)
        if failure is not None:
            raise failure
        if new["readyReplicas"] == new["availableReplicas"]:
            return None
        least = replicaset["spec"].get("minReadySeconds", 0)
        wait = status.next_check(active, least, now)
        return float(least) if wait is None else max(0.0, wait - (self._now() - now))

    # ---- reading -----------------------------------------------------------------------------

    def selectors_in(self, namespace: str) -> dict[str, selectors.Selector | None]:
        """What each ReplicaSet of a namespace selects, by its key."""
        return self._selectors.get(namespace, {})

    def learn(self, replicaset: Object) -> None:
        """Take down what a ReplicaSet selects."""
        key = objects.key(replicaset)
        try:
            selector = selectors.label_selector(replicaset["spec"].get("selector"))
        except ValueError as error:
            _log.error("a selector can't be understood", replicaset=key, error=str(error))
            selector = None
        self._selectors.setdefault(objects.namespace(replicaset), {})[key] = selector

    def unlearn(self, replicaset: Object) -> None:
        """A ReplicaSet is gone."""
        namespace = objects.namespace(replicaset)
        known = self._selectors.get(namespace, {})
        known.pop(objects.key(replicaset), None)
        if not known:
            self._selectors.pop(namespace, None)

    def resolve(self, namespace: str, owner: objects.OwnerReference | None) -> Object | None:
        """The ReplicaSet that a reference means; None if there is none, or only a namesake."""
        if owner is None or owner["kind"] != KIND:
            return None
        found = self._replicasets.get(f"{namespace}/{owner['name']}")
        return found if found is not None and objects.uid(found) == owner["uid"] else None

    async def _is_certain(self, key: str, replicaset: Object, selector: selectors.Selector) -> bool:
        """Whether the copy of a ReplicaSet's pods shows what became of writes without an answer."""
        found = await self._api.list(
            resources.PODS, objects.namespace(replicaset), label_selector=str(selector)
        )
        copied = self._pods.by_index(POD_INDEX, claiming.of_controller(replicaset, KIND))
        return self._own.compare(
            key,
            (pod for pod in copied if selector.matches(objects.labels(pod))),
            (pod for pod in found.items if objects.is_owned_by(pod, replicaset)),
        )

    def _candidates(self, replicaset: Object) -> list[Object]:
        """A ReplicaSet's pods, and all pods of its namespace that are nobody's."""
        return [
            *self._pods.by_index(POD_INDEX, claiming.of_controller(replicaset, KIND)),
            *self._pods.by_index(POD_INDEX, objects.namespace(replicaset)),
        ]

    def _related(self, replicaset: Object) -> Iterator[Object]:
        """The pods that the ReplicaSets of the same controller select; none without one.

        Theirs, and those that are nobody's; upstream also counts pods of strangers that they
        select, for which all pods would have to be looked through.
        """
        owner = objects.owner(replicaset)
        if owner is None:
            return
        namespace = objects.namespace(replicaset)
        siblings = [
            (other, selector)
            for key, selector in self.selectors_in(namespace).items()
            if selector is not None
            and (other := self._replicasets.get(key)) is not None
            and (others := objects.owner(other)) is not None
            and others["uid"] == owner["uid"]
        ]
        groups = [claiming.of_controller(other, KIND) for other, _ in siblings]
        for group in (*groups, namespace):
            for pod in self._pods.by_index(POD_INDEX, group):
                labels = pod["metadata"].get("labels")
                if any(selector.matches(labels) for _, selector in siblings):
                    yield pod

    # ---- writing -----------------------------------------------------------------------------

    async def _claim(self, key: str, replicaset: Object, claims: claiming.Claims) -> list[Object]:
        """Adopt and release pods; gives those that are the ReplicaSet's then."""
        if not claims.adopt and not claims.release:
            return claims.owned
        problems: list[str] = []
        released = (self._release(key, replicaset, pod) for pod in claims.release)
        problems += _problems(await asyncio.gather(*released, return_exceptions=True))
        adopted: list[bool | BaseException] = []
        if claims.adopt:
            await self._check_still_there(replicaset)
            wanted = (self._adopt(key, replicaset, pod) for pod in claims.adopt)
            adopted = await asyncio.gather(*wanted, return_exceptions=True)
            problems += _problems(adopted)
        if problems:
            raise AdoptionFailed("; ".join(problems))
        pairs = zip(claims.adopt, adopted, strict=True)
        return claims.owned + [pod for pod, took in pairs if took]

    async def _check_still_there(self, replicaset: Object) -> None:
        """Ask the API server itself whether a ReplicaSet may still adopt: our copy may be old.

        Raises:
            AdoptionFailed: it is gone, or going.
            errors.WhipstaffError: the API server doesn't say.
        """
        name, namespace = objects.name(replicaset), objects.namespace(replicaset)
        fresh = await self._api.get(resources.REPLICASETS, name, namespace)
        if objects.uid(fresh) != objects.uid(replicaset):
            raise AdoptionFailed(
                f"can't adopt pods: original ReplicaSet {namespace}/{name} is gone: "
                f"got uid {objects.uid(fresh)}, wanted {objects.uid(replicaset)}"
            )
        if objects.is_terminating(fresh):
            raise AdoptionFailed(
                f"can't adopt pods: {namespace}/{name} has just been deleted at "
                f"{fresh['metadata']['deletionTimestamp']}"
            )

    async def _adopt(self, key: str, replicaset: Object, pod: Object) -> bool:
        """Make a pod the ReplicaSet's; False if it is gone."""
        patch = claiming.adoption_patch(replicaset, pod, KIND, resources.REPLICASETS.api_version)
        try:
            await self._patch(key, pod, patch)
        except errors.NotFound:
            return False
        return True

    async def _release(self, key: str, replicaset: Object, pod: Object) -> None:
        """Let a pod go; one that is gone, or replaced, needs no letting go."""
        try:
            await self._patch(key, pod, claiming.release_patch(replicaset, pod))
        except (errors.NotFound, errors.Invalid):
            return

    async def _patch(self, key: str, pod: Object, patch: Object) -> None:
        changed = await self._api.patch(
            resources.PODS, objects.name(pod), patch, objects.namespace(pod), kind="strategic"
        )
        self._own.wrote(key, resources.PODS, objects.resource_version(changed))

    async def _act(
        self,
        key: str,
        replicaset: Object,
        actions: reconciler.Actions,
        active: Sequence[Object],
        gone: set[str],
    ) -> None:
        if actions.create:
            await self._create(key, replicaset, actions.create)
        if actions.delete:
            if len(actions.delete) < len(active):
                for ratio in ranking.age_ratios(active, actions.delete, self._now()):
                    _age_ratio.observe(ratio)
            await self._delete(key, replicaset, actions.delete, gone)

    async def _create(self, key: str, replicaset: Object, count: int) -> None:
        """Create pods, more at once each time that all went well."""
        namespace = objects.namespace(replicaset)
        body = reconciler.pod_of(replicaset)
        if not body["metadata"].get("labels"):
            raise NoLabels("unable to create pods, no labels")
        report = _Report(self._recorder, replicaset, _CREATION)

        async def create() -> None:
            try:
                pod = await self._api.create(resources.PODS, body, namespace, metadata_only=True)
            except errors.WhipstaffError as error:
                if errors.is_namespace_terminating(error):
                    return
                self._own.failed(key, error)
                report.failed(error)
                raise
            self._own.wrote(key, resources.PODS, objects.resource_version(pod))
            report.done(pod)

        _, problem = await slow_start(count, create, self._trust.first(key, namespace))
        self._trust.learn(key, namespace, count, failed=problem is not None)
        if problem is not None:
            raise problem

    async def _delete(
        self, key: str, replicaset: Object, pods: Sequence[Object], gone: set[str]
    ) -> None:
        """Delete pods, all at once; `gone` gets the UIDs of those that are."""
        report = _Report(self._recorder, replicaset, _DELETION)

        async def delete(pod: Object) -> None:
            name, namespace = objects.name(pod), objects.namespace(pod)
            try:
                last = await self._api.delete(resources.PODS, name, namespace)
            except errors.NotFound:
                gone.add(objects.uid(pod))
                return
            except errors.WhipstaffError as error:
                self._own.failed(key, error)
                report.failed(error)
                raise
            gone.add(objects.uid(pod))
            self._own.wrote(key, resources.PODS, objects.resource_version(last))
            report.done(pod)

        results = await asyncio.gather(*map(delete, pods), return_exceptions=True)
        problem = next((found for found in results if found is not None), None)
        if isinstance(problem, errors.WhipstaffError):
            raise DeletionFailed(f"unable to delete pods: {_text(problem)}") from problem
        if problem is not None:
            raise problem

    async def _write_status(self, key: str, replicaset: Object, new: Object) -> None:
        """Write a status that differs; one more try with the object as it is now."""
        if not status.differs(replicaset, new):
            return
        body = {**replicaset, "status": new}
        try:
            try:
                written = await self._put_status(body)
            except errors.WhipstaffError:
                name, namespace = objects.name(replicaset), objects.namespace(replicaset)
                fresh = await self._api.get(resources.REPLICASETS, name, namespace)
                if objects.uid(fresh) != objects.uid(replicaset):
                    return
                written = await self._put_status({**fresh, "status": new})
        except errors.NotFound:
            return
        self._own.wrote(key, resources.REPLICASETS, objects.resource_version(written))

    async def _put_status(self, body: Object) -> Object:
        return await self._api.update(resources.REPLICASETS, body, subresource="status")


async def slow_start(
    count: int, call: Callable[[], Awaitable[object]], first: int = 1
) -> tuple[int, BaseException | None]:
    """Call something `count` times: at first once, then twice as often at a time.

    Whatever would fail a thousand times fails once: after a failure no more is begun.

    Returns:
        How many calls succeeded, and the first failure.
    """
    successes = 0
    for size in reconciler.batches(count, first):
        results = await asyncio.gather(*(call() for _ in range(size)), return_exceptions=True)
        failures = [found for found in results if isinstance(found, BaseException)]
        successes += size - len(failures)
        if failures:
            return successes, failures[0]
    return successes, None


# ---- what wakes it -----------------------------------------------------------------------------


class _ReplicaSetHandler:
    """Queues every ReplicaSet that came, changed or went."""

    def __init__(self, controller: ReplicaSetController) -> None:
        self._controller = controller

    def on_add(self, replicaset: Object) -> None:
        self._controller.learn(replicaset)
        self._controller.queue.add(objects.key(replicaset))

    def on_update(self, old: Object, new: Object) -> None:
        if old["spec"].get("selector") != new["spec"].get("selector"):
            self._controller.learn(new)
        self._controller.queue.add(objects.key(new))

    def on_delete(self, replicaset: Object) -> None:
        self._controller.unlearn(replicaset)
        self._controller.queue.add(objects.key(replicaset))


class _PodHandler:
    """Queues the ReplicaSets to which a change of a pod makes a difference."""

    def __init__(self, controller: ReplicaSetController) -> None:
        self._controller = controller
        self._queue = controller.queue

    def on_add(self, pod: Object) -> None:
        if objects.owner(pod) is not None or objects.is_terminating(pod):
            self._owner_of(pod)
        else:
            self._those_who_want(pod)

    def on_update(self, old: Object, new: Object) -> None:
        if old == new:
            return
        before, after = objects.owner(old), objects.owner(new)
        if before is not None and before != after:
            self._owner_of(old)
        if after is not None or objects.is_terminating(new):
            self._owner_of(new, became_ready=ranking.is_ready(new) and not ranking.is_ready(old))
        elif before != after or objects.labels(old) != objects.labels(new):
            self._those_who_want(new)

    def on_delete(self, pod: Object) -> None:
        self._owner_of(pod)

    def _owner_of(self, pod: Object, *, became_ready: bool = False) -> None:
        owner = self._controller.resolve(objects.namespace(pod), objects.owner(pod))
        if owner is None:
            return
        key = objects.key(owner)
        self._queue.add(key)
        if became_ready and (least := owner["spec"].get("minReadySeconds", 0)) > 0:
            self._queue.add_after(key, least)

    def _those_who_want(self, orphan: Object) -> None:
        labels = objects.labels(orphan)
        if not labels:
            return
        for key, selector in self._controller.selectors_in(objects.namespace(orphan)).items():
            if selector is not None and selector.matches(labels):
                self._queue.add(key)


# ---- what it tells -----------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class _Deed:
    """The words of the events about something that is done to pods."""

    action: str
    done: str
    done_note: str
    failed: str
    failed_note: str


_CREATION = _Deed("Creating", "SuccessfulCreate", "Created pod:", "FailedCreate", "Error creating:")
_DELETION = _Deed("Deleting", "SuccessfulDelete", "Deleted pod:", "FailedDelete", "Error deleting:")


class _Report:
    """The events about the pods that one pass creates or deletes."""

    def __init__(self, recorder: events.Recorder, replicaset: Object, deed: _Deed) -> None:
        self._recorder = recorder
        # Without its version, so that the same thing at another time counts as the same.
        reference = objects.reference(replicaset)
        reference.pop("resourceVersion", None)
        self._replicaset = reference
        self._deed = deed
        self._told = 0

    def done(self, pod: Object) -> None:
        self._told += 1
        note = f"{self._deed.done_note} {objects.name(pod)}"
        related: objects.ObjectReference | None = None
        if self._told <= TOLD_SINGLY:
            related = {
                "apiVersion": "v1",
                "kind": "Pod",
                "name": objects.name(pod),
                "namespace": objects.namespace(pod),
                "uid": objects.uid(pod),
            }
        else:
            note = f"(combined from similar events): {note}"
        deed = self._deed
        self._recorder.event(self._replicaset, "Normal", deed.done, deed.action, note, related)

    def failed(self, error: errors.WhipstaffError) -> None:
        deed, note = self._deed, f"{self._deed.failed_note} {_text(error)}"
        self._recorder.event(self._replicaset, "Warning", deed.failed, deed.action, note)


def _text(error: BaseException) -> str:
    """What the API server said, in its own words: users and tools know them."""
    return (error.message if isinstance(error, errors.ApiError) else "") or str(error)


def _problems(results: Sequence[object]) -> list[str]:
    return [_text(found) for found in results if isinstance(found, BaseException)]
