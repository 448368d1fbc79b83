"""A cluster out of objects, without a scheduler that runs."""

from typing import Any

import pytest

from whipstaff.scheduler import offline, profile, storage_testing, testing
from whipstaff.scheduler.offline import Object


def made(*listed: Object) -> offline.Offline:
    return offline.Offline(listed, {"default-scheduler": profile.default_profile("x")})


def as_list(*items: Object) -> Object:
    return {"apiVersion": "v1", "kind": "List", "items": list(items)}


def test_a_pod_goes_where_a_scheduler_would_put_it() -> None:
    full = testing.pod("full", {"cpu": "3"}, node_name="node-a")
    there = made(as_list(testing.node("node-a"), full), testing.node("node-b"))
    pod = offline.info_of(testing.pod("new", {"cpu": "2"}))
    assert there.decide(pod).node == "node-b"
    there.cluster.assume(pod, "node-b")
    refused = there.decide(offline.info_of(testing.pod("newer", {"cpu": "3"})))
    assert "0/2 nodes are available: 2 Insufficient cpu." in str(refused.failure)


def test_who_would_have_to_go_is_told() -> None:
    low = testing.pod("low", {"cpu": "3"}, node_name="node-a", priority=-1)
    there = made(testing.node("node-a"), low)
    pod = offline.info_of(testing.pod("new", {"cpu": "2"}, priority=10))
    decided = there.decide(pod)
    assert decided.failure is not None
    answer = there.make_room(pod, decided.failure)
    assert answer is not None
    assert [victim.key for victim in answer.outcome.victims] == ["default/low"]
    assert there.cluster.pod_counts.tolist() == [1]


def test_volumes_services_and_ended_pods_count_as_they_do_for_a_scheduler() -> None:
    ended = testing.pod("ended", {"cpu": "4"}, node_name="node-a", status={"phase": "Succeeded"})
    there = made(testing.node("node-a"), ended)
    volumes = [{"name": "data", "persistentVolumeClaim": {"claimName": "data"}}]
    pod = offline.info_of(testing.pod("new", {"cpu": "4"}, volumes=volumes))
    assert 'persistentvolumeclaim "data" not found' in str(there.decide(pod).failure)
    claim = storage_testing.claim("data", volume="disk")
    there.put({"apiVersion": "v1", "kind": "PersistentVolumeClaim", **claim})
    assert 'persistentvolumeclaim "data" not found' not in str(there.decide(pod).failure)


def test_waiting_pods_and_their_promises_are_known() -> None:
    waiting = testing.pod(
        "waiting", {"cpu": "4"}, priority=5, status={"nominatedNodeName": "node-a"}
    )
    there = made(testing.node("node-a"), waiting)
    assert list(there.waiting) == ["default/waiting"]
    assert there.decide(offline.info_of(testing.pod("new", {"cpu": "1"}))).node is None
    there.remove(waiting)
    assert there.decide(offline.info_of(testing.pod("new", {"cpu": "1"}))).node == "node-a"


def test_what_cant_be_read_is_left_out_and_told() -> None:
    there = made(testing.node("node-a", cpu="many"), testing.node("node-b"))
    assert there.cluster.names == ["node-b"]
    assert "many" in there.unreadable["Node node-a"]


def test_a_placed_pod_can_be_decided_about_again() -> None:
    placed = testing.pod("placed", {"cpu": "3"}, node_name="node-a")
    there = made(testing.node("node-a"), placed)
    again = offline.unplaced(placed)
    assert there.decide(again).node is None
    there.remove(placed)
    assert there.decide(again).node == "node-a"


def test_a_pod_of_another_scheduler_needs_a_profile() -> None:
    there = made(testing.node("node-a"))
    pod = offline.info_of(testing.pod("new", schedulerName="other"))
    with pytest.raises(LookupError, match="other"):
        there.decide(pod)
    assert there.decide(pod, there.profiles["default-scheduler"]).node == "node-a"


@pytest.mark.apiserver
async def test_a_live_cluster_is_read(cluster: Any) -> None:
    await cluster.node("node-offline")
    await cluster.pod("waiting")
    listed = await offline.read(cluster.api)
    assert listed.unread == {}
    there = offline.Offline(listed.objects, {cluster.scheduler_name: profile.default_profile("x")})
    raw = there.waiting[f"{cluster.namespace}/waiting"]
    assert there.decide(offline.info_of(raw)).node == "node-offline"
