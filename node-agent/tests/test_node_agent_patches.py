"""Patches: what differs and nothing else, and nothing that belongs to others."""

from __future__ import annotations

import hypothesis
from hypothesis import strategies as st

from whipstaff.node_agent import patches


def condition(kind: str, status: str = "True", **fields: str) -> dict[str, str]:
    return {"type": kind, "status": status, "lastTransitionTime": "t", **fields}


def test_what_is_the_same_makes_no_patch() -> None:
    status = {"phase": "Running", "conditions": [condition("Ready")]}
    assert patches.pod_status("u", status, dict(status)) is None
    assert not patches.differs(status, dict(status))


def test_a_patch_carries_the_uid_and_only_what_differs() -> None:
    old = {"phase": "Pending", "hostIP": "1.2.3.4", "qosClass": "BestEffort"}
    patch = patches.pod_status("u", old, {**old, "phase": "Running"})
    assert patch == {"metadata": {"uid": "u"}, "status": {"phase": "Running"}}


def test_a_text_that_is_gone_is_taken_away() -> None:
    old = {"phase": "Failed", "reason": "Evicted"}
    patch = patches.pod_status("u", old, {"phase": "Failed"})
    assert patch is not None
    assert patch["status"] == {"reason": None}


def test_conditions_of_others_are_never_touched() -> None:
    old = {"conditions": [condition("example.com/gate"), condition("Ready", "False", reason="x")]}
    new = {"conditions": [condition("Ready")]}
    patch = patches.pod_status("u", old, new)
    assert patch is not None
    assert patch["status"] == {"conditions": [{"type": "Ready", "status": "True", "reason": None}]}
    only_others = {"conditions": [condition("example.com/gate")]}
    assert not patches.differs(only_others, {"conditions": []})


def test_new_conditions_come_in_the_nodes_order() -> None:
    new = {"conditions": [condition("Initialized"), condition("Ready")]}
    patch = patches.pod_status("u", {}, new)
    assert patch is not None
    assert patch["status"]["$setElementOrder/conditions"] == [
        {"type": "Initialized"},
        {"type": "Ready"},
    ]


def test_another_address_replaces_the_old_one() -> None:
    old = {"podIP": "10.0.0.1", "podIPs": [{"ip": "10.0.0.1"}]}
    new = {"podIP": "10.0.0.2", "podIPs": [{"ip": "10.0.0.2"}]}
    patch = patches.pod_status("u", old, new)
    assert patch is not None
    assert patch["status"]["podIPs"] == [
        {"ip": "10.0.0.2"},
        {"$patch": "delete", "ip": "10.0.0.1"},
    ]


def test_fields_that_nobody_here_owns_are_left_alone() -> None:
    old = {"phase": "Running", "nominatedNodeName": "n", "resourceClaimStatuses": [{"name": "x"}]}
    assert patches.pod_status("u", old, {"phase": "Running"}) is None


def test_the_addresses_of_a_node_are_replaced_whole() -> None:
    addresses = [{"type": "InternalIP", "address": "10.0.0.1"}]
    patch = patches.node_status({}, {"addresses": addresses})
    assert patch == {"status": {"addresses": [*addresses, {"$patch": "replace"}]}}
    assert patches.node_status({"addresses": addresses}, {"addresses": addresses}) is None


def test_capacity_that_others_advertise_stays() -> None:
    old = {"capacity": {"cpu": "4", "example.com/gpu": "1"}}
    assert patches.node_status(old, {"capacity": {"cpu": "4"}}) is None
    patch = patches.node_status(old, {"capacity": {"cpu": "8"}})
    assert patch == {"status": {"capacity": {"cpu": "8"}}}


KINDS = st.sampled_from(["Ready", "Initialized", "PodScheduled", "example.com/a"])
CONDITIONS = st.lists(
    st.builds(condition, KINDS, st.sampled_from(["True", "False"])),
    unique_by=lambda c: c["type"],
)
IPS = st.lists(
    st.builds(lambda ip: {"ip": ip}, st.sampled_from(["10.0.0.1", "10.0.0.2", "fd00::1"])),
    unique_by=lambda entry: entry["ip"],
)
STATUSES = st.fixed_dictionaries(
    {"conditions": CONDITIONS, "podIPs": IPS},
    optional={"phase": st.sampled_from(["Pending", "Running"]), "reason": st.just("x")},
)


@hypothesis.given(STATUSES, STATUSES)
@hypothesis.settings(max_examples=50, deadline=None)
def test_there_is_a_patch_exactly_where_something_differs(old: object, new: object) -> None:
    assert isinstance(old, dict)
    assert isinstance(new, dict)
    patch = patches.pod_status("u", old, new)
    if not patches.differs(old, new):
        assert patch is None or set(patch["status"]) <= {"podIPs", "conditions"}
    elif patch is None:
        # Only the order of a list that the API merges is another.
        for field, key in (("conditions", "type"), ("podIPs", "ip")):
            own = [{e[key]: e for e in s[field] if e.get("type") != "example.com/a"}
                   for s in (old, new)]  # fmt: skip
            assert own[0] == own[1]


def test_a_resource_that_a_pod_has_no_longer_is_gone_from_its_status() -> None:
    before = {"resources": {"limits": {"cpu": "1"}, "requests": {"cpu": "1"}}}
    after = {"resources": {"requests": {"cpu": "1"}}}
    patch = patches.pod_status("uid", before, after)
    assert patch == {
        "metadata": {"uid": "uid"},
        "status": {"resources": {"requests": {"cpu": "1"}, "$patch": "replace"}},
    }
