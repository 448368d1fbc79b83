"""The evictor by itself: what it asks the API server for, in which order, and when it stops."""

import asyncio
from collections.abc import Callable, Iterable
from typing import Any

import pytest

from whipstaff.runtime import errors, objects
from whipstaff.scheduler import evictions, metrics, nominator, pods, testing

Object = dict[str, Any]

NOW = 1_767_225_600.0
"""2026-01-01T00:00:00Z."""


class Server:
    """Stands in for the client: notes requests, holds or fails them as it is told."""

    def __init__(self) -> None:
        self.requests: list[tuple[str, str]] = []
        self.bodies: dict[str, Object] = {}
        self.uids: dict[str, str] = {}
        self.failures: dict[str, list[Exception]] = {}
        self.held: dict[str, asyncio.Event] = {}

    async def patch(
        self, resource: Any, name: str, body: Object, namespace: str, **how: Any
    ) -> None:
        assert how == {"kind": "strategic", "subresource": "status"}
        self.bodies[name] = body
        await self._take("patch", name)

    async def delete(self, resource: Any, name: str, namespace: str, *, uid: str) -> None:
        self.uids[name] = uid
        await self._take("delete", name)

    async def _take(self, verb: str, name: str) -> None:
        if name in self.held:
            await self.held[name].wait()
        await asyncio.sleep(0)
        if failures := self.failures.get(name):
            raise failures.pop(0)
        self.requests.append((verb, name))


class Notes:
    """Stands in for the recorder and for the writer of conditions."""

    def __init__(self) -> None:
        self.events: list[tuple[str, str, str, str, str]] = []
        self.nominated: list[tuple[str, str]] = []

    def event(
        self,
        regarding: Object,
        kind: str,
        reason: str,
        action: str,
        note: str,
        related: Object | None = None,
    ) -> None:
        assert related is not None
        names = objects.name(regarding), objects.name(related)
        self.events.append((*names, f"{kind} {reason}", action, note))

    def nominate(self, pod: pods.PodInfo, node: str) -> None:
        self.nominated.append((pod.name, node))


class World:
    def __init__(self) -> None:
        self.server = Server()
        self.notes = Notes()
        self.promises = nominator.Nominator()
        self.measured = metrics.Metrics()
        self.seen: dict[str, Object] = {}
        self.activated: list[str] = []
        self.on_their_way: set[str] = set()
        self.evictor = evictions.Evictor(
            self.server,  # type: ignore[arg-type]
            latest=self.seen.get,
            promises=self.promises,
            conditions=self.notes,  # type: ignore[arg-type]
            recorders={"default-scheduler": self.notes},  # type: ignore[dict-item]
            activate=self.activate,
            call_off=self.call_off,
            measured=self.measured,
            clock=lambda: 0.0,
            now=lambda: NOW,
        )
        self.high = self.pod("high", priority=10)

    def activate(self, activated: Iterable[pods.PodInfo]) -> None:
        self.activated.extend(pod.key for pod in activated)

    def call_off(self, uid: str, plugin: str) -> bool:
        assert plugin == "DefaultPreemption"
        return uid in self.on_their_way

    def pod(self, name: str, **more: Any) -> pods.PodInfo:
        raw = testing.pod(name, **more)
        raw["metadata"]["generation"] = 3
        self.seen[objects.key(raw)] = raw
        return pods.PodInfo.from_object(raw)

    def victims(self, *names: str) -> list[pods.PodInfo]:
        return [self.pod(name, node_name="node-a") for name in names]

    def leaves(self, name: str) -> None:
        """The watch shows a pod on its way out."""
        raw = self.seen[f"default/{name}"]
        metadata = {**raw["metadata"], "deletionTimestamp": "2026-01-01T00:00:00Z"}
        self.seen[f"default/{name}"] = {**raw, "metadata": metadata}

    def is_gone(self, name: str) -> None:
        del self.seen[f"default/{name}"]

    async def until(self, holds: Callable[[], bool]) -> None:
        for _ in range(1000):
            if holds():
                return
            await asyncio.sleep(0)
        pytest.fail(f"never: {self.server.requests}")

    async def finish(self) -> None:
        await self.until(lambda: not len(self.evictor))


@pytest.fixture
def world(monkeypatch: pytest.MonkeyPatch) -> World:
    monkeypatch.setattr(evictions, "_FIRST_PAUSE", 0)
    return World()


