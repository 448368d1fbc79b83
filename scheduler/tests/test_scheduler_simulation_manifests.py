"""What a simulation reads: files, what is wrong in them, and the pods that come of workloads."""

import io
import json
import pathlib
import sys
from typing import Any

import pytest
import yaml

from whipstaff.runtime import errors
from whipstaff.scheduler import offline, profile, simulation, testing
from whipstaff.scheduler.simulation import admission, documents, expansion, shapes

Object = dict[str, Any]


def workload(kind: str, name: str = "web", api_version: str = "apps/v1", **spec: Any) -> Object:
    labels = {"app": name}
    return {
        "apiVersion": api_version,
        "kind": kind,
        "metadata": {"name": name, "namespace": "default"},
        "spec": {
            "selector": {"matchLabels": labels},
            "template": {
                "metadata": {"labels": labels},
                "spec": {"containers": [testing.container({"cpu": "1"})]},
            },
            **spec,
        },
    }


def expanded(obj: Object, *nodes: Object) -> expansion.Expanded:
    there = offline.Offline(nodes, {"default-scheduler": profile.default_profile("x")})
    return expansion.expand(documents.Document(obj, "test"), there.cluster)


def names(found: expansion.Expanded) -> list[str]:
    return [pod["metadata"]["name"] for pod in found.pods]


# Files


def test_json_yaml_lists_folders_and_standard_input_are_read(
    tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    listed = {"apiVersion": "v1", "kind": "List", "items": [testing.node("a"), testing.pod("p")]}
    (tmp_path / "1.json").write_text(json.dumps(listed))
    (tmp_path / "2.yaml").write_text(yaml.safe_dump_all([testing.node("b"), testing.node("c")]))
    (tmp_path / "notes.txt").write_text("not read")
    typed = {"apiVersion": "v1", "kind": "NodeList", "items": [{"metadata": {"name": "d"}}]}
    given = io.TextIOWrapper(io.BytesIO(json.dumps(typed).encode()))
    monkeypatch.setattr(sys, "stdin", given)
    found = documents.read([tmp_path, "-"])
    assert [each.name for each in found] == [
        "Node a",
        "Pod default/p",
        "Node b",
        "Node c",
        "Node d",
    ]
    assert [pathlib.Path(each.origin).name for each in found] == [
        "1.json: items[0]",
        "1.json: items[1]",
        "2.yaml: document 1",
        "2.yaml: document 2",
        "standard input: items[0]",
    ]


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("a: [", "line 2, column 1"),
        ('{"kind": "Pod"', "line 1, column 15"),
        ("a: 1\na: 2\n", "line 2, column 1: the field 'a' is given twice"),
        ("apiVersion: v1\nmetadata: {}\n", "kind: is required"),
        ("kind: Pod\nmetadata: {}\n", "apiVersion: is required"),
        ("apiVersion: v1\nkind: Pod\n", "Pod: metadata: is required"),
        ("- 1\n", "expected an object, found a list"),
        ("{apiVersion: v1, kind: List, items: 3}", "items: expected a list"),
    ],
)
def test_what_is_no_object_is_refused_with_its_place(
    tmp_path: pathlib.Path, text: str, problem: str
) -> None:
    path = tmp_path / "bad.yaml"
    path.write_text(text)
    with pytest.raises(errors.ConfigurationError) as raised:
        documents.read([path])
    assert str(raised.value).startswith(f"{path}: ")
    assert problem in str(raised.value)


def test_files_that_arent_there_are_told(tmp_path: pathlib.Path) -> None:
    with pytest.raises(errors.ConfigurationError, match=r"none.yaml: No such file"):
        documents.read([tmp_path / "none.yaml"])
    with pytest.raises(errors.ConfigurationError, match=r"no .json, .yaml, .yml in this folder"):
        documents.read([tmp_path])


def test_a_dump_without_nodes_is_no_cluster(tmp_path: pathlib.Path) -> None:
    path = tmp_path / "pods.json"
    path.write_text(json.dumps(testing.pod("p")))
    with pytest.raises(errors.ConfigurationError, match=r"pods.json: no Node among 1 objects"):
        simulation.Cluster.load(path)


# Fields


def changed(obj: Object, path: list[Any], value: Any) -> Object:
    copy: Object = json.loads(json.dumps(obj))
    inside: Any = copy
    for step in path[:-1]:
        inside = inside[step]
    inside[path[-1]] = value
    return copy


