"""Raw objects are read as the API means them, and what we write into them is what it takes."""

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from whipstaff.runtime import objects

POD: dict[str, Any] = {
    "apiVersion": "v1",
    "kind": "Pod",
    "metadata": {
        "name": "web-1",
        "namespace": "shop",
        "uid": "u-1",
        "resourceVersion": "42",
        "labels": {"app": "web"},
        "ownerReferences": [
            {"apiVersion": "v1", "kind": "ConfigMap", "name": "c", "uid": "u-2"},
            {
                "apiVersion": "apps/v1",
                "kind": "ReplicaSet",
                "name": "web",
                "uid": "u-3",
                "controller": True,
            },
        ],
    },
    "status": {
        "phase": "Running",
        "conditions": [
            {"type": "Ready", "status": "True", "lastTransitionTime": "2026-01-31T12:00:00Z"},
            {"type": "PodScheduled", "status": "False"},
        ],
    },
}
NODE: dict[str, Any] = {"apiVersion": "v1", "kind": "Node", "metadata": {"name": "node-1"}}
NOON = 1769860800.0  # 2026-01-31T12:00:00Z


def test_what_names_an_object() -> None:
    assert objects.key(POD) == "shop/web-1"
    assert objects.key(NODE) == "node-1"
    assert objects.split_key("shop/web-1") == ("shop", "web-1")
    assert objects.split_key("node-1") == ("", "node-1")
    assert (objects.uid(POD), objects.uid(NODE)) == ("u-1", "")
    assert (objects.resource_version(POD), objects.resource_version(NODE)) == ("42", "")
    assert objects.name({"metadata": {"generateName": "web-"}}) == ""


def test_an_object_without_labels_has_empty_ones() -> None:
    assert objects.labels(POD) == {"app": "web"}
    assert objects.labels(NODE) == {}
    assert objects.labels({"metadata": {"labels": None}}) == {}
    assert objects.annotations(NODE) == {}


def test_only_the_controller_counts_as_owner() -> None:
    owner = objects.owner(POD)
    assert owner is not None
    assert owner["name"] == "web"
    assert objects.owner(NODE) is None
    assert objects.is_owned_by(POD, {"metadata": {"name": "web", "uid": "u-3"}})
    assert not objects.is_owned_by(POD, {"metadata": {"name": "web", "uid": "u-4"}})
    assert not objects.is_owned_by(NODE, {"metadata": {"name": "web", "uid": "u-3"}})


def test_a_controller_refers_to_itself_in_what_it_creates() -> None:
    replica_set = {
        "apiVersion": "apps/v1",
        "kind": "ReplicaSet",
        "metadata": {"name": "web", "uid": "u-3"},
    }
    reference = objects.owner_reference(replica_set)
    assert objects.is_owned_by({"metadata": {"ownerReferences": [reference]}}, replica_set)
    assert reference["blockOwnerDeletion"]


def test_a_reference_carries_what_the_object_has() -> None:
    assert objects.reference(POD) == {
        "apiVersion": "v1",
        "kind": "Pod",
        "name": "web-1",
        "namespace": "shop",
        "uid": "u-1",
        "resourceVersion": "42",
    }
    assert objects.reference(NODE) == {"apiVersion": "v1", "kind": "Node", "name": "node-1"}


def test_conditions_are_found_by_type() -> None:
    assert objects.is_true(POD, "Ready")
    assert not objects.is_true(POD, "PodScheduled")
    assert not objects.is_true(POD, "Initialized")
    assert objects.condition(NODE, "Ready") is None
    assert objects.condition({"metadata": {}, "status": {"conditions": None}}, "Ready") is None


def test_a_pod_is_finished_in_its_final_phases_only() -> None:
    for phase, finished in {"Succeeded": True, "Failed": True, "Running": False}.items():
        assert objects.is_finished({"metadata": {}, "status": {"phase": phase}}) is finished
    assert not objects.is_finished({"metadata": {}})


def test_deletion_that_was_asked_for_is_seen() -> None:
    assert objects.is_terminating({"metadata": {"deletionTimestamp": "2026-01-31T12:00:00Z"}})
    assert not objects.is_terminating(POD)


def test_a_condition_keeps_its_time_while_its_status_stays() -> None:
    old = POD["status"]["conditions"]
    same: objects.Condition = {"type": "Ready", "status": "True", "message": "still"}
    kept = objects.with_condition(old, same, NOON + 60)
    assert kept[0] == {**same, "lastTransitionTime": "2026-01-31T12:00:00Z"}
    assert kept[1] is old[1]
    turned = objects.with_condition(old, {"type": "Ready", "status": "False"}, NOON + 60)
    assert turned[0]["lastTransitionTime"] == "2026-01-31T12:01:00Z"
    assert [condition["type"] for condition in turned] == ["Ready", "PodScheduled"]


def test_a_new_condition_comes_last_and_the_old_list_stays_as_it_was() -> None:
    old = POD["status"]["conditions"]
    new: objects.Condition = {"type": "Initialized", "status": "True"}
    added = objects.with_condition(old, new, NOON)
    assert added[-1] == {**new, "lastTransitionTime": "2026-01-31T12:00:00Z"}
    assert len(added) == 3
    assert len(old) == 2


def test_times_are_written_as_the_api_writes_them() -> None:
    assert objects.format_time(NOON + 0.999) == "2026-01-31T12:00:00Z"
    assert objects.format_micro_time(NOON) == "2026-01-31T12:00:00.000000Z"
    assert objects.format_micro_time(NOON + 0.25) == "2026-01-31T12:00:00.250000Z"


def test_times_are_read_in_every_form_of_the_api() -> None:
    assert objects.parse_time("2026-01-31T12:00:00Z") == NOON
    assert objects.parse_time("2026-01-31T12:00:00.250000Z") == NOON + 0.25
    assert objects.parse_time("2026-01-31T14:00:00+02:00") == NOON


@pytest.mark.parametrize("text", ["", "noon", "2026-01-31T12:00:00", "2026-01-31"])
def test_what_is_no_time_is_refused_by_its_text(text: str) -> None:
    with pytest.raises(ValueError, match="RFC 3339") as refusal:
        objects.parse_time(text)
    assert repr(text) in str(refusal.value)


@given(st.integers(min_value=0, max_value=4 * 10**15))
def test_a_micro_time_reads_back_as_the_same_microsecond(micros: int) -> None:
    assert abs(objects.parse_time(objects.format_micro_time(micros / 1e6)) * 1e6 - micros) <= 1
