"""What is to be done for a ReplicaSet, and in which portions."""

import asyncio
import itertools
from typing import Any

import pytest

from whipstaff.controllers.replicaset import controller, reconciler
from whipstaff.runtime import selectors

Object = dict[str, Any]

NOW = 1_800_000_000.0


def replicaset(replicas: int, name: str = "rs", **metadata: Any) -> Object:
    return {
        "apiVersion": "apps/v1",
        "kind": "ReplicaSet",
        "metadata": {"name": name, "namespace": "default", "uid": "mine", **metadata},
        "spec": {
            "replicas": replicas,
            "template": {
                "metadata": {"labels": {"app": "web"}, "annotations": {"note": "kept"}},
                "spec": {"containers": [{"name": "main", "image": "web:1"}]},
            },
        },
    }


def pods(count: int, phase: str = "Running") -> list[Object]:
    return [
        {"metadata": {"name": f"pod-{number}", "uid": f"{number}"}, "status": {"phase": phase}}
        for number in range(count)
    ]


def actions(replicas: int, active: int, **more: Any) -> tuple[int, int]:
    observed = reconciler.Observed(replicaset(replicas, **more), pods(active), (), NOW)
    found = reconciler.reconcile(observed)
    return found.create, len(found.delete)


@pytest.mark.parametrize(
    ("replicas", "active", "expected"),
    [
        (2, 2, (0, 0)),
        (2, 0, (2, 0)),
        (0, 2, (0, 2)),
        (3, 5, (0, 2)),
        (2000, 0, (500, 0)),
        (2000, 1999, (1, 0)),
        (0, 2000, (0, 500)),
    ],
)
def test_pods_are_created_or_deleted_500_at_a_time(
    replicas: int, active: int, expected: tuple[int, int]
) -> None:
    assert actions(replicas, active) == expected


def test_a_replicaset_that_is_being_deleted_is_left_to_the_garbage_collector() -> None:
    leaving = {"deletionTimestamp": "2026-01-01T00:00:00Z"}
    assert actions(5, 2, **leaving) == (0, 0)
    assert actions(1, 2, **leaving) == (0, 0)


def test_the_least_serving_pod_is_deleted() -> None:
    running, pending = pods(1), pods(1, "Pending")
    observed = reconciler.Observed(replicaset(1), running + pending, (), NOW)
    assert reconciler.reconcile(observed).delete == pending


def test_a_pod_is_what_the_template_says_and_belongs_to_the_replicaset() -> None:
    owner = {
        "apiVersion": "apps/v1",
        "kind": "ReplicaSet",
        "name": "rs",
        "uid": "mine",
        "controller": True,
        "blockOwnerDeletion": True,
    }
    made = replicaset(1)
    pod = reconciler.pod_of(made)
    assert pod == {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {
            "generateName": "rs-",
            "labels": {"app": "web"},
            "annotations": {"note": "kept"},
            "ownerReferences": [owner],
        },
        "spec": {"containers": [{"name": "main", "image": "web:1"}]},
    }
    pod["spec"]["containers"].clear()
    assert made == replicaset(1)


def test_a_name_that_leaves_no_room_for_a_dash_is_the_prefix_itself() -> None:
    longest = "a" * 253
    assert reconciler.pod_of(replicaset(1, longest))["metadata"]["generateName"] == longest
    assert reconciler.pod_of(replicaset(1, longest[1:]))["metadata"]["generateName"][-1] == "-"


def test_only_own_selected_pods_that_are_still_ending_count_as_terminating() -> None:
    made = replicaset(1)
    leaving = {"deletionTimestamp": "2026-01-01T00:00:00Z", "labels": {"app": "web"}}
    mine = {"ownerReferences": [{"uid": "mine", "controller": True}]}
    ending = {"metadata": {**leaving, **mine}, "status": {"phase": "Running"}}
    others = [
        {"metadata": leaving, "status": {"phase": "Running"}},
        {"metadata": {**leaving, **mine}, "status": {"phase": "Failed"}},
        {"metadata": {**mine, "labels": {"app": "web"}}, "status": {"phase": "Running"}},
        {"metadata": {**leaving, **mine, "labels": {}}, "status": {"phase": "Running"}},
    ]
    selector = selectors.from_labels({"app": "web"})
    assert list(reconciler.terminating(made, [ending, *others], selector)) == [ending]


# Slow start.


class Flaky:
    """Succeeds so many times, then fails; remembers how many ran at once."""

    def __init__(self, limit: int) -> None:
        self.limit = limit
        self.calls = 0
        self.batches: list[int] = []
        self._running = 0

    async def __call__(self) -> None:
        self.calls += 1
        if self._running == 0:
            self.batches.append(0)
        self._running += 1
        self.batches[-1] += 1
        fails = self.calls > self.limit
        await asyncio.sleep(0)
        self._running -= 1
        if fails:
            raise ValueError("no more")


@pytest.mark.parametrize(
    ("limit", "successes", "batches"),
    [(0, 0, [1]), (10, 10, [1, 2, 4, 3]), (5, 5, [1, 2, 4])],
    ids=["all fail", "all succeed", "some succeed"],
)
async def test_more_is_tried_at_once_as_long_as_all_goes_well(
    limit: int, successes: int, batches: list[int]
) -> None:
    flaky = Flaky(limit)
    found, problem = await controller.slow_start(10, flaky)
    assert found == successes
    assert flaky.batches == batches
    assert isinstance(problem, ValueError) is (limit < 10)


async def test_nothing_to_do_is_done_at_once() -> None:
    flaky = Flaky(0)
    assert await controller.slow_start(0, flaky) == (0, None)
    assert flaky.calls == 0


@pytest.mark.parametrize("count", [1, 2, 3, 7, 8, 100, 500])
def test_batches_add_up_and_at_most_double(count: int) -> None:
    sizes = list(reconciler.batches(count))
    assert sum(sizes) == count
    assert all(after <= 2 * before for before, after in itertools.pairwise(sizes))
