"""The cycle by itself: what it decides when, and what becomes of each attempt."""

import asyncio
import random
from collections.abc import Callable, Sequence
from typing import Any, ClassVar

import pytest

from whipstaff.runtime import objects
from whipstaff.scheduler import (
    binder,
    binding_cycle,
    cluster_state,
    cycle,
    decision,
    decisions,
    framework,
    metrics,
    pods,
    profile,
    queue,
    queueing_hints,
    second_look,
    snapshot,
)

Object = dict[str, Any]

NAME = "whipstaff"


class Clock:
    """A clock that goes on by a millisecond whenever somebody looks."""

    def __init__(self) -> None:
        self.time = 1000.0

    def __call__(self) -> float:
        self.time += 0.001
        return self.time


class Notes:
    """Stands in for the event recorder and for the writer of conditions."""

    def __init__(self) -> None:
        self.events: list[tuple[str, str, str]] = []
        self.conditions: list[tuple[str, str, str]] = []
        self.nominated: list[tuple[str, str | None]] = []
        self.dropped: list[str] = []

    def event(self, regarding: Object, _: str, reason: str, __: str, note: str) -> None:
        self.events.append((regarding["metadata"]["name"], reason, note))

    def set(
        self, pod: pods.PodInfo, reason: str, message: str, nominated: str | None = None
    ) -> None:
        self.conditions.append((pod.name, reason, message))
        self.nominated.append((pod.name, nominated))

    def nominate(self, pod: pods.PodInfo, node_name: str) -> None:
        self.nominated.append((pod.name, node_name))

    def drop(self, uid: str) -> None:
        self.dropped.append(uid)


class Bindings:
    """Stands in for the binder: has room for some bindings and keeps them."""

    def __init__(self, room: int = 1000) -> None:
        self.free = room
        self.started: list[binder.Binding] = []
        self.freed = asyncio.Event()

    @property
    def has_room(self) -> bool:
        return len(self.started) < self.free

    async def room(self) -> None:
        while not self.has_room:
            await self.freed.wait()

    def start(self, binding: binder.Binding) -> None:
        self.started.append(binding)


class Evictions:
    """Stands in for the evictor: notes who goes for whom."""

    def __init__(self) -> None:
        self.started: list[tuple[str, str, list[str]]] = []

    def start(self, preemptor: pods.PodInfo, node: str, victims: Sequence[pods.PodInfo]) -> None:
        self.started.append((preemptor.name, node, [victim.name for victim in victims]))


class Fault(framework.Plugin):
    """Fails for pods that ask for it, in one of two ways."""

    name: ClassVar[str] = "Fault"

    def pre_filter(self, state: Any, pod: pods.PodInfo, cluster: Any) -> None:
        if "refuse" in pod.labels:
            raise framework.PluginError(self.name, "the oracle is silent")
        if "crash" in pod.labels:
            raise ZeroDivisionError("division by zero")


class Points(framework.Plugin):
    """Has its say after a node is chosen: what it is told to say, nothing at first."""

    name: ClassVar[str] = "Points"

    def __init__(self) -> None:
        self.answers: dict[str, Any] = {}
        self.undone: list[str] = []

    def reserve(self, *_: Any) -> Any:
        return self.answers.get("reserve")

    def unreserve(self, state: Any, pod: pods.PodInfo, *_: Any) -> None:
        self.undone.append(pod.name)

    def permit(self, *_: Any) -> Any:
        return self.answers.get("permit")

    def pre_bind_pre_flight(self, *_: Any) -> framework.PreFlight:
        return framework.PreFlight(skip="pre_bind" not in self.answers)

    async def pre_bind(self, *_: Any) -> Any:
        return self.answers["pre_bind"]


