"""Nodes tell what they and their pods use, as metrics-server and dashboards read it."""

import dataclasses
import pathlib
import time
from typing import Any

import node_agent_builders as builders
import node_agent_parts
import prometheus_client.parser
import pytest

from whipstaff.node_agent import machine, provider, server
from whipstaff.node_agent.probing import tallies
from whipstaff.node_agent.server import file_systems, usage

MIB = 1024 * 1024


def used(at: float, cpu: int = 10**9, **more: Any) -> provider.Usage:
    fields: dict[str, Any] = {"memory": 60 * MIB, "working_set": 50 * MIB, "rss": 40 * MIB}
    return provider.Usage(at, cpu_nanoseconds=cpu, **(fields | more))


@pytest.fixture
def now() -> float:
    return time.time()


@pytest.fixture
def parts(now: float) -> node_agent_parts.Parts:
    made = node_agent_parts.Parts()
    limits = {"resources": {"limits": {"memory": "64Mi", "cpu": "1"}}}
    pod = builders.pod(
        containers=[builders.container("app", **limits), builders.container("side", **limits)],
        volumes=[
            {"name": "scratch", "emptyDir": {}},
            {"name": "memory", "emptyDir": {"medium": "Memory"}},
            {"name": "data", "persistentVolumeClaim": {"claimName": "claim"}},
            {"name": "own", "ephemeral": {"volumeClaimTemplate": {}}},
        ],
    )
    made.add(
        pod,
        builders.run(started_at=now - 100, created_at=now - 101),
        builders.run("side", started_at=now - 100, created_at=now - 101),
        builders.run("init", "exited"),
        sandbox=dataclasses.replace(builders.sandbox(), created_at=now - 102),
    )
    made.add(builders.pod("gone"), sandbox=builders.sandbox(ready=False))
    assert isinstance(made.runtime, node_agent_parts.Runtime)
    made.runtime.usages = {
        "app-0": used(now, 10 * 10**9, filesystem=1000, inodes=10, processes=3),
        "side-0": used(now, 20 * 10**9, filesystem=2000, inodes=20, processes=4),
        "init-0": used(now),
        "sandbox-0": provider.Usage(
            now, interface="eth0", received=1, receive_errors=2, sent=3, send_errors=4
        ),
    }
    return made


async def fetch(
    parts: node_agent_parts.Parts, path: str, sources: server.Sources | None = None
) -> Any:
    async with (
        node_agent_parts.served(parts, sources) as (session, _),
        session.get(path) as answer,
    ):
        assert answer.status == 200, await answer.text()
        if answer.content_type == "application/json":
            return await answer.json()
        return await answer.text()


def samples(text: str) -> dict[tuple[str, tuple[str, ...]], Any]:
    found = {}
    for family in prometheus_client.parser.text_string_to_metric_families(text):
        for sample in family.samples:
            key = (sample.name, tuple(sorted(sample.labels.values())))
            assert key not in found
            found[key] = sample
    return found


# The summary.


