"""Plugins that look at other pods, against plain loops, on clusters that change at random.

The loops below are written from upstream's source over raw objects: no arrays, and nothing that is
kept from one pod to the next. A second property holds the decider, with all that it keeps, to the
whole computation on a snapshot made anew.
"""

import copy
import math
import random
from collections.abc import Mapping, Sequence
from typing import Any

import hypothesis
import numpy as np
from hypothesis import strategies as st

from whipstaff.runtime import resources, selectors
from whipstaff.scheduler import (
    decision,
    evaluation,
    framework,
    pods,
    profile,
    snapshot,
    testing,
    workloads,
)
from whipstaff.scheduler.plugins import interpodaffinity, podtopologyspread

Object = dict[str, Any]
Nodes = Mapping[str, Object]

HOST = "kubernetes.io/hostname"
ZONE = "topology.kubernetes.io/zone"
REQUIRED = "requiredDuringSchedulingIgnoredDuringExecution"
PREFERRED = "preferredDuringSchedulingIgnoredDuringExecution"
UNFIT, HOPELESS = 2, 3


def labels_of(obj: Object) -> Mapping[str, str]:
    labels: Mapping[str, str] = obj["metadata"].get("labels") or {}
    return labels


def selects(selector: Object | None, labels: Mapping[str, str]) -> bool:
    return selectors.label_selector(selector).matches(labels)


# PodTopologySpread


def spread_counts(constraint: Object, pod: Object, other: Object) -> bool:
    """Whether a pod on a node counts for the constraint of a pod."""
    selector = constraint.get("labelSelector")
    narrowed = any(key in labels_of(pod) for key in constraint.get("matchLabelKeys", []))
    if selector is None or not (narrowed or any(selector.values())):
        return False
    return (
        other["metadata"]["namespace"] == pod["metadata"]["namespace"]
        and "deletionTimestamp" not in other["metadata"]
        and spread_selects(constraint, pod, other)
    )


def spread_selects(constraint: Object, pod: Object, other: Object) -> bool:
    own, others = labels_of(pod), labels_of(other)
    return selects(constraint.get("labelSelector"), others) and all(
        others.get(key) == own[key] for key in constraint.get("matchLabelKeys", []) if key in own
    )


def spread_eligible(constraint: Object, pod: Object, node: Object) -> bool:
    spec = pod["spec"]
    if constraint.get("nodeAffinityPolicy", "Honor") == "Honor" and any(
        labels_of(node).get(key) != value for key, value in spec.get("nodeSelector", {}).items()
    ):
        return False
    return constraint.get("nodeTaintsPolicy", "Ignore") == "Ignore" or all(
        any(
            selectors.toleration_tolerates(toleration, taint)
            for toleration in spec.get("tolerations", [])
        )
        for taint in node["spec"].get("taints", [])
        if taint["effect"] in ("NoSchedule", "NoExecute")
    )


def on_node(name: str, placed: Sequence[Object]) -> list[Object]:
    return [pod for pod in placed if pod["spec"]["nodeName"] == name]


def spread_filter(
    constraints: Sequence[Object], pod: Object, nodes: Nodes, placed: Sequence[Object]
) -> dict[str, int]:
    """The code of each node that is rejected."""
    domains: list[dict[str, int]] = [{} for _ in constraints]
    for name, node in nodes.items():
        labels = labels_of(node)
        if not all(constraint["topologyKey"] in labels for constraint in constraints):
            continue
        for constraint, counts in zip(constraints, domains, strict=True):
            if spread_eligible(constraint, pod, node):
                value = labels[constraint["topologyKey"]]
                counts[value] = counts.get(value, 0) + sum(
                    spread_counts(constraint, pod, other) for other in on_node(name, placed)
                )
    rejected = {}
    for name, node in nodes.items():
        for constraint, counts in zip(constraints, domains, strict=True):
            value = labels_of(node).get(constraint["topologyKey"])
            if value is None:
                rejected[name] = HOPELESS
                break
            lowest = min(counts.values(), default=0)
            if len(counts) < constraint.get("minDomains", 1):
                lowest = 0
            itself = spread_selects(constraint, pod, pod)
            if counts.get(value, 0) + itself - lowest > constraint["maxSkew"]:
                rejected[name] = UNFIT
                break
    return rejected


