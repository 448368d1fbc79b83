"""Cases about nodes: their taints, labels, room and features."""

from scheduler.tests.requeueing.cases import (
    NOT_READY,
    Changed,
    Gone,
    New,
    case,
    grown,
    node,
    pod,
    tolerating,
    wanting,
    wanting_node,
)

TAINTED = {"key": "taint-key", "effect": "NoSchedule"}


def tainted(name: str, *taints: dict[str, str]) -> Changed:
    return Changed("Node", name, {"spec": {"taints": list(taints)}})


def relabelled(name: str, **labels: str | None) -> Changed:
    return Changed("Node", name, {"metadata": {"labels": labels}})


TAINTS = (
    case(
        1,
        "more room on a node doesn't retry a pod that a taint keeps off it",
        "TaintToleration NodeResourcesFit",
        nodes=[node(room="cpu=2", taints=[NOT_READY])],
        pods=[
            pod("keeps-off", asks="cpu=4"),
            pod("too-big", asks="cpu=4", tolerates=[NOT_READY["key"]]),
        ],
        changes=[grown("node", "cpu=4")],
        requeued="too-big",
    ),
    case(
        6,
        "a pod that gets a toleration is retried, one that doesn't is not",
        "TaintToleration",
        nodes=[node(taints=[TAINTED])],
        pods=[pod("helped"), pod("other")],
        changes=[Changed("Pod", "helped", {"spec": {"tolerations": [tolerating("taint-key")]}})],
        requeued="helped",
    ),
    case(
        7,
        "a changed taint retries the pods that tolerate what there is now",
        "TaintToleration",
        nodes=[node(taints=[NOT_READY])],
        pods=[
            pod("tolerates", tolerates=["taint-key"]),
            pod("tolerates-another", tolerates=["taint-key2"]),
            pod("tolerates-none"),
        ],
        changes=[tainted("node", TAINTED)],
        requeued="tolerates",
    ),
    case(
        8,
        "a new node with a taint retries the pods that tolerate it",
        "TaintToleration",
        nodes=[node("node1", taints=[NOT_READY])],
        pods=[pod("tolerates", tolerates=["taint-key"]), pod("tolerates-none")],
        changes=[New(node("node2", taints=[TAINTED]))],
        requeued="tolerates",
    ),
    case(
        22,
        "a label on a pod that taints keep off doesn't retry it",
        "TaintToleration",
        nodes=[node(taints=[NOT_READY])],
        pods=[pod("pod1")],
        changes=[Changed("Pod", "pod1", {"metadata": {"labels": {"key": "val"}}})],
        requeued="",
    ),
    case(
        34,
        "a node that is uncordoned retries the pods that waited for that",
        "NodeUnschedulable",
        nodes=[node(unschedulable=True)],
        pods=[pod("pod1")],
        changes=[Changed("Node", "node", {"spec": {"unschedulable": None}})],
        requeued="pod1",
    ),
    case(
        35,
        "a new node retries the pods that cordoned ones refused",
        "NodeUnschedulable",
        nodes=[node("node1", unschedulable=True)],
        pods=[pod("pod1")],
        changes=[New(node("node2"))],
        requeued="pod1",
    ),
    case(
        36,
        "a new node that is cordoned as well retries nobody",
        "NodeUnschedulable",
        nodes=[node("node1", unschedulable=True)],
        pods=[pod("pod1")],
        changes=[New(node("node2", unschedulable=True))],
        requeued="",
    ),
)

LABELS = (
    case(
        3,
        "a node's new label retries the pods that ask for it",
        "NodeAffinity",
        nodes=[node(labels="group=a")],
        pods=[
            pod("wants-b", affinity=wanting("group", "b")),
            pod("wants-c", affinity=wanting("group", "c")),
        ],
        changes=[relabelled("node", group="b")],
        requeued="wants-b",
    ),
    case(
        4,
        "a label that doesn't change whether the node matches retries nobody",
        "NodeAffinity NodeResourcesFit",
        nodes=[node("node1", "group=a", room="cpu=2"), node("node2", "group=b")],
        pods=[pod("pod1", asks="cpu=4", affinity=wanting("group", "a"))],
        changes=[relabelled("node1", node="fake-node")],
        requeued="",
    ),
    case(
        5,
        "a new node retries the pods that ask for its label",
        "NodeAffinity",
        nodes=[node("node1", "group=a")],
        pods=[
            pod("wants-b", affinity=wanting("group", "b")),
            pod("wants-c", affinity=wanting("group", "c")),
        ],
        changes=[New(node("node2", "group=b"))],
        requeued="wants-b",
    ),
    case(
        23,
        "a pod that names its node is not retried for another node's labels",
        "NodeAffinity NodeResourcesFit",
        nodes=[
            node("node1", "node=node1", room="cpu=2"),
            node("node2", "node=node2 zone=zone1", room="cpu=2"),
        ],
        pods=[pod("pod1", asks="cpu=4", affinity=wanting_node("node1"))],
        changes=[relabelled("node2", zone="zone2")],
        requeued="",
        refused_by="NodeAffinity NodeResourcesFit",
    ),
    case(
        23,
        "a pod that names its node is retried when that node grows",
        "NodeAffinity NodeResourcesFit",
        nodes=[node("node1", room="cpu=2"), node("node2", room="cpu=2")],
        pods=[pod("pod1", asks="cpu=4", affinity=wanting_node("node1"))],
        changes=[grown("node1", "cpu=4")],
        requeued="pod1",
        refused_by="NodeAffinity NodeResourcesFit",
    ),
)

