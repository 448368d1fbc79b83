"""The array decisions against a plain loop over nodes, on clusters that change at random.

The reference below is written from upstream's source, one node and one plugin at a time, over the
raw objects: no arrays, no incremental sums, no classes. Whatever happened to the cluster, the
decider has to give what the reference works out from nothing.
"""

import collections
import dataclasses
import fractions
import math
import random
from collections.abc import Mapping, Sequence
from typing import Any

import hypothesis
from hypothesis import strategies as st

from whipstaff.runtime import quantities, selectors
from whipstaff.scheduler import (
    decision,
    explanation,
    plugin_arguments,
    pods,
    profile,
    snapshot,
    testing,
)

Object = dict[str, Any]
Amounts = dict[str, fractions.Fraction]

MI = 1024 * 1024
GPU = "example.com/gpu"
HUGE = "hugepages-2Mi"
REQUIRED = "requiredDuringSchedulingIgnoredDuringExecution"
PREFERRED = "preferredDuringSchedulingIgnoredDuringExecution"


# What a pod asks for

ZERO = fractions.Fraction(0)


def amounts_of(resources: Mapping[str, str] | None) -> Amounts:
    return {name: quantities.parse(text) for name, text in (resources or {}).items()}


def total_of(pod: Object, *, pod_level: bool = True, missing: Amounts | None = None) -> Amounts:
    spec = pod["spec"]

    def of(container: Object) -> Amounts:
        return {**(missing or {}), **amounts_of(container.get("resources", {}).get("requests"))}

    def add(left: Amounts, right: Amounts) -> Amounts:
        return {name: left.get(name, ZERO) + right.get(name, ZERO) for name in {**left, **right}}

    def most(left: Amounts, right: Amounts) -> Amounts:
        return {
            name: max(left.get(name, ZERO), right.get(name, ZERO)) for name in {**left, **right}
        }

    total: Amounts = {}
    for container in spec["containers"]:
        total = add(total, of(container))
    sidecars: Amounts = {}
    peak: Amounts = {}
    for container in spec.get("initContainers", []):
        if container.get("restartPolicy") == "Always":
            total = add(total, of(container))
            sidecars = add(sidecars, of(container))
            peak = most(peak, sidecars)
        else:
            peak = most(peak, add(sidecars, of(container)))
    total = most(total, peak)
    if pod_level:
        total.update(amounts_of(spec.get("resources", {}).get("requests")))
    return add(total, amounts_of(spec.get("overhead")))


def counted(amounts: Amounts, name: str) -> int:
    amount = amounts.get(name, ZERO)
    return math.ceil(amount * 1000) if name == "cpu" else math.ceil(amount)


DEFAULTS = {"cpu": fractions.Fraction(1, 10), "memory": fractions.Fraction(200 * MI)}


def nonzero_of(pod: Object) -> Amounts:
    whole = pod["spec"].get("resources", {}).get("requests")
    if not whole:
        return total_of(pod, missing=DEFAULTS)
    total = total_of(pod)
    return total_of(
        pod, missing={name: amount for name, amount in DEFAULTS.items() if name not in total}
    )


# What a node is


@dataclasses.dataclass
class Node:
    """A node with the pods on it, as the reference sees it."""

    raw: Object
    pods: list[Object]
    images: Mapping[str, tuple[int, int]]  # bytes and number of nodes, by name
    node_count: int

    @property
    def labels(self) -> Mapping[str, str]:
        labels: Mapping[str, str] = self.raw["metadata"]["labels"]
        return labels

    def allocatable(self, name: str) -> int:
        return counted(amounts_of(self.raw["status"]["allocatable"]), name)

    def requested(self, name: str) -> int:
        return sum(counted(total_of(pod), name) for pod in self.pods)

    def nonzero_requested(self, name: str) -> int:
        return sum(counted(nonzero_of(pod), name) for pod in self.pods)


# Filters: the reasons that a node is rejected for, and whether an eviction could help


Rejection = tuple[str, list[str], bool]


