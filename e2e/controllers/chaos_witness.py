"""Whoever watches Deployments, ReplicaSets and pods at the API server, and judges afterwards.

`Witness` notes every change with its resourceVersion, which orders them all as they happened;
`Judge` goes through them in that order. What a controller did is measured by the specifications
that it can have known: those from the last one on that it has reported as observed. Nothing is
judged where the witness itself missed changes, because its watch couldn't be resumed.

The rules:

- a ReplicaSet creates no pod beyond its size, and deletes none below it;
- the ReplicaSets of a Deployment aren't scaled up beyond its size and surge together;
- no available pod is deleted below the size without the unavailable ones allowed, but for those
  that users delete;
- under Recreate no pod is created beside those of a ReplicaSet that was scaled to nothing.
"""

from __future__ import annotations

import asyncio
import collections
import contextlib
import dataclasses
import json
import math
import pathlib
import time
from collections.abc import AsyncIterator, Iterable
from typing import Any, TypeAlias

from whipstaff.runtime import client, errors, objects, resources

Object: TypeAlias = dict[str, Any]

UNKNOWN = 4.0
"""Seconds after which a pod that became ready has to be known as such: watches hang for less."""
KINDS = (resources.DEPLOYMENTS, resources.REPLICASETS, resources.PODS)


@dataclasses.dataclass(frozen=True, slots=True)
class Change:
    """One change.

    Attributes:
        version: its resourceVersion.
        resource: of what.
        object: after it; for a deletion as it was last.
        deleted: whether it was a deletion.
        at: when it was heard of, in seconds since the epoch.
    """

    version: int
    resource: resources.Resource
    object: Object
    deleted: bool
    at: float


class Witness:
    """Follows a namespace.

    Attributes:
        changes: everything that was seen, in no order.
        gaps: from and to which resourceVersion changes may have been missed.
        deleted_by_users: the UIDs of pods that users have deleted.
    """

    def __init__(self, api: client.Client, namespace: str) -> None:
        self.changes: list[Change] = []
        self.gaps: list[tuple[int, int]] = []
        self.deleted_by_users: set[str] = set()
        self._api = api
        self._namespace = namespace
        self._known: dict[resources.Resource, dict[str, Object]] = {kind: {} for kind in KINDS}

    @contextlib.asynccontextmanager
    async def watching(self) -> AsyncIterator[Witness]:
        """Following, as long as it lasts."""
        versions = [await self._list(kind) for kind in KINDS]
        async with asyncio.TaskGroup() as group:
            tasks = [
                group.create_task(self._follow(kind, version))
                for kind, version in zip(KINDS, versions, strict=True)
            ]
            yield self
            await asyncio.sleep(1)
            for task in tasks:
                task.cancel()

    async def _follow(self, kind: resources.Resource, version: str) -> None:
        while True:
            try:
                watch = self._api.watch(kind, self._namespace, resource_version=version)
                async with contextlib.aclosing(watch):
                    async for event in watch:
                        version = event.object["metadata"]["resourceVersion"]
                        if event.type != "BOOKMARK":
                            self._see(kind, event.object, deleted=event.type == "DELETED")
            except errors.Expired:
                before = int(version)
                version = await self._list(kind)
                self.gaps.append((before, int(version)))
            except (errors.Unreachable, errors.ApiError):
                await asyncio.sleep(0.05)

    async def _list(self, kind: resources.Resource) -> str:
        while True:
            try:
                listed = await self._api.list(kind, self._namespace)
            except (errors.Unreachable, errors.ApiError):
                await asyncio.sleep(0.05)
            else:
                break
        gone = dict(self._known[kind])
        for item in listed.items:
            old = gone.pop(objects.uid(item), None)
            if old is None or objects.resource_version(old) != objects.resource_version(item):
                self._see(kind, item, deleted=False)
        for item in gone.values():
            metadata = {**item["metadata"], "resourceVersion": listed.resource_version}
            self._see(kind, {**item, "metadata": metadata}, deleted=True)
        return listed.resource_version

    def _see(self, kind: resources.Resource, obj: Object, *, deleted: bool) -> None:
        obj["metadata"].pop("managedFields", None)
        known = self._known[kind]
        if deleted:
            known.pop(objects.uid(obj), None)
        else:
            known[objects.uid(obj)] = obj
        version = int(objects.resource_version(obj))
        self.changes.append(Change(version, kind, obj, deleted, time.time()))

    def write(self, file: pathlib.Path) -> None:
        """Keep everything, for whoever looks for the cause."""
        lines = (
            json.dumps([each.version, each.resource.kind, each.deleted, each.at, each.object])
            for each in sorted(self.changes, key=lambda each: each.version)
        )
        users = json.dumps(sorted(self.deleted_by_users))
        file.write_text("\n".join((users, json.dumps(self.gaps), *lines)))


