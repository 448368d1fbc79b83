"""What a pod may be told about itself, to the letter of what the kubelet would tell it."""

from __future__ import annotations

from typing import Any

import node_agent_builders as make
import pytest

from whipstaff.node_agent import quoting
from whipstaff.node_agent.environment import field_references

ALLOCATABLE = {"cpu": 3900, "memory": 8 << 30, "ephemeral-storage": 100 << 30}
POD = make.pod(
    labels={"app": "web", "a.b/c": "x y"},
    annotations={"note": 'say "hi"\n\tand 50\u20ac\x01', "Upper": "1"},
    serviceAccountName="robot",
)


def field(path: str, **more: Any) -> str:
    ips = {"pod_ips": ["10.0.0.7", "fd00::7"], "host_ips": ["192.168.0.1", "fd01::1"]}
    return field_references.field(POD, path, **(ips | more))


@pytest.mark.parametrize(
    ("path", "value"),
    [
        ("metadata.name", "web"),
        ("metadata.namespace", "shop"),
        ("metadata.uid", "uid-web"),
        ("metadata.labels['app']", "web"),
        ("metadata.labels['a.b/c']", "x y"),
        ("metadata.labels['none']", ""),
        ("metadata.annotations['Upper']", "1"),
        ("metadata.labels", 'a.b/c="x y"\napp="web"'),
        ("metadata.annotations", 'Upper="1"\nnote="say \\"hi\\"\\n\\tand 50\u20ac\\x01"'),
        ("spec.nodeName", "node-0"),
        ("spec.host", "node-0"),
        ("spec.serviceAccountName", "robot"),
        ("status.podIP", "10.0.0.7"),
        ("status.podIPs", "10.0.0.7,fd00::7"),
        ("status.hostIP", "192.168.0.1"),
        ("status.hostIPs", "192.168.0.1,fd01::1"),
    ],
)
def test_a_field_has_its_value(path: str, value: str) -> None:
    assert field(path) == value


@pytest.mark.parametrize(
    ("path", "text"),
    [
        ("spec.containers", "field label not supported: spec.containers"),
        ("status.phase", "unsupported fieldPath: status.phase"),
        ("spec.restartPolicy", "unsupported fieldPath: spec.restartPolicy"),
        ("spec.x['y']", "field label does not support subscript: spec.x['y']"),
        ("metadata.labels['']", "invalid key subscript in metadata.labels['']: "),
        ("metadata.annotations['a b']", "invalid key subscript in metadata.annotations['a b']: "),
    ],
)
def test_a_field_that_there_is_not_is_named(path: str, text: str) -> None:
    with pytest.raises(field_references.UnknownError) as caught:
        field(path)
    assert str(caught.value).startswith(text)


def test_an_unknown_version_is_named() -> None:
    with pytest.raises(field_references.UnknownError, match="unsupported pod version: v2"):
        field("metadata.name", api_version="v2")


def test_volumes_know_metadata_only() -> None:
    assert field_references.metadata(POD, "metadata.labels['app']") == "web"
    with pytest.raises(field_references.UnknownError, match=r"unsupported .*: spec\.nodeName"):
        field_references.metadata(POD, "spec.nodeName")


def resource(name: str, *, pod_level: Any = None, volume: bool = False, **more: Any) -> str:
    resources = {
        "requests": {"cpu": "250m", "memory": "64Mi", "hugepages-2Mi": "4Mi"},
        "limits": {"memory": "100M"},
    }
    app = make.container("app", resources=resources)
    init = make.container("setup", resources={"limits": {"cpu": "1500m"}})
    spec: dict[str, Any] = {"containers": [app], "initContainers": [init]}
    if pod_level is not None:
        spec["resources"] = pod_level
    reference = {"resource": name, **more}
    asking = None if volume else app
    return field_references.resource(make.pod(**spec), asking, reference, ALLOCATABLE)


@pytest.mark.parametrize(
    ("name", "divisor", "value"),
    [
        ("requests.cpu", None, "1"),
        ("requests.cpu", "0", "1"),
        ("requests.cpu", "1m", "250"),
        ("requests.memory", None, str(64 << 20)),
        ("requests.memory", "1Mi", "64"),
        ("limits.memory", "1Mi", "96"),
        ("limits.cpu", None, "4"),
        ("limits.cpu", "1m", "3900"),
        ("limits.ephemeral-storage", "1Gi", "100"),
        ("requests.ephemeral-storage", None, "0"),
        ("requests.hugepages-2Mi", "1Mi", "4"),
        ("limits.hugepages-2Mi", None, "0"),
    ],
)
def test_an_amount_is_in_units_of_its_divisor(name: str, divisor: str | None, value: str) -> None:
    assert resource(name, **({"divisor": divisor} if divisor is not None else {})) == value


def test_limits_default_to_the_pods_own_in_variables_and_to_the_nodes_in_volumes() -> None:
    own = {"limits": {"cpu": "2"}}
    assert resource("limits.cpu", pod_level=own) == "2"
    assert resource("limits.cpu", pod_level=own, volume=True, containerName="app") == "4"


def test_init_containers_by_name_have_the_nodes_limits_in_volumes_only() -> None:
    assert resource("limits.cpu", containerName="setup", divisor="1m") == "1500"
    assert resource("limits.memory", containerName="setup") == "0"
    in_volume = resource("limits.memory", containerName="setup", volume=True, divisor="1Gi")
    assert in_volume == "8"


def test_what_there_is_not_is_named() -> None:
    with pytest.raises(field_references.UnknownError, match="container ghost not found"):
        resource("limits.cpu", containerName="ghost")
    text = "unsupported container resource : limits.gpu"
    with pytest.raises(field_references.UnknownError, match=text):
        resource("limits.gpu")


@pytest.mark.parametrize(
    ("text", "quoted"),
    [
        ("plain", '"plain"'),
        ("", '""'),
        ('a"b\\c', '"a\\"b\\\\c"'),
        ("\a\b\f\n\r\t\v\x00\x7f", '"\\a\\b\\f\\n\\r\\t\\v\\x00\\x7f"'),
        ("\u200b\u00a0é☃", '"\\u200b\\u00a0é☃"'),
        ("\U000e0001\U0001f600", '"\\U000e0001\U0001f600"'),
    ],
)
def test_texts_are_quoted_as_go_quotes_them(text: str, quoted: str) -> None:
    assert quoting.quote(text) == quoted
