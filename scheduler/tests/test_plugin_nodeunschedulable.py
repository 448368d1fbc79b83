"""NodeUnschedulable."""

from typing import Any

import pytest

from whipstaff.scheduler import framework, testing
from whipstaff.scheduler.plugins import nodeunschedulable

REJECTED = framework.Status(
    framework.Code.UNSCHEDULABLE_AND_UNRESOLVABLE, ("node(s) were unschedulable",)
)


@pytest.mark.parametrize(
    ("toleration", "tolerated"),
    [
        (None, False),
        ({"key": "node.kubernetes.io/unschedulable", "effect": "NoSchedule"}, True),
        ({"key": "node.kubernetes.io/unschedulable", "operator": "Exists"}, True),
        ({"operator": "Exists"}, True),
        ({"key": "node.kubernetes.io/unschedulable", "effect": "NoExecute"}, False),
        ({"key": "node.kubernetes.io/unschedulable", "value": "x"}, False),
        ({"key": "other", "operator": "Exists"}, False),
    ],
)
def test_a_cordoned_node_takes_only_pods_that_tolerate_it(
    toleration: dict[str, Any] | None, tolerated: bool
) -> None:
    cluster = testing.cluster([testing.node("open"), testing.node("cordoned", unschedulable=True)])
    pod = testing.pod_info(tolerations=[toleration] if toleration else [])

    found = testing.statuses(nodeunschedulable.NodeUnschedulable(), pod, cluster)

    assert found == {
        "open": framework.SUCCESS,
        "cordoned": framework.SUCCESS if tolerated else REJECTED,
    }
