"""What survives an agent that is killed or stopped, and an API server that goes away."""

from __future__ import annotations

import asyncio
import pathlib
from collections.abc import AsyncIterator, Callable
from typing import Any

import node_agent_harness as harness
import pytest

from whipstaff.cluster import testing
from whipstaff.runtime import objects, resources

pytestmark = pytest.mark.apiserver


@pytest.fixture
async def cluster(
    apiserver: testing.ControlPlane, namespace: str
) -> AsyncIterator[harness.Cluster]:
    made = harness.Cluster(apiserver.kubeconfig, namespace)
    yield made
    await made.close()


def agent(cluster: harness.Cluster, name: str, *flags: str) -> harness.Command:
    return harness.Command(
        cluster.kubeconfig,
        "--node-name", name, "--provider", "simulated", "--node-ip", "127.0.0.1",
        *(flags or ("--port", "0", "--healthz-port", "0")),
    )  # fmt: skip


def what_must_survive(pod: Any) -> Any:
    status = pod["status"]
    return {
        "phase": status["phase"],
        "startTime": status["startTime"],
        "podIPs": status["podIPs"],
        "containers": [
            (c["name"], c["containerID"], c["restartCount"], c["state"], c["ready"], c["lastState"])
            for c in status["containerStatuses"]
        ],
        "transitions": {c["type"]: c["lastTransitionTime"] for c in status["conditions"]},
    }


async def test_a_killed_agent_comes_back_to_its_pods(cluster: harness.Cluster) -> None:
    (name,) = cluster.node_names()
    probe = {"tcpSocket": {"port": 80}}
    async with agent(cluster, name) as first:
        await cluster.create(
            name, containers=[{"name": "app", "image": "nginx", "readinessProbe": probe}]
        )
        await cluster.create(
            name, "healed", annotations={"run-seconds": "0.2", "exit-code": "1", "ends": "1"}
        )
        await cluster.create(name, "done", restartPolicy="Never", annotations={"run-seconds": "0"})
        before = {
            "web": await cluster.wait(lambda p: p is not None and objects.is_true(p, "Ready")),
            "healed": await cluster.wait(
                lambda p: (
                    p is not None
                    and objects.is_true(p, "Ready")
                    and p["status"]["containerStatuses"][0]["restartCount"] == 1
                ),
                "healed",
            ),
            "done": await cluster.wait_phase("Succeeded", "done"),
        }
        await first.kill()
    async with cluster.history() as seen, agent(cluster, name):
        await cluster.create(name, "after")
        after = await cluster.wait_phase("Running", "after")
        for pod_name, pod in before.items():
            now = await cluster.get(pod_name)
            assert now is not None
            assert what_must_survive(now) == what_must_survive(pod)
        assert after["status"]["podIP"] not in {
            before[p]["status"]["podIP"] for p in ("web", "healed")
        }
        await asyncio.sleep(1)
    written = [(kind, pod["metadata"]["name"]) for kind, pod in seen]
    assert not [one for one in written if one[1] != "after"]


async def test_an_agent_killed_in_the_middle_of_a_burst_loses_nothing(
    cluster: harness.Cluster,
) -> None:
    names = cluster.node_names(10)
    flags = (
        "--nodes", "10", "--node-name", cluster.prefix, "--provider", "simulated",
        "--node-ip", "127.0.0.1", "--port", "0", "--healthz-port", "0",
    )  # fmt: skip

    async def phases() -> list[str]:
        pods = await cluster.api.list(resources.PODS, cluster.namespace)
        return [pod["status"]["phase"] for pod in pods]

    async def some_run() -> bool:
        return (await phases()).count("Running") >= 20

    async def all_run() -> bool:
        return set(await phases()) == {"Running"}

    async with harness.Command(cluster.kubeconfig, *flags) as first:

        async def registered() -> bool:
            nodes = await cluster.api.list(resources.NODES)
            return {node["metadata"]["name"] for node in nodes} >= set(names)

        await harness.eventually(registered, lambda: "not registered")
        creating = [asyncio.create_task(cluster.create(names[i % 10], f"p{i}")) for i in range(200)]
        await harness.eventually(some_run, lambda: "none runs")
        await first.kill()
        await asyncio.gather(*creating)
    before = {
        pod["metadata"]["name"]: what_must_survive(pod)
        for pod in await cluster.api.list(resources.PODS, cluster.namespace)
        if pod["status"]["phase"] == "Running"
    }
    async with harness.Command(cluster.kubeconfig, *flags):
        await harness.eventually(all_run, lambda: "not all run", 40)
        pods = await cluster.api.list(resources.PODS, cluster.namespace)
    assert len(pods) == 200
    assert len({pod["status"]["podIP"] for pod in pods}) == 200
    for pod in pods:
        assert pod["status"]["containerStatuses"][0]["restartCount"] == 0
        if pod["metadata"]["name"] in before:
            assert what_must_survive(pod) == before[pod["metadata"]["name"]]


