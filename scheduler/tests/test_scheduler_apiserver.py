"""Scheduling against the stock API server: what users see of their pods."""

import asyncio
import dataclasses
from typing import Any

import pytest

from whipstaff.runtime import errors, objects, resources
from whipstaff.scheduler import configuration, plugin_arguments

pytestmark = pytest.mark.apiserver

Object = dict[str, Any]


def unfit(reasons: str, *, nodes: int = 1, nobody: int | None = None, hopeless: int = 0) -> str:
    """The whole message: `nobody` nodes without victims, `hopeless` ones where none would help."""
    counts = {
        "No preemption victims found for incoming pod": nodes if nobody is None else nobody,
        "Preemption is not helpful for scheduling": hopeless,
    }
    told = ", ".join(f"{count} {text}" for text, count in counts.items() if count)
    before = f"0/{nodes} nodes are available:"
    return f"{before} {reasons}. no new claims to deallocate, preemption: {before} {told}."


class Gate:
    """Before the scheduler's client: holds bindings back until it is opened."""

    def __init__(self, api: Any) -> None:
        self._api = api
        self.reached = asyncio.Event()
        self.opened = asyncio.Event()

    def __getattr__(self, name: str) -> Any:
        return getattr(self._api, name)

    async def create(self, *args: Any, **settings: Any) -> Object:
        if settings.get("subresource") == "binding":
            self.reached.set()
            await self.opened.wait()
        return await self._api.create(*args, **settings)


# Placing.


async def test_pods_are_bound_and_told_so(cluster: Any) -> None:
    for name in ("node-a", "node-b"):
        await cluster.node(name)
    async with cluster.scheduling():
        for name in ("one", "two", "three", "four"):
            await cluster.pod(name)
        nodes = await cluster.placed("one", "two", "three", "four")
        assert sorted(nodes) == ["node-a", "node-a", "node-b", "node-b"]
        pod = await cluster.get("one")
        assert objects.condition(pod, "PodScheduled")["status"] == "True"
        assert "nominatedNodeName" not in pod["status"]
        [event] = await cluster.events("one", "Scheduled")
    assert event["note"] == f"Successfully assigned {cluster.namespace}/one to {nodes[0]}"
    assert (event["type"], event["action"]) == ("Normal", "Binding")
    assert event["reportingController"] == cluster.scheduler_name
    assert event["regarding"]["uid"] == objects.uid(pod)


async def test_pods_that_were_there_before_the_scheduler_are_bound(cluster: Any) -> None:
    await cluster.node("node-a")
    await cluster.pod("early")
    async with cluster.scheduling():
        assert await cluster.placed("early") == ["node-a"]


async def test_other_schedulers_pods_are_left_alone_but_counted(cluster: Any) -> None:
    await cluster.node("node-a", cpu="1")
    await cluster.pod("theirs", cpu="600m", scheduler="somebody-else")
    async with cluster.scheduling():
        await cluster.pod("ours", cpu="300m")
        await cluster.placed("ours")
        assert await cluster.node_of("theirs") == ""
        await cluster.bind("theirs", "node-a")
        await cluster.pod("too-much", cpu="300m")
        await cluster.refused("too-much", unfit("1 Insufficient cpu"))
        assert objects.condition(await cluster.get("theirs"), "PodScheduled")["status"] == "True"


async def test_a_higher_priority_is_served_first(cluster: Any) -> None:
    await cluster.node("node-a", pods=1)
    for name, value in (("test-low", 1), ("test-high", 1000)):
        await cluster.api.create(
            resources.PRIORITYCLASSES,
            {"metadata": {"name": name}, "value": value},
        )
    try:
        await cluster.pod("low", priorityClassName="test-low")
        await cluster.pod("high", priorityClassName="test-high")
        async with cluster.scheduling():
            await cluster.placed("high")
            await cluster.refused("low", unfit("1 Too many pods"))
    finally:
        for name in ("test-low", "test-high"):
            await cluster.api.delete(resources.PRIORITYCLASSES, name)


async def test_a_profile_decides_for_its_own_scheduler_name(cluster: Any) -> None:
    arguments = {
        **configuration.Profile("x").arguments,
        "NodeResourcesFit": {
            **plugin_arguments.defaults("NodeResourcesFit"),
            "scoringStrategy": {
                "type": "MostAllocated",
                "resources": [{"name": "cpu", "weight": 1}],
            },
        },
    }
    packing = dataclasses.replace(configuration.Profile("x"), arguments=arguments)
    settings = configuration.Configuration(profiles=(packing,))
    for name in ("node-a", "node-b", "node-c"):
        await cluster.node(name)
    async with cluster.scheduling(settings=settings):
        names = [f"pod-{number}" for number in range(6)]
        await cluster.pod(names[0], cpu="500m")
        await cluster.placed(names[0])
        for name in names[1:]:
            await cluster.pod(name, cpu="500m")
        assert len(set(await cluster.placed(*names))) == 1