def spread_scores(
    constraints: Sequence[Object],
    pod: Object,
    nodes: Nodes,
    placed: Sequence[Object],
    feasible: Sequence[str],
    *,
    strict: bool,
) -> dict[str, int]:
    """The normalised score of each feasible node."""

    def counted(node: Object) -> bool:
        return not strict or all(each["topologyKey"] in labels_of(node) for each in constraints)

    def found(constraint: Object, name: str) -> int:
        return sum(spread_counts(constraint, pod, other) for other in on_node(name, placed))

    scored = [name for name in feasible if counted(nodes[name])]
    raw = dict.fromkeys(scored, 0.0)
    for constraint in constraints:
        key = constraint["topologyKey"]
        domains = {labels_of(nodes[name]).get(key, ""): 0 for name in scored}
        size = len(scored) if key == HOST else len(domains)
        for name, node in nodes.items():
            value = labels_of(node).get(key, "")
            if counted(node) and spread_eligible(constraint, pod, node) and value in domains:
                domains[value] += found(constraint, name)
        for name in scored:
            if key in labels_of(nodes[name]):
                count = (
                    found(constraint, name) if key == HOST else domains[labels_of(nodes[name])[key]]
                )
                raw[name] += count * math.log(size + 2) + (constraint["maxSkew"] - 1)
    scores = {name: math.floor(score + 0.5) for name, score in raw.items()}
    highest, lowest = max(scores.values(), default=0), min(scores.values(), default=0)
    return {
        name: 0
        if name not in scores
        else 100
        if highest == 0
        else 100 * (highest + lowest - scores[name]) // highest
        for name in feasible
    }


def default_selector(pod: Object, objects: Sequence[tuple[resources.Resource, Object]]) -> Object:
    """What the pod's Services and its owner select."""
    wanted: dict[str, str] = {}
    more: list[Object] = []
    owners = [each for each in pod["metadata"].get("ownerReferences", []) if each["controller"]]
    for resource, obj in objects:
        selector = obj["spec"]["selector"]
        if obj["metadata"]["namespace"] != pod["metadata"]["namespace"]:
            continue
        if resource is resources.SERVICES:
            if selector and all(labels_of(pod).get(key) == selector[key] for key in selector):
                wanted.update(selector)
        elif owners and resource is workloads.OWNERS.get(
            (owners[0]["apiVersion"], owners[0]["kind"])
        ):
            more.append(selector)
    for selector in more:
        wanted.update(selector.get("matchLabels", {}))
    return {"matchLabels": wanted}


# InterPodAffinity

TEAMS = {"default": {"team": "one"}, "other": {"team": "two"}, "third": {}}


def term_means(term: Object, holder: Object, pod: Object) -> bool:
    """Whether a term of `holder` means `pod`."""
    namespace, chosen = pod["metadata"]["namespace"], term.get("namespaceSelector")
    names = term.get("namespaces") or []
    if not names and chosen is None:
        names = [holder["metadata"]["namespace"]]
    if namespace not in names and not selects(chosen, TEAMS[namespace]):
        return False
    return selects(term.get("labelSelector"), labels_of(pod))


def terms_of(pod: Object, kind: str, when: str) -> list[Object]:
    terms: list[Object] = pod["spec"].get("affinity", {}).get(kind, {}).get(when, [])
    return terms


