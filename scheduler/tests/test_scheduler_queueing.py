"""The queue in a scheduler at work, against the stock API server.

What upstream tests beside its cases in `test/integration/scheduler/queueing/queue_test.go`.
"""

import asyncio
import sys
import types
import uuid
from collections.abc import AsyncIterator, Callable, Iterator
from typing import Any

import pytest

from scheduler.tests.requeueing import cases, stage
from whipstaff.runtime import errors, resources
from whipstaff.scheduler import (
    cluster_events,
    configuration,
    extender_testing,
    framework,
    queue,
    queueing_hints,
)
from whipstaff.scheduler.cluster_events import Action

pytestmark = pytest.mark.apiserver

Object = dict[str, Any]
HERE = "whipstaff_test_queueing"
QUIET = 2.5
"""Seconds in which nothing happens in the cluster: two backoffs end in them."""

server = extender_testing.server


@pytest.fixture
async def on_stage(cluster: Any) -> AsyncIterator[stage.Stage]:
    made = stage.Stage(cluster.api, cluster.namespace, cluster.scheduler_name)
    yield made
    await made.clean()


@pytest.fixture
def own(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[type], str]]:
    """Gives a plugin class the name under which a configuration can have it."""
    module = types.ModuleType(HERE)
    monkeypatch.setitem(sys.modules, HERE, module)

    def named(plugin: type) -> str:
        setattr(module, plugin.__name__, plugin)
        return f"{HERE}:{plugin.__name__}"

    return named


def place(scheduler: stage.Open, name: str) -> str:
    """Where in the queue a pod is; "" if it isn't there."""
    places = [where for where, queued in scheduler.waiting_pods() if queued.pod.name == name]
    return places[0] if places else ""


# Gates.


async def test_a_gated_pod_is_tried_once_its_gates_are_gone(
    cluster: Any, on_stage: stage.Stage
) -> None:
    await on_stage.make(
        cases.node(),
        cases.pod("foo", schedulingGates=[{"name": "example.com/foo"}]),
        cases.pod("bar", schedulingGates=[{"name": "example.com/bar"}]),
        cases.pod("free"),
    )
    async with stage.driven(cluster, stage.settings(())) as scheduler:
        assert scheduler.attempt() == ["free"]
        await cluster.placed("free")
        await on_stage.apply(cases.Gone("Pod", "free"), scheduler)
        assert scheduler.attempt() == []
        await on_stage.apply(
            cases.Changed("Pod", "bar", {"metadata": {"labels": {"a": "b"}}}), scheduler
        )
        assert scheduler.attempt() == []
        ungated = cases.Changed("Pod", "bar", {"spec": {"schedulingGates": None}})
        await on_stage.apply(ungated, scheduler)
        assert scheduler.attempt() == ["bar"]
        assert await cluster.placed("bar") == ["node"]
        assert await cluster.node_of("foo") == ""


# Backoff.


async def test_a_backoff_is_cut_short_when_there_is_nothing_else_to_do(
    cluster: Any, on_stage: stage.Stage
) -> None:
    await on_stage.make(cases.node(), cases.pod("pod", affinity=cases.wanting("foo", "bar")))
    slow = stage.settings((), pod_initial_backoff=1000, pod_max_backoff=1000)
    async with stage.driven(cluster, slow) as scheduler:
        assert scheduler.attempt() == ["pod"]
        assert place(scheduler, "pod") == queue.UNSCHEDULABLE
        await on_stage.apply(cases.New(cases.node("node2", "foo=bar")), scheduler)
        assert place(scheduler, "pod") == queue.BACKOFF
        assert scheduler.attempt() == ["pod"]
        assert await cluster.placed("pod") == ["node2"]


async def test_without_nodes_a_pod_waits_its_backoff_like_after_an_error(
    cluster: Any, on_stage: stage.Stage
) -> None:
    await on_stage.make(cases.pod("pod"))
    slow = stage.settings((), pod_initial_backoff=1000, pod_max_backoff=1000)
    async with stage.driven(cluster, slow) as scheduler:
        assert scheduler.attempt() == ["pod"]
        await on_stage.apply(cases.New(cases.node()), scheduler)
        assert place(scheduler, "pod") == queue.BACKOFF
        assert scheduler.attempt() == []