@dataclasses.dataclass(slots=True)
class _Specs:
    """The specifications of one object that its controller may still go by.

    Attributes:
        recent: generation and object, from the one on that was observed last.
        unsettled: the objects since everything was as asked for.
        debt: pods that users have deleted since then.
        adopted: whether something that was somebody else's came since then.
    """

    recent: list[tuple[int, Object]] = dataclasses.field(default_factory=list)
    unsettled: list[Object] = dataclasses.field(default_factory=list)
    debt: int = 0
    adopted: bool = False

    def learn(self, obj: Object) -> None:
        generation = obj["metadata"]["generation"]
        if not self.recent or self.recent[-1][0] != generation:
            self.recent.append((generation, obj))
            self.unsettled.append(obj)
        observed = (obj.get("status") or {}).get("observedGeneration", 0)
        while len(self.recent) > 1 and self.recent[1][0] <= observed:
            del self.recent[0]

    def settle(self, obj: Object) -> None:
        self.unsettled, self.debt, self.adopted = [obj], 0, False


class Judge:
    """Goes through the changes in their order.

    Attributes:
        complaints: what broke a rule, a line each.
        judged: how many acts of the controllers were measured.
        overlap: the most pods beyond size and surge that a Deployment had while a ReplicaSet was
            yet to delete some: pods are created by one and deleted by another, neither waits.
    """

    def __init__(self, witness: Witness) -> None:
        self.complaints: list[str] = []
        self.judged = 0
        self.overlap = 0
        self._witness = witness
        self._live: dict[resources.Resource, dict[str, Object]] = {kind: {} for kind in KINDS}
        self._specs: dict[str, _Specs] = collections.defaultdict(_Specs)
        self._change: Change | None = None

    def judge(self) -> None:
        """Judge everything."""
        for change in sorted(self._witness.changes, key=lambda each: each.version):
            self._change = change
            in_gap = any(start < change.version <= end for start, end in self._witness.gaps)
            live = self._live[change.resource]
            uid = objects.uid(change.object)
            old = live.get(uid)
            if change.deleted:
                live.pop(uid, None)
            else:
                live[uid] = change.object
            if change.resource is resources.PODS:
                self._pod(old, change, judged=not in_gap)
            elif not change.deleted:
                self._specs[uid].learn(change.object)
                if change.resource is resources.REPLICASETS and not in_gap:
                    self._replicaset(old, change.object)
            self._settle(change.object)

    # ---- what there is -----------------------------------------------------------------------

    def _children(self, kind: resources.Resource, owner: Object) -> list[Object]:
        return [each for each in self._live[kind].values() if objects.is_owned_by(each, owner)]

    def _active(self, replicaset: Object) -> list[Object]:
        return [
            pod
            for pod in self._children(resources.PODS, replicaset)
            if not objects.is_terminating(pod) and not objects.is_finished(pod)
        ]

    def _owner(self, kind: resources.Resource, obj: Object) -> Object | None:
        reference = objects.owner(obj)
        return self._live[kind].get(reference["uid"]) if reference else None

    def _is_available(self, pod: Object, least: int) -> bool:
        ready = objects.condition(pod, "Ready")
        assert self._change is not None
        return (
            ready is not None
            and ready["status"] == "True"
            and objects.parse_time(ready["lastTransitionTime"]) + least <= self._change.at
        )

    # ---- rules -------------------------------------------------------------------------------

    def _replicaset(self, old: Object | None, new: Object) -> None:
        """A ReplicaSet was made or changed."""
        before = _size(old) if old is not None else 0
        deployment = self._owner(resources.DEPLOYMENTS, new)
        if deployment is None or objects.is_terminating(deployment):
            return
        specs = self._specs[objects.uid(deployment)]
        if old is not None and objects.owner(old) is None:
            specs.adopted = True
        if _size(new) == before:
            return
        self.judged += 1
        siblings = self._children(resources.REPLICASETS, deployment)
        if _size(new) < before:
            # Scaled with the Deployment, all shrink in proportion: available pods or not.
            if specs.adopted or _noted(old) != _noted(new):
                return
            self._shrunk(new, before, siblings, specs)
            return
        if specs.adopted:
            # Those that come with the note of another size grow in its proportion, as upstream.
            return
        bound = max(_most(each) for _, each in specs.recent)
        if (total := _total(siblings)) > bound:
            sizes = _sizes(siblings)
            self._complain(new, f"scaled from {before}: {sizes} are {total}, {bound} are allowed")

    def _shrunk(self, new: Object, before: int, siblings: list[Object], specs: _Specs) -> None:
        """A ReplicaSet was scaled down."""
        # What the ReplicaSet doesn't report as available isn't known to be.
        reported = (new.get("status") or {}).get("availableReplicas", 0)
        lost = min(before, reported) - min(_size(new), reported)
        staying = self._staying(siblings)
        least = min(_least(each) for _, each in specs.recent)
        if lost > 0 and staying + specs.debt < least:
            text = f"scaled from {before}: {staying} available stay, {least} have to be"
            self._complain(new, text)

    def _available(self, replicaset: Object) -> int:
        least = replicaset["spec"].get("minReadySeconds", 0)
        return sum(self._is_available(pod, least) for pod in self._active(replicaset))

    def _staying(self, siblings: Iterable[Object]) -> int:
        """How many available pods the ReplicaSets of a Deployment won't delete."""
        return sum(min(_size(each), self._available(each)) for each in siblings)

    def _pod(self, old: Object | None, change: Change, *, judged: bool) -> None:
        pod = change.object
        replicaset = self._owner(resources.REPLICASETS, pod)
        if replicaset is None:
            return
        leaves = change.deleted or objects.is_terminating(pod) or objects.is_finished(pod)
        stayed = old is not None and not objects.is_terminating(old)
        if old is None and not leaves and judged:
            self._created(replicaset, pod)
        elif stayed and leaves and not objects.is_finished(old or {}):
            self._left(replicaset, pod, old or {}, judged=judged)

    def _created(self, replicaset: Object, pod: Object) -> None:
        self.judged += 1
        specs = self._specs[objects.uid(replicaset)]
        bound = max(_size(each) for _, each in specs.recent)
        if (count := len(self._active(replicaset))) > bound:
            self._complain(pod, f"created: its ReplicaSet has {count}, {bound} are allowed")
        deployment = self._owner(resources.DEPLOYMENTS, replicaset)
        if deployment is None:
            return
        siblings = self._children(resources.REPLICASETS, deployment)
        specs = self._specs[objects.uid(deployment)]
        if specs.adopted:
            return
        recent = specs.unsettled
        most = max(map(_most, recent))
        self.overlap = max(self.overlap, sum(len(self._active(s)) for s in siblings) - most)
        staying = sum(min(len(self._active(s)), _size(s)) for s in siblings)
        if staying > most:
            self._complain(pod, f"created: {staying} are to stay, {most} are allowed")
        if not any(map(_is_rolling, recent)):
            others = [each for each in siblings if each is not replicaset]
            self._created_anew(pod, others)

    def _created_anew(self, pod: Object, others: Iterable[Object]) -> None:
        """Under Recreate."""
        for each in others:
            left = [p for p in self._children(resources.PODS, each) if not objects.is_finished(p)]
            seen = (each.get("status") or {}).get("observedGeneration", 0)
            emptied = not _size(each) and seen == each["metadata"]["generation"]
            if left and emptied:
                self._complain(pod, f"created beside {len(left)} of {objects.name(each)}")

    def _left(self, replicaset: Object, pod: Object, before: Object, *, judged: bool) -> None:
        specs = self._specs[objects.uid(replicaset)]
        deployment = self._owner(resources.DEPLOYMENTS, replicaset)
        whole = self._specs[objects.uid(deployment)] if deployment is not None else _Specs()
        if objects.uid(pod) in self._witness.deleted_by_users:
            specs.debt += 1
            whole.debt += 1
            return
        if not judged or objects.is_terminating(replicaset):
            return
        self.judged += 1
        least = min(_size(each) for _, each in specs.recent)
        if (count := len(self._active(replicaset))) + specs.debt < least:
            self._complain(pod, f"deleted: its ReplicaSet has {count}, and should have {least}")
        if deployment is None or objects.is_terminating(deployment):
            return
        seconds = replicaset["spec"].get("minReadySeconds", 0)
        if self._available(replicaset) >= _size(replicaset) or not self._is_available(
            before, seconds + UNKNOWN
        ):
            return
        staying = self._staying(self._children(resources.REPLICASETS, deployment))
        least = min(map(_least, whole.unsettled))
        if staying + whole.debt < least:
            self._complain(pod, f"deleted: {staying} available stay, {least} have to be")

    def _settle(self, changed: Object) -> None:
        """Forget what was asked for earlier, where all is as it is asked for now."""
        for replicaset in (changed, self._owner(resources.REPLICASETS, changed)):
            if replicaset is None or objects.uid(replicaset) not in self._live[KINDS[1]]:
                continue
            if _is_settled(replicaset, self._active(replicaset)):
                self._specs[objects.uid(replicaset)].settle(replicaset)
            deployment = self._owner(resources.DEPLOYMENTS, replicaset)
            if deployment is not None and self._is_settled(deployment):
                self._specs[objects.uid(deployment)].settle(deployment)

    def _is_settled(self, deployment: Object) -> bool:
        siblings = self._children(resources.REPLICASETS, deployment)
        wanted = _size(deployment)
        observed = (deployment.get("status") or {}).get("observedGeneration")
        return (
            observed == deployment["metadata"]["generation"]
            and _total(siblings) == wanted
            and all(_is_settled(each, self._active(each)) for each in siblings)
        )

    def _complain(self, obj: Object, text: str) -> None:
        assert self._change is not None
        kind = self._change.resource.kind
        self.complaints.append(f"{self._change.version} {kind} {objects.name(obj)} {text}")


