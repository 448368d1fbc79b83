"""Preemption against the stock API server: what happens to the pods of both sides."""

import asyncio
import contextlib
import uuid
from collections.abc import AsyncIterator, Callable
from typing import Any

import pytest

from whipstaff.runtime import errors, objects, resources

pytestmark = pytest.mark.apiserver

Object = dict[str, Any]

LONG = 600
"""Seconds of grace: the pod stays, on its way out, until a test ends it as a kubelet would."""

VALUES = {"low": 100, "mid": 200, "high": 300, "never": 300}


class Stage:
    """A cluster with classes of priority."""

    def __init__(self, cluster: Any) -> None:
        self.cluster = cluster
        self._prefix = f"test-{uuid.uuid4().hex[:8]}"

    async def set(self) -> None:
        for name, value in VALUES.items():
            policy = "Never" if name == "never" else "PreemptLowerPriority"
            await self.cluster.api.create(
                resources.PRIORITYCLASSES,
                {
                    "metadata": {"name": f"{self._prefix}-{name}"},
                    "value": value,
                    "preemptionPolicy": policy,
                },
            )

    async def strike(self) -> None:
        for name in VALUES:
            await self.cluster.api.delete(resources.PRIORITYCLASSES, f"{self._prefix}-{name}")

    async def pod(
        self, name: str, priority: str, *, cpu: str = "800m", grace: int = 0, **more: Any
    ) -> Object:
        made: Object = {}

        async def is_made() -> bool:
            # Admission learns of a priority class a moment after it was made.
            with contextlib.suppress(errors.Forbidden):
                made.update(
                    await self.cluster.pod(
                        name,
                        cpu=cpu,
                        priorityClassName=f"{self._prefix}-{priority}",
                        terminationGracePeriodSeconds=grace,
                        **more,
                    )
                )
            return bool(made)

        await self.cluster.eventually(is_made, f"{name} can be made")
        return made

    async def placed(self, name: str, priority: str, node: str, **more: Any) -> Object:
        """A pod that somebody else has put on a node."""
        made = await self.pod(name, priority, scheduler="somebody-else", **more)
        await self.cluster.bind(name, node)
        return made

    async def end(self, name: str) -> None:
        """What a kubelet does when a pod's containers are gone."""
        await self.cluster.api.delete(
            resources.PODS, name, self.cluster.namespace, grace_period_seconds=0
        )

    async def is_there(self, name: str) -> bool:
        try:
            return not objects.is_terminating(await self.cluster.get(name))
        except errors.NotFound:
            return False

    async def goes(self, *names: str) -> None:
        for name in names:
            await self.cluster.eventually(self._goes(name), f"{name} is evicted")

    def _goes(self, name: str) -> Callable[[], Any]:
        async def is_going() -> bool:
            return not await self.is_there(name)

        return is_going

    async def waits_for(self, name: str, node: str) -> None:
        """Until the pod is nominated to the node; "" for none."""

        async def is_nominated() -> bool:
            found = await self.cluster.get(name)
            return bool((found["status"].get("nominatedNodeName") or "") == node)

        await self.cluster.eventually(is_nominated, f"{name} waits for {node or 'no node'}")

    async def protect(self, labels: Object, allowed: int) -> None:
        """A PodDisruptionBudget with its status, as the controller would set it."""
        body = {"metadata": {"name": "pdb"}, "spec": {"selector": {"matchLabels": labels}}}
        api, namespace = self.cluster.api, self.cluster.namespace
        await api.create(resources.PODDISRUPTIONBUDGETS, body, namespace)
        counts = {"currentHealthy": 1, "desiredHealthy": 1, "expectedPods": 1}
        await api.patch(
            resources.PODDISRUPTIONBUDGETS,
            "pdb",
            {"status": {"disruptionsAllowed": allowed, **counts}},
            namespace,
            subresource="status",
        )


@pytest.fixture
async def stage(cluster: Any) -> AsyncIterator[Stage]:
    made = Stage(cluster)
    await made.set()
    yield made
    await made.strike()


