"""NodeDeclaredFeatures."""

from typing import Any

import pytest

from whipstaff.scheduler import cluster_events, framework, pods, testing
from whipstaff.scheduler.plugins import nodedeclaredfeatures

Object = dict[str, Any]

RESTARTS = {"name": "c", "restartPolicyRules": [{"action": "RestartAllContainers"}]}
REJECTED = framework.Status(
    framework.Code.UNSCHEDULABLE_AND_UNRESOLVABLE,
    ("node(s) didn't match Pod's required features",),
)


def node(name: str, *features: str) -> Object:
    made = testing.node(name)
    made["status"]["declaredFeatures"] = list(features)
    return made


@pytest.mark.parametrize(
    "spec",
    [
        {},
        {"hostNetwork": True},
        {"hostUsers": False},
        {"hostNetwork": True, "hostUsers": True},
        {"containers": [{"name": "c", "restartPolicyRules": [{"action": "Restart"}]}]},
    ],
)
def test_a_pod_that_needs_no_feature_is_skipped(spec: Object) -> None:
    plugin = nodedeclaredfeatures.NodeDeclaredFeatures()
    pod = testing.pod_info(**spec)

    assert testing.statuses(plugin, pod, testing.cluster([node("a")])) == {"": framework.SKIP}


@pytest.mark.parametrize(
    ("spec", "fitting"),
    [
        ({"hostNetwork": True, "hostUsers": False}, {"net", "both"}),
        ({"containers": [RESTARTS]}, {"restart", "both"}),
        ({"initContainers": [RESTARTS]}, {"restart", "both"}),
        ({"hostNetwork": True, "hostUsers": False, "containers": [RESTARTS]}, {"both"}),
    ],
)
def test_a_pod_goes_where_all_that_it_needs_is_declared(spec: Object, fitting: set[str]) -> None:
    cluster = testing.cluster(
        [
            node("net", "UserNamespacesHostNetworkSupport"),
            node("restart", "RestartAllContainersOnContainerExits", "SomethingNew"),
            node(
                "both", "RestartAllContainersOnContainerExits", "UserNamespacesHostNetworkSupport"
            ),
            testing.node("none"),
        ]
    )

    found = testing.statuses(
        nodedeclaredfeatures.NodeDeclaredFeatures(), testing.pod_info(**spec), cluster
    )

    assert {name for name, status in found.items() if status.is_success} == fitting
    assert {status for status in found.values() if not status.is_success} == {REJECTED}


def test_pods_look_alike_if_they_need_the_same_features() -> None:
    plugin = nodedeclaredfeatures.NodeDeclaredFeatures()
    plain, needing = testing.pod_info(), testing.pod_info(containers=[RESTARTS])

    assert plugin.sign(plain) == plugin.sign(testing.pod_info(hostNetwork=True))
    assert plugin.sign(plain) != plugin.sign(needing)


def test_a_new_node_a_new_feature_or_a_change_of_the_pod_helps() -> None:
    plugin = nodedeclaredfeatures.NodeDeclaredFeatures()
    before = testing.pod("p", containers=[RESTARTS])
    after = testing.pod("p", hostNetwork=True)
    waiting = pods.PodInfo.from_object(before)

    def helps(event: cluster_events.ClusterEvent, old: Any, new: Any) -> bool:
        return testing.may_help(plugin, waiting, event, old, new)

    [grown] = cluster_events.node_changes(node("a"), node("a", "X"))
    [labelled] = cluster_events.node_changes(node("a"), testing.node("a", labels={"a": "b"}))[:1]
    changed = cluster_events.UNSCHEDULABLE_POD_UPDATE
    assert helps(cluster_events.NODE_ADD, None, node("a"))
    assert helps(grown, node("a"), node("a", "X"))
    assert not helps(labelled, node("a"), node("a"))
    assert helps(changed, before, after)
    assert not helps(changed, before, before)
    other = testing.pod("other", hostNetwork=True)
    assert not helps(changed, other, other)