class World:
    def __init__(self) -> None:
        self.clock = Clock()
        self.cluster = snapshot.Snapshot()
        self.notes = Notes()
        self.evictions = Evictions()
        self.measured = metrics.Metrics()
        self.ring = decisions.Decisions()
        self.ready = asyncio.Event()
        usual = profile.default_profile(NAME)
        by_name = {name: plugin for name, plugin in usual.plugins.items() if name != "Unsupported"}
        points = {**usual.points, "preFilter": (*usual.points["preFilter"], "Fault")}
        by_name["Fault"] = Fault()
        self.points = Points()
        by_name["Points"] = self.points
        points.update(dict.fromkeys(("reserve", "permit", "preBind"), ("Points",)))
        built = profile.Profile(NAME, points, usual.weights, by_name)
        self.waiting = queue.SchedulingQueue(
            now=self.clock,
            sort_key=built.queue_sort.sort_key,
            interests={NAME: queueing_hints.interests(built.plugins)},
            wake=self.ready.set,
        )
        self.watched: dict[str, Object] = {}
        self.handle = binding_cycle.Handle(None, self.cluster, self.watched.get)  # type: ignore[arg-type]
        self.cycle = cycle.Cycle(
            waiting=self.waiting,
            ready=self.ready,
            cluster=self.cluster,
            decider=decision.Decider(
                self.cluster, random.Random(1), promises=self.waiting.promises
            ),
            profiles={NAME: built},
            latest=self.watched.get,
            handle=self.handle,
            recorders={NAME: self.notes},  # type: ignore[dict-item]
            conditions=self.notes,  # type: ignore[arg-type]
            ring=self.ring,
            measured=self.measured,
            evictor=self.evictions,  # type: ignore[arg-type]
            now=self.clock,
        )
        gone = self.handle.waiting_pods.reject_removed
        self.pods = cluster_state.PodHandler(self.cluster, self.waiting, [NAME], gone)
        self.nodes = cluster_state.NodeHandler(self.cluster, self.waiting)

    def node(self, name: str, cpu: str = "4") -> None:
        room = {"cpu": cpu, "memory": "8Gi", "pods": "2000"}
        self.nodes.on_add({"metadata": {"name": name}, "status": {"allocatable": room}})

    def pod(self, name: str, **settings: Any) -> Object:
        raw = raw_pod(name, **settings)
        self.watched[f"default/{name}"] = raw
        self.pods.on_add(raw)
        return raw

    def settle(self, binding: binder.Binding, outcome: binder.Outcome, reason: str = "") -> None:
        self.cycle.settled(binding, binder.Settlement(outcome, reason))

    async def run(self, bindings: Bindings, until: Callable[[], bool]) -> None:
        running = asyncio.create_task(self.cycle.run(bindings))  # type: ignore[arg-type]
        async with asyncio.timeout(2):
            while not until():
                await asyncio.sleep(0)
                if running.done():
                    running.result()
        running.cancel()


def raw_pod(
    name: str,
    *,
    cpu: str = "100m",
    labels: Object | None = None,
    version: int = 1,
    priority: int = 0,
    **extra: Any,
) -> Object:
    metadata = {
        "name": name,
        "namespace": "default",
        "uid": f"uid-{name}",
        "resourceVersion": str(version),
        "labels": labels or {},
        **extra,
    }
    container = {"name": "main", "image": "nginx", "resources": {"requests": {"cpu": cpu}}}
    spec = {"schedulerName": NAME, "priority": priority, "containers": [container]}
    return {"apiVersion": "v1", "kind": "Pod", "metadata": metadata, "spec": spec, "status": {}}


def on_node(raw: Object, node: str) -> Object:
    metadata = {**raw["metadata"], "resourceVersion": "9"}
    return {**raw, "metadata": metadata, "spec": {**raw["spec"], "nodeName": node}}


@pytest.fixture
def world() -> World:
    return World()


# When it decides.


async def test_a_slice_ends_so_that_others_get_their_turn(world: World) -> None:
    world.node("node-a", cpu="64")
    for number in range(50):
        world.pod(f"pod-{number}")
    bindings = Bindings()
    seen = []
    running = asyncio.create_task(world.cycle.run(bindings))  # type: ignore[arg-type]
    while len(bindings.started) < 50:
        await asyncio.sleep(0)
        seen.append(len(bindings.started))
    running.cancel()
    # The clock moves by milliseconds here, a slice is five of them.
    assert max(after - before for before, after in zip([0, *seen], seen, strict=False)) <= 3


