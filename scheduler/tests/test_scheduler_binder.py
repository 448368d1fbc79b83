"""What the binder makes of each answer. What the API server really answers is tested against it."""

import asyncio
from collections.abc import Sequence
from typing import Any

import pytest

from whipstaff.runtime import errors
from whipstaff.scheduler import binder, framework, pods

Object = dict[str, Any]


class Script:
    """Stands in for the client: plays answers, one a call, and notes the calls."""

    def __init__(self, posts: Sequence[Any] = (), reads: Sequence[Any] = ()) -> None:
        self.posts, self.reads = list(posts), list(reads)
        self.calls: list[str] = []
        self.bodies: list[Object] = []
        self.hold: asyncio.Event | None = None

    async def create(self, resource: Any, body: Object, namespace: str, **settings: Any) -> Object:
        self.calls.append("POST")
        before = settings.pop("before")
        await before()
        self.bodies.append({"path": resource.path(namespace, **settings), **body})
        if self.hold is not None:
            await self.hold.wait()
        return self._play(self.posts)

    async def get(self, resource: Any, name: str, namespace: str) -> Object:
        self.calls.append("GET")
        return self._play(self.reads)

    def _play(self, answers: list[Any]) -> Object:
        answer = answers.pop(0) if answers else {}
        if isinstance(answer, Exception):
            raise answer
        return answer


def raw_pod(*, node: str = "", uid: str = "uid-1", terminating: bool = False) -> Object:
    metadata = {"name": "web", "namespace": "shop", "uid": uid, "resourceVersion": "7"}
    if terminating:
        metadata["deletionTimestamp"] = "2026-01-01T00:00:00Z"
    return {"metadata": metadata, "spec": {"nodeName": node, "containers": []}, "status": {}}


def binding() -> binder.Binding:
    return binder.Binding(pods.PodInfo.from_object(raw_pod()), "node-1", token="mine")


async def bind(script: Script) -> binder.Settlement:
    settled: list[tuple[binder.Binding, binder.Settlement]] = []
    bindings = binder.Binder(script, lambda *ended: settled.append(ended))
    bindings.start(binding())
    await bindings.drain(60)
    [(ended, settlement)] = settled
    assert ended.token == "mine"
    return settlement


@pytest.fixture(autouse=True)
def no_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(binder, "_FIRST_PAUSE", 0.0)


def conflict() -> errors.Conflict:
    return errors.Conflict(409, "Conflict", 'pod web is already assigned to node "node-2"')


async def test_a_binding_names_the_very_pod_and_the_node() -> None:
    script = Script()
    assert (await bind(script)).outcome is binder.Outcome.BOUND
    assert script.bodies == [
        {
            "path": "/api/v1/namespaces/shop/pods/web/binding",
            "apiVersion": "v1",
            "kind": "Binding",
            "metadata": {"namespace": "shop", "name": "web", "uid": "uid-1"},
            "target": {"kind": "Node", "name": "node-1"},
        }
    ]


@pytest.mark.parametrize(
    ("post", "read", "outcome"),
    [
        (errors.NotFound(404), None, binder.Outcome.GONE),
        (errors.Forbidden(403, message="no"), None, binder.Outcome.REFUSED),
        (errors.Invalid(422, message="no"), None, binder.Outcome.REFUSED),
        (errors.Unauthorized(401, message="who?"), None, binder.Outcome.REFUSED),
        (conflict(), raw_pod(node="node-1"), binder.Outcome.BOUND),
        (conflict(), raw_pod(node="node-2"), binder.Outcome.TAKEN),
        (conflict(), raw_pod(uid="another"), binder.Outcome.GONE),
        (conflict(), raw_pod(terminating=True), binder.Outcome.GONE),
        (conflict(), errors.NotFound(404), binder.Outcome.GONE),
        (conflict(), raw_pod(), binder.Outcome.REFUSED),
        (errors.Unreachable("time-out"), raw_pod(node="node-1"), binder.Outcome.BOUND),
        (errors.Unreachable("time-out"), raw_pod(node="node-2"), binder.Outcome.TAKEN),
        (errors.Unreachable("time-out"), errors.NotFound(404), binder.Outcome.GONE),
        (errors.ServerError(504), raw_pod(node="node-1"), binder.Outcome.BOUND),
    ],
)
async def test_one_answer_settles_a_binding(
    post: Exception, read: Any, outcome: binder.Outcome
) -> None:
    script = Script([post], [read])
    assert (await bind(script)).outcome is outcome
    assert script.calls.count("POST") == 1


