"""Own writes: a key waits for the copies to show them, and for nothing else."""

import pytest

from whipstaff.controllers import own_writes
from whipstaff.runtime import errors, resources

PODS, REPLICASETS = resources.PODS, resources.REPLICASETS


def test_without_writes_a_key_waits_for_nothing() -> None:
    assert own_writes.OwnWrites().is_current("default/rs", {})


def test_a_key_waits_until_the_copy_has_come_as_far() -> None:
    own = own_writes.OwnWrites()
    own.wrote("default/rs", PODS, "100")
    assert not own.is_current("default/rs", {PODS: "99"})
    assert own.is_current("default/rs", {PODS: "100"})
    assert own.is_current("default/rs", {PODS: "101"})


def test_versions_are_numbers_and_not_texts() -> None:
    own = own_writes.OwnWrites()
    own.wrote("default/rs", PODS, "1000")
    assert not own.is_current("default/rs", {PODS: "999"})
    own.wrote("default/other", PODS, "999")
    assert own.is_current("default/other", {PODS: "1000"})


def test_the_newest_write_counts_in_whatever_order_the_answers_come() -> None:
    own = own_writes.OwnWrites()
    for version in ("7", "9", "8"):
        own.wrote("default/rs", PODS, version)
    assert not own.is_current("default/rs", {PODS: "8"})
    assert own.is_current("default/rs", {PODS: "9"})


def test_every_resource_has_to_have_come_as_far() -> None:
    own = own_writes.OwnWrites()
    own.wrote("default/rs", PODS, "10")
    own.wrote("default/rs", REPLICASETS, "12")
    assert own.awaited("default/rs", {PODS: "12", REPLICASETS: "11"}) == REPLICASETS
    assert own.awaited("default/rs", {PODS: "9", REPLICASETS: "12"}) == PODS
    assert own.is_current("default/rs", {PODS: "10", REPLICASETS: "12"})


def test_a_copy_that_is_being_made_anew_shows_nothing() -> None:
    own = own_writes.OwnWrites()
    own.wrote("default/rs", PODS, "10")
    assert not own.is_current("default/rs", {PODS: ""})
    assert not own.is_current("default/rs", {})


def test_an_answer_without_a_version_is_no_news() -> None:
    own = own_writes.OwnWrites()
    own.wrote("default/rs", PODS, "")
    assert own.is_current("default/rs", {PODS: ""})


def test_keys_are_independent_and_can_be_forgotten() -> None:
    own = own_writes.OwnWrites()
    own.wrote("default/rs", PODS, "10")
    assert own.is_current("default/other", {PODS: "1"})
    own.forget("default/rs")
    assert own.is_current("default/rs", {PODS: "1"})
    own.forget("default/rs")


def a_pod(uid: str, *, going: bool = False) -> own_writes.Object:
    deletion = {"deletionTimestamp": "2026-01-01T00:00:00Z"} if going else {}
    return {"metadata": {"uid": uid, **deletion}}


@pytest.mark.parametrize(
    "error",
    [
        errors.Unreachable("cut"),
        errors.from_status(500, {"message": "etcdserver: request timed out"}),
        errors.from_status(504, {"reason": "Timeout"}),
    ],
)
def test_a_write_without_a_clear_answer_is_in_doubt_until_the_copy_shows_what_there_is(
    error: errors.WhipstaffError,
) -> None:
    own = own_writes.OwnWrites()
    own.failed("default/rs", error)
    assert own.is_doubted("default/rs")
    assert not own.is_doubted("default/other")
    assert not own.compare("default/rs", [a_pod("a")], [a_pod("a"), a_pod("made")])
    assert not own.compare("default/rs", [a_pod("a"), a_pod("gone")], [a_pod("a")])
    assert not own.compare("default/rs", [a_pod("a")], [a_pod("a", going=True)])
    assert own.is_doubted("default/rs")
    assert own.compare("default/rs", [a_pod("a"), a_pod("b")], [a_pod("b"), a_pod("a")])
    assert not own.is_doubted("default/rs")


def test_a_size_that_the_copy_does_not_show_leaves_doubt() -> None:
    own = own_writes.OwnWrites()
    own.failed("default/web", errors.Unreachable("cut"))
    small, large = ({**a_pod("a"), "spec": {"replicas": size}} for size in (1, 2))
    assert not own.compare("default/web", [small], [large])
    assert own.compare("default/web", [large], [large])


def test_a_write_that_was_refused_was_not_done() -> None:
    own = own_writes.OwnWrites()
    for status in (403, 409, 422, 429):
        own.failed("default/rs", errors.from_status(status, {}))
    assert not own.is_doubted("default/rs")


def test_nothing_is_in_doubt_for_what_is_forgotten() -> None:
    own = own_writes.OwnWrites()
    own.failed("default/rs", errors.Unreachable("cut"))
    own.forget("default/rs")
    assert not own.is_doubted("default/rs")