async def test_nothing_is_decided_ahead_of_the_binder(world: World) -> None:
    world.node("node-a", cpu="64")
    for number in range(20):
        world.pod(f"pod-{number}")
    bindings = Bindings(room=5)
    await world.run(bindings, lambda: len(bindings.started) == 5)
    assert world.cluster.assumed_count == 5
    assert world.waiting.lengths()["active"] == 15


async def test_each_decision_sees_the_ones_before(world: World) -> None:
    for name in ("node-a", "node-b"):
        world.node(name, cpu="1")
    for number in range(3):
        world.pod(f"pod-{number}", cpu="800m")
    bindings = Bindings()
    await world.run(bindings, lambda: bool(world.notes.conditions))
    assert sorted(binding.node for binding in bindings.started) == ["node-a", "node-b"]
    [(name, reason, message)] = world.notes.conditions
    assert (name, reason) == ("pod-2", "Unschedulable")
    assert message == (
        "0/2 nodes are available: 2 Insufficient cpu. no new claims to deallocate, preemption: "
        "0/2 nodes are available: 2 No preemption victims found for incoming pod."
    )
    assert world.ring.view(name="pod-2")[0]["message"] == message


async def test_a_pod_on_its_way_out_is_skipped(world: World) -> None:
    world.node("node-a")
    world.pod("doomed", deletionTimestamp="2026-01-01T00:00:00Z")
    bindings = Bindings()
    await world.run(bindings, lambda: bool(world.notes.events))
    assert world.notes.events == [
        ("doomed", "FailedScheduling", "skip schedule deleting pod: default/doomed")
    ]
    assert not bindings.started
    assert sum(world.waiting.lengths().values()) == 0


async def test_a_pod_that_is_placed_already_is_skipped(world: World) -> None:
    world.node("node-a")
    raw = world.pod("web")
    world.cluster.add_pod(pods.PodInfo.from_object(on_node(raw, "node-a")))
    bindings = Bindings()
    await world.run(bindings, lambda: not world.waiting.lengths()["active"])
    assert not bindings.started
    assert not world.notes.events


# What becomes of an attempt.


@pytest.mark.parametrize(
    ("label", "message"),
    [("refuse", "the oracle is silent"), ("crash", "division by zero")],
)
async def test_a_failing_plugin_costs_one_pod_its_attempt(
    world: World, label: str, message: str
) -> None:
    world.node("node-a")
    world.pod("odd", labels={label: "yes"})
    world.pod("even")
    bindings = Bindings()
    await world.run(bindings, lambda: bool(bindings.started))
    assert [binding.pod.name for binding in bindings.started] == ["even"]
    [(name, reason, text)] = world.notes.conditions
    assert (name, reason) == ("odd", "SchedulerError")
    assert message in text
    queued = world.waiting.get("default/odd")
    assert queued is not None
    assert (queued.place, queued.consecutive_errors) == (queue.BACKOFF, 1)
    assert world.measured.attempts["error", NAME] == 1


async def begin(world: World, *names: str) -> list[binder.Binding]:
    for name in names:
        world.pod(name)
    bindings = Bindings()
    await world.run(bindings, lambda: len(bindings.started) == len(names))
    return bindings.started


async def test_a_bound_pod_is_told_and_counted_until_the_watch_shows_it(world: World) -> None:
    world.node("node-a")
    [binding] = await begin(world, "web")
    world.settle(binding, binder.Outcome.BOUND)
    assert world.notes.events == [
        ("web", "Scheduled", "Successfully assigned default/web to node-a")
    ]
    assert world.notes.dropped == ["uid-web"]
    assert world.measured.attempts["scheduled", NAME] == 1
    assert world.cluster.is_assumed("uid-web")
    world.pods.on_update(world.watched["default/web"], on_node(binding.pod.raw, "node-a"))
    assert not world.cluster.is_assumed("uid-web")
    assert world.cluster.pod_count == 1