def affinity_filter(
    pod: Object, nodes: Nodes, placed: Sequence[Object]
) -> dict[str, tuple[int, str]] | None:
    """The code and the reason of each node that is rejected; None if no term is about the pod."""
    near = terms_of(pod, "podAffinity", REQUIRED)
    away = terms_of(pod, "podAntiAffinity", REQUIRED)

    def domain(key: str, other: Object) -> tuple[str, str] | None:
        labels = labels_of(nodes[other["spec"]["nodeName"]])
        return (key, labels[key]) if key in labels else None

    averse = {
        domain(term["topologyKey"], other)
        for other in placed
        for term in terms_of(other, "podAntiAffinity", REQUIRED)
        if term_means(term, other, pod)
    } - {None}
    wanted = {
        domain(term["topologyKey"], other)
        for other in placed
        if all(term_means(each, pod, other) for each in near)
        for term in near
    } - {None}
    unwanted = {
        domain(term["topologyKey"], other)
        for other in placed
        for term in away
        if term_means(term, pod, other)
    } - {None}
    if not near and not away and not averse:
        return None
    is_first = not wanted and all(term_means(each, pod, pod) for each in near)
    rejected = {}
    for name, node in nodes.items():
        domains = set(labels_of(node).items())
        has_labels = all(each["topologyKey"] in labels_of(node) for each in near)
        met = all(
            (each["topologyKey"], labels_of(node).get(each["topologyKey"])) in wanted
            for each in near
        )
        if not has_labels or not (met or is_first):
            rejected[name] = (HOPELESS, "node(s) didn't match pod affinity rules")
        elif domains & unwanted:
            rejected[name] = (UNFIT, "node(s) didn't match pod anti-affinity rules")
        elif domains & averse:
            reason = "node(s) didn't satisfy existing pods anti-affinity rules"
            rejected[name] = (UNFIT, reason)
    return rejected


def affinity_scores(
    pod: Object, nodes: Nodes, placed: Sequence[Object], feasible: Sequence[str], hard: int
) -> dict[str, int] | None:
    """The normalised score of each feasible node; None if no term is about the pod."""
    domains: dict[tuple[str, str], int] = {}

    def weigh(term: Object, weight: int, other: Object) -> None:
        key, labels = term["topologyKey"], labels_of(nodes[other["spec"]["nodeName"]])
        if key in labels:
            domains[key, labels[key]] = domains.get((key, labels[key]), 0) + weight

    for other in placed:
        for kind, sign in (("podAffinity", 1), ("podAntiAffinity", -1)):
            for one, another in ((pod, other), (other, pod)):
                for each in terms_of(one, kind, PREFERRED):
                    if term_means(each["podAffinityTerm"], one, another):
                        weigh(each["podAffinityTerm"], sign * each["weight"], other)
        for each in terms_of(other, "podAffinity", REQUIRED):
            if hard and term_means(each, other, pod):
                weigh(each, hard, other)
    if not domains:
        return None
    raw = {
        name: sum(domains.get(pair, 0) for pair in labels_of(nodes[name]).items())
        for name in feasible
    }
    lowest, highest = min(raw.values(), default=0), max(raw.values(), default=0)
    if lowest == highest:
        return dict.fromkeys(feasible, 0)
    return {
        name: int(100.0 * (float(score - lowest) / float(highest - lowest)))
        for name, score in raw.items()
    }


# Clusters and pods at random

SELECTORS = st.sampled_from(
    [
        None,
        {},
        {"matchLabels": {"app": "web"}},
        {"matchLabels": {"app": "db"}},
        {"matchExpressions": [{"key": "app", "operator": "Exists"}]},
        {"matchExpressions": [{"key": "app", "operator": "NotIn", "values": ["web"]}]},
    ]
)
NAMES = [f"n{number}" for number in range(6)]


def some(**fields: st.SearchStrategy[Any]) -> st.SearchStrategy[Object]:
    """A mapping of those fields that didn't come out as None."""
    return st.fixed_dictionaries(fields).map(
        lambda made: {name: value for name, value in made.items() if value is not None}
    )


