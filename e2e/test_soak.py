"""Many pods while the scheduler is killed and the API server restarts:all run, each on one node."""

from __future__ import annotations

import asyncio
import collections
import os
import signal
import time
from typing import Any

import pytest

from whipstaff.runtime import client, config, errors, quantities, resources

pytestmark = [pytest.mark.cluster, pytest.mark.timeout(900)]

NAMESPACE = "soak"
IN_FLIGHT = 32


def pod(index: int, cpu: int) -> dict[str, Any]:
    """A pod that asks for a third to five thirds of `cpu` milli-CPUs, so that nodes fill uneven."""
    return {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"namespace": NAMESPACE, "name": f"soak-{index:05d}"},
        "spec": {
            "automountServiceAccountToken": False,
            "terminationGracePeriodSeconds": 0,
            "containers": [
                {
                    "name": "main",
                    "image": "registry.k8s.io/pause:3.10.2",
                    "resources": {"requests": {"cpu": f"{(index % 5 + 1) * cpu // 3}m"}},
                }
            ],
        },
    }


class Witness:
    """Watches every pod and keeps each node name that it was ever seen with."""

    def __init__(self, api: client.Client) -> None:
        self.nodes: dict[str, set[str]] = collections.defaultdict(set)
        self.phases: dict[str, str] = {}
        self._api = api

    def count(self, phase: str) -> int:
        return sum(1 for seen in self.phases.values() if seen == phase)

    async def run(self) -> None:
        version = ""
        while True:
            try:
                listed = await self._api.list(resources.PODS, NAMESPACE)
                for item in listed.items:
                    self._see(item)
                version = listed.resource_version
                async for event in self._api.watch(
                    resources.PODS, NAMESPACE, resource_version=version
                ):
                    if event.type in {"ADDED", "MODIFIED"}:
                        self._see(event.object)
            except (errors.Unreachable, errors.ApiError):
                await asyncio.sleep(0.5)

    def _see(self, item: dict[str, Any]) -> None:
        name = item["metadata"]["name"]
        if node := item["spec"].get("nodeName"):
            self.nodes[item["metadata"]["uid"]].add(node)
        self.phases[name] = item.get("status", {}).get("phase", "")


async def persistently(api: client.Client, body: dict[str, Any]) -> None:
    """Create an object through an API server that comes and goes."""
    deadline = time.monotonic() + 120
    while True:
        try:
            await api.create(resources.PODS, body)
        except errors.AlreadyExists:
            return
        except (errors.Unreachable, errors.ApiError):
            if time.monotonic() > deadline:
                raise
            await asyncio.sleep(0.5)
        else:
            return


async def create_pods(api: client.Client, count: int, cpu: int) -> None:
    indices = iter(range(count))

    async def worker() -> None:
        for index in indices:
            await persistently(api, pod(index, cpu))

    async with asyncio.TaskGroup() as group:
        for _ in range(IN_FLIGHT):
            group.create_task(worker())


async def reached(what: Any, count: int, *, seconds: float, text: str) -> None:
    deadline = time.monotonic() + seconds
    while what() < count:
        assert time.monotonic() < deadline, f"{text}: {what()} of {count} after {seconds} s"
        await asyncio.sleep(0.1)


def over_capacity(nodes: list[dict[str, Any]], pods: list[dict[str, Any]]) -> list[str]:
    """The nodes that hold more than they have, each as a line."""
    cpu: dict[str, int] = collections.defaultdict(int)
    count: dict[str, int] = collections.defaultdict(int)
    for item in pods:
        node = item["spec"]["nodeName"]
        count[node] += 1
        for container in item["spec"]["containers"]:
            cpu[node] += quantities.milli_value(container["resources"]["requests"]["cpu"])
    lines = []
    for node in nodes:
        name, has = node["metadata"]["name"], node["status"]["allocatable"]
        if cpu[name] > quantities.milli_value(has["cpu"]) or count[name] > int(has["pods"]):
            lines.append(
                f"{name}: {cpu[name]}m of {has['cpu']}, {count[name]} pods of {has['pods']}"
            )
    return lines


def test_no_pod_is_lost_bound_twice_or_over_capacity_through_kills(
    cluster: Any, pytestconfig: pytest.Config
) -> None:
    nodes, pods = (1000, 5000) if pytestconfig.getoption("--full") else (100, 1000)
    cluster.up("--provider", "simulated", "--nodes", str(nodes), "--example=false")
    asyncio.run(soak(cluster, nodes, pods))


async def soak(cluster: Any, nodes: int, pods: int) -> None:
    async with client.Client(config.load(cluster.kubeconfig)) as api:
        await api.create(
            resources.NAMESPACES,
            {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": NAMESPACE}},
        )
        has = [node["status"]["allocatable"] for node in (await api.list(resources.NODES)).items]
        assert len(has) == nodes
        # Together the pods ask for seven tenths of what there is: with the largest at five thirds
        # of the average and five or more to a node, all fit however they are spread, and a node
        # that was counted wrongly shows.
        cpu = sum(quantities.milli_value(each["cpu"]) for each in has) * 7 // 10 // pods
        witness = Witness(api)
        watching = asyncio.create_task(witness.run())
        creating = asyncio.create_task(create_pods(api, pods, cpu))
        try:
            for share in (0.15, 0.4, 0.65):
                await reached(
                    lambda: len(witness.nodes), int(pods * share), seconds=300, text="pods bound"
                )
                kill(cluster, "whipstaff-scheduler", signal.SIGKILL)
                if share == 0.4:
                    kill(cluster, "kube-apiserver", signal.SIGKILL)
            await creating
            await reached(lambda: witness.count("Running"), pods, seconds=300, text="pods Running")
            found = (await api.list(resources.PODS, NAMESPACE)).items
            assert len(found) == pods
            assert [item for item in found if item["status"]["phase"] != "Running"] == []
            assert {uid: seen for uid, seen in witness.nodes.items() if len(seen) != 1} == {}
            assert over_capacity((await api.list(resources.NODES)).items, found) == []
        finally:
            for task in (watching, creating):
                task.cancel()
            await asyncio.gather(watching, creating, return_exceptions=True)


def kill(cluster: Any, component: str, number: signal.Signals) -> None:
    """Signal a component that the test's own cluster runs, by its process id.

    It is waited for where it isn't back yet from the time before: the witness sees late what was
    bound.
    """
    deadline = time.monotonic() + 30
    while (pid := process_of(cluster, component)) is None:
        assert time.monotonic() < deadline, f"{component} isn't back within 30 s"
    os.kill(pid, number)


def process_of(cluster: Any, component: str) -> int | None:
    """The process that is a component; None while it isn't there."""
    pids: dict[str, int | None] = {
        each["name"]: each["pid"] for each in cluster.status()["components"]
    }
    return pids[component]
