"""What a Deployment says of itself: counts, conditions, progress and its deadline."""

import copy
from typing import Any

import pytest

from whipstaff.controllers.deployment import status
from whipstaff.runtime import objects

Object = dict[str, Any]

PROGRESSING, AVAILABLE, FAILURE = status.PROGRESSING, status.AVAILABLE, status.FAILURE
THEN = "2017-02-15T18:49:00Z"
SINCE = objects.parse_time(THEN)
NOW = SINCE + 3600
FOREVER = 2**31 - 1
MINIMUM = ("True", "MinimumReplicasAvailable", "Deployment has minimum availability.")
NO_MINIMUM = (
    "False",
    "MinimumReplicasUnavailable",
    "Deployment does not have minimum availability.",
)


def condition(
    value: str, reason: str, kind: str = PROGRESSING, at: str | None = THEN, message: str = ""
) -> Object:
    times = {"lastUpdateTime": at, "lastTransitionTime": at}
    return {"type": kind, "status": value, **times, "reason": reason, "message": message}


UPDATED = condition("True", status.UPDATED)
COMPLETE = condition("True", status.COMPLETE)
TIMED_OUT = condition("False", status.TIMED_OUT)


def counts(replicas: int = 0, updated: int = 0, ready: int = 0, available: int = 0) -> Object:
    return {
        "replicas": replicas,
        "updatedReplicas": updated,
        "readyReplicas": ready,
        "availableReplicas": available,
    }


def deployment(
    replicas: int,
    found: Object | None = None,
    *conditions: Object,
    deadline: int | None = 60,
    generation: int = 0,
    strategy: Object | None = None,
) -> Object:
    made: Object = {
        "metadata": {"name": "web", "generation": generation},
        "spec": {"replicas": replicas, "strategy": strategy or {"type": "Recreate"}},
        "status": {**(found or {}), "conditions": list(conditions)},
    }
    if deadline is not None:
        made["spec"]["progressDeadlineSeconds"] = deadline
    return made


def replicaset(name: str, size: int, reported: int, available: int, **more: Any) -> Object:
    found = {"replicas": reported, "availableReplicas": available, **more}
    return {"metadata": {"name": name}, "spec": {"replicas": size}, "status": found}


def rolled_out(
    made: Object, others: list[Object], new: Object | None, now: float = NOW
) -> tuple[Object, Object | None]:
    every = [*others, *([new] if new else [])]
    before = copy.deepcopy((made, every))
    found = status.rolled_out(made, every, new, now)
    assert (made, every) == before
    return found, status.condition(found, PROGRESSING)


# Conditions.


def test_a_condition_is_found_set_and_taken_away() -> None:
    empty: Object = {}
    said = status.Statement(AVAILABLE, "True", "Awesome", "It is.")
    once = status.stated(empty, said, SINCE)
    assert empty == {}
    assert once == {
        "conditions": [condition("True", "Awesome", AVAILABLE, message="It is.")],
    }
    assert status.condition(once, AVAILABLE) is once["conditions"][0]
    assert status.condition(once, FAILURE) is None
    assert status.without(once, FAILURE) == once
    assert status.without(once, AVAILABLE) == {}
    assert status.without({"replicas": 1, **once}, AVAILABLE) == {"replicas": 1}
    assert status.without(empty, AVAILABLE) == {}


def test_a_condition_that_says_the_same_again_is_left_alone() -> None:
    before = {"conditions": [condition("True", "Awesome", message="old")]}
    said = status.Statement(PROGRESSING, "True", "Awesome", "new")
    assert status.stated(before, said, NOW) == before


def test_a_condition_with_another_reason_moved_no_transition() -> None:
    before = {"conditions": [condition("True", "Awesome"), condition("True", "B", AVAILABLE)]}
    found = status.stated(before, status.Statement(PROGRESSING, "True", "Other", "m"), NOW)
    now = objects.format_time(NOW)
    assert found["conditions"] == [
        condition("True", "B", AVAILABLE),
        {**condition("True", "Other", at=now, message="m"), "lastTransitionTime": THEN},
    ]


