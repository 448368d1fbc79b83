"""What users do with each component, on `whipstaff up` and, with `--runtime kind`, on kind."""

from __future__ import annotations

import json
import uuid
from collections.abc import Iterator
from typing import Any

import pytest

from e2e import clusters, runtimes

pytestmark = [pytest.mark.cluster, pytest.mark.timeout(900)]  # kind's cluster and the chart in it


@pytest.fixture
def namespace(runtime: runtimes.Runtime) -> Iterator[str]:
    name = f"journey-{uuid.uuid4().hex[:8]}"
    runtime.kubectl("create", "namespace", name)
    account = ("get", "serviceaccount", "default", "-n", name, "--ignore-not-found", "-o", "name")
    clusters.eventually(
        lambda: bool(runtime.kubectl(*account)), seconds=30, text="the service account"
    )
    yield name
    runtime.kubectl("delete", "namespace", name)


class Namespace:
    """kubectl in one namespace."""

    def __init__(self, runtime: runtimes.Runtime, name: str) -> None:
        self.runtime = runtime
        self.name = name

    def kubectl(self, *arguments: str, stdin: str | None = None) -> str:
        return self.runtime.kubectl("-n", self.name, *arguments, stdin=stdin)

    def get(self, *arguments: str) -> Any:
        return json.loads(self.kubectl("get", *arguments, "-o", "json"))

    def create_pod(self, name: str, requests: dict[str, str] | None = None, **spec: Any) -> None:
        container = {
            "name": "app",
            "image": self.runtime.image,
            "resources": {"requests": requests or {}},
        }
        pod = {
            "apiVersion": "v1",
            "kind": "Pod",
            "metadata": {"name": name, "namespace": self.name},
            "spec": {"containers": [container], "terminationGracePeriodSeconds": 1, **spec},
        }
        self.kubectl("create", "-f", "-", stdin=json.dumps(pod))

    def wait_running(self, name: str) -> dict[str, Any]:
        self.kubectl("wait", f"pod/{name}", "--for=condition=Ready", "--timeout=120s")
        return dict(self.get("pod", name))

    def said(self, reason: str, about: str) -> list[dict[str, Any]]:
        """Events of this reason about a pod."""
        found = self.get("events.v1.events.k8s.io", "--field-selector", f"reason={reason}")
        return [each for each in found["items"] if each["regarding"].get("name") == about]


@pytest.fixture
def there(runtime: runtimes.Runtime, namespace: str) -> Namespace:
    return Namespace(runtime, namespace)


def test_pods_are_placed_by_the_scheduler_that_they_name_and_others_by_the_stock_one(
    there: Namespace,
) -> None:
    there.create_pod("ours", schedulerName=runtimes.SCHEDULER)
    there.create_pod("theirs")
    assert there.wait_running("ours")["spec"]["nodeName"]
    assert there.wait_running("theirs")["spec"]["nodeName"]
    for name, scheduler in (("ours", runtimes.SCHEDULER), ("theirs", "default-scheduler")):
        clusters.eventually(
            lambda name=name: bool(there.said("Scheduled", name)), seconds=30, text="an event"
        )
        (event,) = there.said("Scheduled", name)
        assert event["reportingController"] == scheduler


def test_a_pod_that_fits_nowhere_is_told_why(there: Namespace) -> None:
    there.create_pod("huge", {"cpu": "100000"}, schedulerName=runtimes.SCHEDULER)
    clusters.eventually(
        lambda: bool(there.said("FailedScheduling", "huge")), seconds=30, text="the reason"
    )
    assert "Insufficient cpu" in there.said("FailedScheduling", "huge")[0]["note"]


def test_a_pod_with_a_gate_waits_until_the_gate_is_taken_away(there: Namespace) -> None:
    there.create_pod(
        "gated", schedulerName=runtimes.SCHEDULER, schedulingGates=[{"name": "example.com/wait"}]
    )
    there.create_pod("later", schedulerName=runtimes.SCHEDULER)
    there.wait_running("later")
    assert "nodeName" not in there.get("pod", "gated")["spec"]
    ungated = json.dumps([{"op": "remove", "path": "/spec/schedulingGates"}])
    there.kubectl("patch", "pod", "gated", "--type=json", "--patch", ungated)
    there.wait_running("gated")


def test_a_deployment_rolls_and_is_rolled_back(there: Namespace) -> None:
    image = there.runtime.image
    there.kubectl("create", "deployment", "web", f"--image={image}", "--replicas=3")
    there.kubectl("rollout", "status", "deployment/web", "--timeout=120s")
    there.kubectl("set", "env", "deployment/web", "COLOUR=blue")
    there.kubectl("rollout", "status", "deployment/web", "--timeout=120s")
    colours = [
        pod["spec"]["containers"][0].get("env")
        for pod in there.get("pods", "-l", "app=web")["items"]
        if "deletionTimestamp" not in pod["metadata"]
    ]
    assert colours == [[{"name": "COLOUR", "value": "blue"}]] * 3
    assert len(there.get("replicasets", "-l", "app=web")["items"]) == 2

    there.kubectl("rollout", "undo", "deployment/web")
    there.kubectl("rollout", "status", "deployment/web", "--timeout=120s")
    web = there.get("deployment", "web")
    assert web["metadata"]["annotations"]["deployment.kubernetes.io/revision"] == "3"
    assert "env" not in web["spec"]["template"]["spec"]["containers"][0]
    assert len(there.get("replicasets", "-l", "app=web")["items"]) == 2


def test_a_deleted_pod_of_a_deployment_is_replaced(there: Namespace) -> None:
    there.kubectl("create", "deployment", "web", f"--image={there.runtime.image}", "--replicas=2")
    there.kubectl("rollout", "status", "deployment/web", "--timeout=120s")
    before = {pod["metadata"]["uid"] for pod in there.get("pods", "-l", "app=web")["items"]}
    there.kubectl("delete", "pods", "-l", "app=web")
    there.kubectl("rollout", "status", "deployment/web", "--timeout=120s")
    after = {
        pod["metadata"]["uid"]
        for pod in there.get("pods", "-l", "app=web")["items"]
        if "deletionTimestamp" not in pod["metadata"]
    }
    assert len(after) == 2
    assert not before & after


def test_a_pod_runs_on_a_node_of_the_node_agent_and_leaves_it(there: Namespace) -> None:
    there.create_pod("app", **there.runtime.on_our_nodes)
    pod = there.wait_running("app")
    node = there.get("node", pod["spec"]["nodeName"])
    assert node["status"]["nodeInfo"]["kubeletVersion"].endswith("-whipstaff")
    assert pod["status"]["podIP"]
    there.kubectl("delete", "pod", "app", "--timeout=60s")
    assert there.kubectl("get", "pod", "app", "--ignore-not-found") == ""