async def test_a_refused_binding_goes_back_into_the_queue(world: World) -> None:
    world.node("node-a")
    [binding] = await begin(world, "web")
    newer = raw_pod("web", labels={"newer": "yes"}, version=2)
    world.watched["default/web"] = newer
    world.settle(binding, binder.Outcome.REFUSED, "the webhook says no")
    queued = world.waiting.get("default/web")
    assert queued is not None
    assert queued.pod.labels == {"newer": "yes"}
    assert queued.place == queue.BACKOFF
    assert world.notes.conditions == [("web", "SchedulerError", "the webhook says no")]
    assert world.cluster.pod_count == 0


@pytest.mark.parametrize("outcome", [binder.Outcome.TAKEN, binder.Outcome.GONE])
async def test_a_pod_that_needs_us_no_more_gives_its_place_back(
    world: World, outcome: binder.Outcome
) -> None:
    world.node("node-a", cpu="1")
    [binding] = await begin(world, "web")
    world.pod("next", cpu="950m")
    bindings = Bindings()
    await world.run(bindings, lambda: bool(world.notes.conditions))
    world.settle(binding, outcome)
    assert world.waiting.get("default/web") is None
    await world.run(bindings, lambda: bool(bindings.started))
    assert bindings.started[0].pod.name == "next"
    assert world.measured.attempts["error", NAME] == 0


# What plugins have to say after a node is chosen.

REFUSAL = framework.Status(framework.Code.UNSCHEDULABLE, ("no volume left",))


async def prepared(world: World, binding: binder.Binding) -> None:
    """What the binder does with a binding that isn't ready."""
    assert binding.prepare is not None
    status = await binding.prepare()
    outcome = binder.Outcome.BOUND if status.is_success else binder.Outcome.UNPREPARED
    world.cycle.settled(binding, binder.Settlement(outcome, status.message, status))


@pytest.mark.parametrize("point", ["reserve", "permit"])
async def test_a_refused_node_is_given_back_and_the_pod_waits_for_an_event(
    world: World, point: str
) -> None:
    world.points.answers[point] = REFUSAL
    world.node("node-a")
    world.pod("pod")
    await world.run(Bindings(), lambda: bool(world.notes.conditions))
    message = "0/1 nodes are available: 1 no volume left."
    assert world.notes.conditions == [("pod", "Unschedulable", message)]
    assert world.points.undone == ["pod"]
    assert world.cluster.assumed_count == 0
    queued = world.waiting.get("default/pod")
    assert queued is not None
    assert (queued.place, queued.rejected_by) == (queue.UNSCHEDULABLE, {"Points"})


async def test_a_failed_reservation_is_tried_again_with_a_backoff(world: World) -> None:
    world.points.answers["reserve"] = framework.Status(framework.Code.ERROR, ("lost",))
    world.node("node-a")
    world.pod("pod")
    await world.run(Bindings(), lambda: bool(world.notes.conditions))
    assert world.notes.conditions == [
        ("pod", "SchedulerError", 'running Reserve plugin "Points": lost')
    ]
    assert world.waiting.lengths()[queue.BACKOFF] == 1
    assert world.cluster.assumed_count == 0


async def test_while_a_pod_waits_for_leave_the_cycle_goes_on(world: World) -> None:
    world.points.answers["permit"] = framework.Wait(10)
    world.node("node-a")
    [held] = await begin(world, "held")
    assert held.prepare is not None
    assert world.waiting.in_flight("uid-held")
    del world.points.answers["permit"]
    world.pod("next")
    bindings = Bindings()
    await world.run(bindings, lambda: len(bindings.started) == 1)
    assert bindings.started[0].prepare is None
    world.handle.waiting_pods.get("uid-held").allow("Points")
    await prepared(world, held)
    assert not world.waiting.in_flight("uid-held")
    assert world.notes.events[-1][:2] == ("held", "Scheduled")
    assert world.points.undone == []