RESOURCES = (
    case(
        9,
        "a pod that asks for less than before is retried",
        "NodeResourcesFit",
        nodes=[node(room="cpu=2")],
        pods=[pod("pod1", asks="cpu=4")],
        changes=[
            Changed(
                "Pod",
                "pod1",
                {
                    "spec": {
                        "containers": [{"name": "main", "resources": {"requests": {"cpu": "2"}}}]
                    }
                },
                "resize",
            )
        ],
        requeued="pod1",
    ),
    case(
        10,
        "a pod that leaves its node retries those that lacked room",
        "NodeResourcesFit",
        nodes=[node(room="cpu=2")],
        there=[pod("pod1", asks="cpu=2", on="node")],
        pods=[pod("pod2", asks="cpu=2")],
        changes=[Gone("Pod", "pod1")],
        requeued="pod2",
    ),
    case(
        11,
        "a new node retries the pods for which it has room",
        "NodeResourcesFit",
        nodes=[node("node1", room="cpu=2")],
        pods=[pod("fits", asks="cpu=4"), pod("too-big", asks="cpu=5")],
        changes=[New(node("node2", room="cpu=4"))],
        requeued="fits",
    ),
    case(
        12,
        "a node that grows retries the pods for which it then has room",
        "NodeResourcesFit",
        nodes=[node(room="cpu=2")],
        pods=[pod("fits", asks="cpu=4"), pod("too-big", asks="cpu=5")],
        changes=[grown("node", "cpu=4")],
        requeued="fits",
    ),
    case(
        13,
        "more memory doesn't retry a pod that lacks CPU, with a vendor's resource or without",
        "NodeResourcesFit",
        nodes=[node(room="cpu=4 example.com/gpu=1")],
        pods=[pod("pod1", asks="cpu=5 example.com/gpu=1")],
        changes=[grown("node", "cpu=4 memory=4000")],
        requeued="",
    ),
    case(
        15,
        "more memory doesn't retry a pod that lacks a vendor's resource",
        "NodeResourcesFit",
        nodes=[node(room="cpu=4")],
        pods=[pod("pod1", asks="example.com/gpu=1")],
        changes=[grown("node", "cpu=4 memory=4000")],
        requeued="",
    ),
    case(
        19,
        "more of what a pod doesn't ask for doesn't retry it",
        "NodeResourcesFit NodeAffinity",
        nodes=[node("node1", room="cpu=4"), node("node2", "group=b", room="cpu=2")],
        pods=[pod("pod1", asks="cpu=4", affinity=wanting("group", "b"))],
        changes=[grown("node1", "cpu=4 memory=4000")],
        requeued="",
    ),
    case(
        20,
        "more of what a pod asks for retries it",
        "NodeResourcesFit NodeAffinity",
        nodes=[node("node1", room="cpu=4"), node("node2", "group=b", room="cpu=2")],
        pods=[pod("pod1", asks="cpu=4", affinity=wanting("group", "b"))],
        changes=[grown("node1", "cpu=5")],
        requeued="pod1",
    ),
    case(
        21,
        "a node that takes more pods retries one that a full node refused",
        "NodeResourcesFit NodeAffinity",
        nodes=[node("node1", room="pods=2"), node("node2", "group=b", room="pods=1")],
        there=[pod("pod1", on="node2", affinity=wanting("group", "b"))],
        pods=[pod("pod2", affinity=wanting("group", "b"))],
        changes=[grown("node1", "pods=3")],
        requeued="pod2",
    ),
)

NEEDS_FEATURE = {"key": "featureA", "effect": "NoExecute", "tolerationSeconds": 200}
FEATURES = (
    case(
        74,
        "a node that comes to have a feature retries the pods that need it",
        "NodeDeclaredFeatures",
        nodes=[node()],
        pods=[pod("pod1", tolerations=[NEEDS_FEATURE])],
        changes=[Changed("Node", "node", {"status": {"declaredFeatures": ["FeatureA"]}}, "status")],
        requeued="pod1",
        features={"featureA": "FeatureA"},
    ),
    case(
        75,
        "another change of a node retries no pod that needs a feature",
        "NodeDeclaredFeatures",
        nodes=[node()],
        pods=[pod("pod1", tolerations=[NEEDS_FEATURE])],
        changes=[relabelled("node", foo="bar")],
        requeued="",
        features={"featureA": "FeatureA"},
    ),
    case(
        76,
        "a pod that no longer needs a feature is retried",
        "NodeDeclaredFeatures",
        nodes=[node()],
        pods=[pod("pod1", tolerations=[NEEDS_FEATURE])],
        changes=[
            Changed(
                "Pod",
                "pod1",
                {"spec": {"tolerations": [{**NEEDS_FEATURE, "tolerationSeconds": 0}]}},
            )
        ],
        requeued="pod1",
        features={"featureA": "FeatureA"},
    ),
    case(
        77,
        "a pod that still needs a feature isn't retried when it changes otherwise",
        "NodeDeclaredFeatures",
        nodes=[node()],
        pods=[pod("pod1", tolerations=[NEEDS_FEATURE])],
        changes=[Changed("Pod", "pod1", {"metadata": {"labels": {"foo": "bar"}}})],
        requeued="",
        features={"featureA": "FeatureA"},
    ),
)

CASES = (*TAINTS, *LABELS, *RESOURCES, *FEATURES)