async def test_what_should_have_ended_while_the_agent_was_away_has_ended(
    cluster: harness.Cluster,
) -> None:
    (name,) = cluster.node_names()
    async with agent(cluster, name) as first:
        await cluster.create(name, restartPolicy="Never", annotations={"run-seconds": "2"})
        running = await cluster.wait_phase("Running")
        await first.kill()
    await asyncio.sleep(2)
    async with agent(cluster, name):
        pod = await cluster.wait_phase("Succeeded")
    state = pod["status"]["containerStatuses"][0]["state"]["terminated"]
    started = running["status"]["containerStatuses"][0]["state"]["running"]["startedAt"]
    assert state["startedAt"] == started
    lasted = objects.parse_time(state["finishedAt"]) - objects.parse_time(started)
    assert lasted == 2


async def test_a_pod_deleted_while_the_agent_was_away_is_stopped(
    cluster: harness.Cluster,
) -> None:
    (name,) = cluster.node_names()
    async with agent(cluster, name) as first:
        await cluster.create(name)
        await cluster.create(name, "forced")
        await cluster.wait_phase("Running")
        await cluster.wait_phase("Running", "forced")
        await first.kill()
    await cluster.delete()
    await cluster.delete("forced", grace_period_seconds=0)
    assert await cluster.get() is not None
    async with agent(cluster, name):
        await cluster.wait_gone()


async def test_a_stopped_agent_leaves_its_pods_running(cluster: harness.Cluster) -> None:
    (name,) = cluster.node_names()
    async with agent(cluster, name) as first:
        await cluster.create(name)
        before = await cluster.wait_phase("Running")
        code, written = await first.stop()
    assert code == 0, written
    assert "Traceback" not in written
    after = await cluster.get()
    assert after is not None
    assert after["status"] == before["status"]


async def test_the_api_server_goes_away_and_comes_back(
    own_apiserver: testing.ControlPlane,
) -> None:
    own_apiserver.create_namespace("restart")
    cluster = harness.Cluster(own_apiserver.kubeconfig, "restart")
    names = cluster.node_names(2)
    async with harness.Running(cluster.kubeconfig, names):
        await cluster.create(names[0])
        await cluster.create(
            names[1], "crashing", annotations={"run-seconds": "1", "exit-code": "1", "ends": "1"}
        )
        before = await cluster.wait_phase("Running")
        await cluster.wait_phase("Running", "crashing")
        await asyncio.to_thread(own_apiserver.stop_apiserver, grace=0)
        await asyncio.sleep(2)
        await asyncio.to_thread(own_apiserver.start_apiserver)
        pod = await cluster.wait(
            lambda p: (
                p is not None
                and p["status"]["containerStatuses"][0]["restartCount"] == 1
                and objects.is_true(p, "Ready")
            ),
            "crashing",
        )
        assert pod["status"]["phase"] == "Running"
        now = await cluster.get()
        assert now is not None
        assert what_must_survive(now) == what_must_survive(before)
        await cluster.create(names[1], "later")
        await cluster.wait_phase("Running", "later")
        await cluster.delete()
        await cluster.wait_gone()
        for name in names:
            node = await cluster.api.get(resources.NODES, name)
            assert objects.is_true(node, "Ready")
    await cluster.close()