@pytest.mark.parametrize(
    "answer", [{"permit": framework.Wait(10)}, {"pre_bind": framework.Status(framework.Code.ERROR)}]
)
async def test_a_pod_with_something_to_wait_for_is_nominated_until_that_fails(
    world: World, answer: Object
) -> None:
    world.node("node-a")
    [at_once] = await begin(world, "at-once")
    assert at_once.prepare is None
    assert world.notes.nominated == []
    world.points.answers.update(answer)
    [held] = await begin(world, "held")
    assert world.notes.nominated == [("held", "node-a")]
    assert world.waiting.promises.node_of(held.pod) == ""
    if "permit" in answer:
        world.handle.waiting_pods.get("uid-held").reject("Points", "no group")
    await prepared(world, held)
    assert world.notes.nominated == [("held", "node-a"), ("held", "")]


async def test_a_pod_called_off_for_another_leaves_it_the_place(world: World) -> None:
    world.points.answers["permit"] = framework.Wait(10)
    world.node("node-a", cpu="1")
    [held] = await begin(world, "held")
    world.pod("high", cpu="1", priority=10)
    await world.run(Bindings(), lambda: bool(world.evictions.started))
    assert world.evictions.started == [("high", "node-a", ["held"])]
    del world.points.answers["permit"]
    assert world.handle.call_off("uid-held", "DefaultPreemption")
    await prepared(world, held)
    bindings = Bindings()
    await world.run(bindings, lambda: bool(bindings.started))
    assert [(each.pod.name, each.node) for each in bindings.started] == [("high", "node-a")]
    assert world.waiting.get("default/held").place != queue.ACTIVE


async def test_a_pod_rejected_in_its_wait_is_not_helped_by_its_own_end(world: World) -> None:
    world.points.answers["permit"] = framework.Wait(10)
    world.node("node-a")
    [held] = await begin(world, "held")
    world.handle.waiting_pods.get("uid-held").reject("Points", "no group")
    await prepared(world, held)
    assert world.notes.conditions == [
        ("held", "Unschedulable", "0/1 nodes are available: 1 no group.")
    ]
    assert world.points.undone == ["held"]
    assert world.waiting.get("default/held").place == queue.UNSCHEDULABLE
    assert world.cluster.assumed_count == 0


async def test_a_pod_deleted_in_its_wait_is_over_at_once(world: World) -> None:
    world.points.answers["permit"] = framework.Wait(10)
    world.node("node-a")
    [held] = await begin(world, "held")
    world.pods.on_delete(world.watched.pop("default/held"))
    await asyncio.wait_for(prepared(world, held), 1)
    assert world.points.undone == ["held"]
    assert "default/held" not in world.waiting
    assert world.notes.conditions == []


@pytest.mark.parametrize(
    ("answer", "reason", "message"),
    [
        (REFUSAL, "Unschedulable", "no volume left"),
        (
            framework.Status(framework.Code.ERROR, ("lost",)),
            "SchedulerError",
            'running PreBind plugin "Points": lost',
        ),
    ],
)
async def test_work_before_the_binding_that_fails_puts_the_pod_back_soon(
    world: World, answer: framework.Status, reason: str, message: str
) -> None:
    world.points.answers["pre_bind"] = answer
    world.node("node-a")
    [held] = await begin(world, "held")
    assert not world.waiting.in_flight("uid-held")
    await prepared(world, held)
    assert world.notes.conditions == [("held", reason, message)]
    assert world.points.undone == ["held"]
    assert world.waiting.get("default/held").place == queue.BACKOFF
    assert world.cluster.assumed_count == 0


async def test_a_refused_binding_undoes_reservations(world: World) -> None:
    world.node("node-a")
    [binding] = await begin(world, "pod")
    world.settle(binding, binder.Outcome.REFUSED, "admission")
    assert world.points.undone == ["pod"]


async def test_a_pod_that_is_gone_is_not_put_back(world: World) -> None:
    world.node("node-a", cpu="1")
    world.pod("big", cpu="2")
    del world.watched["default/big"]
    bindings = Bindings()
    await world.run(bindings, lambda: bool(world.measured.attempts))
    assert world.waiting.get("default/big") is None
    assert not world.notes.conditions


