"""The order in which pods are deleted: what serves least goes first."""

import itertools
from typing import Any

import pytest

from whipstaff.controllers.replicaset import ranking
from whipstaff.runtime import objects

Object = dict[str, Any]

NOW = 1_800_000_000.0
HOUR = 3600.0
MONTH = 30 * 24 * HOUR


def pod(
    name: str,
    node: str = "",
    phase: str = "Running",
    *,
    ready: bool = False,
    restarts: int = 0,
    sidecar: int = 0,
    since: float | None = None,
    created: float | None = None,
    cost: str | None = None,
    uid: str = "",
) -> Object:
    metadata: Object = {"name": name, "uid": uid}
    if created is not None:
        metadata["creationTimestamp"] = objects.format_time(created)
    if cost is not None:
        metadata["annotations"] = {ranking.DELETION_COST: cost}
    status: Object = {"phase": phase}
    if ready:
        condition = {"type": "Ready", "status": "True"}
        if since is not None:
            condition["lastTransitionTime"] = objects.format_time(since)
        status["conditions"] = [condition]
        status["containerStatuses"] = [{"name": "main", "restartCount": restarts}]
        status["initContainerStatuses"] = [{"name": "sidecar", "restartCount": sidecar}]
    initial = [{"name": "sidecar", "restartPolicy": "Always"}]
    return {
        "metadata": metadata,
        "spec": {"nodeName": node, "initContainers": initial},
        "status": status,
    }


def precedes(one: Object, other: Object, crowds: tuple[int, int] = (1, 1)) -> bool:
    first, second = (
        ranking._Ranked.of(each, crowd, NOW)
        for each, crowd in zip((one, other), crowds, strict=True)
    )
    return first < second


UNSCHEDULED = pod("unscheduled", "", "Pending")
PENDING = pod("pending", "node", "Pending")
UNKNOWN = pod("unknown", "node", "Unknown")
NOT_READY = pod("not-ready", "node")
READY_NO_TIME = pod("ready-no-time", "node", ready=True)
READY_NOW = pod("ready-now", "node", ready=True, since=NOW, created=NOW)
READY_THEN = pod("ready-then", "node", ready=True, since=NOW - MONTH, created=NOW - MONTH)
RESTARTED = pod("restarted", "node", ready=True, restarts=9001, since=NOW, created=NOW)
SIDECAR = pod("sidecar", "node", ready=True, restarts=9001, sidecar=9001, since=NOW, created=NOW)
OLD_READY_NOW = pod("old-ready-now", "node", ready=True, since=NOW, created=NOW - MONTH)
CHEAP = pod("cheap", "node", ready=True, since=NOW, created=NOW - MONTH, cost="10")
DEAR = pod("dear", "node", ready=True, since=NOW, created=NOW - MONTH, cost="100")


def ready_for(hours: float) -> Object:
    return pod(f"ready-{hours}", ready=True, since=NOW - hours * HOUR, created=NOW - MONTH)


@pytest.mark.parametrize(
    ("lesser", "greater", "crowds"),
    [
        (UNSCHEDULED, PENDING, (1, 2)),
        (UNSCHEDULED, PENDING, (2, 1)),
        (PENDING, UNKNOWN, (1, 2)),
        (UNKNOWN, NOT_READY, (1, 2)),
        (NOT_READY, READY_NO_TIME, (1, 1)),
        (READY_NO_TIME, READY_NOW, (1, 1)),
        (READY_NOW, READY_NO_TIME, (2, 1)),
        (READY_NOW, READY_THEN, (1, 1)),
        (READY_NOW, READY_THEN, (2, 1)),
        (RESTARTED, READY_NOW, (1, 1)),
        (SIDECAR, RESTARTED, (1, 1)),
        (READY_NOW, RESTARTED, (2, 1)),
        (READY_NOW, OLD_READY_NOW, (1, 1)),
        (OLD_READY_NOW, READY_NOW, (2, 1)),
        (CHEAP, DEAR, (2, 1)),
        (CHEAP, DEAR, (1, 2)),
        (ready_for(2), ready_for(5), (1, 1)),
    ],
    ids=lambda value: value["metadata"]["name"] if isinstance(value, dict) else str(value),
)
def test_what_serves_less_goes_first(
    lesser: Object, greater: Object, crowds: tuple[int, int]
) -> None:
    assert precedes(lesser, greater, crowds)
    assert not precedes(greater, lesser, crowds[::-1])