# Refusing, and trying again.


async def test_a_pod_that_fits_nowhere_is_told_why(cluster: Any) -> None:
    await cluster.node("small", cpu="1")
    await cluster.node("tainted", taints=[{"key": "gpu", "effect": "NoSchedule"}])
    reasons = "1 Insufficient cpu, 1 node(s) had untolerated taint(s)"
    message = unfit(reasons, nodes=2, nobody=0, hopeless=2)
    async with cluster.scheduling():
        pod = await cluster.pod("big", cpu="2")
        condition = await cluster.refused("big", message)
        assert condition["reason"] == "Unschedulable"
        assert condition["observedGeneration"] == pod["metadata"]["generation"]
        [event] = await cluster.events("big", "FailedScheduling")
    assert event["note"] == message
    assert (event["type"], event["action"]) == ("Warning", "Scheduling")
    assert event["reportingController"] == cluster.scheduler_name


async def test_without_any_node_pods_wait_for_one(cluster: Any) -> None:
    async with cluster.scheduling():
        await cluster.pod("early")
        await cluster.refused("early", "no nodes available to schedule pods")
        await cluster.node("node-a")
        await cluster.placed("early")


async def test_a_refusal_is_written_once_and_not_again_and_again(cluster: Any) -> None:
    await cluster.node("node-a", cpu="1")
    async with cluster.scheduling():
        await cluster.pod("big", cpu="2")
        first = await cluster.refused("big")
        version = objects.resource_version(await cluster.get("big"))
        # Deleting a pod elsewhere has the big one tried again, for the same reason in vain.
        await cluster.pod("other")
        await cluster.placed("other")
        await cluster.api.delete(resources.PODS, "other", cluster.namespace)
        await asyncio.sleep(1.5)
        assert objects.resource_version(await cluster.get("big")) == version
        await cluster.node("node-b", taints=[{"key": "gpu", "effect": "NoSchedule"}])
        reasons = "1 Insufficient cpu, 1 node(s) had untolerated taint(s)"
        await cluster.refused("big", unfit(reasons, nodes=2, nobody=0, hopeless=2))
    again = await cluster.refused("big")
    assert again["lastTransitionTime"] == first["lastTransitionTime"]


async def test_a_new_node_helps(cluster: Any) -> None:
    await cluster.node("small", cpu="1")
    async with cluster.scheduling():
        await cluster.pod("big", cpu="2")
        await cluster.refused("big")
        await cluster.node("large", cpu="8")
        assert await cluster.placed("big") == ["large"]


async def test_a_changed_label_helps(cluster: Any) -> None:
    await cluster.node("node-a")
    async with cluster.scheduling():
        await cluster.pod("picky", nodeSelector={"disk": "ssd"})
        await cluster.refused(
            "picky",
            unfit("1 node(s) didn't match Pod's node affinity/selector", nobody=0, hopeless=1),
        )
        await cluster.api.patch(
            resources.NODES, "node-a", {"metadata": {"labels": {"disk": "ssd"}}}
        )
        await cluster.placed("picky")


async def test_a_lifted_taint_and_an_uncordoned_node_help(cluster: Any) -> None:
    await cluster.node("node-a", taints=[{"key": "busy", "effect": "NoSchedule"}])
    async with cluster.scheduling():
        await cluster.pod("waits")
        await cluster.refused("waits")
        await cluster.api.patch(
            resources.NODES, "node-a", {"spec": {"taints": None, "unschedulable": True}}
        )
        await cluster.refused("waits", unfit("1 node(s) were unschedulable", nobody=0, hopeless=1))
        await cluster.api.patch(resources.NODES, "node-a", {"spec": {"unschedulable": None}})
        await cluster.placed("waits")


async def test_a_deleted_pod_makes_room(cluster: Any) -> None:
    await cluster.node("node-a", cpu="1")
    async with cluster.scheduling():
        await cluster.pod("first", cpu="800m")
        await cluster.placed("first")
        await cluster.pod("second", cpu="800m")
        await cluster.refused("second", unfit("1 Insufficient cpu"))
        await cluster.api.delete(resources.PODS, "first", cluster.namespace)
        await cluster.placed("second")