# What the watch says.


async def test_an_assumed_pod_that_is_deleted_is_forgotten_at_once(world: World) -> None:
    world.node("node-a", cpu="1")
    await begin(world, "web")
    world.pods.on_delete(world.watched["default/web"])
    assert world.cluster.pod_count == 0


async def test_an_assumed_pod_on_its_way_out_is_forgotten_and_not_queued(world: World) -> None:
    world.node("node-a", cpu="1")
    await begin(world, "web")
    doomed = raw_pod("web", version=2, deletionTimestamp="2026-01-01T00:00:00Z")
    world.pods.on_update(world.watched["default/web"], doomed)
    assert world.cluster.pod_count == 0
    assert world.waiting.get("default/web") is None


async def test_a_change_of_an_assumed_pod_does_not_queue_it_again(world: World) -> None:
    world.node("node-a")
    await begin(world, "web")
    changed = raw_pod("web", version=2, labels={"a": "b"})
    world.pods.on_update(world.watched["default/web"], changed)
    assert sum(world.waiting.lengths().values()) == 0
    assert world.cluster.is_assumed("uid-web")


async def test_the_watch_is_right_about_the_node(world: World) -> None:
    for name in ("node-a", "node-b"):
        world.node(name)
    [binding] = await begin(world, "web")
    other = "node-b" if binding.node == "node-a" else "node-a"
    world.pods.on_update(world.watched["default/web"], on_node(binding.pod.raw, other))
    assert [pod.name for pod in world.cluster.pods_on(other)] == ["web"]
    assert not world.cluster.pods_on(binding.node)
    world.settle(binding, binder.Outcome.TAKEN)
    assert [pod.name for pod in world.cluster.pods_on(other)] == ["web"]


async def test_others_pods_are_counted_but_not_queued(world: World) -> None:
    world.node("node-a")
    theirs = raw_pod("theirs")
    theirs["spec"]["schedulerName"] = "somebody-else"
    world.pods.on_add(theirs)
    assert sum(world.waiting.lengths().values()) == 0
    world.pods.on_update(theirs, on_node(theirs, "node-a"))
    assert world.cluster.pod_count == 1
    world.pods.on_delete(theirs)
    assert world.cluster.pod_count == 0


async def test_a_waiting_pod_that_somebody_else_binds_leaves_the_queue(world: World) -> None:
    world.node("node-a")
    raw = world.pod("web")
    world.pods.on_update(raw, on_node(raw, "node-a"))
    assert sum(world.waiting.lengths().values()) == 0
    assert world.cluster.pod_count == 1


async def test_a_pod_replaced_while_nobody_watched_is_two_pods(world: World) -> None:
    world.node("node-a")
    old = on_node(raw_pod("web"), "node-a")
    world.pods.on_add(old)
    new = raw_pod("web", version=2)
    new["metadata"]["uid"] = "uid-new"
    world.pods.on_update(old, new)
    assert world.cluster.pod_count == 0
    queued = world.waiting.get("default/web")
    assert queued is not None
    assert queued.uid == "uid-new"


async def test_what_cannot_be_read_is_left_out_and_harms_nobody(world: World) -> None:
    world.node("node-a", cpu="a lot")
    world.pod("odd", cpu="much")
    assert len(world.cluster) == 0
    assert sum(world.waiting.lengths().values()) == 0
    world.node("node-a")
    world.pod("web")
    bindings = Bindings()
    await world.run(bindings, lambda: bool(bindings.started))


# Making room.


def full_node(world: World, name: str = "node-a", **settings: Any) -> Object:
    """A node of one CPU with a pod on it that takes most of it."""
    world.node(name, cpu="1")
    raw = on_node(raw_pod(f"low-{name}", cpu="800m", **settings), name)
    world.watched[f"default/low-{name}"] = raw
    world.pods.on_add(raw)
    return raw


