"""Revisions, the annotations that carry them, and which old ReplicaSets are kept for them."""

import copy
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from whipstaff.controllers.deployment import history, revisions

Object = dict[str, Any]

REVISION, HISTORY = revisions.REVISION, revisions.HISTORY
APPLIED = "kubectl.kubernetes.io/last-applied-configuration"
E2E_REVISION = 3546343826724305832
"""The revision that upstream's e2e test gives a ReplicaSet to be adopted."""


def annotated(annotations: Object | None = None, **more: Any) -> Object:
    return {"metadata": {"name": "it", "annotations": annotations, **more}}


def of(*found: int | str | None) -> list[Object]:
    return [annotated({} if each is None else {REVISION: str(each)}) for each in found]


# Reading revisions.


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("7", 7),
        ("007", 7),
        ("+7", 7),
        ("-7", -7),
        (str(E2E_REVISION), E2E_REVISION),
        (str(2**63 - 1), 2**63 - 1),
        (str(2**63), None),
        (str(-(2**63)), -(2**63)),
        (str(-(2**63) - 1), None),
        ("9" * 10_000, None),
        ("0" * 10_000 + "7", 7),
        ("", None),
        ("-", None),
        ("seven", None),
        ("7.0", None),
        (" 7", None),
        ("1_000", None),
        ("\N{ARABIC-INDIC DIGIT SEVEN}", None),
    ],
)
def test_a_revision_is_an_int64_or_cannot_be_read(text: str, expected: int | None) -> None:
    assert revisions.revision(annotated({REVISION: text})) == expected


def test_what_has_no_revision_has_revision_0() -> None:
    assert revisions.revision(annotated({})) == 0
    assert revisions.revision(annotated()) == 0


@pytest.mark.parametrize(
    ("found", "highest", "last"),
    [
        ([], 0, 0),
        ([None], 0, 0),
        ([4], 4, 0),
        ([1, 3, 2], 3, 2),
        ([3, 3, 1], 3, 3),
        ([None, 5, "none"], 5, 0),
        ([E2E_REVISION, 1], E2E_REVISION, 1),
        ([5, -1], 5, 0),
        ([-5, -1], 0, 0),
    ],
)
def test_the_highest_revision_and_the_one_before_it(
    found: list[int | str | None], highest: int, last: int
) -> None:
    assert revisions.highest(of(*found)) == highest
    assert revisions.last(of(*found)) == last


@pytest.mark.parametrize(
    ("annotations", "expected"),
    [
        (None, None),
        ({}, None),
        ({revisions.ROLLBACK: ""}, None),
        ({revisions.ROLLBACK: "to the last"}, None),
        ({revisions.ROLLBACK: "0"}, 0),
        ({revisions.ROLLBACK: "3"}, 3),
        ({revisions.ROLLBACK: str(E2E_REVISION)}, E2E_REVISION),
    ],
)
def test_who_wants_to_go_back_says_to_which_revision(
    annotations: Object | None, expected: int | None
) -> None:
    assert revisions.rollback_target(annotated(annotations)) == expected


# The newest ReplicaSet's annotations.


def test_the_newest_gets_the_deployments_annotations_but_not_the_controllers_own() -> None:
    own = {
        REVISION: "1",
        HISTORY: "1,2",
        revisions.DESIRED: "3",
        revisions.MAXIMUM: "4",
        revisions.ROLLBACK: "5",
        APPLIED: "{}",
    }
    deployment = annotated({**own, "note": "kept", "kubernetes.io/change-cause": "edit"})
    before = copy.deepcopy(deployment)
    found = revisions.of_new(deployment, annotated(), 9)
    assert found == {REVISION: "9", "note": "kept", "kubernetes.io/change-cause": "edit"}
    assert deployment == before


def test_what_is_no_annotation_of_the_deployment_any_more_stays_on_the_newest() -> None:
    new = annotated({REVISION: "9", "gone": "stays", "note": "old"})
    found = revisions.of_new(annotated({"note": "new"}), new, 9)
    assert found == {REVISION: "9", "gone": "stays", "note": "new"}
    assert new["metadata"]["annotations"]["note"] == "old"


