"""What isn't built yet keeps pods pending, and says so, rather than placing them wrongly."""

import random
from typing import Any

import pytest

from whipstaff.scheduler import decision, framework, pods, profile, pruning, snapshot, testing

DEFAULT = profile.default_profile("default-scheduler")


def decide(cluster: snapshot.Snapshot, **pod: Any) -> decision.Decision:
    """Decide about a pod as the informer keeps it, pruned: a field that is needed must be left."""
    kept = pruning.pod(testing.pod_info("new", **pod).raw)
    return decision.Decider(cluster, random.Random(0)).decide(
        pods.PodInfo.from_object(kept), DEFAULT
    )


@pytest.mark.parametrize(
    ("spec", "named"),
    [
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
        {"volumes": [{"name": "v", "configMap": {}}, {"name": "w", "emptyDir": {}}]},
        {"volumes": [{"name": "v", "csi": {"driver": "d"}}, {"name": "w", "nfs": {}}]},
        {"volumes": [{"name": "v", "projected": {}}], "hostUsers": False},
    ],
)
def test_what_needs_no_filter_is_placed(spec: dict[str, Any]) -> None:
    assert decide(testing.cluster([testing.node("a")]), **spec).node == "a"