def test_a_condition_with_another_status_has_all_times_new() -> None:
    before = {"conditions": [condition("False", "Awesome")]}
    found = status.stated(before, status.Statement(PROGRESSING, "True", "Awesome", ""), NOW)
    assert found["conditions"] == [condition("True", "Awesome", at=objects.format_time(NOW))]


# Counts.


def test_counts_are_what_the_replicasets_report() -> None:
    new = replicaset("new", 3, 2, 1, readyReplicas=2, terminatingReplicas=0, observedGeneration=1)
    old = replicaset("old", 4, 5, 3, readyReplicas=4, terminatingReplicas=2, observedGeneration=1)
    made = deployment(6, {"collisionCount": 2, "replicas": 99}, generation=7)
    found = status.calculated(made, [old, new], new, SINCE)
    assert found == {
        "observedGeneration": 7,
        "replicas": 7,
        "updatedReplicas": 2,
        "readyReplicas": 6,
        "availableReplicas": 4,
        "unavailableReplicas": 3,
        "terminatingReplicas": 2,
        "collisionCount": 2,
        "conditions": [condition(*NO_MINIMUM[:2], AVAILABLE, message=NO_MINIMUM[2])],
    }


def test_more_available_pods_than_asked_for_are_no_negative_number_of_unavailable_ones() -> None:
    new = replicaset("new", 1, 3, 3)
    found = status.calculated(deployment(1), [new], new, NOW)
    assert "unavailableReplicas" not in found
    assert "updatedReplicas" not in status.calculated(deployment(1), [new], None, NOW)


def reporting(size: int, reported: int, ending: int | None, seen: int = 0) -> Object:
    more: Object = {"observedGeneration": seen}
    if ending is not None:
        more["terminatingReplicas"] = ending
    return replicaset("it", size, reported, 0, **more)


SYNCED = reporting(1, 2, 3, seen=1)
TWIN = reporting(2, 3, 1)
UNSYNCED = reporting(3, 0, None)
SILENT = reporting(1, 1, None, seen=1)


@pytest.mark.parametrize(
    ("every", "replicas", "ending"),
    [
        ([], 0, 0),
        ([SYNCED], 2, 3),
        ([SYNCED, TWIN], 5, 4),
        ([UNSYNCED], 0, 0),
        ([SYNCED, TWIN, UNSYNCED], 5, 4),
        ([SILENT], 1, None),
        ([SYNCED, TWIN, UNSYNCED, SILENT], 6, None),
    ],
)
def test_terminating_pods_are_told_when_every_replicaset_tells_them(
    every: list[Object], replicas: int, ending: int | None
) -> None:
    found = status.calculated(deployment(1), every, None, NOW)
    assert found.get("replicas", 0) == replicas
    assert found.get("terminatingReplicas") == ending


@pytest.mark.parametrize(
    ("strategy", "available", "expected"),
    [
        ({"type": "Recreate"}, 10, MINIMUM),
        ({"type": "Recreate"}, 9, NO_MINIMUM),
        ({"type": "RollingUpdate", "rollingUpdate": {"maxUnavailable": 2}}, 8, MINIMUM),
        ({"type": "RollingUpdate", "rollingUpdate": {"maxUnavailable": 2}}, 7, NO_MINIMUM),
        ({"type": "RollingUpdate", "rollingUpdate": {"maxUnavailable": "25%"}}, 8, MINIMUM),
        ({"type": "RollingUpdate", "rollingUpdate": {"maxUnavailable": "100%"}}, 0, MINIMUM),
    ],
)
def test_a_deployment_is_available_while_no_more_than_allowed_is_missing(
    strategy: Object, available: int, expected: tuple[str, str, str]
) -> None:
    new = replicaset("new", 10, 10, available)
    found = status.calculated(deployment(10, strategy=strategy), [new], new, NOW)
    said = status.condition(found, AVAILABLE)
    assert said is not None
    assert (said["status"], said["reason"], said["message"]) == expected


def test_a_deployment_without_pods_is_available() -> None:
    found = status.calculated(deployment(0), [], None, NOW)
    assert status.condition(found, AVAILABLE) is not None
    assert found["conditions"][0]["status"] == "True"


