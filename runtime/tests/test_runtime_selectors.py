"""Selectors select what upstream's select, and what isn't one is refused by its text."""

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from whipstaff.runtime import selectors

WEB = {"app": "web", "tier": "front", "replica": "3", "example.com/team": "a", "empty": ""}

keys = st.sampled_from(["app", "tier", "in", "example.com/team"])
values = st.sampled_from(["", "web", "db", "1", "in", "a.b_c-d"])
requirements = st.one_of(
    st.builds(
        selectors.Requirement,
        keys,
        st.sampled_from(["In", "NotIn"]),
        st.lists(values, min_size=1, max_size=3, unique=True).map(lambda v: tuple(sorted(v))),
    ),
    st.builds(selectors.Requirement, keys, st.sampled_from(["Exists", "DoesNotExist"])),
    st.builds(selectors.Requirement, keys, st.sampled_from(["Gt", "Lt"]), st.just(("1",))),
)
label_sets = st.dictionaries(keys, values)


@pytest.mark.parametrize(
    ("text", "selected"),
    [
        ("", True),
        ("app=web", True),
        ("app==web", True),
        ("app = web , tier = front", True),
        ("app=db", False),
        ("app!=db", True),
        ("app!=web", False),
        ("missing!=web", True),
        ("missing=", False),
        ("empty=", True),
        ("app in (db,web)", True),
        ("app in (db)", False),
        ("app notin (db)", True),
        ("missing notin (db)", True),
        ("missing in (db)", False),
        ("empty in (,x)", True),
        ("app", True),
        ("missing", False),
        ("!missing", True),
        ("!app", False),
        ("example.com/team=a,!missing,app in (web)", True),
        ("replica>2", True),
        ("replica<3", False),
        ("app>2", False),
        ("missing>2", False),
    ],
)
def test_the_string_form_selects_by_labels(text: str, selected: bool) -> None:
    assert selectors.parse(text).matches(WEB) is selected


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("app=web,", "expected '!' or a key"),
        (",app", "expected '!' or a key"),
        ("app in web", "expected '('"),
        ("app in (web", "expected ',' or ')'"),
        ("app in (web db)", "expected ',' or ')'"),
        ("app web", "expected in, notin, =, ==, !="),
        ("app=web tier=front", "expected ',' or the end"),
        ("!app=web", "expected ',' or the end"),
        ("!", "expected a key after '!'"),
        ("app==(", "expected a value"),
        ("-app=web", "must be 1 to 63"),
        ("Example.com/app", "not a DNS subdomain"),
        ("/app", "not a DNS subdomain"),
        ("a/b/c", "not a DNS subdomain"),
        (f"{'a' * 64}=web", "must be 1 to 63"),
        (f"{'a' * 254}/b=web", "not a DNS subdomain"),
        ("app=_web", "value '_web'"),
        ("app>many", "needs one integer"),
        ("app>99999999999999999999", "needs one integer"),
    ],
)
def test_what_is_no_label_selector_is_refused_by_its_text(text: str, problem: str) -> None:
    with pytest.raises(ValueError, match="label selector") as refusal:
        selectors.parse(text)
    assert repr(text) in str(refusal.value)
    assert problem in str(refusal.value)


@given(st.lists(requirements, max_size=3), label_sets)
def test_the_text_of_a_selector_means_the_same_selector(
    conditions: list[selectors.Requirement], labels: dict[str, str]
) -> None:
    selector = selectors.Selector(tuple(conditions))
    again = selectors.parse(str(selector))
    assert again.matches(labels) is selector.matches(labels)
    assert str(selectors.parse(str(again))) == str(again)


def test_no_label_selector_selects_nothing_and_an_empty_one_everything() -> None:
    assert not selectors.label_selector(None).matches(WEB)
    assert not selectors.label_selector(None).empty
    assert selectors.label_selector({}).matches(WEB)
    assert selectors.label_selector({"matchLabels": {}, "matchExpressions": None}).matches({})
    assert selectors.label_selector({}).empty


def test_the_selector_of_nothing_has_no_text_that_selects_something() -> None:
    with pytest.raises(ValueError, match="label selector"):
        selectors.parse(str(selectors.NOTHING))


