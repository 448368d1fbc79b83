"""Binds every pod to the next node and decides nothing: how much the API server takes.

    python -m bench.binding KUBECONFIG

Reads the nodes once and watches pods without a node, with many bindings in flight, as a scheduler
whose decisions cost nothing. Writes no events.
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import sys

from bench import machine
from whipstaff.runtime import client, config, errors, resources

PENDING = "spec.nodeName="
IN_FLIGHT = 192


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
        started: set[str] = set()
        async with asyncio.TaskGroup() as group:

            def start(pod: client.Object) -> None:
                if (uid := pod["metadata"]["uid"]) not in started:
                    started.add(uid)
                    group.create_task(bind(api, pod, next(turn)))

            while True:
                found = await api.list(resources.PODS, field_selector=PENDING)
                for pod in found:
                    start(pod)
                # The API server hangs up on who can't keep up: then from the start.
                with contextlib.suppress(errors.Unreachable, errors.Expired):
                    async for event in api.watch(
                        resources.PODS,
                        field_selector=PENDING,
                        resource_version=found.resource_version,
                    ):
                        if event.type == "ADDED":
                            start(event.object)


if __name__ == "__main__":
    machine.end_on_sigterm()
    asyncio.run(main(sys.argv[1]))