@pytest.mark.parametrize(
    ("old", "new", "expected"),
    [
        ({}, {}, False),
        ({"replicas": 0, "conditions": []}, {}, False),
        ({"conditions": None}, {}, False),
        ({}, {"terminatingReplicas": 0}, True),
        ({"replicas": 1}, {}, True),
        ({"replicas": 1}, {"replicas": 2}, True),
        ({"conditions": [UPDATED]}, {"conditions": [COMPLETE]}, True),
        ({"collisionCount": 1}, {"collisionCount": 2}, True),
    ],
)
def test_a_status_is_written_only_if_it_says_something_else(
    old: Object, new: Object, *, expected: bool
) -> None:
    assert status.differs(old, new) == expected
    assert status.differs(new, old) == expected


# Completion and progress.


@pytest.mark.parametrize(
    ("wanted", "found", "expected"),
    [
        (5, counts(5, 5, 0, 4), False),
        (5, counts(5, 5, 0, 3), False),
        (5, counts(5, 5, 0, 5), True),
        (5, counts(5, 4, 0, 5), False),
        (1, counts(2, 1, 0, 1), False),
        (1, counts(1, 1, 0, 0), False),
        (0, {}, True),
    ],
)
def test_a_rollout_is_complete_when_all_pods_are_new_and_available(
    wanted: int, found: Object, *, expected: bool
) -> None:
    assert status.is_complete(deployment(wanted), found) == expected


def test_a_rollout_is_not_complete_before_the_newest_generation_was_seen() -> None:
    made, found = deployment(5, generation=3), counts(5, 5, 5, 5)
    assert not status.is_complete(made, {**found, "observedGeneration": 2})
    assert status.is_complete(made, {**found, "observedGeneration": 3})


@pytest.mark.parametrize(
    ("before", "after", "expected"),
    [
        (counts(10, 4, 4, 4), counts(10, 6, 4, 4), True),
        (counts(10, 4, 4, 4), counts(10, 4, 4, 4), False),
        (counts(10, 4, 6, 6), counts(8, 4, 6, 6), True),
        (counts(10, 7, 3, 3), counts(10, 6, 3, 3), False),
        (counts(10, 4, 7, 7), counts(8, 8, 5, 5), True),
        (counts(10, 10, 9, 8), counts(10, 10, 10, 8), True),
        (counts(10, 10, 10, 9), counts(10, 10, 10, 10), True),
    ],
    ids=[
        "new pods",
        "nothing",
        "old pods gone",
        "fewer new pods",
        "fewer pods, but more new ones",
        "ready pods",
        "available pods",
    ],
)
def test_progress_is_more_of_what_is_wanted_or_less_of_what_is_not(
    before: Object, after: Object, *, expected: bool
) -> None:
    assert status._made_progress(deployment(10, before), after) == expected


@pytest.mark.parametrize(
    ("deadline", "started", "reason", "expected"),
    [
        (10, 11, "", True),
        (10, 9, "", False),
        (10, 10, "", False),
        (10, 11, status.COMPLETE, False),
        (10, 0, status.TIMED_OUT, True),
        (10, 11, status.RESUMED, True),
        (10, 11, status.CREATE_ERROR, True),
    ],
)
def test_a_deadline_is_over_when_nothing_has_moved_for_longer(
    deadline: int, started: int, reason: str, *, expected: bool
) -> None:
    made = deployment(3, deadline=deadline)
    found = {"conditions": [condition("True", reason)]}
    assert status._timed_out(made, found, SINCE + started) == expected
    assert not status._timed_out(made, {}, SINCE + started)


@pytest.mark.parametrize(
    ("deadline", "expected"), [(None, False), (FOREVER, False), (60, True), (1, True)]
)
def test_progress_is_watched_where_there_is_a_deadline(
    deadline: int | None, *, expected: bool
) -> None:
    made = deployment(3, counts(2, 2, 0, 2), UPDATED, deadline=deadline)
    assert status.has_deadline(made) == expected
    _, said = rolled_out(made, [], replicaset("foo", 3, 2, 2))
    assert (said is not None) == expected


