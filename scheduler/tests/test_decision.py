"""The decision: which node, which message, and who is asked what."""

import random
from collections.abc import Mapping
from typing import Any

import numpy as np
import pytest

from whipstaff.scheduler import (
    decision,
    framework,
    pernode,
    plugin_sets,
    pods,
    profile,
    snapshot,
    testing,
)
from whipstaff.scheduler.framework import Code

DEFAULT = profile.default_profile("default-scheduler")


def decide(
    cluster: snapshot.Snapshot,
    pod: pods.PodInfo,
    plugins: profile.Profile = DEFAULT,
    seed: int = 0,
) -> decision.Decision:
    return decision.Decider(cluster, random.Random(seed)).decide(pod, plugins)


def with_plugins(*extra: framework.Plugin, first: bool = False) -> profile.Profile:
    """The default profile with plugins of one's own, after the others or before them."""
    points = {}
    for point in plugin_sets.POINTS:
        own = tuple(
            plugin.name
            for plugin in extra
            if any(hasattr(plugin, method) for method in profile._METHODS.get(point, ()))
        )
        given = DEFAULT.points.get(point, ())
        points[point] = (*own, *given) if first else (*given, *own)
    built = {name: plugin for name, plugin in DEFAULT.plugins.items() if name != "Unsupported"}
    return profile.Profile(
        "default-scheduler",
        points,
        {**DEFAULT.weights, **{plugin.name: 1 for plugin in extra}},
        {**built, **{plugin.name: plugin for plugin in extra}},
    )


def message(found: decision.Decision) -> str:
    assert found.node is None
    assert found.failure is not None
    return str(found.failure)


def test_the_best_node_is_chosen_and_its_scores_are_told() -> None:
    cluster = testing.cluster([testing.node("small", cpu="2"), testing.node("large", cpu="8")])

    found = decide(cluster, testing.pod_info("new", {"cpu": "1", "memory": "1Gi"}))

    assert found == decision.Decision(
        "large",
        300 + 91 + 72,
        {
            "TaintToleration": 300,
            "NodeResourcesFit": 91,
            "NodeResourcesBalancedAllocation": 72,
            "ImageLocality": 0,
        },
        feasible=2,
        evaluated=2,
    )
    assert found.score == sum(found.scores.values())


def test_among_equals_chance_decides_and_the_seed_decides_chance() -> None:
    cluster = testing.cluster(testing.node(name) for name in "abcd")
    pod = testing.pod_info("new", {"cpu": "1"})

    chosen = [decide(cluster, pod, seed=seed).node for seed in range(50)]

    assert set(chosen) == set("abcd")
    assert chosen == [decide(cluster, pod, seed=seed).node for seed in range(50)]


def test_a_cluster_without_nodes_says_so() -> None:
    found = decide(testing.cluster([]), testing.pod_info())

    assert message(found) == "no nodes available to schedule pods"
    assert found.failure is not None
    assert found.failure.unschedulable_plugins == frozenset()


def test_reasons_are_counted_and_sorted_as_texts() -> None:
    taints = [{"key": "a", "effect": "NoSchedule"}]
    cluster = testing.cluster(
        [
            *(testing.node(f"tainted-{number}", taints=taints) for number in range(10)),
            *(testing.node(f"small-{number}", cpu="500m") for number in range(2)),
            testing.node("cordoned", unschedulable=True),
            testing.node("full", max_pods="0", memory="1Mi", cpu="1"),
        ]
    )

    found = decide(cluster, testing.pod_info("new", {"cpu": "1", "memory": "2Mi"}))

    # 10 before 2: upstream sorts the texts.
    assert message(found) == (
        "0/14 nodes are available: 1 Insufficient memory, 1 Too many pods, "
        "1 node(s) were unschedulable, 10 node(s) had untolerated taint(s), 2 Insufficient cpu."
    )
    assert found.failure is not None
    assert found.failure.unschedulable_plugins == {
        "NodeUnschedulable",
        "TaintToleration",
        "NodeResourcesFit",
    }
    assert (found.feasible, found.evaluated) == (0, 14)


