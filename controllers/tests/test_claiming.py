"""Claiming: nobody's objects are taken when asked for, others' never, one's own let go."""

from typing import Any

from whipstaff.controllers import claiming
from whipstaff.runtime import selectors

Object = dict[str, Any]

PRODUCTION = {"type": "production"}
TEST = {"type": "testing"}
SELECTOR = selectors.from_labels(PRODUCTION)
NOW = "2026-01-01T00:00:00Z"


def controller(uid: str = "mine", namespace: str = "default", **metadata: Any) -> Object:
    return {"metadata": {"name": f"rs-{uid}", "namespace": namespace, "uid": uid, **metadata}}


def pod(
    name: str, labels: Object, owner: Object | None = None, namespace: str = "default", **more: Any
) -> Object:
    metadata = {"name": name, "namespace": namespace, "uid": name, "labels": labels, **more}
    if owner is not None:
        uid = owner["metadata"]["uid"]
        reference = {"apiVersion": "apps/v1", "kind": "ReplicaSet", "name": "rs", "uid": uid}
        metadata["ownerReferences"] = [{**reference, "controller": True}]
    return {"metadata": metadata}


def claims(owner: Object, *pods: Object) -> tuple[list[str], list[str], list[str]]:
    found = claiming.claim(owner, pods, SELECTOR)
    owned, adopt, release = (
        [one["metadata"]["name"] for one in part]
        for part in (found.owned, found.adopt, found.release)
    )
    return owned, adopt, release


def test_orphans_that_are_selected_are_adopted() -> None:
    assert claims(controller(), pod("one", PRODUCTION), pod("two", TEST)) == ([], ["one"], [])


def test_orphans_without_labels_are_left_alone() -> None:
    bare = {"metadata": {"name": "bare", "namespace": "default", "uid": "bare"}}
    assert claims(controller(), bare) == ([], [], [])


def test_a_controller_that_is_being_deleted_adopts_nothing() -> None:
    leaving = controller(deletionTimestamp=NOW)
    assert claims(leaving, pod("one", PRODUCTION), pod("two", PRODUCTION)) == ([], [], [])


def test_a_controller_that_is_being_deleted_keeps_what_it_has() -> None:
    leaving = controller(deletionTimestamp=NOW)
    pods = (pod("one", PRODUCTION, leaving), pod("two", PRODUCTION), pod("odd", TEST, leaving))
    assert claims(leaving, *pods) == (["one"], [], [])


def test_another_controllers_pods_are_its_own_business() -> None:
    mine, other = controller(), controller("other")
    pods = (pod("one", PRODUCTION, mine), pod("two", PRODUCTION, other), pod("odd", TEST, other))
    assert claims(mine, *pods) == (["one"], [], [])


def test_a_namesake_of_the_controller_is_another_one() -> None:
    before, now = controller("before", name="rs"), controller("now", name="rs")
    assert claims(now, pod("one", PRODUCTION, before)) == ([], [], [])


def test_what_is_not_selected_any_more_is_released() -> None:
    mine = controller()
    pods = (pod("one", PRODUCTION, mine), pod("two", TEST, mine))
    assert claims(mine, *pods) == (["one"], [], ["two"])


def test_orphans_that_are_being_deleted_are_not_adopted() -> None:
    mine = controller()
    pods = (
        pod("one", PRODUCTION, mine, deletionTimestamp=NOW),
        pod("two", PRODUCTION, deletionTimestamp=NOW),
    )
    assert claims(mine, *pods) == (["one"], [], [])


def test_keeping_adopting_and_releasing_go_together() -> None:
    mine = controller()
    pods = (pod("one", PRODUCTION, mine), pod("two", TEST, mine), pod("three", PRODUCTION))
    assert claims(mine, *pods) == (["one"], ["three"], ["two"])


def test_orphans_of_other_namespaces_are_not_adopted() -> None:
    pods = (pod("one", PRODUCTION), pod("two", PRODUCTION, namespace="other"))
    assert claims(controller(), *pods) == ([], ["one"], [])


def test_a_controller_without_a_namespace_adopts_in_all() -> None:
    pods = (pod("one", PRODUCTION), pod("two", PRODUCTION, namespace="other"))
    assert claims(controller(namespace=""), *pods) == ([], ["one", "two"], [])


def test_a_reference_that_is_not_a_controllers_makes_nobody_an_owner() -> None:
    mine = controller()
    child = pod("one", PRODUCTION, mine)
    child["metadata"]["ownerReferences"][0]["controller"] = False
    assert claims(mine, child) == ([], ["one"], [])


def test_the_adoption_patch_names_the_pod_it_was_meant_for() -> None:
    patch = claiming.adoption_patch(controller(), pod("one", TEST), "ReplicaSet", "apps/v1")
    reference = {
        "apiVersion": "apps/v1",
        "kind": "ReplicaSet",
        "name": "rs-mine",
        "uid": "mine",
        "controller": True,
        "blockOwnerDeletion": True,
    }
    assert patch == {"metadata": {"uid": "one", "ownerReferences": [reference]}}


def test_the_release_patch_takes_off_only_the_controllers_own_reference() -> None:
    patch = claiming.release_patch(controller(), pod("one", TEST))
    removal = {"$patch": "delete", "uid": "mine"}
    assert patch == {"metadata": {"uid": "one", "ownerReferences": [removal]}}
