"""A machine with real pods is shut down, and comes back."""

from __future__ import annotations

import asyncio
import json
import pathlib
import shutil
from collections.abc import AsyncIterator, Iterator
from typing import Any

import node_agent_harness as harness
import node_agent_logind
import pytest
from node_agent_containerd import FOREVER, container
from node_agent_machine import agent, app

from whipstaff.cluster import images, machines, testing
from whipstaff.runtime import resources

_why = machines.obstacle()
pytestmark = [
    pytest.mark.cluster,
    pytest.mark.apiserver,
    pytest.mark.skipif(_why is not None, reason=f"real containers: {_why}"),
    pytest.mark.skipif(
        shutil.which("dbus-daemon") is None, reason="dbus-daemon isn't installed"
    ),
]  # fmt: skip

MESSAGE = "Pod was terminated in response to imminent node shutdown."
# Takes its time to end, so that the order shows.
SLOW = "trap 'sleep 1; exit 0' TERM; while :; do sleep 0.05; done"


@pytest.fixture
def machine(tmp_path: pathlib.Path) -> Iterator[machines.Machine]:
    archives = [images.archive("pause"), images.archive("busybox")]
    with machines.Machine.start(tmp_path / "machine", images=archives) as started:
        yield started


@pytest.fixture
async def cluster(
    apiserver: testing.ControlPlane, namespace: str
) -> AsyncIterator[harness.Cluster]:
    made = harness.Cluster(apiserver.kubeconfig, namespace)
    yield made
    await made.close()


def ended(pod: Any) -> str:
    return str(pod["status"]["containerStatuses"][0]["state"]["terminated"]["finishedAt"])


async def test_pods_end_in_their_order_and_static_ones_come_back_after_the_boot(
    cluster: harness.Cluster,
    machine: machines.Machine,
    tmp_path: pathlib.Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("DBUS_SYSTEM_BUS_ADDRESS", node_agent_logind.address(tmp_path))
    (node,) = cluster.node_names()
    (tmp_path / "manifests").mkdir()
    static = {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"name": "static", "namespace": cluster.namespace},
        "spec": {"containers": [container("app", FOREVER, imagePullPolicy="Never")]},
    }
    (tmp_path / "manifests" / "static.yaml").write_text(json.dumps(static))
    mirror = f"static-{node}"
    settings = {
        "staticPodPath": str(tmp_path / "manifests"),
        "shutdownGracePeriod": "20s",
        "shutdownGracePeriodCriticalPods": "10s",
    }

    async def ready() -> Any:
        found = await cluster.api.get(resources.NODES, node)
        return next(c for c in found["status"]["conditions"] if c["type"] == "Ready")

    async with node_agent_logind.machine(tmp_path) as (host, _):
        async with agent(cluster, node, machine, tmp_path, **settings):
            host.delay_us = 30_000_000
            await cluster.create(node, "web", containers=[app(SLOW)])
            await cluster.create(
                node, "dns", containers=[app(FOREVER)], priorityClassName="system-node-critical"
            )
            for name in ("web", "dns", mirror):
                await cluster.wait_phase("Running", name)
            assert host.asked[0][0] == "shutdown"
            assert not host.let_go()

            await host.signal()
            dns = await cluster.wait_phase("Failed", "dns")
            web = await cluster.wait_phase("Failed", "web")
            for pod in (web, dns):
                assert (pod["status"]["reason"], pod["status"]["message"]) == (
                    "Terminated", MESSAGE,
                )  # fmt: skip
                conditions = {c["type"]: c for c in pod["status"]["conditions"]}
                assert conditions["DisruptionTarget"]["reason"] == "TerminationByKubelet"
            assert ended(web) <= ended(dns)
            await cluster.wait_phase("Failed", mirror)
            await harness.eventually(lambda: asyncio.to_thread(host.let_go), lambda: "held up")
            condition = await ready()
            assert (condition["status"], condition["message"]) == (
                "False", "node is shutting down",
            )  # fmt: skip

            await cluster.create(node, "late", containers=[app(FOREVER)])
            late = await cluster.wait_phase("Failed", "late")
            assert late["status"]["reason"] == "NodeShutdown"
            assert late["status"]["message"] == (
                "Pod was rejected: Pod was rejected as the node is shutting down."
            )
        async with agent(cluster, node, machine, tmp_path, **settings):
            await cluster.wait_phase("Running", mirror)

            async def up() -> bool:
                return (await ready())["status"] == "True"

            await harness.eventually(up, lambda: "the node isn't ready")
            web = await cluster.wait_phase("Failed", "web")
            assert web["status"]["message"] == MESSAGE
            (tmp_path / "manifests" / "static.yaml").unlink()
            for name in ("web", "dns", "late"):
                await cluster.delete(name)
                await cluster.wait_gone(name)
            await cluster.wait_gone(mirror)