async def test_the_summary_has_what_the_provider_tells(
    parts: node_agent_parts.Parts, now: float
) -> None:
    summary = await fetch(parts, "/stats/summary")
    assert summary["node"]["nodeName"] == "node-0"
    (pod,) = summary["pods"]
    assert pod["podRef"] == {"name": "web", "namespace": "shop", "uid": "uid-web"}
    assert [each["name"] for each in pod["containers"]] == ["app", "side"]
    app = pod["containers"][0]
    assert app["cpu"]["usageCoreNanoSeconds"] == 10 * 10**9
    assert app["cpu"]["usageNanoCores"] == pytest.approx(100_000_000, rel=0.01)
    assert app["memory"] == {
        "time": app["cpu"]["time"],
        "availableBytes": 14 * MIB,
        "usageBytes": 60 * MIB,
        "workingSetBytes": 50 * MIB,
        "rssBytes": 40 * MIB,
    }
    assert app["rootfs"]["usedBytes"] == 1000
    assert app["rootfs"]["inodesUsed"] == 10
    assert pod["memory"]["workingSetBytes"] == 100 * MIB
    assert pod["memory"]["availableBytes"] == 28 * MIB
    assert pod["cpu"]["usageCoreNanoSeconds"] == 30 * 10**9
    assert pod["process_stats"] == {"process_count": 7}
    eth0 = {"name": "eth0", "rxBytes": 1, "rxErrors": 2, "txBytes": 3, "txErrors": 4}
    assert pod["network"] == {"time": app["cpu"]["time"], **eth0, "interfaces": [eth0]}
    assert pod["ephemeral-storage"]["usedBytes"] == 3000
    # Nobody tells of the node itself, so it uses what its pods use.
    assert summary["node"]["cpu"]["usageCoreNanoSeconds"] == 30 * 10**9
    assert summary["node"]["memory"]["availableBytes"] == 8 * 1024 * MIB - 100 * MIB
    assert [each["name"] for each in summary["node"]["systemContainers"]] == ["pods"]


async def test_the_summary_of_a_machine_has_what_the_machine_tells(
    parts: node_agent_parts.Parts, now: float, tmp_path: pathlib.Path
) -> None:
    log = tmp_path / "0.log"
    log.write_bytes(b"x" * 10_000)
    (tmp_path / "0.log.20260102-030405.gz").write_bytes(b"x" * 10_000)
    (worker, _) = parts.crew
    worker.life.runtime = worker.life.runtime.with_container(
        dataclasses.replace(worker.life.runtime.latest("app") or builders.run(), log_path=str(log))
    )

    async def volumes(uid: str) -> dict[str, server.FileSystem]:
        assert uid == "uid-web"
        return {
            name: server.FileSystem(now, 10, 100, size, 1000, 900, 5)
            for name, size in (("scratch", 7000), ("memory", 9), ("data", 10**9), ("own", 10**9))
        }

    sources = server.Sources(
        machine=machine.Machine(cpus=4, memory=1024 * MIB),
        node_usage=lambda: used(now, 500 * 10**9, working_set=600 * MIB),
        pods_usage=lambda: used(now, 50 * 10**9),
        pod_usage=lambda uid: used(now, 40 * 10**9, processes=9) if uid == "uid-web" else None,
        volumes=volumes,
        root_dir=str(tmp_path),
    )
    summary = await fetch(parts, "/stats/summary", sources)
    node, (pod,) = summary["node"], summary["pods"]
    assert node["cpu"]["usageCoreNanoSeconds"] == 500 * 10**9
    assert node["memory"]["availableBytes"] == 424 * MIB
    assert [each["name"] for each in node["systemContainers"]] == ["kubelet", "pods"]
    assert node["fs"]["capacityBytes"] >= node["fs"]["usedBytes"] > 0
    assert node["rlimit"]["maxpid"] > node["rlimit"]["curproc"] > 0
    assert node["startTime"] < pod["startTime"]
    assert pod["cpu"]["usageCoreNanoSeconds"] == 40 * 10**9
    assert pod["process_stats"] == {"process_count": 9}
    assert pod["containers"][0]["logs"]["usedBytes"] >= 20_000
    assert pod["containers"][0]["logs"]["inodesUsed"] == 2
    by_name = {volume["name"]: volume for volume in pod["volume"]}
    assert "pvcRef" not in by_name["scratch"]
    assert by_name["data"]["pvcRef"] == {"name": "claim", "namespace": "shop"}
    assert by_name["own"]["pvcRef"] == {"name": "web-own", "namespace": "shop"}
    logs = pod["containers"][0]["logs"]["usedBytes"]
    assert pod["ephemeral-storage"]["usedBytes"] == 3000 + 7000 + logs


async def test_only_cpu_and_memory_can_be_asked_for(parts: node_agent_parts.Parts) -> None:
    summary = await fetch(parts, "/stats/summary?only_cpu_and_memory=true")
    (pod,) = summary["pods"]
    assert set(pod) == {"podRef", "startTime", "containers", "cpu", "memory"}
    assert set(pod["containers"][0]) == {"name", "startTime", "cpu", "memory"}


