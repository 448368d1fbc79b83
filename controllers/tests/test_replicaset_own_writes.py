"""Own writes: a key waits for the copies to show them, and for nothing else."""

from whipstaff.controllers import own_writes
from whipstaff.runtime import resources

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
