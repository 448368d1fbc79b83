"""NodeAffinity."""

from collections.abc import Mapping
from typing import Any

import pytest

from whipstaff.scheduler import framework, snapshot, testing
from whipstaff.scheduler.framework import Code
from whipstaff.scheduler.plugins import nodeaffinity

POD = framework.Status(
    Code.UNSCHEDULABLE_AND_UNRESOLVABLE, ("node(s) didn't match Pod's node affinity/selector",)
)
ENFORCED = framework.Status(
    Code.UNSCHEDULABLE_AND_UNRESOLVABLE, ("node(s) didn't match scheduler-enforced node affinity",)
)
CONFLICT = framework.Status(Code.UNSCHEDULABLE_AND_UNRESOLVABLE, ("pod affinity terms conflict",))
REQUIRED = "requiredDuringSchedulingIgnoredDuringExecution"
PREFERRED = "preferredDuringSchedulingIgnoredDuringExecution"


def expressions(*requirements: tuple[str, str, list[str]]) -> dict[str, Any]:
    return {"matchExpressions": requirement_objects(requirements)}


def fields(*requirements: tuple[str, str, list[str]]) -> dict[str, Any]:
    return {"matchFields": requirement_objects(requirements)}


def requirement_objects(requirements: tuple[tuple[str, str, list[str]], ...]) -> list[Any]:
    return [
        {"key": key, "operator": operator, **({"values": values} if values else {})}
        for key, operator, values in requirements
    ]


def required(*terms: Mapping[str, Any]) -> dict[str, Any]:
    return {"nodeAffinity": {REQUIRED: {"nodeSelectorTerms": list(terms)}}}


def preferred(*terms: tuple[int, Mapping[str, Any]]) -> dict[str, Any]:
    return {
        "nodeAffinity": {
            PREFERRED: [{"weight": weight, "preference": term} for weight, term in terms]
        }
    }


def cluster(**labels: Mapping[str, str]) -> snapshot.Snapshot:
    return testing.cluster(testing.node(name, labels=each) for name, each in labels.items())


def fits(affinity: dict[str, Any], labels: Mapping[str, str], name: str = "n1") -> bool:
    nodes = testing.cluster([testing.node(name, labels=labels)])
    found = testing.statuses(
        nodeaffinity.NodeAffinity(), testing.pod_info(affinity=affinity), nodes
    )
    assert found[name] in (framework.SUCCESS, POD)
    return found[name].is_success


def test_a_pod_that_asks_for_nothing_is_skipped() -> None:
    found = testing.statuses(nodeaffinity.NodeAffinity(), testing.pod_info(), cluster(a={}))

    assert found == {"": framework.SKIP}


def test_all_labels_of_a_node_selector_have_to_be_there() -> None:
    nodes = cluster(
        both={"disk": "ssd", "zone": "a", "more": ""}, one={"disk": "ssd"}, wrong={"disk": "hdd"}
    )
    pod = testing.pod_info(nodeSelector={"disk": "ssd", "zone": "a"})

    found = testing.statuses(nodeaffinity.NodeAffinity(), pod, nodes)

    assert found == {"both": framework.SUCCESS, "one": POD, "wrong": POD}


@pytest.mark.parametrize(
    ("requirement", "labels", "matches"),
    [
        (("foo", "In", ["bar", "value2"]), {"foo": "bar"}, True),
        (("foo", "In", ["value1"]), {"foo": "bar"}, False),
        (("foo", "In", ["value1"]), {}, False),
        (("foo", "NotIn", ["value1", "value2"]), {"foo": "bar"}, True),
        (("foo", "NotIn", ["bar"]), {"foo": "bar"}, False),
        (("foo", "NotIn", ["bar"]), {}, True),
        (("foo", "Exists", []), {"foo": ""}, True),
        (("foo", "Exists", []), {}, False),
        (("foo", "DoesNotExist", []), {"foo": "bar"}, False),
        (("foo", "DoesNotExist", []), {}, True),
        (("rank", "Gt", ["0204"]), {"rank": "0206"}, True),
        (("rank", "Gt", ["206"]), {"rank": "206"}, False),
        (("rank", "Lt", ["206"]), {"rank": "-3"}, True),
        (("rank", "Gt", ["1"]), {"rank": "many"}, False),
        (("rank", "Lt", ["1"]), {}, False),
        # What can't be read matches nothing, whatever else it says.
        (("foo", "In", []), {"foo": "bar"}, False),
        (("foo", "Exists", ["bar"]), {"foo": "bar"}, False),
        (("rank", "Gt", ["x"]), {"rank": "5"}, False),
        (("rank", "Gt", ["1", "2"]), {"rank": "5"}, False),
        (("foo", "Like", ["bar"]), {"foo": "bar"}, False),
        (("foo", "In", ["bar", "{{.bad-value.}}"]), {"foo": "bar"}, False),
    ],
)
def test_operators(
    requirement: tuple[str, str, list[str]], labels: dict[str, str], matches: bool
) -> None:
    assert fits(required(expressions(requirement)), labels) == matches


