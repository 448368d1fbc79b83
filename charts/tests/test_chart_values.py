"""Values: each documented, each in the schema, and a wrong one refused by its name."""

import json
from collections.abc import Iterator
from typing import Any

import pytest
import yaml

from charts import readme
from charts.rendering import CHART, CI, Helm

SCHEMA = json.loads((CHART / "values.schema.json").read_text())


def objects_in(schema: Any, path: str = "") -> Iterator[tuple[str, dict[str, Any]]]:
    """Every schema of objects in a schema."""
    if isinstance(schema, dict):
        if schema.get("type") == "object":
            yield path, schema
        for key, value in schema.items():
            yield from objects_in(value, f"{path}/{key}")
    elif isinstance(schema, list):
        for index, value in enumerate(schema):
            yield from objects_in(value, f"{path}/{index}")


def resolved(schema: dict[str, Any]) -> dict[str, Any]:
    name = schema.get("$ref", "").rpartition("/")[2]
    found: dict[str, Any] = SCHEMA["$defs"][name] if name else schema
    return found


def test_the_readme_is_what_the_values_say() -> None:
    assert (CHART / "README.md").read_text() == readme.render()


def test_every_value_has_a_comment() -> None:
    found = list(readme.values((CHART / "values.yaml").read_text()))
    assert len(found) > 100
    with pytest.raises(ValueError, match=r"values.yaml:5: a.c has no comment"):
        list(readme.values("# Of a.\na:\n  # Of b.\n  b: 1\n  c: 2\n"))


def test_no_unknown_value_is_taken() -> None:
    # What Kubernetes or the scheduler checks itself, and Helm's own.
    free = {"valueFrom", "config", "global", "nodeAffinity", "podAffinity", "podAntiAffinity"}
    free |= {"podSelector", "namespaceSelector", "ipBlock"}
    for path, schema in objects_in(SCHEMA):
        if path.rpartition("/")[2] not in free:
            assert schema.get("additionalProperties") is not None, path
            assert schema["additionalProperties"] is not True, path


def test_the_schema_knows_the_values_and_no_others() -> None:
    def compare(values: Any, schema: dict[str, Any], path: str) -> None:
        schema = resolved(schema)
        if "properties" in schema and isinstance(values, dict) and schema["properties"]:
            known = set(schema["properties"]) - {"global"}
            if path.rpartition(".")[2] in {"affinity", "resources", "containerdResources"}:
                return
            assert known == set(values), path
            for key, value in values.items():
                compare(value, schema["properties"][key], f"{path}.{key}")

    compare(yaml.safe_load((CHART / "values.yaml").read_text()), SCHEMA, "")


@pytest.mark.parametrize(
    ("setting", "field", "says"),
    [
        ("bogus=1", "''", "'bogus' not allowed"),
        ("scheduler.replica=1", "/scheduler", "'replica' not allowed"),
        ("scheduler.replicas=many", "/scheduler/replicas", "got string, want integer"),
        ("scheduler.name=A_B", "/scheduler/name", "does not match pattern"),
        ("scheduler.logFormat=xml", "/scheduler/logFormat", "one of 'text', 'json'"),
        ("scheduler.extraArgs={verbose}", "/scheduler/extraArgs/0", "does not match"),
        ("scheduler.tolerations[0].kee=a", "/scheduler/tolerations/0", "'kee' not allowed"),
        ("scheduler.plugins.images[0].name=a", "/scheduler/plugins/images/0", "missing properties"),
        ("scheduler.image.digest=latest", "/scheduler/image/digest", "does not match"),
        ("controllers.names={job}", "/controllers/names/0", "one of 'deployment', 'replicaset'"),
        ("controllers.workload=DaemonSet", "/controllers/workload", "one of 'StatefulSet'"),
        ("nodeAgent.mode=real", "/nodeAgent/mode", "one of 'simulated', 'twin'"),
        ("nodeAgent.twin.port=99999", "/nodeAgent/twin/port", "maximum"),
        ("nodeAgent.simulated.capacity.cpu=lots", "/nodeAgent/simulated/capacity/cpu", "match"),
        ("nodeAgent.nodeTaints[0].effect=Never", "/nodeAgent/nodeTaints/0/effect", "one of"),
        ("nodeAgent.addressType=Hostname", "/nodeAgent/addressType", "one of 'ExternalIP'"),
        ("image.pullPolicy=Sometimes", "/image/pullPolicy", "one of 'Always'"),
        ("tests.timeoutSeconds=0", "/tests/timeoutSeconds", "minimum"),
    ],
)
def test_a_wrong_value_is_refused_by_its_name(
    helm: Helm, setting: str, field: str, says: str
) -> None:
    refusal = helm.refusal("--set", setting)
    assert f"at {field}" in refusal or f"at '{field}'" in refusal
    assert says in refusal


@pytest.mark.parametrize(
    ("settings", "says"),
    [
        ("scheduler.enabled=false", "scheduler.enabled, controllers.enabled, nodeAgent.enabled"),
        (
            "scheduler.leaderElection.renewDeadlineSeconds=60",
            "scheduler.leaderElection: leaseDurationSeconds must be more than",
        ),
        (
            "controllers.enabled=true,controllers.leaderElection.retryPeriodSeconds=60",
            "controllers.leaderElection: leaseDurationSeconds must be more than",
        ),
        (
            "scheduler.serviceAccount.create=false",
            "scheduler.serviceAccount.name: needed where serviceAccount.create is false",
        ),
    ],
)
def test_values_that_dont_go_together_are_refused(helm: Helm, settings: str, says: str) -> None:
    assert says in helm.refusal("--set", settings)


def test_an_old_cluster_is_refused(helm: Helm) -> None:
    said = helm.refusal("--kube-version", "1.30.0")
    assert "requires kubeVersion: >=1.33.0-0 which is incompatible with Kubernetes v1.30.0" in said
    for version in ("1.33.0", "1.34.1-gke.100", "1.36.3"):
        helm.render("--kube-version", version)


def test_values_for_ci_are_where_chart_testing_looks() -> None:
    assert len(CI) >= 5
    assert all(path.parent.name == "ci" for path in CI)