LABELS = some(app=st.sampled_from(["web", "web", "db", None]), track=st.sampled_from(["1", None]))
NODES = st.builds(
    testing.node,
    st.sampled_from(NAMES),
    labels=some(
        **{
            ZONE: st.sampled_from(["a", "a", "b", "c", "", None]),
            HOST: st.sampled_from([*NAMES, None]),
            "rack": st.sampled_from(["1", "2", "3"]),
        }
    ),
    taints=st.sampled_from([(), (), [{"key": "k", "value": "", "effect": "NoSchedule"}]]),
)
CONSTRAINTS = st.lists(
    some(
        maxSkew=st.integers(1, 2),
        topologyKey=st.sampled_from([ZONE, HOST, "rack"]),
        whenUnsatisfiable=st.sampled_from(["DoNotSchedule", "ScheduleAnyway"]),
        labelSelector=SELECTORS,
        minDomains=st.sampled_from([None, None, 3]),
        nodeAffinityPolicy=st.sampled_from([None, "Ignore"]),
        nodeTaintsPolicy=st.sampled_from([None, "Honor"]),
        matchLabelKeys=st.sampled_from([None, None, ["track"]]),
    ),
    max_size=2,
)
TERMS = some(
    topologyKey=st.sampled_from([ZONE, HOST, "rack", "none"]),
    labelSelector=SELECTORS,
    namespaces=st.sampled_from([None, None, None, ["other"], ["default", "other"]]),
    namespaceSelector=st.sampled_from(
        [
            None,
            None,
            None,
            {},
            {"matchLabels": {"team": "two"}},
            {"matchExpressions": [{"key": "team", "operator": "DoesNotExist"}]},
        ]
    ),
)
WEIGHED = st.builds(
    lambda weight, term: {"weight": weight, "podAffinityTerm": term},
    st.sampled_from([1, 7, 100]),
    TERMS,
)
SIDES = some(
    **{
        REQUIRED: st.one_of(st.none(), st.none(), st.lists(TERMS, max_size=2)),
        PREFERRED: st.one_of(st.none(), st.none(), st.lists(WEIGHED, max_size=2)),
    }
)
AFFINITIES = some(
    podAffinity=st.one_of(st.none(), SIDES), podAntiAffinity=st.one_of(st.none(), SIDES)
)
PODS = st.builds(
    lambda labels, namespace, owned, spec: {
        "labels": labels,
        "namespace": namespace,
        "owned": owned,
        **spec,
    },
    LABELS,
    st.sampled_from(["default", "default", "other", "third"]),
    st.booleans(),
    some(
        topologySpreadConstraints=CONSTRAINTS,
        affinity=AFFINITIES,
        nodeSelector=st.sampled_from([None, None, {"rack": "1"}]),
        tolerations=st.sampled_from([None, [{"key": "k", "operator": "Exists"}]]),
    ),
)
OBJECTS = st.lists(
    st.builds(
        lambda resource, selector, namespace: (
            resource,
            {
                "metadata": {"name": "owner", "namespace": namespace},
                "spec": {
                    "selector": selector
                    if resource is resources.SERVICES
                    else {"matchLabels": selector}
                },
            },
        ),
        st.sampled_from([resources.SERVICES, resources.REPLICASETS]),
        st.sampled_from([{"app": "web"}, {"app": "db"}, {"track": "1"}]),
        st.sampled_from(["default", "other"]),
    ),
    max_size=2,
    unique_by=lambda made: (made[0].plural, made[1]["metadata"]["namespace"]),
)
STEPS = st.lists(
    st.one_of(
        st.tuples(st.just("node"), NODES),
        st.tuples(st.just("no node"), st.sampled_from(NAMES)),
        st.tuples(st.just("place"), st.tuples(st.sampled_from(NAMES), PODS)),
        st.tuples(st.just("place"), st.tuples(st.sampled_from(NAMES), PODS)),
        st.tuples(st.just("place"), st.tuples(st.sampled_from(NAMES), PODS)),
        st.tuples(st.just("end"), st.integers(0, 7)),
        st.tuples(st.just("no pod"), st.integers(0, 7)),
        st.tuples(st.just("relabel"), st.tuples(st.integers(0, 7), LABELS)),
        st.tuples(st.just("ask"), PODS),
    ),
    min_size=4,
    max_size=16,
)