@pytest.mark.parametrize(
    ("one", "other"),
    [
        *((each, each) for each in (UNSCHEDULED, PENDING, UNKNOWN, NOT_READY, READY_NOW)),
        (
            pod("five", "", "Pending", created=NOW - 5 * HOUR),
            pod("eight", "", "Pending", created=NOW - 8 * HOUR),
        ),
        (ready_for(5), ready_for(8)),
    ],
)
def test_pods_of_about_the_same_age_are_alike(one: Object, other: Object) -> None:
    assert not precedes(one, other)
    assert not precedes(other, one)


def test_between_pods_of_about_the_same_age_the_uid_decides() -> None:
    older, younger = ready_for(8), ready_for(5)
    older["metadata"]["uid"], younger["metadata"]["uid"] = "a", "b"
    assert precedes(older, younger)
    assert not precedes(younger, older)


@pytest.mark.parametrize(
    ("text", "cost"),
    [
        ("0", 0),
        ("10", 10),
        ("-10", -10),
        ("-08", -8),
        ("2147483647", 2147483647),
        ("-2147483648", -2147483648),
        ("+10", 0),
        ("008", 0),
        ("", 0),
        ("ten", 0),
        ("1.5", 0),
        ("2147483648", 0),
        ("-", 0),
        ("1_0", 0),
        ("10\n", 0),
    ],
)
def test_only_a_plain_number_is_a_deletion_cost(text: str, cost: int) -> None:
    assert ranking.deletion_cost(pod("any", cost=text)) == cost
    assert ranking.deletion_cost(pod("none")) == 0


# Choosing.

ON_ONE = pod("on-one", "node-1", ready=True)
ON_TWO = pod("on-two", "node-2", ready=True)


def chosen(pods: list[Object], count: int, related: list[Object] | None = None) -> list[str]:
    near = pods if related is None else related
    return [found["metadata"]["name"] for found in ranking.choose(pods, near, count, NOW)]


def test_when_all_are_to_go_there_is_nothing_to_choose() -> None:
    def related() -> Any:
        raise AssertionError("nobody needs to look at other pods")
        yield

    assert ranking.choose([], related(), 0, NOW) == []
    assert ranking.choose([NOT_READY, ON_ONE], related(), 2, NOW) == [NOT_READY, ON_ONE]


@pytest.mark.parametrize(
    ("pods", "expected"),
    [
        ([ON_ONE, NOT_READY], [NOT_READY]),
        ([PENDING, UNSCHEDULED], [UNSCHEDULED]),
        ([ON_ONE, NOT_READY, NOT_READY], [NOT_READY, NOT_READY]),
        ([NOT_READY, PENDING], [PENDING]),
        ([ON_ONE, ON_TWO, NOT_READY, PENDING, UNSCHEDULED], [UNSCHEDULED, PENDING, NOT_READY]),
    ],
)
def test_the_least_serving_pods_are_chosen(pods: list[Object], expected: list[Object]) -> None:
    names = [found["metadata"]["name"] for found in expected]
    for order in itertools.permutations(pods):
        assert chosen(list(order), len(expected)) == names


def test_a_node_with_more_pods_of_the_application_is_thinned_out_first() -> None:
    assert chosen([ON_ONE, ON_TWO], 1, [ON_ONE, ON_TWO, ON_TWO]) == ["on-two"]
    assert chosen([ON_ONE, ON_TWO], 1, [ON_ONE, ON_ONE, ON_TWO]) == ["on-one"]


def test_pods_that_are_ending_make_no_crowd() -> None:
    ended = pod("ended", "node-1", "Succeeded")
    ending = pod("ending", "node-1", ready=True)
    ending["metadata"]["deletionTimestamp"] = objects.format_time(NOW)
    assert chosen([ON_ONE, ON_TWO], 1, [ON_ONE, ended, ending, ON_TWO, ON_TWO]) == ["on-two"]


def test_ages_are_told_as_multiples_of_the_youngest_ready_pods() -> None:
    young = pod("young", "node", ready=True, created=NOW - 100)
    old = pod("old", "node", ready=True, created=NOW - 250)
    pending = pod("pending", "node", "Pending", created=NOW - 1)
    everyone = [young, old, pending]
    assert ranking.age_ratios(everyone, [pending, old], NOW) == [2.5]
    assert ranking.age_ratios(everyone, [young], NOW) == [1.0]
    assert ranking.age_ratios([pending], [pending], NOW) == []
    assert ranking.age_ratios([READY_NOW], [READY_NOW], NOW) == []