async def test_a_pod_that_fits_nowhere_has_others_evicted_and_waits_for_their_node(
    world: World,
) -> None:
    full_node(world)
    world.pod("high", cpu="800m", priority=10)
    await world.run(Bindings(), lambda: bool(world.notes.conditions))
    assert world.evictions.started == [("high", "node-a", ["low-node-a"])]
    assert world.notes.nominated == [("high", "node-a")]
    assert world.notes.conditions[0][2] == "0/1 nodes are available: 1 Insufficient cpu."
    assert [pod.name for pod in world.waiting.promises.pods_on("node-a")] == ["high"]
    assert world.measured.preemption_attempts == 1


async def test_the_room_is_for_the_pod_that_it_was_made_for(world: World) -> None:
    low = full_node(world)
    world.pod("high", cpu="800m", priority=10)
    await world.run(Bindings(), lambda: bool(world.notes.conditions))
    world.pods.on_delete(low)
    world.clock.time += 20
    world.pod("rival", cpu="300m", priority=5)
    bindings = Bindings()
    await world.run(bindings, lambda: bool(bindings.started) and len(world.notes.conditions) > 1)
    assert [binding.pod.name for binding in bindings.started] == ["high"]
    assert world.notes.conditions[-1][0] == "rival"
    assert len(world.waiting.promises) == 0  # it is on its node, and counted there


async def test_where_nothing_helps_a_promise_is_taken_back(world: World) -> None:
    raw = full_node(world, priority=20)
    world.pod("high", cpu="800m", priority=10)
    await world.run(Bindings(), lambda: bool(world.notes.conditions))
    assert world.evictions.started == []
    assert world.notes.nominated == [("high", "")]
    assert objects.name(raw) == "low-node-a"


@pytest.mark.parametrize("labels", [{"refuse": ""}, {"crash": ""}])
async def test_an_error_takes_a_promise_back(world: World, labels: Object) -> None:
    full_node(world)
    world.pod("broken", labels=labels)
    await world.run(Bindings(), lambda: bool(world.notes.conditions))
    assert world.notes.nominated == [("broken", "")]
    assert world.evictions.started == []


async def test_a_refused_binding_takes_a_promise_back(world: World) -> None:
    world.node("node-a")
    world.pod("web")
    bindings = Bindings()
    await world.run(bindings, lambda: bool(bindings.started))
    world.settle(bindings.started[0], binder.Outcome.REFUSED, "no")
    assert world.notes.nominated == [("web", "")]


async def test_nobody_is_evicted_for_a_pod_that_went_meanwhile(world: World) -> None:
    full_node(world)
    world.pod("high", cpu="800m", priority=10)
    del world.watched["default/high"]
    await world.run(Bindings(), lambda: not world.waiting.lengths()["active"])
    assert world.evictions.started == []
    assert len(world.waiting.promises) == 0


@pytest.mark.parametrize("end", ["deleted", "elsewhere"])
async def test_who_left_room_for_a_pod_is_tried_when_it_needs_it_no_more(
    world: World, end: str
) -> None:
    world.node("node-a", cpu="1")
    told = {**raw_pod("first", cpu="800m", priority=10), "status": {"nominatedNodeName": "node-a"}}
    world.waiting.promises.add(pods.PodInfo.from_object(told), "node-a")
    world.pod("rival", cpu="800m", priority=5)
    world.pod("boss", cpu="2", priority=20)
    await world.run(Bindings(), lambda: len(world.notes.conditions) == 2)
    assert world.waiting.lengths()["unschedulable"] == 2
    world.clock.time += 20
    if end == "deleted":
        world.pods.on_delete(told)
    else:
        world.pods.on_update(told, {**raw_pod("first", version=2, priority=10), "status": {}})
    assert len(world.waiting.promises) == 0
    places = {name: world.waiting.get(f"default/{name}") for name in ("rival", "boss")}
    assert {name: queued.place for name, queued in places.items() if queued} == {
        "rival": "active",
        "boss": "unschedulable",
    }


# Somebody else is faster.