def made_pod(name: str, drawn: Object, node_name: str = "") -> Object:
    fields = copy.deepcopy(drawn)
    owned = fields.pop("owned")
    raw = testing.pod(name, node_name=node_name, **fields)
    if owned:
        owner = {"apiVersion": "apps/v1", "kind": "ReplicaSet", "name": "owner", "uid": "u"}
        raw["metadata"]["ownerReferences"] = [{**owner, "controller": True}]
    return raw


class World:
    """The cluster twice: as the snapshot, and as raw objects for the loops."""

    def __init__(self, objects: Sequence[tuple[resources.Resource, Object]]) -> None:
        self.objects = objects
        self.nodes: dict[str, Object] = {}
        self.pods: dict[str, Object] = {}
        self.count = 0
        self.cluster = self.anew()

    def anew(self) -> snapshot.Snapshot:
        """A snapshot of how things are, made from nothing, its rows in the order of `nodes`."""
        made = testing.cluster(self.nodes.values(), self.pods.values())
        for resource, obj in self.objects:
            made.workloads.put(resource, obj)
        for name, labels in TEAMS.items():
            made.namespaces.put({"metadata": {"name": name, "labels": labels}})
        return made

    @property
    def known(self) -> list[Object]:
        """The pods on nodes that are there."""
        return [pod for pod in self.pods.values() if pod["spec"]["nodeName"] in self.nodes]

    def change(self, kind: str, argument: Any) -> None:
        match kind:
            case "node":
                self.nodes[argument["metadata"]["name"]] = argument
                self.cluster.upsert_node(argument)
            case "no node":
                self.nodes.pop(argument, None)
                self.cluster.remove_node(argument)
            case "place":
                name, drawn = argument
                self.count += 1
                self.put(made_pod(f"placed-{self.count}", drawn, name))
            case "end" if raw := self.pick(argument):
                metadata = {**raw["metadata"], "deletionTimestamp": "2026-01-01T00:00:00Z"}
                self.put({**raw, "metadata": metadata})
            case "relabel" if raw := self.pick(argument[0]):
                self.put({**raw, "metadata": {**raw["metadata"], "labels": argument[1]}})
            case "no pod" if raw := self.pick(argument):
                del self.pods[raw["metadata"]["uid"]]
                self.cluster.remove_pod(raw["metadata"]["uid"])

    def pick(self, number: int) -> Object | None:
        return list(self.pods.values())[number] if number < len(self.pods) else None

    def put(self, raw: Object) -> None:
        self.pods[raw["metadata"]["uid"]] = raw
        self.cluster.add_pod(pods.PodInfo.from_object(raw))


def filtered(
    plugin: framework.Plugin, pod: Object, cluster: snapshot.Snapshot
) -> dict[str, int] | None:
    """The code of each node that the plugin rejects; None if it skips the pod."""
    found = testing.statuses(plugin, pods.PodInfo.from_object(pod), cluster)
    if found == {"": framework.SKIP}:
        return None
    return {name: int(status.code) for name, status in found.items() if not status.is_success}


def scored(
    plugin: framework.Plugin, pod: Object, cluster: snapshot.Snapshot, feasible: Sequence[str]
) -> dict[str, int] | None:
    """The normalised score of each feasible node; None if the plugin skips the pod."""
    rows = np.array(sorted(cluster.row_of[name] for name in feasible), np.intp)
    state: framework.CycleState = {}
    entry, info = profile.scorer_of(plugin), pods.PodInfo.from_object(pod)
    if evaluation.skips_score(entry, info, cluster, state, rows):
        return None
    raw = evaluation.score(entry, info, cluster, state, rows)
    scores = evaluation.weigh(entry, info, state, raw).tolist()
    return dict(zip([cluster.names[row] for row in rows.tolist()], scores, strict=True))