@pytest.mark.parametrize(
    ("path", "value", "problem"),
    [
        (["metadata"], {}, "metadata.name: is required"),
        (["spec", "containers"], [], "spec.containers: is required"),
        (["spec", "containers"], {}, "spec.containers: expected a list, found a mapping"),
        (["spec", "containers", 0, "name"], None, "spec.containers[0].name: is required"),
        (
            ["spec", "containers", 0, "resources", "requests", "cpu"],
            "many",
            "spec.containers[0].resources.requests.cpu: 'many' is not a quantity",
        ),
        (
            ["spec", "containers", 0, "resources", "requests", "cpu"],
            "-1",
            "spec.containers[0].resources.requests.cpu: must not be negative",
        ),
        (["spec", "nodeSelector"], {"a/b": 1}, "spec.nodeSelector[a/b]: expected a text, found 1"),
        (["spec", "priority"], True, "spec.priority: expected a number, found True"),
        (["spec", "tolerations"], ["x"], "spec.tolerations[0]: expected a mapping, found 'x'"),
        (
            ["spec", "topologySpreadConstraints"],
            [{"maxSkew": 1}],
            "spec.topologySpreadConstraints[0].topologyKey: is required",
        ),
    ],
)
def test_a_field_that_cant_be_used_is_named(path: list[Any], value: Any, problem: str) -> None:
    pod = changed(testing.pod("p", {"cpu": "1"}), path, value)
    assert any(text.startswith(problem) for text in shapes.problems(pod)), list(
        shapes.problems(pod)
    )


def test_the_file_the_document_and_the_field_are_named(tmp_path: pathlib.Path) -> None:
    path = tmp_path / "web.yaml"
    bad = changed(workload("Deployment"), ["spec", "template", "spec", "containers"], [])
    path.write_text(yaml.safe_dump_all([workload("Deployment", "fine"), bad]))
    cluster = simulation.Cluster([testing.node("a")])
    with pytest.raises(errors.ConfigurationError) as raised:
        simulation.place(cluster, path)
    assert str(raised.value) == (
        f"{path}: document 2: Deployment default/web: spec.template.spec.containers: is required"
    )


def test_an_object_that_the_engine_cant_read_is_named_too(tmp_path: pathlib.Path) -> None:
    path = tmp_path / "volume.yaml"
    bad = {
        "apiVersion": "v1",
        "kind": "PersistentVolume",
        "metadata": {"name": "v"},
        "spec": {"capacity": 3},
    }
    path.write_text(yaml.safe_dump(bad))
    cluster = simulation.Cluster([testing.node("a")])
    with pytest.raises(errors.ConfigurationError, match=r"volume.yaml: PersistentVolume v: can't"):
        simulation.place(cluster, path)
    assert (
        simulation.place(simulation.Cluster([testing.node("a"), bad]), ())
        .notes[0]
        .startswith("PersistentVolume v is left out: can't be read")
    )


def test_generated_names_are_told_apart() -> None:
    pod = testing.pod("x")
    pod["metadata"] = {"generateName": "job-"}
    job = workload("Job", api_version="batch/v1", parallelism=1)
    job["metadata"] = {"generateName": "batch-"}
    placement = simulation.place(simulation.Cluster([testing.node("a")]), [pod, pod, job])
    assert [found.pod for found in placement.pods] == [
        "default/job-1",
        "default/job-2",
        "default/batch-1",
    ]


# Workloads


def test_a_deployments_pods_belong_to_a_replicaset() -> None:
    found = expanded(workload("Deployment", replicas=2))
    [replica_set] = found.others
    name = replica_set["metadata"]["name"]
    assert names(found) == [f"{name}-1", f"{name}-2"]
    metadata = found.pods[0]["metadata"]
    assert metadata["ownerReferences"][0]["kind"] == "ReplicaSet"
    assert metadata["ownerReferences"][0]["name"] == name
    selector = replica_set["spec"]["selector"]["matchLabels"]
    assert selector == metadata["labels"]
    assert set(selector) == {"app", "pod-template-hash"}


def test_a_statefulset_brings_its_claims() -> None:
    claim = {"metadata": {"name": "data"}, "spec": {"storageClassName": "fast"}}
    found = expanded(
        workload("StatefulSet", replicas=2, ordinals={"start": 3}, volumeClaimTemplates=[claim])
    )
    assert names(found) == ["web-3", "web-4"]
    assert found.pods[1]["spec"]["volumes"] == [
        {"name": "data", "persistentVolumeClaim": {"claimName": "data-web-4"}}
    ]
    claims = [each for each in found.others if each["kind"] == "PersistentVolumeClaim"]
    assert [each["metadata"]["name"] for each in claims] == ["data-web-3", "data-web-4"]


@pytest.mark.parametrize(
    ("spec", "count"),
    [
        ({}, 1),
        ({"parallelism": 3}, 3),
        ({"parallelism": 3, "completions": 2}, 2),
        ({"parallelism": 3, "suspend": True}, 0),
    ],
)
def test_a_job_has_as_many_pods_as_run_at_once(spec: Object, count: int) -> None:
    assert len(expanded(workload("Job", api_version="batch/v1", **spec)).pods) == count