def test_a_label_selector_needs_all_of_its_labels_and_expressions() -> None:
    selector = selectors.label_selector(
        {
            "matchLabels": {"app": "web"},
            "matchExpressions": [
                {"key": "tier", "operator": "In", "values": ["front", "back"]},
                {"key": "tier", "operator": "NotIn", "values": ["back"]},
                {"key": "app", "operator": "Exists"},
                {"key": "canary", "operator": "DoesNotExist"},
            ],
        }
    )
    assert selector.matches(WEB)
    assert str(selector) == "app=web,app,!canary,tier in (back,front),tier!=back"
    for key, value in {"app": "db", "tier": "back", "canary": ""}.items():
        assert not selector.matches(WEB | {key: value})
    assert not selector.matches(None)


@pytest.mark.parametrize(
    ("expression", "problem"),
    [
        ({"key": "app", "operator": "in", "values": ["a"]}, "'in' is not an operator"),
        ({"key": "app", "operator": "Gt", "values": ["1"]}, "'Gt' is not an operator"),
        ({"key": "app"}, "None is not an operator"),
        ({"key": "app", "operator": "In"}, "needs at least one value"),
        ({"key": "app", "operator": "NotIn", "values": []}, "needs at least one value"),
        ({"key": "app", "operator": "Exists", "values": ["a"]}, "takes no values"),
        ({"key": "a b", "operator": "Exists"}, "label key 'a b'"),
        ({"key": "app", "operator": "In", "values": ["a b"]}, "value 'a b'"),
    ],
)
def test_a_wrong_expression_is_refused(expression: dict[str, Any], problem: str) -> None:
    with pytest.raises(ValueError, match=r"not an operator|value|label key") as refusal:
        selectors.label_selector({"matchExpressions": [expression]})
    assert problem in str(refusal.value)


def test_plain_labels_make_a_selector_too() -> None:
    assert selectors.from_labels({"app": "web"}).matches(WEB)
    assert not selectors.from_labels({"app": "web", "missing": ""}).matches(WEB)
    assert selectors.from_labels(None).empty


def test_requirements_are_data_to_compile() -> None:
    term = selectors.node_selector_term(
        {
            "matchExpressions": [{"key": "zone", "operator": "In", "values": ["a", "b"]}],
            "matchFields": [{"key": "metadata.name", "operator": "NotIn", "values": ["node-1"]}],
        }
    )
    assert term.expressions == (selectors.Requirement("zone", "In", ("a", "b")),)
    assert term.fields == (selectors.Requirement("metadata.name", "NotIn", ("node-1",)),)


@pytest.mark.parametrize(
    ("operator", "values", "label", "matches"),
    [
        ("In", ["a", "b"], "b", True),
        ("In", ["a", "b"], None, False),
        ("NotIn", ["a"], "b", True),
        ("NotIn", ["a"], None, True),
        ("Exists", None, "", True),
        ("Exists", None, None, False),
        ("DoesNotExist", None, None, True),
        ("DoesNotExist", None, "", False),
        ("Gt", ["5"], "6", True),
        ("Gt", ["5"], "5", False),
        ("Gt", ["5"], "six", False),
        ("Gt", ["5"], "1_0", False),
        ("Gt", ["5"], "9223372036854775808", False),
        ("Gt", ["5"], None, False),
        ("Lt", ["5"], "-6", True),
        ("Lt", ["5"], "5", False),
    ],
)
def test_node_selector_operators(
    operator: str, values: list[str] | None, label: str | None, matches: bool
) -> None:
    expression = {"key": "gpus", "operator": operator, "values": values}
    term = selectors.node_selector_term({"matchExpressions": [expression]})
    labels = {} if label is None else {"gpus": label}
    assert term.matches(labels, {"metadata.name": "node-1"}) is matches


def test_a_node_is_matched_by_its_name() -> None:
    def by_name(operator: str) -> selectors.NodeSelectorTerm:
        field = {"key": "metadata.name", "operator": operator, "values": ["node-1"]}
        return selectors.node_selector_term({"matchFields": [field]})

    assert by_name("In").matches({}, {"metadata.name": "node-1"})
    assert not by_name("In").matches({}, {"metadata.name": "node-2"})
    assert by_name("NotIn").matches({}, {"metadata.name": "node-2"})
    assert not by_name("NotIn").matches({}, {"metadata.name": "node-1"})