class Held:
    """Before the scheduler's client: holds back what is done to victims."""

    def __init__(self, api: Any) -> None:
        self._api = api
        self.reached = asyncio.Event()
        self.opened = asyncio.Event()
        self.deleted: list[str] = []

    def __getattr__(self, name: str) -> Any:
        return getattr(self._api, name)

    async def patch(self, resource: Any, name: str, body: Object, *args: Any, **how: Any) -> Any:
        conditions = body.get("status", {}).get("conditions", [])
        if any(each["type"] == "DisruptionTarget" for each in conditions):
            self.reached.set()
            await self.opened.wait()
        return await self._api.patch(resource, name, body, *args, **how)

    async def delete(self, resource: Any, name: str, *args: Any, **how: Any) -> Any:
        answer = await self._api.delete(resource, name, *args, **how)
        self.deleted.append(name)
        return answer


def held(into: list[Held]) -> Callable[[Any], Held]:
    def wrap(api: Any) -> Held:
        into.append(Held(api))
        return into[-1]

    return wrap


async def test_a_pod_makes_room_for_one_that_is_more_important(stage: Stage) -> None:
    cluster = stage.cluster
    await cluster.node("node-a", cpu="1")
    await stage.placed("low", "low", "node-a")
    async with cluster.scheduling() as scheduler:
        high = await stage.pod("high", "high")
        assert await cluster.placed("high") == ["node-a"]
        assert not await stage.is_there("low")
        bound = await cluster.get("high")
        assert "nominatedNodeName" not in bound["status"]
        [refusal] = await cluster.events("high", "FailedScheduling")
        [event] = await cluster.events("low", "Preempted")
        measured = scheduler.metrics
        assert measured.preemption_attempts == 1
        assert measured.preemption_victims.count() == 1
        assert measured.preemption_runs["success",] == 1
    assert refusal["note"] == "0/1 nodes are available: 1 Insufficient cpu."
    assert event["note"] == f"Preempted by pod {objects.uid(high)} on node node-a"
    assert (event["type"], event["action"]) == ("Normal", "Preempting")
    assert event["reportingController"] == cluster.scheduler_name
    assert event["related"]["uid"] == objects.uid(high)


async def test_a_victim_is_told_why_and_its_place_is_kept_until_it_is_gone(stage: Stage) -> None:
    cluster = stage.cluster
    await cluster.node("node-a", cpu="1")
    await stage.placed("low", "low", "node-a", grace=LONG)
    async with cluster.scheduling() as scheduler:
        await stage.pod("high", "high")
        await stage.goes("low")
        await stage.waits_for("high", "node-a")
        victim = await cluster.get("low")
        condition = objects.condition(victim, "DisruptionTarget")
        assert condition["status"] == "True"
        assert condition["reason"] == "PreemptionByScheduler"
        assert condition["message"] == (
            f"{cluster.scheduler_name}: preempting to accommodate a higher priority pod"
        )
        assert condition["observedGeneration"] == victim["metadata"]["generation"] - 1
        # Who is less important may wait for what will be left, and for no more.
        await stage.pod("small", "mid", cpu="100m")
        await stage.pod("rival", "mid", cpu="300m")
        await stage.waits_for("small", "node-a")
        await cluster.refused(
            "rival",
            "0/1 nodes are available: 1 Insufficient cpu. no new claims to deallocate, "
            "preemption: 0/1 nodes are available: 1 Insufficient cpu.",
        )
        await stage.end("low")
        assert await cluster.placed("high", "small") == ["node-a", "node-a"]
        assert await cluster.node_of("rival") == ""
        assert scheduler.metrics.preemption_victims.count() == 1


async def test_while_its_victim_goes_a_pod_evicts_nobody_else(stage: Stage) -> None:
    cluster = stage.cluster
    await cluster.node("node-a", cpu="1")
    await cluster.node("node-b", cpu="1", taints=[{"key": "busy", "effect": "NoSchedule"}])
    await stage.placed("low", "low", "node-a", grace=LONG)
    await stage.placed("other", "low", "node-b")
    async with cluster.scheduling() as scheduler:
        await stage.pod("high", "high")
        await stage.goes("low")
        await stage.waits_for("high", "node-a")
        # From here on an eviction on the other node would help, and the pod is tried again.
        await cluster.api.patch(resources.NODES, "node-b", {"spec": {"taints": None}})
        await cluster.refused(
            "high",
            "0/2 nodes are available: 2 Insufficient cpu. no new claims to deallocate, "
            "preemption: not eligible due to a terminating pod on the nominated node.",
        )
        await stage.waits_for("high", "node-a")
        assert await stage.is_there("other")
        await stage.end("low")
        assert await cluster.placed("high") == ["node-a"]
        assert await stage.is_there("other")
        assert scheduler.metrics.preemption_victims.count() == 1