async def test_refused_pods_rest_while_nothing_happens(cluster: Any, on_stage: stage.Stage) -> None:
    await on_stage.make(
        cases.node(labels="node=node", room="cpu=2", taints=[cases.NOT_READY]),
        cases.node("node2", "node=node2", room="cpu=2"),
        cases.pod("placed", "a=b", on="node2", ports=[8080]),
        cases.pod("too-big", asks="cpu=4"),
        cases.pod("nowhere", affinity=cases.wanting("foo", "bar")),
        cases.pod("lonely", affinity=cases.near("nobody", "node")),
        cases.pod("shy", affinity=cases.far("a", "node")),
        cases.pod("port", ports=[8080]),
        cases.pod("claim", claim="missing"),
        cases.pod(
            "spread", "c=d", topologySpreadConstraints=cases.spread("c", "zone", min_domains=2)
        ),
        cases.pod("gated", schedulingGates=[{"name": "example.com/foo"}]),
    )
    refused = ("too-big", "nowhere", "lonely", "shy", "port", "claim", "spread")
    async with cluster.scheduling(kind=stage.Open) as scheduler:
        for name in refused:
            await cluster.refused(name)
        await asyncio.sleep(QUIET)
        assert scheduler.attempts() == {**dict.fromkeys(refused, 1), "gated": 0}


# What happens while a pod is on its way.


class Hold(framework.Plugin):
    """Has pods wait for its leave, and counts how often its hint is asked."""

    name = "Hold"
    asked: int
    handle: Any

    def __init__(self) -> None:
        Hold.asked = 0
        self.queueing_hints = (
            queueing_hints.on(cluster_events.NODE, Action.UPDATE_NODE_LABEL, self._hint),
        )

    def permit(self, _: Any, __: Any, ___: str, handle: Any) -> framework.Wait:
        Hold.handle = handle
        return framework.Wait(60)

    def _hint(self, *_: Any) -> bool:
        Hold.asked += 1
        return True


def held(name: str) -> Any:
    """The pod that waits for leave."""
    found = [each for each in Hold.handle.waiting_pods if each.pod.name == name]
    return found[0] if found else None


async def test_what_happens_while_a_pod_waits_for_leave_counts_when_that_is_denied(
    cluster: Any, on_stage: stage.Stage, own: Callable[[type], str]
) -> None:
    await on_stage.make(cases.node(), cases.pod("pod1"))
    async with stage.driven(cluster, stage.settings(("NodeName", own(Hold)))) as scheduler:
        assert scheduler.attempt() == ["pod1"]
        labelled = cases.Changed("Node", "node", {"metadata": {"labels": {"updated": ""}}})
        await on_stage.apply(labelled, scheduler)
        await on_stage.apply(cases.New(cases.pod("pod2")), scheduler)
        assert scheduler.attempt() == ["pod2"]

        held("pod1").reject(Hold.name, "not now")
        await stage.until(lambda: place(scheduler, "pod1") != "", "pod1 is put back")
        assert place(scheduler, "pod1") == queue.ACTIVE
        assert Hold.asked == 1

        held("pod2").allow(Hold.name)
        assert await cluster.placed("pod2") == ["node"]
        assert scheduler.attempt() == ["pod1"]
        held("pod1").allow(Hold.name)
        assert await cluster.placed("pod1") == ["node"]


class Job(framework.Plugin):
    """Refuses executors until their driver is bound, and has them tried then."""

    name = "Job"
    bound: bool
    queueing_hints = ()

    def __init__(self) -> None:
        Job.bound = False

    def pre_filter(self, _: Any, pod: Any, __: Any) -> framework.Status | None:
        if Job.bound or pod.name == "driver":
            return None
        return framework.Status(framework.Code.UNSCHEDULABLE, ("no driver",))

    def post_bind(self, _: Any, pod: Any, __: str, handle: Any) -> None:
        if pod.name == "driver":
            Job.bound = True
            handle.activate([f"{pod.namespace}/{name}" for name in ("one", "two", "missing")])


async def test_a_plugin_has_other_pods_tried_when_one_is_bound(
    cluster: Any, on_stage: stage.Stage, own: Callable[[type], str]
) -> None:
    await on_stage.make(cases.node(), cases.pod("one"), cases.pod("two"), cases.pod("three"))
    async with stage.driven(cluster, stage.settings(("NodeName", own(Job)))) as scheduler:
        assert sorted(scheduler.attempt()) == ["one", "three", "two"]
        await on_stage.apply(cases.New(cases.pod("driver")), scheduler)
        assert scheduler.attempt() == ["driver"]
        await stage.until(lambda: Job.bound, "the driver is bound")
        assert sorted(scheduler.attempt()) == ["one", "two"]
        assert await cluster.placed("one", "two") == ["node", "node"]
        assert place(scheduler, "three") == queue.UNSCHEDULABLE