def test_a_daemonset_has_a_pod_for_each_node_it_is_meant_for() -> None:
    tainted = testing.node("tainted", taints=[{"key": "x", "effect": "NoSchedule"}])
    cordoned = testing.node(
        "cordoned",
        unschedulable=True,
        taints=[{"key": "node.kubernetes.io/unschedulable", "effect": "NoSchedule"}],
    )
    other = testing.node("other", labels={"os": "other"})
    daemon_set = workload("DaemonSet")
    daemon_set["spec"]["template"]["spec"]["affinity"] = {
        "nodeAffinity": {
            "requiredDuringSchedulingIgnoredDuringExecution": {
                "nodeSelectorTerms": [
                    {"matchExpressions": [{"key": "os", "operator": "DoesNotExist"}]}
                ]
            }
        }
    }
    found = expanded(daemon_set, testing.node("a"), tainted, cordoned, other)
    assert names(found) == ["web-a", "web-cordoned"]


def test_daemonsets_pods_go_to_their_nodes() -> None:
    cluster = simulation.Cluster([testing.node("a"), testing.node("b"), testing.node("c", cpu="0")])
    placement = simulation.place(cluster, workload("DaemonSet"))
    assert [(found.pod, found.node) for found in placement.pods] == [
        ("default/web-a", "a"),
        ("default/web-b", "b"),
        ("default/web-c", ""),
    ]


def test_replicas_that_cant_be_are_refused() -> None:
    with pytest.raises(errors.ConfigurationError, match=r"spec.replicas: must not be negative"):
        expanded(workload("Deployment", replicas=-1))


# Admission


def admitted(pod: Object, *others: Object) -> Object:
    spec: Object = admission.Admission(others).admit(pod)["spec"]
    return spec


def cluster_wide(kind: str, name: str, **fields: Any) -> Object:
    return {"kind": kind, "metadata": {"name": name}, **fields}


def test_requests_come_from_limits_and_the_pod_is_left_as_it_is() -> None:
    pod = testing.pod("p")
    pod["spec"]["containers"] = [
        {
            "name": "c",
            "resources": {"limits": {"cpu": "2", "memory": "1Gi"}, "requests": {"cpu": "1"}},
        }
    ]
    before = json.dumps(pod)
    assert admitted(pod)["containers"][0]["resources"]["requests"] == {"cpu": "1", "memory": "1Gi"}
    assert json.dumps(pod) == before


def test_priority_comes_from_its_class() -> None:
    high = cluster_wide("PriorityClass", "high", value=7, preemptionPolicy="Never")
    usual = cluster_wide("PriorityClass", "usual", value=3, globalDefault=True)
    spec = admitted(testing.pod("p", priorityClassName="high"), high, usual)
    assert (spec["priority"], spec["preemptionPolicy"]) == (7, "Never")
    assert admitted(testing.pod("p"), high, usual)["priority"] == 3
    assert admitted(testing.pod("p"))["priority"] == 0
    critical = testing.pod("p", priorityClassName="system-node-critical")
    assert admitted(critical)["priority"] == 2_000_001_000
    with pytest.raises(ValueError, match=r"spec.priorityClassName: no PriorityClass is called low"):
        admitted(testing.pod("p", priorityClassName="low"), high)


def test_limit_ranges_runtime_classes_and_the_hosts_network_have_their_say() -> None:
    limits = {
        "kind": "LimitRange",
        "metadata": {"name": "l", "namespace": "default"},
        "spec": {
            "limits": [
                {
                    "type": "Container",
                    "default": {"cpu": "2", "memory": "1Gi"},
                    "defaultRequest": {"cpu": "1"},
                }
            ]
        },
    }
    kata = cluster_wide(
        "RuntimeClass",
        "kata",
        overhead={"podFixed": {"cpu": "250m"}},
        scheduling={"nodeSelector": {"kata": "yes"}},
    )
    pod = testing.pod("p", runtimeClassName="kata", hostNetwork=True)
    pod["spec"]["containers"][0]["ports"] = [{"containerPort": 80}]
    spec = admitted(pod, limits, kata)
    [container] = spec["containers"]
    assert container["resources"]["requests"] == {"cpu": "1", "memory": "1Gi"}
    assert container["ports"] == [{"containerPort": 80, "hostPort": 80}]
    assert spec["overhead"] == {"cpu": "250m"}
    assert spec["nodeSelector"] == {"kata": "yes"}


def test_every_pod_tolerates_what_the_api_server_makes_it_tolerate() -> None:
    keys = [each["key"] for each in admitted(testing.pod("p"))["tolerations"]]
    assert keys == ["node.kubernetes.io/not-ready", "node.kubernetes.io/unreachable"]
    everything = testing.pod("p", tolerations=[{"operator": "Exists"}])
    assert admitted(everything)["tolerations"] == [{"operator": "Exists"}]