def test_the_requirements_of_a_term_all_hold_and_one_term_is_enough() -> None:
    term = expressions(("gpu", "Exists", []), ("zone", "NotIn", ["a"]))
    other = expressions(("disk", "In", ["ssd"]))

    assert fits(required(term, other), {"gpu": "x", "zone": "b"})
    assert fits(required(term, other), {"disk": "ssd"})
    assert not fits(required(term, other), {"gpu": "x", "zone": "a"})


def test_a_term_that_cannot_be_read_does_not_take_the_others_with_it() -> None:
    bad = expressions(("disk", "In", []))

    assert fits(required(bad, expressions(("disk", "In", ["ssd"]))), {"disk": "ssd"})


@pytest.mark.parametrize("terms", [[], [{}], [{"matchExpressions": []}]])
def test_no_term_or_an_empty_one_matches_no_node(terms: list[dict[str, Any]]) -> None:
    assert not fits(required(*terms), {"foo": "bar"})


def test_node_selector_and_affinity_must_both_hold() -> None:
    nodes = cluster(both={"a": "1", "b": "1"}, one={"a": "1"})
    pod = testing.pod_info(
        nodeSelector={"a": "1"}, affinity=required(expressions(("b", "Exists", [])))
    )

    found = testing.statuses(nodeaffinity.NodeAffinity(), pod, nodes)

    assert found == {"both": framework.SUCCESS, "one": POD}


def test_fields_are_about_the_name() -> None:
    assert fits(required(fields(("metadata.name", "In", ["n1"]))), {})
    assert not fits(required(fields(("metadata.name", "In", ["n2"]))), {})
    assert fits(required(fields(("metadata.name", "NotIn", ["n2"]))), {})
    assert not fits(required(fields(("metadata.name", "NotIn", ["n1"]))), {})
    # Any other field is empty.
    assert not fits(required(fields(("metadata.namespace", "In", ["n1"]))), {})
    assert fits(required(fields(("metadata.namespace", "NotIn", ["n1"]))), {})
    # A field takes one value.
    assert not fits(required(fields(("metadata.name", "In", ["n1", "n2"]))), {})


def test_fields_and_expressions_of_a_term_both_hold() -> None:
    term = {**fields(("metadata.name", "In", ["n1"])), **expressions(("a", "Exists", []))}

    assert fits(required(term), {"a": ""})
    assert not fits(required(term), {})
    assert fits(required(term, expressions(("b", "Exists", []))), {"b": ""})


NAMED = fields(("metadata.name", "In", ["n1"]))


@pytest.mark.parametrize(
    ("terms", "answer"),
    [
        ([NAMED], framework.NodeNames(frozenset({"n1"}))),
        (
            [NAMED, fields(("metadata.name", "In", ["n2"]))],
            framework.NodeNames(frozenset({"n1", "n2"})),
        ),
        # A term that doesn't say which nodes may mean any of them.
        ([NAMED, expressions(("a", "Exists", []))], None),
        ([fields(("metadata.name", "NotIn", ["n1"]))], None),
        # Terms that contradict themselves, each or all of them.
        ([fields(("metadata.name", "In", ["n1"]), ("metadata.name", "In", ["n2"]))], CONFLICT),
        (
            [fields(("metadata.name", "In", ["n1"]), ("metadata.name", "In", ["n2"])), NAMED],
            framework.NodeNames(frozenset({"n1"})),
        ),
    ],
)
def test_terms_that_all_name_nodes_confine_the_pod_to_these(
    terms: list[dict[str, Any]], answer: framework.NodeNames | framework.Status | None
) -> None:
    pod = testing.pod_info(affinity=required(*terms))

    assert nodeaffinity.NodeAffinity().pre_filter({}, pod, testing.cluster([])) == answer