async def test_a_victim_is_marked_then_deleted_then_told_of(world: World) -> None:
    world.evictor.start(world.high, "node-a", world.victims("low"))
    await world.finish()
    assert world.server.requests == [("patch", "low"), ("delete", "low")]
    assert world.server.bodies["low"] == {
        "metadata": {"uid": "uid-default-low"},
        "status": {
            "conditions": [
                {
                    "type": "DisruptionTarget",
                    "status": "True",
                    "reason": "PreemptionByScheduler",
                    "message": (
                        "default-scheduler: preempting to accommodate a higher priority pod"
                    ),
                    "observedGeneration": 3,
                    "lastTransitionTime": "2026-01-01T00:00:00Z",
                }
            ]
        },
    }
    assert world.server.uids == {"low": "uid-default-low"}
    note = "Preempted by pod uid-default-high on node node-a"
    assert world.notes.events == [("low", "high", "Normal Preempted", "Preempting", note)]
    assert world.measured.preemption_victims.count() == 1
    assert world.measured.preemption_runs == {("success",): 1}


async def test_a_victim_that_is_marked_already_is_only_deleted(world: World) -> None:
    [low] = world.victims("low")
    raw = world.seen["default/low"]
    patch = evictions.disruption_patch(raw, "default-scheduler", NOW)
    assert patch is not None
    raw["status"]["conditions"] = patch["status"]["conditions"]
    world.evictor.start(world.high, "node-a", [low])
    await world.finish()
    assert world.server.requests == [("delete", "low")]


async def test_a_victim_that_is_only_on_its_way_is_called_off_and_not_deleted(
    world: World,
) -> None:
    victims = world.victims("coming", "there")
    world.on_their_way.add(victims[0].uid)
    world.evictor.start(world.high, "node-a", victims)
    await world.finish()
    assert world.server.requests == [("patch", "there"), ("delete", "there")]
    note = "Preempted by pod uid-default-high on node node-a"
    assert [(event[0], event[4]) for event in world.notes.events] == [
        ("coming", f"{note} (in kube-scheduler memory)."),
        ("there", note),
    ]


async def test_the_last_victim_goes_alone(world: World) -> None:
    world.server.held["two"] = asyncio.Event()
    world.evictor.start(world.high, "node-a", world.victims("one", "two", "three", "last"))
    await world.until(lambda: ("delete", "three") in world.server.requests)
    assert "last" not in world.server.bodies
    world.server.held["two"].set()
    await world.finish()
    assert world.server.requests[-2:] == [("patch", "last"), ("delete", "last")]
    assert len(world.notes.events) == 4


async def test_the_pod_waits_until_the_last_victim_is_seen_to_go(world: World) -> None:
    world.server.held["last"] = asyncio.Event()
    world.evictor.start(world.high, "node-a", world.victims("one", "last"))
    uid = world.high.uid
    await world.until(lambda: ("delete", "one") in world.server.requests)
    world.leaves("one")
    assert world.evictor.is_preempting(uid)
    await world.until(lambda: "last" in world.server.bodies)
    assert world.evictor.is_preempting(uid)
    world.leaves("last")  # before the answer has come
    assert not world.evictor.is_preempting(uid)
    world.server.held["last"].set()
    await world.finish()
    assert world.activated == []  # the end of the victims will have it tried again


async def test_the_pod_waits_for_a_watch_that_is_later_than_the_answer(world: World) -> None:
    world.evictor.start(world.high, "node-a", world.victims("one", "last"))
    await world.finish()
    assert world.server.requests[-1] == ("delete", "last")
    assert world.evictor.is_preempting(world.high.uid)
    world.is_gone("one")
    assert world.evictor.is_preempting(world.high.uid)
    world.leaves("last")
    assert not world.evictor.is_preempting(world.high.uid)


async def test_nobody_waits_for_a_pod_that_was_only_called_off_to_go(world: World) -> None:
    victims = world.victims("on-its-way")
    world.on_their_way.update(victim.uid for victim in victims)
    world.evictor.start(world.high, "node-a", victims)
    await world.finish()
    assert not world.evictor.is_preempting(world.high.uid)


async def test_who_is_on_its_way_out_already_is_left_in_peace(world: World) -> None:
    victims = world.victims("leaving", "low")
    world.leaves("leaving")
    world.evictor.start(world.high, "node-a", victims)
    await world.finish()
    assert world.server.requests == [("patch", "low"), ("delete", "low")]
    world.leaves("low")
    world.evictor.start(world.high, "node-a", victims)
    assert not world.evictor.is_preempting(world.high.uid)
    assert world.measured.preemption_victims.count() == 1