def test_what_post_filter_finds_comes_after_the_reasons() -> None:
    cluster = testing.cluster([testing.node("a", cpu="1")])
    failure = decide(cluster, testing.pod_info("new", {"cpu": "2"})).failure
    assert failure is not None

    failure.post_filter_message = "preemption: not helpful"

    assert str(failure) == "0/1 nodes are available: 1 Insufficient cpu. preemption: not helpful"


def test_it_is_known_which_nodes_were_rejected_for_what_an_eviction_could_change() -> None:
    cluster = testing.cluster(
        [
            testing.node("full", cpu="1", max_pods="0"),
            testing.node("small", cpu="500m"),
            testing.node("gone", max_pods="0"),
            testing.node("full-too", max_pods="0"),
        ]
    )
    failure = decide(cluster, testing.pod_info("new", {"cpu": "1"})).failure
    assert failure is not None
    statuses = failure.statuses
    assert statuses.rows_with(Code.UNSCHEDULABLE, cluster) == [0, 2, 3]
    assert statuses.rows_with(Code.UNSCHEDULABLE_AND_UNRESOLVABLE, cluster) == [1]
    cluster.remove_node("gone")
    names = [cluster.names[row] for row in statuses.rows_with(Code.UNSCHEDULABLE, cluster)]
    assert sorted(names) == ["full", "full-too"]
    statuses.absent = framework.Status(Code.UNSCHEDULABLE)
    cluster.upsert_node(testing.node("new"))
    names = [cluster.names[row] for row in statuses.rows_with(Code.UNSCHEDULABLE, cluster)]
    assert sorted(names) == ["full", "full-too", "new"]


def test_a_node_is_told_by_the_first_filter_that_rejects_it() -> None:
    cluster = testing.cluster([testing.node("a", cpu="1", unschedulable=True)])
    failure = decide(cluster, testing.pod_info("new", {"cpu": "2"})).failure
    assert failure is not None

    assert failure.statuses["a"] == framework.Status(
        Code.UNSCHEDULABLE_AND_UNRESOLVABLE, ("node(s) were unschedulable",), "NodeUnschedulable"
    )
    assert dict(failure.statuses.items()) == {"a": failure.statuses["a"]}
    assert failure.reasons() == {"node(s) were unschedulable": 1}


def test_statuses_stay_what_they_were_when_the_cluster_moves_on() -> None:
    cluster = testing.cluster([testing.node("a", cpu="1"), testing.node("b", cpu="1")])
    decider = decision.Decider(cluster, random.Random(0))
    pod = testing.pod_info("new", {"cpu": "2"})
    failure = decider.decide(pod, DEFAULT).failure
    assert failure is not None

    cluster.upsert_node(testing.node("a", cpu="8"))
    cluster.remove_node("b")

    assert decider.decide(pod, DEFAULT).node == "a"
    assert str(failure) == "0/2 nodes are available: 2 Insufficient cpu."
    assert failure.statuses["b"].reasons == ("Insufficient cpu",)


def confined(*names: str, **spec: Any) -> pods.PodInfo:
    terms = [
        {"matchFields": [{"key": "metadata.name", "operator": "In", "values": [name]}]}
        for name in names
    ]
    affinity = {
        "nodeAffinity": {
            "requiredDuringSchedulingIgnoredDuringExecution": {"nodeSelectorTerms": terms}
        }
    }
    return testing.pod_info("new", {"cpu": "2"}, affinity=affinity, **spec)


def test_a_pod_confined_to_some_nodes_is_tried_on_no_other() -> None:
    cluster = testing.cluster(testing.node(name) for name in "abc")

    found = decide(cluster, confined("b"))

    assert (found.node, found.feasible, found.evaluated) == ("b", 1, 1)
    assert found.scores["NodeResourcesFit"] == 74


