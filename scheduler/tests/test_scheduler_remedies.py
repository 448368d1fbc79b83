"""What would have to change for a pod to fit."""

from typing import Any

import pytest

from whipstaff.scheduler import nominator, pods, profile, remedies, testing

Object = dict[str, Any]

DEFAULT = profile.default_profile("x")
ZONE = "topology.kubernetes.io/zone"
REQUIRED = "requiredDuringSchedulingIgnoredDuringExecution"


def needs(
    pod: pods.PodInfo,
    nodes: list[Object],
    placed: list[Object] | None = None,
    promises: nominator.Nominator | None = None,
    **settings: Any,
) -> dict[str, list[str]]:
    cluster = testing.cluster(nodes, placed or [])
    promises = promises or nominator.Nominator()
    found = remedies.nearest(pod, DEFAULT, cluster, promises, **settings)
    return {each.node: list(each.changes) for each in found}


def test_how_much_of_which_resource_is_missing() -> None:
    pod = testing.pod_info("new", {"cpu": "2", "memory": "1Gi", "example.com/gpu": "1"})
    nodes = [testing.node("a", more={"example.com/gpu": "1"}), testing.node("b", cpu="1")]
    busy = testing.pod("busy", {"cpu": "2500m", "memory": "31.5Gi"}, node_name="a")
    assert needs(pod, nodes, [busy]) == {
        "a": [
            "500m more cpu (2 wanted, 1500m of 4 free)",
            "512Mi more memory (1Gi wanted, 512Mi of 32Gi free)",
        ],
        "b": [
            "more cpu than it has at all (2 wanted, the node has 1)",
            "more example.com/gpu than it has at all (1 wanted, the node has 0)",
        ],
    }


def test_the_node_that_lacks_the_least_comes_first_and_has_all_its_lacks_told() -> None:
    taint = {"key": "dedicated", "value": "gpu", "effect": "NoSchedule"}
    pod = testing.pod_info("new", {"cpu": "2"}, nodeSelector={"disk": "ssd"})
    nodes = [
        testing.node("far", cpu="1", taints=[taint], unschedulable=True),
        testing.node("near", labels={"disk": "ssd"}, taints=[taint]),
        testing.node("middle", labels={"disk": "hdd"}, taints=[taint]),
    ]
    assert list(needs(pod, nodes).items()) == [
        ("near", ["a toleration of dedicated=gpu:NoSchedule"]),
        (
            "middle",
            [
                "a toleration of dedicated=gpu:NoSchedule",
                "the label disk=ssd (it has disk=hdd)",
            ],
        ),
        (
            "far",
            [
                "to be uncordoned, or a toleration of node.kubernetes.io/unschedulable:NoSchedule",
                "a toleration of dedicated=gpu:NoSchedule",
                "the label disk=ssd (it has no such label)",
                "more cpu than it has at all (2 wanted, the node has 1)",
            ],
        ),
    ]
    assert list(needs(pod, nodes, limit=1)) == ["near"]
    assert list(needs(pod, nodes, names=["far"])) == ["far"]


def test_of_several_terms_the_nearest_is_told() -> None:
    terms = [
        {
            "matchExpressions": [
                {"key": "disk", "operator": "In", "values": ["ssd"]},
                {"key": "cores", "operator": "Gt", "values": ["8"]},
            ]
        },
        {"matchExpressions": [{"key": "old", "operator": "DoesNotExist"}]},
    ]
    pod = testing.pod_info(affinity={"nodeAffinity": {REQUIRED: {"nodeSelectorTerms": terms}}})
    assert needs(pod, [testing.node("a", labels={"old": "yes"})]) == {
        "a": ["the label !old (it has old=yes)"]
    }


def test_pods_in_the_way_are_named() -> None:
    web = {"labelSelector": {"matchLabels": {"app": "web"}}, "topologyKey": ZONE}
    node = testing.node("a", labels={ZONE: "z1"}, max_pods="3")
    port = testing.container(host_ports=[80])
    averse = {"podAntiAffinity": {REQUIRED: [web]}}
    placed = [
        testing.pod("holder", containers=[port], node_name="a"),
        testing.pod("hermit", labels={"app": "web"}, affinity=averse, node_name="a"),
        testing.pod("third", node_name="a"),
    ]
    pod = testing.pod_info("new", containers=[port], labels={"app": "web"}, affinity=averse)
    assert needs(pod, [node], placed) == {
        "a": [
            "host port 80/TCP (taken by default/holder)",
            "room for one pod more (it takes 3)",
            f"no pod with app=web in {ZONE}=z1",
            f"default/hermit gone, whose anti-affinity keeps it out of {ZONE}=z1",
        ]
    }
    near = {"podAffinity": {REQUIRED: [web]}}
    lonely = testing.pod_info("lonely", affinity=near)
    assert needs(lonely, [testing.node("a", labels={ZONE: "z1"})]) == {
        "a": [f"a pod with app=web in {ZONE}=z1"]
    }


def test_uneven_zones_are_told() -> None:
    constraint = {
        "labelSelector": {"matchLabels": {"app": "web"}},
        "maxSkew": 1,
        "topologyKey": ZONE,
        "whenUnsatisfiable": "DoNotSchedule",
    }
    pod = testing.pod_info("new", labels={"app": "web"}, topologySpreadConstraints=[constraint])
    nodes = [
        testing.node("a", labels={ZONE: "z1"}),
        testing.node("b", labels={ZONE: "z2"}, unschedulable=True),
        testing.node("c"),
    ]
    placed = [testing.pod("one", labels={"app": "web"}, node_name="a")]
    assert needs(pod, nodes, placed)["a"] == [
        f"fewer pods with app=web in {ZONE}=z1 (there are 1, elsewhere 0; maxSkew is 1)"
    ]
    assert needs(pod, nodes, placed)["c"] == [f"a label {ZONE}, over which the pods are spread"]


def test_a_node_that_is_kept_for_another_pod_says_so() -> None:
    promises = nominator.Nominator()
    promises.add(testing.pod_info("first", {"cpu": "3"}, priority=5), "a")
    pod = testing.pod_info("new", {"cpu": "2"})
    assert needs(pod, [testing.node("a")], promises=promises) == {
        "a": ["another place for default/first, which it is kept for"]
    }


def test_what_no_node_could_make_good_is_told_without_one() -> None:
    volumes = [{"name": "data", "persistentVolumeClaim": {"claimName": "data"}}]
    pod = testing.pod_info("new", volumes=volumes)
    assert needs(pod, [testing.node("a")]) == {"": ['persistentvolumeclaim "data" not found']}


def test_nothing_is_told_where_nothing_is_missing() -> None:
    assert needs(testing.pod_info("new"), [testing.node("a")]) == {}
    assert needs(testing.pod_info("new"), []) == {}


@pytest.mark.parametrize(
    ("resource", "amount", "text"),
    [
        ("cpu", 1500, "1500m"),
        ("cpu", 2000, "2"),
        ("memory", 512 << 20, "512Mi"),
        ("memory", 33_000_000_001, "30.7Gi"),
        ("memory", 900, "900"),
        ("hugepages-2Mi", 4 << 20, "4Mi"),
        ("example.com/gpu", 3, "3"),
    ],
)
def test_amounts_are_told_in_units_that_people_read(resource: str, amount: int, text: str) -> None:
    assert remedies.amount_text(resource, amount) == text