@pytest.mark.parametrize(
    ("before", "number", "expected"),
    [
        ({}, 1, {REVISION: "1"}),
        ({REVISION: "3"}, 3, {REVISION: "3"}),
        ({REVISION: "5"}, 3, {REVISION: "5"}),
        ({REVISION: "1"}, 3, {REVISION: "3", HISTORY: "1"}),
        ({REVISION: "3", HISTORY: "1"}, 6, {REVISION: "6", HISTORY: "1,3"}),
        ({REVISION: "none"}, 3, {REVISION: "none"}),
        (
            {REVISION: "1"},
            E2E_REVISION + 1,
            {REVISION: str(E2E_REVISION + 1), HISTORY: "1"},
        ),
    ],
    ids=[
        "none yet",
        "the same",
        "others were deleted",
        "taken up again",
        "taken up again and again",
        "can't be read",
        "as large as can be",
    ],
)
def test_a_revision_only_grows_and_what_it_was_goes_into_the_history(
    before: Object, number: int, expected: Object
) -> None:
    assert revisions.of_new(annotated(), annotated(before), number) == expected


def test_the_oldest_revisions_make_room_in_the_history(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(revisions, "LONGEST_HISTORY", 5)
    new, deployment = annotated({}), annotated({REVISION: "1"})
    for number in range(11, 21):
        new["metadata"]["annotations"] = revisions.of_new(deployment, new, number)
        assert new["metadata"]["annotations"][REVISION] == str(number)
        if number >= 13:
            expected = f"{number - 2},{number - 1}"
            assert new["metadata"]["annotations"][HISTORY] == expected


def test_a_revision_that_is_longer_than_all_history_is_left_out(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(revisions, "LONGEST_HISTORY", 5)
    new = annotated({REVISION: "1234567", HISTORY: "1,2"})
    found = revisions.of_new(annotated(), new, 1234568)
    assert found == {REVISION: "1234568", HISTORY: "1,2"}


@given(st.lists(st.integers(1, 2**62), min_size=1, max_size=300, unique=True))
def test_a_history_is_never_longer_than_2000_characters_and_ends_with_the_latest(
    numbers: list[int],
) -> None:
    new, last = annotated({}), ""
    for number in sorted(numbers):
        new["metadata"]["annotations"] = revisions.of_new(annotated(), new, number)
        found = new["metadata"]["annotations"].get(HISTORY, "")
        assert len(found) <= 2000
        assert found.split(",")[-1] == last
        last = str(number)
    kept = new["metadata"]["annotations"].get(HISTORY, "")
    every = [str(number) for number in sorted(numbers)[:-1]]
    assert kept.split(",") == (every[-len(kept.split(",")) :] or [""])
    if len(",".join(every)) <= 2000:
        assert kept == ",".join(every)


# Sizes.


def test_sizes_are_noted_once() -> None:
    annotations = {"note": "kept"}
    assert revisions.set_replicas(annotations, 10, 11)
    assert annotations == {"note": "kept", revisions.DESIRED: "10", revisions.MAXIMUM: "11"}
    assert not revisions.set_replicas(annotations, 10, 11)


@pytest.mark.parametrize(
    ("before", "expected"),
    [
        ({}, True),
        ({revisions.DESIRED: "8", revisions.MAXIMUM: "20"}, True),
        ({revisions.DESIRED: "10", revisions.MAXIMUM: "16"}, True),
        ({revisions.DESIRED: "10", revisions.MAXIMUM: "20"}, False),
    ],
    ids=["none", "another size", "another maximum", "both as they are"],
)
def test_it_is_news_when_a_size_was_another(before: dict[str, str], *, expected: bool) -> None:
    assert revisions.set_replicas(before, 10, 20) == expected


@pytest.mark.parametrize(
    ("annotations", "expected"),
    [
        ({}, None),
        (None, None),
        ({"test": "invalid"}, None),
        ({"test": ""}, None),
        ({"test": "-1"}, None),
        ({"test": "+1"}, None),
        ({"test": "0"}, 0),
        ({"test": "13"}, 13),
        ({"test": "013"}, 13),
        ({"test": str(2**31 - 1)}, 2**31 - 1),
        ({"test": str(2**31)}, None),
        ({"test": str(2**32)}, None),
        ({"test": "9" * 10_000}, None),
        ({"test": "0" * 10_000 + "13"}, 13),
    ],
)
def test_a_size_is_an_int32_that_is_not_negative_or_cannot_be_read(
    annotations: Object | None, expected: int | None
) -> None:
    assert revisions.count(annotated(annotations), "test") == expected


# Going back.


def test_who_goes_back_takes_the_old_annotations_up_again() -> None:
    deployment = annotated({REVISION: "2", APPLIED: "{}", "cause": "edit", "new": "gone"})
    old = annotated({REVISION: "1", HISTORY: "0", revisions.DESIRED: "3", "cause": "create"})
    before = copy.deepcopy((deployment, old))
    found = revisions.after_rollback(deployment, old)
    assert found == {REVISION: "2", APPLIED: "{}", "cause": "create"}
    assert (deployment, old) == before


# History.


def keeping(limit: int | None) -> Object:
    return {"metadata": {"name": "web"}, "spec": {"revisionHistoryLimit": limit}}


def old(
    name: str, size: int = 0, reported: int = 0, revision: str = "", minute: int = 0, **more: Any
) -> Object:
    metadata = {"name": name, "creationTimestamp": f"2026-01-01T00:{minute:02}:00Z", **more}
    if revision:
        metadata["annotations"] = {REVISION: revision}
    return {"metadata": metadata, "spec": {"replicas": size}, "status": {"replicas": reported}}


def deleted(limit: int | None, *replicasets: Object) -> list[str]:
    return [each["metadata"]["name"] for each in history.superfluous(keeping(limit), replicasets)]


@pytest.mark.parametrize(
    ("sizes", "limit", "expected"),
    [
        ([(0, 0), (0, 0), (0, 0)], 1, ["0", "1"]),
        ([(0, 0), (0, 1), (1, 0), (1, 1)], 0, ["0"]),
        ([(0, 0), (0, 0)], 0, ["0", "1"]),
        ([(1, 1), (1, 1)], 0, []),
        ([(0, 0), (0, 0)], 2, []),
        ([(0, 0), (0, 0)], 3, []),
        ([(0, 0), (0, 0), (0, 0)], history.UNLIMITED, []),
        ([(0, 0), (0, 0), (0, 0)], None, []),
        ([], 0, []),
    ],
)
def test_what_is_beyond_the_limit_and_has_no_pods_is_deleted(
    sizes: list[tuple[int, int]], limit: int | None, expected: list[str]
) -> None:
    every = [old(str(i), size, reported) for i, (size, reported) in enumerate(sizes)]
    assert deleted(limit, *every) == expected


@pytest.mark.parametrize(
    ("revisions_and_sizes", "limit", "expected"),
    [
        ([("1", 0), ("2", 0)], 1, ["1"]),
        ([("2", 0), ("1", 0)], 1, ["2"]),
        ([("1", 0), ("", 0)], 1, ["2"]),
        ([("", 0), ("2", 0)], 1, ["1"]),
        ([("1", 1), ("2", 0), ("3", 0)], 1, ["2"]),
        ([("1", 1), ("2", 1), ("3", 0)], 1, []),
        ([("3", 0), ("1", 0), ("4", 0), ("2", 0)], 2, ["2", "4"]),
        ([("5", 0), ("5", 0)], 1, ["1"]),
        ([("none", 0), ("1", 0)], 1, ["1"]),
        ([(str(E2E_REVISION), 0), ("9", 0)], 1, ["2"]),
    ],
    ids=[
        "in order",
        "against the order",
        "the younger has none",
        "the older has none",
        "the lowest has pods",
        "the lowest two have pods",
        "four in no order",
        "equal revisions: the older",
        "one can't be read: the older",
        "numbers, not texts",
    ],
)
def test_the_lowest_revisions_are_deleted_first_and_nothing_in_the_stead_of_what_must_stay(
    revisions_and_sizes: list[tuple[str, int]], limit: int, expected: list[str]
) -> None:
    every = [
        old(str(i), size, size, revision, minute=i)
        for i, (revision, size) in enumerate(revisions_and_sizes, start=1)
    ]
    assert deleted(limit, *every) == expected
    assert deleted(limit, *reversed(every)) == expected


def test_what_is_being_deleted_counts_for_nothing() -> None:
    leaving = old("leaving", revision="1", deletionTimestamp="2026-01-01T00:00:00Z")
    assert deleted(0, leaving) == []
    assert deleted(1, leaving, old("2", revision="2")) == []
    assert deleted(1, leaving, old("2", revision="2"), old("3", revision="3")) == ["2"]


def test_a_replicaset_that_its_controller_has_not_looked_at_stays() -> None:
    scaled = old("scaled", generation=3)
    scaled["status"]["observedGeneration"] = 2
    assert deleted(0, scaled) == []
    scaled["status"]["observedGeneration"] = 3
    assert deleted(0, scaled) == ["scaled"]
    fresh = old("fresh", generation=1)
    fresh["status"] = {}
    assert deleted(0, fresh) == []
