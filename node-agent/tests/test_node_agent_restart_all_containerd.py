"""RestartAllContainers with a real containerd: one sandbox, one volume, and everything anew."""

from __future__ import annotations

import pathlib
from collections.abc import AsyncIterator, Iterator
from typing import Any

import node_agent_harness as harness
import pytest
from node_agent_containerd import FOREVER
from node_agent_machine import agent, app

from whipstaff.cluster import images, machines, testing

_why = machines.obstacle()
pytestmark = [
    pytest.mark.cluster,
    pytest.mark.apiserver,
    pytest.mark.skipif(_why is not None, reason=f"real containers: {_why}"),
]

RULES = [{"action": "RestartAllContainers", "exitCodes": {"operator": "In", "values": [42]}}]
MOUNT = {"volumeMounts": [{"name": "work", "mountPath": "/work"}]}


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


def counts(pod: Any) -> dict[str, int]:
    found = pod["status"].get("initContainerStatuses", []) + pod["status"]["containerStatuses"]
    return {one["name"]: one["restartCount"] for one in found}


async def test_all_containers_start_anew_in_the_sandbox_that_is_there(
    cluster: harness.Cluster, machine: machines.Machine, tmp_path: pathlib.Path
) -> None:
    (node,) = cluster.node_names()
    once = "if [ $(wc -l < /work/log) -lt 2 ]; then sleep 1; exit 42; fi; " + FOREVER
    async with agent(cluster, node, machine, tmp_path):
        await cluster.create(
            node,
            restartPolicy="Never",
            volumes=[{"name": "work", "emptyDir": {}}],
            initContainers=[
                app("echo $(hostname -i) >> /work/log", "init", **MOUNT),
                app(FOREVER, "sidecar", restartPolicy="Always"),
            ],
            containers=[
                app(once, "source", restartPolicy="Never", restartPolicyRules=RULES, **MOUNT),
                app(f"cat /work/log; {FOREVER}", "regular", **MOUNT),
            ],
        )

        def restarted(found: Any) -> bool:
            return bool(
                found["status"]["phase"] == "Running"
                and set(counts(found).values()) == {1}
                and all("running" in c["state"] for c in found["status"]["containerStatuses"])
            )

        web = await cluster.wait(restarted)
        folder = next((tmp_path / "logs").glob(f"*_web_{web['metadata']['uid']}"))
        # What they wrote before is still there, and what they write now has a file of its own.
        first, second = ((folder / "regular" / f"{n}.log").read_text() for n in (0, 1))
        assert (first.count(" F "), second.count(" F ")) == (1, 2)
        # One sandbox all the time, so one address.
        assert len({line.rsplit(" ", 1)[1] for line in second.splitlines()}) == 1
        for one in web["status"]["containerStatuses"]:
            assert one["lastState"]["terminated"]["reason"] == "RestartingAllContainers"
        await cluster.delete()
        await cluster.wait_gone()