async def test_a_pod_that_must_not_preempt_waits(stage: Stage) -> None:
    cluster = stage.cluster
    await cluster.node("node-a", cpu="1")
    await stage.placed("low", "low", "node-a")
    async with cluster.scheduling():
        await stage.pod("polite", "never")
        await cluster.refused(
            "polite",
            "0/1 nodes are available: 1 Insufficient cpu. no new claims to deallocate, "
            "preemption: not eligible due to preemptionPolicy=Never.",
        )
        assert await stage.is_there("low")
        await stage.end("low")
        await cluster.placed("polite")


async def test_equals_are_left_alone_and_wrong_nodes_too(stage: Stage) -> None:
    cluster = stage.cluster
    await cluster.node("node-a", cpu="1")
    await cluster.node("node-b", cpu="1", taints=[{"key": "gpu", "effect": "NoSchedule"}])
    await cluster.node("node-c", cpu="500m")
    await stage.placed("equal", "mid", "node-a")
    await stage.placed("low", "low", "node-b")
    async with cluster.scheduling():
        await stage.pod("mid", "mid")
        await cluster.refused(
            "mid",
            "0/3 nodes are available: 1 node(s) had untolerated taint(s), 2 Insufficient cpu. "
            "no new claims to deallocate, preemption: 0/3 nodes are available: "
            "1 No preemption victims found for incoming pod, "
            "2 Preemption is not helpful for scheduling.",
        )
        assert await stage.is_there("equal")
        assert await stage.is_there("low")


async def test_a_budget_protects_where_it_can(stage: Stage) -> None:
    cluster = stage.cluster
    for node in ("node-a", "node-b"):
        await cluster.node(node, cpu="1")
    guarded = await stage.placed("guarded", "low", "node-a")
    await cluster.api.patch(
        resources.PODS, "guarded", {"metadata": {"labels": {"app": "db"}}}, cluster.namespace
    )
    await stage.protect({"app": "db"}, allowed=0)
    await stage.placed("plain", "mid", "node-b")
    async with cluster.scheduling():
        await stage.pod("first", "high")
        # The more important pod goes, for no budget protects it.
        assert await cluster.placed("first") == ["node-b"]
        assert objects.uid(await cluster.get("guarded")) == objects.uid(guarded)
        # A budget is no fortress: where nothing else helps, it is broken.
        await stage.pod("second", "high")
        assert await cluster.placed("second") == ["node-a"]


async def test_a_more_important_pod_takes_the_place_that_another_waits_for(stage: Stage) -> None:
    cluster = stage.cluster
    await cluster.node("node-a", cpu="2")
    for name in ("one", "two"):
        await stage.placed(name, "low", "node-a", cpu="900m", grace=LONG)
    async with cluster.scheduling():
        await stage.pod("mid", "mid", cpu="900m")
        await stage.waits_for("mid", "node-a")
        await stage.pod("high", "high", cpu="1500m")
        await stage.goes("one", "two")
        await stage.waits_for("high", "node-a")
        await stage.waits_for("mid", "")
        for name in ("one", "two"):
            await stage.end(name)
        assert await cluster.placed("high") == ["node-a"]
        assert await cluster.node_of("mid") == ""


async def test_a_more_important_pod_takes_over_while_pods_are_being_evicted(stage: Stage) -> None:
    cluster = stage.cluster
    await cluster.node("node-a", cpu="1")
    await stage.placed("low", "low", "node-a")
    holds: list[Held] = []
    async with cluster.scheduling(held(holds)) as scheduler:
        await stage.pod("mid", "mid")
        [hold] = holds
        await asyncio.wait_for(hold.reached.wait(), 10)
        await stage.waits_for("mid", "node-a")
        await stage.pod("high", "high")
        await stage.waits_for("high", "node-a")
        await stage.waits_for("mid", "")
        hold.opened.set()
        assert await cluster.placed("high") == ["node-a"]
        assert await cluster.node_of("mid") == ""
        assert hold.deleted in (["low"], ["low", "low"])
        assert scheduler.metrics.preemption_runs["error",] == 0


