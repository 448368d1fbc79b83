"""The status of a ReplicaSet: what it says of its pods, and when it has to be written."""

from typing import Any

import pytest

from whipstaff.controllers.replicaset import status
from whipstaff.runtime import objects

Object = dict[str, Any]

NOW = 1_800_000_000.0
PLAIN = {"name": "foo"}
FULL = {"name": "foo", "type": "production"}


def replicaset(
    replicas: int, template: Object, *, least: int = 0, conditions: Any = None, generation: int = 3
) -> Object:
    spec: Object = {
        "replicas": replicas,
        "selector": {"matchLabels": PLAIN},
        "template": {"metadata": {"labels": template}},
    }
    if least:
        spec["minReadySeconds"] = least
    made: Object = {"metadata": {"name": "rs", "generation": generation}, "spec": spec}
    made["status"] = {"replicas": 0, **({"conditions": conditions} if conditions else {})}
    return made


def pod(labels: Object, *, ready: bool = True, since: float | None = NOW) -> Object:
    condition = {"type": "Ready", "status": "True" if ready else "False"}
    if since is not None:
        condition["lastTransitionTime"] = objects.format_time(since)
    return {
        "metadata": {"name": "pod", "labels": labels},
        "status": {"phase": "Running" if ready else "Pending", "conditions": [condition]},
    }


def counts(made: Object, *pods: Object) -> tuple[int, int, int, int]:
    found = status.calculate(made, pods, 0, "", NOW)
    return (
        found["replicas"],
        found["fullyLabeledReplicas"],
        found["readyReplicas"],
        found["availableReplicas"],
    )


@pytest.mark.parametrize(
    ("template", "pods", "expected"),
    [
        (FULL, [pod(FULL)], (1, 1, 1, 1)),
        (FULL, [pod(PLAIN)], (1, 0, 1, 1)),
        (FULL, [pod(FULL), pod(FULL)], (2, 2, 2, 2)),
        (FULL, [pod(PLAIN), pod(PLAIN)], (2, 0, 2, 2)),
        (FULL, [pod(PLAIN), pod(FULL)], (2, 1, 2, 2)),
        (FULL, [pod({**FULL, "more": "labels"})], (1, 1, 1, 1)),
        (FULL, [pod(FULL, ready=False)], (1, 1, 0, 0)),
        (FULL, [pod(FULL, since=None)], (1, 1, 1, 1)),
        (FULL, [], (0, 0, 0, 0)),
    ],
)
def test_pods_are_counted(template: Object, pods: list[Object], expected: Any) -> None:
    assert counts(replicaset(2, template), *pods) == expected


@pytest.mark.parametrize(
    ("since", "available"),
    [(NOW, 0), (NOW - 3599, 0), (NOW - 3600, 1), (NOW - 7200, 1), (None, 0)],
)
def test_a_pod_is_available_once_it_has_been_ready_for_long_enough(
    since: float | None, available: int
) -> None:
    made = replicaset(1, FULL, least=3600)
    assert counts(made, pod(FULL, since=since)) == (1, 1, 1, available)


def test_pods_on_their_way_out_are_counted_apart() -> None:
    made = replicaset(1, FULL)
    assert status.calculate(made, [pod(FULL)], 2, "", NOW)["terminatingReplicas"] == 2
    assert status.calculate(made, [pod(FULL)], 0, "", NOW)["terminatingReplicas"] == 0


# The condition.

OLD_FAILURE = {
    "type": "ReplicaFailure",
    "status": "True",
    "reason": "FailedCreate",
    "message": "the first failure",
    "lastTransitionTime": objects.format_time(NOW - 60),
}
OTHER = {"type": "Other", "status": "True"}