async def test_a_pod_that_ends_makes_room(cluster: Any) -> None:
    await cluster.node("node-a", cpu="1")
    async with cluster.scheduling():
        await cluster.pod("first", cpu="800m")
        await cluster.placed("first")
        await cluster.pod("second", cpu="800m")
        await cluster.refused("second")
        await cluster.api.patch(
            resources.PODS,
            "first",
            {"status": {"phase": "Succeeded"}},
            cluster.namespace,
            subresource="status",
        )
        await cluster.placed("second")


async def test_a_gated_pod_waits_until_its_gates_are_gone(cluster: Any) -> None:
    await cluster.node("node-a")
    async with cluster.scheduling() as scheduler:
        await cluster.pod("gated", schedulingGates=[{"name": "example.com/quota"}])
        await cluster.pod("free")
        await cluster.placed("free")
        condition = objects.condition(await cluster.get("gated"), "PodScheduled")
        assert condition["reason"] == "SchedulingGated"
        assert scheduler.metrics.queue_lengths()["gated"] == 1
        await cluster.api.patch(
            resources.PODS, "gated", {"spec": {"schedulingGates": None}}, cluster.namespace
        )
        await cluster.placed("gated")
        assert scheduler.metrics.queue_lengths()["gated"] == 0


async def test_host_ports_are_taken_once_a_node(cluster: Any) -> None:
    for name in ("node-a", "node-b"):
        await cluster.node(name)
    async with cluster.scheduling():
        for name in ("one", "two"):
            await cluster.pod(name, host_port=8080)
        assert sorted(await cluster.placed("one", "two")) == ["node-a", "node-b"]
        await cluster.pod("three", host_port=8080)
        await cluster.refused(
            "three",
            unfit("2 node(s) didn't have free ports for the requested pod ports", nodes=2),
        )
        await cluster.pod("elsewhere", host_port=8081)
        await cluster.placed("elsewhere")
        freed = await cluster.node_of("one")
        await cluster.api.delete(resources.PODS, "one", cluster.namespace)
        assert await cluster.placed("three") == [freed]


async def test_what_is_not_supported_yet_waits_and_says_so(cluster: Any) -> None:
    await cluster.node("node-a")
    async with cluster.scheduling():
        await cluster.pod("pod", resourceClaims=[{"name": "gpu", "resourceClaimName": "gpu"}])
        await cluster.refused(
            "pod",
            reasons="0/1 nodes are available: pod needs what this scheduler doesn't support yet: "
            "resource claims (DynamicResources).",
        )


async def test_a_pod_deleted_while_it_waits_is_forgotten(cluster: Any) -> None:
    await cluster.node("node-a", cpu="1")
    async with cluster.scheduling() as scheduler:
        await cluster.pod("big", cpu="2")
        await cluster.refused("big")
        assert scheduler.metrics.queue_lengths()["unschedulable"] == 1
        await cluster.api.delete(resources.PODS, "big", cluster.namespace)
        await cluster.pod("small")
        await cluster.placed("small")
        assert sum(scheduler.metrics.queue_lengths().values()) == 0


# Others act at the same time.


async def test_a_pod_that_somebody_else_bound_meanwhile_is_theirs(cluster: Any) -> None:
    await cluster.node("node-a", cpu="1")
    gates: list[Gate] = []
    async with cluster.scheduling(lambda api: gates.append(Gate(api)) or gates[0]) as scheduler:
        await cluster.pod("contested", cpu="800m")
        [gate] = gates
        await asyncio.wait_for(gate.reached.wait(), 10)
        await cluster.node("node-b", cpu="1")
        await cluster.bind("contested", "node-b")
        gate.opened.set()
        # What was kept for it on node-a is free again.
        await cluster.pod("next", cpu="800m")
        assert await cluster.placed("next") == ["node-a"]
        assert await cluster.node_of("contested") == "node-b"
        assert scheduler.metrics.cache_sizes()["assumed_pods"] == 0
        assert scheduler.metrics.attempts["error", cluster.scheduler_name] == 0


async def test_a_node_that_somebody_else_filled_meanwhile_counts_as_full(cluster: Any) -> None:
    await cluster.node("node-a", cpu="1")
    await cluster.pod("theirs", cpu="300m", scheduler="somebody-else")
    gates: list[Gate] = []
    async with cluster.scheduling(lambda api: gates.append(Gate(api)) or gates[0]):
        await cluster.pod("ours", cpu="600m")
        [gate] = gates
        await asyncio.wait_for(gate.reached.wait(), 10)
        await cluster.bind("theirs", "node-a")
        await cluster.pod("more", cpu="300m")
        await cluster.refused("more", unfit("1 Insufficient cpu"))
        gate.opened.set()
        await cluster.placed("ours")


