"""A cluster put up on an API server, set right again after a pod, and taken down.

`Stage` writes what the generator made. There is no other controller, so the state that counts as
identical for both schedulers is exactly what is written here.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Awaitable, Iterable
from typing import Any, TypeAlias

from e2e.scheduling import generator
from whipstaff.runtime import client, errors, objects, resources
from whipstaff.scheduler import storage_objects, storage_testing

Object: TypeAlias = dict[str, Any]

_AT_ONCE = 10
_CLEARED = (
    resources.PODS,
    resources.PERSISTENTVOLUMECLAIMS,
    resources.PERSISTENTVOLUMES,
    resources.CSINODES,
    resources.PODDISRUPTIONBUDGETS,
    resources.REPLICASETS,
    resources.NODES,
)


async def prepare(api: client.Client) -> None:
    """What all rounds have: priorities, namespaces, storage classes, a runtime class."""
    for name, value in generator.PRIORITIES.items():
        policy = "Never" if name == "never" else "PreemptLowerPriority"
        body = {"metadata": {"name": name}, "value": value, "preemptionPolicy": policy}
        await api.create(resources.PRIORITYCLASSES, body)
    for name, labels in generator.NAMESPACES.items():
        if name == "default":
            continue
        await api.create(resources.NAMESPACES, {"metadata": {"name": name, "labels": labels}})
    for name, (provisioner, mode, zone) in generator.CLASSES.items():
        made = storage_testing.storage_class(
            name, provisioner=provisioner, mode=mode, zones=[zone] if zone else []
        )
        await api.create(resources.STORAGECLASSES, made)
    driver = {"metadata": {"name": generator.DRIVER}, "spec": {"storageCapacity": True}}
    await api.create(resources.CSIDRIVERS, driver)
    capacity: Object = {"metadata": {"name": "little", "namespace": "default"}, "nodeTopology": {}}
    capacity |= {"storageClassName": "full", "capacity": "1Mi"}
    await api.create(resources.CSISTORAGECAPACITIES, capacity)
    overhead = {"podFixed": {"cpu": "300m", "memory": "200Mi"}}
    body = {"metadata": {"name": generator.OVERHEAD}, "handler": "x", "overhead": overhead}
    await api.create(resources.RUNTIMECLASSES, body)


class Stage:
    """The cluster of one round."""

    def __init__(self, api: client.Client, state: generator.State) -> None:
        self.api = api
        self.state = state
        self.pods: dict[str, Object] = {}  # as generated, by key

    async def build(self) -> None:
        """Write everything. A generated pod that the API server refuses is left out."""
        await _all(self._node(raw) for raw in self.state.nodes)
        claims, volumes = resources.PERSISTENTVOLUMECLAIMS, resources.PERSISTENTVOLUMES
        others = self.state.others
        await _all(self._claim(raw) for kind, raw in others if kind is claims)
        await _all(self._volume(raw) for kind, raw in others if kind is volumes)
        await _all(self._other(*each) for each in others if each[0] not in {claims, volumes})
        await _all(self._pod(raw) for raw in self.state.pods)

    async def _node(self, raw: Object) -> None:
        created = await self.api.create(resources.NODES, raw)
        created["status"] = raw["status"]
        await self.api.update(resources.NODES, created, subresource="status")

    async def _other(self, kind: resources.Resource, raw: Object) -> None:
        await self.api.create(kind, _fresh(raw))
        if "status" in raw:
            await self._status(kind, raw)

    async def _status(self, kind: resources.Resource, raw: Object) -> None:
        await self.api.patch(
            kind,
            objects.name(raw),
            {"status": raw["status"]},
            objects.namespace(raw) or None,
            subresource="status",
        )

    async def _pod(self, raw: Object) -> None:
        with contextlib.suppress(errors.Invalid):
            await patiently(self.api, raw)
            self.pods[objects.key(raw)] = raw
            await self._status(resources.PODS, raw)

    async def _claim(self, raw: Object) -> None:
        await self.api.create(resources.PERSISTENTVOLUMECLAIMS, _fresh(raw))
        await self._status(resources.PERSISTENTVOLUMECLAIMS, raw)

    async def _volume(self, raw: Object) -> None:
        body, phase = _fresh(raw), "Available"
        if claim := body["spec"].get("claimRef"):
            found = await self.api.get(
                resources.PERSISTENTVOLUMECLAIMS, claim["name"], claim["namespace"]
            )
            body["spec"]["claimRef"] = claim | {"uid": objects.uid(found)}
            phase = "Bound"
        await self.api.create(resources.PERSISTENTVOLUMES, body)
        await self._status(resources.PERSISTENTVOLUMES, {**raw, "status": {"phase": phase}})

    async def terminating(self) -> frozenset[str]:
        """The keys of the pods on their way out."""
        listed = await self.api.list(resources.PODS)
        return frozenset(objects.key(raw) for raw in listed if objects.is_terminating(raw))

    async def mend(self, victims: Iterable[str]) -> None:
        """Put pods back that were evicted."""
        for key in victims:
            namespace, _, name = key.partition("/")
            await self.api.delete(resources.PODS, name, namespace, grace_period_seconds=0)
            await self._pod(self.pods[key])

    async def release(self) -> None:
        """Take claims and volumes back from a scheduler that has promised them to its pod."""
        for raw in await self.api.list(resources.PERSISTENTVOLUMECLAIMS):
            if storage_objects.SELECTED_NODE in objects.annotations(raw):
                gone = {storage_objects.SELECTED_NODE: None}
                await self.api.patch(
                    resources.PERSISTENTVOLUMECLAIMS,
                    objects.name(raw),
                    {"metadata": {"annotations": gone}},
                    objects.namespace(raw),
                )
        for raw in await self.api.list(resources.PERSISTENTVOLUMES):
            if raw["spec"]["storageClassName"] == "waiting" and raw["spec"].get("claimRef"):
                body = {"spec": {"claimRef": None}, "metadata": {"annotations": None}}
                await self.api.patch(resources.PERSISTENTVOLUMES, objects.name(raw), body)

    async def clear(self) -> None:
        """Remove everything that belongs to the round."""
        with contextlib.suppress(errors.NotFound):
            await self.api.delete(resources.SERVICES, "owner", "default")
        for kind in _CLEARED:
            await _all(self._remove(kind, raw) for raw in await self.api.list(kind))

    async def _remove(self, kind: resources.Resource, raw: Object) -> None:
        name, namespace = objects.name(raw), objects.namespace(raw) or None
        grace = 0 if kind is resources.PODS else None
        with contextlib.suppress(errors.NotFound):
            if raw["metadata"].get("finalizers"):
                await self.api.patch(kind, name, {"metadata": {"finalizers": None}}, namespace)
            await self.api.delete(kind, name, namespace, grace_period_seconds=grace)


def _fresh(raw: Object) -> Object:
    """The object without what only the API server gives."""
    given = {k: v for k, v in raw["metadata"].items() if k not in {"uid", "resourceVersion"}}
    return {**raw, "metadata": given}


async def patiently(api: client.Client, raw: Object) -> Object:
    """The pod, created. Admission learns of a priority class a moment after it was made."""
    for _ in range(50):
        with contextlib.suppress(errors.Forbidden):
            return await api.create(resources.PODS, _fresh(raw))
        await asyncio.sleep(0.1)
    return await api.create(resources.PODS, _fresh(raw))


async def _all(work: Iterable[Awaitable[None]]) -> None:
    limit = asyncio.Semaphore(_AT_ONCE)

    async def one(each: Awaitable[None]) -> None:
        async with limit:
            await each

    await asyncio.gather(*(one(each) for each in work))
