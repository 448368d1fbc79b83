"""PodTopologySpread: pods of a kind are kept, or preferred to be, evenly over domains."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pytest

from whipstaff.runtime import resources
from whipstaff.scheduler import (
    evaluation,
    framework,
    plugin_arguments,
    pods,
    profile,
    snapshot,
    testing,
)
from whipstaff.scheduler.plugins import podtopologyspread

Object = dict[str, Any]

FOO, BAR = ({"matchExpressions": [{"key": key, "operator": "Exists"}]} for key in ("foo", "bar"))
HOST = "kubernetes.io/hostname"
FIT, FULL, NO_LABEL = "fits", "full", "no label"
OUTCOMES = {
    framework.SUCCESS: FIT,
    framework.Status(
        framework.Code.UNSCHEDULABLE, ("node(s) didn't match pod topology spread constraints",)
    ): FULL,
    framework.Status(
        framework.Code.UNSCHEDULABLE_AND_UNRESOLVABLE,
        ("node(s) didn't match pod topology spread constraints (missing required label)",),
    ): NO_LABEL,
}


def node(name: str, zone: str = "", **more: Any) -> Object:
    labels = {"node": name, HOST: name, **({"zone": zone} if zone else {})}
    return testing.node(name, labels=labels, **more)


ZONES = [node("a", "1"), node("b", "1"), node("x", "2"), node("y", "2")]


def placed(nodes: Sequence[str], labels: Sequence[str] = ("foo",), **more: Any) -> list[Object]:
    """A pod on the node of each letter."""
    return [
        testing.pod(
            f"{'-'.join(labels)}-{index}-{where}",
            labels=dict.fromkeys(labels, ""),
            node_name=where,
            **more,
        )
        for index, where in enumerate(nodes)
    ]


def hard(key: str, skew: int = 1, selector: Object | None = FOO, **more: Any) -> Object:
    return {
        "maxSkew": skew,
        "topologyKey": key,
        "whenUnsatisfiable": "DoNotSchedule",
        "labelSelector": selector,
        **more,
    }


def soft(key: str, skew: int = 1, selector: Object | None = FOO, **more: Any) -> Object:
    return {**hard(key, skew, selector, **more), "whenUnsatisfiable": "ScheduleAnyway"}


def pod(*constraints: Object, labels: Sequence[str] = ("foo",), **more: Any) -> pods.PodInfo:
    spec = {"topologySpreadConstraints": list(constraints)} if constraints else {}
    return testing.pod_info("new", labels=dict.fromkeys(labels, ""), **spec, **more)


PLUGIN = podtopologyspread.PodTopologySpread()


def outcome(
    new: pods.PodInfo,
    cluster: snapshot.Snapshot,
    plugin: podtopologyspread.PodTopologySpread = PLUGIN,
) -> str:
    """What becomes of each node, in order."""
    return " ".join(OUTCOMES[status] for status in testing.statuses(plugin, new, cluster).values())


def scores(
    new: pods.PodInfo,
    cluster: snapshot.Snapshot,
    feasible: str = "",
    plugin: podtopologyspread.PodTopologySpread = PLUGIN,
) -> list[int] | None:
    """The scores of the feasible nodes (all if none is named), in order; None if it skips."""
    rows = np.array(sorted(cluster.row_of[name] for name in feasible or cluster.names))
    state: framework.CycleState = {}
    entry = profile.scorer_of(plugin)
    if evaluation.skips_score(entry, new, cluster, state, rows):
        return None
    raw = evaluation.score(entry, new, cluster, state, rows)
    return evaluation.weigh(entry, new, state, raw).tolist()


@pytest.mark.parametrize(
    ("on", "constraints", "labels", "expected"),
    [
        ("", [hard("zone")], ["foo"], "fits fits fits fits"),
        ("aby", [hard("zone")], ["foo"], "full full fits fits"),
        ("aabyyy", [hard("zone")], ["foo"], "fits fits fits fits"),
        ("aabyyy", [hard("node")], ["foo"], "full full fits full"),
        ("aabyyy", [hard("node", 2)], ["foo"], "full fits fits full"),
        # A pod that doesn't count itself leaves things as they are.
        ("aabyyy", [hard("node")], ["bar"], "full fits fits full"),
        ("", [hard("zone")], [], "fits fits fits fits"),
        ("aaaa", [hard("node", selector=None)], ["foo"], "fits fits fits fits"),
        ("aaaa", [hard("node", selector={})], ["foo"], "fits fits fits fits"),
        ("", [hard("rack")], ["foo"], "no label no label no label no label"),
        ("aabyyy", [hard("zone"), hard("node")], ["foo"], "full full fits full"),
        ("aabyyyy", [hard("zone"), hard("node")], ["foo"], "full full full full"),
        ("aabyyy", [hard("node"), hard("rack")], ["foo"], " ".join(["no label"] * 4)),
        ("ab", [hard("zone", minDomains=2)], ["foo"], "full full fits fits"),
        ("aby", [hard("zone", 2, minDomains=3)], ["foo"], "full full fits fits"),
        ("aby", [hard("zone", 2, minDomains=2)], ["foo"], "fits fits fits fits"),
        ("aabb", [hard("zone", 2), hard("zone", selector=BAR)], ["foo"], "full full fits fits"),
    ],
)
def test_a_domain_takes_no_more_than_max_skew_beyond_the_emptiest(
    on: str, constraints: list[Object], labels: list[str], expected: str
) -> None:
    found = outcome(pod(*constraints, labels=labels), testing.cluster(ZONES, placed(on)))

    assert found == expected


def test_the_first_constraint_that_a_node_fails_gives_the_reason() -> None:
    nodes = [ZONES[0], ZONES[2], testing.node("n", labels={"zone": "2"})]
    cluster = testing.cluster(nodes, placed("xx"))

    assert outcome(pod(hard("zone"), hard("node")), cluster) == "fits full full"
    assert outcome(pod(hard("node"), hard("zone")), cluster) == "fits full no label"


@pytest.mark.parametrize(
    ("foo", "bar", "both", "labels", "expected"),
    [
        ("a", "y", "", ["foo", "bar"], "full full fits full"),
        ("a", "xy", "", ["foo", "bar"], "full full full full"),
        ("ayy", "", "ay", ["foo", "bar"], "full fits full full"),
        ("a", "xy", "", ["bar"], "fits fits full full"),
    ],
)
def test_each_constraint_counts_by_its_own_selector(
    foo: str, bar: str, both: str, labels: list[str], expected: str
) -> None:
    there = [*placed(foo), *placed(bar, ["bar"]), *placed(both, ["foo", "bar"])]
    new = pod(hard("zone"), hard("node", selector=BAR), labels=labels)

    assert outcome(new, testing.cluster(ZONES, there)) == expected


def test_pods_of_other_namespaces_and_terminating_ones_do_not_count() -> None:
    going = placed("b")[0]
    going["metadata"]["deletionTimestamp"] = "2026-01-01T00:00:00Z"
    cluster = testing.cluster(ZONES, [*placed("aa", namespace="other"), going, *placed("x")])

    assert outcome(pod(hard("node")), cluster) == "fits fits full fits"
    assert scores(pod(soft("node")), cluster) == [100, 100, 0, 100]


def test_only_nodes_with_all_keys_hold_domains() -> None:
    nodes = [
        node("a", "1"),
        node("b", "1"),
        testing.node("x", labels={"zone": "2"}),
        node("y", "2"),
    ]
    cluster = testing.cluster(nodes, placed("ay"))
    assert outcome(pod(hard("zone"), hard("node")), cluster) == "full fits no label full"

    nodes[1] = node("b")
    cluster = testing.cluster(nodes, placed("abby"))
    assert outcome(pod(hard("zone")), cluster) == "fits no label fits fits"


AWAY = {"key": "k", "value": "v", "effect": "NoSchedule"}
IN_AY = {
    "nodeAffinity": {
        "requiredDuringSchedulingIgnoredDuringExecution": {
            "nodeSelectorTerms": [
                {"matchExpressions": [{"key": "node", "operator": "In", "values": ["a", "y"]}]}
            ]
        }
    }
}


@pytest.mark.parametrize(
    ("on", "constraint", "spec", "expected"),
    [
        # Only a and y count, 2 and 3: that the others would be filtered is another plugin's affair.
        ("aabyyy", hard("node"), {"affinity": IN_AY}, "fits fits fits full"),
        (
            "aabyyy",
            hard("node", nodeAffinityPolicy="Ignore"),
            {"affinity": IN_AY},
            "full full fits full",
        ),
        ("abb", hard("node"), {"nodeSelector": {"zone": "1"}}, "fits full fits fits"),
        ("ab", hard("node", nodeTaintsPolicy="Ignore"), {}, "full full fits fits"),
        ("abx", hard("node", nodeTaintsPolicy="Ignore"), {}, "full full full fits"),
        ("abx", hard("node", nodeTaintsPolicy="Honor"), {}, "fits fits fits fits"),
        (
            "abx",
            hard("node", nodeTaintsPolicy="Honor"),
            {"tolerations": [{"key": "k", "operator": "Exists"}]},
            "full full full fits",
        ),
    ],
)
def test_policies_say_whether_nodes_count_where_the_pod_can_not_go(
    on: str, constraint: Object, spec: Object, expected: str
) -> None:
    nodes = [*ZONES[:3], node("y", "2", taints=[AWAY])]

    assert outcome(pod(constraint, **spec), testing.cluster(nodes, placed(on))) == expected


def test_match_label_keys_narrow_the_selector_to_the_pods_own_values() -> None:
    cluster = testing.cluster(ZONES, [*placed("aa"), *placed("b", ["foo", "bar"])])
    keys = ["bar", "absent"]

    assert outcome(pod(hard("node", matchLabelKeys=keys), labels=["foo", "bar"]), cluster) == (
        "fits full fits fits"
    )
    assert outcome(pod(hard("node", matchLabelKeys=keys)), cluster) == "full full fits fits"
    only_keys = hard("node", selector={}, matchLabelKeys=keys)
    assert outcome(pod(only_keys, labels=["foo", "bar"]), cluster) == "fits full fits fits"
    nothing = hard("node", selector=None, matchLabelKeys=keys)
    assert outcome(pod(nothing, labels=["foo", "bar"]), cluster) == "fits fits fits fits"


@pytest.mark.parametrize(
    ("on", "feasible", "constraints", "expected"),
    [
        ("", "", [soft(HOST)], [100, 100, 100, 100]),
        ("aab", "a", [soft(HOST)], [100]),
        ("abxy", "", [soft(HOST)], [100, 100, 100, 100]),
        ("aabyyy", "", [soft(HOST)], [20, 60, 100, 0]),
        ("aabyyy", "", [soft(HOST, selector=None)], [100, 100, 100, 100]),
        ("aabyyy", "", [soft(HOST, 2)], [33, 66, 100, 16]),
        ("aaaabbbxxy", "", [soft(HOST, 3)], [44, 66, 77, 100]),
        ("aaaabbxyyy", "abx", [soft(HOST)], [33, 83, 100]),
        ("aaaabbxyyy", "abx", [soft("zone")], [75, 75, 100]),
        ("aabxxyyyy", "ax", [soft("zone"), soft(HOST)], [100, 63]),
        ("aabbx", "abx", [soft("node", 2, minDomains=10)], [75, 75, 100]),
    ],
)
def test_the_emptier_a_nodes_domains_the_better_its_score(
    on: str, feasible: str, constraints: list[Object], expected: list[int]
) -> None:
    assert scores(pod(*constraints), testing.cluster(ZONES, placed(on)), feasible) == expected


@pytest.mark.parametrize(
    ("foo", "bar", "both", "feasible", "expected"),
    [
        ("ay", "y", "b", "", [60, 20, 100, 60]),
        ("x", "b", "y", "", [100, 60, 40, 0]),
        ("ay", "y", "b", "abx", [50, 25, 100]),
    ],
)
def test_scores_of_constraints_with_selectors_of_their_own_add_up(
    foo: str, bar: str, both: str, feasible: str, expected: list[int]
) -> None:
    there = [*placed(foo), *placed(bar, ["bar"]), *placed(both, ["foo", "bar"])]
    new = pod(soft("zone"), soft(HOST, selector=BAR), labels=["foo", "bar"])

    assert scores(new, testing.cluster(ZONES, there), feasible) == expected


def test_a_node_without_a_key_of_the_pods_own_constraints_scores_nothing() -> None:
    nodes = [ZONES[0], testing.node("b", labels={"n": "b"}), *ZONES[2:]]
    cluster = testing.cluster(nodes, placed("aaaabbxyyy"))

    assert scores(pod(soft(HOST)), cluster, "abx") == [16, 0, 100]
    assert scores(pod(soft(HOST)), cluster, "b") == [0]
    assert scores(pod(soft(HOST), soft("rack")), cluster) == [0, 0, 0, 0]


def test_a_pod_with_constraints_of_the_other_kind_only_is_skipped() -> None:
    cluster = testing.cluster(ZONES, placed("aaaa"))

    assert testing.statuses(PLUGIN, pod(soft("zone")), cluster) == {"": framework.SKIP}
    assert scores(pod(hard("zone")), cluster) is None


# Default constraints


def owned(kind: str, api_version: str = "apps/v1", labels: Sequence[str] = ("foo",)) -> Object:
    made = pod(labels=labels).raw
    owner = {"apiVersion": api_version, "kind": kind, "name": "owner", "uid": "u"}
    made["metadata"]["ownerReferences"] = [
        {**owner, "kind": "Other"},
        {**owner, "controller": True},
    ]
    return made


def named(name: str, selector: Any, namespace: str = "default") -> Object:
    return {"metadata": {"name": name, "namespace": namespace}, "spec": {"selector": selector}}


def test_without_service_or_owner_there_are_no_default_constraints() -> None:
    cluster = testing.cluster(ZONES, placed("aaaa"))

    assert scores(pod(), cluster) is None
    cluster.workloads.put(resources.SERVICES, named("bare", None))
    cluster.workloads.put(resources.SERVICES, named("others", {"bar": ""}))
    cluster.workloads.put(resources.SERVICES, named("far", {"foo": ""}, "other"))
    assert scores(pod(), cluster) is None


def test_pods_of_a_service_are_spread_over_nodes_even_without_zones() -> None:
    nodes = [node(name) for name in "abxy"]
    cluster = testing.cluster(nodes, placed("aaaabbbxxy"))
    service = named("web", {"foo": ""})
    cluster.workloads.put(resources.SERVICES, service)

    assert scores(pod(), cluster) == [44, 66, 77, 100]
    assert testing.statuses(PLUGIN, pod(), cluster) == {"": framework.SKIP}
    # Constraints of its own, of whatever kind, take the place of all defaults.
    assert scores(pod(hard("node")), cluster) is None

    cluster.workloads.remove(resources.SERVICES, service)
    assert scores(pod(), cluster) is None


@pytest.mark.parametrize(
    ("kind", "api_version", "resource", "selector"),
    [
        ("ReplicaSet", "apps/v1", resources.REPLICASETS, FOO),
        ("StatefulSet", "apps/v1", resources.STATEFULSETS, {"matchLabels": {"foo": ""}}),
        ("ReplicationController", "v1", resources.REPLICATIONCONTROLLERS, {"foo": ""}),
    ],
)
def test_pods_of_an_owner_are_spread(
    kind: str, api_version: str, resource: resources.Resource, selector: Object
) -> None:
    cluster = testing.cluster([node(name) for name in "abxy"], placed("aaaabbbxxy"))
    new = pods.PodInfo.from_object(owned(kind, api_version))
    assert scores(new, cluster) is None

    cluster.workloads.put(resource, named("owner", selector))
    assert scores(new, cluster) == [44, 66, 77, 100]
    assert scores(pods.PodInfo.from_object(owned(kind, "example.com/v1")), cluster) is None


def test_services_and_owner_narrow_the_default_selector_together() -> None:
    cluster = testing.cluster(
        [node(name) for name in "ab"], [*placed("aa"), *placed("b", ["foo", "bar"])]
    )
    new = pods.PodInfo.from_object(owned("ReplicaSet", labels=["foo", "bar"]))
    cluster.workloads.put(resources.REPLICASETS, named("owner", FOO))
    assert scores(new, cluster) == [60, 100]

    cluster.workloads.put(resources.SERVICES, named("web", {"bar": ""}))
    assert scores(new, cluster) == [100, 66]


def test_nodes_without_a_zone_and_nodes_of_the_empty_zone_are_one_domain_of_the_defaults() -> None:
    zone = "topology.kubernetes.io/zone"
    nodes = [
        testing.node("a"),
        testing.node("b", labels={zone: ""}),
        testing.node("x", labels={zone: "x"}),
    ]
    cluster = testing.cluster(nodes, placed("aaax"))
    cluster.workloads.put(resources.SERVICES, named("web", {"foo": ""}))

    # ln(2 + 2) for two domains: three pods give 4 + 4.16, one gives 4 + 1.39; a adds nothing.
    assert scores(pod(), cluster) == [100, 0, 37]


def configured(*constraints: Object) -> podtopologyspread.PodTopologySpread:
    arguments = {"defaultingType": "List", "defaultConstraints": list(constraints)}
    return podtopologyspread.PodTopologySpread.from_arguments(arguments)


def test_a_profile_may_bring_default_constraints_of_its_own() -> None:
    default = hard("zone")
    del default["labelSelector"]
    plugin = configured(default)
    cluster = testing.cluster(ZONES, placed("aab"))
    cluster.workloads.put(resources.SERVICES, named("web", {"foo": ""}))

    assert outcome(pod(), cluster, plugin) == "full full fits fits"
    assert scores(pod(), cluster, plugin=plugin) is None
    assert outcome(pod(hard("zone", 9)), cluster, plugin) == "fits fits fits fits"


def test_own_default_constraints_demand_all_their_keys_and_an_empty_list_turns_them_off() -> None:
    cluster = testing.cluster([*ZONES[:3], node("y")], placed("aab"))
    cluster.workloads.put(resources.SERVICES, named("web", {"foo": ""}))

    assert scores(pod(), cluster, plugin=configured(soft("zone"))) == [0, 0, 100, 0]
    assert scores(pod(), cluster, plugin=configured()) is None


def test_the_system_defaults_are_what_the_arguments_default_to() -> None:
    arguments = plugin_arguments.defaults("PodTopologySpread")
    plugin = podtopologyspread.PodTopologySpread.from_arguments(arguments)
    cluster = testing.cluster([node(name) for name in "ab"], placed("a"))
    cluster.workloads.put(resources.SERVICES, named("web", {"foo": ""}))

    assert scores(pod(), cluster, plugin=plugin) == [66, 100]


# A pod tried with others there or gone


def verdict(state: framework.CycleState, new: pods.PodInfo, cluster: snapshot.Snapshot) -> str:
    found = PLUGIN.filter(state, new, cluster, framework.ALL_ROWS)
    codes = [0] * len(cluster) if found is None else found.codes.tolist()
    return " ".join((FIT, "", FULL, NO_LABEL)[code] for code in codes)


def test_a_pod_that_would_go_makes_room_and_one_that_would_come_takes_it() -> None:
    there = placed("aabyyy")
    cluster = testing.cluster(ZONES, there)
    new = pod(hard("zone"), hard("node"))
    state: framework.CycleState = {}
    PLUGIN.pre_filter(state, new, cluster)
    coming, going = (pods.PodInfo.from_object(raw) for raw in (*placed("x"), there[0]))
    assert verdict(state, new, cluster) == "full full fits full"

    PLUGIN.add_pod(state, new, coming, cluster)
    assert verdict(state, new, cluster) == "full fits full full"
    PLUGIN.remove_pod(state, new, going, cluster)
    assert verdict(state, new, cluster) == "fits fits full full"
    PLUGIN.add_pod(state, new, going, cluster)
    PLUGIN.remove_pod(state, new, coming, cluster)
    assert verdict(state, new, cluster) == "full full fits full"


def test_pods_that_do_not_count_change_nothing_when_they_go() -> None:
    cluster = testing.cluster([*ZONES, testing.node("z")], placed("aabyyy"))
    new = pod(hard("node", nodeAffinityPolicy="Honor"), affinity=IN_AY)
    going = placed("y")[0]
    going["metadata"]["deletionTimestamp"] = "2026-01-01T00:00:00Z"
    state: framework.CycleState = {}
    PLUGIN.pre_filter(state, new, cluster)

    for other in (
        placed("y", namespace="other")[0],
        placed("y", ["bar"])[0],
        placed("b")[0],
        placed("z")[0],
        placed(["gone"])[0],
        going,
    ):
        PLUGIN.remove_pod(state, new, pods.PodInfo.from_object(other), cluster)
        assert verdict(state, new, cluster) == "fits fits fits full no label"


# What may help a pod that was rejected


def after_pod(new: pods.PodInfo, old: Object | None, changed: Object | None) -> bool:
    hint = PLUGIN.queueing_hints[0].hint
    assert hint is not None
    return hint(new.raw, old, changed)


def after_node(new: pods.PodInfo, old: Object | None, changed: Object | None) -> bool:
    hint = PLUGIN.queueing_hints[1].hint
    assert hint is not None
    return hint(new.raw, old, changed)


def test_a_counted_pod_that_comes_or_goes_may_help() -> None:
    waiting = pod(hard("zone"), hard("node", selector=BAR))
    foo, other = placed("a")[0], placed("a", ["baz"])[0]
    unplaced, far = placed([""])[0], placed("a", namespace="other")[0]
    nominated = {**unplaced, "status": {"nominatedNodeName": "a"}}

    for counted in (foo, placed("a", ["bar"])[0], nominated):
        assert after_pod(waiting, None, counted)
        assert after_pod(waiting, counted, None)
    for neither in (other, unplaced, far):
        assert not after_pod(waiting, None, neither)
        assert not after_pod(waiting, neither, None)


def relabelled(raw: Object, *labels: str) -> Object:
    return {**raw, "metadata": {**raw["metadata"], "labels": dict.fromkeys(labels, "")}}


def test_a_change_of_labels_helps_if_another_constraint_counts_the_pod_now() -> None:
    waiting = pod(hard("zone"), hard("node", selector=BAR))
    foo = placed("a")[0]

    assert after_pod(waiting, foo, relabelled(foo, "baz"))
    assert after_pod(waiting, relabelled(foo, "baz"), foo)
    assert after_pod(waiting, foo, relabelled(foo, "foo", "bar"))
    assert not after_pod(waiting, foo, relabelled(foo, "foo", "baz"))
    assert not after_pod(waiting, foo, foo)
    assert after_pod(waiting, waiting.raw, relabelled(waiting.raw, "bar"))
    assert not after_pod(waiting, waiting.raw, relabelled(waiting.raw, "foo", "baz"))


def test_a_new_toleration_helps_where_taints_are_honoured() -> None:
    tolerant = {"tolerations": [{"key": "k", "operator": "Exists"}]}
    for policy, helps in (("Honor", True), ("Ignore", False)):
        constraint = hard("zone", nodeTaintsPolicy=policy)
        waiting = pod(constraint)
        assert after_pod(waiting, waiting.raw, pod(constraint, **tolerant).raw) is helps


def test_nodes_help_where_they_have_all_keys_or_had() -> None:
    waiting = pod(hard("zone"), hard("node"))
    full, half, moved = node("a", "1"), node("a"), node("a", "2")
    tainted = node("a", "1", taints=[AWAY])

    assert after_node(waiting, None, full)
    assert after_node(waiting, full, None)
    assert after_node(waiting, full, half)
    assert after_node(waiting, half, full)
    assert after_node(waiting, full, moved)
    assert after_node(waiting, full, tainted)
    assert not after_node(waiting, None, half)
    assert not after_node(waiting, half, None)
    assert not after_node(waiting, full, full)
    assert not after_node(waiting, half, testing.node("a", taints=[AWAY]))


def test_a_pod_rejected_by_default_constraints_is_tried_after_anything_that_may_count() -> None:
    plugin = configured(hard("zone", selector={}))
    on_pods, on_nodes = (interest.hint for interest in plugin.queueing_hints)
    assert on_pods is not None
    assert on_nodes is not None
    waiting = pod().raw

    assert on_pods(waiting, None, placed("a", ["baz"])[0])
    assert not on_pods(waiting, None, placed("a", namespace="other")[0])
    assert on_nodes(waiting, None, ZONES[0])
    assert not on_nodes(waiting, None, node("a"))


def test_a_selector_that_can_not_be_read_is_an_error_and_not_a_placement() -> None:
    broken: Mapping[str, Any] = {"matchExpressions": [{"key": "app", "operator": "Like"}]}
    with pytest.raises(ValueError, match="Like"):
        outcome(pod(hard("zone", selector=dict(broken))), testing.cluster(ZONES))