SETTINGS = hypothesis.settings(
    max_examples=60, deadline=None, suppress_health_check=[hypothesis.HealthCheck.too_slow]
)


@SETTINGS
@hypothesis.given(OBJECTS, st.lists(NODES, min_size=3, max_size=6), STEPS, st.randoms())
def test_spreading_is_what_a_loop_over_nodes_and_pods_gives(
    objects: Any, nodes: list[Object], steps: list[tuple[str, Any]], rng: random.Random
) -> None:
    world = World(objects)
    plugin = podtopologyspread.PodTopologySpread()
    for kind, argument in [*(("node", node) for node in nodes), *steps]:
        if kind != "ask":
            world.change(kind, argument)
            continue
        pod = made_pod("new", argument)
        own = pod["spec"].get("topologySpreadConstraints") or []
        hard = [each for each in own if each["whenUnsatisfiable"] == "DoNotSchedule"]
        expected = spread_filter(hard, pod, world.nodes, world.known) if hard else None
        assert filtered(plugin, pod, world.cluster) == expected

        soft = [each for each in own if each not in hard]
        selector = default_selector(pod, objects)
        if not own and selector["matchLabels"]:
            soft = [
                {"maxSkew": skew, "topologyKey": key, "labelSelector": selector}
                for key, skew in ((HOST, 3), (ZONE, 5))
            ]
        feasible = [name for name in world.nodes if rng.random() < 0.8]
        found = scored(plugin, pod, world.cluster, feasible)
        if not soft:
            assert found is None
        else:
            assert found == spread_scores(
                soft, pod, world.nodes, world.known, feasible, strict=bool(own)
            )


@SETTINGS
@hypothesis.given(
    st.lists(NODES, min_size=3, max_size=6), STEPS, st.randoms(), st.sampled_from([0, 1, 50])
)
def test_affinity_is_what_a_loop_over_nodes_and_pods_gives(
    nodes: list[Object], steps: list[tuple[str, Any]], rng: random.Random, hard: int
) -> None:
    world = World(())
    plugin = interpodaffinity.InterPodAffinity(hard)
    for kind, argument in [*(("node", node) for node in nodes), *steps]:
        if kind != "ask":
            world.change(kind, argument)
            continue
        pod = made_pod("new", argument)
        found = testing.statuses(plugin, pods.PodInfo.from_object(pod), world.cluster)
        told = None
        if found != {"": framework.SKIP}:
            told = {
                name: (int(status.code), status.message)
                for name, status in found.items()
                if not status.is_success
            }
        assert told == affinity_filter(pod, world.nodes, world.known)

        feasible = [name for name in world.nodes if rng.random() < 0.8]
        expected = affinity_scores(pod, world.nodes, world.known, feasible, hard)
        assert scored(plugin, pod, world.cluster, feasible) == expected