@pytest.mark.parametrize(
    "field",
    [
        {"key": "metadata.name", "operator": "Exists"},
        {"key": "metadata.name", "operator": "In", "values": ["a", "b"]},
        {"key": "metadata.name", "operator": "In"},
    ],
)
def test_a_wrong_field_of_a_term_is_refused(field: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=r"matchFields 'metadata\.name'"):
        selectors.node_selector_term({"matchFields": [field]})


def test_terms_are_alternatives_and_a_bad_one_spoils_only_itself() -> None:
    def term(value: str) -> dict[str, Any]:
        return {"matchExpressions": [{"key": "zone", "operator": "In", "values": [value]}]}

    selector = selectors.node_selector({"nodeSelectorTerms": [{}, term("_"), term("a"), term("b")]})
    assert selector.matches({"zone": "b"}, {})
    assert not selector.matches({"zone": "c"}, {})
    assert not selector.matches({"zone": "_"}, {})
    assert len(selector.errors) == 1
    assert "'_'" in selector.errors[0]


def test_a_term_or_selector_without_requirements_matches_no_node() -> None:
    assert not selectors.node_selector_term({}).matches(WEB, {"metadata.name": "node-1"})
    assert not selectors.node_selector({"nodeSelectorTerms": []}).matches(WEB, {})


@pytest.mark.parametrize(
    ("text", "fields", "selected"),
    [
        ("", {}, True),
        ("metadata.name=a", {"metadata.name": "a"}, True),
        ("metadata.name==a", {"metadata.name": "b"}, False),
        ("spec.nodeName!=", {"spec.nodeName": "n"}, True),
        ("spec.nodeName!=", {}, False),
        ("spec.nodeName=", {}, True),
        ("metadata.name=a,,status.phase!=Failed", {"metadata.name": "a"}, True),
        (r"metadata.name=a\,b\=c\\d", {"metadata.name": "a,b=c\\d"}, True),
    ],
)
def test_field_selectors(text: str, fields: dict[str, str], selected: bool) -> None:
    selector = selectors.parse_fields(text)
    assert selector.matches(fields) is selected
    assert selectors.parse_fields(str(selector)) == selector


@pytest.mark.parametrize("text", ["metadata.name", "=a", "a=b=c", r"a=b\c", "a=b\\"])
def test_what_is_no_field_selector_is_refused_by_its_text(text: str) -> None:
    with pytest.raises(ValueError, match="field selector") as refusal:
        selectors.parse_fields(text)
    assert repr(text) in str(refusal.value)


def _taint(effect: str = "NoSchedule", **fields: str) -> dict[str, str]:
    return {"key": "gpu", "effect": effect, **fields}


@pytest.mark.parametrize(
    ("toleration", "taint", "tolerated"),
    [
        ({"operator": "Exists"}, _taint(), True),
        ({"operator": "Exists", "effect": "NoExecute"}, _taint(), False),
        ({"key": "gpu", "operator": "Exists"}, _taint(value="yes"), True),
        ({"key": "cpu", "operator": "Exists"}, _taint(), False),
        ({"key": "gpu", "operator": "Equal", "value": "yes"}, _taint(value="yes"), True),
        ({"key": "gpu", "value": "yes"}, _taint(value="yes"), True),
        ({"key": "gpu", "value": "yes"}, _taint(value="no"), False),
        ({"key": "gpu", "value": "yes"}, _taint(), False),
        ({"key": "gpu"}, _taint(), True),
        ({"key": "gpu", "value": ""}, _taint(), True),
        ({"key": "gpu", "effect": ""}, _taint("NoExecute"), True),
        ({"key": "gpu", "operator": "Gt", "value": "1"}, _taint(value="2"), False),
    ],
)
def test_tolerations(toleration: dict[str, str], taint: dict[str, str], tolerated: bool) -> None:
    assert selectors.toleration_tolerates(toleration, taint) is tolerated


def test_the_first_untolerated_taint_of_the_effects_asked_for_is_found() -> None:
    taints = [_taint("PreferNoSchedule"), _taint(), _taint("NoExecute", key="maintenance")]
    untolerated = selectors.untolerated_taint
    assert untolerated(taints, []) == taints[1]
    assert untolerated(taints, [{"key": "gpu", "operator": "Exists"}]) == taints[2]
    assert untolerated(taints, [{"operator": "Exists"}]) is None
    assert untolerated(taints, [], ["PreferNoSchedule"]) == taints[0]