async def test_the_example_of_a_provider_runs_processes(
    cluster: harness.Cluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(pathlib.Path(__file__).parents[1] / "examples")
    (name,) = cluster.node_names()
    async with harness.Command(
        cluster.kubeconfig,
        "--node-name", name, "--provider", "process_provider:Provider",
        "--node-ip", "127.0.0.1", "--port", "0", "--healthz-port", "0",
    ):  # fmt: skip

        def running(*command: str) -> list[Any]:
            return [{"name": "app", "image": "none", "command": list(command)}]

        await cluster.create(name, containers=running("sleep", "1000"))
        await cluster.create(
            name, "once", restartPolicy="Never", containers=running("sh", "-c", "exit 3")
        )
        await cluster.create(name, "broken", containers=running("/no/such/command"))
        pod = await cluster.wait_phase("Running")
        status = pod["status"]["containerStatuses"][0]
        assert status["containerID"].startswith("process://")
        assert status["ready"]
        failed = await cluster.wait_phase("Failed", "once")
        ended = failed["status"]["containerStatuses"][0]["state"]["terminated"]
        assert ended["exitCode"] == 3
        broken = await cluster.wait(
            lambda p: (
                p is not None
                and "waiting" in p["status"].get("containerStatuses", [{"state": {}}])[0]["state"]
                and "message" in p["status"]["containerStatuses"][0]["state"]["waiting"]
            ),
            "broken",
        )
        waiting = broken["status"]["containerStatuses"][0]["state"]["waiting"]
        assert waiting["reason"] == "RunContainerError"
        assert waiting["message"].startswith("no such command")
        for pod_name in ("web", "broken"):
            await cluster.delete(pod_name)
            await cluster.wait_gone(pod_name)


# The command.


async def test_a_user_without_rights_is_told_which_are_missing(
    apiserver: testing.ControlPlane,
) -> None:
    kubeconfig = apiserver.issue_kubeconfig("nobody", ())
    async with harness.Command(
        kubeconfig, "--provider", "simulated", "--nodes", "2", "--port", "0"
    ) as command:
        code, written = await command.ended()
    assert code == 1
    line = written.strip().splitlines()[-1]
    assert "patch pods/status" in line
    assert "create, get, list, watch nodes;" in line
    assert "Traceback" not in written


async def test_health_pods_and_metrics_are_served(
    cluster: harness.Cluster,
    apiserver: testing.ControlPlane,
    unused_tcp_port_factory: Callable[[], int],
) -> None:
    (name,) = cluster.node_names()
    port, health = unused_tcp_port_factory(), unused_tcp_port_factory()
    flags = ("--port", str(port), "--client-ca-file", str(apiserver.ca))
    flags += ("--healthz-port", str(health))
    async with agent(cluster, name, *flags):
        await cluster.create(name)
        await cluster.wait_phase("Running")
        plain = f"http://127.0.0.1:{health}"
        assert await curl(plain + "/healthz") == (200, "ok")
        assert await curl(plain + "/readyz") == (200, "ok")
        url = f"https://127.0.0.1:{port}"
        for path in ("/healthz", "/readyz", "/pods"):
            assert (await curl(url + path))[0] == 401
        pair = apiserver.pki.admin
        admin = ("--cert", str(pair.certificate), "--key", str(pair.key))
        assert await curl(url + "/healthz", *admin) == (200, "ok")
        assert await curl(url + "/readyz", *admin) == (200, "ok")
        status, body = await curl(url + "/pods", *admin)
        assert status == 200
        assert '"kind":"PodList"' in body
        assert f'"namespace":"{cluster.namespace}"' in body
        status, body = await curl(url + "/metrics", *admin)
        assert status == 200
        assert "kubelet_running_pods 1.0" in body
        assert 'kubelet_running_containers{container_state="running"} 1.0' in body
        assert 'kubelet_started_containers_total{container_type="container"} 1.0' in body


async def curl(url: str, *flags: str) -> tuple[int, str]:
    process = await asyncio.create_subprocess_exec(
        "curl", "-sk", "--max-time", "10", "-w", "\n%{http_code}", *flags, url,
        stdout=asyncio.subprocess.PIPE,
    )  # fmt: skip
    written, _ = await process.communicate()
    body, _, status = written.decode().rpartition("\n")
    return int(status), body
