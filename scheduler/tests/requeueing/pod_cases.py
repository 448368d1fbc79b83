"""Cases about other pods: affinity, spreading and host ports."""

from scheduler.tests.requeueing.cases import (
    NOT_READY,
    Changed,
    Gone,
    New,
    case,
    far,
    near,
    node,
    pod,
    spread,
    wanting,
)


def relabelled(kind: str, name: str, **labels: str | None) -> Changed:
    return Changed(kind, name, {"metadata": {"labels": labels}})


AFFINITY = (
    case(
        2,
        "a new node retries a pod whose anti-affinity leaves it no other, taints or not",
        "InterPodAffinity",
        nodes=[node(labels="node=node", room="cpu=2")],
        there=[pod("pod1", "anti=anti", on="node", affinity=far("anti", "node"))],
        pods=[pod("pod2", "anti=anti", affinity=far("anti", "node"))],
        changes=[
            New(node("node2", "node=node2", room="cpu=2", taints=[NOT_READY])),
            Changed("Node", "node2", {"spec": {"taints": None}}),
        ],
        requeued="pod2",
    ),
    case(
        24,
        "a pod that loses a label retries those that keep away from it",
        "InterPodAffinity",
        nodes=[node(labels="node=node")],
        there=[pod("pod1", "anti1=1 anti2=2", on="node")],
        pods=[
            pod("from-anti1", "anti1=1", affinity=far("anti1", "node")),
            pod("from-anti2", "anti2=2", affinity=far("anti2", "node")),
        ],
        changes=[relabelled("Pod", "pod1", anti1=None)],
        requeued="from-anti1",
    ),
    case(
        25,
        "a pod that goes retries those that keep away from it",
        "InterPodAffinity",
        nodes=[node(labels="node=node")],
        there=[pod("pod1", "anti1=1", on="node"), pod("pod2", "anti2=2", on="node")],
        pods=[
            pod("from-anti1", "anti1=1", affinity=far("anti1", "node")),
            pod("from-anti2", "anti2=2", affinity=far("anti2", "node")),
        ],
        changes=[Gone("Pod", "pod1")],
        requeued="from-anti1",
    ),
    case(
        26,
        "a pod that goes retries those that it kept away",
        "InterPodAffinity",
        nodes=[node(labels="node=node")],
        there=[
            pod("pod1", on="node", affinity=far("anti1", "node")),
            pod("pod2", on="node", affinity=far("anti2", "node")),
        ],
        pods=[pod("kept-away", "anti1=1"), pod("kept-away-still", "anti2=2")],
        changes=[Gone("Pod", "pod1")],
        requeued="kept-away",
    ),
    case(
        27,
        "a pod that gets a label retries those that want to be near it",
        "InterPodAffinity",
        nodes=[node(labels="node=node")],
        there=[pod("pod1", on="node")],
        pods=[
            pod("near-aaa", affinity=near("aaa", "node")),
            pod("near-bbb", affinity=near("bbb", "node")),
        ],
        changes=[relabelled("Pod", "pod1", aaa="bbb")],
        requeued="near-aaa",
    ),
    case(
        28,
        "a new node retries the pods whose affinity is about a label that it has",
        "InterPodAffinity",
        nodes=[node("node1", "aaa=node")],
        pods=[
            pod("by-zone", affinity=near("bbb", "zone")),
            pod("by-region", affinity=near("ccc", "region")),
        ],
        changes=[New(node("node2", "zone=zone1"))],
        requeued="by-zone",
    ),
    case(
        29,
        "a node's new or changed label retries the pods whose affinity is about it",
        "InterPodAffinity NodeAffinity",
        nodes=[node("node1", "region=region-1"), node("node2", "region=region-2 group=b")],
        there=[pod("pod1", "affinity1=1", on="node1")],
        pods=[
            pod("by-new-label", "affinity1=1", affinity=near("affinity1", "node")),
            pod("by-other-label", "affinity1=1", affinity=near("affinity1", "other")),
            pod("by-region", affinity={**near("affinity1", "region"), **wanting("group", "b")}),
        ],
        changes=[relabelled("Node", "node1", node="node1", region="region-2")],
        requeued="by-new-label by-region",
    ),
    case(
        30,
        "a node's lost or changed label retries the pods whose anti-affinity is about it",
        "InterPodAffinity",
        nodes=[node(labels="node=node service=a other=node")],
        there=[pod("pod1", "anti1=1", on="node")],
        pods=[
            pod("by-lost-label", "anti1=1", affinity=far("anti1", "node")),
            pod("by-changed-label", "anti1=1", affinity=far("anti1", "service")),
            pod("by-other-label", "anti1=1", affinity=far("anti1", "other")),
        ],
        changes=[relabelled("Node", "node", node=None, service="b", region="node")],
        requeued="by-lost-label by-changed-label",
    ),
    case(
        31,
        "a new node retries every pod with anti-affinity: the pods to keep away from aren't there",
        "InterPodAffinity",
        nodes=[node("node1", "zone=node node=node")],
        there=[pod("pod1", "anti1=1", on="node1")],
        pods=[
            pod("by-zone", affinity=far("anti1", "zone")),
            pod("by-node", affinity=far("anti1", "node")),
        ],
        changes=[New(node("node2", "zone=node"))],
        requeued="by-zone by-node",
    ),
)

