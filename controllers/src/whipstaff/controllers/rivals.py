"""Whether the stock controllers are at work on the same objects, found out by giving them some.

Two controllers on one object make twice the pods and undo one another. kube-controller-manager
doesn't say anywhere which of its controllers run; its Lease says that one of its processes leads.
So at the start, and whenever that Lease has a new holder, a paused Deployment and a ReplicaSet of
no pods are made, named `PROBE`; who answers for them (``status.observedGeneration``) works. Ours
leave them alone.

Left out: a kube-controller-manager without a Lease (``--leader-elect=false``) that starts later.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Sequence
from typing import Any, TypeAlias

from whipstaff.runtime import client, errors, leases, logs, objects, preflight, resources

Object: TypeAlias = dict[str, Any]

PROBE = "whipstaff-controllers-probe"
NAMESPACE = "kube-system"
HOLDER = "kube-controller-manager"
"""The name of the stock controllers' Lease."""
PATIENCE = 3.0
"""Seconds that a holder of the Lease has to answer: it does in milliseconds, when not busy."""
HASTE = 1.0
"""Seconds that somebody without the Lease has to answer."""
PERIOD = 10.0
"""Seconds between two looks at the Lease."""
_POLL = 0.1
_DURATION = 15

_KINDS = {"deployment": resources.DEPLOYMENTS, "replicaset": resources.REPLICASETS}

_log = logs.get("controllers")


class RivalFound(errors.StartupError):
    """A stock controller works on the objects that ours would work on."""


def is_probe(obj: Object) -> bool:
    """Whether an object is one that nobody should answer for."""
    return objects.name(obj) == PROBE and objects.namespace(obj) == NAMESPACE


def access(controllers: Sequence[str]) -> list[preflight.Access]:
    """The rights that looking for the stock controllers takes."""
    kinds = [_KINDS[name] for name in controllers]
    return [
        preflight.Access("get", resources.LEASES, namespace=NAMESPACE, name=HOLDER),
        *(preflight.Access("create", kind, namespace=NAMESPACE) for kind in kinds),
        *(preflight.Access("delete", kind, namespace=NAMESPACE, name=PROBE) for kind in kinds),
    ]


class Lookout:
    """Looks for the stock controllers of some names, as often as their Lease changes hands.

    Args:
        api: reads the Lease; makes, reads and deletes the probes.
        controllers: of ``deployment`` and ``replicaset``, those to look for.
    """

    def __init__(self, api: client.Client, controllers: Sequence[str]) -> None:
        self._api = api
        self._controllers = controllers
        self._cleared: str | None = None

    async def look(self) -> None:
        """Come back when nobody else does our work.

        Raises:
            RivalFound: somebody does.
        """
        holder = await self._holder()
        if holder == self._cleared:
            return
        patience = PATIENCE if holder else HASTE
        kinds = {name: _KINDS[name] for name in self._controllers}
        answers = await asyncio.gather(*(self._answers(k, patience) for k in kinds.values()))
        if active := [name for name, answered in zip(kinds, answers, strict=True) if answered]:
            leads = f", and {holder} holds Lease {NAMESPACE}/{HOLDER}" if holder else ""
            off = ",".join(f"-{name}-controller" for name in active)
            raise RivalFound(
                f"the stock controllers are active: somebody answers for {' and '.join(active)} "
                f"{PROBE}{leads}. Start kube-controller-manager with --controllers=*,{off}, "
                "or run beside it without writing: whipstaff controllers --shadow"
            )
        self._cleared = holder

    async def keep_looking(self) -> None:
        """Until cancelled. Raises `RivalFound`."""
        while True:
            await asyncio.sleep(PERIOD)
            try:
                await self.look()
            except (errors.ApiError, errors.Unreachable) as error:
                _log.warning("can't look for the stock controllers", error=str(error))

    async def _holder(self) -> str:
        """Who holds the stock controllers' Lease; "" where nobody does."""
        try:
            lease = await self._api.get(resources.LEASES, HOLDER, NAMESPACE)
        except errors.NotFound:
            return ""
        record = leases.Record.read(lease)
        if not record.holder or not record.renewed:
            return ""
        age = time.time() - objects.parse_time(record.renewed)
        return "" if age > (record.duration or _DURATION) else record.holder

    async def _answers(self, kind: resources.Resource, patience: float) -> bool:
        """Whether somebody answers for a probe of this kind."""
        try:
            await self._remove(kind)
            await self._api.create(kind, _probe(kind), NAMESPACE)
            for _ in range(round(patience / _POLL)):
                await asyncio.sleep(_POLL)
                found = await self._api.get(kind, PROBE, NAMESPACE)
                if (found.get("status") or {}).get("observedGeneration"):
                    return True
            return False
        finally:
            await self._remove(kind)

    async def _remove(self, kind: resources.Resource) -> None:
        try:
            await self._api.delete(kind, PROBE, NAMESPACE)
        except errors.NotFound:
            return


def _probe(kind: resources.Resource) -> Object:
    labels = {"app.kubernetes.io/name": PROBE}
    container = {"name": "none", "image": "none"}
    spec: Object = {
        "replicas": 0,
        "selector": {"matchLabels": labels},
        "template": {"metadata": {"labels": labels}, "spec": {"containers": [container]}},
    }
    if kind is resources.DEPLOYMENTS:
        spec["paused"] = True
    return {
        "apiVersion": kind.api_version,
        "kind": kind.kind,
        "metadata": {"name": PROBE, "namespace": NAMESPACE, "labels": labels},
        "spec": spec,
    }