async def test_a_pod_deleted_while_it_is_bound_gives_its_place_back(cluster: Any) -> None:
    await cluster.node("node-a", cpu="1")
    gates: list[Gate] = []
    async with cluster.scheduling(lambda api: gates.append(Gate(api)) or gates[0]) as scheduler:
        await cluster.pod("doomed", cpu="800m")
        [gate] = gates
        await asyncio.wait_for(gate.reached.wait(), 10)
        await cluster.api.delete(resources.PODS, "doomed", cluster.namespace)
        await cluster.pod("next", cpu="800m")
        gate.opened.set()
        assert await cluster.placed("next") == ["node-a"]
        assert scheduler.metrics.attempts["error", cluster.scheduler_name] == 0


async def test_a_pod_made_anew_under_its_name_is_another_pod(cluster: Any) -> None:
    await cluster.node("node-a", cpu="1")
    gates: list[Gate] = []
    async with cluster.scheduling(lambda api: gates.append(Gate(api)) or gates[0]):
        old = await cluster.pod("web", cpu="800m")
        [gate] = gates
        await asyncio.wait_for(gate.reached.wait(), 10)
        await cluster.api.delete(resources.PODS, "web", cluster.namespace)
        new = await cluster.pod("web", cpu="700m")
        gate.opened.set()
        await cluster.placed("web")
        assert objects.uid(await cluster.get("web")) == objects.uid(new) != objects.uid(old)


async def test_an_answer_that_is_lost_binds_once(cluster: Any) -> None:
    class Lossy(Gate):
        lost = 0

        async def create(self, *args: Any, **settings: Any) -> Object:
            answer = await self._api.create(*args, **settings)
            if settings.get("subresource") == "binding" and self.lost < 3:
                self.lost += 1
                raise errors.Unreachable("the answer was lost")
            return answer

    for name in ("node-a", "node-b"):
        await cluster.node(name)
    async with cluster.scheduling(Lossy) as scheduler:
        names = [f"pod-{number}" for number in range(6)]
        for name in names:
            await cluster.pod(name)
        await cluster.placed(*names)
        for name in names:
            await cluster.events(name, "Scheduled")
        counted = scheduler.metrics.attempts
        assert counted["scheduled", cluster.scheduler_name] == 6
        assert counted["error", cluster.scheduler_name] == 0


async def test_a_refused_binding_is_an_error_that_is_tried_again(cluster: Any) -> None:
    class Refusing(Gate):
        refused = 0

        async def create(self, *args: Any, **settings: Any) -> Object:
            if settings.get("subresource") == "binding" and not self.refused:
                self.refused += 1
                raise errors.Forbidden(403, "Forbidden", "admission webhook says no")
            return await self._api.create(*args, **settings)

    await cluster.node("node-a")
    async with cluster.scheduling(Refusing):
        await cluster.pod("web")
        condition = await cluster.refused("web")
        assert condition["reason"] == "SchedulerError"
        assert "admission webhook says no" in condition["message"]
        await cluster.placed("web")
    assert objects.condition(await cluster.get("web"), "PodScheduled")["status"] == "True"


async def test_while_the_api_server_restarts_nothing_is_lost_or_overfilled(
    own_cluster: Any,
) -> None:
    for number in range(10):
        await own_cluster.node(f"node-{number}", cpu="4", pods=30)
    await own_cluster.pods_of(250)
    async with own_cluster.scheduling() as scheduler:
        bound = scheduler.metrics.attempts

        async def some_are_bound() -> bool:
            return bound["scheduled", own_cluster.scheduler_name] > 40

        async def all_are_confirmed() -> bool:
            return not scheduler.metrics.cache_sizes()["assumed_pods"]

        await own_cluster.eventually(some_are_bound, "some pods are bound")
        await asyncio.to_thread(own_cluster.plane.stop_apiserver)
        await asyncio.sleep(1)
        await asyncio.to_thread(own_cluster.plane.start_apiserver)
        names = [f"pod-{number:04}" for number in range(250)]
        await own_cluster.placed(*names, within=60)
        used = await own_cluster.used()
        assert max(len(pods) for pods in used.values()) <= 30
        await own_cluster.eventually(all_are_confirmed, "the watch shows every binding")
        assert scheduler.metrics.cache_sizes()["pods"] == 250