async def test_a_less_important_pod_may_make_room_beside_it(stage: Stage) -> None:
    cluster = stage.cluster
    await cluster.node("node-a", cpu="4")
    for number in range(4):
        await stage.placed(f"low-{number}", "low", "node-a", cpu="900m")
    holds: list[Held] = []
    async with cluster.scheduling(held(holds)) as scheduler:
        await stage.pod("high", "high", cpu="1500m")
        [hold] = holds
        await asyncio.wait_for(hold.reached.wait(), 10)
        await stage.waits_for("high", "node-a")
        await stage.pod("mid", "mid", cpu="1500m")
        await stage.waits_for("mid", "node-a")
        hold.opened.set()
        assert await cluster.placed("high", "mid") == ["node-a", "node-a"]
        assert scheduler.metrics.preemption_victims.count() == 2
        # 3 CPUs are taken: one of four may stay.
        left = [name for name in (await cluster.used())["node-a"] if name.startswith("low-")]
        assert len(left) == 1


async def test_nobody_is_evicted_for_a_pod_that_is_gone(stage: Stage) -> None:
    cluster = stage.cluster
    await cluster.node("node-a", cpu="2")
    for name in ("one", "two"):
        await stage.placed(name, "low", "node-a", cpu="900m")
    holds: list[Held] = []
    async with cluster.scheduling(held(holds)):
        await stage.pod("high", "high", cpu="2")
        [hold] = holds
        await asyncio.wait_for(hold.reached.wait(), 10)
        await stage.end("high")
        await asyncio.sleep(0.5)
        hold.opened.set()
        await stage.pod("after", "low", cpu="100m")
        await cluster.placed("after")
        await asyncio.sleep(0.5)
        # The eviction of the first was under way already; the second was spared.
        assert len(hold.deleted) == 1
        assert await stage.is_there("one") != await stage.is_there("two")


async def test_a_new_pod_of_the_same_name_is_not_the_victim(stage: Stage) -> None:
    cluster = stage.cluster
    await cluster.node("node-a", cpu="1")
    await stage.placed("web-0", "low", "node-a")
    holds: list[Held] = []
    async with cluster.scheduling(held(holds)):
        await stage.pod("high", "high")
        [hold] = holds
        await asyncio.wait_for(hold.reached.wait(), 10)
        await stage.end("web-0")
        successor = await cluster.pod("web-0", scheduler="somebody-else")
        hold.opened.set()
        await cluster.placed("high")
        assert objects.uid(await cluster.get("web-0")) == objects.uid(successor)
        assert hold.deleted == []
        assert objects.condition(await cluster.get("web-0"), "DisruptionTarget") is None


async def test_a_pod_is_kept_out_while_others_are_evicted_for_it(stage: Stage) -> None:
    cluster = stage.cluster
    await cluster.node("node-a", cpu="1")
    await stage.placed("low", "low", "node-a")
    holds: list[Held] = []
    async with cluster.scheduling(held(holds)) as scheduler:
        high = await stage.pod("high", "high")
        [hold] = holds
        await asyncio.wait_for(hold.reached.wait(), 10)
        await stage.waits_for("high", "node-a")
        await stage.placed("leaves", "low", "node-a", cpu="100m")
        await stage.end("leaves")

        async def is_gated() -> bool:
            return bool(scheduler.metrics.queue_lengths()["gated"] == 1)

        await cluster.eventually(is_gated, "the preemptor waits outside")
        assert scheduler.metrics.rejections["DefaultPreemption", cluster.scheduler_name] == 1
        hold.opened.set()
        await cluster.placed("high")
        assert objects.uid(await cluster.get("high")) == objects.uid(high)


async def test_an_eviction_that_fails_is_found_anew(stage: Stage) -> None:
    class Refusing(Held):
        refused = 0

        async def delete(self, *args: Any, **how: Any) -> Any:
            if self.refused < 2:
                self.refused += 1
                raise errors.Forbidden(403, "Forbidden", "a webhook says no")
            return await super().delete(*args, **how)

    def wrap(api: Any) -> Refusing:
        made = Refusing(api)
        made.opened.set()
        return made

    cluster = stage.cluster
    await cluster.node("node-a", cpu="1")
    await stage.placed("low", "low", "node-a")
    async with cluster.scheduling(wrap) as scheduler:
        await stage.pod("high", "high")
        assert await cluster.placed("high") == ["node-a"]
        assert scheduler.metrics.preemption_runs["error",] == 2
        assert scheduler.metrics.preemption_runs["success",] == 1


