"""What counts as something that happened, and what of it a plugin hears."""

import copy
from typing import Any

import pytest

from whipstaff.scheduler import cluster_events, custom_resources, queueing_hints, testing
from whipstaff.scheduler.cluster_events import Action

Object = dict[str, Any]

REFUSED = {"type": "PodScheduled", "status": "False", "message": "no room"}


def changed(raw: Object, **status: Any) -> Object:
    """A later version of a pod, with more in its status."""
    new = copy.deepcopy(raw)
    new["metadata"]["resourceVersion"] = "2"
    new["status"] = {**new["status"], **status}
    return new


def labels(events: list[cluster_events.ClusterEvent]) -> list[str]:
    return [event.label for event in events]


# A waiting pod.


@pytest.mark.parametrize(
    "status",
    [
        {"conditions": [REFUSED]},
        {"conditions": [{**REFUSED, "message": "still no room"}]},
        {"nominatedNodeName": "node-1"},
        {},
    ],
)
def test_what_the_scheduler_writes_of_a_waiting_pod_is_nothing_that_happened(
    status: Object,
) -> None:
    old = testing.pod("pod")
    assert cluster_events.pod_changes(old, changed(old, **status)) == []


def test_what_others_write_of_a_waiting_pod_happened() -> None:
    old = testing.pod("pod")
    ready = {"type": "example.com/Paid", "status": "True"}
    annotated = changed(old)
    annotated["metadata"]["annotations"] = {"a": "b"}
    for new in (changed(old, conditions=[REFUSED, ready]), annotated):
        assert labels(cluster_events.pod_changes(old, new)) == ["UnschedulablePodUpdate"]


def test_the_status_of_a_pod_on_a_node_happened_whoever_wrote_it() -> None:
    old = testing.pod("pod", node_name="node-1")
    new = changed(old, conditions=[REFUSED])
    assert labels(cluster_events.pod_changes(old, new)) == ["AssignedPodUpdate"]


# Asking for less.


def asking(**amounts: str) -> Object:
    containers = [testing.container({"cpu": cpu}, name=name) for name, cpu in amounts.items()]
    return testing.pod("pod", containers=containers, node_name="node-1")


@pytest.mark.parametrize(
    ("before", "after", "less"),
    [
        ({"a": "2"}, {"a": "1"}, True),
        ({"a": "1"}, {"a": "2"}, False),
        ({"a": "1"}, {"a": "1000m"}, False),
        ({"a": "2", "b": "1"}, {"a": "1", "b": "2"}, False),
        ({"a": "2", "b": "1"}, {"a": "1", "b": "1"}, True),
    ],
)
def test_a_pod_scales_down_when_it_asks_for_less_as_a_whole(
    before: dict[str, str], after: dict[str, str], less: bool
) -> None:
    found = labels(cluster_events.pod_changes(asking(**before), asking(**after)))
    assert ("AssignedPodUpdatePodScaleDown" in found) is less


def test_a_resize_frees_room_only_once_the_node_has_carried_it_out() -> None:
    def resized(wanted: str, held: str) -> Object:
        status = {"name": "main", "allocatedResources": {"cpu": held}, "resources": {}}
        return testing.pod(
            "pod", {"cpu": wanted}, node_name="node-1", status={"containerStatuses": [status]}
        )

    wish, done = resized("1", "2"), resized("1", "1")
    down = "AssignedPodUpdatePodScaleDown"
    assert down not in labels(cluster_events.pod_changes(resized("2", "2"), wish))
    assert down in labels(cluster_events.pod_changes(wish, done))


# Who hears of what.

UNHEARD = {cluster_events.WILDCARD, cluster_events.VOLUME_ATTACHMENT}
"""No plugin asks for the first; upstream leaves the second out."""


@pytest.mark.parametrize("resource", sorted(cluster_events.RESOURCES - UNHEARD))
@pytest.mark.parametrize("action", [Action.ADD, Action.UPDATE, Action.DELETE])
def test_a_plugin_that_says_nothing_hears_of_everything(resource: str, action: Action) -> None:
    [wanted] = queueing_hints.interests({"Own": object()}).values()
    happened = cluster_events.event(resource, action)
    assert any(interest.event.matches(happened) for interest in wanted)


def test_a_plugin_that_names_no_event_hears_of_none() -> None:
    class Deaf:
        queueing_hints = ()

    assert queueing_hints.interests({"Deaf": Deaf()}) == {"Deaf": ()}


def test_an_event_is_read_once_for_all_the_pods_that_are_asked_about_it() -> None:
    read = []
    remembering = queueing_hints.remembering(lambda node: read.append(node) or node["cpu"])
    old, new, other = {"cpu": 1}, {"cpu": 2}, {"cpu": 3}
    assert [remembering(node) for node in (old, new, old, new, other, new)] == [1, 2, 1, 2, 3, 2]
    assert read == [old, new, other]


# Custom resources.


def naming(resource: str) -> dict[str, object]:
    class Own:
        queueing_hints = (globals()["queueing_hints"].on(resource, Action.ALL),)

    return {"Own": Own()}


def test_a_custom_resource_is_named_by_plural_version_and_group() -> None:
    [found] = custom_resources.named(naming("foos.v1.example.com"))
    assert found.path() == "/apis/example.com/v1/foos"
    assert custom_resources.named(naming(cluster_events.CSI_NODE)) == []


def test_a_resource_that_cannot_be_watched_is_named() -> None:
    with pytest.raises(ValueError, match="Own: queueing_hints: 'Foo' is no resource"):
        custom_resources.named(naming("Foo"))