BAR, FOO = replicaset("bar", 0, 1, 1), replicaset("foo", 3, 2, 2)
ALL, THREE = replicaset("foo", 3, 3, 3), counts(3, 3, 0, 3)
TWO = counts(2, 2, 0, 2)


@pytest.mark.parametrize(
    ("made", "others", "new", "expected"),
    [
        (
            deployment(3, THREE, COMPLETE),
            [replicaset("bar", 3, 3, 3)],
            None,
            ("True", status.COMPLETE, THEN, THEN),
        ),
        (deployment(3, TWO, UPDATED), [BAR], FOO, ("True", status.UPDATED, "now", THEN)),
        (deployment(3, TWO, TIMED_OUT), [BAR], FOO, ("True", status.UPDATED, "now", "now")),
        (deployment(3, TWO), [BAR], FOO, ("True", status.UPDATED, "now", "now")),
        (deployment(3, THREE, UPDATED), [], ALL, ("True", status.COMPLETE, "now", THEN)),
        (deployment(3, THREE, TIMED_OUT), [], ALL, ("True", status.COMPLETE, "now", "now")),
        (deployment(3, THREE), [], ALL, ("True", status.COMPLETE, "now", "now")),
        (
            deployment(0, THREE, UPDATED),
            [replicaset("foo", 0, 0, 0)],
            None,
            ("True", status.COMPLETE, "now", THEN),
        ),
        (deployment(3, TWO, UPDATED), [], FOO, ("False", status.TIMED_OUT, "now", "now")),
        (deployment(3, TWO, TIMED_OUT), [], FOO, ("False", status.TIMED_OUT, THEN, THEN)),
    ],
    ids=[
        "a finished rollout isn't watched",
        "progress keeps the transition",
        "progress after a failure is a transition",
        "progress is said for the first time",
        "completion keeps the transition",
        "completion after a failure is a transition",
        "completion is said for the first time",
        "completion without a newest",
        "the deadline is over",
        "the deadline was over before",
    ],
)
def test_the_progress_of_a_rollout(
    made: Object, others: list[Object], new: Object | None, expected: tuple[str, ...]
) -> None:
    _, said = rolled_out(made, others, new)
    assert said is not None
    at = objects.format_time(NOW)
    assert (
        said["status"],
        said["reason"],
        said["lastUpdateTime"].replace(at, "now"),
        said["lastTransitionTime"].replace(at, "now"),
    ) == expected


@pytest.mark.parametrize(
    ("made", "new", "message"),
    [
        (deployment(3, THREE), ALL, 'ReplicaSet "foo" has successfully progressed.'),
        (deployment(3, {}), FOO, 'ReplicaSet "foo" is progressing.'),
        (deployment(3, TWO, UPDATED), FOO, 'ReplicaSet "foo" has timed out progressing.'),
        (deployment(0, {}), None, 'Deployment "web" has successfully progressed.'),
        (deployment(3, counts(2), UPDATED), None, 'Deployment "web" is progressing.'),
        (deployment(3, {}, UPDATED), None, 'Deployment "web" has timed out progressing.'),
    ],
)
def test_messages_name_the_newest_replicaset_or_the_deployment(
    made: Object, new: Object | None, message: str
) -> None:
    _, said = rolled_out(made, [], new)
    assert said is not None
    assert said["message"] == message


@pytest.mark.parametrize(("before", "available"), [(THREE, 0), (counts(3, 3, 0, 1), 2)])
def test_a_finished_rollout_whose_pods_fail_later_says_nothing_and_never_times_out(
    before: Object, available: int
) -> None:
    made = deployment(3, before, COMPLETE)
    found, said = rolled_out(made, [], replicaset("foo", 3, 3, available))
    assert said == COMPLETE
    assert status.next_check({**made, "status": found}, found, NOW) is None


