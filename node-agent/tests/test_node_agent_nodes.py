"""Nodes against a real API server: registered, seen to be alive, and back after every loss."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
from collections.abc import AsyncIterator
from typing import Any

import node_agent_harness as harness
import pytest

from whipstaff.cluster import testing
from whipstaff.node_agent import heartbeats, provider
from whipstaff.node_agent.providers import simulated
from whipstaff.runtime import errors, objects, resources

pytestmark = pytest.mark.apiserver

QUICK = heartbeats.Timing(lease_interval=0.3, report_interval=1.0)


@pytest.fixture
async def cluster(
    apiserver: testing.ControlPlane, namespace: str
) -> AsyncIterator[harness.Cluster]:
    made = harness.Cluster(apiserver.kubeconfig, namespace)
    yield made
    await made.close()


async def node_of(cluster: harness.Cluster, name: str) -> Any:
    return await cluster.api.get(resources.NODES, name)


async def lease_of(cluster: harness.Cluster, name: str) -> Any:
    return await cluster.api.get(resources.LEASES, name, "kube-node-lease")


async def test_a_node_is_registered_with_all_that_a_node_has(cluster: harness.Cluster) -> None:
    (name,) = cluster.node_names()
    async with harness.Running(
        cluster.kubeconfig,
        (name,),
        labels={"disk": ["ssd"]},
        taints=[{"key": "sim", "effect": "NoSchedule"}],
        provider_id="sim://{name}",
        reserved={"cpu": "2"},
        pod_cidrs={name: ["10.77.0.0/24"]},
    ):
        node = await node_of(cluster, name)
    metadata, spec, status = node["metadata"], node["spec"], node["status"]
    assert (
        metadata["labels"].items()
        >= {
            "kubernetes.io/hostname": name,
            "kubernetes.io/os": "linux",
            "beta.kubernetes.io/os": "linux",
            "disk": "ssd",
        }.items()
    )
    assert {"kubernetes.io/arch", "beta.kubernetes.io/arch"} <= metadata["labels"].keys()
    assert metadata["annotations"]["volumes.kubernetes.io/controller-managed-attach-detach"]
    assert {"key": "sim", "effect": "NoSchedule"} in spec["taints"]
    assert (spec["providerID"], spec["podCIDR"]) == (f"sim://{name}", "10.77.0.0/24")
    assert status["capacity"]["cpu"] == "32"
    assert status["allocatable"]["cpu"] == "30"
    assert status["allocatable"]["pods"] == "110"
    assert [(a["type"], a["address"]) for a in status["addresses"]] == [
        ("InternalIP", "127.0.0.1"),
        ("Hostname", name),
    ]
    assert status["daemonEndpoints"]["kubeletEndpoint"]["Port"] == 10250
    assert status["nodeInfo"]["kubeletVersion"].startswith("v1.36.3-whipstaff")
    assert status["nodeInfo"]["containerRuntimeVersion"].startswith("simulated://")
    assert "declaredFeatures" not in status
    assert [(c["type"], c["status"], c["reason"]) for c in status["conditions"]] == [
        ("MemoryPressure", "False", "KubeletHasSufficientMemory"),
        ("DiskPressure", "False", "KubeletHasNoDiskPressure"),
        ("PIDPressure", "False", "KubeletHasSufficientPID"),
        ("Ready", "True", "KubeletReady"),
    ]


async def test_a_lease_belongs_to_its_node_and_is_renewed(cluster: harness.Cluster) -> None:
    (name,) = cluster.node_names()
    async with harness.Running(cluster.kubeconfig, (name,), timing=QUICK):

        async def leased() -> bool:
            with contextlib.suppress(errors.NotFound):
                return bool(await lease_of(cluster, name))
            return False

        await harness.eventually(leased, lambda: "no lease")
        first = await lease_of(cluster, name)
        node = await node_of(cluster, name)
        (owner,) = first["metadata"]["ownerReferences"]
        assert (owner["kind"], owner["uid"]) == ("Node", node["metadata"]["uid"])
        assert first["spec"]["holderIdentity"] == name
        assert first["spec"]["leaseDurationSeconds"] == 40

        async def renewed() -> bool:
            lease = await lease_of(cluster, name)
            return bool(lease["spec"]["renewTime"] > first["spec"]["renewTime"])

        await harness.eventually(renewed, lambda: "not renewed")
    stopped = await lease_of(cluster, name)
    await asyncio.sleep(1)
    assert (await lease_of(cluster, name))["spec"] == stopped["spec"]


async def test_a_lease_that_is_lost_or_taken_is_written_again(cluster: harness.Cluster) -> None:
    (name,) = cluster.node_names()
    async with harness.Running(cluster.kubeconfig, (name,), timing=QUICK):
        await cluster.api.delete(resources.LEASES, name, "kube-node-lease")

        async def there() -> bool:
            try:
                lease = await lease_of(cluster, name)
            except errors.NotFound:
                return False
            return bool(lease["spec"]["holderIdentity"] == name)

        await harness.eventually(there, lambda: "no lease")
        await cluster.api.patch(
            resources.LEASES, name, {"spec": {"holderIdentity": "thief"}}, "kube-node-lease"
        )
        await harness.eventually(there, lambda: "not taken back")


async def test_the_leases_of_many_nodes_are_spread_over_the_interval(
    cluster: harness.Cluster,
) -> None:
    names = cluster.node_names(20)
    timing = heartbeats.Timing(lease_interval=2.0)
    async with harness.Running(cluster.kubeconfig, names, timing=timing):
        await asyncio.sleep(4.5)
        leases = [await lease_of(cluster, name) for name in names]
    times = sorted(objects.parse_time(lease["spec"]["renewTime"]) for lease in leases)
    gaps = [later - earlier for earlier, later in itertools.pairwise(times)]
    assert times[-1] - times[0] > 1.0
    assert max(gaps) < 1.0


async def test_an_unchanged_status_is_written_from_time_to_time(cluster: harness.Cluster) -> None:
    (name,) = cluster.node_names()
    async with harness.Running(cluster.kubeconfig, (name,), timing=QUICK):
        first = await node_of(cluster, name)

        async def beaten() -> bool:
            node = await node_of(cluster, name)
            return bool(beat(node) > beat(first))

        def beat(node: Any) -> str:
            return str(node["status"]["conditions"][-1]["lastHeartbeatTime"])

        await harness.eventually(beaten, lambda: "no heartbeat")
        later = await node_of(cluster, name)
        for before, after in zip(
            first["status"]["conditions"], later["status"]["conditions"], strict=True
        ):
            assert before["lastTransitionTime"] == after["lastTransitionTime"]


async def test_a_node_that_was_there_before_is_taken_over(cluster: harness.Cluster) -> None:
    (name,) = cluster.node_names()
    old = {
        "apiVersion": "v1",
        "kind": "Node",
        "metadata": {"name": name, "labels": {"kept": "yes", "kubernetes.io/os": "windows"}},
        "status": {
            "capacity": {"cpu": "1", "example.com/gpu": "2"},
            "conditions": [
                {"type": "Ready", "status": "Unknown", "reason": "NodeStatusUnknown"},
                {"type": "NetworkUnavailable", "status": "False"},
            ],
        },
    }
    uid = (await cluster.api.create(resources.NODES, old))["metadata"]["uid"]
    async with harness.Running(cluster.kubeconfig, (name,)):
        node = await node_of(cluster, name)
    assert node["metadata"]["uid"] == uid
    assert node["metadata"]["labels"]["kept"] == "yes"
    assert node["metadata"]["labels"]["kubernetes.io/os"] == "linux"
    assert node["status"]["capacity"]["cpu"] == "32"
    assert node["status"]["capacity"]["example.com/gpu"] == "2"
    conditions = {c["type"]: c["status"] for c in node["status"]["conditions"]}
    assert conditions["Ready"] == "True"
    assert conditions["NetworkUnavailable"] == "False"


async def test_what_others_put_into_a_node_s_capacity_may_be_allocated_and_goes_again(
    cluster: harness.Cluster,
) -> None:
    (name,) = cluster.node_names()

    async def put(amount: str | None) -> None:
        patch = {"status": {"capacity": {"example.com/gpu": amount}}}
        await cluster.api.patch(resources.NODES, name, patch, subresource="status")

    async def is_allocatable(amount: str | None) -> bool:
        found = await node_of(cluster, name)
        return found["status"]["allocatable"].get("example.com/gpu") == amount

    async with harness.Running(cluster.kubeconfig, (name,)):
        for amount in ("2", "3", None):
            await put(amount)
            async with asyncio.timeout(20):
                while not await is_allocatable(amount):  # noqa: ASYNC110
                    await asyncio.sleep(0.1)


async def test_a_node_that_is_called_dead_says_that_it_lives(cluster: harness.Cluster) -> None:
    (name,) = cluster.node_names()
    async with harness.Running(cluster.kubeconfig, (name,)):
        unknown = {"type": "Ready", "status": "Unknown", "reason": "NodeStatusUnknown"}
        await cluster.api.patch(
            resources.NODES,
            name,
            {"status": {"conditions": [unknown]}},
            kind="strategic",
            subresource="status",
        )

        async def ready() -> bool:
            return objects.is_true(await node_of(cluster, name), "Ready")

        await harness.eventually(ready, lambda: "still unknown")

        async def told() -> bool:
            events = await cluster.api.list(resources.EVENTS, "default")
            return any(
                e["reason"] == "NodeReady" and e["regarding"]["name"] == name for e in events
            )

        await harness.eventually(told, lambda: "no event")


async def test_a_node_that_is_deleted_is_registered_again(cluster: harness.Cluster) -> None:
    (name,) = cluster.node_names()
    async with harness.Running(cluster.kubeconfig, (name,), timing=QUICK):
        first = await node_of(cluster, name)
        await cluster.create(name)
        await cluster.wait_phase("Running")
        await cluster.api.delete(resources.NODES, name)

        async def back() -> bool:
            try:
                node = await node_of(cluster, name)
            except errors.NotFound:
                return False
            return bool(node["metadata"]["uid"] != first["metadata"]["uid"])

        await harness.eventually(back, lambda: "not back")

        async def owned() -> bool:
            lease = await lease_of(cluster, name)
            node = await node_of(cluster, name)
            (owner,) = lease["metadata"]["ownerReferences"]
            return bool(owner["uid"] == node["metadata"]["uid"])

        await harness.eventually(owned, lambda: "the lease is the old node's")
        await cluster.create(name, "another")
        await cluster.wait_phase("Running", "another")
        pod = await cluster.get()
        assert pod is not None
        assert pod["status"]["phase"] == "Running"


class Failing(simulated.Provider):
    """A runtime that can be down."""

    problems: tuple[str, ...] = ()

    async def status(self, node_name: str) -> Any:
        return simulated.provider.RuntimeStatus("simulated://1", self.problems)


async def test_a_node_whose_runtime_is_down_is_not_ready(
    cluster: harness.Cluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(heartbeats, "_RUNTIME_POLL_SECONDS", 0.1)
    (name,) = cluster.node_names()
    async with harness.Running(cluster.kubeconfig, (name,), runtime=Failing):
        monkeypatch.setattr(Failing, "problems", ("container runtime is down",))

        async def down() -> bool:
            found = objects.condition(await node_of(cluster, name), "Ready")
            return found is not None and found["status"] == "False"

        await harness.eventually(down, lambda: "still ready")
        ready = objects.condition(await node_of(cluster, name), "Ready")
        assert ready is not None
        assert (ready["reason"], ready["message"]) == (
            "KubeletNotReady",
            "container runtime is down",
        )


async def test_pods_wait_for_their_node_to_be_registered(cluster: harness.Cluster) -> None:
    (name,) = cluster.node_names()
    await cluster.create(name)
    async with harness.Running(cluster.kubeconfig, (name,)):
        await cluster.wait_phase("Running")


async def test_a_hundred_nodes_are_registered_in_seconds(cluster: harness.Cluster) -> None:
    names = cluster.node_names(100)
    started = asyncio.get_running_loop().time()
    async with harness.Running(cluster.kubeconfig, names) as running:
        assert asyncio.get_running_loop().time() - started < 20
        running.agent.check_registered()
        running.agent.check_synced()


async def test_a_node_that_was_registered_again_beats_once(cluster: harness.Cluster) -> None:
    (name,) = cluster.node_names()
    timing = heartbeats.Timing(lease_interval=1.0)
    async with harness.Running(cluster.kubeconfig, (name,), timing=timing) as running:
        node = running.agent.nodes[name]
        for registration in (2, 3, 4):
            await cluster.api.delete(resources.NODES, name)

            async def again(wanted: int = registration) -> bool:
                return node.registrations == wanted and node.object is not None

            await harness.eventually(again, lambda: "not registered again")
        await asyncio.sleep(1.5)
        versions = set()
        for _ in range(30):
            versions.add((await lease_of(cluster, name))["metadata"]["resourceVersion"])
            await asyncio.sleep(0.1)
        assert len(versions) <= 5


class Hosted(simulated.Provider):
    """A runtime on a machine that has images."""

    on_host = True
    found: tuple[provider.Image, ...] = (provider.Image("sha256:1", 7, names=("busybox:1",)),)

    async def images(self) -> Any:
        return self.found


MACHINE = {
    "machineID": "m",
    "systemUUID": "s",
    "bootID": "first",
    "kernelVersion": "6.18",
    "osImage": "Debian",
}


async def test_a_real_nodes_images_are_shown_as_they_come(
    cluster: harness.Cluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(heartbeats, "_RUNTIME_POLL_SECONDS", 0.1)
    (name,) = cluster.node_names()
    async with harness.Running(cluster.kubeconfig, (name,), runtime=Hosted, info=MACHINE):
        first = await node_of(cluster, name)
        assert first["status"]["images"] == [{"names": ["busybox:1"], "sizeBytes": 7}]
        assert first["status"]["nodeInfo"]["osImage"] == "Debian"
        more = (*Hosted.found, provider.Image("sha256:2", 9, names=("nginx:1",)))
        monkeypatch.setattr(Hosted, "found", more)

        async def shown() -> bool:
            node = await node_of(cluster, name)
            return [image["sizeBytes"] for image in node["status"]["images"]] == [9, 7]

        await harness.eventually(shown, lambda: "the new image isn't shown")


async def test_an_image_without_a_name_is_shown_once(
    cluster: harness.Cluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    nameless = (provider.Image("sha256:2", 7), provider.Image("sha256:3", 7))
    monkeypatch.setattr(Hosted, "found", (*Hosted.found, *nameless))
    monkeypatch.setattr(heartbeats, "_BETWEEN_REPORTS", 0.05)
    (name,) = cluster.node_names()
    async with harness.Running(cluster.kubeconfig, (name,), runtime=Hosted, info=MACHINE):

        async def shown() -> bool:
            return len((await node_of(cluster, name))["status"].get("images") or ()) == 3

        await harness.eventually(shown, lambda: "the images aren't shown")
        before = await node_of(cluster, name)
        await asyncio.sleep(0.5)
        after = await node_of(cluster, name)
    assert after["metadata"]["resourceVersion"] == before["metadata"]["resourceVersion"]


async def test_what_runs_out_is_shown_and_told(cluster: harness.Cluster) -> None:
    (name,) = cluster.node_names()
    async with harness.Running(cluster.kubeconfig, (name,)) as running:
        running.agent.nodes[name].pressures = frozenset({"MemoryPressure"})
        running.agent.heartbeats.check()

        async def shown() -> bool:
            return objects.is_true(await node_of(cluster, name), "MemoryPressure")

        await harness.eventually(shown, lambda: "no condition")

        async def told() -> bool:
            events = await cluster.api.list(resources.EVENTS, "default")
            reasons = {e["reason"] for e in events if e["regarding"]["name"] == name}
            return reasons >= {"NodeHasSufficientMemory", "NodeHasInsufficientMemory"}

        await harness.eventually(told, lambda: "no events")


async def test_a_machine_that_started_again_is_told_of(cluster: harness.Cluster) -> None:
    (name,) = cluster.node_names()
    async with harness.Running(cluster.kubeconfig, (name,), runtime=Hosted, info=MACHINE):
        pass
    again = MACHINE | {"bootID": "second"}
    async with harness.Running(cluster.kubeconfig, (name,), runtime=Hosted, info=again):

        async def told() -> bool:
            events = await cluster.api.list(resources.EVENTS, "default")
            return any(
                e["note"] == f"Node {name} has been rebooted, boot id: second"
                and (e["reason"], e["type"]) == ("Rebooted", "Warning")
                for e in events
            )

        await harness.eventually(told, lambda: "no event")
        assert (await node_of(cluster, name))["status"]["nodeInfo"]["bootID"] == "second"
