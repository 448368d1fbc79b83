"""The PodScheduled condition: what is written, when, and when not."""

import asyncio
from typing import Any

import pytest

from whipstaff.runtime import errors
from whipstaff.scheduler import pod_conditions, pods

Object = dict[str, Any]

NOW = 1_767_225_600.0
"""2026-01-01T00:00:00Z."""


def raw_pod(*, version: int = 1, node: str = "", conditions: Any = ()) -> Object:
    metadata = {"name": "web", "namespace": "shop", "uid": "uid-1", "generation": 3}
    return {
        "metadata": {**metadata, "resourceVersion": str(version)},
        "spec": {"nodeName": node, "containers": []},
        "status": {"conditions": list(conditions)},
    }


def refused(message: str, since: str = "2025-12-31T00:00:00Z") -> Object:
    return {
        "type": "PodScheduled",
        "status": "False",
        "reason": "Unschedulable",
        "message": message,
        "lastTransitionTime": since,
    }


class Server:
    """Stands in for the client: takes patches, and plays what is scripted first."""

    def __init__(self, *answers: Exception) -> None:
        self.answers = list(answers)
        self.patches: list[Object] = []
        self.hold = asyncio.Event()
        self.hold.set()

    async def patch(
        self, resource: Any, name: str, body: Object, namespace: str, **how: Any
    ) -> Any:
        await self.hold.wait()
        assert (name, namespace) == ("web", "shop")
        assert how == {"kind": "strategic", "subresource": "status"}
        if self.answers:
            raise self.answers.pop(0)
        self.patches.append(body)

    def messages(self) -> list[str]:
        return [body["status"]["conditions"][0]["message"] for body in self.patches]


@pytest.fixture(autouse=True)
def no_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pod_conditions, "_FIRST_PAUSE", 0.0)


def writer(server: Server, *seen: Object) -> pod_conditions.ConditionWriter:
    """A writer to whom the watch shows these pods, one after the other; the last one stays."""
    views = list(seen)

    def latest(_: str) -> Object | None:
        return views.pop(0) if len(views) > 1 else (views[0] if views else None)

    return pod_conditions.ConditionWriter(server, latest, now=lambda: NOW)  # type: ignore[arg-type]


def info(raw: Object) -> pods.PodInfo:
    return pods.PodInfo.from_object(raw)


def test_the_patch_names_the_very_pod_as_it_was_seen() -> None:
    assert pod_conditions.patch(raw_pod(version=7), "Unschedulable", "too big", NOW) == {
        "metadata": {"uid": "uid-1", "resourceVersion": "7"},
        "status": {
            "conditions": [
                {
                    "type": "PodScheduled",
                    "status": "False",
                    "reason": "Unschedulable",
                    "message": "too big",
                    "lastTransitionTime": "2026-01-01T00:00:00Z",
                    "observedGeneration": 3,
                }
            ]
        },
    }


def test_a_new_reason_keeps_the_time_and_the_same_reason_writes_nothing() -> None:
    raw = raw_pod(conditions=[refused("too big")])
    assert pod_conditions.patch(raw, "Unschedulable", "too big", NOW) is None
    body = pod_conditions.patch(raw, "Unschedulable", "still too big", NOW)
    assert body is not None
    [condition] = body["status"]["conditions"]
    assert condition["lastTransitionTime"] == "2025-12-31T00:00:00Z"


async def test_it_is_written() -> None:
    server = Server()
    conditions = writer(server, raw_pod())
    conditions.set(info(raw_pod()), "Unschedulable", "too big")
    await conditions.drain(1)
    assert server.messages() == ["too big"]


async def test_only_the_newest_reason_is_written() -> None:
    server = Server()
    server.hold.clear()
    conditions = writer(server, raw_pod())
    conditions._writers = 1
    for number in range(5):
        conditions.set(info(raw_pod()), "Unschedulable", f"reason {number}")
        await asyncio.sleep(0)
    server.hold.set()
    await conditions.drain(1)
    assert server.messages() == ["reason 0", "reason 4"]


async def test_what_the_watch_showed_already_is_not_written() -> None:
    server = Server()
    said = raw_pod(conditions=[refused("too big")])
    conditions = writer(server, said)
    conditions.set(info(said), "Unschedulable", "too big")
    conditions.set(info(raw_pod()), "Unschedulable", "too big")
    await conditions.drain(1)
    assert server.patches == []