def test_nodes_that_a_pod_is_not_confined_to_are_told_as_such() -> None:
    cluster = testing.cluster([testing.node("a"), testing.node("b", cpu="1"), testing.node("c")])

    failure = decide(cluster, confined("b", "gone")).failure

    assert failure is not None
    assert str(failure) == (
        "0/3 nodes are available: 1 Insufficient cpu, "
        "2 node(s) didn't satisfy plugin(s) [NodeAffinity]."
    )
    assert failure.unschedulable_plugins == {"NodeAffinity", "NodeResourcesFit"}
    assert failure.statuses["a"].code == Code.UNSCHEDULABLE_AND_UNRESOLVABLE


def test_a_pod_confined_to_nodes_that_are_not_there() -> None:
    cluster = testing.cluster([testing.node("a")])

    found = decide(cluster, confined("gone"))

    assert message(found) == (
        "0/1 nodes are available: 1 node(s) didn't satisfy plugin(s) [NodeAffinity]."
    )
    assert found.evaluated == 0


def test_a_no_before_any_node_is_the_whole_message() -> None:
    requirement = {"key": "metadata.name", "operator": "In"}
    term = {"matchFields": [{**requirement, "values": ["a"]}, {**requirement, "values": ["b"]}]}
    affinity = {
        "nodeAffinity": {
            "requiredDuringSchedulingIgnoredDuringExecution": {"nodeSelectorTerms": [term]}
        }
    }
    cluster = testing.cluster([testing.node("a"), testing.node("b")])

    failure = decide(cluster, testing.pod_info("new", affinity=affinity)).failure

    assert failure is not None
    assert str(failure) == "0/2 nodes are available: pod affinity terms conflict."
    assert failure.unschedulable_plugins == {"NodeAffinity"}
    assert failure.statuses["a"].plugin == "NodeAffinity"


class Own(framework.Plugin):
    """A plugin that says nothing of what it reads, so it is asked for every pod."""

    name = "Own"

    def __init__(self, answer: Any = None) -> None:
        self.answer = answer
        self.asked: list[list[str]] = []


class OwnPreFilter(Own):
    def pre_filter(self, state: Any, pod: Any, cluster: Any) -> Any:
        state["own"] = pod.name
        return self.answer


class OwnFilter(Own):
    """Rejects the nodes that it was told of."""

    def filter(self, state: Any, pod: Any, cluster: snapshot.Snapshot, rows: Any) -> Any:
        names = np.array(cluster.names)[rows]
        self.asked.append(sorted(names.tolist()))
        return framework.reject(np.isin(names, self.answer), "own reason", Code.UNSCHEDULABLE)


class OwnScore(Own):
    """Scores by name."""

    def pre_score(self, state: Any, pod: Any, cluster: Any, feasible: Any) -> Any:
        return framework.SKIP if self.answer is None else None

    def score(self, state: Any, pod: Any, cluster: snapshot.Snapshot, rows: Any) -> Any:
        self.asked.append([cluster.names[row] for row in rows])
        return np.array([self.answer[cluster.names[row]] for row in rows], np.int64)


class OwnNormalized(OwnScore):
    def normalize(self, state: Any, pod: Any, scores: Any) -> Any:
        return framework.default_normalize(scores, reverse=False)


@pytest.mark.parametrize("code", [Code.UNSCHEDULABLE, Code.UNSCHEDULABLE_AND_UNRESOLVABLE])
def test_a_plugins_no_at_pre_filter_is_told_and_blamed(code: Code) -> None:
    plugins = with_plugins(OwnPreFilter(framework.Status(code, ("not on a Friday",))))

    failure = decide(testing.cluster([testing.node("a")]), testing.pod_info(), plugins).failure

    assert failure is not None
    assert str(failure) == "0/1 nodes are available: not on a Friday."
    assert failure.unschedulable_plugins == {"Own"}
    assert failure.statuses["a"] == framework.Status(code, ("not on a Friday",), "Own")


def test_waiting_at_pre_filter_is_told_apart() -> None:
    plugins = with_plugins(OwnPreFilter(framework.Status(Code.PENDING, ("waits",))))

    failure = decide(testing.cluster([testing.node("a")]), testing.pod_info(), plugins).failure

    assert failure is not None
    assert failure.pending_plugins == {"Own"}