async def test_another_scheduler_after_a_restart_keeps_the_promise(stage: Stage) -> None:
    cluster = stage.cluster
    await cluster.node("node-a", cpu="1")
    await stage.placed("low", "low", "node-a", grace=LONG)
    async with cluster.scheduling():
        await stage.pod("high", "high")
        await stage.goes("low")
        await stage.waits_for("high", "node-a")
    async with cluster.scheduling():
        await stage.pod("rival", "mid")
        await cluster.refused(
            "rival",
            "0/1 nodes are available: 1 Insufficient cpu. no new claims to deallocate, "
            "preemption: 0/1 nodes are available: 1 Insufficient cpu.",
        )
        await stage.end("low")
        assert await cluster.placed("high") == ["node-a"]
        assert await cluster.node_of("rival") == ""


@pytest.mark.parametrize("grace", [0, LONG])
async def test_a_pod_on_its_way_to_a_node_can_be_a_victim(stage: Stage, grace: int) -> None:
    class Slow(Held):
        async def create(self, *args: Any, **how: Any) -> Any:
            if how.get("subresource") == "binding" and how["name"] == "low":
                self.reached.set()
                await self.opened.wait()
            return await self._api.create(*args, **how)

        async def patch(self, *args: Any, **how: Any) -> Any:
            return await self._api.patch(*args, **how)

    holds: list[Slow] = []

    def wrap(api: Any) -> Slow:
        holds.append(Slow(api))
        return holds[-1]

    cluster = stage.cluster
    await cluster.node("node-a", cpu="1")
    async with cluster.scheduling(wrap) as scheduler:
        await stage.pod("low", "low", grace=grace)
        [hold] = holds
        await asyncio.wait_for(hold.reached.wait(), 10)
        await stage.pod("high", "high")
        # It has no containers yet that would have to end: its place is free at once.
        assert await cluster.placed("high") == ["node-a"]
        assert hold.deleted == ["low"]
        hold.opened.set()

        async def is_settled() -> bool:
            return bool(scheduler.metrics.bindings_in_flight() == 0)

        await cluster.eventually(is_settled, "the binding of the victim has ended")
        assert not await stage.is_there("low")
        assert scheduler.metrics.attempts["error", cluster.scheduler_name] == 0


async def test_victims_that_are_made_anew_do_not_take_the_place_back(stage: Stage) -> None:
    """A ReplicaSet makes the next pod as soon as one is gone; ours are to be placed, too."""
    cluster = stage.cluster
    await cluster.node("node-a", cpu="1")
    await cluster.node("node-b", cpu="1")
    made = 4

    async def replace() -> None:
        nonlocal made
        while True:
            pods = (await cluster.api.list(resources.PODS, cluster.namespace)).items
            missing = 4 - sum(objects.name(raw).startswith("low-") for raw in pods)
            for _ in range(missing):
                await stage.pod(f"low-{made}", "low", cpu="450m")
                made += 1
            await asyncio.sleep(0)

    async with cluster.scheduling() as scheduler:
        for number in range(4):
            await stage.pod(f"low-{number}", "low", cpu="450m")
        await cluster.placed(*(f"low-{number}" for number in range(4)))
        replacing = asyncio.create_task(replace())
        try:
            for name in ("high-0", "high-1"):
                await stage.pod(name, "high", cpu="900m")
                await cluster.placed(name)
        finally:
            replacing.cancel()
            await asyncio.wait([replacing])
        assert sorted(await cluster.placed("high-0", "high-1")) == ["node-a", "node-b"]
        # Each of them needs a node of its own: two victims each, none for nothing.
        assert scheduler.metrics.preemption_victims.count() == 2
        assert made == 8


async def test_of_many_victims_not_one_goes_for_nothing(stage: Stage) -> None:
    cluster = stage.cluster
    nodes = [await cluster.node(f"node-{number}", cpu="4") for number in range(12)]
    for node in nodes:
        for number in range(4):
            await stage.placed(f"low-{node}-{number}", "low", node, cpu="900m")
    holds: list[Held] = []
    async with cluster.scheduling(held(holds)) as scheduler:
        [hold] = holds
        hold.opened.set()
        names = [f"high-{number}" for number in range(8)]
        for name in names:
            await stage.pod(name, "high", cpu="2500m")
        placed = await cluster.placed(*names)
        assert len(set(placed)) == 8  # two don't fit on one node
        # Three of four have to go from each of these nodes; none goes anywhere else.
        assert len(hold.deleted) == len(set(hold.deleted)) == 24
        assert {name.rpartition("-")[0].removeprefix("low-") for name in hold.deleted} == set(
            placed
        )
        assert scheduler.metrics.preemption_victims.count() == 8
        used = await cluster.used()
        assert sorted(len(used[node]) for node in nodes) == [2] * 8 + [4] * 4
