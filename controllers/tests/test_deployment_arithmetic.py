"""How large the ReplicaSets of a Deployment may be and should become."""

import copy
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from whipstaff.controllers.deployment import arithmetic, revisions

Object = dict[str, Any]
Amount = int | str


def deployment(
    replicas: int = 10,
    surge: Amount | None = 0,
    unavailable: Amount | None = 0,
    *,
    kind: str = "RollingUpdate",
    reported: int = 0,
) -> Object:
    limits = {"maxSurge": surge, "maxUnavailable": unavailable}
    rolling = {name: value for name, value in limits.items() if value is not None}
    strategy: Object = {"type": kind}
    if kind == "RollingUpdate":
        strategy["rollingUpdate"] = rolling
    return {
        "metadata": {"name": "web"},
        "spec": {"replicas": replicas, "strategy": strategy},
        "status": {"replicas": reported} if reported else {},
    }


def replicaset(
    name: str,
    size: int,
    available: int | None = None,
    *,
    minute: int = 0,
    noted: tuple[int, int] | None = None,
) -> Object:
    annotations: dict[str, str] = {}
    if noted:
        revisions.set_replicas(annotations, *noted)
    created = f"2026-01-01T00:{minute:02}:00Z"
    return {
        "metadata": {"name": name, "creationTimestamp": created, "annotations": annotations},
        "spec": {"replicas": size},
        "status": {"availableReplicas": size if available is None else available},
    }


# What a rolling update may do.


@pytest.mark.parametrize(
    ("surge", "unavailable", "replicas", "expected"),
    [
        ("0%", "0%", 0, (0, 1)),
        ("39%", "39%", 10, (4, 3)),
        (None, "39%", 10, (0, 3)),
        ("39%", None, 10, (4, 0)),
        (None, None, 10, (0, 1)),
        (0, 0, 10, (0, 1)),
        ("25%", "25%", 1, (1, 0)),
        ("25%", "25%", 3, (1, 0)),
        ("25%", "25%", 4, (1, 1)),
        ("25%", "25%", 10, (3, 2)),
        ("0%", "1%", 2, (0, 1)),
        ("1%", "25%", 2, (1, 0)),
        ("100%", 0, 7, (7, 0)),
        ("29%", 0, 100, (29, 0)),
        (0, "29%", 100, (0, 29)),
        (5, 2, 3, (5, 2)),
    ],
)
def test_percentages_round_in_favour_of_availability_and_something_always_moves(
    surge: Amount | None, unavailable: Amount | None, replicas: int, expected: tuple[int, int]
) -> None:
    assert arithmetic.fenceposts(deployment(replicas, surge, unavailable)) == expected


@pytest.mark.parametrize(
    ("surge", "unavailable"),
    [("oops", "39%"), ("55%", "urg"), ("5", 0), ("-5%", 0), ("%", 0), ("1.5%", 0), ("\u0665%", 0)],
)
def test_what_is_neither_a_number_nor_a_percentage_is_refused(
    surge: Amount, unavailable: Amount
) -> None:
    with pytest.raises(ValueError, match="is neither a number nor a percentage"):
        arithmetic.fenceposts(deployment(10, surge, unavailable))


@pytest.mark.parametrize(
    ("replicas", "unavailable", "expected"),
    [
        (10, 5, 5),
        (10, 10, 10),
        (5, 10, 5),
        (0, 10, 0),
        (10, "50%", 5),
        (10, "60%", 6),
        (10, "100%", 10),
        (5, "100%", 5),
    ],
)
def test_no_more_pods_can_be_unavailable_than_there_are(
    replicas: int, unavailable: Amount, expected: int
) -> None:
    assert arithmetic.max_unavailable(deployment(replicas, 1, unavailable)) == expected


def test_only_rolling_updates_have_more_or_fewer_pods_than_asked_for() -> None:
    recreated = deployment(10, kind="Recreate")
    assert arithmetic.max_unavailable(recreated) == arithmetic.max_surge(recreated) == 0
    assert not arithmetic.is_rolling(recreated)
    assert arithmetic.max_surge(deployment(0, 3)) == 3
    assert arithmetic.max_surge(deployment(10, "21%")) == 3