async def test_after_a_failure_nobody_else_goes_and_the_pod_is_tried_again(world: World) -> None:
    world.server.failures["one"] = [errors.Forbidden(403, "Forbidden", "no")]
    world.evictor.start(world.high, "node-a", world.victims("one", "last"))
    await world.finish()
    assert world.server.requests == []
    assert world.activated == ["default/high"]
    assert world.measured.preemption_runs == {("error",): 1}
    assert world.notes.events == []


async def test_a_server_that_is_busy_is_asked_again(world: World) -> None:
    world.server.failures["low"] = [
        errors.Unreachable("no answer"),
        errors.TooManyRequests(429, "TooManyRequests", "later"),
        errors.ServerError(500, "InternalError", "oops"),
    ]
    world.evictor.start(world.high, "node-a", world.victims("low"))
    await world.finish()
    assert world.server.requests == [("patch", "low"), ("delete", "low")]
    assert world.activated == []


async def test_a_server_that_stays_away_ends_it(world: World) -> None:
    world.server.failures["low"] = [errors.Unreachable("no answer")] * 9
    world.evictor.start(world.high, "node-a", world.victims("low"))
    await world.finish()
    assert world.activated == ["default/high"]


@pytest.mark.parametrize(
    "answer",
    [
        errors.NotFound(404, "NotFound", "no such pod"),
        errors.Conflict(409, "Conflict", "the uid in the precondition is another one"),
    ],
)
async def test_a_victim_that_is_gone_already_is_no_failure(
    world: World, answer: errors.ApiError
) -> None:
    world.server.failures["low"] = [answer]
    world.evictor.start(world.high, "node-a", world.victims("low"))
    await world.finish()
    assert world.server.requests == []
    assert world.notes.events == []
    assert world.measured.preemption_runs == {("success",): 1}


async def test_if_all_are_gone_before_the_end_the_pod_is_tried_again(world: World) -> None:
    """What was seen while the pod was kept out can't wake it any more."""
    world.server.held["last"] = asyncio.Event()
    world.evictor.start(world.high, "node-a", world.victims("one", "last"))
    await world.until(lambda: "last" in world.server.bodies)
    world.is_gone("one")
    world.is_gone("last")
    world.server.held["last"].set()
    await world.finish()
    assert world.activated == ["default/high"]


@pytest.mark.parametrize("end", ["gone", "leaving", "bound", "replaced"])
async def test_nobody_goes_for_a_pod_that_waits_no_more(world: World, end: str) -> None:
    world.server.held["one"] = asyncio.Event()
    world.evictor.start(world.high, "node-a", world.victims("one", "two", "last"))
    await world.until(lambda: ("delete", "two") in world.server.requests)
    match end:
        case "gone":
            world.is_gone("high")
        case "leaving":
            world.leaves("high")
        case "bound":
            world.pod("high", node_name="node-b")
        case "replaced":
            world.seen["default/high"] = testing.pod("high")
            world.seen["default/high"]["metadata"]["uid"] = "another"
    world.server.held["one"].set()
    await world.finish()
    assert "last" not in world.server.bodies


async def test_a_promise_to_somebody_less_important_is_taken_back(world: World) -> None:
    mid, equal = world.pod("mid", priority=5), world.pod("equal", priority=10)
    elsewhere = world.pod("elsewhere", priority=5)
    world.promises.add(mid, "node-a")
    world.promises.add(equal, "node-a")
    world.promises.add(elsewhere, "node-b")
    world.evictor.start(world.high, "node-a", world.victims("low"))
    await world.finish()
    assert world.notes.nominated == [("mid", "")]
    assert [pod.name for pod in world.promises.pods_on("node-a")] == ["equal"]
    assert world.promises.node_of(elsewhere) == "node-b"


async def test_a_second_preemption_may_begin_before_the_first_is_answered(world: World) -> None:
    world.server.held["low"] = asyncio.Event()
    world.evictor.start(world.high, "node-a", world.victims("low"))
    await world.until(lambda: "low" in world.server.bodies)
    world.leaves("low")
    world.server.held["other"] = asyncio.Event()
    world.evictor.start(world.high, "node-b", world.victims("other"))
    await world.until(lambda: "other" in world.server.bodies)
    world.server.held["low"].set()
    await world.until(lambda: world.measured.preemption_runs["success",] == 1)
    assert world.evictor.is_preempting(world.high.uid)
    world.server.held["other"].set()
    await world.finish()
    assert world.server.requests[-1] == ("delete", "other")


async def test_draining_does_not_wait_for_ever(world: World) -> None:
    world.server.held["low"] = asyncio.Event()
    world.evictor.start(world.high, "node-a", world.victims("low"))
    await world.evictor.drain(0.01)
    assert not len(world.evictor)
    assert world.server.requests == []