@SETTINGS
@hypothesis.given(OBJECTS, st.lists(NODES, min_size=3, max_size=6), STEPS, PODS)
def test_pods_tried_there_or_gone_are_as_if_they_were(
    objects: Any, nodes: list[Object], steps: list[tuple[str, Any]], new: Object
) -> None:
    world = World(objects)
    for kind, argument in [*(("node", node) for node in nodes), *steps]:
        if kind != "ask":
            world.change(kind, argument)
    pod = pods.PodInfo.from_object(made_pod("new", new))
    plugins: tuple[framework.FollowsPods, ...] = (
        podtopologyspread.PodTopologySpread(),
        interpodaffinity.InterPodAffinity(),
    )
    for plugin in plugins:
        assert isinstance(plugin, framework.PreFilterPlugin)
        assert isinstance(plugin, framework.FilterPlugin)
        state: framework.CycleState = {}
        if plugin.pre_filter(state, pod, world.cluster) == framework.SKIP:
            continue
        before = codes_of(plugin.filter(state, pod, world.cluster, framework.ALL_ROWS))
        gone = [pods.PodInfo.from_object(raw) for raw in list(world.pods.values())[::2]]
        for other in gone:
            world.cluster.remove_pod(other.uid)
            plugin.remove_pod(state, pod, other, world.cluster)
        anew: framework.CycleState = {}
        expected = [0] * len(world.cluster)
        if plugin.pre_filter(anew, pod, world.cluster) != framework.SKIP:
            expected = codes_of(plugin.filter(anew, pod, world.cluster, framework.ALL_ROWS))
        found = codes_of(plugin.filter(state, pod, world.cluster, framework.ALL_ROWS))
        assert (found or [0] * len(world.cluster)) == (expected or [0] * len(world.cluster))
        for other in reversed(gone):
            world.cluster.add_pod(other)
            plugin.add_pod(state, pod, other, world.cluster)
        assert codes_of(plugin.filter(state, pod, world.cluster, framework.ALL_ROWS)) == before


def codes_of(verdict: framework.Verdict | None) -> list[int]:
    return [] if verdict is None else verdict.codes.tolist()


def whole(pod: pods.PodInfo, cluster: snapshot.Snapshot, plugins: profile.Profile) -> Any:
    """Scores by node and plugin, or the reasons by node, worked out with nothing kept."""
    state: framework.CycleState = {}
    pre = evaluation.pre_filter(
        (entry.plugin.name, entry.plugin.pre_filter(state, pod, cluster))
        for entry in plugins.pre_filters
    )
    rows = np.arange(len(cluster))
    found = evaluation.filter_rows(plugins, pod, cluster, state, pre.skipped, rows)
    feasible = rows[found.rejected_by == 0]
    if not len(feasible):
        return found.rejected_by.tolist(), {}
    scores = evaluation.score_rows(plugins, pod, cluster, state, feasible)
    return found.rejected_by.tolist(), {
        cluster.names[row]: {name: int(each[index]) for name, each in scores.weighted.items()}
        for index, row in enumerate(feasible.tolist())
    }


@SETTINGS
@hypothesis.given(
    OBJECTS, st.lists(NODES, min_size=3, max_size=6), st.lists(PODS, min_size=1, max_size=3), STEPS
)
def test_a_batch_of_decisions_is_what_deciding_on_a_new_snapshot_gives(
    objects: Any, nodes: list[Object], batch: list[Object], steps: list[tuple[str, Any]]
) -> None:
    world = World(objects)
    for node in nodes:
        world.change("node", node)
    plugins = profile.default_profile("default-scheduler")
    decider = decision.Decider(world.cluster, random.Random(0))
    asked = [("ask", pod) for pod in batch]
    for kind, argument in [*asked, *steps, *asked, *asked]:
        if kind != "ask":
            world.change(kind, argument)
            continue
        if not world.nodes:
            continue
        raw = made_pod(f"new-{world.count}", argument)
        pod = pods.PodInfo.from_object(raw)
        found = decider.decide(pod, plugins)
        rejected_by, scores = whole(pod, world.anew(), plugins)
        assert found.feasible == len(scores)
        if found.node is None:
            assert found.failure is not None
            rejections = dict(zip(world.nodes, rejected_by, strict=True))
            names = {name: plugins.filters[index - 1].name for name, index in rejections.items()}
            told = {name: status.plugin for name, status in found.failure.statuses.items()}
            assert told == names
            continue
        totals = {name: sum(each.values()) for name, each in scores.items()}
        assert found.scores == scores[found.node]
        assert found.score == totals[found.node] == max(totals.values())
        world.count += 1
        world.cluster.assume(pod, found.node)
        world.pods[pod.uid] = {**raw, "spec": {**raw["spec"], "nodeName": found.node}}