async def test_a_provider_that_fails_is_an_error(parts: node_agent_parts.Parts) -> None:
    class Failing(node_agent_parts.Runtime):
        async def stats(self, uid: str | None = None) -> Any:
            raise provider.ProviderError("no runtime")

    parts.runtime = Failing()
    async with node_agent_parts.served(parts) as (session, _):
        async with session.get("/stats/summary") as answer:
            assert (answer.status, await answer.text()) == (500, "Internal Error: no runtime")
        async with session.get("/metrics/resource") as answer:
            assert answer.status == 200
            assert next(iter(samples(await answer.text()).values())).value == 1


# Readings.


def test_a_rate_is_that_since_the_reading_before() -> None:
    meter = usage.Meter()
    first = meter.read("a", used(1000.0, 50 * 10**9), since=900.0)
    assert first.rate == 500_000_000
    assert meter.read("a", used(1010.0, 52 * 10**9)).rate == 200_000_000
    # Too soon to tell: as before.
    assert meter.read("a", used(1010.5, 53 * 10**9)).rate == 200_000_000
    assert meter.read("a", used(1020.0, 53 * 10**9)).rate == 100_000_000
    # The counter began anew.
    assert meter.read("a", used(1030.0, 10**9), since=1029.5).rate is None
    assert meter.read("a", used(1040.0, 2 * 10**9)).rate == 100_000_000
    assert meter.read("b", used(1000.0)).rate is None
    meter.keep(["b"])
    assert meter.read("a", used(1050.0, 3 * 10**9)).rate is None


def test_what_a_node_used_doesnt_fall_when_pods_go() -> None:
    spent = usage.Sum()
    assert spent.add_up({"a": 10, "b": 5}) == 15
    assert spent.add_up({"a": 12}) == 17
    assert spent.add_up({"a": 13, "c": 1}) == 19
    # The same run, counted anew.
    assert spent.add_up({"a": 2, "c": 1}) == 21


async def test_scrapers_that_come_together_ask_the_provider_once(
    parts: node_agent_parts.Parts,
) -> None:
    async with node_agent_parts.served(parts) as (session, _):
        for path in ("/stats/summary", "/metrics/resource", "/metrics/cadvisor", "/stats/summary"):
            async with session.get(path) as answer:
                assert answer.status == 200
    assert isinstance(parts.runtime, node_agent_parts.Runtime)
    assert parts.runtime.asked == [None]


async def test_a_hundred_pods_are_scraped_in_little_time() -> None:
    parts = node_agent_parts.Parts()
    assert isinstance(parts.runtime, node_agent_parts.Runtime)
    for i in range(100):
        parts.add(builders.pod(f"pod-{i}"), builders.run(id=f"run-{i}"))
        parts.runtime.usages[f"run-{i}"] = used(time.time())
    async with node_agent_parts.served(parts) as (session, _):
        started = time.process_time()
        async with session.get("/metrics/resource") as answer:
            assert (await answer.text()).count("\n") > 500
        async with session.get("/stats/summary") as answer:
            assert len((await answer.json())["pods"]) == 100
        # Some 20 ms; the bound is for busy machines.
        assert time.process_time() - started < 0.5


# Metrics.