PORTS = (
    case(
        32,
        "a pod that goes retries those that wanted its host port",
        "NodePorts",
        nodes=[node()],
        there=[pod("pod1", on="node", ports=[8080]), pod("pod2", on="node", ports=[8081])],
        pods=[pod("wants-8080", ports=[8080]), pod("wants-8081", ports=[8081])],
        changes=[Gone("Pod", "pod1")],
        requeued="wants-8080",
    ),
    case(
        33,
        "a new node retries the pods whose host ports were taken",
        "NodePorts",
        nodes=[node()],
        there=[pod("pod1", on="node", ports=[8080])],
        pods=[pod("pod2", ports=[8080])],
        changes=[New(node("node2"))],
        requeued="pod2",
    ),
)


def counted(name: str, key: str, topology: str, domains: int = 3, **more: object) -> dict:
    constraints = spread(key, topology, domains)
    return pod(name, f"{key}=val", topologySpreadConstraints=constraints, **more)


def placed(name: str, key: str, topology: str, on: str) -> dict:
    return pod(name, f"{key}=val", on=on, topologySpreadConstraints=spread(key, topology))


SPREADING = (
    case(
        37,
        "a pod that is placed retries those that count it",
        "PodTopologySpread",
        nodes=[node(labels="node=node", room="cpu=2")],
        there=[pod("pod1", "key1=val", on="node"), pod("pod2", "key2=val", on="node")],
        pods=[counted("by-key1", "key1", "node"), counted("by-key2", "key2", "node")],
        changes=[New(pod("pod5", "key1=val", on="node"))],
        requeued="by-key1",
    ),
    case(
        38,
        "a placed pod that loses a label retries those that counted it",
        "PodTopologySpread",
        nodes=[node(labels="node=node", room="cpu=2")],
        there=[pod("pod1", "key1=val", on="node"), pod("pod2", "key2=val", on="node")],
        pods=[counted("by-key1", "key1", "node"), counted("by-key2", "key2", "node")],
        changes=[relabelled("Pod", "pod1", key1=None, key3="val")],
        requeued="by-key1",
    ),
    case(
        39,
        "a pod that goes retries those that counted it",
        "PodTopologySpread",
        nodes=[node(labels="node=node", room="cpu=2")],
        there=[pod("pod1", "key1=val", on="node"), pod("pod2", "key2=val", on="node")],
        pods=[counted("by-key1", "key1", "node", 2), counted("by-key2", "key2", "node")],
        changes=[Gone("Pod", "pod1")],
        requeued="by-key1",
    ),
    case(
        40,
        "a new node retries the pods that spread over a label that it has",
        "PodTopologySpread",
        nodes=[node("node1", "node=node"), node("node2", "zone=zone")],
        there=[pod("pod1", "key1=val", on="node1"), pod("pod2", "key1=val", on="node2")],
        pods=[counted("over-nodes", "key1", "node", 2), counted("over-zones", "key1", "zone", 2)],
        changes=[New(node("node3", "node=node"))],
        requeued="over-nodes",
    ),
    case(
        41,
        "a node whose label comes, goes or changes retries the pods that spread over it",
        "PodTopologySpread",
        nodes=[
            node("node1", "node=node region=node service=a"),
            node("node2", "node=node region=node service=a"),
        ],
        there=[
            placed("pod1", "key1", "node", "node1"),
            placed("pod2", "key1", "zone", "node2"),
            placed("pod3", "key1", "region", "node2"),
            placed("pod4", "key1", "service", "node2"),
        ],
        pods=[
            counted("over-nodes", "key1", "node"),
            counted("over-zones", "key1", "zone"),
            counted("over-regions", "key1", "region"),
            counted("over-others", "key1", "other"),
            counted("over-services", "key1", "service"),
        ],
        changes=[relabelled("Node", "node2", node=None, zone="node", service="b")],
        requeued="over-nodes over-zones over-services",
    ),
    case(
        42,
        "a node that goes retries the pods that spread over a label that it had",
        "PodTopologySpread",
        nodes=[node("node1", "node=node"), node("node2", "zone=node")],
        there=[placed("pod1", "key1", "node", "node1"), placed("pod2", "key1", "zone", "node2")],
        pods=[counted("over-nodes", "key1", "node"), counted("over-zones", "key1", "zone")],
        changes=[Gone("Node", "node2")],
        requeued="over-zones",
    ),
    case(
        44,
        "a node whose taint changes retries the pods that spread over a label that it has",
        "PodTopologySpread",
        nodes=[
            node("node1", "node=node"),
            node("node2", "zone=node"),
            node("node3", "zone=node", taints=[NOT_READY]),
        ],
        there=[placed("pod1", "key1", "node", "node1"), placed("pod2", "key1", "node", "node2")],
        pods=[
            counted("over-nodes", "key1", "node"),
            counted("over-zones", "key1", "zone", tolerates=["aaa"]),
        ],
        changes=[
            Changed(
                "Node",
                "node3",
                {"spec": {"taints": [{"key": "aaa", "value": "bbb", "effect": "NoSchedule"}]}},
            )
        ],
        requeued="over-zones",
    ),
)

CASES = (*AFFINITY, *PORTS, *SPREADING)