def tolerated(pod: Object, taint: Mapping[str, str]) -> bool:
    return any(
        selectors.toleration_tolerates(toleration, taint)
        for toleration in pod["spec"].get("tolerations", [])
    )


def matches_term(term: Object, node: Node) -> bool:
    if not term.get("matchExpressions") and not term.get("matchFields"):
        return False
    for expression in term.get("matchExpressions", []):
        key, operator, values = expression["key"], expression["operator"], expression.get("values")
        value = node.labels.get(key)
        match operator:
            case "In":
                matched = value is not None and value in values
            case "NotIn":
                matched = value is None or value not in values
            case "Exists":
                matched = value is not None
            case "DoesNotExist":
                matched = value is None
            case _:
                number = selectors.integer(value) if value is not None else None
                bound = int(values[0])
                matched = number is not None and (
                    number > bound if operator == "Gt" else number < bound
                )
        if not matched:
            return False
    name = node.raw["metadata"]["name"]
    return all(
        (name in field["values"]) == (field["operator"] == "In")
        for field in term.get("matchFields", [])
    )


def matches_pod(pod: Object, node: Node) -> bool:
    spec = pod["spec"]
    for key, value in spec.get("nodeSelector", {}).items():
        if node.labels.get(key) != value:
            return False
    required = spec.get("affinity", {}).get("nodeAffinity", {}).get(REQUIRED)
    return required is None or any(
        matches_term(term, node) for term in required["nodeSelectorTerms"]
    )


def host_ports(pod: Object) -> list[tuple[str, str, int]]:
    return [
        (port.get("hostIP", "0.0.0.0"), port.get("protocol", "TCP"), port["hostPort"])
        for container in pod["spec"]["containers"]
        for port in container.get("ports", [])
    ]


def ports_conflict(pod: Object, node: Node) -> bool:
    held = [port for other in node.pods for port in host_ports(other)]
    return any(
        number == other_number
        and protocol == other_protocol
        and ("0.0.0.0" in (ip, other_ip) or ip == other_ip)
        for ip, protocol, number in host_ports(pod)
        for other_ip, other_protocol, other_number in held
    )


def rejection(pod: Object, node: Node, added: Sequence[Object]) -> Rejection | None:
    """The first filter that rejects the node, in the default order."""
    spec = node.raw["spec"]
    cordon = {"key": "node.kubernetes.io/unschedulable", "effect": "NoSchedule"}
    if spec.get("unschedulable") and not tolerated(pod, cordon):
        return "NodeUnschedulable", ["node(s) were unschedulable"], True
    for taint in spec.get("taints", []):
        if taint["effect"] in ("NoSchedule", "NoExecute") and not tolerated(pod, taint):
            return "TaintToleration", ["node(s) had untolerated taint(s)"], True
    if added and not any(matches_term(term, node) for term in added):
        return "NodeAffinity", ["node(s) didn't match scheduler-enforced node affinity"], True
    if not matches_pod(pod, node):
        return "NodeAffinity", ["node(s) didn't match Pod's node affinity/selector"], True
    if ports_conflict(pod, node):
        reason = "node(s) didn't have free ports for the requested pod ports"
        return "NodePorts", [reason], False
    return insufficient(pod, node)


def insufficient(pod: Object, node: Node) -> Rejection | None:
    reasons, hopeless = [], False
    allowed = int(node.raw["status"]["allocatable"]["pods"])
    if len(node.pods) + 1 > allowed:
        reasons.append("Too many pods")
    asked = total_of(pod)
    for name in ("cpu", "memory", "ephemeral-storage", GPU, HUGE):
        amount = counted(asked, name)
        if amount > 0 and amount > node.allocatable(name) - node.requested(name):
            reasons.append(f"Insufficient {name}")
            hopeless |= amount > node.allocatable(name)
    return ("NodeResourcesFit", reasons, hopeless) if reasons else None


# Scores