def test_plugins_that_agree_on_no_node_are_all_named() -> None:
    cluster = testing.cluster([testing.node("a"), testing.node("b")])
    plugins = with_plugins(OwnPreFilter(framework.NodeNames(frozenset({"a"}))))

    assert decide(cluster, testing.pod_info(), plugins).node == "a"
    failure = decide(cluster, confined("b"), plugins).failure
    assert failure is not None
    assert str(failure) == (
        "0/2 nodes are available: "
        "node(s) didn't satisfy plugin(s) [NodeAffinity Own] simultaneously."
    )
    assert failure.unschedulable_plugins == {"NodeAffinity", "Own"}


def test_one_plugin_that_names_no_node_is_named_alone() -> None:
    plugins = with_plugins(OwnPreFilter(framework.NodeNames(frozenset())))

    found = decide(testing.cluster([testing.node("a")]), testing.pod_info(), plugins)

    assert message(found) == "0/1 nodes are available: node(s) didn't satisfy plugin Own."


def test_a_filter_of_ones_own_is_asked_only_about_nodes_still_in_question() -> None:
    nodes = [testing.node("a"), testing.node("b", unschedulable=True), testing.node("c")]
    own = OwnFilter(["a"])
    decider = decision.Decider(testing.cluster(nodes), random.Random(0))
    for number in range(2):
        found = decider.decide(testing.pod_info(f"p{number}"), with_plugins(own))
        assert (found.node, found.feasible, found.evaluated) == ("c", 1, 3)

    assert own.asked == [["a", "c"], ["a", "c"]]


def test_a_filter_in_front_of_the_others_gives_its_reason_first() -> None:
    nodes = [testing.node("a", unschedulable=True), testing.node("b", unschedulable=True)]
    own = OwnFilter(["a"])

    found = decide(testing.cluster(nodes), testing.pod_info(), with_plugins(own, first=True))

    assert message(found) == (
        "0/2 nodes are available: 1 node(s) were unschedulable, 1 own reason."
    )
    assert own.asked == [["a", "b"]]


def test_a_skip_at_pre_filter_leaves_the_filter_out() -> None:
    class Both(OwnFilter, OwnPreFilter):
        def pre_filter(self, state: Any, pod: Any, cluster: Any) -> Any:
            return framework.SKIP

    own = Both(["a"])

    assert decide(testing.cluster([testing.node("a")]), testing.pod_info(), with_plugins(own)).node
    assert own.asked == []


@pytest.mark.parametrize("kind", [OwnScore, OwnNormalized])
def test_a_score_of_ones_own_is_added_over_the_feasible_nodes(kind: type[Own]) -> None:
    nodes = [testing.node("a"), testing.node("b"), testing.node("c", unschedulable=True)]
    own = kind({"a": 10, "b": 20})

    found = decide(testing.cluster(nodes), testing.pod_info(), with_plugins(own))

    assert found.node == "b"
    assert found.scores["Own"] == (100 if kind is OwnNormalized else 20)
    assert own.asked == [["a", "b"]]


def test_a_skip_at_pre_score_leaves_the_score_out() -> None:
    found = decide(
        testing.cluster([testing.node("a")]), testing.pod_info(), with_plugins(OwnScore(None))
    )

    assert "Own" not in found.scores


def test_normalised_scores_follow_what_other_plugins_leave() -> None:
    """A kept plugin's normalised score is about the nodes that all filters let through."""
    soft = {"key": "k", "effect": "PreferNoSchedule"}
    nodes = [
        testing.node("none"),
        testing.node("one", taints=[soft]),
        testing.node("two", taints=[soft, {**soft, "key": "l"}]),
    ]
    own = OwnFilter(["none", "two"])

    found = decide(testing.cluster(nodes), testing.pod_info(), with_plugins(own))

    # Alone, the node with one taint is the worst of all: 100 - 100*1/1.
    assert (found.node, found.scores["TaintToleration"]) == ("one", 0)