# The newest ReplicaSet.


@pytest.mark.parametrize(
    ("replicas", "surge", "old", "new", "expected"),
    [
        (10, 0, 10, 0, 0),
        (10, 2, 10, 0, 2),
        (10, 2, 5, 0, 7),
        (10, 2, 10, 2, 2),
        (10, 2, 2, 8, 10),
        (10, 2, 30, 4, 4),
        (6, 10, 3, 2, 6),
    ],
)
def test_the_newest_grows_as_far_as_the_others_leave_room(
    replicas: int, surge: int, old: int, new: int, expected: int
) -> None:
    newest = replicaset("new", new)
    every = [replicaset("old", old), newest]
    assert arithmetic.new_size(deployment(replicas, surge, 1), every, newest) == expected


def test_without_a_rolling_update_the_newest_gets_its_size_at_once() -> None:
    newest = replicaset("new", 1)
    every = [replicaset("old", 5), newest]
    assert arithmetic.new_size(deployment(3, kind="Recreate"), every, newest) == 3


@given(st.integers(0, 50), st.integers(0, 20), st.lists(st.integers(0, 50)), st.integers(0, 50))
def test_the_newest_never_makes_more_pods_than_the_surge_allows(
    replicas: int, surge: int, others: list[int], has: int
) -> None:
    newest = replicaset("new", has)
    every = [*(replicaset(f"old-{i}", size) for i, size in enumerate(others)), newest]
    size = arithmetic.new_size(deployment(replicas, surge, 1), every, newest)
    assert size <= max(has, replicas)
    assert sum(others) + size <= max(sum(others) + has, replicas + surge)


# The old ReplicaSets of a rolling update.


@pytest.mark.parametrize(
    ("unavailable", "old", "old_available", "new", "expected"),
    [
        (0, 10, 10, 0, 9),
        (2, 10, 10, 0, 8),
        (2, 10, 8, 0, 8),
        (2, 10, 9, 0, 8),
        (2, 8, 8, 2, 8),
        (2, 10, 1, 0, 8),
        (2, 0, 10, 0, 0),
    ],
    ids=[
        "one at least",
        "as many as may be missing",
        "those that aren't available",
        "one that isn't and one that is",
        "not in place of the newest's unavailable ones",
        "unavailable ones, but no more than may go",
        "nothing left",
    ],
)
def test_old_pods_go_as_far_as_availability_allows(
    unavailable: int, old: int, old_available: int, new: int, expected: int
) -> None:
    made = deployment(10, 0, unavailable)
    sizes = arithmetic.old_sizes(
        made, [replicaset("old", old, old_available)], replicaset("new", new, 0)
    )
    assert sizes == ({"old": expected} if expected != old else {})


@pytest.mark.parametrize(
    ("available", "budget", "expected"), [(8, 1, 9), (8, 3, 7), (8, 0, 10), (10, 3, 7)]
)
def test_unavailable_old_pods_are_the_first_to_go(
    available: int, budget: int, expected: int
) -> None:
    made = deployment(10 - budget, 5, 0)
    old = [replicaset("old", 10, available)]
    sizes = arithmetic.old_sizes(made, old, replicaset("new", 0))
    assert sizes.get("old", 10) == expected


def test_the_oldest_are_the_first_to_go_but_unavailable_pods_of_younger_ones_before() -> None:
    made, new = deployment(10, 5, 3), replicaset("new", 2)
    old = [
        replicaset("younger", 4, 2, minute=2),
        replicaset("oldest", 4, 4, minute=1),
        replicaset("empty", 0, minute=0),
    ]
    assert arithmetic.old_sizes(made, old, new) == {"oldest": 3, "younger": 2}


def test_crashing_new_pods_do_not_cost_the_old_ones() -> None:
    made = deployment(10, 3, 2)
    old, new = replicaset("old", 8, 7), replicaset("new", 5, 0)
    assert arithmetic.old_sizes(made, [old], new) == {}
    assert arithmetic.old_sizes(made, [new], old) == {"new": 1}
    after = [replicaset("new", 1, 0), old]
    assert arithmetic.new_size(made, after, old) == 10
    third = replicaset("third", 0)
    younger = replicaset("new", 5, 0, minute=1)
    assert arithmetic.old_sizes(made, [old, younger], third) == {"old": 7, "new": 1}


