"""SchedulingGates."""

from whipstaff.scheduler import framework, testing
from whipstaff.scheduler.plugins import schedulinggates


def test_a_pod_without_gates_may_be_tried() -> None:
    assert schedulinggates.SchedulingGates().pre_enqueue(testing.pod_info()) == framework.SUCCESS


def test_a_gated_pod_waits_and_says_for_what() -> None:
    pod = testing.pod_info(schedulingGates=[{"name": "foo"}, {"name": "example.com/bar"}])

    assert schedulinggates.SchedulingGates().pre_enqueue(pod) == framework.Status(
        framework.Code.UNSCHEDULABLE_AND_UNRESOLVABLE,
        ("waiting for scheduling gates: [foo example.com/bar]",),
        "SchedulingGates",
    )
