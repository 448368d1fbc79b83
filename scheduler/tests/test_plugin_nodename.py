"""NodeName."""

import pytest

from whipstaff.scheduler import framework, testing
from whipstaff.scheduler.plugins import nodename


@pytest.mark.parametrize(
    ("wanted", "fitting"), [("", {"a", "b"}), ("b", {"b"}), ("elsewhere", set())]
)
def test_a_pod_that_names_its_node_fits_no_other(wanted: str, fitting: set[str]) -> None:
    cluster = testing.cluster([testing.node("a"), testing.node("b")])

    found = testing.statuses(nodename.NodeName(), testing.pod_info(node_name=wanted), cluster)

    rejected = framework.Status(
        framework.Code.UNSCHEDULABLE_AND_UNRESOLVABLE,
        ("node(s) didn't match the requested node name",),
    )
    assert found == {
        name: framework.SUCCESS if name in fitting else rejected for name in ("a", "b")
    }