def test_progress_without_a_time_has_timed_out() -> None:
    # The API server takes a condition without times, and gives them as null.
    made = deployment(3, TWO, condition("True", "Patched", at=None))
    assert status.next_check(made, TWO, NOW) == 1
    _, said = rolled_out(made, [], FOO)
    assert said is not None
    assert (said["status"], said["reason"]) == ("False", status.TIMED_OUT)
    bare = {"type": PROGRESSING, "status": "True"}
    made = deployment(3, counts(1), bare)
    _, said = rolled_out(made, [], FOO)
    assert said is not None
    assert (said["status"], said["reason"]) == ("True", status.UPDATED)


# When to look again.

STUCK = condition("True", "")


@pytest.mark.parametrize(
    ("made", "found", "after", "expected"),
    [
        (deployment(4, deadline=None), counts(3, 3, 0, 2), 0, None),
        (deployment(4, deadline=FOREVER), counts(3, 3, 0, 2), 0, None),
        (deployment(4), counts(3, 3, 0, 2), 0, None),
        (deployment(3, None, STUCK), counts(3, 3, 0, 3), 0, None),
        (deployment(3, None, TIMED_OUT), counts(3, 3, 0, 0), 0, None),
        (deployment(3, None, COMPLETE), counts(3, 3, 0, 0), 0, None),
        (deployment(3, None, STUCK), counts(3, 3, 0, 1), 30, 31),
        (deployment(3, None, STUCK), counts(3, 3, 0, 1), 59, 2),
        (deployment(3, None, STUCK), counts(3, 3, 0, 1), 59.75, 1.25),
        (deployment(3, None, STUCK), counts(3, 3, 0, 1), 60, 1),
        (deployment(3, None, STUCK), counts(3, 3, 0, 1), 61, 1),
        (deployment(3, None, STUCK), counts(3, 3, 0, 1), 120, 1),
    ],
    ids=[
        "no deadline",
        "no deadline that ends",
        "nothing said of progress",
        "complete",
        "timed out already",
        "completed before",
        "half a minute left",
        "a second left",
        "less than a second left",
        "now",
        "a second late",
        "a minute late",
    ],
)
def test_a_rollout_is_looked_at_again_a_second_after_its_deadline(
    made: Object, found: Object, after: float, expected: float | None
) -> None:
    assert status.next_check(made, found, SINCE + after) == expected


# Failures.


def failing(name: str, reason: str) -> Object:
    failure = {"type": FAILURE, "status": "True", "reason": reason, "message": f"of {name}"}
    return replicaset(name, 1, 0, 0, conditions=[{**failure, "lastTransitionTime": THEN}])


def failure_of(found: Object) -> tuple[str, str] | None:
    said = status.condition(found, FAILURE)
    return (said["reason"], said["message"]) if said else None


def test_a_failure_of_the_newest_comes_before_those_of_others() -> None:
    old, new = failing("old", "FailedDelete"), failing("new", "FailedCreate")
    found, _ = rolled_out(deployment(1), [old], new)
    assert status.condition(found, FAILURE) == condition(
        "True", "FailedCreate", FAILURE, message="of new"
    )
    found, _ = rolled_out(deployment(1), [old, failing("older", "X")], replicaset("new", 1, 1, 1))
    assert failure_of(found) == ("FailedDelete", "of old")


def test_a_failure_goes_when_no_replicaset_reports_it_any_more() -> None:
    made = deployment(1, None, condition("True", "FailedCreate", FAILURE))
    found, _ = rolled_out(made, [], replicaset("new", 1, 1, 1))
    assert failure_of(found) is None


def test_a_failure_with_the_same_reason_is_left_alone() -> None:
    made = deployment(1, None, condition("True", "FailedCreate", FAILURE, message="before"))
    found, _ = rolled_out(made, [], failing("new", "FailedCreate"))
    assert failure_of(found) == ("FailedCreate", "before")


def test_a_failure_with_another_reason_keeps_its_transition() -> None:
    earlier = "2017-01-01T00:00:00Z"
    made = deployment(1, None, condition("True", "FailedCreate", FAILURE, at=earlier))
    found, _ = rolled_out(made, [], failing("new", "FailedDelete"))
    said = status.condition(found, FAILURE)
    assert said is not None
    assert (said["reason"], said["lastUpdateTime"]) == ("FailedDelete", THEN)
    assert said["lastTransitionTime"] == earlier