async def test_resource_metrics_are_those_that_metrics_server_reads(
    parts: node_agent_parts.Parts, now: float
) -> None:
    text = await fetch(parts, "/metrics/resource")
    found = samples(text)
    app = found["container_cpu_usage_seconds_total", ("app", "shop", "web")]
    assert app.labels == {"container": "app", "pod": "web", "namespace": "shop"}
    assert app.value == 10
    assert app.timestamp == pytest.approx(now, abs=0.01)
    working_set = found["container_memory_working_set_bytes", ("app", "shop", "web")]
    assert working_set.value == 50 * MIB
    started = found["container_start_time_seconds", ("app", "shop", "web")]
    assert started.value == pytest.approx(now - 101)
    assert started.timestamp is None
    assert found["pod_cpu_usage_seconds_total", ("shop", "web")].value == 30
    assert found["pod_memory_working_set_bytes", ("shop", "web")].value == 100 * MIB
    assert found["node_cpu_usage_seconds_total", ()].value == 30
    assert found["node_memory_working_set_bytes", ()].value == 100 * MIB
    assert found["resource_scrape_error", ()].value == 0
    assert "# TYPE container_cpu_usage_seconds_total counter" in text
    assert len(found) == 3 * 2 + 2 + 2 + 1


async def test_cadvisors_metrics_have_its_labels(parts: node_agent_parts.Parts) -> None:
    sources = server.Sources(
        machine=machine.Machine(cpus=4, memory=1024 * MIB, boot_id="boot"),
        cgroup=lambda pod: f"/kubepods/pod{pod['metadata']['uid']}",
    )
    text = await fetch(parts, "/metrics/cadvisor", sources)
    families = list(prometheus_client.parser.text_string_to_metric_families(text))
    by_id = {
        (sample.name, sample.labels.get("id", "")): sample
        for family in families
        for sample in family.samples
    }
    app = by_id["container_cpu_usage_seconds_total", "/kubepods/poduid-web/app-0"]
    assert app.value == 10
    assert app.labels == {
        "container": "app", "cpu": "total", "id": "/kubepods/poduid-web/app-0",
        "image": "nginx", "name": "app-0", "namespace": "shop", "pod": "web",
    }  # fmt: skip
    whole = by_id["container_memory_working_set_bytes", "/kubepods/poduid-web"]
    assert (whole.labels["container"], whole.value) == ("", 100 * MIB)
    network = by_id["container_network_receive_bytes_total", "/kubepods/poduid-web/sandbox-0"]
    assert (network.labels["interface"], network.value) == ("eth0", 1)
    assert by_id["container_memory_working_set_bytes", "/"].labels["pod"] == ""
    assert by_id["machine_cpu_cores", ""].value == 4
    assert by_id["container_scrape_error", ""].value == 0


async def test_images_with_odd_names_do_not_break_the_text(now: float) -> None:
    parts = node_agent_parts.Parts()
    parts.add(builders.pod(), builders.run(image='a"b\\c\nd'))
    assert isinstance(parts.runtime, node_agent_parts.Runtime)
    parts.runtime.usages = {"app-0": used(now)}
    found = samples(await fetch(parts, "/metrics/cadvisor"))
    assert any('a"b\\c\nd' in labels for _, labels in found)


async def test_metrics_of_probes_are_served() -> None:
    tally = tallies.Tally("Liveness", "app", "web", "shop", "uid-web")
    tally.add(success=True, seconds=0.01)
    sources = server.Sources(probes=tallies.Collector(lambda: [tally]))
    found = samples(await fetch(node_agent_parts.Parts(), "/metrics/probes", sources))
    key = ("prober_probe_total", ("Liveness", "app", "shop", "successful", "uid-web", "web"))
    assert found[key].value == 1


async def test_without_sources_there_is_little_but_no_error() -> None:
    parts = node_agent_parts.Parts()
    assert (await fetch(parts, "/stats/summary"))["pods"] == []
    assert await fetch(parts, "/metrics/probes") == ""
    assert "container_scrape_error 0" in await fetch(parts, "/metrics/cadvisor")
    async with (
        node_agent_parts.served(parts) as (session, _),
        session.get("/configz") as answer,
    ):
        assert answer.status == 404


async def test_the_configuration_is_shown_as_a_kubelets() -> None:
    sources = server.Sources(configuration=lambda: {"kind": "KubeletConfiguration"})
    shown = await fetch(node_agent_parts.Parts(), "/configz", sources)
    assert shown == {"kubeletconfig": {"kind": "KubeletConfiguration"}}


# Pods, and which node is meant.


