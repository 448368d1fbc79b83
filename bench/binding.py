"""Binds every pod to the next node and decides nothing: how much the API server takes.

    python -m bench.binding KUBECONFIG

Reads the nodes once and watches pods, with many bindings in flight, as a scheduler whose decisions
cost nothing. For a pod with a priority it first evicts three pods of the node, with the writes that
kube-scheduler makes for that. Writes no events.
"""

from __future__ import annotations

import asyncio
import collections
import contextlib
import itertools
import sys

import uvloop

from bench import machine
from whipstaff.runtime import client, config, errors, objects, resources

IN_FLIGHT = 192
VICTIMS = 3
"""How many low-priority pods make way for a high-priority one of `templates`."""


class Binding:
    """Binds pods to the nodes in turn."""

    def __init__(self, api: client.Client, nodes: list[str]) -> None:
        self._api = api
        self._turn = itertools.cycle(nodes)
        self._there: dict[str, list[client.Object]] = collections.defaultdict(list)

    async def place(self, pod: client.Object) -> None:
        """Bind one pod; one that is gone or bound by now needs nothing."""
        node = next(self._turn)
        with contextlib.suppress(errors.NotFound, errors.Conflict):
            if pod["spec"].get("priority"):
                await self._make_room(pod, node)
            metadata = pod["metadata"]
            body = {
                "metadata": {"name": metadata["name"], "uid": metadata["uid"]},
                "target": {"kind": "Node", "name": node},
            }
            name, namespace = metadata["name"], metadata["namespace"]
            await self._api.create(
                resources.PODS, body, namespace, name=name, subresource="binding"
            )
            if not pod["spec"].get("priority"):
                self._there[node].append(pod)

    async def _make_room(self, pod: client.Object, node: str) -> None:
        victims = [self._there[node].pop() for _ in range(min(VICTIMS, len(self._there[node])))]
        if not victims:
            return
        unschedulable = {
            "type": "PodScheduled",
            "status": "False",
            "reason": "Unschedulable",
            "message": "0 nodes are available: Insufficient cpu.",
        }
        await self._patch(pod, {"nominatedNodeName": node, "conditions": [unschedulable]})
        for victim in victims:
            disrupted = {
                "type": "DisruptionTarget",
                "status": "True",
                "reason": "PreemptionByScheduler",
            }
            await self._patch(victim, {"conditions": [disrupted]})
            metadata = victim["metadata"]
            await self._api.delete(
                resources.PODS, metadata["name"], metadata["namespace"], uid=metadata["uid"]
            )

    async def _patch(self, pod: client.Object, status: client.Object) -> None:
        metadata = pod["metadata"]
        await self._api.patch(
            resources.PODS,
            metadata["name"],
            {"status": status},
            metadata["namespace"],
            kind="strategic",
            subresource="status",
        )


async def main(kubeconfig: str) -> None:
    """Bind until ended."""
    async with client.Client(config.load(kubeconfig), max_connections=IN_FLIGHT) as api:
        nodes = [node["metadata"]["name"] for node in await api.list(resources.NODES)]
        binding = Binding(api, nodes)
        started: set[str] = set()
        waiting: asyncio.Queue[client.Object] = asyncio.Queue()

        async def work() -> None:
            while True:
                await binding.place(await waiting.get())

        def start(pod: client.Object) -> None:
            if (uid := objects.uid(pod)) not in started:
                started.add(uid)
                waiting.put_nowait(pod)

        async with asyncio.TaskGroup() as group:
            for _ in range(IN_FLIGHT):
                group.create_task(work())
            while True:
                found = await api.list(resources.PODS, field_selector="spec.nodeName=")
                for pod in found:
                    start(pod)
                # The API server hangs up on who can't keep up: then from the start.
                with contextlib.suppress(errors.Unreachable, errors.Expired):
                    async for event in api.watch(
                        resources.PODS,
                        field_selector="spec.nodeName=",
                        resource_version=found.resource_version,
                    ):
                        if event.type == "ADDED":
                            start(event.object)


if __name__ == "__main__":
    machine.end_on_sigterm()
    uvloop.run(main(sys.argv[1]))