def test_pods_that_are_on_their_way_out_are_not_counted_as_available() -> None:
    # Both were scaled down just now, and still report the pods that they had.
    made = deployment(10, 3, 0)
    old, new = replicaset("old", 8, 10), replicaset("new", 5, 3)
    assert arithmetic.old_sizes(made, [old], new) == {"old": 7}
    made = deployment(6, 0, 1)
    old, new = replicaset("old", 3, 3), replicaset("new", 3, 5)
    assert arithmetic.old_sizes(made, [old], new) == {"old": 2}


@pytest.mark.parametrize("behind", ["old", "new"])
def test_a_size_that_went_down_and_up_again_unseen_is_waited_for(behind: str) -> None:
    # Four were available before it was scaled to nothing, and then to four again.
    made = deployment(4, 1, 1)
    pair = {"old": replicaset("old", 4, 4), "new": replicaset("new", 4, 4)}
    for each in pair.values():
        each["metadata"]["generation"] = 5
        each["status"]["observedGeneration"] = 4
    assert arithmetic.old_sizes(made, [pair["old"]], pair["new"])
    pair[behind]["status"]["observedGeneration"] = 3
    assert arithmetic.old_sizes(made, [pair["old"]], pair["new"]) == {}


counts = st.tuples(st.integers(0, 15), st.integers(0, 15))


@given(
    st.integers(0, 30),
    st.integers(0, 10),
    st.integers(0, 10),
    st.lists(counts, max_size=5),
    counts,
)
def test_scaling_down_never_goes_below_the_pods_that_must_be_available(
    replicas: int,
    surge: int,
    unavailable: int,
    old: list[tuple[int, int]],
    new: tuple[int, int],
) -> None:
    made = deployment(replicas, surge, unavailable)
    olds = [replicaset(f"old-{i}", *each, minute=i) for i, each in enumerate(old)]
    newest = replicaset("new", *new)
    before = copy.deepcopy((made, olds, newest))
    sizes = arithmetic.old_sizes(made, olds, newest)
    assert (made, olds, newest) == before
    least = replicas - arithmetic.max_unavailable(made)
    staying = remaining = min(new)
    for each, (size, available) in zip(olds, old, strict=True):
        after = sizes.get(each["metadata"]["name"], size)
        assert 0 <= after <= size
        staying += min(size, available)
        remaining += min(after, available)
    assert remaining >= min(least, staying)
    if staying > least and any(size for size, _ in old):
        assert sizes


# In proportion.


@pytest.mark.parametrize(
    ("replicas", "surge", "size", "maximum", "reported", "expected"),
    [
        (0, 0, 10, None, 0, -10),
        (10, 0, 5, None, 0, 0),
        (10, 0, 5, 0, 0, 0),
        (120, 0, 50, None, 100, 10),
        (120, 0, 50, 0, 100, 10),
        (120, 0, 50, 100, 0, 10),
        (120, 10, 50, 110, 0, 9),
        (10, 0, 6, 12, 0, -1),
        (100, 10, 50, 130, 0, -8),
        (10, 0, 1, 4, 0, 2),
        (6, 0, 1, 4, 0, 1),
        (2, 0, 5, 4, 0, -2),
        (2**30, 0, 2**30, 2**31 - 1, 0, -(2**29)),
    ],
    ids=[
        "to nothing",
        "nothing known",
        "nothing noted",
        "known from the status",
        "noted wrongly",
        "a fifth more",
        "a fifth more and the surge",
        "a sixth less",
        "a sixth less and the surge",
        "two and a half",
        "one and a half",
        "half of five",
        "beyond 32 bits",
    ],
)
def test_a_replicaset_changes_as_its_deployment_does(
    replicas: int, surge: int, size: int, maximum: int | None, reported: int, expected: int
) -> None:
    made = deployment(replicas, surge, 1, reported=reported)
    child = replicaset("it", size)
    if maximum is not None:
        child["metadata"]["annotations"][revisions.MAXIMUM] = str(maximum)
    assert arithmetic._fraction(made, child) == expected