async def chosen(world: World) -> list[binder.Binding]:
    """A pod of 600m, about to be bound."""
    world.pod("web", cpu="600m")
    bindings = Bindings()
    await world.run(bindings, lambda: bool(bindings.started))
    return bindings.started


async def test_a_pod_whose_node_others_fill_before_it_is_bound_goes_to_another(
    world: World,
) -> None:
    world.node("node-a", cpu="1")
    [binding] = await chosen(world)
    assert binding.objection is not None
    assert binding.objection() == ""
    world.node("node-b", cpu="1")
    world.pods.on_add(on_node(raw_pod("theirs", cpu="600m"), "node-a"))
    assert binding.objection() == "Insufficient cpu"
    world.settle(binding, binder.Outcome.OVERTAKEN, "Insufficient cpu")
    assert world.cluster.assumed_count == 0
    assert world.waiting.lengths()["active"] == 1
    bindings = Bindings()
    await world.run(bindings, lambda: bool(bindings.started))
    [again] = bindings.started
    assert again.node == "node-b"
    assert again.objection is not None
    assert again.objection() == ""
    assert world.notes.events == []
    assert world.measured.overtaken == 1


async def test_a_pod_that_was_nominated_to_the_node_that_others_filled_is_no_longer(
    world: World,
) -> None:
    world.points.answers["pre_bind"] = framework.SUCCESS
    world.node("node-a", cpu="1")
    [binding] = await chosen(world)
    assert world.notes.nominated == [("web", "node-a")]
    world.pods.on_add(on_node(raw_pod("theirs", cpu="600m"), "node-a"))
    world.settle(binding, binder.Outcome.OVERTAKEN, "Insufficient cpu")
    assert world.notes.nominated[-1] == ("web", "")
    assert world.points.undone == ["web"]


async def test_a_pod_that_still_fits_beside_what_others_put_there_stays(world: World) -> None:
    world.node("node-a", cpu="2")
    [binding] = await chosen(world)
    world.pods.on_add(on_node(raw_pod("theirs", cpu="600m"), "node-a"))
    assert binding.objection is not None
    assert binding.objection() == ""
    assert world.cluster.is_assumed("uid-web")


@pytest.mark.parametrize(
    ("changed", "objection"),
    [
        ({"spec": {"unschedulable": True}}, "node(s) were unschedulable"),
        (
            {"spec": {"taints": [{"key": "gone", "effect": "NoExecute"}]}},
            "node(s) had untolerated taint(s)",
        ),
        ({"status": {"allocatable": {"cpu": "500m", "pods": "10"}}}, "Insufficient cpu"),
        (None, "the node is gone"),
    ],
)
async def test_a_node_that_changes_before_a_pod_is_bound_is_looked_at_again(
    world: World, changed: Object | None, objection: str
) -> None:
    world.node("node-a")
    [binding] = await chosen(world)
    before = world.cluster.node_at(0)
    if changed is None:
        world.nodes.on_delete(before)
    else:
        world.nodes.on_update(before, {**before, **changed})
    assert binding.objection is not None
    assert binding.objection() == objection


async def test_pods_of_our_own_are_no_reason_to_look_again(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    world.node("node-a", cpu="64")
    bindings = await begin(world, "one", "two", "three")
    world.pods.on_update(world.watched["default/two"], on_node(raw_pod("two"), "node-a"))
    monkeypatch.setattr(second_look, "_refusal", lambda *_: pytest.fail("asked again"))
    for binding in bindings:
        assert binding.objection is not None
        assert binding.objection() == ""


async def test_a_pod_that_is_gone_by_then_is_not_tried_again(world: World) -> None:
    world.node("node-a", cpu="1")
    [binding] = await chosen(world)
    raw = world.watched["default/web"]
    world.pods.on_add(on_node(raw_pod("theirs", cpu="600m"), "node-a"))
    del world.watched["default/web"]
    world.pods.on_delete(raw)
    world.settle(binding, binder.Outcome.OVERTAKEN, "Insufficient cpu")
    assert sum(world.waiting.lengths().values()) == 0