async def test_pods_and_running_pods_are_listed(parts: node_agent_parts.Parts) -> None:
    listed = await fetch(parts, "/pods")
    assert listed["kind"] == "PodList"
    assert {pod["metadata"]["name"] for pod in listed["items"]} == {"web", "gone"}
    running = await fetch(parts, "/runningpods/")
    (pod,) = running["items"]
    assert pod["metadata"]["uid"] == "uid-web"
    assert sorted(each["name"] for each in pod["spec"]["containers"]) == ["app", "side"]


async def test_one_of_many_nodes_is_named_in_the_path_or_the_query(now: float) -> None:
    parts = node_agent_parts.Parts("node-0", "node-1")
    assert isinstance(parts.runtime, node_agent_parts.Runtime)
    parts.add(builders.pod("a"), builders.run(id="run-a"))
    parts.add(builders.pod("b", nodeName="node-1"), builders.run(id="run-b"))
    parts.runtime.usages = {"run-a": used(now), "run-b": used(now)}
    for path in ("/nodes/node-1/stats/summary", "/stats/summary?node=node-1"):
        summary = await fetch(parts, path)
        assert summary["node"]["nodeName"] == "node-1"
        assert [pod["podRef"]["name"] for pod in summary["pods"]] == ["b"]
    assert parts.runtime.asked == ["uid-b"] * 2
    assert 'pod="b"' in await fetch(parts, "/nodes/node-1/metrics/resource")
    assert len((await fetch(parts, "/nodes/node-1/pods"))["items"]) == 1
    assert len((await fetch(parts, "/pods"))["items"]) == 2
    async with node_agent_parts.served(parts) as (session, _):
        async with session.get("/metrics/resource") as answer:
            assert answer.status == 400
            assert "/nodes/node-0/metrics/resource" in await answer.text()
        async with session.get("/nodes/other/metrics/resource") as answer:
            assert answer.status == 404


async def test_simulated_pods_use_a_little() -> None:
    from whipstaff.node_agent.providers import simulated

    runtime = simulated.Provider(provider.Options(("node-0",), pod_cidr="10.0.0.0/24"))
    runtime.configure({"metadata": {"name": "node-0"}, "spec": {}})
    pod = builders.pod()
    sandbox = await runtime.ensure_sandbox(pod, provider.SandboxSpec(0))
    definition = pod["spec"]["containers"][0]
    spec = provider.ContainerSpec("app", "container", "nginx", "nginx", 0, (), (), {}, definition)
    run = await runtime.start_container(pod, sandbox, spec)
    (found,) = (await runtime.stats()).values()
    assert found.working_set == 10 * MIB
    assert await runtime.stats("uid-web") != {}
    assert await runtime.stats("other") == {}
    await runtime.stop_container(pod, run, 1)
    assert await runtime.stats() == {}
    await runtime.close()


# The machine.


def test_interfaces_of_pods_are_left_out() -> None:
    text = (
        "Inter-|   Receive                                                |  Transmit\n"
        " face |bytes packets errs drop fifo frame compressed multicast|bytes packets errs drop\n"
        "    lo: 1 1 0 0 0 0 0 0 1 1 0 0 0 0 0 0\n"
        "  eth0: 100 2 3 0 0 0 0 0 200 4 5 0 0 0 0 0\n"
        "vethabc: 1 1 0 0 0 0 0 0 1 1 0 0 0 0 0 0\n"
    )
    assert list(file_systems._interfaces(text)) == [file_systems.Interface("eth0", 100, 3, 200, 5)]


def test_a_path_that_is_not_there_has_no_file_system(tmp_path: pathlib.Path) -> None:
    assert file_systems.read(str(tmp_path / "none")) is None
    assert file_systems.of_logs(str(tmp_path / "none" / "0.log")) is None
    assert file_systems.of_logs("") is None
    found = file_systems.read(str(tmp_path))
    assert found is not None
    assert found.capacity is not None
    assert 0 < (found.available or 0) <= found.capacity