@pytest.mark.parametrize(
    "refused", [(), ("none",), ("one",), ("two",), ("none", "one"), ("one", "two"), ("none", "two")]
)
def test_what_is_kept_of_normalised_scores_is_used_only_where_it_stands(
    refused: tuple[str, ...],
) -> None:
    soft = [{"key": key, "effect": "PreferNoSchedule"} for key in "kl"]
    taints = {"none": 0, "one": 1, "two": 2}
    nodes = [testing.node(name, taints=soft[:count]) for name, count in taints.items()]
    decider = decision.Decider(testing.cluster(nodes), random.Random(0), evidence=True)

    found = decider.decide(testing.pod_info(), with_plugins(OwnFilter(list(refused))))

    left = {name: count for name, count in taints.items() if name not in refused}
    most = max(left.values())
    expected = {name: 3 * (100 - 100 * n // most if most else 100) for name, n in left.items()}
    assert found.evidence is not None
    sheet = found.evidence.sheet()
    row = [name for name, _ in sheet.scorers].index("TaintToleration")
    scores = dict(zip(sheet.names, sheet.weighted[row].tolist(), strict=True))
    assert {name: scores[name] for name in left} == expected
    assert found.scores["TaintToleration"] == expected[found.node]


@pytest.mark.parametrize("score", [-1, 101])
def test_a_score_out_of_range_is_the_plugins_failure(score: int) -> None:
    with pytest.raises(framework.PluginError, match=rf'"Own" returns an invalid score {score}'):
        decide(
            testing.cluster([testing.node("a")]),
            testing.pod_info(),
            with_plugins(OwnScore({"a": score})),
        )


class Signed(OwnScore):
    """Scores by the label and promises to look at nothing else."""

    name = "Signed"
    score_reads = framework.Reads.NODE

    def sign(self, pod: pods.PodInfo) -> Any:
        return pod.labels.get("kind")

    def score(self, state: Any, pod: pods.PodInfo, cluster: snapshot.Snapshot, rows: Any) -> Any:
        names = np.array(cluster.names)[rows]
        self.asked.append(sorted(names.tolist()))
        return np.where(names == pod.labels.get("kind"), self.answer, 0)


def test_a_plugin_that_says_what_it_reads_is_asked_once_for_pods_that_look_alike() -> None:
    own = Signed(50)
    plugins = with_plugins(own)
    cluster = testing.cluster([testing.node("a"), testing.node("b")])
    decider = decision.Decider(cluster, random.Random(0))
    for number, kind in enumerate(["a", "b", "a", "b", "a"]):
        pod = testing.pod_info(f"p{number}", {"cpu": "100m"}, labels={"kind": kind})
        found = decider.decide(pod, plugins)
        assert found.node == kind
        cluster.assume(pod, kind)

    assert own.asked == [["a", "b"], ["a", "b"]]
    cluster.upsert_node(testing.node("b", labels={"new": "label"}))
    decider.decide(testing.pod_info("last", {"cpu": "100m"}, labels={"kind": "a"}), plugins)
    assert own.asked[2:] == [["b"]]


class Roomy(Signed):
    """Prefers nodes with few pods, and promises to look at nothing else."""

    name = "Roomy"
    score_reads = framework.Reads.CAPACITY | framework.Reads.AMOUNTS

    def score(self, state: Any, pod: pods.PodInfo, cluster: snapshot.Snapshot, rows: Any) -> Any:
        self.asked.append(sorted(np.array(cluster.names)[rows].tolist()))
        return 100 - cluster.pod_counts[rows]


def test_a_node_as_full_as_another_was_is_not_asked_about(monkeypatch: pytest.MonkeyPatch) -> None:
    own = Roomy(0)
    # As if it were shipped: others are held to 0..100 each time.
    monkeypatch.setitem(profile.plugins.BUILT, own.name, Roomy)
    plugins = with_plugins(own)
    cluster = testing.cluster([*map(testing.node, "abc"), testing.node("big", cpu="9")])
    decider = decision.Decider(cluster, random.Random(0))

    def asked(number: int, node: str) -> list[list[str]]:
        """About whom after a pod was placed on `node`; the best score stays right."""
        cluster.assume(testing.pod_info(f"p{number}", {"cpu": "100m"}), node)
        own.asked.clear()
        pod = testing.pod_info("next", {"cpu": "100m"})
        found = decider.decide(pod, plugins)
        assert found.scores == decide(cluster, pod, plugins).scores
        return own.asked[:-1]

    assert decide(cluster, testing.pod_info("first", {"cpu": "100m"}), plugins).node
    assert asked(0, "a") == [["a", "b", "big", "c"]]
    assert asked(1, "a") == [["a"]]
    assert asked(2, "b") == [["b"]]
    assert asked(3, "c") == []
    assert asked(4, "b") == []
    assert asked(5, "big") == [["big"]]


@pytest.mark.parametrize("seed", range(5))
def test_what_is_known_of_nodes_that_are_alike_is_what_asking_gives(seed: int) -> None:
    rng = random.Random(seed)
    sizes = {f"node-{number}": rng.choice(["1", "2"]) for number in range(20)}
    cluster = testing.cluster([testing.node(name, cpu=cpu) for name, cpu in sizes.items()])
    chosen_by = random.Random(seed)
    decider = decision.Decider(cluster, chosen_by)
    kinds = [{"cpu": "100m"}, {"cpu": "300m", "memory": "1Gi"}, {}]
    placed: list[str] = []
    for number in range(250):
        chance = rng.random()
        if chance < 0.1 and placed:
            cluster.remove_pod(placed.pop(rng.randrange(len(placed))))
        elif chance < 0.13:
            name = rng.choice(list(sizes))
            cluster.upsert_node(testing.node(name, cpu=rng.choice(["1", "2"])))
        pod = testing.pod_info(f"p{number}", rng.choice(kinds))
        fresh = random.Random()
        fresh.setstate(chosen_by.getstate())
        found = decider.decide(pod, DEFAULT)
        expected = decision.Decider(cluster, fresh).decide(pod, DEFAULT)
        assert (found.node, found.scores) == (expected.node, expected.scores)
        assert found.feasible == expected.feasible
        if found.node is not None:
            placed.append(cluster.assume(pod, found.node).uid)


def test_a_kept_score_out_of_range_is_refused_where_it_matters() -> None:
    class Wrong(Signed):
        def score(self, state: Any, pod: Any, cluster: snapshot.Snapshot, rows: Any) -> Any:
            return np.array([self.answer[name] for name in np.array(cluster.names)[rows]])

    nodes = [testing.node("a"), testing.node("b", unschedulable=True)]

    assert decide(
        testing.cluster(nodes), testing.pod_info(), with_plugins(Wrong({"a": 1, "b": 999}))
    ).node
    with pytest.raises(framework.PluginError, match="invalid score 999"):
        decide(testing.cluster(nodes), testing.pod_info(), with_plugins(Wrong({"a": 999, "b": 1})))


class Broken(framework.Plugin):
    name = "Broken"

    def filter(self, state: Any, pod: Any, cluster: Any, rows: Any) -> Any:
        raise KeyError("gone")


def test_a_plugin_that_breaks_is_named_and_breaks_only_the_attempt() -> None:
    decider = decision.Decider(testing.cluster([testing.node("a")]), random.Random(0))

    with pytest.raises(framework.PluginError, match=r'running "Broken" filter plugin') as caught:
        decider.decide(testing.pod_info(), with_plugins(Broken()))

    assert caught.value.plugin == "Broken"
    assert decider.decide(testing.pod_info(), DEFAULT).node == "a"


def test_a_kept_plugin_that_breaks_once_is_asked_anew() -> None:
    class BreaksOnce(framework.Plugin):
        name = "BreaksOnce"
        filter_reads = framework.Reads.PODS

        def __init__(self) -> None:
            self.calls = 0

        def sign(self, pod: Any) -> Any:
            return ()

        def filter(self, state: Any, pod: Any, cluster: snapshot.Snapshot, rows: Any) -> Any:
            self.calls += 1
            if self.calls == 2:
                raise RuntimeError("once")
            return framework.reject(cluster.pod_counts[rows] > 0, "busy")

    cluster = testing.cluster([testing.node("a"), testing.node("b")])
    decider = decision.Decider(cluster, random.Random(0))
    plugins = with_plugins(BreaksOnce())
    assert decider.decide(testing.pod_info("p"), plugins).feasible == 2
    cluster.add_pod(testing.pod_info("x", node_name="a"))

    with pytest.raises(framework.PluginError, match="once"):
        decider.decide(testing.pod_info("p"), plugins)

    assert decider.decide(testing.pod_info("p"), plugins).node == "b"


def test_a_profile_without_scores_places_by_chance_among_the_feasible() -> None:
    points: Mapping[str, Any] = {**DEFAULT.points, "score": (), "preScore": ()}
    plugins = profile.build("default-scheduler", points, {}, {})
    cluster = testing.cluster([testing.node("a"), testing.node("b", unschedulable=True)])

    found = decide(cluster, testing.pod_info(), plugins)

    assert (found.node, found.score, found.scores) == ("a", 1, {})


def test_profiles_do_not_share_what_is_known_of_a_class() -> None:
    strategy = {"type": "MostAllocated", "resources": [{"name": "cpu", "weight": 1}]}
    packing = profile.build(
        "packing",
        DEFAULT.points,
        DEFAULT.weights,
        {"NodeResourcesFit": {"scoringStrategy": strategy}},
    )
    cluster = testing.cluster([testing.node("small", cpu="2"), testing.node("large", cpu="8")])
    decider = decision.Decider(cluster, random.Random(0))
    pod = testing.pod_info("new", {"cpu": "1", "memory": "16Gi"})

    by_free = decider.decide(pod, DEFAULT).scores["NodeResourcesFit"]
    by_use = decider.decide(pod, packing).scores["NodeResourcesFit"]

    assert (by_free, by_use) == (50, 50) or by_free != by_use
    assert decider.decide(pod, packing).node == "small"
    assert len(decider._classes) == 2


def test_only_so_many_classes_are_remembered() -> None:
    cluster = testing.cluster([testing.node("a")])
    decider = decision.Decider(cluster, random.Random(0), max_classes=2)
    for cpu in ("1", "2", "3", "1"):
        assert decider.decide(testing.pod_info("p", {"cpu": cpu}), DEFAULT).node == "a"

    assert len(decider._classes) == 2


def test_a_per_node_plugin_decides_like_any_other() -> None:
    class Even(pernode.NodePlugin):
        name = "Even"

        def filter_node(self, pod: pods.PodInfo, node: pernode.NodeView) -> str | None:
            return None if int(node.name) % 2 == 0 else f"node {node.name} is odd"

        def score_node(self, pod: pods.PodInfo, node: pernode.NodeView) -> int:
            return int(node.name)

    cluster = testing.cluster(testing.node(str(number)) for number in range(5))
    plugins = with_plugins(Even())

    assert decide(cluster, testing.pod_info(), plugins).node == "4"
    for name in ("0", "2", "4"):
        cluster.upsert_node(testing.node(name, unschedulable=True))
    assert message(decide(cluster, testing.pod_info(), plugins)) == (
        "0/5 nodes are available: 1 node 1 is odd, 1 node 3 is odd, 3 node(s) were unschedulable."
    )


def test_an_image_that_one_node_pulls_changes_the_score_of_the_others_that_hold_it() -> None:
    held = {"web:1": 900 * 1024 * 1024}
    cluster = testing.cluster(
        [testing.node("a", images=held), *(testing.node(name) for name in "bcd")]
    )
    decider = decision.Decider(cluster, random.Random(0))
    pod = testing.pod_info("p", containers=[testing.container(image="web:1")])
    alone = decider.decide(pod, DEFAULT)
    assert (alone.node, alone.scores["ImageLocality"]) == ("a", 20)

    cluster.upsert_node(testing.node("b", images=held, labels={"only": "here"}, cpu="1"))

    shared = decider.decide(pod, DEFAULT)
    assert (shared.node, shared.scores["ImageLocality"]) == ("a", 43)
    assert shared.score == alone.score + 23