@pytest.mark.parametrize("lost", [errors.Unreachable("reset"), errors.ServerError(500)])
async def test_a_lost_binding_is_sent_again_to_the_same_node(lost: Exception) -> None:
    script = Script([lost, lost, {}], [raw_pod(), raw_pod()])
    assert (await bind(script)).outcome is binder.Outcome.BOUND
    assert script.calls == ["POST", "GET", "POST", "GET", "POST"]
    assert {body["target"]["name"] for body in script.bodies} == {"node-1"}


async def test_the_pod_is_read_before_anything_is_sent_again() -> None:
    away = errors.Unreachable("refused")
    script = Script([away, away, away, away], [away, away, away, raw_pod(node="node-1")])
    assert (await bind(script)).outcome is binder.Outcome.BOUND
    assert script.calls == ["POST", "GET"] * 4


async def test_a_server_that_is_busy_is_asked_again() -> None:
    script = Script([errors.TooManyRequests(429), errors.TooManyRequests(429), {}])
    assert (await bind(script)).outcome is binder.Outcome.BOUND
    assert script.calls == ["POST"] * 3


async def test_a_binding_that_always_fails_is_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(binder, "_LONGEST_PAUSE", 0.0)
    script = Script([errors.ServerError(500, message="etcd is full")] * 99, [raw_pod()] * 99)
    settlement = await bind(script)
    assert settlement.outcome is binder.Outcome.REFUSED
    assert "etcd is full" in settlement.reason
    assert script.calls == ["POST", "GET"] * binder._PATIENCE


async def test_bindings_wait_for_room() -> None:
    script = Script()
    script.hold = asyncio.Event()
    settled: list[Any] = []
    bindings = binder.Binder(script, lambda *ended: settled.append(ended), concurrency=2)
    bindings.start(binding())
    assert bindings.has_room
    await bindings.room()
    bindings.start(binding())
    assert not bindings.has_room
    waiting = asyncio.create_task(bindings.room())
    await asyncio.sleep(0.01)
    assert not waiting.done()
    assert len(bindings) == 2
    script.hold.set()
    await asyncio.wait_for(waiting, 1)
    await bindings.drain(1)
    assert len(settled) == 2


async def test_a_binding_is_prepared_before_it_is_sent_and_takes_no_place_meanwhile() -> None:
    script = Script()
    settled: list[Any] = []
    bindings = binder.Binder(script, lambda *ended: settled.append(ended), concurrency=1)
    ready = asyncio.Event()

    async def prepare() -> framework.Status:
        await ready.wait()
        return framework.SUCCESS

    held = binding()
    held.prepare = prepare
    bindings.start(held)
    await asyncio.sleep(0.01)
    assert (len(bindings), bindings.has_room, script.calls) == (1, True, [])
    bindings.start(binding())
    ready.set()
    await asyncio.sleep(0.01)
    assert [outcome.outcome for _, outcome in settled] == [binder.Outcome.BOUND] * 2
    assert script.calls == ["POST", "POST"]


async def test_a_binding_that_can_not_be_prepared_is_not_sent() -> None:
    script = Script()
    settled: list[Any] = []
    bindings = binder.Binder(script, lambda *ended: settled.append(ended))
    refusal = framework.Status(framework.Code.UNSCHEDULABLE, ("too late",), "Gang")

    async def prepare() -> framework.Status:
        return refusal

    held = binding()
    held.prepare = prepare
    bindings.start(held)
    await asyncio.sleep(0.01)
    [(_, settlement)] = settled
    assert settlement == binder.Settlement(binder.Outcome.UNPREPARED, "too late", refusal)
    assert script.calls == []
    assert len(bindings) == 0


async def test_at_the_end_nothing_is_waited_for_that_is_only_being_prepared() -> None:
    bindings = binder.Binder(Script(), lambda *_: None)
    held = binding()
    held.prepare = asyncio.Event().wait  # type: ignore[assignment]
    bindings.start(held)
    await asyncio.sleep(0.01)
    assert await asyncio.wait_for(bindings.drain(60), 1) == 1
    assert len(bindings) == 0


async def test_draining_waits_but_not_for_ever() -> None:
    script = Script()
    script.hold = asyncio.Event()
    bindings = binder.Binder(script, lambda *_: None)
    bindings.start(binding())
    assert await bindings.drain(0.01) == 1
    assert len(bindings) == 0


