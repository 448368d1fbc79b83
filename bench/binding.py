"""Binds every pod to the next node and decides nothing: how much the API server takes.

    python -m bench.binding KUBECONFIG

Reads the nodes once and watches pods without a node, with many bindings in flight, as a scheduler
whose decisions cost nothing. Writes no events.
"""

from __future__ import annotations

import asyncio
import itertools
import sys

from bench import machine
from whipstaff.runtime import client, config, errors, resources

IN_FLIGHT = 100


async def bind(api: client.Client, pod: client.Object, node: str) -> None:
    """Bind one pod; one that is gone or bound by now needs nothing."""
    metadata = pod["metadata"]
    body = {
        "metadata": {"name": metadata["name"], "uid": metadata["uid"]},
        "target": {"kind": "Node", "name": node},
    }
    try:
        await api.create(
            resources.PODS,
            body,
            metadata["namespace"],
            name=metadata["name"],
            subresource="binding",
        )
    except (errors.NotFound, errors.Conflict):
        return


async def main(kubeconfig: str) -> None:
    """Bind until ended."""
    async with client.Client(config.load(kubeconfig), max_connections=IN_FLIGHT) as api:
        nodes = [node["metadata"]["name"] for node in await api.list(resources.NODES)]
        turn = itertools.cycle(nodes)
        async with asyncio.TaskGroup() as group:
            async for event in api.watch(
                resources.PODS, field_selector="spec.nodeName=", resource_version="0"
            ):
                if event.type == "ADDED":
                    group.create_task(bind(api, event.object, next(turn)))


if __name__ == "__main__":
    machine.end_on_sigterm()
    asyncio.run(main(sys.argv[1]))