def sized(made: Object, *sizes: int, before: tuple[int, int]) -> list[int]:
    """The sizes that ReplicaSets, from old to new, become."""
    every = [replicaset(f"{i}", size, minute=i, noted=before) for i, size in enumerate(sizes)]
    found = arithmetic.proportional_sizes(made, every)
    return [found.get(f"{i}", size) for i, size in enumerate(sizes)]


def test_8_and_5_become_20_and_13_as_upstreams_e2e_test_wants() -> None:
    assert sized(deployment(30, 3, 2), 8, 5, before=(10, 13)) == [20, 13]


def test_100_and_20_become_117_and_23_as_upstreams_integration_test_wants() -> None:
    assert sized(deployment(120, 20, 1), 100, 20, before=(100, 120)) == [117, 23]


def test_sizes_that_fit_stay() -> None:
    assert sized(deployment(10, 3, 2), 8, 5, before=(10, 13)) == [8, 5]


replicasets = st.lists(st.integers(0, 40), min_size=1, max_size=6)


@given(st.integers(0, 200), st.integers(0, 20), replicasets, st.integers(0, 250))
def test_sizes_in_proportion_add_up_to_what_is_allowed(
    replicas: int, surge: int, sizes: list[int], maximum: int
) -> None:
    made = deployment(replicas, surge, 1)
    allowed = replicas + surge if replicas else 0
    after = sized(made, *sizes, before=(maximum, maximum))
    assert all(size >= 0 for size in after)
    assert all(now == 0 for now, was in zip(after, sizes, strict=True) if was == 0)
    changes = list(zip(after, sizes, strict=True))
    if not any(sizes):
        return
    if allowed > sum(sizes):
        assert sum(after) == allowed
        assert maximum > allowed or all(now >= was for now, was in changes)
    else:
        # Where many are rounded up, the largest can't make up for all of it.
        assert sum(after) == allowed or (sum(after) > allowed and after[_largest(sizes)] == 0)
        assert maximum < allowed or all(now <= was for now, was in changes)


def _largest(sizes: list[int]) -> int:
    """The largest; of several the oldest."""
    return sizes.index(max(sizes))


# Saturation.


@pytest.mark.parametrize(
    ("size", "available", "noted", "expected"),
    [
        (10, 10, (10, 13), True),
        (10, 9, (10, 13), False),
        (9, 10, (10, 13), False),
        (10, 10, (5, 8), False),
        (10, 10, None, False),
    ],
    ids=["all there", "one isn't available", "too small", "noted of another size", "not noted"],
)
def test_the_newest_is_saturated_with_all_pods_available(
    size: int, available: int, noted: tuple[int, int] | None, *, expected: bool
) -> None:
    newest = replicaset("new", size, available, noted=noted)
    assert arithmetic.is_saturated(deployment(10, 3, 2), newest) == expected
    assert not arithmetic.is_saturated(deployment(10, 3, 2), None)


# Order and sums.


def test_replicasets_are_ordered_by_their_age_then_by_name() -> None:
    made = [
        replicaset("b", 1, minute=2),
        replicaset("a", 1, minute=2),
        replicaset("c", 1, minute=1),
    ]
    names = [each["metadata"]["name"] for each in sorted(made, key=arithmetic.age_key)]
    assert names == ["c", "a", "b"]


def test_what_asks_for_no_number_asks_for_one_pod_and_what_reports_nothing_has_none() -> None:
    assert arithmetic.replicas({"spec": {}}) == 1
    assert arithmetic.total([{"spec": {}}, {"spec": {"replicas": 3}}]) == 4
    assert arithmetic.counted({"spec": {}}, "replicas") == 0
    assert arithmetic.counted({"status": {"replicas": None}}, "replicas") == 0
    assert arithmetic.active([replicaset("none", 0), replicaset("one", 1)]) == [
        replicaset("one", 1)
    ]