# Resources that only a plugin knows.


class Picky(framework.Plugin):
    """Refuses every pod, and wants to hear of a custom resource."""

    name = "Picky"
    group = ""

    def __init__(self) -> None:
        self.queueing_hints = (queueing_hints.on(f"foos.v1.{self.group}", Action.ALL),)

    def pre_filter(self, *_: Any) -> framework.Status:
        return framework.Status(framework.Code.UNSCHEDULABLE, ("always",))


@pytest.fixture
async def foos(cluster: Any) -> AsyncIterator[resources.Resource]:
    """A custom resource that the API server knows."""
    group = f"g{uuid.uuid4().hex[:8]}.example.com"
    foo = resources.Resource(group, "v1", "foos", "Foo", namespaced=True)
    schema = {"type": "object", "x-kubernetes-preserve-unknown-fields": True}
    version = {
        "name": "v1",
        "served": True,
        "storage": True,
        "schema": {"openAPIV3Schema": schema},
    }
    definition = {
        "metadata": {"name": foo.name},
        "spec": {
            "group": group,
            "scope": "Namespaced",
            "names": {"plural": "foos", "kind": "Foo"},
            "versions": [version],
        },
    }
    await cluster.api.create(resources.CUSTOMRESOURCEDEFINITIONS, definition)

    async def is_served() -> bool:
        try:
            await cluster.api.list(foo, cluster.namespace)
        except errors.NotFound:
            return False
        return True

    await cluster.eventually(is_served, "foos are served")
    yield foo
    await cluster.api.delete(resources.CUSTOMRESOURCEDEFINITIONS, foo.name)

    async def is_forgotten() -> bool:
        groups = cluster.plane.request("GET", "/apis")["groups"]
        return all(each["name"] != group for each in groups)

    await cluster.eventually(is_forgotten, "the group of foos is gone")


async def test_a_custom_resource_that_a_plugin_asks_for_retries_its_pods(
    cluster: Any,
    on_stage: stage.Stage,
    own: Callable[[type], str],
    foos: resources.Resource,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(Picky, "group", foos.group)
    await on_stage.make(cases.node(), cases.pod("pod"))
    body = {"apiVersion": foos.api_version, "kind": foos.kind, "metadata": {"name": "foo1"}}
    async with stage.driven(cluster, stage.settings((own(Picky),))) as scheduler:
        assert scheduler.attempt() == ["pod"]
        assert place(scheduler, "pod") == queue.UNSCHEDULABLE
        await cluster.api.create(foos, body, cluster.namespace)
        await stage.until(lambda: place(scheduler, "pod") == queue.ACTIVE, "a foo came")
        assert scheduler.attempt() == ["pod"]
        await cluster.api.patch(foos, "foo1", {"spec": {"a": 1}}, cluster.namespace)
        await stage.until(lambda: place(scheduler, "pod") == queue.ACTIVE, "a foo changed")
        assert scheduler.attempt() == ["pod"]
        await cluster.api.delete(foos, "foo1", cluster.namespace)
        await stage.until(lambda: place(scheduler, "pod") == queue.ACTIVE, "a foo went")
        assert scheduler.attempts() == {"pod": 3}


# Extenders.


async def test_a_pod_that_an_extender_refused_is_retried_when_anything_happens(
    cluster: Any, on_stage: stage.Stage, server: extender_testing.Server
) -> None:
    def refuse(_: Object) -> Object:
        # Another reason each time: writing it down is nothing that has the pod tried again.
        reason = f"reason {len(server.asked)}"
        return {"FailedNodes": {"node": reason}}

    server.answers["filter"] = refuse
    unavailable = "0/1 nodes are available: 1"
    settings = configuration.Configuration(extenders=(server.settings(),))
    await on_stage.make(cases.node(), cases.pod("pod"))
    async with cluster.scheduling(settings=settings, kind=stage.Open) as scheduler:
        await cluster.refused("pod", reasons=f"{unavailable} reason 1.")
        await asyncio.sleep(QUIET)
        assert scheduler.attempts() == {"pod": 1}
        for body in (cases.csi_driver("driver", capacity=True), cases.pod("other", on="node")):
            before = len(server.asked)
            await on_stage.make(body)
            await cluster.refused("pod", reasons=f"{unavailable} reason {before + 1}.")
        before = len(server.asked)
        annotations = {"metadata": {"annotations": {"for": "the extender"}}}
        await cluster.api.patch(resources.PODS, "pod", annotations, cluster.namespace)
        await cluster.refused("pod", reasons=f"{unavailable} reason {before + 1}.")