async def test_a_pod_that_changed_is_looked_at_again() -> None:
    server = Server(errors.Conflict(409), errors.Unreachable("away"))
    conditions = writer(server, raw_pod(version=1), raw_pod(version=1), raw_pod(version=2))
    conditions.set(info(raw_pod()), "Unschedulable", "too big")
    await conditions.drain(1)
    [body] = server.patches
    assert body["metadata"]["resourceVersion"] == "2"


async def test_a_pod_that_got_a_node_meanwhile_keeps_its_condition() -> None:
    server = Server(errors.Conflict(409))
    conditions = writer(server, raw_pod(), raw_pod(version=2, node="node-1"))
    conditions.set(info(raw_pod()), "Unschedulable", "too big")
    await conditions.drain(1)
    assert server.patches == []


async def test_what_is_dropped_in_time_is_not_written() -> None:
    server = Server()
    conditions = writer(server, raw_pod())
    conditions.set(info(raw_pod()), "Unschedulable", "too big")
    conditions.drop("uid-1")
    await conditions.drain(1)
    assert server.patches == []


@pytest.mark.parametrize("answer", [errors.NotFound(404), errors.Forbidden(403)])
async def test_a_clear_no_ends_it(answer: Exception) -> None:
    server = Server(answer)
    conditions = writer(server, raw_pod())
    conditions.set(info(raw_pod()), "Unschedulable", "too big")
    await conditions.drain(1)
    assert server.patches == []


async def test_draining_does_not_wait_for_ever() -> None:
    server = Server()
    server.hold.clear()
    conditions = writer(server, raw_pod())
    conditions.set(info(raw_pod()), "Unschedulable", "too big")
    await conditions.drain(0.01)
    assert server.patches == []


# The node that the pod waits for.


def nominations(server: Server) -> list[Any]:
    return [body["status"].get("nominatedNodeName", "unsaid") for body in server.patches]


async def test_the_node_is_written_with_the_reason() -> None:
    server = Server()
    raw = raw_pod()
    conditions = writer(server, raw)
    conditions.set(info(raw), "Unschedulable", "no room", "node-a")
    await conditions.drain(1)
    assert nominations(server) == ["node-a"]
    assert server.messages() == ["no room"]


async def test_a_node_is_taken_back_and_nothing_else_is_touched() -> None:
    server = Server()
    raw = raw_pod(conditions=[refused("no room")])
    raw["status"]["nominatedNodeName"] = "node-a"
    conditions = writer(server, raw)
    conditions.nominate(info(raw), "")
    await conditions.drain(1)
    assert [body["status"] for body in server.patches] == [{"nominatedNodeName": None}]
    assert server.patches[0]["metadata"] == {"uid": "uid-1", "resourceVersion": "1"}


@pytest.mark.parametrize("nominated", [None, "node-a"])
async def test_what_the_status_says_already_is_not_written_again(nominated: str | None) -> None:
    server = Server()
    raw = raw_pod(conditions=[refused("no room")])
    raw["status"]["nominatedNodeName"] = "node-a"
    conditions = writer(server, raw)
    conditions.set(info(raw), "Unschedulable", "no room", nominated)
    await conditions.drain(1)
    assert server.patches == []


async def test_a_newer_word_adds_to_one_that_is_not_written_yet() -> None:
    server = Server()
    raw = raw_pod()
    conditions = writer(server, raw)
    conditions.set(info(raw), "Unschedulable", "no room", "node-a")
    conditions.set(info(raw), "Unschedulable", "still no room")
    await conditions.drain(1)
    assert nominations(server) == ["node-a"]
    assert server.messages() == ["still no room"]


async def test_what_is_taken_back_while_it_is_being_written_is_written_after_it() -> None:
    server = Server()
    server.hold.clear()
    raw = raw_pod()
    conditions = writer(server, raw)
    conditions.nominate(info(raw), "node-a")
    await asyncio.sleep(0)
    # What the watch shows is still the old status, which says nothing.
    conditions.nominate(info(raw), "")
    for _ in range(10):
        await asyncio.sleep(0)
    raw["status"]["nominatedNodeName"] = "node-a"
    server.hold.set()
    await conditions.drain(1)
    assert nominations(server) == ["node-a", None]


async def test_a_write_that_failed_is_made_up_for_by_the_next() -> None:
    server = Server(errors.ServerError(500, "InternalError", "oops"))
    server.hold.clear()
    raw = raw_pod()
    conditions = writer(server, raw)
    conditions.set(info(raw), "Unschedulable", "no room", "node-a")
    await asyncio.sleep(0)
    conditions.set(info(raw), "Unschedulable", "still no room")
    server.hold.set()
    await conditions.drain(1)
    assert nominations(server) == ["node-a"]
    assert server.messages() == ["still no room"]