async def test_a_fault_in_the_accounts_stops_the_scheduling() -> None:
    def settled(*_: object) -> None:
        raise RuntimeError("lost count")

    bindings = binder.Binder(Script(), settled)
    bindings.start(binding())
    await asyncio.sleep(0.01)
    with pytest.raises(RuntimeError, match="lost count"):
        await bindings.room()


# Binding by an extender.


@pytest.mark.parametrize(
    ("failure", "read", "outcome"),
    [
        (None, None, binder.Outcome.BOUND),
        (errors.WhipstaffError("no"), raw_pod(), binder.Outcome.REFUSED),
        (errors.WhipstaffError("no"), raw_pod(node="node-1"), binder.Outcome.BOUND),
        (errors.WhipstaffError("no"), raw_pod(node="node-2"), binder.Outcome.TAKEN),
        (errors.WhipstaffError("no"), raw_pod(uid="other"), binder.Outcome.GONE),
        (errors.WhipstaffError("no"), errors.Unreachable("dark"), binder.Outcome.REFUSED),
    ],
)
async def test_what_somebody_else_binds_is_not_sent(
    failure: Exception | None, read: Any, outcome: binder.Outcome
) -> None:
    async def delegate() -> bool:
        if failure is not None:
            raise failure
        return True

    script = Script(reads=[read])
    settled: list[binder.Settlement] = []
    bindings = binder.Binder(script, lambda _, settlement: settled.append(settlement))
    delegated = binding()
    delegated.delegate = delegate
    bindings.start(delegated)
    await bindings.drain(60)
    assert [each.outcome for each in settled] == [outcome]
    assert script.calls == ([] if failure is None else ["GET"])


async def test_what_somebody_else_leaves_to_us_is_sent() -> None:
    async def delegate() -> bool:
        return False

    script = Script()
    settled: list[binder.Settlement] = []
    bindings = binder.Binder(script, lambda _, settlement: settled.append(settlement))
    delegated = binding()
    delegated.delegate = delegate
    bindings.start(delegated)
    await bindings.drain(60)
    assert [each.outcome for each in settled] == [binder.Outcome.BOUND]
    assert script.calls == ["POST"]


# Somebody else was faster.


async def test_a_binding_that_is_objected_to_at_the_last_moment_is_not_sent() -> None:
    script = Script()
    settled: list[binder.Settlement] = []
    bindings = binder.Binder(script, lambda *ended: settled.append(ended[1]))
    held = binding()
    held.objection = lambda: "Insufficient cpu"
    bindings.start(held)
    await bindings.drain(1)
    assert settled == [binder.Settlement(binder.Outcome.OVERTAKEN, "Insufficient cpu")]
    assert script.bodies == []


async def test_what_the_watch_has_delivered_is_taken_in_before_a_binding_is_sent() -> None:
    told, script = asyncio.Event(), Script()
    settled: list[binder.Settlement] = []

    async def caught_up() -> None:
        await told.wait()

    bindings = binder.Binder(script, lambda *ended: settled.append(ended[1]), caught_up=caught_up)
    held = binding()
    held.objection = lambda: "Insufficient cpu" if told.is_set() else ""
    bindings.start(held)
    await asyncio.sleep(0.01)
    assert script.bodies == []
    told.set()
    await bindings.drain(1)
    assert settled[0].outcome is binder.Outcome.OVERTAKEN


async def test_nobody_is_asked_to_bind_a_pod_that_is_objected_to() -> None:
    asked: list[str] = []
    settled: list[binder.Settlement] = []

    async def delegate() -> bool:
        asked.append("asked")
        return True

    bindings = binder.Binder(Script(), lambda *ended: settled.append(ended[1]))
    held = binding()
    held.delegate, held.objection = delegate, lambda: "Insufficient cpu"
    bindings.start(held)
    await bindings.drain(1)
    assert (settled[0].outcome, asked) == (binder.Outcome.OVERTAKEN, [])


async def test_a_place_is_not_given_up_while_a_lost_binding_may_be_carried_out() -> None:
    script = Script([errors.Unreachable("reset"), {}], [raw_pod()])
    answers = iter(["", "Insufficient cpu"])
    settled: list[binder.Settlement] = []
    bindings = binder.Binder(script, lambda *ended: settled.append(ended[1]))
    held = binding()
    held.objection = lambda: next(answers)
    bindings.start(held)
    await bindings.drain(1)
    assert settled[0].outcome is binder.Outcome.BOUND
    assert len(script.bodies) == 2
