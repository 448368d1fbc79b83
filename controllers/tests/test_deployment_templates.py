"""When two pod templates are the same, and the hash and name that a ReplicaSet gets of one."""

import copy
import json
import re
import string
import subprocess
import sys
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from whipstaff.controllers.deployment import templates

Object = dict[str, Any]

HASH = templates.HASH_LABEL


def template(
    name: str = "foo", node: str = "node", annotations: Object | None = None, **labels: str
) -> Object:
    labels = {key.replace("hash_", HASH): value for key, value in labels.items()}
    return {
        "metadata": {"name": name, "annotations": annotations or {}, "labels": labels},
        "spec": {"nodeName": node},
    }


def pod(**spec: Any) -> Object:
    container = {"name": "main", "image": "web:1", **spec.pop("container", {})}
    return {"metadata": {"labels": {"app": "web"}}, "spec": {"containers": [container], **spec}}


def with_requests(**requests: Any) -> Object:
    return pod(container={"resources": {"requests": requests}})


@pytest.mark.parametrize(
    ("one", "other", "expected"),
    [
        (template(hash_="1", some="thing"), template(hash_="1", some="thing"), True),
        (template(hash_="1", some="thing"), template(hash_="2", some="thing"), True),
        (template(some="thing"), template(hash_="2", some="thing"), True),
        (template(some="thing"), template(hash_="2"), False),
        (template(hash_="1"), template(some="thing"), False),
        (template(hash_="1"), template(hash_="1", some="thing"), False),
        (
            template(annotations={"former": "value"}, hash_="1", some="thing"),
            template(annotations={"latter": "value"}, hash_="1", some="thing"),
            False,
        ),
        (template("foo-1", hash_="1"), template("foo-2", hash_="2"), False),
        (template(node="1", some="thing"), template(node="2", hash_="2", some="thing"), False),
        (template(some="thing"), template(no="thing"), False),
    ],
    ids=[
        "the same",
        "only the hashes differ",
        "only one has a hash",
        "a label against a hash",
        "a hash against a label",
        "a label more",
        "another annotation",
        "another name and hash",
        "another spec, only one has a hash",
        "other labels",
    ],
)
def test_templates_are_the_same_whatever_their_hash(
    one: Object, other: Object, *, expected: bool
) -> None:
    before = copy.deepcopy((one, other))
    assert templates.are_equal(one, other) == expected
    assert templates.are_equal(other, one) == expected
    assert (one, other) == before


@pytest.mark.parametrize(
    ("one", "other"),
    [
        (with_requests(memory="1Gi"), with_requests(memory="1073741824")),
        (with_requests(memory="1Gi"), with_requests(memory="1024Mi")),
        (with_requests(cpu="1"), with_requests(cpu="1000m")),
        (with_requests(cpu="0.5"), with_requests(cpu="500m")),
        (with_requests(cpu=1), with_requests(cpu="1")),
        (pod(container={"resources": {}}), pod()),
        (pod(container={"resources": {"limits": {}}}), pod()),
        (pod(container={"env": [], "args": []}), pod()),
        (pod(nodeSelector={}, tolerations=[]), pod()),
        (pod(overhead={"cpu": "250m"}), pod(overhead={"cpu": "0.25"})),
        (
            pod(volumes=[{"name": "v", "emptyDir": {"sizeLimit": "1Gi"}}]),
            pod(volumes=[{"name": "v", "emptyDir": {"sizeLimit": "1024Mi"}}]),
        ),
        (
            {**pod(), "metadata": {"labels": {"app": "web"}, "creationTimestamp": None}},
            pod(),
        ),
    ],
)
def test_what_the_api_server_takes_for_the_same_is_the_same(one: Object, other: Object) -> None:
    assert templates.are_equal(one, other)
    assert templates.compute_hash(one, None) == templates.compute_hash(other, None)


@pytest.mark.parametrize(
    ("one", "other"),
    [
        (with_requests(memory="1Gi"), with_requests(memory="1G")),
        (with_requests(cpu="1"), with_requests(cpu="1001m")),
        (pod(securityContext={}), pod()),
        (
            pod(volumes=[{"name": "v", "emptyDir": {}}]),
            pod(volumes=[{"name": "v"}]),
        ),
        (
            pod(volumes=[{"name": "v", "emptyDir": {"sizeLimit": "0"}}]),
            pod(volumes=[{"name": "v", "emptyDir": {}}]),
        ),
        (pod(container={"args": ["a", "b"]}), pod(container={"args": ["b", "a"]})),
        (pod(container={"args": [""]}), pod(container={"args": []})),
        (pod(terminationGracePeriodSeconds=0), pod()),
        (
            pod(container={"ports": [{"containerPort": 80}]}),
            pod(container={"ports": [{"containerPort": 81}]}),
        ),
    ],
)
def test_what_makes_other_pods_is_another_template(one: Object, other: Object) -> None:
    assert not templates.are_equal(one, other)
    assert templates.compute_hash(one, None) != templates.compute_hash(other, None)


