"""The example plugins do what their page says, alone and in a scheduler of one's own."""

import asyncio
import importlib
import os
import pathlib
import re
import socket
import subprocess
import sys
import time
import tomllib
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest

from example_plugins import cool, gang, maintenance
from whipstaff.cluster import testing as clusters
from whipstaff.runtime import client, config, resources
from whipstaff.scheduler import (
    app,
    configuration,
    evaluation,
    framework,
    pods,
    profile,
    snapshot,
    testing,
    waiting_pods,
)

EXAMPLE = pathlib.Path(__file__).parents[1]
PAGE = EXAMPLE.parents[1] / "docs" / "plugins.md"


def annotated(name: str, **annotations: str) -> dict[str, Any]:
    node = testing.node(name)
    node["metadata"]["annotations"] = {
        f"example.com/{key}": value for key, value in annotations.items()
    }
    return node


# Alone, against a snapshot.


def test_cool_nodes_score_high_and_unknown_ones_nothing() -> None:
    nodes = testing.cluster(
        [
            annotated("cool", celsius="20"),
            annotated("hot", celsius="95"),
            annotated("boiling", celsius="140"),
            annotated("frozen", celsius="-5"),
            annotated("wrong", celsius="warm"),
            annotated("absurd", celsius="9" * 5000),
            testing.node("unknown"),
        ]
    )

    scores = testing.scores(cool.Cool.from_arguments({}), testing.pod_info(), nodes)

    unknown = dict.fromkeys(("wrong", "absurd", "unknown"), 0)
    assert scores == {"cool": 80, "hot": 5, "boiling": 0, "frozen": 100, **unknown}


def test_cool_reads_the_annotation_that_its_arguments_name() -> None:
    nodes = testing.cluster([annotated("a", inlet="30", celsius="90")])
    plugin = cool.Cool.from_arguments({"annotation": "example.com/inlet"})

    assert testing.scores(plugin, testing.pod_info(), nodes) == {"a": 70}


def test_a_wrong_argument_is_named() -> None:
    with pytest.raises(ValueError, match=r"doesn't take its arguments: .*'anotation'"):
        profile.build(
            "x",
            {"queueSort": ("PrioritySort",), "score": ("example_plugins.cool:Cool",)},
            {},
            {"example_plugins.cool:Cool": {"anotation": "x"}},
        )


def test_only_short_pods_go_where_maintenance_is_due() -> None:
    nodes = testing.cluster([testing.node("free"), annotated("due", maintenance="tonight")])
    plugin = maintenance.Maintenance()
    short = testing.pod_info(labels={"example.com/short": "true"})

    found = testing.statuses(plugin, testing.pod_info(), nodes)

    assert found["free"] == framework.SUCCESS
    assert found["due"].reasons == ("node(s) were about to be maintained (tonight)",)
    assert set(testing.statuses(plugin, short, nodes).values()) == {framework.SUCCESS}


def test_the_configuration_asks_all_three_at_their_points() -> None:
    [read] = configuration.load(str(EXAMPLE / "scheduler.yaml")).profiles

    built = app.build_profiles(configuration.Configuration(profiles=(read,)))[read.scheduler_name]

    assert [entry.name for entry in built.filters if entry.name == "Maintenance"]
    assert [entry.weight for entry in built.scorers if entry.name == "Cool"] == [10]
    assert [plugin.name for plugin in built.permits if isinstance(plugin, gang.Gang)] == ["Gang"]
    assert all(entry.kept for entry in built.filters if entry.name == "Maintenance")
    assert all(entry.kept for entry in built.scorers if entry.name == "Cool")


def test_a_failing_plugin_is_named_with_what_it_was_asked() -> None:
    class Broken(framework.Plugin):
        name = "Broken"

        def score(self, *_: Any) -> Any:
            raise KeyError("celsius")

    nodes, entry = testing.cluster([testing.node("a")]), profile.scorer_of(Broken())
    with pytest.raises(framework.PluginError, match='plugin "Broken" failed with: KeyError'):
        evaluation.score(entry, testing.pod_info(), nodes, {}, np.arange(1))


class Handle:
    """What a Permit plugin works with, for pods that have a node."""

    def __init__(self, cluster: snapshot.Snapshot) -> None:
        self.cluster = cluster
        self.waiting_pods = waiting_pods.WaitingPods()
        self.api: Any = None

    def latest(self, _: str, /) -> dict[str, Any] | None:
        return None


def member(name: str, **more: Any) -> pods.PodInfo:
    labels = {"example.com/gang": "pair", "example.com/gang-size": "2"}
    return testing.pod_info(name, labels=labels, node_name="a", **more)


async def test_a_gang_waits_for_its_last_member_and_then_goes_together() -> None:
    handle = Handle(testing.cluster([testing.node("a")]))
    plugin = gang.Gang.from_arguments({"seconds": 30})
    first, stranger, last = member("first"), member("first", namespace="other"), member("last")
    for pod in (first, stranger):
        handle.cluster.add_pod(pod)
        assert plugin.permit({}, pod, "a", handle) == framework.Wait(30)
        handle.waiting_pods.add(waiting_pods.WaitingPod(pod, {"Gang": 30}))

    handle.cluster.add_pod(last)

    assert plugin.permit({}, last, "a", handle) is None
    waiting = {entry.pod.key: entry for entry in handle.waiting_pods}
    assert await waiting["default/first"].answer() == framework.SUCCESS
    assert waiting["other/first"].pending_plugins == ("Gang",)
    waiting["other/first"].reject("Gang", "the test is over")