def added(**affinity: Any) -> nodeaffinity.NodeAffinity:
    return nodeaffinity.NodeAffinity.from_arguments({"addedAffinity": affinity})


def test_the_profiles_affinity_is_asked_first_and_has_a_reason_of_its_own() -> None:
    nodes = cluster(
        neither={}, profile={"zone": "a"}, pod={"disk": "ssd"}, both={"zone": "a", "disk": "ssd"}
    )
    plugin = added(**{REQUIRED: {"nodeSelectorTerms": [expressions(("zone", "In", ["a"]))]}})

    found = testing.statuses(plugin, testing.pod_info(nodeSelector={"disk": "ssd"}), nodes)

    assert found == {
        "neither": ENFORCED,
        "profile": POD,
        "pod": ENFORCED,
        "both": framework.SUCCESS,
    }


def test_the_profiles_affinity_holds_for_pods_that_ask_for_nothing() -> None:
    plugin = added(**{REQUIRED: {"nodeSelectorTerms": [NAMED]}})
    nodes = cluster(n1={}, n2={})

    found = testing.statuses(plugin, testing.pod_info(), nodes)

    assert found == {"n1": framework.SUCCESS, "n2": ENFORCED}


@pytest.mark.parametrize(
    "affinity",
    [
        {REQUIRED: {"nodeSelectorTerms": [expressions(("a", "In", []))]}},
        {PREFERRED: [{"weight": 1, "preference": expressions(("a", "Like", []))}]},
    ],
)
def test_a_profiles_affinity_that_cannot_be_read_is_refused(affinity: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match="operator"):
        added(**affinity)


def test_a_pod_without_preferences_is_not_scored() -> None:
    plugin = nodeaffinity.NodeAffinity()

    assert testing.scores(plugin, testing.pod_info(nodeSelector={"a": "1"}), cluster(a={})) is None


def test_weights_of_the_terms_that_match_add_up_and_are_scaled() -> None:
    nodes = cluster(
        none={}, foo={"foo": "bar"}, zone={"zone": "a"}, all={"foo": "bar", "zone": "a"}
    )
    pod = testing.pod_info(
        affinity=preferred(
            (2, expressions(("foo", "In", ["bar"]))),
            (5, expressions(("zone", "Exists", []))),
            (0, expressions(("foo", "Like", ["never read"]))),
            (7, {}),
        )
    )

    assert testing.scores(nodeaffinity.NodeAffinity(), pod, nodes) == {
        "none": 0,
        "foo": 28,
        "zone": 71,
        "all": 100,
    }


def test_preferences_that_match_nowhere_leave_all_nodes_at_zero() -> None:
    pod = testing.pod_info(affinity=preferred((2, expressions(("foo", "Exists", [])))))

    assert testing.scores(nodeaffinity.NodeAffinity(), pod, cluster(a={}, b={})) == {"a": 0, "b": 0}


def test_the_profiles_preferences_count_beside_the_pods() -> None:
    plugin = added(**{PREFERRED: [{"weight": 3, "preference": expressions(("zone", "In", ["a"]))}]})
    nodes = cluster(zone={"zone": "a"}, disk={"disk": "ssd"})
    pod = testing.pod_info(affinity=preferred((4, expressions(("disk", "Exists", [])))))

    assert testing.scores(plugin, pod, nodes) == {"zone": 75, "disk": 100}
    assert testing.scores(plugin, testing.pod_info(), nodes) == {"zone": 100, "disk": 0}


def test_a_preference_that_cannot_be_read_is_a_failure_and_not_a_no() -> None:
    pod = testing.pod_info(affinity=preferred((4, expressions(("disk", "In", [])))))

    with pytest.raises(framework.PluginError, match=r'running PreScore plugin "NodeAffinity"'):
        testing.scores(nodeaffinity.NodeAffinity(), pod, cluster(a={}))
