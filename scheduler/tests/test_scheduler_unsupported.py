"""What isn't built yet keeps pods pending, and says so, rather than placing them wrongly."""

import random
from typing import Any

import pytest

from whipstaff.scheduler import decision, framework, pods, profile, pruning, snapshot, testing

REQUIRED = "requiredDuringSchedulingIgnoredDuringExecution"
PREFERRED = "preferredDuringSchedulingIgnoredDuringExecution"
DEFAULT = profile.default_profile("default-scheduler")


def decide(cluster: snapshot.Snapshot, **pod: Any) -> decision.Decision:
    """Decide about a pod as the informer keeps it, pruned: a field that is needed must be left."""
    kept = pruning.pod(testing.pod_info("new", **pod).raw)
    return decision.Decider(cluster, random.Random(0)).decide(
        pods.PodInfo.from_object(kept), DEFAULT
    )


TERM = {"topologyKey": "zone", "labelSelector": {"matchLabels": {"app": "web"}}}


@pytest.mark.parametrize(
    ("spec", "named"),
    [
        ({"affinity": {"podAffinity": {REQUIRED: [TERM]}}}, "InterPodAffinity"),
        ({"affinity": {"podAntiAffinity": {REQUIRED: [TERM]}}}, "InterPodAffinity"),
        (
            {"topologySpreadConstraints": [{"whenUnsatisfiable": "DoNotSchedule"}]},
            "PodTopologySpread",
        ),
        ({"resourceClaims": [{"name": "gpu"}]}, "DynamicResources"),
    ],
)
def test_a_pod_that_needs_what_is_not_built_stays_pending_and_is_told_why(
    spec: dict[str, Any], named: str
) -> None:
    failure = decide(testing.cluster([testing.node("a")]), **spec).failure

    assert failure is not None
    assert str(failure).startswith(
        "0/1 nodes are available: pod needs what this scheduler doesn't support yet: "
    )
    assert named in str(failure)
    assert failure.unschedulable_plugins == {"Unsupported"}
    assert failure.statuses["a"].code == framework.Code.UNSCHEDULABLE_AND_UNRESOLVABLE


@pytest.mark.parametrize(
    "spec",
    [
        {"affinity": {"podAntiAffinity": {PREFERRED: [{"weight": 1, "podAffinityTerm": TERM}]}}},
        {"topologySpreadConstraints": [{"whenUnsatisfiable": "ScheduleAnyway"}]},
        {"volumes": [{"name": "v", "configMap": {}}, {"name": "w", "emptyDir": {}}]},
        {"volumes": [{"name": "v", "csi": {"driver": "d"}}, {"name": "w", "nfs": {}}]},
        {"volumes": [{"name": "v", "projected": {}}], "hostUsers": False},
    ],
)
def test_what_is_only_preferred_or_needs_no_filter_is_placed(spec: dict[str, Any]) -> None:
    assert decide(testing.cluster([testing.node("a")]), **spec).node == "a"


def holder(**term: Any) -> dict[str, Any]:
    affinity = {"podAntiAffinity": {REQUIRED: [{**TERM, **term}]}}
    return testing.pod("holder", node_name="a", affinity=affinity)


def zones(*placed: dict[str, Any]) -> snapshot.Snapshot:
    return testing.cluster(
        [
            testing.node("a", labels={"zone": "x"}),
            testing.node("b", labels={"zone": "x"}),
            testing.node("c", labels={"zone": "y"}),
            testing.node("d"),
        ],
        placed,
    )


def test_a_pod_that_others_keep_away_stays_out_of_their_zone() -> None:
    failure_free = decide(zones(holder()), labels={"app": "web"})
    assert failure_free.feasible == 2
    assert failure_free.node in ("c", "d")

    confined = {"nodeSelector": {"zone": "x"}}
    failure = decide(zones(holder()), labels={"app": "web"}, **confined).failure
    assert failure is not None
    assert str(failure) == (
        "0/4 nodes are available: 2 node(s) didn't match Pod's node affinity/selector, "
        "2 node(s) didn't satisfy existing pods anti-affinity rules."
    )


@pytest.mark.parametrize(
    ("pod", "term", "feasible"),
    [
        ({"labels": {"app": "db"}}, {}, 4),
        ({"labels": {"app": "web"}, "namespace": "other"}, {}, 4),
        ({"labels": {"app": "web"}, "namespace": "other"}, {"namespaces": ["other"]}, 2),
        ({"labels": {"app": "web"}}, {"namespaces": ["other"]}, 4),
        # Labels of namespaces aren't known here, so a selector of them may mean any.
        ({"labels": {"app": "web"}, "namespace": "other"}, {"namespaceSelector": {}}, 2),
        ({"labels": {"app": "web"}}, {"topologyKey": "rack"}, 4),
        ({"labels": {"app": "web"}}, {"labelSelector": None}, 4),
        (
            {"labels": {"app": "web"}},
            {"labelSelector": {"matchExpressions": [{"key": "app", "operator": "Like"}]}},
            4,
        ),
    ],
)
def test_only_pods_that_the_term_means_are_kept_away(
    pod: dict[str, Any], term: dict[str, Any], feasible: int
) -> None:
    assert decide(zones(holder(**term)), **pod).feasible == feasible


def test_when_the_pod_that_keeps_others_away_goes_they_may_come() -> None:
    cluster = zones(holder())
    cluster.remove_pod("uid-default-holder")

    assert decide(cluster, labels={"app": "web"}).feasible == 4