@pytest.mark.parametrize("key", ["sizeLimit", "divisor", "limits", "requests", "metadata"])
@pytest.mark.parametrize("place", ["labels", "annotations"])
def test_a_label_or_annotation_is_a_text_whatever_its_name(place: str, key: str) -> None:
    one, other = pod(), pod()
    one["metadata"][place] = {key: "1Gi"}
    other["metadata"][place] = {key: "1024Mi"}
    assert not templates.are_equal(one, other)
    one, other = pod(nodeSelector={key: "1"}), pod(nodeSelector={key: "1.0"})
    assert not templates.are_equal(one, other)


def test_a_hash_is_the_same_in_every_process() -> None:
    made = pod(container={"resources": {"limits": {"cpu": "1"}}}, nodeSelector={"a": "b"})
    program = (
        "import json, sys; from whipstaff.controllers.deployment import templates;"
        "print(templates.compute_hash(json.load(sys.stdin), 3))"
    )
    ran = subprocess.run(
        [sys.executable, "-c", program],
        input=json.dumps(made),
        capture_output=True,
        text=True,
        check=True,
    )
    assert ran.stdout.strip() == templates.compute_hash(made, 3)


def test_the_order_of_fields_and_a_hash_label_change_no_hash() -> None:
    made = pod(nodeSelector={"a": "b", "c": "d"})
    turned = json.loads(json.dumps(made, sort_keys=True))
    turned["spec"] = dict(reversed(turned["spec"].items()))
    assert templates.compute_hash(turned, None) == templates.compute_hash(made, None)
    labelled = templates.with_hash(made, "abc")
    assert templates.compute_hash(labelled, None) == templates.compute_hash(made, None)


def test_each_collision_makes_another_hash() -> None:
    counts = [None, *range(50)]
    assert len({templates.compute_hash(pod(), count) for count in counts}) == len(counts)


@given(st.dictionaries(st.text(max_size=8), st.text(max_size=8), max_size=4), st.integers(0, 9))
def test_a_hash_is_a_valid_label_and_the_end_of_a_name(labels: Object, collisions: int) -> None:
    made = {"metadata": {"labels": labels}, "spec": {}}
    found = templates.compute_hash(made, collisions)
    assert re.fullmatch(r"[bcdfghjklmnpqrstvwxz2456789]{1,10}", found)
    assert templates.replicaset_name("web", found) == f"web-{found}"


@pytest.mark.parametrize(
    ("deployment", "expected"),
    [
        ("my-deployment", "my-deployment-abcde12345"),
        ("a" * 242, "a" * 242 + "-abcde12345"),
        ("b" * 250, "b" * 242 + "-abcde12345"),
        ("c" * 253, "c" * 242 + "-abcde12345"),
    ],
    ids=["short", "just fits", "too long", "as long as can be"],
)
def test_a_name_that_is_too_long_is_cut_and_keeps_its_hash(deployment: str, expected: str) -> None:
    assert templates.replicaset_name(deployment, "abcde12345") == expected
    assert len(expected) <= 253


@given(
    st.text(string.ascii_lowercase, min_size=1, max_size=253),
    st.text(string.ascii_lowercase, min_size=1, max_size=10),
)
def test_no_name_is_longer_than_a_name_may_be(deployment: str, template_hash: str) -> None:
    found = templates.replicaset_name(deployment, template_hash)
    assert len(found) <= 253
    assert found.endswith(f"-{template_hash}")
    assert deployment.startswith(found.removesuffix(f"-{template_hash}"))


def test_the_hash_comes_and_goes_as_a_label_and_nothing_else_changes() -> None:
    made = pod()
    before = copy.deepcopy(made)
    labelled = templates.with_hash(made, "abc")
    assert labelled["metadata"]["labels"] == {"app": "web", HASH: "abc"}
    assert labelled["spec"] == made["spec"]
    assert templates.with_hash(labelled, "def")["metadata"]["labels"][HASH] == "def"
    assert templates.without_hash(labelled) == before
    assert labelled["metadata"]["labels"][HASH] == "abc"
    assert made == before


def test_a_template_without_labels_gets_and_loses_a_hash() -> None:
    for bare in ({}, {"metadata": None}, {"metadata": {"labels": None}}):
        labelled = templates.with_hash(bare, "abc")
        assert labelled["metadata"]["labels"] == {HASH: "abc"}
        assert templates.are_equal(labelled, bare)
        assert templates.are_equal(templates.without_hash(labelled), bare)