def _is_settled(replicaset: Object, active: list[Object]) -> bool:
    found = replicaset.get("status") or {}
    return (
        found.get("observedGeneration") == replicaset["metadata"]["generation"]
        and found.get("replicas", 0) == len(active)
        and len(active) == _size(replicaset)
        and all(objects.is_true(pod, "Ready") for pod in active)
    )


def _size(obj: Object) -> int:
    return int(obj["spec"]["replicas"])


def _total(replicasets: Iterable[Object]) -> int:
    return sum(map(_size, replicasets))


def _noted(replicaset: Object | None) -> str | None:
    """The size of the Deployment, as it was when a ReplicaSet was scaled last."""
    noted = "deployment.kubernetes.io/desired-replicas"
    return objects.annotations(replicaset).get(noted) if replicaset is not None else None


def _is_rolling(deployment: Object) -> bool:
    return bool(deployment["spec"]["strategy"]["type"] == "RollingUpdate")


def _most(deployment: Object) -> int:
    """How many pods a Deployment may have."""
    return _size(deployment) + (_fenceposts(deployment)[0] if _is_rolling(deployment) else 0)


def _least(deployment: Object) -> int:
    """How many available pods a Deployment has to keep."""
    if not _is_rolling(deployment):
        return 0
    return _size(deployment) - min(_fenceposts(deployment)[1], _size(deployment))


def _fenceposts(deployment: Object) -> tuple[int, int]:
    """The maxSurge and maxUnavailable of a Deployment, in pods."""
    rolling = deployment["spec"]["strategy"]["rollingUpdate"]
    surge, unavailable = (
        int(value.rstrip("%")) * _size(deployment) / 100 if isinstance(value, str) else value
        for value in (rolling["maxSurge"], rolling["maxUnavailable"])
    )
    return (math.ceil(surge), math.floor(unavailable)) if surge or unavailable >= 1 else (0, 1)


def _sizes(replicasets: Iterable[Object]) -> dict[str, int]:
    return {objects.name(each): _size(each) for each in replicasets}