@pytest.mark.parametrize(("active", "reason"), [(1, "FailedCreate"), (3, "FailedDelete")])
def test_a_first_failure_is_told_with_what_failed(active: int, reason: str) -> None:
    pods = [pod(PLAIN)] * active
    found = status.calculate(replicaset(2, PLAIN, conditions=[OTHER]), pods, 0, "no room", NOW)
    failure = {
        "type": "ReplicaFailure",
        "status": "True",
        "reason": reason,
        "message": "no room",
        "lastTransitionTime": objects.format_time(NOW),
    }
    assert found["conditions"] == [OTHER, failure]


def test_a_failure_that_was_told_stays_as_it_was_told() -> None:
    made = replicaset(10, PLAIN, conditions=[OLD_FAILURE])
    found = status.calculate(made, [pod(PLAIN)], 0, "another failure", NOW)
    assert found["conditions"] == [OLD_FAILURE]


def test_a_failure_that_is_over_is_taken_back() -> None:
    alone = replicaset(10, PLAIN, conditions=[OLD_FAILURE])
    assert "conditions" not in status.calculate(alone, [pod(PLAIN)], 0, "", NOW)
    beside = replicaset(10, PLAIN, conditions=[OTHER, OLD_FAILURE])
    assert status.calculate(beside, [pod(PLAIN)], 0, "", NOW)["conditions"] == [OTHER]


def test_where_nothing_failed_no_condition_appears() -> None:
    assert "conditions" not in status.calculate(replicaset(2, PLAIN), [pod(PLAIN)], 0, "", NOW)


def test_the_object_that_is_looked_at_is_not_changed() -> None:
    made = replicaset(2, PLAIN, conditions=[OTHER])
    status.calculate(made, [pod(PLAIN)], 0, "no room", NOW)
    assert made["status"] == {"replicas": 0, "conditions": [OTHER]}


# When it is written.


def test_a_status_that_says_the_same_is_not_written_again() -> None:
    made = replicaset(2, FULL)
    written = status.calculate(made, [pod(FULL)], 0, "", NOW)
    assert status.differs(made, written)
    made["status"] = written
    assert not status.differs(made, status.calculate(made, [pod(FULL)], 0, "", NOW + 60))


def test_zeros_that_the_api_leaves_out_are_no_difference() -> None:
    made = replicaset(0, FULL)
    made["status"] = {"replicas": 0, "terminatingReplicas": 0, "observedGeneration": 3}
    assert not status.differs(made, status.calculate(made, [], 0, "", NOW))


@pytest.mark.parametrize(
    "change",
    [
        {"replicas": 2},
        {"fullyLabeledReplicas": 0},
        {"readyReplicas": 0},
        {"availableReplicas": 0},
        {"terminatingReplicas": 1},
        {"terminatingReplicas": None},
        {"observedGeneration": 2},
        {"conditions": [OTHER]},
    ],
    ids=str,
)
def test_whatever_changed_is_written(change: Object) -> None:
    made = replicaset(2, FULL)
    now = status.calculate(made, [pod(FULL)], 0, "", NOW)
    assert status.differs({**made, "status": {**now, **change}}, now)


# When to look again.


@pytest.mark.parametrize(
    ("pods", "least", "expected"),
    [
        ([], 0, None),
        ([pod(PLAIN, ready=False)], 10, None),
        ([pod(PLAIN)], 0, None),
        ([pod(PLAIN, since=None)], 1, None),
        ([pod(PLAIN)], 1, 1.0),
        ([pod(PLAIN, since=NOW - 20)], 30, 10.0),
        ([pod(PLAIN, since=NOW - 51)], 50, None),
        ([pod(PLAIN, since=NOW - 5), pod(PLAIN, since=NOW - 20), pod(PLAIN)], 30, 10.0),
        ([pod(PLAIN, since=NOW - 40), pod(PLAIN, since=NOW - 20)], 30, 10.0),
    ],
)
def test_the_next_pod_to_become_available_says_when_to_look_again(
    pods: list[Object], least: int, expected: float | None
) -> None:
    assert status.next_check(pods, least, NOW) == expected