def fit_score(pod: Object, node: Node, strategy: Object) -> int:
    asked = total_of(pod, pod_level=False, missing=DEFAULTS)
    total = weights = 0
    for resource in strategy["resources"]:
        name, weight = resource["name"], resource["weight"]
        capacity = node.allocatable(name)
        if capacity == 0 or (name in (GPU, HUGE) and counted(asked, name) == 0):
            continue
        used = (
            node.nonzero_requested(name) if name in ("cpu", "memory") else node.requested(name)
        ) + counted(asked, name)
        match strategy["type"]:
            case "LeastAllocated":
                score = 0 if used > capacity else (capacity - used) * 100 // capacity
            case "MostAllocated":
                score = min(used, capacity) * 100 // capacity
            case _:
                shape = strategy["requestedToCapacityRatio"]["shape"]
                score = broken_line(shape, 100 if used > capacity else used * 100 // capacity)
                if score == 0:
                    continue
        total += score * weight
        weights += weight
    if not weights:
        return 0
    if strategy["type"] == "RequestedToCapacityRatio":
        return math.floor(fractions.Fraction(total, weights) + fractions.Fraction(1, 2))
    return total // weights


def broken_line(shape: Sequence[Mapping[str, int]], x: int) -> int:
    points = [(point["utilization"], point["score"] * 10) for point in shape]
    for index, (right, high) in enumerate(points):
        if x <= right:
            if index == 0:
                return high
            left, low = points[index - 1]
            return low + math.trunc(fractions.Fraction((high - low) * (x - left), right - left))
    return points[-1][1]


def balance_score(pod: Object, node: Node, resources: Sequence[str]) -> int:
    asked = total_of(pod)
    after, before = [], []
    for name in resources:
        capacity = node.allocatable(name)
        if capacity == 0 or (name in (GPU, HUGE) and counted(asked, name) == 0):
            continue
        before.append(min(node.requested(name) / capacity, 1.0))
        after.append(min((node.requested(name) + counted(asked, name)) / capacity, 1.0))
    return 50 + (50 + evenness(after) - evenness(before)) // 2


def evenness(shares: list[float]) -> int:
    deviation = 0.0
    if len(shares) == 2:
        deviation = abs((shares[0] - shares[1]) / 2)
    elif len(shares) > 2:
        total = 0.0
        for share in shares:
            total += share
        mean = total / len(shares)
        squares = 0.0
        for share in shares:
            squares += (share - mean) * (share - mean)
        deviation = math.sqrt(squares / len(shares))
    return int((1 - deviation) * 100)


def image_score(pod: Object, node: Node) -> int:
    total = 0
    held = {name for image in node.raw["status"]["images"] for name in image["names"]}
    for container in pod["spec"].get("initContainers", []) + pod["spec"]["containers"]:
        name = container["image"] if ":" in container["image"] else f"{container['image']}:latest"
        if name in held:
            size, holders = node.images[name]
            total += int(float(size) * (holders / node.node_count))
    low = 23 * MI
    high = 1000 * MI * len(pod["spec"].get("initContainers", []) + pod["spec"]["containers"])
    return 100 * (min(max(total, low), high) - low) // (high - low)


def soft_taints(pod: Object, node: Node) -> int:
    tolerations = [
        toleration
        for toleration in pod["spec"].get("tolerations", [])
        if toleration.get("effect") in (None, "PreferNoSchedule")
    ]
    return sum(
        taint["effect"] == "PreferNoSchedule"
        and not any(selectors.toleration_tolerates(each, taint) for each in tolerations)
        for taint in node.raw["spec"].get("taints", [])
    )


def normalized(scores: list[int], *, reverse: bool) -> list[int]:
    highest = max(scores)
    if highest == 0:
        return [100] * len(scores) if reverse else scores
    scaled = [100 * score // highest for score in scores]
    return [100 - score for score in scaled] if reverse else scaled


@dataclasses.dataclass
class Settings:
    """What differs between the profiles that are tried."""

    strategy: Object
    balanced: list[str]
    weights: dict[str, int]
    added: list[Object]

    def build(self) -> profile.Profile:
        default = profile.default_profile("default-scheduler")
        balanced = [{"name": name, "weight": 1} for name in self.balanced]
        added = {REQUIRED: {"nodeSelectorTerms": self.added}} if self.added else None
        arguments: dict[str, Any] = {
            "NodeResourcesFit": {"scoringStrategy": self.strategy},
            "NodeResourcesBalancedAllocation": {"resources": balanced},
            "NodeAffinity": {"addedAffinity": added},
        }
        return profile.build("s", default.points, {**default.weights, **self.weights}, arguments)


@dataclasses.dataclass
class Expected:
    """The outcome by the reference."""

    rejections: dict[str, Rejection]
    scores: dict[str, dict[str, int]]  # by feasible node, by plugin


def reference(pod: Object, nodes: Mapping[str, Node], settings: Settings) -> Expected:
    rejections = {}
    for name, node in nodes.items():
        found = rejection(pod, node, settings.added)
        if found is not None:
            rejections[name] = found
    feasible = {name: node for name, node in nodes.items() if name not in rejections}
    columns: dict[str, list[int]] = {}
    if feasible:
        each = feasible.values()
        columns["TaintToleration"] = normalized(
            [soft_taints(pod, node) for node in each], reverse=True
        )
        terms = pod["spec"].get("affinity", {}).get("nodeAffinity", {}).get(PREFERRED)
        if terms is not None:
            columns["NodeAffinity"] = normalized(
                [
                    sum(term["weight"] for term in terms if matches_term(term["preference"], node))
                    for node in each
                ],
                reverse=False,
            )
        columns["NodeResourcesFit"] = [fit_score(pod, node, settings.strategy) for node in each]
        asked = total_of(pod)
        if any(counted(asked, name) for name in settings.balanced):
            columns["NodeResourcesBalancedAllocation"] = [
                balance_score(pod, node, settings.balanced) for node in each
            ]
        columns["ImageLocality"] = [image_score(pod, node) for node in each]
    weights = {"TaintToleration": 3, "NodeAffinity": 2, **settings.weights}
    return Expected(
        rejections,
        {
            name: {
                plugin: scores[index] * weights.get(plugin, 1) for plugin, scores in columns.items()
            }
            for index, name in enumerate(feasible)
        },
    )


class Counting(random.Random):
    """A generator that tells among how many it last had to choose."""

    def __init__(self) -> None:
        super().__init__(0)
        self.among = 1

    def randrange(self, stop: int, *more: Any) -> int:  # type: ignore[override]
        self.among = stop
        return super().randrange(stop, *more)


def check(
    found: decision.Decision, expected: Expected, choices: int, nodes: Mapping[str, Node]
) -> None:
    totals = {name: sum(scores.values()) for name, scores in expected.scores.items()}
    assert found.feasible == len(totals)
    assert found.evaluated == len(nodes)
    if totals:
        assert found.failure is None
        assert found.node is not None
        best = max(totals.values())
        assert (found.node, totals[found.node]) in totals.items()
        assert found.score == totals[found.node] == best
        assert found.scores == expected.scores[found.node]
        assert choices == sum(total == best for total in totals.values())
        return
    assert found.failure is not None
    told = {
        name: (status.plugin, list(status.reasons), status.code == 3)
        for name, status in found.failure.statuses.items()
    }
    assert told == expected.rejections
    assert found.failure.unschedulable_plugins == {
        plugin for plugin, _, _ in expected.rejections.values()
    }
    counts = collections.Counter(
        reason for _, reasons, _ in expected.rejections.values() for reason in reasons
    )
    texts = sorted(f"{count} {reason}" for reason, count in counts.items())
    assert str(found.failure) == f"0/{len(nodes)} nodes are available: {', '.join(texts)}."


def check_evidence(evidence: explanation.Evidence | None, expected: Expected) -> None:
    """What is told of a decision long after it is what held then."""
    assert evidence is not None
    sheet = evidence.sheet()
    rejections, scores = {}, {}
    for position, name in enumerate(sheet.names):
        status = sheet.status(position)
        if status.is_success:
            column = sheet.weighted[:, position].tolist()
            scores[name] = {plugin: column[row] for row, (plugin, _) in enumerate(sheet.scorers)}
        else:
            rejections[name] = (status.plugin, list(status.reasons), status.code == 3)
            assert not sheet.total[position]
    assert (rejections, scores) == (expected.rejections, expected.scores)


# Clusters, pods and profiles at random


def seldom(strategy: st.SearchStrategy[Any], usual: Any = None) -> st.SearchStrategy[Any]:
    """`usual` four times out of five: constraints that come all at once leave nothing feasible."""
    return st.integers(0, 4).flatmap(lambda draw: strategy if draw == 4 else st.just(usual))


def some(**fields: st.SearchStrategy[Any]) -> st.SearchStrategy[dict[str, Any]]:
    """A mapping of those fields that didn't come out as None."""
    return st.fixed_dictionaries(fields).map(
        lambda made: {name: value for name, value in made.items() if value is not None}
    )


LABELS = some(
    zone=st.sampled_from(["a", "a", "b", None]),
    disk=st.sampled_from(["ssd", "ssd", "hdd", None]),
    rank=st.sampled_from(["1", "7", "many", None]),
)
TAINTS = st.lists(
    st.builds(
        lambda key, value, effect: {"key": key, "value": value, "effect": effect},
        st.sampled_from(["k", "l"]),
        st.sampled_from(["", "v"]),
        st.sampled_from([*["PreferNoSchedule"] * 4, "NoSchedule", "NoExecute"]),
    ),
    max_size=2,
)
IMAGES = ["web:latest", "db:1", "setup:1"]
NAMES = [f"n{number}" for number in range(5)]


def image_object(name: str) -> Object:
    return {"names": [name], "sizeBytes": (100 + 333 * IMAGES.index(name)) * MI + 1}


def node_named(name: st.SearchStrategy[str]) -> st.SearchStrategy[Object]:
    return st.builds(
        testing.node,
        name,
        cpu=st.sampled_from(["3", "4", "7", "0"]),
        memory=st.sampled_from(["2Gi", "3Gi", "5Gi", "0"]),
        max_pods=st.sampled_from(["110", "110", "3", "1"]),
        labels=LABELS,
        taints=TAINTS,
        unschedulable=seldom(st.just(True), False),
        # One size a name: which of several counts depends on history, and has a test of its own.
        images=st.sets(st.sampled_from(IMAGES)).map(
            lambda names: {name: image_object(name)["sizeBytes"] for name in names}
        ),
        more=st.fixed_dictionaries(
            {
                "ephemeral-storage": st.sampled_from(["2Gi", "0"]),
                GPU: st.sampled_from(["0", "2"]),
                HUGE: st.sampled_from(["4Mi", "0"]),
            }
        ),
    )


TERMS = st.lists(
    st.sampled_from(
        [
            {"matchExpressions": [{"key": "zone", "operator": "In", "values": ["a", "c"]}]},
            {"matchExpressions": [{"key": "zone", "operator": "NotIn", "values": ["b"]}]},
            {"matchExpressions": [{"key": "disk", "operator": "Exists"}]},
            {"matchExpressions": [{"key": "disk", "operator": "DoesNotExist"}]},
            {"matchExpressions": [{"key": "rank", "operator": "Gt", "values": ["3"]}]},
            {"matchExpressions": [{"key": "rank", "operator": "Lt", "values": ["5"]}]},
            {"matchFields": [{"key": "metadata.name", "operator": "NotIn", "values": ["n1"]}]},
            {},
        ]
    ),
    min_size=1,
    max_size=3,
)
AMOUNTS = some(
    cpu=st.sampled_from(["100m", "250m", "1", "0", "1100u", None]),
    memory=st.sampled_from(["100Mi", "1Gi", "0", "1500m", None]),
    **{"ephemeral-storage": seldom(st.just("1Gi")), GPU: seldom(st.sampled_from(["0", "1"]))},
)
CONTAINERS = st.builds(
    testing.container,
    AMOUNTS,
    image=st.sampled_from(["web", "db:1", "other"]),
    host_ports=seldom(
        st.sampled_from([[80], [{"hostPort": 80, "hostIP": "10.0.0.1"}], [{"hostPort": 81}]]), ()
    ),
)
STARTERS = st.builds(
    testing.container, AMOUNTS, image=st.sampled_from(["setup:1", "other"]), sidecar=st.booleans()
)
WHOLE = some(cpu=st.sampled_from(["2", None]), memory=st.sampled_from(["1Gi", None]))
TOLERATIONS = st.sampled_from(
    [
        {"operator": "Exists"},
        {"key": "k", "operator": "Exists"},
        {"key": "l", "value": "v", "effect": "PreferNoSchedule"},
        {"key": "k", "effect": "NoSchedule"},
    ]
)
SPECS = some(
    containers=st.lists(CONTAINERS, min_size=1, max_size=2),
    initContainers=seldom(st.lists(STARTERS, max_size=3)),
    resources=seldom(WHOLE.map(lambda requests: {"requests": requests})),
    overhead=seldom(st.just({"cpu": "10m"})),
    nodeSelector=seldom(st.sampled_from([{"zone": "a"}, {"disk": "ssd", "zone": "b"}])),
    affinity=some(
        nodeAffinity=some(
            **{
                REQUIRED: seldom(TERMS.map(lambda terms: {"nodeSelectorTerms": terms})),
                PREFERRED: st.one_of(
                    st.none(),
                    TERMS.map(
                        lambda terms: [
                            {"weight": 3 + index, "preference": term}
                            for index, term in enumerate(terms)
                        ]
                    ),
                ),
            }
        )
    ),
    tolerations=st.lists(TOLERATIONS, max_size=2),
)
STRATEGIES = st.one_of(
    st.builds(
        lambda kind, resources: {"type": kind, "resources": resources},
        st.sampled_from(["LeastAllocated", "MostAllocated"]),
        st.sampled_from(
            [
                [{"name": "cpu", "weight": 1}, {"name": "memory", "weight": 1}],
                [{"name": "cpu", "weight": 3}, {"name": GPU, "weight": 5}],
                [{"name": "ephemeral-storage", "weight": 2}, {"name": HUGE, "weight": 1}],
            ]
        ),
    ),
    st.builds(
        lambda shape: {
            "type": "RequestedToCapacityRatio",
            "resources": [{"name": "cpu", "weight": 3}, {"name": "memory", "weight": 1}],
            "requestedToCapacityRatio": {"shape": shape},
        },
        st.sampled_from(
            [
                [{"utilization": 0, "score": 0}, {"utilization": 100, "score": 10}],
                [{"utilization": 20, "score": 7}, {"utilization": 61, "score": 0}],
            ]
        ),
    ),
)
SETTINGS = st.builds(
    Settings,
    STRATEGIES,
    st.sampled_from([["cpu", "memory"], ["cpu", "memory", GPU], ["memory", "ephemeral-storage"]]),
    st.sampled_from([{}, {"NodeResourcesFit": 7, "ImageLocality": 20}]),
    seldom(TERMS.filter(lambda terms: {} not in terms), []),
)
STEPS = st.lists(
    st.one_of(
        st.tuples(st.just("node"), node_named(st.sampled_from(NAMES))),
        st.tuples(st.just("no node"), st.sampled_from(NAMES)),
        st.tuples(st.just("pull"), st.tuples(st.sampled_from(NAMES), st.sampled_from(IMAGES))),
        st.tuples(st.just("place"), st.tuples(st.sampled_from(NAMES), st.integers(0, 2))),
        st.tuples(st.just("no pod"), st.integers(0, 7)),
        st.tuples(st.just("decide"), st.integers(0, 2)),
    ),
    max_size=12,
)


class World:
    """The cluster twice: as the snapshot, and as raw objects for the reference."""

    def __init__(self) -> None:
        self.cluster = snapshot.Snapshot(capacity=1)
        self.nodes: dict[str, Object] = {}
        self.pods: dict[str, Object] = {}
        self.placed = 0

    def step(self, kind: str, argument: Any, specs: Sequence[Object]) -> None:
        match kind:
            case "node":
                self.nodes[argument["metadata"]["name"]] = argument
                self.cluster.upsert_node(argument)
            case "pull":
                name, image = argument
                if name in self.nodes:
                    self.pull(self.nodes[name], image)
            case "no node":
                self.nodes.pop(argument, None)
                self.cluster.remove_node(argument)
            case "place":
                name, number = argument
                self.place(name, specs[number % len(specs)])
            case "no pod":
                if len(self.pods) > argument:
                    uid = list(self.pods)[argument]
                    del self.pods[uid]
                    self.cluster.remove_pod(uid)

    def pull(self, node: Object, image: str) -> None:
        """Nothing changes but the images of one node."""
        status = node["status"]
        held = [each for each in status["images"] if each["names"] != [image]]
        pulled = {**node, "status": {**status, "images": [*held, image_object(image)]}}
        self.nodes[node["metadata"]["name"]] = pulled
        self.cluster.upsert_node(pulled)

    def place(self, node_name: str, spec: Object) -> None:
        self.placed += 1
        raw = testing.pod(f"placed-{self.placed}", **spec)
        pod = pods.PodInfo.from_object(raw)
        self.cluster.assume(pod, node_name)
        self.pods[pod.uid] = {**raw, "spec": {**raw["spec"], "nodeName": node_name}}

    def view(self) -> dict[str, Node]:
        images: dict[str, tuple[int, int]] = {}
        for node in self.nodes.values():
            for image in node["status"]["images"]:
                name = image["names"][0]
                images[name] = (image["sizeBytes"], images.get(name, (0, 0))[1] + 1)
        return {
            name: Node(
                raw,
                [pod for pod in self.pods.values() if pod["spec"]["nodeName"] == name],
                images,
                len(self.nodes),
            )
            for name, raw in self.nodes.items()
        }


@hypothesis.settings(
    max_examples=40, deadline=None, suppress_health_check=[hypothesis.HealthCheck.too_slow]
)
@hypothesis.given(
    st.tuples(*(node_named(st.just(name)) for name in NAMES)),
    st.lists(SPECS, min_size=1, max_size=3),
    SETTINGS,
    STEPS,
)
def test_a_decision_is_what_a_loop_over_the_nodes_gives(
    nodes: tuple[Object, ...], specs: list[Object], settings: Settings, steps: list[tuple[str, Any]]
) -> None:
    world = World()
    for node in nodes:
        world.step("node", node, specs)
    plugins = settings.build()
    rng = Counting()
    decider = decision.Decider(world.cluster, rng, evidence=True)
    kept: list[tuple[explanation.Evidence | None, Expected]] = []
    everyone = [("decide", number) for number in range(len(specs))]
    for kind, argument in [*everyone, *steps, *everyone]:
        if kind != "decide":
            world.step(kind, argument, specs)
            continue
        if not world.nodes:
            continue
        spec = specs[argument % len(specs)]
        raw = testing.pod("new", **spec)
        rng.among = 1
        found = decider.decide(pods.PodInfo.from_object(raw), plugins)
        view = world.view()
        expected = reference(raw, view, settings)
        check(found, expected, rng.among, view)
        kept.append((found.evidence, expected))
        if found.node is not None:
            world.place(found.node, spec)
    for evidence, expected in kept:
        check_evidence(evidence, expected)


def test_the_reference_itself_agrees_with_upstreams_worked_examples() -> None:
    """Numbers from the comments and tables of upstream's tests, so that both can't err alike."""
    raw = testing.pod("new", {"cpu": "3", "memory": "5000"})
    nodes = {
        name: Node(testing.node(name, cpu=cpu, memory="10000"), [], {}, 2)
        for name, cpu in (("a", "4"), ("b", "6"))
    }
    strategy = plugin_arguments.defaults("NodeResourcesFit")["scoringStrategy"]
    settings = Settings(strategy, ["cpu", "memory"], {}, [])

    expected = reference(raw, nodes, settings).scores

    assert [expected[name]["NodeResourcesFit"] for name in "ab"] == [37, 50]
    assert [expected[name]["NodeResourcesBalancedAllocation"] for name in "ab"] == [68, 75]