async def test_a_member_that_gives_up_takes_the_others_with_it() -> None:
    handle = Handle(testing.cluster([testing.node("a")]))
    waiting = waiting_pods.WaitingPod(member("first"), {"Gang": 30})
    handle.waiting_pods.add(waiting)

    gang.Gang(30).unreserve({}, member("last"), "a", handle)

    answer = await waiting.answer()
    assert answer.is_rejected
    assert answer.reasons == ("last of the same gang gave up",)


def test_the_package_brings_its_plugins_by_name() -> None:
    entries = tomllib.loads((EXAMPLE / "pyproject.toml").read_text(encoding="utf-8"))
    found = entries["project"]["entry-points"][profile.ENTRY_POINTS]

    assert set(found) == {"Cool", "Maintenance", "Gang"}
    for name, value in found.items():
        module, _, attribute = value.partition(":")
        assert getattr(importlib.import_module(module), attribute).name == name


# The page.


def test_code_on_the_page_is_that_of_the_files() -> None:
    text = PAGE.read_text(encoding="utf-8")
    blocks = re.findall(r"<!-- from (\S+) -->\n```\w+\n(.*?)```", text, re.DOTALL)

    assert len(blocks) >= 4
    for path, block in blocks:
        assert block == (PAGE.parents[1] / path).read_text(encoding="utf-8"), path
    assert len(re.findall(r"^```(?:python|yaml)$", text, re.MULTILINE)) == len(blocks)


# With the real API server, and the scheduler as a process of its own.


@pytest.fixture
def scheduler(apiserver: clusters.ControlPlane, tmp_path: pathlib.Path) -> Iterator[str]:
    """`whipstaff scheduler` with the example's configuration; the scheduler name of its pods."""
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        port = taken.getsockname()[1]
    flags = (
        f"--config={EXAMPLE / 'scheduler.yaml'}",
        f"--kubeconfig={apiserver.kubeconfig}",
        "--scheduler-name=example-plugins",
        "--leader-elect=false",
        "--bind-address=127.0.0.1",
        f"--secure-port={port}",
    )
    code = "from whipstaff.runtime import commands; commands.main()"
    environment = {**os.environ, "HOME": str(tmp_path), "PYTHONPATH": str(EXAMPLE / "src")}
    with (tmp_path / "scheduler.log").open("w") as log:
        process = subprocess.Popen(
            [sys.executable, "-c", code, "scheduler", *flags],
            stdout=log,
            stderr=log,
            env=environment,
        )
        yield "example-plugins"
        alive = process.poll() is None
        process.kill()
        process.wait()
    assert alive, (tmp_path / "scheduler.log").read_text()


async def make_node(api: client.Client, name: str, **annotations: str) -> None:
    raw = annotated(name, **annotations)
    raw["status"]["conditions"] = [{"type": "Ready", "status": "True"}]
    raw["status"].pop("images")
    await api.create(resources.NODES, raw)


async def make_pod(api: client.Client, namespace: str, name: str, **more: Any) -> None:
    body = testing.pod(name, namespace=namespace, **more)
    del body["metadata"]["uid"], body["status"]
    body["spec"].update(schedulerName="example-plugins", terminationGracePeriodSeconds=0)
    body["spec"]["containers"][0]["image"] = "registry.k8s.io/pause:3.10"
    await api.create(resources.PODS, body, namespace)


async def eventually(question: Any, wanted: Any) -> None:
    end = time.monotonic() + 40
    while (found := await question()) != wanted:
        assert time.monotonic() < end, f"{found} and not {wanted}"
        await asyncio.sleep(0.1)


@pytest.mark.apiserver
async def test_pods_are_placed_as_the_example_says(
    apiserver: clusters.ControlPlane, namespace: str, scheduler: str
) -> None:
    assert scheduler == "example-plugins"
    async with client.Client(config.load(str(apiserver.kubeconfig))) as api:

        async def node_of(name: str) -> str:
            return str((await api.get(resources.PODS, name, namespace))["spec"].get("nodeName"))

        nodes = {"due": {"celsius": "5", "maintenance": "tonight"}, "cool": {"celsius": "20"}}
        nodes["hot"] = {"celsius": "90"}
        try:
            for name, annotations in nodes.items():
                await make_node(api, name, **annotations)
            await make_pod(api, namespace, "long")
            await eventually(lambda: node_of("long"), "cool")
            await make_pod(api, namespace, "short", labels={"example.com/short": "true"})
            await eventually(lambda: node_of("short"), "due")

            labels = {"example.com/gang": "pair", "example.com/gang-size": "2"}
            await make_pod(api, namespace, "first", labels=labels)
            await make_pod(api, namespace, "alone")
            await eventually(lambda: node_of("alone"), "cool")
            assert await node_of("first") == "None"
            await make_pod(api, namespace, "second", labels=labels)
            await eventually(lambda: node_of("first"), "cool")
            await eventually(lambda: node_of("second"), "cool")
        finally:
            for name in nodes:
                await api.delete(resources.NODES, name)
